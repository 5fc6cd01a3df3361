//! A cache directory as it is read: a predecessor's, believed only as far as it was checked, or our own.

use core::marker::PhantomData;

use heirloom_folio::{Machine, Memory};
use heirloom_kho::PageSize;
use heirloom_kho::narrow::{u64_to_usize, usize_to_u32, usize_to_u64};
use heirloom_kho::sync::AtomicU64;
use heirloom_kho::sync::Ordering::{Acquire, Relaxed};
use heirloom_kho::{Block, Pages, PhysAddr, Run};
use zerocopy::{FromZeros, IntoBytes};

use super::page::HEADER;
use super::record::{CacheRecord, Stored};
use super::table::{is_free_entry, slabs};
use super::write::{WORDS, records};
use crate::error::{DirectoryError, DirectoryFault, Error, SlabError, SlabFault};
use crate::header::SlabDesc;
use crate::store;

/// Pages of records that a cache directory may have, as many as Linux allows a chain of blocks.
const MAX_PAGES: u64 = 10_000;

/// Where the pages of a cache directory, and the slabs that it names, are read from.
pub(crate) trait Source<'p>: Copy {
    /// Returns the size of the pages of the kernel that wrote the directory.
    #[inline]
    fn page_size(self) -> PageSize {
        PageSize::BUILD
    }

    /// Returns whether all of `run` is memory.
    fn is_memory(self, run: Run) -> bool;

    /// Returns whether this block is one that a cache directory or a cache can have.
    fn holds(self, block: Block) -> bool;

    /// Returns `bytes` bytes from `addr`, which lie in a block that it holds.
    fn words(self, addr: PhysAddr, bytes: usize) -> Option<&'p [AtomicU64]>;

    /// Returns how many frames there are: no table has more pages.
    fn frames(self) -> u64;
}

impl<'p, P: Pages> Source<'p> for &'p P {
    fn page_size(self) -> PageSize {
        Pages::page_size(self)
    }

    fn is_memory(self, run: Run) -> bool {
        Pages::is_memory(self, run)
    }

    fn holds(self, block: Block) -> bool {
        Pages::holds(self, block)
    }

    fn words(self, addr: PhysAddr, bytes: usize) -> Option<&'p [AtomicU64]> {
        Pages::words(self, addr, bytes)
    }

    /// Returns no bound. Each page of a chain is preserved, and one that comes back is noticed.
    fn frames(self) -> u64 {
        u64::MAX
    }
}

/// What a block is that a check comes upon.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Part {
    /// A page of records.
    Records,
    /// A page of a slab table.
    Table,
    /// A slab.
    Slab,
}

/// This machine's memory as a source: what is preserved in it.
pub(crate) struct Here<'m, M: Machine> {
    memory: &'m Memory<M>,
}

impl<'m, M: Machine> Here<'m, M> {
    /// Returns what is preserved in `memory`.
    ///
    /// # Safety
    /// While anything read through it lives, nothing in this kernel writes, other than atomically,
    /// to the pages and slabs that are read: they are the cache directory's, or slabs that are left or in use.
    pub(crate) const unsafe fn new(memory: &'m Memory<M>) -> Self {
        Self { memory }
    }
}

impl<M: Machine> Clone for Here<'_, M> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<M: Machine> Copy for Here<'_, M> {}

impl<'m, M: Machine> Source<'m> for Here<'m, M> {
    fn is_memory(self, run: Run) -> bool {
        self.memory.contains(run)
    }

    fn holds(self, block: Block) -> bool {
        self.memory.preserved().contains(block)
    }

    fn words(self, addr: PhysAddr, bytes: usize) -> Option<&'m [AtomicU64]> {
        let words = bytes.div_ceil(size_of::<u64>());
        let run = Run::covering(addr, usize_to_u64(words * size_of::<u64>()))?;
        if !self.memory.contains(run) || !addr.get().is_multiple_of(usize_to_u64(size_of::<u64>()))
        {
            return None;
        }
        let first = self.memory.machine().ptr(addr).cast::<AtomicU64>();
        // SAFETY: the map covers the run, aligned; nothing writes it but by atomics
        // (`Here::new` was promised that, and we write our own so).
        Some(unsafe { core::slice::from_raw_parts(first.as_ptr(), words) })
    }

    fn frames(self) -> u64 {
        self.memory.frames()
    }
}

