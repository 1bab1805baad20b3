//! The `memory` check: what the owner holds of the machine's memory, or how that grows, against a bound.

use std::sync::Arc;
use std::time::Duration;

use super::active::Prober;
use super::contained;
use super::resident;
use super::trend::{Growing, Trend};
use crate::docker::{Container, Docker};
use crate::engine::cause::Cause;
use crate::engine::event::{Incarnation, Outcome, PeerId};
use crate::engine::time::Clock;
use crate::owner_table::{Holding, LiveOwner, OwnerTable};
use crate::telemetry::metrics::checks::CheckKind;

/// What is measured, and what it must be. At least one of `below` and `growth` is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Whose.
    pub of: Of,
    /// It must be below this many bytes.
    pub below: Option<u64>,
    /// What it may grow by.
    pub growth: Option<Growth>,
}

/// Whose memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// The owner's process alone.
    Process,
    /// Everything in the owner's cgroup: a container, a unit.
    Cgroup,
}

/// A bound on growth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Growth {
    /// Less than so many bytes …
    pub below: u64,
    /// … in so long.
    pub over: Duration,
}

/// Looks, and remembers how this life grew.
pub(super) struct Measure {
    memory: Memory,
    peer: PeerId,
    owners: OwnerTable,
    docker: Docker,
    clock: Arc<dyn Clock>,
    life: Option<(Incarnation, Trend)>,
}

impl Measure {
    pub(super) fn new(
        memory: Memory,
        peer: PeerId,
        owners: OwnerTable,
        docker: Docker,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            memory,
            peer,
            owners,
            docker,
            clock,
            life: None,
        }
    }

    /// What the owner's present life holds.
    async fn measure(&self) -> Result<(Incarnation, u64), String> {
        let owner = match self.owners.get(self.peer) {
            Holding::Live(owner) => owner,
            Holding::Nothing => return Err("its process is not found".into()),
            Holding::Listening(_) => {
                return Err("its process is out of sight: only its LISTEN socket is seen".into());
            }
            Holding::Unwatched => {
                let container = contained::running(&self.docker, self.peer, self.clock.now())
                    .ok_or("it has no owner that is a process or a container of this machine")??;
                let bytes = self.memory.of.of_container(&container, &self.docker).await?;
                return Ok((container.life.incarnation(), bytes));
            }
        };
        let bytes = self.memory.of.of_process(&owner)?;
        Ok((owner.incarnation, bytes))
    }

    fn judge(&mut self, life: Incarnation, bytes: u64) -> Outcome {
        let growing = self.memory.growth.map(|growth| {
            let known = self.life.take().filter(|(known, _)| *known == life);
            let (_, mut trend) = known.unwrap_or_else(|| (life.clone(), Trend::over(growth.over)));
            let growing = trend.take(self.clock.now(), bytes);
            self.life = Some((life, trend));
            (growth, growing)
        });
        match self.memory.below {
            Some(below) if bytes >= below => {
                fail(format!("it holds {}, not below {}", mib(bytes), mib(below)))
            }
            _ => growing.map_or(Outcome::Pass, |(growth, growing)| growth.judge(growing)),
        }
    }
}

impl Prober for Measure {
    const KIND: CheckKind = CheckKind::Memory;
    const TOGETHER: bool = true;

    async fn look(&mut self, within: Duration) -> Outcome {
        // Some reads from /proc and /sys/fs/cgroup, which wait for nobody; or Docker is asked.
        let measured = tokio::time::timeout(within, self.measure()).await;
        match measured.unwrap_or_else(|_| Err(format!("measuring has not ended within {within:?}"))) {
            Ok((life, bytes)) => self.judge(life, bytes),
            Err(detail) => Outcome::Unknown { detail },
        }
    }
}

impl Of {
    /// In bytes.
    pub(super) fn of_process(self, owner: &LiveOwner) -> Result<u64, String> {
        let bytes = match self {
            Self::Process => resident::of_process(owner.pid),
            Self::Cgroup => resident::of_cgroup(owner.pid),
        };
        // It was read by a number, which may by now be another process's.
        if owner.exited() {
            return Err("its process has ended".into());
        }
        bytes
    }

    /// By its first process where that is seen, else by Docker's word.
    pub(super) async fn of_container(self, container: &Container, docker: &Docker) -> Result<u64, String> {
        let seen = contained::first_process(container).and_then(|owner| self.of_process(&owner));
        match (seen, self) {
            (Ok(bytes), _) => Ok(bytes),
            (Err(why), Self::Process) => {
                Err(format!("{why}; or measure of = \"cgroup\", which Docker tells"))
            }
            (Err(why), Self::Cgroup) => {
                let told = docker.memory(&container.life).await;
                told.map_err(|error| format!("{}; and {why}", error.with_cure()))
            }
        }
    }
}

impl Growth {
    /// A life that is younger than the window, and has not grown by as much as a whole window allows, keeps to the
    /// bound. One that has may still be starting.
    fn judge(self, growing: Growing) -> Outcome {
        let Self { below, over } = self;
        match growing {
            Growing::SoFar { by, .. } if by < below => Outcome::Pass,
            Growing::SoFar { by, seen } => Outcome::Unknown {
                detail: format!(
                    "it grew by {} in its first {seen:.0?}; {over:?} are needed to judge that",
                    mib(by)
                ),
            },
            Growing::Steadily { by } if by < below => Outcome::Pass,
            Growing::Steadily { by } => fail(format!(
                "it grows by {} in {over:?}, not below {}",
                mib(by),
                mib(below)
            )),
        }
    }
}

fn fail(detail: String) -> Outcome {
    let cause = Cause::PeerLeaking;
    Outcome::Fail { cause, detail }
}

fn mib(bytes: u64) -> String {
    format!("{:.1}MiB", bytes as f64 / f64::from(1 << 20))
}
