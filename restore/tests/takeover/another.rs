//! A predecessor of another make: its entry stays until the successor's own is ended in its place.

use core::sync::atomic::Ordering::Relaxed;

use heirloom_folio::Disposition;
use heirloom_folio::harness::Ram;
use heirloom_kho::{Block, Fault, Order, PAGE_SIZE, PhysAddr, Run, Table, TableError};
use heirloom_restore::{Entry, Error, Finished, Heirloom, SealPolicy, Unclaimed};

use super::common::memory;
use super::foreign::{lay_out, layout, says, words};
use super::{FRAMES, PAGE, boot, handle, inherited, keep, machine, revive, try_revive};

/// What a kernel of another make leaves: `roots` by name, each a folio with the name's bytes, and a
/// folio beside them.
fn foreign(ram: &Ram, roots: &[&str]) -> (Entry, Block) {
    let first = boot(ram);
    for name in roots {
        first.publish(name, name.as_bytes()).unwrap();
    }
    let folio = keep(&first, 3);
    let entry = first.entry();
    drop(first);
    let (map, mut names) = says(ram, entry.root);
    names.retain(|(name, ..)| name != "heirloom");
    lay_out(ram, entry.root, map, &names);
    (entry, folio)
}

#[test]
fn what_the_predecessors_entry_names_stays_until_it_is_ended() {
    let ram = machine();
    let (old, folio) = foreign(&ram, &["claimed", "gone", "left", "over"]);
    let kernel = revive(&ram, old);
    let new = kernel.entry();
    assert_ne!(new, old);
    assert_eq!((kernel.predecessor(), kernel.names_left_behind()), (None, 0));
    let at = |name: &str| {
        let (_, names) = says(&ram, old.root);
        let (_, at, _) = names.iter().find(|(found, ..)| found == name).unwrap();
        Block::containing(PhysAddr::new(*at).pfn(), Order::ZERO)
    };
    let [claimed, gone, left, over] = ["claimed", "gone", "left", "over"].map(at);
    for name in ["claimed", "gone", "over"] {
        drop(kernel.claim_root(name).unwrap());
    }
    kernel.unpublish("gone").unwrap();
    kernel.publish("over", b"new").unwrap();
    kernel.publish("mine", b"mine").unwrap();
    let _ = kernel.claim_folio(handle(folio)).unwrap().into_raw();
    // What this kernel let go of is not free memory for another to stand in for it.
    for block in [claimed, gone, left, over] {
        assert!(kernel.memory().preserved().contains(block), "{block}");
    }
    drop(kernel);
    // Through the old entry all is as it was; through the new one, as it is now.
    let again = revive(&ram, old);
    for name in ["claimed", "gone", "left", "over"] {
        assert_eq!(again.claim_root(name).unwrap().bytes(), name.as_bytes());
    }
    drop(again.claim_folio(handle(folio)).unwrap());
    drop(again);
    let kernel = revive(&ram, new);
    assert_eq!(kernel.entry(), new);
    assert_eq!(inherited(&kernel), ["claimed", "left", "mine", "over"]);
    assert_eq!(kernel.claim_root("over").unwrap().bytes(), b"new");
}

