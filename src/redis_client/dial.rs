//! The seam between the links and what they connect to: a Redis server, or the broker inside this process.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;

use tokio::io::{AsyncRead, AsyncWrite};

use crate::secret::Secret;

/// A connection's bytes, both ways: a socket, TLS over one, or a `tokio::io::duplex`.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

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
