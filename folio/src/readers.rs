//! The words of readers: see [`Memory::reading`](crate::Memory::reading).

use heirloom_kho::sync::{AcqRel, Acquire, AtomicU64, Relaxed, Release};

/// The word of readers: a CPU's own, or the one that is shared, which counts.
pub(crate) struct Word(AtomicU64);

const OUT: u64 = 0;
const IN: u64 = 1;

impl Word {
    pub(crate) fn new() -> Self {
        Self(AtomicU64::new(OUT))
    }

    /// Enters, for its CPU alone, which is to leave soon.
    #[inline]
    fn enter(&self) {
        // Acquire pairs with the Release in `is_out`: a reader that enters after it finds no block
        // that was unpublished before.
        self.0.swap(IN, Acquire);
    }

    #[inline]
    fn leave(&self) {
        // Release pairs with the Acquire in `is_out`: what was read was read before the block is free.
        self.0.store(OUT, Release);
    }

    fn count_in(&self) {
        // As in `enter`.
        self.0.fetch_add(1, Acquire);
    }

    fn count_out(&self) {
        // As in `leave`.
        self.0.fetch_sub(1, Release);
    }

    /// Returns whether no reader is in. An exchange and no load: see `Memory::reading`.
    pub(crate) fn is_out(&self) -> bool {
        // AcqRel pairs with `enter` and with `leave`.
        self.0.compare_exchange(OUT, OUT, AcqRel, Relaxed).is_ok()
    }
}

/// A reader that is in; it leaves when this is dropped, by a panic too.
pub(crate) struct Inside<'w> {
    word: &'w Word,
    counted: bool,
}

impl<'w> Inside<'w> {
    /// Enters a reader in its CPU's own word.
    #[inline]
    pub(crate) fn own(word: &'w Word) -> Self {
        word.enter();
        Self { word, counted: false }
    }

    /// Enters a reader in the word that all others share.
    pub(crate) fn shared(word: &'w Word) -> Self {
        word.count_in();
        Self { word, counted: true }
    }
}

impl Drop for Inside<'_> {
    #[inline]
    fn drop(&mut self) {
        if self.counted {
            self.word.count_out();
        } else {
            self.word.leave();
        }
    }
}

/// Every interleaving of readers with a block that is given back.
///
/// Run with `RUSTFLAGS="--cfg loom" cargo test -p heirloom-folio --release loom`.
#[cfg(all(test, loom))]
mod loom_tests {
    use heirloom_kho::sync::{Acquire, AtomicU8, Release};
    use loom::cell::UnsafeCell;
    use loom::sync::Arc;
    use loom::thread;

    use super::Word;

    const SLAB: u8 = 2;
    const TABLE: u8 = 1;

    struct World {
        own: Word,
        shared: Word,
        byte: AtomicU8,
        /// What the block begins with, touched without atomics by its next owner.
        head: UnsafeCell<u32>,
    }

    impl World {
        fn look(&self) {
            if self.byte.load(Acquire) == SLAB {
                self.head.with(|head| {
                    // SAFETY: the model checker tells if it is written at the same time.
                    assert_eq!(unsafe { *head }, 7, "the slab is gone");
                });
            }
        }

        fn give_back(&self) -> bool {
            self.byte.store(TABLE, Release);
            if !(self.shared.is_out() && self.own.is_out()) {
                self.byte.store(SLAB, Release);
                return false;
            }
            self.head.with_mut(|head| {
                // SAFETY: as in `look`.
                unsafe { *head = 0 };
            });
            true
        }
    }

    impl World {
        fn new() -> Arc<Self> {
            Arc::new(Self {
                own: Word::new(),
                shared: Word::new(),
                byte: AtomicU8::new(SLAB),
                head: UnsafeCell::new(7),
            })
        }
    }

    /// Runs a reader beside a caller that gives the block back.
    fn beside(reader: fn(&World)) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(4);
        builder.check(move || {
            let world = World::new();
            let thread = thread::spawn({
                let world = Arc::clone(&world);
                move || reader(&world)
            });
            let gone = world.give_back();
            thread.join().unwrap();
            assert_ne!(world.byte.load(Acquire) == SLAB, gone);
            assert!(gone || world.give_back(), "no reader is in");
        });
    }

    /// Fails if `is_out` loads in place of its exchange; if `enter` is Relaxed or a store; if `leave`
    /// is Relaxed.
    #[test]
    fn a_block_is_not_given_back_under_a_reader() {
        beside(|world| {
            for _ in 0..2 {
                world.own.enter();
                world.look();
                world.own.leave();
            }
        });
    }

    /// Fails if `count_in` or `count_out` is Relaxed.
    #[test]
    fn nor_under_a_reader_without_a_cpu() {
        beside(|world| {
            for _ in 0..2 {
                world.shared.count_in();
                world.look();
                world.shared.count_out();
            }
        });
    }
}
