//! What operators ask for beside a pause: a restart through every guard; and maintenance windows, which forbid.

use super::*;
use crate::engine::event::{Opened, OperatorRequest, Restart, Which};

/// A local peer with an owner and an `http` check that lives and is well; its ladder as told.
fn alive(ladder: Vec<RemedySettings>) -> World {
    let mut app = peer("app", true, vec![process_check(), http_check()], None);
    app.remedies = ladder;
    let mut world = World::settled(settings(vec![app]));
    lives(&mut world, 0);
    world
}

fn lives(world: &mut World, id: u32) {
    world.running(id, "a");
    world.looks(id, 0, 2);
    world.observe(id, 1, Outcome::Pass);
    world.run(10 * S);
    world.looks(id, 0, 1);
    world.observe(id, 1, Outcome::Pass);
}

fn gentle() -> RemedySettings {
    RemedySettings {
        restarts: false,
        ..remedy(RemedyKind::ClientKill)
    }
}

impl World {
    fn asks(&mut self, rung: Which, force: Option<&str>) -> What {
        self.asks_for(0, rung, force)
    }

    fn asks_for(&mut self, peer: u32, rung: Which, force: Option<&str>) -> What {
        let number = self.whats.len() as u64;
        let restart = Restart {
            peer: PeerId(peer),
            rung,
            force: force.map(str::to_owned),
            number,
        };
        self.feed(Event::Operator {
            request: OperatorRequest::Restart(restart),
            by: "uid 0 pid 7".to_owned(),
        });
        let answers: Vec<_> = self
            .whats
            .iter()
            .filter(|(_, what)| matches!(what, What::Restart { number: of, .. } if *of == number))
            .collect();
        assert_eq!(answers.len(), 1, "one request has one answer: {answers:?}");
        answers[0].1.clone()
    }

    fn window(&mut self, peers: &[&str], lasting: Option<Duration>) {
        let open = lasting.map(|lasting| Opened {
            reason: "backup".into(),
            peers: peers.iter().map(|name| Arc::from(*name)).collect(),
            lasting,
        });
        self.feed(Event::Maintenance { window: 0, open });
    }

    /// The owner's act: `a` ends and `b` runs, and everything passes.
    fn restarted_as(&mut self, life: &str) {
        self.running(0, life);
        for _ in 0..3 {
            self.run(S);
            self.observe(0, 0, Outcome::Pass);
            self.observe(0, 1, Outcome::Pass);
        }
    }
}

fn granted(answer: &What) -> bool {
    matches!(
        answer,
        What::Restart {
            outcome: "granted",
            ..
        }
    )
}

fn refused_by(answer: &What) -> Option<GuardName> {
    match answer {
        What::Restart {
            outcome: "refused",
            refusal: Some(refusal),
            ..
        } => Some(refusal.guard),
        _ => None,
    }
}

