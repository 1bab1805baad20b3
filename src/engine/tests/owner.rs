//! What the owner watch says beyond "runs" and "exited": on purpose, its own supervisor's business, not to be seen.

use super::*;

impl World {
    fn owner(&mut self, id: u32, seen: OwnerSeen) {
        self.feed(Event::Owner {
            peer: PeerId(id),
            seen,
        });
    }

    fn stopped(&mut self, id: u32) {
        let detail = "a stop was asked for".into();
        self.owner(id, OwnerSeen::Stopped { detail });
    }
}

/// A container with heartbeats of its own.
fn beating_container() -> World {
    let mut world = World::settled(settings(vec![peer(
        "app",
        true,
        vec![process_check(), heartbeat_check("hb")],
        Some(RemedyKind::Exec),
    )]));
    world.running(0, "a");
    world.beats("hb");
    world.looks(0, 0, 3);
    assert_eq!(world.liveness(0), Liveness::Alive);
    world
}

#[test]
fn s34_what_was_stopped_on_purpose_is_neither_blamed_nor_healed_and_comes_back_by_itself() {
    let mut world = beating_container();
    world.stopped(0);
    assert_eq!(world.liveness(0), Liveness::Unknown);
    assert!(world.engine.words(PeerId(0)).contains("a stop was asked for"));
    // A message that was under way is no life, and its silence afterwards no death.
    world.beat("hb");
    world.beating.clear();
    world.run(600 * S);
    assert_eq!(world.liveness(0), Liveness::Unknown);
    assert!(world.view(0).episode.is_none());
    assert!(world.grants.is_empty());

    world.running(0, "b");
    world.looks(0, 0, 1);
    assert_eq!(world.liveness(0), Liveness::Alive);
    world.beats("hb");
    world.run(20 * S);
    assert!(!world.saw("app: episode"), "{:?}", world.notices);
    world.exits(0, "b");
    world.run(S);
    assert_eq!(world.grants.len(), 1, "the next life's exit is healed again");
}

#[test]
fn s34_a_stop_ends_an_open_episode() {
    let mut world = beating_container();
    world.bus = true;
    world.beating.clear();
    world.looks(0, 0, 4);
    assert_eq!(world.liveness(0), Liveness::Suspect);
    world.stopped(0);
    assert!(world.view(0).episode.is_none(), "{:?}", world.notices);
    world.run(600 * S);
    assert!(world.grants.is_empty());
}

#[test]
fn what_was_silent_while_it_was_paused_was_not_silent() {
    let mut world = beating_container();
    world.stopped(0);
    world.beating.clear();
    world.run(600 * S);
    world.running(0, "a");
    assert_eq!(world.liveness(0), Liveness::Alive, "the same life goes on");
    world.run(3 * S);
    world.beats("hb");
    world.run(60 * S);
    assert!(!world.saw("app: episode"), "{:?}", world.notices);
}

#[test]
fn what_its_own_supervisor_brings_back_is_alerted_on_and_left_to_it() {
    let mut world = World::settled(process_peer());
    world.running(0, "a");
    world.looks(0, 0, 3);
    let restarting = |life: &str| OwnerSeen::Restarting(Incarnation(life.into()));
    world.owner(0, restarting("a"));
    world.run(60 * S);
    assert_eq!(world.liveness(0), Liveness::Dead);
    assert_eq!(world.view(0).cause, Some(Cause::PeerExited));
    assert_eq!(world.refusal(0), Some(GuardName::Grace));
    assert!(world.saw("its own supervisor"), "{:?}", world.notices);
    world.running(0, "b");
    world.looks(0, 0, 1);
    assert!(world.saw("app: recovered by itself"), "{:?}", world.notices);

    // It gives up: now it is ours.
    world.owner(0, restarting("b"));
    world.run(60 * S);
    assert!(world.grants.is_empty());
    world.exits(0, "b");
    world.run(S);
    assert_eq!(world.grants.len(), 1, "{:?}", world.notices);
    assert_eq!(world.grants[0].1.incarnation, Incarnation("b".into()));
    assert!(world.grants[0].1.exited);
}

#[test]
fn s38_an_owner_that_cannot_be_looked_at_is_unknown_and_its_exit_is_not_forgotten() {
    let unseen = || OwnerSeen::Unseen {
        detail: "cannot connect to Docker".into(),
    };
    let mut world = World::settled(process_peer());
    world.running(0, "a");
    world.looks(0, 0, 3);
    world.owner(0, unseen());
    world.run(600 * S);
    assert_eq!(world.liveness(0), Liveness::Unknown);
    assert!(world.engine.words(PeerId(0)).contains("cannot connect to Docker"));
    assert!(world.grants.is_empty());
    world.running(0, "a");
    assert_eq!(world.liveness(0), Liveness::Alive);

    world.outcome = None;
    world.exits(0, "a");
    world.owner(0, unseen());
    assert_eq!(world.liveness(0), Liveness::Dead);
}

#[test]
fn what_a_remedy_took_down_is_healed_after_the_node_died_though_it_looks_stopped() {
    let mut world = World::settled(process_peer());
    world.running(0, "a");
    world.looks(0, 0, 2);
    world.exits(0, "a");
    world.outcome = None;
    world.run(2 * S);
    let kept = world.persisted.clone().unwrap();
    let mut world = World::restored(process_peer(), &Restored::Found(Box::new(kept), S));
    world.stopped(0);
    assert_eq!(world.liveness(0), Liveness::Dead, "that was our doing");
}
