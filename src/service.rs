//! A service whose memory outlives it: found again, or begun anew, by one call.
//!
//! ```text
//!         the predecessor jumps               the service manager starts it anew
//!          HEIRLOOM_HANDOVER                   the arena out of its descriptor store
//!                 │                                          │
//!                 └────────────> Service::begin <────────────┘
//!                                      │
//!                  warm: the entry is there      cold: a new arena, and why
//!                                      │
//!                               Service::start ──> Heirloom; the manager holds the arena
//! ```
//!
//! systemd holds the arena where the unit says `FileDescriptorStoreMax=`, and `heirloom hold` does where
//! there is no systemd.

mod store;

use core::fmt;
use core::sync::atomic::AtomicBool;
use core::sync::atomic::Ordering::Relaxed;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use heirloom_kho::Run;
use heirloom_restore::{Entry, Heirloom, SealPolicy};

use crate::arena::{Arena, ArenaError, MAX_NAME, RangeSpec};
use crate::jump::{Inherited, JumpError};
use rustix::fs::FileType;

/// A service's memory, as a predecessor left it or new, and the descriptors that came along.
///
/// # Examples
/// ```no_run
/// use heirloom::arena::RangeSpec;
/// use heirloom::jump::Jump;
/// use heirloom::service::Service;
/// use heirloom::{Disposition, NodeId, PhysAddr, SealPolicy};
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     let memory = RangeSpec { start: PhysAddr::new(4 << 30), bytes: 1 << 30, node: NodeId(0) };
///     // SAFETY: the first line of `main`: the process has opened nothing itself.
///     let mut service = unsafe { Service::begin("cache", &[memory]) }?;
///     if let Some(why) = service.cold() {
///         eprintln!("begins with nothing: {why}");
///     }
///     let listener = service.take("listen");
///     let heirloom = service.start("cache 1.0", SealPolicy::Checked)?;
///     // ... claims what it knows of, and frees the rest:
///     heirloom.finish(|_| Disposition::Free)?;
///     service.ready()?;
///     // ... serves; and at the end becomes its successor:
///     let jump = Jump::new(service.arena(), heirloom.entry())?;
///     Err(jump.exec(std::process::Command::new("/usr/bin/cache-2.0")).into())
/// }
/// ```
#[derive(Debug)]
pub struct Service {
    name: String,
    specs: Vec<RangeSpec>,
    arena: Arena,
    entry: Option<Entry>,
    cold: Option<Cold>,
    passed: Vec<(String, OwnedFd)>,
    /// Whether the manager keeps something under the service's name that is of no use.
    useless: bool,
    /// Whether an allocator runs, or has run, on the arena.
    started: AtomicBool,
    /// Whether the manager took the arena.
    held: AtomicBool,
}

/// Why a service begins with nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Cold {
    /// Neither a predecessor nor a service manager passed an arena on.
    NoPredecessor,
    /// There is an arena of this name, and no handover in it: its owner ended before it had begun.
    NoEntry,
    /// What was passed on is no arena, or one that is not sound.
    Arena(ArenaError),
    /// What the predecessor said in the environment cannot be read.
    Jump(JumpError),
    /// The handover was refused, or one of its caches, records or roots.
    Refused(heirloom_restore::Error),
}

/// An error of a service that starts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum ServiceError {
    /// The arena could not be created, opened or written.
    Arena(ArenaError),
    /// The handover could not be begun, or not be gone on with: see [`Service::start_cold`].
    Restore(heirloom_restore::Error),
    /// No name of a service: 1 to 255 printable ASCII characters, none a colon.
    Name,
    /// The service was started before: an allocator has the memory.
    Started,
}

