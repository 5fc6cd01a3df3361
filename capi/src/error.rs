//! Numbers of errors, each with a text and an errno.

use core::ffi::{CStr, c_char, c_int};

/// What can go wrong. A number never changes, and stands for one thing: those from 100 on say of whole
/// frames what those from 200 on say of objects and buffers, 300 of the handover, 400 of an arena,
/// 450 of what a predecessor passed on. New ones may come.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[rustfmt::skip]
pub enum heirloom_error {
    /// Nothing went wrong.
    Ok = 0,
    /// A pointer that must lead to something is null.
    Null = 1,
    /// A text is not UTF-8.
    NotText = 2,
    /// The caller's room is too small for what it asked for.
    TooSmall = 3,
    /// A flag, or a number that stands for a choice, is none that this build knows.
    BadChoice = 4,
    /// Something still uses it: a kernel its arena.
    Busy = 5,
    /// An address or a length that is no multiple of what it must be.
    Misaligned = 6,
    /// More than this build has room for.
    TooMany = 7,
    /// The operating system refused; the text has its reason.
    System = 8,
    /// No entry was left in the arena: it was never booted.
    NoEntry = 9,
    /// The direct map does not cover a range.
    OutsideMap = 10,

    /// No free block is this large.
    OutOfMemory = 100,
    /// No free run has so many frames.
    NoRun = 101,
    /// No memory could meet the request.
    BadRequest = 102,
    /// The frame is in no memory range.
    NotMemory = 103,
    /// The frames are not all free.
    NotFree = 104,
    /// The frames are free already.
    FrameDoubleFree = 105,
    /// The frames were never handed out.
    FrameNeverAllocated = 106,
    /// The frame lies inside a block that starts elsewhere.
    FrameInterior = 107,
    /// The block has another size.
    FrameWrongOrder = 108,
    /// The run of frames has another length.
    FrameWrongLength = 109,
    /// The frames are used for something else.
    FrameWrongKind = 110,
    /// The frames are preserved: unpreserve them first.
    FramePreserved = 111,
    /// The frames are preserved already.
    FrameAlreadyPreserved = 112,
    /// The frames are not preserved, or claimed already.
    FrameNotPreserved = 113,
    /// Another call has what would be claimed set aside.
    PredecessorBusy = 114,
    /// A new range overlaps one that is there.
    RangeOverlaps = 115,
    /// A range without frames.
    BadRange = 116,
    /// The space given for metadata is too small or misaligned.
    BadSpace = 117,
    /// The predecessor's tree is not sound.
    BadTree = 118,
    /// The page is absent: it must come online first.
    Absent = 119,
    /// The page is not absent: it cannot come online.
    NotAbsent = 120,

    /// No cache can be like this.
    BadSpec = 200,
    /// A cache of this name is another.
    Mismatch = 201,
    /// The name is kept for size classes.
    ReservedName = 202,
    /// The predecessor left no cache of this name.
    CacheNotInherited = 203,
    /// There are as many caches as can be.
    TooManyCaches = 204,
    /// No buffer has this size and alignment.
    BadLayout = 205,
    /// The direct map does not keep the alignment.
    BadMap = 206,
    /// A handler made the call in the middle of another one, and it needs the lock that the other holds.
    WouldWait = 207,
    /// The cache's objects are constructed, not zero.
    Constructed = 208,
    /// No object or buffer is there.
    NotAnObject = 209,
    /// The pointer leads into an object or buffer, not to its start.
    Interior = 210,
    /// The object belongs to another cache.
    WrongCache = 211,
    /// The object is free already.
    DoubleFree = 212,
    /// The object is preserved: unpreserve it first.
    Preserved = 213,
    /// The object is preserved already.
    AlreadyPreserved = 214,
    /// The object is not preserved.
    NotPreserved = 215,
    /// The object is the predecessor's: claim it first.
    Unclaimed = 216,
    /// The object is claimed already, or never was the predecessor's.
    NotUnclaimed = 217,
    /// The object is free, or not claimed.
    NotInUse = 218,
    /// The cache was adopted, and cannot be resumed.
    Adopted = 219,
    /// No cache has adopted the object's slab.
    NotAdopted = 220,
    /// The object has another length than the handle says.
    WrongLength = 221,
    /// The handle is of an earlier object in the same place.
    Stale = 222,
    /// Something wrote where it must not.
    Overwritten = 223,
    /// A predecessor's slab is not sound.
    BadSlab = 224,
    /// The predecessor's cache directory is not sound.
    BadDirectory = 225,
    /// Something of the cache is in use, to be claimed, or looked at: it cannot be destroyed.
    CacheInUse = 226,
    /// The cache was destroyed.
    CacheDestroyed = 227,

