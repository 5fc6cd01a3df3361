//! Readers beside one writer: which of them are in, and when those have left that may look at what the writer has unlinked.
//!
//! ```text
//!   turn: 0 or 1      which of its two words a reader is counted in
//!   slot 0    | readers in | readers in |      a line for each of up to 31 handles, which the others share
//!   slot 1    | readers in | readers in |
//!
//!   reader    count in its word + 1 ── looks ── count - 1
//!   writer    unlinks ── each word of the other turn was 0 ── turns ── each word of this turn was 0 ── frees
//! ```
//!
//! A reader is counted wherever it read the turn, early or late, so what counts is that each word was 0 once since the object was
//! unlinked. Readers that come in meanwhile go to the other words: so those of one turn come to an end whatever comes after
//! them, and no reader waits, nor does the writer. (Sleepable RCU of Linux counts this way.)
//!
//! Of two exchanges of one word one is the first. If it is the reader's, the writer finds the reader in. If it is the writer's, the
//! reader reads what the writer wrote, or what was written after it, and so sees what was unlinked before.

use core::alloc::Layout;
use core::ptr::NonNull;

use heirloom_folio::Machine;
use heirloom_kho::sync::Ordering::{AcqRel, Acquire, Relaxed, Release};
use heirloom_kho::sync::{AtomicU64, AtomicUsize};
use heirloom_slab::{AllocOptions, Slabs};

/// Words for handles, each of the two on a line with its slot's.
const SLOTS: usize = 31;

/// The words of one handle.
#[repr(align(128))]
struct Slot {
    inside: [AtomicU64; 2],
}

/// What readers of a container are counted in, in memory that ends with the kernel.
#[repr(align(128))]
pub(crate) struct Readers {
    turn: AtomicUsize,
    /// How many handles were made: each counts in the slot of its number.
    handles: AtomicUsize,
    slots: [Slot; SLOTS],
}

const _: () = assert!(size_of::<Readers>() == 4096, "a buffer of a size class");

impl Readers {
    /// Returns the slot of a handle more.
    pub(crate) fn join(&self) -> usize {
        // AcqRel pairs with the same in `joined`: a handle that is made after it sees what was unlinked before.
        self.handles.fetch_add(1, AcqRel) % SLOTS
    }

    /// Returns how many slots have a handle.
    fn joined(&self) -> usize {
        // AcqRel pairs with the same in `join`. An exchange and no load: see the top of the file.
        self.handles.fetch_add(0, AcqRel).min(SLOTS)
    }

    /// Enters a reader.
    #[inline]
    pub(crate) fn enter(&self, slot: usize) -> Inside<'_> {
        let word = &self.slots[slot].inside[self.turn.load(Relaxed) & 1];
        // Acquire pairs with the AcqRel in `is_out`: a reader that enters after it finds nothing that was unlinked before.
        word.fetch_add(1, Acquire);
        Inside(word)
    }
}

/// Returns whether no reader is in.
fn is_out(word: &AtomicU64) -> bool {
    // AcqRel pairs with `enter`, and with the Release that a reader leaves by.
    word.compare_exchange(0, 0, AcqRel, Relaxed).is_ok()
}

/// A reader that is in. It leaves when this is dropped.
#[derive(Debug)]
pub(crate) struct Inside<'r>(&'r AtomicU64);

impl Drop for Inside<'_> {
    #[inline]
    fn drop(&mut self) {
        // Release pairs with the AcqRel in `is_out`: what was read was read before it is freed.
        self.0.fetch_sub(1, Release);
    }
}

/// The writer's wait, a look at a time, until all readers have left that were in when it began.
#[derive(Clone, Copy, Default)]
pub(crate) struct Grace {
    turned: bool,
    turn: usize,
    /// The words of this turn before this slot were 0 since it began.
    slot: usize,
}

impl Grace {
    /// Begins to wait. One caller at a time does.
    pub(crate) fn begin(readers: &Readers) -> Self {
        // Readers that read an older turn may be in its words: most have left long ago.
        Self { turned: false, turn: 1 - (readers.turn.load(Relaxed) & 1), slot: 0 }
    }

    /// Looks at the words that are left, and returns whether all readers have left that were in when it began. Ends at the first
    /// word that one is in.
    pub(crate) fn is_over(&mut self, readers: &Readers) -> bool {
        loop {
            let joined = readers.joined();
            for slot in readers.slots.iter().take(joined).skip(self.slot) {
                if !is_out(&slot.inside[self.turn]) {
                    return false;
                }
                self.slot += 1;
            }
            if self.turned {
                return true;
            }
            readers.turn.store(self.turn, Relaxed);
            *self = Self { turned: true, turn: 1 - self.turn, slot: 0 };
        }
    }
}

/// The readers of one container. Its owner gives them back.
pub(crate) struct Noted(NonNull<Readers>);

// SAFETY: all that it leads to are atomics.
unsafe impl Send for Noted {}
// SAFETY: as for `Send`.
unsafe impl Sync for Noted {}

impl Noted {
    /// Returns what counts readers, of which there are none.
    pub(crate) fn new<M: Machine>(slabs: &Slabs<M>) -> Result<Self, heirloom_slab::Error> {
        let options = AllocOptions { preserving: false, zeroed: true };
        // (Zeroes are turn 0, and no handle.)
        Ok(Self(slabs.alloc(Layout::new::<Readers>(), options)?.cast()))
    }

    /// Begins anew: there is no handle, and no reader is in. One that was forgotten is none.
    ///
    /// # Safety
    /// The value is neither reset nor given back during `'m`.
    pub(crate) unsafe fn reset<'m>(&mut self) -> &'m Readers {
        // SAFETY: allocated in `new`, aligned, of atomics, and there as long (contract).
        let readers = unsafe { self.0.as_ref() };
        for word in readers.slots.iter().flat_map(|slot| &slot.inside) {
            word.store(0, Relaxed);
        }
        readers.handles.store(0, Relaxed);
        readers
    }

    /// Gives back its memory.
    pub(crate) fn give_back<M: Machine>(self, slabs: &Slabs<M>) {
        // SAFETY: allocated in `new` of these slabs, and used by none that `reset` promised it to.
        let freed = unsafe { slabs.free(self.0.cast()) };
        debug_assert!(freed.is_ok(), "readers' words are freed once: {freed:?}");
    }
}
