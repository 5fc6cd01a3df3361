//! What the scripts call.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::crash::journal::{Call, Line};
use crate::crash::things::{Sort, Thing};

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
            Line::Leaving(_) | Line::Began(_) | Line::Swept | Line::Died(..) => {}
        }
    }
    (calls, on)
}

#[test]
fn the_scripts_call_everything_for_every_sort_of_thing() {
    use Call::{Adopt, Claim, Finish, Revive, Upgrade};
    let (ground, journal) = (Ground::new().unwrap(), Journal::new().unwrap());
    Script::Life.run(&ground, &journal, u64::MAX);
    let (calls, on) = made(&journal);
    let later = [Adopt, Claim, Finish, Revive, Upgrade];
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
    assert!(missed.is_empty(), "{missed:?}");
    for sort in ["Folio", "Run", "Buffer", "large Buffer", "Object", "Area", "Records", "Root"] {
        assert!(on.contains(&format!("Claim {sort}")), "{sort}: {on:#?}");
    }
    let (ground, journal) = (Ground::new().unwrap(), Journal::new().unwrap());
    Script::Life.run(&ground, &journal, u64::MAX);
    Script::Sweep.run(&ground, &journal, u64::MAX);
    let (_, on) = made(&journal);
    for sort in ["Folio", "Buffer", "Object"] {
        assert!(on.contains(&format!("Finish {sort}")), "{sort}: {on:#?}");
    }
}
