//! Scenario 48: a hostile publisher on the group's channel of a real server, before two real nodes.

use std::collections::HashSet;
use std::io::{BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use defib::engine::peer::Liveness;
use defib::secret::Secret;
use defib::signing::{Keyring, Settings, Signer, Source};
use defib::telemetry::metrics::Metrics;
use rustix::process::Signal;

use crate::support::application::Application;
use crate::support::node::{Events, Node};
use crate::support::redis_server::{RedisServer, there};
use crate::support::until;

const CHANNEL: &str = "defib:it";

fn keys() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/keys")
}

fn config(node: &str, server: &RedisServer, signed: bool, rest: &str) -> String {
    let keys = keys();
    let signing = format!(
        "[signing]\nkey = {{ file = \"{0}/{node}.key\" }}\ntrusted = \"{0}/trusted\"",
        keys.display()
    );
    format!(
        r#"
        node = "{node}"
        group = "it"
        bus = {{ url = "{}", settle = "1s" }}
        heartbeat = {{ interval = "300ms" }}
        budget = {{ spacing = "0s" }}
        {}
        {rest}
        "#,
        server.url(),
        if signed { &signing } else { "" },
    )
}

/// Watches node b, and what that says of its application; whatever it takes for dead it would heal at once.
fn watcher(healed: &Path) -> String {
    let healed = healed.display();
    format!(
        r#"
        [peer.b]
        single_observer = true
        checks.heartbeat = {{ node = "node-b", suspect_after = "5s", dead_after = "8s" }}
        remedies = [{{ do = "exec", command = ["touch", "{healed}"] }}]
        [peer.app]
        single_observer = true
        checks.app = {{ type = "heartbeat", node = "node-b", peer = "app", suspect_after = "5s", dead_after = "8s" }}
        remedies = [{{ do = "exec", command = ["touch", "{healed}"] }}]
        "#
    )
}

/// The application is this test: it lives.
fn watched() -> String {
    format!("[peer.app]\nowner = {{ pid = {} }}\n", std::process::id())
}

/// Someone with access to Redis: hears everything on the channel, and publishes what it likes.
struct Hostile {
    server: TcpStream,
    heard: Arc<Mutex<Vec<Vec<u8>>>>,
    /// What it published: it hears that, too.
    own: Arc<Mutex<HashSet<Vec<u8>>>>,
}

impl Hostile {
    fn at(server: &RedisServer) -> Self {
        let mut subscriber = TcpStream::connect(server.address()).unwrap();
        write!(subscriber, "SUBSCRIBE {CHANNEL}\r\n").unwrap();
        let heard: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
        let own: Arc<Mutex<HashSet<Vec<u8>>>> = Arc::default();
        let (told, published) = (Arc::clone(&heard), Arc::clone(&own));
        // Ends with the server.
        std::thread::spawn(move || {
            let mut reader = BufReader::new(subscriber);
            let mut text = Vec::new();
            let mut byte = [0];
            // Every heartbeat is one line of JSON between lines of the protocol.
            while reader.read_exact(&mut byte).is_ok() {
                match byte[0] {
                    b'\n' => {
                        let line = std::mem::take(&mut text);
                        if line.starts_with(b"{") && !published.lock().unwrap().contains(&line) {
                            told.lock().unwrap().push(line);
                        }
                    }
                    b'\r' => {}
                    byte => text.push(byte),
                }
            }
        });
        Self {
            server: TcpStream::connect(server.address()).unwrap(),
            heard,
            own,
        }
    }

    fn recorded(&self) -> Vec<Vec<u8>> {
        self.heard.lock().unwrap().clone()
    }

    /// The newest of that node, as JSON.
    fn newest(&self, node: &str) -> serde_json::Value {
        let mut found = None;
        until("that node was heard", || {
            let all = self.recorded();
            let mut read = all
                .iter()
                .rev()
                .filter_map(|body| serde_json::from_slice(body).ok());
            found = read.find(|beat: &serde_json::Value| beat["node"] == node && beat["goodbye"].is_null());
            found.is_some()
        });
        found.unwrap()
    }

