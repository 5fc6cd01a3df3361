//! What Linux lends to heirloom's module, and the handover there.

use heirloom_kho::linux;

use super::basic::Hex;
use super::want::Want;
use super::{Handover, Stretch};
use crate::lent::Lent;
use crate::survey::Survey;

/// The list of loans.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct Loans {
    pub(crate) version: u32,
    /// Pages of the list.
    pub(crate) list_pages: u64,
    pub(crate) lent_folios: u64,
    pub(crate) lent_bytes: u64,
    /// The memory that is lent: folios that touch together.
    pub(crate) lent: Vec<Stretch>,
    /// The handover there; none if its root page cannot be read.
    pub(crate) handover: Option<Box<Handover>>,
    /// Where it starts: what the list says.
    pub(crate) entry: Entry,
}

/// Where a handover starts.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub(crate) struct Entry {
    pub(crate) root: Hex,
    pub(crate) scratch: Hex,
    pub(crate) scratch_bytes: u64,
}

impl Loans {
    /// What `lent` is, and `survey` found there.
    pub(super) fn of(lent: &Lent, survey: &Survey<'_>, want: &Want<'_>) -> Self {
        let linux::Loans { root, scratch, scratch_bytes, .. } = lent.loans;
        let want = Want::new(survey, want.folios, want.hash);
        let handover = Handover::of(survey, None, &want);
        want.bar.finish_and_clear();
        let memory: Vec<Stretch> = lent.image().runs().map(Stretch::from).collect();
        Self {
            version: linux::Loans::VERSION,
            list_pages: lent.pages,
            lent_folios: lent.folios,
            lent_bytes: memory.iter().map(|stretch| stretch.bytes).sum(),
            lent: memory,
            handover: handover.map(Box::new),
            entry: Entry { root: root.into(), scratch: scratch.into(), scratch_bytes },
        }
    }
}
