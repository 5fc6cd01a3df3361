//! A predecessor is not trusted: any bytes in its tables lead to success or to an error, never to
//! a panic, a loop, or memory with two owners.

#[path = "../common/mod.rs"]
mod common;
mod entries;
mod records;

use common::{addr, config, fill, slabs, successor};
use heirloom_folio::harness::Ram;
use heirloom_folio::{DirectMap, Disposition};
use heirloom_kho::{PAGE_SIZE, PhysAddr};
use heirloom_slab::internal::{DirectoryFault, DirectoryPart, SlabFault};
use heirloom_slab::{Adopted, CacheSpec, Error, SlabError, Slabs};
use proptest::prelude::*;
use xxhash_rust::xxh3::xxh3_64;

const FRAMES: u64 = 2048;

fn specs() -> [CacheSpec; 3] {
    [
        CacheSpec::new("first", 40).preserving(true),
        CacheSpec::new("second", 1000),
        CacheSpec::new("third", 3000).preserving(true),
    ]
}

/// A handover with three caches: the machine, where the tree and the cache directory are, every part of the
/// cache directory, and an object's address.
struct Left {
    ram: Ram,
    map: PhysAddr,
    directory: PhysAddr,
    parts: Vec<DirectoryPart>,
}

fn left() -> Left {
    let slabs = slabs(FRAMES);
    for spec in specs() {
        let cache = slabs.cache(spec).unwrap();
        for i in 0..60 {
            let object = cache.alloc().unwrap();
            // SAFETY: allocated just now.
            unsafe { fill(object, cache.object_size(), i) };
            if !cache.is_preserving() {
                // SAFETY: in use, and nothing frees it meanwhile.
                unsafe { cache.preserve(object) }.unwrap();
            }
        }
    }
    let mut parts = Vec::new();
    slabs.for_each_table(|part| parts.push(part));
    let (map, directory) =
        (slabs.memory().preserved().tree_root().unwrap(), slabs.cache_directory());
    Left { ram: slabs.into_memory().into_machine(), map, directory, parts }
}

fn page(part: &DirectoryPart) -> Option<PhysAddr> {
    match part {
        DirectoryPart::Page(addr) => Some(*addr),
        DirectoryPart::Header { .. } => None,
    }
}

fn header(part: &DirectoryPart) -> Option<PhysAddr> {
    match part {
        DirectoryPart::Header { addr, .. } => Some(*addr),
        DirectoryPart::Page(_) => None,
    }
}

impl Left {
    fn write(&self, at: PhysAddr, value: u64) {
        let bytes = value.to_le_bytes();
        for (i, byte) in bytes.into_iter().enumerate() {
            // SAFETY: no kernel runs on the memory at this moment.
            unsafe { self.ram.ptr(PhysAddr::new(at.get() + i as u64)).write(byte) };
        }
    }

    fn read(&self, at: PhysAddr) -> u64 {
        let byte = |i| {
            // SAFETY: no kernel runs on the memory at this moment.
            unsafe { self.ram.ptr(PhysAddr::new(at.get() + i)).read() }
        };
        u64::from_le_bytes([0, 1, 2, 3, 4, 5, 6, 7].map(byte))
    }

    fn flip(&self, at: PhysAddr, bit: u32) {
        self.write(at, self.read(at) ^ 1 << bit);
    }

    /// Revives, adopts, claims what it can, and finishes.
    fn revive(self) -> Result<Slabs<Ram>, Error> {
        let memory = self.ram.attach(&Ram::frames(FRAMES))?;
        let (memory, _) = memory.take_over(self.map)?;
        let slabs = Slabs::revive(memory, self.directory)?;
        let mut first = Ok(());
        for spec in specs() {
            match slabs.adopt(spec) {
                Ok((cache, _)) => {
                    for (addr, _) in cache.unclaimed().take(10) {
                        let object = cache.claim(addr)?;
                        // SAFETY: claimed just now.
                        unsafe { cache.free(object) }?;
                    }
                }
                Err(error) => first = first.and(Err(error)),
            }
        }
        slabs.finish_inherited(|_| Disposition::Free)?;
        slabs.memory().predecessor().finish(|_| Disposition::Free);
        let audit = slabs.memory().audit()?;
        assert_eq!(audit.reserved, 0);
        first.map(|()| slabs)
    }
}

/// The byte of a slab's object, for each of the first ones.
fn state(slab: PhysAddr, index: u64) -> PhysAddr {
    PhysAddr::new(slab.get() + 128 + index)
}

