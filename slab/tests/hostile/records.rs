//! Records of the cache directory that no kernel wrote, and holes in its tables.

use heirloom_folio::harness::Ram;
use heirloom_folio::{FrameType, Request};
use heirloom_kho::{Order, PAGE_SIZE, PhysAddr};
use heirloom_slab::internal::{DirectoryFault, SlabFault};
use heirloom_slab::{CacheSpec, Error, SlabError};

use super::common::{addr, fill, filled, ptr, slab_frames, slabs, successor};
use super::{FRAMES, Left, RECORD, goes_on, header, left, page, specs, take, word};

#[test]
fn what_was_taken_is_gone_on_with() {
    goes_on(take(left()).unwrap(), &specs());
}

#[test]
fn holes_may_look_like_anything_odd() {
    for value in [1, u64::MAX, 3, 0] {
        let left = left();
        let [_, first, second, third] = left.pages();
        for (table, other) in [(first, second), (second, third), (third, first)] {
            let count = left.read(word(table, 1));
            // As addresses of pages, of the page itself and of entries, but for a bit.
            let free = [value, other.get() | 1, table.get() + 17, left.directory.get() | 1];
            for (i, entry) in (0..).zip(free) {
                let (at, last) = (word(table, 2 + i * 2), word(table, 2 + count + i));
                left.write(last, left.read(at));
                left.write(at, entry);
            }
            left.write(word(table, 1), count + 4);
        }
        goes_on(take(left).unwrap(), &specs());
    }
}

#[test]
fn words_behind_the_counts_are_never_read() {
    let left = left();
    let [directory, tables @ ..] = left.pages();
    let first = left.read(word(tables[0], 2));
    for page in tables {
        let count = left.read(word(page, 1));
        for index in count..(PAGE_SIZE / 8 - 2) as u64 {
            left.write(word(page, 2 + index), first);
        }
    }
    // Records that were sound, one behind the other, and what is none.
    let count = left.read(word(directory, 1));
    assert_eq!(count, 3);
    for record in count..(PAGE_SIZE as u64 - 16) / RECORD {
        left.record_like(record, record % 3, tables[record as usize % 3]);
        if record % 4 == 3 {
            left.flip(word(directory, 2 + record * RECORD / 8 + 5), 3);
        }
    }
    goes_on(take(left).unwrap(), &specs());
}

#[test]
fn two_records_of_one_shape_are_one_cache() {
    for cache in 0..3_u64 {
        let left = left();
        let table = left.pages()[1 + cache as usize];
        let count = left.read(word(table, 1));
        // A page of another cache's frees becomes the second table: of what is free in the tree, none
        // is preserved, so it takes the place of a slab.
        let slab = (0..count).map(|i| left.read(word(table, 2 + i))).next_back().unwrap();
        let memory = left.ram.attach(&Ram::frames(FRAMES)).unwrap();
        let (memory, _) = memory.take_over(left.map).unwrap();
        let block = memory.alloc(Request::new(Order::ZERO).zeroed()).unwrap();
        // SAFETY: allocated just now.
        unsafe { memory.preserve(block) }.unwrap();
        let left = Left { ram: memory.into_machine(), ..left };
        let second = block.addr();
        left.write(word(second, 1), 2);
        left.write(word(second, 2), 1);
        left.write(word(second, 3), slab);
        left.write(word(table, 1 + count), 0);
        left.record_like(3, cache, second);
        left.write(word(left.directory, 1), 4);
        let spec = specs()[cache as usize];
        let slabs = take(left).unwrap();
        let (taken, adopted) = slabs.adopt(spec).unwrap();
        assert_eq!((adopted.unclaimed, adopted.slabs), (60, count));
        assert_eq!(taken.unclaimed().count(), 60);
        goes_on(slabs, &specs());
    }
}

#[test]
fn a_table_that_two_records_name_is_refused() {
    let left = left();
    let [_, first, second, _] = left.pages();
    left.record_like(1, 1, first);
    let refused = take(left).map(|_| ());
    let fault = DirectoryFault::Duplicate;
    assert!(
        matches!(refused, Err(Error::Directory(e)) if (e.page, e.fault) == (first, fault)),
        "{refused:?} {second}"
    );
}

