//! What the old kernel relies on, written down where its end cannot reach: a second shared memory.
//!
//! Each thread of the old kernel has a log of lines and writes them around its calls:
//!
//! ```text
//! Open  op, slack          a call is about to be made
//! May   thing, as what     from here on it may survive like this (or not at all)
//!   …the call…
//! Is    thing, as what     from here on it survives like this, or not at all: the call returned
//! Close
//! ```
//!
//! A line counts from the store of the log's length on, which comes last. So the reader, in
//! another process, knows at any instant what was promised, what may or may not have happened,
//! and which call was under way.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use heirloom::kho::PhysAddr;
use heirloom::restore::Entry;
use heirloom_testkit::TestObject;

use super::trial;

/// Logs, one for each thread of the old kernel.
pub(crate) const LOGS: usize = 3;

/// Lines of a log.
const LINES: usize = 1 << 15;
const WORDS: usize = 8;
/// Words before the lines: the length, in a cache line of its own.
const HEAD: usize = 8;
const LOG_WORDS: usize = HEAD + LINES * WORDS;
const BYTES: usize = LOGS * LOG_WORDS * 8;

heirloom_testkit::listed! {
    /// A call of the library's, as the journal names it.
    #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
    #[repr(u8)]
    pub(crate) enum Call {
        Boot, Revive, AllocFolio, AllocRun, AllocBuffer, AllocBorn, AllocObject, Insert,
        Realloc, Preserve, Unpreserve, PreserveAll, UnpreserveAll, PreserveRange,
        Free, Area, AreaGone, Records, Push, RecordsGone, Publish, Unpublish, Subtree,
        SubtreeGone, Seal, Unseal, Shrink, Claim, Adopt, Upgrade, Finish,
    }
}

/// What a call that did not return may leave preserved beside the things it named: pages of
/// tables that nothing leads to yet, or a block or an object that was handed to nobody.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Slack {
    pub(crate) blocks: u64,
    pub(crate) frames: u64,
    pub(crate) objects: u64,
}

impl Slack {
    pub(crate) fn add(&mut self, more: Self) {
        self.blocks += more.blocks;
        self.frames += more.frames;
        self.objects += more.objects;
    }
}

/// One line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Line {
    /// With the number of stores that were counted by then.
    Open(Call, Slack, u64),
    Close,
    May(u32, Option<TestObject>),
    Is(u32, Option<TestObject>),
    /// A kernel is about to leave the entry with this root.
    Leaving(u64),
    /// A kernel has taken over, when the other logs were so long. What was promised before is promised
    /// still.
    Began([u64; LOGS - 1]),
    /// What nobody claimed was given back: no call before this one has left anything of nobody's.
    Swept,
    /// The kernel was ended, before the store of this number, if stores were counted, when the other logs
    /// were so long. The process that waited for it says so.
    Died(u64, [u64; LOGS - 1]),
    /// The root page there was laid out anew, as another make lays one out; whether it names heirloom's
    /// header still.
    Relaid(u64, bool),
    /// A kernel starts with the entry of this root page.
    From(u64),
    /// A kernel that goes on beside a root page of another make has an entry of its own.
    Moved(Entry),
    /// What part of the call that is under way comes now.
    Part(Part),
    /// A figure for the process that waits.
    Told(u64),
    /// What the call that is under way is about. Nothing is promised by that.
    About(u32, TestObject),
    /// Several threads begin to take over at once, or are done with it.
    Together(bool),
}

heirloom_testkit::listed! {
    /// What `finish` asks about.
    #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
    #[repr(u8)]
    pub(crate) enum Part {
        Name, Block, Slab, Object,
    }
}

