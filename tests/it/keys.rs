//! The checks that read keys, on real servers: what is there, what is refused, what is too large, and a server that
//! stops in the middle.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use defib::checks::keys::key::{Condition, MaxAge, RedisKey};
use defib::checks::keys::lock::{RedisLock, Which};
use defib::checks::{Probe, Schedule, Settings};
use defib::engine::cause::Cause;
use defib::engine::event::Outcome;
use defib::http_client::{Expect, JsonCondition};
use defib::redis_client::{Endpoint, Redis, Server};
use defib::runtime::clock::wall_seconds;
use serde_json::{Value, json};

use crate::checks::{BOUND, CHECK, Running};
use crate::support::redis_server::{RedisServer, there};

const OFTEN: Schedule = Schedule {
    interval: Duration::from_millis(50),
    timeout: BOUND,
};

/// The bus of tests that have none.
pub(crate) fn nowhere() -> Server {
    Server::new(
        Arc::new(Redis::new(Endpoint::tcp("127.0.0.1".to_owned(), 1))),
        &"n".into(),
    )
}

/// A check on the bus at `url`.
fn run(url: &str, probe: Probe, schedule: Schedule) -> Running {
    let redis = Server::new(Arc::new(Redis::new(url.parse().unwrap())), &"n".into());
    let settings = Settings {
        probes: vec![(CHECK, probe, schedule)],
        ..Settings::default()
    };
    Running::start_beside(settings, redis, &[])
}

async fn says(url: &str, probe: Probe) -> Outcome {
    run(url, probe, OFTEN).outcome().await
}

fn key(name: &str) -> RedisKey {
    RedisKey {
        key: name.to_owned(),
        redis: None,
        ttl_min: None,
        age: None,
        value: None,
    }
}

fn aged(name: &str, field: Option<&str>) -> Probe {
    let age = MaxAge {
        field: field.map(str::to_owned),
        max: Duration::from_secs(30),
    };
    Probe::RedisKey(RedisKey {
        age: Some(age),
        ..key(name)
    })
}

fn field(name: &str, path: &str, value: Value) -> Probe {
    let condition = JsonCondition {
        path: path.to_owned(),
        expect: Expect::Equals(value),
    };
    Probe::RedisKey(RedisKey {
        value: Some(Condition::Json(condition)),
        ..key(name)
    })
}

fn plain(name: &str, expect: Expect) -> Probe {
    Probe::RedisKey(RedisKey {
        value: Some(Condition::Plain(expect)),
        ..key(name)
    })
}

fn lock(which: Which) -> RedisLock {
    RedisLock {
        which,
        redis: None,
        held: false,
        ttl_min: None,
        max_keys: 1000,
    }
}

fn one(name: &str) -> Probe {
    Probe::RedisLock(lock(Which::Key(name.to_owned())))
}

fn many(pattern: &str) -> Probe {
    Probe::RedisLock(lock(Which::Pattern(pattern.to_owned())))
}

fn fails(outcome: &Outcome, wanted: Cause, words: &str) {
    match outcome {
        Outcome::Fail { cause, detail } if *cause == wanted && detail.contains(words) => {}
        other => panic!("no {wanted} with {words:?}: {other:?}"),
    }
}

fn is_unknown(outcome: &Outcome, words: &str) {
    match outcome {
        Outcome::Unknown { detail } if detail.contains(words) => {}
        other => panic!("not unknown with {words:?}: {other:?}"),
    }
}

/// Waits for an outcome that is so.
async fn until(running: &mut Running, what: &str, is_so: impl Fn(&Outcome) -> bool) -> Outcome {
    let mut last = None;
    for _ in 0..2000 {
        let outcome = running.outcome().await;
        if is_so(&outcome) {
            return outcome;
        }
        last = Some(outcome);
    }
    panic!("waited in vain until {what}: {last:?}");
}

fn exported(running: &Running) -> String {
    let families = running.metrics.registry.gather();
    prometheus::TextEncoder::new()
        .encode_to_string(&families)
        .unwrap()
}

