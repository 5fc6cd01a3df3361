//! What firmware says of memory: e820.

use heirloom_kho::PhysAddr;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// What a region of memory is, as in ACPI's system address map.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct MemoryType(pub u32);

impl MemoryType {
    /// Memory for any use.
    pub const RAM: Self = Self(1);
    /// Not for use.
    pub const RESERVED: Self = Self(2);
    /// ACPI tables, to be had once they were read.
    pub const ACPI: Self = Self(3);
    /// What ACPI keeps over a sleep.
    pub const NVS: Self = Self(4);
    /// Memory with errors.
    pub const UNUSABLE: Self = Self(5);
    /// Memory that outlives the power.
    pub const PERSISTENT: Self = Self(7);
}

/// A region of memory.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Region {
    /// Where it starts, at any byte.
    pub addr: PhysAddr,
    /// How many bytes it has.
    pub bytes: u64,
    /// What it is.
    pub kind: MemoryType,
}

impl Region {
    /// Returns the region of `bytes` bytes at `addr`.
    pub const fn new(addr: u64, bytes: u64, kind: MemoryType) -> Self {
        Self { addr: PhysAddr::new(addr), bytes, kind }
    }

    /// The address behind it; the last one that there is if it goes beyond.
    pub const fn end(self) -> PhysAddr {
        PhysAddr::new(self.addr.get().saturating_add(self.bytes))
    }
}

/// `struct boot_e820_entry` of Linux's `asm/bootparam.h`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct E820Entry {
    /// Where the region starts.
    pub addr: U64,
    /// Bytes in it.
    pub size: U64,
    /// What it is.
    pub kind: U32,
}

const _: () = assert!(size_of::<E820Entry>() == 20, "packed");

impl From<Region> for E820Entry {
    fn from(region: Region) -> Self {
        Self {
            addr: region.addr.get().into(),
            size: region.bytes.into(),
            kind: region.kind.0.into(),
        }
    }
}

impl From<E820Entry> for Region {
    fn from(entry: E820Entry) -> Self {
        Self::new(entry.addr.get(), entry.size.get(), MemoryType(entry.kind.get()))
    }
}
