//! Lives that overlap, words that stand written, stops that hang, and failures told to an earlier run of the node.

use super::reports::{owned, reported, speaking};
use super::*;

/// What check `index` hears of `app`.
fn hears(world: &mut World, index: u16, word: Word) {
    let peer = PeerId(0);
    world.feed(Event::Report(Report {
        check: CheckId { peer, index },
        life: None,
        says: None,
        word,
    }));
}

fn lives_of(world: &World) -> Vec<String> {
    let lives = world.whats.iter().filter_map(|(_, what)| match what {
        What::Incarnation { incarnation } => Some(incarnation.0.to_string()),
        _ => None,
    });
    lives.collect()
}

#[test]
fn s43_a_file_that_says_running_since_nobody_knows_when_undoes_no_stop_told_otherwise() {
    // Check 0 hears its notifications, 2 reads its file.
    let file = || CheckSettings {
        name: "file".into(),
        ..reported(false)
    };
    let world = || owned(vec![file()]);
    let again = |mut world: World, index: u16, word: Word| {
        world.run(2 * S);
        let restored = Restored::Found(Box::new(world.engine.persisted()), S);
        let mut again = World::restored(speaking(vec![process_check(), file()]), &restored);
        again.running(0, "a");
        hears(&mut again, index, word);
        again.exits(0, "a");
        again.run(120 * S);
        again.grants.len()
    };
    let up = || Word::Life {
        up: true,
        next: Next::AsBefore,
    };
    let stops = || Word::Leaving {
        detail: "stopping".into(),
    };
    let stopped_by = |checks: &[u16]| {
        let mut world = world();
        for index in checks {
            hears(&mut world, *index, stops());
        }
        world
    };
    assert_eq!(
        again(stopped_by(&[0]), 2, Word::Running),
        0,
        "older than the stop"
    );
    assert_eq!(again(stopped_by(&[0]), 2, up()), 1, "seen to be written since");
    assert_eq!(
        again(stopped_by(&[2]), 2, Word::Running),
        1,
        "it had said that it stops"
    );
    assert_eq!(again(stopped_by(&[2, 0]), 2, Word::Running), 1, "the same");
    assert_eq!(
        again(stopped_by(&[2]), 0, Word::Running),
        0,
        "that was another one"
    );
}

#[test]
fn a_process_that_drains_beside_its_successor_is_not_the_peer() {
    let mut world = World::settled(speaking(vec![]));
    world.ready("a");
    world.ready("b");
    for _ in 0..20 {
        world.run(S);
        world.pings("a");
        world.pings("b");
    }
    world.fails(Some("a"));
    world.leaves(Some("a"));
    assert_eq!(world.liveness(0), Liveness::Alive);
    assert_eq!(lives_of(&world), ["a", "b"], "one change, and no more");
    // What it says of its state is not the successor's.
    world.feed(Event::Report(Report {
        check: CheckId {
            peer: PeerId(0),
            index: 0,
        },
        life: Some(Incarnation("a".into())),
        says: Some("draining".into()),
        word: Word::Note,
    }));
    assert!(!world.view(0).detail.contains("draining"));
    // It drains on, and the successor hangs: that is seen.
    world.pinging("a", 6);
    assert_eq!(world.liveness(0), Liveness::Dead);
    assert_eq!(world.grants.len(), 1, "{:?}", world.notices);
    assert_eq!(world.grants[0].1.incarnation, Incarnation("b".into()));
}

#[test]
fn an_earlier_life_that_goes_on_when_its_successor_has_gone_is_the_peer_again() {
    for goes in [true, false] {
        let mut world = World::settled(speaking(vec![]));
        world.ready("a");
        world.ready("b");
        if goes {
            world.leaves(Some("b"));
        } else {
            world.run(3 * S);
        }
        world.pinging("a", 3);
        assert_eq!(world.liveness(0), Liveness::Alive, "{:?}", world.notices);
        assert_eq!(lives_of(&world), ["a", "b", "a"]);
    }
    // Not one that was on its way out itself, until it says that it is up.
    let mut world = World::settled(speaking(vec![]));
    world.ready("a");
    world.leaves(Some("a"));
    world.ready("b");
    world.leaves(Some("b"));
    world.pinging("a", 60);
    assert_eq!(world.liveness(0), Liveness::Unknown, "{:?}", world.notices);
    for _ in 0..3 {
        world.ready("a");
    }
    assert_eq!(world.liveness(0), Liveness::Alive);
}

