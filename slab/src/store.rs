//! Every store into memory that a successor reads passes here.
//!
//! A jump can come between any two of them. The tests look, before each one, at what a successor
//! would find.

use heirloom_kho::sync::{AtomicU8, AtomicU64, Ordering};

/// Stores a word of a table, little-endian.
pub(crate) fn word(word: &AtomicU64, value: u64, order: Ordering) {
    #[cfg(test)]
    watch::look();
    word.store(value.to_le(), order);
}

/// Loads a word of a table.
pub(crate) fn load(word: &AtomicU64, order: Ordering) -> u64 {
    u64::from_le(word.load(order))
}

/// Changes a state byte from one value to another. Returns whether it had the first.
///
/// Release and Acquire pair with each other in the CPU that changes the byte next: what was done to
/// the object and to its slab before is done.
pub(crate) fn exchange(byte: &AtomicU8, from: u8, to: u8) -> bool {
    #[cfg(test)]
    watch::look();
    byte.compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed).is_ok()
}

/// Stores a state byte of a slab that only the caller has, and that other CPUs are to find later.
pub(crate) fn state(byte: &AtomicU8, value: u8) {
    #[cfg(test)]
    watch::look();
    // Release pairs with the Acquire of a successor, or of what claims the object.
    byte.store(value, Ordering::Release);
}

/// Stores eight state bytes of a slab as [`state`] does, as they lie in memory: all of them at once.
pub(crate) fn states(word: &AtomicU64, value: u64) {
    #[cfg(test)]
    watch::look();
    // Release as in `state`.
    word.store(value, Ordering::Release);
}

#[cfg(test)]
pub(crate) mod watch {
    use std::boxed::Box;
    use std::cell::RefCell;

    type Look<'a> = Box<dyn FnMut() + 'a>;

    std::thread_local! {
        static LOOK: RefCell<Option<Look<'static>>> = const { RefCell::new(None) };
    }

    pub(super) fn look() {
        LOOK.with(|slot| {
            // Looking may itself store; that is not looked at.
            let taken = slot.try_borrow_mut().ok().and_then(|mut slot| slot.take());
            if let Some(mut look) = taken {
                look();
                *slot.borrow_mut() = Some(look);
            }
        });
    }

    /// Takes the look out again, also if what was watched panics.
    struct Out;

    impl Drop for Out {
        fn drop(&mut self) {
            LOOK.with(|slot| *slot.borrow_mut() = None);
        }
    }

    /// Runs `f`, and `look` before each store that a successor could see.
    pub(crate) fn during<R>(look: impl FnMut(), f: impl FnOnce() -> R) -> R {
        let look: Look<'_> = Box::new(look);
        // SAFETY: taken out again before this function returns, also if `f` panics.
        let look = unsafe { core::mem::transmute::<Look<'_>, Look<'static>>(look) };
        let _out = Out;
        LOOK.with(|slot| *slot.borrow_mut() = Some(look));
        f()
    }
}
