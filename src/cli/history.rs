//! `defib history`: what acted and what forbade, from the node that runs, or from its file.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use serde_json::{Map, Value};

use super::api::{self, Node};
use super::args::HistoryArgs;
use super::follow::Follower;
use crate::audit::{self, Asked, Page};
use crate::calendar::stamp;
use crate::http_client::encoded;
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
            let Value::Object(notice) = notice else { continue };
            if let Some(record) = recorded(notice, args.peer.as_deref(), since_1970()) {
                api::print(&line(&record, args.json)?);
            }
        }
        anyhow::bail!("the node has ended")
    })
}

async fn ask(args: &HistoryArgs, node: &Node) -> anyhow::Result<Page> {
    let mut path = format!("/api/v1/history?limit={}", args.limit);
    if let Some(peer) = &args.peer {
        let _ = write!(path, "&peer={}", encoded(peer));
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
    let asked = Asked {
        peer: args.peer.clone(),
        since: args.since.map(|since| since_1970().saturating_sub(since)),
        limit: usize::from(args.limit),
    };
    audit::read(path, &asked).with_context(|| format!("cannot read {}", path.display()))
}

fn since_1970() -> Duration {
    clock::wall_now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default()
}

/// A notice that was told at `wall`, in the form of its record in the audit, if one is kept of it; and that some were missed.
fn recorded(
    mut notice: Map<String, Value>,
    peer: Option<&str>,
    wall: Duration,
) -> Option<Map<String, Value>> {
    let event = notice.get("event").and_then(Value::as_str)?;
    let of = notice.get("peer").and_then(Value::as_str);
    let meant = peer.is_none() || of.is_none() || of == peer;
    if !meant || (event != "lagged" && !audit::keeps(event)) {
        return None;
    }
    // On the node's own clock, which nobody else has.
    let at = notice.remove("at").and_then(|at| at.as_u64());
    if let Some(Value::Object(refusal)) = notice.get_mut("refusal") {
        let until = refusal.remove("until").and_then(|until| until.as_u64());
        let until = until.filter(|until| *until < u64::MAX);
        if let (Some(at), Some(until)) = (at, until) {
            let left = Duration::from_nanos(until.saturating_sub(at));
            refusal.insert("until".to_owned(), stamp(wall.saturating_add(left)).into());
        }
    }
    notice.insert("time".to_owned(), stamp(wall).into());
    Some(notice)
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_followed_has_the_form_of_what_is_kept() {
        let wall = Duration::from_secs(1_770_000_000);
        let told = |notice: Value| match notice {
            Value::Object(notice) => recorded(notice, Some("feed"), wall).map(Value::Object),
            other => panic!("{other}"),
        };
        let refused = json!({
            "n": 7, "at": 5_000_000_000u64, "peer": "feed", "event": "refused", "episode": 1, "text": "held",
            "refusal": { "guard": "backoff", "why": "w", "until": 65_000_000_000u64 },
        });
        assert_eq!(
            told(refused.clone()).unwrap(),
            json!({
                "n": 7, "peer": "feed", "event": "refused", "episode": 1, "text": "held",
                "refusal": { "guard": "backoff", "why": "w", "until": "2026-02-02T02:41:00.000Z" },
                "time": "2026-02-02T02:40:00.000Z",
            })
        );
        let mut never = refused;
        never["refusal"]["until"] = u64::MAX.into();
        assert_eq!(
            told(never).unwrap()["refusal"],
            json!({ "guard": "backoff", "why": "w" })
        );
        // What is only seen is not kept; what is of another peer is not asked for; that some were missed is told.
        assert_eq!(told(json!({ "event": "liveness", "peer": "feed" })), None);
        assert_eq!(told(json!({ "event": "gave_up", "peer": "web" })), None);
        assert!(told(json!({ "event": "mass_silence_ended" })).is_some());
        assert!(told(json!({ "event": "lagged", "missed": 3 })).is_some());
    }
}
