//! Whom other nodes suspect, on its way from their questions to the engine. Anybody may ask, so there is a bound; a whole
//! group asks of the same ones, again and again, so only what is new counts towards it.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::Face;
use crate::allowance::Allowance;
use crate::engine::event::{Ballot, Event};
use crate::engine::time::Time;

/// So many together: some nodes of a large group may be missed by others at once.
const AT_ONCE: u32 = 256;
/// So many a second in the long run.
const A_SECOND: u32 = 128;
/// Longest name of what is doubted: a claim, of two names, or a few channels.
const MAX_ABOUT: usize = 1024;

/// What the engine was told of late.
#[derive(Debug)]
pub(super) struct Doubts {
    allowance: Allowance,
    told: BTreeMap<Arc<str>, Told>,
}

#[derive(Clone, Copy, Debug)]
struct Told {
    at: Time,
    /// When who asked last heard it.
    life_at: Time,
}

impl Default for Doubts {
    fn default() -> Self {
        Self {
            allowance: Allowance::new(AT_ONCE, A_SECOND),
            told: BTreeMap::new(),
        }
    }
}

impl Doubts {
    /// The engine knows of it already: it keeps in mind for at least two intervals what was asked. (Who missed it for longer
    /// than whoever asked before is told more.)
    fn is_known(&self, about: &str, life_at: Time, now: Time, interval: Duration) -> bool {
        self.told
            .get(about)
            .is_some_and(|told| now.since(told.at) < interval && told.life_at.since(life_at) < interval / 4)
    }

    fn tell(&mut self, about: Arc<str>, life_at: Time, now: Time, interval: Duration) {
        self.told.retain(|_, told| now.since(told.at) < interval);
        self.told.insert(about, Told { at: now, life_at });
    }
}

impl Face {
    /// Nobody waits for this; what there is no room for is counted, and asked again.
    pub(super) fn doubted(&self, doubts: Vec<(String, u64)>) {
        let (now, interval) = (self.now(), self.view().interval());
        let mut known = self.doubts.lock().unwrap_or_else(PoisonError::into_inner);
        for (about, silent) in doubts.into_iter().take(Ballot::MAX_VOTES) {
            let (about, silent): (Arc<str>, _) = (about.into(), Duration::from_millis(silent));
            let life_at = now - silent;
            if about.len() > MAX_ABOUT || known.is_known(&about, life_at, now, interval) {
                continue;
            }
            let event = Event::Doubted {
                about: Arc::clone(&about),
                silent,
            };
            if known.allowance.takes(now) && self.app.events.try_send(event).is_ok() {
                known.tell(about, life_at, now, interval);
            } else {
                self.app.metrics.http.doubt_unheard();
            }
        }
    }
}
