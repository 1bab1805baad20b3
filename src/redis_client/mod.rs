//! A Redis (or Valkey) server, or the broker inside this process: where it is, how to get in, connections of our own
//! making to it, and what is asked of it. A leaf: the bus keeps its links with it, checks and remedies ask and act
//! through it. It decides nothing.

mod connect;
pub(crate) mod connection;
pub mod dial;
mod endpoint;
pub(crate) mod failure;
pub(crate) mod greeting;
mod probe;
pub(crate) mod resp;

pub use connect::Redis;
pub use endpoint::{Address, Endpoint, EndpointError};
pub use probe::{Probed, probe};
