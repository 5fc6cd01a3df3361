//! A caller's code that this layer calls may call everything, from any place, claims and disposal of
//! what a predecessor left too. A panic in it loses nothing.

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};

use common::owned::Owned as _;
use common::{add_range, base, block, claim_as, free, free_run, order};
use heirloom_folio::harness::Ram;
use heirloom_folio::{
    Cpus, Disposition, Error, FrameType, Linear, Memory, NodeId, OneCpu, Request,
};
use heirloom_kho::{Block, Order, PAGE_SIZE, PhysAddr, Run};

const FRAMES: u64 = 2048;

/// A kernel with a predecessor that left forty folios, and with some things of its own.
fn kernel() -> (Memory<Ram>, Vec<Block>) {
    // What is added at run time lies behind.
    let span = [(Run::new(base(), FRAMES + 64).unwrap(), NodeId(0))];
    let ranges = Ram::frames(FRAMES);
    let memory = Ram::over(&span).attach(&ranges).unwrap();
    let left: Vec<_> = (0..40).map(|i| memory.alloc(Request::new(order(i % 4))).unwrap()).collect();
    memory.keep(&left[..]).unwrap();
    let root = memory.preserved().tree_root().unwrap();
    let (memory, _) = memory.into_machine().attach(&ranges).unwrap().take_over(root).unwrap();
    let own = memory.alloc(Request::new(order(2))).unwrap();
    memory.keep(own).unwrap();
    (memory, left)
}

/// Calls everything that needs no ownership but its own.
fn everything(memory: &Memory<Ram>) {
    for o in [0, 0, 1, 3, 6, 9] {
        let folio = memory.alloc_folio(Request::new(order(o)).zeroed()).unwrap();
        let kept = folio.preserve().unwrap();
        drop(kept.unpreserve().unwrap());
    }
    let run = memory.alloc_run(11, Request::new(Order::ZERO)).unwrap();
    memory.keep(run).unwrap();
    memory.let_go(run).unwrap();
    free_run(memory, run, FrameType::Run).unwrap();
    let many: Vec<_> = (0..200).map(|_| memory.alloc(Request::new(Order::ZERO)).unwrap()).collect();
    memory.keep(&many[..]).unwrap();
    memory.let_go(&many[..]).unwrap();
    for block in many {
        assert_eq!(memory.owning_block(block.pfn()), Some((block.run(), FrameType::Folio, false)));
        free(memory, block, FrameType::Folio).unwrap();
    }
    let mut seen = 0;
    memory.preserved().for_each(|_| seen += 1);
    memory.preserved().for_each_range(|_| seen += 1);
    memory.preserved().for_each_node(|_| seen += 1);
    assert!(seen > 0);
    assert!(memory.preserved().tree_root().is_ok() && memory.preserved().counts().nodes() > 0);
    assert!(memory.stats().used() > 0);
    memory.drain();
}

/// Calls everything about what the predecessor left, and leaves it as it is. `this` is one of its
/// blocks.
fn inheritance(memory: &Memory<Ram>, this: Block) {
    let left = inherited(memory);
    assert!(
        left.contains(&this)
            && memory.predecessor().contains(this)
            && memory.preserved().contains(this)
    );
    assert_eq!(memory.predecessor().block_at(this.pfn()), Some(this));
    assert_eq!(memory.predecessor().finish(|_| Disposition::Keep), (0, left.len() as u64));
    // One in the other, and one in that.
    let mut deep = 0;
    let kept = memory.predecessor().finish(|block| {
        if block == this {
            deep = memory.predecessor().finish(|_| Disposition::Keep).1;
        }
        Disposition::Keep
    });
    assert_eq!((kept, deep), ((0, left.len() as u64), left.len() as u64));
    let once = Err(Error::NotPreserved { block: this });
    for kind in [FrameType::Folio, FrameType::Table] {
        claim_as(memory, this, kind).unwrap();
        assert_eq!(claim_as(memory, this, kind), once);
        assert!(memory.preserved().contains(this) && !memory.predecessor().contains(this));
        // SAFETY: claimed just now, and not written.
        unsafe { memory.unclaim_as(this, kind) }.unwrap();
    }
    memory.claim(&[this]).unwrap();
    assert_eq!(memory.claim_owned(this).map(drop), once);
    // SAFETY: as above.
    unsafe { memory.unclaim_as(this, FrameType::Folio) }.unwrap();
    for kind in [FrameType::Run, FrameType::Buffer] {
        claim_as(memory, this.run(), kind).unwrap();
        assert_eq!(memory.run_at(this.pfn(), kind), Ok(this.run()));
        // SAFETY: as above.
        unsafe { memory.unclaim_as(this.run(), kind) }.unwrap();
    }
    // And with a label, which is taken off again.
    common::label(memory, this, FrameType::Slab).unwrap();
    assert_eq!(memory.predecessor().label_of(this), Some(FrameType::Slab));
    claim_as(memory, this, FrameType::Slab).unwrap();
    // SAFETY: as above.
    unsafe { memory.unclaim_as(this, FrameType::Table) }.unwrap();
    assert_eq!(inherited(memory), left);
}

