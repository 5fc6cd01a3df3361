//! Steps that tamper with a handover's bytes, and what these stand on.

use super::Step;

// All with the features that `cargo test --workspace` has, so that all of it is built once.
pub(super) const STEPS: &[Step] = &[
    Step {
        name: "worlds",
        shows: "what the attacks stand on: handovers of every kind, and what must be true of any takeover",
        short: "cargo test --workspace --test contract --test crash",
        long: None,
        needs: None,
    },
    Step {
        name: "corpus",
        shows: "what fuzzing found worth keeping, and every crash it ever found, keeps the contract",
        short: "cargo test --workspace --test corpus --test found --test bounded -- --nocapture",
        long: None,
        needs: None,
    },
    Step {
        name: "bits",
        shows: "every bit that a seal covers is named; no bit gives a frame two owners",
        short: "HEIRLOOM_BITS=1 HEIRLOOM_UNSEALED=97 cargo test --workspace --test bits -- --nocapture",
        long: Some(
            "HEIRLOOM_BITS=all HEIRLOOM_UNSEALED=29 \
                cargo test --release -p heirloom-verify --test bits -- --nocapture",
        ),
        needs: None,
    },
    Step {
        name: "readers",
        shows: "files of every format that were sound once are read or refused, and no more of them than there is",
        short: "cargo test --workspace --test readers -- --nocapture",
        long: Some(
            "HEIRLOOM_INPUTS=1000000 cargo test --release -p heirloom-cli --test readers -- --nocapture",
        ),
        needs: None,
    },
    Step {
        name: "fuzz",
        shows: "handovers tampered with are refused by place and reason or taken over soundly, under AddressSanitizer",
        // Built in two thirds of the time, and run for as many handovers as 10 seconds are if optimised.
        short: "CARGO_PROFILE_RELEASE_OPT_LEVEL=1 fuzz/run.sh 14",
        long: Some("fuzz/run.sh 1200"),
        needs: Some((
            "cargo +nightly fuzz --version",
            "no cargo-fuzz (`cargo install cargo-fuzz`), or no nightly toolchain",
        )),
    },
];
