//! Heartbeats that one node absorbs (socket, bus, event loop, engine) beside bare subscribers that only count: of
//! redis-rs, in its two ways, and of hiredis. Same messages, poured in faster than anybody takes them, interleaved,
//! each subscriber in a process of its own.
//!
//! `ROUNDS=3 MESSAGES=100000` for other numbers. Ends by itself.

use std::io::{BufRead, BufReader, Lines};
use std::path::{Path, PathBuf};
use std::process::{ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::common::{now, number, run, start_node, trusted, until};
use crate::crowd::{self, CHANNEL};
use crate::flood::Flood;
use crate::process::{Ended, own_cpu};
use crate::redis_server::{self, RedisServer};
use crate::sample::{Sample, heading};
use anyhow::{Context, bail};
use defib::app::Running;
use futures_util::StreamExt;
use tokio::sync::Notify;

/// Nodes that send.
const CROWD: usize = 100;
/// Who subscribes; the first is ours.
const SUBSCRIBERS: [&str; 4] = [
    "defib",
    "redis-rs, push closure",
    "redis-rs, PubSub stream",
    "hiredis",
];

/// What one subscriber was seen to do.
#[derive(Default)]
struct Figures {
    per_second: Sample,
    /// Processor time for one message, in microseconds.
    cost: Sample,
}

pub(crate) fn measure() -> anyhow::Result<()> {
    let (rounds, messages) = (number("ROUNDS", 7), number("MESSAGES", 500_000));
    heading("Heartbeats that one node absorbs");
    if !redis_server::there() {
        return Ok(());
    }
    let server = RedisServer::start();
    let flood = Flood::before(server.address())?;
    let hiredis = build_hiredis()?;
    let bodies: Vec<Vec<u8>> = (0..messages)
        .map(|index| crowd::body(index % CROWD, (index / CROWD) as u64))
        .collect();
    let mut figures: [Figures; SUBSCRIBERS.len()] = Default::default();
    for round in 0..rounds {
        for place in 0..SUBSCRIBERS.len() {
            // Another first in each round: what warms up or wears off meets all alike.
            let place = (place + round) % SUBSCRIBERS.len();
            let (took, cpu) = one(SUBSCRIBERS[place], &flood, hiredis.path(), &bodies)?;
            figures[place].per_second.push(messages as f64 / took);
            figures[place].cost.push(cpu * 1e6 / messages as f64);
        }
    }
    show(&figures, messages, bodies[0].len());
    Ok(())
}

/// One of the subscribers, in a process of its own.
pub(crate) fn subscribe(how: &str, url: &str, count: usize) -> anyhow::Result<()> {
    match how {
        "defib" => run(be_node(url, count)),
        "redis-rs, push closure" => run(be_closure(url, count)),
        "redis-rs, PubSub stream" => run(be_stream(url, count)),
        other => bail!("no subscriber {other:?}"),
    }
}

fn show(figures: &[Figures; SUBSCRIBERS.len()], messages: usize, size: usize) {
    println!(
        "{messages} heartbeats of {CROWD} nodes, {size} bytes each, {} rounds interleaved; median (least–most).\n",
        figures[0].cost.len()
    );
    println!(
        "| subscriber | µs of processor for one | heartbeats/s seen | defib / it, by processor | as seen |"
    );
    println!("|---|---|---|---|---|");
    let ours = &figures[0];
    for (name, figures) in SUBSCRIBERS.iter().zip(figures) {
        println!(
            "| {name} | {} | {} | {:.2} | {:.2} |",
            figures.cost.spread(2),
            figures.per_second.spread(0),
            figures.cost.median() / ours.cost.median(),
            ours.per_second.median() / figures.per_second.median(),
        );
    }
}

/// Seconds, and processor seconds, from a subscriber's first message to its last.
fn one(name: &str, flood: &Flood, hiredis: &Path, bodies: &[Vec<u8>]) -> anyhow::Result<(f64, f64)> {
    let count = bodies.len().to_string();
    let address = flood.address();
    let mut command = if name == "hiredis" {
        let mut command = Command::new(hiredis.join("bare_hiredis"));
        command.args([&address.port().to_string(), CHANNEL, &count]);
        command
    } else {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["subscribe", name, &format!("redis://{address}"), &count]);
        command
    };
    let mut child = Ended(command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?);
    let stdout = child.0.stdout.take().context("no stdout")?;
    let mut lines = BufReader::new(stdout).lines();
    anyhow::ensure!(line(&mut lines, name)? == "ready", "{name} did not become ready");
    flood.pour(CHANNEL, bodies)?;
    let said = line(&mut lines, name)?;
    let numbers: Vec<f64> = said
        .split(' ')
        .map(str::parse)
        .collect::<Result<_, _>>()
        .with_context(|| format!("{name} said {said:?}"))?;
    match numbers.as_slice() {
        [seen, took, cpu] if (*seen - bodies.len() as f64).abs() < 0.5 => Ok((*took, *cpu)),
        _ => bail!("{name} said {said:?}: not all heartbeats"),
    }
}

