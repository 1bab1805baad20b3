//! `/api/v1/events`: every notice as it happens, by server-sent events. Following is bounded: so many clients,
//! and one that lags loses events (and is told how many) instead of holding them in memory. Who was cut off and names
//! the last event that it saw gets what it missed, as far as that is kept.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Response, StatusCode};
use axum::response::IntoResponse;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::stream::{self, Stream};
use serde::Serialize;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio_util::sync::CancellationToken;

use super::{Face, public};
use crate::engine::decision::Notice;
use crate::telemetry::metrics::http::{HttpMetrics, Open};

/// A comment this often keeps proxies from closing a quiet stream, and finds out clients that are gone.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Names the last event that a follower saw, as browsers do when they connect again.
const LAST_EVENT_ID: &str = "last-event-id";

pub(super) async fn follow(State(face): State<Arc<Face>>, headers: HeaderMap) -> Response<Body> {
    let Ok(slot) = Arc::clone(&face.sse_slots).try_acquire_owned() else {
        return public::refusal(
            StatusCode::SERVICE_UNAVAILABLE,
            "too many clients follow the events already",
        );
    };
    // Before what is kept is looked at: nothing falls in between, and what is in both is told once.
    let notices = face.app.notices.subscribe();
    let boot = face.view().snapshot().map(|snapshot| Arc::clone(&snapshot.boot));
    let asked = headers.get(LAST_EVENT_ID).and_then(|id| id.to_str().ok());
    let resumed = asked
        .zip(boot.as_deref())
        .map(|(id, boot)| face.resumed(id, boot));
    let follower = Follower {
        notices,
        boot: boot.unwrap_or_default(),
        seen: resumed.as_ref().map_or(0, |resumed| resumed.seen),
        waiting: resumed.map(|resumed| resumed.events).unwrap_or_default(),
        cancel: face.cancel.clone(),
        metrics: face.app.metrics.http.clone(),
        greeted: false,
        _open: face.app.metrics.http.sse_client(),
        _slot: slot,
    };
    Sse::new(follower.events())
        .keep_alive(KeepAlive::new().interval(KEEP_ALIVE))
        .into_response()
}

/// A notice, and the same in words.
#[derive(Serialize)]
struct Said<'a> {
    #[serde(flatten)]
    notice: &'a Notice,
    text: String,
}

/// What a follower that comes back is told first.
struct Resumed {
    events: VecDeque<Told>,
    /// The last notice among them, or that it had seen.
    seen: u64,
}

/// What is told beside the notices as they come.
enum Told {
    Notice(Arc<Notice>),
    /// So many are lost to this follower.
    Lagged(u64),
    /// The node was started again since: what it told before is in its audit.
    Restarted,
}

impl Face {
    /// `id` is what [`Follower::event`] gave: the run, and the number within it.
    fn resumed(&self, id: &str, boot: &str) -> Resumed {
        let (run, n) = id.rsplit_once('-').unwrap_or((id, ""));
        let same_run = run == boot;
        let n = n.parse().ok().filter(|_| same_run).unwrap_or(0);
        let missed = self.app.recent.after(n);
        let first = if !same_run {
            Some(Told::Restarted)
        } else if missed.lost > 0 {
            self.app.metrics.http.sse_missed(missed.lost);
            Some(Told::Lagged(missed.lost))
        } else {
            None
        };
        Resumed {
            seen: missed.last,
            events: first
                .into_iter()
                .chain(missed.notices.into_iter().map(Told::Notice))
                .collect(),
        }
    }
}

struct Follower {
    notices: broadcast::Receiver<Arc<Notice>>,
    boot: Arc<str>,
    /// The number of the last notice that it was told.
    seen: u64,
    /// Told before what comes.
    waiting: VecDeque<Told>,
    cancel: CancellationToken,
    metrics: HttpMetrics,
    greeted: bool,
    _open: Open,
    _slot: OwnedSemaphorePermit,
}

impl Follower {
    fn events(self) -> impl Stream<Item = Result<Event, Infallible>> {
        stream::unfold(self, |mut follower| async move {
            let event = follower.next().await?;
            Some((Ok(event), follower))
        })
    }

    async fn next(&mut self) -> Option<Event> {
        if !self.greeted {
            // Something has to be sent for the client to know that it is subscribed.
            self.greeted = true;
            return Some(Event::default().comment("following"));
        }
        loop {
            let told = match self.waiting.pop_front() {
                Some(told) => told,
                None => self.received().await?,
            };
            if let Some(event) = self.event(&told) {
                return Some(event);
            }
        }
    }

    async fn received(&mut self) -> Option<Told> {
        loop {
            let received = tokio::select! {
                () = self.cancel.cancelled() => return None,
                received = self.notices.recv() => received,
            };
            match received {
                // (It came between the beginning of following and the look at what is kept.)
                Ok(notice) if notice.n <= self.seen => {}
                Ok(notice) => {
                    return Some(Told::Notice(notice));
                }
                Err(RecvError::Lagged(missed)) => {
                    self.metrics.sse_missed(missed);
                    return Some(Told::Lagged(missed));
                }
                Err(RecvError::Closed) => return None,
            }
        }
    }

    fn event(&self, told: &Told) -> Option<Event> {
        match told {
            Told::Notice(notice) => {
                let said = Said {
                    notice,
                    text: notice.what.to_string(),
                };
                let event = Event::default().event(notice.what.name()).json_data(said);
                event
                    .map(|event| event.id(format!("{}-{}", self.boot, notice.n)))
                    .inspect_err(|error| {
                        tracing::error!(%error, "a notice could not be written as JSON: a fault of defib");
                    })
                    .ok()
            }
            Told::Lagged(missed) => {
                let event = Event::default().event("lagged");
                Some(event.data(format!("{{\"missed\":{missed}}}")))
            }
            Told::Restarted => Some(Event::default().event("restarted").data("{}")),
        }
    }
}
