//! Two nodes race for one lease on one server, while everything is stopped now and then: never do both say at one time
//! that it is certainly held, and the fencing tokens only grow.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use defib::engine::time::{Clock, Time};
use defib::runtime::clock::SleeplessClock;
use rustix::process::Signal;
use serde_json::{Value, json};

use super::{config, put, release};
use crate::support::node::Node;
use crate::support::redis_server::{RedisServer, there};

/// A time in which somebody was told that it is held.
#[derive(Debug)]
struct Window {
    from: Time,
    until: Time,
    fencing_token: u64,
}

/// What the competitors share.
struct Race {
    clock: SleeplessClock,
    rounds: AtomicU64,
    over: AtomicBool,
    windows: Mutex<Vec<Window>>,
}

/// Takes it, holds it for a while, and sometimes forgets to give it back.
fn compete(node: &Node, who: usize, race: &Race) {
    let clock = race.clock;
    let mut turn = who;
    while !race.over.load(Ordering::Relaxed) {
        turn += 1;
        let token = format!("{who}-{turn}");
        let sent = clock.now();
        let (status, answer) = put(node, "app:a", &json!({ "token": token, "ttl": "1s" }));
        let from = clock.now();
        if status != 200 {
            std::thread::sleep(Duration::from_millis(20));
            continue;
        }
        // As its holder must count: from before it asked.
        let held = |answer: &Value| Duration::from_millis(answer["held_for_ms"].as_u64().unwrap());
        let mut until = sent + held(&answer);
        std::thread::sleep(Duration::from_millis(30 * u64::try_from(turn % 5).unwrap()));
        if turn.is_multiple_of(3) {
            let sent = clock.now();
            let again = json!({ "token": token, "ttl": "1s", "renew": true });
            let (status, answer) = put(node, "app:a", &again);
            if status == 200 {
                until = until.max(sent + held(&answer));
            }
        }
        if !turn.is_multiple_of(4) {
            until = until.min(clock.now());
            release(node, "app:a", &token);
        }
        let fencing_token = answer["fencing_token"].as_u64().unwrap();
        if until > from {
            race.windows.lock().unwrap().push(Window {
                from,
                until,
                fencing_token,
            });
        }
        race.rounds.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn two_nodes_never_both_hold_it() {
    if !there() {
        return;
    }
    let server = RedisServer::start();
    let nodes = ["a", "b"].map(|name| {
        let text = config(&server.url(), "").replace("node = \"a\"", &format!("node = \"{name}\""));
        Node::run(&text)
    });
    let race = Race {
        clock: SleeplessClock::start(),
        rounds: AtomicU64::new(0),
        over: AtomicBool::new(false),
        windows: Mutex::default(),
    };
    std::thread::scope(|scope| {
        for who in 0..4 {
            let (node, race) = (&nodes[who % 2], &race);
            scope.spawn(move || compete(node, who * 10_000, race));
        }
        // Longer than the lease, and shorter.
        for (turn, stopped) in [300, 1300, 100, 1100, 700, 1500].into_iter().enumerate() {
            let goal = race.rounds.load(Ordering::Relaxed) + 3;
            while race.rounds.load(Ordering::Relaxed) < goal {
                std::thread::sleep(Duration::from_millis(5));
            }
            let pause = Duration::from_millis(stopped);
            match turn % 3 {
                0 => nodes[0].signal(Signal::STOP),
                1 => server.stop(),
                _ => nodes[1].signal(Signal::STOP),
            }
            std::thread::sleep(pause);
            nodes.iter().for_each(|node| node.signal(Signal::CONT));
            server.cont();
        }
        race.over.store(true, Ordering::Relaxed);
    });
    let mut windows = race.windows.into_inner().unwrap();
    assert!(windows.len() > 10, "{}", windows.len());
    windows.sort_by_key(|window| window.from);
    for pair in windows.windows(2) {
        assert!(pair[0].until <= pair[1].from, "both had it: {pair:#?}");
        assert!(
            pair[0].fencing_token < pair[1].fencing_token,
            "the token went back: {pair:#?}"
        );
    }
}
