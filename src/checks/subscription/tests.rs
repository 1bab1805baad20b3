//! The judge on made-up worlds: every verdict with what leads to it, and the healthy ones that look like it.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use proptest::prelude::*;

use super::judge::{Heard, Judge, Judgement, Listing, Look, Rules};
use crate::engine::cause::Cause;
use crate::engine::event::Outcome;
use crate::engine::time::Time;
use crate::redis_client::ListedClient;
use crate::sock_diag::{Cookie, Family, Socket, SocketId, State, Tcp};

const SERVER: &str = "10.0.0.1:6379";
/// A message of 100 bytes on the wire.
const MESSAGE: u64 = 100;

/// How Redis lists a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Listed {
    No,
    Command,
    Subscriber,
}

/// One connection of the owner's, as a world has it.
#[derive(Clone, Debug)]
struct Wire {
    cookie: u64,
    state: State,
    listed: Listed,
    received: u64,
    read: u64,
    sent: u64,
    received_at: u64,
    /// When Redis last wrote to it, and how much so far.
    written_at: u64,
    written: u64,
    waiting: bool,
}

impl Wire {
    fn new(cookie: u64, listed: Listed) -> Self {
        Self {
            cookie,
            state: State::Established,
            listed,
            received: 0,
            read: 0,
            sent: 0,
            received_at: 0,
            written_at: 0,
            written: 0,
            waiting: false,
        }
    }

    fn local(&self) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 2], u16::try_from(40_000 + self.cookie).unwrap()))
    }

    fn socket(&self, now: u64) -> Socket {
        Socket {
            id: SocketId {
                family: Family::V4,
                local: self.local(),
                remote: SERVER.parse().unwrap(),
                interface: 0,
                cookie: Cookie(self.cookie),
            },
            state: self.state,
            recv_q: u32::try_from(self.received - self.read).unwrap(),
            send_q: 0,
            uid: 0,
            inode: 1,
            cgroup: None,
            tcp: Some(Tcp {
                last_data_recv: Duration::from_millis(now - self.received_at),
                bytes_received: self.received,
                bytes_acked: self.sent,
            }),
        }
    }

    fn client(&self, now: u64, counts: bool) -> ListedClient {
        ListedClient {
            id: self.cookie,
            addr: self.local().to_string(),
            address: Some(self.local()),
            name: String::new(),
            subscriptions: u64::from(self.listed == Listed::Subscriber),
            idle: Some(Duration::from_secs((now - self.written_at) / 1000)),
            written: counts.then_some(self.written),
            waiting: self.waiting,
        }
    }
}

/// A world in milliseconds.
struct World {
    judge: Judge,
    now: u64,
    wires: Vec<Wire>,
    /// Redis can be asked.
    listing: bool,
    /// It is one that counts what it writes (Redis 8, Valkey 8).
    counts: bool,
    list_all: bool,
    ear: Option<Heard>,
    ears: u64,
    reconnected: Option<Time>,
    last: Option<Judgement>,
}

/// How long clients have to come back.
const RETURNING: Duration = Duration::from_secs(60);

const RULES: Rules = Rules {
    min: None,
    window: Duration::from_secs(6),
    stuck_after: Duration::from_secs(15),
};

impl World {
    fn new(wires: Vec<Wire>) -> Self {
        Self::with(RULES, wires)
    }

    fn with(rules: Rules, wires: Vec<Wire>) -> Self {
        Self {
            judge: Judge::new(rules),
            now: 100_000,
            wires,
            listing: true,
            counts: false,
            list_all: false,
            ear: None,
            ears: 0,
            reconnected: None,
            last: None,
        }
    }

    /// Redis publishes on the declared channels: to those in `reached`, to the ear.
    fn publish(&mut self, reached: &[usize]) {
        for (index, wire) in self.wires.iter_mut().enumerate() {
            if wire.listed != Listed::Subscriber {
                continue;
            }
            (wire.written_at, wire.written) = (self.now, wire.written + MESSAGE);
            if reached.contains(&index) {
                (wire.received, wire.received_at) = (wire.received + MESSAGE, self.now);
                wire.read = wire.received;
            }
        }
        if let Some(ear) = &mut self.ear {
            ear.messages += 1;
            ear.bytes += MESSAGE;
        }
    }

