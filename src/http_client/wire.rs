//! One HTTP/1.1 exchange on one connection of its own: resolve, connect, perhaps TLS, send, read, close.
//! Everything is bounded: addresses tried, resolver threads, size of headers and body, and the time of it all.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper::header::{
    ACCEPT, AUTHORIZATION, CONNECTION, CONTENT_TYPE, HOST, HeaderName, HeaderValue, RETRY_AFTER, USER_AGENT,
};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::TlsConnector;

use super::url::{Target, UrlError};
use crate::secret::{Secret, SecretError};

/// Most addresses of one name that are tried, in the resolver's order; each gets an equal part of the time.
const MAX_ADDRESSES: usize = 4;
/// Most bytes of a response's head. (hyper takes no less than 8 KiB.)
const MAX_HEAD: usize = 16 * 1024;
/// Most headers of a response.
const MAX_HEADERS: usize = 64;
/// A date takes 29 bytes.
const MAX_RETRY_AFTER: usize = 40;
/// Threads that may sit in `getaddrinfo` at once, in the whole process: it cannot be cancelled, and a dead
/// name server holds each for many seconds.
static RESOLVERS: Semaphore = Semaphore::const_new(8);

/// A request.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// `GET`, `POST`, …
    pub method: String,
    /// `http://` or `https://`.
    pub url: String,
    /// Sent as it is, with the content type `application/json` if it is JSON, else `text/plain`.
    pub body: Option<String>,
    /// Sent as `Authorization: Bearer …`.
    pub bearer: Option<Secret>,
    /// More headers; one of our own names (`Host`, `Content-Type`, …) is replaced by it.
    pub headers: Vec<(String, Secret)>,
    /// Bound on everything together: resolving, connecting, TLS, head and body.
    pub timeout: Duration,
    /// Whether the body is read, and at most how many bytes of it.
    pub body_limit: Option<usize>,
}

/// A response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// Its status.
    pub status: u16,
    /// The body: empty if it was not asked for, `None` if it is longer than the limit.
    pub body: Option<Vec<u8>>,
    /// `Retry-After`, as it was written, if it is of a length that makes sense.
    pub retry_after: Option<String>,
}

/// How far an exchange had come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Finding the addresses of the name.
    Resolving,
    /// Connecting.
    Connecting,
    /// In the TLS handshake.
    Handshaking,
    /// Request sent (perhaps in part), waiting for the head of the response.
    Waiting,
    /// Reading the body.
    Reading,
}

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The URL cannot be used.
    #[error(transparent)]
    Url(#[from] UrlError),
    /// The secret cannot be read.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The method, or the secret, cannot be put into a request.
    #[error("{0}")]
    Request(String),
    /// The name could not be resolved.
    #[error("cannot resolve {host}: {source}")]
    Resolve {
        /// The name.
        host: String,
        /// Why.
        source: io::Error,
    },
    /// No connection could be made; of several addresses, the last one tried.
    #[error("cannot connect to {address}: {source}")]
    Connect {
        /// Where to.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// There are no trusted roots, the certificate is not trusted, or the other end speaks no TLS that we do.
    #[error("TLS: {0}")]
    Tls(String),
    /// The connection was made and broke before the response was complete.
    #[error("connection closed while {stage}: {reason}")]
    Broken {
        /// When.
        stage: Stage,
        /// Why.
        reason: String,
    },
    /// What came back is no HTTP/1.1 response.
    #[error("not an HTTP response: {0}")]
    Malformed(String),
    /// The head of the response is over our bounds.
    #[error("the response's head is over {MAX_HEAD} bytes or {MAX_HEADERS} headers")]
    Head,
    /// The time was up.
    #[error("no complete answer within {after:?} (while {stage})")]
    TimedOut {
        /// The bound.
        after: Duration,
        /// How far it had come.
        stage: Stage,
    },
}

impl Error {
    /// True if the target itself does not answer: nobody listens, the machine is silent, or no connection could
    /// be made in time.
    pub fn unreachable(&self) -> bool {
        match self {
            Self::Connect { source, .. } => peers_doing(source),
            Self::TimedOut { stage, .. } => *stage == Stage::Connecting,
            _ => false,
        }
    }

    /// True if certainly no byte of the request was sent.
    pub fn nothing_sent(&self) -> bool {
        match self {
            Self::Url(_)
            | Self::Secret(_)
            | Self::Request(_)
            | Self::Resolve { .. }
            | Self::Connect { .. }
            | Self::Tls(_) => true,
            Self::Broken { stage, .. } | Self::TimedOut { stage, .. } => *stage < Stage::Waiting,
            Self::Malformed(_) | Self::Head => false,
        }
    }

    /// True if the failure is the target's, false if it may be ours (see the table in [`super`]).
    pub fn blames_target(&self) -> bool {
        match self {
            Self::Connect { source, .. } => peers_doing(source),
            Self::TimedOut { stage, .. } => *stage > Stage::Resolving,
            Self::Broken { .. } | Self::Malformed(_) => true,
            Self::Url(_)
            | Self::Secret(_)
            | Self::Request(_)
            | Self::Resolve { .. }
            | Self::Tls(_)
            | Self::Head => false,
        }
    }
}

/// A connect error that the other machine caused. No route, no port or descriptor left, a firewall of ours: not.
fn peers_doing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::TimedOut
    )
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Resolving => "resolving the name",
            Self::Connecting => "connecting",
            Self::Handshaking => "in the TLS handshake",
            Self::Waiting => "waiting for the response",
            Self::Reading => "reading the body",
        })
    }
}

