//! What one check knows, and what follows from it: observations, "m of n", silence, graces, expectations.
//!
//! A check judges for itself alone. Whether its word decides anything is up to its `decides`, and whether
//! anything is done about it, to the guards.

use std::sync::Arc;
use std::time::Duration;

use super::cause::Cause;
use super::detector::{Detector, Sent};
use super::event::{Incarnation, Outcome};
use super::peer::Liveness;
use super::said::Said;
use super::self_trust::{BusState, Coverage, SelfTrust};
use super::settings::{CheckKind, CheckSettings, FailAfter, Plane, Source};
use super::time::Time;

/// An active check that has not reported for three intervals and this long is not believed any more.
const STALE_SLACK: Duration = Duration::from_secs(30);

/// A check's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) liveness: Liveness,
    /// What a suspicion or condemnation means; for `unknown`, what holds it back.
    pub(super) cause: Option<Cause>,
    pub(super) why: Why,
}

/// The grounds of a verdict; put into words only when somebody reads them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    Passed,
    NeverSeen,
    NotExpected,
    ExpectationUnknown,
    Held(BusState),
    Settling,
    InGrace,
    /// The window began anew (after an outage) and nothing was heard in it yet.
    EmptyWindow,
    Silent,
    /// Silent, not for `dead_after` yet, and so say other observers.
    Confirmed,
    /// Silent, but our echoes do not cover the silence yet.
    Uncovered,
    Failing,
    Unmeasured,
    Stale,
    Stopped,
    Exited,
    /// It ended, and its own supervisor brings it back.
    Restarting,
    Absent,
    /// Its owner cannot be looked at.
    Unseen,
    /// Ended or suspended on purpose.
    OnPurpose,
    /// It said that it leaves on purpose.
    Leaving,
    /// It said so itself.
    Said,
    /// Another node says so.
    Claimed,
    /// The node that speaks for it is silent, or does not know either.
    ObserverGone,
    Left,
    Forgotten,
}

impl Verdict {
    const fn pass() -> Self {
        Self {
            liveness: Liveness::Alive,
            cause: None,
            why: Why::Passed,
        }
    }

    const fn unknown(why: Why) -> Self {
        Self {
            liveness: Liveness::Unknown,
            cause: None,
            why,
        }
    }

    /// Held back by the bus's state, which has a notice of its own.
    pub(super) const fn is_held(self) -> bool {
        matches!(self.why, Why::Held(_) | Why::Settling | Why::EmptyWindow)
    }

    /// It said goodbye, or an operator did so for it, or stopped it.
    pub(super) const fn has_left(self) -> bool {
        matches!(
            self.why,
            Why::Left | Why::Forgotten | Why::OnPurpose | Why::Leaving
        )
    }

    /// Not known for a reason that makes an open episode pointless, not only undecidable.
    pub(super) const fn ends_episodes(self) -> bool {
        self.has_left() || matches!(self.why, Why::NotExpected)
    }

    /// Not known for a reason that will not go away by waiting: nobody can ask this check for a proof.
    pub(super) const fn cannot_prove(self) -> bool {
        self.ends_episodes()
            || matches!(
                self.why,
                Why::NeverSeen
                    | Why::ExpectationUnknown
                    | Why::Unmeasured
                    | Why::Unseen
                    | Why::Stale
                    | Why::ObserverGone
            )
    }

    const fn bad(liveness: Liveness, cause: Cause, why: Why) -> Self {
        Self {
            liveness,
            cause: Some(cause),
            why,
        }
    }
}

/// An expectation, as last evaluated.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Expectation {
    /// `None`: it cannot be told.
    pub(super) met: Option<bool>,
    pub(super) at: Time,
}

/// What a check looks at besides its own evidence.
#[derive(Clone, Copy, Debug)]
pub(super) struct Light<'a> {
    pub(super) now: Time,
    pub(super) trust: &'a SelfTrust,
    /// What the check needs, if it needs something.
    pub(super) expectation: Option<Expectation>,
}