impl Line {
    fn encode(self) -> [u64; WORDS] {
        let thing = |tag: u64, id: u32, thing: Option<TestObject>| {
            let Some(thing) = thing else { return [tag, u64::from(id), 0, 0, 0, 0, 0, 0] };
            let [kind, a, b, bytes, stamped, seed] = thing.words();
            [tag, u64::from(id), 1 + kind, a, b, bytes, stamped, seed]
        };
        match self {
            Self::Open(call, s, at) => [1, call as u64, s.blocks, s.frames, s.objects, at, 0, 0],
            Self::Close => [2, 0, 0, 0, 0, 0, 0, 0],
            Self::May(id, what) => thing(3, id, what),
            Self::Is(id, what) => thing(4, id, what),
            Self::Leaving(root) => [5, root, 0, 0, 0, 0, 0, 0],
            Self::Began([a, b]) => [6, 0, 0, a, b, 0, 0, 0],
            Self::Swept => [7, 0, 0, 0, 0, 0, 0, 0],
            Self::Died(stop, [a, b]) => [8, stop, 0, a, b, 0, 0, 0],
            Self::Relaid(root, own) => [9, root, own.into(), 0, 0, 0, 0, 0],
            Self::From(root) => [10, root, 0, 0, 0, 0, 0, 0],
            Self::Moved(Entry { root, scratch, scratch_bytes }) => {
                [11, root.get(), 0, scratch.get(), scratch_bytes, 0, 0, 0]
            }
            Self::Part(part) => [12, part as u64, 0, 0, 0, 0, 0, 0],
            Self::Told(figure) => [13, figure, 0, 0, 0, 0, 0, 0],
            Self::About(id, what) => thing(14, id, Some(what)),
            Self::Together(on) => [15, on.into(), 0, 0, 0, 0, 0, 0],
        }
    }

    fn decode(words: [u64; WORDS]) -> Option<Self> {
        let [tag, id, sort, a, b, bytes, stamped, seed] = words;
        let id32 = u32::try_from(id).ok();
        let thing = || {
            if sort == 0 {
                return Some(None);
            }
            TestObject::from_words([sort - 1, a, b, bytes, stamped, seed]).map(Some)
        };
        Some(match tag {
            1 => {
                let call = *Call::ALL.get(usize::try_from(id).ok()?)?;
                Self::Open(call, Slack { blocks: sort, frames: a, objects: b }, bytes)
            }
            2 => Self::Close,
            3 => Self::May(id32?, thing()?),
            4 => Self::Is(id32?, thing()?),
            5 => Self::Leaving(id),
            6 => Self::Began([a, b]),
            7 => Self::Swept,
            8 => Self::Died(id, [a, b]),
            9 => Self::Relaid(id, sort == 1),
            10 => Self::From(id),
            11 => {
                let [root, scratch] = [id, a].map(PhysAddr::new);
                Self::Moved(Entry { root, scratch, scratch_bytes: b })
            }
            12 => Self::Part(*Part::ALL.get(usize::try_from(id).ok()?)?),
            13 => Self::Told(id),
            14 => Self::About(id32?, thing()??),
            15 => Self::Together(id == 1),
            _ => return None,
        })
    }
}

/// The logs, in memory that processes share.
#[derive(Debug)]
pub(crate) struct Journal {
    words: NonNull<AtomicU64>,
    fd: OwnedFd,
}

// SAFETY: atomics, mapped until the value is dropped.
unsafe impl Sync for Journal {}

impl Journal {
    /// Empty logs.
    pub(crate) fn new() -> io::Result<Self> {
        let flags = rustix::fs::MemfdFlags::CLOEXEC;
        let fd = rustix::fs::memfd_create("journal", flags)?;
        rustix::fs::ftruncate(&fd, BYTES as u64)?;
        Self::open(fd)
    }

    /// The logs that another process writes, or wrote.
    pub(crate) fn open(fd: OwnedFd) -> io::Result<Self> {
        if File::from(fd.try_clone()?).metadata()?.len() != BYTES as u64 {
            return Err(io::Error::other("not a journal"));
        }
        let access = rustix::mm::ProtFlags::READ | rustix::mm::ProtFlags::WRITE;
        let flags = rustix::mm::MapFlags::SHARED;
        // SAFETY: the kernel chooses the place.
        let at = unsafe { rustix::mm::mmap(std::ptr::null_mut(), BYTES, access, flags, &fd, 0) }?;
        let words = NonNull::new(at.cast()).ok_or_else(|| io::Error::other("mapped at zero"))?;
        Ok(Self { words, fd })
    }

