//! A cache's slab table, as this kernel writes it: a new one, or a predecessor's, gone on with.

use heirloom_folio::{Machine, Memory};
use heirloom_kho::PageSize;
use heirloom_kho::PhysAddr;
use heirloom_kho::narrow::usize_to_u64;
use heirloom_kho::sync::AtomicU64;
use heirloom_kho::sync::Ordering::{Relaxed, Release};

use super::page::{HEADER, new_page, words};
use crate::error::Error;
use crate::store;

/// Entries of a slab table's page.
pub(super) const SLABS: usize = slabs(PageSize::BUILD);

/// Returns how many entries a page of this size holds.
pub(super) const fn slabs(page: PageSize) -> usize {
    page.bytes() / size_of::<u64>() - HEADER
}

/// What an entry says that was struck out. (Zero, and every odd number, names no slab either.)
const FREE_ENTRY: u64 = 1;

/// Entries that are looked at for a free entry before a place at the end is taken: a cache line's, eight
/// times.
const LOOK: usize = 64;

/// Returns whether an entry of a slab table names no slab.
pub(super) const fn is_free_entry(entry: u64) -> bool {
    entry == 0 || entry & 1 == 1
}

/// Where the slabs of a cache are entered. Under the cache's lock.
///
/// Free entries are found by looking for them, a few entries at a time, round and round: so nothing has to be
/// kept in them, and whatever a predecessor left in one is as good as anything. An entry is struck out
/// by one store of its own: under the lock, or without it by the one that has a slab of no cache.
pub(crate) struct SlabTable {
    first: Option<PhysAddr>,
    last: PhysAddr,
    /// Entries of the last page in use, free entries included.
    count: usize,
    /// Free entries there may be: not fewer, but for those that were made without the lock since.
    free_entries: usize,
    /// Entries of any table that were struck out without a lock, as far as is known here.
    noted: u64,
    /// Where the next free entry is looked for.
    look: TablePlace,
    /// Whether a free entry was found or made in this round.
    met: bool,
    /// The entry struck out last, or 0: mostly the next one's.
    struck: u64,
    /// The page of this table that an entry was found in last.
    known: Option<PhysAddr>,
}

/// A place for a slab in the table.
#[derive(Clone, Copy)]
pub(crate) enum Place {
    /// A free entry, at this address.
    FreeEntry(PhysAddr),
    /// Behind the last entry.
    End,
}

/// A place in the table to go on from: entry `index` of a page, the first one if none is named.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
struct TablePlace {
    page: Option<PhysAddr>,
    index: usize,
}

impl SlabTable {
    pub(crate) const fn new() -> Self {
        let none = PhysAddr::new(0);
        let look = TablePlace { page: None, index: 0 };
        let (free_entries, noted, met, struck) = (0, 0, false, 0);
        Self {
            first: None,
            last: none,
            count: 0,
            free_entries,
            noted,
            look,
            met,
            struck,
            known: None,
        }
    }

    /// Returns the table whose first page is at `first`: one of the cache directory's, which was
    /// checked. Costs what reading it costs; nothing is written.
    pub(crate) fn reopen<M: Machine>(memory: &Memory<M>, first: PhysAddr) -> Self {
        let mut table = Self { first: Some(first), last: first, ..Self::new() };
        loop {
            // SAFETY: a page of the cache directory, which this kernel writes by atomics alone.
            let page = unsafe { words(memory, table.last) };
            let word = |at: usize| page.get(at).map_or(0, |word| store::load(word, Relaxed));
            table.count = usize::try_from(word(1)).unwrap_or(SLABS).min(SLABS);
            let entries = page.iter().skip(HEADER).take(table.count);
            table.free_entries +=
                entries.filter(|word| is_free_entry(store::load(word, Relaxed))).count();
            match word(0) {
                0 => return table,
                next => table.last = PhysAddr::new(next),
            }
        }
    }

    /// Returns the first page, once there is one.
    pub(crate) const fn first(&self) -> Option<PhysAddr> {
        self.first
    }

    /// Begins with the page at `first`, which is empty.
    pub(crate) const fn begin(&mut self, first: PhysAddr) {
        *self = Self { first: Some(first), last: first, ..Self::new() };
    }

