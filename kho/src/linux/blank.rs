//! Pages that tables of Linux's are written into.

use crate::addr::{PAGE_SIZE, PhysAddr};
use crate::error::Error;
use crate::fault::Table;
use crate::sync::AtomicU64;
use crate::sync::Ordering::Relaxed;

/// A page of zeroes for a table of Linux's: preserved, as a block of its own of one page.
///
/// Writers take any number of them from an iterator: `heirloom_restore::Heirloom::blank_pages` is one.
#[derive(Clone, Copy, Debug)]
pub struct BlankPage<'p> {
    addr: PhysAddr,
    words: &'p [AtomicU64],
}

impl<'p> BlankPage<'p> {
    /// Returns the page at `addr`, whose words these are. `None` if no page starts there, the words are not
    /// a page's, or one of them is not zero.
    pub fn new(addr: PhysAddr, words: &'p [AtomicU64]) -> Option<Self> {
        let whole = addr.get() != 0 && addr.is_page_aligned() && words.len() == PAGE_SIZE / 8;
        let blank = whole && words.iter().all(|word| word.load(Relaxed) == 0);
        blank.then_some(Self { addr, words })
    }

    /// Returns where it is.
    pub const fn addr(&self) -> PhysAddr {
        self.addr
    }

    pub(super) const fn words(&self) -> &'p [AtomicU64] {
        self.words
    }
}

/// Takes a page for `table`, which has `entries` entries so far.
pub(super) fn take<'p>(
    pages: &mut impl Iterator<Item = BlankPage<'p>>,
    table: Table,
    entries: u64,
) -> Result<BlankPage<'p>, Error> {
    pages.next().ok_or(Error::TableFull { table, limit: entries })
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;

    #[test]
    fn a_page_is_whole_aligned_and_of_zeroes() {
        let words: Vec<_> = (0..PAGE_SIZE / 8).map(|_| AtomicU64::new(0)).collect();
        let page = PhysAddr::new(PAGE_SIZE as u64);
        assert_eq!(BlankPage::new(page, &words).map(|blank| blank.addr()), Some(page));
        assert!(BlankPage::new(PhysAddr::new(0), &words).is_none());
        assert!(BlankPage::new(PhysAddr::new(8), &words).is_none());
        assert!(BlankPage::new(page, &words[1..]).is_none());
        words[PAGE_SIZE / 8 - 1].store(1, Relaxed);
        assert!(BlankPage::new(page, &words).is_none());
    }
}
