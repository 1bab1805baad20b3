//! Expectations (`[when.NAME]`): the same question as an `http` check's, about the world instead of a peer. A
//! service that does not answer is an expectation unmet (the car is off); only what cannot be found out at all
//! leaves it open. Reported after every run, so that a restarted engine knows within one interval.

use std::convert::Infallible;

use super::{Reporting, Schedule};
use crate::engine::event::{Event, ExpectationId};
use crate::http_client::{Answer, Question, ask};
use crate::telemetry::metrics::checks::{CheckKind, RunOutcome};

pub(super) async fn run(
    id: ExpectationId,
    question: Question,
    schedule: Schedule,
    reporting: Reporting,
) -> anyhow::Result<Infallible> {
    let mut starts = schedule.starts(&*reporting.clock, false);
    let mut before = None;
    loop {
        starts.tick().await;
        let began = reporting.clock.now();
        let answer = ask(&question, schedule.timeout).await;
        let took = reporting.clock.now().since(began);
        let (met, counted) = match &answer {
            Answer::Pass => (Some(true), RunOutcome::Pass),
            Answer::Fail(_) => (Some(false), RunOutcome::Fail),
            Answer::Unknown(_) => (None, RunOutcome::Unknown),
        };
        reporting.metrics.ran(CheckKind::Expectation, counted, took);
        if before.replace(met) != Some(met) {
            tracing::info!(expectation = id.0, ?met, ?answer, "expectation changed");
        }
        reporting.send(Event::Expectation { id, met }).await?;
    }
}
