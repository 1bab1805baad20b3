//! The `file` check: a program's heartbeat file, kstlib's or any other. What it sees:
//!
//! | the file | outcome |
//! |---|---|
//! | changed within `max_age` | pass |
//! | at first sight: its own timestamp (a plain file's modification) is at most `max_age` old | pass |
//! | unchanged for longer; missing; not a regular file; no whole JSON object; without a timestamp | fail: `peer_silent` |
//! | its process has ended, or is a younger one | fail: `peer_exited`, and looked at again at once |
//! | it changes, and the `progress` field does not | fail: `peer_stuck` |
//! | says what `stopped_when` waits for | unknown, and the peer is said to leave on purpose |
//! | cannot be read; too long; of another host; at first sight of a future date or without a zone | unknown |
//!
//! Life is a change of *content*, timed by our own clock (a plain file's is also a new modification time). Time in
//! which this node did not run, or could not read the file, does not count.

mod changes;
mod judge;
mod preflight;
#[cfg(test)]
mod tests;
mod watched;
mod words;
mod writer;

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

pub(super) use changes::Directories;
use judge::{Judge, Said, Sight};
use watched::Moment;
pub(super) use words::LastWords;

use super::{Reporting, Schedule};
use crate::engine::cause::Cause;
use crate::engine::event::{CheckId, Event, Next, Observation, Outcome, Report, Word};
use crate::heartbeat_file::Unread;
use crate::owner_table::OwnerTable;
use crate::telemetry::metrics::checks::{CheckKind, RunOutcome};

/// Looks that follow at once when the writer has ended: what is certain need not wait for `fail_after`.
const AGAIN: u8 = 4;
/// Between two of them, and between two readings of a file that may be half written.
const SOON: Duration = Duration::from_millis(50);
/// Readings of a file that is not whole, before it is called so: not every writer replaces it as a whole.
const READINGS: u8 = 3;

/// What is watched, and what it must be.
#[derive(Clone, Debug, PartialEq)]
pub struct File {
    /// Where it is. Symbolic links are followed.
    pub path: PathBuf,
    /// What is in it.
    pub format: Format,
    /// Longest time without a change.
    pub max_age: Duration,
    /// What must go on besides.
    pub progress: Option<Progress>,
    /// What it says when it stops on purpose.
    pub stopped_when: Option<Condition>,
    /// What its `pid` is good for.
    pub pid: Pid,
    /// It may come from any host; then its `pid` says nothing.
    pub any_host: bool,
}

/// What is in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Format {
    /// A JSON object.
    Json {
        /// Path of the field with its date; `None`: it has none, and only its changes count.
        timestamp: Option<String>,
    },
    /// Anything: its modification time is its date.
    Plain,
}

/// A field that must change while the file does: a thread beats on when the loop hangs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Its path.
    pub field: String,
    /// Longest time without a change of it.
    pub max_age: Duration,
}

/// A field with a certain value.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    /// Its path.
    pub field: String,
    /// Its value.
    pub equals: Value,
}

/// What the `pid` of a file is good for. A number means something in its own pid namespace only, and nothing in the
/// file says which that is: containers of a pod, and those with `network_mode: service:…`, share the host's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pid {
    /// Its end counts once it was seen to run here while the file changed.
    Seen,
    /// It is a process of this pid namespace: it must be there from the first sight on.
    Always,
    /// Nothing.
    Ignored,
}

impl File {
    /// What its failures can mean.
    pub const fn proves(&self) -> &'static [Cause] {
        match (self.checks_pid(), self.progress.is_some()) {
            (true, true) => &[Cause::PeerExited, Cause::PeerSilent, Cause::PeerStuck],
            (true, false) => &[Cause::PeerExited, Cause::PeerSilent],
            (false, true) => &[Cause::PeerSilent, Cause::PeerStuck],
            (false, false) => &[Cause::PeerSilent],
        }
    }

    const fn checks_pid(&self) -> bool {
        !self.any_host && !matches!(self.pid, Pid::Ignored) && matches!(self.format, Format::Json { .. })
    }
}

/// The check, as it runs.
pub(super) struct Watch {
    check: CheckId,
    schedule: Schedule,
    reporting: Reporting,
    directories: Directories,
    path: PathBuf,
    /// The kernel saw it being written.
    told: Arc<Notify>,
    judge: Judge,
    reading: Reading,
    /// The last look failed: what is broken is not read three times each time.
    failing: bool,
    /// The file can say that its writer stops.
    tells_purpose: bool,
    /// It was last seen to say that it stopped, or that it did not.
    stopped: Option<bool>,
    /// It was not there since: what it says next is news.
    absent: bool,
}

