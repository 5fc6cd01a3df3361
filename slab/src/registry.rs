//! The registry of an instance's caches: a number for each, and its control block.
//!
//! A slab's header names its cache by number, never by pointer, together with a number that is the
//! instance's own: so what a predecessor or a stray write left in a header leads nowhere but to
//! one of this instance's control blocks, or to none.

use core::ptr::{NonNull, null_mut};

use heirloom_folio::{FrameType, Machine, Memory, Request};
use heirloom_kho::narrow::{u64_to_usize, usize_to_u64};
use heirloom_kho::sync::Ordering::{AcqRel, Acquire};
use heirloom_kho::sync::{AtomicPtr, written};
use heirloom_kho::{Block, Order, PAGE_SIZE, PhysAddr};

use crate::cache::inner::{Built, CacheInner};
use crate::class::CACHES;
use crate::error::Error;

/// Pages of control blocks' addresses.
const PAGES: usize = 8;
/// Addresses in a page.
const EACH: usize = PAGE_SIZE / size_of::<usize>();
/// Bits of a slab's owner word that are the cache's number.
const NUMBER_BITS: u32 = 12;
/// How many numbers there are.
const NUMBERS: usize =
    if PAGES * EACH < 1 << NUMBER_BITS { PAGES * EACH } else { 1 << NUMBER_BITS };
/// How many caches there can be beside those of the size classes.
const LIMIT: usize = NUMBERS - CACHES;

/// A cache's number among all of its instance.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct CacheNumber(usize);

impl CacheNumber {
    /// The number of the first cache that is no size class's.
    pub(crate) const FIRST: Self = Self(CACHES);

    /// Returns the number of a size class's cache, which is [the class's](crate::class::Class::number).
    pub(crate) const fn of_class(class: usize) -> Self {
        debug_assert!(class < CACHES);
        Self(class)
    }

    /// Returns the next number.
    pub(crate) const fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// Returns the page of addresses that has the cache's, and which of them it is.
    #[inline]
    const fn place(self) -> (usize, usize) {
        (self.0 / EACH, self.0 % EACH)
    }
}

/// A control block's address; null where there is no cache yet.
type Entry<M> = AtomicPtr<CacheInner<M>>;

/// All caches of an instance.
///
/// Numbers below [`CacheNumber::FIRST`] are those of the size classes, each its own: no other cache can take the
/// last one from a class that is needed late. The others are given out in order, so that the first
/// null ends them. An address is put where none was by one exchange, and stays: nothing here
/// waits, and an interrupt handler may create the cache of a class.
///
/// The addresses of the size classes' caches are here, so that a buffer's comes with one look; the others are in pages.
pub(crate) struct CacheRegistry<M: Machine> {
    classes: [Entry<M>; CACHES],
    pages: [AtomicPtr<Entry<M>>; PAGES],
    /// The instance's own part of an owner word.
    instance: u64,
}

impl<M: Machine> CacheRegistry<M> {
    /// Returns an empty registry. `page` is a page that is the instance's as long as it lives: the
    /// page's frame number tells the instance from those before it whose memory it inherited.
    pub(crate) const fn new(page: PhysAddr) -> Self {
        Self {
            classes: [const { AtomicPtr::new(null_mut()) }; CACHES],
            pages: [const { AtomicPtr::new(null_mut()) }; PAGES],
            instance: page.pfn().get() << NUMBER_BITS,
        }
    }

    /// Returns the owner word for slabs of cache `number`.
    pub(crate) const fn owner(&self, number: CacheNumber) -> u64 {
        self.instance | usize_to_u64(number.0)
    }

    /// Returns the cache that an owner word names, if it is one of this instance.
    #[inline]
    pub(crate) fn cache(&self, owner: u64) -> Option<&CacheInner<M>> {
        let number = u64_to_usize(owner ^ self.instance);
        if number >= 1 << NUMBER_BITS {
            return None;
        }
        self.get(CacheNumber(number))
    }

    /// Returns the size class's cache that an owner word names, if it is one of this instance: what
    /// [`CacheRegistry::cache`] returns for most.
    #[inline]
    pub(crate) fn class_cache(&self, owner: u64) -> Option<&CacheInner<M>> {
        self.of_class(CacheNumber(u64_to_usize(owner ^ self.instance)))
    }

    /// Returns the cache with this number, if it is a size class's that was ever needed.
    #[inline]
    pub(crate) fn of_class(&self, number: CacheNumber) -> Option<&CacheInner<M>> {
        // SAFETY: as in `get`.
        self.classes.get(number.0).and_then(|entry| unsafe { entry.load(Acquire).as_ref() })
    }

