//! Another configuration while the node runs: who is configured as before is not touched, nobody is healed because of it,
//! and nobody gets a budget by it.

use std::sync::Arc;
use std::time::Duration;

use super::{
    MS, S, World, heartbeat_check, http_check, node_beat, node_check, peer, process_check, remedy, settings,
};
use crate::engine::decision::What;
use crate::engine::event::{CheckId, Event, ExpectationId, OperatorRequest, Outcome, PeerId, RemedyOutcome};
use crate::engine::guards::GuardName;
use crate::engine::outside::{Errand, LeaseAnswer};
use crate::engine::peer::Liveness;
use crate::engine::persist::Restored;
use crate::engine::reload::Reload;
use crate::engine::settings::{CheckKind, DetectorSettings, PeerSettings, RemedyKind, Settings};
use crate::engine::snapshot::{EpisodePhase, PeerView};

impl World {
    fn reload(&mut self, settings: Settings) {
        let reload = Reload::between(self.engine.settings(), settings, "a test");
        self.engine.reload(reload, self.now);
        self.drain();
    }

    fn named(&self, name: &str) -> PeerView {
        let peers = self.engine.snapshot(self.now).peers;
        let found = peers.into_iter().find(|peer| &*peer.name == name);
        found.unwrap_or_else(|| panic!("{name} is not configured"))
    }

    fn told(&self, name: &str) -> Vec<(crate::engine::time::Time, String)> {
        let of = format!("{name}: ");
        let told = self.notices.iter().filter(|(_, words)| words.starts_with(&of));
        told.cloned().collect()
    }

    /// Its exit, seen at once; the bus outlives it.
    fn dies(&mut self, id: u32, life: &str) {
        self.exits(id, life);
        self.run(10 * MS);
    }
}

fn app(name: &str) -> PeerSettings {
    peer(
        name,
        true,
        vec![process_check(), http_check()],
        Some(RemedyKind::Exec),
    )
}

fn two() -> Settings {
    settings(vec![app("app"), app("other")])
}

/// `peer` is there no longer.
fn without(mut all: Settings, place: usize) -> Settings {
    all.peers[place] = PeerSettings::vacant();
    all
}

fn alive(settings: Settings) -> World {
    let peers = u32::try_from(settings.peers.len()).unwrap();
    let mut world = World::settled(settings);
    for id in 0..peers {
        world.running(id, &format!("life-{id}"));
        world.observe(id, 1, Outcome::Pass);
    }
    world.looks(0, 0, 2);
    world
}

#[test]
fn who_is_configured_as_before_is_not_touched_in_the_middle_of_an_episode() {
    // The same history, with and without reloads of everything around.
    let history = |reloads: bool| {
        let mut world = alive(two());
        world.outcome = None;
        let reload = |world: &mut World, round: u32| {
            if reloads {
                let mut changed = two();
                changed.peers[1].grace = S * round;
                changed.peers[1].checks.truncate(1);
                changed.peers.push(app(&format!("third-{round}")));
                changed.bus_settle = S * (20 + round);
                world.reload(changed);
            }
        };
        world.fail(0, 1);
        reload(&mut world, 1);
        world.run(S);
        world.fail(0, 1);
        reload(&mut world, 2);
        world.run(2 * S);
        reload(&mut world, 3);
        let token = world.grants[0].1.token;
        let outcome = RemedyOutcome::Acted {
            detail: "done".into(),
        };
        world.feed(Event::RemedyEnded { token, outcome });
        reload(&mut world, 4);
        world.run(5 * S);
        world.feed(Event::Operator {
            request: OperatorRequest::Pause {
                peer: Some(PeerId(0)),
                reason: "lunch".into(),
                lasting: Some(30 * S),
            },
            by: "us".into(),
        });
        reload(&mut world, 5);
        world.run(20 * S);
        reload(&mut world, 6);
        world.run(60 * S);
        world
    };
    let (calm, reloaded) = (history(false), history(true));
    assert_eq!(calm.told("app"), reloaded.told("app"));
    assert_eq!(calm.grants, reloaded.grants);
    let (calm, reloaded) = (calm.named("app"), reloaded.named("app"));
    assert_eq!(calm, reloaded);
    assert!(calm.episode.is_some());
}

