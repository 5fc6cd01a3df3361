//! The kernel flavour: boot and revive over the kernel's memory, and more memory later.

use core::alloc::Layout;
use core::ffi::{c_int, c_void};
use core::mem::MaybeUninit;
use core::ptr::NonNull;

use ::heirloom::{CpuId, Entry, Heirloom, Memory, Placement, Slabs};

use crate::argument::{heirloom_range, some, value, values};
use crate::buffers::small;
use crate::cache::{at_hand, heirloom_cache};
use crate::config::{Map, Runs, heirloom_config};
use crate::failure::{Failure, failed, status};
use crate::handover::{heirloom_entry, policy};
use crate::object::{Machine, heirloom, kernel};

/// Returns the bytes of room that a kernel's object needs, for heirloom_boot() and heirloom_revive().
///
/// Context: any.
#[unsafe(no_mangle)]
pub extern "C" fn heirloom_room_bytes() -> usize {
    ROOM.size() + ROOM.align()
}

/// Returns the bytes of metadata that these ranges need on so many CPUs, about 1.2 a page: the room for it, or the
/// scratch in one area. 0 if the ranges are none.
///
/// Context: any.
///
/// # Safety
/// `ranges` has `count` ranges.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn heirloom_metadata_bytes(
    ranges: *const heirloom_range,
    count: usize,
    cpus: u32,
) -> usize {
    let sum = || {
        // SAFETY: the caller's promise.
        let ranges = unsafe { values("ranges", ranges, count) }?;
        let mut bytes = Memory::<Machine>::cpu_bytes(cpus as usize);
        for range in ranges {
            let (run, _) = range.run("ranges")?;
            bytes = bytes.saturating_add(Memory::<Machine>::range_bytes(run));
        }
        let page = ::heirloom::PAGE_SIZE;
        Ok::<_, Failure>(bytes.div_ceil(page).saturating_mul(page))
    };
    sum().unwrap_or_else(|failure| {
        failed(failure);
        0
    })
}

/// Boots without a predecessor: all memory is free but for scratch and metadata.
///
/// @param room where the kernel's object lies: heirloom_room_bytes() at least, in memory that no range has, and that
/// stays.
/// @param h the kernel's object.
/// @return 0, or an error: HEIRLOOM_ERROR_BAD_SPACE, _SCRATCH_TOO_SMALL, _MEMORY_TOO_SMALL, _RANGE_OVERLAPS, _OUTSIDE_MAP,
/// _MISALIGNED, ...
///
/// Context: where one may sleep, once. Needs some 9 KiB of stack.
///
/// # Safety
/// `config` and `h` lead to one each. What the config says of the direct map is true, and nothing else uses the memory of
/// the ranges (but for what is `busy`), the metadata and the room as long as the object is not closed. The config itself is
/// not kept.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn heirloom_boot(
    room: *mut c_void,
    room_bytes: usize,
    config: *const heirloom_config,
    h: *mut *mut heirloom,
) -> c_int {
    let boot = || {
        // SAFETY: the caller's promise.
        let config = unsafe { value("config", config) }?;
        // SAFETY: the caller's promise.
        let room = unsafe { place(room, room_bytes) }?;
        let h = some("h", h)?;
        // SAFETY: the caller's promise.
        unsafe {
            if config.metadata.is_null() { boot_in(config, room) } else { boot_over(config, room) }
        }?;
        // SAFETY: written by now; the rest is the caller's promise.
        unsafe { h.write(settled(room)?) };
        Ok(())
    };
    status(boot())
}

/// Takes over from a predecessor, and goes on with its handover: checks all of it first, and writes nothing but metadata
/// before. All that was preserved is there to be restored, whatever ended the predecessor, and at whatever instant this
/// kernel ends. See heirloom_boot().
///
/// @return 0, or an error: what is wrong with the handover (HEIRLOOM_ERROR_BAD_TABLE, _BAD_TREE, _BAD_DIRECTORY,
/// _SEAL_BROKEN, _NOT_SEALED, ...), which stays as it was; or as heirloom_boot().
///
/// Context: where one may sleep, once, before anything else uses the memory. Needs some 9 KiB of stack.
///
/// # Safety
/// As for heirloom_boot(); `entry` leads to one; the predecessor does not run any more. `metadata` was no memory of the
/// predecessor's ranges but scratch.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn heirloom_revive(
    room: *mut c_void,
    room_bytes: usize,
    config: *const heirloom_config,
    entry: *const heirloom_entry,
    h: *mut *mut heirloom,
) -> c_int {
    let revive = || {
        // SAFETY: the caller's promise.
        let (config, entry) = unsafe { (value("config", config)?, value("entry", entry)?) };
        // SAFETY: the caller's promise.
        let room = unsafe { place(room, room_bytes) }?;
        let h = some("h", h)?;
        // SAFETY: the caller's promise.
        unsafe {
            if config.metadata.is_null() {
                revive_in(config, Entry::from(*entry), room)
            } else {
                revive_over(config, Entry::from(*entry), room)
            }
        }?;
        // SAFETY: written by now; the rest is the caller's promise.
        unsafe { h.write(settled(room)?) };
        Ok(())
    };
    status(revive())
}

