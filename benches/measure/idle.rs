//! What a node costs that has nothing to do: resident memory and processor time with 10 and with 100 peers at one
//! heartbeat a second each, on a real Redis.
//!
//! `SECONDS=10` for another length, `DEFIB=target/release/defib` for another binary.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::common::{now, number, run};
use crate::crowd::{self, CHANNEL};
use crate::process::{Ended, cpu, memory};
use crate::redis_server::{self, RedisServer};
use crate::sample::heading;
use redis::aio::MultiplexedConnection;
use tokio_util::task::AbortOnDropHandle;

/// Start, first heartbeats, first snapshots.
const WARM_UP: Duration = Duration::from_secs(5);

pub(crate) fn measure() -> anyhow::Result<()> {
    run(table())
}

async fn table() -> anyhow::Result<()> {
    let lasting = Duration::from_secs(number("SECONDS", 60) as u64);
    let binary = std::env::var_os("DEFIB").map_or_else(|| env!("CARGO_BIN_EXE_defib").into(), PathBuf::from);
    heading("An idle node");
    if !redis_server::there() {
        return Ok(());
    }
    println!("{}, over {lasting:?} after {WARM_UP:?}.\n", binary.display());
    println!("| peers | resident, MiB | of it anonymous, MiB | of one core, % |\n|---|---|---|---|");
    let rows = tokio::try_join!(idle(&binary, 10, lasting), idle(&binary, 100, lasting),)?;
    println!("{}\n{}", rows.0, rows.1);
    Ok(())
}

async fn idle(binary: &Path, peers: usize, lasting: Duration) -> anyhow::Result<String> {
    let server = RedisServer::start();
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("defib.toml");
    std::fs::write(&file, crowd::observer(dir.path(), &server.url(), peers))?;
    let node = Command::new(binary)
        .arg("run")
        .arg("--config")
        .arg(&file)
        .env("STATE_DIRECTORY", dir.path())
        .env("RUNTIME_DIRECTORY", dir.path())
        .stdin(Stdio::null())
        .spawn()
        .map(Ended)?;
    let client = redis::Client::open(server.url())?;
    let publisher = client.get_multiplexed_async_connection().await?;
    let _beats = AbortOnDropHandle::new(tokio::spawn(beat(publisher, peers)));
    tokio::time::sleep(WARM_UP).await;

    let pid = node.0.id();
    let (from, spent) = (now(), cpu(pid)?);
    tokio::time::sleep(lasting).await;
    let share = (cpu(pid)? - spent).as_secs_f64() / (now() - from).as_secs_f64();
    let mib = |line| memory(pid, line).map(|bytes| bytes as f64 / f64::from(1 << 20));
    Ok(format!(
        "| {peers} | {:.2} | {:.2} | {:.3} |",
        mib("VmRSS")?,
        mib("RssAnon")?,
        share * 100.0
    ))
}

/// Everybody once a second, evenly spread over it.
async fn beat(mut publisher: MultiplexedConnection, peers: usize) -> anyhow::Result<()> {
    let mut turns = tokio::time::interval(Duration::from_secs(1) / u32::try_from(peers)?);
    for turn in 0.. {
        turns.tick().await;
        let body = crowd::body(turn % peers, (turn / peers) as u64);
        let () = redis::cmd("PUBLISH")
            .arg(CHANNEL)
            .arg(body)
            .query_async(&mut publisher)
            .await?;
    }
    Ok(())
}
