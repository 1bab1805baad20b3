//! `defib history`: what acted and what forbade, from the node that runs, or from its file.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use serde_json::{Map, Value};

use super::api::{self, Node};
use super::args::HistoryArgs;
use super::follow::Follower;
use crate::audit::{self, Asked, Page};
use crate::runtime::clock;
use crate::telemetry::logs::printable;

/// Prints the records, the oldest first, and perhaps what follows; exit 1 if there is neither a node nor a file.
pub fn execute(args: &HistoryArgs) -> ExitCode {
    api::answered(async {
        if let Some(file) = &args.file {
            return shown(&from_file(args, file)?, args.json);
        }
        let node = Node::public(&args.node)?;
        // Before the page is asked for: what happens in between is then told twice rather than not at all.
        let mut follower = if args.follow {
            Some(Follower::of(&node, "/api/v1/events").await?)
        } else {
            None
        };
        let page = match ask(args, &node).await {
            Ok(page) => page,
            Err(error) => match configured_file(args) {
                Some(file) if args.node.url.is_none() && file.exists() => {
                    super::say_error(&format!("{error:#}; reading {}", file.display()));
                    from_file(args, &file)?
                }
                _ => return Err(error),
            },
        };
        let text = shown(&page, args.json)?;
        let Some(follower) = &mut follower else {
            return Ok(text);
        };
        api::print(&text);
        while let Some(notice) = follower.next().await {
            let of = notice.get("peer").and_then(Value::as_str);
            if args.peer.is_some() && of.is_some() && of != args.peer.as_deref() {
                continue;
            }
            if let Value::Object(mut record) = notice {
                let now = humantime::format_rfc3339_millis(clock::wall_now());
                record.insert("time".to_owned(), now.to_string().into());
                api::print(&line(&record, args.json)?);
            }
        }
        anyhow::bail!("the node has ended")
    })
}

async fn ask(args: &HistoryArgs, node: &Node) -> anyhow::Result<Page> {
    let mut path = format!("/api/v1/history?limit={}", args.limit);
    if let Some(peer) = &args.peer {
        let _ = write!(path, "&peer={}", api::encoded(peer));
    }
    if let Some(since) = args.since {
        let _ = write!(path, "&since={}ms", since.as_millis());
    }
    let answer = node.get(&path, api::TIMEOUT).await?.good()?;
    serde_json::from_slice(&answer).context("the answer is not the history of a defib of this version")
}

fn configured_file(args: &HistoryArgs) -> Option<PathBuf> {
    Some(args.node.config.load(false).ok()?.audit?.path)
}

fn from_file(args: &HistoryArgs, path: &Path) -> anyhow::Result<Page> {
    if !path.exists() {
        anyhow::bail!("there is no {}", path.display());
    }
    let now = clock::wall_now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    let asked = Asked {
        peer: args.peer.clone(),
        since: args.since.map(|since| now.saturating_sub(since)),
        limit: usize::from(args.limit),
    };
    audit::read(path, &asked).with_context(|| format!("cannot read {}", path.display()))
}

fn shown(page: &Page, json: bool) -> anyhow::Result<String> {
    let mut out = String::new();
    for record in &page.records {
        out.push_str(&line(record, json)?);
    }
    if json {
        return Ok(out);
    }
    if page.records.is_empty() {
        out.push_str("nothing has been done or forbidden\n");
    }
    if page.older {
        super::say_error("older records are left out: --limit, --since");
    }
    if page.skipped > 0 {
        super::say_error(&format!(
            "{} lines are no whole record of this version (the node, or its machine, ended while it wrote), and are passed over",
            page.skipped
        ));
    }
    Ok(out)
}

/// `2026-11-27T05:31:00.123Z  feed  granted         docker granted for peer_silent (attempt 1, token 7)`
fn line(record: &Map<String, Value>, json: bool) -> anyhow::Result<String> {
    if json {
        return Ok(serde_json::to_string(record)? + "\n");
    }
    let text = |key: &str| record.get(key).and_then(Value::as_str).unwrap_or_default();
    let peer = match text("peer") {
        "" => "-",
        peer => peer,
    };
    let mut words = text("text").to_owned();
    let until = record.get("refusal").and_then(|refusal| refusal.get("until"));
    if let Some(until) = until.and_then(Value::as_str) {
        let _ = write!(words, " (until {until})");
    }
    Ok(format!(
        "{}  {:<12}  {:<15}  {}\n",
        printable(text("time")),
        printable(peer),
        printable(text("event")),
        printable(&words)
    ))
}
