//! What a file means, look by look. It reads no clock and no file.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use super::watched::{Moment, Watched};
use super::writer::{Claim, Writer};
use super::{File, Format, Progress};
use crate::checks::process;
use crate::engine::cause::Cause;
use crate::engine::event::{Incarnation, Outcome, PeerId};
use crate::heartbeat_file::{self, Beat, MAX_BYTES, Stamp, Unread};
use crate::owner_table::{Holding, OwnerTable};

/// What one reading found.
#[derive(Clone, Debug)]
pub(super) struct Sight {
    /// Of the content; of a plain file, also of when it was written.
    print: u64,
    /// `None`: it is not read as JSON.
    pub(super) beat: Option<Result<Beat, String>>,
    cut: bool,
    pub(super) modified: Duration,
    uid: u32,
}

/// What follows from one look.
#[derive(Debug)]
pub(super) struct Said {
    pub(super) outcome: Outcome,
    /// It says that it stops on purpose, in these words.
    pub(super) stopped: Option<String>,
    /// It was seen to live.
    pub(super) lives: bool,
    /// The end of its writer was seen in this look.
    pub(super) exited: bool,
}

/// What is remembered from look to look.
pub(super) struct Judge {
    file: File,
    peer: PeerId,
    owners: OwnerTable,
    interval: Duration,
    writer: Writer,
    watched: Watched,
    known: Option<Known>,
    /// The writer's end is told.
    exited: bool,
}

/// A file that was seen.
struct Known {
    print: u64,
    /// When its content changed last, and how old it was then: more than nothing only at first sight.
    since: Duration,
    before: Duration,
    /// At first sight its age could not be told, for this reason, and it has not changed since.
    undated: Option<String>,
    pid: Option<u32>,
    /// It was silent, or no heartbeat, at the last look.
    broken: bool,
    moved: Option<Moved>,
}

/// The field that must change.
struct Moved {
    print: u64,
    since: Duration,
}

impl Sight {
    /// Blocks.
    pub(super) fn read(path: &Path, plain: bool) -> Result<Self, Unread> {
        let content = heartbeat_file::read(path)?;
        let modified = content.modified();
        let mut hasher = DefaultHasher::new();
        content.bytes.hash(&mut hasher);
        if plain {
            (modified, content.meta.len()).hash(&mut hasher);
        }
        Ok(Self {
            print: hasher.finish(),
            beat: (!plain && !content.cut).then(|| Beat::parse(&content.bytes)),
            cut: content.cut && !plain,
            modified,
            uid: content.meta.uid(),
        })
    }

    /// Nothing in it looks as if it were being written.
    pub(super) fn is_whole(&self) -> bool {
        !matches!(self.beat, Some(Err(_)))
    }
}

impl Judge {
    pub(super) fn new(file: File, peer: PeerId, owners: OwnerTable, interval: Duration) -> Self {
        Self {
            writer: Writer::new(file.pid),
            file,
            peer,
            owners,
            interval,
            watched: Watched::default(),
            known: None,
            exited: false,
        }
    }

    pub(super) fn is_plain(&self) -> bool {
        self.file.format == Format::Plain
    }

    /// The owner's life, if it is the owner that writes. (A container's life has another name, and a worker's is none
    /// of the peer's.)
    pub(super) fn life(&self) -> Option<Incarnation> {
        let pid = self.known.as_ref()?.pid?;
        match self.owners.get(self.peer) {
            Holding::Live(owner) if self.file.checks_pid() && owner.pid == pid => Some(owner.incarnation),
            _ => None,
        }
    }

    /// See [`Writer::ends`].
    pub(super) async fn writer_ends(&self) {
        self.writer.ends().await;
    }

    /// One look.
    pub(super) fn judge(&mut self, sight: Result<Sight, Unread>, at: Moment) -> Said {
        let exited_before = std::mem::take(&mut self.exited);
        let mut said = Said {
            outcome: Outcome::Pass,
            stopped: None,
            lives: false,
            exited: false,
        };
        let judged = match sight {
            Err(why @ (Unread::Refused(_) | Unread::Failed(_))) => Err(self.unknown(&why.to_string())),
            Err(Unread::Absent(why)) => {
                self.watched.seen(at, self.interval, self.file.max_age);
                Err(self.silent(&why))
            }
            Ok(sight) => {
                self.watched.seen(at, self.interval, self.file.max_age);
                self.content(&sight, at, &mut said)
            }
        };
        if let Err(outcome) = judged {
            said.outcome = outcome;
        }
        said.exited = self.exited && !exited_before;
        said
    }

