//! The steps of `cargo xtask verify`, as data.

use std::path::Path;
use std::process::{Command, Stdio};

/// A step: a command for the short form and one for the long form.
pub(crate) struct Step {
    /// What it is called on the command line.
    pub(crate) name: &'static str,
    /// What it shows, in a few words.
    pub(crate) shows: &'static str,
    /// The command, as bash reads it: minutes.
    short: &'static str,
    /// The command of the long form, where it differs.
    long: Option<&'static str>,
    /// A command that succeeds where the step can run, and what is missing if it does not.
    needs: Option<(&'static str, &'static str)>,
}

impl Step {
    /// The command that is run.
    pub(crate) fn line(&self, long: bool) -> &'static str {
        self.long.filter(|_| long).unwrap_or(self.short)
    }

    /// What this machine lacks for the step, if anything.
    pub(crate) fn missing(&self, root: &Path) -> Option<&'static str> {
        let (command, what) = self.needs?;
        let quiet = Command::new("bash")
            .args(["-c", command])
            .current_dir(root)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        (!quiet.is_ok_and(|status| status.success())).then_some(what)
    }
}

/// The build that counts stores, whose flags verify/src/crash/step.rs explains.
macro_rules! stepping {
    ($runs:literal) => {
        concat!(
            r#"
            tsan="-C passes=forceattrs -C llvm-args=-force-attribute=sanitize_thread -C passes=tsan"
            RUSTFLAGS="--cfg heirloom_step $tsan -C llvm-args=-tsan-instrument-func-entry-exit=0" \
                CARGO_PROFILE_RELEASE_LTO=off cargo build --release --target-dir target/stepping \
                --target x86_64-unknown-linux-gnu -p heirloom-verify --bin crash
            crash() { target/stepping/x86_64-unknown-linux-gnu/release/crash stepping "$@"; }
            "#,
            $runs
        )
    };
}

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

/// The folio layer's own models, then those of the whole library.
macro_rules! loom {
    ($more:literal) => {
        concat!(
            r#"
            RUSTFLAGS="--cfg loom" cargo test --target-dir target/loom --release -p heirloom-folio --lib loom
            "#,
            $more,
            r#" RUSTFLAGS="--cfg heirloom_model" cargo test --target-dir target/model \
                -p heirloom-verify --test loom -- --nocapture"#
        )
    };
}

macro_rules! shuttle {
    ($more:literal) => {
        concat!(
            $more,
            r#" RUSTFLAGS="--cfg heirloom_model" cargo test --target-dir target/model \
                -p heirloom-verify --test shuttle -- --nocapture"#
        )
    };
}

