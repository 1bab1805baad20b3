//! Where captures lie: one directory, each capture a directory in it whose name begins with its time. Bounded; what is not
//! finished has a name that begins with a dot. Everything here may wait for the disk.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::fs::statvfs;

use super::Capture;

/// Files of one capture that are counted; beyond that it counts as too large.
const MOST_FILES: usize = 10_000;
/// Captures that are kept, however small they are: all of them are looked through each time.
const MOST_CAPTURES: usize = 1000;
/// With less room than this nothing is begun.
const LEAST: u64 = 4096;
/// What is being written.
const UNFINISHED: &str = ".part-";
/// Who makes room, one after the other. Held while waiting for the disk.
static ROOM: Mutex<()> = Mutex::new(());
/// What is being written now, and makes room for nobody. Never held while waiting.
static WRITING: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// `20260202T024000Z-feed-17`: sorts by time, and leads nowhere.
pub(super) fn name(wall: Duration, peer: &str, token: u64) -> String {
    let at = humantime::format_rfc3339_seconds(std::time::SystemTime::UNIX_EPOCH + wall).to_string();
    let at: String = at.chars().filter(|c| !matches!(c, '-' | ':')).collect();
    let plain = |c: char| {
        if c.is_ascii_alphanumeric() || matches!(c, '_' | '-') {
            c
        } else {
            '_'
        }
    };
    let peer: String = peer.chars().take(63).map(plain).collect();
    format!("{at}-{peer}-{token}")
}

/// Whether something has a name as captures have: nothing else in the directory is ours to remove.
fn is_named(name: &str) -> bool {
    let name = name.strip_prefix(UNFINISHED).unwrap_or(name);
    let like = "00000000T000000Z-";
    let token = name.rsplit('-').next().unwrap_or_default();
    name.len() > like.len()
        && name.bytes().zip(like.bytes()).all(|(c, like)| match like {
            b'0' => c.is_ascii_digit(),
            _ => c == like,
        })
        && token.parse::<u64>().is_ok()
}

/// The directory of all captures.
pub(super) struct Place {
    dir: PathBuf,
    max_total: u64,
    max_size: u64,
}

/// A capture that is being written.
pub(super) struct Draft {
    /// Its directory.
    pub(super) path: PathBuf,
    /// Most bytes of it.
    pub(super) room: u64,
    finished: PathBuf,
    place: Place,
    /// Older ones that went for it.
    evicted: u64,
}

/// A capture that was.
pub(super) struct Kept {
    pub(super) path: PathBuf,
    pub(super) size: u64,
    /// Of all of them, and how many older ones made room; or why that is not known.
    pub(super) total: Result<(u64, u64), String>,
    /// The file that was too large.
    pub(super) cut: Option<String>,
}

impl Place {
    pub(super) fn of(capture: &Capture) -> Self {
        Self {
            dir: capture.dir.clone(),
            max_total: capture.max_total,
            max_size: capture.max_size,
        }
    }

    /// Makes room, and a directory for this one.
    pub(super) fn begin(self, name: &str) -> Result<Draft, String> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.dir)
            .map_err(|error| failed("create", &self.dir, &error))?;
        self.is_ours()?;
        let path = self.dir.join(format!("{UNFINISHED}{name}"));
        // Several at once must not count on the same room.
        let at_work = {
            let mut writing = writing();
            writing.insert(path.clone());
            writing
                .iter()
                .filter(|other| other.starts_with(&self.dir))
                .count()
        };
        let mut draft = Draft {
            path,
            room: self.max_size,
            finished: self.dir.join(name),
            place: self,
            evicted: 0,
        };
        let place = &draft.place;
        let wanted = place.max_size.saturating_mul(at_work as u64);
        let (_, evicted) = place
            .evict(place.max_total.saturating_sub(wanted), MOST_CAPTURES - 1)
            .map_err(|error| failed("make room in", &place.dir, &error))?;
        (draft.room, draft.evicted) = (place.room()?, evicted);
        DirBuilder::new()
            .mode(0o700)
            .create(&draft.path)
            .map_err(|error| failed("create", &draft.path, &error))?;
        Ok(draft)
    }

    /// Others need the disk more: no more than half of what is free.
    fn room(&self) -> Result<u64, String> {
        let Ok(disk) = statvfs(&self.dir) else {
            return Ok(self.max_size);
        };
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        if free / 2 < LEAST {
            return Err(format!(
                "the disk of {} is full ({free} bytes are free)",
                self.dir.display()
            ));
        }
        Ok(self.max_size.min(free / 2))
    }

    /// What lies in a stranger's directory is the stranger's to replace.
    fn is_ours(&self) -> Result<(), String> {
        let found = fs::symlink_metadata(&self.dir).map_err(|error| failed("look at", &self.dir, &error))?;
        let us = rustix::process::geteuid().as_raw();
        if found.is_dir() && found.uid() == us && found.mode() & 0o022 == 0 {
            return Ok(());
        }
        Err(format!(
            "{} is not a directory that only uid {us} may write to: name another one with capture.dir",
            self.dir.display()
        ))
    }

    /// The newest stay, as long as all together are at most so large and so many. Their size, and how many went.
    fn evict(&self, most: u64, count: usize) -> io::Result<(u64, u64)> {
        let _room = ROOM.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if entry.file_type()?.is_dir() && is_named(&name) && !writing().contains(&entry.path()) {
                // (One that a crash left behind goes when its turn comes, too.)
                all.push((name.replace(UNFINISHED, ""), entry.path()));
            }
        }
        all.sort();
        let (mut total, mut kept, mut evicted) = (0u64, 0, 0);
        for (_, path) in all.iter().rev() {
            let with = total.saturating_add(size(path));
            // No older one stays in place of a newer one that is too large.
            if evicted == 0 && with <= most && kept < count {
                (total, kept) = (with, kept + 1);
            } else {
                fs::remove_dir_all(path)?;
                evicted += 1;
            }
        }
        Ok((total, evicted))
    }
}

