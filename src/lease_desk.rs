//! Leases in words: what may be asked about one, and what is answered. A leaf, so that `http`, which is asked, and
//! `leases`, which keeps them, need not know each other. It decides nothing.
//!
//! A *lease* is a key that one holder has for a time. The holder is known by its token, which is the key's value in
//! Redis. Times in an answer are spans, counted from when the answer was made; no clock of another machine is in them.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use crate::engine::event::PeerId;

/// Questions that may wait; who comes then is told to come again.
const WAITING: usize = 64;
/// Changes of one lease that may wait for a follower; one that is further behind is dropped.
const UNREAD: usize = 16;
/// The keeper's answer has come by then, or it is unknown. Longer than one call to Redis may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// What is known of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// The asker has it now, and had it not before.
    Acquired,
    /// The asker had it, and has it for longer now.
    Renewed,
    /// Somebody has it: this node keeps it, or it is somebody else's.
    Held,
    /// Nobody has it.
    Free,
    /// The asker had it, and has it no more. Final: that token never gets it back from this node.
    Lost,
    /// It could not be found out. Neither free nor lost: `held_for_ms` says how long it is certainly still the asker's.
    Unknown,
    /// It is kept until its holder has ended and given it back, a moment from now: the node drains.
    Ending,
}

impl State {
    /// As in JSON, and as the name of an event.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Acquired => "acquired",
            Self::Renewed => "renewed",
            Self::Held => "held",
            Self::Free => "free",
            Self::Lost => "lost",
            Self::Unknown => "unknown",
            Self::Ending => "ending",
        }
    }
}

/// Who has a lease, as far as that may be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HeldBy {
    /// This node keeps it, for a peer or for a holder that renews it.
    ThisNode,
    /// The key has another value: another node's, or an application's that takes it by itself.
    SomebodyElse,
}

/// What is said of a lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// What is known.
    pub state: State,
    /// Of which lease.
    pub key: Arc<str>,
    /// Who has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_by: Option<HeldBy>,
    /// The holder's token; told to its holder only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<Arc<str>>,
    /// Greater than that of every earlier holder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fencing_token: Option<u64>,
    /// It is certainly held for so long: counted from before the request was sent, less a margin for clocks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_for_ms: Option<u64>,
    /// Somebody else's lease ends after this unless it is renewed; none if the key has no end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends_in_ms: Option<u64>,
    /// Its whole time; it is renewed at a third of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_ms: Option<u64>,
    /// The peer that it is kept for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<Arc<str>>,
    /// Redis has not confirmed it for so long; `reason` says why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unconfirmed_for_ms: Option<u64>,
    /// Why, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Answer {
    /// This much, and nothing more.
    pub fn new(state: State, key: &Arc<str>) -> Self {
        Self {
            state,
            key: Arc::clone(key),
            held_by: None,
            token: None,
            fencing_token: None,
            held_for_ms: None,
            ends_in_ms: None,
            ttl_ms: None,
            peer: None,
            unconfirmed_for_ms: None,
            reason: None,
        }
    }

    /// The same, and why.
    #[must_use]
    pub fn because(self, reason: impl Into<String>) -> Self {
        Self {
            reason: Some(reason.into()),
            ..self
        }
    }
}

/// Why nothing was asked of Redis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A key, a token or a time that is out of bounds.
    Invalid(String),
    /// A key outside of what the configuration permits.
    Forbidden(String),
    /// Kept for a peer that is dead.
    PeerDead(String),
    /// Too many leases, or questions that come too fast.
    TooMany(String),
    /// The node drains, or its keeper does not answer.
    Unavailable(String),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Invalid(why)
        | Self::Forbidden(why)
        | Self::PeerDead(why)
        | Self::TooMany(why)
        | Self::Unavailable(why)) = self;
        f.write_str(why)
    }
}

/// A lease that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Take {
    /// The holder's own token; `None`: one is made.
    pub token: Option<String>,
    /// Its time. Default 60 s, or the longest that is allowed if that is less.
    pub ttl: Option<Duration>,
    /// Kept for as long as this peer lives, by number and name; `None`: for as long as its holder asks again.
    pub peer: Option<(PeerId, Arc<str>)>,
    /// Only if the token has it already.
    pub renew: bool,
}

/// Where the answer goes.
pub type Reply = oneshot::Sender<Result<Answer, Refusal>>;

