//! What was found by looking for it: each a promise at a place where it is easily broken.

use std::collections::BTreeSet;
use std::vec;
use std::vec::Vec;

use heirloom_kho::tree::{Geometry, TreeFault};
use heirloom_kho::{PAGE_SIZE, Pfn};

use super::*;
use crate::harness::Ram;
use crate::machine::{DirectMap, NodeId};
use crate::request::Request;

pub(super) fn order(o: u8) -> Order {
    Order::new(o).unwrap()
}

/// The block of order `o` at `frame` from the first.
pub(super) fn block(frame: u64, o: u8) -> Block {
    Block::new(Ram::frames(1)[0].0.start().add(frame), order(o)).unwrap()
}

pub(super) fn run(frame: u64, frames: u64) -> Run {
    Run::new(block(frame, 0).pfn(), frames).unwrap()
}

/// A kernel that preserved these folios.
pub(super) fn kernel(ranges: &[(Run, NodeId)], blocks: &[Block]) -> Memory<Ram> {
    let memory = Ram::memory(ranges).unwrap();
    for block in blocks {
        memory.alloc_at(*block).unwrap();
    }
    for block in blocks {
        memory.preserve_block(*block, FrameType::Folio).unwrap();
    }
    memory
}

pub(super) fn successor(memory: Memory<Ram>, ranges: &[(Run, NodeId)]) -> Memory<Ram> {
    let root = memory.preserved().tree_root().unwrap();
    memory.into_machine().attach(ranges).unwrap().take_over(root).unwrap().0
}

pub(super) fn inherited(memory: &Memory<Ram>) -> Vec<Block> {
    let mut blocks = Vec::new();
    memory.predecessor().for_each(|b| blocks.push(b));
    blocks
}

/// The nodes of a tree that has these blocks and never had others.
pub(super) fn nodes_of(blocks: &[Block]) -> u64 {
    let g = Geometry::BUILD;
    let stretches = |level: u32| {
        let bits = g.leaf_log2 + level * g.table_log2;
        blocks.iter().map(|b| Key::of(*b).get() >> bits).collect::<BTreeSet<_>>().len() as u64
    };
    1 + (0..g.levels - 1).map(stretches).sum::<u64>()
}

#[test]
fn a_leaf_that_was_looked_at_before_it_is_pruned_is_not_written_to() {
    let ranges = Ram::frames(256);
    let [kept, gone] = [block(8, 0), block(16, 3)];
    let memory = kernel(&ranges, &[kept, gone]);
    memory.unpreserve_block(gone, FrameType::Folio).unwrap();
    let root = memory.preserved().tree_root().unwrap();
    let mut memory = memory.into_machine().attach(&ranges).unwrap();
    memory.take_over_in_place(root, |_| ()).unwrap();
    // As the layers above look for what tables name, before there is an owner of anything.
    assert!(!memory.preserved().contains(gone) && memory.claim(gone).is_err());
    let nodes = memory.preserved().counts().nodes();
    memory.prune();
    assert!(memory.preserved().counts().nodes() < nodes, "the leaf of {gone} is gone");
    memory.alloc_at(gone).unwrap();
    memory.preserve_block(gone, FrameType::Folio).unwrap();
    assert!(memory.preserved().contains(gone));
    assert_eq!(inherited(&successor(memory, &ranges)), [gone, kept]);
}

#[test]
fn what_was_freed_before_a_tree_is_taken_over_is_claimed_all_the_same() {
    let ranges = Ram::frames(512);
    let blocks = [block(64, 0), block(65, 0), block(66, 1), block(72, 3), block(128, 6)];
    let memory = kernel(&ranges, &blocks);
    let root = memory.preserved().tree_root().unwrap();
    let early = memory.into_machine().attach(&ranges).unwrap();
    // Everything is used once, in each way, before it is known what was preserved; nothing is written.
    let all = run(0, 512);
    early.alloc_at(all).unwrap();
    // SAFETY: allocated above; and so for each call below.
    unsafe { early.free(all) }.unwrap();
    for o in [0, 1, 3, 6] {
        let used: Vec<_> = all.blocks_up_to(order(o)).collect();
        for b in &used {
            early.alloc_at_as(*b, FrameType::Table).unwrap();
        }
        for b in used {
            // SAFETY: as above; nothing looks for slabs.
            unsafe {
                early.make_slab(b).unwrap();
                early.free_as(b, FrameType::Slab).unwrap();
            }
        }
    }
    let singles: Vec<_> = (0..300).map(|_| early.alloc(Request::new(order(0))).unwrap()).collect();
    for b in singles {
        // SAFETY: as above.
        unsafe { early.free(b) }.unwrap();
    }
    // One stays, where it is in no way.
    early.alloc_at(block(300, 2)).unwrap();
    let (memory, counts) = early.take_over(root).unwrap();
    assert_eq!((counts.total(), inherited(&memory).len()), (5, 5));
    // SAFETY: nothing reads slabs here.
    unsafe { memory.predecessor().label(blocks[3], FrameType::Slab) }.unwrap();
    // SAFETY: as above.
    unsafe { memory.claim_as(blocks[3], FrameType::Slab) }.unwrap();
    memory.claim(run(64, 4)).unwrap_err();
    for b in [0, 1, 2, 4].map(|i| blocks[i]) {
        memory.claim(b).unwrap();
    }
    assert_eq!(
        memory.owning_block(block(301, 0).pfn()),
        Some((block(300, 2).run(), FrameType::Folio, false))
    );
    // What is freed from now on is no predecessor's.
    for b in [0, 1, 2, 4].map(|i| blocks[i]) {
        memory.unpreserve_block(b, FrameType::Folio).unwrap();
        // SAFETY: claimed above.
        unsafe { memory.free(b) }.unwrap();
        assert_eq!(memory.claim(b), Err(Error::NotPreserved { block: b }));
    }
    memory.audit().unwrap();
}

