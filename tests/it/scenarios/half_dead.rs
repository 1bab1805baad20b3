//! Half-dead subscribers, seen from outside: scenarios 6, 41, 42, 47. One network namespace of the test's own holds
//! the server, unmodified subscribers, and the node; one connection of one of them goes dark, its process is stopped,
//! or it gives up its subscription. (docs/half-dead.md has the hour with the healthy ones.)

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use defib::engine::peer::Liveness;
use rustix::process::Signal;

use crate::support::application::Application;
use crate::support::netns::{self, Namespace};
use crate::support::node::Node;
use crate::support::python::Python;
use crate::support::{available, redis_server, until};

const PORT: u16 = 6379;
const CHANNEL: &str = "can_messages";

/// A server in a namespace of its own, somebody who publishes five messages a second, and room for the rest.
struct World {
    python: Python,
    namespace: Namespace,
    host: &'static str,
    server: Option<Child>,
    dir: tempfile::TempDir,
    publishing: Arc<AtomicBool>,
}

impl World {
    /// With Debian's Redis.
    fn new() -> Option<Self> {
        Self::with("redis-server", "127.0.0.1", &[])
    }

    fn with(program: &str, host: &'static str, more: &[&str]) -> Option<Self> {
        let mut world = Self::without_server(host)?;
        if !available(program, Command::new(program).arg("--version").output().is_ok()) {
            return None;
        }
        let mut server = world.namespace.command(program);
        server
            .args(["--port", "6379", "--bind", host, "--save", "", "--dir"])
            .arg(world.dir.path())
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        world.server = Some(server.spawn().unwrap());
        world.publish();
        Some(world)
    }

    fn without_server(host: &'static str) -> Option<Self> {
        if !available("root with ip and nft (network namespaces)", netns::usable()) {
            return None;
        }
        Some(Self {
            python: Python::newest()?,
            namespace: Namespace::new(),
            host,
            server: None,
            dir: tempfile::tempdir().unwrap(),
            publishing: Arc::new(AtomicBool::new(true)),
        })
    }

