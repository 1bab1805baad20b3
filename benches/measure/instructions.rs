//! Instructions that one event costs the engine, counted by callgrind: the same on every run and machine of a kind.
//!
//! This program runs twice under valgrind for each figure, with different numbers of heartbeats; the difference is
//! what the heartbeats cost, without the start.

use std::process::Command;

use anyhow::{Context, bail};

use crate::judge::{By, Judge};
use crate::sample::heading;

const FEW: usize = 100_000;
const MANY: usize = 300_000;

pub(crate) fn measure() -> anyhow::Result<()> {
    heading("Engine: instructions for one heartbeat");
    if !crate::available(
        "valgrind",
        Command::new("valgrind").arg("--version").output().is_ok(),
    ) {
        return Ok(());
    }
    println!("Counted by callgrind.\n\n| peers | on channels | of nodes |\n|---|---|---|");
    for peers in [10, 1_000, 100_000] {
        let (on_channels, of_nodes) = (cost("channel", peers)?, cost("node", peers)?);
        println!("| {peers} | {on_channels} | {of_nodes} |");
    }
    Ok(())
}

/// What is counted.
pub(crate) fn judge(by: &str, peers: usize, heartbeats: usize) -> anyhow::Result<()> {
    let by = match by {
        "channel" => By::Channel,
        "node" => By::Node,
        other => bail!("{other:?}: either channel or node"),
    };
    let mut judge = Judge::new(by, peers);
    for _ in 0..heartbeats {
        judge.heartbeat();
    }
    Ok(())
}

fn cost(by: &str, peers: usize) -> anyhow::Result<u64> {
    let (few, many) = (instructions(by, peers, FEW)?, instructions(by, peers, MANY)?);
    Ok((many - few) / (MANY - FEW) as u64)
}

fn instructions(by: &str, peers: usize, heartbeats: usize) -> anyhow::Result<u64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe()?)
        .args(["judge", by, &peers.to_string(), &heartbeats.to_string()])
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    said.lines()
        .find_map(|line| line.split_once("Collected : ")?.1.trim().parse().ok())
        .with_context(|| format!("valgrind counted nothing:\n{said}"))
}
