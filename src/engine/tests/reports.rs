//! What peers say of themselves: life at a pace of their own, failure, and that they leave on purpose.

use super::*;

pub(super) fn reported(names_lives: bool) -> CheckSettings {
    CheckSettings {
        name: "notify".into(),
        kind: CheckKind::Passive {
            source: Source::Reported { names_lives },
            detector: DetectorSettings::default(),
            cause: Cause::PeerSilent,
        },
        plane: Plane::Local,
        decides: Decides::Liveness,
        grace: 10 * S,
        needs: None,
    }
}

/// Check 0 of `app` is what it says of itself; then come `more`.
pub(super) fn speaking(more: Vec<CheckSettings>) -> Settings {
    let mut checks = vec![reported(true)];
    checks.extend(more);
    settings(vec![peer("app", true, checks, Some(RemedyKind::Exec))])
}

impl World {
    pub(super) fn says(&mut self, life: Option<&str>, word: Word) {
        let check = CheckId {
            peer: PeerId(0),
            index: 0,
        };
        self.feed(Event::Report(Report {
            check,
            life: life.map(|life| Incarnation(life.into())),
            says: None,
            word,
        }));
    }

    pub(super) fn ready(&mut self, life: &str) {
        let next = Next::AsConfigured;
        self.says(Some(life), Word::Life { up: true, next });
    }

    pub(super) fn pings(&mut self, life: &str) {
        let next = Next::AsBefore;
        self.says(Some(life), Word::Life { up: false, next });
    }

    pub(super) fn leaves(&mut self, life: Option<&str>) {
        let detail = "stopping".into();
        self.says(life, Word::Leaving { detail });
    }

    pub(super) fn fails(&mut self, life: Option<&str>) {
        let detail = "disk gone".into();
        let cause = Cause::PeerStuck;
        self.says(life, Word::Failed { cause, detail });
    }

    fn owner_gone(&mut self) {
        let detail = "no such process".into();
        self.feed(Event::Owner {
            peer: PeerId(0),
            seen: OwnerSeen::Absent { detail },
        });
    }

    /// Pings each second for so long.
    pub(super) fn pinging(&mut self, life: &str, secs: u32) {
        for _ in 0..secs {
            self.run(S);
            self.pings(life);
        }
    }
}

/// An owner that runs, and says that it is ready.
pub(super) fn owned(more: Vec<CheckSettings>) -> World {
    let mut checks = vec![process_check()];
    checks.extend(more);
    let mut world = World::settled(speaking(checks));
    world.running(0, "a");
    world.ready("a");
    world.looks(0, 1, 1);
    world.pings("a");
    assert_eq!(world.liveness(0), Liveness::Alive);
    world
}

#[test]
fn what_speaks_is_alive_then_silent_then_dead_without_any_echo() {
    let mut world = World::settled(speaking(vec![]));
    assert_eq!(world.liveness(0), Liveness::Unknown, "never heard");
    world.ready("a");
    assert_eq!(world.liveness(0), Liveness::Alive);
    world.pinging("a", 20);
    world.outage(true);
    world.run(2 * S - MS);
    assert_eq!(world.liveness(0), Liveness::Alive);
    world.run(MS);
    assert_eq!(world.liveness(0), Liveness::Suspect);
    world.run(3 * S);
    assert_eq!(
        (world.liveness(0), world.view(0).cause),
        (Liveness::Dead, Some(Cause::PeerSilent))
    );
    assert!(world.grants.is_empty(), "nothing is healed while the bus is away");
}

#[test]
fn the_silence_of_one_that_speaks_is_healed_and_a_new_life_proves_it() {
    let mut world = World::settled(speaking(vec![]));
    world.ready("a");
    world.run(6 * S);
    assert_eq!(world.grants.len(), 1, "{:?}", world.notices);
    assert_eq!(world.grants[0].1.incarnation, Incarnation("a".into()));
    world.ready("b");
    assert_eq!(world.liveness(0), Liveness::Alive);
    assert!(world.saw("recovered"), "{:?}", world.notices);
}

