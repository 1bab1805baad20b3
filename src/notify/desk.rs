//! Where a `notify` rung asks for its message.

use std::sync::Arc;

use tokio::sync::mpsc;

use crate::engine::decision::Grant;

/// Requests that may wait to be taken.
const WAITING: usize = 64;

/// A request: the target's name, and why.
pub(super) type Asked = (Arc<str>, Grant);

/// Asks for messages. Cheap to clone; never waits.
#[derive(Clone, Debug)]
pub struct Desk(mpsc::Sender<Asked>);

impl Desk {
    pub(super) fn new() -> (Self, mpsc::Receiver<Asked>) {
        let (asking, asked) = mpsc::channel(WAITING);
        (Self(asking), asked)
    }

    /// Asks that `to` be told of this grant.
    ///
    /// # Errors
    /// If too much waits already.
    pub fn ask(&self, to: &Arc<str>, grant: &Grant) -> Result<(), &'static str> {
        self.0
            .try_send((Arc::clone(to), grant.clone()))
            .map_err(|_| "too many messages wait already")
    }
}
