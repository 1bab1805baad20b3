//! The owner watch: takes hold of a peer's process by a pidfd, tells of its exit at once, and looks for the next
//! one. It says what it sees; what that means is the engine's business.
//!
//! A process in another pid namespace cannot be held. Of one that listens, the LISTEN socket is its life: looked for
//! again and again, and ended when it is not there twice in a row.
//!
//! Which life a process is: boot id, number and start time, read while its pidfd is open. While it runs it stays
//! the owner, whoever else may match later, with one exception: when the pid file names another running process,
//! that one is the owner from then on, although the old one may live (a daemon that replaced itself; the old one's
//! end is then nobody's exit). A command line or a port that moved is followed only after the exit.
//!
//! The restart of this task forgets nothing: the pidfd stays in the [`OwnerTable`], and an exit meanwhile is
//! still a witnessed one.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::task::JoinHandle;

use super::file::LastWords;
use super::process::{Finder, Stat, began, incarnation};
use super::{Owner, Reporting, Schedule, listener};
use crate::engine::cause::Cause;
use crate::engine::event::{
    CheckId, Event, Incarnation, Observation, Outcome, OwnerSeen, PeerId, Report, Word,
};
use crate::engine::time::Time;
use crate::owner_table::{Held, Holding, Listener, LiveOwner, OwnerTable};
use crate::telemetry::metrics::checks::{CheckKind, OwnerEvent, RunOutcome};

/// After an exit the next life is looked for at once, and again after this, doubling up to the interval.
const SOON: Duration = Duration::from_millis(50);

/// The watch over one peer's process.
#[derive(Clone)]
pub struct Watch {
    peer: PeerId,
    /// The peer's, for the log.
    name: String,
    check: Option<CheckId>,
    schedule: Schedule,
    /// Where it may say that it stops on purpose.
    last_words: Option<LastWords>,
    finder: Arc<Finder>,
    table: OwnerTable,
    reporting: Reporting,
}