    fn publish(&mut self, body: &[u8]) {
        self.own.lock().unwrap().insert(body.to_vec());
        let (server, len) = (&mut self.server, body.len());
        let head = format!("*3\r\n$7\r\nPUBLISH\r\n$8\r\n{CHANNEL}\r\n${len}\r\n");
        // In one piece: in three, each would wait 40 ms for the acknowledgement of the one before.
        let request = [head.as_bytes(), body, b"\r\n"].concat();
        server.write_all(&request).unwrap();
        // The answer: a number on a line of its own.
        let mut byte = [0];
        while byte[0] != b'\n' {
            server.read_exact(&mut byte).unwrap();
        }
    }

    /// What b never said, each as b would write it: that it leaves, that its application is dead, that it runs anew, and
    /// that it is node a.
    fn lies(&self) -> Vec<Vec<u8>> {
        let genuine = self.newest("node-b");
        let lie = |change: &dyn Fn(&mut serde_json::Value)| {
            let mut lie = genuine.clone();
            for field in ["key", "n", "sent_ms", "sig"] {
                lie.as_object_mut().unwrap().remove(field);
            }
            lie["slot"] = (lie["slot"].as_u64().unwrap() + 1).into();
            change(&mut lie);
            lie.to_string().into_bytes()
        };
        vec![
            lie(&|lie| lie["goodbye"] = true.into()),
            lie(&|lie| lie["peers"] = serde_json::json!([{ "name": "app", "liveness": "dead" }])),
            lie(&|lie| lie["boot"] = "evil".into()),
            lie(&|lie| lie["node"] = "node-a".into()),
        ]
    }
}

/// A trusted node's key, and one that nobody trusts, in the forger's hands.
fn signer(of: &str) -> Signer {
    let metrics = Metrics::new().unwrap();
    let settings = Settings {
        source: Source::Own {
            key: Secret::File(keys().join(format!("{of}.key"))),
            trusted: keys().join("trusted"),
        },
        window: std::time::Duration::from_secs(60),
        require: true,
        heard: PathBuf::new(),
    };
    let ring = Keyring::new(&settings, of.into(), metrics.signing.clone());
    assert_eq!(ring.read(), Vec::<String>::new());
    Signer::new(Arc::new(ring), "it".into())
}

fn wall_ms() -> u64 {
    u64::try_from(defib::runtime::clock::stamp(None).wall.as_millis()).unwrap()
}

fn refused(node: &Node, reason: &str) -> i64 {
    node.count(&format!("defib_signing_refused_total{{reason=\"{reason}\"}}"))
}

/// Whom node a knows, by their lives.
fn lives(node: &Node) -> Vec<(String, Liveness, Option<String>)> {
    let peers = node.snapshot().peers;
    let life = |peer: &defib::engine::snapshot::PeerView| peer.incarnation.as_ref().map(ToString::to_string);
    peers
        .iter()
        .map(|peer| (peer.name.to_string(), peer.liveness, life(peer)))
        .collect()
}

fn says_nothing_new(events: &Events) {
    events.blame_nobody();
    for event in ["goodbye", "incarnation", "duplicate_node", "bus"] {
        assert_eq!(events.named(event), Vec::<serde_json::Value>::new());
    }
}

