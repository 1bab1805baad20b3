//! `POST /api/v1/restart/{peer}` on the admin listener: an operator's restart, through every guard. The guards' answer
//! is this one's; what comes of the restart is told by the events.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::{Response, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::broadcast::error::RecvError;
use tokio::time::timeout;

use super::Face;
use super::admin::{bad, body, parsed_or_default, reason};
use super::explain::ahead;
use super::public::{self, Refused};
use super::serve::Caller;
use crate::engine::decision::{Notice, What};
use crate::engine::event::{OperatorRequest, Restart, Which};
use crate::engine::settings::RemedyKind;
use crate::engine::time::Time;

/// The guards have answered within this: two of them ask the outside.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    /// A kind of the ladder's remedies.
    remedy: Option<RemedyKind>,
    /// A place in the ladder, from 0.
    rung: Option<u16>,
    /// Why the guards that yield should.
    force: Option<String>,
}

pub(super) async fn restart(
    State(face): State<Arc<Face>>,
    Extension(caller): Extension<Caller>,
    peer: Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<Response<Body>, Refused> {
    let asked: Asked = parsed_or_default(&body(request).await?)?;
    let Path(name) = peer.map_err(|rejection| bad(&rejection.body_text()))?;
    let rung = match (asked.remedy, asked.rung) {
        (None, None) => Which::First,
        (Some(kind), None) => Which::Kind(kind),
        (None, Some(rung)) => Which::At(rung),
        (Some(_), Some(_)) => return Err(bad("`remedy` and `rung` name the same: give one of them")),
    };
    let force = asked
        .force
        .as_deref()
        .map(|why| reason("force", why))
        .transpose()?;
    let number = face.requests.fetch_add(1, Ordering::Relaxed);
    let restart = Restart {
        peer: face.configured_peer(&name)?,
        rung,
        force,
        number,
    };
    // From before it is asked for: no answer is missed.
    let mut notices = face.app.notices.subscribe();
    face.hand_over(OperatorRequest::Restart(restart), "restart", caller)
        .await?;
    let answer = async {
        loop {
            match notices.recv().await {
                Ok(notice) if is_answer(&notice, number) => return Some(notice),
                Ok(_) => {}
                Err(RecvError::Lagged(_)) => {
                    if let Some(notice) = face.app.recent.find(|notice| is_answer(notice, number)) {
                        return Some(notice);
                    }
                }
                Err(RecvError::Closed) => return None,
            }
        }
    };
    match timeout(ANSWER_TIMEOUT, answer).await {
        Ok(Some(notice)) => Ok(answered(&notice, face.now())),
        Ok(None) => {
            let why = "the event loop has ended: the node shuts down";
            Err(Refused::new(StatusCode::SERVICE_UNAVAILABLE, why))
        }
        Err(_) => {
            let why = format!(
                "the guards have not all answered within 15 s: what comes of it is in `defib history {name}`"
            );
            Err(Refused::new(StatusCode::GATEWAY_TIMEOUT, why))
        }
    }
}

fn is_answer(notice: &Notice, wanted: u64) -> bool {
    matches!(&notice.what, What::Restart { number, .. } if *number == wanted)
}

fn answered(notice: &Notice, now: Time) -> Response<Body> {
    let What::Restart {
        kind,
        outcome,
        episode,
        refusal,
        detail,
        within_ms,
        ..
    } = &notice.what
    else {
        return public::refusal(StatusCode::INTERNAL_SERVER_ERROR, "a fault of defib");
    };
    if *outcome == "granted" {
        let said = json!({
            "outcome": outcome,
            "remedy": kind,
            "episode": episode,
            "within_ms": within_ms,
            "n": notice.n,
        });
        return public::json(StatusCode::OK, &said);
    }
    let mut said = json!({ "outcome": outcome, "error": format!("{outcome}: {detail}") });
    if let Some(refusal) = refusal {
        let guard = refusal.guard.as_str();
        let until = refusal.until.filter(|until| *until < Time::MAX);
        let when = match until {
            Some(until) => format!("could change {}", ahead(until, now)),
            None => "changes only when something happens".to_owned(),
        };
        let yields = if refusal.guard.yields_to_force() {
            "; --force REASON passes it"
        } else {
            "; --force does not pass it"
        };
        said["error"] = format!("refused by {guard}: {detail} ({when}){yields}").into();
        said["guard"] = guard.into();
        said["until_ms"] = until.map_or(Value::Null, |until| {
            u64::try_from(until.since(now).as_millis())
                .unwrap_or(u64::MAX)
                .into()
        });
    }
    public::json(StatusCode::CONFLICT, &said)
}
