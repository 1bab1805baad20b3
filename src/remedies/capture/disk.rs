//! Work that may wait for the disk, on another thread, and awaited for so long and no longer. What is not awaited any more
//! goes on by itself: on a disk that hangs each such thread is lost until it answers, so nothing is begun there meanwhile.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::task::AbortHandle;

use crate::engine::time::Time;

/// A disk that has not answered for so long hangs, or is too busy for evidence.
const HANGS: Duration = Duration::from_secs(5);
/// What is asked of the disk, and since when. Never held while waiting.
static ASKED: Mutex<Vec<(AbortHandle, Time)>> = Mutex::new(Vec::new());

/// Does it, and waits so long for it.
pub(super) async fn on_disk<T: Send + 'static>(
    now: Time,
    within: Duration,
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    let working = tokio::task::spawn_blocking(work);
    {
        let mut asked = ASKED.lock().unwrap_or_else(PoisonError::into_inner);
        asked.retain(|(earlier, _)| !earlier.is_finished());
        asked.push((working.abort_handle(), now));
    }
    match tokio::time::timeout(within, working).await {
        Ok(Ok(done)) => done,
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("the disk has not answered in time".to_owned()),
    }
}

/// Why nothing more is asked of it.
pub(super) fn hangs(now: Time) -> Result<(), String> {
    let mut asked = ASKED.lock().unwrap_or_else(PoisonError::into_inner);
    asked.retain(|(earlier, _)| !earlier.is_finished());
    let longest = asked.iter().map(|(_, since)| now.since(*since)).max();
    match longest {
        Some(longest) if longest >= HANGS => Err(format!(
            "the disk has not answered an earlier capture for {} s: nothing is kept until it does",
            longest.as_secs()
        )),
        _ => Ok(()),
    }
}

pub(super) fn create(path: &Path) -> Result<File, String> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(|error| format!("cannot create {}: {error}", path.display()))
}

pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<(), String> {
    let mut file = create(path)?;
    file.write_all(bytes)
        .and_then(|()| file.sync_all())
        .map_err(|error| format!("cannot write {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn on_a_disk_that_hangs_nothing_more_is_begun_until_it_answers() {
        let at = |seconds| Time::ZERO + Duration::from_secs(seconds);
        let (answer, answers) = mpsc::channel::<()>();
        let hanging = on_disk(at(0), Duration::ZERO, move || {
            let _ = answers.recv();
            Ok(())
        });
        assert_eq!(hanging.await, Err("the disk has not answered in time".to_owned()));
        assert_eq!(hangs(at(1)), Ok(()), "a disk may be slow");
        let why = hangs(at(30)).unwrap_err();
        assert!(why.contains("for 30 s"), "{why}");
        drop(answer);
        let until = async {
            while hangs(at(30)).is_err() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), until)
            .await
            .unwrap();
    }
}
