//! The `sockets` check: does the owner keep its connections to a server, read what arrives on them, and get
//! anything? By the kernel's word alone, for clients of whatever server.

mod control;
mod judge;

use std::sync::Arc;
use std::time::Duration;

use super::active::Prober;
use super::whose::Ownership;
use super::{Schedule, Surroundings};
use crate::condemned::{Condemned, CondemnedTable, Connection};
use crate::engine::cause::Cause;
use crate::engine::event::{CheckId, Outcome};
use crate::engine::time::Clock;
use crate::sock_diag::{Endpoint, Filter, Lookout, Rounds, Socket, State};
use crate::telemetry::metrics::checks::CheckKind;
use control::Control;
use judge::{Standing, Verdict, judge};

/// What is asked of the connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The server: connections to one of these count. Not empty.
    pub to: Vec<Endpoint>,
    /// So many there must be. Default 1.
    pub min: u32,
    /// Unread bytes that may stand. Default 0.
    pub max_recv_q: u32,
    /// How long more than that may lie there while nothing is read. Default 10 s.
    pub standing: Duration,
    /// At least `min` of the connections must have received something within this. `None`: they may be silent.
    pub max_silence: Option<Duration>,
}

/// Looks at one peer's connections.
pub(super) struct Sockets {
    check: CheckId,
    wanted: Wanted,
    ownership: Ownership,
    lookout: Lookout,
    rounds: Rounds,
    condemned: CondemnedTable,
    clock: Arc<dyn Clock>,
    standing: Standing,
    control: Control,
}

impl Sockets {
    pub(super) fn new(check: CheckId, wanted: Wanted, schedule: Schedule, around: Surroundings) -> Self {
        Self {
            check,
            control: Control::new(&wanted.to, around.settle),
            wanted,
            ownership: Ownership::of(check.peer, &around),
            lookout: Lookout::default(),
            rounds: around.rounds.clone(),
            condemned: around.condemned,
            clock: around.reporting.clock,
            // What lies between two looks that are further apart was not seen: this node was stopped.
            standing: Standing::new(schedule.interval * 2),
        }
    }

    /// # Errors
    /// Why nothing can be said.
    async fn see(&mut self, within: Duration) -> Result<Outcome, String> {
        let owned = self.ownership.owned().await?;
        let filter = Filter {
            states: [State::Established, State::CloseWait].into(),
            remote: self.wanted.to.clone(),
            local: Vec::new(),
        };
        let look = self.lookout.look(&self.rounds, owned.whose, filter, within / 2);
        let seen = look.await?;
        let now = self.clock.now();
        self.standing.see(&seen.sockets, now);
        let (open, left): (Vec<Socket>, Vec<Socket>) = seen
            .sockets
            .into_iter()
            .partition(|socket| socket.state == State::Established);
        let mut standing = seen.others;
        standing.extend(open.iter().map(|socket| socket.id.cookie));
        let verdict = judge(&self.wanted, &open, left.len(), &self.standing);
        let (cause, detail, sockets) = match verdict {
            Verdict::Well => {
                self.control.well(&open, standing, within / 2).await;
                self.condemned.clear(self.check);
                return Ok(Outcome::Pass);
            }
            Verdict::Stuck(words, sockets) => (Cause::PeerStuck, words, sockets),
            Verdict::Missing(words, sockets) => {
                if seen.truncated {
                    return Err(format!("{words}, but there are more sockets than are looked at"));
                }
                let answers = self.control.answers(now, &standing, within / 2).await;
                answers.map_err(|why| format!("{words}, but {why}"))?;
                (Cause::PeerDeaf, words, sockets)
            }
        };
        let connections = sockets.into_iter().map(|(socket, because)| Connection {
            socket,
            client: None,
            cause,
            because,
        });
        let condemned = Condemned {
            incarnation: owned.incarnation,
            connections: connections.collect(),
        };
        self.condemned.set(self.check, condemned);
        Ok(Outcome::Fail { cause, detail })
    }
}

impl Prober for Sockets {
    const KIND: CheckKind = CheckKind::Sockets;
    const TOGETHER: bool = true;

    async fn look(&mut self, within: Duration) -> Outcome {
        // What was condemned stays so until it is looked at again: a remedy compares each connection anyway.
        let seen = self.see(within).await;
        seen.unwrap_or_else(|detail| Outcome::Unknown { detail })
    }
}
