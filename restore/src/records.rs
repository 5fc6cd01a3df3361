//! Lists of fixed-size records in a chain of one-page blocks.
//!
//! Linux's format, native byte order:
//!
//! ```text
//!  block { next u64, count u64, entry, entry, ... }  --next-->  block { 0, count, entry, ... }
//! ```
//!
//! Valid at any instant: an entry is written before it is counted, a block is whole and preserved
//! before one 8-byte store links it. A chain has at most 10,000 blocks, as in Linux.

use core::fmt;
use core::marker::PhantomData;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use heirloom_folio::{Block, Machine, Memory, PAGE_SIZE, PhysAddr};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::area::{drop_table, new_table};
use crate::error::{Error, Fault, Table};
use crate::pages::{Own, Pages, table_at};
use crate::store;

/// The most blocks of a chain.
pub const MAX_BLOCKS: u64 = 10_000;

/// Words before the entries: the next block's address and the count.
const HEAD: usize = 2;

/// What can be an entry: plain bytes, any of which are a value, without padding.
pub trait Record: FromBytes + IntoBytes + Immutable + KnownLayout + Sized {
    /// Entries that fit one block.
    const PER_BLOCK: u64 = {
        assert!(size_of::<Self>() > 0 && size_of::<Self>().is_multiple_of(8), "whole words");
        assert!(size_of::<Self>() <= PAGE_SIZE - HEAD * 8, "an entry fits a block");
        ((PAGE_SIZE - HEAD * 8) / size_of::<Self>()) as u64
    };
}

impl<T: FromBytes + IntoBytes + Immutable + KnownLayout> Record for T {}

/// The words of entry `index` of a block.
fn entry_words<T: Record>(words: &[AtomicU64], index: u64) -> Option<&[AtomicU64]> {
    let size = size_of::<T>() / 8;
    let start = HEAD + usize::try_from(index).ok()?.checked_mul(size)?;
    words.get(start..start.checked_add(size)?)
}

fn load<T: Record>(words: &[AtomicU64]) -> T {
    let mut entry = T::new_zeroed();
    for (bytes, word) in entry.as_mut_bytes().chunks_exact_mut(8).zip(words) {
        bytes.copy_from_slice(&word.load(Relaxed).to_ne_bytes());
    }
    entry
}

fn save<T: Record>(words: &[AtomicU64], entry: &T) {
    for (bytes, word) in entry.as_bytes().chunks_exact(8).zip(words) {
        let mut value = [0; 8];
        value.copy_from_slice(bytes);
        store::word64(word, u64::from_ne_bytes(value), Relaxed);
    }
}

/// A chain that was found sound: a predecessor's, or this kernel's own.
#[derive(Debug)]
pub struct Chain<'p, P, T> {
    pages: &'p P,
    first: PhysAddr,
    last: PhysAddr,
    blocks: u64,
    entries: u64,
    marker: PhantomData<fn() -> T>,
}

impl<'p, P: Pages, T: Record> Chain<'p, P, T> {
    /// Checks the chain whose first block is at `first`.
    ///
    /// # Errors
    /// [`Error::Table`] with the block, the byte and the reason: a block misaligned or not
    /// preserved, a count above what a block holds, a chain that comes back to itself or has more
    /// than [`MAX_BLOCKS`] blocks.
    pub fn new(pages: &'p P, first: PhysAddr) -> Result<Self, Error> {
        Self::walk(pages, first, Table::Records, |_, _| ())
    }

