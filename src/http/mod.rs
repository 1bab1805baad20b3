//! The endpoints: probes, metrics, status for people and tools; and the admin listener. Answers come from the
//! cached snapshot; nothing here judges.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::secret::Secret;

/// Where to listen and how much to bear.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The public listener. Default `127.0.0.1:7337`... as configured.
    pub listen: SocketAddr,
    /// The admin listener's Unix socket (0660).
    pub admin_socket: Option<PathBuf>,
    /// The admin listener's loopback port, on request.
    pub admin_listen: Option<(SocketAddr, Secret)>,
    /// Concurrent connections on each listener. Default 256.
    pub max_connections: usize,
}
