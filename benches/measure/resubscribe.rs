//! From the moment a subscription goes dark (its connection stays open, nothing passes; a new one would work) until
//! the server has a new one: our node beside the seed's pump, many of each at once, at random phases.
//!
//! `TRIALS=20 TARGETS=12` for other numbers. Ends by itself.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::common::{now, number, run, start_node, trusted};
use crate::process::Ended;
use crate::redis_server::{self, RedisServer};
use crate::sample::{Sample, heading};
use anyhow::Context;
use defib::app::Running;
use defib::cli::fault_proxy::{Direction, FaultProxy, Which};
use defib::engine::self_trust::BusState;
use defib::engine::time::Time;
use defib::http::View;
use redis::aio::MultiplexedConnection;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// The server is asked this often who subscribes: the resolution of every figure here.
const LOOK: Duration = Duration::from_millis(5);
/// No trial takes longer; one that does counts as never.
const PATIENCE: Duration = Duration::from_secs(20);
const VENV: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/test-venv");

/// Subscribed connections by name: the id of the newest.
type Subscribers = HashMap<String, u64>;

/// One subscription that is made dark again and again.
struct Target {
    name: String,
    proxy: FaultProxy,
    subscribers: watch::Receiver<Subscribers>,
    node: Option<Running>,
}

/// What was measured of targets of one kind.
#[derive(Default)]
struct Times {
    /// Until the server has a new subscription.
    subscribed: Sample,
    /// Until the node has heard its own heartbeat over it.
    proven: Sample,
}

pub(crate) fn measure() -> anyhow::Result<()> {
    run(table())
}

async fn table() -> anyhow::Result<()> {
    let (targets, trials) = (number("TARGETS", 25), number("TRIALS", 10));
    heading("From dark to re-subscribed");
    if !redis_server::there() {
        return Ok(());
    }
    let server = RedisServer::start();
    let dir = tempfile::tempdir()?;
    let client = redis::Client::open(server.url())?;
    let (tell, subscribers) = watch::channel(Subscribers::new());
    let mut around = JoinSet::new();
    around.spawn(look(client.get_multiplexed_async_connection().await?, tell));
    around.spawn(beat(client.get_multiplexed_async_connection().await?));

    let mut ours = Vec::new();
    for index in 0..targets {
        ours.push(our_target(dir.path(), index, server.address(), &subscribers).await?);
    }
    let seeds: Vec<Target> = (0..targets)
        .map(|index| seed_target(index, server.address(), &subscribers))
        .collect::<anyhow::Result<_>>()?;
    let _pumps = start_pumps(&seeds)?;

    let (ours, seeds) = tokio::try_join!(all(ours, trials), all(seeds, trials))?;
    println!("Seconds from dark, {targets} of each at once, the server asked every {LOOK:?}.\n");
    println!("| | trials | median | p90 | p99 | most |\n|---|---|---|---|---|---|");
    println!("| defib, subscribed again | {} |", ours.subscribed.row(1.0, 2));
    println!(
        "| defib, own heartbeat heard over it | {} |",
        ours.proven.row(1.0, 2)
    );
    println!(
        "| the seed's pump, subscribed again | {} |",
        seeds.subscribed.row(1.0, 2)
    );
    Ok(())
}

async fn our_target(
    dir: &Path,
    index: usize,
    server: SocketAddr,
    subscribers: &watch::Receiver<Subscribers>,
) -> anyhow::Result<Target> {
    let proxy = FaultProxy::start(server)?;
    let dir = dir.join(index.to_string());
    std::fs::create_dir(&dir)?;
    let text = format!(
        "node = \"ours-{index}\"\ngroup = \"ours-{index}\"\n\
         [bus]\nurl = \"redis://{}\"\n\
         [http]\nlisten = \"127.0.0.1:0\"\nadmin_socket = \"none\"\n\
         [store]\npath = \"{}\"\n",
        proxy.address(),
        dir.join("state.json").display()
    );
    let node = start_node(&dir, &text).await?;
    trusted(&node).await?;
    Ok(Target {
        name: format!("defib:ours-{index}:sub"),
        proxy,
        subscribers: subscribers.clone(),
        node: Some(node),
    })
}

fn seed_target(
    index: usize,
    server: SocketAddr,
    subscribers: &watch::Receiver<Subscribers>,
) -> anyhow::Result<Target> {
    Ok(Target {
        name: format!("seed-{index}:sub"),
        proxy: FaultProxy::start(server)?,
        subscribers: subscribers.clone(),
        node: None,
    })
}

