#!/usr/bin/env bash
# `make measurements`: everything in docs/measurements.md, in its order, or only the parts named as arguments.
# Some minutes each; the output is Markdown. Stops at the first part that cannot be measured.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

PARTS=(resubscribe reconnect exit_to_remedy absorb engine instructions idle sock_diag detectors forged checks storm
    outage races model size)
export PATH="$HOME/.cargo/bin:$PATH:/usr/sbin:/sbin"

for part in "$@"; do
    [[ " ${PARTS[*]} " == *" $part "* ]] || { echo "no part '$part'; there are: ${PARTS[*]}" >&2; exit 2; }
done
wanted() { [[ -z $chosen || " $chosen " == *" $1 "* ]]; }
chosen=$*

missing=()
need() { # PACKAGE COMMAND...: the package is missing if the command fails
    local package=$1
    shift
    "$@" >/dev/null 2>&1 </dev/null || missing+=("$package")
}
need redis-server redis-server --version
need gcc cc --version
need libhiredis-dev test -e /usr/include/hiredis/hiredis.h
need valgrind valgrind --version
need xz-utils xz --version
need monit monit --version
need python3-venv /usr/bin/python3 -c 'import venv, ensurepip'
if [ ${#missing[@]} -gt 0 ]; then
    if [ "$(id -u)" != 0 ]; then
        echo "missing; install as root: apt-get install --no-install-recommends ${missing[*]}" >&2
        exit 1
    fi
    # A redis-server on port 6379 that nobody asked for would only be in the way: RUNLEVEL keeps it from starting.
    RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive \
        apt-get install --quiet=2 --no-install-recommends "${missing[@]}" </dev/null >&2
fi
if wanted resubscribe || wanted checks; then
    scripts/python-venv.sh >&2 </dev/null
fi

# As it is shipped: stripped, fat LTO. DEFIB names another binary.
shipped() {
    if [ -z "${DEFIB:-}" ]; then
        cargo build --release --locked --quiet
        export DEFIB=$PWD/target/release/defib
    fi
}

checks() {
    printf '\n## Checks\n\n'
    target/test-venv/bin/python scripts/measure-checks.py
}

storm() {
    printf '\n## The storm\n\n'
    python3 scripts/measure-storm.py storm
    printf '\n### The Docker API fails\n\n'
    python3 scripts/measure-storm.py faults
}

outage() {
    printf '\n## Outage drill\n\n'
    python3 scripts/measure-outage.py
}

# RACES=100 for a short look.
races() {
    printf '\n## Races for one restart\n\n'
    python3 scripts/measure-races.py
}

model() {
    printf '\n## Model\n\n'
    make --no-print-directory model ARGS="${MODEL:-2 7}"
}

size() {
    printf '\n## Size\n\n%s: %d bytes\n' "$DEFIB" "$(stat --format %s "$DEFIB")"
}

for part in "${PARTS[@]}"; do
    if ! wanted "$part"; then
        continue
    fi
    case $part in
        idle | checks | storm | outage | races | size) shipped ;;&
        checks | storm | outage | races | model | size) "$part" ;;
        *) cargo bench --locked --quiet -- "$part" ;;
    esac
done
