//! Observers that agree: real nodes on one redis-server, and a remote peer that ends without a word.

use std::io::copy;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use defib::engine::self_trust::BusState;
use rustix::process::Signal;

use super::config;
use crate::support::node::Node;
use crate::support::redis_server::RedisServer;
use crate::support::{available, redis_server, until};

/// A node of that name. Its silence is suspicious after a second, and death only after an hour.
fn observer(url: &str, name: &str, rest: &str) -> Node {
    let text = format!(
        r#"
        [quorum]
        lifetime = "10s"
        [peer.x]
        checks.heartbeat = {{ node = "x", suspect_after = "1s", dead_after = "1h" }}
        {rest}
        "#
    );
    Node::run(&config(url, &text).replace("node = \"a\"", &format!("node = \"{name}\"")))
}

fn restarts(mark: &Path) -> String {
    format!(
        r#"remedies = [{{ do = "exec", command = ["touch", "{}"] }}]"#,
        mark.display()
    )
}

#[test]
fn observers_that_agree_confirm_a_silence_long_before_dead_after_and_permit_its_remedy() {
    if !available("redis-server", redis_server::there()) {
        return;
    }
    let server = RedisServer::start();
    let dir = tempfile::tempdir().unwrap();
    let mark = dir.path().join("restarted");
    let mut x = Node::run(&config(&server.url(), "").replace("node = \"a\"", "node = \"x\""));
    let a = observer(&server.url(), "a", &restarts(&mark));
    let others = ["b", "c"].map(|name| observer(&server.url(), name, ""));
    for node in [&a].into_iter().chain(&others) {
        node.is_calm();
        node.sees("all four are heard", |snapshot| snapshot.quorum.live == 4);
    }
    let events = a.events();
    x.signal(Signal::KILL);
    x.exit_code();
    until("its remedy has run", || mark.exists());
    events.of("x", "granted");
    // An hour has not gone by: it was the others' word.
    let order: Vec<String> = events
        .all()
        .iter()
        .map(|event| event["event"].to_string())
        .collect();
    let place = |name: &str| order.iter().position(|event| event.contains(name)).unwrap();
    assert!(place("episode_opened") < place("granted"), "{order:?}");
    let dead = events.named("liveness");
    let dead = dead.iter().find(|event| event["to"] == "dead").unwrap();
    assert!(dead["detail"].as_str().unwrap().ends_with(" as well"), "{dead:#}");
    for node in &others {
        node.sees("it is dead to all", |_| {
            node.peer("x").liveness.as_str() == "dead"
        });
    }
    let explained = a.get("/api/v1/explain/x").1;
    assert!(
        explained.contains("votes: 3 say so, 2 must; 3 of the 4 nodes of the group are heard since"),
        "{explained}"
    );
    assert!(explained.contains("  agree         b, c"), "{explained}");
    assert!(a.count("defib_votes_total") > 0);
    assert_eq!(a.count("defib_confirmed_by_votes_total"), 1);
    x.start_again();
    events.of("x", "recovered");
    a.is_calm();
    assert!(a.peer("x").votes.is_none());
}

#[test]
fn one_observer_alone_alerts_and_restarts_nobody() {
    if !available("redis-server", redis_server::there()) {
        return;
    }
    let server = RedisServer::start();
    let dir = tempfile::tempdir().unwrap();
    let mark = dir.path().join("restarted");
    let mut x = Node::run(&config(&server.url(), "").replace("node = \"a\"", "node = \"x\""));
    let text = format!(
        "[peer.x]\nchecks.heartbeat = {{ node = \"x\", suspect_after = \"600ms\", dead_after = \"1500ms\" }}\n{}",
        restarts(&mark)
    );
    let a = Node::run(&config(&server.url(), &text));
    a.is_calm();
    let events = a.events();
    x.signal(Signal::KILL);
    x.exit_code();
    events.one("the quorum refuses", |event| {
        event["event"] == "refused" && event["refusal"]["guard"] == "quorum"
    });
    assert!(
        events.named("granted").is_empty() && !mark.exists(),
        "{:#?}",
        events.all()
    );
    assert!(a.peer("x").episode.is_some());
}

