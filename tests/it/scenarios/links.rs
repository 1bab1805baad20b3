//! The node's own links, and what comes over them: scenarios 1 to 5, 7, 9, 15 (`uptime_s`), 40.

use std::time::Duration;

use defib::engine::cause::Cause;
use defib::engine::peer::Liveness;
use defib::engine::self_trust::BusState;
use defib::engine::snapshot::Snapshot;

use super::{config, parts};
use crate::support::application::Application;
use crate::support::node::Node;
use crate::support::proxy::Proxy;
use crate::support::python::{Python, Script};
use crate::support::redis_server::{RedisServer, ask};
use crate::support::until;

const CHANNEL: &str = "telemetry_heartbeat";

/// data-acquisition's publisher, as the peer `feed`, which anything done to it would show.
const FEED: &str = r#"
    [peer.feed]
    single_observer = true
    checks.heartbeat = { channel = "telemetry_heartbeat", suspect_after = "3s", dead_after = "5s" }
    remedies = [{ do = "exec", command = ["false"] }]
"#;

/// Sends, when this returns.
fn feed(python: &Python, server: &RedisServer) -> Script {
    let mut feed = python.spawn("sender.py", &[&server.port().to_string(), CHANNEL, "0.3"]);
    assert_eq!(feed.line(), "sending");
    feed
}

/// Endpoints of applications, which nothing of this file may change.
fn assert_no_application_suffers(node: &Node) {
    for path in [
        "/livez",
        "/healthz",
        "/healthz/feed",
        "/readyz/feed",
        "/startupz/feed",
    ] {
        assert_eq!(node.code(path), 200, "{path}; the log:\n{}", node.log());
    }
}

fn is_trusted(snapshot: &Snapshot) -> bool {
    let settled = |until| until <= snapshot.at;
    snapshot.trust.bus == BusState::Trusted && snapshot.trust.settling_until.is_none_or(settled)
}

/// A sign of life of the first peer after this moment.
fn hears_again(node: &Node) {
    let now = node.snapshot().at;
    node.sees("the feed is heard again", |snapshot| {
        snapshot.peers[0].last_life > Some(now)
    });
}

#[test]
fn s01_a_dark_subscription_is_replaced_without_an_operator() {
    let Some(python) = parts() else { return };
    let server = RedisServer::start();
    let proxy = Proxy::start(server.address());
    let _feed = feed(&python, &server);
    let node = Node::run(&config(&proxy.url(), FEED));
    node.is_calm();
    let events = node.events();
    let before = proxy.newest(":sub");

    proxy.silence_subscription(false);
    events.bus("self_deaf");
    node.sees("it trusts its bus again", is_trusted);
    assert!(
        proxy.newest(":sub") > before,
        "no new subscription: {:?}",
        proxy.connections()
    );
    hears_again(&node);
    until("it is ready again", || node.code("/readyz") == 200);
    assert_no_application_suffers(&node);
    events.blame_nobody();
}

#[test]
fn s02_data_without_heartbeats_is_life_of_the_connection_and_not_of_the_producer() {
    let Some(python) = parts() else { return };
    let server = RedisServer::start();
    let port = server.port().to_string();
    let heartbeats = feed(&python, &server);
    let _data = python.spawn("sender.py", &[&port, "can_messages", "0.2"]);
    let node = Node::run(&config(
        &server.url(),
        r#"
        [peer.feed]
        checks.heartbeat = { channel = "telemetry_heartbeat", suspect_after = "1s", dead_after = "2s" }
        checks.data = { type = "traffic", channels = ["can_messages"], decides = "nothing" }
        remedies = [{ do = "log" }]
        "#,
    ));
    node.is_calm();
    let events = node.events();

    drop(heartbeats);
    let dead = events.one("the feed is condemned", |notice| notice["to"] == "dead");
    assert_eq!(dead["cause"], "peer_silent", "{dead}");
    let feed = node.peer("feed");
    let verdicts: Vec<_> = feed
        .checks
        .iter()
        .map(|check| (&*check.name, check.verdict))
        .collect();
    assert!(verdicts.contains(&("heartbeat", Liveness::Dead)), "{verdicts:?}");
    assert!(verdicts.contains(&("data", Liveness::Alive)), "{verdicts:?}");
    assert_eq!(node.code("/readyz"), 200, "the connection lives");
    assert!(events.named("bus").is_empty(), "{:#?}", events.all());
    events.of("feed", "acted");
}

