//! What can go wrong with an arena.

use core::fmt;

use heirloom_kho::{PhysAddr, Run};

/// An error of an arena. Nothing was created or mapped where one is returned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum ArenaError {
    /// The operating system refused.
    Os {
        /// The call.
        call: &'static str,
        /// The error number it gave.
        errno: i32,
    },
    /// The operating system refused to map memory: a limit on the process's address space
    /// (`RLIMIT_AS`) or on the number of its mappings is the usual reason.
    Map {
        /// How many bytes.
        bytes: u64,
        /// The error number it gave.
        errno: i32,
    },
    /// The name is too long, or has a NUL byte.
    Name {
        /// Bytes that it has.
        bytes: usize,
        /// The most it can have.
        limit: usize,
    },
    /// Another process has the arena.
    InUse {
        /// Its number, as this process sees it. `None`: it cannot be seen from here, as it is in
        /// another pid namespace; or it has ended, and a process that it forked without the C
        /// library keeps its lock.
        pid: Option<i32>,
    },
    /// The system's pages are larger than heirloom's, so heirloom's cannot be mapped.
    HostPage {
        /// Bytes of the system's page.
        host: usize,
        /// Bytes of heirloom's.
        page: usize,
    },
    /// The descriptor refers to something else than a memfd.
    NotMemfd,
    /// The memfd is not sealed against shrinking.
    NotSealed,
    /// The memory map in the first page of a file is not sound, or what was asked for is none; the text says
    /// why.
    BadMap(MapFault),
    /// More bytes than can be mapped, holes included.
    Span {
        /// Bytes from first to last.
        bytes: u64,
        /// The most there can be.
        limit: u64,
    },
    /// A run does not lie wholly in one range of the arena.
    NotInArena {
        /// The run.
        run: Run,
    },
    /// There is nothing to map.
    EmptyArea,
    /// The entry in the first page is not whole.
    Entry {
        /// The checksum of what is there.
        expected: u64,
        /// The one written beside it.
        found: u64,
    },
}

/// What is wrong with a memory map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum MapFault {
    /// The file is too short for a memory map.
    TooShort {
        /// Bytes it has.
        found: u64,
        /// Bytes of the map.
        needed: u64,
    },
    /// The first page is no memory map.
    Magic {
        /// The first eight bytes.
        found: [u8; 8],
    },
    /// The memory map has another version.
    Version {
        /// The version this program reads.
        expected: u32,
        /// The map's.
        found: u32,
    },
    /// The memory map was made for another page size.
    PageShift {
        /// log2 of this program's page size.
        expected: u32,
        /// The map's.
        found: u32,
    },
    /// A field that must be zero is not.
    Reserved {
        /// What it contains.
        found: u32,
    },
    /// No range, or too many.
    Count {
        /// How many there are.
        found: usize,
        /// How many there can be.
        limit: usize,
    },
    /// The memory map was changed after it was written.
    Checksum {
        /// The checksum of what is there.
        expected: u64,
        /// The one written beside it.
        found: u64,
    },
    /// The file has another size than its memory map says.
    FileSize {
        /// Bytes that the map says.
        expected: u64,
        /// Bytes it has.
        found: u64,
    },
    /// A range cannot be as it is described.
    Range {
        /// Which: ranges are counted from 0.
        index: usize,
        /// Its physical address.
        start: PhysAddr,
        /// Its length.
        bytes: u64,
        /// What is wrong with it.
        fault: RangeFault,
    },
}

/// What is wrong with a range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum RangeFault {
    /// It has no bytes.
    Empty,
    /// Its start, length or place in the file is not a multiple of the page size.
    Misaligned,
    /// It ends beyond the 64-bit physical address space.
    PastTheEnd,
    /// Its bytes are not in the file, or in the page of the map itself.
    OutsideFile {
        /// Where they should begin.
        offset: u64,
    },
    /// It shares physical addresses with another.
    Overlaps {
        /// The other's index.
        with: usize,
    },
    /// It shares bytes of the file with another.
    SharesFile {
        /// The other's index.
        with: usize,
    },
    /// A field of it that must be zero is not.
    Reserved,
}

