//! Keys that a program keeps, and locks that must die with their owner: scenarios 11, 12, 16, 20. Unmodified redis-py
//! clients write; times are a twentieth of the real ones.

use rustix::process::{Pid, Signal, kill_process};

use defib::engine::cause::Cause;
use defib::engine::peer::Liveness;
use defib::engine::snapshot::Snapshot;

use super::{config, parts};
use crate::support::node::Node;
use crate::support::python::Script;
use crate::support::redis_server::{RedisServer, there};
use crate::support::until;

fn signal(script: &Script, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(script.pid()).unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

fn check<'s>(snapshot: &'s Snapshot, name: &str) -> (Liveness, Option<Cause>, &'s str) {
    let checks = &snapshot.peers[0].checks;
    let check = checks.iter().find(|check| &*check.name == name).unwrap();
    (check.verdict, check.cause, &check.detail)
}

#[test]
fn s11_a_key_that_is_no_longer_refreshed_expires_and_its_writer_is_dead_while_redis_answers() {
    let Some(python) = parts() else { return };
    let server = RedisServer::start();
    let port = server.port().to_string();
    let keeper = || {
        python.spawn(
            "keeper.py",
            &[
                "127.0.0.1",
                &port,
                "websocket_bridge:clients",
                "clients",
                "200",
                "1000",
            ],
        )
    };
    let mut first = keeper();
    assert_eq!(first.line(), "kept");
    let node = Node::run(&config(
        &server.url(),
        r#"
        [peer.feed]
        checks.clients = { type = "redis_key", key = "websocket_bridge:clients", interval = "200ms" }
        "#,
    ));
    node.is_calm();
    let events = node.events();
    signal(&first, Signal::KILL);
    let dead = events.one("feed is dead", |event| {
        event["peer"] == "feed" && event["to"] == "dead"
    });
    assert_eq!(dead["cause"], "peer_silent", "{dead}");
    let snapshot = node.snapshot();
    let (_, _, detail) = check(&snapshot, "clients");
    assert!(
        detail.contains("there is no key `websocket_bridge:clients`"),
        "{detail}"
    );
    assert!(!snapshot.peers[0].local, "a key may be anybody's");
    let mut second = keeper();
    assert_eq!(second.line(), "kept");
    node.is_calm();
}

#[test]
fn s12_a_status_that_is_old_or_says_no_degrades_that_component_alone() {
    let Some(python) = parts() else { return };
    let server = RedisServer::start();
    let port = server.port().to_string();
    let arguments = ["127.0.0.1", &port, "timescale:status", "status", "200"];
    let mut recorder = python.spawn("keeper.py", &arguments);
    let mut neighbour = python.spawn("keeper.py", &["127.0.0.1", &port, "feed:status", "status", "200"]);
    assert_eq!(
        (recorder.line(), neighbour.line()),
        ("kept".to_owned(), "kept".to_owned())
    );
    let node = Node::run(&config(
        &server.url(),
        r#"
        [peer.recorder]
        [peer.recorder.checks]
        status = { type = "redis_key", key = "timescale:status", age = "ts", max_age = "1500ms", interval = "200ms" }
        ok = { type = "redis_key", key = "timescale:status", json = "ok", equals = true, interval = "200ms", decides = "nothing" }
        [peer.feed]
        checks.status = { type = "redis_key", key = "feed:status", age = "ts", max_age = "60s", json = "ok", equals = true, interval = "200ms" }
        "#,
    ));
    node.is_calm();
    let events = node.events();
    signal(&recorder, Signal::USR1);
    let is = |name: &'static str, verdict: Liveness, cause: Cause| {
        move |snapshot: &Snapshot| {
            let peer = snapshot
                .peers
                .iter()
                .find(|peer| &*peer.name == "recorder")
                .unwrap();
            let check = peer.checks.iter().find(|check| &*check.name == name).unwrap();
            (check.verdict, check.cause) == (verdict, Some(cause))
        }
    };
    node.sees(
        "it says that it is ill",
        is("ok", Liveness::Dead, Cause::PeerStuck),
    );
    assert_eq!(node.peer("recorder").liveness, Liveness::Alive, "it still writes");
    signal(&recorder, Signal::USR2);
    node.sees(
        "it no longer says anything",
        is("status", Liveness::Dead, Cause::PeerSilent),
    );
    let dead = events.one("it is dead", |event| {
        event["peer"] == "recorder" && event["to"] == "dead"
    });
    assert_eq!(dead["cause"], "peer_silent", "{dead}");
    assert_eq!(node.peer("feed").liveness, Liveness::Alive);
    assert!(
        events.all().iter().all(|event| event["peer"] != "feed"),
        "{:#?}",
        events.all()
    );
}

