//! The page of the `heirloom` subtree: what Linux has no word for.
//!
//! One preserved frame, little-endian, at the address that the root page names under
//! [`SUBTREE`]. The first 112 bytes never change once the root names the page; what can change is
//! turned to by the one 8-byte store of `seal`.
//!
//! | offset | field | |
//! |---|---|---|
//! | 0 | compatible, 16 bytes | `heirloom-v1`, then zeroes |
//! | 16 | `page_shift` u32 | log2 of the page size |
//! | 20 | `size` u32 | bytes of this table: 168 |
//! | 24 | generation u64 | how many kernels came before, at least |
//! | 32 | roll u64 | address of the first block of cache records, or 0 |
//! | 40 | producer, 64 bytes | who wrote it, UTF-8, then zeroes |
//! | 104 | checksum u64 | XXH3 of bytes 0..104 |
//! | 112 | seal u64 | which of the two seals holds: 0 none, `sealed-1` or `sealed-2` |
//! | 120 | seal 1: first u64, entries u64, hash u64 | the seal's table; see [`crate::seal`] |
//! | 144 | seal 2, the same | |

use heirloom_folio::sync::AtomicU64;
use heirloom_folio::sync::Ordering::{Acquire, Relaxed, Release};

use heirloom_folio::{PAGE_SHIFT, PAGE_SIZE, PhysAddr};
use xxhash_rust::xxh3::xxh3_64;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use crate::error::{Error, Fault, Table};
use crate::excerpt::unknown;
use crate::store;

/// The name of heirloom's own subtree.
pub const SUBTREE: &str = "heirloom";

/// What marks the page, and its version.
const COMPATIBLE: [u8; 16] = *b"heirloom-v1\0\0\0\0\0";

/// What says that seal 1 or seal 2 holds: words that no flipped bit turns into each other, or into
/// none.
const HOLDS: [u64; 2] = [u64::from_le_bytes(*b"sealed-1"), u64::from_le_bytes(*b"sealed-2")];

/// The page as it lies in memory.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Layout {
    fixed: Fixed,
    checksum: U64,
    seal: U64,
    seals: [Seal; 2],
}

/// What never changes.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Fixed {
    compatible: [u8; 16],
    page_shift: U32,
    size: U32,
    generation: U64,
    roll: U64,
    producer: [u8; 64],
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Seal {
    first: U64,
    entries: U64,
    hash: U64,
}

const SIZE: usize = size_of::<Layout>();
const CHECKSUM_AT: usize = core::mem::offset_of!(Layout, checksum);
const SEAL_AT: usize = core::mem::offset_of!(Layout, seal);
const SEALS_AT: usize = core::mem::offset_of!(Layout, seals);
const _: () = {
    use core::mem::offset_of;
    assert!(offset_of!(Fixed, page_shift) == 16 && offset_of!(Fixed, size) == 20);
    assert!(offset_of!(Fixed, generation) == 24 && offset_of!(Fixed, roll) == 32);
    assert!(offset_of!(Fixed, producer) == 40 && CHECKSUM_AT == 104);
    assert!(SEAL_AT == 112 && SEALS_AT == 120 && SIZE == 168 && SIZE <= PAGE_SIZE);
};

/// What the `heirloom` subtree says of a handover.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// How many handovers led to this one.
    pub generation: u64,
    /// Where the records of the caches start, if there are caches.
    pub roll: Option<PhysAddr>,
    /// Who wrote the handover.
    pub producer: Producer,
    /// The seal, if the handover is sealed.
    pub seal: Option<SealInfo>,
}

/// Where a seal's table is, and what must be in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SealInfo {
    /// The first block of the table.
    pub first: PhysAddr,
    /// How many entries.
    pub entries: u64,
    /// The hash over all entries.
    pub hash: u64,
}

/// The name of whoever wrote a handover: at most 64 bytes of UTF-8.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Producer([u8; 64]);

impl Producer {
    /// As much of `name` as fits, cut between characters.
    pub fn new(name: &str) -> Self {
        let mut bytes = [0; 64];
        let mut at = 0;
        for c in name.chars().take_while(|c| *c != '\0') {
            let Some(room) = bytes.get_mut(at..at + c.len_utf8()) else { break };
            c.encode_utf8(room);
            at += c.len_utf8();
        }
        Self(bytes)
    }

    /// The name; what is no UTF-8 in it is left out.
    pub fn as_str(&self) -> &str {
        let bytes = self.0.split(|byte| *byte == 0).next().unwrap_or(&[]);
        bytes.utf8_chunks().next().map_or("", |chunk| chunk.valid())
    }
}

impl core::fmt::Debug for Producer {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.as_str().fmt(f)
    }
}

