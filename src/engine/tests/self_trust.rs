//! What a node believes of its own links, pauses and clock.

use std::time::Duration;

use super::{MS, S, World, heartbeat_check, http_check, peer, process_check, process_peer, settings};
use crate::engine::cause::Cause;
use crate::engine::decision::What;
use crate::engine::event::{
    Ballot, Body, Event, Heartbeat, Incarnation, Link, LinkStatus, Outcome, PeerClaim, Role,
};
use crate::engine::guards::GuardName;
use crate::engine::peer::Liveness;
use crate::engine::self_trust::{BusState, SelfTrust};
use crate::engine::settings::{CheckKind, DetectorSettings, Plane, RemedyKind, Settings, Source};
use crate::engine::time::Time;

#[test]
fn s08_an_outage_of_seven_minutes_judges_nobody() {
    let mut world = World::settled(settings(vec![
        peer("feed", true, vec![heartbeat_check("hb")], Some(RemedyKind::Exec)),
        peer("http", true, vec![http_check()], Some(RemedyKind::Healthz)),
    ]));
    world.beats("hb");
    world.observe(1, 0, Outcome::Pass);
    world.running(1, "a");
    world.run(10 * S);
    world.observe(1, 0, Outcome::Pass);
    world.outage(true);
    world.run(10 * S);
    assert_eq!(world.liveness(0), Liveness::Unknown);
    assert_eq!(world.view(0).cause, Some(Cause::BrokerUnreachable));
    for _ in 0..41 {
        // A health endpoint that fails because Redis is away (livekit#4663).
        world.fail(1, 0);
        world.run(10 * S);
    }
    assert_eq!(world.view(1).healthz.unwrap().pulsing_until, None);
    world.outage(false);
    world.run(5 * S);
    assert_eq!(world.liveness(0), Liveness::Alive, "the view is whole within 5 s");
    world.run(40 * S);
    assert!(world.grants.is_empty(), "{:?}", world.grants);
}

#[test]
fn s05_nothing_is_published_while_the_link_is_down() {
    let mut world = World::settled(settings(Vec::new()));
    world.outage(true);
    world.due.clear();
    world.run(10 * S);
    assert!(world.due.is_empty());
}

#[test]
fn s07_a_deaf_subscription_is_replaced_and_blames_nobody() {
    let mut world = World::settled(settings(vec![peer(
        "feed",
        true,
        vec![heartbeat_check("hb")],
        None,
    )]));
    world.beats("hb");
    world.run(5 * S);
    let dark = world.now;
    world.bus = false;
    // The server takes our heartbeats and gives them to another subscriber: nothing comes back.
    for _ in 0..30 {
        world.run(100 * MS);
        let slots: Vec<u64> = world.engine.trust.under_way_slots();
        for slot in slots {
            world.feed(Event::Published { slot, receivers: 1 });
        }
    }
    let (at, link) = world.replaced[0];
    assert_eq!(link, Link::Sub);
    assert!(at.since(dark) <= 2_700 * MS, "{:?}", at.since(dark));
    assert_eq!(world.engine.trust.state(), BusState::SelfDeaf);
    assert_ne!(world.liveness(0), Liveness::Dead);
    assert_ne!(world.liveness(0), Liveness::Suspect);
    world.link(Link::Sub, false);
    world.bus = true;
    world.link(Link::Sub, true);
    world.run(3 * S);
    assert_eq!(world.engine.trust.state(), BusState::Trusted);
    assert!(
        !world.engine.trust.settling(world.now),
        "our own replacement is no outage"
    );
    assert_eq!(world.liveness(0), Liveness::Alive);
}

/// Whoever may publish on some peer's channel must not make a deaf node believe that it hears.
#[test]
fn what_we_said_is_no_echo_where_somebody_else_says_it_again() {
    let mut world = World::settled(settings(vec![peer(
        "feed",
        true,
        vec![heartbeat_check("hb")],
        None,
    )]));
    world.beats("hb");
    world.run(5 * S);
    world.bus = false;
    for _ in 0..30 {
        world.run(100 * MS);
        for slot in world.engine.trust.under_way_slots() {
            world.feed(Event::Published { slot, receivers: 1 });
        }
        let (_, said) = world.published.last().unwrap().clone();
        world.feed(Event::Message {
            channel: "hb".into(),
            body: Body::Heartbeat(said),
        });
    }
    assert_eq!(world.engine.trust.state(), BusState::SelfDeaf);
}

#[test]
fn nobody_receives_our_heartbeat_means_deaf_at_once_on_a_plain_server() {
    let mut world = World::settled(settings(Vec::new()));
    world.bus = false;
    world.run(1_100 * MS);
    let slot = world.engine.trust.under_way_slots()[0];
    world.feed(Event::Published { slot, receivers: 0 });
    assert_eq!(world.engine.trust.state(), BusState::SelfDeaf);
    assert_eq!(world.replaced.len(), 1);
}

