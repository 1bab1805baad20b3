//! What a Redis tells within a few seconds: who speaks on which channel how often, and who its clients are.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::bus::heartbeat;
use crate::cli::redis::{ask, connect, words};
use crate::engine::event::Heartbeat;
use crate::engine::time::{Clock, Time};
use crate::redis_client::Endpoint;
use crate::redis_client::connection::Connection;
use crate::redis_client::failure::Failure;
use crate::redis_client::resp::Value;
use crate::runtime::clock::MonotonicClock;

/// As the server's clients know it.
const NAME: &str = "defib:init";
/// Channels that are told apart; messages on more are only counted.
const MAX_CHANNELS: usize = 500;
/// Messages that are taken in: a busy server has shown enough by then.
const MAX_MESSAGES: u64 = 50_000;

/// The server.
pub(super) struct Redis {
    pub(super) endpoint: Endpoint,
    /// Where a node inside the compose project will find it.
    pub(super) inside: Option<String>,
}

/// What was heard.
#[derive(Default)]
pub(super) struct Heard {
    /// For so long.
    pub(super) lasted: Duration,
    pub(super) channels: BTreeMap<String, Channel>,
    /// Clients by what they are: name, library, subscribed or not.
    pub(super) clients: BTreeMap<String, u32>,
    /// What could not be asked, and why.
    pub(super) notes: Vec<String>,
}

/// What came on one channel.
#[derive(Default)]
pub(super) struct Channel {
    pub(super) messages: u64,
    /// Has subscribers, as far as the server says.
    pub(super) subscribed: bool,
    pub(super) heartbeat: Option<Heartbeat>,
    first: Option<Time>,
    last: Option<Time>,
}

impl Channel {
    /// Between two messages, if there were two.
    pub(super) fn interval(&self) -> Option<Duration> {
        let gaps = u32::try_from(self.messages.checked_sub(1)?)
            .ok()
            .filter(|gaps| *gaps > 0)?;
        Some(self.last?.since(self.first?) / gaps)
    }
}

/// # Errors
/// In words, if there is no getting in.
pub(super) async fn listen(endpoint: &Endpoint, lasting: Duration) -> Result<Heard, String> {
    let mut heard = Heard::default();
    let mut connection = connect(endpoint, NAME).await.map_err(words)?;
    match ask(&mut connection, &[b"CLIENT", b"LIST"], clients).await {
        Ok(Ok(clients)) => heard.clients = clients,
        Ok(Err(why)) => heard.notes.push(format!("CLIENT LIST: {why}")),
        Err(failure) => return Err(words(failure)),
    }
    let channels = ask(&mut connection, &[b"PUBSUB", b"CHANNELS"], names).await;
    match channels {
        Ok(Ok(names)) => {
            for name in names {
                heard.channel(&name, |channel| channel.subscribed = true);
            }
        }
        Ok(Err(why)) => heard.notes.push(format!("PUBSUB CHANNELS: {why}")),
        // More of them than are read at once: what is heard tells the rest.
        Err(failure) => {
            heard.notes.push(format!("PUBSUB CHANNELS: {}", words(failure)));
            connection = connect(endpoint, NAME).await.map_err(words)?;
        }
    }
    match ask(&mut connection, &[b"PSUBSCRIBE", b"*"], |_| Some(())).await {
        Ok(Ok(())) => take_in(&mut connection, &mut heard, lasting).await,
        Ok(Err(why)) => heard
            .notes
            .push(format!("PSUBSCRIBE *: {why}; no channel was listened to")),
        Err(failure) => heard.notes.push(format!("PSUBSCRIBE *: {}", words(failure))),
    }
    connection.close().await;
    Ok(heard)
}

async fn take_in(connection: &mut Connection, heard: &mut Heard, lasting: Duration) {
    let clock = MonotonicClock::start();
    let began = clock.now();
    let mut messages = 0;
    let listening = async {
        loop {
            while let Some(value) = connection.next()? {
                if let Value::Push(items) | Value::List(items) = &value {
                    heard.message(items, clock.now());
                    messages += 1;
                }
                if messages >= MAX_MESSAGES {
                    return Ok::<(), Failure>(());
                }
            }
            connection.fill().await?;
        }
    };
    let ended = tokio::time::timeout(lasting, listening).await;
    heard.lasted = clock.now().since(began);
    if let Ok(Err(failure)) = ended {
        heard
            .notes
            .push(format!("listening ended early: {}", words(failure)));
    }
}

impl Heard {
    fn message(&mut self, items: &[Value<'_>], now: Time) {
        let [kind, _, channel, body] = items else { return };
        if kind.text() != Some(b"pmessage") {
            return;
        }
        let Some(name) = channel.text().and_then(|name| std::str::from_utf8(name).ok()) else {
            return;
        };
        let beat = body.text().and_then(|body| heartbeat::read(body).ok());
        self.channel(name, |channel| {
            channel.messages += 1;
            channel.first = channel.first.or(Some(now));
            channel.last = Some(now);
            let tells = |beat: &Heartbeat| beat.uptime_s.is_some() || beat.node.is_some();
            channel.heartbeat = beat.filter(tells).or(channel.heartbeat.take());
        });
    }

    /// The channel of that name, if it can stand in a configuration and there is room for it.
    fn channel(&mut self, name: &str, change: impl FnOnce(&mut Channel)) {
        let fits = (1..=256).contains(&name.len()) && !name.contains(char::is_control);
        if fits && (self.channels.len() < MAX_CHANNELS || self.channels.contains_key(name)) {
            change(self.channels.entry(name.to_owned()).or_default());
        }
    }
}

fn names(value: &Value<'_>) -> Option<Vec<String>> {
    let Value::List(items) = value else { return None };
    let text = |item: &Value<'_>| String::from_utf8(item.text()?.to_vec()).ok();
    Some(items.iter().filter_map(text).collect())
}

/// Clients by kind. No address: a configuration is passed around.
fn clients(value: &Value<'_>) -> Option<BTreeMap<String, u32>> {
    let list = String::from_utf8_lossy(value.text()?);
    let mut kinds = BTreeMap::new();
    for line in list.lines() {
        let field = |name: &str| {
            let mut fields = line.split(' ').filter_map(|field| field.split_once('='));
            fields
                .find(|(key, _)| *key == name)
                .map_or("", |(_, value)| value)
        };
        let name = field("name");
        if name.starts_with("defib:") {
            continue;
        }
        let listens = ["sub", "psub", "ssub"]
            .iter()
            .any(|kind| !matches!(field(kind), "" | "0"));
        let described = [field("lib-name"), field("lib-ver"), name];
        let described: Vec<&str> = described.into_iter().filter(|word| !word.is_empty()).collect();
        let described = if described.is_empty() {
            "unnamed".to_owned()
        } else {
            described.join(" ")
        };
        let kind = format!(
            "{} ({described})",
            if listens { "subscribed" } else { "commands only" }
        );
        if kinds.len() < 50 || kinds.contains_key(&kind) {
            *kinds.entry(kind).or_default() += 1;
        }
    }
    Some(kinds)
}