impl Header {
    /// Bytes of the table.
    pub const SIZE: usize = SIZE;

    /// Bytes at the start of the page that do not change once it is written: what a seal covers.
    pub const FIXED: usize = SEAL_AT;

    /// Checks the page in `words`, which stand at `at`.
    ///
    /// A table longer than this build knows is read as far as it is known.
    ///
    /// # Errors
    /// [`Error::Table`] with the header, the byte and the reason: another compatible string or
    /// version, page size, a table too short, a wrong checksum, an address where no page starts,
    /// or a seal that is neither of the two.
    pub fn read(words: &[AtomicU64], at: PhysAddr) -> Result<Self, Error> {
        let mut layout = Layout::new_zeroed();
        layout.load(words, at)?;
        layout.check(at)?;
        layout.check_sum(at)?;
        Self::of(&layout, at)
    }

    /// What the bytes say, which are those that were written.
    #[inline(never)]
    fn of(layout: &Layout, at: PhysAddr) -> Result<Self, Error> {
        let fail = |offset, fault: Fault| fault.in_table(Table::Header, at, offset);
        let fixed = &layout.fixed;
        let roll = PhysAddr::new(fixed.roll.get());
        if !roll.is_page_aligned() {
            return Err(fail(32, Fault::Misaligned { addr: roll }));
        }
        let seal = match layout.seal.get() {
            0 => None,
            found => {
                let which = HOLDS.iter().position(|holds| *holds == found);
                let which = which.ok_or(fail(SEAL_AT, Fault::Magic { found }))?;
                layout.seals.get(which)
            }
        };
        let seal = seal.map(|seal| SealInfo {
            first: PhysAddr::new(seal.first.get()),
            entries: seal.entries.get(),
            hash: seal.hash.get(),
        });
        Ok(Self {
            generation: fixed.generation.get(),
            roll: (roll.get() != 0).then_some(roll),
            producer: Producer(fixed.producer),
            seal,
        })
    }
}

// The checks of a header, each with what it takes of the stack for itself.
impl Layout {
    /// Copies what stands in `words`.
    #[inline(never)]
    fn load(&mut self, words: &[AtomicU64], at: PhysAddr) -> Result<(), Error> {
        let (expected, found) = (SIZE as u64, size_of_val(words) as u64);
        if found < expected {
            return Err(Fault::Length { expected, found }.in_table(Table::Header, at, 20));
        }
        for (bytes, word) in self.as_mut_bytes().chunks_exact_mut(8).zip(words) {
            // Acquire pairs with the Release store in `HeaderPage::seal`: the seal that holds,
            // which comes first in the page, is read after the word that says so.
            bytes.copy_from_slice(&word.load(Acquire).to_ne_bytes());
        }
        Ok(())
    }

    /// Whether this build reads it.
    #[inline(never)]
    fn check(&self, at: PhysAddr) -> Result<(), Error> {
        let fail = |offset, fault: Fault| fault.in_table(Table::Header, at, offset);
        let fixed = &self.fixed;
        check_compatible(&fixed.compatible).map_err(|fault| fail(0, fault))?;
        let (shift, size) = (fixed.page_shift.get(), fixed.size.get());
        if shift != PAGE_SHIFT {
            let (expected, found) = (PAGE_SHIFT.into(), shift.into());
            return Err(fail(16, Fault::Length { expected, found }));
        }
        if (size as usize) < SIZE || size as usize > PAGE_SIZE {
            return Err(fail(20, Fault::Length { expected: SIZE as u64, found: size.into() }));
        }
        Ok(())
    }

    /// Whether it is as it was written.
    #[inline(never)]
    fn check_sum(&self, at: PhysAddr) -> Result<(), Error> {
        let (expected, found) = (xxh3_64(self.fixed.as_bytes()), self.checksum.get());
        if expected != found {
            let fault = Fault::Checksum { expected, found };
            return Err(fault.in_table(Table::Header, at, CHECKSUM_AT));
        }
        Ok(())
    }
}

/// Whether this build reads a page that is marked so.
fn check_compatible(found: &[u8; 16]) -> Result<(), Fault> {
    if *found == COMPATIBLE {
        return Ok(());
    }
    let text = || found.split(|byte| *byte == 0).next().unwrap_or(&[]).iter().copied();
    Err(unknown(text, "heirloom-v", "heirloom-v1"))
}

