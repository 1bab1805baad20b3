//! Stand-in until the runtime's clock is joined.

#![allow(clippy::disallowed_methods, reason = "this is the one place that may")]

use std::time::SystemTime;

/// The wall clock: for display, and for ages across a restart of the machine. Never for a judgement.
pub fn wall_now() -> SystemTime {
    SystemTime::now()
}