impl Watch {
    pub(super) fn new(
        check: CheckId,
        file: File,
        schedule: Schedule,
        reporting: Reporting,
        owners: OwnerTable,
        directories: Directories,
    ) -> Self {
        Self {
            path: file.path.clone(),
            tells_purpose: file.stopped_when.is_some(),
            judge: Judge::new(file, check.peer, owners, schedule.interval),
            told: Arc::default(),
            check,
            schedule,
            reporting,
            directories,
            reading: Reading::default(),
            failing: false,
            stopped: None,
            absent: false,
        }
    }

    /// Runs until it is dropped.
    ///
    /// # Errors
    /// If the event loop is gone.
    pub(super) async fn run(mut self) -> anyhow::Result<Infallible> {
        let mut starts = self.schedule.starts(&*self.reporting.clock, true);
        let mut again = 0;
        loop {
            tokio::select! {
                _ = starts.tick() => {}
                () = self.told.notified() => {}
                () = self.judge.writer_ends() => {}
                () = tokio::time::sleep(SOON), if again > 0 => again -= 1,
            }
            let exited = self.look().await?;
            again = if exited { again.max(AGAIN) } else { again };
        }
    }

    /// One look. True if it is the one that saw the writer's end.
    async fn look(&mut self) -> anyhow::Result<bool> {
        let began = self.reporting.clock.now();
        let sight = self.read().await;
        self.absent |= matches!(sight, Err(Unread::Absent(_)));
        let at = Moment {
            now: self.reporting.clock.now(),
            wall: self.reporting.clock.wall(),
        };
        let Said {
            outcome,
            stopped,
            lives,
            exited,
        } = self.judge.judge(sight, at);
        self.failing = matches!(outcome, Outcome::Fail { .. });
        let took = at.now.since(began);
        let metrics = &self.reporting.metrics;
        metrics.ran(CheckKind::File, RunOutcome::of(&outcome), took);
        if let Some(word) = self.purpose(stopped, lives) {
            self.report(word).await?;
        }
        let observation = Observation {
            check: self.check,
            began,
            outcome,
        };
        self.reporting.send(Event::Observation(observation)).await?;
        Ok(exited)
    }

    /// What is to be told of its purpose, once for each change.
    fn purpose(&mut self, stopped: Option<String>, lives: bool) -> Option<Word> {
        match stopped {
            Some(detail) => {
                self.absent = false;
                let before = self.stopped.replace(true);
                (before != Some(true)).then_some(Word::Leaving { detail })
            }
            None if lives && self.tells_purpose => {
                let news = std::mem::take(&mut self.absent);
                match self.stopped.replace(false) {
                    Some(false) if !news => None,
                    // At first sight it may be older than what was said by other ways.
                    None if !news => Some(Word::Running),
                    Some(_) | None => Some(Word::Life {
                        up: true,
                        next: Next::AsBefore,
                    }),
                }
            }
            None => None,
        }
    }

    async fn report(&self, word: Word) -> anyhow::Result<()> {
        let report = Report {
            check: self.check,
            life: self.judge.life(),
            says: None,
            word,
        };
        self.reporting.send(Event::Report(report)).await
    }

    async fn read(&mut self) -> Result<Sight, Unread> {
        let plain = self.judge.is_plain();
        let mut left = if self.failing { 1 } else { READINGS };
        loop {
            let (directories, path, told) = (
                self.directories.clone(),
                self.path.clone(),
                Arc::clone(&self.told),
            );
            let watch = move || directories.watch(&path, &told);
            let reading = self.reading.next(&self.path, plain, self.schedule.timeout, watch);
            let sight = reading.await;
            left -= 1;
            let whole = match &sight {
                Ok(sight) => sight.is_whole(),
                Err(Unread::Absent(_)) => false,
                Err(Unread::Refused(_) | Unread::Failed(_)) => true,
            };
            if whole || left == 0 {
                return sight;
            }
            tokio::time::sleep(SOON).await;
        }
    }
}

/// One reading at a time, on a thread that cannot be cancelled: one that hangs (a dead network mount) is waited for
/// by the next looks, never started twice.
#[derive(Default)]
struct Reading(Option<JoinHandle<Result<Sight, Unread>>>);

impl Reading {
    /// `watch` is called right before it is read, on the same thread, so that no change between the two is missed.
    async fn next(
        &mut self,
        path: &Path,
        plain: bool,
        within: Duration,
        watch: impl FnOnce() + Send + 'static,
    ) -> Result<Sight, Unread> {
        let reading = self.0.get_or_insert_with(|| {
            let path = path.to_owned();
            tokio::task::spawn_blocking(move || {
                watch();
                Sight::read(&path, plain)
            })
        });
        let Ok(done) = tokio::time::timeout(within, reading).await else {
            let why = format!("reading it has not ended within {within:?}");
            return Err(Unread::Failed(why));
        };
        self.0 = None;
        done.unwrap_or_else(|error| Err(Unread::Failed(format!("reading it failed: {error}"))))
    }
}
