//! What is known of one container at one moment.

use std::collections::HashMap;
use std::time::{Duration, UNIX_EPOCH};

use bollard::models::{
    ContainerInspectResponse, ContainerStateStatusEnum as Status, HealthStatusEnum, RestartPolicyNameEnum,
};

use crate::engine::event::Incarnation;

/// A container, as it was inspected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// Which life of which container.
    pub life: Life,
    /// Its name, without the slash.
    pub name: String,
    /// When it last ended, in the engine's words and by its clock.
    pub finished_at: String,
    /// What it does.
    pub state: State,
    /// Its first process, by its number in the pid namespace of the engine.
    pub pid: Option<u32>,
    /// What its own health check says.
    pub health: Health,
    /// How it last ended; 0 if it never did.
    pub exit_code: i64,
    /// Whether the kernel killed it for want of memory.
    pub out_of_memory: bool,
    /// What Docker does when it ends.
    pub policy: RestartPolicy,
    /// How long it has after its stop signal before it is killed, if it says so.
    pub stop_timeout: Option<Duration>,
    /// Its stop signal, if it has one of its own: a number where that is a signal that others use for reloads.
    pub stop_signal: Option<String>,
    /// The container whose network it lives in, by id or name.
    pub network_of: Option<String>,
    /// Its labels.
    pub labels: HashMap<String, String>,
}

/// One life of a container: from a start to its end.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Life {
    /// The container's whole id.
    pub id: String,
    /// When this life began, in the engine's words and by its clock.
    pub started_at: String,
}

/// What a container does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It was never started.
    Created,
    /// It runs.
    Running,
    /// It is frozen, on purpose.
    Paused,
    /// It has ended, and its restart policy brings it back.
    Restarting,
    /// It has ended.
    Ended,
    /// It is on its way out of being.
    Removing,
}

/// What a container's own health check says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// It has none.
    NotChecked,
    /// It has not passed yet, and has time to.
    Starting,
    /// It passes.
    Healthy,
    /// It fails; what it last said, shortened.
    Unhealthy(String),
}

/// What Docker does when a container ends by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestartPolicy {
    /// Nothing.
    No,
    /// Starts it again if it failed, perhaps so many times.
    OnFailure,
    /// Starts it again, unless somebody stopped it.
    Always,
}

impl Container {
    /// # Errors
    /// What the answer lacks.
    pub(super) fn of(answer: ContainerInspectResponse) -> Result<Self, String> {
        let state = answer.state.ok_or("a container without a state")?;
        let id = answer
            .id
            .filter(|id| !id.is_empty())
            .ok_or("a container without an id")?;
        let health = state.health.as_ref();
        let config = answer.config.unwrap_or_default();
        let host = answer.host_config.unwrap_or_default();
        let policy = host.restart_policy.and_then(|policy| policy.name);
        Ok(Self {
            life: Life {
                id,
                started_at: state.started_at.clone().unwrap_or_default(),
            },
            name: answer.name.unwrap_or_default().trim_start_matches('/').to_owned(),
            finished_at: state.finished_at.clone().unwrap_or_default(),
            state: match state.status {
                Some(Status::RUNNING | Status::STOPPING) => State::Running,
                Some(Status::PAUSED) => State::Paused,
                Some(Status::RESTARTING) => State::Restarting,
                Some(Status::REMOVING) => State::Removing,
                Some(Status::EXITED | Status::DEAD) => State::Ended,
                Some(Status::CREATED) => State::Created,
                Some(Status::EMPTY) | None => return Err("a container whose state has no name".to_owned()),
            },
            pid: state
                .pid
                .and_then(|pid| u32::try_from(pid).ok())
                .filter(|&pid| pid != 0),
            health: match health.and_then(|health| health.status) {
                None | Some(HealthStatusEnum::EMPTY | HealthStatusEnum::NONE) => Health::NotChecked,
                Some(HealthStatusEnum::STARTING) => Health::Starting,
                Some(HealthStatusEnum::HEALTHY) => Health::Healthy,
                Some(HealthStatusEnum::UNHEALTHY) => {
                    let last = health.and_then(|health| health.log.as_ref()?.last()?.output.as_deref());
                    Health::Unhealthy(super::shown(last.unwrap_or_default()))
                }
            },
            exit_code: state.exit_code.unwrap_or_default(),
            out_of_memory: state.oom_killed.unwrap_or_default(),
            policy: match policy {
                None | Some(RestartPolicyNameEnum::EMPTY | RestartPolicyNameEnum::NO) => RestartPolicy::No,
                Some(RestartPolicyNameEnum::ON_FAILURE) => RestartPolicy::OnFailure,
                Some(RestartPolicyNameEnum::ALWAYS | RestartPolicyNameEnum::UNLESS_STOPPED) => {
                    RestartPolicy::Always
                }
            },
            stop_timeout: config
                .stop_timeout
                .and_then(|seconds| u64::try_from(seconds).ok())
                .map(Duration::from_secs),
            stop_signal: config.stop_signal.as_deref().map(number),
            network_of: host
                .network_mode
                .and_then(|mode| mode.strip_prefix("container:").map(ToOwned::to_owned)),
            labels: config.labels.unwrap_or_default(),
        })
    }

