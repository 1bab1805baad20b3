//! Self-trust by itself, to the nanosecond: what each of its bounds is, and what is shown of it.

use std::time::Duration;

use super::{MS, S};
use crate::engine::cause::Cause;
use crate::engine::event::{Link, LinkStatus, Role};
use crate::engine::self_trust::{BusState, Changed, Coverage, SelfTrust};
use crate::engine::time::Time;

const NS: Duration = Duration::from_nanos(1);
const SETTLE: Duration = Duration::from_secs(30);

/// Self-trust, a clock, and links that are up.
struct Bus {
    trust: SelfTrust,
    now: Time,
    slot: u64,
}

impl Bus {
    fn new() -> Self {
        let now = Time::from_origin(1_000 * S);
        let mut bus = Self {
            trust: SelfTrust::new(S, SETTLE, now),
            now,
            slot: 0,
        };
        for link in Link::ALL {
            bus.link(link, up(Role::Master));
        }
        bus
    }

    /// It trusts, and nothing settles.
    fn trusted() -> Self {
        let mut bus = Self::new();
        bus.heartbeat(10 * MS);
        bus.now = bus.now + SETTLE;
        assert!(bus.trust.tick(bus.now).regained);
        bus.heartbeat(10 * MS);
        assert_eq!(bus.trust.state(), BusState::Trusted);
        bus
    }

    fn link(&mut self, link: Link, status: LinkStatus) -> Changed {
        self.trust.link(link, status, self.now)
    }

    fn sent(&mut self) -> u64 {
        self.slot += 1;
        self.trust.sent(self.slot, self.now);
        self.slot
    }

    /// Sent, taken, back after `took`; then the rest of the second goes by.
    fn heartbeat(&mut self, took: Duration) -> Changed {
        let slot = self.sent();
        self.trust.taken(slot, 1, self.now);
        let changed = self.trust.echo(slot, self.now + took);
        self.now = self.now + S;
        self.trust.mature(self.now);
        changed
    }
}

fn up(role: Role) -> LinkStatus {
    LinkStatus::Up { role, plain: true }
}

fn down(reason: &str) -> LinkStatus {
    LinkStatus::Down {
        reason: reason.to_owned(),
    }
}

#[test]
fn each_state_has_a_name() {
    let names = BusState::ALL.map(BusState::as_str);
    let told = [
        "starting",
        "trusted",
        "broker_unreachable",
        "bus_refused",
        "self_mute",
        "self_deaf",
        "wrong_broker",
    ];
    assert_eq!(names, told);
    assert_eq!(format!("{:>8}|", BusState::Trusted), " trusted|");
}

#[test]
fn links_are_shown_as_they_were_last_told() {
    let mut bus = Bus::new();
    bus.link(Link::Sub, down("gone"));
    let view = bus.trust.view(bus.now);
    assert!(view.publishing.up && !view.subscribed.up);
    assert_eq!(view.publishing.role, Role::Master);
    assert_eq!(view.subscribed.detail.as_deref(), Some("gone"));
    assert_eq!(bus.trust.detail(), "gone");
    bus.link(Link::Pub, down("away"));
    assert_eq!(bus.trust.detail(), "away");
    assert_eq!(bus.trust.view(bus.now).detail, "away");
}

#[test]
fn settling_and_a_pause_of_our_own_are_shown_until_they_are_over() {
    let mut bus = Bus::new();
    bus.heartbeat(10 * MS);
    let until = bus.trust.settling_until().unwrap();
    assert!(bus.trust.settling(until - NS) && !bus.trust.settling(until));
    assert_eq!(bus.trust.view(until - NS).settling_until, Some(until));
    assert_eq!(bus.trust.view(until).settling_until, None);

    let mut bus = Bus::new();
    assert_eq!(bus.trust.stalled_at(), None);
    bus.now = bus.now + 5 * S;
    assert!(bus.trust.turn(bus.now, None).is_some());
    assert_eq!(bus.trust.stalled_at(), Some(bus.now));
    let over = bus.now + 2 * S;
    let view = bus.trust.view(over - NS);
    assert_eq!((view.stalled_until, view.stalls), (Some(over), 1));
    assert_eq!(bus.trust.view(over).stalled_until, None);
}

#[test]
fn a_pause_is_more_than_half_a_second() {
    let mut bus = Bus::new();
    let mut turn = |after: Duration, suspended: Duration| {
        bus.now = bus.now + after;
        bus.trust.turn(bus.now, Some(suspended))
    };
    turn(Duration::ZERO, S);
    assert_eq!(turn(750 * MS, S), None, "a tick that is 500 ms late");
    let (_, pause) = turn(750 * MS + NS, S).unwrap();
    assert_eq!(pause, 500 * MS + NS);
    assert_eq!(turn(250 * MS, 1_500 * MS), None, "the machine slept for 500 ms");
    let (_, pause) = turn(250 * MS, 2_000 * MS + NS).unwrap();
    assert_eq!(pause, 500 * MS + NS);
}

