//! What the scripts call.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::crash::check::{Verdict, check};
use crate::crash::coverage::{Coverage, calls};
use crate::crash::journal::{Call, Line};

/// Which calls a script made, and on what.
fn made(journal: &Journal) -> (BTreeSet<Call>, BTreeSet<String>) {
    let (mut calls, mut on) = (BTreeSet::new(), BTreeSet::new());
    let mut last = None;
    let mut things = BTreeMap::<u32, TestObject>::new();
    for line in journal.lines(0) {
        match line {
            Line::Open(call, ..) => last = Some(call),
            Line::Close => calls.extend(last.take()),
            Line::May(id, way) | Line::Is(id, way) => {
                if let Some(thing) = way {
                    things.insert(id, thing);
                }
                if let (Some(call), Some(thing)) = (last, things.get(&id)) {
                    let large = thing.kind == ObjectKind::Buffer && !thing.is_small();
                    let large = if large { "large " } else { "" };
                    on.insert(format!("{call:?} {large}{:?}", thing.kind));
                }
            }
            _ => {}
        }
    }
    (calls, on)
}

#[test]
fn the_scripts_call_everything_for_every_sort_of_thing() {
    use Call::{Adopt, Claim, Finish, Revive, Upgrade};
    let (machine, journal) = (arena::create().unwrap(), Journal::new().unwrap());
    Script::Life.run(&machine, &journal, u64::MAX);
    let (calls, on) = made(&journal);
    let later = [Adopt, Claim, Finish, Revive, Upgrade];
    let missed: Vec<_> = Call::ALL.iter().filter(|call| !calls.contains(call)).collect();
    assert_eq!(missed, later.iter().collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>());
    for call in ["Preserve", "Unpreserve"] {
        for sort in ["Folio", "Run", "Buffer", "large Buffer", "Object"] {
            assert!(on.contains(&format!("{call} {sort}")), "{call} {sort}: {on:#?}");
        }
    }
    Script::TakeOver.run(&machine, &journal, u64::MAX);
    let (calls, on) = made(&journal);
    let missed: Vec<_> = Call::ALL.iter().filter(|call| !calls.contains(call)).collect();
    assert!(missed.is_empty(), "{missed:?}");
    for sort in ["Folio", "Run", "Buffer", "large Buffer", "Object", "Area", "Records", "Root"] {
        assert!(on.contains(&format!("Claim {sort}")), "{sort}: {on:#?}");
    }
    let (machine, journal) = (arena::create().unwrap(), Journal::new().unwrap());
    Script::Life.run(&machine, &journal, u64::MAX);
    Script::Sweep.run(&machine, &journal, u64::MAX);
    let (_, on) = made(&journal);
    for sort in ["Folio", "Buffer", "Object"] {
        assert!(on.contains(&format!("Finish {sort}")), "{sort}: {on:#?}");
    }
}

/// What the step `takeover` demands of its stops, here of calls that are made at all. And each script leaves
/// what its kernels were promised, through the entry that is there in the end.
#[test]
fn takeovers_make_each_call_of_a_takeover_and_lose_nothing() {
    let (mut seen, mut unseen) = (Coverage::default(), Coverage::default());
    for script in Script::TAKEOVERS {
        let (machine, journal) = (arena::create().unwrap(), Journal::new().unwrap());
        script.after().unwrap().run(&machine, &journal, u64::MAX);
        script.prepare(&machine, &journal).unwrap();
        let before = journal.lines(0).len();
        script.run(&machine, &journal, u64::MAX);
        for (call, _) in calls(&journal.lines(0)[before..]) {
            let of = if call.starts_with("Claim") { &mut unseen } else { &mut seen };
            of.add(&call, 1);
        }
        let verdict = check(&machine, &journal, true);
        assert!(matches!(verdict, Verdict::Whole(things) if things > 3), "{script:?}: {verdict:?}");
    }
    for of_both in ["Claim Object", "Claim Buffer"] {
        seen.add(of_both, 1);
    }
    // Of a call that tells of several parts, the last is what is named here.
    for part in ["Name", "Block", "Slab", "Object"] {
        seen.add(&format!("Finish {part}"), 1);
    }
    seen.is_whole_of_seen().unwrap();
    unseen.is_whole_of_unseen().unwrap();
}
