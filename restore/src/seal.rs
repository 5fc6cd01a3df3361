//! The seal: a checksum over every table that a successor will believe.
//!
//! A list of records (see [`Records`]), little-endian, 24 bytes an entry, and a hash over all of
//! them in the page of the `heirloom` subtree:
//!
//! | offset | field | |
//! |---|---|---|
//! | 0 | phys u64 | the first byte covered, a multiple of 8 |
//! | 8 | length u32 | how many bytes |
//! | 12 | kind u32 | 1 root page, 2 tracker node, 3 subtree page, 4 cache directory page, 5 slab header, 6 scratch list |
//! | 16 | xxh3 u64 | XXH3 of these bytes |
//!
//! Every block of the list has an entry; a seal without entries has one block. What the entries cover
//! are tables: whole pages, a header or a list within one, or a published root; and no two of them
//! share a frame. So checking a seal costs no more than the frames that a handover has.
//!
//! Sealing must not change what it covers, and preserving the seal's own blocks changes tracker
//! nodes. So a [`Sealer`] first gets all blocks that it may need, then takes note of what to
//! cover, and computes the checksums last.

use core::convert::Infallible;

use heirloom_folio::{Machine, Memory};
use heirloom_kho::hash::Hasher;
use heirloom_kho::internal::head;
use heirloom_kho::narrow::{u32_to_usize, usize_to_u64};
use heirloom_kho::{Block, Broken, Chain, Fault, Order, PhysAddr, Run, SealInfo, Sealed, Table};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::error::Error;
use crate::pages::Pages;
use crate::records::Records;

/// An entry of the seal's table.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Stored {
    phys: U64,
    length: U32,
    kind: U32,
    hash: U64,
}

const _: () = assert!(size_of::<Stored>() == 24);

/// Returns the XXH3 of memory that others may write, each word read once; `None` if it is not
/// there.
///
/// A writer at the same time makes the result one of no instant; it is no data race.
#[inline(never)]
fn hash_at(pages: &impl Pages, addr: PhysAddr, length: u32) -> Option<u64> {
    let words = pages.words(addr, u32_to_usize(length))?;
    let mut hasher = Hasher::new(length.into());
    hasher.memory(words);
    Some(hasher.finish())
}

/// Makes a seal.
#[derive(Debug)]
pub struct Sealer<'m, M: Machine> {
    records: Records<'m, M, Stored>,
}

/// The table of a seal that was made: what keeps it, until another is made.
#[derive(Debug)]
#[must_use = "the table stays preserved; `free` lets it go"]
pub struct SealTable<'m, M: Machine> {
    records: Records<'m, M, Stored>,
    hash: u64,
}

impl<'m, M: Machine> Sealer<'m, M> {
    /// Returns a seal with room for `entries` entries at least: from here on, making it allocates
    /// and preserves nothing.
    ///
    /// # Errors
    /// [`Error::Folio`]: out of memory. [`Error::TableFull`]: more than a list can hold. Nothing
    /// is allocated or preserved then.
    pub fn new(memory: &'m Memory<M>, entries: u64) -> Result<Self, Error> {
        let mut records = Records::new(memory)?;
        match records.reserve(entries) {
            Ok(()) => Ok(Self { records }),
            Err(error) => {
                Self { records }.abandon();
                Err(error)
            }
        }
    }

    /// Returns how many entries more fit.
    pub const fn room(&self) -> u64 {
        self.records.room()
    }

    /// Takes note of `length` bytes at `addr`, a multiple of 8.
    ///
    /// # Errors
    /// [`Error::TableFull`] if no room was made for it; nothing is noted then.
    pub fn cover(&mut self, kind: Sealed, addr: PhysAddr, length: u32) -> Result<(), Error> {
        if self.room() == 0 {
            return Err(Error::TableFull { table: Table::Seal, limit: self.records.len() });
        }
        let (phys, length, kind) = (addr.get().into(), length.into(), kind.number().into());
        self.records.push(&Stored { phys, length, kind, hash: U64::ZERO })
    }

