//! A predecessor is not trusted: any bytes in its tables lead to success or to an error, never to
//! a panic, a loop, or memory with two owners.

mod common;

use common::{addr, config, copy, fill, filled, slabs, successor};
use heirloom_folio::harness::Ram;
use heirloom_folio::{DirectMap, Disposition, FrameState, FrameType, Request};
use heirloom_kho::{Block, Order, PAGE_SIZE, PhysAddr};
use heirloom_slab::internal::{DirectoryFault, DirectoryPart, SlabFault};
use heirloom_slab::{Adopted, AllocOptions, CacheSpec, Error, SlabError, Slabs};
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

/// The byte of a slab's object, for each of the first ones.
fn state(slab: PhysAddr, index: u64) -> PhysAddr {
    PhysAddr::new(slab.get() + 128 + index)
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

/// The header's words that are a kernel's own name the successor's cache, as a predecessor can
/// compute them: the successor's cache directory is the first page it allocates.
#[test]
fn a_forged_owner_word_makes_no_slab_ours() {
    let spec = specs()[1];
    let revive = |left: Left| {
        let memory = left.ram.attach(&Ram::frames(FRAMES)).unwrap();
        let (memory, _) = memory.take_over(left.map).unwrap();
        Slabs::revive(memory, left.directory).unwrap()
    };
    let rehearsed = revive(left()).cache_directory();

    let left = left();
    // The name in the header begins at byte 32.
    let named = |addr: &PhysAddr| left.read(PhysAddr::new(addr.get() + 32)) & 0xff == b's'.into();
    let slab = left.parts.iter().filter_map(header).find(named).unwrap();
    let word = |offset| PhysAddr::new(slab.get() + offset);
    left.write(word(88), rehearsed.pfn().get() << 12);
    // Two objects keep the slab preserved, as far as its header says.
    left.write(word(120), 2 << 32);
    // The first object: unclaimed, reuse tag 1.
    let first = u64::from(u32::try_from(left.read(word(24 + 56)) & 0xffff_ffff).unwrap());
    // SAFETY: no kernel runs on the memory at this moment.
    unsafe { left.ram.ptr(word(128)).write(1 << 3 | 3) };

    let slabs = revive(left);
    let cache = slabs.cache(spec).unwrap();
    let at = PhysAddr::new(slab.get() + first);
    // Not adopted: nothing there can be claimed, whoever it says it belongs to.
    let block = Block::containing(at.pfn(), cache.slab_order());
    assert_eq!(slabs.claim(at, 1000, 1), Err(Error::NotAdopted { addr: at, slab: block }));
    assert_eq!(slabs.owner_at(at), None);
    slabs.finish_inherited(|_| Disposition::Free).unwrap();
    slabs.memory().predecessor().finish(|_| Disposition::Free);
    assert_eq!(slabs.memory().state(block.pfn()).unwrap(), FrameState::Freed);
}

/// A block that safe code prepared is not taken for a slab of a cache.
#[test]
fn only_the_layer_itself_makes_slabs() {
    let slabs = slabs(FRAMES);
    let memory = slabs.memory();
    let order = Order::new(4).unwrap();
    let _cache = slabs.cache(CacheSpec::new("victim", 1000).order(order)).unwrap();
    let mut forged = memory.alloc_folio(Request::new(order).zeroed()).unwrap();
    forged.bytes_mut()[88..96]
        .copy_from_slice(&(slabs.cache_directory().pfn().get() << 12).to_le_bytes());
    let block = forged.extent();
    drop(forged);
    memory.drain();
    let refused = heirloom_folio::Error::BadRequest { frames: order.frames() };
    assert_eq!(memory.alloc_at_as(block, FrameType::Slab), Err(refused));
    assert_eq!(memory.alloc(Request::new(order).frame_type(FrameType::Slab)), Err(refused));
    memory.alloc_at_as(block, FrameType::Table).unwrap();
    assert_eq!(slabs.owner_at(block.addr()), None);
    let start = memory.machine().ptr(block.addr());
    // SAFETY: no slab is there, and nothing else runs.
    let done = unsafe { slabs.unpreserve(start) };
    assert_eq!(done, Err(Error::NotAnObject { ptr: start.addr().get() }));
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

/// Where a slab's header says that its entry is.
const ENTRY: u64 = 112;

/// Claims buffers of 1000 bytes that were left, or finds them once they are resumed, and frees each.
fn take_and_free(
    slabs: &Slabs<Ram>,
    handles: &[(PhysAddr, u64, u8)],
    preserving: bool,
    resumed: bool,
) {
    if resumed {
        slabs.resume_buffers().unwrap();
    }
    for (seed, (at, size, reuse_tag)) in (0..).zip(handles) {
        let buffer = if resumed {
            slabs.at(*at, *size, *reuse_tag)
        } else {
            slabs.claim(*at, *size, *reuse_tag)
        };
        let buffer = buffer.unwrap();
        // SAFETY: in use, and this test's.
        assert!(unsafe { filled(buffer, 1000, seed as u8) });
        // A jump in the middle loses nothing.
        if seed % handles.len().div_ceil(3) == 0 {
            let next = copy(slabs, FRAMES);
            handles.iter().skip(seed).for_each(|(at, size, reuse_tag)| {
                next.claim(*at, *size, *reuse_tag).unwrap();
            });
        }
        // SAFETY: in use, and not used again.
        unsafe {
            if resumed && !preserving {
                slabs.unpreserve(buffer).unwrap();
            }
            slabs.free(buffer).unwrap();
        }
    }
}

/// The header of a slab says where its entry is: what a predecessor wrote there is believed if it is
/// so, and leads nowhere else.
#[test]
fn a_forged_entry_of_a_header_leads_nowhere() {
    let layout = core::alloc::Layout::from_size_align(1000, 8).unwrap();
    let all = (0..13).flat_map(|f| [(f, false), (f, true)]);
    for ((forgery, preserving), resumed) in all.flat_map(|f| [(f, false), (f, true)]) {
        let before = slabs(FRAMES);
        let opts = AllocOptions { preserving, zeroed: false };
        let mut handles = Vec::new();
        let leave = |handles: &mut Vec<_>| {
            let buffer = before.alloc(layout, opts).unwrap();
            // SAFETY: allocated just now.
            unsafe { fill(buffer, 1000, handles.len() as u8) };
            if !preserving {
                // SAFETY: as above.
                unsafe { before.preserve(buffer) }.unwrap();
            }
            let (reuse_tag, size) = before.reuse_tag_of(buffer).unwrap();
            handles.push((addr(&before, buffer), size as u64, reuse_tag));
        };
        while before.caches().map(|cache| cache.stats().slabs).sum::<u64>() < 5 {
            leave(&mut handles);
        }
        // Another cache, and a page that another layer preserved and labels as its table.
        let spec = CacheSpec::new("other", 300).preserving(true);
        for _ in 0..100 {
            before.cache(spec).unwrap().alloc().unwrap();
        }
        let request = Request::new(Order::ZERO).frame_type(FrameType::Table).zeroed();
        let foreign = before.memory().alloc(request).unwrap();
        // SAFETY: allocated just now.
        unsafe { before.memory().preserve_as(foreign, FrameType::Table) }.unwrap();
        let mut parts = Vec::new();
        before.for_each_table(|part| parts.push(part));
        let pages: Vec<_> = parts.iter().filter_map(page).collect();
        let [directory, own, other] = pages[..] else { panic!("{parts:?}") };
        let headers: Vec<_> = parts.iter().filter_map(header).collect();
        let map = before.memory().preserved().tree_root().unwrap();
        let left = Left { ram: before.into_memory().into_machine(), map, directory, parts };
        let count = left.read(word(own, 1));
        assert_eq!(count, 5);
        let slabs_of_own = &headers[..5];
        let mut written = vec![word(directory, 9), word(other, 2), word(foreign.addr(), 2)];
        for (i, slab) in (0..).zip(slabs_of_own) {
            let hint = PhysAddr::new(slab.get() + ENTRY);
            assert_eq!(left.read(hint), word(own, 2 + i).get(), "as it was written");
            let forged = match forgery {
                0 => 0,
                1 => u64::MAX,
                // Into the page of records, and into one of another table.
                2 => word(directory, 9).get(),
                3 => word(other, 2).get(),
                // Into a page that another layer calls its table, and that looks like one of ours.
                4 => word(foreign.addr(), 2 + i).get(),
                // Behind the count, where the slab is named too.
                5 => word(own, 2 + count + i).get(),
                // Another's entry, and the words before the entries.
                6 => word(own, 2 + (i + 1) % count).get(),
                7 => own.get() + 8 * (i % 2),
                // In between, outside memory, in a slab, in the slab itself.
                8 => word(own, 2 + i).get() + 1 + i,
                9 => 1 << (12 + 9 * i),
                // In the page at the very beginning, which no table has.
                12 => 16 + 8 * i,
                10 => slabs_of_own[(i as usize + 1) % 5].get() + 128,
                _ => slab.get() + 88,
            };
            match forgery {
                4 => {
                    left.write(word(foreign.addr(), 1), count);
                    left.write(word(foreign.addr(), 2 + i), slab.get());
                    written.push(word(foreign.addr(), 2 + i));
                }
                5 => {
                    left.write(word(own, 2 + count + i), slab.get());
                    written.push(word(own, 2 + count + i));
                }
                11 => left.write(PhysAddr::new(slab.get() + 88), slab.get()),
                _ => {}
            }
            left.write(hint, forged);
        }
        let memory = left.ram.attach(&Ram::frames(FRAMES)).unwrap();
        let (memory, _) = memory.take_over(map).unwrap();
        // SAFETY: this test is the layer that reads it.
        unsafe { memory.predecessor().label(foreign, FrameType::Table) }.unwrap();
        let slabs = Slabs::revive(memory, directory).unwrap();
        let read = |at: PhysAddr| {
            // SAFETY: in memory; the words are tables', which nothing writes now.
            unsafe { slabs.memory().machine().ptr(at).cast::<u64>().read() }
        };
        let as_was: Vec<_> = written.iter().map(|at| read(*at)).collect();
        take_and_free(&slabs, &handles, preserving, resumed);
        slabs.shrink();
        assert_eq!(written.iter().map(|at| read(*at)).collect::<Vec<_>>(), as_was, "{forgery}");
        assert_eq!(
            slabs.inherited(if preserving { "preserved-1024" } else { "buffer-1024" }),
            None
        );
        // All entries of theirs are struck out: the next one does not come by them.
        let next = successor(slabs, FRAMES).unwrap();
        let mut left = 0;
        next.for_each_inherited(|record| left += usize::from(record.name().as_str() != "other"));
        assert_eq!(left, 0, "{forgery} {preserving}");
        goes_on(next, &[spec]);
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
        unsafe { cache.free(common::ptr(&before, *at)) }.unwrap();
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
        let object = common::ptr(&slabs, *at);
        if !gone.contains(at) {
            assert_eq!(cache.at(*at, *reuse_tag), Ok(object));
            // SAFETY: in use, and this test's.
            assert!(unsafe { filled(object, 1000, seed as u8) });
        }
        // SAFETY: in use, and not used again.
        unsafe { cache.free(object) }.unwrap();
    }
    slabs.shrink();
    assert_eq!(common::slab_frames(&slabs), 0);
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
        let object = common::ptr(&slabs, *at);
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