/// An address that stays, and whoever it leads to.
struct Relay {
    address: SocketAddr,
    to: Arc<Mutex<Option<SocketAddr>>>,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl Relay {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let relay = Self {
            address: listener.local_addr().unwrap(),
            to: Arc::default(),
            open: Arc::default(),
        };
        let (to, open) = (Arc::clone(&relay.to), Arc::clone(&relay.open));
        // Ends with the test.
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let to = *to.lock().unwrap();
                let Some(upstream) = to.and_then(|to| TcpStream::connect(to).ok()) else {
                    continue;
                };
                open.lock().unwrap().push(stream.try_clone().unwrap());
                for (mut from, mut into) in [
                    (stream.try_clone().unwrap(), upstream.try_clone().unwrap()),
                    (upstream, stream),
                ] {
                    std::thread::spawn(move || {
                        let _ = copy(&mut from, &mut into);
                        let _ = into.shutdown(Shutdown::Both);
                        let _ = from.shutdown(Shutdown::Both);
                    });
                }
            }
        });
        relay
    }

    /// It leads there from now on. What is open ends.
    fn leads_to(&self, address: SocketAddr) {
        *self.to.lock().unwrap() = Some(address);
        for stream in self.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// A bus that is two: `b` and `x` come to another server than before, behind the same address. Each half has its echoes.
#[test]
fn what_the_other_half_of_a_bus_hears_or_misses_comes_over_http() {
    if !available("redis-server", redis_server::there()) {
        return;
    }
    let servers = [RedisServer::start(), RedisServer::start()];
    let [bus, to_a, to_b] = [Relay::start(), Relay::start(), Relay::start()];
    bus.leads_to(servers[0].address());
    let dir = tempfile::tempdir().unwrap();
    let marks = ["a", "b"].map(|node| dir.path().join(node));
    let behind = format!("redis://{}", bus.address);
    let node = |url: &str, name: &str, rest: &str| {
        let signed = format!("[signing]\nshared = \"{}\"\n{rest}", "k".repeat(32));
        Node::run(&config(url, &signed).replace("node = \"a\"", &format!("node = \"{name}\"")))
    };
    let watches = |url: &str, name: &str, k: u8, ask: &str, rest: &str| {
        let text = format!(
            "[quorum]\nk = {k}\nlifetime = \"2s\"\nask = [{ask}]\n[peer.x]\n\
             checks.heartbeat = {{ node = \"x\", suspect_after = \"1s\", dead_after = \"3s\" }}\n{rest}"
        );
        node(url, name, &text)
    };
    let first = servers[0].url();
    let asks = |relay: &Relay| format!("\"http://{}\"", relay.address);
    let mut x = node(&behind, "x", "");
    let a = watches(&first, "a", 4, &asks(&to_b), &restarts(&marks[0]));
    let others = ["c", "d"].map(|name| watches(&first, name, 2, "", ""));
    let b = watches(&behind, "b", 2, &asks(&to_a), &restarts(&marks[1]));
    to_a.leads_to(a.http());
    to_b.leads_to(b.http());
    for node in [&a, &b].into_iter().chain(&others) {
        node.is_calm();
        node.sees("all five are heard", |snapshot| snapshot.quorum.live == 5);
        let asked = "defib_vote_answers_total{result=\"ok\"}";
        assert_eq!(node.count(asked), 0, "nobody is asked about nothing");
    }

    let events = a.events();
    bus.leads_to(servers[1].address());
    events.one("b hears it, and says so", |event| {
        let refusal = &event["refusal"];
        event["event"] == "refused"
            && refusal["guard"] == "quorum"
            && refusal["why"] == "b of the group heard it since"
    });
    assert!(!marks[0].exists(), "{:#?}", events.all());
    let explained = a.get("/api/v1/explain/x").1;
    assert!(explained.contains("  hear it       b"), "{explained}");

    // Now it is silent on both. Three on our half agree, and the fourth is b.
    x.signal(Signal::KILL);
    x.exit_code();
    until("its remedy has run", || marks[0].exists());
    let explained = a.get("/api/v1/explain/x").1;
    assert!(explained.contains("agree         b, c, d"), "{explained}");
    assert!(a.count("defib_vote_answers_total{result=\"ok\"}") > 0);
    assert_eq!(a.count("defib_vote_answers_total{result=\"unverified\"}"), 0);
    // It has as many votes, and is the smaller half all the same.
    b.sees("b has the votes it needs", |snapshot| {
        let votes = snapshot.peers[0].votes.as_ref();
        votes.is_some_and(|votes| !votes.agree.is_empty() && votes.live == 1)
    });
    b.sees("the quorum refuses", |snapshot| {
        let episode = snapshot.peers[0].episode.as_ref();
        let refusal = episode.and_then(|episode| episode.refusal.as_ref());
        refusal.is_some_and(|refusal| refusal.why.starts_with("only 1 of the "))
    });
    assert!(!marks[1].exists());
}

/// What nobody can hear, nobody can vote on: both ask each other, and nothing comes of it.
#[test]
fn an_outage_of_the_bus_restarts_nobody_though_nodes_answer() {
    if !available("redis-server", redis_server::there()) {
        return;
    }
    let server = RedisServer::start();
    let relays = [Relay::start(), Relay::start()];
    let dir = tempfile::tempdir().unwrap();
    let marks = ["a", "b"].map(|node| dir.path().join(node));
    let mut x = Node::run(&config(&server.url(), "").replace("node = \"a\"", "node = \"x\""));
    let observer = |name: &str, asks: &Relay, mark: &Path| {
        let text = format!(
            "[quorum]\nask = [\"http://{}\"]\n[peer.x]\n\
             checks.heartbeat = {{ node = \"x\", suspect_after = \"600ms\", dead_after = \"1500ms\" }}\n{}",
            asks.address,
            restarts(mark)
        );
        Node::run(&config(&server.url(), &text).replace("node = \"a\"", &format!("node = \"{name}\"")))
    };
    let nodes = [
        observer("a", &relays[1], &marks[0]),
        observer("b", &relays[0], &marks[1]),
    ];
    for (node, relay) in nodes.iter().zip(&relays) {
        relay.leads_to(node.http());
        node.is_calm();
        node.sees("all three are heard", |snapshot| snapshot.quorum.live == 3);
    }
    let events = nodes[0].events();
    server.stop();
    x.signal(Signal::KILL);
    x.exit_code();
    for node in &nodes {
        node.sees("the bus is not trusted", |snapshot| {
            snapshot.trust.bus != BusState::Trusted
        });
    }
    // Many times as long as it would take with a bus.
    let from = nodes[0].snapshot().at;
    nodes[0].sees("time has passed", |snapshot| {
        snapshot.at.since(from) > Duration::from_secs(6)
    });
    assert!(events.named("granted").is_empty(), "{:#?}", events.all());
    assert!(marks.iter().all(|mark| !mark.exists()));
    server.cont();
    until("it was silent for long enough that can be heard", || {
        marks.iter().any(|mark| mark.exists())
    });
}
