//! A doubt is a suspicion that never condemns by itself.

use super::{S, World, http_check, peer, process_check, settings};
use crate::engine::cause::Cause;
use crate::engine::event::Outcome;
use crate::engine::peer::Liveness;
use crate::engine::settings::RemedyKind;

/// A peer whose second check condemns by 2 failures of 3.
fn watched() -> World {
    let checks = vec![process_check(), http_check()];
    let mut world = World::settled(settings(vec![peer(
        "owner",
        true,
        checks,
        Some(RemedyKind::Exec),
    )]));
    world.running(0, "boot:1");
    world.observe(0, 0, Outcome::Pass);
    world.observe(0, 1, Outcome::Pass);
    world
}

impl World {
    fn doubt(&mut self) {
        let detail = "`lock` was not extended".to_owned();
        let cause = Cause::PeerSilent;
        self.observe(0, 1, Outcome::Doubt { cause, detail });
    }
}

#[test]
fn s16_a_doubt_is_a_suspicion_for_as_long_as_it_lasts_and_never_more() {
    let mut world = watched();
    for _ in 0..100 {
        world.run(S);
        world.observe(0, 0, Outcome::Pass);
        world.doubt();
        assert_eq!(world.liveness(0), Liveness::Suspect);
    }
    let view = world.view(0);
    assert_eq!(view.cause, Some(Cause::PeerSilent));
    assert!(
        view.checks[1].detail.contains("`lock` was not extended"),
        "{}",
        view.checks[1].detail
    );
    world.run(S);
    world.observe(0, 1, Outcome::Pass);
    assert_eq!(world.liveness(0), Liveness::Alive);
    assert_eq!(world.grants.len(), 0, "{:#?}", world.notices);
    assert!(world.view(0).episode.is_none());
}

#[test]
fn failures_after_a_doubt_condemn_as_ever_and_unknown_ends_it() {
    let mut world = watched();
    world.doubt();
    for _ in 0..2 {
        world.run(S);
        let detail = "cannot be read".to_owned();
        world.observe(0, 1, Outcome::Unknown { detail });
    }
    assert_eq!(world.liveness(0), Liveness::Alive, "by its process alone");
    world.run(S);
    world.doubt();
    assert_eq!(world.liveness(0), Liveness::Suspect);
    world.run(S);
    world.fail(0, 1);
    assert_eq!(world.liveness(0), Liveness::Suspect);
    world.run(S);
    world.fail(0, 1);
    assert_eq!(world.liveness(0), Liveness::Dead);
}

#[test]
fn a_first_doubt_within_the_grace_is_none() {
    let checks = vec![process_check(), http_check()];
    let mut world = World::settled(settings(vec![peer("owner", true, checks, None)]));
    world.running(0, "boot:1");
    world.observe(0, 0, Outcome::Pass);
    world.doubt();
    assert_eq!(world.liveness(0), Liveness::Alive);
}

#[test]
fn a_doubt_keeps_nobody_condemned() {
    let checks = vec![process_check(), http_check(), http_check()];
    let mut settings = settings(vec![peer("owner", true, checks, Some(RemedyKind::Exec))]);
    settings.peers[0].backoff.initial = 60 * S;
    let mut world = World::settled(settings);
    world.running(0, "boot:1");
    for index in 0..3 {
        world.observe(0, index, Outcome::Pass);
    }
    world.run(10 * S);
    world.outage(true);
    for _ in 0..2 {
        world.run(S);
        world.fail(0, 2);
    }
    assert_eq!(world.liveness(0), Liveness::Dead);
    world.outage(false);
    // What condemned it passes before the bus has settled; its lock is doubtful for long.
    for _ in 0..120 {
        world.run(S);
        world.observe(0, 0, Outcome::Pass);
        world.doubt();
        world.observe(0, 2, Outcome::Pass);
    }
    assert!(world.grants.is_empty(), "{:?}", world.notices);
    for _ in 0..2 {
        world.run(S);
        world.fail(0, 2);
    }
    world.run(S);
    assert_eq!(world.grants.len(), 1, "condemned anew: {:?}", world.notices);
}

#[test]
fn what_failed_is_what_is_healed_also_if_a_doubt_follows() {
    let mut world = watched();
    world.outage(true);
    for _ in 0..2 {
        world.run(S);
        world.fail(0, 1);
    }
    world.doubt();
    let view = world.view(0);
    assert_eq!(
        (view.liveness, view.cause),
        (Liveness::Dead, Some(Cause::PeerStuck))
    );
    assert!(view.checks[1].detail.contains("status 503"), "{view:?}");
}
