#!/usr/bin/env bash
# Throws bytes at each parser that reads what others send: builds fuzz/ and runs every target (or those named) for
# FUZZ_SECONDS (default 15) each. What breaks one is printed, kept below fuzz/artifacts, and belongs into
# fuzz/regressions/TARGET once it is understood. Needs a nightly toolchain and cargo-fuzz.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PATH="$HOME/.cargo/bin:$PATH"
seconds=${FUZZ_SECONDS:-15}

if ! cargo +nightly --version >/dev/null 2>&1 || ! command -v cargo-fuzz >/dev/null; then
    echo "a nightly toolchain or cargo-fuzz is missing on this machine"
    if [ "${DEFIB_REQUIRE_ALL:-}" = 1 ]; then
        echo "DEFIB_REQUIRE_ALL=1 forbids skipping"
        exit 1
    fi
    [ -z "${DEFIB_SKIPPED_LOG:-}" ] ||
        echo "SKIPPED: a nightly toolchain with cargo-fuzz is missing on this machine (fuzz targets)" >>"$DEFIB_SKIPPED_LOG"
    exit 0
fi

# No sanitizer: none of our code is unsafe, and without one a second of fuzzing is worth several.
fuzz() { cargo +nightly fuzz "$1" --sanitizer none "${@:2}"; }

fuzz build
if [ $# -eq 0 ]; then
    mapfile -t targets < <(sed -n 's/^name = "\(.*\)"$/\1/p' fuzz/Cargo.toml | grep -v '^defib-fuzz$')
    set -- "${targets[@]}"
fi
failed=()
for target in "$@"; do
    seeds=()
    for kind in seeds regressions; do
        [ ! -d "fuzz/$kind/$target" ] || seeds+=("fuzz/$kind/$target")
    done
    mkdir -p "fuzz/corpus/$target"
    log=$(mktemp)
    if fuzz run "$target" "fuzz/corpus/$target" "${seeds[@]}" -- \
        -max_total_time="$seconds" -timeout=10 -rss_limit_mb=1024 -max_len=8192 -print_final_stats=1 >"$log" 2>&1; then
        echo "$target: $(sed -n 's/^stat::number_of_executed_units: *//p' "$log") inputs"
    else
        tail -n 60 "$log"
        failed+=("$target")
    fi
    rm -f "$log"
done
[ ${#failed[@]} -eq 0 ] || { echo "broke: ${failed[*]}"; exit 1; }
