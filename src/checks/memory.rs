//! The `memory` check: what the owner holds of the machine's memory, or how that grows, against a bound.

use std::sync::Arc;
use std::time::Duration;

use super::active::Prober;
use super::resident;
use super::trend::{Growing, Trend};
use crate::engine::cause::Cause;
use crate::engine::event::{Incarnation, Outcome, PeerId};
use crate::engine::time::Clock;
use crate::owner_table::{Holding, OwnerTable};
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
    clock: Arc<dyn Clock>,
    life: Option<(Incarnation, Trend)>,
}

impl Measure {
    pub(super) fn new(memory: Memory, peer: PeerId, owners: OwnerTable, clock: Arc<dyn Clock>) -> Self {
        Self {
            memory,
            peer,
            owners,
            clock,
            life: None,
        }
    }

    /// What the owner's present life holds.
    fn measure(&self) -> Result<(Incarnation, u64), String> {
        let owner = match self.owners.get(self.peer) {
            Holding::Live(owner) => owner,
            Holding::Nothing => return Err("its process is not found".into()),
            Holding::Listening(_) => {
                return Err("its process is out of sight: only its LISTEN socket is seen".into());
            }
            Holding::Unwatched => return Err("it has no owner that is a process of this machine".into()),
        };
        let bytes = self.memory.of.measure(owner.pid);
        // It was read by a number, which may by now be another process's.
        if owner.exited() {
            return Err("its process has ended".into());
        }
        Ok((owner.incarnation, bytes?))
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

    async fn look(&mut self, _: Duration) -> Outcome {
        // Some reads from /proc and /sys/fs/cgroup, which wait for nobody.
        match self.measure() {
            Ok((life, bytes)) => self.judge(life, bytes),
            Err(detail) => Outcome::Unknown { detail },
        }
    }
}

impl Of {
    /// In bytes.
    pub(super) fn measure(self, pid: u32) -> Result<u64, String> {
        match self {
            Self::Process => resident::of_process(pid),
            Self::Cgroup => resident::of_cgroup(pid),
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
