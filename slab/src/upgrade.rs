//! Objects of another layout: passed on, one by one, to what makes new ones of them.

use heirloom_folio::Machine;
use heirloom_kho::narrow::u32_to_usize;
use heirloom_kho::sync::Ordering::Relaxed;
use heirloom_kho::{Block, PhysAddr};

use crate::adopt_slab::survived;
use crate::aside::Aside;
use crate::directory::CacheRecord;
use crate::error::Error;
use crate::header::Slab;
use crate::predecessor::Named;
use crate::slabs::Slabs;
use crate::state::{ObjectState, State};
use crate::store;

/// An object of another layout than the cache's, as the predecessor left it.
#[derive(Clone, Copy, Debug)]
pub struct OldObject<'a> {
    /// Where it is.
    pub addr: PhysAddr,
    /// Its reuse tag, as in a handle to it.
    pub reuse_tag: u8,
    /// Its bytes.
    pub bytes: &'a [u8],
}

impl<M: Machine> Slabs<M> {
    /// Passes every object that survived in the predecessor's cache `record` to `take`, after which it
    /// is gone, and gives each slab back when all of its objects were taken: for a cache whose layout
    /// changed. Returns how many objects.
    ///
    /// Objects have other addresses afterwards: `take` sees the old one, which handles name. `take`
    /// returns once what it made of the object survives: if this kernel ends between that and the
    /// object's end, a successor finds this one object in both forms.
    /// It runs with no lock held, and may call anything. The slab whose objects it gets is set aside
    /// meanwhile: it is neither adopted nor freed by other calls. Adopting the same cache, and claims of
    /// the slab's objects, are refused ([`PredecessorBusy`](heirloom_folio::Error::PredecessorBusy));
    /// [`Slabs::finish_inherited`] passes over it.
    ///
    /// # Errors
    /// What `take` returns: the object that it was given stays, and repeating the call passes it
    /// again, and those after it, but none that was taken; so too if `take` panics. [`Error::Slab`]: a
    /// slab is not sound; it stays. Of a cache that was [resumed](Slabs::resume) nothing is passed on.
    pub fn upgrade(
        &self,
        record: &CacheRecord,
        mut take: impl FnMut(OldObject<'_>) -> Result<(), Error>,
    ) -> Result<u64, Error> {
        let view = self.view();
        let Some(record) = view.records().find(|there| there == record) else { return Ok(0) };
        let (memory, geometry) = (self.memory(), record.geometry());
        let mut taken = 0;
        for Named { slab: addr, entry } in self.left(&record) {
            let aside = {
                let mut turn = self.predecessor.turn();
                // Another call may have come first.
                let Some(sound) = self.look_at(&turn, &record, addr) else { continue };
                sound?;
                Aside::claim(self, &mut turn, Block::containing(addr.pfn(), record.order()), entry)?
            };
            // SAFETY: a slab of the predecessor's, checked, and set aside: only this call writes it.
            let slab = unsafe { Slab::at(memory.machine(), addr) };
            for index in geometry.indices() {
                let state = State(slab.state(geometry, index).load(Relaxed));
                if !survived(state, record.is_preserving()) {
                    continue;
                }
                let start = slab.object(geometry, index);
                // SAFETY: the object lies in the slab, which nothing writes; see above.
                let bytes = unsafe {
                    core::slice::from_raw_parts(start.as_ptr(), u32_to_usize(geometry.size))
                };
                take(OldObject {
                    addr: slab.addr(geometry, index),
                    reuse_tag: state.reuse_tag(),
                    bytes,
                })?;
                store::exchange(
                    slab.state(geometry, index),
                    state.0,
                    state.to(ObjectState::Free).0,
                );
                taken += 1;
            }
            aside.free()?;
        }
        Ok(taken)
    }
}
