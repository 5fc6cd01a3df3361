//! Scans and samples beside what is inserted and removed between their calls.

use std::collections::BTreeSet;
use std::vec::Vec as StdVec;

use heirloom_folio::harness::Ram;

use crate::testing::{Dice, boot, stop};
use crate::{Map, Pool};

const FRAMES: u64 = 512;

fn key(n: u64) -> [u8; 8] {
    n.to_le_bytes()
}

/// Scans from a cursor on, with changes between the calls, so often or to the end. Returns the cursor.
fn scan(
    map: &mut Map<'_, Ram>,
    (mut cursor, calls): (u64, usize),
    seen: &mut BTreeSet<StdVec<u8>>,
    dice: &mut Dice,
) -> u64 {
    for _ in 0..calls {
        cursor = map
            .scan(cursor, |entry| {
                seen.insert(entry.key().to_vec());
            })
            .unwrap();
        if cursor == 0 {
            break;
        }
        for _ in 0..6 {
            map.insert(&key(1000 + dice.below(3000)), b"comes").unwrap();
            map.remove(&key(1000 + dice.below(3000))).unwrap();
            // What stays may get another value.
            map.insert(&key(dice.below(300)), b"again").unwrap();
        }
    }
    cursor
}

#[test]
#[cfg_attr(miri, ignore = "hundreds of entries")]
fn what_stays_is_seen_by_a_scan_whatever_comes_and_goes_and_in_the_successor() {
    let (stay, calls) = (300, 40);
    for seed in 0x5eed_0020..0x5eed_0024 {
        let slabs = boot(FRAMES);
        let pool = Pool::open(&slabs).unwrap();
        let mut map = Map::<_>::create(&pool, seed).unwrap();
        let (mut dice, mut seen) = (Dice(seed), BTreeSet::new());
        for n in 0..stay {
            assert!(!map.insert(&key(n), b"stays").unwrap());
        }
        let cursor = scan(&mut map, (0, calls), &mut seen, &mut dice);
        assert_ne!(cursor, 0, "in the middle");
        let handle = map.handle();
        drop(map);
        let slabs = stop(&slabs, FRAMES).revive();
        let pool = Pool::open(&slabs).unwrap();
        let mut map = Map::<_>::open(&pool, handle).unwrap();
        assert_eq!(scan(&mut map, (cursor, usize::MAX), &mut seen, &mut dice), 0);
        assert!((0..stay).all(|n| seen.contains(&key(n)[..])), "seed {seed:#x}");
        // A cursor that no map has is an end.
        assert_eq!(map.scan(u64::MAX, |_| panic!("nothing")).unwrap(), 0);
    }
}

#[test]
#[cfg_attr(miri, ignore = "hundreds of entries")]
fn a_sample_has_an_entry_wherever_it_begins_unless_there_is_none() {
    let slabs = boot(FRAMES);
    let pool = Pool::open(&slabs).unwrap();
    let mut map = Map::<_>::create(&pool, 7).unwrap();
    map.sample(3, |_| panic!("it is empty")).unwrap();
    for n in 0..500 {
        assert!(!map.insert(&key(n), b"value").unwrap());
    }
    let mut dice = Dice(0x5eed_0024);
    for left in [500_u64, 100, 1] {
        map.retain(|entry| entry.key() < &key(left)[..] || left == 500).unwrap();
        for _ in 0..50 {
            let (mut seen, random) = (0, dice.below(u64::MAX));
            map.sample(random, |_| seen += 1).unwrap();
            assert!(seen > 0 && seen < 60, "{seen}");
        }
    }
    map.retain(|_| false).unwrap();
    map.sample(3, |_| panic!("it is empty")).unwrap();
    assert_eq!(map.scan(0, |_| panic!("it is empty")).unwrap(), 0);
}
