//! A kdump file, as makedumpfile and QEMU write it: pages packed one by one.
//!
//! ```text
//!  block 0        header        "KDUMP   ", version, …, size of a block, blocks of the others
//!  1 …            sub-header    frames, which pages were left out
//!                 bitmaps       a bit a page: it is memory; then a bit a page: it is here
//!                 descriptors   { offset u64, bytes u32, how it is packed u32, flags u64 } a page that is here
//!                 pages
//! ```
//!
//! Pages are unpacked when they are looked at. Numbers are in the byte order of the machine; the layout is that of
//! versions 1 to 6.

use std::cell::RefCell;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, ensure};
use heirloom_kho::PageSize;
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

use super::holes::extent;
use super::piece::{Bytes, Piece};
use crate::machine::Machine;

pub(super) const MAGIC: &[u8] = b"KDUMP   ";

/// Stretches that a bitmap may have: more than a machine's memory is scattered into, in a hundred megabytes here.
const STRETCHES: usize = 1 << 20;
/// Bytes of a descriptor.
const DESCRIPTOR: u64 = 24;
/// Bytes of a bitmap that are read at a time.
const STEP: usize = 1 << 16;
/// Descriptors that are read at a time.
const DESCRIPTORS: u64 = 1 << 11;

/// How pages are packed, in the numbers that a descriptor has for it.
mod packed {
    pub(super) const ZLIB: u32 = 1;
    pub(super) const LZO: u32 = 2;
    pub(super) const SNAPPY: u32 = 4;
    pub(super) const ZSTD: u32 = 0x20;
}

/// Where a header says which machine it is of.
const MACHINE: usize = 12 + 4 * 65;
/// A header's status: that the dump ended for want of room.
const INCOMPLETE: u32 = 8;

