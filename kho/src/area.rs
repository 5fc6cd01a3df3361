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

use zerocopy::native_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::addr::{Block, Order, PAGE_SIZE, PhysAddr};
use crate::error::Error;
use crate::fault::{Fault, Table};
use crate::narrow::u32_to_u64;
use crate::page_size::PageSize;
use crate::pages::{Pages, block_at, table_at};
use crate::sync::Ordering::Relaxed;

/// Blocks that one chunk page names.
pub const PER_CHUNK: usize = PAGE_SIZE / 8 - 1;

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

/// What the descriptor of an area says, in pages of the kernel that wrote it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AreaInfo {
    pub(crate) first: PhysAddr,
    pub(crate) pages: u32,
    pub(crate) order: Order,
    pub(crate) huge: bool,
}

impl AreaInfo {
    /// Returns an area of `pages` pages in blocks of `order`, whose first chunk page is at `first`.
    /// `None` if `first` starts no page, or `pages` is zero or not whole blocks.
    pub const fn new(first: PhysAddr, pages: u32, order: Order, huge: bool) -> Option<Self> {
        let whole = pages != 0 && u32_to_u64(pages).is_multiple_of(order.frames());
        if !whole || first.get() == 0 || !first.is_page_aligned() {
            return None;
        }
        Some(Self { first, pages, order, huge })
    }

    /// Returns the first chunk page.
    pub const fn first(self) -> PhysAddr {
        self.first
    }

    /// Returns the number of pages in the area.
    pub const fn pages(self) -> u32 {
        self.pages
    }

    /// Returns the order of its blocks: how many pages one has, as a power of two.
    pub const fn order(self) -> Order {
        self.order
    }

    /// Returns whether its owner allows huge mappings.
    pub const fn huge(self) -> bool {
        self.huge
    }

    /// Returns how many blocks it has.
    pub const fn blocks(self) -> u64 {
        u32_to_u64(self.pages) >> self.order.get()
    }

    /// Returns the descriptor that says this.
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
    /// Takes `blocks / 511 + 1` chunks and not one step more, whatever is in them, and no chunk more
    /// than three times. That a block is not named twice is not checked: claiming it twice fails.
    ///
    /// # Errors
    /// [`Error::Table`] with the chunk, the byte and the reason: a chunk or block misaligned or
    /// not preserved, a chunk with a next one that is not full, chunks that lead back to one before,
    /// more or fewer blocks than the descriptor says. The first error of `each`. What `each` did by then stands.
    pub fn walk<E: From<Error>>(
        self,
        pages: &impl Pages,
        mut each: impl FnMut(AreaPart) -> Result<(), E>,
    ) -> Result<(), E> {
        let expected = self.blocks();
        let order = self.block_order(pages.page_size())?;
        let mut seen = 0;
        let (mut from, mut addr) = ((Table::Area, self.first, 0), self.first);
        // Brent's cycle detection, as for chains of records.
        let (mut tortoise, mut power, mut chunks) = (self.first, 1_u64, 0_u64);
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
                    return Err(fault.in_table(at.0, at.1, at.2).into());
                }
                seen += 1;
                each(AreaPart::Block(block_at(pages, entry, order, at)?))?;
            }
            let next = PhysAddr::new(next.load(Relaxed));
            if next.get() == 0 {
                break;
            }
            if !full {
                return Err(malformed(addr, 0).into());
            }
            if next == tortoise {
                let cycle = Fault::Malformed { expected: "end: it comes back to a chunk before" };
                return Err(cycle.in_table(Table::Area, addr, 0).into());
            }
            chunks += 1;
            if chunks == power {
                (tortoise, power) = (next, power * 2);
            }
            (from, addr) = ((Table::Area, addr, 0), next);
        }
        if seen != expected {
            let fault = Fault::Length { expected, found: seen };
            return Err(fault.in_table(Table::Area, addr, 8).into());
        }
        Ok(())
    }
}