/// The page of this kernel's `heirloom` subtree.
///
/// # Examples
/// ```
/// use core::sync::atomic::AtomicU64;
/// use heirloom_folio::{PAGE_SIZE, PhysAddr};
/// use heirloom_restore::{Header, HeaderPage, Producer};
///
/// let words = [const { AtomicU64::new(0) }; PAGE_SIZE / 8];
/// let at = PhysAddr::new(0x10_0000);
/// let header =
///     Header { generation: 3, roll: None, producer: Producer::new("example 1.0"), seal: None };
/// HeaderPage::create(&words, at, &header)?;
/// assert_eq!(Header::read(&words, at), Ok(header));
/// # Ok::<(), heirloom_restore::Error>(())
/// ```
#[derive(Debug)]
pub struct HeaderPage<'a> {
    words: &'a [AtomicU64],
    at: PhysAddr,
}

impl<'a> HeaderPage<'a> {
    /// Writes `header` into `words`, the page at `at`. The root page must name it only after this,
    /// and nothing else may write it while the value lives.
    ///
    /// # Errors
    /// [`Error::TableFull`] if `words` are fewer than the table's, [`Error::Table`] if the header
    /// could not be read back: a roll where no page starts.
    pub fn create(words: &'a [AtomicU64], at: PhysAddr, header: &Header) -> Result<Self, Error> {
        let Some(words) = words.get(..SIZE / 8) else {
            return Err(Error::TableFull { table: Table::Header, limit: words.len() as u64 });
        };
        let roll = header.roll.unwrap_or_default();
        if !roll.is_page_aligned() {
            return Err(Fault::Misaligned { addr: roll }.in_table(Table::Header, at, 32));
        }
        let fixed = Fixed {
            compatible: COMPATIBLE,
            page_shift: PAGE_SHIFT.into(),
            size: (SIZE as u32).into(),
            generation: header.generation.into(),
            roll: roll.get().into(),
            producer: header.producer.0,
        };
        let mut layout = Layout::new_zeroed();
        layout.fixed = fixed;
        layout.checksum = xxh3_64(fixed.as_bytes()).into();
        for (bytes, word) in layout.as_bytes().chunks_exact(8).zip(words) {
            let mut value = [0; 8];
            value.copy_from_slice(bytes);
            store::word64(word, u64::from_ne_bytes(value), Relaxed);
        }
        let mut page = Self { words, at };
        page.seal(header.seal);
        Ok(page)
    }

    /// The page that [`HeaderPage::create`] wrote into `words` before.
    pub(crate) fn reopen(words: &'a [AtomicU64], at: PhysAddr) -> Self {
        Self { words: words.get(..SIZE / 8).unwrap_or(words), at }
    }

    /// The page's address.
    pub const fn at(&self) -> PhysAddr {
        self.at
    }

    /// What the page says now.
    ///
    /// # Errors
    /// [`Error::Table`] if something else wrote the page.
    pub fn read(&self) -> Result<Header, Error> {
        Header::read(self.words, self.at)
    }