fn inherited(memory: &Memory<Ram>) -> Vec<Block> {
    let mut blocks = Vec::new();
    memory.predecessor().for_each(|block| blocks.push(block));
    blocks
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
        memory.predecessor().for_each(|block| {
            everything(&memory);
            inheritance(&memory, block);
            blocks += 1;
        });
        assert_eq!(blocks, left.len());
        // What another thread preserves for a moment may be met too.
        let mut calls = 0;
        memory.preserved().for_each(|_| {
            if calls < 20 {
                everything(&memory);
                inheritance(&memory, left[1]);
            }
            calls += 1;
        });
        let mut rows = 0;
        memory.preserved().for_each_range(|_| {
            if rows < 20 {
                everything(&memory);
                inheritance(&memory, left[2]);
            }
            rows += 1;
        });
        memory.preserved().for_each_node(|_| {
            everything(&memory);
            inheritance(&memory, left[0]);
        });
        assert!(calls > 0 && rows > 0);
        for (run, node) in memory.ranges() {
            everything(&memory);
            inheritance(&memory, left[3]);
            assert_eq!(memory.node_of(run.start()), Ok(node));
        }
    });
    memory.claim(&left[..]).unwrap();
}

#[test]
fn a_fate_is_decided_by_code_that_calls_everything() {
    let (memory, left) = kernel();
    let own = 1;
    beside(&memory, || {
        let (mut asked, mut nested, mut claimed) = (Vec::new(), (0, 0), Vec::new());
        let done = memory.predecessor().finish(|block| {
            everything(&memory);
            inheritance(&memory, block);
            asked.push(block);
            match asked.len() % 5 {
                0 => Disposition::Keep,
                1 => Disposition::Free,
                2 => {
                    // Claimed here: left to its owner, whatever is decided.
                    claimed.push(memory.claim_owned(block).unwrap().into_raw());
                    Disposition::Free
                }
                3 => {
                    claimed.push(memory.claim_owned(block).unwrap().into_raw());
                    Disposition::Keep
                }
                _ => {
                    let this =
                        |other| if other == block { Disposition::Free } else { Disposition::Keep };
                    let (freed, kept) = memory.predecessor().finish(this);
                    nested = (nested.0 + freed, nested.1 + kept);
                    // Freed already, and maybe another's by now.
                    Disposition::Free
                }
            }
        });
        assert_eq!(done, (8, 8));
        assert_eq!((nested.0, claimed.len()), (8, 16));
        asked.sort();
        let mut all = left.clone();
        all.sort();
        assert_eq!(asked, all, "each is asked about once");
        assert_eq!(inherited(&memory).len(), 8);
        for block in claimed {
            memory.let_go(block).unwrap();
            free(&memory, block, FrameType::Folio).unwrap();
        }
        assert_eq!(memory.predecessor().finish(|_| Disposition::Free), (8, 0));
    });
    memory.drain();
    memory.audit().unwrap();
    assert_eq!(memory.preserved().counts().total(), own);
}

