//! The slabs of a cache, by how full they are: where magazines are filled and emptied.
//!
//! ```text
//! partial   some objects free: taken from first
//! empty     all objects free: taken from next, and given back when there are many
//! full      none free
//! ```
//!
//! All of it under the cache's lock. Objects leave a slab up to 64 at a time, a word of free bits.

mod batch;
mod objects;

use core::ptr::null;

pub(crate) use batch::Batch;
use heirloom_folio::DirectMap;
use heirloom_kho::narrow::u32_to_usize;
use heirloom_kho::sync::Ordering::Relaxed;
use intrusive_collections::LinkedList;
pub(crate) use objects::prefetch_slabs;
use objects::{FreeBatch, slab_around, take};

use crate::geometry::Geometry;
use crate::header::{Links, Slab, SlabHeader};
use crate::magazine::{Magazine, Round};

/// The slabs of a cache.
pub(crate) struct Lists {
    partial: LinkedList<Links>,
    full: LinkedList<Links>,
    empty: LinkedList<Links>,
    nr_empty: usize,
    /// How many objects are free in all slabs together.
    nr_free: usize,
    /// Where a pass over all slabs is, that goes on when the lock is held again.
    pass: Pass,
}

/// A place in the lists: the slab that is next, or the end of one of them.
struct Pass {
    list: Which,
    next: *const SlabHeader,
}

/// One of the lists.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Which {
    Partial,
    Full,
    Empty,
}

// SAFETY: the lists lead to slabs of the instance, which belong to no thread.
unsafe impl Send for Lists {}

impl Lists {
    pub(crate) const fn new() -> Self {
        Self {
            partial: LinkedList::new(Links::NEW),
            full: LinkedList::new(Links::NEW),
            empty: LinkedList::new(Links::NEW),
            nr_empty: 0,
            nr_free: 0,
            pass: Pass { list: Which::Empty, next: null() },
        }
    }

    /// Returns whether there are no slabs.
    pub(crate) fn is_empty(&self) -> bool {
        self.partial.is_empty() && self.full.is_empty() && self.empty.is_empty()
    }

    /// Returns how many slabs are empty.
    pub(crate) const fn nr_empty(&self) -> usize {
        self.nr_empty
    }

    /// Returns how many objects are free in the slabs.
    pub(crate) const fn nr_free(&self) -> usize {
        self.nr_free
    }

    /// Adds a slab that is in no list.
    pub(crate) fn add(&mut self, geometry: &Geometry, slab: Slab) {
        let free = slab.header().free.load(Relaxed);
        self.list(which(geometry, free)).push_front(slab.link());
        self.nr_empty += usize::from(free == geometry.objects);
        self.nr_free += u32_to_usize(free);
    }

    /// Takes an empty slab out, if there are more than `keep`.
    pub(crate) fn take_empty(&mut self, map: &impl DirectMap, keep: usize) -> Option<Slab> {
        if self.nr_empty <= keep {
            return None;
        }
        let head = self.empty.pop_back()?;
        // Nothing is behind the last one.
        if core::ptr::eq(self.pass.next, &raw const *head) {
            self.pass.next = null();
        }
        self.nr_empty -= 1;
        self.nr_free = self.nr_free.saturating_sub(u32_to_usize(head.free.load(Relaxed)));
        Slab::of(map, &head)
    }

    /// Moves free objects into `magazine` until it is full or none are left. Returns how many.
    pub(crate) fn fill(
        &mut self,
        map: &impl DirectMap,
        geometry: &Geometry,
        magazine: &mut Magazine,
    ) -> usize {
        let before = magazine.count();
        while magazine.room() > 0 {
            // Slabs in use first: an empty one can be given back as long as nothing is taken from it.
            let front = self.partial.front().get().or_else(|| self.empty.front().get());
            let Some(slab) = front.and_then(|head| Slab::of(map, head)) else { break };
            let free = slab.header().free.load(Relaxed);
            let taken = take(slab, geometry, magazine);
            self.update_free_count(geometry, slab, free, free.saturating_sub(taken));
            if taken == 0 {
                break;
            }
        }
        magazine.count() - before
    }

    /// Puts the objects of `magazine` back into their slabs.
    pub(crate) fn empty_out(
        &mut self,
        map: &impl DirectMap,
        geometry: &Geometry,
        magazine: &mut Magazine,
    ) {
        let mut at: Option<FreeBatch> = None;
        while let Some(round) = magazine.pop() {
            // Neighbours go back together, a word of them at once.
            let same = at.as_mut().and_then(|at| Some((at.slab.holds(geometry, round)?, at)));
            if let Some((index, at)) = same {
                at.add(geometry, index);
                continue;
            }
            let Some(slab) = slab_around(map, geometry, round) else { continue };
            if let Some(index) = slab.holds(geometry, round) {
                let next = FreeBatch::of(slab, index);
                self.return_objects(geometry, at.replace(next));
            }
        }
        self.return_objects(geometry, at);
    }

