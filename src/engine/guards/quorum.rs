//! A remote peer is restarted only if enough observers agree at this moment, and none of the group hears it.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Asked, GuardName, Refusal};
use crate::engine::quorum::Missing;

pub(super) fn ask(asked: &Asked<'_>) -> Result<(), Refusal> {
    if asked.peer_settings.local || asked.peer_settings.single_observer || !asked.remedy.restarts {
        return Ok(());
    }
    let (k, tally) = (asked.settings.quorum.k, (asked.tally)());
    let Err(missing) = tally.agreed(k) else {
        return Ok(());
    };
    let why = match missing {
        Missing::Heard => format!("{} of the group heard it since", names(&tally.hear_it)),
        Missing::Votes if tally.agree.is_empty() => format!(
            "a remote peer needs {k} observers that agree (or `single_observer = true`), and only this node says so"
        ),
        Missing::Votes => format!(
            "a remote peer needs {k} observers that agree (or `single_observer = true`), and these are this node and {}",
            names(&tally.agree)
        ),
        Missing::Majority => format!(
            "only {} of the {} nodes of the group are heard since: they may be the smaller part of one that was cut in two",
            tally.live, tally.known
        ),
    };
    GuardName::Quorum.refuses(why, None)
}

/// The first few: a refusal is read by people.
fn names(of: &BTreeSet<Arc<str>>) -> String {
    const FEW: usize = 4;
    let first: Vec<&str> = of.iter().take(FEW).map(|name| &**name).collect();
    match of.len().saturating_sub(FEW) {
        0 => first.join(", "),
        more => format!("{} and {more} more", first.join(", ")),
    }
}
