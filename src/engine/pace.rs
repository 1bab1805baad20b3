//! Whether a heartbeat is fresh: its sender's own clock (slot or uptime) against its arrival.
//!
//! A server that was stopped delivers what was queued in a burst (20 heartbeats within 2 ms, measured on Redis
//! 7.0 after SIGCONT): old beats, and no proof that their sender is alive *now*.

use std::time::Duration;

use super::time::Time;

/// A sender may be this much later than it ever was, and still be fresh; at least two of its intervals.
const LATE: Duration = Duration::from_secs(2);
/// So many beats at their normal distance, and the sender's clock is taken to have moved (it was suspended).
const STEADY: u8 = 3;
/// How far the two clocks may drift apart, as a share of time: 1 in 1,000, far more than quartz does.
const DRIFT: u32 = 1_000;

/// The pace of one life of one sender.
#[derive(Clone, Debug)]
pub(super) struct Pace {
    /// The sender's clock and ours at the last beat that moved it on.
    sender: Duration,
    arrival: Time,
    /// The least delay between them so far: arrival minus sender's clock, in nanoseconds.
    least: i128,
    /// Beats in a row that kept their distance while late.
    steady: u8,
    /// The last beat on an earlier clock, and how many of them kept their distance in a row.
    behind: Option<(Duration, Time, u8)>,
}

/// What one beat is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Beat {
    /// Proof of life now.
    Fresh,
    /// Sent long ago, or not newer than the last one.
    Late,
}

impl Pace {
    /// The first beat: there is nothing to compare it with.
    pub(super) fn first(sender: Duration, arrival: Time) -> Self {
        Self {
            sender,
            arrival,
            least: delay(sender, arrival),
            steady: 0,
            behind: None,
        }
    }

    /// The next one. `interval` is the sender's.
    pub(super) fn beat(&mut self, sender: Duration, arrival: Time, interval: Duration) -> Beat {
        if sender <= self.sender {
            return self.beat_behind(sender, arrival);
        }
        self.behind = None;
        let sent_apart = sender.saturating_sub(self.sender);
        let came_apart = arrival.since(self.arrival);
        self.sender = sender;
        self.arrival = arrival;

        let now = delay(sender, arrival);
        let drift = i128::try_from((came_apart / DRIFT).as_nanos()).unwrap_or(i128::MAX);
        self.least = now.min(self.least.saturating_add(drift));
        let late_by = Duration::from_nanos(u64::try_from(now.saturating_sub(self.least)).unwrap_or(u64::MAX));
        if late_by <= LATE.max(interval.saturating_mul(2)) {
            self.steady = 0;
            return Beat::Fresh;
        }
        self.steady = if came_apart >= sent_apart / 2 {
            self.steady + 1
        } else {
            0
        };
        if self.steady < STEADY {
            return Beat::Late;
        }
        self.least = now;
        self.steady = 0;
        Beat::Fresh
    }

    /// A beat on an earlier clock is late. But a steady run of them is the true clock, and the one that was
    /// further ahead a broken or a forged beat: it must not make all true ones late for ever.
    fn beat_behind(&mut self, sender: Duration, arrival: Time) -> Beat {
        let steady = match self.behind {
            Some((before, came, steady))
                if sender > before && arrival.since(came) >= sender.saturating_sub(before) / 2 =>
            {
                steady + 1
            }
            Some(_) | None => 0,
        };
        self.behind = Some((sender, arrival, steady));
        if steady < STEADY {
            return Beat::Late;
        }
        *self = Self::first(sender, arrival);
        Beat::Fresh
    }

    /// When the last beat that moved it on came.
    pub(super) fn arrival(&self) -> Time {
        self.arrival
    }

    /// The sender's clock was further already, by more than jitter.
    pub(super) fn is_behind(&self, sender: Duration) -> bool {
        sender + Duration::from_secs(1) < self.sender
    }

    /// The sender's clock was further already.
    pub(super) fn is_past(&self, sender: Duration) -> bool {
        sender < self.sender
    }

    /// Did the life that says "I have been up for `uptime`" begin after the last beat of this one? Only then is
    /// a falling uptime another life; else there are two writers on one channel, or the beat is a late one.
    pub(super) fn is_succeeded_by(&self, uptime: Duration, arrival: Time) -> bool {
        const SLACK: Duration = Duration::from_secs(1);
        uptime + SLACK / 2 < self.sender && arrival - uptime + SLACK > self.arrival
    }
}

fn delay(sender: Duration, arrival: Time) -> i128 {
    i128::from(arrival.as_nanos()) - i128::try_from(sender.as_nanos()).unwrap_or(i128::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(millis: u64) -> Time {
        Time::from_origin(Duration::from_millis(millis))
    }

    fn sent(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_burst_after_a_stopped_server_is_late() {
        let mut pace = Pace::first(sent(1_000), at(101_000));
        assert_eq!(pace.beat(sent(2_000), at(102_000), SECOND), Beat::Fresh);
        for slot in 3..=20 {
            let beat = pace.beat(sent(slot * 1_000), at(121_500 + slot), SECOND);
            assert_eq!(
                beat,
                if slot >= 20 { Beat::Fresh } else { Beat::Late },
                "slot {slot}"
            );
        }
        assert_eq!(pace.beat(sent(23_000), at(123_000), SECOND), Beat::Fresh);
    }

    #[test]
    fn a_sender_that_was_suspended_is_believed_after_three_steady_beats() {
        let mut pace = Pace::first(sent(1_000), at(1_000));
        let late: Vec<Beat> = (2..=6)
            .map(|slot| pace.beat(sent(slot * 1_000), at(600_000 + slot * 1_000), SECOND))
            .collect();
        assert_eq!(
            late,
            [Beat::Late, Beat::Late, Beat::Fresh, Beat::Fresh, Beat::Fresh]
        );
    }

    #[test]
    fn drift_of_a_quartz_clock_is_never_late() {
        let mut pace = Pace::first(sent(0), at(0));
        for second in 1..200_000u64 {
            // The sender's clock loses 100 ppm against ours: 20 s in the end.
            let arrival = Time::from_nanos(second * 1_000_100_000);
            assert_eq!(
                pace.beat(sent(second * 1_000), arrival, SECOND),
                Beat::Fresh,
                "at {second} s"
            );
        }
    }

    #[test]
    fn one_beat_from_the_future_does_not_silence_its_sender() {
        let mut pace = Pace::first(sent(1_000), at(1_000));
        assert_eq!(
            pace.beat(sent(9_000_000), at(1_500), SECOND),
            Beat::Fresh,
            "a forged one"
        );
        let beats: Vec<Beat> = (2..=7)
            .map(|slot| pace.beat(sent(slot * 1_000), at(slot * 1_000), SECOND))
            .collect();
        assert_eq!(beats[..3], [Beat::Late, Beat::Late, Beat::Late]);
        assert_eq!(beats[3..], [Beat::Fresh, Beat::Fresh, Beat::Fresh]);
    }

    #[test]
    fn repeated_and_older_slots_are_late() {
        let mut pace = Pace::first(sent(5_000), at(5_000));
        assert_eq!(pace.beat(sent(5_000), at(5_010), SECOND), Beat::Late);
        assert_eq!(pace.beat(sent(4_000), at(5_020), SECOND), Beat::Late);
        assert_eq!(pace.beat(sent(6_000), at(6_000), SECOND), Beat::Fresh);
    }

    #[test]
    fn only_a_life_born_after_the_last_beat_succeeds() {
        let pace = Pace::first(sent(100_000), at(200_000));
        assert!(pace.is_succeeded_by(sent(500), at(202_000)), "born at 201.5 s");
        assert!(
            !pace.is_succeeded_by(sent(50_000), at(201_000)),
            "a second writer, born at 151 s"
        );
        assert!(!pace.is_succeeded_by(sent(99_900), at(200_900)), "jitter");
    }
}
