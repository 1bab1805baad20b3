//! The owner watch over a container: follows the engine's events, looks at the container after each and at every
//! interval, and tells what became of it. It says what it sees; what that means is the engine's business.
//!
//! An end counts as witnessed only if its `die` event came and nobody had asked for it: `docker stop`, `kill`,
//! `restart` and `rm -f` are each told by a `kill` event before. An end whose event was not seen counts as meant.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::unfold;

use super::{Reporting, Schedule};
use crate::docker::{
    Container, Docker, Error, Events, Found, Happening, Life, Selector, Sighting, State, What,
};
use crate::engine::event::{CheckId, Event, Observation, Outcome, OwnerSeen};
use crate::telemetry::metrics::checks::{CheckKind, OwnerEvent, RunOutcome};

/// Between two attempts to follow the events: doubled after each, up to the bound.
const RETRY: Duration = Duration::from_secs(1);
const RETRY_BOUND: Duration = Duration::from_secs(30);
/// A look may overtake the event of what it sees. So many looks wait for it.
const PATIENCE: u8 = 3;
/// What was seen is believed for three intervals and this long.
const FRESH: Duration = Duration::from_secs(15);

/// The watch over one peer's container.
#[derive(Clone)]
pub(super) struct Watch {
    /// The peer's, for the log.
    pub(super) name: String,
    pub(super) selector: Selector,
    /// The `process` check, which this is.
    pub(super) check: CheckId,
    pub(super) schedule: Schedule,
    pub(super) docker: Docker,
    pub(super) reporting: Reporting,
}

/// What one look saw.
#[allow(clippy::large_enum_variant, reason = "short-lived")]
enum Look {
    Seen(Container),
    /// No such container, in words.
    Gone(String),
    /// Not to be found out, in words.
    Unseen(String),
}

impl Watch {
    /// Watches until it is dropped.
    ///
    /// # Errors
    /// If the event loop is gone.
    pub(super) async fn run(self) -> anyhow::Result<Infallible> {
        let mut news = pin!(unfold(Following::of(&self), Following::next));
        let mut ticks = self.schedule.ticks();
        let mut known = Known::default();
        loop {
            tokio::select! {
                biased;
                Some(news) = news.next() => match news {
                    News::Happened(happening) => {
                        let ours = known.life.as_ref().is_some_and(|life| self.is_ours(life));
                        known.heard(&happening, ours);
                    }
                    News::Follows => known.follows = true,
                    News::Lost(why) => {
                        if std::mem::take(&mut known.follows) {
                            tracing::warn!(peer = self.name, why, "lost Docker's events; polling goes on");
                        }
                        continue;
                    }
                },
                _ = ticks.tick() => {}
            }
            self.look(&mut known).await?;
        }
    }

    async fn look(&self, known: &mut Known) -> anyhow::Result<()> {
        let began = self.reporting.clock.now();
        let look = self.seek(known.life.as_ref()).await;
        let now = self.reporting.clock.now();
        let (counted, seen) = match &look {
            Look::Seen(container) => (RunOutcome::Pass, Ok(Arc::new(container.clone()))),
            Look::Gone(why) => (RunOutcome::Fail, Err(why.clone())),
            Look::Unseen(why) => (RunOutcome::Unknown, Err(why.clone())),
        };
        let believed_until = now + self.schedule.interval.saturating_mul(3) + FRESH;
        self.docker
            .saw(self.check.peer, Sighting { seen, believed_until });
        self.reporting
            .metrics
            .ran(CheckKind::Owner, counted, now.since(began));
        let running = matches!(&look, Look::Seen(container) if container.state == State::Running);
        let ours = match &look {
            Look::Seen(container) => self.is_ours(&container.life),
            Look::Gone(_) | Look::Unseen(_) => false,
        };
        for seen in known.looked(look, ours) {
            self.tell(seen).await?;
        }
        if running {
            let observation = Observation {
                check: self.check,
                began,
                outcome: Outcome::Pass,
            };
            self.reporting.send(Event::Observation(observation)).await?;
        }
        Ok(())
    }

