//! Buffers against a model.

mod common;

use core::alloc::Layout;
use core::ptr::NonNull;

use common::{addr, config, fill, filled, slab_frames, slabs};
use heirloom_folio::FrameType;
use heirloom_kho::{PAGE_SIZE, PhysAddr};
use heirloom_slab::{Action, AllocOptions, Error, ObjectState, Owner};
use proptest::prelude::*;

fn layout(size: usize, align: usize) -> Layout {
    Layout::from_size_align(size, align).unwrap()
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Alloc { size: usize, align: u32, opts: AllocOptions },
    Free(usize),
    Realloc(usize, usize),
    Preserve(usize),
    Unpreserve(usize),
    Shrink,
}

fn size() -> impl Strategy<Value = usize> {
    prop_oneof![1..300_usize, 300..2 * PAGE_SIZE, PAGE_SIZE..20 * PAGE_SIZE]
}

fn step() -> impl Strategy<Value = Step> {
    let alloc = (size(), 0..13_u32, any::<bool>(), any::<bool>());
    prop_oneof![
        8 => alloc.prop_map(|(size, align, preserving, zeroed)| Step::Alloc {
            size,
            align,
            opts: AllocOptions { preserving, zeroed },
        }),
        5 => any::<usize>().prop_map(Step::Free),
        5 => (any::<usize>(), size()).prop_map(|(i, size)| Step::Realloc(i, size)),
        2 => any::<usize>().prop_map(Step::Preserve),
        2 => any::<usize>().prop_map(Step::Unpreserve),
        1 => Just(Step::Shrink),
    ]
}

#[derive(Clone, Copy)]
struct Live {
    ptr: NonNull<u8>,
    size: usize,
    align: usize,
    seed: u8,
    /// Preserved singly.
    preserved: bool,
    opts: AllocOptions,
}

proptest! {
    #![proptest_config(config(64, 0xbffe5))]
    #[test]
    fn buffers_keep_their_contents(steps in prop::collection::vec(step(), 1..600)) {
        let slabs = slabs(16384);
        let mut live: Vec<Live> = Vec::new();
        let mut seed = 0_u8;
        for step in steps {
            let pick = |i: usize| (!live.is_empty()).then(|| i % live.len());
            match step {
                Step::Alloc { size, align, opts } => {
                    let align = 1 << align;
                    let ptr = slabs.alloc(layout(size, align), opts).unwrap();
                    prop_assert_eq!(ptr.addr().get() % align, 0);
                    prop_assert_eq!(addr(&slabs, ptr).get() % align as u64, 0);
                    prop_assert!(slabs.size_of(ptr).unwrap() >= size);
                    // SAFETY: allocated just now.
                    let zero = unsafe { (0..size).all(|i| ptr.add(i).read() == 0) };
                    prop_assert!(zero || !opts.zeroed);
                    seed = seed.wrapping_add(1);
                    // SAFETY: allocated just now.
                    unsafe { fill(ptr, size, seed) };
                    live.push(Live { ptr, size, align, seed, preserved: false, opts });
                }
                Step::Free(i) => if let Some(i) = pick(i) {
                    let buffer = live[i];
                    // SAFETY: ours, and given up if it succeeds.
                    let freed = unsafe { slabs.free(buffer.ptr) };
                    prop_assert_eq!(freed.is_ok(), !buffer.preserved, "{:?}", freed);
                    if freed.is_ok() {
                        // SAFETY: refused, as it is free.
                        let again = unsafe { slabs.free(buffer.ptr) };
prop_assert!(again.is_err());
                        live.swap_remove(i);
                    }
                },
                Step::Realloc(i, size) => if let Some(i) = pick(i) {
                    let buffer = &mut live[i];
                    // SAFETY: ours.
                    match unsafe { slabs.realloc(buffer.ptr, layout(size, buffer.align)) } {
                        Ok(ptr) => {
                            let common = buffer.size.min(size);
                            // SAFETY: ours, wherever it is now.
                            let kept = unsafe { filled(ptr, common, buffer.seed) };
 prop_assert!(kept);
                            prop_assert!(!buffer.preserved || ptr == buffer.ptr);
                            prop_assert!(slabs.size_of(ptr).unwrap() >= size);
                            // SAFETY: ours.
                            unsafe { fill(ptr, size, buffer.seed) };
                            (buffer.ptr, buffer.size) = (ptr, size);
                        }
                        Err(error) => prop_assert!(buffer.preserved, "{error}"),
                    }
                },
                Step::Preserve(i) => if let Some(i) = pick(i) {
                    let buffer = &mut live[i];
                    // SAFETY: in use, and nothing frees it meanwhile.
                    let done = unsafe { slabs.preserve(buffer.ptr) };
                    // A large one that a plain free would free becomes like any that was preserved.
                    let large = matches!(slabs.owner_of(buffer.ptr), Ok(Owner::Large { .. }));
                    let may = !buffer.preserved && (large || !buffer.opts.preserving);
                    prop_assert_eq!(done.is_ok(), may);
                    if done.is_ok() {
                        (buffer.preserved, buffer.opts.preserving) = (true, false);
                    }
                },
                Step::Unpreserve(i) => if let Some(i) = pick(i) {
                    let buffer = &mut live[i];
                    // SAFETY: in use, and nothing frees it meanwhile.
                    let done = unsafe { slabs.unpreserve(buffer.ptr) };
                    let large = matches!(slabs.owner_of(buffer.ptr), Ok(Owner::Large { .. }));
                    // A large buffer may be let go even if it was preserved from birth.
                    let may = buffer.preserved || buffer.opts.preserving && large;
                    prop_assert_eq!(done.is_ok(), may);
                    if done.is_ok() {
                        (buffer.preserved, buffer.opts.preserving) = (false, false);
                    }
                },
                Step::Shrink => {
                    slabs.shrink();
                }
            }
        }
        for buffer in live {
            // SAFETY: ours.
            let kept = unsafe { filled(buffer.ptr, buffer.size, buffer.seed) };
 prop_assert!(kept);
            let preserved = match slabs.owner_of(buffer.ptr) {
                Ok(Owner::Large { preserved, .. } | Owner::Object { preserved, .. }) => preserved,
                other => panic!("{other:?}"),
            };
            prop_assert_eq!(preserved, buffer.preserved || buffer.opts.preserving);
            if buffer.preserved {
                // SAFETY: in use, and nothing frees it meanwhile.
                unsafe { slabs.unpreserve(buffer.ptr) }.unwrap();
            }
            // SAFETY: ours, and not used again.
            unsafe { slabs.free(buffer.ptr) }.unwrap();
        }
        slabs.shrink();
        prop_assert_eq!(slab_frames(&slabs), 0);
        let audit = slabs.memory().audit().unwrap();
        prop_assert_eq!(audit.allocated[FrameType::Buffer as usize], 0);
    }
}

