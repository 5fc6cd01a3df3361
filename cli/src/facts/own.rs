//! What heirloom itself left: caches, slabs, objects, and the seal over its tables.

use std::cell::Cell;
use std::collections::HashSet;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use heirloom_kho::PageSize;
use heirloom_kho::{Block, Handle, Header, Left, Pages, Parts, PhysAddr, Run, SealInfo, SealState};
use heirloom_slab::CacheRecord;
use heirloom_slab::internal::ImageCaches;

use super::basic::Hex;
use crate::image::Image;
use crate::said;
use crate::survey::Survey;

/// The `heirloom` subtree.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct Own {
    pub(crate) compatible: &'static str,
    /// Whether its page is longer than this program knows, so that more is said there.
    pub(crate) longer: bool,
    /// The name of the kernel that wrote the handover.
    pub(crate) producer: String,
    /// How many handovers led to this one.
    pub(crate) generation: u64,
    /// The first page of the cache directory.
    pub(crate) cache_directory: Option<Hex>,
    /// The predecessor's root page, if its entry may be good beside this one's.
    pub(crate) before: Option<Hex>,
    pub(crate) caches: Vec<Cache>,
    /// Why not all caches and slabs are in that list, if so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) unlisted: Option<String>,
    /// The seal, if it holds.
    pub(crate) seal: Option<Seal>,
    /// Whether there was a seal, and a successor found it whole and has been at work since.
    pub(crate) opened: bool,
}

/// A cache whose slabs survive.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct Cache {
    pub(crate) name: String,
    pub(crate) object_size: usize,
    pub(crate) align: usize,
    pub(crate) stride: usize,
    pub(crate) order: u8,
    /// Whether its objects are preserved from birth.
    pub(crate) preserving: bool,
    pub(crate) fingerprint: Hex,
    pub(crate) slabs: u64,
    /// Slabs that are not sound; their objects are not counted.
    pub(crate) broken_slabs: u64,
    /// Objects that survive.
    pub(crate) objects: u64,
    /// Places without one.
    pub(crate) free: u64,
    /// Why not all of its slabs are in these numbers, if so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) unlisted: Option<String>,
}

/// The seal.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct Seal {
    pub(crate) first: Hex,
    /// Tables that it covers.
    pub(crate) entries: u64,
    /// Those of them that are as they were when it was made.
    pub(crate) sound: u64,
    pub(crate) hash: Hex,
}

/// A root that was published and is a handle, or reads like one.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct Published {
    /// What kind of memory it names.
    pub(crate) handle: &'static str,
    pub(crate) addr: Hex,
    pub(crate) bytes: u64,
}

impl Published {
    /// What the `bytes` bytes at `addr` say, if they are a handle.
    pub(super) fn of(survey: &Survey<'_>, addr: PhysAddr, bytes: u64) -> Option<Self> {
        let [a, b] = survey.image.words(addr, size_of::<Handle>())? else { return None };
        let words = [a, b].map(|word| word.load(Relaxed).to_ne_bytes());
        let handle: [u8; 16] = words.as_flattened().try_into().ok()?;
        let size = survey.image.page_size();
        let parts =
            Handle::from(handle).parts_sized(size).ok().filter(|_| bytes == handle.len() as u64)?;
        let page = size.bytes() as u64;
        let (handle, addr, bytes) = match parts {
            Parts::Folio(block) => ("folio", block.addr(), block.order().bytes()),
            Parts::Run(run) => ("run", run.addr(), run.bytes()),
            Parts::Buffer { addr, bytes } => ("buffer", addr, bytes),
            Parts::Object { addr, bytes, .. } => ("object", addr, bytes),
            Parts::Area(area) => ("area", area.first(), u64::from(area.pages()) * page),
            Parts::Records { first, entry } => ("records", first, entry),
            Parts::Blob { addr, bytes } => ("blob", addr, bytes),
        };
        Some(Self { handle, addr: addr.into(), bytes })
    }
}

