//! How steadily something grows.
//!
//! The growth in a window is the length of the window times the *smaller* of two slopes, those of its older and its
//! newer half. A slope is the median of the slopes between every two samples (Theil-Sen). So
//! - what a garbage collector lets pile up and takes back is no growth: up to 29 % of the samples may lie anywhere;
//! - one step (a cache that was filled) lies in one half, and is no growth;
//! - a leak is, in both.

use std::collections::VecDeque;
use std::time::Duration;

use crate::engine::time::Time;

/// Samples kept of a window.
const SAMPLES: u32 = 64;

/// The samples of one life.
#[derive(Debug)]
pub(super) struct Trend {
    over: Duration,
    samples: VecDeque<(Time, u64)>,
    full: bool,
}

/// What is known of the growth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Growing {
    /// The window is not yet full.
    SoFar {
        /// Since the first sample.
        by: u64,
        /// How long ago that was.
        seen: Duration,
    },
    /// By so much in a window; 0 if it shrinks.
    Steadily {
        /// In bytes.
        by: u64,
    },
}

impl Trend {
    pub(super) fn over(over: Duration) -> Self {
        let samples = VecDeque::new();
        let full = false;
        Self { over, samples, full }
    }

    /// Takes in a sample. One that comes sooner than a 64th of the window after the last is judged and not kept.
    pub(super) fn take(&mut self, now: Time, value: u64) -> Growing {
        let spacing = self.over / SAMPLES;
        if self
            .samples
            .back()
            .is_none_or(|(at, _)| now.since(*at) >= spacing)
        {
            self.samples.push_back((now, value));
        }
        while self
            .samples
            .front()
            .is_some_and(|(at, _)| now.since(*at) > self.over)
        {
            self.samples.pop_front();
            self.full = true;
        }
        match self.samples.front() {
            Some((at, was)) if !self.full => Growing::SoFar {
                by: value.saturating_sub(*was),
                seen: now.since(*at),
            },
            _ => Growing::Steadily { by: self.growth() },
        }
    }

    fn growth(&self) -> u64 {
        let (old, new) = self.samples.as_slices();
        let all: Vec<(Time, u64)> = [old, new].concat();
        let (older, newer) = all.split_at(all.len() / 2);
        let slope = slope(older).min(slope(newer));
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a cast from a float saturates"
        )]
        let by = (slope * self.over.as_secs_f64()) as u64;
        by
    }
}

/// The median slope, a second; 0 of fewer than three samples.
fn slope(samples: &[(Time, u64)]) -> f64 {
    let mut slopes = Vec::with_capacity(samples.len() * samples.len() / 2);
    for (index, (from, was)) in samples.iter().enumerate() {
        for (to, is) in samples.iter().skip(index + 1) {
            let seconds = to.since(*from).as_secs_f64();
            if seconds > 0.0 {
                slopes.push((*is as f64 - *was as f64) / seconds);
            }
        }
    }
    let middle = slopes.len() / 2;
    if samples.len() < 3 || slopes.is_empty() {
        return 0.0;
    }
    *slopes.select_nth_unstable_by(middle, f64::total_cmp).1
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIB: f64 = 1_048_576.0;

    /// What is known after 20 minutes of a sample a second, and a window of 10 minutes: in MiB.
    fn grown(mib_at: impl Fn(f64) -> f64) -> f64 {
        let mut trend = Trend::over(Duration::from_secs(600));
        let mut last = Growing::Steadily { by: 0 };
        for second in 0..1200u32 {
            #[allow(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "small and positive"
            )]
            let bytes = (mib_at(f64::from(second)) * MIB) as u64;
            last = trend.take(Time::from_origin(Duration::from_secs(second.into())), bytes);
        }
        assert!(trend.samples.len() <= SAMPLES as usize + 1);
        match last {
            Growing::Steadily { by } => by as f64 / MIB,
            Growing::SoFar { .. } => panic!("{last:?}"),
        }
    }

    #[test]
    fn a_leak_grows_and_what_is_given_back_does_not() {
        // A saw and the samples have a beat: that is the tolerance.
        let near = |is: f64, wanted: f64| assert!((is - wanted).abs() < 10.0, "{is}, not {wanted}");
        near(grown(|s| 100.0 + s * 60.0 / 600.0), 60.0);
        // With a garbage collector on top, which takes back 40 MiB every 37 s.
        near(grown(|s| 100.0 + s * 60.0 / 600.0 + (s % 37.0)), 60.0);
        near(grown(|s| 100.0 + (s % 37.0)), 0.0);
        // A cache that is filled once, wherever that lies in the window.
        for step in (600..1200).step_by(50) {
            near(grown(|s| if s < f64::from(step) { 100.0 } else { 300.0 }), 0.0);
        }
        near(grown(|s| 2000.0 - s), 0.0);
        near(grown(|_| 100.0), 0.0);
    }

    #[test]
    fn a_young_life_tells_how_much_it_grew_so_far() {
        let mut trend = Trend::over(Duration::from_secs(600));
        let at = |seconds| Time::from_origin(Duration::from_secs(seconds));
        assert_eq!(
            trend.take(at(5), 100),
            Growing::SoFar {
                by: 0,
                seen: Duration::ZERO
            }
        );
        assert_eq!(
            trend.take(at(65), 700),
            Growing::SoFar {
                by: 600,
                seen: Duration::from_secs(60)
            }
        );
        assert_eq!(
            trend.take(at(70), 50),
            Growing::SoFar {
                by: 0,
                seen: Duration::from_secs(65)
            }
        );
        // After a pause that is longer than the window nothing is left to compare with.
        assert_eq!(trend.take(at(10_000), 9999), Growing::Steadily { by: 0 });
    }

    proptest! {
        #[test]
        fn no_sample_makes_it_panic_or_grow_without_bound(
            samples in proptest::collection::vec((0u64..1000, any::<u64>()), 0..300)) {
            let mut trend = Trend::over(Duration::from_secs(600));
            let mut now = 0;
            for (wait, value) in samples {
                now += wait;
                trend.take(Time::from_origin(Duration::from_secs(now / 10)), value);
                prop_assert!(trend.samples.len() <= SAMPLES as usize + 1);
            }
        }
    }
}
