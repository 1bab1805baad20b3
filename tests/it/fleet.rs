//! What guards ask of the outside, with a real redis-server and real answers over HTTP: several nodes' edges, without
//! their engines.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use defib::engine::event::{Event, Incarnation, PeerId};
use defib::engine::outside::{BlockersAnswer, Errand, InTheWay, LeaseAnswer, Mark, Reservation, Settlement};
use defib::engine::settings::{Budget, GroupBudget};
use defib::engine::time::Clock;
use defib::fleet::{Asks, Blocker, ERRANDS, Fleet, Group, Seal, Settings, Surroundings};
use defib::redis_client::{Endpoint, Redis, Server};
use defib::runtime::clock::MonotonicClock;
use defib::secret::Secret;
use defib::signing::{self, Keyring, Own, Signer, Source, Verifier};
use defib::telemetry::metrics::Metrics;
use futures_util::future::join_all;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::support::application::Site;
use crate::support::redis_server::{RedisServer, there};

const BOUND: Duration = Duration::from_secs(60);
const S: Duration = Duration::from_secs(1);

/// The edge of one node, and its clock.
struct Desk {
    errands: mpsc::Sender<Errand>,
    told: mpsc::Receiver<Event>,
    clock: Arc<MonotonicClock>,
    run: Arc<str>,
    number: AtomicU64,
    metrics: Metrics,
    _task: AbortOnDropHandle<anyhow::Result<()>>,
}

impl Desk {
    fn new(server: &RedisServer, node: &str) -> Self {
        Self::with(&server.url(), node, |_| ())
    }

    fn with(url: &str, node: &str, change: impl FnOnce(&mut Settings)) -> Self {
        Self::sealed(url, node, None, change)
    }

    fn sealed(url: &str, node: &str, seal: Option<Seal>, change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = Settings {
            group: Group::Redis,
            ..Settings::default()
        };
        change(&mut settings);
        let (errands, taken) = mpsc::channel(ERRANDS);
        let (events, told) = mpsc::channel(ERRANDS);
        let clock = Arc::new(MonotonicClock::start());
        let metrics = Metrics::new().unwrap();
        let around = Surroundings {
            names: (node.into(), "g".into()),
            redis: Server::new(
                Arc::new(Redis::new(Endpoint::parse(url).unwrap())),
                &Arc::from(node),
            ),
            seal,
            clock: clock.clone(),
            events,
            metrics: metrics.fleet.clone(),
        };
        let (_, blockers) = watch::channel(Arc::from(settings.blockers.clone()));
        let fleet = Fleet::new(&settings, blockers, around);
        Self {
            errands,
            told,
            clock,
            run: format!("boot-{node}").into(),
            number: AtomicU64::new(0),
            metrics,
            _task: AbortOnDropHandle::new(tokio::spawn(fleet.run(taken, CancellationToken::new()))),
        }
    }

    /// Settlements that were tried and not answered.
    fn unsettled(&self) -> f64 {
        let families = self.metrics.registry.gather();
        let mut families = families.iter();
        let calls = families.find(|family| family.name() == "defib_fleet_calls_total");
        let is_meant = |metric: &&prometheus::proto::Metric| {
            let mut values = metric.get_label().iter().map(prometheus::proto::LabelPair::value);
            values.any(|value| value == "settle")
                && metric.get_label().iter().any(|pair| pair.value() == "unknown")
        };
        let metric = calls.unwrap().get_metric().iter().find(is_meant);
        metric.unwrap().get_counter().get_value()
    }

    /// `app` in this life, with no spacing and three restarts in ten minutes.
    fn asks(&self, life: &str) -> Reservation {
        Reservation {
            run: Arc::clone(&self.run),
            number: self.number.fetch_add(1, Ordering::Relaxed) + 1,
            asked: self.clock.now(),
            peer: PeerId(0),
            name: "app".into(),
            known_as: "app".into(),
            incarnation: Incarnation(life.into()),
            rung: 0,
            does: "exec".into(),
            lasting: 60 * S,
            budget: Budget::default(),
            group: GroupBudget {
                spacing: Duration::ZERO,
                down_percent: 5,
            },
            peers: 1,
            only_look: false,
        }
    }

    async fn says(&mut self, errand: Errand) -> Event {
        self.errands.send(errand).await.unwrap();
        tokio::time::timeout(BOUND, self.told.recv())
            .await
            .unwrap()
            .unwrap()
    }

    async fn reserve(&mut self, reservation: &Reservation) -> LeaseAnswer {
        let reservation = Reservation {
            asked: self.clock.now(),
            ..reservation.clone()
        };
        match self.says(Errand::Reserve(Arc::new(reservation))).await {
            Event::Lease { answer, .. } => answer,
            other => panic!("{other:?}"),
        }
    }