    /// Somebody else's message, which only this one gets.
    fn other_message(&mut self, index: usize) {
        let now = self.now;
        let wire = &mut self.wires[index];
        (wire.written_at, wire.written) = (now, wire.written + MESSAGE);
        (wire.received, wire.received_at) = (wire.received + MESSAGE, now);
        wire.read = wire.received;
    }

    fn look(&mut self) -> &Judgement {
        let listing = if self.listing {
            let listed = |wire: &&Wire| match wire.listed {
                Listed::No => false,
                Listed::Command => self.list_all,
                Listed::Subscriber => true,
            };
            let clients = self.wires.iter().filter(listed);
            Listing::Read {
                clients: clients.map(|wire| wire.client(self.now, self.counts)).collect(),
                whole: self.list_all,
                server: SERVER.parse().unwrap(),
            }
        } else {
            Listing::Unavailable("NOPERM".to_owned())
        };
        let judgement = self.judge.look(&Look {
            at: Time::from_origin(Duration::from_millis(self.now)),
            sockets: self.wires.iter().map(|wire| wire.socket(self.now)).collect(),
            listing,
            heard: self.ear,
            returning: self
                .reconnected
                .is_some_and(|at| Duration::from_millis(self.now) < at.since(Time::ZERO) + RETURNING),
        });
        self.list_all = judgement.list_all;
        match (judgement.listen, self.ear.is_some()) {
            (true, false) => {
                self.ears += 1;
                self.ear = Some(Heard {
                    subscription: self.ears,
                    ..Heard::default()
                });
            }
            (false, true) => self.ear = None,
            _ => {}
        }
        self.last.insert(judgement)
    }

    /// Looks once a second, after `each` second's business.
    fn seconds(&mut self, seconds: u64, mut each: impl FnMut(&mut Self)) -> Outcome {
        for _ in 0..seconds {
            self.now += 1000;
            each(self);
            self.look();
        }
        self.outcome()
    }

    fn outcome(&self) -> Outcome {
        self.last.as_ref().unwrap().outcome.clone()
    }

    fn condemned(&self) -> Vec<u64> {
        let condemned = &self.last.as_ref().unwrap().condemned;
        condemned
            .iter()
            .map(|connection| connection.socket.cookie.0)
            .collect()
    }

    fn never_blames(&mut self, seconds: u64, mut each: impl FnMut(&mut Self)) {
        for _ in 0..seconds {
            let outcome = self.seconds(1, &mut each);
            assert!(
                !matches!(outcome, Outcome::Fail { .. }),
                "{outcome:?} at {} ms",
                self.now
            );
        }
    }
}

fn subscriber() -> Vec<Wire> {
    vec![Wire::new(1, Listed::Subscriber)]
}

fn says(outcome: &Outcome, cause: Cause, word: &str) {
    let Outcome::Fail { cause: found, detail } = outcome else {
        panic!("{outcome:?} and not {word}");
    };
    assert!(
        *found == cause && detail.starts_with(word),
        "{outcome:?} and not {word}"
    );
}

#[test]
fn a_healthy_subscriber_passes_and_needs_no_subscription_of_ours() {
    for counts in [false, true] {
        let mut world = World::new(subscriber());
        world.counts = counts;
        assert_eq!(world.seconds(3600, |world| world.publish(&[0])), Outcome::Pass);
        assert_eq!(world.ears, 0);
    }
}

#[test]
fn s41_a_quiet_channel_is_not_a_dark_subscriber() {
    for counts in [false, true] {
        let mut world = World::new(subscriber());
        world.counts = counts;
        world.never_blames(3600, |_| {});
        assert_eq!((world.outcome(), world.ears), (Outcome::Pass, 0));
    }
}

/// Of all that Redis tells, only when it last wrote tells these two apart.
#[test]
fn s41_a_subscriber_of_another_channel_is_not_dark_while_ours_is_busy() {
    for counts in [false, true] {
        let mut world = World::new(subscriber());
        world.counts = counts;
        world.never_blames(3600, |world| {
            if let Some(ear) = &mut world.ear {
                ear.messages += 10;
            }
        });
        assert_eq!(world.outcome(), Outcome::Pass);
    }
}

#[test]
fn s41_an_idle_command_connection_is_never_dark() {
    let wires = vec![Wire::new(1, Listed::Subscriber), Wire::new(2, Listed::Command)];
    let mut world = World::new(wires);
    world.never_blames(3600, |world| world.publish(&[0]));
    assert_eq!(world.outcome(), Outcome::Pass);
}

