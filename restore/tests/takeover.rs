//! A successor goes on with its predecessor's root page, header and names: what each call makes of them,
//! over generations, beside other threads, and where a predecessor was of another make.

#![allow(clippy::drop_non_drop, reason = "a kernel ends where it is dropped")]

mod common;
#[path = "common/foreign.rs"]
mod foreign;

use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::Relaxed;

use common::memory;
use foreign::{lay_out, layout, says, with_root, words};
use heirloom_folio::harness::Ram;
use heirloom_folio::{Disposition, FrameType, Request};
use heirloom_kho::{
    Block, Fault, Handle, Header, Order, PAGE_SIZE, Parts, PhysAddr, RootPage, Run, SealState,
    Table, TableError,
};
use heirloom_restore::{Entry, Error, Finished, Heirloom, SealPolicy, Unclaimed};

const FRAMES: u64 = 1024;
const PAGE: u64 = PAGE_SIZE as u64;

type Kernel<'r> = Heirloom<&'r Ram>;

fn machine() -> Ram {
    Ram::over(&Ram::frames(FRAMES))
}

fn boot(ram: &Ram) -> Kernel<'_> {
    Heirloom::<&Ram>::boot_memory(memory(ram, FRAMES), &[], "first").unwrap()
}

fn try_revive(ram: &Ram, entry: Entry, policy: SealPolicy) -> Result<Kernel<'_>, Error> {
    Heirloom::<&Ram>::revive_memory(memory(ram, FRAMES), entry, "next", policy)
}

fn revive(ram: &Ram, entry: Entry) -> Kernel<'_> {
    try_revive(ram, entry, SealPolicy::Checked).unwrap_or_else(|error| panic!("{error}"))
}

/// A folio that is left.
fn keep(kernel: &Kernel<'_>, order: u8) -> Block {
    let folio = kernel.memory().alloc_folio(Request::new(Order::new(order).unwrap())).unwrap();
    folio.preserve().unwrap_or_else(|refused| panic!("{}", refused.error)).into_raw()
}

fn handle(block: Block) -> Handle {
    Handle::new(Parts::Folio(block)).unwrap()
}

fn names(kernel: &Kernel<'_>) -> Vec<String> {
    let mut names = Vec::new();
    kernel.for_each_subtree(|name, _, _| names.push(name.to_owned())).unwrap();
    names
}

fn inherited(kernel: &Kernel<'_>) -> Vec<String> {
    let mut names = Vec::new();
    kernel.for_each_inherited_subtree(|name, _, _| names.push(name.to_owned())).unwrap();
    names
}

fn addr_of(kernel: &Kernel<'_>, wanted: &str) -> PhysAddr {
    let mut at = None;
    kernel.for_each_subtree(|name, addr, _| at = at.or((name == wanted).then_some(addr))).unwrap();
    at.unwrap()
}

fn nodes(kernel: &Kernel<'_>) -> u64 {
    let mut nodes = 0;
    kernel.memory().preserved().for_each_node(|_| nodes += 1);
    nodes
}

fn taken<T>(result: &Result<T, Error>) -> bool {
    matches!(result, Err(Error::NameTaken { .. }))
}

fn missing<T>(result: &Result<T, Error>) -> bool {
    matches!(result, Err(Error::NoSuchSubtree { .. }))
}

fn not_inherited<T>(result: &Result<T, Error>) -> bool {
    matches!(result, Err(Error::NotInherited { .. }))
}

