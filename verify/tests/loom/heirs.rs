//! What a predecessor left: claimed, put back and freed by several threads.

use std::sync::Mutex;

use heirloom::Heirloom;
use heirloom::folio::{DirectMap, Disposition, FrameType, Memory, Request};
use heirloom::kho::{Block, Handle, Order, Run};
use heirloom_testkit::TestMachine;
use heirloom_verify::races::Model;

use super::{CACHE, single};

/// A kernel that revived, and the handle of what it inherited.
struct Heirs {
    kernel: Heirloom<&'static TestMachine>,
    handle: Handle,
    granted: Mutex<usize>,
}

fn heirs(object: bool) -> Heirs {
    let machine = TestMachine::pooled(96, 2, false);
    let kernel = machine.boot();
    let handle = if object {
        let object = kernel.slabs().cache(CACHE).unwrap().alloc().unwrap();
        // SAFETY: in use, and no thread frees it.
        unsafe { kernel.preserve(object) }.unwrap()
    } else {
        let folio = kernel.memory().alloc_folio(single()).unwrap();
        let folio = folio.preserve().unwrap_or_else(|refused| panic!("{}", refused.error));
        let handle = kernel.folio_handle(&folio).unwrap();
        folio.into_raw();
        handle
    };
    let entry = kernel.entry();
    let kernel = machine.revive(entry);
    if object {
        kernel.slabs().adopt(CACHE).unwrap();
    }
    Heirs { kernel, handle, granted: Mutex::default() }
}

/// A memory that inherited so many frames in a row, and what became of them.
struct Leaving {
    memory: Memory<&'static TestMachine>,
    left: Run,
    run: Mutex<Option<bool>>,
    folio: Mutex<Option<bool>>,
    told: Mutex<Option<(u64, u64)>>,
    taken: Mutex<Vec<Block>>,
}

impl Leaving {
    fn build(frames: u64) -> Self {
        let machine = TestMachine::pooled(24, 2, false);
        let memory = machine.memory();
        let request = Request::new(Order::for_frames(frames).unwrap()).frame_type(FrameType::Run);
        let left = memory.alloc_run(frames, request).unwrap();
        // SAFETY: allocated just now.
        unsafe { memory.preserve(left) }.unwrap();
        let root = memory.preserved().tree_root().unwrap();
        drop(memory);
        let (memory, _) = machine.memory().take_over(root).unwrap();
        let (run, folio, told) = (Mutex::default(), Mutex::default(), Mutex::default());
        Self { memory, left, run, folio, told, taken: Mutex::default() }
    }

    /// The last block of the run.
    fn last(&self) -> Block {
        self.left.blocks().last().unwrap()
    }

    fn claim(&self) {
        let claimed = self.memory.claim(self.last());
        *self.folio.lock().unwrap() = Some(claimed.is_ok());
    }

    fn claim_run(&self) {
        let claimed = self.memory.claim(self.left);
        *self.run.lock().unwrap() = Some(claimed.is_ok());
    }

    /// Frees what nobody claimed.
    fn finish(&self) {
        *self.told.lock().unwrap() = Some(self.memory.predecessor().finish(|_| Disposition::Free));
    }

    /// Takes all that is free.
    fn take_all(&self) {
        while let Ok(block) = self.memory.alloc(single()) {
            self.taken.lock().unwrap().push(block);
        }
    }

    /// Once all has ended: what was claimed, what is left and what was freed are all of it, and nothing is two of them.
    fn each_block_has_one_owner(&self) {
        self.take_all();
        let run = self.run.lock().unwrap().unwrap();
        let folio = self.folio.lock().unwrap().unwrap_or(false);
        assert!(!(run && folio), "the last block has two owners");
        let (freed, _) = self.told.lock().unwrap().unwrap();
        let mut gone = 0;
        for block in self.left.blocks() {
            let owned = run || folio && block == self.last();
            // What was put back after it was asked about is there still.
            let left = self.memory.predecessor().contains(block);
            let taken = self.is_taken(block);
            gone += u64::from(taken);
            let owners = u32::from(owned) + u32::from(left) + u32::from(taken);
            assert_eq!(owners, 1, "{block}: owned {owned}, left {left}, freed {taken}");
            assert_eq!(self.memory.preserved().contains(block), !taken, "{block}");
        }
        assert_eq!(freed, gone);
        self.memory.audit().unwrap();
    }

