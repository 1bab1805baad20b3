//! The `exec` remedy: a command without a shell (see [`crate::command`]).

use std::time::Duration;

use super::Passed;
use crate::command::{Ended, Prepared};
use crate::engine::decision::Grant;
use crate::engine::event::RemedyOutcome;

pub(super) async fn run(
    argv: &[String],
    limit: Duration,
    grant: &Grant,
    scrub: &[String],
    passed: Passed<'_>,
) -> RemedyOutcome {
    let Some(program) = argv.first() else {
        return not_acted("the command is empty".to_owned());
    };
    let command = prepare(argv, grant, scrub);
    let metrics = passed.executors.metrics.clone();
    let peer = &*grant.name;
    passed.act();
    let running = command.run(limit, |stream, line| {
        tracing::info!(peer, stream = stream.as_str(), "{line}");
    });
    match running.await {
        Ok(ran) => {
            metrics.dropped(ran.dropped);
            told(program, limit, ran.ended, &ran.last)
        }
        Err(error) => not_acted(format!("cannot start {program}: {error}")),
    }
}

fn prepare(argv: &[String], grant: &Grant, scrub: &[String]) -> Prepared {
    let (token, attempt) = (grant.token.to_string(), grant.attempt.to_string());
    Prepared::new(argv, &environment(grant, &token, &attempt), scrub)
}

/// What a command is told of its grant.
pub(super) fn environment<'g>(
    grant: &'g Grant,
    token: &'g str,
    attempt: &'g str,
) -> [(&'static str, &'g str); 5] {
    [
        ("DEFIB_PEER", &*grant.name),
        ("DEFIB_CAUSE", grant.cause.as_str()),
        ("DEFIB_INCARNATION", &*grant.incarnation.0),
        ("DEFIB_FENCING_TOKEN", token),
        ("DEFIB_ATTEMPT", attempt),
    ]
}

fn told(program: &str, limit: Duration, ended: Ended, last: &str) -> RemedyOutcome {
    let said = if last.is_empty() {
        String::new()
    } else {
        format!("; it said last: {last}")
    };
    let detail = match ended {
        Ended::Itself(status) if status.success() => {
            return RemedyOutcome::Acted {
                detail: format!("{program} ended with status 0"),
            };
        }
        Ended::Itself(status) => format!("{program} ended with {status}{said}"),
        Ended::Killed => format!("{program} did not end within {limit:?}: its process group was ended{said}"),
        Ended::Unkillable(_) => {
            format!("{program} did not end within {limit:?}, and SIGKILL does not end it either")
        }
        Ended::Lost(error) => format!("{program} was started and could not be waited for: {error}"),
    };
    RemedyOutcome::Failed { detail }
}

fn not_acted(detail: String) -> RemedyOutcome {
    RemedyOutcome::NotActed { detail }
}
