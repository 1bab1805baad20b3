//! What the times of keys and locks say, in virtual time.

use std::time::Duration;

use proptest::prelude::*;
use serde_json::json;

use super::Outage;
use super::age::{Aged, Freshness, Unclear};
use super::judge::{Ends, Found, Judge, Seen};
use crate::engine::time::Time;
use crate::redis_client::keys::{Left, Sample, Stored};

const S: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

fn at(time: Duration) -> Time {
    Time::from_origin(time)
}

/// A lock as an owner keeps it: taken for `ttl`, extended to `ttl` at given times, until it dies.
struct Owner {
    ttl: Duration,
    extends: Vec<Duration>,
    name: &'static str,
}

impl Owner {
    /// Extends it each `every` until `dies`, with the n-th extension late by `late(n)`.
    fn steady(ttl: Duration, every: Duration, dies: Duration, late: impl Fn(u32) -> Duration) -> Self {
        let extends = (0..10_000)
            .map(|n| every * n + late(n))
            .take_while(|extend| *extend < dies)
            .collect();
        Self {
            ttl,
            extends,
            name: "token-1",
        }
    }

    fn left(&self, now: Duration) -> Left {
        let last = self.extends.iter().rev().find(|extend| **extend <= now);
        match last.map(|last| (*last + self.ttl).saturating_sub(now)) {
            None | Some(Duration::ZERO) => Left::Absent,
            Some(left) => Left::Time(left),
        }
    }

    /// Read at `now`, with a network that takes `delay` each way.
    fn seen(&self, key: &str, now: Duration, delay: Duration) -> Seen {
        let left = self.left(now + delay);
        let value = if left == Left::Absent { "" } else { self.name };
        Seen {
            key: key.into(),
            sample: Sample {
                left,
                value: Stored::Text(value.into()),
            },
            sent: at(now),
            got: at(now + delay * 2),
        }
    }
}

/// Samples an owner's lock each `every` from `from` to `to`; when it was first suspect, and first free.
fn watch(
    judge: &mut Judge,
    owner: &Owner,
    every: Duration,
    from: Duration,
    to: Duration,
) -> (Option<Duration>, Option<Duration>) {
    let (mut suspect, mut free) = (None, None);
    let mut now = from;
    while now < to {
        let found = judge.look(vec![owner.seen("lock", now, 3 * MS)]);
        if found.suspect.is_some() {
            suspect.get_or_insert(now);
        }
        if found.counts.free > 0 {
            free.get_or_insert(now);
        }
        now += every;
    }
    (suspect, free)
}

#[test]
fn s16_five_minutes_raise_no_alert_and_a_killed_owner_is_suspect_before_its_lock_expires() {
    // Late by up to 4 s now and then, as a busy owner is.
    let late = |n: u32| Duration::from_millis(u64::from(n * 7919 % 4000));
    for every in [200 * MS, S, 5 * S] {
        // Killed right after it extended it, right before, and in between.
        for dies in [301 * S, 311 * S, 319 * S] {
            let owner = Owner::steady(60 * S, 20 * S, dies, late);
            let mut judge = Judge::new(None);
            assert_eq!(
                watch(&mut judge, &owner, every, S, dies),
                (None, None),
                "{every:?}"
            );
            let last = *owner.extends.last().unwrap();
            let (suspect, free) = watch(&mut judge, &owner, every, dies, 500 * S);
            let (suspect, free) = (suspect.unwrap(), free.unwrap());
            // It should have been extended after 20 s; half of that later it is suspect, and half of 60 s are left.
            assert!(
                suspect > last + 20 * S && suspect < last + 45 * S,
                "{:?}",
                suspect - last
            );
            assert!(
                free >= last + 60 * S && free <= last + 60 * S + every,
                "{:?}",
                free - last
            );
        }
    }
}

#[test]
fn s18_an_extension_that_fails_once_is_suspect_until_the_next_and_does_not_become_the_rule() {
    let mut owner = Owner::steady(60 * S, 20 * S, 1200 * S, |_| Duration::ZERO);
    owner
        .extends
        .retain(|extend| ![300 * S, 900 * S].contains(extend));
    let mut judge = Judge::new(None);
    for missed in [300 * S, 900 * S] {
        let (suspect, free) = watch(&mut judge, &owner, S, missed - 250 * S, missed + 300 * S);
        let suspect = suspect.unwrap();
        assert!(suspect > missed && suspect < missed + 15 * S, "{suspect:?}");
        assert_eq!(free, None);
        let found = judge.look(vec![owner.seen("lock", missed + 300 * S, 3 * MS)]);
        assert_eq!((found.counts.held, found.counts.suspect), (1, 0));
    }
}

