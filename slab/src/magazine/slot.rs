//! A CPU's two magazines of one cache.
//!
//! ```text
//! alloc_magazine ─> |#######    |    free_magazine ─> |####       |
//! ```
//!
//! With one stack for both, an allocation would return what was freed just before it. That object
//! may still be in the nearest cache, but then each step waits for the one before it: the count
//! and the state byte are read as soon as they were written, twice a pair. Two stacks keep these
//! apart by a magazine's worth of objects, which come to no more than 64 KiB.
//!
//! A slot is touched inside [`Cpus::with_cpu`](heirloom_folio::Cpus::with_cpu) alone, for moments: a
//! magazine is filled and emptied by the call that detached it.

use core::ptr::{NonNull, null_mut};

use heirloom_kho::sync::AtomicPtr;
use heirloom_kho::sync::Ordering::Relaxed;

use super::{Chamber, Magazine, Round};

/// One CPU's two magazines.
///
/// All fields are atomics, loaded and stored plainly: the CPU's own closures exclude each other,
/// and others read the counts for statistics.
pub(crate) struct Slot {
    alloc_magazine: Stack,
    free_magazine: Stack,
}

/// A magazine in its slot, or none: then all three are null.
struct Stack {
    /// The chamber that the next object goes to.
    top: AtomicPtr<Chamber>,
    floor: AtomicPtr<Chamber>,
    /// Behind the last chamber.
    end: AtomicPtr<Chamber>,
}

impl Stack {
    const fn new() -> Self {
        let [top, floor, end] = [const { AtomicPtr::new(null_mut()) }; 3];
        Self { top, floor, end }
    }

    fn is_none(&self) -> bool {
        self.floor.load(Relaxed).is_null()
    }

    fn is_empty(&self) -> bool {
        self.count() == 0
    }

    /// Returns how many objects are in it; anything up to the capacity where another CPU changes it
    /// meanwhile.
    fn count(&self) -> usize {
        let [top, floor, end] = [&self.top, &self.floor, &self.end].map(|at| at.load(Relaxed));
        let up_to =
            |at: *mut Chamber| at.addr().saturating_sub(floor.addr()) / size_of::<Chamber>();
        up_to(top).min(up_to(end))
    }

    /// Takes an object out.
    ///
    /// # Safety
    /// Nothing else changes the stack meanwhile.
    #[inline]
    unsafe fn pop(&self) -> Option<Round> {
        let top = self.top.load(Relaxed);
        if top == self.floor.load(Relaxed) {
            return None;
        }
        // SAFETY: above the floor, so the chamber below is one of the magazine's.
        let chamber = unsafe { top.sub(1) };
        self.top.store(chamber, Relaxed);
        // SAFETY: it holds a round, being below the top.
        Some(unsafe { (*chamber).get() })
    }

    /// Puts an object in. Returns whether there was room.
    ///
    /// # Safety
    /// As for [`Stack::pop`].
    #[inline]
    unsafe fn push(&self, round: Round) -> bool {
        let top = self.top.load(Relaxed);
        if top == self.end.load(Relaxed) {
            return false;
        }
        // SAFETY: below the end, so it is one of the magazine's chambers.
        unsafe {
            (*top).put(round);
            self.top.store(top.add(1), Relaxed);
        }
        true
    }

    /// Takes the magazine out.
    fn detach(&self) -> Option<Magazine> {
        let floor = NonNull::new(self.floor.load(Relaxed))?;
        let capacity = self.end.load(Relaxed).addr() - floor.addr().get();
        let magazine = Magazine {
            chambers: floor,
            count: self.count(),
            capacity: capacity / size_of::<Chamber>(),
        };
        for at in [&self.top, &self.floor, &self.end] {
            at.store(null_mut(), Relaxed);
        }
        Some(magazine)
    }

