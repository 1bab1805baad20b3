//! Active checks and the owner watch: they look at this machine and report observations. No policy.

mod active;
pub mod connections;
mod contained;
mod container;
mod docker;
pub mod exec;
pub mod expectation;
pub mod file;
mod http;
pub mod keys;
mod listener;
pub mod memory;
pub mod metric;
pub mod notify;
pub mod owner;
pub mod page;
pub mod parts;
mod port;
mod preflight;
mod process;
mod rate;
mod resident;
mod sockets;
pub mod subscription;
mod systemd;
pub mod tcp;
mod trend;
mod unit;
mod whose;

use std::convert::Infallible;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::mpsc::Sender;
use tokio::time::{Interval, MissedTickBehavior};

use crate::condemned::CondemnedTable;
use crate::docker::{Docker, Selector};
use crate::engine::cause::Cause;
use crate::engine::event::{CheckId, Event, ExpectationId, PeerId};
use crate::engine::settings::{Plane, Settings as Names};
use crate::engine::time::Clock;
use crate::http_client::Question;
use crate::owner_table::OwnerTable;
use crate::redis_client::Server;
use crate::sock_diag::{Endpoint, Rounds};
use crate::systemd::{Systemd, UnitRef};
use crate::telemetry::metrics::checks::CheckMetrics;
use connections::Connections;
pub use contained::first_process as hold_container;
use exec::Exec;
use file::{Directories, File};
use keys::key::RedisKey;
use keys::lock::RedisLock;
use memory::Memory;
use metric::Metric;
use notify::Notify;
pub use preflight::preflight;
pub use process::{hold_again, uptime_of};
pub use sockets::Wanted as WantedSockets;
use subscription::{Subscription, Watch};
use tcp::Tcp;

/// Everything that has to be run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    /// The process of each peer that is one.
    pub owners: Vec<(PeerId, Owner, Option<CheckId>, Schedule)>,
    /// The container of each peer that is one.
    pub containers: Vec<(Selector, CheckId, Schedule)>,
    /// The unit of each peer that is one.
    pub units: Vec<(UnitRef, CheckId, Schedule)>,
    /// The active checks.
    pub probes: Vec<(CheckId, Probe, Schedule)>,
    /// The sockets on which peers report.
    pub notifies: Vec<(CheckId, Notify)>,
    /// The expectations, and by what each is met.
    pub expectations: Vec<(ExpectationId, When, Schedule)>,
}

/// What meets an expectation.
#[derive(Clone, Debug, PartialEq)]
pub enum When {
    /// An answer to a question that passes.
    Http(Question),
    /// A key that is there, and as it should be.
    RedisKey(RedisKey),
}

/// What an active check looks at.
#[derive(Clone, Debug, PartialEq)]
pub enum Probe {
    /// An answer to a question.
    Http(Question),
    /// The health of the owner's container.
    Docker,
    /// The state of the owner's unit.
    Systemd {
        /// How long it may be starting or reloading.
        settle_within: Duration,
    },
    /// The owner's connections to a Redis, as the kernel and the server see them.
    Subscription(Subscription),
    /// The owner's connections to a server.
    Sockets(WantedSockets),
    /// A number of its metrics page.
    Metric(Metric),
    /// How many connections it counts, beside how many there are.
    Connections(Connections),
    /// Its memory.
    Memory(Memory),
    /// Who takes connections.
    Tcp(Tcp),
    /// The exit code of a command.
    Exec(Exec),
    /// A key of a Redis.
    RedisKey(RedisKey),
    /// Locks in a Redis.
    RedisLock(RedisLock),
    /// Its heartbeat file.
    File(File),
}

/// A check's place in the configuration, by number and by names.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    id: CheckId,
    peer: String,
    check: String,
}

/// How a peer's process is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// By number: that process, never a successor.
    Pid(u32),
    /// By the number in a file, read again when the process has ended or the file changed.
    PidFile(std::path::PathBuf),
    /// By the `pid` in a heartbeat file, in the same way.
    HeartbeatFile(std::path::PathBuf),
    /// By a part of its command line (arguments joined by blanks); exactly one process must match.
    Command(String),
    /// By the TCP port it listens on, on whatever address.
    Listens(u16),
    /// By the very address and port.
    ListensAt(std::net::SocketAddr),
}

