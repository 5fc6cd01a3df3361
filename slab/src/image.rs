//! Caches as another kernel left them, read and not taken over: for a tool that looks at an image.

use core::fmt;

use heirloom_folio::FrameType;
use heirloom_kho::narrow::{u32_to_u64, usize_to_u64};
use heirloom_kho::sync::Ordering::Relaxed;
use heirloom_kho::{Block, Pages, PhysAddr};

use crate::adopt_slab::{check_slab, survived};
use crate::directory::{CacheRecord, DirectoryView, Part};
use crate::error::Error;
use crate::geometry::{HEADER_BYTES, ObjectIndex};
use crate::state_word::nth;

/// The caches that a cache directory in `P` describes. Nothing is claimed and nothing is written.
///
/// # Examples
/// A kernel's cache directory, read as a tool would read it out of an image.
/// ```
/// use core::sync::atomic::AtomicU64;
/// use heirloom_folio::harness::Ram;
/// use heirloom_folio::Memory;
/// use heirloom_kho::{Block, Pages, PhysAddr, Run};
/// use heirloom_slab::internal::ImageCaches;
/// use heirloom_slab::{CacheSpec, Slabs};
///
/// struct Still<'m>(&'m Memory<Ram>);
/// impl Pages for Still<'_> {
///     fn words(&self, addr: PhysAddr, bytes: usize) -> Option<&[AtomicU64]> {
///         let words = bytes.div_ceil(8);
///         let run = Run::covering(addr, words as u64 * 8)?;
///         if addr.get() % 8 != 0 {
///             return None;
///         }
///         let page = self.0.ptr(run).ok()?;
///         // SAFETY: in memory, aligned; nothing else runs in this example.
///         Some(unsafe {
///             let first = page.add(addr.offset_in_page()).cast::<AtomicU64>();
///             core::slice::from_raw_parts(first.as_ptr(), words)
///         })
///     }
///     fn holds(&self, block: Block) -> bool {
///         self.0.preserved().contains(block)
///     }
/// }
///
/// let slabs = Slabs::new(Ram::memory(&Ram::frames(1024))?)?;
/// let names = slabs.cache(CacheSpec::new("names", 64).preserving(true))?;
/// let (_one, _two) = (names.alloc()?, names.alloc()?);
///
/// let pages = Still(slabs.memory());
/// let caches = ImageCaches::new(&pages, slabs.cache_directory());
/// caches.check(|_| true, Err)?;
/// let cache = caches.caches().find(|cache| cache.name().as_str() == "names").unwrap();
/// assert_eq!(cache.object_size(), 64);
/// let slab = caches.slabs(&cache).next().unwrap();
/// assert_eq!(caches.slab(&cache, slab)?.preserved, 2);
/// let (first, _) = caches.objects(&cache, slab).next().unwrap();
/// assert_eq!(caches.object(&cache, slab, first.checked_add(63).unwrap()).unwrap().0, first);
/// # Ok::<(), heirloom_slab::Error>(())
/// ```
pub struct ImageCaches<'p, P> {
    view: DirectoryView<&'p P>,
}

/// What one slab holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ImageSlab {
    /// Objects that survive.
    pub preserved: u32,
    /// Places without one.
    pub free: u32,
}

impl<P> fmt::Debug for ImageCaches<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ImageCaches")
    }
}

impl<'p, P: Pages> ImageCaches<'p, P> {
    /// Returns the cache directory whose first page is at `directory`, as the handover's header has
    /// it.
    pub const fn new(pages: &'p P, directory: PhysAddr) -> Self {
        Self { view: DirectoryView::new(pages, directory) }
    }

