//! `defib record`: writes down when heartbeats arrive, for `defib simulate`. It only listens; what is written and how is
//! said in `sim::trace`.

use std::convert::Infallible;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde::Deserialize;

use super::args::{ConfigArgs, duration};
use super::{api, exit, redis};
use crate::bus::{Backend, heartbeat};
use crate::config::Config;
use crate::config::schema::UNITS;
use crate::engine::settings::{CheckKind, Source};
use crate::engine::time::{Clock, Time};
use crate::redis_client::Endpoint;
use crate::redis_client::connection::Connection;
use crate::redis_client::failure::{Failure, Loss};
use crate::redis_client::resp::Value;
use crate::runtime::clock::MonotonicClock;
use crate::runtime::shutdown::Signals;
use crate::sim::trace::Line;

/// Asked on a quiet connection, and how long it may be quiet altogether.
const QUIET: Duration = Duration::from_secs(2);
const SILENT: u32 = 3;
/// After a loss.
const AGAIN: Duration = Duration::from_secs(1);
/// What was heard is in the file after this time at the latest.
const FLUSH: Duration = Duration::from_secs(1);

const FORMAT: &str = "\
A trace is text. Each line is an arrival, its fields apart by tabs, `-` for what is not known:
    arrival_ns   when it arrived, by this machine's monotonic clock since the start of the recording
    sender       the sending node, or else the channel
    boot         the life of the sender
    slot         the slot of its schedule that the heartbeat belongs to
    late_ms      how late the sender was for it
    interval_ms  the sender's interval
    wall_ts      the sender's wall clock, in seconds
A line that begins with `!` says that nothing was listened to for a while; `#` begins a comment.";

/// `defib record`
#[derive(Args, Clone, Debug)]
#[command(after_help = FORMAT)]
pub struct RecordArgs {
    /// Channel to listen to; may be repeated [default: those of the configuration: its heartbeats, and its checks'].
    #[arg(long, value_name = "NAME")]
    pub channel: Vec<String>,
    /// Where to write; `-` is standard output.
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    pub output: PathBuf,
    /// Replace the file if it is there.
    #[arg(long)]
    pub force: bool,
    /// Ends by itself after this time [default: Ctrl-C].
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    pub lasting: Option<Duration>,
    /// Ends by itself before the file is larger.
    #[arg(long, value_name = "SIZE", default_value = "64MiB", value_parser = bytes)]
    pub max_size: u64,
    /// The Redis to listen to [default: bus.url of the configuration].
    #[arg(long, value_name = "URL")]
    pub redis: Option<String>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would show it as help")]
    pub config: ConfigArgs,
}

fn bytes(text: &str) -> Result<u64, String> {
    let size = |(name, unit): (&str, u64)| text.strip_suffix(name)?.parse::<u64>().ok()?.checked_mul(unit);
    UNITS
        .into_iter()
        .find_map(size)
        .filter(|bytes| *bytes >= 1 << 10)
        .ok_or_else(|| "a size with its unit, of 1KiB or more, as in 64MiB".to_owned())
}

/// Exit 1: nothing could be listened to, or the file not written.
pub fn execute(args: &RecordArgs) -> ExitCode {
    let needed = args.redis.is_none() || args.channel.is_empty();
    let config = match needed.then(|| args.config.load(false)).transpose() {
        Ok(config) => config,
        Err(report) => {
            super::say_error(&report.to_string());
            return ExitCode::from(exit::CONFIG);
        }
    };
    match api::on_one_thread(record(args, config.as_ref())).unwrap_or_else(|error| Err(format!("{error:#}")))
    {
        Ok(said) => {
            super::say_error(&said);
            ExitCode::from(exit::OK)
        }
        Err(why) => {
            super::say_error(&format!("defib record: {why}"));
            ExitCode::from(exit::FAILED)
        }
    }
}

