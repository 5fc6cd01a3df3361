//! PVH's `hvm_start_info`: what a kernel is told that is entered in 32-bit mode by QEMU's `-kernel`, by
//! Xen or by Firecracker.
//!
//! The layout is that of `arch-x86/hvm/start_info.h` in Xen's public headers. EBX holds its address.

use core::mem::offset_of;

use heirloom_kho::PhysAddr;
use heirloom_kho::narrow::usize_to_u64;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::boot_params::text_at;
use crate::error::{Error, Fault, Structure};
use crate::region::{MemoryType, Region};
use crate::source::{Source, behind, load};

/// What marks one.
pub const MAGIC: u32 = 0x336e_c578;
/// Modules and regions that are looked at.
const LIMIT: u32 = 1 << 16;

/// `struct hvm_start_info`, of version 1.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct StartInfoHead {
    /// [`MAGIC`].
    pub magic: U32,
    /// 1: with a map. The oldest that is read here.
    pub version: U32,
    /// `SIF_*`.
    pub flags: U32,
    /// How many modules there are.
    pub nr_modules: U32,
    /// Where their list is.
    pub modlist_paddr: U64,
    /// Where the command line is, or 0.
    pub cmdline_paddr: U64,
    /// Where ACPI's root pointer is, or 0.
    pub rsdp_paddr: U64,
    /// Where the map is.
    pub memmap_paddr: U64,
    /// How many regions it has.
    pub memmap_entries: U32,
    /// 0.
    pub reserved: U32,
}

/// `struct hvm_modlist_entry`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ModuleEntry {
    /// Where the module is.
    pub paddr: U64,
    /// Its bytes.
    pub size: U64,
    /// Where its own command line is, or 0.
    pub cmdline_paddr: U64,
    /// 0.
    pub reserved: U64,
}

/// `struct hvm_memmap_table_entry`: types are those of e820.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct MapEntry {
    /// Where the region starts.
    pub addr: U64,
    /// Its bytes.
    pub size: U64,
    /// What it is.
    pub kind: U32,
    /// 0.
    pub reserved: U32,
}

const _: () = assert!(
    size_of::<StartInfoHead>() == 56
        && size_of::<ModuleEntry>() == 32
        && size_of::<MapEntry>() == 24
);

/// A `start_info` where it lies.
///
/// # Examples
/// ```
/// use heirloom_kho::PhysAddr;
/// use heirloom_x86::start_info::{MAGIC, StartInfo, StartInfoHead};
/// use heirloom_x86::{Bytes, Error, Region};
/// use zerocopy::{FromZeros, IntoBytes};
///
/// let mut head = StartInfoHead::new_zeroed();
/// (head.magic, head.version) = (MAGIC.into(), 1.into());
/// let (at, mut regions) = (PhysAddr::new(0x7000), 0);
/// let memory = Bytes::new(at, head.as_bytes());
/// let info = StartInfo::open(&memory, at)?;
/// info.for_each_region(|_: Region| {
///     regions += 1;
///     Ok::<_, Error>(())
/// })??;
/// assert_eq!((regions, info.modules().count()), (0, 0));
/// # Ok::<(), Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct StartInfo<'s, S> {
    source: &'s S,
    at: PhysAddr,
    head: StartInfoHead,
}

impl<'s, S: Source> StartInfo<'s, S> {
    /// Reads the structure at `at`.
    ///
    /// # Errors
    /// [`Fault::OutsideMemory`], [`Fault::Magic`]; [`Fault::Version`]: 0, which has no map; [`Fault::TooMany`]: more
    /// than 65,536 modules or regions.
    pub fn open(source: &'s S, at: PhysAddr) -> Result<Self, Error> {
        let fail = |offset, fault: Fault| fault.of(Structure::StartInfo, at, offset);
        let head: StartInfoHead = load(source, at).ok_or(fail(0, Fault::OutsideMemory))?;
        if head.magic.get() != MAGIC {
            return Err(fail(0, Fault::Magic { found: head.magic.get().into() }));
        }
        if head.version.get() == 0 {
            return Err(fail(4, Fault::Version { found: 0, oldest: 1 }));
        }
        for (count, offset) in [
            (head.nr_modules, offset_of!(StartInfoHead, nr_modules)),
            (head.memmap_entries, offset_of!(StartInfoHead, memmap_entries)),
        ] {
            if count.get() > LIMIT {
                return Err(fail(offset, Fault::TooMany { limit: 1 << 16 }));
            }
        }
        Ok(Self { source, at, head })
    }