/// Where the object goes, or why there is none: from the call that makes it, by way of no other place on a kernel's stack.
type Made = Result<Heirloom<Machine>, ::heirloom::Error>;

/// What room the object needs, with room to align it.
const ROOM: Layout = Layout::new::<Made>();

/// Returns the object.
///
/// # Safety
/// The room is written, and the caller's alone.
unsafe fn settled(room: &mut MaybeUninit<Made>) -> Result<*mut heirloom, Failure> {
    // SAFETY: the caller's promise.
    match unsafe { room.assume_init_mut() } {
        Ok(kernel) => Ok(core::ptr::from_mut(kernel).cast()),
        Err(error) => Err((*error).into()),
    }
}

/// Returns where in the caller's room the object goes.
///
/// # Safety
/// The room has so many bytes, and is the caller's alone as long as the result is used.
unsafe fn place<'a>(room: *mut c_void, bytes: usize) -> Result<&'a mut MaybeUninit<Made>, Failure> {
    let room = some("room", room)?.cast::<u8>();
    let skipped = room.align_offset(ROOM.align());
    let needed = skipped.saturating_add(ROOM.size());
    if needed > bytes {
        return Err(Failure::TooSmall { needed: heirloom_room_bytes(), given: bytes });
    }
    // SAFETY: within the room, and aligned; the rest is the caller's promise.
    Ok(unsafe { room.add(skipped).cast().as_mut() })
}

/// Boots with metadata in scratch.
///
/// # Safety
/// As for heirloom_boot(); the room is the caller's.
#[inline(never)]
unsafe fn boot_in(config: &heirloom_config, room: &mut MaybeUninit<Made>) -> Result<(), Failure> {
    // SAFETY: the caller's promise.
    unsafe {
        let map = Map::new(config)?;
        let scratch = Runs::new("scratch", config.scratch, config.scratch_count)?;
        let busy = Runs::new("busy", config.busy, config.busy_count)?;
        let placement = Placement { metadata: None, busy: busy.get() };
        let (machine, producer) = (config.machine()?, config.producer()?);
        room.write(Heirloom::boot_in(machine, map.get(), scratch.get(), producer, placement));
    }
    Ok(())
}

/// Boots with metadata in the caller's room for it.
///
/// # Safety
/// As for heirloom_boot(); the room is the caller's.
#[inline(never)]
unsafe fn boot_over(config: &heirloom_config, room: &mut MaybeUninit<Made>) -> Result<(), Failure> {
    // SAFETY: the caller's promise.
    unsafe {
        let scratch = Runs::new("scratch", config.scratch, config.scratch_count)?;
        room.write(Heirloom::boot_memory(config.memory()?, scratch.get(), config.producer()?));
    }
    Ok(())
}

/// Revives with metadata in scratch.
///
/// # Safety
/// As for heirloom_revive(); the room is the caller's.
#[inline(never)]
unsafe fn revive_in(
    config: &heirloom_config,
    entry: Entry,
    room: &mut MaybeUninit<Made>,
) -> Result<(), Failure> {
    // SAFETY: the caller's promise.
    unsafe {
        let map = Map::new(config)?;
        let busy = Runs::new("busy", config.busy, config.busy_count)?;
        let placement = Placement { metadata: None, busy: busy.get() };
        let (machine, producer, seal) =
            (config.machine()?, config.producer()?, policy(config.seal)?);
        room.write(Heirloom::revive_in(machine, map.get(), entry, producer, seal, placement));
    }
    Ok(())
}

/// Revives with metadata in the caller's room for it.
///
/// # Safety
/// As for heirloom_revive(); the room is the caller's.
#[inline(never)]
unsafe fn revive_over(
    config: &heirloom_config,
    entry: Entry,
    room: &mut MaybeUninit<Made>,
) -> Result<(), Failure> {
    // SAFETY: the caller's promise.
    unsafe {
        let (producer, seal) = (config.producer()?, policy(config.seal)?);
        room.write(Heirloom::revive_memory(config.memory()?, entry, producer, seal));
    }
    Ok(())
}

