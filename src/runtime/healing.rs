//! Remedies in flight. Each grant is carried out in a task of its own and answered by exactly one outcome,
//! whichever way that task ends.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::watch;
use tokio::task::{Id, JoinError, JoinSet};

use super::supervise::panic_message;
use crate::engine::decision::Grant;
use crate::engine::event::{Event, PeerId, RemedyOutcome};
use crate::telemetry::metrics::tasks::{ExitReason, TaskMetrics};

/// How long a remedy waits for its grant to be written down. A disk that is full or slow must not be the outage.
const WRITE_PATIENCE: Duration = Duration::from_secs(1);

/// Task label of all remedies.
const TASK: &str = "remedy";

/// Carries out what was granted. `app` lends the executors of `remedies` for it.
pub trait Healer: Send + Sync + 'static {
    /// Carries out `grant`, once. Bounded in time by itself.
    fn heal(&self, grant: Grant) -> BoxFuture<'static, RemedyOutcome>;
}

/// The remedies that run now.
pub(super) struct Healing {
    healer: Arc<dyn Healer>,
    written_down: watch::Receiver<u64>,
    metrics: TaskMetrics,
    running: JoinSet<RemedyOutcome>,
    grants: HashMap<Id, Grant>,
}

impl Healing {
    pub(super) fn new(
        healer: Arc<dyn Healer>,
        written_down: watch::Receiver<u64>,
        metrics: TaskMetrics,
    ) -> Self {
        Self {
            healer,
            written_down,
            metrics,
            running: JoinSet::new(),
            grants: HashMap::new(),
        }
    }

    /// What is granted from now on is carried out by this one.
    pub(super) fn heal_by(&mut self, healer: Arc<dyn Healer>) {
        self.healer = healer;
    }

    /// Carries out `grant` once it is written down: a node that dies in between must know that it may have acted.
    pub(super) fn begin(&mut self, grant: Grant) {
        let healer = Arc::clone(&self.healer);
        let mut written_down = self.written_down.clone();
        let metrics = self.metrics.clone();
        let granted = grant.clone();
        let handle = self.running.spawn(async move {
            let _running = metrics.running(TASK);
            let written = written_down.wait_for(|token| *token >= granted.token);
            if tokio::time::timeout(WRITE_PATIENCE, written).await.is_err() {
                tracing::warn!(
                    peer = &*granted.name,
                    "the store is slow: healing before it is written down"
                );
            }
            healer.heal(granted).await
        });
        self.grants.insert(handle.id(), grant);
    }

