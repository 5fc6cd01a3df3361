//! Threads that allocate, pass on, preserve, shrink and free at the same time. At the end every
//! frame is free again, and on the way none has two owners: each writes what only it would.

#![cfg(feature = "std")]

mod common;

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::sync::{Barrier, Mutex, mpsc};
use std::thread;

use common::owned::Owned as _;
use common::{base, check, free, free_run, grow_run, order, run, shrink_run, write};
use heirloom_folio::harness::Ram;
use heirloom_folio::{Disposition, Error, FrameType, Memory, NodeId, Request};
use heirloom_kho::{Block, PAGE_SIZE, Pfn, Run};

const THREADS: u64 = 4;
/// Steps of each thread; fewer where each costs a hundred times as much.
const STEPS: u64 = if cfg!(miri) { 60 } else { 30_000 };

/// Frames on two nodes that do not start or end at round numbers.
fn ranges() -> [(Run, NodeId); 2] {
    [(run(5, 3000), NodeId(0)), (run(4096, 2000), NodeId(1))]
}

/// A small generator with a period long enough (xorshift64*), so that a run can be repeated.
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % sides
    }
}

/// Frames that one thread owns, with what is written in them.
#[derive(Clone, Copy)]
struct Owned {
    run: Run,
    kind: FrameType,
    preserved: bool,
    stamp: u64,
}

impl Owned {
    fn block(&self) -> Block {
        self.run.blocks().next().unwrap()
    }

    fn toggle(&mut self, memory: &Memory<Ram>) {
        let done = match (self.kind, self.preserved) {
            (FrameType::Run, false) => memory.keep(self.run),
            (FrameType::Run, true) => memory.let_go(self.run),
            (_, false) => memory.keep(self.block()),
            (_, true) => memory.let_go(self.block()),
        };
        match done {
            Ok(()) => self.preserved = !self.preserved,
            Err(e) => assert!(matches!(e, Error::OutOfMemory { .. }) && !self.preserved, "{e}"),
        }
    }

    fn free(mut self, memory: &Memory<Ram>) {
        check(memory, self.run, self.stamp);
        if self.preserved {
            self.toggle(memory);
        }
        let freed = match self.kind {
            FrameType::Run => free_run(memory, self.run, self.kind),
            _ => free(memory, self.block(), self.kind),
        };
        assert_eq!(freed, Ok(()));
    }

    /// Grows or shrinks a run, if it is one.
    fn resize(&mut self, memory: &Memory<Ram>, frames: u64) {
        if self.kind != FrameType::Run || self.preserved {
            return;
        }
        let grow = frames > self.run.frames();
        let resize = if grow { grow_run } else { shrink_run };
        if let Ok(run) = resize(memory, self.run, frames, self.kind) {
            check(memory, if grow { self.run } else { run }, self.stamp);
            self.run = run;
            write(memory, run, self.stamp);
        }
    }
}

