//! Rungs that keep evidence: right before the shock, at no cost, and never in its way.

use super::ladder::laddered;
use super::*;

const LADDER: &[(RemedyKind, &[Cause], bool)] =
    &[(RemedyKind::Capture, &[], false), (RemedyKind::Signal, &[], true)];

#[test]
fn evidence_is_kept_right_before_the_remedy_and_costs_nothing() {
    let mut world = laddered(LADDER);
    world.stuck_for(4);
    let granted: Vec<_> = world
        .grants
        .iter()
        .map(|(_, grant)| (grant.rung, grant.attempt))
        .collect();
    assert_eq!(granted, [(0, 1), (1, 1)], "{:?}", world.notices);
    assert_eq!(
        world.grants[1].0.since(world.grants[0].0),
        MS,
        "as soon as it is there"
    );
    assert!(world.saw("app: capture acted: done"), "{:?}", world.notices);
    let kept = &world.engine.persisted().peers["app"];
    assert_eq!((kept.restarts.len(), kept.backoff_level), (1, 1));
    let done: Vec<u16> = kept.done.iter().map(|(_, rung)| *rung).collect();
    assert_eq!(done, [1], "the same life may be looked at again");
    let view = world.view(0);
    assert_eq!(
        (
            view.episode.map(|episode| episode.remedies),
            view.remedies_granted
        ),
        (Some(1), 1)
    );
}

#[test]
fn a_capture_that_fails_in_any_way_stops_nothing() {
    let detail = || "no space left on device".to_owned();
    for outcome in [
        Some(RemedyOutcome::Failed { detail: detail() }),
        Some(RemedyOutcome::NotActed { detail: detail() }),
        Some(RemedyOutcome::Fenced { detail: detail() }),
        None,
    ] {
        let mut world = laddered(LADDER);
        let within = if outcome.is_some() { MS } else { 30 * S };
        world.outcome = outcome;
        world.stuck_for(40);
        let [(first, capture), (second, signal)] = &world.grants[..2] else {
            panic!()
        };
        assert_eq!((capture.rung, signal.rung), (0, 1), "{:?}", world.notices);
        assert_eq!(second.since(*first), within);
        assert_eq!(
            world.rungs().iter().filter(|rung| **rung == 0).count(),
            1,
            "once an episode"
        );
    }
}

#[test]
fn it_waits_for_what_it_comes_before_to_be_permitted() {
    let mut world = laddered(LADDER);
    world.engine.settings.peers[0].backoff.initial = 60 * S;
    world.stuck_for(4);
    assert_eq!(world.rungs(), [0, 1]);
    world.exits(0, "a");
    world.running(0, "b");
    world.well_for(15);
    assert!(world.view(0).episode.is_none(), "{:?}", world.notices);
    world.stuck_for(20);
    assert_eq!(
        world.rungs(),
        [0, 1],
        "nothing is kept of a moment long before the shock"
    );
    assert_eq!(world.refusal(0), Some(GuardName::Backoff));
    world.stuck_for(60);
    assert_eq!(world.rungs(), [0, 1, 0, 1], "{:?}", world.notices);
}

#[test]
fn a_peer_that_recovers_while_it_is_looked_at_is_spared_and_recovered_by_itself() {
    let mut world = laddered(LADDER);
    world.outcome = None;
    world.stuck_for(4);
    assert_eq!(world.rungs(), [0]);
    world.well_for(35);
    assert_eq!(world.rungs(), [0], "{:?}", world.notices);
    assert!(world.saw("recovered by itself"), "{:?}", world.notices);
}

#[test]
fn an_exit_meanwhile_is_no_answer_to_it() {
    let mut world = laddered(LADDER);
    world.outcome = None;
    world.stuck_for(4);
    world.exits(0, "a");
    world.run(40 * S);
    assert!(!world.saw("instead of recovering"), "{:?}", world.notices);
    assert_eq!(world.rungs(), [0, 1]);
    assert!(world.grants[1].1.exited);
}

#[test]
fn several_in_a_row_and_one_after_the_last_remedy_are_kept_once_an_episode() {
    let mut world = laddered(&[
        (RemedyKind::Capture, &[], false),
        (RemedyKind::Capture, &[Cause::PeerStuck], false),
        (RemedyKind::Http, &[], false),
        (RemedyKind::Capture, &[], false),
    ]);
    world.stuck_for(120);
    assert_eq!(world.rungs(), [0, 1, 2, 3], "{:?}", world.notices);
    assert!(world.saw("given up after 1 remedy"), "{:?}", world.notices);
}

#[test]
fn alone_it_keeps_the_evidence_and_somebody_has_to_look() {
    let mut world = laddered(&[(RemedyKind::Capture, &[], false)]);
    world.stuck_for(30);
    assert_eq!(world.rungs(), [0]);
    assert!(world.saw("given up after 0 remedies"), "{:?}", world.notices);
    world.well_for(5);
    assert!(world.saw("recovered by itself"), "{:?}", world.notices);
}

