//! A jump can come between any two stores: before each one, what a successor would find is looked
//! at, and everything that was promised by then must be there.

use core::cell::RefCell;
use core::ptr::NonNull;
use std::borrow::ToOwned;
use std::collections::BTreeSet;
use std::string::String;
use std::vec::Vec;
use std::{format, vec};

use heirloom_folio::DirectMap;
use heirloom_folio::harness::Ram;
use heirloom_kho::sync::AtomicU64;
use heirloom_kho::sync::Ordering::{Relaxed, Release};
use heirloom_kho::{Block, PAGE_SIZE, PhysAddr};
use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, RngSeed};

use crate::adopt_slab::{check_slab, survived};
use crate::directory::DirectoryView;
use crate::header::Slab;
use crate::state::State;
use crate::store::{self, watch};
use crate::{CacheRecord, CacheSpec, Slabs};

mod takeover;

/// What a successor would claim: every object that survives, found by the cache directory. Everything on the
/// way to it must be preserved and sound.
fn survivors(slabs: &Slabs<Ram>) -> BTreeSet<PhysAddr> {
    let memory = slabs.memory();
    let view = DirectoryView::own(memory, &slabs.directory);
    view.check(|_, _| Ok(()), Err, |_, _| Ok(())).unwrap();
    let mut found = BTreeSet::new();
    for record in view.records() {
        for addr in view.slabs(&record) {
            let block = Block::new(addr.pfn(), record.order()).unwrap();
            assert!(memory.preserved().contains(block), "a slab in the directory is preserved");
            check_slab(view.source(), addr, &record).unwrap();
            // SAFETY: checked above.
            let slab = unsafe { Slab::at(memory.machine(), addr) };
            for index in record.geometry().indices() {
                let state = State(slab.state(record.geometry(), index).load(Relaxed));
                if survived(state, record.is_preserving()) {
                    assert!(found.insert(slab.addr(record.geometry(), index)), "once each");
                }
            }
        }
    }
    found
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Alloc(bool),
    Free(usize),
    Preserve(usize),
    Unpreserve(usize),
    Shrink,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => any::<bool>().prop_map(Step::Alloc),
        4 => any::<usize>().prop_map(Step::Free),
        4 => any::<usize>().prop_map(Step::Preserve),
        3 => any::<usize>().prop_map(Step::Unpreserve),
        1 => Just(Step::Shrink),
    ]
}

/// The caches that a successor would find; everything on the way to them must be sound. In each place
/// there is one of their records or none, whatever the pages count.
fn caches(slabs: &Slabs<Ram>) -> Vec<String> {
    let view = DirectoryView::own(slabs.memory(), &slabs.directory);
    view.check(|_, _| Ok(()), Err, |_, _| Ok(())).unwrap();
    let places = view.places().filter_map(|place| place.unwrap());
    assert!(places.eq(view.records()), "a record is there by its checksum alone");
    view.records().map(|record| record.name().as_str().to_owned()).collect()
}

/// Does something, and looks at the caches before each store and after the last one.
fn watched(slabs: &Slabs<Ram>, f: impl FnOnce()) -> Vec<Vec<String>> {
    let seen = RefCell::new(Vec::new());
    watch::during(|| seen.borrow_mut().push(caches(slabs)), f);
    let mut seen = seen.into_inner();
    seen.push(caches(slabs));
    seen
}

#[test]
fn a_record_is_there_or_not_at_each_store() {
    let slabs = Slabs::new(Ram::memory(&Ram::frames(4096)).unwrap()).unwrap();
    let mut before = Vec::new();
    // More than a page of 4 KiB has room for.
    for i in 0..40 {
        let name = format!("cache {i}");
        let cache = slabs.cache(CacheSpec::new(&name, 500).preserving(true)).unwrap();
        let after = [before.clone(), vec![name]].concat();
        let seen = watched(&slabs, || {
            cache.alloc().unwrap();
        });
        let stores = seen.iter().take_while(|seen| **seen == before).count();
        // All words of the record, and the count.
        assert!(stores > 16, "{stores} stores");
        assert!(seen[stores..].iter().all(|seen| *seen == after), "{seen:?}");
        before = after;
    }
}

