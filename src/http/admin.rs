//! The admin listener's routes: what changes something. Who asked is the operating system's word (the other end's
//! credentials on the Unix socket), or that the bearer token was known.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, FromRequest, Request, State};
use axum::http::header::{self, HeaderValue};
use axum::http::{Response, StatusCode};
use axum::middleware::{Next, from_fn};
use axum::routing::{get, post};
use axum::{Extension, Router};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc::error::SendTimeoutError;
use tokio::time::timeout;

use super::public::{self, Refused};
use super::serve::Caller;
use super::{Face, beat, leases, restart};
use crate::engine::event::{Event, OperatorRequest, PeerId};
use crate::reload_desk::Outcome;
use crate::secret::Secret;

/// A body must have arrived within this.
pub(super) const BODY_TIMEOUT: Duration = Duration::from_secs(5);
/// The event loop must have taken the request within this.
pub(super) const ENGINE_TIMEOUT: Duration = Duration::from_secs(2);
/// Leases are given back within this at a drain, or end by themselves.
const LEASES_TIMEOUT: Duration = Duration::from_secs(3);
/// Characters of a reason.
const MAX_REASON: usize = 500;
/// The longest pause that ends by itself.
const MAX_PAUSE: Duration = Duration::from_secs(365 * 86_400);

/// `token`: needed for every request, where anybody on the machine can connect.
pub(super) fn router(face: Arc<Face>, token: Option<Secret>) -> Router {
    let routes = public::routes()
        .route("/api/v1/pause", post(pause))
        .route("/api/v1/resume", post(resume))
        .route("/api/v1/forget", post(forget))
        .route("/api/v1/drain", post(drain))
        .route("/api/v1/restart/{peer}", post(restart::restart))
        .route("/api/v1/reload", post(reload))
        .route("/api/v1/leases", get(leases::list))
        .route(
            "/api/v1/leases/{key}",
            get(leases::get).put(leases::put).delete(leases::delete),
        )
        .route("/api/v1/leases/{key}/events", get(leases::follow))
        .merge(beat::routes())
        .layer(DefaultBodyLimit::max(
            usize::try_from(public::MAX_BODY_BYTES).unwrap_or(usize::MAX),
        ));
    let open = public::finished(routes, face);
    match token {
        Some(token) => open.layer(from_fn(move |request, next| {
            authorised(token.clone(), request, next)
        })),
        None => open,
    }
}

async fn authorised(token: Secret, request: Request, next: Next) -> Response<Body> {
    let shown = request
        .headers()
        .get(header::AUTHORIZATION)
        .map(HeaderValue::as_bytes);
    let shown = shown.and_then(|value| value.strip_prefix(b"Bearer "));
    // Read at each request: a rotated token holds at once.
    let known = match token.read().await {
        Ok(known) if !known.is_empty() => known,
        Ok(_) => return public::refusal(StatusCode::SERVICE_UNAVAILABLE, "the admin token is empty"),
        Err(error) => {
            tracing::warn!(%error, "the admin token cannot be read: the admin port refuses everybody");
            return public::refusal(
                StatusCode::SERVICE_UNAVAILABLE,
                "the admin token cannot be read; see the log",
            );
        }
    };
    if shown.is_some_and(|shown| same(shown, known.as_bytes())) {
        return next.run(request).await;
    }
    let why = "send the token of [http] admin_listen as `Authorization: Bearer …`";
    let mut response = public::refusal(StatusCode::UNAUTHORIZED, why);
    response
        .headers_mut()
        .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}

