//! From a verdict to a remedy, and from the remedy to the proof.

use std::time::Duration;

use super::ladder::laddered;
use super::{MS, S, World, http_check, node_beat, node_check, peer, process_check, process_peer, settings};
use crate::engine::cause::Cause;
use crate::engine::event::{
    Body, Event, Incarnation, OperatorRequest, Outcome, PeerClaim, PeerId, RemedyOutcome,
};
use crate::engine::guards::GuardName;
use crate::engine::peer::Liveness;
use crate::engine::settings::{CheckKind, RemedyKind, Source};
use crate::engine::snapshot::EpisodePhase;

#[test]
fn a_witnessed_exit_is_healed_once_an_echo_outlives_it() {
    let mut world = World::settled(process_peer());
    world.running(0, "a");
    world.looks(0, 0, 3);
    world.exits(0, "a");
    assert_eq!(world.liveness(0), Liveness::Dead);
    assert_eq!(world.view(0).cause, Some(Cause::PeerExited));
    assert!(
        world.grants.is_empty(),
        "not before the bus is known to have outlived it"
    );
    let at = world.now;
    world.run(5 * MS);
    assert_eq!(world.grants.len(), 1, "{:?}", world.notices);
    assert!(
        world.grants[0].0.since(at) <= 2 * MS,
        "a heartbeat out of turn asks the bus at once"
    );
    assert!(world.grants[0].1.exited);
    world.running(0, "b");
    world.looks(0, 0, 1);
    assert_eq!(world.liveness(0), Liveness::Alive);
    assert!(world.saw("app: recovered, proven"), "{:?}", world.notices);
}

#[test]
fn an_exit_that_outruns_the_news_of_the_outage_restarts_nothing() {
    let mut world = World::settled(process_peer());
    world.running(0, "a");
    world.looks(0, 0, 3);
    world.run(10 * MS);
    world.bus = false;
    world.exits(0, "a");
    world.run(9 * MS);
    world.links(false);
    world.run(420 * S);
    assert_eq!(world.liveness(0), Liveness::Dead, "a local exit is never hidden");
    assert_eq!(
        world.refusal(0),
        Some(GuardName::SelfTrust),
        "{:#?}",
        world.notices
    );
    world.outage(false);
    world.run(20 * S);
    assert_eq!(world.refusal(0), Some(GuardName::BusSettle));
    assert!(world.grants.is_empty());
    world.run(20 * S);
    assert_eq!(
        world.grants.len(),
        1,
        "what is still gone after the settling time is healed"
    );
}

#[test]
fn a_pulse_lasts_until_a_new_life_or_its_hold() {
    let app = || {
        settings(vec![peer(
            "app",
            true,
            vec![process_check(), http_check()],
            Some(RemedyKind::Healthz),
        )])
    };
    let sick = || {
        let mut world = World::settled(app());
        world.running(0, "a");
        world.observe(0, 1, Outcome::Pass);
        for _ in 0..3 {
            world.run(S);
            world.fail(0, 1);
        }
        world.run(S);
        assert!(
            world.view(0).healthz.unwrap().pulsing_until.is_some(),
            "{:?}",
            world.notices
        );
        world
    };
    let mut world = sick();
    world.running(0, "b");
    assert_eq!(world.view(0).healthz.unwrap().pulsing_until, None);
    world.run(S);
    world.observe(0, 0, Outcome::Pass);
    world.observe(0, 1, Outcome::Pass);
    assert!(world.saw("app: recovered, proven"), "{:?}", world.notices);

    let mut world = sick();
    world.run(46 * S);
    assert_eq!(
        world.view(0).healthz.unwrap().pulsing_until,
        None,
        "never for ever"
    );
    assert!(world.saw("is its probe wired?"), "{:?}", world.notices);
}

#[test]
fn a_fenced_remedy_costs_nothing_but_time() {
    let mut world = World::settled(process_peer());
    world.running(0, "a");
    world.looks(0, 0, 2);
    world.outcome = Some(RemedyOutcome::Fenced {
        detail: "newer".into(),
    });
    world.exits(0, "a");
    world.run(S);
    assert_eq!(world.grants.len(), 1);
    assert_eq!(world.view(0).budget_left, 3);
    assert_eq!(world.refusal(0), Some(GuardName::Backoff));
    world.run(30 * S);
    assert!(
        world.grants.len() >= 2,
        "it may be tried again: {:?}",
        world.notices
    );
}

#[test]
fn a_rung_is_used_once_for_each_life_and_then_given_up_loudly() {
    let app = peer(
        "app",
        true,
        vec![process_check(), http_check()],
        Some(RemedyKind::Signal),
    );
    let mut world = World::settled(settings(vec![app]));
    world.running(0, "a");
    for episode in 1..=2 {
        world.observe(0, 0, Outcome::Pass);
        world.observe(0, 1, Outcome::Pass);
        world.run(6 * S);
        for _ in 0..2 {
            world.fail(0, 1);
            world.run(S);
        }
        assert_eq!(
            world.grants.len(),
            1,
            "once is enough for one life: {:#?}",
            world.notices
        );
        assert_eq!(world.saw("app: given up"), episode == 2, "{:#?}", world.notices);
        for _ in 0..4 {
            world.observe(0, 0, Outcome::Pass);
            world.observe(0, 1, Outcome::Pass);
            world.run(S);
        }
        assert!(world.view(0).episode.is_none(), "re-armed by its own recovery");
        world.run(20 * S);
    }
}