    async fn takes(&mut self, life: &str) -> Reservation {
        let reservation = self.asks(life);
        let answer = self.reserve(&reservation).await;
        assert!(matches!(answer, LeaseAnswer::Granted { .. }), "{answer:?}");
        reservation
    }

    /// Told, and done: the edge does one thing after the other.
    async fn settle(&mut self, reservation: &Reservation, mark: Mark, refund: bool, over: bool) {
        let settlement = Settlement {
            reservation: Arc::new(reservation.clone()),
            mark,
            refund,
            over,
        };
        self.errands.send(Errand::Settle(settlement)).await.unwrap();
        let look = Reservation {
            known_as: "nobody".into(),
            only_look: true,
            ..self.asks("x")
        };
        self.reserve(&look).await;
    }
}

fn why(answer: &LeaseAnswer) -> &str {
    match answer {
        LeaseAnswer::Granted { .. } => "granted",
        LeaseAnswer::Refused { why, .. }
        | LeaseAnswer::Done { why, .. }
        | LeaseAnswer::Unavailable { why, .. } => why,
    }
}

/// By the server's clock, in ms.
fn in_a_minute(server: &RedisServer) -> u64 {
    let told = server.tell("TIME");
    let mut numbers = told.lines().filter_map(|line| line.parse::<u64>().ok());
    let seconds = numbers.find(|number| *number > 1_000_000_000).unwrap();
    (seconds + 60) * 1000
}