    /// While the container that was seen last is up it stays the owner, whoever else may match later.
    async fn seek(&self, last: Option<&Life>) -> Look {
        let held = match last {
            Some(life) => match self.docker.held(&self.selector, &life.id).await {
                Ok(held) => held,
                Err(error) => return Look::Unseen(error.with_cure()),
            },
            None => None,
        };
        if let Some(up) = held.clone().filter(Container::is_up) {
            return Look::Seen(up);
        }
        match (self.docker.find(&self.selector).await, held) {
            (Ok(Found::One(container)), _) => Look::Seen(container),
            // Several, none of them alone in being up: an update is under way.
            (Ok(Found::Several(_)), Some(held)) => Look::Seen(held),
            (Ok(Found::Several(why)), None) => Look::Unseen(why),
            (Ok(Found::Nothing(why)), _) => Look::Gone(why),
            (Err(error), _) => Look::Unseen(error.with_cure()),
        }
    }

    fn is_ours(&self, life: &Life) -> bool {
        self.docker.is_our_doing(life, self.reporting.clock.now())
    }

    async fn tell(&self, seen: OwnerSeen) -> anyhow::Result<()> {
        let peer = self.check.peer;
        tracing::debug!(peer = self.name, ?seen, "container");
        self.reporting.metrics.owner(OwnerEvent::of(&seen));
        self.reporting.send(Event::Owner { peer, seen }).await
    }
}

/// What comes of following the events.
enum News {
    Follows,
    Happened(Happening),
    Lost(String),
}

/// The stream of events, made again whenever it ends.
struct Following {
    docker: Docker,
    selector: Selector,
    events: Option<Events>,
    /// The stream has told something: its end is no sign of trouble.
    worked: bool,
    pause: Duration,
}

impl Following {
    fn of(watch: &Watch) -> Self {
        Self {
            docker: watch.docker.clone(),
            selector: watch.selector.clone(),
            events: None,
            worked: false,
            pause: Duration::ZERO,
        }
    }

    async fn next(mut self) -> Option<(News, Self)> {
        let news = match &mut self.events {
            Some(events) => match events.next().await {
                Ok(happening) => {
                    self.worked = true;
                    News::Happened(happening)
                }
                Err(error) => self.lost(&error),
            },
            None => {
                tokio::time::sleep(self.pause).await;
                match self.docker.events(&self.selector).await {
                    Ok(events) => {
                        self.events = Some(events);
                        News::Follows
                    }
                    Err(error) => self.lost(&error),
                }
            }
        };
        Some((news, self))
    }

    fn lost(&mut self, error: &Error) -> News {
        self.events = None;
        self.pause = if std::mem::take(&mut self.worked) {
            Duration::ZERO
        } else {
            self.pause.saturating_mul(2).clamp(RETRY, RETRY_BOUND)
        };
        News::Lost(error.with_cure())
    }
}

/// What is known of the container, and what was told of it.
#[derive(Default)]
struct Known {
    /// The life that was seen last.
    life: Option<Life>,
    phase: Phase,
    /// Told as not to be looked at since, and why.
    unseen: Option<String>,
    /// The container, as it was seen last.
    container: Option<Container>,
    /// Somebody else asked for its end, by this signal.
    asked: Option<String>,
    /// Its end was told, with this code.
    died: Option<i64>,
    /// Looks that waited for the event of an end.
    waited: u8,
    /// The events are followed.
    follows: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Nothing,
    Running,
    Paused,
    Restarting,
    /// Stopped, or exited. The engine does not forget that over a look that fails.
    Over,
    Absent,
}

