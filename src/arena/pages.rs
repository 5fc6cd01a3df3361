//! The system's pages behind an arena: how large they are, when they come, and when they go back.

use core::ffi::c_void;
use std::os::fd::AsFd;

use heirloom_folio::{DirectMap, Machine, Memory};
use heirloom_kho::{Block, Order, PAGE_SIZE, Run};
use rustix::fs::{FallocateFlags, SeekFrom};
use rustix::mm::Advice;

use super::error::os;
use super::map::HUGE;
use super::{Arena, ArenaError, ArenaRange, unmapper};

const PAGE: u64 = PAGE_SIZE as u64;

/// The largest blocks that [`Arena::trim`] takes out of the allocator at a time: a huge page, or what is
/// nearest.
const LARGEST: Order = order_of(HUGE);

/// The smallest blocks that [`Arena::trim`] gives back: 64 KiB, or a page where that is more. What is smaller
/// costs a system call for little.
const SMALLEST: Order = order_of(64 << 10);

/// Returns the order of the blocks of so many bytes, or that of a page.
const fn order_of(bytes: u64) -> Order {
    let frames = bytes / PAGE;
    match Order::for_frames(if frames == 0 { 1 } else { frames }) {
        Some(order) => order,
        None => Order::ZERO,
    }
}

impl Arena {
    /// Asks the system to back the memory with huge pages as far as it has any: fewer misses of the
    /// translation buffer, and fewer faults as the memory is touched first.
    ///
    /// The ranges lie in the file so that this can be done: offset, address and physical address are the
    /// same modulo 2 MiB. Linux heeds the advice where `/sys/kernel/mm/transparent_hugepage/shmem_enabled`
    /// is `advise`, `always` or `within_size`; where it is `never`, nothing changes. An arena that an older
    /// build laid out may have its ranges elsewhere, and gets none. Hugetlb pages cannot be used: Linux
    /// does not carry them through a live update.
    ///
    /// # Errors
    /// [`ArenaError::Os`]: the system has no huge pages at all.
    ///
    /// # Examples
    /// ```
    /// use heirloom::arena::{Arena, ArenaError, RangeSpec};
    /// use heirloom::folio::NodeId;
    /// use heirloom::kho::PhysAddr;
    ///
    /// let spec = RangeSpec { start: PhysAddr::new(4 << 30), bytes: 64 << 20, node: NodeId(0) };
    /// let arena = Arena::create("huge", &[spec])?;
    /// match arena.advise_huge() {
    ///     Ok(()) | Err(ArenaError::Os { .. }) => {}
    ///     Err(error) => return Err(error),
    /// }
    /// # Ok::<(), ArenaError>(())
    /// ```
    pub fn advise_huge(&self) -> Result<(), ArenaError> {
        self.ranges().iter().try_for_each(|range| {
            self.advise(range.run(), Advice::LinuxHugepage, "madvise(MADV_HUGEPAGE)")
        })
    }

    /// Has the system find the memory of these frames now, so that no later access waits for it, and none
    /// ends the process because there is none. What is in the memory stays.
    ///
    /// # Errors
    /// - [`ArenaError::NotInArena`]: they do not lie wholly in one range.
    /// - [`ArenaError::Os`]: the system has not as much memory (`ENOMEM`, `EFAULT`), or is Linux before
    ///   5.14 (`EINVAL`). Some of the memory may have been found by then.
    ///
    /// # Examples
    /// ```
    /// use heirloom::arena::{Arena, ArenaError, RangeSpec};
    /// use heirloom::folio::NodeId;
    /// use heirloom::kho::PhysAddr;
    ///
    /// let spec = RangeSpec { start: PhysAddr::new(4 << 30), bytes: 1 << 20, node: NodeId(0) };
    /// let arena = Arena::create("prefaulted", &[spec])?;
    /// arena.prefault(arena.ranges()[0].run())?;
    /// # Ok::<(), ArenaError>(())
    /// ```
    pub fn prefault(&self, run: Run) -> Result<(), ArenaError> {
        self.advise(run, Advice::LinuxPopulateWrite, "madvise(MADV_POPULATE_WRITE)")
    }

    /// Finds the memory of these frames as [`Arena::prefault`] does, and keeps the system from moving any
    /// of it to a swap device as long as this process has the arena mapped.
    ///
    /// # Errors
    /// - [`ArenaError::NotInArena`]: they do not lie wholly in one range.
    /// - [`ArenaError::Os`]: more than the process may lock (`RLIMIT_MEMLOCK`), or than there is.
    pub fn lock(&self, run: Run) -> Result<(), ArenaError> {
        let (place, bytes) = self.mapped_at(run)?;
        // SAFETY: addresses of this arena's own mapping, which lives as long as `self`; locking them
        // changes nothing that is read or written.
        unsafe { rustix::mm::mlock(place, bytes) }.map_err(os("mlock"))
    }