#[test]
fn s31_an_own_pause_gives_one_that_speaks_a_fresh_window() {
    let mut world = World::settled(speaking(vec![]));
    world.ready("a");
    world.now = world.now + 60 * S;
    world.feed(Event::Tick {
        suspended: Duration::ZERO,
    });
    assert_eq!(world.liveness(0), Liveness::Alive);
    world.run(2 * S - MS);
    assert_eq!(world.liveness(0), Liveness::Alive);
    world.run(2 * MS);
    assert_eq!(world.liveness(0), Liveness::Suspect);
}

#[test]
fn a_pace_of_its_own_counts_until_the_next_life_and_across_a_restart_of_the_node() {
    let mut world = World::settled(speaking(vec![]));
    let next = Next::Within {
        suspect_after: 30 * S,
        dead_after: 40 * S,
    };
    world.says(Some("a"), Word::Life { up: true, next });
    world.run(30 * S - MS);
    assert_eq!(world.liveness(0), Liveness::Alive);
    world.run(2 * MS);
    assert_eq!(world.liveness(0), Liveness::Suspect);
    world.pings("a");
    let kept = world.persisted.clone().unwrap();

    let restored = Restored::Found(Box::new(kept), S);
    let mut again = World::restored(speaking(vec![]), &restored);
    again.run(29 * S);
    assert_ne!(
        again.liveness(0),
        Liveness::Dead,
        "it told its pace to the run before"
    );
    again.pings("a");
    again.run(29 * S);
    assert_eq!(again.liveness(0), Liveness::Alive);

    let mut other = World::restored(speaking(vec![]), &restored);
    other.run(40 * S);
    other.pings("b");
    other.run(3 * S);
    assert_eq!(other.liveness(0), Liveness::Suspect, "another life told nothing");
    world.ready("b");
    world.run(3 * S);
    assert_eq!(world.liveness(0), Liveness::Suspect);
}

#[test]
fn a_shorter_pace_is_judged_by_in_time() {
    let mut world = World::settled(speaking(vec![]));
    let pace = |suspect: u32, dead: u32| Next::Within {
        suspect_after: suspect * S,
        dead_after: dead * S,
    };
    let next = pace(300, 600);
    world.says(Some("a"), Word::Life { up: true, next });
    let next = pace(3, 6);
    world.says(Some("a"), Word::Life { up: false, next });
    world.run(3 * S + MS);
    assert_eq!(world.liveness(0), Liveness::Suspect);
    world.run(3 * S);
    assert_eq!(world.liveness(0), Liveness::Dead);
}

#[test]
fn who_promises_nothing_is_never_silent() {
    let mut world = World::settled(speaking(vec![process_check()]));
    world.running(0, "a");
    let next = Next::Open;
    world.says(Some("a"), Word::Life { up: true, next });
    world.looks(0, 1, 3);
    world.run(10 * S);
    world.looks(0, 1, 1);
    assert_eq!(world.liveness(0), Liveness::Alive);
    assert!(!world.saw("suspect"), "{:?}", world.notices);
    world.exits(0, "a");
    assert_eq!(world.liveness(0), Liveness::Dead);
}

#[test]
fn who_has_begun_to_ping_is_expected_to_go_on() {
    let mut world = World::settled(speaking(vec![]));
    let says = |world: &mut World, up, next| world.says(Some("a"), Word::Life { up, next });
    says(&mut world, true, Next::Open);
    world.run(60 * S);
    assert_eq!(world.liveness(0), Liveness::Alive);
    says(&mut world, false, Next::Counts);
    // Said again, as after a reload: it has shown more since.
    says(&mut world, true, Next::Open);
    let restored = Restored::Found(Box::new(world.engine.persisted()), S);
    world.run(2 * S + MS);
    assert_eq!(world.liveness(0), Liveness::Suspect);

    let mut again = World::restored(speaking(vec![]), &restored);
    again.says(
        Some("a"),
        Word::Life {
            up: true,
            next: Next::Open,
        },
    );
    again.run(2 * S + MS);
    assert_eq!(
        again.liveness(0),
        Liveness::Suspect,
        "also after a restart of the node"
    );
}

