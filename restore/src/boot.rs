//! Boots a kernel over a machine's memory, or takes over from a predecessor: where the metadata goes.

use core::ptr::NonNull;

use heirloom_folio::{Machine, Memory, NodeId, joined};
use heirloom_kho::internal::PAGE_BYTES;
use heirloom_kho::narrow::usize_to_u64;
use heirloom_kho::{PAGE_SIZE, Pfn, Run};

use crate::begin::NewHeirloom;
use crate::entry::Entry;
use crate::error::Error;
use crate::heirloom::Heirloom;
use crate::predecessor::SealPolicy;

/// No frames: where there is no room for metadata.
const NOWHERE: Run = match Run::new(Pfn::new(0), 0) {
    Some(run) => run,
    None => panic!("no frames are a run"),
};

/// What memory there is: ranges of frames, each with its node. What firmware tells a kernel.
pub type MemoryMap<'a> = &'a [(Run, NodeId)];

/// Where a kernel's metadata goes, for [`Heirloom::boot_in`] and [`Heirloom::revive_in`].
///
/// The default is the largest stretch of scratch, and nothing busy: what [`Heirloom::boot`] and
/// [`Heirloom::revive`] do.
#[derive(Clone, Copy, Debug, Default)]
pub struct Placement<'a> {
    /// The frames that metadata takes, or the first of them that it needs. They lie within one scratch
    /// area, within one range of the map and outside scratch, or outside all of the map: a
    /// kernel's own data, say, that its direct map shows. `None`: the largest stretch of scratch.
    pub metadata: Option<Run>,
    /// Frames that are in use already, wherever metadata could come to lie: the running image, its
    /// page tables and stack, an initial file system. Metadata spares them. That nothing else is
    /// put there follows from where they are: in scratch, or in no range of the map.
    pub busy: &'a [Run],
}

impl<M: Machine> Heirloom<M> {
    /// Returns the number of bytes of scratch that a memory of these ranges needs on a machine of
    /// `cpus` CPUs: about 1.2 bytes a frame. In one area, whole pages. Ranges that [`joined`] takes
    /// together are one, so a successor whose firmware splits a range needs no more, as long as it
    /// lists them by address.
    pub const fn scratch_bytes(map: MemoryMap<'_>, cpus: usize) -> usize {
        let mut bytes = Memory::<M>::cpu_bytes(cpus);
        let mut i = 0;
        while i < map.len() {
            let (mut run, node) = map[i];
            i += 1;
            // As `joined` does, which is no `const fn`.
            while i < map.len()
                && map[i].1.0 == node.0
                && map[i].0.start().get() == run.end().get()
                && let Some(both) = Run::between(run.start(), map[i].0.end())
            {
                run = both;
                i += 1;
            }
            bytes = bytes.saturating_add(Memory::<M>::range_bytes(run));
        }
        bytes.div_ceil(PAGE_SIZE).saturating_mul(PAGE_SIZE)
    }

