//! Every bit of a handover, turned over one at a time.
//!
//! `HEIRLOOM_BITS=all`: of every kind of handover all bits. `HEIRLOOM_BITS=n`: every n-th, of the
//! smallest of all of them, and of the others of all where something stands and one in each empty
//! word; of what no seal covers a part of these. `HEIRLOOM_UNSEALED=n`: of the unsealed ones every
//! n-th of these. Unless told otherwise few enough to be tried with all other tests.

use heirloom::restore::SealPolicy;
use heirloom_testkit::mix;
use heirloom_verify::bits::{Blamed, Part, Seen, Which, blame, parts_of, refuse};
use heirloom_verify::contract::{Attempt, Verdict, take_over};
use heirloom_verify::world::{Left, PAGE, Place, Shape, TestMachine};

/// Whether this is the long form.
fn all() -> bool {
    std::env::var("HEIRLOOM_BITS").is_ok_and(|value| value == "all")
}

/// Every which of them; 1 for each.
fn every() -> usize {
    let every = std::env::var("HEIRLOOM_BITS").ok().and_then(|value| value.parse().ok());
    if all() { 1 } else { every.unwrap_or(23) }
}

/// Which bits of a kind of handover are turned over.
fn which(shape: Shape) -> Which {
    if all() || shape == Shape::Bare { Which::All } else { Which::Some }
}

/// The bits of a part that are turned over, with who sees each.
fn bits(machine: &TestMachine, part: &Part, which: Which) -> Vec<(usize, Seen)> {
    let end = part.bytes.iter().map(|(range, _)| range.end).max().unwrap_or(0);
    let words = machine.words(part.addr, end);
    let seen = |bit: usize| {
        part.bytes.iter().find(|(range, _)| range.contains(&(bit / 8))).map(|(_, seen)| *seen)
    };
    which.of(&words).filter_map(|bit| Some((bit, seen(bit)?))).step_by(every()).collect()
}

fn header(left: &Left) -> heirloom::kho::PhysAddr {
    let header = left.tables.iter().find(|table| table.place == Place::Header);
    header.expect("every handover has one").addr
}

/// What memory holds but for scratch.
fn but_scratch<'m>(machine: &TestMachine, memory: &'m [u8]) -> [&'m [u8]; 2] {
    let start = (machine.scratch().addr().get() - machine.all().addr().get()) as usize;
    let end = start + machine.scratch().bytes() as usize;
    [&memory[..start], &memory[end..]]
}

#[test]
fn every_bit_that_a_seal_covers_is_named() {
    let (mut flipped, mut itself, mut tables) = (0_u64, 0_u64, 0_u64);
    for shape in Shape::ALL {
        let (machine, left) = shape.build(true);
        assert_eq!(blame(&machine, header(&left)), Blamed::Nobody);
        for part in parts_of(&machine, &left) {
            tables += 1;
            for (bit, seen) in bits(&machine, &part, which(shape)) {
                let due = match seen {
                    Seen::Seal(kind) => Blamed::Sealed(kind, part.addr),
                    Seen::Header => Blamed::Header(part.addr),
                    Seen::Table => Blamed::Table,
                    Seen::Nobody => continue,
                };
                machine.flip(part.addr, bit);
                assert_eq!(blame(&machine, header(&left)), due, "{shape:?}: bit {bit} of {part:?}");
                itself += u64::from(refuse(&machine, &left, &part, bit));
                flipped += 1;
                machine.flip(part.addr, bit);
                if part.what == "scratch list" {
                    // Where scratch is, this list alone says.
                    machine.load(&left.saved);
                }
            }
            // Refused before anything but scratch was written.
            let now = machine.save();
            let same = but_scratch(&machine, &now) == but_scratch(&machine, &left.saved);
            assert!(same, "{shape:?}: written after {part:?}");
        }
        assert!(machine.try_revive(left.entry, SealPolicy::Required).is_ok(), "all is as it was");
    }
    println!(
        "bits: {flipped} flipped, {flipped} named, in {tables} tables of {} handovers; \
         a takeover was refused every time, and named {itself} of them itself",
        Shape::ALL.len()
    );
    assert!(itself > flipped / 2);
}

#[test]
fn what_no_seal_covers_is_this_and_nothing_else() {
    let mut flipped = std::collections::BTreeMap::<&str, u64>::new();
    for shape in Shape::ALL {
        let (machine, left) = shape.build(true);
        for part in parts_of(&machine, &left) {
            let not_covered = bits(&machine, &part, which(shape));
            let not_covered = not_covered.into_iter().filter(|(_, seen)| *seen == Seen::Nobody);
            for (bit, _) in not_covered.step_by(if all() { 1 } else { 11 }) {
                machine.flip(part.addr, bit);
                assert_eq!(blame(&machine, header(&left)), Blamed::Nobody, "{part:?}: bit {bit}");
                let revived = machine.try_revive(left.entry, SealPolicy::Required);
                assert!(revived.is_ok(), "{part:?}: bit {bit}: {:?}", revived.err());
                *flipped.entry(part.what).or_default() += 1;
                machine.load(&left.saved);
            }
        }
    }
    println!("bits: not covered, and taken over all the same: {flipped:?}");
    let kinds: Vec<_> = flipped.into_keys().collect();
    let due = [
        "area chunk",
        "object states",
        "published bytes",
        "record block",
        "seal's table",
        "slab header",
        "subtree page",
    ];
    assert_eq!(kinds, due);
}

#[test]
fn no_bit_of_an_unsealed_handover_gives_a_frame_two_owners() {
    let every =
        std::env::var("HEIRLOOM_UNSEALED").ok().and_then(|n| n.parse().ok()).unwrap_or(1999);
    let (mut flipped, mut refused, mut at) = (0_u64, 0_u64, 0_u64);
    for shape in Shape::ALL {
        let (machine, left) = shape.build(false);
        let handles = left.handles();
        for table in &left.tables {
            // Of the header all of its page.
            let bytes = if table.place == Place::Header { PAGE as usize } else { table.bytes };
            let words = machine.words(table.addr, bytes);
            for bit in which(shape).of(&words).filter(|bit| *bit < bytes * 8) {
                at += 1;
                if at % every != 0 {
                    continue;
                }
                machine.flip(table.addr, bit);
                let attempt = Attempt {
                    entry: left.entry,
                    policy: SealPolicy::Checked,
                    handles: &handles,
                    kept: &[],
                    whim: mix(at),
                };
                flipped += 1;
                match take_over(&machine, &attempt) {
                    Verdict::Refused(_) => refused += 1,
                    Verdict::Lived { .. } => {}
                }
                machine.load(&left.saved);
            }
        }
    }
    println!(
        "bits: unsealed: {flipped} flipped, {refused} refused by name, {} taken over without a \
         frame of two owners",
        flipped - refused
    );
    assert!(refused > flipped / 20 && refused < flipped);
}
