//! Several nodes that watch the same peers: one restart, pulses one after the other. Scenarios 14, 33, 36, 44.

use std::time::Duration;

use defib::engine::guards::GuardName;
use defib::engine::peer::Liveness;
use rustix::process::Signal;

use crate::support::application::{Application, Site};
use crate::support::docker::Engine;
use crate::support::node::{Events, Node};
use crate::support::redis_server::{RedisServer, there};
use crate::support::until;

/// Peers of each node, where there are many.
const EACH: usize = 4;

const IDLE: [&str; 3] = ["sh", "-c", "while :; do sleep 600 & wait; done"];

fn config(node: &str, url: &str, rest: &str) -> String {
    super::config(url, rest).replace("node = \"a\"", &format!("node = \"{node}\""))
}

fn nodes(names: &[&str], url: &str, rest: &str) -> Vec<Node> {
    let nodes: Vec<Node> = names
        .iter()
        .map(|name| Node::run(&config(name, url, rest)))
        .collect();
    nodes.iter().for_each(Node::is_calm);
    nodes
}

fn app(application: &Application, rest: &str) -> String {
    format!(
        r#"
        [peer.app]
        owner = {}
        grace = "1s"
        backoff = {{ initial = "200ms" }}
        checks.process = {{ interval = "200ms", fail_after = "2 of 2" }}
        remedies = [{{ do = "exec", command = {}, timeout = "1s", verify_within = "2s" }}]
        {rest}
        "#,
        application.owner(),
        application.restart()
    )
}

fn granted(events: &[Events]) -> usize {
    events.iter().map(|events| events.named("granted").len()).sum()
}

#[test]
fn s33_three_nodes_that_see_one_process_die_restart_it_once() {
    if !there() {
        return;
    }
    let server = RedisServer::start();
    let application = Application::start(&IDLE);
    let nodes = nodes(&["a", "b", "c"], &server.url(), &app(&application, ""));
    let events: Vec<Events> = nodes.iter().map(Node::events).collect();
    for round in 1..=3 {
        application.kill();
        for events in &events {
            until("each node saw its recovery", || {
                events.named("recovered").len() >= round
            });
        }
        assert_eq!(granted(&events), round, "one grant among three nodes");
        assert_eq!(application.starts(), round + 1);
        nodes.iter().for_each(Node::is_calm);
    }
    // Three restarts in ten minutes, and not nine: whoever would be next has leave of nobody.
    application.kill();
    for node in &nodes {
        node.sees("the group's budget is used up", |snapshot| {
            let episode = snapshot.peers[0].episode.as_ref();
            let refusal = episode.and_then(|episode| episode.refusal.as_ref());
            // (Whoever did all three says so of its own budget.)
            refusal.is_some_and(|refusal| {
                refusal.why.contains("restarts are used up") && refusal.until.is_some()
            })
        });
        let (_, text) = node.get("/api/v1/explain/app");
        assert!(text.contains("restarts are used up"), "{text}");
    }
    assert_eq!(granted(&events), 3);
    assert_eq!(application.starts(), 4);
}

#[test]
fn s33_a_node_that_is_stopped_while_it_asks_or_acts_touches_no_newer_life() {
    if !there() {
        return;
    }
    let server = RedisServer::start();
    let application = Application::start(&IDLE);
    let nodes = nodes(&["a", "b"], &server.url(), &app(&application, ""));
    let events: Vec<Events> = nodes.iter().map(Node::events).collect();
    // The first is stopped from the very death on, wherever it then is; the other heals it, for a new life.
    application.kill();
    nodes[0].signal(Signal::STOP);
    // If it was the first that had leave, the other gets it when that has ended.
    for _ in 0..3 {
        if application.runs() {
            break;
        }
        std::thread::sleep(Duration::from_secs(10));
    }
    until("somebody restarted it", || application.runs());
    let life = application.pid();
    nodes[0].signal(Signal::CONT);
    for events in &events {
        until("each node saw its recovery", || {
            !events.named("recovered").is_empty()
        });
    }
    nodes.iter().for_each(Node::is_calm);
    assert_eq!(application.starts(), 2, "once, by whichever");
    assert_eq!(application.pid(), life, "the newer life was not touched");
}

