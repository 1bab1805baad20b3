//! The detectors of others, each with its own quirks, to stand beside ours. From their papers and, where there is no
//! paper to follow, from what the source does; written anew here.

use std::collections::VecDeque;
use std::time::Duration;

use super::replay::{Arrival, Trusts};
use crate::engine::time::Time;

/// A fixed time.
pub(super) struct Fixed(pub(super) Duration);

impl Trusts for Fixed {
    fn until(&mut self, arrival: Arrival) -> Time {
        arrival.at + self.0
    }
}

/// The expected arrival of Chen, Toueg and Aguilera (2002, NFD-E, eq. 6.3): the mean of `A_i - η s_i` over the last `size`
/// messages, plus `η (l + 1)`. It counts messages by their number.
struct Expected {
    interval: i128,
    size: usize,
    shifted: VecDeque<i128>,
    sum: i128,
}

impl Expected {
    fn new(interval: Duration, size: usize) -> Self {
        Self {
            interval: i128::try_from(interval.as_nanos()).unwrap_or(i128::MAX),
            size,
            shifted: VecDeque::with_capacity(size),
            sum: 0,
        }
    }

    /// When the one after this is expected, in nanoseconds.
    fn next(&mut self, arrival: Arrival) -> i128 {
        let number = i128::from(arrival.number);
        let shifted = i128::from(arrival.at.as_nanos()) - self.interval * number;
        if self.shifted.len() == self.size {
            self.sum -= self.shifted.pop_front().unwrap_or_default();
        }
        self.shifted.push_back(shifted);
        self.sum += shifted;
        self.sum / self.shifted.len() as i128 + self.interval * (number + 1)
    }
}

/// NFD-E: the expected arrival and a constant margin.
pub(super) struct NfdE {
    expected: Expected,
    margin: i128,
}

impl NfdE {
    pub(super) fn new(interval: Duration, margin: Duration) -> Self {
        Self {
            expected: Expected::new(interval, 1_000),
            margin: i128::try_from(margin.as_nanos()).unwrap_or(i128::MAX),
        }
    }
}

impl Trusts for NfdE {
    fn until(&mut self, arrival: Arrival) -> Time {
        time(self.expected.next(arrival) + self.margin)
    }
}

/// Bertier, Marin and Sens (2002): Chen's expectation, and a margin after Jacobson's estimate of a round trip
/// (β = 1, γ = 0.1; φ = 4 in the paper).
pub(super) struct Bertier {
    expected: Expected,
    due: Option<i128>,
    phi: f64,
    delay: f64,
    var: f64,
}

impl Bertier {
    const GAMMA: f64 = 0.1;
    const BETA: f64 = 1.0;

    pub(super) fn new(interval: Duration, phi: f64) -> Self {
        Self {
            expected: Expected::new(interval, 1_000),
            due: None,
            phi,
            delay: 0.0,
            var: 0.0,
        }
    }
}

impl Trusts for Bertier {
    fn until(&mut self, arrival: Arrival) -> Time {
        if let Some(due) = self.due {
            // A number that was skipped was due intervals ago, and that is no error of the expectation.
            let due = due + self.expected.interval * i128::from(arrival.skipped);
            let error = (i128::from(arrival.at.as_nanos()) - due) as f64 - self.delay;
            self.delay += Self::GAMMA * error;
            self.var += Self::GAMMA * (error.abs() - self.var);
        }
        let due = self.expected.next(arrival);
        self.due = Some(due);
        let margin = Self::BETA * self.delay + self.phi * self.var;
        time(due + nanos(margin))
    }
}

/// Akka's `PhiAccrualFailureDetector` (akka-remote, 2.5 at 016c6ce): whole milliseconds; a logistic approximation of
/// the tail; two imaginary first samples, a quarter of the interval apart from it; what ends a suspicion is no sample.
pub(super) struct Akka {
    threshold: f64,
    min_deviation: f64,
    pause: f64,
    history: VecDeque<i64>,
    sum: i64,
    squares: i128,
    last: Option<i64>,
}

impl Akka {
    const SAMPLES: usize = 1_000;

