//! What is asked of the outside, when, and what becomes of the answer.

use std::sync::Arc;
use std::time::Duration;

use super::{MS, S, World, heartbeat_check, http_check, peer, process_check, process_peer, settings};
use crate::engine::cause::Cause;
use crate::engine::decision::What;
use crate::engine::event::{
    Event, Incarnation, OperatorRequest, Outcome, OwnerSeen, PeerId, RemedyOutcome, Restart, Which,
};
use crate::engine::guards::GuardName;
use crate::engine::outside::{
    BLOCKERS_LIFE, BlockersAnswer, Errand, InTheWay, LEASE_PATIENCE, LeaseAnswer, Mark, Reservation,
    Settlement,
};
use crate::engine::persist::Restored;
use crate::engine::settings::{RemedyKind, Settings, WhenBusDown};
use crate::engine::snapshot::EpisodePhase;

/// One process, healed by leave of its group.
fn asking() -> Settings {
    let mut settings = process_peer();
    settings.fleet_asks = true;
    settings
}

/// It runs, and has passed.
fn running(settings: Settings) -> World {
    let mut world = World::settled(settings);
    world.running(0, "a");
    world.looks(0, 0, 2);
    world
}

fn dead(settings: Settings) -> World {
    let mut world = running(settings);
    world.exits(0, "a");
    world.run(5 * MS);
    world
}

impl World {
    fn reservations(&self) -> Vec<Arc<Reservation>> {
        let of = |errand: &Errand| match errand {
            Errand::Reserve(reservation) => Some(Arc::clone(reservation)),
            Errand::AskBlockers { .. } | Errand::Settle(_) => None,
        };
        self.errands.iter().filter_map(|(_, errand)| of(errand)).collect()
    }

    fn settlements(&self) -> Vec<&Settlement> {
        self.errands
            .iter()
            .filter_map(|(_, errand)| match errand {
                Errand::Settle(settlement) => Some(settlement),
                Errand::AskBlockers { .. } | Errand::Reserve(_) => None,
            })
            .collect()
    }

    /// Lets time pass until the outside was asked so often in all.
    fn until_asked(&mut self, times: usize) {
        let asks = |(_, errand): &&(_, Errand)| !matches!(errand, Errand::Settle(_));
        for _ in 0..100 {
            if self.errands.iter().filter(asks).count() >= times {
                return;
            }
            self.run(250 * MS);
        }
        panic!("not asked {times} times: {:?}", self.errands);
    }

    /// The group's answer to the last question.
    fn group_says(&mut self, answer: LeaseAnswer) {
        let reservation = self.reservations().pop().unwrap();
        self.feed(Event::Lease { reservation, answer });
    }

    fn blockers_say(&mut self, answer: BlockersAnswer) {
        let asked = |errand: &Errand| match errand {
            Errand::AskBlockers { number, peer } => Some((*number, *peer)),
            Errand::Reserve(_) | Errand::Settle(_) => None,
        };
        let (number, peer) = self
            .errands
            .iter()
            .rev()
            .find_map(|(_, errand)| asked(errand))
            .unwrap();
        self.feed(Event::Blockers { number, peer, answer });
    }

    fn why(&self) -> String {
        self.view(0)
            .episode
            .and_then(|episode| episode.refusal)
            .map(|refusal| refusal.to_string())
            .unwrap_or_default()
    }
}

fn granted(token: u64) -> LeaseAnswer {
    LeaseAnswer::Granted { token }
}

fn refused(by: InTheWay, after: Duration) -> LeaseAnswer {
    LeaseAnswer::Refused {
        by,
        why: "node-b is healing it".into(),
        after: Some(after),
    }
}

#[test]
fn the_group_is_asked_once_home_permits_and_its_token_is_the_grants() {
    let mut world = dead(asking());
    let reservations = world.reservations();
    let [reservation] = reservations.as_slice() else {
        panic!("{reservations:?}")
    };
    assert_eq!(
        **reservation,
        Reservation {
            run: world.engine.settings().boot.clone(),
            number: 1,
            asked: reservation.asked,
            peer: PeerId(0),
            name: "app".into(),
            known_as: "app".into(),
            incarnation: Incarnation("a".into()),
            rung: 0,
            does: "exec".into(),
            lasting: 60 * S,
            budget: world.engine.settings().peers[0].budget,
            group: world.engine.settings().group_budget,
            peers: 1,
            only_look: false,
        }
    );
    assert_eq!(world.why(), "fleet_lease: asking the group");
    assert!(!world.saw("held by fleet_lease"), "to ask is not to refuse");
    world.run(S);
    assert_eq!(world.reservations().len(), 1, "one question at a time");
    assert!(world.grants.is_empty());

    world.group_says(granted(1_700_000_000_000_000));
    let [(at, grant)] = world.grants.as_slice() else {
        panic!("{:?}", world.grants)
    };
    assert_eq!(
        grant.token, 1_700_000_000_000_000,
        "greater than any of this node's own"
    );
    assert_eq!(grant.until, *at + 30 * S);
    assert!(world.settlements().is_empty(), "the lease is held");
}

