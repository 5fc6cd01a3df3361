//! Neighbouring bytes, eight at a time.
//!
//! Picture the types of frames side by side: 64 of them to be compared with one value, and 64 to
//! be stored. Each is an atomic of its own, and a compiler joins no two atomic accesses. A processor
//! does: an instruction that loads or stores eight bytes is, for each of them, a relaxed load or
//! store. So where the instruction is known it is written out, and elsewhere, and where a model
//! checker, an interpreter or a counter is to see each access, the bytes go one by one.

use heirloom_kho::sync::{AtomicU8, Relaxed};

/// Returns whether all `bytes` say `value`.
#[inline]
pub(crate) fn all_are(bytes: &[AtomicU8], value: u8) -> bool {
    let (eights, rest) = bytes.as_chunks::<8>();
    let wanted = u64::from_ne_bytes([value; 8]);
    let differs = eights.iter().fold(0, |differs, eight| differs | load(eight) ^ wanted);
    rest.iter().fold(differs, |differs, byte| differs | u64::from(byte.load(Relaxed) ^ value)) == 0
}

/// Stores `value` into all `bytes`.
#[inline]
pub(crate) fn store_all(bytes: &[AtomicU8], value: u8) {
    let (eights, rest) = bytes.as_chunks::<8>();
    let values = u64::from_ne_bytes([value; 8]);
    for eight in eights {
        store(eight, values);
    }
    for byte in rest {
        byte.store(value, Relaxed);
    }
}

use this::{load, store};

/// One instruction for eight bytes.
#[cfg(all(
    any(target_arch = "x86_64", target_arch = "aarch64"),
    target_pointer_width = "64",
    not(any(loom, miri, heirloom_model, heirloom_count, heirloom_step))
))]
mod this {
    use core::arch::asm;

    use super::AtomicU8;

    /// Returns what eight bytes say, each loaded relaxed.
    #[inline]
    pub(super) fn load(bytes: &[AtomicU8; 8]) -> u64 {
        let value;
        // SAFETY: loads the eight bytes of the reference and touches nothing else. x86-64 (AMD64
        // APM vol. 2, 7.3.2) and AArch64 (Arm ARM, B2.2.1) load each byte of it atomically, so it
        // is eight relaxed loads, in an order that relaxed loads may have.
        unsafe {
            #[cfg(target_arch = "x86_64")]
            asm!("mov {}, qword ptr [{}]", out(reg) value, in(reg) bytes,
                options(nostack, preserves_flags, readonly));
            #[cfg(target_arch = "aarch64")]
            asm!("ldr {}, [{}]", out(reg) value, in(reg) bytes,
                options(nostack, preserves_flags, readonly));
        }
        value
    }

    /// Stores eight bytes, each relaxed.
    #[inline]
    pub(super) fn store(bytes: &[AtomicU8; 8], values: u64) {
        // SAFETY: stores to the eight bytes of the reference, which are atomics and may be stored
        // to through it, and touches nothing else. For each byte the store is atomic, as in `load`.
        unsafe {
            #[cfg(target_arch = "x86_64")]
            asm!("mov qword ptr [{}], {}", in(reg) bytes, in(reg) values,
                options(nostack, preserves_flags));
            #[cfg(target_arch = "aarch64")]
            asm!("str {1}, [{0}]", in(reg) bytes, in(reg) values,
                options(nostack, preserves_flags));
        }
    }
}

/// One byte after the other.
#[cfg(not(all(
    any(target_arch = "x86_64", target_arch = "aarch64"),
    target_pointer_width = "64",
    not(any(loom, miri, heirloom_model, heirloom_count, heirloom_step))
)))]
mod this {
    use super::{AtomicU8, Relaxed};

    pub(super) fn load(bytes: &[AtomicU8; 8]) -> u64 {
        u64::from_ne_bytes(core::array::from_fn(|i| bytes[i].load(Relaxed)))
    }

    pub(super) fn store(bytes: &[AtomicU8; 8], values: u64) {
        for (byte, value) in bytes.iter().zip(values.to_ne_bytes()) {
            byte.store(value, Relaxed);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::vec::Vec;

    use super::*;

    fn bytes(count: usize) -> Vec<AtomicU8> {
        (0..count).map(|_| AtomicU8::new(7)).collect()
    }

    #[test]
    fn exactly_the_bytes_are_stored() {
        for from in 0..9 {
            for count in 0..=65 {
                let all = bytes(from + count + 9);
                store_all(&all[from..from + count], 250);
                for (at, byte) in all.iter().enumerate() {
                    let now = if (from..from + count).contains(&at) { 250 } else { 7 };
                    assert_eq!(byte.load(Relaxed), now, "{at} of {count} from {from}");
                }
            }
        }
    }

    #[test]
    fn one_byte_that_differs_is_seen_wherever_it_is() {
        for from in 0..9 {
            for count in 0..=65 {
                let all = bytes(from + count + 9);
                let these = &all[from..from + count];
                assert!(all_are(these, 7));
                assert_eq!(all_are(these, 8), count == 0);
                for (at, byte) in all.iter().enumerate() {
                    byte.store(0x87, Relaxed);
                    assert_eq!(all_are(these, 7), !(from..from + count).contains(&at));
                    byte.store(7, Relaxed);
                }
            }
        }
    }
}
