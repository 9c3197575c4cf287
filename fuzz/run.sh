#!/usr/bin/env bash
# Looks for bytes that a target cannot bear, on any toolchain.
#
#   fuzz/run.sh                 every target, 60 s each, two at a time
#   fuzz/run.sh 600 csv vault   these, 600 s each
#
# What is found is kept in fuzz/artifacts/, to be repeated with
# fuzz/run.sh 0 TARGET FILE; its bytes then belong into fuzz/corpus/TARGET/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

seconds=${1:-60}
shift || true
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/../target}

# Only the crates here are instrumented, beside what other builds made of them;
# what they depend on is shared.
RUSTC_WORKSPACE_WRAPPER=$PWD/instrument.sh \
    cargo build --quiet --locked -p key-server-fuzz --bins
programs=$CARGO_TARGET_DIR/debug

if [ "$seconds" = 0 ]; then
    exec "$programs/fuzz_$1" "$2"
fi
[ $# -gt 0 ] || set -- $(ls corpus)

# In memory, where there is such a place; libFuzzer leaves without cleaning up.
[ -d /dev/shm ] && TMPDIR=/dev/shm
TMPDIR=$(mktemp -d)
export TMPDIR
trap 'rm -rf "$TMPDIR"' EXIT

fuzz() {
    local name=$1 found units work
    mkdir -p "artifacts/$name"
    # New bytes go to a place of their own; the corpus is for what is worth it.
    work=$(mktemp -d)
    if "$programs/fuzz_$name" -max_total_time="$seconds" -max_len=8192 -timeout=20 \
        -rss_limit_mb=2048 -print_final_stats=1 -artifact_prefix="artifacts/$name/" \
        "$work" "corpus/$name" >"$work.log" 2>&1; then
        units=$(sed -n 's/.*executed_units: *//p' "$work.log")
        found=$(grep -oE 'cov: [0-9]+' "$work.log" | tail -n 1)
        echo "$name: $units runs in $seconds s, ${found#cov: } branches seen"
    else
        echo "$name: FAILED (exit code $?); the end of what it said:" >&2
        tail -n 40 "$work.log" >&2
        return 1
    fi
}
export -f fuzz
export programs seconds
printf '%s\n' "$@" | xargs -P 2 -I NAME bash -euo pipefail -c 'fuzz NAME'
