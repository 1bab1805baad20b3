//! The public listener's routes. Nothing here changes anything, but what the next heartbeat speaks of.

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, Request, State};
use axum::http::header::{self, HeaderMap, HeaderValue};
use axum::http::{Response, StatusCode, Uri};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus::{Encoder, TextEncoder};
use serde::Serialize;

use super::probes::{self, Answer};
use super::status::{Entry, Explanation};
use super::{Face, View, events, explain, history};
use crate::engine::event::PeerId;

/// Bodies of requests. Only the admin listener has a use for one.
pub(super) const MAX_BODY_BYTES: u64 = 16 * 1024;

type Asked = Result<Path<String>, PathRejection>;

pub(super) fn router(face: Arc<Face>) -> Router {
    finished(routes(), face)
}

/// What people and tools may read, on every listener.
pub(super) fn routes() -> Router<Arc<Face>> {
    Router::new()
        .route("/livez", get(livez))
        .route("/livez/", get(livez))
        .route("/healthz", get(healthz))
        .route("/healthz/", get(healthz))
        .route("/healthz/{*peer}", get(healthz_of))
        .route("/startupz", get(startupz))
        .route("/startupz/", get(startupz))
        .route("/startupz/{*peer}", get(startupz_of))
        .route("/readyz", get(readyz))
        .route("/readyz/", get(readyz))
        .route("/readyz/{*peer}", get(readyz_of))
        .route("/metrics", get(metrics))
        .route("/api/v1/status", get(status))
        .route("/api/v1/heartbeat", get(heartbeat))
        .route("/api/v1/events", get(events::follow))
        .route("/api/v1/explain/{*peer}", get(explain_peer))
        .route("/api/v1/history", get(history::history))
        .route(
            "/",
            get(async || page("text/html; charset=utf-8", include_str!("page/index.html"))),
        )
        .route(
            "/page.js",
            get(async || page("text/javascript; charset=utf-8", include_str!("page/page.js"))),
        )
        .route(
            "/page.css",
            get(async || page("text/css; charset=utf-8", include_str!("page/page.css"))),
        )
}

/// Adds what every listener has: 404 and 405 in JSON, the headers, the bound on bodies, the count.
pub(super) fn finished(routes: Router<Arc<Face>>, face: Arc<Face>) -> Router {
    routes
        .fallback(|| async { refusal(StatusCode::NOT_FOUND, "no such endpoint; / lists what there is") })
        .method_not_allowed_fallback(|| async {
            refusal(
                StatusCode::METHOD_NOT_ALLOWED,
                "this endpoint does not take that method",
            )
        })
        .layer(from_fn_with_state(Arc::clone(&face), around))
        .with_state(face)
}

/// True for what must be answered even when the listener is flooded.
pub(super) fn is_probe(path: &str) -> bool {
    matches!(endpoint(path), "livez" | "healthz" | "startupz" | "readyz")
}

/// The answer to everything else then.
pub(super) fn busy() -> Response<Body> {
    refusal(
        StatusCode::SERVICE_UNAVAILABLE,
        "too many connections; probes are still answered",
    )
}

/// An error for tools and people alike.
#[derive(Debug)]
pub(super) struct Refused(pub(super) StatusCode, pub(super) String);

