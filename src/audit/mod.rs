//! What acted and what forbade, kept on disk for whoever asks the next morning: one JSON object a line, in a file of
//! bounded size, with who asked for it. Written behind the event loop's back, which never waits for a disk; read by
//! `/api/v1/history`, and by `defib history` where no node runs.
//!
//! It judges nothing, and knows of notices only what they are called.

mod file;
mod read;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};
use tokio::sync::mpsc;

use crate::calendar::stamp;
use crate::engine::decision::{Notice, What};
use crate::engine::time::Time;
use crate::telemetry::metrics::audit::{AuditMetrics, Outcome};
use file::File;
pub use read::{Asked, Page, read};

/// Version of a record's form. Records of another one are passed over by readers, and said.
pub const VERSION: u64 = 1;
/// Longest record, in bytes. What is longer is cut to its words.
pub const MAX_RECORD: usize = 4096;
/// The file, and older ones beside it (`.1` to `.3`).
pub const FILES: u32 = 4;
/// Records that may wait for the disk; more are dropped and counted.
const WAITING: usize = 1024;
/// Characters of a text in a record that had to be cut.
const CUT: usize = 500;

/// Where it is kept, and how much.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The newest file.
    pub path: PathBuf,
    /// Of all files together.
    pub max_bytes: u64,
}

/// Where the event loop leaves what is to be kept. Never waits.
#[derive(Clone, Debug)]
pub struct Recorder {
    records: mpsc::Sender<(Duration, Arc<Notice>)>,
    metrics: AuditMetrics,
}

/// The other end: writes until every recorder is gone.
#[derive(Debug)]
pub struct Writer {
    file: File,
    waiting: mpsc::Receiver<(Duration, Arc<Notice>)>,
    node: Arc<str>,
    boot: Arc<str>,
    metrics: AuditMetrics,
    /// What went wrong last; told only when it changes.
    trouble: Option<String>,
}

/// The two ends of a node's audit.
pub fn audit(
    settings: &Settings,
    node: Arc<str>,
    boot: Arc<str>,
    metrics: AuditMetrics,
) -> (Recorder, Writer) {
    let (records, waiting) = mpsc::channel(WAITING);
    let writer = Writer {
        file: File::new(settings),
        waiting,
        node,
        boot,
        metrics: metrics.clone(),
        trouble: None,
    };
    (Recorder { records, metrics }, writer)
}

impl Recorder {
    /// Keeps `notice`, which was told at `wall` since 1970, if it is one that is kept.
    pub fn take(&self, wall: Duration, notice: &Arc<Notice>) {
        if !is_kept(&notice.what) {
            return;
        }
        if self.records.try_send((wall, Arc::clone(notice))).is_err() {
            self.metrics.records(Outcome::Dropped, 1);
        }
    }
}

/// Whether notices of this name are kept; for who has only their names.
pub fn keeps(event: &str) -> bool {
    !["liveness", "bus", "stalled", "goodbye", "leave_overdue"].contains(&event)
}

/// Whether it acts or forbids, or says whose life it was done to. What is only seen is in the log and in the metrics.
fn is_kept(what: &What) -> bool {
    match what {
        What::Incarnation { .. }
        | What::EpisodeOpened { .. }
        | What::Refused { .. }
        | What::WouldHeal { .. }
        | What::Granted { .. }
        | What::Acted { .. }
        | What::ExitedInstead { .. }
        | What::Recovered { .. }
        | What::GaveUp { .. }
        | What::EpisodeClosed { .. }
        | What::MassSilenceTripped { .. }
        | What::MassSilenceEnded
        | What::DuplicateNode { .. }
        | What::ConfigReloaded { .. }
        | What::ConfigRefused { .. }
        | What::Maintenance { .. }
        | What::Restart { .. }
        | What::Operator { .. } => true,
        What::Liveness { .. }
        | What::Bus { .. }
        | What::Stalled { .. }
        | What::Goodbye
        | What::LeaveOverdue { .. } => false,
    }
}