#[test]
fn s03_s07_while_its_own_subscription_stays_dark_the_node_is_deaf_and_blames_nobody() {
    let Some(python) = parts() else { return };
    let server = RedisServer::start();
    let proxy = Proxy::start(server.address());
    let _feed = feed(&python, &server);
    let node = Node::run(&config(&proxy.url(), FEED));
    node.is_calm();
    let events = node.events();

    // The new ones are dark too: from here on nothing that is published can be heard.
    proxy.silence_subscription(true);
    events.bus("self_deaf");
    until("several subscriptions were tried", || {
        node.count("defib_bus_connects_total{link=\"sub\",result=\"failed\"}") >= 3
    });
    // Longer than `dead_after`: a wrong verdict would show.
    std::thread::sleep(Duration::from_secs(6));
    assert_eq!(node.snapshot().trust.bus, BusState::SelfDeaf);
    for command in ["PING", "GET nothing"] {
        let answer = ask(proxy.address(), command).unwrap();
        assert!(
            answer.starts_with("+PONG") || answer.starts_with("$-1"),
            "{answer}"
        );
    }
    let (status, body) = node.get("/readyz?verbose");
    assert_eq!(status, 503);
    assert!(body.contains("self_deaf"), "{body}");
    assert_eq!(node.peer("feed").liveness, Liveness::Unknown);
    assert_eq!(node.peer("feed").cause, Some(Cause::SelfDeaf));
    assert_no_application_suffers(&node);

    proxy.restore();
    node.is_calm();
    assert_eq!(node.code("/readyz"), 200);
    events.blame_nobody();
}