#[test]
fn owners_of_other_habits_are_learned_as_well() {
    for (ttl, every) in [(60, 50), (60, 5), (30, 10), (300, 100), (10, 9)] {
        let (ttl, every) = (ttl * S, every * S);
        let dies = every * 20 + S;
        let owner = Owner::steady(ttl, every, dies, |_| Duration::ZERO);
        let mut judge = Judge::new(None);
        assert_eq!(
            watch(&mut judge, &owner, 200 * MS, S, dies),
            (None, None),
            "{ttl:?}"
        );
        let last = *owner.extends.last().unwrap();
        let (suspect, free) = watch(&mut judge, &owner, 200 * MS, dies, dies + 2 * ttl);
        assert!(
            suspect.unwrap() > last + every && suspect < free,
            "{ttl:?}: {suspect:?} {free:?}"
        );
    }
}

#[test]
fn a_lock_that_is_never_extended_is_never_suspect_and_one_with_a_bound_at_once() {
    let owner = Owner::steady(60 * S, 3600 * S, S, |_| Duration::ZERO);
    let mut judge = Judge::new(None);
    let (suspect, free) = watch(&mut judge, &owner, S, S, 100 * S);
    assert_eq!((suspect, free), (None, Some(60 * S)));
    let mut judge = Judge::new(Some(30 * S));
    let (suspect, _) = watch(&mut judge, &owner, S, S, 100 * S);
    assert_eq!(suspect, Some(30 * S));
}

fn one(judge: &mut Judge, now: Duration, left: Left, owner: &str) -> Found {
    judge.look(vec![Seen {
        key: "lock".into(),
        sample: Sample {
            left,
            value: Stored::Text(owner.into()),
        },
        sent: at(now),
        got: at(now + MS),
    }])
}

#[test]
fn s17_a_new_owner_is_no_failure_and_how_locks_end_is_told() {
    let mut judge = Judge::new(None);
    let ends = |found: Found| (found.ends.expired, found.ends.released, found.ends.taken);
    one(&mut judge, S, Left::Time(50 * S), "a");
    let taken = one(&mut judge, 2 * S, Left::Time(60 * S), "b");
    assert_eq!((taken.counts.held, taken.suspect.clone()), (1, None));
    assert_eq!(ends(taken), (0, 0, 1));
    assert_eq!(ends(one(&mut judge, 3 * S, Left::Absent, "")), (0, 1, 0));
    one(&mut judge, 4 * S, Left::Time(S), "c");
    assert_eq!(ends(one(&mut judge, 5 * S, Left::Absent, "")), (1, 0, 0));
    assert_eq!(ends(one(&mut judge, 6 * S, Left::Absent, "")), (0, 0, 0));
    let endless = one(&mut judge, 7 * S, Left::Forever, "d");
    assert_eq!(
        (endless.counts.endless, endless.endless),
        (1, Some(b"lock".to_vec()))
    );
    // What happened while nobody looked teaches nothing.
    one(&mut judge, 8 * S, Left::Time(10 * S), "e");
    judge.lose_sight();
    let found = one(&mut judge, 100 * S, Left::Absent, "");
    assert_eq!(found.ends, Ends::default());
}

#[test]
fn locks_of_several_lengths_are_judged_by_their_own() {
    let owners = [(60, "long"), (6, "short")].map(|(ttl, key)| {
        let owner = Owner::steady(ttl * S, ttl * S / 3, 300 * S, |_| Duration::ZERO);
        (key, owner)
    });
    let mut judge = Judge::new(None);
    let mut now = S;
    while now < 300 * S {
        let seen = owners
            .iter()
            .map(|(key, owner)| owner.seen(key, now, MS))
            .collect();
        assert_eq!(judge.look(seen).suspect, None, "{now:?}");
        now += 500 * MS;
    }
    // Both die. The short one is suspect within its own time, and gone when the long one is.
    let (mut first, mut second) = (None, None);
    while now < 400 * S {
        let seen = owners
            .iter()
            .map(|(key, owner)| owner.seen(key, now, MS))
            .collect();
        match judge.look(seen).suspect {
            Some(suspect) if suspect.key == b"short" => first = first.or(Some(now)),
            Some(_) => second = second.or(Some(now)),
            None => {}
        }
        now += 500 * MS;
    }
    assert!(
        first.unwrap() < 304 * S && second.unwrap() > 308 * S,
        "{first:?} {second:?}"
    );
}