    /// Starts without a predecessor. All memory is free but for scratch, and the metadata lies at
    /// the start of the largest scratch area: nothing that still runs may lie there, and what
    /// firmware keeps belongs in no range of `map`.
    ///
    /// # Errors
    /// [`Error::ScratchTooSmall`], [`Error::ScratchNotMemory`]: see [`Heirloom::scratch_bytes`].
    /// [`Error::Folio`]: ranges that overlap. The rest as for [`Heirloom::boot_memory`].
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
        // SAFETY: the same contract; nothing is busy.
        unsafe { Self::boot_in(machine, map, scratch, producer, Placement::default()) }
    }

    /// Does what [`Heirloom::boot`] does, with metadata where the caller wants it, or beside what is busy.
    ///
    /// # Errors
    /// As for [`Heirloom::boot`], and [`Error::MetadataInUse`].
    ///
    /// # Safety
    /// As for [`Heirloom::boot`], but that what lies in `placement.busy` may be used. The direct map
    /// covers `placement.metadata` too.
    #[inline(never)]
    pub unsafe fn boot_in(
        machine: M,
        map: MemoryMap<'_>,
        scratch: &[Run],
        producer: &str,
        placement: Placement<'_>,
    ) -> Result<Self, Error> {
        let room = room(map, scratch.iter().copied(), placement, [None; 2])?;
        let cpus = machine.count();
        // SAFETY: the same contract; `room` is in none of what is busy.
        let (memory, metadata) = unsafe { place(machine, map, room, cpus) }?;
        if !scratch.iter().any(|area| area.covers(metadata)) {
            keep_out(&memory, metadata)?;
        }
        Self::of(NewHeirloom::fresh(memory, scratch, producer), metadata)
    }

    /// Takes over from a predecessor, and goes on with its handover: see [`Heirloom::revive_memory`]. Until that
    /// has checked and reserved everything, nothing but scratch is written; and at whatever instant
    /// this kernel ends, then or later, the next one finds all that was preserved and not let go of.
    ///
    /// A machine of more CPUs than scratch has room for comes up all the same: those beyond
    /// [`Heirloom::cpus`] do without a cache of frames.
    ///
    /// # Errors
    /// What is wrong with the handover, and where: see [`Heirloom::revive_memory`].
    /// [`Error::ScratchTooSmall`]: the predecessor kept less scratch than this build needs for one
    /// CPU.
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
        // SAFETY: the same contract; nothing is busy.
        unsafe { Self::revive_in(machine, map, entry, producer, seal, Placement::default()) }
    }

    /// Does what [`Heirloom::revive`] does, with metadata where the caller wants it, or beside what is busy: for a
    /// kernel that was loaded into scratch, with its image and whatever came with it.
    ///
    /// # Errors
    /// As for [`Heirloom::revive`], and [`Error::MetadataInUse`]. Metadata over a table that
    /// the predecessor left overwrites it: the error is then the one of that table.
    ///
    /// # Safety
    /// As for [`Heirloom::revive`], but that what lies in `placement.busy` may be used. The direct map
    /// covers `placement.metadata` too, and nothing that is preserved lies there.
    #[inline(never)]
    pub unsafe fn revive_in(
        machine: M,
        map: MemoryMap<'_>,
        entry: Entry,
        producer: &str,
        seal: SealPolicy,
        placement: Placement<'_>,
    ) -> Result<Self, Error> {
        let cpus = machine.count();
        // SAFETY: the same contract.
        let (room, within) = unsafe { Self::room_in(&machine, map, entry, placement) }?;
        // SAFETY: the same contract; `room` is in none of what is busy.
        let (memory, metadata) =
            unsafe { place(machine, map, room, fitting::<M>(map, room, cpus)) }?;
        if !within {
            keep_out(&memory, metadata)?;
        }
        Self::of(NewHeirloom::revive(memory, entry, producer, seal), metadata)
    }

    /// Returns the kernel's object, made from `new`. Apart from its callers: what it needs of the stack is
    /// not there while the handover begins.
    #[inline(never)]
    fn of(new: Result<NewHeirloom<M>, Error>, metadata: Run) -> Result<Self, Error> {
        match new {
            Ok(new) => Ok(new.into_heirloom(metadata)),
            Err(error) => Err(error),
        }
    }

    /// Returns where there is room for a successor's metadata, and whether that is in scratch.
    ///
    /// # Safety
    /// As for [`Heirloom::revive_in`].
    #[inline(never)]
    unsafe fn room_in(
        machine: &M,
        map: MemoryMap<'_>,
        entry: Entry,
        placement: Placement<'_>,
    ) -> Result<(Run, bool), Error> {
        let is_memory = |run| is_memory(map, run);
        // SAFETY: `map` is memory that the machine maps; nothing writes the predecessor's pages.
        let areas = unsafe { entry.scratch_areas(machine, is_memory) }?;
        // Linux's list lies in scratch itself, and is read again.
        let tables = [
            Run::covering(entry.root, PAGE_BYTES),
            Run::covering(entry.scratch, entry.scratch_bytes),
        ];
        let room = room(map, areas.runs(), placement, tables)?;
        Ok((room, areas.runs().any(|area| area.covers(room))))
    }
}

