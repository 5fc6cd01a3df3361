//! The depot: a cache's stock of full and of empty magazines, under the cache's lock.
//!
//! Full magazines pass from CPUs that mostly free to CPUs that mostly allocate without their
//! objects being looked at. There are few: beyond a limit, objects go back to their slabs, so that
//! slabs can become empty.

use core::ptr::NonNull;
use core::sync::atomic::AtomicU64;

use heirloom_folio::{Kind, Machine, Memory, Order, PAGE_SIZE, Request};

use crate::magazine::Magazine;

/// Full magazines that a depot keeps.
const FULL: usize = 16;

/// A stock of magazines, all of one capacity.
pub(crate) struct Depot {
    full: [Option<Magazine>; FULL],
    used: usize,
    /// Empty magazines; the memory of each starts with the address of the next.
    empty: Option<NonNull<AtomicU64>>,
    capacity: usize,
}

// SAFETY: the pointers are to memory of the instance that the depot owns.
unsafe impl Send for Depot {}

impl Depot {
    pub(crate) const fn new(capacity: usize) -> Self {
        Self { full: [const { None }; FULL], used: 0, empty: None, capacity }
    }

    /// Objects in the full magazines.
    pub(crate) const fn cached(&self) -> usize {
        self.used * self.capacity
    }

    /// A full magazine.
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

    /// Whether a full magazine would be kept.
    pub(crate) const fn has_room(&self) -> bool {
        self.used < FULL
    }

    /// Keeps an empty magazine.
    pub(crate) fn push_empty(&mut self, magazine: Magazine) {
        debug_assert_eq!(magazine.count(), 0);
        let rounds = magazine.into_rounds();
        // SAFETY: the magazine's memory is the depot's now, a word at least, and a pointer is no
        // larger or more aligned than one.
        unsafe { rounds.cast::<Option<NonNull<AtomicU64>>>().write(self.empty) };
        self.empty = Some(rounds);
    }

    /// An empty magazine: one of those kept, or from a new frame of `memory`. `None`: out of
    /// memory.
    pub(crate) fn pop_empty<M: Machine>(&mut self, memory: &Memory<M>) -> Option<Magazine> {
        if self.empty.is_none() {
            self.carve(memory);
        }
        let rounds = self.empty?;
        // SAFETY: an empty magazine that is kept starts with the pointer to the next; its memory
        // becomes words again here.
        unsafe {
            self.empty = rounds.cast::<Option<NonNull<AtomicU64>>>().read();
            for i in 0..self.capacity {
                rounds.add(i).write(AtomicU64::new(0));
            }
            Some(Magazine::new(rounds, self.capacity))
        }
    }

    /// Makes empty magazines out of a frame.
    #[cold]
    fn carve<M: Machine>(&mut self, memory: &Memory<M>) {
        const { assert!(128 * size_of::<AtomicU64>() <= PAGE_SIZE) };
        let request = Request::new(Order::ZERO).kind(Kind::Table);
        let Ok(block) = memory.alloc(request) else { return };
        let frame = memory.machine().ptr(block.addr()).cast::<AtomicU64>();
        let each = self.capacity;
        for i in 0..PAGE_SIZE / (each * size_of::<AtomicU64>()) {
            // SAFETY: the frame is the depot's for good and has room for this many; a frame's
            // pointer is aligned for words.
            self.push_empty(unsafe { Magazine::new(frame.add(i * each), each) });
        }
    }
}

#[cfg(test)]
mod tests {
    use heirloom_folio::PhysAddr;
    use heirloom_folio::harness::Ram;

    use super::*;

    #[test]
    fn magazines_come_back_and_cost_one_frame_for_many() {
        let memory = Ram::memory(&Ram::frames(64)).unwrap();
        let mut depot = Depot::new(128);
        let mut first = depot.pop_empty(&memory).unwrap();
        for _ in 1..PAGE_SIZE / 1024 {
            assert!(depot.pop_empty(&memory).is_some());
        }
        assert_eq!(memory.stats().used(), 1);
        while first.push(PhysAddr::new(1)) {}
        depot.push_full(first).unwrap();
        assert_eq!(depot.cached(), 128);
        assert!(depot.pop_full().unwrap().is_full());
        assert!(depot.pop_full().is_none());
    }

    #[test]
    fn full_magazines_are_few_and_half_full_ones_none() {
        let memory = Ram::memory(&Ram::frames(64)).unwrap();
        let mut depot = Depot::new(8);
        for _ in 0..FULL {
            let mut magazine = depot.pop_empty(&memory).unwrap();
            while magazine.push(PhysAddr::new(1)) {}
            assert!(depot.push_full(magazine).is_ok());
        }
        assert!(!depot.has_room());
        let mut magazine = depot.pop_empty(&memory).unwrap();
        magazine.push(PhysAddr::new(1));
        depot.pop_full();
        assert_eq!(depot.push_full(magazine).unwrap_err().count(), 1);
    }

    #[test]
    fn without_memory_there_is_no_magazine() {
        let memory = Ram::memory(&Ram::frames(1)).unwrap();
        let mut depot = Depot::new(8);
        let taken = memory.alloc(Request::new(Order::ZERO)).unwrap();
        assert!(depot.pop_empty(&memory).is_none());
        // SAFETY: allocated above, used by nobody.
        unsafe { memory.free(taken, Kind::Folio) }.unwrap();
        assert!(depot.pop_empty(&memory).is_some());
    }
}