#[test]
fn a_restarted_peer_is_not_proven_by_its_process_alone() {
    let mut world = World::settled(settings(vec![peer(
        "app",
        true,
        vec![process_check(), http_check()],
        Some(RemedyKind::Exec),
    )]));
    world.running(0, "a");
    world.observe(0, 1, Outcome::Pass);
    world.looks(0, 0, 2);
    world.exits(0, "a");
    world.run(S);
    assert_eq!(world.grants.len(), 1);
    world.running(0, "b");
    for _ in 0..12 {
        world.run(900 * MS);
        world.observe(0, 0, Outcome::Pass);
        assert!(!world.saw("app: recovered"), "{:#?}", world.notices);
        world.fail(0, 1);
    }
}

/// A peer whose `/healthz` answers 503 just now.
fn pulsing() -> World {
    let mut world = World::settled(settings(vec![peer(
        "app",
        true,
        vec![process_check(), http_check()],
        Some(RemedyKind::Healthz),
    )]));
    world.running(0, "a");
    world.observe(0, 1, Outcome::Pass);
    for _ in 0..3 {
        world.run(S);
        world.fail(0, 1);
    }
    world.run(S);
    assert!(world.view(0).healthz.unwrap().pulsing_until.is_some());
    world
}

#[test]
fn a_pause_takes_a_pulse_back() {
    for whom in [None, Some(PeerId(0))] {
        let mut world = pulsing();
        world.feed(Event::Operator {
            request: OperatorRequest::Pause {
                peer: whom,
                reason: "hands off".into(),
                lasting: None,
            },
            by: "uid 0".into(),
        });
        assert_eq!(world.view(0).healthz.unwrap().pulsing_until, None);
        world.run(S);
        assert_eq!(world.refusal(0), Some(GuardName::Paused));
    }
}

#[test]
fn who_recovers_by_himself_during_his_pulse_is_not_killed() {
    let mut world = pulsing();
    for _ in 0..3 {
        world.run(S);
        world.observe(0, 0, Outcome::Pass);
        world.observe(0, 1, Outcome::Pass);
    }
    assert_eq!(world.liveness(0), Liveness::Alive);
    assert_eq!(world.view(0).healthz.unwrap().pulsing_until, None);
    assert!(world.saw("app: recovered"), "{:#?}", world.notices);
}

#[test]
fn a_remedy_that_is_verified_at_once_does_not_wait_for_ever() {
    let mut app = process_peer();
    app.dry_run = true;
    app.peers[0].remedies[0].verify_within = Duration::ZERO;
    let mut world = World::settled(app);
    world.running(0, "a");
    world.looks(0, 0, 2);
    world.exits(0, "a");
    world.run(5 * S);
    let phase = world.view(0).episode.unwrap().phase;
    assert!(!matches!(phase, EpisodePhase::Verifying { .. }), "{phase:?}");
    assert!(world.engine.group.down.is_empty(), "the slot is not kept");
}

#[test]
fn a_goodbye_that_our_own_remedy_caused_is_no_purpose() {
    let mut check = node_check("them");
    if let CheckKind::Passive { source, .. } = &mut check.kind {
        *source = Source::Claim {
            node: "them".into(),
            peer: "app".into(),
        };
    }
    let mut world = World::settled(settings(vec![peer(
        "app",
        false,
        vec![check],
        Some(RemedyKind::Exec),
    )]));
    world.outcome = None;
    let mut slot = 0;
    let mut says = |world: &mut World, liveness, goodbye| {
        slot += 1;
        let Event::Message { channel, body } = node_beat("them", "b", slot, goodbye) else {
            unreachable!()
        };
        let Body::Heartbeat(mut beat) = body else {
            unreachable!()
        };
        beat.peers.push(PeerClaim {
            name: "app".into(),
            liveness,
            incarnation: Some(Incarnation("a".into())),
        });
        world.feed(Event::Message {
            channel,
            body: Body::Heartbeat(beat),
        });
        world.run(S);
    };
    says(&mut world, Liveness::Alive, false);
    for _ in 0..4 {
        says(&mut world, Liveness::Dead, false);
    }
    assert_eq!(world.grants.len(), 1, "{:#?}", world.notices);
    // The restart takes the node beside it along, which says goodbye; and both come back as they were.
    says(&mut world, Liveness::Dead, true);
    assert!(!world.saw("app: said goodbye"), "{:#?}", world.notices);
    assert!(world.view(0).episode.is_some());
}