/// Damage: which part, which word of it, and what is done to it.
#[derive(Clone, Copy, Debug)]
enum Damage {
    Flip(u32),
    Set(u64),
    /// The address of another part.
    Point(usize),
}

fn damage() -> impl Strategy<Value = (usize, usize, Damage)> {
    let what = prop_oneof![
        (0..64_u32).prop_map(Damage::Flip),
        any::<u64>().prop_map(Damage::Set),
        (0..40_u64).prop_map(Damage::Set),
        any::<usize>().prop_map(Damage::Point),
    ];
    (any::<usize>(), 0..40_usize, what)
}

/// A kernel goes on with what it took: it frees and discards, creates caches, preserves, and what it
/// leaves is sound for the next one, which finds exactly what was preserved.
fn goes_on(mut slabs: Slabs<Ram>, specs: &[CacheSpec]) {
    let new = CacheSpec::new("of this kernel", 700).preserving(true);
    for generation in 0..3_u8 {
        let mut kept = Vec::new();
        for spec in specs.iter().chain([&new]) {
            let (cache, _) = slabs.adopt_or_create(*spec).unwrap();
            let size = cache.object_size();
            let left: Vec<_> = cache.unclaimed().collect();
            assert_eq!(left.len() as u64, cache.stats().unclaimed);
            for (i, (at, _)) in left.into_iter().enumerate() {
                match i % 4 {
                    0 => cache.discard(at).unwrap(),
                    // SAFETY: claimed just now.
                    1 => unsafe { cache.free(cache.claim(at).unwrap()) }.unwrap(),
                    2 => kept.push((cache.name(), at)),
                    _ => {
                        cache.claim(at).unwrap();
                        kept.push((cache.name(), at));
                    }
                }
            }
            cache.shrink();
            for _ in 0..(40_000 / size).max(20) {
                let object = cache.alloc().unwrap();
                // SAFETY: allocated just now.
                unsafe { fill(object, size, generation) };
                if !cache.is_preserving() {
                    // SAFETY: in use, and nothing frees it meanwhile.
                    unsafe { cache.preserve(object) }.unwrap();
                }
                kept.push((cache.name(), addr(&slabs, object)));
            }
        }
        slabs = successor(slabs, FRAMES).unwrap();
        let mut found = Vec::new();
        for spec in specs.iter().chain([&new]) {
            let (cache, _) = slabs.adopt(*spec).unwrap();
            found.extend(cache.unclaimed().map(|(at, _)| (cache.name(), at)));
        }
        kept.sort();
        found.sort();
        assert!(kept == found, "{} kept, {} found", kept.len(), found.len());
        slabs.memory().audit().unwrap();
    }
    slabs.finish_inherited(|_| Disposition::Free).unwrap();
    slabs.memory().predecessor().finish(|_| Disposition::Free);
    slabs.shrink();
    assert_eq!(common::slab_frames(&slabs), 0);
    let last = successor(slabs, FRAMES).unwrap();
    assert!(specs.iter().all(|spec| last.adopt(*spec).unwrap().1 == Adopted::default()));
    last.memory().audit().unwrap();
}

fn take(left: Left) -> Result<Slabs<Ram>, Error> {
    let memory = left.ram.attach(&Ram::frames(FRAMES))?;
    let (memory, _) = memory.take_over(left.map)?;
    Slabs::revive(memory, left.directory)
}

const fn word(page: PhysAddr, index: u64) -> PhysAddr {
    PhysAddr::new(page.get() + 8 * index)
}

/// Bytes of a record.
const RECORD: u64 = 128;

impl Left {
    /// The page of records, and those of the three slab tables.
    fn pages(&self) -> [PhysAddr; 4] {
        let pages: Vec<_> = self.parts.iter().filter_map(page).collect();
        pages.try_into().unwrap()
    }

    /// Writes the checksum of a record anew.
    fn sum(&self, record: u64) {
        let at = PhysAddr::new(self.directory.get() + 16 + record * RECORD);
        self.write(at, 0);
        // SAFETY: in memory that nobody uses now.
        let bytes =
            unsafe { std::slice::from_raw_parts(self.ram.ptr(at).as_ptr(), RECORD as usize) };
        self.write(at, xxh3_64(bytes));
    }

    /// Makes record `to` one like `from`, whose table begins at another page.
    fn record_like(&self, to: u64, from: u64, table: PhysAddr) {
        for i in 0..RECORD / 8 {
            let [from, to] =
                [from, to].map(|record| word(self.directory, 2 + record * RECORD / 8 + i));
            self.write(to, self.read(from));
        }
        self.write(word(self.directory, 2 + to * RECORD / 8 + 1), table.get());
        self.sum(to);
    }
}

