//! One question to a server, for `defib probe redis`.

use std::time::Duration;

use super::connection::Connection;
use super::dial::Dial;
use super::failure::{Asked, Failure, Loss, judge};
use super::greeting::greet;
use super::resp::Value;
use super::{Endpoint, Redis};
use crate::engine::event::{LinkStatus, Role};

/// What a server answered, in one line without secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probed {
    /// It can carry heartbeats.
    Serves(String),
    /// It answers, and is no place to publish.
    Replica(String),
    /// What failed, and what to do.
    Failed(String),
}

/// Connects, gets in, and asks for a PONG and the role, all within `within`.
pub async fn probe(endpoint: &Endpoint, within: Duration) -> Probed {
    let redis = Redis::new(endpoint.clone());
    let place = redis.place();
    match tokio::time::timeout(within, ask(&redis, within)).await {
        Ok(Ok(Role::Master)) => Probed::Serves(format!("{place} answers; it is a master")),
        Ok(Ok(Role::Unknown)) => Probed::Serves(format!("{place} answers; it does not tell its role")),
        Ok(Ok(Role::Replica)) => Probed::Replica(format!(
            "{place} answers, but is a replica: what is published there reaches nobody at its master"
        )),
        Ok(Err(failure)) => Probed::Failed(match failure.into_status() {
            LinkStatus::Refused { cure: text } | LinkStatus::Down { reason: text } => {
                format!("{place}: {text}")
            }
            LinkStatus::Up { .. } => place,
        }),
        Err(_) => Probed::Failed(format!("{place}: no answer within {within:?}")),
    }
}

async fn ask(redis: &Redis, within: Duration) -> Result<Role, Failure> {
    let login = redis.login();
    let io = redis
        .dial()
        .await
        .map_err(|error| Failure::down(Loss::Connect, error.to_string()))?;
    let mut connection = Connection::new(io, within);
    let greeting = greet(&mut connection, &login, "defib:probe").await?;
    connection
        .ask(&[b"PING"], |value| match value {
            Value::Error(error) => Err(judge(error, Asked::Ping, login.user_name())),
            _ => Ok(()),
        })
        .await??;
    connection.close().await;
    Ok(greeting.server.role)
}
