//! Linux's image format, read and written: what `kexec_file_load` takes, and what a boot loader of the 64-bit
//! protocol does.
//!
//! ```text
//!   0       0x1f1          0x26c      1 KiB, or (setup_sects + 1) * 512
//!   ├───────┼── header ────┼──────────┼── the code: entered 0x200 bytes behind its start ──┤
//! ```

use core::mem::offset_of;

use heirloom_kho::PhysAddr;
use heirloom_kho::narrow::{u32_to_usize, u64_to_usize, usize_to_u32, usize_to_u64};
use zerocopy::little_endian::U16;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use crate::boot_params::{HEADER_AT, MAGIC, OLDEST, SetupHeader};
use crate::elf::Elf;
use crate::error::{Error, Fault, Structure};

/// How far behind the start of its code an image is entered in 64-bit mode.
pub const ENTRY: usize = 0x200;
/// Bytes before the code of an image that this crate writes.
pub const SETUP: usize = 1024;

/// `LOADED_HIGH`: the code lies at 1 MiB or above.
const LOADED_HIGH: u8 = 1;
/// The image has a 64-bit entry.
const XLF_KERNEL_64: u16 = 1 << 0;
/// It may lie above 4 GiB.
const XLF_CAN_BE_LOADED_ABOVE_4G: u16 = 1 << 1;
/// It may be entered with page tables of five levels.
const XLF_5LEVEL: u16 = 1 << 5;

/// Bytes of the header that protocol 2.12 has, the oldest that is read.
const REQUIRED: usize = offset_of!(SetupHeader, kernel_info_offset);

/// The largest alignment and size that are believed, in bytes.
const LARGEST: u64 = 1 << 30;

/// A sound bzImage with a 64-bit entry.
#[derive(Clone, Copy, Debug)]
pub struct BzImage<'a> {
    header: SetupHeader,
    code: &'a [u8],
    whole: &'a [u8],
}

