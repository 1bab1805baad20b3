//! One link: a connection that is kept. Made, greeted, asked for life at every interval, given up when it does
//! not answer, and made anew, without end.
//!
//! Nothing is waited for in here without orders being taken meanwhile: a heartbeat that cannot go out now is
//! reported as failed at once.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tracing::{debug, info, warn};

use super::Channels;
use super::backoff::Backoff;
use super::calm::Calm;
use super::session::{Session, Shared};
use crate::engine::event::{Event, Heartbeat, Link, LinkStatus};
use crate::redis_client::connection::Connection;
use crate::redis_client::failure::{Failure, Loss};
use crate::redis_client::greeting::{Greeting, connection_name, greet, subscribe};

/// How often the server is asked for its role again (a demoted master goes on answering: scenario 40). A remedy on
/// bus evidence waits for it.
const ROLE_INTERVAL: Duration = Duration::from_secs(2);
/// A last look for an answer before its absence is judged: after a pause of our own, both the deadline and the
/// answer are there, and the answer counts.
const LAST_LOOK: Duration = Duration::from_millis(10);
/// Heartbeats written and not answered. One a slot, and the goodbye right behind it.
const MAX_IN_FLIGHT: usize = 2;

/// What a link is asked to do.
pub(super) enum Order {
    Publish(Heartbeat),
    /// The heartbeat of this slot is being published: the sub link must not rest until it is back.
    Expect(u64),
    Replace,
}

/// Keeps one link.
pub(super) struct Keeper {
    shared: Arc<Shared>,
    link: Link,
    orders: mpsc::Receiver<Order>,
    listen: watch::Receiver<Channels>,
    backoff: Backoff,
    told: Option<LinkStatus>,
}

/// A connection, what its server said of itself, and what it is subscribed to.
type Connected = (Connection, Greeting, Channels);

/// How the time with one connection ended.
enum Ended {
    /// No more orders will come.
    Closed,
    /// `proven`: it had answered at least one PING, so that the next try may follow at once.
    Lost { failure: Failure, proven: bool },
}

impl Keeper {
    pub(super) fn new(shared: Arc<Shared>, link: Link, orders: mpsc::Receiver<Order>) -> Self {
        let listen = shared.bus.listen.clone();
        Self {
            shared,
            link,
            orders,
            listen,
            backoff: Backoff::new(),
            told: None,
        }
    }

    /// Returns when no more orders can come, and what was ordered before is done.
    pub(super) async fn run(mut self) {
        loop {
            let Some(connected) = self.connect().await else {
                break;
            };
            let (failure, proven) = match connected {
                Ok((connection, greeting, channels)) => {
                    match self.serve(connection, greeting, &channels).await {
                        Ended::Closed => break,
                        Ended::Lost { failure, proven } => (failure, proven),
                    }
                }
                Err(failure) => (failure, false),
            };
            let refused = matches!(failure, Failure::Refused { .. });
            self.tell(failure.into_status()).await;
            if proven {
                self.backoff.reset();
            } else if !self.wait(refused).await {
                break;
            }
        }
        self.metrics_up(false);
    }

    /// One try. `None`: closed meanwhile.
    async fn connect(&mut self) -> Option<Result<Connected, Failure>> {
        let shared = self.shared.clone();
        let link = self.link;
        let channels = Arc::clone(&self.listen.borrow_and_update());
        let within = shared.settings().connect_timeout;
        let connecting = async {
            timeout(within, establish(&shared, link, channels))
                .await
                .unwrap_or_else(|_| {
                    let place = shared.bus.dial.place();
                    Err(Failure::down(
                        Loss::Connect,
                        format!("no connection to {place} within {within:?}"),
                    ))
                })
        };
        tokio::pin!(connecting);
        let connected = loop {
            tokio::select! {
                biased;
                order = self.orders.recv() => match order {
                    Some(Order::Publish(heartbeat)) => self.decline(&heartbeat).await,
                    Some(Order::Expect(_) | Order::Replace) => {}
                    None => return None,
                },
                connected = &mut connecting => break connected,
            }
        };
        let result = match &connected {
            Ok(_) => "ok",
            Err(Failure::Down { .. }) => "failed",
            Err(Failure::Refused { .. }) => "refused",
        };
        let connects = &self.shared.bus.metrics.connects;
        connects.with_label_values(&[self.link.as_str(), result]).inc();
        if result == "refused" {
            self.count_refusal();
        }
        Some(connected)
    }

