//! A memfd for Linux to find: written as Linux writes it.

use super::blank::{BlankPage, take};
use super::bytes::save;
use super::memfd::{ENTRY, FLAGS, MemfdFolio, Stored};
use crate::addr::{Block, Order, PAGE_SIZE, PhysAddr};
use crate::area::{AreaInfo, PER_CHUNK};
use crate::error::Error;
use crate::fault::{Fault, Table};
use crate::narrow::usize_to_u64;
use crate::page_size::PageSize;
use crate::store;
use crate::sync::AtomicU64;
use crate::sync::Ordering::Relaxed;

/// Entries of folios in a page.
const PER_PAGE: u64 = usize_to_u64(PAGE_SIZE) / ENTRY;

/// A memfd in the making: its folios, in the order of the file. Nothing leads to it until its address is
/// the data of a file: [`FileList::push`](super::FileList::push).
#[derive(Debug)]
pub struct MemfdWriter<'p> {
    page: BlankPage<'p>,
    stored: Stored,
    /// The page of the file after the last folio.
    next: u64,
    folios: u64,
    entries: List<'p>,
}

/// The pages with entries, as an area.
#[derive(Debug)]
struct List<'p> {
    first: Option<PhysAddr>,
    chunk: &'p [AtomicU64],
    /// Words of the chunk in use, its link included.
    used: usize,
    /// The last page of entries.
    page: &'p [AtomicU64],
    pages: u32,
}

impl MemfdFolio {
    /// Returns the folio at page `index` of a file, with contents.
    pub const fn with_contents(block: Block, index: u64) -> Self {
        Self { block, index, flags: FLAGS }
    }
}

impl<'p> MemfdWriter<'p> {
    /// Begins a file of `size` bytes, at position 0, without seals, flags or folios: all of it reads as
    /// zeroes. Takes a page.
    ///
    /// # Errors
    /// [`Error::TableFull`]: `pages` has none left. [`Error::Table`]: no file can be so large.
    pub fn new(pages: &mut impl Iterator<Item = BlankPage<'p>>, size: u64) -> Result<Self, Error> {
        let page = take(pages, Table::Memfd, 0)?;
        let memfd = Self {
            page,
            stored: Stored::of_size(size),
            next: 0,
            folios: 0,
            entries: List { first: None, chunk: &[], used: 0, page: &[], pages: 0 },
        };
        match memfd.stored.values(page.addr()).faults().next() {
            Some(fault) => Err(fault),
            None => Ok(memfd),
        }
    }

    /// Returns how many pages a file of so many folios takes, beside the folios.
    pub const fn pages_for(folios: u64) -> u64 {
        let entries = folios.div_ceil(PER_PAGE);
        1 + entries + entries.div_ceil(usize_to_u64(PER_CHUNK))
    }

    /// Returns the same file at position `pos`, with these seals and flags.
    ///
    /// # Errors
    /// [`Error::Table`]: no file can be at that position, or a seal that is none.
    pub fn with(mut self, pos: u64, seals: u32, flags: u32) -> Result<Self, Error> {
        self.stored.describe(pos, seals, flags);
        match self.stored.values(self.page.addr()).faults().next() {
            Some(fault) => Err(fault),
            None => Ok(self),
        }
    }

    /// Appends a folio, which is preserved as the block that it is.
    ///
    /// # Errors
    /// [`Error::Table`]: it does not come behind the folio before it, lies beyond the file's end or where no
    /// folio of its size can start, has a flag that is none, [`Error::TableFull`]:
    /// `pages` has none left, or a file has no more folios. The file is as it was.
    pub fn push(
        &mut self,
        pages: &mut impl Iterator<Item = BlankPage<'p>>,
        folio: MemfdFolio,
    ) -> Result<(), Error> {
        let page = PageSize::BUILD;
        let (at, count) = (self.page.addr(), self.folios);
        let fail = |fault: Fault| Err(fault.in_table(Table::MemfdFolios, at, 0));
        let limit = self.stored.values(at).pages();
        if folio.index >= limit {
            return fail(Fault::TooMany { found: folio.index, limit: limit.saturating_sub(1) });
        }
        if folio.index < self.next {
            return fail(Fault::Malformed { expected: "page behind the folio before" });
        }
        if let Some(fault) = folio.faults(at, page).next() {
            return Err(fault);
        }
        let slot = count % PER_PAGE;
        if slot == 0 {
            self.entries.grow(pages, count)?;
        }
        let entry = self.entries.page.chunks_exact(2).nth(usize::try_from(slot).unwrap_or(0));
        for (word, value) in entry.unwrap_or(&[]).iter().zip(folio.words()) {
            store::word64(word, value, Relaxed);
        }
        self.folios += 1;
        self.next = folio.end(page);
        Ok(())
    }

    /// Writes the memfd, and returns where it is: the data of a file of kind [`Memfd::COMPATIBLE`](super::Memfd::COMPATIBLE).
    pub fn finish(mut self) -> PhysAddr {
        let List { first, pages, .. } = self.entries;
        let area = first.and_then(|first| AreaInfo::new(first, pages, Order::ZERO, false));
        self.stored.keep(self.folios, area);
        save(self.page.words(), &self.stored);
        self.page.addr()
    }
}

impl<'p> List<'p> {
    /// Adds a page for entries, behind `count` entries, and a chunk if none has room for it.
    fn grow(
        &mut self,
        pages: &mut impl Iterator<Item = BlankPage<'p>>,
        count: u64,
    ) -> Result<(), Error> {
        let table = Table::MemfdFolios;
        let total = self.pages.checked_add(1).ok_or(Error::TableFull { table, limit: count })?;
        let full = self.first.is_none() || self.used > PER_CHUNK;
        // Both pages are had before either is linked: without the second the list stays as it was.
        let chunk = if full { Some(take(pages, table, count)?) } else { None };
        let page = take(pages, table, count)?;
        if let Some(chunk) = chunk {
            match (self.first, self.chunk.first()) {
                (Some(_), Some(link)) => store::word64(link, chunk.addr().get(), Relaxed),
                _ => self.first = Some(chunk.addr()),
            }
            (self.chunk, self.used) = (chunk.words(), 1);
        }
        if let Some(word) = self.chunk.get(self.used) {
            store::word64(word, page.addr().get(), Relaxed);
        }
        self.used += 1;
        (self.page, self.pages) = (page.words(), total);
        Ok(())
    }
}
