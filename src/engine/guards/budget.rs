//! Too many remedies that restart: of this peer, or of the group.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Asked, GuardName, Refusal};
use crate::engine::event::PeerId;
use crate::engine::peer::Peer;
use crate::engine::settings::{PeerSettings, Settings};
use crate::engine::time::Time;

/// With no store to say what was done before, each peer gets one restart in this time after the start.
const UNTOLD: Duration = Duration::from_secs(600);

/// What the group has suffered by this node's hand.
#[derive(Clone, Debug, Default)]
pub(in crate::engine) struct GroupLedger {
    /// Peers that are configured.
    pub(in crate::engine) peers: usize,
    /// No restart of anybody before this.
    pub(in crate::engine) not_before: Option<Time>,
    /// In a dry run that began while the node ran: what `not_before` was then.
    pub(in crate::engine) real_not_before: Option<Time>,
    /// Ended by our hand, and not proven alive yet; and until when that counts at most.
    pub(in crate::engine) down: BTreeMap<PeerId, Time>,
    /// The same of peers that were removed while a remedy was at work on them, by its token: their numbers may be others'
    /// by now.
    pub(in crate::engine) retired: BTreeMap<u64, Time>,
    /// No store was found: until then each peer gets one restart only.
    pub(in crate::engine) untold_until: Option<Time>,
}

impl GroupLedger {
    pub(in crate::engine) fn of(settings: &Settings) -> Self {
        Self {
            peers: settings.peers().count(),
            ..Self::default()
        }
    }

    /// What was done before is not known.
    pub(in crate::engine) fn untold(&mut self, now: Time) {
        self.untold_until = Some(now + UNTOLD);
    }
}

/// Restarts that `peer` may still suffer now.
pub(in crate::engine) fn peer_budget_left(
    peer: &Peer,
    settings: &PeerSettings,
    group: &GroupLedger,
    now: Time,
) -> u32 {
    let untold = group.untold_until.is_some_and(|until| now < until);
    let limit = if untold {
        settings.budget.count.min(1)
    } else {
        settings.budget.count
    };
    limit.saturating_sub(peer.ledger.spent(now))
}

pub(super) fn ask(asked: &Asked<'_>) -> Result<(), Refusal> {
    if !asked.remedy.restarts {
        return Ok(());
    }
    if peer_budget_left(asked.peer, asked.peer_settings, asked.group, asked.now) == 0 {
        let until = asked.peer.ledger.first_free(asked.now);
        let untold = asked.group.untold_until.filter(|until| asked.now < *until);
        return match untold {
            Some(told) => GuardName::Budget.refuses(
                "a node that finds no state of an earlier run grants each peer one restart in its first 10 min",
                until.map_or(Some(told), |until| Some(until.min(told))),
            ),
            None => GuardName::Budget.refuses("this peer's restarts are used up", until),
        };
    }
    if let Some(until) = asked.group.not_before.filter(|until| asked.now < *until) {
        return GuardName::Budget.refuses("another peer was restarted a moment ago", Some(until));
    }
    let share = asked.group.peers * usize::from(asked.settings.group_budget.down_percent) / 100;
    let others = asked
        .group
        .down
        .iter()
        .filter(|(id, _)| **id != asked.id)
        .map(|(_, until)| *until)
        .chain(asked.group.retired.values().copied())
        .filter(|until| asked.now < *until);
    if others.clone().count() >= share.max(1) {
        let until = others.min().filter(|until| *until != Time::MAX);
        return GuardName::Budget.refuses("other peers are down by our hand", until);
    }
    Ok(())
}
