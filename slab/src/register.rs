//! The register of an instance's caches: a number for each, and its control block.
//!
//! A slab's header names its cache by number, never by pointer, together with a number that is the
//! instance's own: so what a predecessor or a stray write left in a header leads nowhere but to
//! one of this instance's control blocks, or to none.

use core::ptr::null_mut;
use heirloom_folio::sync::{
    AtomicPtr, AtomicUsize,
    Ordering::{Acquire, Relaxed, Release},
    written,
};

use heirloom_folio::{Kind, Machine, Memory, Order, PAGE_SIZE, PhysAddr, Request};

use crate::control::Control;
use crate::error::Error;

/// Pages of control blocks' addresses.
const PAGES: usize = 8;
/// Addresses in a page.
const EACH: usize = PAGE_SIZE / size_of::<usize>();
/// Bits of a slab's owner word that are the cache's number.
const NUMBER_BITS: u32 = 12;
/// How many caches there can be.
const LIMIT: usize = if PAGES * EACH < 1 << NUMBER_BITS { PAGES * EACH } else { 1 << NUMBER_BITS };

/// All caches of an instance.
pub(crate) struct Register<M: Machine> {
    pages: [AtomicPtr<AtomicPtr<Control<M>>>; PAGES],
    count: AtomicUsize,
    /// The instance's own part of an owner word.
    instance: u64,
}

impl<M: Machine> Register<M> {
    /// An empty register. `page` is a page that is the instance's as long as it lives: the page's
    /// frame number tells the instance from those before it whose memory it inherited.
    pub(crate) const fn new(page: PhysAddr) -> Self {
        Self {
            pages: [const { AtomicPtr::new(null_mut()) }; PAGES],
            count: AtomicUsize::new(0),
            instance: page.pfn().get() << NUMBER_BITS,
        }
    }

    /// The owner word for slabs of cache `number`.
    pub(crate) const fn owner(&self, number: usize) -> u64 {
        self.instance | number as u64
    }

    /// The cache that an owner word names, if it is one of this instance.
    #[inline]
    pub(crate) fn cache(&self, owner: u64) -> Option<&Control<M>> {
        let number = owner ^ self.instance;
        if number >= 1 << NUMBER_BITS {
            return None;
        }
        self.get(number as usize)
    }

    #[inline]
    fn get(&self, number: usize) -> Option<&Control<M>> {
        // Acquire pairs with the Release in `add`: the page is filled with nulls.
        let page = self.pages.get(number / EACH)?.load(Acquire);
        if page.is_null() {
            return None;
        }
        // SAFETY: a page holds `EACH` addresses and stays; only atomics touch them.
        let entry = unsafe { &*page.add(number % EACH) };
        // SAFETY: Acquire pairs with the Release in `add`: an address is that of a written
        // control block, which stays as long as the instance.
        unsafe { entry.load(Acquire).as_ref() }
    }

    /// All caches, in the order of their creation.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Control<M>> {
        (0..self.count.load(Acquire)).filter_map(|number| self.get(number))
    }

    /// The number that the next cache gets; room for its address is made.
    ///
    /// One call of this and of [`Register::add`] at a time.
    ///
    /// # Errors
    /// [`Error::TooManyCaches`], or out of memory for a page.
    pub(crate) fn next(&self, memory: &Memory<M>) -> Result<usize, Error> {
        let number = self.count.load(Relaxed);
        let page = self.pages.get(number / EACH).filter(|_| number < LIMIT);
        let page = page.ok_or(Error::TooManyCaches { limit: LIMIT })?;
        if page.load(Relaxed).is_null() {
            let block = memory.alloc(Request::new(Order::ZERO).kind(Kind::Table))?;
            let entries = memory.machine().ptr(block.addr()).cast::<AtomicPtr<Control<M>>>();
            for i in 0..EACH {
                // SAFETY: the frame is ours for good and holds that many.
                unsafe { entries.add(i).write(AtomicPtr::new(null_mut())) };
            }
            written(entries.cast(), PAGE_SIZE);
            // Release pairs with the Acquire in `get`.
            page.store(entries.as_ptr(), Release);
        }
        Ok(number)
    }

    /// Adds the cache with the number that [`Register::next`] told.
    pub(crate) fn add(&self, number: usize, control: &Control<M>) {
        let Some(page) = self.pages.get(number / EACH) else { return };
        // SAFETY: `next` filled the page in; only atomics touch its entries.
        let entry = unsafe { &*page.load(Relaxed).add(number % EACH) };
        // Release, twice, pairs with the Acquire in `get` and in `iter`.
        entry.store(core::ptr::from_ref(control).cast_mut(), Release);
        self.count.store(number + 1, Release);
    }
}
