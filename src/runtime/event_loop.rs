//! The loop that owns the engine. It waits for one event or the engine's own deadline, hands it over with the
//! time, and carries the decisions out; it never waits for anybody who is told something. It judges nothing.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::time::Sleep;
use tokio_util::sync::CancellationToken;

use super::clock::{self, MonotonicClock};
use super::healing::{Healer, Healing};
use super::port::Port;
use crate::bus;
use crate::engine::Engine;
use crate::engine::decision::{Decision, Notice};
use crate::engine::event::{Event, Heartbeat, OperatorRequest, PeerId};
use crate::engine::outside::{BlockersAnswer, Errand, LeaseAnswer};
use crate::engine::persist::Persisted;
use crate::engine::reload::Reload;
use crate::engine::snapshot::Snapshot;
use crate::engine::time::{Clock, Time};
use crate::store::Record;
use crate::telemetry::metrics::tasks::{FanOut, TaskMetrics};

/// Events that may wait for the loop; edges wait beyond that.
pub const EVENTS: usize = 4096;
/// Commands that may wait for the bus; what exceeds them is dropped, as on a link that is down.
pub const COMMANDS: usize = 16;
/// Notices that a reader of the event stream may be behind.
pub const NOTICES: usize = 1024;

/// The loop turns at least this often, whatever happens.
const TURN: Duration = Duration::from_millis(250);
/// Ticks are at least so far apart, even for an engine whose deadline has always passed.
const TICK_SPACING: Duration = Duration::from_millis(1);
/// Events taken from the queue in one turn; then the edges get the thread.
const BATCH: usize = 256;
/// A snapshot after what was seen on this machine and led to no decision, at most so often: it may still have changed
/// a check's word.
const SNAPSHOT_SPACING: Duration = Duration::from_millis(250);
/// A snapshot in any case. Messages that led to no decision change nothing but ages: with 100 peers, 4 snapshots a
/// second for their sake were a good part of what an idle node costs.
const SNAPSHOT_IDLE: Duration = Duration::from_secs(1);
/// Between two snapshots lies so many times what one costs: with many peers they come seldomer, and the thread
/// stays free.
const SNAPSHOT_SHARE: u32 = 4;

/// What is done with each notice, at once.
pub type OnNotice = Box<dyn Fn(&Arc<Notice>) + Send>;

/// Where the loop's knowledge and wishes go. The loop waits for none of them.
pub struct Outlets {
    /// To the bus.
    pub bus: Port<bus::Command>,
    /// Carries out grants.
    pub healer: Arc<dyn Healer>,
    /// To whoever asks the outside for the guards.
    pub errands: Port<Errand>,
    /// To the store.
    pub persist: watch::Sender<Option<Arc<Record>>>,
    /// From the store: the last fencing token that it has written down, or failed to. A remedy waits for it.
    pub written_down: watch::Receiver<u64>,
    /// To the endpoints.
    pub on_snapshot: Box<dyn Fn(Arc<Snapshot>) + Send>,
    /// To the event stream.
    pub notices: broadcast::Sender<Arc<Notice>>,
    /// To logs, metrics and the audit.
    pub on_notice: OnNotice,
    /// To whoever ends the node.
    pub progress: watch::Sender<Progress>,
    /// Nanoseconds on the clock at which the loop turned last.
    pub alive: Arc<AtomicU64>,
}

/// What is asked of the loop beside events.
pub enum Order {
    /// Another configuration, and who carries out what is granted by it. Taken up once everything is handled that came
    /// before it.
    Reload {
        /// For the engine.
        reload: Box<Reload>,
        /// Grants of before keep theirs.
        healer: Arc<dyn Healer>,
        /// Done in the same turn: what names checks by number must name them by those of now.
        shown: Box<dyn FnOnce() + Send + Sync>,
        /// Told once.
        taken: oneshot::Sender<()>,
    },
    /// A configuration was refused.
    Refused {
        /// Who asked.
        by: String,
        /// Why.
        detail: String,
    },
}

