//! An ELF core with physical addresses, as QEMU's `dump-guest-memory` and kdump write it.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::piece::Piece;
use super::twins::{apart, numbered};
use crate::machine::{ByteOrder, Machine};
use anyhow::{Context, Result, ensure};
use heirloom_kho::PageSize;
use object::elf::{EM_NONE, ET_CORE, FileHeader64, PT_LOAD, PT_NOTE};
use object::read::ReadCache;
use object::read::elf::{FileHeader, ProgramHeader};
use object::{BigEndian, Endian, Endianness};

pub(super) const MAGIC: &[u8] = b"\x7fELF";

/// The physical address of a segment that has none: `/proc/kcore` has it for what is no memory.
const NO_ADDRESS: u64 = u64::MAX;

/// What a core says of memory.
#[derive(Debug, Default)]
pub(super) struct Core {
    /// What the file has of it, sorted by address, no byte twice; and, if that was asked for, what it
    /// only declares, as zeroes.
    pub(super) pieces: Vec<Piece>,
    /// Bytes that are declared and not in the file.
    pub(super) declared: u64,
    /// Bytes that should be in the file, which ends before.
    pub(super) cut: u64,
    /// Segments without a physical address, which were passed over.
    pub(super) unaddressed: u64,
    /// The size of the machine's pages, if a note says it.
    pub(super) page_size: Option<PageSize>,
    /// Which machine that is.
    pub(super) machine: Option<Machine>,
}

/// Reads the headers; `zeroes`: what is declared and not in the file is taken for zeroes.
pub(super) fn read(file: &File, length: u64, zeroes: bool) -> Result<Core> {
    let mut ident = [0; 6];
    file.read_exact_at(&mut ident, 0).context("cannot read the ELF header")?;
    ensure!(ident[4] == 2, "a 32-bit ELF core; only 64-bit ones have room for these addresses");
    let cache = ReadCache::new(file);
    let header = FileHeader64::<Endianness>::parse(&cache).context("bad ELF header")?;
    let endian = header.endian().context("bad ELF header")?;
    ensure!(
        endian.is_big_endian() == BigEndian.is_big_endian() && cfg!(target_endian = "big")
            || endian.is_little_endian() && cfg!(target_endian = "little"),
        "the core's machine has another byte order than this one, and tables of a handover are in \
         the machine's own",
    );
    let kind = header.e_type(endian);
    ensure!(kind == ET_CORE, "an ELF file of type {kind}; a memory dump is a core, type {ET_CORE}");
    let headers = header.program_headers(endian, &cache);
    let headers = headers.context("bad ELF program headers: is the file cut off?")?;
    let (mut pieces, mut declared, mut cut) = (Vec::new(), Vec::new(), 0_u64);
    let (mut addressed, mut unaddressed, mut page_size) = (false, 0, None);
    let mut room = NOTES;
    for (index, header) in headers.iter().enumerate() {
        let kind = header.p_type(endian);
        if kind == PT_NOTE {
            let bytes = header.p_filesz(endian).min(room);
            room -= bytes;
            let pages = noted(file, header.p_offset(endian), bytes);
            let known = pages.and_then(PageSize::new);
            ensure!(
                pages.is_none() || known.is_some(),
                "the core's machine has pages of {} bytes, and this command reads pages of {} to {}",
                pages.unwrap_or_default(),
                PageSize::BUILD,
                PageSize::MAX,
            );
            page_size = page_size.or(known);
        }
        if kind != PT_LOAD {
            continue;
        }
        let start = header.p_paddr(endian);
        let (offset, bytes) = (header.p_offset(endian), header.p_filesz(endian));
        let whole = header.p_memsz(endian);
        if start == NO_ADDRESS {
            unaddressed += 1;
            continue;
        }
        ensure!(
            bytes <= whole,
            "segment {index} at {start:#x}: {bytes:#x} bytes in the file, {whole:#x} in memory",
        );
        ensure!(
            start.checked_add(whole).is_some(),
            "segment {index}: {whole:#x} bytes from {start:#x} on leave the address space",
        );
        let there = bytes.min(length.saturating_sub(offset));
        cut = cut.saturating_add(bytes - there);
        addressed |= start != 0;
        if there > 0 {
            pieces.push((index, Piece::of_file(start, there, offset)));
        }
        if whole > bytes {
            declared.push((start + bytes, start + whole));
        }
    }
    let some = !pieces.is_empty() || zeroes && !declared.is_empty();
    ensure!(
        some || unaddressed == 0,
        "the core has no memory in it: none of its {unaddressed} segments has a physical address",
    );
    ensure!(
        some || cut == 0,
        "the core has no memory in it: the file ends at {length:#x}, before all of it"
    );
    ensure!(some, "the core has no memory in it: no PT_LOAD segment with bytes");
    ensure!(
        addressed || pieces.len() == 1,
        "every segment has physical address 0: the core of a process, not of a machine",
    );
    // Only what a running kernel shows of itself (`/proc/kcore`) has such segments: it goes on while it is read, and has
    // its own text, data included, a second time.
    let files = (unaddressed == 0).then(|| std::slice::from_ref(file));
    let mut pieces = apart(files, pieces, &numbered("segments"))?;
    let missing = missing(declared, &pieces);
    let declared = missing.iter().map(|piece| piece.bytes).sum();
    if zeroes {
        pieces.extend(missing);
        pieces.sort_unstable_by_key(|piece| piece.start);
    }
    // A core that no machine's kernel wrote need not say one.
    let machine = Some(header.e_machine(endian)).filter(|machine| *machine != EM_NONE);
    let machine = machine.map(|machine| Machine::of_elf(machine, true, ByteOrder::HERE));
    Ok(Core { pieces, declared, cut, unaddressed, page_size, machine })
}

