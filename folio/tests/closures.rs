//! A caller's code that this layer calls may call everything, from any place; what cannot be done
//! there is an error at once. A panic in it loses nothing.

mod common;

use common::owned::Owned as _;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};

use common::{add_range, base, block, free, free_run, order};
use heirloom_folio::harness::Ram;
use heirloom_folio::{
    Block, Cpus, Error, Fate, Kind, Linear, Memory, NodeId, OneCpu, Order, PAGE_SIZE, PhysAddr,
    Request, Run,
};

const FRAMES: u64 = 2048;

/// What claiming and ending answer, where a closure runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Gate {
    /// The inheritance is there, and held.
    Held,
    /// The inheritance is being ended.
    Ending,
}

/// A kernel with a predecessor that left forty folios, and with some things of its own.
fn kernel() -> (Memory<Ram>, Vec<Block>) {
    // What is added at run time lies behind.
    let span = [(Run::new(base(), FRAMES + 64).unwrap(), NodeId(0))];
    let ranges = Ram::frames(FRAMES);
    let memory = Ram::over(&span).attach(&ranges).unwrap();
    let left: Vec<_> = (0..40).map(|i| memory.alloc(Request::new(order(i % 4))).unwrap()).collect();
    memory.keep_all(&left).unwrap();
    let root = memory.tree_root().unwrap();
    let (memory, _) = memory.into_machine().attach(&ranges).unwrap().inherit(root).unwrap();
    let own = memory.alloc(Request::new(order(2))).unwrap();
    memory.keep(own).unwrap();
    (memory, left)
}

/// Calls everything that needs no ownership but its own.
fn everything(memory: &Memory<Ram>) {
    for o in [0, 0, 1, 3, 6, 9] {
        let folio = memory.folio(Request::new(order(o)).zeroed()).unwrap();
        let kept = folio.preserve().unwrap();
        drop(kept.unpreserve().unwrap());
    }
    let run = memory.alloc_run(11, Request::new(Order::ZERO).kind(Kind::Run)).unwrap();
    memory.keep_run(run, Kind::Run).unwrap();
    memory.let_go_run(run, Kind::Run).unwrap();
    free_run(memory, run, Kind::Run).unwrap();
    let many: Vec<_> = (0..200).map(|_| memory.alloc(Request::new(Order::ZERO)).unwrap()).collect();
    memory.keep_all(&many).unwrap();
    memory.let_go_all(&many).unwrap();
    for block in many {
        assert_eq!(memory.holder(block.pfn()), Some((block.run(), Kind::Folio, false)));
        free(memory, block, Kind::Folio).unwrap();
    }
    let mut seen = 0;
    memory.for_each_preserved(|_| seen += 1);
    memory.for_each_row(|_| seen += 1);
    memory.for_each_node(|_| seen += 1);
    assert!(seen > 0);
    assert!(memory.tree_root().is_ok() && memory.counts().nodes() > 0);
    assert!(memory.stats().used() > 0);
    memory.drain();
}

/// Calls everything about the inheritance; `this` is one of its blocks.
fn inheritance(memory: &Memory<Ram>, this: Block, gate: Gate) {
    let refused = memory.disinherit(|_| unreachable!("nested"));
    assert_eq!(refused, Err(Error::Claiming));
    let held = memory.hold_inheritance().map(|held| held.is_some());
    let mut seen = 0;
    memory.for_each_inherited(|_| seen += 1);
    memory.for_each_inherited_node(|_| seen += 1);
    match gate {
        Gate::Held => {
            assert!(memory.is_inherited(this) && seen > 0);
            assert_eq!(memory.inherited_block(this.pfn()), Some(this));
            memory.claim(this, Kind::Folio).unwrap();
            // SAFETY: claimed just now, and not written.
            unsafe { memory.unclaim(this, Kind::Folio, None) }.unwrap();
            memory.claim_run(this.run(), Kind::Run).unwrap();
            // SAFETY: claimed just now, and not written.
            unsafe { memory.unclaim_run(this.run(), Kind::Run) }.unwrap();
            assert_eq!(held, Ok(true));
        }
        Gate::Ending => {
            assert_eq!(memory.claim(this, Kind::Folio), Err(Error::Ending));
            assert_eq!(memory.claim_run(this.run(), Kind::Run), Err(Error::Ending));
            assert_eq!(memory.claim_all(&[this]), Err(Error::Ending));
            assert_eq!(memory.claim_folio(this).err(), Some(Error::Ending));
            assert!(!memory.is_inherited(this) && memory.inherited_block(this.pfn()).is_none());
            assert_eq!((held, seen), (Err(Error::Ending), 0));
        }
    }
}

/// Runs `f` while another thread calls everything too.
fn beside(memory: &Memory<Ram>, f: impl FnOnce()) {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let other = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                everything(memory);
            }
        });
        let outcome = catch_unwind(AssertUnwindSafe(f));
        done.store(true, Ordering::Relaxed);
        other.join().unwrap();
        outcome.unwrap_or_else(|panic| resume_unwind(panic));
    });
}

