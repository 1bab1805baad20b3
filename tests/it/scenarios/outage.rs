//! The bus gone for everybody: scenario 8 with six nodes, and packets that vanish between a node and its Redis.

use std::fmt::Write as _;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use defib::engine::peer::Liveness;
use defib::engine::self_trust::BusState;
use serde_json::Value;

use super::config;
use crate::support::application::Application;
use crate::support::available;
use crate::support::netns::{self, FIRST, Namespace};
use crate::support::node::Node;
use crate::support::python::Python;
use crate::support::redis_server::{RedisServer, there};
use crate::support::stack::of_project;
use crate::support::until;

const NODES: usize = 6;

/// How long Redis is away. The scenario's seven minutes are played in virtual time (engine::tests::s08, sim); what is
/// real here are the server, the sockets and the clients, and their slowest step takes 7 s: a redis-py 8 `listen()`
/// that gives up.
const OUTAGE: Duration = Duration::from_secs(16);

/// The default is 60 s. It must outlast what an outage makes exit late.
const SETTLE: Duration = Duration::from_secs(6);

#[test]
fn s08_six_nodes_restart_nothing_while_redis_is_away_nor_while_it_settles() {
    if !there() {
        return;
    }
    let (Some(newest), Some(redis5)) = (Python::newest(), Python::redis5()) else {
        return;
    };
    let mut server = RedisServer::start();
    let port = server.port().to_string();
    let clients: Vec<_> = (0..NODES)
        .map(|index| {
            let python = if index.is_multiple_of(2) { &newest } else { &redis5 };
            Application::start(&python.words("subscriber.py", &[&port, "can_messages"]))
        })
        .collect();
    for client in &clients {
        until("the client has subscribed", || {
            client.log().contains("subscribed")
        });
    }
    let nodes: Vec<_> = clients
        .iter()
        .enumerate()
        .map(|(own, client)| Node::run(&one_of_six(own, client, &server.url())))
        .collect();
    for node in &nodes {
        node.is_calm();
    }
    let events: Vec<_> = nodes.iter().map(Node::events).collect();

    server.kill();
    for node in &nodes {
        until("/readyz says that the bus is away", || {
            node.code("/readyz") == 503
        });
    }
    // Everybody's probes, throughout.
    for _ in 0..OUTAGE.as_millis() / 500 {
        for node in &nodes {
            assert_eq!(node.code("/readyz"), 503);
            assert_no_probe_fails(node);
        }
        std::thread::sleep(Duration::from_millis(400));
    }
    assert!(
        clients.iter().any(|client| !client.runs()),
        "stock clients exit in an outage"
    );
    assert!(clients.iter().all(|client| client.starts() == 1));
    assert_reconnects_are_jittered(&server);

    server.restart();
    for (node, seen) in nodes.iter().zip(&events) {
        let back = seen.bus("trusted");
        // The view is full again, though its own client may be gone.
        node.sees("everybody sees everybody", |snapshot| {
            let mut others = snapshot.peers.iter().filter(|peer| &*peer.name != "client");
            snapshot.trust.bus == BusState::Trusted && others.all(|peer| peer.liveness == Liveness::Alive)
        });
        assert_no_probe_fails(node);
        // What is still dead once all has settled is healed, and not a moment before.
        node.is_calm();
        let settled = nanos(&back) + u64::try_from(SETTLE.as_nanos()).unwrap();
        for granted in seen.named("granted") {
            assert_eq!(granted["peer"], "client", "{granted}");
            assert!(nanos(&granted) >= settled, "{granted}\n{:#?}", seen.all());
        }
        for notice in seen.all() {
            let blamed = matches!(notice["to"].as_str(), Some("suspect" | "dead"));
            assert!(!blamed || notice["peer"] == "client", "{notice:#}");
        }
    }
    assert!(clients.iter().all(Application::runs));
}

/// It owns a client, and knows the other five by the bus. What is done to one of those would fail loudly.
fn one_of_six(own: usize, client: &Application, url: &str) -> String {
    let mut text = format!(
        r#"
        node = "n{own}"
        group = "six"
        bus = {{ url = "{url}", settle = "{}s" }}
        heartbeat.interval = "500ms"
        # Each has a client of its own, and all six exit together.
        [fleet]
        peers = "own"
        [budget]
        spacing = "1s"
        [peer.client]
        owner = {}
        grace = "2s"
        backoff.initial = "1s"
        checks.process = {{ interval = "500ms" }}
        remedies = [{{ do = "exec", command = {}, verify_within = "10s" }}]
        "#,
        SETTLE.as_secs(),
        client.owner(),
        client.restart()
    );
    for other in (0..NODES).filter(|other| *other != own) {
        write!(
            text,
            r#"
            [peer.n{other}]
            single_observer = true
            checks.heartbeat = {{ node = "n{other}", suspect_after = "3s", dead_after = "5s" }}
            remedies = [{{ do = "exec", command = ["false"] }}]
            "#
        )
        .unwrap();
    }
    text
}

