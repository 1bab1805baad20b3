#!/usr/bin/env bash
# `make deb`: the Debian package, by cargo-deb (built once a machine, into cargo's own directory). Prints its path.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
CARGO_DEB_VERSION=3.8.0
PATH="$HOME/.cargo/bin:$PATH"

if ! command -v cargo-deb >/dev/null; then
    echo "building cargo-deb $CARGO_DEB_VERSION (once, some minutes)" >&2
    cargo install --quiet --locked "cargo-deb@$CARGO_DEB_VERSION" </dev/null
fi
cargo build --quiet --locked --release
cargo deb --locked --no-build --quiet --output target/debian/