/// A cache directory.
///
/// Pages are believed if they are preserved: by the predecessor, and not claimed, or by us. Slabs
/// are checked one by one, when they are adopted.
#[derive(Clone, Copy)]
pub(crate) struct DirectoryView<S> {
    source: S,
    first: PhysAddr,
}

impl<'m, M: Machine> DirectoryView<Here<'m, M>> {
    /// Returns the predecessor's cache directory whose first page is at `first`, which this kernel
    /// is to go on with.
    ///
    /// # Safety
    /// As for [`Here::new`].
    pub(crate) const unsafe fn left(memory: &'m Memory<M>, first: PhysAddr) -> Self {
        // SAFETY: the same contract.
        Self { source: unsafe { Here::new(memory) }, first }
    }

    /// Returns a view of our own cache directory.
    pub(crate) const fn own(memory: &'m Memory<M>, directory: &super::CacheDirectory<M>) -> Self {
        Self { source: Here { memory }, first: directory.first() }
    }
}

impl<'m, S: Source<'m>> DirectoryView<S> {
    /// Returns the cache directory in `source` whose first page is at `first`.
    pub(crate) const fn new(source: S, first: PhysAddr) -> Self {
        Self { source, first }
    }

    /// Returns where the cache directory is read from.
    pub(crate) const fn source(&self) -> S {
        self.source
    }

    /// Checks every page, every record, every slab table, and that what they name is there and is
    /// named once: `claim` is told of each page and slab. Hands what is wrong to `found`, with the
    /// page or the slab and the reason; what follows a page at fault in its chain is not looked at.
    /// `slab` is called with each slab that is sound so far.
    ///
    /// # Errors
    /// The first error of `found` or `slab`.
    pub(crate) fn check<E>(
        &self,
        claim: impl FnMut(Block, Part) -> Result<(), heirloom_folio::Error>,
        found: impl FnMut(Error) -> Result<(), E>,
        slab: impl FnMut(PhysAddr, &CacheRecord) -> Result<(), Error>,
    ) -> Result<(), E> {
        let mut checks = Checks { claim, found, slab };
        let mut pages = self.own_pages();
        while let Some((page, page_words, count)) = checks.page(Part::Records, &mut pages)? {
            for index in 0..count {
                match stored(page_words, index).check(self.source.page_size()) {
                    Ok(None) => {}
                    Ok(Some(record)) => self.check_table(&record, &mut checks)?,
                    Err(fault) => {
                        let index = usize_to_u32(index);
                        (checks.found)(DirectoryError { page, index, fault }.into())?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Returns the caches.
    pub(crate) fn records(&self) -> impl Iterator<Item = CacheRecord> + use<'m, S> {
        self.records_with(|_| true)
    }

    /// Returns the caches whose slab description is one of these: looked at before a record is
    /// checked, which takes longer.
    pub(crate) fn records_with<F: Fn(&SlabDesc) -> bool + Copy>(
        &self,
        is: F,
    ) -> impl Iterator<Item = CacheRecord> + use<'m, S, F> {
        let page = self.source.page_size();
        self.own_pages().flat_map(move |(_, words, count)| {
            (0..count).filter_map(move |index| {
                let stored = stored(words, index);
                if is(stored.desc()) { stored.check(page).ok().flatten() } else { None }
            })
        })
    }

    /// Returns what stands in every place for a record, counted or not.
    #[cfg(test)]
    pub(crate) fn places(
        &self,
    ) -> impl Iterator<Item = Result<Option<CacheRecord>, DirectoryFault>> {
        let page = self.source.page_size();
        let places =
            move |words| (0..records(page)).map(move |index| stored(words, index).check(page));
        self.own_pages().flat_map(move |(_, words, _)| places(words))
    }

    /// Returns the addresses of all pages of the cache directory, those of slab tables included.
    pub(crate) fn pages(&self) -> impl Iterator<Item = PhysAddr> + use<'m, S> {
        let view = *self;
        let tables = view.records().flat_map(move |record| view.table_pages(&record));
        view.own_pages().chain(tables).map(|(page, ..)| page)
    }

    fn own_pages(&self) -> Chain<'m, S> {
        let entries = records(self.source.page_size());
        let limits = Limits { pages: MAX_PAGES, entries, full: false };
        Chain::new(self, self.first, limits)
    }

    pub(super) fn table_pages(&self, record: &CacheRecord) -> Chain<'m, S> {
        let entries = slabs(self.source.page_size());
        let limits = Limits { pages: self.source.frames(), entries, full: true };
        Chain::new(self, record.table(), limits)
    }

