//! Leases in this process, for a node on the embedded bus: the same four steps, on a table that ends with the node.
//!
//! One fencing token for all keys, never less than the wall clock: it goes on across a restart of the node unless the
//! clock was set back meanwhile.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::store::{Anew, Claim, Done, Step};
use crate::engine::time::{Clock, Time};

/// The table.
pub(super) struct Local {
    clock: Arc<dyn Clock>,
    last_fence: u64,
    held: BTreeMap<Arc<str>, Held>,
}

struct Held {
    token: Arc<str>,
    taking: u64,
    fence: u64,
    until: Time,
}

impl Local {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            last_fence: 0,
            held: BTreeMap::new(),
        }
    }

    pub(super) fn run(&mut self, step: &Step) -> Done {
        let now = self.clock.now();
        self.held.retain(|_, held| now < held.until);
        match step {
            Step::Take(claim, ttl, anew) => self.take(claim, now, *ttl, *anew),
            Step::Extend(claim, ttl) => match self.held.get_mut(&claim.key) {
                Some(held) if held.token == claim.token => {
                    held.until = held.until.max(now + *ttl);
                    Done::Extended
                }
                _ => Done::Gone,
            },
            Step::Release(claim) => match self.held.get(&claim.key) {
                Some(held) if held.token == claim.token && held.is_of(claim) => {
                    self.held.remove(&claim.key);
                    Done::Released
                }
                _ => Done::Gone,
            },
            Step::Look(key) => match self.held.get(key) {
                Some(held) => Done::Others(Some(held.until.since(now))),
                None => Done::Free,
            },
        }
    }

    fn take(&mut self, claim: &Claim, now: Time, ttl: Duration, anew: Anew) -> Done {
        let wall = u64::try_from(self.clock.wall().as_micros()).unwrap_or(0);
        let next = (self.last_fence + 1).max(wall);
        match self.held.get_mut(&claim.key) {
            Some(held) if held.token != claim.token => Done::Others(Some(held.until.since(now))),
            Some(held) => {
                held.until = held.until.max(now + ttl);
                if claim.taking > held.taking {
                    held.taking = claim.taking;
                    held.fence = next;
                    self.last_fence = next;
                }
                Done::Taken(held.fence)
            }
            None if anew == Anew::No => Done::Gone,
            None => {
                self.last_fence = next;
                let held = Held {
                    token: Arc::clone(&claim.token),
                    taking: claim.taking,
                    fence: next,
                    until: now + ttl,
                };
                self.held.insert(Arc::clone(&claim.key), held);
                Done::Taken(next)
            }
        }
    }
}

impl Held {
    /// Of no later taking than that.
    fn is_of(&self, claim: &Claim) -> bool {
        self.taking <= claim.taking
    }
}