    pub(super) fn new(first: Duration, threshold: f64, min_deviation: Duration, pause: Duration) -> Self {
        let mut akka = Self {
            threshold,
            min_deviation: min_deviation.as_millis() as f64,
            pause: pause.as_millis() as f64,
            history: VecDeque::new(),
            sum: 0,
            squares: 0,
            last: None,
        };
        let mean = i64::try_from(first.as_millis()).unwrap_or(i64::MAX / 4);
        akka.push(mean - mean / 4);
        akka.push(mean + mean / 4);
        akka
    }

    fn push(&mut self, sample: i64) {
        if self.history.len() == Self::SAMPLES
            && let Some(oldest) = self.history.pop_front()
        {
            self.sum -= oldest;
            self.squares -= i128::from(oldest).pow(2);
        }
        self.history.push_back(sample);
        self.sum += sample;
        self.squares += i128::from(sample).pow(2);
    }

    /// For how many whole milliseconds phi stays below the threshold.
    fn allows(&self) -> i64 {
        let count = self.history.len() as f64;
        let mean = self.sum as f64 / count;
        let deviation = (self.squares as f64 / count - mean * mean).sqrt();
        // (A NaN of a variance just below zero counts as no deviation, as Java's Math.max would not have it.)
        let deviation = deviation.max(self.min_deviation);
        // phi = -log10(e / (1 + e)) with e = exp(-y (1.5976 + 0.070566 y²)): e at the threshold, then y by bisection.
        let exponent = -(1.0 / (10f64.powf(self.threshold) - 1.0)).ln();
        let (mut low, mut high) = (-100.0f64, 100.0f64);
        for _ in 0..60 {
            let y = f64::midpoint(low, high);
            if y * (1.5976 + 0.070_566 * y * y) < exponent {
                low = y;
            } else {
                high = y;
            }
        }
        let first = (mean + self.pause + low * deviation).ceil();
        #[allow(clippy::cast_possible_truncation, reason = "saturates")]
        let first = first as i64;
        first.max(0)
    }
}

impl Trusts for Akka {
    fn until(&mut self, arrival: Arrival) -> Time {
        let now = i64::try_from(arrival.at.as_nanos() / 1_000_000).unwrap_or(i64::MAX);
        if let Some(last) = self.last {
            let gap = now - last;
            if gap < self.allows() {
                self.push(gap);
            }
        }
        self.last = Some(now);
        let until = u64::try_from(now.saturating_add(self.allows())).unwrap_or_default();
        Time::from_nanos(until.saturating_mul(1_000_000)).max(arrival.at)
    }
}

/// Cassandra's `FailureDetector` (4.x): arrivals are held to be exponential, so that phi = t / mean · log10(e); a first
/// sample of two intervals; 1,000 samples; none of more than two intervals.
pub(super) struct Cassandra {
    factor: f64,
    most: u64,
    history: VecDeque<u64>,
    sum: u64,
    last: Option<Time>,
}

impl Cassandra {
    const SAMPLES: usize = 1_000;

    pub(super) fn new(interval: Duration, threshold: f64) -> Self {
        let most = u64::try_from(interval.as_nanos().saturating_mul(2)).unwrap_or(u64::MAX);
        Self {
            factor: threshold * std::f64::consts::LN_10,
            most,
            history: VecDeque::new(),
            sum: 0,
            last: None,
        }
    }

    fn push(&mut self, sample: u64) {
        if self.history.len() == Self::SAMPLES {
            self.sum -= self.history.pop_front().unwrap_or_default();
        }
        self.history.push_back(sample);
        self.sum += sample;
    }
}

impl Trusts for Cassandra {
    fn until(&mut self, arrival: Arrival) -> Time {
        let gap = self.last.map_or(self.most, |last| {
            u64::try_from(arrival.at.since(last).as_nanos()).unwrap_or(u64::MAX)
        });
        if gap <= self.most {
            self.push(gap);
        }
        self.last = Some(arrival.at);
        let mean = self.sum as f64 / self.history.len().max(1) as f64;
        time(i128::from(arrival.at.as_nanos()) + nanos(mean * self.factor))
    }
}

fn nanos(nanos: f64) -> i128 {
    #[allow(
        clippy::cast_possible_truncation,
        reason = "saturates, and makes zero of what is no number"
    )]
    let whole = nanos as i128;
    whole
}

fn time(nanos: i128) -> Time {
    Time::from_nanos(u64::try_from(nanos.max(0)).unwrap_or(u64::MAX))
}
