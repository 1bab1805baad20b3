//! Taking the addresses, before anything else starts: a taken port fails the start, with the address and the
//! cure in the message.

use std::io;
use std::net::SocketAddr;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use futures_util::future::OptionFuture;
use tokio_util::sync::CancellationToken;

use super::serve::{Door, Serving};
use super::{AppState, Face, Push, Settings, admin, public};
use crate::secret::{Secret, SecretError};
use crate::socket_file::{self, PlaceError, SocketFile};
use crate::telemetry::metrics::http::Listener;

/// Why the listeners could not be bound.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// A TCP address could not be taken.
    #[error(
        "cannot listen on {address} ([http] {key}): {source}; if another defib runs here, stop it or choose \
         another address with {key} (port 0 takes any free one)"
    )]
    Tcp {
        /// Which.
        address: SocketAddr,
        /// The setting that names it.
        key: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The admin port would be reachable from other machines.
    #[error(
        "[http] admin_listen is {0}: the admin listener changes what the node does and speaks plain HTTP, so it \
         takes loopback addresses only; use 127.0.0.1 or [::1]"
    )]
    NotLoopback(SocketAddr),
    /// The admin port's token cannot be read.
    #[error("the token of [http] admin_listen: {0}")]
    Token(#[from] SecretError),
    /// The admin port's token is empty.
    #[error("the token of [http] admin_listen is empty: anybody on this machine would pass")]
    EmptyToken,
    /// Another process answers on the admin socket.
    #[error("{0} ([http] admin_socket) is in use by a running process: stop it, or choose another path")]
    SocketInUse(PathBuf),
    /// Something that is no socket lies there.
    #[error("{0} ([http] admin_socket) exists and is not a socket: remove it, or choose another path")]
    NotASocket(PathBuf),
    /// The admin socket could not be made.
    #[error(
        "cannot make the admin socket {path} ([http] admin_socket): {source}; choose a path below a directory \
         that this user may write to"
    )]
    Socket {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Listeners that hold their addresses. Dropping it frees them and removes the admin socket's file.
#[derive(Debug)]
#[must_use = "the addresses are freed when this is dropped"]
pub struct Bound {
    public: std::net::TcpListener,
    local_addr: SocketAddr,
    admin_tcp: Option<(std::net::TcpListener, SocketAddr, Secret)>,
    admin_unix: Option<(UnixListener, SocketFile)>,
    max_connections: usize,
    pushes: Vec<Push>,
}

/// Takes all addresses that `settings` names. Waits for nothing.
pub fn bind(settings: &Settings) -> Result<Bound, BindError> {
    let (public, local_addr) = bind_tcp(settings.listen, "listen")?;
    let admin_tcp = match &settings.admin_listen {
        Some((address, token)) => Some(bind_admin_tcp(*address, token)?),
        None => None,
    };
    let admin_unix = settings.admin_socket.as_deref().map(bind_unix).transpose()?;
    Ok(Bound {
        public,
        local_addr,
        admin_tcp,
        admin_unix,
        max_connections: settings.max_connections,
        pushes: settings.pushes.clone(),
    })
}

impl Bound {
    /// Where the public listener really is.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Where the admin listener's port really is, if there is one.
    pub fn admin_addr(&self) -> Option<SocketAddr> {
        self.admin_tcp.as_ref().map(|(_, address, _)| *address)
    }

    /// The admin listener's socket, if there is one.
    pub fn admin_socket(&self) -> Option<&Path> {
        self.admin_unix.as_ref().map(|(_, file)| file.path())
    }

    /// Serves until cancelled; then no new connection is taken, and those that are open have two seconds to
    /// end. Returns early only if a socket cannot be given to tokio.
    pub async fn run(self, state: AppState, cancel: CancellationToken) -> anyhow::Result<()> {
        let metrics = state.metrics.http.clone();
        let face = Face::new(state, self.pushes, cancel.clone());
        let serving = |listener| Serving {
            listener,
            max_connections: self.max_connections,
            metrics: metrics.clone(),
            cancel: cancel.clone(),
        };
        let public_door = Door::Tcp(
            tokio::net::TcpListener::from_std(self.public).context("cannot serve the public listener")?,
        );
        let public = serving(Listener::Public).run(public_door, public::router(Arc::clone(&face)));
        let admin_tcp = match self.admin_tcp {
            Some((listener, _, token)) => {
                let listener = tokio::net::TcpListener::from_std(listener)
                    .context("cannot serve the admin listener's port")?;
                let router = admin::router(Arc::clone(&face), Some(token));
                Some(serving(Listener::AdminTcp).run(Door::Tcp(listener), router))
            }
            None => None,
        };
        let admin_unix = match self.admin_unix {
            Some((listener, file)) => {
                let listener = tokio::net::UnixListener::from_std(listener)
                    .context("cannot serve the admin listener's socket")?;
                let router = admin::router(face, None);
                Some(serving(Listener::AdminUnix).run(Door::Unix(listener, file), router))
            }
            None => None,
        };
        tokio::join!(
            public,
            OptionFuture::from(admin_tcp),
            OptionFuture::from(admin_unix)
        );
        Ok(())
    }
}

fn bind_tcp(
    address: SocketAddr,
    key: &'static str,
) -> Result<(std::net::TcpListener, SocketAddr), BindError> {
    let failed = |source| BindError::Tcp { address, key, source };
    let listener = std::net::TcpListener::bind(address).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

fn bind_admin_tcp(
    address: SocketAddr,
    token: &Secret,
) -> Result<(std::net::TcpListener, SocketAddr, Secret), BindError> {
    if !address.ip().is_loopback() {
        return Err(BindError::NotLoopback(address));
    }
    if token.reveal()?.is_empty() {
        return Err(BindError::EmptyToken);
    }
    let (listener, bound) = bind_tcp(address, "admin_listen")?;
    Ok((listener, bound, token.clone()))
}

fn bind_unix(path: &Path) -> Result<(UnixListener, SocketFile), BindError> {
    let bind = |path: &Path| {
        let listener = UnixListener::bind(path)?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    socket_file::place(path, socket2::Type::STREAM, 0o660, 0o750, bind).map_err(|error| {
        let path = path.to_owned();
        match error {
            PlaceError::InUse => BindError::SocketInUse(path),
            PlaceError::NotASocket => BindError::NotASocket(path),
            PlaceError::Io(source) => BindError::Socket { path, source },
        }
    })
}