/// How far a drain has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Who asked for a drain.
    pub draining_by: Option<String>,
    /// The slot of the goodbye that is on its way to the bus.
    pub goodbye: Option<u64>,
    /// Remedies that run, in words.
    pub healing: Vec<String>,
    /// For whom they run: also who is configured no longer.
    pub at_work: BTreeSet<PeerId>,
}

impl Progress {
    /// The goodbye was taken by the bus, or refused, or there was none to say.
    pub fn goodbye_said(&self) -> bool {
        self.draining_by.is_some() && self.goodbye.is_none()
    }

    /// No remedy runs, and none will.
    pub fn healed(&self) -> bool {
        self.draining_by.is_some() && self.healing.is_empty()
    }
}

/// The engine, and what it takes to run it.
pub struct EventLoop {
    engine: Engine,
    clock: Arc<MonotonicClock>,
    boot_id: Option<String>,
    events: mpsc::Receiver<Event>,
    orders: mpsc::Receiver<Order>,
    outlets: Outlets,
    healing: Healing,
    metrics: TaskMetrics,
    /// What is handled in this turn: empty in between.
    batch: Vec<Event>,
    /// Answers that the loop owes the engine itself.
    owed: Vec<Event>,
    progress: Progress,
    ticked: Time,
    published: Time,
    publishing_took: Duration,
    news: News,
}

/// How much there is to tell since the last snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum News {
    Ages,
    Evidence,
    Decisions,
}

enum Wake {
    /// There is something in the batch.
    Events,
    Order(Order),
    Timer,
    Cancelled,
    Deserted,
}

impl EventLoop {
    /// A loop that has not turned yet. The caller keeps a sender of `events` for as long as the loop shall run.
    pub fn new(
        engine: Engine,
        clock: Arc<MonotonicClock>,
        (events, orders): (mpsc::Receiver<Event>, mpsc::Receiver<Order>),
        outlets: Outlets,
        metrics: TaskMetrics,
    ) -> Self {
        let now = clock.now();
        Self {
            engine,
            boot_id: clock::boot_id(),
            events,
            orders,
            healing: Healing::new(
                Arc::clone(&outlets.healer),
                outlets.written_down.clone(),
                metrics.clone(),
            ),
            outlets,
            metrics,
            batch: Vec::new(),
            owed: Vec::new(),
            progress: Progress::default(),
            ticked: now,
            published: now,
            publishing_took: Duration::ZERO,
            news: News::Decisions,
            clock,
        }
    }

    /// Turns until cancelled. An error means that nobody is left who could send an event.
    pub async fn run(mut self, cancel: CancellationToken) -> anyhow::Result<()> {
        self.tick(self.clock.now());
        let alarm = tokio::time::sleep(TURN);
        tokio::pin!(alarm);
        loop {
            self.publish_if_due();
            match self.wait(&cancel, alarm.as_mut()).await {
                Wake::Events => self.turn().await,
                Wake::Order(order) => self.obey(order).await,
                Wake::Timer => self.turn_idle(),
                Wake::Cancelled => break,
                Wake::Deserted => anyhow::bail!("every sender of events is gone"),
            }
        }
        self.end().await;
        Ok(())
    }

    async fn wait(&mut self, cancel: &CancellationToken, mut alarm: Pin<&mut Sleep>) -> Wake {
        self.batch.append(&mut self.owed);
        if !self.batch.is_empty() {
            return Wake::Events;
        }
        let until = self.clock.instant(self.tick_due().min(self.publish_due()));
        // An alarm that comes too early stays: to move it at each event costs more than to look once in vain.
        if alarm.is_elapsed() || until < alarm.deadline() {
            alarm.as_mut().reset(until);
        }
        tokio::select! {
            biased;
            () = cancel.cancelled() => Wake::Cancelled,
            Some(event) = self.healing.next() => {
                self.batch.push(event);
                Wake::Events
            }
            Some(order) = self.orders.recv() => Wake::Order(order),
            taken = self.events.recv_many(&mut self.batch, BATCH) => {
                if taken == 0 { Wake::Deserted } else { Wake::Events }
            }
            () = alarm => Wake::Timer,
        }
    }

