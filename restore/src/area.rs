//! Areas that this kernel hands over.

use core::fmt;

use heirloom_folio::{FrameType, Machine, Memory, Request};
use heirloom_kho::internal::PER_CHUNK;
use heirloom_kho::sync::AtomicU64;
use heirloom_kho::sync::Ordering::Relaxed;
use heirloom_kho::{AreaInfo, AreaPart, Block, Order, PAGE_SIZE, PhysAddr, Table, store};

use crate::error::Error;
use crate::pages::{Own, table_at, words_at};

/// An area that survives: its blocks and chunk pages are preserved.
///
/// Dropping it changes nothing: the area stays preserved.
#[must_use = "the area stays preserved; `unpreserve` gives its blocks back"]
pub struct PreservedArea<'m, M: Machine> {
    memory: &'m Memory<M>,
    info: AreaInfo,
}

impl<M: Machine> fmt::Debug for PreservedArea<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PreservedArea({:?})", self.info)
    }
}

impl<'m, M: Machine> PreservedArea<'m, M> {
    /// Preserves `blocks`, all allocated and of `order`, as one area.
    ///
    /// # Errors
    /// [`Error::WrongOrder`]: a block of another order. [`Error::TableFull`]: more frames than a
    /// descriptor counts. [`Error::Folio`]: no block at all (`BadRequest`), a block that cannot be
    /// preserved or is already, or out of memory for a chunk page or tracker node. Nothing is
    /// preserved then that was not before.
    ///
    /// # Safety
    /// - The caller owns the blocks, as for [`Memory::preserve`], from when the iterator returns them
    ///   until the call returns, and then as long as they are the area's: nothing else frees them or
    ///   lets them go until [`PreservedArea::unpreserve`] has given them back.
    pub unsafe fn preserve(
        memory: &'m Memory<M>,
        blocks: impl IntoIterator<Item = Block>,
        order: Order,
        huge: bool,
    ) -> Result<Self, Error> {
        let mut builder = Builder { memory, order, first: None, last: &[], used: 0, blocks: 0 };
        // An error, or a panic of the iterator, undoes what was done by then.
        for block in blocks {
            builder.push(block)?;
        }
        let pages = u32::try_from(builder.blocks << order.get()).unwrap_or(0);
        let info = builder.first.and_then(|first| AreaInfo::new(first, pages, order, huge));
        match info {
            Some(info) => {
                builder.first = None;
                Ok(Self { memory, info })
            }
            None => Err(heirloom_folio::Error::BadRequest { frames: 0 }.into()),
        }
    }

    /// Returns the area that [`PreservedArea::into_raw`] gave away, or that was claimed from a
    /// predecessor and preserved again.
    ///
    /// # Safety
    /// - `info` was read, and [walked](AreaInfo::walk) without an error, from a chain whose chunk
    ///   pages are allocated in `memory` as [`FrameType::Table`], preserved, and no other owner's;
    /// - its blocks are preserved, and the caller's to unpreserve;
    /// - no other value stands for the same area.
    pub const unsafe fn from_raw(memory: &'m Memory<M>, info: AreaInfo) -> Self {
        Self { memory, info }
    }

    /// Returns what to write down to find the area again.
    pub const fn into_raw(self) -> AreaInfo {
        self.info
    }

    /// Returns what the area's descriptor says.
    pub const fn info(&self) -> AreaInfo {
        self.info
    }

    /// Calls `each` with every block, in the area's order.
    ///
    /// # Errors
    /// [`Error::Table`] if a block is no longer preserved, or a chunk page was overwritten.
    pub fn for_each(&self, mut each: impl FnMut(Block)) -> Result<(), Error> {
        self.info.walk(&Own(self.memory), |part| {
            if let AreaPart::Block(block) = part {
                each(block);
            }
            Ok(())
        })
    }

