//! A machine whose memory is as a file has it: what is only read is not copied, and what is written goes with the machine.

use core::ffi::c_void;
use core::ptr::NonNull;
use std::fs::File;
use std::os::unix::fs::FileExt;

use heirloom::kho::{PhysAddr, Run};
use heirloom_folio::threads::ThreadSlots;
use heirloom_folio::{CpuId, Cpus, DirectMap, Error, Linear, Machine, Memory, NodeId};
use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

use crate::world::PAGE;

/// The machine.
#[derive(Debug)]
pub(super) struct Copied {
    map: Linear,
    run: Run,
    /// What is mapped: the memory, and a page before and behind it that nothing can touch.
    mapped: NonNull<c_void>,
    cpus: ThreadSlots,
    /// For what a memory over it knows of its CPUs and of its range.
    spaces: [Space; 2],
}

/// Memory from the heap, zeroed, that stays where it is while the value is moved about.
#[derive(Debug)]
struct Space(NonNull<[u128]>);

impl Space {
    fn of(bytes: usize) -> Self {
        let words = vec![0_u128; bytes.div_ceil(size_of::<u128>())];
        Self(NonNull::from(Box::leak(words.into_boxed_slice())))
    }

    fn bytes(&self) -> NonNull<[u8]> {
        NonNull::slice_from_raw_parts(self.0.cast(), self.0.len() * size_of::<u128>())
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        // SAFETY: leaked from a box in `of`, once; what used it is gone with the machine.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

// SAFETY: the mapping is this value's, until it is dropped.
unsafe impl Send for Copied {}
// SAFETY: as for `Send`; the value itself is immutable.
unsafe impl Sync for Copied {}

/// Returns a file with these bytes, in which pages of zeroes take no memory.
pub(super) fn file(bytes: &[u8]) -> File {
    let fd = rustix::fs::memfd_create("copied", rustix::fs::MemfdFlags::empty());
    let file = File::from(fd.expect("a memfd"));
    file.set_len(bytes.len() as u64).expect("a memfd");
    for (at, page) in (0..).step_by(PAGE as usize).zip(bytes.chunks(PAGE as usize)) {
        if page.iter().any(|byte| *byte != 0) {
            file.write_all_at(page, at).expect("a memfd");
        }
    }
    file
}

impl Copied {
    /// Makes a machine of the frames of `run`, with what the file has.
    pub(super) fn of(file: &File, run: Run) -> Self {
        let (page, bytes) = (PAGE as usize, run.bytes() as usize);
        let (none, all) = (ProtFlags::empty(), ProtFlags::READ | ProtFlags::WRITE);
        let null = core::ptr::null_mut();
        // SAFETY: the kernel chooses the place, so no existing mapping is touched.
        let mapped = unsafe { mmap_anonymous(null, bytes + 2 * page, none, MapFlags::PRIVATE) };
        let mapped = mapped.expect("address space");
        // SAFETY: within what was just mapped, whose first page is before it.
        let base = unsafe { mapped.add(page) };
        let flags = MapFlags::PRIVATE | MapFlags::FIXED;
        // SAFETY: it replaces a part of what was just mapped, all but its first and last page.
        let base = unsafe { mmap(base, bytes, all, flags, file, 0) }.expect("address space");
        let base = NonNull::new(base.cast()).expect("not the first page");
        // SAFETY: mapped for as long as the value lives, as its own copy, and reached through this map only.
        let map = unsafe { Linear::new(base, run.addr(), bytes) };
        let mapped = NonNull::new(mapped).expect("not the first page");
        let cpus = ThreadSlots::default();
        let spaces = [Memory::<Self>::cpu_bytes(cpus.count()), Memory::<Self>::range_bytes(run)];
        Self { map, run, mapped, cpus, spaces: spaces.map(Space::of) }
    }

    /// Makes a memory over it as it is: what a successor does after a jump.
    pub(super) fn attach(self) -> Result<Memory<Self>, Error> {
        let (run, [cpus, range]) = (self.run, self.spaces.each_ref().map(Space::bytes));
        // SAFETY: the machine owns the space, and the memory owns the machine.
        let memory = unsafe { Memory::new(self, cpus) }?;
        // SAFETY: as above; the map covers the run, which nothing else uses.
        unsafe { memory.add_range(run, NodeId(0), range) }?;
        Ok(memory)
    }
}

impl Drop for Copied {
    fn drop(&mut self) {
        let bytes = self.run.bytes() as usize + 2 * PAGE as usize;
        // SAFETY: exactly what `of` mapped, and what was read from it borrowed the value.
        unsafe { munmap(self.mapped.as_ptr(), bytes) }.expect("a whole mapping");
    }
}

// SAFETY: delegates to `Linear` over a mapping that the value owns.
unsafe impl DirectMap for Copied {
    fn ptr(&self, addr: PhysAddr) -> NonNull<u8> {
        self.map.ptr(addr)
    }

    fn phys(&self, ptr: NonNull<u8>) -> Option<PhysAddr> {
        self.map.phys(ptr)
    }
}

// SAFETY: delegates to `ThreadSlots`.
unsafe impl Cpus for Copied {
    fn count(&self) -> usize {
        self.cpus.count()
    }

    fn with_cpu<R>(&self, f: impl FnOnce(Option<CpuId>) -> R) -> R {
        self.cpus.with_cpu(f)
    }

    fn try_with_cpu<R>(&self, f: impl FnOnce(Option<CpuId>) -> R) -> R {
        self.cpus.try_with_cpu(f)
    }

    fn with_offline_cpu(&self, cpu: CpuId, f: impl FnOnce()) -> bool {
        self.cpus.with_offline_cpu(cpu, f)
    }
}

impl Machine for Copied {
    type Lock = spin::Mutex<()>;
    type Mutex = spin::Mutex<()>;
}
