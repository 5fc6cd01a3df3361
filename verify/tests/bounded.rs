//! Hostile tables cost what reading them once costs: as many pages, as much work.

use std::convert::Infallible;

use heirloom::kho::tree::{Frames, FramesOf};
use heirloom::kho::{Handle, Left as LeftPages, Parts, PhysAddr, RootView, Run};
use heirloom::restore::{Entry, SealPolicy, survey};
use heirloom::slab::CacheSpec;
use heirloom_verify::contract::{Attempt, findings, take_over};
use heirloom_verify::world::{
    PAGE, Place, Recipe, Record, Shape, THINGS, TestMachine, TestObject, end,
};

/// The root of the tree.
fn map_of(machine: &TestMachine, entry: Entry) -> PhysAddr {
    RootView::read(&LeftPages::bare(machine), entry.root).unwrap().map()
}

/// A world whose tree has a node in every frame that nothing else is in: tables that lead nowhere,
/// 512 below each other one. How many there are.
fn tree_of_nodes(frames: u64) -> (TestMachine, Entry, u64) {
    let machine = TestMachine::new(frames);
    let left = Shape::Bare.leave(&machine, false);
    let root = map_of(&machine, left.entry);
    let used: Vec<Run> = (left.tables.iter())
        .filter_map(|table| Run::covering(table.addr, table.bytes as u64))
        .chain([machine.scratch()])
        .collect();
    // The tree itself is preserved by nobody, the tables of the handover are.
    let free = (0..frames).map(|n| machine.frame(n)).filter(|at| {
        let frame = Run::covering(*at, PAGE).unwrap();
        !used.iter().any(|run| run.overlaps(frame))
    });
    let mut free: Vec<PhysAddr> = free.collect();
    // What the successor's own tables take.
    free.truncate(free.len() - 32);
    // The way to the one leaf: its second table has room for others beside it.
    let below = (0..512).map(|i| machine.word(PhysAddr::new(root.get() + i * 8)));
    let second = PhysAddr::new(below.clone().find(|entry| *entry != 0).unwrap());
    let mut nodes = 0;
    let mut parents = vec![second];
    while let Some(parent) = parents.pop() {
        for i in 0..512 {
            let entry = PhysAddr::new(parent.get() + i * 8);
            if machine.word(entry) != 0 {
                continue;
            }
            let Some(child) = free.pop() else { return (machine, left.entry, nodes) };
            machine.write(child, &[0; PAGE as usize]);
            machine.put(entry, child.get());
            nodes += 1;
            // Two levels of tables, and leaves below them would need keys.
            if parent == second && parents.len() < 4 {
                parents.push(child);
            }
        }
    }
    (machine, left.entry, nodes)
}

#[test]
fn a_tree_of_n_pages_costs_order_of_n() {
    let mut each = Vec::new();
    for frames in [256, 1024, 4096] {
        let (machine, entry, nodes) = tree_of_nodes(frames);
        let before = machine.looks();
        let revived = machine.try_revive(entry, SealPolicy::Checked);
        let looks = machine.looks() - before;
        let kernel = revived.unwrap_or_else(|error| panic!("empty tables are no fault: {error}"));
        // They lead to nothing, and are free memory.
        let left = kernel.memory().preserved().counts().nodes();
        assert!(nodes > frames / 2 && left < 16, "{nodes} nodes, {left} left");
        each.push((frames, looks, nodes));
    }
    println!("bounded: {each:?} (frames, looks, nodes)");
    for (_, looks, nodes) in each {
        assert!(looks <= 4 * nodes + 400, "{looks} looks at {nodes} nodes");
    }
}

