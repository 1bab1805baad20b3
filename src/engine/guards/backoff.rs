//! The last remedy of this peer was a moment ago; each one makes the next wait twice as long.

use super::{Asked, GuardName, Refusal};

pub(super) fn ask(asked: &Asked<'_>) -> Result<(), Refusal> {
    match asked.peer.ledger.not_before {
        Some(until) if asked.now < until => {
            GuardName::Backoff.refuses("the last remedy was a moment ago", Some(until))
        }
        Some(_) | None => Ok(()),
    }
}
