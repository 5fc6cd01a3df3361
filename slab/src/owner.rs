//! What owns the memory that a pointer leads to; and what is done to it, whatever it is.

use core::ptr::NonNull;

use heirloom_folio::{FrameType, Machine};
use heirloom_kho::narrow::{u32_to_u64, u32_to_usize, u64_to_usize};
use heirloom_kho::{Parts, PhysAddr, Run};

use crate::adopt_slab::survived;
use crate::error::{Action, Error};
use crate::name::Name;
use crate::object_ref::Stays;
use crate::resolve::Resolved;
use crate::slabs::Slabs;
use crate::state::ObjectState;

/// What owns some memory; see [`Slabs::owner_of`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Owner {
    /// An object of a cache, or a small buffer.
    Object {
        /// The cache.
        cache: Name,
        /// The object's address.
        addr: PhysAddr,
        /// Its size in bytes.
        size: usize,
        /// What it is.
        state: ObjectState,
        /// Whether it survives a jump.
        preserved: bool,
        /// Which of the objects that were in this place it is, modulo 32.
        reuse_tag: u8,
    },
    /// A part of a slab that is no object.
    Slab {
        /// The cache.
        cache: Name,
        /// The slab's address.
        addr: PhysAddr,
    },
    /// A large buffer.
    Large {
        /// Its frames.
        run: Run,
        /// Whether it survives a jump.
        preserved: bool,
    },
}

impl<M: Machine> Slabs<M> {
    /// Returns how many bytes an object or buffer has room for. `None`: the pointer is not the start of
    /// one that is in use; or as for [`Slabs::owner_at`].
    pub fn size_of(&self, ptr: NonNull<u8>) -> Option<usize> {
        match self.parts_of(ptr).ok()? {
            Parts::Object { bytes, .. } | Parts::Buffer { bytes, .. } => Some(u64_to_usize(bytes)),
            _ => None,
        }
    }

    /// Returns what a handle to the object or buffer in use that starts at a pointer says.
    ///
    /// # Errors
    /// [`Error::NotAnObject`]: none does; [`Error::WouldWait`] and [`Error::Slab`] as for [`Slabs::owner_of`].
    #[doc(hidden)]
    #[inline]
    pub fn parts_of(&self, ptr: NonNull<u8>) -> Result<Parts, Error> {
        // The bytes of frames tell all of a buffer; only what lies in a slab may be gone.
        if let Some(run) = self.memory().buffer_of(ptr) {
            return Ok(buffer_parts(run));
        }
        let found = self.swept(ptr, || self.looking(|stays| self.object_parts(ptr, stays)))?;
        found.ok_or(Error::NotAnObject { ptr: ptr.addr().get() })
    }

    /// Returns address, bytes and reuse tag of the object in use that starts at a pointer, if a look or two finds it:
    /// else [`Slabs::parts_of`] says what is there.
    #[doc(hidden)]
    #[inline]
    pub fn parts_at_hand(&self, ptr: NonNull<u8>) -> Option<(PhysAddr, u64, u8)> {
        self.looking(|stays| {
            let object_ref = self.object_fast(ptr, stays)?;
            let state = object_ref.state();
            let bytes = u32_to_u64(object_ref.inner.geometry.size);
            state.is_in_use().then(|| (object_ref.addr(), bytes, state.reuse_tag()))
        })
    }

    /// Returns what a handle to the object that starts at a pointer says, if it is in use.
    #[inline]
    fn object_parts(&self, ptr: NonNull<u8>, stays: &Stays<'_>) -> Result<Option<Parts>, Error> {
        let object_ref = match self.object_of(ptr, stays) {
            Err(Error::Interior { .. }) => return Ok(None),
            found => found?,
        };
        let state = object_ref.state();
        if state.is_in_use() {
            return Ok(Some(object_ref.parts(state)));
        }
        object_ref.what(state).map(|_| None)
    }

    /// Returns what owns the memory that a pointer leads to, also into the middle of an object.
    ///
    /// # Errors
    /// [`Error::NotAnObject`]: nothing of this layer. [`Error::Slab`]: the object's byte is none that
    /// this layer writes; or, like [`Error::WouldWait`], as for [`Slabs::resume`].
    pub fn owner_of(&self, ptr: NonNull<u8>) -> Result<Owner, Error> {
        let nothing = Error::NotAnObject { ptr: ptr.addr().get() };
        let addr = self.memory().machine().phys(ptr).ok_or(nothing)?;
        self.swept(ptr, || {
            self.looking(|stays| self.describe(self.resolve(ptr, stays), addr)?.ok_or(nothing))
        })
    }

    /// Returns what owns the memory at an address; `None` where [`Slabs::owner_of`] returns an error.
    pub fn owner_at(&self, addr: PhysAddr) -> Option<Owner> {
        let nothing = Error::NotAnObject { ptr: 0 };
        let look = || {
            self.looking(|stays| self.describe(self.resolve_at(addr, stays), addr)?.ok_or(nothing))
        };
        self.swept(self.memory().machine().ptr(addr), look).ok()
    }

