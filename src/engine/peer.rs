//! A peer: its liveness, the one table of its transitions, and what is kept about it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::cause::Cause;
use super::episode::Episode;
use super::event::Incarnation;
use super::evidence::{Check, Verdict};
use super::report::{Earlier, Leaving};
use super::settings::{Budget, PeerSettings};
use super::time::Time;

/// What the engine holds a peer to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Liveness {
    /// Nothing can be said: never seen, not expected, on hold, or the measurement failed. Not dead.
    #[default]
    Unknown,
    /// It gave proof of life, recently enough.
    Alive,
    /// Overdue, or failing, and not long enough to condemn.
    Suspect,
    /// Condemned: by its own exit, by failed checks, or by silence that our echoes cover.
    Dead,
}

impl Liveness {
    /// Every state, in the order of the table.
    pub const ALL: [Self; 4] = [Self::Unknown, Self::Alive, Self::Suspect, Self::Dead];

    /// As written in labels and messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Alive => "alive",
            Self::Suspect => "suspect",
            Self::Dead => "dead",
        }
    }
}

impl fmt::Display for Liveness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Liveness {
    /// The transition table: what becomes of a peer held to be `self` when its checks together say `judged`.
    pub(super) const fn next(self, judged: Self) -> Self {
        match (self, judged) {
            // Nothing new.
            (Self::Unknown, Self::Unknown) => Self::Unknown,
            (Self::Alive, Self::Alive) => Self::Alive,
            (Self::Suspect, Self::Suspect) => Self::Suspect,
            (Self::Dead, Self::Dead) => Self::Dead,
            // Proof of life settles everything at once.
            (Self::Unknown | Self::Suspect | Self::Dead, Self::Alive) => Self::Alive,
            // Grounds to doubt what was believed, or was not known.
            (Self::Unknown | Self::Alive, Self::Suspect) => Self::Suspect,
            // A witnessed exit, or failures enough at once, need no suspicion before.
            (Self::Unknown | Self::Alive | Self::Suspect, Self::Dead) => Self::Dead,
            // Who is condemned is not half pardoned: one success among failures makes nobody less dead.
            (Self::Dead, Self::Suspect) => Self::Dead,
            // The evidence is on hold, or withdrawn: unknown is not dead.
            (Self::Alive | Self::Suspect | Self::Dead, Self::Unknown) => Self::Unknown,
        }
    }
}

/// A pause in force.
#[derive(Clone, Debug)]
pub(super) struct Pause {
    pub(super) reason: String,
    pub(super) by: String,
    pub(super) until: Option<Time>,
}

/// What was done to a peer, as far as it limits what may be done next.
#[derive(Clone, Debug, Default)]
pub(super) struct Ledger {
    /// For each restart, when it stops counting. Ascending.
    counts_until: VecDeque<Time>,
    /// How often the backoff has doubled.
    pub(super) level: u32,
    /// The backoff's end.
    pub(super) not_before: Option<Time>,
    /// Rungs used, and on which life. The oldest go first.
    pub(super) done: VecDeque<(Incarnation, u16)>,
}

/// Done-marks that are kept for each peer; more than any budget allows within its window.
const DONE_MARKS: usize = 32;

/// The rung of a remedy at work that the ladder has no longer.
const NO_RUNG: u16 = u16::MAX;

impl Ledger {
    /// A restart that counts until then.
    pub(super) fn charge(&mut self, counts_until: Time) {
        let place = self.counts_until.partition_point(|until| *until <= counts_until);
        self.counts_until.insert(place, counts_until);
    }

    pub(super) fn spent(&self, now: Time) -> u32 {
        let past = self.counts_until.partition_point(|until| *until <= now);
        u32::try_from(self.counts_until.len() - past).unwrap_or(u32::MAX)
    }

    /// When the first of the restarts that count now stops counting.
    pub(super) fn first_free(&self, now: Time) -> Option<Time> {
        self.counts_until.iter().copied().find(|until| *until > now)
    }

    /// What is left of each restart's time.
    pub(super) fn left(&self, now: Time) -> Vec<Duration> {
        self.counts_until
            .iter()
            .filter(|until| **until > now)
            .map(|until| until.since(now))
            .collect()
    }

    /// As if every restart had been used up at `at`.
    pub(super) fn spend(&mut self, budget: Budget, at: Time, now: Time) {
        let until = at + budget.window;
        if now < until {
            for _ in 0..budget.count {
                self.charge(until);
            }
        }
    }

    /// A restart counts for another time from now on: also one that was.
    pub(super) fn rewindow(&mut self, before: Duration, window: Duration) {
        for until in &mut self.counts_until {
            *until = *until - before + window;
        }
    }

    /// Rungs have other numbers now; those that are no more take their marks with them.
    pub(super) fn renumber(&mut self, rung_now: impl Fn(u16) -> Option<u16>) {
        let done = std::mem::take(&mut self.done).into_iter();
        self.done = done
            .filter_map(|(life, rung)| Some((life, rung_now(rung)?)))
            .collect();
    }

    /// The latest charge is taken back: nothing was touched.
    pub(super) fn refund(&mut self) {
        self.counts_until.pop_back();
    }