impl Refused {
    pub(super) fn new(status: StatusCode, why: impl Into<String>) -> Self {
        Self(status, why.into())
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response<Body> {
        json(self.0, &serde_json::json!({ "error": self.1 }))
    }
}

/// The same, as an answer.
pub(super) fn refusal(status: StatusCode, why: &str) -> Response<Body> {
    Refused::new(status, why).into_response()
}

pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Response<Body> {
    let body = serde_json::to_vec(value).map(Bytes::from);
    written(status, "application/json", body.map_err(anyhow::Error::from))
}

fn written(status: StatusCode, kind: &'static str, body: anyhow::Result<Bytes>) -> Response<Body> {
    match body {
        Ok(body) => (status, [(header::CONTENT_TYPE, kind)], body).into_response(),
        Err(error) => {
            tracing::error!(%error, "an answer could not be written: a fault of defib, please report it");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// The label of a path: one of a fixed list, whatever was asked for.
fn endpoint(path: &str) -> &'static str {
    let path = path.strip_prefix('/').unwrap_or(path);
    match path.split('/').next().unwrap_or_default() {
        "livez" => "livez",
        "healthz" => "healthz",
        "startupz" => "startupz",
        "readyz" => "readyz",
        "metrics" => "metrics",
        "" | "page.js" | "page.css" => "page",
        "api" => match path {
            "api/v1/status" => "status",
            "api/v1/heartbeat" => "heartbeat",
            "api/v1/events" => "events",
            "api/v1/history" => "history",
            "api/v1/pause" => "pause",
            "api/v1/resume" => "resume",
            "api/v1/forget" => "forget",
            "api/v1/drain" => "drain",
            "api/v1/reload" => "reload",
            _ if path.starts_with("api/v1/explain/") => "explain",
            _ if path.starts_with("api/v1/restart/") => "restart",
            _ if path == "api/v1/leases" || path.starts_with("api/v1/leases/") => "leases",
            _ if path.starts_with("api/v1/beat/") => "beat",
            _ => "other",
        },
        _ => "other",
    }
}

async fn around(State(face): State<Arc<Face>>, request: Request, next: Next) -> Response<Body> {
    let endpoint = endpoint(request.uri().path());
    let announced = request
        .headers()
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok());
    // Of a beat's message the beginning is kept, and the rest read and dropped.
    let too_large = endpoint != "beat"
        && announced
            .and_then(|text| text.parse().ok())
            .is_some_and(|bytes: u64| bytes > MAX_BODY_BYTES);
    let mut response = if too_large {
        refusal(
            StatusCode::PAYLOAD_TOO_LARGE,
            "the request's body is larger than 16 KiB",
        )
    } else {
        next.run(request).await
    };
    face.app
        .metrics
        .http
        .answered(endpoint, response.status().as_u16());
    secure(response.headers_mut());
    response
}

fn secure(headers: &mut HeaderMap) {
    const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                          base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

fn told(answer: &Answer, uri: &Uri) -> Response<Body> {
    let keys = uri.query().unwrap_or_default().split('&');
    let verbose = keys
        .filter_map(|pair| pair.split('=').next())
        .any(|key| key == "verbose");
    let status = if answer.ok {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    text(status, answer.body(verbose))
}

fn text(status: StatusCode, body: String) -> Response<Body> {
    (
        status,
        [(header::CONTENT_TYPE, "text/plain; charset=utf-8")],
        body,
    )
        .into_response()
}

fn page(kind: &'static str, body: &'static str) -> Response<Body> {
    ([(header::CONTENT_TYPE, kind)], body).into_response()
}

async fn livez(State(face): State<Arc<Face>>, uri: Uri) -> Response<Body> {
    told(&probes::livez(&face.view(), face.loop_turned(), face.now()), &uri)
}

async fn healthz(State(face): State<Arc<Face>>, uri: Uri) -> Response<Body> {
    let view = face.view();
    for id in view.with_healthz() {
        face.app.metrics.http.healthz_probed(view.name(*id));
    }
    told(&probes::healthz(&view, face.now()), &uri)
}

async fn healthz_of(State(face): State<Arc<Face>>, uri: Uri, asked: Asked) -> Response<Body> {
    let view = face.view();
    let answer = match face.find(&asked, "healthz") {
        Ok(id) => {
            face.app.metrics.http.healthz_probed(view.name(id));
            probes::healthz_of(&view, id, face.now())
        }
        Err(name) => probes::nobody(&view, name),
    };
    told(&answer, &uri)
}

async fn startupz(State(face): State<Arc<Face>>, uri: Uri) -> Response<Body> {
    told(&probes::startupz(&face.view()), &uri)
}

async fn startupz_of(State(face): State<Arc<Face>>, uri: Uri, asked: Asked) -> Response<Body> {
    let view = face.view();
    let answer = match face.find(&asked, "startupz") {
        Ok(id) => probes::startupz_of(&view, id, face.now()),
        Err(name) => probes::nobody(&view, name),
    };
    told(&answer, &uri)
}

async fn readyz(State(face): State<Arc<Face>>, uri: Uri) -> Response<Body> {
    told(
        &probes::readyz(&face.view(), face.loop_turned(), face.now()),
        &uri,
    )
}

async fn readyz_of(State(face): State<Arc<Face>>, uri: Uri, asked: Asked) -> Response<Body> {
    let view = face.view();
    let answer = match face.find(&asked, "readyz") {
        Ok(id) => probes::readyz_of(&view, id, face.now()),
        Err(name) => probes::nobody(&view, name),
    };
    told(&answer, &uri)
}

async fn metrics(State(face): State<Arc<Face>>) -> Response<Body> {
    let view = face.view();
    let body = face.metrics.of(&view, || face.gathered(&view));
    written(StatusCode::OK, prometheus::TEXT_FORMAT, body)
}

async fn status(State(face): State<Arc<Face>>) -> Response<Body> {
    let view = face.view();
    let body = face
        .status
        .of(&view, || Ok(serde_json::to_vec(&face.status(&view))?));
    written(StatusCode::OK, "application/json", body)
}

/// What other nodes ask for who suspect somebody: our votes, in the bytes that went out on the bus. Whom they suspect, they
/// say (`?node:x=2300`, its silence in milliseconds): what is known of it is said in the next heartbeat, on the bus as well.
async fn heartbeat(
    State(face): State<Arc<Face>>,
    doubts: Result<Query<Vec<(String, u64)>>, QueryRejection>,
) -> Response<Body> {
    let Ok(Query(doubts)) = doubts else {
        return refusal(StatusCode::BAD_REQUEST, "ask as in /api/v1/heartbeat?node:x=2300");
    };
    face.doubted(doubts);
    let (until, latest) = face.app.heartbeat.borrow().clone();
    if face.now() >= until {
        let why = "the bus brought back no heartbeat of this node of late, and what it knows of others came over the bus";
        return refusal(StatusCode::SERVICE_UNAVAILABLE, why);
    }
    written(
        StatusCode::OK,
        "application/json",
        Ok(Bytes::copy_from_slice(&latest)),
    )
}

async fn explain_peer(State(face): State<Arc<Face>>, headers: HeaderMap, asked: Asked) -> Response<Body> {
    let (view, now) = (face.view(), face.now());
    let id = match face.find(&asked, "explain") {
        Ok(id) => id,
        Err(_) if view.config_error().is_some() => {
            let why = "the configuration is invalid, so no peer is known (`defib status` shows the mistakes)";
            return refusal(StatusCode::NOT_FOUND, why);
        }
        Err(name) => return refusal(StatusCode::NOT_FOUND, &view.nobody(name)),
    };
    let (Some(snapshot), Some(peer)) = (view.snapshot(), view.peer(id)) else {
        return refusal(StatusCode::SERVICE_UNAVAILABLE, "the engine has not run yet");
    };
    let probes = face.app.metrics.http.healthz_probes(&peer.name);
    let story = face.app.recent.episode_of(&peer.name);
    let words = explain::explain(peer, snapshot, probes, &story, now);
    let accept = headers
        .get(header::ACCEPT)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    if accept.contains("application/json") {
        let next = explain::next(peer, snapshot, now);
        return json(
            StatusCode::OK,
            &Explanation {
                now,
                next,
                text: words,
                story: story.iter().map(|notice| Entry::of(notice)).collect(),
                peer: peer.clone(),
            },
        );
    }
    text(StatusCode::OK, words)
}

impl Face {
    /// Every metric, as Prometheus reads them.
    fn gathered(&self, view: &View) -> anyhow::Result<Vec<u8>> {
        let metrics = &self.app.metrics;
        metrics.engine.config_valid(view.config_error().is_none());
        if let Some(snapshot) = view.snapshot() {
            metrics.engine.observe_snapshot(snapshot, self.now());
        }
        for id in view.with_healthz() {
            metrics.http.show_wiring(view.name(*id));
        }
        let mut body = Vec::new();
        TextEncoder::new().encode(&metrics.registry.gather(), &mut body)?;
        Ok(body)
    }

    /// The peer that a path names; else what it named, counted. A name that is not even UTF-8 is nobody's.
    fn find<'a>(&self, asked: &'a Asked, endpoint: &'static str) -> Result<PeerId, &'a str> {
        let name = asked.as_ref().map_or("\u{fffd}", |Path(name)| name.as_str());
        self.view().id(name).ok_or_else(|| {
            self.app.metrics.http.unknown_peer(endpoint);
            name
        })
    }
}
