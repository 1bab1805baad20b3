//! The `docker` remedy: restart, start or kill one container, and restart after it whoever lives in its network.
//!
//! Docker's calls take no precondition, so the container is looked at right before the call; what lies between is
//! measured (`defib_remedy_fence_window_seconds`, docs/measurements.md). Only the configured container and those
//! that share its network namespace are ever touched.

use std::time::Duration;

use super::{Passed, Signal};
use crate::docker::{Container, Docker, Error, Found, Life, RestartPolicy, Selector, Sharers, State};
use crate::engine::decision::Grant;
use crate::engine::event::RemedyOutcome;

/// What it has between its stop signal and its end, if neither it nor the configuration says so. Docker's own.
const STOP: Duration = Duration::from_secs(10);
/// Longest stop timeout that is taken from a container.
const MAX_STOP: Duration = Duration::from_secs(300);
/// Everybody who shares the network, together.
const FOLLOWING: Duration = Duration::from_secs(120);

/// What is done to which container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DockerAct {
    /// Which container.
    pub target: Selector,
    /// It is the peer's owner, of which the grant names the life.
    pub is_owner: bool,
    /// What is done.
    pub action: Action,
    /// How long it has after its stop signal before it is killed; `None`: what it says itself, at most 5 min.
    pub stop_timeout: Option<Duration>,
}

/// What Docker is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Stop it, if it runs, and start it.
    Restart,
    /// Start it, if it has ended.
    Start,
    /// Send it a signal. Docker takes one that ends it for a stop on purpose, and does not restart it.
    Kill(Signal),
}

impl DockerAct {
    /// How long it may take by its own bounds.
    pub fn takes(&self) -> Duration {
        let stop = self.stop_timeout.unwrap_or(MAX_STOP);
        stop + FOLLOWING + Duration::from_secs(60)
    }
}

/// Carries it out.
pub(super) async fn run(
    act: &DockerAct,
    docker: &Docker,
    grant: &Grant,
    passed: Passed<'_>,
) -> RemedyOutcome {
    carry_out(act, docker, grant, passed)
        .await
        .unwrap_or_else(|refused| refused)
}

async fn carry_out(
    act: &DockerAct,
    docker: &Docker,
    grant: &Grant,
    mut passed: Passed<'_>,
) -> Result<RemedyOutcome, RemedyOutcome> {
    let target = meant(act, docker, grant).await?;
    let sharers = match act.action {
        Action::Restart | Action::Start => docker.sharers(&target).await.map_err(unseen)?,
        Action::Kill(_) => Sharers::default(),
    };
    if !act.is_owner && target.state == State::Ended {
        ended_by_itself(docker, &target).await?;
    }
    let id = target.life.id.as_str();
    let doing = docker.begin_act(&target.life, &passed.executors.clock);
    let now = docker.inspect(id).await.map_err(unseen)?;
    passed.looked_again();
    if now.life != target.life || now.state != target.state {
        return Err(fenced(format!(
            "{} is {} by now, or another life of it runs",
            now.name,
            now.state.as_str()
        )));
    }
    let stop = act.stop_timeout.or(now.stop_timeout.map(|own| own.min(MAX_STOP)));
    passed.act();
    let (done, asked) = match act.action {
        Action::Restart => ("restarted", docker.restart(id, stop.unwrap_or(STOP)).await),
        Action::Start => ("started", docker.start(id).await),
        Action::Kill(signal) => ("sent the signal", docker.kill(id, &signal.to_string()).await),
    };
    drop(doing);
    asked.map_err(|error| refused(&error))?;
    let mut detail = format!("Docker {done}: {}", now.name);
    let following = follow(docker, &target, sharers, &passed.executors.clock);
    let followed = tokio::time::timeout(FOLLOWING, following).await;
    match followed.unwrap_or_else(|_| Err(format!("took more than {FOLLOWING:?} in all"))) {
        Ok(after) => detail.push_str(&after),
        Err(why) => {
            let detail = format!("{detail}; but who shares its network could not follow: {why}");
            return Err(RemedyOutcome::Failed { detail });
        }
    }
    Ok(RemedyOutcome::Acted { detail })
}

