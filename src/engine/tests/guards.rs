//! What refuses a remedy, and until when.

use std::time::Duration;

use super::{MS, S, World, heartbeat_check, http_check, peer, process_check, process_peer, settings};
use crate::engine::decision::What;
use crate::engine::event::{Body, Event, ExpectationId, OperatorRequest, Outcome, OwnerSeen, PeerId};
use crate::engine::guards::GuardName;
use crate::engine::peer::Liveness;
use crate::engine::persist::Restored;
use crate::engine::settings::RemedyKind;
use crate::engine::snapshot::EpisodePhase;

#[test]
fn s13_a_peer_that_stays_dead_is_given_up_at_its_budget_with_growing_backoff() {
    let mut world = World::settled(settings(vec![peer(
        "app",
        true,
        vec![process_check(), heartbeat_check("hb")],
        Some(RemedyKind::Exec),
    )]));
    world.running(0, "life 0");
    world.beat("hb");
    world.run(3 * S);
    let mut lives = 0;
    for _ in 0..900 {
        // Each restart makes a new life that never beats.
        if world.grants.len() > lives {
            lives = world.grants.len();
            world.running(0, &format!("life {lives}"));
        }
        world.run(S);
    }
    assert_eq!(world.grants.len(), 3, "{:#?}", world.notices);
    assert!(
        world.saw("app: given up after 3 remedies"),
        "{:#?}",
        world.notices
    );
    assert!(matches!(
        world.view(0).episode.unwrap().phase,
        EpisodePhase::GaveUp { .. }
    ));
    let gaps: Vec<Duration> = world
        .grants
        .windows(2)
        .map(|pair| pair[1].0.since(pair[0].0))
        .collect();
    assert!(
        gaps[0] >= 10 * S && gaps[1] >= 20 * S,
        "backoff doubles: {gaps:?}"
    );
    // It is still watched, and re-armed by its own recovery.
    world.beats("hb");
    world.running(0, "by hand");
    world.looks(0, 0, 3);
    assert!(world.view(0).episode.is_none(), "{:#?}", world.notices);
}

#[test]
fn s15_a_peer_in_its_grace_is_not_restarted_again() {
    let mut app = peer(
        "app",
        true,
        vec![process_check(), http_check()],
        Some(RemedyKind::Exec),
    );
    app.grace = 30 * S;
    app.remedies[0].verify_within = S;
    app.backoff.initial = S;
    let mut world = World::settled(settings(vec![app]));
    world.running(0, "a");
    world.observe(0, 1, Outcome::Pass);
    world.run(S);
    world.fail(0, 1);
    world.run(S);
    world.fail(0, 1);
    world.run(5 * S);
    assert_eq!(world.grants.len(), 1, "{:#?}", world.notices);
    world.running(0, "b");
    for _ in 0..20 {
        world.run(S);
        world.fail(0, 1);
    }
    assert_eq!(world.grants.len(), 1, "in its grace: {:#?}", world.notices);
}

#[test]
fn s35_a_pause_judges_and_does_nothing_survives_a_restart_and_expires() {
    let mut world = World::settled(process_peer());
    world.running(0, "a");
    world.looks(0, 0, 2);
    world.feed(Event::Operator {
        request: OperatorRequest::Pause {
            peer: None,
            reason: "deploy".into(),
            lasting: Some(60 * S),
        },
        by: "uid 0".into(),
    });
    world.run(10 * S);
    let kept = world.persisted.clone().unwrap();
    let mut world = World::restored(process_peer(), &Restored::Found(Box::new(kept), 20 * S));
    world.run(39 * S);
    assert!(world.engine.node_pause.is_some());
    world.run(2 * S);
    assert!(world.saw("resume by clock"), "{:?}", world.notices);
    assert!(world.engine.node_pause.is_none());
}