    /// Computes every checksum, of what `pages` has. The result's [`SealTable::info`] is to be put
    /// into the page of the `heirloom` subtree.
    ///
    /// # Errors
    /// [`Error::Table`] if something noted is not in memory, or a block of the table was overwritten.
    /// The table is given up, but for blocks that what was overwritten led to.
    pub fn close(mut self, pages: &impl Pages) -> Result<SealTable<'m, M>, Error> {
        match self.compute(pages) {
            Ok(hash) => Ok(SealTable { records: self.records, hash }),
            Err(error) => {
                self.abandon();
                Err(error)
            }
        }
    }

    /// Completes the table: the hash over all of it.
    fn compute(&mut self, pages: &impl Pages) -> Result<u64, Error> {
        // A block without entries is none of a seal: so a link is as good as an entry, and one that
        // leads astray is found. Nodes lose bits by this, and are hashed after it.
        self.records.trim()?;
        let mut table = Hasher::new(self.records.len() * usize_to_u64(size_of::<Stored>()));
        let mut missing = None;
        self.records.rewrite(|entry| {
            let addr = PhysAddr::new(entry.phys.get());
            match hash_at(pages, addr, entry.length.get()) {
                Some(hash) => entry.hash = hash.into(),
                None => missing = Some(addr),
            }
            table.bytes(entry.as_bytes());
        })?;
        match missing {
            None => Ok(table.finish()),
            Some(addr) => {
                let fault = Fault::OutsideMemory { addr };
                Err(fault.in_table(Table::Seal, self.records.first(), 0).into())
            }
        }
    }

    /// Gives the seal up and its blocks back. If one was overwritten they stay as they are: where
    /// the others lie is not known any more.
    pub fn abandon(self) {
        let _ = self.records.free();
    }
}

impl<M: Machine> SealTable<'_, M> {
    /// Returns what the page of the `heirloom` subtree has to say.
    pub const fn info(&self) -> SealInfo {
        let Self { records, hash } = self;
        SealInfo { first: records.first(), entries: records.len(), hash: *hash }
    }

    /// Frees the table. The page of the `heirloom` subtree must not name it any more.
    ///
    /// # Errors
    /// [`Error::Table`] if a block was overwritten; the table is handed back.
    pub fn free(self) -> Result<(), (Self, Error)> {
        let hash = self.hash;
        self.records.free().map_err(|(records, error)| (Self { records, hash }, error))
    }
}

/// Calls `each` with the blocks of a seal's table, each before it is looked into.
///
/// # Errors
/// As for [`verify`], for the table alone, and the first error of `each`.
pub(crate) fn for_each_block(
    pages: &impl Pages,
    seal: &SealInfo,
    mut each: impl FnMut(Block) -> Result<(), Error>,
) -> Result<(), Error> {
    Chain::<_, Stored>::walk(pages, seal.first, Table::Seal, |block, _| each(block)).map(|_| ())
}

/// Checks a predecessor's seal: calls `broken` with everything whose bytes are not as they were
/// sealed, and returns how many entries it found sound.
///
/// `frames` is how many pages the entries may cover together: those of the handover, in which no two
/// entries share one. A table whose entries cover more is refused before these are read.
///
/// # Errors
/// [`Error::Table`] with the seal's table: the chain is not sound, the table is not the one whose
/// hash `seal` has, or an entry names what is not in memory, no kind, or a length that nothing of its
/// kind has.
pub fn verify(
    pages: &impl Pages,
    seal: &SealInfo,
    frames: u64,
    mut broken: impl FnMut(Broken),
) -> Result<u64, Error> {
    let verified = verify_each(pages, seal, frames, |entry| {
        broken(entry);
        Ok::<_, Infallible>(())
    });
    verified.unwrap_or_else(|never| match never {})
}

/// Verifies each table as long as `broken` says `Ok`: its first error, else the result of [`verify`].
pub(crate) fn verify_each<E>(
    pages: &impl Pages,
    seal: &SealInfo,
    frames: u64,
    mut broken: impl FnMut(Broken) -> Result<(), E>,
) -> Result<Result<u64, Error>, E> {
    let chain = match sound_table(pages, seal) {
        Ok(chain) => chain,
        Err(error) => return Ok(Err(error)),
    };
    let mut sound = 0;
    let mut budget = Budget { limit: frames, used: 0 };
    for entry in &chain {
        match check_entry(pages, seal, &entry, &mut budget) {
            Ok(None) => sound += 1,
            Ok(Some(entry)) => broken(entry)?,
            Err(error) => return Ok(Err(error)),
        }
    }
    Ok(Ok(sound))
}

// The state of a hash is 340 bytes: it is on the stack only while there is something to hash.