/// Sends these commands, and waits for as many lines of answers.
fn tell(server: &RedisServer, commands: &[Vec<&str>]) {
    let mut stream = TcpStream::connect(server.address()).unwrap();
    let mut bytes = Vec::new();
    for words in commands {
        bytes.extend(format!("*{}\r\n", words.len()).bytes());
        for word in words {
            bytes.extend(format!("${}\r\n{word}\r\n", word.len()).bytes());
        }
    }
    let writer = {
        let mut stream = stream.try_clone().unwrap();
        std::thread::spawn(move || stream.write_all(&bytes).unwrap())
    };
    let mut lines = 0;
    let mut part = [0; 8192];
    while lines < commands.len() {
        let read = stream.read(&mut part).unwrap();
        let text = String::from_utf8_lossy(&part[..read]);
        assert!(read > 0 && !text.contains('-'), "{text}");
        lines += text.matches('\n').count();
    }
    writer.join().unwrap();
}

fn set(server: &RedisServer, name: &str, value: &str) {
    tell(server, &[vec!["SET", name, value]]);
}

#[tokio::test]
async fn a_key_is_there_or_not_and_lives_long_enough_or_not() {
    if !there() {
        return;
    }
    let server = RedisServer::start();
    let url = server.url();
    let exists = || Probe::RedisKey(key("clients"));
    let lives = |secs| {
        Probe::RedisKey(RedisKey {
            ttl_min: Some(Duration::from_secs(secs)),
            ..key("clients")
        })
    };
    fails(
        &says(&url, exists()).await,
        Cause::PeerSilent,
        "there is no key `clients`",
    );
    set(&server, "clients", "3");
    assert_eq!(says(&url, exists()).await, Outcome::Pass);
    is_unknown(&says(&url, lives(5)).await, "has no TTL");
    tell(&server, &[vec!["SET", "clients", "3", "EX", "100"]]);
    assert_eq!(says(&url, lives(5)).await, Outcome::Pass);
    fails(&says(&url, lives(200)).await, Cause::PeerSilent, "not for 200s");
    // Existence and TTL are asked of any type.
    tell(&server, &[vec!["DEL", "clients"], vec!["SADD", "clients", "a"]]);
    assert_eq!(says(&url, exists()).await, Outcome::Pass);
    // An empty string is a key.
    set(&server, "empty", "");
    assert_eq!(
        says(&url, plain("empty", Expect::Equals(json!("")))).await,
        Outcome::Pass
    );
    // Nothing of it was written, and no key's idle time was touched by looking at its TTL.
    let stats = server.tell("INFO commandstats");
    assert!(!stats.contains("cmdstat_get:"), "{stats}");
}

#[tokio::test]
async fn another_database_is_another_keyspace() {
    if !there() {
        return;
    }
    let server = RedisServer::start();
    tell(&server, &[vec!["SELECT", "2"], vec!["SET", "clients", "3"]]);
    let url = |db: &str| format!("{}{db}", server.url());
    let exists = || Probe::RedisKey(key("clients"));
    assert_eq!(says(&url("/2"), exists()).await, Outcome::Pass);
    fails(&says(&url(""), exists()).await, Cause::PeerSilent, "no key");
    is_unknown(&says(&url("/99"), exists()).await, "SELECT");
    // A server of the check's own, whatever the bus is.
    let own = RedisKey {
        redis: Some(url("/2").parse().unwrap()),
        ..key("clients")
    };
    assert_eq!(
        says("redis://127.0.0.1:1", Probe::RedisKey(own)).await,
        Outcome::Pass
    );
}