    fn check_table<C, F, V, E>(
        &self,
        record: &CacheRecord,
        checks: &mut Checks<C, F, V>,
    ) -> Result<(), E>
    where
        C: FnMut(Block, Part) -> Result<(), heirloom_folio::Error>,
        F: FnMut(Error) -> Result<(), E>,
        V: FnMut(PhysAddr, &CacheRecord) -> Result<(), Error>,
    {
        let mut pages = self.table_pages(record);
        while let Some((page, page_words, count)) = checks.page(Part::Table, &mut pages)? {
            for (index, word) in (0_u32..).zip(page_words.iter().skip(HEADER).take(count)) {
                let found = store::load(word, Relaxed);
                if is_free_entry(found) {
                    continue;
                }
                let addr = PhysAddr::new(found);
                // A slab of this order starts where such a block does, or the entry names none.
                let block = Block::new(addr.pfn(), record.order());
                let sound = match block.filter(|block| block.addr() == addr) {
                    None => {
                        Err(DirectoryError { page, index, fault: DirectoryFault::Entry { found } }
                            .into())
                    }
                    Some(block) => self.claim_slab(block, &mut checks.claim),
                };
                // Claimed before it is looked into, so that no slab counts for two records.
                if let Err(error) = sound.and_then(|()| (checks.slab)(addr, record)) {
                    (checks.found)(error)?;
                }
            }
        }
        Ok(())
    }

    /// Claims a slab that the cache directory names.
    fn claim_slab(
        &self,
        block: Block,
        mut claim: impl FnMut(Block, Part) -> Result<(), heirloom_folio::Error>,
    ) -> Result<(), Error> {
        let fail = |fault| Error::Slab(SlabError { slab: block.addr(), fault });
        if !self.source.is_memory(block.run()) {
            return Err(fail(SlabFault::Misplaced));
        }
        claim(block, Part::Slab).map_err(|error| match error {
            heirloom_folio::Error::WrongType { .. } => fail(SlabFault::Duplicate),
            _ => fail(SlabFault::NotPreserved { block }),
        })
    }
}

/// What is done about each thing that a check comes upon.
struct Checks<C, F, S> {
    claim: C,
    found: F,
    slab: S,
}

impl<C, F, S, E> Checks<C, F, S>
where
    C: FnMut(Block, Part) -> Result<(), heirloom_folio::Error>,
    F: FnMut(Error) -> Result<(), E>,
{
    /// Returns the next page of a chain, claimed; `None` after the last, or after one at fault.
    fn page<'m>(
        &mut self,
        part: Part,
        pages: &mut Chain<'m, impl Source<'m>>,
    ) -> Result<Option<Page<'m>>, E> {
        let next = pages.try_next().and_then(|next| {
            let Some((page, ..)) = next else { return Ok(None) };
            let block = pages.source.page_size().page_of(page.pfn());
            let twice = DirectoryError { page, index: 0, fault: DirectoryFault::Duplicate };
            (self.claim)(block, part).map(|()| next).map_err(|_| twice)
        });
        next.or_else(|error| (self.found)(error.into()).map(|()| None))
    }
}