/// What every thread does: random operations on its own frames, now and then on frames that
/// another passed on.
fn work(memory: &Memory<Ram>, seed: u64, passed: &Mutex<Vec<Owned>>) {
    let mut dice = Dice::new(seed);
    let mut owned: Vec<Owned> = Vec::new();
    for step in 0..STEPS {
        let stamp = seed << 56 | step << 32;
        match dice.roll(16) {
            0..=4 => {
                let o = [0, 0, 0, 0, 1, 2, 3, 6, 9, 10][dice.roll(10) as usize];
                let node = NodeId(dice.roll(2) as u16);
                if let Ok(b) = memory.alloc(Request::new(order(o)).on(node)) {
                    write(memory, b.run(), stamp);
                    owned.push(Owned {
                        run: b.run(),
                        kind: FrameType::Folio,
                        preserved: false,
                        stamp,
                    });
                }
            }
            5 | 6 => {
                let request = Request::new(order(0)).frame_type(FrameType::Run);
                if let Ok(run) = memory.alloc_run(1 + dice.roll(90), request) {
                    write(memory, run, stamp);
                    owned.push(Owned { run, kind: FrameType::Run, preserved: false, stamp });
                }
            }
            7 => {
                let b = Block::containing(base().add(dice.roll(6100)), order(dice.roll(4) as u8));
                if memory.alloc_at(b).is_ok() {
                    write(memory, b.run(), stamp);
                    owned.push(Owned {
                        run: b.run(),
                        kind: FrameType::Folio,
                        preserved: false,
                        stamp,
                    });
                }
            }
            8 | 9 if !owned.is_empty() => {
                let at = dice.roll(owned.len() as u64) as usize;
                owned[at].toggle(memory);
            }
            10 if !owned.is_empty() => {
                let at = dice.roll(owned.len() as u64) as usize;
                owned[at].resize(memory, 1 + dice.roll(100));
            }
            11 if !owned.is_empty() => passed.lock().unwrap().push(owned.swap_remove(0)),
            12 => {
                let other = passed.lock().unwrap().pop();
                if let Some(other) = other {
                    other.free(memory);
                }
            }
            13 if dice.roll(32) == 0 => memory.drain(),
            _ if !owned.is_empty() => {
                let at = dice.roll(owned.len() as u64) as usize;
                owned.swap_remove(at).free(memory);
            }
            _ => {}
        }
    }
    for it in owned {
        it.free(memory);
    }
}

/// Everything but the tracker's nodes is free, in blocks as large as can be.
fn assert_whole_again(mut memory: Memory<Ram>, ranges: &[(Run, NodeId)]) {
    // Not only `drain`: the slots of threads that have ended may have new owners by now.
    memory.drain_all();
    let (stats, audit) = (memory.stats(), memory.audit().unwrap());
    let nodes = memory.preserved().counts().nodes();
    assert_eq!((stats.used(), stats.cached, stats.preserved), (nodes, 0, 0));
    assert_eq!((audit.allocated[FrameType::Table as usize], audit.reserved), (nodes, 0));
    assert_eq!(audit.free, stats.frames - nodes);
    if nodes > 0 {
        // The nodes go with a generation.
        let root = memory.preserved().tree_root().unwrap();
        let (next, counts) = memory.into_machine().attach(ranges).unwrap().take_over(root).unwrap();
        assert_eq!((counts.total(), counts.nodes()), (0, nodes));
        assert_eq!(next.predecessor().finish(|_| unreachable!("nothing was preserved")), (0, 0));
        let stats = next.stats();
        assert_eq!((next.preserved().counts().nodes(), stats.used()), (1, 1), "the root stays");
        assert_eq!((stats.cached, stats.preserved), (0, 0));
        next.audit().unwrap();
    } else {
        assert_eq!(stats, Ram::memory(ranges).unwrap().stats());
    }
}

#[test]
fn no_frame_has_two_owners_and_none_is_lost() {
    for threads in 2..=THREADS {
        let memory = Ram::memory(&ranges()).unwrap();
        let passed = Mutex::new(Vec::new());
        thread::scope(|s| {
            for t in 0..threads {
                let (memory, passed) = (&memory, &passed);
                s.spawn(move || work(memory, t + 1, passed));
            }
        });
        for it in passed.into_inner().unwrap() {
            it.free(&memory);
        }
        assert_whole_again(memory, &ranges());
    }
}

#[test]
fn frames_allocated_by_one_thread_and_freed_by_another() {
    let frames = if cfg!(miri) { 300 } else { 3000 };
    let ranges = Ram::frames(frames);
    let memory = Ram::memory(&ranges).unwrap();
    let (sender, receiver) = mpsc::sync_channel::<(Block, u64)>(500);
    thread::scope(|s| {
        s.spawn(|| {
            let sender = sender;
            for i in 0..STEPS {
                let request = Request::new(order((i % 3) as u8));
                match memory.alloc(request) {
                    Ok(b) => {
                        write(&memory, b.run(), i << 32);
                        sender.send((b, i << 32)).unwrap();
                    }
                    Err(_) => thread::yield_now(),
                }
            }
        });
        s.spawn(|| {
            for (b, stamp) in receiver {
                check(&memory, b.run(), stamp);
                free(&memory, b, FrameType::Folio).unwrap();
            }
        });
    });
    assert_whole_again(memory, &ranges);
}