#[test]
fn a_record_is_struck_out_by_one_store() {
    let slabs = Slabs::new(Ram::memory(&Ram::frames(4096)).unwrap()).unwrap();
    for name in ["one", "two", "three"] {
        slabs.cache(CacheSpec::new(name, 500).preserving(true)).unwrap().alloc().unwrap();
    }
    for (name, left) in [("two", &["one", "three"][..]), ("one", &["three"]), ("three", &[])] {
        let view = DirectoryView::own(slabs.memory(), &slabs.directory);
        let record = view.records().find(|record| record.name().as_str() == name).unwrap();
        let before = caches(&slabs);
        let page = slabs.memory().machine().ptr(slabs.directory.first());
        // SAFETY: the cache directory's page, whose words are atomics wherever they are changed.
        let page = unsafe { page.cast::<[AtomicU64; PAGE_SIZE / 8]>().as_ref() };
        let table = |word: &AtomicU64| store::load(word, Relaxed) == record.table().get();
        // A record's checksum stands before the address of its table. Zero is of none.
        let sum = &page[page.iter().position(table).unwrap() - 1];
        let strike = || store::word(sum, 0, Release);
        assert_eq!(
            watched(&slabs, strike),
            [before, left.iter().map(|n| (*n).to_owned()).collect()]
        );
        // What it led to is none of the cache directory any more.
        assert!(view.pages().all(|page| page != record.table()));
        assert_eq!(survivors(&slabs).len(), left.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 48,
        failure_persistence: None,
        rng_algorithm: RngAlgorithm::ChaCha,
        rng_seed: RngSeed::Fixed(0xc4a5),
        ..ProptestConfig::default()
    })]
    #[test]
    fn what_was_promised_is_there_at_any_instant(
        steps in prop::collection::vec(step(), 1..250),
    ) {
        let slabs = Slabs::new(Ram::memory(&Ram::frames(4096)).unwrap()).unwrap();
        // Few objects to a slab, so that slabs come and go.
        let plain = slabs.cache(CacheSpec::new("plain", 9000)).unwrap();
        let always = slabs.cache(CacheSpec::new("always", 9000).preserving(true)).unwrap();
        let mut live: Vec<(NonNull<u8>, bool)> = Vec::new();
        // Objects whose preservation was promised and not yet taken back.
        let promised: RefCell<BTreeSet<PhysAddr>> = RefCell::default();
        let looks = RefCell::new(0);
        let look = || {
            *looks.borrow_mut() += 1;
            let found = survivors(&slabs);
            assert!(promised.borrow().is_subset(&found));
        };
        watch::during(look, || {
            for step in steps {
                let pick = |i: usize| (!live.is_empty()).then(|| i % live.len());
                let addr = |object| slabs.memory().machine().phys(object).unwrap();
                match step {
                    Step::Alloc(kept) => {
                        let object = if kept { &always } else { &plain }.alloc().unwrap();
                        live.push((object, kept));
                        if kept {
                            promised.borrow_mut().insert(addr(object));
                        }
                    }
                    Step::Free(i) => if let Some(i) = pick(i) {
                        let (object, kept) = live[i];
                        if kept {
                            promised.borrow_mut().remove(&addr(object));
                        }
                        // SAFETY: ours, and given up if it succeeds.
                        if unsafe { slabs.free(object) }.is_ok() {
                            live.swap_remove(i);
                        }
                    },
                    Step::Preserve(i) => if let Some(i) = pick(i) {
                        // SAFETY: in use, and nothing frees it meanwhile.
                        if unsafe { slabs.preserve(live[i].0) }.is_ok() {
                            promised.borrow_mut().insert(addr(live[i].0));
                        }
                    },
                    Step::Unpreserve(i) => if let Some(i) = pick(i)
 && !live[i].1 {
                            promised.borrow_mut().remove(&addr(live[i].0));
                            // SAFETY: in use, and nothing frees it meanwhile.
                            let _ = unsafe { slabs.unpreserve(live[i].0) };
                    },
                    Step::Shrink => {
                        slabs.shrink();
                    }
                }
                // In between nothing survives that was not promised.
                assert_eq!(*promised.borrow(), survivors(&slabs));
            }
        });
        prop_assert!(*looks.borrow() > 0 || live.is_empty());
    }
}
