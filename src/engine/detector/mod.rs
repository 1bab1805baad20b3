//! When silence becomes suspicion, and suspicion death. A detector sees only the age of the last life; whether
//! that age may be believed is `self_trust`'s business.

mod adaptive;
mod arrivals;
mod deadline;
mod tail;
#[cfg(test)]
mod tests;
mod window;

use std::time::Duration;

pub use arrivals::Sent;

use super::settings::DetectorSettings;
use super::time::Time;

/// A detector of one passive check: told of each fresh heartbeat, asked how long a silence may last.
#[derive(Clone, Debug)]
pub struct Detector(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Deadline(deadline::Deadline),
    /// In a box: a thousand checks with deadlines need not be as large as one that learns.
    Adaptive(Box<adaptive::Adaptive>),
}

impl Detector {
    /// One that has heard nothing.
    pub fn new(settings: DetectorSettings) -> Self {
        Self(match settings {
            DetectorSettings::Deadline {
                suspect_after,
                dead_after,
            } => Kind::Deadline(deadline::Deadline {
                suspect_after,
                dead_after,
            }),
            DetectorSettings::Phi(settings) => Kind::Adaptive(Box::new(adaptive::Adaptive::phi(settings))),
            DetectorSettings::Chen(settings) => Kind::Adaptive(Box::new(adaptive::Adaptive::chen(settings))),
        })
    }

    /// A fresh heartbeat came at `at`, and its sender tells this of its schedule. `unbroken`: we listened and heard
    /// since the one before; else the time between them is nobody's silence, and no sample.
    pub fn arrived(&mut self, at: Time, sent: Option<Sent>, unbroken: bool) {
        match &mut self.0 {
            Kind::Deadline(_) => {}
            Kind::Adaptive(adaptive) => adaptive.arrived(at, sent, unbroken),
        }
    }

    /// Another life of the peer begins: what was learned of the last one is not known of it.
    pub fn new_life(&mut self) {
        match &mut self.0 {
            Kind::Deadline(_) => {}
            Kind::Adaptive(adaptive) => adaptive.new_life(),
        }
    }

    /// Silence of this length is suspicious.
    pub fn suspect_after(&self) -> Duration {
        match &self.0 {
            Kind::Deadline(deadline) => deadline.suspect_after,
            Kind::Adaptive(adaptive) => adaptive.suspect_after(),
        }
    }

    /// Silence of this length is death, if echoes cover it.
    pub fn dead_after(&self) -> Duration {
        match &self.0 {
            Kind::Deadline(deadline) => deadline.dead_after,
            Kind::Adaptive(adaptive) => adaptive.dead_after(),
        }
    }

    /// How many heartbeats its bounds rest on; `None` if it does not learn.
    pub fn samples(&self) -> Option<u16> {
        match &self.0 {
            Kind::Deadline(_) => None,
            Kind::Adaptive(adaptive) => Some(adaptive.samples()),
        }
    }
}
