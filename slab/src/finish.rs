//! What was not claimed, told, and let go or left.

use heirloom_folio::{Disposition, FrameType, Machine};
use heirloom_kho::{Block, PhysAddr};

use crate::aside::give_up;
use crate::directory::CacheRecord;
use crate::error::{Action, Error};
use crate::name::Name;
use crate::predecessor::Named;
use crate::slabs::Slabs;

/// Something in caches that was not claimed; see [`Slabs::finish_inherited`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unclaimed {
    /// A slab of a cache that was not adopted.
    Slab {
        /// The cache, as the predecessor named it.
        cache: Name,
        /// The slab.
        slab: Block,
        /// Preserved objects in it; 0 if it is not sound.
        objects: u32,
    },
    /// An object in a slab that was adopted.
    Object {
        /// Its cache.
        cache: Name,
        /// Its address.
        addr: PhysAddr,
        /// Its size in bytes.
        size: u32,
    },
}

impl<M: Machine> Slabs<M> {
    /// Asks about everything in caches that was not claimed, and frees it or leaves it, as `disposition`
    /// decides. What is left stays as it is: preserved, and there to be claimed, in this kernel
    /// or the next.
    ///
    /// `disposition` runs with no lock held, and may call anything, this too. An object that is claimed
    /// meanwhile, and a slab that is adopted, in it or by another thread, is not freed, whatever it says
    /// of that: objects of a slab that is adopted so stay to be claimed. What is in a cache that was
    /// [resumed](Slabs::resume) is its owner's, and is not asked about. A slab that [`Slabs::upgrade`]
    /// has at the moment is not asked about. A slab in which nothing survives is freed without a
    /// question. The call can be repeated at any time, and need not be made at all.
    ///
    /// # Errors
    /// As for [`Cache::discard`](crate::Cache::discard), which there should be none of; what was decided so far stands, and
    /// the call can be repeated.
    #[doc(hidden)]
    pub fn finish_inherited(
        &self,
        disposition: impl FnMut(Unclaimed) -> Disposition,
    ) -> Result<(), Error> {
        self.finish_inherited_noting(disposition, |_, _| ())
    }

    /// Like [`Slabs::finish_inherited`]; calls `done` with what was freed or left, once it was.
    #[doc(hidden)]
    pub fn finish_inherited_noting(
        &self,
        mut disposition: impl FnMut(Unclaimed) -> Disposition,
        mut done: impl FnMut(Unclaimed, Disposition),
    ) -> Result<(), Error> {
        let view = self.view();
        for named in view.records().flat_map(|record| view.named(&record)) {
            let Some(cache) = self.cache_of_slab(named.slab) else { continue };
            let size = cache.inner.geometry.size;
            for (addr, _) in cache.unclaimed_in(named.slab) {
                let object = Unclaimed::Object { cache: cache.name(), addr, size };
                let decided = disposition(object);
                let gone = decided == Disposition::Free
                    && match cache.discard(addr) {
                        // Claimed since; and maybe freed with its slab, where there is another by now.
                        Err(
                            Error::WrongState { action: Action::Claim, .. }
                            | Error::NotAnObject { .. }
                            | Error::WrongCache { .. }
                            | Error::Interior { .. },
                        ) => continue,
                        discarded => discarded.map(|()| true)?,
                    };
                done(object, if gone { Disposition::Free } else { Disposition::Keep });
            }
        }
        for record in self.view().records() {
            for named in self.left(&record) {
                self.decide(&record, named, &mut disposition, &mut done)?;
            }
        }
        Ok(())
    }

    /// Asks what becomes of a slab that was not adopted, and does it, if it is still left then.
    fn decide(
        &self,
        record: &CacheRecord,
        named: Named,
        disposition: &mut impl FnMut(Unclaimed) -> Disposition,
        done: &mut impl FnMut(Unclaimed, Disposition),
    ) -> Result<(), Error> {
        let slab = Block::containing(named.slab.pfn(), record.order());
        let Some(sound) = self.look_at(&self.predecessor.turn(), record, named.slab) else {
            return Ok(());
        };
        let objects = sound.map_or(0, |info| info.survivors);
        let what = Unclaimed::Slab { cache: record.name(), slab, objects };
        let asked = sound.is_err() || objects > 0;
        let decided = if asked { disposition(what) } else { Disposition::Free };
        let turn = self.predecessor.turn();
        if !self.is_left(&turn, record, slab) {
            return Ok(());
        }
        if decided == Disposition::Free {
            // SAFETY: labelled by this layer.
            unsafe { self.memory().claim_as(slab, FrameType::Slab) }?;
            give_up(self, slab, named.entry)?;
        }
        drop(turn);
        if asked {
            done(what, decided);
        }
        Ok(())
    }
}
