//! Executors: each carries out one granted remedy, once, behind its fence. No policy.

mod capture;
mod client_kill;
mod docker;
mod exec;
mod fence;
mod http;
mod lock;
mod preflight;
mod signal;
mod socket_reset;
mod systemd;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::condemned::CondemnedTable;
use crate::docker::Docker;
use crate::engine::decision::Grant;
use crate::engine::event::{Incarnation, PeerId, RemedyOutcome};
use crate::engine::time::{Clock, Time};
use crate::owner_table::OwnerTable;
use crate::redis_client::{Endpoint, Server};
use crate::systemd::Systemd;
use crate::telemetry::metrics::remedies::RemedyMetrics;
pub use capture::{Capture, HoldContainer};
pub use docker::{Action, DockerAct};
use fence::Fence;
pub use preflight::preflight;
pub use signal::SignalError;
pub use systemd::{SystemdAct, UnitAction};

/// The rungs that have an executor, by (peer, rung).
pub type Settings = BTreeMap<(PeerId, u16), Remedy>;

/// One rung's executor. (`healthz` is a pulse of the snapshot: the engine carries it out itself.)
#[derive(Clone, Debug, PartialEq)]
#[allow(clippy::large_enum_variant, reason = "a node has a handful")]
pub enum Remedy {
    /// A signal to the fenced process, through its pidfd.
    Signal {
        /// Name and number, e.g. `SIGTERM` 15.
        signal: Signal,
        /// Sent after it, if the process is still there after so long.
        then: Option<(Duration, Signal)>,
    },
    /// A command without a shell.
    Exec {
        /// Program and arguments.
        argv: Vec<String>,
        /// Its whole process group is ended after this. Default 30 s.
        timeout: Duration,
    },
    /// A request, then perhaps a wait.
    Http {
        /// `http://` or `https://`.
        url: String,
        /// Default `POST`.
        method: String,
        /// Body, if any.
        body: Option<String>,
        /// Sent as `Authorization: Bearer …`.
        bearer: Option<crate::secret::Secret>,
        /// Bound on the request. Default 5 s.
        timeout: Duration,
        /// Wait after it until this holds or `deadline` has gone by; neither is a failure.
        until: Option<Until>,
    },
    /// An act of the Docker engine upon a container.
    Docker(DockerAct),
    /// An act of systemd upon a unit.
    Systemd(SystemdAct),
    /// `CLIENT KILL` of the connections that a `subscription` check condemned.
    ClientKill {
        /// The servers of the peer's `subscription` checks; `None` stands for the bus's.
        servers: Vec<Option<Endpoint>>,
        /// Bound on each question. Default 5 s.
        timeout: Duration,
    },
    /// The end of exactly the connections that a check condemned.
    SocketReset,
    /// A line in the log.
    Log,
    /// Evidence is kept.
    Capture(Capture),
    /// A message to this target of notifications.
    Notify {
        /// Its name.
        to: Arc<str>,
    },
}

impl Remedy {
    /// Whether both do the same to the same, within whatever time and room. Who did the one on a life has done the other.
    pub fn does_as(&self, other: &Self) -> bool {
        self.unbounded() == other.unbounded()
    }

    /// Without what only bounds it.
    fn unbounded(&self) -> Self {
        const NO: Duration = Duration::ZERO;
        let mut act = self.clone();
        match &mut act {
            Self::Signal { then, .. } => *then = then.map(|(_, signal)| (NO, signal)),
            Self::Exec { timeout, .. } | Self::ClientKill { timeout, .. } => *timeout = NO,
            Self::Http { timeout, until, .. } => {
                *timeout = NO;
                if let Some(until) = until {
                    (until.deadline, until.interval) = (NO, NO);
                }
            }
            Self::Docker(act) => act.stop_timeout = None,
            Self::Systemd(act) => act.timeout = NO,
            Self::Capture(capture) => {
                (capture.dir, capture.max_total, capture.max_size) = (PathBuf::new(), 0, 0);
                (capture.timeout, capture.logs) = (NO, capture.logs.min(1));
            }
            Self::SocketReset | Self::Log | Self::Notify { .. } => {}
        }
        act
    }
}

/// A signal, by number: one of the named ones (1 to 31).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signal(pub i32);

/// What an `http` remedy waits for after its request: a drain.
#[derive(Clone, Debug, PartialEq)]
pub struct Until {
    /// Asked again and again.
    pub check: crate::http_client::Question,
    /// Longest wait. Default 30 s.
    pub deadline: Duration,
    /// Between two askings. Default 1 s.
    pub interval: Duration,
}

/// The newest incarnation known of a peer that has no process owner here.
pub type Latest = Arc<dyn Fn(PeerId) -> Option<Incarnation> + Send + Sync>;

/// Asks for a message to a target of notifications; an error says why it will not be sent.
pub type Tell = Arc<dyn Fn(&Arc<str>, &Grant) -> Result<(), &'static str> + Send + Sync>;

/// What the executors take from their surroundings.
#[derive(Clone)]
pub struct Surroundings {
    /// The processes that the owner watch holds.
    pub owners: OwnerTable,
    /// The connections that the checks condemned.
    pub condemned: CondemnedTable,
    /// The newest incarnation of every other peer.
    pub latest: Latest,
    /// Tells people.
    pub tell: Tell,
    /// Finds a container's process.
    pub hold_container: HoldContainer,
    /// The Docker engine, for remedies that ask it.
    pub docker: Docker,
    /// systemd, for remedies that ask it.
    pub systemd: Systemd,
    /// The bus's server, as applications reach it.
    pub redis: Server,
    /// Where the per-peer lock files lie: one directory for all nodes of a machine. `None`: no locks.
    pub lock_dir: Option<PathBuf>,
    /// Environment variables that a command must not see, as they hold secrets. Those named `DEFIB_…` are kept from it
    /// anyway.
    pub scrub: Vec<String>,
    /// The node's clock.
    pub clock: Arc<dyn Clock>,
    /// Of this edge.
    pub metrics: RemedyMetrics,
}