#[test]
fn finish_ends_the_predecessors_entry_and_gives_back_what_it_named() {
    for disposition in [Disposition::Free, Disposition::Keep] {
        let ram = machine();
        let (old, folio) = foreign(&ram, &["claimed", "gone", "left"]);
        let kernel = revive(&ram, old);
        let (_, names_before) = says(&ram, old.root);
        let block =
            |n: usize| Block::containing(PhysAddr::new(names_before[n].1).pfn(), Order::ZERO);
        drop(kernel.claim_root("claimed").unwrap());
        drop(kernel.claim_root("gone").unwrap());
        kernel.unpublish("gone").unwrap();
        let _ = kernel.claim_folio(handle(folio)).unwrap().into_raw();
        let root = Block::containing(old.root.pfn(), Order::ZERO);
        let scratch = Block::containing(old.scratch.pfn(), Order::ZERO);
        let mut told = Vec::new();
        kernel
            .finish(|unclaimed| {
                // It is good as long as anything is told that is not named by it alone.
                told.push(unclaimed);
                assert!(kernel.memory().preserved().contains(root));
                disposition
            })
            .unwrap();
        let names: Vec<_> = told
            .iter()
            .filter_map(|unclaimed| match unclaimed {
                Unclaimed::Subtree { name, .. } => Some(name.to_string()),
                _ => None,
            })
            .collect();
        assert_eq!(names, ["left"]);
        // Its old header and cache directory; never twice the same.
        assert_eq!(told.len(), 3, "{told:?}");
        for (n, stays) in [(0, true), (1, false), (2, disposition == Disposition::Keep)] {
            assert_eq!(
                kernel.memory().preserved().contains(block(n)),
                stays,
                "{n}, {disposition:?}"
            );
        }
        assert!(
            !kernel.memory().preserved().contains(root)
                && !kernel.memory().preserved().contains(scratch)
        );
        kernel.memory().audit().unwrap();
        let refused = try_revive(&ram, old, SealPolicy::Checked).err().unwrap();
        let at = old.root;
        let due = TableError { table: Table::Root, at, offset: 0, fault: Fault::Ended };
        assert_eq!(refused, Error::Table(due));
        assert!(refused.to_string().contains("ended by a successor"), "{refused}");
        // The pages are free memory, and the rest goes on.
        let again = kernel.finish(|_| Disposition::Keep).unwrap();
        assert_eq!(again.subtrees, u64::from(disposition == Disposition::Keep));
        let next = revive(&ram, kernel.entry());
        assert_eq!(next.claim_root("claimed").unwrap().bytes(), b"claimed");
        drop(next.claim_folio(handle(folio)).unwrap());
        assert_eq!(next.claim_root("left").is_ok(), disposition == Disposition::Keep);
        next.memory().audit().unwrap();
    }
}

#[test]
fn what_another_owner_has_made_of_a_name_by_then_is_left_alone() {
    let ram = machine();
    let first = boot(&ram);
    let folio = keep(&first, 0);
    first.add_subtree("added", folio.addr(), 8).unwrap();
    let old = first.entry();
    drop(first);
    let (map, names) = says(&ram, old.root);
    lay_out(&ram, old.root, map, &names);
    let kernel = revive(&ram, old);
    assert_ne!(kernel.entry(), old);
    kernel.remove_subtree("added").unwrap();
    let owned = kernel.claim_folio(handle(folio)).unwrap();
    drop(owned.unpreserve().unwrap_or_else(|refused| panic!("{}", refused.error)));
    // The frame is a list's by now.
    let mut lists = Vec::new();
    loop {
        let list = heirloom_restore::Records::<_, [u64; 3]>::new(kernel.memory()).unwrap();
        lists.push(list);
        if lists.last().unwrap().first() == folio.addr() {
            break;
        }
    }
    lists.last_mut().unwrap().push(&[1, 2, 3]).unwrap();
    assert_eq!(kernel.finish(|_| Disposition::Free), Ok(Finished::default()));
    assert!(kernel.memory().preserved().contains(folio), "the list's");
    let mut found = Vec::new();
    lists.last().unwrap().for_each(|entry| found.push(entry)).unwrap();
    assert_eq!(found, [[1, 2, 3]]);
    kernel.memory().audit().unwrap();
}

#[test]
fn a_panic_while_what_the_entry_named_is_told_leaves_the_rest_to_the_next_call() {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    for asked in 0..4 {
        let ram = machine();
        let (old, _) = foreign(&ram, &["a", "b"]);
        let kernel = revive(&ram, old);
        // Names that nothing leads to but the old entry.
        kernel.remove_subtree("a").unwrap();
        kernel.remove_subtree("b").unwrap();
        let mut left = asked;
        let finish = AssertUnwindSafe(|| {
            kernel.finish(|_| {
                left = i32::checked_sub(left, 1)
                    .filter(|left| *left >= 0)
                    .expect("a panic of the caller's");
                Disposition::Free
            })
        });
        assert!(catch_unwind(finish).is_err(), "{asked}");
        // The old entry has ended by the last; what is freed behind it makes no seal untrue.
        kernel.seal().unwrap();
        let told = kernel.finish(|_| {
            assert!(asked < 3 || !kernel.is_sealed(), "sealed, and nodes change");
            Disposition::Free
        });
        let told = told.unwrap();
        assert!(!kernel.is_sealed());
        // Header, cache directory and a folio; then what stood under the names.
        assert_eq!(told.folios, u64::try_from(5 - asked).unwrap());
        assert!(try_revive(&ram, old, SealPolicy::Checked).is_err());
        kernel.memory().audit().unwrap();
    }
}

