//! What is known of a handover, as a value that is printed: as JSON, as text, as a picture.
//!
//! Addresses are strings in hexadecimal, since JSON's numbers do not hold them.

mod layout;
mod linux;
mod own;
mod verdict;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Result, anyhow};
use heirloom_folio::tracker::{Adjacent, Geometry};
use heirloom_folio::{Order, PAGE_SIZE, Pfn, PhysAddr, Run};
use heirloom_linux::Known;
use indicatif::ProgressBar;
use serde::ser::{Serialize, Serializer};

use crate::progress;
use crate::roots::Roots;
use crate::survey::{Finding, Survey};

pub(crate) use layout::Layout;
pub(crate) use linux::{Linux, Luo, Memfd, each_page};
pub(crate) use own::{Own, Published};
pub(crate) use verdict::Verdict;

/// What is worth the time.
#[derive(Debug)]
pub(crate) struct Want {
    /// Every folio of every memfd.
    pub(crate) folios: bool,
    /// The hash of every memfd.
    pub(crate) hash: bool,
    /// How far the hashes are.
    pub(crate) bar: ProgressBar,
    /// What is left of [`Survey::frames`] folios to list and pages to hash.
    ///
    /// Sound files share no folio, so they have no more of either than there are frames. A broken
    /// handover can name one file a million times.
    left: Cell<(u64, u64)>,
}

impl Want {
    pub(crate) fn new(survey: &Survey<'_>, folios: bool, hash: bool) -> Self {
        let frames = survey.frames();
        let bytes = if hash { frames.saturating_mul(PAGE_SIZE as u64) } else { 0 };
        let bar = progress::bar("hashing files", bytes);
        Self { folios, hash, bar, left: Cell::new((frames, frames)) }
    }

    /// Whether so many folios can still be listed; they are then.
    fn list(&self, folios: u64) -> bool {
        let (list, hash) = self.left.get();
        let rest = list.checked_sub(folios);
        self.left.set((rest.unwrap_or(list), hash));
        rest.is_some()
    }

    /// Whether so many bytes can still be hashed; they are then.
    fn read(&self, bytes: u64) -> bool {
        let (list, hash) = self.left.get();
        let rest = hash.checked_sub(bytes.div_ceil(PAGE_SIZE as u64));
        self.left.set((list, rest.unwrap_or(hash)));
        self.hash && rest.is_some()
    }
}

/// A number as text: `"0x1000"`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Hex(pub(crate) u64);

impl From<PhysAddr> for Hex {
    fn from(addr: PhysAddr) -> Self {
        Self(addr.get())
    }
}

impl std::fmt::Display for Hex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&format!("{:#x}", self.0))
    }
}

impl Serialize for Hex {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A stretch of memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
pub(crate) struct Stretch {
    pub(crate) start: Hex,
    pub(crate) bytes: u64,
}

impl From<Run> for Stretch {
    fn from(run: Run) -> Self {
        Self { start: run.addr().into(), bytes: run.bytes() }
    }
}

/// All that is known of a handover.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct Facts {
    /// The file, and what it is.
    pub(crate) image: ImageFacts,
    /// The root page.
    pub(crate) fdt: Hex,
    pub(crate) compatible: String,
    /// The tree's root node.
    pub(crate) map: Hex,
    pub(crate) nodes: u64,
    pub(crate) nodes_by_level: BTreeMap<u32, u64>,
    pub(crate) folios: u64,
    pub(crate) frames: u64,
    pub(crate) bytes: u64,
    /// Folios that share a frame with something that was found before them.
    pub(crate) overlaps: u64,
    /// Folios of each order.
    pub(crate) orders: BTreeMap<u8, u64>,
    pub(crate) layout: Layout,
    pub(crate) scratch: Option<Vec<Stretch>>,
    /// By name, as the root page has them.
    #[serde(serialize_with = "by_name")]
    pub(crate) subtrees: Vec<Subtree>,
    pub(crate) preserved: Folios,
    pub(crate) findings: Vec<Fault>,
    /// All root pages in the image, if it was searched.
    pub(crate) roots: Vec<Hex>,
}

/// The file that was looked at.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct ImageFacts {
    pub(crate) path: String,
    pub(crate) format: &'static str,
    pub(crate) frames: u64,
    pub(crate) page_size: usize,
}

/// What the root page has under a name.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct Subtree {
    #[serde(skip)]
    pub(crate) name: String,
    pub(crate) phys: Hex,
    /// Bytes, where the writer said so.
    pub(crate) size: Option<u64>,
    #[serde(flatten)]
    pub(crate) what: What,
}

/// What is known of a subtree.
#[derive(Clone, Debug, serde::Serialize)]
#[serde(untagged)]
pub(crate) enum What {
    Own(Own),
    Linux(Linux),
    /// A root that was published with heirloom.
    Published(Published),
    /// Nothing: its maker's alone.
    Other {},
}

