//! Slab tables over many generations: free entries are used again, whoever made them, so tables stay as
//! large as what is in them at its most; and no frame is lost.

mod common;

use std::collections::BTreeMap;

use common::{addr, ptr, slabs, successor};
use heirloom_folio::Disposition;
use heirloom_folio::harness::Ram;
use heirloom_kho::{Order, PAGE_SIZE, PhysAddr};
use heirloom_slab::internal::DirectoryPart;
use heirloom_slab::{CacheSpec, Slabs, Unclaimed};

/// Entries of a page of a slab table.
const ENTRIES: u64 = PAGE_SIZE as u64 / 8 - 2;

/// An object fills a slab, so that there are many.
fn specs() -> [CacheSpec; 3] {
    [("plain", false), ("always", true), ("other", false)].map(|(name, preserving)| {
        CacheSpec::new(name, PAGE_SIZE / 2 + 8).order(Order::ZERO).preserving(preserving)
    })
}

struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 20) % sides
    }
}

/// Pages of the cache directory, and slabs in it.
fn directory(slabs: &Slabs<Ram>) -> (u64, u64) {
    let (mut pages, mut headers) = (0, 0);
    slabs.for_each_table(|part| match part {
        DirectoryPart::Page(_) => pages += 1,
        DirectoryPart::Header { .. } => headers += 1,
    });
    (pages, headers)
}

/// Looks at a kernel's tables, when it gave back what it does not need.
fn looks_right(
    slabs: &Slabs<Ram>,
    objects: &BTreeMap<PhysAddr, (usize, bool)>,
    peak: [u64; 3],
    generation: u32,
) {
    // All that is preserved is in the cache directory, and what is in it is what survives.
    let (pages, headers) = directory(slabs);
    assert_eq!(headers, objects.len() as u64, "generation {generation}");
    assert_eq!(slabs.memory().preserved().counts().total(), pages + headers);
    // A page of records; tables as large as they must be at their most, and somewhat more.
    let fresh = |slabs: u64| (slabs * 12 / 10).div_ceil(ENTRIES) + 1;
    let bound = 1 + peak.into_iter().map(fresh).sum::<u64>();
    assert!(pages <= bound, "generation {generation}: {pages} pages, at most {bound}; {peak:?}");
    assert_eq!(
        slabs.memory().predecessor().finish(|_| Disposition::Free),
        (0, 0),
        "no stray block"
    );
    slabs.memory().audit().unwrap();
}