#[test]
fn suspicion_takes_two_echoes_and_an_interval() {
    let mut bus = Bus::trusted();
    let mark = bus.trust.mark(bus.now);
    bus.heartbeat(10 * MS);
    bus.heartbeat(10 * MS);
    assert!(bus.trust.covers_suspicion(mark));
    let later = Coverage::default();
    assert!(bus.trust.covers_suspicion(later));

    let mut bus = Bus::trusted();
    // Right after an echo was sent: one more covers an interval, and is one.
    bus.now = bus.now - S + 20 * MS;
    let mark = bus.trust.mark(bus.now);
    bus.now = bus.now + 980 * MS + 40 * MS;
    bus.heartbeat(10 * MS);
    assert!(bus.trust.covers(mark, S), "an interval");
    assert!(!bus.trust.covers_suspicion(mark), "of one echo");
}

#[test]
fn an_echo_counts_a_quarter_interval_later() {
    let mut bus = Bus::trusted();
    let mark = bus.trust.mark(bus.now);
    for _ in 0..2 {
        bus.heartbeat(10 * MS);
    }
    let slot = bus.sent();
    let back = bus.now + 10 * MS;
    bus.trust.echo(slot, back);
    assert!(!bus.trust.covers(mark, 2 * S));
    assert!(!bus.trust.mature(back + 250 * MS - NS));
    assert!(!bus.trust.covers(mark, 2 * S), "not yet");
    assert!(bus.trust.next_turn() <= back + 250 * MS);
    assert!(bus.trust.mature(back + 250 * MS));
    assert!(bus.trust.covers(mark, 2 * S));
    assert!(!bus.trust.mature(back + S), "once");
}

#[test]
fn two_echoes_too_far_apart_prove_nothing_of_what_lies_between() {
    for (apart, proven) in [(1_500 * MS, true), (1_501 * MS, false)] {
        let mut bus = Bus::trusted();
        let mark = bus.trust.mark(bus.now);
        bus.heartbeat(10 * MS);
        bus.now = bus.now - S + apart;
        bus.heartbeat(10 * MS);
        assert_eq!(bus.trust.covers(mark, apart), proven, "{apart:?}");
    }
}

#[test]
fn a_role_counts_from_when_it_was_read() {
    let mut bus = Bus::trusted();
    let condemned = bus.now;
    assert!(!bus.trust.role_read_since(condemned));
    bus.link(Link::Pub, up(Role::Master));
    assert!(bus.trust.role_read_since(condemned));
    assert!(!bus.trust.role_read_since(condemned + NS));
}

#[test]
fn nobody_received_it_means_deaf_only_for_a_subscription_older_than_the_heartbeat() {
    let now = Time::from_origin(1_000 * S);
    let mut trust = SelfTrust::new(S, SETTLE, now);
    trust.link(Link::Pub, up(Role::Master), now);
    // The first goes out before the subscription stands, the second at that moment, the third after it.
    trust.sent(1, now);
    trust.link(Link::Sub, up(Role::Master), now + MS);
    trust.sent(2, now + MS);
    trust.sent(3, now + 2 * MS);
    assert_eq!(trust.taken(2, 0, now + 3 * MS), Changed::default());
    let changed = trust.taken(3, 0, now + 3 * MS);
    assert_eq!(changed.replace, Some((Link::Sub, Cause::SelfDeaf)));
    assert_eq!(trust.state(), BusState::SelfDeaf);
    assert_eq!(trust.view(now).subscribed.replaced, 1);
}

#[test]
fn what_the_server_did_not_take_is_no_longer_under_way() {
    let mut bus = Bus::trusted();
    let (first, second) = (bus.sent(), bus.sent());
    bus.trust.not_taken(first);
    assert_eq!(bus.trust.under_way_slots(), [second]);
    bus.trust.taken(second, 1, bus.now);
    bus.trust.not_taken(second);
    assert_eq!(bus.trust.under_way_slots(), [second], "a late word of it");
}

#[test]
fn trust_comes_back_with_an_echo_sent_since_it_was_lost() {
    let mut bus = Bus::trusted();
    let before = bus.sent();
    let sent = bus.now;
    bus.now = bus.now + MS;
    bus.link(Link::Pub, up(Role::Replica));
    assert_eq!(bus.trust.state(), BusState::WrongBroker);
    let at_once = bus.sent();
    bus.link(Link::Pub, up(Role::Master));
    bus.trust.echo(before, bus.now + MS);
    assert_eq!(bus.trust.state(), BusState::WrongBroker);
    assert!(!bus.trust.outlives(sent), "it proves nothing any more");
    assert!(bus.trust.echo(at_once, bus.now + 2 * MS).regained);
    assert_eq!(bus.trust.state(), BusState::Trusted);
}