proptest! {
    #[test]
    fn no_sample_makes_the_judge_panic(
        samples in proptest::collection::vec((0u64..100_000, any::<u64>(), 0u8..4, 0u8..3), 0..200)) {
        let mut judge = Judge::new(None);
        let mut now = Duration::ZERO;
        for (wait, left, kind, owner) in samples {
            now += Duration::from_millis(wait);
            let left = match kind {
                0 => Left::Absent,
                1 => Left::Forever,
                2 => Left::Time(Duration::from_millis(left >> 1)),
                _ => Left::Time(Duration::from_millis(left % 100_000)),
            };
            let found = one(&mut judge, now, left, &owner.to_string());
            let counts = found.counts;
            prop_assert_eq!(counts.held + counts.suspect + counts.endless + counts.free, 1);
        }
    }
}

const WALL: Duration = Duration::from_secs(1_795_745_694);

/// What is written at this time of the wall clock.
fn stamp(wall: Duration) -> serde_json::Value {
    json!(wall.as_secs())
}

#[test]
fn a_change_is_life_and_the_time_itself_counts_at_first_sight_only() {
    let mut freshness = Freshness::default();
    let first = freshness.see(&stamp(WALL - 30 * S), WALL, at(S));
    assert_eq!(first, Ok(Aged::By(30 * S)));
    assert_eq!(
        freshness.see(&stamp(WALL - 30 * S), WALL, at(6 * S)),
        Ok(Aged::By(35 * S))
    );
    // The wall clock jumps by hours either way, the writer's or ours: nothing changes.
    for wall in [WALL + 7200 * S, WALL - 7200 * S] {
        assert_eq!(
            freshness.see(&stamp(wall), WALL, at(7 * S)),
            Ok(Aged::By(Duration::ZERO))
        );
        let later = freshness.see(&stamp(wall), WALL + 7200 * S, at(9 * S));
        assert_eq!(later, Ok(Aged::By(2 * S)));
    }
    // The writer's clock is an hour behind, and it lives.
    for second in 0..10 {
        let written = stamp(WALL + second * S - 3600 * S);
        let seen = freshness.see(&written, WALL + second * S, at((10 + second) * S));
        assert_eq!(seen, Ok(Aged::By(Duration::ZERO)));
    }
}

#[test]
fn what_tells_no_age_is_no_life_until_it_changes() {
    let mut freshness = Freshness::default();
    let ahead = |seen| Ok(Aged::Unclear(Unclear::Ahead(3600 * S), seen));
    assert_eq!(
        freshness.see(&stamp(WALL + 3600 * S), WALL, at(S)),
        ahead(Duration::ZERO)
    );
    assert_eq!(
        freshness.see(&stamp(WALL + 3600 * S), WALL, at(41 * S)),
        ahead(40 * S)
    );
    assert_eq!(
        freshness.see(&stamp(WALL + 3601 * S), WALL, at(42 * S)),
        Ok(Aged::By(Duration::ZERO))
    );
    // A key that was gone is seen for the first time again.
    freshness.forget();
    assert_eq!(
        freshness.see(&stamp(WALL - 100 * S), WALL, at(43 * S)),
        Ok(Aged::By(100 * S))
    );
    freshness.forget();
    let naive = freshness.see(&json!("2026-11-27T02:14:54"), WALL, at(44 * S));
    assert_eq!(naive, Ok(Aged::Unclear(Unclear::Naive, Duration::ZERO)));
    let naive = freshness.see(&json!("2026-11-27T02:14:55"), WALL, at(45 * S));
    assert_eq!(naive, Ok(Aged::By(Duration::ZERO)));
    assert!(freshness.see(&json!("soon"), WALL, at(46 * S)).is_err());
    freshness.forget();
    assert_eq!(freshness.see(&json!(0), WALL, at(47 * S)), Ok(Aged::By(WALL)));
}

#[test]
fn writers_have_a_minute_after_an_outage_that_was_seen() {
    // It was away before it ever answered: nothing is known of an outage.
    let mut outage = Outage {
        away: true,
        ..Outage::default()
    };
    assert!(!outage.answered(1, at(S)));
    assert!(!outage.answered(1, at(2 * S)));
    outage.away = true;
    assert!(outage.answered(2, at(3 * S)));
    assert!(outage.answered(2, at(62 * S)));
    assert!(!outage.answered(2, at(63 * S)));
    // Started anew between two looks.
    assert!(outage.answered(3, at(64 * S)));
    // A connection that was idle for long was closed for that.
    assert!(!outage.answered(3, at(124 * S)));
    assert!(!outage.answered(4, at(724 * S)));
}
