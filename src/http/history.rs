//! `/api/v1/history`: what acted and what forbade, from the audit on disk. Read on another thread, a few at a time.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{Response, StatusCode};
use serde::Deserialize;

use super::public::{self, Refused};
use super::{Face, View};
use crate::audit::{self, Asked};

/// Records of an answer, unless fewer are asked for.
const USUAL: usize = 100;
/// And at most.
const MAX: usize = 500;
/// Who asks reads the disk: so many at a time.
pub(super) const READERS: usize = 2;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Question {
    peer: Option<String>,
    since: Option<String>,
    limit: Option<usize>,
}

type Asking = Result<Query<Question>, QueryRejection>;

pub(super) async fn history(
    State(face): State<Arc<Face>>,
    asking: Asking,
) -> Result<Response<Body>, Refused> {
    let bad = |why: String| Refused::new(StatusCode::BAD_REQUEST, why);
    let Query(question) = asking.map_err(|rejection| bad(rejection.body_text()))?;
    let asked = question
        .understood(&face.view(), face.app.clock.wall())
        .map_err(bad)?;
    let Some(path) = face.app.history.clone() else {
        let why = "this node keeps no audit: [audit] path is \"none\", or its configuration is invalid";
        return Err(Refused::new(StatusCode::NOT_FOUND, why));
    };
    let Ok(slot) = Arc::clone(&face.history_slots).try_acquire_owned() else {
        let why = "others are reading the history at this moment; ask again";
        return Err(Refused::new(StatusCode::SERVICE_UNAVAILABLE, why));
    };
    let read = tokio::task::spawn_blocking(move || {
        let _slot = slot;
        audit::read(&path, &asked).map_err(|error| format!("cannot read {}: {error}", path.display()))
    });
    match read.await {
        Ok(Ok(page)) => Ok(public::json(StatusCode::OK, &page)),
        Ok(Err(why)) => Err(Refused::new(StatusCode::SERVICE_UNAVAILABLE, why)),
        Err(panicked) => {
            tracing::error!(%panicked, "reading the history failed: a fault of defib, please report it");
            let why = "reading the history failed; see the log";
            Err(Refused::new(StatusCode::INTERNAL_SERVER_ERROR, why))
        }
    }
}

impl Question {
    fn understood(self, view: &View, wall: Duration) -> Result<Asked, String> {
        let peer = match self.peer.filter(|name| !name.is_empty()) {
            // (One that was configured before may be asked for: its name is one, at least.)
            Some(name) if name.len() > 63 => return Err(view.nobody(&name)),
            peer => peer,
        };
        let since = self
            .since
            .map(|text| {
                humantime::parse_duration(&text)
                    .map(|ago| wall.saturating_sub(ago))
                    .map_err(|_| "`since` is a time with its unit, as in 30m, 2h or 7d".to_owned())
            })
            .transpose()?;
        match self.limit.unwrap_or(USUAL) {
            limit @ 1..=MAX => Ok(Asked { peer, since, limit }),
            _ => Err(format!("`limit` is from 1 to {MAX}")),
        }
    }
}