#[test]
fn the_last_frames_are_fought_over() {
    // Fewer frames than the threads want, so all take the paths that drain and search.
    let ranges = [(run(1, 130), NodeId(0))];
    let memory = Ram::memory(&ranges).unwrap();
    thread::scope(|s| {
        for t in 0..THREADS {
            let memory = &memory;
            s.spawn(move || {
                let mut dice = Dice::new(100 + t);
                let mut owned: Vec<(Block, u64)> = Vec::new();
                for step in 0..STEPS {
                    let stamp = t << 56 | step << 32;
                    let o = dice.roll(7) as u8;
                    match memory.alloc(Request::new(order(o))) {
                        Ok(b) if dice.roll(3) > 0 => {
                            write(memory, b.run(), stamp);
                            owned.push((b, stamp));
                        }
                        Ok(b) => free(memory, b, FrameType::Folio).unwrap(),
                        Err(_) => {
                            for (b, stamp) in owned.drain(..) {
                                check(memory, b.run(), stamp);
                                free(memory, b, FrameType::Folio).unwrap();
                            }
                        }
                    }
                }
                for (b, _) in owned {
                    free(memory, b, FrameType::Folio).unwrap();
                }
            });
        }
    });
    assert_whole_again(memory, &ranges);
}

#[test]
fn every_frame_is_handed_out_once_to_threads_in_step() {
    let frames = 2048;
    for round in 0..if cfg!(miri) { 1 } else { 20 } {
        let ranges = [(run(round, frames), NodeId(0))];
        let mut memory = Ram::memory(&ranges).unwrap();
        let start = Barrier::new(2);
        let take = || {
            start.wait();
            let mut mine = Vec::new();
            while let Ok(b) = memory.alloc(Request::new(order(0))) {
                mine.push(b.pfn());
            }
            mine
        };
        let (mut all, second) = thread::scope(|s| {
            let (one, two) = (s.spawn(take), s.spawn(take));
            (one.join().unwrap(), two.join().unwrap())
        });
        all.extend(second);
        // What one of them had taken a word ahead was out of the other's reach.
        memory.drain_all();
        while let Ok(b) = memory.alloc(Request::new(order(0))) {
            all.push(b.pfn());
        }
        all.sort();
        let expected: Vec<Pfn> = (0..frames).map(|i| base().add(round + i)).collect();
        assert_eq!(all, expected, "round {round}");
    }
}

#[test]
fn of_two_that_preserve_or_let_go_one_succeeds() {
    let memory = Ram::memory(&Ram::frames(256)).unwrap();
    let blocks: Vec<_> = (0..64).map(|_| memory.alloc(Request::new(order(0))).unwrap()).collect();
    let start = Barrier::new(2);
    let both = |f: &(dyn Fn(Block) -> Result<(), Error> + Sync)| {
        thread::scope(|s| {
            let go = || {
                start.wait();
                blocks.iter().filter(|b| f(**b).is_ok()).count()
            };
            let (one, two) = (s.spawn(go), s.spawn(go));
            one.join().unwrap() + two.join().unwrap()
        })
    };
    for _ in 0..if cfg!(miri) { 1 } else { 50 } {
        assert_eq!(both(&|b| memory.keep(b)), 64);
        assert_eq!(memory.stats().preserved, 64);
        assert_eq!(both(&|b| memory.let_go(b)), 64);
        assert_eq!(memory.stats().preserved, 0);
    }
}

