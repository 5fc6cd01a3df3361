//! The page allocators that the rows of `frames` compare.

#![expect(clippy::inline_always, reason = "nothing but the call that is measured")]

use std::cell::UnsafeCell;
use std::num::NonZeroUsize;
use std::ptr::{NonNull, with_exposed_provenance_mut};
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use bitmap_allocator::{BitAlloc, BitAlloc1M, BitAlloc16M};
use buddy_slab_allocator::BuddyAllocator;
use buddy_system_allocator::FrameAllocator;
use frame_alloc::{
    CpuId, DepotAllocator, PageSize, PhysicalAllocator, Provenance, RegionInit,
    SummaryBuddyAllocator,
};
use heirloom_folio::Request;
use heirloom_kho::{Block, Order, PAGE_SIZE};

use crate::{Dice, World, free, order, reserve, world};

/// A page allocator over frames that are never touched.
pub trait Frames: Sync {
    /// As the rows call it.
    const NAME: &'static str;
    /// What the allocator hands out, and what it must know to take it back.
    type Block: Copy + Send + Sync;

    /// An allocator of `frames` free frames.
    fn new(frames: u64) -> Self;
    /// A block of the order.
    fn take(&self, order: Order) -> Option<Self::Block>;
    /// Frees a block that `take` gave.
    fn give(&self, block: Self::Block);
    /// The order that the block was asked for.
    fn order(block: Self::Block) -> Order;
    /// Gives what caches keep back, between the rounds of a row.
    fn drain(&self) {}
}

/// heirloom's page allocator.
pub struct Heirloom(pub World);

impl Frames for Heirloom {
    const NAME: &'static str = "heirloom";
    type Block = Block;

    fn new(frames: u64) -> Self {
        Self(world(frames))
    }

    #[inline(always)]
    fn take(&self, order: Order) -> Option<Block> {
        self.0.alloc(Request::new(order)).ok()
    }

    #[inline(always)]
    fn give(&self, block: Block) {
        free(&self.0, block);
    }

    fn order(block: Block) -> Order {
        block.order()
    }

    fn drain(&self) {
        self.0.drain();
    }
}

/// A block of a peer: its frame or address, and its order, as much as heirloom's says.
#[derive(Clone, Copy, Debug)]
pub struct At {
    at: usize,
    order: Order,
}

impl At {
    fn count(self) -> usize {
        1 << self.order.get()
    }
}

/// Address space that starts at a multiple of its size, or of 1 GiB.
fn region(frames: u64) -> (NonNull<u8>, usize) {
    const ALIGN: usize = 1 << 30;
    let bytes = usize::try_from(frames).expect("fits") * PAGE_SIZE;
    let space = reserve(bytes + ALIGN);
    // SAFETY: the space has as much more as the alignment may skip.
    (unsafe { space.add(space.align_offset(ALIGN)) }, bytes)
}

/// The identity map of a process.
#[derive(Debug)]
pub enum Identity {}

// SAFETY: the "physical" addresses are those of a mapping that was exposed and stays.
unsafe impl Provenance for Identity {
    unsafe fn create(phys: usize) -> NonNull<u8> {
        NonNull::new(with_exposed_provenance_mut(phys)).expect("not at zero")
    }

    unsafe fn destroy<T>(ptr: NonNull<T>) -> usize {
        ptr.expose_provenance().get()
    }
}

/// The calling thread's number: two threads take turns.
#[derive(Debug)]
pub enum Thread {}

static THREADS: AtomicUsize = AtomicUsize::new(0);
std::thread_local! {
    static THREAD: usize = THREADS.fetch_add(1, Relaxed) % 8;
}

impl CpuId for Thread {
    #[inline]
    fn current_cpu() -> usize {
        THREAD.with(|n| *n)
    }
}

const BASE: PageSize = PageSize::from_log2(12);
type Summary = SummaryBuddyAllocator<11, Identity>;

