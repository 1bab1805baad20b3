//! Tells when a configuration file holds something else than before: an editor's renaming over it, a ConfigMap's swap of
//! a link on the way to it, a plain writing. The kernel's word is a hint; the content decides, and is looked at anyway.

use std::fs;
use std::hash::{DefaultHasher, Hasher};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, Reader, WatchFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::JoinHandle;

use crate::regular_file;

/// Network file systems tell nothing.
const POLL: Duration = Duration::from_secs(5);
/// A file that is being written is not read yet: it must be the same twice, so far apart. And after a hint it is looked at
/// so much later: beside it others may write all the time.
const SETTLED: Duration = Duration::from_millis(250);
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

/// One file that is watched.
#[derive(Debug)]
pub struct ConfigFile {
    path: PathBuf,
    /// What it held when somebody read it last; `None`: nobody could.
    known: Option<u64>,
    kernel: Kernel,
    /// On another thread: on a dead mount it does not come back.
    looking: Option<JoinHandle<Option<u64>>>,
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
            kernel: Kernel::NotAsked,
            looking: None,
        }
    }

    /// Resolves once it holds something else than is known, and has for a moment. Cancel-safe.
    pub async fn changed(&mut self) {
        loop {
            let mut seen = self.look().await;
            while seen.is_some() && seen != self.known {
                tokio::time::sleep(SETTLED).await;
                let again = self.look().await;
                if again == seen {
                    self.known = seen;
                    return;
                }
                seen = again;
            }
            self.hint().await;
        }
    }

    /// What it holds now is known: somebody else reads it.
    pub async fn read_by_others(&mut self) {
        self.known = self.look().await.or(self.known);
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
                let bytes = regular_file::read(&path, MAX_BYTES).ok()?;
                Some(number_of(&bytes))
            })
        });
        let ended = tokio::time::timeout(LOOK, looking).await.ok()?;
        self.looking = None;
        ended.ok().flatten()
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
    async fn hint(&self) {
        let Kernel::Tells(inotify) = &self.kernel else {
            return tokio::time::sleep(POLL).await;
        };
        match tokio::time::timeout(POLL, inotify.readable()).await {
            Ok(Ok(mut ready)) => {
                tokio::time::sleep(SETTLED).await;
                if is_drained(inotify.get_ref()) {
                    ready.clear_ready();
                }
            }
            Ok(Err(_)) => tokio::time::sleep(POLL).await,
            Err(_) => {}
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

/// True if nothing is left of what the kernel told.
fn is_drained(inotify: &OwnedFd) -> bool {
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut reader = Reader::new(inotify, &mut buffer);
    let mut left = READINGS;
    while left > 0 {
        if reader.next().is_err() {
            return true;
        }
        if reader.is_buffer_empty() {
            left -= 1;
        }
    }
    false
}

fn number_of(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

#[cfg(test)]
mod tests {
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
