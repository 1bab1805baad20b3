//! The `redis_lock` check: locks that must die with their owner, watched from outside and never touched. Their times
//! to live are sampled with their owners' values; what that says is `judge`'s business.
//!
//! A pattern's locks are found by SCAN, so many keys a look: whatever else the server holds, one look costs it little,
//! and a large keyspace is walked through in several. Names come from whoever may write keys; none of them, no owner
//! and no value is ever in a metric.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::super::Surroundings;
use super::super::active::Prober;
use super::judge::{Counts, Found, Judge, Seen};
use super::{Source, found, named, try_out};
use crate::engine::cause::Cause;
use crate::engine::event::Outcome;
use crate::engine::time::Clock;
use crate::preflight::Finding;
use crate::redis_client::acl::Asks;
use crate::redis_client::failure::Failure;
use crate::redis_client::keys::{Left, Reading};
use crate::redis_client::{Endpoint, Server};
use crate::telemetry::metrics::checks::{CheckKind, LockEnd, LockState, Locks};

/// Bytes of an owner's value that are compared.
const MAX_OWNER: usize = 256;
/// SCANs of one look: some 8,000 keys of the server's. With 100,000 keys they took 5 ms of its time a look.
const SCANS: usize = 32;
/// Locks of one question; between two of them others are served.
const AT_ONCE: usize = 256;

/// Which locks are watched.
#[derive(Clone, Debug, PartialEq)]
pub struct RedisLock {
    /// One, or many.
    pub which: Which,
    /// The server and database; `None`: the bus's.
    pub redis: Option<Endpoint>,
    /// Somebody must hold it. Default false: a free lock is as it should be.
    pub held: bool,
    /// A lock is suspect below this; `None`: it is learned when it is usually extended.
    pub ttl_min: Option<Duration>,
    /// More locks than this are not looked at, and then it is unknown how they are. Default 1000.
    pub max_keys: usize,
}

/// Names of locks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    /// This key.
    Key(String),
    /// Every key that matches, as in KEYS.
    Pattern(String),
}

/// Looks at them.
pub(in super::super) struct Look {
    wanted: RedisLock,
    source: Source,
    judge: Judge,
    sweep: Sweep,
    clock: Arc<dyn Clock>,
    locks: Locks,
}

/// The walk through the keyspace.
#[derive(Debug)]
struct Sweep {
    cursor: Vec<u8>,
    /// Not all fitted, in this walk so far.
    over: bool,
    /// The same of the last whole one; `None`: there was none yet.
    done: Option<bool>,
}

impl RedisLock {
    fn names(&self) -> &str {
        match &self.which {
            Which::Key(name) | Which::Pattern(name) => name,
        }
    }

    /// What is asked of the server.
    pub fn asks(&self) -> Asks<'_> {
        match &self.which {
            Which::Key(key) => Asks::Key(key),
            Which::Pattern(pattern) => Asks::Keys(pattern),
        }
    }
}

impl Look {
    pub(in super::super) fn new(wanted: RedisLock, around: &Surroundings, locks: Locks) -> Self {
        let source = Source::new(&around.redis, wanted.redis.as_ref(), wanted.asks());
        Self {
            judge: Judge::new(wanted.ttl_min),
            wanted,
            source,
            sweep: Sweep::new(),
            clock: Arc::clone(&around.reporting.clock),
            locks,
        }
    }

    async fn read(&mut self, within: Duration) -> Result<Vec<Seen>, String> {
        let began = self.clock.now();
        let clock = Arc::clone(&self.clock);
        let left = || within.saturating_sub(clock.now().since(began));
        self.source.master(within).await?;
        let mut names: BTreeSet<Vec<u8>> = self.judge.known().map(<[u8]>::to_vec).collect();
        match self.wanted.which.clone() {
            Which::Key(name) => drop(names.insert(name.into_bytes())),
            // Half of the time for finding them, so that the other half is left for looking.
            Which::Pattern(pattern) => {
                for _ in 0..SCANS {
                    if left() < within / 2 || self.go_on(&pattern, left(), &mut names).await? {
                        break;
                    }
                }
            }
        }
        let mut read = Vec::with_capacity(names.len());
        let names: Vec<&[u8]> = names.iter().map(Vec::as_slice).collect();
        for part in names.chunks(AT_ONCE) {
            let sent = self.clock.now();
            let sampled = self.source.reading.sample(part, MAX_OWNER, left()).await;
            let samples = sampled.map_err(|failure| self.source.failed(failure))?;
            let got = self.clock.now();
            read.extend(part.iter().zip(samples).map(|(key, sample)| Seen {
                key: key.to_vec(),
                sample,
                sent,
                got,
            }));
        }
        Ok(read)
    }

    /// One SCAN. True: that was the last of this walk.
    async fn go_on(
        &mut self,
        pattern: &str,
        within: Duration,
        names: &mut BTreeSet<Vec<u8>>,
    ) -> Result<bool, String> {
        let reading = &mut self.source.reading;
        let scanned = reading.scan(&self.sweep.cursor, pattern.as_bytes(), within).await;
        let scanned = scanned.map_err(|failure| self.source.failed(failure))?;
        self.sweep.over |= scanned.left_out > 0;
        for name in scanned.names {
            if names.len() < self.wanted.max_keys || names.contains(&name) {
                names.insert(name);
            } else {
                self.sweep.over = true;
            }
        }
        let last = scanned.cursor == b"0";
        self.sweep.cursor = scanned.cursor;
        if last {
            self.sweep.done = Some(std::mem::take(&mut self.sweep.over));
        }
        Ok(last)
    }