impl Owner {
    /// On what it listens, if it is found by that.
    fn listens_on(&self) -> Option<Endpoint> {
        match self {
            Self::Listens(port) => Some(Endpoint::port(*port)),
            Self::ListensAt(address) => Some((*address).into()),
            Self::Pid(_) | Self::PidFile(_) | Self::HeartbeatFile(_) | Self::Command(_) => None,
        }
    }
}

/// When a check runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// Time between the starts of two runs. A run that is still going is never started twice.
    pub interval: Duration,
    /// Bound on one run; what a run that exceeds it means is the check's own business.
    pub timeout: Duration,
}

/// Where every check gets the time from and reports to.
#[derive(Clone)]
pub struct Reporting {
    /// To the event loop.
    pub events: Sender<Event>,
    /// The node's clock.
    pub clock: Arc<dyn Clock>,
    /// Of this edge.
    pub metrics: CheckMetrics,
}

/// What the checks share with their surroundings.
#[derive(Clone)]
pub struct Surroundings {
    /// Where they report to.
    pub reporting: Reporting,
    /// The owners' processes, held by the owner watch.
    pub owners: OwnerTable,
    /// The connections that they condemn, for the remedies that touch one.
    pub condemned: CondemnedTable,
    /// The Docker engine, for peers that are containers.
    pub docker: Docker,
    /// systemd, for peers that are units.
    pub systemd: Systemd,
    /// The bus's server, as applications reach it.
    pub redis: Server,
    /// Environment variables that no command gets to see, as they hold secrets.
    pub scrub: Arc<[String]>,
    /// How long clients have to come back after their server was away: `bus.settle`.
    pub settle: Duration,
    /// Where those that look at sockets look together.
    pub rounds: Rounds,
    /// Where the kernel tells of files.
    pub files: Files,
}

/// The directories in which the kernel tells of files: one place for the whole node.
#[derive(Clone, Debug, Default)]
pub struct Files(Directories);

impl Files {
    /// Parts have ended: no directory is watched for them any more.
    pub fn sweep(&self) {
        self.0.sweep();
    }
}

fn place_of(id: CheckId, names: &Names) -> Place {
    let peer = names.peers.get(id.peer.0 as usize);
    let check = peer.and_then(|peer| peer.checks.get(usize::from(id.index)));
    Place {
        id,
        peer: peer.map_or_else(|| id.peer.0.to_string(), |peer| peer.name.to_string()),
        check: check.map_or_else(|| id.index.to_string(), |check| check.name.to_string()),
    }
}

impl Probe {
    async fn run(self, place: Place, schedule: Schedule, around: Surroundings) -> anyhow::Result<Infallible> {
        let directories = around.files.0.clone();
        let Surroundings {
            reporting,
            owners,
            docker,
            rounds,
            systemd,
            ..
        } = around.clone();
        let id = place.id;
        let clock = Arc::clone(&reporting.clock);
        match self {
            Self::Subscription(subscription) => {
                active::run(id, Watch::new(id, subscription, around), schedule, reporting).await
            }
            Self::Http(question) => active::run(id, http::Http(question), schedule, reporting).await,
            Self::Docker => {
                let prober = docker::Healthy {
                    peer: id.peer,
                    docker,
                    clock,
                };
                active::run(id, prober, schedule, reporting).await
            }
            Self::Systemd { settle_within } => {
                let prober = systemd::State {
                    peer: id.peer,
                    settle_within,
                    systemd,
                    clock,
                };
                active::run(id, prober, schedule, reporting).await
            }
            Self::Metric(metric) => {
                let measure = metric::Measure::new(metric, clock);
                active::run(id, measure, schedule, reporting).await
            }
            Self::Connections(connections) => {
                let ghosts = reporting.metrics.ghosts(place.peer, place.check);
                let compare = connections::Compare::new(connections, clock, ghosts, rounds);
                active::run(id, compare, schedule, reporting).await
            }
            Self::Memory(memory) => {
                let measure = memory::Measure::new(memory, id.peer, owners, docker, clock);
                active::run(id, measure, schedule, reporting).await
            }
            Self::File(file) => {
                file::Watch::new(id, file, schedule, reporting, owners, directories)
                    .run()
                    .await
            }
            Self::Sockets(wanted) => {
                let prober = sockets::Sockets::new(id, wanted, schedule, around);
                active::run(id, prober, schedule, reporting).await
            }
            Self::Tcp(tcp) => {
                let prober = tcp::Connect::new(tcp, clock);
                active::run(id, prober, schedule, reporting).await
            }
            Self::Exec(exec) => {
                let prober = exec::Command::new(exec, place, owners, around.scrub);
                active::run(id, prober, schedule, reporting).await
            }
            Self::RedisKey(key) => {
                let prober = keys::key::Look::new(key, &around);
                active::run(id, prober, schedule, reporting).await
            }
            Self::RedisLock(lock) => {
                let locks = reporting.metrics.locks(place.peer, place.check);
                let prober = keys::lock::Look::new(lock, &around, locks);
                active::run(id, prober, schedule, reporting).await
            }
        }
    }

