//! Preserved memory cannot be freed by accident.

use std::alloc::Layout;

use heirloom::folio::{DirectMap, Error as FolioError, FrameType, Request};
use heirloom::kho::{Order, Run};
use heirloom::slab::{Action, AllocOptions, CacheSpec, Error as SlabError, ObjectState};

use crate::common::{PAGE, State, World, order};

#[test]
fn preserved_memory_cannot_be_freed_by_accident() {
    let world = World::new(1024);
    let kernel = world.boot();
    let memory = kernel.memory();

    // By type: letting go of the handle of what is preserved frees nothing.
    let folio = memory.alloc_folio(Request::new(order(2))).unwrap().preserve().unwrap();
    let block = folio.extent();
    let run = memory.alloc_owned_run(5, Request::new(Order::ZERO)).unwrap().preserve().unwrap();
    let frames = run.extent();
    let _ = (folio, run);
    assert!(memory.preserved().contains(block));

    // By raw calls.
    let small = kernel.alloc(100).unwrap();
    let large = kernel.alloc(3 * PAGE as usize).unwrap();
    let thing = kernel.slabs().cache(CacheSpec::new("things", 72)).unwrap().alloc().unwrap();
    for ptr in [small, large, thing] {
        // SAFETY: in use, and nothing frees it meanwhile.
        unsafe { kernel.preserve(ptr) }.unwrap();
    }
    kernel.slabs().owner_of(thing).unwrap();
    let slab = memory.owning_block(memory.machine().phys(thing).unwrap().pfn()).unwrap();
    assert_eq!((slab.1, slab.2), (FrameType::Slab, true));
    let before = State::of(&kernel);
    // SAFETY: nothing uses any of these; and all are refused.
    unsafe {
        assert_eq!(memory.free(block), Err(FolioError::Preserved { block }));
        let refused = memory.free(frames);
        assert!(matches!(refused, Err(FolioError::Preserved { .. })), "{refused:?}");
        let refused = memory.shrink_run(frames, 2);
        assert!(matches!(refused, Err(FolioError::Preserved { .. })), "{refused:?}");
        let addr = memory.machine().phys(large).unwrap();
        let run = Run::covering(addr, 3 * PAGE).unwrap();
        let refused = memory.free_as(run, FrameType::Buffer);
        assert!(matches!(refused, Err(FolioError::Preserved { .. })), "{refused:?}");
        for ptr in [small, thing] {
            let refused = kernel.slabs().free(ptr);
            assert!(
                matches!(
                    refused,
                    Err(SlabError::WrongState {
                        action: Action::Free,
                        found: ObjectState::Preserved,
                        ..
                    })
                ),
                "{refused:?}"
            );
        }
        let refused = kernel.slabs().free(large);
        assert!(
            matches!(refused, Err(SlabError::Folio(FolioError::Preserved { .. }))),
            "{refused:?}"
        );
        let grown = Layout::from_size_align(9 * PAGE as usize, 8).unwrap();
        for ptr in [small, large] {
            let refused = kernel.slabs().realloc(ptr, grown);
            assert!(refused.is_err(), "{refused:?}");
        }
    }
    // A slab with something preserved in it does not go, and no table of the handover does.
    kernel.slabs().shrink();
    let entry = kernel.entry();
    for table in [entry.root, entry.scratch, kernel.slabs().cache_directory()] {
        let block = heirloom::kho::Block::new(table.pfn(), Order::ZERO).unwrap();
        // SAFETY: refused.
        let refused = unsafe { memory.free_as(block, FrameType::Table) };
        assert_eq!(refused, Err(FolioError::Preserved { block }));
    }
    memory.preserved().for_each_node(|node| {
        let block = heirloom::kho::Block::new(node.addr.pfn(), Order::ZERO).unwrap();
        // SAFETY: refused.
        let refused = unsafe { memory.free_as(block, FrameType::Table) };
        assert_eq!(refused, Err(FolioError::Preserved { block }));
    });
    assert_eq!(State::of(&kernel), before);

    // What was let go can be freed, once.
    for ptr in [small, large, thing] {
        // SAFETY: in use, and nothing frees it meanwhile.
        unsafe { kernel.unpreserve(ptr) }.unwrap();
        // SAFETY: allocated above, and not used again; the second is refused.
        unsafe {
            kernel.free(ptr).unwrap();
            assert!(kernel.free(ptr).is_err());
        }
    }
}

#[test]
fn what_is_preserved_from_birth_is_freed_by_a_plain_free_and_then_does_not_survive() {
    let world = World::new(1024);
    let kernel = world.boot();
    let born = AllocOptions { preserving: true, zeroed: false };
    let before = State::of(&kernel).preserved;
    for bytes in [8, 100, 3000, 3 * PAGE as usize] {
        let layout = Layout::from_size_align(bytes, 8).unwrap();
        let ptr = kernel.slabs().alloc(layout, born).unwrap();
        let handle = kernel.handle_of(ptr).unwrap();
        // SAFETY: allocated above, and not used again.
        unsafe { kernel.free(ptr) }.unwrap();
        assert!(kernel.handle_of(ptr).is_err(), "{handle:?}");
    }
    let tables = |blocks: &[heirloom::kho::Block]| {
        blocks
            .iter()
            .filter(|b| kernel.memory().owning_block(b.pfn()).unwrap().1 != FrameType::Table)
            .count()
    };
    assert_eq!(tables(&State::of(&kernel).preserved), tables(&before));
}
