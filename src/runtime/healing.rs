//! Remedies in flight. Each grant is carried out in a task of its own and answered by exactly one outcome,
//! whichever way that task ends.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::task::{Id, JoinError, JoinSet};

use super::supervise::panic_message;
use crate::engine::decision::Grant;
use crate::engine::event::{Event, RemedyOutcome};
use crate::telemetry::metrics::tasks::{ExitReason, TaskMetrics};

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
    metrics: TaskMetrics,
    running: JoinSet<RemedyOutcome>,
    grants: HashMap<Id, Grant>,
}

impl Healing {
    pub(super) fn new(healer: Arc<dyn Healer>, metrics: TaskMetrics) -> Self {
        Self {
            healer,
            metrics,
            running: JoinSet::new(),
            grants: HashMap::new(),
        }
    }

    pub(super) fn begin(&mut self, grant: Grant) {
        let healer = Arc::clone(&self.healer);
        let metrics = self.metrics.clone();
        let granted = grant.clone();
        let handle = self.running.spawn(async move {
            let _running = metrics.running(TASK);
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