impl ArenaError {
    /// Returns the error's number: 400 to 449, the same in every release, for callers in other languages.
    ///
    /// # Examples
    /// ```
    /// use heirloom::arena::ArenaError;
    /// assert_eq!(ArenaError::NotMemfd.code(), 405);
    /// ```
    pub const fn code(&self) -> u16 {
        match self {
            Self::Os { .. } => 400,
            Self::Map { .. } => 401,
            Self::Name { .. } => 402,
            Self::InUse { .. } => 403,
            Self::HostPage { .. } => 404,
            Self::NotMemfd => 405,
            Self::NotSealed => 406,
            Self::BadMap(_) => 407,
            Self::Span { .. } => 408,
            Self::NotInArena { .. } => 409,
            Self::EmptyArea => 410,
            Self::Entry { .. } => 411,
        }
    }
}

/// Returns, for `map_err`, the error of a system call.
pub(super) const fn os(call: &'static str) -> impl Fn(rustix::io::Errno) -> ArenaError {
    move |errno| ArenaError::Os { call, errno: errno.raw_os_error() }
}

/// Returns, for `map_err`, the error of a system call that maps so many bytes.
pub(super) const fn map(bytes: usize) -> impl Fn(rustix::io::Errno) -> ArenaError {
    move |errno| ArenaError::Map { bytes: bytes as u64, errno: errno.raw_os_error() }
}

impl fmt::Display for RangeFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("has no bytes"),
            Self::Misaligned => f.write_str("is not made of whole pages"),
            Self::PastTheEnd => f.write_str("ends beyond the address space"),
            Self::OutsideFile { offset } => write!(f, "is not in the file at {offset:#x}"),
            Self::Overlaps { with } => write!(f, "overlaps range {with}"),
            Self::SharesFile { with } => write!(f, "shares bytes of the file with range {with}"),
            Self::Reserved => f.write_str("has a reserved field that is not zero"),
        }
    }
}

impl fmt::Display for MapFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooShort { found, needed } => {
                write!(f, "{found} bytes are too few for a memory map of {needed}")
            }
            Self::Magic { found } => write!(f, "no memory map: it begins with {found:02x?}"),
            Self::Version { expected, found } => {
                write!(f, "memory map of version {found}, not {expected}")
            }
            Self::PageShift { expected, found } => {
                write!(f, "memory map for pages of 2^{found} bytes, not 2^{expected}")
            }
            Self::Reserved { found } => {
                write!(f, "a reserved field of the memory map is {found:#x}")
            }
            Self::Count { found, limit } => write!(f, "{found} ranges, not 1 to {limit}"),
            Self::Checksum { expected, found } => {
                write!(f, "memory map with checksum {found:#018x}, not {expected:#018x}")
            }
            Self::FileSize { expected, found } => {
                write!(f, "the file has {found} bytes, its memory map says {expected}")
            }
            Self::Range { index, start, bytes, fault } => {
                write!(f, "range {index} of {bytes:#x} bytes at {start} {fault}")
            }
        }
    }
}

impl fmt::Display for ArenaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Os { call, errno } => {
                write!(f, "{call}: {}", std::io::Error::from_raw_os_error(*errno))
            }
            Self::Map { bytes, errno } => {
                let error = std::io::Error::from_raw_os_error(*errno);
                write!(f, "mmap of {bytes} bytes: {error}")
            }
            Self::Name { bytes, limit } => write!(
                f,
                "an arena's name has at most {limit} bytes, none of them NUL; this one has {bytes}"
            ),
            Self::InUse { pid: Some(pid) } => write!(f, "process {pid} has the arena"),
            Self::InUse { pid: None } => f.write_str(
                "a process that cannot be seen from here has the arena: one of another pid \
                 namespace, or one that its owner forked",
            ),
            Self::HostPage { host, page } => {
                write!(f, "the system maps pages of {host} bytes, heirloom needs {page}")
            }
            Self::NotMemfd => f.write_str("the descriptor is no memfd"),
            Self::NotSealed => f.write_str(
                "the file is not sealed against shrinking, as an arena's memfd is; a copy of an \
                 arena can be looked at, and becomes one again by `Arena::from_copy`",
            ),
            Self::BadMap(fault) => fault.fmt(f),
            Self::Span { bytes, limit } => {
                write!(f, "{bytes:#x} bytes cannot be mapped, {limit:#x} can")
            }
            Self::NotInArena { run } => write!(f, "{run} are not in one range of the arena"),
            Self::EmptyArea => f.write_str("no frames to map"),
            Self::Entry { expected, found } => {
                write!(f, "entry with checksum {found:#018x}, not {expected:#018x}")
            }
        }
    }
}

impl core::error::Error for ArenaError {}
