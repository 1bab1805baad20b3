//! The `http` check: asks a question again and again and reports what the answer says of the peer.

use std::convert::Infallible;

use super::{Reporting, Schedule, counted};
use crate::engine::cause::Cause;
use crate::engine::event::{CheckId, Event, Observation, Outcome};
use crate::http_client::{Answer, Question, ask};
use crate::telemetry::metrics::checks::CheckKind;

pub(super) async fn run(
    check: CheckId,
    question: Question,
    schedule: Schedule,
    reporting: Reporting,
) -> anyhow::Result<Infallible> {
    let mut starts = schedule.starts().await;
    loop {
        starts.tick().await;
        let began = reporting.clock.now();
        let answer = ask(&question, schedule.timeout).await;
        let took = reporting.clock.now().since(began);
        reporting.metrics.ran(CheckKind::Http, counted(&answer), took);
        let outcome = match answer {
            Answer::Pass => Outcome::Pass,
            Answer::Fail(detail) => Outcome::Fail {
                cause: Cause::PeerStuck,
                detail,
            },
            Answer::Unknown(detail) => Outcome::Unknown { detail },
        };
        let observation = Observation {
            check,
            began,
            outcome,
        };
        reporting.send(Event::Observation(observation)).await?;
    }
}
