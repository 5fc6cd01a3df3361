//! Virtually contiguous areas: many blocks of one order, in an order of their own.
//!
//! Linux's format for what it calls vmalloc memory, native byte order. A 16-byte descriptor leads
//! to a chain of chunk pages, each a list of blocks:
//!
//! ```text
//!  descriptor { first chunk u64, pages u32, flags u16, order u16 }
//!        |
//!        v
//!  chunk { next u64, block u64, block u64, ... }  --next-->  chunk { 0, block, ... 0 }
//! ```
//!
//! A chunk with a next one is full; the last one may be empty. Chunks and blocks are all
//! preserved in the tracker. The same can be said in a [`Handle`](crate::Handle), which then
//! needs no descriptor.

use core::fmt;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::Relaxed;

use heirloom_folio::{Block, Kind, Machine, Memory, Order, PAGE_SIZE, PhysAddr, Request};
use zerocopy::native_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::error::{Error, Fault, Table};
use crate::pages::{Own, Pages, block_at, table_at};
use crate::store;

/// Blocks that one chunk page names.
const PER_CHUNK: usize = PAGE_SIZE / 8 - 1;

const FLAG_PLAIN: u16 = 1;
const FLAG_HUGE: u16 = 2;

/// The descriptor of an area, as Linux has it in memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct AreaDescriptor {
    first: U64,
    pages: U32,
    flags: U16,
    order: U16,
}

const _: () = assert!(size_of::<AreaDescriptor>() == 16);

/// What the descriptor of an area says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AreaInfo {
    pub(crate) first: PhysAddr,
    pub(crate) pages: u32,
    pub(crate) order: Order,
    pub(crate) huge: bool,
}

impl AreaInfo {
    /// An area of `pages` frames in blocks of `order`, whose first chunk page is at `first`.
    /// `None` if `first` starts no page, or `pages` is zero or not whole blocks.
    pub const fn new(first: PhysAddr, pages: u32, order: Order, huge: bool) -> Option<Self> {
        let whole = pages != 0 && (pages as u64).is_multiple_of(order.frames());
        if !whole || first.get() == 0 || !first.is_page_aligned() {
            return None;
        }
        Some(Self { first, pages, order, huge })
    }

    /// The first chunk page.
    pub const fn first(self) -> PhysAddr {
        self.first
    }

    /// Frames in the area.
    pub const fn pages(self) -> u32 {
        self.pages
    }

    /// The order of its blocks.
    pub const fn order(self) -> Order {
        self.order
    }

    /// Whether its owner allows huge mappings.
    pub const fn huge(self) -> bool {
        self.huge
    }

    /// How many blocks it has.
    pub const fn blocks(self) -> u64 {
        self.pages as u64 >> self.order.get()
    }

    /// The descriptor that says this.
    pub fn descriptor(self) -> AreaDescriptor {
        let flags = if self.huge { FLAG_PLAIN | FLAG_HUGE } else { FLAG_PLAIN };
        AreaDescriptor {
            first: self.first.get().into(),
            pages: self.pages.into(),
            flags: flags.into(),
            order: u16::from(self.order.get()).into(),
        }
    }

    /// Checks the whole area and calls `each` with every chunk page and block, in order: each
    /// chunk before the blocks it names.
    ///
    /// Takes `blocks / 511 + 1` chunks and not one step more, whatever is in them. That a block is
    /// not named twice is not checked: claiming it twice fails.
    ///
    /// # Errors
    /// [`Error::Table`] with the chunk, the byte and the reason: a chunk or block misaligned or
    /// not preserved, a chunk with a next one that is not full, more or fewer blocks than the
    /// descriptor says. The first error of `each`. What `each` did by then stands.
    pub fn walk(
        self,
        pages: &impl Pages,
        mut each: impl FnMut(AreaPart) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let expected = self.blocks();
        let mut seen = 0;
        let (mut from, mut addr) = ((Table::Area, self.first, 0), self.first);
        loop {
            let (chunk, words) = table_at(pages, addr, from)?;
            each(AreaPart::Chunk(chunk))?;
            let (next, entries) = words.split_first().ok_or_else(|| malformed(addr, 0))?;
            let mut full = true;
            for (i, entry) in entries.iter().enumerate() {
                let entry = PhysAddr::new(entry.load(Relaxed));
                if entry.get() == 0 {
                    full = false;
                    break;
                }
                let at = (Table::Area, addr, (i + 1) * 8);
                if seen == expected {
                    let fault = Fault::TooMany { found: seen + 1, limit: expected };
                    return Err(fault.in_table(at.0, at.1, at.2));
                }
                seen += 1;
                each(AreaPart::Block(block_at(pages, entry, self.order, at)?))?;
            }
            let next = PhysAddr::new(next.load(Relaxed));
            if next.get() == 0 {
                break;
            }
            if !full {
                return Err(malformed(addr, 0));
            }
            (from, addr) = ((Table::Area, addr, 0), next);
        }
        if seen != expected {
            return Err(Fault::Length { expected, found: seen }.in_table(Table::Area, addr, 8));
        }
        Ok(())
    }
}

fn malformed(at: PhysAddr, offset: usize) -> Error {
    Fault::Malformed { expected: "full chunk before the next one" }.in_table(
        Table::Area,
        at,
        offset,
    )
}

/// A piece of an area, as [`AreaInfo::walk`] comes to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AreaPart {
    /// A page of the list: heirloom's own.
    Chunk(Block),
    /// The next block of the area.
    Block(Block),
}

