//! What this process has of arenas: mappings, which a forked child must not write to, and the
//! ownership of files, of which a process is the owner and not a descriptor.
//!
//! Picture a list of records, one for each reservation of addresses in the process:
//!
//! ```text
//! LIST ─> record ──────────────> record ──────────────> …
//!         file 4, lock 5         file 6, lock 5         two arenas over one file
//!         pieces: ranges         pieces: ranges
//! ```
//!
//! **Fork.** An arena is shared memory, its tables included, while which thread has which slot is
//! the process's own: a forked child would allocate from its parent's slots. So the kernel leaves
//! the pieces out of a child (`MADV_DONTFORK`), however it is made. Behind a call of the C library's
//! `fork`, the child gets them back to read alone: where heirloom is the global allocator, what a
//! child needs until it calls `exec`, its arguments above all, lies there. A write faults.
//!
//! **Ownership.** The owner of a file holds an exclusive `flock` on an open file description of its
//! own, made for this alone by opening the descriptor anew: no dup of it exists, so it ends with
//! the process, and with `exec`, however either happens and whatever other processes hold. No
//! number of a process is compared, so none that is used again can be mistaken. `/proc/locks`
//! names the owner.
//!
//! Nothing here may allocate while [`LIST`] is locked, nor keep its records in the heap: the heap
//! may be an arena's. A `fork` locks it behind the gate ([`forks`]), and nothing else has both.

mod ownership;

use core::ffi::c_void;
use core::ptr::NonNull;
use core::sync::atomic::AtomicBool;
use core::sync::atomic::Ordering::Relaxed;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::time::Duration;

use heirloom_folio::threads::YieldingMutex;
use lock_api::RawMutex as _;
pub(super) use ownership::pid;
use ownership::{Key, lock, lock_again, owner, unlock};
use rustix::mm::{Advice, MapFlags, ProtFlags};

use super::ArenaError;
use super::error::os;
use super::map::MAX_RANGES;
use super::{forks, turn};

/// Stands for a descriptor that there is none of.
const NONE: RawFd = -1;

/// How often a lock is tried whose owner is not to be seen.
const UNSEEN: u32 = 50;

/// Addresses at which a part of the file is mapped.
#[derive(Clone, Copy)]
struct Piece {
    at: *mut c_void,
    bytes: usize,
    offset: u64,
}

/// What the process has of one reservation. Read and written under [`LIST`] alone.
struct Record {
    next: *mut Record,
    /// The process that may unmap the pieces and holds the lock: a child that was not made by the
    /// C library has copies of records that say another.
    pid: i32,
    /// The file of the pieces, open as long as the record is in the list; or [`NONE`]: a child
    /// gets no access to them at all.
    file: RawFd,
    key: Key,
    /// The descriptor whose lock makes this process the owner, or [`NONE`]. Records of one file
    /// share it, and the last one closes it.
    lock: RawFd,
    /// The process was the owner, has passed that on, and noted whose [turn] it was: `lock` is open, to be locked again, and
    /// not locked.
    lent: Option<u64>,
    count: usize,
    pieces: [Piece; MAX_RANGES],
}

struct Head(*mut Record);

// SAFETY: the records belong to the process, not to a thread; the lock orders their users.
unsafe impl Send for Head {}

/// (Not one of the locks that threads count. A fork holds it while the handlers of other libraries run, which may allocate:
/// an allocator whose thread holds a counted lock refuses what it would have to wait for.)
static LIST: lock_api::Mutex<YieldingMutex, Head> =
    lock_api::Mutex::new(Head(core::ptr::null_mut()));

impl Head {
    fn records(&mut self) -> impl Iterator<Item = &mut Record> {
        let mut next = self.0;
        core::iter::from_fn(move || {
            // SAFETY: null, or a record, which stays mapped while it is in the list; nothing else
            // has a reference to it, as the list is borrowed exclusively and names each once.
            let record = unsafe { next.as_mut() }?;
            next = record.next;
            Some(record)
        })
    }

    /// Returns the lock by which this process owns the file already.
    fn lock_on(&mut self, key: Key, pid: i32) -> Option<RawFd> {
        let mut own = self.records().filter(|r| r.key == key && r.pid == pid && r.lent.is_none());
        own.find(|record| record.lock != NONE).map(|record| record.lock)
    }

    /// Returns the records of a file whose lock this process has lent.
    fn lent(&mut self, key: Key, pid: i32) -> impl Iterator<Item = &mut Record> {
        self.records().filter(move |r| r.key == key && r.pid == pid && r.lent.is_some())
    }
}

/// This process's part in a reservation: a record in the list, taken out on drop.
#[derive(Debug)]
pub(super) struct Part(NonNull<Record>);

// SAFETY: what it points to is used under the list's lock alone.
unsafe impl Send for Part {}
// SAFETY: as for `Send`.
unsafe impl Sync for Part {}