impl<'a> BzImage<'a> {
    /// Reads the image at the start of `bytes`, behind which there may be more.
    ///
    /// # Errors
    /// [`Fault::TooShort`]; [`Fault::Magic`], [`Fault::Version`]: no image, or one before protocol 2.12;
    /// [`Fault::Unsuitable`]: one that cannot be entered in 64-bit mode, or runs at one place alone, which a loader that
    /// has to spare what is preserved cannot promise; a header that ends before what its version has.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Error> {
        let fail =
            |field, fault: Fault| fault.of(Structure::BzImage, PhysAddr::new(0), HEADER_AT + field);
        let short = |needed: usize| Fault::TooShort {
            needed: usize_to_u64(needed),
            found: usize_to_u64(bytes.len()),
        };
        let header =
            bytes.get(HEADER_AT..).and_then(|rest| SetupHeader::read_from_prefix(rest).ok());
        let (mut header, _) = header.ok_or(fail(0, short(HEADER_AT + size_of::<SetupHeader>())))?;
        for (found, magic, field) in [
            (header.header.get(), MAGIC, offset_of!(SetupHeader, header)),
            (header.boot_flag.get().into(), 0xaa55, offset_of!(SetupHeader, boot_flag)),
        ] {
            if found != magic {
                return Err(fail(field, Fault::Magic { found: found.into() }));
            }
        }
        let found = u32::from(header.version.get());
        if found < OLDEST {
            let fault = Fault::Version { found, oldest: OLDEST };
            return Err(fail(offset_of!(SetupHeader, version), fault));
        }
        let unsuitable = |field, expected| Err(fail(field, Fault::Unsuitable { expected }));
        if header.xloadflags.get() & XLF_KERNEL_64 == 0 {
            return unsuitable(offset_of!(SetupHeader, xloadflags), "a 64-bit entry");
        }
        if header.relocatable_kernel == 0 {
            let field = offset_of!(SetupHeader, relocatable_kernel);
            return unsuitable(field, "an image that runs anywhere");
        }
        let align = header.kernel_alignment.get();
        if !align.is_power_of_two() || u64::from(align) > LARGEST {
            let field = offset_of!(SetupHeader, kernel_alignment);
            return unsuitable(field, "an alignment of up to 1 GiB, a power of two");
        }
        // What an older header does not have is the code's first bytes, and no field.
        let end = usize::from(header.jump.to_bytes()[1]) + offset_of!(SetupHeader, jump) + 2;
        if end < REQUIRED {
            return unsuitable(offset_of!(SetupHeader, jump), "a header with all of protocol 2.12");
        }
        if let Some(rest) = header.as_mut_bytes().get_mut(end..) {
            rest.fill(0);
        }
        // 0 is 4, of the time when all had as many.
        let sectors = if header.setup_sects == 0 { 4 } else { header.setup_sects };
        let start = (usize::from(sectors) + 1) * 512;
        let length = u32_to_usize(header.syssize.get()).saturating_mul(16);
        let end = start.saturating_add(length);
        let parts = bytes.get(..end).and_then(|whole| Some((whole, whole.get(start..)?)));
        let (whole, code) = parts.ok_or(fail(offset_of!(SetupHeader, syssize), short(end)))?;
        let needed = header.init_size.get();
        if code.len() <= ENTRY || u64::from(needed) > LARGEST {
            let field = offset_of!(SetupHeader, init_size);
            return unsuitable(field, "a 64-bit entry within the code, in up to 1 GiB");
        }
        Ok(Self { header, code, whole })
    }

    /// The image's header.
    pub const fn header(&self) -> &SetupHeader {
        &self.header
    }

    /// What is loaded.
    pub const fn code(&self) -> &'a [u8] {
        self.code
    }

    /// The image: as many bytes as it takes of what it was read from.
    pub const fn whole(&self) -> &'a [u8] {
        self.whole
    }

    /// Bytes that it needs from where its code is loaded: the code, and what it writes behind it.
    pub fn needed(&self) -> u64 {
        usize_to_u64(self.code.len()).max(self.header.init_size.get().into())
    }

    /// What its code must be aligned to, in bytes: at least a page.
    pub fn align(&self) -> u64 {
        u64::from(self.header.kernel_alignment.get()).max(4096)
    }

    /// The lowest address that its code may be loaded to: from below, it would move there by itself, over
    /// whatever is there.
    pub fn lowest(&self) -> PhysAddr {
        PhysAddr::new(self.header.pref_address.get())
    }

    /// Returns whether it may lie above 4 GiB.
    pub fn runs_above_4g(&self) -> bool {
        self.header.xloadflags.get() & XLF_CAN_BE_LOADED_ABOVE_4G != 0
    }

    /// Returns whether it may be entered with page tables of five levels.
    pub fn takes_5_levels(&self) -> bool {
        self.header.xloadflags.get() & XLF_5LEVEL != 0
    }
}

/// Returns the bytes of the image that [`from_elf`] makes of this file.
///
/// # Errors
/// As for [`Elf::parse`].
pub fn size(elf: &[u8]) -> Result<usize, Error> {
    Ok(SETUP + Elf::parse(elf)?.file_bytes().next_multiple_of(16))
}

