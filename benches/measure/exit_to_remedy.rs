//! From the kill of a local process to its remedy's command running: on the embedded bus and on a real Redis.
//!
//! `TRIALS=50` for another number. Ends by itself.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::common::{now, number, run, start_node, trusted, until};
use crate::process::Ended;
use crate::redis_server::{self, RedisServer};
use crate::sample::{Sample, heading};
use anyhow::Context;

pub(crate) fn measure() -> anyhow::Result<()> {
    run(table())
}

/// The remedy itself: says when it ran. Renamed, so that nobody reads half of it.
pub(crate) fn remedy(file: &str) -> anyhow::Result<()> {
    let part = format!("{file}.part");
    std::fs::write(&part, now().as_nanos().to_string())?;
    Ok(std::fs::rename(part, file)?)
}

async fn table() -> anyhow::Result<()> {
    let trials = number("TRIALS", 250);
    heading("From the exit of a local process to the remedy's action");
    println!(
        "Milliseconds from just before SIGKILL until the remedy's command (`exec`) has started and says so.\n"
    );
    println!("| bus | trials | median | p90 | p99 | most |\n|---|---|---|---|---|---|");
    let times = exits("embedded", trials).await?;
    println!("| embedded | {} |", times.row(1e-3, 1));
    if redis_server::there() {
        let server = RedisServer::start();
        let times = exits(&server.url(), trials).await?;
        println!("| Redis | {} |", times.row(1e-3, 1));
    }
    Ok(())
}

async fn exits(bus: &str, trials: usize) -> anyhow::Result<Sample> {
    let dir = tempfile::tempdir()?;
    let mut victims = (0..trials)
        .map(|_| victim())
        .collect::<anyhow::Result<Vec<_>>>()?;
    let pids: Vec<u32> = victims.iter().map(|victim| victim.0.id()).collect();
    let node = start_node(dir.path(), &configuration(dir.path(), bus, &pids)?).await?;
    trusted(&node).await?;
    let mut view = node.view();
    let seen = view.wait_for(|view| {
        view.snapshot()
            .is_some_and(|snapshot| snapshot.peers.iter().all(|peer| peer.incarnation.is_some()))
    });
    tokio::time::timeout(Duration::from_secs(60), seen)
        .await
        .context("the node does not see every process")??;

    let mut times = Sample::default();
    for (index, victim) in victims.iter_mut().enumerate() {
        // Prime and longer than what a remedy takes: every phase of the node's timers comes up, one exit at a time.
        tokio::time::sleep(Duration::from_millis(101)).await;
        let killed = now();
        victim.0.kill()?;
        let stamp = stamp(dir.path(), index);
        until("the remedy", Duration::from_secs(30), || stamp.exists()).await?;
        let ran: u64 = std::fs::read_to_string(&stamp)?.parse()?;
        times.push_seconds(Duration::from_nanos(ran).saturating_sub(killed));
    }
    Ok(times)
}

fn victim() -> anyhow::Result<Ended> {
    let child = Command::new("sleep")
        .arg("3600")
        .stdin(Stdio::null())
        .spawn()
        .context("sleep")?;
    Ok(Ended(child))
}

fn stamp(dir: &Path, index: usize) -> PathBuf {
    dir.join(format!("ran-{index}"))
}

/// Only what would stop a hundred restarts in a minute is changed from the defaults: the group's budget, and the
/// settling time after the start.
fn configuration(dir: &Path, bus: &str, pids: &[u32]) -> anyhow::Result<String> {
    let exe = std::env::current_exe()?;
    let mut text = format!(
        "node = \"measured\"\n\
         [bus]\nurl = \"{bus}\"\nsettle = \"0s\"\n\
         [budget]\nspacing = \"0s\"\ndown_percent = 100\n\
         [http]\nlisten = \"127.0.0.1:0\"\nadmin_socket = \"none\"\n\
         [store]\npath = \"{}\"\n",
        dir.join("state.json").display()
    );
    for (index, pid) in pids.iter().enumerate() {
        let _ = write!(
            text,
            "[peer.p{index}]\nowner = {{ pid = {pid} }}\n\
             remedies = [{{ do = \"exec\", command = [\"{}\", \"remedy\", \"{}\"], verify_within = \"1s\" }}]\n",
            exe.display(),
            stamp(dir, index).display()
        );
    }
    Ok(text)
}
