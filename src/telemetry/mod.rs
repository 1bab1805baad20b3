//! Logs and metrics: how the node tells what it does.

mod lines;
pub mod logs;
pub mod metrics;
