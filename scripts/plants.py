#!/usr/bin/env python3
"""Plants faults in the engine, one at a time, and tells which simulated worlds notice (scripts/plants.toml).

The engine and the simulation need nothing but std and serde, so they are built here as a crate of their own, optimised,
without the rest of defib. Prints the table of docs/measurements.md; exit status 1 if a fault was not caught.

    scripts/plants.py                    all of them
    scripts/plants.py "late echo" pause  those whose name contains one of the words
    WORLDS=500 scripts/plants.py         more worlds for each (default 200)
"""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CRATE = ROOT / "target" / "plants"
WORLDS = int(os.environ.get("WORLDS", "200"))
# After so many worlds that broke, the rest would tell nothing new.
ENOUGH = 3

MANIFEST = """
[package]
name = "planted"
edition = "2024"

[dependencies]
serde = { version = "1", features = ["derive", "rc"] }

[profile.dev]
opt-level = 1
debug = false

[workspace]
"""

MAIN = """
#![allow(warnings)]
mod engine;
mod sim;

fn main() {
    let mut arguments = std::env::args().skip(1).map(|word| word.parse::<u64>().unwrap());
    let (worlds, enough) = (arguments.next().unwrap(), arguments.next().unwrap());
    let broken = sim::run_seeds(1, worlds, sim::Options::default()).filter_map(|world| {
        world.violation.map(|violation| (world.options.seed, violation.invariant))
    });
    for (seed, invariant) in broken.take(enough as usize) {
        println!("{seed} {invariant}");
    }
}
"""


def lay_out():
    """The crate, with the code as it is."""
    (CRATE / "src").mkdir(parents=True, exist_ok=True)
    (CRATE / "Cargo.toml").write_text(MANIFEST)
    shutil.copy(ROOT / "Cargo.lock", CRATE)
    (CRATE / "src" / "main.rs").write_text(MAIN)
    for part in ("engine", "sim"):
        shutil.rmtree(CRATE / "src" / part, ignore_errors=True)
        # Not with their times: cargo would take the plant of before for built already.
        shutil.copytree(ROOT / "src" / part, CRATE / "src" / part, copy_function=shutil.copyfile)


def plant(edits):
    for edit in edits:
        path = CRATE / "src" / "engine" / edit["file"]
        text = path.read_text()
        if text.count(edit["old"]) != 1:
            sys.exit(f"{edit['file']}: {edit['old']!r} stands there {text.count(edit['old'])} times, not once")
        path.write_text(text.replace(edit["old"], edit["new"]))


def live():
    """(seed, invariant) of the first worlds that broke."""
    subprocess.run(["cargo", "build", "--quiet", "--offline"], cwd=CRATE, check=True)
    lives = subprocess.run(
        [CRATE / "target" / "debug" / "planted", str(WORLDS), str(ENOUGH)],
        capture_output=True,
        text=True,
    )
    broken = [line.split() for line in lives.stdout.splitlines()]
    if lives.returncode != 0:
        broken.append(["?", "panicked"])
    return broken


def main():
    words = sys.argv[1:]
    plants = tomllib.loads((ROOT / "scripts" / "plants.toml").read_text())["plant"]
    chosen = [one for one in plants if not words or any(word in one["name"] for word in words)]
    print(f"Up to {WORLDS} worlds each, until {ENOUGH} broke.\n")
    print("| planted | first seed | broken |\n|---|---|---|", flush=True)
    escaped = 0
    for one in [{"name": "nothing", "edits": []}, *chosen]:
        lay_out()
        plant(one["edits"])
        broken = live()
        escaped += (not broken) == bool(one["edits"])
        seed = broken[0][0] if broken else "none"
        invariants = ", ".join(f"`{name}`" for name in sorted({name for _, name in broken})) or "-"
        print(f"| {one['name']} | {seed} | {invariants} |", flush=True)
    sys.exit(escaped > 0)


main()