/// One check's evidence.
#[derive(Clone, Debug)]
pub(super) struct Check {
    evidence: Evidence,
    plane: Plane,
    /// The last pass (a run's beginning, a message's arrival), in this life of the peer.
    pub(super) last_pass: Option<Time>,
    /// It has passed, in this life or an earlier one (known across restarts of the node).
    pub(super) ever_passed: bool,
    /// Failures before the first pass of this life are ignored until then.
    grace: Duration,
    grace_until: Time,
    /// Runs begun before this prove nothing: another life, an own pause, or not expected then.
    since: Time,
    /// Where the clock of proven reception stood at the last life, or when the window began anew.
    mark: Coverage,
    /// The sender said goodbye, or an operator that it is gone for good; or its owner was stopped on purpose.
    gone: Option<Why>,
    /// Other observers, by name, who confirmed this silence before `dead_after`.
    confirmed_by: Option<Arc<str>>,
    /// Where the verdict of before an own pause is kept until a fresh window has gone by.
    frozen: Option<(Verdict, Time)>,
    /// What the peer said of itself.
    pub(super) said: Said,
}

#[derive(Clone, Debug)]
enum Evidence {
    Passive {
        detector: Detector,
        cause: Cause,
    },
    /// What another node says. Its silence is *its* silence: a dead sidecar makes no application dead.
    Claim {
        detector: Detector,
        cause: Cause,
        said: Option<(Liveness, Time)>,
    },
    Active {
        runs: Runs,
        fail_after: FailAfter,
        interval: Duration,
    },
    Process {
        runs: Runs,
        fail_after: FailAfter,
        interval: Duration,
        owner: Owner,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Owner {
    NotLooked,
    Absent(String),
    Running,
    Exited,
    Restarting,
    Unseen(String),
    Stopped(String),
}

/// The last runs of an active check.
#[derive(Clone, Debug, Default)]
struct Runs {
    /// One bit a run, the latest lowest; set: failed.
    failed: u64,
    count: u8,
    /// The last run that was measured was a doubt, which is neither a failure nor a pass: what it will mean, in words.
    doubt: Option<(Cause, String)>,
    /// Measurements in a row that failed themselves.
    unmeasured: u8,
    last_report: Option<Time>,
    /// What the last failure or failed measurement said.
    detail: String,
    cause: Option<Cause>,
}

impl Runs {
    fn push(&mut self, outcome: Outcome, at: Time) {
        self.last_report = Some(at);
        match outcome {
            Outcome::Pass => self.record(false),
            Outcome::Fail { cause, detail } => {
                self.record(true);
                self.cause = Some(cause);
                self.detail = detail;
            }
            Outcome::Doubt { cause, detail } => {
                self.doubt = Some((cause, detail));
                self.unmeasured = 0;
            }
            Outcome::Unknown { detail } => {
                self.unmeasured = self.unmeasured.saturating_add(1);
                self.detail = detail;
            }
        }
    }

    fn record(&mut self, failed: bool) {
        self.failed = self.failed << 1 | u64::from(failed);
        self.count = self.count.saturating_add(1).min(64);
        self.doubt = None;
        self.unmeasured = 0;
    }

    fn clear(&mut self) {
        *self = Self {
            last_report: self.last_report,
            ..Self::default()
        };
    }

    fn failures(&self, of: u8) -> u32 {
        let seen = self.count.min(of).min(64);
        let mask = if seen >= 64 { u64::MAX } else { (1u64 << seen) - 1 };
        (self.failed & mask).count_ones()
    }

    fn last_failed(&self) -> bool {
        self.count > 0 && self.failed & 1 == 1
    }
}

impl Check {
    pub(super) fn new(settings: &CheckSettings, grace: Duration, now: Time) -> Self {
        let evidence = match &settings.kind {
            CheckKind::Passive {
                source: Source::Claim { .. },
                detector,
                cause,
            } => Evidence::Claim {
                detector: Detector::new(*detector),
                cause: *cause,
                said: None,
            },
            CheckKind::Passive { detector, cause, .. } => Evidence::Passive {
                detector: Detector::new(*detector),
                cause: *cause,
            },
            CheckKind::Active {
                fail_after, interval, ..
            } => Evidence::Active {
                runs: Runs::default(),
                fail_after: *fail_after,
                interval: *interval,
            },
            CheckKind::Process { fail_after, interval } => Evidence::Process {
                runs: Runs::default(),
                fail_after: *fail_after,
                interval: *interval,
                owner: Owner::NotLooked,
            },
        };
        let grace = settings.grace.max(grace);
        Self {
            evidence,
            plane: settings.plane,
            last_pass: None,
            ever_passed: false,
            grace,
            grace_until: now + grace,
            since: now,
            mark: Coverage::default(),
            gone: None,
            confirmed_by: None,
            frozen: None,
            said: Said::default(),
        }
    }

    /// Takes over from the check of before, which looked at the same. By the same rules: all of it. By others: what is
    /// known of the peer, while what was counted, and the silence that was measured, begin anew.
    pub(super) fn follow(&mut self, old: Self, same: bool, now: Time, mark: Coverage) {
        let fresh = std::mem::replace(self, old);
        self.grace = fresh.grace;
        self.plane = fresh.plane;
        if same {
            return;
        }
        let owner = match &self.evidence {
            Evidence::Process { owner, .. } => Some(owner.clone()),
            Evidence::Passive { .. } | Evidence::Claim { .. } | Evidence::Active { .. } => None,
        };
        self.evidence = fresh.evidence;
        if let (Evidence::Process { owner, .. }, Some(known)) = (&mut self.evidence, owner) {
            *owner = known;
        }
        self.frozen = None;
        self.restart_window(now, mark);
    }

    pub(super) fn plane(&self) -> Plane {
        self.plane
    }

    /// A fresh message: life.
    pub(super) fn life(&mut self, at: Time, mark: Coverage, sent: Option<Sent>) {
        self.comes_back();
        let unbroken = self.last_pass.is_some_and(|last| {
            let heard = self.plane == Plane::Local || mark.spans(self.mark, at.since(last));
            heard && last >= self.since
        });
        if let Evidence::Passive { detector, .. } = &mut self.evidence {
            detector.arrived(at, sent, unbroken);
        }
        self.mark = mark;
        self.confirmed_by = None;
        self.passed(at);
    }

    /// Another node's word about the peer.
    pub(super) fn claimed(&mut self, liveness: Liveness, at: Time, sent: Option<Sent>) {
        if let Evidence::Claim { said, detector, .. } = &mut self.evidence {
            let unbroken = said.is_some_and(|(_, before)| before >= self.since);
            detector.arrived(at, sent, unbroken);
            *said = Some((liveness, at));
        }
        if liveness == Liveness::Alive {
            self.comes_back();
            self.passed(at);
        }
    }

    /// Life ends a goodbye. What was stopped on purpose comes back by its owner alone: a message may be late. And who
    /// says that he leaves goes on living until he has left.
    fn comes_back(&mut self) {
        self.gone = self
            .gone
            .filter(|why| matches!(why, Why::OnPurpose | Why::Leaving));
    }

    /// The sender said goodbye, or an operator forgot it: silence is no failure from now on.
    pub(super) fn leave(&mut self, why: Why) {
        // The straggling goodbye of one that was stopped, or said so for good, does not make its next message life.
        let weaker = why == Why::Left && matches!(self.gone, Some(Why::OnPurpose | Why::Leaving));
        if !weaker {
            self.gone = Some(why);
        }
        self.confirmed_by = None;
        self.frozen = None;
        if let Evidence::Active { runs, .. } | Evidence::Process { runs, .. } = &mut self.evidence {
            runs.clear();
        }
    }

    /// A run's result. Runs begun in another life, or before an own pause, prove nothing.
    pub(super) fn observed(&mut self, outcome: Outcome, began: Time, now: Time) {
        let (Evidence::Active { runs, fail_after, .. } | Evidence::Process { runs, fail_after, .. }) =
            &mut self.evidence
        else {
            return;
        };
        if began < self.since {
            runs.last_report = Some(now);
            return;
        }
        let passed = outcome == Outcome::Pass;
        let failed = matches!(outcome, Outcome::Fail { .. } | Outcome::Doubt { .. });
        if failed && self.last_pass.is_none() && began < self.grace_until {
            // Not remembered: how it was while it started says nothing once that is over.
            runs.last_report = Some(now);
            runs.unmeasured = 0;
            return;
        }
        if runs.unmeasured >= fail_after.m && (passed || failed) {
            // It could not be told for a while: failures of before that are no longer among its last runs.
            runs.clear();
        }
        runs.push(outcome, now);
        if passed {
            self.comes_back();
            self.passed(began);
        }
    }

    fn passed(&mut self, at: Time) {
        self.last_pass = Some(self.last_pass.map_or(at, |last| last.max(at)));
        self.ever_passed = true;
        self.said.lives();
    }

    /// The owner watch's facts.
    pub(super) fn owner_running(&mut self) {
        self.gone = self.gone.filter(|why| *why != Why::OnPurpose);
        if let Evidence::Process { owner, .. } = &mut self.evidence {
            *owner = Owner::Running;
        }
    }

    /// A witnessed exit; perhaps its own supervisor brings it back.
    pub(super) fn owner_exited(&mut self, restarting: bool) {
        self.gone = self.gone.filter(|why| *why != Why::OnPurpose);
        if let Evidence::Process { owner, .. } = &mut self.evidence {
            *owner = if restarting {
                Owner::Restarting
            } else {
                Owner::Exited
            };
            self.frozen = None;
        }
    }

    /// Ended or suspended on purpose: whatever this check is, it waits for nothing until the owner runs again.
    pub(super) fn owner_stopped(&mut self, detail: &str) {
        self.leave(Why::OnPurpose);
        if let Evidence::Process { owner, .. } = &mut self.evidence {
            *owner = Owner::Stopped(detail.to_owned());
        }
    }

    /// It cannot be looked at. What was seen of an end, or of a purpose, is not forgotten over it.
    pub(super) fn owner_unseen(&mut self, detail: &str) {
        if let Evidence::Process { owner, .. } = &mut self.evidence
            && !matches!(owner, Owner::Exited | Owner::Stopped(_))
        {
            *owner = Owner::Unseen(detail.to_owned());
        }
    }

    /// Its owner was stopped on purpose.
    pub(super) fn is_stopped_on_purpose(&self) -> bool {
        self.gone == Some(Why::OnPurpose)
    }

    /// It was stopped on purpose, said goodbye, or was forgotten.
    pub(super) fn has_left(&self) -> bool {
        self.gone.is_some()
    }

    /// Of one that tells its life itself: it said that it leaves, or has not said anything for too long.
    pub(super) fn is_gone_or_overdue(&self, now: Time) -> bool {
        let overdue = |pass: Time| now.since(pass) >= self.fresh_window();
        self.has_left() || (!self.said.promises_nothing() && self.last_pass.is_none_or(overdue))
    }

    /// Nothing there, and nobody saw it go. A witnessed exit is not forgotten over it.
    pub(super) fn owner_absent(&mut self, detail: String) {
        if let Evidence::Process { owner, .. } = &mut self.evidence
            && *owner != Owner::Exited
        {
            *owner = Owner::Absent(detail);
        }
    }

    /// Its process is not there, and nobody saw it go.
    pub(super) fn is_owner_absent(&self) -> bool {
        matches!(
            self.evidence,
            Evidence::Process {
                owner: Owner::Absent(_),
                ..
            }
        )
    }

    /// Another life of the peer: its window is empty and its grace begins.
    pub(super) fn new_life(&mut self, now: Time, mark: Coverage) {
        self.last_pass = None;
        self.grace_until = now + self.grace;
        self.gone = None;
        self.frozen = None;
        self.said.new_life();
        if let Evidence::Passive { detector, .. } = &mut self.evidence {
            detector.new_life();
        }
        self.restart_window(now, mark);
    }

    /// A life is seen for the first time: it may be starting.
    pub(super) fn first_life(&mut self, now: Time, life: &Incarnation) {
        if self.said.first_life(life) {
            // It began while nobody listened, and may have promised nothing: its silence is not known to be one.
            self.ever_passed = self.last_pass.is_some();
        }
        if self.last_pass.is_none() {
            self.grace_until = now + self.grace;
        }
    }

    /// From now on only what comes from now on counts (after an outage; when it becomes expected). A settling
    /// time that ended during an own pause does not end what that pause keeps.
    pub(super) fn restart_window(&mut self, now: Time, mark: Coverage) {
        self.since = now;
        self.mark = mark;
        self.confirmed_by = None;
        if let Evidence::Active { runs, .. } | Evidence::Process { runs, .. } = &mut self.evidence {
            runs.clear();
        }
    }

    /// What it needs has begun to hold: what was before does not count.
    pub(super) fn expected_anew(&mut self, now: Time, mark: Coverage) {
        self.frozen = None;
        self.restart_window(now, mark);
    }

    /// An own pause: the verdict stays as it is until a fresh window has gone by, or there is life.
    pub(super) fn freeze(&mut self, verdict: Verdict, now: Time, mark: Coverage) {
        self.since = now;
        self.mark = mark;
        self.confirmed_by = None;
        self.frozen = Some((verdict, now + self.fresh_window()));
    }

    /// How long after an own pause nothing may be concluded: max(`suspect_after`, 2 × interval).
    pub(super) fn fresh_window(&self) -> Duration {
        match &self.evidence {
            Evidence::Passive { detector, .. } | Evidence::Claim { detector, .. } => {
                self.said.detector(detector).suspect_after()
            }
            Evidence::Active { interval, .. } | Evidence::Process { interval, .. } => {
                interval.saturating_mul(2)
            }
        }
    }

    /// Its first pass was seen in this life, or its grace is over.
    pub(super) fn started(&self, now: Time) -> bool {
        self.last_pass.is_some() || now >= self.grace_until
    }

    /// Passed in a run begun (a message received) at `at` or later.
    pub(super) fn passed_since(&self, at: Time) -> bool {
        self.last_pass.is_some_and(|pass| pass >= at)
    }

    /// When silence from now on would be suspicious, if this check knows silence.
    pub(super) fn suspect_at(&self) -> Option<Time> {
        Some(self.silent_since() + self.detector()?.suspect_after())
    }

    /// And when it would be death, without anybody's vote.
    pub(super) fn dead_at(&self) -> Option<Time> {
        Some(self.silent_since() + self.detector()?.dead_after())
    }

    fn detector(&self) -> Option<&Detector> {
        match &self.evidence {
            Evidence::Passive { detector, .. } => Some(self.said.detector(detector)),
            Evidence::Claim { detector, .. } => Some(detector),
            Evidence::Active { .. } | Evidence::Process { .. } => None,
        }
    }

    /// Since when there is no life: the last sign of it, or when the window began anew.
    pub(super) fn silent_since(&self) -> Time {
        self.last_pass.map_or(self.since, |pass| pass.max(self.since))
    }

    /// Silent, and covered by our echoes, or so says the peer's own node; and not only kept so over a pause of our
    /// own. What others may be told.
    pub(super) fn accuses(&self, light: Light<'_>) -> Option<Liveness> {
        let verdict = self.verdict(light);
        let bad = matches!(verdict.liveness, Liveness::Suspect | Liveness::Dead);
        let told = matches!(verdict.why, Why::Silent | Why::Confirmed | Why::Claimed);
        (bad && told && self.is_thawed(light.now)).then_some(verdict.liveness)
    }

    /// When it last was heard, if that is recent enough for it to live.
    pub(super) fn hears(&self, light: Light<'_>) -> Option<Time> {
        let verdict = self.verdict(light);
        let lives = verdict.liveness == Liveness::Alive && verdict.why == Why::Passed;
        self.last_pass.filter(|_| lives && self.is_thawed(light.now))
    }

    /// Suspect by covered silence, and nothing else: what votes may confirm.
    pub(super) fn is_suspect_by_silence(&self, light: Light<'_>) -> bool {
        let verdict = self.verdict(light);
        let silent = verdict.liveness == Liveness::Suspect && verdict.why == Why::Silent;
        silent && self.is_thawed(light.now)
    }

    /// Other observers confirm its silence.
    pub(super) fn confirm(&mut self, by: Arc<str>) {
        self.confirmed_by = Some(by);
    }

    fn is_thawed(&self, now: Time) -> bool {
        self.frozen
            .is_none_or(|(_, until)| now >= until || self.passed_since(self.since))
    }

    /// What follows from the evidence.
    pub(super) fn verdict(&self, light: Light<'_>) -> Verdict {
        if let Some(gone) = self.gone {
            return Verdict::unknown(gone);
        }
        match light.expectation.map(|expectation| expectation.met) {
            Some(Some(false)) => return Verdict::unknown(Why::NotExpected),
            Some(None) => return Verdict::unknown(Why::ExpectationUnknown),
            Some(Some(true)) | None => {}
        }
        if let Some(verdict) = self.word(light.now) {
            return verdict;
        }
        let verdict = match &self.evidence {
            Evidence::Passive { detector, cause } => self.silence(detector, *cause, light),
            Evidence::Claim {
                detector,
                cause,
                said,
            } => self.claim(detector, *cause, *said, light),
            Evidence::Active {
                runs,
                fail_after,
                interval,
            } => self.runs(runs, *fail_after, *interval, light),
            Evidence::Process {
                runs,
                fail_after,
                interval,
                owner,
            } => match owner {
                Owner::NotLooked => return Verdict::unknown(Why::NeverSeen),
                Owner::Absent(_) => return Verdict::unknown(Why::Absent),
                Owner::Unseen(_) => return Verdict::unknown(Why::Unseen),
                Owner::Stopped(_) => return Verdict::unknown(Why::OnPurpose),
                Owner::Exited => return Verdict::bad(Liveness::Dead, Cause::PeerExited, Why::Exited),
                Owner::Restarting => return Verdict::bad(Liveness::Dead, Cause::PeerExited, Why::Restarting),
                Owner::Running => self.process(runs, *fail_after, *interval, light),
            },
        };
        self.thaw(self.doubted(verdict), light.now)
    }

    /// What it told an earlier run of this node against itself is a doubt: it may have lived since, unheard. It condemns
    /// nobody, and who says no more than that is silent some day.
    fn doubted(&self, verdict: Verdict) -> Verdict {
        match self.said.failed() {
            Some((cause, _)) if self.said.failed_earlier() && verdict.liveness != Liveness::Dead => {
                Verdict::bad(Liveness::Suspect, cause, Why::Said)
            }
            Some(_) | None => verdict,
        }
    }

    /// The peer's own word against itself, or that it cannot be heard.
    fn word(&self, now: Time) -> Option<Verdict> {
        if let Some((cause, at)) = self.said.failed().filter(|_| !self.said.failed_earlier()) {
            let verdict = Verdict::bad(Liveness::Dead, cause, Why::Said);
            // Said before an own pause it is as old as all else; said since, it needs no window to be believed.
            return Some(if at >= self.since {
                verdict
            } else {
                self.thaw(verdict, now)
            });
        }
        self.said
            .is_deaf()
            .then(|| self.thaw(Verdict::unknown(Why::Unmeasured), now))
    }

    fn thaw(&self, verdict: Verdict, now: Time) -> Verdict {
        match self.frozen {
            Some((kept, until)) if now < until && !self.passed_since(self.since) => kept,
            Some(_) | None => verdict,
        }
    }

    fn silence(&self, detector: &Detector, cause: Cause, light: Light<'_>) -> Verdict {
        if !self.ever_passed {
            return Verdict::unknown(Why::NeverSeen);
        }
        if self.said.promises_nothing() {
            return match self.last_pass {
                Some(_) => Verdict::pass(),
                None => Verdict::unknown(Why::NeverSeen),
            };
        }
        let detector = self.said.detector(detector);
        let age = light.now.since(self.silent_since());
        let fresh = self
            .last_pass
            .is_some_and(|pass| light.now.since(pass) < detector.suspect_after());
        if fresh {
            return Verdict::pass();
        }
        if let Some(held) = self.held(light) {
            return held;
        }
        if self.last_pass.is_none() && light.now < self.grace_until {
            return Verdict::unknown(Why::InGrace);
        }
        if age < detector.suspect_after() {
            return Verdict::unknown(Why::EmptyWindow);
        }
        let bus = self.plane == Plane::Bus;
        if bus && !light.trust.covers_suspicion(self.mark) {
            // Overdue, but so may our own subscription be: what was alive in this window stays so.
            return if self.passed_since(self.since) {
                Verdict {
                    why: Why::Uncovered,
                    ..Verdict::pass()
                }
            } else {
                Verdict::unknown(Why::EmptyWindow)
            };
        }
        if age >= detector.dead_after() && (!bus || light.trust.covers(self.mark, detector.dead_after())) {
            return Verdict::bad(Liveness::Dead, cause, Why::Silent);
        }
        if self.confirmed_by.is_some() {
            return Verdict::bad(Liveness::Dead, cause, Why::Confirmed);
        }
        Verdict::bad(Liveness::Suspect, cause, Why::Silent)
    }

    fn claim(
        &self,
        detector: &Detector,
        cause: Cause,
        said: Option<(Liveness, Time)>,
        light: Light<'_>,
    ) -> Verdict {
        let Some((liveness, at)) = said else {
            return Verdict::unknown(Why::NeverSeen);
        };
        // Life is life, whenever the window began; doubt counts only from within it.
        let outside = at < self.since && liveness != Liveness::Alive;
        if outside || light.now.since(at) >= detector.suspect_after() {
            return self.held(light).unwrap_or(Verdict::unknown(Why::ObserverGone));
        }
        match liveness {
            Liveness::Alive => Verdict::pass(),
            Liveness::Unknown => Verdict::unknown(Why::ObserverGone),
            Liveness::Suspect | Liveness::Dead => {
                self.held(light)
                    .unwrap_or(Verdict::bad(liveness, cause, Why::Claimed))
            }
        }
    }

    /// Bus evidence is held while the bus cannot be trusted, and for a while after it was away.
    fn held(&self, light: Light<'_>) -> Option<Verdict> {
        if self.plane == Plane::Local {
            return None;
        }
        let state = light.trust.state();
        if state != BusState::Trusted {
            return Some(Verdict {
                cause: state.cause(),
                ..Verdict::unknown(Why::Held(state))
            });
        }
        light
            .trust
            .settling(light.now)
            .then(|| Verdict::unknown(Why::Settling))
    }

    fn runs(&self, runs: &Runs, fail_after: FailAfter, interval: Duration, light: Light<'_>) -> Verdict {
        if let Some(held) = self.held(light) {
            return held;
        }
        if runs.last_report.is_none() {
            return Verdict::unknown(Why::NeverSeen);
        }
        if light.now >= self.stale_at(runs, interval) {
            return Verdict::unknown(Why::Stale);
        }
        let nothing = runs.count == 0 && runs.doubt.is_none();
        if runs.unmeasured >= fail_after.m || (nothing && runs.unmeasured > 0) {
            return Verdict::unknown(Why::Unmeasured);
        }
        if nothing {
            // It reports, and nothing of this life counts yet. That may still come: a recovery waits for it.
            return Verdict::unknown(Why::InGrace);
        }
        let failures = runs.failures(fail_after.n);
        let cause = runs.cause.unwrap_or(Cause::PeerStuck);
        if failures >= u32::from(fail_after.m) {
            // For what failed: a doubt that follows is not what is healed.
            Verdict::bad(Liveness::Dead, cause, Why::Failing)
        } else if let Some((cause, _)) = runs.doubt {
            Verdict::bad(Liveness::Suspect, cause, Why::Failing)
        } else if runs.last_failed() {
            Verdict::bad(Liveness::Suspect, cause, Why::Failing)
        } else {
            Verdict::pass()
        }
    }

    fn process(&self, runs: &Runs, fail_after: FailAfter, interval: Duration, light: Light<'_>) -> Verdict {
        // That it runs is known from the pidfd; the looks only tell whether it was stopped.
        let looked = self.runs(runs, fail_after, interval, light);
        match looked.liveness {
            Liveness::Suspect | Liveness::Dead => Verdict {
                why: Why::Stopped,
                ..looked
            },
            Liveness::Unknown | Liveness::Alive => Verdict::pass(),
        }
    }

    fn stale_at(&self, runs: &Runs, interval: Duration) -> Time {
        let last = runs.last_report.unwrap_or(self.since).max(self.since);
        last + interval.saturating_mul(3) + STALE_SLACK
    }

    /// When the verdict could change by the passing of time alone. May be early, never late.
    pub(super) fn next_change(&self, now: Time) -> Time {
        let mut next = Time::MAX;
        let mut consider = |at: Time| {
            if at > now && at < next {
                next = at;
            }
        };
        consider(self.grace_until);
        if let Some((_, until)) = self.frozen {
            consider(until);
        }
        match &self.evidence {
            Evidence::Passive { detector, .. } if self.ever_passed && !self.said.promises_nothing() => {
                let detector = self.said.detector(detector);
                let base = self.silent_since();
                consider(base + detector.suspect_after());
                consider(base + detector.dead_after());
                if let Some(pass) = self.last_pass {
                    consider(pass + detector.suspect_after());
                }
            }
            Evidence::Passive { .. } => {}
            Evidence::Claim { detector, said, .. } => {
                if let Some((_, at)) = said {
                    consider(*at + detector.suspect_after());
                }
            }
            Evidence::Active { runs, interval, .. } | Evidence::Process { runs, interval, .. } => {
                if runs.last_report.is_some() {
                    consider(self.stale_at(runs, *interval));
                }
            }
        }
        next
    }

    /// The verdict's grounds, in words.
    pub(super) fn words(&self, verdict: Verdict, now: Time) -> String {
        let ago = |at: Option<Time>| at.map_or_else(|| "never".to_owned(), |at| age(now.since(at)));
        match verdict.why {
            Why::Passed => match (&self.evidence, self.last_pass) {
                (Evidence::Process { .. }, _) => "running".to_owned(),
                (_, last) => self
                    .said
                    .with_words(format!("last pass {} ago{}", ago(last), self.learned())),
            },
            Why::NeverSeen => "nothing seen yet".to_owned(),
            Why::NotExpected => "not expected now".to_owned(),
            Why::ExpectationUnknown => "cannot tell whether it is expected".to_owned(),
            Why::Held(state) => format!("on hold: {state}"),
            Why::Settling => {
                "on hold: the bus is settling (this node started, or the bus was away, a moment ago)"
                    .to_owned()
            }
            Why::InGrace => "starting: in its grace".to_owned(),
            Why::EmptyWindow => "not heard yet since the window began anew".to_owned(),
            Why::Silent => self.said.with_words(format!(
                "silent for {}{}",
                age(now.since(self.last_pass.unwrap_or(self.since))),
                self.learned()
            )),
            Why::Confirmed => format!(
                "silent for {}, to {} as well",
                age(now.since(self.silent_since())),
                self.confirmed_by.as_deref().unwrap_or("others")
            ),
            Why::Said | Why::Leaving => self.said.against(),
            Why::Uncovered => "overdue, and our own echoes do not cover the silence yet".to_owned(),
            Why::Failing | Why::Stopped | Why::Unmeasured => self.run_detail(),
            Why::Stale => "the check has stopped reporting".to_owned(),
            Why::Exited => "its process exited".to_owned(),
            Why::Restarting => "its process exited, and its own supervisor brings it back".to_owned(),
            Why::Absent => self.owner_detail("not there"),
            Why::Unseen => self.owner_detail("cannot be looked at"),
            Why::OnPurpose if self.said.is_leaving() => self.said.against(),
            Why::OnPurpose => self.owner_detail("stopped on purpose"),
            Why::Claimed => "so says the node that watches it".to_owned(),
            Why::ObserverGone => "the node that watches it does not say".to_owned(),
            Why::Left => "said goodbye".to_owned(),
            Why::Forgotten => "forgotten by an operator".to_owned(),
        }
    }

    /// What a detector that learns allows now.
    fn learned(&self) -> String {
        let (Evidence::Passive { detector, .. } | Evidence::Claim { detector, .. }) = &self.evidence else {
            return String::new();
        };
        let detector = self.said.detector(detector);
        detector.samples().map_or_else(String::new, |samples| {
            format!(
                " (suspect after {}, dead after {}, learned from {samples})",
                age(detector.suspect_after()),
                age(detector.dead_after())
            )
        })
    }

    fn owner_detail(&self, otherwise: &str) -> String {
        match &self.evidence {
            Evidence::Process {
                owner: Owner::Absent(detail) | Owner::Unseen(detail) | Owner::Stopped(detail),
                ..
            } => detail.clone(),
            _ => otherwise.to_owned(),
        }
    }

    fn run_detail(&self) -> String {
        match &self.evidence {
            Evidence::Active { runs, fail_after, .. } | Evidence::Process { runs, fail_after, .. } => {
                if runs.unmeasured > 0 {
                    return format!("cannot be measured: {}", runs.detail);
                }
                let failures = runs.failures(fail_after.n);
                if let Some((_, doubt)) = &runs.doubt
                    && failures < u32::from(fail_after.m)
                {
                    return doubt.clone();
                }
                format!("{} ({failures} of the last {} failed)", runs.detail, fail_after.n)
            }
            Evidence::Passive { .. } | Evidence::Claim { .. } => self.said.against(),
        }
    }
}

/// A duration as people say it: no more digits than matter.
pub(super) fn age(duration: Duration) -> String {
    let secs = duration.as_secs();
    if secs < 60 {
        format!("{:.1} s", duration.as_secs_f64())
    } else if secs < 3_600 {
        format!("{} min {} s", secs / 60, secs % 60)
    } else {
        format!("{} h {} min", secs / 3_600, secs / 60 % 60)
    }
}
