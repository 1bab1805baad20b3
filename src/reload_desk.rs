//! A reload in words: who asks for one, and what is answered. A leaf, so that `http` and `cli`, which ask, and `app`, which
//! does it, need not know each other. It decides nothing.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

/// Requests that may wait; one more would read the same file.
const WAITING: usize = 8;
/// An answer has come by then, or it is not known whether the configuration was taken.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where a reload is asked for. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ReloadDesk(mpsc::Sender<Ask>);

/// A request.
#[derive(Debug)]
pub struct Ask {
    /// Who asks, for the log and the audit.
    pub by: String,
    /// For the answer; who asked may not wait for it.
    pub reply: oneshot::Sender<Outcome>,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// The configuration holds from now on, as a whole.
    Applied {
        /// Who was added, removed and changed.
        detail: String,
    },
    /// It is the one that holds already.
    Unchanged,
    /// It was refused as a whole; the one of before holds.
    Refused {
        /// Every mistake, with line and column.
        error: String,
    },
}

/// Nothing was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoAnswer {
    /// Too many wait.
    #[error("reloads are asked for faster than they are done; try again in a second")]
    Busy,
    /// It takes too long, or the node ends.
    #[error("no answer within 30 s: `defib status` and the log tell whether it was taken")]
    Lost,
}

impl Outcome {
    /// As in the label `outcome`.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Applied { .. } => "applied",
            Self::Unchanged => "unchanged",
            Self::Refused { .. } => "refused",
        }
    }
}

impl ReloadDesk {
    /// A desk, and where its requests arrive.
    pub fn new() -> (Self, mpsc::Receiver<Ask>) {
        let (asks, asked) = mpsc::channel(WAITING);
        (Self(asks), asked)
    }

    /// Asks for a reload and waits for what comes of it.
    ///
    /// # Errors
    /// If there is no answer.
    pub async fn reload(&self, by: &str) -> Result<Outcome, NoAnswer> {
        let answer = self.ask(by).ok_or(NoAnswer::Busy)?;
        match tokio::time::timeout(PATIENCE, answer).await {
            Ok(Ok(outcome)) => Ok(outcome),
            Ok(Err(_)) | Err(_) => Err(NoAnswer::Lost),
        }
    }

    /// Asks for a reload. `None`: too many wait, and one of them will do.
    pub fn ask(&self, by: &str) -> Option<oneshot::Receiver<Outcome>> {
        let (reply, answer) = oneshot::channel();
        let by = by.to_owned();
        self.0.try_send(Ask { by, reply }).ok().map(|()| answer)
    }
}
