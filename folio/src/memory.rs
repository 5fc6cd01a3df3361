//! The layer's object: physical memory with its allocator and its tracker.

use core::ptr::NonNull;

use heirloom_kho::sync::{AtomicBool, AtomicU8, Relaxed};
use heirloom_kho::{Order, Pfn, Run};
use lock_api::Mutex;

use crate::cpu_slots::{CpuSlots, align_space};
use crate::error::Error;
use crate::frame_type::{self, FrameState};
use crate::machine::{Machine, NodeId};
use crate::range::{Range, SPACE_ALIGN};
use crate::ranges::Ranges;
use crate::tracker::Tracker;

/// Physical memory: which frames exist, which are free, which survive.
///
/// One value is one memory, entirely its own: there are no statics, and a process may hold many.
/// It owns no heap; what it needs lies in spaces that the caller gives to [`Memory::new`] and
/// [`Memory::add_range`]; [`Memory::cpu_bytes`] and [`Memory::range_bytes`] tell their sizes in
/// advance.
///
/// # Examples
/// ```
/// use core::ptr::NonNull;
/// use heirloom_folio::{Linear, Memory, NodeId, OneCpu, Request};
/// use heirloom_kho::{Order, PAGE_SIZE, Pfn, Run};
///
/// // 64 frames of "physical memory" at 4 GiB.
/// let start = Pfn::new((4 << 30) / PAGE_SIZE as u64);
/// let frames = Run::new(start, 64).unwrap();
/// let ram = Box::leak(vec![0_u128; 65 * PAGE_SIZE / 16].into_boxed_slice());
/// let base = NonNull::from(ram).cast::<u8>();
/// let base = unsafe { base.add(base.align_offset(PAGE_SIZE)) };
/// let map = unsafe { Linear::new(base, start.addr(), 64 * PAGE_SIZE) };
///
/// let space = |bytes: usize| NonNull::from(vec![0_u128; bytes.div_ceil(16) + 8].leak());
/// let bytes = |s: NonNull<[u128]>| NonNull::slice_from_raw_parts(s.cast::<u8>(), s.len() * 16);
/// let memory = unsafe {
///     let memory = Memory::new(OneCpu::new(map), bytes(space(Memory::<OneCpu>::cpu_bytes(1))))?;
///     memory.add_range(frames, NodeId(0), bytes(space(Memory::<OneCpu>::range_bytes(frames))))?;
///     memory
/// };
///
/// let mut folio = memory.alloc_folio(Request::new(Order::new(2).unwrap()).zeroed())?;
/// folio.bytes_mut()[0] = 1;
/// assert_eq!(memory.stats().used(), 4);
/// drop(folio);
/// assert_eq!(memory.stats().used(), 0);
/// # Ok::<(), heirloom_folio::Error>(())
/// ```
pub struct Memory<M: Machine> {
    machine: M,
    pub(crate) ranges: Ranges,
    pub(crate) slots: CpuSlots,
    pub(crate) tracker: Tracker,
    /// Whether the tree that was taken over has nodes that lead to nothing.
    pub(crate) hollow: bool,
    /// Blocks that the tree had when it was taken over.
    pub(crate) taken_over: u64,
    /// Whether a block was ever allocated, so that frames may have been freed.
    used: AtomicBool,
    adding: Mutex<M::Mutex, ()>,
}

// SAFETY: the pointers lead to per-CPU slots and a shared word in memory that is this value's alone
// (promised to `new`); nothing is tied to a thread.
unsafe impl<M: Machine + Send> Send for Memory<M> where M::Mutex: Send {}
// SAFETY: ranges and the tracker are atomics; a CPU's slot is reached only under `Cpus::with_cpu` or
// `with_offline_cpu`, which exclude each other for one CPU.
unsafe impl<M: Machine> Sync for Memory<M> where M::Mutex: Sync {}

impl<M: Machine> Memory<M> {
    /// Returns how many bytes of per-CPU state a machine of `cpus` CPUs needs, with room to align them.
    ///
    /// Saturating: no space has as many bytes as more CPUs than an address space holds would need.
    pub const fn cpu_bytes(cpus: usize) -> usize {
        CpuSlots::bytes(cpus)
    }

    /// Returns how many bytes of metadata a range of frames needs, with room to align them.
    ///
    /// One byte and 1/8 a frame, a little for the levels above and the directories of leaves, and
    /// about a kilobyte for the range itself: less than 1.3 bytes a frame from 16,384 frames on.
    pub const fn range_bytes(run: Run) -> usize {
        Range::bytes(run) + SPACE_ALIGN
    }

    /// Makes a memory without frames.
    ///
    /// Where `space` is smaller than [`Memory::cpu_bytes`] of the machine's count, the CPUs of the
    /// highest numbers have no cache: a call there is as one that could not be pinned. See
    /// [`Memory::cpu_count`].
    ///
    /// # Errors
    /// [`Error::BadSpace`]: `space` is smaller than [`Memory::cpu_bytes`] of one CPU.
    ///
    /// # Safety
    /// `space` is valid for reads and writes as long as the value lives, through this pointer,
    /// and nothing else uses it.
    pub unsafe fn new(machine: M, space: NonNull<[u8]>) -> Result<Self, Error> {
        // SAFETY: the same contract.
        let slots = unsafe { CpuSlots::install(machine.count(), space)? };
        Ok(Self {
            machine,
            ranges: Ranges::new(),
            slots,
            tracker: Tracker::new(),
            hollow: false,
            taken_over: 0,
            used: AtomicBool::new(false),
            adding: Mutex::new(()),
        })
    }

    /// Returns how many CPUs have a cache of frames: the machine's count, or what the space given to
    /// [`Memory::new`] had room for.
    pub const fn cpu_count(&self) -> usize {
        self.slots.count()
    }

