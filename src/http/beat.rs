//! `POST /api/v1/beat/{peer}`: a peer, or a script that speaks for it, says that it lives; in the forms that people know
//! from healthchecks.io (`/start`, `/fail`, `/log`, an exit code), and `/stop` for who leaves on purpose. What that means
//! is the engine's business.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query, Request, State};
use axum::http::header::{self, HeaderValue};
use axum::http::{Response, StatusCode};
use axum::response::IntoResponse;
use axum::routing::post;
use http_body_util::BodyExt;
use serde::Deserialize;
use tokio::sync::mpsc::Permit;
use tokio::time::timeout;

use super::admin::{BODY_TIMEOUT, ENGINE_TIMEOUT};
use super::public::{self, Refused};
use super::{Face, Push, View};
use crate::allowance::Allowance;
use crate::engine::cause::Cause;
use crate::engine::event::{Event, Next, Report, Word};
use crate::engine::time::Time;
use crate::telemetry::metrics::http::Beat;

/// Beats of one check: so many together, so many a second.
const BURST: u32 = 20;
const A_SECOND: u32 = 10;
/// Characters of a message that are kept; what is longer is cut, for the beat counts all the same.
const MAX_MESSAGE: usize = 500;
/// Bytes of a body that are looked at, and that are read and dropped.
const LOOKED_AT: usize = 4 * MAX_MESSAGE;
const READ: usize = 1024 * 1024;

/// The beats of each `push` check.
#[derive(Debug, Default)]
pub(super) struct Beats {
    /// At the start; those of a reload are in the view.
    checks: Vec<Push>,
    /// By the names of peer and check.
    states: Mutex<BTreeMap<Names, Pushed>>,
}

type Names = (Arc<str>, Arc<str>);

fn names_of(push: &Push) -> Names {
    (Arc::clone(&push.peer), Arc::clone(&push.name))
}

/// What is remembered of one check's beats.
#[derive(Debug)]
struct Pushed {
    allowance: Allowance,
    started: Option<Time>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Which {
    check: Option<String>,
}

/// What a beat says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Success,
    Start,
    Fail(Option<u8>),
    Log,
    Stop,
}

impl Form {
    /// `None`: there is no such form.
    fn of(text: &str) -> Option<Self> {
        match text {
            "start" => Some(Self::Start),
            "fail" => Some(Self::Fail(None)),
            "log" => Some(Self::Log),
            "stop" => Some(Self::Stop),
            code => match code.parse().ok()? {
                0 => Some(Self::Success),
                code => Some(Self::Fail(Some(code))),
            },
        }
    }

    const fn counted(self) -> Beat {
        match self {
            Self::Success => Beat::Success,
            Self::Start => Beat::Start,
            Self::Fail(_) => Beat::Fail,
            Self::Log => Beat::Log,
            Self::Stop => Beat::Stop,
        }
    }
}

pub(super) fn routes() -> Router<Arc<Face>> {
    Router::new()
        .route("/api/v1/beat/{peer}", post(beat))
        .route("/api/v1/beat/{peer}/{form}", post(beat_in_form))
}

async fn beat(
    State(face): State<Arc<Face>>,
    Path(peer): Path<String>,
    which: Query<Which>,
    request: Request,
) -> Result<Response<Body>, Response<Body>> {
    face.beat(&peer, Form::Success, which.0.check.as_deref(), request)
        .await
}

async fn beat_in_form(
    State(face): State<Arc<Face>>,
    Path((peer, form)): Path<(String, String)>,
    which: Query<Which>,
    request: Request,
) -> Result<Response<Body>, Response<Body>> {
    let Some(form) = Form::of(&form) else {
        let why =
            "a beat takes /start, /fail, /log, /stop, or an exit code from 0 to 255 after the peer's name";
        return Err(Refused::new(StatusCode::NOT_FOUND, why).into_response());
    };
    face.beat(&peer, form, which.0.check.as_deref(), request).await
}

impl Beats {
    pub(super) fn new(checks: Vec<Push>) -> Self {
        Self {
            states: Mutex::default(),
            checks,
        }
    }