/// Carries out what was granted.
pub struct Executors {
    settings: Settings,
    fence: Fence,
    condemned: CondemnedTable,
    tell: Tell,
    hold_container: HoldContainer,
    docker: Docker,
    systemd: Systemd,
    redis: Server,
    lock_dir: Option<PathBuf>,
    scrub: Vec<String>,
    clock: Arc<dyn Clock>,
    metrics: RemedyMetrics,
}

impl Executors {
    /// Executors for these rungs.
    pub fn new(settings: Settings, around: Surroundings) -> Self {
        Self {
            settings,
            fence: Fence {
                owners: around.owners,
                latest: around.latest,
            },
            condemned: around.condemned,
            tell: around.tell,
            hold_container: around.hold_container,
            docker: around.docker,
            systemd: around.systemd,
            redis: around.redis,
            lock_dir: around.lock_dir,
            scrub: around.scrub,
            clock: around.clock,
            metrics: around.metrics,
        }
    }

    /// Carries out one grant, once: lock, fence, act. Several may run at once, one for each peer. Dropping the
    /// future ends a running command's process group; it does not take back a signal or a request.
    pub async fn heal(&self, grant: Grant) -> RemedyOutcome {
        let began = self.clock.now();
        let outcome = self.carry_out(&grant).await.unwrap_or_else(|refused| refused);
        let took = self.clock.now().since(began);
        self.metrics.ended(grant.kind, &outcome, took);
        outcome
    }

    async fn carry_out(&self, grant: &Grant) -> Result<RemedyOutcome, RemedyOutcome> {
        let Some(remedy) = self.settings.get(&(grant.peer, grant.rung)) else {
            let detail = format!("rung {} of {} has no executor", grant.rung, grant.name);
            return Err(RemedyOutcome::NotActed { detail });
        };
        // Who only tells touches nobody: no lock, no fence.
        match remedy {
            Remedy::Log => return Ok(log(grant)),
            Remedy::Notify { to } => return self.notify(to, grant),
            _ => {}
        }
        let _lock = match &self.lock_dir {
            Some(dir) => Some(lock::take(dir, &grant.name)?),
            None => None,
        };
        let found = self.fence.check(grant).await?;
        fence::in_time(grant, self.clock.now())?;
        let passed = Passed {
            at: self.clock.now(),
            executors: self,
        };
        Ok(match remedy {
            Remedy::Signal { signal, then } => signal::send(&found, *signal, *then, passed).await,
            Remedy::Exec { argv, timeout } => exec::run(argv, *timeout, grant, &self.scrub, passed).await,
            Remedy::Http { .. } => http::run(remedy, passed).await,
            Remedy::Docker(act) => docker::run(act, &self.docker, grant, passed).await,
            Remedy::Systemd(act) => systemd::run(act, &self.systemd, grant, passed).await,
            Remedy::ClientKill { servers, timeout } => {
                client_kill::run(servers, *timeout, grant, passed).await
            }
            Remedy::SocketReset => socket_reset::reset(&found, grant, passed).await,
            Remedy::Log => log(grant),
            Remedy::Notify { to } => self.notify(to, grant)?,
            Remedy::Capture(kept) => capture::run(kept, &found, grant, self).await,
        })
    }

    fn notify(&self, to: &Arc<str>, grant: &Grant) -> Result<RemedyOutcome, RemedyOutcome> {
        let failed = |why: &str| RemedyOutcome::Failed {
            detail: format!("{to} is not told: {why}"),
        };
        (self.tell)(to, grant).map_err(failed)?;
        Ok(RemedyOutcome::Acted {
            detail: format!("{to} is told"),
        })
    }
}

/// The fence was passed; the act must follow at once.
#[derive(Clone, Copy)]
struct Passed<'e> {
    at: Time,
    executors: &'e Executors,
}

impl Passed<'_> {
    /// The executor has looked once more by itself.
    fn looked_again(&mut self) {
        self.at = self.executors.clock.now();
    }

    /// The act begins now. Between the fence and this lies the window in which a new incarnation could still
    /// be hit (by a command or a request; a pidfd cannot miss).
    fn act(self) {
        let window = self.executors.clock.now().since(self.at);
        self.executors.metrics.window(window);
    }
}

fn not_acted(detail: &str) -> RemedyOutcome {
    RemedyOutcome::NotActed {
        detail: detail.to_owned(),
    }
}

fn log(grant: &Grant) -> RemedyOutcome {
    tracing::warn!(
        peer = %grant.name,
        cause = %grant.cause,
        incarnation = %grant.incarnation,
        attempt = grant.attempt,
        token = grant.token,
        "remedy `log`: the peer needs somebody to look"
    );
    RemedyOutcome::Acted {
        detail: "written to the log".to_owned(),
    }
}

impl Remedy {
    /// It acts on something that runs, and can do nothing for what has ended.
    pub fn needs_life(&self) -> bool {
        match self {
            Self::Signal { .. } | Self::ClientKill { .. } | Self::SocketReset => true,
            Self::Docker(act) => matches!(act.action, Action::Kill(_)),
            Self::Systemd(act) => matches!(act.action, UnitAction::Kill(..)),
            Self::Exec { .. } | Self::Http { .. } | Self::Log | Self::Capture(_) | Self::Notify { .. } => {
                false
            }
        }
    }
}