#[test]
fn a_log_rung_is_logged_once_an_episode_and_costs_no_backoff() {
    let mut world = World::settled(settings(vec![peer(
        "app",
        true,
        vec![process_check()],
        Some(RemedyKind::Log),
    )]));
    world.running(0, "a");
    world.looks(0, 0, 2);
    world.exits(0, "a");
    world.run(120 * S);
    assert_eq!(world.grants.len(), 1);
    assert!(
        world.saw("given up"),
        "nothing is left to try: {:?}",
        world.notices
    );
    world.running(0, "b");
    world.looks(0, 0, 3);
    world.exits(0, "b");
    world.run(S);
    assert_eq!(world.grants.len(), 2);
}

#[test]
fn a_slot_ends_by_its_time_though_its_proof_cannot_be_heard() {
    let mut remote = peer("x", false, vec![node_check("x")], Some(RemedyKind::Exec));
    remote.remedies[0].verify_within = 20 * S;
    let mut world = World::settled(settings(vec![remote]));
    for slot in 0..3 {
        world.feed(node_beat("x", "b", slot, false));
        world.run(S);
    }
    world.run(10 * S);
    assert_eq!(world.grants.len(), 1, "{:#?}", world.notices);
    let down = |world: &World| {
        let until = world.engine.group.down.get(&PeerId(0));
        until.is_some_and(|until| world.now < *until)
    };
    world.outage(true);
    world.run(18 * S);
    assert!(down(&world));
    world.run(15 * S);
    assert!(!down(&world), "verify_within and 10 s are over");
    assert!(matches!(
        world.view(0).episode.unwrap().phase,
        EpisodePhase::Verifying { .. }
    ));
}

#[test]
fn what_touched_nothing_makes_no_restart_of_what_was_done_before() {
    let mut world = laddered(&[
        (RemedyKind::SocketReset, &[], false),
        (RemedyKind::Exec, &[], true),
    ]);
    world.stuck_for(4);
    assert_eq!(world.rungs(), [0], "{:#?}", world.notices);
    world.outcome = Some(RemedyOutcome::Fenced {
        detail: "another life runs".into(),
    });
    world.stuck_for(20);
    assert_eq!(world.rungs()[..2], [0, 1]);
    assert!(world.saw("fenced"), "{:#?}", world.notices);
    let episode = world.engine.peers[0].episode.as_ref().unwrap();
    assert_eq!(episode.remedies, 1, "the gentle one");
    assert!(!episode.restarted);
}

#[test]
fn an_answer_that_comes_after_its_time_changes_nothing() {
    let mut world = World::settled(process_peer());
    world.running(0, "a");
    world.looks(0, 0, 3);
    world.outcome = None;
    world.exits(0, "a");
    world.run(S);
    let token = world.grants[0].1.token;
    let left = world.view(0).budget_left;
    world.run(32 * S);
    assert!(world.saw("did not answer in time"), "{:#?}", world.notices);
    world.feed(Event::RemedyEnded {
        token,
        outcome: RemedyOutcome::NotActed {
            detail: "too late to say so".into(),
        },
    });
    assert_eq!(world.view(0).budget_left, left, "it may have acted after all");
    assert!(matches!(
        world.view(0).episode.unwrap().phase,
        EpisodePhase::Verifying { .. }
    ));
}

#[test]
fn an_exit_by_our_hand_during_a_pause_is_nobodys_purpose() {
    let mut world = laddered(&[(RemedyKind::Docker, &[], true)]);
    world.outcome = None;
    world.stuck_for(4);
    assert_eq!(world.grants.len(), 1, "{:#?}", world.notices);
    world.feed(Event::Operator {
        request: OperatorRequest::Pause {
            peer: None,
            reason: "deploy".into(),
            lasting: Some(30 * S),
        },
        by: "uid 0".into(),
    });
    world.exits(0, "a");
    let token = world.grants[0].1.token;
    world.feed(Event::RemedyEnded {
        token,
        outcome: RemedyOutcome::Failed {
            detail: "it did not start".into(),
        },
    });
    world.run(100 * S);
    assert_eq!(world.grants.len(), 2, "{:#?}", world.notices);
}

#[test]
fn a_slot_ends_with_the_proof() {
    let mut world = laddered(&[(RemedyKind::SocketReset, &[], false)]);
    world.stuck_for(4);
    world.exits(0, "a");
    assert!(world.saw("instead of"), "{:#?}", world.notices);
    world.running(0, "b");
    world.well_for(3);
    assert!(world.view(0).episode.is_none(), "{:#?}", world.notices);
    assert!(world.engine.group.down.is_empty(), "others need not wait for it");
}

#[test]
fn the_cause_of_an_episode_is_that_which_its_remedy_was_for() {
    let mut world = laddered(&[(RemedyKind::Docker, &[], true)]);
    world.stuck_for(4);
    assert_eq!(world.grants.len(), 1, "{:#?}", world.notices);
    world.exits(0, "a");
    assert_eq!(world.view(0).cause, Some(Cause::PeerExited));
    let episode = world.view(0).episode.unwrap();
    assert!(matches!(episode.phase, EpisodePhase::Verifying { .. }));
    assert_eq!(episode.cause, Cause::PeerStuck);
}