/// All of them, in the order in which they run.
pub(crate) const STEPS: &[Step] = &[
    Step {
        name: "unsafe",
        shows: "each unsafe use has its proof, and docs/unsafe.md has each",
        short: "cargo xtask inventory --check",
        long: None,
        needs: None,
    },
    Step {
        name: "api",
        shows: "the public items are those under review in docs/api",
        short: "cargo xtask api",
        long: None,
        needs: Some((
            "cargo +nightly public-api --version",
            "no cargo-public-api, or no nightly toolchain",
        )),
    },
    Step {
        name: "features",
        shows: "every set of features of every library, without a warning",
        // Without --no-dev-deps, which would write manifests and, if stopped, leave them so: with
        // this resolver a library's features are not those of its tests.
        short: r#"
            sets() { cargo hack clippy --workspace --ignore-private --feature-powerset "$@"; }
            sets -- -D warnings
            echo "features: $(sets --print-command-list | wc -l) sets of features""#,
        long: None,
        needs: Some(("cargo hack --version", "no cargo-hack")),
    },
    Step {
        name: "examples",
        shows: "each example in the documentation runs, or compiles where it cannot run; none is ignored",
        short: r#"
            said=$(mktemp)
            trap 'rm -f "$said"' EXIT
            for library in heirloom-folio heirloom-slab heirloom-restore heirloom-linux heirloom; do
                cargo test -p $library --doc --all-features | tee -a "$said"
            done
            all=$(grep -c '\.\.\. ok$' "$said")
            compiled=$(grep -c -- '- compile \.\.\. ok$' "$said")
            ignored=$(grep -c '\.\.\. ignored$' "$said" || true)
            echo "examples: $((all - compiled)) run, $compiled compiled, $ignored ignored"
            [ "$ignored" = 0 ]"#,
        long: None,
        needs: None,
    },
    Step {
        name: "bare",
        shows: "every set of features without std, where there is no operating system",
        short: r#"
            for target in x86_64-unknown-none aarch64-unknown-none; do
                cargo hack check --workspace --ignore-private --exclude heirloom-cli --target $target \
                    --feature-powerset --exclude-features default,std,liveupdate
            done
            echo "bare: x86_64-unknown-none, aarch64-unknown-none""#,
        long: None,
        needs: Some((
            "cargo hack --version && rustup target list --installed | grep -q x86_64-unknown-none \
                && rustup target list --installed | grep -q aarch64-unknown-none",
            "no cargo-hack, or not the targets x86_64-unknown-none and aarch64-unknown-none",
        )),
    },
    Step {
        name: "msrv",
        shows: "every set of features with the oldest compiler that is promised",
        short: r#"
            sets() { cargo hack check --workspace --ignore-private --rust-version --feature-powerset "$@"; }
            sets --target-dir target/msrv
            echo "msrv: $(sets --print-command-list | wc -l) sets of features""#,
        long: None,
        needs: Some((
            r#"cargo hack --version && rustup run "$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)" cargo --version"#,
            "no cargo-hack, or not the toolchain that rust-version names",
        )),
    },
    Step {
        name: "deny",
        shows: "licences, sources and versions of all that is built with, and advisories on it",
        short: r#"
            check() { cargo deny --workspace --config deny.toml --manifest-path "$1/Cargo.toml" check "${@:2}"; }
            # An exception is one workspace's; the others use less of what is allowed.
            mine="-A license-exception-not-encountered"
            check . $mine licenses bans sources
            less="$mine -A license-not-encountered -A unmatched-skip -A unnecessary-skip"
            others="examples/freestanding $(ls -d fuzz 2>/dev/null || true)"
            for at in $others; do check $at $less licenses bans sources; done
            if timeout 120 cargo deny fetch db; then
                for at in . $others; do check $at advisories; done
            else
                echo "SKIPPED: advisories, as their database cannot be fetched"
            fi
            count=$(for at in . $others; do cat $at/Cargo.lock; done | awk '/^name/ { name = $3 } /^version = "/ { print name, $3 }' | sort -u | wc -l)
            echo "deny: $count packages""#,
        long: None,
        needs: Some(("cargo deny --version", "no cargo-deny")),
    },
    Step {
        name: "worlds",
        shows: "what the attacks stand on: handovers of every kind, and what must be true of any takeover",
        short: "cargo test -p heirloom-verify --lib --bins --test contract --test crash",
        long: None,
        needs: None,
    },
    Step {
        name: "corpus",
        shows: "what fuzzing found worth keeping, and every crash it ever found, keeps the contract",
        short: "cargo test -p heirloom-verify --features image --test corpus --test found --test bounded -- --nocapture",
        long: None,
        needs: None,
    },
    Step {
        name: "fuzz",
        shows: "handovers tampered with are refused by place and reason or taken over soundly, under AddressSanitizer",
        short: "fuzz/run.sh 10",
        long: Some("fuzz/run.sh 1200"),
        needs: Some((
            "cargo +nightly fuzz --version",
            "no cargo-fuzz (`cargo install cargo-fuzz`), or no nightly toolchain",
        )),
    },
    Step {
        name: "model",
        shows: "random programs over generations do what a model of the whole library does",
        short: "HEIRLOOM_PROGRAMS=30 cargo test -p heirloom-verify --test model -- --nocapture",
        long: Some(
            "HEIRLOOM_PROGRAMS=1000 cargo test -p heirloom-verify --test model -- --nocapture",
        ),
        needs: None,
    },
    Step {
        name: "stepping",
        shows: "a kernel that ends before any of its stores leaves what it promised",
        short: stepping!("crash 23"),
        long: Some(stepping!("crash 1")),
        needs: Some((
            r#"[ "$(uname -sm)" = "Linux x86_64" ]"#,
            "not Linux on x86-64, whose stores are seen in the program's order",
        )),
    },
    Step {
        name: "kills",
        shows: "kernels of several threads, killed at any moment, leave what they promised",
        short: "cargo run --release -p heirloom-verify --bin crash -- kills 500",
        long: Some("cargo run --release -p heirloom-verify --bin crash -- kills 10000"),
        needs: Some((r#"[ "$(uname -s)" = Linux ]"#, "not Linux")),
    },
    Step {
        name: "small",
        shows: "every sequence of operations in memories of a few frames, up to a length",
        short: "HEIRLOOM_DEPTH=1 cargo test -p heirloom-verify --test small -- --nocapture --test-threads 1",
        long: Some(
            "HEIRLOOM_DEPTH=2 cargo test -p heirloom-verify --test small -- --nocapture --test-threads 1",
        ),
        needs: None,
    },
    Step {
        name: "bits",
        shows: "every bit that a seal covers is named; no bit gives a frame two owners",
        short: "HEIRLOOM_BITS=1 HEIRLOOM_UNSEALED=97 cargo test -p heirloom-verify --test bits -- --nocapture",
        long: Some(
            "HEIRLOOM_BITS=all HEIRLOOM_UNSEALED=29 \
                cargo test --release -p heirloom-verify --test bits -- --nocapture",
        ),
        needs: None,
    },
    Step {
        name: "loom",
        shows: "every interleaving of two or three threads, on words and in whole operations, up to a bound",
        short: loom!(""),
        long: Some(loom!("HEIRLOOM_PREEMPTIONS=1")),
        needs: None,
    },
    Step {
        name: "shuttle",
        shows: "whole operations of three and four threads, in random schedules",
        short: shuttle!(""),
        long: Some(shuttle!("HEIRLOOM_SCHEDULES=1000")),
        needs: None,
    },
    Step {
        name: "tsan",
        shows: "no access of the tests with threads lacks an ordering",
        short: sanitized!(
            "tsan",
            "thread",
            "-Zbuild-std",
            "-p heirloom-folio -p heirloom-slab --test concurrent --test threads",
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
        name: "asan",
        shows: "no test of the layers leaves its memory",
        // Memory that tests leak on purpose is a kernel's.
        short: sanitized!(
            "asan",
            "address",
            "",
            "-p heirloom-folio -p heirloom-slab -p heirloom-restore -p heirloom-linux --lib --tests"
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
        // Left out is what would take it minutes.
        short: r#"
            tests() { cargo +nightly miri test --target-dir target/miri -p "$@" | tee -a "$said"; }
            export MIRIFLAGS="-Zmiri-strict-provenance"
            said=$(mktemp)
            trap 'rm -f "$said"' EXIT
            tests heirloom-folio --lib -- kinds tracker::key
            tests heirloom-folio --test concurrent -- of_two frames_allocated
            tests heirloom-slab --test objects -- --skip empty_slabs --skip figures_add_up --skip little_memory
            tests heirloom-slab --test generations -- free_places what_was_kept
            tests heirloom-restore --lib -- name:: entry:: scratch::
            echo "miri: $(grep -c '\.\.\. ok$' "$said") tests""#,
        long: None,
        needs: Some(("cargo +nightly miri --version", "no nightly toolchain with miri")),
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    /// What is tried is told where a reader looks for it.
    #[test]
    fn every_step_has_its_row_in_the_page() {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/trust.md");
        let page = std::fs::read_to_string(page).expect("docs/trust.md is there");
        let silent = |step: &&Step| !page.contains(&format!("| `{}` |", step.name));
        let silent: Vec<&str> = STEPS.iter().filter(silent).map(|step| step.name).collect();
        assert!(silent.is_empty(), "docs/trust.md has no row for {silent:?}");
    }

    /// The tests of heirloom-verify are short by themselves; as steps they are what the page tells.
    #[test]
    fn every_test_of_the_attacks_is_a_steps() {
        let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../verify/tests");
        let files = std::fs::read_dir(tests).expect("verify/tests is there");
        let paths = files.map(|file| file.expect("verify/tests can be read").path());
        let named = |stem: &str| {
            let option = format!("--test {stem}");
            STEPS.iter().any(|step| {
                let mut words = step.short.split(&option).skip(1);
                words.any(|rest| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_'))
            })
        };
        let stems = paths.filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()));
        let idle: Vec<String> = stems.filter(|stem| !named(stem)).collect();
        assert!(idle.is_empty(), "no step runs {idle:?}");
    }
}
