//! What two guards ask of the outside: the blockers, and leave of the group (in Redis by scripts, or by turns where there
//! is no bus). It asks, one question of the group at a time, and tells the engine what it was told. It holds no policy:
//! what follows from an answer, and from none, the engine says.

mod blockers;
pub mod preflight;
mod record;
mod redis;
mod slots;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, OptionFuture};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::engine::event::{Event, PeerId};
use crate::engine::outside::{
    BlockersAnswer, Errand, InTheWay, LEASE_PATIENCE, LeaseAnswer, Reservation, Settlement,
};
use crate::engine::time::{Clock, Time};
use crate::redis_client::Server;
use crate::redis_client::failure::Failure;
use crate::telemetry::metrics::fleet::{Call, FleetMetrics, Outcome};
pub use blockers::{Asks, Blocker};
pub use preflight::preflight;
pub use record::Seal;
use redis::Remote;
pub use redis::prefix;
pub use slots::Slots;

/// Errands that may wait for this edge; and so many, that it has taken, for the group.
pub const ERRANDS: usize = 256;
/// Bound on one question to the group. The engine waits a bit longer.
const CALL: Duration = Duration::from_secs(2);
/// What could not be settled is tried again this often, and so long: by then everything of it has ended by itself, or
/// nearly so.
const RETRY: Duration = Duration::from_secs(1);
const RETRIED: Duration = Duration::from_secs(600);

/// What is configured.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    /// Who is asked for leave.
    pub group: Group,
    /// Those that may block a remedy.
    pub blockers: Vec<Blocker>,
}

/// Who is asked for leave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Group {
    /// Nobody: this node is the whole group.
    #[default]
    Alone,
    /// The server of the bus.
    Redis,
    /// The clock.
    Slots(Slots),
}

/// What this edge takes from its surroundings.
#[derive(Clone)]
pub struct Surroundings {
    /// This node and its group.
    pub names: (Arc<str>, Arc<str>),
    /// The bus's server.
    pub redis: Server,
    /// How the group signs what it writes there; `None`: it does not.
    pub seal: Option<Seal>,
    /// The node's clock.
    pub clock: Arc<dyn Clock>,
    /// To the engine.
    pub events: mpsc::Sender<Event>,
    /// Of this edge.
    pub metrics: FleetMetrics,
}

/// Runs errands.
pub struct Fleet {
    group: Group,
    blockers: watch::Receiver<Arc<[Blocker]>>,
    around: Surroundings,
    /// Away while a question is under way.
    remote: Option<Box<Remote>>,
    calling: Option<BoxFuture<'static, Called>>,
    waiting: VecDeque<Task>,
    /// Could not be settled yet.
    owed: VecDeque<Task>,
    retry_at: Time,
    blocking: JoinSet<Event>,
}

/// Something to ask or tell the group, and since when.
#[derive(Clone, Debug)]
enum Task {
    Reserve(Arc<Reservation>),
    Settle(Settlement, Time),
}

struct Called {
    remote: Box<Remote>,
    task: Task,
    sent: Time,
    result: Result<Option<LeaseAnswer>, Failure>,
}

impl Fleet {
    /// Has asked nobody yet, and connected to nothing. `blockers` are those that there are now; those of the settings are
    /// for the start.
    pub fn new(settings: &Settings, blockers: watch::Receiver<Arc<[Blocker]>>, around: Surroundings) -> Self {
        let (node, group) = around.names.clone();
        Self {
            remote: Some(Box::new(Remote::new(
                around.redis.clone(),
                (node, &group),
                around.seal.clone(),
                Arc::clone(&around.clock),
                around.metrics.clone(),
            ))),
            group: settings.group,
            blockers,
            calling: None,
            waiting: VecDeque::new(),
            owed: VecDeque::new(),
            retry_at: Time::ZERO,
            blocking: JoinSet::new(),
            around,
        }
    }