#[test]
fn a_table_that_begins_with_a_slab_is_refused() {
    let order = |o| Order::new(o).unwrap();
    for (o, preserving) in [(0, true), (0, false), (2, true)] {
        // First the slab is come by, then the page, and the other way round.
        for swapped in [false, true] {
            let before = slabs(FRAMES);
            let spec = CacheSpec::new("slab", 64).preserving(preserving).order(order(o));
            let other = CacheSpec::new("table", 80).preserving(true);
            let specs = if swapped { [other, spec] } else { [spec, other] };
            for spec in specs {
                let object = before.cache(spec).unwrap().alloc().unwrap();
                // SAFETY: allocated just now.
                let _ = unsafe { before.preserve(object) };
            }
            let mut parts = Vec::new();
            before.for_each_table(|part| parts.push(part));
            let headers: Vec<_> = parts.iter().filter_map(header).collect();
            let (map, directory) =
                (before.memory().preserved().tree_root().unwrap(), before.cache_directory());
            let left = Left { ram: before.into_memory().into_machine(), map, directory, parts };
            let (slab, record) =
                if swapped { (headers[1].get(), 0) } else { (headers[0].get(), 1) };
            left.write(word(directory, 2 + record * RECORD / 8 + 1), slab);
            left.sum(record);
            // Its first words are a link and a count that a table could have.
            left.write(PhysAddr::new(slab), 0);
            left.write(PhysAddr::new(slab + 8), 0);
            let refused = take(left).map(|_| ());
            let slab = PhysAddr::new(slab);
            let named = match refused {
                Err(Error::Directory(e)) => match e.fault {
                    DirectoryFault::Duplicate => e.page == slab,
                    DirectoryFault::NotPreserved { addr } => addr == slab,
                    _ => false,
                },
                Err(Error::Slab(SlabError { slab: at, fault: SlabFault::Duplicate })) => at == slab,
                _ => false,
            };
            assert!(named, "order {o}, {swapped}: {refused:?}");
        }
    }
}

/// A cache that was left in two records of one description, as no kernel writes them, each with slabs: what is
/// resumed is all of it.
#[test]
fn two_records_of_one_cache_are_resumed_as_one() {
    let spec = CacheSpec::new("twice", 1000).order(Order::ZERO).preserving(true);
    let before = slabs(FRAMES);
    let cache = before.cache(spec).unwrap();
    let mut all = Vec::new();
    while all.len() < 6 * cache.objects_per_slab() as usize {
        let object = cache.alloc().unwrap();
        // SAFETY: allocated just now.
        unsafe { fill(object, 1000, all.len() as u8) };
        all.push((addr(&before, object), before.reuse_tag_of(object).unwrap().0));
    }
    // A place is free in each slab.
    let mut seen = std::collections::BTreeSet::new();
    let gone: Vec<_> =
        all.iter().map(|(at, _)| *at).filter(|at| seen.insert(at.pfn().get())).collect();
    for at in &gone {
        // SAFETY: in use, and not used again.
        unsafe { cache.free(ptr(&before, *at)) }.unwrap();
    }
    let page_of = || {
        let request = Request::new(Order::ZERO).frame_type(FrameType::Table).zeroed();
        let page = before.memory().alloc(request).unwrap();
        // SAFETY: allocated just now.
        unsafe { before.memory().preserve_as(page, FrameType::Table) }.unwrap();
        page.addr()
    };
    let other = page_of();
    let mut parts = Vec::new();
    before.for_each_table(|part| parts.push(part));
    let pages: Vec<_> = parts.iter().filter_map(page).collect();
    let [directory, table] = pages[..] else { panic!("{parts:?}") };
    let map = before.memory().preserved().tree_root().unwrap();
    let left = Left { ram: before.into_memory().into_machine(), map, directory, parts };
    assert_eq!(left.read(word(directory, 1)), 1);
    left.write(word(directory, 1), 2);
    left.record_like(1, 0, other);
    // Every other slab stands in the other table.
    for i in 0..3 {
        let from = word(table, 2 + 2 * i);
        left.write(word(other, 2 + i), left.read(from));
        left.write(from, 1);
    }
    left.write(word(other, 1), 3);
    let slabs = take(left).unwrap();
    let cache = slabs.resume(spec).unwrap();
    assert_eq!(cache.stats().unswept, 6);
    let used = slabs.memory().stats().used();
    let free: std::collections::BTreeSet<_> =
        (0..6).map(|_| addr(&slabs, cache.alloc().unwrap())).collect();
    assert_eq!(free, gone.iter().copied().collect(), "places of them all");
    assert!(slabs.memory().stats().used() < used + 4, "no new slab");
    assert_eq!((cache.sweep(u64::MAX), cache.stats().unswept), (Ok(0), 0));
    for (seed, (at, reuse_tag)) in all.iter().enumerate() {
        let object = ptr(&slabs, *at);
        if !gone.contains(at) {
            assert_eq!(cache.at(*at, *reuse_tag), Ok(object));
            // SAFETY: in use, and this test's.
            assert!(unsafe { filled(object, 1000, seed as u8) });
        }
        // SAFETY: in use, and not used again.
        unsafe { cache.free(object) }.unwrap();
    }
    slabs.shrink();
    assert_eq!(slab_frames(&slabs), 0);
    let next = successor(slabs, FRAMES).unwrap();
    next.for_each_inherited(|record| panic!("{record:?}"));
}