/// Where the pages are.
#[derive(Debug)]
pub(super) struct Kdump {
    page: usize,
    /// The descriptors.
    table: u64,
    /// The page that was unpacked last; none if it could not be. All that are zero have one place.
    last: RefCell<Option<(Descriptor, Option<Vec<u8>>)>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Descriptor {
    offset: u64,
    bytes: u32,
    packed: u32,
}

/// What a dump says of memory.
#[derive(Debug)]
pub(super) struct Dump {
    pub(super) kdump: Kdump,
    pub(super) page_size: PageSize,
    /// Which machine it is of, if it says that.
    pub(super) machine: Option<Machine>,
    /// What it has, and, if that was asked for, what it left out, as zeroes; by address.
    pub(super) pieces: Vec<Piece>,
    /// Bytes that are memory and were left out.
    pub(super) declared: u64,
    /// Bytes of pages that should be in the file, and are not.
    pub(super) cut: u64,
    /// Whether it says that it is not complete.
    pub(super) incomplete: bool,
}

/// Reads headers and bitmaps; `zeroes`: what was left out is taken for zeroes.
pub(super) fn read(file: &File, length: u64, zeroes: bool) -> Result<Dump> {
    let mut head = [0; 464];
    file.read_exact_at(&mut head, 0).context("the dump ends in its header")?;
    let field = |at: usize| {
        u32::from_ne_bytes(*head.get(at..).and_then(<[u8]>::first_chunk).unwrap_or(&[0; 4]))
    };
    let (version, status) = (field(8), field(424));
    let (block, sub_blocks, map_blocks) =
        (u64::from(field(428)), u64::from(field(432)), u64::from(field(436)));
    ensure!(
        (1..=6).contains(&version) && block.is_power_of_two(),
        "a kdump header of version {version} with blocks of {block} bytes; versions 1 to 6 are known, of a machine \
         with this one's byte order",
    );
    let page_size = PageSize::new(block).with_context(|| {
        let (least, most) = (PageSize::BUILD, PageSize::MAX);
        format!("the dump's machine has pages of {block} bytes, and this command reads pages of {least} to {most}")
    })?;
    let mut sub = [0; 104];
    file.read_exact_at(&mut sub, block).context("the dump ends in its sub-header")?;
    let word = |at: usize| {
        u64::from_ne_bytes(*sub.get(at..).and_then(<[u8]>::first_chunk).unwrap_or(&[0; 8]))
    };
    ensure!(
        version < 2 || word(8) >> 32 == 0,
        "one file of several that the dump was split into; `makedumpfile --reassemble` makes one of them",
    );
    let pages = if version >= 6 { word(96) } else { field(440).into() };
    let maps = (1 + sub_blocks) * block;
    let half = map_blocks / 2 * block;
    let table = maps + map_blocks * block;
    ensure!(
        pages.div_ceil(8) <= half,
        "{pages} pages, of which the bitmaps, {half} bytes each, have not all"
    );
    ensure!(table <= length, "the dump ends in its bitmaps");
    let last = pages.checked_mul(block);
    ensure!(last.is_some(), "{pages:#x} pages of {block} bytes leave the address space");
    let kdump = Kdump { page: page_size.bytes(), table, last: RefCell::default() };
    let (memory, here) =
        (Bitmap { file, at: maps, pages }, Bitmap { file, at: maps + half, pages });
    let (mut pieces, mut first) = (Vec::new(), 0);
    here.each(|start, end| {
        let (bytes, from) = ((end - start) * block, Bytes::Packed { first });
        pieces.push(Piece { start: start * block, bytes, from });
        first += end - start;
        ensure!(pieces.len() < STRETCHES, "memory in more than {STRETCHES} stretches");
        Ok(())
    })?;
    // What is memory, without what is here.
    let (mut left_out, mut declared) = (Vec::new(), 0);
    let mut rest = pieces.iter().peekable();
    memory.each(|start, end| {
        let (mut at, end) = (start * block, end * block);
        while at < end {
            while rest.next_if(|piece| piece.end() <= at).is_some() {}
            let next = rest.peek().map_or(end, |piece| piece.start.min(end));
            if at < next {
                declared += next - at;
                if zeroes {
                    left_out.push(Piece::zeroes(at, next));
                }
            }
            at = rest.peek().filter(|piece| piece.start < end).map_or(end, |piece| piece.end());
        }
        ensure!(left_out.len() < STRETCHES, "memory in more than {STRETCHES} stretches");
        Ok(())
    })?;
    let whole = kdump.whole(file, length, first);
    let cut = (first - whole) * block;
    shorten(&mut pieces, whole, block);
    pieces.extend(left_out);
    pieces.sort_unstable_by_key(|piece| piece.start);
    let incomplete = status & INCOMPLETE != 0;
    // The fifth text of the six that `uname` says.
    let machine =
        head.get(MACHINE..MACHINE + 65).and_then(|text| text.split(|byte| *byte == 0).next());
    let machine = machine.and_then(|text| Machine::named(std::str::from_utf8(text).ok()?));
    Ok(Dump { kdump, page_size, machine, pieces, declared, cut, incomplete })
}

/// Leaves the first `whole` packed pages in pieces.
fn shorten(pieces: &mut Vec<Piece>, whole: u64, block: u64) {
    pieces.retain_mut(|piece| {
        let Bytes::Packed { first } = piece.from else { return true };
        piece.bytes = piece.bytes.min(whole.saturating_sub(first).saturating_mul(block));
        piece.bytes > 0
    });
}

impl Kdump {
    /// Of `pages` pages, how many come before the first that is not in a file of this length. Pages lie in it in the
    /// order of their descriptors, but for one that several have, which is zero and lies before all others.
    fn whole(&self, file: &File, length: u64, pages: u64) -> u64 {
        let shared = self.table.saturating_add(pages.saturating_mul(DESCRIPTOR));
        let described = length.saturating_sub(self.table) / DESCRIPTOR;
        // Whether the pages from `from` to `end` are there: the last that has a place of its own says it.
        let are_there = |from: u64, end: u64| {
            let mut end = end;
            while from < end {
                let first = end.saturating_sub(DESCRIPTORS).max(from);
                let Some(some) = self.descriptors(file, first, end - first) else { return false };
                let own = some.iter().rfind(|of| of.offset != shared || !of.is_within(length));
                if let Some(own) = own {
                    return own.is_within(length);
                }
                end = first;
            }
            true
        };
        let (mut there, mut missing) = (0, pages.min(described));
        if missing == pages && are_there(0, pages) {
            return pages;
        }
        while there < missing {
            let middle = there + (missing - there) / 2;
            if are_there(there, middle + 1) { there = middle + 1 } else { missing = middle }
        }
        there
    }

