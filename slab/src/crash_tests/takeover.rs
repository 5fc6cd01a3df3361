//! The whole life of a successor, from `revive` on: before each store that the next one reads, the
//! memory is copied and another kernel starts from it. It finds all that was promised by then, once,
//! whichever kernel claimed it; so does the one that starts in the middle of that one's life.

use core::alloc::Layout;
use core::cell::Cell;
use std::collections::BTreeMap;

use heirloom_folio::{Disposition, FrameType};
use heirloom_kho::PAGE_SIZE;

use super::*;
use crate::directory::Source;
use crate::spec::is_reserved;
use crate::{Action, AllocOptions, Cache, Error, ObjectState, Owner, Unclaimed};

const FRAMES: u64 = 384;
/// Bytes of an object of which a test makes use.
const BYTES: usize = 400;
/// What the constructor writes, behind them.
const BUILT: u64 = 0xb017;

fn construct(object: NonNull<u8>) {
    // SAFETY: objects of the cache that it is for have 600 bytes, aligned to 8.
    unsafe { object.add(592).cast::<u64>().write(BUILT) };
}

const PLAIN: CacheSpec = CacheSpec::new("plain", 600);
const ALWAYS: CacheSpec = CacheSpec::new("always", 600).preserving(true);
const WITH: CacheSpec = CacheSpec::new("built", 600);
const OLD: CacheSpec = CacheSpec::new("old", 500).preserving(true);
const MOVED: CacheSpec = CacheSpec::new("moved", 520).preserving(true);

/// What a kernel left when it stopped.
struct World {
    ram: Ram,
    map: PhysAddr,
    directory: PhysAddr,
}

/// The memory as it is at this instant.
fn stop(slabs: &Slabs<Ram>) -> World {
    let ranges = Ram::frames(FRAMES);
    let (run, ram) = (ranges[0].0, Ram::over(&ranges));
    let from = slabs.memory().machine().ptr(run.addr());
    // SAFETY: both have these frames, and nothing else runs.
    unsafe { ram.ptr(run.addr()).copy_from_nonoverlapping(from, run.bytes() as usize) };
    World {
        ram,
        map: slabs.memory().preserved().tree_root().unwrap(),
        directory: slabs.cache_directory(),
    }
}

impl World {
    fn revive(self) -> Slabs<Ram> {
        let memory = self.ram.attach(&Ram::frames(FRAMES)).unwrap();
        let (memory, _) = memory.take_over(self.map).unwrap();
        Slabs::revive(memory, self.directory).unwrap()
    }
}

/// What the next kernel is to find, by the number that is in each object.
#[derive(Clone, Default, Debug)]
struct Promise {
    /// Once.
    must: BTreeSet<u64>,
    /// Or not: a call is under way.
    may: BTreeSet<u64>,
    /// Maybe in two forms.
    twice: BTreeSet<u64>,
}

impl Promise {
    fn check(&self, found: &BTreeMap<u64, u32>) {
        for id in &self.must {
            let count = found.get(id).copied().unwrap_or(0);
            let most = if self.twice.contains(id) { 2 } else { 1 };
            assert!((1..=most).contains(&count), "{id}: {count} times; {self:?}");
        }
        for (id, count) in found {
            let known = self.must.contains(id) || self.may.contains(id) && *count == 1;
            assert!(known, "{id}: {count} times; {self:?}");
        }
    }

    /// What is so in a kernel that found this.
    fn of(found: &BTreeMap<u64, u32>) -> Self {
        let twice = found.iter().filter(|(_, count)| **count > 1);
        Self {
            must: found.keys().copied().collect(),
            may: BTreeSet::new(),
            twice: twice.map(|(id, _)| *id).collect(),
        }
    }
}

/// Puts a number into an object, and bytes that follow from it.
fn put(object: NonNull<u8>, id: u64) {
    for (i, byte) in (8..BYTES).zip(id.to_le_bytes().into_iter().cycle()) {
        // SAFETY: the caller's object, which has so many bytes.
        unsafe { object.add(i).write(byte ^ i as u8) };
    }
    // SAFETY: as above; objects are aligned so.
    unsafe { object.cast::<u64>().write(id) };
}

/// The number in an object.
fn number(slabs: &Slabs<Ram>, addr: PhysAddr) -> u64 {
    let object = slabs.memory().machine().ptr(addr);
    // SAFETY: an object of a test, which nothing else touches.
    let id = unsafe { object.cast::<u64>().read() };
    for (i, byte) in (8..BYTES).zip(id.to_le_bytes().into_iter().cycle()) {
        // SAFETY: as above.
        assert_eq!(unsafe { object.add(i).read() }, byte ^ i as u8, "{addr}: {id}");
    }
    id
}