#[test]
fn s31_own_pauses_change_no_verdict_and_judging_goes_on_within_3_s() {
    for pause in [200 * MS, 3 * S, 60 * S] {
        let mut world = World::settled(settings(vec![
            peer("alive", true, vec![heartbeat_check("hb")], None),
            peer("dead", true, vec![heartbeat_check("other")], None),
        ]));
        world.beats("hb");
        world.beat("other");
        world.run(20 * S);
        assert_eq!(
            (world.liveness(0), world.liveness(1)),
            (Liveness::Alive, Liveness::Dead)
        );
        let told = world.notices.len();
        world.now = world.now + pause;
        world.due.clear();
        world.run(2 * S);
        let changed: Vec<_> = world.notices[told..]
            .iter()
            .filter(|(_, notice)| notice.contains("->"))
            .collect();
        assert!(changed.is_empty(), "{pause:?}: {changed:?}");
        assert_eq!(
            (world.liveness(0), world.liveness(1)),
            (Liveness::Alive, Liveness::Dead),
            "{pause:?}"
        );
        world.beating.clear();
        world.run(7 * S);
        assert_eq!(world.liveness(0), Liveness::Dead, "{pause:?}: it judges again");
    }
}

#[test]
fn s31_a_constant_offset_of_boottime_is_no_pause_and_a_change_is() {
    let mut world = World::new(settings(Vec::new()));
    world.suspended = 3_600 * S;
    world.run(5 * S);
    assert!(!world.saw("stopped or starved"));
    world.suspended = 3_700 * S;
    world.run(5 * S);
    assert!(
        world.saw("this node was stopped or starved for 100000 ms"),
        "{:?}",
        world.notices
    );
}

#[test]
fn s40_a_replica_blames_nobody_and_is_left() {
    let mut world = World::settled(settings(vec![peer(
        "feed",
        true,
        vec![heartbeat_check("hb")],
        None,
    )]));
    world.beats("hb");
    world.run(5 * S);
    world.up = [false; 2];
    world.feed(Event::Link {
        link: Link::Pub,
        status: LinkStatus::Up {
            role: Role::Replica,
            plain: true,
        },
    });
    assert_eq!(world.engine.trust.state(), BusState::WrongBroker);
    assert_eq!(world.replaced.len(), 2, "both are resolved again");
    world.beating.clear();
    world.run(30 * S);
    assert_eq!(world.liveness(0), Liveness::Unknown);
    world.links(true);
    world.run(3 * S);
    assert_eq!(world.engine.trust.state(), BusState::Trusted);
    assert!(world.engine.trust.settling(world.now), "{:#?}", world.notices);
}

#[test]
fn refused_names_the_cure_and_holds() {
    let mut world = World::settled(settings(Vec::new()));
    world.feed(Event::Link {
        link: Link::Pub,
        status: LinkStatus::Refused {
            cure: "ACL SETUSER defib &defib:*".into(),
        },
    });
    let trust = world.engine.snapshot(world.now).trust;
    assert_eq!(trust.bus, BusState::BusRefused);
    assert!(trust.detail.contains("ACL SETUSER"));
}

#[test]
fn s05_a_refused_heartbeat_is_followed_by_the_next_or_nobody_would_learn_of_the_cure() {
    let mut world = World::settled(settings(Vec::new()));
    world.feed(Event::Link {
        link: Link::Pub,
        status: LinkStatus::Refused {
            cure: "ACL SETUSER defib +publish".into(),
        },
    });
    world.bus = false;
    world.due.clear();
    world.run(4 * S);
    assert!(!world.due.is_empty(), "nothing is published any more");
    assert_eq!(world.engine.trust.state(), BusState::BusRefused);
    world.bus = true;
    world.run(2 * S);
    world.link(Link::Pub, true);
    world.run(2 * S);
    assert_eq!(world.engine.trust.state(), BusState::Trusted);
}

#[test]
fn time_that_goes_back_is_not_believed() {
    let mut world = World::settled(settings(vec![peer(
        "feed",
        true,
        vec![heartbeat_check("hb")],
        None,
    )]));
    world.beat("hb");
    world.engine.handle(
        Event::Tick {
            suspended: Duration::ZERO,
        },
        Time::ZERO,
    );
    world.drain();
    assert_eq!(world.liveness(0), Liveness::Alive);
}

#[test]
fn a_short_interval_beats_for_longer_than_a_u32_of_slots() {
    let mut fast = settings(Vec::new());
    fast.interval = MS;
    let mut world = World::settled(fast);
    world.now = world.now + Duration::from_secs(u64::from(u32::MAX / 1_000) + 10);
    world.run(10 * MS);
    assert!(world.engine.poll_timeout() < world.now + S);
    let next = world.engine.own.next_due();
    assert!(next <= world.now + MS, "{next}");
}

