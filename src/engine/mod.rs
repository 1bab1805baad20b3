//! The judge. Pure: it has no clock, no I/O, no tasks and no randomness but a seed that is passed in.
//!
//! Its whole face is [`Engine::handle`], [`Engine::poll_timeout`], [`Engine::poll_decision`] and
//! [`Engine::snapshot`]. The runtime hands it one event at a time with the time at which it happened, drains the
//! decisions, and sleeps until the timeout. Nothing in here can wait.

pub mod cause;
pub mod decision;
pub mod event;
pub mod guards;
pub mod peer;
pub mod persist;
pub mod self_trust;
pub mod settings;
pub mod snapshot;
pub mod time;

use decision::Decision;
use event::Event;
use persist::Restored;
use settings::Settings;
use snapshot::Snapshot;
use time::Time;

/// The engine of one node.
#[derive(Debug)]
pub struct Engine {
    settings: Settings,
}

impl Engine {
    /// An engine that starts at `now`. `seed` feeds the jitter of backoffs and nothing else.
    pub fn new(settings: Settings, restored: &Restored, seed: u64, now: Time) -> Self {
        let _ = (restored, seed, now);
        Self { settings }
    }

    /// Takes in one event that happened at `now`. `now` never goes back; if it does, the latest is used.
    pub fn handle(&mut self, event: Event, now: Time) {
        let _ = (event, now, &self.settings);
    }

    /// When [`Event::Tick`] must be handed in at the latest.
    pub fn poll_timeout(&self) -> Time {
        Time::MAX
    }

    /// The next thing to do, until there is none.
    pub fn poll_decision(&mut self) -> Option<Decision> {
        None
    }

    /// What is known at `now`. Costs time in proportion to the number of peers: taken when something changed,
    /// not at each event.
    pub fn snapshot(&self, now: Time) -> Snapshot {
        let _ = now;
        unreachable!("under construction")
    }
}