    /// Has the system take the memory of each range from the node of the machine that has the number of the
    /// range's ([`ArenaRange::node`]), and from no other: for what is touched first from now on, here and in
    /// successors.
    ///
    /// # Errors
    /// [`ArenaError::Os`]: the machine has no such node (`EINVAL`), or the system knows of none (`ENOSYS`).
    /// The ranges before that one are bound.
    pub fn bind_nodes(&self) -> Result<(), ArenaError> {
        for range in self.ranges() {
            let (place, bytes) = self.mapped_at(range.run())?;
            let node = usize::from(range.node().0);
            // As many words of bits as it takes to say the node's, and the number of bits in them, and one: Linux
            // leaves the last out.
            let mut nodes = vec![0_u64; node / 64 + 1];
            nodes.extend([0]);
            if let Some(word) = nodes.get_mut(node / 64) {
                *word |= 1 << (node % 64);
            }
            let (mode, bits, flags) = (libc::MPOL_BIND, nodes.len() * 64, 0_u32);
            // SAFETY: addresses of this arena's own mapping, of which no byte is changed; the words live as
            // long as the call.
            let bound = unsafe {
                libc::syscall(libc::SYS_mbind, place, bytes, mode, nodes.as_ptr(), bits, flags)
            };
            if bound != 0 {
                let error = std::io::Error::last_os_error();
                return Err(ArenaError::Os {
                    call: "mbind",
                    errno: error.raw_os_error().unwrap_or(0),
                });
            }
        }
        Ok(())
    }

    /// Has the system let this process end, or execute its successor, at once, however much of the memory it has
    /// touched. Linux would forget the pages one by one first, about 50 ms for each GiB, while the successor waits.
    ///
    /// Starts a process, `heirloom-unmap`, that has this one's whole address space, does nothing, and ends when this one
    /// has: the pages are forgotten then, at a low priority, beside the successor. It holds no arena, and is no child
    /// of this process's. Tools that add up what processes have mapped count it twice. A child that was forked without the C
    /// library and executes nothing keeps it there as long as the child has its descriptors. What waits for it once it has ended
    /// is the process that orphans are left to (an `init`, `heirloom hold`): in a container without one, an entry of the process
    /// table stays for each. Once in each process is enough, a forked child too; again does nothing.
    ///
    /// # Errors
    /// [`ArenaError::Os`]: no more processes or descriptors, a container that forbids it, or Linux before 5.9
    /// (`close_range`). [`ArenaError::Map`]: no room for a stack. The process ends as it would without.
    ///
    /// # Examples
    /// ```
    /// use heirloom::arena::{Arena, RangeSpec};
    /// use heirloom::folio::NodeId;
    /// use heirloom::kho::PhysAddr;
    ///
    /// let spec = RangeSpec { start: PhysAddr::new(4 << 30), bytes: 64 << 20, node: NodeId(0) };
    /// let arena = Arena::create("served", &[spec])?;
    /// arena.unmap_later()?;
    /// # Ok::<(), heirloom::arena::ArenaError>(())
    /// ```
    pub fn unmap_later(&self) -> Result<(), ArenaError> {
        unmapper::start()
    }

