//! What survives a restart of the node.

use std::time::Duration;

use super::{S, World, process_peer};
use crate::engine::cause::Cause;
use crate::engine::event::{Event, Incarnation, OwnerSeen, PeerId};
use crate::engine::peer::Liveness;
use crate::engine::persist::{Persisted, Restored};
use crate::engine::settings::RemedyKind;

#[test]
fn what_a_remedy_took_down_before_the_node_died_is_healed_after() {
    let mut world = World::settled(process_peer());
    world.running(0, "a");
    world.looks(0, 0, 2);
    world.exits(0, "a");
    world.outcome = None;
    world.run(2 * S);
    assert_eq!(world.grants.len(), 1);
    let kept = world.persisted.clone().unwrap();
    assert_eq!(kept.peers["app"].healing, Some(Incarnation("a".into())));
    let mut world = World::restored(process_peer(), &Restored::Found(Box::new(kept), S));
    world.feed(Event::Owner {
        peer: PeerId(0),
        seen: OwnerSeen::Absent {
            detail: "none".into(),
        },
    });
    assert_eq!(world.liveness(0), Liveness::Dead);
    assert_eq!(world.view(0).cause, Some(Cause::PeerExited));
    world.run(60 * S);
    assert_eq!(world.grants.len(), 1, "{:#?}", world.notices);
}

#[test]
fn corrupt_counts_as_spent_and_missing_allows_one() {
    let mut world = World::restored(process_peer(), &Restored::Corrupt);
    assert_eq!(world.view(0).budget_left, 0);
    world.run(700 * S);
    assert_eq!(world.view(0).budget_left, 3);
    let world = World::restored(process_peer(), &Restored::Missing);
    assert_eq!(world.view(0).budget_left, 1);
}

#[test]
fn an_absurd_store_or_setting_is_no_panic() {
    let mut app = process_peer();
    app.peers[0].backoff.max = Duration::MAX;
    let mut kept = Persisted {
        token: u64::MAX,
        episode: u64::MAX,
        group_wait: Some(Duration::MAX),
        ..Persisted::default()
    };
    let episode = crate::engine::persist::PersistedEpisode {
        id: u64::MAX,
        age: Duration::MAX,
        cause: Cause::PeerExited,
        remedies: u32::MAX,
        restarts: 0,
        failed: [7, u16::MAX].into(),
        gave_up: false,
        at_work: None,
        lease: None,
    };
    kept.peers.insert(
        "app".into(),
        crate::engine::persist::PersistedPeer {
            restarts: vec![Duration::MAX],
            backoff_level: u32::MAX,
            backoff: Some(Duration::MAX),
            episode: Some(episode),
            ..Default::default()
        },
    );
    let found = Restored::Found(Box::new(kept), S);
    let mut world = World::restored(app, &found);
    world.engine.group.not_before = None;
    world.engine.peers[0].ledger = crate::engine::peer::Ledger::default();
    world.run(40 * S);
    for life in ["a", "b"] {
        world.running(0, life);
        world.looks(0, 0, 2);
        world.exits(0, life);
        world.run(2 * S);
    }
    assert!(!world.grants.is_empty(), "{:#?}", world.notices);

    let mut slow = process_peer();
    slow.interval = Duration::MAX;
    slow.bus_settle = Duration::MAX;
    World::new(slow).run(5 * S);
}

#[test]
fn what_was_under_way_when_the_node_died_may_be_done_again_and_what_was_done_may_not() {
    for done in [false, true] {
        let mut world = World::settled(process_peer());
        world.running(0, "a");
        world.looks(0, 0, 2);
        world.exits(0, "a");
        if !done {
            world.outcome = None;
        }
        world.run(2 * S);
        assert_eq!(world.grants.len(), 1);
        let kept = world.engine.persisted();
        let at_work = kept.peers["app"].episode.as_ref().unwrap().at_work.clone();
        assert_eq!(at_work.is_some(), !done);
        let mut world = World::restored(process_peer(), &Restored::Found(Box::new(kept), S));
        world.exits(0, "a");
        world.run(60 * S);
        assert_eq!(world.grants.len(), usize::from(!done), "{:#?}", world.notices);
    }
}

#[test]
fn a_ladder_that_is_another_at_the_next_start_keeps_its_marks_by_what_they_are_of() {
    let mut world = World::settled(process_peer());
    world.running(0, "a");
    world.looks(0, 0, 2);
    world.exits(0, "a");
    world.run(2 * S);
    assert_eq!(world.grants.len(), 1);
    let kept = Restored::Found(Box::new(world.engine.persisted()), S);
    let mut other = process_peer();
    other.peers[0]
        .remedies
        .insert(0, super::remedy(RemedyKind::Docker));
    let mut world = World::restored(other, &kept);
    world.exits(0, "a");
    world.run(60 * S);
    let kinds: Vec<_> = world.grants.iter().map(|(_, grant)| grant.kind).collect();
    assert_eq!(
        kinds,
        [RemedyKind::Docker],
        "exec was done on this life: {:#?}",
        world.notices
    );
}