    /// Lets the area go: calls `each` with every block, no longer preserved and its owner's
    /// again, and frees the chunk pages. No handle of the area may be left where a successor
    /// would find it. Should `each` panic, the rest is let go all the same.
    ///
    /// # Errors
    /// As for [`PreservedArea::for_each`], found before anything is changed; the area is handed
    /// back.
    pub fn unpreserve(self, mut each: impl FnMut(Block)) -> Result<(), (Self, Error)> {
        if let Err(error) = self.for_each(|_| ()) {
            return Err((self, error));
        }
        let mut release = Release::new(self.memory, self.info.first(), self.info.order());
        while let Some(block) = release.step() {
            each(block);
        }
        Ok(())
    }
}

/// An area in the making.
struct Builder<'m, M: Machine> {
    memory: &'m Memory<M>,
    order: Order,
    first: Option<PhysAddr>,
    last: &'m [AtomicU64],
    /// Words of the last chunk in use, its link included.
    used: usize,
    blocks: u64,
}

impl<M: Machine> Builder<'_, M> {
    fn push(&mut self, block: Block) -> Result<(), Error> {
        if block.order() != self.order {
            return Err(Error::WrongOrder { block, expected: self.order });
        }
        let limit = u64::from(u32::MAX) >> self.order.get();
        if self.blocks >= limit {
            return Err(Error::TableFull { table: Table::Area, limit });
        }
        if self.first.is_none() || self.used > PER_CHUNK {
            let (addr, words) = new_table(self.memory)?;
            match (self.first, self.last.first()) {
                (Some(_), Some(link)) => store::word64(link, addr.get(), Relaxed),
                _ => self.first = Some(addr),
            }
            (self.last, self.used) = (words, 1);
        }
        // SAFETY: the contract of `PreservedArea::preserve`.
        unsafe { self.memory.preserve(block) }?;
        if let Some(word) = self.last.get(self.used) {
            store::word64(word, block.addr().get(), Relaxed);
        }
        self.used += 1;
        self.blocks += 1;
        Ok(())
    }
}

impl<M: Machine> Drop for Builder<'_, M> {
    fn drop(&mut self) {
        if let Some(first) = self.first {
            drop(Release::new(self.memory, first, self.order));
        }
    }
}

/// Runs `act`; on out-of-memory asks the machine for more, and runs it once more. With no lock held that
/// [`Machine::grow`] needs: those that this layer holds may be held asleep.
pub(crate) fn growing<M: Machine, T>(
    memory: &Memory<M>,
    act: impl Fn() -> Result<T, heirloom_folio::Error>,
) -> Result<T, heirloom_folio::Error> {
    match act() {
        Err(error) if error.frames_wanted().is_some_and(|frames| memory.machine().grow(frames)) => {
            act()
        }
        done => done,
    }
}

/// Refuses where there cannot be so many more pages for tables, after the machine found no more memory. Nothing is
/// taken.
///
/// # Errors
/// [`Error::Folio`]: out of memory.
pub(crate) fn room_for_tables<M: Machine>(memory: &Memory<M>, tables: u64) -> Result<(), Error> {
    while !memory.may_have(Order::ZERO, tables, 0) {
        let frames = memory.frames();
        // More each time, as long as there is more.
        if !memory.machine().grow(1) || memory.frames() <= frames {
            let (order, node) = (Order::ZERO, None);
            return Err(heirloom_folio::Error::OutOfMemory { order, node }.into());
        }
    }
    Ok(())
}

/// Returns a page for a table of ours: zeroed, preserved.
pub(crate) fn new_table<M: Machine>(memory: &Memory<M>) -> Result<(PhysAddr, &[AtomicU64]), Error> {
    let block = growing(memory, || {
        memory.alloc(Request::new(Order::ZERO).frame_type(FrameType::Table).zeroed())
    })?;
    // SAFETY: allocated just now.
    if let Err(error) = growing(memory, || unsafe { memory.preserve_as(block, FrameType::Table) }) {
        // SAFETY: allocated above, and known to this call alone.
        let freed = unsafe { memory.free_as(block, FrameType::Table) };
        debug_assert!(freed.is_ok(), "a block just allocated can be freed: {freed:?}");
        return Err(error.into());
    }
    // SAFETY: the page is ours, and only tables' owners reach it, atomically.
    let words = unsafe { words_at(memory, block.addr(), PAGE_SIZE) };
    Ok((block.addr(), words.unwrap_or(&[])))
}

