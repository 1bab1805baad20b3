//! The guards: named reasons not to act now, asked in one fixed order. The first refusal ends the asking.
//!
//! One small file a guard. A guard looks and answers; what follows from its answer is `heal`'s business.

mod backoff;
mod blockers;
mod budget;
mod bus_settle;
mod dry_run;
mod fleet_lease;
mod grace;
mod mass_silence;
mod paused;
mod quorum;
mod self_trust;

pub(super) use budget::{GroupLedger, peer_budget_left};

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::engine::breaker::Breaker;
use crate::engine::episode::Episode;
use crate::engine::event::PeerId;
use crate::engine::evidence::Expectation;
use crate::engine::operate::Maintained;
use crate::engine::peer::{Pause, Peer};
use crate::engine::quorum::Tally;
use crate::engine::self_trust::SelfTrust;
use crate::engine::settings::{PeerSettings, RemedySettings, Settings};
use crate::engine::time::Time;

/// The guards in the order of asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GuardName {
    /// An operator paused the peer or the node; or the node drains.
    Paused,
    /// The peer is starting, or has never been alive, or has nothing to tell one life from the next.
    Grace,
    /// The node does not trust itself.
    SelfTrust,
    /// The bus was away until a moment ago.
    BusSettle,
    /// Too many fell silent together.
    MassSilence,
    /// Too few observers agree about a remote peer.
    Quorum,
    /// An outside condition forbids it.
    Blockers,
    /// The last remedy of this peer was a moment ago.
    Backoff,
    /// Too many remedies of this peer, or of the group.
    Budget,
    /// The group's leave: another node heals it, or enough was done already.
    FleetLease,
    /// Everything else permitted it.
    DryRun,
}

impl GuardName {
    /// All, in the order of asking.
    pub const ALL: [Self; 11] = [
        Self::Paused,
        Self::Grace,
        Self::SelfTrust,
        Self::BusSettle,
        Self::MassSilence,
        Self::Quorum,
        Self::Blockers,
        Self::Backoff,
        Self::Budget,
        Self::FleetLease,
        Self::DryRun,
    ];

    /// An operator's `--force` passes it. What bounds how much is down at once, and whom a remedy may hit, never yields.
    pub const fn yields_to_force(self) -> bool {
        match self {
            Self::Paused
            | Self::Grace
            | Self::SelfTrust
            | Self::BusSettle
            | Self::MassSilence
            | Self::Quorum
            | Self::Blockers
            | Self::Backoff => true,
            Self::Budget | Self::FleetLease | Self::DryRun => false,
        }
    }

    /// As written in labels and messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Paused => "paused",
            Self::Grace => "grace",
            Self::SelfTrust => "self_trust",
            Self::BusSettle => "bus_settle",
            Self::MassSilence => "mass_silence",
            Self::Quorum => "quorum",
            Self::Blockers => "blockers",
            Self::Backoff => "backoff",
            Self::Budget => "budget",
            Self::FleetLease => "fleet_lease",
            Self::DryRun => "dry_run",
        }
    }
}

/// A guard's no.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Who said it.
    pub guard: GuardName,
    /// Why, in words.
    pub why: String,
    /// When it could change by itself; `None`: only when something happens.
    pub until: Option<Time>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.guard.as_str(), self.why)
    }
}

/// Everything a guard may look at.
pub(super) struct Asked<'a> {
    pub(super) now: Time,
    pub(super) settings: &'a Settings,
    pub(super) trust: &'a SelfTrust,
    pub(super) breaker: &'a Breaker,
    pub(super) group: &'a GroupLedger,
    pub(super) node_pause: Option<&'a Pause>,
    /// The maintenance window that the peer is in.
    pub(super) window: Option<&'a Maintained>,
    pub(super) draining: bool,
    pub(super) id: PeerId,
    pub(super) peer: &'a Peer,
    pub(super) peer_settings: &'a PeerSettings,
    pub(super) episode: &'a Episode,
    pub(super) rung: u16,
    pub(super) remedy: &'a RemedySettings,
    /// Only evidence is kept now, by the permission for `remedy`, which follows: nobody outside is asked for that.
    pub(super) keeps: bool,
    pub(super) expectations: &'a [Expectation],
    /// How others vote on what condemns it. Worked out when it is asked for: few are.
    pub(super) tally: &'a dyn Fn() -> Tally,
}

impl Asked<'_> {
    /// This guard's no does not count: an operator said why.
    fn is_forced(&self, guard: GuardName) -> bool {
        let forced = self
            .episode
            .wish
            .as_ref()
            .is_some_and(|wish| wish.force.is_some());
        // A node that ends, and a peer of which nothing tells one life from the next, are no matter of opinion.
        let never = self.draining || self.peer.incarnation.is_none();
        forced && guard.yields_to_force() && !never
    }

    /// Whatever the condemning checks need was seen to be met at `since` or later.
    fn expectations_confirmed(&self, since: Time) -> bool {
        self.episode.against.iter().all(|index| {
            let needs = self
                .peer_settings
                .checks
                .get(usize::from(*index))
                .and_then(|check| check.needs);
            let expectation = needs.and_then(|id| self.expectations.get(usize::from(id.0)));
            expectation.is_none_or(|seen| seen.met == Some(true) && seen.at >= since)
        })
    }
}

/// Asks all guards in order. Two of them need an answer from outside: what they were told last counts in their place,
/// but they are only asked once every guard at home permits it, the blockers before the group.
pub(super) fn permit(asked: &Asked<'_>) -> Result<(), Refusal> {
    for guard in GuardName::ALL
        .into_iter()
        .filter(|guard| !asked.is_forced(*guard))
    {
        match guard {
            GuardName::Paused => paused::ask(asked)?,
            GuardName::Grace => grace::ask(asked)?,
            GuardName::SelfTrust => self_trust::ask(asked)?,
            GuardName::BusSettle => bus_settle::ask(asked)?,
            GuardName::MassSilence => mass_silence::ask(asked)?,
            GuardName::Quorum => quorum::ask(asked)?,
            GuardName::Backoff => backoff::ask(asked)?,
            GuardName::Budget => budget::ask(asked)?,
            GuardName::Blockers => blockers::ask(asked)?,
            GuardName::FleetLease if asked.keeps => {
                asked.episode.outside.no(guard, asked.now).map_or(Ok(()), Err)?;
            }
            GuardName::FleetLease => blockers::must_be_clear(asked).and_then(|()| fleet_lease::ask(asked))?,
            GuardName::DryRun => dry_run::ask(asked)?,
        }
    }
    Ok(())
}

impl GuardName {
    /// A refusal by this guard.
    fn refuses(self, why: impl Into<String>, until: Option<Time>) -> Result<(), Refusal> {
        Err(Refusal {
            guard: self,
            why: why.into(),
            until,
        })
    }
}
