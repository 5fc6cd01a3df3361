//! heirloom with nothing underneath: no std, no alloc, no libc, one static array as memory.
//!
//! A first "kernel" boots in the array, keeps a folio and a small buffer, and is gone. A second one
//! revives from the same array, claims both and checks their bytes. The exit status says which
//! step failed, if one did; 0 is none.

#![no_std]
#![no_main]

mod bare;

use core::cell::UnsafeCell;
use core::ptr::NonNull;

use heirloom::folio::{Linear, NodeId, OneCpu, Request};
use heirloom::kho::{Handle, Order, PAGE_SIZE, Pfn, PhysAddr, Run};
use heirloom::restore::{Entry, SealPolicy};
use heirloom::{Heirloom, MemoryMap};

/// Where the array pretends to be: above 4 GiB, at an address that has nothing to do with its own.
const START: PhysAddr = PhysAddr::new(5 << 30);
const FRAMES: u64 = 256;

#[repr(C, align(65536))]
struct Ram(UnsafeCell<[u8; FRAMES as usize * PAGE_SIZE]>);

// SAFETY: one thread, and heirloom is the array's only user.
unsafe impl Sync for Ram {}

static RAM: Ram = Ram(UnsafeCell::new([0; FRAMES as usize * PAGE_SIZE]));

/// The machine: one CPU, the array as its memory.
fn machine() -> OneCpu {
    let base = NonNull::new(RAM.0.get()).unwrap_or(NonNull::dangling()).cast();
    // SAFETY: the array lives as long as the program and is reached through this map alone: the
    // first kernel is gone before the second starts.
    OneCpu::new(unsafe { Linear::new(base, START, FRAMES as usize * PAGE_SIZE) })
}

/// What memory there is.
fn map() -> [(Run, NodeId); 1] {
    [(Run::new(START.pfn(), FRAMES).unwrap_or(EMPTY), NodeId(0))]
}

const EMPTY: Run = match Run::new(Pfn::new(0), 0) {
    Some(run) => run,
    None => panic!("no frames are a run"),
};

/// The old kernel: allocates, preserves, publishes, and returns what it tells its successor.
fn old_kernel(map: MemoryMap<'_>) -> Result<Entry, heirloom::Error> {
    let scratch = Heirloom::<OneCpu>::scratch_bytes(map, 1).div_ceil(PAGE_SIZE) as u64;
    let scratch = Run::new(START.pfn(), scratch).unwrap_or(EMPTY);
    // SAFETY: the array is all of the map, and nothing else uses it.
    let heirloom = unsafe { Heirloom::boot(machine(), map, &[scratch], "freestanding") }?;

    let mut folio =
        heirloom.memory().alloc_folio(Request::new(Order::for_frames(8).unwrap_or_default()))?;
    folio.bytes_mut().fill(0x5a);
    let folio = folio.preserve().map_err(|refused| refused.error)?;

    let text = b"small, and it survives";
    let buffer = heirloom.alloc(text.len())?;
    // SAFETY: the buffer is ours and at least that long.
    unsafe { buffer.copy_from_nonoverlapping(NonNull::from(text).cast(), text.len()) };

    // SAFETY: the buffer is ours, and nothing frees it.
    let handles = [heirloom.folio_handle(&folio)?, unsafe { heirloom.preserve(buffer) }?];
    let mut root = [0; 32];
    for (bytes, handle) in root.chunks_exact_mut(16).zip(handles) {
        bytes.copy_from_slice(&<[u8; 16]>::from(handle));
    }
    heirloom.publish("freestanding", &root)?;
    Ok(heirloom.entry())
}

/// The new kernel: revives, claims, checks, frees, and returns how many frames are in use.
fn new_kernel(map: MemoryMap<'_>, entry: Entry) -> Result<bool, heirloom::Error> {
    // SAFETY: as in `old_kernel`, which has ended.
    let heirloom =
        unsafe { Heirloom::revive(machine(), map, entry, "freestanding", SealPolicy::Checked) }?;
    let root = heirloom.claim_root("freestanding")?;
    let mut handles = root.bytes().chunks_exact(16).map(|bytes| {
        let mut handle = [0; 16];
        handle.copy_from_slice(bytes);
        Handle::from(handle)
    });
    let (Some(folio), Some(buffer)) = (handles.next(), handles.next()) else { return Ok(false) };

    let folio = heirloom.claim_folio(folio)?;
    let whole = folio.bytes().len() == 8 * PAGE_SIZE && folio.bytes().iter().all(|b| *b == 0x5a);

    let buffer = heirloom.restore(buffer)?;
    // SAFETY: the old kernel stored that many bytes there, and the buffer is ours now.
    let text = unsafe { core::slice::from_raw_parts(buffer.as_ptr(), 22) };
    let same = text == b"small, and it survives";
    // SAFETY: claimed above; not used below.
    unsafe { heirloom.free(buffer) }?;

    drop((root, folio));
    let unclaimed = heirloom.finish(|_| heirloom::folio::Disposition::Free)?;
    Ok(whole && same && unclaimed == Default::default())
}

fn main() -> i32 {
    let map = map();
    let entry = match old_kernel(&map) {
        Ok(entry) => entry,
        Err(error) => return bare::fail(1, &error),
    };
    match new_kernel(&map, entry) {
        Ok(true) => {
            bare::print(format_args!("freestanding: a folio and a buffer survived\n"));
            0
        }
        Ok(false) => 3,
        Err(error) => bare::fail(2, &error),
    }
}
