//! A predecessor is not trusted: any bytes in its tables lead to success or to an error, never to
//! a panic, a loop, or memory with two owners.

mod common;

use common::{config, fill, slabs};
use heirloom_folio::harness::Ram;
use heirloom_folio::{
    Block, DirectMap, Fate, FrameState, Kind, Order, PAGE_SIZE, PhysAddr, Request,
};
use heirloom_slab::{CacheSpec, Error, RollFault, RollPart, SlabFault, Slabs};
use proptest::prelude::*;

const FRAMES: u64 = 2048;

fn specs() -> [CacheSpec; 3] {
    [
        CacheSpec::new("first", 40).preserving(true),
        CacheSpec::new("second", 1000),
        CacheSpec::new("third", 3000).preserving(true),
    ]
}

/// A handover with three caches: the machine, where the tree and the roll are, every part of the
/// roll, and an object's address.
struct Left {
    ram: Ram,
    map: PhysAddr,
    roll: PhysAddr,
    parts: Vec<RollPart>,
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
    let (map, roll) = (slabs.memory().tree_root().unwrap(), slabs.roll());
    Left { ram: slabs.into_memory().into_machine(), map, roll, parts }
}

fn page(part: &RollPart) -> Option<PhysAddr> {
    match part {
        RollPart::Page(addr) => Some(*addr),
        RollPart::Header { .. } => None,
    }
}

fn header(part: &RollPart) -> Option<PhysAddr> {
    match part {
        RollPart::Header { addr, .. } => Some(*addr),
        RollPart::Page(_) => None,
    }
}

impl Left {
    fn write(&self, at: PhysAddr, value: u64) {
        let bytes = value.to_le_bytes();
        for (i, byte) in bytes.into_iter().enumerate() {
            // SAFETY: in memory that nobody uses now.
            unsafe { self.ram.ptr(PhysAddr::new(at.get() + i as u64)).write(byte) };
        }
    }