#[test]
fn its_own_word_condemns_at_once_and_holds_until_it_lives() {
    let mut world = World::settled(speaking(vec![]));
    world.ready("a");
    world.fails(None);
    assert_eq!(
        (world.liveness(0), world.view(0).cause),
        (Liveness::Dead, Some(Cause::PeerStuck))
    );
    assert!(world.view(0).detail.contains("disk gone"));
    world.run(S);
    assert_eq!(world.grants.len(), 1);
    world.pings("a");
    assert_eq!(world.liveness(0), Liveness::Alive);
}

#[test]
fn a_failure_said_after_an_own_pause_needs_no_window() {
    let mut world = World::settled(speaking(vec![]));
    world.ready("a");
    world.now = world.now + 60 * S;
    world.feed(Event::Tick {
        suspended: Duration::ZERO,
    });
    world.fails(Some("a"));
    assert_eq!(world.liveness(0), Liveness::Dead);
    assert!(world.grants.is_empty(), "the node distrusts itself all the same");
}

#[test]
fn s43_who_leaves_on_purpose_is_left_alone_whatever_else_fails_or_beats() {
    let mut world = owned(vec![http_check(), heartbeat_check("hb")]);
    world.beats("hb");
    world.observe(0, 2, Outcome::Pass);
    world.run(S);
    world.leaves(Some("a"));
    assert_eq!(world.liveness(0), Liveness::Unknown);
    // It drains: its messages still come, it still pings, its probe passes and then fails.
    world.observe(0, 2, Outcome::Pass);
    world.pinging("a", 3);
    for _ in 0..4 {
        world.run(S);
        world.fail(0, 2);
    }
    world.beating.clear();
    assert_eq!(world.liveness(0), Liveness::Unknown, "{:?}", world.notices);
    world.exits(0, "a");
    world.run(600 * S);
    assert_eq!(world.liveness(0), Liveness::Unknown);
    assert!(
        world.view(0).detail.contains("stopping"),
        "{}",
        world.view(0).detail
    );
    assert!(!world.saw("episode"), "{:?}", world.notices);

    // Started again, it is watched again.
    world.running(0, "b");
    world.ready("b");
    world.looks(0, 1, 1);
    assert_eq!(world.liveness(0), Liveness::Alive);
    world.exits(0, "b");
    world.run(S);
    assert_eq!(world.grants.len(), 1);
}

#[test]
fn s43_last_words_that_arrive_after_the_exit_was_seen_still_count() {
    let mut world = owned(vec![]);
    world.exits(0, "a");
    assert_eq!(world.liveness(0), Liveness::Dead);
    world.leaves(Some("a"));
    assert_eq!(world.liveness(0), Liveness::Unknown);
    world.run(600 * S);
    assert!(world.grants.is_empty(), "{:?}", world.notices);
}

#[test]
fn last_words_of_an_earlier_life_bind_nobody() {
    let mut world = owned(vec![]);
    world.exits(0, "a");
    world.outcome = None;
    world.running(0, "b");
    world.ready("b");
    world.leaves(Some("a"));
    world.fails(Some("a"));
    assert_eq!(world.liveness(0), Liveness::Alive);
    world.exits(0, "b");
    world.run(S);
    assert_eq!(world.grants.len(), 1);
}

#[test]
fn the_first_words_of_a_life_count_also_before_its_owner_shows_it() {
    let mut world = owned(vec![]);
    world.exits(0, "a");
    let next = Next::Within {
        suspect_after: 300 * S,
        dead_after: 600 * S,
    };
    world.says(Some("b"), Word::Life { up: true, next });
    world.pings("b");
    assert_eq!(
        world.liveness(0),
        Liveness::Dead,
        "its end was witnessed, a new process was not"
    );
    world.running(0, "b");
    world.looks(0, 1, 60);
    assert_eq!(world.liveness(0), Liveness::Alive, "{:?}", world.view(0));
    assert!(world.view(0).checks[0].last_pass.is_some());
}

#[test]
fn a_status_counts_also_before_its_owner_shows_it() {
    let mut world = owned(vec![]);
    world.exits(0, "a");
    world.ready("b");
    let check = CheckId {
        peer: PeerId(0),
        index: 0,
    };
    world.feed(Event::Report(Report {
        check,
        life: Some(Incarnation("b".into())),
        says: Some("at work".into()),
        word: Word::Note,
    }));
    world.pings("b");
    world.running(0, "b");
    assert!(
        world.view(0).checks[0].detail.contains("it says: at work"),
        "{:?}",
        world.view(0)
    );
}

