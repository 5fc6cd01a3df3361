//! A successor ends before any store that the next one reads, in `revive` and in each call after it: the
//! next kernel finds all that was preserved and not let go of, once.
//!
//! The machine looks at its memory before each store of this layer, and each time that a layer below
//! turns to memory; where something has changed, a copy of it as it is then is what the next kernel
//! starts with. That one claims all, ends too, and a third looks for the same.

#![allow(clippy::drop_non_drop, reason = "a kernel ends where it is dropped")]

use core::cell::{Cell, RefCell};
use core::ptr::NonNull;
use std::collections::BTreeMap;
use std::string::{String, ToString};
use std::vec::Vec;

use heirloom_folio::harness::Ram;
use heirloom_folio::{CpuId, Cpus, DirectMap, Disposition, Machine, Memory, Request};
use heirloom_kho::store::watch;
use heirloom_kho::{Block, Fault, Handle, Order, PAGE_SIZE, Parts, PhysAddr, Run, TableError};
use heirloom_slab::{AllocOptions, CacheSpec};

use crate::pages::{halves, words_at};
use crate::{Entry, Error, Heirloom, PreservedArea, Records, SealPolicy, Unclaimed};

const FRAMES: u64 = if PAGE_SIZE == 4096 { 256 } else { 88 };
/// Of the stores one in so many is followed: with large pages memory is large, and the stores are the same.
const EVERY: usize = if PAGE_SIZE == 4096 { 1 } else { 4 };
const CACHE: CacheSpec = CacheSpec::new("objects", 100).preserving(true);

/// [`Ram`] that looks whenever a layer turns to it.
struct Watched<'r>(&'r Ram);

// SAFETY: delegates to `Ram`.
unsafe impl DirectMap for Watched<'_> {
    fn ptr(&self, addr: PhysAddr) -> NonNull<u8> {
        watch::look();
        self.0.ptr(addr)
    }

    fn phys(&self, ptr: NonNull<u8>) -> Option<PhysAddr> {
        self.0.phys(ptr)
    }
}

// SAFETY: delegates to `Ram`.
unsafe impl Cpus for Watched<'_> {
    fn count(&self) -> usize {
        self.0.count()
    }

    fn with_cpu<R>(&self, f: impl FnOnce(Option<CpuId>) -> R) -> R {
        self.0.with_cpu(f)
    }
}

impl Machine for Watched<'_> {
    type Lock = spin::Mutex<()>;
    type Mutex = spin::Mutex<()>;
}

fn memory<M: Machine>(ram: &Ram, machine: M) -> Memory<M> {
    let [(run, node)] = Ram::frames(FRAMES);
    let space = |bytes| ram.space(bytes);
    let cpus = space(Memory::<M>::cpu_bytes(ram.count()));
    // SAFETY: the machine keeps the spaces as long as it lives, and lends each once; one kernel at
    // a time runs on it.
    unsafe {
        let memory = Memory::new(machine, cpus).unwrap();
        memory.add_range(run, node, space(Memory::<M>::range_bytes(run))).unwrap();
        memory
    }
}

fn all_bytes(ram: &Ram) -> &[u8] {
    let [(run, _)] = Ram::frames(FRAMES);
    let start = ram.ptr(run.addr());
    // SAFETY: the machine's memory, which this thread alone uses, and writes not while it has this.
    unsafe { core::slice::from_raw_parts(start.as_ptr(), usize::try_from(run.bytes()).unwrap()) }
}

/// Makes the memory of a machine that of another.
fn put_all(ram: &Ram, bytes: &[u8]) {
    let [(run, _)] = Ram::frames(FRAMES);
    assert_eq!(run.bytes(), bytes.len() as u64);
    // SAFETY: the machine's memory, which this thread alone uses; of that size.
    unsafe {
        ram.ptr(run.addr()).copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len());
    };
}