#[test]
fn what_becomes_of_a_remedy_is_told_to_the_group() {
    // Carried out, and proven: the mark is kept, then the slot ends.
    let mut world = dead(asking());
    world.group_says(granted(7));
    world.run(10 * MS);
    world.running(0, "b");
    world.looks(0, 0, 2);
    let told: Vec<_> = world
        .settlements()
        .iter()
        .map(|of| (of.mark, of.refund, of.over))
        .collect();
    assert_eq!(told, [(Mark::Keep, false, false), (Mark::Leave, false, true)]);

    // Fenced: as if it had not been.
    let mut world = running(asking());
    world.outcome = Some(RemedyOutcome::Fenced {
        detail: "another life runs".into(),
    });
    world.exits(0, "a");
    world.run(5 * MS);
    world.group_says(granted(7));
    world.run(10 * MS);
    let told: Vec<_> = world
        .settlements()
        .iter()
        .map(|of| (of.mark, of.refund, of.over))
        .collect();
    assert_eq!(told, [(Mark::Clear, true, true)]);

    // It failed: it may be tried again, and stays charged; the slot ends with the time for the proof.
    let mut world = running(asking());
    world.outcome = Some(RemedyOutcome::Failed {
        detail: "exit status 1".into(),
    });
    world.exits(0, "a");
    world.run(5 * MS);
    world.group_says(granted(7));
    world.run(21 * S);
    let told: Vec<_> = world
        .settlements()
        .iter()
        .map(|of| (of.mark, of.refund, of.over))
        .collect();
    assert_eq!(told, [(Mark::Clear, false, false), (Mark::Leave, false, true)]);
}

#[test]
fn leave_that_comes_too_late_or_after_the_world_has_moved_on_is_given_back() {
    let back = |world: &World| {
        let told = world.settlements();
        let told: Vec<_> = told
            .iter()
            .map(|of| (of.reservation.number, of.mark, of.refund, of.over))
            .collect();
        assert!(world.grants.is_empty(), "{:?}", world.grants);
        told
    };
    // The answer is late: nobody waits for it.
    let mut world = dead(asking());
    world.run(LEASE_PATIENCE + S);
    assert_eq!(world.why(), "fleet_lease: no answer within 3 s");
    world.group_says(granted(7));
    assert_eq!(back(&world), [(1, Mark::Clear, true, true)]);
    // It is asked again, by another number.
    world.until_asked(2);
    assert_eq!(world.reservations().last().unwrap().number, 2);

    // Nobody knows whether it was taken.
    world.group_says(LeaseAnswer::Unavailable {
        why: "no answer".into(),
        away: true,
    });
    assert_eq!(back(&world)[1..], [(2, Mark::Clear, true, true)]);

    // Paused while the question was under way.
    let mut world = dead(asking());
    world.feed(Event::Operator {
        request: OperatorRequest::Pause {
            peer: None,
            reason: "deploy".into(),
            lasting: None,
        },
        by: "uid 0".into(),
    });
    world.group_says(granted(7));
    assert_eq!(back(&world), [(1, Mark::Clear, true, true)]);
    assert_eq!(world.refusal(0), Some(GuardName::Paused));

    // It came back by itself.
    let mut world = dead(asking());
    world.running(0, "b");
    world.looks(0, 0, 2);
    world.group_says(granted(7));
    assert_eq!(back(&world), [(1, Mark::Clear, true, true)]);

    // Another life ended meanwhile: leave was for the first.
    let mut world = dead(asking());
    world.running(0, "b");
    world.exits(0, "b");
    world.group_says(granted(7));
    assert!(back(&world).contains(&(1, Mark::Clear, true, true)));
}

