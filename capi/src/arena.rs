//! The hosted flavour: an arena over a memfd as the memory, threads as CPUs.

use core::ffi::{c_char, c_int};
use core::ptr::NonNull;
use core::sync::atomic::AtomicBool;
use core::sync::atomic::Ordering::{Acquire, Release};
use std::os::fd::{AsRawFd, BorrowedFd, IntoRawFd};

use ::heirloom::arena::{Arena, RangeSpec};
use ::heirloom::{Entry, Heirloom, NodeId, PhysAddr, Run};

use crate::argument::{bad, heirloom_range, some, text, value, values};
use crate::error::heirloom_error;
use crate::failure::{Failure, failed, status};
use crate::handover::{heirloom_entry, policy};
use crate::object::{Machine, heirloom, heirloom_arena};

impl heirloom_arena {
    /// Returns what C gets for an arena.
    pub(crate) fn made(made: Result<Arena, Failure>) -> *mut Self {
        match made {
            Ok(arena) => Box::into_raw(Box::new(Self { arena, in_use: AtomicBool::new(false) })),
            Err(failure) => {
                failed(failure);
                core::ptr::null_mut()
            }
        }
    }
}

/// Creates an arena with these ranges of physical memory, all zeroes. Nothing is spent on a page until it is touched.
/// `name` is for a reader of `/proc/self/maps`.
///
/// @return the arena, to be closed by heirloom_arena_close(). Null if it cannot be: HEIRLOOM_ERROR_ARENA_BAD_MAP,
/// _ARENA_NAME, _ARENA_SYSTEM, _ARENA_MAP, ...
///
/// # Safety
/// `name` ends with a zero byte; `ranges` has `count` ranges. Neither is kept.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn heirloom_arena_create(
    name: *const c_char,
    ranges: *const heirloom_range,
    count: usize,
) -> *mut heirloom_arena {
    let create = || {
        // SAFETY: the caller's promise.
        let (name, ranges) = unsafe { (text("name", name)?, values("ranges", ranges, count)?) };
        let spec = |range: &heirloom_range| RangeSpec {
            start: PhysAddr::new(range.start),
            bytes: range.bytes,
            node: NodeId(range.node),
        };
        let ranges: Vec<RangeSpec> = ranges.iter().map(spec).collect();
        Ok(Arena::create(name, &ranges)?)
    };
    heirloom_arena::made(create())
}

/// Opens the arena that a descriptor refers to. The descriptor stays the caller's, which can close it afterwards.
///
/// @return the arena, to be closed by heirloom_arena_close(). Null if it is none, or another process has it
/// (HEIRLOOM_ERROR_ARENA_IN_USE).
#[unsafe(no_mangle)]
pub extern "C" fn heirloom_arena_open(fd: c_int) -> *mut heirloom_arena {
    let open = || {
        if fd < 0 {
            return Err(bad("fd", heirloom_error::BadChoice));
        }
        // SAFETY: used for the call that duplicates it alone; one that is not open is refused by it.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        let fd = fd.try_clone_to_owned().map_err(|error| Failure::system("dup", &error))?;
        Ok(Arena::open(fd)?)
    };
    heirloom_arena::made(open())
}

/// Closes an arena; nothing if it is null. The memory lasts as long as a descriptor of it.
///
/// @return 0, or HEIRLOOM_ERROR_BUSY as long as a kernel's object is over it: close that first.
///
/// # Safety
/// `arena` is from a call that returned it, and not used any more if this returns 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn heirloom_arena_close(arena: *mut heirloom_arena) -> c_int {
    // SAFETY: the caller's promise.
    let Some(this) = (unsafe { arena.as_ref() }) else { return 0 };
    // Acquire pairs with the Release in `heirloom_close`: what was over it is gone.
    if this.in_use.load(Acquire) {
        return failed(bad("arena", heirloom_error::Busy));
    }
    // SAFETY: from `made`, and the caller's alone.
    drop(unsafe { Box::from_raw(arena) });
    0
}

/// Returns the descriptor of the arena's memory, which stays the arena's; -1 if `arena` is null. A duplicate
/// that is passed to another process is all that this needs to open the arena, and to revive
/// (heirloom_revive_arena()).
///
/// # Safety
/// `arena` is from a call that returned it, and not closed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn heirloom_arena_fd(arena: *const heirloom_arena) -> c_int {
    // SAFETY: the caller's promise.
    match unsafe { value("arena", arena) } {
        Ok(this) => std::os::fd::AsFd::as_fd(&this.arena).as_raw_fd(),
        Err(failure) => {
            failed(failure);
            -1
        }
    }
}

/// Returns a new descriptor of the arena's memory, the caller's to close, which closes on exec; -1 if there is none.
///
/// # Safety
/// `arena` is from a call that returned it, and not closed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn heirloom_arena_share(arena: *const heirloom_arena) -> c_int {
    // SAFETY: the caller's promise.
    let share = || Ok::<_, Failure>(unsafe { value("arena", arena)? }.arena.share()?);
    match share() {
        Ok(fd) => fd.into_raw_fd(),
        Err(failure) => {
            failed(failure);
            -1
        }
    }
}