    /// Returns the cache with this number.
    #[inline]
    pub(crate) fn get(&self, number: CacheNumber) -> Option<&CacheInner<M>> {
        match self.classes.get(number.0) {
            // SAFETY: Acquire pairs with the Release in `put`: an address is that of a written
            // control block, which stays as long as the instance.
            Some(entry) => unsafe { entry.load(Acquire).as_ref() },
            None => self.get_other(number),
        }
    }

    /// Returns the cache with this number, which is no size class's.
    #[inline]
    fn get_other(&self, number: CacheNumber) -> Option<&CacheInner<M>> {
        // Acquire pairs with the Release in `entry`: the page is filled with nulls.
        let (page, index) = number.place();
        let page = self.pages.get(page)?.load(Acquire);
        if page.is_null() {
            return None;
        }
        // SAFETY: a page holds `EACH` addresses and stays; only atomics touch them.
        let entry = unsafe { &*page.add(index) };
        // SAFETY: as in `get`.
        unsafe { entry.load(Acquire).as_ref() }
    }

    /// Returns all caches: those of the size classes, then the others in the order of their
    /// creation.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &CacheInner<M>> {
        let classes = (0..CACHES).filter_map(|number| self.get(CacheNumber(number)));
        classes.chain((CACHES..NUMBERS).map_while(|number| self.get(CacheNumber(number))))
    }

    /// Gives a new cache the number. If another has it, that one, and the new one back.
    ///
    /// # Errors
    /// [`Error::TooManyCaches`], or out of memory for a page of addresses.
    pub(crate) fn put<'s, 'm>(
        &'s self,
        memory: &Memory<M>,
        number: CacheNumber,
        new: Built<'m, M>,
    ) -> Result<Put<'s, 'm, M>, Error> {
        let entry = self.entry(memory, number)?;
        // Release pairs with the Acquire in `get`: the control block is written. Acquire pairs with
        // the Release here of the cache that came first.
        match entry.compare_exchange(null_mut(), new.inner().as_ptr(), AcqRel, Acquire) {
            // SAFETY: it is written, and stays as long as the instance from here on.
            Ok(_) => Ok(Put::Done(unsafe { new.stay().as_ref() })),
            // SAFETY: not null; see `get`.
            Err(there) => Ok(Put::Taken(unsafe { &*there }, new)),
        }
    }

    /// Returns where the address of cache `number` stands, after adding a page if need be.
    fn entry(&self, memory: &Memory<M>, number: CacheNumber) -> Result<&Entry<M>, Error> {
        if let Some(entry) = self.classes.get(number.0) {
            return Ok(entry);
        }
        let (page, index) = number.place();
        let page = match self.pages.get(page) {
            Some(page) if number.0 < NUMBERS => page,
            _ => return Err(Error::TooManyCaches { limit: LIMIT }),
        };
        // Acquire pairs with the Release below.
        let mut entries = page.load(Acquire);
        if entries.is_null() {
            let (block, new) = new_page(memory)?;
            // Release pairs with the Acquire in `get` and above.
            match page.compare_exchange(null_mut(), new.as_ptr(), AcqRel, Acquire) {
                Ok(_) => entries = new.as_ptr(),
                Err(there) => {
                    // SAFETY: allocated just now, and nothing leads to it.
                    let freed = unsafe { memory.free_as(block, FrameType::Table) };
                    debug_assert!(freed.is_ok(), "a fresh page is free to go: {freed:?}");
                    entries = there;
                }
            }
        }
        // SAFETY: a page of `EACH` addresses, which stays; only atomics touch them.
        Ok(unsafe { &*entries.add(index) })
    }
}

/// What [`CacheRegistry::put`] came to.
pub(crate) enum Put<'s, 'm, M: Machine> {
    /// The new cache has the number.
    Done(&'s CacheInner<M>),
    /// Another has it; the new one is the caller's still.
    Taken(&'s CacheInner<M>, Built<'m, M>),
}

/// Allocates a page of nulls.
fn new_page<M: Machine>(memory: &Memory<M>) -> Result<(Block, NonNull<Entry<M>>), Error> {
    let block = memory.alloc(Request::new(Order::ZERO).frame_type(FrameType::Table))?;
    let entries = memory.machine().ptr(block.addr()).cast::<Entry<M>>();
    for i in 0..EACH {
        // SAFETY: the frame was allocated just now and holds that many.
        unsafe { entries.add(i).write(AtomicPtr::new(null_mut())) };
    }
    written(entries.cast(), PAGE_SIZE);
    Ok((block, entries))
}
