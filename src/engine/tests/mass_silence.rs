//! Many peers at once.

use super::{MS, S, World, heartbeat_check, peer, process_check, settings};
use crate::engine::event::{Event, OperatorRequest};
use crate::engine::guards::GuardName;
use crate::engine::settings::{PeerSettings, RemedyKind};

#[test]
fn s14_ten_remote_peers_at_once_are_mass_silence_and_healed_one_by_one() {
    let mut peers: Vec<PeerSettings> = Vec::new();
    for index in 0..10 {
        let name = format!("p{index}");
        peers.push(peer(
            &name,
            false,
            vec![heartbeat_check(&name)],
            Some(RemedyKind::Exec),
        ));
    }
    let mut world = World::settled(settings(peers));
    for index in 0..10 {
        world.uptime(&format!("p{index}"), 100.0);
    }
    world.run(240 * S);
    assert!(world.saw("fell silent together"), "{:?}", world.notices);
    assert!(world.grants.is_empty());
    assert_eq!(world.refusal(3), Some(GuardName::MassSilence));
    world.run(80 * S);
    assert_eq!(world.grants.len(), 1, "one canary");
    let canary = world.grants[0].1.name.clone();
    let channel = canary.to_string();
    world.uptime(&channel, 0.5);
    world.beats(&channel);
    world.run(15 * S);
    assert_eq!(
        world.grants.len(),
        2,
        "the next once the first is verified: {:#?}",
        world.notices
    );
}

#[test]
fn s14_local_peers_at_once_are_serialised_by_the_groups_budget() {
    let mut peers = Vec::new();
    for index in 0..10 {
        peers.push(peer(
            &format!("p{index}"),
            true,
            vec![process_check()],
            Some(RemedyKind::Exec),
        ));
    }
    let mut world = World::settled(settings(peers));
    for index in 0..10 {
        world.running(index, "a");
    }
    world.run(3 * S);
    for index in 0..10 {
        world.exits(index, "a");
    }
    world.run(5 * S);
    assert_eq!(world.grants.len(), 1, "max(1, 5 % of 10) down by our hand");
}

#[test]
fn a_peer_that_comes_back_does_not_have_everybody_else_asked_for_at_once() {
    // 10,000 recoveries after a mass silence, each asking for all that still wait, would be 50 million questions.
    let mut peers = Vec::new();
    for index in 0..20 {
        let name = format!("p{index}");
        peers.push(peer(
            &name,
            false,
            vec![heartbeat_check(&name)],
            Some(RemedyKind::Exec),
        ));
    }
    let mut world = World::settled(settings(peers));
    for index in 0..20 {
        world.uptime(&format!("p{index}"), 100.0);
    }
    world.run(60 * S);
    assert_eq!(world.engine.waiting.len(), 20);
    world.feed(Event::Operator {
        request: OperatorRequest::Resume { peer: None },
        by: "test".into(),
    });
    let asked = world.engine.asked_at;
    assert_eq!(asked, world.now);
    world.now = world.now + MS;
    for index in 0..10 {
        world.uptime(&format!("p{index}"), 0.1);
    }
    assert_eq!(world.engine.waiting.len(), 10);
    assert_eq!(world.engine.asked_at, asked);
    world.run(250 * MS);
    assert_ne!(world.engine.asked_at, asked, "and yet soon");
}

#[test]
fn what_restarts_nothing_is_tried_on_one_canary_as_well() {
    let mut peers: Vec<PeerSettings> = Vec::new();
    for index in 0..4 {
        let name = format!("p{index}");
        let mut one = peer(
            &name,
            false,
            vec![heartbeat_check(&name)],
            Some(RemedyKind::ClientKill),
        );
        one.remedies[0].restarts = false;
        peers.push(one);
    }
    let mut world = World::settled(settings(peers));
    for index in 0..4 {
        world.uptime(&format!("p{index}"), 100.0);
    }
    world.run(315 * S);
    assert_eq!(world.grants.len(), 1, "{:#?}", world.notices);
}
