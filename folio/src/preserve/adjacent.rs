//! Preserving folios of one order side by side, up to 64 with one atomic operation.

use heirloom_kho::narrow::u64_to_usize;
use heirloom_kho::sync::{AtomicU8, Relaxed};
use heirloom_kho::tree::Adjacent;
use heirloom_kho::{Block, Order};

use crate::atomic_bytes;
use crate::error::Error;
use crate::frame_type::{self, Kind};
use crate::machine::Machine;
use crate::memory::Memory;

impl<M: Machine> Memory<M> {
    /// Makes folios of one order in a row survive: up to 64 at a time with
    /// one atomic operation, and still each a folio of its own.
    ///
    /// # Errors
    /// As for [`Memory::preserve`], naming the first at fault. All or nothing.
    ///
    /// # Safety
    /// As for [`Memory::preserve`], for each of them.
    pub unsafe fn preserve_adjacent(&self, folios: Adjacent) -> Result<(), Error> {
        let alike = self.each_adjacent(folios, false)?;
        self.tracker.preserve_adjacent(&self.tables(), folios)?;
        self.mark_adjacent(folios, alike, true);
        Ok(())
    }

    /// Lets preserved folios of one order in a row go.
    ///
    /// # Errors
    /// As for [`Memory::unpreserve`], naming the first at fault. All or nothing.
    ///
    /// # Safety
    /// As for [`Memory::unpreserve`], for each of them.
    pub unsafe fn unpreserve_adjacent(&self, folios: Adjacent) -> Result<(), Error> {
        let alike = self.each_adjacent(folios, true)?;
        self.tracker.unpreserve_adjacent(&self.tables(), folios)?;
        self.mark_adjacent(folios, alike, false);
        Ok(())
    }

    /// Checks that the folios are allocated and (not) preserved: the bytes of their frames, if they
    /// lie in one range and all say so at a first look.
    fn each_adjacent(
        &self,
        folios: Adjacent,
        preserved: bool,
    ) -> Result<Option<&[AtomicU8]>, Error> {
        let mut blocks = blocks(folios);
        let Some(first) = blocks.next() else { return Ok(None) };
        let range = self.range(first.pfn())?;
        let (_, said) = self.single(range, first, Kind::Folio, preserved)?;
        // Mostly all of them: no look at each, and no branch.
        let bytes = range.bytes_of(folios.run());
        if let Some(bytes) = bytes.filter(|bytes| alike(bytes, first.order(), said)) {
            return Ok(Some(bytes));
        }
        for block in blocks {
            self.single(self.range(block.pfn())?, block, Kind::Folio, preserved)?;
        }
        Ok(None)
    }

    fn mark_adjacent(&self, folios: Adjacent, alike: Option<&[AtomicU8]>, preserved: bool) {
        let order = folios.first().order();
        if let Some(bytes) = alike {
            return store_all(bytes, order, frame_type::encode(Kind::Folio, order, preserved));
        }
        for block in blocks(folios) {
            self.mark_preserved(block, Kind::Folio, preserved);
        }
    }
}

/// Returns whether the bytes of the first frames of folios of `order` that lie side by side all say
/// `said`.
fn alike(bytes: &[AtomicU8], order: Order, said: u8) -> bool {
    if order == Order::ZERO {
        return atomic_bytes::all_are(bytes, said);
    }
    let mut heads = bytes.iter().step_by(u64_to_usize(order.frames()));
    heads.all(|byte| byte.load(Relaxed) == said)
}

/// Stores `now` into the bytes of the first frames of folios of `order` that lie side by side.
fn store_all(bytes: &[AtomicU8], order: Order, now: u8) {
    if order == Order::ZERO {
        return atomic_bytes::store_all(bytes, now);
    }
    for head in bytes.iter().step_by(u64_to_usize(order.frames())) {
        head.store(now, Relaxed);
    }
}

fn blocks(folios: Adjacent) -> impl Iterator<Item = Block> {
    let (first, order) = (folios.first().pfn(), folios.first().order());
    (0..folios.count()).map(move |i| Block::containing(first.add(i << order.get()), order))
}
