//! Why something went silent: the words of attribution. Which cause holds is worked out in `judge`;
//! here is only what a cause is and what it permits.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Why a verdict is what it is. Only a cause that lies in the peer itself may lead to a remedy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// This node was paused or suspended: its timers prove nothing yet.
    SelfStalled,
    /// Both links are down.
    BrokerUnreachable,
    /// Redis answers and refuses (NOPERM, NOAUTH, READONLY, OOM).
    BusRefused,
    /// Only our publishing link fails.
    SelfMute,
    /// Only our receiving link fails, or our echoes do not return.
    SelfDeaf,
    /// The server is a replica.
    WrongBroker,
    /// Too many peers fell silent together for it to be their own doing.
    MassSilence,
    /// The process (container, unit, pod) is gone, or is another incarnation.
    PeerExited,
    /// Its subscription is dark, orphaned or lost.
    PeerDeaf,
    /// It lives and does not work: stopped, not reading, its probe fails.
    PeerStuck,
    /// Ghost connections, or memory over its bound.
    PeerLeaking,
    /// No sign of life, and nothing that explains it.
    PeerSilent,
    /// An operator asked for it: no verdict, and nothing that a rung's `for` names.
    Operator,
}

impl Cause {
    /// Every cause, in the order of the design's table.
    pub const ALL: [Self; 13] = [
        Self::SelfStalled,
        Self::BrokerUnreachable,
        Self::BusRefused,
        Self::SelfMute,
        Self::SelfDeaf,
        Self::WrongBroker,
        Self::MassSilence,
        Self::PeerExited,
        Self::PeerDeaf,
        Self::PeerStuck,
        Self::PeerLeaking,
        Self::PeerSilent,
        Self::Operator,
    ];

    /// As written in configuration, labels and messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SelfStalled => "self_stalled",
            Self::BrokerUnreachable => "broker_unreachable",
            Self::BusRefused => "bus_refused",
            Self::SelfMute => "self_mute",
            Self::SelfDeaf => "self_deaf",
            Self::WrongBroker => "wrong_broker",
            Self::MassSilence => "mass_silence",
            Self::PeerExited => "peer_exited",
            Self::PeerDeaf => "peer_deaf",
            Self::PeerStuck => "peer_stuck",
            Self::PeerLeaking => "peer_leaking",
            Self::PeerSilent => "peer_silent",
            Self::Operator => "operator",
        }
    }

    /// True if the cause lies in the peer itself, the only kind that a remedy may follow.
    pub const fn lies_in_peer(self) -> bool {
        match self {
            Self::PeerExited | Self::PeerDeaf | Self::PeerStuck | Self::PeerLeaking | Self::PeerSilent => {
                true
            }
            Self::SelfStalled
            | Self::BrokerUnreachable
            | Self::BusRefused
            | Self::SelfMute
            | Self::SelfDeaf
            | Self::WrongBroker
            | Self::MassSilence
            | Self::Operator => false,
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