impl Known {
    /// An event, perhaps about this container. `ours`: an act of this node's upon it is under way.
    fn heard(&mut self, happening: &Happening, ours: bool) {
        let about = |life: &Life| life.id == happening.id && life.holds(happening.at);
        if !self.life.as_ref().is_some_and(about) {
            return;
        }
        match &happening.what {
            What::Kill(signal) if !ours && self.asks_for_the_end(signal) => {
                self.asked = Some(signal.clone());
            }
            What::Die(code) => self.died = Some(*code),
            What::Kill(_) | What::Other => {}
        }
    }

    fn asks_for_the_end(&self, signal: &str) -> bool {
        let container = self.container.as_ref();
        container.is_none_or(|container| container.asks_for_the_end(signal))
    }

    /// What is to be told after a look.
    fn looked(&mut self, look: Look, ours: bool) -> Vec<OwnerSeen> {
        let mut told = Vec::new();
        match look {
            Look::Unseen(detail) => {
                if self.unseen.as_ref() != Some(&detail) {
                    self.unseen = Some(detail.clone());
                    told.push(OwnerSeen::Unseen { detail });
                }
                return told;
            }
            Look::Gone(why) => self.gone(why, &mut told),
            Look::Seen(container) if container.state == State::Created => {
                self.gone(format!("{} was never started", container.name), &mut told);
            }
            Look::Seen(container) => self.seen(&container, ours, &mut told),
        }
        self.unseen = None;
        told
    }

    fn gone(&mut self, detail: String, told: &mut Vec<OwnerSeen>) {
        match self.phase {
            Phase::Running | Phase::Paused | Phase::Restarting => self.ended(self.died, false, told),
            Phase::Over => {}
            Phase::Nothing | Phase::Absent => self.becomes(Phase::Absent, OwnerSeen::Absent { detail }, told),
        }
    }

    fn seen(&mut self, container: &Container, ours: bool, told: &mut Vec<OwnerSeen>) {
        let running = container.state == State::Running;
        let incarnation = container.life.incarnation();
        self.container = Some(container.clone());
        if self.life.as_ref() != Some(&container.life) {
            let first = self.life.replace(container.life.clone()).is_none();
            self.phase = Phase::Nothing;
            self.waited = 0;
            if running || first {
                (self.asked, self.died) = (None, None);
            } else {
                // A life that is over already: it must be known before its end is.
                self.becomes(Phase::Running, OwnerSeen::Running(incarnation.clone()), told);
            }
        }
        match (container.state, self.phase) {
            (State::Running, _) => self.becomes(Phase::Running, OwnerSeen::Running(incarnation), told),
            (State::Restarting, _) => {
                self.becomes(Phase::Restarting, OwnerSeen::Restarting(incarnation), told);
            }
            (State::Paused, _) => {
                let detail = "it is paused".to_owned();
                self.becomes(Phase::Paused, OwnerSeen::Stopped { detail }, told);
            }
            (State::Ended | State::Removing | State::Created, Phase::Nothing | Phase::Absent) => {
                self.becomes(Phase::Over, unwitnessed(), told);
            }
            (State::Ended | State::Removing | State::Created, Phase::Over) => {}
            (State::Ended | State::Removing | State::Created, _) => {
                self.ended(Some(container.exit_code), ours, told);
            }
        }
    }

    /// The life that was there is over.
    fn ended(&mut self, code: Option<i64>, ours: bool, told: &mut Vec<OwnerSeen>) {
        let Some(incarnation) = self.life.as_ref().map(Life::incarnation) else {
            return;
        };
        if ours {
            return self.becomes(Phase::Restarting, OwnerSeen::Restarting(incarnation), told);
        }
        // Docker gave up on it, or our own remedy did not bring it back.
        let given_up = self.phase == Phase::Restarting;
        let witnessed = self.died.is_some() || given_up;
        if self.asked.is_none() && !witnessed && self.follows && self.waited < PATIENCE {
            self.waited += 1;
            return;
        }
        let lets_go = |container: &Container| code.is_some_and(|code| container.policy.lets_go(code));
        let seen = match &self.asked {
            Some(signal) => OwnerSeen::Stopped {
                detail: format!("its end was asked for (signal {signal})"),
            },
            None if !witnessed => unwitnessed(),
            None if self.container.as_ref().is_some_and(lets_go) => OwnerSeen::Stopped {
                detail: "it exited with 0, and its restart policy takes that for its end".to_owned(),
            },
            None => OwnerSeen::Exited(incarnation),
        };
        self.becomes(Phase::Over, seen, told);
    }

