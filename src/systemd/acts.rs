//! What the two sides of this node that deal with units must know of each other: which ends are our own doing, and
//! what was last seen of a peer's unit.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{Active, Invocation, Systemd, Unit};
use crate::engine::event::PeerId;
use crate::engine::time::{Clock, Time};

/// An end that comes so long after our act is still its doing.
const AFTERMATH: Duration = Duration::from_secs(10);
/// Forgotten failures that are remembered here.
const MOST_FORGOTTEN: usize = 256;

#[derive(Debug, Default)]
pub(super) struct Acts {
    /// Lives that we touch or touched, and until when their end is our doing. Not that of the life after it.
    ours: Mutex<BTreeMap<Invocation, Time>>,
    /// Lives that failed, whose failure systemd forgot because we asked it to; the latest last.
    forgotten: Mutex<VecDeque<Invocation>>,
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
    /// What was known of that life before.
    before: Option<Time>,
    nothing_done: bool,
}

impl Act {
    /// It was not carried out: what becomes of that life is none of its doing.
    pub fn nothing_done(mut self) {
        self.nothing_done = true;
    }
}

impl Systemd {
    /// From now until a little after the act is dropped, the end of this life is our doing.
    pub fn begin_act(&self, life: &Invocation, clock: &Arc<dyn Clock>) -> Act {
        let before = self.ours().insert(life.clone(), Time::MAX);
        Act {
            systemd: self.clone(),
            life: life.clone(),
            clock: Arc::clone(clock),
            before,
            nothing_done: false,
        }
    }

    /// True if the end of this life at `now` is our doing.
    pub fn is_our_doing(&self, life: &Invocation, now: Time) -> bool {
        self.ours().get(life).is_some_and(|until| now <= *until)
    }

    /// This life's failure is about to be forgotten by systemd, for us.
    pub(super) fn forgets_failure_of(&self, life: &Invocation) {
        let mut forgotten = self.forgotten();
        forgotten.retain(|one| one != life);
        if forgotten.len() == MOST_FORGOTTEN {
            forgotten.pop_front();
        }
        forgotten.push_back(life.clone());
    }

    /// A unit whose failure we had systemd forget, and that was not started since, as what it is: failed.
    pub(super) fn remembering(&self, mut unit: Unit) -> Unit {
        let inactive = unit.active == Active::Inactive;
        if inactive
            && unit
                .invocation
                .as_ref()
                .is_some_and(|life| self.forgotten().contains(life))
        {
            unit.active = Active::Failed;
        }
        unit
    }

    /// Remembers what was seen of a peer's unit.
    pub fn saw(&self, peer: PeerId, sighting: Sighting) {
        self.sightings().insert(peer, sighting);
    }

    /// The peer is no unit any more.
    pub fn forget(&self, peer: PeerId) {
        self.sightings().remove(&peer);
    }

    /// What was last seen of a peer's unit, if it was ever looked for.
    pub fn sighting(&self, peer: PeerId) -> Option<Sighting> {
        self.sightings().get(&peer).cloned()
    }

    fn ours(&self) -> MutexGuard<'_, BTreeMap<Invocation, Time>> {
        self.0.acts.ours.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forgotten(&self) -> MutexGuard<'_, VecDeque<Invocation>> {
        let forgotten = &self.0.acts.forgotten;
        forgotten.lock().unwrap_or_else(PoisonError::into_inner)
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
        match (self.nothing_done, self.before) {
            (false, _) => ours.insert(self.life.clone(), now + AFTERMATH),
            (true, Some(before)) => ours.insert(self.life.clone(), before),
            (true, None) => ours.remove(&self.life),
        };
    }
}