#[test]
fn a_fate_that_lets_others_go_is_asked_about_none_of_them() {
    let (memory, left) = kernel();
    let mut asked = 0;
    let done = memory.predecessor().finish(|block| {
        asked += 1;
        // All the others; and what is allocated in their place is no predecessor's.
        let others = memory
            .predecessor()
            .finish(|other| if other == block { Disposition::Keep } else { Disposition::Free });
        assert_eq!(others, (left.len() as u64 - 1, 1));
        let folios = std::iter::from_fn(|| memory.alloc_folio(Request::new(order(0))).ok());
        let kept: Vec<_> = folios.take(900).map(|folio| folio.preserve().unwrap()).collect();
        assert_eq!(kept.len(), 900);
        let kept: Vec<_> = kept.into_iter().map(heirloom_folio::PreservedFolio::into_raw).collect();
        assert!(
            kept.iter().all(
                |own| memory.preserved().contains(*own) && !memory.predecessor().contains(*own)
            )
        );
        Disposition::Free
    });
    assert_eq!((done, asked), ((1, 0), 1));
    assert_eq!(memory.preserved().counts().total(), 901);
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
    memory.predecessor().for_each(|_| {
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
    let done = memory.predecessor().finish(|_| {
        if memory.ranges().count() < 12 {
            add();
        }
        Disposition::Keep
    });
    assert_eq!(done, (0, 40));
    assert_eq!(memory.ranges().count(), 12);
    memory.audit().unwrap();
}

#[test]
fn code_that_is_pinned_calls_everything() {
    let (memory, left) = kernel();
    for _ in 0..3 {
        memory.machine().with_cpu(|cpu| {
            assert!(cpu.is_some());
            everything(&memory);
            inheritance(&memory, left[0]);
            memory.machine().try_with_cpu(|_| {
                everything(&memory);
                inheritance(&memory, left[1]);
            });
        });
    }
    memory
        .machine()
        .with_cpu(|_| assert_eq!(memory.predecessor().finish(|_| Disposition::Free), (40, 0)));
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
fn a_panic_in_a_walk_keeps_nothing() {
    let (memory, left) = kernel();
    for n in [0, 7] {
        for walk in 0..4 {
            let mut n = n.min(if walk > 1 { 1 } else { n });
            let walked = catch_unwind(AssertUnwindSafe(|| match walk {
                0 => memory.predecessor().for_each(|_| panic_at(&mut n)),
                1 => memory.preserved().for_each(|_| panic_at(&mut n)),
                2 => memory.preserved().for_each_range(|_| panic_at(&mut n)),
                _ => memory.preserved().for_each_node(|_| panic_at(&mut n)),
            }));
            assert!(walked.is_err());
        }
    }
    assert_eq!(inherited(&memory).len(), left.len());
    memory.claim(left[3]).unwrap();
    assert_eq!(memory.predecessor().finish(|_| Disposition::Free), (39, 0));
}

#[test]
fn a_panic_in_a_fate_leaves_what_was_decided_and_the_rest_to_be_claimed() {
    for n in [0, 1, 20, 39] {
        let (memory, left) = kernel();
        let mut asked = Vec::new();
        let ended = catch_unwind(AssertUnwindSafe(|| {
            let mut n = n;
            memory.predecessor().finish(|block| {
                panic_at(&mut n);
                asked.push(block);
                if asked.len() % 2 == 0 { Disposition::Keep } else { Disposition::Free }
            })
        }));
        assert!(ended.is_err());
        assert_eq!(asked.len(), n);
        memory.audit().unwrap();
        let freed = n.div_ceil(2);
        let rest = inherited(&memory);
        assert_eq!(rest.len(), left.len() - freed);
        for (i, block) in asked.iter().enumerate() {
            assert_eq!(memory.preserved().contains(*block), i % 2 == 1, "{i}");
            assert_eq!(memory.predecessor().contains(*block), i % 2 == 1, "{i}");
        }
        // The rest goes on, what was kept with what was not asked about.
        memory.claim(rest[0]).unwrap();
        assert_eq!(memory.predecessor().finish(|_| Disposition::Free), (39 - freed as u64, 0));
        memory.let_go(rest[0]).unwrap();
        free(&memory, rest[0], FrameType::Folio).unwrap();
        memory.drain();
        memory.audit().unwrap();
        let own = block(0, 2).order().frames();
        assert_eq!(memory.stats().used(), own + memory.preserved().counts().nodes());
    }
}

/// A closure that panics under the one CPU costs the closure, and not the CPU.
#[test]
fn one_cpu_is_left_by_a_panic() {
    let ram = core::ptr::NonNull::from(vec![0_u8; 2 * PAGE_SIZE].leak()).cast();
    // SAFETY: leaked, and used through the map alone.
    let machine = OneCpu::new(unsafe { Linear::new(ram, PhysAddr::new(1 << 32), 2 * PAGE_SIZE) });
    let caught = catch_unwind(AssertUnwindSafe(|| machine.with_cpu(|_| panic!("the caller's"))));
    assert!(caught.is_err());
    assert!(machine.with_cpu(|cpu| cpu).is_some(), "the CPU is gone for good");
}