    fn find(&self, view: &View, peer: &str, check: Option<&str>) -> Result<Push, Refused> {
        let configured = view.pushes().unwrap_or(&self.checks);
        let all: Vec<&Push> = configured.iter().filter(|push| *push.peer == *peer).collect();
        let names = || all.iter().map(|push| &*push.name).collect::<Vec<_>>().join(", ");
        match (all.as_slice(), check) {
            ([], _) => Err(Refused::new(
                StatusCode::NOT_FOUND,
                format!("peer `{peer}` has no `push` check: add [peer.{peer}.checks.push]"),
            )),
            ([one], None) => Ok(Push::clone(one)),
            (_, Some(name)) => {
                let found = all.iter().find(|push| *push.name == *name).copied();
                found.cloned().ok_or_else(|| {
                    let name: String = name.chars().take(64).collect();
                    let why = format!(
                        "peer `{peer}` has no `push` check {name:?}; there are: {}",
                        names()
                    );
                    Refused::new(StatusCode::NOT_FOUND, why)
                })
            }
            (_, None) => {
                let why = format!(
                    "peer `{peer}` has several `push` checks: say which with ?check=, one of {}",
                    names()
                );
                Err(Refused::new(StatusCode::BAD_REQUEST, why))
            }
        }
    }

    /// `Err`: how long to wait.
    fn allow(&self, push: &Push, view: &View, now: Time) -> Result<(), Duration> {
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        let configured = view.pushes().unwrap_or(&self.checks);
        if states.len() > configured.len() {
            // A reload took some away.
            states.retain(|names, _| configured.iter().any(|push| names_of(push) == *names));
        }
        let pushed = states.entry(names_of(push)).or_insert_with(|| Pushed {
            allowance: Allowance::new(BURST, A_SECOND),
            started: None,
        });
        let allowance = &mut pushed.allowance;
        allowance
            .takes(now)
            .then_some(())
            .ok_or_else(|| allowance.wait(now))
    }

    /// How long its run took, if it said when it began.
    fn took(&self, push: &Push, form: Form, now: Time) -> Option<Duration> {
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        let pushed = states.get_mut(&names_of(push))?;
        match form {
            Form::Start => {
                pushed.started = Some(now);
                None
            }
            Form::Success | Form::Fail(_) | Form::Stop => Some(now.since(pushed.started.take()?)),
            Form::Log => None,
        }
    }
}

impl Face {
    async fn beat(
        &self,
        peer: &str,
        form: Form,
        check: Option<&str>,
        request: Request,
    ) -> Result<Response<Body>, Response<Body>> {
        let refused = |refused: Refused| refused.into_response();
        self.configured_peer(peer).map_err(refused)?;
        let view = self.view();
        let push = self.beats.find(&view, peer, check).map_err(refused)?;
        let metrics = &self.app.metrics.http;
        if let Err(wait) = self.beats.allow(&push, &view, self.now()) {
            metrics.beat(peer, Beat::Limited);
            return Err(limited(wait));
        }
        let message = message(request.into_body()).await.map_err(refused)?;
        let room = self.room_for_a_report().await.map_err(refused)?;
        // A reload may have come meanwhile: it may have another number by now, or be no more. From here on nothing waits.
        self.configured_peer(peer).map_err(refused)?;
        let push = self
            .beats
            .find(&self.view(), peer, Some(&push.name))
            .map_err(refused)?;
        let took = self.beats.took(&push, form, self.now());
        if let Some(took) = took {
            metrics.run_took(peer, &push.name, took);
        }
        room.send(Event::Report(said(&push, form, message, took)));
        metrics.beat(peer, form.counted());
        let taken = serde_json::json!({ "taken": form.counted().as_str(), "peer": peer, "check": push.name });
        Ok(public::json(StatusCode::ACCEPTED, &taken))
    }

    async fn room_for_a_report(&self) -> Result<Permit<'_, Event>, Refused> {
        let refused = |why| Refused::new(StatusCode::SERVICE_UNAVAILABLE, why);
        match timeout(ENGINE_TIMEOUT, self.app.events.reserve()).await {
            Ok(Ok(room)) => Ok(room),
            Ok(Err(_)) => Err(refused("the event loop has ended: the node shuts down")),
            Err(_) => Err(refused(
                "the event loop did not take the beat within 2 s; try again",
            )),
        }
    }
}

