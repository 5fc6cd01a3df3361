//! What can go wrong in this layer, with what a person needs to find the fault.

mod action;
mod field;
mod table;

use core::fmt;

pub use action::Action;
use action::Reason;
pub use field::Field;
use heirloom_kho::{Block, PhysAddr, Refused};
pub use table::{DirectoryError, DirectoryFault, SlabError, SlabFault};

use crate::name::Name;
use crate::state::ObjectState;

/// An error of the slab layer. Nothing was changed where one is returned, unless its
/// documentation says so.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Error {
    /// The layer below: out of memory, or a large buffer that it refuses to free.
    Folio(heirloom_folio::Error),
    /// No cache can be like this.
    BadSpec {
        /// The cache.
        cache: Name,
        /// What about it.
        field: Field,
        /// The value that cannot be.
        found: u64,
    },
    /// A cache of this name exists, or was left by the predecessor, and is another.
    Mismatch {
        /// The cache.
        cache: Name,
        /// The first thing that differs.
        field: Field,
        /// What this kernel wants.
        expected: u64,
        /// What is there.
        found: u64,
        /// Whether it is the predecessor's, whose objects [`Slabs::upgrade`](crate::Slabs::upgrade)
        /// passes on.
        inherited: bool,
    },
    /// The name is kept for the size classes: it starts with `buffer-` or `preserved-`.
    ReservedName {
        /// The name.
        cache: Name,
    },
    /// The predecessor left no cache of this name: it had none, or nothing in it was preserved, or
    /// the name is mistyped.
    NotInherited {
        /// The name.
        cache: Name,
    },
    /// Every number that a cache can have is taken.
    TooManyCaches {
        /// How many there can be.
        limit: usize,
    },
    /// A buffer without bytes, or one larger or more aligned than any memory.
    BadLayout {
        /// Bytes asked for.
        size: usize,
        /// The alignment asked for, in bytes.
        align: usize,
    },
    /// The direct map shows memory at an address that is not as aligned as the memory itself, so
    /// no object with this alignment can be had.
    BadMap {
        /// The memory.
        addr: PhysAddr,
        /// The alignment that its pointer lacks, in bytes.
        align: usize,
    },
    /// The call might have to wait for a lock that its own thread holds: it was made from a signal
    /// handler, or an interrupt, that came in the middle of another call
    /// ([`Machine::may_wait`](heirloom_folio::Machine::may_wait)).
    WouldWait,
    /// Zeroed objects were asked of a cache whose objects are constructed.
    Constructed {
        /// The cache.
        cache: Name,
    },
    /// The pointer leads to no object and no buffer of this instance.
    NotAnObject {
        /// Where it points to.
        ptr: usize,
    },
    /// The pointer leads into an object, or beside one, not to its start.
    Interior {
        /// The object's cache.
        cache: Name,
        /// Where the pointer leads to.
        addr: PhysAddr,
        /// The start of the object around it, or of the slab if there is none.
        start: PhysAddr,
    },
    /// The object belongs to another cache.
    WrongCache {
        /// The object.
        addr: PhysAddr,
        /// The cache that was asked.
        expected: Name,
        /// The cache that owns it.
        found: Name,
    },
    /// The object is not what it has to be for this: a double free, say, is to free one that is found free.
    WrongState {
        /// Its cache.
        cache: Name,
        /// The object.
        addr: PhysAddr,
        /// What was asked of it.
        action: Action,
        /// What it is.
        found: ObjectState,
    },
    /// The cache cannot be resumed: slabs of it were adopted, whose objects are to be claimed.
    Adopted {
        /// The cache.
        cache: Name,
    },
    /// The object lies in a slab that the predecessor left and no cache has adopted.
    NotAdopted {
        /// The object.
        addr: PhysAddr,
        /// The slab.
        slab: Block,
    },
    /// The object has another length than its handle says.
    WrongLength {
        /// Its cache.
        cache: Name,
        /// The object.
        addr: PhysAddr,
        /// Bytes that the handle says.
        expected: u64,
        /// Bytes that it has.
        found: u64,
    },
    /// The handle is of an earlier object in the same place.
    Stale {
        /// The cache.
        cache: Name,
        /// The place.
        addr: PhysAddr,
        /// The handle's reuse tag.
        expected: u8,
        /// The object's reuse tag.
        found: u8,
    },
    /// Something wrote where it must not: into a free object or past the end of one. Found by the
    /// feature `debug` only. A free object found overwritten is taken out of use.
    Overwritten {
        /// The object's cache.
        cache: Name,
        /// The object.
        addr: PhysAddr,
        /// The first byte overwritten.
        at: PhysAddr,
    },
    /// The cache cannot be destroyed: something of it is in use, or to be claimed, or is being looked at just now.
    CacheInUse {
        /// The cache.
        cache: Name,
        /// How many objects are in use, to be claimed, or out of use because they were overwritten; 0 where it is something else.
        objects: u64,
    },
    /// The cache was destroyed, or is being destroyed just now.
    Destroyed {
        /// The cache.
        cache: Name,
    },
    /// A slab that the predecessor left is not sound.
    Slab(SlabError),
    /// The cache directory that the predecessor left is not sound.
    Directory(DirectoryError),
}

impl Error {
    /// Returns whether free memory was all that was missing: the call can be repeated once there is
    /// some.
    pub const fn is_out_of_memory(&self) -> bool {
        matches!(self, Self::Folio(error) if error.is_out_of_memory())
    }

