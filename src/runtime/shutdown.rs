//! The end of a node, in two stages: the first request drains under a deadline, the second aborts.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};

use super::event_loop::Progress;
use super::sd_notify::Notifier;
use super::supervise::{Fatal, Supervisor};
use crate::engine::event::{Event, OperatorRequest};
use crate::engine::time::{Clock, Time};
use crate::reload_desk::ReloadDesk;
use crate::telemetry::metrics::tasks::TaskMetrics;

/// A goodbye that is neither published nor refused after this will not be.
const GOODBYE: Duration = Duration::from_secs(2);

/// For what is given back before the goodbye; less if the whole end has not three times as much.
const GIVE_BACK: Duration = Duration::from_secs(3);

/// How a node ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// As asked.
    Done,
    /// A part of it would not stay up.
    Internal,
    /// Its network namespace is orphaned; a new start joins the new one.
    Orphaned,
    /// Its configuration is wrong.
    Config,
    /// A second request cut the drain short.
    Forced,
}

impl Exit {
    /// The process's exit code: of sysexits.h where it has one (`EX_SOFTWARE`, `EX_TEMPFAIL`, `EX_CONFIG`), and
    /// what shells show for an interrupt.
    pub const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Internal => 70,
            Self::Orphaned => 75,
            Self::Config => 78,
            Self::Forced => 130,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Request {
    None,
    Drain { by: String },
    MakeWay,
    Abort,
}

/// Asks a node to end. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Stop(watch::Sender<Request>);

impl Stop {
    /// Nobody has asked yet.
    pub fn new() -> Self {
        Self(watch::Sender::new(Request::None))
    }

    /// The first stage: drain, then end. `by` is who asks, for the log.
    pub fn drain(&self, by: &str) {
        self.0.send_if_modified(|request| {
            let first = *request == Request::None;
            if first {
                *request = Request::Drain { by: by.to_owned() };
            }
            first
        });
    }

    /// Another node takes the place of one that has nothing to drain: its tasks end, and its sockets are closed. Its
    /// manager is not told, for the process stays. False: it was asked to end before, and does that.
    pub fn make_way(&self) -> bool {
        self.0.send_if_modified(|request| {
            let first = *request == Request::None;
            if first {
                *request = Request::MakeWay;
            }
            first
        })
    }

    /// The second stage: end now.
    pub fn abort(&self) {
        self.0.send_replace(Request::Abort);
    }

    async fn draining(&self) -> String {
        let mut requests = self.0.subscribe();
        let asked = requests.wait_for(|request| *request != Request::None).await;
        match asked.as_deref() {
            Ok(Request::Drain { by }) => by.clone(),
            _ => "nobody".to_owned(),
        }
    }

    async fn makes_way(&self) {
        let mut requests = self.0.subscribe();
        // It cannot fail: we hold a sender.
        let _ = requests.wait_for(|request| *request == Request::MakeWay).await;
    }

    async fn aborted(&self) {
        // It cannot fail: we hold a sender.
        let _ = self
            .0
            .subscribe()
            .wait_for(|request| *request == Request::Abort)
            .await;
    }
}

impl Default for Stop {
    fn default() -> Self {
        Self::new()
    }
}

/// The signals of this process: SIGTERM and SIGINT ask to end, SIGHUP asks for a reload.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
    reload: Option<ReloadDesk>,
}

impl Signals {
    /// From now on they end nothing by themselves.
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
            reload: None,
        })
    }

    /// Where SIGHUP asks for a reload from now on.
    pub fn reload_at(&mut self, reload: Option<ReloadDesk>) {
        self.reload = reload;
    }

    /// Hands them on: the first asks for a drain, the second aborts. Never ends by itself.
    pub async fn forward(&mut self, stop: Stop) {
        let name = self.next().await;
        stop.drain(name);
        let name = self.next().await;
        tracing::warn!("{name}: the second request to end; ending at once");
        stop.abort();
        std::future::pending::<()>().await;
    }

    /// The name of the next that asks to end.
    pub async fn next(&mut self) -> &'static str {
        loop {
            tokio::select! {
                Some(()) = self.terminate.recv() => return "SIGTERM",
                Some(()) = self.interrupt.recv() => return "SIGINT",
                Some(()) = self.hang_up.recv() => match &self.reload {
                    // Its answer is logged by who does it.
                    Some(desk) => drop(desk.ask("SIGHUP")),
                    None => tracing::warn!("SIGHUP: ignored; the configuration cannot be read again: restart the node"),
                },
                else => std::future::pending().await,
            }
        }
    }
}

/// Who asks for the drain of a node that failed, or whose network is gone.
pub(super) const OURSELVES: &str = "this node";

/// Why a node ends.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Why {
    Asked(String),
    Fatal(Fatal),
    Orphaned(String),
}