#[test]
fn a_stop_that_hangs_is_told_once_and_left_alone() {
    let mut world = owned(vec![http_check()]);
    world.leaves(Some("a"));
    world.looks(0, 1, 299);
    assert!(!world.saw("its stop may hang"), "{:?}", world.notices);
    // Said again, it has no more time.
    world.leaves(Some("a"));
    world.looks(0, 1, 60);
    let told = world
        .whats
        .iter()
        .filter(|(_, what)| matches!(what, What::LeaveOverdue { .. }));
    assert_eq!(told.count(), 1, "{:?}", world.notices);
    assert!(world.view(0).leave_overdue);
    assert_eq!(world.liveness(0), Liveness::Unknown);
    assert!(
        world.grants.is_empty() && !world.saw("episode"),
        "{:?}",
        world.notices
    );
    // Its time goes on while the node is away.
    let mut kept = owned(vec![]);
    kept.leaves(Some("a"));
    kept.run(100 * S);
    let restored = Restored::Found(Box::new(kept.engine.persisted()), 100 * S);
    let mut again = World::restored(speaking(vec![process_check()]), &restored);
    again.running(0, "a");
    again.looks(0, 1, 99);
    assert!(!again.view(0).leave_overdue);
    again.looks(0, 1, 2);
    assert!(again.view(0).leave_overdue);
    // Another life is not overdue.
    again.running(0, "b");
    assert!(!again.view(0).leave_overdue);
}

#[test]
fn who_left_and_is_seen_no_more_is_not_overdue() {
    let mut silent = World::settled(speaking(vec![]));
    silent.ready("a");
    silent.leaves(Some("a"));
    silent.run(3600 * S);
    assert!(!silent.saw("its stop may hang"), "{:?}", silent.notices);
    let mut ended = owned(vec![http_check()]);
    ended.leaves(Some("a"));
    ended.exits(0, "a");
    for _ in 0..600 {
        ended.run(S);
        // Somebody else answers there.
        ended.observe(0, 2, Outcome::Pass);
    }
    assert!(!ended.saw("its stop may hang"), "{:?}", ended.notices);
}

#[test]
fn a_failure_told_to_an_earlier_run_of_the_node_is_a_doubt() {
    let mut world = World::settled(speaking(vec![]));
    let next = Next::Within {
        suspect_after: 300 * S,
        dead_after: 400 * S,
    };
    world.says(Some("a"), Word::Life { up: true, next });
    world.fails(Some("a"));
    let kept = world.engine.persisted();
    let restored = Restored::Found(Box::new(kept), S);
    let again = || World::restored(speaking(vec![]), &restored);

    let mut unheard = again();
    unheard.run(200 * S);
    assert_eq!(
        (unheard.liveness(0), unheard.view(0).cause),
        (Liveness::Suspect, Some(Cause::PeerStuck)),
        "it may have lived since"
    );
    assert!(
        unheard.view(0).detail.contains("disk gone"),
        "{}",
        unheard.view(0).detail
    );
    assert!(unheard.grants.is_empty(), "{:?}", unheard.notices);
    unheard.run(210 * S);
    assert_eq!(unheard.liveness(0), Liveness::Dead, "silent by now");

    for (life, by) in [("a", "its next sign of life"), ("b", "another life")] {
        let mut lives = again();
        lives.run(5 * S);
        lives.pings(life);
        assert_eq!(lives.liveness(0), Liveness::Alive, "{by}");
        lives.run(2 * S);
        let told = lives.persisted.clone().unwrap().peers["app"].told.clone();
        assert!(told.values().all(|told| told.failed.is_none()), "{by}: {told:?}");
    }
}
