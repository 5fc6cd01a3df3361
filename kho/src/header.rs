//! The page of the `heirloom` subtree: what Linux has no word for.
//!
//! One preserved frame, little-endian, at the address that the root page names under
//! [`SUBTREE`]. What can change has two places: the one that does not hold is written, and one
//! 8-byte store turns to it.
//!
//! | offset | field | |
//! |---|---|---|
//! | 0 | compatible, 16 bytes | `heirloom-v2`, then zeroes |
//! | 16 | `page_shift` u32 | log2 of the page size |
//! | 20 | `size` u32 | bytes of this table: 280 |
//! | 24 | half 1: generation u64 | how many kernels came before, at least |
//! | 32 | half 1: cache directory u64 | address of the first block of cache records, or 0 |
//! | 40 | half 1: before u64 | address of a root page whose entry may be good too, or 0 |
//! | 48 | half 1: producer, 64 bytes | the writer's name, UTF-8, then zeroes |
//! | 112 | half 1: checksum u64 | XXH3 of bytes 0..24 and of the half up to here |
//! | 120 | half 2, the same | |
//! | 216 | turn u64 | which of the two halves holds: `half-one` or `half-two` |
//! | 224 | seal u64 | 0 none, `sealed-1` or `sealed-2`: that seal holds; `opened--` |
//! | 232 | seal 1: first u64, entries u64, hash u64 | the seal's table; see [`crate::seal`] |
//! | 256 | seal 2, the same | |
//!
//! What does not hold may be any bytes: it is neither read nor checked.

mod page;

pub use page::HeaderPage;
use xxhash_rust::xxh3::xxh3_64;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use crate::addr::{PAGE_SIZE, PhysAddr};
use crate::compat::Format;
use crate::error::Error;
use crate::fault::{Fault, Table};
use crate::narrow::{u32_to_usize, usize_to_u64};
use crate::page_size::PageSize;
use crate::store;
use crate::sync::AtomicU64;
use crate::sync::Ordering::{Acquire, Relaxed};

/// The name of heirloom's own subtree.
pub const SUBTREE: &str = "heirloom";

/// The version that is written, and read.
static FORMAT: Format = Format { text: "heirloom-v2", name: "heirloom", version: 2, parts: &[] };
/// What marks the page.
const COMPATIBLE: [u8; 16] = *b"heirloom-v2\0\0\0\0\0";

// The words that can stand in `turn` and `seal`: no flipped bit turns one into another, or into 0.

/// What says that half 1 or half 2 holds.
const HALVES: [u64; 2] = [u64::from_le_bytes(*b"half-one"), u64::from_le_bytes(*b"half-two")];
/// What says that seal 1 or seal 2 holds.
const SEALS: [u64; 2] = [u64::from_le_bytes(*b"sealed-1"), u64::from_le_bytes(*b"sealed-2")];
/// What says that a successor has opened the seal.
const OPENED: u64 = u64::from_le_bytes(*b"opened--");

/// The page as it lies in memory.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Layout {
    head: Head,
    halves: [Half; 2],
    turn: U64,
    seal: U64,
    seals: [Seal; 2],
}

/// What never changes.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Head {
    compatible: [u8; 16],
    page_shift: U32,
    size: U32,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Half {
    says: Says,
    checksum: U64,
}

/// What a half says.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Says {
    generation: U64,
    cache_directory: U64,
    before: U64,
    producer: [u8; 64],
}

/// What the checksum of a half covers.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Covered {
    head: Head,
    says: Says,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Seal {
    first: U64,
    entries: U64,
    hash: U64,
}

const SIZE: usize = size_of::<Layout>();
const HALVES_AT: usize = core::mem::offset_of!(Layout, halves);
const DIRECTORY_AT: usize = core::mem::offset_of!(Half, says.cache_directory);
const BEFORE_AT: usize = core::mem::offset_of!(Half, says.before);
const CHECKSUM_AT: usize = core::mem::offset_of!(Half, checksum);
const TURN_AT: usize = core::mem::offset_of!(Layout, turn);
const SEAL_AT: usize = core::mem::offset_of!(Layout, seal);
const SEALS_AT: usize = core::mem::offset_of!(Layout, seals);
const _: () = {
    use core::mem::offset_of;
    assert!(offset_of!(Head, page_shift) == 16 && offset_of!(Head, size) == 20);
    assert!(HALVES_AT == 24 && size_of::<Half>() == 96 && TURN_AT == 216);
    assert!(DIRECTORY_AT == 8 && BEFORE_AT == 16 && offset_of!(Says, producer) == 24);
    assert!(CHECKSUM_AT == 88 && SEAL_AT == 224 && SEALS_AT == 232);
    assert!(SIZE == 280 && SIZE <= PAGE_SIZE);
};

