//! Whole kernels over memory that is never touched, and what one of them leaves to the next.

use heirloom::Heirloom;
use heirloom::folio::threads::Host;
use heirloom::folio::{Cpus, Linear, NodeId};
use heirloom::kho::{Block, Order, Pfn, Run};
use heirloom::restore::{Entry, SealPolicy};

use crate::{Dice, GIB, base, order, reserve};

/// Memory, and the threads of this process as its CPUs.
pub type Machine = Host<Linear>;

/// A kernel over it.
pub type Kernel<'r> = Heirloom<&'r Machine>;

/// Its memory map.
pub type Map = [(Run, NodeId); 1];

/// Memory of so many gibibytes, backed as it is touched.
///
/// # Panics
/// If there is not as much address space.
pub fn machine(gib: u64) -> (Map, Machine) {
    let run = Run::new(base(), gib * GIB).expect("below the last frame");
    let bytes = usize::try_from(run.bytes()).expect("fits the address space");
    // SAFETY: mapped for good, and nothing else knows of it.
    let host = Host::new(unsafe { Linear::new(reserve(bytes), run.addr(), bytes) });
    ([(run, NodeId(0))], host)
}

/// Where the metadata of a kernel lies: at the start of memory.
///
/// # Panics
/// If the memory is too small for it.
pub fn scratch(ram: &Machine, map: &Map) -> Run {
    let bytes = Kernel::scratch_bytes(map, ram.count()) as u64;
    Run::covering(map[0].0.addr(), bytes).expect("scratch ends in memory")
}

/// The first kernel of a memory. Drop it before the next.
///
/// # Panics
/// If the memory is too small.
pub fn boot<'r>(ram: &'r Machine, map: &Map) -> Kernel<'r> {
    // SAFETY: the machine's memory is used by one kernel at a time.
    unsafe { Heirloom::boot(ram, map, &[scratch(ram, map)], "bench") }.expect("a fresh memory")
}

/// The successor of the kernel with this entry, which was dropped.
///
/// # Panics
/// If what it left is not sound.
pub fn revive<'r>(ram: &'r Machine, map: &Map, entry: Entry) -> Kernel<'r> {
    // SAFETY: as in `boot`; the kernel before was dropped.
    unsafe { Heirloom::revive(ram, map, entry, "bench", SealPolicy::Checked) }.expect("sound")
}

/// How what survives lies in the second half of memory, behind scratch and metadata.
#[derive(Clone, Copy)]
pub enum Lie {
    /// One frame at random in each stretch of as many as memory allows.
    Scattered,
    /// Frame by frame without a gap.
    Contiguous,
    /// Folios of orders 0 to 9, each at random in its stretch.
    Mixed,
}

impl Lie {
    /// The blocks of `count` folios.
    pub fn blocks(self, map: &Map, count: u64) -> impl Iterator<Item = Block> {
        let (mut dice, all) = (Dice::new(3), map[0].0.frames());
        let (start, apart) = (map[0].0.start().get() + all / 2, all / 2 / count);
        (0..count).map(move |i| {
            let (at, order) = match self {
                Self::Scattered => (i * apart + dice.roll(apart), Order::ZERO),
                Self::Contiguous => (i, Order::ZERO),
                Self::Mixed => {
                    let most = apart.ilog2().min(9);
                    (i * apart + apart / 2, order(dice.roll(u64::from(most)) as u8))
                }
            };
            Block::containing(Pfn::new(start + at), order)
        })
    }
}

/// Preserves `count` folios, but for the few of which the tracker's own nodes took a frame. Returns them.
///
/// # Panics
/// If more than one in 64 is such a frame.
pub fn preserve(kernel: &Kernel<'_>, map: &Map, lie: Lie, count: u64) -> Vec<Block> {
    let memory = kernel.memory();
    let mut kept = Vec::new();
    for block in lie.blocks(map, count) {
        if memory.alloc_at(block).is_ok() {
            // SAFETY: allocated by this bench, and told to nothing else.
            unsafe { memory.preserve(block) }.expect("memory for nodes");
            kept.push(block);
        }
    }
    assert!(kept.len() as u64 > count - count / 64, "{} of {count}", kept.len());
    kept
}
