//! Several remedies for one peer: which is next, and when the ladder ends.

use super::*;

/// A local peer with an owner and an `http` check; the ladder as told, with the causes and whether it restarts.
pub(super) fn laddered(ladder: &[(RemedyKind, &[Cause], bool)]) -> World {
    let mut app = peer("app", true, vec![process_check(), http_check()], None);
    app.remedies = ladder
        .iter()
        .map(|(kind, causes, restarts)| RemedySettings {
            causes: causes.to_vec(),
            restarts: *restarts,
            ..remedy(*kind)
        })
        .collect();
    app.backoff.reset_after = 30 * S;
    let mut world = World::settled(settings(vec![app]));
    world.running(0, "a");
    world.looks(0, 0, 2);
    world.observe(0, 1, Outcome::Pass);
    world.run(10 * S);
    world
}

impl World {
    /// The process is there and its probe fails, for so long.
    pub(super) fn stuck_for(&mut self, seconds: u32) {
        for _ in 0..seconds {
            self.observe(0, 0, Outcome::Pass);
            self.fail(0, 1);
            self.run(S);
        }
    }

    pub(super) fn well_for(&mut self, seconds: u32) {
        for _ in 0..seconds {
            self.observe(0, 0, Outcome::Pass);
            self.observe(0, 1, Outcome::Pass);
            self.run(S);
        }
    }

    pub(super) fn rungs(&self) -> Vec<u16> {
        self.grants.iter().map(|(_, grant)| grant.rung).collect()
    }
}

#[test]
fn s32_a_204_with_the_peer_still_silent_is_no_success_and_the_next_rung_follows() {
    let mut world = laddered(&[(RemedyKind::Http, &[], false), (RemedyKind::Signal, &[], true)]);
    world.outcome = Some(RemedyOutcome::Acted {
        detail: "204".to_owned(),
    });
    world.stuck_for(10);
    assert_eq!(world.rungs(), [0]);
    world.stuck_for(30);
    assert_eq!(
        world.rungs(),
        [0, 1],
        "the drain had its 20 s, and was not tried again on this life"
    );
    world.stuck_for(120);
    assert_eq!(world.rungs(), [0, 1]);
    assert!(world.saw("given up"), "{:?}", world.notices);
}

#[test]
fn a_rung_follows_only_the_causes_it_is_for() {
    let mut world = laddered(&[
        (RemedyKind::Signal, &[Cause::PeerStuck], true),
        (RemedyKind::Exec, &[Cause::PeerExited], true),
    ]);
    world.exits(0, "a");
    world.run(S);
    assert_eq!(world.rungs(), [1]);
    let mut world = laddered(&[(RemedyKind::Exec, &[Cause::PeerExited], true)]);
    world.stuck_for(60);
    assert_eq!(world.rungs(), [0u16; 0], "none is for peer_stuck");
    assert!(!world.saw("given up"), "it waits for somebody to look");
    assert_eq!(world.view(0).episode.map(|episode| episode.remedy), Some(None));
}

#[test]
fn what_could_not_act_is_left_for_the_next_rung_and_what_was_fenced_is_not() {
    let not_acted = RemedyOutcome::NotActed {
        detail: "connection refused".to_owned(),
    };
    let fenced = RemedyOutcome::Fenced {
        detail: "somebody else is healing it".to_owned(),
    };
    for (outcome, rungs) in [(not_acted, [0, 1, 1]), (fenced, [0, 0, 0])] {
        let mut world = laddered(&[(RemedyKind::Http, &[], false), (RemedyKind::Signal, &[], true)]);
        world.outcome = Some(outcome);
        world.stuck_for(90);
        assert_eq!(
            world.rungs().get(..3),
            Some(rungs.as_slice()),
            "{:?}",
            world.notices
        );
    }
}

#[test]
fn the_last_rung_is_tried_on_each_new_life_until_the_budget_is_spent() {
    let mut world = laddered(&[(RemedyKind::Http, &[], false), (RemedyKind::Signal, &[], true)]);
    world.outcome = Some(RemedyOutcome::Acted {
        detail: String::new(),
    });
    let mut lives = 0;
    for _ in 0..200 {
        world.stuck_for(1);
        let restarts = world.rungs().iter().filter(|rung| **rung == 1).count();
        if restarts > lives {
            lives = restarts;
            world.exits(0, if lives == 1 { "a" } else { "b" });
            world.running(0, ["b", "c", "d"][lives - 1]);
        }
    }
    assert_eq!(world.rungs(), [0, 1, 1, 1]);
    assert!(world.saw("given up"), "{:?}", world.notices);
}