#[test]
fn twenty_kernels_that_never_finish_lose_nothing_and_grow_by_nothing() {
    let ram = machine();
    let first = boot(&ram);
    first.publish("root", b"hello").unwrap();
    let folios: Vec<Block> = (0..6).map(|order| keep(&first, order)).collect();
    first.add_subtree("added", folios[2].addr(), 4 * PAGE).unwrap();
    let buffer = first.alloc(300).unwrap();
    // SAFETY: in use.
    let buffer = unsafe { first.preserve(buffer) }.unwrap();
    let entry = first.entry();
    let mut steady = None;
    for life in 0..20 {
        let kernel = revive(&ram, entry);
        assert_eq!((kernel.entry(), kernel.generation()), (entry, life + 1));
        assert_eq!(inherited(&kernel), ["added", "root"]);
        let stats = kernel.memory().stats();
        let is = (nodes(&kernel), stats.used(), stats.preserved);
        assert_eq!(*steady.get_or_insert(is), is, "life {life}");
        // Some claim, some do not; each has things of its own that it lets go of.
        if life % 3 != 0 {
            assert_eq!(kernel.claim_root("root").unwrap().bytes(), b"hello");
            for block in &folios {
                drop(kernel.claim_folio(handle(*block)).unwrap());
            }
            kernel.restore(buffer).unwrap();
        }
        for order in [0, 4, 7] {
            let own =
                kernel.memory().alloc_folio(Request::new(Order::new(order).unwrap())).unwrap();
            let own = own.preserve().unwrap_or_else(|refused| panic!("{}", refused.error));
            drop(own.unpreserve().unwrap_or_else(|refused| panic!("{}", refused.error)));
        }
        kernel.publish("mine", &[1; 100]).unwrap();
        kernel.unpublish("mine").unwrap();
        if life % 4 == 0 {
            kernel.seal().unwrap();
        }
        kernel.memory().audit().unwrap();
    }
    let kernel = revive(&ram, entry);
    for block in &folios {
        drop(kernel.claim_folio(handle(*block)).unwrap());
    }
    kernel.restore(buffer).unwrap();
    assert_eq!(kernel.claim_root("root").unwrap().bytes(), b"hello");
    kernel.add_subtree("added", folios[2].addr(), 4 * PAGE).unwrap();
    assert_eq!(kernel.finish(|_| unreachable!("all is claimed")), Ok(Finished::default()));
}

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

#[test]
fn a_seal_is_opened_once_and_stays_so() {
    let ram = machine();
    let first = boot(&ram);
    first.publish("root", &[1]).unwrap();
    first.seal().unwrap();
    let entry = first.entry();
    drop(first);
    let state = || {
        let (_, names) = says(&ram, entry.root);
        let (_, at, _) = names.iter().find(|(name, ..)| name == "heirloom").unwrap();
        let at = PhysAddr::new(*at);
        Header::read(words(&ram, at, PAGE_SIZE), at).unwrap().seal
    };
    // A call that is refused leaves it sealed.
    assert!(matches!(state(), SealState::Sealed(_)));
    drop(try_revive(&ram, entry, SealPolicy::SealedOnly).unwrap());
    assert_eq!(state(), SealState::Opened);
    for policy in [SealPolicy::Required, SealPolicy::Checked, SealPolicy::Required] {
        drop(try_revive(&ram, entry, policy).unwrap());
        assert_eq!(state(), SealState::Opened);
    }
    let refused = try_revive(&ram, entry, SealPolicy::SealedOnly).err();
    assert_eq!(refused, Some(Error::NotSealed { opened: true }));
    let kernel = try_revive(&ram, entry, SealPolicy::Required).unwrap();
    assert!(!kernel.is_sealed());
    kernel.seal().unwrap();
    drop(kernel);
    // Nothing is known of one that was not looked at.
    drop(try_revive(&ram, entry, SealPolicy::Ignored).unwrap());
    assert_eq!(state(), SealState::Unsealed);
    let refused = try_revive(&ram, entry, SealPolicy::Required).err();
    assert_eq!(refused, Some(Error::NotSealed { opened: false }));
}