#[test]
fn who_says_that_it_is_up_again_has_not_left() {
    let mut world = owned(vec![]);
    world.leaves(Some("a"));
    world.pings("a");
    assert_eq!(world.liveness(0), Liveness::Unknown, "it has only not left yet");
    world.ready("a");
    assert_eq!(world.liveness(0), Liveness::Alive);
    world.exits(0, "a");
    world.run(S);
    assert_eq!(world.grants.len(), 1);
}

#[test]
fn who_has_failed_does_not_leave_on_purpose() {
    let mut world = owned(vec![]);
    world.fails(Some("a"));
    world.leaves(Some("a"));
    world.exits(0, "a");
    world.run(S);
    assert_eq!(world.liveness(0), Liveness::Dead);
    assert_eq!(world.grants.len(), 1);
}

#[test]
fn whom_our_remedy_takes_down_does_not_leave_on_purpose() {
    let mut world = owned(vec![]);
    world.outcome = None;
    world.run(8 * S);
    assert_eq!(world.grants.len(), 1, "silent: {:?}", world.notices);
    world.leaves(Some("a"));
    assert_eq!(world.liveness(0), Liveness::Dead);
    world.exits(0, "a");
    world.feed(Event::RemedyEnded {
        token: world.grants[0].1.token,
        outcome: RemedyOutcome::Failed {
            detail: "stopped, and could not start it".into(),
        },
    });
    world.run(60 * S);
    assert_eq!(world.grants.len(), 2, "it is not left lying: {:?}", world.notices);
}

#[test]
fn whom_an_earlier_run_of_this_node_took_down_does_not_leave_on_purpose() {
    let mut world = owned(vec![]);
    world.outcome = None;
    world.run(8 * S);
    assert_eq!(world.grants.len(), 1);
    let kept = world.engine.persisted();
    let mut again = World::restored(
        speaking(vec![process_check()]),
        &Restored::Found(Box::new(kept), S),
    );
    again.leaves(Some("a"));
    again.owner_gone();
    assert_eq!(again.liveness(0), Liveness::Dead, "{:?}", again.notices);
}

#[test]
fn in_a_dry_run_nobody_is_taken_down() {
    let mut settings = speaking(vec![process_check()]);
    settings.dry_run = true;
    let mut world = World::settled(settings);
    world.running(0, "a");
    world.ready("a");
    world.looks(0, 1, 1);
    world.run(8 * S);
    assert!(world.saw("would"), "{:?}", world.notices);
    world.leaves(Some("a"));
    assert_eq!(world.liveness(0), Liveness::Unknown);
}

#[test]
fn a_purpose_survives_a_restart_of_the_node_and_ends_with_another_life() {
    let mut world = owned(vec![]);
    world.leaves(Some("a"));
    let restored = Restored::Found(Box::new(world.engine.persisted()), S);
    let settings = || speaking(vec![process_check()]);

    let mut gone = World::restored(settings(), &restored);
    gone.run(120 * S);
    assert_eq!(gone.liveness(0), Liveness::Unknown, "{:?}", gone.notices);
    assert!(!gone.saw("episode"), "{:?}", gone.notices);

    let mut still = World::restored(settings(), &restored);
    still.running(0, "a");
    still.run(60 * S);
    still.exits(0, "a");
    still.run(60 * S);
    assert!(still.grants.is_empty(), "{:?}", still.notices);

    let mut new = World::restored(settings(), &restored);
    new.running(0, "b");
    new.looks(0, 1, 60);
    assert_eq!(
        new.liveness(0),
        Liveness::Dead,
        "another life, and it never said that it is ready"
    );
    assert!(new.view(0).checks[0].detail.contains("silent"));
}

#[test]
fn forgetting_it_ends_its_purpose() {
    let mut world = World::settled(speaking(vec![]));
    world.ready("a");
    world.leaves(Some("a"));
    world.feed(Event::Operator {
        request: super::super::event::OperatorRequest::Forget { peer: PeerId(0) },
        by: "test".into(),
    });
    world.pings("a");
    assert_eq!(
        world.liveness(0),
        Liveness::Alive,
        "the next sign of life starts it anew"
    );
}

