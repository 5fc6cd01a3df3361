//! The memory that the example works in.

use heirloom::arena::{Arena, RangeSpec};
use heirloom::folio::NodeId;
use heirloom::kho::{PAGE_SIZE, PhysAddr, Run};

use crate::run::Failure;

/// Three ranges with holes between them, on two nodes, from 4 GiB on: `bytes` in all.
pub(crate) fn ranges(bytes: u64) -> [RangeSpec; 3] {
    let page = PAGE_SIZE as u64;
    let quarter = (bytes / 4).next_multiple_of(page).max(1 << 20);
    let sizes = [(2 * quarter, NodeId(0)), (quarter, NodeId(0)), (quarter, NodeId(1))];
    let mut start = 4 << 30;
    sizes.map(|(bytes, node)| {
        let range = RangeSpec { start: PhysAddr::new(start), bytes, node };
        start += bytes + (16 << 20);
        range
    })
}

/// The first frames: as many as the metadata of all memory needs, in this process and in a
/// successor that may use more processors.
pub(crate) fn scratch(map: &[(Run, NodeId)], arena: &Arena) -> Result<Run, Failure> {
    let first = map.first().ok_or("an arena has a range")?.0.start();
    Ok(Run::covering(first.addr(), arena.scratch_bytes()).ok_or("scratch ends in memory")?)
}
