//! Names: what each call makes of them, how many there may be, and when they go.

use heirloom_folio::{Disposition, FrameType, Request};
use heirloom_kho::{Block, Fault, Order, PAGE_SIZE, RootPage, Table, TableError};
use heirloom_restore::{Error, Finished, SealPolicy, Unclaimed};

use super::foreign::{lay_out, says, with_root};
use super::{
    Kernel, PAGE, addr_of, boot, handle, inherited, keep, machine, missing, names, not_inherited,
    revive, taken, try_revive,
};

#[test]
fn each_call_makes_of_a_name_what_the_table_says() {
    let ram = machine();
    let first = boot(&ram);
    let block = keep(&first, 1);
    let (at, bytes) = (block.addr(), 2 * PAGE);
    for name in ["a", "b", "c", "d", "e"] {
        first.publish(name, name.as_bytes()).unwrap();
    }
    first.add_subtree("s", at, bytes).unwrap();
    first.add_subtree("t", at, bytes).unwrap();
    let kernel = revive(&ram, first.entry());
    assert_eq!(inherited(&kernel), ["a", "b", "c", "d", "e", "s", "t"]);
    // Inherited: neither replaced nor taken back.
    assert!(taken(&kernel.publish("a", &[1])));
    assert!(missing(&kernel.unpublish("a")));
    let folio = kernel.claim_folio(handle(block)).unwrap();
    assert!(taken(&kernel.add_subtree("a", at, bytes)), "other bytes");
    // Lent: nothing at all.
    let root = kernel.claim_root("a").unwrap();
    assert!(not_inherited(&kernel.claim_root("a")));
    assert!(taken(&kernel.publish("a", &[1])) && taken(&kernel.unpublish("a")));
    assert!(missing(&kernel.remove_subtree("a")) && taken(&kernel.add_subtree("a", at, bytes)));
    assert_eq!((root.bytes(), root.name().as_str()), (&b"a"[..], "a"));
    drop(root);
    // Made: as what this kernel published.
    assert!(not_inherited(&kernel.claim_root("a")) && missing(&kernel.remove_subtree("a")));
    kernel.publish("a", b"other").unwrap();
    kernel.unpublish("a").unwrap();
    assert!(missing(&kernel.unpublish("a")) && missing(&kernel.claim_root("a")));
    // Claimed and left alone: it stays.
    drop(kernel.claim_root("b").unwrap());
    // An inherited name that another owner takes over, or takes away.
    kernel.add_subtree("s", at, bytes).unwrap();
    assert!(taken(&kernel.add_subtree("s", at, bytes)), "it is this kernel's");
    assert!(missing(&kernel.unpublish("s")) && taken(&kernel.publish("s", &[1])));
    assert!(not_inherited(&kernel.claim_root("s")));
    kernel.remove_subtree("t").unwrap();
    kernel.remove_subtree("c").unwrap();
    assert_eq!(inherited(&kernel), ["d", "e"]);
    // Heirloom's own is nobody's.
    assert!(missing(&kernel.unpublish("heirloom")) && missing(&kernel.remove_subtree("heirloom")));
    assert!(
        not_inherited(&kernel.claim_root("heirloom")) && taken(&kernel.publish("heirloom", &[1]))
    );
    let mut told = Vec::new();
    let finished = kernel.finish(|unclaimed| {
        let freed = matches!(unclaimed, Unclaimed::Subtree { name, .. } if name.as_str() == "d");
        told.push(match unclaimed {
            Unclaimed::Subtree { name, .. } => name.to_string(),
            Unclaimed::Folio(block) => format!("{}", block.order().get()),
            other => panic!("{other:?}"),
        });
        if freed { Disposition::Free } else { Disposition::Keep }
    });
    // The bytes of the name that was taken away are a folio that nothing leads to.
    assert_eq!(told, ["d", "e", "0"]);
    assert_eq!(finished, Ok(Finished { subtrees: 2, folios: 1, frames: 1, ..Finished::default() }));
    assert_eq!(names(&kernel), ["heirloom", "b", "e", "s"]);
    drop(folio);
    let next = revive(&ram, kernel.entry());
    assert_eq!(inherited(&next), ["b", "e", "s"]);
    for name in ["b", "e"] {
        assert_eq!(next.claim_root(name).unwrap().bytes(), name.as_bytes());
    }
    next.memory().audit().unwrap();
}

