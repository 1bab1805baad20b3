//! What this machine, and this node's view of it, are called among others: a peer that is found by a process, a port or a
//! container is taken for the same one by those nodes whose namespace, or machine, it is found in. (Nested pid namespaces
//! have two names for processes that both see: such nodes need `fleet.peers = "shared"`.)

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
        Self::by(Path::new("/proc"))
    }

    fn by(proc: &Path) -> Self {
        let boot = fs::read_to_string(proc.join("sys/kernel/random/boot_id")).ok();
        let machine = boot.and_then(|id| {
            let letters: String = id.chars().filter(char::is_ascii_hexdigit).take(LETTERS).collect();
            (letters.len() == LETTERS).then_some(letters)
        });
        let of = |kind: &str| {
            let link = fs::read_link(proc.join("self/ns").join(kind)).ok()?;
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

    /// For those that this machine has. `None`, of each: the kernel tells nothing, so any node may mean the same one. That
    /// can delay a restart, where a name of its own for each node would let two of one machine do it at once.
    pub(super) fn machine(&self) -> Option<String> {
        self.machine.clone()
    }

    /// For those that a node finds among its processes.
    pub(super) fn processes(&self) -> Option<String> {
        self.processes.clone()
    }

    /// For those that a node finds by a port.
    pub(super) fn network(&self) -> Option<String> {
        self.network.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_the_kernel_tells_nothing_no_node_has_a_name_of_its_own() {
        let empty = tempfile::tempdir().unwrap();
        let host = Host::by(empty.path());
        assert_eq!(
            [host.machine(), host.processes(), host.network()],
            [None, None, None]
        );
        let here = Host::here();
        for name in [here.machine(), here.processes(), here.network()] {
            assert!(name.is_some());
        }
    }
}
