//! Whose the names in the root page are.
//!
//! A successor goes on with its predecessor's root page, so each name in it was there before, or is this
//! kernel's:
//!
//! ```text
//!             claim_root            publish
//!  inherited ────────────> lent ──> made <──────────  (none)
//!     │  │                      view dropped            │
//!     │  └──── add_subtree of the same bytes ──> added <┘  add_subtree
//!     │                                            │
//!     └── remove_subtree, finish ──> (none) <──────┘  remove_subtree;  made: unpublish
//! ```
//!
//! What a name leads to does not tell. Where a subtree was that its owner let go, there may be any
//! table by now, and it is not the name's. A predecessor's name whose frames were let go, which its owner
//! should have taken away first, is taken out by `revive`.

use heirloom_kho::narrow::u32_to_usize;
use heirloom_kho::{RootPage, RootView, SUBTREE};

use crate::error::Error;

/// Words of a bit for each name that a root page has room for.
const WORDS: usize = RootPage::MOST.div_ceil(64);

/// What a name is; see the top of the file. One of none is added, or heirloom's own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Owner {
    /// The predecessor's, and not claimed.
    Inherited = 0,
    /// Made by `publish`, or claimed: its bytes lie in a block of this layer's.
    Made = 1,
    /// The same, and a view of the bytes is with a caller.
    Lent = 2,
}

impl Owner {
    /// Returns which row of [`Names`] is this owner's.
    #[expect(clippy::as_conversions, reason = "to what the enum is in memory")]
    const fn index(self) -> usize {
        self as usize
    }
}

/// Whose each name of the root page is, in their order there.
pub(crate) struct Names([[u64; WORDS]; 3]);

impl Names {
    /// Every name belongs to the owner that added it.
    pub(crate) const NONE: Self = Self([[0; WORDS]; 3]);

    /// Says of all names of a root page that they are the predecessor's, but for heirloom's own.
    pub(crate) fn inherited(page: &RootPage<'_>) -> Result<Self, Error> {
        let mut names = Self::NONE;
        for (index, subtree) in page.view()?.subtrees().enumerate() {
            if subtree?.name.as_str() != SUBTREE {
                names.set(index, Some(Owner::Inherited));
            }
        }
        Ok(names)
    }

    /// Returns whether the name at `index` is this owner's.
    pub(crate) fn is(&self, index: usize, owner: Owner) -> bool {
        let [words, ..] = self.0.get(owner.index()..).unwrap_or(&[]) else { return false };
        words.get(index / 64).is_some_and(|word| word >> (index % 64) & 1 == 1)
    }

    /// Returns whether this layer keeps what the name at `index` leads to.
    pub(crate) fn is_made(&self, index: usize) -> bool {
        self.is(index, Owner::Made) || self.is(index, Owner::Lent)
    }

    /// Says whose the name at `index` is.
    pub(crate) fn set(&mut self, index: usize, owner: Option<Owner>) {
        for (each, words) in self.0.iter_mut().enumerate() {
            if let Some(word) = words.get_mut(index / 64) {
                let set = owner.is_some_and(|owner| owner.index() == each);
                *word = *word & !(1 << (index % 64)) | u64::from(set) << (index % 64);
            }
        }
    }

    /// Forgets the one at `index`, which was removed: those behind it move up.
    pub(crate) fn remove(&mut self, index: usize) {
        let owners = [Owner::Inherited, Owner::Made, Owner::Lent];
        for i in index..RootPage::MOST {
            let next = owners.into_iter().find(|owner| self.is(i + 1, *owner));
            self.set(i, next);
        }
    }

    /// Says in an error for want of room how many names are the predecessor's.
    pub(crate) fn count_inherited(&self, error: &mut Error) {
        if let (Error::RootFull { inherited, .. }, [words, ..]) = (error, &self.0) {
            *inherited = words.iter().map(|word| u32_to_usize(word.count_ones())).sum();
        }
    }

    /// Returns the names in `view` that are the predecessor's and not claimed, by their index.
    pub(crate) fn unclaimed<'n, 'v>(
        &'n self,
        view: &'n RootView<'v>,
    ) -> impl Iterator<Item = (usize, heirloom_kho::Subtree)> + use<'n, 'v> {
        let subtrees = view.subtrees().filter_map(Result::ok).enumerate();
        subtrees.filter(|(index, _)| self.is(*index, Owner::Inherited))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_behind_one_that_is_removed_move_up() {
        let mut names = Names::NONE;
        let owners = [Some(Owner::Made), None, Some(Owner::Inherited), Some(Owner::Lent)];
        for (index, owner) in owners.into_iter().enumerate() {
            names.set(index, owner);
            assert_eq!(names.is_made(index), index % 3 == 0);
        }
        names.remove(0);
        assert!(!names.is_made(0) && names.is(1, Owner::Inherited) && names.is(2, Owner::Lent));
        assert!(!names.is_made(1) && !names.is(3, Owner::Lent));
        names.set(2, Some(Owner::Made));
        assert!(!names.is(2, Owner::Lent) && names.is(2, Owner::Made));
        names.remove(RootPage::MOST - 1);
        assert!(names.is(1, Owner::Inherited));
    }
}
