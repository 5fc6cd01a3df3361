//! A predecessor is not trusted: each bit of each table is turned over, one at a time.

use heirloom::folio::{DirectMap, FrameType, Request};
use heirloom::kho::{Block, Fault, Handle, Header, Order, Parts, PhysAddr, Run, Table};
use heirloom::restore::{Entry, Error, Records, SealPolicy};
use heirloom::slab::CacheSpec;
use heirloom::slab::internal::DirectoryPart;

use crate::common::{
    Kernel, PAGE, World, finish_freeing, keep_area, keep_buffer, keep_folio, keep_run,
};

const THINGS: CacheSpec = CacheSpec::new("things", 400).preserving(true);
const PLAIN: CacheSpec = CacheSpec::new("plain", 1000);

/// What a table is, where it is, and how many bytes of it count.
type Place = (&'static str, PhysAddr, usize);

struct Left {
    entry: Entry,
    handles: Vec<Handle>,
    tables: Vec<Place>,
    saved: Vec<u8>,
}

/// A handover with a bit of everything in it.
fn leave(world: &World, sealed: bool) -> Left {
    let kernel = world.boot();
    let things = kernel.slabs().cache(THINGS).unwrap();
    let plain = kernel.slabs().cache(PLAIN).unwrap();
    let mut handles = vec![
        keep_folio(&kernel, 0, 1).unwrap(),
        keep_folio(&kernel, 2, 1).unwrap(),
        keep_run(&kernel, 5, 2).unwrap(),
        keep_area(&kernel, 3, 0, 3).unwrap(),
        keep_buffer(&kernel, 100, false, 4).unwrap(),
        keep_buffer(&kernel, 3 * PAGE as usize, false, 5).unwrap(),
    ];
    for _ in 0..3 {
        handles.push(kernel.handle_of(things.alloc().unwrap()).unwrap());
    }
    // SAFETY: in use, and nothing frees it meanwhile.
    handles.push(unsafe { kernel.preserve(plain.alloc().unwrap()) }.unwrap());
    let mut records = Records::<_, [u64; 2]>::new(kernel.memory()).unwrap();
    records.push(&[1, 2]).unwrap();
    let first = records.first();
    handles.push(Handle::new(Parts::Records { first, entry: 16 }).unwrap());
    kernel.publish("root", &<[u8; 16]>::from(handles[0])).unwrap();
    if sealed {
        kernel.seal().unwrap();
    }
    let entry = kernel.entry();
    let page = PAGE as usize;
    let mut tables = vec![
        ("root page", entry.root, page),
        ("scratch list", entry.scratch, entry.scratch_bytes as usize),
    ];
    kernel
        .for_each_subtree(|name, addr, _| {
            if name == "heirloom" {
                // What a seal covers; the rest is which seal holds.
                tables.push(("header", addr, if sealed { Header::FIXED } else { Header::SIZE }));
            }
        })
        .unwrap();
    kernel
        .memory()
        .preserved()
        .for_each_node(|node| tables.push(("tracker node", node.addr, page)));
    kernel.slabs().for_each_table(|part| match part {
        DirectoryPart::Page(addr) => tables.push(("cache directory page", addr, page)),
        DirectoryPart::Header { addr, bytes } => tables.push(("slab header", addr, bytes as usize)),
    });
    if !sealed {
        let Ok(Parts::Area(info)) = handles[3].parts() else { panic!("{handles:?}") };
        tables.push(("area chunk", info.first(), page));
        tables.push(("record block", first, page));
    }
    drop(kernel);
    let saved = world.save();
    Left { entry, handles, tables, saved }
}

/// The bits to turn over: all of words in which something stands and of those beside them, and of
/// every other word one, another in each.
fn bits(world: &World, (_, addr, bytes): Place) -> Vec<usize> {
    let words = world.words(addr, bytes);
    let stands = |i: usize| words.get(i).is_some_and(|word| *word != 0);
    let mut bits = Vec::new();
    for i in 0..words.len() {
        if stands(i) || stands(i + 1) || i > 0 && stands(i - 1) {
            bits.extend(i * 64..i * 64 + 64);
        } else {
            bits.push(i * 64 + i * 7 % 64);
        }
    }
    bits.retain(|bit| *bit < bytes * 8);
    bits
}

/// Adopts and claims whatever it can, and then has no frame with two owners.
fn live_on(kernel: &Kernel<'_>, left: &Left) {
    let memory = kernel.memory();
    let mut owned: Vec<Run> = Vec::new();
    let adopted = [THINGS, PLAIN].map(|spec| kernel.slabs().adopt(spec).is_ok());
    let mut root = None;
    kernel
        .for_each_subtree(|name, addr, _| root = root.or((name == "root").then_some(addr)))
        .unwrap();
    if kernel.claim_root("root").is_ok() {
        owned.extend(root.and_then(|addr| memory.owning_block(addr.pfn())).map(|(run, ..)| run));
    }
    for handle in &left.handles {
        match handle.parts().unwrap() {
            Parts::Folio(_) => {
                owned.extend(kernel.claim_folio(*handle).ok().map(|folio| folio.into_raw().run()));
            }
            Parts::Run(_) => {
                owned.extend(
                    kernel.claim_run(*handle).ok().map(heirloom::folio::PreservedRun::into_raw),
                );
            }
            Parts::Area(_) => {
                if let Ok(area) = kernel.claim_area(*handle) {
                    area.for_each(|block| owned.push(block.run())).unwrap();
                }
            }
            Parts::Records { first, .. } => {
                if kernel.claim_records::<[u64; 2]>(*handle).is_ok() {
                    owned.push(Run::new(first.pfn(), 1).unwrap());
                }
            }
            Parts::Buffer { addr, bytes } => {
                let claimed = kernel.restore(*handle).ok();
                owned.extend(claimed.and_then(|_| Run::covering(addr, bytes)));
            }
            Parts::Object { bytes, .. } => {
                if let Ok(ptr) = kernel.restore(*handle) {
                    let size = usize::try_from(bytes).unwrap();
                    assert_eq!(kernel.slabs().size_of(ptr), Some(size));
                    // SAFETY: claimed just now.
                    unsafe { ptr.write_bytes(0xa5, size) };
                }
            }
            other @ Parts::Blob { .. } => panic!("{other:?}"),
        }
    }
    // What is new is nobody's yet.
    let fresh = (0..8).filter_map(|n| memory.alloc(Request::new(Order::new(n % 3).unwrap())).ok());
    owned.extend(fresh.map(Block::run));
    owned.extend(
        kernel
            .alloc(PAGE as usize * 3)
            .ok()
            .map(|ptr| Run::covering(memory.machine().phys(ptr).unwrap(), PAGE * 3).unwrap()),
    );
    if adopted[0] {
        kernel.slabs().cache(THINGS).unwrap().alloc().unwrap();
    }
    memory.preserved().for_each_node(|node| owned.push(Run::new(node.addr.pfn(), 1).unwrap()));
    memory.predecessor().for_each(|block| owned.push(block.run()));
    owned.sort_unstable_by_key(|run| run.start());
    for pair in owned.windows(2) {
        assert!(!pair[0].overlaps(pair[1]), "{} and {} have two owners", pair[0], pair[1]);
    }
    memory.audit().unwrap();
    let _ = finish_freeing(kernel);
    memory.audit().unwrap();
    assert!(
        memory.predecessor().label_of(Block::containing(left.entry.root.pfn(), Order::ZERO))
            != Some(FrameType::Slab)
    );
}

#[test]
fn a_predecessor_is_not_trusted() {
    let world = World::new(192);
    let left = leave(&world, false);
    let (mut refused, mut lived) = (0_u64, 0_u64);
    for place in &left.tables {
        for bit in bits(&world, *place) {
            world.flip(place.1, bit);
            match world.try_revive(left.entry, SealPolicy::Checked) {
                Err(error) => {
                    assert!(!format!("{error}").is_empty());
                    refused += 1;
                }
                Ok(kernel) => {
                    live_on(&kernel, &left);
                    lived += 1;
                }
            }
            world.load(&left.saved);
        }
    }
    assert!(refused > 1000 && lived > 1000, "{refused} refused, {lived} lived");
}

#[test]
fn a_sealed_predecessor_is_as_it_was_sealed_or_refused_by_name() {
    let world = World::new(192);
    let left = leave(&world, true);
    drop(world.try_revive(left.entry, SealPolicy::Required).unwrap());
    world.load(&left.saved);
    let mut named = 0;
    for place in &left.tables {
        for bit in bits(&world, *place) {
            world.flip(place.1, bit);
            let revived = world.try_revive(left.entry, SealPolicy::Required);
            let Err(error) = revived else { panic!("bit {bit} of {place:?} was not seen") };
            match error {
                Error::Broken(broken) => {
                    let says = (broken.kind.to_string(), broken.addr);
                    let name = if place.0 == "header" { "subtree page" } else { place.0 };
                    assert_eq!(says, (name.to_owned(), place.1), "bit {bit}");
                    named += 1;
                }
                Error::Folio(_)
                | Error::Slab(_)
                | Error::Table(_)
                | Error::NotSealed { .. }
                | Error::ScratchTooSmall { .. }
                | Error::ScratchNotMemory { .. } => {}
                other => panic!("bit {bit} of {place:?}: {other}"),
            }
            world.flip(place.1, bit);
        }
        // Refused before anything but scratch was written; where scratch is, this list alone says.
        if place.0 == "scratch list" {
            world.load(&left.saved);
        }
        let scratch = world.scratch().addr().get() - world.map()[0].0.addr().get();
        let before = ..usize::try_from(scratch).unwrap();
        assert!(world.save()[before] == left.saved[before], "written after {place:?}");
    }
    assert!(named > 1000, "{named}");
    drop(world.try_revive(left.entry, SealPolicy::Required).unwrap());
}

#[test]
fn a_seal_that_leads_to_another_table_is_refused_by_name() {
    let world = World::new(192);
    let left = leave(&world, true);
    let header = left.tables.iter().find(|table| table.0 == "header").unwrap().1;
    // The first of the two seals is the one that holds.
    let first = PhysAddr::new(header.get() + 232);
    for other in [left.entry.root, left.entry.scratch] {
        world.write(first, &other.get().to_le_bytes());
        for policy in [SealPolicy::Required, SealPolicy::Checked] {
            let error = world.try_revive(left.entry, policy).err().unwrap();
            let Error::Table(error) = error else { panic!("{error}") };
            assert_eq!((error.table, error.at), (Table::Seal, other));
            assert!(matches!(error.fault, Fault::Shared { block } if block.addr() == other));
        }
        world.load(&left.saved);
    }
}

#[test]
fn a_link_of_the_seals_table_that_leads_to_an_empty_page_is_refused_by_name() {
    let world = World::new(192);
    let left = leave(&world, true);
    let header = left.tables.iter().find(|table| table.0 == "header").unwrap().1;
    let first = PhysAddr::new(world.words(PhysAddr::new(header.get() + 232), 8)[0]);
    // Somebody's folio, in which nothing stands: it would do for a block without entries.
    let Ok(Parts::Folio(folio)) = left.handles[0].parts() else { panic!("{:?}", left.handles) };
    world.write(folio.addr(), &[0; PAGE as usize]);
    drop(world.try_revive(left.entry, SealPolicy::Required).unwrap());
    world.load(&left.saved);
    world.write(folio.addr(), &[0; PAGE as usize]);
    world.write(first, &folio.addr().get().to_le_bytes());
    let error = world.try_revive(left.entry, SealPolicy::Required).err().unwrap();
    let Error::Table(error) = error else { panic!("{error}") };
    assert_eq!((error.table, error.at, error.offset), (Table::Seal, folio.addr(), 8));
}

#[test]
fn addresses_that_lead_nowhere_are_refused_by_name() {
    let world = World::new(192);
    let left = leave(&world, false);
    let at = |root: u64, scratch: u64, scratch_bytes: u64| Entry {
        root: PhysAddr::new(root),
        scratch: PhysAddr::new(scratch),
        scratch_bytes,
    };
    let Entry { root, scratch, scratch_bytes } = left.entry;
    let (root, scratch) = (root.get(), scratch.get());
    let edges = [0, 1, 8, PAGE, 5 << 30, u64::MAX - 7, u64::MAX, root + 8, root + PAGE, scratch];
    for edge in edges {
        for entry in [at(edge, scratch, scratch_bytes), at(root, edge, scratch_bytes)] {
            if entry == left.entry {
                continue;
            }
            let error = world.try_revive(entry, SealPolicy::Checked).err().unwrap();
            let table = matches!(
                error,
                Error::Table(e)
                    if matches!(e.table, Table::Root | Table::Scratch)
            );
            let small = matches!(error, Error::ScratchTooSmall { .. });
            assert!(table || small, "{entry:?}: {error}");
        }
    }
    for bytes in [0, 1, 8, 15, 17, 1 << 40, u64::MAX] {
        let refused = world.try_revive(at(root, scratch, bytes), SealPolicy::Checked).is_err();
        assert!(refused, "a scratch list of {bytes} bytes");
    }
    drop(world.revive(left.entry));
}
