//! Magazines: what makes the common path touch nothing shared (Bonwick and Adams 2001).
//!
//! Each CPU has, for each cache, two stacks of free objects, called magazines. It
//! allocates from and frees to the loaded one, and exchanges it with the previous one when it runs
//! empty or full; only when both are does it turn to the cache's depot. So a CPU does at least a
//! magazine's worth of allocations between two visits to anything shared.
//!
//! ```text
//! Slot of a CPU:   loaded ──> |#######    |     previous ──> |###########| or |           |
//! ```
//!
//! A slot is touched inside [`Cpus::pinned`](heirloom_folio::Cpus::pinned) alone, for moments: a
//! magazine is filled and emptied by whoever detached it.

use core::ptr::{NonNull, null_mut};
use core::sync::atomic::{AtomicPtr, AtomicU8, AtomicUsize, Ordering::Relaxed};

/// Objects in the largest magazine.
pub(crate) const MOST: usize = 128;

/// How many objects of `stride` bytes a magazine holds: 2 to 128, a power of two, so that they
/// come to at most 64 KiB where that can be.
pub(crate) const fn capacity(stride: u32) -> usize {
    match stride {
        0..=512 => MOST,
        513..=1024 => 64,
        1025..=2048 => 32,
        2049..=4096 => 16,
        4097..=8192 => 8,
        8193..=16384 => 4,
        _ => 2,
    }
}

/// A free object: where it is, and where its state byte is, so that handing it out takes no look
/// at its slab.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Round {
    pub(crate) object: NonNull<u8>,
    pub(crate) state: NonNull<AtomicU8>,
}

/// Where a magazine keeps a round.
#[derive(Debug)]
pub(crate) struct Chamber {
    object: AtomicPtr<u8>,
    state: AtomicPtr<AtomicU8>,
}

impl Chamber {
    pub(crate) const fn new() -> Self {
        Self { object: AtomicPtr::new(null_mut()), state: AtomicPtr::new(null_mut()) }
    }

    #[inline]
    fn put(&self, round: Round) {
        self.object.store(round.object.as_ptr(), Relaxed);
        self.state.store(round.state.as_ptr(), Relaxed);
    }

    /// The round that was put here; `None` if none ever was.
    #[inline]
    fn get(&self) -> Option<Round> {
        let object = NonNull::new(self.object.load(Relaxed))?;
        let state = self.state.load(Relaxed);
        // SAFETY: `put` stores both, of which the object's is not null.
        Some(Round { object, state: unsafe { NonNull::new_unchecked(state) } })
    }

    /// The link of an empty magazine that is put aside.
    pub(crate) fn next(&self) -> Option<NonNull<Self>> {
        NonNull::new(self.object.load(Relaxed).cast())
    }

    /// Sets the link.
    pub(crate) fn set_next(&self, next: Option<NonNull<Self>>) {
        self.object.store(next.map_or(null_mut(), NonNull::as_ptr).cast(), Relaxed);
    }
}

/// A stack of free objects, in nobody's slot: whoever has it owns it.
#[derive(Debug)]
pub(crate) struct Magazine {
    chambers: NonNull<Chamber>,
    count: usize,
    capacity: usize,
}

// SAFETY: the pointer is to memory of the instance that the owner of the value owns.
unsafe impl Send for Magazine {}

impl Magazine {
    /// An empty magazine of the chambers there.
    ///
    /// # Safety
    /// There are `capacity` chambers, nothing else uses them, and they live as long as the
    /// instance.
    pub(crate) const unsafe fn new(chambers: NonNull<Chamber>, capacity: usize) -> Self {
        Self { chambers, count: 0, capacity }
    }

    pub(crate) const fn count(&self) -> usize {
        self.count
    }

    pub(crate) const fn is_full(&self) -> bool {
        self.count == self.capacity
    }

    /// How many more objects fit.
    pub(crate) const fn room(&self) -> usize {
        self.capacity - self.count
    }

