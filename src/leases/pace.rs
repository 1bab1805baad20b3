//! How fast questions may come: a bucket that fills with time.

use crate::engine::time::Time;

/// Questions that may come at once.
const BURST: u64 = 100;
/// Questions in a second, in the long run.
const A_SECOND: u64 = 50;

const NANOS: u64 = 1_000_000_000;

/// What is left to be asked.
#[derive(Debug)]
pub(super) struct Pace {
    /// In questions times nanoseconds.
    left: u64,
    at: Time,
}

impl Pace {
    pub(super) const fn full(now: Time) -> Self {
        Self {
            left: BURST * NANOS,
            at: now,
        }
    }

    /// True if one more may be asked now; it is then counted.
    pub(super) fn take(&mut self, now: Time) -> bool {
        let passed = u64::try_from(now.since(self.at).as_nanos()).unwrap_or(u64::MAX);
        self.at = self.at.max(now);
        let filled = self.left.saturating_add(passed.saturating_mul(A_SECOND));
        self.left = filled.min(BURST * NANOS);
        match self.left.checked_sub(NANOS) {
            Some(left) => {
                self.left = left;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_burst_passes_and_then_so_many_a_second() {
        let start = Time::from_nanos(5);
        let mut pace = Pace::full(start);
        let passed = |pace: &mut Pace, now| (0..1000).filter(|_| pace.take(now)).count();
        assert_eq!(passed(&mut pace, start), 100);
        assert_eq!(passed(&mut pace, start + Duration::from_secs(1)), 50);
        assert_eq!(
            passed(&mut pace, start),
            0,
            "a clock that goes back gives nothing"
        );
        assert_eq!(passed(&mut pace, Time::MAX), 100, "it is never fuller than full");
    }
}
