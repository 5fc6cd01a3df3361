//! The memory that the kernels follow each other on: small, in two ranges far apart, and full of
//! what others left in it.

use std::io;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;

use heirloom::arena::{Arena, RangeSpec};
use heirloom::folio::{DirectMap, NodeId};
#[cfg(heirloom_step)]
use heirloom::kho::Pfn;
use heirloom::kho::{Left, PAGE_SIZE, PhysAddr, RootView, SUBTREE, Subtree};
use heirloom::restore::Entry;
use heirloom_testkit::{PAGE, Rng, TestMachine};

use super::Failure;

#[path = "../../../restore/tests/common/layout.rs"]
mod layout;

/// Frames of the two ranges, and where they begin. So far apart that each needs branches of its
/// own in the tracker's tree.
const RANGES: [(u64, u64); 2] = [(1 << 32, 640), (1 << 39, 128)];

/// CPUs: a slot for each thread of the old kernel, and one more.
const SLOTS: usize = 4;

/// A memory that processes share.
pub(crate) fn create() -> io::Result<TestMachine> {
    let range = |(node, (start, frames)): (u16, (u64, u64))| RangeSpec {
        start: PhysAddr::new(start),
        bytes: frames * PAGE,
        node: NodeId(node),
    };
    let ranges: Vec<_> = (0..).zip(RANGES).map(range).collect();
    TestMachine::shared(Arena::create("crash", &ranges).map_err(io::Error::other)?, SLOTS)
}

/// The same memory, mapped once more, wherever there is room. The process that waits for this
/// one stays the owner.
pub(crate) fn open(fd: OwnedFd) -> io::Result<TestMachine> {
    TestMachine::shared(Arena::open_shared(fd).map_err(io::Error::other)?, SLOTS)
}

/// Where this process sees the memory: the first address, and how many bytes from it to the
/// last one, the hole between the ranges included.
#[cfg(heirloom_step)]
pub(crate) fn window(machine: &TestMachine) -> (*const u8, usize) {
    let all = machine.all();
    (machine.ptr(all.addr()).as_ptr(), all.bytes() as usize)
}

/// The number of the frame that lies so many frames behind the first, the hole included.
#[cfg(heirloom_step)]
pub(crate) fn index_of(machine: &TestMachine, frame: usize) -> usize {
    let [(first, _), (second, _)] = *machine.map(true) else { return usize::MAX };
    let hole = second.start().get() - first.start().get();
    match (frame as u64).checked_sub(hole) {
        None => frame,
        Some(more) => (first.frames() + more) as usize,
    }
}

/// What each frame is to a successor that finds memory as it is.
#[cfg(heirloom_step)]
pub(crate) fn frames_seen(machine: &TestMachine, frames: &mut [super::step::Frame]) {
    use super::step::Frame;
    frames.fill(Frame::Unseen);
    let Ok(Some(entry)) = machine.arena().entry() else { return };
    let bare = Left::bare(machine);
    let Ok(root) = RootView::read(&bare, entry.root) else { return };
    let left = Left::new(machine, root.map());
    let first = machine.all().start().get();
    let mut put = |pfn: Pfn, frame| {
        let at = index_of(machine, (pfn.get() - first) as usize);
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
pub(crate) fn lay_out(machine: &TestMachine, own: bool) -> Result<Entry, Failure> {
    let entry = machine.arena().entry()?.ok_or("no entry")?;
    let bare = Left::bare(machine);
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
    let start = machine.ptr(entry.root);
    // SAFETY: a page in memory, which nothing uses meanwhile.
    unsafe { start.copy_from_nonoverlapping(NonNull::from(&page[..]).cast(), PAGE_SIZE) };
    Ok(entry)
}

/// Whether what stands in a page is a root page but for its first word, which is none.
pub(crate) fn is_ended_page(machine: &TestMachine, at: PhysAddr) -> bool {
    /// Version 17 of the device tree's format, at byte 20, big-endian.
    const VERSION: u32 = 17;
    let word = |index| {
        // SAFETY: in a page in memory, aligned; no kernel runs.
        unsafe { machine.ptr(at).cast::<u32>().add(index).read() }
    };
    word(0) == 0 && u32::from_be(word(5)) == VERSION
}

/// What a new arena of this kind contains, but for the memory: that is what others left in it.
/// Random words, addresses of frames, and zeroes: whoever takes a page for a table of his own
/// without clearing it finds entries in it.
pub(crate) fn used(machine: &TestMachine) -> Vec<u8> {
    let mut image = machine.save();
    let mut rng = Rng::new(0x6761_7262_6167_6521);
    for word in image[PAGE_SIZE..].chunks_exact_mut(8) {
        let (start, frames) = RANGES[rng.index(2)];
        let value = match rng.below(4) {
            0 => 0,
            1 => start + rng.below(frames) * PAGE,
            _ => rng.next(),
        };
        word.copy_from_slice(&value.to_le_bytes());
    }
    image
}
