//! Named tasks, and what their end means. Every task has a policy; no end goes unseen.

use std::collections::{HashMap, VecDeque};
use std::future::{Future, pending};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::engine::time::{Clock, Time};
use crate::task::Task;
use crate::telemetry::metrics::tasks::{ExitReason, TaskMetrics};

/// A task may be restarted so often within [`WINDOW`]; the next failure is fatal.
pub const RESTARTS: usize = 5;
/// See [`RESTARTS`].
pub const WINDOW: Duration = Duration::from_secs(60);
/// Wait before the first restart; doubled with each within the window, up to [`BACKOFF_MAX`].
const BACKOFF: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(2);

/// What the unexpected end of a task leads to. An end as planned leads to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// It is started again, [`RESTARTS`] times within [`WINDOW`]; then it is fatal.
    Restart,
    /// It is started again without end, ever more slowly. What it looks at is unknown meanwhile: one peer that
    /// cannot be watched must not end a node that others' probes ask.
    Keep,
    /// The node cannot go on without it.
    Fatal,
}

/// The end of a task that the node cannot go on without.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fatal {
    /// Its name.
    pub task: String,
    /// What it ended with, in words.
    pub reason: String,
}

/// All tasks of one node. Dropping it ends them at their next wait.
pub struct Supervisor {
    running: JoinSet<anyhow::Result<()>>,
    entries: HashMap<Id, Entry>,
    clock: Arc<dyn Clock>,
    metrics: TaskMetrics,
    cancel: CancellationToken,
}

struct Entry {
    name: String,
    again: Option<Arc<Task>>,
    policy: Policy,
    restarts: VecDeque<Time>,
}

impl Supervisor {
    /// Nothing runs yet.
    pub fn new(clock: Arc<dyn Clock>, metrics: TaskMetrics) -> Self {
        Self {
            running: JoinSet::new(),
            entries: HashMap::new(),
            clock,
            metrics,
            cancel: CancellationToken::new(),
        }
    }

    /// The token that every task is given: cancelled by [`Self::stop`].
    pub fn token(&self) -> CancellationToken {
        self.cancel.clone()
    }

    /// Starts a task that can be started again.
    pub fn spawn(&mut self, task: Task, policy: Policy) {
        let task = Arc::new(task);
        let entry = Entry {
            name: task.name.clone(),
            again: Some(Arc::clone(&task)),
            policy,
            restarts: VecDeque::new(),
        };
        let cancel = self.cancel.clone();
        self.launch(entry, async move { (task.start)(cancel).await });
    }

    /// Starts a task that owns what cannot be made twice: its failure is fatal.
    pub fn spawn_once(&mut self, name: &str, run: impl Future<Output = anyhow::Result<()>> + Send + 'static) {
        let entry = Entry {
            name: name.to_owned(),
            again: None,
            policy: Policy::Fatal,
            restarts: VecDeque::new(),
        };
        self.launch(entry, run);
    }

    /// Restarts what fails, and resolves when a task has ended that the node cannot go on without. Cancel-safe.
    pub async fn watch(&mut self) -> Fatal {
        loop {
            let Some(ended) = self.running.join_next_with_id().await else {
                return pending().await;
            };
            if let Some(fatal) = self.ended(ended) {
                return fatal;
            }
        }
    }

    /// Cancels every task and waits `within` for them to end. Returns the names of those that did not, sorted;
    /// they are dropped.
    pub async fn stop(&mut self, within: Duration) -> Vec<String> {
        self.cancel.cancel();
        let all_ended = async {
            while let Some(ended) = self.running.join_next_with_id().await {
                self.ended(ended);
            }
        };
        let _ = tokio::time::timeout(within, all_ended).await;
        self.running.abort_all();
        let mut hung: Vec<String> = self.entries.drain().map(|(_, entry)| entry.name).collect();
        hung.sort();
        for task in &hung {
            self.metrics.exited(task, ExitReason::Cancelled);
        }
        hung
    }