#[test]
fn a_reload_of_the_same_is_told_and_changes_nothing() {
    let mut world = alive(two());
    world.run(S);
    let before = world.engine.snapshot(world.now);
    let told = world.whats.len();
    world.reload(two());
    let after = world.engine.snapshot(world.now);
    assert_eq!(before.peers, after.peers);
    assert_eq!(after.reloads, 1);
    let words = "nothing that concerns a verdict";
    assert!(
        matches!(&world.whats[told..], [(_, What::ConfigReloaded { by, detail })] if by == "a test" && detail == words)
    );
}

#[test]
fn to_be_removed_and_added_again_gives_no_budget_and_no_second_remedy() {
    let mut world = alive(two());
    world.dies(0, "life-0");
    assert_eq!(world.grants.len(), 1);
    world.run(S);
    let before = world.named("app");
    assert_eq!(before.budget_left, 2);

    world.reload(without(two(), 0));
    assert!(
        world
            .engine
            .snapshot(world.now)
            .peers
            .iter()
            .all(|peer| &*peer.name != "app")
    );
    assert!(world.saw("app: episode closed: it is configured no longer"));
    assert!(
        world.saw("-: configuration reloaded by a test: removed: app"),
        "{:#?}",
        world.notices
    );
    world.run(5 * S);
    world.exits(0, "life-0");
    assert_eq!(world.grants.len(), 1, "nobody is there");

    // Under its name, and another number.
    let mut again = without(two(), 0);
    again.peers.push(app("app"));
    world.reload(again);
    let after = world.named("app");
    assert_eq!((after.budget_left, after.liveness), (2, Liveness::Unknown));
    assert_eq!(after.id, PeerId(2));
    world.running(2, "life-1");
    world.observe(2, 1, Outcome::Pass);
    world.looks(2, 0, 1);
    world.dies(2, "life-1");
    assert_eq!(world.grants.len(), 1, "its backoff goes on");
    let refusal = world.named("app").episode.unwrap().refusal.unwrap();
    assert_eq!(refusal.guard, GuardName::Backoff);
    world.run(10 * S);
    assert_eq!(world.grants.len(), 2);
    assert_eq!(world.named("app").budget_left, 1);
}

#[test]
fn what_was_done_to_one_that_is_not_configured_survives_a_restart_and_ends_after_a_day() {
    let mut world = alive(two());
    world.dies(0, "life-0");
    world.reload(without(two(), 0));
    world.run(2 * S);
    let persisted = world.engine.persisted();
    assert_eq!(persisted.peers["app"].restarts.len(), 1);
    assert_eq!(persisted.peers["app"].removed, Some(2 * S));

    let found = |elapsed| Restored::Found(Box::new(persisted.clone()), elapsed);
    let only = || settings(vec![app("other")]);
    let mut restarted = World::restored(only(), &found(60 * S));
    let mut both = only();
    both.peers.push(app("app"));
    restarted.reload(both.clone());
    assert_eq!(restarted.named("app").budget_left, 2);

    let mut later = World::restored(only(), &found(Duration::from_secs(86_400)));
    assert!(!later.engine.persisted().peers.contains_key("app"));
    later.reload(both);
    assert_eq!(later.named("app").budget_left, 3);
}

#[test]
fn another_name_is_another_peer() {
    let mut world = alive(two());
    world.dies(0, "life-0");
    let mut renamed = two();
    renamed.peers[0].name = "application".into();
    world.reload(renamed);
    let after = world.named("application");
    assert_eq!((after.budget_left, after.ever_alive), (3, false));
    assert_eq!(after.episode, None);
    world.run(60 * S);
    assert_eq!(world.grants.len(), 1, "it was never seen alive");
}

#[test]
fn a_corrupt_store_counts_as_spent_for_who_comes_later_too() {
    let mut world = World::restored(settings(vec![app("other")]), &Restored::Corrupt);
    world.run(S);
    world.reload(settings(vec![app("other"), app("app")]));
    assert_eq!(world.named("app").budget_left, 0);
    world.run(600 * S);
    assert_eq!(world.named("app").budget_left, 3);
}