impl AreaInfo {
    /// Returns the order of its blocks in frames of this build.
    fn block_order(self, page: PageSize) -> Result<Order, Error> {
        let (found, limit) = (self.order.get().into(), page.max_order().into());
        let order = page.order_of(self.order.get());
        order.ok_or(Fault::TooMany { found, limit }.in_table(Table::Area, self.first, 0))
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
    /// Returns what the descriptor, which stands at `at` and was written by a kernel with pages of this
    /// size, says.
    ///
    /// # Errors
    /// [`Error::Table`]: no page can start at the first chunk's address, the order is beyond the
    /// largest, the pages are not whole blocks, or a flag is not known.
    pub fn info(&self, at: PhysAddr, page: PageSize) -> Result<AreaInfo, Error> {
        let fail = |offset, fault: Fault| fault.in_table(Table::Area, at, offset);
        let addr = PhysAddr::new(self.first.get());
        if addr.get() == 0 || !page.is_aligned(addr) {
            return Err(fail(0, Fault::Misaligned { addr }));
        }
        let flags = self.flags.get();
        if flags & !(FLAG_PLAIN | FLAG_HUGE) != 0 {
            return Err(fail(12, Fault::Reserved { found: flags.into() }));
        }
        let found = self.order.get();
        let order = u8::try_from(found).ok().and_then(Order::new);
        let order = order.filter(|order| order.get() <= page.max_order());
        let limit = page.max_order().into();
        let order = order.ok_or(fail(14, Fault::TooMany { found: found.into(), limit }))?;
        let pages = self.pages.get();
        AreaInfo::new(addr, pages, order, flags & FLAG_HUGE != 0).ok_or_else(|| {
            let expected = u64::from(pages).next_multiple_of(order.frames()).max(order.frames());
            fail(8, Fault::Length { expected, found: pages.into() })
        })
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;
    use crate::fault::TableError;
    use crate::testing::{Left, proptest_config};

    const PAGE: u64 = PAGE_SIZE as u64;

    fn page(n: u64) -> PhysAddr {
        PhysAddr::new(n * PAGE)
    }

    fn order(n: u8) -> Order {
        Order::new(n).unwrap()
    }

    fn blocks(left: &Left, info: AreaInfo) -> Result<Vec<u64>, Error> {
        let mut found = Vec::new();
        info.walk(left, |part| {
            if let AreaPart::Block(block) = part {
                found.push(block.addr().get());
            }
            Ok::<_, Error>(())
        })?;
        Ok(found)
    }

    fn fault(left: &Left, pages: u32) -> (PhysAddr, usize, Fault) {
        let info = AreaInfo::new(page(1), pages, Order::ZERO, false).unwrap();
        match blocks(left, info) {
            Err(Error::Table(TableError { table: Table::Area, at, offset, fault })) => {
                (at, offset, fault)
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_descriptor_is_linux_s() {
        let info = AreaInfo::new(page(9), 64, order(5), true).unwrap();
        let descriptor = info.descriptor();
        let bytes = descriptor.as_bytes();
        assert_eq!(bytes[..8], page(9).get().to_ne_bytes());
        assert_eq!(bytes[8..12], 64_u32.to_ne_bytes());
        assert_eq!(bytes[12..14], 3_u16.to_ne_bytes());
        assert_eq!(bytes[14..], 5_u16.to_ne_bytes());
        assert_eq!(descriptor.info(page(2), PageSize::BUILD), Ok(info));
    }

    #[test]
    fn a_bad_descriptor_names_its_field() {
        let good = AreaInfo::new(page(9), 64, order(5), false).unwrap().descriptor();
        let at = page(2);
        let fault = |descriptor: AreaDescriptor| match descriptor.info(at, PageSize::BUILD) {
            Err(Error::Table(e)) => (e.offset, e.fault),
            other => panic!("{other:?}"),
        };
        let addr = PhysAddr::new(9);
        let bad = AreaDescriptor { first: 9.into(), ..good };
        assert_eq!(fault(bad), (0, Fault::Misaligned { addr }));
        let bad = AreaDescriptor { pages: 33.into(), ..good };
        assert_eq!(fault(bad), (8, Fault::Length { expected: 64, found: 33 }));
        let bad = AreaDescriptor { flags: 4.into(), ..good };
        assert_eq!(fault(bad), (12, Fault::Reserved { found: 4 }));
        let bad = AreaDescriptor { order: 64.into(), ..good };
        let limit = Order::MAX.get().into();
        assert_eq!(fault(bad), (14, Fault::TooMany { found: 64, limit }));
    }

    // The capture has 4 KiB pages.
    #[cfg(not(any(heirloom_page = "16k", heirloom_page = "64k")))]
    #[test]
    fn linux_own_area_is_read() {
        use crate::testing::fixture;
        let left = fixture().left();
        // kho_test keeps the descriptor in a device tree of its own.
        let blob = fixture().read(PhysAddr::new(0x58_c000), 240);
        let found: Vec<_> = (0..blob.len() - 16)
            .step_by(4)
            .filter_map(|at| AreaDescriptor::read_from_bytes(&blob[at..at + 16]).ok())
            .filter_map(|descriptor| descriptor.info(page(0), PageSize::BUILD).ok())
            .filter_map(|info| blocks(&left, info).ok())
            .collect();
        assert_eq!(found, [[0x56_a000]]);
    }

    #[test]
    fn a_chain_is_read_to_its_end_and_no_further() {
        let mut left = Left::default();
        let full: Vec<u64> = (0..PER_CHUNK as u64).map(|i| page(100 + i).get()).collect();
        for block in &full {
            left.hold(Block::containing(PhysAddr::new(*block).pfn(), Order::ZERO));
        }
        let chunk = |next| [&[page(next).get()], &full[..]].concat();
        // A full chunk may be followed by an empty one, as Linux does it.
        left.table(page(1), &chunk(2));
        left.table(page(2), &[0]);
        let pages = PER_CHUNK as u32;
        let info = AreaInfo::new(page(1), pages, Order::ZERO, false).unwrap();
        assert_eq!(blocks(&left, info), Ok(full.clone()));
        let (expected, found) = (u64::from(pages) + 1, pages.into());
        assert_eq!(fault(&left, pages + 1), (page(2), 8, Fault::Length { expected, found }));
        let (limit, last) = (expected - 2, PER_CHUNK * 8);
        let too_many = Fault::TooMany { found: limit + 1, limit };
        assert_eq!(fault(&left, pages - 1), (page(1), last, too_many));
        // A chain that leads back to itself has no end, however many blocks the area may have.
        left.table(page(2), &chunk(1));
        let cycle = Fault::Malformed { expected: "end: it comes back to a chunk before" };
        assert_eq!(fault(&left, pages * 5), (page(2), 0, cycle));
        left.table(page(1), &[page(2).get(), full[0]]);
        let (at, _, found) = fault(&left, 2);
        assert_eq!((at, matches!(found, Fault::Malformed { .. })), (page(1), true));
        let stray = page(7).get();
        left.table(page(1), &[0, full[0], stray]);
        let block = Block::containing(page(7).pfn(), Order::ZERO);
        assert_eq!(fault(&left, 2), (page(1), 16, Fault::NotPreserved { block }));
        left.table(page(1), &[0, full[0], full[1] + 1]);
        let addr = PhysAddr::new(full[1] + 1);
        assert_eq!(fault(&left, 2), (page(1), 16, Fault::Misaligned { addr }));
        left.table(page(1), &[page(3).get() + 8]);
        assert_eq!(fault(&left, 2).1, 0);
    }

    proptest! {
        #![proptest_config(proptest_config(512))]

        #[test]
        fn any_chunks_end_in_blocks_or_an_error(
            words in prop::collection::vec(
                prop::collection::vec(prop_oneof![0_u64..12, Just(0), any::<u64>()], 1..8),
                4,
            ),
            pages in 1_u32..64,
            full in any::<bool>(),
        ) {
            let mut left = Left::default();
            for (i, words) in words.iter().enumerate() {
                let addr = |n: &u64| if *n < 12 { n * PAGE } else { *n };
                let mut words: Vec<u64> = words.iter().map(addr).collect();
                if full {
                    words.resize(PER_CHUNK + 1, PAGE);
                }
                left.table(page(i as u64 + 1), &words);
            }
            for i in 5..8 {
                left.hold(Block::containing(page(i).pfn(), Order::ZERO));
            }
            let info = AreaInfo::new(page(1), pages, Order::ZERO, false).unwrap();
            let mut parts = 0_u64;
            let walked = info.walk(&left, |_| {
                parts += 1;
                Ok::<_, Error>(())
            });
            prop_assert!(parts <= u64::from(pages) + u64::from(pages) / PER_CHUNK as u64 + 1);
            if walked.is_ok() {
                prop_assert_eq!(blocks(&left, info).unwrap().len() as u32, pages);
            }
        }
    }
}
