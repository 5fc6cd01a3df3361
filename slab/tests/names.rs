//! Whose a cache's name is: the size classes keep theirs whatever is asked for or was left, and
//! what was expected and is not there is said.

mod common;

use core::alloc::Layout;

use common::{addr, copy, fill, filled, slab_frames, slabs, successor};
use heirloom_folio::harness::Ram;
use heirloom_folio::{DirectMap, Disposition};
use heirloom_kho::{Order, PAGE_SHIFT, PhysAddr};
use heirloom_slab::internal::DirectoryPart;
use heirloom_slab::{AllocOptions, CacheSpec, Error, Field, Name, Slabs, Unclaimed, persist};
use xxhash_rust::xxh3::xxh3_64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

const FRAMES: u64 = 4096;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Pair {
    one: u64,
    other: u64,
}
persist!(Pair { one, other });

fn layout(bytes: usize) -> Layout {
    Layout::from_size_align(bytes, 8).unwrap()
}

#[test]
fn the_names_of_the_size_classes_are_refused() {
    let slabs = slabs(FRAMES);
    for name in ["buffer-48", "preserved-48", "buffer-", "preserved-anything", "buffer-9999"] {
        let reserved = Error::ReservedName { cache: Name::new(name).unwrap() };
        let spec = CacheSpec::new(name, 48).fingerprint(1);
        assert_eq!(slabs.cache(spec).err(), Some(reserved));
        assert_eq!(slabs.adopt(spec).err(), Some(reserved));
        assert_eq!(slabs.adopt_or_create(spec).err(), Some(reserved));
        assert_eq!(slabs.typed::<Pair>(name, true).err(), Some(reserved));
        assert_eq!(slabs.adopt_typed::<Pair>(name, true).err(), Some(reserved));
        assert_eq!(slabs.adopt_typed_or_create::<Pair>(name, false).err(), Some(reserved));
        assert!(reserved.to_string().contains(name));
    }
    assert_eq!(slabs.caches().count(), 0);
    slabs.cache(CacheSpec::new("buffers-48", 48)).unwrap();
    slabs.alloc(layout(48), AllocOptions::default()).unwrap();
}

/// Gives a cache that was left another name, in its record and in its slabs' headers, as a kernel
/// would have that lays its classes out otherwise.
fn rename(slabs: &Slabs<Ram>, from: &str, to: &str) {
    let machine = slabs.memory().machine();
    // SAFETY: nothing but this test writes tables now; the addresses are those of tables.
    let bytes = |at: PhysAddr, length: usize| unsafe {
        std::slice::from_raw_parts_mut(machine.ptr(at).as_ptr(), length)
    };
    let put = |bytes: &mut [u8], name: usize, sum: usize| {
        let is = bytes[name..].starts_with(from.as_bytes()) && bytes[name + from.len()] == 0;
        if is {
            bytes[name..name + 32].fill(0);
            bytes[name..name + to.len()].copy_from_slice(to.as_bytes());
            bytes[sum..sum + 8].fill(0);
            let hash = xxh3_64(bytes);
            bytes[sum..sum + 8].copy_from_slice(&hash.to_le_bytes());
        }
        is
    };
    let (mut records, mut headers) = (0, 0);
    let mut parts = Vec::new();
    slabs.for_each_table(|part| parts.push(part));
    for part in parts {
        match part {
            DirectoryPart::Page(page) if page == slabs.cache_directory() => {
                for at in (16..4096).step_by(128).take(31) {
                    let record = bytes(PhysAddr::new(page.get() + at), 128);
                    records += u32::from(put(record, 16 + 8, 0));
                }
            }
            DirectoryPart::Page(_) => {}
            DirectoryPart::Header { addr, bytes: length } => {
                headers += u32::from(put(bytes(addr, length as usize), 24 + 8, 8));
            }
        }
    }
    assert!(records == 1 && headers > 0);
}

