//! Files that cannot be looked into anywhere, made ones that can: what comes out of a pipe, is packed, or not in
//! order, goes to a file without a name, of which what is zero is a hole.
//!
//! ```text
//!  standard input, pipe ─┐
//!  gzip, zstd, xz ───────┼──> [ data |  hole  | data ]   in TMPDIR, gone with the process
//!  flattened kdump ──────┘
//! ```
//!
//! So it takes room where temporary files lie, and no memory.

use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, ensure};
use flate2::bufread::GzDecoder;
use lzma_rust2::XzReader;
use rustix::fs::{Mode, OFlags};
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

use super::holes::extent;
use super::xz::{DICTIONARY, XZ_KIB, xz_dictionary};

/// How a file is packed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Packed {
    Gzip,
    Zstd,
    Xz,
    /// A kdump file as it goes through a pipe: pieces, each with its place.
    Flattened,
}

impl Packed {
    /// What a file that starts with `head` is packed with, if it is.
    pub(super) fn of(head: &[u8]) -> Option<Self> {
        const KNOWN: [(&[u8], Packed); 4] = [
            (b"\x1f\x8b\x08", Packed::Gzip),
            (b"\x28\xb5\x2f\xfd", Packed::Zstd),
            (b"\xfd7zXZ\0", Packed::Xz),
            (b"makedumpfile\0\0\0\0", Packed::Flattened),
        ];
        KNOWN.into_iter().find(|(magic, _)| head.starts_with(magic)).map(|(_, packed)| packed)
    }

    /// What a person calls it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
            Self::Xz => "xz",
            Self::Flattened => "flattened",
        }
    }

    /// Unpacks `file`.
    ///
    /// # Errors
    /// Nothing of it can be unpacked, or there is no room for it.
    pub(super) fn unpack(self, mut file: File) -> Result<Spooled> {
        // Standard input can be a file that was read before.
        file.rewind().context("cannot read it")?;
        if self == Self::Xz {
            // A block's header is no longer than 1 KiB.
            let mut head = [0; 2048];
            let read = file.read_at(&mut head, 0).context("cannot read it")?;
            let head = head.get(..read).unwrap_or_default();
            let bytes = xz_dictionary(head).unwrap_or_default();
            ensure!(
                bytes <= DICTIONARY,
                "an xz file with a dictionary of {} MiB, which takes as much memory, and no more than {} MiB are taken; \
                 `xz -dc FILE > IMAGE` unpacks it",
                bytes >> 20,
                DICTIONARY >> 20,
            );
        }
        let file = BufReader::with_capacity(STEP, file);
        match self {
            Self::Gzip => Streams::<GzDecoder<_>>::spool(file),
            Self::Zstd => Streams::<Frame>::spool(file),
            Self::Xz => Streams::<XzReader<_>>::spool(file),
            Self::Flattened => arrange(file),
        }
    }
}

/// A file that was made.
#[derive(Debug)]
pub(super) struct Spooled {
    pub(super) file: File,
    /// Why it is not whole, if it is not.
    pub(super) cut: Option<String>,
    /// Bytes behind what is packed that are no part of it.
    pub(super) behind: u64,
}

/// Bytes that are read at a time.
const STEP: usize = 1 << 17;
/// What becomes a hole if it is zero.
const BLOCK: usize = 1 << 12;

/// Makes a file of all that comes out of `from`. If that ends in an error, of what came before.
///
/// # Errors
/// Nothing came before, or there is no room for it.
pub(super) fn spool(mut from: impl Read) -> Result<Spooled> {
    let file = unnamed().context("cannot make a temporary file (TMPDIR says where)")?;
    let (mut at, mut cut) = (0, None);
    let mut buffer = vec![0; STEP];
    loop {
        let (mut filled, mut ended) = (0, false);
        while let Some(room) = buffer.get_mut(filled..).filter(|room| !room.is_empty()) {
            match from.read(room) {
                Ok(0) => ended = true,
                Ok(read) => filled += read,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if at == 0 && filled == 0 => {
                    return Err(error).context("cannot unpack it");
                }
                Err(error) => {
                    cut = Some(format!(
                        "it goes no further than byte {:#x}: {error}",
                        at + filled as u64
                    ));
                    ended = true;
                }
            }
            if ended {
                break;
            }
        }
        write(&file, at, buffer.get(..filled).unwrap_or_default())?;
        at += filled as u64;
        if ended {
            break;
        }
    }
    file.set_len(at).context(ROOM)?;
    Ok(Spooled { file, cut, behind: 0 })
}

/// What is said where a temporary file cannot be written.
const ROOM: &str = "cannot write a temporary file (TMPDIR says where)";