impl<M: Machine> Heirloom<M> {
    /// Returns a handover with nothing in it but itself, over memory from which nothing was
    /// allocated.
    ///
    /// `scratch` is reserved and written down: nothing preserved ever lies in it, so the
    /// successor may work there before it has read the map. What a successor needs at least,
    /// [`Memory::range_bytes`] and [`Memory::cpu_bytes`] tell.
    ///
    /// # Errors
    /// [`Error::Folio`]: scratch is not free memory. [`Error::MemoryTooSmall`]: beside scratch there are
    /// fewer than 32 frames, which the handover's own pages and its [reserve](Heirloom::reserve)
    /// take. [`Error::BadRun`]: an area of no frames. [`Error::TableFull`]: more
    /// than [`ScratchList::LIMIT`](heirloom_kho::ScratchList::LIMIT) areas.
    pub fn boot_memory(memory: Memory<M>, scratch: &[Run], producer: &str) -> Result<Self, Error> {
        Self::of(NewHeirloom::fresh(memory, scratch, producer), NOWHERE)
    }

    /// Takes over from a predecessor: checks everything it left, and goes on with it. What was preserved
    /// stays so, claimed or not, until it is let go or freed; every frame that was not is free memory.
    ///
    /// At whatever instant this kernel ends, from the first instruction of this call on, the next that
    /// starts with the same entry finds everything that was preserved and not let go of. So it does
    /// with [`Heirloom::entry`] of this kernel, which is the same entry, unless the predecessor's root
    /// page is of another make (Linux's): see [`Heirloom::finish`]. A kernel that starts with that entry
    /// ends the predecessor's.
    ///
    /// `memory` has all its ranges and nothing allocated; its metadata lies in scratch, where the
    /// scratch list is not, or outside its ranges. Time goes into reading the tables and into
    /// nothing that grows with memory.
    ///
    /// # Errors
    /// What is wrong with the tables and where: [`Error::Table`], [`Error::Folio`] (the tree),
    /// [`Error::Slab`] (caches and slabs), [`Error::Broken`] (the seal). [`Error::Folio`] also
    /// where so much is preserved that no memory is left for tables that this kernel needs beside those
    /// that are there: none, unless the predecessor was of another make, or its header page is another
    /// build's. The memory is given up then; what the predecessor preserved is there as it was, so it can
    /// be tried again, or the machine started without it.
    ///
    /// A name whose owner let its frames go is no error: this call removes it and counts it in
    /// [`Heirloom::names_lost`].
    pub fn revive_memory(
        memory: Memory<M>,
        entry: Entry,
        producer: &str,
        seal: SealPolicy,
    ) -> Result<Self, Error> {
        Self::of(NewHeirloom::revive(memory, entry, producer, seal), NOWHERE)
    }
}

/// Returns where metadata goes: what was asked for, or the largest stretch of an area that touches
/// neither what is busy nor the predecessor's tables.
#[inline(never)]
fn room(
    map: MemoryMap<'_>,
    mut areas: impl Iterator<Item = Run> + Clone,
    placement: Placement<'_>,
    tables: [Option<Run>; 2],
) -> Result<Run, Error> {
    let holes = Holes { busy: placement.busy, tables };
    if let Some(metadata) = placement.metadata {
        let meets = |run: &Run| run.overlaps(metadata);
        let mut with = areas.find(|area| meets(area) && !area.covers(metadata));
        if !is_memory(map, metadata) {
            // Not all of it is memory: the range that it meets the end of is named.
            with = with.or_else(|| joined(map).map(|(range, _)| range).find(meets));
        }
        return match with.or_else(|| holes.runs().find(meets)) {
            Some(with) => Err(Error::MetadataInUse { metadata, with }),
            None => Ok(metadata),
        };
    }
    let mut room = NOWHERE;
    for area in areas.clone() {
        let stretch = holes.largest_beside(area);
        if stretch.frames() >= room.frames() {
            room = stretch;
        }
    }
    match areas.find(|area| area.covers(room)) {
        Some(area) if !is_memory(map, area) => Err(Error::ScratchNotMemory { area }),
        _ => Ok(room),
    }
}

