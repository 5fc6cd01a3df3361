//! Memory that is full at each allocation: what is refused has changed nothing, and is done once there is memory.

use std::collections::BTreeMap;

use heirloom_folio::harness::Ram;
use heirloom_slab::{Slabs, persist};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::testing::{Dice, Rest, boot, in_use, stop};
use crate::{Error, Log, Map, Pool, Vec};

const FRAMES: u64 = 512;

#[derive(Clone, Copy, PartialEq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Long {
    words: [u64; 400],
}
persist!(Long { words });

/// Tries until there is memory for it; `same` is asked after each refusal.
fn until_done<T>(slabs: &Slabs<Ram>, mut act: impl FnMut() -> Result<T, Error>) -> (T, u32) {
    let (mut rest, mut refused) = (Rest::take(slabs), 0);
    loop {
        match act() {
            Ok(done) => return (done, refused),
            Err(error) => {
                assert!(error.is_out_of_memory(), "{error:?}");
                refused += 1;
                rest.give();
            }
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "thousands of allocations")]
fn what_is_refused_for_want_of_memory_has_changed_nothing() {
    let slabs = boot(FRAMES);
    let pool = Pool::open(&slabs).unwrap();
    let (map, mut refused) = until_done(&slabs, || Map::<_>::create(&pool, 7));
    let (vec, more) = until_done(&slabs, || Vec::<Long, _>::create(&pool));
    refused += more;
    let (log, more) = until_done(&slabs, || Log::create(&pool));
    refused += more;
    let (mut map, mut vec, mut log) = (map, vec, log);
    let mut model = BTreeMap::new();
    let mut dice = Dice(0x5eed_0012);
    for n in 0..300_u64 {
        let (key, value) =
            (dice.below(400).to_le_bytes(), std::vec![1; (dice.below(3) * 40) as usize]);
        let before = map.get(&key).unwrap().map(|entry| entry.value().to_vec());
        let (len, objects) = (map.len(), in_use(&slabs));
        let (_, more) = until_done(&slabs, || {
            let done = map.insert(&key, &value);
            if done.is_err() {
                assert_eq!(map.len(), len);
                assert_eq!(map.get(&key).unwrap().map(|entry| entry.value().to_vec()), before);
                // Room for it may be there by now: a segment, a line.
                assert!(in_use(&slabs) <= objects + 2);
            }
            done
        });
        model.insert(key, value);
        refused += more;
        if n % 4 == 0 {
            let (len, value) = (vec.len(), Long { words: [n; 400] });
            let ((), more) = until_done(&slabs, || {
                assert_eq!(vec.len(), len);
                vec.push(value)
            });
            let range = log.range();
            let (number, again) = until_done(&slabs, || {
                assert_eq!(log.range(), range);
                log.append(&[n as u8; 3000])
            });
            assert_eq!(number, n / 4);
            refused += more + again;
        }
    }
    std::println!("{refused} refused");
    assert!(refused > 50);
    let mut found = BTreeMap::new();
    map.for_each(|entry| {
        found.insert(entry.key().try_into().unwrap(), entry.value().to_vec());
    })
    .unwrap();
    assert_eq!(found, model);
    assert_eq!((vec.len(), log.range()), (75, 0..75));
    let handles = [map.handle(), vec.handle(), log.handle()];
    drop((map, vec, log));

    // A successor that has no memory to begin with.
    let slabs = stop(&slabs, FRAMES).revive();
    let (pool, pools) = until_done(&slabs, || Pool::open(&slabs));
    let (map, maps) = until_done(&slabs, || Map::<_>::open(&pool, handles[0]));
    let (vec, vecs) = until_done(&slabs, || Vec::<Long, _>::open(&pool, handles[1]));
    let (log, logs) = until_done(&slabs, || Log::open(&pool, handles[2]));
    std::println!("{:?} refused when opened", [pools, maps, vecs, logs]);
    assert_eq!((map.len(), vec.len(), log.range()), (model.len() as u64, 75, 0..75));
    {
        let _rest = Rest::take(&slabs);
        let mut found = 0;
        map.for_each(|_| found += 1).unwrap();
        assert_eq!(found, model.len());
        for (key, value) in &model {
            assert_eq!(map.get(key).unwrap().unwrap().value(), value);
        }
        vec.for_each(|long| assert_eq!(long.words[0], long.words[399])).unwrap();
        assert_eq!(log.records().count(), 75);
        map.destroy().unwrap();
        vec.destroy().unwrap();
        log.destroy().unwrap();
    }
    assert_eq!(in_use(&slabs), 0);
}
