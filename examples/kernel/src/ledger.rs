//! What there is, in preserved memory: a slot for each thing that survives, with what it is known by.
//!
//! A slot is filled when its thing is preserved, and emptied before that is freed. So what a slot names is
//! there, at whatever instant the kernel ends; a thing without a slot, one for each lane at most, is what a
//! crash left, and nothing's.

use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::{Relaxed, Release};

use crate::cpu::CPUS;

/// Slots that one writer has alone.
pub const SLOTS: usize = 32;
/// Writers: on each CPU its work, its timer's handler, its NMI's.
pub const LANES: usize = CPUS * 3;

/// What a lane keeps.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Sessions with a buffer each.
    Work = 0,
    /// Buffers.
    Timer = 1,
    /// Folios.
    Nmi = 2,
}

impl Kind {
    pub fn of(lane: usize) -> Self {
        [Self::Work, Self::Timer, Self::Nmi][lane % 3]
    }
}

#[repr(C)]
pub struct Slot {
    /// The number that its bytes are made of; 0: empty.
    id: AtomicU64,
    words: [AtomicU64; 2],
}

impl Slot {
    /// What it names, if it does.
    pub fn get(&self) -> Option<(u64, [u64; 2])> {
        let id = self.id.load(Relaxed);
        let [first, second] = &self.words;
        (id != 0).then(|| (id, [first.load(Relaxed), second.load(Relaxed)]))
    }

    /// Names a thing that survives by now.
    pub fn fill(&self, id: u64, [first, second]: [u64; 2]) {
        self.words[0].store(first, Relaxed);
        self.words[1].store(second, Relaxed);
        // Release: a successor that sees the number sees the words. On one CPU, program order is.
        self.id.store(id, Release);
    }

    /// Names another thing in place of what it names.
    pub fn turn_to(&self, first: u64) {
        self.words[0].store(first, Release);
    }

    /// Names nothing; then the thing may be freed.
    pub fn clear(&self) {
        self.id.store(0, Release);
    }
}

#[repr(C)]
pub struct Ledger {
    next: [AtomicU64; LANES],
    slots: [[Slot; SLOTS]; LANES],
}

impl Ledger {
    /// A number that nothing had before.
    pub fn id(&self, lane: usize) -> u64 {
        let next = self.next[lane].load(Relaxed) + 1;
        self.next[lane].store(next, Relaxed);
        next * LANES as u64 + lane as u64
    }

    pub fn slot(&self, lane: usize, at: u64) -> &Slot {
        &self.slots[lane][at as usize % SLOTS]
    }

    /// Every slot, with its lane.
    pub fn slots(&self) -> impl Iterator<Item = (usize, &Slot)> {
        self.slots.iter().enumerate().flat_map(|(lane, slots)| slots.iter().map(move |s| (lane, s)))
    }
}