/// An object that is left: address, size, reuse tag.
fn keep(slabs: &Slabs<Ram>, spec: CacheSpec, count: u8) -> Vec<(PhysAddr, u64, u8)> {
    let cache = slabs.cache(spec).unwrap();
    let one = |seed| {
        let object = cache.alloc().unwrap();
        // SAFETY: allocated just now.
        unsafe { fill(object, cache.object_size(), seed) };
        if !cache.is_preserving() {
            // SAFETY: as above.
            unsafe { cache.preserve(object) }.unwrap();
        }
        let (reuse_tag, size) = slabs.reuse_tag_of(object).unwrap();
        (addr(slabs, object), size as u64, reuse_tag)
    };
    (0..count).map(one).collect()
}

#[test]
fn a_class_keeps_its_slabs_whatever_was_left_under_its_name() {
    let (class, reference) = {
        let slabs = slabs(FRAMES);
        let buffer = slabs.alloc(layout(32), AllocOptions::default()).unwrap();
        let class = slabs.caches().next().unwrap();
        slabs.size_of(buffer).unwrap();
        (class.slab_order(), slab_frames(&slabs))
    };
    // As many objects as a slab can have.
    let large = Order::new(21 - PAGE_SHIFT as u8).unwrap();
    assert!(class < large && reference == class.frames());
    for preserving in [false, true] {
        let name = if preserving { "preserved-32" } else { "buffer-32" };
        let first = slabs(FRAMES);
        // As a class has it but for the order; and what no class is like at all.
        let odd = CacheSpec::new("odd", 32).align(32).order(large).preserving(preserving);
        let other = CacheSpec::new("other", 48).fingerprint(1).preserving(preserving);
        let left = keep(&first, odd, 20);
        let strange = keep(&first, other, 5);
        rename(&first, "odd", name);
        rename(&first, "other", &format!("{}16", &name[..name.len() - 2]));
        let slabs = successor(first, FRAMES).unwrap();
        // Claimed by their handles, as any small buffer.
        for (seed, (at, size, reuse_tag)) in (0..).zip(&left) {
            let buffer = slabs.claim(*at, *size, *reuse_tag).unwrap();
            // SAFETY: claimed just now.
            assert!(unsafe { filled(buffer, 32, seed) });
            if seed % 2 == 0 {
                // SAFETY: claimed just now.
                unsafe { slabs.free(buffer) }.unwrap();
            }
        }
        // The next goes on with them as they are.
        let next = copy(&slabs, FRAMES);
        next.resume_buffers().unwrap();
        for (seed, (at, size, reuse_tag)) in (0..).zip(&left).skip(1).step_by(2) {
            let buffer = next.at(*at, *size, *reuse_tag).unwrap();
            // SAFETY: in use, and the test's.
            unsafe {
                assert!(filled(buffer, 32, seed));
                let moved = next.realloc(buffer, layout(100)).unwrap();
                assert!(filled(moved, 32, seed));
                next.free(moved).unwrap();
            }
            assert!(next.at(*at, *size, *reuse_tag).is_err());
        }
        next.shrink();
        // But for the one that is no class's.
        next.finish_inherited(|unclaimed| {
            assert!(matches!(unclaimed, Unclaimed::Slab { objects: 5, .. }));
            Disposition::Free
        })
        .unwrap();
        assert_eq!(slab_frames(&next), 0);
        let (at, size, reuse_tag) = strange[0];
        assert!(matches!(slabs.claim(at, size, reuse_tag), Err(Error::NotAdopted { .. })));
        slabs.finish_inherited(|_| Disposition::Keep).unwrap();
        slabs.memory().predecessor().finish(|_| Disposition::Free);
        // The classes are as ever.
        for bytes in [32, 16, 48] {
            for kind in [false, true] {
                let opts = AllocOptions { preserving: kind, zeroed: false };
                let buffer = slabs.alloc(layout(bytes), opts).unwrap();
                assert_eq!(slabs.size_of(buffer), Some(bytes));
                let at = addr(&slabs, buffer);
                let (run, ..) = slabs.memory().owning_block(at.pfn()).unwrap();
                assert_eq!(run.frames(), class.frames(), "{bytes} {kind}");
                // SAFETY: allocated above.
                unsafe { slabs.free(buffer) }.unwrap();
            }
        }
        // And once more, from the cache that keeps them.
        if preserving {
            let slabs = successor(slabs, FRAMES).unwrap();
            for (at, size, reuse_tag) in left.iter().skip(1).step_by(2) {
                slabs.claim(*at, *size, *reuse_tag).unwrap();
            }
            slabs.finish_inherited(|_| Disposition::Free).unwrap();
        }
    }
}

