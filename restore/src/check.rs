//! What a predecessor left, believed only after this.
//!
//! ```text
//!  root page ──> scratch ──> tree ──> where root and scratch list lie ──> each subtree
//!                                                    heirloom's own: header, cache directory, slabs, seal
//! ```
//!
//! The same checks serve two callers. [`Heirloom::revive_memory`](crate::Heirloom::revive_memory) is to build on
//! what it reads, so it stops at the first fault; it checks slabs when they are adopted. [`survey`]
//! wants to know all that is wrong with memory that is not this machine's, so it goes on. Each check
//! hands what it found to a closure, and goes on as long as that says `Ok`: for `revive` the closure
//! is `Err`.

use heirloom_kho::PageSize;
use heirloom_kho::narrow::usize_to_u64;
use heirloom_kho::sync::AtomicU64;
use heirloom_kho::tree::{self, Counts, Ledger};
use heirloom_kho::{
    Block, Fault, Header, Image, Left, PAGE_SIZE, Pfn, PhysAddr, RootView, Run, SUBTREE,
    ScratchList, SealInfo, Subtree, Table, TableError,
};
use heirloom_slab::internal::ImageCaches;

use crate::entry::Entry;
use crate::error::Error;
use crate::pages::Pages;
use crate::seal;

/// What a survey read, as far as it was sound.
#[derive(Clone, Copy, Debug, Default)]
pub struct Surveyed {
    /// The address of the tree's root node, if the root page is sound.
    pub map: Option<PhysAddr>,
    /// What is in the tree, but for what is at fault.
    pub counts: Option<Counts>,
    /// What heirloom says of a handover that it wrote.
    pub header: Option<Header>,
    /// Tables whose bytes are as they were sealed; 0 if nothing is sealed.
    pub sealed: u64,
}

