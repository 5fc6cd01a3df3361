//! A successor ends before any store that the next one reads, in `revive` and in each call after it: the
//! next kernel finds all that was preserved and not let go of, once.
//!
//! The machine looks at its memory before each store of this layer, and each time that a layer below
//! turns to memory; where something has changed, a copy of it as it is then is what the next kernel
//! starts with. That one claims all, ends too, and a third looks for the same.

#![allow(clippy::drop_non_drop, reason = "a kernel ends where it is dropped")]

mod due;
mod entries;

use core::cell::{Cell, RefCell};
use core::ptr::NonNull;
use std::string::{String, ToString};
use std::vec::Vec;

use due::{Due, There, Thing, claim, content, leave, next_finds};
use heirloom_folio::harness::Ram;
use heirloom_folio::{CpuId, Cpus, DirectMap, Disposition, Machine, Memory};
use heirloom_kho::store::watch;
use heirloom_kho::{Fault, PAGE_SIZE, Parts, PhysAddr, TableError};
use heirloom_slab::CacheSpec;

use crate::{Entry, Error, Heirloom, SealPolicy, Unclaimed};

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
