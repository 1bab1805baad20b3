//! The keys as they are now. Their files are looked at again and again: a key that was exchanged is used without a
//! restart, and one that cannot be read leaves the one before it in force.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::keys::{self, Keys};
use super::{Settings, Source, Verifier, heard};
use crate::secret::Secret;
use crate::telemetry::metrics::signing::SigningMetrics;

/// How often the files are looked at.
const EVERY: Duration = Duration::from_secs(5);
/// How long the start of a node waits for them. A file system that hangs harms the signing, and nothing else.
const PATIENCE: Duration = Duration::from_secs(2);

/// Which keys are in force.
#[derive(Debug)]
pub struct Keyring {
    source: Source,
    node: Arc<str>,
    current: RwLock<Arc<Keys>>,
    seen: RwLock<Seen>,
    metrics: SigningMetrics,
}

/// What tells a file's content from another, without reading it: also behind a link that was turned to another file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Look {
    path: PathBuf,
    /// Device, inode, size, and the times of the last changes; `None`: it is not there.
    is: Option<(u64, u64, u64, [i64; 4])>,
}

type Seen = Vec<Look>;

impl Keyring {
    /// Without any key yet.
    pub fn new(settings: &Settings, node: Arc<str>, metrics: SigningMetrics) -> Self {
        Self {
            source: settings.source.clone(),
            node,
            current: RwLock::default(),
            seen: RwLock::default(),
            metrics,
        }
    }

    pub(super) fn current(&self) -> Arc<Keys> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads every key, says what could not be read, and puts the rest in force. Blocks.
    pub fn read(&self) -> Vec<String> {
        let seen = look(&self.source);
        let (keys, faults) = keys::read(&self.source, &self.node, &self.current());
        self.metrics.read(keys.len(), faults.is_empty());
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
        // After the reading: what changed in between is looked at again.
        *self.seen.write().unwrap_or_else(PoisonError::into_inner) = seen;
        faults
    }

    /// The same at the start of a node, on another thread and for no longer than is good.
    pub async fn read_at_start(self: &Arc<Self>) {
        let ring = Arc::clone(self);
        match timeout(PATIENCE, tokio::task::spawn_blocking(move || ring.read())).await {
            Ok(Ok(faults)) => tell(&faults, "this node can not sign, or not verify, without it"),
            Ok(Err(error)) => tell(&[error.to_string()], "the keys were not read"),
            Err(_) => {
                let fault = format!("the keys were not read within {PATIENCE:?}");
                tell(&[fault], "reading goes on behind the start");
            }
        }
    }

    /// Reads again if something looks different. `None`: nothing does. Blocks.
    pub(super) fn read_if_changed(&self) -> Option<Vec<String>> {
        let same = look(&self.source) == *self.seen.read().unwrap_or_else(PoisonError::into_inner);
        (!same).then(|| self.read())
    }
}

fn tell(faults: &[String], what: &str) {
    for fault in faults {
        tracing::warn!("{fault}; {what}");
    }
}

/// Until cancelled: has the keys follow their files, and keeps who was heard last for the next run.
pub async fn keep(
    settings: Settings,
    keyring: Arc<Keyring>,
    verifier: Arc<Verifier>,
    cancel: CancellationToken,
) -> anyhow::Result<()> {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while cancel.run_until_cancelled(ticks.tick()).await.is_some() {
        let ring = Arc::clone(&keyring);
        // One at a time: where a file system hangs, only this waits.
        let looking = tokio::task::spawn_blocking(move || ring.read_if_changed());
        match cancel.run_until_cancelled(looking).await {
            None => break,
            Some(Ok(Some(faults))) if faults.is_empty() => tracing::info!("the signing keys were read again"),
            Some(Ok(Some(faults))) => tell(&faults, "what was there before stays in force"),
            Some(Ok(None)) => {}
            Some(Err(error)) => return Err(error.into()),
        }
        let news = verifier.memory().news();
        if let Some(nodes) = news {
            heard::write_soon(settings.heard.clone(), nodes).await;
        }
    }
    let nodes = verifier.memory().all();
    heard::write_soon(settings.heard, nodes).await;
    Ok(())
}

/// Every file that the keys are in.
fn look(source: &Source) -> Seen {
    let file = |secret: &Secret| match secret {
        Secret::File(path) => Some(look_at(path)),
        Secret::Env(_) | Secret::Inline(_) => None,
    };
    match source {
        Source::Shared(secret) => file(secret).into_iter().collect(),
        Source::Own { key, trusted } => {
            let entries = fs::read_dir(trusted).into_iter().flatten().flatten();
            let mut seen: Seen = entries.map(|entry| look_at(&entry.path())).collect();
            seen.sort();
            seen.extend(file(key));
            seen.push(look_at(trusted));
            seen
        }
    }
}

fn look_at(path: &Path) -> Look {
    let is = fs::metadata(path).ok().map(|of| {
        let times = [of.mtime(), of.mtime_nsec(), of.ctime(), of.ctime_nsec()];
        (of.dev(), of.ino(), of.size(), times)
    });
    Look {
        path: path.to_owned(),
        is,
    }
}
