//! An ELF core with physical addresses, as QEMU's `dump-guest-memory` and kdump write it.

use std::fs::File;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, bail, ensure};
use object::elf::{ET_CORE, FileHeader64, PT_LOAD};
use object::read::ReadCache;
use object::read::elf::{FileHeader, ProgramHeader};
use object::{BigEndian, Endian, Endianness};

use super::Piece;

pub(super) const MAGIC: &[u8] = b"\x7fELF";

/// What the file has of memory, sorted by address, no byte twice.
pub(super) fn pieces(file: &File, length: u64) -> Result<Vec<Piece>> {
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
    let mut pieces = Vec::new();
    let mut addressed = false;
    for (index, header) in headers.iter().enumerate() {
        if header.p_type(endian) != PT_LOAD {
            continue;
        }
        let start = header.p_paddr(endian);
        let (offset, bytes) = (header.p_offset(endian), header.p_filesz(endian));
        let whole = header.p_memsz(endian);
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
            pieces.push((index, Piece { start, bytes, offset }));
        }
    }
    ensure!(!pieces.is_empty(), "the core has no memory in it: no PT_LOAD segment with bytes");
    ensure!(
        addressed || pieces.len() == 1,
        "every segment has physical address 0: the core of a process, not of a machine",
    );
    apart(file, pieces)
}

/// The pieces without those that another one holds too.
///
/// A vmcore has the kernel's text twice, once in a segment of its own. What stands twice must be
/// the same both times; anything else is no picture of one memory.
fn apart(file: &File, mut pieces: Vec<(usize, Piece)>) -> Result<Vec<Piece>> {
    pieces.sort_by_key(|(_, piece)| (piece.start, std::cmp::Reverse(piece.bytes)));
    let mut kept: Vec<(usize, Piece)> = Vec::with_capacity(pieces.len());
    for (index, piece) in pieces {
        match kept.last() {
            Some((before, last)) if piece.start < last.end() => {
                let Piece { start, .. } = piece;
                ensure!(
                    piece.end() <= last.end(),
                    "segments {before} and {index} overlap at {start:#x} and neither holds the \
                     other",
                );
                let twin = Piece { offset: last.offset + (start - last.start), ..piece };
                if let Some(at) = difference(file, piece, twin)? {
                    bail!("segments {before} and {index} both have {at:#x}, with other bytes");
                }
            }
            _ => kept.push((index, piece)),
        }
    }
    Ok(kept.into_iter().map(|(_, piece)| piece).collect())
}

/// The first address at which two pieces of one length differ.
fn difference(file: &File, one: Piece, other: Piece) -> Result<Option<u64>> {
    if one.offset == other.offset {
        return Ok(None);
    }
    let (mut left, mut right) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    let mut done = 0;
    while done < one.bytes {
        let step = (one.bytes - done).min(left.len() as u64) as usize;
        let (left, right) = (&mut left[..step], &mut right[..step]);
        file.read_exact_at(left, one.offset + done).context("cannot read the core")?;
        file.read_exact_at(right, other.offset + done).context("cannot read the core")?;
        if let Some(at) = left.iter().zip(&*right).position(|(a, b)| a != b) {
            return Ok(Some(one.start + done + at as u64));
        }
        done += step as u64;
    }
    Ok(None)
}