#[test]
fn a_remedy_in_flight_ends_though_its_peer_is_removed() {
    for (outcome, left) in [
        (
            RemedyOutcome::Acted {
                detail: "done".into(),
            },
            2,
        ),
        (
            RemedyOutcome::Fenced {
                detail: "gone".into(),
            },
            3,
        ),
    ] {
        let mut world = alive(two());
        world.outcome = None;
        world.dies(0, "life-0");
        let token = world.grants[0].1.token;
        world.reload(without(two(), 0));
        world.running(1, "life-1");
        world.dies(1, "life-1");
        world.run(15 * S);
        assert_eq!(world.grants.len(), 1, "one is down by our hand");

        // It is back before its remedy has ended.
        world.reload(two());
        world.running(0, "life-2");
        world.observe(0, 1, Outcome::Pass);
        world.dies(0, "life-2");
        world.run(S);
        let refusal = world.named("app").episode.unwrap().refusal.unwrap();
        assert_eq!(refusal.guard, GuardName::Backoff, "{refusal}");

        let told = world.whats.len();
        world.feed(Event::RemedyEnded { token, outcome });
        let answered = world.whats[told..]
            .iter()
            .find(|(_, what)| what.name() == "acted");
        assert!(matches!(answered, Some((_, What::Acted { token: of, .. })) if *of == token));
        assert_eq!(world.named("app").budget_left, left);
        world.run(S);
        assert_eq!(world.grants.len(), 2, "the other's turn: {:#?}", world.notices);
        assert_eq!(&*world.grants[1].1.name, "other");
    }
}

#[test]
fn equal_checks_keep_their_evidence_and_others_begin_anew() {
    let mut world = alive(two());
    world.fail(0, 1);
    let mut changed = two();
    // A check before it, another budget, and other numbers of the process check.
    changed.peers[0].checks.insert(0, heartbeat_check("app"));
    changed.peers[0].budget.count = 5;
    if let CheckKind::Process { interval, .. } = &mut changed.peers[0].checks[1].kind {
        *interval = 3 * S;
    }
    world.reload(changed.clone());
    let after = world.named("app");
    assert_eq!(after.incarnation.as_ref().unwrap().0.as_ref(), "life-0");
    assert_eq!(after.budget_left, 5);
    assert_eq!(
        after.checks[1].verdict,
        Liveness::Alive,
        "it runs: {}",
        after.checks[1].detail
    );
    assert_eq!(after.checks[2].verdict, Liveness::Suspect, "one failure of two");
    world.fail(0, 2);
    assert_eq!(world.named("app").liveness, Liveness::Dead, "and the second");

    // The same check, told to look at something else.
    let mut world = alive(two());
    world.fail(0, 1);
    let mut reload = Reload::between(world.engine.settings(), two(), "a test");
    let http = CheckId {
        peer: PeerId(0),
        index: 1,
    };
    reload.checks_anew.insert(http);
    world.engine.reload(reload, world.now);
    world.run(20 * S);
    world.fail(0, 1);
    world.run(S);
    world.fail(0, 1);
    world.run(30 * S);
    assert_eq!(
        world.named("app").liveness,
        Liveness::Dead,
        "{:#?}",
        world.named("app")
    );
    assert!(
        world.grants.is_empty(),
        "it has never passed: it may never have worked"
    );
    assert!(
        world.saw("no check that condemns it has ever passed"),
        "{:#?}",
        world.notices
    );
}

#[test]
fn a_shorter_patience_condemns_nobody_at_once() {
    let patient = |dead_after: u64| {
        let mut of = settings(vec![peer(
            "far",
            false,
            vec![heartbeat_check("far")],
            Some(RemedyKind::Exec),
        )]);
        if let CheckKind::Passive { detector, .. } = &mut of.peers[0].checks[0].kind {
            *detector = DetectorSettings::Deadline {
                suspect_after: S * u32::try_from(dead_after).unwrap() / 2,
                dead_after: S * u32::try_from(dead_after).unwrap(),
            };
        }
        of
    };
    let mut world = World::settled(patient(100));
    world.uptime("far", 10.0);
    world.run(30 * S);
    assert_eq!(world.liveness(0), Liveness::Alive);
    world.reload(patient(6));
    assert_ne!(world.liveness(0), Liveness::Dead);
    world.run(4 * S);
    assert_ne!(
        world.liveness(0),
        Liveness::Dead,
        "its silence counts from the reload on"
    );
    world.run(8 * S);
    assert_eq!(world.liveness(0), Liveness::Dead, "{:#?}", world.view(0));
}

