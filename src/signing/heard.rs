//! Who was heard last, on disk: what an earlier run of this node has heard is no news to the next one.
//!
//! Written when a node began a run, and at the end; not for each message. What a crash forgets is bounded by `window`.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use super::Verifier;
use super::replay::Newest;

/// A longer file is none of ours.
const MAX_BYTES: u64 = 4 << 20;
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u32,
    nodes: BTreeMap<Arc<str>, Newest>,
}

impl Verifier {
    /// Takes in what an earlier run has kept at `path`. Nothing there is fine; what cannot be read is said, and then only
    /// `window` bounds how old the first message of a node may be. Blocks.
    pub fn restore(&self, path: &Path) {
        match read(path) {
            Ok(nodes) => self.memory().restore(&self.own.node, nodes),
            Err(error) => tracing::warn!("cannot read {}: {error}; it begins anew", path.display()),
        }
    }
}

fn read(path: &Path) -> io::Result<BTreeMap<Arc<str>, Newest>> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
        .open(path);
    let file = match file {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(error),
    };
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut bytes)?;
    let File { version, nodes } = serde_json::from_slice(&bytes)?;
    if version == VERSION {
        Ok(nodes)
    } else {
        Err(io::Error::other(format!("it is of version {version}")))
    }
}

/// Off the event loop's thread. A disk that is full or read-only costs no more than this memory.
pub(super) async fn write_soon(path: PathBuf, nodes: Vec<(Arc<str>, Newest)>) {
    let shown = path.display().to_string();
    let nodes = nodes.into_iter().collect();
    let written = tokio::task::spawn_blocking(move || write(&path, nodes)).await;
    let failed = written.map_or_else(
        |error| Some(error.to_string()),
        |written| written.err().map(|e| e.to_string()),
    );
    if let Some(error) = failed {
        tracing::warn!("cannot write {shown}: {error}");
    }
}

fn write(path: &Path, nodes: BTreeMap<Arc<str>, Newest>) -> io::Result<()> {
    let version = VERSION;
    let text = serde_json::to_vec(&File { version, nodes })?;
    let temporary = path.with_extension("json.tmp");
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let written = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .custom_flags(flags.bits().cast_signed())
        .open(&temporary)
        .and_then(|mut file| {
            file.write_all(&text)?;
            file.sync_all()
        })
        .and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}
