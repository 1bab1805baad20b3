//! Redis is slow, away, a replica, or refuses; the node is stopped, drained, started anew.

use rustix::process::Signal;
use serde_json::json;

use super::{becomes, config, look, node, path, put, release, take};
use crate::support::node::{Node, defib};
use crate::support::proxy::Proxy;
use crate::support::redis_server::{RedisServer, there};
use crate::support::until;

/// A call that fails is made again at the next tick, over one connection at a time.
#[test]
fn s18_an_extension_that_fails_is_tried_again() {
    if !there() {
        return;
    }
    let server = RedisServer::start();
    let proxy = Proxy::start(server.address());
    let node = node(&proxy.url());
    take(&node, "app:a", "me", "6s");
    proxy.silence_leases();
    let failed = "defib_lease_calls_total{call=\"extend\",outcome=\"unknown\"}";
    until("one has failed", || node.count(failed) >= 1);
    let held = look(&node, "app:a").1;
    assert_eq!(held["state"], "held", "not lost for that: {held:#}");
    assert!(
        held["held_for_ms"].as_u64().unwrap() < 6_000 && held["unconfirmed_for_ms"].is_u64(),
        "{held:#}"
    );
    // Only the connection of that moment was dark, and it was dropped.
    let extended = "defib_lease_calls_total{call=\"extend\",outcome=\"yes\"}";
    until("the next has not", || node.count(extended) >= 1);
    assert_eq!(node.count(failed), 1);
    let named = |seen: &defib::cli::fault_proxy::Seen| seen.name.as_deref() == Some("defib:a:lease");
    assert_eq!(proxy.connections().iter().filter(|seen| named(seen)).count(), 1);
    let (status, answer) = put(
        &node,
        "app:a",
        &json!({ "token": "me", "ttl": "6s", "renew": true }),
    );
    assert!(status == 200 || answer["state"] == "lost", "{answer:#}");
}

#[test]
fn s19_a_set_that_went_unanswered_and_has_landed_is_found_to_be_ours() {
    if !there() {
        return;
    }
    let server = RedisServer::start();
    let proxy = Proxy::start(server.address());
    let node = node(&proxy.url());
    server.tell("SET app:theirs theirs PX 600000");
    assert_eq!(look(&node, "app:a").1["state"], "free");
    // What is sent arrives; what is answered does not.
    proxy.swallow_answers_to_leases();
    let (status, answer) = put(&node, "app:a", &json!({ "token": "me", "ttl": "30s" }));
    assert_eq!((status, &answer["state"]), (503, &json!("unknown")), "{answer:#}");
    assert!(answer["held_for_ms"].is_null(), "nothing is promised: {answer:#}");
    assert!(server.tell("GET app:a").contains("me"), "it has landed");
    let (status, answer) = put(&node, "app:a", &json!({ "token": "me", "ttl": "30s" }));
    assert_eq!(
        (status, &answer["state"]),
        (200, &json!("acquired")),
        "{answer:#}"
    );
    // One taking, one mark: the second try did not count as another.
    let mark = server.tell("GET app:a:fence");
    assert!(
        mark.contains(&answer["fencing_token"].to_string()),
        "{mark} {answer}"
    );

    // Nobody asks again: the node finds out by itself, at its next tick.
    proxy.swallow_answers_to_leases();
    let (status, _) = put(&node, "app:b", &json!({ "token": "me", "ttl": "3s" }));
    assert_eq!(status, 503);
    becomes(&node, "app:b", "held");

    // Others' keys are never touched.
    proxy.swallow_answers_to_leases();
    let _ = put(&node, "app:theirs", &json!({ "token": "me" }));
    let (_, answer) = put(&node, "app:theirs", &json!({ "token": "me" }));
    assert_eq!(answer["held_by"], "somebody_else", "{answer:#}");
    assert_eq!(release(&node, "app:theirs", "me").0, 409);
    assert!(server.tell("GET app:theirs").contains("theirs"));
}