fn impossible(answer: &What) -> String {
    match answer {
        What::Restart {
            outcome: "impossible",
            detail,
            ..
        } => detail.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn who_is_well_is_restarted_at_an_operators_word_and_proven_by_another_life() {
    let mut world = alive(vec![gentle(), remedy(RemedyKind::Exec)]);
    let answer = world.asks(Which::First, None);
    assert!(granted(&answer), "{answer:?}");
    let grant = &world.grants[0].1;
    assert_eq!(
        (grant.rung, grant.cause),
        (1, Cause::Operator),
        "the first that restarts"
    );
    assert_eq!(&*grant.incarnation.0, "a");
    assert!(world.saw("episode 1 opened: operator"), "{:?}", world.notices);
    // The API says that it is done, and everything passes: by the same life.
    for _ in 0..10 {
        world.run(S);
        world.observe(0, 0, Outcome::Pass);
        world.observe(0, 1, Outcome::Pass);
    }
    assert!(!world.saw("recovered"), "{:?}", world.notices);
    world.exits(0, "a");
    world.restarted_as("b");
    assert!(
        world.saw("recovered, proven by its own checks"),
        "{:?}",
        world.notices
    );
    assert!(world.view(0).episode.is_none());
    assert_eq!(world.grants.len(), 1);
    assert_eq!(world.view(0).budget_left, 2, "it is charged");
}

#[test]
fn a_restart_after_which_the_same_life_goes_on_is_said_to_have_failed_and_nothing_follows() {
    let mut world = alive(vec![remedy(RemedyKind::Exec)]);
    assert!(granted(&world.asks(Which::First, None)));
    for _ in 0..60 {
        world.run(S);
        world.observe(0, 0, Outcome::Pass);
        world.observe(0, 1, Outcome::Pass);
    }
    assert!(world.saw("it was not restarted"), "{:?}", world.notices);
    assert!(world.view(0).episode.is_none());
    assert_eq!(world.grants.len(), 1, "it is well: nothing is done to it");
    // The same life is not given the same again, however it is asked for.
    let why = impossible(&world.asks(Which::First, Some("again")));
    assert!(why.contains("this very life"), "{why}");
}

#[test]
fn a_restart_that_leaves_it_dead_is_the_ladders_from_there_on() {
    let mut world = alive(vec![remedy(RemedyKind::Exec), remedy(RemedyKind::Docker)]);
    assert!(granted(&world.asks(Which::At(0), None)));
    world.exits(0, "a");
    world.run(120 * S);
    let rungs: Vec<_> = world
        .grants
        .iter()
        .map(|(_, grant)| (grant.rung, grant.cause))
        .collect();
    assert_eq!(
        rungs.get(..2),
        Some([(0, Cause::Operator), (1, Cause::PeerExited)].as_slice()),
        "{:?}",
        world.notices
    );
    world.restarted_as("b");
    assert!(world.view(0).episode.is_none(), "{:?}", world.notices);
}

#[test]
fn what_could_not_be_carried_out_is_told_and_leaves_nothing_behind() {
    let mut world = alive(vec![remedy(RemedyKind::Exec)]);
    world.outcome = Some(RemedyOutcome::Fenced {
        detail: "another life runs by now".to_owned(),
    });
    assert!(granted(&world.asks(Which::First, Some("now"))));
    world.run(S);
    assert!(world.saw("exec fenced"), "{:?}", world.notices);
    assert!(world.saw("it was not restarted"), "{:?}", world.notices);
    assert!(world.view(0).episode.is_none());
    assert_eq!(world.view(0).budget_left, 3);
    world.run(100 * S);
    assert_eq!(world.grants.len(), 1);
}

#[test]
fn a_refusal_is_the_answer_and_changes_nothing() {
    let mut world = alive(vec![remedy(RemedyKind::Exec)]);
    world.feed(Event::Operator {
        request: OperatorRequest::Pause {
            peer: None,
            reason: "a deploy".to_owned(),
            lasting: Some(600 * S),
        },
        by: "test".to_owned(),
    });
    let before = world.view(0);
    let answer = world.asks(Which::First, None);
    assert_eq!(refused_by(&answer), Some(GuardName::Paused), "{answer:?}");
    assert!(
        matches!(&answer, What::Restart { refusal: Some(refusal), by, .. }
            if refusal.until == Some(world.now + 600 * S) && by == "uid 0 pid 7"),
        "{answer:?}"
    );
    assert_eq!(world.view(0), before);
    world.run(700 * S);
    assert_eq!(
        world.grants.len(),
        0,
        "it does not wait for the guard: {:?}",
        world.notices
    );
    assert!(!world.saw("opened"), "{:?}", world.notices);
}

#[test]
fn force_passes_what_yields_and_nothing_else() {
    // An outage, its settling, a pause and a window at once: none of them is passed without a reason.
    let mut world = alive(vec![remedy(RemedyKind::Exec)]);
    world.window(&[], Some(60 * S));
    world.outage(true);
    world.run(3 * S);
    assert_eq!(
        refused_by(&world.asks(Which::First, None)),
        Some(GuardName::Paused)
    );
    let answer = world.asks(Which::First, Some("the disk is full, I have made room"));
    assert!(granted(&answer), "{answer:?}");
    assert!(matches!(&answer, What::Restart { force: Some(why), .. } if why.contains("disk")));
    assert_eq!(world.grants.len(), 1);

    // Grace, backoff: yes. The budget: never.
    let mut app = process_peer();
    app.peers[0].budget.count = 2;
    app.group_budget.spacing = Duration::ZERO;
    let mut world = World::settled(app);
    world.running(0, "a");
    world.looks(0, 0, 2);
    world.run(10 * S);
    for (dead, next) in [("a", "b"), ("b", "c")] {
        assert!(
            granted(&world.asks(Which::First, Some("go"))),
            "{:?}",
            world.notices
        );
        world.exits(0, dead);
        world.running(0, next);
        world.looks(0, 0, 6);
    }
    assert_eq!(
        refused_by(&world.asks(Which::First, None)),
        Some(GuardName::Backoff)
    );
    assert_eq!(
        refused_by(&world.asks(Which::First, Some("go"))),
        Some(GuardName::Budget)
    );
    assert_eq!(world.grants.len(), 2);
}

#[test]
fn force_never_passes_a_dry_run_a_drain_the_group_or_a_peer_whose_lives_cannot_be_told_apart() {
    let mut app = process_peer();
    app.dry_run = true;
    let mut world = World::settled(app);
    world.running(0, "a");
    world.looks(0, 0, 2);
    world.run(10 * S);
    let answer = world.asks(Which::First, Some("go"));
    assert_eq!(refused_by(&answer), Some(GuardName::DryRun), "{answer:?}");
    assert!(
        !world.saw("would do"),
        "that is of an episode, and there is none: {:?}",
        world.notices
    );
    assert!(world.view(0).episode.is_none());

    let mut world = alive(vec![remedy(RemedyKind::Exec)]);
    world.feed(Event::Operator {
        request: OperatorRequest::Drain,
        by: "test".to_owned(),
    });
    assert_eq!(
        refused_by(&world.asks(Which::First, Some("go"))),
        Some(GuardName::Paused)
    );

    let nameless = peer("x", true, vec![http_check()], Some(RemedyKind::Exec));
    let mut world = World::settled(settings(vec![nameless]));
    world.observe(0, 0, Outcome::Pass);
    assert_eq!(
        refused_by(&world.asks(Which::First, Some("go"))),
        Some(GuardName::Grace)
    );

    // Another one is down by our hand: one at a time.
    let two = |name: &str| {
        peer(
            name,
            true,
            vec![process_check(), http_check()],
            Some(RemedyKind::Exec),
        )
    };
    let mut all = settings(vec![two("a"), two("b")]);
    all.group_budget.spacing = Duration::ZERO;
    let mut world = World::settled(all);
    lives(&mut world, 0);
    lives(&mut world, 1);
    assert!(granted(&world.asks_for(0, Which::First, None)));
    assert_eq!(
        refused_by(&world.asks_for(1, Which::First, Some("go"))),
        Some(GuardName::Budget)
    );
    assert_eq!(world.grants.len(), 1);
}

#[test]
fn who_was_never_alive_or_is_starting_is_restarted_only_by_force() {
    let mut world = World::settled(process_peer());
    world.running(0, "a");
    assert_eq!(
        refused_by(&world.asks(Which::First, None)),
        Some(GuardName::Grace)
    );
    assert!(granted(&world.asks(Which::First, Some("it hangs in its start"))));
}

#[test]
fn a_rung_that_cannot_be_meant_is_named_with_those_that_can() {
    let mut world = alive(vec![
        gentle(),
        remedy(RemedyKind::Exec),
        remedy(RemedyKind::Docker),
    ]);
    for (rung, why) in [
        (
            Which::At(0),
            "client_kill) restarts nothing: those that restart it are 1 (exec), 2 (docker)",
        ),
        (Which::At(9), "no remedy 9"),
        (Which::Kind(RemedyKind::Signal), "no `signal`"),
    ] {
        let said = impossible(&world.asks(rung, None));
        assert!(said.contains(why), "{said}");
    }
    assert!(granted(&world.asks(Which::Kind(RemedyKind::Docker), None)));
    assert_eq!(world.grants[0].1.rung, 2);
    let said = impossible(&world.asks(Which::First, None));
    assert!(said.contains("asked for before"), "{said}");
    let mut world = alive(vec![gentle()]);
    let said = impossible(&world.asks(Which::First, None));
    assert!(said.contains("none that restarts"), "{said}");
}

#[test]
fn a_restart_joins_the_episode_that_is_open_and_one_that_was_given_up() {
    let mut app = peer(
        "app",
        true,
        vec![process_check(), http_check()],
        Some(RemedyKind::Exec),
    );
    app.budget.count = 3;
    app.remedies.push(remedy(RemedyKind::Docker));
    app.remedies[0].causes = vec![Cause::PeerStuck];
    app.remedies[1].causes = vec![Cause::PeerLeaking];
    let mut world = World::settled(settings(vec![app]));
    lives(&mut world, 0);
    for _ in 0..90 {
        world.observe(0, 0, Outcome::Pass);
        world.fail(0, 1);
        world.run(S);
    }
    assert!(world.saw("given up"), "{:?}", world.notices);
    let number = world.view(0).episode.unwrap().id;
    // By a rung that its cause does not lead to: an operator knows better.
    let answer = world.asks(Which::At(1), None);
    assert!(
        matches!(&answer, What::Restart { outcome: "granted", episode: Some(episode), .. } if *episode == number),
        "{answer:?}"
    );
    assert_eq!(world.grants.last().unwrap().1.rung, 1);
    world.exits(0, "a");
    world.restarted_as("b");
    assert!(world.view(0).episode.is_none(), "{:?}", world.notices);
}

#[test]
fn in_a_maintenance_window_everything_is_judged_and_nothing_done_until_its_end() {
    let mut world = alive(vec![remedy(RemedyKind::Exec)]);
    world.window(&["app"], Some(300 * S));
    assert!(world.saw("maintenance window opened"), "{:?}", world.notices);
    let until = world.now + 300 * S;
    let pause = world.view(0).pause.unwrap();
    assert_eq!((pause.reason.as_str(), pause.until), ("backup", Some(until)));
    world.exits(0, "a");
    world.run(100 * S);
    let episode = world.view(0).episode.unwrap();
    let refusal = episode.refusal.unwrap();
    assert_eq!((refusal.guard, refusal.until), (GuardName::Paused, Some(until)));
    assert!(refusal.why.contains("backup"), "{refusal:?}");
    assert_eq!(world.view(0).liveness, Liveness::Dead, "it is judged");
    assert_eq!(world.grants.len(), 0);
    // Asked again at its end: an exit within it is not taken for on purpose.
    world.run(200 * S);
    world.window(&[], None);
    world.run(2 * S);
    assert_eq!(world.grants.len(), 1, "{:?}", world.notices);
    assert!(world.view(0).pause.is_none());
}

#[test]
fn a_window_is_of_those_that_it_names_and_an_operators_pause_outlasts_it() {
    let two = |name: &str| {
        peer(
            name,
            true,
            vec![process_check(), http_check()],
            Some(RemedyKind::Exec),
        )
    };
    let mut all = settings(vec![two("a"), two("b")]);
    all.group_budget.spacing = Duration::ZERO;
    all.group_budget.down_percent = 100;
    let mut world = World::settled(all);
    lives(&mut world, 0);
    lives(&mut world, 1);
    world.window(&["b"], Some(600 * S));
    world.feed(Event::Operator {
        request: OperatorRequest::Pause {
            peer: Some(PeerId(1)),
            reason: "mine".to_owned(),
            lasting: None,
        },
        by: "test".to_owned(),
    });
    world.exits(0, "a");
    world.fail(1, 1);
    world.run(S);
    world.fail(1, 1);
    world.run(2 * S);
    assert_eq!(world.grants.len(), 1, "only of `a`: {:?}", world.notices);
    world.window(&[], None);
    world.run(S);
    world.fail(1, 1);
    world.run(2 * S);
    assert_eq!(
        world.view(1).pause.map(|pause| pause.reason),
        Some("mine".to_owned())
    );
    assert_eq!(
        world
            .grants
            .iter()
            .filter(|(_, grant)| grant.peer == PeerId(1))
            .count(),
        0
    );
}

#[test]
fn a_window_whose_end_nobody_tells_ends_a_minute_later() {
    let mut world = alive(vec![remedy(RemedyKind::Exec)]);
    world.window(&[], Some(100 * S));
    world.exits(0, "a");
    world.run(159 * S);
    assert_eq!(world.grants.len(), 0, "{:?}", world.notices);
    world.run(3 * S);
    assert_eq!(world.grants.len(), 1, "{:?}", world.notices);
}

#[test]
fn a_pulse_is_withdrawn_when_a_window_opens() {
    let mut app = process_peer();
    app.peers[0].remedies = vec![remedy(RemedyKind::Healthz)];
    let mut world = World::settled(app);
    world.running(0, "a");
    world.looks(0, 0, 2);
    world.run(10 * S);
    world.exits(0, "a");
    world.run(2 * S);
    let pulsing = |world: &World| world.view(0).healthz.unwrap().pulsing_until.is_some();
    assert!(pulsing(&world), "{:?}", world.notices);
    world.window(&["app"], Some(100 * S));
    assert!(!pulsing(&world));
}

#[test]
fn the_end_of_an_episode_that_a_request_opened_is_told_once_it_was_granted() {
    let mut world = alive(vec![remedy(RemedyKind::Exec)]);
    assert!(granted(&world.asks(Which::First, None)));
    world.run(S);
    assert_eq!(
        world.view(0).episode.unwrap().remedy,
        Some(RemedyKind::Exec),
        "what is at work is shown"
    );
    assert!(world.engine.persisted().peers["app"].episode.is_some());
    world.feed(Event::Owner {
        peer: PeerId(0),
        seen: OwnerSeen::Stopped {
            detail: "stopped by docker stop".into(),
        },
    });
    assert!(world.saw("episode closed"), "{:?}", world.notices);
}
