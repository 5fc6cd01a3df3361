//! Claims on one side, the end of the inheritance on the other: never both.
//!
//! A claim reads the predecessor's tree, whose pages become free memory at the end. So whoever
//! looks into the tree is in the gate meanwhile, and it is shut only while nobody is in:
//!
//! ```text
//!            a word for each CPU                    one word for all others
//!   enter    Open -> In   (one exchange, own line)  count + 1, unless Shut
//!   leave    In -> Open   (a store)                 count - 1
//!   shut     Open -> Shut, or all are opened again  0 -> Shut
//! ```
//!
//! Nobody waits for anybody: who finds it shut is refused, and it is not shut while somebody is in.

use crate::error::Error;
use crate::machine::Machine;
use crate::memory::Memory;
use crate::sync::{Acquire, AtomicU64, Relaxed, Release};

/// Nobody is in, and the gate is open.
const OPEN: u64 = 0;
/// The word's CPU is in.
const IN: u64 = 1;
/// No predecessor's tree is to be looked into; in the shared word it stands above the count.
const SHUT: u64 = 1 << 63;

/// A word of the gate: a CPU's own, or the one that is shared.
///
/// Acquire, whichever way it changes, pairs with each Release: what was read by those who left
/// comes before the pages' end, and what was written while it was shut before the next who enter.
pub(crate) struct Word(AtomicU64);

impl Word {
    pub(crate) fn new() -> Self {
        Self(AtomicU64::new(SHUT))
    }

    /// For its CPU alone. Leave soon.
    #[inline]
    fn enter(&self) -> bool {
        self.0.compare_exchange(OPEN, IN, Acquire, Relaxed).is_ok()
    }

    #[inline]
    fn leave(&self) {
        self.0.store(OPEN, Release);
    }

    fn count_in(&self) -> bool {
        let more = |count: u64| (count & SHUT == 0).then(|| count + 1);
        self.0.fetch_update(Acquire, Relaxed, more).is_ok()
    }

    fn count_out(&self) {
        self.0.fetch_sub(1, Release);
    }

    fn shut(&self) -> bool {
        self.0.compare_exchange(OPEN, SHUT, Acquire, Relaxed).is_ok()
    }

    fn open(&self) {
        self.0.store(OPEN, Release);
    }
}

/// The word of a CPU that is in: it leaves when this is dropped, by a panic too.
struct Inside<'w>(&'w Word);

impl Drop for Inside<'_> {
    #[inline]
    fn drop(&mut self) {
        self.0.leave();
    }
}

/// Keeps what the predecessor left from being ended, for as long as it lives; see
/// [`Memory::hold_inheritance`].
#[must_use]
pub struct HeldInheritance<'m>(&'m Word);

impl HeldInheritance<'_> {
    /// Whether it is this memory's.
    #[inline]
    pub(crate) fn is_of<M: Machine>(&self, memory: &Memory<M>) -> bool {
        core::ptr::eq(self.0, memory.shared_gate())
    }
}

impl Drop for HeldInheritance<'_> {
    fn drop(&mut self) {
        self.0.count_out();
    }
}

impl<M: Machine> Memory<M> {
    /// Keeps the predecessor's tree, and all that nobody has claimed, as they are until the value
    /// is dropped: [`Memory::disinherit`] is refused meanwhile. For whoever reads what the
    /// predecessor wrote, or makes several claims of which all have to succeed.
    ///
    /// `None`: there is no inheritance, or none any more.
    ///
    /// # Errors
    /// [`Error::Ending`]: somebody ends it, or tries to, at this moment.
    pub fn hold_inheritance(&self) -> Result<Option<HeldInheritance<'_>>, Error> {
        let gate = self.shared_gate();
        if gate.count_in() {
            return Ok(Some(HeldInheritance(gate)));
        }
        if self.has_inheritance() { Err(Error::Ending) } else { Ok(None) }
    }

    /// Runs `f`, in which the predecessor's tree is looked into. `None`: there is none, or it is
    /// being ended. For what takes a few instructions: the CPU stays pinned.
    #[inline]
    pub(crate) fn inside<R>(&self, f: impl FnOnce() -> R) -> Option<R> {
        self.machine().pinned_now(|cpu| {
            let Some(cpu) = self.with_slot(cpu) else {
                let _held = self.hold_inheritance().ok()??;
                return Some(f());
            };
            // SAFETY: it has a slot.
            let word = unsafe { self.slot(cpu) }.gate();
            word.enter().then(|| {
                let _inside = Inside(word);
                f()
            })
        })
    }

    /// Lets claims in: for whoever has just inherited, or found that the inheritance cannot end.
    pub(crate) fn open_gate(&self) {
        self.cpu_slots().for_each(|(_, slot)| slot.gate().open());
        self.shared_gate().open();
    }

    /// Keeps claims out until the value is dropped. `None`: somebody is in, or another did so.
    pub(crate) fn shut_gate(&self) -> Option<Shut<'_, M>> {
        if !self.shared_gate().shut() {
            return None;
        }
        let in_the_way = self.cpu_slots().find(|(_, slot)| !slot.gate().shut());
        if let Some((busy, _)) = in_the_way {
            let before = self.cpu_slots().take_while(|(cpu, _)| *cpu != busy);
            before.for_each(|(_, slot)| slot.gate().open());
            self.shared_gate().open();
            return None;
        }
        Some(Shut(self))
    }
}

/// The gate, shut: opened when this is dropped, by a panic too.
pub(crate) struct Shut<'m, M: Machine>(&'m Memory<M>);

impl<M: Machine> Shut<'_, M> {
    /// For good: there is nothing left to claim.
    pub(crate) fn stay(self) {
        core::mem::forget(self);
    }
}

impl<M: Machine> Drop for Shut<'_, M> {
    fn drop(&mut self) {
        self.0.open_gate();
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use crate::harness::Ram;
    use crate::inherit::Fate;

    #[test]
    fn a_panic_inside_leaves_the_gate() {
        let memory = Ram::memory(&Ram::frames(64)).unwrap();
        let root = memory.tree_root().unwrap();
        let memory = memory.into_machine().attach(&Ram::frames(64)).unwrap();
        let (memory, _) = memory.inherit(root).unwrap();
        let inside = AssertUnwindSafe(|| memory.inside(|| panic!("in the gate")));
        assert!(catch_unwind(inside).is_err());
        assert_eq!(memory.inside(|| 1), Some(1));
        assert_eq!(memory.disinherit(|_| Fate::Free), Ok((0, 0)));
    }
}
