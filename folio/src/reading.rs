//! Looking into blocks that may be given back meanwhile: no block goes while a reader is in it.
//!
//! A caller that starts from an address, and owns nothing, finds a slab by its frame's byte and reads
//! what the slab begins with. Nothing but this keeps the slab there for so long:
//!
//! ```text
//!                  a word for each CPU                one word for all others
//!   enter          Out -> In (one exchange, own line) count + 1
//!   find the block: its byte says that it is a slab
//!   leave          In -> Out (a store)                count - 1
//!
//!   give back      the byte says it is a table: no reader finds the block any more
//!                  each word was Out at least once since (an exchange of Out by Out)
//!                  the block is free
//! ```
//!
//! Of two exchanges of one word one is the first. If it is the reader's, the other finds the reader
//! in. If it is the other's, the reader's exchange reads what the other wrote (or what was written
//! after it), so it sees the byte as it is by now, and finds no slab.
//!
//! No call waits: a block that could not go since a reader was in is made findable again and stays, to be
//! tried another time. An interrupt may have come in the middle of a reader of its own CPU.

use crate::machine::Machine;
use crate::memory::Memory;
use crate::readers::{Inside, Word};

impl<M: Machine> Memory<M> {
    /// Runs `f`, during which no block that [`Memory::lookup`] finds in it is freed by a caller that
    /// [hides](Memory::hide_slab) blocks and asks for [readers](Memory::readers_have_left) before.
    ///
    /// For what takes a few instructions: the CPU stays pinned. `f` asks for no memory and for no lock.
    ///
    /// # Examples
    /// ```
    /// use heirloom_folio::harness::Ram;
    ///
    /// let memory = Ram::memory(&Ram::frames(64))?;
    /// assert!(memory.readers_have_left(1));
    /// assert!(!memory.reading(|| memory.readers_have_left(1)));
    /// # Ok::<(), heirloom_folio::Error>(())
    /// ```
    #[doc(hidden)]
    #[inline]
    pub fn reading<R>(&self, f: impl FnOnce() -> R) -> R {
        self.machine().with_cpu(|cpu| {
            let _inside = if let Some(cpu) = self.slots.with_slot(cpu) {
                // SAFETY: it has a slot.
                let word = unsafe { self.slots.slot(cpu) }.readers();
                Inside::own(word)
            } else {
                Inside::shared(self.slots.shared_readers())
            };
            f()
        })
    }

    /// Returns whether every reader that was in when this was called has left. Each CPU's word is looked at up
    /// to `tries` times; one atomic operation on each CPU's line, if no reader is in.
    #[doc(hidden)]
    pub fn readers_have_left(&self, tries: u32) -> bool {
        let left = |word: &Word| {
            (0..tries).any(|_| {
                word.is_out() || {
                    core::hint::spin_loop();
                    false
                }
            })
        };
        left(self.slots.shared_readers()) && self.slots.iter().all(|(_, slot)| left(slot.readers()))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::thread;

    use crate::harness::Ram;

    #[test]
    fn a_thread_reads_in_a_word_of_its_own_from_its_first_call_on() {
        let memory = Ram::memory(&Ram::frames(64)).unwrap();
        let alone = || memory.reading(|| memory.slots.shared_readers().is_out());
        let all = thread::scope(|scope| [(); 2].map(|()| scope.spawn(alone).join().unwrap()));
        assert_eq!(all, [true; 2], "no reader counts in the word that all share");
    }
}