    /// Gives the memory of free blocks back to the system: what was used once, and freed since. The frames
    /// stay the allocator's. Returns how many bytes went back.
    ///
    /// Each free block of 64 KiB to 2 MiB is allocated, its part of the file made a hole, and freed, one
    /// after another: a call beside this one that finds no block elsewhere can be told that there is no
    /// memory for as long as that takes. Smaller blocks, and those that lie in the cache of a CPU that is
    /// busy, stay. For a service after many frees, and before a live update: Linux carries every page that the
    /// file has.
    ///
    /// # Errors
    /// [`ArenaError::Os`]: the system refused. Nothing is lost, and what went back by then stays there.
    /// [`ArenaError::NotInArena`]: `memory` is not this arena's, as this process maps it.
    ///
    /// # Examples
    /// ```
    /// use heirloom::arena::{Arena, RangeSpec};
    /// use heirloom::folio::NodeId;
    /// use heirloom::kho::{PhysAddr, Run};
    /// use heirloom::{AllocOptions, Heirloom};
    ///
    /// let spec = RangeSpec { start: PhysAddr::new(4 << 30), bytes: 64 << 20, node: NodeId(0) };
    /// let arena = Arena::create("trimmed", &[spec])?;
    /// let map = [(arena.ranges()[0].run(), NodeId(0))];
    /// let scratch = Run::covering(spec.start, arena.scratch_bytes()).ok_or("scratch")?;
    /// // SAFETY: the arena is new, and nothing else uses it.
    /// let heirloom = unsafe { Heirloom::boot(&arena, &map, &[scratch], "example") }?;
    /// let buffer = heirloom.alloc(16 << 20)?;
    /// // SAFETY: the buffer's bytes, which nothing else reaches.
    /// unsafe { buffer.write_bytes(1, 16 << 20) };
    /// // SAFETY: the buffer is not used again.
    /// unsafe { heirloom.free(buffer) }?;
    /// assert!(arena.trim(heirloom.memory())? >= 16 << 20);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn trim<M: Machine>(&self, memory: &Memory<M>) -> Result<u64, ArenaError> {
        memory.drain();
        let mut given = 0;
        for run in self.shared_with(memory)? {
            let mut at = 0;
            // What is a hole already is passed over.
            while let Some(data) = self.data_behind(run, at)? {
                let (from, to) = (data / PAGE, self.hole_behind(run, data)?.div_ceil(PAGE));
                let Some(there) = Run::new(run.start().add(from), to - from) else { break };
                let mut block = Block::containing(there.start(), LARGEST);
                while block.pfn() < there.end() {
                    given += self.give_back(memory, there, block)?;
                    block = Block::containing(block.pfn().add(LARGEST.frames()), LARGEST);
                }
                at = to * PAGE;
            }
        }
        Ok(given)
    }

    /// Returns the frames that `memory` and this arena have both, which must be the same bytes: an allocator
    /// over another arena knows nothing of this one's.
    fn shared_with<M: Machine>(&self, memory: &Memory<M>) -> Result<Vec<Run>, ArenaError> {
        let mut shared = Vec::new();
        for (run, _) in memory.ranges() {
            let before = shared.len();
            for range in self.ranges().iter().map(ArenaRange::run) {
                let (from, to) = (range.start().max(run.start()), range.end().min(run.end()));
                shared.extend(Run::between(from, to).filter(|part| !part.is_empty()));
            }
            let same = |part: &Run| memory.machine().ptr(part.addr()) == self.ptr(part.addr());
            if shared.len() == before || !shared.iter().skip(before).all(same) {
                return Err(ArenaError::NotInArena { run });
            }
        }
        Ok(shared)
    }

    /// Gives back what is free of this block, if any of the memory that is `there` is in it. Returns how many
    /// bytes of that.
    fn give_back<M: Machine>(
        &self,
        memory: &Memory<M>,
        there: Run,
        block: Block,
    ) -> Result<u64, ArenaError> {
        let pages = there.common(block.run());
        if pages == 0 {
            return Ok(0);
        }
        // Blocks that lie in two ranges of the file are given back by halves.
        if self.offset_of(block.run()).is_some() && memory.alloc_at(block).is_ok() {
            let punched = self.punch(block.run());
            // SAFETY: allocated a moment ago, and told to nothing else.
            let freed = unsafe { memory.free(block) };
            debug_assert_eq!(freed, Ok(()), "a block that was just allocated");
            return punched.map(|()| pages * PAGE);
        }
        if block.order() <= SMALLEST {
            return Ok(0);
        }
        let Some(half) = Order::new(block.order().get() - 1) else { return Ok(0) };
        let second = Block::containing(block.pfn().add(half.frames()), half);
        Ok(self.give_back(memory, there, Block::containing(block.pfn(), half))?
            + self.give_back(memory, there, second)?)
    }

    /// Gives the system advice about these frames.
    fn advise(&self, run: Run, advice: Advice, call: &'static str) -> Result<(), ArenaError> {
        let (place, bytes) = self.mapped_at(run)?;
        // SAFETY: addresses of this arena's own mapping, which lives as long as `self`; none of the advice
        // given here changes what is read there, or takes the mapping away.
        unsafe { rustix::mm::madvise(place, bytes, advice) }.map_err(os(call))
    }

    /// Returns where these frames are mapped, and how many bytes.
    fn mapped_at(&self, run: Run) -> Result<(*mut c_void, usize), ArenaError> {
        self.offset_of(run).ok_or(ArenaError::NotInArena { run })?;
        let bytes = usize::try_from(run.bytes()).map_err(|_| ArenaError::NotInArena { run })?;
        Ok((self.ptr(run.addr()).as_ptr().cast(), bytes))
    }

    /// Makes the part of the file that is behind these frames a hole.
    pub(super) fn punch(&self, run: Run) -> Result<(), ArenaError> {
        let offset = self.offset_of(run).ok_or(ArenaError::NotInArena { run })?;
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(self.as_fd(), hole, offset, run.bytes()).map_err(os("fallocate"))
    }

    /// Returns where behind byte `at` of these frames there is memory, if there is any.
    fn data_behind(&self, run: Run, at: u64) -> Result<Option<u64>, ArenaError> {
        let (start, end) = self.part(run)?;
        match rustix::fs::seek(self.as_fd(), SeekFrom::Data(start + at)) {
            Ok(found) => Ok((found < end).then_some(found - start)),
            // How Linux says that there is none up to the file's end.
            Err(rustix::io::Errno::NXIO) => Ok(None),
            Err(errno) => Err(os("lseek(SEEK_DATA)")(errno)),
        }
    }

    /// Returns where the memory ends that byte `at` of these frames is in.
    fn hole_behind(&self, run: Run, at: u64) -> Result<u64, ArenaError> {
        let (start, end) = self.part(run)?;
        let found = rustix::fs::seek(self.as_fd(), SeekFrom::Hole(start + at));
        Ok(found.map_err(os("lseek(SEEK_HOLE)"))?.min(end) - start)
    }

    /// Returns the first byte of the file that is these frames', and the one behind the last.
    fn part(&self, run: Run) -> Result<(u64, u64), ArenaError> {
        let start = self.offset_of(run).ok_or(ArenaError::NotInArena { run })?;
        Ok((start, start + run.bytes()))
    }
}
