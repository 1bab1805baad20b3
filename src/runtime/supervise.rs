//! Named tasks, and what their end means. Every task has a policy; no end goes unseen.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::{AbortHandle, Id, JoinError, JoinSet};
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
/// What was asked to end is dropped after this.
const END_PATIENCE: Duration = Duration::from_secs(2);
/// What is dropped is gone by then, unless it holds its thread.
const GONE: Duration = Duration::from_secs(1);
/// Orders that may wait.
const ORDERS: usize = 4;

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
    orders: mpsc::Receiver<Order>,
    ordering: mpsc::Sender<Order>,
    endings: Vec<Ending>,
}

/// What a part of the node asks of the supervision while it runs.
pub enum Order {
    /// These tasks are not wanted any more. `ended` tells when the last of them has: from then on nothing of them comes.
    End {
        /// Their names.
        tasks: BTreeSet<String>,
        /// Told once.
        ended: oneshot::Sender<()>,
    },
    /// These are wanted from now on.
    Start(Vec<(Task, Policy)>),
}

/// Tasks that were asked to end.
struct Ending {
    waited_for: HashSet<Id>,
    until: Time,
    ended: oneshot::Sender<()>,
}

struct Entry {
    name: String,
    /// Its own end alone.
    cancel: CancellationToken,
    handle: Option<AbortHandle>,
    again: Option<Arc<Task>>,
    policy: Policy,
    restarts: VecDeque<Time>,
}

impl Supervisor {
    /// Nothing runs yet.
    pub fn new(clock: Arc<dyn Clock>, metrics: TaskMetrics) -> Self {
        let (ordering, orders) = mpsc::channel(ORDERS);
        Self {
            running: JoinSet::new(),
            entries: HashMap::new(),
            clock,
            metrics,
            cancel: CancellationToken::new(),
            orders,
            ordering,
            endings: Vec::new(),
        }
    }

    /// Where it is asked for something while it watches.
    pub fn orders(&self) -> mpsc::Sender<Order> {
        self.ordering.clone()
    }

    /// The token that every task is given: cancelled by [`Self::stop`].
    pub fn token(&self) -> CancellationToken {
        self.cancel.clone()
    }

    /// Starts a task that can be started again.
    pub fn spawn(&mut self, task: Task, policy: Policy) {
        let task = Arc::new(task);
        let cancel = self.cancel.child_token();
        let entry = Entry {
            name: task.name.clone(),
            cancel: cancel.clone(),
            handle: None,
            again: Some(Arc::clone(&task)),
            policy,
            restarts: VecDeque::new(),
        };
        self.launch(entry, async move { (task.start)(cancel).await });
    }

    /// Starts a task that owns what cannot be made twice: its failure is fatal.
    pub fn spawn_once(&mut self, name: &str, run: impl Future<Output = anyhow::Result<()>> + Send + 'static) {
        let entry = Entry {
            name: name.to_owned(),
            cancel: self.cancel.child_token(),
            handle: None,
            again: None,
            policy: Policy::Fatal,
            restarts: VecDeque::new(),
        };
        self.launch(entry, run);
    }

    /// Restarts what fails, does what it is asked for, and resolves when a task has ended that the node cannot go on
    /// without. Cancel-safe.
    pub async fn watch(&mut self) -> Fatal {
        loop {
            let patience = self.endings.iter().map(|ending| ending.until).min();
            let patience = patience.map(|until| until.since(self.clock.now()));
            tokio::select! {
                Some(ended) = self.running.join_next_with_id() => {
                    if let Some(fatal) = self.ended(ended) {
                        return fatal;
                    }
                }
                // (It holds a sender itself: there is always another one to wait for.)
                Some(order) = self.orders.recv() => self.ordered(order),
                () = tokio::time::sleep(patience.unwrap_or_default()), if patience.is_some() => self.lose_patience(),
            }
        }
    }

    fn ordered(&mut self, order: Order) {
        match order {
            Order::Start(tasks) => {
                for (task, policy) in tasks {
                    self.spawn(task, policy);
                }
            }
            Order::End { tasks, ended } => {
                let meant = self
                    .entries
                    .iter()
                    .filter(|(_, entry)| tasks.contains(&entry.name));
                let waited_for = meant.map(|(id, entry)| {
                    entry.cancel.cancel();
                    *id
                });
                let waited_for = waited_for.collect();
                let until = self.clock.now() + END_PATIENCE;
                self.endings.push(Ending {
                    waited_for,
                    until,
                    ended,
                });
                self.tell_endings();
            }
        }
    }

    /// What does not end when it is asked to is dropped where it waits.
    fn lose_patience(&mut self) {
        let now = self.clock.now();
        for ending in self.endings.iter_mut().filter(|ending| now >= ending.until) {
            for entry in ending.waited_for.iter().filter_map(|id| self.entries.get(id)) {
                tracing::warn!(
                    task = entry.name,
                    "task {} did not end in time and is dropped",
                    entry.name
                );
                self.metrics.hung(&entry.name);
                if let Some(handle) = &entry.handle {
                    handle.abort();
                }
            }
            ending.until = now + END_PATIENCE;
        }
    }

    fn tell_endings(&mut self) {
        let endings = std::mem::take(&mut self.endings);
        for ending in endings {
            if ending.waited_for.is_empty() {
                // Who asked may be gone itself.
                let _ = ending.ended.send(());
            } else {
                self.endings.push(ending);
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
        // What was dropped has closed its sockets only once it is gone.
        let all_gone = async { while self.running.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(GONE, all_gone).await;
        hung.sort();
        for task in &hung {
            self.metrics.exited(task, ExitReason::Cancelled);
        }
        hung
    }

    fn launch(&mut self, mut entry: Entry, run: impl Future<Output = anyhow::Result<()>> + Send + 'static) {
        let metrics = self.metrics.clone();
        let name = entry.name.clone();
        let handle = self.running.spawn(async move {
            let _running = metrics.running(&name);
            run.await
        });
        let id = handle.id();
        entry.handle = Some(handle);
        self.entries.insert(id, entry);
    }

    /// Takes note of an end; `Some` if the node cannot go on.
    fn ended(&mut self, ended: Result<(Id, anyhow::Result<()>), JoinError>) -> Option<Fatal> {
        let id = match &ended {
            Ok((id, _)) => *id,
            Err(error) => error.id(),
        };
        let entry = self.entries.remove(&id)?;
        let (reason, detail) = match ended {
            Ok((_, result)) => classify(&result, &entry.cancel),
            Err(error) => broken(error),
        };
        for ending in &mut self.endings {
            ending.waited_for.remove(&id);
        }
        self.tell_endings();
        self.metrics.exited(&entry.name, reason);
        match reason {
            ExitReason::Planned => {
                tracing::info!(task = entry.name, "task {} ended as planned", entry.name);
                None
            }
            ExitReason::Cancelled => None,
            ExitReason::Error | ExitReason::Panic if entry.cancel.is_cancelled() => {
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
        let cancel = entry.cancel.clone();
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

fn classify(result: &anyhow::Result<()>, cancel: &CancellationToken) -> (ExitReason, String) {
    match result {
        Ok(()) if cancel.is_cancelled() => (ExitReason::Cancelled, String::new()),
        Ok(()) => (ExitReason::Planned, String::new()),
        Err(error) => (ExitReason::Error, format!("{error:#}")),
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