    /// Forgets all lines. Nobody writes meanwhile.
    pub(crate) fn clear(&self) {
        (0..LOGS).for_each(|log| self.words(log)[0].store(0, Release));
    }

    /// The log that one thread writes.
    pub(crate) fn log(&self, log: usize) -> Log<'_> {
        Log { words: self.words(log) }
    }

    /// To be given to [`Journal::open`] in another process.
    pub(crate) fn descriptor(&self) -> i32 {
        self.fd.as_raw_fd()
    }

    /// Writes down that the kernel was ended, before a store or at any moment.
    pub(crate) fn died(&self, stop: Option<u64>) {
        self.log(0).write(Line::Died(stop.unwrap_or(u64::MAX), self.others()));
    }

    /// Writes down that a kernel has taken over.
    pub(crate) fn began(&self) {
        self.log(0).write(Line::Began(self.others()));
    }

    /// How many lines the logs behind the first have, while nobody writes to those.
    fn others(&self) -> [u64; LOGS - 1] {
        // Acquire as in `lines`.
        std::array::from_fn(|log| self.words(log + 1)[0].load(Acquire))
    }

    /// How many kernels there were that had their entry left, or had taken over.
    pub(crate) fn kernels(&self) -> u64 {
        let lines = self.lines(0).into_iter();
        lines.filter(|line| matches!(line, Line::Leaving(_) | Line::Began(_))).count() as u64
    }

    /// A copy of all lines, while nobody writes.
    pub(crate) fn save(&self) -> [Vec<Line>; LOGS] {
        std::array::from_fn(|log| self.lines(log))
    }

    /// Puts a copy back, while nobody writes.
    pub(crate) fn load(&self, saved: &[Vec<Line>; LOGS]) {
        self.clear();
        for (log, lines) in saved.iter().enumerate() {
            for line in lines {
                self.log(log).write(*line);
            }
        }
    }

    /// Leaves a figure for the parent process.
    pub(crate) fn note(&self, figure: u64) {
        self.words(0)[1].store(figure, Release);
    }

    /// The figure that was left last.
    pub(crate) fn noted(&self) -> u64 {
        // Acquire pairs with the Release in `note`; the writer has ended anyway.
        self.words(0)[1].load(Acquire)
    }

    /// How many lines there are in all logs: how far the old kernel has come.
    pub(crate) fn progress(&self) -> u64 {
        (0..LOGS).map(|log| self.words(log)[0].load(Relaxed)).sum()
    }

    fn words(&self, log: usize) -> &[AtomicU64] {
        assert!(log < LOGS);
        // SAFETY: in the mapping, which is aligned to a page and lives as long as `self`; shared
        // words are reached as atomics alone.
        unsafe { std::slice::from_raw_parts(self.words.add(log * LOG_WORDS).as_ptr(), LOG_WORDS) }
    }

    /// All lines of one log.
    pub(crate) fn lines(&self, log: usize) -> Vec<Line> {
        let words = self.words(log);
        // Acquire pairs with the Release in `Log::write`: the lines that are counted are written.
        let length = (words[0].load(Acquire) as usize).min(LINES);
        words[HEAD..HEAD + length * WORDS].chunks_exact(WORDS).map(line).collect()
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        // SAFETY: exactly what `open` mapped; borrows of it ended.
        let _ = unsafe { rustix::mm::munmap(self.words.as_ptr().cast(), BYTES) };
    }
}

/// A line as it is written.
fn line(at: &[AtomicU64]) -> Line {
    let line = Line::decode(std::array::from_fn(|i| at[i].load(Relaxed)));
    line.expect("only `Log::write` writes lines")
}

/// One thread's log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Log<'j> {
    words: &'j [AtomicU64],
}

impl Log<'_> {
    /// Adds a line.
    pub(crate) fn write(self, line: Line) {
        let at = self.words[0].load(Relaxed) as usize;
        if at >= LINES {
            // Nothing may be promised that is not written down.
            trial::end();
        }
        for (word, value) in self.words[HEAD + at * WORDS..].iter().zip(line.encode()) {
            word.store(value, Relaxed);
        }
        // Release pairs with the Acquire in `Journal::lines`.
        self.words[0].store(at as u64 + 1, Release);
    }
}
