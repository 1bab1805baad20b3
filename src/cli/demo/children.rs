//! The processes that the demo is about: ordinary Redis clients that know nothing of defib, and the little script
//! (as an init system would have it) that starts them anew.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::ValueEnum;
use futures_util::StreamExt;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal, test_kill_process};
use tokio::signal::unix::{SignalKind, signal};

use crate::runtime::clock;

/// Between two connection attempts of a client, and two looks whether the demo still runs.
const AGAIN: Duration = Duration::from_millis(300);
/// Between two messages of the publisher.
const BEAT: Duration = Duration::from_millis(250);

/// One process of the demo.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Role {
    /// Publishes data and a heartbeat, as data-acquisition's writer does. SIGUSR1 makes it silent.
    Publisher,
    /// Subscribes to the data and reads it. That is all.
    Subscriber,
    /// Ends the publisher and starts another one.
    RestartPublisher,
    /// Ends the subscriber and starts another one.
    RestartSubscriber,
}

impl Role {
    /// As on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Publisher => "publisher",
            Self::Subscriber => "subscriber",
            Self::RestartPublisher => "restart-publisher",
            Self::RestartSubscriber => "restart-subscriber",
        }
    }
}

/// Where the heartbeats and the data of one demo travel.
pub fn channels(dir: &Path) -> (String, String) {
    let demo = dir
        .file_name()
        .map_or_else(|| "demo".into(), |name| name.to_string_lossy());
    (
        format!("{demo}:telemetry_heartbeat"),
        format!("{demo}:can_messages"),
    )
}

/// The file that says which process a role has now.
pub fn pid_file(dir: &Path, role: Role) -> PathBuf {
    dir.join(format!("{}.pid", role.as_str()))
}

/// The process that a role has now.
pub fn pid(dir: &Path, role: Role) -> Option<Pid> {
    fs::read_to_string(pid_file(dir, role))
        .ok()?
        .trim()
        .parse()
        .ok()
        .and_then(Pid::from_raw)
}

/// What a process of the demo does.
pub async fn play(role: Role, dir: &Path) -> anyhow::Result<()> {
    match role {
        Role::Publisher => while_demo_runs(dir, publish(dir)).await,
        Role::Subscriber => while_demo_runs(dir, subscribe(dir)).await,
        Role::RestartPublisher => restart(dir, Role::Publisher),
        Role::RestartSubscriber => restart(dir, Role::Subscriber),
    }
}

/// No process of the demo outlives it.
async fn while_demo_runs(dir: &Path, work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let demo = fs::read_to_string(dir.join("demo.pid")).context("the demo's pid file")?;
    let demo = demo
        .trim()
        .parse()
        .ok()
        .and_then(Pid::from_raw)
        .context("the demo's pid file holds no pid")?;
    let ended = async {
        while test_kill_process(demo).is_ok() {
            tokio::time::sleep(AGAIN).await;
        }
    };
    tokio::select! {
        result = work => result,
        () = ended => Ok(()),
    }
}

async fn publish(dir: &Path) -> anyhow::Result<()> {
    let mut silence = signal(SignalKind::user_defined1())?;
    let silenced = async {
        silence.recv().await;
    };
    tokio::select! {
        never = publish_for_ever(dir) => never,
        () = silenced => std::future::pending().await,
    }
}

async fn publish_for_ever(dir: &Path) -> anyhow::Result<()> {
    let (heartbeats, data) = channels(dir);
    let started = clock::boottime();
    let client = client(dir)?;
    loop {
        if let Ok(mut connection) = client.get_multiplexed_async_connection().await {
            let mut count = 0u64;
            loop {
                let uptime = (clock::boottime().saturating_sub(started)).as_secs_f64();
                let beat = format!(
                    "{{\"uptime_s\": {uptime:.3}, \"wall_ts\": {:.3}}}",
                    clock::wall_seconds()
                );
                let mut both = redis::pipe();
                both.publish(&heartbeats, beat)
                    .publish(&data, format!("{{\"id\": 257, \"seq\": {count}}}"));
                if both.query_async::<()>(&mut connection).await.is_err() {
                    break;
                }
                count += 1;
                tokio::time::sleep(BEAT).await;
            }
        }
        tokio::time::sleep(AGAIN).await;
    }
}

async fn subscribe(dir: &Path) -> anyhow::Result<()> {
    let (_, data) = channels(dir);
    let client = client(dir)?;
    loop {
        if let Ok(mut subscription) = client.get_async_pubsub().await
            && subscription.subscribe(&data).await.is_ok()
        {
            let mut messages = subscription.on_message();
            while messages.next().await.is_some() {}
        }
        tokio::time::sleep(AGAIN).await;
    }
}

fn client(dir: &Path) -> anyhow::Result<redis::Client> {
    let url = fs::read_to_string(dir.join("url")).context("the demo's bus URL")?;
    Ok(redis::Client::open(url.trim())?)
}

/// As a service script does it: end what is there, start another one, note its pid.
fn restart(dir: &Path, role: Role) -> anyhow::Result<()> {
    if let Some(old) = pid(dir, role) {
        end(old)?;
    }
    start(dir, role)
}

/// Starts `role`, detached.
pub fn start(dir: &Path, role: Role) -> anyhow::Result<()> {
    let child = Command::new(std::env::current_exe()?)
        .args(["demo", "--role", role.as_str(), "--dir"])
        .arg(dir)
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("cannot start the {}", role.as_str()))?;
    let file = pid_file(dir, role);
    let new = file.with_extension("new");
    fs::write(&new, format!("{}\n", child.id()))?;
    fs::rename(new, file)?;
    Ok(())
}

/// Kills `pid` and waits until it is gone.
pub fn end(pid: Pid) -> anyhow::Result<()> {
    // Gone already is as good.
    let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else {
        return Ok(());
    };
    let _ = pidfd_send_signal(&process, Signal::KILL);
    let patience = Timespec {
        tv_sec: 5,
        tv_nsec: 0,
    };
    if poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&patience))? == 0 {
        bail!("process {pid} does not end");
    }
    Ok(())
}
