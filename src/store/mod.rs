//! What survives a restart of the node, on disk: atomic, versioned, and honest about what it found.
//!
//! One JSON file, written beside itself and renamed into place. It holds ages, and the moment at which they were
//! true ([`Stamp`]): the next run works out how old they are by then. It knows nothing of what the ages mean.

mod file;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::engine::persist::{Persisted, Restored, VERSION};
use crate::engine::time::Clock;
use crate::telemetry::metrics::store::{Found, StoreMetrics};

/// A longer file is none of ours; the node refuses to write one, too. As many peers as a node may have need no more,
/// even while each is being healed.
pub const MAX_BYTES: usize = 16 << 20;

/// Changes are gathered for so long before they are written.
const DEBOUNCE: Duration = Duration::from_millis(100);

/// A write that failed is tried again after this, even if nothing changed since: the disk may have room again.
const RETRY: Duration = Duration::from_secs(10);

/// A moment, told so that another run of the node can say how long ago it was.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stamp {
    /// The kernel's id of this run of the machine.
    pub boot_id: Option<String>,
    /// CLOCK_BOOTTIME: comparable under the same boot id, and it counts what the machine slept.
    pub boottime: Duration,
    /// Wall time since 1970: the next best, across a restart of the machine.
    pub wall: Duration,
}

impl Stamp {
    /// How long before `now` this was. Under the same boot id by CLOCK_BOOTTIME, else by the wall clock; never
    /// negative, as a clock that was put back makes nothing younger than just written.
    pub fn age_at(&self, now: &Self) -> Duration {
        let same_boot = self.boot_id.is_some() && self.boot_id == now.boot_id;
        match now.boottime.checked_sub(self.boottime) {
            Some(age) if same_boot => age,
            // Another boot; or another time namespace, whose CLOCK_BOOTTIME has another offset.
            _ => now.wall.saturating_sub(self.wall),
        }
    }
}

/// The state, and when it was so: what the file holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// When the ages in `state` were true.
    pub written: Stamp,
    /// What the engine wants kept.
    pub state: Persisted,
}

/// The one reason not to start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Two nodes on one file would spend each other's budgets.
    #[error(
        "the store {store} is in use by another defib (it holds the lock {lock}): stop that one, or give this \
         node a store of its own (`path` of [store])"
    )]
    InUse {
        /// The file.
        store: PathBuf,
        /// Its lock.
        lock: PathBuf,
    },
}

/// Whether a node holds the store at `path`, as far as the kernel tells; nobody is kept from it by this look.
pub fn is_in_use(path: &Path) -> bool {
    file::is_locked(&file::beside(path, "lock"))
}

/// The file, held against other nodes until this is dropped.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    /// What is there now is worthless, and is put aside by the first write. Not before: a node that ends without
    /// having written must find the same ruin again, not a fresh start with fresh budgets.
    ruined: bool,
    _lock: Option<fs::File>,
}

impl Store {
    /// Opens the store at `path` and says what it found there, `now` being the present moment. A directory that
    /// is missing is made. Nothing but a second node is an error: what cannot be read counts as corrupt, and
    /// what cannot be written shows at the first write.
    pub fn open(path: &Path, now: &Stamp) -> Result<(Self, Restored), OpenError> {
        if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty())
            && let Err(error) = fs::create_dir_all(dir)
        {
            tracing::warn!(
                "cannot create {} for the store: {error}; nothing will survive a restart",
                dir.display()
            );
        }
        let lock = Self::lock(path)?;
        let restored = match file::read(path) {
            Ok(None) => Restored::Missing,
            Ok(Some(bytes)) => match parse(&bytes) {
                Ok(record) => Restored::Found(Box::new(record.state), record.written.age_at(now)),
                Err(reason) => corrupt(path, &reason),
            },
            Err(error) => corrupt(path, &error.to_string()),
        };
        let store = Self {
            path: path.to_owned(),
            ruined: restored == Restored::Corrupt,
            _lock: lock,
        };
        Ok((store, restored))
    }

    fn lock(path: &Path) -> Result<Option<fs::File>, OpenError> {
        let lock = file::beside(path, "lock");
        match file::lock(&lock) {
            Ok(held) => Ok(Some(held)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(OpenError::InUse {
                store: path.to_owned(),
                lock,
            }),
            Err(error) => {
                // A read-only or lockless file system: the node lives on, as it does without a store.
                tracing::warn!("cannot lock the store with {}: {error}", lock.display());
                Ok(None)
            }
        }
    }

    /// Writes `record` now, blocking. Returns the number of bytes.
    pub fn write(&mut self, record: &Record) -> io::Result<usize> {
        let bytes = serde_json::to_vec(record)?;
        if bytes.len() > MAX_BYTES {
            let len = bytes.len();
            return Err(io::Error::other(format!(
                "{len} bytes are more than the {MAX_BYTES} a store may have"
            )));
        }
        if self.ruined {
            file::put_aside(&self.path)?;
            self.ruined = false;
        }
        file::replace(&self.path, &bytes)?;
        Ok(bytes.len())
    }

    /// Keeps the file up with `latest` until its sender is gone and the last value is written. Values that come
    /// while one is being written replace each other. A failure is counted, told when it changes, and tried again.
    ///
    /// `written_down` tells the fencing token of each record that was written, or failed to be: remedies wait for
    /// it. A record with a new token is not put off.
    pub async fn run(
        self,
        mut latest: watch::Receiver<Option<Arc<Record>>>,
        written_down: watch::Sender<u64>,
        clock: Arc<dyn Clock>,
        metrics: StoreMetrics,
    ) -> anyhow::Result<()> {
        let mut writer = Writer {
            store: Some(self),
            clock,
            metrics,
            trouble: None,
        };
        loop {
            let retry = writer.trouble.is_some();
            tokio::select! {
                changed = latest.changed() => if changed.is_err() { break },
                () = tokio::time::sleep(RETRY), if retry => {}
            }
            // Before the write, not after it: the change that opens an episode is followed by its grant within
            // milliseconds, and a remedy must not wait for two writes. An ended sender ends the wait.
            let token = *written_down.borrow();
            let mut grants = latest.clone();
            let granted =
                grants.wait_for(|record| record.as_ref().is_some_and(|record| record.state.token > token));
            let _ = tokio::time::timeout(DEBOUNCE, granted).await;
            let record = latest.borrow_and_update().clone();
            if let Some(record) = record {
                let token = record.state.token;
                writer.write(record).await?;
                written_down.send_replace(token);
            }
        }
        Ok(())
    }
}