#[test]
fn s36_a_dry_run_decides_the_same_and_does_nothing() {
    let mut dry = process_peer();
    dry.dry_run = true;
    let mut world = World::settled(dry);
    world.running(0, "a");
    world.looks(0, 0, 2);
    world.exits(0, "a");
    world.run(60 * S);
    assert!(world.grants.is_empty());
    assert!(
        world.saw("app: dry run: would do exec for peer_exited"),
        "{:?}",
        world.notices
    );
    let shown = world
        .whats
        .iter()
        .filter(|(_, what)| matches!(what, What::WouldHeal { .. }))
        .count();
    assert_eq!(shown, 1, "once, not at each asking");
    assert!(
        world.persisted.unwrap().dry_run,
        "its budgets bind only another dry run"
    );
}

#[test]
fn a_peer_that_was_never_alive_is_not_restarted() {
    let mut world = World::settled(settings(vec![peer(
        "app",
        true,
        vec![process_check(), http_check()],
        Some(RemedyKind::Exec),
    )]));
    world.running(0, "a");
    for _ in 0..30 {
        world.run(S);
        world.fail(0, 1);
    }
    assert_eq!(world.liveness(0), Liveness::Dead);
    assert_eq!(world.refusal(0), Some(GuardName::Grace));
    assert!(world.grants.is_empty());
}

#[test]
fn drain_says_goodbye_and_heals_nothing() {
    let mut world = World::settled(process_peer());
    world.running(0, "a");
    world.looks(0, 0, 2);
    world.feed(Event::Operator {
        request: OperatorRequest::Drain,
        by: "SIGTERM".into(),
    });
    let goodbyes = world
        .due
        .iter()
        .filter(
            |(_, event)| matches!(event, Event::Message { body: Body::Heartbeat(beat), .. } if beat.goodbye),
        )
        .count();
    assert_eq!(goodbyes, 1);
    assert!(world.engine.snapshot(world.now).draining);
    world.exits(0, "a");
    world.run(30 * S);
    assert!(world.grants.is_empty());
}

#[test]
fn what_a_dry_run_seemed_to_take_down_binds_no_real_run_and_is_not_given_up() {
    let mut dry = process_peer();
    dry.dry_run = true;
    let mut world = World::settled(dry);
    world.running(0, "a");
    world.looks(0, 0, 2);
    world.exits(0, "a");
    world.run(2 * S);
    let acting = world.persisted.clone().unwrap();
    world.run(60 * S);
    assert!(!world.saw("given up"), "nothing was tried: {:?}", world.notices);
    let view = world.view(0).episode.unwrap();
    assert_eq!(view.refusal.unwrap().guard, GuardName::DryRun);
    // Life after life, until the shadow budget is spent.
    for life in ["b", "c", "d", "e"] {
        world.running(0, life);
        world.run(2 * S);
        world.exits(0, life);
        world.run(100 * S);
    }
    assert_eq!(world.refusal(0), Some(GuardName::Budget), "{:?}", world.notices);
    assert!(!world.saw("given up"), "{:?}", world.notices);
    let decided = world.persisted.clone().unwrap();

    let mut world = World::restored(process_peer(), &Restored::Found(Box::new(acting), S));
    world.feed(Event::Owner {
        peer: PeerId(0),
        seen: OwnerSeen::Absent {
            detail: "none".into(),
        },
    });
    world.run(60 * S);
    assert_eq!(
        world.liveness(0),
        Liveness::Unknown,
        "a dry run took nothing down: what is not there was stopped by somebody else"
    );

    let mut world = World::restored(process_peer(), &Restored::Found(Box::new(decided), S));
    assert_eq!(
        world.view(0).episode,
        None,
        "what a dry run decided was never tried"
    );
    world.run(40 * S);
    world.exits(0, "b");
    world.run(2 * S);
    assert_eq!(world.grants.len(), 1, "{:#?}", world.notices);
}

