//! The kernel flavour: what a kernel boots or revives with, checked.

use core::ffi::{c_char, c_int, c_void};
use core::ptr::NonNull;

use ::heirloom::folio::Linear;
use ::heirloom::{Memory, NodeId, Pfn, PhysAddr, Run};

use crate::argument::{bad, heirloom_range, some, text, values};
use crate::error::heirloom_error;
use crate::failure::Failure;
use crate::object::Machine;
use crate::os::Os;

/// The most ranges, scratch areas and busy ranges there can be, each, where metadata lies in scratch.
pub const HEIRLOOM_MAX_RANGES: usize = 24;

/// What a kernel boots or revives with. What is not needed is zero.
#[repr(C)]
pub struct heirloom_config {
    /// Where physical address `direct_map_start` is seen: a map with one offset, valid for reads and writes wherever there
    /// are ranges, and as aligned as what it shows.
    pub direct_map: *mut c_void,
    /// The first physical address of the direct map.
    pub direct_map_start: u64,
    /// Bytes of the direct map.
    pub direct_map_bytes: u64,
    /// How many CPUs there can be: one more than the highest number that heirloom_os_pin() returns. Another number in
    /// the successor is fine.
    pub cpus: u32,
    /// One of HEIRLOOM_SEAL_..., for heirloom_revive().
    pub seal: u32,
    /// The memory: without what firmware, devices or the kernel's own image occupy. Neighbours on one node are given as one
    /// range, best.
    pub ranges: *const heirloom_range,
    /// How many ranges.
    pub range_count: usize,
    /// Memory that is known and absent: its pages come and go, with heirloom_online() and heirloom_offline(). The direct map
    /// has a place for it. With `metadata` alone.
    pub absent: *const heirloom_range,
    /// How many such ranges.
    pub absent_count: usize,
    /// What of it is online from the start: with heirloom_revive(), all that the predecessor had.
    pub online: *const heirloom_range,
    /// How many runs are.
    pub online_count: usize,
    /// For heirloom_boot(): parts of the ranges in which nothing is ever preserved, so that successors may work there before
    /// they have read what is. Without `metadata`, one holds that.
    pub scratch: *const heirloom_range,
    /// How many scratch areas.
    pub scratch_count: usize,
    /// Room for the metadata in memory that no range has, and that stays. Null: it goes into the largest scratch area.
    pub metadata: *mut c_void,
    /// Bytes there: heirloom_metadata_bytes() at least.
    pub metadata_bytes: usize,
    /// Where metadata goes into scratch: what is in use there already, such as this kernel's image.
    pub busy: *const heirloom_range,
    /// How many busy ranges.
    pub busy_count: usize,
    /// This kernel's name, which the successor is told; null: none.
    pub producer: *const c_char,
}

impl heirloom_config {
    /// Returns the machine.
    ///
    /// # Safety
    /// As for heirloom_boot().
    pub(crate) unsafe fn machine(&self) -> Result<Os, Failure> {
        let base = some("direct_map", self.direct_map)?.cast();
        let start = PhysAddr::new(self.direct_map_start);
        let length = usize::try_from(self.direct_map_bytes);
        let length = length.map_err(|_| bad("direct_map_bytes", heirloom_error::TooMany))?;
        if self.direct_map_start.checked_add(self.direct_map_bytes).is_none() {
            return Err(bad("direct_map_bytes", heirloom_error::TooMany));
        }
        if self.cpus == 0 || c_int::try_from(self.cpus).is_err() {
            return Err(bad("cpus", heirloom_error::BadChoice));
        }
        // SAFETY: the caller's promise; the end was checked against overflow.
        Ok(Os::new(unsafe { Linear::new(base, start, length) }, self.cpus))
    }

    /// Returns the frames of a range, which the direct map covers.
    fn mapped(&self, range: &heirloom_range) -> Result<(Run, NodeId), Failure> {
        let frames = range.run("ranges")?;
        let ends = self.direct_map_start.saturating_add(self.direct_map_bytes);
        if range.start < self.direct_map_start || range.start + range.bytes > ends {
            return Err(bad("ranges", heirloom_error::OutsideMap));
        }
        Ok(frames)
    }

    /// Returns the name.
    ///
    /// # Safety
    /// It is null, or ends with a zero byte.
    pub(crate) unsafe fn producer(&self) -> Result<&str, Failure> {
        if self.producer.is_null() {
            return Ok("");
        }
        // SAFETY: the caller's promise.
        unsafe { text("producer", self.producer) }
    }

