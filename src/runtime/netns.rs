//! Noticing that the network namespace we live in is orphaned.
//!
//! A sidecar that joins the namespace of another container keeps that namespace when the other is restarted, but
//! its interfaces are taken away: only `lo` is left, for ever. Nothing but a start of our own joins the new one.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::engine::time::{Clock, Time};

/// Time between two looks.
const INTERVAL: Duration = Duration::from_secs(1);
/// Interfaces must stay away for so long: a network that is disconnected and connected again is no orphan.
const AWAY: Duration = Duration::from_secs(3);
/// Where the kernel lists the interfaces of the reader's own namespace. Not `/sys/class/net`: that shows the
/// namespace in which sysfs was mounted.
const DEVICES: &str = "/proc/self/net/dev";
/// Interfaces that the kernel puts into every namespace once the module is loaded, and that outlive the others
/// (`net.core.fb_tunnels_only_for_init_net` in the kernel's documentation).
const FALLBACKS: [&str; 9] = [
    "erspan0", "gre0", "gretap0", "ip6_vti0", "ip6gre0", "ip6tnl0", "ip_vti0", "sit0", "tunl0",
];

/// What is known of our namespace: pure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Orphanhood {
    original: BTreeSet<String>,
    alone_since: Option<Time>,
}

impl Orphanhood {
    /// `original`: the interfaces at the start. If there is none but `lo`, the namespace is never orphaned.
    pub fn new(original: BTreeSet<String>) -> Self {
        Self {
            original: outward(original),
            alone_since: None,
        }
    }

    /// Takes in the interfaces seen at `now`; true once all of the first ones, and any other that leads outward,
    /// have been away for 3 s.
    pub fn see(&mut self, interfaces: BTreeSet<String>, now: Time) -> bool {
        if self.original.is_empty() || !outward(interfaces).is_empty() {
            self.alone_since = None;
            return false;
        }
        let since = *self.alone_since.get_or_insert(now);
        now.since(since) >= AWAY
    }

    /// The interfaces at the start, for a message.
    pub fn original(&self) -> String {
        let names: Vec<&str> = self.original.iter().map(String::as_str).collect();
        names.join(", ")
    }
}

fn outward(mut interfaces: BTreeSet<String>) -> BTreeSet<String> {
    interfaces.retain(|name| name != "lo" && !FALLBACKS.contains(&name.as_str()));
    interfaces
}

/// Watches the namespace of this process.
#[derive(Debug)]
pub struct Watch {
    devices: PathBuf,
    orphanhood: Orphanhood,
}

impl Watch {
    /// Remembers the interfaces that are there now.
    pub fn start() -> Self {
        Self::of(Path::new(DEVICES))
    }

    /// The same for a list that is kept at `devices`.
    pub fn of(devices: &Path) -> Self {
        let original = interfaces(devices).unwrap_or_else(|error| {
            tracing::info!(
                "cannot list network interfaces ({}: {error}); an orphaned namespace goes unnoticed",
                devices.display()
            );
            BTreeSet::new()
        });
        Self {
            devices: devices.to_owned(),
            orphanhood: Orphanhood::new(original),
        }
    }

    /// Resolves when the namespace is orphaned, with the names of the interfaces that it had. Never, if it had
    /// none at the start.
    pub async fn orphaned(mut self, clock: Arc<dyn Clock>) -> String {
        if self.orphanhood.original.is_empty() {
            return std::future::pending().await;
        }
        let mut looks = tokio::time::interval(INTERVAL);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            // A list that cannot be read proves nothing.
            if let Ok(seen) = interfaces(&self.devices)
                && self.orphanhood.see(seen, clock.now())
            {
                return self.orphanhood.original();
            }
        }
    }
}

fn interfaces(devices: &Path) -> io::Result<BTreeSet<String>> {
    // Room for all of it: a file of /proc tells no size, and is read in small pieces by who asks for one.
    let mut text = String::with_capacity(4096);
    File::open(devices)?.read_to_string(&mut text)?;
    // Two lines of headings, then `  name: counters…`. No name holds a blank or a colon.
    let name = |line: &str| line.split_once(':').map(|(name, _)| name.trim().to_owned());
    Ok(text.lines().skip(2).filter_map(name).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(ToString::to_string).collect()
    }

    fn at(seconds: u64) -> Time {
        Time::from_origin(Duration::from_secs(seconds))
    }

    #[test]
    fn s39_all_gone_and_staying_away_is_an_orphan() {
        let mut state = Orphanhood::new(set(&["lo", "eth0", "eth1"]));
        assert!(!state.see(set(&["lo", "eth0", "eth1"]), at(1)));
        assert!(!state.see(set(&["lo", "eth1"]), at(2)));
        assert!(!state.see(set(&["lo"]), at(3)));
        assert!(!state.see(set(&["lo"]), at(5)));
        assert!(state.see(set(&["lo"]), at(6)));
    }

    #[test]
    fn s39_a_network_that_comes_back_or_is_replaced_is_none() {
        let mut state = Orphanhood::new(set(&["lo", "eth0"]));
        assert!(!state.see(set(&["lo"]), at(1)));
        assert!(!state.see(set(&["lo", "eth1"]), at(3)));
        assert!(!state.see(set(&["lo"]), at(4)));
        assert!(!state.see(set(&["lo"]), at(6)));
        assert!(state.see(set(&["lo"]), at(7)));
    }

    #[test]
    fn s39_a_namespace_that_never_had_an_interface_is_none() {
        let mut state = Orphanhood::new(set(&["lo", "tunl0"]));
        assert!(!state.see(set(&["lo"]), at(1)));
        assert!(!state.see(set(&["lo"]), at(1000)));
    }

    #[test]
    fn s39_tunnels_that_the_kernel_leaves_do_not_hide_it() {
        let mut state = Orphanhood::new(set(&["lo", "eth0", "sit0"]));
        assert!(!state.see(set(&["lo", "sit0"]), at(1)));
        assert!(state.see(set(&["lo", "sit0"]), at(4)));
    }

    #[test]
    fn the_kernels_list_is_read() {
        assert!(interfaces(Path::new(DEVICES)).unwrap().contains("lo"));
    }
}
