//! One call beside another, at every place where the two can meet: before each atomic operation of the
//! first, the whole of a second runs; and of a third before each one after that.
//!
//! What the checker of interleavings tries with small words, in the memory as it ships. Orderings make
//! no difference here.

use std::boxed::Box;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::vec;
use std::vec::Vec;

use heirloom_kho::sync::{Op, Orders, Watcher, watch};

use super::tests::{inherited, kernel, order, run, successor};
use super::*;
use crate::harness::Ram;

/// What threads share, and what each of them got.
struct World {
    memory: Memory<Ram>,
    got: RefCell<Vec<(&'static str, Result<(), Error>)>>,
}

impl World {
    fn note(&self, name: &'static str, result: Result<(), Error>) {
        self.got.borrow_mut().push((name, result));
    }

    fn got(&self, name: &str) -> bool {
        let got = self.got.borrow();
        let found = got.iter().find(|(of, _)| *of == name);
        found.unwrap_or_else(|| panic!("{name} did not run")).1.is_ok()
    }
}

type Call = fn(&World);

/// Calls the next of `calls` once so many operations were seen.
#[derive(Default)]
struct Turns {
    world: RefCell<Option<Rc<World>>>,
    calls: RefCell<Vec<(usize, Call)>>,
    seen: Cell<usize>,
    busy: Cell<bool>,
}

impl Turns {
    fn step(&self) {
        if self.busy.get() {
            return;
        }
        let now = self.seen.replace(self.seen.get() + 1);
        let world = self.world.borrow().clone();
        let due = |calls: &Vec<(usize, Call)>| calls.first().is_some_and(|(at, _)| *at <= now);
        while due(&self.calls.borrow()) {
            let (_, call) = self.calls.borrow_mut().remove(0);
            if let Some(world) = &world {
                self.busy.set(true);
                call(world);
                self.busy.set(false);
            }
        }
    }
}

impl Watcher for Turns {
    fn word(
        &self,
        _: *const (),
        _: usize,
        _: u64,
        _: Op<u64>,
        _: Orders,
    ) -> Option<Result<u64, u64>> {
        self.step();
        None
    }
}

/// Runs `first`, with each of `others` before some operation of its, or of what is left when it has
/// ended; in every such way.
fn beside(build: fn() -> Memory<Ram>, first: Call, others: &[Call], after: impl Fn(&World)) {
    let turns: &'static Turns = Box::leak(Box::default());
    let run = |places: &[usize]| {
        let world = Rc::new(World { memory: build(), got: RefCell::default() });
        *turns.world.borrow_mut() = Some(world.clone());
        *turns.calls.borrow_mut() = places.iter().copied().zip(others.iter().copied()).collect();
        turns.seen.set(0);
        watch(Some(turns));
        first(&world);
        watch(None);
        let operations = turns.seen.get();
        let late = std::mem::take(&mut *turns.calls.borrow_mut());
        for (_, call) in late {
            call(&world);
        }
        *turns.world.borrow_mut() = None;
        after(&world);
        let audit = world.memory.audit().unwrap_or_else(|error| panic!("{places:?}: {error}"));
        assert_eq!(
            world.memory.stats().used(),
            audit.allocated.iter().sum::<u64>() + audit.reserved
        );
        operations
    };
    // Where each takes long, a few places.
    let stride = if cfg!(miri) { 29 } else { 1 };
    let mut places = vec![0; others.len()];
    let mut tried = 0;
    loop {
        let operations = run(&places);
        tried += 1;
        // The next in order, each place at or behind the one before, and one of them behind the end.
        let Some(i) = (0..places.len()).rev().find(|i| places[*i] < operations) else { break };
        let next = places[i] + stride;
        places[i..].fill(next);
    }
    assert!(tried > 1, "nothing was watched");
}

/// Returns three blocks in a row, of orders 0, 1 and 0, that were preserved as a run.
fn row() -> Run {
    run(129, 4)
}

fn part(i: usize) -> Block {
    row().blocks().nth(i).unwrap()
}

fn left() -> Memory<Ram> {
    let ranges = Ram::frames(160);
    let blocks: Vec<_> = row().blocks().collect();
    successor(kernel(&ranges, &blocks), &ranges)
}

fn claim(world: &World, name: &'static str, i: usize) {
    world.note(name, world.memory.claim(part(i)));
}

/// Checks that nothing was lost: what was not claimed or disposed of is there, with no trace of a claim.
fn assert_left(world: &World, parts: &[usize]) {
    let mut expected: Vec<_> = parts.iter().map(|i| part(*i)).collect();
    expected.sort_by_key(|b| (core::cmp::Reverse(b.order()), b.pfn()));
    assert_eq!(inherited(&world.memory), expected);
    for b in expected {
        assert_eq!(world.memory.state(b.pfn()), Ok(crate::FrameState::Never), "{b}");
        assert!(world.memory.preserved().contains(b));
    }
}

#[test]
fn of_two_claims_of_a_block_one_succeeds() {
    beside(
        left,
        |world| claim(world, "one", 1),
        &[|world| claim(world, "two", 1), |world| claim(world, "three", 1)],
        |world| {
            let won = ["one", "two", "three"].into_iter().filter(|name| world.got(name)).count();
            assert_eq!(won, 1);
            assert_left(world, &[0, 2]);
        },
    );
}

/// What becomes of the frames of a block that was disposed of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    Free,
    /// A new owner has them as they were, preserved.
    Whole,
    Halves,
}