fn start_pumps(seeds: &[Target]) -> anyhow::Result<Ended> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let venv = std::env::var("DEFIB_TEST_VENV").unwrap_or_else(|_| VENV.to_owned());
    let python = Path::new(&venv).join("bin/python");
    let arguments = seeds
        .iter()
        .map(|seed| format!("{}={}", seed.name, seed.proxy.address().port()));
    Command::new(&python)
        .arg(root.join("tests/python/seed_pump.py"))
        .args(arguments)
        .stdin(Stdio::null())
        .spawn()
        .map(Ended)
        .with_context(|| format!("{} (scripts/python-venv.sh makes it)", python.display()))
}

async fn all(targets: Vec<Target>, trials: usize) -> anyhow::Result<Times> {
    let mut running = JoinSet::new();
    for target in targets {
        running.spawn(target.trials(trials));
    }
    let mut times = Times::default();
    while let Some(ended) = running.join_next().await {
        for (subscribed, proven) in ended?? {
            times.subscribed.push_seconds(subscribed);
            proven
                .into_iter()
                .for_each(|proven| times.proven.push_seconds(proven));
        }
    }
    Ok(times)
}

impl Target {
    async fn trials(mut self, trials: usize) -> anyhow::Result<Vec<(Duration, Option<Duration>)>> {
        let mut times = Vec::new();
        for _ in 0..trials {
            let before = self.newer_than(0).await?;
            if let Some(node) = &self.node {
                trusted(node).await?;
            }
            // At least a second in good health, and then any phase of the second.
            tokio::time::sleep(Duration::from_millis(1000 + random(2000)?)).await;
            times.push(self.trial(before).await?);
        }
        Ok(times)
    }

    async fn trial(&mut self, before: u64) -> anyhow::Result<(Duration, Option<Duration>)> {
        let trusted_since = self.node.as_ref().and_then(|node| trust(&node.view().borrow()));
        self.proxy
            .silence(&Which::ending(&self.name), Direction::Both, false);
        let dark = now();
        self.newer_than(before).await?;
        let subscribed = now() - dark;
        let Some(node) = &self.node else {
            return Ok((subscribed, None));
        };
        let mut view = node.view();
        let again = view.wait_for(|view| trust(view).is_some_and(|since| Some(since) > trusted_since));
        tokio::time::timeout(PATIENCE, again)
            .await
            .with_context(|| format!("{} did not come to trust its bus again", self.name))??;
        Ok((subscribed, Some(now() - dark)))
    }

    /// Waits for a subscribed connection that is newer than that one.
    async fn newer_than(&mut self, id: u64) -> anyhow::Result<u64> {
        let name = &self.name;
        let newer = self
            .subscribers
            .wait_for(|subscribers| subscribers.get(name).is_some_and(|newest| *newest > id));
        let subscribers = tokio::time::timeout(PATIENCE, newer)
            .await
            .with_context(|| format!("{name} never subscribed again"))??;
        Ok(subscribers.get(name).copied().unwrap_or_default())
    }
}

/// Since when the node trusts its bus; `None` while it does not.
fn trust(view: &View) -> Option<Time> {
    let trust = &view.snapshot()?.trust;
    (trust.bus == BusState::Trusted).then_some(trust.since)
}

fn random(below: u64) -> anyhow::Result<u64> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(|error| anyhow::anyhow!("no random bytes: {error}"))?;
    Ok(u64::from_ne_bytes(bytes) % below)
}

/// Asks the server itself who is subscribed: the same judge for both ways.
async fn look(mut server: MultiplexedConnection, tell: watch::Sender<Subscribers>) -> anyhow::Result<()> {
    loop {
        let list: String = redis::cmd("CLIENT")
            .arg(&["LIST", "TYPE", "pubsub"])
            .query_async(&mut server)
            .await?;
        let mut subscribers = Subscribers::new();
        for (id, name) in list.lines().filter_map(subscriber) {
            let newest = subscribers.entry(name).or_default();
            *newest = id.max(*newest);
        }
        tell.send_replace(subscribers);
        tokio::time::sleep(LOOK).await;
    }
}

fn subscriber(line: &str) -> Option<(u64, String)> {
    let field = |name: &str| {
        line.split(' ')
            .find_map(|field| field.strip_prefix(name)?.strip_prefix('='))
    };
    (field("sub")? != "0").then_some(())?;
    Some((field("id")?.parse().ok()?, field("name")?.to_owned()))
}

/// What the seed's pumps listen to: a heartbeat a second, as data-acquisition writes it.
async fn beat(mut server: MultiplexedConnection) -> anyhow::Result<()> {
    let mut seconds = tokio::time::interval(Duration::from_secs(1));
    loop {
        seconds.tick().await;
        let body = format!(
            "{{\"uptime_s\": {:.1}, \"wall_ts\": 1770000000.1}}",
            now().as_secs_f64()
        );
        let _: i64 = redis::cmd("PUBLISH")
            .arg(&["telemetry_heartbeat", &body])
            .query_async(&mut server)
            .await?;
    }
}
