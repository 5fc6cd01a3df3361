//! An ELF core with physical addresses, as QEMU's `dump-guest-memory` and kdump write it.

use std::fs::File;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, bail, ensure};
use heirloom_kho::PageSize;
use object::elf::{ET_CORE, FileHeader64, PT_LOAD, PT_NOTE};
use object::read::ReadCache;
use object::read::elf::{FileHeader, ProgramHeader};
use object::{BigEndian, Endian, Endianness};
use rustix::fs::SeekFrom;

use super::piece::{Bytes, Piece};

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
    /// Segments without a physical address, which were passed over.
    pub(super) unaddressed: u64,
    /// The size of the machine's pages, if a note says it.
    pub(super) page_size: Option<PageSize>,
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
    let (mut pieces, mut declared) = (Vec::new(), Vec::new());
    let (mut addressed, mut unaddressed, mut page_size) = (false, 0, None);
    for (index, header) in headers.iter().enumerate() {
        let kind = header.p_type(endian);
        if kind == PT_NOTE {
            let pages = noted(file, header.p_offset(endian), header.p_filesz(endian));
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
        let end = offset.checked_add(bytes);
        ensure!(
            end.is_some_and(|end| end <= length),
            "segment {index} at {start:#x}: bytes {offset:#x} to {:#x} of a file that ends at \
             {length:#x}: it is cut off",
            offset.saturating_add(bytes),
        );
        addressed |= start != 0;
        if bytes > 0 {
            pieces.push((index, Piece { start, bytes, from: Bytes::At(offset) }));
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
    ensure!(some, "the core has no memory in it: no PT_LOAD segment with bytes");
    ensure!(
        addressed || pieces.len() == 1,
        "every segment has physical address 0: the core of a process, not of a machine",
    );
    let mut pieces = apart(file, pieces)?;
    let missing = missing(declared, &pieces);
    let declared = missing.iter().map(|piece| piece.bytes).sum();
    if zeroes {
        pieces.extend(missing);
        pieces.sort_unstable_by_key(|piece| piece.start);
    }
    Ok(Core { pieces, declared, unaddressed, page_size })
}

/// The size of a page, as the notes of a Linux core have it, in `bytes` bytes at `offset`.
fn noted(file: &File, offset: u64, bytes: u64) -> Option<u64> {
    /// More than any kernel writes.
    const MOST: u64 = 1 << 20;
    let mut notes = vec![0; usize::try_from(bytes.min(MOST)).ok()?];
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
                missing.push(Piece { start: at, bytes: piece.start - at, from: Bytes::Zero });
            }
            at = piece.end();
        }
        if at < end {
            missing.push(Piece { start: at, bytes: end - at, from: Bytes::Zero });
        }
    }
    missing
}

/// The pieces without those that another one holds too.
///
/// A vmcore has the kernel's text twice, once in a segment of its own. What stands twice must be
/// the same both times; anything else is no picture of one memory.
fn apart(file: &File, mut pieces: Vec<(usize, Piece)>) -> Result<Vec<Piece>> {
    pieces.sort_by_key(|(_, piece)| (piece.start, std::cmp::Reverse(piece.bytes)));
    let mut kept: Vec<(usize, Piece)> = Vec::with_capacity(pieces.len());
    let mut twins = None;
    for (index, piece) in pieces {
        match kept.last() {
            Some((before, last)) if piece.start < last.end() => {
                let Piece { start, .. } = piece;
                ensure!(
                    piece.end() <= last.end(),
                    "segments {before} and {index} overlap at {start:#x} and neither holds the \
                     other",
                );
                let (Bytes::At(one), Bytes::At(other)) = (piece.from, last.from) else { continue };
                let other = other + (start - last.start);
                let twins = twins.get_or_insert_with(|| Twins::new(file));
                match twins.difference(one, other, piece.bytes).context("cannot read the core")? {
                    Twin::Same => {}
                    Twin::Differs(at) => bail!(
                        "segments {before} and {index} both have {:#x}, with other bytes",
                        start + at,
                    ),
                    Twin::TooMuch => bail!(
                        "segments {before} and {index} both have {start:#x}, and so much of the \
                         core stands twice as the file has no bytes for",
                    ),
                }
            }
            _ => kept.push((index, piece)),
        }
    }
    Ok(kept.into_iter().map(|(_, piece)| piece).collect())
}

/// Whether two stretches of a file have the same bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Twin {
    Same,
    /// The first byte that differs, from their start.
    Differs(u64),
    /// There is more to compare than sound segments have.
    TooMuch,
}

/// Compares stretches of a file, as much in all as the file has bytes, twice.
///
/// Segments whose bytes in the file are their own have no more of them together than the file.
/// Segments that share them can be any number, each as large as the file.
#[derive(Debug)]
pub(super) struct Twins<'f> {
    file: &'f File,
    /// Bytes that may be compared yet.
    room: u64,
    /// Bytes that were.
    pub(super) compared: u64,
}

/// Bytes that are compared at a time, and what it costs to look for the next.
const STEP: u64 = 1 << 16;
const LOOK: u64 = 1 << 12;

impl<'f> Twins<'f> {
    pub(super) fn new(file: &'f File) -> Self {
        let length = file.metadata().map_or(0, |file| file.len());
        let (mut room, mut at) = (STEP, 0);
        while let Some((data, end)) = extent(file, at, length) {
            room += 2 * (end - data + LOOK);
            at = end;
        }
        Self { file, room, compared: 0 }
    }

    /// How the `bytes` bytes at `one` and at `other` differ. Holes of both are passed over.
    pub(super) fn difference(&mut self, one: u64, other: u64, bytes: u64) -> std::io::Result<Twin> {
        if one == other {
            return Ok(Twin::Same);
        }
        let (mut left, mut right) = (vec![0; STEP as usize], vec![0; STEP as usize]);
        let mut done = 0;
        while done < bytes {
            let data = |start: u64| {
                extent(self.file, start + done, start + bytes)
                    .map(|(data, end)| (data - start, end - start))
            };
            // The first of either that is more than a hole.
            let next = data(one).into_iter().chain(data(other)).min();
            let Some((first, last)) = next else { break };
            let step = (last - first).min(STEP);
            let Some(room) = self.room.checked_sub(step + LOOK) else { return Ok(Twin::TooMuch) };
            (self.room, self.compared) = (room, self.compared + step + LOOK);
            let (left, right) = (&mut left[..step as usize], &mut right[..step as usize]);
            self.file.read_exact_at(left, one + first)?;
            self.file.read_exact_at(right, other + first)?;
            if let Some(at) = left.iter().zip(&*right).position(|(a, b)| a != b) {
                return Ok(Twin::Differs(first + at as u64));
            }
            done = first + step;
        }
        Ok(Twin::Same)
    }
}

/// The first stretch of a file, from `at` on and before `end`, that is more than a hole. Where the
/// file system cannot tell, everything is.
pub(super) fn extent(file: &File, at: u64, end: u64) -> Option<(u64, u64)> {
    if at >= end {
        return None;
    }
    let data = match rustix::fs::seek(file, SeekFrom::Data(at)) {
        Ok(data) => data.max(at),
        Err(rustix::io::Errno::NXIO) => return None,
        Err(_) => at,
    };
    if data >= end {
        return None;
    }
    let hole = rustix::fs::seek(file, SeekFrom::Hole(data)).unwrap_or(end);
    Some((data, hole.clamp(data + 1, end)))
}
