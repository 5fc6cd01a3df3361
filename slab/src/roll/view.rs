//! A roll as it is read: a predecessor's, believed only as far as it was checked, or our own.

use core::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Relaxed},
};

use heirloom_folio::{Block, Machine, Memory, Order, PhysAddr};
use zerocopy::{FromZeros, IntoBytes};

use super::record::{CacheRecord, Stored};
use super::table::{HEADER, SLABS};
use super::write::{RECORDS, WORDS, words};
use crate::error::{Error, RollError, RollFault};
use crate::store;

/// Pages of records that a roll may have, as many as Linux allows a chain of blocks.
const MAX_PAGES: u64 = 10_000;

/// A roll.
///
/// Pages are believed if they are preserved: by the predecessor, and not claimed, or by us. Slabs
/// are checked one by one, when they are adopted.
pub(crate) struct RollView<'m, M: Machine> {
    memory: &'m Memory<M>,
    first: PhysAddr,
    holds: Holds<M>,
}

/// Whether a page is one that a roll can have.
type Holds<M> = fn(&Memory<M>, Block) -> bool;

impl<M: Machine> Clone for RollView<'_, M> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<M: Machine> Copy for RollView<'_, M> {}

impl<'m, M: Machine> RollView<'m, M> {
    /// The predecessor's roll whose first page is at `first`.
    ///
    /// # Safety
    /// While the view or anything read through it lives, nothing in this kernel writes, other than
    /// atomically, to a page of the roll: it is the predecessor's and labelled as a table, or
    /// about to be.
    pub(crate) const unsafe fn inherited(memory: &'m Memory<M>, first: PhysAddr) -> Self {
        Self { memory, first, holds: Memory::is_inherited }
    }

    /// Our own roll.
    pub(crate) const fn own(memory: &'m Memory<M>, roll: &super::Roll<M>) -> Self {
        Self { memory, first: roll.first(), holds: Memory::is_preserved }
    }

    /// Checks every page, every record, and that every entry can be a slab's address.
    ///
    /// # Errors
    /// [`Error::Roll`] with the page, the entry and the reason.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let mut pages = self.own_pages();
        while let Some((page, page_words, count)) = pages.try_next()? {
            for index in 0..count {
                let fail = |fault| RollError { page, index: index as u32, fault };
                let record = stored(page_words, index).check().map_err(fail)?;
                self.check_table(&record)?;
            }
        }
        Ok(())
    }

    /// The caches.
    pub(crate) fn records(&self) -> impl Iterator<Item = CacheRecord> + use<'m, M> {
        self.own_pages().flat_map(|(_, words, count)| {
            (0..count).filter_map(move |index| stored(words, index).check().ok())
        })
    }

    /// The addresses of a cache's slabs. What is there is still to be checked.
    pub(crate) fn slabs(&self, record: &CacheRecord) -> Slabs<'m, M> {
        Slabs { pages: self.table_pages(record), page: [].iter() }
    }

    /// The addresses of all pages of the roll, those of slab tables included.
    pub(crate) fn pages(&self) -> impl Iterator<Item = PhysAddr> + use<'m, M> {
        let view = *self;
        let tables = view.records().flat_map(move |record| view.table_pages(&record));
        view.own_pages().chain(tables).map(|(page, ..)| page)
    }

    fn own_pages(&self) -> Chain<'m, M> {
        Chain::new(self, self.first, MAX_PAGES, RECORDS)
    }

    fn table_pages(&self, record: &CacheRecord) -> Chain<'m, M> {
        // No table has more pages than there are frames.
        let frames = self.memory.ranges().map(|(run, _)| run.frames()).sum();
        Chain::new(self, record.table(), frames, SLABS)
    }

    fn check_table(&self, record: &CacheRecord) -> Result<(), Error> {
        let mut pages = self.table_pages(record);
        while let Some((page, page_words, count)) = pages.try_next()? {
            for (index, word) in (0_u32..).zip(page_words.iter().skip(HEADER).take(count)) {
                let found = store::load(word, Relaxed);
                let slab = PhysAddr::new(found);
                let block = Block::new(slab.pfn(), record.order());
                if !is_hole(found) && block.is_none_or(|block| block.addr() != slab) {
                    let fault = RollFault::Entry { found };
                    return Err(RollError { page, index, fault }.into());
                }
            }
        }
        Ok(())
    }
}

