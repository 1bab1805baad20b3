//! What is answered, with and without Redis: taking, renewing, giving back; who else may hold the same lock.

use defib::engine::time::{Clock, Time};
use defib::runtime::clock::SleeplessClock;
use rustix::process::Signal;
use serde_json::{Value, json};

use super::{becomes, config, look, node, path, put, release, take};
use crate::support::application::{Application, IDLE};
use crate::support::node::Node;
use crate::support::python::Python;
use crate::support::redis_server::{RedisServer, there};
use crate::support::until;

/// The same words on a server and in the process.
fn on_both(test: impl Fn(&Node, Option<&RedisServer>)) {
    test(&node("embedded"), None);
    if there() {
        let server = RedisServer::start();
        test(&node(&server.url()), Some(&server));
    }
}

#[test]
fn one_holder_has_it_renews_it_and_gives_it_back() {
    on_both(|node, _| {
        assert_eq!(look(node, "app:a").1["state"], "free");
        let first = take(node, "app:a", "me", "10s");
        let held = first["held_for_ms"].as_u64().unwrap();
        // Less than the whole: a hundredth and 2 ms for clocks, and what passed since it was sent.
        assert!((5_000..=9_898).contains(&held), "{first:#}");
        let (status, again) = put(
            node,
            "app:a",
            &json!({ "token": "me", "ttl": "10s", "renew": true }),
        );
        assert_eq!((status, &again["state"]), (200, &json!("renewed")), "{again:#}");
        assert_eq!(again["fencing_token"], first["fencing_token"]);

        let (status, other) = put(node, "app:a", &json!({ "token": "you" }));
        assert_eq!((status, &other["state"]), (409, &json!("held")));
        assert_eq!(other["held_by"], "this_node");
        assert!(
            !other.to_string().contains("\"me\""),
            "no token is told: {other:#}"
        );
        assert_eq!(release(node, "app:a", "you").0, 409);
        assert_eq!(look(node, "app:a").1["state"], "held");
        let (_, all) = node.request("GET", "/api/v1/leases", &Value::Null);
        assert_eq!(all["leases"][0]["key"], "app:a");

        assert_eq!(
            release(node, "app:a", "me"),
            (200, json!({ "state": "free", "key": "app:a" }))
        );
        let second = take(node, "app:a", "you", "10s");
        assert!(second["fencing_token"].as_u64() > first["fencing_token"].as_u64());
    });
}

#[test]
fn a_token_is_made_for_who_has_none_and_what_was_never_held_is_not_renewed() {
    on_both(|node, _| {
        let (status, made) = put(node, "app:a", &json!({}));
        assert_eq!(status, 200, "{made:#}");
        let token = made["token"].as_str().unwrap();
        assert_eq!((token.len(), made["ttl_ms"].as_u64()), (32, Some(60_000)));
        assert_eq!(release(node, "app:a", token).0, 200);
        let (status, lost) = put(node, "app:b", &json!({ "token": "me", "renew": true }));
        assert_eq!((status, &lost["state"]), (409, &json!("lost")));
        becomes(node, "app:b", "free");
    });
}

#[test]
fn what_its_holder_does_not_renew_ends_and_its_token_stays_lost() {
    on_both(|node, server| {
        let first = take(node, "app:a", "me", "1s");
        becomes(node, "app:a", "free");
        let (status, lost) = put(node, "app:a", &json!({ "token": "me", "ttl": "1s" }));
        assert_eq!((status, &lost["state"]), (409, &json!("lost")), "{lost:#}");
        assert_eq!(lost["reason"], "its holder did not renew it in time");
        let next = take(node, "app:a", "you", "1s");
        assert!(next["fencing_token"].as_u64() > first["fencing_token"].as_u64());
        assert_eq!(node.count("defib_lease_ends_total{why=\"expired\"}"), 1);
        if let Some(server) = server {
            becomes(node, "app:a", "free");
            let keys = server.tell("TTL app:a:fence");
            assert!(!keys.contains(":-1"), "everything has an end: {keys}");
        }
    });
}

