//! The plainest detector: two fixed bounds.

use std::time::Duration;

/// Fixed bounds on the age of the last life. Knows no network: right where the interval is fixed and the bus is
/// near, too hasty or too slow anywhere else.
#[derive(Clone, Copy, Debug)]
pub(in crate::engine) struct Deadline {
    pub(in crate::engine) suspect_after: Duration,
    pub(in crate::engine) dead_after: Duration,
}
