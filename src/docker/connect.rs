//! Connections to the engine: a Unix socket, TCP, or TLS with certificates on both sides. What an answer may cost is
//! bounded here, below bollard, which collects bodies whole.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bollard::{BollardRequest, ClientVersion};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Fuse};
use hyper::client::conn::http1;
use hyper::header::{HOST, HeaderValue};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{Mutex, Notify};
use tokio_rustls::TlsConnector;

/// Most bytes of an answer's head.
const MAX_HEAD: usize = 16 * 1024;
/// bollard's own bound on a request, in seconds. Ours are shorter.
const NEVER: u64 = 24 * 3600;

/// Where the engine listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// A Unix socket.
    Unix(PathBuf),
    /// TCP without protection.
    Tcp {
        /// Name or address.
        host: String,
        /// Port; 2375 by custom.
        port: u16,
    },
    /// TLS.
    Tls {
        /// Name or address, which must be in the engine's certificate.
        host: String,
        /// Port; 2376 by custom.
        port: u16,
        /// PEM file of the CA that signed the engine's certificate.
        ca: PathBuf,
        /// Our own certificate.
        identity: Option<Identity>,
    },
}

/// A certificate and its key, as PEM files. Read anew for each connection: they may be replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The certificate, and what leads from it to the CA.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// Not an address of an engine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no address of a Docker engine: write unix:///var/run/docker.sock or tcp://host:2376")]
pub struct HostError(String);

impl Host {
    /// Reads `unix:///path` or `tcp://host:port`, as in `DOCKER_HOST`. TLS is made of `tcp` by whoever has the files.
    ///
    /// # Errors
    /// If it is neither, or has no port.
    pub fn parse(text: &str) -> Result<Self, HostError> {
        let wrong = || HostError(text.chars().take(100).collect());
        if let Some(path) = text.strip_prefix("unix://") {
            return if path.starts_with('/') {
                Ok(Self::Unix(path.into()))
            } else {
                Err(wrong())
            };
        }
        let (host, port) = text
            .strip_prefix("tcp://")
            .and_then(|place| place.trim_end_matches('/').rsplit_once(':'))
            .ok_or_else(wrong)?;
        let bare = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(host);
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(wrong)?;
        ServerName::try_from(bare).map_err(|_| wrong())?;
        Ok(Self::Tcp {
            host: bare.to_owned(),
            port,
        })
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp { host, port } | Self::Tls { host, port, .. } => write!(f, "tcp://{host}:{port}"),
        }
    }
}

/// What to do about a connection that cannot be made.
pub(super) fn cure(host: &Host, error: &io::Error) -> Option<&'static str> {
    let Host::Unix(_) = host else {
        return None;
    };
    match error.kind() {
        io::ErrorKind::NotFound => Some("mount the socket into this container, or set docker.host"),
        io::ErrorKind::PermissionDenied => {
            Some("give defib the group of the socket (group_add in compose, --group-add with docker run)")
        }
        io::ErrorKind::ConnectionRefused => Some("nobody listens there: start Docker"),
        _ => None,
    }
}

/// The connection's own work. It must be driven beside whatever uses the connection, and ends with it.
pub(super) type Driver = Fuse<BoxFuture<'static, ()>>;

/// Does `work`, which uses the connection of `driver`.
pub(super) async fn drive<T>(driver: &mut Driver, work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    loop {
        tokio::select! {
            biased;
            done = &mut work => return done,
            () = &mut *driver => {}
        }
    }
}

/// A connection, for one call.
pub(super) struct Connection {
    pub(super) docker: bollard::Docker,
    pub(super) driver: Driver,
    /// Told when the head of the answer is there: bollard's streams do not say so.
    pub(super) answered: Arc<Notify>,
    /// Set when as much was read as may be.
    pub(super) used_up: Arc<AtomicBool>,
}

