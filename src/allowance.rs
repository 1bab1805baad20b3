//! So many at once, and so many a second in the long run: what a sender is allowed before it is turned away. A leaf;
//! it knows no clock.

use std::time::Duration;

use crate::engine::time::Time;

/// What one sender may still send.
#[derive(Clone, Debug)]
pub struct Allowance {
    /// Between two that are allowed, in the long run.
    every: Duration,
    /// How far ahead of that it may be.
    ahead: Duration,
    /// When it will have used up nothing.
    empty_at: Time,
}

impl Allowance {
    /// `at_once` together (at least one), and `a_second` in the long run (at least one).
    pub fn new(at_once: u32, a_second: u32) -> Self {
        let every = Duration::from_secs(1) / a_second.max(1);
        Self {
            every,
            ahead: every.saturating_mul(at_once.max(1) - 1),
            empty_at: Time::ZERO,
        }
    }

    /// Whether one more is allowed at `now`; counted if so.
    pub fn takes(&mut self, now: Time) -> bool {
        let begins = self.empty_at.max(now);
        if begins.since(now) > self.ahead {
            return false;
        }
        self.empty_at = begins + self.every;
        true
    }

    /// How long until one more is allowed.
    pub fn wait(&self, now: Time) -> Duration {
        self.empty_at.since(now).saturating_sub(self.ahead)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_allowed_then_the_rate() {
        let mut allowance = Allowance::new(5, 10);
        let at = |millis| Time::from_origin(Duration::from_millis(millis));
        assert_eq!((0..9).filter(|_| allowance.takes(at(1_000))).count(), 5);
        assert_eq!(allowance.wait(at(1_000)), Duration::from_millis(100));
        assert!(!allowance.takes(at(1_099)));
        assert!(allowance.takes(at(1_100)));
        let allowed = (1_101..11_101)
            .filter(|&millis| allowance.takes(at(millis)))
            .count();
        assert_eq!(allowed, 100, "ten a second");
        assert_eq!(
            (0..9).filter(|_| allowance.takes(at(60_000))).count(),
            5,
            "rested"
        );
    }
}