#[test]
fn s20_what_cannot_be_read_is_unknown() {
    if !there() {
        return;
    }
    let mut server = RedisServer::start();
    let node = node(&server.url());
    take(&node, "app:a", "me", "20s");
    server.stop();
    let (status, answer) = look(&node, "app:b");
    assert_eq!((status, &answer["state"]), (503, &json!("unknown")), "{answer:#}");
    let (status, answer) = put(&node, "app:b", &json!({}));
    assert_eq!((status, &answer["state"]), (503, &json!("unknown")), "{answer:#}");
    // What is certainly held still is said to be, and for how long.
    let (status, answer) = put(&node, "app:a", &json!({ "token": "me", "ttl": "20s" }));
    assert_eq!((status, &answer["state"]), (503, &json!("unknown")), "{answer:#}");
    assert!(answer["held_for_ms"].as_u64().unwrap() > 1_000, "{answer:#}");
    server.cont();
    until("it is renewed again", || {
        put(&node, "app:a", &json!({ "token": "me", "ttl": "20s" })).1["state"] == "renewed"
    });
    server.kill();
    let (status, answer) = look(&node, "app:c");
    assert_eq!((status, &answer["state"]), (503, &json!("unknown")), "{answer:#}");
    assert!(
        answer["reason"].as_str().unwrap().contains("refused"),
        "{answer:#}"
    );
}

/// The clock of its own that is asked before anything is said.
#[test]
fn a_node_that_was_stopped_for_longer_does_not_think_it_still_has_it() {
    if !there() {
        return;
    }
    let server = RedisServer::start();
    let node = node(&server.url());
    take(&node, "app:a", "me", "1s");
    node.signal(Signal::STOP);
    until("the key has ended", || {
        server.tell("EXISTS app:a").starts_with(":0")
    });
    server.tell("SET app:a theirs PX 60000");
    node.signal(Signal::CONT);
    let (status, answer) = put(
        &node,
        "app:a",
        &json!({ "token": "me", "ttl": "1s", "renew": true }),
    );
    assert_eq!((status, &answer["state"]), (409, &json!("lost")), "{answer:#}");
    let answer = look(&node, "app:a").1;
    assert_eq!(answer["held_by"], "somebody_else", "{answer:#}");
}

#[test]
fn a_replica_and_other_data_refuse() {
    if !there() {
        return;
    }
    let server = RedisServer::start();
    let node = node(&server.url());
    server.tell("HSET app:hash a b");
    let (status, answer) = put(&node, "app:hash", &json!({}));
    assert_eq!((status, &answer["state"]), (503, &json!("unknown")), "{answer:#}");
    assert!(
        answer["reason"].as_str().unwrap().contains("WRONGTYPE"),
        "{answer:#}"
    );
    server.tell("SET app:odd:fence 12345678901234567890");
    let (_, answer) = put(&node, "app:odd", &json!({}));
    assert!(
        answer["reason"].as_str().unwrap().contains("FENCE app:odd:fence"),
        "{answer:#}"
    );
    server.tell("REPLICAOF 127.0.0.1 1");
    let (status, answer) = put(&node, "app:a", &json!({}));
    assert_eq!((status, &answer["state"]), (503, &json!("unknown")), "{answer:#}");
    assert!(
        answer["reason"].as_str().unwrap().contains("READONLY"),
        "{answer:#}"
    );
}