/// Ends a kernel's object; nothing if it is null. What was preserved stays so, and everything else of the memory is
/// lost. Room, metadata and the memory of the ranges are the caller's again. A kernel that ends, or jumps, need not call it.
///
/// Context: where one may sleep.
///
/// # Safety
/// `h` is from a call that boots or revives; neither it nor memory of it is used any more, on any CPU.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn heirloom_close(h: *mut heirloom) {
    if let Some(h) = NonNull::new(h) {
        // SAFETY: written by `heirloom_boot` or `heirloom_revive`, and the caller's alone.
        unsafe { h.drop_in_place() };
    }
}

/// Allocates `bytes` bytes, as heirloom_alloc() does, that this CPU has at hand: for a kernel that pins as short as a few
/// instructions of its own, rather than by two calls.
///
/// @param cpu this CPU's number, from heirloom_os_pin().
/// @return null, with nothing done, where it has none, and for what heirloom_alloc() returns null for: that one is to be
/// called then, once the CPU is unpinned.
///
/// Context: any, interrupt handlers included (not NMIs). Between heirloom_os_pin() and heirloom_os_unpin().
///
/// # Safety
/// `h` is from a call that boots or revives, and not closed. heirloom_os_pin() returned `cpu`, and heirloom_os_unpin()
/// was not called since.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn heirloom_pinned_alloc(
    h: *mut heirloom,
    cpu: c_int,
    bytes: usize,
) -> *mut c_void {
    // SAFETY: the caller's promise.
    let slabs = unsafe { &*h }.kernel.slabs();
    let cpu = CpuId(cpu.cast_unsigned());
    // SAFETY: pinned to this CPU (contract).
    let buffer = small(bytes).and_then(|layout| unsafe { slabs.alloc_on(cpu, layout, false) });
    buffer.map_or(core::ptr::null_mut(), |buffer| buffer.as_ptr().cast())
}

/// Tells which size class a buffer of `bytes` bytes is of, for heirloom_pinned_alloc_class(): where the size is a constant,
/// so may the class be.
///
/// @return the class, or -1 where it is of none: it is whole pages, or nothing.
///
/// Context: any.
#[unsafe(no_mangle)]
pub extern "C" fn heirloom_class(bytes: usize) -> c_int {
    let class = small(bytes).and_then(Slabs::<Machine>::class_of);
    class.and_then(|class| c_int::try_from(class).ok()).unwrap_or(-1)
}

/// Allocates a buffer of a size class, as heirloom_pinned_alloc() does for its largest size.
///
/// @param class from heirloom_class(), of this build, not -1.
/// @return null, with nothing done, where this CPU has none: heirloom_alloc() is to be called then, once the CPU is unpinned.
///
/// Context: as for heirloom_pinned_alloc().
///
/// # Safety
/// As for heirloom_pinned_alloc(); `class` is one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn heirloom_pinned_alloc_class(
    h: *mut heirloom,
    cpu: c_int,
    class: usize,
) -> *mut c_void {
    // SAFETY: the caller's promise.
    let slabs = unsafe { &*h }.kernel.slabs();
    // SAFETY: pinned to this CPU, and a class (contract).
    let buffer = unsafe { slabs.alloc_of_class_on(CpuId(cpu.cast_unsigned()), class) };
    buffer.map_or(core::ptr::null_mut(), |buffer| buffer.as_ptr().cast())
}

/// Frees a buffer, or an object of any cache, as heirloom_free() does, if this CPU has room for it at hand: see
/// heirloom_pinned_alloc().
///
/// @param ptr not null.
/// @return 1, or 0, with nothing done, where it has none, and for what heirloom_free() does not free: that one is to be
/// called then, once the CPU is unpinned.
///
/// Context: as for heirloom_pinned_alloc().
///
/// # Safety
/// As for heirloom_free() and heirloom_pinned_alloc(); `ptr` is not null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn heirloom_pinned_free(
    h: *mut heirloom,
    cpu: c_int,
    ptr: *mut c_void,
) -> c_int {
    // SAFETY: the caller's promise.
    let slabs = unsafe { &*h }.kernel.slabs();
    // SAFETY: not null (contract).
    let at = unsafe { NonNull::new_unchecked(ptr) };
    // SAFETY: pinned to this CPU; the rest is the caller's promise.
    c_int::from(unsafe { slabs.free_on(CpuId(cpu.cast_unsigned()), at.cast()) })
}