/// The container that was condemned, in a state in which something can be done to it.
async fn meant(act: &DockerAct, docker: &Docker, grant: &Grant) -> Result<Container, RemedyOutcome> {
    let container = if act.is_owner {
        let Some(life) = Life::of(&grant.incarnation) else {
            return Err(fenced(format!("{} is no life of a container", grant.incarnation)));
        };
        let held = docker.held(&act.target, &life.id).await.map_err(unseen)?;
        let Some(container) = held else {
            return Err(fenced(format!("{} is gone, or is called otherwise", act.target)));
        };
        if container.life != life {
            return Err(fenced(format!(
                "another life runs by now: {}",
                container.life.incarnation()
            )));
        }
        match (container.is_up(), grant.exited) {
            (true, true) => return Err(fenced(format!("{} still runs", container.name))),
            (false, false) => return Err(fenced("it has ended meanwhile".to_owned())),
            (true, false) | (false, true) => container,
        }
    } else {
        match docker.find(&act.target).await.map_err(unseen)? {
            Found::One(container) => container,
            Found::Nothing(why) | Found::Several(why) => return Err(not_acted(why)),
        }
    };
    let left_alone = |why: &str| Err(fenced(format!("{} {why}", container.name)));
    match (container.state, act.action) {
        (State::Paused, _) => left_alone("is paused: left alone"),
        (State::Restarting, _) => left_alone("is being restarted by Docker itself"),
        (State::Created, _) => left_alone("was never started"),
        (State::Removing, _) => left_alone("is being removed"),
        (State::Running, Action::Start) => Err(not_acted("it runs already: nothing to start".to_owned())),
        (State::Ended, Action::Kill(_)) => Err(not_acted("it has ended: nothing to signal".to_owned())),
        (State::Running | State::Ended, _) => Ok(container),
    }
}

/// Nobody watches this container, so the engine is asked what became of it: who was stopped on purpose stays so.
async fn ended_by_itself(docker: &Docker, container: &Container) -> Result<(), RemedyOutcome> {
    let end = docker.how_it_ended(container).await.map_err(unseen)?;
    if let Some(signal) = end.asked {
        return Err(fenced(format!(
            "{} was stopped on purpose (signal {signal})",
            container.name
        )));
    }
    match end.code {
        None => Err(fenced(format!(
            "{} has ended, and Docker has forgotten how: taken for on purpose",
            container.name
        ))),
        // Docker forgets the oldest events of a busy engine first: the order to stop is older than the end.
        Some(137 | 143) if !container.out_of_memory => Err(fenced(format!(
            "{} was ended by a signal, and who sent it may be forgotten: taken for on purpose",
            container.name
        ))),
        Some(code) if container.policy.lets_go(code) => Err(fenced(format!(
            "{} exited with 0, and its restart policy takes that for its end",
            container.name
        ))),
        Some(_) => Ok(()),
    }
}

/// Restarts who lives in the network of `target`, which is another one now. In words, what was done.
async fn follow(
    docker: &Docker,
    target: &Container,
    sharers: Sharers,
    clock: &std::sync::Arc<dyn crate::engine::time::Clock>,
) -> Result<String, String> {
    let mut done = String::new();
    for (id, name) in sharers.others {
        let follower = docker
            .inspect(&id)
            .await
            .map_err(|error| format!("{name}: {error}"))?;
        if !follower.shares_network_of(target) || follower.state == State::Paused {
            continue;
        }
        let _doing = docker.begin_act(&follower.life, clock);
        let stop = follower.stop_timeout.map_or(STOP, |own| own.min(MAX_STOP));
        let restarted = docker.restart(&id, stop).await;
        restarted.map_err(|error| format!("{name}: {error}"))?;
        done.push_str("; then ");
        done.push_str(&name);
    }
    if let Some(id) = crate::docker::own_id().filter(|_| sharers.this_node) {
        let own = docker
            .inspect(&id)
            .await
            .map_err(|error| format!("this node: {error}"))?;
        if own.policy == RestartPolicy::No {
            // Nobody else would bring it into the new network. It ends here, and goes on as a new run.
            docker
                .restart(&id, STOP)
                .await
                .map_err(|error| format!("this node: {error}"))?;
        }
        done.push_str("; this node follows last");
    }
    Ok(done)
}

fn refused(error: &Error) -> RemedyOutcome {
    let detail = error.with_cure();
    match error {
        Error::Refused { status: 404, .. } => fenced(detail),
        Error::Refused {
            status: 403 | 409, ..
        } => not_acted(detail),
        error if error.nothing_done() => not_acted(detail),
        _ => RemedyOutcome::Failed { detail },
    }
}

/// Who cannot be sure touches nothing.
fn unseen(error: Error) -> RemedyOutcome {
    if error.is_missing() {
        return fenced("its container is gone".to_owned());
    }
    not_acted(error.with_cure())
}

fn fenced(detail: String) -> RemedyOutcome {
    RemedyOutcome::Fenced { detail }
}

fn not_acted(detail: String) -> RemedyOutcome {
    RemedyOutcome::NotActed { detail }
}
