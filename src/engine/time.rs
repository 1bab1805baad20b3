//! Time as the engine sees it: an argument, never something it reads.

use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A point on the node's monotonic clock, in nanoseconds since an origin that the runtime picks once at start.
///
/// Wall clocks never enter a judgement, so there is no conversion to one. Arithmetic saturates: a deadline
/// computed from a hostile or absurd duration lies at the end of time instead of wrapping into the past.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Time(u64);

impl Time {
    /// The origin of the clock.
    pub const ZERO: Self = Self(0);
    /// Later than everything; what "never" is compared with.
    pub const MAX: Self = Self(u64::MAX);

    /// A point `nanos` nanoseconds after the origin.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// A point `since_origin` after the origin.
    pub fn from_origin(since_origin: Duration) -> Self {
        Self::ZERO + since_origin
    }

    /// Nanoseconds since the origin.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Time that passed between `earlier` and `self`; zero if `earlier` is later.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Time {
    type Output = Self;
    fn add(self, after: Duration) -> Self {
        let nanos = u64::try_from(after.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(nanos))
    }
}

impl Sub<Duration> for Time {
    type Output = Self;
    fn sub(self, before: Duration) -> Self {
        let nanos = u64::try_from(before.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_sub(nanos))
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3}s", Duration::from_nanos(self.0).as_secs_f64())
    }
}

/// Where the edges get the time from. `runtime/clock.rs` implements it for the real clock, the simulation and
/// the tests for theirs; nothing else reads a clock (clippy.toml bans it).
pub trait Clock: Send + Sync + 'static {
    /// The current point on the node's monotonic clock.
    fn now(&self) -> Time;

    /// What the wall clock says, since 1970. Only for the age of what somebody else has stamped, at first sight: it
    /// can be set at any moment, and the engine never asks.
    fn wall(&self) -> Duration;
}
