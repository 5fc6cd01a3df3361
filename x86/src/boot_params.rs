//! Linux's boot parameters, the zero page: what a kernel is told that is entered by the boot protocol.
//!
//! The layout is that of `struct boot_params` and `struct setup_header` in Linux's `asm/bootparam.h`; the
//! protocol is described in `Documentation/arch/x86/boot.rst`. [`BootParams`] reads one where it lies,
//! [`ZeroPage`] is one to be filled in.

use core::mem::offset_of;

use heirloom_kho::PhysAddr;
use heirloom_kho::narrow::{low_u32, u64_to_usize, usize_to_u64};
use heirloom_restore::Entry;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::error::{Error, Fault, Structure};
pub use crate::region::E820Entry;
use crate::region::Region;
pub use crate::setup_data::{
    E820_EXT, KEXEC_KHO, KhoData, KhoNode, SetupData, SetupDataHead, SetupDataList,
};
use crate::source::{Source, behind, load};

/// `HdrS`, which marks a header.
pub(crate) const MAGIC: u32 = u32::from_le_bytes(*b"HdrS");
/// The oldest protocol that has a 64-bit entry.
pub(crate) const OLDEST: u32 = 0x020c;
/// Where the header stands, in the zero page and in a bzImage.
pub(crate) const HEADER_AT: usize = 0x1f1;
/// Regions that the zero page has room for.
const REGIONS: usize = 128;
/// Regions that are looked at in all.
const ALL_REGIONS: usize = 1 << 16;

/// `struct setup_header`. The comments name what this crate uses; what stands beside it is passed on.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
#[allow(missing_docs, reason = "the names are Linux's, and are described there")]
pub struct SetupHeader {
    /// Sectors of 512 bytes before the 64-bit code, less one.
    pub setup_sects: u8,
    pub root_flags: U16,
    /// 16-byte units of 64-bit code.
    pub syssize: U32,
    pub ram_size: U16,
    pub vid_mode: U16,
    pub root_dev: U16,
    /// `0xaa55`.
    pub boot_flag: U16,
    /// Its second byte says where the header ends.
    pub jump: U16,
    /// `HdrS`.
    pub header: U32,
    /// The protocol's version, as in `0x020f`.
    pub version: U16,
    pub realmode_swtch: U32,
    pub start_sys_seg: U16,
    pub kernel_version: U16,
    /// Which loader it was, `0xff` if it has no number.
    pub type_of_loader: u8,
    /// `LOADED_HIGH` and others.
    pub loadflags: u8,
    pub setup_move_size: U16,
    pub code32_start: U32,
    /// Where the initial file system is, the lower half.
    pub ramdisk_image: U32,
    /// How long it is, the lower half.
    pub ramdisk_size: U32,
    pub bootsect_kludge: U32,
    pub heap_end_ptr: U16,
    pub ext_loader_ver: u8,
    pub ext_loader_type: u8,
    /// Where the command line is, the lower half.
    pub cmd_line_ptr: U32,
    pub initrd_addr_max: U32,
    /// What the image wants to be aligned to.
    pub kernel_alignment: U32,
    /// Whether it runs anywhere.
    pub relocatable_kernel: u8,
    pub min_alignment: u8,
    /// `XLF_*`: see [`bzimage`](crate::bzimage).
    pub xloadflags: U16,
    /// The longest command line, without the zero at its end.
    pub cmdline_size: U32,
    pub hardware_subarch: U32,
    pub hardware_subarch_data: U64,
    pub payload_offset: U32,
    pub payload_length: U32,
    /// The first node of the list of `setup_data`.
    pub setup_data: U64,
    /// Where the image prefers to be.
    pub pref_address: U64,
    /// Bytes that it needs from there on before it has looked at the map.
    pub init_size: U32,
    pub handover_offset: U32,
    pub kernel_info_offset: U32,
}