#[test]
fn five_pages_are_five_pages() {
    let slabs = slabs(1024);
    let before = slabs.memory().stats().used();
    let buffer = slabs.alloc(layout(5 * PAGE_SIZE, 8), AllocOptions::default()).unwrap();
    assert_eq!(slabs.memory().stats().used() - before, 5);
    assert_eq!(slabs.size_of(buffer), Some(5 * PAGE_SIZE));
    // SAFETY: ours.
    unsafe { slabs.free(buffer) }.unwrap();
    assert_eq!(slabs.memory().stats().used(), before);
}

#[test]
fn large_buffers_grow_and_shrink_in_place() {
    let slabs = slabs(1024);
    let buffer = slabs.alloc(layout(64 * PAGE_SIZE, 8), AllocOptions::default()).unwrap();
    // SAFETY: ours throughout.
    unsafe {
        assert_eq!(slabs.realloc(buffer, layout(9 * PAGE_SIZE + 1, 8)), Ok(buffer));
        assert_eq!(slabs.size_of(buffer), Some(10 * PAGE_SIZE));
        slabs.shrink();
        assert_eq!(slabs.realloc(buffer, layout(20 * PAGE_SIZE, 8)), Ok(buffer));
        assert_eq!(slabs.size_of(buffer), Some(20 * PAGE_SIZE));
        // One that is preserved singly stays as it is.
        slabs.preserve(buffer).unwrap();
        assert!(slabs.realloc(buffer, layout(30 * PAGE_SIZE, 8)).is_err());
        assert_eq!(slabs.realloc(buffer, layout(20 * PAGE_SIZE - 5, 8)), Ok(buffer));
        assert!(matches!(slabs.free(buffer), Err(Error::Folio(_))));
        slabs.unpreserve(buffer).unwrap();
        slabs.free(buffer).unwrap();
    }
}

