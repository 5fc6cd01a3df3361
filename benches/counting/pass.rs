//! What the sanitizer's pass calls, for a program of one thread: each access is done as a plain
//! one, and a read-modify-write is counted.

use std::cell::Cell;

std::thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

/// How many read-modify-writes this thread has done.
pub(crate) fn count() -> u64 {
    COUNT.get()
}

macro_rules! accesses {
    ($t:ty, $load:ident, $store:ident, $swap:ident, $cas:ident, $add:ident, $sub:ident, $and:ident,
     $or:ident, $xor:ident) => {
        // SAFETY: the name is the pass's for exactly this.
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $load(at: *const $t, _: i32) -> $t {
            // SAFETY: the pass gives the address of an atomic.
            unsafe { at.read_volatile() }
        }
        // SAFETY: as above.
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $store(at: *mut $t, value: $t, _: i32) {
            // SAFETY: as above.
            unsafe { at.write_volatile(value) };
        }
        // SAFETY: as above.
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $cas(at: *mut $t, expected: $t, new: $t, _: i32, _: i32) -> $t {
            COUNT.set(COUNT.get() + 1);
            // SAFETY: as above; no other thread writes between the two.
            unsafe {
                let old = at.read_volatile();
                if old == expected {
                    at.write_volatile(new);
                }
                old
            }
        }
        accesses!(@ $t, $swap, |_old, value| value);
        accesses!(@ $t, $add, |old, value| old.wrapping_add(value));
        accesses!(@ $t, $sub, |old, value| old.wrapping_sub(value));
        accesses!(@ $t, $and, |old, value| old & value);
        accesses!(@ $t, $or, |old, value| old | value);
        accesses!(@ $t, $xor, |old, value| old ^ value);
    };
    (@ $t:ty, $name:ident, |$old:ident, $value:ident| $new:expr) => {
        // SAFETY: as above.
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name(at: *mut $t, $value: $t, _: i32) -> $t {
            COUNT.set(COUNT.get() + 1);
            // SAFETY: as above; no other thread writes between the two.
            unsafe {
                let $old = at.read_volatile();
                at.write_volatile($new);
                let was = $old;
                was
            }
        }
    };
}

accesses!(
    u8,
    __tsan_atomic8_load,
    __tsan_atomic8_store,
    __tsan_atomic8_exchange,
    __tsan_atomic8_compare_exchange_val,
    __tsan_atomic8_fetch_add,
    __tsan_atomic8_fetch_sub,
    __tsan_atomic8_fetch_and,
    __tsan_atomic8_fetch_or,
    __tsan_atomic8_fetch_xor
);
accesses!(
    u16,
    __tsan_atomic16_load,
    __tsan_atomic16_store,
    __tsan_atomic16_exchange,
    __tsan_atomic16_compare_exchange_val,
    __tsan_atomic16_fetch_add,
    __tsan_atomic16_fetch_sub,
    __tsan_atomic16_fetch_and,
    __tsan_atomic16_fetch_or,
    __tsan_atomic16_fetch_xor
);
accesses!(
    u32,
    __tsan_atomic32_load,
    __tsan_atomic32_store,
    __tsan_atomic32_exchange,
    __tsan_atomic32_compare_exchange_val,
    __tsan_atomic32_fetch_add,
    __tsan_atomic32_fetch_sub,
    __tsan_atomic32_fetch_and,
    __tsan_atomic32_fetch_or,
    __tsan_atomic32_fetch_xor
);
accesses!(
    u64,
    __tsan_atomic64_load,
    __tsan_atomic64_store,
    __tsan_atomic64_exchange,
    __tsan_atomic64_compare_exchange_val,
    __tsan_atomic64_fetch_add,
    __tsan_atomic64_fetch_sub,
    __tsan_atomic64_fetch_and,
    __tsan_atomic64_fetch_or,
    __tsan_atomic64_fetch_xor
);

// SAFETY: the names are the pass's, and one thread needs no fences.
#[unsafe(no_mangle)]
extern "C" fn __tsan_init() {}
// SAFETY: as above.
#[unsafe(no_mangle)]
extern "C" fn __tsan_atomic_thread_fence(_: i32) {}
// SAFETY: as above.
#[unsafe(no_mangle)]
extern "C" fn __tsan_atomic_signal_fence(_: i32) {}