    fn launch(&mut self, entry: Entry, run: impl Future<Output = anyhow::Result<()>> + Send + 'static) {
        let metrics = self.metrics.clone();
        let name = entry.name.clone();
        let handle = self.running.spawn(async move {
            let _running = metrics.running(&name);
            run.await
        });
        self.entries.insert(handle.id(), entry);
    }

    /// Takes note of an end; `Some` if the node cannot go on.
    fn ended(&mut self, ended: Result<(Id, anyhow::Result<()>), JoinError>) -> Option<Fatal> {
        let (id, (reason, detail)) = match ended {
            Ok((id, result)) => (id, self.classify(&result)),
            Err(error) => (error.id(), broken(error)),
        };
        let entry = self.entries.remove(&id)?;
        self.metrics.exited(&entry.name, reason);
        match reason {
            ExitReason::Planned => {
                tracing::info!(task = entry.name, "task {} ended as planned", entry.name);
                None
            }
            ExitReason::Cancelled => None,
            ExitReason::Error | ExitReason::Panic if self.cancel.is_cancelled() => {
                tracing::warn!(
                    task = entry.name,
                    "task {} failed at its end: {detail}",
                    entry.name
                );
                None
            }
            ExitReason::Error | ExitReason::Panic => self.failed(entry, detail),
        }
    }

    fn classify(&self, result: &anyhow::Result<()>) -> (ExitReason, String) {
        match result {
            Ok(()) if self.cancel.is_cancelled() => (ExitReason::Cancelled, String::new()),
            Ok(()) => (ExitReason::Planned, String::new()),
            Err(error) => (ExitReason::Error, format!("{error:#}")),
        }
    }

    /// What its policy asks for.
    fn failed(&mut self, mut entry: Entry, detail: String) -> Option<Fatal> {
        let now = self.clock.now();
        while entry.restarts.front().is_some_and(|at| now.since(*at) >= WINDOW) {
            entry.restarts.pop_front();
        }
        let again = match entry.policy {
            Policy::Restart if entry.restarts.len() < RESTARTS => entry.again.take(),
            Policy::Keep => entry.again.take(),
            Policy::Restart | Policy::Fatal => None,
        };
        let Some(task) = again else {
            tracing::error!(task = entry.name, "task {} failed for good: {detail}", entry.name);
            return Some(Fatal {
                task: entry.name,
                reason: detail,
            });
        };
        let after = BACKOFF
            .saturating_mul(1 << entry.restarts.len().min(16))
            .min(BACKOFF_MAX);
        entry.restarts.push_back(now);
        tracing::warn!(
            task = entry.name,
            "task {} failed and is started again in {} ms ({} times within {} s): {detail}",
            entry.name,
            after.as_millis(),
            entry.restarts.len(),
            WINDOW.as_secs(),
        );
        self.metrics.restarted(&entry.name);
        entry.again = Some(Arc::clone(&task));
        let cancel = self.cancel.clone();
        // The wait is the new run's own, so that the ends of others are seen meanwhile.
        self.launch(entry, async move {
            match cancel.run_until_cancelled(tokio::time::sleep(after)).await {
                Some(()) => (task.start)(cancel).await,
                None => Ok(()),
            }
        });
        None
    }
}

fn broken(error: JoinError) -> (ExitReason, String) {
    if error.is_cancelled() {
        return (ExitReason::Cancelled, String::new());
    }
    (ExitReason::Panic, panic_message(error))
}

/// What a task panicked with, in words.
pub(super) fn panic_message(error: JoinError) -> String {
    let Ok(payload) = error.try_into_panic() else {
        return "cancelled".to_owned();
    };
    let text = payload
        .downcast_ref::<&str>()
        .map(ToString::to_string)
        .or_else(|| payload.downcast_ref::<String>().cloned());
    format!(
        "panicked: {}",
        text.unwrap_or_else(|| "with something that is no text".to_owned())
    )
}