fn said(push: &Push, form: Form, message: String, took: Option<Duration>) -> Report {
    let with = |words: String| match message.as_str() {
        "" => words,
        message => format!("{words}: {message}"),
    };
    let word = match form {
        Form::Success => Word::Life {
            up: true,
            next: Next::AsConfigured,
        },
        Form::Start => Word::Life {
            up: true,
            next: Next::Within {
                suspect_after: push.run_within * 3 / 4,
                dead_after: push.run_within,
            },
        },
        Form::Fail(code) => Word::Failed {
            cause: Cause::PeerStuck,
            detail: with(match code {
                Some(code) => format!("it ended with exit code {code}"),
                None => "it says that it failed".to_owned(),
            }),
        },
        Form::Log => Word::Note,
        Form::Stop => Word::Leaving {
            detail: with("it says that it stops".to_owned()),
        },
    };
    let says = match (form, took) {
        // Its words are in the detail already.
        (Form::Fail(_) | Form::Stop, _) => String::new(),
        (Form::Start, _) if message.is_empty() => "started".to_owned(),
        (_, Some(took)) => {
            let took = format!("took {:.1} s", took.as_secs_f64());
            if message.is_empty() {
                took
            } else {
                format!("{message} ({took})")
            }
        }
        (_, None) => message,
    };
    Report {
        check: push.check,
        life: None,
        says: Some(says.into()),
        word,
    }
}

fn limited(wait: Duration) -> Response<Body> {
    let seconds = wait.as_secs() + 1;
    let why = format!("more than {A_SECOND} beats a second for one check; try again in {seconds} s");
    let mut response = Refused::new(StatusCode::TOO_MANY_REQUESTS, why).into_response();
    if let Ok(value) = HeaderValue::from_str(&seconds.to_string()) {
        response.headers_mut().insert(header::RETRY_AFTER, value);
    }
    response
}

/// The body's beginning, as one line.
async fn message(body: Body) -> Result<String, Refused> {
    match timeout(BODY_TIMEOUT, beginning(body)).await {
        Ok(read) => read.map(|bytes| one_line(&bytes)),
        Err(_) => Err(Refused::new(
            StatusCode::REQUEST_TIMEOUT,
            "the request's body did not arrive within 5 s",
        )),
    }
}

async fn beginning(mut body: Body) -> Result<Vec<u8>, Refused> {
    let (mut kept, mut read) = (Vec::new(), 0usize);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            Refused::new(
                StatusCode::BAD_REQUEST,
                format!("the request's body broke off: {error}"),
            )
        })?;
        let Some(data) = frame.data_ref() else { continue };
        read = read.saturating_add(data.len());
        if read > READ {
            let why = "the message is longer than 1 MiB; only its first 500 characters are kept anyway";
            return Err(Refused::new(StatusCode::PAYLOAD_TOO_LARGE, why));
        }
        let room = LOOKED_AT.saturating_sub(kept.len());
        kept.extend_from_slice(&data[..data.len().min(room)]);
    }
    Ok(kept)
}

fn one_line(bytes: &[u8]) -> String {
    let shown = |c: char| if c.is_control() { ' ' } else { c };
    let text: String = String::from_utf8_lossy(bytes)
        .trim()
        .chars()
        .map(shown)
        .take(MAX_MESSAGE)
        .collect();
    text.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_words_or_exit_codes() {
        assert_eq!(Form::of("0"), Some(Form::Success));
        assert_eq!(Form::of("255"), Some(Form::Fail(Some(255))));
        for unknown in ["256", "-1", "", "Fail", "stop/", "1e1"] {
            assert_eq!(Form::of(unknown), None, "{unknown:?}");
        }
    }

    #[test]
    fn a_message_is_one_bounded_line() {
        assert_eq!(
            one_line(b"  rows: 12\n\x1b[31mdone\xff  "),
            "rows: 12  [31mdone\u{fffd}"
        );
        assert_eq!(
            one_line("ü".repeat(2_000).as_bytes()).chars().count(),
            MAX_MESSAGE
        );
    }
}
