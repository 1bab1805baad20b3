//! A subscription of our own to the declared channels, for as long as a comparison needs it: what does Redis deliver
//! there at this moment? It counts and keeps nothing.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio_util::task::AbortOnDropHandle;

use super::judge::Heard;
use crate::redis_client::Server;
use crate::redis_client::connection::Connection;
use crate::redis_client::dial::Dial;
use crate::redis_client::failure::{Failure, Loss};
use crate::redis_client::greeting::{greet, subscribe};
use crate::redis_client::resp::Value;

/// Ends with its handle.
#[derive(Debug)]
pub(super) struct Ear {
    number: u64,
    counts: Arc<Counts>,
    task: AbortOnDropHandle<()>,
}

#[derive(Debug, Default)]
struct Counts {
    subscribed: AtomicBool,
    messages: AtomicU64,
    bytes: AtomicU64,
    /// Why it ended.
    failed: OnceLock<String>,
}

impl Ear {
    /// Begins to listen. `within`: bound on connecting, and on each write.
    pub(super) fn open(number: u64, server: &Server, channels: Vec<Arc<str>>, within: Duration) -> Self {
        let (dial, name) = (Arc::clone(&server.dial), server.connection("ear"));
        let counts = Arc::<Counts>::default();
        let told = Arc::clone(&counts);
        let task = AbortOnDropHandle::new(tokio::spawn(async move {
            if let Err(failure) = listen(&*dial, &name, &channels, within, &told).await {
                let _ = told.failed.set(failure.into_text());
            }
        }));
        Self { number, counts, task }
    }

    /// `None` until Redis has confirmed the subscription.
    pub(super) fn heard(&self) -> Option<Heard> {
        let counts = &self.counts;
        let subscribed = counts.subscribed.load(Ordering::Acquire) && !self.is_over();
        subscribed.then(|| Heard {
            subscription: self.number,
            messages: counts.messages.load(Ordering::Relaxed),
            bytes: counts.bytes.load(Ordering::Relaxed),
        })
    }

    pub(super) fn is_over(&self) -> bool {
        self.task.is_finished()
    }

    /// Why it ended, if it did.
    pub(super) fn failure(&self) -> Option<String> {
        self.counts.failed.get().cloned()
    }
}

async fn listen(
    dial: &dyn Dial,
    name: &str,
    channels: &[Arc<str>],
    within: Duration,
    counts: &Counts,
) -> Result<(), Failure> {
    let connecting = async {
        let io = dial.dial().await;
        let io = io.map_err(|error| Failure::down(Loss::Connect, error.to_string()))?;
        let mut connection = Connection::new(io, within);
        let login = dial.login();
        greet(&mut connection, &login, name).await?;
        subscribe(&mut connection, channels, &login).await?;
        Ok(connection)
    };
    let mut connection = tokio::time::timeout(within, connecting)
        .await
        .map_err(|_| Failure::down(Loss::Silent, format!("no subscription within {within:?}")))??;
    counts.subscribed.store(true, Ordering::Release);
    loop {
        while let Some(value) = connection.next()? {
            if let Some(length) = message(&value) {
                counts.bytes.fetch_add(length, Ordering::Relaxed);
                counts.messages.fetch_add(1, Ordering::Relaxed);
            }
        }
        connection.fill().await?;
    }
}

/// The length of a message as Redis sent it, if it is one.
fn message(value: &Value<'_>) -> Option<u64> {
    let (Value::Push(items) | Value::List(items)) = value else {
        return None;
    };
    let [kind, channel, body] = &items[..] else {
        return None;
    };
    let body = match body {
        Value::Oversized(length) => *length,
        body => body.text()?.len(),
    };
    let lengths = [kind.text()?.len(), channel.text()?.len(), body];
    (kind.text() == Some(b"message")).then(|| {
        let framed = lengths.map(|length| format!("${length}\r\n\r\n").len() + length);
        framed.iter().sum::<usize>() as u64 + "*3\r\n".len() as u64
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redis_client::resp::command;

    #[test]
    fn a_message_counts_as_long_as_it_is_on_the_wire() {
        for length in [0, 9, 10, 150, 4096] {
            let body = vec![b'x'; length];
            let mut wire = Vec::new();
            command(&mut wire, &[b"message", b"can_messages", &body]);
            let parts = || {
                vec![
                    Value::Bulk(b"message"),
                    Value::Bulk(b"can_messages"),
                    Value::Bulk(&body),
                ]
            };
            assert_eq!(message(&Value::Push(parts())), Some(wire.len() as u64));
            assert_eq!(message(&Value::List(parts())), Some(wire.len() as u64));
        }
        let other = Value::Push(vec![
            Value::Bulk(b"subscribe"),
            Value::Bulk(b"c"),
            Value::Bulk(b"1"),
        ]);
        assert_eq!(message(&other), None);
        assert_eq!(message(&Value::Null), None);
    }
}
