//! Many folios at once: any of them, and such as lie side by side.

use heirloom::folio::Error;
use heirloom::kho::tree::FolioRange;
use heirloom::kho::{Block, Handle, Order, Parts};
use heirloom_testkit::Kernel;

use super::folios::frames_of;
use super::state::{ModelKind, State};
use crate::world::Owned as _;

impl State {
    /// Preserves many folios at once, or lets many go: all of them or none. One may be at fault.
    pub(super) fn many(&mut self, kernel: &Kernel<'_>, a: u64, b: u64, keep: bool) {
        let memory = kernel.memory();
        let mut those: Vec<_> =
            (0..self.owned.len()).filter(|i| self.owned[*i].folio().is_some()).collect();
        those.retain(|i| self.owned[*i].preserved != keep || *i as u64 % 23 == a % 23);
        let skip = if those.is_empty() { 0 } else { a as usize % those.len() };
        let mut those: Vec<_> = those.into_iter().skip(skip).take(1 + (b % 40) as usize).collect();
        if (b / 64).is_multiple_of(4)
            && let Some(first) = those.first()
        {
            // The same one twice.
            those.push(*first);
        }
        let blocks: Vec<_> = those.iter().filter_map(|i| self.owned[*i].folio()).collect();
        let fault = those
            .iter()
            .enumerate()
            .find(|(n, i)| self.owned[**i].preserved == keep || those[..*n].contains(*i));
        let fault = fault.map(|(n, _)| blocks[n]);
        if keep {
            let done = memory.keep(&blocks[..]);
            match (done, fault) {
                (Err(error), Some(block)) if error == (Error::AlreadyPreserved { block }) => {
                    self.refused();
                }
                (Err(error), _) => self.starved(kernel, error.into(), 6 * blocks.len() as u64),
                (Ok(()), fault) => {
                    assert_eq!(fault, None);
                    for i in those {
                        let block = self.owned[i].folio().expect("a folio");
                        let handle = Handle::new(Parts::Folio(block));
                        self.owned[i].handle = Some(handle.expect("a folio's handle"));
                        self.owned[i].preserved = true;
                    }
                }
            }
        } else {
            for block in &blocks {
                self.drop_subtree(kernel, block.addr());
            }
            let expected = fault.map_or(Ok(()), |block| Err(Error::NotPreserved { block }));
            assert_eq!(memory.let_go(&blocks[..]), expected);
            if fault.is_none() {
                for i in those {
                    self.let_go(i);
                }
            } else {
                self.refused();
            }
        }
    }

    /// Folios side by side: preserved as one row, or let go as one.
    pub(super) fn row(&mut self, kernel: &Kernel<'_>, a: u64, b: u64) {
        let memory = kernel.memory();
        let order = Order::new((b % 3) as u8).unwrap_or_default();
        let count = 2 + b / 4 % 70;
        // New ones, where a stretch of that many is free.
        let start = self.frames.nth(a).align_down(order);
        let blocks = (0..count).map(|i| Block::containing(start.add(i << order.get()), order));
        let free: Vec<_> = blocks.take_while(|block| self.frames.is_free(block.run())).collect();
        let Some(row) = free.first().and_then(|first| FolioRange::new(*first, free.len() as u64))
        else {
            return;
        };
        for (n, block) in free.iter().enumerate() {
            if memory.alloc_at(*block).is_err() {
                assert!(!memory.machine().all_within_reach());
                for block in &free[..n] {
                    // SAFETY: allocated above.
                    unsafe { memory.free(*block) }.expect("allocated above");
                }
                return;
            }
        }
        for block in &free {
            let seed = self.next_seed();
            self.own(kernel, frames_of(ModelKind::Folio(order), block.run(), seed));
        }
        let last = self.owned.len();
        if let Err(error) = memory.keep(row) {
            return self.starved(kernel, error.into(), 12);
        }
        for i in last - free.len()..last {
            let parts = Parts::Folio(free[i + free.len() - last]);
            self.owned[i].handle = Handle::new(parts).ok();
            self.owned[i].preserved = true;
        }
        let again = memory.keep(row);
        assert_eq!(again, Err(Error::AlreadyPreserved { block: row.first() }));
        self.refused();
        if (b / 512).is_multiple_of(2) {
            assert_eq!(memory.let_go(row), Ok(()));
            (last - free.len()..last).for_each(|i| self.let_go(i));
        }
    }
}
