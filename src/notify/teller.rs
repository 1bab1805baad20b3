//! Listens to the notices, and puts what is worth telling into the targets' outboxes. It waits for no receiver.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Mutex, broadcast, mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::courier::{Courier, Shared};
use super::desk::{Asked, Desk};
use super::message::Message;
use super::story::{Now, Stories};
use super::{Settings, Surroundings};
use crate::engine::decision::{Notice, What};
use crate::engine::snapshot::Snapshot;
use crate::engine::time::{Clock, Time};
use crate::task::Task;
use crate::telemetry::metrics::notify::NotifyMetrics;

/// Once the node has drained, what still waits has this long; and no longer than the shutdown's deadline, of which a
/// twentieth is left for ending.
const FLUSH: Duration = Duration::from_secs(5);
/// How long the loop's last words are waited for.
const LAST_WORDS: Duration = Duration::from_millis(100);
/// Of a shutdown's deadline, if it is not known when the shutdown began.
const SHARE: f64 = 0.08;

pub(super) fn tasks(settings: Settings, around: Surroundings) -> (Vec<Task>, Desk) {
    let (desk, asked) = Desk::new();
    if settings.is_empty() {
        return (Vec::new(), desk);
    }
    let sender = Arc::new(around.sender);
    let (ends, ending) = watch::channel(None);
    let shared: Vec<_> = settings
        .into_iter()
        .map(|target| Arc::new(Shared::new(target, around.metrics.clone())))
        .collect();
    let teller = Teller {
        stories: Stories::new(&sender.boot),
        targets: shared.clone(),
        notices: around.notices,
        snapshots: around.snapshots,
        asked,
        clock: Arc::clone(&around.clock),
        ends,
        deadline: around.deadline,
        drained_at: None,
        first: true,
        doubt: true,
        metrics: around.metrics,
    };
    let teller = Arc::new(Mutex::new(teller));
    let mut tasks = vec![Task {
        name: "notify".to_owned(),
        start: Box::new(move |cancel| {
            let teller = Arc::clone(&teller);
            Box::pin(async move { teller.lock().await.run(cancel).await })
        }),
    }];
    for (number, shared) in (0u64..).zip(shared) {
        let (sender, clock, ending) = (Arc::clone(&sender), Arc::clone(&around.clock), ending.clone());
        let seed = around.seed.wrapping_add(number);
        tasks.push(Task {
            name: format!("notify:{}", shared.target.name),
            start: Box::new(move |cancel| {
                let courier = Courier {
                    shared: Arc::clone(&shared),
                    sender: Arc::clone(&sender),
                    clock: Arc::clone(&clock),
                    seed,
                    ending: ending.clone(),
                };
                Box::pin(courier.run(cancel))
            }),
        });
    }
    (tasks, desk)
}

struct Teller {
    stories: Stories,
    targets: Vec<Arc<Shared>>,
    notices: broadcast::Receiver<Arc<Notice>>,
    snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
    asked: mpsc::Receiver<Asked>,
    clock: Arc<dyn Clock>,
    ends: watch::Sender<Option<Time>>,
    deadline: Duration,
    drained_at: Option<Time>,
    /// No snapshot was looked at yet.
    first: bool,
    /// Something may have been missed: the next snapshot is compared.
    doubt: bool,
    metrics: NotifyMetrics,
}

impl Teller {
    async fn run(&mut self, cancel: CancellationToken) -> anyhow::Result<()> {
        loop {
            tokio::select! {
                biased;
                notice = self.notices.recv() => match notice {
                    Ok(notice) => self.hear(&notice),
                    Err(RecvError::Lagged(missed)) => self.lagged(missed),
                    Err(RecvError::Closed) => break,
                },
                Some((to, grant)) = self.asked.recv() => {
                    let message = self.stories.asked(&grant, self.now());
                    self.tell_one(&to, message);
                }
                () = cancel.cancelled() => break,
                changed = self.snapshots.changed(), if self.doubt => {
                    self.doubt = changed.is_ok();
                    self.compare();
                }
            }
        }
        // The loop ends at the same moment, and may have last words.
        let _ = tokio::time::timeout(LAST_WORDS, async {
            while let Ok(notice) = self.notices.recv().await {
                self.hear(&notice);
            }
        })
        .await;
        self.end();
        Ok(())
    }

    fn now(&self) -> Now {
        Now {
            at: self.clock.now(),
            wall: self.clock.wall(),
        }
    }

    fn hear(&mut self, notice: &Notice) {
        if matches!(&notice.what, What::Operator { request: "drain", .. }) {
            self.drained_at.get_or_insert(notice.at);
        }
        let now = self.now();
        if let Some(message) = self.stories.hear(notice, now) {
            self.tell(message);
        }
    }

    fn lagged(&mut self, missed: u64) {
        self.metrics.missed(missed);
        tracing::warn!("{missed} notices came faster than they could be told: open episodes are read anew");
        self.doubt = true;
    }

    /// Everything heard so far is told already: a snapshot that is newer than what was heard last is right.
    fn compare(&mut self) {
        let Some(snapshot) = self.snapshots.borrow_and_update().clone() else {
            return;
        };
        let (messages, doubt) = self.stories.compare(&snapshot, self.first, self.now());
        (self.first, self.doubt) = (false, doubt);
        for message in messages {
            self.tell(message);
        }
    }

    fn tell(&self, message: Message) {
        let now = self.clock.now();
        let wants = |shared: &&Arc<Shared>| shared.target.wants(message.about.peer.as_deref());
        for shared in self.targets.iter().filter(wants) {
            shared.push(message.clone(), now);
        }
    }

    fn tell_one(&self, to: &str, message: Message) {
        match self.targets.iter().find(|shared| &*shared.target.name == to) {
            Some(shared) => shared.push(message, self.clock.now()),
            None => tracing::error!("a remedy asks to tell {to}, which is no target: a fault of defib"),
        }
    }

    fn end(&mut self) {
        let now = self.clock.now();
        let until = match self.drained_at {
            Some(began) => (began + self.deadline.mul_f64(0.95)).min(now + FLUSH),
            None => now + self.deadline.mul_f64(SHARE),
        };
        self.ends.send_replace(Some(until));
    }
}
