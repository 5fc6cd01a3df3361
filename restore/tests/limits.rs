//! What a kernel accepted when it was booted, published, preserved and sealed, its successor accepts:
//! at the limits of each.

#![allow(clippy::drop_non_drop, reason = "a kernel ends where it is dropped")]

mod common;

use common::memory;
use heirloom_folio::harness::Ram;
use heirloom_folio::{Disposition, Request};
use heirloom_kho::{
    Block, Handle, Order, PAGE_SIZE, Parts, Pfn, PhysAddr, Run, ScratchList, Table,
};
use heirloom_restore::{Entry, Error, Finished, Heirloom, SealPolicy};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, RngSeed};

/// Frames from the start of one small area to that of the next.
const STRIDE: u64 = 4;
/// As many areas as a list holds, and room beside them.
const FRAMES: u64 = ScratchList::LIMIT as u64 * STRIDE + 4096;

/// Run `n` of many small ones that do not touch.
fn area(n: u64, frames: u64) -> Run {
    let first = Ram::frames(FRAMES)[0].0.start();
    Run::new(Pfn::new(first.get() + n * STRIDE), frames).unwrap()
}

fn revive(ram: &Ram, entry: Entry, policy: SealPolicy) -> Heirloom<&Ram> {
    Heirloom::<&Ram>::revive_memory(memory(ram, FRAMES), entry, "next", policy)
        .unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn as_many_scratch_areas_as_a_list_holds_pass_from_kernel_to_kernel() {
    assert_eq!(ScratchList::LIMIT, PAGE_SIZE / 16);
    for count in [0, 1, 64, 65, 255, 256, ScratchList::LIMIT as u64] {
        let areas: Vec<Run> = (0..count).map(|n| area(n, 1 + n % 3)).collect();
        let ram = Ram::over(&Ram::frames(FRAMES));
        let first = Heirloom::<&Ram>::boot_memory(memory(&ram, FRAMES), &areas, "first").unwrap();
        assert_eq!(first.scratch().collect::<Vec<_>>(), areas);
        first.publish("root", &[7]).unwrap();
        let mut kernel = first;
        for _ in 0..2 {
            kernel = revive(&ram, kernel.entry(), SealPolicy::Checked);
            assert_eq!(kernel.scratch().collect::<Vec<_>>(), areas, "{count}");
            let finished = kernel.finish(|_| Disposition::Keep).unwrap();
            // What was published, and no page of the handover's own.
            let due = Finished { subtrees: 1, ..Finished::default() };
            assert_eq!(finished, due, "{count}");
        }
        assert_eq!(kernel.claim_root("root").unwrap().bytes(), [7]);
    }
}

#[test]
fn what_no_list_holds_is_refused_when_it_is_given() {
    let limit = ScratchList::LIMIT as u64;
    let many: Vec<Run> = (0..=limit).map(|n| area(n, 1)).collect();
    let ram = Ram::over(&Ram::frames(FRAMES));
    let refused = Heirloom::<&Ram>::boot_memory(memory(&ram, FRAMES), &many, "first").err();
    assert_eq!(refused, Some(Error::TableFull { table: Table::Scratch, limit }));
    let run = area(3, 0);
    let refused =
        Heirloom::<&Ram>::boot_memory(memory(&ram, FRAMES), &[area(1, 2), run], "first").err();
    assert_eq!(refused, Some(Error::BadRun { table: Table::Scratch, run }));
}

/// What a kernel is asked to leave.
#[derive(Clone, Debug)]
struct Wishes {
    areas: Vec<(u64, u64)>,
    /// Length of the name, of the bytes.
    published: Vec<(usize, usize)>,
    /// Order of a folio, and bytes of a subtree in it.
    added: Vec<(u8, u64)>,
    objects: Vec<usize>,
    producer: usize,
    fill: bool,
    seal: bool,
}

fn wishes() -> impl Strategy<Value = Wishes> {
    let sizes = prop_oneof![Just(0), Just(1), 1..PAGE_SIZE * 3, Just(PAGE_SIZE << 6)];
    let most = Just(ScratchList::LIMIT..ScratchList::LIMIT + 1);
    let areas = prop_oneof![Just(0..1), Just(1..4), Just(60..70), most]
        .prop_flat_map(|count| prop::collection::vec((0..STRIDE, 1..=STRIDE), count));
    (
        areas,
        prop::collection::vec((1_usize..=33, sizes), 0..6),
        prop::collection::vec((0_u8..8, prop_oneof![Just(0), Just(1), 1_u64..1 << 21]), 0..4),
        prop::collection::vec(1_usize..3000, 0..20),
        0_usize..80,
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(|(areas, published, added, objects, producer, fill, seal)| Wishes {
            areas,
            published,
            added,
            objects,
            producer,
            fill,
            seal,
        })
}

/// What was accepted.
#[derive(Default)]
struct Left {
    roots: Vec<(String, Vec<u8>)>,
    subtrees: Vec<(String, PhysAddr, u64)>,
    folios: Vec<Block>,
    buffers: Vec<Handle>,
}

fn leave(kernel: &Heirloom<&Ram>, wishes: &Wishes) -> Left {
    let mut left = Left::default();
    for (n, (name, bytes)) in wishes.published.iter().enumerate() {
        let name = format!("{:x>name$}", char::from(b'a' + n as u8));
        let bytes = vec![n as u8; *bytes];
        let published = kernel.publish(&name, &bytes);
        assert_eq!(published.is_ok(), name.len() <= 31, "{name}: {published:?}");
        if published.is_ok() {
            left.roots.push((name, bytes));
        }
    }
    for (n, (order, bytes)) in wishes.added.iter().enumerate() {
        let folio = kernel.memory().alloc_folio(Request::new(Order::new(*order).unwrap())).unwrap();
        let block =
            folio.preserve().unwrap_or_else(|refused| panic!("{}", refused.error)).into_raw();
        left.folios.push(block);
        // Two that share the same frames, too.
        for twice in 0..2 {
            let name = format!("added-{n}-{twice}");
            let added = kernel.add_subtree(&name, block.addr(), *bytes);
            assert_eq!(added.is_ok(), (1..=block.order().bytes()).contains(bytes), "{added:?}");
            if added.is_ok() {
                left.subtrees.push((name, block.addr(), *bytes));
            }
        }
    }
    for bytes in &wishes.objects {
        let buffer = kernel.alloc(*bytes).unwrap();
        // SAFETY: allocated just now.
        left.buffers.push(unsafe { kernel.preserve(buffer) }.unwrap());
    }
    if wishes.fill {
        // A root page of 64 KiB would take some hundreds more.
        for n in 0..200 {
            if kernel.publish(&format!("{n:0>31}"), &[n]).is_err() {
                break;
            }
            left.roots.push((format!("{n:0>31}"), vec![n]));
        }
    }
    left
}

proptest! {
    #![proptest_config(Config {
        // A list of scratch areas is as long as a page, and each kernel compares every two of them.
        cases: if PAGE_SIZE == 4096 { 48 } else { 4 },
        failure_persistence: None,
        rng_algorithm: RngAlgorithm::ChaCha,
        rng_seed: RngSeed::Fixed(0x6c69_6d69_7473),
        ..Config::default()
    })]

    #[test]
    fn what_was_accepted_is_accepted(wishes in wishes()) {
        let areas: Vec<Run> =
            (0..).zip(&wishes.areas).map(|(n, (at, frames))| {
                let area = area(n, (*frames).min(STRIDE - at));
                Run::new(area.start().add(*at), area.frames()).unwrap()
            }).collect();
        let ram = Ram::over(&Ram::frames(FRAMES));
        let producer = "p".repeat(wishes.producer);
        let first = Heirloom::<&Ram>::boot_memory(memory(&ram, FRAMES), &areas, &producer).unwrap();
        let left = leave(&first, &wishes);
        let policy = if wishes.seal { first.seal().unwrap(); SealPolicy::Required } else { SealPolicy::Checked };
        let mut entry = first.entry();
        drop(first);
        // The second claims what the first did not let go of; once that has finished, so can the third.
        for life in 0..3 {
            let next = revive(&ram, entry, policy);
            prop_assert_eq!(next.scratch().collect::<Vec<_>>(), &areas[..]);
            let from = next.predecessor().unwrap();
            let said = if life == 0 { &producer } else { "next" };
            prop_assert_eq!(from.as_str(), &said[..said.len().min(64)]);
            let mut subtrees = Vec::new();
            next.for_each_inherited_subtree(|name, at, bytes| {
                subtrees.push((name.to_owned(), at, bytes.unwrap()));
            }).unwrap();
            let added = if life == 2 { &[][..] } else { &left.subtrees };
            for added in added {
                prop_assert!(subtrees.contains(added), "{added:?}");
            }
            prop_assert_eq!(subtrees.len(), added.len() + left.roots.len());
            for (name, bytes) in &left.roots {
                let root = next.claim_root(name).unwrap_or_else(|error| panic!("{name}: {error}"));
                prop_assert_eq!(root.bytes(), &bytes[..]);
            }
            for block in &left.folios {
                let folio = next.claim_folio(Handle::new(Parts::Folio(*block)).unwrap());
                folio.unwrap_or_else(|error| panic!("{block}: {error}"));
            }
            for handle in &left.buffers {
                next.restore(*handle).unwrap_or_else(|error| panic!("{error}"));
            }
            if life == 1 {
                let finished = next.finish(|_| Disposition::Free).unwrap();
                let subtrees = left.subtrees.len() as u64;
                prop_assert_eq!(finished, Finished { subtrees, ..Finished::default() });
            }
            entry = next.entry();
        }
    }
}