#[test]
fn a_dark_link_that_new_connections_do_not_cure_is_replaced_ever_more_slowly() {
    let mut world = World::settled(settings(Vec::new()));
    world.bus = false;
    for _ in 0..1_200 {
        world.run(100 * MS);
        for slot in world.engine.trust.under_way_slots() {
            world.feed(Event::Published { slot, receivers: 1 });
        }
    }
    let gaps: Vec<Duration> = world
        .replaced
        .windows(2)
        .map(|pair| pair[1].0.since(pair[0].0))
        .collect();
    assert!(world.replaced.len() < 12, "{gaps:?}");
    assert!(gaps.iter().all(|gap| *gap <= 40 * S), "and without end: {gaps:?}");
}

#[test]
fn an_outage_that_a_paused_node_slept_through_is_settled_too() {
    let mut world = World::settled(process_peer());
    world.running(0, "a");
    world.looks(0, 0, 3);
    // Stopped for 50 s; the broker was restarted meanwhile, and the peer's client exited of it.
    world.now = world.now + 50 * S;
    world.feed(Event::Tick {
        suspended: Duration::ZERO,
    });
    world.exits(0, "a");
    world.links(false);
    world.due.clear();
    world.links(true);
    world.run(25 * S);
    assert_eq!(world.refusal(0), Some(GuardName::BusSettle));
    assert!(world.grants.is_empty(), "{:?}", world.notices);
    world.run(10 * S);
    assert_eq!(world.grants.len(), 1);
}

fn claimed_peer() -> Settings {
    let mut claim = heartbeat_check("unused");
    claim.kind = CheckKind::Passive {
        source: Source::Claim {
            node: "far".into(),
            peer: "app".into(),
        },
        detector: DetectorSettings::default(),
        cause: Cause::PeerSilent,
    };
    settings(vec![peer("app", false, vec![claim], None)])
}

fn claims_alive(slot: u64) -> Event {
    Event::Message {
        channel: "defib:g".into(),
        body: Body::Heartbeat(Heartbeat {
            node: Some("far".into()),
            group: None,
            boot: Some("boot-far".into()),
            slot: Some(slot),
            late_ms: None,
            uptime_s: None,
            interval_ms: Some(1_000),
            goodbye: false,
            peers: vec![PeerClaim {
                name: "app".into(),
                liveness: Liveness::Alive,
                incarnation: Some(Incarnation("a".into())),
            }],
            ballot: Ballot::default(),
        }),
    }
}

#[test]
fn the_end_of_settling_takes_no_claimed_life_back() {
    let mut world = World::new(claimed_peer());
    for slot in 0..60 {
        world.feed(claims_alive(slot));
        world.run(S);
    }
    let changes = world
        .whats
        .iter()
        .filter(|(_, what)| matches!(what, What::Liveness { .. }));
    assert_eq!(changes.count(), 1, "{:?}", world.notices);
}

#[test]
fn s31_a_settling_time_that_ends_during_an_own_pause_changes_no_verdict() {
    let mut world = World::new(claimed_peer());
    for slot in 0..20 {
        world.feed(claims_alive(slot));
        world.run(S);
    }
    world.now = world.now + 40 * S;
    world.feed(Event::Tick {
        suspended: Duration::ZERO,
    });
    assert_eq!(world.liveness(0), Liveness::Alive, "{:?}", world.notices);
}

#[test]
fn an_echo_that_comes_late_proves_no_silence() {
    for (took, proven) in [(450 * MS, true), (550 * MS, false)] {
        let mut now = Time::from_origin(1_000 * S);
        let mut trust = SelfTrust::new(S, 30 * S, now);
        for link in Link::ALL {
            let status = LinkStatus::Up {
                role: Role::Master,
                plain: true,
            };
            trust.link(link, status, now);
        }
        let mark = trust.mark(now);
        for slot in 0..6 {
            trust.sent(slot, now);
            trust.taken(slot, 1, now);
            trust.echo(slot, now + took);
            now = now + S;
            trust.mature(now);
        }
        assert_eq!(trust.covers(mark, 4 * S), proven, "an echo after {took:?}");
    }
}

#[test]
fn an_active_check_that_reads_the_bus_is_held_with_it_and_begins_anew_after_it() {
    let mut subscription = http_check();
    subscription.plane = Plane::Bus;
    let mut world = World::settled(settings(vec![peer(
        "app",
        true,
        vec![process_check(), subscription],
        Some(RemedyKind::Signal),
    )]));
    world.running(0, "a");
    world.looks(0, 0, 2);
    world.observe(0, 1, Outcome::Pass);
    world.run(10 * S);
    world.outage(true);
    world.run(5 * S);
    for _ in 0..20 {
        world.observe(0, 0, Outcome::Pass);
        world.fail(0, 1);
        world.run(S);
    }
    assert_eq!(world.liveness(0), Liveness::Alive, "by its process");
    assert!(!world.saw("episode"), "{:?}", world.notices);
    world.outage(false);
    for _ in 0..60 {
        world.observe(0, 0, Outcome::Pass);
        world.run(S);
    }
    world.fail(0, 1);
    world.run(S);
    assert_ne!(
        world.liveness(0),
        Liveness::Dead,
        "what failed meanwhile is forgotten"
    );
    world.fail(0, 1);
    world.run(3 * S);
    assert_eq!(world.grants.len(), 1, "{:?}", world.notices);
}