#[test]
fn s10_the_car_is_off_by_a_key_and_the_same_silence_counts_while_it_is_on() {
    if !there() {
        return;
    }
    let server = RedisServer::start();
    server.tell("SET data 1");
    server.tell("SET car:present 1 EX 600");
    let node = Node::run(&config(
        &server.url(),
        r#"
        [when.car]
        redis_key = "car:present"
        equals = 1
        interval = "200ms"
        [peer.feed]
        checks.data = { type = "redis_key", key = "data", interval = "200ms", needs = "car" }
        "#,
    ));
    node.is_calm();
    let events = node.events();
    let is = |verdict: Liveness, words: &'static str| {
        move |snapshot: &Snapshot| {
            let (is, _, detail) = check(snapshot, "data");
            is == verdict && detail.contains(words)
        }
    };
    server.tell("DEL car:present");
    node.sees("the car is off", is(Liveness::Unknown, "not expected now"));
    server.tell("DEL data");
    let runs = "defib_check_runs_total{kind=\"redis_key\",outcome=\"fail\"}";
    until("the silence was seen", || node.count(runs) > 3);
    events.blame_nobody();
    server.tell("SET car:present 1 EX 600");
    node.sees("the car is on", is(Liveness::Dead, "there is no key `data`"));
    // What cannot be told leaves it open.
    server.tell("SADD other x");
    server.tell("RENAME other car:present");
    node.sees(
        "it cannot be told",
        is(Liveness::Unknown, "cannot tell whether it is expected"),
    );
}