/// Returns the seal's table, if it is the one whose hash `seal` has.
#[inline(never)]
fn sound_table<'p, P: Pages>(pages: &'p P, seal: &SealInfo) -> Result<Chain<'p, P, Stored>, Error> {
    let chain = Chain::<_, Stored>::walk(pages, seal.first, Table::Seal, |block, words| {
        let empty = Fault::Malformed { expected: "an entry in each block" };
        let sole = seal.entries == 0 && block.addr() == seal.first;
        match head(words) {
            (next, 0) if sole && next.get() == 0 => Ok(()),
            (_, 0) => Err(empty.in_table(Table::Seal, block.addr(), 8)),
            _ => Ok(()),
        }
    })?;
    let fail = |fault: Fault| fault.in_table(Table::Seal, seal.first, 0).into();
    if chain.len() != seal.entries {
        return Err(fail(Fault::Length { expected: seal.entries, found: chain.len() }));
    }
    // No more than there is memory for: `Chain::walk` counted them.
    let mut table = Hasher::new(chain.len() * usize_to_u64(size_of::<Stored>()));
    for entry in &chain {
        table.bytes(entry.as_bytes());
    }
    let expected = table.finish();
    if expected != seal.hash {
        return Err(fail(Fault::Checksum { expected, found: seal.hash }));
    }
    Ok(chain)
}

/// The pages that the entries of a seal may cover, and have covered.
struct Budget {
    limit: u64,
    used: u64,
}

/// Returns what is broken about the bytes that an entry covers, if anything is.
#[inline(never)]
fn check_entry(
    pages: &impl Pages,
    seal: &SealInfo,
    entry: &Stored,
    budget: &mut Budget,
) -> Result<Option<Broken>, Error> {
    let kind = kind_of(pages, seal, entry, budget)?;
    let (addr, length) = (PhysAddr::new(entry.phys.get()), entry.length.get());
    let Some(found) = hash_at(pages, addr, length) else {
        return Err(Fault::OutsideMemory { addr }.in_table(Table::Seal, seal.first, 0).into());
    };
    let sealed = entry.hash.get();
    Ok((found != sealed).then_some(Broken { kind, addr, length, sealed, found }))
}

/// Returns what an entry covers: something that there can be, and that is within the budget.
#[inline(never)]
fn kind_of(
    pages: &impl Pages,
    seal: &SealInfo,
    entry: &Stored,
    budget: &mut Budget,
) -> Result<Sealed, Error> {
    let fail = |fault: Fault| fault.in_table(Table::Seal, seal.first, 0).into();
    let addr = PhysAddr::new(entry.phys.get());
    let number = entry.kind.get();
    let kind = Sealed::from_number(number);
    let kind = kind.ok_or(fail(Fault::Reserved { found: number.into() }))?;
    let length = entry.length.get();
    let run = pages.page_size().covering(addr, length.into());
    let run = run.ok_or(fail(Fault::OutsideMemory { addr }))?;
    budget.used = budget.used.saturating_add(pages.page_size().pages(run.frames()));
    if budget.used > budget.limit {
        return Err(fail(Fault::TooMany { found: budget.used, limit: budget.limit }));
    }
    fits(pages, kind, run, length).map_err(fail)?;
    Ok(kind)
}