#[test]
fn what_is_out_of_bounds_is_told_and_asked_of_nobody() {
    let node = Node::run(&config("embedded", "max = 2\nmax_ttl = \"2m\"\n"));
    let long = format!("app:{}", "x".repeat(512));
    let token = "x".repeat(257);
    for (key, body, status, says) in [
        ("other:a", json!({}), 403, "leases.prefixes: app:"),
        ("app:", json!({}), 403, "leases.prefixes"),
        (&long, json!({}), 400, "at most 512 bytes"),
        ("app:a%20b", json!({}), 400, "no blanks"),
        ("app:a:fence", json!({}), 400, ":fence"),
        ("app:a", json!({ "ttl": "soon" }), 400, "no duration"),
        ("app:a", json!({ "ttl": "500ms" }), 400, "from 1s to 2m"),
        ("app:a", json!({ "ttl": "1h" }), 400, "leases.max_ttl"),
        ("app:a", json!({ "token": "" }), 400, "printable"),
        ("app:a", json!({ "token": "a b" }), 400, "printable"),
        ("app:a", json!({ "token": token }), 400, "256"),
        ("app:a", json!({ "renew": true }), 400, "needs the `token`"),
        ("app:a", json!({ "tll": "1s" }), 400, "unknown field `tll`"),
        ("app:a", json!({ "peer": "nobody" }), 404, "nobody"),
    ] {
        let (got, answer) = put(&node, key, &body);
        assert_eq!(got, status, "{key} {body}: {answer}");
        assert!(
            answer["error"].as_str().unwrap().contains(says),
            "{key} {body}: {answer}"
        );
    }
    assert_eq!(
        node.count("defib_lease_calls_total{call=\"take\",outcome=\"yes\"}"),
        0
    );
    take(&node, "app:1", "me", "60s");
    take(&node, "app:2", "me", "60s");
    let (status, answer) = put(&node, "app:3", &json!({}));
    assert_eq!(status, 429, "{answer}");
    assert!(
        answer["error"].as_str().unwrap().contains("leases.max"),
        "{answer}"
    );
    assert_eq!(node.count("defib_leases_held"), 2);
}

#[test]
fn requests_have_a_rate() {
    let node = node("embedded");
    let clock = SleeplessClock::start();
    let statuses: Vec<u16> = (0..400).map(|_| look(&node, "app:a").0).collect();
    let most = 100.0 + 50.0 * clock.now().since(Time::ZERO).as_secs_f64();
    assert!(statuses[..50].iter().all(|status| *status == 200));
    let passed = u32::try_from(statuses.iter().filter(|status| **status == 200).count()).unwrap();
    assert!(f64::from(passed) <= most + 1.0, "{passed} of {most}");
}

#[test]
fn without_prefixes_there_are_none() {
    let node = Node::run("node = \"a\"\n");
    let (status, answer) = put(&node, "app:a", &json!({}));
    assert_eq!(status, 404);
    assert!(
        answer["error"].as_str().unwrap().contains("[leases] prefixes"),
        "{answer}"
    );
}

/// sim's lock and ours on one key: whoever has it has it against the other.
#[test]
fn s17_who_lost_it_stops_for_good_and_leaves_the_new_owners_time_alone() {
    let (true, Some(python)) = (there(), Python::newest()) else {
        return;
    };
    let server = RedisServer::start();
    let node = node(&server.url());
    let url = server.url();
    let sim = |what: &str, value: &str, seconds: &str| {
        let words = [what, &url, "app:chat", value, seconds];
        python.spawn("sim_lock.py", &words).line()
    };
    // Ours holds against sim's.
    take(&node, "app:chat", "me", "3s");
    assert_eq!(sim("take", "theirs", "60"), "0");
    assert_eq!(sim("extend", "theirs", "60"), "0");
    assert_eq!(sim("release", "theirs", "60"), "0");
    // It changes hands behind our back.
    server.tell("DEL app:chat");
    assert_eq!(sim("take", "theirs", "60"), "1");
    node.logs("the lease is lost: the key has another value, or is gone");
    let (status, answer) = put(
        &node,
        "app:chat",
        &json!({ "token": "me", "ttl": "3s", "renew": true }),
    );
    assert_eq!((status, &answer["state"]), (409, &json!("lost")), "{answer:#}");
    let (status, answer) = put(&node, "app:chat", &json!({ "token": "me", "ttl": "3s" }));
    assert_eq!(
        (status, &answer["state"]),
        (409, &json!("lost")),
        "for good: {answer:#}"
    );
    assert_eq!(release(&node, "app:chat", "me").0, 409);
    let theirs = look(&node, "app:chat").1;
    assert_eq!(theirs["held_by"], "somebody_else");
    assert!(theirs["ends_in_ms"].as_u64().unwrap() > 20_000, "{theirs:#}");

    // And the other way round.
    assert_eq!(sim("release", "theirs", "60"), "1");
    let mut keeper = python.spawn("sim_lock.py", &["keep", &url, "app:chat", "theirs", "60", "0.3"]);
    assert_eq!(keeper.line(), "taken");
    assert_eq!(
        put(&node, "app:chat", &json!({ "token": "you" })).1["held_by"],
        "somebody_else"
    );
    server.tell("DEL app:chat");
    let (status, answer) = put(&node, "app:chat", &json!({ "token": "you", "ttl": "20s" }));
    assert_eq!(status, 200, "{answer:#}");
    until("sim's keeper has stopped", || keeper.line() == "lost");
    let ours = server.tell("PTTL app:chat");
    let ours: u64 = ours
        .lines()
        .next()
        .unwrap()
        .trim_start_matches(':')
        .parse()
        .unwrap();
    assert!(ours <= 20_000, "{ours}");
}

