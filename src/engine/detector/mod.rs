//! When silence becomes suspicion, and suspicion death. A detector sees only the age of the last life; whether
//! that age may be believed is `self_trust`'s business.

mod deadline;

use std::time::Duration;

use super::settings::DetectorSettings;

/// A detector of one passive check. Adaptive ones will keep their samples in their own variant.
#[derive(Clone, Debug)]
pub(super) enum Detector {
    Deadline(deadline::Deadline),
}

impl Detector {
    pub(super) fn new(settings: DetectorSettings) -> Self {
        match settings {
            DetectorSettings::Deadline {
                suspect_after,
                dead_after,
            } => Self::Deadline(deadline::Deadline {
                suspect_after,
                dead_after,
            }),
        }
    }

    /// Silence of this length is suspicious.
    pub(super) fn suspect_after(&self) -> Duration {
        match self {
            Self::Deadline(deadline) => deadline.suspect_after,
        }
    }

    /// Silence of this length is death, if echoes cover it.
    pub(super) fn dead_after(&self) -> Duration {
        match self {
            Self::Deadline(deadline) => deadline.dead_after,
        }
    }
}