/// Boots over a new arena: all of its memory is free but for scratch, which is taken from its largest range. `producer` is
/// told to the successor; null: none. The entry is left in the arena, so that its descriptor is all that a
/// successor needs.
///
/// @return the kernel's object, to be closed by heirloom_close(). Null if it cannot be: HEIRLOOM_ERROR_BUSY (there is
/// one over the arena), _SCRATCH_TOO_SMALL, _MEMORY_TOO_SMALL.
///
/// # Safety
/// `arena` is from a call that returned it, not closed, and is closed after the object. Nothing else uses its
/// memory. `producer` is null, or ends with a zero byte.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn heirloom_boot_arena(
    arena: *mut heirloom_arena,
    producer: *const c_char,
) -> *mut heirloom {
    // SAFETY: the caller's promise.
    let started = unsafe {
        start(arena, producer, |machine, map, producer| {
            let largest = map.iter().map(|(run, _)| *run).max_by_key(|run| run.frames());
            let scratch =
                largest.and_then(|run| Run::covering(run.addr(), machine.scratch_bytes()));
            let scratch = scratch.ok_or(bad("arena", heirloom_error::BadRange))?;
            Ok(Heirloom::boot(machine, map, &[scratch], producer)?)
        })
    };
    handed(started)
}

/// Takes over the arena from a predecessor, and goes on with its handover: checks all of it first. All that was
/// preserved is there to be restored, whatever ended the predecessor, and at whatever instant this one ends.
///
/// @param entry the predecessor's, or null: the one that was left in the arena.
/// @param seal one of HEIRLOOM_SEAL_...: HEIRLOOM_SEAL_CHECKED suits most.
/// @return the kernel's object, to be closed by heirloom_close(). Null if it cannot be: HEIRLOOM_ERROR_NO_ENTRY, _BUSY,
/// or what is wrong with the handover (_BAD_TABLE, _BAD_TREE, _SEAL_BROKEN, ...), which stays as it was.
///
/// # Safety
/// As for heirloom_boot_arena(); `entry` is null, or leads to one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn heirloom_revive_arena(
    arena: *mut heirloom_arena,
    entry: *const heirloom_entry,
    producer: *const c_char,
    seal: u32,
) -> *mut heirloom {
    // SAFETY: the caller's promise.
    let started = unsafe {
        start(arena, producer, |machine, map, producer| {
            let seal = policy(seal)?;
            let entry = match entry.as_ref() {
                Some(entry) => Entry::from(*entry),
                None => machine.entry()?.ok_or(bad("arena", heirloom_error::NoEntry))?,
            };
            Ok(Heirloom::revive(machine, map, entry, producer, seal)?)
        })
    };
    handed(started)
}

/// Ends a kernel's object; nothing if it is null. What was preserved stays so, and everything else of the memory is
/// lost: its buffers and caches are not used any more. A process that ends, or jumps, need not call it.
///
/// # Safety
/// `h` is from a call that boots or revives; neither it nor memory of it is used any more, by any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn heirloom_close(h: *mut heirloom) {
    if h.is_null() {
        return;
    }
    // SAFETY: from `handed`, and the caller's alone.
    let this = unsafe { Box::from_raw(h) };
    let arena = this.arena;
    drop(this);
    // SAFETY: closed after the object (contract of `heirloom_boot_arena`).
    let arena = unsafe { arena.as_ref() };
    // Release pairs with the Acquire in `start` and `heirloom_arena_close`.
    arena.in_use.store(false, Release);
}

/// Takes an arena into use, and starts a kernel over it.
///
/// # Safety
/// As for heirloom_boot_arena().
unsafe fn start(
    arena: *mut heirloom_arena,
    producer: *const c_char,
    start: impl FnOnce(Machine, &[(Run, NodeId)], &str) -> Result<Heirloom<Machine>, Failure>,
) -> Result<heirloom, Failure> {
    let arena = some("arena", arena)?;
    // SAFETY: the caller's promise: it is closed after the object, so it lives as long as that.
    let this: &'static heirloom_arena = unsafe { arena.as_ref() };
    // SAFETY: the caller's promise.
    let producer = if producer.is_null() { "" } else { unsafe { text("producer", producer) }? };
    // Acquire pairs with the Release below and in `heirloom_close`.
    if this.in_use.swap(true, Acquire) {
        return Err(bad("arena", heirloom_error::Busy));
    }
    let map: Vec<_> = this.arena.ranges().iter().map(|range| (range.run(), range.node())).collect();
    let started = start(&this.arena, &map, producer).and_then(|kernel| {
        this.arena.leave(kernel.entry())?;
        Ok(heirloom { kernel, arena })
    });
    if started.is_err() {
        this.in_use.store(false, Release);
    }
    started
}

/// Returns what C gets for a kernel's object.
fn handed(started: Result<heirloom, Failure>) -> *mut heirloom {
    match started {
        Ok(this) => Box::into_raw(Box::new(this)),
        Err(failure) => {
            failed(failure);
            core::ptr::null_mut()
        }
    }
}

/// Returns the arena that a kernel's object is over, which stays its owner's; null if `h` is null.
///
/// # Safety
/// `h` is from a call that boots or revives, and not closed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn heirloom_get_arena(h: *mut heirloom) -> *mut heirloom_arena {
    // SAFETY: the caller's promise.
    unsafe { h.as_ref() }.map_or(core::ptr::null_mut(), |this| NonNull::as_ptr(this.arena))
}

/// Returns whether the arena's memory has a handover: 1 if it was ever booted, 0 if not; less than 0 if it cannot be
/// told.
///
/// # Safety
/// `arena` is from a call that returned it, and not closed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn heirloom_arena_has_entry(arena: *const heirloom_arena) -> c_int {
    // SAFETY: the caller's promise.
    let look = || Ok::<_, Failure>(unsafe { value("arena", arena)? }.arena.entry()?);
    match look() {
        Ok(entry) => entry.is_some().into(),
        Err(failure) => -status(Err(failure)),
    }
}
