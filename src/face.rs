//! One object that owns the layers: booted fresh, or revived from a handover.

use core::fmt;
use core::ops::Deref;
use core::ptr::NonNull;

use heirloom_folio::{Machine, Memory, NodeId, PAGE_SIZE, Pfn, Run, joined};
use heirloom_restore::{Entry, Handover, SealPolicy};

/// What memory there is: ranges of frames, each with its node. What firmware tells a kernel.
pub type MemoryMap<'a> = &'a [(Run, NodeId)];

/// An error of booting or reviving.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Error {
    /// A layer below refused.
    Restore(heirloom_restore::Error),
    /// No scratch area is large enough for this memory's metadata.
    ScratchTooSmall {
        /// Bytes needed, in one area.
        needed: usize,
        /// Bytes of the largest area.
        largest: usize,
    },
    /// Scratch does not lie in one range of the memory map.
    ScratchNotMemory {
        /// The area.
        area: Run,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Restore(e) => e.fmt(f),
            Self::ScratchTooSmall { needed, largest } => {
                write!(
                    f,
                    "metadata needs {needed} bytes of scratch, the largest area has {largest}"
                )
            }
            Self::ScratchNotMemory { area } => write!(f, "scratch area of {area} is not memory"),
        }
    }
}

impl core::error::Error for Error {}

impl<E: Into<heirloom_restore::Error>> From<E> for Error {
    fn from(e: E) -> Self {
        Self::Restore(e.into())
    }
}

/// Memory that outlives its kernel: frames, caches, buffers and the handover, in one object.
///
/// It dereferences to [`Handover`], which has the rest: [`Handover::memory`] for frames and
/// folios, [`Handover::slabs`] for caches and buffers.
///
/// The metadata lies in scratch: areas in which nothing is ever preserved, so that the successor
/// can put its own there before it has read what must not be overwritten. The same areas serve
/// generation after generation.
pub struct Heirloom<M: Machine> {
    handover: Handover<M>,
}

impl<M: Machine> Deref for Heirloom<M> {
    type Target = Handover<M>;

    fn deref(&self) -> &Handover<M> {
        &self.handover
    }
}

impl<M: Machine> Heirloom<M> {
    /// Bytes of scratch that a memory of these ranges needs on a machine of `cpus` CPUs: about
    /// 1.2 bytes a frame. In one area, whole pages.
    pub const fn scratch_bytes(map: MemoryMap<'_>, cpus: usize) -> usize {
        let mut bytes = Memory::<M>::cpu_bytes(cpus);
        let mut i = 0;
        while i < map.len() {
            bytes += Memory::<M>::range_bytes(map[i].0);
            i += 1;
        }
        bytes.div_ceil(PAGE_SIZE) * PAGE_SIZE
    }

    /// Starts without a predecessor. All memory is free but for scratch, and the metadata lies at
    /// the start of the largest scratch area: nothing that still runs may lie there, and what
    /// firmware keeps belongs in no range of `map`.
    ///
    /// # Errors
    /// [`Error::ScratchTooSmall`], [`Error::ScratchNotMemory`]: see [`Heirloom::scratch_bytes`].
    /// [`Error::Restore`]: ranges that overlap, or no memory for the handover's own pages.
    ///
    /// # Safety
    /// - The machine's direct map covers every run of `map`.
    /// - Nothing else uses any of that memory as long as the value lives.
    pub unsafe fn boot(
        machine: M,
        map: MemoryMap<'_>,
        scratch: &[Run],
        producer: &str,
    ) -> Result<Self, Error> {
        // SAFETY: the same contract.
        let memory = unsafe { place(machine, map, scratch.iter().copied()) }?;
        Ok(Self { handover: Handover::fresh(memory, scratch, producer)? })
    }

    /// Takes over from a predecessor: see [`Handover::revive`]. Until that has checked and
    /// reserved everything, nothing but scratch is written.
    ///
    /// # Errors
    /// [`Error::Restore`]: what is wrong with the handover, and where.
    /// [`Error::ScratchTooSmall`]: the predecessor kept less scratch than this build needs.
    ///
    /// # Safety
    /// As for [`Heirloom::boot`]; the predecessor no longer runs.
    pub unsafe fn revive(
        machine: M,
        map: MemoryMap<'_>,
        entry: Entry,
        producer: &str,
        seal: SealPolicy,
    ) -> Result<Self, Error> {
        let is_memory = |run| joined(map).any(|(range, _)| range.covers(run));
        // SAFETY: `map` is memory that the machine maps; nobody writes the predecessor's pages.
        let areas = unsafe { entry.scratch_areas(&machine, is_memory) }?;
        // Linux's list lies in scratch itself, and is read again.
        let list = Run::covering(entry.scratch, entry.scratch_bytes);
        let room = areas.runs().flat_map(|area| around(area, list)).flatten();
        let largest = room.max_by_key(|room| room.frames());
        // SAFETY: the same contract.
        let memory = unsafe { place(machine, map, largest.into_iter()) }?;
        Ok(Self { handover: Handover::revive(memory, entry, producer, seal)? })
    }

    /// The handover, without this wrapper.
    pub fn into_handover(self) -> Handover<M> {
        self.handover
    }
}

/// What of `area` is before `hole` and behind it.
fn around(area: Run, hole: Option<Run>) -> [Option<Run>; 2] {
    let Some(hole) = hole.filter(|hole| hole.overlaps(area)) else { return [Some(area), None] };
    let between = |start: Pfn, end: Pfn| Run::new(start, end.get().saturating_sub(start.get()));
    [between(area.start(), hole.start()), between(hole.end(), area.end())]
}

/// A memory of the ranges in `map`, its metadata in the largest of the areas.
///
/// # Safety
/// As for [`Heirloom::boot`]; what the areas contain may be overwritten.
unsafe fn place<M: Machine>(
    machine: M,
    map: MemoryMap<'_>,
    areas: impl Iterator<Item = Run>,
) -> Result<Memory<M>, Error> {
    let needed = Heirloom::<M>::scratch_bytes(map, machine.count());
    let area = areas.max_by_key(|area| area.frames());
    let largest = area.map_or(0, |area| area.bytes() as usize);
    let Some(area) = area.filter(|_| largest >= needed) else {
        return Err(Error::ScratchTooSmall { needed, largest });
    };
    if !joined(map).any(|(range, _)| range.covers(area)) {
        return Err(Error::ScratchNotMemory { area });
    }
    let mut next = machine.ptr(area.addr());
    let mut carve = |bytes: usize| {
        let space = NonNull::slice_from_raw_parts(next, bytes);
        // SAFETY: the pieces sum to no more than `needed`, which the area holds.
        next = unsafe { next.add(bytes) };
        space
    };
    let cpus = carve(Memory::<M>::cpu_bytes(machine.count()));
    // SAFETY: the space is in scratch, which the caller promised that nothing else uses, and
    // which the memory itself never hands out, as it is reserved before anything is allocated.
    let memory = unsafe { Memory::new(machine, cpus) }?;
    for (run, node) in joined(map) {
        let space = carve(Memory::<M>::range_bytes(run));
        // SAFETY: as above; the direct map covers the run (contract).
        unsafe { memory.add_range(run, node, space) }?;
    }
    Ok(memory)
}
