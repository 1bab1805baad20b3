//! Tells when a configuration file holds something else than before: an editor's renaming over it, a ConfigMap's swap of
//! a link on the way to it, a plain writing. The kernel's word is a hint; the content decides, and is looked at anyway.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::hash::{DefaultHasher, Hasher};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::JoinHandle;

use crate::regular_file;

/// Network file systems tell nothing.
const POLL: Duration = Duration::from_secs(5);
/// A file that is being written is not read yet: it must be the same twice, so far apart. And after a hint it is looked at
/// so much later: beside it others may write all the time.
const SETTLED: Duration = Duration::from_millis(250);
/// And the same for so long, if nobody has told that its writer is done with it: cut at the end of a line, it is a whole
/// configuration of fewer peers.
const QUIET: Duration = Duration::from_secs(3);
/// A look that takes longer tells nothing; no other is begun before it has ended.
const LOOK: Duration = Duration::from_secs(5);
/// One byte more than any configuration may have.
const MAX_BYTES: u64 = (1 << 20) + 1;
/// Links on the way to a file, as far as they are followed.
const LINKS: usize = 16;
/// Readings at once of what the kernel tells. What is more is left for the next time.
const READINGS: usize = 64;

const WATCHED: WatchFlags = WatchFlags::CLOSE_WRITE
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::CREATE)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::ONLYDIR);
/// What tells that the writer is done.
const DONE: ReadFlags = ReadFlags::CLOSE_WRITE.union(ReadFlags::MOVED_TO);

/// One file that is watched.
#[derive(Debug)]
pub struct ConfigFile {
    path: PathBuf,
    /// What it held when somebody read it last; `None`: nobody could.
    known: Option<u64>,
    /// What it holds instead, and for how long it has.
    other: Option<(u64, Duration)>,
    /// Whoever has written that is done.
    done: bool,
    /// Its own, and those of the links on the way to it.
    names: BTreeSet<OsString>,
    kernel: Kernel,
    /// On another thread: on a dead mount it does not come back.
    looking: Option<JoinHandle<Looked>>,
}

#[derive(Debug, Default)]
struct Looked {
    number: Option<u64>,
    names: BTreeSet<OsString>,
}

/// Who tells of changes.
#[derive(Debug)]
enum Kernel {
    NotAsked,
    Tells(AsyncFd<Arc<OwnedFd>>),
    /// It has no inotify left for us.
    Silent,
}

impl ConfigFile {
    /// Of which this text is known; `None`: it could not be read. Looks at nothing yet.
    pub fn new(path: PathBuf, known: Option<&str>) -> Self {
        Self {
            path,
            known: known.map(|text| number_of(text.as_bytes())),
            other: None,
            done: false,
            names: BTreeSet::new(),
            kernel: Kernel::NotAsked,
            looking: None,
        }
    }

    /// Resolves once it holds something else than is known, and whole, as far as can be told. Cancel-safe.
    pub async fn changed(&mut self) {
        loop {
            let mut seen = self.look().await.filter(|seen| Some(*seen) != self.known);
            while let Some(number) = seen {
                if self.other.is_none_or(|(other, _)| other != number) {
                    self.other = Some((number, Duration::ZERO));
                }
                tokio::time::sleep(SETTLED).await;
                let done = self.drain();
                seen = self.look().await.filter(|seen| Some(*seen) != self.known);
                // Who was done before may have begun again.
                self.done = done || (self.done && seen == Some(number));
                if seen == Some(number) && self.is_whole() {
                    self.take(number);
                    return;
                }
            }
            (self.other, self.done) = (None, false);
            self.hint().await;
        }
    }

    /// It has been the same for a moment longer: long enough?
    fn is_whole(&mut self) -> bool {
        self.other.as_mut().is_some_and(|(_, same)| {
            *same += SETTLED;
            self.done || *same >= QUIET
        })
    }

    fn take(&mut self, number: u64) {
        (self.known, self.other, self.done) = (Some(number), None, false);
    }

    /// What it holds now is known: somebody else reads it.
    pub async fn read_by_others(&mut self) {
        if let Some(number) = self.look().await {
            self.take(number);
        }
    }

