//! A cache's slab table, as this kernel writes it: a new one, or a predecessor's, gone on with.

use heirloom_folio::sync::{
    AtomicU64,
    Ordering::{Relaxed, Release},
};

use heirloom_folio::{Machine, Memory, PAGE_SIZE, PhysAddr};

use super::write::{new_page, words};
use crate::error::Error;
use crate::store;

/// Words of a page before its entries: the next page's address, and the count.
pub(super) const HEADER: usize = 2;
/// Entries of a slab table's page.
pub(super) const SLABS: usize = PAGE_SIZE / size_of::<u64>() - HEADER;

/// What an entry says that was struck out. (Zero, and every odd number, names no slab either.)
const HOLE: u64 = 1;

/// Entries that are looked at for a hole before a place at the end is taken: a cache line's, eight
/// times.
const LOOK: usize = 64;

/// Whether an entry of a slab table names no slab.
pub(super) const fn is_hole(entry: u64) -> bool {
    entry == 0 || entry & 1 == 1
}

/// Where the slabs of a cache are entered. Under the cache's lock.
///
/// Holes are found by looking for them, a few entries at a time, round and round: so nothing has to be
/// kept in them, and whatever a predecessor left in one is as good as anything. An entry is struck out
/// by one store of its own, without the lock: by the one that has the slab.
pub(crate) struct SlabTable {
    first: Option<PhysAddr>,
    last: PhysAddr,
    /// Entries of the last page in use, holes included.
    count: usize,
    /// Holes there may be.
    holes: usize,
    /// Where the next hole is looked for.
    look: TablePlace,
    /// The entry struck out last, or 0: mostly the next one's.
    struck: u64,
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
        let look = TablePlace { page: None, index: 0 };
        Self { first: None, last: PhysAddr::new(0), count: 0, holes: 0, look, struck: 0 }
    }

    /// The table whose first page is at `first`: one of the roll's, which was checked. Costs what
    /// reading it costs; nothing is written.
    pub(crate) fn reopen<M: Machine>(memory: &Memory<M>, first: PhysAddr) -> Self {
        let mut table = Self { first: Some(first), last: first, ..Self::new() };
        loop {
            // SAFETY: a page of the roll, which this kernel writes by atomics alone.
            let page = unsafe { words(memory, table.last) };
            let word = |at: usize| page.get(at).map_or(0, |word| store::load(word, Relaxed));
            table.count = usize::try_from(word(1)).unwrap_or(SLABS).min(SLABS);
            let entries = page.iter().skip(HEADER).take(table.count);
            table.holes += entries.filter(|word| is_hole(store::load(word, Relaxed))).count();
            match word(0) {
                0 => return table,
                next => table.last = PhysAddr::new(next),
            }
        }
    }

    /// The first page, once there is one.
    pub(crate) const fn first(&self) -> Option<PhysAddr> {
        self.first
    }

    /// Begins with the page at `first`, which is empty.
    pub(crate) const fn begin(&mut self, first: PhysAddr) {
        *self = Self { first: Some(first), last: first, ..Self::new() };
    }

    /// A place for a slab; a page more if there is none.
    ///
    /// # Errors
    /// [`Error::Folio`]: out of memory.
    pub(crate) fn place<M: Machine>(&mut self, memory: &Memory<M>) -> Result<Place, Error> {
        if let Some(hole) = self.hole(memory) {
            return Ok(Place::Hole(hole));
        }
        if self.count == SLABS {
            let page = new_page(memory)?;
            // SAFETY: a page of this table.
            if let Some(link) = unsafe { words(memory, self.last) }.first() {
                // Release: what follows the link reads a page of zeroes.
                store::word(link, page.get(), Release);
            }
            (self.last, self.count) = (page, 0);
        }
        Ok(Place::End)
    }

    /// A hole, if one is at hand.
    fn hole<M: Machine>(&mut self, memory: &Memory<M>) -> Option<PhysAddr> {
        if self.holes == 0 {
            return None;
        }
        let struck = core::mem::take(&mut self.struck);
        if struck != 0 && is_hole(store::load(Self::entry(memory, PhysAddr::new(struck)), Relaxed))
        {
            return Some(PhysAddr::new(struck));
        }
        let page = self.look.page.or(self.first)?;
        // SAFETY: a page of this table.
        let page_words = unsafe { words(memory, page) };
        let count = if page == self.last { self.count } else { SLABS };
        let (from, to) = (self.look.index, count.min(self.look.index + LOOK));
        for index in from..to {
            let at = HEADER + index;
            if is_hole(store::load(page_words.get(at)?, Relaxed)) {
                self.look = TablePlace { page: Some(page), index: index + 1 };
                return Some(PhysAddr::new(page.get() + (at * size_of::<u64>()) as u64));
            }
        }
        self.look = if to < count {
            TablePlace { page: Some(page), index: to }
        } else if page == self.last {
            TablePlace::default()
        } else {
            let next = store::load(page_words.first()?, Relaxed);
            TablePlace { page: Some(PhysAddr::new(next)), index: 0 }
        };
        None
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
                self.holes -= 1;
                // Release: what reads the entry reads the slab's header.
                store::word(Self::entry(memory, entry), slab.get(), Release);
                entry
            }
            Place::End => {
                let at = (HEADER + self.count) * size_of::<u64>();
                let entry = PhysAddr::new(self.last.get() + at as u64);
                store::word(Self::entry(memory, entry), slab.get(), Relaxed);
                self.count += 1;
                let counter = PhysAddr::new(self.last.get() + size_of::<u64>() as u64);
                // Release: what reads the count reads the entry and the slab's header.
                store::word(Self::entry(memory, counter), self.count as u64, Release);
                entry
            }
        }
    }

    /// Strikes a slab out, before it is unpreserved, and remembers where.
    pub(crate) fn leave<M: Machine>(&mut self, memory: &Memory<M>, entry: PhysAddr) {
        Self::strike_out(memory, entry);
        self.holes += 1;
        self.struck = entry.get();
    }

    /// Strikes a slab out, before it is unpreserved: for one that has the slab, and not the cache's
    /// lock. The hole is found when it is come by.
    pub(crate) fn strike_out<M: Machine>(memory: &Memory<M>, entry: PhysAddr) {
        // Release: what was done to the slab before is done when it is gone from the roll.
        store::word(Self::entry(memory, entry), HOLE, Release);
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
            if !is_hole(entry) {
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
