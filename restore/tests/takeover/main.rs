//! A successor goes on with its predecessor's root page, header and names: what each call makes of them,
//! over generations, beside other threads, and where a predecessor was of another make.

#![allow(clippy::drop_non_drop, reason = "a kernel ends where it is dropped")]

mod another;
#[path = "../common/mod.rs"]
mod common;
#[path = "../common/foreign.rs"]
mod foreign;
mod names;

use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::Relaxed;

use common::memory;
use foreign::{says, with_root, words};
use heirloom_folio::harness::Ram;
use heirloom_folio::{Disposition, Request};
use heirloom_kho::{Block, Handle, Header, Order, PAGE_SIZE, Parts, PhysAddr, RootPage, SealState};
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