#[test]
fn the_loss_of_one_link_that_nobody_asked_for_is_settled() {
    for link in Link::ALL {
        let mut bus = Bus::trusted();
        bus.link(link, down("reset by peer"));
        bus.link(link, up(Role::Master));
        bus.heartbeat(10 * MS);
        assert!(bus.trust.settling(bus.now), "{link:?}");
    }
}

#[test]
fn another_settling_time_holds_for_the_next_outage() {
    let mut bus = Bus::new();
    bus.heartbeat(10 * MS);
    let until = bus.trust.settling_until();
    bus.trust.configure(5 * S);
    assert_eq!(bus.trust.settling_until(), until);
    bus.link(Link::Sub, down("reset by peer"));
    bus.link(Link::Sub, up(Role::Master));
    let again = bus.now;
    bus.heartbeat(10 * MS);
    assert_eq!(bus.trust.settling_until(), Some(again + 10 * MS + 5 * S));
}

#[test]
fn what_is_lost_while_it_settles_is_settled_anew() {
    let mut bus = Bus::new();
    bus.heartbeat(10 * MS);
    assert!(bus.trust.settling(bus.now));
    bus.now = bus.now + 20 * S;
    let slot = bus.sent();
    // Nobody received it: only this node is deaf, which by itself is no outage.
    bus.trust.taken(slot, 0, bus.now);
    assert_eq!(bus.trust.state(), BusState::SelfDeaf);
    bus.link(Link::Sub, down("left"));
    bus.link(Link::Sub, up(Role::Master));
    let again = bus.now;
    bus.heartbeat(10 * MS);
    assert_eq!(bus.trust.settling_until(), Some(again + 10 * MS + SETTLE));
}

#[test]
fn a_replica_is_left_ever_more_slowly() {
    let mut bus = Bus::trusted();
    let began = bus.now;
    let mut left = vec![(Duration::ZERO, bus.link(Link::Pub, up(Role::Replica)).resolve)];
    for second in 1..200 {
        let after = second * S;
        left.push((after, bus.trust.tick(began + after).resolve));
    }
    let times: Vec<u64> = left
        .iter()
        .filter(|(_, resolve)| *resolve)
        .map(|(after, _)| after.as_secs())
        .collect();
    assert_eq!(times, [0, 5, 15, 35, 75, 135, 195]);
}

#[test]
fn a_server_that_takes_nothing_any_more_makes_mute_and_is_settled() {
    let mut bus = Bus::trusted();
    // The last echo came 990 ms ago.
    bus.sent();
    assert_eq!(bus.trust.tick(bus.now + 2 * S), Changed::default());
    bus.now = bus.now + 2_010 * MS;
    let changed = bus.trust.tick(bus.now);
    assert_eq!(changed.replace, Some((Link::Pub, Cause::SelfMute)));
    assert!(changed.tell && changed.state);
    assert_eq!(bus.trust.state(), BusState::SelfMute);
    assert_eq!(
        bus.trust.detail(),
        "the server answers and does not take our heartbeats"
    );
    let view = bus.trust.view(bus.now);
    assert_eq!((view.publishing.replaced, view.subscribed.replaced), (1, 0));
    // The loss that follows is one that we asked for, and still it was an outage.
    bus.link(Link::Pub, down("left"));
    bus.link(Link::Pub, up(Role::Master));
    bus.heartbeat(10 * MS);
    assert_eq!(bus.trust.state(), BusState::Trusted);
    assert!(bus.trust.settling(bus.now));
}

#[test]
fn echoes_that_keep_coming_late_are_told_once() {
    let mut bus = Bus::trusted();
    let late = "our echoes return, but later than half an interval: silence cannot be proven";
    let told: Vec<bool> = (0..7).map(|_| bus.heartbeat(501 * MS).tell).collect();
    assert_eq!(told, [false, false, false, false, true, false, false]);
    assert_eq!((bus.trust.state(), bus.trust.detail()), (BusState::Trusted, late));
    assert!(bus.heartbeat(500 * MS).tell);
    assert_eq!(bus.trust.detail(), "our echoes return");
    assert!(!bus.heartbeat(10 * MS).tell);
}

#[test]
fn another_reason_for_the_same_loss_is_shown_and_not_told_again() {
    let mut bus = Bus::trusted();
    bus.link(Link::Sub, down("refused"));
    assert!(bus.link(Link::Pub, down("refused")).tell);
    let changed = bus.link(Link::Pub, down("no route"));
    assert_eq!(changed, Changed::default());
    assert_eq!(bus.trust.detail(), "no route");
}
