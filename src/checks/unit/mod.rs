//! The owner watch over a unit of systemd: follows its signals, looks at the unit after each and at every interval,
//! and tells what became of it. It says what it sees; what that means is the engine's business.
//!
//! A failure counts as witnessed only if this node saw that life and nobody asked for its end. A unit that is
//! `inactive` was stopped or has ended well, and one that systemd will start again is left to it.

mod known;
mod main_process;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use known::{Known, Look};
pub(in crate::checks) use main_process::hold;

use super::{Reporting, Schedule};
use crate::engine::event::{CheckId, Event, Observation, Outcome, OwnerSeen};
use crate::engine::time::Time;
use crate::owner_table::{Held, Holding, OwnerTable};
use crate::systemd::{Active, Error, Invocation, News, Session, Sighting, Systemd, Unit, UnitRef};
use crate::telemetry::metrics::checks::{CheckKind, OwnerEvent, RunOutcome};

/// Between two attempts to connect: doubled after each, up to the bound.
const RETRY: Duration = Duration::from_secs(1);
const RETRY_BOUND: Duration = Duration::from_secs(30);
/// Between two looks that signals ask for: a unit may say something of itself a thousand times a second.
const AT_MOST: Duration = Duration::from_millis(50);
/// What was seen is believed for three intervals and this long.
const FRESH: Duration = Duration::from_secs(15);

/// The watch over one peer's unit.
#[derive(Clone)]
pub(super) struct Watch {
    /// The peer's, for the log.
    pub(super) name: String,
    pub(super) unit: UnitRef,
    /// The `process` check, which this is.
    pub(super) check: CheckId,
    pub(super) schedule: Schedule,
    pub(super) systemd: Systemd,
    pub(super) owners: OwnerTable,
    pub(super) reporting: Reporting,
}

impl Watch {
    /// Watches until it is dropped.
    ///
    /// # Errors
    /// If the event loop is gone.
    pub(super) async fn run(self) -> anyhow::Result<Infallible> {
        let mut ticks = self.schedule.ticks();
        let mut link = Link::default();
        let mut known = Known::default();
        let mut looked = Time::ZERO;
        loop {
            tokio::select! {
                biased;
                news = link.news() => match news {
                    Ok(News::Changed) => {
                        let rested = self.reporting.clock.now().since(looked);
                        tokio::time::sleep(AT_MOST.saturating_sub(rested)).await;
                    }
                    // The change itself comes after it.
                    Ok(News::JobBegan(job)) => {
                        known.job_began(job);
                        continue;
                    }
                    Ok(News::JobEnded(job, end)) => {
                        let ours = known.life.as_ref().is_some_and(|life| self.is_ours(life));
                        known.job_ended(&job, &end, ours);
                    }
                    Err(error) => {
                        let why = error.to_string();
                        tracing::warn!(peer = self.name, why, "lost the connection to systemd");
                        link.lost(self.reporting.clock.now());
                    }
                },
                _ = ticks.tick() => {}
            }
            self.look(&mut link, &mut known).await?;
            looked = self.reporting.clock.now();
        }
    }

    async fn look(&self, link: &mut Link, known: &mut Known) -> anyhow::Result<()> {
        let clock = &self.reporting.clock;
        let began = clock.now();
        let look = match self.seen(link, known.unit.as_ref()).await {
            // Not tried yet: what was told of it stands.
            None => return Ok(()),
            Some(Ok(unit)) => Look::of(unit, &self.unit),
            Some(Err(error)) => Look::Unseen(error.with_cure()),
        };
        let now = clock.now();
        self.remember(&look, known, now);
        let ours = matches!(&look, Look::Seen(unit) if unit.invocation.as_ref().is_some_and(|life| self.is_ours(life)));
        let outcome = self.hold(&look);
        let told = known.looked(look, ours);
        let counted = outcome.as_ref().map_or(RunOutcome::Unknown, RunOutcome::of);
        self.reporting
            .metrics
            .ran(CheckKind::Owner, counted, now.since(began));
        for seen in told {
            self.tell(seen).await?;
        }
        if let Some(outcome) = outcome {
            let check = self.check;
            let observation = Observation {
                check,
                began,
                outcome,
            };
            self.reporting.send(Event::Observation(observation)).await?;
        }
        Ok(())
    }

