//! The scratch list: where a successor may work before it has read the preserved map.
//!
//! Linux's array of `{ u64 addr, u64 size }`, native byte order: low memory first, then memory
//! anywhere, then one entry a NUMA node; a size of 0 means that there is none. Nothing preserved
//! ever lies in it.

use core::borrow::Borrow;

use crate::addr::{PAGE_SIZE, PhysAddr, Run};
use crate::error::Error;
use crate::fault::{Fault, Table};
use crate::narrow::usize_to_u64;
use crate::page_size::PageSize;
use crate::store;
use crate::sync::AtomicU64;
use crate::sync::Ordering::Relaxed;

/// Bytes of one entry.
const ENTRY: usize = 16;

/// The most entries of a list: one page of them.
const LIMIT: usize = PAGE_SIZE / ENTRY;

/// Writes scratch lists into a page of words.
#[derive(Clone, Copy, Debug)]
pub struct ScratchWords<'a> {
    words: &'a [AtomicU64],
    at: PhysAddr,
}

impl<'a> ScratchWords<'a> {
    /// Returns the number of bytes that a list of `entries` needs.
    pub const fn bytes(entries: usize) -> usize {
        entries.saturating_mul(ENTRY)
    }

    /// Returns a list to be written into `words`, which stand at `at`.
    pub const fn new(words: &'a [AtomicU64], at: PhysAddr) -> Self {
        Self { words, at }
    }

    /// Writes `areas` and returns the size of the list in bytes: with its address, what a
    /// successor is told. Must be done before the successor is.
    ///
    /// # Errors
    /// [`Error::TableFull`] if the areas do not fit, [`Error::BadRun`] if one shares a frame with
    /// another. The words then hold no list.
    pub fn write<I>(self, areas: I) -> Result<usize, Error>
    where
        I: IntoIterator<Item: Borrow<Run>, IntoIter: Clone>,
    {
        let areas = areas.into_iter().map(|run| *run.borrow());
        let limit = LIMIT.min(self.words.len() / 2);
        let count = areas.clone().count();
        if count > limit {
            return Err(Error::TableFull { table: Table::Scratch, limit: usize_to_u64(limit) });
        }
        for (i, run) in areas.clone().enumerate() {
            if areas.clone().take(i).any(|other| other.overlaps(run)) {
                return Err(Error::BadRun { table: Table::Scratch, run });
            }
        }
        for (entry, run) in self.words.chunks_exact(2).zip(areas) {
            if let [addr, size] = entry {
                store::word64(addr, run.addr().get(), Relaxed);
                store::word64(size, run.bytes(), Relaxed);
            }
        }
        Ok(Self::bytes(count))
    }

    /// Returns the list's address.
    pub const fn at(self) -> PhysAddr {
        self.at
    }
}

/// A predecessor's scratch list, found sound.
///
/// # Examples
/// ```
/// use core::sync::atomic::AtomicU64;
/// use heirloom_kho::{PAGE_SIZE, Pfn, PhysAddr, Run};
/// use heirloom_kho::{ScratchList, ScratchWords};
///
/// let words = [const { AtomicU64::new(0) }; PAGE_SIZE / 8];
/// let (at, area) = (PhysAddr::new(0x10_0000), Run::new(Pfn::new(0x400), 64).unwrap());
/// let bytes = ScratchWords::new(&words, at).write(&[area])?;
/// let list = ScratchList::new(&words[..bytes / 8], at, |_| true)?;
/// assert_eq!(list.runs().collect::<Vec<_>>(), [area]);
/// # Ok::<(), heirloom_kho::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct ScratchList<'a> {
    words: &'a [AtomicU64],
}

impl<'a> ScratchList<'a> {
    /// The most entries that a list of this build has.
    pub const LIMIT: usize = LIMIT;

