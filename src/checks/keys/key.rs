//! The `redis_key` check: a key that a program keeps is its sign of life. It must be there; and where the
//! configuration asks for it, live on for some time, have been written not long ago, and hold the right thing.
//!
//! A key that is missing or old is silence (`peer_silent`); one that says that something is wrong is `peer_stuck`.
//! What cannot be read, or is not what the configuration takes it for, is unknown.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::super::Surroundings;
use super::super::active::Prober;
use super::age::{Aged, Freshness};
use super::{Source, found, named, try_out};
use crate::engine::cause::Cause;
use crate::engine::event::Outcome;
use crate::engine::time::Clock;
use crate::http_client::{Answer, Expect, JsonCondition};
use crate::preflight::Finding;
use crate::redis_client::acl::Asks;
use crate::redis_client::failure::Failure;
use crate::redis_client::keys::{Left, Reading, Sample, Stored};
use crate::redis_client::{Endpoint, Server};
use crate::telemetry::metrics::checks::CheckKind;

/// Bytes of a value that are read; a longer one is unknown.
const MAX_VALUE: usize = 64 * 1024;

/// A key, and how it must be.
#[derive(Clone, Debug, PartialEq)]
pub struct RedisKey {
    /// Its name.
    pub key: String,
    /// The server and database; `None`: the bus's.
    pub redis: Option<Endpoint>,
    /// It must live on for so long at least.
    pub ttl_min: Option<Duration>,
    /// It must not be older than this.
    pub age: Option<MaxAge>,
    /// Its value must be this.
    pub value: Option<Condition>,
}

/// How old the key's word may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MaxAge {
    /// Path of the field with the time of writing in a JSON value; `None`: the value is that time.
    pub field: Option<String>,
    /// So old.
    pub max: Duration,
}

/// What the value must be.
#[derive(Clone, Debug, PartialEq)]
pub enum Condition {
    /// A field of a JSON value.
    Json(JsonCondition),
    /// The value itself.
    Plain(Expect),
}

impl RedisKey {
    const fn reads_value(&self) -> bool {
        self.age.is_some() || self.value.is_some()
    }

    /// What is asked of the server.
    pub fn asks(&self) -> Asks<'_> {
        if self.reads_value() {
            Asks::Key(&self.key)
        } else {
            Asks::KeyLeft(&self.key)
        }
    }
}

/// Looks at it.
pub(in super::super) struct Look {
    wanted: RedisKey,
    source: Source,
    freshness: Freshness,
    clock: Arc<dyn Clock>,
}

impl Look {
    pub(in super::super) fn new(wanted: RedisKey, around: &Surroundings) -> Self {
        let source = Source::new(&around.redis, wanted.redis.as_ref(), wanted.asks());
        Self {
            wanted,
            source,
            freshness: Freshness::default(),
            clock: Arc::clone(&around.reporting.clock),
        }
    }

    async fn read(&mut self, within: Duration) -> Result<Sample, String> {
        let key = self.wanted.key.as_bytes();
        let reads_value = self.wanted.reads_value();
        let reading = self.source.master(within).await?;
        let read = if reads_value {
            let samples = reading.sample(&[key], MAX_VALUE, within).await;
            samples.map(|mut samples| samples.pop())
        } else {
            let left = reading.left(key, within).await;
            let value = Stored::OtherType;
            left.map(|left| Some(Sample { left, value }))
        };
        match read {
            Ok(Some(sample)) => Ok(sample),
            Ok(None) => Err("nothing was read".to_owned()),
            Err(failure) => Err(self.source.failed(failure)),
        }
    }

    /// What its time to live says.
    fn lives(&self, left: Left) -> Outcome {
        let key = named(self.wanted.key.as_bytes());
        match (left, self.wanted.ttl_min) {
            (Left::Absent, _) => silent(format!("there is no key {key}")),
            (Left::Forever, Some(_)) => unknown(format!(
                "{key} has no TTL, so that it outlives whoever wrote it: `ttl_min` can tell nothing"
            )),
            (Left::Time(left), Some(min)) if left < min => {
                silent(format!("{key} lives on for {left:?} only, not for {min:?}"))
            }
            (Left::Forever | Left::Time(_), _) => Outcome::Pass,
        }
    }

    fn ages(&mut self, text: &str, json: Option<&Value>) -> Outcome {
        let Some(MaxAge { field, max }) = &self.wanted.age else {
            return Outcome::Pass;
        };
        let key = named(self.wanted.key.as_bytes());
        let (stamp, what) = match (field, json) {
            (None, _) => (Some(parsed(text)), key.clone()),
            (Some(path), Some(json)) => (
                crate::http_client::lookup(json, path).cloned(),
                format!("{path} of {key}"),
            ),
            (Some(_), None) => return unknown(format!("{key} holds no JSON")),
        };
        let Some(stamp) = stamp else {
            return unknown(format!("{key} has no such field: {what}"));
        };
        match self.freshness.see(&stamp, self.clock.wall(), self.clock.now()) {
            Ok(Aged::By(age)) if age <= *max => Outcome::Pass,
            Ok(Aged::By(age)) => silent(format!("{what} is {} old, and may be {max:?}", rough(age))),
            Ok(Aged::Unclear(why, seen)) if seen <= *max => {
                unknown(format!("{what} {why}: it counts once it changes"))
            }
            Ok(Aged::Unclear(why, seen)) => silent(format!(
                "{what} {why}, and has not changed for {}; it may be {max:?} old",
                rough(seen)
            )),
            Err(why) => unknown(format!("{what}: {why}")),
        }
    }

