//! Under construction: cli.

pub mod fault_proxy;
