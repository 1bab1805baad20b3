//! `defib restart`: an operator's restart. A guard's no is the answer; with `--wait` the peer's own proof is.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::api::{self, Node};
use super::args::RestartArgs;
use super::follow::Follower;
use crate::http_client::encoded;
use crate::telemetry::logs::printable;

/// The node takes as long for its answer as its guards do, which may ask others.
const ANSWER: Duration = Duration::from_secs(20);
/// On top of the time that the restart and its proof have.
const SLACK: Duration = Duration::from_secs(10);

/// Asks for it; exit 0 if it was granted, with `--wait` if it was proven.
pub fn execute(args: &RestartArgs) -> ExitCode {
    api::answered(async {
        let node = Node::admin(&args.node)?;
        // From before it is asked for: nothing that comes of it is missed.
        let follower = if args.wait {
            Some(Follower::of(&node, "/api/v1/events").await?)
        } else {
            None
        };
        let path = format!("/api/v1/restart/{}", encoded(&args.peer));
        let body = json!({ "remedy": args.remedy, "rung": args.rung, "force": args.force });
        let answer = node.send("POST", &path, &body, ANSWER).await?.good()?;
        let answer: Value =
            serde_json::from_slice(&answer).context("the answer is not that of a defib of this version")?;
        let remedy = answer["remedy"].as_str().unwrap_or("its remedy");
        let granted = format!("{} was granted for {}", printable(remedy), args.peer);
        let Some(follower) = follower else {
            return Ok(format!(
                "{granted}; what comes of it: defib explain {}\n",
                args.peer
            ));
        };
        api::print(&format!("{granted}\n"));
        let within = Duration::from_millis(answer["within_ms"].as_u64().unwrap_or_default()) + SLACK;
        let own = answer["n"]
            .as_u64()
            .context("the answer does not say which notice it is")?;
        let followed = proven(follower, &args.peer, &answer["episode"], own);
        timeout(within, followed).await.unwrap_or_else(|_| {
            Err(anyhow!(
                "no proof came within {}",
                humantime::format_duration(within)
            ))
        })
    })
}

/// Shows what becomes of that episode until it is decided. `own` is the number of the notice that is the answer: what came
/// before it is of another remedy, and its own grant is the next one.
async fn proven(mut follower: Follower, peer: &str, episode: &Value, own: u64) -> anyhow::Result<String> {
    while let Some(notice) = follower.next().await {
        let n = notice["n"].as_u64();
        let of_another =
            notice["peer"] != peer || (!notice["episode"].is_null() && notice["episode"] != *episode);
        // (What has no number says that some were missed.)
        if n.is_some_and(|n| n <= own || of_another) {
            continue;
        }
        let text = notice["text"].as_str().unwrap_or_default();
        let text = printable(text).into_owned();
        match notice["event"].as_str().unwrap_or_default() {
            "recovered" => return Ok(format!("{text}\n")),
            "gave_up" | "episode_closed" => bail!("{text}"),
            // The next rung, by itself: this one did not help.
            "granted" if n > Some(own + 1) => {
                bail!("it did not help, and the ladder goes on: {text}")
            }
            "acted" | "incarnation" | "liveness" | "exited_instead" | "lagged" => {
                api::print(&format!("{text}\n"));
            }
            _ => {}
        }
    }
    bail!("the node has ended")
}