/// Makes a bzImage of an ELF file, which is loaded in one piece. Linux's `kexec_file_load` takes it, also where Linux
/// runs with page tables of five levels.
///
/// The kernel in the file
/// - is linked to run anywhere: a static PIE that relocates itself;
/// - has its 64-bit entry [`ENTRY`] bytes behind its lowest address, with RSI the address of
///   [`BootParams`](crate::boot_params::BootParams);
/// - brings page tables of its own before it leaves those that it was entered with, of as many levels as these have
///   (CR4.LA57), and uses nothing outside of itself before it has read the map.
///
/// Returns how many bytes of `into` it took.
///
/// # Errors
/// As for [`Elf::parse`]; [`Fault::TooLong`]: `into` has fewer than [`size`] bytes; [`Fault::Unsuitable`]: the file is
/// linked to one place (its type is not `ET_DYN`), is no longer than the way to its entry, or has more than 1 GiB.
/// Where the file itself is entered (`e_entry`) is not looked at: it can have other ways in.
///
/// # Examples
/// What `cargo build` made, to a file that `kexec --kexec-file-syscall --load` takes.
/// ```no_run
/// use heirloom_x86::bzimage;
///
/// let elf = std::fs::read("target/x86_64-unknown-none/release/mykernel")?;
/// let mut image = vec![0; bzimage::size(&elf)?];
/// bzimage::from_elf(&elf, &mut image)?;
/// std::fs::write("mykernel.bzImage", image)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn from_elf(elf: &[u8], into: &mut [u8]) -> Result<usize, Error> {
    let fail = |fault: Fault| fault.of(Structure::BzImage, PhysAddr::new(0), 0);
    let elf = Elf::parse(elf)?;
    if !elf.is_movable() {
        let fault = Fault::Unsuitable { expected: "a file that is linked to run anywhere, ET_DYN" };
        return Err(fault.of(Structure::Elf, PhysAddr::new(0), Elf::KIND_AT));
    }
    let code = elf.file_bytes().next_multiple_of(16);
    let whole = SETUP + code;
    let (limit, found) = (usize_to_u64(into.len()), usize_to_u64(whole));
    let into = into.get_mut(..whole).ok_or(fail(Fault::TooLong { limit, found }))?;
    let needed = elf.memory_bytes();
    if code <= ENTRY || needed > LARGEST {
        let expected = "more code than the way to its entry, in up to 1 GiB";
        return Err(fail(Fault::Unsuitable { expected }));
    }
    into.fill(0);
    let (setup, body) = into.split_at_mut(SETUP);
    elf.copy_into(body);
    let mut header = SetupHeader::new_zeroed();
    header.setup_sects = 1;
    header.syssize = usize_to_u32(code / 16).into();
    header.boot_flag = 0xaa55.into();
    // A short jump to behind the header, which tells how long the header is.
    let rest = size_of::<SetupHeader>() - (offset_of!(SetupHeader, jump) + 2);
    header.jump = U16::from_bytes([0xeb, u8::try_from(rest).unwrap_or(u8::MAX)]);
    header.header = MAGIC.into();
    header.version = 0x020f.into();
    header.loadflags = LOADED_HIGH;
    header.initrd_addr_max = i32::MAX.cast_unsigned().into();
    header.kernel_alignment = (2 << 20).into();
    header.min_alignment = 21;
    header.relocatable_kernel = 1;
    header.xloadflags = (XLF_KERNEL_64 | XLF_CAN_BE_LOADED_ABOVE_4G | XLF_5LEVEL).into();
    header.cmdline_size = 2047.into();
    header.pref_address = elf.start().max(1 << 20).into();
    header.init_size = usize_to_u32(u64_to_usize(needed)).into();
    if let Some(place) = setup.get_mut(HEADER_AT..HEADER_AT + size_of::<SetupHeader>()) {
        place.copy_from_slice(header.as_bytes());
    }
    Ok(whole)
}

#[cfg(test)]
mod tests {
    use std::vec;
    use std::vec::Vec;

    use super::*;
    use crate::elf::tests::file;

    fn image() -> Vec<u8> {
        let code: Vec<u8> = (0..2000_u32).map(|i| i as u8).collect();
        let elf = file(&[(1 << 20, &code, 9000)]);
        let mut image = vec![0xee; size(&elf).unwrap()];
        assert_eq!(from_elf(&elf, &mut image), Ok(image.len()));
        image
    }

    #[test]
    fn what_is_written_is_read() {
        let mut bytes = image();
        let length = bytes.len();
        bytes.extend([0xaa; 100]);
        let image = BzImage::parse(&bytes).unwrap();
        assert_eq!(image.whole(), &bytes[..length]);
        assert_eq!(image.code().len(), 2000);
        assert!(image.code().iter().enumerate().all(|(i, byte)| *byte == i as u8));
        assert_eq!((image.needed(), image.align()), (9000, 2 << 20));
        assert_eq!(image.lowest().get(), 1 << 20);
        assert!(image.runs_above_4g() && image.takes_5_levels());
    }

