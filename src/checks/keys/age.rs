//! How old a key's word is, by a time that its writer wrote into it.
//!
//! Whose clock? The writer's, the server's and this node's may differ by minutes, and any of them may be set. So what
//! counts is that the time *changed*, and how long ago that was by this node's monotonic clock; as with heartbeat
//! files, its own value decides at first sight only. A time in the future is no life until it changes.

use std::time::Duration;

use serde_json::Value;

use crate::engine::time::Time;
use crate::heartbeat_file::Stamp;

/// Ahead of this node's clock by so much is not the future yet.
const AHEAD: Duration = Duration::from_secs(2);

/// What was seen of the time.
#[derive(Debug, Default)]
pub(super) struct Freshness {
    seen: Option<Seen>,
}

#[derive(Debug)]
struct Seen {
    stamp: Value,
    at: Time,
    /// How old it was already when it was first seen; `Err`: why that is not known.
    before: Result<Duration, Unclear>,
}

/// How old it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Aged {
    /// So old.
    By(Duration),
    /// Its age is not known, and it has not changed for so long.
    Unclear(Unclear, Duration),
}

/// Why a time says nothing about an age.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unclear {
    /// It is in the future, by so much.
    Ahead(Duration),
    /// It names no zone.
    Naive,
}

impl Freshness {
    /// Takes in the time as it is read at `now`, which is `wall` by the wall clock.
    ///
    /// # Errors
    /// In words, if it is no time.
    pub(super) fn see(&mut self, stamp: &Value, wall: Duration, now: Time) -> Result<Aged, String> {
        let read = Stamp::parse(stamp)?;
        let before = match &self.seen {
            Some(seen) if seen.stamp == *stamp => return Ok(seen.aged(now)),
            // It changed: this is life, whatever clock it was written by.
            Some(_) => Ok(Duration::ZERO),
            None => match read {
                Stamp::Naive => Err(Unclear::Naive),
                Stamp::At(at) if at > wall + AHEAD => Err(Unclear::Ahead(at - wall)),
                Stamp::At(at) => Ok(wall.saturating_sub(at)),
            },
        };
        let seen = self.seen.insert(Seen {
            stamp: stamp.clone(),
            at: now,
            before,
        });
        Ok(seen.aged(now))
    }

    /// There is no key: what comes next is seen for the first time.
    pub(super) fn forget(&mut self) {
        self.seen = None;
    }
}

impl Seen {
    fn aged(&self, now: Time) -> Aged {
        let since = now.since(self.at);
        match self.before {
            Ok(before) => Aged::By(before.saturating_add(since)),
            Err(unclear) => Aged::Unclear(unclear, since),
        }
    }
}

impl std::fmt::Display for Unclear {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ahead(by) => write!(f, "is {} s in the future by this node's clock", by.as_secs()),
            Self::Naive => f.write_str("names no zone"),
        }
    }
}
