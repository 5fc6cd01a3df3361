//! Whether a handover is in order.

use std::path::Path;

use heirloom_kho::linux::Opaque;

use super::basic::{Fault, Hex, Passed, VERSION, accepts};
use super::changed::{Changed, Layouts};
use super::foretold::{Foretold, Takes};
use super::kinds;
use crate::lent::Handovers;
use crate::next::Kernel;
use crate::survey::{Survey, Unread};

/// What a check comes to.
#[derive(Clone, Debug, serde::Serialize, schemars::JsonSchema)]
pub(crate) struct Verdict {
    /// Of the fields here.
    pub(crate) version: u32,
    #[serde(rename = "verdict")]
    pub(crate) in_order: InOrder,
    #[serde(flatten)]
    pub(crate) seen: Seen,
    /// What was seen of heirloom's handover within Linux's; `None` where Linux lends heirloom nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) lent: Option<Seen>,
    /// What the image declares and does not have.
    #[serde(flatten)]
    pub(crate) passed: Passed,
    pub(crate) findings: Vec<Fault>,
    /// What this program does not know, by name.
    pub(crate) not_looked_at: Vec<NotLookedAt>,
    /// What the next kernel will do with it, if one was named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) next: Option<Foretold>,
    /// What changed since another handover, and its version did not; none if none was named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) changed: Option<Vec<Changed>>,
    /// That other handover.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) against: Option<Against>,
}

/// The handover that another is compared with.
#[derive(Clone, Debug, serde::Serialize, schemars::JsonSchema)]
pub(crate) struct Against {
    /// The file it is in.
    pub(crate) image: String,
    /// What is wrong with it.
    pub(crate) findings: Vec<Fault>,
    #[serde(skip)]
    layouts: Layouts,
    /// The file of the one that is checked.
    #[serde(skip)]
    pub(crate) now: String,
}

impl Against {
    /// The handover in the image at `path` that `survey` went through, to compare the one at `now` with.
    pub(crate) fn of(survey: &Survey<'_>, path: &Path, now: &Path) -> Self {
        Self {
            image: path.display().to_string(),
            findings: survey.findings.iter().map(Fault::from).collect(),
            layouts: Layouts::of_survey(survey),
            now: now.display().to_string(),
        }
    }
}

/// What two tables come to.
#[derive(Clone, Debug, serde::Serialize, schemars::JsonSchema)]
pub(crate) struct Compared {
    /// Of the fields here.
    pub(crate) version: u32,
    /// Structures that both have.
    pub(crate) structures: usize,
    pub(crate) changed: Vec<Changed>,
}

impl Compared {
    /// What changed from one table to the next.
    pub(crate) fn of(before: &Layouts, now: &Layouts) -> Self {
        Self { version: VERSION, structures: now.shared(before), changed: now.changed(before) }
    }

    /// The exit status: 1 if a layout changed without its version, 3 if none could be compared.
    pub(crate) fn status(&self) -> u8 {
        match (self.changed.is_empty(), self.structures) {
            (false, _) => 1,
            (true, 0) => 3,
            (true, _) => 0,
        }
    }
}

/// What `check` prints.
#[derive(Clone, Debug, serde::Serialize, schemars::JsonSchema)]
#[serde(untagged)]
pub(crate) enum Checked {
    /// Of a handover.
    Handover(Box<Verdict>),
    /// Of two tables.
    Tables(Compared),
}

impl Checked {
    /// The exit status.
    pub(crate) fn status(&self) -> u8 {
        match self {
            Self::Handover(verdict) => verdict.status(),
            Self::Tables(compared) => compared.status(),
        }
    }
}

/// How much of a handover was looked at.
#[derive(Clone, Copy, Debug, serde::Serialize, schemars::JsonSchema)]
pub(crate) struct Seen {
    /// The root page.
    pub(crate) fdt: Hex,
    pub(crate) nodes: u64,
    pub(crate) folios: u64,
    pub(crate) subtrees: u64,
    /// Tables that a seal covers and that are as they were; none if there is no seal.
    pub(crate) sealed: Option<u64>,
    /// Whether what lies in scratch could be told.
    pub(crate) scratch_known: bool,
}