macro_rules! of_frame_alloc {
    ($peer:ident, $inner:ty, $name:literal, $what:literal, $new:expr) => {
        #[doc = $what]
        pub struct $peer($inner);

        impl Frames for $peer {
            const NAME: &'static str = $name;
            type Block = At;

            fn new(frames: u64) -> Self {
                let (start, bytes) = region(frames);
                let inner = $new;
                // SAFETY: the region is mapped for good and nobody else's.
                unsafe { inner.init_region(start.expose_provenance().get(), bytes) };
                Self(inner)
            }

            #[inline(always)]
            fn take(&self, order: Order) -> Option<At> {
                let count = NonZeroUsize::MIN.saturating_mul(NonZeroUsize::new(1 << order.get())?);
                let at = self.0.allocate_physical(BASE, count).ok()?;
                Some(At { at, order })
            }

            #[inline(always)]
            fn give(&self, block: At) {
                let Some(count) = NonZeroUsize::new(block.count()) else { return };
                // SAFETY: allocated with the same count, and forgotten here.
                unsafe { self.0.deallocate_physical(BASE, count, block.at) };
            }

            fn order(block: At) -> Order {
                block.order
            }
        }
    };
}

of_frame_alloc!(
    FrameAlloc,
    Summary,
    "frame-alloc",
    "`frame-alloc`'s lock-free buddy allocator.",
    Summary::new(BASE)
);
of_frame_alloc!(
    FrameDepot,
    DepotAllocator<Summary, Thread, 8>,
    "frame-alloc, per-CPU",
    "The same behind its per-CPU magazines.",
    DepotAllocator::new(BASE, Summary::new(BASE))
);

/// How an unsynchronised peer is reached.
pub trait Reach<T>: Sync {
    /// What is added to the peer's name.
    const SUFFIX: bool;
    /// Around the peer.
    fn new(value: T) -> Self;
    /// With the peer to oneself.
    fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R;
}

/// By one thread, with nothing between.
#[derive(Debug)]
pub struct Alone<T>(UnsafeCell<T>);

// SAFETY: only the one-thread rows use it, each on the thread that made it.
unsafe impl<T> Sync for Alone<T> {}

impl<T> Reach<T> for Alone<T> {
    const SUFFIX: bool = false;

    fn new(value: T) -> Self {
        Self(UnsafeCell::new(value))
    }

    #[inline(always)]
    fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        // SAFETY: one thread uses it, and no row calls it within a call.
        f(unsafe { &mut *self.0.get() })
    }
}

/// Behind a spin lock.
#[derive(Debug)]
pub struct Locked<T>(spin::Mutex<T>);

impl<T: Send> Reach<T> for Locked<T> {
    const SUFFIX: bool = true;

    fn new(value: T) -> Self {
        Self(spin::Mutex::new(value))
    }

    #[inline(always)]
    fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        f(&mut self.0.lock())
    }
}

/// `buddy-slab-allocator`'s buddy allocator.
#[derive(Debug)]
pub struct BuddySlab<R>(R);

impl<R: Reach<BuddyAllocator>> Frames for BuddySlab<R> {
    const NAME: &'static str =
        if R::SUFFIX { "buddy-slab-allocator, locked" } else { "buddy-slab-allocator" };
    type Block = At;

    fn new(frames: u64) -> Self {
        // Its metadata lies in the region, so the region is larger by that.
        let meta = frames * 16 / PAGE_SIZE as u64 + 2048;
        let (start, bytes) = region(frames + meta);
        let region = NonNull::slice_from_raw_parts(start, bytes).as_ptr();
        let mut inner = BuddyAllocator::new();
        // SAFETY: the region is mapped for good and nobody else's.
        unsafe { inner.init(&mut *region) }.expect("a fresh region");
        Self(R::new(inner))
    }

    #[inline(always)]
    fn take(&self, order: Order) -> Option<At> {
        // Aligned to its size from where the frames start, as a buddy is; an aligned address would
        // be another search.
        let at = self.0.with(|inner| inner.alloc_pages(1 << order.get(), PAGE_SIZE)).ok()?;
        Some(At { at, order })
    }

    #[inline(always)]
    fn give(&self, block: At) {
        self.0.with(|inner| inner.dealloc_pages(block.at, block.count()));
    }

    fn order(block: At) -> Order {
        block.order
    }
}

/// `buddy_system_allocator`'s frame allocator.
#[derive(Debug)]
pub struct BuddySystem<R>(R);

