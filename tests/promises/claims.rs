//! A handle is claimed once; what is wrong with it is said, and changes nothing.

use heirloom::folio::{Error as FolioError, FrameType};
use heirloom::kho::{Block, Handle, HandleFault, Order, Parts, PhysAddr, Run};
use heirloom::restore::{Error, Records};
use heirloom::slab::{Action, CacheSpec, Error as SlabError};

use crate::common::{
    Kernel, PAGE, State, World, free_area, free_folio, free_run, keep_area, keep_buffer,
    keep_folio, keep_run, order,
};

const THINGS: CacheSpec = CacheSpec::new("things", 72);
const OTHERS: CacheSpec = CacheSpec::new("others", 200);

struct Left {
    folio: Handle,
    run: Handle,
    large: Handle,
    small: Handle,
    area: Handle,
    records: Handle,
    thing: Handle,
    other: Handle,
    /// Of an object that was freed, and whose place has another one.
    stale: Handle,
    /// An object that was in use and not preserved.
    lost: PhysAddr,
    roll: PhysAddr,
}

fn object(handle: Handle) -> (PhysAddr, u64, u8) {
    match handle.parts() {
        Ok(Parts::Object { addr, bytes, tag }) => (addr, bytes, tag),
        other => panic!("{other:?}"),
    }
}

fn leave(old: &Kernel<'_>) -> Left {
    let things = old.slabs().cache(THINGS).unwrap();
    let first = things.alloc().unwrap();
    // SAFETY: in use, and nothing frees it meanwhile.
    let stale = unsafe { old.preserve(first) }.unwrap();
    // SAFETY: in use, and nothing frees it meanwhile.
    unsafe { old.unpreserve(first) }.unwrap();
    // SAFETY: allocated above, and not used again.
    unsafe { things.free(first) }.unwrap();
    // The place comes back, sooner or later, with another tag.
    let thing = std::iter::repeat_with(|| things.alloc().unwrap());
    let thing = thing.take(1000).find(|ptr| *ptr == first).unwrap();
    // SAFETY: in use, and nothing frees it meanwhile.
    let thing = unsafe { old.preserve(thing) }.unwrap();
    let lost = old.handle_of(things.alloc().unwrap()).unwrap();
    let mut records = Records::<_, [u64; 2]>::new(old.memory()).unwrap();
    records.push(&[1, 2]).unwrap();
    let records = Handle::new(Parts::Records { first: records.first(), entry: 16 }).unwrap();
    let others = old.slabs().cache(OTHERS).unwrap();
    Left {
        folio: keep_folio(old, 3, 0).unwrap(),
        run: keep_run(old, 7, 1).unwrap(),
        large: keep_buffer(old, 5 * PAGE as usize, false, 2).unwrap(),
        small: keep_buffer(old, 100, false, 3).unwrap(),
        area: keep_area(old, 4, 1, 4).unwrap(),
        records,
        thing,
        // SAFETY: in use, and nothing frees it meanwhile.
        other: unsafe { old.preserve(others.alloc().unwrap()) }.unwrap(),
        stale,
        lost: object(lost).0,
        roll: old.slabs().cache_directory(),
    }
}

/// Asks with everything that takes a handle: what the three that fit least say.
fn refusals(kernel: &Kernel<'_>, handle: Handle) -> Vec<Error> {
    let mut errors = Vec::new();
    errors.extend(kernel.claim_folio(handle).err());
    errors.extend(kernel.claim_run(handle).err());
    errors.extend(kernel.claim_area(handle).err());
    errors.extend(kernel.claim_records::<[u64; 2]>(handle).err());
    errors.extend(kernel.restore(handle).err());
    errors
}

fn is_fault(error: &Error, expected: HandleFault) -> bool {
    matches!(error, Error::Handle { fault, .. } if *fault == expected)
}

