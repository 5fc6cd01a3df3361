//! The cache directory, as this kernel writes it.

use heirloom_folio::{Machine, Memory};
use heirloom_kho::PageSize;
use heirloom_kho::PhysAddr;
use heirloom_kho::narrow::usize_to_u64;
use heirloom_kho::sync::Ordering::{Relaxed, Release};
use lock_api::Mutex;
use zerocopy::IntoBytes;

use super::page::{HEADER, drop_page, new_page, words};
use super::record::{NONE, Stored};
use crate::error::Error;
use crate::header::SlabDesc;
use crate::store;

/// Records in a page.
pub(super) const RECORDS: usize = records(PageSize::BUILD);
/// Returns the number of words of a record. Returns how many records a page of this size holds.
pub(super) const fn records(page: PageSize) -> usize {
    (page.bytes() - HEADER * size_of::<u64>()) / size_of::<Stored>()
}

pub(super) const WORDS: usize = size_of::<Stored>() / size_of::<u64>();

/// The cache directory of this kernel.
pub(crate) struct CacheDirectory<M: Machine> {
    first: PhysAddr,
    end: Mutex<M::Lock, End>,
}

/// Where the next record goes.
struct End {
    page: PhysAddr,
    count: usize,
}

impl<M: Machine> CacheDirectory<M> {
    /// Allocates the page of an empty cache directory.
    ///
    /// # Errors
    /// [`Error::Folio`]: out of memory.
    pub(crate) fn first_page(memory: &Memory<M>) -> Result<PhysAddr, Error> {
        new_page(memory)
    }

    /// Returns the cache directory whose first page is at `first`: an empty one, from
    /// [`CacheDirectory::first_page`], or a predecessor's that was checked, with which this kernel
    /// goes on.
    pub(crate) fn reopen(memory: &Memory<M>, first: PhysAddr) -> Self {
        let mut end = End { page: first, count: 0 };
        loop {
            // SAFETY: a page of the cache directory, which this kernel writes by atomics alone.
            let page = unsafe { words(memory, end.page) };
            let word = |at: usize| page.get(at).map_or(0, |word| store::load(word, Relaxed));
            end.count = usize::try_from(word(1)).unwrap_or(RECORDS).min(RECORDS);
            // A record that a kernel counted, and did not come to write, leaves its place to the next: else
            // the cache directory would grow with each kernel that ends there.
            while end.count > 0 && word(HEADER + (end.count - 1) * WORDS) == NONE {
                end.count -= 1;
            }
            match word(0) {
                0 => return Self { first, end: Mutex::new(end) },
                next => end.page = PhysAddr::new(next),
            }
        }
    }

    /// Returns the address of the first page.
    pub(crate) const fn first(&self) -> PhysAddr {
        self.first
    }

    /// Adds a cache so described: the first page of its slab table.
    ///
    /// # Errors
    /// [`Error::Folio`]: out of memory.
    pub(crate) fn add_cache(&self, memory: &Memory<M>, desc: SlabDesc) -> Result<PhysAddr, Error> {
        let table = new_page(memory)?;
        let mut end = self.end.lock();
        if end.count == RECORDS {
            let page = new_page(memory).inspect_err(|_| drop_page(memory, table))?;
            // SAFETY: a page of this cache directory.
            if let Some(link) = unsafe { words(memory, end.page) }.first() {
                // Release: a reader that follows the link reads a page of zeroes.
                store::word(link, page.get(), Release);
            }
            *end = End { page, count: 0 };
        }
        let stored = Stored::new(desc, table);
        let value = |bytes: &[u8]| {
            let mut value = [0; size_of::<u64>()];
            value.copy_from_slice(bytes);
            u64::from_le_bytes(value)
        };
        // SAFETY: a page of this cache directory.
        let page = unsafe { words(memory, end.page) };
        let place = page.iter().skip(HEADER + end.count * WORDS);
        let record = stored.as_bytes().chunks_exact(size_of::<u64>()).map(value);
        let mut record = place.zip(record);
        // The checksum, which is to be zero as long as nothing is to be read there: what a
        // predecessor left behind its count is anything.
        let link = record.next();
        if let Some((word, _)) = link {
            store::word(word, NONE, Relaxed);
        }
        for (word, value) in record {
            store::word(word, value, Relaxed);
        }
        end.count += 1;
        if let Some(counter) = page.get(1) {
            // Release: what reads the count reads that there is no record yet.
            store::word(counter, usize_to_u64(end.count), Release);
        }
        if let Some((word, value)) = link {
            // Release pairs with the Acquire in `stored`: what reads the checksum reads the record.
            store::word(word, value, Release);
        }
        Ok(table)
    }
}