    /// The same for a chain that is a table of its own. Calls `each` with every block.
    pub(crate) fn walk(
        pages: &'p P,
        first: PhysAddr,
        table: Table,
        mut each: impl FnMut(Block, &'p [AtomicU64]),
    ) -> Result<Self, Error> {
        let mut chain =
            Self { pages, first, last: first, blocks: 0, entries: 0, marker: PhantomData };
        let (mut addr, mut from) = (first, (table, first, 0));
        // Brent's cycle detection: the hare is compared with where it was at the last power of 2.
        let (mut tortoise, mut power) = (first, 1);
        loop {
            if chain.blocks == MAX_BLOCKS {
                let fault = Fault::TooMany { found: MAX_BLOCKS + 1, limit: MAX_BLOCKS };
                return Err(fault.in_table(from.0, from.1, from.2));
            }
            let (block, words) = table_at(pages, addr, from)?;
            each(block, words);
            // Acquire pairs with the Release stores in `Records`: what is linked or counted is
            // written.
            let (next, count) = head(words);
            if count > T::PER_BLOCK {
                let fault = Fault::TooMany { found: count, limit: T::PER_BLOCK };
                return Err(fault.in_table(table, addr, 8));
            }
            chain.blocks += 1;
            chain.entries += count;
            chain.last = addr;
            if next.get() == 0 {
                return Ok(chain);
            }
            if next == tortoise {
                return Err(Fault::Duplicate.in_table(table, addr, 0));
            }
            if chain.blocks == power {
                (tortoise, power) = (next, power * 2);
            }
            (from, addr) = ((table, addr, 0), next);
        }
    }

    /// The address of the first block.
    pub const fn first(&self) -> PhysAddr {
        self.first
    }

    /// How many blocks.
    pub const fn blocks(&self) -> u64 {
        self.blocks
    }

    /// How many entries.
    pub const fn len(&self) -> u64 {
        self.entries
    }

    /// Whether there is no entry.
    pub const fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// Calls `each` with every block, in order.
    ///
    /// # Errors
    /// [`Error::Table`] if the chain changed since it was checked.
    pub fn for_each_block(&self, mut each: impl FnMut(Block)) -> Result<(), Error> {
        Self::walk(self.pages, self.first, Table::Records, |block, _| each(block)).map(|_| ())
    }

    /// The entries, in order.
    pub fn iter(&self) -> Entries<'p, P, T> {
        Entries {
            pages: self.pages,
            next: self.first,
            words: &[],
            index: 0,
            count: 0,
            blocks: self.blocks,
            marker: PhantomData,
        }
    }
}

impl<'p, P: Pages, T: Record> IntoIterator for &Chain<'p, P, T> {
    type Item = T;
    type IntoIter = Entries<'p, P, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// The entries of a chain, from [`Chain::iter`].
#[derive(Debug)]
pub struct Entries<'p, P, T> {
    pages: &'p P,
    next: PhysAddr,
    words: &'p [AtomicU64],
    index: u64,
    count: u64,
    blocks: u64,
    marker: PhantomData<fn() -> T>,
}

impl<P: Pages, T: Record> Iterator for Entries<'_, P, T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        while self.index == self.count {
            self.blocks = self.blocks.checked_sub(1)?;
            self.words = self.pages.words(self.next, PAGE_SIZE)?;
            (self.next, self.count) = head(self.words);
            self.index = 0;
        }
        let words = entry_words::<T>(self.words, self.index)?;
        self.index += 1;
        Some(load(words))
    }
}