#[test]
fn a_sound_handover_is_taken() {
    let slabs = left().revive().unwrap();
    slabs.shrink();
    assert_eq!(common::slab_frames(&slabs), 0);
}

#[test]
fn every_flipped_bit_of_a_slabs_header_is_found() {
    for bit in (0..88 * 8_u64).step_by(3) {
        let left = left();
        let header = left.parts.iter().find_map(|part| match part {
            DirectoryPart::Header { addr, bytes } => Some((*addr, *bytes)),
            DirectoryPart::Page(_) => None,
        });
        let (addr, bytes) = header.unwrap();
        assert_eq!(bytes, 88);
        left.flip(PhysAddr::new(addr.get() + bit / 64 * 8), (bit % 64) as u32);
        let refused = left.revive();
        assert!(matches!(refused, Err(Error::Slab(e)) if e.slab == addr), "bit {bit}: {refused:?}");
    }
}

#[test]
fn what_cannot_be_adopted_makes_no_cache() {
    let left = left();
    let headers = left.parts.iter().filter_map(header);
    headers.for_each(|addr| left.flip(PhysAddr::new(addr.get() + 40), 0));
    let memory = left.ram.attach(&Ram::frames(FRAMES)).unwrap();
    let (memory, _) = memory.take_over(left.map).unwrap();
    let slabs = Slabs::revive(memory, left.directory).unwrap();
    for spec in specs() {
        assert!(matches!(slabs.adopt(spec), Err(Error::Slab(_))));
    }
    assert_eq!(slabs.caches().count(), 0);
}

#[test]
fn a_chain_without_end_is_refused() {
    let left = left();
    left.write(left.directory, left.directory.get());
    let refused = left.revive();
    assert!(
        matches!(refused, Err(Error::Directory(e)) if e.fault == DirectoryFault::Endless),
        "{refused:?}"
    );
}

#[test]
fn a_slab_named_twice_is_refused() {
    let left = left();
    // The second page is the first cache's slab table.
    let DirectoryPart::Page(table) = left.parts[1] else { panic!("{:?}", left.parts) };
    let (count, entry) = (PhysAddr::new(table.get() + 8), PhysAddr::new(table.get() + 16));
    assert_eq!(left.read(count), 1);
    let slab = left.read(entry);
    left.write(PhysAddr::new(table.get() + 24), slab);
    left.write(count, 2);
    let refused = left.revive();
    let twice = |e: SlabError| e.fault == SlabFault::Duplicate;
    assert!(matches!(refused, Err(Error::Slab(e)) if twice(e)), "{refused:?}");
}

#[test]
fn what_is_no_slab_is_not_believed() {
    for value in [0x1000_u64, 8, u64::MAX - 1, 1 << 52, 4 << 30] {
        let left = left();
        let DirectoryPart::Page(table) = left.parts[1] else { panic!("{:?}", left.parts) };
        left.write(PhysAddr::new(table.get() + 16), value);
        let refused = left.revive();
        assert!(
            matches!(refused, Err(Error::Slab(_) | Error::Directory(_))),
            "{value:#x}: {refused:?}"
        );
    }
}

#[test]
fn a_page_of_a_slab_table_that_goes_on_must_be_full() {
    let left = left();
    let pages: Vec<_> = left.parts.iter().filter_map(page).collect();
    // The pages of the cache directory's records and of the three slab tables.
    let [_, table, _, next] = pages[..] else { panic!("{:?}", left.parts) };
    let full = (PAGE_SIZE / 8 - 2) as u64;
    let found = left.read(PhysAddr::new(table.get() + 8));
    assert!(found > 0 && found < full);
    left.write(table, next.get());
    let Err(Error::Directory(error)) = left.revive() else {
        panic!("it goes on behind {found} entries")
    };
    let fault = DirectoryFault::NotFull { found, expected: full };
    assert_eq!((error.page, error.fault), (table, fault));
    let text = error.to_string();
    assert!(text.contains(&table.to_string()) && text.contains(&format!(" {found} ")), "{text}");
}