/// Writes bytes to a place of a new file, but for blocks of zeroes.
fn write(file: &File, at: u64, bytes: &[u8]) -> Result<()> {
    let mut at = at;
    for block in bytes.chunks(BLOCK) {
        if block.iter().any(|byte| *byte != 0) {
            file.write_all_at(block, at).context(ROOM)?;
        }
        at += block.len() as u64;
    }
    Ok(())
}

/// Puts a flattened file in order: a header of 4096 bytes, then pieces, each behind its offset and its length, both
/// of 8 bytes, the highest first. An offset of -1 is the end.
fn arrange(mut from: impl Read) -> Result<Spooled> {
    const HEADER: usize = 4096;
    let mut buffer = vec![0; STEP];
    from.read_exact(buffer.get_mut(..HEADER).unwrap_or_default())
        .context("the flattened file ends in its header")?;
    let file = unnamed().context("cannot make a temporary file (TMPDIR says where)")?;
    let (mut end, mut pieces) = (0_u64, 0_u64);
    let cut = loop {
        let mut head = [[0; 8]; 2];
        if let Err(error) = from.read_exact(head.as_flattened_mut()) {
            break Some(format!("it ends behind {pieces} pieces: {error}"));
        }
        let [offset, length] = head.map(i64::from_be_bytes);
        if offset == -1 {
            break None;
        }
        let place = u64::try_from(offset).ok().zip(u64::try_from(length).ok());
        let place = place.and_then(|(offset, length)| Some((offset, offset.checked_add(length)?)));
        let Some((mut at, last)) = place.filter(|(_, last)| i64::try_from(*last).is_ok()) else {
            ensure!(
                pieces > 0,
                "the flattened file begins with a piece at no place: {offset:#x}, {length:#x} bytes"
            );
            break Some(format!("piece {pieces} lies at no place: {offset:#x}, {length:#x} bytes"));
        };
        let mut ended = None;
        while at < last && ended.is_none() {
            let now = usize::try_from(last - at).unwrap_or(STEP).min(STEP);
            let room = buffer.get_mut(..now).unwrap_or_default();
            match from.read_exact(room) {
                Ok(()) => {
                    // A piece can be written over: its zeroes are no hole then.
                    let over = at < end;
                    if over {
                        file.write_all_at(room, at).context(ROOM)?;
                    } else {
                        write(&file, at, room)?;
                    }
                    at += now as u64;
                    end = end.max(at);
                }
                Err(error) => ended = Some(format!("it ends in piece {pieces}: {error}")),
            }
        }
        if ended.is_some() {
            break ended;
        }
        pieces += 1;
    };
    file.set_len(end).context(ROOM)?;
    Ok(Spooled { file, cut, behind: 0 })
}

/// A file that has no name, in the directory for temporary files.
fn unnamed() -> io::Result<File> {
    let dir = std::env::temp_dir();
    let mode = Mode::RUSR | Mode::WUSR;
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    if let Ok(file) = rustix::fs::open(&dir, flags | OFlags::TMPFILE, mode) {
        return Ok(File::from(file));
    }
    // Where the file system has none without a name: one that is made just now, and loses it.
    for number in 0..1000 {
        let path = dir.join(format!("heirloom-{}-{number}", std::process::id()));
        match rustix::fs::open(&path, flags | OFlags::CREATE | OFlags::EXCL, mode) {
            Ok(file) => {
                std::fs::remove_file(&path)?;
                return Ok(File::from(file));
            }
            Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(ErrorKind::AlreadyExists.into())
}

/// A file that is packed, read from its first byte on.
type Packing = BufReader<File>;

/// What one packed stream unpacks to.
trait Stream: Read + Sized {
    /// Whether a stream begins with these bytes.
    fn begins(head: &[u8]) -> bool;

    /// Begins with the stream that starts here.
    fn new(from: Packing) -> io::Result<Self>;

    /// Returns the file, behind the stream.
    fn end(self) -> Packing;
}

impl Stream for GzDecoder<Packing> {
    fn begins(head: &[u8]) -> bool {
        Packed::of(head) == Some(Packed::Gzip)
    }

    fn new(from: Packing) -> io::Result<Self> {
        Ok(Self::new(from))
    }

    fn end(self) -> Packing {
        self.into_inner()
    }
}

impl Stream for XzReader<Packing> {
    fn begins(head: &[u8]) -> bool {
        Packed::of(head) == Some(Packed::Xz)
    }

    fn new(from: Packing) -> io::Result<Self> {
        Ok(Self::new_mem_limit(from, false, XZ_KIB))
    }

    fn end(self) -> Packing {
        self.into_inner()
    }
}

/// Streams in a file, one behind the other, as one. Zeroes may stand between them and behind them, as tapes and disks fill up
/// a block with.
struct Streams<S> {
    stream: Option<S>,
    /// Bytes behind the last one that are none.
    behind: u64,
}

impl<S: Stream> Streams<S> {
    /// Makes a file of what the streams of `file` unpack to.
    fn spool(file: Packing) -> Result<Spooled> {
        let mut streams =
            Self { stream: Some(S::new(file).context("cannot unpack it")?), behind: 0 };
        let spooled = spool(&mut streams)?;
        Ok(Spooled { behind: streams.behind, ..spooled })
    }

    /// The next stream of a file, if there is one.
    fn next(&mut self, mut from: Packing) -> io::Result<Option<S>> {
        let at = from.stream_position()?;
        let file = from.get_ref();
        let length = file.metadata()?.len();
        let at = behind_zeroes(file, at, length)?;
        let mut head = [0; 6];
        let read = file.read_at(&mut head, at)?;
        if head.get(..read).is_some_and(S::begins) {
            from.seek(SeekFrom::Start(at))?;
            return S::new(from).map(Some);
        }
        // Where one more stream is, what stands in between was one too, and what it held is missing.
        if is_further_on(file, at, length, S::begins)? {
            let what = format!("at byte {at:#x} of the file is no stream, and further on is one");
            return Err(io::Error::new(ErrorKind::InvalidData, what));
        }
        self.behind = length - at;
        Ok(None)
    }
}

impl<S: Stream> Read for Streams<S> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while let Some(stream) = &mut self.stream {
            let read = stream.read(into)?;
            if read > 0 || into.is_empty() {
                return Ok(read);
            }
            let ended = self.stream.take().map(S::end);
            self.stream = ended.map(|file| self.next(file)).transpose()?.flatten();
        }
        Ok(0)
    }
}

/// The first byte of a file from `at` on that is not zero; `end`, where it ends, if there is none.
fn behind_zeroes(file: &File, at: u64, end: u64) -> io::Result<u64> {
    let mut buffer = vec![0; STEP];
    let mut at = at;
    while let Some((data, hole)) = extent(file, at, end) {
        at = data;
        while at < hole {
            let step = usize::try_from(hole - at).unwrap_or(STEP).min(STEP);
            let bytes = buffer.get_mut(..step).unwrap_or_default();
            file.read_exact_at(bytes, at)?;
            if let Some(found) = bytes.iter().position(|byte| *byte != 0) {
                return Ok(at + found as u64);
            }
            at += step as u64;
        }
    }
    Ok(end)
}

/// Whether a stream begins anywhere in a file from `at` on.
fn is_further_on(file: &File, at: u64, end: u64, begins: fn(&[u8]) -> bool) -> io::Result<bool> {
    /// Bytes that tell a stream, but for the first.
    const MORE: usize = 5;
    let mut buffer = vec![0; STEP + MORE];
    let mut at = at;
    while let Some((data, hole)) = extent(file, at, end) {
        at = data;
        while at < hole {
            let read = file.read_at(&mut buffer, at)?;
            let bytes = buffer.get(..read).unwrap_or_default();
            if (0..read.min(STEP)).any(|from| bytes.get(from..).is_some_and(begins)) {
                return Ok(true);
            }
            at = at.saturating_add(STEP as u64);
        }
    }
    Ok(false)
}

/// What a zstd frame unpacks to; nothing, of one that is to be skipped.
struct Frame {
    from: Packing,
    decoder: FrameDecoder,
    skipped: bool,
}

impl Stream for Frame {
    fn begins(head: &[u8]) -> bool {
        let skipped = |head: &[u8; 4]| {
            let [first, rest @ ..] = *head;
            first & 0xf0 == 0x50 && rest == [0x2a, 0x4d, 0x18]
        };
        Packed::of(head) == Some(Packed::Zstd) || head.first_chunk().is_some_and(skipped)
    }

    fn new(mut from: Packing) -> io::Result<Self> {
        let mut decoder = FrameDecoder::new();
        let skipped = match decoder.init(&mut from) {
            Ok(()) => false,
            Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                length,
                ..
            })) => {
                let skipped = io::copy(&mut from.by_ref().take(length.into()), &mut io::sink())?;
                if skipped < length.into() {
                    return Err(ErrorKind::UnexpectedEof.into());
                }
                true
            }
            Err(error) => return Err(io::Error::other(error)),
        };
        Ok(Self { from, decoder, skipped })
    }

    fn end(self) -> Packing {
        self.from
    }
}

impl Read for Frame {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.skipped {
            return Ok(0);
        }
        while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
            let decoded =
                self.decoder.decode_blocks(&mut self.from, BlockDecodingStrategy::UptoBlocks(1));
            decoded.map_err(io::Error::other)?;
        }
        let read = self.decoder.read(into)?;
        if read > 0 || into.is_empty() {
            return Ok(read);
        }
        let sums =
            self.decoder.get_checksum_from_data().zip(self.decoder.get_calculated_checksum());
        if sums.is_some_and(|(said, found)| said != found) {
            return Err(io::Error::new(
                ErrorKind::InvalidData,
                "a frame's checksum is not that of its bytes",
            ));
        }
        Ok(0)
    }
}