#[test]
fn a_no_is_shown_with_its_time_and_asked_again_before_it() {
    let mut world = dead(asking());
    world.group_says(refused(InTheWay::Healing, 80 * S));
    let refusal = world.view(0).episode.unwrap().refusal.unwrap();
    assert_eq!(refusal.to_string(), "fleet_lease: node-b is healing it");
    assert_eq!(refusal.until, Some(world.now + 80 * S));
    let asked = world.now;
    world.until_asked(2);
    assert!(
        world.now < asked + 6 * S,
        "what was in the way may be gone before its time"
    );
    world.run(LEASE_PATIENCE - S);
    assert_eq!(
        world.why(),
        "fleet_lease: node-b is healing it",
        "still, until it says otherwise"
    );
    let told = world.whats.iter().filter(
        |(_, what)| matches!(what, What::Refused { refusal, .. } if refusal.guard == GuardName::FleetLease),
    );
    assert_eq!(told.count(), 1, "{:#?}", world.notices);
    world.group_says(granted(9));
    assert_eq!(world.grants.len(), 1);
}

#[test]
fn what_another_node_carried_out_is_not_done_again_and_the_ladder_goes_on() {
    let mut two = asking();
    let mut second = two.peers[0].remedies[0].clone();
    second.kind = RemedyKind::Docker;
    two.peers[0].remedies.push(second);
    let mut world = dead(two);
    let done = || LeaseAnswer::Done {
        why: "carried out by node-b".into(),
        after: Some(3600 * S),
    };
    world.group_says(done());
    assert_eq!(world.reservations().last().unwrap().rung, 1);
    // Nothing is left of the ladder, and nothing was tried from here: whoever left it gives up. This one waits.
    world.group_says(done());
    for asked in 3..10 {
        world.until_asked(asked);
        assert_eq!(world.reservations().last().unwrap().rung, 1);
        world.group_says(done());
    }
    assert!(world.grants.is_empty());
    assert!(!world.saw("given up"), "{:#?}", world.notices);
    let refusal = world.view(0).episode.unwrap().refusal.unwrap();
    assert_eq!(refusal.to_string(), "fleet_lease: carried out by node-b");
    assert_eq!(refusal.until, Some(world.now + 3600 * S));
    // It is forgotten, or was never true.
    world.until_asked(10);
    world.group_says(granted(7));
    assert_eq!(world.grants.len(), 1);
}

#[test]
fn restarts_that_are_used_up_in_the_group_are_given_up_on_by_who_used_as_many_and_hold_the_rest() {
    let mut few = asking();
    few.peers[0].budget.count = 2;
    // What was restarted from here is forgotten at home by the time that it is the group's turn to say so.
    few.peers[0].budget.window = 30 * S;
    few.peers[0].backoff.initial = 10 * MS;
    // It saw others try, and has tried nothing itself: held until the budget has room.
    let mut world = dead(few.clone());
    world.group_says(refused(InTheWay::Healing, 4 * S));
    world.until_asked(2);
    for asked in 3..8 {
        world.group_says(refused(InTheWay::Spent, 300 * S));
        assert_eq!(world.refusal(0), Some(GuardName::FleetLease));
        world.until_asked(asked);
    }
    assert!(!world.saw("given up"), "{:#?}", world.notices);
    // It is restarted from here once, in vain, and then the others have used up the rest.
    world.outcome = Some(RemedyOutcome::Failed {
        detail: "exit status 1".into(),
    });
    world.group_says(granted(7));
    assert_eq!(world.grants.len(), 1);
    // (Its time for the proof is 20 s.)
    let in_vain = |world: &mut World| {
        let asked = world.reservations().len();
        world.run(15 * S);
        world.until_asked(asked + 1);
    };
    in_vain(&mut world);
    world.group_says(refused(InTheWay::Spent, 300 * S));
    assert!(!world.saw("given up"), "{:#?}", world.notices);
    // As often as the budget permits: that is enough, of whomever the group tells.
    let asked = world.reservations().len();
    world.until_asked(asked + 1);
    world.group_says(granted(8));
    assert_eq!(world.grants.len(), 2);
    in_vain(&mut world);
    world.group_says(refused(InTheWay::Spent, 300 * S));
    assert!(
        world.saw("its restarts in the group are used up"),
        "{:#?}",
        world.notices
    );
}