#[test]
fn s33_two_nodes_restart_one_container_once() {
    let Some(engine) = Engine::start() else { return };
    let server = RedisServer::start();
    let container = engine.idle("app", &[]);
    let rest = format!(
        r#"
        [peer.app]
        owner = {{ container = "{}" }}
        grace = "1s"
        backoff = {{ initial = "200ms" }}
        remedies = [{{ do = "docker", verify_within = "20s" }}]
        "#,
        container.0
    );
    let nodes = nodes(&["a", "b"], &server.url(), &rest);
    let events: Vec<Events> = nodes.iter().map(Node::events).collect();
    let before = container.started_at();
    container.crash();
    for events in &events {
        until("each node saw its recovery", || {
            !events.named("recovered").is_empty()
        });
    }
    nodes.iter().for_each(Node::is_calm);
    assert_ne!(container.started_at(), before);
    assert_eq!(granted(&events), 1);
}

#[test]
fn s33_a_second_node_on_the_embedded_bus_of_another_leaves_the_healing_to_it() {
    let application = Application::start(&IDLE);
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let rest = app(&application, "");
    let host =
        config("a", "embedded", &rest).replace("[bus]", &format!("[bus]\nlisten = \"127.0.0.1:{port}\""));
    let host = Node::run(&host);
    host.is_calm();
    let guest = Node::run(&config("b", &format!("redis://127.0.0.1:{port}"), &rest));
    guest.is_calm();
    let events = [host.events(), guest.events()];
    application.kill();
    events.iter().for_each(|events| {
        events.of("app", "recovered");
    });
    assert_eq!(application.starts(), 2);
    assert_eq!(
        (events[0].named("granted").len(), events[1].named("granted").len()),
        (1, 0)
    );
    // The one that only watches says why.
    let (_, verbose) = guest.get("/readyz?verbose");
    assert!(
        verbose.contains("runs no scripts, as the embedded bus of another node"),
        "{verbose}"
    );
}

#[test]
fn s36_a_dry_run_looks_at_the_lease_that_another_node_holds_and_takes_none() {
    if !there() {
        return;
    }
    let server = RedisServer::start();
    let application = Application::start(&IDLE);
    let url = server.url();
    let rest = app(&application, "");
    let dry = Node::run(&format!("dry_run = true\n{}", config("dry", &url, &rest)));
    dry.is_calm();
    let events = dry.events();
    application.kill();
    events.of("app", "would_heal");
    let keys = server.tell("KEYS *");
    assert!(!keys.contains("fleet"), "{keys}");
    assert_eq!(application.starts(), 1);
    assert_eq!(
        dry.count("defib_fleet_calls_total{call=\"look\",outcome=\"yes\"}"),
        1
    );
    assert_eq!(
        dry.count("defib_fleet_calls_total{call=\"take\",outcome=\"yes\"}"),
        0
    );
}

#[test]
fn a_redis_that_permits_no_scripts_is_named_and_nothing_is_restarted() {
    if !there() {
        return;
    }
    let server = RedisServer::start();
    server.tell("ACL SETUSER node on >secret +@all -eval ~* &*");
    let url = server.url().replace("redis://", "redis://node:secret@");
    let application = Application::start(&IDLE);
    let node = Node::run(&config(
        "a",
        &url,
        &app(&application, "when_bus_down = \"local\""),
    ));
    node.is_calm();
    application.kill();
    node.sees("the lease is refused", |snapshot| {
        let episode = snapshot.peers[0].episode.as_ref();
        let refusal = episode.and_then(|episode| episode.refusal.as_ref());
        refusal.is_some_and(|refusal| {
            refusal.guard == GuardName::FleetLease
                && refusal.why.contains("ACL SETUSER node ~defib:{it}:fleet:* +eval")
        })
    });
    let (_, verbose) = node.get("/readyz?verbose");
    assert!(verbose.contains("may not EVAL"), "{verbose}");
    assert_eq!(application.starts(), 1);
    // Mended while it runs.
    let events = node.events();
    server.tell("ACL SETUSER node +eval");
    events.of("app", "recovered");
    assert_eq!(application.starts(), 2);
}