#[test]
fn s41_a_slow_reader_with_a_standing_queue_is_not_stuck() {
    let mut world = World::new(subscriber());
    // 14 s between two reads, and the queue never empty.
    world.never_blames(3600, |world| {
        let unread = world.wires[0].read;
        world.publish(&[0]);
        let wire = &mut world.wires[0];
        wire.read = if world.now.is_multiple_of(14_000) {
            wire.received - 1
        } else {
            unread
        };
    });
}

/// Found by an hour with one: the kernel has no room, so Redis writes and nothing arrives.
#[test]
fn s41_a_slow_reader_whose_buffer_is_full_is_not_dark() {
    for (listing, counts) in [(true, false), (true, true), (false, false)] {
        let mut world = World::new(subscriber());
        world.counts = counts;
        world.seconds(30, |world| world.publish(&[0]));
        world.listing = listing;
        (world.wires[0].received, world.wires[0].received_at) = (world.wires[0].read + 60_000, world.now);
        world.never_blames(1800, |world| {
            world.publish(&[]);
            let wire = &mut world.wires[0];
            wire.read += 500;
            if wire.read == wire.received {
                (wire.received, wire.received_at) = (wire.received + 60_000, world.now);
            }
        });
    }
}

#[test]
fn a_reader_that_was_slower_before_is_given_that_time_again() {
    let mut world = World::new(subscriber());
    let reads_every = |world: &mut World, period: u64, seconds: u64| {
        world.seconds(seconds, |world| {
            let unread = world.wires[0].read;
            world.publish(&[0]);
            let wire = &mut world.wires[0];
            wire.read = if world.now.is_multiple_of(period) {
                wire.received - 1
            } else {
                unread
            };
        })
    };
    reads_every(&mut world, 12_000, 60);
    // 20 s are more than `stuck_after`, and less than twice its own pace.
    for _ in 0..100 {
        let outcome = reads_every(&mut world, 20_000, 1);
        assert_eq!(outcome, Outcome::Pass, "at {}", world.now);
    }
}

#[test]
fn s06_bytes_that_nobody_reads_are_stuck() {
    let mut world = World::new(subscriber());
    world.seconds(60, |world| world.publish(&[0]));
    let stops = |world: &mut World| {
        let read = world.wires[0].read;
        world.publish(&[0]);
        world.wires[0].read = read;
    };
    assert_eq!(world.seconds(15, stops), Outcome::Pass);
    says(&world.seconds(1, stops), Cause::PeerStuck, "stuck");
    assert_eq!(world.condemned(), [1]);
    let client = world.last.as_ref().unwrap().condemned[0].client.clone().unwrap();
    assert_eq!((client.id, client.addr.as_str()), (1, "10.0.0.2:40001"));
    // Closed by Redis since, and still not read.
    world.wires[0].state = State::CloseWait;
    world.wires[0].listed = Listed::No;
    says(&world.seconds(3, |_| {}), Cause::PeerStuck, "stuck");
    // It reads again.
    world.wires[0].state = State::Established;
    world.wires[0].listed = Listed::Subscriber;
    assert_eq!(world.seconds(3, |world| world.publish(&[0])), Outcome::Pass);
    assert_eq!(world.condemned(), [0; 0]);
}

#[test]
fn an_unread_answer_on_a_command_connection_is_not_stuck() {
    let wires = vec![Wire::new(1, Listed::Subscriber), Wire::new(2, Listed::Command)];
    let mut world = World::new(wires);
    (world.wires[1].received, world.wires[1].received_at) = (500, world.now);
    world.never_blames(600, |world| world.publish(&[0]));
    world.listing = false;
    world.never_blames(600, |world| world.publish(&[0]));
}

#[test]
fn s06_a_subscriber_that_receives_nothing_of_what_is_sent_is_dark() {
    for counts in [false, true] {
        let mut world = World::new(subscriber());
        world.counts = counts;
        world.seconds(60, |world| world.publish(&[0]));
        let mut took = 0;
        let outcome = loop {
            took += 1;
            let outcome = world.seconds(1, |world| world.publish(&[]));
            if outcome != Outcome::Pass || took > 60 {
                break outcome;
            }
        };
        says(&outcome, Cause::PeerDeaf, "dark");
        assert!((6..=10).contains(&took), "{took} s");
        assert_eq!((world.condemned(), world.ears), (vec![1], 1));
        // It holds without a subscription of ours, also when the channel is quiet from now on.
        assert!(world.ear.is_none());
        says(&world.seconds(100, |_| {}), Cause::PeerDeaf, "dark");
        assert_eq!(world.ears, 1);
        // Any byte clears it.
        assert_eq!(world.seconds(1, |world| world.publish(&[0])), Outcome::Pass);
    }
}

