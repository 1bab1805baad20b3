//! The `metric` check: a number that the application tells of itself, or how fast one grows, against a bound.

use std::sync::Arc;
use std::time::Duration;

use super::active::Prober;
use super::page::Exposed;
use super::rate::{Grown, Increase};
use crate::engine::cause::Cause;
use crate::engine::event::Outcome;
use crate::engine::time::Clock;
use crate::exposition::{Kind, Page};
use crate::telemetry::metrics::checks::CheckKind;

/// What is read, and what it must be.
#[derive(Clone, Debug, PartialEq)]
pub struct Metric {
    /// The series.
    pub page: Exposed,
    /// What is made of several.
    pub aggregate: Aggregate,
    /// Their growth a second over this time is judged, and not their value. Only sums are.
    pub rate_over: Option<Duration>,
    /// What the number must be.
    pub bound: Bound,
}

/// What is made of several series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aggregate {
    /// All together, as of the workers of one application.
    Sum,
    /// The largest: `below` then holds for each.
    Max,
    /// The smallest: `above` then holds for each.
    Min,
}

/// What a number must be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bound {
    /// More than this.
    Above(f64),
    /// Less than this.
    Below(f64),
}

/// Asks, and remembers what a rate needs.
pub(super) struct Measure {
    metric: Metric,
    clock: Arc<dyn Clock>,
    increase: Increase,
}

impl Measure {
    pub(super) fn new(metric: Metric, clock: Arc<dyn Clock>) -> Self {
        let increase = Increase::over(metric.rate_over.unwrap_or_default());
        Self {
            metric,
            clock,
            increase,
        }
    }

    /// A metric that was not used since the process began is 0, and may pass as that: or no restart would be proven
    /// before its first use. But it is not blamed on the peer.
    fn judge(&mut self, page: Page) -> Outcome {
        let unused = page.is_unused();
        match self.judge_number(page) {
            Outcome::Fail { detail, .. } if unused => unknown(format!("{detail}; but it has no series yet")),
            judged => judged,
        }
    }

    fn judge_number(&mut self, seen: Page) -> Outcome {
        let Metric {
            page,
            aggregate,
            rate_over,
            bound,
        } = &self.metric;
        let name = &page.series;
        let Some(over) = *rate_over else {
            let value = aggregate.of(seen.series.iter().map(|series| series.value));
            return bound.judge(value, &format!("{name} is"));
        };
        if seen.kind == Some(Kind::Gauge) {
            return unknown(format!("{name} is no counter: leave rate_over out"));
        }
        let counts = |value: f64| value.is_finite() && value >= 0.0;
        if !seen.series.iter().all(|series| counts(series.value)) {
            return unknown(format!("{name} is infinite or negative, which no counter is"));
        }
        let grown = self.increase.take(self.clock.now(), seen.series);
        bound.judge_rate(grown, over, &format!("{name} grows a second by"))
    }
}

impl Prober for Measure {
    const KIND: CheckKind = CheckKind::Metric;

    async fn look(&mut self, within: Duration) -> Outcome {
        match self.metric.page.read(within).await {
            Ok(seen) => self.judge(seen),
            Err(unread) => unknown(unread.into()),
        }
    }
}

fn unknown(detail: String) -> Outcome {
    Outcome::Unknown { detail }
}

impl Aggregate {
    /// 0 of none.
    fn of(self, values: impl Iterator<Item = f64>) -> f64 {
        let one = match self {
            Self::Sum => values.reduce(|a, b| a + b),
            Self::Max => values.reduce(f64::max),
            Self::Min => values.reduce(f64::min),
        };
        one.unwrap_or(0.0)
    }
}

impl Bound {
    fn judge(self, value: f64, what: &str) -> Outcome {
        let (met, wanted) = match self {
            // +Inf and -Inf together are no sum.
            _ if value.is_nan() => return unknown(format!("{what} not a number")),
            Self::Above(bound) => (value > bound, format!("above {bound}")),
            Self::Below(bound) => (value < bound, format!("below {bound}")),
        };
        if met {
            return Outcome::Pass;
        }
        Outcome::Fail {
            cause: Cause::PeerStuck,
            detail: format!("{what} {value}, not {wanted}"),
        }
    }

    /// A window that is not yet full counts as if nothing more came: enough to prove that a rate is not below its
    /// bound, or that it is above it. A new life has spent none of what `below` allows; that it does not
    /// reach what `above` asks for, only a full window can tell.
    fn judge_rate(self, grown: Grown, over: Duration, what: &str) -> Outcome {
        let seen = match grown {
            Grown::NotYet => return unknown("a rate needs a second look".into()),
            Grown::By { seen, .. } => seen,
        };
        let rate = grown.rate(over);
        match (self, self.judge(rate, what)) {
            (Self::Above(_), Outcome::Fail { .. }) if seen < over => unknown(format!(
                "{what} {rate} so far; {seen:.1?} of {over:?} have been seen"
            )),
            (_, judged) => judged,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_series_make_one_number() {
        let of = |aggregate: Aggregate| aggregate.of([3.0, -1.0, 5.0].into_iter());
        let all = [Aggregate::Sum, Aggregate::Max, Aggregate::Min].map(of);
        assert_eq!(all.map(f64::to_bits), [7.0f64, 5.0, -1.0].map(f64::to_bits));
    }

    #[test]
    fn a_bound_is_not_met_by_itself_and_no_sum_of_infinities_is_judged() {
        let is = |bound: Bound, value| match bound.judge(value, "it is") {
            Outcome::Pass => "pass".to_owned(),
            Outcome::Fail { detail, .. } | Outcome::Doubt { detail, .. } | Outcome::Unknown { detail } => {
                detail
            }
        };
        assert_eq!(is(Bound::Below(5.0), 4.9), "pass");
        assert_eq!(is(Bound::Below(5.0), 5.0), "it is 5, not below 5");
        assert_eq!(is(Bound::Above(0.0), 0.0), "it is 0, not above 0");
        assert_eq!(is(Bound::Above(0.0), f64::INFINITY), "pass");
        assert_eq!(
            is(Bound::Above(0.0), f64::INFINITY - f64::INFINITY),
            "it is not a number"
        );
    }

    #[test]
    fn a_window_in_part_proves_what_it_can() {
        let over = Duration::from_secs(60);
        let judged = |bound: Bound, by: f64, seen| {
            let seen = Duration::from_secs(seen);
            match bound.judge_rate(Grown::By { by, seen }, over, "it grows by") {
                Outcome::Pass => '+',
                Outcome::Fail { .. } => '-',
                Outcome::Unknown { .. } | Outcome::Doubt { .. } => '?',
            }
        };
        let (below, above) = (Bound::Below(1.0), Bound::Above(1.0));
        // 59 in a second are within what a minute allows; 60 are not, however the minute goes on.
        assert_eq!((judged(below, 59.0, 1), judged(below, 60.0, 1)), ('+', '-'));
        assert_eq!((judged(above, 0.0, 59), judged(above, 61.0, 1)), ('?', '+'));
        assert_eq!((judged(above, 60.0, 60), judged(above, 61.0, 60)), ('-', '+'));
    }
}
