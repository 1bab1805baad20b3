//! The acceptance scenarios, end to end: a real redis-server, unmodified redis-py clients, real processes, and the
//! real binary, asked over its own endpoints. What needs no other process is tested beside what it tests.
//!
//! Times are shortened so that a test takes seconds: a heartbeat each 300 ms instead of each second, a settling
//! time of a second or two instead of a minute. What must hold at the real times is shown in virtual time
//! (src/engine/tests.rs, src/sim) and measured (docs/measurements.md).

mod contained;
mod docker;
mod files;
mod fleet;
mod forged;
mod half_dead;
mod healing;
mod keys;
mod leaks;
mod links;
mod node;
mod notify;
mod operators;
mod outage;
mod reload;
mod sockets;
mod votes;

use crate::support::python::Python;
use crate::support::redis_server;

/// The node `a` on the bus at `url`, with these peers.
fn config(url: &str, rest: &str) -> String {
    format!(
        r#"
        node = "a"
        group = "it"
        [bus]
        url = "{url}"
        settle = "1s"
        [heartbeat]
        interval = "300ms"
        [budget]
        spacing = "0s"
        {rest}
        "#
    )
}

/// What most scenarios need; `None`, and said so, if it is not there.
fn parts() -> Option<Python> {
    redis_server::there().then(Python::newest).flatten()
}
