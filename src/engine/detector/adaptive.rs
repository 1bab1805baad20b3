//! Detectors that learn: what silence is unusual for this peer, on this way. Between a floor and a ceiling, which
//! hold whatever was learned; with no heartbeat learned yet, the ceiling is what holds.
//!
//! Bounds are worked out when a heartbeat arrives and are two numbers afterwards, so nothing that is asked of a
//! detector can depend on when or how often it is asked.

use std::time::Duration;

use super::super::settings::{Bounds, ChenSettings, PhiSettings};
use super::super::time::Time;
use super::arrivals::{Arrivals, Sent, micros, whole};
use super::tail::deviations;

/// The prior is worth so many samples, and each real one takes the place of one of them.
const PRIOR: u16 = 30;

/// One check's expectation of its peer, and what it holds to be too long.
#[derive(Clone, Debug)]
pub(super) struct Adaptive {
    arrivals: Arrivals,
    bounds: Bounds,
    prior: u16,
    rule: Rule,
    suspect_after: Duration,
    dead_after: Duration,
}

/// How far beyond the expected arrival is too far.
#[derive(Clone, Debug)]
enum Rule {
    /// As many standard deviations as make it so improbable (Hayashibara et al. 2004).
    Phi {
        suspect: f64,
        dead: f64,
        pause: f64,
        min_deviation: f64,
    },
    /// So long (Chen, Toueg, Aguilera 2002, NFD-E). In microseconds.
    Chen { suspect: f64, dead: f64 },
}

impl Adaptive {
    pub(super) fn phi(settings: PhiSettings) -> Self {
        let rule = Rule::Phi {
            suspect: deviations(settings.suspect),
            dead: deviations(settings.dead),
            pause: f64::from(micros(settings.pause)),
            min_deviation: f64::from(micros(settings.min_deviation)).max(1.0),
        };
        Self::new(settings.bounds, rule)
    }

    pub(super) fn chen(settings: ChenSettings) -> Self {
        let rule = Rule::Chen {
            suspect: f64::from(micros(settings.margin)),
            dead: f64::from(micros(settings.dead_margin)),
        };
        Self::new(settings.bounds, rule)
    }

    fn new(bounds: Bounds, rule: Rule) -> Self {
        Self {
            arrivals: Arrivals::new(bounds.window),
            bounds,
            prior: PRIOR.min(bounds.window).max(1),
            rule,
            suspect_after: bounds.suspect_after,
            dead_after: bounds.dead_after,
        }
    }

    pub(super) fn arrived(&mut self, at: Time, sent: Option<Sent>, unbroken: bool) {
        self.arrivals.arrived(at, sent, unbroken);
        self.work_out();
    }

    pub(super) fn new_life(&mut self) {
        self.arrivals.new_life();
        self.work_out();
    }

    pub(super) fn suspect_after(&self) -> Duration {
        self.suspect_after
    }

    pub(super) fn dead_after(&self) -> Duration {
        self.dead_after
    }

    pub(super) fn samples(&self) -> u16 {
        self.arrivals.count()
    }

    fn work_out(&mut self) {
        let interval = self
            .bounds
            .interval
            .max(self.arrivals.interval().unwrap_or_default());
        let within = |learned: Duration, intervals: u32, ceiling: Duration| {
            learned.max(interval.saturating_mul(intervals)).min(ceiling)
        };
        let variance = self.arrivals.variance();
        let (suspect, dead) = match self.rule {
            Rule::Phi { suspect, dead, .. } | Rule::Chen { suspect, dead } => (suspect, dead),
        };
        self.suspect_after = within(
            self.silence(suspect, variance, self.bounds.suspect_after),
            FLOOR,
            self.bounds.suspect_after,
        );
        self.dead_after = within(
            self.silence(dead, variance, self.bounds.dead_after),
            DEAD_FLOOR,
            self.bounds.dead_after,
        )
        .max(self.suspect_after);
    }

    /// The silence that is too long by `measure` (deviations, or a margin). The ceiling until there is a sample.
    fn silence(&self, measure: f64, variance: f64, ceiling: Duration) -> Duration {
        let count = self.arrivals.count().min(self.prior);
        let (Some(next), 1..) = (self.arrivals.next_after(), count) else {
            return ceiling;
        };
        let learned = f64::from(count) / f64::from(self.prior);
        let most = f64::from(micros(ceiling));
        let silence = match self.rule {
            Rule::Phi {
                pause, min_deviation, ..
            } => {
                // A prior under which the ceiling is just as improbable as what is asked for.
                let wide = ((most - next - pause) / measure.max(1e-3)).max(min_deviation);
                let variance = variance * learned + wide * wide * (1.0 - learned);
                next + pause + measure * variance.sqrt().max(min_deviation)
            }
            Rule::Chen { .. } => (next + measure) * learned + most * (1.0 - learned),
        };
        if silence.is_finite() {
            Duration::from_micros(whole(silence))
        } else {
            ceiling
        }
    }
}

/// Never suspect before so many intervals: a single lost message says nothing.
const FLOOR: u32 = 2;
/// Never dead before so many.
const DEAD_FLOOR: u32 = 5;
