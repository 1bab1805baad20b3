//! What can be told of a container's own processes and sockets: scenario 41 under host networking, and `memory`.

use std::io::Write as _;
use std::net::TcpStream;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use defib::engine::peer::Liveness;
use rustix::process::{Pid, Signal, kill_process};

use super::config;
use crate::support::available;
use crate::support::docker::{Container, Engine};
use crate::support::node::{Node, defib};
use crate::support::redis_server::RedisServer;

const CHANNEL: &str = "can_messages";

/// A peer that is this container, with these checks.
fn peer(name: &str, container: &Container, checks: &str) -> String {
    format!(
        "[peer.{name}]\nowner = {{ container = \"{}\" }}\ngrace = \"1s\"\n[peer.{name}.checks]\n\
         process = {{ interval = \"200ms\", decides = \"nothing\" }}\n{checks}\n",
        container.0
    )
}

/// What a peer's check says.
fn detail(node: &Node, peer: &str, check: &str) -> String {
    let peer = node.peer(peer);
    let check = peer.checks.iter().find(|one| &*one.name == check).unwrap();
    check.detail.clone()
}

/// Ten messages a second, until it is dropped.
struct Publisher(Arc<AtomicBool>);

impl Publisher {
    fn start(redis: &RedisServer) -> Self {
        let publishing = Arc::new(AtomicBool::new(true));
        let (goes_on, mut stream) = (
            Arc::clone(&publishing),
            TcpStream::connect(redis.address()).unwrap(),
        );
        std::thread::spawn(move || {
            let body = "x".repeat(150);
            let words = format!("*3\r\n$7\r\nPUBLISH\r\n$12\r\n{CHANNEL}\r\n$150\r\n{body}\r\n");
            while goes_on.load(Ordering::Relaxed) && stream.write_all(words.as_bytes()).is_ok() {
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        Self(publishing)
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

#[test]
fn s41_containers_on_the_hosts_network_are_told_apart_by_their_cgroups() {
    let Some(engine) = Engine::start() else { return };
    let redis = RedisServer::start();
    let _publisher = Publisher::start(&redis);
    // Nothing but its cgroup tells one's connection from the other's; and what `docker exec` opened is the container's, too.
    let subscribe = format!("exec redis-cli -p {} subscribe {CHANNEL}", redis.port());
    let one = engine.run("one", &["--network", "host"], &subscribe);
    let two = engine.run(
        "two",
        &["--network", "host"],
        &subscribe.replace("exec", "while ! test -e /tmp/go; do sleep 0.1; done; exec"),
    );
    let apart = engine.idle("apart", &[]);
    let checks = format!(
        "subscription = {{ channels = [\"{CHANNEL}\"], window = \"2s\", stuck_after = \"2s\", interval = \"300ms\" }}"
    );
    let peers = [
        peer("one", &one, &checks),
        peer("two", &two, &checks),
        peer("apart", &apart, &checks),
    ];
    let node = Node::run(&config(&redis.url(), &peers.concat()));
    let is_alive = |name: &'static str| {
        node.sees(&format!("{name} is subscribed"), |snapshot| {
            let peer = snapshot.peers.iter().find(|peer| &*peer.name == name);
            peer.is_some_and(|peer| peer.liveness == Liveness::Alive)
        });
    };
    is_alive("one");
    let file = node.dir().join("defib.toml");
    let (_, said) = defib(&["doctor", "--config", file.to_str().unwrap()]);
    for (name, word) in [
        ("one", "told by its cgroup"),
        ("apart", "another network namespace"),
    ] {
        let told = |line: &str| line.contains(name) && line.contains("subscription") && line.contains(word);
        assert!(said.lines().any(told), "{name}: {said}");
    }
    // The neighbour's subscriber is not taken for its own.
    assert_eq!(node.peer("two").liveness, Liveness::Unknown);
    two.exec(&["touch", "/tmp/go"]);
    is_alive("two");
    let events = node.events();

    let pid: i32 = one.inspect("{{.State.Pid}}").parse().unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), Signal::STOP).unwrap();
    node.sees("one is dead", |snapshot| {
        snapshot.peers[0].liveness == Liveness::Dead
    });
    let said = detail(&node, "one", "subscription");
    assert!(said.starts_with("stuck: "), "{said}");
    for notice in events.all() {
        let blames = matches!(notice["to"].as_str(), Some("suspect" | "dead"));
        assert!(!blames || notice["peer"] == "one", "{notice:#}");
    }
    assert_eq!(node.peer("two").liveness, Liveness::Alive);
    kill_process(Pid::from_raw(pid).unwrap(), Signal::CONT).unwrap();
    is_alive("one");

    // In another network namespace there is nothing to be seen, and that is said.
    assert_eq!(node.peer("apart").liveness, Liveness::Unknown);
    let said = detail(&node, "apart", "subscription");
    assert!(said.contains("another network namespace"), "{said}");
}

#[test]
fn the_memory_of_a_container_is_seen_by_its_process_or_told_by_docker() {
    let Some(engine) = Engine::start() else { return };
    let container = engine.run("app", &[], "exec redis-server --save ''");
    let memory = "memory = { below = \"40MiB\", interval = \"200ms\", fail_after = \"1 of 1\" }";
    let alone = "alone = { type = \"memory\", of = \"process\", below = \"40MiB\", interval = \"200ms\", \
                 fail_after = \"1 of 1\" }";
    let settings = config(
        "embedded",
        &peer("app", &container, &format!("{memory}\n{alone}")),
    );
    let near = Node::run(&settings);
    let wrapper = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"];
    let may = Command::new(wrapper[0]).args(&wrapper[1..]).arg("true").status();
    let may = available(
        "a pid namespace of its own (unshare, root)",
        may.is_ok_and(|status| status.success()),
    );
    let far = may.then(|| Node::run_with(&wrapper, &settings));
    near.is_calm();
    if let Some(far) = &far {
        far.is_calm();
        far.sees("its process is out of sight", |_| {
            detail(far, "app", "alone").contains("are not seen from here")
        });
    }

    container.exec(&["redis-cli", "setrange", "key", "60000000", "x"]);
    for node in [Some(&near), far.as_ref()].into_iter().flatten() {
        node.sees("it holds too much", |snapshot| {
            let said = detail(node, "app", "memory");
            let holds = said.starts_with("it holds ") && said.contains("MiB, not below 40.0MiB");
            snapshot.peers[0].liveness == Liveness::Dead && holds
        });
    }
    near.sees("so does its first process", |_| {
        detail(&near, "app", "alone").starts_with("it holds ")
    });

    container.docker("stop");
    for node in [Some(&near), far.as_ref()].into_iter().flatten() {
        node.sees("there is nothing to measure", |snapshot| {
            snapshot.peers[0].liveness == Liveness::Unknown && snapshot.peers[0].episode.is_none()
        });
    }
}
