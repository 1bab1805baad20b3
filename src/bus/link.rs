//! One link: a connection that is kept. Made, greeted, asked for life at every interval, given up when it does
//! not answer, and made anew, without end.
//!
//! Nothing is waited for in here without orders being taken meanwhile: a heartbeat that cannot go out now is
//! reported as failed at once.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use prometheus::IntCounter;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tracing::{debug, info, warn};

use super::backoff::Backoff;
use super::connection::Connection;
use super::dial::Login;
use super::failure::{Asked, Failure, Loss, judge};
use super::greeting::{Greeting, Server, connection_name, greet, subscribe};
use super::heartbeat::{self, Unreadable};
use super::resp::Value;
use super::{Bus, Settings};
use crate::engine::event::{Body, Event, Heartbeat, Link, LinkStatus};
use crate::engine::time::Time;

/// How often the server is asked for its role again (a demoted master goes on answering: scenario 40).
const ROLE_INTERVAL: Duration = Duration::from_secs(5);
/// A last look for an answer before its absence is judged: after a pause of our own, both the deadline and the
/// answer are there, and the answer counts.
const LAST_LOOK: Duration = Duration::from_millis(10);
/// How long a message waits for room in the event loop before it, and all others until there is room, are
/// dropped: old messages are worth less than a link that answers.
const ROOM_PATIENCE: Duration = Duration::from_millis(20);
/// Heartbeats written and not answered. One a slot, and the goodbye right behind it.
const MAX_IN_FLIGHT: usize = 2;

/// What both links share.
pub(super) struct Shared {
    bus: Bus,
    events: mpsc::Sender<Event>,
    channels: HashMap<Box<[u8]>, Arc<str>>,
    /// One for each [`Unreadable`], in its order: looked up once and not for each message.
    opaque: [IntCounter; Unreadable::ALL.len()],
}

impl Shared {
    pub(super) fn new(bus: Bus, events: mpsc::Sender<Event>) -> Self {
        let channels = bus
            .settings
            .channels
            .iter()
            .map(|channel| (Box::from(channel.as_bytes()), channel.clone()))
            .collect();
        let opaque = Unreadable::ALL.map(|reason| bus.metrics.opaque.with_label_values(&[reason.as_str()]));
        Self {
            bus,
            events,
            channels,
            opaque,
        }
    }

    pub(super) fn count_unpublished(&self) {
        self.bus.metrics.published.with_label_values(&["failed"]).inc();
    }

    fn settings(&self) -> &Settings {
        &self.bus.settings
    }

    fn now(&self) -> Time {
        self.bus.clock.now()
    }
}

/// What a link is asked to do.
pub(super) enum Order {
    Publish(Heartbeat),
    Replace,
}

/// Keeps one link.
pub(super) struct Keeper {
    shared: Arc<Shared>,
    link: Link,
    orders: mpsc::Receiver<Order>,
    backoff: Backoff,
    told: Option<LinkStatus>,
}

/// How the time with one connection ended.
enum Ended {
    /// No more orders will come.
    Closed,
    /// `proven`: it had answered at least one PING, so that the next try may follow at once.
    Lost { failure: Failure, proven: bool },
}

impl Keeper {
    pub(super) fn new(shared: Arc<Shared>, link: Link, orders: mpsc::Receiver<Order>) -> Self {
        Self {
            shared,
            link,
            orders,
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
                Ok((connection, greeting)) => match self.serve(connection, greeting).await {
                    Ended::Closed => break,
                    Ended::Lost { failure, proven } => (failure, proven),
                },
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
    async fn connect(&mut self) -> Option<Result<(Connection, Greeting), Failure>> {
        let shared = self.shared.clone();
        let link = self.link;
        let within = shared.settings().connect_timeout;
        let connecting = async {
            timeout(within, establish(&shared, link))
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
                    Some(Order::Replace) => {}
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
                    Some(Order::Replace) => return true,
                    None => return false,
                },
                () = &mut waiting => return true,
            }
        }
    }