    fn holds(&self, text: &str, json: Option<&Value>) -> Outcome {
        let key = named(self.wanted.key.as_bytes());
        let answer = match (&self.wanted.value, json) {
            (None, _) => return Outcome::Pass,
            (Some(Condition::Json(condition)), Some(json)) => condition.judge(json),
            (Some(Condition::Json(_)), None) => Answer::Unknown("it holds no JSON".to_owned()),
            (Some(Condition::Plain(expect)), _) => expect.judge("its value", &plain(text, expect)),
        };
        match answer {
            Answer::Pass => Outcome::Pass,
            Answer::Fail(why) => Outcome::Fail {
                cause: Cause::PeerStuck,
                detail: format!("{key}: {why}"),
            },
            Answer::Unknown(why) => unknown(format!("{key}: {why}")),
        }
    }

    fn judge(&mut self, sample: Sample) -> Outcome {
        let lives = self.lives(sample.left);
        if sample.left == Left::Absent {
            self.freshness.forget();
        }
        if lives != Outcome::Pass || !self.wanted.reads_value() {
            return lives;
        }
        let key = named(self.wanted.key.as_bytes());
        let bytes = match sample.value {
            Stored::Text(bytes) => bytes,
            Stored::Longer => return unknown(format!("{key} holds more than {MAX_VALUE} bytes")),
            Stored::OtherType => return unknown(format!("{key} holds no string (WRONGTYPE)")),
        };
        let Ok(text) = std::str::from_utf8(&bytes) else {
            return unknown(format!("{key} holds no text"));
        };
        let json: Option<Value> = serde_json::from_str(text).ok();
        // What it says counts before how long ago it said so: a word against itself is no silence.
        let outcomes = [self.holds(text, json.as_ref()), self.ages(text, json.as_ref())];
        let mut unknown = Outcome::Pass;
        for outcome in outcomes {
            match outcome {
                Outcome::Fail { .. } => return outcome,
                Outcome::Unknown { .. } if unknown == Outcome::Pass => unknown = outcome,
                _ => {}
            }
        }
        unknown
    }
}

/// The value as the kind of thing that it is compared with.
fn plain(text: &str, expect: &Expect) -> Value {
    match expect {
        Expect::Equals(Value::String(_)) => Value::String(text.to_owned()),
        _ => parsed(text),
    }
}

/// A number, `true` or `false`, where it is one; else a text.
fn parsed(text: &str) -> Value {
    let value = serde_json::from_str(text.trim()).ok();
    let scalar = value.filter(|value| matches!(value, Value::Number(_) | Value::Bool(_)));
    scalar.unwrap_or_else(|| Value::String(text.trim().to_owned()))
}

/// No more digits than matter.
fn rough(age: Duration) -> String {
    if age == Duration::MAX {
        return "for ever".to_owned();
    }
    let unit = if age < Duration::from_secs(10) {
        100_000_000
    } else {
        1_000_000_000
    };
    let nanos = age.subsec_nanos() / unit * unit;
    format!("{:?}", Duration::new(age.as_secs(), nanos))
}

fn silent(detail: String) -> Outcome {
    Outcome::Fail {
        cause: Cause::PeerSilent,
        detail,
    }
}

fn unknown(detail: String) -> Outcome {
    Outcome::Unknown { detail }
}

impl Prober for Look {
    const KIND: CheckKind = CheckKind::RedisKey;

    async fn look(&mut self, within: Duration) -> Outcome {
        match tokio::time::timeout(within, self.read(within)).await {
            Ok(Ok(sample)) => {
                let outcome = self.judge(sample);
                let now = self.clock.now();
                self.source.believed(outcome, now)
            }
            Ok(Err(detail)) => unknown(detail),
            Err(_) => {
                self.source.late();
                unknown(format!("it was not read within {within:?}"))
            }
        }
    }
}

/// Could it be read from here?
pub(in super::super) async fn could(wanted: RedisKey, server: Option<Server>, within: Duration) -> Finding {
    match try_out(server, wanted.asks()) {
        Ok(mut reading) => {
            let looked = try_to_read(&wanted, &mut reading, within).await;
            found(reading, looked, within).await
        }
        Err(missing) => missing,
    }
}

async fn try_to_read(wanted: &RedisKey, reading: &mut Reading, within: Duration) -> Result<Finding, Failure> {
    let key = wanted.key.as_bytes();
    let left = if wanted.reads_value() {
        match reading.sample(&[key], MAX_VALUE, within).await?.pop() {
            Some(sample) if sample.value == Stored::OtherType => {
                let reason = format!("{} holds no string", named(key));
                return Ok(Finding::missing(
                    reason,
                    "name a string, or ask for its existence alone",
                ));
            }
            sample => sample.map_or(Left::Absent, |sample| sample.left),
        }
    } else {
        reading.left(key, within).await?
    };
    Ok(match left {
        Left::Absent => Finding::noted(format!("there is no key {} now", named(key))),
        Left::Forever if wanted.ttl_min.is_some() => Finding::missing(
            format!("{} has no TTL", named(key)),
            "let its writer set one (SET … EX), or take `ttl_min` out",
        ),
        Left::Forever if !wanted.reads_value() => Finding::noted(format!(
            "{} has no TTL: it outlives its writer, and its existence proves no life",
            named(key)
        )),
        Left::Forever | Left::Time(_) => Finding::OK,
    })
}
