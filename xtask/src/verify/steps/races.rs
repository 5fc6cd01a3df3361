//! Steps in which a model checker chooses the interleaving.

use super::Step;

/// The folio layer's own models, then those of the whole library.
macro_rules! loom {
    ($more:literal) => {
        concat!(
            $more,
            r#"
            RUSTFLAGS="--cfg loom" cargo test --target-dir target/loom --release -p heirloom-folio --lib loom
            RUSTFLAGS="--cfg heirloom_model" cargo test --target-dir target/model \
                -p heirloom-verify --no-default-features --test loom -- --nocapture"#
        )
    };
}

macro_rules! shuttle {
    ($more:literal) => {
        concat!(
            $more,
            r#" RUSTFLAGS="--cfg heirloom_model" cargo test --target-dir target/model \
                -p heirloom-verify --no-default-features --test shuttle -- --nocapture"#
        )
    };
}

pub(super) const STEPS: &[Step] = &[
    Step {
        name: "loom",
        shows: "every interleaving of two or three threads, on words and in whole operations, up to a bound",
        short: loom!(""),
        long: Some(loom!("export HEIRLOOM_PREEMPTIONS=1")),
        needs: None,
    },
    Step {
        name: "shuttle",
        shows: "whole operations of three and four threads, in random schedules",
        short: shuttle!(""),
        long: Some(shuttle!("HEIRLOOM_SCHEDULES=1000")),
        needs: None,
    },
];
