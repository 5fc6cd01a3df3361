//! The machine: memory at the same addresses in each run, threads as CPUs, and a lock.

use std::alloc::{Layout, alloc_zeroed, handle_alloc_error};
use std::cell::Cell;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool as Plain, Ordering};

use heirloom::folio::sync::{Acquire, AtomicBool, Release};
use heirloom::folio::{
    CpuId, Cpus, DirectMap, Linear, Machine, Memory, NodeId, PAGE_SIZE, Pfn, PhysAddr, Run,
};
use heirloom::restore::{Entry, SealPolicy};
use heirloom::{Error, Heirloom, MemoryMap};

use super::CHECKER;

/// Frames of the largest ground, and of what lies beside it.
const FRAMES: usize = 256;
const BESIDE: usize = 16;
/// CPUs of the largest machine.
const CPUS: usize = 4;

std::thread_local! {
    /// Every ground of a thread lies here, so that the next run finds all at the same addresses.
    static POOL: Cell<Option<NonNull<u8>>> = const { Cell::new(None) };
}

fn pool() -> NonNull<u8> {
    // And a page for the ground itself.
    let layout = Layout::from_size_align((FRAMES + BESIDE + 1) * PAGE_SIZE, PAGE_SIZE);
    let layout = layout.expect("a layout");
    POOL.get().unwrap_or_else(|| {
        // SAFETY: not empty. Never given back: what is known of it outlives any run.
        let base = NonNull::new(unsafe { alloc_zeroed(layout) });
        let base = base.unwrap_or_else(|| handle_alloc_error(layout));
        POOL.set(Some(base));
        base
    })
}

/// Whether an address is in the thread's pool.
pub(super) fn in_pool(at: *const ()) -> bool {
    POOL.get().is_some_and(|base| {
        at.addr().wrapping_sub(base.addr().get()) < (FRAMES + BESIDE + 1) * PAGE_SIZE
    })
}

/// A run of frames.
///
/// # Panics
/// If there are none.
pub fn run(start: u64, frames: u64) -> Run {
    Run::new(Pfn::new(start), frames).expect("frames")
}

/// A small machine. One at a time on a thread: it lies where the one before lay.
#[derive(Debug)]
pub struct Ground {
    map: Linear,
    map_of: [(Run, NodeId); 1],
    beside: NonNull<u8>,
    used: Cell<usize>,
    cpus: usize,
    busy: [Busy; CPUS],
    idles: bool,
}

// SAFETY: the checkers run all threads in turns on one thread.
unsafe impl Sync for Ground {}
// SAFETY: as for `Sync`.
unsafe impl Send for Ground {}

impl Ground {
    /// `frames` zeroed frames from frame 64 on. With `idles`, a CPU that nobody is on lets others
    /// work on its state.
    ///
    /// # Panics
    /// If there are too many.
    pub fn new(frames: u64, cpus: usize, idles: bool) -> &'static Self {
        assert!(frames as usize <= FRAMES && cpus <= CPUS, "a small world");
        let base = pool();
        let all = run(64, frames);
        let bytes = (FRAMES + BESIDE) * PAGE_SIZE;
        // SAFETY: all of the pool, which no other ground uses now.
        unsafe { base.write_bytes(0, bytes) };
        // SAFETY: within the pool.
        let beside = unsafe { base.add(FRAMES * PAGE_SIZE) };
        // SAFETY: the pool stays, and is reached through this map alone.
        let map = unsafe { Linear::new(base, all.addr(), all.bytes() as usize) };
        let ground = Self {
            map,
            map_of: [(all, NodeId(0))],
            beside,
            used: Cell::new(0),
            cpus,
            busy: Default::default(),
            idles,
        };
        const { assert!(size_of::<Self>() <= PAGE_SIZE && align_of::<Self>() <= PAGE_SIZE) };
        // SAFETY: the pool's last page, which stays.
        unsafe {
            let place = base.add((FRAMES + BESIDE) * PAGE_SIZE).cast::<Self>();
            place.write(ground);
            place.as_ref()
        }
    }

    /// The frames.
    pub fn all(&self) -> Run {
        self.map_of[0].0
    }

    /// The memory map.
    pub fn map(&self) -> MemoryMap<'_> {
        &self.map_of
    }

    fn space(&self, bytes: usize) -> NonNull<[u8]> {
        let at = self.used.get();
        self.used.set((at + bytes).next_multiple_of(64));
        assert!(self.used.get() <= BESIDE * PAGE_SIZE, "room beside the frames");
        // SAFETY: within what lies beside the frames.
        NonNull::slice_from_raw_parts(unsafe { self.beside.add(at) }, bytes)
    }

    /// A memory of all frames.
    ///
    /// # Panics
    /// Never: the room beside is large enough.
    pub fn memory(&self) -> Memory<&Self> {
        self.used.set(0);
        let cpus = self.space(Memory::<&Self>::cpu_bytes(self.cpus));
        let space = self.space(Memory::<&Self>::range_bytes(self.all()));
        // SAFETY: the spaces are apart and stay; one memory at a time is made of a ground.
        let memory = unsafe { Memory::new(self, cpus) }.expect("room");
        // SAFETY: as above; the map covers the frames.
        unsafe { memory.add_range(self.all(), NodeId(0), space) }.expect("room");
        memory
    }

    /// Scratch: the last frames.
    fn scratch(&self) -> Run {
        let bytes = Heirloom::<&Self>::scratch_bytes(self.map(), self.cpus) as u64;
        let frames = bytes / PAGE_SIZE as u64;
        run(self.all().end().get() - frames, frames)
    }

    /// A kernel without a predecessor.
    ///
    /// # Panics
    /// If there are too few frames for one.
    pub fn boot(&self) -> Heirloom<&Self> {
        // SAFETY: one kernel at a time runs here.
        unsafe { Heirloom::boot(self, self.map(), &[self.scratch()], "races") }.expect("room")
    }

    /// The kernel that follows one that was dropped.
    ///
    /// # Panics
    /// If it refuses.
    pub fn revive(&self, entry: Entry) -> Heirloom<&Self> {
        let kernel = self.try_revive(entry, SealPolicy::Checked);
        kernel.unwrap_or_else(|error| panic!("refused: {error}"))
    }

    /// The same, with what it asks of a seal.
    ///
    /// # Errors
    /// Why it refuses.
    pub fn try_revive(&self, entry: Entry, seal: SealPolicy) -> Result<Heirloom<&Self>, Error> {
        // SAFETY: as for `boot`.
        unsafe { Heirloom::revive(self, self.map(), entry, "races", seal) }
    }
}