/// Allocates an object, as heirloom_cache_alloc() does, that this CPU has at hand: see heirloom_pinned_alloc().
///
/// @return null, with nothing done, where it has none: heirloom_cache_alloc() is to be called then, once the CPU is unpinned.
///
/// Context: as for heirloom_pinned_alloc().
///
/// # Safety
/// `c` is from a call that returned it, not null, and its kernel's object is not closed; `cpu` as for heirloom_pinned_alloc().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn heirloom_cache_pinned_alloc(
    c: *mut heirloom_cache,
    cpu: c_int,
) -> *mut c_void {
    let cpu = CpuId(cpu.cast_unsigned());
    // SAFETY: the caller's promise; pinned to this CPU (contract).
    let object = unsafe { at_hand(c).and_then(|cache| cache.alloc_on(cpu)) };
    object.map_or(core::ptr::null_mut(), |object| object.as_ptr().cast())
}

/// Frees an object, as heirloom_cache_free() does, if this CPU has room for it at hand: see heirloom_pinned_alloc().
///
/// @return 1, or 0, with nothing done, where it has none, and for what heirloom_cache_free() does not free: that one is to be
/// called then, once the CPU is unpinned.
///
/// Context: as for heirloom_pinned_alloc().
///
/// # Safety
/// As for heirloom_cache_free() and heirloom_cache_pinned_alloc().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn heirloom_cache_pinned_free(
    c: *mut heirloom_cache,
    cpu: c_int,
    ptr: *mut c_void,
) -> c_int {
    let cpu = CpuId(cpu.cast_unsigned());
    // SAFETY: the caller's promise.
    let (Some(cache), Some(at)) = (unsafe { at_hand(c) }, NonNull::new(ptr)) else { return 0 };
    // SAFETY: pinned to this CPU; the rest is the caller's promise.
    c_int::from(unsafe { cache.free_on(cpu, at.cast()) })
}

/// Adds a range of memory, all of it free. At any time.
///
/// @param space room for its metadata: heirloom_metadata_bytes() of it alone, for 0 CPUs, at least; in memory that no
/// range has, and that stays.
/// @return 0, or an error: HEIRLOOM_ERROR_RANGE_OVERLAPS, _BAD_SPACE, _MISALIGNED.
///
/// Context: where one may sleep.
///
/// # Safety
/// `h` is from a call that boots or revives, and not closed; `range` leads to one, which its direct map covers, and which
/// nothing else uses, as nothing uses `space`, as long as the object is not closed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn heirloom_add_range(
    h: *mut heirloom,
    range: *const heirloom_range,
    space: *mut c_void,
    space_bytes: usize,
) -> c_int {
    let add = || {
        // SAFETY: the caller's promise.
        let (kernel, range) = unsafe { (kernel(h)?, value("range", range)?) };
        let (run, node) = range.run("range")?;
        let space = some("space", space)?.cast::<u8>();
        let space = NonNull::slice_from_raw_parts(space, space_bytes);
        // SAFETY: the caller's promise.
        Ok(unsafe { kernel.memory().add_range(run, node, space) }?)
    };
    status(add())
}

/// Brings absent pages online: they are free memory. At any time.
///
/// @return 0, or an error: HEIRLOOM_ERROR_NOT_ABSENT: a page is online; _NOT_MEMORY: one is in no range; _MISALIGNED. Nothing
/// is changed then.
///
/// Context: any.
///
/// # Safety
/// `h` is from a call that boots or revives, and not closed; `range` leads to one, which its direct map covers, and which
/// nothing else uses until it is offline again, or the object is closed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn heirloom_online(h: *mut heirloom, range: *const heirloom_range) -> c_int {
    let online = || {
        // SAFETY: the caller's promise.
        let (kernel, range) = unsafe { (kernel(h)?, value("range", range)?) };
        // SAFETY: the caller's promise.
        Ok(unsafe { kernel.memory().online(range.run("range")?.0) }?)
    };
    status(online())
}

/// Takes free pages offline: they are the caller's. At any time.
///
/// What another CPU's cache has is not free: heirloom_shrink() on that CPU gives it back.
///
/// @return 0, or an error: HEIRLOOM_ERROR_NOT_FREE: a page is in use, or absent; _NOT_MEMORY; _MISALIGNED. Nothing is changed
/// then.
///
/// Context: any.
///
/// # Safety
/// `h` is from a call that boots or revives, and not closed; `range` leads to one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn heirloom_offline(h: *mut heirloom, range: *const heirloom_range) -> c_int {
    let offline = || {
        // SAFETY: the caller's promise.
        let (kernel, range) = unsafe { (kernel(h)?, value("range", range)?) };
        Ok(kernel.memory().offline(range.run("range")?.0)?)
    };
    status(offline())
}