#[test]
fn blockers_are_asked_before_the_lease_and_after_every_guard_at_home() {
    let mut blocked = asking();
    blocked.peers[0].blockers = true;
    blocked.peers[0].grace = 5 * S;
    let mut world = running(blocked.clone());
    world.feed(Event::Operator {
        request: OperatorRequest::Pause {
            peer: None,
            reason: "deploy".into(),
            lasting: Some(20 * S),
        },
        by: "uid 0".into(),
    });
    world.observe(0, 0, Outcome::Pass);
    world.exits(0, "a");
    world.run(10 * S);
    assert!(
        world.errands.is_empty(),
        "nobody is asked in vain: {:?}",
        world.errands
    );

    let mut world = dead(blocked);
    assert!(
        matches!(
            world.errands.as_slice(),
            [(
                _,
                Errand::AskBlockers {
                    number: 1,
                    peer: PeerId(0)
                }
            )]
        ),
        "{:?}",
        world.errands
    );
    assert_eq!(world.why(), "blockers: asking whether anything blocks it");
    world.blockers_say(BlockersAnswer::Blocked {
        why: "alerts: DeployRunning fires".into(),
    });
    assert_eq!(world.why(), "blockers: alerts: DeployRunning fires");
    assert!(world.saw("app: held by blockers: alerts: DeployRunning fires"));
    world.until_asked(2);
    world.blockers_say(BlockersAnswer::Clear);
    assert_eq!(world.reservations().len(), 1);
    // Their yes is too old by the time the group says yes at last.
    for asked in [4, 5, 6] {
        world.group_says(refused(InTheWay::Others, 5 * S));
        world.until_asked(asked);
    }
    assert!(
        matches!(world.errands.last(), Some((_, Errand::AskBlockers { .. }))),
        "{:?}",
        world.errands
    );
    assert!(world.grants.is_empty());
    world.blockers_say(BlockersAnswer::Clear);
    world.group_says(granted(7));
    assert_eq!(world.grants.len(), 1, "{:#?}", world.notices);
}

#[test]
fn blockers_that_do_not_answer_block() {
    let mut blocked = process_peer();
    blocked.peers[0].blockers = true;
    let mut world = dead(blocked);
    world.run(BLOCKERS_LIFE + S);
    assert_eq!(world.why(), "blockers: no answer within 15 s");
    world.blockers_say(BlockersAnswer::Clear);
    assert!(world.grants.is_empty(), "too late");
    world.run(5 * S);
    world.blockers_say(BlockersAnswer::Clear);
    assert_eq!(
        world.grants.len(),
        1,
        "without a group there is nobody else to ask"
    );
}

#[test]
fn s36_a_dry_run_only_looks_for_leave() {
    let mut dry = asking();
    dry.dry_run = true;
    let mut world = dead(dry);
    assert!(world.reservations()[0].only_look);
    world.group_says(refused(InTheWay::Others, S));
    assert!(!world.saw("would do"), "a dry run shows what the group would say");
    world.until_asked(2);
    world.group_says(granted(0));
    assert!(
        world.saw("app: dry run: would do exec for peer_exited"),
        "{:#?}",
        world.notices
    );
    world.run(60 * S);
    assert!(world.grants.is_empty());
    assert!(world.settlements().is_empty(), "nothing was taken");
}

#[test]
fn gentle_rungs_and_log_lines_need_no_leave() {
    let mut gentle = settings(vec![peer(
        "app",
        true,
        vec![process_check(), http_check()],
        Some(RemedyKind::SocketReset),
    )]);
    gentle.fleet_asks = true;
    gentle.peers[0].remedies[0].restarts = false;
    let mut world = running(gentle);
    world.observe(0, 1, Outcome::Pass);
    world.run(10 * S);
    world.fail(0, 1);
    world.run(S);
    world.fail(0, 1);
    world.run(S);
    assert_eq!(world.grants.len(), 1, "{:#?}", world.notices);
    assert!(world.errands.is_empty());
}