async fn record(args: &RecordArgs, config: Option<&Config>) -> Result<String, String> {
    let endpoint = endpoint(args.redis.as_deref(), config)?;
    let mut channels = args.channel.clone();
    if channels.is_empty() {
        channels = config.map(of_group).unwrap_or_default();
    }
    let mut signals = Signals::listen().map_err(|error| format!("cannot listen to signals: {error}"))?;
    let connection = subscribe(&endpoint, &channels)
        .await
        .map_err(|why| format!("{}: {why}", endpoint.address))?;
    let mut file = File::create(&args.output, args.force, args.max_size)
        .map_err(|error| format!("{}: {error}", args.output.display()))?;
    let ended = tokio::select! {
        ended = listen(connection, &endpoint, &channels, &mut file) => ended.map(|never| match never {}),
        () = pause(args.lasting) => Ok("the time is over"),
        signal = signals.next() => Ok(signal),
    };
    // Whatever ended it: what was heard is kept.
    let flushed = file.out.flush();
    let why = ended
        .and_then(|why| flushed.map(|()| why))
        .or_else(|error| match error.kind() {
            io::ErrorKind::QuotaExceeded => Ok("the file is as large as it may be"),
            _ => Err(format!("{}: {error}", args.output.display())),
        })?;
    Ok(format!(
        "defib record: {} from {} written ({why})",
        match file.written {
            1 => "1 heartbeat or other message".to_owned(),
            written => format!("{written} heartbeats and other messages"),
        },
        channels.join(", ")
    ))
}

async fn pause(lasting: Option<Duration>) {
    match lasting {
        Some(lasting) => tokio::time::sleep(lasting).await,
        None => std::future::pending().await,
    }
}

fn endpoint(given: Option<&str>, config: Option<&Config>) -> Result<Endpoint, String> {
    if let Some(url) = given {
        // The error repeats nothing of the URL: a password may stand in it.
        return Endpoint::parse(url).map_err(|error| format!("--redis: {error}"));
    }
    match config.map(|config| &config.bus.backend) {
        Some(Backend::Redis(endpoint)) => Ok(endpoint.clone()),
        Some(Backend::Embedded { listen: Some(at) }) => {
            Endpoint::parse(&format!("redis://{at}")).map_err(|error| error.to_string())
        }
        Some(Backend::Embedded { listen: None }) | None => Err(
            "the configured bus is inside the node, where nobody can listen: set bus.listen, or name a Redis with --redis"
                .to_owned(),
        ),
    }
}

/// Whatever a node with this configuration listens to.
fn of_group(config: &Config) -> Vec<String> {
    let settings = config.engine_settings("".into());
    let mut channels = vec![settings.group_channel.to_string()];
    for check in settings.peers.iter().flat_map(|peer| &peer.checks) {
        if let CheckKind::Passive {
            source: Source::Channels(more),
            ..
        } = &check.kind
        {
            channels.extend(more.iter().map(ToString::to_string));
        }
    }
    channels.sort_unstable();
    channels.dedup();
    channels
}

async fn subscribe(endpoint: &Endpoint, channels: &[String]) -> Result<Connection, String> {
    let mut connection = redis::connect(endpoint, "defib:record")
        .await
        .map_err(redis::words)?;
    for channel in channels {
        let answer = redis::ask(&mut connection, &[b"SUBSCRIBE", channel.as_bytes()], |_| Some(()))
            .await
            .map_err(redis::words)?;
        answer.map_err(|why| format!("SUBSCRIBE {channel}: {why}"))?;
    }
    Ok(connection)
}

/// Until the file cannot be written; a connection that is lost is made anew.
async fn listen(
    mut connection: Connection,
    endpoint: &Endpoint,
    channels: &[String],
    file: &mut File,
) -> io::Result<Infallible> {
    loop {
        let lost = take_in(&mut connection, file).await?;
        file.broken(&lost)?;
        super::say_error(&format!("defib record: {lost}; trying again"));
        connection = loop {
            tokio::time::sleep(AGAIN).await;
            if let Ok(new) = subscribe(endpoint, channels).await {
                break new;
            }
        };
    }
}