/// A store that is written to from an async task, one write at a time.
struct Writer {
    /// Away while a write is in flight.
    store: Option<Store>,
    clock: Arc<dyn Clock>,
    metrics: StoreMetrics,
    /// What went wrong last; told only when it changes.
    trouble: Option<String>,
}

impl Writer {
    async fn write(&mut self, record: Arc<Record>) -> anyhow::Result<()> {
        let Some(mut store) = self.store.take() else {
            anyhow::bail!("the store was lost in a write that panicked");
        };
        let path = store.path.clone();
        let began = self.clock.now();
        let (store, result) = tokio::task::spawn_blocking(move || {
            let result = store.write(&record);
            (store, result)
        })
        .await?;
        self.store = Some(store);
        match result {
            Ok(bytes) => {
                self.metrics.written(bytes, self.clock.now().since(began));
                if self.trouble.take().is_some() {
                    tracing::info!("the store {} is written again", path.display());
                }
            }
            Err(error) => self.failed(&path, &error),
        }
        Ok(())
    }

    fn failed(&mut self, path: &Path, error: &io::Error) {
        self.metrics.failed();
        let trouble = error.to_string();
        if self.trouble.as_ref() != Some(&trouble) {
            tracing::warn!(
                "cannot write the store {}: {trouble}; the node goes on, and forgets its budgets and pauses if \
                 it is restarted now",
                path.display()
            );
            self.trouble = Some(trouble);
        }
    }
}

/// What of `restored` the metrics tell.
pub fn found(restored: &Restored) -> Found {
    match restored {
        Restored::Missing => Found::Missing,
        Restored::Corrupt => Found::Corrupt,
        Restored::Found(..) => Found::State,
    }
}

fn parse(bytes: &[u8]) -> Result<Record, String> {
    let record: Record = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let version = record.state.version;
    if version == VERSION {
        Ok(record)
    } else {
        Err(format!(
            "it has version {version}, and this defib reads {VERSION}"
        ))
    }
}

fn corrupt(path: &Path, reason: &str) -> Restored {
    tracing::warn!(
        "cannot read the store {}: {reason}; every budget counts as spent, and the file is kept as {} once a new \
         one is written",
        path.display(),
        file::beside(path, "corrupt").display()
    );
    Restored::Corrupt
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(boot: &str, boottime: u64, wall: u64) -> Stamp {
        Stamp {
            boot_id: Some(boot.to_owned()),
            boottime: Duration::from_secs(boottime),
            wall: Duration::from_secs(wall),
        }
    }

    #[test]
    fn under_one_boot_the_wall_clock_has_no_say() {
        let written = stamp("a", 100, 1_000_000);
        assert_eq!(written.age_at(&stamp("a", 160, 5)), Duration::from_secs(60));
        assert_eq!(
            written.age_at(&stamp("a", 160, 9_000_000)),
            Duration::from_secs(60)
        );
    }

    #[test]
    fn across_boots_the_wall_clock_decides_and_never_goes_back() {
        let written = stamp("a", 100, 1000);
        assert_eq!(written.age_at(&stamp("b", 5, 1300)), Duration::from_secs(300));
        assert_eq!(written.age_at(&stamp("b", 5, 900)), Duration::ZERO);
    }

    #[test]
    fn without_boot_ids_nothing_is_taken_for_the_same_boot() {
        let unknown = |boottime, wall| Stamp {
            boot_id: None,
            ..stamp("", boottime, wall)
        };
        assert_eq!(
            unknown(100, 1000).age_at(&unknown(700, 1010)),
            Duration::from_secs(10)
        );
    }

    #[test]
    fn a_boottime_that_fell_back_is_another_time_namespace() {
        assert_eq!(
            stamp("a", 100, 1000).age_at(&stamp("a", 50, 1007)),
            Duration::from_secs(7)
        );
    }

    #[test]
    fn another_version_is_named() {
        let record = Record {
            written: Stamp::default(),
            state: Persisted {
                version: VERSION + 1,
                ..Persisted::default()
            },
        };
        let reason = parse(&serde_json::to_vec(&record).unwrap()).unwrap_err();
        assert!(reason.contains("version 2"), "{reason}");
    }
}