#[test]
fn a_gentle_rung_that_helped_may_help_the_same_life_again_and_a_restart_may_not() {
    for (restarts, rungs) in [(false, vec![0, 0]), (true, vec![0])] {
        let mut world = laddered(&[(RemedyKind::Http, &[], restarts)]);
        world.outcome = Some(RemedyOutcome::Acted {
            detail: String::new(),
        });
        world.stuck_for(5);
        assert_eq!(world.rungs(), [0]);
        world.well_for(60);
        assert!(world.view(0).episode.is_none(), "{:?}", world.notices);
        world.stuck_for(60);
        assert_eq!(world.rungs(), rungs, "{:?}", world.notices);
    }
}

#[test]
fn a_gentle_rung_that_helped_for_a_moment_only_is_not_tried_again_and_again() {
    let mut world = laddered(&[(RemedyKind::Http, &[], false), (RemedyKind::Signal, &[], true)]);
    world.outcome = Some(RemedyOutcome::Acted {
        detail: String::new(),
    });
    world.stuck_for(5);
    world.well_for(15);
    world.stuck_for(15);
    assert_eq!(world.rungs(), [0, 1], "{:?}", world.notices);
}

#[test]
fn what_is_fenced_again_and_again_is_left_at_last() {
    let mut world = laddered(&[(RemedyKind::Http, &[], false), (RemedyKind::Signal, &[], true)]);
    world.outcome = Some(RemedyOutcome::Fenced {
        detail: "Redis is away".to_owned(),
    });
    world.stuck_for(200);
    assert_eq!(
        world.rungs().get(..4),
        Some([0, 0, 0, 1].as_slice()),
        "{:?}",
        world.notices
    );
}

#[test]
fn rungs_that_failed_are_remembered_across_a_restart_of_the_node() {
    let ladder: &[(RemedyKind, &[Cause], bool)] =
        &[(RemedyKind::Http, &[], true), (RemedyKind::Signal, &[], true)];
    let mut world = laddered(ladder);
    world.outcome = Some(RemedyOutcome::Acted {
        detail: String::new(),
    });
    world.stuck_for(40);
    let kept = world.persisted.clone().unwrap();
    let episode = kept.peers["app"].episode.as_ref().unwrap();
    assert_eq!(episode.failed, [0].into(), "{:?}", world.notices);
}

/// As redis-py 5's `listen()` does when its connection is cut.
fn kicked(restarts_first: bool, outcome: Option<RemedyOutcome>) -> World {
    let mut world = laddered(&[
        (RemedyKind::SocketReset, &[Cause::PeerStuck], restarts_first),
        (RemedyKind::Exec, &[], true),
    ]);
    world.outcome = outcome;
    world.stuck_for(4);
    assert_eq!(world.rungs(), [0]);
    world
}

fn reset() -> RemedyOutcome {
    RemedyOutcome::Acted {
        detail: "1 connection reset".to_owned(),
    }
}

impl World {
    fn restarts_charged(&self) -> usize {
        self.persisted.as_ref().unwrap().peers["app"].restarts.len()
    }
}

#[test]
fn s06_an_exit_in_answer_to_a_gentle_remedy_is_said_counted_as_a_restart_and_the_next_rung_follows() {
    let mut world = kicked(false, Some(reset()));
    world.exits(0, "a");
    assert!(world.saw("exited after socket_reset"), "{:?}", world.notices);
    world.run(60 * S);
    assert_eq!(world.rungs(), [0, 1], "{:?}", world.notices);
    assert_eq!(world.grants[1].1.cause, Cause::PeerExited);
    assert_eq!(
        world.restarts_charged(),
        2,
        "the exit, and the remedy that restarts"
    );
    // It comes back, and everything that ever worked must work again.
    world.running(0, "b");
    world.observe(0, 0, Outcome::Pass);
    world.run(S);
    assert!(world.view(0).episode.is_some(), "its probe has not passed again");
    world.well_for(3);
    assert!(world.view(0).episode.is_none(), "{:?}", world.notices);
}

#[test]
fn an_exit_that_is_seen_before_the_executor_has_answered_counts_too() {
    let mut world = kicked(false, None);
    world.exits(0, "a");
    assert!(
        !world.saw("exited after"),
        "whether it was touched is not known yet"
    );
    let token = world.grants[0].1.token;
    world.feed(Event::RemedyEnded {
        token,
        outcome: reset(),
    });
    assert!(world.saw("exited after socket_reset"), "{:?}", world.notices);
    world.run(60 * S);
    assert_eq!(world.rungs(), [0, 1]);
    assert_eq!(world.restarts_charged(), 2);
}

