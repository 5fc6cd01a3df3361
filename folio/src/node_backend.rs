//! The free maps of one node as the backend of its CPUs' lists, and draining those lists.

use core::num::NonZeroUsize;
use core::ptr::NonNull;

use heirloom_kho::narrow::usize_to_u64;
use heirloom_kho::{Block, Order, Pfn};

use crate::freemap::{Group, Hints};
use crate::machine::{CpuId, Machine, NodeId};
use crate::memory::Memory;
use crate::percpu::{Backend, PcpList, Source};
use crate::range::Range;

/// The shared bits of one node, behind a CPU's cache.
pub(crate) struct NodeBackend<'m, M: Machine> {
    pub(crate) memory: &'m Memory<M>,
    pub(crate) node: NodeId,
}

impl<M: Machine> NodeBackend<'_, M> {
    fn ranges(&self) -> impl Iterator<Item = &Range> {
        self.memory.ranges.iter().filter(|range| range.node() == self.node)
    }
}

impl<M: Machine> Backend for NodeBackend<'_, M> {
    fn take_word(&self, hints: &mut Hints) -> Option<Group> {
        self.ranges().find_map(|range| range.freemap().take_word(hints))
    }

    fn is_one_block(&self, word: Block) -> bool {
        self.memory.ranges.covering(word.run()).is_some()
    }

    fn take(&self, order: Order, most: usize, hints: &mut Hints) -> Option<Group> {
        self.ranges().find_map(|range| range.freemap().take_group(order, most, hints))
    }

    fn source(&self) -> Source {
        // A node without memory has a number too, and no frames.
        self.ranges().next().map_or(Source(NonZeroUsize::MIN), source_of)
    }

    fn is_ample(&self) -> bool {
        self.ranges().any(|range| range.freemap().has_large())
    }

    fn share(&self) -> u64 {
        // An eighth of the node, on every CPU.
        let frames: u64 = self.ranges().map(Range::present).sum();
        frames / 8 / usize_to_u64(self.memory.cpu_count())
    }

    fn give_frames(&self, frames: &[Pfn]) -> u32 {
        let mut rest = frames.iter().copied().peekable();
        let mut batch = 0;
        while let Some(&first) = rest.peek() {
            let Some(range) = self.memory.ranges.find(first) else { break };
            // Mostly all of them: one range is looked up, and not one a frame.
            let these = core::iter::from_fn(|| rest.next_if(|pfn| range.run().contains(*pfn)));
            batch = range.freemap().give_frames(these);
            range.freemap().say_frames(frames.iter().copied().filter(|f| range.run().contains(*f)));
        }
        batch
    }

    #[inline]
    fn give(&self, order: Order, group: Group) {
        let first = self.memory.ranges.find(group.any(order));
        let whole = first.filter(|range| group.word(order).is_some_and(|w| range.run().covers(w)));
        let given = match whole {
            Some(range) => range.freemap().give_group(order, group),
            // Two ranges may meet within a word, or within a block.
            None => group.blocks(order).try_for_each(|block| self.memory.give_to_freemap(block)),
        };
        // Two frees of one block that raced: one of them is refused here, too late to say so.
        debug_assert!(given.is_ok(), "a cached block is in no other place");
    }
}

/// Returns the range as what frames come from: its address, which is never followed.
#[inline]
pub(crate) fn source_of(range: &Range) -> Source {
    Source(NonNull::from(range).addr())
}

impl<M: Machine> Memory<M> {
    /// Gives what the CPU caches hold back to the shared bits: this CPU's and those of CPUs that
    /// nothing runs on, now; the others' at their next call.
    pub fn drain(&self) {
        self.slots.request_drain();
        self.machine().with_cpu(|cpu| {
            if let Some(cpu) = self.slots.with_slot(cpu) {
                // SAFETY: pinned to `cpu`.
                unsafe { self.with_cache(cpu, |_, _| ()) };
            }
        });
        for cpu in self.slots.cpus() {
            self.machine().with_offline_cpu(cpu, || {
                // SAFETY: `with_offline_cpu` runs this as if on `cpu`.
                unsafe { self.with_cache(cpu, |_, _| ()) };
            });
        }
    }

    /// Gives what this CPU's cache holds back to the shared bits, and asks no other CPU: for a CPU that is
    /// about to go offline, or that another asks by an interrupt. Returns whether it did: not where no
    /// CPU's state can be had.
    ///
    /// # Examples
    /// ```
    /// use heirloom_folio::harness::Ram;
    /// use heirloom_folio::{Request};
    /// use heirloom_kho::Order;
    ///
    /// let memory = Ram::memory(&Ram::frames(64))?;
    /// let block = memory.alloc(Request::new(Order::ZERO))?;
    /// // SAFETY: allocated just now, and used by nothing else.
    /// unsafe { memory.free(block) }?;
    /// assert!(memory.flush());
    /// assert_eq!((memory.stats().cached, memory.stats().free()), (0, 64));
    /// # Ok::<(), heirloom_folio::Error>(())
    /// ```
    pub fn flush(&self) -> bool {
        self.machine().with_cpu(|cpu| {
            let Some(cpu) = self.slots.with_slot(cpu) else { return false };
            // SAFETY: it has a slot.
            unsafe { self.slots.slot(cpu) }.request_drain();
            // SAFETY: pinned to `cpu`.
            unsafe { self.with_cache(cpu, |_, _| ()) };
            true
        })
    }

    /// Gives back what the caches of all CPUs hold, while nothing else uses the memory.
    #[doc(hidden)]
    pub fn drain_all(&mut self) {
        self.slots.request_drain();
        for cpu in self.slots.cpus() {
            // SAFETY: `self` is borrowed mutably, so nothing runs on any of its caches.
            unsafe { self.with_cache(cpu, |_, _| ()) };
        }
    }

    /// Works on the cache of `cpu`, drained first if that was asked for.
    ///
    /// # Safety
    /// Runs inside `with_cpu` or `with_offline_cpu` for `cpu`, or is the only user of the memory; `f` does not
    /// come back here. `cpu` has a slot.
    #[inline]
    pub(crate) unsafe fn with_cache<R>(
        &self,
        cpu: CpuId,
        f: impl FnOnce(PcpList<'_>, &NodeBackend<'_, M>) -> R,
    ) -> R {
        let backend = NodeBackend { memory: self, node: self.machine().node_of(cpu) };
        // SAFETY: the same contract.
        unsafe {
            self.slots.slot(cpu).with(|mut list| {
                list.refresh(&backend);
                f(list, &backend)
            })
        }
    }

    /// Gives a block to the shared bits, of each range what it has of it.
    pub(crate) fn give_to_freemap(&self, block: Block) -> Result<(), ()> {
        let whole = self.ranges.find(block.pfn()).filter(|range| range.run().covers(block.run()));
        if let Some(range) = whole {
            return range.freemap().give(block);
        }
        for (range, part) in self.ranges.parts(block.run()).ok_or(())? {
            part.blocks_up_to(Order::MAX_FOLIO).try_for_each(|part| range.freemap().give(part))?;
        }
        Ok(())
    }
}