#[tokio::test]
async fn a_value_is_compared_as_what_it_is() {
    if !there() {
        return;
    }
    let server = RedisServer::start();
    let url = server.url();
    set(
        &server,
        "status",
        "{\"ok\":true,\"rows\":1,\"nested\":{\"list\":[1,2]}}",
    );
    for (path, value, passes) in [
        ("ok", json!(true), true),
        ("ok", json!(false), false),
        ("rows", json!(1), true),
        ("nested.list.1", json!(2), true),
    ] {
        let outcome = says(&url, field("status", path, value)).await;
        match outcome {
            Outcome::Pass if passes => {}
            Outcome::Fail {
                cause: Cause::PeerStuck,
                ..
            } if !passes => {}
            other => panic!("{path}: {other:?}"),
        }
    }
    is_unknown(
        &says(&url, field("status", "nothing", json!(1))).await,
        "no field nothing",
    );
    for text in ["", "{", "\u{0}", &"[".repeat(60_000), "nonsense"] {
        set(&server, "status", text);
        is_unknown(
            &says(&url, field("status", "ok", json!(true))).await,
            "holds no JSON",
        );
    }
    set(&server, "count", " 17\n");
    assert_eq!(
        says(&url, plain("count", Expect::Below(18.0))).await,
        Outcome::Pass
    );
    assert_eq!(
        says(&url, plain("count", Expect::Equals(json!(17)))).await,
        Outcome::Pass
    );
    fails(
        &says(&url, plain("count", Expect::Above(17.0))).await,
        Cause::PeerStuck,
        "its value is 17",
    );
    set(&server, "mode", "running");
    assert_eq!(
        says(&url, plain("mode", Expect::Equals(json!("running")))).await,
        Outcome::Pass
    );
    fails(
        &says(&url, plain("mode", Expect::Equals(json!("on")))).await,
        Cause::PeerStuck,
        "is \"running\"",
    );
    is_unknown(
        &says(&url, plain("mode", Expect::Below(1.0))).await,
        "not a number",
    );
}

#[tokio::test]
async fn how_old_it_is_is_read_in_every_form_of_a_time() {
    if !there() {
        return;
    }
    let server = RedisServer::start();
    let url = server.url();
    let now = wall_seconds();
    #[allow(clippy::cast_possible_truncation, reason = "a time of today")]
    let ms = (now * 1000.0) as i64;
    for stamp in [json!(now), json!(ms)] {
        set(&server, "status", &json!({ "ts": stamp }).to_string());
        assert_eq!(
            says(&url, aged("status", Some("ts"))).await,
            Outcome::Pass,
            "{stamp}"
        );
    }
    set(&server, "seen", &now.to_string());
    assert_eq!(says(&url, aged("seen", None)).await, Outcome::Pass);
    let old = json!({ "ts": now - 100.0 }).to_string();
    set(&server, "status", &old);
    fails(
        &says(&url, aged("status", Some("ts"))).await,
        Cause::PeerSilent,
        "ts of `status` is 10",
    );
    set(&server, "status", "{\"ts\":\"2001-01-01T00:00:00+01:00\"}");
    fails(
        &says(&url, aged("status", Some("ts"))).await,
        Cause::PeerSilent,
        "may be 30s",
    );
    for (text, words) in [
        (json!({ "ts": now + 3600.0 }).to_string(), "in the future"),
        ("{\"ts\":null}".to_owned(), "ts of `status`: null is not ISO 8601"),
        ("{\"at\":1}".to_owned(), "no such field"),
        ("{".to_owned(), "holds no JSON"),
    ] {
        set(&server, "status", &text);
        is_unknown(&says(&url, aged("status", Some("ts"))).await, words);
    }
    // A clock that is an hour behind is old at first sight; its next beat is life.
    set(&server, "status", &json!({ "ts": now - 3600.0 }).to_string());
    let mut running = run(&url, aged("status", Some("ts")), OFTEN);
    fails(&running.outcome().await, Cause::PeerSilent, "old");
    set(&server, "status", &json!({ "ts": now - 3599.0 }).to_string());
    until(&mut running, "a change is life", |outcome| {
        *outcome == Outcome::Pass
    })
    .await;
}

