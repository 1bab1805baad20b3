//! Network namespaces of a test's own, in which packets can be lost on purpose. Nothing of the host's network is
//! touched: both ends of a pair are private, so every test may use the same addresses.
//!
//! Root only. Start with `if !available("root with ip and nft (network namespaces)", netns::usable()) { return }`.

use std::net::Ipv4Addr;
use std::os::fd::AsFd as _;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Of the first and of the second namespace of a pair.
pub(crate) const FIRST: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
pub(crate) const SECOND: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);

/// A namespace with its loopback up. It is removed when this is dropped; end what runs in it first.
#[derive(Debug)]
pub(crate) struct Namespace {
    name: String,
}

/// True if namespaces can be made and packets dropped in them.
pub(crate) fn usable() -> bool {
    rustix::process::geteuid().is_root() && runs("ip", &["netns", "list"]) && runs("nft", &["--version"])
}

impl Namespace {
    /// One namespace, with loopback only.
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        remove_left_behind();
        let name = format!(
            "defib-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        ip(&["netns", "add", &name]);
        let namespace = Self { name };
        namespace.must("ip", &["link", "set", "lo", "up"]);
        namespace
    }

    /// Two namespaces joined by a cable, at [`FIRST`] and [`SECOND`].
    pub(crate) fn pair() -> (Self, Self) {
        let (first, second) = (Self::new(), Self::new());
        ip(&[
            "link",
            "add",
            "wire",
            "netns",
            &first.name,
            "type",
            "veth",
            "peer",
            "name",
            "wire",
            "netns",
            &second.name,
        ]);
        for (namespace, address) in [(&first, FIRST), (&second, SECOND)] {
            namespace.must("ip", &["address", "add", &format!("{address}/30"), "dev", "wire"]);
            namespace.must("ip", &["link", "set", "wire", "up"]);
        }
        (first, second)
    }

    /// A command that will run in here.
    pub(crate) fn command(&self, program: &str) -> Command {
        let [ip, enter @ ..] = self.wrapper();
        let mut command = Command::new(ip);
        command.args(enter).arg(program);
        command
    }

    /// What a command line begins with so that it runs in here.
    pub(crate) fn wrapper(&self) -> [&str; 4] {
        ["ip", "netns", "exec", &self.name]
    }

    /// Runs `work` on a thread of its own that is in here: its sockets are too, and so are those of a
    /// current-thread runtime that it builds.
    pub(crate) fn enter<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let namespace = std::fs::File::open(format!("/run/netns/{}", self.name)).unwrap();
        let thread = std::thread::spawn(move || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            work()
        });
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// From now on every TCP packet from or to `port` vanishes in here without a word, both ways, loopback too.
    pub(crate) fn drop_port(&self, port: u16) {
        let rules = format!("tcp dport {port} drop; tcp sport {port} drop;");
        self.lose(&[("input", &rules), ("output", &rules)]);
    }

    /// From now on no TCP packet from `port` arrives in here; what is sent still leaves.
    pub(crate) fn drop_arriving_from(&self, port: u16) {
        self.lose(&[("input", &format!("tcp sport {port} drop;"))]);
    }

    /// From now on every packet of this one connection vanishes in here, both ways: `local` is its client's port.
    pub(crate) fn drop_connection(&self, local: u16, remote: u16) {
        let there = format!("tcp sport {local} tcp dport {remote} drop;");
        let back = format!("tcp sport {remote} tcp dport {local} drop;");
        let rules = there + &back;
        self.lose(&[("input", &rules), ("output", &rules)]);
    }

    /// From now on what leaves for this port has another sender's address.
    pub(crate) fn translate_sender(&self, port: u16, address: &str) {
        self.must("ip", &["address", "add", &format!("{address}/32"), "dev", "lo"]);
        let script = format!(
            "add table ip nat; add chain ip nat out {{ type nat hook postrouting priority 100; }}; \
             add rule ip nat out tcp dport {port} snat to {address}"
        );
        self.must("nft", &[&script]);
    }

    /// Every packet passes again.
    pub(crate) fn heal(&self) {
        self.must("nft", &["add table inet loss; delete table inet loss"]);
    }

    /// Takes the cable out of a pair, on this side.
    pub(crate) fn unplug(&self) {
        self.must("ip", &["link", "set", "wire", "down"]);
    }

    /// And puts it back.
    pub(crate) fn plug_in(&self) {
        self.must("ip", &["link", "set", "wire", "up"]);
    }

    fn lose(&self, hooks: &[(&str, &str)]) {
        let mut script = String::from("add table inet loss; delete table inet loss; add table inet loss;");
        for (hook, rules) in hooks {
            let chain = format!("chain {hook} {{ type filter hook {hook} priority 0; {rules} }};");
            script.extend([" table inet loss { ", &chain, " };"]);
        }
        self.must("nft", &[&script]);
    }

    fn must(&self, program: &str, arguments: &[&str]) {
        let output = self
            .command(program)
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "{program} {arguments:?} in namespace {}: {said}",
            self.name
        );
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", &self.name]).output();
    }
}