impl Why {
    const fn exit(&self) -> Exit {
        match self {
            Self::Asked(_) => Exit::Done,
            Self::Fatal(_) => Exit::Internal,
            Self::Orphaned(_) => Exit::Orphaned,
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Asked(by) => write!(f, "asked by {by}"),
            Self::Fatal(fatal) => write!(f, "task {} failed for good: {}", fatal.task, fatal.reason),
            Self::Orphaned(interfaces) => write!(
                f,
                "the network namespace is orphaned ({interfaces} gone for good): a restart joins the new one"
            ),
        }
    }
}

/// Everything that is needed to see a node's end coming and to end it well.
pub struct Life {
    /// All tasks.
    pub tasks: Supervisor,
    /// To the loop.
    pub events: mpsc::Sender<Event>,
    /// From the loop.
    pub progress: watch::Receiver<Progress>,
    /// Requests from outside.
    pub stop: Stop,
    /// What must be given back before the goodbye, within the time it is given.
    pub before_goodbye: Box<dyn Fn(Duration) -> BoxFuture<'static, ()> + Send>,
    /// Resolves if the namespace is orphaned, with what is gone.
    pub orphaned: BoxFuture<'static, String>,
    /// The whole end takes no longer. Default 10 s.
    pub deadline: Duration,
    /// The service manager.
    pub notifier: Arc<Notifier>,
    /// For the deadline.
    pub clock: Arc<dyn Clock>,
    /// For the time it took.
    pub metrics: TaskMetrics,
}

impl Life {
    /// Watches over the tasks until something ends the node, ends it, and says how that went.
    pub async fn live(mut self) -> Exit {
        let stop = self.stop.clone();
        tokio::select! {
            biased;
            () = stop.aborted() => return Exit::Forced,
            () = stop.makes_way() => {}
            exit = self.live_and_drain() => return exit,
        }
        self.tasks.stop(self.deadline).await;
        Exit::Done
    }

    async fn live_and_drain(&mut self) -> Exit {
        let why = self.reason_to_end().await;
        match &why {
            Why::Asked(_) => tracing::info!("draining, {why}"),
            Why::Fatal(_) | Why::Orphaned(_) => tracing::error!("ending: {why}"),
        }
        self.notifier.stopping(&why.to_string());
        let began = self.clock.now();
        self.drain(&why, began).await;
        let left = self.deadline.saturating_sub(self.clock.now().since(began));
        for task in self.tasks.stop(left).await {
            self.metrics.hung(&task);
            tracing::error!(task, "task {task} did not end within the deadline and is dropped");
        }
        let took = self.clock.now().since(began);
        self.metrics.drained(took);
        tracing::info!("ended after {} ms", took.as_millis());
        why.exit()
    }

    async fn reason_to_end(&mut self) -> Why {
        let asked_inside = async {
            let asked = self
                .progress
                .wait_for(|progress| progress.draining_by.is_some())
                .await;
            let by = asked.ok().and_then(|progress| progress.draining_by.clone());
            match by {
                Some(by) => by,
                // The loop is gone, which the supervisor tells better.
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            by = self.stop.draining() => Why::Asked(by),
            by = asked_inside => Why::Asked(by),
            fatal = self.tasks.watch() => Why::Fatal(fatal),
            interfaces = &mut self.orphaned => Why::Orphaned(interfaces),
        }
    }

    /// Lets the engine say goodbye and running remedies end. A tenth of the deadline is left for the tasks.
    async fn drain(&mut self, why: &Why, began: Time) {
        let until = self.deadline.mul_f64(0.9);
        let given_back = (self.before_goodbye)(self.deadline.mul_f64(0.3).min(GIVE_BACK));
        let drained = async {
            given_back.await;
            if ask_the_engine(&self.events, &self.progress, why).await.is_err() {
                return;
            }
            // Errors mean that the loop is gone, and every remedy with it.
            let _ = tokio::time::timeout(GOODBYE, self.progress.wait_for(Progress::goodbye_said)).await;
            let _ = self.progress.wait_for(Progress::healed).await;
        };
        let supervised = async {
            loop {
                // Fatal or not: the node ends anyway.
                self.tasks.watch().await;
            }
        };
        tokio::select! {
            () = drained => {}
            () = supervised => {}
            () = tokio::time::sleep(until) => {}
        }
        for remedy in &self.progress.borrow().healing {
            tracing::error!(
                "{remedy} did not end within {} ms of draining and is dropped",
                self.clock.now().since(began).as_millis()
            );
        }
    }
}

/// No remedy from now on, and a goodbye. Not twice: whoever drains by the admin listener has told the engine.
async fn ask_the_engine(
    events: &mpsc::Sender<Event>,
    progress: &watch::Receiver<Progress>,
    why: &Why,
) -> Result<(), mpsc::error::SendError<Event>> {
    if progress.borrow().draining_by.is_some() {
        return Ok(());
    }
    let by = match why {
        Why::Asked(by) => by.clone(),
        Why::Fatal(_) | Why::Orphaned(_) => OURSELVES.to_owned(),
    };
    let request = OperatorRequest::Drain;
    events.send(Event::Operator { request, by }).await
}