    /// Returns a memory of the ranges, with its metadata in the caller's room.
    ///
    /// # Safety
    /// As for heirloom_boot().
    #[inline(never)]
    pub(crate) unsafe fn memory(&self) -> Result<Memory<Machine>, Failure> {
        // SAFETY: the caller's promise.
        let (machine, ranges) =
            unsafe { (self.machine()?, values("ranges", self.ranges, self.range_count)?) };
        let metadata = some("metadata", self.metadata)?.cast::<u8>();
        let (mut next, mut left) = (metadata, self.metadata_bytes);
        let mut carve = |bytes: usize| {
            if bytes > left {
                let (needed, given) = (bytes, left);
                return Err(::heirloom::folio::Error::BadSpace { needed, given, align: 1 });
            }
            let space = NonNull::slice_from_raw_parts(next, bytes);
            // SAFETY: within the room.
            next = unsafe { next.add(bytes) };
            left -= bytes;
            Ok(space)
        };
        let cpus = carve(Memory::<Machine>::cpu_bytes(self.cpus as usize))?;
        // SAFETY: the caller's room, of which each part is used once.
        let memory = unsafe { Memory::new(machine, cpus) }?;
        for range in ranges {
            let (run, node) = self.mapped(range)?;
            let space = carve(Memory::<Machine>::range_bytes(run))?;
            // SAFETY: as above; the direct map covers the run, which nothing else uses (contract).
            unsafe { memory.add_range(run, node, space) }?;
        }
        // SAFETY: the caller's promise.
        let (absent, online) = unsafe {
            (
                values("absent", self.absent, self.absent_count)?,
                values("online", self.online, self.online_count)?,
            )
        };
        for range in absent {
            let (run, node) = self.mapped(range)?;
            let space = carve(Memory::<Machine>::range_bytes(run))?;
            // SAFETY: as above; what the run holds is used by nothing of this memory's until it is online.
            unsafe { memory.add_absent_range(run, node, space) }?;
        }
        for range in online {
            let (run, _) = range.run("online")?;
            // SAFETY: the direct map covers the run, which nothing else uses (contract).
            unsafe { memory.online(run) }?;
        }
        Ok(memory)
    }
}

impl heirloom_range {
    /// Returns the frames and the node.
    pub(crate) fn run(&self, name: &'static str) -> Result<(Run, NodeId), Failure> {
        let page = ::heirloom::PAGE_SIZE as u64;
        if !self.start.is_multiple_of(page) || !self.bytes.is_multiple_of(page) {
            return Err(bad(name, heirloom_error::Misaligned));
        }
        let run = Run::covering(PhysAddr::new(self.start), self.bytes);
        let run = run.filter(|run| !run.is_empty()).ok_or(bad(name, heirloom_error::BadRange))?;
        Ok((run, NodeId(self.node)))
    }
}

/// Frames, a few of them.
pub(crate) struct Runs {
    runs: [Run; HEIRLOOM_MAX_RANGES],
    count: usize,
}

impl Runs {
    /// # Safety
    /// `ranges` has `count` ranges.
    pub(crate) unsafe fn new(
        name: &'static str,
        ranges: *const heirloom_range,
        count: usize,
    ) -> Result<Self, Failure> {
        // SAFETY: the caller's promise.
        let ranges = unsafe { values(name, ranges, count) }?;
        let none = Run::new(Pfn::new(0), 0).ok_or(bad(name, heirloom_error::BadRange))?;
        let mut this = Self { runs: [none; HEIRLOOM_MAX_RANGES], count };
        if count > HEIRLOOM_MAX_RANGES {
            return Err(bad(name, heirloom_error::TooMany));
        }
        for (run, range) in this.runs.iter_mut().zip(ranges) {
            *run = range.run(name)?.0;
        }
        Ok(this)
    }

    pub(crate) fn get(&self) -> &[Run] {
        self.runs.get(..self.count).unwrap_or(&[])
    }
}

/// Ranges and their nodes, a few of them.
pub(crate) struct Map {
    ranges: [(Run, NodeId); HEIRLOOM_MAX_RANGES],
    count: usize,
}

impl Map {
    /// # Safety
    /// The config's ranges are as many as it says.
    pub(crate) unsafe fn new(config: &heirloom_config) -> Result<Self, Failure> {
        // SAFETY: the caller's promise.
        let ranges = unsafe { values("ranges", config.ranges, config.range_count) }?;
        let none = Run::new(Pfn::new(0), 0).ok_or(bad("ranges", heirloom_error::BadRange))?;
        let mut this =
            Self { ranges: [(none, NodeId(0)); HEIRLOOM_MAX_RANGES], count: ranges.len() };
        if ranges.len() > HEIRLOOM_MAX_RANGES {
            return Err(bad("ranges", heirloom_error::TooMany));
        }
        for (run, range) in this.ranges.iter_mut().zip(ranges) {
            *run = config.mapped(range)?;
        }
        Ok(this)
    }

    pub(crate) fn get(&self) -> &[(Run, NodeId)] {
        self.ranges.get(..self.count).unwrap_or(&[])
    }
}