/// A page of boot parameters, all zeroes but for what is set: `struct boot_params`.
///
/// It has 4,096 bytes: a kernel has it in its own data or writes it in place, not on its first stack.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
#[allow(missing_docs, reason = "the names are Linux's, and are described there")]
pub struct ZeroPage {
    pub screen_info: [u8; 0x70],
    /// Where ACPI's root pointer is; 0 if the kernel has to look for it.
    pub acpi_rsdp_addr: U64,
    pub legacy: [u8; 0x48],
    /// Upper halves of the addresses and the length in the header.
    pub ext_ramdisk_image: U32,
    pub ext_ramdisk_size: U32,
    pub ext_cmd_line_ptr: U32,
    pub firmware: [u8; 0x11c],
    /// Regions in the table.
    pub e820_entries: u8,
    pub between: [u8; 8],
    /// The header.
    pub hdr: SetupHeader,
    pub mbr: [u8; 0x64],
    /// The regions.
    pub e820_table: [E820Entry; REGIONS],
    pub disks: [u8; 0x330],
}

const _: () = assert!(offset_of!(ZeroPage, hdr) == HEADER_AT && size_of::<ZeroPage>() == 4096);
const _: () = assert!(offset_of!(ZeroPage, e820_table) == 0x2d0);

impl Default for ZeroPage {
    fn default() -> Self {
        Self::new()
    }
}

impl ZeroPage {
    /// Returns a page that says nothing but which protocol it follows.
    pub fn new() -> Self {
        let mut page = Self::new_zeroed();
        page.reset(None);
        page
    }

    /// Clears the page, and takes over the header of an image that is to be entered with it.
    pub fn reset(&mut self, header: Option<&SetupHeader>) {
        self.as_mut_bytes().fill(0);
        if let Some(header) = header {
            self.hdr = *header;
        } else {
            self.hdr.boot_flag = 0xaa55.into();
            self.hdr.header = MAGIC.into();
            self.hdr.version = 0x020f.into();
        }
        self.hdr.type_of_loader = 0xff;
        self.hdr.setup_data = U64::ZERO;
    }

    /// Adds a region to the map.
    ///
    /// # Errors
    /// [`Fault::TooMany`]: there are 128 already.
    pub fn push_region(&mut self, region: Region) -> Result<(), Error> {
        let full = Fault::TooMany { limit: REGIONS };
        let full = full.of(Structure::BootParams, PhysAddr::new(0), offset_of!(Self, e820_entries));
        let entry = self.e820_table.get_mut(usize::from(self.e820_entries)).ok_or(full)?;
        *entry = region.into();
        self.e820_entries += 1;
        Ok(())
    }

    /// Says where the command line is, which ends with a zero.
    pub fn set_command_line(&mut self, at: PhysAddr) {
        (self.hdr.cmd_line_ptr, self.ext_cmd_line_ptr) = halves(at.get());
    }

    /// Says where an initial file system is, or whatever stands in its place.
    pub fn set_initrd(&mut self, at: PhysAddr, bytes: u64) {
        (self.hdr.ramdisk_image, self.ext_ramdisk_image) = halves(at.get());
        (self.hdr.ramdisk_size, self.ext_ramdisk_size) = halves(bytes);
    }

    /// Says where the list of `setup_data` starts.
    pub fn set_setup_data(&mut self, first: PhysAddr) {
        self.hdr.setup_data = first.get().into();
    }

    /// Says where ACPI's root pointer is.
    pub fn set_rsdp(&mut self, at: PhysAddr) {
        self.acpi_rsdp_addr = at.get().into();
    }
}

/// The lower and the upper half of a number.
fn halves(number: u64) -> (U32, U32) {
    (low_u32(number).into(), low_u32(number >> 32).into())
}

/// The number of two halves.
fn whole(low: U32, high: U32) -> u64 {
    u64::from(low.get()) | u64::from(high.get()) << 32
}

/// Boot parameters where they lie, checked as far as they are read.
#[derive(Clone, Copy, Debug)]
pub struct BootParams<'s, S> {
    source: &'s S,
    at: PhysAddr,
    header: SetupHeader,
    regions: u8,
}

