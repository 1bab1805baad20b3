//! What is asked about keys. Only reading commands: nothing here can change or keep a key, not even its idle time
//! (but for the LRU clock of a value that is read).
//!
//! A string is read by GETRANGE, so that of one of 512 MB no more than its first bytes cross the wire; and together
//! with its PTTL, so that both are of one moment.

use std::time::Duration;

use super::Server;
use super::acl::{Asks, Rules};
use super::asker::Asker;
use super::failure::{Asked, Failure, printable};
use super::resp::Value;
use crate::engine::event::Role;

/// Keys of one question: the server serves nobody else meanwhile.
const AT_ONCE: usize = 256;
/// `COUNT` of a SCAN: about so many keys are looked at, and so many names come at most (or a bit more).
const COUNT: &[u8] = b"256";
/// Longest name of a key that is handed out, in bytes.
pub(crate) const MAX_NAME: usize = 512;

/// Bytes of a name that are shown.
const SHOWN: usize = 64;

/// One key, as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sample {
    pub(crate) left: Left,
    pub(crate) value: Stored,
}

/// How long a key will be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Left {
    /// It is not there.
    Absent,
    /// Until somebody deletes it.
    Forever,
    Time(Duration),
}

/// What it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stored {
    /// This string; an empty one also where there is no key.
    Text(Vec<u8>),
    /// A string that is longer than was asked for.
    Longer,
    /// No string.
    OtherType,
}

/// Names of keys, as far as they fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Scanned {
    /// To go on with; `0`: that was all.
    pub(crate) cursor: Vec<u8>,
    pub(crate) names: Vec<Vec<u8>>,
    /// Names that are longer than is taken.
    pub(crate) left_out: usize,
}

/// Reads the keys of one server's database.
#[derive(Debug)]
pub(crate) struct Reading {
    asker: Asker,
    /// What reading takes, as ACL SETUSER takes it.
    rules: String,
}

impl Reading {
    /// Connects to nothing yet. `asks`: what will be read.
    pub(crate) fn new(server: Server, purpose: &str, asks: Asks<'_>) -> Self {
        let asker = Asker::of_keys(server, purpose);
        let mut rules = Rules::of(asks);
        if asker.db() != 0 {
            rules.add(Asks::Database);
        }
        let rules = rules.to_string();
        Self { asker, rules }
    }

    /// The server, in words and without secrets.
    pub(crate) fn place(&self) -> String {
        self.asker.place()
    }

    /// Connections that were made so far.
    pub(crate) fn connects(&self) -> u64 {
        self.asker.connects()
    }

    /// Whether the server is a replica now.
    pub(crate) async fn is_replica(&mut self, within: Duration) -> Result<bool, Failure> {
        Ok(self.asker.role(within).await? == Role::Replica)
    }

    /// How long it will be there, and its first bytes: up to `limit`, at most 64 KiB. In the order of `keys`.
    pub(crate) async fn sample(
        &mut self,
        keys: &[&[u8]],
        limit: usize,
        within: Duration,
    ) -> Result<Vec<Sample>, Failure> {
        let mut samples = Vec::with_capacity(keys.len());
        for part in keys.chunks(AT_ONCE) {
            samples.extend(self.sample_part(part, limit, within).await?);
        }
        Ok(samples)
    }

    async fn sample_part(
        &mut self,
        keys: &[&[u8]],
        limit: usize,
        within: Duration,
    ) -> Result<Vec<Sample>, Failure> {
        let end = limit.to_string();
        let words: Vec<[&[u8]; 4]> = keys
            .iter()
            .map(|key| [b"GETRANGE".as_slice(), key, b"0", end.as_bytes()])
            .collect();
        let ttls: Vec<[&[u8]; 2]> = keys.iter().map(|key| [b"PTTL".as_slice(), key]).collect();
        let asked = |command| Asked::Keys(command, &self.rules);
        let questions: Vec<(Asked<'_>, &[&[u8]])> = words
            .iter()
            .zip(&ttls)
            .flat_map(|(get, ttl)| {
                [
                    (asked("GETRANGE"), get.as_slice()),
                    (asked("PTTL"), ttl.as_slice()),
                ]
            })
            .collect();
        let mut samples = vec![
            Sample {
                left: Left::Absent,
                value: Stored::OtherType,
            };
            keys.len()
        ];
        let take = |at: usize, value: &Value<'_>| {
            let Some(sample) = samples.get_mut(at / 2) else {
                return false;
            };
            if at.is_multiple_of(2) {
                stored(value, limit).map(|stored| sample.value = stored)
            } else {
                left(value).map(|left| sample.left = left)
            }
            .is_some()
        };
        self.asker.ask_all(&questions, within, take).await?;
        Ok(samples)
    }

    /// How long the key will be there, whatever its type.
    pub(crate) async fn left(&mut self, key: &[u8], within: Duration) -> Result<Left, Failure> {
        let words: [&[u8]; 2] = [b"PTTL", key];
        let mut found = Left::Absent;
        let questions = [(Asked::Keys("PTTL", &self.rules), words.as_slice())];
        self.asker
            .ask_all(&questions, within, |_, value| {
                left(value).map(|left| found = left).is_some()
            })
            .await?;
        Ok(found)
    }

    /// Goes on from `cursor` (`0` at first) through the names that match.
    pub(crate) async fn scan(
        &mut self,
        cursor: &[u8],
        pattern: &[u8],
        within: Duration,
    ) -> Result<Scanned, Failure> {
        let words: [&[u8]; 6] = [b"SCAN", cursor, b"MATCH", pattern, b"COUNT", COUNT];
        let questions = [(Asked::Keys("SCAN", &self.rules), words.as_slice())];
        let mut found = None;
        self.asker
            .ask_all(&questions, within, |_, value| {
                found = scanned(value);
                found.is_some()
            })
            .await?;
        found.ok_or_else(|| Failure::refused("the server answered SCAN with nothing"))
    }
}

/// A key's name, fit for logs and short: whoever may write keys chose it.
pub(crate) fn printable_name(name: &[u8]) -> String {
    let shown = printable(&name[..name.len().min(SHOWN)]);
    if name.len() > SHOWN { shown + "…" } else { shown }
}

fn stored(value: &Value<'_>, limit: usize) -> Option<Stored> {
    match value {
        Value::Bulk(text) if text.len() > limit => Some(Stored::Longer),
        Value::Bulk(text) => Some(Stored::Text(text.to_vec())),
        Value::Error(error) if error.starts_with(b"WRONGTYPE") => Some(Stored::OtherType),
        _ => None,
    }
}

fn left(value: &Value<'_>) -> Option<Left> {
    match value {
        Value::Integer(-2) => Some(Left::Absent),
        Value::Integer(-1) => Some(Left::Forever),
        Value::Integer(ms) => Some(Left::Time(Duration::from_millis(u64::try_from(*ms).ok()?))),
        _ => None,
    }
}

fn scanned(value: &Value<'_>) -> Option<Scanned> {
    let Value::List(items) = value else { return None };
    let [cursor, Value::List(names)] = items.as_slice() else {
        return None;
    };
    let names: Vec<&[u8]> = names.iter().filter_map(Value::text).collect();
    let (fit, long): (Vec<&[u8]>, Vec<&[u8]>) = names.into_iter().partition(|name| name.len() <= MAX_NAME);
    Some(Scanned {
        cursor: cursor.text()?.to_vec(),
        names: fit.into_iter().map(<[u8]>::to_vec).collect(),
        left_out: long.len(),
    })
}
