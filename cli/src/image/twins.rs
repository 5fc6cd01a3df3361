//! Stretches of memory that an image has more than once.
//!
//! A vmcore has the kernel's text twice, once in a segment of its own. What stands twice must be the same both
//! times; anything else is no picture of one memory.

use std::fs::File;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, bail};

use super::holes::extent;
use super::piece::{Bytes, Piece};

/// Names two pieces by their numbers, as two of `what`.
pub(super) fn numbered(what: &str) -> impl Fn(usize, usize) -> String {
    move |one, other| format!("{what} {one} and {other}")
}

/// The pieces without what another one has too, by address. Each has a number, by which `both` names two of them. `files` has them; `None` if they are of memory that goes on changing: two looks at one byte need not agree
/// then.
pub(super) fn apart(
    files: Option<&[File]>,
    mut pieces: Vec<(usize, Piece)>,
    both: &dyn Fn(usize, usize) -> String,
) -> Result<Vec<Piece>> {
    pieces.sort_by_key(|(_, piece)| (piece.start, std::cmp::Reverse(piece.bytes)));
    let mut kept: Vec<(usize, Piece)> = Vec::with_capacity(pieces.len());
    let mut twins = None;
    for (index, piece) in pieces {
        // From its first byte on, what was kept has no gap: each starts where the one before ends.
        let after = kept.partition_point(|(_, other)| other.end() <= piece.start);
        for &(before, other) in kept.iter().skip(after) {
            let (Some(files), Some(one), Some(other)) = (
                files,
                piece.from(piece.start.max(other.start)),
                other.from(piece.start.max(other.start)),
            ) else {
                continue;
            };
            let bytes = one.bytes.min(other.bytes);
            let twins = twins.get_or_insert_with(|| Twins::new(files));
            match twins.difference(one.from, other.from, bytes).context("cannot read it")? {
                Twin::Same => {}
                Twin::Differs(at) => bail!(
                    "{} both have {:#x}, with other bytes",
                    both(before, index),
                    one.start + at,
                ),
                Twin::TooMuch => bail!(
                    "{} both have {:#x}, and so much of memory stands twice as the file has no bytes for",
                    both(before, index),
                    piece.start,
                ),
            }
        }
        let rest = match kept.last() {
            Some((_, last)) if piece.end() <= last.end() => None,
            Some((_, last)) => piece.from(piece.start.max(last.end())),
            None => Some(piece),
        };
        kept.extend(rest.map(|piece| (index, piece)));
    }
    Ok(kept.into_iter().map(|(_, piece)| piece).collect())
}

/// Whether two stretches have the same bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Twin {
    Same,
    /// The first byte that differs, from their start.
    Differs(u64),
    /// There is more to compare than sound pieces have.
    TooMuch,
}

/// Compares stretches of files, as much in all as the files have bytes, twice.
///
/// Where no two pieces share bytes of a file, all pieces together have no more bytes than the files. Pieces that
/// share some can be any number, each as large as a file: hence the bound.
#[derive(Debug)]
pub(super) struct Twins<'f> {
    files: &'f [File],
    /// Bytes that may be compared yet.
    room: u64,
    /// Bytes that were.
    pub(super) compared: u64,
}

/// Bytes that are compared at a time, and what it costs to look for the next.
const STEP: u64 = 1 << 16;
const LOOK: u64 = 1 << 12;

impl<'f> Twins<'f> {
    pub(super) fn new(files: &'f [File]) -> Self {
        let mut room = STEP;
        for file in files {
            let (length, mut at) = (file.metadata().map_or(0, |file| file.len()), 0);
            while let Some((data, end)) = extent(file, at, length) {
                room += 2 * (end - data + LOOK);
                at = end;
            }
        }
        Self { files, room, compared: 0 }
    }

    /// How the first `bytes` bytes of both differ. Holes of both are passed over.
    pub(super) fn difference(
        &mut self,
        one: Bytes,
        other: Bytes,
        bytes: u64,
    ) -> std::io::Result<Twin> {
        let place = |from| match from {
            Bytes::At { file, offset } => Some((self.files.get(file)?, offset)),
            _ => None,
        };
        let (Some((left_file, left_at)), Some((right_file, right_at))) = (place(one), place(other))
        else {
            return Ok(Twin::Same);
        };
        if one == other {
            return Ok(Twin::Same);
        }
        let (mut left, mut right) = (vec![0; STEP as usize], vec![0; STEP as usize]);
        let mut done = 0;
        while done < bytes {
            let data = |file, start: u64| {
                extent(file, start + done, start + bytes)
                    .map(|(data, end)| (data - start, end - start))
            };
            // The first of either that is more than a hole.
            let next = data(left_file, left_at).into_iter().chain(data(right_file, right_at)).min();
            let Some((first, last)) = next else { break };
            let step = (last - first).min(STEP);
            let Some(room) = self.room.checked_sub(step + LOOK) else { return Ok(Twin::TooMuch) };
            (self.room, self.compared) = (room, self.compared + step + LOOK);
            let (left, right) = (&mut left[..step as usize], &mut right[..step as usize]);
            left_file.read_exact_at(left, left_at + first)?;
            right_file.read_exact_at(right, right_at + first)?;
            if let Some(at) = left.iter().zip(&*right).position(|(a, b)| a != b) {
                return Ok(Twin::Differs(first + at as u64));
            }
            done = first + step;
        }
        Ok(Twin::Same)
    }
}