#[test]
fn a_check_that_never_passed_or_is_not_expected_has_no_say_in_a_remedy() {
    // `http` never passed; `heartbeat` condemned too, for a moment, and came back.
    let mut app = peer(
        "app",
        true,
        vec![process_check(), http_check(), heartbeat_check("hb")],
        Some(RemedyKind::Exec),
    );
    app.single_observer = true;
    let mut world = World::settled(settings(vec![app]));
    world.running(0, "a");
    world.beat("hb");
    world.feed(Event::Operator {
        request: OperatorRequest::Pause {
            peer: None,
            reason: "deploy".into(),
            lasting: Some(30 * S),
        },
        by: "uid 0".into(),
    });
    for second in 0..60 {
        world.run(S);
        world.fail(0, 1);
        if second > 20 {
            world.beat("hb");
        }
    }
    assert_eq!(world.liveness(0), Liveness::Dead);
    assert!(world.grants.is_empty(), "{:#?}", world.notices);

    // `data` condemned too while the car was on; now it is off, and `http` condemns alone.
    let mut data = heartbeat_check("can");
    data.needs = Some(ExpectationId(0));
    let app = peer(
        "app",
        true,
        vec![process_check(), http_check(), data],
        Some(RemedyKind::Exec),
    );
    let mut world = World::settled(settings(vec![app]));
    let car = |world: &mut World, met| {
        world.feed(Event::Expectation {
            id: ExpectationId(0),
            met: Some(met),
        });
    };
    car(&mut world, true);
    world.running(0, "a");
    world.beat("can");
    world.observe(0, 1, Outcome::Pass);
    world.feed(Event::Operator {
        request: OperatorRequest::Pause {
            peer: None,
            reason: "deploy".into(),
            lasting: Some(20 * S),
        },
        by: "uid 0".into(),
    });
    for second in 0..60 {
        world.run(S);
        car(&mut world, second < 8);
        if second > 5 {
            world.fail(0, 1);
        } else {
            world.observe(0, 1, Outcome::Pass);
        }
    }
    assert!(!world.grants.is_empty(), "{:#?}", world.notices);
}

#[test]
fn what_nobody_saw_exit_is_not_restarted_for_its_silence() {
    let mut world = World::settled(settings(vec![peer(
        "app",
        true,
        vec![process_check(), heartbeat_check("hb")],
        Some(RemedyKind::Exec),
    )]));
    world.running(0, "a");
    world.beat("hb");
    world.looks(0, 0, 2);
    world.feed(Event::Owner {
        peer: PeerId(0),
        seen: OwnerSeen::Absent {
            detail: "no process".into(),
        },
    });
    world.run(60 * S);
    assert_eq!(world.liveness(0), Liveness::Dead);
    assert!(world.grants.is_empty(), "{:#?}", world.notices);
    assert_eq!(world.refusal(0), Some(GuardName::Grace));
}

#[test]
fn failures_in_the_grace_do_not_count_when_it_ends() {
    let mut world = World::settled(settings(vec![peer("app", true, vec![http_check()], None)]));
    world.observe(0, 0, Outcome::Pass);
    world.running(0, "a");
    world.running(0, "b");
    for _ in 0..9 {
        world.run(S);
        world.fail(0, 0);
    }
    world.run(1_500 * MS);
    assert_ne!(
        world.liveness(0),
        Liveness::Dead,
        "it may come up in its tenth second"
    );
    world.fail(0, 0);
    assert_ne!(world.liveness(0), Liveness::Dead);
    world.run(S);
    world.fail(0, 0);
    assert_eq!(world.liveness(0), Liveness::Dead, "two of three, after the grace");
}

#[test]
fn the_first_life_that_is_seen_has_its_grace_too() {
    let app = || {
        settings(vec![peer(
            "app",
            true,
            vec![process_check(), http_check()],
            Some(RemedyKind::Exec),
        )])
    };
    let mut world = World::settled(app());
    world.running(0, "a");
    world.observe(0, 1, Outcome::Pass);
    world.run(2 * S);
    let kept = world.engine.persisted();
    // The node was restarted while the app was stopped; an hour later somebody starts it.
    let mut world = World::restored(app(), &Restored::Found(Box::new(kept), S));
    world.run(3_600 * S);
    world.running(0, "b");
    for _ in 0..9 {
        world.run(S);
        world.fail(0, 1);
    }
    assert!(world.grants.is_empty(), "it is starting: {:#?}", world.notices);
}
