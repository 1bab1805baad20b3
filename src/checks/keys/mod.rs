//! The checks that read keys of a Redis, `redis_key` and `redis_lock`. Here is what both have in common: whose keys,
//! and what a read that failed, or an outage of their own server, means. They never write.
//!
//! What the bus's server does is the engine's to know: it holds evidence from the bus while that is away or settles.
//! Of a server of its own only the check knows. Keys that are gone may be gone with their server, and their writers
//! have time to come back.

mod age;
mod judge;
pub mod key;
pub mod lock;
#[cfg(test)]
mod tests;

use std::time::Duration;

use crate::engine::event::Outcome;
use crate::engine::time::Time;
use crate::preflight::Finding;
use crate::redis_client::acl::Asks;
use crate::redis_client::failure::Failure;
use crate::redis_client::keys::{Reading, printable_name};
use crate::redis_client::{Endpoint, Server};

/// How long the writers of keys have for coming back, after an outage of a server that is not the bus's.
const RETURNING: Duration = Duration::from_secs(60);

/// Reads keys, and knows whether their server was away.
pub(super) struct Source {
    reading: Reading,
    /// The server is not the bus's.
    own: bool,
    outage: Outage,
}

/// What was seen of a server's outages.
#[derive(Debug, Default)]
struct Outage {
    connects: u64,
    /// When it last answered.
    answered: Option<Time>,
    /// It did not answer the last time.
    away: bool,
    /// Until then failures are no evidence.
    returning: Option<Time>,
}

impl Source {
    /// `asks`: what will be read.
    pub(super) fn new(bus: &Server, own: Option<&Endpoint>, asks: Asks<'_>) -> Self {
        Self {
            reading: Reading::new(bus.or(own), "check", asks),
            own: own.is_some(),
            outage: Outage::default(),
        }
    }

    /// What reads; for a server of its own it was found out that it is no replica: there keys may be old, or seem
    /// expired while its master is away.
    ///
    /// # Errors
    /// Why nothing may be concluded from it.
    async fn master(&mut self, within: Duration) -> Result<&mut Reading, String> {
        if self.own {
            match self.reading.is_replica(within).await {
                Ok(false) => {}
                Ok(true) => {
                    return Err(format!(
                        "{} is a replica, whose keys may be old: name its master",
                        self.reading.place()
                    ));
                }
                Err(failure) => return Err(self.failed(failure)),
            }
        }
        Ok(&mut self.reading)
    }

    /// A read took too long.
    fn late(&mut self) {
        self.outage.away = true;
    }

    /// A read failed: nothing is known of its keys.
    fn failed(&mut self, failure: Failure) -> String {
        self.outage.away |= matches!(failure, Failure::Down { .. });
        format!("{}: {}", self.reading.place(), failure.into_text())
    }

    /// What follows from a read that succeeded: what looks like a failure is none while writers come back.
    fn believed(&mut self, outcome: Outcome, now: Time) -> Outcome {
        let returning = self.outage.answered(self.reading.connects(), now);
        match outcome {
            Outcome::Fail { detail, .. } | Outcome::Doubt { detail, .. } if self.own && returning => {
                Outcome::Unknown {
                    detail: format!("{detail}; but its server was away a moment ago"),
                }
            }
            outcome => outcome,
        }
    }
}

impl Outage {
    /// It answered. True while its clients have time to come back.
    fn answered(&mut self, connects: u64, now: Time) -> bool {
        let before = self.answered.replace(now);
        // Reconnected without a failure in between: it was started anew between two looks, or it closed an idle
        // connection, after which nothing recent was lost.
        let anew = self.connects > 0
            && connects != self.connects
            && before.is_some_and(|before| now.since(before) < RETURNING);
        self.connects = connects;
        // That it was away before it ever answered is no outage that was seen; the grace is for that.
        if (std::mem::take(&mut self.away) && before.is_some()) || anew {
            self.returning = Some(now + RETURNING);
        }
        self.returning.is_some_and(|until| now < until)
    }
}

/// What reads keys for a preflight. `None` as a server: the embedded bus.
fn try_out(server: Option<Server>, asks: Asks<'_>) -> Result<Reading, Finding> {
    let server = server.ok_or_else(|| {
        Finding::missing(
            "the embedded bus keeps no keys of applications",
            "set bus.url to the Redis that has them, or the check's `redis`",
        )
    })?;
    Ok(Reading::new(server, "preflight", asks))
}

/// Could keys be read from here? What came of reading them.
async fn found(mut reading: Reading, looked: Result<Finding, Failure>, within: Duration) -> Finding {
    let place = reading.place();
    let looked = match looked {
        Ok(finding) => reading.is_replica(within).await.map(|replica| (finding, replica)),
        Err(failure) => Err(failure),
    };
    match looked {
        Ok((_, true)) => Finding::missing(
            format!("{place} is a replica, whose keys may be old"),
            "name its master",
        ),
        Ok((finding, false)) => finding,
        Err(Failure::Refused { cure }) => Finding::missing(format!("{place} refuses"), cure),
        Err(Failure::Down { reason, .. }) => Finding::unknown(format!("{place}: {reason}")),
    }
}

/// A key's name as people see it: others may have chosen it.
fn named(key: &[u8]) -> String {
    format!("`{}`", printable_name(key))
}
