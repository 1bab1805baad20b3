//! What is known of one connection while it is kept: what was asked and not answered yet, what the server
//! refuses, and the events that follow from what it sends.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus::IntCounter;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::heartbeat::{self, MAX_BYTES, Unreadable};
use super::intake::{Intake, NoHeartbeat, millis};
use super::{Bus, Channels, Settings};
use crate::engine::event::{Body, Event, Heartbeat, Link, LinkStatus};
use crate::engine::time::Time;
use crate::redis_client::connection::Connection;
use crate::redis_client::dial::Login;
use crate::redis_client::failure::{Asked, Failure, Loss, judge};
use crate::redis_client::greeting::{Greeting, Server};
use crate::redis_client::resp::Value;
use crate::signing::ROOM;

/// How long a message waits for room in the event loop before it, and all others until there is room, are
/// dropped: old messages are worth less than a link that answers.
const ROOM_PATIENCE: Duration = Duration::from_millis(20);
/// Messages verified before others on this thread get a turn: a flood of forged ones must not hold it.
const VERIFIED_AT_ONCE: usize = 64;

/// What both links share.
pub(super) struct Shared {
    pub(super) bus: Bus,
    pub(super) events: mpsc::Sender<Event>,
    /// One for each [`Unreadable`], in its order: looked up once and not for each message.
    opaque: [IntCounter; Unreadable::ALL.len()],
    /// Our heartbeat that went out last and is not back yet, and when that was.
    out: Mutex<Option<(Time, Arc<[u8]>)>>,
}

impl Shared {
    pub(super) fn new(bus: Bus, events: mpsc::Sender<Event>) -> Self {
        let opaque = Unreadable::ALL.map(|reason| bus.metrics.opaque.with_label_values(&[reason.as_str()]));
        Self {
            bus,
            events,
            opaque,
            out: Mutex::default(),
        }
    }

    pub(super) fn count_unpublished(&self) {
        self.bus.metrics.published.with_label_values(&["failed"]).inc();
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.bus.settings
    }

    pub(super) fn now(&self) -> Time {
        self.bus.clock.now()
    }

    fn goes_out(&self, body: &[u8]) {
        *self.out() = Some((self.now(), Arc::from(body)));
    }

    /// What came back is shown to who asks for it, for as long as the next one may take. Nothing else is: with the bus away
    /// there is no vote.
    fn came_back(&self, body: &[u8]) {
        let own = self.out().take_if(|(_, out)| **out == *body);
        if let Some((sent, own)) = own {
            let until = sent + 2 * self.settings().interval;
            self.bus.latest.send_replace((until, own));
        }
    }

    /// A link is lost: neither what came back before that nor what is still out is shown.
    pub(super) fn show_nothing(&self) {
        *self.out() = None;
        self.bus.latest.send_replace(Default::default());
    }

    fn out(&self) -> std::sync::MutexGuard<'_, Option<(Time, Arc<[u8]>)>> {
        self.out.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn by_name(channel: &Arc<str>) -> (Box<[u8]>, Arc<str>) {
    (Box::from(channel.as_bytes()), Arc::clone(channel))
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
    Subscribe,
    Unsubscribe,
}

/// What is known of one connection while it is kept.
pub(super) struct Session {
    shared: Arc<Shared>,
    link: Link,
    /// What is listened to, by its name in messages.
    channels: HashMap<Box<[u8]>, Arc<str>>,
    /// Asked for and not confirmed yet, in order.
    asked_for: VecDeque<Arc<str>>,
    login: Login,
    greeting: Greeting,
    awaited: VecDeque<Awaited>,
    /// The server refuses PING or PUBLISH, and answers.
    ping_refused: Option<String>,
    publish_refused: Option<String>,
    /// A PING was answered.
    pub(super) proven: bool,
    /// Messages dropped since there was no room for them. None waits until there is some again.
    shed: u64,
    intake: Intake,
    /// Messages verified since somebody else had a turn.
    verified: usize,
    /// The slot of our own heartbeat that is to come back.
    expected: Option<u64>,
    /// What is still to be told, in order.
    pub(super) outbox: Vec<Event>,
}

impl Session {
    /// `channels`: what it is subscribed to.
    pub(super) fn new(shared: Arc<Shared>, link: Link, greeting: Greeting, channels: &Channels) -> Self {
        let login = shared.bus.dial.login();
        let verifier = shared.bus.seal.as_ref().map(|seal| Arc::clone(&seal.verifier));
        let intake = Intake::new(Arc::clone(&shared.settings().publish_channel), verifier);
        Self {
            shared,
            link,
            channels: channels.iter().map(by_name).collect(),
            asked_for: VecDeque::new(),
            login,
            greeting,
            awaited: VecDeque::new(),
            ping_refused: None,
            publish_refused: None,
            proven: false,
            shed: 0,
            intake,
            verified: 0,
            expected: None,
            outbox: Vec::new(),
        }
    }

