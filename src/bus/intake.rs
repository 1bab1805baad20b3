//! What arrives on a channel, as the engine may see it: read, and on the group's channel verified where the group signs.

use std::sync::Arc;
use std::time::Duration;

use super::heartbeat::{self, Unreadable};
use crate::engine::event::Heartbeat;
use crate::signing::{Claimed, Refused, Signer, Verifier};

/// How this node signs, and verifies what comes on the group's channel.
#[derive(Clone, Debug)]
pub struct Seal {
    /// Signs our own heartbeats.
    pub signer: Arc<Signer>,
    /// Verifies everybody's, our own echoes among them. It outlives every connection.
    pub verifier: Arc<Verifier>,
}

/// Why a message is no heartbeat to anybody here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoHeartbeat {
    /// It cannot be read as one.
    Unreadable(Unreadable),
    /// It can, and does not verify.
    Refused(Refused),
}

/// Reads what arrives.
#[derive(Debug)]
pub struct Intake {
    reader: heartbeat::Reader,
    verifier: Option<Arc<Verifier>>,
    /// The channel on which nodes publish.
    group_channel: Arc<str>,
}

impl Intake {
    /// `verifier`: of the group's channel; `None`: everything there is believed.
    pub fn new(group_channel: Arc<str>, verifier: Option<Arc<Verifier>>) -> Self {
        Self {
            reader: heartbeat::Reader::new(),
            verifier,
            group_channel,
        }
    }

    /// What comes on this channel is believed only if it verifies.
    pub fn verifies(&self, channel: &Arc<str>) -> bool {
        self.verifier_of(channel).is_some()
    }

    fn verifier_of(&self, channel: &Arc<str>) -> Option<&Arc<Verifier>> {
        self.verifier.as_ref().filter(|_| *channel == self.group_channel)
    }

    /// Reads a message. `wall_ts`: our wall clock, in seconds.
    ///
    /// # Errors
    /// If it is no heartbeat, or is not believed.
    pub fn take(&mut self, channel: &Arc<str>, body: &[u8], wall_ts: f64) -> Result<Heartbeat, NoHeartbeat> {
        let beat = self.reader.read(body).map_err(NoHeartbeat::Unreadable)?;
        if let Some(verifier) = self.verifier_of(channel) {
            let claimed = Claimed {
                node: beat.node.as_ref(),
                boot: beat.boot.as_ref(),
            };
            verifier
                .verify(body, claimed, millis(wall_ts))
                .map_err(NoHeartbeat::Refused)?;
        }
        Ok(beat)
    }
}

/// Since 1970.
pub(super) fn millis(wall_ts: f64) -> u64 {
    let wall = Duration::try_from_secs_f64(wall_ts).unwrap_or_default();
    u64::try_from(wall.as_millis()).unwrap_or(u64::MAX)
}
