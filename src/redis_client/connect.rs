//! Connections of our own making: TCP, TLS, Unix sockets.
//!
//! No client library's connecting is used: it has no bound on the name lookup, and keepalive and user time-out
//! are off in it (crates.md: the two together catch packet loss in 3 to 5 s; the in-band PING catches the rest).

use std::io;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio_rustls::TlsConnector;

use super::dial::{Dial, Dialing, Login, Stream};
use super::tcp::Tcp;
use super::{Address, Endpoint};

const KEEPALIVE_IDLE: Duration = Duration::from_secs(2);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(1);
const KEEPALIVE_PROBES: u32 = 3;
const USER_TIMEOUT: Duration = Duration::from_secs(4);
/// At most this long for one of a name's several addresses, so that a dark one does not hide the others.
const PER_ADDRESS: Duration = Duration::from_millis(1500);

/// Makes connections to one endpoint.
#[derive(Debug)]
pub struct Redis {
    endpoint: Endpoint,
    /// Loaded once: the system's roots are a file of hundreds of kilobytes.
    system_roots: OnceLock<Arc<ClientConfig>>,
}

impl Redis {
    /// Connects to nothing yet.
    pub const fn new(endpoint: Endpoint) -> Self {
        Self {
            endpoint,
            system_roots: OnceLock::new(),
        }
    }

    async fn connect(&self) -> io::Result<Box<dyn Stream>> {
        match &self.endpoint.address {
            Address::Tcp { host, port } => Ok(Box::new(tcp(host, *port).await?)),
            Address::Unix(path) => Ok(Box::new(UnixStream::connect(path).await?)),
            Address::Tls {
                host,
                port,
                server_name,
                ca,
            } => {
                let config = match ca {
                    Some(file) => own_ca(file).await?,
                    None => self.system_roots().await?,
                };
                let name = ServerName::try_from(server_name.clone().unwrap_or_else(|| host.clone()))
                    .map_err(|_| invalid("the TLS server name is neither a DNS name nor an address"))?;
                let plain = tcp(host, *port).await?;
                let secured = TlsConnector::from(config)
                    .connect(name, plain)
                    .await
                    .map_err(|error| io::Error::new(error.kind(), format!("TLS: {error}")))?;
                Ok(Box::new(secured))
            }
        }
    }

    async fn system_roots(&self) -> io::Result<Arc<ClientConfig>> {
        if let Some(config) = self.system_roots.get() {
            return Ok(config.clone());
        }
        let found = tokio::task::spawn_blocking(rustls_native_certs::load_native_certs)
            .await
            .map_err(io::Error::other)?;
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            return Err(invalid(
                "this machine has no CA certificates; name the server's CA in the configuration",
            ));
        }
        let config = client_config(roots)?;
        Ok(self.system_roots.get_or_init(|| config).clone())
    }
}

impl Dial for Redis {
    fn dial(&self) -> Dialing<'_> {
        Box::pin(self.connect())
    }

    fn login(&self) -> Login {
        Login {
            user: self.endpoint.user.clone(),
            password: self.endpoint.password.clone(),
        }
    }

    fn db(&self) -> u32 {
        self.endpoint.db
    }

    fn port(&self) -> Option<u16> {
        match self.endpoint.address {
            Address::Tcp { port, .. } | Address::Tls { port, .. } => Some(port),
            Address::Unix(_) => None,
        }
    }

    fn place(&self) -> String {
        self.endpoint.address.to_string()
    }
}

async fn tcp(host: &str, port: u16) -> io::Result<Tcp> {
    let addresses: Vec<_> = lookup_host((host, port))
        .await
        .map_err(|error| io::Error::new(error.kind(), format!("cannot resolve {host}: {error}")))?
        .collect();
    let mut failure = io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address"));
    for (index, address) in addresses.iter().enumerate() {
        let connecting = TcpStream::connect(address);
        let connected = if index + 1 == addresses.len() {
            connecting.await
        } else {
            tokio::time::timeout(PER_ADDRESS, connecting)
                .await
                .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        };
        match connected {
            Ok(stream) => {
                tune(&stream)?;
                return Ok(Tcp::new(stream));
            }
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(KEEPALIVE_IDLE)
            .with_interval(KEEPALIVE_INTERVAL)
            .with_retries(KEEPALIVE_PROBES),
    )?;
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))
}

/// Read for each connection: a CA that was replaced on disk is picked up.
async fn own_ca(file: &Path) -> io::Result<Arc<ClientConfig>> {
    let shown = file.display();
    let pem = tokio::fs::read(file)
        .await
        .map_err(|error| io::Error::new(error.kind(), format!("cannot read the CA file {shown}: {error}")))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        certificate
            .ok()
            .and_then(|certificate| roots.add(certificate).ok())
            .ok_or_else(|| {
                invalid(&format!(
                    "the CA file {shown} holds something that is no certificate"
                ))
            })?;
    }
    if roots.is_empty() {
        return Err(invalid(&format!("the CA file {shown} holds no certificate")));
    }
    client_config(roots)
}

fn client_config(roots: RootCertStore) -> io::Result<Arc<ClientConfig>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what)
}
