//! `defib pause`, `resume`, `forget`, `drain`, `reload`: what an operator asks of a running node, over its admin listener.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use serde_json::{Value, json};

use super::api::{self, Node};
use super::args::{AdminArgs, DrainArgs, ForgetArgs, PauseArgs, ReloadArgs, ResumeArgs};
use super::exit;
use crate::reload_desk::Outcome;

/// A node answers within 30 s, or says that it cannot.
const RELOAD: Duration = Duration::from_secs(40);

/// Nothing is done any more, for one peer or for all; everything is still judged.
pub fn pause(args: &PauseArgs) -> ExitCode {
    let lasting = args
        .lasting
        .map(|lasting| humantime::format_duration(lasting).to_string());
    let until = lasting
        .as_ref()
        .map_or_else(|| "until resumed".to_owned(), |lasting| format!("for {lasting}"));
    let body = json!({ "peer": args.peer, "reason": args.reason, "for": lasting });
    let done = format!("{} is paused {until}", whom(args.peer.as_deref()));
    ask(&args.node, "/api/v1/pause", &body, &done)
}

/// Ends a pause early.
pub fn resume(args: &ResumeArgs) -> ExitCode {
    let done = format!("{} is no longer paused", whom(args.peer.as_deref()));
    ask(&args.node, "/api/v1/resume", &json!({ "peer": args.peer }), &done)
}

/// A peer left for good.
pub fn forget(args: &ForgetArgs) -> ExitCode {
    let done = format!("{} is forgotten until it is heard again", args.peer);
    ask(&args.node, "/api/v1/forget", &json!({ "peer": args.peer }), &done)
}

/// The node stops healing, says goodbye, and ends.
pub fn drain(args: &DrainArgs) -> ExitCode {
    ask(
        &args.node,
        "/api/v1/drain",
        &json!({}),
        "the node says goodbye and ends",
    )
}

/// The node reads its configuration again.
pub fn reload(args: &ReloadArgs) -> ExitCode {
    let asked = api::on_one_thread(async {
        let node = Node::admin(&args.node)?;
        let told_where = args.node.url.is_some() || args.node.admin_socket.is_some();
        let reply = node.send("POST", "/api/v1/reload", &json!({}), RELOAD).await;
        let reply = reply.map_err(|error| {
            if told_where {
                return error;
            }
            // The node listens where the file of its start said.
            error.context(
                "(this address is in the configuration as it is now; if that is what was changed, the node listens \
                 at another one: name it with --admin-socket or --url)",
            )
        })?;
        match serde_json::from_slice::<Outcome>(&reply.body) {
            Ok(outcome) => Ok(outcome),
            // Nothing of a reload: it says what is wrong.
            Err(_) => reply
                .good()
                .and_then(|_| bail!("the node answered something else")),
        }
    });
    match asked {
        Ok(Ok(Outcome::Applied { detail })) => super::say(&format!("reloaded: {detail}")),
        Ok(Ok(Outcome::Unchanged)) => super::say("unchanged: the configuration is the one that holds"),
        Ok(Ok(Outcome::Refused { error })) => {
            super::say_error(&format!("{error}\nrefused: the configuration of before holds"));
            ExitCode::from(exit::CONFIG)
        }
        Ok(Err(error)) | Err(error) => ExitCode::from(api::told(&error)),
    }
}

fn whom(peer: Option<&str>) -> &str {
    peer.unwrap_or("the whole node")
}

fn ask(node: &AdminArgs, path: &str, body: &Value, done: &str) -> ExitCode {
    api::answered(async {
        Node::admin(node)?.post(path, body).await?.good()?;
        Ok(format!("{done}\n"))
    })
}
