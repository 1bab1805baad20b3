//! The `docker` check: what the container's own health check says, as the owner watch last saw it (after each of
//! Docker's events, and at every interval of the `process` check).

use std::sync::Arc;
use std::time::Duration;

use super::active::Prober;
use crate::docker::{Docker, Health, State};
use crate::engine::cause::Cause;
use crate::engine::event::{Outcome, PeerId};
use crate::engine::time::Clock;
use crate::telemetry::metrics::checks::CheckKind;

/// The health of this peer's container.
pub(super) struct Healthy {
    pub(super) peer: PeerId,
    pub(super) docker: Docker,
    pub(super) clock: Arc<dyn Clock>,
}

impl Prober for Healthy {
    const KIND: CheckKind = CheckKind::Docker;

    async fn look(&mut self, _within: Duration) -> Outcome {
        let unknown = |detail: &str| Outcome::Unknown {
            detail: detail.to_owned(),
        };
        let Some(sighting) = self.docker.sighting(self.peer) else {
            return unknown("its container was not looked at yet");
        };
        if self.clock.now() > sighting.believed_until {
            return unknown("its container was not looked at for a while");
        }
        let container = match sighting.seen {
            Ok(container) => container,
            Err(why) => return unknown(&why),
        };
        if container.state != State::Running {
            return unknown(&format!("its container is {}", container.state.as_str()));
        }
        match &container.health {
            Health::Healthy => Outcome::Pass,
            Health::Starting => unknown("its health check has not passed yet, and has time to"),
            Health::NotChecked => {
                unknown("its container has no health check: give it one (HEALTHCHECK), or drop this check")
            }
            Health::Unhealthy(said) => Outcome::Fail {
                cause: Cause::PeerStuck,
                detail: format!("Docker calls it unhealthy: {said}"),
            },
        }
    }
}
