//! The `connections` check: ghosts. An application that misses the end of its connections counts more of them than
//! there are; the kernel knows how many there are.
//!
//! What could be counted in favour of the peer is:
//! - The kernel is asked before and after the page, and a connection that stood at either time exists: one that
//!   ended, or came, while the page was read is no ghost.
//! - Connections that wait to be accepted exist, and so do those of a scraper, on a port that serves both.
//! - Some ghosts at a time are life (the application learns of an end a moment after the kernel): `below`.
//!
//! A connection that the other end closed and the application did not (CLOSE_WAIT) does *not* exist: if the gauge
//! still counts it, it is a ghost; it holds a descriptor on top.
//!
//! Nothing is known if nobody listens on a port here: the application is elsewhere (another network namespace), or
//! gone, and 0 connections would make everything it counts a ghost.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::active::Prober;
use super::page::Exposed;
use crate::engine::cause::Cause;
use crate::engine::event::Outcome;
use crate::engine::time::Clock;
use crate::sock_diag::{Cookie, Endpoint, Filter, Rounds, State};
use crate::telemetry::metrics::checks::{CheckKind, Ghosts};

/// Where the gauge is, and what the kernel counts.
#[derive(Clone, Debug, PartialEq)]
pub struct Connections {
    /// The gauge; several series are added.
    pub page: Exposed,
    /// The ports that the application listens on.
    pub ports: Vec<u16>,
    /// There must be fewer ghosts than this.
    pub below: u64,
}

/// Compares.
pub(super) struct Compare {
    connections: Connections,
    clock: Arc<dyn Clock>,
    ghosts: Ghosts,
    rounds: Rounds,
}

/// What the kernel says of the ports.
#[derive(Default)]
pub(super) struct Kernel {
    /// ESTABLISHED.
    standing: BTreeSet<Cookie>,
    /// CLOSE_WAIT.
    unclosed: usize,
}

impl Compare {
    pub(super) fn new(
        connections: Connections,
        clock: Arc<dyn Clock>,
        ghosts: Ghosts,
        rounds: Rounds,
    ) -> Self {
        Self {
            connections,
            clock,
            ghosts,
            rounds,
        }
    }

    /// The number of ghosts, and what they were made of in words.
    async fn compare(&self, within: Duration) -> Result<(u64, String), String> {
        let began = self.clock.now();
        let left = || within.saturating_sub(self.clock.now().since(began));
        let before = self.connections.kernel(&self.rounds, within).await?;
        let page = &self.connections.page;
        let seen = page.read(left()).await?;
        let after = self.connections.kernel(&self.rounds, left()).await?;
        let counted: f64 = seen.series.iter().map(|series| series.value).sum();
        if !(0.0..=1e9).contains(&counted) {
            return Err(format!(
                "{} is {counted}, which is no number of connections",
                page.series
            ));
        }
        let standing = before.standing.union(&after.standing).count();
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "it is between 0 and 1e9"
        )]
        let ghosts = (counted as u64).saturating_sub(standing as u64);
        let unclosed = match after.unclosed {
            0 => String::new(),
            many => format!(" ({many} more are closed at the other end only: CLOSE_WAIT)"),
        };
        let words = format!(
            "{} is {counted}, the kernel has {standing}{unclosed}",
            page.series
        );
        Ok((ghosts, words))
    }
}

impl Connections {
    /// What the kernel has now.
    pub(super) async fn kernel(&self, rounds: &Rounds, within: Duration) -> Result<Kernel, String> {
        let ports = &self.ports;
        let filter = Filter {
            states: [State::Established, State::CloseWait, State::Listen].into(),
            remote: Vec::new(),
            local: ports.iter().copied().map(Endpoint::port).collect(),
        };
        let dump = rounds.dump(filter, within).await?;
        if dump.truncated {
            return Err("there are more sockets than are listed".into());
        }
        let mut kernel = Kernel::default();
        let mut silent: BTreeSet<u16> = ports.iter().copied().collect();
        for socket in dump.sockets {
            match socket.state {
                State::Listen => drop(silent.remove(&socket.id.local.port())),
                State::CloseWait => kernel.unclosed += 1,
                _ => drop(kernel.standing.insert(socket.id.cookie)),
            }
        }
        match silent.first() {
            None => Ok(kernel),
            Some(port) => Err(format!(
                "nobody listens on port {port} here: it is gone, or in another network namespace (share it)"
            )),
        }
    }
}

impl Prober for Compare {
    const KIND: CheckKind = CheckKind::Connections;
    const TOGETHER: bool = true;

    async fn look(&mut self, within: Duration) -> Outcome {
        let compared = self.compare(within).await;
        self.ghosts.set(compared.as_ref().ok().map(|(ghosts, _)| *ghosts));
        let below = self.connections.below;
        match compared {
            Ok((ghosts, _)) if ghosts < below => Outcome::Pass,
            Ok((ghosts, words)) => Outcome::Fail {
                cause: Cause::PeerLeaking,
                detail: format!("{ghosts} ghost connections, not below {below}: {words}"),
            },
            Err(detail) => Outcome::Unknown { detail },
        }
    }
}