impl<'s, S: Source> BootParams<'s, S> {
    /// Reads the header of the page at `at`: what RSI holds where the kernel is entered by the 64-bit boot
    /// protocol.
    ///
    /// # Errors
    /// [`Fault::OutsideMemory`]; [`Fault::Magic`]: no header, or none that is followed by a signature;
    /// [`Fault::Version`]: before 2.12; [`Fault::TooMany`]: more regions than fit.
    pub fn open(source: &'s S, at: PhysAddr) -> Result<Self, Error> {
        let fail = |offset, fault: Fault| fault.of(Structure::BootParams, at, offset);
        let field = |offset| behind(at, usize_to_u64(offset));
        let outside = |offset| fail(offset, Fault::OutsideMemory);
        // The last byte, so that all between can be read too, or is said to be missing where it is.
        let last: Option<u8> = field(size_of::<ZeroPage>() - 1).and_then(|at| load(source, at));
        last.ok_or(outside(size_of::<ZeroPage>() - 1))?;
        let header: Option<SetupHeader> = field(HEADER_AT).and_then(|at| load(source, at));
        let header = header.ok_or(outside(HEADER_AT))?;
        let of_header = |offset| HEADER_AT + offset;
        if header.header.get() != MAGIC {
            let found = header.header.get().into();
            return Err(fail(of_header(offset_of!(SetupHeader, header)), Fault::Magic { found }));
        }
        let found = u32::from(header.version.get());
        if found < OLDEST {
            let fault = Fault::Version { found, oldest: OLDEST };
            return Err(fail(of_header(offset_of!(SetupHeader, version)), fault));
        }
        let count = offset_of!(ZeroPage, e820_entries);
        let regions: Option<u8> = field(count).and_then(|at| load(source, at));
        let regions = regions.ok_or(outside(count))?;
        if usize::from(regions) > REGIONS {
            return Err(fail(count, Fault::TooMany { limit: REGIONS }));
        }
        Ok(Self { source, at, header, regions })
    }

    /// The header: the image's own, with what the loader filled in.
    pub const fn header(&self) -> &SetupHeader {
        &self.header
    }

    /// Calls `each` with every region of the map: those in the page, then those in `setup_data`. Returns the
    /// first error of `each`, after which it is not called any more.
    ///
    /// # Errors
    /// A region or a node that cannot be read, more than 65,536 regions.
    pub fn for_each_region<E>(
        &self,
        mut each: impl FnMut(Region) -> Result<(), E>,
    ) -> Result<Result<(), E>, Error> {
        let mut left = ALL_REGIONS;
        let mut table = |structure, at: PhysAddr, first: usize, count: u32| {
            for i in 0..u64::from(count) {
                let entry = usize_to_u64(first) + i * usize_to_u64(size_of::<E820Entry>());
                let fail = |fault: Fault| fault.of(structure, at, u64_to_usize(entry));
                left = left.checked_sub(1).ok_or(fail(Fault::TooMany { limit: ALL_REGIONS }))?;
                let entry: Option<E820Entry> =
                    behind(at, entry).and_then(|at| load(self.source, at));
                let region = Region::from(entry.ok_or(fail(Fault::OutsideMemory))?);
                if let Err(error) = each(region) {
                    return Ok(Err(error));
                }
            }
            Ok(Ok(()))
        };
        let here = offset_of!(ZeroPage, e820_table);
        if let Err(error) = table(Structure::BootParams, self.at, here, self.regions.into())? {
            return Ok(Err(error));
        }
        for node in self.setup_data() {
            let node = node?;
            if node.kind == E820_EXT {
                let count = usize_to_u64(size_of::<E820Entry>());
                let count = low_u32(u64::from(node.bytes) / count);
                if let Err(error) = table(Structure::SetupData, node.at, 16, count)? {
                    return Ok(Err(error));
                }
            }
        }
        Ok(Ok(()))
    }