    fn content(&mut self, sight: &Sight, at: Moment, said: &mut Said) -> Result<(), Outcome> {
        if sight.cut {
            let why = format!("it is longer than {MAX_BYTES} bytes: watch it with format = \"plain\"");
            return Err(self.unknown(&why));
        }
        let beat = match &sight.beat {
            None => None,
            Some(Ok(beat)) => Some(beat),
            Some(Err(why)) => return Err(self.silent(why)),
        };
        self.is_ours(beat)?;
        let stamp = self.stamp(sight, beat)?;
        let changed = self.notice(sight, beat, stamp, at);
        let stopped = beat.and_then(|beat| self.file.stopped_when.as_ref()?.met_by(beat));
        let ended = self.writer_ended(sight, beat, stamp, changed);
        if let Some(detail) = stopped {
            return Err(self.stopped(detail, said));
        }
        if let Some(ended) = ended {
            return Err(ended);
        }
        self.silence()?;
        said.lives = true;
        beat.map_or(Ok(()), |beat| self.progress(beat))
    }

    fn is_ours(&self, beat: Option<&Beat>) -> Result<(), Outcome> {
        match beat.and_then(Beat::hostname) {
            Some(other) if !self.file.any_host && other != heartbeat_file::hostname() => {
                let other: String = other.chars().take(64).collect();
                let ours = heartbeat_file::hostname();
                let why = format!(
                    "it was written on host {other:?}, and this is {ours:?}: any_host = true takes it nevertheless"
                );
                Err(self.unknown(&why))
            }
            _ => Ok(()),
        }
    }

    /// Its date, where one is expected. A date that cannot be read is none.
    fn stamp(&mut self, sight: &Sight, beat: Option<&Beat>) -> Result<Option<Stamp>, Outcome> {
        let (beat, field) = match (beat, &self.file.format) {
            (
                Some(beat),
                Format::Json {
                    timestamp: Some(field),
                },
            ) => (beat, field),
            (Some(_), _) => return Ok(None),
            (None, _) => return Ok(Some(Stamp::At(sight.modified))),
        };
        let why = match beat.stamp(field) {
            Ok(Some(stamp)) => return Ok(Some(stamp)),
            Ok(None) => format!("it has no field {field}"),
            Err(why) => why,
        };
        Err(self.silent(&why))
    }

    /// Takes note of what is there. True if it changed while we looked on.
    fn notice(&mut self, sight: &Sight, beat: Option<&Beat>, stamp: Option<Stamp>, at: Moment) -> bool {
        let now = self.watched.total;
        let moved = beat
            .zip(self.file.progress.as_ref())
            .and_then(|(beat, progress)| Moved::of(beat, progress, now));
        let pid = beat.and_then(|beat| beat.pid().ok().flatten());
        let Some(known) = &mut self.known else {
            self.known = Some(Known::at_first(sight, stamp, at, now, pid, moved));
            return false;
        };
        let changed = known.print != sight.print;
        if changed {
            // Another process, or one that was silent, begins to move anew.
            let anew = known.broken || known.pid != pid;
            known.print = sight.print;
            known.since = now;
            known.before = Duration::ZERO;
            known.undated = None;
            known.broken = false;
            known.pid = pid;
            match (&mut known.moved, moved) {
                (Some(before), Some(moved)) if before.print == moved.print && !anew => {}
                (before, moved) => *before = moved,
            }
        }
        changed
    }

    fn writer_ended(
        &mut self,
        sight: &Sight,
        beat: Option<&Beat>,
        stamp: Option<Stamp>,
        changed: bool,
    ) -> Option<Outcome> {
        if self.file.any_host {
            return None;
        }
        let pid = match beat?.pid() {
            Ok(pid) => pid?,
            Err(why) if self.file.pid == super::Pid::Always => return Some(self.unknown(&why)),
            Err(_) => return None,
        };
        let stamped = match stamp {
            Some(Stamp::At(stamped)) => stamped,
            Some(Stamp::Naive) | None => Duration::ZERO,
        };
        let gone = self.writer.gone(Claim {
            pid,
            changed,
            uid: sight.uid,
            written: sight.modified.max(stamped),
        })?;
        self.exited = true;
        self.mark_broken();
        Some(self.fail(Cause::PeerExited, &gone))
    }