impl Part {
    /// Returns a part without pieces. `file` stays open as long as the part lives; none: forked
    /// children get no access.
    pub(super) fn new(file: Option<BorrowedFd<'_>>) -> Result<Self, ArenaError> {
        watch_forks()?;
        let key = file.map_or(Ok(Key::NONE), Key::of)?;
        let (access, bytes) = (ProtFlags::READ | ProtFlags::WRITE, size_of::<Record>());
        // SAFETY: the kernel chooses the place, so no existing mapping is touched.
        let room = unsafe {
            rustix::mm::mmap_anonymous(core::ptr::null_mut(), bytes, access, MapFlags::PRIVATE)
        };
        let room = room.map_err(super::error::map(bytes))?.cast::<Record>();
        let record = NonNull::new(room).ok_or(ArenaError::Map { bytes: bytes as u64, errno: 0 })?;
        let blank = Piece { at: core::ptr::null_mut(), bytes: 0, offset: 0 };
        let mut list = LIST.lock();
        // SAFETY: mapped just now, page-aligned and large enough.
        unsafe {
            record.write(Record {
                next: list.0,
                pid: pid(),
                file: file.map_or(NONE, |file| file.as_raw_fd()),
                key,
                lock: NONE,
                lent: None,
                count: 0,
                pieces: [blank; MAX_RANGES],
            });
        }
        list.0 = record.as_ptr();
        Ok(Self(record))
    }

    /// Returns the record, while the list is locked.
    fn record<'l>(&self, _: &'l mut Head) -> &'l mut Record {
        let mut record = self.0;
        // SAFETY: in the list since `new` and until `drop`; the list is borrowed exclusively.
        unsafe { record.as_mut() }
    }

    /// Maps a part of a file at addresses that are the caller's, and keeps it out of forked
    /// children.
    ///
    /// # Safety
    /// - The addresses are reserved by the caller, and nothing uses what is mapped there.
    pub(super) unsafe fn map(
        &self,
        at: *mut c_void,
        bytes: usize,
        file: BorrowedFd<'_>,
        offset: u64,
    ) -> Result<(), ArenaError> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::SHARED | MapFlags::FIXED;
        let mut list = LIST.lock();
        let record = self.record(&mut list);
        // SAFETY: the addresses are the caller's, and nothing uses them (contract).
        let mapped = unsafe { rustix::mm::mmap(at, bytes, access, flags, file, offset) };
        mapped.map_err(super::error::map(bytes))?;
        // SAFETY: the mapping made just now; what it says to this process does not change.
        let kept_out = unsafe { rustix::mm::madvise(at, bytes, Advice::LinuxDontFork) };
        kept_out.map_err(os("madvise(MADV_DONTFORK)"))?;
        if record.file != NONE
            && let Some(piece) = record.pieces.get_mut(record.count)
        {
            *piece = Piece { at, bytes, offset };
            record.count += 1;
        }
        Ok(())
    }

    /// Keeps addresses from being used for anything else in forked children, from which all that is
    /// mapped there is kept out.
    pub(super) fn bar(&self, at: *mut c_void, bytes: usize) {
        let mut list = LIST.lock();
        let record = self.record(&mut list);
        if let Some(piece) = record.pieces.first_mut() {
            *piece = Piece { at, bytes, offset: 0 };
            record.count = 1;
        }
    }

    /// Makes this process the owner of the file.
    pub(super) fn own(&self) -> Result<(), ArenaError> {
        let mut attempts = UNSEEN;
        loop {
            let key = {
                let mut list = LIST.lock();
                let record = self.record(&mut list);
                let (file, key, pid) = (record.file, record.key, record.pid);
                let lock = match list.lock_on(key, pid) {
                    Some(lock) => Some(lock),
                    None => first_lock(file)?.map(IntoRawFd::into_raw_fd),
                };
                if let Some(lock) = lock {
                    self.record(&mut list).lock = lock;
                    return Ok(());
                }
                key
            };
            match owner(key) {
                // It was let go by now; or its owner has ended, and a child that the owner was about
                // to start closes its copy of the lock in a moment, at `exec`.
                None if attempts > 0 => std::thread::sleep(Duration::from_millis(1)),
                pid => return Err(ArenaError::InUse { pid }),
            }
            attempts -= 1;
        }
    }

    /// Returns whether this process made the mappings, and can unmap them.
    pub(super) fn is_own(&self) -> bool {
        let mut list = LIST.lock();
        self.record(&mut list).pid == pid()
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let mut list = LIST.lock();
        let record = self.record(&mut list);
        let (next, lock, pid, lent) = (record.next, record.lock, record.pid, record.lent);
        let this = self.0.as_ptr();
        if list.0 == this {
            list.0 = next;
        } else if let Some(before) = list.records().find(|record| record.next == this) {
            before.next = next;
        }
        if lock != NONE && !list.records().any(|record| record.lock == lock) {
            // What is lent is another's to unlock.
            if lent.is_none() {
                unlock(lock, pid);
            }
            close(lock);
        }
        drop(list);
        // SAFETY: mapped in `new`, and out of the list, so nothing leads to it. It can fail only
        // where unmapping splits a mapping; then the page stays, and nothing else goes wrong.
        let _ = unsafe { rustix::mm::munmap(this.cast(), size_of::<Record>()) };
    }
}

