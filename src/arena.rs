//! A memfd as physical memory.
//!
//! An arena is a file that lives in memory alone and plays the machine's RAM for a process and
//! its successors: ranges with holes between them, each with a NUMA node, at physical addresses
//! that have nothing to do with where the bytes lie in the file or where a process sees them.
//!
//! ```text
//! physical     4 GiB          4.5 GiB            9 GiB
//!              | range 0 |    | range 1 |  hole  | range 2 |
//!
//! file         | map | hole | range 0 | range 1 | hole | range 2 |
//!
//! process A    base + | range 0 | no access | range 1 | no access … | range 2 |
//! process B    another base, the same distances
//! ```
//!
//! The holes in the file take no memory. They are there so that the system can map huge pages: see
//! [`Arena::advise_huge`].
//!
//! The file's first page is its own memory map, as firmware would provide one, so that the
//! descriptor is all that a successor needs to find the memory again. The same page can name the
//! entry of the handover ([`Arena::leave`]), for successors that no predecessor could tell it.

mod entry;
mod error;
mod file;
mod forks;
mod machine;
mod map;
mod mapping;
mod pages;
pub(crate) mod process;
mod range;
mod turn;
mod unmapper;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

pub use error::ArenaError;
use error::os;
pub use error::{MapFault, RangeFault};
pub use file::MAX_NAME;
#[cfg(feature = "liveupdate")]
use file::check_name;
pub(crate) use file::sealed_bytes;
use file::{above_standard, create_memfd, described, set_size, write_all};
use heirloom_folio::threads::{Host, ThreadSlots};
use heirloom_folio::{Cpus, Linear, NodeId};
use heirloom_kho::PageSize;
use heirloom_kho::{Order, PAGE_SIZE, Run};
use heirloom_restore::Entry;
pub use map::MAX_RANGES;
pub use mapping::Mapping;
use mapping::Reservation;
pub use range::{ArenaRange, MAX_SPAN, RangeSpec};
#[cfg(feature = "liveupdate")]
use rustix::fs::MemfdFlags;
use rustix::fs::SealFlags;

/// A memfd, mapped as the physical memory of a [`Machine`](heirloom_folio::Machine) whose CPUs are threads.
///
/// A pointer's alignment is that of the physical address behind it, up to that of the largest
/// folio. The file can neither shrink nor grow (it is sealed), so what is mapped stays there.
///
/// # Ownership of the memory
/// One process at a time owns an arena, from [`create`](Arena::create) or [`open`](Arena::open)
/// until it drops the last of its arenas over the file, ends in whatever way, or makes a
/// [`Jump`](crate::jump::Jump). Meanwhile `open` fails in others, and names the owner; descriptors
/// of the file, which others may keep, say nothing about it. Within the process any number of
/// arenas over one file show the same bytes: the caller that hands the frames to a `Memory` or
/// follows a pointer into them answers for it that nothing else does so meanwhile.
///
/// A forked child owns nothing. It can read the memory as long as it lasts, so that a child that
/// calls `exec` finds its arguments there; a write, and so any call that allocates or frees, ends it
/// with `SIGSEGV`. A child that was made by `clone` without the C library cannot read it either. What
/// is to go on in a child, a daemon say, opens the arena there once the parent has let it go.
/// `std::process::Command` is not affected.
///
/// # Signal handlers
/// A handler may allocate, free and preserve frames and folios, on a thread that used the arena
/// before. It may allocate and free objects and buffers too: where the call would have to wait for
/// a lock that the interrupted thread holds, it is refused at once
/// ([`WouldWait`](crate::slab::Error::WouldWait)). Other calls are not for handlers; one that waits for
/// its own thread ends the process with a message.
///
/// # Examples
/// ```
/// use heirloom::arena::{Arena, RangeSpec};
/// use heirloom::folio::{DirectMap, NodeId};
/// use heirloom::kho::PhysAddr;
///
/// let ranges = [
///     RangeSpec { start: PhysAddr::new(0x1_0000_0000), bytes: 1 << 20, node: NodeId(0) },
///     RangeSpec { start: PhysAddr::new(0x1_4000_0000), bytes: 1 << 20, node: NodeId(1) },
/// ];
/// let arena = Arena::create("example", &ranges)?;
/// let again = Arena::open(arena.share()?)?;
/// assert_eq!(arena.ranges(), again.ranges());
///
/// let addr = PhysAddr::new(0x1_4000_0123);
/// // SAFETY: the address is in a range, and nothing else uses the memory yet.
/// unsafe { arena.ptr(addr).write(7) };
/// // SAFETY: as before.
/// assert_eq!(unsafe { again.ptr(addr).read() }, 7);
/// # Ok::<(), heirloom::arena::ArenaError>(())
/// ```
#[derive(Debug)]
pub struct Arena {
    host: Host<Linear>,
    home: NodeId,
    ranges: Vec<ArenaRange>,
    /// Keeps what `host` maps. Dropped before `fd`, which it may use until then.
    mapped: Reservation,
    fd: OwnedFd,
}