    /// The list of `setup_data`.
    pub fn setup_data(&self) -> SetupDataList<'s, S> {
        SetupDataList::new(self.source, PhysAddr::new(self.header.setup_data.get()))
    }

    /// Returns what a predecessor handed over: for [`Heirloom::revive`](heirloom_restore::Heirloom::revive). `None` if
    /// none did.
    ///
    /// # Errors
    /// A node that cannot be read or is too short; [`Fault::Twice`].
    pub fn entry(&self) -> Result<Option<Entry>, Error> {
        let mut found = None;
        for node in self.setup_data() {
            let node = node?;
            if let Some(entry) = node.entry(self.source)?
                && found.replace(entry).is_some()
            {
                return Err(Fault::Twice.of(Structure::SetupData, node.at, 8));
            }
        }
        Ok(found)
    }

    /// Copies the command line into `into`, and returns it: up to the zero at its end, or all that fits. Empty
    /// if there is none.
    ///
    /// # Errors
    /// [`Fault::OutsideMemory`].
    pub fn command_line<'i>(&self, into: &'i mut [u8]) -> Result<&'i [u8], Error> {
        let high: Option<U32> = self.field(offset_of!(ZeroPage, ext_cmd_line_ptr));
        let at = PhysAddr::new(whole(self.header.cmd_line_ptr, high.unwrap_or(U32::ZERO)));
        text_at(self.source, at, into).ok_or(Fault::OutsideMemory.of(
            Structure::BootParams,
            self.at,
            HEADER_AT + offset_of!(SetupHeader, cmd_line_ptr),
        ))
    }

    /// Returns where the initial file system is and how many bytes it has, if there is one.
    pub fn initrd(&self) -> Option<(PhysAddr, u64)> {
        let at = whole(
            self.header.ramdisk_image,
            self.field(offset_of!(ZeroPage, ext_ramdisk_image)).unwrap_or(U32::ZERO),
        );
        let bytes = whole(
            self.header.ramdisk_size,
            self.field(offset_of!(ZeroPage, ext_ramdisk_size)).unwrap_or(U32::ZERO),
        );
        (at != 0 && bytes != 0).then_some((PhysAddr::new(at), bytes))
    }

    /// Returns where ACPI's root pointer is, if the loader said so.
    pub fn rsdp(&self) -> Option<PhysAddr> {
        let at: Option<U64> = self.field(offset_of!(ZeroPage, acpi_rsdp_addr));
        at.map(U64::get).filter(|at| *at != 0).map(PhysAddr::new)
    }

    fn field<T: FromBytes + IntoBytes>(&self, offset: usize) -> Option<T> {
        load(self.source, behind(self.at, usize_to_u64(offset))?)
    }
}

