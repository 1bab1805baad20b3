//! One connection on which a server speaks RESP: what is sent, and what comes back.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::dial::{Ends, Stream};
use super::failure::{Failure, Loss};
use super::resp::{Decoder, Value, command};

/// Bytes out, values in. Dropping it closes the connection.
pub(crate) struct Connection {
    io: Box<dyn Stream>,
    decoder: Decoder,
    out: Vec<u8>,
    /// Bound on one write: a server that takes nothing more is as good as silent.
    patience: Duration,
}

impl Connection {
    pub(crate) fn new(io: Box<dyn Stream>, patience: Duration) -> Self {
        Self {
            io,
            decoder: Decoder::default(),
            out: Vec::new(),
            patience,
        }
    }

    /// The same, taking strings of up to so many bytes.
    pub(crate) fn up_to(self, max_bulk: usize) -> Self {
        Self {
            decoder: Decoder::up_to(max_bulk),
            ..self
        }
    }

    /// The addresses of the TCP connection below, if there is one.
    pub(crate) fn ends(&self) -> Option<Ends> {
        self.io.ends()
    }

    /// Adds a command to what [`Self::flush`] will send.
    pub(crate) fn queue(&mut self, words: &[&[u8]]) {
        command(&mut self.out, words);
    }

    /// Sends what was queued.
    pub(crate) async fn flush(&mut self) -> Result<(), Failure> {
        let (io, out) = (&mut self.io, &self.out);
        let sending = async {
            io.write_all(out).await?;
            io.flush().await
        };
        let sent = tokio::time::timeout(self.patience, sending).await;
        self.out.clear();
        match sent {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(Failure::down(Loss::Io, format!("cannot send: {error}"))),
            Err(_) => Err(Failure::down(
                Loss::Silent,
                format!("the server took nothing for {:?}", self.patience),
            )),
        }
    }

    /// See [`Stream::rest`].
    pub(crate) fn rest(&mut self) {
        self.io.rest();
    }

    /// Waits until more arrived, and says how many bytes. Cancel-safe.
    pub(crate) async fn fill(&mut self) -> Result<usize, Failure> {
        match self.io.read_buf(self.decoder.room()).await {
            Ok(0) => Err(Failure::down(Loss::Closed, "the server closed the connection")),
            Ok(bytes) => Ok(bytes),
            Err(error) => Err(Failure::down(Loss::Io, format!("cannot read: {error}"))),
        }
    }

    /// The next value that has arrived completely.
    pub(crate) fn next(&mut self) -> Result<Option<Value<'_>>, Failure> {
        self.decoder
            .next()
            .map_err(|malformed| Failure::down(Loss::Protocol, format!("the server sent {}", malformed.0)))
    }

    /// Reads on until `wanted` takes a value. Only for the time before anything else can be in flight.
    pub(crate) async fn await_value<T>(
        &mut self,
        mut wanted: impl FnMut(&Value<'_>) -> Option<T>,
    ) -> Result<T, Failure> {
        loop {
            while let Some(value) = self.next()? {
                if let Some(taken) = wanted(&value) {
                    return Ok(taken);
                }
            }
            self.fill().await?;
        }
    }

    /// Sends one command and reads its answer.
    pub(crate) async fn ask<T>(
        &mut self,
        words: &[&[u8]],
        read: impl Fn(&Value<'_>) -> T,
    ) -> Result<T, Failure> {
        self.queue(words);
        self.flush().await?;
        self.await_value(|value| (!matches!(value, Value::Push(_))).then(|| read(value)))
            .await
    }

    /// Closes in good order; what cannot be sent within the patience is lost.
    pub(crate) async fn close(mut self) {
        let _ = tokio::time::timeout(self.patience, self.io.shutdown()).await;
    }
}