#[tokio::test]
async fn what_is_large_or_of_another_type_is_not_read() {
    if !there() {
        return;
    }
    let server = RedisServer::start();
    let url = server.url();
    set(&server, "large", &"9".repeat(10_000_000));
    let before = server.tell("INFO stats");
    is_unknown(
        &says(&url, aged("large", Some("ts"))).await,
        "holds more than 65536 bytes",
    );
    let sent = |info: &str| -> u64 {
        let line = info
            .lines()
            .find(|line| line.starts_with("total_net_output_bytes:"));
        line.unwrap().split(':').nth(1).unwrap().trim().parse().unwrap()
    };
    let crossed = sent(&server.tell("INFO stats")) - sent(&before);
    assert!(crossed < 500_000, "{crossed} bytes crossed the wire");
    tell(
        &server,
        &[vec!["SADD", "set", "a"], vec!["HSET", "hash", "ts", "1"]],
    );
    for name in ["set", "hash"] {
        is_unknown(&says(&url, aged(name, Some("ts"))).await, "WRONGTYPE");
        assert_eq!(says(&url, Probe::RedisKey(key(name))).await, Outcome::Pass);
    }
    tell(&server, &[vec!["SETRANGE", "binary", "10", "\u{ff}"]]);
    tell(&server, &[vec!["SETBIT", "binary", "0", "1"]]);
    is_unknown(&says(&url, aged("binary", None)).await, "holds no text");
}

#[tokio::test]
async fn a_refused_read_is_unknown_and_names_the_rule_that_cures() {
    if !there() {
        return;
    }
    let server = RedisServer::start();
    let url = server.url().replace("redis://", "redis://alice:pw@");
    tell(
        &server,
        &[
            vec!["SET", "my key", "{\"ts\":1}"],
            vec!["SET", "lock:a", "x", "PX", "600000"],
        ],
    );
    for (probe, rules, cure) in [
        (Probe::RedisKey(key("my key")), "-@all", "+pttl ~my?key"),
        (
            aged("my key", Some("ts")),
            "-@all +pttl",
            "+getrange +pttl ~my?key",
        ),
        (
            aged("my key", Some("ts")),
            "+@all resetkeys",
            "+getrange +pttl ~my?key",
        ),
        (one("lock:a"), "-@all", "+getrange +pttl ~lock:a"),
        (many("lock:*"), "-@all", "+getrange +pttl +scan ~lock:*"),
        (
            many("lock:*"),
            "-@all +scan +getrange +pttl",
            "+getrange +pttl +scan ~lock:*",
        ),
    ] {
        server.tell(&format!("ACL SETUSER alice reset on >pw {rules}"));
        let mut running = run(&url, probe, OFTEN);
        let Outcome::Unknown { detail } = running.outcome().await else {
            panic!("{rules}");
        };
        let (_, line) = detail
            .split_once("ACL SETUSER")
            .unwrap_or_else(|| panic!("{detail}"));
        assert_eq!(line.trim(), format!("alice {cure}"), "{detail}");
        assert!(server.tell(&format!("ACL SETUSER{line}")).starts_with("+OK"));
        until(&mut running, "the rule has cured it", |outcome| {
            !matches!(outcome, Outcome::Unknown { .. })
        })
        .await;
    }
}

