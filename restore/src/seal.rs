//! The seal: a checksum over every table that a successor will believe.
//!
//! A list of records (see [`Records`]), little-endian, 24 bytes an entry, and a hash over all of
//! them in the page of the `heirloom` subtree:
//!
//! | offset | field | |
//! |---|---|---|
//! | 0 | phys u64 | the first byte covered, a multiple of 8 |
//! | 8 | length u32 | how many bytes |
//! | 12 | kind u32 | 1 root page, 2 tracker node, 3 subtree page, 4 roll page, 5 slab header |
//! | 16 | xxh3 u64 | XXH3 of these bytes |
//!
//! Sealing must not change what it covers, and preserving the seal's own blocks changes tracker
//! nodes. So a [`Sealer`] first gets all blocks that it may need, then takes note of what to
//! cover, and computes the checksums last.

use heirloom_folio::{Machine, Memory, PhysAddr};
use xxhash_rust::xxh3::Xxh3;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use core::fmt;
use core::sync::atomic::Ordering::Relaxed;

use crate::error::{Error, Fault, Table};
use crate::pages::Pages;
use crate::records::{Chain, Records};
use crate::subtree::SealInfo;

/// What an entry of a seal covers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u32)]
pub enum Sealed {
    /// The root page.
    Root = 1,
    /// A node of the tracker's tree.
    Node = 2,
    /// A subtree's page.
    Subtree = 3,
    /// A page of the roll of caches.
    Roll = 4,
    /// A slab's header.
    Slab = 5,
}

impl Sealed {
    const ALL: [Self; 5] = [Self::Root, Self::Node, Self::Subtree, Self::Roll, Self::Slab];

    fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u32 == number)
    }
}

impl fmt::Display for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Root => "root page",
            Self::Node => "tracker node",
            Self::Subtree => "subtree page",
            Self::Roll => "roll page",
            Self::Slab => "slab header",
        })
    }
}

/// An entry of the seal's table.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Entry {
    phys: U64,
    length: U32,
    kind: U32,
    hash: U64,
}

const _: () = assert!(size_of::<Entry>() == 24);

/// Something whose bytes are not what was sealed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Broken {
    /// What it is.
    pub kind: Sealed,
    /// Where it starts.
    pub addr: PhysAddr,
    /// How many bytes of it were sealed.
    pub length: u32,
    /// The checksum when it was sealed.
    pub sealed: u64,
    /// The checksum now.
    pub found: u64,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, addr, length, sealed, found } = self;
        write!(f, "{kind} at {addr} ({length} bytes): {found:#018x}, sealed as {sealed:#018x}")
    }
}

/// The XXH3 of memory that others may write, each word read once; `None` if it is not there.
///
/// A writer at the same time makes the result one of no instant; it is no data race.
fn hash_at(pages: &impl Pages, addr: PhysAddr, length: u32) -> Option<u64> {
    let mut left = length as usize;
    let words = pages.words(addr, left)?;
    let mut hasher = Xxh3::new();
    let mut buffer = [0; 256];
    for chunk in words.chunks(buffer.len() / 8) {
        for (bytes, word) in buffer.chunks_exact_mut(8).zip(chunk) {
            bytes.copy_from_slice(&word.load(Relaxed).to_ne_bytes());
        }
        let bytes = left.min(chunk.len() * 8);
        hasher.update(buffer.get(..bytes)?);
        left -= bytes;
    }
    Some(hasher.digest())
}

/// Makes a seal.
#[derive(Debug)]
pub struct Sealer<'m, M: Machine> {
    records: Records<'m, M, Entry>,
}

/// The table of a seal that was made: what keeps it, until another is made.
#[derive(Debug)]
#[must_use = "the table stays preserved; `free` lets it go"]
pub struct SealTable<'m, M: Machine> {
    records: Records<'m, M, Entry>,
    hash: u64,
}

impl<'m, M: Machine> Sealer<'m, M> {
    /// A seal with room for `entries` entries at least: from here on, making it allocates and
    /// preserves nothing.
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

    /// How many entries more fit.
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
        let (phys, length, kind) = (addr.get().into(), length.into(), (kind as u32).into());
        self.records.push(&Entry { phys, length, kind, hash: U64::ZERO })
    }

    /// Computes every checksum, of what `pages` has. The result's [`SealTable::info`] is to be put
    /// into the page of the `heirloom` subtree.
    ///
    /// # Errors
    /// [`Error::Table`] if something noted is not in memory, and the table is given up.
    pub fn close(mut self, pages: &impl Pages) -> Result<SealTable<'m, M>, Error> {
        let mut table = Xxh3::new();
        let mut missing = None;
        let done = self.records.rewrite(|entry| {
            let addr = PhysAddr::new(entry.phys.get());
            match hash_at(pages, addr, entry.length.get()) {
                Some(hash) => entry.hash = hash.into(),
                None => missing = Some(addr),
            }
            table.update(entry.as_bytes());
        });
        let first = self.records.first();
        if let Some(addr) = missing {
            self.abandon();
            return Err(Fault::OutsideMemory { addr }.in_table(Table::Seal, first, 0));
        }
        done?;
        Ok(SealTable { records: self.records, hash: table.digest() })
    }

    /// Gives the seal up and its blocks back.
    pub fn abandon(self) {
        let freed = self.records.free();
        debug_assert!(freed.is_ok(), "nobody else has this list");
    }
}

impl<M: Machine> SealTable<'_, M> {
    /// What the page of the `heirloom` subtree has to say.
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

/// Checks a predecessor's seal: calls `broken` with everything whose bytes are not as they were
/// sealed, and returns how many entries it found sound.
///
/// # Errors
/// [`Error::Table`] with the seal's table: the chain is not sound, the table is not the one whose
/// hash `seal` has, or an entry names what is not in memory or no kind.
pub fn verify(
    pages: &impl Pages,
    seal: &SealInfo,
    mut broken: impl FnMut(Broken),
) -> Result<u64, Error> {
    let chain = Chain::<_, Entry>::walk(pages, seal.first, Table::Seal, |_, _| ())?;
    let fail = |fault: Fault| fault.in_table(Table::Seal, seal.first, 0);
    if chain.len() != seal.entries {
        return Err(fail(Fault::Length { expected: seal.entries, found: chain.len() }));
    }
    let mut table = Xxh3::new();
    for entry in &chain {
        table.update(entry.as_bytes());
    }
    let expected = table.digest();
    if expected != seal.hash {
        return Err(fail(Fault::Checksum { expected, found: seal.hash }));
    }
    let mut sound = 0;
    for entry in &chain {
        let addr = PhysAddr::new(entry.phys.get());
        let number = entry.kind.get();
        let kind = Sealed::from_number(number);
        let kind = kind.ok_or(fail(Fault::Reserved { found: number.into() }))?;
        let length = entry.length.get();
        let found = hash_at(pages, addr, length);
        let found = found.ok_or(fail(Fault::OutsideMemory { addr }))?;
        let sealed = entry.hash.get();
        if found == sealed {
            sound += 1;
        } else {
            broken(Broken { kind, addr, length, sealed, found });
        }
    }
    Ok(sound)
}
