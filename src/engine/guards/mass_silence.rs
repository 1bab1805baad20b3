//! Too many remote peers fell silent together. One canary is healed after a while, the next once it sings.

use super::{Asked, GuardName, Refusal};

pub(super) fn ask(asked: &Asked<'_>) -> Result<(), Refusal> {
    asked
        .breaker
        .permits(asked.id, asked.now)
        .or_else(|until| GuardName::MassSilence.refuses("many remote peers fell silent together", until))
}