#[test]
fn a_remedy_at_work_is_verified_by_what_was_granted() {
    let mut world = alive(two());
    world.outcome = None;
    world.dies(0, "life-0");
    let token = world.grants[0].1.token;
    let mut changed = two();
    changed.peers[0].remedies = vec![remedy(RemedyKind::Signal), remedy(RemedyKind::Docker)];
    changed.peers[0].remedies[0].verify_within = S;
    world.reload(changed);
    assert!(matches!(
        world.named("app").episode.unwrap().phase,
        EpisodePhase::Acting { .. }
    ));
    let outcome = RemedyOutcome::Acted {
        detail: "done".into(),
    };
    world.feed(Event::RemedyEnded { token, outcome });
    assert!(world.saw("app: exec acted: done"), "{:#?}", world.notices);
    let until = world.now + 20 * S;
    let phase = world.named("app").episode.unwrap().phase;
    assert_eq!(phase, EpisodePhase::Verifying { until });
    world.run(25 * S);
    assert_eq!(world.grants.len(), 2, "{:#?}", world.notices);
    assert_eq!(world.grants[1].1.kind, RemedyKind::Signal);
    assert_eq!(world.named("app").budget_left, 1, "both count");
}

#[test]
fn a_rung_keeps_its_done_mark_wherever_it_moves() {
    let mut world = alive(two());
    world.dies(0, "life-0");
    let mut changed = two();
    changed.peers[0].remedies.insert(0, remedy(RemedyKind::Log));
    world.reload(changed);
    let done = &world.engine.persisted().peers["app"].done;
    assert_eq!(done[0].1, 1, "{done:?}");
    world.reload(two());
    let done = &world.engine.persisted().peers["app"].done;
    assert_eq!(done[0].1, 0, "{done:?}");
}

#[test]
fn who_was_given_up_is_healed_by_a_rung_that_comes_later() {
    let mut world = alive(two());
    world.dies(0, "life-0");
    world.run(120 * S);
    let given_up = |world: &World| {
        matches!(
            world.named("app").episode.unwrap().phase,
            EpisodePhase::GaveUp { .. }
        )
    };
    assert!(given_up(&world), "{:#?}", world.notices);
    let grants = world.grants.len();
    world.reload(two());
    world.run(60 * S);
    assert!(given_up(&world), "the same ladder is no reason");
    let mut told = two();
    told.peers[0].remedies.push(remedy(RemedyKind::Capture));
    world.reload(told);
    world.run(60 * S);
    assert!(given_up(&world), "what changes nothing is none either");
    let mut more = two();
    more.peers[0].remedies.push(remedy(RemedyKind::Docker));
    world.reload(more);
    world.run(60 * S);
    assert_eq!(world.grants.len(), grants + 1);
    assert_eq!(world.grants[grants].1.kind, RemedyKind::Docker);
}

#[test]
fn an_episode_ends_with_the_check_that_condemned() {
    let mut world = alive(two());
    world.outcome = None;
    let mut paused = two();
    paused.peers[0].remedies.clear();
    world.reload(paused.clone());
    for _ in 0..3 {
        world.fail(0, 1);
        world.run(S);
    }
    assert_eq!(world.named("app").liveness, Liveness::Dead);
    paused.peers[0].checks.truncate(1);
    world.reload(paused);
    assert_eq!(world.named("app").liveness, Liveness::Alive);
    assert!(world.saw("app: episode closed: what condemned it is configured no longer"));
    assert_eq!(world.named("app").episode, None);
}