/// What the `heirloom` subtree says of a handover.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// How many handovers led to this one.
    pub generation: u64,
    /// Where the records of the caches start, if there are caches.
    pub cache_directory: Option<PhysAddr>,
    /// The predecessor's root page, where the handover has another and the predecessor's
    /// entry has not ended, or has only just.
    pub before: Option<PhysAddr>,
    /// The name of the kernel that wrote the handover.
    pub producer: Producer,
    /// Whether the handover is sealed.
    pub seal: SealState,
    /// Whether the table is longer than this build knows, so that more is said there than this. None
    /// is written so.
    pub longer: bool,
}

/// Whether a handover is sealed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum SealState {
    /// It is not.
    #[default]
    Unsealed,
    /// It is, by this seal.
    Sealed(SealInfo),
    /// It was. A successor found it whole then, and has been at work in it since: there is nothing
    /// left to compare its tables with.
    Opened,
}

impl SealState {
    /// Returns the seal, if the handover is sealed now.
    pub const fn info(self) -> Option<SealInfo> {
        match self {
            Self::Sealed(info) => Some(info),
            Self::Unsealed | Self::Opened => None,
        }
    }
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

/// The name of the kernel that wrote a handover: at most 64 bytes of UTF-8.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Producer([u8; 64]);

impl Producer {
    /// Returns as much of `name` as fits, cut between characters.
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

    /// Returns the name; what is no UTF-8 in it is left out.
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

    /// Bytes at the start of the page that do not change while the handover is sealed: what a seal
    /// covers.
    pub const FIXED: usize = SEAL_AT;

    /// Checks the page in `words`, which stand at `at`.
    ///
    /// A table longer than this build knows is read as far as it is known.
    ///
    /// # Errors
    /// [`Error::Table`] with the header, the byte and the reason: another compatible string or
    /// version, page size, a table too short, a turn to neither half, a wrong checksum, an address
    /// where no page starts, or a seal that is none.
    pub fn read(words: &[AtomicU64], at: PhysAddr) -> Result<Self, Error> {
        Self::sized(PageSize::BUILD, words, at)
    }