    /// Hands over what was taken from the queue together, with the time at which it was. What time alone has changed
    /// comes first: a node that was stopped must know it before it reads what piled up meanwhile.
    async fn turn(&mut self) {
        let now = self.turned_at();
        if now >= self.tick_due() {
            self.tick(now);
        }
        let mut batch = std::mem::take(&mut self.batch);
        let handled = batch.len();
        for event in batch.drain(..) {
            self.take(event, now);
        }
        self.batch = batch;
        self.metrics.turned(handled as u64, self.events.len());
        if handled >= BATCH || !self.owed.is_empty() {
            self.publish_if_due();
            tokio::task::yield_now().await;
        }
    }

    async fn obey(&mut self, order: Order) {
        match order {
            Order::Refused { by, detail } => {
                let now = self.turned_at();
                self.engine.reload_refused(by, detail, now);
                self.carry_out(now);
            }
            Order::Reload {
                reload,
                healer,
                shown,
                taken,
            } => {
                // What ended tasks have said came before this, and is meant for those of before.
                let waiting = self.events.len();
                if waiting > 0 {
                    self.events.recv_many(&mut self.batch, waiting).await;
                    self.turn().await;
                }
                let now = self.turned_at();
                self.healing.heal_by(healer);
                self.engine.reload(*reload, now);
                shown();
                self.carry_out(now);
                self.publish_now();
                // Who asked may be gone.
                let _ = taken.send(());
            }
        }
    }

    fn turn_idle(&mut self) {
        let now = self.turned_at();
        if now >= self.tick_due() {
            self.tick(now);
        }
        self.metrics.turned(0, self.events.len());
    }

    fn take(&mut self, event: Event, now: Time) {
        if matches!(
            event,
            Event::Observation(_) | Event::Owner { .. } | Event::Expectation { .. }
        ) {
            self.news = self.news.max(News::Evidence);
        }
        let ended = matches!(event, Event::RemedyEnded { .. });
        let asked = drain_asked_by(&event);
        self.settle_goodbye(&event);
        self.engine.handle(event, now);
        self.carry_out(now);
        if let Some(by) = asked {
            // After the decisions: the goodbye, if there is to be one, is known by now.
            self.change_progress(|progress| progress.draining_by = Some(by));
        }
        if ended {
            self.tell_healing();
        }
    }

    fn tick(&mut self, now: Time) {
        self.ticked = now;
        let suspended = clock::suspended();
        self.engine.handle(Event::Tick { suspended }, now);
        self.carry_out(now);
    }

    fn turned_at(&self) -> Time {
        let now = self.clock.now();
        self.outlets.alive.store(now.as_nanos(), Ordering::Relaxed);
        now
    }

    fn tick_due(&self) -> Time {
        let due = self.engine.poll_timeout().min(self.ticked + TURN);
        due.max(self.ticked + TICK_SPACING)
    }

    fn carry_out(&mut self, now: Time) {
        while let Some(decision) = self.engine.poll_decision() {
            self.news = News::Decisions;
            match decision {
                Decision::Publish(heartbeat) => self.publish(heartbeat),
                Decision::ReplaceLink { link, .. } => {
                    if self.outlets.bus.try_send(bus::Command::Replace(link)).is_err() {
                        self.metrics.fanout_failed(FanOut::Bus);
                    }
                }
                Decision::Heal(grant) => {
                    self.healing.begin(grant);
                    self.tell_healing();
                }
                Decision::Errand(errand) => self.send_out(errand),
                Decision::Persist(state) => self.persist(state),
                Decision::Notice(notice) => self.tell(notice, now),
            }
        }
    }