impl Draft {
    /// Under its own name from now on, and within its bounds.
    pub(super) fn finish(self) -> Result<Kept, String> {
        let told = |error: io::Error| failed("finish", &self.path, &error);
        close_to_others(&self.path).map_err(told)?;
        let cut = self.cut().map_err(told)?;
        let size = size(&self.path);
        // Whatever the wall clock makes of its name: the one that was just written is not the one to go.
        writing().insert(self.finished.clone());
        fs::rename(&self.path, &self.finished).map_err(told)?;
        let others = self.place.max_total.saturating_sub(size);
        let evicted = self.place.evict(others, MOST_CAPTURES - 1);
        Ok(Kept {
            path: self.finished.clone(),
            size,
            total: evicted
                .map(|(others, went)| (others.saturating_add(size), self.evicted + went))
                .map_err(|error| failed("make room in", &self.place.dir, &error)),
            cut,
        })
    }

    /// What is too large is no evidence that can be kept: the largest file goes. Its name.
    fn cut(&self) -> io::Result<Option<String>> {
        let mut cut = None;
        while size(&self.path) > self.room {
            let mut files: Vec<(u64, PathBuf)> = Vec::new();
            for entry in fs::read_dir(&self.path)? {
                let path = entry?.path();
                files.push((size(&path), path));
            }
            let Some((_, largest)) = files.into_iter().max() else {
                break;
            };
            if largest.is_dir() {
                fs::remove_dir_all(&largest)?;
            } else {
                fs::remove_file(&largest)?;
            }
            cut = largest
                .file_name()
                .map(|name| name.to_string_lossy().into_owned());
        }
        Ok(cut)
    }
}

impl Drop for Draft {
    /// What was written stays until its turn comes: it is evidence, too. (No disk is waited for here: it may be dropped
    /// on the node's only thread.)
    fn drop(&mut self) {
        let mut writing = writing();
        writing.remove(&self.path);
        writing.remove(&self.finished);
    }
}

