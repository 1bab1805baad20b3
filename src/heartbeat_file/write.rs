//! Writing a heartbeat file: whole or not at all, and nothing left over.

use std::ffi::OsString;
use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use rustix::fs::OFlags;
use serde::Serialize;
use serde_json::{Map, Value};

/// What the writer does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It goes on.
    Running,
    /// It ends on purpose: this heartbeat is the last one.
    Stopped,
}

/// The four fields are kstlib's, and it ignores the fifth.
#[derive(Serialize)]
struct Record<'a> {
    timestamp: String,
    pid: u32,
    hostname: &'a str,
    metadata: &'a Map<String, Value>,
    status: Status,
}

/// Writes one process's heartbeats to one file.
#[derive(Debug)]
pub struct Writer {
    path: PathBuf,
    temporary: PathBuf,
    hostname: String,
}

impl Writer {
    /// To this path, which need not be there; its directory must.
    pub fn new(path: PathBuf) -> Self {
        Self {
            temporary: beside(&path),
            path,
            hostname: super::hostname(),
        }
    }

    /// Where it writes.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Puts a heartbeat of `at` (since 1970) in the place of the last one, with mode 0644. Whoever reads it meanwhile
    /// finds the one or the other. Blocks. It is not synced: after a crash of the machine nobody asks for it.
    ///
    /// # Errors
    /// If the file could not be written; then the one before is still there, and nothing else.
    pub fn write(&self, at: Duration, metadata: &Map<String, Value>, status: Status) -> io::Result<()> {
        let record = Record {
            timestamp: isoformat(at),
            pid: std::process::id(),
            hostname: &self.hostname,
            metadata,
            status,
        };
        let text = serde_json::to_vec_pretty(&record)?;
        let written = self
            .write_temporary(&text)
            .and_then(|()| fs::rename(&self.temporary, &self.path));
        if written.is_err() {
            // On a full disk the half-written file would take the last room from others.
            let _ = fs::remove_file(&self.temporary);
        }
        written
    }

    fn write_temporary(&self, text: &[u8]) -> io::Result<()> {
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o644)
            .custom_flags(flags.bits().cast_signed())
            .open(&self.temporary)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::other(format!(
                "{} is in the way: it is not a regular file",
                self.temporary.display()
            )));
        }
        // Whatever the umask is: it is there to be read by others.
        file.set_permissions(Permissions::from_mode(0o644))?;
        file.write_all(text)
    }
}

/// `.NAME.tmp` in the same directory: one that a killed writer left is used by the next.
fn beside(path: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".tmp");
    path.with_file_name(name)
}

/// As Python's `datetime.now(timezone.utc).isoformat()`. (`Z` is not read by Python before 3.11.)
fn isoformat(at: Duration) -> String {
    let at = UNIX_EPOCH.checked_add(at).unwrap_or(UNIX_EPOCH);
    let text = humantime::format_rfc3339_micros(at).to_string();
    format!("{}+00:00", text.trim_end_matches('Z'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::heartbeat_file::{Beat, Stamp, read};
    use std::os::unix::fs::MetadataExt;

    const AT: Duration = Duration::from_micros(1_795_348_800_000_250);

    fn names(dir: &Path) -> Vec<OsString> {
        let entries = fs::read_dir(dir).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    }

    #[test]
    fn s28_what_is_written_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let writer = Writer::new(dir.path().join("heartbeat.json"));
        // What a killed writer left is no hindrance.
        fs::write(dir.path().join(".heartbeat.json.tmp"), vec![b'x'; 4096]).unwrap();
        let metadata: Map<_, _> = [("node".to_owned(), "a".into())].into_iter().collect();
        for status in [Status::Running, Status::Stopped] {
            writer.write(AT, &metadata, status).unwrap();
            let content = read(writer.path()).unwrap();
            assert_eq!(content.meta.mode() & 0o7777, 0o644);
            let beat = Beat::parse(&content.bytes).unwrap();
            assert_eq!(beat.stamp("timestamp"), Ok(Some(Stamp::At(AT))));
            assert_eq!(beat.pid(), Ok(Some(std::process::id())));
            assert_eq!(beat.hostname(), Some(&*super::super::hostname()));
            assert_eq!(beat.field("metadata.node").unwrap(), "a");
            let word = if status == Status::Running {
                "running"
            } else {
                "stopped"
            };
            assert_eq!(beat.field("status").unwrap(), word);
            assert_eq!(names(dir.path()), ["heartbeat.json"]);
        }
        let text = fs::read_to_string(writer.path()).unwrap();
        assert!(text.contains("\"2026-11-22T12:00:00.000250+00:00\""), "{text}");
    }

    #[test]
    fn s28_what_cannot_be_written_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let nowhere = Writer::new(dir.path().join("not/there.json"));
        assert!(nowhere.write(AT, &Map::new(), Status::Running).is_err());
        // A directory in its place.
        let path = dir.path().join("beat");
        fs::create_dir(&path).unwrap();
        let writer = Writer::new(path.clone());
        assert!(writer.write(AT, &Map::new(), Status::Running).is_err());
        assert_eq!(names(dir.path()), ["beat"]);
        // A link in the place of the temporary file is not followed.
        fs::remove_dir(&path).unwrap();
        let precious = dir.path().join("precious");
        fs::write(&precious, "kept").unwrap();
        std::os::unix::fs::symlink(&precious, dir.path().join(".beat.tmp")).unwrap();
        assert!(writer.write(AT, &Map::new(), Status::Running).is_err());
        assert_eq!(fs::read_to_string(&precious).unwrap(), "kept");
    }
}
