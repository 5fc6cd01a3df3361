//! Steps in which a kernel ends where it did not want to.

use super::Step;

/// The build that counts stores, whose flags verify/src/crash/step.rs explains.
macro_rules! stepping {
    ($runs:literal) => {
        concat!(
            r#"
            tsan="-C passes=forceattrs -C llvm-args=-force-attribute=sanitize_thread -C passes=tsan"
            RUSTFLAGS="--cfg heirloom_step $tsan -C llvm-args=-tsan-instrument-func-entry-exit=0" \
                CARGO_PROFILE_RELEASE_LTO=off cargo build --release --target-dir target/stepping \
                --target x86_64-unknown-linux-gnu -p heirloom-verify --no-default-features --bin crash
            crash() { target/stepping/x86_64-unknown-linux-gnu/release/crash "$@"; }
            "#,
            $runs
        )
    };
}

macro_rules! kills {
    ($runs:literal) => {
        concat!(
            r#"
            crash() { cargo run --release -p heirloom-verify --no-default-features --bin crash -- "$@"; }
            "#,
            $runs
        )
    };
}

pub(super) const STEPS: &[Step] = &[
    Step {
        name: "stepping",
        shows: "a kernel that ends before any of its stores leaves what it promised",
        short: stepping!("crash stepping 23; crash containers 7"),
        long: Some(stepping!("crash stepping 1; crash containers 1")),
        needs: Some((
            r#"[ "$(uname -sm)" = "Linux x86_64" ]"#,
            "not Linux on x86-64, whose stores are seen in the program's order",
        )),
    },
    Step {
        name: "takeover",
        shows: "successors that die before any store of their takeover, one after another, lose nothing",
        short: stepping!("crash takeover 97 17 40"),
        long: Some(stepping!("crash takeover 1 1 4000")),
        needs: Some((
            r#"[ "$(uname -sm)" = "Linux x86_64" ]"#,
            "not Linux on x86-64, whose stores are seen in the program's order",
        )),
    },
    Step {
        name: "kills",
        shows: "kernels of several threads, killed at any moment, leave what they promised",
        short: kills!("crash kills 500; crash containers 100"),
        long: Some(kills!("crash kills 10000; crash containers 2000")),
        needs: Some((r#"[ "$(uname -s)" = Linux ]"#, "not Linux")),
    },
];
