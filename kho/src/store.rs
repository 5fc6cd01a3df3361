//! Every store into memory that a successor reads passes here.
//!
//! A jump can come between any two of them. The tests cut the stream of stores at each place in
//! turn and then read what is there, as a successor would.

use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// Stores half a word of a table, in the byte order that the caller gave it.
#[inline]
pub fn word32(word: &AtomicU32, value: u32, order: Ordering) {
    #[cfg(any(test, heirloom_model))]
    watch::look();
    #[cfg(any(test, heirloom_model))]
    if !cut::passes() {
        return;
    }
    word.store(value, order);
}

/// Stores a word of a table, in the byte order that the caller gave it.
#[inline]
pub fn word64(word: &AtomicU64, value: u64, order: Ordering) {
    #[cfg(any(test, heirloom_model))]
    watch::look();
    #[cfg(any(test, heirloom_model))]
    if !cut::passes() {
        return;
    }
    word.store(value, order);
}

/// Looks at memory before each store.
#[cfg(any(test, heirloom_model))]
pub mod watch {
    use std::boxed::Box;
    use std::cell::RefCell;

    type Look<'a> = Box<dyn FnMut() + 'a>;

    std::thread_local! {
        static LOOK: RefCell<Option<Look<'static>>> = const { RefCell::new(None) };
    }

    /// Calls what looks. What that stores is not looked at.
    pub fn look() {
        LOOK.with(|slot| {
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

    /// Runs `f`, and `look` before each store.
    pub fn during<R>(look: impl FnMut(), f: impl FnOnce() -> R) -> R {
        let look: Look<'_> = Box::new(look);
        #[allow(unsafe_code, reason = "a look that lives as long as the call it is for")]
        // SAFETY: taken out again before this function returns, also if `f` panics.
        let look = unsafe { core::mem::transmute::<Look<'_>, Look<'static>>(look) };
        let _out = Out;
        LOOK.with(|slot| *slot.borrow_mut() = Some(look));
        f()
    }
}

/// Lets a number of stores pass and loses those that follow.
#[cfg(any(test, heirloom_model))]
pub mod cut {
    use std::cell::Cell;

    #[derive(Clone, Copy)]
    enum State {
        Off,
        Left(usize),
        Lost,
    }

    std::thread_local! {
        static STATE: Cell<State> = const { Cell::new(State::Off) };
    }

    pub(super) fn passes() -> bool {
        STATE.with(|state| match state.get() {
            State::Off => true,
            State::Left(0) | State::Lost => {
                state.set(State::Lost);
                false
            }
            State::Left(n) => {
                state.set(State::Left(n - 1));
                true
            }
        })
    }

    /// Runs `f`, of whose stores on this thread only the first `stores` happen. Says whether that
    /// was all of them.
    pub fn after<R>(stores: usize, f: impl FnOnce() -> R) -> (R, bool) {
        STATE.with(|state| state.set(State::Left(stores)));
        let result = f();
        let complete = !matches!(STATE.with(|state| state.replace(State::Off)), State::Lost);
        (result, complete)
    }
}
