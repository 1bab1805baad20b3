//! Many other nodes: their names, their heartbeats, and the configuration that watches them.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use defib::bus::heartbeat;
use defib::engine::event::{Ballot, Heartbeat};

pub(crate) const GROUP: &str = "measured";
pub(crate) const CHANNEL: &str = "defib:measured";

pub(crate) fn name(index: usize) -> String {
    format!("node-{index:06}")
}

/// The heartbeat of node `index` in that slot, as it travels.
pub(crate) fn body(index: usize, slot: u64) -> Vec<u8> {
    heartbeat::encode(&beat(index, slot, 1000), 1_770_000_000.0 + slot as f64)
}

pub(crate) fn beat(index: usize, slot: u64, interval_ms: u64) -> Heartbeat {
    Heartbeat {
        node: Some(name(index).into()),
        group: Some(GROUP.into()),
        boot: Some(Arc::from(format!(
            "{:016x}",
            0x9e37_79b9_7f4a_7c15u64.wrapping_mul(index as u64 + 1)
        ))),
        slot: Some(slot),
        late_ms: Some(0),
        uptime_s: Some(slot as f64),
        interval_ms: Some(interval_ms),
        goodbye: false,
        peers: Vec::new(),
        ballot: Ballot::default(),
    }
}

/// A node that watches so many others by their heartbeats on the group's channel.
pub(crate) fn observer(dir: &Path, redis: &str, peers: usize) -> String {
    let mut text = format!(
        "node = \"observer\"\ngroup = \"{GROUP}\"\n\
         [bus]\nurl = \"{redis}\"\n\
         [http]\nlisten = \"127.0.0.1:0\"\nadmin_socket = \"none\"\n\
         [store]\npath = \"{}\"\n\
         [log]\nlevel = \"warn\"\n",
        dir.join("state.json").display()
    );
    for index in 0..peers {
        let name = name(index);
        let _ = write!(
            text,
            "[peer.{name}]\nchecks.heartbeat = {{ node = \"{name}\" }}\n"
        );
    }
    text
}
