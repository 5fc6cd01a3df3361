//! Steps that run tests where the compiler or an interpreter watches each access.

use super::Step;

/// Tests under a sanitizer of the nightly compiler.
macro_rules! sanitized {
    ($name:literal, $sanitizer:literal, $build:literal, $($tests:literal),+) => {
        concat!(
            r#"
            tests() {
                RUSTFLAGS="-Zsanitizer="#, $sanitizer, r#"" cargo +nightly test "#, $build, r#" \
                    --target x86_64-unknown-linux-gnu --target-dir target/"#, $sanitizer, r#" "$@"
            }
            export ASAN_OPTIONS=detect_leaks=0
            said=$(mktemp)
            trap 'rm -f "$said"' EXIT
            "#,
            $("tests ", $tests, " | tee -a \"$said\"\n",)+
            r#"echo ""#, $name, r#": $(grep -c '\.\.\. ok$' "$said") tests, no report""#
        )
    };
}

/// The programs of safe calls under `ThreadSanitizer`, then under Miri, which
/// runs smaller ones. As they are they run with the other tests, and in the long form here.
macro_rules! safe {
    ($more:literal) => {
        concat!(
            r#"
            said=$(mktemp)
            trap 'rm -f "$said"' EXIT
            # At once: an interpreter uses one processor. What is waited for is a shell, which ends as the pipe in it:
            # of a pipe that has ended before it is waited for, only the last command's status is known.
            both() {
                (programs "$@") &
                "$@" -p heirloom-slab --test safety -- --nocapture | tee -a "$said"
                wait $!
            }
            programs() { "$@" -p heirloom-verify --test safe --no-default-features -- --nocapture | tee -a "$said"; }
            "#,
            $more,
            r#"
            tsan="--target x86_64-unknown-linux-gnu --target-dir target/thread"
            RUSTFLAGS="-Zsanitizer=thread" both cargo +nightly test -Zbuild-std $tsan
            unset HEIRLOOM_SAFE
            # Older values, which Miri keeps for each size of access apart, end in an error of its own where slabs are
            # adopted (see the step `miri`): of these programs it looks at the order alone.
            MIRIFLAGS="-Zmiri-strict-provenance -Zmiri-disable-weak-memory-emulation" \
                both cargo +nightly miri test --target-dir target/miri
            echo "safe: $(grep -c '^seed' "$said") programs, $(grep -c 'rounds,' "$said") attacks, no report""#
        )
    };
}

pub(super) const STEPS: &[Step] = &[
    Step {
        name: "pages",
        shows: "the layers' tests pass where a page has 16 KiB or 64 KiB, with which the tree has another geometry",
        short: r#"
            said=$(mktemp)
            trap 'rm -f "$said"' EXIT
            for page in 16k 64k; do
                RUSTC_WORKSPACE_WRAPPER="$PWD/.ci/page-$page" cargo test \
                    -p heirloom-kho -p heirloom-folio -p heirloom-slab -p heirloom-restore --lib --tests | tee -a "$said"
                RUSTC_WORKSPACE_WRAPPER="$PWD/.ci/page-$page" cargo test -p heirloom-cli --test pages | tee -a "$said"
            done
            echo "pages: $(grep -c '\.\.\. ok$' "$said") tests""#,
        long: None,
        needs: None,
    },
    Step {
        name: "tsan",
        shows: "no access of the tests with threads lacks an ordering",
        short: sanitized!(
            "tsan",
            "thread",
            "-Zbuild-std",
            "-p heirloom-folio -p heirloom-slab --test concurrent --test threads --test discarding",
            "-p heirloom --test promises -- threads claims"
        ),
        long: None,
        needs: Some((
            r#"[ "$(uname -sm)" = "Linux x86_64" ] \
                && test -e "$(rustc +nightly --print sysroot)/lib/rustlib/src/rust/library/Cargo.lock""#,
            "not Linux on x86-64, or no nightly toolchain with rust-src",
        )),
    },
    Step {
        name: "safe",
        shows: "random programs of safe calls alone, on several threads, change no owner's bytes",
        short: safe!(""),
        long: Some(safe!("export HEIRLOOM_SAFE=200\nboth cargo test")),
        needs: Some((
            r#"[ "$(uname -sm)" = "Linux x86_64" ] && cargo +nightly miri --version \
                && test -e "$(rustc +nightly --print sysroot)/lib/rustlib/src/rust/library/Cargo.lock""#,
            "not Linux on x86-64, or no nightly toolchain with rust-src and miri",
        )),
    },
    Step {
        name: "asan",
        shows: "no test of the layers leaves its memory",
        // Memory that tests leak on purpose is a kernel's.
        short: sanitized!(
            "asan",
            "address",
            "",
            "-p heirloom-kho -p heirloom-folio -p heirloom-slab -p heirloom-restore --lib --tests"
        ),
        long: None,
        needs: Some((
            r#"[ "$(uname -sm)" = "Linux x86_64" ] && cargo +nightly --version"#,
            "not Linux on x86-64, or no nightly toolchain",
        )),
    },
    Step {
        name: "miri",
        shows: "what an interpreter takes some seconds for keeps the rules of the language",
        // Left out is what would take it minutes. Where slabs are adopted their states are read eight at a time by the one call
        // that has them: older values, which Miri keeps for each size of access apart, end in an error of its own there.
        short: r#"
            tests() { cargo +nightly miri test --target-dir target/miri -p "$@" | tee -a "$said"; }
            export MIRIFLAGS="-Zmiri-strict-provenance"
            said=$(mktemp)
            trap 'rm -f "$said"' EXIT
            tests heirloom-kho --lib -- tree::key name:: scratch::
            tests heirloom-folio --lib -- frame_type
            tests heirloom-folio --test concurrent -- of_two frames_allocated
            tests heirloom-slab --test objects -- --skip empty_slabs --skip figures_add_up --skip little_memory
            MIRIFLAGS="$MIRIFLAGS -Zmiri-disable-weak-memory-emulation" \
                tests heirloom-slab --test generations -- free_places what_was_kept
            tests heirloom-collections --lib -- is_what is_opened_once is_whole was_pushed
            echo "miri: $(grep -c '\.\.\. ok$' "$said") tests""#,
        long: None,
        needs: Some(("cargo +nightly miri --version", "no nightly toolchain with miri")),
    },
];
