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
    /// Looks at the same time as the node's others of this sort: those that ask the kernel for sockets can share the
    /// answer, and a node that wakes once for ten of them has caches that are warm for nine. Not those that only ask a
    /// server: ten connections at once are more than some accept.
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