#[test]
fn every_entry_that_leads_back_to_the_root_is_refused_at_once() {
    for frames in [256, 4096] {
        let machine = TestMachine::new(frames);
        let left = Shape::Folios.leave(&machine, false);
        for table in left.tables.iter().filter(|table| table.place == Place::Node) {
            machine.load(&left.saved);
            let root = map_of(&machine, left.entry);
            for i in 0..512 {
                machine.put(PhysAddr::new(table.addr.get() + i * 8), root.get());
            }
            let found = findings(&machine, left.entry);
            assert!(!found.is_empty(), "{table:?}");
            let attempt = Attempt {
                entry: left.entry,
                policy: SealPolicy::Ignored,
                handles: &[],
                kept: &[],
                whim: 0,
            };
            let before = machine.looks();
            take_over(&machine, &attempt);
            let looks = machine.looks() - before;
            assert!(looks < 3000, "{looks} looks in a memory of {frames} frames");
        }
    }
}

/// The looks of `f` at a world's memory.
fn looks<R>(machine: &TestMachine, f: impl FnOnce() -> R) -> (R, u64) {
    let before = machine.looks();
    let result = f();
    (result, machine.looks() - before)
}

/// How much a survey finds wrong.
fn found(machine: &TestMachine, entry: Entry) -> usize {
    let mut words = vec![0; FramesOf::words(machine.all()).unwrap()];
    let mut stretches = [FramesOf::new(machine.all(), &mut words).unwrap()];
    let mut found = 0;
    let surveyed = survey(machine, entry, &mut Frames::new(&mut stretches), |_| {
        found += 1;
        Ok::<_, Infallible>(())
    });
    surveyed.unwrap_or_else(|never| match never {});
    found
}

/// A page of a chain: the address of the next one, and its entries.
fn page_of(machine: &TestMachine, at: PhysAddr, next: u64, entries: &[&[u8]]) {
    machine.write(at, &[0; PAGE as usize]);
    machine.put(at, next);
    machine.put(PhysAddr::new(at.get() + 8), entries.len() as u64);
    machine.write(PhysAddr::new(at.get() + 16), &entries.concat());
}

/// A cache directory of pages full of records, all of which name one chain of pages of slabs, each of which names
/// one slab: a reader that follows each record looks at the product of both.
#[test]
fn a_slab_table_that_many_records_name_is_read_once() {
    for frames in [256, 1024, 4096] {
        let machine = TestMachine::new(frames);
        let kernel = machine.boot();
        TestObject::keep(&kernel, Recipe::Object(THINGS), 1).unwrap();
        let mut pages = Vec::new();
        while kernel.memory().stats().free() > 40 {
            let kept = TestObject::keep(&kernel, Recipe::Folio(0), 0).unwrap();
            pages.push(kept.block().addr());
        }
        let roll = kernel.slabs().cache_directory();
        let entry = end(kernel);
        let record = machine.read(PhysAddr::new(roll.get() + 16), 128).to_vec();
        let table = PhysAddr::new(u64::from_le_bytes(record[8..16].try_into().unwrap()));
        let slab = machine.word(PhysAddr::new(table.get() + 16)).to_le_bytes();
        let (records, tables) = pages.split_at(pages.len() / 2);
        for (chain, first, entries) in
            [(records, roll, vec![&*record; 31]), (tables, table, vec![&slab[..]])]
        {
            let next = chain.iter().map(|page| page.get()).chain([0]);
            for (at, next) in [first].iter().chain(chain).zip(next) {
                page_of(&machine, *at, next, &entries);
            }
        }
        let (found, survey) = looks(&machine, || found(&machine, entry));
        assert!(found >= records.len() + tables.len(), "{found} findings");
        let (revived, revive) = looks(&machine, || machine.try_revive(entry, SealPolicy::Checked));
        assert!(revived.is_err(), "one table has one owner");
        println!("bounded: {frames} frames, {survey} looks of a survey, {revive} of a revive");
        // Each record's table, and each slab, is looked for in the tree.
        let named = (31 * (records.len() + 1) + tables.len() + 1) as u64;
        let limit = 32 * named + 16 * frames;
        assert!(survey <= limit, "{survey} looks for a survey of {named} names, {frames} frames");
        assert!(revive <= 16 * frames, "{revive} looks for a revive of {frames} frames");
    }
}