#[test]
fn a_handle_is_claimed_once() {
    let world = World::new(2048);
    let old = world.boot();
    let left = leave(&old);
    let new = world.jump(old);
    new.slabs().adopt(THINGS).unwrap();
    new.slabs().adopt(OTHERS).unwrap();

    let folio = new.claim_folio(left.folio).unwrap();
    let run = new.claim_run(left.run).unwrap();
    let large = new.restore(left.large).unwrap();
    let small = new.restore(left.small).unwrap();
    let thing = new.restore(left.thing).unwrap();
    let area = new.claim_area(left.area).unwrap();
    let records = new.claim_records::<[u64; 2]>(left.records).unwrap();

    let before = State::of(&new);
    let not_preserved = |e: Error| matches!(e, Error::Folio(FolioError::NotPreserved { .. }));
    let not_unclaimed =
        |e: Error| matches!(e, Error::Slab(SlabError::WrongState { action: Action::Claim, .. }));
    assert!(not_preserved(new.claim_folio(left.folio).unwrap_err()));
    assert!(not_preserved(new.claim_run(left.run).unwrap_err()));
    assert!(not_preserved(new.restore(left.large).unwrap_err()));
    assert!(not_unclaimed(new.restore(left.small).unwrap_err()));
    assert!(not_unclaimed(new.restore(left.thing).unwrap_err()));
    assert!(matches!(new.claim_area(left.area), Err(Error::NotInherited { .. })));
    assert!(matches!(new.claim_records::<[u64; 2]>(left.records), Err(Error::NotInherited { .. })));
    assert_eq!(State::of(&new), before);

    // Nor once it is free again.
    free_folio(folio);
    free_run(run);
    for ptr in [large, small, thing] {
        // SAFETY: claimed above, and not used again.
        unsafe { new.free(ptr) }.unwrap();
    }
    free_area(&new, area, 4);
    records.free().unwrap();
    let before = State::of(&new);
    for handle in [left.folio, left.run, left.large, left.small, left.thing, left.area] {
        assert_eq!(refusals(&new, handle).len(), 5);
    }
    assert!(new.claim_records::<[u64; 2]>(left.records).is_err());
    assert_eq!(State::of(&new), before);
}

#[test]
fn a_handle_of_the_wrong_kind_is_refused_and_nothing_changed() {
    let world = World::new(2048);
    let old = world.boot();
    let left = leave(&old);
    let new = world.jump(old);
    let before = State::of(&new);
    let kind = |result: Option<Error>| is_fault(&result.unwrap(), HandleFault::Kind);
    let all = [left.folio, left.run, left.large, left.small, left.area, left.records, left.thing];
    for handle in all {
        let parts = handle.parts().unwrap();
        assert!(
            matches!(parts, Parts::Folio(_)) || kind(new.claim_folio(handle).err()),
            "{handle:?}"
        );
        assert!(matches!(parts, Parts::Run(_)) || kind(new.claim_run(handle).err()), "{handle:?}");
        assert!(
            matches!(parts, Parts::Area(_)) || kind(new.claim_area(handle).err()),
            "{handle:?}"
        );
        assert!(
            matches!(parts, Parts::Records { .. })
                || kind(new.claim_records::<[u64; 2]>(handle).err()),
            "{handle:?}"
        );
        assert!(
            matches!(parts, Parts::Buffer { .. } | Parts::Object { .. })
                || kind(new.restore(handle).err()),
            "{handle:?}"
        );
    }
    assert_eq!(State::of(&new), before);
}

#[test]
fn a_handle_of_the_wrong_length_is_refused_and_nothing_changed() {
    let world = World::new(2048);
    let old = world.boot();
    let left = leave(&old);
    let new = world.jump(old);
    new.slabs().adopt(THINGS).unwrap();
    let before = State::of(&new);
    let make = |parts| Handle::new(parts).unwrap();

    let Ok(Parts::Folio(block)) = left.folio.parts() else { panic!() };
    for other in [2, 4].map(|n| Block::containing(block.pfn(), order(n))) {
        let expected = Error::Folio(FolioError::NotPreserved { block: other });
        assert_eq!(new.claim_folio(make(Parts::Folio(other))).unwrap_err(), expected);
    }
    let Ok(Parts::Run(run)) = left.run.parts() else { panic!() };
    for frames in [1, 3, 5, 8, 500] {
        let handle = make(Parts::Run(Run::new(run.start(), frames).unwrap()));
        assert!(matches!(new.claim_run(handle), Err(Error::Folio(_))), "{frames}");
    }
    let Ok(Parts::Buffer { addr, .. }) = left.large.parts() else { panic!() };
    for bytes in [1, 3 * PAGE, 6 * PAGE] {
        let result = new.restore(make(Parts::Buffer { addr, bytes }));
        assert!(matches!(result, Err(Error::Folio(FolioError::NotPreserved { .. }))), "{result:?}");
    }
    let (addr, size, tag) = object(left.thing);
    for bytes in [size - 1, size + 1, 4096] {
        let error = new.restore(make(Parts::Object { addr, bytes, tag })).unwrap_err();
        assert!(
            matches!(error, Error::Slab(SlabError::WrongLength { expected, found, .. })
                if expected == bytes && found == size),
            "{error:?}"
        );
    }
    let Ok(Parts::Area(info)) = left.area.parts() else { panic!() };
    let longer = heirloom::kho::AreaInfo::new(info.first(), 10, info.order(), false).unwrap();
    let shorter = heirloom::kho::AreaInfo::new(info.first(), 6, info.order(), false).unwrap();
    for info in [longer, shorter] {
        assert!(matches!(new.claim_area(make(Parts::Area(info))), Err(Error::Table(_))));
    }
    let error = new.claim_records::<[u64; 3]>(left.records).unwrap_err();
    assert!(is_fault(&error, HandleFault::Length));
    assert_eq!(State::of(&new), before);
}

