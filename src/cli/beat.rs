//! `defib beat`: a sign of life from a shell script, for a `push` check of the node on this machine, or as one heartbeat
//! on the bus.

use std::process::ExitCode;

use anyhow::{Context, anyhow, bail};
use serde_json::json;

use super::api::{self, Node, TIMEOUT};
use super::args::BeatArgs;
use super::exit;
use crate::bus::Backend;
use crate::config::Config;
use crate::http_client::encoded;
use crate::redis_client::{self, Endpoint};
use crate::runtime::clock;

/// Beats once.
pub fn execute(args: &BeatArgs) -> ExitCode {
    match &args.peer {
        Some(peer) => push(args, peer),
        None => publish(args),
    }
}

fn push(args: &BeatArgs, peer: &str) -> ExitCode {
    let form = if args.start {
        "/start".to_owned()
    } else if args.fail {
        "/fail".to_owned()
    } else if args.log {
        "/log".to_owned()
    } else if args.stop {
        "/stop".to_owned()
    } else {
        args.exit_code.map_or_else(String::new, |code| format!("/{code}"))
    };
    let check = args.check.as_deref().map(encoded);
    let check = check.map_or_else(String::new, |check| format!("?check={check}"));
    let path = format!("/api/v1/beat/{}{form}{check}", encoded(peer));
    let message = args.message.clone().unwrap_or_default();
    api::answered(async {
        Node::admin(&args.node)?.post_text(&path, message).await?.good()?;
        // Nothing is said: a script's output is its own.
        Ok(String::new())
    })
}

fn publish(args: &BeatArgs) -> ExitCode {
    let config = match args.node.config.load(false) {
        Ok(config) => config,
        Err(report) => {
            super::say_error(&report.to_string());
            return ExitCode::from(exit::CONFIG);
        }
    };
    api::answered(async {
        let endpoint = endpoint(&config)?;
        let channel = channel(&config, args.channel.as_deref())?;
        let beat = json!({ "uptime_s": uptime_of_parent()?, "wall_ts": clock::wall_seconds() });
        let published = redis_client::publish(&endpoint, channel, beat.to_string().as_bytes(), TIMEOUT).await;
        published.map_err(|why| anyhow!("{why}"))?;
        Ok(String::new())
    })
}

fn endpoint(config: &Config) -> anyhow::Result<Endpoint> {
    match &config.bus.backend {
        Backend::Redis(endpoint) => Ok(endpoint.clone()),
        Backend::Embedded {
            listen: Some(address),
        } => Ok(Endpoint::tcp(address.ip().to_string(), address.port())),
        Backend::Embedded { listen: None } => bail!(
            "the bus is embedded in the node, where no other process gets to: set bus.listen, or beat a `push` check"
        ),
    }
}

/// A peer's own channel, never one of data.
fn channel<'c>(config: &'c Config, given: Option<&'c str>) -> anyhow::Result<&'c str> {
    let own = &config.own_channels;
    let channel = match (given, own.as_slice()) {
        (Some(given), _) => given,
        (None, [only]) => only,
        (None, []) => {
            bail!("no `heartbeat` check of the configuration has a channel: say which with --channel")
        }
        (None, several) => bail!(
            "the configuration's `heartbeat` checks have several channels: say which with --channel, one of {}",
            several.join(", ")
        ),
    };
    if config.data_channels.iter().any(|data| **data == *channel) {
        bail!("`{channel}` is a channel of data: nothing is ever published on it");
    }
    if *channel == *config.bus.publish_channel {
        bail!("`{channel}` is where nodes publish: a beat there is nobody's; use a channel of its own");
    }
    Ok(channel)
}

/// Of the script that runs this command: its subscribers tell one life from the next by it.
fn uptime_of_parent() -> anyhow::Result<f64> {
    let parent = std::os::unix::process::parent_id();
    let seconds = crate::checks::uptime_of(parent).with_context(|| {
        format!("cannot tell for how long the process that runs this command (pid {parent}) has run")
    })?;
    Ok(seconds)
}