impl Service {
    /// Finds the arena of this name that a predecessor left, or creates one with these ranges.
    ///
    /// Looks for what a [`Jump`](crate::jump::Jump) passed on, then for an arena that a service manager
    /// held under `name`. Where neither is there, or what is there cannot be used, the service begins
    /// cold, in a new arena: [`Service::cold`] says why. Takes all descriptors that came along.
    ///
    /// # Errors
    /// - [`ServiceError::Arena`] with [`ArenaError::InUse`]: another process has the arena: this service runs
    ///   already, or its predecessor has not ended. With another error of the system's: the arena is there,
    ///   and cannot be mapped now. Neither is a reason to begin with nothing beside it. Else as for
    ///   [`Arena::create`], where there is nothing to go on with.
    /// - [`ServiceError::Name`]: a service manager cannot keep anything under this name.
    ///
    /// # Safety
    /// - Nothing else in the process owns the descriptors that the environment names. Called at the start
    ///   of `main`, before anything else is opened, that is so.
    /// - It is called once.
    /// - As long as what [`Service::start`] returns is used, nothing else writes the arena's memory: through
    ///   its file ([`Arena::share`] gives descriptors of it), another mapping, or an allocator over another
    ///   `Arena` of the file; neither in this process nor in another.
    pub unsafe fn begin(name: &str, specs: &[RangeSpec]) -> Result<Self, ServiceError> {
        if !is_name(name) {
            return Err(ServiceError::Name);
        }
        // SAFETY: as the caller says.
        let inherited = unsafe { Inherited::from_env() };
        let left;
        let (found, passed) = match inherited {
            Ok(Some(Inherited { fd, entry, passed })) => {
                let opened = Arena::open(fd).map_err(Cold::Arena);
                // A manager has kept it since it was begun.
                left = true;
                (opened.map(|arena| (arena, entry)), passed)
            }
            inherited => {
                // SAFETY: as the caller says; a jump names none of these.
                let passed = unsafe { store::take() };
                // (A socket that the manager opened may have any name.)
                let (held, passed): (Vec<_>, _) =
                    passed.into_iter().partition(|(held, fd)| held == name && !is_socket(fd));
                left = !held.is_empty();
                let mut found = Err(inherited.err().map_or(Cold::NoPredecessor, Cold::Jump));
                // A life that ended too early leaves one more, with nothing in it. Managers keep no order.
                for (_, fd) in held {
                    match open_held(fd) {
                        Ok(arena) => {
                            found = Ok(arena);
                            break;
                        }
                        Err(cold) if cold.may_pass() => {
                            found = Err(cold);
                            break;
                        }
                        Err(cold) => found = Err(cold),
                    }
                }
                (found, passed)
            }
        };
        let (arena, entry, cold) = match found {
            Ok((arena, entry)) => (arena, Some(entry), None),
            Err(Cold::Arena(error)) if Cold::Arena(error).may_pass() => return Err(error.into()),
            Err(cold) => (new_arena(name, specs)?, None, Some(cold)),
        };
        let useless = left && cold.is_some();
        let (name, specs) = (name.to_owned(), specs.to_vec());
        let (started, held) = (AtomicBool::new(false), AtomicBool::new(false));
        Ok(Self { name, specs, arena, entry, cold, passed, useless, started, held })
    }

    /// Begins again with a new arena, for this reason: the handover that was found is of no use. The old
    /// arena is let go, here and by the service manager.
    ///
    /// # Errors
    /// As for [`Arena::create`]. What was found is let go then, too.
    pub fn start_cold(self, why: Cold) -> Result<Self, ServiceError> {
        let Self { name, specs, arena, passed, .. } = self;
        drop(arena);
        let arena = new_arena(&name, &specs)?;
        let (entry, cold, useless) = (None, Some(why), true);
        let (started, held) = (AtomicBool::new(false), AtomicBool::new(false));
        Ok(Self { name, specs, arena, entry, cold, passed, useless, started, held })
    }

    /// Goes on with the handover that was found, or begins one, for a program of this name. The service
    /// manager, if there is one, holds the arena from here on; [`Service::is_held`] tells.
    ///
    /// Scratch lies at the start of the largest range, as much as the arena needs. `seal` says what is
    /// demanded of a predecessor's seal.
    ///
    /// # Errors
    /// - [`ServiceError::Restore`]: as for [`Heirloom::revive`] and [`Heirloom::boot`]. The call can be
    ///   made again, and [`Service::start_cold`] gives up what was found.
    /// - [`ServiceError::Arena`]: the entry could not be written.
    /// - [`ServiceError::Started`]: it was started before.
    pub fn start(
        &self,
        producer: &str,
        seal: SealPolicy,
    ) -> Result<Heirloom<&Arena>, ServiceError> {
        // Relaxed: the flag itself is all that is at stake.
        if self.started.swap(true, Relaxed) {
            return Err(ServiceError::Started);
        }
        let begun = self.begin_handover(producer, seal);
        if begun.is_err() {
            self.started.store(false, Relaxed);
        }
        begun
    }

    /// Does what [`Service::start`] does, once.
    fn begin_handover(
        &self,
        producer: &str,
        seal: SealPolicy,
    ) -> Result<Heirloom<&Arena>, ServiceError> {
        // What is kept is of no use: none of it is what this service goes on with.
        let dropped = !self.useless || store::drop_kept(&self.name).is_ok();
        // A manager that does not answer is no reason to end what goes on well.
        let kept = dropped && store::keep(&self.name, self.arena.as_fd()).unwrap_or(false);
        self.held.store(kept, Relaxed);
        let ranges = self.arena.ranges().iter();
        let map: Vec<_> = ranges.map(|range| (range.run(), range.node())).collect();
        if let Some(entry) = self.entry {
            // SAFETY: the arena maps all of its ranges. It is this process's alone (`Arena::open`), no
            // allocator was given it here before (`started`), and nothing else writes it (`begin`).
            let revived = unsafe { Heirloom::revive(&self.arena, &map, entry, producer, seal) };
            return revived.map_err(ServiceError::Restore);
        }
        let largest = map.iter().map(|(run, _)| *run).max_by_key(|run| run.frames());
        let start = largest.map(Run::addr).unwrap_or_default();
        let scratch = Run::covering(start, self.arena.scratch_bytes());
        // SAFETY: as above; the arena is new.
        let booted = unsafe { Heirloom::boot(&self.arena, &map, scratch.as_slice(), producer) };
        let heirloom = booted.map_err(ServiceError::Restore)?;
        self.arena.leave(heirloom.entry()).map_err(ServiceError::Arena)?;
        Ok(heirloom)
    }

