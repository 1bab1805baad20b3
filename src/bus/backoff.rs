//! How long to wait before the next try at a connection. There is no last one.

use std::time::Duration;

/// After the first failure in a row.
const FIRST: Duration = Duration::from_millis(100);
/// While nothing is there. Low enough for a full view within 5 s of the server's return.
const LONGEST: Duration = Duration::from_secs(2);
/// While the server refuses: somebody must change something first, and its ACL log fills with each try.
const LONGEST_REFUSED: Duration = Duration::from_secs(5);

/// Doubles from [`FIRST`], each wait a random share (half to all) of its step: nodes that lost the same server
/// at the same moment do not come back at the same moment.
#[derive(Debug)]
pub(super) struct Backoff {
    step: Duration,
}

impl Backoff {
    pub(super) const fn new() -> Self {
        Self { step: FIRST }
    }

    pub(super) const fn reset(&mut self) {
        self.step = FIRST;
    }

    /// The wait after one more failure.
    pub(super) fn next(&mut self, refused: bool) -> Duration {
        // Without randomness (which the kernel does not refuse in practice) all would wait the same: no worse.
        let random = getrandom::u32().unwrap_or(u32::MAX / 2);
        self.advance(refused, random)
    }

    fn advance(&mut self, refused: bool, random: u32) -> Duration {
        let longest = if refused { LONGEST_REFUSED } else { LONGEST };
        let step = self.step.min(longest);
        self.step = (self.step * 2).min(LONGEST_REFUSED);
        step.mul_f64(0.5 + f64::from(random) / f64::from(u32::MAX) / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_to_its_bound_and_starts_anew() {
        let mut backoff = Backoff::new();
        let waits: Vec<_> = (0..8)
            .map(|_| backoff.advance(false, u32::MAX).as_millis())
            .collect();
        assert_eq!(waits, [100, 200, 400, 800, 1600, 2000, 2000, 2000]);
        assert_eq!(backoff.advance(true, u32::MAX).as_millis(), 5000);
        backoff.reset();
        assert_eq!(backoff.advance(true, 0).as_millis(), 50);
    }

    #[test]
    fn waits_are_spread() {
        let waits: std::collections::BTreeSet<_> = (0..50).map(|_| Backoff::new().next(false)).collect();
        assert!(waits.len() > 40);
        assert!(waits.iter().all(|wait| (FIRST / 2..=FIRST).contains(wait)));
    }
}
