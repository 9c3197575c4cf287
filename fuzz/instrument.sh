#!/usr/bin/env bash
# Stands before rustc for the crates of this workspace: lets libFuzzer see which
# branches are taken. What cargo-fuzz passes, without what needs nightly.
set -euo pipefail
rustc=$1
shift
case " $* " in
*" --crate-name build_script_build "*) exec "$rustc" "$@" ;; # runs while building
esac
exec "$rustc" "$@" --cfg fuzzing -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares
