//! When the sub link may rest. A hundred peers send a hundred heartbeats a second, one by one, and none of them is
//! urgent: to wake for each was most of what an idle node cost. What this node waits for is never kept waiting.

use std::ops::Range;
use std::time::Duration;

use crate::engine::time::Time;

/// Longest rest; a tenth of the interval, if that is shorter.
const LONGEST: Duration = Duration::from_millis(100);
/// Bytes that come in one rest and the next together: with fewer, to end the rests would cost as much as they save;
/// with more it is a flood, to be read as it comes. (A socket takes 64 KiB before its sender has to wait.)
const WORTH: Range<usize> = 1024..32 * 1024;

/// How much comes, and how long to rest from it.
#[derive(Debug)]
pub(super) struct Calm {
    rest: Duration,
    since: Time,
    before: usize,
    bytes: usize,
}

impl Calm {
    /// For links that are asked for life every `interval`.
    pub(super) fn new(interval: Duration, now: Time) -> Self {
        Self {
            rest: (interval / 10).min(LONGEST),
            since: now,
            before: 0,
            bytes: 0,
        }
    }

    /// So much was read. How long to rest now; `None`: not at all.
    pub(super) fn took(&mut self, bytes: usize, now: Time) -> Option<Duration> {
        if now.since(self.since) >= self.rest {
            self.before = std::mem::take(&mut self.bytes);
            self.since = now;
        }
        self.bytes += bytes;
        WORTH.contains(&(self.before + self.bytes)).then_some(self.rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_read_as_it_comes_what_is_steady_in_portions_and_what_is_rare_at_once() {
        let start = Time::ZERO;
        let mut calm = Calm::new(Duration::from_secs(1), start);
        assert_eq!(calm.took(WORTH.start - 1, start), None);
        assert_eq!(calm.took(1, start), Some(LONGEST));
        assert_eq!(calm.took(WORTH.end, start + LONGEST), None);
        // Also while the next portions are small ones.
        let next = start + LONGEST * 2;
        assert_eq!(calm.took(WORTH.start, next), None);
        assert_eq!(calm.took(1, next + LONGEST / 2), None);
        assert_eq!(calm.took(1, next + LONGEST), Some(LONGEST));
        assert_eq!(calm.took(1, next + LONGEST * 2), None);
        let mut fast = Calm::new(Duration::from_millis(50), start);
        assert_eq!(fast.took(WORTH.start, start), Some(Duration::from_millis(5)));
    }
}