#[test]
fn a_block_is_kept_while_a_name_leads_there() {
    let ram = machine();
    let first = boot(&ram);
    first.publish("a", &[5; 10]).unwrap();
    let at = addr_of(&first, "a");
    let entry = first.entry();
    drop(first);
    // Another name over the same bytes, as a damaged or a hostile predecessor leaves it.
    with_root(&ram, entry.root, |words| {
        let mut page = RootPage::reopen(words, entry.root).unwrap();
        page.add(heirloom_kho::Name::new("b").unwrap(), at, 10).unwrap();
    });
    let block = Block::containing(at.pfn(), Order::ZERO);
    for claimed in [true, false] {
        let kernel = revive(&ram, entry);
        if claimed {
            let root = kernel.claim_root("a").unwrap();
            assert!(not_inherited(&kernel.claim_root("b")), "one claims the block");
            drop(root);
            kernel.unpublish("a").unwrap();
        } else {
            kernel.finish(|_| Disposition::Keep).unwrap();
        }
        assert!(kernel.memory().preserved().contains(block));
    }
    let kernel = revive(&ram, entry);
    assert_eq!(inherited(&kernel), ["b"]);
    kernel.finish(|_| Disposition::Free).unwrap();
    assert!(!kernel.memory().preserved().contains(block), "the last name is gone");
    kernel.memory().audit().unwrap();
}

#[test]
fn a_name_whose_frames_were_let_go_is_taken_out_and_told() {
    let ram = machine();
    let first = boot(&ram);
    let mut folio = first.memory().alloc_folio(Request::new(Order::ZERO)).unwrap();
    for name in ["lost-1", "lost-2"] {
        let kept = folio.preserve().unwrap_or_else(|refused| panic!("{}", refused.error));
        first.add_subtree(name, kept.extent().addr(), 8).unwrap();
        folio = kept.unpreserve().unwrap_or_else(|refused| panic!("{}", refused.error));
    }
    first.publish("root", &[1]).unwrap();
    drop(folio);
    let entry = first.entry();
    drop(first);
    let kernel = revive(&ram, entry);
    assert_eq!((kernel.names_lost(), names(&kernel)), (2, vec!["heirloom".into(), "root".into()]));
    assert!(missing(&kernel.claim_root("lost-1")));
    drop(kernel.claim_root("root").unwrap());
    drop(kernel);
    assert_eq!(revive(&ram, entry).names_lost(), 0);
    // Heirloom's own may not be lost.
    let kernel = revive(&ram, entry);
    let header = Block::containing(addr_of(&kernel, "heirloom").pfn(), Order::ZERO);
    // SAFETY: the layer's table, of a kernel that does nothing more.
    unsafe { kernel.memory().unpreserve_as(header, FrameType::Table) }.unwrap();
    drop(kernel);
    let refused = try_revive(&ram, entry, SealPolicy::Checked).err().unwrap();
    let Error::Table(TableError { table: Table::Header, fault, .. }) = refused else {
        panic!("{refused}")
    };
    assert_eq!(fault, Fault::NotPreserved { block: header });
}

#[test]
fn names_over_tables_and_slabs_are_claimed_by_nobody() {
    let ram = machine();
    let first = boot(&ram);
    let cache = heirloom_slab::CacheSpec::new("objects", 100).preserving(true);
    first.slabs().cache(cache).unwrap().alloc().unwrap();
    let mut tables = vec![first.entry().root, first.entry().scratch, addr_of(&first, "heirloom")];
    first.slabs().for_each_table(|part| match part {
        heirloom_slab::internal::DirectoryPart::Page(at) => tables.push(at),
        heirloom_slab::internal::DirectoryPart::Header { addr, .. } => tables.push(addr),
    });
    tables.push(first.slabs().cache_directory());
    let entry = first.entry();
    drop(first);
    with_root(&ram, entry.root, |words| {
        let mut page = RootPage::reopen(words, entry.root).unwrap();
        for (n, at) in tables.iter().enumerate() {
            page.add(heirloom_kho::Name::new(&format!("t{n}")).unwrap(), *at, 8).unwrap();
        }
    });
    let kernel = revive(&ram, entry);
    let before = kernel.memory().stats().preserved;
    for n in 0..tables.len() {
        assert!(kernel.claim_root(&format!("t{n}")).is_err(), "t{n}");
    }
    // Told, and struck out: what they led to is not theirs.
    let finished = kernel.finish(|unclaimed| {
        if matches!(unclaimed, Unclaimed::Subtree { .. }) {
            Disposition::Free
        } else {
            Disposition::Keep
        }
    });
    assert_eq!(finished.unwrap().subtrees, tables.len() as u64);
    assert_eq!(
        (names(&kernel), kernel.memory().stats().preserved),
        (vec!["heirloom".into()], before)
    );
    let next = revive(&ram, entry);
    assert_eq!(next.slabs().adopt(cache).unwrap().1.unclaimed, 1);
    next.memory().audit().unwrap();
}

