//! One check by itself, to the nanosecond: what each bound is, and the words for it.

use std::time::Duration;

use super::{MS, S, heartbeat_check, http_check, process_check};
use crate::engine::cause::Cause;
use crate::engine::event::{Link, LinkStatus, Outcome, Role};
use crate::engine::evidence::{Check, Expectation, Light, Verdict, Why, age};
use crate::engine::peer::Liveness;
use crate::engine::self_trust::{BusState, Coverage, SelfTrust};
use crate::engine::settings::{CheckKind, CheckSettings, DetectorSettings, Plane, Source};
use crate::engine::time::Time;

const NS: Duration = Duration::from_nanos(1);
const GRACE: Duration = Duration::from_secs(10);

fn begin() -> Time {
    Time::from_origin(1_000 * S)
}

/// A check that began at [`begin`], and a node whose bus it need not ask.
struct One {
    check: Check,
    trust: SelfTrust,
}

impl One {
    fn of(settings: &CheckSettings) -> Self {
        Self {
            check: Check::new(settings, S, begin()),
            trust: SelfTrust::new(S, 30 * S, begin()),
        }
    }

    fn http() -> Self {
        Self::of(&http_check())
    }

    /// Silence that needs no echo.
    fn silence() -> Self {
        let mut settings = heartbeat_check("hb");
        settings.plane = Plane::Local;
        Self::of(&settings)
    }

    fn claim() -> Self {
        let mut settings = heartbeat_check("hb");
        settings.plane = Plane::Local;
        settings.kind = CheckKind::Passive {
            source: Source::Claim {
                node: "far".into(),
                peer: "app".into(),
            },
            detector: DetectorSettings::default(),
            cause: Cause::PeerSilent,
        };
        Self::of(&settings)
    }

    fn verdict(&self, now: Time) -> Verdict {
        self.verdict_under(now, None)
    }

    fn verdict_under(&self, now: Time, expectation: Option<Expectation>) -> Verdict {
        self.check.verdict(Light {
            now,
            trust: &self.trust,
            expectation,
        })
    }

    fn is(&self, now: Time) -> (Liveness, Why) {
        let verdict = self.verdict(now);
        (verdict.liveness, verdict.why)
    }

    fn words(&self, now: Time) -> String {
        self.check.words(self.verdict(now), now)
    }

    fn beat(&mut self, at: Time) {
        self.check.life(at, Coverage::default(), None);
    }

    fn run(&mut self, outcome: Outcome, at: Time) {
        self.check.observed(outcome, at, at);
    }
}

fn fail() -> Outcome {
    Outcome::Fail {
        cause: Cause::PeerLeaking,
        detail: "status 503".to_owned(),
    }
}

fn unknown() -> Outcome {
    Outcome::Unknown {
        detail: "status 403".to_owned(),
    }
}

#[test]
fn silence_is_suspect_and_dead_at_its_bounds() {
    let mut one = One::silence();
    assert_eq!(one.is(begin()), (Liveness::Unknown, Why::NeverSeen));
    let last = begin() + S;
    one.beat(last);
    assert_eq!(one.is(last + 2 * S - NS), (Liveness::Alive, Why::Passed));
    assert_eq!(one.is(last + 2 * S), (Liveness::Suspect, Why::Silent));
    assert_eq!(one.is(last + 5 * S - NS), (Liveness::Suspect, Why::Silent));
    assert_eq!(one.is(last + 5 * S), (Liveness::Dead, Why::Silent));
    assert_eq!(one.words(last + 65 * S), "silent for 1 min 5 s");
    let mut next = Vec::new();
    let mut now = last;
    while one.check.next_change(now) < Time::MAX {
        now = one.check.next_change(now);
        next.push(now.since(last));
    }
    assert_eq!(next, [2 * S, 5 * S, 9 * S], "and the end of its grace");
}

#[test]
fn after_a_window_that_began_anew_silence_is_counted_from_there() {
    let mut one = One::silence();
    one.beat(begin() + S);
    let anew = begin() + 20 * S;
    one.check.restart_window(anew, Coverage::default());
    assert_eq!(one.is(anew + 2 * S - NS), (Liveness::Unknown, Why::EmptyWindow));
    assert_eq!(one.is(anew + 2 * S), (Liveness::Suspect, Why::Silent));
    assert_eq!(one.is(anew + 5 * S), (Liveness::Dead, Why::Silent));
    assert_eq!(one.check.next_change(anew), anew + 2 * S);
    assert_eq!(one.check.next_change(anew + 2 * S), anew + 5 * S);
}