/// With a TTL of 6 s, extended every 2 s: a tenth of 60 s and 20 s. (Five minutes of the real times are in
/// src/checks/keys/tests.rs.)
#[test]
fn s16_a_lock_whose_owner_is_killed_is_suspect_before_it_expires_and_then_free() {
    let Some(python) = parts() else { return };
    let server = RedisServer::start();
    let port = server.port().to_string();
    let locker = |key: &str| {
        let mut locker = python.spawn("locker.py", &["127.0.0.1", &port, key, "6000", "2000"]);
        assert_eq!(locker.line(), "held");
        locker
    };
    let mut owners = [locker("chat:1:lock"), locker("chat:2:lock")];
    let node = Node::run(&config(
        &server.url(),
        r#"
        [peer.chat]
        checks.locks = { type = "redis_lock", pattern = "chat:*:lock", interval = "100ms" }
        [peer.stream]
        checks.lock = { type = "redis_lock", key = "chat:1:lock", interval = "100ms", held = true }
        "#,
    ));
    node.is_calm();
    let events = node.events();
    let series = |check: &str, state: &str| {
        let (peer, check) = check.split_once('/').unwrap();
        format!("defib_peer_locks{{check=\"{check}\",peer=\"{peer}\",state=\"{state}\"}}")
    };
    let ends = |end: &str| {
        node.count(&format!(
            "defib_peer_lock_ends_total{{check=\"lock\",end=\"{end}\",peer=\"stream\"}}"
        ))
    };
    // Long enough to learn from some extensions of each; nobody is suspected meanwhile.
    let runs = "defib_check_runs_total{kind=\"redis_lock\",outcome=\"pass\"}";
    let before = node.count(runs);
    until("many looks were taken", || node.count(runs) > before + 250);
    events.blame_nobody();
    assert_eq!(node.count(&series("chat/locks", "held")), 2);

    signal(&owners[0], Signal::KILL);
    let suspected = events.one("chat is suspect", |event| {
        event["peer"] == "chat" && event["to"] == "suspect"
    });
    assert_eq!(suspected["cause"], "peer_silent", "{suspected}");
    let left = server.tell("PTTL chat:1:lock");
    let left: i64 = left
        .lines()
        .next()
        .unwrap()
        .trim_start_matches(':')
        .trim()
        .parse()
        .unwrap();
    assert!(left > 0, "suspect before it expires, and not after: {left}");
    node.sees("it is free", |snapshot| {
        let alive = snapshot
            .peers
            .iter()
            .any(|peer| &*peer.name == "chat" && peer.liveness == Liveness::Alive);
        alive && node.count(&series("stream/lock", "free")) == 1
    });
    assert_eq!(node.count(&series("chat/locks", "held")), 1);
    assert_eq!(node.count(&series("chat/locks", "suspect")), 0);
    assert_eq!((ends("expired"), ends("released"), ends("taken")), (1, 0, 0));
    // Who must be held and is not, is dead; a lock that is free is nobody's death.
    node.sees("nobody holds what must be held", |snapshot| {
        let stream = snapshot
            .peers
            .iter()
            .find(|peer| &*peer.name == "stream")
            .unwrap();
        stream.checks[0].verdict == Liveness::Dead && stream.checks[0].detail.contains("nobody holds")
    });
    let died = |event: &serde_json::Value| event["peer"] == "chat" && event["to"] == "dead";
    assert!(!events.all().iter().any(died), "{:#?}", events.all());

    // A new owner, who gives it back: neither is a failure.
    owners[0] = locker("chat:1:lock");
    node.sees("it is held again", |_| {
        node.count(&series("stream/lock", "held")) == 1
    });
    signal(&owners[0], Signal::TERM);
    node.sees("it was given back", |_| ends("released") == 1);

    // A stopped owner is suspect, too, and continues: it has lost its lock by then, or extends it.
    signal(&owners[1], Signal::STOP);
    until("the stopped owner is suspected", || {
        let all = events.all();
        all.iter()
            .filter(|event| event["peer"] == "chat" && event["to"] == "suspect")
            .count()
            >= 2
    });
    signal(&owners[1], Signal::CONT);
    node.sees("it is extended again", |snapshot| {
        snapshot
            .peers
            .iter()
            .any(|peer| &*peer.name == "chat" && peer.liveness == Liveness::Alive)
    });
    let text = node.get("/metrics").1;
    assert!(!text.contains("chat:"), "no key is in a metric");
}

#[test]
fn s20_a_lock_that_cannot_be_read_is_unknown_and_not_free() {
    let Some(python) = parts() else { return };
    let server = RedisServer::start();
    server.tell("ACL SETUSER alice on >pw ~* &* +@all");
    let port = server.port().to_string();
    let mut owner = python.spawn("locker.py", &["127.0.0.1", &port, "chat:lock", "3000", "1000"]);
    assert_eq!(owner.line(), "held");
    let node = Node::run(&config(
        &server.url().replace("redis://", "redis://alice:pw@"),
        r#"
        [peer.chat]
        checks.lock = { type = "redis_lock", key = "chat:lock", held = true, interval = "100ms" }
        "#,
    ));
    node.is_calm();
    let events = node.events();
    server.tell("ACL SETUSER alice resetkeys ~defib:*");
    node.sees("it cannot be read", |snapshot| {
        let (verdict, _, detail) = check(snapshot, "lock");
        verdict == Liveness::Unknown && detail.contains("ACL SETUSER alice +getrange +pttl ~chat:lock")
    });
    let text = node.get("/metrics").1;
    assert!(!text.contains("defib_peer_locks{"), "{text}");
    let (_, said) = node.tool(&["explain", "chat"]);
    assert!(
        said.contains("ACL SETUSER alice +getrange +pttl ~chat:lock"),
        "{said}"
    );
    server.tell("ACL SETUSER alice +getrange +pttl ~chat:lock");
    node.is_calm();
    // The bus itself is away: nothing is free, and nobody is blamed.
    server.stop();
    node.sees("the bus is away", |snapshot| {
        check(snapshot, "lock").0 == Liveness::Unknown
    });
    events.blame_nobody();
    server.cont();
}