#[test]
fn of_two_that_claim_one_succeeds() {
    let ranges = Ram::frames(1024);
    let memory = Ram::memory(&ranges).unwrap();
    let blocks: Vec<_> =
        (0..150).map(|i| memory.alloc(Request::new(order(i % 2))).unwrap()).collect();
    memory.keep(&blocks[..]).unwrap();
    let root = memory.preserved().tree_root().unwrap();
    let (memory, _) = memory.into_machine().attach(&ranges).unwrap().take_over(root).unwrap();
    let claim = || blocks.iter().filter_map(|b| memory.claim_owned(*b).ok()).collect::<Vec<_>>();
    let (one, two) = thread::scope(|s| {
        let (one, two) = (s.spawn(claim), s.spawn(claim));
        (one.join().unwrap(), two.join().unwrap())
    });
    assert_eq!(one.len() + two.len(), blocks.len());
    assert_eq!(memory.predecessor().finish(|_| unreachable!("all were claimed")), (0, 0));
    for kept in one.into_iter().chain(two) {
        assert!(memory.preserved().contains(kept.extent()));
        drop(kept.unpreserve().unwrap());
    }
    assert_whole_again(memory, &ranges);
}

/// What a thread claimed, and what is written there from then on.
type Claimed = Vec<(Run, FrameType, u64)>;