    /// Puts one object back into its slab.
    pub(crate) fn put_one(&mut self, map: &impl DirectMap, geometry: &Geometry, round: Round) {
        let Some(slab) = slab_around(map, geometry, round) else { return };
        if let Some(index) = slab.holds(geometry, round) {
            let back = FreeBatch::of(slab, index);
            self.return_objects(geometry, Some(back));
        }
    }

    /// Begins a pass over all slabs, and forgets one that was under way.
    pub(crate) fn begin_pass(&mut self) {
        self.pass = self.before_the_first_of(Which::Partial);
    }

    /// Returns the next slab of the pass. Between two calls others may take, bring and add what
    /// they like: a slab that changes lists meanwhile may be passed twice or not at all.
    pub(crate) fn next_of_pass(&mut self, map: &impl DirectMap) -> Option<Slab> {
        while self.pass.next.is_null() {
            let list = match self.pass.list {
                Which::Partial => Which::Full,
                Which::Full => Which::Empty,
                Which::Empty => return None,
            };
            self.pass = self.before_the_first_of(list);
        }
        let this = self.pass.next;
        // SAFETY: the slab is in this list: one that leaves it moves the pass on.
        let cursor = unsafe { self.list(self.pass.list).cursor_from_ptr(this) };
        let slab = cursor.get().and_then(|head| Slab::of(map, head));
        self.pass.next = cursor.peek_next().get().map_or(null(), core::ptr::from_ref);
        slab
    }

    /// Returns a pass that stands before the first slab of a list.
    fn before_the_first_of(&mut self, list: Which) -> Pass {
        let next = self.list(list).front().get().map_or(null(), core::ptr::from_ref);
        Pass { list, next }
    }

    /// Notes what came back to a slab.
    #[inline]
    fn return_objects(&mut self, geometry: &Geometry, back: Option<FreeBatch>) {
        if let Some(mut back) = back {
            back.put(geometry);
            let free = back.slab.header().free.load(Relaxed);
            self.update_free_count(geometry, back.slab, free, free + back.objects);
        }
    }

    /// Notes that `slab` has `after` free objects where it had `before`.
    fn update_free_count(&mut self, geometry: &Geometry, slab: Slab, before: u32, after: u32) {
        slab.header().free.store(after, Relaxed);
        let free = self.nr_free + u32_to_usize(after);
        self.nr_free = free.saturating_sub(u32_to_usize(before));
        let all = geometry.objects;
        let place = |free| (free == 0, free == all);
        if place(before) != place(after) {
            self.relist(geometry, slab, before, after);
        }
    }

    /// Moves a slab to the list that it belongs in by now.
    #[inline(never)]
    fn relist(&mut self, geometry: &Geometry, slab: Slab, before: u32, after: u32) {
        let all = geometry.objects;
        self.nr_empty -= usize::from(before == all);
        self.nr_empty += usize::from(after == all);
        let (head, next) = (core::ptr::from_ref(slab.header()), self.pass.next);
        let from = self.list(which(geometry, before));
        // SAFETY: a slab with `before` free objects is in this list.
        let mut cursor = unsafe { from.cursor_mut_from_ptr(head) };
        let link = cursor.remove();
        if core::ptr::eq(next, head) {
            let behind = cursor.get().map_or(null(), core::ptr::from_ref);
            self.pass.next = behind;
        }
        if let Some(link) = link {
            self.list(which(geometry, after)).push_front(link);
        }
    }

    const fn list(&mut self, list: Which) -> &mut LinkedList<Links> {
        match list {
            Which::Partial => &mut self.partial,
            Which::Full => &mut self.full,
            Which::Empty => &mut self.empty,
        }
    }
}

/// Returns the list for slabs with `free` free objects.
const fn which(geometry: &Geometry, free: u32) -> Which {
    match free {
        0 => Which::Full,
        _ if free == geometry.objects => Which::Empty,
        _ => Which::Partial,
    }
}

#[cfg(test)]
mod tests {
    use core::ptr::NonNull;
    use std::vec::Vec;

    use heirloom_folio::harness::Ram;
    use heirloom_folio::{FrameType, Memory, Request};

    use super::*;
    use crate::geometry::ObjectIndex;
    use crate::header::SlabDesc;
    use crate::magazine::Chamber;
    use crate::name::Name;

    fn magazine(capacity: usize) -> Magazine {
        let chambers = (0..capacity).map(|_| Chamber::new()).collect::<Vec<_>>().leak();
        // SAFETY: leaked, of that length, and used through this magazine alone.
        unsafe { Magazine::new(NonNull::from(chambers).cast(), capacity) }
    }

