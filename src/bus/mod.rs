//! The bus: two links to Redis, or to the embedded broker, and what travels on them.
//!
//! Turns messages into events and decisions into messages. Knows nothing of peers, checks or remedies. What is
//! absent: a queue for what could not be published, and trust in any client library's own reconnecting.

mod ask;
mod backoff;
mod calm;
pub mod embedded;
pub mod heartbeat;
mod intake;
mod link;
mod preflight;
mod session;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::engine::event::{Event, Heartbeat, Link};
use crate::engine::time::{Clock, Time};
use crate::redis_client::Endpoint;
use crate::redis_client::dial::Dial;
use crate::telemetry::metrics::bus::BusMetrics;
pub use ask::Asking;
pub use intake::{Intake, NoHeartbeat, Seal};
use link::{Keeper, Order};
pub use preflight::{of_asked as preflight_of_asked, preflight};
use session::Shared;

/// Orders that may wait for one link; more are dropped and reported. Links take them at once in every state.
const ORDERS: usize = 8;

/// Everything the bus needs to know.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// What is on the other end.
    pub backend: Backend,
    /// Names the connections: `defib:<node>:pub` and `defib:<node>:sub`.
    pub node: Arc<str>,
    /// Our own heartbeats go out here.
    pub publish_channel: Arc<str>,
    /// Channels to subscribe to at first, the group's own among them.
    pub channels: Vec<Arc<str>>,
    /// Time between in-band PINGs, and each one's deadline. The interval of our heartbeats; default 1 s.
    pub interval: Duration,
    /// Bound on connecting, the TLS handshake included. Default 1 s... 5 s.
    pub connect_timeout: Duration,
}

/// What is on the other end.
#[derive(Clone, Debug, PartialEq)]
pub enum Backend {
    /// A Redis (or Valkey) server.
    Redis(Endpoint),
    /// The broker inside this process; with `listen`, other processes of this machine can join by RESP.
    Embedded {
        /// A loopback address; `None`: in-process only.
        listen: Option<SocketAddr>,
    },
}

/// What the event loop asks of the bus.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Publish now, or drop and report `PublishFailed`; nothing is queued up during an outage.
    Publish(Heartbeat),
    /// Drop that link's connection and make a new one at once (no backoff for the first try).
    Replace(Link),
}

/// The channels that are listened to.
pub type Channels = Arc<[Arc<str>]>;

/// Seconds since the epoch by the wall clock: written into heartbeats for display, never judged by.
pub type WallClock = Arc<dyn Fn() -> f64 + Send + Sync>;

/// The two links, ready to run.
pub struct Bus {
    /// What is subscribed to and published on, and how often the links are asked for life.
    pub settings: Settings,
    /// The other end: [`Redis`](crate::redis_client::Redis), or the embedded broker.
    pub dial: Arc<dyn Dial>,
    /// What is subscribed to now. Followed on the connection that there is.
    pub listen: watch::Receiver<Channels>,
    /// Where it is counted.
    pub metrics: BusMetrics,
    /// Times deadlines.
    pub clock: Arc<dyn Clock>,
    /// For `wall_ts`.
    pub wall: WallClock,
    /// How heartbeats are signed and verified, if they are.
    pub seal: Option<Seal>,
    /// Shows our latest heartbeat that came back, as it went out, and until when it may be shown.
    pub latest: watch::Sender<(Time, Arc<[u8]>)>,
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bus")
            .field("settings", &self.settings)
            .field("dial", &self.dial)
            .finish_non_exhaustive()
    }
}

impl Bus {
    /// Keeps both links until cancelled or until `commands` is closed. What was commanded before that (the
    /// goodbye) is still published, if that takes no longer than one interval.
    ///
    /// Messages that find no room in `events` are dropped and counted; everything else waits for room. Fails
    /// only if `events` is closed under it.
    pub async fn run(
        self,
        mut commands: mpsc::Receiver<Command>,
        events: mpsc::Sender<Event>,
        cancel: CancellationToken,
    ) -> anyhow::Result<()> {
        let interval = self.settings.interval;
        let shared = Arc::new(Shared::new(self, events.clone()));
        let (publisher, publisher_orders) = mpsc::channel(ORDERS);
        let (subscriber, subscriber_orders) = mpsc::channel(ORDERS);
        let links = async {
            tokio::join!(
                Keeper::new(shared.clone(), Link::Pub, publisher_orders).run(),
                Keeper::new(shared.clone(), Link::Sub, subscriber_orders).run(),
            )
        };
        tokio::pin!(links);
        let pass_on = |command| match command {
            Command::Publish(heartbeat) => {
                // A link with orders to take does not rest either; the last place is for the order to replace it.
                if subscriber.capacity() > 1 {
                    let _ = subscriber.try_send(Order::Expect(heartbeat.slot.unwrap_or_default()));
                }
                if let Err(unsent) = publisher.try_send(Order::Publish(heartbeat))
                    && let Order::Publish(heartbeat) = unsent.into_inner()
                {
                    shared.count_unpublished();
                    return Some(Event::PublishFailed {
                        slot: heartbeat.slot.unwrap_or_default(),
                    });
                }
                None
            }
            // A link with orders to take is about to look at them: one more would change nothing.
            Command::Replace(Link::Pub) => publisher.try_send(Order::Replace).err().and(None),
            Command::Replace(Link::Sub) => subscriber.try_send(Order::Replace).err().and(None),
        };
        loop {
            tokio::select! {
                biased;
                () = cancel.cancelled() => break,
                () = events.closed() => anyhow::bail!("nobody takes the bus's events any more"),
                command = commands.recv() => match command {
                    Some(command) => if let Some(failed) = pass_on(command) {
                        let _ = events.send(failed).await;
                    },
                    None => break,
                },
                _ = &mut links => anyhow::bail!("the links ended by themselves"),
            }
        }
        commands.close();
        while let Ok(command) = commands.try_recv() {
            pass_on(command);
        }
        drop((publisher, subscriber));
        // Twice: a PUBLISH may be written and answered within one interval each.
        let _ = tokio::time::timeout(2 * interval, links).await;
        Ok(())
    }
}