/// Checks a whole handover in `image` and hands every fault to `found`: `Ok` goes on, without what
/// is at fault. No finding means that [`Heirloom::revive_memory`](crate::Heirloom::revive_memory) takes it.
///
/// `entry` says where the handover starts; a `scratch_bytes` of 0, that its scratch list is not
/// known. `ledger` has nothing taken; [`Frames`](heirloom_kho::tree::Frames) is one. What
/// other makers' subtrees hold is not looked at: only that their bytes are in memory and preserved.
///
/// The faults are bounded by the size of the tables, which is bounded by the frames that `ledger`
/// gives; of one list, table or chain often the first alone.
///
/// # Errors
/// The first error of `found`.
///
/// # Examples
/// ```
/// use std::sync::atomic::AtomicU64;
/// use heirloom_kho::tree::{Frames, FramesOf};
/// use heirloom_kho::{Image, PAGE_SIZE, Pfn, PhysAddr, RootPage, RootView, Run};
/// use heirloom_restore::{Entry, survey};
/// # use std::sync::atomic::AtomicU32;
///
/// /// Two pages of memory: a root page, and an empty tree.
/// struct Two(Vec<AtomicU64>);
/// const BASE: u64 = 16 * PAGE_SIZE as u64;
/// impl Image for Two {
///     fn words(&self, addr: PhysAddr, bytes: usize) -> Option<&[AtomicU64]> {
///         let skip = usize::try_from(addr.get().checked_sub(BASE)?).ok()?;
///         if !skip.is_multiple_of(8) {
///             return None;
///         }
///         self.0.get(skip / 8..)?.get(..bytes.div_ceil(8))
///     }
///     fn is_memory(&self, run: Run) -> bool {
///         Run::new(Pfn::new(16), 2).unwrap().covers(run)
///     }
/// }
/// # let root: Vec<_> = (0..PAGE_SIZE / 4).map(|_| AtomicU32::new(0)).collect();
/// # let at = PhysAddr::new(BASE);
/// # RootPage::create(&root, at, PhysAddr::new(BASE + PAGE_SIZE as u64))?;
/// # let word = |half: &[AtomicU32]| {
/// #     let halves = [half[0].load(std::sync::atomic::Ordering::Relaxed), half[1].load(std::sync::atomic::Ordering::Relaxed)];
/// #     let bytes = [halves[0].to_ne_bytes(), halves[1].to_ne_bytes()].concat();
/// #     AtomicU64::new(u64::from_ne_bytes(bytes.try_into().unwrap()))
/// # };
/// # let zeroes = (0..PAGE_SIZE / 8).map(|_| AtomicU64::new(0));
/// # let image = Two(root.chunks(2).map(word).chain(zeroes).collect());
///
/// let memory = Run::new(Pfn::new(16), 2).unwrap();
/// let mut words = vec![0; FramesOf::words(memory).unwrap()];
/// let mut stretches = [FramesOf::new(memory, &mut words).unwrap()];
/// let entry = Entry { root: PhysAddr::new(BASE), scratch: PhysAddr::new(0), scratch_bytes: 0 };
/// let mut findings = Vec::new();
/// let surveyed = survey(&image, entry, &mut Frames::new(&mut stretches), |finding| {
///     findings.push(finding);
///     Ok::<_, heirloom_restore::Error>(())
/// })?;
/// assert_eq!(findings, []);
/// assert_eq!(surveyed.counts.unwrap().nodes(), 1);
/// # Ok::<(), heirloom_restore::Error>(())
/// ```
pub fn survey<I, L, E>(
    image: &I,
    entry: Entry,
    ledger: &mut L,
    mut found: impl FnMut(Error) -> Result<(), E>,
) -> Result<Surveyed, E>
where
    I: Image + ?Sized,
    L: Ledger + ?Sized,
{
    let size = image.page_size();
    let mut surveyed = Surveyed::default();
    let bare = Left::bare(image);
    let root = match RootView::read(&bare, entry.root) {
        Ok(root) => root,
        Err(error) => {
            found(error.into())?;
            return Ok(surveyed);
        }
    };
    surveyed.map = Some(root.map());
    let left = Left::new(image, root.map());
    let scratch = scratch(image, entry, &mut found)?;
    scratch.iter().flat_map(ScratchList::runs).for_each(|area| ledger.keep_out(area));
    let tree_fault = |fault| Error::Folio(heirloom_folio::Error::Tree(fault));
    let mut whole = true;
    let counts = tree::survey(root.map(), &left, ledger, |fault| {
        whole = false;
        found(tree_fault(fault))
    })?;
    surveyed.counts = Some(counts);
    // What lies in scratch is kept out of everything else with it.
    let in_scratch = |run| scratch.is_some_and(|areas| areas.overlaps(run));
    for (table, run) in entry.tables(size).filter(|(_, run)| !in_scratch(*run)) {
        held(&left, table, run, ledger).or_else(&mut found)?;
    }
    // Whether it is the first to be named does not matter: a list without areas has no bytes.
    let _ = entry.empty_list(&left).is_some_and(|block| ledger.claim(block));
    let Some((page, header)) = subtrees(&left, &root, &mut found)? else { return Ok(surveyed) };
    surveyed.header = Some(header);
    if let Some(info) = header.seal.info() {
        // What a tree at fault does not name may have been sealed all the same.
        let hidden = if whole { 0 } else { info.entries };
        let frames = sealable(&counts, entry, size).saturating_add(hidden);
        let claimed = seal::for_each_block(&left, &info, |block| claim(block, Table::Seal, ledger));
        match claimed {
            Ok(()) => surveyed.sealed = sealed(&left, &info, frames, &mut found)?,
            Err(error) => found(error)?,
        }
    }
    if let Some(block) = left.block_around(page.pfn()) {
        claim(block, Table::Header, ledger).or_else(&mut found)?;
    }
    if let Some(directory) = header.cache_directory {
        let caches = ImageCaches::new(&left, directory);
        caches.check(|block| ledger.claim(block), |error| found(error.into()))?;
    }
    Ok(surveyed)
}

/// Reads the scratch list, if it is known where it is; `None`, too, for one that is not sound.
fn scratch<I: Image + ?Sized, E>(
    image: &I,
    entry: Entry,
    mut found: impl FnMut(Error) -> Result<(), E>,
) -> Result<Option<ScratchList<'_>>, E> {
    if entry.scratch_bytes == 0 {
        return Ok(None);
    }
    let words = |addr, bytes| image.words(addr, bytes);
    match entry.areas_in(image.page_size(), |run| image.is_memory(run), words) {
        Ok(areas) => Ok(Some(areas)),
        Err(error) => found(error).map(|()| None),
    }
}

impl Entry {
    /// Returns the frames of the root page and the scratch list, if there is one. Of what would end
    /// above the last frame, none.
    pub(crate) fn tables(&self, page: PageSize) -> impl Iterator<Item = (Table, Run)> {
        let root = (Table::Root, self.root, usize_to_u64(page.bytes()));
        let scratch = (Table::Scratch, self.scratch, self.scratch_bytes);
        let runs = [root, scratch];
        let runs = runs.map(|(table, addr, bytes)| (table, page.covering(addr, bytes)));
        let runs = runs.into_iter().filter_map(|(table, run)| Some((table, run?)));
        runs.filter(|(_, run)| !run.is_empty())
    }

    /// Returns the preserved block in which a scratch list without areas stands: of no bytes, and
    /// in a page all the same. An address of 0 is that of no list.
    pub(crate) fn empty_list(&self, pages: &impl Pages) -> Option<Block> {
        let page = pages.page_size().covering(self.scratch, 1)?;
        let there = self.scratch_bytes == 0 && self.scratch.get() != 0 && pages.is_memory(page);
        if there { pages.block_around(page.start()) } else { None }
    }
}

