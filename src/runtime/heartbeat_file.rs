//! Writes `heartbeat.file`: that this node lives, for whoever watches a file (kstlib's watchdog, another defib, a
//! HEALTHCHECK by `defib probe file`). Its date is the moment at which the event loop last turned, and while the loop is
//! stuck nothing is written. That it cannot be written harms nothing else.

use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Map, Value};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::event_loop::Progress;
use super::sd_notify::STUCK;
use super::shutdown::OURSELVES;
use crate::engine::time::{Clock, Time};
use crate::heartbeat_file::{Status, Writer};
use crate::telemetry::metrics::tasks::{FanOut, TaskMetrics};

/// The last heartbeat may take so long: on a dead mount it would take for ever.
const LAST: Duration = Duration::from_secs(1);

/// What writing takes.
#[derive(Clone)]
pub struct Beats {
    /// Where to.
    pub path: PathBuf,
    /// Between two of them.
    pub interval: Duration,
    /// Said in each: `node` and `group`.
    pub metadata: Map<String, Value>,
    /// Nanoseconds on the clock at which the loop turned last.
    pub alive: Arc<AtomicU64>,
    /// Whether the node ends because it was asked to.
    pub progress: watch::Receiver<Progress>,
    /// The node's.
    pub clock: Arc<dyn Clock>,
    /// For failures and times.
    pub metrics: TaskMetrics,
}

impl Beats {
    /// Writes until it is cancelled; then says that the node stopped, if it was asked to.
    pub async fn run(self, cancel: CancellationToken) -> anyhow::Result<()> {
        let writer = Arc::new(Writer::new(self.path.clone()));
        let began = self.clock.now();
        let mut ticks = tokio::time::interval(self.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut works = true;
        while cancel.run_until_cancelled(ticks.tick()).await.is_some() {
            let turned = self.turned();
            if self.clock.now().since(turned) > STUCK {
                continue;
            }
            let mut writing = pin!(self.write(&writer, turned, began, Status::Running));
            match cancel.run_until_cancelled(writing.as_mut()).await {
                Some(written) => self.tell(written, &mut works),
                // Two at once would write into one another.
                None if tokio::time::timeout(LAST, writing).await.is_err() => return Ok(()),
                None => {}
            }
        }
        if self.was_asked_to_end() {
            let writing = self.write(&writer, self.turned(), began, Status::Stopped);
            let written = tokio::time::timeout(LAST, writing).await;
            self.tell(
                written.unwrap_or_else(|_| Err("it takes too long".to_owned())),
                &mut works,
            );
        }
        Ok(())
    }

    fn turned(&self) -> Time {
        Time::from_nanos(self.alive.load(Ordering::Relaxed))
    }

    /// A node that fails, or has lost its network, ends on nobody's purpose.
    fn was_asked_to_end(&self) -> bool {
        let progress = self.progress.borrow();
        progress.draining_by.as_ref().is_some_and(|by| by != OURSELVES)
    }

    async fn write(
        &self,
        writer: &Arc<Writer>,
        turned: Time,
        began: Time,
        status: Status,
    ) -> Result<(), String> {
        let now = self.clock.now();
        let at = self.clock.wall().saturating_sub(now.since(turned));
        let mut metadata = self.metadata.clone();
        metadata.insert("uptime_s".to_owned(), now.since(began).as_secs().into());
        let writer = Arc::clone(writer);
        let written = tokio::task::spawn_blocking(move || writer.write(at, &metadata, status)).await;
        self.metrics.fanned_out(FanOut::File, self.clock.now().since(now));
        match written {
            Ok(written) => written.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Once when it begins to fail, and once when it works again.
    fn tell(&self, written: Result<(), String>, works: &mut bool) {
        let path = self.path.display();
        match (written, *works) {
            (Ok(()), true) => {}
            (Ok(()), false) => tracing::info!("heartbeat.file {path} is written again"),
            (Err(why), true) => {
                tracing::warn!("heartbeat.file {path} cannot be written: {why}; it is tried each time");
                self.metrics.fanout_failed(FanOut::File);
                *works = false;
                return;
            }
            (Err(_), false) => {
                self.metrics.fanout_failed(FanOut::File);
                return;
            }
        }
        *works = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::heartbeat_file::{Beat, Stamp, read};
    use crate::telemetry::metrics::Metrics;

    struct Hand(AtomicU64);

    impl Clock for Hand {
        fn now(&self) -> Time {
            Time::from_nanos(self.0.load(Ordering::Relaxed))
        }

        fn wall(&self) -> Duration {
            Duration::from_secs(1_800_000_000) + self.now().since(Time::ZERO)
        }
    }

    async fn until(mut is_so: impl FnMut() -> bool) {
        for _ in 0..3000 {
            if is_so() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("waited in vain");
    }

    #[tokio::test]
    async fn s28_a_loop_that_is_stuck_does_not_beat() {
        const SECOND: u64 = 1_000_000_000;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.json");
        let clock = Arc::new(Hand(AtomicU64::new(5 * SECOND)));
        let alive = Arc::new(AtomicU64::new(5 * SECOND));
        let (progress, seen) = watch::channel(Progress::default());
        let beats = Beats {
            path: path.clone(),
            interval: Duration::from_millis(10),
            metadata: Map::new(),
            alive: Arc::clone(&alive),
            progress: seen,
            clock: clock.clone(),
            metrics: Metrics::new().unwrap().tasks,
        };
        let cancel = CancellationToken::new();
        let running = tokio::spawn(beats.run(cancel.clone()));
        let beat = || Beat::parse(&read(&path).ok()?.bytes).ok();
        let dated = |second: u64| {
            let at = Duration::from_secs(1_800_000_000 + second);
            beat().is_some_and(|beat| beat.stamp("timestamp") == Ok(Some(Stamp::At(at))))
        };
        until(|| dated(5)).await;
        // It has not turned for three seconds.
        clock.0.store(8 * SECOND, Ordering::Relaxed);
        std::fs::remove_file(&path).unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(beat().is_none() || dated(5));
        alive.store(8 * SECOND, Ordering::Relaxed);
        until(|| dated(8)).await;
        // An end that nobody asked for is no purpose; one that somebody asked for is.
        progress.send_modify(|progress| progress.draining_by = Some(OURSELVES.to_owned()));
        cancel.cancel();
        running.await.unwrap().unwrap();
        assert_eq!(beat().unwrap().field("status").unwrap(), "running");
    }
}