#[test]
fn while_the_group_is_away_the_default_holds_and_local_heals_only_exits_that_the_bus_outlived() {
    let when = |when: WhenBusDown| {
        let mut settings = asking();
        settings.peers[0].when_bus_down = when;
        settings.peers[0].backoff.initial = 10 * S;
        settings
    };
    let away = || LeaseAnswer::Unavailable {
        why: "the server does not answer".into(),
        away: true,
    };
    // Redis takes heartbeats and no scripts.
    let mut world = dead(when(WhenBusDown::Hold));
    world.group_says(away());
    world.run(20 * S);
    assert!(world.grants.is_empty());
    let mut world = dead(when(WhenBusDown::Local));
    world.group_says(away());
    assert_eq!(
        world.grants.len(),
        1,
        "it exited while the bus worked: {:#?}",
        world.notices
    );

    // It is not away: it refuses. That is to be mended, not to be lived with.
    let mut world = dead(when(WhenBusDown::Local));
    world.group_says(LeaseAnswer::Unavailable {
        why: "no scripts".into(),
        away: false,
    });
    world.run(2 * S);
    assert!(world.grants.is_empty(), "{:#?}", world.notices);

    // It exits, an echo of ours comes back, and then the bus goes, for long.
    for (when, healed) in [(WhenBusDown::Hold, 0), (WhenBusDown::Local, 1)] {
        let mut world = dead(self::asking_with(when));
        world.run(S);
        world.outage(true);
        world.run(10 * S);
        world.run(LEASE_PATIENCE);
        assert_eq!(world.grants.len(), healed, "{when:?}: {:#?}", world.notices);
        world.running(0, "b");
        world.run(2 * S);
        world.exits(0, "b");
        world.run(100 * S);
        assert_eq!(
            world.grants.len(),
            healed,
            "this one exited in the outage: {:#?}",
            world.notices
        );
    }
}

fn asking_with(when: WhenBusDown) -> Settings {
    let mut settings = asking();
    settings.peers[0].when_bus_down = when;
    settings
}

#[test]
fn s44_a_pulse_asks_the_group_too_and_holds_its_slot_while_it_lasts() {
    let mut app = peer(
        "app",
        true,
        vec![http_check(), heartbeat_check("hb")],
        Some(RemedyKind::Healthz),
    );
    app.checks.remove(1);
    app.remedies[0].verify_within = 60 * S;
    let mut all = settings(vec![app]);
    all.fleet_asks = true;
    let mut world = World::settled(all);
    world.running(0, "a");
    world.observe(0, 0, Outcome::Pass);
    world.run(10 * S);
    for _ in 0..3 {
        world.fail(0, 0);
        world.run(S);
    }
    assert_eq!(world.reservations()[0].lasting, 45 * S + 60 * S + 10 * S);
    assert_eq!(
        world.view(0).healthz.unwrap().pulsing_until,
        None,
        "not before it has leave"
    );
    world.group_says(granted(7));
    assert!(world.view(0).healthz.unwrap().pulsing_until.is_some());
    world.running(0, "b");
    for _ in 0..12 {
        world.run(S);
        world.observe(0, 0, Outcome::Pass);
    }
    assert!(world.view(0).episode.is_none(), "{:#?}", world.notices);
    let last = world.settlements().pop().unwrap();
    assert!(last.over && last.mark == Mark::Leave, "{last:?}");
    assert!(!matches!(
        world.view(0).episode.map(|episode| episode.phase),
        Some(EpisodePhase::Acting { .. })
    ));
}

/// The node is restarted while its remedy is being verified: its slot must not be in the way of others for the rest of
/// its time.
#[test]
fn what_an_earlier_run_holds_is_let_go_when_the_peer_is_well_or_must_be_healed_again() {
    let mut world = dead(asking());
    world.outcome = None;
    world.group_says(granted(9));
    assert_eq!(world.grants.len(), 1);
    let held = world.reservations().pop().unwrap();
    let kept = Restored::Found(Box::new(world.persisted.clone().unwrap()), S);
    let again = || {
        let mut settings = asking();
        settings.boot = "another-run".into();
        World::restored(settings, &kept)
    };
    let let_go = |settlement: &Settlement| {
        let of = &settlement.reservation;
        (&of.run, of.number, &of.name) == (&held.run, held.number, &held.name)
            && (&of.incarnation, of.rung) == (&held.incarnation, held.rung)
            && (settlement.mark, settlement.refund, settlement.over) == (Mark::Leave, false, true)
    };

    let mut world = again();
    world.running(0, "b");
    world.looks(0, 0, 2);
    world.run(5 * S);
    assert!(world.view(0).episode.is_none(), "{:#?}", world.notices);
    let settlements = world.settlements();
    assert!(
        settlements.len() == 1 && let_go(settlements[0]),
        "{settlements:?}"
    );

    let mut world = again();
    world.running(0, "b");
    world.exits(0, "b");
    world.run(60 * S);
    world.until_asked(1);
    let settlements = world.settlements();
    assert!(
        settlements.len() == 1 && let_go(settlements[0]),
        "{settlements:?}"
    );
    assert!(matches!(world.errands[0].1, Errand::Settle(_)), "first of all");
}