impl Watch {
    /// Also tells the table that this peer has an owner.
    #[allow(
        clippy::too_many_arguments,
        reason = "each is another thing, and all are needed"
    )]
    pub(super) fn new(
        peer: PeerId,
        name: String,
        owner: Owner,
        check: Option<CheckId>,
        schedule: Schedule,
        last_words: Option<LastWords>,
        table: OwnerTable,
        reporting: Reporting,
    ) -> Self {
        let finder = Arc::new(Finder::new(owner));
        let look = Arc::clone(&finder);
        table.watch(
            peer,
            Arc::new(move || look.hold().ok().map(|held| held.incarnation().clone())),
        );
        Self {
            peer,
            name,
            check,
            schedule,
            last_words,
            finder,
            table,
            reporting,
        }
    }

    /// Watches until it is dropped.
    ///
    /// # Errors
    /// If the event loop is gone, or a pidfd cannot be watched.
    pub async fn run(self) -> anyhow::Result<Infallible> {
        let mut held = match self.table.get(self.peer) {
            Holding::Live(live) => Some(Held::Process(live)),
            Holding::Listening(listener) => Some(Held::Listener(listener)),
            Holding::Nothing | Holding::Unwatched => None,
        };
        let mut witnessed = false;
        loop {
            let current = match held.take() {
                Some(current) => current,
                None => self.seek(witnessed).await?,
            };
            let life = current.incarnation().clone();
            // Into the table first: whoever hears of this life finds it there.
            self.table.hold(self.peer, current.clone());
            self.tell(OwnerSeen::Running(life.clone())).await?;
            let born = self.born(&current);
            held = match current {
                Held::Process(live) => self.follow(&live).await?.map(Held::Process),
                Held::Listener(listener) => self.follow_listener(&listener).await?,
            };
            witnessed = held.is_none();
            if witnessed {
                self.table.release(self.peer);
                self.hear_last_words(born, &life).await?;
                self.tell(OwnerSeen::Exited(life)).await?;
            }
        }
    }

    /// Its number and when it began, if its last words are to be heard: both are gone with it.
    fn born(&self, held: &Held) -> Option<(u32, Duration)> {
        match (held, &self.last_words) {
            (Held::Process(live), Some(_)) => Some((live.pid, began(live.pid)?)),
            _ => None,
        }
    }

    /// Who writes that it stops on purpose, and exits, is told in this order.
    async fn hear_last_words(&self, born: Option<(u32, Duration)>, life: &Incarnation) -> anyhow::Result<()> {
        let (Some((pid, began)), Some(words)) = (born, self.last_words.clone()) else {
            return Ok(());
        };
        let check = words.check;
        let look = tokio::task::spawn_blocking(move || words.of_process(pid, began));
        let Ok(Ok(Some(detail))) = tokio::time::timeout(self.schedule.timeout, look).await else {
            return Ok(());
        };
        let report = Report {
            check,
            life: Some(life.clone()),
            says: None,
            word: Word::Leaving { detail },
        };
        self.reporting.send(Event::Report(report)).await
    }

    /// Looks until a process is there. Absence is told only when no exit explains it, and again only when its
    /// reason is another.
    async fn seek(&self, witnessed: bool) -> anyhow::Result<Held> {
        let mut looking = Looking::default();
        let mut pause = if witnessed { SOON } else { self.schedule.interval };
        let (mut told, mut unseen) = (None, None);
        loop {
            let detail = match looking.next(&self.finder, self.schedule.timeout).await {
                // A port that is being passed on is held by nobody for a moment.
                Ok(Held::Listener(listener)) if unseen.as_ref() != Some(&listener) => {
                    unseen = Some(listener);
                    tokio::time::sleep(SOON).await;
                    continue;
                }
                Ok(Held::Listener(listener)) => {
                    let (peer, why) = (&self.name, &listener.why);
                    tracing::info!(peer, why, "owner known by its LISTEN socket only");
                    return Ok(Held::Listener(listener));
                }
                Ok(held) => return Ok(held),
                Err(detail) => detail,
            };
            if told.as_ref() != Some(&detail) {
                tracing::info!(peer = self.name, detail, "owner not found");
                told = Some(detail.clone());
                if !witnessed {
                    self.tell(OwnerSeen::Absent { detail }).await?;
                }
            }
            tokio::time::sleep(pause.min(self.schedule.interval)).await;
            pause = pause.saturating_mul(2);
        }
    }

    /// Stays with this life until it ends (`None`) or the pid file moves on to another.
    async fn follow(&self, live: &LiveOwner) -> anyhow::Result<Option<LiveOwner>> {
        let exit = pin!(live.wait_exit());
        let successor = pin!(self.successor(live));
        let observing = pin!(self.observe(live));
        tokio::select! {
            biased;
            ended = exit => ended.context("cannot watch a pidfd").map(|()| None),
            newer = successor => Ok(Some(newer)),
            failed = observing => failed.map(|never| match never {}),
        }
    }

    async fn successor(&self, live: &LiveOwner) -> LiveOwner {
        if !self.finder.may_move() {
            return std::future::pending().await;
        }
        let mut looking = Looking::default();
        loop {
            tokio::time::sleep(self.schedule.interval).await;
            if let Ok(Held::Process(newer)) = looking.next(&self.finder, self.schedule.timeout).await
                && newer.incarnation != live.incarnation
            {
                return newer;
            }
        }
    }

    async fn observe(&self, live: &LiveOwner) -> anyhow::Result<Infallible> {
        let Some(check) = self.check else {
            return std::future::pending().await;
        };
        let mut ticks = self.schedule.ticks();
        loop {
            ticks.tick().await;
            let began = self.reporting.clock.now();
            let Some(outcome) = state(live) else { continue };
            self.report(check, began, outcome).await?;
        }
    }

    /// Stays with this life until its socket is gone. Once is not enough: a dump is no snapshot.
    async fn follow_listener(&self, listener: &Listener) -> anyhow::Result<Option<Held>> {
        let mut ticks = self.schedule.ticks();
        let mut missed = false;
        loop {
            ticks.tick().await;
            let began = self.reporting.clock.now();
            let wanted = listener.clone();
            let look = tokio::task::spawn_blocking(move || listener::listens(&wanted));
            let seen = match tokio::time::timeout(self.schedule.timeout, look).await {
                Ok(Ok(seen)) => seen,
                Ok(Err(error)) => Err(format!("looking for the LISTEN socket failed: {error}")),
                Err(_) => Err("looking for the LISTEN socket has not ended in time".to_owned()),
            };
            let outcome = match seen {
                Ok(true) => Outcome::Pass,
                Ok(false) if missed => return Ok(None),
                Ok(false) => {
                    missed = true;
                    ticks.reset_after(SOON.min(self.schedule.interval));
                    continue;
                }
                Err(detail) => Outcome::Unknown { detail },
            };
            missed = false;
            if let Some(check) = self.check {
                self.report(check, began, outcome).await?;
            }
        }
    }

    async fn report(&self, check: CheckId, began: Time, outcome: Outcome) -> anyhow::Result<()> {
        let took = self.reporting.clock.now().since(began);
        let counted = RunOutcome::of(&outcome);
        self.reporting.metrics.ran(CheckKind::Owner, counted, took);
        let observation = Observation {
            check,
            began,
            outcome,
        };
        self.reporting.send(Event::Observation(observation)).await
    }

    async fn tell(&self, seen: OwnerSeen) -> anyhow::Result<()> {
        self.reporting.metrics.owner(OwnerEvent::of(&seen));
        let peer = self.peer;
        self.reporting.send(Event::Owner { peer, seen }).await
    }
}

/// What can be said of a process that is held. `None` about an end, of which the pidfd has the word: the main
/// thread can be a zombie while others work on.
fn state(live: &LiveOwner) -> Option<Outcome> {
    let stat = match Stat::read(live.pid) {
        Ok(stat) => stat,
        Err(_) if live.exited() => return None,
        Err(error) => {
            let detail = format!("cannot read /proc/{}/stat: {error}", live.pid);
            return Some(Outcome::Unknown { detail });
        }
    };
    if incarnation(live.pid, stat.start).ok()? != live.incarnation {
        return None;
    }
    let stuck = |detail: &str| Outcome::Fail {
        cause: Cause::PeerStuck,
        detail: detail.to_owned(),
    };
    match stat.state {
        'T' => Some(stuck("stopped by a signal (state T)")),
        't' => Some(stuck("stopped by a debugger (state t)")),
        'Z' | 'X' | 'x' => None,
        _ => Some(Outcome::Pass),
    }
}

/// One look at a time, on a thread that cannot be cancelled: a look that hangs (a pid file on a dead network
/// mount) is waited for by the next ones, never started twice.
#[derive(Default)]
struct Looking(Option<JoinHandle<Result<Held, String>>>);

impl Looking {
    async fn next(&mut self, finder: &Arc<Finder>, within: Duration) -> Result<Held, String> {
        let look = self.0.get_or_insert_with(|| {
            let finder = Arc::clone(finder);
            tokio::task::spawn_blocking(move || finder.hold())
        });
        let Ok(done) = tokio::time::timeout(within, look).await else {
            return Err(format!("looking for the process has not ended within {within:?}"));
        };
        self.0 = None;
        done.unwrap_or_else(|error| Err(format!("looking for the process failed: {error}")))
    }
}