#[test]
fn another_life_has_its_grace_before_its_silence_counts() {
    let mut one = One::silence();
    one.beat(begin() + S);
    let anew = begin() + 20 * S;
    one.check.new_life(anew, Coverage::default());
    assert_eq!(one.check.last_pass, None);
    assert!(!one.check.started(anew + GRACE - NS) && one.check.started(anew + GRACE));
    assert_eq!(one.is(anew + GRACE - NS), (Liveness::Unknown, Why::InGrace));
    assert_eq!(one.is(anew + GRACE), (Liveness::Dead, Why::Silent));
    assert_eq!(one.check.next_change(anew + 6 * S), anew + GRACE);
    one.beat(anew + 3 * S);
    assert!(one.check.started(anew + 3 * S));
    assert!(one.check.passed_since(anew + 3 * S) && !one.check.passed_since(anew + 3 * S + NS));
}

#[test]
fn a_first_life_is_given_its_grace_unless_it_has_shown_itself() {
    let life = super::Incarnation("a".into());
    let mut one = One::silence();
    let seen = begin() + 7 * S;
    one.check.first_life(seen, &life);
    assert!(!one.check.started(seen + GRACE - NS) && one.check.started(seen + GRACE));
    let mut one = One::silence();
    one.beat(begin() + S);
    one.check.first_life(seen, &life);
    assert_eq!(one.check.next_change(begin() + 9 * S), begin() + GRACE);
}

#[test]
fn runs_condemn_by_m_of_n_and_are_believed_until_they_stop() {
    let mut one = One::http();
    assert_eq!(one.is(begin()), (Liveness::Unknown, Why::NeverSeen));
    let at = |secs: u32| begin() + secs * S;
    one.run(Outcome::Pass, at(11));
    assert_eq!(one.is(at(11)), (Liveness::Alive, Why::Passed));
    assert_eq!(one.words(at(13)), "last pass 2.0 s ago");
    one.run(fail(), at(12));
    let verdict = one.verdict(at(12));
    assert_eq!(
        (verdict.liveness, verdict.cause),
        (Liveness::Suspect, Some(Cause::PeerLeaking))
    );
    one.run(Outcome::Pass, at(13));
    assert_eq!(one.is(at(13)), (Liveness::Alive, Why::Passed));
    one.run(fail(), at(14));
    assert_eq!(
        one.is(at(14)),
        (Liveness::Dead, Why::Failing),
        "two of the last three"
    );
    assert_eq!(one.words(at(14)), "status 503 (2 of the last 3 failed)");
    one.run(Outcome::Pass, at(15));
    assert_eq!(
        one.is(at(15)),
        (Liveness::Alive, Why::Passed),
        "one of the last three"
    );
    // Three intervals and 30 s.
    assert_eq!(one.is(at(48) - NS), (Liveness::Alive, Why::Passed));
    assert_eq!(one.is(at(48)), (Liveness::Unknown, Why::Stale));
    assert_eq!(one.check.next_change(at(15)), at(48));
    assert_eq!(one.words(at(48)), "the check has stopped reporting");
    assert_eq!(one.check.fresh_window(), 2 * S);
}

#[test]
fn what_fails_in_its_grace_is_not_remembered() {
    let mut one = One::http();
    one.run(fail(), begin() + GRACE - NS);
    assert_eq!(one.is(begin() + GRACE), (Liveness::Unknown, Why::InGrace));
    one.run(fail(), begin() + GRACE);
    assert_eq!(one.is(begin() + GRACE), (Liveness::Suspect, Why::Failing));
    one.run(fail(), begin() + GRACE);
    assert_eq!(one.is(begin() + GRACE), (Liveness::Dead, Why::Failing));
}

