//! What was not claimed, told, and let go or left.

use heirloom_folio::{Block, Fate, Kind, Machine, PhysAddr};

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
    /// Asks about everything in caches that was not claimed, and frees it or leaves it, as `fate`
    /// decides. What is left stays as it is: preserved, and there to be claimed, in this kernel
    /// or the next.
    ///
    /// `fate` runs with no lock held, and may call anything, this too. An object that is claimed
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
    pub fn finish_inherited(&self, fate: impl FnMut(Unclaimed) -> Fate) -> Result<(), Error> {
        self.finish_inherited_noting(fate, |_, _| ())
    }

    /// Like [`Slabs::finish_inherited`]; calls `done` with what was freed or left, once it was.
    #[doc(hidden)]
    pub fn finish_inherited_noting(
        &self,
        mut fate: impl FnMut(Unclaimed) -> Fate,
        mut done: impl FnMut(Unclaimed, Fate),
    ) -> Result<(), Error> {
        let view = self.view();
        for named in view.records().flat_map(|record| view.named(&record)) {
            let Some(cache) = self.cache_of_slab(named.slab) else { continue };
            let size = cache.inner.geometry.size;
            for (addr, _) in cache.unclaimed_in(named.slab) {
                let object = Unclaimed::Object { cache: cache.name(), addr, size };
                let decided = fate(object);
                let gone = decided == Fate::Free
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
                done(object, if gone { Fate::Free } else { Fate::Keep });
            }
        }
        for record in self.view().records() {
            for named in self.left(&record) {
                self.decide(&record, named, &mut fate, &mut done)?;
            }
        }
        Ok(())
    }

    /// Asks what becomes of a slab that was not adopted, and does it, if it is still left then.
    fn decide(
        &self,
        record: &CacheRecord,
        named: Named,
        fate: &mut impl FnMut(Unclaimed) -> Fate,
        done: &mut impl FnMut(Unclaimed, Fate),
    ) -> Result<(), Error> {
        let slab = Block::containing(named.slab.pfn(), record.order());
        let Some(sound) = self.look_at(&self.predecessor.turn(), record, named.slab) else {
            return Ok(());
        };
        let objects = sound.map_or(0, |info| info.survivors);
        let what = Unclaimed::Slab { cache: record.name(), slab, objects };
        let asked = sound.is_err() || objects > 0;
        let decided = if asked { fate(what) } else { Fate::Free };
        let turn = self.predecessor.turn();
        if !self.is_left(&turn, record, slab) {
            return Ok(());
        }
        if decided == Fate::Free {
            // SAFETY: labelled by this layer.
            unsafe { self.memory().claim_as(slab, Kind::Slab) }?;
            give_up(self, slab, named.entry)?;
        }
        drop(turn);
        if asked {
            done(what, decided);
        }
        Ok(())
    }
}
