//! The depot: a cache's stock of full and of empty magazines, under the cache's lock.
//!
//! Full magazines pass from CPUs that mostly free to CPUs that mostly allocate without their
//! objects being looked at. There are few: beyond a limit, objects go back to their slabs, so that
//! slabs can become empty.

use core::ptr::NonNull;

use heirloom_folio::{FrameType, Machine, Memory, Request};
use heirloom_kho::sync::written;
use heirloom_kho::{Block, Order, PAGE_SIZE};

use crate::magazine::{Chamber, MOST, Magazine};

/// Full magazines that a depot keeps.
const FULL: usize = 16;

/// A stock of magazines, all of one capacity.
pub(crate) struct Depot {
    full: [Option<Magazine>; FULL],
    used: usize,
    /// Empty magazines, each linked to the next.
    empty: Option<NonNull<Chamber>>,
    /// How many of those there are.
    nr_empty: usize,
    capacity: usize,
    /// Magazines that there are, wherever they may be.
    made: usize,
}

/// Returns how many magazines of `capacity` objects a frame has room for.
pub(crate) const fn a_frame_has(capacity: usize) -> usize {
    PAGE_SIZE / size_of::<Chamber>() / capacity
}

// SAFETY: the pointers are to memory of the instance that the depot owns.
unsafe impl Send for Depot {}

impl Depot {
    pub(crate) const fn new(capacity: usize) -> Self {
        Self { full: [const { None }; FULL], used: 0, empty: None, nr_empty: 0, capacity, made: 0 }
    }

    /// Returns how many objects are in the full magazines.
    pub(crate) const fn cached(&self) -> usize {
        self.used * self.capacity
    }

    /// Returns how many magazines it has, full and empty.
    pub(crate) const fn here(&self) -> usize {
        self.nr_empty + self.used
    }

    /// Takes a full magazine.
    pub(crate) fn pop_full(&mut self) -> Option<Magazine> {
        let top = self.used.checked_sub(1)?;
        let magazine = self.full.get_mut(top)?.take()?;
        self.used = top;
        Some(magazine)
    }

    /// Keeps a full magazine, or gives it back if there are enough.
    pub(crate) fn push_full(&mut self, magazine: Magazine) -> Result<(), Magazine> {
        match self.full.get_mut(self.used) {
            Some(place) if magazine.is_full() => {
                *place = Some(magazine);
                self.used += 1;
                Ok(())
            }
            _ => Err(magazine),
        }
    }

    /// Returns whether a full magazine would be kept.
    pub(crate) const fn has_room(&self) -> bool {
        self.used < FULL
    }

    /// Keeps an empty magazine.
    pub(crate) fn push_empty(&mut self, magazine: Magazine) {
        debug_assert_eq!(magazine.count(), 0);
        let chambers = magazine.into_chambers();
        // SAFETY: the magazine's chambers, one at least, are the depot's now.
        unsafe { chambers.as_ref() }.set_next(self.empty);
        self.empty = Some(chambers);
        self.nr_empty += 1;
    }

    /// Takes an empty magazine: one of those kept, or from a new frame of `memory`. `None`: out of
    /// memory.
    pub(crate) fn pop_empty<M: Machine>(&mut self, memory: &Memory<M>) -> Option<Magazine> {
        if self.empty.is_none() {
            self.carve(memory);
        }
        let chambers = self.empty?;
        // SAFETY: the chambers of a magazine that is kept are the depot's, and the caller that gets
        // them is their only owner from here on.
        unsafe {
            self.empty = chambers.as_ref().next();
            self.nr_empty -= 1;
            Some(Magazine::new(chambers, self.capacity))
        }
    }

    /// Makes empty magazines out of a frame.
    #[cold]
    fn carve<M: Machine>(&mut self, memory: &Memory<M>) {
        const { assert!(MOST * size_of::<Chamber>() <= PAGE_SIZE) };
        let request = Request::new(Order::ZERO).frame_type(FrameType::Table);
        let Ok(block) = memory.alloc(request) else { return };
        let frame = memory.machine().ptr(block.addr()).cast::<Chamber>();
        let each = self.capacity;
        for i in 0..a_frame_has(each) {
            // SAFETY: the frame is the depot's for good and has room for this many; a frame's
            // pointer is aligned for chambers.
            unsafe {
                let first = frame.add(i * each);
                (0..each).for_each(|n| first.add(n).write(Chamber::new()));
                written(first.cast(), each * size_of::<Chamber>());
                self.push_empty(Magazine::new(first, each));
            }
            self.made += 1;
        }
    }