/// What an application took by itself, it may have kept by a node under the same value; and take back.
#[test]
fn a_lock_changes_its_keeper_without_being_free_in_between() {
    let (true, Some(python)) = (there(), Python::newest()) else {
        return;
    };
    let server = RedisServer::start();
    let node = node(&server.url());
    let sim = |what: &str| {
        let words = [what, &server.url(), "app:chat", "theirs", "30"];
        python.spawn("sim_lock.py", &words).line()
    };
    assert_eq!(sim("take"), "1");
    let (status, answer) = put(
        &node,
        "app:chat",
        &json!({ "token": "theirs", "ttl": "10s", "renew": true }),
    );
    assert_eq!((status, &answer["state"]), (200, &json!("renewed")), "{answer:#}");
    assert!(answer["fencing_token"].as_u64().is_some());
    // Never shortened: 30 s were promised.
    assert!(server.tell("TTL app:chat").starts_with(":2") || server.tell("TTL app:chat").starts_with(":30"));
    assert_eq!(sim("extend"), "1");
    assert_eq!(release(&node, "app:chat", "theirs").0, 200);
    assert_eq!(sim("take"), "1");
}

#[test]
fn s21_a_lease_for_a_peer_goes_back_at_once_when_it_exits() {
    if !there() {
        return;
    }
    let server = RedisServer::start();
    let application = Application::start(&IDLE);
    let peer = format!("[peer.app]\nowner = {}\ngrace = \"1s\"\n", application.owner());
    let node = Node::run(&config(&server.url(), &peer));
    node.is_calm();
    let (status, answer) = put(
        &node,
        "app:a",
        &json!({ "token": "me", "ttl": "10m", "peer": "app" }),
    );
    assert_eq!((status, &answer["peer"]), (200, &json!("app")), "{answer:#}");
    application.kill();
    // Ten minutes are not waited for.
    until("the key is gone", || {
        server.tell("EXISTS app:a").starts_with(":0")
    });
    assert_eq!(node.count("defib_lease_ends_total{why=\"peer_exited\"}"), 1);
    let (status, answer) = put(&node, "app:b", &json!({ "peer": "app" }));
    assert_eq!(status, 409, "{answer:#}");
    assert!(
        answer["error"].as_str().unwrap().contains("has exited"),
        "{answer}"
    );
}

#[test]
fn s21_a_lease_for_a_peer_that_is_dead_or_stopped_ends_within_its_time() {
    if !there() {
        return;
    }
    let server = RedisServer::start();
    let application = Application::start(&IDLE);
    let peer = format!(
        "[peer.app]\nowner = {}\ngrace = \"0s\"\nchecks.process = {{ interval = \"200ms\", fail_after = \"2 of 2\" }}\n",
        application.owner()
    );
    let node = Node::run(&config(&server.url(), &peer));
    node.is_calm();
    // Nobody asks for it again: the node renews it for as long as the peer lives.
    put(
        &node,
        "app:a",
        &json!({ "token": "me", "ttl": "2s", "peer": "app" }),
    );
    let extended = "defib_lease_calls_total{call=\"extend\",outcome=\"yes\"}";
    until("it was renewed past its time", || node.count(extended) >= 5);
    assert_eq!(look(&node, "app:a").1["state"], "held");
    application.signal(Signal::STOP);
    node.sees("the peer is dead", |snapshot| snapshot.peers[0].cause.is_some());
    becomes(&node, "app:a", "free");
    assert_eq!(node.count("defib_lease_ends_total{why=\"peer_dead\"}"), 1);
}

#[test]
fn followers_are_told_at_once() {
    if !there() {
        return;
    }
    let server = RedisServer::start();
    let node = node(&server.url());
    let before = take(&node, "app:a", "me", "3s")["fencing_token"].as_u64();
    let events = node.follow(&format!("{}/events", path("app:a")));
    events.one("it is held", |event| event["state"] == "held");
    server.tell("FLUSHALL");
    // By the next renewal, which is a third of its time away.
    let lost = events.one("it is lost", |event| event["state"] == "lost");
    assert_eq!(lost["reason"], "the key has another value, or is gone");
    // A flushed server begins no counter again.
    let after = take(&node, "app:a", "you", "3s")["fencing_token"].as_u64();
    assert!(after > before);
}
