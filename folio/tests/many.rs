//! Many blocks in one call: all of them or none, and no other.

mod common;

use common::owned::Owned as _;
use heirloom_folio::harness::Ram;
use heirloom_folio::{Block, Error, Fate, Kind, Memory, NodeId, Order, Request, Run};

fn order(o: u8) -> Order {
    Order::new(o).unwrap()
}

/// Folios of orders 0 to 3, more than are asked for ahead at once, and what is preserved of them.
fn folios(memory: &Memory<Ram>) -> Vec<Block> {
    (0..70).map(|i| memory.alloc(Request::new(order(i % 4))).unwrap()).collect()
}

fn preserved(memory: &Memory<Ram>) -> Vec<Block> {
    let mut all = Vec::new();
    memory.for_each_preserved(|block| all.push(block));
    all.sort_by_key(|block| block.pfn());
    all
}

fn inherited(memory: &Memory<Ram>) -> Vec<Block> {
    let mut all = Vec::new();
    memory.for_each_inherited(|block| all.push(block));
    all.sort_by_key(|block| block.pfn());
    all
}

fn successor(memory: Memory<Ram>, ranges: &[(Run, NodeId)]) -> Memory<Ram> {
    let root = memory.tree_root().unwrap();
    memory.into_machine().attach(ranges).unwrap().inherit(root).unwrap().0
}

#[test]
fn one_at_fault_anywhere_and_none_is_preserved() {
    let memory = Ram::memory(&Ram::frames(1024)).unwrap();
    let mut blocks = folios(&memory);
    memory.keep_all(&[]).unwrap();
    for at in [0, 1, 15, 16, 17, 40, 69] {
        memory.keep(blocks[at]).unwrap();
        let refused = memory.keep_all(&blocks);
        assert_eq!(refused, Err(Error::AlreadyPreserved { block: blocks[at] }));
        assert_eq!(preserved(&memory), [blocks[at]]);
        memory.let_go(blocks[at]).unwrap();
    }
    memory.keep_all(&blocks).unwrap();
    for at in [0, 1, 15, 16, 17, 40, 69] {
        memory.let_go(blocks[at]).unwrap();
        let refused = memory.let_go_all(&blocks);
        assert_eq!(refused, Err(Error::NotPreserved { block: blocks[at] }));
        assert_eq!(preserved(&memory).len(), blocks.len() - 1);
        memory.keep(blocks[at]).unwrap();
    }
    memory.let_go_all(&blocks).unwrap();
    assert_eq!(preserved(&memory), []);
    blocks.push(blocks[3]);
    let refused = memory.keep_all(&blocks);
    assert_eq!(refused, Err(Error::AlreadyPreserved { block: blocks[3] }));
    assert_eq!(preserved(&memory), []);
}

#[test]
fn one_at_fault_anywhere_and_none_is_claimed() {
    let ranges = Ram::frames(1024);
    let memory = Ram::memory(&ranges).unwrap();
    let blocks = folios(&memory);
    memory.keep_all(&blocks).unwrap();
    let memory = successor(memory, &ranges);
    let (before, left) = (memory.audit().unwrap(), inherited(&memory));
    assert_eq!(left.len(), blocks.len());
    memory.claim_all(&[]).unwrap();
    for at in [0, 1, 15, 16, 17, 40, 69] {
        let wrong = Block::containing(blocks[at].pfn(), order(blocks[at].order().get() ^ 1));
        let mut asked = blocks.clone();
        asked[at] = wrong;
        let refused = memory.claim_all(&asked);
        assert_eq!(refused, Err(Error::NotPreserved { block: wrong }), "{at}");
        asked[at] = blocks[(at + 69) % 70];
        assert!(memory.claim_all(&asked).is_err(), "twice");
        assert_eq!((memory.audit().unwrap(), inherited(&memory)), (before, left.clone()));
        assert_eq!(preserved(&memory), left, "what is claimed or not stays preserved");
    }
    memory.claim_all(&blocks).unwrap();
    assert_eq!((inherited(&memory), preserved(&memory)), (vec![], left));
    let again = memory.claim_all(&blocks[7..]);
    assert_eq!(again, Err(Error::NotPreserved { block: blocks[7] }));
    // SAFETY: refused: they are preserved.
    let refused = unsafe { memory.free(blocks[0], Kind::Folio) };
    assert_eq!(refused, Err(Error::Preserved { block: blocks[0] }));
    memory.let_go_all(&blocks).unwrap();
    for block in &blocks {
        // SAFETY: claimed above, and not used again.
        unsafe { memory.free(*block, Kind::Folio) }.unwrap();
    }
    let audit = memory.audit().unwrap();
    assert_eq!(audit.allocated.iter().sum::<u64>(), memory.counts().nodes());
    assert_eq!((audit.reserved, memory.counts().total()), (0, 0));
}

#[test]
fn what_has_a_label_is_not_claimed_with_others() {
    let ranges = Ram::frames(1024);
    let memory = Ram::memory(&ranges).unwrap();
    let blocks = folios(&memory);
    memory.keep_all(&blocks).unwrap();
    let memory = successor(memory, &ranges);
    // SAFETY: nothing reads slabs here.
    unsafe { memory.label(blocks[30], Kind::Slab) }.unwrap();
    let refused = memory.claim_all(&blocks);
    let (pfn, expected, found) = (blocks[30].pfn(), Kind::Folio, Kind::Slab);
    assert_eq!(refused, Err(Error::WrongKind { pfn, expected, found }));
    assert_eq!(inherited(&memory).len(), blocks.len());
}

#[test]
fn nothing_is_claimed_where_nothing_was_left_or_all_is_disposed_of() {
    let ranges = Ram::frames(256);
    let memory = Ram::memory(&ranges).unwrap();
    let [block, other] = [0; 2].map(|_| memory.alloc(Request::new(order(0))).unwrap());
    assert_eq!(memory.claim_all(&[block]), Err(Error::NotPreserved { block }));
    memory.keep_all(&[block, other]).unwrap();
    assert_eq!(memory.claim_all(&[block]), Err(Error::NotPreserved { block }), "it has an owner");
    let memory = successor(memory, &ranges);
    // What is asked about can be claimed, and is its owner's then.
    let done = memory.disinherit(|asked| {
        if asked == block {
            memory.claim_all(&[block]).unwrap();
        }
        Fate::Free
    });
    assert_eq!((done, preserved(&memory)), ((1, 0), vec![block]));
    for gone in [block, other] {
        assert_eq!(memory.claim_all(&[gone]), Err(Error::NotPreserved { block: gone }));
    }
}
