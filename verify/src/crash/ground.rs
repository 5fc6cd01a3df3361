//! The memory that the kernels follow each other on: small, in two ranges far apart, and full of
//! what somebody else left in it.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::ptr::NonNull;

use heirloom::arena::{Arena, RangeSpec};
use heirloom::folio::DirectMap;
use heirloom::folio::sync::AtomicU64;
use heirloom::folio::threads::ThreadSlots;
use heirloom::folio::{Cpus, NodeId, PAGE_SIZE, Pfn, PhysAddr, Run};
use heirloom::kho::{Image, Left, RootView, SUBTREE, Subtree};
use heirloom::restore::{Entry, SealPolicy};
use heirloom::{Error, Heirloom};

use super::Failure;

#[path = "../../../restore/tests/common/layout.rs"]
mod layout;

pub(crate) type Kernel<'a> = Heirloom<&'a Arena>;

const PAGE: u64 = PAGE_SIZE as u64;

/// Frames of the two ranges, and where they begin. So far apart that each needs branches of its
/// own in the tracker's tree.
const RANGES: [(u64, u64); 2] = [(1 << 32, 640), (1 << 39, 128)];

/// CPUs: a slot for each thread of the old kernel, and one more.
const SLOTS: usize = 4;

/// A memory that processes share.
#[derive(Debug)]
pub(crate) struct Ground {
    arena: Arena,
    file: File,
    map: Vec<(Run, NodeId)>,
    scratch: Run,
}

impl Ground {
    pub(crate) fn new() -> io::Result<Self> {
        let range = |(node, (start, frames)): (u16, (u64, u64))| RangeSpec {
            start: PhysAddr::new(start),
            bytes: frames * PAGE,
            node: NodeId(node),
        };
        let ranges: Vec<_> = (0..).zip(RANGES).map(range).collect();
        Self::over(Arena::create("crash", &ranges).map_err(io::Error::other)?)
    }

    /// The same memory, mapped once more, wherever there is room. The process that waits for this
    /// one stays the owner.
    pub(crate) fn open(fd: OwnedFd) -> io::Result<Self> {
        Self::over(Arena::open_shared(fd).map_err(io::Error::other)?)
    }

    pub(crate) fn again(&self) -> io::Result<Self> {
        Self::open(self.arena.share().map_err(io::Error::other)?)
    }

    fn over(arena: Arena) -> io::Result<Self> {
        let arena = arena.with_slots(ThreadSlots::new(SLOTS));
        let map: Vec<_> = arena.ranges().iter().map(|range| (range.run(), range.node())).collect();
        let bytes = Heirloom::<&Arena>::scratch_bytes(&map, Cpus::count(&arena)) as u64;
        // In the middle of things, so that what lies on both sides of it is used.
        let first = Pfn::new(map[0].0.start().get() + 100);
        let scratch = Run::new(first, bytes / PAGE).ok_or_else(|| io::Error::other("scratch"))?;
        let file = File::from(arena.share().map_err(io::Error::other)?);
        Ok(Self { arena, file, map, scratch })
    }

    pub(crate) const fn arena(&self) -> &Arena {
        &self.arena
    }

    pub(crate) const fn scratch(&self) -> Run {
        self.scratch
    }

    pub(crate) fn descriptor(&self) -> i32 {
        self.file.as_raw_fd()
    }

    /// Frames that there are.
    pub(crate) fn frames(&self) -> u64 {
        self.map.iter().map(|(run, _)| run.frames()).sum()
    }

    /// Where this process sees the memory: the first address, and how many bytes from it to the
    /// last one, the hole between the ranges included.
    #[cfg(heirloom_step)]
    pub(crate) fn window(&self) -> (*const u8, usize) {
        let (first, last) = (self.map[0].0, self.map[self.map.len() - 1].0);
        let span = last.addr().get() + last.bytes() - first.addr().get();
        (self.arena.ptr(first.addr()).as_ptr(), span as usize)
    }

    /// The number of the frame that lies so many frames behind the first, the hole included.
    #[cfg(heirloom_step)]
    pub(crate) fn index_of(&self, frame: usize) -> usize {
        let [(first, _), (second, _)] = self.map[..] else { return usize::MAX };
        let hole = second.start().get() - first.start().get();
        match (frame as u64).checked_sub(hole) {
            None => frame,
            Some(more) => (first.frames() + more) as usize,
        }
    }

