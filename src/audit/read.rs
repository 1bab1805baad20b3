//! Reading it: the newest records that somebody asks for, in bounded memory, whatever stands in the files.

use std::collections::{BTreeSet, VecDeque};
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::file::{identity, numbered, open_to_read};
use super::{FILES, MAX_RECORD, VERSION};

/// Read of one file; a longer one is none of ours, and its rest is not looked at.
const MAX_FILE: u64 = 256 << 20;

/// What is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// Only of this peer; what concerns the whole node is among it.
    pub peer: Option<String>,
    /// Only what was told from this moment on, since 1970.
    pub since: Option<Duration>,
    /// At most so many: the newest.
    pub limit: usize,
}

/// What was found, the oldest first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Page {
    /// The records, as they were written.
    pub records: Vec<Map<String, Value>>,
    /// There are older ones that fit.
    pub older: bool,
    /// Lines that are no record of this version: torn by a crash, or written by somebody else.
    pub skipped: u64,
}

/// Reads the files at `path`, blocking. No file is no error: nothing happened yet.
pub fn read(path: &Path, asked: &Asked) -> io::Result<Page> {
    let mut page = Page::default();
    let mut found: VecDeque<Map<String, Value>> = VecDeque::new();
    // The writer may turn them over meanwhile: what was read under one name is then found under the next.
    let mut seen = BTreeSet::new();
    for number in 0..FILES {
        let room = asked.limit - found.len();
        let mut newest = VecDeque::with_capacity(room.min(64));
        match open_to_read(&numbered(path, number)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
            Ok(file) => {
                if seen.insert(identity(&file.metadata()?)) {
                    page.older |= scan(file, asked, room, &mut newest, &mut page.skipped)?;
                }
            }
        }
        newest.append(&mut found);
        found = newest;
        if page.older {
            break;
        }
    }
    page.records = found.into();
    Ok(page)
}

/// The newest `room` records of a file that are wanted; true if it has more of them.
fn scan(
    file: std::fs::File,
    asked: &Asked,
    room: usize,
    newest: &mut VecDeque<Map<String, Value>>,
    skipped: &mut u64,
) -> io::Result<bool> {
    let mut reader = BufReader::new(file.take(MAX_FILE));
    let mut line = Vec::new();
    let mut more = false;
    loop {
        line.clear();
        // (Room for its end, and for one byte that shows that it is too long.)
        let bound = MAX_RECORD as u64 + 2;
        if reader.by_ref().take(bound).read_until(b'\n', &mut line)? == 0 {
            return Ok(more);
        }
        if line.last() != Some(&b'\n') && line.len() as u64 == bound {
            reader.skip_until(b'\n')?;
            *skipped += 1;
            continue;
        }
        let text = line.trim_ascii();
        if text.is_empty() {
            continue;
        }
        let Some(record) = record(text) else {
            *skipped += 1;
            continue;
        };
        if !asked.wants(&record) {
            continue;
        }
        newest.push_back(record);
        if newest.len() > room {
            newest.pop_front();
            more = true;
        }
    }
}

fn record(line: &[u8]) -> Option<Map<String, Value>> {
    let record: Map<String, Value> = serde_json::from_slice(line).ok()?;
    let whole = record.get("v").and_then(Value::as_u64) == Some(VERSION)
        && ["time", "event", "text"]
            .iter()
            .all(|key| record.get(*key).is_some_and(Value::is_string));
    whole.then_some(record)
}

impl Asked {
    fn wants(&self, record: &Map<String, Value>) -> bool {
        let of = record.get("peer").and_then(Value::as_str);
        let meant = match (&self.peer, of) {
            (Some(wanted), Some(peer)) => wanted == peer,
            (Some(_) | None, None) | (None, Some(_)) => true,
        };
        meant
            && self
                .since
                .is_none_or(|since| told_at(record).is_none_or(|at| at >= since))
    }
}

/// When it was told, since 1970, by its writer's wall clock.
fn told_at(record: &Map<String, Value>) -> Option<Duration> {
    let at: SystemTime = humantime::parse_rfc3339(record.get("time")?.as_str()?).ok()?;
    at.duration_since(UNIX_EPOCH).ok()
}