/// What is asked of the keeper.
#[derive(Debug)]
pub enum Ask {
    /// Take or renew it.
    Take(Arc<str>, Take, Reply),
    /// Give it back: its key and token.
    Release(Arc<str>, String, Reply),
    /// Who has it?
    Look(Arc<str>, Reply),
    /// Every lease that this node keeps.
    List(oneshot::Sender<Vec<Answer>>),
    /// What becomes of it, from now on.
    Follow(Arc<str>, oneshot::Sender<(Answer, mpsc::Receiver<Answer>)>),
    /// Give all back, within this time, and take none any more.
    Drain(Duration, oneshot::Sender<()>),
}

/// The way to the keeper. Cheap to clone.
#[derive(Clone, Debug)]
pub struct LeaseDesk(mpsc::Sender<Ask>);

impl LeaseDesk {
    /// The two ends of it.
    pub fn new() -> (Self, mpsc::Receiver<Ask>) {
        let (asks, asked) = mpsc::channel(WAITING);
        (Self(asks), asked)
    }

    /// Takes or renews a lease. A keeper that does not answer in time has perhaps taken it all the same.
    ///
    /// # Errors
    /// If it was not even tried.
    pub async fn take(&self, key: &Arc<str>, take: Take) -> Result<Answer, Refusal> {
        self.answered(key, |reply| Ask::Take(Arc::clone(key), take, reply))
            .await
    }

    /// Gives a lease back.
    ///
    /// # Errors
    /// If it was not even tried.
    pub async fn release(&self, key: &Arc<str>, token: String) -> Result<Answer, Refusal> {
        self.answered(key, |reply| Ask::Release(Arc::clone(key), token, reply))
            .await
    }

    /// Who has it.
    ///
    /// # Errors
    /// If it was not even tried.
    pub async fn look(&self, key: &Arc<str>) -> Result<Answer, Refusal> {
        self.answered(key, |reply| Ask::Look(Arc::clone(key), reply))
            .await
    }

    /// Every lease that this node keeps; `None` if its keeper does not answer.
    pub async fn list(&self) -> Option<Vec<Answer>> {
        self.asked(Ask::List).await.ok()
    }

    /// What is known of a lease that this node keeps, and what becomes of it; `None` if its keeper does not answer.
    pub async fn follow(&self, key: &Arc<str>) -> Option<(Answer, mpsc::Receiver<Answer>)> {
        self.asked(|reply| Ask::Follow(Arc::clone(key), reply)).await.ok()
    }

    /// Gives every lease back. Ends after `within` at the latest, whatever Redis does.
    pub async fn drain(&self, within: Duration) {
        let (reply, drained) = oneshot::channel();
        let draining = async {
            if self.0.send(Ask::Drain(within, reply)).await.is_ok() {
                // An error means that the keeper is gone: what it kept ends by itself.
                let _ = drained.await;
            }
        };
        let _ = tokio::time::timeout(within, draining).await;
    }

    async fn answered(&self, key: &Arc<str>, ask: impl FnOnce(Reply) -> Ask) -> Result<Answer, Refusal> {
        match self.asked(ask).await {
            Ok(answer) => answer,
            Err(Silence::Busy) => Err(Refusal::TooMany(
                "too many requests for leases wait already; ask again in a moment".to_owned(),
            )),
            Err(Silence::Gone) => Err(Refusal::Unavailable(
                "the keeper of the leases has ended".to_owned(),
            )),
            Err(Silence::Late) => Ok(Answer::new(State::Unknown, key).because(format!(
                "the keeper of the leases did not answer within {} s: Redis is slow or away",
                PATIENCE.as_secs()
            ))),
        }
    }

    async fn asked<T>(&self, ask: impl FnOnce(oneshot::Sender<T>) -> Ask) -> Result<T, Silence> {
        let (reply, answer) = oneshot::channel();
        self.0.try_send(ask(reply)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Silence::Busy,
            mpsc::error::TrySendError::Closed(_) => Silence::Gone,
        })?;
        match tokio::time::timeout(PATIENCE, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(Silence::Gone),
            Err(_) => Err(Silence::Late),
        }
    }
}

/// A follower's two ends.
pub fn follower() -> (mpsc::Sender<Answer>, mpsc::Receiver<Answer>) {
    mpsc::channel(UNREAD)
}

/// Why no answer came.
enum Silence {
    Busy,
    Gone,
    Late,
}
