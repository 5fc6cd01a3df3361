//! Hostile tables cost what reading them once costs: as many pages, as much work.

use heirloom::folio::{PhysAddr, Run};
use heirloom::restore::{Entry, Left as LeftPages, RootView, SealPolicy};
use heirloom_verify::contract::{Attempt, findings, take_over};
use heirloom_verify::world::{PAGE, Place, Shape, World};

/// The root of the tree.
fn map_of(world: &World, entry: Entry) -> PhysAddr {
    RootView::read(&LeftPages::bare(world), entry.root).unwrap().map()
}

/// A world whose tree has a node in every frame that nothing else is in: tables that lead nowhere,
/// 512 below each other one. How many there are.
fn tree_of_nodes(frames: u64) -> (World, Entry, u64) {
    let world = World::new(frames);
    let left = Shape::Bare.leave(&world, false);
    let root = map_of(&world, left.entry);
    let used: Vec<Run> = (left.tables.iter())
        .filter_map(|table| Run::covering(table.addr, table.bytes as u64))
        .chain([world.scratch()])
        .collect();
    // The tree itself is preserved by nobody, the tables of the handover are.
    let free = (0..frames).map(|n| world.frame(n)).filter(|at| {
        let frame = Run::covering(*at, PAGE).unwrap();
        !used.iter().any(|run| run.overlaps(frame))
    });
    let mut free: Vec<PhysAddr> = free.collect();
    // What the successor's own tables take.
    free.truncate(free.len() - 32);
    // The way to the one leaf: its second table has room for others beside it.
    let below = (0..512).map(|i| world.word(PhysAddr::new(root.get() + i * 8)));
    let second = PhysAddr::new(below.clone().find(|entry| *entry != 0).unwrap());
    let mut nodes = 0;
    let mut parents = vec![second];
    while let Some(parent) = parents.pop() {
        for i in 0..512 {
            let entry = PhysAddr::new(parent.get() + i * 8);
            if world.word(entry) != 0 {
                continue;
            }
            let Some(child) = free.pop() else { return (world, left.entry, nodes) };
            world.write(child, &[0; PAGE as usize]);
            world.put(entry, child.get());
            nodes += 1;
            // Two levels of tables, and leaves below them would need keys.
            if parent == second && parents.len() < 4 {
                parents.push(child);
            }
        }
    }
    (world, left.entry, nodes)
}

#[test]
fn a_tree_of_n_pages_costs_order_of_n() {
    let mut each = Vec::new();
    for frames in [256, 1024, 4096] {
        let (world, entry, nodes) = tree_of_nodes(frames);
        let before = world.ram().looks();
        let revived = world.try_revive(entry, SealPolicy::Checked);
        let looks = world.ram().looks() - before;
        let seen = match &revived {
            Ok(kernel) => {
                let mut seen = 0;
                kernel.memory().for_each_inherited_node(|_| seen += 1);
                seen
            }
            Err(error) => panic!("empty tables are no fault: {error}"),
        };
        assert!(nodes > frames / 2 && seen >= nodes, "{nodes} nodes, {seen} seen");
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
        let world = World::new(frames);
        let left = Shape::Folios.leave(&world, false);
        for table in left.tables.iter().filter(|table| table.place == Place::Node) {
            world.load(&left.saved);
            let root = map_of(&world, left.entry);
            for i in 0..512 {
                world.put(PhysAddr::new(table.addr.get() + i * 8), root.get());
            }
            let found = findings(&world, left.entry);
            assert!(!found.is_empty(), "{table:?}");
            let attempt = Attempt {
                entry: left.entry,
                policy: SealPolicy::Ignored,
                handles: &[],
                kept: &[],
                whim: 0,
            };
            let before = world.ram().looks();
            take_over(&world, &attempt);
            let looks = world.ram().looks() - before;
            assert!(looks < 3000, "{looks} looks in a memory of {frames} frames");
        }
    }
}
