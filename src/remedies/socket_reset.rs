//! The `socket_reset` remedy: ends exactly the connections that a check condemned, in the kernel (`SOCK_DESTROY`).
//! The kernel compares the cookie in the same call, so that no later connection can be hit.

use std::fmt::Write as _;
use std::time::Duration;

use super::fence::Found;
use super::{Passed, not_acted};
use crate::condemned::Connection;
use crate::engine::decision::Grant;
use crate::engine::event::RemedyOutcome;
use crate::sock_diag::{Destroyed, destroy};

/// Bound on the calls; each takes microseconds.
const PATIENCE: Duration = Duration::from_secs(2);
/// Connections that are named in the outcome.
const NAMED: usize = 3;

pub(super) async fn reset(found: &Found, grant: &Grant, passed: Passed<'_>) -> RemedyOutcome {
    if matches!(found, Found::Ended) {
        return not_acted("already gone, and its connections with it");
    }
    let mut condemned = passed.executors.condemned.of(grant.peer, &grant.incarnation);
    condemned.retain(|connection| connection.cause == grant.cause);
    if condemned.is_empty() {
        return not_acted("no connection of it is condemned right now: there is none to reset");
    }
    passed.act();
    let calls = tokio::task::spawn_blocking(move || reset_all(condemned));
    match tokio::time::timeout(PATIENCE, calls).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(error)) => RemedyOutcome::Failed {
            detail: format!("resetting its connections failed: {error}"),
        },
        Err(_) => RemedyOutcome::Failed {
            detail: format!("resetting its connections has not ended within {PATIENCE:?}"),
        },
    }
}

fn reset_all(condemned: Vec<Connection>) -> RemedyOutcome {
    let (mut done, mut gone, mut failed) = (Vec::new(), 0, None);
    for connection in condemned {
        match destroy(&connection.socket) {
            Ok(Destroyed::Yes) => done.push(format!("{} ({})", connection.socket, connection.because)),
            Ok(Destroyed::Gone) => gone += 1,
            Err(error) => failed = Some(error.to_string()),
        }
    }
    match (done.len(), failed) {
        (0, None) => RemedyOutcome::Fenced {
            detail: format!("{gone} condemned and none of them is there any more"),
        },
        (0, Some(error)) => not_acted(&error),
        (count, failed) => {
            let more = count.saturating_sub(NAMED);
            done.truncate(NAMED);
            let mut detail = format!("{count} reset: {}", done.join(", "));
            if more > 0 {
                let _ = write!(detail, " and {more} more");
            }
            match failed {
                None => RemedyOutcome::Acted { detail },
                Some(error) => RemedyOutcome::Failed {
                    detail: format!("{detail}; then: {error}"),
                },
            }
        }
    }
}
