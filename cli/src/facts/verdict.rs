//! Whether a handover is in order.

use super::{Fault, Hex};
use crate::survey::Survey;

/// What a check comes to.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct Verdict {
    /// The root page.
    pub(crate) fdt: Hex,
    /// How much was looked at.
    pub(crate) nodes: u64,
    pub(crate) folios: u64,
    pub(crate) subtrees: u64,
    /// Tables that a seal covers and that are as they were; none if there is no seal.
    pub(crate) sealed: Option<u64>,
    /// Whether what lies in scratch could be told.
    pub(crate) scratch_known: bool,
    pub(crate) findings: Vec<Fault>,
}

impl Verdict {
    /// What `survey` comes to.
    pub(crate) fn of(survey: &Survey<'_>) -> Self {
        Self {
            fdt: survey.at.into(),
            nodes: survey.counts.map_or(0, |counts| counts.nodes()),
            folios: survey.counts.map_or(0, |counts| counts.total()),
            subtrees: survey.subtrees().count() as u64,
            sealed: survey.header.and_then(|header| header.seal).map(|_| survey.sealed),
            scratch_known: survey.scratch.is_some(),
            findings: survey.findings.iter().map(Fault::from).collect(),
        }
    }
}