    /// Says that this seal holds now, and no other; or that none does.
    pub fn seal(&mut self, seal: Option<SealInfo>) {
        let Some(word) = self.words.get(SEAL_AT / 8) else { return };
        let which = match seal {
            None => 0,
            Some(seal) => {
                // The seal that does not hold is written, then turned to.
                let [first, second] = HOLDS;
                let holds = u64::from_le(word.load(Relaxed)) == first;
                let (which, at) = if holds { (second, 1) } else { (first, 0) };
                let start = SEALS_AT / 8 + at * (size_of::<Seal>() / 8);
                let fields = [seal.first.get(), seal.entries, seal.hash];
                for (word, field) in self.words.iter().skip(start).zip(fields) {
                    store::word64(word, field.to_le(), Relaxed);
                }
                which
            }
        };
        // Release: whoever reads which seal holds reads that seal (`Header::read`'s Acquire).
        store::word64(word, which.to_le(), Release);
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;
    use crate::error::TableError;
    use crate::excerpt::Excerpt;
    use crate::store::cut;
    use crate::testing::{proptest_config, words64};

    const AT: PhysAddr = PhysAddr::new(0x4000_0000);
    const SEAL: SealInfo = SealInfo { first: AT, entries: 3, hash: 0x1234_5678_9abc_def0 };

    fn header() -> Header {
        let roll = Some(PhysAddr::new(PAGE_SIZE as u64 * 77));
        Header { generation: 200, roll, producer: Producer::new("kernel 7"), seal: None }
    }

    fn page() -> Vec<AtomicU64> {
        words64(&[0x5a; PAGE_SIZE])
    }

    fn bytes(words: &[AtomicU64]) -> Vec<u8> {
        words.iter().flat_map(|w| w.load(Relaxed).to_ne_bytes()).collect()
    }

    #[test]
    fn the_bytes_are_where_the_table_says() {
        let words = page();
        let mut page = HeaderPage::create(&words, AT, &header()).unwrap();
        page.seal(Some(SEAL));
        let bytes = bytes(&words);
        assert_eq!(&bytes[..16], b"heirloom-v1\0\0\0\0\0");
        assert_eq!(bytes[16..20], PAGE_SHIFT.to_le_bytes());
        assert_eq!(bytes[20..24], 168_u32.to_le_bytes());
        assert_eq!(bytes[24..32], 200_u64.to_le_bytes());
        assert_eq!(bytes[32..40], (PAGE_SIZE as u64 * 77).to_le_bytes());
        assert_eq!(&bytes[40..49], b"kernel 7\0");
        assert_eq!(bytes[104..112], xxh3_64(&bytes[..104]).to_le_bytes());
        assert_eq!(bytes[112..120], *b"sealed-1");
        assert_eq!(bytes[120..128], AT.get().to_le_bytes());
        assert_eq!(bytes[128..136], 3_u64.to_le_bytes());
        assert_eq!(bytes[136..144], SEAL.hash.to_le_bytes());
        let read = page.read().unwrap();
        assert_eq!(read, Header { seal: Some(SEAL), ..header() });
        assert_eq!(read.producer.as_str(), "kernel 7");
    }

    #[test]
    fn each_fault_names_its_byte() {
        let words = page();
        HeaderPage::create(&words, AT, &header()).unwrap();
        let good = bytes(&words);
        let with = |offset: usize, bytes: &[u8]| {
            let mut bad = good.clone();
            bad[offset..offset + bytes.len()].copy_from_slice(bytes);
            match Header::read(&words64(&bad), AT) {
                Err(Error::Table(TableError { table: Table::Header, at: AT, offset, fault })) => {
                    (offset, fault)
                }
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(with(10, b"27"), (0, Fault::Version { found: 27 }));
        for (offset, text, name) in [
            (0, &b"x"[..], &b"xeirloom-v1"[..]),
            (11, b";a-v1", b"heirloom-v1;a-v1"),
            (10, b"01", b"heirloom-v01"),
            (10, b"\0", b"heirloom-v"),
        ] {
            let found = Excerpt::of(name.iter().copied());
            let unknown = Fault::Unknown { found, expected: "heirloom-v1" };
            assert_eq!(with(offset, text), (0, unknown));
        }
        assert!(matches!(with(16, &[13]), (16, Fault::Length { found: 13, .. })));
        assert_eq!(with(20, &[167]), (20, Fault::Length { expected: 168, found: 167 }));
        assert!(matches!(with(33, &[1]), (104, Fault::Checksum { .. })));
        assert_eq!(with(112, &[3]), (112, Fault::Magic { found: 3 }));
        let short = Header::read(&words[..20], AT);
        assert!(matches!(short, Err(Error::Table(TableError { offset: 20, .. }))));
    }

    #[test]
    fn a_producer_is_cut_between_characters() {
        let long: std::string::String = core::iter::repeat_n('\u{e4}', 40).collect();
        assert_eq!(Producer::new(&long).as_str().chars().count(), 32);
        let odd = std::format!("x{long}");
        assert_eq!(Producer::new(&odd).as_str().len(), 63);
        assert_eq!(Producer([0xff; 64]).as_str(), "");
    }

    #[test]
    fn at_any_instant_one_seal_or_the_other_holds() {
        let next = SealInfo { first: PhysAddr::new(8), entries: 9, hash: 10 };
        for before in [None, Some(SEAL)] {
            for after in [None, Some(next)] {
                for stores in 0.. {
                    let words = page();
                    let mut page = HeaderPage::create(&words, AT, &header()).unwrap();
                    page.seal(before);
                    let ((), complete) = cut::after(stores, || page.seal(after));
                    let found = page.read().unwrap().seal;
                    assert_eq!(found, if complete { after } else { before });
                    if complete {
                        break;
                    }
                }
            }
        }
    }

    proptest! {
        #![proptest_config(proptest_config(512))]

        #[test]
        fn mutated_pages_are_read_or_refused(
            hits in prop::collection::vec((0_usize..SIZE, any::<u8>()), 0..4),
            random in prop::collection::vec(any::<u8>(), 0..256),
        ) {
            let words = page();
            HeaderPage::create(&words, AT, &header()).unwrap();
            let mut bytes = bytes(&words);
            for (at, byte) in hits {
                bytes[at] = byte;
            }
            if let Ok(read) = Header::read(&words64(&bytes), AT) {
                prop_assert_eq!(Header { seal: None, ..read }, header());
            }
            prop_assert!(Header::read(&words64(&random), AT).is_err());
        }
    }
}
