//! Steps that compare the library with a model of it, by single threads.

use super::Step;

// Built as those of `hostile`.
pub(super) const STEPS: &[Step] = &[
    Step {
        name: "model",
        shows: "random programs over generations do what a model of the whole library does",
        short: "HEIRLOOM_PROGRAMS=30 cargo test --workspace --test model -- --nocapture",
        long: Some("HEIRLOOM_PROGRAMS=1000 cargo test --workspace --test model -- --nocapture"),
        needs: None,
    },
    Step {
        name: "small",
        shows: "every sequence of operations in memories of a few frames, up to a length",
        short: "HEIRLOOM_DEPTH=1 cargo test --workspace --test small -- --nocapture --test-threads 1",
        long: Some(
            "HEIRLOOM_DEPTH=2 cargo test --workspace --test small -- --nocapture --test-threads 1",
        ),
        needs: None,
    },
];
