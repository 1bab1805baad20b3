//! Which life of a peer it is, and what is said of another one.

use std::time::Duration;

use super::{S, World, heartbeat_check, http_check, peer, process_check, process_peer, settings};
use crate::engine::cause::Cause;
use crate::engine::event::{Ballot, Body, Event, Heartbeat, Incarnation, OperatorRequest, OwnerSeen, PeerId};
use crate::engine::guards::GuardName;
use crate::engine::peer::Liveness;
use crate::engine::persist::{Persisted, Restored};
use crate::engine::settings::{CheckKind, DetectorSettings, RemedyKind, Source};

#[test]
fn s15_a_falling_uptime_is_a_new_incarnation_and_jitter_or_a_second_writer_is_not() {
    let mut world = World::settled(settings(vec![peer(
        "feed",
        true,
        vec![heartbeat_check("hb")],
        None,
    )]));
    world.uptime("hb", 100.0);
    world.run(S);
    world.uptime("hb", 100.9);
    world.run(S);
    world.uptime("hb", 50.0);
    world.run(S);
    assert_eq!(
        world.view(0).incarnations,
        0,
        "a second writer, older than the first one's last beat"
    );
    world.run(4 * S);
    world.uptime("hb", 1.0);
    assert_eq!(world.view(0).incarnations, 1);
}

#[test]
fn what_exits_during_a_pause_is_on_purpose() {
    let mut world = World::settled(process_peer());
    world.running(0, "a");
    world.looks(0, 0, 2);
    world.feed(Event::Operator {
        request: OperatorRequest::Pause {
            peer: Some(PeerId(0)),
            reason: "by hand".into(),
            lasting: Some(60 * S),
        },
        by: "uid 0".into(),
    });
    world.exits(0, "a");
    world.run(10 * S);
    assert_eq!(world.liveness(0), Liveness::Dead, "still judged");
    assert_eq!(world.refusal(0), Some(GuardName::Paused));
    world.run(600 * S);
    assert_eq!(world.refusal(0), Some(GuardName::Grace));
    assert!(world.grants.is_empty());
}

#[test]
fn an_absent_owner_that_nobody_saw_exit_is_unknown() {
    let mut world = World::settled(process_peer());
    world.feed(Event::Owner {
        peer: PeerId(0),
        seen: OwnerSeen::Absent {
            detail: "no process".into(),
        },
    });
    world.run(60 * S);
    assert_eq!(world.liveness(0), Liveness::Unknown);
    assert!(world.grants.is_empty());
}

#[test]
fn a_forged_boot_does_not_make_the_true_one_a_straggler_for_ever() {
    let mut node = heartbeat_check("-");
    node.kind = CheckKind::Passive {
        source: Source::Node("other".into()),
        detector: DetectorSettings::default(),
        cause: Cause::PeerSilent,
    };
    let mut world = World::settled(settings(vec![peer("other", false, vec![node], None)]));
    let beat = |world: &mut World, boot: &str, slot: u64| {
        let beat = Heartbeat {
            node: Some("other".into()),
            group: Some("g".into()),
            boot: Some(boot.into()),
            slot: Some(slot),
            late_ms: None,
            uptime_s: None,
            interval_ms: Some(1_000),
            goodbye: false,
            peers: Vec::new(),
            ballot: Ballot::default(),
        };
        world.feed(Event::Message {
            channel: "defib:g".into(),
            body: Body::Heartbeat(beat),
        });
        world.run(S);
    };
    for slot in 0..5 {
        beat(&mut world, "true", slot);
    }
    beat(&mut world, "forged", 0);
    for slot in 6..20 {
        beat(&mut world, "true", slot);
    }
    assert_eq!(world.liveness(0), Liveness::Alive, "{:?}", world.notices);
    assert!(!world.saw("-> dead"), "{:?}", world.notices);
}

#[test]
fn a_process_that_appears_where_none_was_is_not_judged_by_what_failed_before_it() {
    let mut one = peer(
        "app",
        true,
        vec![process_check(), http_check()],
        Some(RemedyKind::Exec),
    );
    one.grace = 8 * S;
    let mut kept = Persisted::default();
    kept.peers.entry("app".to_owned()).or_default().passed = vec!["http".to_owned()];
    let mut world = World::restored(
        settings(vec![one]),
        &Restored::Found(Box::new(kept), Duration::ZERO),
    );
    let detail = "no process matches".to_owned();
    world.feed(Event::Owner {
        peer: PeerId(0),
        seen: OwnerSeen::Absent { detail },
    });
    for _ in 0..60 {
        world.fail(0, 1);
        world.run(S);
    }
    assert_eq!(world.liveness(0), Liveness::Dead);
    world.running(0, "a");
    world.fail(0, 1);
    world.run(7 * S);
    assert!(world.grants.is_empty(), "it has only begun: {:?}", world.notices);
}

#[test]
fn one_replayed_beat_of_an_earlier_boot_does_not_silence_the_living_for_good() {
    let mut far = heartbeat_check("unused");
    far.kind = CheckKind::Passive {
        source: Source::Node("far".into()),
        detector: DetectorSettings::default(),
        cause: Cause::PeerSilent,
    };
    let mut world = World::settled(settings(vec![peer("far", false, vec![far], None)]));
    let beat = |boot: &str, slot: u64| Event::Message {
        channel: "defib:g".into(),
        body: Body::Heartbeat(Heartbeat {
            node: Some("far".into()),
            group: None,
            boot: Some(boot.into()),
            slot: Some(slot),
            late_ms: None,
            uptime_s: None,
            interval_ms: Some(1_000),
            goodbye: false,
            peers: Vec::new(),
            ballot: Ballot::default(),
        }),
    };
    for slot in 0..5 {
        world.feed(beat("now", slot));
        world.run(S);
    }
    world.feed(beat("before", 900));
    for slot in 5..15 {
        world.feed(beat("now", slot));
        world.run(S);
    }
    assert_eq!(world.liveness(0), Liveness::Alive, "{:?}", world.notices);
    assert_eq!(world.view(0).incarnation, Some(Incarnation("boot:now".into())));
    // Stragglers of an earlier life while the current one beats are still none.
    for slot in 15..25 {
        world.feed(beat("now", slot));
        world.feed(beat("before", 901 + slot));
        world.run(S);
    }
    assert_eq!(world.view(0).incarnation, Some(Incarnation("boot:now".into())));
}

#[test]
fn a_falling_uptime_that_came_late_is_another_life_once_the_old_one_is_silent() {
    let mut world = World::settled(settings(vec![peer(
        "feed",
        true,
        vec![heartbeat_check("hb")],
        None,
    )]));
    for up in 100..105 {
        world.uptime("hb", f64::from(up));
        world.run(S);
    }
    let before = world.view(0).incarnation;
    // A pause of our own: the last beats of one life and the first of the next are read at once.
    world.now = world.now + 20 * S;
    world.feed(Event::Tick {
        suspended: Duration::ZERO,
    });
    world.uptime("hb", 110.0);
    for up in 5..200 {
        world.uptime("hb", f64::from(up));
        world.run(S);
        assert_eq!(world.liveness(0), Liveness::Alive, "at {up}: {:?}", world.notices);
    }
    assert_ne!(world.view(0).incarnation, before);
}