    /// Returns the memory.
    pub const fn arena(&self) -> &Arena {
        &self.arena
    }

    /// Returns why the service begins with nothing: `None` where it goes on with what a predecessor left.
    pub const fn cold(&self) -> Option<Cold> {
        self.cold
    }

    /// Returns the first descriptor of this name that came along and was not taken yet: one that the
    /// predecessor passed on ([`Jump::with_fd`](crate::jump::Jump::with_fd)), that the service manager held,
    /// or that it opened for the service (systemd names those after their socket unit, or as that says by
    /// `FileDescriptorName=`).
    pub fn take(&mut self, name: &str) -> Option<OwnedFd> {
        let at = self.passed.iter().position(|(has, _)| has == name)?;
        Some(self.passed.remove(at).1)
    }

    /// Returns whether a service manager took the arena to hold it as the service was started. Not so where
    /// there is none, or it did not answer: the memory ends with the process then, unless it jumps.
    pub fn is_held(&self) -> bool {
        self.held.load(Relaxed)
    }

    /// Tells the service manager that the service has begun: what ends it from here on is not that it cannot
    /// read what its predecessor left. Returns whether there is a manager.
    ///
    /// # Errors
    /// That the manager cannot be reached, or took no message within five seconds.
    pub fn ready(&self) -> io::Result<bool> {
        store::ready()
    }

    /// Has the service manager hold another descriptor, for as long as it holds the arena: a listening
    /// socket, say, that no socket unit opened. Returns whether there is a manager.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`]: no name is longer than 255 printable ASCII characters, or has a colon, and
    /// this one must not be the service's. Else that the manager cannot be reached, or took no message within
    /// five seconds.
    pub fn hold(&self, name: &str, fd: BorrowedFd<'_>) -> io::Result<bool> {
        if !is_name(name) || name == self.name {
            let text =
                format!("{name:?} is no name that a service manager can keep a socket under");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        store::keep(name, fd)
    }
}

/// Returns whether a service manager can keep something under this name: 1 to 255 printable ASCII characters, none
/// a colon, which stands between names in `LISTEN_FDNAMES`.
///
/// # Examples
/// ```
/// use heirloom::service::is_name;
/// assert!(is_name("cache") && !is_name("cache:1"));
/// ```
pub fn is_name(name: &str) -> bool {
    let printable = |byte: u8| (b' '..0x7f).contains(&byte) && byte != b':';
    (1..=255).contains(&name.len()) && name.bytes().all(printable)
}

impl Cold {
    /// Returns whether the reason may be another one in a moment, and the arena is there all the same.
    const fn may_pass(&self) -> bool {
        use ArenaError::{HostPage, InUse, Map, Os, Span};
        // A descriptor that nothing is read by, of a path say, is none of an arena, and stays so.
        if matches!(self, Self::Arena(Os { errno: libc::EBADF, .. })) {
            return false;
        }
        matches!(
            self,
            Self::Arena(InUse { .. } | Os { .. } | Map { .. } | HostPage { .. } | Span { .. })
        )
    }
}

impl From<ArenaError> for ServiceError {
    fn from(error: ArenaError) -> Self {
        Self::Arena(error)
    }
}

/// Returns whether a descriptor is a socket's.
fn is_socket(fd: &OwnedFd) -> bool {
    let stat = rustix::fs::fstat(fd);
    stat.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Socket)
}

/// Creates the arena of a service. What its memory is called has fewer bytes than what a service manager keeps it under.
fn new_arena(name: &str, specs: &[RangeSpec]) -> Result<Arena, ArenaError> {
    Arena::create(name.get(..MAX_NAME).unwrap_or(name), specs)
}

/// Opens the arena that a service manager held, with the entry that was left in it.
fn open_held(fd: OwnedFd) -> Result<(Arena, Entry), Cold> {
    let arena = Arena::open(fd).map_err(Cold::Arena)?;
    let entry = arena.entry().map_err(Cold::Arena)?.ok_or(Cold::NoEntry)?;
    Ok((arena, entry))
}

impl fmt::Display for Cold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPredecessor => f.write_str("no predecessor left anything"),
            Self::NoEntry => f.write_str("the predecessor ended before it began a handover"),
            Self::Arena(error) => write!(f, "the predecessor's memory cannot be had: {error}"),
            Self::Jump(error) => write!(f, "what the predecessor said cannot be read: {error}"),
            Self::Refused(error) => write!(f, "the handover is of no use here: {error}"),
        }
    }
}

impl fmt::Display for ServiceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Arena(error) => error.fmt(f),
            Self::Restore(error) => error.fmt(f),
            Self::Name => f.write_str(
                "a service's name has 1 to 255 printable ASCII characters, none of them a colon",
            ),
            Self::Started => f.write_str("the service was started before"),
        }
    }
}

impl core::error::Error for ServiceError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Arena(error) => Some(error),
            Self::Restore(error) => Some(error),
            Self::Name | Self::Started => None,
        }
    }
}
