//! A TCP connection that can rest. The runtime's readiness is edge-triggered: each segment that arrives wakes the
//! process, whether anybody waits for it or not. While a connection rests the runtime does not know it, and what
//! arrives lies in the kernel until it is read from, or written to, again.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::dial::{Ends, Stream, canonical};

#[derive(Debug)]
pub(super) struct Tcp(State);

#[derive(Debug)]
enum State {
    Awake(TcpStream),
    Resting(std::net::TcpStream),
    /// The runtime would not let go of it, or not take it back.
    Lost,
}

impl Tcp {
    pub(super) const fn new(stream: TcpStream) -> Self {
        Self(State::Awake(stream))
    }

    fn awake(&mut self) -> io::Result<Pin<&mut TcpStream>> {
        if let State::Resting(_) = self.0
            && let State::Resting(stream) = std::mem::replace(&mut self.0, State::Lost)
        {
            self.0 = State::Awake(TcpStream::from_std(stream)?);
        }
        match &mut self.0 {
            State::Awake(stream) => Ok(Pin::new(stream)),
            State::Resting(_) | State::Lost => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

impl Stream for Tcp {
    fn ends(&self) -> Option<Ends> {
        let (local, remote) = match &self.0 {
            State::Awake(stream) => (stream.local_addr().ok()?, stream.peer_addr().ok()?),
            State::Resting(stream) => (stream.local_addr().ok()?, stream.peer_addr().ok()?),
            State::Lost => return None,
        };
        Some(Ends {
            local: canonical(local),
            remote: canonical(remote),
        })
    }

    fn rest(&mut self) {
        self.0 = match std::mem::replace(&mut self.0, State::Lost) {
            State::Awake(stream) => stream.into_std().map_or(State::Lost, State::Resting),
            other => other,
        };
    }
}

impl AsyncRead for Tcp {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.get_mut().awake()?.poll_read(context, into)
    }
}

impl AsyncWrite for Tcp {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().awake()?.poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().awake()?.poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A socket keeps nothing back.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().awake()?.poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn what_comes_while_it_rests_is_there_afterwards() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut far, _) = listener.accept().await.unwrap();
        let mut near = Tcp::new(near);
        let ends = near.ends();
        let mut buffer = [0; 8];

        near.rest();
        assert!(matches!(near.0, State::Resting(_)));
        assert_eq!(near.ends(), ends);
        far.write_all(b"first").await.unwrap();
        assert_eq!(near.read(&mut buffer).await.unwrap(), 5);
        // To be written to wakes it as well, and a second rest is one.
        near.rest();
        near.rest();
        near.write_all(b"second").await.unwrap();
        assert!(matches!(near.0, State::Awake(_)));
        far.read_exact(&mut buffer[..6]).await.unwrap();
        // So does the end of the connection, once it is read.
        near.rest();
        drop(far);
        assert_eq!(near.read(&mut buffer).await.unwrap(), 0);
    }
}