#[test]
fn a_handle_of_another_cache_is_refused_and_nothing_changed() {
    let world = World::new(2048);
    let old = world.boot();
    let left = leave(&old);
    let new = world.jump(old);
    let before = State::of(&new);
    // Nobody has adopted the cache.
    let (addr, bytes, tag) = object(left.thing);
    let error = new.restore(left.thing).unwrap_err();
    assert!(matches!(error, Error::Slab(SlabError::NotAdopted { addr: at, .. }) if at == addr));
    assert_eq!(State::of(&new), before);

    let (things, _) = new.slabs().adopt(THINGS).unwrap();
    let (others, _) = new.slabs().adopt(OTHERS).unwrap();
    let before = State::of(&new);
    let error = others.claim(addr).unwrap_err();
    assert!(matches!(error, SlabError::WrongCache { addr: at, .. } if at == addr), "{error:?}");
    // The size of the one with the address of the other.
    let other = Parts::Object { addr: object(left.other).0, bytes, tag };
    let error = new.restore(Handle::new(other).unwrap()).unwrap_err();
    assert!(matches!(error, Error::Slab(SlabError::WrongLength { .. })), "{error:?}");
    assert_eq!(State::of(&new), before);
    assert!(things.claim(addr).is_ok());
}

#[test]
fn interior_stale_and_forged_handles_are_refused_and_nothing_changed() {
    let world = World::new(2048);
    let old = world.boot();
    let left = leave(&old);
    let (root, header) = (old.entry().root, {
        let mut header = None;
        old.for_each_subtree(|_, addr, _| header = Some(addr)).unwrap();
        header.unwrap()
    });
    let mut node = None;
    old.memory().preserved().for_each_node(|n| node = node.or(Some(n.addr)));
    let new = world.jump(old);
    new.slabs().adopt(THINGS).unwrap();
    let before = State::of(&new);
    let make = |parts| Handle::new(parts).unwrap();
    let restore = |parts| new.restore(make(parts)).unwrap_err();

    // Interior.
    let (addr, bytes, tag) = object(left.thing);
    let inside = PhysAddr::new(addr.get() + 8);
    let error = restore(Parts::Object { addr: inside, bytes, tag });
    assert!(
        matches!(error, Error::Slab(SlabError::Interior { addr: at, start, .. })
            if (at, start) == (inside, addr)),
        "{error:?}"
    );
    let Ok(Parts::Buffer { addr: large, .. }) = left.large.parts() else { panic!() };
    let second = PhysAddr::new(large.get() + PAGE);
    let error = restore(Parts::Buffer { addr: second, bytes: 4 * PAGE });
    assert!(matches!(error, Error::Folio(FolioError::NotPreserved { .. })), "{error:?}");
    let error = restore(Parts::Object { addr: second, bytes: 64, tag: 0 });
    assert!(matches!(error, Error::Slab(SlabError::NotAnObject { .. })), "{error:?}");

    // Stale: the place has another object, or one that did not survive.
    assert_eq!(object(left.stale).0, addr);
    let error = new.restore(left.stale).unwrap_err();
    assert!(
        matches!(error, Error::Slab(SlabError::Stale { expected, found, .. })
            if expected == object(left.stale).2 && found == tag),
        "{error:?}"
    );
    for tag in 0..32 {
        let error = restore(Parts::Object { addr: left.lost, bytes, tag });
        assert!(
            matches!(
                error,
                Error::Slab(
                    SlabError::WrongState { action: Action::Claim, .. } | SlabError::Stale { .. }
                )
            ),
            "{error:?}"
        );
    }

    // Forged: no handle at all; memory that is nobody's, or nowhere; tables as folios.
    for bytes in [[0; 16], [0xff; 16], *b"sixteen bytes...", {
        let mut bytes = <[u8; 16]>::from(left.folio);
        bytes[15] ^= 1;
        bytes
    }] {
        for error in refusals(&new, Handle::from(bytes)) {
            assert!(is_fault(&error, HandleFault::Malformed), "{error:?}");
        }
    }
    let outside = Block::new(PhysAddr::new(PAGE).pfn(), Order::ZERO).unwrap();
    let free = Block::new(world.map()[0].0.start().add(1500), Order::ZERO).unwrap();
    for block in [outside, free] {
        let errors = [
            new.claim_folio(make(Parts::Folio(block))).unwrap_err(),
            new.claim_run(make(Parts::Run(block.run()))).unwrap_err(),
            restore(Parts::Buffer { addr: block.addr(), bytes: PAGE }),
        ];
        for error in errors {
            assert!(matches!(error, Error::Folio(_)), "{error:?}");
        }
        let error = restore(Parts::Object { addr: block.addr(), bytes: 64, tag: 0 });
        assert!(matches!(error, Error::Slab(SlabError::NotAnObject { .. })), "{error:?}");
    }
    for table in [root, header, left.roll] {
        let block = Block::new(table.pfn(), Order::ZERO).unwrap();
        let error = new.claim_folio(make(Parts::Folio(block))).unwrap_err();
        let (pfn, expected, found) = (block.pfn(), FrameType::Folio, FrameType::Table);
        assert_eq!(error, Error::Folio(FolioError::WrongType { pfn, expected, found }));
        let error = new.claim_run(make(Parts::Run(block.run()))).unwrap_err();
        let expected = FrameType::Run;
        assert_eq!(error, Error::Folio(FolioError::WrongType { pfn, expected, found }));
        let first = Parts::Records { first: table, entry: 16 };
        let error = new.claim_records::<[u64; 2]>(make(first)).unwrap_err();
        assert_eq!(error, Error::NotInherited { at: table });
        let chunk = heirloom::kho::AreaInfo::new(table, 1, Order::ZERO, false).unwrap();
        let error = new.claim_area(make(Parts::Area(chunk))).unwrap_err();
        assert_eq!(error, Error::NotInherited { at: table });
    }
    let node = Block::new(node.unwrap().pfn(), Order::ZERO).unwrap();
    assert!(new.claim_folio(make(Parts::Folio(node))).is_err());
    assert_eq!(State::of(&new), before);

    // All of them are there for who has the right ones.
    new.restore(left.thing).unwrap();
    new.restore(left.large).unwrap();
    new.restore(left.small).unwrap();
}

