//! A cache's control block: what it is, its CPUs' slots, and what is shared under its lock.
//!
//! ```text
//! | CacheInner: spec, geometry | lock, lists, depot, slab table | slot of CPU 0 | slot of CPU 1 | …
//!   read only                 under the lock                   each a CPU's own
//! ```
//!
//! It lies in frames of its own and, once the registry leads to it, stays as long as the instance.

use core::ptr::{NonNull, null_mut};

use crossbeam_utils::CachePadded;
use heirloom_folio::internal::BlockMatcher;
use heirloom_folio::{CpuId, FrameType, Machine, Memory, Request};
use heirloom_kho::narrow::usize_to_u64;
use heirloom_kho::sync::Ordering::Relaxed;
use heirloom_kho::sync::{AtomicBool, AtomicPtr, written};
use heirloom_kho::{Block, Order, PAGE_SIZE};
use lock_api::Mutex;

use crate::cache::life::Life;
use crate::depot::Depot;
use crate::directory::SlabTable;
use crate::error::Error;
use crate::geometry::Geometry;
use crate::header::SlabDesc;
use crate::lists::Lists;
use crate::magazine::{Slot, capacity};
use crate::name::Name;
use crate::spec::{CConstructor, CacheSpec, Construct, Constructor};
use crate::takeover::Takeover;

/// What a cache's CPUs share.
pub(crate) struct Shared {
    pub(crate) lists: Lists,
    pub(crate) depot: Depot,
    pub(crate) table: SlabTable,
}

/// A cache. What allocating and freeing look at comes first.
#[repr(C)]
pub(crate) struct CacheInner<M: Machine> {
    pub(crate) geometry: Geometry,
    /// What its slabs' headers say of the cache that has them.
    pub(crate) owner: u64,
    slots: NonNull<CachePadded<Slot>>,
    /// What the page allocator says of its slabs.
    pub(crate) slab: BlockMatcher,
    pub(crate) name: Name,
    pub(crate) spec: CacheSpec,
    pub(crate) desc: SlabDesc,
    /// How it takes over what a predecessor left to it.
    pub(crate) takeover: Takeover,
    /// Whether it is there still.
    pub(crate) life: Life,
    /// The constructor; null if there is none. Another cache of the same description may have another.
    constructor: AtomicPtr<()>,
    /// Whether the constructor is a function in C.
    constructs_in_c: AtomicBool,
    /// What the cache belongs to, where a [raw](crate::RawCache) pointer leads to it alone; null before.
    pub(crate) slabs: AtomicPtr<u8>,
    pub(crate) shared: CachePadded<Mutex<M::Lock, Shared>>,
}

// SAFETY: the pointer leads to the slots of the same block, which are atomics; nothing is tied to
// a thread.
unsafe impl<M: Machine> Sync for CacheInner<M> where M::Lock: Sync {}

