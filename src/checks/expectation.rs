//! Expectations (`[when.NAME]`): the same question as an `http` check's, about the world instead of a peer. A
//! service that does not answer is an expectation unmet (the car is off); only what cannot be found out at all
//! leaves it open. Reported after every run, so that a restarted engine knows within one interval.

use std::convert::Infallible;

use super::{Reporting, Schedule, counted};
use crate::engine::event::{Event, ExpectationId};
use crate::http_client::{Answer, Question, ask};
use crate::telemetry::metrics::checks::CheckKind;

pub(super) async fn run(
    id: ExpectationId,
    question: Question,
    schedule: Schedule,
    reporting: Reporting,
) -> anyhow::Result<Infallible> {
    let mut starts = schedule.starts().await;
    let mut before = None;
    loop {
        starts.tick().await;
        let began = reporting.clock.now();
        let answer = ask(&question, schedule.timeout).await;
        let took = reporting.clock.now().since(began);
        reporting
            .metrics
            .ran(CheckKind::Expectation, counted(&answer), took);
        let met = match &answer {
            Answer::Pass => Some(true),
            Answer::Fail(_) => Some(false),
            Answer::Unknown(_) => None,
        };
        if before.replace(met) != Some(met) {
            tracing::info!(expectation = id.0, ?met, ?answer, "expectation changed");
        }
        reporting.send(Event::Expectation { id, met }).await?;
    }
}