    /// Checks the list in `words`, which stand at `at`; `is_memory` knows what is memory.
    ///
    /// The list is as many words long as the predecessor said it is.
    ///
    /// # Errors
    /// [`Error::Table`] with the scratch list, the byte and the reason: half an entry, more than
    /// [`ScratchList::LIMIT`] of them, an area that is not whole frames, not memory, or shares a
    /// frame with another.
    pub fn new(
        words: &'a [AtomicU64],
        at: PhysAddr,
        is_memory: impl Fn(Run) -> bool,
    ) -> Result<Self, Error> {
        Self::sized(PageSize::BUILD, words, at, is_memory)
    }

    /// Checks the list as [`ScratchList::new`] does, of a kernel with pages of this size.
    ///
    /// # Errors
    /// As for [`ScratchList::new`].
    pub fn sized(
        page: PageSize,
        words: &'a [AtomicU64],
        at: PhysAddr,
        is_memory: impl Fn(Run) -> bool,
    ) -> Result<Self, Error> {
        let limit = usize_to_u64(page.bytes() / ENTRY);
        let fail = |offset, fault: Fault| Err(fault.in_table(Table::Scratch, at, offset));
        let bytes = size_of_val(words);
        if !bytes.is_multiple_of(ENTRY) {
            let expected = usize_to_u64(bytes / ENTRY * ENTRY);
            return fail(0, Fault::Length { expected, found: usize_to_u64(bytes) });
        }
        let found = usize_to_u64(bytes / ENTRY);
        if found > limit {
            return fail(0, Fault::TooMany { found, limit });
        }
        let list = Self { words };
        for (i, (addr, size)) in list.entries().enumerate() {
            let offset = i * ENTRY;
            // An empty area may be anywhere: `runs` leaves it out.
            if size == 0 {
                continue;
            }
            if !page.is_aligned(addr) {
                return fail(offset, Fault::Misaligned { addr });
            }
            let run = page.covering(addr, size);
            let Some(run) = run.filter(|run| run.bytes() == size) else {
                let expected = size & !(usize_to_u64(page.bytes()) - 1);
                return fail(offset + 8, Fault::Length { expected, found: size });
            };
            if !is_memory(run) {
                return fail(offset, Fault::OutsideMemory { addr });
            }
            // Each with those before it: a list is a page at most, so a few hundred entries.
            if let Some(with) = list.take(i).find(|other| other.overlaps(run)) {
                return fail(offset, Fault::Overlap { run, with });
            }
        }
        Ok(list)
    }

    /// Returns the list that this kernel wrote into `words`.
    pub const fn ours(words: &'a [AtomicU64]) -> Self {
        Self { words }
    }