    /// Waits before the next try; an order to replace the link ends the wait. False: closed meanwhile.
    async fn wait(&mut self, refused: bool) -> bool {
        let waiting = sleep(self.backoff.next(refused));
        tokio::pin!(waiting);
        loop {
            tokio::select! {
                biased;
                order = self.orders.recv() => match order {
                    Some(Order::Publish(heartbeat)) => self.decline(&heartbeat).await,
                    Some(Order::Expect(_)) => {}
                    Some(Order::Replace) => return true,
                    None => return false,
                },
                () = &mut waiting => return true,
            }
        }
    }

    /// Keeps one connection for as long as it answers.
    async fn serve(&mut self, mut connection: Connection, greeting: Greeting, channels: &Channels) -> Ended {
        if !greeting.named {
            debug!(
                link = self.link.as_str(),
                "the server does not let this connection take a name (ACL rule +client|setname)"
            );
        }
        let mut session = Session::new(self.shared.clone(), self.link, greeting, channels);
        self.tell(session.status()).await;
        let ended = self.keep(&mut connection, &mut session).await;
        let unanswered = session.drain_unanswered();
        self.send_all(&mut session).await;
        for slot in unanswered {
            self.shared.count_unpublished();
            self.send(Event::PublishFailed { slot }).await;
        }
        match ended {
            Ok(()) => {
                connection.close().await;
                Ended::Closed
            }
            Err(failure) => {
                self.shared.show_nothing();
                let lost = &self.shared.bus.metrics.lost;
                lost.with_label_values(&[self.link.as_str(), failure.loss().as_str()])
                    .inc();
                let proven = session.proven || failure.loss() == Loss::Replaced;
                Ended::Lost { failure, proven }
            }
        }
    }

    /// `Ok`: closed, and the last heartbeat in hand was answered.
    async fn keep(&mut self, connection: &mut Connection, session: &mut Session) -> Result<(), Failure> {
        let mut ping = interval(self.shared.settings().interval.max(Duration::from_millis(1)));
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut role = interval(ROLE_INTERVAL);
        role.set_missed_tick_behavior(MissedTickBehavior::Delay);
        role.reset();
        let mut calm = Calm::new(self.shared.settings().interval, self.shared.now());
        let mut rest = pin!(sleep(Duration::ZERO));
        let mut resting = false;
        let mut closing = false;
        while !(closing && session.in_flight() == 0) {
            let overdue_in = session.overdue_in();
            resting &= !session.waits();
            tokio::select! {
                biased;
                order = self.orders.recv(), if !closing => match order {
                    Some(Order::Publish(heartbeat)) if session.in_flight() >= MAX_IN_FLIGHT => {
                        self.decline(&heartbeat).await;
                    }
                    Some(Order::Publish(heartbeat)) => {
                        session.publish(connection, &heartbeat).await?;
                        self.send_all(session).await;
                    }
                    Some(Order::Expect(slot)) => session.expect(slot),
                    Some(Order::Replace) => {
                        return Err(Failure::down(Loss::Replaced, "being replaced by a new connection"));
                    }
                    None => closing = true,
                },
                () = sleep(overdue_in.unwrap_or_default()), if overdue_in.is_some() => {
                    // More to read means that the answer may be behind it; only silence is judged.
                    match timeout(LAST_LOOK, connection.fill()).await {
                        Ok(filled) => drop(filled?),
                        Err(_) => return Err(session.silence()),
                    }
                    self.take_in(connection, session).await?;
                }
                Ok(()) = self.listen.changed(), if self.link == Link::Sub => {
                    let channels = Arc::clone(&self.listen.borrow_and_update());
                    session.listen_to(connection, &channels).await?;
                }
                _ = ping.tick() => session.ping(connection).await?,
                _ = role.tick() => session.ask_role(connection).await?,
                () = &mut rest, if resting => resting = false,
                filled = connection.fill(), if !resting => {
                    let bytes = filled?;
                    self.take_in(connection, session).await?;
                    if let Some(length) = calm.took(bytes, self.shared.now())
                        && self.link == Link::Sub
                        && !session.waits()
                    {
                        connection.rest();
                        rest.set(sleep(length));
                        resting = true;
                    }
                }
            }
        }
        Ok(())
    }

