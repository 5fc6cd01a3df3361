//! A machine made of heap memory, for tests, benches and examples: "physical memory" at any
//! address, in ranges with holes, that ends with the value.

use core::ptr::NonNull;
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::boxed::Box;
use std::sync::Mutex;
use std::vec::Vec;

use heirloom_kho::{PAGE_SIZE, PhysAddr, Run};

use crate::error::Error;
use crate::machine::{CpuId, Cpus, DirectMap, Linear, Machine, NodeId};
use crate::memory::Memory;
use crate::threads::ThreadSlots;

/// Heap memory as physical memory, with a slot per thread as its CPUs.
///
/// # Examples
/// ```
/// use heirloom_folio::harness::Ram;
/// use heirloom_folio::Request;
/// use heirloom_kho::{Order, PAGE_SIZE};
///
/// let memory = Ram::memory(&Ram::frames(256))?;
/// let folio = memory.alloc_folio(Request::new(Order::new(4).unwrap()))?;
/// assert_eq!(folio.bytes().len(), 16 * PAGE_SIZE);
/// # Ok::<(), heirloom_folio::Error>(())
/// ```
#[derive(Debug)]
pub struct Ram {
    map: Linear,
    base: NonNull<u8>,
    layout: Layout,
    /// The frames that the map has: all that a memory may be made of.
    span: Run,
    cpus: ThreadSlots,
    spaces: Mutex<Vec<Space>>,
}

/// Memory from the heap that was handed out.
#[derive(Debug)]
struct Space(NonNull<[u128]>);

// SAFETY: the memory is this value's until it is dropped; no thread reaches it through the value.
unsafe impl Send for Space {}

impl Drop for Space {
    fn drop(&mut self) {
        // SAFETY: leaked from a box in `Ram::space`, once; what used it is gone with the machine.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

// SAFETY: the base pointer is to memory that this value owns.
unsafe impl Send for Ram {}
// SAFETY: as for `Send`; the spaces are behind a lock.
unsafe impl Sync for Ram {}

impl Ram {
    /// `frames` frames from 4 GiB on.
    ///
    /// # Panics
    /// If there are none, or far too many.
    pub fn frames(frames: u64) -> [(Run, NodeId); 1] {
        let start = PhysAddr::new(4 << 30).pfn();
        [(Run::new(start, frames).expect("frames above 4 GiB"), NodeId(0))]
    }

    /// Makes a memory over fresh zeroed ranges; what lies between them is backed but never used.
    ///
    /// # Errors
    /// As for [`Memory::add_range`].
    ///
    /// # Panics
    /// Without ranges, or if the heap is exhausted.
    pub fn memory(ranges: &[(Run, NodeId)]) -> Result<Memory<Self>, Error> {
        Self::over(ranges).attach(ranges)
    }

    /// Makes the machine alone, its memory zeroed.
    ///
    /// # Panics
    /// As for [`Ram::memory`].
    pub fn over(ranges: &[(Run, NodeId)]) -> Self {
        let start = ranges.iter().map(|(run, _)| run.start()).min().expect("a range");
        let end = ranges.iter().map(|(run, _)| run.end()).max().expect("a range");
        let span = Run::between(start, end).expect("start before end");
        let bytes = usize::try_from(span.bytes()).expect("fits the address space");
        // A page more and aligned by hand: asked for a page's alignment, the heap would touch
        // every byte to zero it.
        let padded = bytes.checked_add(PAGE_SIZE).expect("fits the address space");
        let layout = Layout::array::<u128>(padded / size_of::<u128>());
        let layout = layout.expect("fits the address space");
        // SAFETY: ranges are not empty, so neither is the layout.
        let base = NonNull::new(unsafe { alloc_zeroed(layout) });
        let base = base.unwrap_or_else(|| handle_alloc_error(layout));
        // SAFETY: the layout has a page more than the bytes, so the aligned start and `bytes`
        // from there are within it.
        let aligned = unsafe { base.add(base.align_offset(PAGE_SIZE)) };
        // SAFETY: allocated above for as long as the value lives, reached through this map only.
        let map = unsafe { Linear::new(aligned, start.addr(), bytes) };
        Self { map, base, layout, span, cpus: ThreadSlots::default(), spaces: Mutex::default() }
    }

    /// Makes a memory over this machine's ranges as they are: what a successor does after a jump.
    ///
    /// # Errors
    /// As for [`Memory::add_range`]; [`Error::BadRange`] also for one that reaches beyond those
    /// that the machine was made for.
    pub fn attach(self, ranges: &[(Run, NodeId)]) -> Result<Memory<Self>, Error> {
        let cpu_space = self.space(Memory::<Self>::cpu_bytes(self.cpus.count()));
        // SAFETY: the machine owns the space, and the memory owns the machine.
        let memory = unsafe { Memory::new(self, cpu_space) }?;
        for &(run, node) in ranges {
            if !memory.machine().span.covers(run) {
                return Err(Error::BadRange { run });
            }
            let space = memory.machine().space(Memory::<Self>::range_bytes(run));
            // SAFETY: as above; the map covers the span, which nothing else uses, and so the range.
            unsafe { memory.add_range(run, node, space) }?;
        }
        Ok(memory)
    }

    /// Returns memory outside the ranges, for metadata; it lives as long as the machine.
    ///
    /// # Panics
    /// If another thread panicked in here.
    pub fn space(&self, bytes: usize) -> NonNull<[u8]> {
        // Kept as a pointer: a box that moves would claim the memory for itself once more.
        let space = std::vec![0_u128; bytes.div_ceil(size_of::<u128>())].into_boxed_slice();
        let space = NonNull::from(Box::leak(space));
        self.spaces.lock().expect("no panic inside").push(Space(space));
        NonNull::slice_from_raw_parts(space.cast(), bytes)
    }
}

impl Drop for Ram {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout in `over`, and freed once.
        unsafe { dealloc(self.base.as_ptr(), self.layout) };
    }
}

// SAFETY: delegates to `Linear` over memory that the value owns.
unsafe impl DirectMap for Ram {
    #[inline]
    fn ptr(&self, addr: PhysAddr) -> NonNull<u8> {
        self.map.ptr(addr)
    }

    #[inline]
    fn phys(&self, ptr: NonNull<u8>) -> Option<PhysAddr> {
        self.map.phys(ptr)
    }
}

// SAFETY: delegates to `ThreadSlots`.
unsafe impl Cpus for Ram {
    fn count(&self) -> usize {
        self.cpus.count()
    }

    #[inline]
    fn with_cpu<R>(&self, f: impl FnOnce(Option<CpuId>) -> R) -> R {
        self.cpus.with_cpu(f)
    }

    #[inline]
    fn try_with_cpu<R>(&self, f: impl FnOnce(Option<CpuId>) -> R) -> R {
        self.cpus.try_with_cpu(f)
    }

    fn with_offline_cpu(&self, cpu: CpuId, f: impl FnOnce()) -> bool {
        self.cpus.with_offline_cpu(cpu, f)
    }
}

impl Machine for Ram {
    type Lock = spin::Mutex<()>;
    type Mutex = spin::Mutex<()>;
}