/// Where a table of the handover's own lies.
pub(crate) enum Place {
    /// In a preserved block, whole.
    Preserved(Block),
    /// In frames that nothing preserves.
    Free(Run),
}

/// Returns where the frames of `table` lie.
pub(crate) fn place(pages: &impl Pages, table: Table, run: Run) -> Result<Place, Error> {
    match pages.block_around(run.start()) {
        Some(block) if block.run().covers(run) => Ok(Place::Preserved(block)),
        Some(block) => {
            let fault = Fault::Overlap { run, with: block.run() };
            Err(fault.in_table(table, run.addr(), 0).into())
        }
        None => Ok(Place::Free(run)),
    }
}

/// Takes the frames of one of the handover's own tables from `ledger`.
fn held<L: Ledger + ?Sized>(
    pages: &impl Pages,
    table: Table,
    run: Run,
    ledger: &mut L,
) -> Result<(), Error> {
    match place(pages, table, run)? {
        Place::Preserved(block) => claim(block, table, ledger),
        Place::Free(run) => free(table, run, ledger),
    }
}

/// Claims the preserved block of a table.
fn claim<L: Ledger + ?Sized>(block: Block, table: Table, ledger: &mut L) -> Result<(), Error> {
    if ledger.claim(block) {
        return Ok(());
    }
    Err(Fault::Shared { block }.in_table(table, block.addr(), 0).into())
}

/// Takes frames that nothing preserves: neither a preserved block nor a node may lie there.
fn free<L: Ledger + ?Sized>(table: Table, run: Run, ledger: &mut L) -> Result<(), Error> {
    for block in run.blocks() {
        if ledger.take(block).is_err() {
            let fault = Fault::Overlap { run, with: block.run() };
            return Err(fault.in_table(table, run.addr(), 0).into());
        }
    }
    Ok(())
}

/// Checks that every subtree's bytes are in memory and preserved, and reads heirloom's own, if there
/// is one: the address and what it says.
pub(crate) fn subtrees<E>(
    pages: &impl Pages,
    root: &RootView<'_>,
    mut found: impl FnMut(Error) -> Result<(), E>,
) -> Result<Option<(PhysAddr, Header)>, E> {
    let (mut header, mut lost) = (None, Lost::default());
    for (before, subtree) in root.subtrees().enumerate() {
        let own = subtree
            .map_err(Error::from)
            .and_then(|subtree| own_header(pages, root, before, &subtree, &mut lost));
        match own {
            Ok(own) => header = own.or(header),
            Err(error) => found(error)?,
        }
    }
    Ok(header)
}

/// Calls `each` with every name in a root page but heirloom's own, and whether it is lost: its bytes are
/// not all preserved any more. The root page was checked.
#[inline(never)]
pub(crate) fn each_name(
    pages: &impl Pages,
    root: &RootView<'_>,
    mut each: impl FnMut(Subtree, bool) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut lost = Lost::default();
    for (before, subtree) in root.subtrees().enumerate() {
        let subtree = subtree?;
        let gone = is_preserved(pages, root, before, &subtree, &mut lost).is_err();
        if subtree.name.as_str() != SUBTREE {
            each(subtree, gone)?;
        }
    }
    Ok(())
}

/// A bit for each name that a root page can have, in their order there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NameBits([u64; NAMES.div_ceil(64)]);

impl NameBits {
    /// None is set.
    pub(crate) const NONE: Self = Self([0; NAMES.div_ceil(64)]);

    pub(crate) fn has(&self, index: usize) -> bool {
        self.0.get(index / 64).is_some_and(|word| word >> (index % 64) & 1 == 1)
    }

    pub(crate) fn set(&mut self, index: usize, to: bool) {
        if let Some(word) = self.0.get_mut(index / 64) {
            *word = *word & !(1 << (index % 64)) | u64::from(to) << (index % 64);
        }
    }
}

/// Names whose bytes are not all preserved, as far as a check has come.
struct Lost {
    names: NameBits,
    /// Frames that are not preserved, the ones found last: what names one of them needs no second look
    /// at what lies before.
    holes: [Option<Pfn>; 8],
    found: usize,
}

/// No root page of this build has more subtrees: a node is eight words at least.
const NAMES: usize = PAGE_SIZE / 32;

impl Default for Lost {
    fn default() -> Self {
        Self { names: NameBits::NONE, holes: [None; 8], found: 0 }
    }
}

impl Lost {
    fn add(&mut self, index: usize, hole: Pfn) {
        self.names.set(index, true);
        if !self.holes.contains(&Some(hole)) {
            let at = self.found % self.holes.len();
            self.holes.get_mut(at).into_iter().for_each(|slot| *slot = Some(hole));
            self.found += 1;
        }
    }

