//! Something outside forbids it: an alert that fires, a deploy that runs. What cannot be found out forbids it too.

use super::{Asked, GuardName, Refusal};

/// What they said last.
pub(super) fn ask(asked: &Asked<'_>) -> Result<(), Refusal> {
    match asked.episode.outside.no(GuardName::Blockers, asked.now) {
        Some(no) if needed(asked) => Err(no),
        Some(_) | None => Ok(()),
    }
}

/// Their yes must be a fresh one. Asked for once every guard at home permits it: they may cost somebody something.
pub(super) fn must_be_clear(asked: &Asked<'_>) -> Result<(), Refusal> {
    if !needed(asked) || asked.episode.outside.is_clear(asked.now) {
        return Ok(());
    }
    GuardName::Blockers.refuses("asking whether anything blocks it", None)
}

fn needed(asked: &Asked<'_>) -> bool {
    asked.peer_settings.blockers && asked.remedy.kind.touches() && !asked.is_forced(GuardName::Blockers)
}
