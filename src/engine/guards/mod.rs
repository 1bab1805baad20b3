//! The guards: named reasons not to act now, asked in one fixed order.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::engine::time::Time;

/// The guards in the order of asking. Blockers and fleet_lease have their place and no code yet.
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
    /// Too few observers for a remote peer.
    Quorum,
    /// An outside condition forbids it. (Not asked yet.)
    Blockers,
    /// The last remedy of this peer was a moment ago.
    Backoff,
    /// Too many remedies of this peer, or of the group.
    Budget,
    /// Another node of the group is healing. (Not asked yet.)
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
