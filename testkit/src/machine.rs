//! The machine: memory that outlives the kernels that run on it, the map of it, and CPUs.
//!
//! ```text
//!              memory                              CPUs
//!  new         the heap's, each look counted       a slot for each thread
//!  uneven      the heap's, three ranges, two nodes four, of which the program says which runs
//!  small       the heap's, hardly any              one
//!  pooled      the same for each run of a checker  a checker's threads
//!  shared      a memfd's, which processes share    a slot for each thread
//! ```

mod bytes;
#[cfg(heirloom_model)]
mod pool;
mod traits;

use std::ptr::NonNull;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU64 as Plain, AtomicUsize};

#[cfg(target_os = "linux")]
use heirloom::arena::Arena;
use heirloom::folio::harness::Ram;
use heirloom::folio::threads::ThreadSlots;
use heirloom::folio::{Cpus, Linear, Memory, NodeId};
use heirloom::kho::{PAGE_SIZE, Pfn, Run};
use heirloom::restore::{Entry, SealPolicy};
use heirloom::{Error, Heirloom, MemoryMap};

use super::cpus::{self, Few};
use super::rng::Rng;

#[cfg(heirloom_model)]
pub use pool::in_pool;

/// The kernel under test.
pub type Kernel<'m> = Heirloom<&'m TestMachine>;

/// Bytes of a page.
pub const PAGE: u64 = PAGE_SIZE as u64;

/// The most ranges of a machine.
const RANGES: usize = 4;

/// Where memory begins on a machine of a few CPUs.
const START: u64 = 4 << 20;

/// A machine whose memory outlives the kernels that run on it.
#[derive(Debug)]
pub struct TestMachine {
    memory: Backing,
    cpus: Processors,
    /// By address; what is behind `count` is none.
    ranges: [(Run, NodeId); RANGES],
    count: usize,
    /// Whether the last range is not there at first.
    late: bool,
    /// All ranges, and what is between them.
    span: Run,
    scratch: Run,
    /// How often an address was asked for, where that is counted.
    looks: Option<Plain>,
}

/// Where the memory is.
#[derive(Debug)]
enum Backing {
    Heap(Ram),
    /// Memory of the thread's, with room beside it for metadata, of which so many bytes are used.
    #[cfg_attr(not(heirloom_model), expect(dead_code, reason = "what model checkers run on"))]
    Pool(Linear, NonNull<u8>, AtomicUsize),
    #[cfg(target_os = "linux")]
    Shared(Arena, std::fs::File),
}

// SAFETY: the pointer of a pool is to memory that stays, and is reached by who has the machine: one
// thread, which a checker lets take the parts of all.
unsafe impl Send for Backing {}
// SAFETY: as for `Send`.
unsafe impl Sync for Backing {}

#[derive(Debug)]
enum Processors {
    Threads(ThreadSlots),
    Few(Few),
}

/// Returns a run of frames.
///
/// # Panics
/// If it leaves the address space.
pub(crate) fn run(start: u64, frames: u64) -> Run {
    Run::new(Pfn::new(start), frames).expect("frames")
}

impl TestMachine {
    fn over(memory: Backing, cpus: Processors, map: &[(Run, NodeId)], scratch: Run) -> Self {
        let start = map.iter().map(|(run, _)| run.start()).min().expect("a range");
        let end = map.iter().map(|(run, _)| run.end()).max().expect("a range");
        let span = Run::between(start, end).expect("start before end");
        let mut ranges = [(run(0, 0), NodeId(0)); RANGES];
        ranges[..map.len()].copy_from_slice(map);
        let (count, late, looks) = (map.len(), false, None);
        Self { memory, cpus, ranges, count, late, span, scratch, looks }
    }

    /// `frames` frames from 4 GiB on, scratch at their end: just what the metadata needs. Looks at
    /// memory are counted.
    ///
    /// # Panics
    /// If there are too few frames for the metadata.
    pub fn new(frames: u64) -> Self {
        let start = (4 << 30) / PAGE;
        let map = [(run(start, frames), NodeId(0))];
        let slots = ThreadSlots::default();
        let scratch = scratch_frames(&map, slots.count());
        assert!(scratch < frames, "{frames} frames are too few for {scratch} of scratch");
        Self::counted(&map, run(start + frames - scratch, scratch))
    }

    /// One range of `frames` frames from address 0 on, with scratch where the caller wants it.
    ///
    /// # Panics
    /// If there are no frames.
    pub fn from_zero(frames: u64, scratch: Run) -> Self {
        Self::counted(&[(run(0, frames), NodeId(0))], scratch)
    }

    fn counted(map: &[(Run, NodeId)], scratch: Run) -> Self {
        let slots = Processors::Threads(ThreadSlots::default());
        let machine = Self::over(Backing::Heap(Ram::over(map)), slots, map, scratch);
        Self { looks: Some(Plain::new(0)), ..machine }
    }