impl Seen {
    fn of(survey: &Survey<'_>) -> Self {
        Self {
            fdt: survey.at.into(),
            nodes: survey.counts.map_or(0, |counts| counts.nodes()),
            folios: survey.counts.map_or(0, |counts| counts.total()),
            subtrees: survey.subtrees().count() as u64,
            sealed: survey.header.and_then(|header| header.seal.info()).map(|_| survey.sealed),
            scratch_known: survey.scratch.is_some(),
        }
    }
}

/// What it comes to, in a word.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, schemars::JsonSchema)]
pub(crate) enum InOrder {
    /// All was looked at, and nothing is wrong.
    #[serde(rename = "in order")]
    Whole,
    /// Nothing is wrong in what was looked at, which is not all.
    #[serde(rename = "in order as far as looked at")]
    AsFar,
    #[serde(rename = "not in order")]
    Not,
}

/// Things of one name that were not looked at.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, schemars::JsonSchema)]
pub(crate) struct NotLookedAt {
    /// `subtree`, `file` or `FLB`.
    pub(crate) what: &'static str,
    /// The name of the subtree or the state, or the kind of the files.
    pub(crate) name: String,
    /// What is known to have this name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) stands_for: Option<&'static str>,
    pub(crate) count: u64,
    /// The first of them.
    pub(crate) at: Hex,
    /// Whether the user vouches for it.
    #[serde(skip_serializing_if = "core::ops::Not::not")]
    pub(crate) accepted: bool,
}

impl NotLookedAt {
    /// What `unread` is; `accepted` are names that the user vouches for.
    pub(crate) fn of(unread: &Unread, accepted: &[String]) -> Self {
        Self {
            what: match unread.what {
                Opaque::Subtree => "subtree",
                Opaque::File => "file",
                Opaque::Flb => "FLB",
                _ => "thing",
            },
            name: unread.name.clone(),
            stands_for: kinds::of(unread.what, &unread.name),
            count: unread.count,
            at: unread.at.into(),
            accepted: accepts(accepted, &unread.name),
        }
    }
}

impl Verdict {
    /// What `handovers` come to, with names that the user vouches for; to what in `next`, the kernel that comes
    /// next, and beside what is laid out as in `before`, if they are named.
    pub(crate) fn of(
        handovers: &Handovers<'_>,
        accepted: &[String],
        next: Option<&Kernel>,
        before: Option<&Against>,
    ) -> Self {
        let survey = &handovers.outer;
        let in_order = match (&survey.findings[..], &survey.unread[..]) {
            ([], []) => InOrder::Whole,
            ([], _) => InOrder::AsFar,
            _ => InOrder::Not,
        };
        Self {
            version: VERSION,
            in_order,
            seen: Seen::of(survey),
            lent: handovers.inner().map(Seen::of),
            passed: Passed::of(survey.image),
            findings: survey.findings.iter().map(Fault::from).collect(),
            not_looked_at: survey.unread.iter().map(|of| NotLookedAt::of(of, accepted)).collect(),
            next: next.map(|kernel| Foretold::of(handovers, kernel, accepted)),
            changed: before.map(|before| Layouts::of_survey(survey).changed(&before.layouts)),
            against: before.cloned(),
        }
    }

    /// The exit status: 0 if nothing is wrong and all was looked at, or the user vouches for the
    /// rest; 1 if something is wrong; 3 if not all was looked at. What the next kernel does not take is wrong, and so is
    /// a layout that changed without its version, and a handover to compare with that is not in order; what is not known of the kernel was not looked at.
    pub(crate) fn status(&self) -> u8 {
        let next = self.next.as_ref().map_or(Takes::Yes, |next| next.verdict);
        let changed = self.changed.as_ref().is_some_and(|changed| !changed.is_empty())
            || self.against.as_ref().is_some_and(|before| !before.findings.is_empty());
        match (self.in_order, next) {
            _ if changed => 1,
            (InOrder::Not, _) | (_, Takes::No) => 1,
            (_, Takes::Yes) if self.not_looked_at.iter().all(|of| of.accepted) => 0,
            _ => 3,
        }
    }
}