#[test]
fn many_folios_are_claimed_all_or_none_and_once() {
    let world = World::new(2048);
    let old = world.boot();
    // More than two parcels.
    let handles: Vec<Handle> = (0..150).map(|i| keep_folio(&old, 0, i).unwrap()).collect();
    let other = keep_run(&old, 3, 7).unwrap();
    let new = world.jump(old);
    let before = State::of(&new);
    let claim = |handles: &[Handle]| {
        let mut folios = Vec::new();
        new.claim_folios(handles, |folio| folios.push(folio)).map(|()| folios)
    };
    assert_eq!(claim(&[]).unwrap().len(), 0);
    for at in [0, 63, 64, 149] {
        let mut asked = handles.clone();
        asked[at] = other;
        assert!(is_fault(&claim(&asked).unwrap_err(), HandleFault::Kind), "{at}");
        asked[at] = handles[(at + 70) % 150];
        let twice = claim(&asked).unwrap_err();
        assert!(matches!(twice, Error::Folio(FolioError::NotPreserved { .. })), "{twice:?}");
        assert_eq!(State::of(&new), before, "{at}");
    }
    let folios = claim(&handles).unwrap();
    for (folio, handle) in folios.iter().zip(&handles) {
        assert_eq!(handle.parts(), Ok(Parts::Folio(folio.extent())));
    }
    assert_eq!(folios.len(), handles.len());
    assert!(handles.iter().all(|handle| new.claim_folio(*handle).is_err()));
    folios.into_iter().for_each(free_folio);
    assert!(claim(&handles[..1]).is_err());
    new.claim_run(other).unwrap();
}