    /// The handover changed since it was sealed.
    SealBroken = 300,
    /// The handover is not sealed, and had to be.
    NotSealed = 301,
    /// A table of the predecessor's is not sound.
    BadTable = 302,
    /// The bytes are no handle, or one of another kind.
    BadHandle = 303,
    /// There is no room for one more name.
    RootFull = 304,
    /// The name is taken.
    NameTaken = 305,
    /// There is nothing of this name.
    NoSuchName = 306,
    /// The name is empty, too long, or has a character that no name has.
    BadName = 307,
    /// A table has no room for more.
    TableFull = 308,
    /// The frames cannot be what they were given for.
    BadRun = 309,
    /// A block of an area has another size than the area's.
    AreaWrongOrder = 310,
    /// The predecessor left nothing there that can be claimed so, or it is claimed already.
    NotInherited = 311,
    /// The memory is too small for a handover.
    MemoryTooSmall = 312,
    /// Scratch is too small for the metadata.
    ScratchTooSmall = 313,
    /// A scratch area is not memory.
    ScratchNotMemory = 314,
    /// The frames given for metadata are partly something else.
    MetadataInUse = 315,
    /// The frames of a name are not preserved.
    NameNotPreserved = 316,

    /// The operating system refused an arena.
    ArenaSystem = 400,
    /// The operating system refused to map an arena.
    ArenaMap = 401,
    /// The arena's name is too long.
    ArenaName = 402,
    /// Another process has the arena.
    ArenaInUse = 403,
    /// The system's pages are larger than heirloom's.
    ArenaPage = 404,
    /// The descriptor is no memfd.
    ArenaNotMemfd = 405,
    /// The memfd is not sealed.
    ArenaNotSealed = 406,
    /// The arena's memory map is not sound, or what was asked for is none.
    ArenaBadMap = 407,
    /// More bytes than can be mapped.
    ArenaSpan = 408,
    /// The frames are not in one range of the arena.
    ArenaNotIn = 409,
    /// There is nothing to map.
    ArenaEmpty = 410,
    /// The entry in the arena is not whole.
    ArenaBadEntry = 411,

    /// What the predecessor passed on is no text.
    JumpNotText = 450,
    /// What the predecessor passed on has another version.
    JumpVersion = 451,
    /// What the predecessor passed on lacks a field.
    JumpMissing = 452,
    /// What the predecessor passed on has a field without a value.
    JumpMalformed = 453,
    /// What the predecessor passed on has something behind its last field.
    JumpTrailing = 454,
    /// The descriptor that the predecessor passed on is not open.
    JumpNotOpen = 455,
    /// The descriptor that the predecessor passed on is no arena.
    JumpNotMemory = 456,
    /// What the predecessor passed on was taken before.
    JumpTaken = 457,
}

/// Linux's numbers, as its `errno-base.h` and `errno.h` have them.
mod errno {
    use core::ffi::c_int;

    pub(super) const ENOENT: c_int = 2;
    pub(super) const EIO: c_int = 5;
    pub(super) const EBADF: c_int = 9;
    pub(super) const EAGAIN: c_int = 11;
    pub(super) const ENOMEM: c_int = 12;
    pub(super) const EFAULT: c_int = 14;
    pub(super) const EBUSY: c_int = 16;
    pub(super) const EEXIST: c_int = 17;
    pub(super) const EINVAL: c_int = 22;
    pub(super) const ENOSPC: c_int = 28;
    pub(super) const ERANGE: c_int = 34;
    pub(super) const EBADMSG: c_int = 74;
    pub(super) const EALREADY: c_int = 114;
    pub(super) const ESTALE: c_int = 116;
    pub(super) const EUCLEAN: c_int = 117;
}

use errno::{
    EAGAIN, EALREADY, EBADF, EBADMSG, EBUSY, EEXIST, EFAULT, EINVAL, EIO, ENOENT, ENOMEM, ENOSPC,
    ERANGE, ESTALE, EUCLEAN,
};
use heirloom_error as E;

