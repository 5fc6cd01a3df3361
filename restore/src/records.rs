//! Lists of records that this kernel hands over.

use core::fmt;
use core::marker::PhantomData;

use heirloom_folio::{Machine, Memory};
use heirloom_kho::internal::{entry_words, head, load, save};
use heirloom_kho::sync::AtomicU64;
use heirloom_kho::sync::Ordering::Release;
use heirloom_kho::{Chain, Fault, MAX_BLOCKS, PAGE_SIZE, PhysAddr, Record, Table, store};

use crate::area::{drop_table, new_table, room_for_tables};
use crate::error::Error;
use crate::pages::{Own, table_at, words_at};

/// A list of records that survives, and that grows.
///
/// Dropping it changes nothing: the list stays preserved.
#[must_use = "the list stays preserved; `free` lets it go"]
pub struct Records<'m, M: Machine, T> {
    memory: &'m Memory<M>,
    first: PhysAddr,
    /// The block that the next entry goes to, if it has room. Blocks after it are empty.
    last: PhysAddr,
    blocks: u64,
    entries: u64,
    /// Entries that fit `last` and the blocks after it.
    room: u64,
    marker: PhantomData<fn(T) -> T>,
}

impl<M: Machine, T> fmt::Debug for Records<'_, M, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { first, blocks, entries, .. } = self;
        write!(f, "Records({entries} entries in {blocks} blocks from {first})")
    }
}

impl<'m, M: Machine, T: Record> Records<'m, M, T> {
    /// Returns an empty list: one block, whose address does not change.
    ///
    /// # Errors
    /// [`Error::Folio`]: out of memory, for the block or for a tracker node.
    pub fn new(memory: &'m Memory<M>) -> Result<Self, Error> {
        let (first, _) = new_table(memory)?;
        let room = T::PER_BLOCK;
        Ok(Self { memory, first, last: first, blocks: 1, entries: 0, room, marker: PhantomData })
    }

    /// Returns the list that a checked chain is, to read on, add to and free.
    ///
    /// # Errors
    /// [`Error::Table`] as for [`Chain::new`]: its blocks must be preserved again by now.
    ///
    /// # Safety
    /// The chain's blocks are allocated in `memory` as [`FrameType::Table`](heirloom_folio::FrameType),
    /// preserved, and no other owner's; no other value stands for the same list.
    pub unsafe fn from_raw(memory: &'m Memory<M>, first: PhysAddr) -> Result<Self, Error> {
        let own = Own(memory);
        let (mut last, mut room) = (first, 0);
        let chain = Chain::<_, T>::walk(&own, first, Table::Records, |block, words| {
            let (_, count) = head(words);
            if count > 0 {
                (last, room) = (block.addr(), 0);
            }
            room += T::PER_BLOCK.saturating_sub(count);
            Ok::<_, Error>(())
        })?;
        let (blocks, entries) = (chain.blocks(), chain.len());
        Ok(Self { memory, first, last, blocks, entries, room, marker: PhantomData })
    }

    /// Returns the address of the first block: what leads to the list.
    pub const fn first(&self) -> PhysAddr {
        self.first
    }

    /// Returns how many entries.
    pub const fn len(&self) -> u64 {
        self.entries
    }

    /// Returns whether there is no entry.
    pub const fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// Appends an entry.
    ///
    /// # Errors
    /// [`Error::Folio`]: out of memory for a further block. [`Error::TableFull`] at
    /// [`MAX_BLOCKS`]. [`Error::Table`] if the last block was overwritten.
    pub fn push(&mut self, entry: &T) -> Result<(), Error> {
        let mut words = self.table(self.last)?;
        let (next, mut count) = head(words);
        if count >= T::PER_BLOCK {
            let (addr, fresh) =
                if next.get() == 0 { self.add_block(words)? } else { (next, self.table(next)?) };
            (self.last, words, count) = (addr, fresh, 0);
        }
        let slot = entry_words::<T>(words, count);
        let (Some(slot), Some(counter)) = (slot, words.get(1)) else {
            return Err(self.overwritten());
        };
        save(slot, entry);
        // Release: a reader of the count reads the entry (`head`'s Acquire).
        store::word64(counter, count + 1, Release);
        self.entries += 1;
        self.room = self.room.saturating_sub(1);
        Ok(())
    }

    /// Adds empty blocks until `entries` further entries fit without another.
    ///
    /// # Errors
    /// As for [`Records::push`]. Blocks added by then stay, empty; there are none where memory cannot hold all of them.
    pub(crate) fn reserve(&mut self, entries: u64) -> Result<(), Error> {
        let lacking = entries.saturating_sub(self.room).div_ceil(T::PER_BLOCK);
        if lacking > MAX_BLOCKS.saturating_sub(self.blocks) {
            return Err(Self::full());
        }
        // Before a block is taken: what a try takes that comes to nothing is missing elsewhere meanwhile.
        room_for_tables(self.memory, lacking)?;
        let mut end = self.last;
        while self.room < entries {
            let words = self.table(end)?;
            let (next, _) = head(words);
            if next.get() != 0 {
                end = next;
                continue;
            }
            (end, _) = self.add_block(words)?;
        }
        Ok(())
    }