/// A small buffer's claim looks at its slab, and not through the cache directory of all caches.
#[test]
fn a_claim_costs_the_same_however_many_caches_there_are() {
    let mut each = Vec::new();
    for caches in [1, 40] {
        let machine = TestMachine::new(4096);
        let kernel = machine.boot();
        for n in 0..caches {
            let name = format!("cache-{n}");
            let spec = CacheSpec::new(&name, 400).preserving(true);
            TestObject::keep(&kernel, Recipe::Object(spec), 1).unwrap();
        }
        let kept: Vec<_> = (0..200)
            .map(|n| TestObject::keep(&kernel, Recipe::Buffer(100, false), n).unwrap())
            .collect();
        let kept: Vec<_> = kept.iter().map(TestObject::handle).collect();
        let next = machine.jump(kernel);
        let ((), right) =
            looks(&machine, || kept.iter().for_each(|h| _ = next.restore(*h).unwrap()));
        let ((), wrong) = looks(&machine, || {
            for handle in &kept {
                assert!(next.restore(*handle).is_err());
            }
        });
        each.push((caches, right, wrong));
    }
    println!("bounded: {each:?} (caches, looks of right claims, of wrong ones)");
    let [(_, right, wrong), (_, more_right, more_wrong)] = each[..] else { panic!("{each:?}") };
    assert!(more_right <= right + 64 && more_wrong <= wrong + 64, "{each:?}");
    assert!(more_right <= 200 * 16 && more_wrong <= 200 * 16, "{each:?}");
}

/// A list of records costs its blocks, once: no claim that comes too late, or in its middle, reads it
/// again.
#[test]
fn a_list_that_was_claimed_is_not_read_again() {
    let mut each = Vec::new();
    for frames in [256, 1024, 4096] {
        let machine = TestMachine::new(frames);
        let kernel = machine.boot();
        let blocks = frames / 2;
        let kept =
            TestObject::keep(&kernel, Recipe::Records((blocks - 1) * 170 + 1), 7).unwrap().handle();
        let mut next = machine.jump(kernel);
        let Ok(Parts::Records { first, entry }) = kept.parts() else { panic!("{kept:?}") };
        let mut at = vec![first];
        while let Some(next) = Some(machine.word(at[at.len() - 1])).filter(|next| *next != 0) {
            at.push(PhysAddr::new(next));
        }
        assert_eq!(at.len() as u64, blocks);
        let handle = |first| Handle::new(Parts::Records { first, entry }).unwrap();
        let ((), right) = looks(&machine, || _ = next.claim_records::<Record>(kept).unwrap());
        let ((), wrong) = looks(&machine, || {
            for first in &at {
                assert!(next.claim_records::<Record>(handle(*first)).is_err());
            }
        });
        // Another successor, to which its end comes first: each claim takes the block before what is
        // claimed, finds that the next is not there, and puts it back.
        let (first, last) = (at[0], at[at.len() - 1]);
        next = machine.jump(next);
        _ = next.claim_records::<Record>(handle(last)).unwrap();
        let before_last = at[at.len() - 2];
        let ((), short) = looks(&machine, || {
            for _ in 0..100 {
                assert!(next.claim_records::<Record>(handle(before_last)).is_err());
            }
        });
        let ((), whole) =
            looks(&machine, || assert!(next.claim_records::<Record>(handle(first)).is_err()));
        each.push((frames, right, wrong, short, whole));
        assert!(right <= 16 * frames, "{each:?}");
        assert!(wrong <= 16 * frames && short <= 100 * 32 && whole <= 32 * frames, "{each:?}");
    }
    println!(
        "bounded: {each:?} (frames; looks of a claim, of those too late, in the middle, undone)"
    );
}
