//! `defib explain`: what is known of one peer, in the node's own words.

use std::process::ExitCode;

use anyhow::Context;

use super::api::{self, Node};
use super::args::ExplainArgs;
use crate::http_client::encoded;

/// Prints the explanation; exit 1 if the node is away or knows no such peer.
pub fn execute(args: &ExplainArgs) -> ExitCode {
    api::answered(async {
        let node = Node::public(&args.node)?;
        let path = format!("/api/v1/explain/{}", encoded(&args.peer));
        let text = node.get(&path, api::TIMEOUT).await?.good()?;
        String::from_utf8(text).context("the answer is not UTF-8: is that a defib?")
    })
}
