//! What is kept of what was done to a peer, to the nanosecond; and the breaker's window.

use std::time::Duration;

use super::{MS, S, World, heartbeat_check, http_check, peer, process_peer, settings};
use crate::engine::breaker::{Breaker, Flip};
use crate::engine::event::{Event, ExpectationId, Outcome, PeerId};
use crate::engine::guards::GuardName;
use crate::engine::peer::Ledger;
use crate::engine::settings::{BreakerSettings, Budget, RemedyKind};
use crate::engine::time::Time;

fn at(secs: u64) -> Time {
    Time::from_origin(Duration::from_secs(secs))
}

#[test]
fn a_restart_counts_until_its_time_and_no_longer() {
    let mut ledger = Ledger::default();
    // A window that was made shorter ends before one that was charged earlier.
    for until in [20, 10, 30] {
        ledger.charge(at(until));
    }
    assert_eq!((ledger.spent(at(9)), ledger.first_free(at(9))), (3, Some(at(10))));
    assert_eq!(
        (ledger.spent(at(10)), ledger.first_free(at(10))),
        (2, Some(at(20)))
    );
    assert_eq!(ledger.left(at(10)), [10 * S, 20 * S]);
    assert_eq!((ledger.spent(at(30)), ledger.first_free(at(30))), (0, None));
    assert!(ledger.left(at(30)).is_empty());
    ledger.refund();
    assert_eq!(ledger.left(at(0)), [10 * S, 20 * S]);
    ledger.expire(at(10));
    assert_eq!(ledger.left(at(0)), [20 * S], "what is over takes no room");
}

#[test]
fn another_window_holds_for_what_was_before_it_and_spent_is_spent() {
    let mut ledger = Ledger::default();
    ledger.charge(at(700));
    ledger.rewindow(600 * S, 60 * S);
    assert_eq!(ledger.left(at(100)), [60 * S]);
    ledger.rewindow(60 * S, 600 * S);
    assert_eq!(ledger.left(at(100)), [600 * S]);

    let budget = Budget {
        count: 3,
        window: 60 * S,
    };
    let mut ledger = Ledger::default();
    ledger.spend(budget, at(10), at(70));
    assert_eq!(ledger.spent(at(0)), 0, "over already");
    ledger.spend(budget, at(11), at(70));
    assert_eq!((ledger.spent(at(70)), ledger.spent(at(71))), (3, 0));
}

#[test]
fn a_done_mark_is_of_one_life_and_one_rung_and_the_oldest_of_too_many_go() {
    let life = |number: usize| super::Incarnation(format!("life {number}").into());
    let mut ledger = Ledger::default();
    for number in 0..33 {
        ledger.mark_done(life(number), 0);
    }
    assert!(!ledger.is_done(&life(0), 0));
    assert!(ledger.is_done(&life(1), 0) && ledger.is_done(&life(32), 0));
    assert!(!ledger.is_done(&life(1), 1));
    ledger.mark_done(life(32), 1);
    ledger.unmark(&life(32), 0);
    assert!(!ledger.is_done(&life(32), 0));
    assert!(ledger.is_done(&life(32), 1) && ledger.is_done(&life(31), 0));
}

#[test]
fn what_a_check_needs_must_be_seen_to_hold_after_the_condemnation() {
    let mut check = http_check();
    check.needs = Some(ExpectationId(0));
    let mut world = World::settled(settings(vec![peer(
        "app",
        true,
        vec![check],
        Some(RemedyKind::Exec),
    )]));
    let met = |met| Event::Expectation {
        id: ExpectationId(0),
        met,
    };
    world.running(0, "a");
    world.feed(met(Some(true)));
    world.observe(0, 0, Outcome::Pass);
    world.run(10 * S);
    for _ in 0..3 {
        world.fail(0, 0);
        world.run(MS);
    }
    for _ in 0..5 {
        world.run(S);
        world.fail(0, 0);
    }
    assert_eq!(world.refusal(0), Some(GuardName::SelfTrust));
    assert!(world.saw("what it needs was not seen to hold since it was condemned"));
    assert!(world.grants.is_empty());
    // Just as condemned, and seen.
    world.feed(met(Some(true)));
    world.run(S);
    assert_eq!(world.grants.len(), 1, "{:#?}", world.notices);
}

#[test]
fn what_fell_silent_a_whole_window_ago_is_still_of_the_same_moment() {
    let mut breaker = Breaker::new(BreakerSettings::default());
    for id in 0..2 {
        breaker.alive(PeerId(id), at(0));
    }
    assert_eq!(breaker.tripped(), None);
    assert_eq!(breaker.silent(PeerId(0), at(1)), None);
    assert_eq!(
        breaker.silent(PeerId(1), at(61)),
        Some(Flip::Tripped { silent: 2, of: 2 })
    );
    let members = vec![PeerId(0), PeerId(1)];
    assert_eq!(breaker.tripped(), Some((at(61), members.clone(), None, at(361))));
    breaker.healing(PeerId(1));
    assert_eq!(
        breaker.tripped(),
        Some((at(61), members, Some(PeerId(1)), at(361)))
    );
}

#[test]
fn after_an_own_pause_nothing_is_done_before_two_intervals_have_gone_by() {
    let mut world = World::settled(process_peer());
    assert!(!world.view(0).ever_alive);
    world.running(0, "a");
    world.looks(0, 0, 3);
    let view = world.view(0);
    assert!(view.ever_alive);
    assert_eq!(view.last_life, Some(world.now));
    world.now = world.now + 5 * S;
    world.feed(Event::Tick {
        suspended: Duration::ZERO,
    });
    let stalled = world.now;
    world.exits(0, "a");
    let refusal = world.view(0).episode.unwrap().refusal.unwrap();
    assert_eq!(
        (refusal.guard, refusal.until),
        (GuardName::SelfTrust, Some(stalled + 2 * S))
    );
    world.run(2 * S - MS);
    assert!(world.grants.is_empty());
    world.run(S);
    assert_eq!(world.grants.len(), 1, "{:#?}", world.notices);
}

#[test]
fn mass_silence_is_shown() {
    let mut world = World::settled(settings(vec![
        peer("a", false, vec![heartbeat_check("a")], None),
        peer("b", false, vec![heartbeat_check("b")], None),
    ]));
    world.beat("a");
    world.beat("b");
    world.run(S);
    assert_eq!(world.engine.snapshot(world.now).mass_silence, None);
    world.run(10 * S);
    let shown = world.engine.snapshot(world.now).mass_silence.unwrap();
    let members: Vec<&str> = shown.members.iter().map(|name| &**name).collect();
    assert_eq!((members.as_slice(), shown.canary), (["a", "b"].as_slice(), None));
    assert!(world.now.since(shown.since) < 10 * S);
    assert_eq!(shown.canary_at, Some(shown.since + 300 * S));
}