    /// Returns a frame of `run` that is known not to be preserved.
    fn hole_in(&self, run: Run) -> Option<Pfn> {
        self.holes.into_iter().flatten().find(|hole| run.contains(*hole))
    }
}

/// Checks one subtree, and reads heirloom's own, step by step: a kernel's stack is small.
fn own_header(
    pages: &impl Pages,
    root: &RootView<'_>,
    before: usize,
    subtree: &Subtree,
    lost: &mut Lost,
) -> Result<Option<(PhysAddr, Header)>, Error> {
    let own = subtree.name.as_str() == SUBTREE;
    is_preserved(pages, root, before, subtree, lost).map_err(|error| match error {
        // Without it the rest is not to be understood.
        Error::Table(TableError { fault: fault @ Fault::NotPreserved { .. }, .. }) if own => {
            fault.in_table(Table::Header, subtree.addr, 0).into()
        }
        error => error,
    })?;
    if !own {
        return Ok(None);
    }
    let words = header_words(pages, subtree.addr)?;
    let header = Header::sized(pages.page_size(), words, subtree.addr);
    Ok(Some((subtree.addr, header?)))
}

/// Checks that a subtree's bytes are in memory and preserved; `before` others were looked at.
#[inline(never)]
fn is_preserved(
    pages: &impl Pages,
    root: &RootView<'_>,
    before: usize,
    subtree: &Subtree,
    lost: &mut Lost,
) -> Result<(), Error> {
    let fail = |fault: Fault| fault.in_table(Table::Root, root.at(), 0).into();
    let page = pages.page_size();
    let run = subtree.pages(page).filter(|run| pages.is_memory(*run));
    let run = run.ok_or(fail(Fault::OutsideMemory { addr: subtree.addr }))?;
    let missing = lost.hole_in(run).or_else(|| {
        let others = root.subtrees().take(before).enumerate();
        // Of names beyond those that this build's pages have, it is not known.
        let others = others.filter(|(index, _)| *index < NAMES && !lost.names.has(*index));
        first_unpreserved(pages, run, &others.filter_map(|(_, other)| other.ok()?.pages(page)))
    });
    let Some(missing) = missing else { return Ok(()) };
    lost.add(before, missing);
    Err(fail(Fault::NotPreserved { block: pages.page_size().page_of(missing) }))
}

/// Returns the words of heirloom's own subtree.
#[inline(never)]
fn header_words(pages: &impl Pages, addr: PhysAddr) -> Result<&[AtomicU64], Error> {
    let run = pages.page_size().covering(addr, usize_to_u64(Header::SIZE));
    let run = run.filter(|run| pages.is_memory(*run));
    run.ok_or(Fault::OutsideMemory { addr }.in_table(Table::Header, addr, 0))?;
    let words = pages.words(addr, Header::SIZE);
    words.ok_or(Fault::Misaligned { addr }.in_table(Table::Header, addr, 0).into())
}

/// Returns the first frame of `run` that lies in no preserved block and in none of `others`, which
/// were found preserved before: subtrees over one another cost what their frames cost.
fn first_unpreserved(
    pages: &impl Pages,
    run: Run,
    others: &(impl Iterator<Item = Run> + Clone),
) -> Option<Pfn> {
    let mut at = run.start();
    while at < run.end() {
        if let Some(known) = others.clone().find(|other| other.contains(at)) {
            at = known.end();
            continue;
        }
        let next = others.clone().map(Run::start).filter(|start| *start > at).min();
        let end = next.unwrap_or(run.end()).min(run.end());
        if let Some(missing) = pages.first_unpreserved(Run::between(at, end)?) {
            return Some(missing);
        }
        at = end;
    }
    None
}

/// Returns how many pages there are that a seal can cover: what the tree has, and the tables that
/// it need not have.
pub(crate) fn sealable(counts: &Counts, entry: Entry, page: PageSize) -> u64 {
    let tables = entry.tables(page).map(|(_, run)| page.pages(run.frames()));
    let all = page.pages(counts.frames()).saturating_add(counts.nodes());
    tables.fold(all, u64::saturating_add)
}

/// Checks every table that a seal covers, which are at most `frames` frames; how many are sound.
pub(crate) fn sealed<E>(
    pages: &impl Pages,
    info: &SealInfo,
    frames: u64,
    mut found: impl FnMut(Error) -> Result<(), E>,
) -> Result<u64, E> {
    match seal::verify_each(pages, info, frames, |broken| found(Error::Broken(broken)))? {
        Ok(sound) => Ok(sound),
        Err(error) => found(error).map(|()| 0),
    }
}
