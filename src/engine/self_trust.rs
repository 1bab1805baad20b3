//! May I believe what I see? The node's trust in its links, its echoes and its own timers.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The node's trust in its bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BusState {
    /// No echo yet since the start.
    Starting,
    /// Links up, echoes returning: bus evidence counts.
    Trusted,
    /// Both links are down.
    BrokerUnreachable,
    /// The server refuses what the node needs.
    BusRefused,
    /// Only the pub link fails.
    SelfMute,
    /// Only the sub link fails, or echoes do not return.
    SelfDeaf,
    /// The server is a replica.
    WrongBroker,
}

impl BusState {
    /// Every state.
    pub const ALL: [Self; 7] = [
        Self::Starting,
        Self::Trusted,
        Self::BrokerUnreachable,
        Self::BusRefused,
        Self::SelfMute,
        Self::SelfDeaf,
        Self::WrongBroker,
    ];

    /// As written in labels and messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Trusted => "trusted",
            Self::BrokerUnreachable => "broker_unreachable",
            Self::BusRefused => "bus_refused",
            Self::SelfMute => "self_mute",
            Self::SelfDeaf => "self_deaf",
            Self::WrongBroker => "wrong_broker",
        }
    }
}

impl fmt::Display for BusState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
