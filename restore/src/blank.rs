//! Pages for the tables that a kernel writes for another make of kernel.

use core::fmt;

use heirloom_folio::{Machine, Memory, Request};
use heirloom_kho::linux::BlankPage;
use heirloom_kho::sync::Ordering::Relaxed;
use heirloom_kho::{Block, Order, PAGE_SIZE, PhysAddr};

use crate::area::growing;
use crate::error::Error;
use crate::heirloom::Heirloom;
use crate::pages::words_at;

impl<M: Machine> Heirloom<M> {
    /// Preserves `count` pages of zeroes, for what [`linux`](heirloom_kho::linux#writing) writes: a subtree of Linux's that
    /// [`Heirloom::add_subtree`] names, and what it leads to.
    ///
    /// Each page that is taken is a preserved folio that the caller owns: what is not named by a subtree, a successor
    /// tells as unclaimed. Those that are not taken are freed when the iterator is dropped.
    ///
    /// # Errors
    /// [`Error::Folio`]: out of memory; nothing is preserved then.
    ///
    /// # Examples
    /// ```
    /// use heirloom_folio::harness::Ram;
    /// use heirloom_kho::linux::Luo;
    /// use heirloom_restore::Heirloom;
    ///
    /// let kernel = Heirloom::boot_memory(Ram::memory(&Ram::frames(256))?, &[], "kernel 1.0")?;
    /// let mut pages = kernel.blank_pages(1 + Luo::pages_for_session())?;
    /// let luo = Luo::create(pages.next().unwrap(), 1);
    /// kernel.add_subtree(Luo::NAME, luo.at, luo.bytes())?;
    /// assert_eq!(pages.len(), 1);
    /// # Ok::<(), heirloom_restore::Error>(())
    /// ```
    pub fn blank_pages(&self, count: u64) -> Result<BlankPages<'_, M>, Error> {
        let mut pages = BlankPages { memory: self.memory(), last: None, count: 0 };
        for _ in 0..count {
            pages.add()?;
        }
        Ok(pages)
    }
}

/// Preserved pages of zeroes, from [`Heirloom::blank_pages`].
pub struct BlankPages<'m, M: Machine> {
    memory: &'m Memory<M>,
    /// The next one. The first word of each leads to the one behind it, until it is taken.
    last: Option<Block>,
    count: u64,
}

impl<M: Machine> fmt::Debug for BlankPages<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlankPages({})", self.count)
    }
}

/// The link of the last page.
const NONE: u64 = u64::MAX;

impl<'m, M: Machine> BlankPages<'m, M> {
    /// Returns how many are left.
    pub const fn len(&self) -> u64 {
        self.count
    }

    /// Returns whether none is left.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    fn add(&mut self) -> Result<(), Error> {
        let memory = self.memory;
        let page = growing(memory, || memory.alloc(Request::new(Order::ZERO).zeroed()))?;
        // SAFETY: allocated just now.
        if let Err(error) = growing(memory, || unsafe { memory.preserve(page) }) {
            // SAFETY: as above.
            let freed = unsafe { memory.free(page) };
            debug_assert!(freed.is_ok(), "a block just allocated can be freed: {freed:?}");
            return Err(error.into());
        }
        let before = self.last.replace(page).map_or(NONE, |page| page.addr().get());
        // SAFETY: this value's alone.
        let words = unsafe { words_at(memory, page.addr(), PAGE_SIZE) };
        if let Some(link) = words.unwrap_or(&[]).first() {
            link.store(before, Relaxed);
        }
        self.count += 1;
        Ok(())
    }

    /// Returns the next page, of zeroes again.
    fn take(&mut self) -> Option<(Block, BlankPage<'m>)> {
        let page = self.last?;
        // SAFETY: this value's alone, and then of the owner of the blank page.
        let words = unsafe { words_at(self.memory, page.addr(), PAGE_SIZE) }?;
        let next = words.first()?.load(Relaxed);
        words.first()?.store(0, Relaxed);
        let next = Some(next).filter(|next| *next != NONE);
        self.last = next.map(|at| Block::containing(PhysAddr::new(at).pfn(), Order::ZERO));
        self.count -= 1;
        Some((page, BlankPage::new(page.addr(), words)?))
    }
}

impl<'m, M: Machine> Iterator for BlankPages<'m, M> {
    type Item = BlankPage<'m>;

    fn next(&mut self) -> Option<Self::Item> {
        self.take().map(|(_, page)| page)
    }
}

impl<M: Machine> Drop for BlankPages<'_, M> {
    fn drop(&mut self) {
        while let Some((page, _)) = self.take() {
            // SAFETY: made by `add`, and taken by nothing.
            let freed =
                unsafe { self.memory.unpreserve(page).and_then(|()| self.memory.free(page)) };
            debug_assert!(freed.is_ok(), "a preserved folio can be let go: {freed:?}");
        }
    }
}