/// The slots that [`Arena::scratch_bytes`] has room for at least: the most that
/// [`ThreadSlots::default`] gives on any machine.
const MOST_SLOTS: usize = ThreadSlots::MOST;

impl Arena {
    /// Creates memory, all zeroes, with these ranges. `name` is for a user that looks at the
    /// process (`/proc/self/maps`).
    ///
    /// Nothing is spent on a page until it is touched, and nothing is set aside for it either: an
    /// arena that is larger than the memory of the machine is created, and its process is killed
    /// when memory runs out. The limit of `/dev/shm` is not this memory's. The descriptor closes on
    /// exec; [`Jump`](crate::jump::Jump) passes it on.
    ///
    /// # Errors
    /// - [`ArenaError::Name`]: more than [`MAX_NAME`] bytes, or a NUL byte among them.
    /// - [`ArenaError::BadMap`], [`ArenaError::Span`]: what was asked for is no memory map.
    /// - [`ArenaError::Os`], [`ArenaError::Map`]: the system refused. `EFBIG`: the process may not have so large a file
    ///   (`RLIMIT_FSIZE`).
    /// - [`ArenaError::HostPage`]: the system's pages are larger than heirloom's.
    pub fn create(name: &str, ranges: &[RangeSpec]) -> Result<Self, ArenaError> {
        Self::create_in(create_memfd(name)?, ranges)
    }

    /// Creates memory as [`Arena::create`] does, such as Linux's live update brings back whole.
    ///
    /// Linux (7.3) retrieves a memfd that is sealed against changes of its execute bits as a
    /// file whose execute bits are set, and makes such a file read-only. So this one is created
    /// without that seal, as a file that is not executable.
    ///
    /// # Errors
    /// Those of [`Arena::create`]; [`ArenaError::Os`] too where the system allows no memfd
    /// without that seal (`vm.memfd_noexec` is 2), and on Linux before 6.3.
    #[cfg(feature = "liveupdate")]
    pub fn create_for_live_update(name: &str, ranges: &[RangeSpec]) -> Result<Self, ArenaError> {
        check_name(name)?;
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | MemfdFlags::EXEC;
        let fd = rustix::fs::memfd_create(name, flags).map_err(os("memfd_create"))?;
        let owner = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::fchmod(&fd, owner).map_err(os("fchmod"))?;
        Self::create_in(fd, ranges)
    }

    /// Lays `ranges` out in an empty memfd.
    fn create_in(fd: OwnedFd, ranges: &[RangeSpec]) -> Result<Self, ArenaError> {
        let (ranges, bytes) = map::lay_out(ranges)?;
        set_size(fd.as_fd(), bytes)?;
        write_all(fd.as_fd(), &map::encode(&ranges, bytes), 0)?;
        Self::seal(fd)
    }