#[test]
fn names_for_which_there_is_no_room_are_counted_and_their_bytes_are_told() {
    if PAGE_SIZE > 1 << 14 {
        // Such a page has room for more names than this machine has frames to publish.
        return;
    }
    let ram = machine();
    let roots: Vec<String> = (0..200).map(|n| format!("{n}")).collect();
    let first = boot(&ram);
    let mut fit = 0;
    while fit < roots.len() && first.publish(&roots[fit], &[7]).is_ok() {
        fit += 1;
    }
    let lost = keep(&first, 0);
    let old = first.entry();
    drop(first);
    // One whole page of one struct block holds twice as many.
    let (map, mut names) = says(&ram, old.root);
    names.retain(|(name, ..)| name != "heirloom");
    let twice: Vec<_> = names
        .iter()
        .filter_map(|(name, at, size)| Some((format!("{name}-2"), *at, Some(size.as_ref()? + 1))))
        .collect();
    // Behind one whose frames were let go, which takes no room.
    let gone = lost.addr().get() + 64 * PAGE;
    names.insert(0, ("lost".into(), gone, Some(8)));
    names.extend(twice);
    while layout::lay_out(map, &names).len() > PAGE_SIZE {
        names.pop();
    }
    lay_out(&ram, old.root, map, &names);
    let kernel = revive(&ram, old);
    let there = inherited(&kernel).len();
    assert_eq!(kernel.names_lost(), 1);
    assert_eq!(there + kernel.names_left_behind() as usize, names.len() - 1);
    assert!(kernel.names_left_behind() > 0 && there >= fit - 1, "{there} of {fit}");
    kernel.finish(|_| Disposition::Keep).unwrap();
    assert_eq!(kernel.names_left_behind(), 0, "its entry has ended");
    assert_eq!(inherited(&kernel).len(), there);
    kernel.memory().audit().unwrap();
}

#[test]
fn a_scratch_list_in_scratch_goes_on_beside_a_root_of_another_make() {
    let ram = machine();
    let start = Ram::frames(FRAMES)[0].0.start();
    let area = Run::new(start.add(512), 64).unwrap();
    let first = Heirloom::<&Ram>::boot_memory(memory(&ram, FRAMES), &[area], "first").unwrap();
    first.publish("root", b"root").unwrap();
    let mut old = first.entry();
    drop(first);
    // The list stands in the area itself, as Linux's does.
    let list = PhysAddr::new(area.addr().get() + 128);
    let bytes = usize::try_from(old.scratch_bytes).unwrap();
    for (to, from) in words(&ram, list, bytes).iter().zip(words(&ram, old.scratch, bytes)) {
        to.store(from.load(Relaxed), Relaxed);
    }
    old.scratch = list;
    let (map, names) = says(&ram, old.root);
    lay_out(&ram, old.root, map, &names);
    let kernel = revive(&ram, old);
    assert_eq!(kernel.scratch().collect::<Vec<_>>(), [area]);
    assert_ne!(kernel.entry().scratch, list);
    drop(kernel.claim_root("root").unwrap());
    // The page of the list that was is one that nothing leads to.
    let told = kernel.finish(|_| Disposition::Free).unwrap();
    assert_eq!(told, Finished { folios: 1, frames: 1, ..Finished::default() });
    let next = revive(&ram, kernel.entry());
    assert_eq!(next.scratch().collect::<Vec<_>>(), [area]);
    assert_eq!(next.claim_root("root").unwrap().bytes(), b"root");
    next.memory().audit().unwrap();
}
