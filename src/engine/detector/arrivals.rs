//! How a peer's heartbeats arrive: when the next one is due, and how far from that they came.
//!
//! A sender that tells its schedule (slot and interval) is held against that schedule, as in Chen's NFD-E: a gap of
//! k slots is k intervals, and nothing shifts. One that does not tell is known by the gaps between its messages.

use std::time::Duration;

use super::super::time::Time;
use super::window::Window;

/// Off its schedule by more than this, or two intervals: it is another schedule (the sender's machine slept).
/// As much as a heartbeat may be late and still be a fresh one.
const ANOTHER_SCHEDULE: Duration = Duration::from_secs(2);

/// What a heartbeat says of its sender's schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    /// The schedule's slot that it belongs to.
    pub slot: u64,
    /// Between two slots; not zero.
    pub interval: Duration,
    /// How late the sender itself was.
    pub late: Duration,
}

impl Sent {
    /// It was late by more than half an interval: that tells of a pause of its own, not of its pace or of the way.
    fn was_paused(self) -> bool {
        self.late > self.interval / 2
    }
}

/// The expectation of one peer's next heartbeat.
#[derive(Clone, Debug)]
pub(super) struct Arrivals {
    window: Window,
    last: Option<Time>,
    schedule: Option<Schedule>,
}

/// A sender's schedule, by our clock.
#[derive(Clone, Copy, Debug)]
struct Schedule {
    interval: Duration,
    /// A slot, and when its heartbeat came. What is later than that distance says is positive.
    slot: u64,
    at: Time,
    /// How far off the last heartbeat was, in microseconds.
    off: i32,
}

impl Arrivals {
    pub(super) fn new(size: u16) -> Self {
        Self {
            window: Window::new(size),
            last: None,
            schedule: None,
        }
    }

    /// Another life: another schedule, and the way to here is learned anew.
    pub(super) fn new_life(&mut self) {
        self.window.clear();
        self.last = None;
        self.schedule = None;
    }

    /// A fresh heartbeat. `unbroken`: we listened and heard, from the last one on until this one.
    pub(super) fn arrived(&mut self, at: Time, sent: Option<Sent>, unbroken: bool) {
        match sent.filter(|sent| !sent.interval.is_zero()) {
            Some(sent) => self.on_schedule(at, sent, unbroken),
            None => self.after_gap(at, unbroken),
        }
        self.last = Some(at);
    }

    fn on_schedule(&mut self, at: Time, sent: Sent, unbroken: bool) {
        let off = self
            .schedule
            .filter(|schedule| schedule.interval == sent.interval)
            .and_then(|schedule| schedule.off(at, sent.slot))
            .filter(|off| {
                let mean = self.window.mean();
                let bound = micros(ANOTHER_SCHEDULE.max(sent.interval.saturating_mul(2)));
                (f64::from(*off) - mean).abs() <= f64::from(bound)
            });
        let Some(off) = off else {
            self.window.clear();
            self.schedule = Some(Schedule {
                interval: sent.interval,
                slot: sent.slot,
                at,
                off: 0,
            });
            if !sent.was_paused() {
                self.window.push(0);
            }
            return;
        };
        if let Some(schedule) = &mut self.schedule {
            schedule.off = off;
        }
        if unbroken && !sent.was_paused() {
            // No further than an interval: one burst of a server that was stopped must not be a whole window's measure.
            let (mean, most) = (self.window.mean(), f64::from(micros(sent.interval)));
            #[allow(
                clippy::cast_possible_truncation,
                reason = "it lies between two of its kind, and saturates"
            )]
            let near = f64::from(off).clamp(mean - most, mean + most) as i32;
            self.window.push(near);
        }
    }

    fn after_gap(&mut self, at: Time, unbroken: bool) {
        if self.schedule.take().is_some() {
            self.window.clear();
        } else if let (Some(last), true) = (self.last, unbroken) {
            self.window.push(micros(at.since(last)));
        }
    }

    /// Samples in the window.
    pub(super) fn count(&self) -> u16 {
        self.window.count()
    }

    /// The interval that the sender tells, or else shows.
    pub(super) fn interval(&self) -> Option<Duration> {
        match self.schedule {
            Some(schedule) => Some(schedule.interval),
            None if self.window.count() == 0 => None,
            None => Some(Duration::from_micros(whole(self.window.mean()))),
        }
    }

    /// From the last arrival until the next one is expected, in microseconds; negative if it is overdue already by
    /// the time the last one came. `None`: nothing is known.
    pub(super) fn next_after(&self) -> Option<f64> {
        let mean = self.window.mean();
        match self.schedule {
            Some(schedule) => Some(f64::from(micros(schedule.interval)) + mean - f64::from(schedule.off)),
            None if self.window.count() == 0 => None,
            None => Some(mean),
        }
    }

    /// Of arrivals about what is expected, in microseconds squared.
    pub(super) fn variance(&self) -> f64 {
        self.window.variance()
    }
}

impl Schedule {
    /// How much later than the schedule's base says a heartbeat came, in microseconds; `None`: out of all reason.
    fn off(&self, at: Time, slot: u64) -> Option<i32> {
        let slots = i128::from(slot) - i128::from(self.slot);
        let due = i128::try_from(self.interval.as_nanos())
            .ok()?
            .checked_mul(slots)?;
        let came = i128::from(at.as_nanos()) - i128::from(self.at.as_nanos());
        let off = i64::try_from(came.checked_sub(due)?).ok()?;
        i32::try_from(off / 1_000).ok()
    }
}

/// At most 35 minutes.
pub(super) fn micros(duration: Duration) -> i32 {
    i32::try_from(duration.as_micros()).unwrap_or(i32::MAX)
}

/// What is no number, or below zero, is zero.
pub(super) fn whole(micros: f64) -> u64 {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "saturates, and makes zero of what is no number"
    )]
    let whole = micros as u64;
    whole
}
