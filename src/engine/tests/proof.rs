//! What counts as proof that a peer is well again, and what does not.

use super::*;
use crate::engine::event::OperatorRequest;

/// A local peer with an owner and an `http` check that is well, and this one remedy.
fn healed_by(kind: RemedyKind, restarts: bool) -> World {
    let mut app = peer("app", true, vec![process_check(), http_check()], Some(kind));
    app.remedies[0].restarts = restarts;
    app.backoff.reset_after = 60 * S;
    let mut world = World::settled(settings(vec![app]));
    world.running(0, "a");
    well(&mut world, 10);
    world
}

fn well(world: &mut World, seconds: u32) {
    each_second(world, seconds, &Outcome::Pass);
}

fn stuck(world: &mut World, seconds: u32) {
    let fails = Outcome::Fail {
        cause: Cause::PeerStuck,
        detail: "status 503".into(),
    };
    each_second(world, seconds, &fails);
}

/// The process is there; its probe says so.
fn each_second(world: &mut World, seconds: u32, probe: &Outcome) {
    for _ in 0..seconds {
        world.observe(0, 0, Outcome::Pass);
        world.observe(0, 1, probe.clone());
        world.run(S);
    }
}

#[test]
fn s32_runs_that_began_before_the_remedy_ended_prove_nothing_however_late_they_pass() {
    let mut world = healed_by(RemedyKind::Signal, false);
    world.outcome = None;
    stuck(&mut world, 5);
    assert_eq!(world.grants.len(), 1, "{:#?}", world.notices);
    let (token, while_it_acts) = (world.grants[0].1.token, world.now);
    world.run(S);
    let outcome = RemedyOutcome::Acted {
        detail: "done".into(),
    };
    world.feed(Event::RemedyEnded { token, outcome });
    for _ in 0..3 {
        world.run(S);
        for index in [0, 1] {
            let check = CheckId {
                peer: PeerId(0),
                index,
            };
            world.feed(Event::Observation(Observation {
                check,
                began: while_it_acts,
                outcome: Outcome::Pass,
            }));
        }
    }
    assert_eq!(world.liveness(0), Liveness::Alive, "it looks well");
    assert!(!world.saw("app: recovered"), "{:#?}", world.notices);
    well(&mut world, 1);
    assert!(world.saw("app: recovered, proven"), "{:#?}", world.notices);
}

/// Healed once, and again after `between`: how often its backoff has doubled by then.
fn doubled(between: impl Fn(&mut World)) -> u32 {
    let mut world = healed_by(RemedyKind::Exec, true);
    stuck(&mut world, 5);
    assert_eq!(world.grants.len(), 1, "{:#?}", world.notices);
    between(&mut world);
    stuck(&mut world, 60);
    assert_eq!(world.grants.len(), 2, "{:#?}", world.notices);
    world.engine.peers[0].ledger.level
}

#[test]
fn the_backoff_is_reset_by_life_that_was_proven_and_by_no_other_time() {
    let restarted = |world: &mut World, well_for| {
        world.running(0, "b");
        well(world, well_for);
        assert!(world.saw("app: recovered, proven"), "{:#?}", world.notices);
    };
    assert_eq!(doubled(|world| restarted(world, 70)), 1, "well for long enough");
    assert_eq!(doubled(|world| restarted(world, 40)), 2, "not for long enough");
    // As long, and dead; it is only that nothing may be done to it.
    let dead = |world: &mut World| {
        world.feed(Event::Operator {
            request: OperatorRequest::Pause {
                peer: None,
                reason: "a deploy".to_owned(),
                lasting: Some(90 * S),
            },
            by: "test".to_owned(),
        });
        world.running(0, "b");
        stuck(world, 80);
    };
    assert_eq!(doubled(dead), 2);
}

/// It runs, and the check that condemned it says nothing any more.
#[test]
fn the_backoff_is_not_reset_by_life_that_was_never_proven() {
    let running_alone = |world: &mut World| {
        world.running(0, "b");
        for _ in 0..75 {
            world.observe(0, 0, Outcome::Pass);
            world.run(S);
        }
        assert_eq!(world.liveness(0), Liveness::Alive);
        assert!(!world.saw("app: recovered"), "{:#?}", world.notices);
    };
    assert_eq!(doubled(running_alone), 2);
}
