//! A peer's liveness and the one table of its transitions.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What the engine holds a peer to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Liveness {
    /// Nothing can be said: never seen, not expected, on hold, or the measurement failed. Not dead.
    #[default]
    Unknown,
    /// It gave proof of life, recently enough.
    Alive,
    /// Overdue, or failing, and not long enough to condemn.
    Suspect,
    /// Condemned: by its own exit, by failed checks, or by silence that our echoes cover.
    Dead,
}

impl Liveness {
    /// Every state, in the order of the table.
    pub const ALL: [Self; 4] = [Self::Unknown, Self::Alive, Self::Suspect, Self::Dead];

    /// As written in labels and messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Alive => "alive",
            Self::Suspect => "suspect",
            Self::Dead => "dead",
        }
    }
}

impl fmt::Display for Liveness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
