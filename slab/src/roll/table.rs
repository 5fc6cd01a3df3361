//! A cache's slab table, as this kernel writes it.

use heirloom_folio::sync::{
    AtomicU64,
    Ordering::{Relaxed, Release},
};

use heirloom_folio::{Machine, Memory, PhysAddr};

use super::write::{new_page, words};
use crate::error::Error;
use crate::store;

/// Words of a page before its entries: the next page's address, and the count.
pub(super) const HEADER: usize = 2;
/// Entries of a slab table's page.
pub(super) const SLABS: usize = heirloom_folio::PAGE_SIZE / size_of::<u64>() - HEADER;

/// Marks an entry as a hole. The rest of it is the address of the next hole, or zero.
const HOLE: u64 = 1;

/// Where the slabs of a cache are entered. Under the cache's lock.
pub(crate) struct SlabTable {
    first: Option<PhysAddr>,
    last: PhysAddr,
    /// Entries of the last page in use, holes included.
    count: usize,
    /// The hole made last, or 0; each holds the address of the one before it.
    holes: u64,
}

/// A place for a slab in the table.
#[derive(Clone, Copy)]
pub(crate) enum Place {
    /// A hole, at this address.
    Hole(PhysAddr),
    /// Behind the last entry.
    End,
}

/// A place in the table to go on from: entry `index` of a page, the first one if none is named.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct TablePlace {
    page: Option<PhysAddr>,
    index: usize,
}

impl TablePlace {
    /// The place of the slab that was found before this one.
    pub(crate) const fn found(self) -> Self {
        Self { page: self.page, index: self.index.saturating_sub(1) }
    }
}

impl SlabTable {
    pub(crate) const fn new() -> Self {
        Self { first: None, last: PhysAddr::new(0), count: 0, holes: 0 }
    }

    /// The first page, once there is one.
    pub(crate) const fn first(&self) -> Option<PhysAddr> {
        self.first
    }

    /// Begins with the page at `first`, which is empty.
    pub(crate) const fn begin(&mut self, first: PhysAddr) {
        *self = Self { first: Some(first), last: first, count: 0, holes: 0 };
    }

    /// A place for a slab; a page more if there is none.
    ///
    /// # Errors
    /// [`Error::Folio`]: out of memory.
    pub(crate) fn place<M: Machine>(&mut self, memory: &Memory<M>) -> Result<Place, Error> {
        if self.holes != 0 {
            return Ok(Place::Hole(PhysAddr::new(self.holes)));
        }
        if self.count == SLABS {
            let page = new_page(memory)?;
            // SAFETY: a page of this table.
            if let Some(link) = unsafe { words(memory, self.last) }.first() {
                // Release: whoever follows the link reads a page of zeroes.
                store::word(link, page.get(), Release);
            }
            (self.last, self.count) = (page, 0);
        }
        Ok(Place::End)
    }

    /// Enters a preserved slab: the entry's address.
    pub(crate) fn enter<M: Machine>(
        &mut self,
        memory: &Memory<M>,
        place: Place,
        slab: PhysAddr,
    ) -> PhysAddr {
        match place {
            Place::Hole(entry) => {
                let word = Self::entry(memory, entry);
                self.holes = store::load(word, Relaxed) & !HOLE;
                // Release: whoever reads the entry reads the slab's header.
                store::word(word, slab.get(), Release);
                entry
            }
            Place::End => {
                let at = (HEADER + self.count) * size_of::<u64>();
                let entry = PhysAddr::new(self.last.get() + at as u64);
                store::word(Self::entry(memory, entry), slab.get(), Relaxed);
                self.count += 1;
                let counter = PhysAddr::new(self.last.get() + size_of::<u64>() as u64);
                // Release: whoever reads the count reads the entry and the slab's header.
                store::word(Self::entry(memory, counter), self.count as u64, Release);
                entry
            }
        }
    }

    /// Strikes a slab out, before it is unpreserved.
    pub(crate) fn leave<M: Machine>(&mut self, memory: &Memory<M>, entry: PhysAddr) {
        // Release: what was done to the slab before is done when it is gone from the roll.
        store::word(Self::entry(memory, entry), self.holes | HOLE, Release);
        self.holes = entry.get();
    }

    /// Looks for a slab at or after place `from` in the table, in one page: the next place, and the
    /// slab if there is one before the page ends. `None`: the table ends.
    pub(crate) fn next<M: Machine>(
        &self,
        memory: &Memory<M>,
        from: TablePlace,
    ) -> Option<(TablePlace, Option<PhysAddr>)> {
        let page = from.page.or(self.first)?;
        // SAFETY: a page of this table.
        let page_words = unsafe { words(memory, page) };
        let count = if page == self.last { self.count } else { SLABS };
        for index in from.index..count {
            let entry = page_words.get(HEADER + index).map_or(0, |w| store::load(w, Relaxed));
            if entry & HOLE == 0 && entry != 0 {
                let next = TablePlace { page: Some(page), index: index + 1 };
                return Some((next, Some(PhysAddr::new(entry))));
            }
        }
        if page == self.last {
            return None;
        }
        let next = page_words.first().map_or(0, |link| store::load(link, Relaxed));
        Some((TablePlace { page: Some(PhysAddr::new(next)), index: 0 }, None))
    }

    /// The word at an address in a page of the table.
    fn entry<M: Machine>(memory: &Memory<M>, addr: PhysAddr) -> &AtomicU64 {
        // SAFETY: every caller has the address of a word in a page of this table, which is
        // touched by atomics alone and stays as long as the instance.
        unsafe { memory.machine().ptr(addr).cast::<AtomicU64>().as_ref() }
    }
}
