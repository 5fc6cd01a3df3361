//! A `LiME` image: ranges of memory, each behind a header of 32 bytes.
//!
//! ```text
//!  "EMiL", version u32, first address u64, last address u64, zeroes[8], bytes…   and so on
//! ```

use std::fs::File;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, ensure};

use super::piece::Piece;

pub(super) const MAGIC: &[u8] = b"EMiL";
const HEADER: u64 = 32;

/// The pieces, each with its number, and how many bytes the last range lacks.
pub(super) fn read(file: &File, length: u64) -> Result<(Vec<(usize, Piece)>, u64)> {
    let (mut pieces, mut at, mut cut) = (Vec::new(), 0, 0);
    while at < length {
        let index = pieces.len();
        let mut header = [0; HEADER as usize];
        let room = length - at;
        if room < HEADER {
            cut = HEADER - room;
            break;
        }
        file.read_exact_at(&mut header, at).context("cannot read it")?;
        let word =
            |at: usize| header.get(at..)?.first_chunk().map(|word| u64::from_le_bytes(*word));
        let word = |at| word(at).unwrap_or_default();
        let version = word(0) >> 32;
        ensure!(
            header.starts_with(MAGIC),
            "no LiME header at byte {at:#x} of the file, behind range {index}"
        );
        ensure!(
            version == 1,
            "a LiME header of version {version} at byte {at:#x}; version 1 is known"
        );
        let (start, last) = (word(8), word(16));
        ensure!(
            start <= last && last < u64::MAX,
            "range {index}: {start:#x} to {last:#x} is no stretch of memory"
        );
        let (bytes, room) = (last - start + 1, room - HEADER);
        if bytes.min(room) > 0 {
            pieces.push((index, Piece::of_file(start, bytes.min(room), at + HEADER)));
        }
        cut = bytes.saturating_sub(room);
        at = at.saturating_add(HEADER).saturating_add(bytes);
    }
    Ok((pieces, cut))
}