    /// The next that ends; `None` if none runs. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<Event> {
        let ended = self.running.join_next_with_id().await?;
        Some(self.answer(ended))
    }

    /// Ends all, and says for each how far it got: nobody knows.
    pub(super) async fn abort(&mut self) -> Vec<Event> {
        self.running.abort_all();
        let mut answers = Vec::new();
        while let Some(event) = self.next().await {
            answers.push(event);
        }
        answers
    }

    /// For whom something runs.
    pub(super) fn peers(&self) -> BTreeSet<PeerId> {
        self.grants.values().map(|grant| grant.peer).collect()
    }

    /// What runs, in words, in the order of the grants.
    pub(super) fn names(&self) -> Vec<String> {
        let mut grants: Vec<&Grant> = self.grants.values().collect();
        grants.sort_by_key(|grant| grant.token);
        let name = |grant: &&Grant| format!("remedy {} for {}", grant.kind.as_str(), grant.name);
        grants.iter().map(name).collect()
    }

    fn answer(&mut self, ended: Result<(Id, RemedyOutcome), JoinError>) -> Event {
        let (id, reason, outcome) = match ended {
            Ok((id, outcome)) => (id, ExitReason::Planned, outcome),
            Err(error) if error.is_cancelled() => {
                let detail = "defib ended before it did".to_owned();
                (
                    error.id(),
                    ExitReason::Cancelled,
                    RemedyOutcome::Failed { detail },
                )
            }
            Err(error) => {
                let id = error.id();
                let detail = format!("its executor {}", panic_message(error));
                tracing::error!("a remedy failed: {detail}");
                (id, ExitReason::Panic, RemedyOutcome::Failed { detail })
            }
        };
        self.metrics.exited(TASK, reason);
        // Every task that was spawned has its grant; 0 is the token of none.
        let token = self.grants.remove(&id).map_or(0, |grant| grant.token);
        Event::RemedyEnded { token, outcome }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::engine::cause::Cause;
    use crate::engine::event::Incarnation;
    use crate::engine::settings::RemedyKind;
    use crate::engine::time::Time;
    use crate::telemetry::metrics::Metrics;

    /// Acts on token 1, panics on 2, panics before it has a future on 3, never ends on any other.
    struct Scripted;

    impl Healer for Scripted {
        fn heal(&self, grant: Grant) -> BoxFuture<'static, RemedyOutcome> {
            match grant.token {
                1 => std::future::ready(RemedyOutcome::Acted {
                    detail: String::new(),
                })
                .boxed(),
                2 => async { panic!("on purpose") }.boxed(),
                3 => panic!("before the future"),
                _ => std::future::pending().boxed(),
            }
        }
    }

    fn grant(token: u64) -> Grant {
        Grant {
            token,
            peer: PeerId(0),
            name: "feed".into(),
            incarnation: Incarnation("proc:b:1:2".into()),
            exited: false,
            rung: 0,
            kind: RemedyKind::Signal,
            cause: Cause::PeerStuck,
            attempt: 1,
            until: Time::MAX,
        }
    }

    fn told(event: &Event) -> (u64, &'static str, &str) {
        match event {
            Event::RemedyEnded { token, outcome } => match outcome {
                RemedyOutcome::Acted { detail } => (*token, "acted", detail),
                RemedyOutcome::Failed { detail } => (*token, "failed", detail),
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn every_grant_is_answered_once_whatever_its_executor_does() {
        let metrics = Metrics::new().unwrap().tasks;
        let mut healing = Healing::new(Arc::new(Scripted), watch::channel(u64::MAX).1, metrics);
        for token in [4, 1, 2, 3, 5] {
            healing.begin(grant(token));
        }
        assert_eq!(healing.names().len(), 5);
        let mut answers = Vec::new();
        while let Ok(event) = tokio::time::timeout(Duration::from_secs(1), healing.next()).await {
            answers.extend(event);
        }
        answers.sort_by_key(|event| told(event).0);
        let answers: Vec<_> = answers.iter().map(told).collect();
        assert_eq!(
            answers,
            [
                (1, "acted", ""),
                (2, "failed", "its executor panicked: on purpose"),
                (3, "failed", "its executor panicked: before the future"),
            ]
        );
        assert_eq!(healing.names(), ["remedy signal for feed"; 2]);

        let mut aborted = healing.abort().await;
        aborted.sort_by_key(|event| told(event).0);
        let aborted: Vec<_> = aborted.iter().map(told).collect();
        assert_eq!(
            aborted,
            [
                (4, "failed", "defib ended before it did"),
                (5, "failed", "defib ended before it did")
            ]
        );
        assert!(healing.next().await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_done_before_it_is_written_down_unless_the_disk_hangs() {
        let metrics = Metrics::new().unwrap().tasks;
        let (written, written_down) = watch::channel(0);
        let mut healing = Healing::new(Arc::new(Scripted), written_down, metrics);
        healing.begin(grant(1));
        let early = tokio::time::timeout(WRITE_PATIENCE / 2, healing.next()).await;
        assert!(early.is_err(), "{early:?}");
        written.send_replace(1);
        assert!(healing.next().await.is_some());

        written.send_replace(0);
        healing.begin(grant(1));
        let late = tokio::time::timeout(WRITE_PATIENCE * 2, healing.next()).await;
        assert!(late.is_ok(), "a disk that hangs is no reason to let the peer lie");
    }
}
