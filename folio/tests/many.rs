//! Many blocks in one call: all of them or none, and no other.

mod common;

use common::owned::Owned as _;
use heirloom_folio::harness::Ram;
use heirloom_folio::{Disposition, Error, FrameType, Memory, NodeId, Request};
use heirloom_kho::tree::FolioRange;
use heirloom_kho::{Block, Order, Run};

fn order(o: u8) -> Order {
    Order::new(o).unwrap()
}

/// Folios of orders 0 to 3, more than are asked for ahead at once, and what is preserved of them.
fn folios(memory: &Memory<Ram>) -> Vec<Block> {
    (0..70).map(|i| memory.alloc(Request::new(order(i % 4))).unwrap()).collect()
}

fn preserved(memory: &Memory<Ram>) -> Vec<Block> {
    let mut all = Vec::new();
    memory.preserved().for_each(|block| all.push(block));
    all.sort_by_key(|block| block.pfn());
    all
}

fn inherited(memory: &Memory<Ram>) -> Vec<Block> {
    let mut all = Vec::new();
    memory.predecessor().for_each(|block| all.push(block));
    all.sort_by_key(|block| block.pfn());
    all
}

fn successor(memory: Memory<Ram>, ranges: &[(Run, NodeId)]) -> Memory<Ram> {
    let root = memory.preserved().tree_root().unwrap();
    memory.into_machine().attach(ranges).unwrap().take_over(root).unwrap().0
}

#[test]
fn one_at_fault_anywhere_and_none_is_preserved() {
    let memory = Ram::memory(&Ram::frames(1024)).unwrap();
    let mut blocks = folios(&memory);
    memory.keep(&[]).unwrap();
    for at in [0, 1, 15, 16, 17, 40, 69] {
        memory.keep(blocks[at]).unwrap();
        let refused = memory.keep(&blocks[..]);
        assert_eq!(refused, Err(Error::AlreadyPreserved { block: blocks[at] }));
        assert_eq!(preserved(&memory), [blocks[at]]);
        memory.let_go(blocks[at]).unwrap();
    }
    memory.keep(&blocks[..]).unwrap();
    for at in [0, 1, 15, 16, 17, 40, 69] {
        memory.let_go(blocks[at]).unwrap();
        let refused = memory.let_go(&blocks[..]);
        assert_eq!(refused, Err(Error::NotPreserved { block: blocks[at] }));
        assert_eq!(preserved(&memory).len(), blocks.len() - 1);
        memory.keep(blocks[at]).unwrap();
    }
    memory.let_go(&blocks[..]).unwrap();
    assert_eq!(preserved(&memory), []);
    blocks.push(blocks[3]);
    let refused = memory.keep(&blocks[..]);
    assert_eq!(refused, Err(Error::AlreadyPreserved { block: blocks[3] }));
    assert_eq!(preserved(&memory), []);
}

#[test]
fn one_at_fault_anywhere_and_none_is_claimed() {
    let ranges = Ram::frames(1024);
    let memory = Ram::memory(&ranges).unwrap();
    let blocks = folios(&memory);
    memory.keep(&blocks[..]).unwrap();
    let memory = successor(memory, &ranges);
    let (before, left) = (memory.audit().unwrap(), inherited(&memory));
    assert_eq!(left.len(), blocks.len());
    memory.claim(&[]).unwrap();
    for at in [0, 1, 15, 16, 17, 40, 69] {
        let wrong = Block::containing(blocks[at].pfn(), order(blocks[at].order().get() ^ 1));
        let mut asked = blocks.clone();
        asked[at] = wrong;
        let refused = memory.claim(&asked[..]);
        assert_eq!(refused, Err(Error::NotPreserved { block: wrong }), "{at}");
        asked[at] = blocks[(at + 69) % 70];
        assert!(memory.claim(&asked[..]).is_err(), "twice");
        assert_eq!((memory.audit().unwrap(), inherited(&memory)), (before, left.clone()));
        assert_eq!(preserved(&memory), left, "what is claimed or not stays preserved");
    }
    memory.claim(&blocks[..]).unwrap();
    assert_eq!((inherited(&memory), preserved(&memory)), (vec![], left));
    let again = memory.claim(&blocks[7..]);
    assert_eq!(again, Err(Error::NotPreserved { block: blocks[7] }));
    // SAFETY: refused: they are preserved.
    let refused = unsafe { memory.free(blocks[0]) };
    assert_eq!(refused, Err(Error::Preserved { block: blocks[0] }));
    memory.let_go(&blocks[..]).unwrap();
    for block in &blocks {
        // SAFETY: claimed above, and not used again.
        unsafe { memory.free(*block) }.unwrap();
    }
    let audit = memory.audit().unwrap();
    assert_eq!(audit.allocated.iter().sum::<u64>(), memory.preserved().counts().nodes());
    assert_eq!((audit.reserved, memory.preserved().counts().total()), (0, 0));
}

