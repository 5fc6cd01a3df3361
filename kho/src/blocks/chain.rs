//! Reading a chain of records that is not trusted.

use core::marker::PhantomData;

use super::{HEAD, MAX_BLOCKS, Record, entry_words, head, load, per_block};
use crate::addr::{Block, PhysAddr};
use crate::error::Error;
use crate::fault::{Fault, Table};
use crate::narrow::usize_to_u64;
use crate::pages::{Pages, table_at};
use crate::sync::AtomicU64;

/// Of a chain that has no end.
const CYCLE: Fault = Fault::Malformed { expected: "end: it comes back to a block before" };

/// A chain that was found sound: a predecessor's, or this kernel's own.
#[derive(Debug)]
pub struct Chain<'p, P, T> {
    pages: &'p P,
    first: PhysAddr,
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
        Self::walk(pages, first, Table::Records, |_, _| Ok(()))
    }

    /// Checks a chain block by block: calls `each` with every block before it is looked into, and
    /// stops at its first error.
    ///
    /// # Errors
    /// As for [`Chain::new`], and the first error of `each`. What `each` did by then stands.
    pub fn for_each<E: From<Error>>(
        pages: &'p P,
        first: PhysAddr,
        mut each: impl FnMut(Block) -> Result<(), E>,
    ) -> Result<(), E> {
        Self::walk(pages, first, Table::Records, |block, _| each(block)).map(|_| ())
    }

    /// Checks a chain that is a table of its own, as [`Chain::for_each`] does. Calls `each` with every
    /// block before it looks into it, and stops at its first error.
    ///
    /// # Errors
    /// As for [`Chain::for_each`].
    pub fn walk<E: From<Error>>(
        pages: &'p P,
        first: PhysAddr,
        table: Table,
        mut each: impl FnMut(Block, &'p [AtomicU64]) -> Result<(), E>,
    ) -> Result<Self, E> {
        const { assert!(T::PER_BLOCK > 0, "an entry fits a block") };
        let limit = per_block::<T>(pages.page_size());
        let mut chain = Self { pages, first, blocks: 0, entries: 0, marker: PhantomData };
        let (mut addr, mut from) = (first, (table, first, 0));
        // Brent's cycle detection: the hare is compared with where it was at the last power of 2.
        let (mut tortoise, mut power) = (first, 1);
        loop {
            if chain.blocks == MAX_BLOCKS {
                let fault = Fault::TooMany { found: MAX_BLOCKS + 1, limit: MAX_BLOCKS };
                return Err(fault.in_table(from.0, from.1, from.2).into());
            }
            let (block, words) = table_at(pages, addr, from)?;
            each(block, words)?;
            // Acquire pairs with the Release stores in `Records`: what is linked or counted is
            // written.
            let (next, count) = head(words);
            if count > limit {
                let fault = Fault::TooMany { found: count, limit };
                return Err(fault.in_table(table, addr, 8).into());
            }
            chain.blocks += 1;
            chain.entries += count;
            if next.get() == 0 {
                return Ok(chain);
            }
            if next == tortoise {
                return Err(CYCLE.in_table(table, addr, 0).into());
            }
            if chain.blocks == power {
                (tortoise, power) = (next, power * 2);
            }
            (from, addr) = ((table, addr, 0), next);
        }
    }

    /// Returns the address of the first block.
    pub const fn first(&self) -> PhysAddr {
        self.first
    }

    /// Returns how many blocks.
    pub const fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Returns how many entries.
    pub const fn len(&self) -> u64 {
        self.entries
    }

    /// Returns whether there is no entry.
    pub const fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// Calls `each` with every block, in order.
    ///
    /// # Errors
    /// [`Error::Table`] if the chain changed since it was checked.
    pub fn for_each_block(&self, mut each: impl FnMut(Block)) -> Result<(), Error> {
        Self::walk(self.pages, self.first, Table::Records, |block, _| {
            each(block);
            Ok(())
        })
        .map(|_| ())
    }

    /// Returns the entries, in order.
    pub fn iter(&self) -> Entries<'p, P, T> {
        Entries {
            pages: self.pages,
            block: self.first,
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
    /// The block that the entries are read from.
    block: PhysAddr,
    next: PhysAddr,
    words: &'p [AtomicU64],
    index: u64,
    count: u64,
    blocks: u64,
    marker: PhantomData<fn() -> T>,
}

impl<P, T: Record> Entries<'_, P, T> {
    /// Returns the address of the entry that was given last.
    pub const fn last_at(&self) -> PhysAddr {
        let skip =
            usize_to_u64(HEAD) * 8 + self.index.saturating_sub(1) * usize_to_u64(size_of::<T>());
        PhysAddr::new(self.block.get() + skip)
    }
}

impl<P: Pages, T: Record> Iterator for Entries<'_, P, T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        while self.index == self.count {
            self.blocks = self.blocks.checked_sub(1)?;
            self.block = self.next;
            self.words = self.pages.words(self.next, self.pages.page_size().bytes())?;
            (self.next, self.count) = head(self.words);
            self.index = 0;
        }
        let words = entry_words::<T>(self.words, self.index)?;
        self.index += 1;
        Some(load(words))
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;
    use crate::addr::{Order, PAGE_SIZE};
    use crate::fault::TableError;
    use crate::sync::Ordering::Relaxed;
    use crate::testing::{Left, proptest_config};

    type Entry = [u64; 3];

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
        assert_eq!(fault(&left), (page(1), 0, CYCLE));
        // A loop that begins later.
        left.table(page(1), &[page(2).get()]);
        left.table(page(2), &[page(3).get()]);
        left.table(page(3), &[page(4).get()]);
        left.table(page(4), &[page(2).get()]);
        assert_eq!(fault(&left).2, CYCLE);
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

/// Linux's own lists, in a capture that has 4 KiB pages.
#[cfg(all(test, not(any(heirloom_page = "16k", heirloom_page = "64k"))))]
mod linux_tests {
    use zerocopy::native_endian::U64;
    use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

    use super::*;
    use crate::area::AreaDescriptor;
    use crate::sync::Ordering::Relaxed;
    use crate::testing::fixture;

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
                let area: AreaDescriptor = load(&memfd[4..]);
                let info =
                    area.info(PhysAddr::new(file.data.get() + 32), left.page_size()).unwrap();
                assert!(u64::from(info.pages()) * 4096 >= folios * 16);
                info.walk(&left, |_| Ok::<_, Error>(())).unwrap();
            }
        }
    }
}