/// Sends one request on a connection of its own and reads the answer. No redirect is followed, no proxy is
/// used, whatever the environment says.
///
/// # Errors
/// If there is no complete response in time.
pub async fn send(request: &Request) -> Result<Response, Error> {
    send_trusting(request, native_roots).await
}

/// Resolves a URL's host, connects, and closes: whether a request could be sent. Nothing is.
///
/// # Errors
/// If no connection could be made in time.
pub async fn reach(url: &str, within: Duration) -> Result<(), Error> {
    let target = Target::parse(url)?;
    let stage = Progress(AtomicU8::new(0));
    let reaching = async {
        let addresses = resolve(&target).await?;
        stage.reached(Stage::Connecting);
        connect(&addresses, within).await.map(drop)
    };
    let timed_out = |_| {
        Err(Error::TimedOut {
            after: within,
            stage: stage.get(),
        })
    };
    tokio::time::timeout(within, reaching)
        .await
        .unwrap_or_else(timed_out)
}

async fn send_trusting(
    request: &Request,
    tls: impl Fn() -> Result<Arc<ClientConfig>, Error>,
) -> Result<Response, Error> {
    let target = Target::parse(&request.url)?;
    let message = compose(request, &target).await?;
    let stage = Progress(AtomicU8::new(0));
    let exchange = async {
        let addresses = resolve(&target).await?;
        stage.reached(Stage::Connecting);
        let stream = connect(&addresses, request.timeout).await?;
        if !target.tls {
            return exchange(stream, message, request.body_limit, &stage).await;
        }
        stage.reached(Stage::Handshaking);
        let name = ServerName::try_from(target.host.clone())
            .map_err(|_| Error::Tls(format!("{} is no name that a certificate can hold", target.host)))?;
        let stream = TlsConnector::from(tls()?)
            .connect(name, stream)
            .await
            .map_err(handshake_error)?;
        exchange(stream, message, request.body_limit, &stage).await
    };
    tokio::time::timeout(request.timeout, exchange)
        .await
        .unwrap_or_else(|_| {
            Err(Error::TimedOut {
                after: request.timeout,
                stage: stage.get(),
            })
        })
}

async fn compose(request: &Request, target: &Target) -> Result<hyper::Request<Full<Bytes>>, Error> {
    let body = request.body.clone().unwrap_or_default();
    let mut message = hyper::Request::builder()
        .method(request.method.as_str())
        .uri(&target.path)
        .header(HOST, target.authority())
        .header(USER_AGENT, concat!("defib/", env!("CARGO_PKG_VERSION")))
        .header(ACCEPT, "*/*")
        .header(CONNECTION, "close");
    if request.body.is_some() {
        let json = serde_json::from_str::<serde::de::IgnoredAny>(&body).is_ok();
        message = message.header(CONTENT_TYPE, if json { "application/json" } else { "text/plain" });
    }
    if let Some(secret) = &request.bearer {
        let mut value = HeaderValue::from_str(&format!("Bearer {}", secret.read().await?)).map_err(|_| {
            Error::Request("the bearer token holds a character that no header can carry".into())
        })?;
        value.set_sensitive(true);
        message = message.header(AUTHORIZATION, value);
    }
    let mut message = message
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| Error::Request(format!("cannot compose the request: {error}")))?;
    for (name, secret) in &request.headers {
        let header: HeaderName = name
            .parse()
            .map_err(|_| Error::Request(format!("`{name}` is no name of a header")))?;
        let mut value = HeaderValue::from_str(&secret.read().await?).map_err(|_| {
            Error::Request(format!(
                "what the header {name} shall hold has a character that no header can carry"
            ))
        })?;
        value.set_sensitive(true);
        message.headers_mut().insert(header, value);
    }
    Ok(message)
}

