//! Steps that look at the source and at what it builds: nothing is attacked yet.

use super::Step;

/// The libraries and the command with the oldest compiler.
macro_rules! msrv {
    ($runs:literal) => {
        concat!(
            r#"
            sets() { cargo hack check --workspace --ignore-private --rust-version --target-dir target/msrv "$@"; }"#,
            $runs
        )
    };
}

pub(super) const STEPS: &[Step] = &[
    Step {
        name: "unsafe",
        shows: "each unsafe use has its proof, and docs/unsafe.md has each",
        short: "cargo xtask inventory --check",
        long: None,
        needs: None,
    },
    Step {
        name: "circles",
        shows: "no files of a library, or of the command, need each other in a loop",
        short: "cargo xtask circles --check",
        long: None,
        needs: None,
    },
    Step {
        name: "words",
        shows: "code and docs say which caller, owner or kernel is meant",
        short: "cargo xtask words --check",
        long: None,
        needs: None,
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
            others="examples/freestanding examples/kernel $(ls -d fuzz 2>/dev/null || true)"
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
        name: "features",
        shows: "every set of features of every library, without a warning",
        // Without --no-dev-deps, which would write manifests and, if stopped, leave them so: with
        // this resolver a library's features are not those of its tests.
        short: r#"
            # A set with `default` is the one with `std` instead.
            sets() { cargo hack clippy --workspace --ignore-private --feature-powerset --exclude-features default "$@"; }
            sets -- -D warnings
            count=$(sets --print-command-list | wc -l)
            echo "features: $count sets of features""#,
        long: None,
        needs: Some(("cargo hack --version", "no cargo-hack")),
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
        name: "hosts",
        shows: "the libraries and their tests compile where there is no Linux; what needs it says so",
        // Examples and tests of each library for one of the three, as they differ in nothing that these use.
        short: r#"
            libraries() { cargo hack check --workspace --ignore-private --exclude heirloom-cli --target "$@"; }
            libraries x86_64-pc-windows-msvc --all-targets
            libraries aarch64-apple-darwin
            libraries x86_64-unknown-freebsd
            # SENTENCE PACKAGE OPTION...: PACKAGE does not compile, for this one reason.
            refused() {
                if said=$(cargo check --target x86_64-pc-windows-msvc -p "${@:2}" 2>&1); then
                    echo "$2 compiles where there is no Linux"
                    exit 1
                fi
                echo "$said"
                [ "$(grep '^error' <<<"$said" | grep -cv "^error: could not compile")" = 1 ]
                grep -q "^error: .*$1 needs Linux, " <<<"$said"
            }
            refused 'command `heirloom`' heirloom-cli
            refused 'feature `liveupdate`' heirloom --features liveupdate
            echo "hosts: Windows, macOS, FreeBSD""#,
        long: None,
        needs: Some((
            "cargo hack --version && for target in x86_64-pc-windows-msvc aarch64-apple-darwin x86_64-unknown-freebsd; do \
                rustup target list --installed | grep -qx $target || exit 1; done",
            "no cargo-hack, or not the targets for Windows, macOS and FreeBSD",
        )),
    },
    Step {
        name: "msrv",
        shows: "every feature, and none, with the oldest compiler that is promised",
        short: msrv!(
            r#"
            sets --no-default-features
            sets --all-features
            echo "msrv: each library with no features and with all""#
        ),
        long: Some(msrv!(
            r#"
            sets --feature-powerset
            count=$(sets --feature-powerset --print-command-list | wc -l)
            echo "msrv: $count sets of features""#
        )),
        needs: Some((
            r#"cargo hack --version && rustup run "$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)" cargo --version"#,
            "no cargo-hack, or not the toolchain that rust-version names",
        )),
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
        name: "examples",
        shows: "each example in the documentation runs, or compiles where it cannot run; none is ignored",
        short: r#"
            said=$(mktemp)
            trap 'rm -f "$said"' EXIT
            cargo test -p heirloom-kho -p heirloom-folio -p heirloom-slab -p heirloom-restore -p heirloom \
                --doc --all-features | tee "$said"
            all=$(grep -c '\.\.\. ok$' "$said")
            compiled=$(grep -c -- '- compile \.\.\. ok$' "$said")
            ignored=$(grep -c '\.\.\. ignored$' "$said" || true)
            echo "examples: $((all - compiled)) run, $compiled compiled, $ignored ignored"
            [ "$ignored" = 0 ]"#,
        long: None,
        needs: None,
    },
    Step {
        name: "stack",
        shows: "boot and revive on a kernel's stack, optimised and not, and no large frame in the libraries",
        // Unoptimised: each crate as `cargo build` has it for a kernel that sets nothing, so with
        // debug information, for which each variable keeps a place of its own.
        short: r#"
            export CARGO_INCREMENTAL=0 CARGO_PROFILE_DEV_OPT_LEVEL=0 CARGO_PROFILE_DEV_DEBUG=2
            said=$(mktemp)
            trap 'rm -f "$said"' EXIT
            # As cargo optimises by itself: how much is inlined, and where, decides on frames.
            optimised() { CARGO_PROFILE_RELEASE_LTO=false cargo run -p heirloom-stack --release --target-dir target/stack -- "$@"; }
            unoptimised() { cargo run -p heirloom-stack --target-dir target/stack -- "$@"; }
            within=""
            for call in work publish seal claim adopt finish; do within="$within $call=6144"; done
            optimised boot=6144 revive=6144 $within | tee "$said"
            unoptimised boot=24576 revive=24576 | tee -a "$said"
            if optimised revive=1024; then
                echo "a limit that does not hold was not found"
                exit 1
            fi
            largest="largest frame not known"
            if cargo +nightly --version >/dev/null 2>&1; then
                sizes() {
                    RUSTFLAGS="-Z emit-stack-sizes" CARGO_PROFILE_RELEASE_LTO=off \
                        cargo +nightly build --release --target-dir target/stack-sizes "$@"
                }
                sizes -p heirloom-stack
                sizes -p heirloom --example handover
                for built in heirloom-stack examples/handover; do
                    optimised frames target/stack-sizes/release/$built 2048 | tee -a "$said"
                done
                largest=$(sed -n 's/^frames: .* the largest frame has \([0-9]*\) bytes (\(.*\))$/\1 bytes in \2/p' "$said" | sort -rn | head -n 1 | cut -c 1-120)
                largest="largest frame $largest"
            else
                echo "SKIPPED: the largest frame, without a nightly toolchain"
            fi
            took() { sed -n "s/^$1 takes \([0-9]*\) bytes.*/\1/p" "$said" | sed -n "$2p"; }
            echo "stack: boot $(took boot 1) bytes, revive $(took revive 1) bytes; unoptimised $(took boot 2), $(took revive 2); $largest""#,
        long: None,
        needs: None,
    },
];