    fn publish(&mut self, heartbeat: Heartbeat) {
        let slot = heartbeat.slot;
        let goodbye = heartbeat.goodbye;
        if self
            .outlets
            .bus
            .try_send(bus::Command::Publish(heartbeat))
            .is_ok()
        {
            if goodbye {
                self.change_progress(|progress| progress.goodbye = slot);
            }
            return;
        }
        self.metrics.fanout_failed(FanOut::Bus);
        // Owed, not handed over here: an engine that answers a failed publish with another one must not hold
        // the thread.
        self.owed.extend(slot.map(|slot| Event::PublishFailed { slot }));
    }

    /// Who has nobody to ask is answered so: the guards then say it.
    fn send_out(&mut self, errand: Errand) {
        let Err(errand) = self.outlets.errands.try_send(errand) else {
            return;
        };
        self.metrics.fanout_failed(FanOut::Errand);
        let why = "the part of defib that asks is behind, or failed".to_owned();
        self.owed.extend(match errand {
            Errand::AskBlockers { number, peer } => Some(Event::Blockers {
                number,
                peer,
                answer: BlockersAnswer::Blocked { why },
            }),
            Errand::Reserve(reservation) => Some(Event::Lease {
                reservation,
                answer: LeaseAnswer::Unavailable { why, away: false },
            }),
            // It ends by itself.
            Errand::Settle(_) => None,
        });
    }

    /// The engine counts ages up to this moment, so this moment is what the store must know.
    fn persist(&self, state: Persisted) {
        let written = clock::stamp(self.boot_id.clone());
        let record = Record { written, state };
        if self.outlets.persist.send(Some(Arc::new(record))).is_err() {
            self.metrics.fanout_failed(FanOut::Persist);
        }
    }

    fn tell(&self, notice: Notice, began: Time) {
        let notice = Arc::new(notice);
        (self.outlets.on_notice)(&notice);
        // An error means that nobody listens to the event stream: fine.
        let _ = self.outlets.notices.send(notice);
        self.metrics
            .fanned_out(FanOut::Notice, self.clock.now().since(began));
    }

    fn settle_goodbye(&mut self, event: &Event) {
        if let Event::Published { slot, .. } | Event::PublishFailed { slot } = event
            && self.progress.goodbye == Some(*slot)
        {
            self.change_progress(|progress| progress.goodbye = None);
        }
    }

    fn tell_healing(&mut self) {
        let (names, peers) = (self.healing.names(), self.healing.peers());
        self.change_progress(|progress| (progress.healing, progress.at_work) = (names, peers));
    }

    fn change_progress(&mut self, change: impl FnOnce(&mut Progress)) {
        change(&mut self.progress);
        self.outlets.progress.send_replace(self.progress.clone());
    }

    fn publish_due(&self) -> Time {
        let rest = self.publishing_took.saturating_mul(SNAPSHOT_SHARE);
        let after = match self.news {
            News::Decisions => rest,
            News::Evidence => rest.max(SNAPSHOT_SPACING),
            News::Ages => rest.max(SNAPSHOT_IDLE),
        };
        self.published + after
    }

    fn publish_if_due(&mut self) {
        let now = self.turned_at();
        if now >= self.publish_due() {
            self.publish_now();
        }
    }

    fn publish_now(&mut self) {
        let now = self.turned_at();
        (self.outlets.on_snapshot)(Arc::new(self.engine.snapshot(now)));
        self.news = News::Ages;
        self.published = self.clock.now();
        self.publishing_took = self.published.since(now);
        self.metrics.fanned_out(FanOut::Snapshot, self.publishing_took);
    }

    /// Every grant gets its answer, and the store the last word.
    async fn end(&mut self) {
        for answer in self.healing.abort().await {
            let now = self.turned_at();
            self.take(answer, now);
        }
        self.persist(self.engine.persisted());
        (self.outlets.on_snapshot)(Arc::new(self.engine.snapshot(self.clock.now())));
    }
}

fn drain_asked_by(event: &Event) -> Option<String> {
    match event {
        Event::Operator {
            request: OperatorRequest::Drain,
            by,
        } => Some(by.clone()),
        _ => None,
    }
}
