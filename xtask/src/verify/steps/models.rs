//! Steps that compare the library with a model of it, by single threads.

use super::Step;

/// The small worlds of the library, and those of one layer whose kernels die.
macro_rules! small {
    ($depth:literal) => {
        concat!(
            "export HEIRLOOM_DEPTH=",
            $depth,
            r#"
            # What is stopped before a store is written with atomics that a model checker watches.
            said=$(mktemp)
            trap 'rm -f "$said"' EXIT
            for wrapper in "${RUSTC_WORKSPACE_WRAPPER:-}" "$PWD/.ci/page-16k" "$PWD/.ci/page-64k"; do
                RUSTC_WORKSPACE_WRAPPER="$wrapper" RUSTFLAGS="--cfg heirloom_model" \
                    cargo test --target-dir target/model -p heirloom-folio -p heirloom-restore --lib \
                    -- --nocapture predecessor::deaths predecessor::turns window_tests at_any_instant | tee -a "$said"
            done
            for ran in deaths turns window_tests at_any_instant; do
                [ "$(grep -c "^test [^ ]*$ran" "$said")" -ge 3 ]
            done
            cargo test --workspace --test small -- --nocapture --test-threads 1"#
        )
    };
}

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
        short: small!("1"),
        long: Some(small!("2")),
        needs: None,
    },
];
