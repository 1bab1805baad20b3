//! What the two sides of this node that deal with containers must know of each other: which ends are our own doing,
//! and what was last seen of a peer's container.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::{Container, Docker, Life};
use crate::engine::event::PeerId;
use crate::engine::time::{Clock, Time};

/// An end that comes so long after our act is still its doing: a process has its stop timeout to go.
const AFTERMATH: Duration = Duration::from_secs(10);

#[derive(Default)]
pub(super) struct Acts {
    /// Lives that we touch or touched, and until when their end is our doing. Not that of the life after it: whom an
    /// operator stops a moment after our restart stays stopped.
    ours: Mutex<BTreeMap<Life, Time>>,
    sightings: Mutex<BTreeMap<PeerId, Sighting>>,
}

/// What was last seen of a peer's container.
#[derive(Clone, Debug)]
pub struct Sighting {
    /// The container, or in words why there is nothing to say.
    pub seen: Result<Arc<Container>, String>,
    /// From then on nobody looks any more.
    pub believed_until: Time,
}

/// An act of ours upon a container, while it lasts.
pub struct Act {
    docker: Docker,
    life: Life,
    clock: Arc<dyn Clock>,
}

impl Docker {
    /// From now until a little after the act is dropped, the end of this life is our doing.
    pub fn begin_act(&self, life: &Life, clock: &Arc<dyn Clock>) -> Act {
        self.mark(life, Time::MAX);
        Act {
            docker: self.clone(),
            life: life.clone(),
            clock: Arc::clone(clock),
        }
    }

    /// True if the end of this life at `now` is our doing.
    pub fn is_our_doing(&self, life: &Life, now: Time) -> bool {
        let ours = self.0.acts.ours.lock().unwrap_or_else(PoisonError::into_inner);
        ours.get(life).is_some_and(|until| now <= *until)
    }

    fn mark(&self, life: &Life, until: Time) {
        let mut ours = self.0.acts.ours.lock().unwrap_or_else(PoisonError::into_inner);
        ours.insert(life.clone(), until);
    }

    /// Remembers what was seen of a peer's container.
    pub fn saw(&self, peer: PeerId, sighting: Sighting) {
        let sightings = &self.0.acts.sightings;
        let mut sightings = sightings.lock().unwrap_or_else(PoisonError::into_inner);
        sightings.insert(peer, sighting);
    }

    /// The peer is no container any more.
    pub fn forget(&self, peer: PeerId) {
        let sightings = &self.0.acts.sightings;
        let mut sightings = sightings.lock().unwrap_or_else(PoisonError::into_inner);
        sightings.remove(&peer);
    }

    /// What was last seen of a peer's container, if it was ever looked for.
    pub fn sighting(&self, peer: PeerId) -> Option<Sighting> {
        let sightings = &self.0.acts.sightings;
        let sightings = sightings.lock().unwrap_or_else(PoisonError::into_inner);
        sightings.get(&peer).cloned()
    }
}

impl Drop for Act {
    fn drop(&mut self) {
        let now = self.clock.now();
        // What is long over explains nothing any more.
        let mut ours = self
            .docker
            .0
            .acts
            .ours
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        ours.retain(|_, until| *until >= now);
        ours.insert(self.life.clone(), now + AFTERMATH);
    }
}
