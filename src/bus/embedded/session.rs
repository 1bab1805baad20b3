//! One connection: bytes in, requests to the hub, the hub's bytes out. Ends with its socket, by the hub's word, or
//! with the broker.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::Notify;
use tokio_util::codec::FramedRead;
use tokio_util::sync::CancellationToken;

use super::commands;
use super::hub::{ClientId, Ending, Origin, SharedHub};
use super::wire::{self, Requests, Violation};
use crate::telemetry::metrics::broker::Closed;

/// Requests are not read while this much waits to be written: whoever does not read replies gets no more of them.
const HIGH_WATER: usize = 16 * 1024;
/// Requests of one client in a row, a large one counted once for each KiB. A pipelined burst of PUBLISH must not
/// fill the queues of subscribers whose sessions, on the same thread, had no turn to empty them.
const TURN: usize = 64;
/// How long the last words to a client may take.
const FLUSH: Duration = Duration::from_millis(500);

/// A place in the hub, given back on every path, a panic and an abort among them.
#[derive(Debug)]
pub(super) struct Session {
    hub: SharedHub,
    id: ClientId,
    wake: Arc<Notify>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.hub.lock().remove(self.id);
    }
}

impl Session {
    /// Takes a place; `None` if the broker is full.
    pub(super) fn admit(hub: &SharedHub, origin: Origin) -> Option<Self> {
        let (id, wake) = hub.lock().admit(origin)?;
        Some(Self {
            hub: hub.clone(),
            id,
            wake,
        })
    }

    /// Serves `stream` until it ends, is to end, or `cancel`.
    pub(super) async fn serve<S>(self, stream: S, cancel: CancellationToken)
    where
        S: AsyncRead + AsyncWrite,
    {
        let (read, mut write) = tokio::io::split(stream);
        let limits = self.hub.lock().limits.clone();
        let codec = Requests {
            request_bytes: limits.request_bytes,
            arguments: limits.arguments,
        };
        let mut requests = FramedRead::new(read, codec);
        let mut out = BytesMut::new();
        let ending = self.exchange(&mut requests, &mut write, &mut out, &cancel).await;
        if ending == Ending::Flush {
            // A client that does not read its last words loses them.
            let _ = tokio::time::timeout(FLUSH, self.flush(&mut write, &mut out)).await;
        }
    }

    async fn exchange<S>(
        &self,
        requests: &mut FramedRead<ReadHalf<S>, Requests>,
        write: &mut WriteHalf<S>,
        out: &mut BytesMut,
        cancel: &CancellationToken,
    ) -> Ending
    where
        S: AsyncRead + AsyncWrite,
    {
        let mut turn = 0;
        loop {
            let ending = self.hub.lock().drain(self.id, out, HIGH_WATER);
            if let Some(ending) = ending {
                return ending;
            }
            tokio::select! {
                biased;
                () = cancel.cancelled() => self.end(Ending::Flush, Closed::Shutdown),
                request = requests.next(), if out.len() < HIGH_WATER => turn += self.request(request),
                written = write.write_buf(out), if !out.is_empty() => match written {
                    Ok(1..) => shrink(out),
                    Ok(0) | Err(_) => return Ending::Now,
                },
                () = self.wake.notified() => {}
            }
            if turn >= TURN {
                turn = 0;
                tokio::task::yield_now().await;
            }
        }
    }

    /// Returns how much of the client's turn it took.
    fn request(&self, request: Option<Result<Vec<Bytes>, Violation>>) -> usize {
        match request {
            Some(Ok(request)) => {
                commands::execute(&mut self.hub.lock(), self.id, &request);
                return 1 + request.iter().map(Bytes::len).sum::<usize>() / 1024;
            }
            // A client that shut down only its own direction still gets its replies, as from Redis.
            Some(Err(Violation::Io(_))) | None => self.end(Ending::Flush, Closed::Client),
            Some(Err(violation)) => {
                // Counted; not a warning, or whoever sends garbage could fill the log.
                tracing::debug!(
                    client = self.id,
                    "closed a connection to the embedded broker: {violation}"
                );
                self.end(Ending::Flush, Closed::ProtocolError);
                self.hub
                    .lock()
                    .reply(self.id, wire::error(&violation.to_string()));
            }
        }
        0
    }

    fn end(&self, ending: Ending, reason: Closed) {
        self.hub.lock().end(self.id, ending, reason);
    }

    async fn flush<S>(&self, write: &mut WriteHalf<S>, out: &mut BytesMut) -> std::io::Result<()>
    where
        S: AsyncWrite,
    {
        loop {
            self.hub.lock().drain(self.id, out, HIGH_WATER);
            if out.is_empty() {
                return write.shutdown().await;
            }
            write.write_all_buf(out).await?;
        }
    }
}

/// One large message must not leave its buffer with the connection for ever.
fn shrink(out: &mut BytesMut) {
    if out.is_empty() && out.capacity() > 4 * HIGH_WATER {
        *out = BytesMut::new();
    }
}
