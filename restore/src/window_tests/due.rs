//! What a kernel leaves for the next one to find, and whether it does.

use core::ptr::NonNull;
use std::collections::BTreeMap;
use std::string::{String, ToString};
use std::vec::Vec;

use heirloom_folio::harness::Ram;
use heirloom_folio::{DirectMap, Disposition, Request};
use heirloom_kho::{Block, Fault, Handle, Order, PAGE_SIZE, Parts, TableError};
use heirloom_slab::AllocOptions;

use super::{CACHE, memory};
use crate::{Entry, Error, Heirloom, PreservedArea, Records, SealPolicy, Unclaimed};

/// Whether something must be there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum There {
    Must,
    /// A call that preserves it, or lets it go, is under way.
    May,
    Gone,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Thing {
    Folio(u8),
    Run,
    Area,
    Records,
    Large,
    Small,
    Object,
}

/// What the next kernel must find.
#[derive(Clone, Default)]
pub(super) struct Due {
    pub(super) things: BTreeMap<Thing, (Handle, Vec<There>)>,
    /// What may stand under a name, by the entry of the kernel that goes on.
    pub(super) names: BTreeMap<String, Vec<Option<Vec<u8>>>>,
    /// And by its predecessor's, where that is another.
    pub(super) before: BTreeMap<String, Vec<Option<Vec<u8>>>>,
    /// How many records.
    pub(super) records: Vec<u64>,
    /// Which entries are good, and which may be ended at the moment.
    pub(super) entries: Vec<Entry>,
    pub(super) ending: Option<Entry>,
    /// One that has ended.
    pub(super) ended: Option<Entry>,
}

impl Due {
    pub(super) fn is(&mut self, thing: Thing, there: There) {
        self.things.get_mut(&thing).unwrap().1 = Vec::from([there]);
    }
}

pub(super) fn content(thing: Thing) -> u8 {
    match thing {
        Thing::Folio(order) => 0x10 + order,
        Thing::Run => 0x21,
        Thing::Area => 0x22,
        Thing::Records => 0x23,
        Thing::Large => 0x24,
        Thing::Small => 0x25,
        Thing::Object => 0x26,
    }
}

/// Claims something: whether it was there, whole.
pub(super) fn claim(
    kernel: &Heirloom<&Ram>,
    due: &Due,
    thing: Thing,
    handle: Handle,
) -> Result<(), Error> {
    let byte = content(thing);
    let filled = |ptr: NonNull<u8>, bytes: usize| {
        // SAFETY: claimed by this test, of that size at least.
        let bytes = unsafe { core::slice::from_raw_parts(ptr.as_ptr(), bytes) };
        assert!(bytes.iter().all(|b| *b == byte), "{thing:?}");
    };
    match thing {
        Thing::Folio(_) => {
            let folio = kernel.claim_folio(handle)?;
            assert!(folio.bytes().iter().all(|b| *b == byte), "{thing:?}");
        }
        Thing::Run => {
            let run = kernel.claim_run(handle)?;
            assert!(run.bytes().iter().all(|b| *b == byte), "{thing:?}");
        }
        Thing::Area => {
            let mut blocks = 0;
            let count = |block: Block| {
                filled(kernel.memory().machine().ptr(block.addr()), PAGE_SIZE);
                blocks += 1;
            };
            kernel.claim_area(handle)?.for_each(count).unwrap();
            assert_eq!(blocks, 3);
        }
        Thing::Records => {
            let list = kernel.claim_records::<[u64; 2]>(handle)?;
            assert!(due.records.contains(&list.len()), "{} of {:?}", list.len(), due.records);
            let mut next = 0;
            list.for_each(|entry| {
                assert_eq!(entry, [next, u64::from(byte)]);
                next += 1;
            })
            .unwrap();
            assert_eq!(next, list.len());
        }
        Thing::Large => filled(kernel.restore(handle)?, 3 * PAGE_SIZE),
        Thing::Small => filled(kernel.restore(handle)?, 200),
        Thing::Object => {
            kernel.slabs().adopt(CACHE)?;
            filled(kernel.restore(handle)?, 100);
        }
    }
    Ok(())
}

