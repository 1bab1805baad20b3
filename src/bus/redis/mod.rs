//! A Redis (or Valkey) server: where it is, how to get in, and connections of our own making to it.

mod connect;
mod endpoint;
mod probe;

pub use connect::Redis;
pub use endpoint::{Address, Endpoint, EndpointError};
pub use probe::{Probed, probe};