    /// Reads everything that has arrived completely.
    async fn take_in(&mut self, connection: &mut Connection, session: &mut Session) -> Result<(), Failure> {
        let taken = loop {
            match connection.next() {
                Ok(Some(value)) => {
                    if let Err(failure) = session.take(&value) {
                        break Err(failure);
                    }
                    if session.is_weary() {
                        self.send_all(session).await;
                        tokio::task::yield_now().await;
                    }
                }
                Ok(None) => break Ok(()),
                Err(failure) => break Err(failure),
            }
        };
        self.send_all(session).await;
        taken
    }

    async fn send_all(&mut self, session: &mut Session) {
        let mut outbox = std::mem::take(&mut session.outbox);
        for event in outbox.drain(..) {
            match event {
                Event::Message { .. } => session.hand_over(event).await,
                Event::Link { status, .. } => self.tell(status).await,
                event => self.send(event).await,
            }
        }
        session.outbox = outbox;
    }

    async fn decline(&self, heartbeat: &Heartbeat) {
        self.shared.count_unpublished();
        let slot = heartbeat.slot.unwrap_or_default();
        self.send(Event::PublishFailed { slot }).await;
    }

    /// A closed channel is seen, and acted on, by [`Bus::run`].
    async fn send(&self, event: Event) {
        let _ = self.shared.events.send(event).await;
    }

    /// Tells a status: to people once, to the event loop each time.
    async fn tell(&mut self, status: LinkStatus) {
        if self.told.as_ref() != Some(&status) {
            self.log(&status);
            self.metrics_up(matches!(status, LinkStatus::Up { .. }));
            self.told = Some(status.clone());
        }
        self.send(Event::Link {
            link: self.link,
            status,
        })
        .await;
    }

    fn log(&self, status: &LinkStatus) {
        let (link, place) = (self.link.as_str(), self.shared.bus.dial.place());
        let was_down = matches!(self.told, Some(LinkStatus::Down { .. }));
        match status {
            LinkStatus::Up { role, .. } => info!(link, place, ?role, "bus link up"),
            LinkStatus::Down { reason } if was_down => debug!(link, place, reason, "bus link still down"),
            LinkStatus::Down { reason } => warn!(link, place, reason, "bus link down"),
            LinkStatus::Refused { cure } => warn!(link, place, cure, "the bus refuses"),
        }
    }

    fn metrics_up(&self, up: bool) {
        let gauge = &self.shared.bus.metrics.link_up;
        gauge.with_label_values(&[self.link.as_str()]).set(up.into());
    }

    fn count_refusal(&self) {
        let refusals = &self.shared.bus.metrics.refusals;
        refusals.with_label_values(&[self.link.as_str()]).inc();
    }
}

/// Connects, gets in, and for the sub link subscribes.
async fn establish(shared: &Shared, link: Link, channels: Channels) -> Result<Connected, Failure> {
    let settings = shared.settings();
    let dial = &shared.bus.dial;
    let io = dial.dial().await.map_err(|error| {
        Failure::down(
            Loss::Connect,
            format!("cannot connect to {}: {error}", dial.place()),
        )
    })?;
    let login = dial.login();
    let mut connection = Connection::new(io, settings.interval);
    let greeting = greet(
        &mut connection,
        &login,
        &connection_name(&settings.node, link.as_str()),
    )
    .await?;
    if link == Link::Sub {
        subscribe(&mut connection, &channels, &login).await?;
    }
    Ok((connection, greeting, channels))
}