/// Makes the header say that it is longer than this build knows; whether its seal was opened before.
fn lengthen(ram: &Ram, at: PhysAddr) {
    let page = words(ram, at, PAGE_SIZE);
    let word = |offset: usize| page[offset / 8].load(Relaxed).to_ne_bytes();
    let mut shift_and_size = word(16);
    shift_and_size[4..].copy_from_slice(&512_u32.to_le_bytes());
    page[2].store(u64::from_ne_bytes(shift_and_size), Relaxed);
    let half = if word(216) == *b"half-one" { 24 } else { 120 };
    let covered: Vec<u8> = (0..24).chain(half..half + 88).step_by(8).flat_map(word).collect();
    let sum = xxhash_rust::xxh3::xxh3_64(&covered).to_le_bytes();
    page[(half + 88) / 8].store(u64::from_ne_bytes(sum), Relaxed);
}

#[test]
fn a_longer_header_is_replaced_and_given_back() {
    for opened in [false, true] {
        let ram = machine();
        let first = boot(&ram);
        first.publish("root", &[1]).unwrap();
        first.seal().unwrap();
        let (entry, old) = (first.entry(), addr_of(&first, "heirloom"));
        drop(first);
        if opened {
            drop(revive(&ram, entry));
        } else {
            let kernel = revive(&ram, entry);
            kernel.seal().unwrap();
            kernel.unseal().unwrap();
        }
        lengthen(&ram, old);
        let kernel = revive(&ram, entry);
        let new = addr_of(&kernel, "heirloom");
        assert_ne!(new, old);
        assert_eq!((kernel.entry(), kernel.generation()), (entry, 2));
        assert!(!kernel.memory().preserved().contains(Block::containing(old.pfn(), Order::ZERO)));
        let header = Header::read(words(&ram, new, PAGE_SIZE), new).unwrap();
        assert_eq!((header.longer, header.generation), (false, 2));
        // What became of the seal is not forgotten with it.
        let due = if opened { SealState::Opened } else { SealState::Unsealed };
        assert_eq!(header.seal, due);
        kernel.memory().audit().unwrap();
        drop(kernel);
        let next = try_revive(
            &ram,
            entry,
            if opened { SealPolicy::Required } else { SealPolicy::Checked },
        );
        let next = next.unwrap();
        assert_eq!(addr_of(&next, "heirloom"), new);
        drop(next.claim_root("root").unwrap());
        assert_eq!(next.finish(|_| unreachable!()), Ok(Finished::default()));
    }
}

#[test]
fn a_header_in_a_larger_block_is_replaced_and_given_back() {
    for inside in [0, 1] {
        let ram = machine();
        let first = boot(&ram);
        let block = keep(&first, 2);
        let at = PhysAddr::new(block.addr().get() + inside * PAGE);
        let old = addr_of(&first, "heirloom");
        let entry = first.entry();
        drop(first);
        for (to, from) in words(&ram, at, PAGE_SIZE).iter().zip(words(&ram, old, PAGE_SIZE)) {
            to.store(from.load(Relaxed), Relaxed);
        }
        with_root(&ram, entry.root, |words| {
            let mut page = RootPage::reopen(words, entry.root).unwrap();
            page.replace(heirloom_kho::Name::new("heirloom").unwrap(), at, 280).unwrap();
        });
        let kernel = revive(&ram, entry);
        let new = addr_of(&kernel, "heirloom");
        assert!(!block.run().contains(new.pfn()));
        assert!(!kernel.memory().preserved().contains(block), "given back");
        // The page that it was in before is one that nothing leads to.
        let told = kernel.finish(|_| Disposition::Free).unwrap();
        assert_eq!(told, Finished { folios: 1, frames: 1, ..Finished::default() });
        kernel.memory().audit().unwrap();
        drop(kernel);
        assert_eq!(addr_of(&revive(&ram, entry), "heirloom"), new);
    }
}

