//! Races for what a predecessor left: the exchange and the tree as they ship, every interleaving of
//! them that the model checker can think of, and every value that a load may find.
//!
//! Frames are one bit each of a word of free ones, and their contents a cell that tells if two use it
//! at once.
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test -p heirloom-folio --release loom`.

use std::vec::Vec;

use heirloom_kho::sync::{Acquire, AtomicU8, AtomicU64, Relaxed, Release};
use heirloom_kho::{Block, Run};
use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;

use super::exchange::{self, Disposal, Places};
use crate::error::Error;
use crate::frame_type::{self, FrameType};
use crate::tracker::Tracker;
use crate::tracker::ram::{Ram, block, run};

const FRAMES: usize = 4;

/// A successor's memory, and what was left to it.
struct World {
    ram: Ram,
    tracker: Tracker,
    bytes: Vec<AtomicU8>,
    free: AtomicU64,
    contents: Vec<UnsafeCell<u64>>,
}

impl Places for World {
    fn byte(&self, block: Block) -> Option<&AtomicU8> {
        self.bytes.get(block.pfn().get() as usize)
    }

    fn has_bit(&self, block: Block) -> bool {
        self.tracker.contains(&self.ram, block)
    }
}

impl Disposal for World {
    fn clear_bit(&self, block: Block) {
        self.tracker.unpreserve(&self.ram, block).unwrap();
    }

    fn free(&self, block: Block) {
        // As `Memory::unmark_run` and `FreeMap::give` do.
        self.byte(block).unwrap().store(frame_type::FREED, Relaxed);
        self.free.fetch_or(1 << block.pfn().get(), Release);
    }
}

impl World {
    /// One that was left these blocks, of one frame each.
    fn new(left: &[Block]) -> Arc<Self> {
        let world = Self {
            ram: Ram::new(heirloom_kho::tree::Geometry::BUILD.levels as usize),
            tracker: Tracker::new(),
            bytes: (0..FRAMES).map(|_| AtomicU8::new(frame_type::NEVER)).collect(),
            free: AtomicU64::new(0),
            contents: (0..FRAMES).map(|_| UnsafeCell::new(0)).collect(),
        };
        for block in left {
            world.tracker.preserve(&world.ram, *block).unwrap();
        }
        Arc::new(world)
    }

    /// Writes to a block that the caller owns.
    fn fill(&self, block: Block) {
        self.contents[block.pfn().get() as usize].with_mut(|content| {
            // SAFETY: the checker tells if another does so too.
            unsafe { *content += 1 };
        });
    }

    fn claim(&self, block: Block) -> bool {
        let claimed = exchange::take(self, block, FrameType::Folio);
        if claimed.is_ok() {
            self.fill(block);
        } else {
            assert_eq!(claimed, Err(Error::NotPreserved { block }));
        }
        claimed.is_ok()
    }

    fn claim_run(&self, run: Run) -> bool {
        let claimed = exchange::take_run(self, run, FrameType::Run).is_ok();
        if claimed {
            run.blocks().for_each(|block| self.fill(block));
            // It ends where it ends.
            let next = self.bytes[run.end().get() as usize].load(Relaxed);
            assert!(!frame_type::is_tail(next), "another's tail follows");
        }
        claimed
    }

    fn put_back(&self, block: Block) {
        exchange::put_back(self.byte(block).unwrap(), frame_type::NEVER);
    }

    fn dispose_of(&self, block: Block) -> bool {
        exchange::dispose_of(self, block)
    }

    /// Allocates the block if it is free, writes to it and preserves it, as any owner does.
    fn take_free(&self, block: Block) -> bool {
        let bit = 1 << block.pfn().get();
        // Acquire as in `FreeMap::take`.
        if self.free.fetch_and(!bit, Acquire) & bit == 0 {
            return false;
        }
        let byte = self.byte(block).unwrap();
        let plain = frame_type::encode(FrameType::Folio, block.order(), false);
        byte.store(plain, Relaxed);
        self.fill(block);
        self.tracker.preserve(&self.ram, block).unwrap();
        byte.store(frame_type::with_preserved(plain), Release);
        true
    }

    fn says(&self, block: Block) -> u8 {
        self.byte(block).unwrap().load(Relaxed)
    }

    fn is_left(&self, block: Block) -> bool {
        self.has_bit(block) && frame_type::is_unclaimed(self.says(block))
    }
}

fn model(preemptions: usize, test: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(test);
}

fn beside<R: 'static>(world: &Arc<World>, f: fn(&World) -> R) -> thread::JoinHandle<R> {
    let world = world.clone();
    thread::spawn(move || f(&world))
}

fn one() -> Block {
    block(0, 1)
}

fn two() -> Block {
    block(0, 2)
}

/// Both blocks, as a run.
fn both() -> Run {
    run(1, 2)
}

/// Fails if `take` looks at the byte and stores in place of the exchange.
#[test]
fn of_three_that_claim_a_block_one_succeeds() {
    model(3, || {
        let world = World::new(&[one(), two()]);
        let others = [beside(&world, |w| w.claim(one())), beside(&world, |w| w.claim(one()))];
        let mine = world.claim(one());
        let all = others.map(|other| other.join().unwrap());
        assert_eq!(u8::from(mine) + u8::from(all[0]) + u8::from(all[1]), 1);
        assert!(world.has_bit(one()) && !world.is_left(one()) && world.is_left(two()));
    });
}

/// Fails if `take` stores in place of the exchange; if `dispose_of` clears the bit before it has the
/// byte; and if `take` takes a freed byte for that of an unclaimed block.
#[test]
fn what_is_disposed_of_and_used_anew_is_not_claimed() {
    model(3, || {
        let world = World::new(&[one()]);
        let claim = beside(&world, |w| w.claim(one()));
        let disposed = world.dispose_of(one());
        let used = world.take_free(one());
        let claimed = claim.join().unwrap();
        assert_ne!(claimed, disposed);
        assert_eq!(used, disposed);
        assert!(world.has_bit(one()) && !world.is_left(one()));
        let ours = frame_type::encode(FrameType::Folio, one().order(), true);
        assert_eq!(world.says(one()), ours);
    });
}

/// Fails as the one above; the new owner comes by the word of free frames alone.
#[test]
fn a_claim_beside_disposal_and_a_new_owner() {
    model(2, || {
        let world = World::new(&[one()]);
        let claim = beside(&world, |w| w.claim(one()));
        let dispose = beside(&world, |w| w.dispose_of(one()));
        let used = world.take_free(one());
        let (claimed, disposed) = (claim.join().unwrap(), dispose.join().unwrap());
        assert_ne!(claimed, disposed);
        assert!(disposed || !used);
        assert_eq!(world.has_bit(one()), claimed || used);
        assert!(!world.is_left(one()));
    });
}

/// Fails if `take` does not look at the bit, or after the exchange: what an owner never preserved looks
/// as if it were unclaimed. (And if owners set the bit before they write the byte.)
#[test]
fn what_is_allocated_for_the_first_time_is_not_claimed() {
    model(3, || {
        let world = World::new(&[two()]);
        world.free.store(1 << one().pfn().get(), Relaxed);
        let claim = beside(&world, |w| w.claim(one()));
        assert!(world.take_free(one()));
        assert!(!claim.join().unwrap());
        assert!(world.has_bit(one()) && !world.is_left(one()));
        assert_eq!(world.says(one()), frame_type::encode(FrameType::Folio, one().order(), true));
    });
}

/// Fails if `dispose_of` takes the label that it looked at for the one that is there.
#[test]
fn what_gets_a_label_is_disposed_of_once() {
    model(3, || {
        let world = World::new(&[one()]);
        let label = beside(&world, |w| {
            let as_slab = frame_type::encode_label(FrameType::Slab, one().order()).unwrap();
            w.has_bit(one())
                && exchange::label(w.byte(one()).unwrap(), one(), FrameType::Slab, as_slab).is_ok()
                && exchange::take(w, one(), FrameType::Slab).is_ok()
        });
        let disposed = world.dispose_of(one());
        let claimed = label.join().unwrap();
        assert_ne!(disposed, claimed);
        assert_eq!((world.has_bit(one()), world.is_left(one())), (claimed, false));
    });
}

/// Fails if a claim by a label stores in place of the exchange.
#[test]
fn of_two_that_claim_a_block_by_its_label_one_succeeds() {
    model(3, || {
        let world = World::new(&[one()]);
        let as_slab = frame_type::encode_label(FrameType::Slab, one().order()).unwrap();
        exchange::label(world.byte(one()).unwrap(), one(), FrameType::Slab, as_slab).unwrap();
        let claim = |w: &World| {
            let claimed = exchange::take(w, one(), FrameType::Slab).is_ok();
            if claimed {
                w.fill(one());
            }
            claimed
        };
        let other = beside(&world, claim);
        let mine = claim(&world);
        assert_ne!(mine, other.join().unwrap());
        assert!(world.has_bit(one()) && !world.is_left(one()));
    });
}

/// Fails if a claim of a run does not put back what it took; if it stores in place of the exchange; and
/// if `dispose_of` clears the bit before it has the byte.
#[test]
fn a_run_whose_last_block_is_claimed_or_disposed_of_is_not_claimed() {
    model(2, || {
        let world = World::new(&[one(), two()]);
        let whole = beside(&world, |w| w.claim_run(both()));
        let last = beside(&world, |w| w.claim(two()));
        let disposed = world.dispose_of(two());
        let (whole, last) = (whole.join().unwrap(), last.join().unwrap());
        assert_eq!(u8::from(whole) + u8::from(last) + u8::from(disposed), 1);
        assert_eq!(world.is_left(one()), !whole);
        assert!(world.has_bit(one()) && world.has_bit(two()) != disposed);
    });
}

/// Fails if `put_back` is Relaxed, or the exchange in `take` is.
#[test]
fn what_is_put_back_is_claimed_after_all_that_was_done_to_it() {
    model(3, || {
        let world = World::new(&[one()]);
        let first = beside(&world, |w| {
            let claimed = w.claim(one());
            if claimed {
                w.put_back(one());
            }
            claimed
        });
        let mine = world.claim(one());
        let theirs = first.join().unwrap();
        assert!(mine || theirs);
        assert_eq!(world.is_left(one()), !mine);
    });
}

/// Fails if the first block of a run is put back before the last; and if `put_back` is Relaxed.
#[test]
fn of_what_is_put_back_no_tail_is_seen() {
    model(3, || {
        let world = World::new(&[one(), two()]);
        assert!(world.claim_run(both()));
        let back = beside(&world, |w| exchange::put_back_run(w, both()));
        let claimed = world.claim_run(one().run());
        back.join().unwrap();
        assert_eq!((world.is_left(one()), world.is_left(two())), (!claimed, true));
    });
}

/// Fails if a claim that met another does not put back what it took.
#[test]
fn two_runs_that_overlap_leave_no_trace_of_the_one_that_lost() {
    model(2, || {
        let world = World::new(&[one(), two(), block(0, 0)]);
        let claims = [beside(&world, |w| w.claim_run(both())), beside(&world, |w| w.claim(two()))];
        let first = world.claim_run(one().run());
        let [whole, last] = claims.map(|claim| claim.join().unwrap());
        assert!(!(whole && (first || last)));
        assert_eq!(world.is_left(one()), !(whole || first));
        assert_eq!(world.is_left(two()), !(whole || last));
        assert!(whole || last, "of what both want one gets it");
    });
}