#[test]
fn what_is_in_use_is_not_taken_over() {
    let ranges = Ram::frames(256);
    for early in [block(72, 0), block(79, 0), block(76, 2), block(72, 3)] {
        let memory = kernel(&ranges, &[block(72, 3)]);
        let root = memory.preserved().tree_root().unwrap();
        let next = memory.into_machine().attach(&ranges).unwrap();
        next.alloc_at(early).unwrap();
        let refused = next.take_over(root).map(drop).unwrap_err();
        let Error::Tree(error) = refused else { panic!("{refused}") };
        assert_eq!(error.reason, TreeFault::Overlap { block: block(72, 3) }, "{early}");
    }
}

/// A predecessor whose tree is made by hand: an entry of a node, and the page that it leads to.
struct Forged {
    memory: Memory<Ram>,
    root: PhysAddr,
    ranges: [(Run, NodeId); 1],
}

impl Forged {
    fn new() -> Self {
        let ranges = Ram::frames(128);
        let memory = Ram::memory(&ranges).unwrap();
        let root = memory.preserved().tree_root().unwrap();
        Self { memory, root, ranges }
    }

    fn page(&self) -> PhysAddr {
        let request = Request::new(Order::ZERO).frame_type(FrameType::Table).zeroed();
        self.memory.alloc(request).unwrap().addr()
    }

    fn link(&self, node: PhysAddr, index: usize, page: PhysAddr) {
        self.memory.words_of(node).unwrap()[index].store(page.get(), Relaxed);
    }

    /// A node below another at this index, empty so far.
    fn below(&self, node: PhysAddr, index: usize) -> PhysAddr {
        let page = self.page();
        self.link(node, index, page);
        page
    }

    /// The node of each level on the way to a block, from the root; they are made.
    fn path(&self, block: Block) -> Vec<PhysAddr> {
        let mut path = vec![self.root];
        for level in (1..Geometry::BUILD.levels).rev() {
            let node = *path.last().unwrap();
            let index = Key::of(block).index(level);
            let entry = self.memory.words_of(node).unwrap()[index].load(Relaxed);
            let next = if entry == 0 { self.below(node, index) } else { PhysAddr::new(entry) };
            path.push(next);
        }
        path
    }

    fn take_over(self) -> Result<(Memory<Ram>, Counts), Error> {
        self.memory.into_machine().attach(&self.ranges).unwrap().take_over(self.root)
    }

    /// The fault for which it is refused.
    fn fault(self) -> TreeFault {
        match self.take_over().map(drop) {
            Err(Error::Tree(error)) => error.reason,
            other => panic!("{other:?}"),
        }
    }
}

/// That memory has its root alone, and all of the rest can be used and preserved.
fn assert_bare(memory: &Memory<Ram>) {
    assert_eq!((memory.preserved().counts().nodes(), memory.preserved().counts().total()), (1, 0));
    assert_eq!(memory.stats().used(), 1);
    memory.audit().unwrap();
    let b = memory.alloc(Request::new(order(5))).unwrap();
    memory.preserve_block(b, FrameType::Folio).unwrap();
    assert!(memory.preserved().contains(b));
    assert_eq!(memory.preserved().counts().nodes(), nodes_of(&[b]));
    while memory.alloc(Request::new(Order::ZERO)).is_ok() {}
    assert_eq!(memory.stats().used(), memory.stats().frames);
}