#[test]
fn s06_healed_is_who_subscribes_anew_and_not_who_has_one_less() {
    let wires = |cookies: &[u64]| -> Vec<Wire> {
        let subscriber = |cookie: &u64| Wire::new(*cookie, Listed::Subscriber);
        cookies.iter().map(subscriber).collect()
    };
    for anew in [true, false] {
        let mut world = World::new(wires(&[1, 2, 3]));
        world.seconds(10, |world| world.publish(&[0, 1, 2]));
        world.seconds(20, |world| world.publish(&[0, 1]));
        assert_eq!(world.condemned(), [3]);
        world.wires.remove(2);
        let outcome = world.seconds(10, |world| world.publish(&[0, 1]));
        assert!(matches!(outcome, Outcome::Unknown { .. }), "{outcome:?}");
        if anew {
            world.wires.push(Wire::new(4, Listed::Subscriber));
        }
        let outcome = world.seconds(5, |world| world.publish(&[0, 1]));
        assert_eq!(outcome == Outcome::Pass, anew, "{outcome:?}");
        let outcome = world.seconds(60, |world| {
            world.publish(&if anew { vec![0, 1, 2] } else { vec![0, 1] });
        });
        assert_eq!(outcome, Outcome::Pass);
    }
}

#[test]
fn one_message_that_did_not_arrive_is_not_enough() {
    let mut world = World::new(subscriber());
    world.seconds(60, |world| world.publish(&[0]));
    world.seconds(1, |world| world.publish(&[]));
    world.never_blames(600, |_| {});
    // Nor is one more, while we listen.
    world.seconds(1, |world| world.publish(&[]));
    world.never_blames(600, |_| {});
}

#[test]
fn a_dark_one_whose_buffer_in_the_server_is_full_is_dark() {
    let mut world = World::new(subscriber());
    world.seconds(10, |world| world.publish(&[0]));
    // Redis cannot write any more: `idle` grows as on a quiet channel, and `oll` tells.
    world.wires[0].waiting = true;
    let outcome = world.seconds(20, |world| {
        if let Some(ear) = &mut world.ear {
            ear.messages += 1;
        }
    });
    says(&outcome, Cause::PeerDeaf, "dark");
}

#[test]
fn a_message_that_reaches_us_a_moment_earlier_blames_nobody() {
    let mut world = World::new(subscriber());
    world.seconds(10, |world| world.publish(&[0]));
    // Quiet for long, then two messages; the socket has them a second later.
    world.never_blames(60, |_| {});
    for _ in 0..20 {
        world.never_blames(9, |_| {});
        world.never_blames(1, |world| {
            world.publish(&[]);
            world.publish(&[]);
        });
        world.never_blames(1, |world| {
            let wire = &mut world.wires[0];
            (wire.received, wire.received_at) = (wire.written, world.now);
            wire.read = wire.received;
        });
    }
}

#[test]
fn s06_a_subscriber_that_redis_has_forgotten_is_orphaned() {
    let mut world = World::new(subscriber());
    world.seconds(10, |world| world.publish(&[0]));
    world.wires[0].listed = Listed::No;
    // A listing of the subscribers, then two of all clients.
    assert!(!matches!(world.seconds(2, |_| {}), Outcome::Fail { .. }));
    says(&world.seconds(1, |_| {}), Cause::PeerDeaf, "orphaned");
    assert_eq!(world.condemned(), [1]);
    assert_eq!(world.last.as_ref().unwrap().condemned[0].client, None);
}

#[test]
fn a_connection_that_was_made_between_two_looks_is_no_orphan() {
    let mut world = World::new(subscriber());
    let mut cookie = 1;
    world.never_blames(600, |world| {
        // The old one is replaced each second, and listed only at the next look.
        cookie += 1;
        let mut wire = Wire::new(cookie, Listed::Subscriber);
        wire.received_at = world.now;
        world.wires = vec![wire];
        world.list_all = true;
    });
}

