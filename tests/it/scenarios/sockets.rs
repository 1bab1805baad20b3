//! Half-dead connections, seen and healed in the kernel: scenario 6, for the clients of any server.

use std::net::Ipv4Addr;

use defib::sock_diag::{Cookie, Filter, can_destroy, dump};

use super::config;
use crate::support::application::Application;
use crate::support::available;
use crate::support::feed::{Feed, client};
use crate::support::node::Node;
use crate::support::redis_server::{RedisServer, there};
use crate::support::until;

/// A feed, its client `app` that does this when its connection is cut, and the node that watches the client: silent
/// for a second is deaf, and the remedies are a reset, then a restart.
fn watched(how: &str) -> Option<(RedisServer, Feed, Application, Node)> {
    if !there() {
        return None;
    }
    if let Err(error) = can_destroy() {
        available(&format!("SOCK_DESTROY ({error})"), false);
        return None;
    }
    let server = RedisServer::start();
    let feed = Feed::start(Ipv4Addr::LOCALHOST);
    let application = Application::start(&client(feed.address, how));
    let node = Node::run(&config(
        &server.url(),
        &format!(
            r#"
            [peer.app]
            owner = {}
            grace = "1s"
            backoff = {{ initial = "200ms" }}
            checks.feed = {{ type = "sockets", to = ["{}"], max_silence = "1s", interval = "200ms", fail_after = "2 of 2" }}
            remedies = [
                {{ do = "socket_reset", for = ["peer_deaf"], verify_within = "10s" }},
                {{ do = "exec", command = {}, verify_within = "10s" }},
            ]
            "#,
            application.owner(),
            feed.address,
            application.restart()
        ),
    ));
    node.is_calm();
    Some((server, feed, application, node))
}

#[test]
fn s06_a_dark_connection_is_reset_and_its_client_connects_again_without_a_restart() {
    let Some((_server, feed, application, node)) = watched("reads") else {
        return;
    };
    let events = node.events();
    // Of its clients; the node tries the server itself for a moment.
    let connections = || -> Vec<Cookie> {
        let seen = dump(&Filter::established_to(vec![feed.address.into()])).unwrap();
        seen.sockets.iter().map(|socket| socket.id.cookie).collect()
    };
    let (pid, before) = (application.pid(), connections());
    feed.go_dark();
    let granted = events.of("app", "granted");
    assert_eq!(
        (&granted["cause"], &granted["kind"]),
        (&"peer_deaf".into(), &"socket_reset".into())
    );
    let acted = events.of("app", "acted");
    assert!(
        acted["detail"]
            .as_str()
            .is_some_and(|detail| detail.starts_with("1 reset: ")),
        "{acted}"
    );
    events.of("app", "recovered");
    let after = connections();
    assert!(
        after.len() == 1 && after != before,
        "proven by another connection: {before:?} {after:?}"
    );
    assert_eq!((application.pid(), application.starts()), (pid, 1));
    assert_eq!(
        node.count("defib_remedies_total{outcome=\"acted\",peer=\"app\",remedy=\"socket_reset\"}"),
        1
    );
}

#[test]
fn s06_a_client_that_exits_when_it_is_reset_counts_as_restarted_and_the_next_rung_follows() {
    let Some((_server, feed, application, node)) = watched("exits") else {
        return;
    };
    let events = node.events();
    feed.go_dark();
    let said = events.of("app", "exited_instead");
    assert_eq!(said["kind"], "socket_reset", "{said}");
    until("it was started again", || application.starts() == 2);
    events.of("app", "recovered");
    let granted = events.named("granted");
    let kinds: Vec<_> = granted
        .iter()
        .map(|event| event["kind"].as_str().unwrap())
        .collect();
    assert_eq!(kinds, ["socket_reset", "exec"]);
    assert_eq!(granted[1]["cause"], "peer_exited");
}
