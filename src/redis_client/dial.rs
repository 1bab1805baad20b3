//! The seam between the links and what they connect to: a Redis server, or the broker inside this process.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};
use tokio::net::UnixStream;
use tokio_rustls::client::TlsStream;

use super::tcp::Tcp;
use crate::secret::Secret;

/// A connection's bytes, both ways: a socket, TLS over one, or a `tokio::io::duplex`.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {
    /// Both ends of the TCP connection below it, as this machine has them; `None` where there is none.
    fn ends(&self) -> Option<Ends> {
        None
    }

    /// Lets nothing that arrives wake this process, until it is read from or written to. Default: it goes on waking.
    fn rest(&mut self) {}
}

/// A TCP connection's addresses. IPv4 in IPv6 is written as IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// Ours.
    pub local: SocketAddr,
    /// The server's.
    pub remote: SocketAddr,
}

impl Stream for TlsStream<Tcp> {
    fn ends(&self) -> Option<Ends> {
        self.get_ref().0.ends()
    }

    fn rest(&mut self) {
        self.get_mut().0.rest();
    }
}

impl Stream for UnixStream {}

impl Stream for DuplexStream {}

/// The same address without IPv6 around IPv4: as Redis writes it in `CLIENT LIST`, and `sock_diag` here.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// A connection in the making. The caller bounds its time.
pub type Dialing<'a> = Pin<Box<dyn Future<Output = io::Result<Box<dyn Stream>>> + Send + 'a>>;

/// Makes connections on which a server speaks RESP.
pub trait Dial: Send + Sync + fmt::Debug + 'static {
    /// Makes one new connection; resolves names anew.
    fn dial(&self) -> Dialing<'_>;

    /// How to get in. Default: nothing is asked for.
    fn login(&self) -> Login {
        Login::default()
    }

    /// The database whose keys are meant; pub/sub knows none.
    fn db(&self) -> u32 {
        0
    }

    /// The TCP port at which clients reach it; `None` where they come another way.
    fn port(&self) -> Option<u16> {
        None
    }

    /// What is connected to, in words and without secrets: `redis://10.0.0.1:6379`, "the embedded bus".
    fn place(&self) -> String;
}

/// How to get in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Login {
    /// ACL user; `None`: `default`.
    pub user: Option<String>,
    /// `None`: no AUTH is sent.
    pub password: Option<Secret>,
}

impl Login {
    /// The user's name, as ACL rules write it.
    pub fn user_name(&self) -> &str {
        self.user.as_deref().unwrap_or("default")
    }
}
