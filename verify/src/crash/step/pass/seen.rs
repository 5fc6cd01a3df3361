//! Which stores a successor can see.

use std::cell::UnsafeCell;

use heirloom::kho::PAGE_SIZE;
use heirloom_testkit::TestMachine;

use super::super::super::arena;

/// What a frame is to a successor.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Frame {
    /// Whatever is in it, nothing.
    Unseen,
    /// Preserved.
    Kept,
    /// A node of the tree: a store there decides what else is seen.
    Node,
}

/// More frames than a machine has.
const FRAMES: usize = 1024;

/// The machine that is watched, and its frames as they were when a node was last written.
struct Watch {
    machine: UnsafeCell<Option<TestMachine>>,
    frames: UnsafeCell<[Frame; FRAMES]>,
    stale: UnsafeCell<bool>,
    /// The tree is being looked at.
    busy: UnsafeCell<bool>,
}

// SAFETY: used by programs of one thread.
unsafe impl Sync for Watch {}

static WATCH: Watch = Watch {
    machine: UnsafeCell::new(None),
    frames: UnsafeCell::new([Frame::Unseen; FRAMES]),
    stale: UnsafeCell::new(true),
    busy: UnsafeCell::new(false),
};

/// Counts the stores alone that a successor of a kernel on `machine` can see.
pub(in super::super) fn watch(machine: &TestMachine) {
    let again = machine.again().expect("the same memory");
    // SAFETY: one thread, and nothing refers to what is replaced.
    unsafe {
        *WATCH.machine.get() = Some(again);
        *WATCH.stale.get() = true;
    }
}

/// Whether a successor can see what is about to be stored at an offset from the first frame; yes, if
/// nothing is watched.
pub(super) fn by_a_successor(offset: usize) -> bool {
    // SAFETY: one thread; what is called while `busy` comes here again, and touches nothing.
    unsafe {
        let Some(machine) = (*WATCH.machine.get()).as_ref().filter(|_| !*WATCH.busy.get()) else {
            return true;
        };
        if *WATCH.stale.get() {
            *WATCH.busy.get() = true;
            arena::frames_seen(machine, &mut *WATCH.frames.get());
            *WATCH.busy.get() = false;
            *WATCH.stale.get() = false;
        }
        let frame = arena::index_of(machine, offset / PAGE_SIZE);
        let frame = (*WATCH.frames.get()).get(frame).copied().unwrap_or(Frame::Kept);
        *WATCH.stale.get() = frame == Frame::Node;
        frame != Frame::Unseen
    }
}
