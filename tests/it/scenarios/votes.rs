//! Observers that agree: real nodes on one redis-server, and a remote peer that ends without a word.

use std::path::Path;

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
