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
use heirloom_folio::{Block, Order, PAGE_SIZE, Pfn, PhysAddr, Run};
use heirloom_linux::Known;
use indicatif::ProgressBar;
use serde::ser::{Serialize, Serializer};

use crate::image::Image;
use crate::progress;
use crate::roots::Roots;
use crate::survey::{Finding, Survey};
use crate::text::bytes;

pub(crate) use layout::Layout;
pub(crate) use linux::{Linux, Luo, Memfd, each_piece};
pub(crate) use own::{Own, Published};
pub(crate) use verdict::{InOrder, NotLookedAt, Verdict};

/// The version of what is printed as JSON: it changes where a field changes its meaning or goes,
/// not where one comes.
pub(crate) const VERSION: u32 = 1;

/// What is worth the time.
#[derive(Debug)]
pub(crate) struct Want<'i> {
    /// Where contents are read.
    image: &'i Image,
    /// Every folio of every memfd.
    pub(crate) folios: bool,
    /// The hash of every memfd.
    pub(crate) hash: bool,
    /// How far the hashes are.
    pub(crate) bar: ProgressBar,
    left: Cell<Room>,
}

/// What can be listed and hashed yet.
///
/// Sound files share no folio, so they have no more of them than there are frames. A broken
/// handover can name one file a million times; and a size is what somebody wrote.
#[derive(Clone, Copy, Debug)]
struct Room {
    /// Folios to list.
    folios: u64,
    /// Pages to hash.
    pages: u64,
    /// Bytes of holes to hash.
    hollow: u64,
}

/// Bytes of holes that are worth hashing, in all files together.
const HOLES: u64 = 1 << 36;

impl<'i> Want<'i> {
    pub(crate) fn new(survey: &Survey<'i>, folios: bool, hash: bool) -> Self {
        let frames = survey.frames();
        let bytes = if hash { frames.saturating_mul(PAGE_SIZE as u64) } else { 0 };
        let bar = progress::bar("hashing files", bytes);
        let room = Room { folios: frames, pages: frames, hollow: HOLES };
        Self { image: survey.image, folios, hash, bar, left: Cell::new(room) }
    }

    /// Whether so many folios can still be listed; they are then.
    fn list(&self, folios: u64) -> bool {
        let room = self.left.get();
        let rest = room.folios.checked_sub(folios);
        self.left.set(Room { folios: rest.unwrap_or(room.folios), ..room });
        rest.is_some()
    }

    /// Whether so many bytes, and holes of so many, can still be hashed; they are then. Else why
    /// not.
    fn read(&self, data: u64, hollow: u64) -> Result<(), String> {
        let room = self.left.get();
        let Some(pages) = room.pages.checked_sub(data.div_ceil(PAGE_SIZE as u64)) else {
            return Err("the files before it are as large as all that is preserved".to_owned());
        };
        let Some(rest) = room.hollow.checked_sub(hollow) else {
            let (holes, all) = (bytes(hollow), bytes(HOLES));
            return Err(format!("{holes} of holes are not hashed, as they would be over {all}"));
        };
        self.left.set(Room { pages, hollow: rest, ..room });
        progress::grow(&self.bar, hollow);
        Ok(())
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
    /// Of the fields here.
    pub(crate) version: u32,
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
    /// Folios that cannot be, in none of the numbers.
    pub(crate) faulty: Faulty,
    pub(crate) findings: Vec<Fault>,
    /// What nobody here knows, by name.
    pub(crate) not_looked_at: Vec<NotLookedAt>,
    /// All root pages in the image, if it was searched.
    pub(crate) roots: Vec<Hex>,
}

/// Folios that the tree names and that cannot be.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct Faulty {
    pub(crate) folios: u64,
    /// The first of those that are memory.
    pub(crate) blocks: Vec<(Hex, u8)>,
}

fn pair(block: Block) -> (Hex, u8) {
    (block.addr().into(), block.order().get())
}

/// The file that was looked at.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct ImageFacts {
    pub(crate) path: String,
    pub(crate) format: &'static str,
    pub(crate) frames: u64,
    pub(crate) page_size: usize,
    #[serde(flatten)]
    pub(crate) passed: Passed,
}

/// What a core declares and the image does not have.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
pub(crate) struct Passed {
    /// Segments without a physical address.
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) unaddressed_segments: u64,
    /// Bytes that are declared and not in the file.
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) declared_bytes: u64,
    /// Whether those are taken for zeroes, and so are there.
    #[serde(skip_serializing_if = "core::ops::Not::not")]
    pub(crate) zero_excluded: bool,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "as serde wants it")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

impl Passed {
    fn of(image: &Image) -> Self {
        let crate::image::Passed { unaddressed, declared, zeroes } = image.passed();
        let (unaddressed_segments, declared_bytes) = (unaddressed, declared);
        Self { unaddressed_segments, declared_bytes, zero_excluded: zeroes }
    }
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
    pub(crate) fn of(
        survey: &Survey<'_>,
        roots: &Roots,
        path: &Path,
        want: &Want<'_>,
    ) -> Result<Self> {
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
            version: VERSION,
            image: ImageFacts {
                path: path.display().to_string(),
                format: survey.image.format().as_str(),
                frames: survey.image.frames(),
                page_size: PAGE_SIZE,
                passed: Passed::of(survey.image),
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
            faulty: Faulty {
                folios: survey.faulty.folios,
                blocks: survey.faulty.blocks.iter().map(|block| pair(*block)).collect(),
            },
            orders: orders.filter(|(_, folios)| *folios > 0).collect(),
            layout: Layout::of(&survey.rows),
            scratch: survey.scratch.as_ref().map(|s| s.iter().map(|run| (*run).into()).collect()),
            subtrees,
            preserved: Folios(survey.rows.clone()),
            findings: survey.findings.iter().map(Fault::from).collect(),
            not_looked_at: survey.unread.iter().map(|of| NotLookedAt::of(of, &[])).collect(),
            roots: roots.found.iter().map(|found| found.at.into()).collect(),
        })
    }
}

impl Subtree {
    fn of(survey: &Survey<'_>, subtree: &heirloom_restore::Subtree, want: &Want<'_>) -> Self {
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
        let file = std::env::temp_dir().join(format!("heirloom-want-{}", std::process::id()));
        std::fs::write(&file, [0; PAGE_SIZE]).unwrap();
        let reading = crate::image::Reading { base: Some(0), zero_excluded: false };
        let image = Image::open(&file, reading).unwrap();
        std::fs::remove_file(&file).unwrap();
        let want = Want {
            image: &image,
            folios: true,
            hash: true,
            bar: ProgressBar::hidden(),
            left: Cell::new(Room { folios: 10, pages: 10, hollow: 3 * HOLES / 2 }),
        };
        let page = PAGE_SIZE as u64;
        assert!(want.list(8) && want.read(8 * page, HOLES).is_ok());
        assert!(!want.list(3) && want.read(2 * page + 1, 0).is_err());
        // All holes together have a limit.
        assert!(want.read(0, HOLES).unwrap_err().starts_with("64 GiB of holes"));
        assert!(want.list(2) && want.read(2 * page, HOLES / 2).is_ok() && want.list(0));
        assert!(!want.list(1) && want.read(1, 0).is_err() && want.read(0, 1).is_err());
    }
}
