#!/usr/bin/env bash
# Every target for so many seconds under AddressSanitizer, beginning with its corpus; as many at once
# as there are processors. New inputs do not go into the corpus, but, a directory for each target, below
# the second argument, from where `cargo xtask corpus --from` takes the best; without it they are removed.
set -euo pipefail
seconds=${1:?seconds for each target}
found=${2:+$(mkdir -p "$2" && realpath "$2")}
# Other inputs are tried with another.
export HEIRLOOM_SEED=${HEIRLOOM_SEED:-1}
# Where what is freed was allocated is not written down, which takes an eighth of the time: an input that
# fails says it when it is run alone.
export ASAN_OPTIONS=malloc_context_size=0${ASAN_OPTIONS:+:$ASAN_OPTIONS}
cd "$(dirname "$0")"
# Comparisons are not traced: what is tampered with are fields of sound tables, no words to guess.
cargo +nightly fuzz build --no-trace-compares
if [ -z "$found" ]; then
    found=$(mktemp -d)
    trap 'rm -rf "$found"' EXIT
fi
one() {
    mkdir -p "$2/$1" "corpus/$1"
    cargo +nightly fuzz run --no-trace-compares "$1" "$2/$1" "corpus/$1" -- \
        -max_total_time="$3" -rss_limit_mb=4096 -timeout=20 -max_len=512 -len_control=0 \
        -seed="$HEIRLOOM_SEED" -print_final_stats=1 >"$2/$1.log" 2>&1 || {
        tail -n 60 "$2/$1.log"
        # What a reader of the last lines alone needs: what failed, where, and the input.
        echo "fuzz: $1, seed $HEIRLOOM_SEED:"
        grep -aE -A1 'panicked at|ERROR: |SUMMARY: |Base64: |^error' "$2/$1.log" | cut -c1-2000
        exit 1
    }
}
export -f one
cargo +nightly fuzz list | xargs -P "$(nproc)" -I{} bash -c 'one "$@"' _ {} "$found" "$seconds"
targets=$(cargo +nightly fuzz list | wc -l)
runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$found"/*.log | awk '{ n += $1 } END { print n }')
echo "fuzz: $runs handovers, $targets targets, $seconds s each, seed $HEIRLOOM_SEED, no crash"
