#!/usr/bin/env bash
# Fuzzes everything that the programs read from outside, each target for a limited time. Not part of scripts/test.sh.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/install.sh
. scripts/install.sh

all=(options conninfo hosts order event lie merge histogram server)
usage="Usage: scripts/fuzz.sh [--seconds N] [TARGET ...]

Builds the targets in fuzz/ and runs each with libFuzzer for N seconds (60) on one processor, with at most 2 GB of
memory. Targets: ${all[*]}; without TARGET, all of them.

Input that makes a target fail is kept in fuzz/artifacts/TARGET. To run it again:
  scripts/fuzz.sh --again fuzz/artifacts/TARGET/crash-...

Stable Rust is enough: coverage needs no nightly, and the program has no unsafe code that would need a sanitizer.
With cargo-fuzz installed, 'cargo fuzz run --sanitizer none TARGET' does the same."

seconds=60 again='' targets=()
while [ $# -gt 0 ]; do
    case $1 in
        --seconds) seconds=${2:?$usage} && shift ;;
        --again) again=$(realpath "${2:?$usage}") && shift ;;
        -h | --help) echo "$usage" && exit 0 ;;
        -*) die "unknown option $1 (see --help)" ;;
        *) targets+=("$1") ;;
    esac
    shift
done
[[ $seconds =~ ^[1-9][0-9]*$ ]] || die "--seconds: '$seconds' is not a number of seconds"
if [ -n "$again" ]; then targets=("$(basename "$(dirname "$again")")"); fi
if [ ${#targets[@]} -eq 0 ]; then targets=("${all[@]}"); fi
for target in "${targets[@]}"; do
    [[ " ${all[*]} " == *" $target "* ]] || die "there is no target $target (see --help)"
done

require_rust
case $(uname -s) in
    Linux) ;;
    *) die "this script supports libFuzzer on Linux only; run it there, for example in a container" ;;
esac
install_missing gcc libc6-dev g++

host=$(rustc -vV | sed -n 's/^host: //p')
# With --target, cargo does not instrument build scripts and macros.
flags='--cfg fuzzing -C passes=sancov-module -C llvm-args=-sanitizer-coverage-level=4
    -C llvm-args=-sanitizer-coverage-inline-8bit-counters -C llvm-args=-sanitizer-coverage-pc-table
    -C llvm-args=-sanitizer-coverage-trace-compares'
RUSTFLAGS=$(tr -s '\n ' ' ' <<<"$flags") \
    cargo build --manifest-path fuzz/Cargo.toml --release --locked --bins --target "$host"
programs=${CARGO_TARGET_DIR:-fuzz/target}/$host/release

if [ -n "$again" ]; then
    exec "$programs/${targets[0]}" -rss_limit_mb=2048 -timeout=20 "$again"
fi
"$programs/seeds" fuzz/corpus
failed=()
for target in "${targets[@]}"; do
    printf '\n== %s, %s s ==\n' "$target" "$seconds"
    mkdir -p "fuzz/artifacts/$target" "fuzz/corpus/$target"
    # A document is longer than any other input. An input that takes 20 s should have been refused.
    case $target in
        event | merge) length=65536 ;;
        histogram | server) length=16384 ;;
        lie) length=64 ;;
        *) length=4096 ;;
    esac
    log=fuzz/artifacts/$target/log
    if "$programs/$target" -max_total_time="$seconds" -rss_limit_mb=2048 -timeout=20 -max_len=$length -len_control=0 \
        -print_final_stats=1 -artifact_prefix="fuzz/artifacts/$target/" "fuzz/corpus/$target" >"$log" 2>&1; then
        grep -E '^#.*DONE|number_of_executed_units|peak_rss_mb' "$log"
    else
        failed+=("$target")
        tail -n 40 "$log"
    fi
done
if [ ${#failed[@]} -gt 0 ]; then
    die "failed: ${failed[*]}; the inputs are in fuzz/artifacts"
fi
printf '\nNothing found.\n'