    /// Of the pages with bytes `skip` to `skip + bytes` of those from number `first` on, the bytes before the first that
    /// cannot be unpacked whatever it has, and how many are so: packed in a way that is not known, of no such length,
    /// or not in a file of this length.
    pub(super) fn unreadable(
        &self,
        file: &File,
        length: u64,
        first: u64,
        skip: u64,
        bytes: u64,
    ) -> Option<(u64, u64)> {
        let page = self.page as u64;
        let (mut at, end) = (skip / page, skip.checked_add(bytes)?.div_ceil(page));
        let (mut found, mut count) = (None, 0);
        while at < end {
            let step = DESCRIPTORS.min(end - at);
            let some = first.checked_add(at).and_then(|first| self.descriptors(file, first, step));
            for i in 0..step {
                let of =
                    some.as_ref().zip(usize::try_from(i).ok()).and_then(|(some, i)| some.get(i));
                if of.is_none_or(|of| !of.is_within(length) || !self.is_known(of)) {
                    found = found.or(Some((at + i) * page));
                    count += 1;
                }
            }
            at += step;
        }
        Some((found?, count))
    }

    /// Whether a page can be packed so.
    fn is_known(&self, of: &Descriptor) -> bool {
        let bytes = usize::try_from(of.bytes).unwrap_or(usize::MAX);
        match of.packed {
            0 => bytes == self.page,
            packed::ZLIB | packed::LZO | packed::SNAPPY | packed::ZSTD => {
                (1..=self.longest()).contains(&bytes)
            }
            _ => false,
        }
    }

    /// Bytes that a packed page can have.
    const fn longest(&self) -> usize {
        2 * self.page
    }

    fn descriptor(&self, file: &File, page: u64) -> Option<Descriptor> {
        self.descriptors(file, page, 1)?.first().copied()
    }

    /// `count` descriptors from the one of page `first` on; not many.
    fn descriptors(&self, file: &File, first: u64, count: u64) -> Option<Vec<Descriptor>> {
        let length = usize::try_from(count.checked_mul(DESCRIPTOR)?).ok()?;
        let mut bytes = vec![0; length];
        let at = first.checked_mul(DESCRIPTOR)?.checked_add(self.table)?;
        file.read_exact_at(&mut bytes, at).ok()?;
        let (each, _) = bytes.as_chunks::<{ DESCRIPTOR as usize }>();
        let of = |bytes: &[u8; DESCRIPTOR as usize]| {
            let half = |at: usize| Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?));
            let offset = u64::from_ne_bytes(*bytes.first_chunk()?);
            Some(Descriptor { offset, bytes: half(8)?, packed: half(12)? })
        };
        each.iter().map(of).collect()
    }

    /// Reads memory from byte `skip` of the page with number `first` on; `None` if a page cannot be read.
    pub(super) fn read(
        &self,
        file: &File,
        first: u64,
        skip: u64,
        mut into: &mut [u8],
    ) -> Option<()> {
        let page = self.page as u64;
        let (mut number, mut skip) = (first.checked_add(skip / page)?, (skip % page) as usize);
        while !into.is_empty() {
            let descriptor = self.descriptor(file, number)?;
            let mut last = self.last.borrow_mut();
            let unpacked = match &mut *last {
                Some((of, bytes)) if *of == descriptor => bytes.as_ref()?,
                last => last.insert((descriptor, self.unpack(file, descriptor))).1.as_ref()?,
            };
            let here = (self.page - skip).min(into.len());
            let (now, rest) = into.split_at_mut(here);
            now.copy_from_slice(unpacked.get(skip..skip + here)?);
            (into, number, skip) = (rest, number + 1, 0);
        }
        Some(())
    }

    /// A page; `None` if it does not unpack to one.
    fn unpack(
        &self,
        file: &File,
        Descriptor { offset, bytes, packed }: Descriptor,
    ) -> Option<Vec<u8>> {
        let length = usize::try_from(bytes).ok().filter(|length| *length <= self.longest())?;
        let mut from = vec![0; length];
        file.read_exact_at(&mut from, offset).ok()?;
        let mut page = vec![0; self.page];
        let unpacked = match packed {
            0 => {
                page = from;
                page.len()
            }
            packed::ZLIB => {
                let mut zlib = flate2::Decompress::new(true);
                let ended =
                    zlib.decompress(&from, &mut page, flate2::FlushDecompress::Finish).ok()?;
                if ended != flate2::Status::StreamEnd {
                    return None;
                }
                usize::try_from(zlib.total_out()).ok()?
            }
            packed::LZO => lzokay::decompress::decompress(&from, &mut page).ok()?,
            packed::SNAPPY => snap::raw::Decoder::new().decompress(&from, &mut page).ok()?,
            packed::ZSTD => unzstd(&from, &mut page)?,
            _ => return None,
        };
        (unpacked == self.page && page.len() == self.page).then_some(page)
    }
}