    /// What `bzImage64_probe` and `bzImage64_load` look at.
    #[test]
    fn linux_would_take_it() {
        let bytes = image();
        let header_end = 0x202 + usize::from(bytes[0x201]);
        assert_eq!(header_end, 0x26c, "up to kernel_info_offset");
        assert_eq!((bytes[0x1fe], bytes[0x1ff], &bytes[0x202..0x206]), (0x55, 0xaa, &b"HdrS"[..]));
        assert_eq!(u16::from_le_bytes([bytes[0x206], bytes[0x207]]), 0x20f);
        assert_eq!(bytes[0x211] & 1, 1, "LOADED_HIGH");
        let flags = u16::from_le_bytes([bytes[0x236], bytes[0x237]]);
        assert_eq!(flags & 0b10_0011, 0b10_0011, "64-bit, above 4 GiB, 5 levels");
        assert!((usize::from(bytes[0x1f1]) + 1) * 512 < bytes.len());
    }

    #[test]
    fn what_an_older_header_does_not_have_is_no_field() {
        let mut bytes = image();
        bytes[0x264..0x26c].fill(0xee);
        assert_eq!(BzImage::parse(&bytes).unwrap().header().kernel_info_offset.get(), 0xeeee_eeee);
        bytes[0x201] = 0x66;
        let header = *BzImage::parse(&bytes).unwrap().header();
        assert_eq!(header.handover_offset.get(), 0xeeee_eeee);
        assert_eq!((header.kernel_info_offset.get(), header.init_size.get()), (0, 9000));
    }

    #[test]
    fn each_fault_names_its_byte() {
        let sound = image();
        let fault = |offset: usize, bytes: &[u8]| {
            let mut image = sound.clone();
            image[offset..offset + bytes.len()].copy_from_slice(bytes);
            let error = BzImage::parse(&image).unwrap_err();
            assert_eq!(error.structure, Structure::BzImage);
            (error.offset, error.fault)
        };
        assert_eq!(fault(0x202, b"hdrs").0, 0x202);
        assert_eq!(fault(0x1fe, &[0, 0]), (0x1fe, Fault::Magic { found: 0 }));
        assert_eq!(fault(0x206, &[0, 2]).1, Fault::Version { found: 0x200, oldest: OLDEST });
        for (offset, bytes) in [(0x236, &[0, 0][..]), (0x234, &[0]), (0x230, &[1, 0, 0x20, 0])] {
            let (at, fault) = fault(offset, bytes);
            assert!(matches!(fault, Fault::Unsuitable { .. }), "{fault}");
            assert_eq!(at, offset);
        }
        // A header that ends before it has all.
        for end in [0, 1, 0x62, 0x65] {
            assert!(matches!(fault(0x201, &[end]), (0x200, Fault::Unsuitable { .. })), "{end:#x}");
        }
        assert!(matches!(fault(0x260, &[0xff; 4]).1, Fault::Unsuitable { .. }));
        assert!(matches!(fault(0x1f4, &[0xff; 4]).1, Fault::TooShort { .. }));
        assert!(matches!(fault(0x1f4, &[1, 0, 0, 0]).1, Fault::Unsuitable { .. }));
        for length in 0..sound.len() {
            assert!(BzImage::parse(&sound[..length]).is_err(), "{length}");
        }
    }

    #[test]
    fn an_image_needs_its_room() {
        let elf = file(&[(1 << 20, &[1; 2000], 2000)]);
        let mut small = vec![0; size(&elf).unwrap() - 1];
        let fault = from_elf(&elf, &mut small).unwrap_err().fault;
        assert_eq!(fault, Fault::TooLong { limit: 3023, found: 3024 });
        let mut fixed = elf.clone();
        fixed[Elf::KIND_AT] = 2;
        let error = from_elf(&fixed, &mut vec![0; 4096]).unwrap_err();
        assert_eq!((error.structure, error.offset), (Structure::Elf, 16));
        assert!(matches!(error.fault, Fault::Unsuitable { .. }), "{error}");
        let tiny = file(&[(1 << 20, &[1; 512], 512)]);
        let mut room = vec![0; 4096];
        assert!(matches!(from_elf(&tiny, &mut room).unwrap_err().fault, Fault::Unsuitable { .. }));
    }
}