#[test]
fn s48_with_signing_no_forged_message_changes_anything() {
    if !there() {
        return;
    }
    let server = RedisServer::start();
    let dir = tempfile::tempdir().unwrap();
    let healed = dir.path().join("healed");
    let mut b = Node::run(&config("node-b", &server, true, &watched()));
    let a = Node::run(&config("node-a", &server, true, &watcher(&healed)));
    let mut hostile = Hostile::at(&server);
    a.is_calm();
    let (events, before) = (a.events(), lives(&a));

    let (trusted, stranger) = (signer("node-c"), signer("stranger"));
    for _ in 0..10 {
        for lie in hostile.lies() {
            hostile.publish(&lie);
            hostile.publish(&trusted.sign(CHANNEL, lie.clone(), wall_ms()).unwrap());
            hostile.publish(&stranger.sign(CHANNEL, lie, wall_ms()).unwrap());
        }
        for recorded in hostile.recorded() {
            hostile.publish(&recorded);
        }
        let mut changed = hostile.newest("node-b");
        changed["n"] = (changed["n"].as_u64().unwrap() + 1_000).into();
        // The order of the fields is not kept by this writer: what it makes of a signed message is none.
        hostile.publish(changed.to_string().as_bytes());
        let newest = hostile.recorded().pop().unwrap();
        let text = String::from_utf8(newest).unwrap();
        let (begin, rest) = text.split_once(r#","n":"#).unwrap();
        let (_, end) = rest.split_once(',').unwrap();
        hostile.publish(format!("{begin},\"n\":999999,{end}").as_bytes());
        let heard = a.count("defib_signing_verified_total");
        until("the nodes went on", || {
            a.count("defib_signing_verified_total") > heard + 2
        });
    }
    assert_eq!(lives(&a), before);
    says_nothing_new(&events);
    for reason in [
        "unsigned",
        "wrong_identity",
        "unknown_key",
        "replayed",
        "bad_signature",
    ] {
        assert!(refused(&a, reason) >= 10, "{reason}: {}", refused(&a, reason));
    }

    // Another run of b, and the recording of the one before: b stays who it is.
    let old = hostile.recorded();
    b.signal(Signal::TERM);
    assert_eq!(b.exit_code(), Some(0));
    events.of("b", "goodbye");
    b.start_again();
    a.is_calm();
    let (before, events) = (lives(&a), a.events());
    for recorded in old {
        hostile.publish(&recorded);
    }
    let heard = a.count("defib_signing_verified_total");
    until("the nodes went on", || {
        a.count("defib_signing_verified_total") > heard + 6
    });
    assert_eq!(lives(&a), before);
    says_nothing_new(&events);
    assert!(!healed.exists());

    // And one that is dead is not kept alive by what it said while it lived.
    b.signal(Signal::KILL);
    let all = hostile.recorded();
    // (Not all: it is lies that are tested here, and not a flood.)
    let last_words = &all[all.len() - 20..];
    until("b is healed", || {
        for recorded in last_words {
            hostile.publish(recorded);
        }
        let heard = hostile.recorded().len();
        until("node a has spoken", || hostile.recorded().len() > heard);
        healed.exists()
    });
    assert_eq!(a.peer("b").liveness, Liveness::Dead);
}

#[test]
fn s48_keys_that_are_exchanged_are_followed_without_a_restart() {
    if !there() {
        return;
    }
    let server = RedisServer::start();
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let put = |text: &str| {
        std::fs::write(path("new"), text).unwrap();
        std::fs::rename(path("new"), path("group.key")).unwrap();
    };
    let (old, new) = ("o".repeat(40), "n".repeat(40));
    put(&old);
    let signing = format!(
        "signing = {{ shared = {{ file = \"{}\" }} }}",
        path("group.key").display()
    );
    let configured = |node: &str, rest: &str| config(node, &server, false, &format!("{signing}\n{rest}"));
    let _b = Node::run(&configured("node-b", &watched()));
    let a = Node::run(&configured("node-a", &watcher(&path("healed"))));
    let hostile = Hostile::at(&server);
    a.is_calm();
    let (events, before) = (a.events(), lives(&a));
    let signs_with = |node: &str| hostile.newest(node)["key"].clone();
    let first = signs_with("node-b");

    put("too short");
    a.logs("less than 32 bytes");
    put(&format!("{old}\n{new}"));
    until("both know both", || a.count("defib_signing_keys") == 2);
    a.logs("were read again");
    put(&format!("{new}\n{old}"));
    until("both sign with the new one", || {
        let (now, ours) = (signs_with("node-b"), signs_with("node-a"));
        now != first && now == ours
    });
    assert_eq!(lives(&a), before);
    says_nothing_new(&events);
}

#[test]
fn s48_who_has_no_key_to_sign_with_says_so_and_judges_nobody() {
    if !there() {
        return;
    }
    let server = RedisServer::start();
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("group.key");
    let signing = format!("signing = {{ shared = {{ file = \"{}\" }} }}", key.display());
    let rest = format!("{signing}\n{}", watcher(&dir.path().join("healed")));
    let a = Node::run(&config("node-a", &server, false, &rest));
    until("it says that it cannot sign", || {
        a.get("/readyz?verbose")
            .1
            .contains("no key to sign heartbeats with")
    });
    assert_eq!(a.code("/livez"), 200);
    assert_eq!(a.peer("b").liveness, Liveness::Unknown);
    std::fs::write(&key, "k".repeat(32)).unwrap();
    a.sees("it hears itself", |snapshot| {
        snapshot.trust.bus == defib::engine::self_trust::BusState::Trusted
    });
}

#[test]
fn s48_without_signing_forged_life_delays_and_no_local_peer_is_touched() {
    if !there() {
        return;
    }
    let server = RedisServer::start();
    let dir = tempfile::tempdir().unwrap();
    let (healed, touched) = (dir.path().join("healed"), dir.path().join("touched"));
    let local = format!(
        "[peer.local]\nowner = {{ pid = {} }}\nremedies = [{{ do = \"exec\", command = [\"touch\", \"{}\"] }}]",
        std::process::id(),
        touched.display()
    );
    let b = Node::run(&config("node-b", &server, false, &watched()));
    let a = Node::run(&config(
        "node-a",
        &server,
        false,
        &format!("{}\n{local}", watcher(&healed)),
    ));
    let mut hostile = Hostile::at(&server);
    a.is_calm();
    let mut life = hostile.newest("node-b");
    b.signal(Signal::KILL);

    // At 300 ms each: longer than `dead_after`.
    for _ in 0..40 {
        let heard = a.count("defib_bus_heartbeats_total");
        life["slot"] = (life["slot"].as_u64().unwrap() + 1).into();
        hostile.publish(life.to_string().as_bytes());
        // That one, and the node's own.
        until("an interval went by", || {
            a.count("defib_bus_heartbeats_total") > heard + 1
        });
    }
    assert!(
        !healed.exists(),
        "b is dead and seems to live for as long as somebody says so"
    );
    until("b is healed once nobody does", || healed.exists());
    assert_eq!(a.peer("local").liveness, Liveness::Alive);
    assert!(!touched.exists());
}

/// What a node that there is not would write: it hears everybody but b.
fn ballot(voter: &str, slot: u64, about: &str) -> Vec<u8> {
    let beat = serde_json::json!({
        "v": 1,
        "node": voter,
        "group": "it",
        "boot": format!("boot-of-{voter}"),
        "slot": slot,
        "late_ms": 0,
        "uptime_s": slot,
        "wall_ts": 1_770_000_000.1,
        "interval_ms": 300,
        "hears": ["node-a"],
        "votes": [
            { "about": "node:node-b", "liveness": "suspect", "incarnation": about, "silent_ms": 1500 },
        ],
    });
    beat.to_string().into_bytes()
}

/// Votes of two that there are not: nothing as long as b is heard, whether it is signed or not; and once it is silent, they
/// condemn it before its time only where nothing is signed.
#[test]
fn s48_forged_votes_condemn_nobody_who_is_heard_and_where_signed_not_even_who_is_silent() {
    if !there() {
        return;
    }
    for signed in [true, false] {
        let server = RedisServer::start();
        let dir = tempfile::tempdir().unwrap();
        let healed = dir.path().join("healed");
        let peer = format!(
            r#"
            [quorum]
            lifetime = "10s"
            [peer.b]
            checks.heartbeat = {{ node = "node-b", suspect_after = "2s", dead_after = "1h" }}
            remedies = [{{ do = "exec", command = ["touch", "{}"] }}]
            "#,
            healed.display()
        );
        let mut b = Node::run(&config("node-b", &server, signed, ""));
        let a = Node::run(&config("node-a", &server, signed, &peer));
        let mut hostile = Hostile::at(&server);
        a.is_calm();
        let events = a.events();
        let life = a.peer("b").incarnation.unwrap().to_string();
        let mut slot = 0;
        let mut vote = || {
            slot += 1;
            for voter in ["x1", "x2"] {
                hostile.publish(&ballot(voter, slot, &life));
            }
            let heard = hostile.recorded().len();
            until("somebody real has spoken", || hostile.recorded().len() > heard);
        };
        (0..20).for_each(|_| vote());
        assert_eq!(a.peer("b").liveness, Liveness::Alive, "signed: {signed}");
        events.blame_nobody();

        b.signal(Signal::KILL);
        b.exit_code();
        a.sees("it is silent", |_| {
            vote();
            a.peer("b").liveness != Liveness::Alive
        });
        if signed {
            (0..20).for_each(|_| vote());
            assert_eq!(a.peer("b").liveness, Liveness::Suspect);
            assert!(!healed.exists() && refused(&a, "unsigned") >= 80);
        } else {
            until("it is believed, which is what signing is for", || {
                vote();
                healed.exists()
            });
        }
    }
}

/// Whoever has the group's key is the group: what a check or a remedy runs must not get it.
#[test]
fn a_key_in_a_variable_is_not_handed_to_commands() {
    if !there() {
        return;
    }
    let server = RedisServer::start();
    let dir = tempfile::tempdir().unwrap();
    let seen = dir.path().join("seen");
    let rest = format!(
        r#"
        [signing]
        shared = {{ env = "GROUP_KEY" }}
        [peer.app]
        owner = {{ pid = {} }}
        checks.look = {{ type = "exec", command = ["sh", "-c", "env >{1}.new && mv {1}.new {1}"], interval = "300ms" }}
        "#,
        std::process::id(),
        seen.display()
    );
    let key = "GROUP_KEY=0123456789abcdef0123456789abcdef";
    let node = Node::run_with(
        &["env", key, "OF_NOBODY=x"],
        &config("node-a", &server, false, &rest),
    );
    node.is_calm();
    until("the check ran", || seen.exists());
    let environment = std::fs::read_to_string(seen).unwrap();
    assert!(environment.contains("OF_NOBODY=x"), "{environment}");
    assert!(!environment.contains("GROUP_KEY"), "{environment}");
    assert_eq!(
        node.count("defib_signing_refused_total{reason=\"bad_signature\"}"),
        0
    );
}

/// What it writes under the keys of the group's leave holds nobody back.
#[test]
fn s48_a_forged_lease_mark_and_budget_keep_nothing_down_where_the_group_signs() {
    if !there() {
        return;
    }
    let server = RedisServer::start();
    let application = Application::start(&["sh", "-c", "while :; do sleep 600 & wait; done"]);
    let rest = format!(
        r#"
        [peer.app]
        owner = {}
        grace = "1s"
        backoff = {{ initial = "200ms" }}
        checks.process = {{ interval = "200ms", fail_after = "2 of 2" }}
        remedies = [{{ do = "exec", command = {}, timeout = "1s", verify_within = "5s" }}]
        "#,
        application.owner(),
        application.restart()
    );
    let node = Node::run(&config("node-a", &server, true, &rest));
    node.is_calm();
    let events = node.events();
    application.kill();
    events.of("app", "recovered");
    let keys = server.tell("KEYS defib:{it}:fleet:budget:*");
    let name = keys
        .lines()
        .find_map(|line| line.split_once("budget:"))
        .unwrap()
        .1;

    let ends = wall_ms() + 600_000;
    let words = format!(
        r#"{{\"node\":\"node-b\",\"boot\":\"b\",\"number\":1,\"peer\":\"{name}\",\"incarnation\":\"x\",\"rung\":0,\"kept\":false,\"from\":{ends},\"lasting\":600000,\"window\":600000,\"spacing\":600000}}"#
    );
    for n in 0..9 {
        server.tell(&format!(
            "HSET defib:{{it}}:fleet:budget:{name} b.{n} \"{ends} 7 b.{n} {words}\""
        ));
    }
    server.tell(&format!(
        "HSET defib:{{it}}:fleet:down {name} \"{ends} 7 b.1 {words}\""
    ));
    server.tell(&format!("SET defib:{{it}}:fleet:next \"{ends} 7 b.1 {words}\""));
    application.kill();
    until("it is restarted", || application.starts() == 3);
    assert!(node.count("defib_fleet_disbelieved_total") >= 9);
    node.logs("were written by no node of this group");
}
