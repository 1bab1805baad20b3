//! The peer is starting, perhaps by its own supervisor; or it was never alive, so that nobody knows whether it ever
//! worked; or nothing tells one of its lives from the next, so that a remedy could hit the wrong one.

use super::{Asked, GuardName, Refusal};
use crate::engine::evidence::Check;

pub(super) fn ask(asked: &Asked<'_>) -> Result<(), Refusal> {
    if asked.remedy.kind.tells() {
        return Ok(());
    }
    let peer = asked.peer;
    if peer.incarnation.is_none() {
        return GuardName::Grace.refuses("nothing tells one life of this peer from the next", None);
    }
    if peer.restarting {
        return GuardName::Grace.refuses("it exited, and its own supervisor is bringing it back", None);
    }
    if peer.exited && peer.exited_under_pause {
        return GuardName::Grace.refuses("it exited during a pause: taken for on purpose", None);
    }
    if peer.exited {
        return Ok(());
    }
    if peer.checks.iter().any(Check::is_owner_absent) && !asked.episode.restarted {
        return GuardName::Grace.refuses("it is gone and nobody saw it go: taken for on purpose", None);
    }
    if asked.now < peer.grace_until {
        return GuardName::Grace.refuses("this life of the peer has only begun", Some(peer.grace_until));
    }
    if asked.episode.wish.is_some() {
        if peer.ever_alive() {
            return Ok(());
        }
        return GuardName::Grace.refuses("no check of it has ever passed: it may never have worked", None);
    }
    let ever_passed = asked
        .episode
        .against
        .iter()
        .any(|check| peer.check(*check).is_some_and(|c| c.ever_passed));
    if !ever_passed {
        return GuardName::Grace.refuses(
            "no check that condemns it has ever passed: it may never have worked",
            None,
        );
    }
    Ok(())
}
