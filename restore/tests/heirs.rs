//! What a kernel does with what its predecessor left, and when it cannot.

use core::ptr::NonNull;

use heirloom_folio::harness::Ram;
use heirloom_folio::{Block, Cpus, Fate, Kind, Memory, Order, PAGE_SIZE, Request};
use heirloom_restore::{Entry, Error, Handover, SealPolicy};
use heirloom_slab::CacheSpec;

const FRAMES: u64 = 1024;
const CACHE: CacheSpec = CacheSpec::new("objects", 100).preserving(true);

type Kernel<'r> = Handover<&'r Ram>;

/// All of the machine's frames, as a kernel finds them that has just started.
fn memory(ram: &Ram) -> Memory<&Ram> {
    let [(run, node)] = Ram::frames(FRAMES);
    let space = |bytes| ram.space(bytes);
    let cpus: NonNull<[u8]> = space(Memory::<&Ram>::cpu_bytes(ram.count()));
    // SAFETY: the machine keeps the spaces as long as it lives, and lends each once; one kernel at
    // a time runs on it.
    unsafe {
        let memory = Memory::new(ram, cpus).unwrap();
        memory.add_range(run, node, space(Memory::<&Ram>::range_bytes(run))).unwrap();
        memory
    }
}

fn boot(ram: &Ram) -> Kernel<'_> {
    Handover::fresh(memory(ram), &[], "first").unwrap()
}

fn revive(ram: &Ram, entry: Entry) -> Kernel<'_> {
    Handover::revive(memory(ram), entry, "next", SealPolicy::Checked).unwrap()
}

/// A folio that is left.
fn keep(kernel: &Kernel<'_>, order: u8) -> Block {
    let folio = kernel.memory().folio(Request::new(Order::new(order).unwrap())).unwrap();
    folio.preserve().unwrap_or_else(|refused| panic!("{}", refused.error)).into_raw()
}

#[test]
fn what_the_predecessor_preserved_is_no_subtree_of_ours_even_while_it_ends() {
    let ram = Ram::over(&Ram::frames(FRAMES));
    let first = boot(&ram);
    first.slabs().cache(CACHE).unwrap().alloc().unwrap();
    let folio = keep(&first, 1);
    let second = revive(&ram, first.entry());
    let mut slabs = 0;
    let refuse = |block: Block| {
        let at = block.addr();
        let added = second.add_subtree("theirs", at, PAGE_SIZE as u64);
        assert_eq!(added, Err(Error::NotPreserved { at }));
    };
    refuse(folio);
    let ended = second.memory().disinherit(|block| {
        if second.memory().label_of(block) != Some(Kind::Table) {
            refuse(block);
            slabs += usize::from(second.memory().label_of(block) == Some(Kind::Slab));
        }
        Fate::Keep
    });
    ended.unwrap();
    assert_eq!(slabs, 1);
    // What was kept is ours.
    second.add_subtree("kept", folio.addr(), 2 * PAGE_SIZE as u64).unwrap();
}
