//! What the scripts call, and what becomes of an entry whose successor has begun to claim.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::crash::things::{Sort, Thing, name};

/// Which calls a script made, and on what.
fn made(journal: &Journal) -> (BTreeSet<Call>, BTreeSet<String>) {
    let (mut calls, mut on) = (BTreeSet::new(), BTreeSet::new());
    let mut last = None;
    let mut things = BTreeMap::<u32, Thing>::new();
    for line in journal.lines(0) {
        match line {
            Line::Open(call, ..) => last = Some(call),
            Line::Close => calls.extend(last.take()),
            Line::May(id, way) | Line::Is(id, way) => {
                if let Some(thing) = way {
                    things.insert(id, thing);
                }
                if let (Some(call), Some(thing)) = (last, things.get(&id)) {
                    let large = thing.sort == Sort::Buffer && !thing.small();
                    let large = if large { "large " } else { "" };
                    on.insert(format!("{call:?} {large}{:?}", thing.sort));
                }
            }
            Line::Leaving(_) | Line::Claiming => {}
        }
    }
    (calls, on)
}

#[test]
fn the_scripts_call_everything_for_every_sort_of_thing() {
    use Call::{Adopt, Claim, Finish, Revive, TakeOver, Upgrade};
    let (ground, journal) = (Ground::new().unwrap(), Journal::new().unwrap());
    Script::Life.run(&ground, &journal, u64::MAX);
    let (calls, on) = made(&journal);
    let later = [Adopt, Claim, Finish, Revive, TakeOver, Upgrade];
    let missed: Vec<_> = Call::ALL.iter().filter(|call| !calls.contains(call)).collect();
    assert_eq!(missed, later.iter().collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>());
    for call in ["Preserve", "Unpreserve"] {
        for sort in ["Folio", "Run", "Buffer", "large Buffer", "Object"] {
            assert!(on.contains(&format!("{call} {sort}")), "{call} {sort}: {on:#?}");
        }
    }
    Script::TakeOver.run(&ground, &journal, u64::MAX);
    let (calls, on) = made(&journal);
    let missed: Vec<_> = Call::ALL.iter().filter(|call| !calls.contains(call)).collect();
    assert_eq!(missed, [&TakeOver]);
    for sort in ["Folio", "Run", "Buffer", "large Buffer", "Object", "Area", "Records"] {
        assert!(on.contains(&format!("Claim {sort}")), "{sort}: {on:#?}");
    }
    for sort in ["Folio", "Buffer", "Object"] {
        assert!(on.contains(&format!("Finish {sort}")), "{sort}: {on:#?}");
    }
}

/// How a successor fares that begins with the entry of the kernel before the one that ended.
fn with_the_old_entry(act: impl Fn(&Kernel<'_>)) -> Result<u64, heirloom::Error> {
    let (ground, journal) = (Ground::new().unwrap(), Journal::new().unwrap());
    Script::Life.run(&ground, &journal, u64::MAX);
    let entry = ground.arena().entry().unwrap().unwrap();
    let kernel = ground.revive(entry).unwrap();
    act(&kernel);
    drop(kernel);
    ground.revive(entry).map(|kernel| kernel.generation())
}

#[test]
fn the_old_entry_is_good_until_a_table_leads_to_what_was_claimed() {
    use heirloom::restore::{Error, Fault};
    use heirloom::slab::{Error as SlabError, SlabFault};
    assert_eq!(with_the_old_entry(|_| {}), Ok(1));
    // A folio, a run, an area: no table but the tree leads to them.
    assert_eq!(
        with_the_old_entry(|kernel| {
            let mut blocks = Vec::new();
            kernel.memory().for_each_inherited(|block| blocks.push(block));
            blocks.retain(|block| kernel.memory().label_of(*block).is_none());
            let handle = Thing::folio(blocks[0]).handle();
            drop(kernel.claim_folio(handle).unwrap());
        }),
        Ok(1)
    );
    let adopted = with_the_old_entry(|kernel| {
        kernel.slabs().adopt(spec(0)).unwrap();
    });
    let Err(heirloom::Error::Restore(Error::Slab(SlabError::Slab(error)))) = adopted else {
        panic!("{adopted:?}");
    };
    assert!(matches!(error.fault, SlabFault::NotPreserved { .. }), "{error:?}");
    let claimed = with_the_old_entry(|kernel| {
        drop(kernel.claim_root(&name(Sort::Root, 1 << 20)).unwrap());
    });
    let Err(heirloom::Error::Restore(Error::Table(error))) = claimed else {
        panic!("{claimed:?}");
    };
    assert!(matches!(error.fault, Fault::NotPreserved { .. }), "{error:?}");
}