/// What there is, by number.
fn found(slabs: &Slabs<Ram>) -> BTreeMap<u64, u32> {
    let mut found = BTreeMap::new();
    for addr in survivors(slabs) {
        *found.entry(number(slabs, addr)).or_default() += 1;
    }
    found
}

/// What survives in caches whose names are so: address, size and reuse tag.
fn handles(slabs: &Slabs<Ram>, named: impl Fn(&CacheRecord) -> bool) -> Vec<(PhysAddr, u64, u8)> {
    let mut all = Vec::new();
    for record in slabs.view().records().filter(named) {
        for addr in slabs.view().slabs(&record) {
            // SAFETY: in the cache directory, and nothing else runs.
            let slab = unsafe { Slab::at(slabs.memory().machine(), addr) };
            for index in record.geometry().indices() {
                let state = State(slab.state(record.geometry(), index).load(Relaxed));
                if survived(state, record.is_preserving()) {
                    let addr = slab.addr(record.geometry(), index);
                    all.push((addr, record.object_size() as u64, state.reuse_tag()));
                }
            }
        }
    }
    all
}

/// A kernel that does everything there is, as its dice have it.
struct Life<'a> {
    slabs: &'a Slabs<Ram>,
    promise: &'a RefCell<Promise>,
    ids: &'a Cell<u64>,
    dice: Cell<u64>,
}