#[test]
fn a_cache_that_was_not_left_is_an_error_that_names_it() {
    let first = slabs(FRAMES);
    let left = keep(&first, CacheSpec::new("session", 40), 10);
    let slabs = successor(first, FRAMES).unwrap();
    let missing = Error::NotInherited { cache: Name::new("sessoin").unwrap() };
    assert_eq!(slabs.adopt(CacheSpec::new("sessoin", 40)).err(), Some(missing));
    let pair = slabs.adopt_typed::<Pair>("sessoin", false);
    assert_eq!(pair.err(), Some(missing));
    assert!(missing.to_string().contains("sessoin"));
    assert_eq!(slabs.caches().count(), 0);
    // What is left says whose it is, and a walk what there is.
    let mut names = Vec::new();
    slabs.for_each_inherited(|record| names.push(record.name().to_string()));
    assert_eq!(names, ["session"]);
    let (cache, adopted) = slabs.adopt(CacheSpec::new("session", 40)).unwrap();
    assert_eq!((adopted.unclaimed, cache.stats().unclaimed), (10, 10));
    // Once it is there, it is there.
    assert!(slabs.adopt(CacheSpec::new("session", 40)).is_ok());
    let (fresh, adopted) = slabs.adopt_or_create(CacheSpec::new("fresh", 40)).unwrap();
    assert_eq!((fresh.stats().slabs, adopted.slabs), (0, 0));
    drop(left);
}

#[test]
fn what_finish_asks_about_has_the_name_of_its_cache() {
    let first = slabs(FRAMES);
    let whole = keep(&first, CacheSpec::new("whole", 40), 10);
    let single = keep(&first, CacheSpec::new("single", 72), 3);
    let slabs = successor(first, FRAMES).unwrap();
    slabs.adopt(CacheSpec::new("single", 72)).unwrap();
    let mut asked = Vec::new();
    slabs
        .finish_inherited(|unclaimed| {
            asked.push(unclaimed);
            Disposition::Free
        })
        .unwrap();
    let cache = Name::new("single").unwrap();
    for (addr, size, _) in &single {
        let object = Unclaimed::Object { cache, addr: *addr, size: *size as u32 };
        assert!(asked.contains(&object), "{asked:?}");
    }
    let named = |unclaimed: &&Unclaimed| matches!(unclaimed, Unclaimed::Slab { cache, objects: 10, .. } if cache.as_str() == "whole");
    assert_eq!(asked.iter().filter(named).count(), 1, "{asked:?} {whole:?}");
    assert_eq!(asked.len(), 4);
}

#[test]
fn what_is_wrong_with_a_cache_is_said_as_people_write_it() {
    let first = slabs(FRAMES);
    keep(&first, CacheSpec::new("session", 32), 1);
    let slabs = successor(first, FRAMES).unwrap();
    let said = |spec: CacheSpec| slabs.adopt(spec).unwrap_err().to_string();
    let size = said(CacheSpec::new("session", 40));
    assert_eq!(size, "cache session: object size: inherited 32, this build 40; see `upgrade`");
    let preserving = said(CacheSpec::new("session", 32).preserving(true));
    assert_eq!(
        preserving,
        "cache session: preserving: inherited no, this build yes; see `upgrade`"
    );
    let print = said(CacheSpec::new("session", 32).fingerprint(0xab));
    assert!(print.contains("this build 0x00000000000000ab; see `upgrade`"), "{print}");
    let long = "c".repeat(60);
    let name = said(CacheSpec::new(&long, 8));
    assert!(name.ends_with(": a name of 60 bytes; 1 to 31 are possible"), "{name}");
    let large = said(CacheSpec::new("large", 1 << 30));
    assert_eq!(large, "cache large: object size cannot be 1073741824");
    slabs.cache(CacheSpec::new("here", 64)).unwrap();
    let here = slabs.cache(CacheSpec::new("here", 72)).unwrap_err();
    assert!(matches!(here, Error::Mismatch { field: Field::Size, inherited: false, .. }));
    assert_eq!(here.to_string(), "cache here: object size: the cache there 64, this build 72");
}
