#!/usr/bin/env python3
"""Plants every fault that cargo-mutants can think of in the engine, and tells which of them no engine test notices.

The engine needs nothing but std and serde, so it is laid out here (target/mutants) as a crate of its own, with its tests:
a mutant costs seconds. Who is missed must stand in docs/mutants.md, with the reason why no test can tell it from
what it replaced; else the exit status is 1.

    scripts/mutants.py                      every file of the engine (hours)
    scripts/mutants.py breaker.rs guards    these files, and everything below these folders
    scripts/mutants.py --again heal.rs      only what was not caught the last time
    scripts/mutants.py --list heal.rs       what would be planted
"""

import collections
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CRATE = ROOT / "target" / "mutants"
DOC = ROOT / "docs" / "mutants.md"
VERSION = "27.1.0"

MANIFEST = """
[package]
name = "mutants"
version = "0.0.0"
edition = "2024"

[dependencies]
serde = { version = "1", features = ["derive", "rc"] }

[lib]
doctest = false

# Nobody debugs it; what counts is how soon it is built.
[profile.dev]
debug = false

[workspace]
"""

LIB = """
#![allow(warnings)]
pub mod engine;
"""


def lay_out():
    """The crate, with the engine as it is. What was built before is kept."""
    (CRATE / "src").mkdir(parents=True, exist_ok=True)
    (CRATE / "Cargo.toml").write_text(MANIFEST)
    shutil.copy(ROOT / "Cargo.lock", CRATE)
    (CRATE / "src" / "lib.rs").write_text(LIB)
    shutil.rmtree(CRATE / "src" / "engine", ignore_errors=True)
    # Not with their times: cargo would take what was there before for built already.
    shutil.copytree(ROOT / "src" / "engine", CRATE / "src" / "engine", copy_function=shutil.copyfile)
    # cargo-mutants leaves alone what git ignores, and this lies below target.
    subprocess.run(["git", "init", "--quiet"], cwd=CRATE, check=True)


def files(words):
    """What is to be mutated: no tests."""
    engine = CRATE / "src" / "engine"
    for word in words:
        if not (engine / word).exists():
            sys.exit(f"src/engine/{word} is not there")
    chosen = [engine / word for word in words] or [engine]
    found = {path for one in chosen for path in ([one] if one.is_file() else one.rglob("*.rs"))}
    return sorted(str(path.relative_to(CRATE)) for path in found if not {"tests", "tests.rs"} & set(path.parts))


def mutate(paths, options):
    known = subprocess.run(["cargo", "mutants", "--version"], capture_output=True, text=True)
    if known.returncode != 0:
        sys.exit(f"cargo-mutants is missing: cargo install --locked cargo-mutants@{VERSION}")
    command = ["cargo", "mutants", "--in-place", "--no-shuffle", "--colors", "never", "--output", str(CRATE / "out")]
    for path in paths:
        command += ["--file", path]
    if "--list" in options:
        command += ["--list"]
    else:
        # A mutant may wait for ever: the tests take about a second.
        command += ["--timeout", os.environ.get("TIMEOUT", "20"), "--no-times", "--cargo-test-arg=--lib"]
    if "--again" in options:
        command += ["--iterate"]
    environment = dict(os.environ, CARGO_INCREMENTAL="1")
    return subprocess.run(command, cwd=CRATE, env=environment).returncode


def words_of(line):
    """`src/engine/breaker.rs:42:9: replace…` without its place, which any change moves."""
    path, _, _, what = line.split(":", 3)
    return path.removeprefix("src/engine/"), what.strip()


def argued():
    """Rows of the table: | `file` | `mutant` | why |. A function may have several mutants of the same words: a row is for one."""
    row = re.compile(r"^\| `([^`]+)` \| `([^`]+)` \| (.+) \|$")
    rows = [row.match(line) for line in DOC.read_text().splitlines()] if DOC.exists() else []
    # A bar in a table's cell is written with a backslash.
    return collections.Counter((found[1], found[2].replace("\\|", "|")) for found in rows if found)


def without(missed, rows):
    """Those for which no row is left."""
    left, open_ones = collections.Counter(rows), []
    for line in missed:
        if left[words_of(line)] > 0:
            left[words_of(line)] -= 1
        else:
            open_ones.append(line)
    return open_ones


def main():
    options = {word for word in sys.argv[1:] if word.startswith("--")}
    if options - {"--list", "--again"}:
        sys.exit(__doc__)
    lay_out()
    paths = files([word for word in sys.argv[1:] if word not in options])
    code = mutate(paths, options)
    # 2: some were missed; 3: some ran out of time, which is to be noticed.
    if "--list" in options or code not in (0, 2, 3):
        sys.exit(code)
    out = CRATE / "out" / "mutants.out"
    kinds = {kind: (out / f"{kind}.txt").read_text().splitlines() for kind in ("caught", "missed", "timeout", "unviable")}
    missed = without(kinds["missed"], argued())
    print("\n| file | mutants | caught | by a time-out | not Rust | argued | missed |\n|---|---|---|---|---|---|---|")
    for path in paths:
        of = {kind: [line for line in lines if line.startswith(path + ":")] for kind, lines in kinds.items()}
        open_ones = sum(line in missed for line in of["missed"])
        numbers = [sum(map(len, of.values())), *(len(of[kind]) for kind in ("caught", "timeout", "unviable"))]
        cells = [*numbers, len(of["missed"]) - open_ones, open_ones]
        print(f"| `{path.removeprefix('src/engine/')}` | " + " | ".join(map(str, cells)) + " |")
    if missed:
        print("\nNo test notices:\n" + "\n".join(missed))
    sys.exit(bool(missed))


main()