/// Compares in a time that tells the length and nothing else.
fn same(shown: &[u8], known: &[u8]) -> bool {
    let differing = shown
        .iter()
        .zip(known)
        .fold(0, |differing, (a, b)| black_box(differing | (a ^ b)));
    shown.len() == known.len() && black_box(differing) == 0
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Pause {
    peer: Option<String>,
    reason: String,
    #[serde(rename = "for")]
    lasting: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Resume {
    peer: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Forget {
    peer: String,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Drain {}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Reload {}

type Handled = Result<Response<Body>, Refused>;

async fn pause(
    State(face): State<Arc<Face>>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Handled {
    let asked: Pause = parsed(&body(request).await?)?;
    let peer = face.optional_peer(asked.peer.as_deref())?;
    let reason = reason("reason", &asked.reason)?;
    let lasting = asked.lasting.as_deref().map(lasting).transpose()?;
    face.tell(
        OperatorRequest::Pause {
            peer,
            reason,
            lasting,
        },
        "pause",
        caller,
    )
    .await
}

async fn resume(
    State(face): State<Arc<Face>>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Handled {
    let asked: Resume = parsed_or_default(&body(request).await?)?;
    let peer = face.optional_peer(asked.peer.as_deref())?;
    face.tell(OperatorRequest::Resume { peer }, "resume", caller)
        .await
}

async fn forget(
    State(face): State<Arc<Face>>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Handled {
    let asked: Forget = parsed(&body(request).await?)?;
    let peer = face.configured_peer(&asked.peer)?;
    face.tell(OperatorRequest::Forget { peer }, "forget", caller)
        .await
}

async fn drain(
    State(face): State<Arc<Face>>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Handled {
    let Drain {} = parsed_or_default(&body(request).await?)?;
    if let Some(leases) = &face.app.leases {
        // Before the goodbye: who sees that this node has left may take them.
        leases.drain(LEASES_TIMEOUT).await;
    }
    face.tell(OperatorRequest::Drain, "drain", caller).await
}

/// Reads the configuration again. Answered once it holds, or was refused: 409, with every mistake.
async fn reload(
    State(face): State<Arc<Face>>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Handled {
    let Reload {} = parsed_or_default(&body(request).await?)?;
    let Some(desk) = &face.app.reload else {
        let why = "this node cannot read its configuration again: restart it";
        return Err(Refused::new(StatusCode::CONFLICT, why));
    };
    let outcome = desk
        .reload(&caller.to_string())
        .await
        .map_err(|error| Refused::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string()))?;
    let status = match &outcome {
        Outcome::Applied { .. } | Outcome::Unchanged => StatusCode::OK,
        Outcome::Refused { .. } => StatusCode::CONFLICT,
    };
    Ok(public::json(status, &outcome))
}

pub(super) async fn body(request: Request) -> Result<Bytes, Refused> {
    match timeout(BODY_TIMEOUT, Bytes::from_request(request, &())).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(rejection)) => Err(Refused::new(rejection.status(), rejection.body_text())),
        Err(_) => Err(Refused::new(
            StatusCode::REQUEST_TIMEOUT,
            "the request's body did not arrive within 5 s",
        )),
    }
}

pub(super) fn bad(why: &str) -> Refused {
    Refused::new(StatusCode::BAD_REQUEST, why)
}

pub(super) fn parsed<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refused> {
    serde_json::from_slice(body)
        .map_err(|error| bad(&format!("the request's body is not as expected: {error}")))
}

pub(super) fn parsed_or_default<T: DeserializeOwned + Default>(body: &[u8]) -> Result<T, Refused> {
    if body.is_empty() {
        Ok(T::default())
    } else {
        parsed(body)
    }
}

/// What `key` says, for people.
pub(super) fn reason(key: &str, text: &str) -> Result<String, Refused> {
    let text = text.trim();
    if text.is_empty() {
        return Err(bad(&format!(
            "`{key}` is empty: whoever finds it must be able to understand why"
        )));
    }
    if text.chars().count() > MAX_REASON || text.chars().any(char::is_control) {
        return Err(bad(&format!(
            "`{key}` must be one line of at most 500 characters"
        )));
    }
    Ok(text.to_owned())
}

fn lasting(text: &str) -> Result<Duration, Refused> {
    match humantime::parse_duration(text) {
        Ok(lasting) if lasting.is_zero() => Err(bad("`for` is zero: that would pause nothing")),
        Ok(lasting) if lasting > MAX_PAUSE => Err(bad(
            "`for` is longer than a year; leave it out to pause until resumed",
        )),
        Ok(lasting) => Ok(lasting),
        Err(error) => Err(bad(&format!(
            "`for` is no duration such as 90s, 10m or 2h: {error}"
        ))),
    }
}

impl Face {
    pub(super) fn configured_peer(&self, name: &str) -> Result<PeerId, Refused> {
        let view = self.view();
        view.id(name)
            .ok_or_else(|| Refused::new(StatusCode::NOT_FOUND, view.nobody(name)))
    }

    pub(super) fn optional_peer(&self, name: Option<&str>) -> Result<Option<PeerId>, Refused> {
        name.map(|name| self.configured_peer(name)).transpose()
    }

    async fn tell(&self, request: OperatorRequest, name: &'static str, caller: Caller) -> Handled {
        let by = self.hand_over(request, name, caller).await?;
        let taken = serde_json::json!({ "taken": name, "by": by });
        Ok(public::json(StatusCode::ACCEPTED, &taken))
    }

    /// Hands the request to the event loop, and says who asks.
    pub(super) async fn hand_over(
        &self,
        request: OperatorRequest,
        name: &'static str,
        caller: Caller,
    ) -> Result<String, Refused> {
        if self.view().config_error().is_some() {
            let why = "the configuration is invalid: nothing is judged, so there is nothing to change";
            return Err(Refused::new(StatusCode::CONFLICT, why));
        }
        let by = caller.to_string();
        tracing::info!(request = name, by, "an operator asks");
        let event = Event::Operator {
            request,
            by: by.clone(),
        };
        match self.app.events.send_timeout(event, ENGINE_TIMEOUT).await {
            Ok(()) => Ok(by),
            Err(SendTimeoutError::Timeout(_)) => Err(Refused::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "the event loop did not take the request within 2 s; nothing was changed, try again",
            )),
            Err(SendTimeoutError::Closed(_)) => Err(Refused::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "the event loop has ended: the node shuts down",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_token_passes() {
        assert!(same(b"s3cret", b"s3cret"));
        for other in ["", "s3cre", "s3crets", "S3cret", "xxxxxx"] {
            assert!(!same(other.as_bytes(), b"s3cret"), "{other:?}");
        }
    }
}