#[test]
fn what_decides_nothing_silences_nobody() {
    let mut settings = speaking(vec![process_check()]);
    settings.peers[0].checks[0].decides = Decides::Nothing;
    let mut world = World::settled(settings);
    world.running(0, "a");
    world.looks(0, 1, 1);
    world.leaves(Some("a"));
    world.exits(0, "a");
    world.run(S);
    assert_eq!(world.liveness(0), Liveness::Dead);
}

#[test]
fn what_cannot_be_heard_is_not_silent() {
    let mut world = World::settled(speaking(vec![]));
    world.ready("a");
    let detail = "permission denied".into();
    world.says(None, Word::Deaf { detail });
    world.run(60 * S);
    assert_eq!(world.liveness(0), Liveness::Unknown);
    assert!(world.view(0).detail.contains("permission denied"));
    world.says(None, Word::Hears);
    world.run(2 * S - MS);
    assert_eq!(world.liveness(0), Liveness::Unknown, "an empty window");
    world.run(2 * MS);
    assert_eq!(world.liveness(0), Liveness::Suspect);
    world.pings("a");
    assert_eq!(world.liveness(0), Liveness::Alive);
}

#[test]
fn what_cannot_be_heard_is_not_silent_whatever_else_is_said_meanwhile() {
    let deaf = || Word::Deaf {
        detail: "permission denied".into(),
    };
    let mut before = owned(vec![reported(false)]);
    before.says(None, deaf());
    let mut after = owned(vec![reported(false)]);
    for world in [&mut before, &mut after] {
        // Another edge of this machine hears that it leaves.
        world.feed(Event::Report(Report {
            check: CheckId {
                peer: PeerId(0),
                index: 2,
            },
            life: Some(Incarnation("a".into())),
            says: None,
            word: Word::Leaving {
                detail: "stopping".into(),
            },
        }));
    }
    after.says(None, deaf());
    for mut world in [before, after] {
        world.exits(0, "a");
        world.running(0, "b");
        world.looks(0, 1, 60);
        assert_eq!(world.liveness(0), Liveness::Alive, "{:?}", world.notices);
        assert!(world.view(0).checks[0].detail.contains("permission denied"));
        world.ready("b");
        world.looks(0, 1, 60);
        assert_eq!(world.liveness(0), Liveness::Dead, "it can be heard again");
    }
}

#[test]
fn what_was_said_before_its_remedy_had_ended_proves_one_that_says_no_more() {
    let mut world = owned(vec![]);
    let next = Next::Open;
    world.says(Some("a"), Word::Life { up: true, next });
    world.exits(0, "a");
    world.outcome = None;
    world.run(S);
    assert_eq!(world.grants.len(), 1, "{:?}", world.notices);
    // Its start script returns once it is up.
    world.running(0, "b");
    world.says(Some("b"), Word::Life { up: true, next });
    world.run(S);
    world.feed(Event::RemedyEnded {
        token: world.grants[0].1.token,
        outcome: RemedyOutcome::Acted {
            detail: "started".into(),
        },
    });
    world.looks(0, 1, 3);
    assert!(world.saw("recovered"), "{:?}", world.notices);
}

#[test]
fn who_says_no_more_is_not_proven_by_the_life_that_was_taken_down() {
    let mut world = World::settled(speaking(vec![http_check()]));
    let next = Next::Open;
    world.says(Some("a"), Word::Life { up: true, next });
    world.observe(0, 1, Outcome::Pass);
    world.run(10 * S);
    world.fail(0, 1);
    world.fail(0, 1);
    world.run(2 * S);
    assert_eq!(world.grants.len(), 1, "{:?}", world.notices);
    for _ in 0..3 {
        world.observe(0, 1, Outcome::Pass);
        world.run(S);
    }
    assert!(!world.saw("recovered"), "{:?}", world.notices);
    world.says(Some("b"), Word::Life { up: true, next });
    world.observe(0, 1, Outcome::Pass);
    assert!(world.saw("recovered"), "{:?}", world.notices);
}

#[test]
fn a_purpose_that_was_given_up_does_not_come_back_with_the_node() {
    let mut world = owned(vec![]);
    world.leaves(Some("a"));
    world.run(2 * S);
    world.ready("a");
    world.run(2 * S);
    let kept = world.persisted.clone().unwrap();
    assert_eq!(
        kept.peers["app"].leaving, None,
        "a node that is killed reads this"
    );
}

