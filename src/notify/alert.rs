//! Alerts as Prometheus Alertmanager's API v2 takes them: what an alert is, and which of them it must be told again. Pure.
//!
//! An alert is its labels: enums, and names of the configuration. What changes (the words) are annotations. If a label
//! changes while the episode is open (another cause; given up), the old alert is resolved and another one fires.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::Sender;
use super::message::{Event, Message};
use super::outbox::{Next, Parcel, Tally};
use super::template::Word;
use crate::calendar::stamp;
use crate::engine::cause::Cause;
use crate::engine::time::Time;

/// Alerts of one request.
const BATCH: usize = 64;
/// Alerts that are held at once; beyond that new ones are dropped.
const MOST: usize = 8192;
/// An alert ends by itself after so many times `resend`, should this node not come back to say so.
const ENDS_AFTER: u32 = 4;

/// All alerts of one Alertmanager.
#[derive(Debug)]
pub(super) struct Board {
    resend: Duration,
    resend_at: Option<Time>,
    alerts: BTreeMap<Labels, Alert>,
    numbers: u64,
}

/// What makes an alert the same one. (Node and group are the same for all of this node's.)
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Labels {
    name: &'static str,
    severity: &'static str,
    peer: Option<std::sync::Arc<str>>,
    cause: Option<Cause>,
}

#[derive(Debug)]
struct Alert {
    /// Of this state: another state has another number.
    number: u64,
    message: Message,
    ended: Option<Duration>,
    /// To be told.
    due: bool,
    /// What is to be told is news, not the same once more.
    news: bool,
    /// Since when it cannot be told.
    stuck: Option<Time>,
    /// The next state, told if it lasts until its time.
    held: Option<Message>,
    /// That state is the first: there is no alert before it.
    unborn: bool,
}

impl Labels {
    fn of(message: &Message) -> Self {
        let (name, severity) = match message.event {
            Event::GaveUp => ("DefibGaveUp", "critical"),
            Event::MassSilenceTripped | Event::MassSilenceEnded => ("DefibMassSilence", "critical"),
            Event::Test => ("DefibTest", "info"),
            _ => ("DefibEpisode", "warning"),
        };
        Self {
            name,
            severity,
            peer: message.about.peer.clone(),
            cause: message.cause,
        }
    }
}

impl Board {
    pub(super) fn new(resend: Duration) -> Self {
        Self {
            resend,
            resend_at: None,
            alerts: BTreeMap::new(),
            numbers: 0,
        }
    }

    pub(super) fn push(&mut self, message: Message, tally: &mut Tally) {
        let resolves = message.event.resolves();
        let labels = Labels::of(&message);
        self.alerts
            .retain(|_, alert| !(alert.unborn && alert.message.about == message.about));
        let of_same = |alert: &Alert| alert.message.about == message.about && alert.ended.is_none();
        let others = self
            .alerts
            .iter()
            .any(|(known, alert)| *known != labels && of_same(alert));
        if message.not_before.is_some() && !others {
            return self.hold(labels, message, tally);
        }
        let (about, at) = (message.about.clone(), message.at);
        let mut number = self.numbers;
        for (known, alert) in &mut self.alerts {
            let is_same = alert.message.about == about && alert.ended.is_none();
            if is_same && (resolves || *known != labels) {
                number += 1;
                alert.is_now(number, tally);
                (alert.ended, alert.held) = (Some(at), None);
                if resolves {
                    alert.message.text.clone_from(&message.text);
                    alert.message.evidence.clone_from(&message.evidence);
                }
            }
        }
        self.numbers = number + 1;
        if resolves {
            return;
        }
        let number = self.numbers;
        if let Some(alert) = self.alerts.get_mut(&labels) {
            alert.is_now(number, tally);
            (alert.message, alert.ended, alert.held) = (message, None, None);
        } else if self.alerts.len() < MOST {
            self.alerts.insert(labels, Alert::new(number, message));
        } else {
            tally.dropped += 1;
        }
    }

    /// A state that is told if it lasts: until then the alert is as it was, or is none yet.
    fn hold(&mut self, labels: Labels, message: Message, tally: &mut Tally) {
        let full = self.alerts.len() >= MOST;
        match self.alerts.get_mut(&labels) {
            Some(alert) if alert.ended.is_none() => alert.held = Some(message),
            // One that is over and not told yet: this is its next life, and news.
            Some(alert) => {
                self.numbers += 1;
                alert.is_now(self.numbers, tally);
                (alert.message, alert.ended, alert.held) = (message, None, None);
            }
            None if !full => {
                self.numbers += 1;
                let mut alert = Alert::new(self.numbers, message.clone());
                (alert.due, alert.news, alert.unborn) = (false, false, true);
                alert.held = Some(message);
                self.alerts.insert(labels, alert);
            }
            None => tally.dropped += 1,
        }
    }

    /// What has lasted is told.
    fn release(&mut self, now: Time) {
        let lasted = |held: &Message| held.not_before.is_none_or(|until| until <= now);
        for alert in self.alerts.values_mut() {
            if let Some(message) = alert.held.take_if(|held| lasted(held)) {
                self.numbers += 1;
                // (Nobody waits for a coalesced one: what was there goes on.)
                (alert.number, alert.message) = (self.numbers, message);
                (alert.due, alert.news, alert.unborn) = (true, true, false);
            }
        }
    }