    /// Calls `each` with every region of the map. Returns the first error of `each`, after which it is not
    /// called any more.
    ///
    /// # Errors
    /// [`Fault::OutsideMemory`]: a region that cannot be read.
    pub fn for_each_region<E>(
        &self,
        mut each: impl FnMut(Region) -> Result<(), E>,
    ) -> Result<Result<(), E>, Error> {
        let outside = offset_of!(StartInfoHead, memmap_paddr);
        let outside = Fault::OutsideMemory.of(Structure::StartInfo, self.at, outside);
        for i in 0..u64::from(self.head.memmap_entries.get()) {
            let offset = i * usize_to_u64(size_of::<MapEntry>());
            let at = behind(PhysAddr::new(self.head.memmap_paddr.get()), offset);
            let entry: Option<MapEntry> = at.and_then(|at| load(self.source, at));
            let MapEntry { addr, size, kind, .. } = entry.ok_or(outside)?;
            let region = Region::new(addr.get(), size.get(), MemoryType(kind.get()));
            if let Err(error) = each(region) {
                return Ok(Err(error));
            }
        }
        Ok(Ok(()))
    }

    /// The modules: where each is and how many bytes it has. Ends with the first that cannot be read.
    pub fn modules(&self) -> impl Iterator<Item = Result<(PhysAddr, u64), Error>> + use<'s, S> {
        let Self { source, at, head } = *self;
        let outside = offset_of!(StartInfoHead, modlist_paddr);
        let outside = Fault::OutsideMemory.of(Structure::StartInfo, at, outside);
        let mut failed = false;
        (0..u64::from(head.nr_modules.get())).map_while(move |i| {
            let offset = i * usize_to_u64(size_of::<ModuleEntry>());
            let at = behind(PhysAddr::new(head.modlist_paddr.get()), offset);
            let module: Option<ModuleEntry> = at.and_then(|at| load(source, at));
            let before = core::mem::replace(&mut failed, module.is_none());
            let module = module.map(|m| (PhysAddr::new(m.paddr.get()), m.size.get()));
            (!before).then(|| module.ok_or(outside))
        })
    }

    /// Copies the command line into `into`, and returns it: up to the zero at its end, or all that fits. Empty
    /// if there is none.
    ///
    /// # Errors
    /// [`Fault::OutsideMemory`].
    pub fn command_line<'i>(&self, into: &'i mut [u8]) -> Result<&'i [u8], Error> {
        let at = PhysAddr::new(self.head.cmdline_paddr.get());
        let outside = offset_of!(StartInfoHead, cmdline_paddr);
        let outside = Fault::OutsideMemory.of(Structure::StartInfo, self.at, outside);
        text_at(self.source, at, into).ok_or(outside)
    }

    /// Returns where ACPI's root pointer is, if the loader said so.
    pub fn rsdp(&self) -> Option<PhysAddr> {
        let at = self.head.rsdp_paddr.get();
        (at != 0).then_some(PhysAddr::new(at))
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use zerocopy::FromZeros;

    use super::*;
    use crate::source::Bytes;

    const AT: PhysAddr = PhysAddr::new(0x7000);

    /// A structure of two modules and two regions, and what they are.
    fn sound() -> (StartInfoHead, Vec<u8>) {
        let mut head = StartInfoHead::new_zeroed();
        (head.magic, head.version) = (MAGIC.into(), 1.into());
        (head.nr_modules, head.modlist_paddr) = (2.into(), (0x7000 + 56).into());
        (head.memmap_entries, head.memmap_paddr) = (2.into(), (0x7000 + 56 + 64).into());
        head.cmdline_paddr = (0x7000 + 56 + 64 + 48).into();
        head.rsdp_paddr = 0xf0000.into();
        let module = |paddr: u64, size: u64| {
            let mut module = ModuleEntry::new_zeroed();
            (module.paddr, module.size) = (paddr.into(), size.into());
            module
        };
        let region = |addr: u64, size: u64, kind: u32| {
            let mut region = MapEntry::new_zeroed();
            (region.addr, region.size, region.kind) = (addr.into(), size.into(), kind.into());
            region
        };
        let modules = [module(0x100_0000, 7), module(0x200_0000, 8)];
        let regions = [region(0, 0xa_0000, 1), region(1 << 32, 1 << 30, 2)];
        let rest = [modules.as_bytes(), regions.as_bytes(), b"plan=j\0".as_slice()].concat();
        (head, rest)
    }

    fn with<T>(
        head: &StartInfoHead,
        rest: &[u8],
        f: impl FnOnce(StartInfo<'_, Bytes<'_>>) -> T,
    ) -> Result<T, Error> {
        let bytes = [head.as_bytes(), rest].concat();
        let source = Bytes::new(AT, &bytes);
        StartInfo::open(&source, AT).map(f)
    }

    #[test]
    fn all_that_is_said_is_read() {
        let (head, rest) = sound();
        let regions = with(&head, &rest, |info| {
            assert_eq!(info.command_line(&mut [0; 32]).unwrap(), b"plan=j");
            assert_eq!(info.rsdp(), Some(PhysAddr::new(0xf0000)));
            let modules: Vec<_> = info.modules().map(Result::unwrap).collect();
            assert_eq!(modules, [(PhysAddr::new(0x100_0000), 7), (PhysAddr::new(0x200_0000), 8)]);
            let mut regions = Vec::new();
            let all = info.for_each_region(|region| {
                regions.push(region);
                Ok::<_, Error>(())
            });
            all.unwrap().unwrap();
            regions
        });
        let first = Region::new(0, 0xa_0000, MemoryType::RAM);
        let second = Region::new(1 << 32, 1 << 30, MemoryType::RESERVED);
        assert_eq!(regions.unwrap(), [first, second]);
    }

    #[test]
    fn each_fault_names_its_byte() {
        let (sound, rest) = sound();
        let fault = |head: StartInfoHead| {
            let error = with(&head, &rest, |_| ()).unwrap_err();
            (error.offset, error.fault)
        };
        let mut head = sound;
        head.magic = 7.into();
        assert_eq!(fault(head), (0, Fault::Magic { found: 7 }));
        head = sound;
        head.version = U32::ZERO;
        assert_eq!(fault(head), (4, Fault::Version { found: 0, oldest: 1 }));
        head = sound;
        head.nr_modules = 65537.into();
        assert_eq!(fault(head), (12, Fault::TooMany { limit: 65536 }));
        head = sound;
        head.memmap_entries = u32::MAX.into();
        assert_eq!(fault(head), (48, Fault::TooMany { limit: 65536 }));
    }

    #[test]
    fn a_list_that_leaves_memory_ends_with_an_error() {
        let (mut head, rest) = sound();
        head.nr_modules = 60000.into();
        let modules = with(&head, &rest, |info| info.modules().collect::<Vec<_>>()).unwrap();
        let (last, read) = modules.split_last().unwrap();
        assert!(last.is_err() && read.iter().all(Result::is_ok) && read.len() < 8);
        head.memmap_entries = 60000.into();
        let each = |_: Region| Ok::<_, Error>(());
        let error = with(&head, &rest, |info| info.for_each_region(each)).unwrap().unwrap_err();
        assert_eq!((error.offset, error.fault), (40, Fault::OutsideMemory));
        head.memmap_paddr = (u64::MAX - 3).into();
        let error = with(&head, &rest, |info| info.for_each_region(each)).unwrap().unwrap_err();
        assert_eq!(error.fault, Fault::OutsideMemory);
    }
}
