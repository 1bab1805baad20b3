//! The fence: right before the act, is this still the life that was condemned?

use std::sync::Arc;
use std::time::Duration;

use super::Latest;
use crate::engine::decision::Grant;
use crate::engine::event::{Incarnation, RemedyOutcome};
use crate::engine::time::Time;
use crate::owner_table::{Holding, LiveOwner, Look, OwnerTable};

/// Bound on looking for a successor. Who cannot be sure that none runs, touches nothing.
const LOOK: Duration = Duration::from_secs(2);

pub(super) struct Fence {
    pub(super) owners: OwnerTable,
    pub(super) latest: Latest,
}

/// Whom the fence let through to.
pub(super) enum Found {
    /// The condemned process, held.
    Process(LiveOwner),
    /// Its process has ended, as was granted, and no other runs.
    Ended,
    /// The peer has no process here; its newest incarnation is the condemned one.
    NoProcess,
    /// Its LISTEN socket is the condemned one; why its process cannot be seen.
    Listener(String),
}

impl Fence {
    /// # Errors
    /// What to answer instead of acting.
    pub(super) async fn check(&self, grant: &Grant) -> Result<Found, RemedyOutcome> {
        match self.owners.get(grant.peer) {
            Holding::Unwatched => self.by_latest(grant),
            Holding::Live(live) if live.incarnation != grant.incarnation && !live.exited() => {
                Err(newer(&live.incarnation))
            }
            Holding::Listening(listener) if listener.incarnation != grant.incarnation => {
                Err(newer(&listener.incarnation))
            }
            Holding::Listening(listener) if !grant.exited => self
                .listens_still(grant)
                .await
                .map(|()| Found::Listener(listener.why)),
            Holding::Live(_) | Holding::Listening(_) | Holding::Nothing if grant.exited => {
                self.nobody_runs(grant).await.map(|()| Found::Ended)
            }
            Holding::Live(live) if live.incarnation == grant.incarnation && live.exited() => {
                Err(fenced("it has ended meanwhile".to_owned()))
            }
            Holding::Live(live) if live.incarnation == grant.incarnation => Ok(Found::Process(live)),
            Holding::Live(_) | Holding::Listening(_) | Holding::Nothing => {
                Err(fenced(format!("{} is no longer there", grant.incarnation)))
            }
        }
    }

    fn by_latest(&self, grant: &Grant) -> Result<Found, RemedyOutcome> {
        match (self.latest)(grant.peer) {
            Some(latest) if latest == grant.incarnation => Ok(Found::NoProcess),
            Some(latest) => Err(newer(&latest)),
            None if grant.exited => Ok(Found::NoProcess),
            None => Err(fenced(format!("{} is no longer known", grant.incarnation))),
        }
    }

    /// The watch may not have seen a successor yet, so it is looked for now.
    async fn nobody_runs(&self, grant: &Grant) -> Result<(), RemedyOutcome> {
        match self.look(grant).await? {
            None => Ok(()),
            Some(found) if found == grant.incarnation => Err(fenced(format!("{found} still runs"))),
            Some(found) => Err(newer(&found)),
        }
    }

    /// A socket tells nobody of its end: it is looked for again.
    async fn listens_still(&self, grant: &Grant) -> Result<(), RemedyOutcome> {
        match self.look(grant).await? {
            Some(found) if found == grant.incarnation => Ok(()),
            Some(found) => Err(newer(&found)),
            None => Err(RemedyOutcome::NotActed {
                detail: "it listens no longer".to_owned(),
            }),
        }
    }

    /// The life that is there now.
    async fn look(&self, grant: &Grant) -> Result<Option<Incarnation>, RemedyOutcome> {
        let Some(look) = self.owners.look(grant.peer) else {
            return Ok(None);
        };
        let looking = tokio::task::spawn_blocking({
            let look: Look = Arc::clone(&look);
            move || look()
        });
        match tokio::time::timeout(LOOK, looking).await {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(error)) => Err(fenced(format!("looking for a successor failed: {error}"))),
            Err(_) => Err(fenced(format!(
                "looking for a successor has not ended within {LOOK:?}"
            ))),
        }
    }
}

/// A node that was stopped since the grant: its engine has taken this for lost, and another node may have leave by now.
pub(super) fn in_time(grant: &Grant, now: Time) -> Result<(), RemedyOutcome> {
    if now < grant.until {
        return Ok(());
    }
    Err(fenced("the time of its grant is over".to_owned()))
}

fn newer(found: &Incarnation) -> RemedyOutcome {
    fenced(format!("another life runs by now: {found}"))
}

fn fenced(detail: String) -> RemedyOutcome {
    RemedyOutcome::Fenced { detail }
}