#[test]
fn s42_a_subscription_that_is_gone_is_lost() {
    let mut world = World::new(vec![
        Wire::new(1, Listed::Subscriber),
        Wire::new(2, Listed::Command),
    ]);
    world.seconds(10, |world| world.publish(&[0]));
    world.wires.remove(0);
    assert!(matches!(world.seconds(6, |_| {}), Outcome::Unknown { .. }));
    says(
        &world.seconds(1, |_| {}),
        Cause::PeerDeaf,
        "lost: 0 of its connections are subscribed, and 1 must be (1",
    );
    assert_eq!(world.condemned(), [0; 0]);
    // A new one heals it at once.
    world.wires.push(Wire::new(3, Listed::Subscriber));
    world.wires[1].received_at = world.now;
    assert_eq!(world.seconds(1, |_| {}), Outcome::Pass);
}

#[test]
fn a_connection_that_gave_up_its_subscription_is_condemned_as_lost() {
    let mut world = World::new(vec![Wire::new(1, Listed::Subscriber)]);
    world.seconds(10, |world| world.publish(&[0]));
    world.wires[0].listed = Listed::Command;
    says(&world.seconds(10, |_| {}), Cause::PeerDeaf, "lost");
    assert_eq!(world.condemned(), [1]);
}

#[test]
fn min_says_how_many_there_must_be() {
    let rules = Rules {
        min: Some(2),
        ..RULES
    };
    let mut world = World::with(rules, vec![Wire::new(1, Listed::Subscriber)]);
    // One of two, and never two so far: it talks to this Redis, so the other one would be seen.
    says(
        &world.seconds(20, |world| world.publish(&[0])),
        Cause::PeerDeaf,
        "lost: 1 of its connections is",
    );
    world.wires.push(Wire::new(2, Listed::Subscriber));
    world.wires[1].received_at = world.now;
    assert_eq!(world.seconds(2, |world| world.publish(&[0, 1])), Outcome::Pass);
}

#[test]
fn what_was_never_seen_is_unknown() {
    for rules in [
        RULES,
        Rules {
            min: Some(1),
            ..RULES
        },
    ] {
        let mut world = World::with(rules, Vec::new());
        let Outcome::Unknown { detail } = world.seconds(600, |_| {}) else {
            panic!("{:?}", world.outcome());
        };
        assert!(detail.contains("proxy"), "{detail}");
    }
    let mut world = World::new(vec![Wire::new(1, Listed::Command)]);
    let outcome = world.seconds(600, |_| {});
    assert!(matches!(outcome, Outcome::Unknown { .. }), "{outcome:?}");
}

#[test]
fn clients_have_time_to_come_back_after_redis_was_away() {
    let mut world = World::new(subscriber());
    world.seconds(10, |world| world.publish(&[0]));
    world.wires.clear();
    world.listing = false;
    // That there is no connection any more, the kernel says alone; but it is not its fault.
    world.reconnected = Some(Time::from_origin(Duration::from_millis(world.now)));
    world.never_blames(30, |_| {});
    world.listing = true;
    world.never_blames(29, |_| {});
    says(&world.seconds(10, |_| {}), Cause::PeerDeaf, "lost");
}

#[test]
fn without_client_list_nothing_is_known_of_a_silent_connection() {
    let mut world = World::new(subscriber());
    world.listing = false;
    let Outcome::Unknown { detail } = world.seconds(600, |_| {}) else {
        panic!("{:?}", world.outcome());
    };
    assert!(detail.contains("NOPERM"), "{detail}");
}

#[test]
fn without_client_list_one_that_receives_what_we_do_is_a_proven_subscriber() {
    let mut world = World::new(subscriber());
    world.listing = false;
    assert_eq!(world.seconds(10, |world| world.publish(&[0])), Outcome::Pass);
    // Proven: our own subscription is not needed any more.
    assert!(world.ear.is_none());
    says(
        &world.seconds(20, |world| world.publish(&[])),
        Cause::PeerDeaf,
        "dark",
    );
    // And none at all is fewer than one.
    world.wires.clear();
    says(&world.seconds(10, |_| {}), Cause::PeerDeaf, "lost");
}