    /// It says that it stopped. Said by one that is gone, it is not believed of another that runs.
    fn stopped(&self, detail: String, said: &mut Said) -> Outcome {
        let pid = self.known.as_ref().and_then(|known| known.pid);
        if let Holding::Live(owner) = self.owners.get(self.peer)
            && self.file.checks_pid()
            && pid.is_some_and(|pid| pid != owner.pid && matches!(process::hold_number(pid), Ok(None)))
            && !owner.exited()
        {
            return self.unknown(&format!("{detail}, said by a process before the one that runs"));
        }
        let outcome = self.unknown(&detail);
        said.stopped = Some(detail);
        outcome
    }

    fn silence(&mut self) -> Result<(), Outcome> {
        let (max_age, total) = (self.file.max_age, self.watched.total);
        let Some(known) = &self.known else { return Ok(()) };
        let age = known.before + (total - known.since);
        if age <= max_age {
            return match &known.undated {
                Some(why) => Err(self.unknown(why)),
                None => Ok(()),
            };
        }
        if self.watched.doubtful() {
            return Err(self.unknown("it has not changed since the wall clock was set"));
        }
        let why = format!("it has not changed for {age:.1?}, more than {max_age:?}");
        Err(self.silent(&why))
    }

    fn progress(&self, beat: &Beat) -> Result<(), Outcome> {
        let (Some(progress), Some(known)) = (&self.file.progress, &self.known) else {
            return Ok(());
        };
        let field = &progress.field;
        let Some(moved) = &known.moved else {
            return Err(self.unknown(&format!("it has no field {field}")));
        };
        let age = self.watched.total - moved.since;
        if age <= progress.max_age {
            return Ok(());
        }
        if self.watched.doubtful() {
            return Err(self.unknown(&format!(
                "its {field} has not changed since the wall clock was set"
            )));
        }
        let value: String = beat.field(field).map(ToString::to_string).unwrap_or_default();
        let value: String = value.chars().take(64).collect();
        let why = format!(
            "it goes on, but its {field} is {value} for {age:.1?}, more than {:?}",
            progress.max_age
        );
        Err(self.fail(Cause::PeerStuck, &why))
    }

    fn mark_broken(&mut self) {
        if let Some(known) = &mut self.known {
            known.broken = true;
        }
    }

    fn silent(&mut self, why: &str) -> Outcome {
        self.mark_broken();
        self.fail(Cause::PeerSilent, why)
    }

    fn fail(&self, cause: Cause, why: &str) -> Outcome {
        let detail = format!("{}: {why}", self.file.path.display());
        Outcome::Fail { cause, detail }
    }

    fn unknown(&self, why: &str) -> Outcome {
        let detail = format!("{}: {why}", self.file.path.display());
        Outcome::Unknown { detail }
    }
}

impl Known {
    /// Nobody saw it change yet: only its own date tells how long ago it did.
    fn at_first(
        sight: &Sight,
        stamp: Option<Stamp>,
        at: Moment,
        now: Duration,
        pid: Option<u32>,
        moved: Option<Moved>,
    ) -> Self {
        let (before, undated) = match stamp {
            Some(Stamp::At(stamp)) => match at.wall.checked_sub(stamp) {
                Some(age) => (age, None),
                None => (
                    Duration::ZERO,
                    Some("its date lies in the future, and it has not changed yet"),
                ),
            },
            Some(Stamp::Naive) => (
                Duration::ZERO,
                Some("its date has no offset, and it has not changed yet"),
            ),
            None => (Duration::ZERO, Some("it has not changed yet")),
        };
        Self {
            print: sight.print,
            since: now,
            before,
            undated: undated.map(str::to_owned),
            pid,
            broken: false,
            moved,
        }
    }
}

impl Moved {
    fn of(beat: &Beat, progress: &Progress, now: Duration) -> Option<Self> {
        let mut hasher = DefaultHasher::new();
        beat.field(&progress.field)?.to_string().hash(&mut hasher);
        let print = hasher.finish();
        Some(Self { print, since: now })
    }
}
