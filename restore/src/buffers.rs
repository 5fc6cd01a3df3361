//! `void*` memory across the jump: allocate, preserve, sixteen bytes, restore, free.

use core::alloc::Layout;
use core::ptr::NonNull;

use heirloom_folio::Machine;
use heirloom_kho::{Handle, HandleFault, PAGE_SIZE, Parts};
use heirloom_slab::{AllocOptions, Owner, Persist, TypedCache};

use crate::error::Error;
use crate::heirloom::Heirloom;

/// The alignment of buffers for which the caller asked for no other, in bytes.
const ALIGN: usize = 16;

impl<M: Machine> Heirloom<M> {
    /// Returns a buffer of `bytes` bytes, aligned to 16. For other layouts, and buffers that are
    /// preserved from birth, see [`Slabs::alloc`](heirloom_slab::Slabs::alloc).
    ///
    /// # Errors
    /// As for [`Slabs::alloc`](heirloom_slab::Slabs::alloc).
    pub fn alloc(&self, bytes: usize) -> Result<NonNull<u8>, Error> {
        let bad = heirloom_slab::Error::BadLayout { size: bytes, align: ALIGN };
        let layout = Layout::from_size_align(bytes, ALIGN).map_err(|_| bad)?;
        Ok(self.slabs().alloc(layout, AllocOptions::default())?)
    }

    /// Frees a buffer or an object, from any CPU.
    ///
    /// # Errors
    /// As for [`Slabs::free`](heirloom_slab::Slabs::free); its owner keeps it.
    ///
    /// # Safety
    /// The caller owns it, and nothing uses it any more.
    pub unsafe fn free(&self, ptr: NonNull<u8>) -> Result<(), Error> {
        // SAFETY: the same contract.
        Ok(unsafe { self.slabs().free(ptr) }?)
    }

    /// Makes a buffer or an object survive a jump: the handle that the successor claims it by.
    ///
    /// # Errors
    /// As for [`Slabs::preserve`](heirloom_slab::Slabs::preserve); nothing is preserved then.
    ///
    /// # Safety
    /// As for [`Slabs::preserve`](heirloom_slab::Slabs::preserve): the buffer or object is in use,
    /// and no other call frees it, or changes its size, meanwhile.
    pub unsafe fn preserve(&self, ptr: NonNull<u8>) -> Result<Handle, Error> {
        // What has no handle is refused before anything is changed.
        // SAFETY: the same contract.
        unsafe { self.slabs().preserve_named(ptr, |parts| Ok(Handle::new(parts)?)) }
    }

    /// Lets a buffer or an object go: its handle names nothing any more.
    ///
    /// # Errors
    /// As for [`Slabs::unpreserve`](heirloom_slab::Slabs::unpreserve).
    ///
    /// # Safety
    /// As for [`Heirloom::preserve`].
    pub unsafe fn unpreserve(&self, ptr: NonNull<u8>) -> Result<(), Error> {
        // SAFETY: the same contract.
        Ok(unsafe { self.slabs().unpreserve(ptr) }?)
    }

    /// Returns the handle of a buffer or an object that is in use: good for the successor if it is
    /// preserved, from birth or since. It stays the same as long as the memory is not freed, over
    /// any number of generations.
    ///
    /// # Errors
    /// [`Error::Slab`]: the pointer is not the start of one; or it is [resumed](Heirloom::resume), and
    /// cannot be looked at from where nothing can be waited for. [`Error::Handle`]: a buffer larger than a
    /// handle can say.
    #[inline]
    pub fn handle_of(&self, ptr: NonNull<u8>) -> Result<Handle, Error> {
        // A large buffer is told by its frame's byte, without the word that says that this CPU looks.
        if !ptr.addr().get().is_multiple_of(PAGE_SIZE)
            && let Some((addr, bytes, tag)) = self.slabs().parts_at_hand(ptr)
        {
            return Ok(Handle::new(Parts::Object { addr, bytes, tag })?);
        }
        self.handle_of_slow(ptr)
    }

    /// Returns the handle of anything, or why there is none.
    #[inline(never)]
    fn handle_of_slow(&self, ptr: NonNull<u8>) -> Result<Handle, Error> {
        Ok(Handle::new(self.slabs().parts_of(ptr)?)?)
    }

