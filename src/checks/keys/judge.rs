//! What the times to live of locks say. Pure: samples in, with the times between which they were taken; words out.
//!
//! An owner extends its lock again and again: `SET … PX 60000`, then back to 60 s every 20 s. What is left when it
//! does so is learned, as a share of the whole (here two thirds). A lock of which less is left by half an extension's
//! worth than is usual missed one: it is suspect, and has as much again before it is free. A share, because one
//! pattern may cover locks of several lengths; the median, because an extension that failed once, and was tried again
//! at the next tick, must not become the rule.
//!
//! A lock that is gone is free, and no failure: that is what its TTL is for. A lock without a TTL will never be.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::engine::time::Time;
use crate::redis_client::keys::{Left, Sample, Stored};

/// Extensions that the usual share is learned from: the latest.
const LEARNED: usize = 32;
/// Fewer teach nothing.
const ENOUGH: usize = 3;
/// A time to live that is longer than it could be by so much was extended: what clocks and rounding may do.
const SLACK: Duration = Duration::from_millis(50);

/// One reading of one lock.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) key: Vec<u8>,
    pub(super) sample: Sample,
    /// It was taken between these.
    pub(super) sent: Time,
    pub(super) got: Time,
}

/// How many locks are how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) held: u64,
    pub(super) suspect: u64,
    /// Without a TTL.
    pub(super) endless: u64,
    /// Looked for by name and not there.
    pub(super) free: u64,
}

/// How locks ended since the last look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ends {
    /// Their time ran out.
    pub(super) expired: u64,
    /// They went before it had.
    pub(super) released: u64,
    /// Somebody else has them.
    pub(super) taken: u64,
}

/// What a look at all locks found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) counts: Counts,
    pub(super) ends: Ends,
    /// One without a TTL.
    pub(super) endless: Option<Vec<u8>>,
    /// The suspect one that has the least time left.
    pub(super) suspect: Option<Suspect>,
}

/// A lock that its owner should have extended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Suspect {
    pub(super) key: Vec<u8>,
    pub(super) left: Duration,
    /// What is usually left when it is extended.
    pub(super) usual: Duration,
}

/// Remembers the locks.
#[derive(Debug, Default)]
pub(super) struct Judge {
    /// What must be left, where the configuration says so: nothing is learned then.
    ttl_min: Option<Duration>,
    /// The share that was left at each of the latest extensions.
    shares: VecDeque<f64>,
    locks: BTreeMap<Vec<u8>, Lock>,
}

#[derive(Debug)]
struct Lock {
    owner: Stored,
    left: Duration,
    sent: Time,
    got: Time,
    /// The most that was left since it was last extended.
    whole: Duration,
}

impl Judge {
    pub(super) fn new(ttl_min: Option<Duration>) -> Self {
        Self {
            ttl_min,
            ..Self::default()
        }
    }

    /// Those that were there at the last look.
    pub(super) fn known(&self) -> impl Iterator<Item = &[u8]> {
        self.locks.keys().map(Vec::as_slice)
    }

    /// A look failed: what happens until the next is not seen, and teaches nothing. What was learned stays.
    pub(super) fn lose_sight(&mut self) {
        self.locks.clear();
    }

    /// Takes in one look at every lock that is known or was found.
    pub(super) fn look(&mut self, seen: Vec<Seen>) -> Found {
        let mut found = Found::default();
        for reading in seen {
            match reading.sample.left {
                Left::Absent => {
                    found.counts.free += 1;
                    if let Some(lock) = self.locks.remove(&reading.key) {
                        let ran_out = lock.left <= reading.got.since(lock.sent) + SLACK;
                        *if ran_out {
                            &mut found.ends.expired
                        } else {
                            &mut found.ends.released
                        } += 1;
                    }
                }
                Left::Forever => {
                    self.locks.remove(&reading.key);
                    found.counts.endless += 1;
                    found.endless.get_or_insert(reading.key);
                }
                Left::Time(left) => self.held(reading, left, &mut found),
            }
        }
        found
    }

    fn held(&mut self, seen: Seen, left: Duration, found: &mut Found) {
        let Seen {
            key,
            sample,
            sent,
            got,
        } = seen;
        let whole = match self.locks.get(&key) {
            Some(lock) if lock.owner != sample.value => {
                found.ends.taken += 1;
                left
            }
            Some(lock) if lock.extended(left, sent) => {
                let share =
                    lock.left_before(got).as_secs_f64() / lock.whole.as_secs_f64().max(f64::MIN_POSITIVE);
                if self.shares.len() == LEARNED {
                    self.shares.pop_front();
                }
                self.shares.push_back(share);
                left
            }
            Some(lock) => lock.whole.max(left),
            None => left,
        };
        let usual = self.usual(whole);
        if usual.is_some_and(|(bound, _)| left < bound) {
            found.counts.suspect += 1;
            let least = found.suspect.as_ref().is_none_or(|other| left < other.left);
            if let Some((_, usual)) = usual.filter(|_| least) {
                let key = key.clone();
                found.suspect = Some(Suspect { key, left, usual });
            }
        } else {
            found.counts.held += 1;
        }
        let lock = Lock {
            owner: sample.value,
            left,
            sent,
            got,
            whole,
        };
        self.locks.insert(key, lock);
    }

    /// Below how much a lock of this length is suspect, and how much is left of it when it is extended as usual.
    /// `None`: not known yet.
    fn usual(&self, whole: Duration) -> Option<(Duration, Duration)> {
        if let Some(min) = self.ttl_min {
            return Some((min, min));
        }
        if self.shares.len() < ENOUGH {
            return None;
        }
        let mut shares: Vec<f64> = self.shares.iter().copied().collect();
        let middle = shares.len() / 2;
        let share = *shares.select_nth_unstable_by(middle, f64::total_cmp).1;
        // Half an extension late; where that would be never, half of what is usually left.
        let bound = (share - (1.0 - share) / 2.0).max(share / 2.0);
        Some((whole.mul_f64(bound), whole.mul_f64(share)))
    }
}

impl Lock {
    /// More is left than there could be by itself.
    fn extended(&self, left: Duration, sent: Time) -> bool {
        left + sent.since(self.got) > self.left + SLACK
    }

    /// The least that can have been left when it was extended, at some time before `got`.
    fn left_before(&self, got: Time) -> Duration {
        self.left.saturating_sub(got.since(self.sent))
    }
}