    /// Which view of the world it has.
    pub const fn plane(&self) -> Plane {
        match self {
            Self::Subscription(_) | Self::RedisKey(_) | Self::RedisLock(_) => Plane::Bus,
            Self::Http(_)
            | Self::Docker
            | Self::Systemd { .. }
            | Self::Sockets(_)
            | Self::Metric(_)
            | Self::Connections(_)
            | Self::Memory(_)
            | Self::Tcp(_)
            | Self::Exec(_)
            | Self::File(_) => Plane::Local,
        }
    }

    /// Whether it looks at this machine; else the peer may live anywhere.
    pub const fn is_here(&self) -> bool {
        !matches!(self, Self::RedisKey(_) | Self::RedisLock(_))
    }

    /// What its failures can mean.
    pub const fn proves(&self) -> &'static [Cause] {
        match self {
            Self::Http(_)
            | Self::Docker
            | Self::Systemd { .. }
            | Self::Metric(_)
            | Self::Tcp(_)
            | Self::Exec(_) => &[Cause::PeerStuck],
            Self::RedisKey(_) => &[Cause::PeerSilent, Cause::PeerStuck],
            Self::RedisLock(_) => &[Cause::PeerSilent, Cause::PeerLeaking],
            Self::Sockets(_) | Self::Subscription(_) => &[Cause::PeerDeaf, Cause::PeerStuck],
            Self::Connections(_) | Self::Memory(_) => &[Cause::PeerLeaking],
            Self::File(file) => file.proves(),
        }
    }
}

impl Reporting {
    async fn send(&self, event: Event) -> anyhow::Result<()> {
        self.events
            .send(event)
            .await
            .context("the event loop takes no more events")
    }
}

impl Schedule {
    /// The starts of the runs: the first at a random part of the interval (of a second at most), so that checks and
    /// nodes do not all ask at once; `together`: at the same part of it as all others of this node that look so. Starts
    /// that were missed are left out, not made up for.
    fn starts(self, clock: &dyn Clock, together: bool) -> Interval {
        let beat = self
            .interval
            .clamp(Duration::from_millis(1), Duration::from_secs(1));
        let wait = if together {
            let past = Duration::from_nanos(clock.now().as_nanos()) + beat.mul_f64(part_of_a_beat());
            beat.as_nanos() - past.as_nanos() % beat.as_nanos()
        } else {
            beat.mul_f64(random_part()).as_nanos()
        };
        let mut ticks = self.ticks();
        ticks.reset_after(Duration::from_nanos(u64::try_from(wait).unwrap_or(0)));
        ticks
    }

    fn ticks(self) -> Interval {
        let mut ticks = tokio::time::interval(self.interval.max(Duration::from_millis(1)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        ticks
    }
}

/// Where in a beat those that look together do so: not where other nodes do.
fn part_of_a_beat() -> f64 {
    static PART: OnceLock<f64> = OnceLock::new();
    *PART.get_or_init(random_part)
}

fn random_part() -> f64 {
    getrandom::u32().map_or(0.0, |random| f64::from(random) / f64::from(u32::MAX))
}