#[test]
fn what_the_acl_lacks_is_the_line_to_paste() {
    if !there() {
        return;
    }
    let server = RedisServer::start();
    server
        .tell("ACL SETUSER app on >pw resetchannels &* +ping +hello +client +subscribe +publish +info +role");
    let url = server.url().replace("redis://", "redis://app:pw@");
    let node = node(&url);
    let rules = "+del +eval +get +pexpire +pttl +set +time ~app:*";
    let line = format!("ACL SETUSER app {rules}");
    let (status, answer) = put(&node, "app:a", &json!({}));
    assert_eq!(status, 503, "{answer:#}");
    assert!(answer["reason"].as_str().unwrap().contains(&line), "{answer:#}");
    let file = node.dir().join("defib.toml");
    let doctor = || defib(&["doctor", "-c", file.to_str().unwrap(), "--json"]).1;
    let told = doctor();
    assert!(told.contains(&line), "{told}");
    server.tell("ACL SETUSER app +eval +get ~app:*");
    let told = doctor();
    assert!(told.contains(&line) && told.contains("set app:x"), "{told}");
    server.tell(&line);
    let told = doctor();
    assert!(!told.contains(&line), "{told}");
    let (status, answer) = put(&node, "app:a", &json!({ "token": "me", "ttl": "9s" }));
    assert_eq!(status, 200, "{answer:#}");
    assert_eq!(put(&node, "app:a", &json!({ "token": "me" })).0, 200);
    assert_eq!(release(&node, "app:a", "me").0, 200);
}

#[test]
fn the_database_of_the_url_holds_the_keys() {
    if !there() {
        return;
    }
    let server = RedisServer::start();
    let node = node(&format!("{}/3", server.url()));
    take(&node, "app:a", "me", "30s");
    assert!(
        server.tell("INFO keyspace").contains("db3:keys=2"),
        "{}",
        server.tell("INFO keyspace")
    );
}

#[test]
fn s24_a_drain_gives_them_back_before_the_goodbye() {
    if !there() {
        return;
    }
    for by_signal in [true, false] {
        let server = RedisServer::start();
        let mut node = node(&server.url());
        node.is_calm();
        take(&node, "app:a", "me", "10m");
        take(&node, "app:b", "me", "10m");
        let monitor = server.monitor();
        if by_signal {
            node.signal(Signal::TERM);
        } else {
            assert_eq!(node.admin(&["drain"]).0, Some(0));
        }
        assert_eq!(node.exit_code(), Some(0), "{}", node.log());
        assert_eq!(server.tell("EXISTS app:a app:b").lines().next(), Some(":0"));
        let lines = monitor.lines();
        let of = |what: &str| lines.iter().rposition(|line| line.contains(what));
        let (given, goodbye) = (of("\"del\""), of("goodbye"));
        assert!(given.is_some() && given < goodbye, "{lines:#?}");
    }
}

#[test]
fn s24_a_drain_ends_in_time_though_redis_hangs() {
    if !there() {
        return;
    }
    let server = RedisServer::start();
    let mut node = Node::run(&config(&server.url(), "[shutdown]\ndeadline = \"4s\"\n"));
    node.is_calm();
    take(&node, "app:a", "me", "10m");
    server.stop();
    node.signal(Signal::TERM);
    assert_eq!(node.exit_code(), Some(0), "{}", node.log());
    server.cont();
}

/// Nothing is written to disk: the lease ends by itself, or its holder asks again.
#[test]
fn a_node_that_was_started_anew_renews_what_still_stands() {
    if !there() {
        return;
    }
    let server = RedisServer::start();
    let mut node = node(&server.url());
    let first = take(&node, "app:a", "me", "20s");
    node.signal(Signal::KILL);
    let _ = node.exit_code();
    node.start_again();
    let answer = look(&node, "app:a").1;
    assert_eq!(
        (&answer["state"], &answer["held_by"]),
        (&json!("held"), &json!("somebody_else"))
    );
    let (status, again) = put(
        &node,
        "app:a",
        &json!({ "token": "me", "ttl": "20s", "renew": true }),
    );
    assert_eq!((status, &again["state"]), (200, &json!("renewed")), "{again:#}");
    assert!(again["fencing_token"].as_u64() > first["fencing_token"].as_u64());
    let events = node.follow(&format!("{}/events", path("app:a")));
    events.one("it is held", |event| event["held_by"] == "this_node");
    assert_eq!(release(&node, "app:a", "me").0, 200);
    events.one("it is given back", |event| event["state"] == "free");
}