/// Unpreserves and frees a table page of ours.
pub(crate) fn drop_table<M: Machine>(memory: &Memory<M>, block: Block) {
    // SAFETY: the caller owns the table and gives it up; nothing leads to it any more.
    let unpreserved = unsafe { memory.unpreserve_as(block, FrameType::Table) };
    // SAFETY: as above.
    let freed = unpreserved.and_then(|()| unsafe { memory.free_as(block, FrameType::Table) });
    debug_assert!(freed.is_ok(), "a table's page is allocated and preserved: {freed:?}");
}

/// Lets a chain of ours go, block by block, and frees each chunk behind its blocks. What was not
/// stepped through is let go when it is dropped: a panic between two steps leaves no half of an area.
struct Release<'m, M: Machine> {
    memory: &'m Memory<M>,
    order: Order,
    /// The next chunk.
    next: PhysAddr,
    /// The one that is let go, and its words that were not looked at.
    chunk: Option<(Block, &'m [AtomicU64])>,
}

impl<'m, M: Machine> Release<'m, M> {
    const fn new(memory: &'m Memory<M>, first: PhysAddr, order: Order) -> Self {
        Self { memory, order, next: first, chunk: None }
    }

    /// Returns the next block, which is not preserved any more.
    fn step(&mut self) -> Option<Block> {
        loop {
            let Some((chunk, words)) = self.chunk else {
                self.chunk = Some(self.open()?);
                continue;
            };
            let entry = words.split_first().map(|(word, rest)| (word.load(Relaxed), rest));
            if let Some((entry @ 1.., rest)) = entry {
                self.chunk = Some((chunk, rest));
                let block = Block::containing(PhysAddr::new(entry).pfn(), self.order);
                // SAFETY: the area's, as `preserve` was promised, or claimed; and the area ends.
                let done = unsafe { self.memory.unpreserve(block) };
                debug_assert!(done.is_ok(), "a block of an area is preserved: {done:?}");
                return Some(block);
            }
            self.chunk = None;
            drop_table(self.memory, chunk);
        }
    }

    /// Returns the next chunk, and the words of its blocks.
    fn open(&mut self) -> Option<(Block, &'m [AtomicU64])> {
        if self.next.get() == 0 {
            return None;
        }
        let from = (Table::Area, self.next, 0);
        let (chunk, _) = table_at(&Own(self.memory), self.next, from).ok()?;
        // SAFETY: a page of the area's, which only its owner reaches, atomically.
        let words = unsafe { words_at(self.memory, chunk.addr(), PAGE_SIZE) }?;
        let (link, blocks) = words.split_first()?;
        self.next = PhysAddr::new(link.load(Relaxed));
        Some((chunk, blocks))
    }
}