    fn judge(&mut self, read: Vec<Seen>) -> Outcome {
        let one = match self.wanted.which {
            Which::Key(_) => read.first().map(|lock| lock.sample.left),
            Which::Pattern(_) => None,
        };
        let found = self.judge.look(read);
        self.export(&found);
        if let Some(key) = &found.endless {
            return fail(
                Cause::PeerLeaking,
                format!(
                    "{} has no TTL: it outlives its owner ({})",
                    named(key),
                    counted(found.counts)
                ),
            );
        }
        if self.wanted.held && one == Some(Left::Absent) {
            let key = named(self.wanted.names().as_bytes());
            return fail(Cause::PeerSilent, format!("nobody holds {key}"));
        }
        if let Some(suspect) = found.suspect {
            return Outcome::Doubt {
                cause: Cause::PeerSilent,
                detail: format!(
                    "{} was not extended: {:.1?} are left, and {:.1?} when it is as usual ({})",
                    named(&suspect.key),
                    suspect.left,
                    suspect.usual,
                    counted(found.counts)
                ),
            };
        }
        match (&self.wanted.which, self.sweep.done) {
            (Which::Pattern(_), None) => unknown(format!(
                "still walking through the keys: {} so far",
                counted(found.counts)
            )),
            (Which::Pattern(pattern), Some(true)) => unknown(format!(
                "more than {} keys match {}, or have longer names than 512 bytes: how those are is not looked at",
                self.wanted.max_keys,
                named(pattern.as_bytes())
            )),
            _ => Outcome::Pass,
        }
    }

    fn export(&self, found: &Found) {
        let Counts {
            held,
            suspect,
            endless,
            free,
        } = found.counts;
        self.locks.set(LockState::Held, Some(held));
        self.locks.set(LockState::Suspect, Some(suspect));
        self.locks.set(LockState::Endless, Some(endless));
        // Of a pattern nobody knows how many could be held.
        if matches!(self.wanted.which, Which::Key(_)) {
            self.locks.set(LockState::Free, Some(free));
        }
        self.locks.ended(LockEnd::Expired, found.ends.expired);
        self.locks.ended(LockEnd::Released, found.ends.released);
        self.locks.ended(LockEnd::Taken, found.ends.taken);
    }
}

impl Sweep {
    fn new() -> Self {
        Self {
            cursor: b"0".to_vec(),
            over: false,
            done: None,
        }
    }
}

/// `3 held, 1 suspect`
fn counted(counts: Counts) -> String {
    let Counts {
        held,
        suspect,
        endless,
        ..
    } = counts;
    let words = [(held, "held"), (suspect, "suspect"), (endless, "without a TTL")];
    let words: Vec<String> = words
        .into_iter()
        .filter(|(count, word)| *count > 0 || *word == "held")
        .map(|(count, word)| format!("{count} {word}"))
        .collect();
    words.join(", ")
}

fn fail(cause: Cause, detail: String) -> Outcome {
    Outcome::Fail { cause, detail }
}

fn unknown(detail: String) -> Outcome {
    Outcome::Unknown { detail }
}

impl Prober for Look {
    const KIND: CheckKind = CheckKind::RedisLock;

    async fn look(&mut self, within: Duration) -> Outcome {
        let detail = match tokio::time::timeout(within, self.read(within)).await {
            Ok(Ok(read)) => {
                let outcome = self.judge(read);
                let now = self.clock.now();
                return self.source.believed(outcome, now);
            }
            Ok(Err(detail)) => detail,
            Err(_) => {
                self.source.late();
                format!("they were not read within {within:?}")
            }
        };
        // Not free: unknown. And the walk begins anew, perhaps on another server.
        self.judge.lose_sight();
        self.sweep = Sweep::new();
        self.locks.unknown();
        unknown(detail)
    }
}

/// Could they be read from here?
pub(in super::super) async fn could(wanted: RedisLock, server: Option<Server>, within: Duration) -> Finding {
    match try_out(server, wanted.asks()) {
        Ok(mut reading) => {
            let looked = try_to_read(&wanted, &mut reading, within).await;
            found(reading, looked, within).await
        }
        Err(missing) => missing,
    }
}

async fn try_to_read(
    wanted: &RedisLock,
    reading: &mut Reading,
    within: Duration,
) -> Result<Finding, Failure> {
    let name = wanted.names().as_bytes();
    if let Which::Pattern(_) = &wanted.which {
        reading.scan(b"0", name, within).await?;
    }
    // A pattern as the name of a key asks for the same permission as what it matches.
    let sample = reading.sample(&[name], MAX_OWNER, within).await?.pop();
    Ok(match (&wanted.which, sample.map(|sample| sample.left)) {
        (Which::Key(_), Some(Left::Forever)) => Finding::missing(
            format!("{} has no TTL: it outlives its owner", named(name)),
            "let its owner set it with one (SET … NX PX)",
        ),
        (Which::Key(_), Some(Left::Absent)) => Finding::noted("nobody holds it now"),
        _ => Finding::OK,
    })
}