/// Opens a connection on which at most `limit` bytes are read.
pub(super) async fn open(host: &Host, limit: u64, version: &ClientVersion) -> io::Result<Connection> {
    let used_up = Arc::new(AtomicBool::new(false));
    let bounded = Bounded {
        stream: dial(host).await?,
        left: limit,
        limit,
        used_up: Arc::clone(&used_up),
    };
    let (sender, connection) = http1::Builder::new()
        .max_buf_size(MAX_HEAD)
        .handshake(TokioIo::new(bounded))
        .await
        .map_err(io::Error::other)?;
    let sender = Arc::new(Mutex::new(sender));
    let answered = Arc::new(Notify::new());
    let telling = Arc::clone(&answered);
    let transport = move |mut request: BollardRequest| {
        let (sender, telling) = (Arc::clone(&sender), Arc::clone(&telling));
        async move {
            // A request to a server, not to a proxy: the path alone, and the host beside it.
            let path = request.uri().path_and_query().map(|path| path.as_str().parse());
            if let Some(Ok(path)) = path {
                *request.uri_mut() = path;
            }
            request
                .headers_mut()
                .insert(HOST, HeaderValue::from_static("docker"));
            let response = sender.lock().await.send_request(request).await;
            telling.notify_one();
            response.map_err(bollard::errors::Error::from)
        }
    };
    let docker =
        bollard::Docker::connect_with_custom_transport(transport, Some("http://docker"), NEVER, version)
            .map_err(io::Error::other)?;
    // What goes wrong with the connection is told by whatever waits for an answer on it.
    let driver = connection.map(drop).boxed().fuse();
    Ok(Connection {
        docker,
        driver,
        answered,
        used_up,
    })
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

async fn dial(host: &Host) -> io::Result<Box<dyn Stream>> {
    Ok(match host {
        Host::Unix(path) => Box::new(UnixStream::connect(path).await?),
        Host::Tcp { host, port } => Box::new(tcp(host, *port).await?),
        Host::Tls {
            host,
            port,
            ca,
            identity,
        } => {
            let config = tls(ca, identity.as_ref()).await?;
            let name = ServerName::try_from(host.clone()).map_err(io::Error::other)?;
            let plain = tcp(host, *port).await?;
            let secured = TlsConnector::from(config).connect(name, plain).await;
            Box::new(secured.map_err(|error| io::Error::new(error.kind(), format!("TLS: {error}")))?)
        }
    })
}

async fn tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn tls(ca: &Path, identity: Option<&Identity>) -> io::Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(ca).await? {
        roots.add(certificate).map_err(|error| unusable(ca, &error))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots);
    let config = match identity {
        None => config.with_no_client_auth(),
        Some(Identity { cert, key }) => {
            let pem = read(key).await?;
            let private = PrivateKeyDer::from_pem_slice(&pem).map_err(|error| unusable(key, &error))?;
            config
                .with_client_auth_cert(certificates(cert).await?, private)
                .map_err(|error| unusable(cert, &error))?
        }
    };
    Ok(Arc::new(config))
}

async fn certificates(file: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let pem = read(file).await?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(unusable(file, &"it holds no certificate")),
        Err(error) => Err(unusable(file, &error)),
    }
}

async fn read(file: &Path) -> io::Result<Vec<u8>> {
    tokio::fs::read(file).await.map_err(|error| {
        let shown = file.display();
        io::Error::new(error.kind(), format!("cannot read {shown}: {error}"))
    })
}

fn unusable(file: &Path, error: &dyn fmt::Display) -> io::Error {
    let text = format!("{} cannot be used: {error}", file.display());
    io::Error::new(io::ErrorKind::InvalidInput, text)
}

/// A stream of which at most so much is read.
struct Bounded<S> {
    stream: S,
    left: u64,
    limit: u64,
    used_up: Arc<AtomicBool>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Bounded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.left == 0 {
            self.used_up.store(true, Ordering::Relaxed);
            let text = format!("it is longer than {} bytes", self.limit);
            return Poll::Ready(Err(io::Error::other(text)));
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        let more = u64::try_from(buf.filled().len() - before).unwrap_or(u64::MAX);
        self.left = self.left.saturating_sub(more);
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Bounded<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_has_a_socket_or_a_port() {
        let tcp = |host: &str, port| {
            Ok(Host::Tcp {
                host: host.to_owned(),
                port,
            })
        };
        assert_eq!(
            Host::parse("unix:///run/docker.sock"),
            Ok(Host::Unix("/run/docker.sock".into()))
        );
        assert_eq!(Host::parse("tcp://docker:2376"), tcp("docker", 2376));
        assert_eq!(Host::parse("tcp://10.0.0.1:2375/"), tcp("10.0.0.1", 2375));
        assert_eq!(Host::parse("tcp://[::1]:2375"), tcp("::1", 2375));
        for wrong in [
            "",
            "unix://",
            "unix://run/docker.sock",
            "/var/run/docker.sock",
            "tcp://docker",
            "tcp://docker:0",
            "tcp://docker:99999",
            "tcp://:2375",
            "tcp://a b:2375",
            "ssh://docker:22",
            "npipe:////./pipe/docker_engine",
        ] {
            assert!(Host::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn who_cannot_connect_is_told_what_to_do() {
        let host = Host::Unix("/nowhere/docker.sock".into());
        for (kind, word) in [
            (io::ErrorKind::NotFound, "mount"),
            (io::ErrorKind::PermissionDenied, "group"),
            (io::ErrorKind::ConnectionRefused, "start"),
        ] {
            assert!(cure(&host, &kind.into()).unwrap().contains(word), "{kind}");
        }
    }
}
