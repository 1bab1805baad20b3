//! The node distrusts itself: a pause of its own, a bus it cannot believe, or a condemnation that no echo of ours
//! has outlived yet.

use super::fleet_lease::survived_by;
use super::{Asked, GuardName, Refusal};
use crate::engine::self_trust::BusState;
use crate::engine::settings::Plane;

/// Also asked of what is condemned by local evidence: an outage makes clients exit and probes fail (a stock
/// redis-py 8 `listen()` exits 6 to 7 s after Redis stops), so whatever died while the bus did not work is held.
pub(super) fn ask(asked: &Asked<'_>) -> Result<(), Refusal> {
    if let Some(stalled) = asked.trust.stalled_at() {
        let until = stalled + asked.peer.fresh_window(&asked.episode.against);
        if asked.now < until {
            return GuardName::SelfTrust.refuses(
                "self_stalled: this node was not running a moment ago",
                Some(until),
            );
        }
    }
    if survived_by(asked) {
        return Ok(());
    }
    let state = asked.trust.state();
    if state != BusState::Trusted {
        return GuardName::SelfTrust.refuses(format!("the bus is not trusted ({state})"), None);
    }
    if asked.episode.wish.is_some() {
        // An operator's grounds are his own: no evidence of ours has to be proven.
        return Ok(());
    }
    let condemned_at = asked.episode.condemned_at.unwrap_or(asked.now);
    if !asked.trust.outlives(condemned_at) {
        return GuardName::SelfTrust.refuses("no echo of ours has come back since it was condemned", None);
    }
    let on_bus = |index: &u16| {
        asked
            .peer
            .check(*index)
            .is_some_and(|check| check.plane() == Plane::Bus)
    };
    if asked.episode.against.iter().any(on_bus) && !asked.trust.role_read_since(condemned_at) {
        // A server demoted a moment ago still takes PUBLISH and returns echoes.
        return GuardName::SelfTrust.refuses("the server's role was not read since it was condemned", None);
    }
    if !asked.expectations_confirmed(condemned_at) {
        return GuardName::SelfTrust
            .refuses("what it needs was not seen to hold since it was condemned", None);
    }
    Ok(())
}
