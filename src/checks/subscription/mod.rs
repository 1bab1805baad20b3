//! The `subscription` check: half-dead subscribers, seen from outside. Here is what looks: at the kernel's sockets of
//! the owner, at `CLIENT LIST`, and where a comparison needs it, at what is delivered to a subscription of our own.
//! What that means is `judge`'s business.

mod ear;
mod judge;
mod returned;
#[cfg(test)]
mod tests;
mod track;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::Surroundings;
use super::active::Prober;
use super::whose::{Owned, Ownership};
use crate::condemned::Condemned;
use crate::engine::event::{CheckId, Incarnation, Outcome};
use crate::engine::time::Time;
use crate::preflight::Finding;
use crate::redis_client::failure::Failure;
use crate::redis_client::{Asker, Endpoint, Server, Which};
use crate::sock_diag::{self, Filter, Lookout, Socket, State, States};
use crate::telemetry::metrics::checks::CheckKind;
use ear::Ear;
pub use judge::Rules;
use judge::{Judge, Listing, Look};
use returned::{Returned, Seen};

/// Longest that our own subscription stands without a pause: the channels may be busy.
const EAR_OPEN: Duration = Duration::from_secs(60);
/// And the pause, also after one that failed.
const EAR_REST: Duration = Duration::from_secs(60);

/// What a `subscription` check watches.
#[derive(Clone, Debug, PartialEq)]
pub struct Subscription {
    /// The channels that the owner is subscribed to.
    pub channels: Vec<Arc<str>>,
    /// When is it half-dead?
    pub rules: Rules,
    /// The server; `None`: the bus's.
    pub redis: Option<Endpoint>,
}

/// Looks.
pub(super) struct Watch {
    check: CheckId,
    subscription: Subscription,
    around: Surroundings,
    ownership: Ownership,
    lookout: Lookout,
    server: Server,
    asker: Asker,
    /// Whose connections the judge has seen.
    life: Option<Incarnation>,
    judge: Judge,
    list_all: bool,
    returned: Returned,
    ear: Option<(Ear, Time)>,
    /// No subscription of our own before this.
    ear_rests: Option<Time>,
    ears: u64,
    /// Why the last one ended by itself.
    ear_failed: Option<String>,
}

impl Watch {
    pub(super) fn new(check: CheckId, subscription: Subscription, around: Surroundings) -> Self {
        let server = around.redis.or(subscription.redis.as_ref());
        Self {
            check,
            asker: Asker::new(server.clone(), "check"),
            server,
            judge: Judge::new(subscription.rules),
            subscription,
            ownership: Ownership::of(check.peer, &around),
            lookout: Lookout::default(),
            around,
            life: None,
            list_all: false,
            returned: Returned::default(),
            ear: None,
            ear_rests: None,
            ears: 0,
            ear_failed: None,
        }
    }

    async fn compare(&mut self, within: Duration) -> Result<Outcome, String> {
        let Owned {
            whose,
            incarnation: life,
        } = self.ownership.owned().await?;
        if self.life != life {
            self.judge = Judge::new(self.subscription.rules);
            self.life.clone_from(&life);
        }
        let port = self.server.dial.port().ok_or_else(|| {
            format!(
                "{} is reached by no TCP port, so that connections to it are not observable",
                self.server.dial.place()
            )
        })?;
        let heard = self.ear.as_ref().and_then(|(ear, _)| ear.heard());
        let filter = Filter {
            states: States::from([State::Established, State::CloseWait]),
            remote: vec![sock_diag::Endpoint::port(port)],
            local: Vec::new(),
        };
        let at = self.around.reporting.clock.now();
        let look = self.lookout.look(&self.around.rounds, whose, filter, within);
        let dump = look.await?;
        if dump.truncated {
            return Err("there are too many connections to Redis here to be looked at".to_owned());
        }
        let listing = self.list(&dump.sockets, within).await?;
        let judgement = self.judge.look(&Look {
            at,
            sockets: dump.sockets,
            listing,
            heard,
            returning: self.returned.within(self.around.settle, at),
        });
        self.list_all = judgement.list_all;
        self.tend_ear(judgement.listen, within);
        let connections = judgement.condemned;
        self.around.condemned.set(
            self.check,
            Condemned {
                incarnation: life,
                connections,
            },
        );
        Ok(match (judgement.outcome, &self.ear_failed) {
            (Outcome::Pass, Some(why)) if judgement.listen => Outcome::Unknown {
                detail: format!(
                    "a subscriber is silent, and what it should have heard cannot be compared: {why}"
                ),
            },
            (outcome, _) => outcome,
        })
    }

