//! What the tests of this layer share.

use heirloom_folio::harness::Ram;
use heirloom_folio::{Cpus as _, Machine, Memory};

/// All of the machine's frames, as a kernel finds them that has just started.
pub(crate) fn memory<'r, M: Machine + From<&'r Ram>>(ram: &'r Ram, frames: u64) -> Memory<M> {
    let [(run, node)] = Ram::frames(frames);
    let cpus = ram.space(Memory::<M>::cpu_bytes(ram.count()));
    // SAFETY: the machine keeps the spaces as long as it lives, and lends each once; one kernel at
    // a time runs on it.
    unsafe {
        let memory = Memory::new(M::from(ram), cpus).unwrap();
        memory.add_range(run, node, ram.space(Memory::<M>::range_bytes(run))).unwrap();
        memory
    }
}
