//! The one loop of every active check: looks again and again, and reports what was seen.

use std::convert::Infallible;
use std::time::Duration;

use super::{Reporting, Schedule};
use crate::engine::event::{CheckId, Event, Observation, Outcome};
use crate::telemetry::metrics::checks::{CheckKind, RunOutcome};

/// One way of looking. It may remember what it saw before; a task that is started again begins with a new one.
pub(super) trait Prober: Send {
    /// The label of its metrics.
    const KIND: CheckKind;
    /// Looks at this machine alone, so that it may do so together with the node's others: a node that wakes once for ten
    /// of them has caches that are warm for nine. (Ten connections at once are more than some servers accept.)
    const TOGETHER: bool = false;

    /// One run. It keeps to `within` by itself: only it knows what a run that takes longer means.
    fn look(&mut self, within: Duration) -> impl Future<Output = Outcome> + Send;
}

/// Runs until it is dropped.
///
/// # Errors
/// If the event loop is gone.
pub(super) async fn run<P: Prober>(
    check: CheckId,
    mut prober: P,
    schedule: Schedule,
    reporting: Reporting,
) -> anyhow::Result<Infallible> {
    let mut starts = schedule.starts(&*reporting.clock, P::TOGETHER);
    loop {
        starts.tick().await;
        let began = reporting.clock.now();
        let outcome = prober.look(schedule.timeout).await;
        let took = reporting.clock.now().since(began);
        reporting.metrics.ran(P::KIND, RunOutcome::of(&outcome), took);
        let observation = Observation {
            check,
            began,
            outcome,
        };
        reporting.send(Event::Observation(observation)).await?;
    }
}