#[test]
fn without_client_list_one_that_sends_or_receives_otherwise_is_not_proven() {
    // A command connection: an answer for each question.
    let mut world = World::new(subscriber());
    world.listing = false;
    world.never_blames(60, |world| {
        world.publish(&[0]);
        world.wires[0].sent += 30;
    });
    world.never_blames(60, |world| world.publish(&[]));
    // A subscriber of something else, busier by far.
    let mut world = World::new(subscriber());
    world.listing = false;
    world.never_blames(60, |world| {
        world.publish(&[0]);
        (0..9).for_each(|_| world.other_message(0));
    });
    world.never_blames(60, |world| world.publish(&[]));
}

#[test]
fn what_nobody_looked_at_proves_nothing() {
    let mut world = World::new(subscriber());
    world.seconds(10, |world| world.publish(&[0]));
    // The machine sleeps for an hour, the subscriber with it. Its first message comes late.
    world.wires[0].received += 100;
    world.now += 3_600_000;
    world.never_blames(1, |_| {});
    assert_eq!(world.seconds(10, |world| world.publish(&[0])), Outcome::Pass);
}

#[test]
fn the_worst_is_said_first_and_all_are_condemned() {
    let mut world = World::new(
        (1..=3)
            .map(|cookie| Wire::new(cookie, Listed::Subscriber))
            .collect(),
    );
    world.seconds(10, |world| world.publish(&[0, 1, 2]));
    let outcome = world.seconds(30, |world| {
        let read = world.wires[0].read;
        world.publish(&[0, 2]);
        world.wires[0].read = read;
    });
    says(&outcome, Cause::PeerStuck, "stuck");
    assert_eq!(world.condemned(), [1, 2]);
    let causes: Vec<Cause> = world.last.unwrap().condemned.iter().map(|c| c.cause).collect();
    assert_eq!(causes, [Cause::PeerStuck, Cause::PeerDeaf]);
}

/// What may happen in a second of a healthy world.
#[derive(Clone, Copy, Debug)]
enum Second {
    Message,
    Quiet,
    OtherMessage(usize),
    Reconnect(usize),
    NoListing,
    ListingAgain,
}

fn seconds() -> impl Strategy<Value = Vec<Second>> {
    let one = prop_oneof![
        6 => Just(Second::Message),
        6 => Just(Second::Quiet),
        2 => (0..2usize).prop_map(Second::OtherMessage),
        1 => (0..2usize).prop_map(Second::Reconnect),
        1 => Just(Second::NoListing),
        1 => Just(Second::ListingAgain),
    ];
    proptest::collection::vec(one, 1..400)
}

proptest! {
    /// Whatever a healthy owner's connections do, whether Redis can be asked or not, nobody is blamed.
    #[test]
    fn s41_no_healthy_history_is_blamed(seconds in seconds(), counts: bool) {
        let wires = vec![
            Wire::new(1, Listed::Subscriber),
            Wire::new(2, Listed::Subscriber),
            Wire::new(3, Listed::Command),
        ];
        let mut world = World::new(wires);
        world.counts = counts;
        let mut cookie = 10;
        for second in seconds {
            let outcome = world.seconds(1, |world| match second {
                Second::Message => world.publish(&[0, 1]),
                Second::Quiet => {}
                Second::OtherMessage(index) => world.other_message(index),
                Second::Reconnect(index) => {
                    cookie += 1;
                    let mut wire = Wire::new(cookie, Listed::Subscriber);
                    (wire.received_at, wire.written_at) = (world.now, world.now);
                    world.wires[index] = wire;
                }
                Second::NoListing => world.listing = false,
                Second::ListingAgain => world.listing = true,
            });
            prop_assert!(!matches!(outcome, Outcome::Fail { .. }), "{:?}", outcome);
        }
    }

    /// A dark one is found at whatever rhythm of messages, and nobody else with it.
    #[test]
    fn s06_a_dark_one_is_found_and_its_neighbour_is_not(gaps in proptest::collection::vec(1..5u64, 8..30), counts: bool) {
        let mut world = World::new(vec![Wire::new(1, Listed::Subscriber), Wire::new(2, Listed::Subscriber)]);
        world.counts = counts;
        world.seconds(20, |world| world.publish(&[0, 1]));
        let mut condemned = BTreeSet::new();
        for gap in gaps {
            world.seconds(gap, |_| {});
            world.seconds(1, |world| world.publish(&[1]));
            condemned.extend(world.condemned());
        }
        prop_assert_eq!(condemned.into_iter().collect::<Vec<_>>(), [1]);
        says(&world.outcome(), Cause::PeerDeaf, "dark");
    }
}