fn dispose(world: &World, then: Then) {
    let memory = &world.memory;
    let freed = memory.dispose_of(part(1));
    world.note("disposed", freed.then_some(()).ok_or(Error::NotPreserved { block: part(1) }));
    let up_to = match then {
        Then::Whole if freed => order(1),
        Then::Halves if freed => Order::ZERO,
        _ => return,
    };
    for own in part(1).run().blocks_up_to(up_to) {
        memory.alloc_at(own).unwrap();
        memory.preserve_block(own, FrameType::Folio).unwrap();
    }
}

const DISPOSALS: [Call; 3] = [
    |world| dispose(world, Then::Free),
    |world| dispose(world, Then::Whole),
    |world| dispose(world, Then::Halves),
];

fn assert_one_end(world: &World) {
    assert_ne!(world.got("claim"), world.got("disposed"));
    assert_left(world, &[0, 2]);
    let held = world.memory.owning_block(part(1).pfn());
    assert!(held.is_none_or(|(.., preserved)| preserved), "{held:?}");
    if world.got("claim") {
        assert_eq!(held.map(|(run, ..)| run), Some(part(1).run()));
    }
}

#[test]
fn a_claim_of_what_is_disposed_of_and_used_anew_is_refused() {
    let claims: [Call; 2] = [
        |world| claim(world, "claim", 1),
        |world| world.note("claim", world.memory.claim(part(1).run())),
    ];
    for disposal in DISPOSALS {
        for claim in claims {
            beside(left, claim, &[disposal], assert_one_end);
            beside(left, disposal, &[claim], assert_one_end);
        }
        let whole = |world: &World| {
            assert_ne!(world.got("row"), world.got("disposed"));
            assert_left(world, if world.got("row") { &[] } else { &[0, 2] });
        };
        beside(left, claim_row, &[disposal], whole);
        beside(left, disposal, &[claim_row], whole);
    }
}

fn claim_row(world: &World) {
    world.note("row", world.memory.claim(row()));
}

#[test]
fn a_run_whose_last_block_is_claimed_alone_is_claimed_whole_or_not_at_all() {
    let after = |world: &World| {
        assert_ne!(world.got("row"), world.got("last"));
        if world.got("row") {
            assert_eq!(world.memory.run_at(row().start(), FrameType::Run), Ok(row()));
            assert_left(world, &[]);
        } else {
            assert_left(world, &[0, 1]);
        }
    };
    beside(left, claim_row, &[|world| claim(world, "last", 2)], after);
    beside(left, |world| claim(world, "last", 2), &[claim_row], after);
}

/// The claim of the row is taken back, as its last block is another's by now, while a third claims what
/// it gives back, as runs: they end where they should.
#[test]
fn what_is_taken_back_is_claimed_without_what_follows() {
    for whose in [0, 1] {
        let others: [Call; 2] = [
            |world| world.note("third", world.memory.claim(part(0).run())),
            |world| world.note("third", world.memory.claim(part(1).run())),
        ];
        beside(
            left,
            claim_row,
            &[
                |world| claim(world, "last", 2),
                others[whose],
                |world| {
                    // What has an owner looks so at any time.
                    for i in [0, 1] {
                        let third = world.got.borrow().iter().any(|(name, got)| {
                            *name == "third"
                                && got.is_ok()
                                && !world.memory.predecessor().contains(part(i))
                        });
                        if third && world.memory.run_at(part(i).pfn(), FrameType::Run).is_ok() {
                            world.note("looked", Ok(()));
                        }
                    }
                },
            ],
            |world| {
                let (row, third) = (world.got("row"), world.got("third"));
                assert_ne!(row, world.got("last"));
                assert!(!(row && third));
                if third {
                    let own = part(whose).run();
                    assert_eq!(world.memory.run_at(own.start(), FrameType::Run), Ok(own));
                    assert_left(world, &[1 - whose]);
                }
            },
        );
    }
}

