//! The machine that programs run on: heap memory on two nodes, and CPUs that the program chooses.

use std::sync::atomic::{AtomicU32, Ordering::AcqRel, Ordering::Acquire, Ordering::Relaxed};

use core::ptr::NonNull;

use heirloom::folio::harness::Ram;
use heirloom::folio::{CpuId, Cpus, DirectMap, Machine, NodeId, Pfn, PhysAddr, Run};
use heirloom::restore::{Entry, SealPolicy};
use heirloom::{Error, Heirloom};

use super::numbers::Numbers;

/// CPUs of a board.
pub const CPUS: u32 = 4;

/// Stands for a call from where no CPU's state can be had.
const NOWHERE: u32 = u32::MAX;

/// The kernel under test.
pub type Kernel<'g> = Heirloom<&'g Board>;

/// A machine whose CPU is the one that was chosen last, and of which single CPUs can be kept busy,
/// so that nobody else empties their caches.
#[derive(Debug)]
pub struct Board {
    ram: Ram,
    cpus: u32,
    cpu: AtomicU32,
    /// CPUs on which a closure runs, a bit each.
    entered: AtomicU32,
    /// CPUs that are never idle, a bit each.
    held: AtomicU32,
}

impl Board {
    /// A board of so many CPUs, of which the first runs, over zeroed ranges.
    pub fn over(ranges: &[(Run, NodeId)], cpus: u32) -> Self {
        let [cpu, entered, held] = [const { AtomicU32::new(0) }; 3];
        Self { ram: Ram::over(ranges), cpus, cpu, entered, held }
    }

    /// Runs on `cpu` from here on, or nowhere if there is none of this number.
    pub fn run_on(&self, cpu: u32) {
        self.cpu.store(if cpu < self.cpus { cpu } else { NOWHERE }, Relaxed);
    }

    /// Keeps the CPUs of this mask busy.
    pub fn hold(&self, cpus: u32) {
        self.held.store(cpus, Relaxed);
    }

    /// Whether what other CPUs keep is within everybody's reach.
    pub fn all_within_reach(&self) -> bool {
        self.held.load(Relaxed) == 0
    }

    /// Memory for metadata, beside the ranges.
    pub fn space(&self, bytes: usize) -> NonNull<[u8]> {
        self.ram.space(bytes)
    }

    /// Runs `f` as the only closure on `cpu`: `None` if one runs there already.
    fn alone<R>(&self, cpu: u32, f: impl FnOnce() -> R) -> Result<R, ()> {
        // AcqRel: Acquire pairs with the Release below, of whoever was there before.
        if self.entered.fetch_or(1 << cpu, AcqRel) >> cpu & 1 == 1 {
            return Err(());
        }
        let result = f();
        self.entered.fetch_and(!(1 << cpu), AcqRel);
        Ok(result)
    }
}

// SAFETY: delegates to `Ram`.
unsafe impl DirectMap for Board {
    fn ptr(&self, addr: PhysAddr) -> NonNull<u8> {
        self.ram.ptr(addr)
    }

    fn phys(&self, ptr: NonNull<u8>) -> Option<PhysAddr> {
        self.ram.phys(ptr)
    }
}

// SAFETY: a closure runs under a CPU only between taking its bit in `entered` and giving it back,
// on the calling thread: one at a time, each seeing what the last one wrote. CPUs are below the
// count, and nodes never change.
unsafe impl Cpus for Board {
    fn count(&self) -> usize {
        self.cpus as usize
    }

    fn pinned<R>(&self, f: impl FnOnce(Option<CpuId>) -> R) -> R {
        let cpu = self.cpu.load(Acquire);
        if cpu == NOWHERE {
            return f(None);
        }
        let mut f = Some(f);
        let ran = self.alone(cpu, || f.take().map(|f| f(Some(CpuId(cpu)))));
        match (ran, f) {
            (Ok(Some(result)), _) => result,
            (_, Some(f)) => f(None),
            (_, None) => unreachable!("it ran, or it is still here"),
        }
    }

    fn home(&self, cpu: CpuId) -> NodeId {
        NodeId((cpu.0 % 2) as u16)
    }

    fn idle(&self, cpu: CpuId, f: impl FnOnce()) -> bool {
        let busy = cpu.0 >= self.cpus
            || cpu.0 == self.cpu.load(Relaxed)
            || self.held.load(Relaxed) >> cpu.0 & 1 == 1;
        !busy && self.alone(cpu.0, f).is_ok()
    }
}