    fn read(&self, at: PhysAddr) -> u64 {
        let byte = |i| {
            // SAFETY: in memory that nobody uses now.
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
        let (memory, _) = memory.inherit(self.map)?;
        let slabs = Slabs::revive(memory, self.roll)?;
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
        slabs.finish_inherited(|_| Fate::Free)?;
        slabs.memory().disinherit(|_| Fate::Free)?;
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
            RollPart::Header { addr, bytes } => Some((*addr, *bytes)),
            RollPart::Page(_) => None,
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
    let (memory, _) = memory.inherit(left.map).unwrap();
    let slabs = Slabs::revive(memory, left.roll).unwrap();
    for spec in specs() {
        assert!(matches!(slabs.adopt(spec), Err(Error::Slab(_))));
    }
    assert_eq!(slabs.caches().count(), 0);
}

#[test]
fn a_chain_without_end_is_refused() {
    let left = left();
    left.write(left.roll, left.roll.get());
    let refused = left.revive();
    assert!(matches!(refused, Err(Error::Roll(e)) if e.fault == RollFault::Endless), "{refused:?}");
}

#[test]
fn a_slab_named_twice_is_refused() {
    let left = left();
    // The second page is the first cache's slab table.
    let RollPart::Page(table) = left.parts[1] else { panic!("{:?}", left.parts) };
    let (count, entry) = (PhysAddr::new(table.get() + 8), PhysAddr::new(table.get() + 16));
    assert_eq!(left.read(count), 1);
    let slab = left.read(entry);
    left.write(PhysAddr::new(table.get() + 24), slab);
    left.write(count, 2);
    let refused = left.revive();
    let twice = |e: heirloom_slab::SlabError| e.fault == SlabFault::Duplicate;
    assert!(matches!(refused, Err(Error::Slab(e)) if twice(e)), "{refused:?}");
}

#[test]
fn what_is_no_slab_is_not_believed() {
    for value in [0x1000_u64, 8, u64::MAX - 1, 1 << 52, 4 << 30] {
        let left = left();
        let RollPart::Page(table) = left.parts[1] else { panic!("{:?}", left.parts) };
        left.write(PhysAddr::new(table.get() + 16), value);
        let refused = left.revive();
        assert!(matches!(refused, Err(Error::Slab(_) | Error::Roll(_))), "{value:#x}: {refused:?}");
    }
}

#[test]
fn a_page_of_a_slab_table_that_goes_on_must_be_full() {
    let left = left();
    let pages: Vec<_> = left.parts.iter().filter_map(page).collect();
    // The pages of the roll's records and of the three slab tables.
    let [_, table, _, next] = pages[..] else { panic!("{:?}", left.parts) };
    let full = (PAGE_SIZE / 8 - 2) as u64;
    let found = left.read(PhysAddr::new(table.get() + 8));
    assert!(found > 0 && found < full);
    left.write(table, next.get());
    let Err(Error::Roll(error)) = left.revive() else {
        panic!("it goes on behind {found} entries")
    };
    let fault = RollFault::NotFull { found, expected: full };
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
    left.write(PhysAddr::new(left.roll.get() + 16), 0);
    let memory = left.ram.attach(&Ram::frames(FRAMES)).unwrap();
    let (memory, _) = memory.inherit(left.map).unwrap();
    let slabs = Slabs::revive(memory, left.roll).unwrap();
    let [first, second, third] = specs();
    let mut names = Vec::new();
    slabs.for_each_inherited(|record| names.push(record.name().as_str().to_owned())).unwrap();
    assert_eq!(names, ["second", "third"]);
    assert_eq!(slabs.inherited("first").unwrap(), None);
    assert!(matches!(slabs_of(first, &slabs), Err(Error::NotInherited { .. })));
    assert!(slabs_of(second, &slabs).unwrap() > 0 && slabs_of(third, &slabs).unwrap() > 0);
    slabs.finish_inherited(|_| Fate::Free).unwrap();
    // What it led to is what nobody claimed.
    let mut strays = 0;
    let free = |block| {
        strays += u64::from(slabs.memory().label_of(block).is_none());
        Fate::Free
    };
    slabs.memory().disinherit(free).unwrap();
    assert!(strays >= 2, "a slab table and a slab: {strays}");
    slabs.memory().audit().unwrap();
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
        // SAFETY: in memory that nobody uses now.
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
    let (memory, _) = memory.inherit(left.map).unwrap();
    let slabs = Slabs::revive(memory, left.roll).unwrap();
    let (cache, adopted) = slabs.adopt(specs()[1]).unwrap();
    assert_eq!(adopted.unclaimed, 60);
    let unclaimed: Vec<_> = cache.unclaimed().collect();
    assert_eq!(unclaimed.len(), 60);
    for (addr, tag) in unclaimed {
        let object = slabs.claim(addr, 1000, tag).unwrap();
        // SAFETY: claimed just now.
        unsafe { cache.free(object) }.unwrap();
    }
    assert_eq!(cache.stats().live, 0);

    // What is in use in a preserving cache is live.
    let left = self::left();
    let slab = of(&left, b'f');
    // SAFETY: in memory that nobody uses now.
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
                RollPart::Page(addr) | RollPart::Header { addr, .. } => addr,
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
                Error::Roll(_)
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
/// compute them: the successor's roll is the first page it allocates.
#[test]
fn a_forged_owner_word_makes_no_slab_ours() {
    let spec = specs()[1];
    let revive = |left: Left| {
        let memory = left.ram.attach(&Ram::frames(FRAMES)).unwrap();
        let (memory, _) = memory.inherit(left.map).unwrap();
        Slabs::revive(memory, left.roll).unwrap()
    };
    let rehearsed = revive(left()).roll();

    let left = left();
    // The name in the header begins at byte 32.
    let named = |addr: &PhysAddr| left.read(PhysAddr::new(addr.get() + 32)) & 0xff == b's'.into();
    let slab = left.parts.iter().filter_map(header).find(named).unwrap();
    let word = |offset| PhysAddr::new(slab.get() + offset);
    left.write(word(88), rehearsed.pfn().get() << 12);
    // Two objects keep the slab preserved, as far as its header says.
    left.write(word(120), 2 << 32);
    // The first object: unclaimed, tag 1.
    let first = u64::from(u32::try_from(left.read(word(24 + 56)) & 0xffff_ffff).unwrap());
    // SAFETY: in memory that nobody uses now.
    unsafe { left.ram.ptr(word(128)).write(1 << 3 | 3) };

    let slabs = revive(left);
    let cache = slabs.cache(spec).unwrap();
    let at = PhysAddr::new(slab.get() + first);
    // Not adopted: nothing there can be claimed, whoever it says it belongs to.
    let block = Block::containing(at.pfn(), cache.slab_order());
    assert_eq!(slabs.claim(at, 1000, 1), Err(Error::NotAdopted { addr: at, slab: block }));
    assert_eq!(slabs.owner_at(at), None);
    slabs.finish_inherited(|_| Fate::Free).unwrap();
    slabs.memory().disinherit(|_| Fate::Free).unwrap();
    assert_eq!(slabs.memory().state(block.pfn()).unwrap(), FrameState::Freed);
}

/// A block that safe code prepared is not taken for a slab of a cache.
#[test]
fn only_the_layer_itself_makes_slabs() {
    let slabs = slabs(FRAMES);
    let memory = slabs.memory();
    let order = Order::new(4).unwrap();
    let _cache = slabs.cache(CacheSpec::new("victim", 1000).order(order)).unwrap();
    let mut forged = memory.folio(Request::new(order).zeroed()).unwrap();
    forged.bytes_mut()[88..96].copy_from_slice(&(slabs.roll().pfn().get() << 12).to_le_bytes());
    let block = forged.block();
    drop(forged);
    memory.drain();
    let refused = heirloom_folio::Error::BadRequest { frames: order.frames() };
    assert_eq!(memory.alloc_at(block, Kind::Slab), Err(refused));
    assert_eq!(memory.alloc(Request::new(order).kind(Kind::Slab)), Err(refused));
    memory.alloc_at(block, Kind::Table).unwrap();
    assert_eq!(slabs.owner_at(block.addr()), None);
    let start = memory.machine().ptr(block.addr());
    // SAFETY: no slab is there, and nothing else runs.
    let done = unsafe { slabs.unpreserve(start) };
    assert_eq!(done, Err(Error::NotAnObject { ptr: start.addr().get() }));
}
