//! Under construction: cli.

pub mod sim;
