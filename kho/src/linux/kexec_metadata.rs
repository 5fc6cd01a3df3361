//! What the kernel says of itself: 73 bytes, packed: version u32, release[65], count u32.

use zerocopy::native_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::blank::BlankPage;
use super::bytes::{load, save, words};
use super::text::Text;
use crate::addr::PhysAddr;
use crate::error::Error;
use crate::fault::{Fault, Table};
use crate::narrow::usize_to_u64;
use crate::pages::Pages;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Stored {
    version: U32,
    release: [u8; 65],
    count: U32,
}

const SIZE: usize = size_of::<Stored>();
const _: () = assert!(SIZE == 73);

/// What the subtree `kexec-metadata` says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Metadata {
    /// Where it is.
    pub at: PhysAddr,
    /// The release of the kernel that wrote it.
    pub previous_release: Text<65>,
    /// How many kernels were left by kexec, that one included.
    pub kexec_count: u32,
}

impl Metadata {
    /// The subtree's name.
    pub const NAME: &str = "kexec-metadata";
    /// The version of the format that this reads.
    pub const VERSION: u32 = 1;
    /// Bytes of the structure.
    pub const SIZE: u64 = usize_to_u64(SIZE);

    /// Reads the subtree's `bytes` bytes at `at`.
    ///
    /// # Errors
    /// [`Error::Table`] with the byte and the reason: not in memory, not preserved, too short,
    /// another version, or a release without an end.
    pub fn read(pages: &impl Pages, at: PhysAddr, bytes: u64) -> Result<Self, Error> {
        if bytes < usize_to_u64(SIZE) {
            let fault = Fault::Length { expected: usize_to_u64(SIZE), found: bytes };
            return Err(fault.in_table(Table::Metadata, at, 0));
        }
        let stored: Stored = load(words(pages, at, SIZE, (Table::Metadata, at, 0))?);
        let found = stored.version.get();
        if found != Self::VERSION {
            let fault = Fault::Version { found, known: Self::VERSION };
            return Err(fault.in_table(Table::Metadata, at, 0));
        }
        let previous_release = Text::read(stored.release, (Table::Metadata, at, 4))?;
        Ok(Self { at, previous_release, kexec_count: stored.count.get() })
    }

    /// Writes the subtree into a page: [`Metadata::SIZE`] bytes. `release` is that of the kernel that writes,
    /// `kexec_count` how many kernels were left by then, this one included: one more than it found itself.
    pub fn create(page: BlankPage<'_>, release: Text<65>, kexec_count: u32) -> Self {
        let version = Self::VERSION.into();
        let stored = Stored { version, release: release.into_bytes(), count: kexec_count.into() };
        save(page.words(), &stored);
        Self { at: page.addr(), previous_release: release, kexec_count }
    }
}