    /// Returns the error's number: 200 to 299 in this layer, the same in every release, for callers in
    /// other languages; of [`Error::Folio`] the number that it has there.
    ///
    /// # Examples
    /// ```
    /// use heirloom_slab::Error;
    /// assert_eq!(Error::BadLayout { size: 0, align: 16 }.code(), 205);
    /// let folio = heirloom_folio::Error::BadRequest { frames: 0 };
    /// assert_eq!(Error::from(folio).code(), folio.code());
    /// ```
    pub const fn code(&self) -> u16 {
        match self {
            Self::Folio(error) => error.code(),
            Self::BadSpec { .. } => 200,
            Self::Mismatch { .. } => 201,
            Self::ReservedName { .. } => 202,
            Self::NotInherited { .. } => 203,
            Self::TooManyCaches { .. } => 204,
            Self::BadLayout { .. } => 205,
            Self::BadMap { .. } => 206,
            Self::WouldWait => 207,
            Self::Constructed { .. } => 208,
            Self::NotAnObject { .. } => 209,
            Self::Interior { .. } => 210,
            Self::WrongCache { .. } => 211,
            Self::WrongState { action, found, .. } => action::code(*action, *found),
            Self::Adopted { .. } => 219,
            Self::NotAdopted { .. } => 220,
            Self::WrongLength { .. } => 221,
            Self::Stale { .. } => 222,
            Self::Overwritten { .. } => 223,
            Self::Slab(_) => 224,
            Self::Directory(_) => 225,
            Self::CacheInUse { .. } => 226,
            Self::Destroyed { .. } => 227,
        }
    }

    /// Returns the error as one about what the predecessor left.
    pub(crate) const fn of_inherited(self) -> Self {
        match self {
            Self::Mismatch { cache, field, expected, found, .. } => {
                Self::Mismatch { cache, field, expected, found, inherited: true }
            }
            other => other,
        }
    }
}

impl From<heirloom_folio::Error> for Error {
    fn from(error: heirloom_folio::Error) -> Self {
        Self::Folio(error)
    }
}

impl From<SlabError> for Error {
    fn from(error: SlabError) -> Self {
        Self::Slab(error)
    }
}

impl From<DirectoryError> for Error {
    fn from(error: DirectoryError) -> Self {
        Self::Directory(error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folio(e) => e.fmt(f),
            Self::BadSpec { cache, field: Field::Name, found: found @ 1..=31 } => {
                write!(f, "cache {cache}: a zero byte in a name of {found} bytes")
            }
            Self::BadSpec { cache, field: Field::Name, found } => {
                write!(f, "cache {cache}: a name of {found} bytes; 1 to {} are possible", Name::MAX)
            }
            Self::BadSpec { cache, field, found } => {
                write!(f, "cache {cache}: {field} cannot be {}", field.show(*found))
            }
            Self::Mismatch { cache, field, expected, found, inherited } => {
                let (found, expected) = (field.show(*found), field.show(*expected));
                let there = if *inherited { "inherited" } else { "the cache there" };
                write!(f, "cache {cache}: {field}: {there} {found}, this build {expected}")?;
                f.write_str(if *inherited { "; see `upgrade`" } else { "" })
            }
            Self::ReservedName { cache } => write!(
                f,
                "cache {cache}: names that start with buffer- or preserved- are the size classes'"
            ),
            Self::NotInherited { cache } => write!(
                f,
                "the predecessor left no cache named {cache}; `adopt_or_create` creates one"
            ),
            Self::TooManyCaches { limit } => {
                write!(f, "there are {limit} caches, as many as can be")
            }
            Self::BadLayout { size, align } => {
                write!(f, "no buffer has {size} bytes aligned to {align}")
            }
            Self::BadMap { addr, align } => {
                write!(f, "the pointer to {addr} is not aligned to {align} bytes")
            }
            Self::WouldWait => f.write_str(
                "called from a handler that interrupted a call on the same thread or CPU, which \
                 may hold the lock that is needed",
            ),
            Self::Constructed { cache } => {
                write!(f, "objects of {cache} are constructed, not zero")
            }
            Self::NotAnObject { ptr } => write!(f, "no object at pointer {ptr:#x}"),
            Self::Interior { cache, addr, start } => {
                write!(f, "{addr} lies in or beside the object of {cache} at {start}")
            }
            Self::WrongCache { addr, expected, found } => {
                write!(f, "object {addr} belongs to {found}, not {expected}")
            }
            Self::WrongState { cache, addr, action, found } => {
                let reason = Reason { action: *action, found: *found };
                write!(f, "object {addr} of {cache} cannot be {action}: {reason}")
            }
            Self::Adopted { cache } => write!(
                f,
                "slabs of {cache} were adopted, so it cannot be resumed: claim its objects"
            ),
            Self::NotAdopted { addr, slab } => {
                write!(f, "{addr} lies in a slab, {slab}, that no cache has adopted")
            }
            Self::WrongLength { cache, addr, expected, found } => {
                write!(f, "object {addr} of {cache} has {found} bytes, not {expected}")
            }
            Self::Stale { cache, addr, expected, found } => {
                write!(
                    f,
                    "object {addr} of {cache} has reuse tag {found}, the handle is of {expected}"
                )
            }
            Self::Overwritten { cache, addr, at } => {
                write!(f, "object {addr} of {cache} was overwritten at {at}")
            }
            Self::CacheInUse { cache, objects: 0 } => write!(
                f,
                "slabs of {cache} are the predecessor's, or are being looked at: it cannot be destroyed now"
            ),
            Self::CacheInUse { cache, objects } => {
                write!(f, "{objects} objects of {cache} are in use, or to be claimed")
            }
            Self::Destroyed { cache } => write!(f, "the cache {cache} was destroyed"),
            Self::Slab(e) => e.fmt(f),
            Self::Directory(e) => e.fmt(f),
        }
    }
}

impl core::error::Error for Error {}

impl<T> From<Refused<T, Self>> for Error {
    fn from(refused: Refused<T, Self>) -> Self {
        refused.error
    }
}