    /// A number for what it holds; `None`: it is not there, or cannot be read. What changes after that is told.
    async fn look(&mut self) -> Option<u64> {
        self.ask_the_kernel();
        let looking = self.looking.get_or_insert_with(|| {
            let path = self.path.clone();
            let inotify = match &self.kernel {
                Kernel::Tells(inotify) => Some(Arc::clone(inotify.get_ref())),
                Kernel::NotAsked | Kernel::Silent => None,
            };
            tokio::task::spawn_blocking(move || {
                // The way to it may be another one each time. Those that are watched already are not watched twice.
                for dir in directories(&path).iter().filter(|_| inotify.is_some()) {
                    let _ = inotify
                        .as_ref()
                        .map(|inotify| inotify::add_watch(inotify, dir, WATCHED));
                }
                let bytes = regular_file::read(&path, MAX_BYTES).ok();
                Looked {
                    number: bytes.map(|bytes| number_of(&bytes)),
                    names: names(&path),
                }
            })
        });
        let ended = tokio::time::timeout(LOOK, looking).await.ok()?;
        self.looking = None;
        let looked = ended.unwrap_or_default();
        self.names = looked.names;
        looked.number
    }

    fn ask_the_kernel(&mut self) {
        if !matches!(self.kernel, Kernel::NotAsked) {
            return;
        }
        let made = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC);
        let watched = made.map_err(std::io::Error::from).and_then(|made| {
            #[allow(
                deprecated,
                reason = "tokio#8587: unsound for types that change their descriptor; an OwnedFd cannot, and its \
                          safe successor does not exist (the new ones are unsafe fn)"
            )]
            AsyncFd::with_interest(Arc::new(made), Interest::READABLE)
        });
        self.kernel = match watched {
            Ok(inotify) => Kernel::Tells(inotify),
            Err(error) => {
                tracing::info!(
                    "no inotify ({error}): {} is looked at every {} s",
                    self.path.display(),
                    POLL.as_secs()
                );
                Kernel::Silent
            }
        };
    }

    /// Waits until it may hold something else.
    async fn hint(&mut self) {
        let Kernel::Tells(inotify) = &self.kernel else {
            return tokio::time::sleep(POLL).await;
        };
        match tokio::time::timeout(POLL, inotify.readable()).await {
            Ok(Ok(mut ready)) => {
                tokio::time::sleep(SETTLED).await;
                let (drained, done) = told(inotify.get_ref(), &self.names);
                if drained {
                    ready.clear_ready();
                }
                self.done |= done;
            }
            Ok(Err(_)) => tokio::time::sleep(POLL).await,
            Err(_) => {}
        }
    }

    /// Whether the kernel has told meanwhile that who writes it is done.
    fn drain(&self) -> bool {
        match &self.kernel {
            Kernel::Tells(inotify) => told(inotify.get_ref(), &self.names).1,
            Kernel::NotAsked | Kernel::Silent => false,
        }
    }
}

/// The directory of each link on the way, and of the file: where a renaming changes what it holds.
fn directories(path: &Path) -> Vec<PathBuf> {
    let mut dirs = Vec::new();
    let mut at = path.to_owned();
    for _ in 0..LINKS {
        let dir = at.parent().filter(|dir| !dir.as_os_str().is_empty());
        let dir = dir.unwrap_or(Path::new(".")).to_owned();
        let next = fs::read_link(&at).ok().map(|to| dir.join(to));
        dirs.push(dir);
        match next {
            Some(next) => at = next,
            None => break,
        }
    }
    if let Some(dir) = fs::canonicalize(path).ok().as_deref().and_then(Path::parent) {
        dirs.push(dir.to_owned());
    }
    dirs
}

/// What is renamed or written, if it comes to hold something else: its name, and that of each part of a link.
fn names(path: &Path) -> BTreeSet<OsString> {
    let mut names: BTreeSet<OsString> = path.file_name().map(OsStr::to_owned).into_iter().collect();
    let mut at = path.to_owned();
    for _ in 0..LINKS {
        let Ok(to) = fs::read_link(&at) else { break };
        names.extend(to.components().filter_map(|part| match part {
            Component::Normal(name) => Some(name.to_owned()),
            _ => None,
        }));
        at = at.parent().unwrap_or(Path::new(".")).join(to);
    }
    names
}