    /// Checks the page as [`Header::read`] does, of a kernel with pages of this size.
    ///
    /// # Errors
    /// As for [`Header::read`].
    pub fn sized(page: PageSize, words: &[AtomicU64], at: PhysAddr) -> Result<Self, Error> {
        let mut covered = Covered::new_zeroed();
        load_head(page, &mut covered.head, words, at)?;
        load_half(page, &mut covered, words, at)?;
        let seal = seal_in(words, at)?;
        let Covered { head, says } = &covered;
        let page = |addr: u64| (addr != 0).then(|| PhysAddr::new(addr));
        Ok(Self {
            generation: says.generation.get(),
            cache_directory: page(says.cache_directory.get()),
            before: page(says.before.get()),
            producer: Producer(says.producer),
            seal,
            longer: u32_to_usize(head.size.get()) > SIZE,
        })
    }
}

/// Returns the fault of a header at `at`.
const fn fail(at: PhysAddr, offset: usize, fault: Fault) -> Error {
    fault.in_table(Table::Header, at, offset)
}

/// Returns the word at an offset.
fn word(words: &[AtomicU64], offset: usize) -> Option<&AtomicU64> {
    words.get(offset / size_of::<u64>())
}

/// Copies what stands at an offset.
fn load(bytes: &mut [u8], words: &[AtomicU64], offset: usize) {
    let words = words.iter().skip(offset / size_of::<u64>());
    for (bytes, word) in bytes.chunks_exact_mut(size_of::<u64>()).zip(words) {
        bytes.copy_from_slice(&word.load(Relaxed).to_ne_bytes());
    }
}

/// Writes what is to stand at an offset.
fn put(words: &[AtomicU64], offset: usize, bytes: &[u8]) {
    let words = words.iter().skip(offset / size_of::<u64>());
    for (bytes, word) in bytes.chunks_exact(size_of::<u64>()).zip(words) {
        let mut value = [0; size_of::<u64>()];
        value.copy_from_slice(bytes);
        store::word64(word, u64::from_ne_bytes(value), Relaxed);
    }
}

// The checks of a header, each with what it takes of the stack for itself.

/// Copies what never changes, if this build reads it.
#[inline(never)]
fn load_head(
    page: PageSize,
    head: &mut Head,
    words: &[AtomicU64],
    at: PhysAddr,
) -> Result<(), Error> {
    let (expected, found) = (usize_to_u64(SIZE), usize_to_u64(size_of_val(words)));
    if found < expected {
        return Err(fail(at, 20, Fault::Length { expected, found }));
    }
    load(head.as_mut_bytes(), words, 0);
    check_compatible(&head.compatible).map_err(|fault| fail(at, 0, fault))?;
    let (shift, size) = (head.page_shift.get(), head.size.get());
    if shift != page.shift() {
        let (expected, found) = (page.shift().into(), shift.into());
        return Err(fail(at, 16, Fault::Length { expected, found }));
    }
    if u32_to_usize(size) < SIZE || u32_to_usize(size) > page.bytes() {
        return Err(fail(at, 20, Fault::Length { expected, found: size.into() }));
    }
    Ok(())
}

/// Checks a page as [`Header::read`] does, and says nothing of what it holds.
#[inline(never)]
fn check(words: &[AtomicU64], at: PhysAddr) -> Result<(), Error> {
    let mut covered = Covered::new_zeroed();
    load_head(PageSize::BUILD, &mut covered.head, words, at)?;
    load_half(PageSize::BUILD, &mut covered, words, at)?;
    seal_in(words, at).map(drop)
}

/// Returns the offset of the half that holds.
fn turned_to(words: &[AtomicU64], at: PhysAddr) -> Result<usize, Error> {
    // Acquire pairs with the Release store in `HeaderPage::turn_to`: the half that holds is read
    // after the word that says so.
    let found = u64::from_le(word(words, TURN_AT).map_or(0, |word| word.load(Acquire)));
    let which = HALVES.iter().position(|holds| *holds == found);
    let which = which.ok_or(fail(at, TURN_AT, Fault::Magic { found }))?;
    Ok(HALVES_AT + which * size_of::<Half>())
}

/// Copies the half that holds, if it is as it was written behind this head.
#[inline(never)]
fn load_half(
    page: PageSize,
    covered: &mut Covered,
    words: &[AtomicU64],
    at: PhysAddr,
) -> Result<(), Error> {
    let half = turned_to(words, at)?;
    load(covered.says.as_mut_bytes(), words, half);
    let mut checksum = U64::ZERO;
    load(checksum.as_mut_bytes(), words, half + CHECKSUM_AT);
    let (expected, found) = (xxh3_64(covered.as_bytes()), checksum.get());
    if expected != found {
        return Err(fail(at, half + CHECKSUM_AT, Fault::Checksum { expected, found }));
    }
    check_pages(page, &covered.says, at, half)
}

/// Checks that tables can start where the half at this offset says so: a cache directory at a page, a root page, which
/// may be of another make, at any multiple of 8.
fn check_pages(page: PageSize, says: &Says, at: PhysAddr, half: usize) -> Result<(), Error> {
    for (addr, align, offset) in
        [(says.cache_directory, page.bytes(), DIRECTORY_AT), (says.before, 8, BEFORE_AT)]
    {
        if !addr.get().is_multiple_of(usize_to_u64(align)) {
            let addr = PhysAddr::new(addr.get());
            return Err(fail(at, half + offset, Fault::Misaligned { addr }));
        }
    }
    Ok(())
}

/// Returns which seal holds, if any does.
#[inline(never)]
fn seal_in(words: &[AtomicU64], at: PhysAddr) -> Result<SealState, Error> {
    // Acquire pairs with the Release store in `HeaderPage::turn_seal`: the seal that holds is read
    // after the word that says so.
    let found = u64::from_le(word(words, SEAL_AT).map_or(0, |word| word.load(Acquire)));
    let which = match found {
        0 => return Ok(SealState::Unsealed),
        OPENED => return Ok(SealState::Opened),
        _ => SEALS.iter().position(|holds| *holds == found),
    };
    let which = which.ok_or(fail(at, SEAL_AT, Fault::Magic { found }))?;
    let mut seal = Seal::new_zeroed();
    load(seal.as_mut_bytes(), words, SEALS_AT + which * size_of::<Seal>());
    Ok(SealState::Sealed(SealInfo {
        first: PhysAddr::new(seal.first.get()),
        entries: seal.entries.get(),
        hash: seal.hash.get(),
    }))
}

/// Checks that this build reads a page that is marked so.
fn check_compatible(found: &[u8; 16]) -> Result<(), Fault> {
    if *found == COMPATIBLE {
        return Ok(());
    }
    let text = || found.split(|byte| *byte == 0).next().unwrap_or(&[]).iter().copied();
    FORMAT.read(&text()).map(|_| ())
}

#[cfg(test)]
mod tests;
