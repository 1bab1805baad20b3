//! A Redis (or Valkey) server, or the broker inside this process: where it is, how to get in, connections of our own
//! making to it, and what is asked of it. A leaf: the bus keeps its links with it, checks and remedies ask and act
//! through it. It decides nothing.

pub mod acl;
mod asker;
pub(crate) mod clients;
mod connect;
pub(crate) mod connection;
pub mod dial;
mod endpoint;
pub(crate) mod failure;
pub(crate) mod greeting;
pub(crate) mod keys;
mod probe;
mod publish;
pub(crate) mod resp;
mod tcp;

pub(crate) use asker::{Asker, Which};
pub use clients::ListedClient;
pub use connect::Redis;
pub use endpoint::{Address, Endpoint, EndpointError};
pub use probe::{Probed, probe};
pub use publish::publish;

use std::sync::Arc;

use dial::Dial;

/// A server, and how this node's connections to it are called.
#[derive(Clone, Debug)]
pub struct Server {
    /// Makes connections to it.
    pub dial: Arc<dyn Dial>,
    node: Arc<str>,
}

impl Server {
    /// `node` is this node's name.
    pub fn new(dial: Arc<dyn Dial>, node: &Arc<str>) -> Self {
        Self {
            dial,
            node: Arc::clone(node),
        }
    }

    /// That one, if there is one.
    #[must_use]
    pub fn or(&self, endpoint: Option<&Endpoint>) -> Self {
        match endpoint {
            Some(endpoint) => Self::new(Arc::new(Redis::new(endpoint.clone())), &self.node),
            None => self.clone(),
        }
    }

    /// `defib:<node>:<purpose>`, as CLIENT SETNAME takes it.
    pub(crate) fn connection(&self, purpose: &str) -> String {
        greeting::connection_name(&self.node, purpose)
    }
}