#[test]
fn s04_the_exact_payload_counts_and_hostile_bodies_harm_nothing() {
    let Some(python) = parts() else { return };
    let server = RedisServer::start();
    let node = Node::run(&config(&server.url(), FEED));
    node.sees("it trusts its bus", is_trusted);
    let mut redis = redis::Client::open(server.url())
        .unwrap()
        .get_connection()
        .unwrap();
    let mut publish = |channel: &str, body: &str| -> u32 {
        redis::cmd("PUBLISH")
            .arg(channel)
            .arg(body)
            .query(&mut redis)
            .unwrap()
    };

    assert_eq!(
        publish(CHANNEL, r#"{"uptime_s": 12.5, "wall_ts": 1770000000.1}"#),
        1
    );
    node.is_calm();
    assert!(node.peer("feed").incarnation.is_some());
    let events = node.events();

    // On the peer's own channel and on the group's.
    let port = server.port().to_string();
    for channel in [CHANNEL, "defib:it"] {
        let before = node.peer("feed").last_life;
        python.run("hostile.py", &[&port, channel]);
        if channel == CHANNEL {
            node.sees("any body is life of the channel's owner", |snapshot| {
                snapshot.peers[0].last_life > before
            });
        }
    }
    for reason in ["empty", "too_big", "not_utf8", "not_json", "bad_field"] {
        let series = format!("defib_bus_opaque_total{{reason=\"{reason}\"}}");
        until(&format!("{reason} is counted on both channels"), || {
            node.count(&series) >= 2
        });
    }
    let before = node.snapshot().at;
    publish(CHANNEL, r#"{"uptime_s": 20.5, "wall_ts": 1770000008.1}"#);
    node.sees("a heartbeat still counts", |snapshot| {
        snapshot.peers[0].last_life > Some(before)
    });
    assert!(
        events.named("bus").is_empty(),
        "no link was lost: {:#?}",
        events.all()
    );
    assert!(events.named("incarnation").is_empty(), "{:#?}", events.all());
    assert_eq!(node.code("/readyz"), 200);
    assert_no_application_suffers(&node);
}

#[test]
fn s05_what_redis_refused_is_not_sent_later_and_publishing_resumes_by_itself() {
    let Some(python) = parts() else { return };
    let server = RedisServer::start();
    let _feed = feed(&python, &server);
    let node = Node::run(&config(&server.url(), FEED));
    node.is_calm();
    let events = node.events();
    let (heard, slots) = std::sync::mpsc::channel();
    let client = redis::Client::open(server.url()).unwrap();
    std::thread::spawn(move || {
        let mut connection = client.get_connection().unwrap();
        let mut pubsub = connection.as_pubsub();
        pubsub.subscribe("defib:it").unwrap();
        while let Ok(message) = pubsub.get_message() {
            let beat: serde_json::Value = serde_json::from_slice(message.get_payload_bytes()).unwrap();
            if heard.send(beat["slot"].as_u64().unwrap()).is_err() {
                return;
            }
        }
    });
    slots.recv_timeout(Duration::from_secs(30)).unwrap();

    assert!(server.tell("ACL SETUSER default -publish").starts_with("+OK"));
    let refused = events.bus("bus_refused");
    assert!(
        refused["detail"].as_str().unwrap().contains("+publish"),
        "{refused}"
    );
    let mut last = 0;
    while let Ok(slot) = slots.recv_timeout(Duration::from_secs(4)) {
        last = slot;
    }
    let (status, body) = node.get("/readyz?verbose");
    assert_eq!(status, 503);
    assert!(body.contains("+publish"), "{body}");
    assert!(server.tell("ACL SETUSER default +publish").starts_with("+OK"));

    let first = slots.recv_timeout(Duration::from_secs(30)).unwrap();
    assert!(
        first > last + 5,
        "{last}, then {first}: it was kept back and sent later"
    );
    node.is_calm();
    let after: Vec<u64> = slots.try_iter().collect();
    assert!(after.is_sorted(), "{after:?}");
    assert_no_application_suffers(&node);
    // The feed's PUBLISH was refused as well.
    events.blame_nobody();
}

#[test]
fn s09_after_a_restart_of_redis_and_killed_clients_all_are_back_and_nothing_was_done() {
    let Some(python) = parts() else { return };
    let mut server = RedisServer::start();
    let port = server.port().to_string();
    let _feed = feed(&python, &server);
    let client = Application::start(&python.words("subscriber.py", &[&port, CHANNEL]));
    until("the client has subscribed", || {
        client.log().contains("subscribed")
    });
    let own = format!(
        "[peer.client]\nowner = {}\nremedies = [{{ do = \"exec\", command = {} }}]",
        client.owner(),
        client.restart()
    );
    let other = |name: &str| {
        format!(
            "[peer.{name}]\nsingle_observer = true\nchecks.heartbeat = {{ node = \"{name}\" }}\n\
             remedies = [{{ do = \"exec\", command = [\"false\"] }}]\n"
        )
    };
    let first = Node::run(&config(&server.url(), &format!("{FEED}{}{own}", other("b"))));
    let second =
        Node::run(&config(&server.url(), &format!("{FEED}{}", other("a"))).replace("\"a\"\n", "\"b\"\n"));
    let nodes = [first, second];
    for node in &nodes {
        node.is_calm();
    }
    let pid = client.pid();
    let events: Vec<_> = nodes.iter().map(Node::events).collect();
    let reconnected = |node: &Node, connects: i64| {
        for link in ["pub", "sub"] {
            let series = format!("defib_bus_connects_total{{link=\"{link}\",result=\"ok\"}}");
            until(&format!("{link} is back"), || node.count(&series) >= connects);
        }
    };

    server.restart();
    for node in &nodes {
        reconnected(node, 2);
        node.is_calm();
    }
    // Pub/sub clients, and those that are none: every link of every node, and every redis-py client.
    for kind in ["pubsub", "normal"] {
        server.tell(&format!("CLIENT KILL TYPE {kind} SKIPME yes"));
    }
    for node in &nodes {
        reconnected(node, 3);
        node.is_calm();
        hears_again(node);
        assert_eq!(node.code("/readyz"), 200);
    }
    for seen in &events {
        assert!(seen.named("granted").is_empty(), "{:#?}", seen.all());
    }
    assert_eq!((client.pid(), client.starts()), (pid, 1), "{}", client.log());
}

#[test]
fn s15_an_uptime_that_falls_back_is_another_life_and_no_reason_to_act() {
    let Some(python) = parts() else { return };
    let server = RedisServer::start();
    let first = feed(&python, &server);
    let node = Node::run(&config(&server.url(), FEED));
    node.is_calm();
    let events = node.events();
    let before = node.peer("feed").incarnation;
    node.sees("it has been up for a while", |snapshot| {
        snapshot.uptime > Duration::from_secs(3)
    });

    drop(first);
    let _second = feed(&python, &server);
    events.of("feed", "incarnation");
    let feed = node.peer("feed");
    assert_ne!(feed.incarnation, before);
    assert_eq!(feed.incarnations, 1);
    assert_eq!(node.count("defib_peer_incarnations_total{peer=\"feed\"}"), 2);
    hears_again(&node);
    assert!(events.named("granted").is_empty(), "{:#?}", events.all());
}

#[test]
fn s40_a_server_that_became_a_replica_is_left_blames_nobody_and_is_judged_by_again() {
    let Some(python) = parts() else { return };
    let server = RedisServer::start();
    let sender = feed(&python, &server);
    let node = Node::run(&config(&server.url(), FEED));
    node.is_calm();
    let events = node.events();

    // Nothing listens at port 1: the link to its master stays down, and it answers as before.
    assert!(server.tell("REPLICAOF 127.0.0.1 1").starts_with("+OK"));
    drop(sender);
    events.bus("wrong_broker");
    std::thread::sleep(Duration::from_secs(6));
    let (status, body) = node.get("/readyz?verbose");
    assert_eq!(status, 503);
    assert!(body.contains("wrong_broker"), "{body}");
    assert_no_application_suffers(&node);
    events.blame_nobody();

    let sender = feed(&python, &server);
    assert!(server.tell("REPLICAOF NO ONE").starts_with("+OK"));
    node.is_calm();
    events.blame_nobody();
    drop(sender);
    events.one("it judges again", |notice| {
        notice["to"] == "dead" && notice["cause"] == "peer_silent"
    });
}