#[test]
fn an_exit_that_is_no_answer_is_not_counted() {
    // Nothing was touched.
    let mut world = kicked(false, None);
    world.exits(0, "a");
    let token = world.grants[0].1.token;
    let outcome = RemedyOutcome::NotActed {
        detail: "that connection is gone".to_owned(),
    };
    world.feed(Event::RemedyEnded { token, outcome });
    world.run(S);
    assert!(!world.saw("exited after"), "{:?}", world.notices);
    // The remedy restarts, and was charged as that already.
    let mut world = kicked(true, Some(reset()));
    world.exits(0, "a");
    world.run(S);
    assert!(!world.saw("exited after"), "{:?}", world.notices);
    assert_eq!(world.restarts_charged(), 1);
    // It was over, and had helped.
    let mut world = kicked(false, Some(reset()));
    world.well_for(60);
    world.exits(0, "a");
    world.run(S);
    assert!(!world.saw("exited after"), "{:?}", world.notices);
}

#[test]
fn a_new_life_whose_predecessors_end_nobody_saw_counts_as_an_exit() {
    let mut world = kicked(false, Some(reset()));
    world.running(0, "b");
    assert!(world.saw("exited after socket_reset"), "{:?}", world.notices);
    world.well_for(30);
    assert!(
        world.view(0).episode.is_none(),
        "it helped after all: {:?}",
        world.notices
    );
    assert_eq!(world.rungs(), [0]);
    assert_eq!(world.restarts_charged(), 1);
}

#[test]
fn whom_a_gentle_remedy_ended_is_down_by_our_hand() {
    let gentle = |name: &str| {
        let mut app = peer(name, true, vec![process_check(), http_check()], None);
        let reset = RemedySettings {
            causes: vec![Cause::PeerStuck],
            restarts: false,
            ..remedy(RemedyKind::SocketReset)
        };
        app.remedies = vec![reset];
        app
    };
    let mut other = peer("other", true, vec![process_check()], Some(RemedyKind::Exec));
    other.remedies[0].verify_within = 20 * S;
    let mut all = settings(vec![gentle("app"), other]);
    all.group_budget.spacing = S;
    let mut world = World::settled(all);
    for id in 0..2 {
        world.running(id, "a");
        world.looks(id, 0, 2);
    }
    world.observe(0, 1, Outcome::Pass);
    world.run(10 * S);
    world.stuck_for(4);
    assert_eq!(world.grants.len(), 1, "{:?}", world.notices);
    world.exits(0, "a");
    assert!(world.saw("exited after socket_reset"), "{:?}", world.notices);
    world.run(3 * S);
    // Nothing brings it back, and no other is taken down beside it: for as long as a remedy would have.
    world.exits(1, "a");
    world.run(10 * S);
    assert_eq!(world.refusal(1), Some(GuardName::Budget), "{:?}", world.notices);
    assert_eq!(world.grants.len(), 1);
    world.run(25 * S);
    assert_eq!(world.grants.len(), 2, "{:?}", world.notices);
}

/// `a` ends, and its only remedy brings `b`, which ends too.
fn crashes_again(restarting: bool) -> World {
    let mut app = process_peer();
    app.peers[0].remedies[0].verify_within = 60 * S;
    app.group_budget.spacing = S;
    let mut world = World::settled(app);
    world.running(0, "a");
    world.looks(0, 0, 2);
    world.exits(0, "a");
    world.run(2 * S);
    assert_eq!(world.grants.len(), 1);
    world.running(0, "b");
    let seen = OwnerSeen::Restarting(Incarnation("b".into()));
    if restarting {
        world.feed(Event::Owner {
            peer: PeerId(0),
            seen,
        });
    } else {
        world.exits(0, "b");
    }
    world
}

#[test]
fn a_new_life_that_ends_while_it_is_verified_is_not_waited_for() {
    let mut world = crashes_again(false);
    // The backoff holds, and not the 60 s of the verification.
    world.run(5 * S);
    assert_eq!(world.refusal(0), Some(GuardName::Backoff), "{:?}", world.notices);
    world.run(15 * S);
    assert_eq!(world.grants.len(), 2, "{:?}", world.notices);
    assert_eq!(&*world.grants[1].1.incarnation.0, "b");
    // And so on, until the budget is spent: faster, and not more often.
    for life in ["c", "d", "e"] {
        world.running(0, life);
        world.exits(0, life);
        world.run(100 * S);
    }
    assert_eq!(world.grants.len(), 3, "{:?}", world.notices);
    assert!(world.saw("given up"), "{:?}", world.notices);
}

#[test]
fn a_new_life_that_ends_before_the_executor_has_answered_is_not_waited_for_either() {
    let mut app = process_peer();
    app.peers[0].remedies[0].verify_within = 60 * S;
    let mut world = World::settled(app);
    world.outcome = None;
    world.running(0, "a");
    world.looks(0, 0, 2);
    world.exits(0, "a");
    world.run(2 * S);
    world.running(0, "b");
    world.exits(0, "b");
    world.run(20 * S);
    assert_eq!(world.grants.len(), 1, "its executor is still at work");
    let token = world.grants[0].1.token;
    world.feed(Event::RemedyEnded {
        token,
        outcome: reset(),
    });
    world.run(5 * S);
    assert_eq!(world.grants.len(), 2, "{:?}", world.notices);
}

