//! The bus was away until a moment ago: what died of that may come back by itself, and what was silent could not
//! be heard.

use super::fleet_lease::survived_by;
use super::{Asked, GuardName, Refusal};

pub(super) fn ask(asked: &Asked<'_>) -> Result<(), Refusal> {
    match asked.trust.settling_until() {
        Some(until) if asked.now < until && !survived_by(asked) => GuardName::BusSettle.refuses(
            "the bus is settling: this node started, or the bus was away, a moment ago",
            Some(until),
        ),
        Some(_) | None => Ok(()),
    }
}