    /// Claims a buffer, small or large, or an object of a cache that was adopted; once. It is in use
    /// from now on, and survives until it is freed by [`Heirloom::free`], or let go by
    /// [`Heirloom::unpreserve`]. Its handle stays the same.
    ///
    /// # Errors
    /// [`Error::Handle`]: no handle of a buffer or an object. [`Error::Slab`]: claimed already,
    /// another length, a stale tag, not the start of an object, or its cache was not adopted; see
    /// [`Slabs::claim`](heirloom_slab::Slabs::claim). [`Error::Folio`]: no such buffer was
    /// preserved, or it is claimed already. Nothing is changed then.
    pub fn restore(&self, handle: Handle) -> Result<NonNull<u8>, Error> {
        if let Some((addr, bytes, tag)) = handle.object() {
            return Ok(self.slabs().claim(addr, bytes, tag)?);
        }
        match handle.parts()? {
            Parts::Buffer { addr, bytes } => Ok(self.slabs().claim_large(addr, bytes)?),
            _ => Err(handle.refused(HandleFault::Kind).into()),
        }
    }

    /// Returns where the buffer or object of a handle is, if it is in use: claimed, resumed, or this
    /// kernel's own. As often as one likes: nothing is claimed by it.
    ///
    /// # Errors
    /// [`Error::Handle`]: no handle of a buffer or an object. [`Error::Slab`], as for
    /// [`Slabs::at`](heirloom_slab::Slabs::at): free, not claimed, another length, a stale tag, or no
    /// object's start.
    ///
    /// # Examples
    /// ```
    /// use heirloom_folio::harness::Ram;
    /// use heirloom_restore::Heirloom;
    ///
    /// let kernel = Heirloom::boot_memory(Ram::memory(&Ram::frames(1024))?, &[], "this kernel")?;
    /// let buffer = kernel.alloc(100)?;
    /// let handle = kernel.handle_of(buffer)?;
    /// assert_eq!(kernel.find(handle)?, buffer);
    /// // SAFETY: allocated above, and not used again.
    /// unsafe { kernel.free(buffer) }?;
    /// assert!(kernel.find(handle).is_err(), "it is in use no more");
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    pub fn find(&self, handle: Handle) -> Result<NonNull<u8>, Error> {
        if let Some((addr, bytes, tag)) = handle.object() {
            return Ok(self.slabs().at(addr, bytes, tag)?);
        }
        match handle.parts()? {
            Parts::Buffer { addr, bytes } => {
                let ptr = self.memory().machine().ptr(addr);
                match self.slabs().owner_at(addr) {
                    Some(Owner::Large { run, .. })
                        if run.addr() == addr && run.bytes() == bytes =>
                    {
                        Ok(ptr)
                    }
                    _ => Err(heirloom_slab::Error::NotAnObject { ptr: ptr.addr().get() }.into()),
                }
            }
            _ => Err(handle.refused(HandleFault::Kind).into()),
        }
    }

    /// Returns the typed cache called `name` with all that the predecessor's cache of that name and layout
    /// left, in use as it was: nothing is to be claimed, and it costs no step for each object. See
    /// [`Slabs::resume`](heirloom_slab::Slabs::resume).
    ///
    /// # Errors
    /// As for [`Slabs::resume`](heirloom_slab::Slabs::resume): also if the predecessor left no cache of
    /// this name.
    pub fn resume<T: Persist>(
        &self,
        name: &str,
        preserving: bool,
    ) -> Result<TypedCache<'_, T, M>, Error> {
        Ok(self.slabs().resume_typed(name, preserving)?)
    }

    /// Like [`Heirloom::resume`], for a cache that the predecessor may not have left: it is created then.
    ///
    /// # Errors
    /// As for [`Slabs::resume_or_create`](heirloom_slab::Slabs::resume_or_create).
    pub fn resume_or_create<T: Persist>(
        &self,
        name: &str,
        preserving: bool,
    ) -> Result<TypedCache<'_, T, M>, Error> {
        Ok(self.slabs().resume_typed_or_create(name, preserving)?)
    }

    /// Returns the typed cache called `name`, with the slabs that the predecessor's cache of that name
    /// and layout left: their objects are there to be claimed.
    ///
    /// # Errors
    /// As for [`Slabs::adopt`](heirloom_slab::Slabs::adopt): also if the predecessor left no cache of
    /// this name.
    pub fn adopt<T: Persist>(
        &self,
        name: &str,
        preserving: bool,
    ) -> Result<TypedCache<'_, T, M>, Error> {
        Ok(self.slabs().adopt_typed(name, preserving)?.0)
    }

    /// Like [`Heirloom::adopt`], for a cache that the predecessor may not have left: it is created
    /// then.
    ///
    /// # Errors
    /// As for [`Slabs::adopt_or_create`](heirloom_slab::Slabs::adopt_or_create).
    pub fn adopt_or_create<T: Persist>(
        &self,
        name: &str,
        preserving: bool,
    ) -> Result<TypedCache<'_, T, M>, Error> {
        Ok(self.slabs().adopt_typed_or_create(name, preserving)?.0)
    }
}