    /// `None`: it is not yet time to connect again.
    async fn seen(&self, link: &mut Link, last: Option<&Unit>) -> Option<Result<Unit, Error>> {
        if link.session.is_none() {
            let now = self.reporting.clock.now();
            if link.not_before.is_some_and(|at| now < at) {
                return None;
            }
            let opened = async {
                let mut session = self.systemd.open(&self.unit).await?;
                session.follow().await?;
                Ok(session)
            };
            match opened.await {
                Ok(session) => link.session = Some(session),
                Err(error) => {
                    link.pause = link.pause.saturating_mul(2).clamp(RETRY, RETRY_BOUND);
                    link.not_before = Some(self.reporting.clock.now() + link.pause);
                    return Some(Err(error));
                }
            }
        }
        let session = link.session.as_mut()?;
        let seen = session.look(last).await;
        match &seen {
            Ok(_) => link.pause = Duration::ZERO,
            // The connection is as good as before after a refusal, but the next one may be let in.
            Err(_) => link.lost(self.reporting.clock.now()),
        }
        Some(seen)
    }

    fn remember(&self, look: &Look, known: &Known, now: Time) {
        let before = self.systemd.sighting(self.check.peer);
        let since = match (look, &before, &known.unit) {
            (Look::Seen(unit), Some(before), Some(last)) if last.changed == unit.changed => before.since,
            _ => now,
        };
        let seen = match look {
            Look::Seen(unit) => Ok(Arc::new(unit.clone())),
            Look::Gone(why) | Look::Unseen(why) => Err(why.clone()),
        };
        let believed_until = now + self.schedule.interval.saturating_mul(3) + FRESH;
        let sighting = Sighting {
            seen,
            since,
            believed_until,
        };
        self.systemd.saw(self.check.peer, sighting);
    }

    /// Takes hold of the main process, where it can be seen, so that others find it in the table before they hear of
    /// this life. What is to be said of a unit that is up.
    fn hold(&self, look: &Look) -> Option<Outcome> {
        let peer = self.check.peer;
        let up = match look {
            Look::Seen(unit) if unit.is_up() || unit.active == Active::Activating => unit,
            Look::Seen(_) | Look::Gone(_) => {
                self.owners.forget(peer);
                return None;
            }
            Look::Unseen(_) => return None,
        };
        let (Some(life), Some(pid)) = (up.invocation.as_ref().map(Invocation::incarnation), up.main_pid)
        else {
            self.owners.forget(peer);
            return up.is_up().then_some(Outcome::Pass);
        };
        let held = match self.owners.get(peer) {
            Holding::Live(live) if live.incarnation == life && live.pid == pid => Ok(live),
            _ => main_process::hold(pid, &up.control_group, &life),
        };
        match held {
            Ok(live) => {
                let (outcome, look) = (main_process::state(&live), live.clone());
                let still = move || (!look.exited()).then(|| look.incarnation.clone());
                self.owners.watch(peer, Arc::new(still));
                self.owners.hold(peer, Held::Process(live));
                up.is_up().then_some(outcome?)
            }
            Err(why) => {
                tracing::debug!(peer = self.name, why, "its main process is out of sight");
                self.owners.forget(peer);
                up.is_up().then_some(Outcome::Pass)
            }
        }
    }

    fn is_ours(&self, life: &Invocation) -> bool {
        self.systemd.is_our_doing(life, self.reporting.clock.now())
    }

    async fn tell(&self, seen: OwnerSeen) -> anyhow::Result<()> {
        let peer = self.check.peer;
        tracing::debug!(peer = self.name, ?seen, "unit");
        self.reporting.metrics.owner(OwnerEvent::of(&seen));
        self.reporting.send(Event::Owner { peer, seen }).await
    }
}

/// The connection, made again whenever it ends.
#[derive(Default)]
struct Link {
    session: Option<Session>,
    pause: Duration,
    not_before: Option<Time>,
}

impl Link {
    async fn news(&mut self) -> Result<News, Error> {
        match &mut self.session {
            Some(session) => session.news().await,
            None => std::future::pending().await,
        }
    }

    /// The next one is tried soon, unless that was in vain before.
    fn lost(&mut self, now: Time) {
        self.session = None;
        self.not_before = Some(now + AT_MOST.max(self.pause));
    }
}
