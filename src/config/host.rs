//! What this machine, and this node's view of it, are called among others: a peer that is found by a process, a port or a
//! container is the same for exactly those nodes that see the same processes, ports or containers.

use std::fs;
use std::path::Path;

/// Letters of the kernel's boot id: 48 random bits.
const LETTERS: usize = 12;

/// Names that no other machine has. `None`: there is none to be had here.
pub(super) struct Host {
    machine: Option<String>,
    processes: Option<String>,
    network: Option<String>,
}

impl Host {
    /// As the kernel tells it: the boot id is one for all containers of a machine, a namespace has a number there.
    pub(super) fn here() -> Self {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok();
        let machine = boot.and_then(|id| {
            let letters: String = id.chars().filter(char::is_ascii_hexdigit).take(LETTERS).collect();
            (letters.len() == LETTERS).then_some(letters)
        });
        let of = |kind: &str| {
            let link = fs::read_link(Path::new("/proc/self/ns").join(kind)).ok()?;
            let digits = |c: &char| c.is_ascii_digit();
            let number: String = link.to_str()?.chars().filter(digits).collect();
            Some(format!("{kind}:{}-{number}", machine.as_ref()?))
        };
        Self {
            processes: of("pid"),
            network: of("net"),
            machine: machine.map(|id| format!("host:{id}")),
        }
    }

    /// For those that this machine has.
    pub(super) fn machine(&self, node: &str) -> String {
        named(self.machine.as_ref(), node)
    }

    /// For those that a node finds among its processes.
    pub(super) fn processes(&self, node: &str) -> String {
        named(self.processes.as_ref(), node)
    }

    /// For those that a node finds by a port.
    pub(super) fn network(&self, node: &str) -> String {
        named(self.network.as_ref(), node)
    }
}

/// Where the kernel tells nothing, a node is taken for alone on its machine.
fn named(name: Option<&String>, node: &str) -> String {
    name.cloned().unwrap_or_else(|| format!("node:{node}"))
}
