//! Leases on the admin listener: taking, renewing, giving back, looking, following. What is said is the keeper's word;
//! here it gets a status, so that a caller that reads nothing else does not go wrong: only a lease that is certainly
//! the caller's is answered with 200 to a PUT.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::{Response, StatusCode};
use axum::response::IntoResponse;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::stream::{self, Stream};
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_util::sync::CancellationToken;

use super::Face;
use super::admin::{body, parsed, parsed_or_default};
use super::public::{self, Refused};
use crate::lease_desk::{Answer, LeaseDesk, Refusal, State as Of, Take};
use crate::telemetry::metrics::http::Open;

/// A comment this often finds out followers that are gone.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

type Key = Result<Path<String>, PathRejection>;
type Handled = Result<Response<Body>, Refused>;

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Put {
    token: Option<String>,
    ttl: Option<String>,
    peer: Option<String>,
    #[serde(default)]
    renew: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Delete {
    token: String,
}

pub(super) async fn put(State(face): State<Arc<Face>>, asked: Key, request: Request) -> Handled {
    let (desk, key) = (face.desk()?.clone(), key(asked)?);
    let asked: Put = parsed_or_default(&body(request).await?)?;
    let peer = face.optional_peer(asked.peer.as_deref())?;
    let peer = peer.map(|id| (id, Arc::from(face.view().name(id))));
    let take = Take {
        token: asked.token,
        ttl: asked.ttl.as_deref().map(ttl).transpose()?,
        peer,
        renew: asked.renew,
    };
    told(desk.take(&key, take).await, |state| match state {
        Of::Acquired | Of::Renewed => StatusCode::OK,
        Of::Held | Of::Free | Of::Lost => StatusCode::CONFLICT,
        Of::Unknown | Of::Ending => StatusCode::SERVICE_UNAVAILABLE,
    })
}

pub(super) async fn delete(State(face): State<Arc<Face>>, asked: Key, request: Request) -> Handled {
    let (desk, key) = (face.desk()?.clone(), key(asked)?);
    let asked: Delete = parsed(&body(request).await?)?;
    told(desk.release(&key, asked.token).await, |state| match state {
        Of::Free => StatusCode::OK,
        Of::Unknown => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::CONFLICT,
    })
}

pub(super) async fn get(State(face): State<Arc<Face>>, asked: Key) -> Handled {
    let (desk, key) = (face.desk()?, key(asked)?);
    told(desk.look(&key).await, |state| match state {
        Of::Unknown => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::OK,
    })
}

pub(super) async fn list(State(face): State<Arc<Face>>) -> Handled {
    match face.desk()?.list().await {
        Some(leases) => Ok(public::json(
            StatusCode::OK,
            &serde_json::json!({ "leases": leases }),
        )),
        None => Err(silent()),
    }
}

/// What becomes of a lease that this node keeps. Ends when it does.
pub(super) async fn follow(State(face): State<Arc<Face>>, asked: Key) -> Handled {
    let (desk, key) = (face.desk()?, key(asked)?);
    let Ok(slot) = Arc::clone(&face.follower_slots).try_acquire_owned() else {
        let why = "too many clients follow leases already";
        return Err(Refused::new(StatusCode::SERVICE_UNAVAILABLE, why));
    };
    let Some((now, news)) = desk.follow(&key).await else {
        return Err(silent());
    };
    let follower = Follower {
        first: Some(now),
        news,
        cancel: face.cancel.clone(),
        _open: face.app.metrics.http.sse_client(),
        _slot: slot,
    };
    Ok(Sse::new(follower.events())
        .keep_alive(KeepAlive::new().interval(KEEP_ALIVE))
        .into_response())
}

struct Follower {
    first: Option<Answer>,
    news: mpsc::Receiver<Answer>,
    cancel: CancellationToken,
    _open: Open,
    _slot: OwnedSemaphorePermit,
}

impl Follower {
    fn events(self) -> impl Stream<Item = Result<Event, Infallible>> {
        stream::unfold(self, |mut follower| async move {
            let answer = follower.next().await?;
            let event = Event::default().event(answer.state.as_str()).json_data(&answer);
            // It is made of texts and numbers: it can be written.
            Some((Ok(event.unwrap_or_default()), follower))
        })
    }

    async fn next(&mut self) -> Option<Answer> {
        if let Some(first) = self.first.take() {
            return Some(first);
        }
        tokio::select! {
            () = self.cancel.cancelled() => None,
            news = self.news.recv() => news,
        }
    }
}

impl Face {
    fn desk(&self) -> Result<&LeaseDesk, Refused> {
        self.app.leases.as_ref().ok_or_else(|| {
            let why = "this node keeps no leases: name what may be taken in [leases] prefixes";
            Refused::new(StatusCode::NOT_FOUND, why)
        })
    }
}

fn key(asked: Key) -> Result<Arc<str>, Refused> {
    match asked {
        Ok(Path(key)) => Ok(key.into()),
        Err(_) => Err(Refused::new(StatusCode::BAD_REQUEST, "the key is not UTF-8")),
    }
}

fn ttl(text: &str) -> Result<Duration, Refused> {
    humantime::parse_duration(text).map_err(|error| {
        let why = format!("`ttl` is no duration such as 30s or 5m: {error}");
        Refused::new(StatusCode::BAD_REQUEST, why)
    })
}

fn silent() -> Refused {
    Refused::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "the keeper of the leases does not answer",
    )
}

fn told(answer: Result<Answer, Refusal>, status: impl Fn(Of) -> StatusCode) -> Handled {
    match answer {
        Ok(answer) => Ok(public::json(status(answer.state), &answer)),
        Err(refusal) => {
            let status = match refusal {
                Refusal::Invalid(_) => StatusCode::BAD_REQUEST,
                Refusal::Forbidden(_) => StatusCode::FORBIDDEN,
                Refusal::PeerDead(_) => StatusCode::CONFLICT,
                Refusal::TooMany(_) => StatusCode::TOO_MANY_REQUESTS,
                Refusal::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            };
            Err(Refused::new(status, refusal.to_string()))
        }
    }
}