impl Life<'_> {
    fn dice(&self, sides: u64) -> u64 {
        let mut x = self.dice.get();
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.dice.set(x);
        (x >> 20) % sides
    }

    fn id(&self) -> u64 {
        self.ids.set(self.ids.get() + 1);
        self.ids.get()
    }

    /// Does what ends an object.
    fn end(&self, id: u64, act: impl FnOnce()) {
        self.ending(id);
        act();
        self.ended(id);
    }

    fn ending(&self, id: u64) {
        let mut promise = self.promise.borrow_mut();
        if !promise.twice.contains(&id) {
            assert!(promise.must.remove(&id));
            promise.may.insert(id);
        }
    }

    fn ended(&self, id: u64) {
        let mut promise = self.promise.borrow_mut();
        // The other form stays.
        promise.twice.remove(&id);
        promise.may.remove(&id);
    }

    /// Does what makes an object survive.
    fn keep(&self, id: u64, act: impl FnOnce()) {
        self.promise.borrow_mut().may.insert(id);
        act();
        let mut promise = self.promise.borrow_mut();
        promise.may.remove(&id);
        promise.must.insert(id);
    }

    fn free(&self, id: u64, object: NonNull<u8>) {
        // SAFETY: each caller's.
        self.end(id, || unsafe { self.slabs.free(object) }.unwrap());
    }

    fn preserve(&self, id: u64, object: NonNull<u8>) {
        // SAFETY: in use, and nothing frees it meanwhile.
        self.keep(id, || unsafe { self.slabs.preserve(object) }.unwrap());
    }

    fn unpreserve(&self, id: u64, object: NonNull<u8>) {
        // SAFETY: in use, and nothing frees it meanwhile.
        self.end(id, || unsafe { self.slabs.unpreserve(object) }.unwrap());
    }

    /// Claims an object, and does something to it.
    fn claim(&self, (addr, size, reuse_tag): (PhysAddr, u64, u8), preserving: bool) {
        let id = number(self.slabs, addr);
        let what = self.dice(9);
        if what < 2 {
            return;
        }
        let object = self.slabs.claim(addr, size, reuse_tag).unwrap();
        match what {
            2 => self.free(id, object),
            3 if !preserving => {
                // It survives all the time.
                // SAFETY: claimed just now.
                unsafe { self.slabs.preserve(object) }.unwrap();
            }
            4 | 5 if !preserving => {
                // SAFETY: claimed just now.
                let _ = (what == 5).then(|| unsafe { self.slabs.preserve(object) });
                self.unpreserve(id, object);
                match self.dice(2) {
                    0 => self.preserve(id, object),
                    // SAFETY: claimed just now; it survives no longer.
                    _ => unsafe { self.slabs.free(object) }.unwrap(),
                }
            }
            // (A large buffer is in no cache directory.)
            6 if size <= 1024 => {
                let again = self.promise.borrow_mut().twice.insert(id);
                let layout = Layout::from_size_align(size as usize * 3, 8).unwrap();
                // SAFETY: claimed just now; the old place is not used again.
                let moved = unsafe { self.slabs.realloc(object, layout) }.unwrap();
                assert_ne!(moved, object);
                if again {
                    self.promise.borrow_mut().twice.remove(&id);
                }
            }
            _ => {}
        }
    }

    /// Goes on with an object that was resumed, as its owner does.
    fn go_on(
        &self,
        (addr, size, reuse_tag): (PhysAddr, u64, u8),
        preserving: bool,
        disposition: u64,
    ) {
        let id = number(self.slabs, addr);
        let object = self.slabs.memory().machine().ptr(addr);
        match self.dice(7) {
            0 => assert_eq!(self.slabs.at(addr, size, reuse_tag), Ok(object)),
            1 if preserving => self.free(id, object),
            1 => {
                self.unpreserve(id, object);
                match self.dice(2) {
                    0 => self.preserve(id, object),
                    // SAFETY: in use; it survives no longer.
                    _ => unsafe { self.slabs.free(object) }.unwrap(),
                }
            }
            2 if !preserving => {
                // It survives all the time: held, and preserved from here on, or preserved before.
                // SAFETY: in use.
                let again = unsafe { self.slabs.preserve(object) };
                assert!(
                    matches!(
                        again,
                        Ok(()) | Err(Error::WrongState { action: Action::Preserve, .. })
                    ),
                    "{again:?}"
                );
            }
            3 => {
                let caches = self.slabs.caches();
                caches.for_each(|cache| _ = cache.sweep(self.dice(2)).unwrap());
            }
            4 => self.finish(disposition),
            _ => {}
        }
    }

    /// What was left in another layout.
    fn upgrade(&self, moved: &Cache<'_, Ram>) {
        let Some(record) = self.slabs.inherited("old") else { return };
        let there = handles(self.slabs, |record| record.name() == moved.name());
        let mut there: BTreeSet<_> =
            there.into_iter().map(|(addr, ..)| number(self.slabs, addr)).collect();
        let mut last = None;
        let gone = |last: &mut Option<u64>| {
            if let Some(id) = last.take() {
                self.promise.borrow_mut().twice.remove(&id);
            }
        };
        let stopped = Error::TooManyCaches { limit: 0 };
        let upgraded = self.slabs.upgrade(&record, |old| {
            gone(&mut last);
            if self.dice(9) == 0 {
                return Err(stopped);
            }
            let id = number(self.slabs, old.addr);
            // One that ended in here left its new form.
            self.promise.borrow_mut().twice.insert(id);
            if there.insert(id) {
                put(moved.alloc()?, id);
            }
            last = Some(id);
            Ok(())
        });
        gone(&mut last);
        assert!(upgraded.is_ok() || upgraded == Err(stopped));
    }

    fn alloc(&self, cache: &Cache<'_, Ram>) {
        let id = self.id();
        let object = cache.alloc().unwrap();
        if cache.inner.constructor().is_some() {
            // SAFETY: allocated just now.
            assert_eq!(unsafe { object.add(592).cast::<u64>().read() }, BUILT);
        }
        put(object, id);
        if cache.is_preserving() {
            self.promise.borrow_mut().must.insert(id);
        } else {
            self.preserve(id, object);
            if self.dice(4) == 0 {
                self.unpreserve(id, object);
                // SAFETY: allocated just now.
                unsafe { self.slabs.free(object) }.unwrap();
                return;
            }
        }
        if self.dice(6) == 0 && cache.is_preserving() {
            self.free(id, object);
        }
    }

    fn finish(&self, how: u64) {
        let last = RefCell::new(Vec::new());
        let gone = || last.borrow_mut().drain(..).for_each(|id| self.ended(id));
        self.slabs
            .finish_inherited(|unclaimed| {
                gone();
                let disposition = if how == 3 { self.dice(2) + 1 } else { how };
                if disposition == 1 {
                    return Disposition::Keep;
                }
                match unclaimed {
                    Unclaimed::Object { addr, .. } => {
                        last.borrow_mut().push(number(self.slabs, addr));
                    }
                    Unclaimed::Slab { slab, .. } => {
                        let all = handles(self.slabs, |_| true);
                        let all = all.iter().filter(|(at, ..)| slab.run().contains(at.pfn()));
                        last.borrow_mut().extend(all.map(|(at, ..)| number(self.slabs, *at)));
                    }
                }
                last.borrow().iter().for_each(|id| self.ending(*id));
                Disposition::Free
            })
            .unwrap();
        gone();
    }

    fn live(&self) {
        let slabs = self.slabs;
        let (moved, _) = slabs.adopt_or_create(MOVED).unwrap();
        if self.dice(4) == 0 {
            slabs.resume_or_create(OLD).unwrap();
        } else {
            self.upgrade(&moved);
        }
        let buffers = handles(slabs, |record| is_reserved(&record.name()));
        let resume = self.dice(2) == 0;
        if resume {
            slabs.resume_buffers().unwrap();
        }
        // What is still to be claimed is not to be freed.
        let disposition = if resume { 2 } else { 1 };
        let with = WITH.constructor(construct);
        let all = [PLAIN, ALWAYS, with].map(|spec| match self.dice(2) {
            0 => slabs.adopt_or_create(spec).unwrap().0,
            _ => slabs.resume_or_create(spec).unwrap(),
        });
        let resumed = |cache: &&Cache<'_, Ram>| cache.inner.takeover.resumes();
        for cache in all.iter().filter(resumed) {
            for handle in handles(slabs, |record| record.name() == cache.name()) {
                self.go_on(handle, cache.is_preserving(), disposition);
            }
        }
        for cache in all.iter().chain([&moved]) {
            let left: Vec<_> = cache.unclaimed().collect();
            for (addr, reuse_tag) in left {
                if self.dice(6) == 0 {
                    self.end(number(slabs, addr), || cache.discard(addr).unwrap());
                } else {
                    let handle = (addr, cache.object_size() as u64, reuse_tag);
                    self.claim(handle, cache.is_preserving());
                }
            }
        }
        for handle in buffers {
            // They are claimed where they are; what they are of is known then.
            let preserving = handles(slabs, CacheRecord::is_preserving).contains(&handle);
            if resume {
                self.go_on(handle, preserving, disposition);
            } else {
                self.claim(handle, preserving);
            }
        }
        for _ in 0..3 {
            let old = slabs.cache(OLD).unwrap();
            for cache in all.iter().chain([&old]) {
                for _ in 0..self.dice(5) {
                    if self.promise.borrow().must.len() < 70 {
                        self.alloc(cache);
                    }
                }
            }
            match self.dice(4) {
                0 => {}
                how => self.finish(how),
            }
            slabs.shrink();
        }
        for preserving in [false, true] {
            let layout = Layout::from_size_align(1000, 8).unwrap();
            let buffer = slabs.alloc(layout, AllocOptions { preserving, zeroed: false }).unwrap();
            let id = self.id();
            put(buffer, id);
            if preserving {
                self.promise.borrow_mut().must.insert(id);
            } else {
                self.preserve(id, buffer);
            }
        }
    }
}

