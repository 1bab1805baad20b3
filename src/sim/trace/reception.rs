//! From emissions to arrivals: a model of the way between, and a seed. One connection carries all of a sender's
//! messages, so none overtakes another.

use std::time::Duration;

use super::super::rng::Rng;
use super::Life;
use crate::engine::time::Time;

/// What is longer is taken for this.
const HOUR: Duration = Duration::from_secs(3_600);

/// The way from a sender to its listener.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reception {
    /// The least that a message takes. At most an hour.
    pub delay: Duration,
    /// Median of what comes on top. At most an hour.
    pub jitter: Duration,
    /// How it scatters: the logarithm of what comes on top is normal, with this standard deviation. 0 to 3.
    pub spread: f64,
    /// Share of messages that are lost, each by itself; 0 to 1.
    pub loss: f64,
    /// Where all that is random comes from.
    pub seed: u64,
}

impl Default for Reception {
    /// Through a Redis nearby: 0.3 ms, and 0.2 ms (median, with a spread of 1) more; nothing is lost.
    fn default() -> Self {
        Self {
            delay: Duration::from_micros(300),
            jitter: Duration::from_micros(200),
            spread: 1.0,
            loss: 0.0,
            seed: 1,
        }
    }
}

impl Reception {
    /// Over the open internet: 40 ms, and 5 ms (median, spread 1) more; 1 % is lost.
    pub fn far() -> Self {
        Self {
            delay: Duration::from_millis(40),
            jitter: Duration::from_millis(5),
            loss: 0.01,
            ..Self::default()
        }
    }

    /// Lets the emissions of a life arrive. One of arrivals stays as it is.
    pub fn receive(&self, life: &mut Life) {
        if !life.emitted {
            return;
        }
        let mut rng = Rng::new(self.seed);
        let mut last = Time::ZERO;
        for beat in &mut life.beats {
            let lost = unit(&mut rng) < self.loss;
            let more = (self.spread * normal(&mut rng)).exp();
            let way = self.delay.min(HOUR) + self.jitter.min(HOUR).mul_f64(more.clamp(0.0, 1e6));
            beat.arrived = (!lost).then(|| {
                last = last.max(beat.sent + way);
                last
            });
        }
    }

    /// In words.
    pub fn describe(&self) -> String {
        format!(
            "delay {:?} plus lognormal (median {:?}, sigma {}), loss {} %, in order, seed {}",
            self.delay,
            self.jitter,
            self.spread,
            self.loss * 100.0,
            self.seed
        )
    }
}

/// Between 0 and 1, and neither.
fn unit(rng: &mut Rng) -> f64 {
    ((rng.next() >> 11) as f64 + 0.5) / (1u64 << 53) as f64
}

/// Box and Muller.
fn normal(rng: &mut Rng) -> f64 {
    let (radius, turn) = (unit(rng), unit(rng));
    (-2.0 * radius.ln()).sqrt() * (std::f64::consts::TAU * turn).cos()
}