    /// Adds a range of frames, all free, that belong to `node`. At any time, and any number of them.
    ///
    /// Ranges that touch, on one node, are one as far as blocks across the border go: what a
    /// predecessor preserved across it is taken over, claimed, preserved and freed as one. The page
    /// allocator makes no such block: a map is better [joined](crate::joined) first.
    ///
    /// Where `space` lies in `run` itself, [`Memory::reserve`] those frames before anything is
    /// allocated.
    ///
    /// # Errors
    /// [`Error::BadSpace`]: smaller than [`Memory::range_bytes`]. [`Error::BadRange`]: no frames.
    /// [`Error::RangeOverlaps`].
    ///
    /// # Safety
    /// - The machine's direct map covers `run`, contiguously, and nothing else uses the frames.
    /// - `space` is valid for reads and writes as long as the value lives, through this pointer,
    ///   and nothing else uses it.
    pub unsafe fn add_range(
        &self,
        run: Run,
        node: NodeId,
        space: NonNull<[u8]>,
    ) -> Result<(), Error> {
        // SAFETY: the same contract.
        unsafe { self.push_range(run, node, space, frame_type::NEVER) }
    }

    /// Adds a range whose frames have the byte `first`: [`frame_type::NEVER`], and then they are free, or
    /// [`frame_type::ABSENT`].
    ///
    /// # Errors
    /// As for [`Memory::add_range`].
    ///
    /// # Safety
    /// As for [`Memory::add_range`]; frames that are absent may be in use.
    pub(crate) unsafe fn push_range(
        &self,
        run: Run,
        node: NodeId,
        space: NonNull<[u8]>,
        first: u8,
    ) -> Result<(), Error> {
        let _one_at_a_time = self.adding.lock();
        self.ranges.admits(run)?;
        let space = align_space(space, Range::bytes(run), SPACE_ALIGN)?;
        let base = self.machine.ptr(run.addr());
        // SAFETY: aligned, large enough, ours as long as the value lives; `run` is not empty
        // (`admits`), and the map covers it.
        let range = unsafe { Range::install(run, node, base, space, first) };
        if first == frame_type::NEVER {
            // SAFETY: just installed, and nothing changes it but through atomics.
            let range = unsafe { range.as_ref() };
            for block in run.blocks_up_to(Order::MAX_FOLIO) {
                let given = range.freemap().give(block);
                debug_assert!(given.is_ok(), "the blocks of a run are apart");
            }
        }
        // SAFETY: installed above; the lock keeps other calls out; lives as long as we do.
        unsafe { self.ranges.push(range) };
        // How much a CPU keeps depends on how much there is.
        self.slots.request_drain();
        Ok(())
    }

    /// Returns the machine underneath.
    pub const fn machine(&self) -> &M {
        &self.machine
    }

    /// Returns the machine, for the next kernel: what is preserved stays where it is, and
    /// everything else that was allocated is forgotten.
    pub fn into_machine(self) -> M {
        self.machine
    }

    /// Iterates over the memory ranges and their nodes, in the order in which they were added.
    pub fn ranges(&self) -> impl Iterator<Item = (Run, NodeId)> + '_ {
        self.ranges.iter().map(|range| (range.run(), range.node()))
    }

    /// Returns whether all of `run` is memory, in one range or in ranges that touch on one node, and
    /// none of it absent.
    pub fn contains(&self, run: Run) -> bool {
        let parts = self.ranges.parts(run);
        parts.is_some_and(|mut parts| parts.all(|(range, part)| range.is_present(part)))
    }

    /// Returns how many frames there are, without absent ones.
    pub fn frames(&self) -> u64 {
        self.ranges.iter().map(Range::present).sum()
    }

    /// Returns the node of a frame.
    ///
    /// # Errors
    /// [`Error::NotMemory`].
    pub fn node_of(&self, pfn: Pfn) -> Result<NodeId, Error> {
        Ok(self.range(pfn)?.node())
    }

    /// Returns the pointer to the first byte of `run`, good for all of it.
    ///
    /// # Errors
    /// [`Error::NotMemory`]: part of it is in no range, or in one that does not touch the rest's.
    pub fn ptr(&self, run: Run) -> Result<NonNull<u8>, Error> {
        if self.ranges.holds(run) {
            Ok(self.machine.ptr(run.addr()))
        } else {
            Err(Error::NotMemory { pfn: run.start() })
        }
    }

    /// Returns what the byte of the frame says: whether a block starts there, and which.
    ///
    /// # Errors
    /// [`Error::NotMemory`].
    pub fn state(&self, pfn: Pfn) -> Result<FrameState, Error> {
        Ok(self.range(pfn)?.state(pfn))
    }

    /// Returns the range of a frame.
    #[inline]
    pub(crate) fn range(&self, pfn: Pfn) -> Result<&Range, Error> {
        self.ranges.find(pfn).ok_or(Error::NotMemory { pfn })
    }

    /// Returns the byte of a frame.
    #[inline]
    pub(crate) fn byte(&self, pfn: Pfn) -> Option<&AtomicU8> {
        self.ranges.find(pfn)?.byte(pfn)
    }

    /// Notes that a block is allocated. Where a CPU's cache has none: not in every call.
    pub(crate) fn note_use(&self) {
        if !self.used.load(Relaxed) {
            self.used.store(true, Relaxed);
        }
    }

    /// Makes all bytes what they are in a memory of which nothing was ever allocated. Whatever is
    /// allocated stays so.
    pub(crate) fn begin_anew(&mut self) {
        if self.used.load(Relaxed) {
            self.used.store(false, Relaxed);
            self.ranges.iter().for_each(Range::begin_anew);
        }
    }
}