/// Lives in `slabs`, and calls `at` before each store that a successor reads, and at the end, with
/// how many came before, and with what is promised then.
fn live(slabs: &Slabs<Ram>, ids: &Cell<u64>, dice: u64, mut at: impl FnMut(u64, &Promise)) -> u64 {
    let promise = RefCell::new(Promise::of(&found(slabs)));
    let life = Life { slabs, promise: &promise, ids, dice: Cell::new(dice | 1) };
    let mut stores = 0;
    watch::during(
        || {
            at(stores, &promise.borrow());
            stores += 1;
        },
        || life.live(),
    );
    at(stores, &promise.borrow());
    promise.borrow().check(&found(slabs));
    stores
}

/// A kernel starts from what was left, finds what it must, and makes use of all of it, by adopting it or
/// as it is: afterwards nothing is in use, and nothing is preserved but the cache directory.
fn settle(world: World, promise: &Promise) {
    let resumes = promise.must.len().is_multiple_of(2);
    let slabs = world.revive();
    promise.check(&found(&slabs));
    slabs.memory().audit().unwrap();
    let all = handles(&slabs, |_| true);
    let pinned = |(addr, ..): &(PhysAddr, u64, u8)| {
        let held = slabs.owner_at(*addr).is_some_and(|owner| match owner {
            Owner::Object { state, .. } => state != ObjectState::Live,
            _ => false,
        });
        resumes && held
    };
    let mut specs = Vec::new();
    slabs.for_each_inherited(|record| {
        if !is_reserved(&record.name()) {
            specs.push(record.spec());
        }
    });
    for spec in specs {
        if resumes {
            slabs.resume(spec).unwrap();
        } else {
            slabs.adopt(spec).unwrap();
        }
    }
    if resumes {
        slabs.resume_buffers().unwrap();
    }
    for (i, (addr, size, reuse_tag)) in (0..).zip(all) {
        number(&slabs, addr);
        if resumes {
            let object = slabs.at(addr, size, reuse_tag).unwrap();
            // SAFETY: in use, and not used again.
            unsafe {
                if pinned(&(addr, size, reuse_tag)) {
                    slabs.unpreserve(object).unwrap();
                }
                slabs.free(object).unwrap();
            }
            continue;
        }
        // Some are left to be finished: objects of caches that were adopted.
        if i % 5 == 4 && slabs.owner_at(addr).is_some() {
            continue;
        }
        let object = slabs.claim(addr, size, reuse_tag).unwrap();
        number(&slabs, addr);
        // SAFETY: claimed just now.
        unsafe { slabs.free(object) }.unwrap();
    }
    slabs.finish_inherited(|_| Disposition::Free).unwrap();
    // Pages that a call under way had made, and let nothing lead to yet, or no more.
    let (strays, _) = slabs.memory().predecessor().finish(|_| Disposition::Free);
    assert!(strays <= 2 * 9, "{strays}");
    slabs.shrink();
    let audit = slabs.memory().audit().unwrap();
    for kind in [FrameType::Slab, FrameType::Folio, FrameType::Run, FrameType::Buffer] {
        assert_eq!(audit.allocated[kind as usize], 0, "{kind:?}");
    }
    let pages = slabs.view().pages().count() as u64;
    assert_eq!(slabs.memory().preserved().counts().total(), pages);
    // One page of records, and a table for each cache that ever was.
    assert_eq!(pages, 1 + slabs.view().records().count() as u64);
}