    /// Gives back the blocks in which nothing is, but the one that the next entry goes to.
    pub(crate) fn trim(&mut self) -> Result<(), Error> {
        let own = Own(self.memory);
        let words = self.table(self.last)?;
        let (mut next, _) = head(words);
        if let Some(link) = words.first() {
            store::word64(link, 0, Release);
        }
        while next.get() != 0 {
            let (block, words) = table_at(&own, next, (Table::Records, next, 0))?;
            (next, _) = head(words);
            drop_table(self.memory, block);
            self.blocks -= 1;
            self.room = self.room.saturating_sub(T::PER_BLOCK);
        }
        Ok(())
    }

    /// Returns how many entries fit without another block.
    pub(crate) const fn room(&self) -> u64 {
        self.room
    }

    /// Lets `change` have every entry, in order, and stores what it makes of it.
    ///
    /// A jump in the middle may leave half an entry: for lists that nothing leads to yet.
    pub(crate) fn rewrite(&mut self, mut change: impl FnMut(&mut T)) -> Result<(), Error> {
        Chain::<_, T>::walk(&Own(self.memory), self.first, Table::Records, |_, words| {
            for slot in (0..head(words).1).filter_map(|i| entry_words::<T>(words, i)) {
                let mut entry = load(slot);
                change(&mut entry);
                save(slot, &entry);
            }
            Ok(())
        })
        .map(|_| ())
    }

    /// Calls `each` with every entry, in order.
    ///
    /// # Errors
    /// [`Error::Table`] if a block was overwritten.
    pub fn for_each(&self, each: impl FnMut(T)) -> Result<(), Error> {
        let own = Own(self.memory);
        Chain::new(&own, self.first)?.iter().for_each(each);
        Ok(())
    }

    /// Frees the whole list. Nothing may be left where it would lead a successor to it.
    ///
    /// # Errors
    /// [`Error::Table`] if a block was overwritten, found before anything is changed; the list
    /// is handed back.
    pub fn free(self) -> Result<(), (Self, Error)> {
        let own = Own(self.memory);
        if let Err(error) = Chain::<_, T>::new(&own, self.first) {
            return Err((self, error.into()));
        }
        let mut addr = self.first;
        while let Ok((block, words)) = table_at(&own, addr, (Table::Records, addr, 0)) {
            let (next, _) = head(words);
            drop_table(self.memory, block);
            if next.get() == 0 {
                break;
            }
            addr = next;
        }
        Ok(())
    }

    /// Links a new block to `last`, the words of the last one.
    fn add_block(&mut self, last: &[AtomicU64]) -> Result<(PhysAddr, &'m [AtomicU64]), Error> {
        if self.blocks >= MAX_BLOCKS {
            return Err(Self::full());
        }
        let (addr, words) = new_table(self.memory)?;
        if let Some(link) = last.first() {
            // Release: a reader that follows the link reads an empty block (`head`'s Acquire).
            store::word64(link, addr.get(), Release);
        }
        self.blocks += 1;
        self.room += T::PER_BLOCK;
        Ok((addr, words))
    }

    const fn full() -> Error {
        Error::TableFull { table: Table::Records, limit: MAX_BLOCKS * T::PER_BLOCK }
    }