    /// Puts a magazine where there is none.
    fn attach(&self, magazine: &Magazine) {
        debug_assert!(self.is_none());
        let floor = magazine.chambers.as_ptr();
        // SAFETY: both are within the chambers, or just behind them.
        let (top, end) = unsafe { (floor.add(magazine.count), floor.add(magazine.capacity)) };
        self.floor.store(floor, Relaxed);
        self.end.store(end, Relaxed);
        self.top.store(top, Relaxed);
    }
}

impl Slot {
    pub(crate) const fn new() -> Self {
        Self { alloc_magazine: Stack::new(), free_magazine: Stack::new() }
    }

    /// Returns how many objects are in the two magazines; exact while the CPU does nothing.
    pub(crate) fn cached(&self) -> usize {
        self.alloc_magazine.count() + self.free_magazine.count()
    }

    /// Takes an object from the magazine that is taken from.
    ///
    /// # Safety
    /// Runs inside `with_cpu` or `with_offline_cpu` for this slot's CPU.
    #[inline]
    pub(crate) unsafe fn pop(&self) -> Option<Round> {
        // SAFETY: the slot is the CPU's own.
        unsafe { self.alloc_magazine.pop() }
    }

    /// Adds an object to the magazine that is given to. Returns whether there was room.
    ///
    /// # Safety
    /// As for [`Slot::pop`].
    #[inline]
    pub(crate) unsafe fn push(&self, round: Round) -> bool {
        // SAFETY: the slot is the CPU's own.
        unsafe { self.free_magazine.push(round) }
    }

    /// Returns an object from either magazine, or an empty magazine to fill, if there is one.
    ///
    /// # Safety
    /// As for [`Slot::pop`].
    pub(crate) unsafe fn pop_or_detach(&self) -> Popped {
        if self.alloc_magazine.is_empty() {
            self.exchange();
        }
        // SAFETY: the same contract.
        match unsafe { self.pop() } {
            Some(round) => Popped::Object(round),
            None => Popped::Nothing(
                self.alloc_magazine.detach().or_else(|| self.free_magazine.detach()),
            ),
        }
    }

    /// Puts an object into either magazine if there is room. If not, the one returned, if any, is
    /// to be emptied.
    ///
    /// # Safety
    /// As for [`Slot::pop`].
    pub(crate) unsafe fn push_or_detach(&self, round: Round) -> Pushed {
        // SAFETY: the same contract.
        if unsafe { self.push(round) } {
            return Pushed::Done;
        }
        if self.alloc_magazine.is_empty() {
            self.exchange();
        }
        // SAFETY: the same contract.
        if unsafe { self.push(round) } {
            Pushed::Done
        } else {
            Pushed::Full(self.free_magazine.detach())
        }
    }

    /// Puts a magazine in. Returns the one that had to make way, if any.
    ///
    /// # Safety
    /// As for [`Slot::pop`].
    pub(crate) unsafe fn install(&self, magazine: Magazine) -> Option<Magazine> {
        if self.alloc_magazine.is_empty() {
            let old = self.alloc_magazine.detach();
            self.alloc_magazine.attach(&magazine);
            match old {
                Some(old) if self.free_magazine.is_none() => self.free_magazine.attach(&old),
                old => return old,
            }
            None
        } else if self.free_magazine.is_empty() {
            let old = self.free_magazine.detach();
            self.free_magazine.attach(&magazine);
            old
        } else {
            Some(magazine)
        }
    }

    /// Takes both magazines out.
    ///
    /// # Safety
    /// As for [`Slot::pop`].
    pub(crate) unsafe fn detach(&self) -> [Option<Magazine>; 2] {
        [self.alloc_magazine.detach(), self.free_magazine.detach()]
    }

    fn exchange(&self) {
        let (alloc, free) = (self.alloc_magazine.detach(), self.free_magazine.detach());
        if let Some(magazine) = free {
            self.alloc_magazine.attach(&magazine);
        }
        if let Some(magazine) = alloc {
            self.free_magazine.attach(&magazine);
        }
    }
}

