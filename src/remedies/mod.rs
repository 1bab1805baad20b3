//! Executors: each carries out one granted remedy, once, behind its fence. No policy.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::engine::event::PeerId;

/// The rungs that have an executor, by (peer, rung).
pub type Settings = BTreeMap<(PeerId, u16), Remedy>;

/// One rung's executor. (`healthz` is a pulse of the snapshot: the engine carries it out itself.)
#[derive(Clone, Debug, PartialEq)]
pub enum Remedy {
    /// A signal to the fenced process, through its pidfd.
    Signal {
        /// Name and number, e.g. `SIGTERM` 15.
        signal: Signal,
        /// Sent after it, if the process is still there after so long.
        then: Option<(Duration, Signal)>,
    },
    /// A command without a shell.
    Exec {
        /// Program and arguments.
        argv: Vec<String>,
        /// Its whole process group is ended after this. Default 30 s.
        timeout: Duration,
    },
    /// A request, then perhaps a wait.
    Http {
        /// `http://` or `https://`.
        url: String,
        /// Default `POST`.
        method: String,
        /// Body, if any.
        body: Option<String>,
        /// Sent as `Authorization: Bearer …`.
        bearer: Option<crate::secret::Secret>,
        /// Bound on the request. Default 5 s.
        timeout: Duration,
        /// Wait after it until this holds or `deadline` has gone by; neither is a failure.
        until: Option<Until>,
    },
    /// A line in the log.
    Log,
}

/// A signal, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signal(pub i32);

/// What an `http` remedy waits for after its request: a drain.
#[derive(Clone, Debug, PartialEq)]
pub struct Until {
    /// Asked again and again.
    pub check: crate::http_client::Question,
    /// Longest wait. Default 30 s.
    pub deadline: Duration,
    /// Between two askings. Default 1 s.
    pub interval: Duration,
}