    /// Adds an object: whether there was room.
    #[inline]
    pub(crate) fn push(&mut self, round: Round) -> bool {
        if self.is_full() {
            return false;
        }
        // SAFETY: `count` is below the capacity that `new` was promised.
        unsafe { self.chambers.add(self.count).as_ref() }.put(round);
        self.count += 1;
        true
    }

    /// Takes the object that was added last.
    #[inline]
    pub(crate) fn pop(&mut self) -> Option<Round> {
        self.count = self.count.checked_sub(1)?;
        // SAFETY: `count` is below the capacity that `new` was promised.
        unsafe { self.chambers.add(self.count).as_ref() }.get()
    }

    /// The chambers, for an empty magazine that is put aside.
    pub(crate) const fn into_chambers(self) -> NonNull<Chamber> {
        self.chambers
    }
}

/// One CPU's two magazines.
///
/// All fields are atomics, loaded and stored plainly: the CPU's own closures exclude each other,
/// and others read the counts for statistics.
pub(crate) struct Slot {
    loaded: AtomicPtr<Chamber>,
    count: AtomicUsize,
    /// The capacity of the loaded magazine; 0 if none is.
    capacity: AtomicUsize,
    previous: AtomicPtr<Chamber>,
    previous_count: AtomicUsize,
}

impl Slot {
    pub(crate) const fn new() -> Self {
        Self {
            loaded: AtomicPtr::new(null_mut()),
            count: AtomicUsize::new(0),
            capacity: AtomicUsize::new(0),
            previous: AtomicPtr::new(null_mut()),
            previous_count: AtomicUsize::new(0),
        }
    }

    /// Objects in the two magazines; exact while the CPU does nothing.
    pub(crate) fn cached(&self) -> usize {
        self.count.load(Relaxed) + self.previous_count.load(Relaxed)
    }

    /// Takes an object from the loaded magazine.
    ///
    /// # Safety
    /// Runs inside `pinned` or `idle` for this slot's CPU.
    #[inline]
    pub(crate) unsafe fn pop(&self) -> Option<Round> {
        let top = self.count.load(Relaxed).checked_sub(1)?;
        self.count.store(top, Relaxed);
        // SAFETY: a loaded magazine has a chamber for all it counts.
        unsafe { &*self.loaded.load(Relaxed).add(top) }.get()
    }

    /// Adds an object to the loaded magazine: whether there was room.
    ///
    /// # Safety
    /// As for [`Slot::pop`].
    #[inline]
    pub(crate) unsafe fn push(&self, round: Round) -> bool {
        let count = self.count.load(Relaxed);
        if count >= self.capacity.load(Relaxed) {
            return false;
        }
        // SAFETY: `count` is below the capacity of the loaded magazine.
        unsafe { &*self.loaded.load(Relaxed).add(count) }.put(round);
        self.count.store(count + 1, Relaxed);
        true
    }

    /// After `pop` found nothing: an object from the previous magazine, or an empty magazine to
    /// fill, if there is one.
    ///
    /// # Safety
    /// As for [`Slot::pop`].
    pub(crate) unsafe fn pop_or_detach(&self, capacity: usize) -> Popped {
        if self.previous_count.load(Relaxed) > 0 {
            self.exchange(capacity);
            // SAFETY: the same contract.
            if let Some(round) = unsafe { self.pop() } {
                return Popped::Object(round);
            }
        }
        let empty = self.detach_previous(capacity).or_else(|| self.detach_loaded(capacity));
        Popped::Nothing(empty)
    }

    /// After `push` found no room: whether the object went to the previous magazine. If not, both
    /// were full (or missing): the one returned, if any, is to be emptied, and nothing is loaded.
    ///
    /// # Safety
    /// As for [`Slot::pop`].
    pub(crate) unsafe fn push_or_detach(&self, round: Round, capacity: usize) -> Pushed {
        if !self.previous.load(Relaxed).is_null() && self.previous_count.load(Relaxed) < capacity {
            self.exchange(capacity);
            // SAFETY: the same contract.
            if unsafe { self.push(round) } {
                return Pushed::Done;
            }
        }
        let full = self.detach_previous(capacity);
        // What was loaded becomes the previous one; nothing is loaded now.
        self.exchange(capacity);
        Pushed::Full(full)
    }