    /// Whether a frame of the block was free, and was taken.
    fn is_taken(&self, block: Block) -> bool {
        self.taken.lock().unwrap().iter().any(|taken| block.run().contains(taken.pfn()))
    }
}

/// A memory that inherited a slab, and a thread that wants it as a run.
struct Labelled {
    memory: Memory<&'static TestMachine>,
    left: Block,
    run: Mutex<Option<bool>>,
}

impl Labelled {
    fn build() -> Self {
        let leaving = Leaving::build(1);
        let left = leaving.last();
        let Leaving { memory, .. } = leaving;
        // SAFETY: nothing here reads slabs.
        unsafe { memory.predecessor().label(left, FrameType::Slab) }.unwrap();
        Self { memory, left, run: Mutex::default() }
    }

    /// As adopting does when there is no memory for the rest of it.
    fn claim_and_put_back(&self) {
        // SAFETY: labelled by this test.
        if unsafe { self.memory.claim_as(self.left, FrameType::Slab) }.is_ok() {
            // SAFETY: claimed just now, and not written.
            unsafe {
                self.memory.predecessor().unclaim_labelled(
                    self.left,
                    FrameType::Table,
                    FrameType::Slab,
                )
            }
            .unwrap();
        }
    }

    fn claim_as_run(&self) {
        let claimed = self.memory.claim(self.left.run());
        *self.run.lock().unwrap() = Some(claimed.is_ok());
    }
}

/// A kernel to which two small buffers in one slab were left.
struct Buffers {
    kernel: Heirloom<&'static TestMachine>,
    handles: [Handle; 2],
}

impl Buffers {
    fn build() -> Self {
        let machine = TestMachine::pooled(96, 2, false);
        let kernel = machine.boot();
        let handles = [0, 1].map(|_| {
            let buffer = kernel.alloc(600).unwrap();
            // SAFETY: in use, and no thread frees it.
            unsafe { kernel.preserve(buffer) }.unwrap()
        });
        let kernel = machine.revive(kernel.entry());
        Self { kernel, handles }
    }

    fn claim(&self, which: usize) {
        self.kernel.restore(self.handles[which]).unwrap();
    }
}

/// A kernel to which a root was left.
struct Published {
    kernel: Heirloom<&'static TestMachine>,
    claimed: Mutex<Option<u8>>,
    published: Mutex<Option<bool>>,
}

impl Published {
    fn build() -> Self {
        let machine = TestMachine::pooled(96, 2, false);
        let kernel = machine.boot();
        kernel.publish("root", &[1; 24]).unwrap();
        let kernel = machine.revive(kernel.entry());
        Self { kernel, claimed: Mutex::default(), published: Mutex::default() }
    }

    fn claim(&self) {
        let root = self.kernel.claim_root("root").unwrap();
        *self.claimed.lock().unwrap() = Some(root.bytes()[0]);
        let start = std::ptr::NonNull::from(root.bytes()).cast();
        let at = self.kernel.memory().machine().phys(start).unwrap();
        let block = Block::containing(at.pfn(), Order::ZERO);
        assert!(
            self.kernel.memory().preserved().contains(block),
            "given back while it is looked at"
        );
    }

    fn publish(&self) {
        *self.published.lock().unwrap() = Some(self.kernel.publish("root", &[2; 24]).is_ok());
    }
}