/// Every error, its errno and its text.
#[rustfmt::skip]
const ALL: &[(E, c_int, &CStr)] = &[
    (E::Ok, 0, c"no error"),
    (E::Null, EFAULT, c"a pointer is null"),
    (E::NotText, EINVAL, c"the text is not UTF-8"),
    (E::TooSmall, ERANGE, c"the caller's room is too small"),
    (E::BadChoice, EINVAL, c"a flag or choice that is not known"),
    (E::Busy, EBUSY, c"still in use"),
    (E::Misaligned, EINVAL, c"not aligned"),
    (E::TooMany, ENOSPC, c"more than there is room for"),
    (E::System, EIO, c"the operating system refused"),
    (E::NoEntry, ENOENT, c"no entry was left in the arena"),
    (E::OutsideMap, EINVAL, c"the direct map does not cover a range"),
    (E::OutOfMemory, ENOMEM, c"out of memory"),
    (E::NoRun, ENOMEM, c"no free run of so many frames"),
    (E::BadRequest, EINVAL, c"no memory could meet the request"),
    (E::NotMemory, EINVAL, c"the frame is not memory"),
    (E::NotFree, EBUSY, c"the frames are not all free"),
    (E::FrameDoubleFree, EINVAL, c"the frames are free already"),
    (E::FrameNeverAllocated, EINVAL, c"the frames were never handed out"),
    (E::FrameInterior, EINVAL, c"the frame lies inside a block"),
    (E::FrameWrongOrder, EINVAL, c"the block has another size"),
    (E::FrameWrongLength, EINVAL, c"the run of frames has another length"),
    (E::FrameWrongKind, EINVAL, c"the frames are used for something else"),
    (E::FramePreserved, EBUSY, c"the frames are preserved"),
    (E::FrameAlreadyPreserved, EALREADY, c"the frames are preserved already"),
    (E::FrameNotPreserved, ENOENT, c"the frames are not preserved, or claimed already"),
    (E::PredecessorBusy, EBUSY, c"another call has it set aside"),
    (E::RangeOverlaps, EEXIST, c"the range overlaps another"),
    (E::BadRange, EINVAL, c"a range without frames"),
    (E::BadSpace, EINVAL, c"the space for metadata is too small or misaligned"),
    (E::BadTree, EUCLEAN, c"the predecessor's tree is not sound"),
    (E::Absent, EINVAL, c"the page is absent"),
    (E::NotAbsent, EEXIST, c"the page is not absent"),
    (E::BadSpec, EINVAL, c"no cache can be like this"),
    (E::Mismatch, EINVAL, c"the cache of this name is another"),
    (E::ReservedName, EINVAL, c"the cache's name is a size class's"),
    (E::CacheNotInherited, ENOENT, c"the predecessor left no cache of this name"),
    (E::TooManyCaches, ENOSPC, c"there are as many caches as can be"),
    (E::BadLayout, EINVAL, c"no buffer has this size and alignment"),
    (E::BadMap, EINVAL, c"the direct map does not keep the alignment"),
    (E::WouldWait, EAGAIN, c"called in the middle of another call"),
    (E::Constructed, EINVAL, c"objects of the cache are constructed, not zero"),
    (E::NotAnObject, EINVAL, c"no object or buffer is there"),
    (E::Interior, EINVAL, c"the pointer leads into an object, not to its start"),
    (E::WrongCache, EINVAL, c"the object belongs to another cache"),
    (E::DoubleFree, EINVAL, c"the object is free already"),
    (E::Preserved, EBUSY, c"the object is preserved"),
    (E::AlreadyPreserved, EALREADY, c"the object is preserved already"),
    (E::NotPreserved, EINVAL, c"the object is not preserved"),
    (E::Unclaimed, EINVAL, c"the object is not claimed"),
    (E::NotUnclaimed, ENOENT, c"the object is claimed already"),
    (E::NotInUse, ENOENT, c"the object is not in use"),
    (E::Adopted, EBUSY, c"the cache was adopted"),
    (E::NotAdopted, ENOENT, c"no cache has adopted the object"),
    (E::WrongLength, EINVAL, c"the object has another length"),
    (E::Stale, ESTALE, c"the handle is of an earlier object"),
    (E::Overwritten, EUCLEAN, c"something wrote where it must not"),
    (E::BadSlab, EUCLEAN, c"a predecessor's slab is not sound"),
    (E::BadDirectory, EUCLEAN, c"the predecessor's cache directory is not sound"),
    (E::CacheInUse, EBUSY, c"the cache is in use"),
    (E::CacheDestroyed, EINVAL, c"the cache was destroyed"),
    (E::SealBroken, EBADMSG, c"the seal is broken"),
    (E::NotSealed, EBADMSG, c"the handover is not sealed"),
    (E::BadTable, EUCLEAN, c"a table is not sound"),
    (E::BadHandle, EINVAL, c"no handle, or one of another kind"),
    (E::RootFull, ENOSPC, c"no room for one more name"),
    (E::NameTaken, EEXIST, c"the name is taken"),
    (E::NoSuchName, ENOENT, c"nothing has this name"),
    (E::BadName, EINVAL, c"no name is like this"),
    (E::TableFull, ENOSPC, c"a table is full"),
    (E::BadRun, EINVAL, c"the frames cannot be that"),
    (E::AreaWrongOrder, EINVAL, c"a block of another size than the area's"),
    (E::NotInherited, ENOENT, c"nothing left there can be claimed so"),
    (E::MemoryTooSmall, ENOMEM, c"the memory is too small for a handover"),
    (E::ScratchTooSmall, ENOSPC, c"scratch is too small for the metadata"),
    (E::ScratchNotMemory, EINVAL, c"a scratch area is not memory"),
    (E::MetadataInUse, EBUSY, c"the frames for metadata are something else"),
    (E::NameNotPreserved, EINVAL, c"the frames of a name are not preserved"),
    (E::ArenaSystem, EIO, c"the operating system refused an arena"),
    (E::ArenaMap, ENOMEM, c"the operating system refused to map an arena"),
    (E::ArenaName, EINVAL, c"the arena's name is too long"),
    (E::ArenaInUse, EBUSY, c"another process has the arena"),
    (E::ArenaPage, EINVAL, c"the system's pages are larger than heirloom's"),
    (E::ArenaNotMemfd, EBADF, c"the descriptor is no memfd"),
    (E::ArenaNotSealed, EBADF, c"the memfd is not sealed"),
    (E::ArenaBadMap, EUCLEAN, c"no memory map"),
    (E::ArenaSpan, ENOMEM, c"more bytes than can be mapped"),
    (E::ArenaNotIn, EINVAL, c"the frames are not in one range of the arena"),
    (E::ArenaEmpty, EINVAL, c"there is nothing to map"),
    (E::ArenaBadEntry, EUCLEAN, c"the entry in the arena is not whole"),
    (E::JumpNotText, EBADMSG, c"what was passed on is no text"),
    (E::JumpVersion, EBADMSG, c"what was passed on has another version"),
    (E::JumpMissing, EBADMSG, c"what was passed on lacks a field"),
    (E::JumpMalformed, EBADMSG, c"what was passed on has a field without a value"),
    (E::JumpTrailing, EBADMSG, c"what was passed on has too many fields"),
    (E::JumpNotOpen, EBADF, c"the descriptor that was passed on is not open"),
    (E::JumpNotMemory, EBADF, c"the descriptor that was passed on is no arena"),
    (E::JumpTaken, EALREADY, c"what was passed on was taken before"),
];

fn find(error: c_int) -> Option<&'static (E, c_int, &'static CStr)> {
    ALL.iter().find(|(number, ..)| *number as c_int == error)
}

/// Returns what an error is called in short; never null, and never to be freed.
///
/// Context: any.
#[unsafe(no_mangle)]
pub extern "C" fn heirloom_strerror(error: c_int) -> *const c_char {
    find(error).map_or(c"unknown error", |(_, _, text)| text).as_ptr()
}

/// Returns Linux's errno for an error, positive: `ENOMEM` for HEIRLOOM_ERROR_OUT_OF_MEMORY, `EINVAL` for most
/// mistakes, `EUCLEAN` for a predecessor's table that is not sound. 0 for 0; `EINVAL` for what is no error.
///
/// Context: any.
#[unsafe(no_mangle)]
pub extern "C" fn heirloom_errno(error: c_int) -> c_int {
    find(error).map_or(EINVAL, |(_, errno, _)| *errno)
}
