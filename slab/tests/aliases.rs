//! A machine that shows its memory twice, as kernels do that map their own text beside all memory:
//! what a caller asks about by the other pointer is what lies there.

use core::num::NonZero;
use core::ptr::NonNull;

use heirloom_folio::harness::Ram;
use heirloom_folio::{CpuId, Cpus, DirectMap, Machine, Memory};
use heirloom_kho::PhysAddr;
use heirloom_slab::{AllocOptions, Owner, Slabs};

/// How far the second window is from the first.
const APART: usize = 1 << 52;

/// Memory with a second window.
struct Twice<'r>(&'r Ram);

/// Returns the pointer of the second window to the byte that `ptr` reaches.
fn alias(ptr: NonNull<u8>) -> NonNull<u8> {
    ptr.map_addr(|addr| addr | NonZero::new(APART).unwrap())
}

// SAFETY: `ptr` and the first window are `Ram`'s; nothing follows a pointer of the second.
unsafe impl DirectMap for Twice<'_> {
    fn ptr(&self, addr: PhysAddr) -> NonNull<u8> {
        self.0.ptr(addr)
    }

    fn phys(&self, ptr: NonNull<u8>) -> Option<PhysAddr> {
        let first = NonZero::new(ptr.addr().get() & !APART)?;
        self.0.phys(ptr.map_addr(|_| first))
    }
}

// SAFETY: delegates to `Ram`.
unsafe impl Cpus for Twice<'_> {
    fn count(&self) -> usize {
        self.0.count()
    }

    fn with_cpu<R>(&self, f: impl FnOnce(Option<CpuId>) -> R) -> R {
        self.0.with_cpu(f)
    }
}

impl<'r> Machine for Twice<'r> {
    type Lock = <&'r Ram as Machine>::Lock;
    type Mutex = <&'r Ram as Machine>::Mutex;
}

#[test]
fn a_second_pointer_to_an_object_or_a_buffer_leads_to_it() {
    let ranges = Ram::frames(1024);
    let ram = Ram::over(&ranges);
    let space = |bytes| ram.space(bytes);
    // SAFETY: the machine keeps the spaces as long as it lives.
    let memory = unsafe {
        let memory = Memory::new(Twice(&ram), space(Memory::<Twice<'_>>::cpu_bytes(ram.count())));
        let memory = memory.unwrap();
        for (run, node) in ranges {
            memory.add_range(run, node, space(Memory::<Twice<'_>>::range_bytes(run))).unwrap();
        }
        memory
    };
    let slabs = Slabs::new(memory).unwrap();
    for bytes in [24, 3000, 5000, 100_000] {
        let layout = core::alloc::Layout::from_size_align(bytes, 8).unwrap();
        let ptr = slabs.alloc(layout, AllocOptions::default()).unwrap();
        let other = alias(ptr);
        let size = slabs.size_of(ptr).unwrap();
        assert_eq!(slabs.size_of(other), Some(size), "{bytes}");
        // SAFETY: in use, and nothing frees it meanwhile.
        unsafe { slabs.preserve(other) }.unwrap();
        let preserved = |owner| match owner {
            Owner::Object { preserved, .. } | Owner::Large { preserved, .. } => preserved,
            other => panic!("{other:?}"),
        };
        assert!(
            preserved(slabs.owner_of(ptr).unwrap()) && preserved(slabs.owner_of(other).unwrap())
        );
        // SAFETY: as above; then it is freed, and not used again.
        unsafe {
            slabs.unpreserve(other).unwrap();
            slabs.free(ptr).unwrap();
        }
    }
}