impl Writer {
    /// Writes what comes. A disk that is full or gone is told and counted, and harms nothing else; what could not be
    /// written is not kept for later.
    pub async fn run(mut self) -> anyhow::Result<()> {
        let mut taken = Vec::new();
        while self.waiting.recv_many(&mut taken, WAITING).await > 0 {
            let lines: Vec<Vec<u8>> = taken
                .drain(..)
                .filter_map(|(wall, notice)| self.line(wall, &notice))
                .collect();
            let count = lines.len();
            let mut file = self.file;
            let path = file.path().to_owned();
            let settings = file.settings().clone();
            let written = tokio::task::spawn_blocking(move || {
                let result = file.append(&lines);
                (file, result)
            })
            .await;
            let (file, result) = written.unwrap_or_else(|panicked| {
                let error = std::io::Error::other(format!("the write panicked: {panicked}"));
                (File::new(&settings), Err(error))
            });
            self.file = file;
            match result {
                Ok(()) => {
                    self.metrics.records(Outcome::Written, count);
                    if self.trouble.take().is_some() {
                        tracing::info!("the audit {} is written again", path.display());
                    }
                }
                Err(error) => {
                    self.metrics.records(Outcome::Failed, count);
                    let trouble = error.to_string();
                    if self.trouble.as_ref() != Some(&trouble) {
                        tracing::warn!(
                            "cannot write the audit {}: {trouble}; the node goes on, and what happens meanwhile is in \
                             its log alone",
                            path.display()
                        );
                        self.trouble = Some(trouble);
                    }
                }
            }
        }
        Ok(())
    }

    /// One line of the file, with its end.
    fn line(&self, wall: Duration, notice: &Notice) -> Option<Vec<u8>> {
        let mut record = Map::new();
        record.insert("v".to_owned(), VERSION.into());
        record.insert("time".to_owned(), stamp(wall).into());
        record.insert("node".to_owned(), (*self.node).into());
        record.insert("boot".to_owned(), (*self.boot).into());
        let Ok(Value::Object(mut told)) = serde_json::to_value(notice) else {
            return None;
        };
        // On this node's own clock, which nobody else has.
        told.remove("at");
        if let Some(Value::Object(refusal)) = told.get_mut("refusal") {
            dated(refusal, wall, notice.at, &notice.what);
        }
        record.append(&mut told);
        record.insert("text".to_owned(), notice.what.to_string().into());
        let mut line = serde_json::to_vec(&record).ok()?;
        if line.len() >= MAX_RECORD {
            line = serde_json::to_vec(&cut(record)).ok()?;
        }
        line.push(b'\n');
        Some(line)
    }
}

/// The moment at which a refusal could change, on the wall clock.
fn dated(refusal: &mut Map<String, Value>, wall: Duration, at: Time, what: &What) {
    let until = match what {
        What::Refused { refusal, .. }
        | What::Restart {
            refusal: Some(refusal),
            ..
        } => refusal.until,
        _ => None,
    };
    match until.filter(|until| *until < Time::MAX) {
        Some(until) => refusal.insert(
            "until".to_owned(),
            stamp(wall.saturating_add(until.since(at))).into(),
        ),
        None => refusal.remove("until"),
    };
}

/// What is left of a record that is too long: who, what, and the beginning of its words.
fn cut(record: Map<String, Value>) -> Map<String, Value> {
    const KEPT: [&str; 9] = [
        "v", "time", "node", "boot", "peer", "event", "episode", "token", "text",
    ];
    let mut cut: Map<String, Value> = record
        .into_iter()
        .filter(|(key, _)| KEPT.contains(&key.as_str()))
        .map(|(key, value)| match value {
            Value::String(text) => (key, text.chars().take(CUT).collect::<String>().into()),
            other => (key, other),
        })
        .collect();
    cut.insert("cut".to_owned(), true.into());
    cut
}

#[cfg(test)]
mod tests;