    /// Runs errands until cancelled. What is still taken then ends by itself.
    ///
    /// # Errors
    /// Nobody is left who could send one, or would hear of it.
    pub async fn run(
        mut self,
        mut errands: mpsc::Receiver<Errand>,
        cancel: CancellationToken,
    ) -> anyhow::Result<()> {
        loop {
            self.begin_call();
            let wait = self.pause();
            let has_room = self.waiting.len() < ERRANDS;
            tokio::select! {
                biased;
                () = cancel.cancelled() => return Ok(()),
                Some(called) = OptionFuture::from(self.calling.as_mut()) => {
                    self.calling = None;
                    self.called(called).await?;
                }
                Some(told) = self.blocking.join_next() => {
                    // One that panicked has its deadline in the engine.
                    if let Ok(event) = told {
                        self.tell(event).await?;
                    }
                }
                // (Who sends more than can wait is told so at once, where it is sent.)
                errand = errands.recv(), if has_room => {
                    let errand = errand.context("nobody sends errands any more")?;
                    self.take(errand).await?;
                }
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// How long there is nothing to do but to wait. While a call is under way, its end is what is waited for.
    fn pause(&self) -> Duration {
        if self.calling.is_some() || self.owed.is_empty() {
            return RETRY * 60;
        }
        self.retry_at.since(self.around.clock.now()).min(RETRY)
    }

    async fn take(&mut self, errand: Errand) -> anyhow::Result<()> {
        match errand {
            Errand::AskBlockers { number, peer } => self.ask_blockers(number, peer),
            Errand::Reserve(reservation) => match self.group {
                Group::Redis => self.waiting.push_back(Task::Reserve(reservation)),
                Group::Slots(slots) => {
                    let answer = by_turn(slots.wait(self.around.clock.wall()));
                    return self.tell(Event::Lease { reservation, answer }).await;
                }
                Group::Alone => {
                    let answer = LeaseAnswer::Granted { token: 0 };
                    return self.tell(Event::Lease { reservation, answer }).await;
                }
            },
            Errand::Settle(settlement) => {
                if self.group == Group::Redis {
                    let now = self.around.clock.now();
                    self.waiting.push_back(Task::Settle(settlement, now));
                }
            }
        }
        Ok(())
    }

    fn ask_blockers(&mut self, number: u64, peer: PeerId) {
        let (blockers, clock) = (
            Arc::clone(&self.blockers.borrow()),
            Arc::clone(&self.around.clock),
        );
        let metrics = self.around.metrics.clone();
        self.blocking.spawn(async move {
            let began = clock.now();
            let answer = blockers::ask(&blockers, peer).await;
            let outcome = match answer {
                BlockersAnswer::Clear => Outcome::Yes,
                BlockersAnswer::Blocked { .. } => Outcome::No,
            };
            metrics.called(Call::Blockers, outcome, clock.now().since(began));
            Event::Blockers { number, peer, answer }
        });
    }

    /// What comes from the engine first; then what is owed.
    fn begin_call(&mut self) {
        let now = self.around.clock.now();
        if self.calling.is_some() {
            return;
        }
        let retry = now >= self.retry_at;
        let owed = &mut self.owed;
        let next = self
            .waiting
            .pop_front()
            .or_else(|| retry.then(|| owed.pop_front()).flatten());
        let Some(task) = next else { return };
        let Some(mut remote) = self.remote.take() else {
            return;
        };
        let sent = now;
        self.calling = Some(
            async move {
                let result = match &task {
                    // It waited behind others: nobody waits for it any more, so nothing is taken.
                    Task::Reserve(asked) if sent.since(asked.asked) + CALL > LEASE_PATIENCE => {
                        Ok(Some(LeaseAnswer::Unavailable {
                            why: "the group is slow to answer: others ask it, too".to_owned(),
                            away: false,
                        }))
                    }
                    Task::Reserve(asked) => Ok(Some(remote.reserve(asked, CALL).await)),
                    Task::Settle(settlement, _) => remote.settle(settlement, CALL).await.map(|()| None),
                };
                Called {
                    remote,
                    task,
                    sent,
                    result,
                }
            }
            .boxed(),
        );
    }

    async fn called(&mut self, called: Called) -> anyhow::Result<()> {
        let Called {
            remote,
            task,
            sent,
            result,
        } = called;
        self.remote = Some(remote);
        let now = self.around.clock.now();
        let (call, outcome) = counted(&task, &result);
        self.around.metrics.called(call, outcome, now.since(sent));
        match (task, result) {
            (Task::Reserve(reservation), Ok(Some(answer))) => {
                self.tell(Event::Lease { reservation, answer }).await
            }
            (Task::Settle(settlement, since), Err(failure)) => {
                let shown = redis::shown(&settlement.reservation);
                let reason = failure.into_text();
                if now.since(since) < RETRIED && self.owed.len() < ERRANDS {
                    tracing::debug!("{shown} is not settled yet: {reason}");
                    self.owed.push_back(Task::Settle(settlement, since));
                    self.retry_at = now + RETRY;
                } else {
                    tracing::warn!("{shown} was not settled, and ends by itself: {reason}");
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    async fn tell(&mut self, event: Event) -> anyhow::Result<()> {
        self.around
            .events
            .send(event)
            .await
            .context("nobody hears the answers")
    }
}

fn by_turn(wait: Duration) -> LeaseAnswer {
    if wait.is_zero() {
        return LeaseAnswer::Granted { token: 0 };
    }
    LeaseAnswer::Refused {
        by: InTheWay::Others,
        why: "it is not this node's turn".to_owned(),
        after: Some(wait),
    }
}

fn counted(task: &Task, result: &Result<Option<LeaseAnswer>, Failure>) -> (Call, Outcome) {
    let call = match task {
        Task::Reserve(reservation) if reservation.only_look => Call::Look,
        Task::Reserve(_) => Call::Take,
        Task::Settle(..) => Call::Settle,
    };
    let outcome = match result {
        Ok(None | Some(LeaseAnswer::Granted { .. })) => Outcome::Yes,
        Ok(Some(LeaseAnswer::Refused { .. } | LeaseAnswer::Done { .. })) => Outcome::No,
        Ok(Some(LeaseAnswer::Unavailable { away: false, .. })) | Err(Failure::Refused { .. }) => {
            Outcome::Refused
        }
        Ok(Some(LeaseAnswer::Unavailable { away: true, .. })) | Err(Failure::Down { .. }) => Outcome::Unknown,
    };
    (call, outcome)
}

impl std::fmt::Debug for Fleet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fleet")
            .field("group", &self.group)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::event::Incarnation;
    use crate::engine::outside::Mark;
    use crate::engine::settings::{Budget, GroupBudget};
    use crate::redis_client::{Endpoint, Redis};
    use crate::telemetry::metrics::Metrics;

    struct Still;

    impl Clock for Still {
        fn now(&self) -> Time {
            Time::ZERO + RETRY * 9
        }

        fn wall(&self) -> Duration {
            Duration::ZERO
        }
    }

    fn owed() -> Task {
        let reservation = Reservation {
            run: "boot".into(),
            number: 1,
            asked: Time::ZERO,
            peer: PeerId(0),
            name: "app".into(),
            known_as: "app".into(),
            incarnation: Incarnation("a".into()),
            rung: 0,
            does: "exec".into(),
            lasting: RETRY,
            budget: Budget::default(),
            group: GroupBudget::default(),
            peers: 1,
            only_look: false,
        };
        let settlement = Settlement {
            reservation: Arc::new(reservation),
            mark: Mark::Clear,
            refund: true,
            over: true,
        };
        Task::Settle(settlement, Time::ZERO)
    }

    /// Else it would look again and again, as fast as it can, for as long as a server hangs.
    #[tokio::test]
    async fn what_is_owed_waits_for_the_call_that_is_under_way() {
        let endpoint = Endpoint::parse("redis://127.0.0.1:1").unwrap();
        let (events, _told) = mpsc::channel(1);
        let around = Surroundings {
            names: ("a".into(), "g".into()),
            redis: Server::new(Arc::new(Redis::new(endpoint)), &Arc::from("a")),
            seal: None,
            clock: Arc::new(Still),
            events,
            metrics: Metrics::new().unwrap().fleet,
        };
        let (_blockers, none) = watch::channel(Arc::from(Vec::new()));
        let mut fleet = Fleet::new(&Settings::default(), none, around);
        fleet.owed.extend([owed(), owed()]);
        fleet.retry_at = Time::ZERO + RETRY;
        assert_eq!(fleet.pause(), Duration::ZERO);
        fleet.begin_call();
        assert!(fleet.calling.is_some() && !fleet.owed.is_empty());
        assert!(fleet.pause() >= RETRY);
    }
}