/// Returns whether each frame of `run` is in the map: in one range, or in several that touch on one
/// node, wherever in the map they stand.
fn is_memory(map: MemoryMap<'_>, run: Run) -> bool {
    let at = |pfn| map.iter().find(|(range, _)| range.contains(pfn));
    let Some(&(mut range, node)) = at(run.start()) else { return false };
    while range.end() < run.end() {
        match at(range.end()) {
            Some(&(next, on)) if on == node => range = next,
            _ => return false,
        }
    }
    true
}

/// What metadata must not lie over: what is busy, and the predecessor's tables.
struct Holes<'a> {
    busy: &'a [Run],
    tables: [Option<Run>; 2],
}

impl Holes<'_> {
    fn runs(&self) -> impl Iterator<Item = Run> {
        self.busy.iter().chain(self.tables.iter().flatten()).copied()
    }

    /// Returns the largest stretch of `area` that is in none of them, or no frames.
    #[inline(never)]
    fn largest_beside(&self, area: Run) -> Run {
        let (mut largest, mut start) = (NOWHERE, area.start());
        while start < area.end() {
            if let Some(hole) = self.runs().find(|hole| hole.contains(start)) {
                start = hole.end();
                continue;
            }
            let mut end = area.end();
            for hole in self.runs().filter(|hole| hole.start() > start) {
                end = end.min(hole.start());
            }
            if let Some(stretch) = Run::between(start, end)
                && stretch.frames() >= largest.frames()
            {
                largest = stretch;
            }
            start = end;
        }
        largest
    }
}

/// Returns how many of `cpus` CPUs there is room for: one at least, for which there may be none.
fn fitting<M: Machine>(map: MemoryMap<'_>, room: Run, cpus: usize) -> usize {
    let bytes = usize::try_from(room.bytes()).unwrap_or(usize::MAX);
    let fits = |cpus| Heirloom::<M>::scratch_bytes(map, cpus) <= bytes;
    // More of them need more, so one in the middle tells of a half: there may be as many as a number can say.
    let (mut most, mut limit) = (1, cpus);
    while most < limit {
        let middle = limit - (limit - most) / 2;
        if fits(middle) {
            most = middle;
        } else {
            limit = middle - 1;
        }
    }
    most
}

/// Keeps frames that hold metadata, and are no scratch, from being handed out.
fn keep_out<M: Machine>(memory: &Memory<M>, metadata: Run) -> Result<(), Error> {
    if memory.contains(metadata) {
        memory.reserve(metadata)?;
    }
    Ok(())
}

/// Returns a memory of the ranges in `map`, its metadata, for `cpus` CPUs, at the start of `room`:
/// which frames it takes.
///
/// # Safety
/// As for [`Heirloom::boot_in`]; what `room` contains may be overwritten.
#[inline(never)]
unsafe fn place<M: Machine>(
    machine: M,
    map: MemoryMap<'_>,
    room: Run,
    cpus: usize,
) -> Result<(Memory<M>, Run), Error> {
    let needed = Heirloom::<M>::scratch_bytes(map, cpus);
    let largest = usize::try_from(room.bytes()).unwrap_or(usize::MAX);
    let taken = Run::new(room.start(), usize_to_u64(needed / PAGE_SIZE));
    let Some(taken) = taken.filter(|taken| room.covers(*taken)) else {
        return Err(Error::ScratchTooSmall { needed, largest });
    };
    let mut next = machine.ptr(room.addr());
    let mut carve = |bytes: usize| {
        let space = NonNull::slice_from_raw_parts(next, bytes);
        // SAFETY: the pieces sum to no more than `needed`, which the room holds.
        next = unsafe { next.add(bytes) };
        space
    };
    let cpus = carve(Memory::<M>::cpu_bytes(cpus));
    // SAFETY: the space is in the room, which the caller promised that nothing else uses, and
    // which the memory itself never hands out, as it is reserved before anything is allocated.
    let memory = unsafe { Memory::new(machine, cpus) }?;
    for (run, node) in joined(map) {
        let space = carve(Memory::<M>::range_bytes(run));
        // SAFETY: as above; the direct map covers the run (contract).
        unsafe { memory.add_range(run, node, space) }?;
    }
    Ok((memory, taken))
}