#[test]
fn the_end_of_a_dry_run_binds_by_what_was_really_done() {
    let dry = |dry_run: bool| Settings { dry_run, ..two() };
    // Begun dry: what was really done before is not known, and shadows bind nobody.
    let mut world = alive(dry(true));
    world.dies(0, "life-0");
    assert!(world.saw("app: dry run: would do exec"));
    assert_eq!(world.named("app").budget_left, 2, "a shadow");
    world.reload(dry(false));
    assert_eq!(world.named("app").budget_left, 1, "as at a start without a store");
    world.run(15 * S);
    assert_eq!(
        world.grants.len(),
        1,
        "what was not done is done now: {:#?}",
        world.notices
    );

    // Really done, then dry, then not.
    let mut world = alive(dry(false));
    world.dies(0, "life-0");
    assert_eq!(world.grants.len(), 1);
    world.run(S);
    world.reload(dry(true));
    world.running(0, "life-1");
    world.looks(0, 0, 1);
    world.observe(0, 1, Outcome::Pass);
    world.run(60 * S);
    world.dies(0, "life-1");
    assert_eq!(
        world.named("app").budget_left,
        1,
        "one was really done, one is a shadow"
    );
    world.reload(dry(false));
    assert_eq!(world.named("app").budget_left, 2);
    world.run(60 * S);
    assert_eq!(world.grants.len(), 2, "life-1 was never really healed");
    assert_eq!(world.grants[1].1.incarnation.0.as_ref(), "life-1");
}

#[test]
fn a_newcomer_learns_of_the_life_of_a_node_that_is_known() {
    let of = |name: &str| peer(name, false, vec![node_check("far")], Some(RemedyKind::Exec));
    let mut world = World::settled(settings(vec![of("one")]));
    world.feed(node_beat("far", "b1", 7, false));
    world.reload(settings(vec![of("one"), of("two")]));
    let (one, two) = (world.named("one"), world.named("two"));
    assert_eq!(one.incarnation, two.incarnation);
    assert!(one.incarnation.is_some());
    assert_eq!(two.liveness, Liveness::Unknown, "it was not heard yet");
    world.feed(node_beat("far", "b1", 8, false));
    assert_eq!(world.named("two").liveness, Liveness::Alive);
    assert_eq!(world.named("one").incarnations, 0);
}

#[test]
fn no_name_of_a_life_is_given_twice() {
    let of = |channel: &str| {
        settings(vec![peer(
            "far",
            false,
            vec![heartbeat_check(channel)],
            Some(RemedyKind::Exec),
        )])
    };
    let mut world = World::settled(of("far"));
    let mut lives = std::collections::BTreeSet::new();
    for _ in 0..3 {
        for channel in ["far", "near"] {
            world.reload(of(channel));
            world.uptime(channel, 100.0);
            world.run(S);
            world.uptime(channel, 1.0);
            lives.insert(world.named("far").incarnation.unwrap());
        }
    }
    assert_eq!(lives.len(), 6, "{lives:?}");
}

#[test]
fn an_expectation_that_is_met_by_something_else_is_unknown_at_first() {
    let needing = || {
        let mut of = two();
        of.peers[0].checks[1].needs = Some(ExpectationId(0));
        of
    };
    let mut world = alive(needing());
    let id = ExpectationId(0);
    world.feed(Event::Expectation { id, met: Some(true) });
    world.observe(0, 1, Outcome::Pass);
    let verdict = |world: &World| world.named("app").checks[1].verdict;
    assert_eq!(verdict(&world), Liveness::Alive);
    world.reload(needing());
    assert_eq!(verdict(&world), Liveness::Alive);
    let mut reload = Reload::between(world.engine.settings(), needing(), "a test");
    reload.expectations_anew.insert(id);
    world.engine.reload(reload, world.now);
    assert_eq!(verdict(&world), Liveness::Unknown);
}

fn acted() -> RemedyOutcome {
    RemedyOutcome::Acted {
        detail: "done".into(),
    }
}

#[test]
fn the_group_holds_on_while_a_remedy_is_at_work_on_who_was_removed_and_came_back() {
    let mut all = two();
    all.fleet_asks = true;
    let mut world = alive(all.clone());
    world.outcome = None;
    world.dies(0, "life-0");
    let reservation = world.errands.iter().rev().find_map(|(_, errand)| match errand {
        Errand::Reserve(reservation) => Some(Arc::clone(reservation)),
        Errand::AskBlockers { .. } | Errand::Settle(_) => None,
    });
    let reservation = reservation.unwrap_or_else(|| panic!("the group is asked: {:?}", world.errands));
    let answer = LeaseAnswer::Granted { token: 5 };
    world.feed(Event::Lease {
        reservation: Arc::clone(&reservation),
        answer,
    });
    assert_eq!(world.grants.len(), 1);
    let token = world.grants[0].1.token;
    let settled = |world: &World| {
        let number = reservation.number;
        let of = |errand: &Errand| matches!(errand, Errand::Settle(of) if of.over && of.reservation.number == number);
        world.errands.iter().filter(|(_, errand)| of(errand)).count()
    };

    world.reload(without(all.clone(), 0));
    world.reload(all);
    world.running(0, "life-1");
    world.looks(0, 0, 1);
    world.observe(0, 1, Outcome::Pass);
    world.dies(0, "life-1");
    world.run(60 * S);
    assert_eq!(settled(&world), 0, "its executor is at work: {:?}", world.errands);
    world.feed(Event::RemedyEnded {
        token,
        outcome: acted(),
    });
    assert_eq!(settled(&world), 1);
}