/// Returns the process that owns a file, if it can be seen from here.
pub(super) fn owner_of(file: BorrowedFd<'_>) -> Result<Option<i32>, ArenaError> {
    Ok(owner(Key::of(file)?))
}

/// Returns the lock on the file of a record for a process that was not the owner, whose [turn] it is from then on; `None`
/// if another process has it.
fn first_lock(file: RawFd) -> Result<Option<OwnedFd>, ArenaError> {
    let Some(lock) = lock(file)? else { return Ok(None) };
    // SAFETY: open as long as the record is in the list, whose lock the caller holds.
    turn::count(unsafe { BorrowedFd::borrow_raw(file) })?;
    Ok(Some(lock))
}

/// Lets the file go that this process owns, for a process that is about to be started.
pub(crate) fn lend(file: BorrowedFd<'_>) -> Result<(), ArenaError> {
    let (key, pid) = (Key::of(file)?, pid());
    let mut list = LIST.lock();
    let Some(lock) = list.lock_on(key, pid) else { return Ok(()) };
    let turn = turn::read(file)?;
    for record in list.records().filter(|record| record.lock == lock) {
        record.lent = Some(turn);
    }
    // It stays open: to take it back must take nothing that the system may be out of by then.
    unlock(lock, pid);
    Ok(())
}

/// Takes back what was [lent](lend) to a process that was not started.
///
/// # Errors
/// [`ArenaError::InUse`]: another process has it; or had it meanwhile, so that what is in the memory may be another's: then
/// no process is named.
pub(crate) fn take_back(file: BorrowedFd<'_>) -> Result<(), ArenaError> {
    let (key, pid) = (Key::of(file)?, pid());
    let mut list = LIST.lock();
    let Some(lock) = list.lent(key, pid).map(|record| record.lock).next() else { return Ok(()) };
    // (Records of one that was lent before, and opened anew since, noted an earlier turn.)
    let is_own = |list: &mut Head| {
        turn::read(file).map(|turn| list.lent(key, pid).any(|r| r.lent == Some(turn)))
    };
    // Before it is locked: without a `/proc` the lock is one with that of each process that was passed the descriptor, and
    // to unlock it again would end the lock of the one whose turn it is.
    if !is_own(&mut list)? || !lock_again(lock)? {
        drop(list);
        return Err(ArenaError::InUse { pid: owner(key) });
    }
    let is_own = is_own(&mut list);
    if is_own != Ok(true) {
        unlock(lock, pid);
        return is_own.and(Err(ArenaError::InUse { pid: None }));
    }
    // One lock for all of them.
    loop {
        let other = list.lent(key, pid).map(|record| record.lock).find(|other| *other != lock);
        let Some(other) = other else { break };
        list.lent(key, pid).filter(|r| r.lock == other).for_each(|record| record.lock = lock);
        close(other);
    }
    list.lent(key, pid).for_each(|record| record.lent = None);
    Ok(())
}

/// Closes the descriptor of a lock, which no record has any more.
fn close(lock: RawFd) {
    // SAFETY: from `lock` in `own`, and in no record (callers), so nothing else owns it.
    drop(unsafe { OwnedFd::from_raw_fd(lock) });
}

/// Has the C library call the three functions below around each `fork`.
fn watch_forks() -> Result<(), ArenaError> {
    static WATCHED: AtomicBool = AtomicBool::new(false);
    // Nothing waits here for another thread, which may be missing in a forked child: two may register the functions, which then
    // are called twice (`forks::shut`). Relaxed: the flag saves a call, and nothing else rests on it.
    if WATCHED.load(Relaxed) {
        return Ok(());
    }
    // SAFETY: the functions live as long as the program, and do what may be done there: they
    // wait for locks under which there are system calls alone, and make such calls.
    let result =
        unsafe { libc::pthread_atfork(Some(before_fork), Some(parent_forked), Some(child_forked)) };
    if result != 0 {
        return Err(ArenaError::Os { call: "pthread_atfork", errno: result });
    }
    WATCHED.store(true, Relaxed);
    Ok(())
}

