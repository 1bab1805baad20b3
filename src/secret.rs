//! Secrets: where one lives, and how it never gets into a log.

use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::OFlags;
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// More than any token or password has.
const MAX_BYTES: u64 = 64 * 1024;
/// A file system that hangs (NFS, FUSE) gets no more than this.
const PATIENCE: Duration = Duration::from_secs(2);
/// Threads that may wait for such a file system at once, in the whole process: a read cannot be cancelled.
static READERS: Semaphore = Semaphore::const_new(4);

/// Where a secret is found. Its value is read when it is needed, so that a rotated file is picked up.
#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    /// Written into the configuration, or into a URL there.
    Inline(String),
    /// In this environment variable.
    Env(String),
    /// In this file, of 64 KiB at most; a trailing newline is cut off.
    File(PathBuf),
}

/// A secret that could not be read. Says where it should have been, never what it was.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The variable is not set, or not UTF-8.
    #[error("environment variable {0} is not set (or is not UTF-8)")]
    Env(String),
    /// The file cannot be read.
    #[error("cannot read the secret file {path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Secret {
    /// The value itself, read in two seconds at most and never on the caller's thread.
    ///
    /// # Errors
    /// If there is none, or it is not read by then.
    pub async fn read(&self) -> Result<String, SecretError> {
        let Self::File(path) = self else {
            return self.reveal();
        };
        let failed = |source| SecretError::File {
            path: path.clone(),
            source,
        };
        let secret = self.clone();
        let reading = async move {
            let permit = READERS.acquire().await.map_err(io::Error::other)?;
            let reading = tokio::task::spawn_blocking(move || {
                let _permit = permit; // given back when the thread is free, not when it has been waited for long enough
                secret.reveal()
            });
            reading.await.map_err(io::Error::other)
        };
        match timeout(PATIENCE, reading).await {
            Ok(read) => read.map_err(failed)?,
            Err(_) => Err(failed(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("it was not read within {PATIENCE:?}: its file system hangs"),
            ))),
        }
    }

    /// The value itself, read here and now: before the event loop runs, or on a thread that may wait.
    ///
    /// # Errors
    /// If there is none.
    pub fn reveal(&self) -> Result<String, SecretError> {
        match self {
            Self::Inline(value) => Ok(value.clone()),
            Self::Env(name) => std::env::var(name).map_err(|_| SecretError::Env(name.clone())),
            Self::File(path) => read_file(path).map_err(|source| SecretError::File {
                path: path.clone(),
                source,
            }),
        }
    }
}

fn read_file(path: &Path) -> io::Result<String> {
    // Opening a FIFO would wait for its writer.
    let nonblock = i32::try_from(OFlags::NONBLOCK.bits()).map_err(io::Error::other)?;
    let file = OpenOptions::new().read(true).custom_flags(nonblock).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut text = String::new();
    file.take(MAX_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(io::Error::other(
            "it holds more than 64 KiB: no token or password",
        ));
    }
    text.truncate(text.trim_end_matches(['\r', '\n']).len());
    Ok(text)
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inline(_) => f.write_str("Secret(inline, hidden)"),
            Self::Env(name) => write!(f, "Secret(env {name})"),
            Self::File(path) => write!(f, "Secret(file {})", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    async fn read(path: &Path) -> String {
        let told = Secret::File(path.to_owned()).read().await;
        told.unwrap_or_else(|error| error.to_string())
    }

    #[tokio::test]
    async fn what_is_no_small_regular_file_is_refused_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        std::fs::write(path("token"), "s3cret\r\n").unwrap();
        assert_eq!(read(&path("token")).await, "s3cret");
        std::fs::write(path("largest"), vec![b'x'; 64 * 1024]).unwrap();
        assert_eq!(read(&path("largest")).await.len(), 64 * 1024);

        std::fs::write(path("large"), vec![b'x'; 64 * 1024 + 1]).unwrap();
        mknodat(CWD, path("fifo"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        for (name, why) in [
            (path("large"), "more than 64 KiB"),
            (path("fifo"), "not a regular file"),
            (PathBuf::from("/dev/zero"), "not a regular file"),
            (path(""), "not a regular file"),
            (path("nowhere"), "No such file"),
        ] {
            let told = read(&name).await;
            assert!(told.contains(why), "{}: {told}", name.display());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_system_that_hangs_is_given_up_and_holds_so_many_threads_only() {
        // All that may wait do, as they would for a dead file server.
        let _waiting = READERS.acquire_many(4).await.unwrap();
        let told = read(Path::new("/etc/hostname")).await;
        assert!(told.contains("not read within 2s"), "{told}");
        let inline = Secret::Inline("s3cret".to_owned());
        assert_eq!(inline.read().await.unwrap(), "s3cret");
    }
}
