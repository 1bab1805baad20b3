//! One connection to a Redis, for commands that only look: get in, ask, and say in words what failed.

use std::time::Duration;

use crate::engine::event::LinkStatus;
use crate::redis_client;
use crate::redis_client::Endpoint;
use crate::redis_client::connection::Connection;
use crate::redis_client::dial::Dial;
use crate::redis_client::failure::{Failure, Loss, printable};
use crate::redis_client::greeting::greet;
use crate::redis_client::resp::Value;

/// Bound on connecting, and on each question.
pub(super) const PATIENCE: Duration = Duration::from_secs(3);

/// In as `name`.
pub(super) async fn connect(endpoint: &Endpoint, name: &str) -> Result<Connection, Failure> {
    let redis = redis_client::Redis::new(endpoint.clone());
    let getting_in = async {
        let io = redis
            .dial()
            .await
            .map_err(|error| Failure::down(Loss::Connect, error.to_string()))?;
        let mut connection = Connection::new(io, PATIENCE);
        greet(&mut connection, &redis.login(), name).await?;
        Ok(connection)
    };
    tokio::time::timeout(PATIENCE, getting_in)
        .await
        .unwrap_or_else(late)
}

/// The answer as `read` understands it; the inner error is the server's own, or that it cannot be understood.
pub(super) async fn ask<T>(
    connection: &mut Connection,
    words: &[&[u8]],
    read: impl Fn(&Value<'_>) -> Option<T>,
) -> Result<Result<T, String>, Failure> {
    connection.queue(words);
    connection.flush().await?;
    // A subscription is confirmed by a push, in RESP3.
    let answer = connection.await_value(|value| {
        Some(match value {
            Value::Error(error) => Err(printable(error)),
            Value::Oversized(bytes) => Err(format!("{bytes} bytes, which is too long to be read")),
            value => read(value).ok_or_else(|| "an answer of another kind".to_owned()),
        })
    });
    tokio::time::timeout(PATIENCE, answer).await.unwrap_or_else(late)
}

fn late<T>(_: tokio::time::error::Elapsed) -> Result<T, Failure> {
    Err(Failure::down(
        Loss::Silent,
        format!("no answer within {PATIENCE:?}"),
    ))
}

pub(super) fn words(failure: Failure) -> String {
    match failure.into_status() {
        LinkStatus::Refused { cure: text } | LinkStatus::Down { reason: text } => text,
        LinkStatus::Up { .. } => String::new(),
    }
}
