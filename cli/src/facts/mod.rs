//! What is known of a handover, as a value that is printed: as JSON, as text, as a picture.
//!
//! Addresses are strings in hexadecimal, since JSON's numbers do not hold them.

mod basic;
mod changed;
mod foretold;
mod handover;
mod kinds;
mod layout;
mod linux;
mod memfd;
mod now;
mod own;
mod proposed;
mod published;
mod verdict;
mod want;

use std::path::Path;

use anyhow::{Result, anyhow};
pub(crate) use basic::{Fault, Hex, Passed, VERSION};
pub(crate) use changed::{Changed, Layouts};
pub(crate) use foretold::{Foretold, Structure, Takes};
pub(crate) use handover::{Folios, Handover, Loans, Subtree, What};
pub(crate) use kinds::session;
pub(crate) use layout::Layout;
pub(crate) use linux::{Linux, Luo};
pub(crate) use memfd::{Memfd, each_piece};
pub(crate) use now::Now;
pub(crate) use own::Own;
pub(crate) use published::{Held, Named, Published};
pub(crate) use verdict::{Against, Checked, Compared, InOrder, NotLookedAt, Seen, Verdict};
pub(crate) use want::Want;

use crate::lent::Handovers;
use crate::roots::Roots;

/// All that is known of a handover.
#[derive(Clone, Debug, serde::Serialize, schemars::JsonSchema)]
pub(crate) struct Facts {
    /// Of the fields here.
    pub(crate) version: u32,
    /// The file, and what it is.
    pub(crate) image: ImageFacts,
    #[serde(flatten)]
    pub(crate) handover: Handover,
    pub(crate) findings: Vec<Fault>,
    /// What this program does not know, by name.
    pub(crate) not_looked_at: Vec<NotLookedAt>,
    /// All root pages in the image, if it was searched.
    pub(crate) roots: Vec<Hex>,
    /// Of a kernel that runs, what it has yet to put into its lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) now: Option<Now>,
}

/// The file that was looked at.
#[derive(Clone, Debug, serde::Serialize, schemars::JsonSchema)]
pub(crate) struct ImageFacts {
    pub(crate) path: String,
    pub(crate) format: &'static str,
    /// What it was packed with, from outside.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) packed: Vec<&'static str>,
    pub(crate) frames: u64,
    pub(crate) page_size: usize,
    #[serde(flatten)]
    pub(crate) passed: Passed,
}

impl Facts {
    /// What `handovers` are, in the image at `path`.
    ///
    /// # Errors
    /// The root page cannot be read, so there is nothing to show.
    pub(crate) fn of(
        handovers: &Handovers<'_>,
        roots: &Roots,
        path: &Path,
        want: &Want<'_>,
    ) -> Result<Self> {
        let survey = &handovers.outer;
        let Some(handover) = Handover::of(survey, handovers.within.as_ref(), want) else {
            let first = survey.findings.first();
            let advice = first.and_then(|first| first.advice).map(|advice| format!("; {advice}"));
            let (advice, first) =
                (advice.unwrap_or_default(), first.map_or("", |first| &first.reason));
            let (path, meant) = (path.display(), roots.meant(survey.image.page_size()));
            return Err(anyhow!("{path}: no root page at {}: {first}{advice}{meant}", survey.at));
        };
        want.bar.finish_and_clear();
        Ok(Self {
            version: VERSION,
            image: ImageFacts {
                path: path.display().to_string(),
                format: survey.image.format().as_str(),
                packed: survey.image.packed().iter().map(|packed| packed.as_str()).collect(),
                frames: survey.image.pages(),
                page_size: survey.image.page_size().bytes(),
                passed: Passed::of(survey.image),
            },
            handover,
            findings: survey.findings.iter().map(Fault::from).collect(),
            not_looked_at: survey.unread.iter().map(|of| NotLookedAt::of(of, &[])).collect(),
            roots: roots.found.iter().map(|found| found.at.into()).collect(),
            now: None,
        })
    }
}