impl<R: Reach<FrameAllocator>> Frames for BuddySystem<R> {
    const NAME: &'static str =
        if R::SUFFIX { "buddy_system_allocator, locked" } else { "buddy_system_allocator" };
    type Block = At;

    fn new(frames: u64) -> Self {
        let mut inner = FrameAllocator::new();
        inner.add_frame(0, usize::try_from(frames).expect("fits"));
        Self(R::new(inner))
    }

    #[inline(always)]
    fn take(&self, order: Order) -> Option<At> {
        let at = self.0.with(|inner| inner.alloc(1 << order.get()))?;
        Some(At { at, order })
    }

    #[inline(always)]
    fn give(&self, block: At) {
        self.0.with(|inner| inner.dealloc(block.at, block.count()));
    }

    fn order(block: At) -> Order {
        block.order
    }
}

/// The bitmap that has room for the frames.
pub enum Map {
    /// Up to 4 GiB.
    Small(Box<BitAlloc1M>),
    /// Up to 64 GiB.
    Large(Box<BitAlloc16M>),
}

/// `bitmap-allocator`.
#[derive(Debug)]
pub struct Bitmap<R>(R);

macro_rules! either {
    ($map:expr, $inner:ident => $what:expr) => {
        match $map {
            Map::Small($inner) => $what,
            Map::Large($inner) => $what,
        }
    };
}

impl<R: Reach<Map>> Frames for Bitmap<R> {
    const NAME: &'static str =
        if R::SUFFIX { "bitmap-allocator, locked" } else { "bitmap-allocator" };
    type Block = At;

    fn new(frames: u64) -> Self {
        let frames = usize::try_from(frames).expect("fits");
        let mut map = if frames <= BitAlloc1M::CAP {
            Map::Small(Box::new(BitAlloc1M::DEFAULT))
        } else {
            Map::Large(Box::new(BitAlloc16M::DEFAULT))
        };
        either!(&mut map, inner => inner.insert(0..frames));
        Self(R::new(map))
    }

    #[inline(always)]
    fn take(&self, o: Order) -> Option<At> {
        let at = self.0.with(|map| {
            either!(map, inner => if o == order(0) {
                inner.alloc()
            } else {
                inner.alloc_contiguous(None, 1 << o.get(), usize::from(o.get()))
            })
        })?;
        Some(At { at, order: o })
    }

    #[inline(always)]
    fn give(&self, block: At) {
        self.0.with(|map| {
            either!(map, inner => if block.order == order(0) {
                inner.dealloc(block.at)
            } else {
                inner.dealloc_contiguous(block.at, block.count())
            })
        });
    }

    fn order(block: At) -> Order {
        block.order
    }
}

/// Frees a random block and takes one of a random order, a share of memory being taken.
pub struct Churn<F: Frames> {
    /// The allocator.
    pub memory: F,
    /// The blocks that are taken.
    pub live: Vec<F::Block>,
    /// How often a request was refused.
    pub refused: u64,
    used: u64,
    dice: Dice,
    limit: u64,
    orders: u64,
}

impl<F: Frames> Churn<F> {
    /// Takes blocks of the first `orders` orders until `limit` frames are taken or a request is refused; then what
    /// is free is scattered, by two operations for each block.
    pub fn new(frames: u64, orders: u64, limit: u64) -> Self {
        let (memory, dice) = (F::new(frames), Dice::new(13));
        let mut churn = Self { memory, live: Vec::new(), refused: 0, used: 0, dice, limit, orders };
        while churn.used < churn.limit && churn.take() {}
        for _ in 0..2 * churn.live.len() {
            churn.step();
        }
        churn
    }

    fn take(&mut self) -> bool {
        let order = order(self.dice.roll(self.orders) as u8);
        let Some(block) = self.memory.take(order) else {
            self.refused += 1;
            return false;
        };
        self.used += order.frames();
        self.live.push(block);
        true
    }

    fn give(&mut self) {
        let at = self.dice.roll(self.live.len() as u64) as usize;
        let block = self.live.swap_remove(at);
        self.used -= F::order(block).frames();
        self.memory.give(block);
    }

    /// Takes a block while less than the limit is taken; frees one otherwise, and where none is to be had.
    pub fn step(&mut self) {
        if self.used >= self.limit || !self.take() {
            self.give();
        }
    }
}
