//! What the two sides of this node that deal with units must know of each other: which ends are our own doing, and
//! what was last seen of a peer's unit.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{Invocation, Systemd, Unit};
use crate::engine::event::PeerId;
use crate::engine::time::{Clock, Time};

/// An end that comes so long after our act is still its doing.
const AFTERMATH: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
pub(super) struct Acts {
    /// Lives that we touch or touched, and until when their end is our doing. Not that of the life after it.
    ours: Mutex<BTreeMap<Invocation, Time>>,
    sightings: Mutex<BTreeMap<PeerId, Sighting>>,
}

/// What was last seen of a peer's unit.
#[derive(Clone, Debug)]
pub struct Sighting {
    /// The unit, or in words why there is nothing to say.
    pub seen: Result<Arc<Unit>, String>,
    /// When it came into the state in which it was seen, as far as this node knows.
    pub since: Time,
    /// From then on nobody looks any more.
    pub believed_until: Time,
}

/// An act of ours upon a unit, while it lasts.
pub struct Act {
    systemd: Systemd,
    life: Invocation,
    clock: Arc<dyn Clock>,
}

impl Systemd {
    /// From now until a little after the act is dropped, the end of this life is our doing.
    pub fn begin_act(&self, life: &Invocation, clock: &Arc<dyn Clock>) -> Act {
        self.ours().insert(life.clone(), Time::MAX);
        Act {
            systemd: self.clone(),
            life: life.clone(),
            clock: Arc::clone(clock),
        }
    }

    /// True if the end of this life at `now` is our doing.
    pub fn is_our_doing(&self, life: &Invocation, now: Time) -> bool {
        self.ours().get(life).is_some_and(|until| now <= *until)
    }

    /// Remembers what was seen of a peer's unit.
    pub fn saw(&self, peer: PeerId, sighting: Sighting) {
        self.sightings().insert(peer, sighting);
    }

    /// What was last seen of a peer's unit, if it was ever looked for.
    pub fn sighting(&self, peer: PeerId) -> Option<Sighting> {
        self.sightings().get(&peer).cloned()
    }

    fn ours(&self) -> MutexGuard<'_, BTreeMap<Invocation, Time>> {
        self.0.acts.ours.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sightings(&self) -> MutexGuard<'_, BTreeMap<PeerId, Sighting>> {
        self.0
            .acts
            .sightings
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Act {
    fn drop(&mut self) {
        let now = self.clock.now();
        let mut ours = self.systemd.ours();
        // What is long over explains nothing any more.
        ours.retain(|_, until| *until >= now);
        ours.insert(self.life.clone(), now + AFTERMATH);
    }
}