/// Checks that something of this kind can have `length` bytes, which lie in `run`.
fn fits(pages: &impl Pages, kind: Sealed, run: Run, length: u32) -> Result<(), Fault> {
    let page = pages.page_size();
    let (expected, found) = (usize_to_u64(page.bytes()), u64::from(length));
    // What is published is no larger than a folio.
    let largest = page.order_of(Order::MAX_FOLIO.get()).unwrap_or(Order::MAX).bytes();
    match kind {
        Sealed::Root | Sealed::Node | Sealed::CacheDirectory if found != expected => {
            Err(Fault::Length { expected, found })
        }
        Sealed::Subtree if found == 0 || found > largest => {
            Err(Fault::Length { expected: largest, found })
        }
        Sealed::Subtree => match pages.first_unpreserved(run) {
            Some(missing) => {
                let block = page.page_of(missing);
                Err(Fault::NotPreserved { block })
            }
            None => Ok(()),
        },
        // In one page, which others cover in no part.
        _ if found == 0 || found > expected || run.bytes() > expected => {
            Err(Fault::Length { expected, found })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use heirloom_folio::harness::Ram;
    use heirloom_kho::sync::Ordering::Relaxed;
    use heirloom_kho::{PAGE_SIZE, Record, TableError};
    use proptest::prelude::*;
    use xxhash_rust::xxh3::xxh3_64;

    use super::*;
    use crate::area::new_table;
    use crate::pages::Own;
    use crate::testing::proptest_config;

    const PAGE: u32 = PAGE_SIZE as u32;
    /// More than the entries of two blocks of a table, each of which is one frame's.
    const FRAMES: u64 = Stored::PER_BLOCK * 2 + 256;

    fn memory() -> Memory<Ram> {
        Ram::memory(&Ram::frames(FRAMES)).unwrap()
    }

    /// Returns the number of pages with something in them.
    fn tables(memory: &Memory<Ram>, count: u64) -> Vec<PhysAddr> {
        let table = |n| {
            let (addr, words) = new_table(memory).unwrap();
            for (i, word) in words.iter().enumerate() {
                word.store(n ^ (i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15), Relaxed);
            }
            addr
        };
        (0..count).map(table).collect()
    }

    fn check(memory: &Memory<Ram>, info: &SealInfo) -> Result<(u64, Vec<Broken>), Error> {
        let mut broken = Vec::new();
        let sound = verify(&Own(memory), info, FRAMES, |b| broken.push(b))?;
        Ok((sound, broken))
    }

    fn flip(memory: &Memory<Ram>, addr: PhysAddr, bit: u32) {
        let own = Own(memory);
        let word = &own.words(addr, 8).unwrap()[0];
        word.store(word.load(Relaxed) ^ 1 << bit, Relaxed);
    }

    #[test]
    fn a_changed_bit_is_named() {
        let memory = memory();
        let tables = tables(&memory, 5);
        let mut sealer = Sealer::new(&memory, 5).unwrap();
        for (kind, addr) in Sealed::ALL.into_iter().zip(&tables) {
            sealer.cover(kind, *addr, PAGE).unwrap();
        }
        let table = sealer.close(&Own(&memory)).unwrap();
        let info = table.info();
        assert_eq!(info.entries, 5);
        assert_eq!(check(&memory, &info), Ok((5, Vec::new())));
        for (kind, addr) in Sealed::ALL.into_iter().zip(&tables) {
            let at = PhysAddr::new(addr.get() + u64::from(PAGE) - 8);
            flip(&memory, at, 63);
            let (sound, broken) = check(&memory, &info).unwrap();
            assert_eq!((sound, broken.len()), (4, 1));
            assert_eq!((broken[0].kind, broken[0].addr, broken[0].length), (kind, *addr, PAGE));
            flip(&memory, at, 63);
        }
        assert_eq!(check(&memory, &info), Ok((5, Vec::new())));
        table.free().unwrap();
        assert!(check(&memory, &info).is_err());
    }

    #[test]
    fn the_hash_is_that_of_the_bytes() {
        let memory = memory();
        let addr = tables(&memory, 1)[0];
        let own = Own(&memory);
        let bytes: Vec<u8> = own
            .words(addr, PAGE_SIZE)
            .unwrap()
            .iter()
            .flat_map(|w| w.load(Relaxed).to_ne_bytes())
            .collect();
        for length in [0, 1, 8, 112, 255, 256, 257, 1000, PAGE] {
            let expected = xxh3_64(&bytes[..length as usize]);
            assert_eq!(hash_at(&own, addr, length), Some(expected), "{length}");
        }
        assert_eq!(hash_at(&own, PhysAddr::new(addr.get() + 4), 8), None);
    }

    #[test]
    fn sealing_allocates_and_preserves_nothing_more() {
        let memory = memory();
        let entries = Stored::PER_BLOCK + 1;
        let tables = tables(&memory, 4);
        let mut sealer = Sealer::new(&memory, entries).unwrap();
        let before = (memory.stats(), memory.preserved().counts());
        for i in 0..sealer.room() {
            sealer.cover(Sealed::Node, tables[i as usize % 4], PAGE).unwrap();
        }
        let full = Error::TableFull { table: Table::Seal, limit: Stored::PER_BLOCK * 2 };
        assert_eq!(sealer.cover(Sealed::Node, tables[0], PAGE), Err(full));
        let table = sealer.close(&Own(&memory)).unwrap();
        assert_eq!((memory.stats(), memory.preserved().counts()), before);
        assert_eq!(check(&memory, &table.info()).unwrap().0, Stored::PER_BLOCK * 2);
    }

    #[test]
    fn what_is_not_there_cannot_be_sealed() {
        let memory = memory();
        let preserved = memory.stats().preserved;
        let mut sealer = Sealer::new(&memory, 1).unwrap();
        let addr = PhysAddr::new(1 << 50);
        sealer.cover(Sealed::Slab, addr, 8).unwrap();
        match sealer.close(&Own(&memory)) {
            Err(Error::Table(e)) => assert_eq!(e.fault, Fault::OutsideMemory { addr }),
            other => panic!("{other:?}"),
        }
        assert_eq!(memory.stats().preserved, preserved);
    }

    #[test]
    fn a_seal_of_nothing_is_one_empty_block() {
        let memory = memory();
        let table = Sealer::new(&memory, 0).unwrap().close(&Own(&memory)).unwrap();
        let info = table.info();
        assert_eq!((info.entries, info.hash), (0, xxh3_64(&[])));
        assert_eq!(check(&memory, &info), Ok((0, Vec::new())));
        // Two of them are none.
        let next = Sealer::new(&memory, 0).unwrap().close(&Own(&memory)).unwrap();
        let own = Own(&memory);
        let link = &own.words(info.first, 8).unwrap()[0];
        link.store(next.info().first.get(), Relaxed);
        match check(&memory, &info) {
            Err(Error::Table(e)) => assert!(matches!(e.fault, Fault::Malformed { .. }), "{e}"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_table_that_was_overwritten_is_given_up_as_far_as_it_is_known() {
        let memory = memory();
        let preserved = memory.stats().preserved;
        let mut sealer = Sealer::new(&memory, Stored::PER_BLOCK * 3).unwrap();
        let all = memory.stats().preserved - preserved;
        sealer.cover(Sealed::Root, tables(&memory, 1)[0], PAGE).unwrap();
        let link = |at: PhysAddr| Own(&memory).words(at, 8).unwrap()[0].load(Relaxed);
        let second = PhysAddr::new(link(sealer.records.first()));
        let third = PhysAddr::new(link(second));
        Own(&memory).words(second, 8).unwrap()[0].store(third.get() + 1, Relaxed);
        match sealer.close(&Own(&memory)) {
            Err(Error::Table(e)) => assert!(matches!(e.fault, Fault::Misaligned { .. }), "{e}"),
            other => panic!("{other:?}"),
        }
        // But for the one that is sealed, and those behind the link.
        assert_eq!(memory.stats().preserved - preserved - 1, all - 2);
        assert!(memory.preserved().contains(Block::containing(third.pfn(), Order::ZERO)));
    }

    #[test]
    fn out_of_memory_leaves_no_table() {
        let memory = Ram::memory(&Ram::frames(16)).unwrap();
        memory.preserved().tree_root().unwrap();
        let error = Sealer::new(&memory, Stored::PER_BLOCK * 20).unwrap_err();
        assert!(matches!(error, Error::Folio(_)), "{error:?}");
        assert_eq!(memory.stats().preserved, 0);
    }

    #[test]
    fn a_forged_table_is_refused() {
        let memory = memory();
        let tables = tables(&memory, 2);
        let mut sealer = Sealer::new(&memory, 2).unwrap();
        sealer.cover(Sealed::Root, tables[0], PAGE).unwrap();
        sealer.cover(Sealed::Slab, tables[1], 256).unwrap();
        let info = sealer.close(&Own(&memory)).unwrap().info();
        let fault = |info: &SealInfo| match check(&memory, info) {
            Err(Error::Table(TableError { table: Table::Seal, fault, .. })) => fault,
            other => panic!("{other:?}"),
        };
        let length = Fault::Length { expected: 3, found: 2 };
        assert_eq!(fault(&SealInfo { entries: 3, ..info }), length);
        let checksum = Fault::Checksum { expected: info.hash, found: info.hash ^ 1 };
        assert_eq!(fault(&SealInfo { hash: info.hash ^ 1, ..info }), checksum);
        flip(&memory, PhysAddr::new(info.first.get() + 16), 5);
        assert!(matches!(fault(&info), Fault::Checksum { .. }));
        let block = Block::containing(PhysAddr::new(8).pfn(), Order::ZERO);
        let first = block.addr();
        assert_eq!(fault(&SealInfo { first, ..info }), Fault::NotPreserved { block });
    }

    proptest! {
        #![proptest_config(proptest_config(64))]

        #[test]
        fn any_flip_is_found(page in 0_usize..4, word in 0_u64..512, bit in 0_u32..64) {
            let memory = memory();
            let tables = tables(&memory, 4);
            let mut sealer = Sealer::new(&memory, 4).unwrap();
            for addr in &tables {
                sealer.cover(Sealed::Node, *addr, PAGE).unwrap();
            }
            let info = sealer.close(&Own(&memory)).unwrap().info();
            flip(&memory, PhysAddr::new(tables[page].get() + word * 8), bit);
            let (sound, broken) = check(&memory, &info).unwrap();
            prop_assert_eq!((sound, broken.len(), broken[0].addr), (3, 1, tables[page]));
        }
    }
}
