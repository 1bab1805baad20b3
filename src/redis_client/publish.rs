//! One PUBLISH, for `defib beat --publish`.

use std::time::Duration;

use super::connection::Connection;
use super::dial::Dial;
use super::failure::{Asked, Failure, Loss, judge};
use super::greeting::greet;
use super::resp::Value;
use super::{Endpoint, Redis};
use crate::engine::event::{LinkStatus, Role};

/// Publishes `body` once, all within `within`; how many received it, as the server counts.
///
/// # Errors
/// In words, without secrets, with what to do: it cannot be reached, refuses, or is a replica.
pub async fn publish(
    endpoint: &Endpoint,
    channel: &str,
    body: &[u8],
    within: Duration,
) -> Result<i64, String> {
    let redis = Redis::new(endpoint.clone());
    let place = redis.place();
    let asked = tokio::time::timeout(within, ask(&redis, channel, body, within));
    match asked.await {
        Ok(Ok(Some(receivers))) => Ok(receivers),
        Ok(Ok(None)) => Err(format!(
            "{place} is a replica: what is published there reaches nobody at its master"
        )),
        Ok(Err(failure)) => Err(match failure.into_status() {
            LinkStatus::Refused { cure: text } | LinkStatus::Down { reason: text } => {
                format!("{place}: {text}")
            }
            LinkStatus::Up { .. } => place,
        }),
        Err(_) => Err(format!("{place}: no answer within {within:?}")),
    }
}

async fn ask(redis: &Redis, channel: &str, body: &[u8], within: Duration) -> Result<Option<i64>, Failure> {
    let login = redis.login();
    let io = redis
        .dial()
        .await
        .map_err(|error| Failure::down(Loss::Connect, error.to_string()))?;
    let mut connection = Connection::new(io, within);
    let greeting = greet(&mut connection, &login, "defib:beat").await?;
    if greeting.server.role == Role::Replica {
        return Ok(None);
    }
    let words: &[&[u8]] = &[b"PUBLISH", channel.as_bytes(), body];
    let receivers = connection
        .ask(words, |value| match value {
            Value::Integer(receivers) => Ok(*receivers),
            Value::Error(error) => Err(judge(error, Asked::Publish(channel), login.user_name())),
            _ => Err(Failure::down(
                Loss::Connect,
                "the server answered PUBLISH with something else than a number".to_owned(),
            )),
        })
        .await??;
    connection.close().await;
    Ok(Some(receivers))
}
