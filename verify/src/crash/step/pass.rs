//! What the sanitizer's pass calls, for a program of one thread at a time: each access is done as
//! a plain one.
//!
//! This module is built with the pass like all others, so its own stores call it as well. That is
//! how an atomic store is counted: it is done as a plain one, which calls `__tsan_write8`, which
//! counts. What `__tsan_write8` itself stores, the count, is written by instructions that the pass
//! does not see.

use std::cell::UnsafeCell;

mod atomics;
mod seen;

pub(crate) use seen::Frame;
pub(super) use seen::watch;

/// What is counted. In one place, so that the common look is short.
struct Counter {
    start: UnsafeCell<usize>,
    bytes: UnsafeCell<usize>,
    count: UnsafeCell<u64>,
    stop: UnsafeCell<u64>,
    paused: UnsafeCell<i64>,
}

// SAFETY: used by programs of one thread.
unsafe impl Sync for Counter {}

static COUNTER: Counter = Counter {
    start: UnsafeCell::new(0),
    bytes: UnsafeCell::new(0),
    count: UnsafeCell::new(0),
    stop: UnsafeCell::new(0),
    paused: UnsafeCell::new(0),
};

/// Adds to a word, unseen by the pass.
#[inline(always)]
fn add(word: *mut u64, value: u64) {
    // SAFETY: callers name a word of `COUNTER`.
    unsafe { std::arch::asm!("add qword ptr [{}], {}", in(reg) word, in(reg) value) };
}

/// Stores a word, unseen by the pass.
#[inline(always)]
fn set(word: *mut u64, value: u64) {
    // SAFETY: callers name a word of `COUNTER`, or one that theirs let them write.
    unsafe { std::arch::asm!("mov qword ptr [{}], {}", in(reg) word, in(reg) value) };
}

pub(super) fn begin(start: usize, bytes: usize, stop: u64) {
    set(COUNTER.count.get(), 0);
    set(COUNTER.stop.get(), stop);
    set(COUNTER.start.get().cast(), start as u64);
    set(COUNTER.bytes.get().cast(), bytes as u64);
}

pub(super) fn counted() -> u64 {
    // SAFETY: one thread.
    unsafe { COUNTER.count.get().read_volatile() }
}

pub(super) fn pause(by: i64) {
    add(COUNTER.paused.get().cast(), by as u64);
}

#[cold]
#[inline(never)]
fn end() -> ! {
    // SAFETY: this process, which does not survive it.
    unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
    loop {
        std::hint::spin_loop();
    }
}

/// A store is about to be made at `at`.
#[inline(always)]
fn store(at: usize) {
    // SAFETY: one thread.
    unsafe {
        if at.wrapping_sub(*COUNTER.start.get()) >= *COUNTER.bytes.get()
            || *COUNTER.paused.get() != 0
        {
            return;
        }
        if !seen::by_a_successor(at - *COUNTER.start.get()) {
            return;
        }
        if *COUNTER.count.get() == *COUNTER.stop.get() {
            end();
        }
    }
    add(COUNTER.count.get(), 1);
}

macro_rules! accesses {
    ($($write:literal, $read:literal, $both:literal;)*) => { $(const _: () = {
        // SAFETY: the names are the pass's for exactly this.
        #[unsafe(export_name = concat!("__tsan_", $write))]
        extern "C" fn write(at: *const u8) {
            store(at.addr());
        }
        // SAFETY: as above.
        #[unsafe(export_name = concat!("__tsan_", $read))]
        extern "C" fn read(_: *const u8) {}
        // SAFETY: as above: a read and a write of one word, nothing between.
        #[unsafe(export_name = concat!("__tsan_", $both))]
        extern "C" fn both(at: *const u8) {
            store(at.addr());
        }
    };)* };
}

