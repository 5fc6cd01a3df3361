//! The calls that the sanitizer's pass makes of atomic accesses, for a program of one thread at a
//! time: each is a plain access, and each read-modify-write is told to the module around this one.

macro_rules! atomics {
    ($($t:ty, $bits:literal;)*) => { $(const _: () = {
        // SAFETY: the name is the pass's for exactly this.
        #[unsafe(export_name = concat!("__tsan_atomic", $bits, "_load"))]
        unsafe extern "C" fn load(at: *const $t, _: i32) -> $t {
            // SAFETY: the pass gives the address of an atomic.
            unsafe { at.read_volatile() }
        }
        // SAFETY: as above.
        #[unsafe(export_name = concat!("__tsan_atomic", $bits, "_store"))]
        unsafe extern "C" fn store(at: *mut $t, value: $t, _: i32) {
            // SAFETY: as above.
            unsafe { at.write_volatile(value) };
        }
        // SAFETY: as above.
        #[unsafe(export_name = concat!("__tsan_atomic", $bits, "_compare_exchange_val"))]
        unsafe extern "C" fn compare_exchange(at: *mut $t, from: $t, to: $t, _: i32, _: i32) -> $t {
            super::modifies();
            // SAFETY: as above; no other thread writes between the two.
            unsafe {
                let old = at.read_volatile();
                if old == from {
                    at.write_volatile(to);
                }
                old
            }
        }
        modifies!($t, $bits, "_exchange", |_old, value| value);
        modifies!($t, $bits, "_fetch_add", |old, value| old.wrapping_add(value));
        modifies!($t, $bits, "_fetch_sub", |old, value| old.wrapping_sub(value));
        modifies!($t, $bits, "_fetch_and", |old, value| old & value);
        modifies!($t, $bits, "_fetch_or", |old, value| old | value);
        modifies!($t, $bits, "_fetch_xor", |old, value| old ^ value);
        modifies!($t, $bits, "_fetch_nand", |old, value| !(old & value));
    };)* };
}

macro_rules! modifies {
    ($t:ty, $bits:literal, $name:literal, |$old:ident, $value:ident| $new:expr) => {
        const _: () = {
            // SAFETY: the name is the pass's for exactly this.
            #[unsafe(export_name = concat!("__tsan_atomic", $bits, $name))]
            unsafe extern "C" fn modify(at: *mut $t, $value: $t, _: i32) -> $t {
                super::modifies();
                // SAFETY: the pass gives the address of an atomic; no other thread writes between.
                unsafe {
                    let $old = at.read_volatile();
                    at.write_volatile($new);
                    let was = $old;
                    was
                }
            }
        };
    };
}

atomics! {
    u8, "8";
    u16, "16";
    u32, "32";
    u64, "64";
}

// SAFETY: the names are the pass's; one thread needs no fences, and nothing is to be set up.
#[unsafe(no_mangle)]
extern "C" fn __tsan_init() {}
// SAFETY: as above.
#[unsafe(no_mangle)]
extern "C" fn __tsan_atomic_thread_fence(_: i32) {}
// SAFETY: as above.
#[unsafe(no_mangle)]
extern "C" fn __tsan_atomic_signal_fence(_: i32) {}