    /// Gives the frames of all magazines back, if all are here, and empty.
    pub(crate) fn give_back<M: Machine>(&mut self, memory: &Memory<M>) {
        let links = || {
            core::iter::successors(self.empty, |chambers| {
                // SAFETY: the chambers of a magazine that is kept are the depot's.
                unsafe { chambers.as_ref() }.next()
            })
        };
        debug_assert_eq!(links().count(), self.nr_empty);
        if self.nr_empty != self.made {
            return;
        }
        let mut frames = None;
        let mut next = self.empty.take();
        self.nr_empty = 0;
        while let Some(chambers) = next {
            // SAFETY: as above.
            let link = unsafe { chambers.as_ref() };
            next = link.next();
            // The first of its frame stands for all of them.
            if chambers.addr().get().is_multiple_of(PAGE_SIZE) {
                link.set_next(frames);
                frames = Some(chambers);
            }
        }
        while let Some(frame) = frames {
            // SAFETY: as above; no frame that is still linked is free.
            frames = unsafe { frame.as_ref() }.next();
            let at = memory
                .machine()
                .phys(frame.cast())
                .map(|addr| Block::containing(addr.pfn(), Order::ZERO));
            // SAFETY: from `carve`, and nothing leads to it any more.
            let freed = at.map(|block| unsafe { memory.free_as(block, FrameType::Table) });
            debug_assert!(
                matches!(freed, Some(Ok(()))),
                "a frame of our own is free to go: {freed:?}"
            );
        }
        self.made = 0;
    }
}

#[cfg(test)]
mod tests {
    use std::boxed::Box;

    use heirloom_folio::harness::Ram;
    use heirloom_kho::sync::AtomicU8;

    use super::*;
    use crate::magazine::Round;

    fn some_round() -> Round {
        let byte = NonNull::from(Box::leak(Box::new(AtomicU8::new(0))));
        Round { object: byte.cast(), state: byte }
    }

    #[test]
    fn magazines_come_back_and_cost_one_frame_for_many() {
        let memory = Ram::memory(&Ram::frames(64)).unwrap();
        let mut depot = Depot::new(128);
        let round = some_round();
        let mut first = depot.pop_empty(&memory).unwrap();
        for _ in 1..PAGE_SIZE / (128 * size_of::<Chamber>()) {
            assert!(depot.pop_empty(&memory).is_some());
        }
        assert_eq!(memory.stats().used(), 1);
        while first.push(round) {}
        depot.push_full(first).unwrap();
        assert_eq!(depot.cached(), 128);
        assert!(depot.pop_full().unwrap().is_full());
        assert!(depot.pop_full().is_none());
    }

    #[test]
    fn full_magazines_are_few_and_half_full_ones_none() {
        let memory = Ram::memory(&Ram::frames(64)).unwrap();
        let mut depot = Depot::new(8);
        let round = some_round();
        for _ in 0..FULL {
            let mut magazine = depot.pop_empty(&memory).unwrap();
            while magazine.push(round) {}
            assert!(depot.push_full(magazine).is_ok());
        }
        assert!(!depot.has_room());
        let mut magazine = depot.pop_empty(&memory).unwrap();
        magazine.push(round);
        depot.pop_full();
        assert_eq!(depot.push_full(magazine).unwrap_err().count(), 1);
    }

    #[test]
    fn without_memory_there_is_no_magazine() {
        let memory = Ram::memory(&Ram::frames(1)).unwrap();
        let mut depot = Depot::new(8);
        let taken = memory.alloc(Request::new(Order::ZERO)).unwrap();
        assert!(depot.pop_empty(&memory).is_none());
        // SAFETY: allocated above, used by nothing else.
        unsafe { memory.free(taken) }.unwrap();
        assert!(depot.pop_empty(&memory).is_some());
    }
}