async fn resolve(target: &Target) -> Result<Vec<SocketAddr>, Error> {
    if let Ok(address) = target.host.parse() {
        return Ok(vec![SocketAddr::new(address, target.port)]);
    }
    let failed = |source| Error::Resolve {
        host: target.host.clone(),
        source,
    };
    let permit = RESOLVERS
        .acquire()
        .await
        .map_err(|e| failed(io::Error::other(e)))?;
    let name = (target.host.clone(), target.port);
    let looking = tokio::task::spawn_blocking(move || {
        let _permit = permit; // given back when the thread is free, not when the request times out
        std::net::ToSocketAddrs::to_socket_addrs(&name).map(|found| found.take(MAX_ADDRESSES).collect())
    });
    let found: Vec<_> = looking
        .await
        .map_err(|e| failed(io::Error::other(e)))?
        .map_err(failed)?;
    if found.is_empty() {
        return Err(failed(io::Error::new(io::ErrorKind::NotFound, "no address")));
    }
    Ok(found)
}

async fn connect(addresses: &[SocketAddr], within: Duration) -> Result<TcpStream, Error> {
    let share = within / u32::try_from(addresses.len().max(1)).unwrap_or(1);
    let mut last = None;
    for &address in addresses {
        let failure = match tokio::time::timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(source)) => source,
            Err(_) => io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {share:?}")),
        };
        last = Some(Error::Connect {
            address,
            source: failure,
        });
    }
    Err(last.unwrap_or_else(|| Error::Request("no address to connect to".into())))
}

async fn exchange<S>(
    stream: S,
    message: hyper::Request<Full<Bytes>>,
    body_limit: Option<usize>,
    stage: &Progress,
) -> Result<Response, Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    stage.reached(Stage::Waiting);
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_HEADERS)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|e| broken(&e, stage))?;
    let mut connection = pin!(connection);
    let mut answer = pin!(async {
        let response = sender
            .send_request(message)
            .await
            .map_err(|e| broken(&e, stage))?;
        let status = response.status().as_u16();
        let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| {
            let text = value.to_str().ok()?;
            (text.len() <= MAX_RETRY_AFTER).then(|| text.to_owned())
        });
        let body = match body_limit {
            None => Some(Vec::new()),
            Some(limit) => {
                stage.reached(Stage::Reading);
                read_body(response.into_body(), limit, stage).await?
            }
        };
        Ok(Response {
            status,
            body,
            retry_after,
        })
    });
    // No task is spawned for the connection: it is driven here, and dropped with the request.
    let mut open = true;
    loop {
        tokio::select! {
            biased;
            answer = &mut answer => return answer,
            _ = &mut connection, if open => open = false,
        }
    }
}

async fn read_body(
    mut body: hyper::body::Incoming,
    limit: usize,
    stage: &Progress,
) -> Result<Option<Vec<u8>>, Error> {
    let mut read = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|e| broken(&e, stage))?.into_data() else {
            continue;
        };
        if read.len() + data.len() > limit {
            return Ok(None);
        }
        read.extend_from_slice(&data);
    }
    Ok(Some(read))
}

fn broken(error: &hyper::Error, stage: &Progress) -> Error {
    // hyper has its own word for "too large" and, for too many headers, only httparse's.
    if error.is_parse_too_large() || error.to_string().contains("too many headers") {
        return Error::Head;
    }
    let reason = match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    };
    if error.is_parse() {
        return Error::Malformed(reason);
    }
    Error::Broken {
        stage: stage.get(),
        reason,
    }
}

