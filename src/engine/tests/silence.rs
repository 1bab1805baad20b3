//! When no word becomes suspicion and death, and whose word ends it.

use super::{
    MS, S, World, heartbeat_check, http_check, node_beat, node_check, peer, process_check, settings,
};
use crate::engine::cause::Cause;
use crate::engine::event::{Event, ExpectationId, Outcome, RemedyOutcome};
use crate::engine::peer::Liveness;
use crate::engine::self_trust::BusState;
use crate::engine::settings::{CheckKind, DetectorSettings, RemedyKind};

#[test]
fn silence_becomes_suspicion_and_death_and_a_beat_ends_both() {
    let mut world = World::settled(settings(vec![peer(
        "feed",
        true,
        vec![heartbeat_check("hb")],
        None,
    )]));
    assert_eq!(world.liveness(0), Liveness::Unknown, "never seen is not dead");
    world.beat("hb");
    assert_eq!(world.liveness(0), Liveness::Alive);
    world.run(1_900 * MS);
    assert_eq!(world.liveness(0), Liveness::Alive);
    world.run(1_400 * MS);
    assert_eq!(
        world.liveness(0),
        Liveness::Suspect,
        "suspect after 2 s, covered by two echoes at 3.25 s at the latest"
    );
    world.run(3_000 * MS);
    assert_eq!(
        world.liveness(0),
        Liveness::Dead,
        "dead after 5 s, covered at 6.25 s at the latest"
    );
    assert_eq!(world.view(0).cause, Some(Cause::PeerSilent));
    world.beat("hb");
    assert_eq!(world.liveness(0), Liveness::Alive);
    assert!(world.saw("feed: recovered by itself"), "{:?}", world.notices);
}

#[test]
fn s02_data_on_the_channel_is_life_of_the_peer_that_owns_it() {
    let mut world = World::settled(settings(vec![
        peer("feed", true, vec![heartbeat_check("hb")], None),
        peer("data", true, vec![heartbeat_check("can_messages")], None),
    ]));
    world.beat("hb");
    world.beats("can_messages");
    world.run(10 * S);
    assert_eq!(
        world.liveness(0),
        Liveness::Dead,
        "the producer of heartbeats is reported separately"
    );
    assert_eq!(world.liveness(1), Liveness::Alive);
    assert_eq!(world.engine.trust.state(), BusState::Trusted);
}

#[test]
fn s10_a_check_outside_its_expectation_is_unknown_and_inside_it_counts() {
    let mut data = heartbeat_check("can");
    data.needs = Some(ExpectationId(0));
    let mut world = World::settled(settings(vec![peer("data", true, vec![data], None)]));
    let car = |world: &mut World, met| {
        world.feed(Event::Expectation {
            id: ExpectationId(0),
            met,
        });
    };
    car(&mut world, Some(true));
    world.beat("can");
    car(&mut world, Some(false));
    world.run(60 * S);
    assert_eq!(world.liveness(0), Liveness::Unknown);
    assert!(world.view(0).detail.contains("not expected"));
    car(&mut world, Some(true));
    world.run(S);
    assert_eq!(
        world.liveness(0),
        Liveness::Unknown,
        "the silence of before does not count"
    );
    world.run(7 * S);
    assert_eq!(world.liveness(0), Liveness::Dead);
    car(&mut world, None);
    assert_eq!(world.liveness(0), Liveness::Unknown);
}

#[test]
fn a_goodbye_in_the_slot_of_the_last_heartbeat_is_heard() {
    let mut world = World::settled(settings(vec![peer(
        "them",
        false,
        vec![node_check("them")],
        Some(RemedyKind::Exec),
    )]));
    for slot in 1..=3 {
        world.feed(node_beat("them", "b", slot, false));
        world.run(S);
    }
    // As `drain` sends it: out of turn, in the slot that its regular heartbeat has used already.
    world.feed(node_beat("them", "b", 3, true));
    world.run(60 * S);
    assert_eq!(world.liveness(0), Liveness::Unknown, "{:#?}", world.notices);
    assert!(world.saw("them: said goodbye"));
    assert!(world.grants.is_empty(), "{:?}", world.grants);
    world.feed(node_beat("them", "b", 2, false));
    assert_eq!(
        world.liveness(0),
        Liveness::Unknown,
        "a straggler takes no goodbye back"
    );
    world.feed(node_beat("them", "c", 1, false));
    assert_eq!(world.liveness(0), Liveness::Alive, "a new life does");
}

#[test]
fn who_never_came_back_after_an_outage_is_looked_at_until_he_is_dead() {
    let mut check = heartbeat_check("hb");
    if let CheckKind::Passive { detector, .. } = &mut check.kind {
        *detector = DetectorSettings::Deadline {
            suspect_after: 2 * S,
            dead_after: 2_100 * MS,
        };
    }
    let mut world = World::settled(settings(vec![peer("feed", true, vec![check], None)]));
    world.beat("hb");
    world.run(500 * MS);
    world.outage(true);
    world.run(60 * S);
    world.outage(false);
    world.run(120 * S);
    assert_eq!(world.liveness(0), Liveness::Dead, "{:#?}", world.notices);
}

#[test]
fn heartbeats_out_of_turn_do_not_put_off_the_proof_of_silence() {
    let mut peers = vec![peer("feed", true, vec![heartbeat_check("hb")], None)];
    peers.push(peer(
        "looping",
        true,
        vec![process_check()],
        Some(RemedyKind::Exec),
    ));
    let mut world = World::settled(settings(peers));
    world.outcome = Some(RemedyOutcome::NotActed {
        detail: "refused".into(),
    });
    world.beat("hb");
    for life in 0..100 {
        world.running(1, &format!("{life}"));
        world.run(50 * MS);
        world.exits(1, &format!("{life}"));
        world.run(50 * MS);
    }
    assert_eq!(
        world.liveness(0),
        Liveness::Dead,
        "a crash loop elsewhere hides nobody"
    );
}

#[test]
fn failures_from_before_a_check_was_blind_are_not_among_its_last_runs() {
    let mut world = World::settled(settings(vec![peer("app", true, vec![http_check()], None)]));
    for _ in 0..3 {
        world.run(S);
        world.observe(0, 0, Outcome::Pass);
    }
    // It fails as long as an outage lasts, and then cannot be measured for a minute.
    for second in 0..60 {
        world.run(S);
        let detail = "status 403".to_owned();
        match second {
            0..2 => world.fail(0, 0),
            _ => world.observe(0, 0, Outcome::Unknown { detail }),
        }
    }
    assert_eq!(world.liveness(0), Liveness::Unknown);
    world.run(S);
    world.observe(0, 0, Outcome::Pass);
    assert_eq!(
        world.liveness(0),
        Liveness::Alive,
        "a pass condemns nobody: {:?}",
        world.notices
    );
}

#[test]
fn a_silence_that_was_not_listened_to_is_suspect_and_not_dead() {
    let mut world = World::settled(settings(vec![peer(
        "feed",
        true,
        vec![heartbeat_check("hb")],
        None,
    )]));
    world.beat("hb");
    // Something is lost all the time: whatever the peer said may have been among it.
    for _ in 0..12 {
        world.run(500 * MS);
        world.feed(Event::Lost { count: 1 });
    }
    assert_eq!(world.liveness(0), Liveness::Alive, "{:?}", world.notices);
    world.run(3 * S);
    assert_eq!(world.liveness(0), Liveness::Suspect, "{:?}", world.notices);
    world.run(5 * S);
    assert_eq!(world.liveness(0), Liveness::Dead, "{:?}", world.notices);
}