fn assert_no_probe_fails(node: &Node) {
    assert_eq!(node.code("/livez"), 200);
    assert_eq!(node.code("/healthz"), 200);
    for path in ["/readyz/client", "/healthz/client", "/readyz/n0", "/readyz/n5"] {
        assert_eq!(node.code(path), 200, "{path}");
    }
}

fn nanos(notice: &Value) -> u64 {
    notice["at"].as_u64().unwrap()
}

/// Takes the place of the server for a while, and counts who comes when: twelve links that lost it at the same
/// moment, and whose backoff has long reached its bound of 2 s.
fn assert_reconnects_are_jittered(server: &RedisServer) {
    let listener = TcpListener::bind(server.address()).unwrap();
    listener.set_nonblocking(true).unwrap();
    let ticks: Vec<usize> = (0..60)
        .map(|_| {
            std::thread::sleep(Duration::from_millis(100));
            std::iter::from_fn(|| listener.accept().ok()).count()
        })
        .collect();
    let most = *ticks.iter().max().unwrap();
    assert!(
        ticks.iter().sum::<usize>() >= 2 * NODES,
        "they do not try: {ticks:?}"
    );
    assert!(most < 2 * NODES, "all at once: {ticks:?}");
}

/// The drill of docs/measurements.md in small: real nodes that watch each other, with remedies that would act, and do
/// act in the end on what is really gone.
#[test]
fn s08_a_drill_with_twenty_nodes_harms_nobody() {
    let python = Command::new("python3").arg("--version").output().is_ok();
    if !there() || !available("python3", python) {
        return;
    }
    let drill = Command::new("python3")
        .arg(of_project("scripts/measure-outage.py"))
        .env("DEFIB", env!("CARGO_BIN_EXE_defib"))
        .envs([
            ("NODES", "20"),
            ("SETTLE", "5"),
            ("DRILLS", "stop:1 kill:0 demote:5"),
        ])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = [drill.stdout, drill.stderr].concat();
    assert!(drill.status.success(), "{}", String::from_utf8_lossy(&said));
}

/// A redis-server in a namespace, which is also reached over its socket, from everywhere.
struct Apart {
    child: Child,
    dir: tempfile::TempDir,
}

impl Apart {
    fn start(namespace: &Namespace) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let child = namespace
            .command("redis-server")
            .args([
                "--port",
                "6379",
                "--bind",
                &FIRST.to_string(),
                "--protected-mode",
                "no",
            ])
            .args(["--save", "", "--unixsocket", "redis.sock", "--dir"])
            .arg(dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let apart = Self { child, dir };
        until("redis-server is up", || apart.tell(&["PING"]));
        apart
    }

    fn tell(&self, words: &[&str]) -> bool {
        Command::new("redis-cli")
            .arg("-s")
            .arg(self.dir.path().join("redis.sock"))
            .args(words)
            .output()
            .is_ok_and(|output| output.status.success())
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn s08_netns_packets_that_vanish_both_ways_are_an_outage_and_nobodys_fault() {
    if !available("root with ip and nft (network namespaces)", netns::usable()) || !there() {
        return;
    }
    let (far, near) = Namespace::pair();
    let server = Apart::start(&far);
    let feed = r#"
        [peer.feed]
        single_observer = true
        checks.heartbeat = { channel = "telemetry_heartbeat", suspect_after = "2s", dead_after = "4s" }
        remedies = [{ do = "exec", command = ["false"] }]
    "#;
    let node = Node::run_apart(&near.wrapper(), &config(&format!("redis://{FIRST}:6379"), feed));
    let beat = || {
        server.tell(&["PUBLISH", "telemetry_heartbeat", "still here"]);
    };
    node.sees("the feed is alive", |snapshot| {
        beat();
        snapshot.trust.bus == BusState::Trusted && snapshot.peers[0].liveness == Liveness::Alive
    });
    let events = node.events();

    // Not a reset, not a refusal: nothing at all. The feed goes on, and cannot be heard.
    near.drop_port(6379);
    node.sees("the bus is away", |snapshot| {
        beat();
        snapshot.trust.bus == BusState::BrokerUnreachable
    });
    for _ in 0..60 {
        beat();
        assert_eq!(node.code("/readyz"), 503);
        for path in ["/livez", "/healthz", "/readyz/feed"] {
            assert_eq!(node.code(path), 200, "{path}");
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(node.peer("feed").liveness, Liveness::Unknown);
    near.heal();
    node.sees("it trusts and hears again", |snapshot| {
        beat();
        snapshot.trust.bus == BusState::Trusted && snapshot.peers[0].liveness == Liveness::Alive
    });
    assert_eq!(node.code("/readyz"), 200);
    events.blame_nobody();
}