/// Bytes of notes that are read, in all segments together: more than any kernel writes. Without it a forged core would have each of
/// its segments read the same bytes again.
const NOTES: u64 = 1 << 20;

/// The size of a page, as the notes of a Linux core have it, in `bytes` bytes at `offset`.
fn noted(file: &File, offset: u64, bytes: u64) -> Option<u64> {
    let mut notes = vec![0; usize::try_from(bytes).ok()?];
    file.read_exact_at(&mut notes, offset).ok()?;
    let mut rest = &*notes;
    while let Some((head, behind)) = rest.split_at_checked(12) {
        let field =
            |i: usize| Some(u32::from_ne_bytes(*head.get(i * 4..)?.first_chunk()?) as usize);
        let (name, text) = (field(0)?, field(1)?);
        let (name, behind) = behind.split_at_checked(name.checked_next_multiple_of(4)?)?;
        // The last one need not be padded.
        let padded = text.checked_next_multiple_of(4)?.min(behind.len());
        let (text, behind) = (behind.get(..text)?, behind.get(padded..)?);
        if name.starts_with(b"VMCOREINFO\0") {
            let line =
                text.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"PAGESIZE="));
            return std::str::from_utf8(line?).ok()?.trim().parse().ok();
        }
        rest = behind;
    }
    None
}

/// What of these stretches no piece has, sorted and apart.
fn missing(mut stretches: Vec<(u64, u64)>, pieces: &[Piece]) -> Vec<Piece> {
    stretches.sort_unstable();
    let mut missing: Vec<Piece> = Vec::new();
    let mut done = 0;
    for (start, end) in stretches {
        let mut at = start.max(done);
        done = done.max(end);
        let after = pieces.partition_point(|piece| piece.end() <= at);
        for piece in pieces.get(after..).unwrap_or(&[]) {
            if at >= end || piece.start >= end {
                break;
            }
            if at < piece.start {
                missing.push(Piece::zeroes(at, piece.start));
            }
            at = piece.end();
        }
        if at < end {
            missing.push(Piece::zeroes(at, end));
        }
    }
    missing
}