fn line(lines: &mut Lines<BufReader<ChildStdout>>, name: &str) -> anyhow::Result<String> {
    Ok(lines.next().with_context(|| format!("{name} ended"))??)
}

fn build_hiredis() -> anyhow::Result<tempfile::TempDir> {
    let dir = tempfile::tempdir()?;
    let source: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/measure/bare_hiredis.c");
    let built = Command::new("cc")
        .arg("-O2")
        .arg("-o")
        .arg(dir.path().join("bare_hiredis"))
        .arg(source)
        .arg("-lhiredis")
        .status()
        .context("cc")?;
    anyhow::ensure!(
        built.success(),
        "cannot build against hiredis: install libhiredis-dev"
    );
    Ok(dir)
}

/// From the first message on.
struct Count {
    from: Duration,
    cpu_from: Duration,
}

impl Count {
    fn begin() -> anyhow::Result<Self> {
        Ok(Self {
            from: now(),
            cpu_from: own_cpu()?,
        })
    }

    fn end(&self, count: usize) -> anyhow::Result<()> {
        let (took, cpu) = (now() - self.from, own_cpu()? - self.cpu_from);
        println!("{count} {:.6} {:.6}", took.as_secs_f64(), cpu.as_secs_f64());
        Ok(())
    }
}

/// The node itself, as `defib run` has it. Its own metrics tell how far it is.
async fn be_node(url: &str, count: usize) -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let node = start_node(dir.path(), &crowd::observer(dir.path(), url, CROWD)).await?;
    trusted(&node).await?;
    let heard = || node.metrics().bus.heartbeats.get();
    let before = heard();
    println!("ready");
    // Its own heartbeats are among them: one a second.
    until("the first", Duration::from_secs(30), || heard() > before + 3).await?;
    let (counting, goal) = (Count::begin()?, before + count as u64);
    until("the last", Duration::from_secs(60), || heard() >= goal).await?;
    let lost = || node.metrics().bus.dropped.get();
    until("the engine", Duration::from_secs(10), || {
        events(&node) + lost() as f64 >= count as f64
    })
    .await?;
    counting.end(count - usize::try_from(lost())?)
}

/// Events that the engine was handed.
fn events(node: &Running) -> f64 {
    let families = node.metrics().registry.gather();
    let family = families
        .iter()
        .find(|family| family.name() == "defib_loop_events_total");
    family.map_or(0.0, |family| {
        family
            .get_metric()
            .iter()
            .map(|metric| metric.get_counter().get_value())
            .sum()
    })
}

/// RESP3, pushes handed to a closure by the connection's own task: the fastest way that redis-rs has.
async fn be_closure(url: &str, count: usize) -> anyhow::Result<()> {
    let (begun, done) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let seen = AtomicUsize::new(0);
    let tell = (Arc::clone(&begun), Arc::clone(&done));
    let config = redis::AsyncConnectionConfig::new().set_push_sender(move |push: redis::PushInfo| {
        if push.kind == redis::PushKind::Message {
            let seen = seen.fetch_add(1, Ordering::Relaxed) + 1;
            if seen == 1 {
                tell.0.notify_one();
            } else if seen == count {
                tell.1.notify_one();
            }
        }
        Ok::<(), redis::RedisError>(())
    });
    let client = redis::Client::open(format!("{url}?protocol=resp3"))?;
    let mut connection = client
        .get_multiplexed_async_connection_with_config(&config)
        .await?;
    connection.subscribe(CHANNEL).await?;
    println!("ready");
    begun.notified().await;
    let counting = Count::begin()?;
    done.notified().await;
    counting.end(count)
}

/// The way of redis-rs's own examples.
async fn be_stream(url: &str, count: usize) -> anyhow::Result<()> {
    let mut pubsub = redis::Client::open(url)?.get_async_pubsub().await?;
    pubsub.subscribe(CHANNEL).await?;
    let mut messages = pubsub.on_message();
    println!("ready");
    messages.next().await.context("the stream ended")?;
    let counting = Count::begin()?;
    for _ in 1..count {
        messages.next().await.context("the stream ended")?;
    }
    counting.end(count)
}