#[test]
fn who_exited_in_an_outage_is_not_healed_by_the_echo_that_ends_it() {
    let mut world = running(asking_with(WhenBusDown::Local));
    world.outage(true);
    world.run(20 * S);
    world.exits(0, "a");
    world.run(10 * S);
    world.outage(false);
    world.run(20 * S);
    assert_eq!(world.refusal(0), Some(GuardName::BusSettle));
    world.until_asked(1);
    let away = || LeaseAnswer::Unavailable {
        why: "the server is loading".into(),
        away: true,
    };
    world.group_says(away());
    world.run(60 * S);
    world.group_says(away());
    assert!(world.grants.is_empty(), "{:#?}", world.notices);
    // By leave of the group it is healed as ever.
    world.run(10 * S);
    world.group_says(granted(7));
    assert_eq!(world.grants.len(), 1, "{:#?}", world.notices);
}

fn asks_for_a_restart(world: &mut World) {
    world.feed(Event::Operator {
        request: OperatorRequest::Restart(Restart {
            peer: PeerId(0),
            rung: Which::First,
            force: None,
            number: 7,
        }),
        by: "uid 0".into(),
    });
}

fn answers(world: &World) -> Vec<(&'static str, String)> {
    let answers = world.whats.iter().filter_map(|(_, what)| match what {
        What::Restart { outcome, detail, .. } => Some((*outcome, detail.clone())),
        _ => None,
    });
    answers.collect()
}

#[test]
fn an_operator_is_answered_where_another_node_did_it_already() {
    let mut world = running(asking());
    asks_for_a_restart(&mut world);
    world.group_says(LeaseAnswer::Done {
        why: "carried out by node-b".into(),
        after: None,
    });
    assert_eq!(answers(&world), [("refused", "carried out by node-b".into())]);
    world.run(30 * S);
    assert_eq!(world.reservations().len(), 1, "and it is asked no more");
    assert!(world.view(0).episode.is_none());
}

#[test]
fn an_operators_request_is_answered_when_its_episode_ends_first() {
    let mut world = running(asking());
    asks_for_a_restart(&mut world);
    world.feed(Event::Owner {
        peer: PeerId(0),
        seen: OwnerSeen::Stopped {
            detail: "stopped by docker stop".into(),
        },
    });
    let answers = answers(&world);
    assert!(
        matches!(answers.as_slice(), [("impossible", _)]),
        "{answers:?}: {:#?}",
        world.notices
    );
    assert!(
        !world.saw("episode closed"),
        "nobody was told of it: {:#?}",
        world.notices
    );
    world.group_says(granted(7));
    assert!(world.grants.is_empty());
    assert!(
        world.settlements().last().unwrap().refund,
        "the leave is given back"
    );
}

#[test]
fn who_was_condemned_before_the_bus_failed_and_exits_with_it_is_not_healed_in_the_outage() {
    let mut app = peer(
        "app",
        true,
        vec![process_check(), http_check()],
        Some(RemedyKind::Exec),
    );
    app.when_bus_down = WhenBusDown::Local;
    app.remedies[0].causes = vec![Cause::PeerExited];
    let mut all = settings(vec![app]);
    all.fleet_asks = true;
    let mut world = World::settled(all);
    world.running(0, "a");
    world.observe(0, 0, Outcome::Pass);
    world.observe(0, 1, Outcome::Pass);
    world.run(11 * S);
    for _ in 0..6 {
        world.observe(0, 0, Outcome::Pass);
        world.fail(0, 1);
        world.run(S);
    }
    assert_eq!(world.view(0).cause, Some(Cause::PeerStuck));
    world.outage(true);
    world.run(6 * S);
    world.exits(0, "a");
    world.run(60 * S);
    assert_eq!(world.view(0).cause, Some(Cause::PeerExited));
    assert!(world.grants.is_empty(), "{:#?}", world.notices);
}

#[test]
fn leave_for_a_request_that_is_refused_by_then_is_given_back() {
    let mut world = running(asking());
    asks_for_a_restart(&mut world);
    world.running(0, "b");
    world.group_says(granted(7));
    assert_eq!(answers(&world).len(), 1, "{:#?}", world.notices);
    assert!(world.grants.is_empty());
    let told: Vec<_> = world
        .settlements()
        .iter()
        .map(|of| (of.mark, of.refund, of.over))
        .collect();
    assert_eq!(told, [(Mark::Clear, true, true)]);
}