/// What [`Slot::pop_or_detach`] came to.
#[derive(Debug)]
pub(crate) enum Popped {
    /// An object.
    Object(Round),
    /// No object; an empty magazine, if the CPU had one.
    Nothing(Option<Magazine>),
}

/// What [`Slot::push_or_detach`] came to.
#[derive(Debug)]
pub(crate) enum Pushed {
    /// The object is in.
    Done,
    /// It is not; a full magazine, if the CPU had two.
    Full(Option<Magazine>),
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use heirloom_kho::sync::AtomicU8;

    use super::*;

    const CAPACITY: usize = 4;

    /// Objects that are told apart by where they are.
    struct Objects(Vec<AtomicU8>);

    impl Objects {
        fn new() -> Self {
            Self((0..32).map(AtomicU8::new).collect())
        }

        fn at(&self, n: u8) -> Round {
            let byte = NonNull::from(&self.0[usize::from(n)]);
            Round { object: byte.cast(), state: byte }
        }

        fn number(round: Round) -> u8 {
            // SAFETY: a byte that outlives the rounds.
            unsafe { round.state.as_ref() }.load(Relaxed)
        }

        fn magazine(&self, first: u8, count: u8) -> Magazine {
            let chambers = (0..CAPACITY).map(|_| Chamber::new()).collect::<Vec<_>>().leak();
            // SAFETY: leaked, of that length, and used through this magazine alone.
            let mut magazine = unsafe { Magazine::new(NonNull::from(chambers).cast(), CAPACITY) };
            for n in first..first + count {
                assert!(magazine.push(self.at(n)));
            }
            magazine
        }
    }

    #[test]
    fn two_magazines_serve_a_capacity_of_operations() {
        let (slot, o) = (Slot::new(), Objects::new());
        // SAFETY: one thread has the slot.
        unsafe {
            assert!(slot.pop().is_none());
            assert!(!slot.push(o.at(1)));
            assert!(matches!(slot.pop_or_detach(), Popped::Nothing(None)));
            assert!(slot.install(o.magazine(10, 4)).is_none());
            assert!(slot.install(o.magazine(0, 0)).is_none());
            // Full and empty: four frees and eight allocations from here.
            for n in 20..24 {
                let round = o.at(n);
                let pushed = slot.push(round) || matches!(slot.push_or_detach(round), Pushed::Done);
                assert!(pushed);
            }
            assert_eq!(slot.cached(), 8);
            let Pushed::Full(full) = slot.push_or_detach(o.at(9)) else { panic!("both are full") };
            assert!(full.unwrap().is_full());
            assert_eq!(slot.cached(), 4);
            // The rest is in the one that is taken from; an empty one comes beside it.
            assert!(slot.install(o.magazine(0, 0)).is_none());
            let mut seen = Vec::new();
            while let Some(round) = slot.pop().or_else(|| match slot.pop_or_detach() {
                Popped::Object(round) => Some(round),
                Popped::Nothing(_) => None,
            }) {
                seen.push(Objects::number(round));
            }
            assert_eq!(seen.len(), 4);
            assert_eq!(slot.cached(), 0);
        }
    }

    #[test]
    fn what_finds_no_place_comes_back() {
        let (slot, o) = (Slot::new(), Objects::new());
        // SAFETY: one thread has the slot.
        unsafe {
            assert!(slot.install(o.magazine(0, 4)).is_none());
            assert!(slot.install(o.magazine(4, 4)).is_none());
            assert_eq!(slot.install(o.magazine(8, 4)).unwrap().count(), 4);
            let [taken, given] = slot.detach();
            assert_eq!(taken.unwrap().pop(), Some(o.at(3)));
            assert_eq!(given.unwrap().pop(), Some(o.at(7)));
            assert_eq!(slot.cached(), 0);
        }
    }
}