/// Claims a part as a run as soon as it can be, and lets it go again at once: it is that part alone.
fn pass_through(world: &World, i: usize) {
    let (memory, own) = (&world.memory, part(i).run());
    if memory.claim(own).is_ok() {
        assert_eq!(memory.run_at(own.start(), FrameType::Run), Ok(own), "it has another's tail");
        assert_eq!(memory.owning_block(own.start()), Some((own, FrameType::Run, true)));
        // SAFETY: claimed just now, and not written.
        unsafe { memory.unclaim_as(own, FrameType::Run) }.unwrap();
    }
}

#[test]
fn a_claim_that_is_taken_back_leaves_no_tail_behind() {
    let passes: [Call; 3] = [
        |world| pass_through(world, 0),
        |world| pass_through(world, 1),
        |world| pass_through(world, 2),
    ];
    for pass in passes {
        // By the claim itself, whose last block is gone.
        beside(left, claim_row, &[|world| claim(world, "last", 2), pass], |world| {
            assert_ne!(world.got("row"), world.got("last"));
        });
        // By its caller.
        beside(
            || {
                let memory = left();
                memory.claim(row()).unwrap();
                memory
            },
            |world| {
                // SAFETY: claimed above, and not written.
                unsafe { world.memory.unclaim_as(row(), FrameType::Run) }.unwrap();
            },
            &[pass, pass],
            |world| assert_left(world, &[0, 1, 2]),
        );
    }
}

#[test]
fn a_label_beside_claims_and_disposal() {
    fn label(world: &World) {
        // SAFETY: nothing reads slabs here.
        world.note("label", unsafe { world.memory.predecessor().label(part(1), FrameType::Slab) });
    }
    // A claim as a folio, or the label, and no third thing.
    beside(
        left,
        |world| claim(world, "claim", 1),
        &[label],
        |world| {
            assert_ne!(world.got("claim"), world.got("label"));
            assert_eq!(world.memory.predecessor().label_of(part(1)).is_some(), world.got("label"));
        },
    );
    // So with disposal: what has a label is its layer's.
    for beside_it in [true, false] {
        let calls: [Call; 2] = [DISPOSALS[1], label];
        let [first, second] = if beside_it { calls } else { [calls[1], calls[0]] };
        beside(left, first, &[second], |world| {
            let labelled = world.got("label");
            assert_ne!(world.got("disposed"), labelled);
            assert_eq!(world.memory.predecessor().contains(part(1)), labelled);
            assert_eq!(world.memory.predecessor().label_of(part(1)).is_some(), labelled);
            if labelled {
                // SAFETY: it is this test's, and nothing reads slabs here.
                unsafe {
                    world.memory.claim_as(part(1), FrameType::Slab).unwrap();
                    world.memory.unclaim_as(part(1), FrameType::Table).unwrap();
                }
            }
            assert_left(world, if labelled { &[0, 1, 2] } else { &[0, 2] });
        });
    }
}

/// Of 16 KiB frames and larger ones no heap promises so many, and Miri has them all.
#[cfg(not(any(miri, heirloom_page = "64k", heirloom_page = "16k")))]
#[test]
fn parts_of_a_block_above_the_largest_folio_are_taken_back_before_it_is() {
    /// Returns four of the largest folios, as one block of the tree.
    fn large() -> Block {
        Block::new(run(1 << 20, 1).start(), order(20)).unwrap()
    }
    beside(
        || {
            let ranges = [(run(1 << 20, 1 << 20), crate::NodeId(0)), Ram::frames(64)[0]];
            let memory = Ram::memory(&ranges).unwrap();
            memory.alloc_at(large().run()).unwrap();
            memory.preserve_run(large().run(), FrameType::Run).unwrap();
            let memory = successor(memory, &ranges);
            memory.claim(large().run()).unwrap();
            memory
        },
        |world| {
            // SAFETY: claimed above, and not written.
            unsafe { world.memory.unclaim_as(large().run(), FrameType::Run) }.unwrap();
        },
        &[|world| world.note("again", world.memory.claim(large().run()))],
        |world| {
            let whole = world.memory.run_at(large().pfn(), FrameType::Run).ok();
            assert_eq!(whole, world.got("again").then_some(large().run()));
            if whole.is_none() {
                for part in large().run().blocks_up_to(Order::MAX_FOLIO) {
                    assert_eq!(world.memory.state(part.pfn()), Ok(crate::FrameState::Never));
                }
            }
        },
    );
}
