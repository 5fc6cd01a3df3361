//! Allocating and freeing where the CPU's list does not serve: the slow paths of `allocator`.

use heirloom_kho::Block;

use crate::error::Error;
use crate::freemap::Hints;
use crate::machine::{Machine, NodeId};
use crate::memory::Memory;
use crate::percpu::MAX_CACHED;
use crate::range::Range;
use crate::request::Request;

impl<M: Machine> Memory<M> {
    /// Takes a block where [`Memory::alloc_fast`] had none: fills the cache again, or does without.
    #[inline(never)]
    pub(crate) fn take_slow(&self, request: Request) -> Result<Block, Error> {
        let order = request.order();
        self.note_use();
        let found = self.machine().with_cpu(|cpu| {
            let Some(cpu) = self.slots.with_slot(cpu) else {
                return self.take_from_freemap(request, None, None, &mut Hints::new());
            };
            // SAFETY: pinned to `cpu`; nothing below comes back here.
            unsafe {
                self.with_cache(cpu, |mut list, backend| {
                    let here = request.node().is_none_or(|node| node == backend.node);
                    let tried = (here && order <= MAX_CACHED).then_some(backend.node);
                    let kept = tried.and_then(|_| {
                        let pfn = list.pop(order).or_else(|| list.refill(order, backend))?;
                        Some(Block::containing(pfn, order))
                    });
                    let hints = &mut list.cache.hints;
                    kept.or_else(|| {
                        self.take_from_freemap(request, Some(backend.node), tried, hints)
                    })
                })
            }
        });
        match found {
            Some(block) => Ok(block),
            None => self.alloc_after_drain(request),
        }
    }

    /// Takes a block from the free maps once the caches within reach are empty.
    #[cold]
    #[inline(never)]
    pub(crate) fn alloc_after_drain(&self, request: Request) -> Result<Block, Error> {
        // What a CPU gives back after this look is found below.
        if self.slots.iter().any(|(_, slot)| slot.keeps_any()) {
            self.drain();
        }
        self.take_from_freemap(request, None, None, &mut Hints::new())
            .ok_or(Error::OutOfMemory { order: request.order(), node: request.only_node() })
    }

    /// Takes a block from the shared bits: of the node asked for, else of the home node, else,
    /// unless the request is strict, of any; but not of the node that was `tried`.
    pub(crate) fn take_from_freemap(
        &self,
        request: Request,
        home: Option<NodeId>,
        tried: Option<NodeId>,
        hints: &mut Hints,
    ) -> Option<Block> {
        let first = request.node().or(home);
        let near = |range: &&Range| first.is_none_or(|node| range.node() == node);
        let ranges = || self.ranges.iter().filter(|range| tried != Some(range.node()));
        let mut take = |range: &Range| range.freemap().take(request.order(), hints);
        ranges().filter(near).find_map(&mut take).or_else(|| {
            let mut others = ranges().filter(|range| !near(range));
            if request.only_node().is_some() { None } else { others.find_map(take) }
        })
    }

    /// Gives back a block that [`Memory::free_fast`] could not: makes room for it, or does without.
    #[inline(never)]
    pub(crate) fn free_slow(&self, range: &Range, block: Block) -> Result<(), Error> {
        let order = block.order();
        let kept = order <= MAX_CACHED
            && self.machine().with_cpu(|cpu| {
                let Some(cpu) = self.slots.with_slot(cpu) else { return false };
                // SAFETY: pinned to `cpu`; nothing below comes back here.
                unsafe {
                    self.with_cache(cpu, |mut list, backend| {
                        // It may lie in another range of the node.
                        range.node() == backend.node
                            && (list.push(block) || list.free_slow(block, backend))
                    })
                }
            });
        if kept {
            return Ok(());
        }
        self.give_to_freemap(block).map_err(|()| Error::DoubleFree { block })
    }
}
