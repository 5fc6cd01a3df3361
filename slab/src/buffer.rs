//! `void*` buffers: small ones from size classes, large ones as runs of exactly the pages needed.

use core::alloc::Layout;
use core::ptr::NonNull;

use heirloom_folio::{FrameState, FrameType, Machine, Request};
use heirloom_kho::narrow::{u32_to_u8, u32_to_usize, u64_to_usize, usize_to_u64};
use heirloom_kho::{Block, Order, PAGE_SIZE, PhysAddr, Run};

use crate::cache::Cache;
use crate::class::Class;
use crate::error::{Action, Error};
use crate::name::Name;
use crate::object_ref::Stays;
use crate::resolve::Resolved;
use crate::slabs::Slabs;
use crate::state::ObjectState;

/// What a buffer is to be like, beside its layout.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct AllocOptions {
    /// It survives a jump from the moment it is returned, and is freed by a plain free.
    pub preserving: bool,
    /// It is filled with zeroes.
    pub zeroed: bool,
}

impl<M: Machine> Slabs<M> {
    /// Allocates a buffer: at least `layout.size()` bytes aligned to `layout.align()`.
    ///
    /// Below a page it comes from a size class, of which at most a fifth is wasted above 64
    /// bytes; from a page on it has exactly the pages needed.
    ///
    /// # Errors
    /// [`Error::BadLayout`]: no bytes, or an alignment above the largest folio's.
    /// [`Error::Folio`]: out of memory. [`Error::BadMap`]: the machine's map does not keep the
    /// alignment. [`Error::Overwritten`] as for [`Cache::alloc`].
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "three dozen instructions: a call costs a third")]
    pub fn alloc(&self, layout: Layout, opts: AllocOptions) -> Result<NonNull<u8>, Error> {
        let cache = Class::of(layout).and_then(|class| self.existing_class(class, opts.preserving));
        let Some(cache) = cache else { return self.alloc_slow(layout, opts) };
        let buffer = cache.alloc()?;
        if opts.zeroed {
            // SAFETY: the buffer is the caller's, of that many bytes, and not handed out yet.
            unsafe { buffer.write_bytes(0, layout.size()) };
        }
        Ok(buffer)
    }

    /// Allocates a large buffer, or what is not [at hand](Slabs::alloc_now).
    #[inline]
    pub(crate) fn alloc_slow(
        &self,
        layout: Layout,
        opts: AllocOptions,
    ) -> Result<NonNull<u8>, Error> {
        self.alloc_single(layout, opts).map_or_else(|| self.alloc_any_slow(layout, opts), Ok)
    }

    /// Allocates a large buffer that is one block. Returns `None` where more is to be done.
    #[inline]
    pub(crate) fn alloc_single(&self, layout: Layout, opts: AllocOptions) -> Option<NonNull<u8>> {
        if opts.preserving {
            self.alloc_held_slow(layout, opts.zeroed)
        } else {
            self.alloc_block_slow(layout, opts.zeroed)
        }
    }

    /// Allocates what is neither a single block nor an object of an existing class: a run of several blocks, or the
    /// first object of a class.
    #[cold]
    #[inline(never)]
    fn alloc_any_slow(&self, layout: Layout, opts: AllocOptions) -> Result<NonNull<u8>, Error> {
        let Some(class) = Class::of(layout) else { return self.alloc_large(layout, opts) };
        let buffer = self.new_class(class, opts.preserving)?.alloc()?;
        if opts.zeroed {
            // SAFETY: as in `alloc`.
            unsafe { buffer.write_bytes(0, layout.size()) };
        }
        Ok(buffer)
    }

    /// Frees a buffer, or an object of any cache, from any CPU.
    ///
    /// # Errors
    /// It stays its owner's: as for [`Cache::free`]; for a large buffer those of
    /// [`Memory::free`](heirloom_folio::Memory::free) as [`Error::Folio`].
    ///
    /// # Safety
    /// As for [`Cache::free`].
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "five dozen instructions: a call costs a fifth")]
    pub unsafe fn free(&self, ptr: NonNull<u8>) -> Result<(), Error> {
        // SAFETY: the caller's promise.
        if unsafe { self.free_now(ptr) } {
            return Ok(());
        }
        // SAFETY: the caller's promise; nothing was freed.
        unsafe { self.free_slow(ptr) }
    }

    /// Frees a large buffer, or an object of a larger slab or one that is not freed [at hand](Slabs::free_now); or finds out
    /// why not.
    ///
    /// # Safety
    /// As for [`Cache::free`].
    #[inline]
    pub(crate) unsafe fn free_slow(&self, ptr: NonNull<u8>) -> Result<(), Error> {
        // SAFETY: the caller's promise.
        if unsafe { self.free_block_slow(ptr) || self.free_held_slow(ptr) } {
            return Ok(());
        }
        // SAFETY: the caller's promise; nothing was freed.
        unsafe { self.free_any_slow(ptr) }
    }

    /// Frees a large buffer that is one block. Returns `false`, with nothing done, if it is anything else.
    ///
    /// # Safety
    /// As for [`Cache::free`].
    #[inline(never)]
    pub(crate) unsafe fn free_block_slow(&self, ptr: NonNull<u8>) -> bool {
        // SAFETY: the caller's promise.
        unsafe { self.memory().free_single(ptr, FrameType::Buffer) }
    }

    /// Frees a large buffer that is one block, and may survive until it is freed, or lie in a further range. Returns
    /// `false`, with nothing done, if it is anything else.
    ///
    /// # Safety
    /// As for [`Cache::free`].
    #[inline(never)]
    unsafe fn free_held_slow(&self, ptr: NonNull<u8>) -> bool {
        // SAFETY: the caller's promise.
        unsafe { self.memory().free_single_buffer(ptr) }
    }

    /// Frees whatever the pointer leads to, or returns why it cannot be freed.
    ///
    /// # Safety
    /// As for [`Cache::free`].
    #[inline(never)]
    unsafe fn free_any_slow(&self, ptr: NonNull<u8>) -> Result<(), Error> {
        let nothing = Error::NotAnObject { ptr: ptr.addr().get() };
        // SAFETY: the caller's promise; nothing was freed.
        if let Some(done) = unsafe { self.memory().free_buffer(ptr) } {
            return Ok(done?);
        }
        // SAFETY: the caller owns what it frees, and nothing that was found is looked into once it is freed.
        let stays = unsafe { Stays::promised() };
        match self.resolve(ptr, &stays) {
            Some(Resolved::Slab(place)) => {
                let cache = Cache { slabs: self, inner: place.inner };
                // SAFETY: the slab is of that cache; the rest is the caller's promise.
                unsafe { if cache.try_free(place.found) { Ok(()) } else { cache.free_slow(ptr) } }
            }
            // A large buffer that begins now is none that the caller has.
            Some(Resolved::Large { .. }) => Err(nothing),
            None => {
                if let Some(error) = self.not_a_buffer(ptr) {
                    return Err(error);
                }
                // What a cache resumes is found once its slab was swept.
                let swept = self.sweep_around(ptr)?;
                let resolved = if swept { self.resolve(ptr, &stays) } else { None };
                let Some(Resolved::Slab(place)) = resolved else { return Err(nothing) };
                // SAFETY: the caller's promise.
                unsafe { Cache { slabs: self, inner: place.inner }.free_slow(ptr) }
            }
        }
    }

    /// Returns why a pointer that leads to no object and to no buffer's start cannot be freed, if more can be
    /// said than that.
    #[cold]
    #[inline(never)]
    fn not_a_buffer(&self, ptr: NonNull<u8>) -> Option<Error> {
        let memory = self.memory();
        let addr = memory.machine().phys(ptr)?;
        match (memory.owning_block(addr.pfn()), memory.state(addr.pfn())) {
            (Some((run, FrameType::Buffer, _)), _) => {
                Some(Error::Interior { cache: Name::LARGE, addr, start: run.addr() })
            }
            (None, Ok(FrameState::Freed)) if addr.is_page_aligned() => {
                let (cache, action, found) = (Name::LARGE, Action::Free, ObjectState::Free);
                Some(Error::WrongState { cache, addr, action, found })
            }
            _ => None,
        }
    }

    /// Gives a buffer another size, and moves it if it has to. Returns the buffer that results. What is
    /// beyond the old size is not initialised. A buffer that was preserved from birth still is; one
    /// that was claimed survives until it is let go or freed, and where it moves to until it is freed.
    ///
    /// `layout` is the layout that it is to have. It stays where it is if its class is right or
    /// it shrinks by less than half, and if it is large as long as its frames can be cut off or
    /// those behind it are free. One that shrinks stays too where there is no memory for a smaller one.
    ///
    /// # Errors
    /// The buffer is as it was: [`Error::WrongState`], or the like from
    /// [`Memory::shrink_run`](heirloom_folio::Memory::shrink_run), if it was preserved singly and
    /// would have to move or change its frames; as for [`Slabs::alloc`] and [`Slabs::free`].
    ///
    /// # Safety
    /// As for [`Cache::free`]; if another pointer is returned, the old one is not to be used.
    pub unsafe fn realloc(&self, ptr: NonNull<u8>, layout: Layout) -> Result<NonNull<u8>, Error> {
        if layout.size() == 0 {
            return Err(bad(layout));
        }
        // SAFETY: the caller owns what it resizes.
        let stays = unsafe { Stays::promised() };
        let object_ref = match self.owned(ptr, &stays)? {
            Resolved::Slab(place) => place.start()?,
            Resolved::Large { run, preserved } => {
                // SAFETY: the caller's promise.
                return unsafe { self.realloc_large(ptr, run, preserved, layout) };
            }
        };
        let (geometry, state) = (&object_ref.inner.geometry, object_ref.state());
        let (has, wants) = (u32_to_usize(geometry.size), layout.size());
        let aligned = ptr.addr().get().is_multiple_of(layout.align());
        if state.is_in_use() && aligned && wants <= has && (wants > has / 2 || has <= 64) {
            return Ok(ptr);
        }
        let held = state.is(ObjectState::Held);
        if !state.is(ObjectState::Live) && !held {
            return Err(object_ref.refused(Action::Free));
        }
        // What survives until it is freed still does where it goes.
        let opts =
            AllocOptions { preserving: object_ref.inner.spec.preserving || held, zeroed: false };
        // SAFETY: the caller's promise; the object has `has` bytes.
        match unsafe { self.move_to(ptr, has, layout, opts) } {
            // Shrinking needs no memory.
            Err(Error::Folio(_)) if aligned && wants <= has => Ok(ptr),
            moved => moved,
        }
    }

    /// Copies a buffer of `has` bytes into a new one and frees it.
    ///
    /// # Safety
    /// As for [`Cache::free`]; the buffer has that many bytes.
    unsafe fn move_to(
        &self,
        ptr: NonNull<u8>,
        has: usize,
        layout: Layout,
        opts: AllocOptions,
    ) -> Result<NonNull<u8>, Error> {
        let to = self.alloc(layout, opts)?;
        // SAFETY: both have that many bytes, are the caller's, and are apart.
        unsafe { to.copy_from_nonoverlapping(ptr, has.min(layout.size())) };
        // SAFETY: the caller's promise.
        if let Err(error) = unsafe { self.free(ptr) } {
            // SAFETY: allocated above, and not handed out.
            let undone = unsafe { self.free(to) };
            debug_assert!(undone.is_ok(), "allocated just now: {undone:?}");
            return Err(error);
        }
        Ok(to)
    }

    /// Allocates a large buffer that is one block. Returns `None` where more is to be done.
    #[inline(never)]
    fn alloc_block_slow(&self, layout: Layout, zeroed: bool) -> Option<NonNull<u8>> {
        let block = self.memory().alloc(single(layout, zeroed)?).ok()?;
        self.at_alignment(block.addr(), layout)
    }

    /// Allocates a large buffer that is one block and survives until it is freed. Returns `None` where more is to be
    /// done.
    #[inline(never)]
    fn alloc_held_slow(&self, layout: Layout, zeroed: bool) -> Option<NonNull<u8>> {
        let block = self.memory().alloc_held(single(layout, zeroed)?).ok()?;
        self.at_alignment(block.addr(), layout)
    }

    /// Returns the first byte of a large buffer allocated just now; `None`, with the buffer freed, where the map does
    /// not keep its alignment.
    #[inline]
    fn at_alignment(&self, addr: PhysAddr, layout: Layout) -> Option<NonNull<u8>> {
        let ptr = self.memory().machine().ptr(addr);
        // (An alignment is a power of two, which a division would not know.)
        if ptr.addr().get() & (layout.align() - 1) != 0 {
            // SAFETY: allocated by the caller, and not handed out.
            let undone = unsafe { self.memory().free_buffer(ptr) };
            debug_assert!(undone == Some(Ok(())), "allocated just now: {undone:?}");
            return None;
        }
        Some(ptr)
    }

    /// Allocates a buffer of whole pages.
    #[inline(never)]
    fn alloc_large(&self, layout: Layout, opts: AllocOptions) -> Result<NonNull<u8>, Error> {
        let memory = self.memory();
        let frames = usize_to_u64(layout.size().div_ceil(PAGE_SIZE));
        let order = Order::for_frames(usize_to_u64(layout.align().div_ceil(PAGE_SIZE)));
        let order = order.filter(|order| *order <= Order::MAX_FOLIO && frames > 0);
        let request = Request::new(order.ok_or(bad(layout))?).frame_type(FrameType::Buffer);
        let request = if opts.zeroed { request.zeroed() } else { request };
        let run = self.retry_after_reclaim(|| {
            Ok(if opts.preserving {
                memory.alloc_held_run(frames, request)?
            } else {
                memory.alloc_run(frames, request)?
            })
        })?;
        let aligned = self.at_alignment(run.addr(), layout);
        aligned.ok_or(Error::BadMap { addr: run.addr(), align: layout.align() })
    }

    /// Does what [`Slabs::realloc`] does, for a large buffer.
    ///
    /// # Safety
    /// As for [`Slabs::realloc`].
    unsafe fn realloc_large(
        &self,
        ptr: NonNull<u8>,
        run: Run,
        preserved: bool,
        layout: Layout,
    ) -> Result<NonNull<u8>, Error> {
        let memory = self.memory();
        let frames = usize_to_u64(layout.size().div_ceil(PAGE_SIZE));
        let aligned = ptr.addr().get().is_multiple_of(layout.align());
        let large = Class::of(layout).is_none();
        if aligned && large && frames == run.frames() {
            return Ok(ptr);
        }
        let held = preserved && memory.is_held(run.start());
        if preserved && !held {
            let order = Order::ZERO;
            let block = Block::containing(run.start(), order);
            return Err(heirloom_folio::Error::Preserved { block }.into());
        }
        // A preserved run must be preserved as a whole at any instant: it moves.
        if aligned && large && !held {
            // SAFETY: the caller's promise.
            let changed = unsafe {
                if frames < run.frames() {
                    memory.shrink_run_as(run, frames, FrameType::Buffer)
                } else {
                    memory.grow_run_as(run, frames, FrameType::Buffer)
                }
            };
            if changed.is_ok() {
                return Ok(ptr);
            }
        }
        let opts = AllocOptions { preserving: held, zeroed: false };
        // SAFETY: the caller's promise; the run has that many bytes.
        match unsafe { self.move_to(ptr, u64_to_usize(run.bytes()), layout, opts) } {
            // Shrinking needs no memory: it stays, with as many of its frames as it must keep.
            Err(Error::Folio(_)) if aligned && frames <= run.frames() => {
                if !held && frames < run.frames() {
                    // SAFETY: the caller's promise. (Where it cannot be cut it keeps all of them.)
                    let _ = unsafe { memory.shrink_run_as(run, frames, FrameType::Buffer) };
                }
                Ok(ptr)
            }
            moved => moved,
        }
    }

    /// Claims a large buffer of `bytes` bytes that the predecessor left at `addr`; once. It survives
    /// until it is let go, or freed by a plain free.
    ///
    /// # Errors
    /// [`Error::Folio`], with those of [`Memory::claim`](heirloom_folio::Memory::claim). Then
    /// nothing is claimed.
    #[doc(hidden)]
    pub fn claim_large(&self, addr: PhysAddr, bytes: u64) -> Result<NonNull<u8>, Error> {
        let memory = self.memory();
        let nothing = heirloom_folio::Error::NotMemory { pfn: addr.pfn() };
        if !addr.is_page_aligned() {
            return Err(nothing.into());
        }
        let run = Run::covering(addr, bytes).ok_or(nothing)?;
        memory.claim_buffer(run)?;
        Ok(memory.machine().ptr(run.addr()))
    }
}

/// Returns the request for a large buffer of this layout, if one block is exactly that.
#[inline]
fn single(layout: Layout, zeroed: bool) -> Option<Request> {
    let frames = layout.size().div_ceil(PAGE_SIZE);
    let aligned = frames.is_power_of_two() && layout.align() <= frames * PAGE_SIZE;
    if !aligned || Class::of(layout).is_some() {
        return None;
    }
    let order = Order::new(u32_to_u8(frames.trailing_zeros()))?;
    let request = Request::new(order).frame_type(FrameType::Buffer);
    Some(if zeroed { request.zeroed() } else { request })
}

const fn bad(layout: Layout) -> Error {
    Error::BadLayout { size: layout.size(), align: layout.align() }
}