    /// What each frame is to a successor that finds memory as it is.
    #[cfg(heirloom_step)]
    pub(crate) fn frames_seen(&self, frames: &mut [super::step::Frame]) {
        use super::step::Frame;
        frames.fill(Frame::Unseen);
        let Ok(Some(entry)) = self.arena.entry() else { return };
        let bare = Left::bare(self);
        let Ok(root) = RootView::read(&bare, entry.root) else { return };
        let left = Left::new(self, root.map());
        let first = self.map[0].0.start().get();
        let mut put = |pfn: Pfn, frame| {
            let at = self.index_of((pfn.get() - first) as usize);
            if let Some(slot) = frames.get_mut(at) {
                *slot = frame;
            }
        };
        for block in left.tree().folios() {
            (0..block.order().frames()).for_each(|i| put(block.pfn().add(i), Frame::Kept));
        }
        left.tree().nodes().for_each(|node| put(node.addr.pfn(), Frame::Node));
    }

    /// Lays out the root page of the entry that is there anew, as another make lays one out: with
    /// heirloom's own name in it, or, like Linux's, without. No kernel runs.
    pub(crate) fn lay_out(&self, own: bool) -> Result<Entry, Failure> {
        let entry = self.arena.entry()?.ok_or("no entry")?;
        let bare = Left::bare(self);
        let root = RootView::read(&bare, entry.root)?;
        let mut names = Vec::new();
        for subtree in root.subtrees() {
            let Subtree { name, addr, size } = subtree?;
            if own || name.as_str() != SUBTREE {
                names.push((name.to_string(), addr.get(), size));
            }
        }
        let mut page = layout::lay_out(root.map().get(), &names);
        page.resize(PAGE_SIZE, 0);
        let start = self.arena.ptr(entry.root);
        // SAFETY: a page in memory, which nothing uses meanwhile.
        unsafe { start.copy_from_nonoverlapping(NonNull::from(&page[..]).cast(), PAGE_SIZE) };
        Ok(entry)
    }

    /// Whether what stands in a page is a root page but for its first word, which is none.
    pub(crate) fn is_ended_page(&self, at: PhysAddr) -> bool {
        /// Version 17 of the device tree's format, at byte 20, big-endian.
        const VERSION: u32 = 17;
        let word = |index| {
            // SAFETY: in a page in memory, aligned; no kernel runs.
            unsafe { self.arena.ptr(at).cast::<u32>().add(index).read() }
        };
        word(0) == 0 && u32::from_be(word(5)) == VERSION
    }

    pub(crate) fn boot(&self) -> Result<Kernel<'_>, Error> {
        // SAFETY: the arena covers its ranges; one kernel at a time runs on it, as every process
        // is waited for before the next begins.
        unsafe { Heirloom::boot(&self.arena, &self.map, &[self.scratch], "crash") }
    }

    pub(crate) fn revive(&self, entry: Entry) -> Result<Kernel<'_>, Error> {
        // SAFETY: as for `boot`; the predecessor's process has ended, or its kernel was dropped.
        unsafe { Heirloom::revive(&self.arena, &self.map, entry, "crash", SealPolicy::Checked) }
    }

    /// A copy of the whole file, while no kernel runs.
    pub(crate) fn save(&self) -> io::Result<Vec<u8>> {
        let bytes = self.file.metadata()?.len();
        let mut image = vec![0; usize::try_from(bytes).map_err(io::Error::other)?];
        self.file.read_exact_at(&mut image, 0)?;
        Ok(image)
    }

    /// Puts a copy back.
    pub(crate) fn load(&self, image: &[u8]) -> io::Result<()> {
        self.file.write_all_at(image, 0)
    }

    /// What a new arena of this kind contains, but for the memory: that is what others left in it.
    /// Random words, addresses of frames, and zeroes: whoever takes a page for a table of his own
    /// without clearing it finds entries in it.
    pub(crate) fn used(&self) -> io::Result<Vec<u8>> {
        let mut image = self.save()?;
        let mut dice = Dice(0x6761_7262_6167_6521);
        for word in image[PAGE_SIZE..].chunks_exact_mut(8) {
            let (start, frames) = RANGES[dice.below(2) as usize];
            let value = match dice.below(4) {
                0 => 0,
                1 => start + dice.below(frames) * PAGE,
                _ => dice.next(),
            };
            word.copy_from_slice(&value.to_le_bytes());
        }
        Ok(image)
    }
}

/// Numbers that look random and are the same in every run (`SplitMix64`).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) const fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

/// Memory as a reader of an image has it.
impl Image for Ground {
    fn words(&self, addr: PhysAddr, bytes: usize) -> Option<&[AtomicU64]> {
        let run = Run::covering(addr, bytes.checked_next_multiple_of(8)? as u64)?;
        if !self.is_memory(run) || !addr.get().is_multiple_of(8) {
            return None;
        }
        let first = self.arena.ptr(addr).cast::<AtomicU64>();
        // SAFETY: in memory, aligned; what is read is reached as atomics.
        Some(unsafe { std::slice::from_raw_parts(first.as_ptr(), bytes.div_ceil(8)) })
    }

    fn is_memory(&self, run: Run) -> bool {
        self.map.iter().any(|(range, _)| range.covers(run))
    }
}