impl AreaDescriptor {
    /// What the descriptor, which stands at `at`, says.
    ///
    /// # Errors
    /// [`Error::Table`]: no page can start at the first chunk's address, the order is beyond the
    /// largest, the frames are not whole blocks, or a flag is not known.
    pub fn info(&self, at: PhysAddr) -> Result<AreaInfo, Error> {
        let fail = |offset, fault: Fault| fault.in_table(Table::Area, at, offset);
        let addr = PhysAddr::new(self.first.get());
        if addr.get() == 0 || !addr.is_page_aligned() {
            return Err(fail(0, Fault::Misaligned { addr }));
        }
        let flags = self.flags.get();
        if flags & !(FLAG_PLAIN | FLAG_HUGE) != 0 {
            return Err(fail(12, Fault::Reserved { found: flags.into() }));
        }
        let found = self.order.get();
        let order = u8::try_from(found).ok().and_then(Order::new);
        let limit = Order::MAX.get().into();
        let order = order.ok_or(fail(14, Fault::TooMany { found: found.into(), limit }))?;
        let pages = self.pages.get();
        AreaInfo::new(addr, pages, order, flags & FLAG_HUGE != 0).ok_or_else(|| {
            let expected = u64::from(pages).next_multiple_of(order.frames()).max(order.frames());
            fail(8, Fault::Length { expected, found: pages.into() })
        })
    }
}

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
    pub fn preserve(
        memory: &'m Memory<M>,
        blocks: impl IntoIterator<Item = Block>,
        order: Order,
        huge: bool,
    ) -> Result<Self, Error> {
        let mut builder = Builder { memory, order, first: None, last: &[], used: 0, blocks: 0 };
        for block in blocks {
            if let Err(error) = builder.push(block) {
                builder.undo();
                return Err(error);
            }
        }
        let pages = u32::try_from(builder.blocks << order.get()).unwrap_or(0);
        let info = builder.first.and_then(|first| AreaInfo::new(first, pages, order, huge));
        match info {
            Some(info) => Ok(Self { memory, info }),
            None => Err(heirloom_folio::Error::BadRequest { frames: 0 }.into()),
        }
    }

    /// The area that [`PreservedArea::into_raw`] gave away, or that was claimed from a
    /// predecessor and preserved again.
    ///
    /// # Safety
    /// - `info` was read, and [walked](AreaInfo::walk) without an error, from a chain whose chunk
    ///   pages are allocated in `memory` as [`Kind::Table`], preserved, and nobody else's;
    /// - its blocks are preserved, and the caller's to unpreserve;
    /// - no other value stands for the same area.
    pub const unsafe fn from_raw(memory: &'m Memory<M>, info: AreaInfo) -> Self {
        Self { memory, info }
    }

    /// What to write down to find the area again.
    pub const fn into_raw(self) -> AreaInfo {
        self.info
    }

    /// What the area's descriptor says.
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
    /// would find it.
    ///
    /// # Errors
    /// As for [`PreservedArea::for_each`], found before anything is changed; the area is handed
    /// back.
    pub fn unpreserve(self, mut each: impl FnMut(Block)) -> Result<(), (Self, Error)> {
        if let Err(error) = self.for_each(|_| ()) {
            return Err((self, error));
        }
        release(self.memory, self.info.first, self.info.order, &mut each);
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
        self.memory.preserve(block)?;
        if let Some(word) = self.last.get(self.used) {
            store::word64(word, block.addr().get(), Relaxed);
        }
        self.used += 1;
        self.blocks += 1;
        Ok(())
    }

    fn undo(self) {
        if let Some(first) = self.first {
            release(self.memory, first, self.order, &mut |_| ());
        }
    }
}

/// A page for a table of ours: zeroed, preserved.
pub(crate) fn new_table<M: Machine>(memory: &Memory<M>) -> Result<(PhysAddr, &[AtomicU64]), Error> {
    let block = memory.alloc(Request::new(Order::ZERO).kind(Kind::Table).zeroed())?;
    if let Err(error) = memory.preserve(block) {
        // SAFETY: allocated above, and known to nobody.
        let freed = unsafe { memory.free(block, Kind::Table) };
        debug_assert!(freed.is_ok(), "a block just allocated can be freed: {freed:?}");
        return Err(error.into());
    }
    // SAFETY: the page is ours, and only tables' owners reach it, atomically.
    let words = unsafe { crate::pages::words_at(memory, block.addr(), PAGE_SIZE) };
    Ok((block.addr(), words.unwrap_or(&[])))
}

/// Unpreserves and frees a table page of ours.
pub(crate) fn drop_table<M: Machine>(memory: &Memory<M>, block: Block) {
    let freed = memory.unpreserve(block).and_then(|()| {
        // SAFETY: the caller owns the table and gives it up; nothing leads to it any more.
        unsafe { memory.free(block, Kind::Table) }
    });
    debug_assert!(freed.is_ok(), "a table's page is allocated and preserved: {freed:?}");
}

/// Unpreserves every block of a chain of ours and tells `each`, and frees the chunks.
fn release<M: Machine>(
    memory: &Memory<M>,
    first: PhysAddr,
    order: Order,
    each: &mut impl FnMut(Block),
) {
    let own = Own(memory);
    let mut addr = first;
    while addr.get() != 0 {
        let Ok((chunk, words)) = table_at(&own, addr, (Table::Area, addr, 0)) else { return };
        let mut words = words.iter().map(|word| PhysAddr::new(word.load(Relaxed)));
        let next = words.next().unwrap_or_default();
        for entry in words.take_while(|entry| entry.get() != 0) {
            let block = Block::containing(entry.pfn(), order);
            let done = memory.unpreserve(block);
            debug_assert!(done.is_ok(), "a block of an area is preserved: {done:?}");
            each(block);
        }
        drop_table(memory, chunk);
        addr = next;
    }
}
