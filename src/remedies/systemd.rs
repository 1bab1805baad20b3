//! The `systemd` remedy: restart, start or kill one unit.
//!
//! systemd's calls take no InvocationID, so the unit is looked at right before the call; what lies between is measured
//! (`defib_remedy_fence_window_seconds`). It cannot undo a stop: what runs is asked for `TryRestartUnit`, which does
//! nothing to a unit that was stopped meanwhile, and the mode `fail` gives way to a stop that is under way. Only the
//! configured unit is named; systemd itself restarts whoever is bound to it (`PartOf=`, `Requires=`).

use std::time::Duration;

use super::{Passed, Signal};
use crate::engine::decision::Grant;
use crate::engine::event::RemedyOutcome;
use crate::systemd::{
    Active, Error, Invocation, JobEnd, Scope, Session, Systemd, Unit, UnitRef, Verb, Whom, own_user,
    polkit_rule,
};

/// What systemd may need on top of the unit's own timeouts.
const SLACK: Duration = Duration::from_secs(10);

/// What is done to which unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SystemdAct {
    /// Which unit.
    pub target: UnitRef,
    /// It is the peer's owner, of which the grant names the life.
    pub is_owner: bool,
    /// What is done.
    pub action: UnitAction,
    /// Longest wait for the end of the job; the unit's own timeouts may make it shorter. Default 200 s.
    pub timeout: Duration,
}

/// What systemd is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnitAction {
    /// Stop it, if it runs, and start it.
    Restart,
    /// Start it, if it has failed.
    Start,
    /// Send a signal to its processes. What follows is the business of the unit's `Restart=`.
    Kill(Signal, Whom),
}

impl SystemdAct {
    /// How long it may take by its own bounds.
    pub fn takes(&self) -> Duration {
        self.timeout + SLACK + SLACK
    }
}

/// Carries it out.
pub(super) async fn run(
    act: &SystemdAct,
    systemd: &Systemd,
    grant: &Grant,
    passed: Passed<'_>,
) -> RemedyOutcome {
    carry_out(act, systemd, grant, passed)
        .await
        .unwrap_or_else(|refused| refused)
}

async fn carry_out(
    act: &SystemdAct,
    systemd: &Systemd,
    grant: &Grant,
    mut passed: Passed<'_>,
) -> Result<RemedyOutcome, RemedyOutcome> {
    let unseen = |error: Error| not_acted(error.with_cure());
    let mut session = systemd.open(&act.target).await.map_err(unseen)?;
    session.follow().await.map_err(unseen)?;
    let unit = session.look(None).await.map_err(unseen)?;
    // Also under an alias it is the peer's owner.
    let owner = systemd
        .sighting(grant.peer)
        .and_then(|sighting| sighting.seen.ok());
    let act = &SystemdAct {
        is_owner: act.is_owner || owner.is_some_and(|owner| owner.name == unit.name),
        ..act.clone()
    };
    let life = may_be_touched(act, &unit, grant)?;
    let doing = systemd.begin_act(&life, &passed.executors.clock);
    let acting = async {
        let now = session.look(Some(&unit)).await.map_err(unseen)?;
        passed.looked_again();
        if now.invocation != unit.invocation || may_be_touched(act, &now, grant).is_err() {
            return Err(fenced(format!(
                "{} is {} ({}) by now, or another life of it runs",
                act.target, now.sub, now.result
            )));
        }
        passed.act();
        match act.action {
            UnitAction::Kill(signal, whom) => {
                let killed = session.kill(whom, signal.0).await;
                killed.map_err(|error| refused(act, &error))?;
                Ok(RemedyOutcome::Acted {
                    detail: format!("systemd sent signal {} to {}", signal.0, act.target),
                })
            }
            UnitAction::Restart | UnitAction::Start => job(act, &mut session, &unit, &life).await,
        }
    };
    let outcome = acting.await;
    if matches!(
        outcome,
        Err(RemedyOutcome::Fenced { .. } | RemedyOutcome::NotActed { .. })
    ) {
        doing.nothing_done();
    }
    outcome
}

/// The life of a unit that may be acted upon: the condemned one, in a state in which something can be done to it.
fn may_be_touched(act: &SystemdAct, unit: &Unit, grant: &Grant) -> Result<Invocation, RemedyOutcome> {
    let left_alone = |why: &str| Err(fenced(format!("{} {why}", act.target)));
    if unit.load != "loaded" && !unit.is_up() {
        return Err(not_acted(format!("{} is {}", act.target, unit.load)));
    }
    let Some(life) = unit
        .invocation
        .clone()
        .filter(|_| unit.active != Active::Inactive)
    else {
        return left_alone("is inactive: never started, stopped, or ended well");
    };
    if std::env::var("INVOCATION_ID").is_ok_and(|own| life.incarnation().0.ends_with(&format!(":{own}"))) {
        return Err(not_acted(format!("{} is this defib itself", act.target)));
    }
    if act.is_owner {
        if Invocation::named(&grant.incarnation).as_ref() != Some(&life) {
            return left_alone(&format!("is another life by now: {}", life.incarnation()));
        }
        match (unit.active == Active::Failed, grant.exited) {
            (false, true) => return left_alone(&format!("has not failed any more ({})", unit.sub)),
            (true, false) => return left_alone("has failed meanwhile"),
            (true, true) | (false, false) => {}
        }
    }
    match unit.active {
        Active::Inactive | Active::Deactivating => left_alone("is being stopped"),
        Active::Activating if unit.restarts_by_itself() => left_alone("is being restarted by systemd itself"),
        // Who watches the owner saw that failure; of another unit nobody can tell that it was not meant.
        Active::Failed if !act.is_owner && unit.was_asked_to_end() => left_alone(&format!(
            "failed while it was being stopped ({})",
            unit.how_it_ended()
        )),
        Active::Failed => match act.action {
            UnitAction::Kill(..) => Err(not_acted("it has failed: nothing to signal".to_owned())),
            UnitAction::Restart | UnitAction::Start => Ok(life),
        },
        Active::Active | Active::Reloading | Active::Activating => match act.action {
            UnitAction::Start => Err(not_acted("it runs already: nothing to start".to_owned())),
            UnitAction::Restart | UnitAction::Kill(..) => Ok(life),
        },
    }
}