/// Returns record `index` of a page.
fn stored(words: &[AtomicU64], index: usize) -> Stored {
    let mut stored = Stored::new_zeroed();
    let words = words.iter().skip(HEADER + index * WORDS);
    for (bytes, word) in stored.as_mut_bytes().chunks_exact_mut(size_of::<u64>()).zip(words) {
        // Acquire pairs with the Release store of the checksum in `CacheDirectory::add_cache`: where it stands,
        // which is first, what follows does too.
        bytes.copy_from_slice(&store::load(word, Acquire).to_le_bytes());
    }
    stored
}

/// A page of a chain: its address, its words and how many entries it has, checked.
pub(super) type Page<'m> = (PhysAddr, &'m [AtomicU64], usize);

/// What the pages of a chain can be.
#[derive(Clone, Copy)]
struct Limits {
    /// How many.
    pages: u64,
    /// Entries that one can hold.
    entries: usize,
    /// Whether each but the last has as many.
    full: bool,
}

/// A chain of pages.
pub(super) struct Chain<'m, S> {
    source: S,
    pub(super) next: PhysAddr,
    /// Where the link to `next` stands, for errors.
    from: PhysAddr,
    limits: Limits,
    seen: u64,
    /// Brent's cycle detection: where we were at the last power of two.
    mark: PhysAddr,
    power: u64,
    marker: PhantomData<&'m [AtomicU64]>,
}

impl<'m, S: Source<'m>> Chain<'m, S> {
    fn new(view: &DirectoryView<S>, first: PhysAddr, limits: Limits) -> Self {
        // A chain has one page at least: zero is no page's address here.
        let next = if first.get() == 0 { PhysAddr::new(1) } else { first };
        let (source, from, mark) = (view.source, first, next);
        let marker = PhantomData;
        Self { source, next, from, limits, seen: 0, mark, power: 1, marker }
    }

    /// Returns the next page, or `None` after the last.
    fn try_next(&mut self) -> Result<Option<Page<'m>>, DirectoryError> {
        let page = self.next;
        if page.get() == 0 {
            return Ok(None);
        }
        let fail = |fault| DirectoryError { page: self.from, index: 0, fault };
        let size = self.source.page_size();
        let block = size.page_of(page.pfn());
        if !size.is_aligned(page) || !self.source.is_memory(block.run()) {
            return Err(fail(DirectoryFault::Misplaced { addr: page }));
        }
        if !self.source.holds(block) {
            return Err(fail(DirectoryFault::NotPreserved { addr: page }));
        }
        if self.seen == self.limits.pages || self.seen > 0 && page == self.mark {
            return Err(fail(DirectoryFault::Endless));
        }
        let words = self.source.words(page, size.bytes());
        let words = words.ok_or(fail(DirectoryFault::Misplaced { addr: page }))?;
        self.seen += 1;
        if self.seen == self.power {
            (self.mark, self.power) = (page, self.power * 2);
        }
        // Acquire pairs with the Release stores of `CacheDirectory` and `SlabTable` where the cache directory is our
        // own: what is linked or counted is written.
        let word = |i: usize| words.get(i).map_or(0, |word| store::load(word, Acquire));
        // The link first: of our own, which may be growing, one that is there says that it is full.
        let (next, found) = (word(0), word(1));
        let entries = usize_to_u64(self.limits.entries);
        let fault = match found {
            _ if found > entries => DirectoryFault::Count { found },
            _ if self.limits.full && next != 0 && found < entries => {
                DirectoryFault::NotFull { found, expected: entries }
            }
            _ => {
                (self.next, self.from) = (PhysAddr::new(next), page);
                return Ok(Some((page, words, u64_to_usize(found))));
            }
        };
        Err(DirectoryError { page, index: 0, fault })
    }
}

impl<'m, S: Source<'m>> Iterator for Chain<'m, S> {
    type Item = Page<'m>;

    fn next(&mut self) -> Option<Self::Item> {
        // A chain that was checked and is no longer sound ends where that shows.
        self.try_next().ok().flatten()
    }
}
