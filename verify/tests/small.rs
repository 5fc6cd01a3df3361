//! Small worlds, every sequence of operations up to a length: `HEIRLOOM_DEPTH` more steps than can
//! be tried with all other tests.

use heirloom_testkit::TestMachine;
use heirloom_verify::small::{Found, Frames, Whole, search};

fn deeper() -> usize {
    std::env::var("HEIRLOOM_DEPTH").ok().and_then(|value| value.parse().ok()).unwrap_or(0)
}

fn report(what: &str, depth: usize, found: Found) {
    let Found { states, steps, sequences } = found;
    println!(
        "small: {what}: depth {depth}, {states} states, {steps} steps checked, {sequences} sequences"
    );
    assert!(states > 100 && sequences > steps);
}

#[test]
fn the_folio_layer_in_sixteen_frames_or_less() {
    let depth = 5 + deeper();
    // Aligned; across the end of a word of 64 frames; two ranges that meet within a block; apart.
    let worlds: [&[(u64, u64)]; 4] =
        [&[(0, 16)], &[(9, 13)], &[(0, 7), (7, 9)], &[(1, 11), (13, 5)]];
    for ranges in worlds {
        let (machine, map) = Frames::machine(ranges);
        let found = search(&mut Frames::new(&machine, &map), depth);
        report(&format!("frames {ranges:?}"), depth, found);
    }
}

#[test]
fn the_whole_library_in_a_few_frames() {
    let depth = 3 + deeper();
    for frames in [42, 56] {
        let machine = TestMachine::small(frames);
        let found = search(&mut Whole::new(&machine), depth);
        report(&format!("library, {frames} frames"), depth, found);
    }
}
