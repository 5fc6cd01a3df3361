//! Whether there can be room for so many more objects: asked before any of them is taken, as what a try takes that
//! comes to nothing is missing elsewhere meanwhile.
//!
//! ```text
//! objects wanted - free in slabs and magazines       -> slabs,  of blocks of their order
//! magazines to keep them - magazines in the depot    -> frames, beside those blocks
//! ```
//!
//! Both are the least that it takes: where they are there, it may still fail (others take of it meanwhile, and the
//! tables that name preserved slabs are not counted); where they are not, it would fail.

use heirloom_folio::{self as folio, Machine};
use heirloom_kho::narrow::{u64_to_usize, usize_to_u64};
use heirloom_kho::{Order, Pfn};

use crate::cache::Cache;
use crate::depot::a_frame_has;
use crate::error::Error;

/// What a cache has.
#[derive(Default)]
struct AtHand {
    /// Free objects, and places for some in slabs that were resumed.
    objects: usize,
    /// Magazines in the depot.
    magazines: usize,
}

/// What has to be taken from the page allocator, at least.
struct Lacking {
    slabs: u64,
    frames: u64,
}

impl Lacking {
    /// Returns how many frames that is; saturating.
    const fn all(&self, order: Order) -> u64 {
        self.slabs.saturating_mul(order.frames()).saturating_add(self.frames)
    }
}

impl<M: Machine> Cache<'_, M> {
    /// Refuses where there is no room for so many objects that are set aside, `behind` of them in a magazine: after all that can be
    /// given back was, and the machine found no more memory. Nothing is taken.
    ///
    /// # Errors
    /// [`Error::Folio`]: out of memory.
    pub(crate) fn check_room(&self, objects: usize, behind: usize) -> Result<(), Error> {
        let memory = self.slabs.memory();
        let (order, machine) = (self.inner.geometry.order, memory.machine());
        // Without a look at what the cache has: mostly there is memory.
        let least = self.lacking(objects, behind, &AtHand::default());
        if memory.may_have(order, least.slabs, least.frames) {
            return Ok(());
        }
        loop {
            let least = match self.fits(objects, behind) {
                Ok(()) => return Ok(()),
                Err(least) => least.all(order),
            };
            let frames = memory.frames();
            if least <= frames && machine.may_reclaim() {
                self.slabs.reclaim();
                if self.fits(objects, behind).is_ok() {
                    return Ok(());
                }
            }
            // A machine may find more each time it is asked, but never what has no address.
            let grown = least < Pfn::LIMIT.get() && machine.grow(order.frames());
            if !grown || memory.frames() <= frames {
                return Err(folio::Error::OutOfMemory { order, node: None }.into());
            }
        }
    }

    /// Returns what is lacking where memory, with what the cache has, does not suffice.
    fn fits(&self, objects: usize, behind: usize) -> Result<(), Lacking> {
        let (inner, memory) = (self.inner, self.slabs.memory());
        let unswept = self.unswept().saturating_mul(u64::from(inner.geometry.objects));
        let at_hand = {
            let shared = inner.shared.lock();
            let free = shared.lists.nr_free() + inner.cached(memory.machine(), &shared);
            let objects = free.saturating_add(u64_to_usize(unswept));
            AtHand { objects, magazines: shared.depot.here() }
        };
        let least = self.lacking(objects, behind, &at_hand);
        let fits = memory.may_have(inner.geometry.order, least.slabs, least.frames);
        if fits { Ok(()) } else { Err(least) }
    }

    /// Returns what so many objects take beside what is at hand.
    fn lacking(&self, objects: usize, behind: usize, at_hand: &AtHand) -> Lacking {
        let geometry = &self.inner.geometry;
        let more = usize_to_u64(objects.saturating_sub(at_hand.objects));
        let magazines = objects.div_ceil(behind).saturating_sub(at_hand.magazines);
        let each = a_frame_has(self.inner.magazine_capacity());
        Lacking {
            slabs: more.div_ceil(u64::from(geometry.objects)),
            frames: usize_to_u64(magazines.div_ceil(each)),
        }
    }
}
