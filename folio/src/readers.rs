//! Looking into blocks that may be given back meanwhile: no block goes while a reader is in it.
//!
//! A caller that starts from an address, and owns nothing, finds a slab by its frame's byte and reads
//! what the slab begins with. Nothing but this keeps the slab there for so long:
//!
//! ```text
//!                  a word for each CPU                one word for all others
//!   enter          Out -> In (one exchange, own line) count + 1
//!   find the block: its byte says that it is a slab
//!   leave          In -> Out (a store)                count - 1
//!
//!   give back      the byte says it is a table: no reader finds the block any more
//!                  each word was Out at least once since (an exchange of Out by Out)
//!                  the block is free
//! ```
//!
//! Of two exchanges of one word one is the first. If it is the reader's, the other finds the reader
//! in. If it is the other's, the reader's exchange reads what the other wrote (or what was written
//! after it), so it sees the byte as it is by now, and finds no slab.
//!
//! No call waits: a block that could not go since a reader was in is shown again and stays, to be
//! tried another time. An interrupt may have come in the middle of a reader of its own CPU.

use crate::addr::Block;
use crate::error::Error;
use crate::kinds::{self, Kind};
use crate::machine::Machine;
use crate::memory::Memory;
use crate::sync::{AcqRel, Acquire, AtomicU64, Relaxed, Release};

/// The word of readers: a CPU's own, or the one that is shared, which counts.
pub(crate) struct Word(AtomicU64);

const OUT: u64 = 0;
const IN: u64 = 1;

impl Word {
    pub(crate) fn new() -> Self {
        Self(AtomicU64::new(OUT))
    }

    /// For its CPU alone. Leave soon.
    #[inline]
    fn enter(&self) {
        // Acquire pairs with the Release in `is_out`: who enters after it finds no block that was
        // hidden before.
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

    /// Whether no reader is in. An exchange and no load: see above.
    fn is_out(&self) -> bool {
        // AcqRel pairs with `enter` and with `leave`.
        self.0.compare_exchange(OUT, OUT, AcqRel, Relaxed).is_ok()
    }
}

/// A reader that is in; it leaves when this is dropped, by a panic too.
struct Inside<'w> {
    word: &'w Word,
    counted: bool,
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

impl<M: Machine> Memory<M> {
    /// Runs `f`, during which no block that [`Memory::within`] finds in it is freed by a caller that
    /// [hides](Memory::hide_slab) blocks and asks for [readers](Memory::readers_have_left) before.
    ///
    /// For what takes a few instructions: the CPU stays pinned. `f` asks for no memory and for no lock.
    ///
    /// # Examples
    /// ```
    /// use heirloom_folio::harness::Ram;
    ///
    /// let memory = Ram::memory(&Ram::frames(64))?;
    /// assert!(memory.readers_have_left(1));
    /// assert!(!memory.reading(|| memory.readers_have_left(1)));
    /// # Ok::<(), heirloom_folio::Error>(())
    /// ```
    #[inline]
    pub fn reading<R>(&self, f: impl FnOnce() -> R) -> R {
        self.machine().pinned(|cpu| {
            let _inside = if let Some(cpu) = self.with_slot(cpu) {
                // SAFETY: it has a slot.
                let word = unsafe { self.slot(cpu) }.readers();
                word.enter();
                Inside { word, counted: false }
            } else {
                let word = self.shared_readers();
                word.count_in();
                Inside { word, counted: true }
            };
            f()
        })
    }

    /// Whether every reader that was in when this was called has left. Each CPU's word is looked at up
    /// to `tries` times; one atomic operation on each CPU's line, if no reader is in.
    pub fn readers_have_left(&self, tries: u32) -> bool {
        let left = |word: &Word| {
            (0..tries).any(|_| {
                word.is_out() || {
                    core::hint::spin_loop();
                    false
                }
            })
        };
        left(self.shared_readers()) && self.cpu_slots().all(|(_, slot)| left(slot.readers()))
    }

    /// Makes a table again of what [`Memory::make_slab`] made a slab; it stays preserved if it was.
    /// From now on [`Memory::within`] does not find it as a slab, but for those that are
    /// [reading](Memory::reading) already.
    ///
    /// # Errors
    /// As for [`Memory::free`], and nothing is changed.
    ///
    /// # Safety
    /// The caller owns the block.
    pub unsafe fn hide_slab(&self, block: Block) -> Result<(), Error> {
        // SAFETY: the same contract.
        unsafe { self.turn(block, Kind::Slab, kinds::table_from_slab) }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::thread;

    use crate::harness::Ram;

    #[test]
    fn a_thread_reads_in_a_word_of_its_own_from_its_first_call_on() {
        let memory = Ram::memory(&Ram::frames(64)).unwrap();
        let alone = || memory.reading(|| memory.shared_readers().is_out());
        let all = thread::scope(|scope| [(); 2].map(|()| scope.spawn(alone).join().unwrap()));
        assert_eq!(all, [true; 2], "no reader counts in the word that all share");
    }
}

/// Every interleaving of readers with a block that is given back.
///
/// Run with `RUSTFLAGS="--cfg loom" cargo test -p heirloom-folio --release loom`.
#[cfg(all(test, loom))]
mod loom_tests {
    use loom::cell::UnsafeCell;
    use loom::sync::Arc;
    use loom::thread;

    use super::Word;
    use crate::sync::{Acquire, AtomicU8, Release};

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

    /// A reader beside a caller that gives the block back.
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
