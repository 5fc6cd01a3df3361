//! Slabs between a cache's lists and the page allocator.

use heirloom_folio::DirectMap;
use intrusive_collections::LinkedList;

use crate::header::{Links, Slab};

/// Slabs that are in none of a cache's lists.
pub(crate) struct Batch(LinkedList<Links>);

impl Batch {
    pub(crate) const fn new() -> Self {
        Self(LinkedList::new(Links::NEW))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn add(&mut self, slab: Slab) {
        self.0.push_back(slab.link());
    }

    /// Takes one out, if there is one.
    pub(crate) fn take(&mut self, map: &impl DirectMap) -> Option<Slab> {
        self.0.pop_front().and_then(|head| Slab::of(map, &head))
    }

    /// Returns all of them.
    pub(crate) fn slabs(&self, map: &impl DirectMap) -> impl Iterator<Item = Slab> {
        self.0.iter().filter_map(|head| Slab::of(map, head))
    }
}