fn ip(arguments: &[&str]) {
    let output = Command::new("ip")
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "ip {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn runs(program: &str, arguments: &[&str]) -> bool {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output();
    output.is_ok_and(|output| output.status.success())
}

/// A test that was killed could not drop its namespaces; their names say whose they were.
fn remove_left_behind() {
    let Ok(entries) = std::fs::read_dir("/run/netns") else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let owner = name
            .to_str()
            .and_then(|name| name.strip_prefix("defib-")?.split('-').next());
        if owner.is_some_and(|pid| !std::path::Path::new("/proc").join(pid).exists()) {
            let _ = Command::new("ip").args(["netns", "delete"]).arg(&name).output();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};
    use std::time::Duration;

    use super::*;
    use crate::support::available;

    const SHORT: Duration = Duration::from_millis(300);
    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn packets_between_namespaces_are_lost_and_pass_again() {
        if !available("root with ip and nft (network namespaces)", usable()) {
            return;
        }
        let (first, second) = Namespace::pair();
        let listener = first.enter(|| TcpListener::bind((FIRST, 0)).unwrap());
        let address = listener.local_addr().unwrap();
        let mut near = second.enter(move || TcpStream::connect_timeout(&address, LONG).unwrap());
        let (mut far, from) = listener.accept().unwrap();
        assert_eq!(from.ip(), SECOND);
        let mut byte = [0];

        far.write_all(b"1").unwrap();
        near.set_read_timeout(Some(LONG)).unwrap();
        near.read_exact(&mut byte).unwrap();

        second.drop_port(address.port());
        far.write_all(b"2").unwrap();
        near.set_read_timeout(Some(SHORT)).unwrap();
        assert!(near.read_exact(&mut byte).is_err(), "a dropped packet arrived");

        second.heal();
        near.set_read_timeout(Some(LONG)).unwrap();
        near.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"2");

        second.drop_arriving_from(address.port());
        far.write_all(b"3").unwrap();
        near.set_read_timeout(Some(SHORT)).unwrap();
        assert!(near.read_exact(&mut byte).is_err(), "a dropped packet arrived");
        // In this order, or the lost packet is sent again in between.
        first.unplug();
        second.heal();
        assert!(near.read_exact(&mut byte).is_err(), "a packet came over no cable");
        first.plug_in();
        near.set_read_timeout(Some(LONG)).unwrap();
        near.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"3");
    }

    #[test]
    fn a_namespace_ends_with_its_handle() {
        if !available("root with ip and nft (network namespaces)", usable()) {
            return;
        }
        let namespace = Namespace::new();
        let file = std::path::Path::new("/run/netns").join(&namespace.name);
        assert!(file.exists());
        namespace.enter(|| TcpListener::bind("127.0.0.1:0").map(drop).unwrap());
        drop(namespace);
        assert!(!file.exists(), "left behind: {}", file.display());
    }
}
