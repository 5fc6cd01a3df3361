//! Magazines: what makes the common path touch nothing shared (Bonwick and Adams 2001).
//!
//! Each CPU has, for each cache, two stacks of free objects, called magazines. It allocates from
//! the one and frees to the other, and exchanges the two when the first runs empty or the second
//! full; only when that does not help does it turn to the cache's depot.

mod slot;

use core::ptr::{NonNull, null_mut};

use heirloom_kho::sync::Ordering::Relaxed;
use heirloom_kho::sync::{AtomicPtr, AtomicU8};
pub(crate) use slot::{Popped, Pushed, Slot};

/// Objects in the largest magazine.
pub(crate) const MOST: usize = 128;

/// Returns how many objects of `stride` bytes a magazine holds: 2 to 128, a power of two, so that
/// they come to at most 64 KiB where that can be.
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

    /// Returns the round that was put here.
    ///
    /// # Safety
    /// One was, since the chamber was new or a link.
    #[inline]
    unsafe fn get(&self) -> Round {
        let (object, state) = (self.object.load(Relaxed), self.state.load(Relaxed));
        // SAFETY: `put` stored both.
        unsafe {
            Round { object: NonNull::new_unchecked(object), state: NonNull::new_unchecked(state) }
        }
    }

    /// Returns the link of an empty magazine that is put aside.
    pub(crate) fn next(&self) -> Option<NonNull<Self>> {
        NonNull::new(self.object.load(Relaxed).cast())
    }

    /// Sets the link.
    pub(crate) fn set_next(&self, next: Option<NonNull<Self>>) {
        self.object.store(next.map_or(null_mut(), NonNull::as_ptr).cast(), Relaxed);
    }
}

/// A stack of free objects, in no CPU's slot: the owner of the value owns them.
#[derive(Debug)]
pub(crate) struct Magazine {
    chambers: NonNull<Chamber>,
    count: usize,
    capacity: usize,
}

// SAFETY: the pointer is to memory of the instance that the owner of the value owns.
unsafe impl Send for Magazine {}

impl Magazine {
    /// Returns an empty magazine of the chambers there.
    ///
    /// # Safety
    /// There are `capacity` chambers, nothing else uses them, and they live as long as the
    /// instance.
    pub(crate) const unsafe fn new(chambers: NonNull<Chamber>, capacity: usize) -> Self {
        Self { chambers, count: 0, capacity }
    }

    /// Returns a full magazine of the chambers there.
    ///
    /// # Safety
    /// As for [`Magazine::new`]; each of the chambers holds a round.
    pub(crate) const unsafe fn filled(chambers: NonNull<Chamber>, capacity: usize) -> Self {
        Self { chambers, count: capacity, capacity }
    }

    pub(crate) const fn count(&self) -> usize {
        self.count
    }

    pub(crate) const fn is_full(&self) -> bool {
        self.count == self.capacity
    }

    /// Returns how many more objects fit.
    pub(crate) const fn room(&self) -> usize {
        self.capacity - self.count
    }

    /// Adds an object. Returns whether there was room.
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
        // SAFETY: `count` is below the capacity that `new` was promised, and was above.
        Some(unsafe { self.chambers.add(self.count).as_ref().get() })
    }

    /// Returns the objects, those added first first.
    pub(crate) fn rounds(&self) -> impl Iterator<Item = Round> {
        // SAFETY: `count` is at most the capacity that `new` was promised; each of these chambers
        // holds a round.
        (0..self.count).map(|n| unsafe { self.chambers.add(n).as_ref().get() })
    }

    /// Returns the chambers, for an empty magazine that is put aside.
    pub(crate) const fn into_chambers(self) -> NonNull<Chamber> {
        self.chambers
    }
}
