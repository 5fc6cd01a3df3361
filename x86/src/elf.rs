//! ELF files of kernels: what is loaded, as one piece.

use core::mem::offset_of;

use heirloom_kho::PhysAddr;
use heirloom_kho::narrow::{u64_to_usize, usize_to_u64};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::error::{Error, Fault, Structure};

/// `Elf64_Ehdr`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Head {
    ident: [u8; 16],
    kind: U16,
    machine: U16,
    version: U32,
    entry: U64,
    phoff: U64,
    shoff: U64,
    flags: U32,
    ehsize: U16,
    phentsize: U16,
    phnum: U16,
    shentsize: U16,
    shnum: U16,
    shstrndx: U16,
}

/// `Elf64_Phdr`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Segment {
    kind: U32,
    flags: U32,
    offset: U64,
    vaddr: U64,
    paddr: U64,
    filesz: U64,
    memsz: U64,
    align: U64,
}

const _: () = assert!(size_of::<Head>() == 64 && size_of::<Segment>() == 56);

/// `PT_LOAD`.
const LOAD: u32 = 1;
/// `ET_DYN`.
const DYNAMIC: u16 = 3;
/// `EM_X86_64`.
const X86_64: u16 = 62;
/// The most bytes that what is loaded may span: more is no kernel.
const LARGEST: u64 = 1 << 30;

/// A sound ELF file for x86-64 with something to load.
#[derive(Clone, Copy, Debug)]
pub struct Elf<'a> {
    bytes: &'a [u8],
    segments: &'a [Segment],
    start: u64,
    file_bytes: u64,
    memory_bytes: u64,
    is_movable: bool,
}

impl<'a> Elf<'a> {
    /// Checks a file as far as it is loaded.
    ///
    /// # Errors
    /// [`Fault::TooShort`], [`Fault::Magic`]; [`Fault::Unsuitable`]: of 32 bits, for another processor, or nothing to load;
    /// [`Fault::TooLong`]: what is loaded spans more than 1 GiB.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Error> {
        let fail = |offset, fault: Fault| fault.of(Structure::Elf, PhysAddr::new(0), offset);
        let found = usize_to_u64(bytes.len());
        let short = |offset, needed| fail(offset, Fault::TooShort { needed, found });
        let head = Head::read_from_prefix(bytes).map_err(|_| short(0, 64))?.0;
        let [a, b, c, d, class, order, ..] = head.ident;
        if [a, b, c, d] != *b"\x7fELF" {
            let found = u32::from_le_bytes([a, b, c, d]).into();
            return Err(fail(0, Fault::Magic { found }));
        }
        let unsuitable = |offset, expected| fail(offset, Fault::Unsuitable { expected });
        if (class, order, head.machine.get()) != (2, 1, X86_64) {
            return Err(unsuitable(4, "a file for x86-64"));
        }
        if usize::from(head.phentsize.get()) != size_of::<Segment>() {
            return Err(unsuitable(offset_of!(Head, phentsize), "segments of 56 bytes"));
        }
        let phoff = offset_of!(Head, phoff);
        let (start, count) = (head.phoff.get(), usize::from(head.phnum.get()));
        let segments = bytes
            .get(u64_to_usize(start)..)
            .and_then(|rest| Some(<[Segment]>::ref_from_prefix_with_elems(rest, count).ok()?.0));
        let needed = start.saturating_add(usize_to_u64(count * size_of::<Segment>()));
        let segments = segments.ok_or(short(phoff, needed))?;
        let mut span: Option<(u64, u64, u64)> = None;
        for (i, segment) in segments.iter().enumerate() {
            if !segment.is_loaded() {
                continue;
            }
            let place = u64_to_usize(start).saturating_add(i * size_of::<Segment>());
            let fail = |field, fault| fail(place.saturating_add(field), fault);
            let (vaddr, in_file) = (segment.vaddr.get(), segment.filesz.get());
            let in_memory = segment.memsz.get();
            let in_file_end = segment.offset.get().checked_add(in_file);
            let needed = in_file_end.unwrap_or(u64::MAX);
            if needed > found {
                let field = offset_of!(Segment, filesz);
                return Err(fail(field, Fault::TooShort { needed, found }));
            }
            let expected = "at least as many bytes in memory as in the file";
            let shrunk = fail(offset_of!(Segment, memsz), Fault::Unsuitable { expected });
            if in_memory < in_file {
                return Err(shrunk);
            }
            let end = vaddr.checked_add(in_memory).ok_or(shrunk)?;
            let (low, file_end, high) = span.unwrap_or((vaddr, 0, 0));
            span = Some((low.min(vaddr), file_end.max(vaddr + in_file), high.max(end)));
        }
        let (start, file_end, end) = span.ok_or(unsuitable(phoff, "something to load"))?;
        let (file_bytes, memory_bytes) = (file_end.saturating_sub(start), end - start);
        if memory_bytes > LARGEST {
            let fault = Fault::TooLong { limit: LARGEST, found: memory_bytes };
            return Err(fail(phoff, fault));
        }
        let is_movable = head.kind.get() == DYNAMIC;
        Ok(Self { bytes, segments, start, file_bytes, memory_bytes, is_movable })
    }

    /// Whether it is linked to run anywhere.
    pub(crate) const fn is_movable(&self) -> bool {
        self.is_movable
    }

    /// The byte that says so.
    pub(crate) const KIND_AT: usize = offset_of!(Head, kind);

    /// The lowest address that it is linked to.
    pub const fn start(&self) -> u64 {
        self.start
    }

    /// Bytes from there to the end of what is in the file.
    pub const fn file_bytes(&self) -> usize {
        u64_to_usize(self.file_bytes)
    }

    /// Bytes from there to the end of what it takes in memory.
    pub const fn memory_bytes(&self) -> u64 {
        self.memory_bytes
    }

    /// Copies what is loaded to where it belongs in `into`, which stands for the lowest address on. What does
    /// not fit is left out, and what is in no segment stays as it is.
    pub fn copy_into(&self, into: &mut [u8]) {
        for segment in self.segments.iter().filter(|segment| segment.is_loaded()) {
            let from = u64_to_usize(segment.offset.get());
            let length = u64_to_usize(segment.filesz.get());
            let at = u64_to_usize(segment.vaddr.get() - self.start);
            let from = self.bytes.get(from..).and_then(|rest| rest.get(..length));
            let place = into.get_mut(at..).and_then(|rest| rest.get_mut(..length));
            if let (Some(from), Some(place)) = (from, place) {
                place.copy_from_slice(from);
            }
        }
    }
}

