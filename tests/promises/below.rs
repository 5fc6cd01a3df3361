//! What a layer above owns is refused below: the safe raw calls of `Memory` take folios and runs,
//! and no table, slab or buffer, whoever's it is.

use heirloom::folio::{Error, FrameType};
use heirloom::kho::tree::FolioRange;
use heirloom::kho::{Block, Handle, Parts, Run};
use heirloom::restore::Records;

use crate::common::{
    Kernel, PAGE, State, World, finish_freeing, free_area, keep_area, keep_buffer, keep_folio,
    stamped,
};
use crate::owned::Owned as _;

/// Everything preserved that is no plain folio: the tables of all layers, and slabs.
fn owned_above(kernel: &Kernel<'_>) -> Vec<(Block, FrameType)> {
    let mut owned = Vec::new();
    kernel.memory().preserved().for_each(|block| {
        let (run, kind, _) = kernel.memory().owning_block(block.pfn()).unwrap();
        if run == block.run() && matches!(kind, FrameType::Table | FrameType::Slab) {
            owned.push((block, kind));
        }
    });
    owned
}

/// Asserts that no safe call of the memory takes the block.
fn refused(kernel: &Kernel<'_>, block: Block, found: FrameType) {
    let memory = kernel.memory();
    let pfn = block.pfn();
    let no_folio = Err(Error::WrongType { pfn, expected: FrameType::Folio, found });
    let row = FolioRange::new(block, 1).unwrap();
    assert_eq!(memory.let_go(block), no_folio, "{block}");
    assert_eq!(memory.keep(block), no_folio, "{block}");
    assert_eq!(memory.let_go(&[block]), no_folio, "{block}");
    assert_eq!(memory.keep(&[block]), no_folio, "{block}");
    assert_eq!(memory.let_go(row), no_folio, "{block}");
    assert_eq!(memory.keep(row), no_folio, "{block}");
    for refused in [memory.let_go(block.run()), memory.keep(block.run())] {
        assert!(matches!(refused, Err(Error::WrongType { .. })), "{block}: {refused:?}");
    }
    let not_free = Err(Error::NotFree { run: block.run() });
    assert_eq!(memory.reserve(block.run()), not_free);
    assert_eq!(memory.alloc_at(block), not_free);
    assert_eq!(memory.alloc_at(block.run()), not_free);
}

#[test]
fn tables_and_slabs_are_taken_by_no_safe_call_of_the_memory() {
    let world = World::new(2048);
    let kernel = world.boot();
    let folio = keep_folio(&kernel, 2, 1).unwrap();
    let small = keep_buffer(&kernel, 100, true, 2).unwrap();
    let large = keep_buffer(&kernel, 3 * PAGE as usize, true, 3).unwrap();
    let area = keep_area(&kernel, 3, 1, 4).unwrap();
    let mut list = Records::<_, [u64; 3]>::new(kernel.memory()).unwrap();
    list.push(&[1, 2, 3]).unwrap();
    let list = list.first();
    kernel.publish("blob", &[7; 5000]).unwrap();
    kernel.seal().unwrap();

    let owned = owned_above(&kernel);
    let has = |pfn| owned.iter().any(|(block, _)| block.run().contains(pfn));
    let entry = kernel.entry();
    let Ok(Parts::Area(info)) = area.parts() else { panic!("{area:?}") };
    for (name, at) in [
        ("root", entry.root),
        ("scratch list", entry.scratch),
        ("roll", kernel.slabs().cache_directory()),
        ("list", list),
        ("area", info.first()),
    ] {
        assert!(has(at.pfn()), "{name}");
    }
    kernel.for_each_subtree(|name, addr, _| assert!(has(addr.pfn()), "{name}")).unwrap();
    assert_eq!(owned.iter().filter(|(_, kind)| *kind == FrameType::Slab).count(), 1);
    assert!(owned.len() >= 9, "the header, the slab's table and the seal too: {owned:?}");

    let before = State::of(&kernel);
    for &(block, kind) in &owned {
        refused(&kernel, block, kind);
    }
    let Ok(Parts::Buffer { addr, bytes }) = large.parts() else { panic!("{large:?}") };
    let run = Run::covering(addr, bytes).unwrap();
    let (pfn, expected, found) = (run.start(), FrameType::Run, FrameType::Buffer);
    let wrong = Err(Error::WrongType { pfn, expected, found });
    assert_eq!(kernel.memory().let_go(run), wrong);
    assert_eq!(kernel.memory().keep(run), wrong);
    assert_eq!(State::of(&kernel), before);

    // The successor, which finds all of it labelled, or as its handles say.
    let kernel = world.jump(kernel);
    // What the handover is made of, and what is found through its tables.
    let mut labelled = Vec::new();
    kernel.memory().preserved().for_each(|block| {
        if let Some((_, found @ (FrameType::Table | FrameType::Slab), _)) =
            kernel.memory().owning_block(block.pfn())
        {
            labelled.push((block, found));
        }
    });
    assert!(labelled.len() >= 6, "{labelled:?}");
    let before = State::of(&kernel);
    let memory = kernel.memory();
    for &(block, found) in &labelled {
        refused(&kernel, block, found);
        let pfn = block.pfn();
        let no_folio = Err(Error::WrongType { pfn, expected: FrameType::Folio, found });
        assert_eq!(memory.claim_owned(block).map(drop), no_folio, "{block}");
        assert_eq!(memory.claim(&[block]), no_folio, "{block}");
        assert_eq!(memory.claim(block), no_folio, "{block}");
        let no_run = Err(Error::WrongType { pfn, expected: FrameType::Run, found });
        assert_eq!(memory.claim(block.run()), no_run, "{block}");
    }
    assert_eq!(State::of(&kernel), before);

    // And takes everything.
    assert!(stamped(kernel.claim_folio(folio).unwrap().bytes(), 1));
    assert_eq!(kernel.claim_root("blob").unwrap().bytes(), [7; 5000]);
    for handle in [small, large] {
        kernel.restore(handle).unwrap();
    }
    free_area(&kernel, kernel.claim_area(area).unwrap(), 4);
    let handle = Handle::new(Parts::Records { first: list, entry: 24 }).unwrap();
    kernel.claim_records::<[u64; 3]>(handle).unwrap().free().unwrap();
    assert_eq!(finish_freeing(&kernel).len(), 0);
}