accesses! {
    "write1", "read1", "read_write1";
    "write2", "read2", "read_write2";
    "write4", "read4", "read_write4";
    "write8", "read8", "read_write8";
    "write16", "read16", "read_write16";
    "unaligned_write2", "unaligned_read2", "unaligned_read_write2";
    "unaligned_write4", "unaligned_read4", "unaligned_read_write4";
    "unaligned_write8", "unaligned_read8", "unaligned_read_write8";
    "unaligned_write16", "unaligned_read16", "unaligned_read_write16";
}

// SAFETY: as above.
#[unsafe(no_mangle)]
extern "C" fn __tsan_vptr_update(at: *const u8) {
    store(at.addr());
}
// SAFETY: as above.
#[unsafe(no_mangle)]
extern "C" fn __tsan_vptr_read(_: *const u8) {}

/// A line of the cache, in bytes.
const LINE: usize = 64;

/// Whether a piece of a fill or a copy of whole words, `done` of which are done and `left` not, is
/// one with the piece before it: within a line between the first and the last two, of which the
/// machine's own instructions write 16 bytes and more at once.
#[inline(always)]
fn same_line(at: usize, done: usize, left: usize) -> bool {
    done >= 2 * LINE && left > 2 * LINE && !at.is_multiple_of(LINE)
}

/// Stores a word, which is counted unless it is one with the word before it.
///
/// # Safety
/// As for [`std::ptr::write`].
#[inline(always)]
unsafe fn put(to: *mut u64, word: u64, uncounted: bool) {
    if uncounted {
        set(to, word);
    } else {
        // SAFETY: the caller's promise.
        unsafe { to.write_volatile(word) };
    }
}

// SAFETY: as above; the callers' promises are those of `memset`.
#[unsafe(no_mangle)]
unsafe extern "C" fn __tsan_memset(to: *mut u8, value: i32, bytes: usize) -> *mut u8 {
    let word = u64::from_ne_bytes([value as u8; 8]);
    let mut done = 0;
    while done < bytes {
        let left = bytes - done;
        // SAFETY: within the `bytes` bytes at `to`, which are the caller's to write.
        unsafe {
            let start = to.add(done);
            if left >= 8 && start.addr().is_multiple_of(8) {
                put(start.cast(), word, same_line(start.addr(), done, left));
                done += 8;
            } else {
                start.write_volatile(value as u8);
                done += 1;
            }
        }
    }
    to
}

/// Copies from the first to the last word, or the other way round.
///
/// # Safety
/// As for `memmove`.
unsafe fn copy(to: *mut u8, from: *const u8, bytes: usize, backward: bool) {
    let mut done = 0;
    while done < bytes {
        let left = bytes - done;
        // SAFETY: within the `bytes` bytes at `to` and `from`, which the caller may use.
        unsafe {
            let edge = to.add(if backward { left } else { done });
            let size = if left >= 8 && edge.addr().is_multiple_of(8) { 8 } else { 1 };
            let at = if backward { left - size } else { done };
            if size == 8 {
                let word = from.add(at).cast::<u64>().read_unaligned();
                put(to.add(at).cast(), word, same_line(edge.addr(), done, left));
            } else {
                to.add(at).write_volatile(from.add(at).read_volatile());
            }
            done += size;
        }
    }
}

// SAFETY: as above; the callers' promises are those of `memcpy`.
#[unsafe(no_mangle)]
unsafe extern "C" fn __tsan_memcpy(to: *mut u8, from: *const u8, bytes: usize) -> *mut u8 {
    // SAFETY: the caller's promise.
    unsafe { copy(to, from, bytes, false) };
    to
}

// SAFETY: as above; the callers' promises are those of `memmove`.
#[unsafe(no_mangle)]
unsafe extern "C" fn __tsan_memmove(to: *mut u8, from: *const u8, bytes: usize) -> *mut u8 {
    // SAFETY: the caller's promise.
    unsafe { copy(to, from, bytes, to.addr() > from.addr()) };
    to
}

/// Before each read-modify-write: nothing, as what it stores is counted when it is stored.
#[inline(always)]
fn modifies() {}
