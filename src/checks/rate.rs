//! How much counters grew over a time, through restarts of the process that counts.
//!
//! - A counter that fell began anew at zero: what it shows was counted since.
//! - A counter that was not on the page before begins at zero, too: clients make one at its first use. One that is
//!   missing from a page (a worker that answers late) is remembered, so that its return is no growth.
//! - Where *everything* fell, the process is a new one, and the window begins with it: nothing of the old life is
//!   held against the new one.
//! - After a time without a page that is as long as the window, the growth in between is nobody's knowledge.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::engine::time::Time;
use crate::exposition::{Labels, MAX_SERIES, Series};

/// Points kept of a window.
const POINTS: u32 = 64;

/// The growth of some counters, taken together.
#[derive(Debug)]
pub(super) struct Increase {
    over: Duration,
    /// Each counter as it was last seen.
    before: BTreeMap<Labels, f64>,
    /// The growth since the window began, at some times of it: the first is the youngest that is `over` old, if
    /// there is one, and the last that of the last page.
    points: VecDeque<(Time, f64)>,
}

/// What is known of the growth.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Grown {
    /// Nothing: one page says nothing about growth.
    NotYet,
    /// By so much.
    By {
        /// In counts.
        by: f64,
        /// In so long; less than the window if it is not yet full, a bit more if it is.
        seen: Duration,
    },
}

impl Grown {
    /// A second, as if a window that is not yet full went on without growth.
    pub(super) fn rate(self, over: Duration) -> f64 {
        match self {
            Self::NotYet => 0.0,
            Self::By { by, seen } => by / seen.max(over).as_secs_f64(),
        }
    }
}

impl Increase {
    pub(super) fn over(over: Duration) -> Self {
        Self {
            over,
            before: BTreeMap::new(),
            points: VecDeque::new(),
        }
    }

    /// Takes in a page.
    pub(super) fn take(&mut self, now: Time, series: Vec<Series>) -> Grown {
        let last = self.points.back().copied();
        match last {
            Some((at, _)) if now.since(at) > self.over => self.forget(),
            Some((at, _)) if self.all_fell(&series) => {
                self.forget();
                self.before = series.iter().map(|one| (one.labels.clone(), 0.0)).collect();
                self.points.push_back((at, 0.0));
            }
            _ => {}
        }
        let total = self.points.back().map_or(0.0, |(_, total)| *total);
        let first = self.points.is_empty();
        let growth: f64 = series.into_iter().map(|one| self.growth(one)).sum();
        self.keep(now, if first { 0.0 } else { total + growth });
        match (self.points.front(), self.points.back()) {
            (Some((from, was)), Some((to, is))) if from != to => Grown::By {
                by: is - was,
                seen: to.since(*from),
            },
            _ => Grown::NotYet,
        }
    }

    fn forget(&mut self) {
        self.before.clear();
        self.points.clear();
    }

    /// At least one counter fell, and none that had counted went on.
    fn all_fell(&self, series: &[Series]) -> bool {
        let known = || {
            series
                .iter()
                .filter_map(|one| Some((one.value, *self.before.get(&one.labels)?)))
        };
        known().any(|(is, was)| is < was) && !known().any(|(is, was)| is >= was && was > 0.0)
    }

    fn growth(&mut self, one: Series) -> f64 {
        let is = one.value;
        let was = match self.before.get_mut(&one.labels) {
            Some(before) => std::mem::replace(before, is),
            None => {
                if self.before.len() < MAX_SERIES {
                    self.before.insert(one.labels, is);
                }
                0.0
            }
        };
        if is < was { is } else { is - was }
    }

    fn keep(&mut self, now: Time, total: f64) {
        let spacing = self.over / POINTS;
        // The last point may move on while the one before it is near: that bounds their number.
        let crowded = self.points.len() >= 2
            && (self.points.get(self.points.len() - 2)).is_some_and(|(at, _)| now.since(*at) < spacing);
        if crowded {
            self.points.pop_back();
        }
        self.points.push_back((now, total));
        while (self.points.get(1)).is_some_and(|(at, _)| now.since(*at) >= self.over) {
            self.points.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn page(values: &[(&str, f64)]) -> Vec<Series> {
        let one = |(name, value): &(&str, f64)| Series {
            labels: vec![("worker".into(), (*name).into())],
            value: *value,
        };
        values.iter().map(one).collect()
    }

    fn at(seconds: u64) -> Time {
        Time::from_origin(Duration::from_secs(seconds))
    }

    fn by(by: f64, seen: u64) -> Grown {
        let seen = Duration::from_secs(seen);
        Grown::By { by, seen }
    }

    #[test]
    fn growth_is_counted_over_the_window_and_no_longer() {
        let mut increase = Increase::over(Duration::from_secs(10));
        assert_eq!(increase.take(at(0), page(&[("a", 1000.0)])), Grown::NotYet);
        assert_eq!(increase.take(at(5), page(&[("a", 1100.0)])), by(100.0, 5));
        assert_eq!(increase.take(at(10), page(&[("a", 1100.0)])), by(100.0, 10));
        assert_eq!(increase.take(at(15), page(&[("a", 1101.0)])), by(1.0, 10));
        // Nobody looked for longer than the window.
        assert_eq!(increase.take(at(26), page(&[("a", 9999.0)])), Grown::NotYet);
    }

    #[test]
    fn one_that_fell_appeared_or_was_missing_makes_no_jump() {
        let mut increase = Increase::over(Duration::from_secs(60));
        increase.take(at(0), page(&[("a", 1000.0), ("b", 500.0)]));
        // b's worker was replaced.
        assert_eq!(
            increase.take(at(1), page(&[("a", 1001.0), ("b", 2.0)])),
            by(3.0, 1)
        );
        // b is late, c is new.
        assert_eq!(
            increase.take(at(2), page(&[("a", 1001.0), ("c", 4.0)])),
            by(7.0, 2)
        );
        assert_eq!(
            increase.take(at(3), page(&[("a", 1001.0), ("b", 2.0), ("c", 4.0)])),
            by(7.0, 3)
        );
    }

    #[test]
    fn a_new_life_begins_a_new_window() {
        let mut increase = Increase::over(Duration::from_secs(60));
        increase.take(at(0), page(&[("a", 0.0), ("b", 500.0), ("c", 0.0)]));
        assert_eq!(
            increase.take(at(50), page(&[("a", 90.0), ("b", 590.0), ("c", 0.0)])),
            by(180.0, 50)
        );
        assert_eq!(
            increase.take(at(52), page(&[("a", 1.0), ("b", 0.0), ("c", 0.0)])),
            by(1.0, 2)
        );
        assert_eq!(
            increase.take(at(53), page(&[("a", 3.0), ("b", 0.0), ("c", 0.0)])),
            by(3.0, 3)
        );
    }

    proptest! {
        /// Whatever a page says, growth is never negative or without end, and memory is bounded.
        #[test]
        fn growth_is_never_negative(pages in proptest::collection::vec(
            (0u64..200, proptest::collection::vec((0u8..4, 0.0f64..1e12), 0..4)), 1..200)) {
            let mut increase = Increase::over(Duration::from_secs(60));
            let mut now = 0;
            for (wait, values) in pages {
                now += wait / 4;
                let one = |(name, value): (u8, f64)| Series { labels: vec![("w".into(), name.to_string())], value };
                let grown = increase.take(at(now), values.into_iter().map(one).collect());
                if let Grown::By { by, .. } = grown {
                    prop_assert!(by >= 0.0 && by.is_finite());
                }
                prop_assert!(increase.points.len() <= POINTS as usize + 3, "{}", increase.points.len());
            }
        }
    }
}