/// Writes what looks like records and slabs behind the counts of the cache directory's pages.
fn litter(slabs: &Slabs<Ram>) {
    for page in slabs.view().pages() {
        let words = slabs.view().source().words(page, PAGE_SIZE).unwrap();
        let count = words[1].load(Relaxed) as usize;
        let entry = if page == slabs.cache_directory() { 16 } else { 1 };
        for at in 2 + count * entry..words.len() {
            let like = words[2 + (at - 2) % (count.max(1) * entry)].load(Relaxed);
            words[at].store(like, Relaxed);
        }
    }
}

/// What the first kernel leaves: it lived like any other.
fn founder(ids: &Cell<u64>, dice: u64) -> World {
    let slabs = Slabs::new(Ram::memory(&Ram::frames(FRAMES)).unwrap()).unwrap();
    live(&slabs, ids, dice, |_, _| ());
    let next = stop(&slabs).revive();
    live(&next, ids, dice + 7, |_, _| ());
    litter(&next);
    stop(&next)
}

#[test]
fn a_successor_may_end_at_any_store_and_the_next_one_finds_it_all() {
    let mut stores = 0;
    // Eight states of a slab that is adopted are one store: so many lives.
    for dice in [3, 17, 1_000_003, 55_555, 987_654_321, 424_243].into_iter().chain(50..60) {
        let ids = Cell::new(0);
        let slabs = founder(&ids, dice).revive();
        stores += live(&slabs, &ids, dice + 1, |at, promise| {
            let world = stop(&slabs);
            match at % 3 {
                0 => settle(world, promise),
                _ => promise.check(&found(&world.revive())),
            }
        });
    }
    assert!(stores > 1000, "{stores} stores");
}

#[test]
fn so_may_the_one_that_starts_then() {
    let mut stops = 0_u64;
    for dice in [99, 31_337, 8_191].into_iter().chain(20..25) {
        let ids = Cell::new(0);
        let slabs = founder(&ids, dice).revive();
        live(&slabs, &ids, dice + 1, |at, promise| {
            if at % 6 != 5 {
                return;
            }
            let next = stop(&slabs).revive();
            promise.check(&found(&next));
            live(&next, &ids, at + 1, |then, promise| {
                if then % 4 == at % 4 {
                    stops += 1;
                    settle(stop(&next), promise);
                }
            });
        });
    }
    assert!(stops > 800, "{stops} stops");
}

#[test]
fn chains_of_successors_that_all_end_lose_nothing_and_leave_nothing_behind() {
    for chain in 0..24_u64 {
        let ids = Cell::new(0);
        let mut left = (founder(&ids, chain * 11 + 5), None::<Promise>);
        for kernel in 0..8 {
            let (world, promise) = left;
            let slabs = world.revive();
            if let Some(promise) = promise {
                promise.check(&found(&slabs));
            }
            let seed = (chain * 8 + kernel + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let end = (seed >> 33) % 450;
            let mut ended = None;
            live(&slabs, &ids, seed, |at, promise| {
                if at <= end {
                    // The last one that comes is where it ends.
                    if at == end || at % 64 == 0 {
                        ended = Some((stop(&slabs), Some(promise.clone())));
                    }
                }
            });
            left = ended.unwrap();
        }
        let (world, promise) = left;
        settle(world, &promise.unwrap());
    }
}