async fn job(
    act: &SystemdAct,
    session: &mut Session,
    unit: &Unit,
    life: &Invocation,
) -> Result<RemedyOutcome, RemedyOutcome> {
    let failed = unit.active == Active::Failed;
    let (verb, done) = if failed {
        (Verb::Start, "started")
    } else {
        (Verb::TryRestart, "restarted")
    };
    let stop = if failed {
        Some(Duration::ZERO)
    } else {
        unit.stop_timeout
    };
    let own = stop
        .zip(unit.start_timeout)
        .map(|(stop, start)| stop + start + SLACK);
    let within = own.map_or(act.timeout, |own| own.min(act.timeout));
    let target = &act.target;
    let failed = |why: &str| RemedyOutcome::Failed {
        detail: format!("{target}: {why}"),
    };
    let mut end = ended(act, session.job(verb, within).await, within)?;
    if verb == Verb::Start && end == JobEnd::Failed && same_life(session, unit).await {
        // systemd did not try: it was started too often (`StartLimitBurst=`). What is counted is forgotten once; the
        // budget of this node bounds how often.
        session
            .reset_failed(life)
            .await
            .map_err(|error| refused(act, &error))?;
        end = ended(act, session.job(verb, within).await, within)?;
    }
    match end {
        JobEnd::Done | JobEnd::Skipped => {}
        JobEnd::Canceled => return Err(failed("somebody called the job off")),
        JobEnd::TimedOut => return Err(failed("the job took longer than it may")),
        JobEnd::Failed => {
            return Err(failed(&format!(
                "it did not start: see journalctl -u {}",
                target.name
            )));
        }
        JobEnd::Dependency => return Err(failed("another unit that it needs did not start")),
        JobEnd::Other(word) => return Err(failed(&format!("the job ended as `{word}`"))),
    }
    match session.look(None).await {
        Ok(now) if now.active == Active::Inactive => Err(fenced(format!(
            "{target} was stopped meanwhile, and nothing was done"
        ))),
        Ok(now) if now.invocation == unit.invocation => {
            Err(failed("systemd says that it is done, and the same life goes on"))
        }
        // What it proves of itself decides.
        Ok(_) | Err(_) => Ok(RemedyOutcome::Acted {
            detail: format!("systemd {done} {target}"),
        }),
    }
}

fn ended(
    act: &SystemdAct,
    end: Result<Option<JobEnd>, Error>,
    within: Duration,
) -> Result<JobEnd, RemedyOutcome> {
    match end {
        Ok(Some(end)) => Ok(end),
        Ok(None) => Err(RemedyOutcome::Failed {
            detail: format!(
                "{}: the job has not ended within {within:?}; systemd goes on with it",
                act.target
            ),
        }),
        Err(error) => Err(refused(act, &error)),
    }
}

/// It has failed, as it had before, and no new life began.
async fn same_life(session: &mut Session, unit: &Unit) -> bool {
    let now = session.look(None).await;
    now.is_ok_and(|now| now.active == Active::Failed && now.invocation == unit.invocation)
}

fn refused(act: &SystemdAct, error: &Error) -> RemedyOutcome {
    if error.is_denied() {
        return not_acted(denied(act, error));
    }
    if error.is_busy() {
        return fenced(format!("{} has another job under way: left to it", act.target));
    }
    if error.nothing_done() {
        return not_acted(error.with_cure());
    }
    RemedyOutcome::Failed {
        detail: error.with_cure(),
    }
}

/// What was denied, with the rule that permits it.
pub(super) fn denied(act: &SystemdAct, error: &Error) -> String {
    match act.target.scope {
        Scope::System => format!("{error}; {}", cure(act)),
        Scope::User => error.to_string(),
    }
}

/// The rule that lets this node's user do that, and nothing else.
pub(super) fn cure(act: &SystemdAct) -> String {
    format!(
        "write into /etc/polkit-1/rules.d/50-defib.rules: {}",
        polkit_rule(&own_user(), &act.target.name)
    )
}

fn fenced(detail: String) -> RemedyOutcome {
    RemedyOutcome::Fenced { detail }
}

fn not_acted(detail: String) -> RemedyOutcome {
    RemedyOutcome::NotActed { detail }
}