/// Slabs that are named by the record of another cache are none of either.
#[test]
fn slabs_named_by_another_caches_record_are_not_resumed() {
    let specs =
        ["one", "two"].map(|name| CacheSpec::new(name, 1000).order(Order::ZERO).preserving(true));
    let before = slabs(FRAMES);
    let mut all = Vec::new();
    for spec in specs {
        let cache = before.cache(spec).unwrap();
        while cache.stats().slabs < 6 {
            let object = cache.alloc().unwrap();
            // SAFETY: allocated just now.
            unsafe { fill(object, 1000, all.len() as u8) };
            all.push((spec, addr(&before, object), before.reuse_tag_of(object).unwrap().0));
        }
    }
    let mut parts = Vec::new();
    before.for_each_table(|part| parts.push(part));
    let pages: Vec<_> = parts.iter().filter_map(page).collect();
    let [directory, one, two] = pages[..] else { panic!("{parts:?}") };
    let map = before.memory().preserved().tree_root().unwrap();
    let left = Left { ram: before.into_memory().into_machine(), map, directory, parts };
    let mut swapped = Vec::new();
    for i in [1, 4] {
        let [a, b] = [one, two].map(|table| left.read(word(table, 2 + i)));
        left.write(word(one, 2 + i), b);
        left.write(word(two, 2 + i), a);
        swapped.extend([a, b]);
    }
    let slabs = take(left).unwrap();
    let caches = specs.map(|spec| slabs.resume(spec).unwrap());
    let is_swapped = |at: PhysAddr| swapped.contains(&(at.get() & !(PAGE_SIZE as u64 - 1)));
    for (n, (spec, at, reuse_tag)) in all.iter().enumerate() {
        let cache = slabs.resume(*spec).unwrap();
        let found = cache.at(*at, *reuse_tag);
        assert_eq!(found.is_err(), is_swapped(*at), "{found:?}");
        let object = ptr(&slabs, *at);
        // SAFETY: in use, and not used again.
        let freed = unsafe { cache.free(object) };
        assert_eq!(freed.is_err(), is_swapped(*at), "{freed:?}");
        // SAFETY: nothing writes there.
        assert!(!is_swapped(*at) || unsafe { filled(object, 1000, n as u8) });
    }
    for cache in caches {
        cache.sweep(u64::MAX).unwrap();
        let new: Vec<_> = (0..40).map(|_| addr(&slabs, cache.alloc().unwrap())).collect();
        assert!(!new.into_iter().any(is_swapped));
        assert_eq!(cache.stats().unswept, 2);
        cache.preserved().for_each(|(at, _)| assert!(!is_swapped(at)));
    }
    slabs.finish_inherited(|unclaimed| panic!("{unclaimed:?}")).unwrap();
    slabs.memory().audit().unwrap();
}