fn handshake_error(error: io::Error) -> Error {
    // rustls wraps its own judgement as InvalidData; anything else is the connection's end.
    if error.kind() == io::ErrorKind::InvalidData {
        return Error::Tls(error.to_string());
    }
    Error::Broken {
        stage: Stage::Handshaking,
        reason: error.to_string(),
    }
}

/// The system's trusted roots, read once (`SSL_CERT_FILE` and `SSL_CERT_DIR` are honoured). A failure is not
/// kept: the next request reads again.
fn native_roots() -> Result<Arc<ClientConfig>, Error> {
    static CONFIG: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    if let Some(config) = CONFIG.get() {
        return Ok(Arc::clone(config));
    }
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err(Error::Tls(
            "no trusted roots on this machine: install ca-certificates or set SSL_CERT_FILE".into(),
        ));
    }
    let config = trusting(roots)?;
    Ok(Arc::clone(CONFIG.get_or_init(|| config)))
}

fn trusting(roots: rustls::RootCertStore) -> Result<Arc<ClientConfig>, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::Tls(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// The stage reached, readable from outside the future that a timeout cuts off.
struct Progress(AtomicU8);

impl Progress {
    fn reached(&self, stage: Stage) {
        self.0.store(stage as u8, Ordering::Relaxed);
    }

    fn get(&self) -> Stage {
        match self.0.load(Ordering::Relaxed) {
            0 => Stage::Resolving,
            1 => Stage::Connecting,
            2 => Stage::Handshaking,
            3 => Stage::Waiting,
            _ => Stage::Reading,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    fn get(url: String) -> Request {
        Request {
            method: "GET".into(),
            url,
            body: None,
            bearer: None,
            headers: Vec::new(),
            timeout: Duration::from_secs(20),
            body_limit: Some(100),
        }
    }

    async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
        let mut buffer = [0; 4096];
        let _ = stream.read(&mut buffer).await;
        let _ = stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi")
            .await;
        let _ = stream.flush().await;
        let _ = stream.read(&mut buffer).await;
    }

    /// A TLS server for `localhost`, its address, and its certificate.
    async fn tls_server() -> (SocketAddr, CertificateDer<'static>, tokio::task::JoinHandle<()>) {
        let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let certificate = key.cert.der().clone();
        let private = PrivateKeyDer::try_from(key.signing_key.serialize_der()).unwrap();
        let config =
            rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(vec![certificate.clone()], private)
                .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                if let Ok(stream) = acceptor.accept(stream).await {
                    answer(stream).await;
                }
            }
        });
        (address, certificate, task)
    }

    #[tokio::test]
    async fn a_trusted_certificate_is_needed() {
        let (address, certificate, server) = tls_server().await;
        let trust = || {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(certificate.clone()).unwrap();
            trusting(roots)
        };
        let url = format!("https://localhost:{}/", address.port());
        let response = send_trusting(&get(url.clone()), trust).await.unwrap();
        assert_eq!((response.status, response.body), (200, Some(b"hi".to_vec())));
        // Another name than the certificate's, and a certificate that the system does not know.
        let other = send_trusting(&get(format!("https://{address}/")), trust)
            .await
            .unwrap_err();
        let unknown = send(&get(url)).await.unwrap_err();
        for error in [other, unknown] {
            assert!(matches!(error, Error::Tls(_)), "{error:?}");
            assert!(!error.blames_target() && error.nothing_sent());
        }
        server.abort();
    }

    #[tokio::test]
    async fn a_server_without_tls_is_not_blamed_and_one_that_hangs_up_is() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://localhost:{}/", listener.local_addr().unwrap().port());
        let trust = || trusting(rustls::RootCertStore::empty());
        let plain = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream
                .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                .await
                .unwrap();
            let _ = stream.read_to_end(&mut Vec::new()).await;
        };
        let request = get(url);
        let (error, ()) = tokio::join!(send_trusting(&request, trust), plain);
        assert!(matches!(error, Err(Error::Tls(_))), "{error:?}");
        let gone = async { drop(listener.accept().await.unwrap()) };
        let (error, ()) = tokio::join!(send_trusting(&request, trust), gone);
        let error = error.unwrap_err();
        assert!(matches!(error, Error::Broken { .. }), "{error:?}");
        assert!(error.blames_target() && error.nothing_sent());
    }
}