impl<M: Machine> Drop for Release<'_, M> {
    fn drop(&mut self) {
        while self.step().is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use heirloom_folio::harness::Ram;

    use super::*;

    fn order(n: u8) -> Order {
        Order::new(n).unwrap()
    }

    fn preserve(
        memory: &Memory<Ram>,
        blocks: impl IntoIterator<Item = Block>,
        order: Order,
        huge: bool,
    ) -> Result<PreservedArea<'_, Ram>, Error> {
        // SAFETY: the tests allocate the blocks, tell them to nothing else, and free them after the
        // area.
        unsafe { PreservedArea::preserve(memory, blocks, order, huge) }
    }

    #[test]
    fn an_area_is_preserved_and_given_back() {
        let memory = Ram::memory(&Ram::frames(8192)).unwrap();
        let request = Request::new(order(1));
        let count = if PER_CHUNK < 1000 { PER_CHUNK + 3 } else { 40 };
        let owned: Vec<_> = (0..count).map(|_| memory.alloc(request).unwrap()).collect();
        // Before anything is preserved, in no particular order.
        let shuffled: Vec<_> = (0..count).map(|i| owned[i * 7 % count]).collect();
        let area = preserve(&memory, shuffled.iter().copied(), order(1), true).unwrap();
        let info = area.info();
        assert_eq!((info.pages() as usize, info.order()), (count * 2, order(1)));
        assert!(owned.iter().all(|block| memory.preserved().contains(*block)));
        let mut found = Vec::new();
        area.for_each(|block| found.push(block)).unwrap();
        assert_eq!(found, shuffled);
        let raw = area.into_raw();
        // SAFETY: the area that `into_raw` gave away.
        let area = unsafe { PreservedArea::from_raw(&memory, raw) };
        let mut back = Vec::new();
        area.unpreserve(|block| back.push(block)).unwrap();
        assert_eq!(back, shuffled);
        assert_eq!(memory.stats().preserved, 0);
        for block in back {
            // SAFETY: allocated above, and not used.
            unsafe { memory.free(block) }.unwrap();
        }
        assert_eq!(memory.stats().used(), nodes(&memory));
    }

    fn nodes(memory: &Memory<Ram>) -> u64 {
        let mut nodes = 0;
        memory.preserved().for_each_node(|_| nodes += 1);
        nodes
    }

    #[test]
    fn a_refused_area_leaves_everything_as_before() {
        let memory = Ram::memory(&Ram::frames(2048)).unwrap();
        let request = Request::new(Order::ZERO);
        let owned: Vec<_> = (0..600).map(|_| memory.alloc(request).unwrap()).collect();
        let free = |memory: &Memory<Ram>| memory.stats().used() - nodes(memory);
        let used = free(&memory);
        let preserve =
            |blocks: &[Block], order| preserve(&memory, blocks.iter().copied(), order, false);
        let twice = [owned[0], owned[1], owned[0]];
        let error = heirloom_folio::Error::AlreadyPreserved { block: owned[0] };
        assert_eq!(preserve(&twice, Order::ZERO).unwrap_err(), error.into());
        let (block, expected) = (owned[0], order(1));
        let error = Error::WrongOrder { block, expected };
        assert_eq!(preserve(&owned, order(1)).unwrap_err(), error);
        let error = heirloom_folio::Error::BadRequest { frames: 0 };
        assert_eq!(preserve(&[], order(1)).unwrap_err(), error.into());
        assert_eq!((memory.stats().preserved, free(&memory)), (0, used));
    }

    #[test]
    fn out_of_memory_at_any_page_changes_nothing() {
        let count = PER_CHUNK.min(511) + 2;
        for spare in 0.. {
            let memory = Ram::memory(&Ram::frames(1024)).unwrap();
            let request = Request::new(Order::ZERO);
            let owned: Vec<_> = (0..count).map(|_| memory.alloc(request).unwrap()).collect();
            let mut rest = Vec::new();
            while let Ok(block) = memory.alloc(request) {
                rest.push(block);
            }
            for block in rest.drain(..spare) {
                // SAFETY: allocated above, and not used.
                unsafe { memory.free(block) }.unwrap();
            }
            let blocks = owned.iter().copied();
            match preserve(&memory, blocks, Order::ZERO, false) {
                Ok(area) => {
                    assert!(spare > 2, "two chunks and a tree's nodes");
                    let mut found = 0;
                    area.for_each(|_| found += 1).unwrap();
                    assert_eq!(found, count);
                    break;
                }
                Err(error) => {
                    assert!(matches!(error, Error::Folio(_)), "{error:?}");
                    assert_eq!(memory.stats().preserved, 0);
                    let used = (count + rest.len()) as u64 + nodes(&memory);
                    assert_eq!(memory.stats().used(), used);
                }
            }
        }
    }
}
