//! Both sides of the jump in one object: what this kernel leaves, and what it was left.
//!
//! ```text
//!   root page ──check──> go on with it ──> claim … finish        what it was left
//!       │                                     │
//!       ├── map ── tree                       │ preserve, publish   what it leaves
//!       └── subtrees ── heirloom (caches, seal) v
//! ```

use heirloom_folio::{Machine, Memory};
use heirloom_kho::sync::AtomicU64;
use heirloom_kho::{PAGE_SIZE, PhysAddr, Producer, RootPage, Run, ScratchList};
use heirloom_slab::Slabs;
use lock_api::Mutex;

use crate::entry::Entry;
use crate::error::Error;
use crate::moved::Moved;
use crate::names::Names;
use crate::own_pages::OwnPages;
use crate::pages::{halves, words_at};
use crate::reserve::Reserve;

/// Memory that outlives its kernel: frames, caches, buffers and the handover, in one object. What this
/// kernel leaves to its successor, and what its predecessor left.
///
/// [`Heirloom::memory`] has the frames and folios, [`Heirloom::slabs`] the caches and buffers.
///
/// The metadata lies in scratch: areas in which nothing is ever preserved, so that the successor
/// can put its own there before it has read what must not be overwritten. The same areas serve
/// generation after generation.
///
/// At any instant the root page describes a whole handover; nothing has to be finished before a
/// jump, or before a crash into the successor.
pub struct Heirloom<M: Machine> {
    pub(crate) metadata: Run,
    pub(crate) slabs: Slabs<M>,
    pub(crate) pages: OwnPages,
    pub(crate) predecessor: Option<Producer>,
    /// Names that `revive` took out, as their frames were let go.
    pub(crate) lost: u32,
    /// Held while the root page or the seal is edited.
    pub(crate) edit: Mutex<M::Mutex, Names>,
    /// The predecessor's entry, where it is another and still good. Taken last.
    pub(crate) moved: Mutex<M::Mutex, Option<Moved>>,
    /// Held while it is filled up.
    pub(crate) reserve: Mutex<M::Mutex, Reserve>,
}

impl<M: Machine> Heirloom<M> {
    /// Returns the frames that the metadata takes: a loader must not put a successor's image there as long
    /// as this kernel runs. No frames for a kernel over a [memory](Heirloom::boot_memory) that its caller
    /// made.
    pub const fn metadata(&self) -> Run {
        self.metadata
    }

    /// Returns how many CPUs have a cache of frames: all that the machine can have, but where scratch had no
    /// room for so many when this kernel took over. A call on another CPU takes frames from what
    /// is shared, and is slower.
    pub fn cpus(&self) -> usize {
        self.memory().cpu_count()
    }

    /// Returns how many frames are held back, so that a successor finds memory for its own tables
    /// however full this kernel's memory is: 16. They count as used, and are free memory to the
    /// successor. A successor holds what it did not use of its predecessor's, and 16 again once
    /// [`Heirloom::finish`] has returned.
    pub fn reserve(&self) -> u64 {
        self.reserve.lock().frames()
    }

    /// Fills up the frames that are held for a successor's tables.
    pub(crate) fn fill_reserve(&self) {
        self.reserve.lock().fill(self.memory());
    }

    /// Returns the slab layer: caches and buffers.
    pub const fn slabs(&self) -> &Slabs<M> {
        &self.slabs
    }

    /// Gives back what no cache needs, while nothing else uses this kernel: what the magazines and
    /// caches of every CPU hold, and empty slabs. Returns how many slabs. See [`Slabs::shrink_all`].
    ///
    /// # Examples
    /// ```
    /// use core::alloc::Layout;
    /// use heirloom_folio::harness::Ram;
    /// use heirloom_restore::Heirloom;
    /// use heirloom_slab::AllocOptions;
    ///
    /// let memory = Ram::memory(&Ram::frames(1024))?;
    /// let mut kernel = Heirloom::boot_memory(memory, &[], "this kernel")?;
    /// let buffer = kernel.slabs().alloc(Layout::new::<[u64; 8]>(), AllocOptions::default())?;
    /// // SAFETY: allocated just now.
    /// unsafe { kernel.slabs().free(buffer) }?;
    /// assert_eq!(kernel.shrink_all(), 1);
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    pub fn shrink_all(&mut self) -> u64 {
        self.slabs.shrink_all()
    }

    /// Returns the folio layer: frames, folios, runs.
    pub fn memory(&self) -> &Memory<M> {
        self.slabs.memory()
    }

    /// Returns what to tell the successor.
    pub const fn entry(&self) -> Entry {
        self.pages.entry
    }

    /// Returns the areas that are kept free of anything preserved, as they were given or inherited,
    /// in the order of the list.
    pub fn scratch(&self) -> impl Iterator<Item = Run> + '_ {
        let Entry { scratch, scratch_bytes, .. } = self.pages.entry;
        let words = usize::try_from(scratch_bytes / 8).unwrap_or(0);
        ScratchList::ours(self.table_words(scratch).get(..words).unwrap_or(&[])).runs()
    }

    /// Returns how many handovers led to this kernel: 0 for the first.
    pub const fn generation(&self) -> u64 {
        self.pages.generation
    }

    /// Returns the root page, for the holder of the lock. A root that changes is not the one that was
    /// sealed: each edit breaks the seal first.
    pub(crate) fn root_page(&self) -> Result<RootPage<'_>, Error> {
        let root = self.pages.entry.root;
        Ok(RootPage::reopen(halves(self.table_words(root)), root)?)
    }

    /// Returns the words of one of our own table pages.
    pub(crate) fn table_words(&self, at: PhysAddr) -> &[AtomicU64] {
        // SAFETY: the page is this value's own table, which only it reaches, atomically.
        unsafe { words_at(self.memory(), at, PAGE_SIZE) }.unwrap_or(&[])
    }
}
