//! Everything else permitted it; the configuration says: only say so. Last, so that it shows exactly what would
//! have happened.

use super::{Asked, GuardName, Refusal};

pub(super) fn ask(asked: &Asked<'_>) -> Result<(), Refusal> {
    if asked.settings.dry_run {
        return GuardName::DryRun.refuses("dry run: decided and not done", None);
    }
    Ok(())
}