/// Generations of kernels that preserve and free as the dice have it, in caches of up to `most` slabs.
fn generations(count: u32, most: u64, frames: u64, mut dice: Dice) {
    let mut slabs = slabs(frames);
    // Each object that survives: its cache, and whether it is this kernel's to free.
    let mut objects: BTreeMap<PhysAddr, (usize, bool)> = BTreeMap::new();
    let mut peak = [0_u64; 3];
    for generation in 0..count {
        let adopted: Vec<_> = specs()
            .iter()
            .map(|spec| {
                // Some are not adopted; of those some are in use all the same.
                if dice.roll(4) == 0 {
                    if dice.roll(2) == 0 {
                        slabs.cache(*spec).unwrap();
                    }
                    return false;
                }
                slabs.adopt_or_create(*spec).unwrap();
                true
            })
            .collect();
        for (at, (cache, ours)) in &mut objects {
            if adopted[*cache] && dice.roll(2) == 0 {
                slabs.cache(specs()[*cache]).unwrap().claim(*at).unwrap();
                *ours = true;
            }
        }
        let finish = |objects: &mut BTreeMap<_, _>, dice: &mut Dice| {
            let odds = dice.roll(4);
            slabs
                .finish_inherited(|unclaimed| {
                    let at = match unclaimed {
                        Unclaimed::Object { addr, .. } => addr,
                        Unclaimed::Slab { slab, objects: 1, .. } => {
                            let mut within = objects.range(slab.addr()..);
                            let (at, _): (&PhysAddr, &(usize, bool)) = within.next().unwrap();
                            assert!(slab.run().contains(at.pfn()));
                            *at
                        }
                        other @ Unclaimed::Slab { .. } => panic!("{other:?}"),
                    };
                    if dice.roll(4) < odds {
                        return Disposition::Keep;
                    }
                    assert!(objects.remove(&at).is_some_and(|(_, ours)| !ours));
                    Disposition::Free
                })
                .unwrap();
        };
        let finished = dice.roll(3);
        if finished == 0 {
            finish(&mut objects, &mut dice);
        }
        for (index, spec) in specs().into_iter().enumerate() {
            let cache = slabs.cache(spec).unwrap();
            for _ in 0..dice.roll(most) {
                let of = |objects: &BTreeMap<PhysAddr, (usize, bool)>| {
                    objects.values().filter(|(cache, _)| *cache == index).count() as u64
                };
                let mine = objects.iter().find(|(_, object)| **object == (index, true));
                match mine.map(|(at, _)| *at) {
                    Some(at) if dice.roll(5) < 2 || of(&objects) >= most => {
                        let object = ptr(&slabs, at);
                        // SAFETY: claimed or allocated by this kernel, and given up.
                        unsafe {
                            if slabs.free(object).is_err() {
                                slabs.unpreserve(object).unwrap();
                                slabs.free(object).unwrap();
                            }
                        }
                        objects.remove(&at);
                    }
                    _ if of(&objects) < most => {
                        let object = cache.alloc().unwrap();
                        if !spec_preserves(index) {
                            // SAFETY: allocated just now.
                            unsafe { slabs.preserve(object) }.unwrap();
                        }
                        let before = objects.insert(addr(&slabs, object), (index, true));
                        assert_eq!(before, None, "a place has one owner");
                    }
                    _ => {}
                }
                peak[index] = peak[index].max(of(&objects));
            }
        }
        if finished == 1 {
            finish(&mut objects, &mut dice);
        }
        slabs.shrink();
        looks_right(&slabs, &objects, peak, generation);
        slabs = successor(slabs, frames).unwrap();
        for (_, ours) in objects.values_mut() {
            *ours = false;
        }
    }
    // At the end everything goes.
    slabs.finish_inherited(|_| Disposition::Free).unwrap();
    slabs.shrink();
    let (pages, headers) = directory(&slabs);
    assert_eq!((headers, slabs.memory().preserved().counts().total()), (0, pages));
    assert_eq!(common::slab_frames(&slabs), 0);
}

const fn spec_preserves(index: usize) -> bool {
    index == 1
}

#[test]
fn fifty_generations_of_a_few_hundred_slabs() {
    for seed in [0x51ab, 0x7ab1e] {
        generations(50, 300, 4096, Dice(seed));
    }
}

/// More slabs than a page of a table has entries: pages are linked, and free entries are in all of them.
#[cfg(not(any(heirloom_page = "16k", heirloom_page = "64k")))]
#[test]
fn generations_whose_tables_have_several_pages() {
    generations(16, 1200, 8192, Dice(0xb16));
}

/// What a cache does not know of is struck out by `finish` and by `upgrade`: its next slabs are
/// entered there.
#[test]
fn holes_that_no_cache_made_are_used_again() {
    let spec = specs()[1];
    for upgrade in [false, true] {
        let frames = 4 * ENTRIES;
        let mut slabs = slabs(frames);
        for round in 0..6 {
            // It is there before the free entries are.
            let cache = slabs.cache(spec).unwrap();
            if upgrade && let Some(record) = slabs.inherited("always") {
                slabs.upgrade(&record, |_| Ok(())).unwrap();
            }
            slabs.finish_inherited(|_| Disposition::Free).unwrap();
            for _ in 0..ENTRIES * 3 / 4 {
                cache.alloc().unwrap();
            }
            let (pages, headers) = directory(&slabs);
            assert_eq!(headers, ENTRIES * 3 / 4);
            assert!(pages <= 3, "round {round}: {pages} pages");
            slabs = successor(slabs, frames).unwrap();
        }
    }
}