#[test]
fn walks_call_code_that_calls_everything() {
    let (memory, left) = kernel();
    beside(&memory, || {
        let mut blocks = 0;
        memory.for_each_inherited(|block| {
            everything(&memory);
            inheritance(&memory, block, Gate::Held);
            blocks += 1;
        });
        assert_eq!(blocks, left.len());
        memory.for_each_inherited_node(|_| {
            everything(&memory);
            inheritance(&memory, left[0], Gate::Held);
        });
        // What another thread preserves for a moment may be met too.
        let mut calls = 0;
        memory.for_each_preserved(|_| {
            if calls < 20 {
                everything(&memory);
                let _held = memory.hold_inheritance().unwrap();
                inheritance(&memory, left[1], Gate::Held);
            }
            calls += 1;
        });
        let mut rows = 0;
        memory.for_each_row(|_| {
            if rows < 20 {
                everything(&memory);
            }
            rows += 1;
        });
        memory.for_each_node(|_| everything(&memory));
        assert!(calls > 0 && rows > 0);
        for (run, node) in memory.ranges() {
            everything(&memory);
            assert_eq!(memory.node_of(run.start()), Ok(node));
        }
    });
    memory.claim_all(&left).unwrap();
}

#[test]
fn a_fate_is_decided_by_code_that_calls_everything() {
    let (memory, left) = kernel();
    beside(&memory, || {
        let mut asked = 0;
        let ended = memory.disinherit(|block| {
            everything(&memory);
            inheritance(&memory, block, Gate::Ending);
            asked += 1;
            if asked % 2 == 0 { Fate::Keep } else { Fate::Free }
        });
        assert_eq!(ended, Ok((20, 20)));
        assert_eq!(asked, left.len());
    });
    memory.drain();
    memory.audit().unwrap();
}

#[test]
fn a_range_is_added_by_code_that_runs_in_a_walk() {
    let (memory, _) = kernel();
    let mut at = base().add(FRAMES);
    let mut add = || {
        let run = Run::new(at, 1).unwrap();
        let added = add_range(&memory, run, NodeId(0), Memory::<Ram>::range_bytes(run));
        assert_eq!(added, Ok(()));
        at = at.add(1);
    };
    let mut calls = 0;
    memory.for_each_inherited(|_| {
        if calls < 5 {
            add();
        }
        calls += 1;
    });
    for _ in memory.ranges() {
        // What is added meanwhile comes too: so not for ever.
        if memory.ranges().count() < 9 {
            add();
        }
    }
    memory
        .disinherit(|_| {
            if memory.ranges().count() < 12 {
                add();
            }
            Fate::Keep
        })
        .unwrap();
    assert_eq!(memory.ranges().count(), 12);
    memory.audit().unwrap();
}

#[test]
fn code_that_is_pinned_calls_everything() {
    let (memory, left) = kernel();
    for _ in 0..3 {
        memory.machine().pinned(|cpu| {
            assert!(cpu.is_some());
            everything(&memory);
            let _held = memory.hold_inheritance().unwrap();
            inheritance(&memory, left[0], Gate::Held);
            memory.machine().pinned_now(|_| everything(&memory));
        });
    }
    everything(&memory);
}

/// A panic at the `n`th call of a closure.
fn panic_at(n: &mut usize) {
    if *n == 0 {
        resume_unwind(Box::new("the caller's"));
    }
    *n -= 1;
}

#[test]
fn a_panic_in_a_walk_lets_go_of_the_inheritance() {
    let (memory, left) = kernel();
    for n in [0, 7] {
        for walk in 0..2 {
            let mut n = n.min(if walk == 1 { 2 } else { n });
            let walked = catch_unwind(AssertUnwindSafe(|| match walk {
                0 => memory.for_each_inherited(|_| panic_at(&mut n)),
                _ => memory.for_each_inherited_node(|_| panic_at(&mut n)),
            }));
            assert!(walked.is_err());
        }
    }
    // Nothing keeps it.
    memory.claim(left[3], Kind::Folio).unwrap();
    assert_eq!(memory.disinherit(|_| Fate::Free), Ok((39, 0)));
}

#[test]
fn a_panic_in_a_fate_leaves_what_was_decided_and_the_rest_to_be_claimed() {
    for n in [0, 1, 20, 39] {
        let (memory, left) = kernel();
        let mut asked = Vec::new();
        let ended = catch_unwind(AssertUnwindSafe(|| {
            let mut n = n;
            memory.disinherit(|block| {
                panic_at(&mut n);
                asked.push(block);
                if asked.len() % 2 == 0 { Fate::Keep } else { Fate::Free }
            })
        }));
        assert!(ended.is_err());
        assert_eq!(asked.len(), n);
        memory.audit().unwrap();
        let mut rest = Vec::new();
        memory.for_each_inherited(|block| rest.push(block));
        assert_eq!(rest.len(), left.len() - n);
        for (i, block) in asked.iter().enumerate() {
            assert_eq!(memory.is_preserved(*block), i % 2 == 1, "{i}");
        }
        memory.claim(rest[0], Kind::Folio).unwrap();
        assert_eq!(memory.disinherit(|_| Fate::Free), Ok((39 - n as u64, 0)));
        free(&memory, rest[0], Kind::Folio).unwrap();
        memory.drain();
        memory.audit().unwrap();
        let kept: u64 = asked.iter().skip(1).step_by(2).map(|b| b.order().frames()).sum();
        let own = block(0, 2).order().frames();
        assert_eq!(memory.stats().used(), kept + own + memory.counts().nodes());
    }
}

/// A closure that panics under the one CPU costs the closure, and not the CPU.
#[test]
fn one_cpu_is_left_by_a_panic() {
    let ram = core::ptr::NonNull::from(vec![0_u8; 2 * PAGE_SIZE].leak()).cast();
    // SAFETY: leaked, and used through the map alone.
    let machine = OneCpu::new(unsafe { Linear::new(ram, PhysAddr::new(1 << 32), 2 * PAGE_SIZE) });
    let caught = catch_unwind(AssertUnwindSafe(|| machine.pinned(|_| panic!("the caller's"))));
    assert!(caught.is_err());
    assert!(machine.pinned(|cpu| cpu).is_some(), "the CPU is gone for good");
}
