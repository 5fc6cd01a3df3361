//! What a predecessor left: claims, and the end of the inheritance.

use std::sync::Mutex;

use heirloom::Heirloom;
use heirloom::folio::sync::{AtomicU64, Relaxed};
use heirloom::folio::tracker::Key;
use heirloom::folio::{Block, DirectMap, Fate, Kind, Memory, PhysAddr};
use heirloom::restore::Handle;
use heirloom_verify::races::{All, Ground};

use super::{CACHE, single};

/// A kernel that revived, and the handle of what it inherited.
struct Heirs {
    kernel: Heirloom<&'static Ground>,
    handle: Handle,
    granted: Mutex<usize>,
}

fn heirs(object: bool) -> Heirs {
    let ground = Ground::new(96, 2, false);
    let kernel = ground.boot();
    let handle = if object {
        let object = kernel.slabs().cache(CACHE).unwrap().alloc().unwrap();
        // SAFETY: in use, and no thread frees it.
        unsafe { kernel.preserve(object) }.unwrap()
    } else {
        let folio = kernel.memory().folio(single()).unwrap();
        let folio = folio.preserve().unwrap_or_else(|refused| panic!("{}", refused.error));
        let handle = kernel.folio_handle(&folio).unwrap();
        folio.into_raw();
        handle
    };
    let entry = kernel.into_handover().entry();
    let kernel = ground.revive(entry);
    if object {
        kernel.slabs().adopt(CACHE).unwrap();
    }
    Heirs { kernel, handle, granted: Mutex::default() }
}

/// Fails if a leaf's bit is changed by a load and a store in place of one operation.
#[test]
fn of_two_that_claim_a_folio_one_succeeds() {
    fn claim(world: &Heirs) {
        if let Ok(folio) = world.kernel.claim_folio(world.handle) {
            folio.into_raw();
            *world.granted.lock().unwrap() += 1;
        }
    }
    All {
        name: "one folio is claimed twice",
        preemptions: 3,
        build: || heirs(false),
        threads: &[claim, claim],
        after: |world| {
            assert_eq!(*world.granted.lock().unwrap(), 1);
            world.kernel.memory().audit().unwrap();
        },
    }
    .check();
}

/// Fails if a state byte is changed by a load and a store in place of one operation.
#[test]
fn of_three_that_claim_an_object_one_succeeds() {
    fn claim(world: &Heirs) {
        *world.granted.lock().unwrap() += usize::from(world.kernel.restore(world.handle).is_ok());
    }
    All {
        name: "one object is claimed three times",
        preemptions: 2,
        build: || heirs(true),
        threads: &[claim, claim, claim],
        after: |world| {
            assert_eq!(*world.granted.lock().unwrap(), 1);
            world.kernel.memory().audit().unwrap();
        },
    }
    .check();
}

/// A memory that inherited one frame, and what became of it.
struct Ending {
    memory: Memory<&'static Ground>,
    left: Block,
    claimed: Mutex<Option<bool>>,
    ended: Mutex<Option<Result<(u64, u64), heirloom::folio::Error>>>,
    taken: Mutex<Vec<Block>>,
}

impl Ending {
    fn build() -> Self {
        let ground = Ground::new(24, 2, false);
        let memory = ground.memory();
        let left = memory.alloc(single()).unwrap();
        // SAFETY: allocated just now.
        unsafe { memory.preserve(left) }.unwrap();
        let root = memory.tree_root().unwrap();
        drop(memory);
        let (memory, _) = ground.memory().inherit(root).unwrap();
        Self {
            memory,
            left,
            claimed: Mutex::default(),
            ended: Mutex::default(),
            taken: Mutex::default(),
        }
    }

    fn claim(&self) {
        *self.claimed.lock().unwrap() = Some(self.memory.claim(self.left, Kind::Folio).is_ok());
    }

    /// The word of a page of which the claim changes a bit, if the page is the tree's leaf.
    fn word_of(&self, block: Block) -> &AtomicU64 {
        let page = self.memory.ptr(block.run()).unwrap().cast::<AtomicU64>();
        let index = Key::of(self.left).index(0) / 64;
        // SAFETY: within the page, which is memory; only atomics touch it.
        unsafe { page.add(index).as_ref() }
    }

    /// Ends the inheritance, and writes to all that is free then, the tree's pages too.
    fn end(&self) {
        let ended = self.memory.disinherit(|_| Fate::Free);
        *self.ended.lock().unwrap() = Some(ended);
        while ended.is_ok()
            && let Ok(block) = self.memory.alloc(single())
        {
            self.word_of(block).store(u64::MAX, Relaxed);
            self.taken.lock().unwrap().push(block);
        }
    }
}

