//! Everything in docs/measurements.md, measured: `cargo bench -- PART...`, or all parts (`make measurements` installs
//! what they need first). Nothing here asserts a speed: it prints what it saw on this machine, medians and spread.

mod absorb;
mod common;
mod crowd;
mod detectors;
mod engine;
mod exit_to_remedy;
mod flood;
mod forged;
#[allow(
    clippy::unwrap_used,
    dead_code,
    reason = "the tests' hostile publisher, for a million messages here"
)]
#[path = "../../tests/it/support/forger.rs"]
mod forger;
mod idle;
mod instructions;
mod judge;
#[allow(
    clippy::unwrap_used,
    dead_code,
    reason = "the tests' ports, for what is measured here too"
)]
#[path = "../../tests/it/support/ports.rs"]
mod ports;
mod process;
mod reconnect;
#[allow(
    clippy::unwrap_used,
    clippy::expect_used,
    dead_code,
    reason = "the tests' harness, for real servers here too"
)]
#[path = "../../tests/it/support/redis_server.rs"]
mod redis_server;
mod resubscribe;
mod sample;
mod sock_diag;

use anyhow::bail;

/// In the order of docs/measurements.md.
type Part = (&'static str, fn() -> anyhow::Result<()>);

const PARTS: [Part; 10] = [
    ("resubscribe", resubscribe::measure),
    ("reconnect", reconnect::measure),
    ("exit_to_remedy", exit_to_remedy::measure),
    ("absorb", absorb::measure),
    ("engine", engine::measure),
    ("instructions", instructions::measure),
    ("idle", idle::measure),
    ("sock_diag", sock_diag::measure),
    ("detectors", detectors::measure),
    ("forged", forged::measure),
];

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench")
        .collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        // What the parts start this program for again.
        ["remedy", file] => exit_to_remedy::remedy(file),
        ["subscribe", how, url, count] => absorb::subscribe(how, url, count.parse()?),
        ["judge", by, peers, heartbeats] => instructions::judge(by, peers.parse()?, heartbeats.parse()?),
        [] => PARTS.iter().try_for_each(|(_, measure)| measure()),
        names => names.iter().try_for_each(|name| measure(name)),
    }
}

fn measure(name: &str) -> anyhow::Result<()> {
    let Some((_, measure)) = PARTS.iter().find(|(part, _)| *part == name) else {
        let parts = PARTS.map(|(part, _)| part).join(", ");
        bail!("no part {name:?}; there are: {parts}");
    };
    measure()
}

/// For parts that a machine may lack; as the tests' function of that name, but nothing is ever required here.
fn available(part: &str, there: bool) -> bool {
    if !there {
        eprintln!("SKIPPED: {part} is missing on this machine");
    }
    there
}