/// Claims what it can of `mine`, blocks and runs of two neighbours, and writes over it; puts some back.
fn claim_some(memory: &Memory<Ram>, mine: &[Block], seed: u64) -> Claimed {
    let mut dice = Dice::new(seed);
    let mut claimed = Vec::new();
    for (i, block) in mine.iter().enumerate() {
        let stamp = seed << 56 | (i as u64) << 32;
        let next = mine.get(i + 1).filter(|next| next.pfn() == block.run().end());
        let run = next.and_then(|next| Run::between(block.pfn(), next.run().end()));
        // Two neighbours of order 0 are two blocks in the tree if the first lies at an odd frame.
        let run = run.filter(|run| run.blocks().count() == 2 && dice.roll(2) == 0);
        let (run, kind) = match run {
            Some(run) => (run, FrameType::Run),
            None => (block.run(), FrameType::Folio),
        };
        let done = match kind {
            FrameType::Run => memory.claim(run),
            _ => memory.claim(*block),
        };
        match done {
            // Nothing is written to what is put back.
            Ok(()) if dice.roll(4) == 0 => {
                // SAFETY: claimed just now, and as it was.
                let back = unsafe {
                    match kind {
                        FrameType::Run => memory.unclaim_as(run, FrameType::Run),
                        _ => memory.unclaim_as(*block, FrameType::Folio),
                    }
                };
                back.unwrap();
            }
            Ok(()) => {
                // As the predecessor left it: nothing had it meanwhile.
                check(memory, run, LEFT);
                write(memory, run, stamp);
                claimed.push((run, kind, stamp));
            }
            Err(Error::NotPreserved { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
    claimed
}

/// What the predecessor wrote.
const LEFT: u64 = 0x1ef7 << 40;

/// Each block is claimed once or freed once, and counted so. What is free is written over at once.
#[test]
fn claims_beside_disposal_each_block_has_one_end() {
    for round in 0..if cfg!(miri) { 1 } else { 30_u64 } {
        let ranges = Ram::frames(640);
        let memory = Ram::memory(&ranges).unwrap();
        let block = |_| memory.alloc(Request::new(order(0))).unwrap();
        let mut blocks: Vec<_> = (0..if cfg!(miri) { 40 } else { 400 }).map(block).collect();
        blocks.sort();
        memory.keep(&blocks[..]).unwrap();
        for block in &blocks {
            write(&memory, block.run(), LEFT);
        }
        let root = memory.preserved().tree_root().unwrap();
        let next = memory.into_machine().attach(&ranges).unwrap();
        let (memory, _) = next.take_over(root).unwrap();
        let start = Barrier::new(5);
        let (claimed, freed) = thread::scope(|scope| {
            // All of them want all.
            let claims = [1, 2, 3].map(|seed| {
                let (memory, start, blocks) = (&memory, &start, &blocks);
                scope.spawn(move || {
                    start.wait();
                    claim_some(memory, blocks, seed << 4 | round & 15)
                })
            });
            let ends = [0, 1].map(|which| {
                let (memory, start) = (&memory, &start);
                scope.spawn(move || {
                    start.wait();
                    (0..round * 40).for_each(|_| std::hint::spin_loop());
                    // Neither frees all that there is.
                    let (freed, kept) = memory.predecessor().finish(|block| {
                        if block.pfn().get() % 3 == which {
                            Disposition::Keep
                        } else {
                            Disposition::Free
                        }
                    });
                    let mut taken = Vec::new();
                    while let Ok(mut folio) = memory.alloc_folio(Request::new(order(0))) {
                        folio.bytes_mut().fill(0xff);
                        taken.push(folio);
                    }
                    assert!(taken.iter().all(|page| page.bytes() == [0xff; PAGE_SIZE]));
                    (freed, kept)
                })
            });
            let claimed = claims.map(|claims| claims.join().unwrap()).concat();
            (claimed, ends.map(|end| end.join().unwrap()).map(|(freed, _)| freed))
        });
        let mut rest = 0;
        memory.predecessor().for_each(|block| {
            check(&memory, block.run(), LEFT);
            rest += 1;
        });
        let owned: u64 = claimed.iter().map(|(run, ..)| run.frames()).sum();
        let ends = owned + freed[0] + freed[1] + rest;
        assert_eq!(ends, blocks.len() as u64, "round {round}: {owned}, {freed:?}, {rest}");
        let nodes = memory.preserved().counts().nodes();
        assert_eq!(memory.stats().used(), owned + rest + nodes, "round {round}");
        assert_eq!(memory.preserved().counts().total(), owned + rest, "round {round}");
        memory.audit().unwrap();
        let (freed, kept) = memory.predecessor().finish(|_| Disposition::Free);
        assert_eq!((freed, kept), (rest, 0), "round {round}");
        for (run, kind, stamp) in claimed {
            check(&memory, run, stamp);
            if kind == FrameType::Run {
                assert_eq!(memory.run_at(run.start(), kind), Ok(run));
                memory.let_go(run).unwrap();
                free_run(&memory, run, kind).unwrap();
            } else {
                let block = run.blocks().next().unwrap();
                memory.let_go(block).unwrap();
                free(&memory, block, kind).unwrap();
            }
        }
        assert_whole_again(memory, &ranges);
    }
}

#[test]
fn others_are_not_refused_while_frames_are_asked_for_that_cannot_all_be_had() {
    const BLOCK: u64 = 2048;
    const TRIES: usize = if cfg!(miri) { 3 } else { 20_000 };
    let memory = Ram::memory(&Ram::frames(2 * BLOCK + 1)).unwrap();
    // One block is free. Before it lies a run that is to grow, behind it a frame in use.
    let ours = run(0, BLOCK);
    memory.alloc_at(ours).unwrap();
    memory.alloc_at(run(2 * BLOCK, 1)).unwrap();
    let (behind, before) = (run(BLOCK, BLOCK + 1), memory.stats());
    let done = AtomicBool::new(false);
    thread::scope(|s| {
        let other = s.spawn(|| {
            let request = Request::new(order(11));
            let mut count = 0;
            while count < TRIES || !done.load(Acquire) {
                let block = memory.alloc(request).expect("no other call gets it");
                free(&memory, block, FrameType::Folio).unwrap();
                count += 1;
            }
        });
        for _ in 0..TRIES {
            let refused = grow_run(&memory, ours, 2 * BLOCK + 1, FrameType::Run);
            assert!(matches!(refused, Err(Error::NotFree { .. })), "{refused:?}");
            for refused in [memory.reserve(behind), memory.offline(behind)] {
                assert_eq!(refused, Err(Error::NotFree { run: behind }));
            }
        }
        // Release pairs with the Acquire above.
        done.store(true, Release);
        other.join().unwrap();
    });
    memory.drain();
    assert_eq!(memory.stats(), before);
}
