//! The `http` check: asks a question and reports what the answer says of the peer.

use std::time::Duration;

use super::active::Prober;
use crate::engine::cause::Cause;
use crate::engine::event::Outcome;
use crate::http_client::{Answer, Question, ask};
use crate::telemetry::metrics::checks::CheckKind;

/// Asks this.
pub(super) struct Http(pub(super) Question);

impl Prober for Http {
    const KIND: CheckKind = CheckKind::Http;

    async fn look(&mut self, within: Duration) -> Outcome {
        match ask(&self.0, within).await {
            Answer::Pass => Outcome::Pass,
            Answer::Fail(detail) => Outcome::Fail {
                cause: Cause::PeerStuck,
                detail,
            },
            Answer::Unknown(detail) => Outcome::Unknown { detail },
        }
    }
}