/// Starts the next kernel, and claims everything.
pub(super) fn next_finds(ram: &Ram, due: &Due, entry: Entry, policy: SealPolicy) -> Option<Entry> {
    let first = due.entries.first() == Some(&entry) && due.entries.len() > 1;
    let kernel = match Heirloom::revive_memory(memory(ram, ram), entry, "next", policy) {
        Ok(kernel) => kernel,
        Err(Error::Table(TableError { fault: Fault::Ended, .. })) if due.ending == Some(entry) => {
            return None;
        }
        Err(error) => panic!("{error}"),
    };
    assert_eq!(kernel.names_lost(), 0);
    // By the predecessor's entry: what it named.
    let names = if first { &due.before } else { &due.names };
    for (name, allowed) in names {
        let found = if name == "added" {
            // Another owner's frames, which are claimed by their handle.
            let mut there = None;
            let look = |found: &str, _, _| there = there.take().or((found == name).then(Vec::new));
            kernel.for_each_inherited_subtree(look).unwrap();
            there
        } else {
            match kernel.claim_root(name) {
                Ok(root) => Some(root.bytes().to_vec()),
                Err(Error::NoSuchSubtree { .. }) => None,
                Err(error) => panic!("{name}: {error}"),
            }
        };
        assert!(allowed.contains(&found), "{name}: {found:?} of {allowed:?}");
    }
    for (thing, (handle, there)) in &due.things {
        let found = claim(&kernel, due, *thing, *handle);
        match there[0] {
            There::Must => found.unwrap_or_else(|error| panic!("{thing:?}: {error}")),
            There::May => {}
            There::Gone => assert!(found.is_err(), "{thing:?} was let go of"),
        }
        // Once.
        assert!(claim(&kernel, due, *thing, *handle).is_err(), "{thing:?} twice");
    }
    // What is left are blocks of a call under way, and tables of an entry that this one is not.
    let (mut strays, mut slabs) = (0, 0);
    kernel
        .finish(|unclaimed| {
            match unclaimed {
                Unclaimed::Folio(block) => strays += block.order().frames(),
                Unclaimed::Subtree { name, .. } => assert_eq!(name.as_str(), "added"),
                Unclaimed::Slab { .. } | Unclaimed::Object { .. } => slabs += 1,
            }
            Disposition::Keep
        })
        .unwrap();
    assert!(strays <= 24 && slabs <= 2, "{strays} frames, {slabs} slabs");
    kernel.memory().audit().unwrap();
    Some(kernel.entry())
}

pub(super) fn fill(ptr: NonNull<u8>, bytes: usize, thing: Thing) {
    // SAFETY: this test's, of that size.
    unsafe { ptr.write_bytes(content(thing), bytes) };
}

/// A kernel with one of everything; what its successor is due. Without caches, if `plain`.
pub(super) fn leave(ram: &Ram, plain: bool) -> Due {
    let kernel = Heirloom::boot_memory(memory(ram, ram), &[], "first").unwrap();
    let memory = kernel.memory();
    let mut due = Due::default();
    let mut add = |thing, handle| due.things.insert(thing, (handle, Vec::from([There::Must])));
    for order in [0, 1, 3] {
        let folio = memory.alloc_folio(Request::new(Order::new(order).unwrap())).unwrap();
        let mut folio = folio.preserve().unwrap_or_else(|refused| panic!("{}", refused.error));
        folio.bytes_mut().fill(content(Thing::Folio(order)));
        add(Thing::Folio(order), kernel.folio_handle(&folio).unwrap());
    }
    let run = memory.alloc_owned_run(5, Request::new(Order::ZERO)).unwrap();
    let mut run = run.preserve().unwrap_or_else(|refused| panic!("{}", refused.error));
    run.bytes_mut().fill(content(Thing::Run));
    add(Thing::Run, kernel.run_handle(&run).unwrap());
    let blocks: Vec<Block> =
        (0..3).map(|_| memory.alloc(Request::new(Order::ZERO)).unwrap()).collect();
    for block in &blocks {
        fill(memory.machine().ptr(block.addr()), PAGE_SIZE, Thing::Area);
    }
    // SAFETY: allocated by this test, and told to nothing else.
    let area = unsafe { PreservedArea::preserve(memory, blocks, Order::ZERO, false) };
    let area = area.unwrap();
    add(Thing::Area, Handle::new(Parts::Area(area.into_raw())).unwrap());
    let mut list = Records::<_, [u64; 2]>::new(memory).unwrap();
    for n in 0..3 {
        list.push(&[n, u64::from(content(Thing::Records))]).unwrap();
    }
    let first = list.first();
    add(Thing::Records, Handle::new(Parts::Records { first, entry: 16 }).unwrap());
    if !plain {
        let layout = core::alloc::Layout::from_size_align(3 * PAGE_SIZE, 8).unwrap();
        let large = kernel.slabs().alloc(layout, AllocOptions { preserving: true, zeroed: false });
        let large = large.unwrap();
        fill(large, 3 * PAGE_SIZE, Thing::Large);
        add(Thing::Large, kernel.handle_of(large).unwrap());
        let small = kernel.alloc(200).unwrap();
        fill(small, 200, Thing::Small);
        // SAFETY: in use.
        add(Thing::Small, unsafe { kernel.preserve(small) }.unwrap());
        let object = kernel.slabs().cache(CACHE).unwrap().alloc().unwrap();
        fill(object, 100, Thing::Object);
        add(Thing::Object, kernel.handle_of(object).unwrap());
    }
    for (name, bytes) in [("a", 5), ("b", 2 * PAGE_SIZE), ("c", 0), ("d", 9)] {
        let bytes = std::vec![name.as_bytes()[0]; bytes];
        kernel.publish(name, &bytes).unwrap();
        due.names.insert(name.to_string(), Vec::from([Some(bytes)]));
    }
    let (handle, _) = &due.things[&Thing::Folio(1)];
    let Ok(Parts::Folio(block)) = handle.parts() else { unreachable!() };
    kernel.add_subtree("added", block.addr(), 100).unwrap();
    due.names.insert("added".to_string(), Vec::from([Some(Vec::new())]));
    due.records.push(3);
    due.before = due.names.clone();
    due.entries.push(kernel.entry());
    due
}