#[test]
fn the_life_that_was_ended_and_one_that_its_supervisor_brings_back_are_waited_for() {
    // `a` is gone, and nothing has come yet: that is what verify_within is for.
    let mut world = laddered(&[(RemedyKind::Exec, &[], true), (RemedyKind::Signal, &[], true)]);
    world.stuck_for(4);
    assert_eq!(world.rungs(), [0]);
    world.exits(0, "a");
    world.run(15 * S);
    assert_eq!(world.rungs(), [0]);
    world.run(20 * S);
    assert_eq!(world.rungs(), [0, 1], "{:?}", world.notices);

    let mut world = crashes_again(true);
    world.run(50 * S);
    assert_eq!(world.grants.len(), 1, "{:?}", world.notices);
}

#[test]
fn what_acts_on_what_runs_is_passed_over_for_what_has_exited() {
    let signal = |causes: &[Cause]| RemedySettings {
        causes: causes.to_vec(),
        needs_life: true,
        ..remedy(RemedyKind::Signal)
    };
    // The next rung follows at once.
    let mut app = process_peer();
    app.peers[0].remedies = vec![signal(&[]), remedy(RemedyKind::Exec)];
    let mut world = World::settled(app);
    world.running(0, "a");
    world.looks(0, 0, 2);
    world.exits(0, "a");
    world.run(2 * S);
    assert_eq!(world.rungs(), [1], "{:?}", world.notices);

    // Alone it is not granted again and again: nothing can be done, and `explain` says so.
    let mut app = process_peer();
    app.peers[0].remedies = vec![signal(&[])];
    let mut world = World::settled(app);
    world.running(0, "a");
    world.looks(0, 0, 2);
    world.exits(0, "a");
    world.run(1_000 * S);
    assert_eq!(world.rungs(), [0u16; 0], "{:?}", world.notices);
    assert!(!world.saw("given up"), "nothing was tried: {:?}", world.notices);
    assert_eq!(world.view(0).episode.map(|episode| episode.remedy), Some(None));
    // Its own supervisor brings it back.
    world.running(0, "b");
    world.looks(0, 0, 2);
    assert!(world.view(0).episode.is_none(), "{:?}", world.notices);
}

#[test]
fn who_exits_of_a_signal_and_does_not_come_back_is_given_up_loudly_and_re_armed_when_it_does() {
    let mut world = laddered(&[(RemedyKind::Signal, &[], true)]);
    world.engine.settings.peers[0].remedies[0].needs_life = true;
    world.stuck_for(4);
    assert_eq!(world.rungs(), [0]);
    world.exits(0, "a");
    world.run(100 * S);
    assert_eq!(world.rungs(), [0], "{:?}", world.notices);
    assert!(world.saw("given up"), "{:?}", world.notices);
    // Somebody brings it back: the episode is closed, and the next one has the whole ladder again.
    world.running(0, "b");
    world.well_for(20);
    assert!(world.view(0).episode.is_none(), "{:?}", world.notices);
    world.stuck_for(60);
    assert_eq!(world.rungs(), [0, 0], "{:?}", world.notices);
}

#[test]
fn who_exited_in_answer_stays_down_by_our_hand_while_the_next_rung_touches_nothing() {
    let mut app = peer("app", true, vec![process_check(), http_check()], None);
    app.remedies = vec![
        RemedySettings {
            causes: vec![Cause::PeerStuck],
            restarts: false,
            ..remedy(RemedyKind::SocketReset)
        },
        RemedySettings {
            restarts: false,
            ..remedy(RemedyKind::Http)
        },
    ];
    app.backoff.initial = S;
    let other = peer("other", true, vec![process_check()], Some(RemedyKind::Exec));
    let mut all = settings(vec![app, other]);
    all.group_budget.spacing = S;
    let mut world = World::settled(all);
    for id in 0..2 {
        world.running(id, "a");
        world.looks(id, 0, 2);
    }
    world.observe(0, 1, Outcome::Pass);
    world.run(10 * S);
    world.stuck_for(4);
    assert_eq!(world.rungs(), [0], "{:?}", world.notices);
    world.outcome = Some(RemedyOutcome::NotActed {
        detail: "connection refused".to_owned(),
    });
    world.exits(0, "a");
    world.run(5 * S);
    assert_eq!(
        world.rungs().get(..2),
        Some([0, 1].as_slice()),
        "{:?}",
        world.notices
    );
    world.exits(1, "a");
    world.run(5 * S);
    assert_eq!(world.refusal(1), Some(GuardName::Budget), "{:?}", world.notices);
    assert!(world.grants.iter().all(|(_, grant)| grant.peer == PeerId(0)));
}