    /// Checks the cache directory, every slab table and every slab, and hands what is wrong to `found`:
    /// [`Error::Directory`] with a page, an entry and a reason, [`Error::Slab`] with a slab and a
    /// reason. `Ok` goes on without what is at fault. `claim` is told of each page and slab that is
    /// preserved, and says whether it is the first to name it: no two tables may.
    ///
    /// For the cache directory, these are the checks of [`Slabs::revive`](crate::Slabs::revive); for slabs,
    /// those of adopting them. Costs what reading the tables and the slabs' headers costs.
    ///
    /// # Errors
    /// The first error of `found`.
    pub fn check<E>(
        &self,
        mut claim: impl FnMut(Block) -> bool,
        found: impl FnMut(Error) -> Result<(), E>,
    ) -> Result<(), E> {
        let source = self.view.source();
        let claim = |block: Block, part| {
            let kind = if part == Part::Slab { FrameType::Slab } else { FrameType::Table };
            // A page was looked for when the chain came to it.
            if part == Part::Slab && !source.holds(block) {
                return Err(heirloom_folio::Error::NotPreserved { block });
            }
            let twice =
                heirloom_folio::Error::WrongType { pfn: block.pfn(), expected: kind, found: kind };
            if claim(block) { Ok(()) } else { Err(twice) }
        };
        self.view.check(claim, found, |slab, cache| self.slab(cache, slab).map(|_| ()))
    }

    /// Returns the caches whose records are sound.
    pub fn caches(&self) -> impl Iterator<Item = CacheRecord> + use<'p, P> {
        self.view.records()
    }

    /// Returns the addresses of a cache's slabs; what is there is still to be checked.
    pub fn slabs(&self, cache: &CacheRecord) -> impl Iterator<Item = PhysAddr> + use<'p, P> {
        self.view.slabs(cache)
    }

    /// Checks one slab of a cache. Returns how many objects survive in it.
    ///
    /// # Errors
    /// [`Error::Slab`]: no slab of this cache is there, it is not preserved, or its header or an
    /// object's state is not sound.
    pub fn slab(&self, cache: &CacheRecord, slab: PhysAddr) -> Result<ImageSlab, Error> {
        let info = check_slab(self.view.source(), slab, cache)?;
        Ok(ImageSlab { preserved: info.survivors, free: info.free })
    }

    /// Returns the object that survives around an address in one slab of a cache, which [`ImageCaches::slab`] found sound:
    /// where it starts, and its reuse tag. `None` if there is none.
    pub fn object(
        &self,
        cache: &CacheRecord,
        slab: PhysAddr,
        addr: PhysAddr,
    ) -> Option<(PhysAddr, u8)> {
        let geometry = cache.geometry();
        let (index, within) = geometry.around(addr.get().checked_sub(slab.get())?)?;
        if within >= u32_to_u64(geometry.size) {
            return None;
        }
        self.survivor(cache, slab, index)
    }

    /// Returns the objects that survive in one slab of a cache, which [`ImageCaches::slab`] found sound: where each starts, and
    /// its reuse tag.
    pub fn objects(
        &self,
        cache: &CacheRecord,
        slab: PhysAddr,
    ) -> impl Iterator<Item = (PhysAddr, u8)> {
        cache.geometry().indices().filter_map(move |index| self.survivor(cache, slab, index))
    }

    fn survivor(
        &self,
        cache: &CacheRecord,
        slab: PhysAddr,
        index: ObjectIndex,
    ) -> Option<(PhysAddr, u8)> {
        let word = index.index() & !7;
        let states = slab.checked_add(usize_to_u64(HEADER_BYTES + word))?;
        let states = self.view.source().words(states, size_of::<u64>())?.first()?.load(Relaxed);
        let state = nth(states, index);
        let there = survived(state, cache.is_preserving());
        let addr = slab.checked_add(cache.geometry().at(index))?;
        there.then_some((addr, state.reuse_tag()))
    }

    /// Returns the pages of the cache directory, those of slab tables included.
    pub fn pages(&self) -> impl Iterator<Item = PhysAddr> + use<'p, P> {
        self.view.pages()
    }
}