/// Fails if the byte is changed by a load and a store in place of one operation.
#[test]
fn of_two_that_claim_a_folio_one_succeeds() {
    fn claim(world: &Heirs) {
        if let Ok(folio) = world.kernel.claim_folio(world.handle) {
            folio.into_raw();
            *world.granted.lock().unwrap() += 1;
        }
    }
    Model {
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
    Model {
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

/// Fails if the byte is stored in place of exchanged, by a claim or by what frees; or if the bit is
/// cleared before the byte is exchanged.
#[test]
fn a_claim_beside_a_finish_that_frees_comes_first_or_is_refused() {
    Model {
        name: "a folio is claimed while what is left is freed",
        preemptions: 3,
        build: || Leaving::build(1),
        threads: &[Leaving::claim, Leaving::finish],
        after: |world| {
            world.take_all();
            let claimed = world.folio.lock().unwrap().unwrap();
            assert_eq!(world.is_taken(world.last()), !claimed);
            assert_eq!(world.memory.preserved().contains(world.last()), claimed);
            assert_eq!(world.told.lock().unwrap().unwrap(), (u64::from(!claimed), 0));
            assert_eq!(world.memory.predecessor().finish(|_| Disposition::Free), (0, 0));
            world.memory.audit().unwrap();
        },
    }
    .check();
}

/// Fails if a claim of a run does not put back what it took, or puts back what it did not take.
#[test]
fn a_run_and_its_last_block_are_claimed_by_one_each_block_once() {
    Model {
        name: "a run is claimed, its last block too",
        preemptions: 3,
        build: || Leaving::build(3),
        threads: &[Leaving::claim_run, Leaving::claim],
        after: |world| {
            world.finish();
            world.each_block_has_one_owner();
        },
    }
    .check();
}

/// Fails if a claim of a run keeps what it took where the rest is freed meanwhile, or if what it took is freed.
#[test]
fn a_run_is_claimed_beside_a_finish_whole_or_not_at_all() {
    Model {
        name: "a run is claimed while what is left is freed",
        preemptions: 2,
        build: || Leaving::build(3),
        threads: &[Leaving::claim_run, Leaving::finish],
        after: |world| world.each_block_has_one_owner(),
    }
    .check();
}

/// Fails if claiming a run takes a byte for another than was seen.
#[test]
fn what_is_put_back_as_a_slab_is_claimed_as_nothing_else() {
    Model {
        name: "a slab is put back while another thread wants it as a run",
        preemptions: 3,
        build: Labelled::build,
        threads: &[Labelled::claim_and_put_back, Labelled::claim_as_run],
        after: |world| {
            assert_eq!(*world.run.lock().unwrap(), Some(false));
            assert!(world.memory.predecessor().contains(world.left));
            assert_eq!(world.memory.predecessor().label_of(world.left), Some(FrameType::Slab));
        },
    }
    .check();
}

/// Fails if a slab can be found before its states are this kernel's, or is adopted without the turn.
#[test]
fn two_first_claims_in_one_slab_both_succeed() {
    Model {
        name: "two buffers of one slab are claimed",
        preemptions: 2,
        build: Buffers::build,
        threads: &[|world| world.claim(0), |world| world.claim(1)],
        after: |world| {
            for handle in world.handles {
                assert!(world.kernel.restore(handle).is_err(), "claimed twice");
            }
            let stats = world.kernel.slabs().caches().map(|cache| cache.stats());
            let stats: Vec<_> = stats.filter(|stats| stats.slabs > 0).collect();
            assert!(matches!(stats[..], [one] if one.live == 2 && one.preserved == 2), "{stats:?}");
            world.kernel.memory().audit().unwrap();
        },
    }
    .check();
}

/// Fails if publishing replaces what was not claimed.
#[test]
fn a_root_is_claimed_beside_a_publish_of_its_name() {
    Model {
        name: "a root is claimed while another is published in its place",
        preemptions: 2,
        build: Published::build,
        threads: &[Published::publish, Published::claim],
        after: |world| {
            assert_eq!(*world.claimed.lock().unwrap(), Some(1));
            let published = world.published.lock().unwrap().unwrap();
            assert!(world.kernel.claim_root("root").is_err());
            let mut roots = 0;
            world.kernel.for_each_subtree(|name, _, _| roots += u32::from(name == "root")).unwrap();
            assert_eq!(roots, 1, "published: {published}");
            world.kernel.unpublish("root").unwrap();
            assert_eq!(
                world.kernel.finish(|_| Disposition::Free).unwrap().folios,
                0,
                "published: {published}"
            );
            world.kernel.memory().audit().unwrap();
        },
    }
    .check();
}