/// A block's link and count.
fn head(words: &[AtomicU64]) -> (PhysAddr, u64) {
    let mut head = words.iter().map(|word| word.load(Acquire));
    (PhysAddr::new(head.next().unwrap_or(0)), head.next().unwrap_or(0))
}

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
    /// An empty list: one block, whose address does not change.
    ///
    /// # Errors
    /// [`Error::Folio`]: out of memory, for the block or for a tracker node.
    pub fn new(memory: &'m Memory<M>) -> Result<Self, Error> {
        let (first, _) = new_table(memory)?;
        let room = T::PER_BLOCK;
        Ok(Self { memory, first, last: first, blocks: 1, entries: 0, room, marker: PhantomData })
    }

    /// The list that a checked chain is, to read on, add to and free.
    ///
    /// # Errors
    /// [`Error::Table`] as for [`Chain::new`]: its blocks must be preserved again by now.
    ///
    /// # Safety
    /// The chain's blocks are allocated in `memory` as [`Kind::Table`](heirloom_folio::Kind),
    /// preserved, and nobody else's; no other value stands for the same list.
    pub unsafe fn from_raw(memory: &'m Memory<M>, first: PhysAddr) -> Result<Self, Error> {
        let own = Own(memory);
        let (mut last, mut room) = (first, 0);
        let chain = Chain::<_, T>::walk(&own, first, Table::Records, |block, words| {
            let (_, count) = head(words);
            if count > 0 {
                (last, room) = (block.addr(), 0);
            }
            room += T::PER_BLOCK.saturating_sub(count);
        })?;
        let (blocks, entries) = (chain.blocks, chain.entries);
        Ok(Self { memory, first, last, blocks, entries, room, marker: PhantomData })
    }

    /// The address of the first block: what leads to the list.
    pub const fn first(&self) -> PhysAddr {
        self.first
    }

    /// How many entries.
    pub const fn len(&self) -> u64 {
        self.entries
    }

    /// Whether there is no entry.
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
        // Release: whoever reads the count reads the entry (`head`'s Acquire).
        store::word64(counter, count + 1, Release);
        self.entries += 1;
        self.room = self.room.saturating_sub(1);
        Ok(())
    }

    /// Adds empty blocks until `entries` further entries fit without another.
    ///
    /// # Errors
    /// As for [`Records::push`]. Blocks added by then stay, empty.
    pub(crate) fn reserve(&mut self, entries: u64) -> Result<(), Error> {
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

    /// How many entries fit without another block.
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
            return Err((self, error));
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
            let limit = MAX_BLOCKS * T::PER_BLOCK;
            return Err(Error::TableFull { table: Table::Records, limit });
        }
        let (addr, words) = new_table(self.memory)?;
        if let Some(link) = last.first() {
            // Release: whoever follows the link reads an empty block (`head`'s Acquire).
            store::word64(link, addr.get(), Release);
        }
        self.blocks += 1;
        self.room += T::PER_BLOCK;
        Ok((addr, words))
    }

    fn table(&self, addr: PhysAddr) -> Result<&'m [AtomicU64], Error> {
        // SAFETY: a page of this list, which only its owner reaches, atomically.
        let words = unsafe { crate::pages::words_at(self.memory, addr, PAGE_SIZE) };
        words.ok_or(Fault::OutsideMemory { addr }.in_table(Table::Records, self.first, 0))
    }

    fn overwritten(&self) -> Error {
        Fault::Malformed { expected: "record block" }.in_table(Table::Records, self.last, 0)
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use heirloom_folio::Order;
    use heirloom_folio::harness::Ram;
    use proptest::prelude::*;
    use zerocopy::native_endian::U64;

    use super::*;
    use crate::error::TableError;
    use crate::store::cut;
    use crate::testing::{Left, fixture, proptest_config};

    type Entry = [u64; 3];

    fn entry(n: u64) -> Entry {
        [n, !n, n * n]
    }

    fn page(n: u64) -> PhysAddr {
        PhysAddr::new(n * PAGE_SIZE as u64)
    }

    fn fault(left: &Left) -> (PhysAddr, usize, Fault) {
        match Chain::<_, Entry>::new(left, page(1)) {
            Err(Error::Table(TableError { table: Table::Records, at, offset, fault })) => {
                (at, offset, fault)
            }
            other => panic!("{other:?}"),
        }
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
        memory.for_each_node(|_| nodes += 1);
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

    #[test]
    fn each_fault_names_its_block() {
        let mut left = Left::default();
        let block = Block::containing(page(1).pfn(), Order::ZERO);
        assert_eq!(fault(&left), (page(1), 0, Fault::NotPreserved { block }));
        left.hold(block);
        assert_eq!(fault(&left), (page(1), 0, Fault::OutsideMemory { addr: page(1) }));
        left.table(page(1), &[page(2).get() + 8]);
        let addr = PhysAddr::new(page(2).get() + 8);
        assert_eq!(fault(&left), (page(1), 0, Fault::Misaligned { addr }));
        let (found, limit) = (Entry::PER_BLOCK + 1, Entry::PER_BLOCK);
        left.table(page(1), &[0, found]);
        assert_eq!(fault(&left), (page(1), 8, Fault::TooMany { found, limit }));
        left.table(page(1), &[page(1).get(), 0]);
        assert_eq!(fault(&left), (page(1), 0, Fault::Duplicate));
        // A loop that begins later.
        left.table(page(1), &[page(2).get()]);
        left.table(page(2), &[page(3).get()]);
        left.table(page(3), &[page(4).get()]);
        left.table(page(4), &[page(2).get()]);
        assert_eq!(fault(&left).2, Fault::Duplicate);
        left.table(page(4), &[0]);
        assert_eq!(Chain::<_, Entry>::new(&left, page(1)).unwrap().blocks(), 4);
    }

    #[test]
    fn a_chain_ends_at_its_limit() {
        /// Block after block, each of which leads to the next.
        #[derive(Debug)]
        struct Endless(Vec<[AtomicU64; 2]>);
        impl Pages for Endless {
            fn words(&self, addr: PhysAddr, _: usize) -> Option<&[AtomicU64]> {
                self.0.get(addr.pfn().get() as usize).map(<[_; 2]>::as_slice)
            }
            fn holds(&self, _: Block) -> bool {
                true
            }
        }
        let blocks = (0..=MAX_BLOCKS).map(|n| [page(n + 1).get().into(), 0.into()]).collect();
        let endless = Endless(blocks);
        let found = MAX_BLOCKS + 1;
        let fault = Fault::TooMany { found, limit: MAX_BLOCKS };
        let error = fault.in_table(Table::Records, page(MAX_BLOCKS), 0);
        assert_eq!(Chain::<_, Entry>::new(&endless, page(1)).unwrap_err(), error);
        endless.0[MAX_BLOCKS as usize][0].store(0, Relaxed);
        assert_eq!(Chain::<_, Entry>::new(&endless, page(1)).unwrap().blocks(), MAX_BLOCKS);
    }

    #[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
    #[repr(C)]
    struct Session {
        name: [u8; 64],
        files: U64,
        count: U64,
    }

    #[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
    #[repr(C)]
    struct File {
        compatible: [u8; 48],
        data: U64,
        token: U64,
    }

    #[test]
    #[cfg_attr(heirloom_page, ignore = "the capture has 4 KiB pages")]
    fn linux_own_lists_and_areas_are_read() {
        let left = fixture().left();
        let luo = left.words(PhysAddr::new(0x70_a000), 32).unwrap();
        let sessions = PhysAddr::new(luo[2].load(Relaxed));
        let sessions = Chain::<_, Session>::new(&left, sessions).unwrap();
        assert_eq!(sessions.len(), 2);
        for session in &sessions {
            assert!(session.name.ends_with(&[0]));
            let files = PhysAddr::new(session.files.get());
            let files = Chain::<_, File>::new(&left, files).unwrap();
            assert_eq!((files.len(), session.count.get()), (2, 2));
            for file in &files {
                assert!(file.compatible.starts_with(b"memfd-v2\0"));
                // { pos, size, seals and flags, nr_folios, area descriptor }
                let memfd = left.words(PhysAddr::new(file.data.get()), 48).unwrap();
                let (size, folios) = (memfd[1].load(Relaxed), memfd[3].load(Relaxed));
                assert!(size > 0 && size <= 64 << 10);
                let area: crate::AreaDescriptor = load(&memfd[4..]);
                let info = area.info(PhysAddr::new(file.data.get() + 32)).unwrap();
                assert!(u64::from(info.pages()) * 4096 >= folios * 16);
                info.walk(&left, |_| Ok(())).unwrap();
            }
        }
    }

    proptest! {
        #![proptest_config(proptest_config(512))]

        #[test]
        fn any_blocks_are_a_list_or_refused(
            blocks in prop::collection::vec(
                (
                    prop_oneof![0_u64..7, Just(0), any::<u64>()],
                    prop_oneof![0_u64..200, any::<u64>()],
                ),
                5,
            ),
        ) {
            let mut left = Left::default();
            for (i, (next, count)) in blocks.iter().enumerate() {
                let next = if *next < 7 { page(*next).get() } else { *next };
                left.table(page(i as u64 + 1), &[next, *count]);
            }
            if let Ok(chain) = Chain::<_, Entry>::new(&left, page(1)) {
                prop_assert!(chain.blocks() <= 5);
                prop_assert_eq!(chain.iter().count() as u64, chain.len());
            }
        }
    }
}