    /// Seals a memfd that has all that an arena has.
    fn seal(fd: OwnedFd) -> Result<Self, ArenaError> {
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&fd, seals).map_err(os("fcntl(F_ADD_SEALS)"))?;
        // As a successor would: what cannot be opened again must not be created.
        Self::open(fd)
    }

    /// Creates memory with the bytes of a copy of an arena: one that was saved to a file while no
    /// allocator ran on it, or that the command `heirloom extract` took out of a memory image. Pages
    /// of zeroes take no room.
    ///
    /// # Errors
    /// - As for [`Arena::describe`], if `file` is no copy of an arena, and for [`Arena::create`].
    /// - [`ArenaError::BadMap`]: the copy ends early.
    ///
    /// # Examples
    /// ```
    /// use std::os::fd::AsFd;
    /// use heirloom::arena::{Arena, RangeSpec};
    /// use heirloom::folio::{DirectMap, NodeId};
    /// use heirloom::kho::PhysAddr;
    ///
    /// let spec = RangeSpec { start: PhysAddr::new(4 << 30), bytes: 1 << 20, node: NodeId(0) };
    /// let arena = Arena::create("original", &[spec])?;
    /// // SAFETY: the address is in the range, and nothing else uses the memory.
    /// unsafe { arena.ptr(spec.start).write(7) };
    /// let copy = Arena::from_copy("copy", arena.as_fd())?;
    /// // SAFETY: as before.
    /// assert_eq!(unsafe { copy.ptr(spec.start).read() }, 7);
    /// # Ok::<(), heirloom::arena::ArenaError>(())
    /// ```
    pub fn from_copy(name: &str, file: BorrowedFd<'_>) -> Result<Self, ArenaError> {
        // Whatever is wrong with it is said before memory is spent.
        Self::describe(file)?;
        let stat = rustix::fs::fstat(file).map_err(os("fstat"))?;
        let bytes = u64::try_from(stat.st_size).unwrap_or(0);
        let fd = create_memfd(name)?;
        set_size(fd.as_fd(), bytes)?;
        let mut buffer = vec![0; 1 << 20];
        let mut at = 0;
        while at < bytes {
            let room = buffer.len().min(usize::try_from(bytes - at).unwrap_or(usize::MAX));
            let read = rustix::io::pread(file, &mut buffer[..room], at).map_err(os("pread"))?;
            if read == 0 {
                return Err(ArenaError::BadMap(MapFault::FileSize { expected: bytes, found: at }));
            }
            for part in buffer[..read].chunks(PAGE_SIZE) {
                if part.iter().any(|byte| *byte != 0) {
                    write_all(fd.as_fd(), part, at)?;
                }
                at += part.len() as u64;
            }
        }
        Self::seal(fd)
    }

    /// Opens the arena that `fd` refers to, mapped wherever there is room.
    ///
    /// Believes nothing that it has not checked: any file at all gives an arena whose ranges
    /// fit the file and are apart, or an error. The descriptor closes on exec from here on.
    ///
    /// # Errors
    /// - [`ArenaError::NotMemfd`], [`ArenaError::NotSealed`]: another kind of file, or one that
    ///   could shrink under the mapping.
    /// - [`ArenaError::BadMap`], [`ArenaError::Span`]: the memory map in its first page is not sound.
    /// - [`ArenaError::InUse`]: another process has the arena. It has it no more at the instant at
    ///   which it has ended; a process that waited for it (`wait`) can open the arena at once.
    /// - [`ArenaError::Os`], [`ArenaError::Map`]: the system refused.
    /// - [`ArenaError::HostPage`]: the system's pages are larger than heirloom's.
    pub fn open(fd: OwnedFd) -> Result<Self, ArenaError> {
        let arena = Self::open_shared(fd)?;
        arena.mapped.own()?;
        Ok(arena)
    }

    /// Opens an arena beside the process that has it: like [`Arena::open`], without becoming its
    /// owner, and without asking for one.
    ///
    /// For processes that share the memory by an agreement of their own: one that is handed frames
    /// to work on (a device's back end, say), or one that looks at the memory while its owner waits.
    /// An allocator must not run on it while another one does: that the memory is nothing else's is
    /// for the caller of `boot` and `revive` to know.
    ///
    /// # Errors
    /// As for [`Arena::open`], but for [`ArenaError::InUse`].
    pub fn open_shared(fd: OwnedFd) -> Result<Self, ArenaError> {
        let host = rustix::param::page_size();
        if host > PAGE_SIZE {
            return Err(ArenaError::HostPage { host, page: PAGE_SIZE });
        }
        let fd = above_standard(fd)?;
        rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC).map_err(os("fcntl(F_SETFD)"))?;
        let (page, ranges) = described(fd.as_fd(), sealed_bytes(fd.as_fd())?)?;
        if page != PageSize::BUILD {
            return Err(map::other_pages(page.shift()));
        }

        let (start, span) = map::span(&ranges)?;
        let mut mapped =
            Reservation::new(span, start.get(), Order::MAX_FOLIO.bytes(), Some(fd.as_fd()))?;
        for range in &ranges {
            // Both fit: the range lies within the span, which fits `usize`.
            let at = (range.run.addr().get() - start.get()) as usize;
            mapped.place(at, range.run.bytes() as usize, fd.as_fd(), range.offset)?;
        }
        // SAFETY: the reservation spans `span` bytes from `base` under one pointer and lives as
        // long as the map, whose owner drops both; the ranges in it are readable and writable,
        // and stay so because the file is sealed against shrinking. `span` checked the end
        // against overflow. The arena itself touches none of the memory; that nothing else does is
        // the promise of the caller that hands the frames to heirloom (`Memory::add_range` is
        // unsafe for it).
        let map = unsafe { Linear::new(mapped.base(), start, span) };
        let home = ranges.first().map_or(NodeId(0), |range| range.node);
        Ok(Self { host: Host::new(map), home, ranges, mapped, fd })
    }

    /// Returns the arena with other slots than [`ThreadSlots::default`].
    #[must_use]
    pub fn with_slots(self, slots: ThreadSlots) -> Self {
        Self { host: self.host.with_slots(slots), ..self }
    }

    /// Returns the bytes of scratch that the metadata of this memory needs, in this process and in
    /// successors on other machines: for as many slots as [`ThreadSlots::default`] gives where
    /// there are many processors, or as many as this arena has if those are more. Whole pages, in
    /// one area.
    ///
    /// # Examples
    /// ```
    /// use heirloom::Heirloom;
    /// use heirloom::arena::{Arena, RangeSpec};
    /// use heirloom::folio::{Cpus, NodeId};
    /// use heirloom::kho::{PhysAddr, Run};
    ///
    /// let memory = RangeSpec { start: PhysAddr::new(4 << 30), bytes: 16 << 20, node: NodeId(0) };
    /// let arena = Arena::create("example", &[memory])?;
    /// let map = [(arena.ranges()[0].run(), NodeId(0))];
    /// assert!(arena.scratch_bytes() >= Heirloom::<&Arena>::scratch_bytes(&map, arena.count()) as u64);
    /// let scratch = Run::covering(memory.start, arena.scratch_bytes()).ok_or("scratch")?;
    /// // SAFETY: the arena is new, and nothing else uses it.
    /// let heirloom = unsafe { Heirloom::boot(&arena, &map, &[scratch], "example") }?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn scratch_bytes(&self) -> u64 {
        let map: Vec<_> = self.ranges.iter().map(|range| (range.run, range.node)).collect();
        crate::Heirloom::<&Self>::scratch_bytes(&map, self.count().max(MOST_SLOTS)) as u64
    }

    /// Returns the ranges of physical memory, in the order in which they were created.
    pub fn ranges(&self) -> &[ArenaRange] {
        &self.ranges
    }

    /// Returns another descriptor of the same memory, which closes on exec: for a thread that opens
    /// the arena again, or to be sent to another process. What writes through it, or maps it to write, is
    /// one more that has the memory: see [Ownership of the memory](Arena#ownership-of-the-memory).
    ///
    /// # Errors
    /// [`ArenaError::Os`]: out of descriptors.
    pub fn share(&self) -> Result<OwnedFd, ArenaError> {
        // 3 and above: a descriptor among the standard three would be replaced by code
        // that redirects them.
        rustix::io::fcntl_dupfd_cloexec(&self.fd, 3).map_err(os("fcntl(F_DUPFD_CLOEXEC)"))
    }

    /// Writes the entry of a handover into the first page, where [`Arena::entry`] finds it: for
    /// a successor that inherits the memory and nothing else.
    ///
    /// Once is enough, right after the first `boot`: an entry holds from then on, whatever is
    /// preserved later, and a successor goes on with it. Writing it again does no harm. At any instant
    /// either the old entry or the new one is there.
    ///
    /// # Errors
    /// [`ArenaError::Os`]: the system refused. [`ArenaError::Entry`]: the entry that is there was
    /// forged.
    pub fn leave(&self, entry: Entry) -> Result<(), ArenaError> {
        entry::write(self.as_fd(), entry)
    }

    /// Returns the entry that was [left](Arena::leave) last: `None` if there never was one.
    ///
    /// # Errors
    /// [`ArenaError::Os`]: the system refused. [`ArenaError::Entry`]: there is something, and it
    /// is not whole.
    pub fn entry(&self) -> Result<Option<Entry>, ArenaError> {
        entry::read(self.as_fd())
    }

    /// Returns the process that has the arena in this file. `None`: none has, or none that can be seen from here, as it
    /// is in another pid namespace. Takes nothing: an owner that starts meanwhile is not refused.
    ///
    /// # Errors
    /// [`ArenaError::Os`]: the file cannot be looked at.
    ///
    /// # Examples
    /// ```
    /// use std::os::fd::AsFd;
    /// use heirloom::arena::{Arena, RangeSpec};
    /// use heirloom::folio::NodeId;
    /// use heirloom::kho::PhysAddr;
    ///
    /// let spec = RangeSpec { start: PhysAddr::new(4 << 30), bytes: 16 << 20, node: NodeId(0) };
    /// let arena = Arena::create("owned", &[spec])?;
    /// let file = arena.share()?;
    /// assert_eq!(Arena::owner(file.as_fd())?, i32::try_from(std::process::id()).ok());
    /// drop(arena);
    /// assert_eq!(Arena::owner(file.as_fd())?, None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn owner(file: BorrowedFd<'_>) -> Result<Option<i32>, ArenaError> {
        process::owner_of(file)
    }

    /// Erases the handover, so that the next owner begins with nothing, and gives all of the memory back to the
    /// system. A process that is killed meanwhile has erased it, or changed nothing.
    ///
    /// # Errors
    /// [`ArenaError::Os`]: the system refused. The handover is erased unless it refused to write.
    ///
    /// # Safety
    /// Nothing uses the memory, in this process or another: no allocator runs on it, and nothing has a pointer into it that
    /// is followed again.
    pub unsafe fn clear(&self) -> Result<(), ArenaError> {
        entry::erase(self.as_fd())?;
        self.ranges.iter().try_for_each(|range| self.punch(range.run))
    }

    /// Returns the page size and the ranges that the first page of an arena's file describes, and the
    /// entry that was [left](Arena::leave) there last. Nothing is mapped, `file` may be of any kind, and its
    /// pages may be larger than this build's: for a program that looks at a copy of an arena.
    ///
    /// # Errors
    /// As for [`Arena::open`] where the memory map is not sound, and for [`Arena::entry`].
    ///
    /// # Examples
    /// ```
    /// use std::os::fd::AsFd;
    /// use heirloom::arena::{Arena, RangeSpec};
    /// use heirloom::folio::NodeId;
    /// use heirloom::kho::PhysAddr;
    ///
    /// let spec = RangeSpec { start: PhysAddr::new(4 << 30), bytes: 16 << 20, node: NodeId(0) };
    /// let arena = Arena::create("described", &[spec])?;
    /// let (page, ranges, entry) = Arena::describe(arena.share()?.as_fd())?;
    /// assert_eq!(page.bytes(), heirloom::kho::PAGE_SIZE);
    /// assert_eq!(ranges, arena.ranges());
    /// assert_eq!(entry, None);
    /// # Ok::<(), heirloom::arena::ArenaError>(())
    /// ```
    pub fn describe(
        file: BorrowedFd<'_>,
    ) -> Result<(PageSize, Vec<ArenaRange>, Option<Entry>), ArenaError> {
        let stat = rustix::fs::fstat(file).map_err(os("fstat"))?;
        let (page, ranges) = described(file, u64::try_from(stat.st_size).unwrap_or(0))?;
        Ok((page, ranges, entry::read(file)?))
    }

    /// Maps `runs` a second time, one after the other, as one contiguous stretch of bytes: what a
    /// kernel calls a vmalloc area.
    ///
    /// Neighbouring runs share one mapping; each further one costs the kernel a structure of its
    /// own, of which Linux allows a process 65,530 by default.
    ///
    /// # Errors
    /// - [`ArenaError::NotInArena`]: a run does not lie wholly in one range.
    /// - [`ArenaError::EmptyArea`]: there are no frames in `runs`.
    /// - [`ArenaError::Span`]: they are too many to be mapped.
    /// - [`ArenaError::Os`]: the system refused.
    pub fn map_area(&self, runs: &[Run]) -> Result<Mapping, ArenaError> {
        let mut pieces: Vec<(u64, u64)> = Vec::new();
        let mut bytes = 0_u64;
        for run in runs.iter().filter(|run| !run.is_empty()) {
            let offset = self.offset_of(*run).ok_or(ArenaError::NotInArena { run: *run })?;
            match pieces.last_mut() {
                Some((start, length)) if *start + *length == offset => *length += run.bytes(),
                _ => pieces.push((offset, run.bytes())),
            }
            // A run may be named many times, so the sum is bounded by nothing but this.
            bytes = bytes.saturating_add(run.bytes());
        }
        if bytes == 0 {
            return Err(ArenaError::EmptyArea);
        }
        let length = map::mappable(bytes)?;
        let mut mapped = Reservation::new(length, 0, PAGE_SIZE as u64, None)?;
        let mut at = 0;
        for (offset, bytes) in pieces {
            mapped.place(at, bytes as usize, self.fd.as_fd(), offset)?;
            at += bytes as usize;
        }
        Ok(Mapping::new(mapped))
    }

    /// Returns where in the file the bytes of `run` begin, in bytes: with the descriptor
    /// ([`Arena::share`]) what another process needs to map them, the back end of a virtual device say.
    /// `None` if they do not lie wholly in one range.
    pub fn offset_of(&self, run: Run) -> Option<u64> {
        let range = self.ranges.iter().find(|range| range.run.covers(run))?;
        Some(range.offset + (run.addr().get() - range.run.addr().get()))
    }
}

impl AsFd for Arena {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