fn token(answer: &LeaseAnswer) -> u64 {
    match answer {
        LeaseAnswer::Granted { token } => *token,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn s33_one_of_many_nodes_that_ask_together_gets_leave_and_the_rest_hear_who() {
    if !there() {
        return;
    }
    let server = RedisServer::start();
    let mut desks: Vec<Desk> = (0..16).map(|n| Desk::new(&server, &format!("n{n}"))).collect();
    let mut last = 0;
    for life in 0..3 {
        let life = format!("life {life}");
        let answers = join_all(desks.iter_mut().map(|desk| {
            let reservation = desk.asks(&life);
            async move { (desk.reserve(&reservation).await, reservation) }
        }))
        .await;
        let winners: Vec<usize> = (0..16)
            .filter(|n| matches!(answers[*n].0, LeaseAnswer::Granted { .. }))
            .collect();
        let [winner] = winners.as_slice() else {
            panic!("{answers:?}")
        };
        assert!(token(&answers[*winner].0) > last, "the fencing token grows");
        last = token(&answers[*winner].0);
        for (n, (answer, _)) in answers.iter().enumerate().filter(|(n, _)| n != winner) {
            let by = matches!(answer, LeaseAnswer::Refused { by: InTheWay::Healing, after: Some(after), .. } if *after <= 60 * S);
            assert!(by, "n{n}: {answer:?}");
            assert_eq!(why(answer), format!("node n{winner} is healing it"));
        }
        // Carried out and let go, and not proven: nobody does the same to the same life again.
        let reservation = answers[*winner].1.clone();
        desks[*winner].settle(&reservation, Mark::Keep, false, true).await;
        let other = (winner + 1) % 16;
        let again = desks[other].asks(&life);
        let answer = desks[other].reserve(&again).await;
        assert!(
            matches!(&answer, LeaseAnswer::Done { after: Some(after), .. } if *after > 86_000 * S),
            "{answer:?}"
        );
        assert_eq!(
            why(&answer),
            format!("node n{winner} has carried this out on this life already")
        );
        // Another rung is another matter.
        let next = Reservation {
            rung: 1,
            does: "exec#2".into(),
            only_look: true,
            ..desks[other].asks(&life)
        };
        let answer = desks[other].reserve(&next).await;
        let left = life != "life 2";
        assert_eq!(matches!(answer, LeaseAnswer::Granted { .. }), left, "{answer:?}");
    }
    // Three restarts in ten minutes are the group's, whoever asks.
    for desk in &mut desks {
        let reservation = desk.asks("life 3");
        let answer = desk.reserve(&reservation).await;
        let spent = matches!(answer, LeaseAnswer::Refused { by: InTheWay::Spent, after: Some(after), .. } if after <= 600 * S && after > 500 * S);
        assert!(spent, "{answer:?}");
    }
}

#[tokio::test]
async fn what_was_taken_and_never_heard_of_is_known_again_and_what_was_given_back_is_not_taken_late() {
    if !there() {
        return;
    }
    let server = RedisServer::start();
    let (mut a, mut b) = (Desk::new(&server, "a"), Desk::new(&server, "b"));
    // Asked twice (the first answer was lost): one lease, one charge.
    let reservation = a.asks("life 0");
    let first = a.reserve(&reservation).await;
    let again = a.reserve(&reservation).await;
    assert_eq!(token(&first), token(&again));
    assert_eq!(
        server.tell("HLEN defib:{g}:fleet:budget:app").lines().next(),
        Some(":1")
    );
    a.settle(&reservation, Mark::Clear, true, true).await;
    assert_eq!(
        server.tell("HLEN defib:{g}:fleet:budget:app").lines().next(),
        Some(":0")
    );

    // The server is stopped, and runs what it was sent once it goes on.
    let late = a.asks("life 0");
    server.stop();
    let answer = a.reserve(&late).await;
    assert!(
        matches!(answer, LeaseAnswer::Unavailable { away: true, .. }),
        "{answer:?}"
    );
    server.cont();
    // (What an engine says when it does not know.) It may come before the request, or after it.
    a.settle(&late, Mark::Clear, true, true).await;
    let answer = a.reserve(&late).await;
    assert_eq!(why(&answer), "it was given back before it was taken");
    let taken = b.takes("life 0").await;

    // Whatever is told of leave that is another's changes nothing of it.
    a.settle(&late, Mark::Clear, true, true).await;
    a.settle(&late, Mark::Keep, false, true).await;
    let answer = a.reserve(&Reservation { number: 99, ..late }).await;
    assert_eq!(why(&answer), "node b is healing it");
    b.settle(&taken, Mark::Clear, false, true).await;
    a.takes("life 0").await;
}

#[tokio::test]
async fn s14_restarts_of_the_group_keep_their_distance_and_few_are_down_at_once() {
    if !there() {
        return;
    }
    let server = RedisServer::start();
    let mut desks = [Desk::new(&server, "a"), Desk::new(&server, "b")];
    let spaced = GroupBudget {
        spacing: 5 * S,
        down_percent: 5,
    };
    let first = Reservation {
        group: spaced,
        ..desks[0].asks("1")
    };
    assert!(matches!(
        desks[0].reserve(&first).await,
        LeaseAnswer::Granted { .. }
    ));
    let second = Reservation {
        known_as: "other".into(),
        group: spaced,
        ..desks[1].asks("1")
    };
    let answer = desks[1].reserve(&second).await;
    let LeaseAnswer::Refused {
        by: InTheWay::Others,
        after: Some(after),
        ..
    } = answer
    else {
        panic!("{answer:?}")
    };
    assert_eq!(why(&answer), "a peer of the group was restarted a moment ago");
    assert!(after <= spaced.spacing);
    // As if its time were over.
    server.tell("DEL defib:{g}:fleet:next");
    let answer = desks[1].reserve(&second).await;
    assert_eq!(why(&answer), "other peers of the group are down by our hand");
    desks[0].settle(&first, Mark::Keep, false, true).await;
    assert!(matches!(
        desks[1].reserve(&second).await,
        LeaseAnswer::Granted { .. }
    ));
    desks[1].settle(&second, Mark::Keep, false, true).await;

    server.tell("DEL defib:{g}:fleet:next");

    // 5 % of forty that this node knows of are two.
    let mut down = Vec::new();
    for n in 0..40 {
        let desk = &mut desks[n % 2];
        let reservation = Reservation {
            known_as: format!("pod-{n}").into(),
            peers: 40,
            ..desk.asks("1")
        };
        if matches!(desk.reserve(&reservation).await, LeaseAnswer::Granted { .. }) {
            down.push(n);
        }
    }
    assert_eq!(down, [0, 1]);
}

#[tokio::test]
async fn everything_that_is_written_has_an_end_and_a_place_and_a_look_writes_nothing() {
    if !there() {
        return;
    }
    let server = RedisServer::start();
    let mut desk = Desk::new(&server, "a");
    let look = Reservation {
        only_look: true,
        ..desk.asks("life")
    };
    assert_eq!(desk.reserve(&look).await, LeaseAnswer::Granted { token: 0 });
    assert_eq!(server.tell("DBSIZE").lines().next(), Some(":0"));

    let spaced = GroupBudget {
        spacing: 5 * S,
        down_percent: 5,
    };
    let kept = Reservation {
        group: spaced,
        ..desk.asks("life")
    };
    desk.reserve(&kept).await;
    desk.settle(&kept, Mark::Keep, false, false).await;
    let back = Reservation {
        known_as: "other".into(),
        group: GroupBudget {
            spacing: Duration::ZERO,
            down_percent: 100,
        },
        peers: 9,
        ..desk.asks("life")
    };
    desk.reserve(&back).await;
    desk.settle(&back, Mark::Clear, true, true).await;
    let keys: Vec<String> = server
        .tell("KEYS *")
        .lines()
        .filter(|line| line.starts_with("defib"))
        .map(str::to_owned)
        .collect();
    assert!(keys.len() >= 7, "{keys:?}");
    for key in keys {
        assert!(key.starts_with("defib:{g}:fleet:"), "{key}");
        let ttl = server.tell(&format!("PTTL {key}"));
        let left: i64 = ttl
            .lines()
            .next()
            .unwrap()
            .trim_start_matches(':')
            .parse()
            .unwrap();
        assert!(left > 0 && left <= 86_400_000, "{key}: {left}");
    }
}

#[tokio::test]
async fn a_redis_that_forgets_gives_leave_again_and_no_more_than_that() {
    if !there() {
        return;
    }
    let server = RedisServer::start();
    let (mut a, mut b) = (Desk::new(&server, "a"), Desk::new(&server, "b"));
    let taken = a.takes("life 0").await;
    let asked = b.asks("life 0");
    assert_eq!(why(&b.reserve(&asked).await), "node a is healing it");
    let before = token(&a.reserve(&taken).await);
    server.tell("FLUSHALL");
    let again = b.asks("life 0");
    assert!(
        token(&b.reserve(&again).await) > before,
        "by the server's clock, if by nothing else"
    );
    // What the first tells of its own leave, of which the server knows nothing, changes nothing of the second's.
    a.settle(&taken, Mark::Clear, true, true).await;
    let asked = a.asks("life 0");
    assert_eq!(why(&a.reserve(&asked).await), "node b is healing it");
}

#[tokio::test]
async fn peers_that_are_called_alike_are_one_and_no_others() {
    if !there() {
        return;
    }
    let server = RedisServer::start();
    let (mut a, mut b) = (Desk::new(&server, "a"), Desk::new(&server, "b"));
    let wide = |desk: &Desk, known_as: &str| Reservation {
        known_as: known_as.into(),
        group: GroupBudget {
            spacing: Duration::ZERO,
            down_percent: 100,
        },
        peers: 2,
        ..desk.asks("life")
    };
    let (of_a, of_b) = (wide(&a, "host:0a/app"), wide(&b, "host:0b/app"));
    assert!(matches!(a.reserve(&of_a).await, LeaseAnswer::Granted { .. }));
    assert!(matches!(b.reserve(&of_b).await, LeaseAnswer::Granted { .. }));
    let far = |desk: &Desk| Reservation {
        peers: 9,
        ..wide(desk, "far")
    };
    let (of_a, of_b) = (far(&a), far(&b));
    assert!(matches!(a.reserve(&of_a).await, LeaseAnswer::Granted { .. }));
    assert_eq!(why(&b.reserve(&of_b).await), "node a is healing it");
}

#[tokio::test]
async fn what_others_wrote_under_our_keys_crashes_nothing_and_is_named() {
    if !there() {
        return;
    }
    let server = RedisServer::start();
    let mut desk = Desk::new(&server, "a");
    for key in ["token", "next", "down", "known", "budget:app", "done:app"] {
        let key = format!("defib:{{g}}:fleet:{key}");
        server.tell(&format!("LPUSH {key} x"));
        let reservation = desk.asks("life");
        let answer = desk.reserve(&reservation).await;
        assert!(
            matches!(answer, LeaseAnswer::Unavailable { away: false, .. }),
            "{key}: {answer:?}"
        );
        assert!(
            why(&answer).contains("has a key of another kind under defib:{g}:fleet:: delete it"),
            "{answer:?}"
        );
        server.tell("FLUSHALL");
    }
    // Of the right kind, and nonsense: it counts for nothing.
    let prefix = "defib:{g}:fleet:";
    server.tell(&format!("SET {prefix}next \"soon or never\""));
    server.tell(&format!(
        "HSET {prefix}down other \"99999999999999999999999999 1 x.1 {{\" app 99999999999999"
    ));
    server.tell(&format!("HSET {prefix}budget:app a b c d e f"));
    server.tell(&format!("HSET {prefix}done:app \"exec life\" never"));
    server.tell(&format!("ZADD {prefix}known inf x nan2 y"));
    let reservation = Reservation {
        peers: 100,
        ..desk.asks("life")
    };
    let answer = desk.reserve(&reservation).await;
    assert!(matches!(answer, LeaseAnswer::Granted { .. }), "{answer:?}");
    server.tell("FLUSHALL");
    // What is no token of defib's is named, and nothing is counted on from it.
    for token in [
        "9000000000000000",
        "9007199254740991",
        "18446744073709551615",
        "18446744073709551616",
        "nan",
        "inf",
        "-1",
        "0x1p9",
        "1e300",
        "soon",
        "\"\"",
    ] {
        server.tell(&format!("SET {prefix}token {token}"));
        let reservation = desk.asks("life");
        let answer = desk.reserve(&reservation).await;
        assert!(
            matches!(answer, LeaseAnswer::Unavailable { away: false, .. }),
            "{token}: {answer:?}"
        );
        assert!(
            why(&answer).contains("token holds no fencing token of defib's: delete it"),
            "{answer:?}"
        );
        assert_eq!(server.tell("DBSIZE").lines().next(), Some(":1"), "{token}");
    }
    server.tell("FLUSHALL");
    // And where a mark with our own id bears one.
    for token in ["18446744073709551615", "99999999999999999999", "9000000000000001"] {
        let reservation = desk.asks("life");
        let id = format!("{}.{}", reservation.run, reservation.number);
        let until = in_a_minute(&server);
        server.tell(&format!(
            "HSET {prefix}done:app \"exec life\" \"{until} {token} {id} x\""
        ));
        let answer = desk.reserve(&reservation).await;
        assert!(why(&answer).contains("none of defib's: delete"), "{answer:?}");
        let marks = server.tell(&format!("HLEN {prefix}done:app"));
        assert_eq!(marks.lines().next(), Some(":0"), "it is given back");
    }
}

#[tokio::test]
async fn marks_of_lives_that_are_gone_do_not_pile_up_and_what_is_given_back_keeps_nobody_waiting() {
    if !there() {
        return;
    }
    let server = RedisServer::start();
    let mut desk = Desk::new(&server, "a");
    let many = |desk: &Desk, life: usize, lasting: Duration| Reservation {
        lasting,
        budget: Budget {
            count: 1000,
            ..Budget::default()
        },
        ..desk.asks(&format!("life {life}"))
    };
    // Each is a life that ended by itself while it was to be healed: nobody clears its mark.
    for life in 0..20 {
        let asked = many(&desk, life, Duration::from_millis(20));
        assert!(matches!(desk.reserve(&asked).await, LeaseAnswer::Granted { .. }));
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    let asked = many(&desk, 20, S);
    assert!(matches!(desk.reserve(&asked).await, LeaseAnswer::Granted { .. }));
    let marks = server.tell("HLEN defib:{g}:fleet:done:app");
    assert_eq!(marks.lines().next(), Some(":1"));

    // Leave that was not used: the next peer need not keep a distance from what did not happen.
    let spaced = |desk: &Desk, peer: &str| Reservation {
        known_as: peer.into(),
        group: GroupBudget {
            spacing: 60 * S,
            down_percent: 100,
        },
        peers: 9,
        ..desk.asks("life")
    };
    let (back, other) = (spaced(&desk, "back"), spaced(&desk, "other"));
    assert!(matches!(desk.reserve(&back).await, LeaseAnswer::Granted { .. }));
    assert_eq!(
        why(&desk.reserve(&other).await),
        "a peer of the group was restarted a moment ago"
    );
    desk.settle(&back, Mark::Clear, true, true).await;
    assert!(matches!(desk.reserve(&other).await, LeaseAnswer::Granted { .. }));
    // And of somebody else's nothing is undone.
    desk.settle(&back, Mark::Clear, true, true).await;
    let third = spaced(&desk, "third");
    assert_eq!(
        why(&desk.reserve(&third).await),
        "a peer of the group was restarted a moment ago"
    );
}

#[tokio::test]
async fn who_asks_while_others_wait_is_told_that_it_is_slow_and_not_that_it_is_away() {
    if !there() {
        return;
    }
    let server = RedisServer::start();
    let mut desk = Desk::new(&server, "a");
    server.stop();
    // The first hangs until it is given up; by then the rest have waited too long.
    for _ in 0..3 {
        let asked = desk.asks("life");
        desk.errands.send(Errand::Reserve(Arc::new(asked))).await.unwrap();
    }
    let mut answers = Vec::new();
    for _ in 0..3 {
        let told = tokio::time::timeout(BOUND, desk.told.recv()).await.unwrap();
        match told.unwrap() {
            Event::Lease { answer, .. } => answers.push(answer),
            other => panic!("{other:?}"),
        }
    }
    assert!(
        matches!(answers[0], LeaseAnswer::Unavailable { away: true, .. }),
        "{answers:?}"
    );
    for answer in &answers[1..] {
        assert!(
            matches!(answer, LeaseAnswer::Unavailable { away: false, .. }),
            "{answer:?}"
        );
        assert!(why(answer).contains("the group is slow to answer"), "{answer:?}");
    }
    server.cont();
}

#[tokio::test]
async fn a_server_that_refuses_is_named_with_its_cure() {
    if !there() {
        return;
    }
    let server = RedisServer::start();
    server.tell("ACL SETUSER node on >secret +ping +publish +subscribe +hello &*");
    let url = server.url().replace("redis://", "redis://node:secret@");
    let mut desk = Desk::with(&url, "a", |_| ());
    let reservation = desk.asks("life");
    let answer = desk.reserve(&reservation).await;
    let LeaseAnswer::Unavailable {
        why: said,
        away: false,
    } = &answer
    else {
        panic!("{answer:?}")
    };
    let (_, rule) = said.split_once(": ACL").unwrap();
    assert!(
        rule.contains(" +eval ") && rule.ends_with(" ~defib:{g}:fleet:*"),
        "{said}"
    );
    server.tell(&format!("ACL{rule}"));
    assert!(matches!(
        desk.reserve(&reservation).await,
        LeaseAnswer::Granted { .. }
    ));
    desk.settle(&reservation, Mark::Keep, false, true).await;
    assert_eq!(
        server.tell("HLEN defib:{g}:fleet:down").lines().next(),
        Some(":0")
    );

    // One command of the scripts is missing: the same rule is the cure.
    server.tell("ACL SETUSER node -hgetall");
    let reservation = desk.asks("life 2");
    assert!(why(&desk.reserve(&reservation).await).contains("ACL SETUSER node +eval"));

    let mut desk = Desk::new(&server, "b");
    server.tell("CONFIG SET maxmemory 1");
    let reservation = desk.asks("life 3");
    let answer = desk.reserve(&reservation).await;
    assert!(why(&answer).contains("maxmemory"), "{answer:?}");
    server.tell("CONFIG SET maxmemory 0");
    server.tell("REPLICAOF 127.0.0.1 1");
    let reservation = desk.asks("life 4");
    let answer = desk.reserve(&reservation).await;
    assert!(why(&answer).contains("master"), "{answer:?}");
}

/// How a node of a group signs that has this key.
fn seal(node: &str, key: &str, require: bool) -> Seal {
    let settings = signing::Settings {
        source: Source::Shared(Secret::Inline(key.repeat(32))),
        window: 60 * S,
        require,
        heard: "".into(),
    };
    let metrics = Metrics::new().unwrap().signing;
    let keyring = Arc::new(Keyring::new(&settings, node.into(), metrics.clone()));
    assert_eq!(keyring.read(), Vec::<String>::new());
    let own = Own {
        node: node.into(),
        group: "g".into(),
        boot: format!("boot-{node}").into(),
    };
    Seal {
        signer: Arc::new(Signer::new(Arc::clone(&keyring), "g".into())),
        verifier: Arc::new(Verifier::new(keyring, own, "defib:g".into(), &settings, metrics)),
    }
}

fn signed(server: &RedisServer, node: &str) -> Desk {
    Desk::sealed(&server.url(), node, Some(seal(node, "k", true)), |_| ())
}

/// One word of a command, quoted.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// The string in an answer.
fn text_of(answer: &str) -> String {
    let mut lines = answer.lines();
    assert!(lines.next().unwrap().starts_with('$'), "{answer}");
    lines.next().unwrap().to_owned()
}

#[tokio::test]
async fn what_nodes_signed_holds_among_them_as_what_they_did_not_sign() {
    if !there() {
        return;
    }
    let server = RedisServer::start();
    let (mut a, mut b) = (signed(&server, "a"), signed(&server, "b"));
    let taken = a.takes("life 0").await;
    let asked = b.asks("life 0");
    assert_eq!(why(&b.reserve(&asked).await), "node a is healing it");
    a.settle(&taken, Mark::Keep, false, true).await;
    assert_eq!(
        why(&b.reserve(&asked).await),
        "node a has carried this out on this life already"
    );
    for life in ["life 1", "life 2"] {
        let taken = b.takes(life).await;
        b.settle(&taken, Mark::Keep, false, true).await;
    }
    let asked = a.asks("life 3");
    assert_eq!(
        why(&a.reserve(&asked).await),
        "this peer's restarts are used up in the group"
    );
    let spaced = |desk: &Desk, peer: &str| Reservation {
        known_as: peer.into(),
        group: GroupBudget {
            spacing: 60 * S,
            down_percent: 5,
        },
        ..desk.asks("life")
    };
    let (first, second) = (spaced(&a, "first"), spaced(&b, "second"));
    assert!(matches!(a.reserve(&first).await, LeaseAnswer::Granted { .. }));
    assert_eq!(
        why(&b.reserve(&second).await),
        "a peer of the group was restarted a moment ago"
    );
    server.tell("DEL defib:{g}:fleet:next");
    assert_eq!(
        why(&b.reserve(&second).await),
        "other peers of the group are down by our hand"
    );
    a.settle(&first, Mark::Clear, true, true).await;
    assert!(matches!(b.reserve(&second).await, LeaseAnswer::Granted { .. }));
    for desk in [&a, &b] {
        assert_eq!(desk.metrics.fleet.disbelieved.get(), 0);
    }
}

#[tokio::test]
async fn s48_forged_leases_marks_and_budgets_change_nothing_where_the_group_signs_and_delay_where_it_does_not()
 {
    if !there() {
        return;
    }
    let server = RedisServer::start();
    let prefix = "defib:{g}:fleet:";
    let until = in_a_minute(&server);
    let word = |id: &str, peer: &str| {
        format!(
            r#"{until} 7 {id} {{"node":"b","boot":"boot-b","number":1,"peer":"{peer}","incarnation":"life","rung":0,"kept":false,"from":{until},"lasting":600000,"window":600000,"spacing":600000}}"#
        )
    };
    // Of another key, and otherwise as it must be.
    let stranger = |peer: &str| {
        let record = word("boot-b.1", peer);
        let (head, words) = record.split_at(record.find('{').unwrap());
        let signer = seal("b", "x", true).signer;
        let words = signer.sign_record(prefix, words.into(), 0).unwrap();
        format!("{head}{}", String::from_utf8(words).unwrap())
    };
    let own = |desk: &Desk| format!("{}.{}", desk.run, desk.number.load(Ordering::Relaxed) + 1);
    let forge = |desk: &Desk, kind: usize| {
        let set = |key: &str, record: &str| server.tell(&format!("SET {prefix}{key} {}", quoted(record)));
        let hset = |key: &str, field: &str, record: &str| {
            server.tell(&format!(
                "HSET {prefix}{key} {} {}",
                quoted(field),
                quoted(record)
            ))
        };
        match kind {
            0 => hset("down", "app", &word("boot-b.1", "app")),
            1 => hset("down", "app", &stranger("app")),
            2 => hset("done:app", "exec life", &word("boot-b.1", "app")),
            3 => hset("done:app", "exec life", &stranger("app")),
            4 => (0..60)
                .map(|n| {
                    hset(
                        "budget:app",
                        &format!("boot-b.{n}"),
                        &word(&format!("boot-b.{n}"), "app"),
                    )
                })
                .collect(),
            5 => set("next", &word("boot-b.1", "app")),
            6 => (0..9)
                .map(|n| hset("down", &format!("p{n}"), &stranger(&format!("p{n}"))))
                .collect(),
            // All of it at once, and a mark that says that this very question had landed.
            _ => {
                hset("done:app", "exec life", &word(&own(desk), "app"));
                hset("down", "app", &stranger("app"));
                set("next", &stranger("app"));
                hset("down", "other", &word("boot-b.9", "other"));
                (0..3)
                    .map(|n| hset("budget:app", &format!("boot-b.{n}"), &stranger("app")))
                    .collect()
            }
        }
    };
    for kind in 0..8 {
        server.tell("FLUSHALL");
        let mut desk = signed(&server, "a");
        forge(&desk, kind);
        let taken = desk.takes("life").await;
        assert!(desk.metrics.fleet.disbelieved.get() > 0, "{kind}");
        // What this node wrote is there, and whoever comes next believes that.
        let mut other = signed(&server, "b");
        let asked = other.asks("life");
        assert_eq!(
            why(&other.reserve(&asked).await),
            "node a is healing it",
            "{kind}"
        );
        desk.settle(&taken, Mark::Keep, false, true).await;

        server.tell("FLUSHALL");
        let mut believes = Desk::new(&server, "c");
        forge(&believes, kind);
        let asked = believes.asks("life");
        let answer = believes.reserve(&asked).await;
        let delayed = matches!(answer, LeaseAnswer::Refused { .. } | LeaseAnswer::Done { .. });
        assert!(delayed || kind == 7, "{kind}: {answer:?}");
    }
}

#[tokio::test]
async fn s48_more_forgeries_than_one_question_is_asked_about_are_gone_by_the_next() {
    if !there() {
        return;
    }
    let server = RedisServer::start();
    let until = in_a_minute(&server);
    let script = "for n = 1, 450 do redis.call('hset', KEYS[1], 'x.'..n, ARGV[1]..' 7 x.'..n..' {}') end";
    server.tell(&format!(
        "EVAL {} 1 defib:{{g}}:fleet:budget:app {until}",
        quoted(script)
    ));
    let mut desk = signed(&server, "a");
    let asked = desk.asks("life");
    let answer = desk.reserve(&asked).await;
    assert!(why(&answer).contains("writes under"), "{answer:?}");
    desk.takes("life").await;
}

#[tokio::test]
async fn what_a_node_signed_holds_in_its_place_and_for_its_time_only() {
    if !there() {
        return;
    }
    let server = RedisServer::start();
    let prefix = "defib:{g}:fleet:";
    let mut a = signed(&server, "a");
    a.takes("life").await;
    let record = text_of(&server.tell(&format!("HGET {prefix}down app")));
    let (_, rest) = record.split_once(' ').unwrap();
    let later = format!("{} {rest}", in_a_minute(&server) + 600_000);
    server.tell("FLUSHALL");
    for (key, field, record) in [
        // Of another peer; of another life; a restart that is not this one; and as long as it never was to last.
        ("down", "other", &record),
        ("done:app", "exec another life", &record),
        ("budget:app", "boot-a.99", &record),
        ("down", "app", &later),
        ("done:app", "exec life", &later),
    ] {
        server.tell(&format!(
            "HSET {prefix}{key} {} {}",
            quoted(field),
            quoted(record)
        ));
        let mut b = signed(&server, "b");
        let asked = Reservation {
            budget: Budget {
                count: 1,
                ..Budget::default()
            },
            ..b.asks(if field.contains("another") {
                "another life"
            } else {
                "life"
            })
        };
        let answer = b.reserve(&asked).await;
        assert!(
            matches!(answer, LeaseAnswer::Granted { .. }),
            "{key} {field}: {answer:?}"
        );
        assert_eq!(b.metrics.fleet.disbelieved.get(), 1, "{key} {field}");
        server.tell("FLUSHALL");
    }
    // In its place it is believed, whoever put it there.
    server.tell(&format!("HSET {prefix}budget:app boot-a.1 {}", quoted(&record)));
    let mut b = signed(&server, "b");
    let asked = Reservation {
        budget: Budget {
            count: 1,
            ..Budget::default()
        },
        ..b.asks("life")
    };
    assert_eq!(
        why(&b.reserve(&asked).await),
        "this peer's restarts are used up in the group"
    );

    // A group that is being changed over believes what is not signed, and nothing that is forged.
    server.tell("FLUSHALL");
    let mut plain = Desk::new(&server, "plain");
    plain.takes("life").await;
    let seal = seal("c", "k", false);
    let mut c = Desk::sealed(&server.url(), "c", Some(seal), |_| ());
    let asked = c.asks("life");
    assert_eq!(why(&c.reserve(&asked).await), "node plain is healing it");
    let mut b = signed(&server, "b");
    b.takes("life").await;
}

#[tokio::test]
async fn what_cannot_be_settled_now_is_settled_later() {
    if !there() {
        return;
    }
    let mut server = RedisServer::start();
    let (mut a, mut b) = (Desk::new(&server, "a"), Desk::new(&server, "b"));
    let taken = a.takes("life").await;
    server.stop();
    let settlement = Settlement {
        reservation: Arc::new(taken),
        mark: Mark::Clear,
        refund: true,
        over: true,
    };
    a.errands.send(Errand::Settle(settlement)).await.unwrap();
    let failed = async {
        while a.unsettled() < 1.0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(BOUND, failed).await.expect("it is tried");
    server.cont();
    let settled = async {
        loop {
            let asked = b.asks("life");
            let answer = b.reserve(&asked).await;
            if matches!(answer, LeaseAnswer::Granted { .. }) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(BOUND, settled)
        .await
        .expect("it is given back at last");
    server.kill();
}

#[tokio::test]
async fn blockers_are_clear_only_if_they_say_so() {
    let site = Site::start();
    let blocker = |name: &str, asks: Asks, peers: &[u32]| Blocker {
        name: name.to_owned(),
        asks,
        bearer: None,
        timeout: 2 * S,
        peers: peers.iter().copied().map(PeerId).collect(),
    };
    let prometheus = Asks::Prometheus {
        url: site.url(""),
        query: "ALERTS".into(),
    };
    let blockers = vec![
        blocker("deploys", Asks::Http(site.url("/running")), &[0]),
        blocker("alerts", prometheus, &[0, 1]),
        blocker("nobody", Asks::Http("http://127.0.0.1:1/".into()), &[2]),
    ];
    let mut desk = Desk::with("redis://127.0.0.1:1", "a", |settings| {
        settings.blockers = blockers;
    });
    let query = "/api/v1/query?query=ALERTS";
    let mut number = 0;
    let mut ask = async |peer: u32| {
        number += 1;
        let errand = Errand::AskBlockers {
            number,
            peer: PeerId(peer),
        };
        match desk.says(errand).await {
            Event::Blockers {
                answer: BlockersAnswer::Clear,
                ..
            } => "clear".to_owned(),
            Event::Blockers {
                answer: BlockersAnswer::Blocked { why },
                ..
            } => why,
            other => panic!("{other:?}"),
        }
    };
    site.set("/running", 200, "[]");
    site.set(
        query,
        200,
        r#"{"status":"success","data":{"resultType":"vector","result":[]}}"#,
    );
    assert_eq!(ask(0).await, "clear");
    site.set("/running", 200, r#"["feed"]"#);
    assert_eq!(ask(0).await, "deploys: its answer is a list of 1");
    assert_eq!(ask(1).await, "clear", "it is not of that peer");
    site.set("/running", 500, "");
    assert_eq!(ask(0).await, "deploys: cannot be asked, which blocks: status 500");
    site.set(query, 200, r#"{"status":"success","data":{"resultType":"vector","result":[{"metric":{"alertname":"Maintenance"},"value":[1,"1"]}]}}"#);
    assert_eq!(
        ask(1).await,
        "alerts: 1 of its series are there, Maintenance first"
    );
    assert!(
        ask(2)
            .await
            .starts_with("nobody: cannot be asked, which blocks: cannot connect")
    );
    assert!(ask(3).await.starts_with("its blockers are not known here"));
}