/// Copies the text at `at` up to the zero at its end, or as much as fits.
pub(crate) fn text_at<'i>(
    source: &impl Source,
    at: PhysAddr,
    into: &'i mut [u8],
) -> Option<&'i [u8]> {
    let mut length = 0;
    if at.get() != 0 {
        for (i, byte) in into.iter_mut().enumerate() {
            let at = behind(at, usize_to_u64(i))?;
            if !source.read(at, core::slice::from_mut(byte)) {
                return None;
            }
            if *byte == 0 {
                break;
            }
            length = i + 1;
        }
    }
    into.get(..length)
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;
    use crate::region::MemoryType;
    use crate::source::Bytes;

    const AT: PhysAddr = PhysAddr::new(0x1_0000_0000);

    fn entry() -> Entry {
        let (root, scratch) = (PhysAddr::new(0x5000), PhysAddr::new(0x6000));
        Entry { root, scratch, scratch_bytes: 32 }
    }

    fn behind_page(bytes: u64) -> PhysAddr {
        PhysAddr::new(AT.get() + 4096 + bytes)
    }

    /// A page, and what stands behind it.
    fn memory(page: &ZeroPage, rest: &[u8]) -> Vec<u8> {
        [page.as_bytes(), rest].concat()
    }

    fn regions(bytes: &[u8]) -> Result<Vec<Region>, Error> {
        let source = Bytes::new(AT, bytes);
        let mut found = Vec::new();
        BootParams::open(&source, AT)?
            .for_each_region(|region| {
                found.push(region);
                Ok::<_, Error>(())
            })?
            .map(|()| found)
    }

    #[test]
    fn what_is_written_is_read() {
        let mut page = ZeroPage::new();
        let region = Region::new(1 << 20, 1 << 30, MemoryType::RAM);
        page.push_region(region).unwrap();
        page.set_initrd(PhysAddr::new(0x12_3456_7000), 0x1_0000_0001);
        page.set_command_line(behind_page(48));
        page.set_setup_data(behind_page(0));
        page.set_rsdp(PhysAddr::new(0xe0000));
        let bytes = memory(&page, &[KhoNode::new(entry()).as_bytes(), b"one two\0three"].concat());
        let source = Bytes::new(AT, &bytes);
        let params = BootParams::open(&source, AT).unwrap();
        assert_eq!(params.entry(), Ok(Some(entry())));
        assert_eq!(params.initrd(), Some((PhysAddr::new(0x12_3456_7000), 0x1_0000_0001)));
        assert_eq!(params.command_line(&mut [0; 64]).unwrap(), b"one two");
        assert_eq!(params.command_line(&mut [0; 3]).unwrap(), b"one");
        assert_eq!(params.rsdp(), Some(PhysAddr::new(0xe0000)));
        assert_eq!(regions(&bytes), Ok([region].to_vec()));
    }

    #[test]
    fn a_page_that_says_nothing_has_nothing() {
        let bytes = memory(&ZeroPage::new(), &[]);
        let source = Bytes::new(AT, &bytes);
        let params = BootParams::open(&source, AT).unwrap();
        assert_eq!((params.entry(), params.initrd(), params.rsdp()), (Ok(None), None, None));
        assert_eq!(params.command_line(&mut [0; 8]).unwrap(), b"");
        assert_eq!(params.setup_data().count(), 0);
    }

    #[test]
    fn the_map_goes_on_in_setup_data() {
        let mut page = ZeroPage::new();
        let all: Vec<_> =
            (0..130_u64).map(|i| Region::new(i << 21, 4096, MemoryType::RAM)).collect();
        for region in &all[..128] {
            page.push_region(*region).unwrap();
        }
        let full = page.push_region(all[128]).unwrap_err();
        assert_eq!(full.fault, Fault::TooMany { limit: 128 });
        page.set_setup_data(behind_page(0));
        let entries: Vec<_> = all[128..].iter().map(|r| E820Entry::from(*r)).collect();
        // One byte more, which is no entry.
        let head = SetupDataHead { next: U64::ZERO, kind: E820_EXT.into(), len: 41.into() };
        let rest = [head.as_bytes(), entries.as_slice().as_bytes(), &[0xff]].concat();
        assert_eq!(regions(&memory(&page, &rest)), Ok(all));
    }

    #[test]
    fn each_fault_names_its_byte() {
        let sound = memory(&ZeroPage::new(), &[]);
        let fault = |offset: usize, bytes: &[u8]| {
            let mut page = sound.clone();
            page[offset..offset + bytes.len()].copy_from_slice(bytes);
            let error = regions(&page).unwrap_err();
            assert_eq!((error.structure, error.at), (Structure::BootParams, AT));
            (error.offset, error.fault)
        };
        assert_eq!(fault(0x202, b"Hdrs"), (0x202, Fault::Magic { found: 0x7372_6448 }));
        assert_eq!(
            fault(0x206, &[0x0b, 2]),
            (0x206, Fault::Version { found: 0x20b, oldest: OLDEST })
        );
        assert_eq!(fault(0x1e8, &[129]), (0x1e8, Fault::TooMany { limit: 128 }));
        let short = regions(&sound[..4095]).unwrap_err();
        assert_eq!((short.offset, short.fault), (4095, Fault::OutsideMemory));
    }

    #[test]
    fn a_list_that_loops_or_leaves_memory_ends() {
        let mut page = ZeroPage::new();
        page.set_setup_data(behind_page(0));
        let node = |next: PhysAddr| SetupDataHead {
            next: next.get().into(),
            kind: 9.into(),
            len: U32::ZERO,
        };
        let list = |next| {
            let bytes = memory(&page, node(next).as_bytes());
            let source = Bytes::new(AT, &bytes);
            BootParams::open(&source, AT).unwrap().entry().unwrap_err()
        };
        assert_eq!(list(behind_page(0)).fault, Fault::TooMany { limit: 1024 });
        let outside = list(behind_page(8));
        assert_eq!((outside.at, outside.fault), (behind_page(8), Fault::OutsideMemory));
        assert_eq!(list(PhysAddr::new(u64::MAX)).fault, Fault::OutsideMemory);
    }

    #[test]
    fn a_handover_is_told_once_and_whole() {
        let mut page = ZeroPage::new();
        page.set_setup_data(behind_page(0));
        let entry_of = |nodes: &[KhoNode]| {
            let bytes = memory(&page, nodes.as_bytes());
            let source = Bytes::new(AT, &bytes);
            BootParams::open(&source, AT).unwrap().entry()
        };
        let last = KhoNode::new(entry());
        let mut first = last;
        first.head.next = behind_page(48).get().into();
        let twice = entry_of(&[first, last]).unwrap_err();
        assert_eq!((twice.at, twice.fault), (behind_page(48), Fault::Twice));
        let mut short = last;
        short.head.len = 31.into();
        let fault = Fault::TooShort { needed: 32, found: 31 };
        assert_eq!(entry_of(&[short]).unwrap_err().fault, fault);
        let mut nothing = last;
        nothing.data.fdt_addr = U64::ZERO;
        assert_eq!(entry_of(&[nothing]), Ok(None));
    }
}