impl Machine for Board {
    type Lock = spin::Mutex<()>;
    type Mutex = spin::Mutex<()>;
}

/// A board with its memory map: what stays when a kernel goes.
#[derive(Debug)]
pub struct Ground {
    board: Board,
    /// The last one is added late, if at all.
    ranges: [(Run, NodeId); 3],
    scratch: Run,
}

impl Ground {
    /// Memory of a shape that the seed decides: three ranges, on two nodes, `frames` in all or a
    /// few more, none of them aligned to anything in particular.
    ///
    /// # Panics
    /// If there are far too many frames.
    pub fn new(seed: u64, frames: u64) -> Self {
        let mut numbers = Numbers::new(seed);
        let mut at = (4 << 20) + numbers.below(70);
        let nothing = Run::new(Pfn::new(at), 0).expect("no frames");
        let mut ranges = [(nothing, NodeId(0)); 3];
        for (range, (share, node)) in ranges.iter_mut().zip([(5, 0), (3, 1), (2, 0)]) {
            let length = frames * share / 10 + numbers.below(9);
            *range = (Run::new(Pfn::new(at), length).expect("a few frames"), NodeId(node));
            // Some ranges meet, and are two even so.
            at += length + numbers.below(4);
        }
        let bytes = Heirloom::<&Board>::scratch_bytes(&ranges, CPUS as usize) as u64;
        // The first range grows by as much, which takes a little more.
        let needed = bytes.div_ceil(heirloom::folio::PAGE_SIZE as u64) + 1;
        let (first, node) = ranges[0];
        let first = Run::new(first.start(), first.frames() + needed).expect("a few frames");
        // What comes after it moves up.
        for (range, _) in &mut ranges[1..] {
            let start = range.start().add(needed);
            *range = Run::new(start, range.frames()).expect("a few frames");
        }
        ranges[0] = (first, node);
        let start = Pfn::new(first.start().get() + numbers.below(first.frames() - needed));
        let scratch = Run::new(start, needed).expect("within the first range");
        Self { board: Board::over(&ranges, CPUS), ranges, scratch }
    }

    /// One CPU, and memory of `frames` frames and scratch behind them, with one more range of a
    /// frame that may be added.
    ///
    /// # Panics
    /// If there are no frames.
    pub fn small(frames: u64) -> Self {
        let run = |start, frames| Run::new(Pfn::new(start), frames).expect("a few frames");
        let start = 4 << 20;
        let ranges = |scratch: u64| {
            let first = (run(start, frames + scratch), NodeId(0));
            let second = (run(start + frames + scratch, 1), NodeId(0));
            [first, second, (run(start + frames + scratch + 2, 1), NodeId(0))]
        };
        let page = heirloom::folio::PAGE_SIZE;
        let scratch = Heirloom::<&Board>::scratch_bytes(&ranges(8), 1).div_ceil(page) as u64;
        let ranges = ranges(scratch);
        let board = Board::over(&ranges, 1);
        Self { board, ranges, scratch: run(start + frames, scratch) }
    }

    /// All of the memory, and what is between its ranges.
    ///
    /// # Panics
    /// Never: there is some.
    pub fn span(&self) -> Run {
        Run::between(self.ranges[0].0.start(), self.ranges[2].0.end()).expect("memory")
    }

    /// The machine.
    pub const fn board(&self) -> &Board {
        &self.board
    }

    /// The areas that are never anybody's.
    pub const fn scratch(&self) -> Run {
        self.scratch
    }

    /// The range that is not there at first.
    pub const fn late(&self) -> (Run, NodeId) {
        self.ranges[2]
    }

    /// The map, with the late range or without.
    fn map(&self, all: bool) -> &[(Run, NodeId)] {
        &self.ranges[..if all { 3 } else { 2 }]
    }

    /// The first kernel.
    ///
    /// # Panics
    /// If the memory is far too small.
    pub fn boot(&self) -> Kernel<'_> {
        // SAFETY: the board covers the ranges, and one kernel at a time runs on it.
        unsafe { Heirloom::boot(&self.board, self.map(false), &[self.scratch], "model") }
            .expect("memory for a kernel")
    }

    /// The next kernel, once the last one is dropped.
    ///
    /// # Errors
    /// As for [`Heirloom::revive`].
    pub fn revive(&self, entry: Entry, all: bool, seal: SealPolicy) -> Result<Kernel<'_>, Error> {
        // SAFETY: as for `boot`; the predecessor was dropped.
        unsafe { Heirloom::revive(&self.board, self.map(all), entry, "model", seal) }
    }
}
