//! Which entries go to make room for another.

use crate::testing::{Dice, boot, in_use};
use crate::{Map, Pool};

/// A value that takes more memory than an empty one.
const LARGE: [u8; 100] = [7; 100];

#[test]
fn of_the_entries_of_a_size_one_goes_that_is_idle_and_all_that_are_over_go() {
    let slabs = boot(1024);
    let pool = Pool::open(&slabs).unwrap();
    let mut map = Map::<_>::create(&pool, 7).unwrap();
    assert!(!map.evict(0, 5, |_| None).unwrap(), "there is none");
    // Small ones are idle for as long as their number says, large ones for longer, and each seventh of either is over.
    let small: u64 = if cfg!(miri) { 50 } else { 1000 };
    for n in 0..2 * small {
        let value = if n < small { &[][..] } else { &LARGE };
        map.insert_marked(&n.to_le_bytes(), value, n).unwrap();
    }
    let mut dice = Dice(0x5eed_e71c);
    let (mut writer, _reader) = map.split().unwrap();
    let before = in_use(&slabs);
    let (mut idle_of_those, mut went) = (0, 0);
    for _ in 0..small / 10 {
        let (mut over, mut looked, mut most) = (0, 0, 0);
        let len = writer.map().len();
        let evicted = writer.evict(8, dice.below(1 << 40), |entry| {
            looked += 1;
            let n = entry.mark();
            if n.is_multiple_of(7) {
                over += 1;
                return None;
            }
            if n < small {
                most = most.max(n);
            }
            Some(n)
        });
        assert!(evicted.unwrap(), "small ones are in each sample");
        assert_eq!(writer.map().len(), len - over - 1);
        assert!(
            !writer.map().contains(&most.to_le_bytes()).unwrap(),
            "the one that was idle longest"
        );
        assert!(looked < 100, "{looked} are a few");
        went += over + 1;
        idle_of_those += most;
    }
    assert!(writer.reclaim().unwrap());
    // (Lines beyond the first of a bucket go, too.)
    assert!(in_use(&slabs) <= before - went as usize);
    assert!(idle_of_those / (small / 10) > small * 6 / 10, "of five the one that was idle longest");
    let left = (0..2 * small).filter(|n| writer.map().contains(&n.to_le_bytes()).unwrap());
    assert_eq!(left.count() as u64, writer.map().len());
    // Of a size that no entry has, none goes, however idle the others are.
    assert!(!writer.evict(5000, 3, |entry| Some(entry.mark())).unwrap());
    assert!(!writer.evict(usize::MAX, 3, |entry| Some(entry.mark())).unwrap());
    assert_eq!(writer.map().len(), 2 * small - went);
}

#[test]
fn what_lies_alone_in_a_large_map_is_found() {
    let slabs = boot(1024);
    let pool = Pool::open(&slabs).unwrap();
    let mut map = Map::<_>::create(&pool, 7).unwrap();
    for n in 0..2000_u64 {
        map.insert(&n.to_le_bytes(), b"").unwrap();
    }
    map.retain(|entry| entry.key() == 1234_u64.to_le_bytes()).unwrap();
    assert!(map.evict(8, 99, |_| Some(0)).unwrap());
    assert!(map.is_empty());
}
