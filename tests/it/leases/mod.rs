//! Leases for applications, with a real server, real clients that lock in their own way, and real processes.

mod command;
mod holding;
mod trouble;
mod two_nodes;

use serde_json::{Value, json};

use crate::support::node::Node;
use crate::support::until;

/// A node whose applications may take keys that begin with `app:`.
fn config(bus: &str, rest: &str) -> String {
    format!("node = \"a\"\n[bus]\nurl = \"{bus}\"\nsettle = \"1s\"\n[leases]\nprefixes = [\"app:\"]\n{rest}")
}

fn node(bus: &str) -> Node {
    Node::run(&config(bus, ""))
}

fn path(key: &str) -> String {
    format!("/api/v1/leases/{key}")
}

fn put(node: &Node, key: &str, body: &Value) -> (u16, Value) {
    node.request("PUT", &path(key), body)
}

/// Takes it with this token; it must be had.
fn take(node: &Node, key: &str, token: &str, ttl: &str) -> Value {
    let (status, answer) = put(node, key, &json!({ "token": token, "ttl": ttl }));
    assert_eq!(
        (status, &answer["state"]),
        (200, &json!("acquired")),
        "{answer:#}"
    );
    answer
}

fn look(node: &Node, key: &str) -> (u16, Value) {
    node.request("GET", &path(key), &Value::Null)
}

fn release(node: &Node, key: &str, token: &str) -> (u16, Value) {
    node.request("DELETE", &path(key), &json!({ "token": token }))
}

/// Waits until the node says this of the key.
fn becomes(node: &Node, key: &str, state: &str) -> Value {
    let mut answer = Value::Null;
    until(&format!("{key} is {state}"), || {
        answer = look(node, key).1;
        answer["state"] == state
    });
    answer
}