    /// Whether somebody who sends this signal, a number, wants its end. HUP, USR1, USR2, CHLD, CONT, STOP, TSTP, TTIN,
    /// TTOU, URG and WINCH are for reloads, reports and job control.
    pub fn asks_for_the_end(&self, signal: &str) -> bool {
        let harmless = ["1", "10", "12", "17", "18", "19", "20", "21", "22", "23", "28"].contains(&signal);
        !harmless || self.stop_signal.as_deref() == Some(signal)
    }

    /// True if it lives in the network namespace of `other`.
    pub fn shares_network_of(&self, other: &Self) -> bool {
        self.network_of.as_deref().is_some_and(|whose| {
            !whose.is_empty() && (other.life.id.starts_with(whose) || other.name == whose)
        })
    }

    /// True if a process of it may be there.
    pub const fn is_up(&self) -> bool {
        matches!(self.state, State::Running | State::Paused)
    }
}

impl Life {
    /// `ctr:<id>:<started at>`.
    pub fn incarnation(&self) -> Incarnation {
        Incarnation(format!("ctr:{}:{}", self.id, self.started_at).into())
    }

    /// The life that an incarnation names, if it is a container's.
    pub fn of(incarnation: &Incarnation) -> Option<Self> {
        let (id, started_at) = incarnation.0.strip_prefix("ctr:")?.split_once(':')?;
        Some(Self {
            id: id.to_owned(),
            started_at: started_at.to_owned(),
        })
    }

    /// True if an event at `nanos` after 1970 (the engine's clock, as is `started_at`) belongs to this life or a
    /// later one. An event or a life without a time belongs to it.
    pub fn holds(&self, nanos: Option<i64>) -> bool {
        let began = since_1970(&self.started_at);
        let at = nanos
            .and_then(|nanos| u64::try_from(nanos).ok())
            .map(Duration::from_nanos);
        began.zip(at).is_none_or(|(began, at)| at >= began)
    }
}

/// A time in the engine's words.
pub(super) fn since_1970(text: &str) -> Option<Duration> {
    humantime::parse_rfc3339(text)
        .ok()?
        .duration_since(UNIX_EPOCH)
        .ok()
}

/// A signal's number, as it comes in events. Docker takes names and numbers, with and without `SIG`.
fn number(signal: &str) -> String {
    let harmless = [
        ("HUP", "1"),
        ("USR1", "10"),
        ("USR2", "12"),
        ("CONT", "18"),
        ("WINCH", "28"),
    ];
    let upper = signal.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let known = harmless.iter().find(|(known, _)| *known == name);
    known.map_or(name, |(_, number)| number).to_owned()
}

impl State {
    /// As Docker calls it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Restarting => "restarting",
            Self::Ended => "exited",
            Self::Removing => "removing",
        }
    }
}

impl RestartPolicy {
    /// True if an exit with this code was meant to be the end.
    pub const fn lets_go(self, exit_code: i64) -> bool {
        exit_code == 0 && matches!(self, Self::No | Self::OnFailure)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_life_is_an_incarnation_and_back() {
        let life = Life {
            id: "0bcb".to_owned(),
            started_at: "2026-11-22T06:22:47.999451162Z".to_owned(),
        };
        let incarnation = life.incarnation();
        assert_eq!(&*incarnation.0, "ctr:0bcb:2026-11-22T06:22:47.999451162Z");
        assert_eq!(Life::of(&incarnation), Some(life));
        for other in ["proc:b:1:2", "ctr:0bcb", "", "boot:x"] {
            assert_eq!(Life::of(&Incarnation(other.into())), None, "{other}");
        }
    }

    #[test]
    fn what_was_before_its_start_is_not_of_this_life() {
        let life = |started_at: &str| Life {
            id: "x".to_owned(),
            started_at: started_at.to_owned(),
        };
        let began = life("2026-11-22T06:22:48.002146391Z");
        assert!(!began.holds(Some(1_795_328_567_999_999_999)));
        assert!(began.holds(Some(1_795_328_568_002_146_391)));
        assert!(began.holds(None));
        // Go leaves trailing zeros out.
        assert!(!life("2026-11-22T06:22:48.5Z").holds(Some(1_795_328_568_000_000_000)));
        for unreadable in ["", "0001-01-01T00:00:00Z", "yesterday"] {
            assert!(life(unreadable).holds(Some(1)), "{unreadable}");
        }
    }

    #[test]
    fn an_answer_without_what_counts_is_refused() {
        let answer = |json: &str| Container::of(serde_json::from_str(json).unwrap());
        assert!(answer("{}").is_err());
        assert!(answer(r#"{"State": {"Status": "running"}}"#).is_err());
        assert!(answer(r#"{"Id": "a", "State": {}}"#).is_err());
        let least = answer(r#"{"Id": "a", "State": {"Status": "exited", "ExitCode": 3}}"#).unwrap();
        assert_eq!((least.state, least.exit_code), (State::Ended, 3));
        assert_eq!(least.health, Health::NotChecked);
        assert_eq!(least.policy, RestartPolicy::No);
    }
}
