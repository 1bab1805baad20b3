//! Where leases are, and the four things that can be done there. Each is one step: nothing comes between its look and
//! its act.
//!
//! A request may arrive long after it was given up on: a stopped server runs what is in its sockets once it goes on, and
//! the kernel delivers what a closed connection had sent. So every step is harmless whenever it runs. Each *taking* has a
//! number, greater than those of all before it, which is kept beside the key: a taking that arrives late does not put
//! itself before a later one of the same token, and a release ends no later one than its own. An extension never
//! shortens. (With an id in place of the number a late taking and then its late release ended a later one.)

use std::sync::Arc;
use std::time::Duration;

use super::local::Local;
use super::redis::Remote;
use crate::redis_client::failure::Failure;
use crate::telemetry::metrics::leases::{Call, Outcome};

/// One thing to do, for one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Take it if it is free or this token's; or only if it is this token's.
    Take(Claim, Duration, Anew),
    /// Let it last at least so long from now, if it is this token's.
    Extend(Claim, Duration),
    /// Delete it if it is this token's and of no later taking.
    Release(Claim),
    /// Is it held?
    Look(Arc<str>),
}

/// Whether a taking may take what is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Anew {
    Yes,
    /// It must be this token's already.
    No,
}

/// Whose lease it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) key: Arc<str>,
    /// The value of the key.
    pub(super) token: Arc<str>,
    /// The number of the taking.
    pub(super) taking: u64,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Done {
    /// It is the token's now; its fencing token.
    Taken(u64),
    /// It is somebody else's, and ends after so long; `None`: not at all.
    Others(Option<Duration>),
    /// It was the token's, and lasts.
    Extended,
    /// It is not the token's any more.
    Gone,
    /// It is given back, or was not there.
    Released,
    /// Nobody has it.
    Free,
}

/// Where leases are.
pub(super) enum Store {
    /// In a Redis server.
    Remote(Box<Remote>),
    /// In this process.
    Local(Local),
}

impl Store {
    /// Does it within `within`, or does not know whether it was done.
    pub(super) async fn run(&mut self, step: &Step, within: Duration) -> Result<Done, Failure> {
        match self {
            Self::Remote(remote) => remote.run(step, within).await,
            Self::Local(local) => Ok(local.run(step)),
        }
    }
}

impl Step {
    /// Whose lease it is about; `None`: it only looks.
    pub(super) const fn claim(&self) -> Option<&Claim> {
        match self {
            Self::Take(claim, ..) | Self::Extend(claim, _) | Self::Release(claim) => Some(claim),
            Self::Look(_) => None,
        }
    }

    pub(super) const fn call(&self) -> Call {
        match self {
            Self::Take(..) => Call::Take,
            Self::Extend(..) => Call::Extend,
            Self::Release(_) => Call::Release,
            Self::Look(_) => Call::Look,
        }
    }
}

/// As it is counted.
pub(super) const fn outcome(result: &Result<Done, Failure>) -> Outcome {
    match result {
        Ok(Done::Taken(_) | Done::Extended | Done::Released | Done::Free) => Outcome::Yes,
        Ok(Done::Others(_) | Done::Gone) => Outcome::No,
        Err(Failure::Down { .. }) => Outcome::Unknown,
        Err(Failure::Refused { .. }) => Outcome::Refused,
    }
}