    /// Keeps one connection for as long as it answers.
    async fn serve(&mut self, mut connection: Connection, greeting: Greeting) -> Ended {
        if !greeting.named {
            debug!(
                link = self.link.as_str(),
                "the server does not let this connection take a name (ACL rule +client|setname)"
            );
        }
        let mut session = Session::new(self.shared.clone(), self.link, greeting);
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
        let mut closing = false;
        while !(closing && session.in_flight() == 0) {
            let overdue_in = session.overdue_in();
            tokio::select! {
                biased;
                order = self.orders.recv(), if !closing => match order {
                    Some(Order::Publish(heartbeat)) if session.in_flight() >= MAX_IN_FLIGHT => {
                        self.decline(&heartbeat).await;
                    }
                    Some(Order::Publish(heartbeat)) => session.publish(connection, &heartbeat).await?,
                    Some(Order::Replace) => {
                        return Err(Failure::down(Loss::Replaced, "being replaced by a new connection"));
                    }
                    None => closing = true,
                },
                () = sleep(overdue_in.unwrap_or_default()), if overdue_in.is_some() => {
                    // More to read means that the answer may be behind it; only silence is judged.
                    match timeout(LAST_LOOK, connection.fill()).await {
                        Ok(filled) => filled?,
                        Err(_) => return Err(session.silence()),
                    }
                    self.take_in(connection, session).await?;
                }
                _ = ping.tick() => session.ping(connection).await?,
                _ = role.tick() => session.ask_role(connection).await?,
                filled = connection.fill() => {
                    filled?;
                    self.take_in(connection, session).await?;
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

    /// Tells a status once, to people and to the event loop.
    async fn tell(&mut self, status: LinkStatus) {
        if self.told.as_ref() == Some(&status) {
            return;
        }
        let (link, place) = (self.link.as_str(), self.shared.bus.dial.place());
        let was_down = matches!(self.told, Some(LinkStatus::Down { .. }));
        match &status {
            LinkStatus::Up { role, .. } => info!(link, place, ?role, "bus link up"),
            LinkStatus::Down { reason } if was_down => debug!(link, place, reason, "bus link still down"),
            LinkStatus::Down { reason } => warn!(link, place, reason, "bus link down"),
            LinkStatus::Refused { cure } => warn!(link, place, cure, "the bus refuses"),
        }
        self.metrics_up(matches!(status, LinkStatus::Up { .. }));
        self.told = Some(status.clone());
        self.send(Event::Link {
            link: self.link,
            status,
        })
        .await;
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
async fn establish(shared: &Shared, link: Link) -> Result<(Connection, Greeting), Failure> {
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
    let greeting = greet(&mut connection, &login, &connection_name(&settings.node, link)).await?;
    if link == Link::Sub {
        subscribe(&mut connection, &settings.channels, &login).await?;
    }
    Ok((connection, greeting))
}

/// What is asked and not answered yet. Answers come in the order of the questions.
struct Awaited {
    what: Question,
    asked: Time,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Question {
    Ping,
    Publish(u64),
    Role,
}

/// What is known of one connection while it is kept.
struct Session {
    shared: Arc<Shared>,
    link: Link,
    login: Login,
    greeting: Greeting,
    awaited: VecDeque<Awaited>,
    /// The server refuses PING or PUBLISH, and answers.
    ping_refused: Option<String>,
    publish_refused: Option<String>,
    /// A PING was answered.
    proven: bool,
    /// There is no room for messages: none waits for it until there is some again.
    shedding: bool,
    outbox: Vec<Event>,
}

impl Session {
    fn new(shared: Arc<Shared>, link: Link, greeting: Greeting) -> Self {
        let login = shared.bus.dial.login();
        Self {
            shared,
            link,
            login,
            greeting,
            awaited: VecDeque::new(),
            ping_refused: None,
            publish_refused: None,
            proven: false,
            shedding: false,
            outbox: Vec::new(),
        }
    }

    fn status(&self) -> LinkStatus {
        match self.publish_refused.as_ref().or(self.ping_refused.as_ref()) {
            Some(cure) => LinkStatus::Refused { cure: cure.clone() },
            None => LinkStatus::Up {
                role: self.greeting.server.role,
                plain: self.greeting.server.plain,
            },
        }
    }

    fn tell_status(&mut self) {
        let (link, status) = (self.link, self.status());
        self.outbox.push(Event::Link { link, status });
    }

    fn in_flight(&self) -> usize {
        let publishes = self
            .awaited
            .iter()
            .filter(|awaited| matches!(awaited.what, Question::Publish(_)));
        publishes.count()
    }

    /// Slots whose PUBLISH will not be answered any more.
    fn drain_unanswered(&mut self) -> Vec<u64> {
        self.awaited
            .drain(..)
            .filter_map(|awaited| match awaited.what {
                Question::Publish(slot) => Some(slot),
                Question::Ping | Question::Role => None,
            })
            .collect()
    }

    /// Time until the oldest question is overdue.
    fn overdue_in(&self) -> Option<Duration> {
        let oldest = self.awaited.front()?;
        Some((oldest.asked + self.shared.settings().interval).since(self.shared.now()))
    }

    fn silence(&self) -> Failure {
        let within = self.shared.settings().interval;
        let what = match self.awaited.front().map(|awaited| awaited.what) {
            Some(Question::Publish(_)) => "PUBLISH",
            Some(Question::Role) => "the question for its role",
            Some(Question::Ping) | None => "PING",
        };
        Failure::down(Loss::Silent, format!("no answer to {what} within {within:?}"))
    }

    async fn ping(&mut self, connection: &mut Connection) -> Result<(), Failure> {
        self.ask(connection, Question::Ping, &[b"PING"]).await
    }

    async fn ask_role(&mut self, connection: &mut Connection) -> Result<(), Failure> {
        // A subscribed RESP2 connection takes no such question; the pub link asks it.
        if self.link == Link::Sub && !self.greeting.resp3() {
            return Ok(());
        }
        match self.greeting.question.words() {
            Some(words) => self.ask(connection, Question::Role, words).await,
            None => Ok(()),
        }
    }

    async fn publish(&mut self, connection: &mut Connection, heartbeat: &Heartbeat) -> Result<(), Failure> {
        let body = heartbeat::encode(heartbeat, (self.shared.bus.wall)());
        let channel = self.shared.settings().publish_channel.clone();
        let what = Question::Publish(heartbeat.slot.unwrap_or_default());
        self.ask(connection, what, &[b"PUBLISH", channel.as_bytes(), &body])
            .await
    }

    async fn ask(
        &mut self,
        connection: &mut Connection,
        what: Question,
        words: &[&[u8]],
    ) -> Result<(), Failure> {
        let asked = self.shared.now();
        self.awaited.push_back(Awaited { what, asked });
        connection.queue(words);
        connection.flush().await
    }

    /// Takes one value in: a message, or the answer to the oldest question.
    fn take(&mut self, value: &Value<'_>) -> Result<(), Failure> {
        match value {
            Value::Push(items) => self.take_push(items),
            Value::List(items) if !self.greeting.resp3() && self.link == Link::Sub => self.take_push(items),
            value => self.take_answer(value),
        }
    }

    fn take_push(&mut self, items: &[Value<'_>]) -> Result<(), Failure> {
        match items {
            [kind, channel, body] if kind.text() == Some(b"message") => {
                self.take_message(channel.text().unwrap_or_default(), body);
                Ok(())
            }
            [kind, _] if kind.text() == Some(b"pong") => self.take_answer(&items[0]),
            [kind, ..] if kind.text() == Some(b"unsubscribe") => Err(Failure::down(
                Loss::Server,
                "the server ended the subscription of a channel",
            )),
            _ => Ok(()),
        }
    }

    fn take_message(&mut self, channel: &[u8], body: &Value<'_>) {
        let Some(channel) = self.shared.channels.get(channel).cloned() else {
            return;
        };
        let read = match body {
            Value::Oversized(_) => Err(Unreadable::TooBig),
            body => heartbeat::read(body.text().unwrap_or_default()),
        };
        let body = match read {
            Ok(heartbeat) => {
                self.shared.bus.metrics.heartbeats.inc();
                Body::Heartbeat(heartbeat)
            }
            Err(reason) => {
                self.shared.opaque[reason as usize].inc();
                Body::Opaque
            }
        };
        self.outbox.push(Event::Message { channel, body });
    }

    fn take_answer(&mut self, value: &Value<'_>) -> Result<(), Failure> {
        let Some(Awaited { what, asked }) = self.awaited.pop_front() else {
            return Err(match value {
                Value::Error(error) => judge(error, Asked::Ping, self.login.user_name()),
                _ => Failure::down(Loss::Protocol, "the server answered what was not asked"),
            });
        };
        let took = self.shared.now().since(asked).as_secs_f64();
        match what {
            Question::Ping => self.take_pong(value, took),
            Question::Publish(slot) => self.take_published(value, slot, took),
            Question::Role => {
                if let Some(server) = Server::told_by(value, self.greeting.server)
                    && server != self.greeting.server
                {
                    self.greeting.server = server;
                    self.tell_status();
                }
                Ok(())
            }
        }
    }

    fn take_pong(&mut self, value: &Value<'_>, took: f64) -> Result<(), Failure> {
        if let Value::Error(error) = value {
            let cure = self.refusal(judge(error, Asked::Ping, self.login.user_name()), error)?;
            if self.ping_refused.replace(cure.clone()) != Some(cure) {
                self.tell_status();
            }
            return Ok(());
        }
        let seconds = &self.shared.bus.metrics.ping;
        seconds.with_label_values(&[self.link.as_str()]).observe(took);
        self.proven = true;
        if self.ping_refused.take().is_some() {
            self.tell_status();
        }
        Ok(())
    }

    fn take_published(&mut self, value: &Value<'_>, slot: u64, took: f64) -> Result<(), Failure> {
        let metrics = &self.shared.bus.metrics;
        match value {
            Value::Integer(receivers) => {
                metrics.published.with_label_values(&["ok"]).inc();
                metrics.publish.observe(took);
                let receivers = u64::try_from(*receivers).unwrap_or(0);
                self.outbox.push(Event::Published { slot, receivers });
                if self.publish_refused.take().is_some() {
                    self.tell_status();
                }
                Ok(())
            }
            Value::Error(error) => {
                metrics.published.with_label_values(&["refused"]).inc();
                self.outbox.push(Event::PublishFailed { slot });
                let channel = self.shared.settings().publish_channel.clone();
                let judged = judge(error, Asked::Publish(&channel), self.login.user_name());
                let cure = self.refusal(judged, error)?;
                if self.publish_refused.replace(cure.clone()) != Some(cure) {
                    self.tell_status();
                }
                Ok(())
            }
            _ => {
                self.outbox.push(Event::PublishFailed { slot });
                Err(Failure::down(
                    Loss::Protocol,
                    "the server answered PUBLISH with something else than a number",
                ))
            }
        }
    }

    /// A refusal that this connection can outlive; a server that forgot who we are needs a new one.
    fn refusal(&self, judged: Failure, error: &[u8]) -> Result<String, Failure> {
        let refusals = &self.shared.bus.metrics.refusals;
        match judged {
            Failure::Refused { cure } if !error.starts_with(b"NOAUTH") => {
                refusals.with_label_values(&[self.link.as_str()]).inc();
                Ok(cure)
            }
            failure => Err(failure),
        }
    }

    /// Hands a message to the event loop, or drops it.
    async fn hand_over(&mut self, message: Event) {
        use mpsc::error::TrySendError::{Closed, Full};
        let events = &self.shared.events;
        self.shedding = match events.try_send(message) {
            Ok(()) | Err(Closed(_)) => false,
            Err(Full(message)) if !self.shedding => {
                timeout(ROOM_PATIENCE, events.send(message)).await.is_err()
            }
            Err(Full(_)) => true,
        };
        if self.shedding {
            self.shared.bus.metrics.dropped.inc();
        }
    }
}
