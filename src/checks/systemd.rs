//! The `systemd` check: what systemd says of the owner's unit, as the owner watch last saw it (after each of systemd's
//! signals, and at every interval of the `process` check).
//!
//! Ends are the watch's business. This sees what only systemd knows of a unit that lives: that its start or its reload
//! never comes to an end. Never a failure is a stop that hangs: whoever asked for it must not get a restart.

use std::sync::Arc;
use std::time::Duration;

use super::active::Prober;
use crate::engine::cause::Cause;
use crate::engine::event::{Outcome, PeerId};
use crate::engine::time::Clock;
use crate::systemd::{Active, Systemd};
use crate::telemetry::metrics::checks::CheckKind;

/// The state of this peer's unit.
pub(super) struct State {
    pub(super) peer: PeerId,
    /// How long it may be starting or reloading.
    pub(super) settle_within: Duration,
    pub(super) systemd: Systemd,
    pub(super) clock: Arc<dyn Clock>,
}

impl Prober for State {
    const KIND: CheckKind = CheckKind::Systemd;

    async fn look(&mut self, _within: Duration) -> Outcome {
        let unknown = |detail: String| Outcome::Unknown { detail };
        let Some(sighting) = self.systemd.sighting(self.peer) else {
            return unknown("its unit was not looked at yet".to_owned());
        };
        let now = self.clock.now();
        if now > sighting.believed_until {
            return unknown("its unit was not looked at for a while".to_owned());
        }
        let unit = match sighting.seen {
            Ok(unit) => unit,
            Err(why) => return unknown(why),
        };
        let way = match unit.active {
            Active::Active => return Outcome::Pass,
            Active::Activating if unit.restarts_by_itself() => {
                return unknown("systemd is about to start it again".to_owned());
            }
            Active::Inactive => return unknown("it is inactive".to_owned()),
            Active::Deactivating => return unknown(format!("it is being stopped ({})", unit.sub)),
            Active::Failed => return unknown(format!("it has failed ({})", unit.how_it_ended())),
            Active::Activating => "being started",
            Active::Reloading => "reading its configuration again",
        };
        let mut detail = format!("it is {way} ({})", unit.sub);
        if !unit.status.is_empty() {
            detail = format!("{detail}, and says: {}", unit.status);
        }
        let lasting = now.since(sighting.since);
        if lasting < self.settle_within {
            return unknown(detail);
        }
        Outcome::Fail {
            cause: Cause::PeerStuck,
            detail: format!("{detail}, for {} s", lasting.as_secs()),
        }
    }
}