/// Whether nothing is left of what the kernel told, and whether it told that who wrote one of these is done.
fn told(inotify: &OwnedFd, names: &BTreeSet<OsString>) -> (bool, bool) {
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut reader = Reader::new(inotify, &mut buffer);
    let (mut left, mut done) = (READINGS, false);
    while left > 0 {
        let Ok(event) = reader.next() else {
            return (true, done);
        };
        let name = event.file_name().map(|name| OsStr::from_bytes(name.to_bytes()));
        done |= event.events().intersects(DONE) && name.is_some_and(|name| names.contains(name));
        if reader.is_buffer_empty() {
            left -= 1;
        }
    }
    (false, done)
}

fn number_of(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::symlink;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    async fn tells(file: &mut ConfigFile) {
        tokio::time::timeout(PATIENCE, file.changed()).await.unwrap();
    }

    async fn tells_nothing(file: &mut ConfigFile, why: &str) {
        let told = tokio::time::timeout(8 * SETTLED, file.changed()).await;
        assert!(told.is_err(), "{why}");
    }

    #[tokio::test]
    async fn every_way_to_change_a_file_is_seen_and_to_touch_it_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("defib.toml");
        fs::write(&path, "one").unwrap();
        let mut file = ConfigFile::new(path.clone(), Some("one"));

        fs::write(&path, "one").unwrap();
        tells_nothing(&mut file, "the same content").await;
        fs::write(&path, "two").unwrap();
        tells(&mut file).await;
        let draft = dir.path().join(".defib.toml.swp");
        fs::write(&draft, "three").unwrap();
        fs::rename(&draft, &path).unwrap();
        tells(&mut file).await;
        fs::remove_file(&path).unwrap();
        tells_nothing(&mut file, "a file that is gone is no configuration").await;
        fs::write(&path, "four").unwrap();
        tells(&mut file).await;
    }

    #[tokio::test]
    async fn what_is_half_written_is_not_told_however_slow_its_writer_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("defib.toml");
        fs::write(&path, "[peer.a]\n[peer.b]\n").unwrap();
        let mut file = ConfigFile::new(path.clone(), Some("[peer.a]\n[peer.b]\n"));
        tells_nothing(&mut file, "the same content").await;
        let mut writer = fs::File::create(&path).unwrap();
        for line in ["[peer.a]\n", "[peer.b]\n# and\n"] {
            writer.write_all(line.as_bytes()).unwrap();
            // (Others write beside it, and are done.)
            fs::write(dir.path().join("log"), line).unwrap();
            tells_nothing(&mut file, "its writer is not done").await;
        }
        writer.write_all(b"[peer.c]\n").unwrap();
        drop(writer);
        tells(&mut file).await;
        let whole = "[peer.a]\n[peer.b]\n# and\n[peer.c]\n";
        assert_eq!(file.known, Some(number_of(whole.as_bytes())));
    }

    #[tokio::test]
    async fn what_changed_since_it_was_read_and_before_it_was_watched_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("defib.toml");
        fs::write(&path, "two").unwrap();
        tells(&mut ConfigFile::new(path.clone(), Some("one"))).await;
        tells(&mut ConfigFile::new(path, None)).await;
    }

    #[tokio::test]
    async fn the_swap_of_a_config_map_is_seen_again_and_again() {
        let dir = tempfile::tempdir().unwrap();
        let place = |name: &str| dir.path().join(name);
        let version = |name: &str, text: &str| {
            fs::create_dir(place(name)).unwrap();
            fs::write(place(name).join("defib.toml"), text).unwrap();
        };
        version("..1", "one");
        symlink("..1", place("..data")).unwrap();
        symlink("..data/defib.toml", place("defib.toml")).unwrap();
        let mut file = ConfigFile::new(place("defib.toml"), Some("one"));
        for number in 2..5 {
            let name = format!("..{number}");
            version(&name, &name);
            symlink(&name, place("..data_tmp")).unwrap();
            fs::rename(place("..data_tmp"), place("..data")).unwrap();
            fs::remove_dir_all(place(&format!("..{}", number - 1))).unwrap();
            tells(&mut file).await;
        }
    }

    #[tokio::test]
    async fn where_the_kernel_tells_nothing_it_is_looked_at_all_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("defib.toml");
        fs::write(&path, "one").unwrap();
        let mut file = ConfigFile::new(path.clone(), Some("one"));
        file.kernel = Kernel::Silent;
        tells_nothing(&mut file, "the same content").await;
        fs::write(&path, "two").unwrap();
        tells(&mut file).await;
    }
}
