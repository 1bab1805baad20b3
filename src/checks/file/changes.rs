//! Told by the kernel when a file is written or replaced. One inotify instance for the whole node: a user has 128.
//! It is a help, never the evidence: network file systems tell nothing, and every file is also looked at each interval.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ffi::OsString;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

/// A file is whole when it is closed or renamed to.
const WATCHED: WatchFlags = WatchFlags::CLOSE_WRITE
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::ONLYDIR);
/// A ConfigMap is replaced by a renaming of this link, to which its files lead.
const CONFIG_MAP: &[u8] = b"..data";
/// Between two readings of what the kernel tells: where others write all the time, it is a lot.
const PAUSE: Duration = Duration::from_millis(100);
/// Readings at once. What is more is left for the next time, and dropped by the kernel if it is much more.
const READINGS: usize = 64;

/// The directories in which files are watched.
#[derive(Clone, Debug, Default)]
pub(in crate::checks) struct Directories(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// `None`: the kernel has none left for us.
    inotify: OnceLock<Option<OwnedFd>>,
    watched: Mutex<BTreeMap<PathBuf, Watched>>,
}

/// A directory.
#[derive(Debug, Default)]
struct Watched {
    /// `None`: it cannot be watched now.
    id: Option<i32>,
    files: Vec<(OsString, Weak<Notify>)>,
}

impl Directories {
    /// From now on `told` is told when this file may have changed, where the kernel does so. To be called again and
    /// again: a directory may come later, or come back as another one. Blocks for as long as the file system does.
    pub(super) fn watch(&self, path: &Path, told: &Arc<Notify>) {
        let Some(name) = path.file_name() else { return };
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
        let dir = dir.unwrap_or(Path::new("."));
        // Outside of the lock: on a dead mount this does not return, and the event loop's thread takes the lock.
        let unwatched = self.lock().get(dir).is_none_or(|watched| watched.id.is_none());
        let inotify = self.inotify().filter(|_| unwatched);
        let id = inotify.and_then(|inotify| inotify::add_watch(inotify, dir, WATCHED).ok());
        let mut all = self.lock();
        let watched = all.entry(dir.to_owned()).or_default();
        watched.id = watched.id.or(id);
        let ours = Arc::downgrade(told);
        if !watched.files.iter().any(|(_, known)| known.ptr_eq(&ours)) {
            watched.files.retain(|(_, known)| known.strong_count() > 0);
            watched.files.push((name.to_owned(), ours));
        }
    }

    /// Watches no directory any more in which nobody watches a file: a node may be reloaded for years.
    pub(in crate::checks) fn sweep(&self) {
        let mut gone = Vec::new();
        self.lock().retain(|_, watched| {
            watched.files.retain(|(_, told)| told.strong_count() > 0);
            if watched.files.is_empty() {
                gone.extend(watched.id);
            }
            !watched.files.is_empty()
        });
        let kept: Vec<i32> = self.lock().values().filter_map(|watched| watched.id).collect();
        // (Two paths may lead to one directory, and have one watch.)
        for id in gone.into_iter().filter(|id| !kept.contains(id)) {
            if let Some(inotify) = self.inotify() {
                // An error means that it is gone already.
                let _ = inotify::remove_watch(inotify, id);
            }
        }
    }

    /// Hands on what the kernel tells, until it is dropped.
    ///
    /// # Errors
    /// If the kernel's word cannot be waited for.
    pub(in crate::checks) async fn hand_on(self) -> anyhow::Result<Infallible> {
        let Some(inotify) = self.inotify() else {
            return std::future::pending().await;
        };
        #[allow(
            deprecated,
            reason = "tokio#8587: unsound for types that change their descriptor; an OwnedFd cannot, and its safe \
                      successor does not exist (the new ones are unsafe fn)"
        )]
        let readable = AsyncFd::with_interest(inotify.try_clone()?, Interest::READABLE)?;
        loop {
            let mut ready = readable.readable().await?;
            if self.read(inotify) {
                ready.clear_ready();
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// True if nothing is left to be read.
    fn read(&self, inotify: &OwnedFd) -> bool {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(inotify, &mut buffer);
        let mut left = READINGS;
        while left > 0 {
            let Ok(event) = reader.next() else { return true };
            let name = event.file_name().map(|name| name.to_bytes().to_owned());
            self.told(event.wd(), event.events(), name.as_deref());
            if reader.is_buffer_empty() {
                left -= 1;
            }
        }
        false
    }

    fn told(&self, id: i32, what: ReadFlags, name: Option<&[u8]>) {
        let everywhere = what.contains(ReadFlags::QUEUE_OVERFLOW);
        let gone = what.intersects(ReadFlags::IGNORED | ReadFlags::MOVE_SELF);
        for watched in self.lock().values_mut() {
            if !everywhere && watched.id != Some(id) {
                continue;
            }
            if gone {
                // Its place may be taken by another one: found out by the next call of `watch`.
                watched.id = None;
            }
            let all = everywhere || gone || name == Some(CONFIG_MAP);
            for (file, told) in &watched.files {
                if (all || name == Some(file.as_bytes()))
                    && let Some(told) = told.upgrade()
                {
                    told.notify_one();
                }
            }
        }
        if what.contains(ReadFlags::MOVE_SELF)
            && let Some(inotify) = self.inotify()
        {
            // An error means that it is gone already.
            let _ = inotify::remove_watch(inotify, id);
        }
    }

    fn inotify(&self) -> Option<&OwnedFd> {
        let made = self.0.inotify.get_or_init(|| {
            let made = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC);
            made.inspect_err(|error| {
                tracing::info!("no inotify ({error}): heartbeat files are looked at each interval");
            })
            .ok()
        });
        made.as_ref()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Watched>> {
        // No code panics while it holds the lock, and a half-done change cannot be left behind.
        self.0.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Watches that the kernel holds for us.
    fn held(directories: &Directories) -> usize {
        use std::os::fd::AsRawFd;
        let fd = directories.inotify().unwrap().as_raw_fd();
        let told = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap();
        told.lines().filter(|line| line.starts_with("inotify ")).count()
    }

    #[test]
    fn a_directory_is_watched_no_longer_than_a_file_in_it() {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let directories = Directories::default();
        let [one, two, other] = [Arc::default(), Arc::default(), Arc::default()];
        directories.watch(&dirs[0].path().join("one"), &one);
        directories.watch(&dirs[0].path().join("two"), &two);
        directories.watch(&dirs[1].path().join("other"), &other);
        assert_eq!(held(&directories), 2);
        drop(one);
        directories.sweep();
        assert_eq!(held(&directories), 2, "there is another one in it");
        drop(two);
        directories.sweep();
        assert_eq!(held(&directories), 1);
    }
}
