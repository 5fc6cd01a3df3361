//! The objects that heirloom's caches hold, by address; what handles name; what containers consist of.
//!
//! ```text
//!  a published root ── 16 bytes ──> named ──> an object of a cache ──> container: entries, records, elements
//! ```
//!
//! Nothing in an image is believed. An object is one if its slab is sound and its state byte says that it survives; it is a
//! container's if its own first word names that container.

mod container;
mod named;
mod wanted;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;

use anyhow::{Context, Result};
pub(crate) use container::{Container, Entry, Key, Kind, Unsound};
use heirloom_kho::{Block, Left, PageSize, Pages, PhysAddr, Run};
use heirloom_slab::CacheRecord;
use heirloom_slab::internal::ImageCaches;
pub(crate) use named::{Named, What, in_root};

pub(crate) use wanted::{Found, find};

use crate::image::{Image, merged};
use crate::survey::Survey;

/// The objects of a handover's caches.
pub(crate) struct Heap<'i> {
    pub(crate) image: &'i Image,
    left: Left<'i, Image>,
    directory: Option<PhysAddr>,
    caches: Vec<CacheRecord>,
    /// Sound slabs by address: which cache each is of.
    slabs: BTreeMap<PhysAddr, usize>,
    /// What is preserved, by address, as runs that do not touch.
    preserved: Vec<Run>,
    /// Bytes of what containers lead to that can be gone through yet: sound ones share no object, and what is named again is gone
    /// through again, a few times. Broken ones can lead to one object any number of times.
    room: Cell<u64>,
}

/// How often all that is preserved can be gone through.
const AGAIN: u64 = 4;

/// An object that survives.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Object<'h> {
    pub(crate) addr: PhysAddr,
    pub(crate) bytes: u64,
    /// Tells it from one that had its place before.
    pub(crate) tag: u8,
    pub(crate) cache: &'h CacheRecord,
}

impl<'i> Heap<'i> {
    /// Collects the objects of the handover that `survey` went through: none if heirloom did not write it.
    pub(crate) fn new(survey: &Survey<'i>) -> Self {
        let (left, image) = (survey.left(), survey.image);
        let directory = survey.header.as_ref().and_then(|header| header.cache_directory);
        let (mut caches, mut slabs) = (Vec::new(), BTreeMap::new());
        if let Some(directory) = directory {
            let pages = Bounded::new(left, image.pages());
            let view = ImageCaches::new(&pages, directory);
            for record in view.caches() {
                for slab in view.slabs(&record) {
                    // One that comes again, as none of a sound handover does, ends the list.
                    if slabs.contains_key(&slab) {
                        break;
                    }
                    if view.slab(&record, slab).is_ok() {
                        slabs.insert(slab, caches.len());
                    }
                }
                caches.push(record);
            }
        }
        let bytes = survey.pages().saturating_mul(image.page_size().bytes() as u64);
        let preserved = merged(survey.rows.iter().map(|row| row.run()).collect());
        let room = Cell::new(bytes.saturating_mul(AGAIN));
        Self { image, left, directory, caches, slabs, preserved, room }
    }

    fn view(&self) -> Option<ImageCaches<'_, Left<'i, Image>>> {
        Some(ImageCaches::new(&self.left, self.directory?))
    }

    /// Returns the caches.
    pub(crate) fn caches(&self) -> &[CacheRecord] {
        &self.caches
    }

    /// Returns the object around an address.
    pub(crate) fn object(&self, addr: PhysAddr) -> Option<Object<'_>> {
        let (slab, cache) = self.slabs.range(..=addr).next_back()?;
        let cache = self.caches.get(*cache)?;
        let (addr, tag) = self.view()?.object(cache, *slab, addr)?;
        Some(Object { addr, bytes: cache.object_size() as u64, tag, cache })
    }

    /// Returns the objects of the cache of this number, by slab.
    pub(crate) fn objects(&self, cache: usize) -> impl Iterator<Item = Object<'_>> {
        let slabs = self.slabs.iter().filter(move |(_, of)| **of == cache);
        let record = self.caches.get(cache);
        let objects = slabs.filter_map(move |(slab, _)| {
            let (record, view) = (record?, self.view()?);
            let objects: Vec<_> = view.objects(record, *slab).collect();
            Some(objects.into_iter().map(move |(addr, tag)| Object {
                addr,
                bytes: record.object_size() as u64,
                tag,
                cache: record,
            }))
        });
        objects.flatten()
    }

    /// Returns whether all of `run` is preserved, in folios of any order.
    fn preserves(&self, run: Run) -> bool {
        let after = self.preserved.partition_point(|own| own.start() <= run.start());
        let before = after.checked_sub(1).and_then(|last| self.preserved.get(last));
        !run.is_empty() && before.is_some_and(|own| own.covers(run))
    }

    /// Takes so many bytes more of what containers may lead to.
    ///
    /// # Errors
    /// There were more than all that is preserved, several times over.
    fn spend(&self, bytes: u64) -> Result<()> {
        let rest = self.room.get().checked_sub(bytes);
        self.room.set(rest.unwrap_or(0));
        rest.map(|_| ()).context("it leads to more than all that is preserved")
    }

    /// Returns the little-endian word at `addr`.
    fn word(&self, addr: PhysAddr) -> Option<u64> {
        self.image.peek(addr).map(u64::from_le)
    }
}

/// Pages that are looked at only so often.
///
/// Sound tables take a look for each of their pages and slabs, and none of those is another's. Broken
/// ones can lead, each by its own way, to one long chain of pages.
pub(crate) struct Bounded<'i> {
    left: Left<'i, Image>,
    room: Cell<u64>,
}

impl<'i> Bounded<'i> {
    /// As many looks as sound tables in so many frames can take.
    pub(crate) fn new(left: Left<'i, Image>, frames: u64) -> Self {
        Self { left, room: Cell::new(frames.saturating_mul(2)) }
    }

    /// Whether there were more to take.
    pub(crate) fn is_spent(&self) -> bool {
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