#[test]
fn a_dry_run_says_that_it_would_be_kept_and_what_would_follow() {
    let mut world = laddered(LADDER);
    world.engine.settings.dry_run = true;
    world.stuck_for(8);
    assert!(world.grants.is_empty());
    assert!(
        world.saw("would do capture") && world.saw("would do signal"),
        "{:?}",
        world.notices
    );
}

#[test]
fn a_pause_forbids_it_too() {
    let mut world = laddered(LADDER);
    let request = crate::engine::event::OperatorRequest::Pause {
        peer: None,
        reason: "a deploy".to_owned(),
        lasting: None,
    };
    world.feed(Event::Operator {
        request,
        by: "us".to_owned(),
    });
    world.stuck_for(8);
    assert!(world.grants.is_empty(), "{:?}", world.notices);
    assert_eq!(world.refusal(0), Some(GuardName::Paused));
}

/// Two of these peers, `app` and `other`, which are well.
fn twice(of: &PeerSettings) -> World {
    let peers = ["app", "other"].map(|name| PeerSettings {
        name: name.into(),
        ..of.clone()
    });
    let mut world = World::settled(settings(peers.into()));
    for id in [0, 1] {
        world.running(id, "a");
        world.observe(id, 0, Outcome::Pass);
        world.observe(id, 1, Outcome::Pass);
    }
    world.run(11 * S);
    world
}

fn both_stuck_for(world: &mut World, seconds: u32) {
    for _ in 0..seconds {
        for id in [0, 1] {
            world.observe(id, 0, Outcome::Pass);
            world.fail(id, 1);
        }
        world.run(S);
    }
}

#[test]
fn one_permission_is_used_by_one_peer() {
    let mut world = twice(&laddered(LADDER).engine.settings().peers[0].clone());
    // A capture takes its time: nobody else is looked at meanwhile, nor before the restart that it was for.
    world.outcome = None;
    both_stuck_for(&mut world, 8);
    assert_eq!(world.grants.len(), 1, "{:?}", world.notices);
    assert_eq!(world.refusal(1), Some(GuardName::Budget));
    let token = world.grants[0].1.token;
    world.outcome = Some(RemedyOutcome::Acted {
        detail: "done".into(),
    });
    let outcome = world.outcome.clone().unwrap();
    world.feed(Event::RemedyEnded { token, outcome });
    let of: Vec<_> = world
        .grants
        .iter()
        .map(|(_, grant)| (grant.peer.0, grant.rung))
        .collect();
    assert_eq!(of, [(0, 0), (0, 1)], "{:?}", world.notices);
    both_stuck_for(&mut world, 35);
    let of: Vec<_> = world
        .grants
        .iter()
        .map(|(_, grant)| (grant.peer.0, grant.rung))
        .collect();
    assert_eq!(of[2..4], [(1, 0), (1, 1)], "{:?}", world.notices);
}

#[test]
fn a_look_after_a_restart_takes_nobody_down() {
    let mut world = laddered(&[
        (RemedyKind::Docker, &[], true),
        (RemedyKind::Capture, &[], false),
        (RemedyKind::Exec, &[], true),
    ]);
    world.stuck_for(4);
    world.running(0, "b");
    world.outcome = None;
    world.stuck_for(30);
    assert_eq!(world.rungs(), [0, 1], "{:?}", world.notices);
    let kept = &world.engine.persisted().peers["app"];
    assert_eq!(kept.healing, None, "an end of it now is not by our hand");
}

#[test]
fn the_first_of_several_waits_for_the_remedy_after_them_all() {
    let mut world = laddered(&[
        (RemedyKind::Capture, &[], false),
        (RemedyKind::Capture, &[], false),
        (RemedyKind::Signal, &[], true),
    ]);
    world.engine.group.not_before = Some(world.now + 60 * S);
    world.stuck_for(20);
    assert!(world.grants.is_empty(), "{:?}", world.notices);
    assert_eq!(world.refusal(0), Some(GuardName::Budget));
    assert_eq!(
        world.view(0).episode.unwrap().remedy,
        Some(RemedyKind::Capture),
        "and is shown as the next"
    );
    world.stuck_for(60);
    assert_eq!(world.rungs()[..3], [0, 1, 2]);
}

#[test]
fn a_pause_forbids_one_before_a_line_in_the_log_as_well() {
    let mut world = laddered(&[(RemedyKind::Capture, &[], false), (RemedyKind::Log, &[], false)]);
    world.engine.peers[0].grace_until = world.now + 60 * S;
    world.stuck_for(20);
    assert!(world.grants.is_empty(), "{:?}", world.notices);
    assert_eq!(world.refusal(0), Some(GuardName::Grace));
}

#[test]
fn what_restarts_nothing_takes_no_turn() {
    let ladder = laddered(&[
        (RemedyKind::Capture, &[], false),
        (RemedyKind::SocketReset, &[], false),
    ]);
    let ladder = ladder.engine.settings().peers[0].clone();
    let mut world = twice(&ladder);
    world.outcome = None;
    both_stuck_for(&mut world, 8);
    let of: Vec<_> = world.grants.iter().map(|(_, grant)| grant.peer.0).collect();
    assert_eq!(of, [0, 1], "{:?}", world.notices);
    assert!(world.engine.group.down.is_empty());
}