impl<M: Machine> CacheInner<M> {
    /// Builds the control block of a cache, which nothing leads to yet. The headers of its slabs say
    /// `owner`; they are entered in `table`.
    ///
    /// # Errors
    /// [`Error::Folio`]: out of memory.
    pub(crate) fn build(
        memory: &Memory<M>,
        owner: u64,
        table: SlabTable,
        spec: CacheSpec,
        (name, geometry): (Name, Geometry),
    ) -> Result<Built<'_, M>, Error> {
        let desc = SlabDesc::new(name, &geometry, spec.preserving, spec.layout());
        let cpus = memory.machine().count();
        let slots_at = size_of::<Self>().next_multiple_of(align_of::<CachePadded<Slot>>());
        let bytes = slots_at + cpus * size_of::<CachePadded<Slot>>();
        let frames = usize_to_u64(bytes.div_ceil(PAGE_SIZE));
        let order = Order::for_frames(frames).unwrap_or(Order::MAX);
        let block = memory.alloc(Request::new(order).frame_type(FrameType::Table))?;
        let base = memory.machine().ptr(block.addr());
        // SAFETY: the block has room for the control block and, behind it, aligned as they need,
        // one slot for each CPU; it is ours alone.
        unsafe {
            let slots = base.add(slots_at).cast::<CachePadded<Slot>>();
            for cpu in 0..cpus {
                slots.add(cpu).write(CachePadded::new(Slot::new()));
            }
            let capacity = capacity(geometry.stride);
            let shared = Shared { lists: Lists::new(), depot: Depot::new(capacity), table };
            let inner = base.cast::<Self>();
            inner.write(Self {
                geometry,
                owner,
                slots,
                slab: BlockMatcher::new(FrameType::Slab, geometry.order),
                name,
                spec,
                desc,
                takeover: Takeover::new(),
                life: Life::new(),
                constructor: AtomicPtr::new(null_mut()),
                constructs_in_c: AtomicBool::new(false),
                slabs: AtomicPtr::new(null_mut()),
                shared: CachePadded::new(Mutex::new(shared)),
            });
            (*inner.as_ptr()).set_constructor(spec.constructor);
            written(base, bytes);
            Ok(Built { memory, block, inner })
        }
    }

    /// Returns the constructor.
    pub(crate) fn constructor(&self) -> Option<Construct> {
        // Relaxed, both: what has the cache has it from a call behind the one that set them.
        let constructor = self.constructor.load(Relaxed);
        if constructor.is_null() {
            return None;
        }
        Some(if self.constructs_in_c.load(Relaxed) {
            // SAFETY: not null, and in C, so `set_constructor` made it of such a constructor.
            Construct::C(unsafe { core::mem::transmute::<*mut (), CConstructor>(constructor) })
        } else {
            // SAFETY: not null, and not in C, so `set_constructor` made it of such a constructor.
            Construct::Rust(unsafe { core::mem::transmute::<*mut (), Constructor>(constructor) })
        })
    }

    /// Sets the constructor, of a cache that is the caller's alone.
    pub(crate) fn set_constructor(&self, constructor: Option<Construct>) {
        #[expect(clippy::as_conversions, reason = "a function's address is had in no other way")]
        let address = match constructor {
            None => null_mut(),
            Some(Construct::Rust(construct)) => construct as *mut (),
            Some(Construct::C(construct)) => construct as *mut (),
        };
        self.constructor.store(address, Relaxed);
        self.constructs_in_c.store(matches!(constructor, Some(Construct::C(_))), Relaxed);
    }

    /// Returns what the cache is like.
    pub(crate) fn spec(&self) -> CacheSpec {
        let mut spec = self.spec;
        spec.constructor = self.constructor();
        spec
    }

    /// Returns the slot of a CPU.
    ///
    /// # Safety
    /// `cpu` is a CPU of the machine that the block was built for.
    #[inline]
    pub(crate) unsafe fn slot(&self, cpu: CpuId) -> &Slot {
        // SAFETY: `build` wrote a slot for each CPU; only shared references to them exist.
        unsafe { self.slots.add(cpu.index()).as_ref() }
    }

    /// Returns how many objects a magazine of the cache holds.
    pub(crate) const fn magazine_capacity(&self) -> usize {
        capacity(self.geometry.stride)
    }

    /// Returns how many objects are in magazines; exact while no CPU does anything.
    pub(crate) fn cached(&self, machine: &M, shared: &Shared) -> usize {
        let cpus = CpuId::all(machine.count());
        // SAFETY: CPUs of the machine.
        let slots = cpus.map(|cpu| unsafe { self.slot(cpu) }.cached());
        shared.depot.cached() + slots.sum::<usize>()
    }
}

/// A control block that no registry leads to yet. Dropping it gives its frames back.
pub(crate) struct Built<'m, M: Machine> {
    memory: &'m Memory<M>,
    block: Block,
    inner: NonNull<CacheInner<M>>,
}

impl<M: Machine> Built<'_, M> {
    /// Returns where it lies.
    pub(crate) const fn inner(&self) -> NonNull<CacheInner<M>> {
        self.inner
    }

    /// Says what its slabs' headers are to say.
    pub(crate) fn set_owner(&mut self, owner: u64) {
        // SAFETY: the block is written, and this value's alone.
        unsafe { self.inner.as_mut() }.owner = owner;
        written(self.inner.cast(), size_of::<CacheInner<M>>());
    }

    /// Leaves it where it is, as long as the instance.
    pub(crate) const fn stay(self) -> NonNull<CacheInner<M>> {
        let inner = self.inner;
        core::mem::forget(self);
        inner
    }
}

impl<M: Machine> Drop for Built<'_, M> {
    fn drop(&mut self) {
        // SAFETY: the block is written, and nothing leads to it.
        let freed = unsafe {
            self.inner.drop_in_place();
            self.memory.free_as(self.block, FrameType::Table)
        };
        debug_assert!(freed.is_ok(), "a block of our own is free to go: {freed:?}");
    }
}