#[test]
fn whom_a_remedy_restarts_that_is_configured_no_longer_counts_whoever_has_its_number() {
    let mut all = settings(vec![app("app"), app("other"), app("third")]);
    let mut world = alive(all.clone());
    world.outcome = None;
    world.dies(0, "life-0");
    assert_eq!(world.grants.len(), 1);
    let token = world.grants[0].1.token;
    // Its number is another peer's at once, who is well, and whose proof of life frees nothing.
    all.peers[0] = app("newcomer");
    world.reload(all);
    world.running(0, "life-n");
    world.looks(0, 0, 2);
    world.observe(0, 1, Outcome::Pass);
    world.dies(1, "life-1");
    world.run(15 * S);
    let refusal = world.named("other").episode.unwrap().refusal.unwrap();
    assert_eq!(refusal.guard, GuardName::Budget, "{refusal}");
    assert_eq!(world.grants.len(), 1);
    world.feed(Event::RemedyEnded {
        token,
        outcome: acted(),
    });
    world.run(S);
    assert_eq!(world.grants.len(), 2, "{:#?}", world.notices);
}

#[test]
fn what_a_dry_run_would_have_done_makes_nobody_wait_after_it() {
    let mut real = two();
    real.group_budget.spacing = 600 * S;
    let dry = Settings {
        dry_run: true,
        ..real.clone()
    };
    let mut world = alive(real.clone());
    world.reload(dry);
    world.dies(0, "life-0");
    assert!(world.saw("app: dry run: would do exec"));
    world.reload(real);
    world.dies(1, "life-1");
    world.run(90 * S);
    assert_eq!(
        world.grants.len(),
        1,
        "the spacing of a shadow: {:#?}",
        world.notices
    );
}

#[test]
fn what_was_carried_out_while_its_peer_was_away_is_not_done_again_on_that_life() {
    for back_first in [true, false] {
        let mut world = alive(two());
        world.outcome = None;
        world.dies(0, "life-0");
        let token = world.grants[0].1.token;
        world.reload(without(two(), 0));
        let ended = Event::RemedyEnded {
            token,
            outcome: acted(),
        };
        if back_first {
            world.reload(two());
            world.feed(ended);
        } else {
            world.feed(ended);
            world.reload(two());
        }
        let done = &world.engine.peers[0].ledger;
        let life = crate::engine::event::Incarnation("life-0".into());
        assert!(done.is_done(&life, 0), "back first: {back_first}");
    }
}

#[test]
fn a_mark_follows_its_rung_though_another_life_is_judged() {
    let mut world = alive(two());
    world.dies(0, "life-0");
    assert_eq!(world.grants.len(), 1, "{:#?}", world.notices);
    world.run(S);
    let mut other = two();
    other.peers[0].remedies.insert(0, remedy(RemedyKind::Docker));
    // What tells its lives apart is another check by now, which tells of the same one.
    let mut reload = Reload::between(world.engine.settings(), other, "a test");
    reload.checks_anew.insert(CheckId {
        peer: PeerId(0),
        index: 0,
    });
    world.engine.reload(reload, world.now);
    world.drain();
    world.exits(0, "life-0");
    world.run(60 * S);
    let kinds: Vec<_> = world.grants.iter().map(|(_, grant)| grant.kind).collect();
    assert_eq!(
        kinds,
        [RemedyKind::Exec, RemedyKind::Docker],
        "exec was done on this life: {:#?}",
        world.notices
    );
}