#[test]
fn a_run_begun_before_the_window_proves_nothing() {
    let mut one = One::http();
    let anew = begin() + 20 * S;
    one.run(Outcome::Pass, begin() + 11 * S);
    one.check.restart_window(anew, Coverage::default());
    one.check.observed(Outcome::Pass, anew - NS, anew);
    assert_eq!(one.is(anew), (Liveness::Unknown, Why::InGrace));
    assert!(!one.check.passed_since(anew));
    one.check.observed(Outcome::Pass, anew, anew);
    assert_eq!(one.is(anew), (Liveness::Alive, Why::Passed));
}

#[test]
fn what_cannot_be_measured_for_m_runs_is_unknown_and_forgets() {
    let mut one = One::http();
    let at = |secs: u32| begin() + secs * S;
    one.run(unknown(), at(11));
    assert_eq!(one.is(at(11)), (Liveness::Unknown, Why::Unmeasured));
    assert_eq!(one.words(at(11)), "cannot be measured: status 403");
    one.run(Outcome::Pass, at(12));
    one.run(fail(), at(13));
    one.run(unknown(), at(14));
    assert_eq!(
        one.is(at(14)),
        (Liveness::Suspect, Why::Failing),
        "one is nothing"
    );
    one.run(unknown(), at(15));
    assert_eq!(one.is(at(15)), (Liveness::Unknown, Why::Unmeasured));
    one.run(fail(), at(16));
    assert_eq!(
        one.is(at(16)),
        (Liveness::Suspect, Why::Failing),
        "not the second failure"
    );
    one.run(unknown(), at(17));
    one.run(fail(), at(18));
    assert_eq!(
        one.is(at(18)),
        (Liveness::Dead, Why::Failing),
        "one that was not measured forgets nothing"
    );
}

#[test]
fn a_doubt_is_in_words_until_the_next_run() {
    let mut one = One::http();
    let at = |secs: u32| begin() + secs * S;
    let doubt = || Outcome::Doubt {
        cause: Cause::PeerSilent,
        detail: "not extended".to_owned(),
    };
    one.run(unknown(), at(10));
    one.run(doubt(), at(11));
    let verdict = one.verdict(at(11));
    assert_eq!(
        (verdict.liveness, verdict.cause),
        (Liveness::Suspect, Some(Cause::PeerSilent))
    );
    assert_eq!(one.words(at(11)), "not extended");
    one.run(fail(), at(12));
    one.run(fail(), at(13));
    one.run(doubt(), at(14));
    let verdict = one.verdict(at(14));
    assert_eq!(
        (verdict.liveness, verdict.cause),
        (Liveness::Dead, Some(Cause::PeerLeaking))
    );
    assert_eq!(one.words(at(14)), "status 503 (2 of the last 3 failed)");
    one.run(Outcome::Pass, at(15));
    one.run(Outcome::Pass, at(16));
    assert_eq!(one.is(at(16)), (Liveness::Alive, Why::Passed));
}

#[test]
fn a_claim_lives_as_long_as_it_is_repeated() {
    let mut one = One::claim();
    assert_eq!(one.is(begin()), (Liveness::Unknown, Why::NeverSeen));
    one.check.claimed(Liveness::Dead, begin() + S, None);
    assert_eq!(one.check.last_pass, None);
    assert_eq!(one.is(begin() + S), (Liveness::Dead, Why::Claimed));
    assert_eq!(one.words(begin() + S), "so says the node that watches it");
    one.check.claimed(Liveness::Alive, begin() + 2 * S, None);
    assert_eq!(one.check.last_pass, Some(begin() + 2 * S));
    assert_eq!(one.is(begin() + 4 * S - NS), (Liveness::Alive, Why::Passed));
    assert_eq!(one.is(begin() + 4 * S), (Liveness::Unknown, Why::ObserverGone));
    assert_eq!(one.check.next_change(begin() + 2 * S), begin() + 4 * S);
    one.check.claimed(Liveness::Unknown, begin() + 5 * S, None);
    assert_eq!(one.is(begin() + 5 * S), (Liveness::Unknown, Why::ObserverGone));
    // Doubt counts only from within the window; life is life.
    for (said, then) in [
        (Liveness::Suspect, (Liveness::Unknown, Why::ObserverGone)),
        (Liveness::Alive, (Liveness::Alive, Why::Passed)),
    ] {
        one.check.claimed(said, begin() + 6 * S, None);
        one.check
            .restart_window(begin() + 6 * S + NS, Coverage::default());
        assert_eq!(one.is(begin() + 7 * S), then, "{said}");
    }
    one.check.claimed(Liveness::Suspect, begin() + 8 * S, None);
    one.check.restart_window(begin() + 8 * S, Coverage::default());
    assert_eq!(one.is(begin() + 8 * S), (Liveness::Suspect, Why::Claimed));
}

