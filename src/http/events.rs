//! `/api/v1/events`: every notice as it happens, by server-sent events. Following is bounded: so many clients,
//! and one that lags loses events (and is told how many) instead of holding them in memory.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{Response, StatusCode};
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

pub(super) async fn follow(State(face): State<Arc<Face>>) -> Response<Body> {
    let Ok(slot) = Arc::clone(&face.sse_slots).try_acquire_owned() else {
        return public::refusal(
            StatusCode::SERVICE_UNAVAILABLE,
            "too many clients follow the events already",
        );
    };
    let follower = Follower {
        notices: face.app.notices.subscribe(),
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
struct Told<'a> {
    #[serde(flatten)]
    notice: &'a Notice,
    text: String,
}

impl<'a> Told<'a> {
    fn of(notice: &'a Notice) -> Self {
        Self {
            notice,
            text: notice.what.to_string(),
        }
    }
}

struct Follower {
    notices: broadcast::Receiver<Arc<Notice>>,
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
            let received = tokio::select! {
                () = self.cancel.cancelled() => return None,
                received = self.notices.recv() => received,
            };
            match received {
                Ok(notice) => match Event::default()
                    .event(notice.what.name())
                    .json_data(Told::of(&notice))
                {
                    Ok(event) => return Some(event),
                    Err(error) => {
                        tracing::error!(%error, "a notice could not be written as JSON: a fault of defib");
                    }
                },
                Err(RecvError::Lagged(missed)) => {
                    self.metrics.sse_missed(missed);
                    return Some(
                        Event::default()
                            .event("lagged")
                            .data(format!("{{\"missed\":{missed}}}")),
                    );
                }
                Err(RecvError::Closed) => return None,
            }
        }
    }
}