#[test]
fn the_purpose_of_a_life_not_known_yet_is_that_of_the_first_one_shown() {
    let mut world = World::settled(speaking(vec![process_check()]));
    world.leaves(None);
    world.running(0, "a");
    world.run(2 * S);
    assert_eq!(world.liveness(0), Liveness::Unknown, "it leaves");
    let kept = world.persisted.clone().unwrap();

    let mut again = World::restored(
        speaking(vec![process_check()]),
        &Restored::Found(Box::new(kept), S),
    );
    again.running(0, "b");
    again.looks(0, 1, 1);
    assert_eq!(again.liveness(0), Liveness::Alive, "another one does not");
}

#[test]
fn a_failure_that_decides_nothing_takes_no_purpose_away() {
    let mut aside = reported(false);
    aside.decides = Decides::Nothing;
    let mut world = owned(vec![aside]);
    world.feed(Event::Report(Report {
        check: CheckId {
            peer: PeerId(0),
            index: 2,
        },
        life: Some(Incarnation("a".into())),
        says: None,
        word: Word::Failed {
            cause: Cause::PeerStuck,
            detail: "a batch failed".into(),
        },
    }));
    world.leaves(Some("a"));
    world.exits(0, "a");
    world.run(60 * S);
    assert!(world.grants.is_empty(), "{:?}", world.notices);
}

#[test]
fn a_late_word_does_not_undo_a_stop_that_the_owner_showed() {
    let mut world = owned(vec![http_check()]);
    world.observe(0, 2, Outcome::Pass);
    world.leaves(Some("a"));
    world.exits(0, "a");
    world.ready("a");
    for _ in 0..60 {
        world.run(S);
        world.fail(0, 2);
    }
    assert_eq!(world.liveness(0), Liveness::Unknown, "{:?}", world.notices);
    assert!(world.grants.is_empty(), "{:?}", world.notices);
}

#[test]
fn a_life_that_began_while_nobody_listened_may_have_promised_nothing() {
    let mut world = World::settled(speaking(vec![process_check()]));
    world.running(0, "a");
    let next = Next::Open;
    world.says(Some("a"), Word::Life { up: true, next });
    let restored = Restored::Found(Box::new(world.engine.persisted()), S);
    let mut again = World::restored(speaking(vec![process_check()]), &restored);
    again.running(0, "b");
    again.looks(0, 1, 120);
    assert_eq!(again.liveness(0), Liveness::Alive, "{:?}", again.notices);
    assert!(again.grants.is_empty(), "{:?}", again.notices);
    again.pings("b");
    again.looks(0, 1, 10);
    assert_eq!(again.liveness(0), Liveness::Dead, "once heard, it counts");
}

#[test]
fn a_pace_that_was_told_is_not_that_of_another_kind_of_check_by_the_same_name() {
    let mut world = World::settled(speaking(vec![]));
    let next = Next::Open;
    world.says(Some("a"), Word::Life { up: true, next });
    let restored = Restored::Found(Box::new(world.engine.persisted()), S);
    let mut check = heartbeat_check("hb");
    check.name = "notify".into();
    let mut again = World::restored(settings(vec![peer("app", true, vec![check], None)]), &restored);
    again.run(40 * S);
    again.beat("hb");
    again.run(10 * S);
    assert_eq!(again.liveness(0), Liveness::Dead, "{:?}", again.notices);
}

#[test]
fn its_words_are_shown_until_it_has_others() {
    let mut world = World::settled(speaking(vec![]));
    world.ready("a");
    let note = |words: &str| Report {
        check: CheckId {
            peer: PeerId(0),
            index: 0,
        },
        life: None,
        says: Some(words.into()),
        word: Word::Note,
    };
    world.feed(Event::Report(note("loading")));
    assert!(world.view(0).detail.contains("it says: loading"));
    world.run(6 * S);
    assert!(
        world.view(0).detail.contains("it says: loading"),
        "also of one that is dead"
    );
    world.ready("b");
    assert!(!world.view(0).detail.contains("loading"));
}
