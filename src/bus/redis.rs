//! The two links to a Redis server, on sockets of our own making.

use std::path::PathBuf;

use crate::secret::Secret;

/// Where a server is and how to get in.
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    /// Where.
    pub address: Address,
    /// ACL user; `None`: `default`.
    pub user: Option<String>,
    /// Its password.
    pub password: Option<Secret>,
    /// Database of `SELECT`; pub/sub ignores it.
    pub db: u32,
}

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// `redis://host:port`
    Tcp {
        /// Name or address.
        host: String,
        /// Default 6379.
        port: u16,
    },
    /// `rediss://host:port`
    Tls {
        /// Name or address.
        host: String,
        /// Default 6379.
        port: u16,
        /// Name in the certificate, if it is not `host`.
        server_name: Option<String>,
        /// PEM file of the CA; `None`: the system's roots.
        ca: Option<PathBuf>,
    },
    /// `unix:///path`
    Unix(PathBuf),
}