#[test]
fn blockers_hold_a_restart_until_they_are_clear() {
    if !there() {
        return;
    }
    let server = RedisServer::start();
    let site = Site::start();
    site.set("/running", 200, "[\"feed\"]");
    let application = Application::start(&IDLE);
    let blocker = format!("[blocker.deploys]\nhttp = {:?}\n", site.url("/running"));
    let node = Node::run(&config(
        "a",
        &server.url(),
        &format!("{blocker}{}", app(&application, "")),
    ));
    node.is_calm();
    assert!(
        site.asked("/running") <= 1,
        "by the preflight; and never while nothing is wrong"
    );
    let events = node.events();
    application.kill();
    let refused = events.of("app", "refused");
    assert!(!refused.is_null());
    node.sees("it is blocked", |snapshot| {
        let episode = snapshot.peers[0].episode.as_ref();
        let refusal = episode.and_then(|episode| episode.refusal.as_ref());
        refusal.is_some_and(|refusal| refusal.to_string() == "blockers: deploys: its answer is a list of 1")
    });
    assert_eq!(node.peer("app").liveness, Liveness::Dead);
    site.set("/running", 200, "[]");
    events.of("app", "recovered");
    assert_eq!(application.starts(), 2);
}

#[test]
fn s44_peers_that_lose_the_same_dependency_are_pulsed_one_after_the_other() {
    if !there() {
        return;
    }
    let server = RedisServer::start();
    let site = Site::start();
    let names = ["a", "b", "c"];
    let applications: Vec<Application> = (0..EACH * names.len())
        .map(|_| Application::start(&IDLE))
        .collect();
    let page = |peer: usize| format!("/health/{peer}");
    let set = |peer: usize, status| site.set(&page(peer), status, "");
    (0..applications.len()).for_each(|peer| set(peer, 200));
    let nodes: Vec<Node> = names
        .iter()
        .enumerate()
        .map(|(node, name)| {
            let peers: Vec<String> = (node * EACH..(node + 1) * EACH)
                .map(|peer| {
                    format!(
                        r#"
                        [peer.pod-{peer}]
                        owner = {}
                        grace = "300ms"
                        checks.process = {{ interval = "200ms" }}
                        checks.http = {{ url = {:?}, interval = "200ms", timeout = "2s", fail_after = "2 of 2" }}
                        remedies = [{{ do = "healthz", verify_within = "20s" }}]
                        "#,
                        applications[peer].owner(),
                        site.url(&page(peer))
                    )
                })
                .collect();
            Node::run(&config(name, &server.url(), &peers.concat()))
        })
        .collect();
    nodes.iter().for_each(Node::is_calm);
    let events: Vec<Events> = nodes.iter().map(Node::events).collect();

    // The dependency hangs: all are ill at once. Each pod's kubelet restarts it once it sees 503; that cures it.
    (0..applications.len()).for_each(|peer| set(peer, 503));
    let mut cured = 0;
    for _ in 0..3000 {
        let down: Vec<usize> = (0..applications.len())
            .filter(|peer| nodes[peer / EACH].code(&format!("/healthz/pod-{peer}")) == 503)
            .collect();
        assert!(down.len() <= 1, "together: {down:?}");
        for peer in down {
            set(peer, 200);
            applications[peer].start_again();
            cured += 1;
            until("its pulse ended", || {
                nodes[peer / EACH].code(&format!("/healthz/pod-{peer}")) == 200
            });
        }
        let recovered: usize = events.iter().map(|events| events.named("recovered").len()).sum();
        if recovered == applications.len() {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(cured, applications.len());
    assert_eq!(granted(&events), applications.len(), "each once");
    nodes.iter().for_each(Node::is_calm);
}
