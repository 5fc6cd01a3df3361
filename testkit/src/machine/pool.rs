//! Memory at the same addresses in each run.

use std::ptr::NonNull;
use std::sync::atomic::AtomicUsize;

use heirloom::folio::{Linear, NodeId};
use heirloom::kho::PAGE_SIZE;

use super::{BESIDE, Backing, Few, Processors, TestMachine, run, scratch_frames};

use std::alloc::{Layout, alloc_zeroed, handle_alloc_error};
use std::cell::Cell;

/// Frames of the largest machine.
const FRAMES: usize = 256;
const BYTES: usize = (FRAMES + BESIDE) * PAGE_SIZE;

std::thread_local! {
    /// Every machine of a thread lies here, so that the next run finds all at the same addresses.
    static POOL: Cell<Option<NonNull<u8>>> = const { Cell::new(None) };
}

fn pool() -> NonNull<u8> {
    // And a page for the machine itself.
    let layout = Layout::from_size_align(BYTES + PAGE_SIZE, PAGE_SIZE).expect("a layout");
    POOL.get().unwrap_or_else(|| {
        // SAFETY: not empty. Never given back: what is known of it outlives any run.
        let base = NonNull::new(unsafe { alloc_zeroed(layout) });
        let base = base.unwrap_or_else(|| handle_alloc_error(layout));
        POOL.set(Some(base));
        base
    })
}

/// Whether an address is in the thread's pool.
pub fn in_pool(at: *const ()) -> bool {
    let within = |base: NonNull<u8>| at.addr().wrapping_sub(base.addr().get());
    POOL.get().is_some_and(|base| within(base) < BYTES + PAGE_SIZE)
}

impl TestMachine {
    /// `frames` zeroed frames from frame 64 on, the last of them scratch for whole kernels. With
    /// `idles`, a CPU that no thread is on lets others work on its state. One machine at a time on a
    /// thread: it lies where the one before lay.
    ///
    /// # Panics
    /// If there are too many.
    pub fn pooled(frames: u64, cpus: usize, idles: bool) -> &'static Self {
        assert!(frames as usize <= FRAMES, "a small machine");
        let base = pool();
        let all = run(64, frames);
        // SAFETY: all of the pool but its last page, which no other machine uses now.
        unsafe { base.write_bytes(0, BYTES) };
        // SAFETY: within the pool.
        let beside = unsafe { base.add(FRAMES * PAGE_SIZE) };
        // SAFETY: the pool stays, and is reached through this map alone.
        let map = unsafe { Linear::new(base, all.addr(), all.bytes() as usize) };
        let ranges = [(all, NodeId(0))];
        let scratch = scratch_frames(&ranges, cpus);
        let scratch = run(all.end().get().saturating_sub(scratch), scratch);
        let memory = Backing::Pool(map, beside, AtomicUsize::new(0));
        let few = Processors::Few(Few::new(cpus as u32, 1, idles));
        let machine = Self::over(memory, few, &ranges, scratch);
        const { assert!(size_of::<Self>() <= PAGE_SIZE && align_of::<Self>() <= PAGE_SIZE) };
        // SAFETY: the pool's last page, which stays.
        unsafe {
            let place = base.add(BYTES).cast::<Self>();
            place.write(machine);
            place.as_ref()
        }
    }
}
