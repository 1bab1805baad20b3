//! What a supervised task is: a name, and a way to start it (again). A leaf, so that the edges can build tasks
//! and `runtime` can supervise them without knowing each other.

use std::pin::Pin;

use tokio_util::sync::CancellationToken;

/// One long-running part of the node.
pub struct Task {
    /// Its name in logs and metrics; made of words of ours and names of the configuration.
    pub name: String,
    /// Starts one run of it. The run ends with `Ok` once the token is cancelled; any other end is unexpected,
    /// and the supervisor starts it again or gives up.
    #[allow(clippy::type_complexity, reason = "spelt out once, here")]
    pub start: Box<
        dyn Fn(CancellationToken) -> Pin<Box<dyn Future<Output = anyhow::Result<()>> + Send>> + Send + Sync,
    >,
}

impl std::fmt::Debug for Task {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Task")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}
