//! How long the file has been watched: time in which this node ran and could read it.

use std::time::Duration;

use crate::engine::time::Time;

/// A look that comes so much later than due shows that this node did not run meanwhile (the engine's own bound for
/// its ticks).
const LATE: Duration = Duration::from_millis(500);
/// The wall clock was set if it moved by so much more or less than ours. A slewed one never does between two looks.
const STEP: Duration = Duration::from_secs(1);

/// One look's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Moment {
    pub(super) now: Time,
    /// Since 1970.
    pub(super) wall: Duration,
}

/// A clock of its own: it stands still while this node does, or the file cannot be read.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Watched {
    last: Option<Moment>,
    /// What it says.
    pub(super) total: Duration,
    /// The wall clock was set: a writer that waits for a time of day may be silent for once, up to here.
    doubt_until: Duration,
}

impl Watched {
    /// The file was seen at `at`, or seen not to be there.
    pub(super) fn seen(&mut self, at: Moment, interval: Duration, max_age: Duration) {
        if let Some(last) = self.last {
            let passed = at.now.since(last.now);
            let paused = passed > interval.saturating_mul(2) + LATE;
            self.total += if paused { interval } else { passed };
            if at.wall.abs_diff(last.wall + passed) > STEP {
                self.doubt_until = self.total + max_age;
            }
        }
        self.last = Some(at);
    }

    /// The wall clock was set not long ago.
    pub(super) fn doubtful(&self) -> bool {
        self.total < self.doubt_until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const MAX_AGE: Duration = Duration::from_secs(30);

    fn at(now: u64, wall: u64) -> Moment {
        Moment {
            now: Time::from_origin(Duration::from_secs(now)),
            wall: Duration::from_secs(wall),
        }
    }

    #[test]
    fn s31_a_pause_of_our_own_counts_for_one_interval() {
        let mut watched = Watched::default();
        watched.seen(at(5, 1000), SECOND, MAX_AGE);
        watched.seen(at(6, 1001), SECOND, MAX_AGE);
        watched.seen(at(8, 1003), SECOND, MAX_AGE);
        assert_eq!(watched.total, Duration::from_secs(3));
        watched.seen(at(68, 1063), SECOND, MAX_AGE);
        assert_eq!(watched.total, Duration::from_secs(4));
        assert!(!watched.doubtful(), "the wall clock went on with ours");
    }

    #[test]
    fn s31_a_wall_clock_that_is_set_is_doubted_for_one_max_age() {
        for set_to in [1000 + 3600, 1000 - 900] {
            let mut watched = Watched::default();
            watched.seen(at(5, 1000), SECOND, MAX_AGE);
            watched.seen(at(6, set_to), SECOND, MAX_AGE);
            for second in 1..30 {
                assert!(watched.doubtful(), "{second}");
                watched.seen(at(6 + second, set_to + second), SECOND, MAX_AGE);
            }
            watched.seen(at(36, set_to + 30), SECOND, MAX_AGE);
            assert!(!watched.doubtful());
        }
    }
}