    /// From now on messages come, as soon as somebody takes them.
    fn publish(&self) {
        let (host, publishing) = (self.host, Arc::clone(&self.publishing));
        let connect = move || TcpStream::connect((host, PORT)).ok();
        let mut stream = None;
        until("the server is up", || {
            stream = self.namespace.enter(connect);
            stream.is_some()
        });
        let mut stream = stream.unwrap();
        std::thread::spawn(move || {
            while publishing.load(Ordering::Relaxed) {
                let body = "x".repeat(150);
                let words = format!("*3\r\n$7\r\nPUBLISH\r\n$12\r\n{CHANNEL}\r\n$150\r\n{body}\r\n");
                if stream.write_all(words.as_bytes()).is_err() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(200));
            }
        });
    }

    fn url(&self) -> String {
        let host = if self.host.contains(':') {
            format!("[{}]", self.host)
        } else {
            self.host.to_owned()
        };
        format!("redis://{host}:{PORT}")
    }

    /// An unmodified subscriber of the busy channel.
    fn subscriber(&self, mode: &str) -> Application {
        self.subscriber_of(&self.python, mode, CHANNEL)
    }

    fn subscriber_of(&self, python: &Python, mode: &str, channel: &str) -> Application {
        self.run(python, &[mode, self.host, &PORT.to_string(), channel])
    }

    fn run(&self, python: &Python, arguments: &[&str]) -> Application {
        let script = python.words("subscribers.py", arguments);
        let mut words: Vec<String> = self.namespace.wrapper().map(str::to_owned).to_vec();
        words.extend(script);
        let application = Application::start(&words);
        until("it is subscribed", || application.log().contains("subscribed"));
        application
    }

    fn redis(&self, words: &[&str]) -> String {
        let output = self
            .namespace
            .command("redis-cli")
            .args(["-h", self.host])
            .args(words)
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// `CLIENT LIST`, one map a client.
    fn clients(&self) -> Vec<BTreeMap<String, String>> {
        let fields = |line: &str| {
            let fields = line.split(' ').filter_map(|field| field.split_once('='));
            fields
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .collect()
        };
        self.redis(&["CLIENT", "LIST"]).lines().map(fields).collect()
    }

    /// The subscribed client of this name: its port and its id.
    fn subscribed(&self, name: &str) -> (u16, String) {
        let clients = self.clients();
        let found = clients
            .iter()
            .find(|client| client["name"] == name && client["sub"] != "0");
        let found = found.unwrap_or_else(|| panic!("{name} is not subscribed: {clients:?}"));
        let (_, port) = found["addr"].rsplit_once(':').unwrap();
        (port.parse().unwrap(), found["id"].clone())
    }

    fn numsub(&self) -> u32 {
        self.redis(&["PUBSUB", "NUMSUB", CHANNEL])
            .lines()
            .nth(1)
            .unwrap()
            .trim()
            .parse()
            .unwrap()
    }

    fn node(&self, config: &str) -> Node {
        self.node_on(
            &format!("[bus]\nurl = \"{}\"\nsettle = \"1s\"", self.url()),
            config,
        )
    }

    fn node_on(&self, bus: &str, config: &str) -> Node {
        let config = format!("node = \"a\"\ngroup = \"it\"\n[budget]\nspacing = \"0s\"\n{bus}\n{config}");
        let node = Node::run_apart(&self.namespace.wrapper(), &config);
        node.is_calm();
        node
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.publishing.store(false, Ordering::Relaxed);
        if let Some(server) = &mut self.server {
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

/// A peer `name` with this owner, watched as quickly as a test wants it.
fn peer(name: &str, application: &Application, more: &str) -> String {
    let owner = application.owner();
    format!(
        r#"
        [peer.{name}]
        owner = {owner}
        backoff = {{ initial = "200ms" }}
        [peer.{name}.checks]
        process = {{ decides = "nothing" }}
        subscription = {{ channels = ["{CHANNEL}"], window = "2s", stuck_after = "3s", interval = "500ms" }}
        {more}
        "#
    )
}

/// What the check of the peer says.
fn detail(node: &Node, name: &str) -> String {
    let peer = node.peer(name);
    let check = peer
        .checks
        .iter()
        .find(|check| &*check.name == "subscription")
        .unwrap();
    check.detail.clone()
}

fn goes_dark(world: &World, application: &Application, name: &str) {
    let node = world.node(&peer(
        name,
        application,
        &format!("[[peer.{name}.remedies]]\ndo = \"log\""),
    ));
    let (port, _) = world.subscribed(name);
    let before = world.numsub();
    world.namespace.drop_connection(port, PORT);
    node.sees("it is dead", |snapshot| {
        snapshot.peers[0].liveness == Liveness::Dead
    });
    let said = detail(&node, name);
    assert!(said.starts_with("dark: nothing arrived for"), "{said}");
    assert_eq!(world.numsub(), before, "Redis sees nothing of it");
}

#[test]
fn s06_a_dark_redis_py_8_loop_is_deaf() {
    let Some(world) = World::new() else { return };
    goes_dark(&world, &world.subscriber("loop"), "loop");
}

#[test]
fn s06_a_dark_redis_py_8_listener_is_deaf() {
    let Some(world) = World::new() else { return };
    goes_dark(&world, &world.subscriber("listen"), "listen");
}

#[test]
fn s06_a_dark_asyncio_subscriber_is_deaf() {
    let Some(world) = World::new() else { return };
    goes_dark(&world, &world.subscriber("asyncio"), "asyncio");
}

#[test]
fn s06_a_dark_redis_py_5_subscriber_is_deaf() {
    let Some(world) = World::new() else { return };
    let Some(redis5) = Python::redis5() else { return };
    goes_dark(&world, &world.subscriber_of(&redis5, "listen", CHANNEL), "listen");
}

#[test]
fn s06_a_dark_one_of_a_pair_is_deaf_and_the_idle_command_connection_is_not() {
    let Some(world) = World::new() else { return };
    goes_dark(&world, &world.subscriber("pair"), "pair");
}

#[test]
fn s06_a_dark_subscriber_by_ipv6_is_deaf() {
    let Some(world) = World::with("redis-server", "::1", &[]) else {
        return;
    };
    goes_dark(&world, &world.subscriber("loop"), "loop");
}

/// It counts what it writes to each client, which takes the place of `idle`.
#[test]
fn s06_a_dark_subscriber_of_valkey_is_deaf() {
    let Some(python) = Python::newest() else { return };
    let Some(server) = python.valkey_server() else {
        return;
    };
    let Some(world) = World::with(server.to_str().unwrap(), "127.0.0.1", &[]) else {
        return;
    };
    assert!(world.redis(&["INFO", "SERVER"]).contains("valkey_version"));
    goes_dark(&world, &world.subscriber("loop"), "loop");
}

#[test]
fn s06_a_dark_subscriber_of_the_embedded_bus_is_deaf() {
    let Some(world) = World::without_server("127.0.0.1") else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let pid = dir.path().join("pid");
    let config = format!(
        "[peer.loop]\nowner = {{ pid_file = \"{}\" }}\n[peer.loop.checks]\nprocess = {{ decides = \"nothing\" }}\n\
         subscription = {{ channels = [\"{CHANNEL}\"], window = \"2s\", interval = \"500ms\" }}",
        pid.display()
    );
    let bus = format!("[bus]\nurl = \"embedded\"\nlisten = \"127.0.0.1:{PORT}\"\nsettle = \"1s\"");
    let text = format!("node = \"a\"\ngroup = \"it\"\n{bus}\n{config}");
    let node = Node::run_apart(&world.namespace.wrapper(), &text);
    world.publish();
    let application = world.subscriber("loop");
    std::fs::write(&pid, application.pid().unwrap().as_raw_pid().to_string()).unwrap();
    node.is_calm();
    let (port, _) = world.subscribed("loop");
    world.namespace.drop_connection(port, PORT);
    node.sees("it is dead", |snapshot| {
        snapshot.peers[0].liveness == Liveness::Dead
    });
    let said = detail(&node, "loop");
    assert!(said.starts_with("dark"), "{said}");
}

/// Redis ends its side, so that it counts the twin no more; who is cut off does not hear of it, and the next rung
/// follows.
#[test]
fn s06_s47_client_kill_takes_the_dead_twin_from_redis_and_the_next_rung_follows() {
    let Some(world) = World::new() else { return };
    let application = world.subscriber("loop");
    let remedies = format!(
        r#"
        [[peer.loop.remedies]]
        do = "client_kill"
        for = ["peer_deaf"]
        verify_within = "3s"
        [[peer.loop.remedies]]
        do = "exec"
        command = {}
        verify_within = "20s"
        "#,
        application.restart()
    );
    let node = world.node(&peer("loop", &application, &remedies));
    let events = node.events();
    let (port, id) = world.subscribed("loop");
    assert_eq!(world.numsub(), 1);
    world.namespace.drop_connection(port, PORT);

    let acted = events.one("client_kill acted", |notice| {
        notice["event"] == "acted" && notice["kind"] == "client_kill"
    });
    let said = acted["detail"].as_str().unwrap();
    assert!(
        said.contains(&format!("client {id} (127.0.0.1:{port}) killed")),
        "{acted}"
    );
    assert_eq!(acted["outcome"], "acted");
    until("the twin is gone", || {
        world.clients().iter().all(|client| client["id"] != id)
    });
    let recovered = events.of("loop", "recovered");
    assert_eq!(recovered["remedies"], 2, "{recovered}");
    assert_eq!((application.starts(), world.numsub()), (2, 1));
}

/// What `client_kill` can count on, where the client hears of it.
#[test]
fn s06_who_subscribes_again_when_redis_ends_the_connection_and_who_exits() {
    let Some(world) = World::new() else { return };
    let Some(redis5) = Python::redis5() else { return };
    let cases = [
        (&world.python, "listen", true),
        (&world.python, "loop", true),
        (&world.python, "asyncio", true),
        (&redis5, "loop", true),
        (&redis5, "listen", false),
    ];
    for (python, mode, comes_back) in cases {
        let application = world.subscriber_of(python, mode, CHANNEL);
        let (_, id) = world.subscribed(mode);
        assert_eq!(world.redis(&["CLIENT", "KILL", "ID", &id]).trim(), "1");
        if comes_back {
            until("it subscribed again", || {
                let clients = world.clients();
                clients
                    .iter()
                    .any(|client| client["name"] == mode && client["sub"] == "1" && client["id"] != id)
            });
            assert_eq!(application.starts(), 1);
        } else {
            until("it ended", || !application.runs());
        }
    }
}

/// A neighbour that goes dark under the same roof is nobody's business here.
#[test]
fn s41_healthy_ones_and_a_neighbours_are_left_alone() {
    let Some(world) = World::new() else { return };
    let modes = [
        ("loop", CHANNEL),
        ("pair", CHANNEL),
        ("slow", CHANNEL),
        ("asyncio", "quiet"),
        ("listen", "quiet"),
    ];
    let applications: Vec<(&str, Application)> = modes
        .iter()
        .map(|(mode, channel)| (*mode, world.subscriber_of(&world.python, mode, channel)))
        .collect();
    let neighbour = world.subscriber("behind");
    let mut config = String::new();
    for (mode, application) in &applications {
        write!(config, "{}", peer(mode, application, "")).unwrap();
    }
    let node = world.node(&config);
    let events = node.events();
    let (port, _) = world.subscribed("behind");
    world.namespace.drop_connection(port, PORT);
    let passes = |node: &Node| node.count("defib_check_runs_total{kind=\"subscription\",outcome=\"pass\"}");
    let before = passes(&node);
    // Each window several times over.
    until("they passed many times", || passes(&node) > before + 100);
    events.blame_nobody();
    assert_eq!(
        node.count("defib_check_runs_total{kind=\"subscription\",outcome=\"fail\"}"),
        0
    );
    drop(neighbour);
}

#[test]
fn s42_a_recorder_whose_subscription_is_gone_is_deaf_although_its_status_is_fresh() {
    let Some(world) = World::new() else { return };
    let application = world.subscriber("recorder");
    let more = format!(
        r#"
        status = {{ type = "redis_key", key = "timescale:status", age = "ts", max_age = "5s", json = "ok", equals = true }}
        [[peer.recorder.remedies]]
        do = "exec"
        command = {}
        "#,
        application.restart()
    );
    let node = world.node(&peer("recorder", &application, &more));
    let events = node.events();
    application.signal(Signal::USR1);
    node.sees("it is deaf, and its status fresh", |snapshot| {
        let checks = &snapshot.peers[0].checks;
        let verdict = |name: &str| {
            checks
                .iter()
                .find(|check| &*check.name == name)
                .map(|check| check.verdict)
        };
        let doubted = [Some(Liveness::Suspect), Some(Liveness::Dead)].contains(&verdict("subscription"));
        doubted && verdict("status") == Some(Liveness::Alive)
    });
    let granted = events.of("recorder", "granted");
    assert_eq!(granted["cause"], "peer_deaf", "{granted}");
    assert!(world.redis(&["GET", "timescale:status"]).contains("ok"));
    events.of("recorder", "recovered");
    assert_eq!(application.starts(), 2);
}

/// `timeout` in redis.conf closes our own connection between two looks, each time. That is no outage.
#[test]
fn s42_a_redis_that_closes_idle_connections_hides_no_lost_subscription() {
    let Some(world) = World::with("redis-server", "127.0.0.1", &["--timeout", "1"]) else {
        return;
    };
    let application = world.subscriber("recorder");
    // Clients have longer to come back than lies between two looks.
    let bus = format!("[bus]\nurl = \"{}\"\nsettle = \"8s\"", world.url());
    let watched = peer("recorder", &application, "").replace("interval = \"500ms\"", "interval = \"2500ms\"");
    let node = world.node_on(&bus, &watched.replace("window = \"2s\"", "window = \"5s\""));
    application.signal(Signal::USR1);
    node.sees("it is lost", |snapshot| {
        snapshot.peers[0].liveness == Liveness::Dead
    });
    let said = detail(&node, "recorder");
    assert!(said.starts_with("lost: "), "{said}");
}

/// SIGCONT once, which restarts nothing and is enough.
#[test]
fn s06_a_stopped_subscriber_is_stuck_and_sigcont_heals_it() {
    let Some(world) = World::new() else { return };
    let application = world.subscriber("loop");
    let remedies = format!(
        r#"
        remedies = [
            {{ do = "signal", signal = "SIGCONT", for = ["peer_stuck"], verify_within = "10s" }},
            {{ do = "exec", command = {}, verify_within = "20s" }},
        ]
        "#,
        application.restart()
    );
    let owner = application.owner();
    let node = world.node(&format!(
        "[peer.loop]\nowner = {owner}\n{remedies}\n[peer.loop.checks]\nprocess = {{ decides = \"nothing\" }}\n\
         subscription = {{ channels = [\"{CHANNEL}\"], window = \"2s\", stuck_after = \"2s\", interval = \"500ms\" }}"
    ));
    let events = node.events();
    let before = world.numsub();
    application.signal(Signal::STOP);
    let granted = events.of("loop", "granted");
    assert_eq!(
        (&granted["cause"], &granted["kind"]),
        (&"peer_stuck".into(), &"signal".into()),
        "{granted}"
    );
    assert_eq!(world.numsub(), before);
    let recovered = events.of("loop", "recovered");
    assert_eq!(recovered["remedies"], 1, "{recovered}");
    assert_eq!(application.starts(), 1);
}

#[test]
fn where_redis_must_not_be_asked_the_acl_rule_is_named_and_what_can_be_proven_is() {
    let Some(world) = World::new() else { return };
    let rules = [
        "ACL",
        "SETUSER",
        "node",
        "on",
        ">pw",
        "+@all",
        "-client|list",
        "&*",
        "~*",
    ];
    assert!(world.redis(&rules).contains("OK"));
    let application = world.subscriber("loop");
    let quiet = world.subscriber_of(&world.python, "listen", "quiet");
    let bus = format!("[bus]\nurl = \"redis://node:pw@127.0.0.1:{PORT}\"\nsettle = \"1s\"");
    let config = peer("loop", &application, "") + &peer("quiet", &quiet, "");
    let text = format!("node = \"a\"\ngroup = \"it\"\n{bus}\n{config}");
    let node = Node::run_apart(&world.namespace.wrapper(), &text);
    // It receives what we receive.
    node.sees("the one is proven", |snapshot| {
        snapshot.peers[0].liveness == Liveness::Alive
    });
    // (Not before the bus has settled.)
    node.sees("the rule is named", |_| {
        detail(&node, "quiet").contains("ACL SETUSER node +client|list")
    });
    assert_eq!(node.peer("quiet").liveness, Liveness::Unknown);
    let (port, _) = world.subscribed("loop");
    world.namespace.drop_connection(port, PORT);
    node.sees("it is dead", |snapshot| {
        snapshot.peers[0].liveness == Liveness::Dead
    });
    assert!(
        detail(&node, "loop").starts_with("dark"),
        "{}",
        detail(&node, "loop")
    );
    assert_eq!(node.peer("quiet").liveness, Liveness::Unknown);
}

#[test]
fn with_nat_between_nothing_is_proven_by_addresses() {
    let Some(world) = World::with("redis-server", "127.0.0.1", &["--protected-mode", "no"]) else {
        return;
    };
    world.namespace.translate_sender(PORT, "10.99.0.9");
    let application = world.subscriber("loop");
    let quiet = world.subscriber_of(&world.python, "listen", "quiet");
    let bus = format!("[bus]\nurl = \"{}\"\nsettle = \"1s\"", world.url());
    let config = peer("loop", &application, "") + &peer("quiet", &quiet, "");
    let text = format!("node = \"a\"\ngroup = \"it\"\n{bus}\n{config}");
    let node = Node::run_apart(&world.namespace.wrapper(), &text);
    node.sees("the reason is there", |_| {
        detail(&node, "quiet").contains("with NAT or a proxy between")
    });
    assert_eq!(node.peer("quiet").liveness, Liveness::Unknown);
}

/// By TLS the kernel counts bytes all the same.
#[test]
fn s06_a_dark_subscriber_by_tls_is_deaf() {
    const TLS_PORT: u16 = 6380;
    if !redis_server::has_tls() {
        return;
    }
    let certificates = tempfile::tempdir().unwrap();
    redis_server::make_certificates(certificates.path());
    let path = |name: &str| certificates.path().join(name).to_str().unwrap().to_owned();
    let (certificate, key, ca) = (path("server.crt"), path("server.key"), path("ca.crt"));
    let arguments = [
        "--tls-port",
        "6380",
        "--tls-cert-file",
        &certificate,
        "--tls-key-file",
        &key,
    ];
    let more = ["--tls-ca-cert-file", &ca, "--tls-auth-clients", "no"];
    let Some(world) = World::with("redis-server", "127.0.0.1", &[&arguments[..], &more[..]].concat()) else {
        return;
    };
    let application = world.run(&world.python, &["loop", "localhost", "6380", CHANNEL, &ca]);
    let bus = format!("[bus]\nurl = \"rediss://localhost:{TLS_PORT}\"\nca = \"{ca}\"\nsettle = \"1s\"");
    let node = world.node_on(&bus, &peer("loop", &application, ""));
    let (port, _) = world.subscribed("loop");
    world.namespace.drop_connection(port, TLS_PORT);
    node.sees("it is dead", |snapshot| {
        snapshot.peers[0].liveness == Liveness::Dead
    });
    let said = detail(&node, "loop");
    assert!(said.starts_with("dark"), "{said}");
}
