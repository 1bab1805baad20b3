//! Detectors that learn, in the whole engine: what an outage, a pause and a slow peer do to them.

use std::time::Duration;

use super::{MS, S, World, heartbeat_check, node_beat, node_check, peer, settings};
use crate::engine::peer::Liveness;
use crate::engine::settings::{CheckKind, CheckSettings, ChenSettings, DetectorSettings, PhiSettings};

fn learning(mut check: CheckSettings, settings: DetectorSettings) -> CheckSettings {
    if let CheckKind::Passive { detector, .. } = &mut check.kind {
        *detector = settings;
    }
    check
}

fn both() -> [DetectorSettings; 2] {
    [
        DetectorSettings::Phi(PhiSettings::at(S)),
        DetectorSettings::Chen(ChenSettings::at(S)),
    ]
}

fn world(detector: DetectorSettings) -> World {
    let check = learning(node_check("them"), detector);
    World::settled(settings(vec![peer("them", false, vec![check], None)]))
}

/// Heartbeats of slots, each second one.
fn beats(world: &mut World, slots: std::ops::Range<u64>) {
    for slot in slots {
        world.run(S);
        world.feed(node_beat("them", "b", slot, false));
    }
}

fn detail(world: &mut World) -> String {
    world.view(0).checks[0].detail.clone()
}

#[test]
fn what_was_learned_decides_and_is_told() {
    for (detector, suspect) in both().into_iter().zip(["2.6 s", "2.5 s"]) {
        let mut world = world(detector);
        beats(&mut world, 0..60);
        assert_eq!(world.liveness(0), Liveness::Alive);
        assert_eq!(
            detail(&mut world),
            format!("last pass 0.0 s ago (suspect after {suspect}, dead after 5.0 s, learned from 60)")
        );
        world.run(2_400 * MS);
        assert_eq!(world.liveness(0), Liveness::Alive);
        world.run(1_500 * MS);
        assert_eq!(world.liveness(0), Liveness::Suspect, "{:?}", world.notices);
        world.run(3 * S);
        assert_eq!(world.liveness(0), Liveness::Dead, "{:?}", world.notices);
        world.feed(node_beat("them", "b", 67, false));
        assert_eq!(world.liveness(0), Liveness::Alive);
    }
}

#[test]
fn no_samples_are_neither_suspect_nor_dead() {
    for detector in both() {
        let mut world = world(detector);
        world.run(120 * S);
        assert_eq!(world.liveness(0), Liveness::Unknown, "never heard");
        world.feed(node_beat("them", "b", 0, false));
        world.run(9 * S);
        assert_eq!(
            world.liveness(0),
            Liveness::Alive,
            "one sample: {:?}",
            world.notices
        );
        world.run(10 * S);
        assert_eq!(
            world.liveness(0),
            Liveness::Suspect,
            "the ceiling: {:?}",
            world.notices
        );
        world.run(15 * S);
        assert_eq!(
            world.liveness(0),
            Liveness::Dead,
            "the ceiling: {:?}",
            world.notices
        );
    }
}

#[test]
fn an_outage_and_a_pause_of_our_own_teach_nothing() {
    for detector in both() {
        let mut world = world(detector);
        beats(&mut world, 0..60);
        let before = detail(&mut world);
        world.outage(true);
        world.run(120 * S);
        world.outage(false);
        world.run(40 * S);
        beats(&mut world, 220..221);
        assert_eq!(detail(&mut world), before, "the gap of an outage is no sample");
        assert_eq!(world.liveness(0), Liveness::Alive);
        // This node sleeps for a minute.
        world.now = world.now + 60 * S;
        world.feed(node_beat("them", "b", 280, false));
        assert_eq!(detail(&mut world), before, "nor is that of our own pause");
        beats(&mut world, 281..282);
        assert!(
            detail(&mut world).contains("learned from 61"),
            "{}",
            detail(&mut world)
        );
    }
}

#[test]
fn messages_that_were_lost_on_our_side_teach_nothing() {
    let check = learning(heartbeat_check("hb"), both()[0]);
    let mut world = World::settled(settings(vec![peer("feed", false, vec![check], None)]));
    world.beat("hb");
    for _ in 0..40 {
        world.run(S);
        world.beat("hb");
    }
    let before = detail(&mut world);
    world.run(S);
    world.feed(crate::engine::event::Event::Lost { count: 1 });
    world.run(S);
    world.beat("hb");
    assert_eq!(
        detail(&mut world),
        before,
        "what was not listened to is nobody's silence"
    );
}

#[test]
fn a_new_life_starts_with_the_ceilings() {
    for detector in both() {
        let mut world = world(detector);
        beats(&mut world, 0..60);
        world.feed(node_beat("them", "c", 0, false));
        assert!(
            detail(&mut world).contains("learned from 1)"),
            "{}",
            detail(&mut world)
        );
        world.run(8 * S);
        assert_eq!(world.liveness(0), Liveness::Alive, "{:?}", world.notices);
    }
}

#[test]
fn a_slow_opaque_peer_is_learned_and_its_silence_still_bounded() {
    let check = learning(heartbeat_check("hb"), both()[0]);
    let mut world = World::settled(settings(vec![peer("feed", false, vec![check], None)]));
    let every = Duration::from_millis(2_500);
    for _ in 0..60 {
        world.beat("hb");
        world.run(every);
        assert_eq!(world.liveness(0), Liveness::Alive, "{:?}", world.notices);
    }
    world.run(3 * S);
    assert_eq!(
        world.liveness(0),
        Liveness::Suspect,
        "twice its own interval: {}",
        detail(&mut world)
    );
    world.run(30 * S);
    assert_eq!(world.liveness(0), Liveness::Dead);
}

#[test]
fn what_is_learned_from_a_high_ceiling_is_kept_to_at_once() {
    let mut chen = ChenSettings::at(S);
    chen.bounds.suspect_after = 120 * S;
    chen.bounds.dead_after = 300 * S;
    let mut world = world(DetectorSettings::Chen(chen));
    beats(&mut world, 0..40);
    world.run(4 * S);
    assert_eq!(world.liveness(0), Liveness::Suspect, "{}", detail(&mut world));
    world.run(3 * S);
    assert_eq!(world.liveness(0), Liveness::Dead, "{}", detail(&mut world));
}