fn by_name<S: Serializer>(subtrees: &[Subtree], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(subtrees.iter().map(|subtree| (&subtree.name, subtree)))
}

/// Something wrong.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct Fault {
    pub(crate) at: Option<Hex>,
    pub(crate) reason: String,
}

impl From<&Finding> for Fault {
    fn from(found: &Finding) -> Self {
        Self { at: found.at.map(Hex::from), reason: found.reason.clone() }
    }
}

/// Folios, by address: `[["0x1000", 0], …]`, each with its order.
#[derive(Clone, Debug)]
pub(crate) struct Folios(pub(crate) Vec<Adjacent>);

impl Folios {
    /// Each one.
    pub(crate) fn each(&self) -> impl Iterator<Item = (Pfn, Order)> + '_ {
        self.0.iter().flat_map(|row| {
            let (first, order) = (row.first().pfn(), row.first().order());
            (0..row.count()).map(move |i| (first.add(i << order.get()), order))
        })
    }
}

impl Serialize for Folios {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let pairs = self.each().map(|(pfn, order)| (Hex::from(pfn.addr()), order.get()));
        serializer.collect_seq(pairs)
    }
}

impl Facts {
    /// What `survey` found, in the image at `path`.
    ///
    /// # Errors
    /// The root page cannot be read, so there is nothing to show.
    pub(crate) fn of(survey: &Survey<'_>, roots: &Roots, path: &Path, want: &Want) -> Result<Self> {
        let Some(root) = &survey.root else {
            let first = survey.findings.first().map_or("", |first| &first.reason);
            return Err(anyhow!("{}: no root page at {}: {first}", path.display(), survey.at));
        };
        let Some(counts) = &survey.counts else { return Err(anyhow!("no tree")) };
        let levels = (0..Geometry::BUILD.levels).map(|level| (level, counts.nodes_at(level as u8)));
        let orders = (0..=Order::MAX.get()).filter_map(Order::new);
        let orders = orders.map(|order| (order.get(), counts.folios(order)));
        let subtrees = survey.subtrees().map(|subtree| Subtree::of(survey, &subtree, want));
        let subtrees = subtrees.collect();
        want.bar.finish_and_clear();
        Ok(Self {
            image: ImageFacts {
                path: path.display().to_string(),
                format: survey.image.format().as_str(),
                frames: survey.image.frames(),
                page_size: PAGE_SIZE,
            },
            fdt: survey.at.into(),
            compatible: survey.compatible.clone(),
            map: root.map().into(),
            nodes: counts.nodes(),
            nodes_by_level: levels.filter(|(_, nodes)| *nodes > 0).collect(),
            folios: counts.total(),
            frames: counts.frames(),
            bytes: counts.frames().saturating_mul(PAGE_SIZE as u64),
            overlaps: survey.overlaps,
            orders: orders.filter(|(_, folios)| *folios > 0).collect(),
            layout: Layout::of(&survey.rows),
            scratch: survey.scratch.as_ref().map(|s| s.iter().map(|run| (*run).into()).collect()),
            subtrees,
            preserved: Folios(survey.rows.clone()),
            findings: survey.findings.iter().map(Fault::from).collect(),
            roots: roots.found.iter().map(|found| found.at.into()).collect(),
        })
    }
}

impl Subtree {
    fn of(survey: &Survey<'_>, subtree: &heirloom_restore::Subtree, want: &Want) -> Self {
        let name = subtree.name.as_str();
        let own = survey.header.as_ref().filter(|_| name == heirloom_restore::SUBTREE);
        let what = if let Some(header) = own {
            What::Own(Own::of(survey, header))
        } else {
            // What cannot be read is among the findings.
            let left = survey.left();
            let known = Known::read(&left, subtree).ok().flatten();
            let known = known.and_then(|known| Linux::of(&known, &left, want));
            let published = || {
                survey.header.as_ref()?;
                Published::of(survey, subtree.addr, subtree.size?).map(What::Published)
            };
            known.map(What::Linux).or_else(published).unwrap_or(What::Other {})
        };
        Self { name: name.to_owned(), phys: subtree.addr.into(), size: subtree.size, what }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_named_again_and_again_is_not_read_again_and_again() {
        let want = |hash| Want {
            folios: true,
            hash,
            bar: ProgressBar::hidden(),
            left: Cell::new((10, 10)),
        };
        let page = PAGE_SIZE as u64;
        let once = want(true);
        assert!(once.list(8) && once.read(8 * page));
        assert!(!once.list(3) && !once.read(2 * page + 1));
        assert!(once.list(2) && once.read(2 * page) && once.list(0));
        assert!(!once.list(1) && !once.read(1));
        assert!(!want(false).read(page));
    }
}
