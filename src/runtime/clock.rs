//! The only reader of clocks. Everything else is told the time.

#![allow(clippy::disallowed_methods, reason = "this is the one place that may")]

use std::fs;
use std::time::{Duration, SystemTime};

use rustix::time::{ClockId, Timespec, clock_gettime};

use crate::engine::time::{Clock, Time};
use crate::store::Stamp;

/// The node's monotonic clock. Its origin is the moment of its making.
///
/// It reads tokio's clock, so a test that pauses tokio's time pauses this one too.
#[derive(Clone, Copy, Debug)]
pub struct MonotonicClock {
    origin: tokio::time::Instant,
}

impl MonotonicClock {
    /// A clock that says [`Time::ZERO`] now.
    pub fn start() -> Self {
        Self {
            origin: tokio::time::Instant::now(),
        }
    }

    /// The instant for tokio's timers at which this clock says `time`.
    pub fn instant(&self, time: Time) -> tokio::time::Instant {
        let after = Duration::from_nanos(time.as_nanos());
        self.origin.checked_add(after).unwrap_or(self.origin)
    }
}

impl Clock for MonotonicClock {
    fn now(&self) -> Time {
        Time::from_origin(self.origin.elapsed())
    }

    fn wall(&self) -> Duration {
        wall_since_1970()
    }
}

/// The kernel's monotonic clock, as systemd reads it.
pub fn monotonic() -> Duration {
    let Timespec { tv_sec, tv_nsec } = clock_gettime(ClockId::Monotonic);
    let nanos = u32::try_from(tv_nsec).unwrap_or(0);
    Duration::new(u64::try_from(tv_sec).unwrap_or(0), nanos)
}

/// A clock that goes on while the machine sleeps: what others promised for a time ends meanwhile. Tokio's timers do not
/// follow it: who waits by them asks it again afterwards.
#[derive(Clone, Copy, Debug)]
pub struct SleeplessClock {
    origin: Duration,
}

impl SleeplessClock {
    /// A clock that says [`Time::ZERO`] now.
    pub fn start() -> Self {
        Self { origin: boottime() }
    }
}

impl Clock for SleeplessClock {
    fn now(&self) -> Time {
        Time::from_origin(boottime().saturating_sub(self.origin))
    }

    fn wall(&self) -> Duration {
        wall_since_1970()
    }
}

/// How long the machine has slept since its start: CLOCK_BOOTTIME minus CLOCK_MONOTONIC. Only a *change* means
/// anything: inside a time namespace the two have constant offsets of their own, and the difference may be any.
pub fn suspended() -> Duration {
    let monotonic = duration(clock_gettime(ClockId::Monotonic));
    boottime().saturating_sub(monotonic)
}

/// CLOCK_BOOTTIME: goes on while the machine sleeps, starts anew with the machine.
pub fn boottime() -> Duration {
    duration(clock_gettime(ClockId::Boottime))
}

/// The wall clock: for display, and for ages across a restart of the machine. Never for a judgement.
pub fn wall_now() -> SystemTime {
    SystemTime::now()
}

/// The wall clock in seconds since 1970, as heartbeats carry it.
pub fn wall_seconds() -> f64 {
    wall_since_1970().as_secs_f64()
}

fn wall_since_1970() -> Duration {
    let since = wall_now().duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or_default()
}

/// The kernel's id of this run of the machine; `None` where `/proc` does not tell.
pub fn boot_id() -> Option<String> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let id = text.trim();
    (!id.is_empty() && id.len() <= 64).then(|| id.to_owned())
}

/// The moment as the store writes it.
pub fn stamp(boot_id: Option<String>) -> Stamp {
    Stamp {
        boot_id,
        boottime: boottime(),
        wall: wall_since_1970(),
    }
}

fn duration(time: Timespec) -> Duration {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u32::try_from(time.tv_nsec).unwrap_or(0);
    Duration::new(seconds, nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_follows_tokios_paused_time() {
        let clock = MonotonicClock::start();
        assert_eq!(clock.now(), Time::ZERO);
        tokio::time::advance(Duration::from_secs(90)).await;
        assert_eq!(clock.now(), Time::from_origin(Duration::from_secs(90)));
    }

    #[tokio::test(start_paused = true)]
    async fn its_points_are_tokios_instants() {
        let clock = MonotonicClock::start();
        let at = Time::from_origin(Duration::from_millis(1500));
        tokio::time::sleep_until(clock.instant(at)).await;
        assert_eq!(clock.now(), at);
    }

    #[tokio::test]
    async fn the_end_of_time_is_no_overflow() {
        let clock = MonotonicClock::start();
        assert!(clock.instant(Time::MAX) >= clock.instant(Time::ZERO));
    }

    #[test]
    fn the_machine_says_who_it_is() {
        assert_eq!(boot_id(), boot_id());
        assert!(boottime() > Duration::ZERO);
        assert!(wall_now() > SystemTime::UNIX_EPOCH);
    }
}
