//! When an episode closes, and what an operator may do to it.

use super::{S, World, heartbeat_check, http_check, peer, process_check, settings};
use crate::engine::event::{Event, ExpectationId, OperatorRequest, Outcome, PeerId};
use crate::engine::peer::Liveness;
use crate::engine::persist::Restored;
use crate::engine::settings::{Decides, RemedyKind};

#[test]
fn who_was_forgotten_and_is_heard_again_can_be_healed() {
    let mut world = World::settled(settings(vec![peer(
        "app",
        true,
        vec![process_check(), http_check()],
        Some(RemedyKind::Exec),
    )]));
    world.running(0, "a");
    world.observe(0, 1, Outcome::Pass);
    world.feed(Event::Operator {
        request: OperatorRequest::Forget { peer: PeerId(0) },
        by: "uid 0".into(),
    });
    world.observe(0, 0, Outcome::Pass);
    world.observe(0, 1, Outcome::Pass);
    for _ in 0..10 {
        world.run(S);
        world.fail(0, 1);
    }
    assert_eq!(world.grants.len(), 1, "{:#?}", world.notices);
}

#[test]
fn an_episode_does_not_wait_for_a_check_that_nobody_expects_or_that_decides_nothing() {
    let app = || {
        let mut shown = heartbeat_check("can");
        shown.needs = Some(ExpectationId(0));
        let mut data = shown.clone();
        shown.name = "shown".into();
        shown.decides = Decides::Nothing;
        data.name = "data".into();
        settings(vec![peer("app", true, vec![process_check(), data, shown], None)])
    };
    let car = |world: &mut World, met| {
        world.feed(Event::Expectation {
            id: ExpectationId(0),
            met: Some(met),
        });
    };
    let mut world = World::settled(app());
    world.running(0, "a");
    car(&mut world, true);
    world.beat("can");
    world.run(10 * S);
    assert_eq!(world.liveness(0), Liveness::Dead);
    let kept = world.engine.persisted();
    car(&mut world, false);
    world.looks(0, 0, 2);
    assert_eq!(world.liveness(0), Liveness::Alive, "it runs");
    assert_eq!(world.view(0).episode, None);
    assert!(
        world.saw("app: episode closed"),
        "not recovered: {:?}",
        world.notices
    );

    let mut world = World::restored(app(), &Restored::Found(Box::new(kept), S));
    world.running(0, "a");
    car(&mut world, false);
    world.looks(0, 0, 50);
    assert_eq!(world.view(0).episode, None, "{:#?}", world.notices);
}
