//! Where captures lie: one directory, each capture a directory in it whose name begins with its time. Bounded; what is not
//! finished has a name that begins with a dot. Everything here may wait for the disk.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::fs::statvfs;

use super::Capture;
use super::files::{close_to_others, cut, size};

/// Captures that are kept, however small they are: all of them are looked through each time.
const MOST_CAPTURES: usize = 1000;
/// With less room than this nothing is begun.
const LEAST: u64 = 4096;
/// What is being written.
const UNFINISHED: &str = ".part-";
/// Who makes room, one after the other. Held while waiting for the disk.
static ROOM: Mutex<()> = Mutex::new(());
/// What is being written now, which makes room for nobody, and the bytes that each was promised. Never held while waiting.
static WRITING: Mutex<BTreeMap<PathBuf, u64>> = Mutex::new(BTreeMap::new());

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
}

/// A capture that was.
pub(super) struct Kept {
    pub(super) path: PathBuf,
    pub(super) size: u64,
    /// Of all of them, and how many older ones made room; or why that is not known.
    pub(super) total: Result<(u64, u64), String>,
    /// What was too large, or cannot be kept from others, and why.
    pub(super) refused: Vec<String>,
}

impl Place {
    pub(super) fn of(capture: &Capture) -> Self {
        Self {
            dir: capture.dir.clone(),
            max_total: capture.max_total,
            max_size: capture.max_size,
        }
    }

    /// Makes a directory for this one. Room is made when it is known how much it takes: nothing is removed for what only
    /// might be written.
    pub(super) fn begin(self, name: &str) -> Result<Draft, String> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.dir)
            .map_err(|error| failed("create", &self.dir, &error))?;
        self.is_ours()?;
        let disk = statvfs(&self.dir).ok();
        let free = disk.map(|disk| disk.f_bavail.saturating_mul(disk.f_frsize));
        let path = self.dir.join(format!("{UNFINISHED}{name}"));
        let draft = Draft {
            room: self.promise(&path, free)?,
            path,
            finished: self.dir.join(name),
            place: self,
        };
        DirBuilder::new()
            .mode(0o700)
            .create(&draft.path)
            .map_err(|error| failed("create", &draft.path, &error))?;
        Ok(draft)
    }

    /// Several at once must not count on the same room. All that are being written stay within `max_total`, and within half
    /// of what is free, as others need the disk more; and each leaves something for who comes next.
    fn promise(&self, path: &Path, free: Option<u64>) -> Result<u64, String> {
        let mut writing = writing();
        let others = writing.iter().filter(|(other, _)| other.starts_with(&self.dir));
        let (count, promised) = others.fold((0u64, 0u64), |(count, sum), (_, room)| {
            (count + 1, sum.saturating_add(*room))
        });
        let least = LEAST.min(self.max_size / 4);
        let left = self.max_total.saturating_sub(promised);
        let allowed = self.max_size.min(if count == 0 { left } else { left / 2 });
        if allowed < least {
            return Err(format!(
                "those that are being written ({count}) may need all of capture.max_total ({} bytes)",
                self.max_total
            ));
        }
        let room = free.map_or(allowed, |free| {
            allowed.min((free / 2).saturating_sub(promised) / 2)
        });
        if room < least {
            return Err(format!(
                "the disk of {} is full ({} bytes are free, {promised} of them promised to {count} captures that are being \
                 written)",
                self.dir.display(),
                free.unwrap_or_default()
            ));
        }
        writing.insert(path.to_owned(), room);
        Ok(room)
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

    /// The newest stay, as long as all together are at most so large and so many; and `latest` does, whatever the wall
    /// clock has made of its name. The size of the others, and how many went.
    fn evict(&self, latest: &Path, most: u64, count: usize) -> io::Result<(u64, u64)> {
        let mut all = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            let (name, path) = (entry.file_name().to_string_lossy().into_owned(), entry.path());
            let is_dir = entry.file_type().is_ok_and(|found| found.is_dir());
            if is_dir && is_named(&name) && path != latest && !writing().contains_key(&path) {
                // (One that a crash left behind goes when its turn comes, too.)
                all.push((name.replace(UNFINISHED, ""), path));
            }
        }
        all.sort();
        let (mut total, mut kept, mut evicted) = (0u64, 0, 0);
        let mut failed = None;
        for (_, path) in all.iter().rev() {
            let with = total.saturating_add(size(path));
            // No older one stays in place of a newer one that is too large.
            if evicted == 0 && with <= most && kept < count {
                (total, kept) = (with, kept + 1);
                continue;
            }
            match fs::remove_dir_all(path) {
                Ok(()) => evicted += 1,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                // What cannot be removed keeps nothing else from being.
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok((total, evicted)), Err)
    }
}