#[test]
fn a_page_of_the_most_names_goes_on_whatever_each_says() {
    let ram = machine();
    let first = boot(&ram);
    first.publish("root", b"root").unwrap();
    let blocks: Vec<Block> = (0..3).map(|_| keep(&first, 0)).collect();
    let entry = first.entry();
    drop(first);
    // Names without a size take the least room: more of them fit than this kernel could add.
    let (map, mut all) = says(&ram, entry.root);
    let count = ((PAGE_SIZE - 200) / 2 - 200) / 32;
    let more = (0..count).map(|n| (format!("{n:x}"), blocks[n % 3].addr().get(), None));
    let at = all.iter().position(|(name, ..)| name == "root").unwrap();
    let root = all.remove(at);
    all.extend(more);
    // The last but one.
    all.insert(all.len() - 1, root);
    lay_out(&ram, entry.root, map, &all);
    let kernel = revive(&ram, entry);
    // It is of another layout, so this kernel's page is new; the next goes on with that in place.
    let moved = kernel.entry();
    assert_ne!(moved, entry);
    assert_eq!(kernel.names_left_behind(), 0);
    let told = kernel.finish(|_| Disposition::Keep).unwrap();
    assert_eq!(told.subtrees, count as u64 + 1);
    drop(kernel);
    let kernel = revive(&ram, moved);
    assert_eq!((kernel.entry(), inherited(&kernel).len()), (moved, count + 1));
    drop(kernel.claim_root("root").unwrap());
    let last = format!("{:x}", count - 1);
    assert!(not_inherited(&kernel.claim_root(&last)), "without a size it is no root");
    // One after another from the front: those behind keep whose they are.
    for n in 0..count - 1 {
        kernel.remove_subtree(&format!("{n:x}")).unwrap();
        // On a large page not after each, as each call reads all of it.
        if n % (count / 50).max(1) == 0 {
            assert!(
                missing(&kernel.unpublish(&last)) && taken(&kernel.publish(&last, &[1])),
                "{n}"
            );
            assert!(missing(&kernel.remove_subtree("root")), "{n}");
            assert_eq!(inherited(&kernel).len(), count - 1 - n);
        }
    }
    assert_eq!(names(&kernel), ["heirloom", "root", &last]);
    kernel.publish("root", b"other").unwrap();
    kernel.unpublish("root").unwrap();
    kernel.memory().audit().unwrap();
}

#[test]
fn a_full_root_says_how_much_of_it_nobody_claimed() {
    let ram = machine();
    let first = boot(&ram);
    let mut count = 0;
    while first.publish(&format!("{count:0>31}"), &[1]).is_ok() {
        count += 1;
    }
    let refused = |kernel: &Kernel<'_>| match kernel.publish(&format!("{:0>31}", "x"), &[1]) {
        Err(Error::RootFull { inherited, .. }) => inherited,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(&first), 0);
    let kernel = revive(&ram, first.entry());
    assert_eq!(refused(&kernel), count);
    drop(kernel.claim_root(&format!("{:0>31}", 0)).unwrap());
    assert_eq!(refused(&kernel), count - 1);
    let text = kernel.publish(&format!("{:0>31}", "x"), &[1]).unwrap_err().to_string();
    assert!(
        text.ends_with(&format!(
            "{} subtrees are the predecessor's, and were not claimed",
            count - 1
        )),
        "{text}"
    );
    kernel.remove_subtree(&format!("{:0>31}", 1)).unwrap();
    kernel.publish(&format!("{:0>31}", "x"), &[1]).unwrap();
}