/// What a check of its own server says once that has gone and come back, with its keys lost.
#[tokio::test]
async fn s20_a_read_that_fails_is_unknown_and_writers_have_time_to_come_back() {
    if !there() {
        return;
    }
    let mut server = RedisServer::start();
    let own: Endpoint = server.url().parse().unwrap();
    set(&server, "clients", "3");
    tell(&server, &[vec!["SET", "lock", "token", "PX", "600000"]]);
    let quick = Schedule {
        timeout: Duration::from_millis(300),
        ..OFTEN
    };
    let checks = [
        Probe::RedisKey(RedisKey {
            redis: Some(own.clone()),
            ..key("clients")
        }),
        Probe::RedisLock(RedisLock {
            redis: Some(own),
            held: true,
            ..lock(Which::Key("lock".to_owned()))
        }),
    ];
    let mut running: Vec<Running> = checks
        .into_iter()
        .map(|probe| run("redis://127.0.0.1:1", probe, quick))
        .collect();
    for running in &mut running {
        assert_eq!(running.outcome().await, Outcome::Pass);
    }
    server.stop();
    for running in &mut running {
        let outcome = until(running, "a stopped server is noticed", |outcome| {
            *outcome != Outcome::Pass
        })
        .await;
        is_unknown(&outcome, "within");
    }
    server.cont();
    for running in &mut running {
        until(running, "it is read again", |outcome| *outcome == Outcome::Pass).await;
    }
    server.kill();
    for running in &mut running {
        let outcome = until(running, "a dead server is noticed", |outcome| {
            *outcome != Outcome::Pass
        })
        .await;
        is_unknown(&outcome, "redis://127.0.0.1");
    }
    server.restart();
    for running in &mut running {
        let outcome = until(
            running,
            "it is back, without its keys",
            |outcome| matches!(outcome, Outcome::Unknown { detail } if detail.contains("a moment ago")),
        )
        .await;
        assert!(!matches!(outcome, Outcome::Fail { .. }));
    }
    // Nobody is blamed as long as it is a moment ago; and life is life at once.
    set(&server, "clients", "3");
    tell(&server, &[vec!["SET", "lock", "token", "PX", "600000"]]);
    for running in &mut running {
        until(running, "they are back", |outcome| *outcome == Outcome::Pass).await;
    }
}

#[tokio::test]
async fn a_replica_is_not_believed() {
    if !there() {
        return;
    }
    let (master, replica) = (RedisServer::start(), RedisServer::start());
    set(&replica, "clients", "3");
    let own = RedisKey {
        redis: Some(replica.url().parse().unwrap()),
        ..key("clients")
    };
    let mut running = run("redis://127.0.0.1:1", Probe::RedisKey(own), OFTEN);
    assert_eq!(running.outcome().await, Outcome::Pass);
    // On a connection that stands, and with its keys gone by it.
    replica.tell(&format!("REPLICAOF 127.0.0.1 {}", master.port()));
    let outcome = until(&mut running, "it is a replica", |outcome| {
        *outcome != Outcome::Pass
    })
    .await;
    is_unknown(&outcome, "is a replica, whose keys may be old");
}

#[tokio::test]
async fn a_lock_is_held_free_or_without_an_end() {
    if !there() {
        return;
    }
    let server = RedisServer::start();
    let url = server.url();
    let held = || {
        Probe::RedisLock(RedisLock {
            held: true,
            ..lock(Which::Key("lock".to_owned()))
        })
    };
    assert_eq!(says(&url, one("lock")).await, Outcome::Pass);
    fails(
        &says(&url, held()).await,
        Cause::PeerSilent,
        "nobody holds `lock`",
    );
    tell(&server, &[vec!["SET", "lock", "token", "PX", "60000"]]);
    let mut running = run(&url, held(), OFTEN);
    assert_eq!(running.outcome().await, Outcome::Pass);
    let series = |state: &str| format!("defib_peer_locks{{check=\"0\",peer=\"0\",state=\"{state}\"}}");
    let text = exported(&running);
    assert!(text.contains(&format!("{} 1", series("held"))), "{text}");
    assert!(!text.contains("token") && !text.contains("\"lock\""), "{text}");
    tell(&server, &[vec!["PERSIST", "lock"]]);
    let outcome = until(&mut running, "it has no end", |outcome| *outcome != Outcome::Pass).await;
    fails(
        &outcome,
        Cause::PeerLeaking,
        "`lock` has no TTL: it outlives its owner",
    );
    assert!(exported(&running).contains(&format!("{} 1", series("endless"))));
    // Nothing is known: no series, rather than a zero.
    drop(server);
    until(&mut running, "the server is gone", |outcome| {
        matches!(outcome, Outcome::Unknown { .. })
    })
    .await;
    assert!(!exported(&running).contains("defib_peer_locks{"));
}