#[test]
fn our_own_layout_goes_on_whichever_half_is_in_use_and_whatever_is_in_the_other() {
    let ram = machine();
    let first = boot(&ram);
    let entry = first.entry();
    drop(first);
    for turn in 0..6 {
        let kernel = revive(&ram, entry);
        assert_eq!(kernel.entry(), entry);
        if turn > 0 {
            assert_eq!(kernel.claim_root("root").unwrap().bytes(), [turn - 1]);
        }
        kernel.publish("root", &[turn]).unwrap();
        if turn == 3 {
            // One edit more: the other half's turn.
            kernel.publish("root", &[turn]).unwrap();
        }
        drop(kernel);
        with_root(&ram, entry.root, |words| {
            let half = u32::from_be(words[2].load(Relaxed)) as usize / 4;
            let room = (PAGE_SIZE - 56 - 60) / 2 / 8 * 2;
            let other = if half == 14 { 14 + room } else { 14 };
            for (n, word) in words[other..other + room].iter().enumerate() {
                word.store(0xdead_0000 | u32::try_from(n).unwrap(), Relaxed);
            }
        });
    }
}

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

#[test]
fn threads_claim_publish_and_finish_beside_one_another() {
    for round in 0..24_u8 {
        let ram = machine();
        let first = boot(&ram);
        let roots: Vec<String> = (0..12).map(|n| format!("root-{n}")).collect();
        for name in &roots {
            first.publish(name, name.as_bytes()).unwrap();
        }
        let kernel = revive(&ram, first.entry());
        let claims: Vec<AtomicU64> = roots.iter().map(|_| AtomicU64::new(0)).collect();
        let kept = kernel.claim_root("root-0").unwrap();
        std::thread::scope(|scope| {
            for thread in 0..3_u8 {
                let (kernel, roots, claims) = (&kernel, &roots, &claims);
                scope.spawn(move || {
                    for (n, name) in roots.iter().enumerate() {
                        match kernel.claim_root(name) {
                            Ok(root) => {
                                claims[n].fetch_add(1, Relaxed);
                                kernel.publish(&format!("{thread}-{round}"), &[thread]).unwrap();
                                assert_eq!(root.bytes(), name.as_bytes());
                                assert!(taken(&kernel.publish(name, &[1])));
                                drop(root);
                                // Each of the three in its own way.
                                match n % 3 {
                                    0 => kernel.publish(name, &[thread; 5000]).unwrap(),
                                    1 => kernel.unpublish(name).unwrap(),
                                    _ => {}
                                }
                            }
                            Err(Error::NotInherited { .. } | Error::NoSuchSubtree { .. }) => {}
                            Err(error) => panic!("{error}"),
                        }
                    }
                    let own = kernel.unpublish(&format!("{thread}-{round}"));
                    assert!(own.is_ok() || missing(&own));
                });
            }
            let kernel = &kernel;
            scope.spawn(move || {
                let told = kernel.finish(|unclaimed| {
                    let Unclaimed::Subtree { name, .. } = unclaimed else {
                        panic!("{unclaimed:?}")
                    };
                    let n: usize = name.as_str()[5..].parse().unwrap();
                    if n.is_multiple_of(2) { Disposition::Keep } else { Disposition::Free }
                });
                told.unwrap();
            });
        });
        assert_eq!(kept.bytes(), b"root-0");
        drop(kept);
        for (n, name) in roots.iter().enumerate() {
            let claimed = claims[n].load(Relaxed);
            assert!(claimed <= 1, "{name}: {claimed}");
            assert!(n == 0 || claimed == 1 || n % 2 == 1, "{name} is freed by none");
        }
        // Nothing is left behind: each block is a name's.
        kernel.memory().audit().unwrap();
        let next = revive(&ram, kernel.entry());
        let mut all = 0;
        for name in inherited(&next) {
            drop(next.claim_root(&name).unwrap());
            all += 1;
        }
        assert!(all >= 3);
        assert_eq!(next.finish(|left| panic!("{left:?}")), Ok(Finished::default()));
    }
}