// SAFETY: delegates to `Linear` over memory that stays.
unsafe impl DirectMap for Ground {
    fn ptr(&self, addr: PhysAddr) -> NonNull<u8> {
        self.map.ptr(addr)
    }

    fn phys(&self, ptr: NonNull<u8>) -> Option<PhysAddr> {
        self.map.phys(ptr)
    }
}

/// Whether somebody is on a CPU.
#[derive(Debug, Default)]
struct Busy {
    /// Where a thread has its CPU for good. Not watched: the machine is not what is checked.
    own: Plain,
    /// Where others may work on a CPU that nobody is on: then what the one wrote there reaches the
    /// next by this word.
    shared: AtomicBool,
}

/// A CPU that is in use until this is dropped.
struct On<'a>(&'a Busy, bool);

impl<'a> On<'a> {
    fn enter(busy: &'a Busy, shared: bool) -> Option<Self> {
        // Acquire pairs with the Release in `drop`.
        let before = if shared {
            busy.shared.swap(true, Acquire)
        } else {
            busy.own.swap(true, Ordering::Relaxed)
        };
        // Not `then_some`: what it does not return it drops, and that leaves the CPU.
        (!before).then(|| Self(busy, shared))
    }
}

impl Drop for On<'_> {
    fn drop(&mut self) {
        let Self(busy, shared) = self;
        if *shared {
            // Release pairs with the Acquire in `enter`.
            busy.shared.store(false, Release);
        } else {
            busy.own.store(false, Ordering::Relaxed);
        }
    }
}

// SAFETY: a word is set while a closure runs with the CPU, and who finds it set does without one.
// Where CPUs idle, the word passes on what the last closure wrote; where not, each thread has a CPU
// of its own and `idle` runs nothing.
unsafe impl Cpus for Ground {
    fn count(&self) -> usize {
        self.cpus
    }

    fn pinned<R>(&self, f: impl FnOnce(Option<CpuId>) -> R) -> R {
        let cpu = CHECKER.get().map_or(0, |checker| checker.thread()) % self.cpus;
        let on = On::enter(&self.busy[cpu], self.idles);
        f(on.is_some().then_some(CpuId(cpu as u32)))
    }

    fn idle(&self, cpu: CpuId, f: impl FnOnce()) -> bool {
        let busy = self.busy.get(cpu.index()).filter(|_| self.idles);
        let on = busy.and_then(|busy| On::enter(busy, true));
        let free = on.is_some();
        if free {
            f();
        }
        free
    }
}

impl Machine for Ground {
    type Lock = Turn;
    type Mutex = Turn;
}

/// A lock whose waiters let others run.
#[derive(Debug)]
pub struct Turn(AtomicBool);

// SAFETY: who finds `false` and sets it has the lock until it stores `false`.
unsafe impl lock_api::RawMutex for Turn {
    #[expect(clippy::declare_interior_mutable_const, reason = "the trait's")]
    const INIT: Self = Self(AtomicBool::new(false));
    type GuardMarker = lock_api::GuardSend;

    fn lock(&self) {
        if CHECKER.get().is_some_and(|checker| checker.lock(std::ptr::from_ref(self).addr())) {
            return;
        }
        while !self.try_lock() {
            CHECKER.get().expect("a lock that nobody will give back").pause();
        }
    }

    fn try_lock(&self) -> bool {
        // Acquire pairs with the Release in `unlock`.
        !self.0.swap(true, Acquire)
    }

    unsafe fn unlock(&self) {
        if CHECKER.get().is_some_and(|checker| checker.unlock(std::ptr::from_ref(self).addr())) {
            return;
        }
        // Release pairs with the Acquire in `try_lock`.
        self.0.store(false, Release);
    }
}
