//! Expectations (`[when.NAME]`): the same as an `http` or a `redis_key` check, about the world instead of a peer. A
//! service that does not answer, or a key that is not there, is an expectation unmet (the car is off); only what cannot
//! be found out at all leaves it open. Reported after every run, so that a restarted engine knows within one interval.

use std::convert::Infallible;
use std::time::Duration;

use super::active::Prober;
use super::http::Http;
use super::keys::key::Look;
use super::{Schedule, Surroundings, When};
use crate::engine::event::{Event, ExpectationId, Outcome};
use crate::telemetry::metrics::checks::{CheckKind, RunOutcome};

/// What is looked at.
enum Asked {
    Http(Http),
    RedisKey(Box<Look>),
}

impl Asked {
    async fn look(&mut self, within: Duration) -> Outcome {
        match self {
            Self::Http(http) => http.look(within).await,
            Self::RedisKey(key) => key.look(within).await,
        }
    }
}

pub(super) async fn run(
    id: ExpectationId,
    when: When,
    schedule: Schedule,
    around: Surroundings,
) -> anyhow::Result<Infallible> {
    let mut asked = match when {
        When::Http(question) => Asked::Http(Http(question)),
        When::RedisKey(key) => Asked::RedisKey(Box::new(Look::new(key, &around))),
    };
    let reporting = around.reporting;
    let mut starts = schedule.starts(&*reporting.clock, false);
    let mut before = None;
    loop {
        starts.tick().await;
        let began = reporting.clock.now();
        let outcome = asked.look(schedule.timeout).await;
        let took = reporting.clock.now().since(began);
        let met = match &outcome {
            Outcome::Pass => Some(true),
            Outcome::Fail { .. } => Some(false),
            Outcome::Doubt { .. } | Outcome::Unknown { .. } => None,
        };
        reporting
            .metrics
            .ran(CheckKind::Expectation, RunOutcome::of(&outcome), took);
        if before.replace(met) != Some(met) {
            tracing::info!(expectation = id.0, ?met, ?outcome, "expectation changed");
        }
        reporting.send(Event::Expectation { id, met }).await?;
    }
}