impl Descriptor {
    /// Whether the page's bytes are in a file of this length.
    fn is_within(&self, length: u64) -> bool {
        self.offset.checked_add(self.bytes.into()).is_some_and(|end| end <= length)
    }
}

/// Unpacks one zstd frame to `page`: how many bytes it has. `None` if those are not a page's, which is known before
/// much of it is unpacked.
fn unzstd(from: &[u8], page: &mut [u8]) -> Option<usize> {
    /// The smallest window, and so what a block that is not the last has, but for one that has nothing.
    const LEAST: usize = 1 << 10;
    let mut from = from;
    let mut frame = FrameDecoder::new();
    frame.init(&mut from).ok()?;
    // A frame need not say how long it is.
    let said = frame.content_size();
    if said != 0 && said != page.len() as u64 {
        return None;
    }
    // The decoder keeps a window back, however long that is, so that blocks are counted as well as bytes.
    let blocks = page.len() / LEAST + 1;
    while !frame.is_finished() {
        if frame.blocks_decoded() == blocks || frame.can_collect() > page.len() {
            return None;
        }
        frame.decode_blocks(&mut from, BlockDecodingStrategy::UptoBlocks(1)).ok()?;
    }
    let whole = from.is_empty() && frame.can_collect() == page.len();
    whole.then(|| frame.read_exact(page).ok())?.map(|()| page.len())
}

/// A bit for each page.
struct Bitmap<'f> {
    file: &'f File,
    at: u64,
    pages: u64,
}

impl Bitmap<'_> {
    /// Calls `each` with every run of pages that have their bits set: the number of the first page, and the number
    /// of the page behind the last.
    fn each(&self, mut each: impl FnMut(u64, u64) -> Result<()>) -> Result<()> {
        let mut buffer = vec![0; STEP];
        let (bytes, mut done, mut open) = (self.pages.div_ceil(8), 0, None);
        while let Some((data, end)) = extent(self.file, self.at + done, self.at + bytes) {
            // A hole of the file is zeroes.
            if data > self.at + done
                && let Some(start) = open.take()
            {
                each(start, done * 8)?;
            }
            done = data - self.at;
            let now = buffer.len().min(usize::try_from(end - data).unwrap_or(STEP));
            let step = buffer.get_mut(..now).unwrap_or_default();
            self.file.read_exact_at(step, self.at + done).context("cannot read a bitmap")?;
            for (i, byte) in step.iter().enumerate() {
                // All alike: nothing begins or ends.
                if *byte == 0 && open.is_none() || *byte == u8::MAX && open.is_some() {
                    continue;
                }
                for bit in 0..8 {
                    let page = (done + i as u64) * 8 + bit;
                    let set = byte >> bit & 1 == 1 && page < self.pages;
                    match open {
                        None if set => open = Some(page),
                        Some(start) if !set => {
                            each(start, page)?;
                            open = None;
                        }
                        _ => {}
                    }
                }
            }
            done += now as u64;
        }
        open.map_or(Ok(()), |start| each(start, self.pages.min(done * 8)))
    }
}