/// Sees to it that no record is half written, and no mapping without its advice, while the process
/// is copied, and that nothing is half done that a child would need whole.
extern "C" fn before_fork() {
    if forks::shut() {
        // SAFETY: unlocked by `parent_forked` or `child_forked`, on this thread or its copy.
        unsafe { LIST.raw() }.lock();
    }
}

extern "C" fn parent_forked() {
    if forks::is_last() {
        // SAFETY: locked by `before_fork`, on this thread.
        unsafe { LIST.raw().unlock() };
        // SAFETY: shut by `before_fork`, on this thread.
        unsafe { forks::open(false) };
    }
}

/// Runs in the child, of which the only thread is a copy of the one that locked the list.
extern "C" fn child_forked() {
    if !forks::is_last() {
        return;
    }
    // SAFETY: locked by `before_fork`, of whose thread this is the copy.
    let list = unsafe { &mut *LIST.data_ptr() };
    let pid = pid();
    for record in list.records() {
        for piece in record.pieces.iter().take(record.count) {
            let Piece { at, bytes, offset } = *piece;
            // Not in place of what an earlier handler may have mapped into the gap.
            let flags = MapFlags::FIXED_NOREPLACE;
            // SAFETY: without replacing anything, and where the parent's pieces are, whose pointers
            // the child has copies of. Failure leaves a gap, which faults too.
            let _ = unsafe {
                if record.file == NONE {
                    let flags = flags | MapFlags::PRIVATE | MapFlags::NORESERVE;
                    rustix::mm::mmap_anonymous(at, bytes, ProtFlags::empty(), flags)
                } else {
                    let file = BorrowedFd::borrow_raw(record.file);
                    rustix::mm::mmap(
                        at,
                        bytes,
                        ProtFlags::READ,
                        flags | MapFlags::SHARED,
                        file,
                        offset,
                    )
                }
            };
        }
        record.pid = pid;
    }
    // The parent's locks are not this process's to hold: it may live on when the parent is gone.
    loop {
        let lock = list.records().map(|record| record.lock).find(|lock| *lock != NONE);
        let Some(lock) = lock else { break };
        for record in list.records().filter(|record| record.lock == lock) {
            (record.lock, record.lent) = (NONE, None);
        }
        // The lock itself stays the parent's.
        close(lock);
    }
    // SAFETY: locked by `before_fork`, of whose thread this is the copy.
    unsafe { LIST.raw().unlock() };
    // SAFETY: shut by `before_fork`, of whose thread this is the copy.
    unsafe { forks::open(true) };
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    /// A file with a first page.
    fn memfd() -> OwnedFd {
        let file = rustix::fs::memfd_create("process", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&file, 4096).unwrap();
        file
    }

    #[test]
    fn what_is_lent_is_another_process_s_to_take_until_it_is_taken_back() {
        let file = memfd();
        let (one, two) =
            (Part::new(Some(file.as_fd())).unwrap(), Part::new(Some(file.as_fd())).unwrap());
        one.own().unwrap();
        two.own().unwrap();
        lend(file.as_fd()).unwrap();
        let taken = lock(file.as_raw_fd()).unwrap().expect("lent");
        assert_eq!(take_back(file.as_fd()), Err(ArenaError::InUse { pid: Some(pid()) }));
        drop(taken);
        take_back(file.as_fd()).unwrap();
        assert!(lock(file.as_raw_fd()).unwrap().is_none());
        drop(one);
        assert!(lock(file.as_raw_fd()).unwrap().is_none());
        drop(two);
        assert!(lock(file.as_raw_fd()).unwrap().is_some());
    }

    #[test]
    fn what_another_owner_had_meanwhile_is_not_taken_back() {
        let file = memfd();
        let part = || Part::new(Some(file.as_fd())).unwrap();
        let (one, before) = (part(), turn::read(file.as_fd()).unwrap());
        one.own().unwrap();
        assert_eq!(turn::read(file.as_fd()), Ok(before + 1));
        lend(file.as_fd()).unwrap();
        // Another owner, which has let it go by now.
        drop(first_lock(file.as_raw_fd()).unwrap().expect("lent"));
        assert_eq!(take_back(file.as_fd()), Err(ArenaError::InUse { pid: None }));
        assert!(lock(file.as_raw_fd()).unwrap().is_some());
        // Opened anew, while what was lent is still there, it can be lent and taken back again.
        let two = part();
        two.own().unwrap();
        lend(file.as_fd()).unwrap();
        take_back(file.as_fd()).unwrap();
        assert!(lock(file.as_raw_fd()).unwrap().is_none());
    }

    #[test]
    fn a_file_without_a_first_page_has_no_owner() {
        let file = rustix::fs::memfd_create("process", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let part = Part::new(Some(file.as_fd())).unwrap();
        assert!(matches!(part.own(), Err(ArenaError::BadMap(_))));
        assert!(lock(file.as_raw_fd()).unwrap().is_some());
    }
}