    /// # Errors
    /// If the server is away: then nobody is to be blamed for a connection that is not there.
    async fn list(&mut self, sockets: &[Socket], within: Duration) -> Result<Listing, String> {
        let place = self.asker.place();
        let listed = self.try_list(sockets, within).await;
        let seen = Seen {
            connects: self.asker.connects(),
            id: self.asker.id(),
            oldest: listed.as_ref().ok().and_then(|(_, oldest)| *oldest),
        };
        self.returned.see(seen, self.around.reporting.clock.now());
        match listed {
            Ok((Ok(listing), _)) => Ok(listing),
            Ok((Err(why), _)) => Ok(Listing::Unavailable(format!("{place}: {why}"))),
            Err(refused @ Failure::Refused { .. }) => {
                Ok(Listing::Unavailable(format!("{place}: {}", refused.into_text())))
            }
            Err(down @ Failure::Down { .. }) => Err(format!("{place}: {}", down.into_text())),
        }
    }

    /// Inside: why what the server lists cannot be compared with what is seen from here; and how long ago the first of
    /// those that it lists connected.
    async fn try_list(
        &mut self,
        sockets: &[Socket],
        within: Duration,
    ) -> Result<(Result<Listing, String>, Option<Duration>), Failure> {
        let whole = self.list_all;
        let which = if whole { Which::All } else { Which::Subscribed };
        let wanted: BTreeSet<SocketAddr> = sockets.iter().map(|socket| socket.id.local).collect();
        loop {
            let server = match self.asker.control(within).await? {
                Ok(server) => server,
                Err(why) => return Ok((Err(why), None)),
            };
            let connects = self.asker.connects();
            let clients = self
                .asker
                .clients(which, within, |address| wanted.contains(&address))
                .await?;
            // A connection that was made anew meanwhile may lead to another server.
            if self.asker.connects() == connects {
                let listing = Listing::Read {
                    clients: clients.wanted,
                    whole,
                    server,
                };
                return Ok((Ok(listing), Some(clients.oldest)));
            }
        }
    }

    /// Opens our own subscription while it is wanted, within its bounds.
    fn tend_ear(&mut self, wanted: bool, within: Duration) {
        let now = self.around.reporting.clock.now();
        if let Some((ear, opened)) = &self.ear {
            let (over, used_up) = (ear.is_over(), now.since(*opened) >= EAR_OPEN);
            if over {
                self.ear_failed = ear.failure();
            }
            if over || used_up {
                self.ear_rests = Some(now + EAR_REST);
            }
            if over || used_up || !wanted {
                self.ear = None;
            }
            return;
        }
        if wanted && self.ear_rests.is_none_or(|until| now >= until) {
            self.ears += 1;
            self.ear_failed = None;
            self.around.reporting.metrics.compared();
            let channels = self.subscription.channels.clone();
            let ear = Ear::open(self.ears, &self.server, channels, within);
            self.ear = Some((ear, now));
        }
    }
}

impl Prober for Watch {
    const KIND: CheckKind = CheckKind::Subscription;
    const TOGETHER: bool = true;

    async fn look(&mut self, within: Duration) -> Outcome {
        let compared = tokio::time::timeout(within, self.compare(within)).await;
        let detail = match compared {
            Ok(Ok(outcome)) => return outcome,
            Ok(Err(detail)) => detail,
            Err(_) => format!("looking has not ended within {within:?}"),
        };
        // What was condemned stays so until it is looked at again: a remedy compares each connection anyway.
        Outcome::Unknown { detail }
    }
}

/// Can a `subscription` check see from here? `None`: the embedded bus, which can be asked anything.
pub(super) async fn preflight(server: Option<Server>, within: Duration) -> Finding {
    let Some(server) = server else {
        return Finding::OK;
    };
    let mut asker = Asker::new(server, "preflight");
    let place = asker.place();
    let asked = match asker.control(within).await {
        Ok(Ok(_)) => asker
            .clients(Which::Subscribed, within, |_| false)
            .await
            .map(|_| ()),
        Ok(Err(why)) => {
            let cure = "join the owner's network namespace, and reach Redis as it does";
            return Finding::missing(format!("{place}: {why}"), cure);
        }
        Err(failure) => Err(failure),
    };
    match asked {
        Ok(()) => Finding::OK,
        Err(Failure::Refused { cure }) => Finding::missing(format!("{place} refuses"), cure),
        Err(Failure::Down { reason, .. }) => Finding::unknown(format!("{place}: {reason}")),
    }
}