#[test]
fn an_own_pause_keeps_the_verdict_for_a_fresh_window() {
    let mut one = One::silence();
    one.beat(begin() + S);
    let paused = begin() + 30 * S;
    let kept = one.verdict(begin() + 2 * S);
    one.check.freeze(kept, paused, Coverage::default());
    assert_eq!(one.is(paused + 2 * S - NS), (Liveness::Alive, Why::Passed));
    assert_eq!(one.is(paused + 2 * S), (Liveness::Suspect, Why::Silent));
    assert_eq!(one.check.next_change(paused), paused + 2 * S);
    // Life ends it at once.
    let dead = one.verdict(paused + 10 * S);
    assert_eq!(dead.liveness, Liveness::Dead);
    one.check.freeze(dead, paused + 10 * S, Coverage::default());
    assert_eq!(one.is(paused + 11 * S), (Liveness::Dead, Why::Silent));
    one.beat(paused + 11 * S);
    assert_eq!(one.is(paused + 11 * S), (Liveness::Alive, Why::Passed));
    // And so does that something is expected anew.
    one.check.freeze(dead, paused + 20 * S, Coverage::default());
    one.check.expected_anew(paused + 20 * S, Coverage::default());
    assert_eq!(one.is(paused + 20 * S), (Liveness::Unknown, Why::EmptyWindow));
}

#[test]
fn an_expectation_comes_before_all_evidence_and_a_goodbye_before_that() {
    let mut one = One::http();
    one.run(Outcome::Pass, begin() + 11 * S);
    let now = begin() + 12 * S;
    let under = |one: &One, met| one.verdict_under(now, Some(Expectation { met, at: now })).why;
    assert_eq!(under(&one, Some(true)), Why::Passed);
    assert_eq!(under(&one, Some(false)), Why::NotExpected);
    assert_eq!(under(&one, None), Why::ExpectationUnknown);
    one.check.leave(Why::Left);
    assert_eq!(under(&one, Some(false)), Why::Left);
    assert!(one.check.has_left());
    one.run(Outcome::Pass, now);
    assert!(!one.check.has_left(), "life ends a goodbye");
}

#[test]
fn what_was_stopped_on_purpose_comes_back_by_its_owner_alone() {
    let mut one = One::of(&process_check());
    assert_eq!(one.is(begin()), (Liveness::Unknown, Why::NeverSeen));
    one.check.owner_running();
    assert_eq!(one.words(begin()), "running");
    one.check.owner_stopped("docker stop");
    assert!(one.check.is_stopped_on_purpose() && one.check.has_left());
    assert_eq!(one.words(begin()), "docker stop");
    one.check.leave(Why::Left);
    assert!(one.check.is_stopped_on_purpose(), "a straggling goodbye");
    one.run(Outcome::Pass, begin() + S);
    assert!(one.check.is_stopped_on_purpose(), "a late look");
    one.check.owner_unseen("no permission");
    one.check.owner_exited(false);
    assert!(!one.check.has_left());
    assert_eq!(one.is(begin()), (Liveness::Dead, Why::Exited));
    one.check.owner_unseen("no permission");
    one.check.owner_absent("no such file".to_owned());
    assert_eq!(one.is(begin()), (Liveness::Dead, Why::Exited), "not forgotten");
    one.check.leave(Why::Forgotten);
    one.check.owner_exited(true);
    assert_eq!(
        one.is(begin()),
        (Liveness::Unknown, Why::Forgotten),
        "nor is that"
    );
    one.check.leave(Why::Left);
    one.check.owner_running();
    assert!(one.check.has_left());
}

