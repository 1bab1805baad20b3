#!/usr/bin/env bash
# Installs what the tests need and this machine lacks: Debian packages (as root; otherwise they are only named),
# cargo's test tools, Python environments. Says nothing about what is already there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

NEXTEST_VERSION=0.9.143
DENY_VERSION=0.20.2
FUZZ_VERSION=0.13.2

# Some of these live in /usr/sbin, which the PATH of a plain user lacks.
PATH="$HOME/.cargo/bin:$PATH:/usr/sbin:/sbin"

missing=()
need() { # PACKAGE COMMAND...: the package is missing if the command fails
    local package=$1
    shift
    "$@" >/dev/null 2>&1 </dev/null || missing+=("$package")
}
need redis-server redis-server --version
need redis-tools redis-cli --version
need nftables nft --version
need iproute2 ip -Version
need busybox-static test -x /bin/busybox -o -x /usr/bin/busybox
need python3-venv /usr/bin/python3 -c 'import venv, ensurepip'
need gcc cc --version
need libc6-dev test -e /usr/include/stdio.h
need docker.io docker --version
need prometheus-redis-exporter prometheus-redis-exporter -version
need prometheus-alertmanager prometheus-alertmanager --version
need systemd test -x /lib/systemd/systemd
need dbus dbus-daemon --version
need dbus-user-session test -e /usr/lib/systemd/user/dbus.socket
need libpam-systemd sh -c 'ls /usr/lib/pam.d/systemd-user /etc/pam.d/systemd-user 2>/dev/null | grep -q .'
need polkitd test -x /usr/lib/polkit-1/polkitd
need libnss-systemd sh -c 'ls /lib/*/libnss_systemd.so.2'
need docker-compose docker-compose version --short
need systemd systemd-notify --version
need util-linux unshare --version

as_root=$([ "$(id -u)" = 0 ] && echo yes || echo no)
if [ ${#missing[@]} -gt 0 ] && { [ "$as_root" = no ] || ! command -v apt-get >/dev/null; }; then
    echo "not installed, so the tests that need them are skipped: ${missing[*]}"
    echo "install them as root: apt-get install --no-install-recommends ${missing[*]}"
elif [ ${#missing[@]} -gt 0 ]; then
    echo "installing ${missing[*]}"
    # The tests start their own servers: a redis-server on port 6379 that nobody asked for would only be in the way.
    # And a service that cannot start here (no init) must not fail the installation.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        trap 'rm -f "$policy"' EXIT
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 0755 "$policy"
    fi
    export DEBIAN_FRONTEND=noninteractive
    apt_options=(--quiet=2 --no-install-recommends -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0)
    apt-get --quiet=2 update </dev/null
    apt-get install "${apt_options[@]}" "${missing[@]}" </dev/null >/dev/null
fi

# Docker is the one service that the tests need. One that was there and is stopped is left alone, but for CI.
if [ "$as_root" = yes ] && { [ "${CI:-}" = true ] || [[ " ${missing[*]} " == *" docker.io "* ]]; } &&
    ! docker info >/dev/null 2>&1; then
    echo "starting Docker"
    service docker start >/dev/null 2>&1 </dev/null || true
    for _ in $(seq 30); do
        docker info >/dev/null 2>&1 && break
        sleep 1
    done
fi

# Built from source once a machine: two to eight minutes each on two cores.
tool() { # NAME VERSION
    command -v "$1" >/dev/null && return
    echo "building $1 $2 (once, some minutes)"
    cargo install --quiet --locked "$1@$2" </dev/null
}
tool cargo-nextest "$NEXTEST_VERSION"
tool cargo-deny "$DENY_VERSION"
if cargo +nightly --version >/dev/null 2>&1; then
    tool cargo-fuzz "$FUZZ_VERSION"
fi

if [ -x scripts/python-venv.sh ]; then
    scripts/python-venv.sh </dev/null
fi
