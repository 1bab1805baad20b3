//! The files of one capture: their size, and what becomes of those that are too large or not the node's alone. One file that
//! cannot be treated so is told, and costs none of the rest. Everything here may wait for the disk.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Files of one capture that are counted; beyond that it counts as too large.
const MOST_FILES: usize = 10_000;
/// Files that are told one by one.
const TOLD: usize = 4;
/// What the node writes itself.
const OURS: [&str; 5] = [
    "sockets.txt",
    "log.txt",
    "command.out",
    "command.err",
    "about.json",
];

/// Bytes on disk, and files: no more of them than tell that they are too many.
#[derive(Clone, Copy, Default)]
struct Weight {
    bytes: u64,
    files: usize,
}

impl Weight {
    /// Of a file, or of everything below a directory. What cannot be looked at counts as nothing.
    fn of(path: &Path) -> Self {
        let mut weight = Self::default();
        let mut todo = vec![path.to_owned()];
        while let Some(path) = todo.pop() {
            weight.files += 1;
            let Ok(found) = fs::symlink_metadata(&path) else {
                continue;
            };
            if found.is_dir() {
                let below = fs::read_dir(&path).into_iter().flatten().flatten();
                // A directory of a million files is not read to its end, five times a second.
                let enough = (MOST_FILES + 1).saturating_sub(weight.files + todo.len());
                todo.extend(below.take(enough).map(|entry| entry.path()));
            } else {
                // A core is full of holes; and what is small takes more than it holds.
                let taken = found.blocks().saturating_mul(512).min(found.len());
                weight.bytes = weight.bytes.saturating_add(taken);
            }
        }
        weight
    }

    /// Too many files count as too large.
    const fn size(self) -> u64 {
        if self.files > MOST_FILES {
            u64::MAX
        } else {
            self.bytes
        }
    }
}

/// Bytes on disk of a file, or of everything below a directory; too many files count as too large.
pub(super) fn size(path: &Path) -> u64 {
    Weight::of(path).size()
}

/// What is too large is no evidence that can be kept: the largest files go, until the rest has room. Which, and why.
pub(super) fn cut(dir: &Path, room: u64) -> Vec<String> {
    let mut told = Told::default();
    let mut entries = match listed(dir) {
        Ok(Some(entries)) => entries,
        Ok(None) => {
            told.tell(format!(
                "more than {MOST_FILES} files: all but the node's own went"
            ));
            remove_strange(dir, &mut told);
            listed(dir).ok().flatten().unwrap_or_default()
        }
        Err(error) => return vec![format!("what is too large cannot be found: {error}")],
    };
    entries.sort_by_key(|(weight, _)| std::cmp::Reverse(weight.size()));
    let mut left = entries
        .iter()
        .fold(Weight { bytes: 0, files: 1 }, |sum, (one, _)| Weight {
            bytes: sum.bytes.saturating_add(one.bytes),
            files: sum.files.saturating_add(one.files),
        });
    for (weight, path) in entries {
        if left.size() <= room {
            break;
        }
        match remove(&path) {
            Ok(()) => {
                left.bytes = left.bytes.saturating_sub(weight.bytes);
                left.files = left.files.saturating_sub(weight.files);
                told.tell(format!("{}: too large", shown(&path)));
            }
            Err(error) => told.tell(format!("{}: too large, and stays: {error}", shown(&path))),
        }
    }
    told.all()
}

/// What lies in a directory; `None`: too much for it to be looked at one by one.
fn listed(dir: &Path) -> io::Result<Option<Vec<(Weight, PathBuf)>>> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if entries.len() >= MOST_FILES {
            return Ok(None);
        }
        entries.push((Weight::of(&path), path));
    }
    Ok(Some(entries))
}

fn remove_strange(dir: &Path, told: &mut Told) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let (name, path) = (entry.file_name(), entry.path());
        if OURS.iter().any(|ours| OsStr::new(ours) == name) {
            continue;
        }
        if let Err(error) = remove(&path) {
            told.tell(format!("{}: {error}", shown(&path)));
        }
    }
}

fn remove(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    unless_gone(removed)
}

/// What a command has written is the node's alone: files 0600, directories 0700, and nothing else. A file that has another
/// name somewhere is not this capture's to change. What does not obey, and why.
pub(super) fn close_to_others(dir: &Path) -> Vec<String> {
    let mut told = Told::default();
    close(dir, &mut told);
    told.all()
}

fn close(dir: &Path, told: &mut Told) {
    let entries = match unless_gone(fs::read_dir(dir).map(Some)) {
        Ok(entries) => entries.into_iter().flatten(),
        Err(error) => return told.tell(format!("{}: {error}", shown(dir))),
    };
    for entry in entries {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => return told.tell(format!("{}: {error}", shown(dir))),
        };
        let path = entry.path();
        let closed = entry.metadata().and_then(|found| {
            if found.is_dir() {
                let closed = fs::set_permissions(&path, Permissions::from_mode(0o700));
                close(&path, told);
                closed
            } else if found.is_file() && found.nlink() == 1 {
                fs::set_permissions(&path, Permissions::from_mode(0o600))
            } else {
                fs::remove_file(&path)
            }
        });
        if let Err(error) = unless_gone(closed) {
            told.tell(format!("{}: it stays as it is: {error}", shown(&path)));
        }
    }
}

/// What a command removes meanwhile is no mistake.
fn unless_gone<T: Default>(done: io::Result<T>) -> io::Result<T> {
    match done {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(T::default()),
        done => done,
    }
}

fn shown(path: &Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str());
    name.to_string_lossy().into_owned()
}

/// The first few, and how many more.
#[derive(Default)]
struct Told {
    first: Vec<String>,
    more: usize,
}

impl Told {
    fn tell(&mut self, why: String) {
        if self.first.len() < TOLD {
            self.first.push(why);
        } else {
            self.more += 1;
        }
    }

    fn all(mut self) -> Vec<String> {
        if self.more > 0 {
            self.first.push(format!("and {} more", self.more));
        }
        self.first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_with_holes_is_as_large_as_what_it_takes() {
        let dir = tempfile::tempdir().unwrap();
        let core = fs::File::create(dir.path().join("core")).unwrap();
        core.set_len(1 << 30).unwrap();
        fs::write(dir.path().join("log.txt"), [b'x'; 300]).unwrap();
        assert_eq!(size(dir.path()), 300);
        assert_eq!(cut(dir.path(), 1000), [""; 0]);
        assert!(dir.path().join("core").exists());
    }

    #[test]
    fn the_largest_go_and_no_more_than_must() {
        let dir = tempfile::tempdir().unwrap();
        for (name, bytes) in [("a", 300), ("b", 500), ("c", 100), ("d", 400)] {
            fs::write(dir.path().join(name), vec![b'x'; bytes]).unwrap();
        }
        assert_eq!(cut(dir.path(), 450), ["b: too large", "d: too large"]);
        assert_eq!(size(dir.path()), 400);
    }

    #[test]
    fn of_too_many_files_the_nodes_own_stay() {
        let dir = tempfile::tempdir().unwrap();
        for number in 0..=MOST_FILES {
            fs::write(dir.path().join(number.to_string()), "").unwrap();
        }
        fs::write(dir.path().join("log.txt"), "words").unwrap();
        assert_eq!(size(dir.path()), u64::MAX);
        let told = cut(dir.path(), 1000);
        assert_eq!(told, ["more than 10000 files: all but the node's own went"]);
        assert_eq!(size(dir.path()), 5);
    }
}