impl Draft {
    /// Under its own name from now on, and within its bounds. One file that cannot be closed to others, or removed, is told,
    /// and costs none of the rest.
    pub(super) fn finish(self) -> Result<Kept, String> {
        let mut refused = close_to_others(&self.path);
        refused.extend(cut(&self.path, self.room));
        let size = size(&self.path);
        // Between its renaming and the making of room nobody else may make room.
        let _room = ROOM.lock().unwrap_or_else(PoisonError::into_inner);
        fs::rename(&self.path, &self.finished).map_err(|error| failed("finish", &self.path, &error))?;
        let others = self.place.max_total.saturating_sub(size);
        let evicted = self.place.evict(&self.finished, others, MOST_CAPTURES - 1);
        Ok(Kept {
            path: self.finished.clone(),
            size,
            total: evicted
                .map(|(others, went)| (others.saturating_add(size), went))
                .map_err(|error| failed("make room in", &self.place.dir, &error)),
            refused,
        })
    }
}

impl Drop for Draft {
    /// What was written stays until its turn comes: it is evidence, too. (No disk is waited for here: it may be dropped
    /// on the node's only thread.)
    fn drop(&mut self) {
        writing().remove(&self.path);
    }
}

fn writing() -> MutexGuard<'static, BTreeMap<PathBuf, u64>> {
    WRITING.lock().unwrap_or_else(PoisonError::into_inner)
}

fn failed(what: &str, path: &Path, error: &io::Error) -> String {
    format!("cannot {what} {}: {error}", path.display())
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

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
    fn what_others_only_might_write_removes_nothing_however_many_are_at_work() {
        let dir = tempfile::tempdir().unwrap();
        let begin = |number: u64, max_size| {
            let at = Duration::from_secs(1_770_000_000 + number);
            place(dir.path(), 1_600, max_size).begin(&name(at, "feed", number))
        };
        let small = |draft: Draft| {
            fs::write(draft.path.join("log.txt"), [b'x'; 10]).unwrap();
            draft.finish().unwrap()
        };
        let first = small(begin(0, 100).unwrap());
        let at_work: Vec<Draft> = (1..200).map_while(|number| begin(number, 100).ok()).collect();
        assert!(at_work.len() >= 15, "{}", at_work.len());
        let promised: u64 = at_work.iter().map(|draft| draft.room).sum();
        assert!(promised <= 1_600, "{promised}");
        let many = at_work.len();
        let finished: Vec<Kept> = at_work.into_iter().map(small).collect();
        assert!(first.path.exists(), "{:?}", names(dir.path()));
        assert!(finished.iter().all(|kept| kept.path.exists()));
        assert_eq!(names(dir.path()).len(), 1 + many);
        // One that may become as large as all together is not so yet.
        let large = begin(500, 1_600).unwrap();
        assert_eq!(large.room, 1_600);
        assert!(begin(501, 1_600).is_err(), "all is promised");
        small(large);
        assert_eq!(names(dir.path()).len(), 2 + many);
    }

    #[test]
    fn all_at_work_together_leave_half_of_what_is_free_to_others() {
        const GIB: u64 = 1 << 30;
        let dir = PathBuf::from("/no/such/captures");
        let place = place(&dir, 100 * GIB, GIB);
        let promised: Vec<u64> = (0..200)
            .map_while(|number| place.promise(&dir.join(number.to_string()), Some(3 * GIB)).ok())
            .collect();
        writing().retain(|path, _| !path.starts_with(&dir));
        assert!(
            promised.len() >= 3,
            "who comes later gets something, too: {promised:?}"
        );
        assert!(promised.iter().sum::<u64>() <= 3 * GIB / 2, "{promised:?}");
        let full = place.promise(&dir.join("a"), Some(1000)).unwrap_err();
        assert!(full.contains("is full (1000 bytes are free"), "{full}");
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
        assert!(left_behind.exists(), "it is not known yet what this one takes");
        fs::write(first.path.join("core"), [b'x'; 390]).unwrap();
        for number in 2..6 {
            // (The room that the first one leaves.)
            assert_eq!(kept(dir.path(), number, 290).refused, [""; 0]);
        }
        assert!(!left_behind.exists(), "the run that wrote it is over");
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
        let told = kept.refused.iter().find(|why| why.starts_with("core: "));
        assert_eq!(told.map(String::as_str), Some("core: too large"));
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