#[test]
fn nodes_that_lead_to_nothing_become_free_memory() {
    // The root alone.
    assert_bare(&Forged::new().take_over().unwrap().0);
    // An empty leaf, of the orders of a folio, a table, and the highest; and the very first leaf, which
    // many orders share.
    for o in [0, 3, 18, 31, Order::MAX.get()] {
        let forged = Forged::new();
        forged.path(Block::new(Pfn::new(0), order(o)).unwrap());
        let (memory, counts) = forged.take_over().unwrap();
        assert_eq!((counts.total(), counts.nodes()), (0, Geometry::BUILD.levels.into()), "{o}");
        assert_bare(&memory);
    }
    // Ways that end at each level; and beside one that leads somewhere.
    for depth in 1..Geometry::BUILD.levels as usize {
        let forged = Forged::new();
        let mut node = forged.root;
        for _ in 0..depth {
            node = forged.below(node, 1);
        }
        assert_bare(&forged.take_over().unwrap().0);
        let forged = Forged::new();
        let kept = block(40, 1);
        forged.memory.alloc_at(kept).unwrap();
        forged.memory.preserve_block(kept, FrameType::Folio).unwrap();
        let path = forged.path(kept);
        let mut node = path[depth - 1];
        let free = |word: &AtomicU64| word.load(Relaxed) == 0;
        for level in (1..=Geometry::BUILD.levels as usize - depth).rev().take(2) {
            // Where a key leads: below the largest.
            let words = forged.memory.words_of(node).unwrap();
            let index = (0..16).find(|i| free(&words[*i])).unwrap();
            node = forged.below(node, index);
            assert!(level > 0);
        }
        let (memory, _) = forged.take_over().unwrap();
        assert_eq!(
            (inherited(&memory), memory.preserved().counts().nodes()),
            (vec![kept], nodes_of(&[kept]))
        );
        memory.claim(kept).unwrap();
        assert_eq!(memory.stats().used(), 2 + nodes_of(&[kept]));
        memory.audit().unwrap();
    }
}

#[test]
fn forged_nodes_that_lead_to_nothing_are_refused_or_have_one_place() {
    let kept = block(40, 1);
    // One page as two empty nodes; as its own child; as the root.
    let forged = Forged::new();
    let twice = forged.below(forged.root, 0);
    forged.link(forged.root, 1, twice);
    let page = |addr: PhysAddr| Block::containing(addr.pfn(), Order::ZERO);
    assert_eq!(forged.fault(), TreeFault::Overlap { block: page(twice) });
    let forged = Forged::new();
    let own = forged.below(forged.root, 1);
    forged.link(own, 3, own);
    assert_eq!(forged.fault(), TreeFault::Overlap { block: page(own) });
    let forged = Forged::new();
    let root = forged.root;
    let node = forged.below(root, 1);
    forged.link(node, 0, root);
    assert_eq!(forged.fault(), TreeFault::Overlap { block: page(root) });
    // In a block that is preserved: whichever comes first in the tree.
    for first in [true, false] {
        let forged = Forged::new();
        forged.memory.alloc_at(kept).unwrap();
        forged.memory.preserve_block(kept, FrameType::Folio).unwrap();
        let table = *forged.path(kept).iter().rev().nth(1).unwrap();
        // SAFETY: the forger's.
        unsafe { forged.memory.machine().ptr(kept.addr()).write_bytes(0, 2 * PAGE_SIZE) };
        let words = forged.memory.words_of(table).unwrap();
        let at = words.iter().position(|word| word.load(Relaxed) != 0).unwrap();
        // Beside the leaf of what is kept: in front of it, if that is not the first of the table.
        let index = if first && at > 0 { 0 } else { at + 1 };
        forged.link(table, index, kept.addr());
        let fault = forged.fault();
        assert!(matches!(fault, TreeFault::Overlap { .. }), "{fault:?}");
    }
    // Outside memory; no page; where no key leads.
    let forged = Forged::new();
    let outside = PhysAddr::new(1 << 45);
    forged.link(forged.root, 1, outside);
    assert_eq!(forged.fault(), TreeFault::OutsideMemory { addr: outside });
    let forged = Forged::new();
    forged.link(forged.root, 1, PhysAddr::new(forged.root.get() + 8));
    assert_eq!(forged.fault(), TreeFault::Misaligned { entry: root.get() + 8 });
    let forged = Forged::new();
    let last = PAGE_SIZE / 8 - 1;
    forged.below(forged.root, last);
    let levels = Geometry::BUILD;
    let top = (last as u64) << (levels.leaf_log2 + (levels.levels - 2) * levels.table_log2);
    if top >= 1 << levels.key_bits {
        assert_eq!(forged.fault(), TreeFault::NoKey);
    } else {
        assert_bare(&forged.take_over().unwrap().0);
    }
    // As many as there are frames: all of them free memory.
    let forged = Forged::new();
    let node = forged.below(forged.root, 1);
    (0..100).for_each(|index| _ = forged.below(node, index));
    let (memory, counts) = forged.take_over().unwrap();
    assert_eq!(counts.nodes(), 102);
    assert_bare(&memory);
}