    /// Finds a place for a slab, and adds a page if there is none. `struck_out` is how many entries
    /// of any table were [struck out](SlabTable::strike_out) without a lock so far: some may be
    /// this one's.
    ///
    /// # Errors
    /// [`Error::Folio`]: out of memory.
    pub(crate) fn place<M: Machine>(
        &mut self,
        memory: &Memory<M>,
        struck_out: u64,
    ) -> Result<Place, Error> {
        if struck_out != self.noted {
            let more = usize::try_from(struck_out - self.noted).unwrap_or(usize::MAX);
            self.free_entries = self.free_entries.saturating_add(more);
            (self.noted, self.met) = (struck_out, true);
        }
        if let Some(entry) = self.free_entry(memory) {
            return Ok(Place::FreeEntry(entry));
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

    /// Returns a free entry, if one is at hand.
    fn free_entry<M: Machine>(&mut self, memory: &Memory<M>) -> Option<PhysAddr> {
        if self.free_entries == 0 {
            return None;
        }
        // The entry struck out last is near in the cache, and mostly free still.
        let struck = core::mem::take(&mut self.struck);
        if struck != 0
            && is_free_entry(store::load(Self::entry(memory, PhysAddr::new(struck)), Relaxed))
        {
            return Some(PhysAddr::new(struck));
        }
        // A few entries at a time, so that no call pays for a whole table; the next goes on from there.
        let page = self.look.page.or(self.first)?;
        // SAFETY: a page of this table.
        let page_words = unsafe { words(memory, page) };
        let count = if page == self.last { self.count } else { SLABS };
        let (from, to) = (self.look.index, count.min(self.look.index + LOOK));
        for index in from..to {
            let at = HEADER + index;
            if is_free_entry(store::load(page_words.get(at)?, Relaxed)) {
                self.look = TablePlace { page: Some(page), index: index + 1 };
                self.met = true;
                return Some(PhysAddr::new(page.get() + usize_to_u64(at * size_of::<u64>())));
            }
        }
        self.look = if to < count {
            TablePlace { page: Some(page), index: to }
        } else if page == self.last {
            if !core::mem::take(&mut self.met) {
                // A whole round without one.
                self.free_entries = 0;
            }
            TablePlace::default()
        } else {
            let next = store::load(page_words.first()?, Relaxed);
            TablePlace { page: Some(PhysAddr::new(next)), index: 0 }
        };
        None
    }

    /// Enters a preserved slab. Returns the entry's address.
    pub(crate) fn enter<M: Machine>(
        &mut self,
        memory: &Memory<M>,
        place: Place,
        slab: PhysAddr,
    ) -> PhysAddr {
        match place {
            Place::FreeEntry(entry) => {
                self.free_entries = self.free_entries.saturating_sub(1);
                // Release: what reads the entry reads the slab's header.
                store::word(Self::entry(memory, entry), slab.get(), Release);
                entry
            }
            Place::End => {
                let at = (HEADER + self.count) * size_of::<u64>();
                let entry = PhysAddr::new(self.last.get() + usize_to_u64(at));
                store::word(Self::entry(memory, entry), slab.get(), Relaxed);
                self.count += 1;
                let counter = PhysAddr::new(self.last.get() + usize_to_u64(size_of::<u64>()));
                // Counted last: an entry behind the count is none, whatever stands there.
                // Release: what reads the count reads the entry and the slab's header.
                store::word(Self::entry(memory, counter), usize_to_u64(self.count), Release);
                entry
            }
        }
    }

    /// Strikes a slab out, before it is unpreserved, and remembers where.
    pub(crate) fn leave<M: Machine>(&mut self, memory: &Memory<M>, entry: PhysAddr) {
        Self::strike_out(memory, entry);
        self.free_entries = self.free_entries.saturating_add(1);
        (self.struck, self.met) = (entry.get(), true);
    }

    /// Strikes a slab out, before it is unpreserved: for one that has the slab, and not the cache's
    /// lock. The free entry is found when it is come by.
    pub(crate) fn strike_out<M: Machine>(memory: &Memory<M>, entry: PhysAddr) {
        // Release: what was done to the slab before is done when it is gone from the cache directory.
        store::word(Self::entry(memory, entry), FREE_ENTRY, Release);
    }

    /// Returns whether `entry`, which may be any address, is that of an entry of this table that
    /// names `slab`.
    pub(crate) fn is_entry<M: Machine>(
        &mut self,
        memory: &Memory<M>,
        entry: PhysAddr,
        slab: PhysAddr,
    ) -> bool {
        let page = entry.pfn().addr();
        let at = entry.offset_in_page() / size_of::<u64>();
        let Some(index) = at.checked_sub(HEADER) else { return false };
        if !entry.get().is_multiple_of(8) || !self.has_page(memory, page) {
            return false;
        }
        let count = if page == self.last { self.count } else { SLABS };
        // SAFETY: a page of this table.
        let word = unsafe { words(memory, page) }.get(at);
        index < count && word.is_some_and(|word| store::load(word, Relaxed) == slab.get())
    }

    /// Returns whether this is a page of the table. Entries that are asked about lie mostly side by
    /// side.
    fn has_page<M: Machine>(&mut self, memory: &Memory<M>, page: PhysAddr) -> bool {
        let Some(first) = self.first else { return false };
        if Some(page) == self.known {
            return true;
        }
        let mut at = first;
        while at != page {
            if at == self.last {
                return false;
            }
            // SAFETY: a page of this table.
            let link = unsafe { words(memory, at) }.first();
            at = PhysAddr::new(link.map_or(0, |link| store::load(link, Relaxed)));
        }
        self.known = Some(page);
        true
    }

    /// Returns the word at an address in a page of the table.
    fn entry<M: Machine>(memory: &Memory<M>, addr: PhysAddr) -> &AtomicU64 {
        // SAFETY: every caller has the address of a word in a page of this table, which is
        // touched by atomics alone and stays as long as the instance.
        unsafe { memory.machine().ptr(addr).cast::<AtomicU64>().as_ref() }
    }
}