    /// Memory of a shape that the seed decides: three ranges, on two nodes, `frames` in all or a
    /// few more, none of them aligned to anything in particular. The last one is not there at first.
    /// Four CPUs.
    ///
    /// # Panics
    /// If there are far too many frames.
    pub fn uneven(seed: u64, frames: u64) -> Self {
        let mut rng = Rng::new(seed);
        let mut at = START + rng.below(70);
        let mut map = [(5, 0), (3, 1), (2, 0)].map(|(share, node)| {
            let length = frames * share / 10 + rng.below(9);
            let range = run(at, length);
            // Some ranges meet, and are two even so.
            at += length + rng.below(4);
            (range, NodeId(node))
        });
        // The first range grows by scratch, which takes a little more then; what comes after it
        // moves up.
        let needed = scratch_frames(&map, cpus::MOST) + 1;
        map[0].0 = run(map[0].0.start().get(), map[0].0.frames() + needed);
        for (range, _) in &mut map[1..] {
            *range = run(range.start().get() + needed, range.frames());
        }
        let first = map[0].0;
        let scratch = run(first.start().get() + rng.below(first.frames() - needed), needed);
        let few = Processors::Few(Few::new(cpus::MOST as u32, 2, true));
        let machine = Self::over(Backing::Heap(Ram::over(&map)), few, &map, scratch);
        Self { late: true, ..machine }
    }

    /// One CPU, and memory of `frames` frames and scratch behind them, with one more range of a
    /// frame that may be added.
    ///
    /// # Panics
    /// If there are no frames.
    pub fn small(frames: u64) -> Self {
        let map = |scratch: u64| {
            let end = START + frames + scratch;
            [(START, frames + scratch), (end, 1), (end + 2, 1)]
                .map(|(start, frames)| (run(start, frames), NodeId(0)))
        };
        let scratch = scratch_frames(&map(8), 1);
        let machine = Self::bare(&map(scratch));
        Self { late: true, scratch: run(START + frames, scratch), ..machine }
    }

    /// One CPU, memory in these ranges, and no scratch: for a page allocator by itself.
    ///
    /// # Panics
    /// If there are no ranges.
    pub fn bare(map: &[(Run, NodeId)]) -> Self {
        let few = Processors::Few(Few::new(1, 1, true));
        Self::over(Backing::Heap(Ram::over(map)), few, map, run(0, 0))
    }

    /// The memory that processes share, scratch in the middle of its first range, so that what lies on
    /// both sides of it is used. `slots`: for so many threads.
    ///
    /// # Errors
    /// The arena's descriptor cannot be had once more.
    ///
    /// # Panics
    /// If the first range is too small.
    #[cfg(target_os = "linux")]
    pub fn shared(arena: Arena, slots: usize) -> std::io::Result<Self> {
        let map: Vec<_> = arena.ranges().iter().map(|range| (range.run(), range.node())).collect();
        let file = std::fs::File::from(arena.share().map_err(std::io::Error::other)?);
        let scratch = run(map[0].0.start().get() + 100, scratch_frames(&map, slots));
        let slots = Processors::Threads(ThreadSlots::new(slots));
        Ok(Self::over(Backing::Shared(arena, file), slots, &map, scratch))
    }

    /// The same memory, mapped once more, wherever there is room: for a process that the owner of this
    /// one waits for.
    ///
    /// # Errors
    /// It cannot be mapped.
    ///
    /// # Panics
    /// If it is memory of this process's alone.
    #[cfg(target_os = "linux")]
    pub fn again(&self) -> std::io::Result<Self> {
        let other = std::io::Error::other::<heirloom::arena::ArenaError>;
        let fd = self.arena().share().map_err(other)?;
        Self::shared(Arena::open_shared(fd).map_err(other)?, self.count())
    }