/// Whether something must be there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum There {
    Must,
    /// A call that preserves it, or lets it go, is under way.
    May,
    Gone,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Thing {
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
struct Due {
    things: BTreeMap<Thing, (Handle, Vec<There>)>,
    /// What may stand under a name, by the entry of the kernel that goes on.
    names: BTreeMap<String, Vec<Option<Vec<u8>>>>,
    /// And by its predecessor's, where that is another.
    before: BTreeMap<String, Vec<Option<Vec<u8>>>>,
    /// How many records.
    records: Vec<u64>,
    /// Which entries are good, and which may be ended at the moment.
    entries: Vec<Entry>,
    ending: Option<Entry>,
    /// One that has ended.
    ended: Option<Entry>,
}

impl Due {
    fn is(&mut self, thing: Thing, there: There) {
        self.things.get_mut(&thing).unwrap().1 = Vec::from([there]);
    }
}

fn content(thing: Thing) -> u8 {
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
fn claim(kernel: &Heirloom<&Ram>, due: &Due, thing: Thing, handle: Handle) -> Result<(), Error> {
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
fn next_finds(ram: &Ram, due: &Due, entry: Entry, policy: SealPolicy) -> Option<Entry> {
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

/// Runs `script` on a machine, and lets the next kernels look at each change. Returns how many there were.
fn at_each_store(
    ram: &Ram,
    due: &RefCell<Due>,
    policy: SealPolicy,
    script: impl FnOnce(),
) -> usize {
    let copy = RefCell::new(all_bytes(ram).to_vec());
    let stops = Cell::new(0_usize);
    let look = || {
        let mut last = copy.borrow_mut();
        let now = all_bytes(ram);
        if *last == now {
            return;
        }
        last.copy_from_slice(now);
        stops.set(stops.get() + 1);
        if !stops.get().is_multiple_of(EVERY) {
            return;
        }
        let due = due.borrow();
        if let Some(entry) = due.ended {
            let machine = Ram::over(&Ram::frames(FRAMES));
            put_all(&machine, now);
            let refused =
                Heirloom::revive_memory(memory(&machine, &machine), entry, "late", policy);
            let fault = refused.map(drop).unwrap_err();
            assert!(
                matches!(fault, Error::Table(TableError { fault: Fault::Ended, .. })),
                "{fault}"
            );
        }
        for entry in &due.entries {
            let machine = Ram::over(&Ram::frames(FRAMES));
            put_all(&machine, now);
            let Some(second) = next_finds(&machine, &due, *entry, policy) else { continue };
            // It dies as well, at a third of the stops.
            if stops.get().is_multiple_of(3 * EVERY) && *entry == second {
                next_finds(&machine, &due, second, SealPolicy::Checked);
            }
        }
    };
    watch::during(look, script);
    stops.get()
}

fn fill(ptr: NonNull<u8>, bytes: usize, thing: Thing) {
    // SAFETY: this test's, of that size.
    unsafe { ptr.write_bytes(content(thing), bytes) };
}

/// A kernel with one of everything; what its successor is due. Without caches, if `plain`.
fn leave(ram: &Ram, plain: bool) -> Due {
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

/// Starts a kernel with the newest entry. Returns it, the entry, and whether a kernel had made that beside
/// its predecessor's, which has ended then.
fn start<'r>(
    ram: &'r Ram,
    due: &RefCell<Due>,
    policy: SealPolicy,
) -> (Heirloom<Watched<'r>>, Entry, bool) {
    let entries = due.borrow().entries.clone();
    let (entry, beside) = (*entries.last().unwrap(), entries.len() > 1);
    due.borrow_mut().ending = beside.then_some(entries[0]);
    let kernel =
        Heirloom::revive_memory(memory(ram, Watched(ram)), entry, "second", policy).unwrap();
    if beside {
        due.borrow_mut().entries.remove(0);
        let ended = due.borrow_mut().ending.take();
        due.borrow_mut().ended = ended;
        watch::look();
    }
    (kernel, entry, beside)
}

/// Everything that a successor does, with what it promises while it does it.
fn live(ram: &Ram, due: &RefCell<Due>, policy: SealPolicy, plain: bool) {
    let (kernel, entry, beside) = start(ram, due, policy);
    let moved = kernel.entry() != entry;
    if moved {
        due.borrow_mut().entries.push(kernel.entry());
    }
    let thing = |thing| due.borrow().things[&thing].0;
    // Around a call under way.
    let going = |thing, then, call: &mut dyn FnMut()| {
        due.borrow_mut().is(thing, There::May);
        call();
        due.borrow_mut().is(thing, then);
    };
    let name = |name: &str, to: Option<&[u8]>, call: &mut dyn FnMut()| {
        let to = to.map(<[u8]>::to_vec);
        due.borrow_mut()
            .names
            .entry(name.to_string())
            .or_insert_with(|| Vec::from([None]))
            .push(to.clone());
        call();
        due.borrow_mut().names.insert(name.to_string(), Vec::from([to]));
    };
    // Claims: nothing changes by them.
    assert!(matches!(kernel.publish("a", &[1]), Err(Error::NameTaken { .. })));
    let root = kernel.claim_root("a").unwrap();
    assert!(matches!(kernel.unpublish("a"), Err(Error::NameTaken { .. })));
    drop(root);
    let folios = [0, 3].map(|order| kernel.claim_folio(thing(Thing::Folio(order))).unwrap());
    let one = kernel.claim_folio(thing(Thing::Folio(1))).unwrap();
    let run = kernel.claim_run(thing(Thing::Run)).unwrap();
    let area = kernel.claim_area(thing(Thing::Area)).unwrap();
    let mut list = kernel.claim_records::<[u64; 2]>(thing(Thing::Records)).unwrap();
    // Names.
    name("a", Some(&[7; 20]), &mut || kernel.publish("a", &[7; 20]).unwrap());
    name("new", Some(&[8]), &mut || kernel.publish("new", &[8]).unwrap());
    drop(kernel.claim_root("b").unwrap());
    name("b", None, &mut || kernel.unpublish("b").unwrap());
    kernel.seal().unwrap();
    assert!(kernel.is_sealed());
    name("new", None, &mut || kernel.unpublish("new").unwrap());
    let block = one.extent();
    kernel.add_subtree("added", block.addr(), 100).unwrap();
    name("added", None, &mut || kernel.remove_subtree("added").unwrap());
    name("added", Some(&[]), &mut || kernel.add_subtree("added", block.addr(), 100).unwrap());
    kernel.seal().unwrap();
    kernel.unseal().unwrap();
    // What is preserved goes, or changes.
    due.borrow_mut().records.push(4);
    list.push(&[3, u64::from(content(Thing::Records))]).unwrap();
    due.borrow_mut().records.remove(0);
    let [zero, three] = folios;
    let mut zero = Some(zero);
    going(Thing::Folio(0), There::Must, &mut || {
        let folio = zero.take().unwrap().unpreserve().unwrap_or_else(|r| panic!("{}", r.error));
        let _ = folio.preserve().unwrap_or_else(|r| panic!("{}", r.error)).into_raw();
    });
    let mut three = Some(three);
    going(Thing::Folio(3), There::Gone, &mut || {
        drop(three.take().unwrap().unpreserve().unwrap_or_else(|r| panic!("{}", r.error)));
    });
    let mut run = Some(run);
    going(Thing::Run, There::Gone, &mut || {
        drop(run.take().unwrap().unpreserve().unwrap_or_else(|r| panic!("{}", r.error)));
    });
    if !plain {
        let large = kernel.restore(thing(Thing::Large)).unwrap();
        let small = kernel.restore(thing(Thing::Small)).unwrap();
        kernel.slabs().adopt(CACHE).unwrap();
        let object = kernel.restore(thing(Thing::Object)).unwrap();
        for (thing, ptr) in [(Thing::Large, large), (Thing::Small, small), (Thing::Object, object)]
        {
            // SAFETY: claimed above, and used by nothing.
            going(thing, There::Gone, &mut || unsafe { kernel.free(ptr) }.unwrap());
        }
    }
    // The rest, first by leaving it and then by letting it go: what is claimed stays.
    // Without the name, the predecessor's own header and cache directory are two pages that nothing leads to. So are
    // the root page and scratch list of an entry that has ended.
    let pages = if plain { 2 } else { 0 } + if beside { 2 } else { 0 };
    kernel.finish_first(moved, due, entry, pages);
    let mut names: Vec<String> = Vec::new();
    for name in ["c", "d"] {
        due.borrow_mut().names.get_mut(name).unwrap().push(None);
    }
    let finished = kernel.finish(|unclaimed| {
        if let Unclaimed::Subtree { name, .. } = unclaimed {
            names.push(name.to_string());
        }
        Disposition::Free
    });
    assert_eq!(finished.unwrap().folios, pages);
    assert_eq!(names, ["c", "d"]);
    for name in ["c", "d"] {
        due.borrow_mut().names.insert(name.to_string(), Vec::from([None]));
    }
    due.borrow_mut().is(Thing::Area, There::May);
    area.unpreserve(|block| {
        // SAFETY: the area's block, which is no longer preserved.
        unsafe { kernel.memory().free(block) }.unwrap();
    })
    .map_err(|(_, error)| error)
    .unwrap();
    due.borrow_mut().is(Thing::Area, There::Gone);
    kernel.memory().audit().unwrap();
    watch::look();
}

impl Heirloom<Watched<'_>> {
    /// Tells all, and keeps it; where the predecessor's entry is another, that is the end of it.
    fn finish_first(&self, moved: bool, due: &RefCell<Due>, entry: Entry, pages: u64) {
        due.borrow_mut().ending = moved.then_some(entry);
        let before = || self.header_page().unwrap().read().unwrap().before;
        assert_eq!(before(), moved.then_some(entry.root));
        let told = self.finish(|_| Disposition::Keep).unwrap();
        assert_eq!((told.subtrees, told.folios, told.objects), (2, pages, 0));
        due.borrow_mut().ending = None;
        if moved {
            assert_eq!(due.borrow_mut().entries.remove(0), entry);
        }
        // Something else may stand in that page from now on.
        assert_eq!(before(), None);
    }
}

#[test]
fn nothing_is_lost_at_any_store_of_a_successor() {
    for policy in [SealPolicy::Checked, SealPolicy::Ignored] {
        let ram = Ram::over(&Ram::frames(FRAMES));
        let due = RefCell::new(leave(&ram, false));
        let stops =
            at_each_store(&ram, &due, SealPolicy::Checked, || live(&ram, &due, policy, false));
        std::println!("{policy:?}: {stops} stops");
        assert!(stops > 150, "{stops}");
    }
}

#[test]
fn nothing_is_lost_at_any_store_of_a_successor_of_a_sealed_handover() {
    let ram = Ram::over(&Ram::frames(FRAMES));
    let due = RefCell::new(leave(&ram, false));
    let entry = due.borrow().entries[0];
    // Sealed by a second, which did nothing else.
    Heirloom::revive_memory(memory(&ram, &ram), entry, "sealer", SealPolicy::Checked)
        .unwrap()
        .seal()
        .unwrap();
    // Up to where it is opened, and after it, the strict policy that takes both takes it.
    let stops = at_each_store(&ram, &due, SealPolicy::Required, || {
        let policy = SealPolicy::SealedOnly;
        drop(
            Heirloom::revive_memory(memory(&ram, Watched(&ram)), entry, "second", policy).unwrap(),
        );
        watch::look();
    });
    std::println!("{stops} stops");
    // The word that opens it, its table, what changes in the header's half, and the turn to that.
    assert!(stops >= 6, "{stops}");
    let refused =
        Heirloom::revive_memory(memory(&ram, &ram), entry, "third", SealPolicy::SealedOnly);
    assert_eq!(refused.err(), Some(Error::NotSealed { opened: true }));
}

#[path = "../tests/common/layout.rs"]
mod layout;

/// Writes the root page at an address anew, as another make lays one out. With the `heirloom` name or
/// without.
fn relay(ram: &Ram, at: PhysAddr, own: bool) {
    let memory = memory(ram, ram);
    // SAFETY: nothing writes the page meanwhile.
    let words = halves(unsafe { words_at(&memory, at, PAGE_SIZE) }.unwrap());
    let view = heirloom_kho::RootView::new(words, at).unwrap();
    let names = view.subtrees().map(Result::unwrap);
    let names = names.filter(|subtree| own || subtree.name.as_str() != heirloom_kho::SUBTREE);
    let names = names.map(|s| (s.name.to_string(), s.addr.get(), s.size));
    let page = layout::lay_out(view.map().get(), &names.collect::<Vec<_>>());
    let start = memory.ptr(Run::covering(at, PAGE_SIZE as u64).unwrap()).unwrap();
    // SAFETY: the page, which nothing else uses meanwhile.
    unsafe {
        start.write_bytes(0, PAGE_SIZE);
        start.copy_from_nonoverlapping(NonNull::from(&page[..]).cast(), page.len());
    }
}

/// Lets a kernel claim, publish, seal and tell until its memory has changed so often, and dies there.
fn dies(ram: &Ram, due: &Due, entry: Entry, after: usize) -> Ram {
    let last = Ram::over(&Ram::frames(FRAMES));
    put_all(&last, all_bytes(ram));
    let changes = Cell::new(0);
    let look = || {
        if changes.get() < after && all_bytes(&last) != all_bytes(ram) {
            put_all(&last, all_bytes(ram));
            changes.set(changes.get() + 1);
        }
    };
    watch::during(look, || {
        let kernel =
            Heirloom::revive_memory(memory(ram, Watched(ram)), entry, "dying", SealPolicy::Checked);
        let kernel = kernel.unwrap_or_else(|error| panic!("{error}"));
        for name in ["a", "b"] {
            drop(kernel.claim_root(name).unwrap());
        }
        for (handle, _) in due.things.values() {
            match handle.parts().unwrap() {
                Parts::Folio(_) => drop(kernel.claim_folio(*handle).unwrap()),
                Parts::Run(_) => drop(kernel.claim_run(*handle).unwrap()),
                Parts::Area(_) => drop(kernel.claim_area(*handle).unwrap()),
                Parts::Records { .. } => drop(kernel.claim_records::<[u64; 2]>(*handle).unwrap()),
                Parts::Buffer { .. } => drop(kernel.restore(*handle).unwrap()),
                _ => {
                    kernel.slabs().adopt(CACHE).unwrap();
                    kernel.restore(*handle).unwrap();
                }
            }
        }
        // One before it may have died with the name there.
        let _ = kernel.claim_root("mine").map(drop);
        kernel.publish("mine", &[1; 10]).unwrap();
        kernel.seal().unwrap();
        kernel.publish("mine", &[2; 20]).unwrap();
        kernel.unpublish("mine").unwrap();
        kernel.finish(|_| Disposition::Keep).unwrap();
        kernel.seal().unwrap();
    });
    last
}

#[test]
fn ten_successors_that_die_one_after_another_lose_nothing() {
    let mut seed = 0x7465_6e20_6465_6164_u64;
    std::println!("seed {seed:#x}");
    for _ in 0..16 / EVERY {
        let mut ram = Ram::over(&Ram::frames(FRAMES));
        let mut due = leave(&ram, false);
        due.names.insert(
            "mine".to_string(),
            Vec::from([None, Some(std::vec![1; 10]), Some(std::vec![2; 20])]),
        );
        let entry = due.entries[0];
        for _ in 0..10 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            ram = dies(&ram, &due, entry, usize::try_from(seed >> 33).unwrap() % 120);
        }
        assert_eq!(next_finds(&ram, &due, entry, SealPolicy::Checked), Some(entry));
        // Told once, what the dead had under way goes: there is no more than was left.
        let kernel =
            Heirloom::revive_memory(memory(&ram, &ram), entry, "tidy", SealPolicy::Checked);
        let kernel = kernel.unwrap();
        let _ = kernel.claim_root("mine").map(drop).and_then(|()| kernel.unpublish("mine"));
        let owned: Vec<_> =
            due.things.iter().map(|(thing, (handle, _))| (*thing, *handle)).collect();
        for (thing, handle) in owned {
            claim(&kernel, &due, thing, handle).unwrap();
        }
        kernel
            .finish(|unclaimed| match unclaimed {
                Unclaimed::Folio(_) => Disposition::Free,
                _ => Disposition::Keep,
            })
            .unwrap();
        let fresh = Ram::over(&Ram::frames(FRAMES));
        let alone = leave(&fresh, false).entries[0];
        let alone =
            Heirloom::revive_memory(memory(&fresh, &fresh), alone, "x", SealPolicy::Checked)
                .unwrap();
        let preserved = |kernel: &Heirloom<&Ram>| kernel.memory().stats().preserved;
        assert_eq!(preserved(&kernel), preserved(&alone));
    }
}

#[test]
fn both_entries_are_good_until_the_predecessors_is_ended() {
    for own in [true, false] {
        let ram = Ram::over(&Ram::frames(FRAMES));
        let due = RefCell::new(leave(&ram, !own));
        let entry = due.borrow().entries[0];
        relay(&ram, entry.root, own);
        let stops = at_each_store(&ram, &due, SealPolicy::Checked, || {
            live(&ram, &due, SealPolicy::Checked, !own);
        });
        std::println!("{}: {stops} stops", if own { "another layout" } else { "another make" });
        assert!(stops > 150, "{stops}");
        // Until something else is written there, the refusal says what happened.
        let refused =
            Heirloom::revive_memory(memory(&ram, &ram), entry, "late", SealPolicy::Checked);
        let refused = refused.err().unwrap();
        if let Error::Table(TableError { fault: Fault::Ended, .. }) = refused {
            assert!(refused.to_string().contains("ended by a successor"), "{refused}");
        }
    }
}

#[test]
fn a_kernel_that_starts_with_the_new_entry_ends_the_predecessors_before_it_lets_go_of_anything() {
    for own in [true, false] {
        let ram = Ram::over(&Ram::frames(FRAMES));
        let due = RefCell::new(leave(&ram, !own));
        let entry = due.borrow().entries[0];
        relay(&ram, entry.root, own);
        // This one ends with both entries good.
        let kernel =
            Heirloom::revive_memory(memory(&ram, &ram), entry, "dying", SealPolicy::Checked);
        let beside = kernel.unwrap().entry();
        assert_ne!(beside, entry);
        due.borrow_mut().entries.push(beside);
        let stops = at_each_store(&ram, &due, SealPolicy::Checked, || {
            live(&ram, &due, SealPolicy::Checked, !own);
        });
        std::println!("{}: {stops} stops", if own { "another layout" } else { "another make" });
        assert!(stops > 150, "{stops}");
        assert_eq!(due.borrow().ended, Some(entry));
    }
}

/// The page of the header, as its kernel reads it.
fn header_of(ram: &Ram, entry: Entry) -> PhysAddr {
    let memory = memory(ram, ram);
    // SAFETY: nothing writes the page meanwhile.
    let words = halves(unsafe { words_at(&memory, entry.root, PAGE_SIZE) }.unwrap());
    let view = heirloom_kho::RootView::new(words, entry.root).unwrap();
    view.find(&heirloom_kho::Name::new(heirloom_kho::SUBTREE).unwrap()).unwrap().addr
}

/// Makes the header name a root page that was before.
fn name_before(ram: &Ram, header: PhysAddr, before: PhysAddr) {
    let memory = memory(ram, ram);
    // SAFETY: nothing else writes the page meanwhile.
    let words = unsafe { words_at(&memory, header, heirloom_kho::Header::SIZE) }.unwrap();
    let mut page = heirloom_kho::HeaderPage::reopen(words, header).unwrap();
    page.renew(&heirloom_kho::Header { before: Some(before), ..page.read().unwrap() }).unwrap();
}

#[test]
fn an_entry_in_frames_that_nothing_preserves_is_ended_too() {
    // At the start of a page, and across two.
    for inside in [0, 8] {
        let ram = Ram::over(&Ram::frames(FRAMES));
        let due = RefCell::new(leave(&ram, false));
        let old = due.borrow().entries[0];
        relay(&ram, old.root, true);
        let [(run, _)] = Ram::frames(FRAMES);
        // Two frames in which nothing stands.
        let mut free = all_bytes(&ram).chunks_exact(2 * PAGE_SIZE);
        let at = free.rposition(|bytes| bytes.iter().all(|byte| *byte == 0)).unwrap();
        let root = PhysAddr::new(run.addr().get() + (at * 2 * PAGE_SIZE) as u64 + inside);
        let (from, to) = (ram.ptr(old.root), ram.ptr(root));
        // SAFETY: frames that are in use by nothing.
        unsafe { to.copy_from_nonoverlapping(from, PAGE_SIZE) };
        let entry = Entry { root, ..old };
        let dying =
            Heirloom::revive_memory(memory(&ram, &ram), entry, "dying", SealPolicy::Checked);
        let dying = dying.unwrap();
        let beside = dying.entry();
        dying.seal().unwrap();
        drop(dying);
        // It has let go of the root page that was copied, and of nothing else.
        due.borrow_mut().entries = Vec::from([beside]);
        let policy = SealPolicy::SealedOnly;
        assert_eq!(next_finds(&ram, &due.borrow(), beside, policy), Some(beside));
        let late = Heirloom::revive_memory(memory(&ram, &ram), entry, "late", SealPolicy::Checked);
        let Err(Error::Table(TableError { fault, .. })) = late else { panic!("taken") };
        assert_eq!(fault, Fault::Ended);
    }
}

#[test]
fn a_header_that_names_any_page_as_the_root_page_before_changes_none() {
    let ram = Ram::over(&Ram::frames(FRAMES));
    let due = leave(&ram, false);
    let entry = due.entries[0];
    let (header, left) = (header_of(&ram, entry), all_bytes(&ram).to_vec());
    let [(run, _)] = Ram::frames(FRAMES);
    let at = |pfn: heirloom_kho::Pfn| (pfn.get() - run.start().get()) as usize * PAGE_SIZE;
    let mut looked = 0;
    for n in 0..FRAMES {
        let pfn = run.start().add(n);
        put_all(&ram, &left);
        name_before(&ram, header, pfn.addr());
        let before = all_bytes(&ram)[at(pfn)..][..8].to_vec();
        // Tables that the kernel goes on with change by that.
        let kernel =
            Heirloom::revive_memory(memory(&ram, &ram), entry, "next", SealPolicy::Checked);
        drop(kernel.unwrap_or_else(|error| panic!("{pfn:?}: {error}")));
        assert_eq!(all_bytes(&ram)[at(pfn)..][..8], before, "{pfn:?}");
        assert_eq!(next_finds(&ram, &due, entry, SealPolicy::Checked), Some(entry), "{pfn:?}");
        looked += 1;
    }
    assert_eq!(looked, FRAMES);
}

#[test]
fn a_seal_beside_a_predecessors_entry_covers_its_root_page() {
    let ram = Ram::over(&Ram::frames(FRAMES));
    let entry = leave(&ram, false).entries[0];
    relay(&ram, entry.root, true);
    let kernel = Heirloom::revive_memory(memory(&ram, &ram), entry, "sealer", SealPolicy::Checked);
    let kernel = kernel.unwrap();
    kernel.seal().unwrap();
    let beside = kernel.entry();
    drop(kernel);
    let left = all_bytes(&ram).to_vec();
    // The last byte of the first frame that has any: in the names.
    let [(run, _)] = Ram::frames(FRAMES);
    let at = (entry.root.get() - run.addr().get()) as usize;
    let last = left[at..at + PAGE_SIZE].iter().rposition(|byte| *byte != 0).unwrap();
    let mut other = left.clone();
    other[at + last] ^= 1;
    for entry in [entry, beside] {
        put_all(&ram, &other);
        let policy = SealPolicy::SealedOnly;
        let refused = Heirloom::revive_memory(memory(&ram, &ram), entry, "next", policy).map(drop);
        assert!(refused.is_err(), "a bit of the root page at {} fell over", entry.root);
        put_all(&ram, &left);
        drop(Heirloom::revive_memory(memory(&ram, &ram), entry, "next", policy).unwrap());
    }
}

#[test]
fn a_scratch_list_in_a_frame_that_nothing_preserves_is_written_anew() {
    let ram = Ram::over(&Ram::frames(FRAMES));
    let [(run, _)] = Ram::frames(FRAMES);
    let scratch = Run::new(run.start().add(FRAMES - 4), 4).unwrap();
    let kernel = Heirloom::boot_memory(memory(&ram, &ram), &[scratch], "careless").unwrap();
    kernel.publish("name", b"bytes").unwrap();
    let entry = kernel.entry();
    let list = Block::containing(entry.scratch.pfn(), Order::ZERO);
    // SAFETY: the handover's own, against its rules.
    unsafe { kernel.memory().unpreserve_as(list, heirloom_folio::FrameType::Table) }.unwrap();
    drop(kernel);
    let kernel =
        Heirloom::revive_memory(memory(&ram, &ram), entry, "next", SealPolicy::Checked).unwrap();
    let beside = kernel.entry();
    assert_ne!(beside, entry);
    drop(kernel.claim_root("name").unwrap());
    let reserved = || kernel.memory().audit().unwrap().reserved;
    assert_eq!(reserved(), 4 + 1);
    kernel.finish(|_| Disposition::Keep).unwrap();
    assert_eq!(reserved(), 4);
    drop(kernel);
    let kernel =
        Heirloom::revive_memory(memory(&ram, &ram), beside, "last", SealPolicy::Checked).unwrap();
    assert_eq!(kernel.claim_root("name").unwrap().bytes(), b"bytes");
    assert!(kernel.scratch().eq([scratch]));
}