#[tokio::test]
async fn locks_of_a_pattern_are_found_among_many_keys_and_counted() {
    if !there() {
        return;
    }
    let server = RedisServer::start();
    let url = server.url();
    let names: Vec<String> = (0..100_000).map(|n| format!("other:{n}")).collect();
    let commands: Vec<Vec<&str>> = names.iter().map(|name| vec!["SET", name, "x"]).collect();
    tell(&server, &commands);
    let long = format!("lock:{}", "y".repeat(300));
    tell(
        &server,
        &[
            vec!["SET", "lock:a", "1", "PX", "600000"],
            vec!["SET", &long, "2", "PX", "600000"],
        ],
    );
    let mut running = run(&url, many("lock:*"), OFTEN);
    // Several looks, each of which costs the server little.
    is_unknown(&running.outcome().await, "still walking through the keys");
    until(&mut running, "all keys were seen", |outcome| {
        *outcome == Outcome::Pass
    })
    .await;
    let held = "defib_peer_locks{check=\"0\",peer=\"0\",state=\"held\"} 2";
    let text = exported(&running);
    assert!(text.contains(held), "{text}");
    // One without an end is found in time, and its name is told in a bounded and harmless way.
    let evil = format!("lock:\r\n\u{1b}[2J{}", "z".repeat(400));
    set(&server, &evil, "3");
    let outcome = until(&mut running, "the endless one is found", |outcome| {
        matches!(outcome, Outcome::Fail { .. })
    })
    .await;
    fails(&outcome, Cause::PeerLeaking, "`lock:???[2Jzzz");
    assert!(format!("{outcome:?}").len() < 300, "{outcome:?}");
    tell(&server, &[vec!["DEL", &evil]]);
    until(&mut running, "it is gone", |outcome| *outcome == Outcome::Pass).await;
    // The server stops in the middle of a walk.
    server.stop();
    let mut stopped = run(
        &url,
        many("lock:*"),
        Schedule {
            timeout: Duration::from_millis(300),
            ..OFTEN
        },
    );
    is_unknown(&stopped.outcome().await, "within");
    server.cont();
    until(&mut stopped, "it goes on", |outcome| *outcome == Outcome::Pass).await;
}

#[tokio::test]
async fn more_locks_than_are_looked_at_are_said_to_be_unknown() {
    if !there() {
        return;
    }
    let server = RedisServer::start();
    let names: Vec<String> = (0..3000).map(|n| format!("lock:{n}")).collect();
    let commands: Vec<Vec<&str>> = names
        .iter()
        .map(|name| vec!["SET", name, "x", "PX", "600000"])
        .collect();
    tell(&server, &commands);
    let mut running = run(&server.url(), many("lock:*"), OFTEN);
    let outcome = until(&mut running, "there are too many", |outcome| {
        matches!(outcome, Outcome::Unknown { detail } if detail.contains("more than 1000 keys match `lock:*`"))
    })
    .await;
    drop(outcome);
    let all = Probe::RedisLock(RedisLock {
        max_keys: 10_000,
        ..lock(Which::Pattern("lock:*".to_owned()))
    });
    let mut running = run(&server.url(), all, OFTEN);
    until(&mut running, "all are looked at", |outcome| {
        *outcome == Outcome::Pass
    })
    .await;
    let text = exported(&running);
    assert!(text.contains("state=\"held\"} 3000"), "{text}");
    // Nothing was written.
    let stats = server.tell("INFO commandstats");
    for line in stats.lines().filter(|line| line.starts_with("cmdstat_")) {
        let reads = [
            "set:",
            "getrange:",
            "pttl:",
            "scan:",
            "hello:",
            "info:",
            "client|setname:",
            "quit:",
        ];
        assert!(reads.iter().any(|command| line.contains(command)), "{line}");
    }
}
