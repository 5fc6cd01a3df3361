//! A successor that may use more processors than its predecessor comes up.

use heirloom::Heirloom;
use heirloom::arena::{Arena, RangeSpec};
use heirloom::folio::{Cpus, NodeId};
use heirloom::jump::{Inherited, Jump};
use heirloom::kho::{PhysAddr, Run};
use heirloom::restore::SealPolicy;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::{output_of, part, plays};

/// Lets this thread, and what it becomes, run on `count` of the processors in `all`.
fn confine(all: &CpuSet, count: usize) {
    let mut some = CpuSet::new();
    (0..CpuSet::MAX_CPU).filter(|&cpu| all.is_set(cpu)).take(count).for_each(|cpu| some.set(cpu));
    assert_eq!(some.count() as usize, count, "this test needs {count} processors");
    sched_setaffinity(None, &some).unwrap();
}

fn all() -> CpuSet {
    sched_getaffinity(None).unwrap()
}

const TEST: &str = "room::a_successor_with_more_processors_comes_up";

#[test]
fn a_successor_with_more_processors_comes_up() {
    if plays("predecessor") {
        // As many as there are: the next life gets them all.
        let every = all();
        confine(&every, 1);
        let range = RangeSpec { start: PhysAddr::new(4 << 30), bytes: 16 << 20, node: NodeId(0) };
        let arena = Arena::create("room", &[range]).unwrap();
        let map = [(arena.ranges()[0].run(), NodeId(0))];
        let scratch = Run::covering(map[0].0.addr(), arena.scratch_bytes()).unwrap();
        // SAFETY: the arena is new.
        let heirloom = unsafe { Heirloom::boot(&arena, &map, &[scratch], "one") }.unwrap();
        println!("predecessor: {} slots", arena.count());
        let jump = Jump::new(&arena, heirloom.entry()).unwrap();
        confine(&every, every.count() as usize);
        panic!("{}", jump.exec(part(TEST, "successor")));
    }
    if plays("successor") {
        // SAFETY: this process was started for this alone.
        let inherited = unsafe { Inherited::from_env() }.unwrap().unwrap();
        let arena = Arena::open(inherited.fd).unwrap();
        let map = [(arena.ranges()[0].run(), NodeId(0))];
        let policy = SealPolicy::Checked;
        // SAFETY: the predecessor became this process.
        let revived = unsafe { Heirloom::revive(&arena, &map, inherited.entry, "all", policy) };
        println!("successor: {} slots, {:?}", arena.count(), revived.map(|h| h.generation()));
        return;
    }
    let told = output_of(part(TEST, "predecessor"));
    assert!(told.contains("predecessor: 4 slots"), "{told}");
    assert!(told.contains("slots, Ok(1)"), "{told}");
}