    pub(super) fn status(&self) -> LinkStatus {
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

    /// Our own heartbeat of this slot will come back.
    pub(super) fn expect(&mut self, slot: u64) {
        self.expected = Some(slot);
    }

    /// Whether something that is still to come is waited for.
    pub(super) fn waits(&self) -> bool {
        self.expected.is_some() || !self.awaited.is_empty()
    }

    /// Heartbeats written and not answered.
    pub(super) fn in_flight(&self) -> usize {
        let publishes = self
            .awaited
            .iter()
            .filter(|awaited| matches!(awaited.what, Question::Publish(_)));
        publishes.count()
    }

    /// Slots whose PUBLISH will not be answered any more.
    pub(super) fn drain_unanswered(&mut self) -> Vec<u64> {
        self.awaited
            .drain(..)
            .filter_map(|awaited| match awaited.what {
                Question::Publish(slot) => Some(slot),
                Question::Ping | Question::Role | Question::Subscribe | Question::Unsubscribe => None,
            })
            .collect()
    }

    /// Time until the oldest question is overdue.
    pub(super) fn overdue_in(&self) -> Option<Duration> {
        let oldest = self.awaited.front()?;
        Some((oldest.asked + self.shared.settings().interval).since(self.shared.now()))
    }

    pub(super) fn silence(&self) -> Failure {
        let within = self.shared.settings().interval;
        let what = match self.awaited.front().map(|awaited| awaited.what) {
            Some(Question::Publish(_)) => "PUBLISH",
            Some(Question::Role) => "the question for its role",
            Some(Question::Subscribe) => "SUBSCRIBE",
            Some(Question::Unsubscribe) => "UNSUBSCRIBE",
            Some(Question::Ping) | None => "PING",
        };
        Failure::down(Loss::Silent, format!("no answer to {what} within {within:?}"))
    }

    pub(super) async fn ping(&mut self, connection: &mut Connection) -> Result<(), Failure> {
        self.ask(connection, Question::Ping, &[b"PING"]).await
    }

    pub(super) async fn ask_role(&mut self, connection: &mut Connection) -> Result<(), Failure> {
        // A subscribed RESP2 connection takes no such question; the pub link asks it.
        if self.link == Link::Sub && !self.greeting.resp3() {
            return Ok(());
        }
        match self.greeting.question.words() {
            Some(words) => self.ask(connection, Question::Role, words).await,
            None => Ok(()),
        }
    }

    pub(super) async fn publish(
        &mut self,
        connection: &mut Connection,
        heartbeat: &Heartbeat,
    ) -> Result<(), Failure> {
        let slot = heartbeat.slot.unwrap_or_default();
        let Some(body) = self.body_of(heartbeat) else {
            self.shared.count_unpublished();
            self.outbox.push(Event::PublishFailed { slot });
            let cure = "there is no key to sign heartbeats with: see [signing]".to_owned();
            if self.publish_refused.replace(cure.clone()) != Some(cure) {
                self.tell_status();
            }
            return Ok(());
        };
        self.shared.goes_out(&body);
        let channel = self.shared.settings().publish_channel.clone();
        let what = Question::Publish(slot);
        self.ask(connection, what, &[b"PUBLISH", channel.as_bytes(), &body])
            .await
    }

    /// `None`: it should be signed, and cannot be.
    fn body_of(&self, heartbeat: &Heartbeat) -> Option<Vec<u8>> {
        let wall = (self.shared.bus.wall)();
        match &self.shared.bus.seal {
            None => Some(heartbeat::encode(heartbeat, wall)),
            Some(seal) => {
                let body = heartbeat::encode_within(heartbeat, wall, MAX_BYTES - ROOM);
                let channel = &self.shared.settings().publish_channel;
                seal.signer.sign(channel, body, millis(wall))
            }
        }
    }

    /// Whether others on this thread should get a turn now.
    pub(super) fn is_weary(&mut self) -> bool {
        let weary = self.verified >= VERIFIED_AT_ONCE;
        if weary {
            self.verified = 0;
        }
        weary
    }

    /// Other channels from now on. What stays is not asked for again: no message of it is missed.
    pub(super) async fn listen_to(
        &mut self,
        connection: &mut Connection,
        channels: &Channels,
    ) -> Result<(), Failure> {
        let wanted: HashMap<Box<[u8]>, Arc<str>> = channels.iter().map(by_name).collect();
        let before = std::mem::replace(&mut self.channels, wanted);
        let asked = self.shared.now();
        for channel in channels.iter() {
            if !before.contains_key(channel.as_bytes()) {
                self.asked_for.push_back(Arc::clone(channel));
                let what = Question::Subscribe;
                self.awaited.push_back(Awaited { what, asked });
                connection.queue(&[b"SUBSCRIBE", channel.as_bytes()]);
            }
        }
        let mut left: Vec<_> = before.values().collect();
        left.sort();
        for channel in left {
            if !self.channels.contains_key(channel.as_bytes()) {
                let what = Question::Unsubscribe;
                self.awaited.push_back(Awaited { what, asked });
                connection.queue(&[b"UNSUBSCRIBE", channel.as_bytes()]);
            }
        }
        connection.flush().await
    }

    fn awaits(&self, what: Question) -> bool {
        self.awaited.front().is_some_and(|awaited| awaited.what == what)
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
    pub(super) fn take(&mut self, value: &Value<'_>) -> Result<(), Failure> {
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
            [kind, ..] if kind.text() == Some(b"subscribe") && self.awaits(Question::Subscribe) => {
                self.take_answer(&items[0])
            }
            [kind, ..] if kind.text() == Some(b"unsubscribe") && self.awaits(Question::Unsubscribe) => {
                self.take_answer(&items[0])
            }
            [kind, ..] if kind.text() == Some(b"unsubscribe") => Err(Failure::down(
                Loss::Server,
                "the server ended the subscription of a channel",
            )),
            _ => Ok(()),
        }
    }

    fn take_message(&mut self, channel: &[u8], body: &Value<'_>) {
        let Some(channel) = self.channels.get(channel).cloned() else {
            return;
        };
        let sealed = self.intake.verifies(&channel);
        self.verified += usize::from(sealed);
        let read = match body {
            Value::Oversized(_) => Err(NoHeartbeat::Unreadable(Unreadable::TooBig)),
            body => {
                let wall = if sealed { (self.shared.bus.wall)() } else { 0.0 };
                self.intake.take(&channel, body.text().unwrap_or_default(), wall)
            }
        };
        let body = match read {
            Ok(heartbeat) => {
                self.shared.bus.metrics.heartbeats.inc();
                if *channel == *self.shared.settings().publish_channel {
                    self.shared.came_back(body.text().unwrap_or_default());
                }
                if self.expected.is_some() && self.is_echo(&channel, &heartbeat) {
                    self.expected = None;
                }
                Body::Heartbeat(heartbeat)
            }
            Err(NoHeartbeat::Unreadable(reason)) => {
                self.shared.opaque[reason as usize].inc();
                if sealed {
                    return;
                }
                Body::Opaque
            }
            // Counted where it was verified, and nobody ever hears of it.
            Err(NoHeartbeat::Refused(_)) => return,
        };
        self.pass_on(Event::Message { channel, body });
    }

    fn is_echo(&self, channel: &Arc<str>, heartbeat: &Heartbeat) -> bool {
        let ours = self.shared.settings();
        *channel == ours.publish_channel
            && heartbeat.slot >= self.expected
            && heartbeat.node.as_ref() == Some(&ours.node)
    }

    /// Hands a message to the event loop at once, if nothing is before it and there is room; else it waits.
    fn pass_on(&mut self, message: Event) {
        use mpsc::error::TrySendError::{Closed, Full};
        if self.shed > 0 || !self.outbox.is_empty() {
            self.outbox.push(message);
            return;
        }
        match self.shared.events.try_send(message) {
            Ok(()) | Err(Closed(_)) => {}
            Err(Full(message)) => self.outbox.push(message),
        }
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
            Question::Subscribe => {
                let channel = self.asked_for.pop_front().unwrap_or_default();
                match value {
                    Value::Error(error) => {
                        Err(judge(error, Asked::Subscribe(&channel), self.login.user_name()))
                    }
                    _ => Ok(()),
                }
            }
            // Refused or not: what comes of it is passed over.
            Question::Unsubscribe => Ok(()),
            Question::Role => {
                if let Some(server) = Server::told_by(value, self.greeting.server) {
                    self.greeting.server = server;
                }
                // Also when it is the same: the engine waits for a role read after a condemnation.
                self.tell_status();
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
    pub(super) async fn hand_over(&mut self, message: Event) {
        use mpsc::error::TrySendError::{Closed, Full};
        let events = &self.shared.events;
        if self.shed > 0 && events.try_send(Event::Lost { count: self.shed }).is_ok() {
            self.shed = 0;
        }
        let dropped = match events.try_send(message) {
            Ok(()) | Err(Closed(_)) => false,
            Err(Full(message)) if self.shed == 0 => {
                timeout(ROOM_PATIENCE, events.send(message)).await.is_err()
            }
            Err(Full(_)) => true,
        };
        if dropped {
            self.shed += 1;
            self.shared.bus.metrics.dropped.inc();
        }
    }
}
