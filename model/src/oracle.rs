//! What must hold, whatever happens: judged by what was really done to the targets, not by what a node believes.

use std::time::Duration;

use crate::engine::decision::{Grant, Notice, What};
use crate::engine::event::Incarnation;
use crate::engine::guards::GuardName;
use crate::engine::time::Time;
use crate::setting::{self, Kind, TARGETS};

/// A remedy that was carried out.
#[derive(Clone, Debug)]
pub struct Act {
    pub node: usize,
    pub target: usize,
    pub life: Incarnation,
    pub number: u32,
    pub rung: u16,
    pub token: u64,
    pub granted: Time,
    pub at: Time,
}

/// The invariants, by the names of the checker's properties.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Broken {
    /// One permission was used twice.
    OnceAGrant,
    /// A node carried out a rung twice on one life; or, while Redis kept what it was told, the group did.
    OnceARung,
    /// A life that never failed was touched.
    HealthyLife,
    /// A node went past its own budget or its own spacing, whatever Redis said.
    LocalFloor,
    /// The group did, although Redis kept what it was told.
    GroupBudget,
    /// A remedy was granted although Redis had been away for long enough to notice, or was back only for a moment.
    Outage,
    /// Both fell silent together, and one was touched before its time, or both at once.
    MassSilence,
}

/// So long an outage may go unnoticed: a PING has its time, and a request under way its answer.
const NOTICED: Duration = Duration::from_millis(3500);

/// A silence begins with the last heartbeat, up to an interval before the failure.
const LAST_BEAT: Duration = Duration::from_secs(1);

#[derive(Clone, Debug)]
pub struct Oracle {
    kind: Kind,
    acts: Vec<Act>,
    failed: [Vec<u32>; TARGETS],
    failed_at: [Option<Time>; TARGETS],
    away: Option<Time>,
    back: Option<Time>,
    pub group_is_honest: bool,
    pub broken: Vec<Broken>,
    pub held_by_group: bool,
    pub held_by_breaker: bool,
    pub recovered: bool,
    pub gave_up: bool,
}

impl Oracle {
    pub fn new(kind: Kind) -> Self {
        Self {
            kind,
            acts: Vec::new(),
            failed: Default::default(),
            failed_at: [None; TARGETS],
            away: None,
            back: None,
            group_is_honest: true,
            broken: Vec::new(),
            held_by_group: false,
            held_by_breaker: false,
            recovered: false,
            gave_up: false,
        }
    }

    pub fn redis_away(&mut self, now: Time) {
        self.away = Some(now);
        self.back = None;
    }

    pub fn redis_back(&mut self, now: Time) {
        self.back = Some(now);
    }

    pub fn failed(&mut self, target: usize, life: u32, now: Time) {
        self.failed[target].push(life);
        self.failed_at[target] = Some(now);
    }

    pub fn well(&mut self, target: usize) {
        self.failed_at[target] = None;
    }

    pub fn granted(&mut self, _node: usize, _grant: &Grant, now: Time, redis_up: bool) {
        let away = self.away.filter(|_| !redis_up);
        let noticed = away.is_some_and(|since| now.since(since) > NOTICED);
        // Who noticed waits for the settling time; a short outage may go unnoticed.
        let long = self
            .away
            .zip(self.back)
            .is_some_and(|(away, back)| back.since(away) > NOTICED);
        let settling = self
            .back
            .is_some_and(|back| long && now.since(back) < setting::SETTLE);
        self.must(!noticed && !settling, Broken::Outage);
    }

    pub fn acted(&mut self, act: Act) {
        let same = |other: &&Act| other.target == act.target;
        let own = |other: &&Act| other.node == act.node;
        let within = |length: Duration| move |other: &&Act| act.at.since(other.at) < length;
        let once = !self
            .acts
            .iter()
            .any(|other| other.node == act.node && other.token == act.token);
        let on_life =
            |other: &&Act| other.target == act.target && other.life == act.life && other.rung == act.rung;
        let group = self.group_is_honest;
        let rung = !self
            .acts
            .iter()
            .filter(on_life)
            .any(|other| group || other.node == act.node);
        let budget = |by: &dyn Fn(&&Act) -> bool| {
            let spent = self
                .acts
                .iter()
                .filter(same)
                .filter(within(setting::WINDOW))
                .filter(by)
                .count();
            // From permission to permission: how long an executor takes is its own affair, within its deadline.
            let close = |other: &&Act| {
                act.granted
                    .since(other.granted)
                    .max(other.granted.since(act.granted))
                    < setting::SPACING
            };
            let spaced = self.acts.iter().filter(close).filter(by).count();
            spent < setting::COUNT as usize && spaced == 0
        };
        let (floor, whole) = (budget(&own), budget(&|_| true));
        let ill = self.failed[act.target].contains(&act.number);
        let together = self.kind == Kind::Remote && self.mass(act.granted);
        self.must(once, Broken::OnceAGrant);
        self.must(rung, Broken::OnceARung);
        self.must(floor, Broken::LocalFloor);
        self.must(whole || !group, Broken::GroupBudget);
        self.must(ill, Broken::HealthyLife);
        self.must(!together, Broken::MassSilence);
        self.acts.push(act);
    }

    /// Both fell silent together, for long enough to be noticed, and the first canary's time has not come.
    fn mass(&self, granted: Time) -> bool {
        match self.failed_at {
            [Some(a), Some(b)] => {
                let (first, last) = (a.min(b), a.max(b));
                let silent = granted.since(last);
                let noticed = silent > setting::SUSPECT + LAST_BEAT;
                last.since(first) < setting::PASS
                    && noticed
                    && silent + LAST_BEAT < setting::SUSPECT + setting::CANARY
            }
            _ => false,
        }
    }

    pub fn notice(&mut self, _node: usize, notice: &Notice) {
        match &notice.what {
            What::Refused { refusal, .. } => {
                self.held_by_group |= refusal.guard == GuardName::FleetLease;
                self.held_by_breaker |= refusal.guard == GuardName::MassSilence;
            }
            What::Recovered { remedies, .. } => self.recovered |= *remedies > 0,
            What::GaveUp { .. } => self.gave_up = true,
            _ => {}
        }
    }

    fn must(&mut self, holds: bool, broken: Broken) {
        if !holds && !self.broken.contains(&broken) {
            self.broken.push(broken);
        }
    }
}
