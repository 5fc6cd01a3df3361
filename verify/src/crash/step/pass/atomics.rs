//! The calls that the sanitizer's pass makes of atomic accesses, for a program of one thread at a
//! time: each is a plain access, and each read-modify-write is told to the module around this one.

macro_rules! atomics {
    ($t:ty, $load:ident, $store:ident, $swap:ident, $cas:ident, $add:ident, $sub:ident, $and:ident,
     $or:ident, $xor:ident, $nand:ident) => {
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
            super::modifies();
            // SAFETY: as above; no other thread writes between the two.
            unsafe {
                let old = at.read_volatile();
                if old == expected {
                    at.write_volatile(new);
                }
                old
            }
        }
        atomics!(@ $t, $swap, |_old, value| value);
        atomics!(@ $t, $add, |old, value| old.wrapping_add(value));
        atomics!(@ $t, $sub, |old, value| old.wrapping_sub(value));
        atomics!(@ $t, $and, |old, value| old & value);
        atomics!(@ $t, $or, |old, value| old | value);
        atomics!(@ $t, $xor, |old, value| old ^ value);
        atomics!(@ $t, $nand, |old, value| !(old & value));
    };
    (@ $t:ty, $name:ident, |$old:ident, $value:ident| $new:expr) => {
        // SAFETY: as above.
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name(at: *mut $t, $value: $t, _: i32) -> $t {
            super::modifies();
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

atomics!(
    u8,
    __tsan_atomic8_load,
    __tsan_atomic8_store,
    __tsan_atomic8_exchange,
    __tsan_atomic8_compare_exchange_val,
    __tsan_atomic8_fetch_add,
    __tsan_atomic8_fetch_sub,
    __tsan_atomic8_fetch_and,
    __tsan_atomic8_fetch_or,
    __tsan_atomic8_fetch_xor,
    __tsan_atomic8_fetch_nand
);
atomics!(
    u16,
    __tsan_atomic16_load,
    __tsan_atomic16_store,
    __tsan_atomic16_exchange,
    __tsan_atomic16_compare_exchange_val,
    __tsan_atomic16_fetch_add,
    __tsan_atomic16_fetch_sub,
    __tsan_atomic16_fetch_and,
    __tsan_atomic16_fetch_or,
    __tsan_atomic16_fetch_xor,
    __tsan_atomic16_fetch_nand
);
atomics!(
    u32,
    __tsan_atomic32_load,
    __tsan_atomic32_store,
    __tsan_atomic32_exchange,
    __tsan_atomic32_compare_exchange_val,
    __tsan_atomic32_fetch_add,
    __tsan_atomic32_fetch_sub,
    __tsan_atomic32_fetch_and,
    __tsan_atomic32_fetch_or,
    __tsan_atomic32_fetch_xor,
    __tsan_atomic32_fetch_nand
);
atomics!(
    u64,
    __tsan_atomic64_load,
    __tsan_atomic64_store,
    __tsan_atomic64_exchange,
    __tsan_atomic64_compare_exchange_val,
    __tsan_atomic64_fetch_add,
    __tsan_atomic64_fetch_sub,
    __tsan_atomic64_fetch_and,
    __tsan_atomic64_fetch_or,
    __tsan_atomic64_fetch_xor,
    __tsan_atomic64_fetch_nand
);

// SAFETY: the names are the pass's; one thread needs no fences, and nothing is to be set up.
#[unsafe(no_mangle)]
extern "C" fn __tsan_init() {}
// SAFETY: as above.
#[unsafe(no_mangle)]
extern "C" fn __tsan_atomic_thread_fence(_: i32) {}
// SAFETY: as above.
#[unsafe(no_mangle)]
extern "C" fn __tsan_atomic_signal_fence(_: i32) {}