/// Fails if a claim does not enter the gate.
#[test]
fn a_claim_beside_the_end_of_the_inheritance_comes_first_or_is_refused() {
    All {
        name: "a folio is claimed while the inheritance ends",
        preemptions: 3,
        build: Ending::build,
        threads: &[Ending::claim, Ending::end],
        after: |world| {
            let claimed = world.claimed.lock().unwrap().unwrap();
            let ended = world.ended.lock().unwrap().unwrap();
            let taken = world.taken.lock().unwrap();
            assert_eq!(taken.contains(&world.left), ended.is_ok() && !claimed);
            let whole = |block: &Block| world.word_of(*block).load(Relaxed) == u64::MAX;
            assert!(taken.iter().all(whole), "a claim wrote to a page that was free again");
            match ended {
                Ok((freed, kept)) => assert_eq!((freed, kept), (u64::from(!claimed), 0)),
                Err(error) => {
                    assert!(claimed && error == heirloom::folio::Error::Claiming);
                    assert_eq!(world.memory.disinherit(|_| Fate::Free), Ok((0, 0)));
                }
            }
            world.memory.audit().unwrap();
        },
    }
    .check();
}

/// A memory that inherited a slab, and a thread that wants it as a run.
struct Labelled {
    memory: Memory<&'static Ground>,
    left: Block,
    run: Mutex<Option<bool>>,
}

impl Labelled {
    fn build() -> Self {
        let Ending { memory, left, .. } = Ending::build();
        // SAFETY: nothing here reads slabs.
        unsafe { memory.label(left, Kind::Slab) }.unwrap();
        Self { memory, left, run: Mutex::default() }
    }

    /// As adopting does when there is no memory for the rest of it.
    fn claim_and_put_back(&self) {
        // SAFETY: labelled by this test.
        if unsafe { self.memory.claim_as(self.left, Kind::Slab) }.is_ok() {
            // SAFETY: claimed just now, and not written.
            unsafe { self.memory.unclaim(self.left, Kind::Table, Some(Kind::Slab)) }.unwrap();
        }
    }

    fn claim_as_run(&self) {
        let claimed = self.memory.claim_run(self.left.run(), Kind::Run);
        *self.run.lock().unwrap() = Some(claimed.is_ok());
    }
}

/// Fails if claiming a run does not look at the labels again, once it has the bits.
#[test]
fn what_is_put_back_as_a_slab_is_claimed_as_nothing_else() {
    All {
        name: "a slab is put back while somebody wants it as a run",
        preemptions: 3,
        build: Labelled::build,
        threads: &[Labelled::claim_and_put_back, Labelled::claim_as_run],
        after: |world| {
            assert_eq!(*world.run.lock().unwrap(), Some(false));
            assert!(world.memory.is_inherited(world.left));
            assert_eq!(world.memory.label_of(world.left), Some(Kind::Slab));
        },
    }
    .check();
}

/// A kernel that is about to adopt a cache, and one object that the predecessor left in it.
struct Adopting {
    kernel: Heirloom<&'static Ground>,
    at: PhysAddr,
    discarded: Mutex<Option<bool>>,
}

impl Adopting {
    fn build() -> Self {
        let ground = Ground::new(96, 2, false);
        let kernel = ground.boot();
        let object = kernel.slabs().cache(CACHE).unwrap().alloc().unwrap();
        // SAFETY: in use, and no thread frees it.
        unsafe { kernel.preserve(object) }.unwrap();
        let at = kernel.memory().machine().phys(object).unwrap();
        let kernel = ground.revive(kernel.into_handover().entry());
        kernel.slabs().cache(CACHE).unwrap();
        Self { kernel, at, discarded: Mutex::default() }
    }

    fn adopt(&self) {
        self.kernel.slabs().adopt(CACHE).unwrap();
    }

    fn discard(&self) {
        let cache = self.kernel.slabs().caches().find(|cache| cache.name().as_str() == "objects");
        *self.discarded.lock().unwrap() = Some(cache.unwrap().discard(self.at).is_ok());
    }
}

/// Fails if a slab can be found before it is in its cache's lists.
#[test]
fn an_object_is_discarded_while_its_slab_is_adopted() {
    All {
        name: "an object is discarded while its slab is adopted",
        preemptions: 2,
        build: Adopting::build,
        threads: &[Adopting::discard, Adopting::adopt],
        after: |world| {
            let discarded = world.discarded.lock().unwrap().unwrap();
            let cache = world.kernel.slabs().caches().next().unwrap();
            assert_eq!(cache.stats().unclaimed, u64::from(!discarded));
            let again = cache.discard(world.at);
            assert_eq!(again.is_ok(), !discarded);
            assert_eq!(cache.shrink(), 1);
            world.kernel.memory().audit().unwrap();
        },
    }
    .check();
}
