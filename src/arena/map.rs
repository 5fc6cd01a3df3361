//! The memory map in an arena's first page: what firmware tells a kernel at boot.
//!
//! ```text
//! 0    magic         8 bytes  "hl-arena"
//! 8    version       u32      1
//! 12   page shift    u32      log2 of the page size
//! 16   count         u32      ranges that follow
//! 20   reserved      u32      0
//! 24   file bytes    u64      the size of the whole file
//! 32   checksum      u64      XXH3-64 of the map with this field 0
//! 40   ranges        count × { start u64, bytes u64, offset u64, node u16, 6 bytes 0 }
//! ```
//!
//! Little-endian. `start` is a physical address, `offset` a place in the file; both, and `bytes`,
//! are multiples of the page size. What follows the last range is not looked at; at the end of the
//! first 4 KiB are the number of the owner's turn (`turn`) and room for the handover's entry (`entry`).

use heirloom_folio::NodeId;
use heirloom_kho::PageSize;
use heirloom_kho::{PAGE_SHIFT, PAGE_SIZE, PhysAddr, Run};
use xxhash_rust::xxh3::xxh3_64;
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::error::{ArenaError, MapFault, RangeFault};
use super::range::{ArenaRange, MAX_SPAN, RangeSpec};

/// How many ranges an arena can have: as many as a `Memory` takes.
pub const MAX_RANGES: usize = 64;

/// Bytes of a map with all its ranges.
pub(super) const BYTES: usize = size_of::<Header>() + MAX_RANGES * size_of::<Entry>();