    /// The memory map, with the range that is not there at first or without.
    pub fn map(&self, late: bool) -> MemoryMap<'_> {
        &self.ranges[..self.count - usize::from(self.late && !late)]
    }

    /// The range that is not there at first.
    pub const fn late(&self) -> (Run, NodeId) {
        self.ranges[self.count - 1]
    }

    /// All of memory, and what is between its ranges.
    pub const fn all(&self) -> Run {
        self.span
    }

    /// Returns how many frames there are.
    pub fn frames(&self) -> u64 {
        self.map(true).iter().map(|(run, _)| run.frames()).sum()
    }

    /// The scratch area.
    pub const fn scratch(&self) -> Run {
        self.scratch
    }

    /// Memory for metadata, beside the ranges.
    ///
    /// # Panics
    /// If there is no room.
    pub fn space(&self, bytes: usize) -> NonNull<[u8]> {
        match &self.memory {
            Backing::Heap(ram) => ram.space(bytes),
            Backing::Pool(_, beside, used) => {
                let at = used.load(Relaxed);
                used.store((at + bytes).next_multiple_of(64), Relaxed);
                assert!(used.load(Relaxed) <= BESIDE * PAGE_SIZE, "room beside the frames");
                // SAFETY: within what lies beside the frames.
                NonNull::slice_from_raw_parts(unsafe { beside.add(at) }, bytes)
            }
            #[cfg(target_os = "linux")]
            Backing::Shared(..) => panic!("metadata of processes lies in what they share"),
        }
    }

    /// Returns a memory of all frames, its metadata beside them; the one before is gone.
    ///
    /// # Panics
    /// If there is no room beside.
    pub fn memory(&self) -> Memory<&Self> {
        if let Backing::Pool(_, _, used) = &self.memory {
            used.store(0, Relaxed);
        }
        let cpus = self.space(Memory::<&Self>::cpu_bytes(self.count()));
        // SAFETY: the spaces are apart and stay; one memory at a time is made of a machine.
        let memory = unsafe { Memory::new(self, cpus) }.expect("room");
        for (run, node) in self.map(true) {
            let space = self.space(Memory::<&Self>::range_bytes(*run));
            // SAFETY: as above; the machine covers its ranges.
            unsafe { memory.add_range(*run, *node, space) }.expect("room");
        }
        memory
    }

    /// Returns a kernel without a predecessor.
    ///
    /// # Panics
    /// If the machine is too small for one.
    pub fn boot(&self) -> Kernel<'_> {
        // SAFETY: the machine covers its ranges, and one kernel at a time runs on it.
        let booted = unsafe { Heirloom::boot(self, self.map(false), &[self.scratch], "test") };
        booted.expect("a machine that holds a kernel")
    }

    /// Returns the kernel that follows, if it takes what its predecessor left.
    ///
    /// # Errors
    /// As for [`Heirloom::revive`].
    pub fn try_revive(&self, entry: Entry, seal: SealPolicy) -> Result<Kernel<'_>, Error> {
        self.try_revive_with(entry, seal, false)
    }

    /// Like [`try_revive`](Self::try_revive), where the late range is there, or not.
    ///
    /// # Errors
    /// As for [`Heirloom::revive`].
    pub fn try_revive_with(
        &self,
        entry: Entry,
        seal: SealPolicy,
        late: bool,
    ) -> Result<Kernel<'_>, Error> {
        // SAFETY: as for `boot`; the predecessor was dropped, or its process has ended.
        unsafe { Heirloom::revive(self, self.map(late), entry, "test", seal) }
    }

    /// Returns the kernel that follows.
    ///
    /// # Panics
    /// If it refuses.
    pub fn revive(&self, entry: Entry) -> Kernel<'_> {
        let kernel = self.try_revive(entry, SealPolicy::Checked);
        kernel.unwrap_or_else(|error| panic!("refused: {error}"))
    }

    /// Ends a kernel, in the middle of whatever it does, and returns the one that follows.
    pub fn jump<'m>(&'m self, old: Kernel<'m>) -> Kernel<'m> {
        self.revive(end(old))
    }
}

/// Ends a kernel, with whatever its caches hold. Returns what its successor is told.
#[expect(clippy::needless_pass_by_value, reason = "the kernel is used no more")]
pub fn end(kernel: Kernel<'_>) -> Entry {
    kernel.entry()
}

/// Frames of scratch that a kernel on these ranges needs.
fn scratch_frames(map: MemoryMap<'_>, cpus: usize) -> u64 {
    Heirloom::<&TestMachine>::scratch_bytes(map, cpus).div_ceil(PAGE_SIZE) as u64
}

/// A few CPUs: which runs, and which are busy.
impl TestMachine {
    fn few(&self) -> &Few {
        match &self.cpus {
            Processors::Few(few) => few,
            Processors::Threads(_) => panic!("each thread has its own"),
        }
    }

    /// Runs on `cpu` from here on, or where no CPU's state can be had if there is none of this number.
    ///
    /// # Panics
    /// If the CPUs are threads.
    pub fn run_on(&self, cpu: u32) {
        self.few().run_on(cpu);
    }

    /// Keeps the CPUs of this mask busy, and no others.
    ///
    /// # Panics
    /// If the CPUs are threads.
    pub fn hold(&self, cpus: u32) {
        self.few().hold(cpus);
    }

    /// Whether what other CPUs keep is within reach of each.
    ///
    /// # Panics
    /// If the CPUs are threads.
    pub fn all_within_reach(&self) -> bool {
        self.few().held() == 0
    }
}

/// The memfd that processes share.
#[cfg(target_os = "linux")]
impl TestMachine {
    /// The arena that the memory is.
    ///
    /// # Panics
    /// If it is memory of this process's alone.
    pub fn arena(&self) -> &Arena {
        let Backing::Shared(arena, _) = &self.memory else { panic!("no arena") };
        arena
    }

    /// Its file.
    ///
    /// # Panics
    /// If it is memory of this process's alone.
    pub fn file(&self) -> &std::fs::File {
        let Backing::Shared(_, file) = &self.memory else { panic!("no arena") };
        file
    }
}

/// Pages for metadata beside a pool's frames.
const BESIDE: usize = 16;
