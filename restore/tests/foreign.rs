//! `unpublish` and `publish` give back what `publish` made, and nothing else; and calls on the root
//! page that are refused leave everything as it was, the seal too.

use heirloom_folio::harness::Ram;
use heirloom_folio::{FrameType, Request};
use heirloom_kho::{Order, PAGE_SIZE, Parts, PhysAddr};
use heirloom_restore::{Error, Heirloom, Records};
use heirloom_slab::{AllocOptions, CacheSpec};

const PAGE: u64 = PAGE_SIZE as u64;

fn handover() -> Heirloom<Ram> {
    Heirloom::boot_memory(Ram::memory(&Ram::frames(512)).unwrap(), &[], "test").unwrap()
}

fn is_a_table(at: PhysAddr) -> Error {
    is_a(FrameType::Table, at)
}

fn is_a(found: FrameType, at: PhysAddr) -> Error {
    let expected = FrameType::Folio;
    Error::Folio(heirloom_folio::Error::WrongType { pfn: at.pfn(), expected, found })
}

#[test]
fn tables_are_no_subtrees_of_others() {
    let handover = handover();
    let mut list = Records::<_, [u64; 3]>::new(handover.memory()).unwrap();
    list.push(&[1, 2, 3]).unwrap();
    let root = handover.entry().root;
    for (name, at) in [
        ("list", list.first()),
        ("root", root),
        ("cache-directory", handover.slabs().cache_directory()),
    ] {
        assert_eq!(handover.add_subtree(name, at, PAGE), Err(is_a_table(at)), "{name}");
        assert!(matches!(handover.unpublish(name), Err(Error::NoSuchSubtree { .. })), "{name}");
    }
    list.push(&[4, 5, 6]).unwrap();
    handover.memory().audit().unwrap();
}

#[test]
fn slabs_and_large_buffers_are_no_subtrees() {
    let handover = handover();
    let cache = handover.slabs().cache(CacheSpec::new("a", 64).preserving(true)).unwrap();
    let layout = core::alloc::Layout::from_size_align(3 * PAGE_SIZE, 8).unwrap();
    let large = handover.slabs().alloc(layout, AllocOptions { preserving: true, zeroed: true });
    for (ptr, kind) in [(cache.alloc(), FrameType::Slab), (large, FrameType::Buffer)] {
        let parts = handover.handle_of(ptr.unwrap()).unwrap().parts();
        let Ok(Parts::Object { addr, .. } | Parts::Buffer { addr, .. }) = parts else {
            panic!("{parts:?}")
        };
        let at = addr.pfn().addr();
        assert_eq!(handover.add_subtree("theirs", at, 64), Err(is_a(kind, at)));
    }
    let mut left = Vec::new();
    handover.for_each_subtree(|name, _, _| left.push(String::from(name))).unwrap();
    assert_eq!(left, ["heirloom"]);
}

#[test]
fn what_was_added_is_neither_unpublished_nor_published_over() {
    let handover = handover();
    let folio = handover.memory().alloc_folio(Request::new(Order::ZERO)).unwrap();
    let folio = folio.preserve().unwrap();
    let at = folio.extent().addr();
    handover.add_subtree("mine", at, PAGE).unwrap();
    assert!(matches!(handover.unpublish("mine"), Err(Error::NoSuchSubtree { .. })));
    assert!(matches!(handover.publish("mine", &[1]), Err(Error::NameTaken { .. })));
    assert!(handover.memory().preserved().contains(folio.extent()));
    handover.remove_subtree("mine").unwrap();
}

#[test]
fn a_name_whose_folio_became_somebody_elses_table_is_removed_and_nothing_more() {
    let handover = handover();
    for before in ["aa", "bb"] {
        handover.publish(before, &[1]).unwrap();
    }
    let folio = handover.memory().alloc_folio(Request::new(Order::ZERO)).unwrap();
    let folio = folio.preserve().unwrap();
    let at = folio.extent().addr();
    handover.add_subtree("mine", at, PAGE).unwrap();
    handover.publish("ours", &[2]).unwrap();
    // Against what was agreed: the name stays, and leads to whatever comes next.
    drop(folio.unpreserve().unwrap());
    let mut others = Vec::new();
    let mut list = loop {
        let list = Records::<_, [u64; 3]>::new(handover.memory()).unwrap();
        if list.first() == at {
            break list;
        }
        others.push(list);
    };
    list.push(&[1, 2, 3]).unwrap();
    assert!(matches!(handover.unpublish("mine"), Err(Error::NoSuchSubtree { .. })));
    assert!(matches!(handover.publish("mine", &[3]), Err(Error::NameTaken { .. })));
    handover.seal().unwrap();
    // What was published before and after it is known all the same, once it is gone too.
    handover.unpublish("aa").unwrap();
    handover.publish("ours", &[4]).unwrap();
    handover.remove_subtree("mine").unwrap();
    for ours in ["bb", "ours"] {
        assert!(matches!(handover.remove_subtree(ours), Err(Error::NoSuchSubtree { .. })));
        handover.unpublish(ours).unwrap();
    }
    list.push(&[4, 5, 6]).unwrap();
    let mut found = Vec::new();
    list.for_each(|entry| found.push(entry)).unwrap();
    assert_eq!(found, [[1, 2, 3], [4, 5, 6]]);
    let mut left = Vec::new();
    handover.for_each_subtree(|name, _, _| left.push(String::from(name))).unwrap();
    assert_eq!(left, ["heirloom"]);
    handover.memory().audit().unwrap();
}

#[test]
fn what_is_refused_leaves_the_seal() {
    let handover = handover();
    let folio = handover.memory().alloc_folio(Request::new(Order::ZERO)).unwrap();
    let folio = folio.preserve().unwrap();
    let at = folio.extent().addr();
    handover.add_subtree("mine", at, PAGE).unwrap();
    handover.publish("ours", &[1, 2, 3]).unwrap();
    handover.seal().unwrap();
    assert!(handover.unpublish("nothing").is_err());
    assert!(handover.unpublish("mine").is_err());
    assert!(handover.publish("mine", &[4]).is_err());
    assert!(handover.add_subtree("ours", at, PAGE).is_err());
    assert!(handover.add_subtree("new", PhysAddr::new(0), PAGE).is_err());
    assert!(handover.remove_subtree("nothing").is_err());
    assert!(handover.remove_subtree("ours").is_err());
    assert!(handover.is_sealed());
    handover.unpublish("ours").unwrap();
    assert!(!handover.is_sealed());
}

#[test]
fn a_full_root_page_leaves_the_seal() {
    let handover = handover();
    // Long names fill it before memory is full, whatever the size of pages.
    let publish = |i: u32| handover.publish(&std::format!("{i:0>31}"), &[0; 8]);
    let full = (0..10_000).find(|i| publish(*i).is_err()).unwrap();
    handover.seal().unwrap();
    assert!(matches!(publish(full), Err(Error::RootFull { .. })));
    assert!(handover.is_sealed());
    publish(0).unwrap();
    assert!(!handover.is_sealed());
}