    /// Returns what owns the memory at an address that leads to `place`; `None`: nothing of this layer.
    ///
    /// # Errors
    /// [`Error::Slab`]: an object's byte is none that this layer writes.
    fn describe(
        &self,
        place: Option<Resolved<'_, '_, M>>,
        addr: PhysAddr,
    ) -> Result<Option<Owner>, Error> {
        Ok(match place {
            Some(Resolved::Slab(place)) => {
                let Some(object) = place.around() else {
                    let (cache, addr) = (place.inner.name, place.slab().phys());
                    return Ok(Some(Owner::Slab { cache, addr }));
                };
                let state = object.state();
                Some(Owner::Object {
                    cache: place.inner.name,
                    addr: object.addr(),
                    size: u32_to_usize(place.inner.geometry.size),
                    state: object.what(state)?,
                    preserved: survived(state, place.inner.spec.preserving),
                    reuse_tag: state.reuse_tag(),
                })
            }
            Some(Resolved::Large { run, preserved }) => Some(Owner::Large { run, preserved }),
            // In the middle of a large buffer, or nothing of this layer's.
            None => match self.memory().owning_block(addr.pfn()) {
                Some((run, FrameType::Buffer, preserved)) => Some(Owner::Large { run, preserved }),
                _ => None,
            },
        })
    }

    /// Returns the reuse tag and the size of the object at a pointer: what a handle to it says, beside its
    /// address. A large buffer has no reuse tag.
    ///
    /// # Errors
    /// [`Error::WrongState`] (not in use), [`Error::Interior`], [`Error::NotAnObject`]; [`Error::WouldWait`] and
    /// [`Error::Slab`] as for [`Slabs::resume`].
    pub fn reuse_tag_of(&self, ptr: NonNull<u8>) -> Result<(u8, usize), Error> {
        self.swept(ptr, || {
            self.looking(|stays| {
                let object_ref = self.object_of(ptr, stays)?;
                let state = object_ref.state();
                if state.is_in_use() {
                    return Ok((state.reuse_tag(), u32_to_usize(object_ref.inner.geometry.size)));
                }
                Err(object_ref.refused(Action::Name))
            })
        })
    }

    /// Makes an object or a buffer survive a jump.
    ///
    /// A large buffer that was preserved from birth is from then on like any other: it has to be let go
    /// before it is freed.
    ///
    /// # Errors
    /// As for [`Cache::preserve`](crate::Cache::preserve); for a large buffer those of
    /// [`Memory::preserve`](heirloom_folio::Memory::preserve), as [`Error::Folio`].
    ///
    /// # Safety
    /// As for [`Cache::preserve`](crate::Cache::preserve).
    #[inline]
    pub unsafe fn preserve(&self, ptr: NonNull<u8>) -> Result<(), Error> {
        // SAFETY: the same contract.
        unsafe { self.preserve_named(ptr, |_| Ok(())) }
    }

    /// Does what [`Slabs::preserve`] does. Returns what `name` returns for what a handle to it says, which
    /// is called before anything is changed.
    ///
    /// # Errors
    /// As for [`Slabs::preserve`], and those of `name`.
    ///
    /// # Safety
    /// As for [`Slabs::preserve`].
    #[doc(hidden)]
    #[inline]
    pub unsafe fn preserve_named<R, E>(
        &self,
        ptr: NonNull<u8>,
        name: impl Fn(Parts) -> Result<R, E>,
    ) -> Result<R, E>
    where
        E: From<Error> + From<heirloom_folio::Error>,
    {
        // SAFETY: the caller's promise.
        let stays = unsafe { Stays::promised() };
        let object_ref = if let Some(object_ref) = self.object_fast(ptr, &stays) {
            object_ref
        } else {
            // SAFETY: a large buffer, if one starts there, is this layer's and the caller's.
            let large =
                unsafe { self.memory().preserve_buffer(ptr, |run| name(buffer_parts(run))) };
            if let Some(done) = large {
                return done;
            }
            self.swept(ptr, || self.object_of(ptr, &stays))?
        };
        let named = name(object_ref.parts(object_ref.state()))?;
        object_ref.preserve()?;
        Ok(named)
    }

    /// Lets go an object or a buffer that is preserved, or was claimed: it no longer survives, and can
    /// be freed. A large buffer that was preserved from birth is from then on like any other.
    ///
    /// # Errors
    /// As for [`Cache::unpreserve`](crate::Cache::unpreserve); for a large buffer as [`Error::Folio`].
    ///
    /// # Safety
    /// As for [`Cache::preserve`](crate::Cache::preserve).
    #[inline]
    pub unsafe fn unpreserve(&self, ptr: NonNull<u8>) -> Result<(), Error> {
        // SAFETY: the caller's promise.
        let stays = unsafe { Stays::promised() };
        if let Some(object_ref) = self.object_fast(ptr, &stays) {
            return object_ref.unpreserve();
        }
        // SAFETY: a large buffer, if one starts there, is this layer's and the caller's.
        match unsafe { self.memory().unpreserve_buffer(ptr) } {
            Some(done) => Ok(done?),
            None => self.swept(ptr, || self.object_of(ptr, &stays))?.unpreserve(),
        }
    }
}

/// Returns what a handle to a large buffer says.
#[inline]
const fn buffer_parts(run: Run) -> Parts {
    Parts::Buffer { addr: run.addr(), bytes: run.bytes() }
}