fn writing() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    WRITING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a command has written is the node's alone: files 0600, directories 0700, and nothing else. A file that has another
/// name somewhere is not this capture's to change.
fn close_to_others(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let (path, found) = (entry.path(), entry.metadata()?);
        if found.is_dir() {
            fs::set_permissions(&path, Permissions::from_mode(0o700))?;
            close_to_others(&path)?;
        } else if found.is_file() && found.nlink() == 1 {
            fs::set_permissions(&path, Permissions::from_mode(0o600))?;
        } else {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

/// Bytes of a file, or of everything below a directory. What cannot be looked at counts as nothing; too many files count
/// as too large.
pub(super) fn size(path: &Path) -> u64 {
    let (mut total, mut seen) = (0u64, 0);
    let mut todo = vec![path.to_owned()];
    while let Some(path) = todo.pop() {
        seen += 1;
        if seen > MOST_FILES {
            return u64::MAX;
        }
        let Ok(found) = fs::symlink_metadata(&path) else {
            continue;
        };
        if found.is_dir() {
            let below = fs::read_dir(&path).into_iter().flatten().flatten();
            todo.extend(below.map(|entry| entry.path()));
        } else {
            total = total.saturating_add(found.len());
        }
    }
    total
}

fn failed(what: &str, path: &Path, error: &io::Error) -> String {
    format!("cannot {what} {}: {error}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(dir: &Path, max_total: u64, max_size: u64) -> Place {
        Place {
            dir: dir.to_owned(),
            max_total,
            max_size,
        }
    }

    fn kept(dir: &Path, number: u64, bytes: usize) -> Kept {
        let name = name(Duration::from_secs(1_770_000_000 + number), "feed", number);
        let draft = place(dir, 1000, 400).begin(&name).unwrap();
        fs::write(draft.path.join("log.txt"), vec![b'x'; bytes]).unwrap();
        draft.finish().unwrap()
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_name_sorts_by_time_and_leads_nowhere() {
        let at = |seconds: u64| Duration::from_secs(1_770_000_000 + seconds);
        assert_eq!(name(at(0), "feed", 17), "20260202T024000Z-feed-17");
        assert_eq!(
            name(at(0), "../../etc/x y", 1),
            "20260202T024000Z-______etc_x_y-1"
        );
        assert!(name(at(9), "z", 1) < name(at(10), "a", 2));
    }

    #[test]
    fn the_oldest_make_room_and_the_bound_holds() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("captures");
        for number in 0..6 {
            let kept = kept(&dir, number, 300);
            assert!(kept.total.unwrap().0 <= 1000 && size(&dir) <= 1000);
        }
        let left = names(&dir);
        assert_eq!(left.len(), 3, "{left:?}");
        assert!(left[0].ends_with("-3") && left[2].ends_with("-5"), "{left:?}");
        let mode = fs::metadata(dir.join(&left[0])).unwrap().mode() & 0o777;
        assert_eq!(mode, 0o700);
        let file = fs::metadata(dir.join(&left[0]).join("log.txt")).unwrap();
        assert_eq!(file.mode() & 0o777, 0o600);
    }

    #[test]
    fn one_that_a_clock_set_back_makes_the_oldest_is_kept_all_the_same() {
        let dir = tempfile::tempdir().unwrap();
        for number in 10..13 {
            kept(dir.path(), number, 300);
        }
        let kept = kept(dir.path(), 0, 300);
        assert!(kept.path.exists(), "{:?}", names(dir.path()));
        assert_eq!(kept.total.unwrap(), (900, 1));
    }

    #[test]
    fn nothing_is_removed_but_captures_and_none_that_is_being_written() {
        let dir = tempfile::tempdir().unwrap();
        for strange in [
            "home",
            "20260202T024000Z",
            "20260202-feed-1",
            "20260202T024000Z-feed-x",
        ] {
            fs::create_dir(dir.path().join(strange)).unwrap();
            fs::write(dir.path().join(strange).join("precious"), [b'x'; 5000]).unwrap();
        }
        let left_behind = dir.path().join(".part-20200202T024000Z-feed-1");
        fs::create_dir(&left_behind).unwrap();
        fs::write(left_behind.join("core"), [b'x'; 900]).unwrap();
        let place = || place(dir.path(), 1000, 400);
        let first = place().begin("20260202T024000Z-a-1").unwrap();
        assert!(!left_behind.exists(), "the run that wrote it is over");
        fs::write(first.path.join("core"), [b'x'; 390]).unwrap();
        for number in 2..6 {
            kept(dir.path(), number, 390);
        }
        assert!(first.finish().unwrap().path.exists());
        assert!(size(dir.path()) <= 4 * 5000 + 1000, "{:?}", names(dir.path()));
    }

    #[test]
    fn what_is_too_large_is_cut_and_what_is_no_file_goes() {
        let dir = tempfile::tempdir().unwrap();
        let draft = place(dir.path(), 1000, 400).begin("a").unwrap();
        fs::write(draft.path.join("core"), vec![b'x'; 900]).unwrap();
        fs::write(draft.path.join("small"), "x").unwrap();
        let precious = dir.path().join("precious");
        fs::write(&precious, "x").unwrap();
        let mode = fs::metadata(&precious).unwrap().mode();
        std::os::unix::fs::symlink(&precious, draft.path.join("link")).unwrap();
        fs::hard_link(&precious, draft.path.join("hard")).unwrap();
        let kept = draft.finish().unwrap();
        assert_eq!(kept.cut.as_deref(), Some("core"));
        assert_eq!(names(&kept.path), ["small"]);
        assert_eq!(fs::metadata(&precious).unwrap().mode(), mode);
    }

    #[test]
    fn a_strangers_directory_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let captures = dir.path().join("captures");
        drop(place(&captures, 1000, 400).begin("a").unwrap());
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&captures, &link).unwrap();
        assert!(place(&link, 1000, 400).begin("a").is_err());
        fs::set_permissions(&captures, Permissions::from_mode(0o777)).unwrap();
        let told = place(&captures, 1000, 400).begin("a").err().unwrap();
        assert!(told.contains("name another one"), "{told}");
        fs::write(dir.path().join("file"), "").unwrap();
        let told = place(&dir.path().join("file"), 1000, 400)
            .begin("a")
            .err()
            .unwrap();
        assert!(told.contains("cannot create"), "{told}");
    }
}