    fn slab(memory: &Memory<Ram>, geometry: &Geometry) -> Slab {
        let block =
            memory.alloc(Request::new(geometry.order).frame_type(FrameType::Table)).unwrap();
        // SAFETY: allocated just now.
        let slab = unsafe { Slab::at(memory.machine(), block.addr()) };
        let desc = SlabDesc::new(Name::new("test").unwrap(), geometry, false, 0);
        // SAFETY: as above.
        unsafe { slab.build(geometry, desc, 0) };
        slab
    }

    /// Returns how many slabs a pass finds.
    fn slabs(lists: &mut Lists, map: &Ram) -> usize {
        lists.begin_pass();
        core::iter::from_fn(|| lists.next_of_pass(map)).count()
    }

    #[test]
    fn a_pass_goes_on_where_slabs_come_and_go() {
        let memory = Ram::memory(&Ram::frames(1024)).unwrap();
        let geometry = Geometry::choose(100, 4, false).unwrap();
        let map = memory.machine();
        let mut lists = Lists::new();
        let all: Vec<_> = (0..8).map(|_| slab(&memory, &geometry)).collect();
        for slab in &all {
            lists.add(&geometry, *slab);
        }
        lists.begin_pass();
        let first = lists.next_of_pass(map).unwrap();
        // The one that comes next becomes full, and is then behind the pass's list; the last goes.
        let next = all[all.iter().position(|slab| slab.phys() == first.phys()).unwrap() - 1];
        let mut taken = magazine(geometry.objects as usize);
        while taken.room() > 0 {
            taken.push(next.round(&geometry, ObjectIndex::new(taken.count() as u32)));
        }
        next.words(&geometry).iter().for_each(|word| word.store(0, Relaxed));
        lists.update_free_count(&geometry, next, geometry.objects, 0);
        let gone = lists.take_empty(map, 0).unwrap();
        let mut seen: Vec<_> = core::iter::from_fn(|| lists.next_of_pass(map)).collect();
        seen.push(first);
        let mut seen: Vec<_> = seen.iter().map(|slab| slab.phys()).collect();
        seen.sort();
        seen.dedup();
        // All but the one that moved to a list that the pass had been through, and the one that went.
        assert_eq!(seen.len(), 6);
        assert!(!seen.contains(&gone.phys()) && !seen.contains(&next.phys()));
        assert!(lists.next_of_pass(map).is_none());
        assert_eq!(slabs(&mut lists, map), 7);
        lists.empty_out(map, &geometry, &mut taken);
        assert_eq!((slabs(&mut lists, map), lists.nr_empty()), (7, 7));
        assert_eq!(lists.nr_free(), 7 * geometry.objects as usize);
        // The last one of all goes while the pass is before it.
        lists.begin_pass();
        while lists.take_empty(map, 0).is_some() {}
        assert!(lists.next_of_pass(map).is_none());
        assert_eq!(lists.nr_free(), 0);
    }

    #[test]
    fn every_object_is_taken_once_in_address_order_and_put_back() {
        let memory = Ram::memory(&Ram::frames(256)).unwrap();
        let geometry = Geometry::choose(100, 4, false).unwrap();
        let mut lists = Lists::new();
        lists.add(&geometry, slab(&memory, &geometry));
        lists.add(&geometry, slab(&memory, &geometry));
        let map = memory.machine();
        assert_eq!((slabs(&mut lists, map), lists.nr_empty()), (2, 2));
        let mut taken = Vec::new();
        let mut in_order = 0;
        loop {
            let mut magazine = magazine(64);
            let count = lists.fill(map, &geometry, &mut magazine);
            assert_eq!(count, magazine.count());
            if count == 0 {
                break;
            }
            let first = taken.len();
            taken.extend(core::iter::from_fn(|| magazine.pop()));
            let word = taken[first..].iter().map(|round: &Round| round.object);
            in_order += usize::from(count == 64 && word.is_sorted());
        }
        // All but the last of a slab and what follows it.
        assert!(
            in_order >= geometry.objects as usize / 64,
            "{in_order} whole words in address order"
        );
        assert_eq!(lists.nr_empty(), 0);
        assert_eq!(taken.len(), 2 * geometry.objects as usize);
        let mut sorted: Vec<_> = taken.iter().map(|round| round.object).collect();
        sorted.sort();
        sorted.dedup();
        assert_eq!(sorted.len(), taken.len());
        let (one, rest) = taken.split_first().unwrap();
        assert_eq!(lists.nr_free(), 0);
        lists.put_one(map, &geometry, *one);
        assert_eq!(lists.nr_free(), 1);
        for some in rest.chunks(50) {
            let mut magazine = magazine(50);
            assert!(some.iter().all(|round| magazine.push(*round)));
            lists.empty_out(map, &geometry, &mut magazine);
            assert_eq!(magazine.count(), 0);
        }
        assert_eq!(lists.nr_empty(), 2);
        assert!(lists.take_empty(map, 1).is_some());
        assert!(lists.take_empty(map, 1).is_none());
        assert_eq!((slabs(&mut lists, map), lists.nr_empty()), (1, 1));
    }
}
