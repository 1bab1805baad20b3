#!/usr/bin/env bash
# shellcheck disable=SC2317  # stages are called by their names
# `make test`: runs every stage even if one fails, then prints one screen of summary. With arguments, only the
# stages that they name. Each stage's whole output is kept in target/test-logs/.
#
# The last line is "N passed, N failed, N skipped", the totals of the test runner; CI reads it.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

STAGES=(needs fmt clippy docs tests doctests model fuzz deny)
LOGS=target/test-logs
export PATH="$HOME/.cargo/bin:$PATH:/usr/sbin:/sbin"
export DEFIB_SKIPPED_LOG="$PWD/$LOGS/skipped"

stage_needs() { scripts/install-test-needs.sh; }
stage_fmt() { cargo fmt --check && cargo fmt --check --manifest-path model/Cargo.toml; }
stage_clippy() { cargo clippy --quiet --locked --all-targets -- -D warnings; }
stage_docs() { RUSTDOCFLAGS="-D warnings" cargo doc --quiet --locked --no-deps; }
# What fails is run once more: on a busy machine a test may wait in vain. It is told as FLAKY, and is a fault to mend.
stage_tests() { cargo nextest run --retries 1 --final-status-level flaky --locked --color never --show-progress none --cargo-quiet; }
stage_fuzz() { scripts/fuzz.sh; }
stage_model() { cargo test --quiet --locked --manifest-path model/Cargo.toml --target-dir target/model; }
stage_doctests() { cargo test --quiet --locked --doc; }
stage_deny() {
    # Offline below; so the crates of other systems, which nothing else asks for, must be here too.
    cargo fetch --quiet --locked && cargo deny --offline --log-level error check bans licenses sources &&
        cargo fetch --quiet --locked --manifest-path model/Cargo.toml &&
        cargo deny --offline --log-level error --manifest-path model/Cargo.toml --config deny.toml check bans licenses sources
}

# Unit, property, simulation and integration tests are one run of nextest: a name says which.
about() {
    case "$1" in
    needs) echo "what the tests need" ;;
    fmt) echo "cargo fmt --check" ;;
    clippy) echo "cargo clippy, warnings denied" ;;
    docs) echo "cargo doc, warnings denied" ;;
    tests) echo "unit, property, simulation, integration" ;;
    model) echo "three engines under a model checker, and each defence left out" ;;
    fuzz) echo "a short run of each fuzz target" ;;
    doctests) echo "examples in the documentation" ;;
    deny) echo "dependencies: bans, licences, sources" ;;
    esac
}

summary=()
failed=0
run_stage() {
    local stage=$1 log="$LOGS/$1.log" from=$SECONDS verdict=ok
    echo "== $stage: $(about "$stage")"
    # Tests and needs take minutes, so they are watched; the others speak only if they fail.
    if [[ $stage == tests || $stage == needs ]]; then
        "stage_$stage" </dev/null 2>&1 | tee "$log" || verdict=FAILED
    else
        "stage_$stage" </dev/null >"$log" 2>&1 || { verdict=FAILED; tail -n 80 "$log"; }
    fi
    [ "$verdict" = ok ] || failed=1
    summary+=("$(printf '%-9s %-7s %5ds  %s' "$stage" "$verdict" $((SECONDS - from)) "$(about "$stage")")")
}

total() { # WORD...: the sum of the numbers before these words in nextest's summary line
    local word sum=0 number
    for word in "$@"; do
        number=$(sed -n "s/^ *Summary .*[:,( ]\([0-9][0-9]*\) $word\b.*/\1/p" "$LOGS/tests.log" 2>/dev/null | tail -n 1)
        sum=$((sum + ${number:-0}))
    done
    echo "$sum"
}

for stage in "$@"; do
    [[ " ${STAGES[*]} " == *" $stage "* ]] || { echo "no stage '$stage'; there are: ${STAGES[*]}" >&2; exit 2; }
done
mkdir -p "$LOGS"
rm -f "$LOGS"/*.log "$DEFIB_SKIPPED_LOG"
for stage in "${STAGES[@]}"; do
    if [ $# -eq 0 ] || [[ " $* " == *" $stage "* ]]; then
        run_stage "$stage"
    fi
done

echo
echo "== summary ($SECONDS s in all; logs in $LOGS/)"
printf '%s\n' "${summary[@]}"
if [ -e "$LOGS/tests.log" ]; then
    if [ -s "$DEFIB_SKIPPED_LOG" ]; then
        sort -u "$DEFIB_SKIPPED_LOG"
    else
        echo "no part was skipped"
    fi
    # (Before nextest's summary each try is told; after it, what came of them.)
    sed -n '/^ *Summary \[/,$ s/^ *\(TRY [0-9]* \)\?\(\(FLAKY [0-9/]*\|FAIL\|TIMEOUT\|SIGABRT\|SIGSEGV\|ABORT\|LEAK-FAIL\) \[.*\)/\2/p' "$LOGS/tests.log" | sed 's/\[[^]]*\] *([^)]*) *//' | sort -u
    if ! grep -q '^ *Summary \[' "$LOGS/tests.log"; then
        echo "the tests did not run: see $LOGS/tests.log"
    fi
    echo "$(total passed) passed, $(total failed 'timed out' 'exec failed') failed, $(total skipped) skipped"
fi
exit "$failed"
