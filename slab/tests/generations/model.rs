//! Generations of steps at random, against a model of what they own.

use heirloom_folio::Disposition;
use proptest::prelude::*;

use super::common::{config, filled, ptr, slabs, successor};
use super::{FRAMES, Kept, claim, keep, spec};

#[derive(Clone, Debug)]
enum Step {
    Alloc(bool),
    Free(usize),
    Preserve(usize),
    Unpreserve(usize),
    /// A jump after which every n-th object is claimed, and the rest is kept or freed; or nothing is
    /// said about it.
    Jump {
        every: usize,
        finish: Option<Disposition>,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        20 => any::<bool>().prop_map(Step::Alloc),
        8 => any::<usize>().prop_map(Step::Free),
        8 => any::<usize>().prop_map(Step::Preserve),
        4 => any::<usize>().prop_map(Step::Unpreserve),
        1 => (1..5_usize, 0..3_usize).prop_map(|(every, finish)| {
            let finish = [None, Some(Disposition::Keep), Some(Disposition::Free)][finish];
            Step::Jump { every, finish }
        }),
    ]
}

/// An object of the model: its handle, its cache, and whether it would survive.
#[derive(Clone, Copy)]
#[expect(clippy::struct_excessive_bools, reason = "each is a question that the model answers")]
struct Object {
    kept: Kept,
    always: bool,
    survives: bool,
    /// Left by a predecessor and not claimed: it cannot be freed or unpreserved.
    unclaimed: bool,
    /// Claimed, and neither preserved nor let go since: it survives, and can be freed.
    held: bool,
}

proptest! {
    #![proptest_config(config(48, 0x6e4e))]
    #[test]
    fn generations_against_a_model(steps in prop::collection::vec(step(), 1..400)) {
        let mut slabs = slabs(FRAMES);
        let mut objects: Vec<Object> = Vec::new();
        let mut seed = 0_u8;
        for step in steps {
            let cache = |always| slabs.cache(spec(always)).unwrap();
            let pick = |i: usize| (!objects.is_empty()).then(|| i % objects.len());
            match step {
                Step::Alloc(always) => {
                    seed = seed.wrapping_add(1);
                    let kept = keep(&slabs, cache(always).alloc().unwrap(), seed);
                    objects.push(Object { kept, always, survives: always, unclaimed: false, held: false });
                }
                Step::Free(i) => if let Some(i) = pick(i) {
                    let object = objects[i];
                    // SAFETY: the model's, and given up if it succeeds.
                    let freed = unsafe { slabs.free(ptr(&slabs, object.kept.addr)) };
                    let may = !object.unclaimed && (object.always || object.held || !object.survives);
                    prop_assert_eq!(freed.is_ok(), may, "{:?}", freed);
                    if may {
                        objects.swap_remove(i);
                    }
                },
                Step::Preserve(i) => if let Some(i) = pick(i) {
                    let object = &mut objects[i];
                    // SAFETY: in use, and nothing frees it meanwhile.
                    let done = unsafe { slabs.preserve(ptr(&slabs, object.kept.addr)) };
                    prop_assert_eq!(done.is_ok(), !object.survives || object.held, "{:?}", done);
                    (object.survives, object.held) = (true, false);
                },
                Step::Unpreserve(i) => if let Some(i) = pick(i) {
                    let object = &mut objects[i];
                    // SAFETY: in use, and nothing frees it meanwhile.
                    let done = unsafe { slabs.unpreserve(ptr(&slabs, object.kept.addr)) };
                    let may = object.survives && !object.always && !object.unclaimed;
                    prop_assert_eq!(done.is_ok(), may, "{:?}", done);
                    object.survives &= !may;
                    object.held &= !may;
                },
                Step::Jump { every, finish } => {
                    slabs = successor(slabs, FRAMES).unwrap();
                    objects.retain(|object| object.survives);
                    for always in [false, true] {
                        let (_, adopted) = slabs.adopt_or_create(spec(always)).unwrap();
                        let expected = objects.iter().filter(|o| o.always == always).count();
                        prop_assert_eq!(adopted.unclaimed, expected as u64);
                    }
                    for object in objects.iter_mut().step_by(every) {
                        claim(&slabs, &object.kept);
                        (object.unclaimed, object.held) = (false, !object.always);
                    }
                    let claimed = |i: usize| i.is_multiple_of(every);
                    if let Some(disposition) = finish {
                        let mut left = 0;
                        slabs.finish_inherited(|_| { left += 1; disposition }).unwrap();
                        let unclaimed = (0..objects.len()).filter(|i| !claimed(*i)).count();
                        prop_assert_eq!(left, unclaimed);
                    }
                    // No stray block: what survives is in the cache directory, or was told.
                    prop_assert_eq!(slabs.memory().predecessor().finish(|_| Disposition::Free), (0, 0));
                    let mut i = 0;
                    objects.retain_mut(|object| {
                        i += 1;
                        object.unclaimed = !claimed(i - 1);
                        object.held &= !object.unclaimed;
                        finish != Some(Disposition::Free) || !object.unclaimed
                    });
                }
            }
        }
        let audit = slabs.memory().audit().unwrap();
        prop_assert_eq!(audit.reserved, 0);
        for object in &objects {
            let Kept { addr, size, seed, .. } = object.kept;
            // SAFETY: nobody else writes it.
            let sound = unsafe { filled(ptr(&slabs, addr), size, seed) };
            prop_assert!(sound);
        }
        let stats = [false, true].map(|always| slabs.cache(spec(always)).unwrap().stats());
        let unclaimed = objects.iter().filter(|o| o.unclaimed).count() as u64;
        prop_assert_eq!(stats[0].unclaimed + stats[1].unclaimed, unclaimed);
        let live = objects.len() as u64 - unclaimed;
        prop_assert_eq!(stats[0].live + stats[1].live, live);
    }
}