/// Until the connection is lost; says how.
async fn take_in(connection: &mut Connection, file: &mut File) -> io::Result<String> {
    let mut quiet = 0;
    loop {
        loop {
            match connection.next() {
                Ok(Some(value)) => {
                    quiet = 0;
                    if let Value::Push(items) | Value::List(items) = &value {
                        file.message(items)?;
                    }
                }
                Ok(None) => break,
                Err(failure) => return Ok(redis::words(failure)),
            }
        }
        file.flush_if_due()?;
        match tokio::time::timeout(QUIET, connection.fill()).await {
            Ok(Ok(_)) => {}
            Ok(Err(failure)) => return Ok(redis::words(failure)),
            Err(_) if quiet == SILENT => {
                let silent = Failure::down(Loss::Silent, "no answer to PING".to_owned());
                return Ok(redis::words(silent));
            }
            Err(_) => {
                quiet += 1;
                file.out.flush()?;
                connection.queue(&[b"PING"]);
                if let Err(failure) = connection.flush().await {
                    return Ok(redis::words(failure));
                }
            }
        }
    }
}

/// The trace that is being written.
struct File {
    out: Box<dyn Write>,
    clock: MonotonicClock,
    flushed: Time,
    room: u64,
    written: u64,
}

/// The sender's wall clock, which the engine has no use for.
#[derive(Deserialize)]
struct Wall {
    wall_ts: Option<f64>,
}

impl File {
    fn create(path: &Path, force: bool, max_size: u64) -> io::Result<Self> {
        let out: Box<dyn Write> = if path == Path::new("-") {
            Box::new(io::BufWriter::new(io::stdout()))
        } else {
            let mut options = OpenOptions::new();
            options.write(true).mode(0o644);
            if force {
                options.create(true).truncate(true);
            } else {
                options.create_new(true);
            }
            let file = options.open(path).map_err(|error| match error.kind() {
                io::ErrorKind::AlreadyExists => {
                    io::Error::new(error.kind(), "is there already: name another, or add --force")
                }
                _ => error,
            })?;
            Box::new(io::BufWriter::new(file))
        };
        let clock = MonotonicClock::start();
        let mut file = Self {
            out,
            flushed: clock.now(),
            clock,
            room: max_size,
            written: 0,
        };
        file.put(Line::HEAD)?;
        Ok(file)
    }

    /// Writes what still fits; else ends it all with [`io::ErrorKind::QuotaExceeded`].
    fn put(&mut self, text: &str) -> io::Result<()> {
        self.room = self
            .room
            .checked_sub(text.len() as u64)
            .ok_or(io::ErrorKind::QuotaExceeded)?;
        self.out.write_all(text.as_bytes())
    }

    fn message(&mut self, items: &[Value<'_>]) -> io::Result<()> {
        let [kind, channel, body] = items else {
            return Ok(());
        };
        if kind.text() != Some(b"message") {
            return Ok(());
        }
        let arrival = self.clock.now();
        let channel = String::from_utf8_lossy(channel.text().unwrap_or_default());
        let body = body.text().unwrap_or_default();
        let beat = heartbeat::read(body).ok();
        let wall = beat
            .as_ref()
            .and_then(|_| serde_json::from_slice::<Wall>(body).ok());
        let beat = beat.as_ref();
        let line = Line {
            arrival,
            sender: beat.and_then(|beat| beat.node.as_deref()).unwrap_or(&channel),
            boot: beat.and_then(|beat| beat.boot.as_deref()),
            slot: beat.and_then(|beat| beat.slot),
            late_ms: beat.and_then(|beat| beat.late_ms),
            interval_ms: beat.and_then(|beat| beat.interval_ms),
            wall_ts: wall.and_then(|wall| wall.wall_ts),
        };
        self.put(&format!("{line}\n"))?;
        self.written += 1;
        Ok(())
    }

    /// Nothing is listened to from now on, for a while.
    fn broken(&mut self, why: &str) -> io::Result<()> {
        let why: String = why
            .chars()
            .filter(|letter| !letter.is_control())
            .take(200)
            .collect();
        self.put(&format!("! {why}\n"))?;
        self.out.flush()
    }

    fn flush_if_due(&mut self) -> io::Result<()> {
        let now = self.clock.now();
        if now.since(self.flushed) >= FLUSH {
            self.flushed = now;
            self.out.flush()?;
        }
        Ok(())
    }
}