    fn held_until(&self) -> Option<Time> {
        let held = self.alerts.values().filter_map(|alert| alert.held.as_ref());
        held.filter_map(|message| message.not_before).min()
    }

    pub(super) fn next(&mut self, now: Time) -> Next {
        self.release(now);
        let open = self
            .alerts
            .values()
            .any(|alert| alert.ended.is_none() && !alert.unborn);
        match self.resend_at {
            Some(at) if at <= now => {
                self.alerts
                    .values_mut()
                    .for_each(|alert| alert.due |= !alert.unborn);
                self.resend_at = Some(now + self.resend);
            }
            Some(_) => {}
            None if open => self.resend_at = Some(now + self.resend),
            None => {}
        }
        let due = self.alerts.values().filter(|alert| alert.due);
        let numbers: Vec<u64> = due.take(BATCH).map(|alert| alert.number).collect();
        if !numbers.is_empty() {
            return Next::Send(Parcel::Alerts(numbers));
        }
        if !open {
            self.resend_at = None;
        }
        let next = [self.resend_at, self.held_until()].into_iter().flatten().min();
        next.map_or(Next::Idle, Next::At)
    }

    pub(super) fn accepted(&mut self, numbers: &[u64], tally: &mut Tally) {
        for alert in self.those(numbers) {
            if std::mem::take(&mut alert.news) {
                tally.sent += 1;
            }
            (alert.due, alert.stuck) = (false, None);
        }
        self.alerts.retain(|_, alert| alert.due || alert.ended.is_none());
    }

    /// They are told again with the next change, or when all are.
    pub(super) fn refused(&mut self, numbers: &[u64], tally: &mut Tally) {
        for alert in self.those(numbers) {
            if std::mem::take(&mut alert.news) {
                tally.failed += 1;
            }
            alert.due = false;
        }
        self.alerts.retain(|_, alert| alert.due || alert.ended.is_none());
    }

    /// What has ended is not worth telling for ever: the alert ends by itself. True if some were given up on.
    pub(super) fn give_back(&mut self, retry_for: Duration, now: Time, tally: &mut Tally) -> bool {
        let before = tally.failed;
        self.alerts.retain(|_, alert| {
            let stuck = alert.due.then(|| *alert.stuck.get_or_insert(now));
            let over = alert.ended.is_some() && stuck.is_some_and(|since| now.since(since) >= retry_for);
            if over && alert.news {
                tally.failed += 1;
            }
            !over
        });
        tally.failed > before
    }

    /// News that wait.
    pub(super) fn unsent(&self) -> usize {
        self.alerts
            .values()
            .filter(|alert| alert.due && alert.news)
            .count()
    }

    /// The request's body.
    pub(super) fn body(&self, numbers: &[u64], sender: &Sender, wall: Duration) -> String {
        let meant = self
            .alerts
            .iter()
            .filter(|(_, alert)| numbers.contains(&alert.number));
        let alerts = meant.map(|(labels, alert)| {
            let ends = alert
                .ended
                .unwrap_or_else(|| wall.saturating_add(self.resend * ENDS_AFTER));
            written(labels, &alert.message, ends, sender)
        });
        Value::Array(alerts.collect()).to_string()
    }

    fn those<'b>(&'b mut self, numbers: &'b [u64]) -> impl Iterator<Item = &'b mut Alert> {
        self.alerts
            .values_mut()
            .filter(|alert| numbers.contains(&alert.number))
    }
}

impl Alert {
    fn new(number: u64, message: Message) -> Self {
        Self {
            number,
            message,
            ended: None,
            due: true,
            news: true,
            stuck: None,
            held: None,
            unborn: false,
        }
    }

    fn is_now(&mut self, number: u64, tally: &mut Tally) {
        if self.due && self.news {
            tally.coalesced += 1;
        }
        self.number = number;
        (self.due, self.news) = (true, true);
    }
}

/// The body of a test: one alert that ends by itself.
pub(super) fn test(message: &Message, sender: &Sender, resend: Duration) -> String {
    let ends = message.at.saturating_add(resend);
    Value::Array(vec![written(&Labels::of(message), message, ends, sender)]).to_string()
}

fn written(labels: &Labels, message: &Message, ends: Duration, sender: &Sender) -> Value {
    let starts = message.since.unwrap_or(message.at).min(ends);
    let words = [
        Word::Summary,
        Word::Evidence,
        Word::Guard,
        Word::Why,
        Word::Next,
        Word::Remedy,
        Word::Outcome,
        Word::Captured,
    ];
    let word = |word: Word| {
        let text = message.word(word, sender);
        let text = text.as_str().filter(|text| !text.is_empty())?.to_owned();
        Some((word.name().to_owned(), Value::String(text)))
    };
    let mut named = json!({
        "alertname": labels.name,
        "severity": labels.severity,
        "group": &*sender.group,
        "node": &*sender.node,
    });
    if let Some(peer) = &labels.peer {
        named["peer"] = Value::from(&**peer);
    }
    if let Some(cause) = labels.cause {
        named["cause"] = cause.as_str().into();
    }
    json!({
        "labels": named,
        "annotations": Value::Object(words.into_iter().filter_map(word).collect()),
        "startsAt": stamp(starts),
        "endsAt": stamp(ends),
    })
}
