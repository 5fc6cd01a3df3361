//! The slabs that a cache directory names, one after the other.

use heirloom_kho::PhysAddr;
use heirloom_kho::narrow::usize_to_u64;
use heirloom_kho::sync::AtomicU64;
use heirloom_kho::sync::Ordering::Relaxed;

use super::page::HEADER;
use super::record::CacheRecord;
use super::table::is_free_entry;
use super::view::{Chain, DirectoryView, Source};
use crate::header::SlabDesc;
use crate::predecessor::Named;
use crate::store;

impl<'m, S: Source<'m>> DirectoryView<S> {
    /// Returns the addresses of a cache's slabs, each with that of its entry. What is there is
    /// still to be checked.
    pub(crate) fn named(&self, record: &CacheRecord) -> NamedSlabs<'m, S> {
        NamedSlabs { pages: self.table_pages(record), page: PhysAddr::new(0), words: &[], index: 0 }
    }

    /// Returns those from entry `index` of the page at `page` on, one of the cache's slab table.
    pub(crate) fn named_from(
        &self,
        record: &CacheRecord,
        page: PhysAddr,
        index: usize,
    ) -> NamedSlabs<'m, S> {
        let mut named = self.named(record);
        named.pages.next = page;
        named.turn_page();
        named.index = index;
        named
    }

    /// Returns the addresses of a cache's slabs. What is there is still to be checked.
    pub(crate) fn slabs(
        &self,
        record: &CacheRecord,
    ) -> impl Iterator<Item = PhysAddr> + use<'m, S> {
        self.named(record).map(|named| named.slab)
    }

    /// Returns the first page of the slab table behind that of which `page` is a page, among those
    /// of all records of a slab description: there is one record of each, but for what a
    /// predecessor forged.
    pub(crate) fn table_behind(&self, desc: &SlabDesc, page: PhysAddr) -> Option<PhysAddr> {
        let mut records = self.records_with(|there| there == desc);
        records.find(|record| self.table_pages(record).any(|(there, ..)| there == page))?;
        Some(records.next()?.table())
    }
}

/// The slabs in a slab table, from [`DirectoryView::named`].
pub(crate) struct NamedSlabs<'m, S> {
    pages: Chain<'m, S>,
    page: PhysAddr,
    /// The page's entries.
    words: &'m [AtomicU64],
    index: usize,
}

impl<'m, S: Source<'m>> NamedSlabs<'m, S> {
    /// Returns where it goes on: a page of the slab table, and the number of the entry.
    pub(crate) const fn place(&self) -> (PhysAddr, usize) {
        (self.page, self.index)
    }

    /// Goes to the first entry of the next page.
    fn turn_page(&mut self) -> Option<()> {
        let (page, words, count) = self.pages.next()?;
        let words = words.get(HEADER..HEADER + count).unwrap_or(&[]);
        (self.page, self.words, self.index) = (page, words, 0);
        Some(())
    }
}

impl<'m, S: Source<'m>> Iterator for NamedSlabs<'m, S> {
    type Item = Named;

    fn next(&mut self) -> Option<Named> {
        loop {
            while let Some(word) = self.words.get(self.index) {
                let at = (HEADER + self.index) * size_of::<u64>();
                self.index += 1;
                let found = store::load(word, Relaxed);
                if !is_free_entry(found) {
                    let entry = PhysAddr::new(self.page.get() + usize_to_u64(at));
                    return Some(Named { slab: PhysAddr::new(found), entry });
                }
            }
            self.turn_page()?;
        }
    }
}