#[test]
fn a_large_buffer_preserved_from_birth_is_freed_by_a_plain_free() {
    let slabs = slabs(1024);
    let opts = AllocOptions { preserving: true, zeroed: true };
    let buffer = slabs.alloc(layout(3 * PAGE_SIZE, 8), opts).unwrap();
    let Ok(Owner::Large { run, preserved: true }) = slabs.owner_of(buffer) else {
        panic!("{:?}", slabs.owner_of(buffer))
    };
    assert_eq!(run.frames(), 3);
    // SAFETY: ours.
    unsafe { slabs.free(buffer) }.unwrap();
    // The same frames, not preserved from birth, and then singly.
    let buffer = slabs.alloc(layout(3 * PAGE_SIZE, 8), AllocOptions::default()).unwrap();
    // SAFETY: in use, and nothing frees it meanwhile.
    unsafe { slabs.preserve(buffer) }.unwrap();
    // SAFETY: refused.
    assert!(unsafe { slabs.free(buffer) }.is_err());
    // SAFETY: in use, and nothing frees it meanwhile.
    unsafe { slabs.unpreserve(buffer) }.unwrap();
    // SAFETY: ours.
    unsafe { slabs.free(buffer) }.unwrap();
}

#[test]
fn wrong_pointers_into_large_buffers_are_told_apart() {
    let slabs = slabs(1024);
    let buffer = slabs.alloc(layout(3 * PAGE_SIZE, 8), AllocOptions::default()).unwrap();
    let start = addr(&slabs, buffer);
    for offset in [8, PAGE_SIZE, 2 * PAGE_SIZE, 2 * PAGE_SIZE + 8] {
        // SAFETY: within the buffer; refused.
        let refused = unsafe { slabs.free(buffer.add(offset)) };
        let addr = PhysAddr::new(start.get() + offset as u64);
        let Err(Error::Interior { addr: found, start: from, .. }) = refused else {
            panic!("{offset}: {refused:?}")
        };
        assert_eq!((found, from), (addr, start));
    }
    // SAFETY: ours, once.
    unsafe {
        slabs.free(buffer).unwrap();
        assert!(matches!(
            slabs.free(buffer),
            Err(Error::WrongState { action: Action::Free, found: ObjectState::Free, .. })
        ));
    }
}

#[test]
fn what_no_memory_has_is_refused() {
    let slabs = slabs(1024);
    let opts = AllocOptions::default();
    let refused = slabs.alloc(layout(0, 8), opts);
    assert_eq!(refused, Err(Error::BadLayout { size: 0, align: 8 }));
    let refused = slabs.alloc(layout(8, 1 << 40), opts);
    assert_eq!(refused, Err(Error::BadLayout { size: 8, align: 1 << 40 }));
    let refused = slabs.alloc(layout(1 << 40, 8), opts);
    assert!(matches!(refused, Err(Error::Folio(_))), "{refused:?}");
    assert_eq!(slabs.memory().audit().unwrap().allocated[FrameType::Buffer as usize], 0);
}

#[test]
fn the_heap_serves_rusts_allocators() {
    use core::alloc::GlobalAlloc;
    let slabs = slabs(1024);
    for preserving in [false, true] {
        let heap = slabs.heap(preserving);
        // SAFETY: layouts with a size; each freed once, with its layout.
        unsafe {
            let small = heap.alloc_zeroed(layout(40, 8));
            assert_eq!(small.add(39).read(), 0);
            small.write(9);
            let large = heap.realloc(small, layout(40, 8), 9000);
            assert_eq!(large.read(), 9);
            heap.dealloc(large, layout(9000, 8));
            assert!(heap.alloc(layout(1 << 40, 8)).is_null());
        }
    }
    slabs.shrink();
    assert_eq!(slab_frames(&slabs), 0);
}

#[cfg(feature = "allocator-api2")]
#[test]
fn collections_live_in_the_heap() {
    use allocator_api2::alloc::Allocator;
    let slabs = slabs(1024);
    let heap = slabs.heap(true);
    let empty = heap.allocate(layout(0, 64)).unwrap();
    assert_eq!((empty.len(), empty.cast::<u8>().addr().get() % 64), (0, 0));
    // SAFETY: each allocated with the layout named, and used no more after it is given up.
    unsafe {
        let some = heap.grow(empty.cast(), layout(0, 64), layout(100, 64)).unwrap();
        some.cast::<u8>().write(5);
        let more = heap.grow(some.cast(), layout(100, 64), layout(5000, 64)).unwrap();
        assert_eq!(more.cast::<u8>().read(), 5);
        let less = heap.shrink(more.cast(), layout(5000, 64), layout(1, 64)).unwrap();
        assert_eq!(less.cast::<u8>().read(), 5);
        heap.deallocate(less.cast(), layout(1, 64));
    }
}