impl Segment {
    fn is_loaded(&self) -> bool {
        self.kind.get() == LOAD && self.memsz.get() != 0
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::vec;
    use std::vec::Vec;

    use zerocopy::FromZeros;

    use super::*;

    /// A file of these segments: address, bytes, bytes in memory.
    pub(crate) fn file(segments: &[(u64, &[u8], u64)]) -> Vec<u8> {
        let mut head = Head::new_zeroed();
        head.ident[..6].copy_from_slice(b"\x7fELF\x02\x01");
        (head.kind, head.machine) = (DYNAMIC.into(), X86_64.into());
        head.phoff = 64.into();
        head.phentsize = 56.into();
        head.phnum = (segments.len() as u16 + 1).into();
        let mut offset = 64 + 56 * (segments.len() as u64 + 1);
        let mut bytes = head.as_bytes().to_vec();
        // One that is not loaded: its lengths mean nothing.
        let mut other = Segment::new_zeroed();
        (other.kind, other.filesz) = (4.into(), u64::MAX.into());
        bytes.extend(other.as_bytes());
        for (addr, content, memory) in segments {
            let mut segment = Segment::new_zeroed();
            segment.kind = LOAD.into();
            segment.offset = offset.into();
            segment.vaddr = (*addr).into();
            segment.filesz = (content.len() as u64).into();
            segment.memsz = (*memory).into();
            bytes.extend(segment.as_bytes());
            offset += content.len() as u64;
        }
        bytes.extend(segments.iter().flat_map(|(_, content, _)| *content));
        bytes
    }

    #[test]
    fn segments_come_to_where_they_belong() {
        let bytes = file(&[(0x2000, b"second", 0x100), (0x1000, b"first", 5)]);
        let elf = Elf::parse(&bytes).unwrap();
        assert_eq!((elf.start(), elf.file_bytes(), elf.memory_bytes()), (0x1000, 0x1006, 0x1100));
        let mut into = vec![0xee; 0x1006];
        elf.copy_into(&mut into);
        assert_eq!((&into[..6], &into[0x1000..]), (&b"first\xee"[..], &b"second"[..]));
        elf.copy_into(&mut into[..3]);
    }

    #[test]
    fn each_fault_names_its_byte() {
        let sound = file(&[(0x1000, b"text", 8)]);
        let fault = |offset: usize, bytes: &[u8]| {
            let mut file = sound.clone();
            file[offset..offset + bytes.len()].copy_from_slice(bytes);
            let error = Elf::parse(&file).unwrap_err();
            (error.offset, error.fault)
        };
        assert!(matches!(fault(0, b"\x7fELG"), (0, Fault::Magic { .. })));
        for (offset, value) in [(4, 1), (5, 2), (18, 3)] {
            assert!(matches!(fault(offset, &[value]), (4, Fault::Unsuitable { .. })));
        }
        assert!(matches!(fault(54, &[55]), (54, Fault::Unsuitable { .. })));
        assert!(matches!(fault(32, &[0xff; 8]), (32, Fault::TooShort { .. })));
        assert!(matches!(fault(56, &[0xff, 0xff]), (32, Fault::TooShort { .. })));
        // The second segment: its offset, its bytes in the file and in memory, its type.
        let segment = 64 + 56;
        assert!(matches!(fault(segment + 8, &[0xff; 8]).1, Fault::TooShort { .. }));
        assert!(matches!(fault(segment + 40, &[3]), (160, Fault::Unsuitable { .. })));
        assert!(matches!(fault(segment + 40, &[0xff; 8]), (160, Fault::Unsuitable { .. })));
        assert!(matches!(fault(segment + 44, &[1]), (32, Fault::TooLong { .. })));
        assert!(matches!(fault(segment, &[2]), (32, Fault::Unsuitable { .. })));
        for length in 0..sound.len() {
            assert!(Elf::parse(&sound[..length]).is_err(), "{length}");
        }
    }
}
