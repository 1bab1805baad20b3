//! `defib pause`, `resume`, `forget`, `drain`: what an operator asks of a running node, over its admin listener.

use std::process::ExitCode;

use serde_json::{Value, json};

use super::api::{self, Node};
use super::args::{AdminArgs, DrainArgs, ForgetArgs, PauseArgs, ResumeArgs};

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

fn whom(peer: Option<&str>) -> &str {
    peer.unwrap_or("the whole node")
}

fn ask(node: &AdminArgs, path: &str, body: &Value, done: &str) -> ExitCode {
    api::answered(async {
        Node::admin(node)?.post(path, body).await?.good()?;
        Ok(format!("{done}\n"))
    })
}