    /// Puts a magazine in. Returns the one that had to make way, if any.
    ///
    /// # Safety
    /// As for [`Slot::pop`].
    pub(crate) unsafe fn install(&self, magazine: Magazine) -> Option<Magazine> {
        let capacity = magazine.capacity;
        if self.count.load(Relaxed) == 0 || self.loaded.load(Relaxed).is_null() {
            let old = self.detach_loaded(capacity);
            self.load(&magazine);
            match old {
                Some(old) if self.previous.load(Relaxed).is_null() => {
                    self.set_previous(&old);
                    None
                }
                old => old,
            }
        } else if self.previous_count.load(Relaxed) == 0 {
            let old = self.detach_previous(capacity);
            self.set_previous(&magazine);
            old
        } else {
            Some(magazine)
        }
    }

    /// Takes both magazines out.
    ///
    /// # Safety
    /// As for [`Slot::pop`].
    pub(crate) unsafe fn detach(&self, capacity: usize) -> [Option<Magazine>; 2] {
        [self.detach_loaded(capacity), self.detach_previous(capacity)]
    }

    fn exchange(&self, capacity: usize) {
        let (loaded, previous) = (self.detach_loaded(capacity), self.detach_previous(capacity));
        if let Some(magazine) = previous {
            self.load(&magazine);
        }
        if let Some(magazine) = loaded {
            self.set_previous(&magazine);
        }
    }

    fn load(&self, magazine: &Magazine) {
        self.loaded.store(magazine.chambers.as_ptr(), Relaxed);
        self.count.store(magazine.count, Relaxed);
        self.capacity.store(magazine.capacity, Relaxed);
    }

    fn set_previous(&self, magazine: &Magazine) {
        self.previous.store(magazine.chambers.as_ptr(), Relaxed);
        self.previous_count.store(magazine.count, Relaxed);
    }

    fn detach_loaded(&self, capacity: usize) -> Option<Magazine> {
        let chambers = NonNull::new(self.loaded.load(Relaxed))?;
        let count = self.count.load(Relaxed);
        self.loaded.store(null_mut(), Relaxed);
        self.count.store(0, Relaxed);
        self.capacity.store(0, Relaxed);
        Some(Magazine { chambers, count, capacity })
    }

    fn detach_previous(&self, capacity: usize) -> Option<Magazine> {
        let chambers = NonNull::new(self.previous.load(Relaxed))?;
        let count = self.previous_count.load(Relaxed);
        self.previous.store(null_mut(), Relaxed);
        self.previous_count.store(0, Relaxed);
        Some(Magazine { chambers, count, capacity })
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
            assert!(matches!(slot.pop_or_detach(CAPACITY), Popped::Nothing(None)));
            assert!(slot.install(o.magazine(10, 4)).is_none());
            assert!(slot.install(o.magazine(0, 0)).is_none());
            // Full and empty: four frees and eight allocations from here.
            for n in 20..24 {
                let round = o.at(n);
                let pushed = slot.push(round)
                    || matches!(slot.push_or_detach(round, CAPACITY), Pushed::Done);
                assert!(pushed);
            }
            assert_eq!(slot.cached(), 8);
            let Pushed::Full(full) = slot.push_or_detach(o.at(9), CAPACITY) else {
                panic!("both are full")
            };
            assert!(full.unwrap().is_full());
            assert_eq!(slot.cached(), 4);
            // The rest is in the previous one; an empty one comes in front.
            assert!(slot.install(o.magazine(0, 0)).is_none());
            let mut seen = Vec::new();
            while let Some(round) = slot.pop().or_else(|| match slot.pop_or_detach(CAPACITY) {
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
            let [loaded, previous] = slot.detach(CAPACITY);
            assert_eq!(loaded.unwrap().pop(), Some(o.at(3)));
            assert_eq!(previous.unwrap().pop(), Some(o.at(7)));
            assert_eq!(slot.cached(), 0);
        }
    }
}