impl Own {
    /// What `header`, which the survey found sound, and the tables behind it say.
    pub(super) fn of(survey: &Survey<'_>, header: &Header) -> Self {
        let left = survey.left();
        let mut unlisted = None;
        let caches = header.cache_directory.map_or_else(Vec::new, |directory| {
            let pages = Bounded::new(left, survey.image.pages());
            let caches = ImageCaches::new(&pages, directory);
            let mut seen = HashSet::new();
            let page = survey.image.page_size();
            let records =
                caches.caches().map(|record| Cache::of(&caches, &record, &mut seen, page));
            let caches = records.collect();
            unlisted = pages.is_spent().then(|| {
                "its tables lead to each other: going through all of them would not end soon"
                    .to_owned()
            });
            caches
        });
        let seal = |SealInfo { first, entries, hash }| Seal {
            first: first.into(),
            entries,
            sound: survey.sealed,
            hash: Hex(hash),
        };
        Self {
            compatible: "heirloom-v2",
            longer: header.longer,
            producer: header.producer.as_str().to_owned(),
            generation: header.generation,
            cache_directory: header.cache_directory.map(Hex::from),
            before: header.before.map(Hex::from),
            caches,
            unlisted,
            seal: header.seal.info().map(seal),
            opened: header.seal == SealState::Opened,
        }
    }
}

/// Pages that are looked at only so often.
///
/// Sound tables take a look for each of their pages and slabs, and none of those is another's. Broken
/// ones can lead, each by its own way, to one long chain of pages.
struct Bounded<'i> {
    left: Left<'i, Image>,
    room: Cell<u64>,
}

impl<'i> Bounded<'i> {
    /// As many looks as sound tables in so many frames can take.
    fn new(left: Left<'i, Image>, frames: u64) -> Self {
        Self { left, room: Cell::new(frames.saturating_mul(2)) }
    }

    /// Whether there were more to take.
    fn is_spent(&self) -> bool {
        self.room.get() == 0
    }
}

impl Pages for Bounded<'_> {
    fn page_size(&self) -> PageSize {
        self.left.page_size()
    }

    fn words(&self, addr: PhysAddr, bytes: usize) -> Option<&[AtomicU64]> {
        let rest = self.room.get().checked_sub(1)?;
        self.room.set(rest);
        self.left.words(addr, bytes)
    }

    fn holds(&self, block: Block) -> bool {
        self.left.holds(block)
    }

    fn is_memory(&self, run: Run) -> bool {
        self.left.is_memory(run)
    }
}

impl Cache {
    /// `seen` are the slabs of the caches before: one that comes again, as none of a sound handover
    /// does, ends the list. So there are no more to go through, with all caches, than there are slabs
    /// and caches.
    fn of<P: Pages>(
        caches: &ImageCaches<'_, P>,
        record: &CacheRecord,
        seen: &mut HashSet<PhysAddr>,
        page: PageSize,
    ) -> Self {
        let (mut slabs, mut broken_slabs, mut objects, mut free) = (0, 0, 0, 0);
        let mut unlisted = None;
        for slab in caches.slabs(record) {
            if !seen.insert(slab) {
                let why =
                    format!("the slab at {slab} was gone through before, and the rest was not");
                unlisted = Some(why);
                break;
            }
            slabs += 1;
            match caches.slab(record, slab) {
                Ok(slab) => {
                    objects += u64::from(slab.preserved);
                    free += u64::from(slab.free);
                }
                Err(_) => broken_slabs += 1,
            }
        }
        Self {
            name: record.name().as_str().to_owned(),
            object_size: record.object_size(),
            align: record.align(),
            stride: record.stride(),
            order: said::order(record.order(), page),
            preserving: record.is_preserving(),
            fingerprint: Hex(record.fingerprint()),
            slabs,
            broken_slabs,
            objects,
            free,
            unlisted,
        }
    }
}