const MAGIC: [u8; 8] = *b"hl-arena";
const VERSION: u32 = 1;
const PAGE: u64 = PAGE_SIZE as u64;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct Header {
    magic: [u8; 8],
    version: U32,
    page_shift: U32,
    count: U32,
    reserved: U32,
    file_bytes: U64,
    checksum: U64,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct Entry {
    start: U64,
    bytes: U64,
    offset: U64,
    node: U16,
    reserved: [u8; 6],
}

const _: () = {
    assert!(size_of::<Header>() == 40 && size_of::<Entry>() == 32);
    assert!(core::mem::offset_of!(Header, file_bytes) == 24);
    assert!(core::mem::offset_of!(Header, checksum) == 32);
    assert!(core::mem::offset_of!(Entry, offset) == 16 && core::mem::offset_of!(Entry, node) == 24);
    assert!(BYTES <= PAGE_SIZE);
};

/// A range as described, not yet believed.
#[derive(Clone, Copy)]
struct Described {
    spec: RangeSpec,
    offset: u64,
}

impl Described {
    /// Returns the range, if it is of whole pages, fits a file of `file` bytes and is apart from those
    /// `before` it.
    fn check(
        &self,
        page: PageSize,
        before: &[ArenaRange],
        file: u64,
    ) -> Result<ArenaRange, ArenaError> {
        let page = page.bytes() as u64;
        let Self { spec: RangeSpec { start, bytes, node }, offset } = *self;
        let refuse = |fault| {
            Err(ArenaError::BadMap(MapFault::Range { index: before.len(), start, bytes, fault }))
        };
        if bytes == 0 {
            return refuse(RangeFault::Empty);
        }
        if (start.get() | bytes | offset) % page != 0 {
            return refuse(RangeFault::Misaligned);
        }
        // The very last page is left out, so that the end of a range is an address too.
        let run = start.checked_add(bytes).and_then(|_| Run::covering(start, bytes));
        let Some(run) = run else { return refuse(RangeFault::PastTheEnd) };
        let end = offset.checked_add(bytes);
        if offset < page || end.is_none_or(|end| end > file) {
            return refuse(RangeFault::OutsideFile { offset });
        }
        for (with, other) in before.iter().enumerate() {
            if other.run.overlaps(run) {
                return refuse(RangeFault::Overlaps { with });
            }
            // No overflow: both were found to lie in the file.
            if offset < other.offset + other.run.bytes() && other.offset < offset + bytes {
                return refuse(RangeFault::SharesFile { with });
            }
        }
        Ok(ArenaRange { run, node, offset })
    }
}

const fn check_count(found: usize) -> Result<(), ArenaError> {
    if found == 0 || found > MAX_RANGES {
        return Err(ArenaError::BadMap(MapFault::Count { found, limit: MAX_RANGES }));
    }
    Ok(())
}

/// What the processor maps at once above a page: 2 MiB on x86-64 and on `AArch64` with pages of 4 KiB.
pub(super) const HUGE: u64 = 2 << 20;

/// Returns where in a file that is filled up to `file` a range goes.
///
/// Linux maps a huge page where offset and address are the same modulo its size; the address a process
/// sees and the physical one are. What is left out before it is a hole, which takes no memory. A range
/// that holds no huge page goes to the end.
const fn place(spec: &RangeSpec, file: u64) -> Option<u64> {
    if spec.bytes < HUGE {
        return Some(file);
    }
    file.checked_add(spec.start.get().wrapping_sub(file) % HUGE)
}

/// Gives every range its place in a file: the ranges, and the size of the file.
pub(super) fn lay_out(specs: &[RangeSpec]) -> Result<(Vec<ArenaRange>, u64), ArenaError> {
    check_count(specs.len())?;
    let mut ranges = Vec::with_capacity(specs.len());
    let mut file = PAGE;
    for &spec in specs {
        let offset = place(&spec, file).unwrap_or(file);
        let described = Described { spec, offset };
        let end = offset.checked_add(spec.bytes).filter(|end| i64::try_from(*end).is_ok());
        ranges.push(described.check(PageSize::BUILD, &ranges, end.unwrap_or(file))?);
        file = end.unwrap_or(file);
    }
    span(&ranges)?;
    Ok((ranges, file))
}

/// Returns the map of `ranges` in a file of `file` bytes.
pub(super) fn encode(ranges: &[ArenaRange], file: u64) -> Vec<u8> {
    let mut header = Header {
        magic: MAGIC,
        version: VERSION.into(),
        page_shift: PAGE_SHIFT.into(),
        count: (ranges.len() as u32).into(),
        reserved: 0.into(),
        file_bytes: file.into(),
        checksum: 0.into(),
    };
    let entry = |range: &ArenaRange| Entry {
        start: range.run.addr().get().into(),
        bytes: range.run.bytes().into(),
        offset: range.offset.into(),
        node: range.node.0.into(),
        reserved: [0; 6],
    };
    let entries: Vec<Entry> = ranges.iter().map(entry).collect();
    header.checksum = checksum(header, &entries).into();
    [header.as_bytes(), entries.as_bytes()].concat()
}

fn checksum(header: Header, entries: &[Entry]) -> u64 {
    let header = Header { checksum: 0.into(), ..header };
    xxh3_64(&[header.as_bytes(), entries.as_bytes()].concat())
}

/// Returns the page size and the ranges that the map in `bytes` describes, all checked, for a file of `file`
/// bytes.
pub(super) fn decode(bytes: &[u8], file: u64) -> Result<(PageSize, Vec<ArenaRange>), ArenaError> {
    let too_short =
        ArenaError::BadMap(MapFault::TooShort { found: bytes.len() as u64, needed: BYTES as u64 });
    let (header, rest) = Header::read_from_prefix(bytes).map_err(|_| too_short)?;
    if header.magic != MAGIC {
        return Err(ArenaError::BadMap(MapFault::Magic { found: header.magic }));
    }
    let found = header.version.get();
    if found != VERSION {
        return Err(ArenaError::BadMap(MapFault::Version { expected: VERSION, found }));
    }
    let found = header.page_shift.get();
    let page = 1_u64.checked_shl(found).and_then(PageSize::new);
    let Some(page) = page else { return Err(other_pages(found)) };
    if header.reserved != 0 {
        return Err(ArenaError::BadMap(MapFault::Reserved { found: header.reserved.get() }));
    }
    let count = header.count.get() as usize;
    check_count(count)?;
    let entries = <[Entry]>::ref_from_prefix_with_elems(rest, count);
    let (entries, _) = entries.map_err(|_| too_short)?;
    let (expected, found) = (checksum(header, entries), header.checksum.get());
    if found != expected {
        return Err(ArenaError::BadMap(MapFault::Checksum { expected, found }));
    }
    let expected = header.file_bytes.get();
    if file != expected {
        return Err(ArenaError::BadMap(MapFault::FileSize { expected, found: file }));
    }

    // A checksum tells accidents. What follows holds for a map written in bad faith too.
    let mut ranges = Vec::with_capacity(count);
    for entry in entries {
        let spec = RangeSpec {
            start: PhysAddr::new(entry.start.get()),
            bytes: entry.bytes.get(),
            node: NodeId(entry.node.get()),
        };
        if entry.reserved != [0; 6] {
            let (index, fault) = (ranges.len(), RangeFault::Reserved);
            return Err(ArenaError::BadMap(MapFault::Range {
                index,
                start: spec.start,
                bytes: spec.bytes,
                fault,
            }));
        }
        ranges.push(Described { spec, offset: entry.offset.get() }.check(page, &ranges, file)?);
    }
    Ok((page, ranges))
}

/// Returns the error that refuses a map of pages of `2^found` bytes.
pub(super) const fn other_pages(found: u32) -> ArenaError {
    ArenaError::BadMap(MapFault::PageShift { expected: PAGE_SHIFT, found })
}

/// Returns the lowest address and the bytes from there to the end of the highest range.
pub(super) fn span(ranges: &[ArenaRange]) -> Result<(PhysAddr, usize), ArenaError> {
    let start = ranges.iter().map(|range| range.run.addr()).min().unwrap_or_default();
    let end = ranges.iter().map(|range| range.run.end().addr()).max().unwrap_or_default();
    Ok((start, mappable(end.get().saturating_sub(start.get()))?))
}

/// Returns `bytes`, if that many can be mapped.
pub(super) fn mappable(bytes: u64) -> Result<usize, ArenaError> {
    // Half of a small address space, too.
    let limit = MAX_SPAN.min(isize::MAX as u64 / 2);
    match usize::try_from(bytes) {
        Ok(length) if bytes <= limit => Ok(length),
        _ => Err(ArenaError::Span { bytes, limit }),
    }
}

#[cfg(test)]
mod tests;
