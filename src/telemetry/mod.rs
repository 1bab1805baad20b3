//! Logs and metrics: how the node tells what it does.

pub mod logs;
pub mod metrics;
