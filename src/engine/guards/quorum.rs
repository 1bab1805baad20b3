//! Too few observers. Votes do not exist yet, so a remote peer has this one observer: it is alerted on, and
//! healed only where the configuration says that one is enough.

use super::{Asked, GuardName, Refusal};

pub(super) fn ask(asked: &Asked<'_>) -> Result<(), Refusal> {
    if asked.peer_settings.local || asked.peer_settings.single_observer || !asked.remedy.restarts {
        return Ok(());
    }
    GuardName::Quorum.refuses(
        "a remote peer needs two observers (or `single_observer = true`)",
        None,
    )
}