#[test]
fn a_record_whose_checksum_is_zero_is_none() {
    let left = left();
    let slabs_of =
        |spec: CacheSpec, slabs: &Slabs<Ram>| slabs.adopt(spec).map(|(_, all)| all.slabs);
    // The first record, of the first cache.
    left.write(PhysAddr::new(left.directory.get() + 16), 0);
    let memory = left.ram.attach(&Ram::frames(FRAMES)).unwrap();
    let (memory, _) = memory.take_over(left.map).unwrap();
    let slabs = Slabs::revive(memory, left.directory).unwrap();
    let [first, second, third] = specs();
    let mut names = Vec::new();
    slabs.for_each_inherited(|record| names.push(record.name().as_str().to_owned()));
    assert_eq!(names, ["second", "third"]);
    assert_eq!(slabs.inherited("first"), None);
    assert!(matches!(slabs_of(first, &slabs), Err(Error::NotInherited { .. })));
    assert!(slabs_of(second, &slabs).unwrap() > 0 && slabs_of(third, &slabs).unwrap() > 0);
    slabs.finish_inherited(|_| Disposition::Free).unwrap();
    // What it led to is left unclaimed.
    let mut strays = 0;
    let free = |block| {
        strays += u64::from(slabs.memory().predecessor().label_of(block).is_none());
        Disposition::Free
    };
    slabs.memory().predecessor().finish(free);
    assert!(strays >= 2, "a slab table and a slab: {strays}");
    slabs.memory().audit().unwrap();
    goes_on(slabs, &[second, third]);
}

#[test]
fn what_a_plain_free_lets_go_of_survives_until_then() {
    const HELD: u8 = 5;
    let of = |left: &Left, name: u8| {
        let named = |addr: &PhysAddr| left.read(PhysAddr::new(addr.get() + 32)) as u8 == name;
        let slab = left.parts.iter().filter_map(header).find(named);
        slab.unwrap()
    };
    let left = left();
    let slab = of(&left, b's');
    let mut held = Vec::new();
    for index in 0..left.read(PhysAddr::new(slab.get() + 24 + 48)) >> 32 {
        let byte = left.ram.ptr(state(slab, index));
        // SAFETY: no kernel runs on the memory at this moment.
        let found = unsafe { byte.read() };
        // One that is free in between stays so.
        if found & 7 == 2 {
            // SAFETY: as above.
            unsafe { byte.write(found & !7 | HELD) };
            held.push(found >> 3);
        }
    }
    assert!(held.len() > 2);
    let memory = left.ram.attach(&Ram::frames(FRAMES)).unwrap();
    let (memory, _) = memory.take_over(left.map).unwrap();
    let slabs = Slabs::revive(memory, left.directory).unwrap();
    let (cache, adopted) = slabs.adopt(specs()[1]).unwrap();
    assert_eq!(adopted.unclaimed, 60);
    let unclaimed: Vec<_> = cache.unclaimed().collect();
    assert_eq!(unclaimed.len(), 60);
    for (addr, reuse_tag) in unclaimed {
        let object = slabs.claim(addr, 1000, reuse_tag).unwrap();
        // SAFETY: claimed just now.
        unsafe { cache.free(object) }.unwrap();
    }
    assert_eq!(cache.stats().live, 0);

    // What is in use in a preserving cache is live.
    let left = self::left();
    let slab = of(&left, b'f');
    // SAFETY: no kernel runs on the memory at this moment.
    unsafe { left.ram.ptr(state(slab, 3)).write(1 << 3 | HELD) };
    let Err(Error::Slab(error)) = left.revive() else { panic!("no state of a preserving cache") };
    let fault = SlabFault::State { index: 3, found: 1 << 3 | HELD };
    assert_eq!((error.slab, error.fault), (slab, fault));
}

proptest! {
    #![proptest_config(config(400, 0x4057))]
    #[test]
    fn any_bytes_lead_to_success_or_an_error(all in prop::collection::vec(damage(), 1..6)) {
        let left = left();
        for (part, word, what) in all {
            let at = |part: usize| match left.parts[part % left.parts.len()] {
                DirectoryPart::Page(addr) | DirectoryPart::Header { addr, .. } => addr,
            };
            let word = PhysAddr::new(at(part).get() + (word * 8) as u64);
            assert!(word.offset_in_page() < PAGE_SIZE);
            match what {
                Damage::Flip(bit) => left.flip(word, bit),
                Damage::Set(value) => left.write(word, value),
                Damage::Point(part) => left.write(word, at(part).get()),
            }
        }
        match left.revive() {
            // Found and named; or a record is none.
            Err(
                Error::Directory(_)
                | Error::Slab(_)
                | Error::Mismatch { .. }
                | Error::NotInherited { .. },
            ) => {}
            Err(other) => prop_assert!(false, "{other}"),
            Ok(slabs) => {
                slabs.shrink();
                prop_assert!(slabs.memory().audit().is_ok());
            }
        }
    }
}