    fn table(&self, addr: PhysAddr) -> Result<&'m [AtomicU64], Error> {
        // SAFETY: a page of this list, which only its owner reaches, atomically.
        let words = unsafe { words_at(self.memory, addr, PAGE_SIZE) };
        words.ok_or(Fault::OutsideMemory { addr }.in_table(Table::Records, self.first, 0).into())
    }

    fn overwritten(&self) -> Error {
        Fault::Malformed { expected: "record block" }.in_table(Table::Records, self.last, 0).into()
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use heirloom_folio::harness::Ram;
    #[cfg(heirloom_model)]
    use heirloom_kho::store::cut;

    use super::*;

    type Entry = [u64; 3];

    fn entry(n: u64) -> Entry {
        [n, !n, n * n]
    }

    fn all(memory: &Memory<Ram>, first: PhysAddr) -> Vec<Entry> {
        Chain::new(&Own(memory), first).unwrap().iter().collect()
    }

    #[test]
    fn entries_come_back_in_order_and_the_list_goes_on() {
        let memory = Ram::memory(&Ram::frames(256)).unwrap();
        let count = Entry::PER_BLOCK * 2 + 5;
        let mut list = Records::new(&memory).unwrap();
        for n in 0..count {
            list.push(&entry(n)).unwrap();
        }
        let first = list.first();
        // SAFETY: the list's own chain, which `list` no longer stands for below.
        let mut list = unsafe { Records::<_, Entry>::from_raw(&memory, first) }.unwrap();
        assert_eq!((list.len(), list.is_empty(), list.blocks), (count, false, 3));
        for n in count..count * 2 {
            list.push(&entry(n)).unwrap();
        }
        let expected: Vec<_> = (0..count * 2).map(entry).collect();
        assert_eq!(all(&memory, first), expected);
        let mut found = Vec::new();
        list.for_each(|entry| found.push(entry)).unwrap();
        assert_eq!(found, expected);
        let mut blocks = 0;
        let own = Own(&memory);
        let chain = Chain::<_, Entry>::new(&own, first).unwrap();
        chain.for_each_block(|block| blocks += block.order().frames()).unwrap();
        assert_eq!((blocks, chain.blocks(), chain.len()), (5, 5, count * 2));
        list.free().unwrap();
        let stats = memory.stats();
        let mut nodes = 0;
        memory.preserved().for_each_node(|_| nodes += 1);
        assert_eq!((stats.preserved, stats.used()), (0, nodes));
    }

    #[test]
    fn reserved_blocks_are_filled_before_new_ones_come() {
        let memory = Ram::memory(&Ram::frames(256)).unwrap();
        let mut list = Records::<_, Entry>::new(&memory).unwrap();
        list.push(&entry(0)).unwrap();
        list.reserve(Entry::PER_BLOCK * 3).unwrap();
        assert_eq!((list.blocks, list.room()), (4, Entry::PER_BLOCK * 4 - 1));
        let preserved = memory.stats().preserved;
        let first = list.first();
        // SAFETY: the list's own chain, which `list` no longer stands for below.
        let mut list = unsafe { Records::<_, Entry>::from_raw(&memory, first) }.unwrap();
        assert_eq!((list.blocks, list.room()), (4, Entry::PER_BLOCK * 4 - 1));
        for n in 1..Entry::PER_BLOCK * 4 {
            list.push(&entry(n)).unwrap();
        }
        assert_eq!((list.room(), memory.stats().preserved), (0, preserved));
        list.push(&entry(Entry::PER_BLOCK * 4)).unwrap();
        assert_eq!(all(&memory, first), (0..=Entry::PER_BLOCK * 4).map(entry).collect::<Vec<_>>());
    }

    #[test]
    fn more_entries_than_memory_has_room_for_are_refused_before_a_block_is_taken() {
        let memory = Ram::memory(&Ram::frames(256)).unwrap();
        let mut list = Records::<_, Entry>::new(&memory).unwrap();
        let used = memory.stats().used();
        for entries in [u64::MAX, u64::MAX / 2, Entry::PER_BLOCK * 256] {
            let error = list.reserve(entries).unwrap_err();
            assert!(matches!(error, Error::Folio(_) | Error::TableFull { .. }), "{error:?}");
            assert_eq!((list.blocks, memory.stats().used()), (1, used), "{entries}");
        }
        list.reserve(Entry::PER_BLOCK * 200).unwrap();
    }

    #[cfg(heirloom_model)]
    #[test]
    fn at_any_instant_the_list_is_whole() {
        // One entry in an empty list, in a begun block, and the one that needs a new block.
        for before in [0, 3, Entry::PER_BLOCK] {
            for stores in 0.. {
                let memory = Ram::memory(&Ram::frames(64)).unwrap();
                let mut list = Records::new(&memory).unwrap();
                for n in 0..before {
                    list.push(&entry(n)).unwrap();
                }
                let (result, complete) = cut::after(stores, || list.push(&entry(before)));
                result.unwrap();
                let count = if complete { before + 1 } else { before };
                let expected: Vec<_> = (0..count).map(entry).collect();
                assert_eq!(all(&memory, list.first()), expected, "after {stores} stores");
                if complete {
                    break;
                }
            }
        }
    }

    #[test]
    fn out_of_memory_for_a_block_changes_nothing() {
        let memory = Ram::memory(&Ram::frames(64)).unwrap();
        let mut list = Records::new(&memory).unwrap();
        let mut count = 0;
        let error = loop {
            match list.push(&entry(count)) {
                Ok(()) => count += 1,
                Err(error) => break error,
            }
        };
        assert!(matches!(error, Error::Folio(_)), "{error:?}");
        assert_eq!(count % Entry::PER_BLOCK, 0);
        assert_eq!(list.len(), count);
        assert_eq!(all(&memory, list.first()), (0..count).map(entry).collect::<Vec<_>>());
        assert!(list.reserve(1).is_err());
        list.free().unwrap();
        assert!(Records::<_, Entry>::new(&memory).is_ok());
    }
}