    /// Tells what it has become, unless that was told.
    fn becomes(&mut self, phase: Phase, seen: OwnerSeen, told: &mut Vec<OwnerSeen>) {
        if self.phase != phase || self.unseen.is_some() {
            told.push(seen);
        }
        self.phase = phase;
    }
}

fn unwitnessed() -> OwnerSeen {
    OwnerSeen::Stopped {
        detail: "it has ended, and its end was not seen: taken for on purpose".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::docker::Health;

    const STARTED: &str = "2026-11-22T06:00:00Z";
    const AGAIN: &str = "2026-11-22T07:00:00Z";

    fn container(state: State, started_at: &str, exit_code: i64) -> Container {
        Container {
            life: Life {
                id: "abc".to_owned(),
                started_at: started_at.to_owned(),
            },
            name: "app".to_owned(),
            finished_at: String::new(),
            state,
            pid: None,
            health: Health::NotChecked,
            exit_code,
            out_of_memory: false,
            policy: crate::docker::RestartPolicy::No,
            stop_timeout: None,
            stop_signal: None,
            network_of: None,
            labels: std::collections::HashMap::default(),
        }
    }

    fn happened(what: What) -> Happening {
        Happening {
            id: "abc".to_owned(),
            what,
            at: None,
        }
    }

    /// Running, with the events followed.
    fn running() -> Known {
        let mut known = Known {
            follows: true,
            ..Known::default()
        };
        let told = known.looked(Look::Seen(container(State::Running, STARTED, 0)), false);
        assert_eq!(told, [OwnerSeen::Running(life(STARTED))]);
        known
    }

    fn life(started_at: &str) -> crate::engine::event::Incarnation {
        container(State::Running, started_at, 0).life.incarnation()
    }

    fn ended(known: &mut Known, code: i64, ours: bool) -> Vec<OwnerSeen> {
        known.looked(Look::Seen(container(State::Ended, STARTED, code)), ours)
    }

    fn is_on_purpose(told: &[OwnerSeen], word: &str) -> bool {
        matches!(told, [OwnerSeen::Stopped { detail }] if detail.contains(word))
    }

    #[test]
    fn only_an_end_that_was_told_and_not_asked_for_is_an_exit() {
        let mut known = running();
        known.heard(&happened(What::Die(1)), false);
        assert_eq!(ended(&mut known, 1, false), [OwnerSeen::Exited(life(STARTED))]);
        assert_eq!(ended(&mut known, 1, false), [], "once");

        let mut known = running();
        known.heard(&happened(What::Kill("15".to_owned())), false);
        known.heard(&happened(What::Die(143)), false);
        assert!(is_on_purpose(&ended(&mut known, 143, false), "signal 15"));

        // A reload asks for no end.
        let mut known = running();
        known.heard(&happened(What::Kill("1".to_owned())), false);
        known.heard(&happened(What::Die(1)), false);
        assert_eq!(ended(&mut known, 1, false), [OwnerSeen::Exited(life(STARTED))]);

        let mut known = running();
        known.heard(&happened(What::Die(0)), false);
        assert!(is_on_purpose(&ended(&mut known, 0, false), "exited with 0"));
    }

    #[test]
    fn events_of_others_and_of_before_say_nothing() {
        let mut known = running();
        let other = Happening {
            id: "other".to_owned(),
            ..happened(What::Die(1))
        };
        let before = Happening {
            at: Some(1),
            ..happened(What::Kill("9".to_owned()))
        };
        known.heard(&other, false);
        known.heard(&before, false);
        assert_eq!((known.died, known.asked), (None, None));
    }

    #[test]
    fn a_look_that_overtakes_the_event_waits_for_it_a_little() {
        let mut known = running();
        assert_eq!(ended(&mut known, 1, false), []);
        known.heard(&happened(What::Die(1)), false);
        assert_eq!(ended(&mut known, 1, false), [OwnerSeen::Exited(life(STARTED))]);

        let mut known = running();
        for _ in 0..PATIENCE {
            assert_eq!(ended(&mut known, 1, false), []);
        }
        assert!(is_on_purpose(&ended(&mut known, 1, false), "not seen"));

        let mut known = running();
        known.follows = false;
        assert!(
            is_on_purpose(&ended(&mut known, 1, false), "not seen"),
            "nobody could tell"
        );
    }

    #[test]
    fn our_own_stop_is_no_operators() {
        let mut known = running();
        known.heard(&happened(What::Kill("15".to_owned())), true);
        known.heard(&happened(What::Die(143)), true);
        assert_eq!(
            ended(&mut known, 143, true),
            [OwnerSeen::Restarting(life(STARTED))]
        );
        // It comes back: another life.
        let told = known.looked(Look::Seen(container(State::Running, AGAIN, 0)), true);
        assert_eq!(told, [OwnerSeen::Running(life(AGAIN))]);

        // It does not come back: then it has exited, and may be healed again.
        let mut known = running();
        known.heard(&happened(What::Die(143)), true);
        ended(&mut known, 143, true);
        assert_eq!(ended(&mut known, 143, false), [OwnerSeen::Exited(life(STARTED))]);
    }

    #[test]
    fn docker_restarts_and_gives_up() {
        let mut known = running();
        let restarting = |at| Look::Seen(container(State::Restarting, at, 1));
        assert_eq!(
            known.looked(restarting(STARTED), false),
            [OwnerSeen::Restarting(life(STARTED))]
        );
        // A life so short that nobody saw it run.
        let told = known.looked(restarting(AGAIN), false);
        assert_eq!(
            told,
            [
                OwnerSeen::Running(life(AGAIN)),
                OwnerSeen::Restarting(life(AGAIN))
            ]
        );
        let told = known.looked(Look::Seen(container(State::Ended, AGAIN, 1)), false);
        assert_eq!(told, [OwnerSeen::Exited(life(AGAIN))]);
    }

    #[test]
    fn what_cannot_be_seen_is_told_once_a_reason_and_then_what_is_there() {
        let mut known = running();
        let blind = |why: &str| Look::Unseen(why.to_owned());
        assert_eq!(known.looked(blind("no socket"), false).len(), 1);
        assert_eq!(known.looked(blind("no socket"), false), []);
        assert_eq!(known.looked(blind("it hangs"), false).len(), 1);
        let told = known.looked(Look::Seen(container(State::Running, STARTED, 0)), false);
        assert_eq!(told, [OwnerSeen::Running(life(STARTED))]);
        // What was over stays so.
        known.heard(&happened(What::Die(1)), false);
        ended(&mut known, 1, false);
        known.looked(blind("no socket"), false);
        assert_eq!(ended(&mut known, 1, false), []);
    }

    #[test]
    fn what_is_not_there_is_absent_and_what_was_removed_was_meant() {
        let mut known = Known::default();
        let gone = || Look::Gone("there is no container app".to_owned());
        assert!(matches!(
            &known.looked(gone(), false)[..],
            [OwnerSeen::Absent { .. }]
        ));
        assert_eq!(known.looked(gone(), false), []);
        let mut known = running();
        known.heard(&happened(What::Kill("9".to_owned())), false);
        known.heard(&happened(What::Die(137)), false);
        assert!(is_on_purpose(&known.looked(gone(), false), "signal 9"));
        // `docker run --rm`: it crashed, and was removed by Docker.
        let mut known = running();
        known.heard(&happened(What::Die(3)), false);
        assert_eq!(known.looked(gone(), false), [OwnerSeen::Exited(life(STARTED))]);
    }
}