    /// Returns the areas that are not empty, in the order of the list.
    pub fn runs(&self) -> impl Iterator<Item = Run> + Clone + use<'a> {
        self.take(usize::MAX)
    }

    /// Returns whether any of `run`'s frames is scratch.
    pub fn overlaps(&self, run: Run) -> bool {
        self.runs().any(|area| area.overlaps(run))
    }

    fn take(&self, entries: usize) -> impl Iterator<Item = Run> + Clone + use<'a> {
        let runs = self.entries().take(entries).filter(|(_, size)| *size != 0);
        runs.filter_map(|(addr, size)| Run::covering(addr, size))
    }

    fn entries(&self) -> impl Iterator<Item = (PhysAddr, u64)> + Clone + use<'a> {
        self.words.chunks_exact(2).filter_map(|entry| match entry {
            [addr, size] => Some((PhysAddr::new(addr.load(Relaxed)), size.load(Relaxed))),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;
    use crate::addr::Pfn;
    use crate::fault::TableError;
    use crate::testing::{proptest_config, words64};

    const AT: PhysAddr = PhysAddr::new(0x9000_0000);
    const PAGE: u64 = PAGE_SIZE as u64;

    fn run(start: u64, frames: u64) -> Run {
        Run::new(Pfn::new(start), frames).unwrap()
    }

    fn words(entries: &[(u64, u64)]) -> Vec<AtomicU64> {
        entries.iter().flat_map(|(a, s)| [AtomicU64::new(*a), AtomicU64::new(*s)]).collect()
    }

    fn below_4096(run: Run) -> bool {
        run.end() <= Pfn::new(4096)
    }

    fn fault(words: &[AtomicU64]) -> (usize, Fault) {
        match ScratchList::new(words, AT, below_4096) {
            Err(Error::Table(TableError { table: Table::Scratch, at: AT, offset, fault })) => {
                (offset, fault)
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_list_is_written_and_read() {
        let page = words64(&[0xff; PAGE_SIZE]);
        let areas = [run(16, 4), run(0, 0), run(400, 96)];
        let bytes = ScratchWords::new(&page, AT).write(areas).unwrap();
        assert_eq!(bytes, 48);
        let list = ScratchList::new(&page[..bytes / 8], AT, below_4096).unwrap();
        assert_eq!(list.runs().collect::<Vec<_>>(), [areas[0], areas[2]]);
        assert!(list.overlaps(run(19, 2)));
        assert!(!list.overlaps(run(20, 380)));
    }

    #[test]
    fn what_fits_no_list_is_not_written() {
        let page = words64(&[0; PAGE_SIZE]);
        let areas: Vec<_> = (0..=LIMIT as u64).map(|i| run(i, 1)).collect();
        let full = Error::TableFull { table: Table::Scratch, limit: LIMIT as u64 };
        assert_eq!(ScratchWords::new(&page, AT).write(&areas), Err(full));
        assert!(ScratchWords::new(&page, AT).write(&areas[1..]).is_ok());
        let bad = Error::BadRun { table: Table::Scratch, run: run(6, 1) };
        assert_eq!(ScratchWords::new(&page, AT).write([run(4, 3), run(6, 1)]), Err(bad));
    }

    #[test]
    fn each_fault_names_its_entry() {
        let good = (PAGE, PAGE);
        let half = [AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0)];
        assert_eq!(fault(&half), (0, Fault::Length { expected: 16, found: 24 }));
        let addr = PhysAddr::new(PAGE * 2 + 1);
        let odd = words(&[good, (addr.get(), PAGE)]);
        assert_eq!(fault(&odd), (16, Fault::Misaligned { addr }));
        let short = words(&[good, (PAGE * 2, PAGE + 1)]);
        let length = Fault::Length { expected: PAGE, found: PAGE + 1 };
        assert_eq!(fault(&short), (24, length));
        let wraps = words(&[(PAGE.wrapping_neg(), PAGE * 2)]);
        assert_eq!(fault(&wraps).0, 8);
        let addr = PhysAddr::new(PAGE * 4095);
        let outside = words(&[good, (addr.get(), PAGE * 2)]);
        assert_eq!(fault(&outside), (16, Fault::OutsideMemory { addr }));
        let twice = words(&[good, (0, 0), good]);
        assert_eq!(fault(&twice), (32, Fault::Overlap { run: run(1, 1), with: run(1, 1) }));
        let many = words(&[(0, 0); LIMIT + 1]);
        let limit = LIMIT as u64;
        assert_eq!(fault(&many), (0, Fault::TooMany { found: limit + 1, limit }));
    }

    proptest! {
        #![proptest_config(proptest_config(512))]

        #[test]
        fn any_list_is_sound_or_refused(
            entries in prop::collection::vec(
                (
                    prop_oneof![any::<u64>(), (0_u64..5000).prop_map(|n| n * PAGE)],
                    prop_oneof![any::<u64>(), (0_u64..300).prop_map(|n| n * PAGE)],
                ),
                0..6,
            ),
        ) {
            let words = words(&entries);
            if let Ok(list) = ScratchList::new(&words, AT, below_4096) {
                let runs: Vec<_> = list.runs().collect();
                for (i, run) in runs.iter().enumerate() {
                    prop_assert!(below_4096(*run));
                    prop_assert!(runs[..i].iter().all(|other| !other.overlaps(*run)));
                }
            }
        }
    }
}