/// The addresses in a slab table, from [`RollView::slabs`].
pub(crate) struct Slabs<'m, M: Machine> {
    pages: Chain<'m, M>,
    page: core::slice::Iter<'m, AtomicU64>,
}

impl<M: Machine> Iterator for Slabs<'_, M> {
    type Item = PhysAddr;

    fn next(&mut self) -> Option<PhysAddr> {
        loop {
            for word in self.page.by_ref() {
                let found = store::load(word, Relaxed);
                if !is_hole(found) {
                    return Some(PhysAddr::new(found));
                }
            }
            let (_, words, count) = self.pages.next()?;
            self.page = words.get(HEADER..HEADER + count).unwrap_or(&[]).iter();
        }
    }
}

/// Whether an entry of a slab table names no slab.
const fn is_hole(entry: u64) -> bool {
    entry == 0 || entry & 1 == 1
}

/// Record `index` of a page.
fn stored(words: &[AtomicU64], index: usize) -> Stored {
    let mut stored = Stored::new_zeroed();
    let words = words.iter().skip(HEADER + index * WORDS);
    for (bytes, word) in stored.as_mut_bytes().chunks_exact_mut(size_of::<u64>()).zip(words) {
        bytes.copy_from_slice(&store::load(word, Relaxed).to_le_bytes());
    }
    stored
}

/// A page of a chain: its address, its words and how many entries it has, checked.
type Page<'m> = (PhysAddr, &'m [AtomicU64], usize);

/// A chain of pages.
struct Chain<'m, M: Machine> {
    memory: &'m Memory<M>,
    holds: Holds<M>,
    next: PhysAddr,
    /// Where the link to `next` stands, for errors.
    from: PhysAddr,
    limit: u64,
    /// Entries that a page can hold.
    entries: usize,
    seen: u64,
    /// Brent's cycle detection: where we were at the last power of two.
    mark: PhysAddr,
    power: u64,
}

impl<'m, M: Machine> Chain<'m, M> {
    fn new(view: &RollView<'m, M>, first: PhysAddr, limit: u64, entries: usize) -> Self {
        // A chain has one page at least: zero is no page's address here.
        let next = if first.get() == 0 { PhysAddr::new(1) } else { first };
        let RollView { memory, holds, .. } = *view;
        Self { memory, holds, next, from: first, limit, entries, seen: 0, mark: next, power: 1 }
    }

    /// The next page, or `None` after the last.
    fn try_next(&mut self) -> Result<Option<Page<'m>>, RollError> {
        let page = self.next;
        if page.get() == 0 {
            return Ok(None);
        }
        let fail = |fault| RollError { page: self.from, index: 0, fault };
        let block = Block::containing(page.pfn(), Order::ZERO);
        if !page.is_page_aligned() || !self.memory.contains(block.run()) {
            return Err(fail(RollFault::Misplaced { addr: page }));
        }
        if !(self.holds)(self.memory, block) {
            return Err(fail(RollFault::NotPreserved { addr: page }));
        }
        if self.seen == self.limit || self.seen > 0 && page == self.mark {
            return Err(fail(RollFault::Endless));
        }
        self.seen += 1;
        if self.seen == self.power {
            (self.mark, self.power) = (page, self.power * 2);
        }
        // SAFETY: a page of memory, and of the roll: nothing writes it but by atomics
        // (`RollView::inherited` was promised that, and we write our own so).
        let words = unsafe { words(self.memory, page) };
        // Acquire pairs with the Release stores of `Roll` and `SlabTable` where the roll is our
        // own: what is linked or counted is written.
        let word = |i: usize| words.get(i).map_or(0, |word| store::load(word, Acquire));
        let found = word(1);
        if found > self.entries as u64 {
            let fault = RollFault::Count { found };
            return Err(RollError { page, index: 0, fault });
        }
        (self.next, self.from) = (PhysAddr::new(word(0)), page);
        Ok(Some((page, words, found as usize)))
    }
}

impl<'m, M: Machine> Iterator for Chain<'m, M> {
    type Item = Page<'m>;

    fn next(&mut self) -> Option<Self::Item> {
        // A chain that was checked and is no longer sound ends where that shows.
        self.try_next().ok().flatten()
    }
}
