//! The `http` remedy: one request, then perhaps a wait until its effect is there (a drain).

use std::time::Duration;

use super::{Passed, Remedy, Until};
use crate::engine::event::RemedyOutcome;
use crate::http_client::{Answer, Request, ask, send};

pub(super) async fn run(remedy: &Remedy, passed: Passed<'_>) -> RemedyOutcome {
    let Remedy::Http {
        url,
        method,
        body,
        bearer,
        timeout,
        until,
    } = remedy
    else {
        return RemedyOutcome::NotActed {
            detail: "not an http remedy".to_owned(),
        };
    };
    let request = Request {
        method: method.clone(),
        url: url.clone(),
        body: body.clone(),
        bearer: bearer.clone(),
        headers: Vec::new(),
        timeout: *timeout,
        body_limit: None,
    };
    passed.act();
    let status = match send(&request).await {
        Ok(response) => response.status,
        Err(error) if error.nothing_sent() => {
            return RemedyOutcome::NotActed {
                detail: format!("nothing was sent: {error}"),
            };
        }
        Err(error) => {
            return RemedyOutcome::Failed {
                detail: error.to_string(),
            };
        }
    };
    if !(200..300).contains(&status) {
        return RemedyOutcome::Failed {
            detail: format!("{method} was answered with status {status}"),
        };
    }
    let waited = match until {
        Some(until) => wait(until, *timeout).await,
        None => String::new(),
    };
    RemedyOutcome::Acted {
        detail: format!("{method} was answered with status {status}{waited}"),
    }
}

/// Asks until the answer passes or the deadline has gone by; says which.
async fn wait(until: &Until, timeout: Duration) -> String {
    let mut last = String::from("no answer yet");
    let asking = async {
        loop {
            match ask(&until.check, timeout).await {
                Answer::Pass => return,
                Answer::Fail(why) | Answer::Unknown(why) => last = why,
            }
            tokio::time::sleep(until.interval).await;
        }
    };
    match tokio::time::timeout(until.deadline, asking).await {
        Ok(()) => "; then what it waits for was there".to_owned(),
        Err(_) => format!(
            "; what it waits for was not there within {:?}: {last}",
            until.deadline
        ),
    }
}