    pub(super) fn expire(&mut self, now: Time) {
        while self.counts_until.front().is_some_and(|until| *until <= now) {
            self.counts_until.pop_front();
        }
    }

    pub(super) fn is_done(&self, incarnation: &Incarnation, rung: u16) -> bool {
        self.done
            .iter()
            .any(|(life, used)| life == incarnation && *used == rung)
    }

    pub(super) fn mark_done(&mut self, incarnation: Incarnation, rung: u16) {
        if self.done.len() == DONE_MARKS {
            self.done.pop_front();
        }
        self.done.push_back((incarnation, rung));
    }

    pub(super) fn unmark(&mut self, incarnation: &Incarnation, rung: u16) {
        self.done
            .retain(|(life, used)| life != incarnation || *used != rung);
    }
}

/// A peer, as the engine keeps it.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub(super) liveness: Liveness,
    pub(super) since: Time,
    pub(super) cause: Option<Cause>,
    /// Index of the check that decided, and its grounds.
    pub(super) because: Option<(u16, Verdict)>,
    pub(super) checks: Vec<Check>,
    pub(super) incarnation: Option<Incarnation>,
    pub(super) incarnations: u64,
    /// This life's end was witnessed, and no other life has appeared.
    pub(super) exited: bool,
    /// And its own supervisor is bringing it back.
    pub(super) restarting: bool,
    /// And that was while nothing may be done: taken for on purpose.
    pub(super) exited_under_pause: bool,
    /// Nothing of it ran when its owner was looked for.
    pub(super) absent: bool,
    /// It said that it leaves on purpose, and nothing has undone that.
    pub(super) leaving: Option<Leaving>,
    /// Lives that spoke for it before this one, the latest first.
    pub(super) earlier: Vec<Earlier>,
    pub(super) grace_until: Time,
    /// It has been alive without a break since then.
    pub(super) alive_since: Option<Time>,
    /// How long it had been alive when it was condemned.
    pub(super) lived_for: Option<Duration>,
    /// The life that a remedy was taking down when an earlier run of this node ended.
    pub(super) taken_down: Option<Incarnation>,
    pub(super) pause: Option<Pause>,
    pub(super) episode: Option<Episode>,
    pub(super) ledger: Ledger,
    /// In a dry run that began while the node ran: what had really been done before.
    pub(super) real: Option<Ledger>,
    /// `/healthz/{peer}` answers 503 until then.
    pub(super) pulse_until: Option<Time>,
    pub(super) granted: u64,
}

impl Peer {
    pub(super) fn new(settings: &PeerSettings, now: Time) -> Self {
        Self {
            liveness: Liveness::Unknown,
            since: now,
            cause: None,
            because: None,
            checks: settings
                .checks
                .iter()
                .map(|check| Check::new(check, settings.grace, now))
                .collect(),
            incarnation: None,
            incarnations: 0,
            exited: false,
            restarting: false,
            exited_under_pause: false,
            absent: false,
            leaving: None,
            earlier: Vec::new(),
            grace_until: now,
            alive_since: None,
            lived_for: None,
            taken_down: None,
            pause: None,
            episode: None,
            ledger: Ledger::default(),
            real: None,
            pulse_until: None,
            granted: 0,
        }
    }

    /// Its checks and rungs have other numbers now: `is_now` of each check that is still there.
    pub(super) fn renumber(&mut self, is_now: &BTreeMap<u16, u16>, rung_now: impl Fn(u16) -> Option<u16>) {
        let checks = |of: &BTreeSet<u16>| of.iter().filter_map(|was| is_now.get(was).copied()).collect();
        self.because = self
            .because
            .and_then(|(was, verdict)| Some((*is_now.get(&was)?, verdict)));
        self.ledger.renumber(&rung_now);
        if let Some(real) = &mut self.real {
            real.renumber(&rung_now);
        }
        let Some(episode) = &mut self.episode else { return };
        episode.condemned = checks(&episode.condemned);
        episode.against = checks(&episode.against);
        episode.failed = episode.failed.iter().filter_map(|was| rung_now(*was)).collect();
        if let Some(remedy) = &mut episode.remedy {
            remedy.rung = rung_now(remedy.rung).unwrap_or(NO_RUNG);
        }
        if let Some(wish) = &mut episode.wish {
            wish.rung = rung_now(wish.rung).unwrap_or(NO_RUNG);
        }
    }

    pub(super) fn check(&self, index: u16) -> Option<&Check> {
        self.checks.get(usize::from(index))
    }

    /// The life that is judged, or what stands for it where nothing tells one from the next.
    pub(super) fn life(&self) -> Incarnation {
        self.incarnation
            .clone()
            .unwrap_or_else(|| Incarnation("none".into()))
    }

    pub(super) fn ever_alive(&self) -> bool {
        self.checks.iter().any(|check| check.ever_passed)
    }

    pub(super) fn last_life(&self) -> Option<Time> {
        self.checks.iter().filter_map(|check| check.last_pass).max()
    }

    /// How long after an own pause none of these checks may be believed.
    pub(super) fn fresh_window(&self, checks: &BTreeSet<u16>) -> Duration {
        checks
            .iter()
            .filter_map(|index| self.check(*index))
            .map(Check::fresh_window)
            .max()
            .unwrap_or_default()
    }
}