#[test]
fn an_owner_that_is_not_there_or_not_seen_is_unknown() {
    let mut one = One::of(&process_check());
    assert!(!one.check.is_owner_absent());
    one.check.owner_absent("no such file".to_owned());
    assert!(one.check.is_owner_absent());
    assert_eq!(one.is(begin()), (Liveness::Unknown, Why::Absent));
    assert_eq!(one.words(begin()), "no such file");
    one.check.owner_unseen("no permission");
    assert!(!one.check.is_owner_absent());
    assert_eq!(one.is(begin()), (Liveness::Unknown, Why::Unseen));
    assert_eq!(one.words(begin()), "no permission");
    one.check.owner_running();
    for second in 11..13 {
        one.run(fail(), begin() + second * S);
    }
    assert_eq!(one.is(begin() + 13 * S), (Liveness::Dead, Why::Stopped));
    one.check.owner_exited(true);
    assert_eq!(one.is(begin() + 13 * S), (Liveness::Dead, Why::Restarting));
}

#[test]
fn evidence_from_the_bus_is_held_with_it_and_while_it_settles() {
    let mut settings = http_check();
    settings.plane = Plane::Bus;
    let mut one = One::of(&settings);
    one.run(Outcome::Pass, begin() + 11 * S);
    let now = begin() + 12 * S;
    assert_eq!(one.is(now).1, Why::Held(BusState::Starting));
    for link in Link::ALL {
        let status = LinkStatus::Up {
            role: Role::Master,
            plain: true,
        };
        one.trust.link(link, status, now);
    }
    one.trust.sent(1, now);
    one.trust.echo(1, now + MS);
    assert_eq!(one.is(now + S), (Liveness::Unknown, Why::Settling));
    assert!(one.words(now + S).starts_with("on hold: the bus is settling"));
    assert_eq!(one.is(now + 30 * S + MS), (Liveness::Alive, Why::Passed));
    let reason = "gone".to_owned();
    one.trust.link(Link::Sub, LinkStatus::Down { reason }, now);
    let verdict = one.verdict(now + S);
    assert_eq!(
        (verdict.why, verdict.cause),
        (Why::Held(BusState::SelfDeaf), Some(Cause::SelfDeaf))
    );
    assert_eq!(one.words(now + S), "on hold: self_deaf");
}

#[test]
fn each_ground_is_of_one_sort() {
    let (one, unknown) = (One::http(), Liveness::Unknown);
    let of = |why| Verdict {
        liveness: unknown,
        cause: None,
        why,
    };
    // Grounds; held by the bus; ends an episode; no proof can be asked for.
    for (why, held, ends, unprovable) in [
        (Why::Passed, false, false, false),
        (Why::NeverSeen, false, false, true),
        (Why::NotExpected, false, true, true),
        (Why::ExpectationUnknown, false, false, true),
        (Why::Held(BusState::SelfMute), true, false, false),
        (Why::Settling, true, false, false),
        (Why::EmptyWindow, true, false, false),
        (Why::InGrace, false, false, false),
        (Why::Uncovered, false, false, false),
        (Why::Unmeasured, false, false, true),
        (Why::Unseen, false, false, true),
        (Why::Stale, false, false, true),
        (Why::ObserverGone, false, false, true),
        (Why::Left, false, true, true),
        (Why::Forgotten, false, true, true),
        (Why::OnPurpose, false, true, true),
        (Why::Leaving, false, true, true),
    ] {
        let verdict = of(why);
        assert_eq!(verdict.is_held(), held, "{why:?}");
        assert_eq!(verdict.ends_episodes(), ends, "{why:?}");
        assert_eq!(verdict.has_left(), ends && why != Why::NotExpected, "{why:?}");
        assert_eq!(verdict.cannot_prove(), unprovable, "{why:?}");
        let said = one.check.words(verdict, begin());
        assert!(!said.is_empty() || why == Why::Leaving, "{why:?}");
    }
    let words = |why| one.check.words(of(why), begin());
    assert_eq!(
        words(Why::Uncovered),
        "overdue, and our own echoes do not cover the silence yet"
    );
    assert_eq!(words(Why::OnPurpose), "stopped on purpose");
    assert_eq!(words(Why::Passed), "last pass never ago");
}

#[test]
fn a_time_is_said_with_no_more_digits_than_matter() {
    for (millis, said) in [
        (0, "0.0 s"),
        (59_900, "59.9 s"),
        (60_000, "1 min 0 s"),
        (3_599_000, "59 min 59 s"),
        (3_600_000, "1 h 0 min"),
        (90_061_000, "25 h 1 min"),
    ] {
        assert_eq!(age(Duration::from_millis(millis)), said);
    }
}