#[test]
fn what_has_a_label_is_not_claimed_with_others() {
    let ranges = Ram::frames(1024);
    let memory = Ram::memory(&ranges).unwrap();
    let blocks = folios(&memory);
    memory.keep(&blocks[..]).unwrap();
    let memory = successor(memory, &ranges);
    // SAFETY: nothing reads slabs here.
    unsafe { memory.predecessor().label(blocks[30], FrameType::Slab) }.unwrap();
    let refused = memory.claim(&blocks[..]);
    let (pfn, expected, found) = (blocks[30].pfn(), FrameType::Folio, FrameType::Slab);
    assert_eq!(refused, Err(Error::WrongType { pfn, expected, found }));
    assert_eq!(inherited(&memory).len(), blocks.len());
}

#[test]
fn nothing_is_claimed_where_nothing_was_left_or_all_is_disposed_of() {
    let ranges = Ram::frames(256);
    let memory = Ram::memory(&ranges).unwrap();
    let [block, other] = [0; 2].map(|_| memory.alloc(Request::new(order(0))).unwrap());
    assert_eq!(memory.claim(&[block]), Err(Error::NotPreserved { block }));
    memory.keep(&[block, other]).unwrap();
    assert_eq!(memory.claim(&[block]), Err(Error::NotPreserved { block }), "it has an owner");
    let memory = successor(memory, &ranges);
    // What is asked about can be claimed, and is its owner's then.
    let done = memory.predecessor().finish(|asked| {
        if asked == block {
            memory.claim(&[block]).unwrap();
        }
        Disposition::Free
    });
    assert_eq!((done, preserved(&memory)), ((1, 0), vec![block]));
    for gone in [block, other] {
        assert_eq!(memory.claim(&[gone]), Err(Error::NotPreserved { block: gone }));
    }
}

#[test]
fn adjacent_folios_are_claimed_all_or_none() {
    let ranges = Ram::frames(256);
    let memory = Ram::memory(&ranges).unwrap();
    let first = memory.alloc(Request::new(order(6))).unwrap();
    // SAFETY: allocated just now.
    unsafe { memory.free(first) }.unwrap();
    let row = FolioRange::new(Block::containing(first.pfn(), order(1)), 20).unwrap();
    let blocks: Vec<Block> = row.blocks().collect();
    assert_eq!((blocks.len(), blocks[19].run().end()), (20, row.run().end()));
    for block in &blocks {
        memory.alloc_at(*block).unwrap();
    }
    memory.keep(row).unwrap();
    let memory = successor(memory, &ranges);
    for at in [0, 1, 16, 19] {
        memory.claim(blocks[at]).unwrap();
        assert_eq!(memory.claim(row), Err(Error::NotPreserved { block: blocks[at] }));
        assert_eq!(inherited(&memory).len(), 19);
        // SAFETY: claimed above, and not written.
        unsafe { memory.unclaim_as(blocks[at], FrameType::Folio) }.unwrap();
    }
    memory.claim(row).unwrap();
    assert_eq!((inherited(&memory), preserved(&memory)), (vec![], blocks));
    memory.let_go(row).unwrap();
}
