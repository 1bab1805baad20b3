//! Who is connected, who subscribed to what, and what waits to be sent: the broker's state. Knows no socket, no
//! task and no clock.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use tokio::sync::Notify;

use super::Limits;
use super::glob;
use super::wire::{self, Frame, Protocol};
use crate::telemetry::metrics::broker::{BrokerMetrics, Closed};

/// Names one connection for as long as the broker lives; never used twice.
pub(super) type ClientId = u64;

/// What a queued message costs besides its bytes, so that a million empty ones are not free.
const MESSAGE_OVERHEAD: usize = 64;

/// The hub as its sessions share it. Nobody holds the lock across an await.
#[derive(Clone, Debug)]
pub(super) struct SharedHub(Arc<Mutex<Hub>>);

impl SharedHub {
    pub(super) fn new(hub: Hub) -> Self {
        Self(Arc::new(Mutex::new(hub)))
    }

    /// A session that panicked is gone with its connection; what it left behind is still whole enough for others.
    pub(super) fn lock(&self) -> MutexGuard<'_, Hub> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How a connection is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// When what is queued for it has been sent, or does not go out in time.
    Flush,
    /// At once.
    Now,
}

/// The two kinds of subscription, each with its own table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Channel,
    Pattern,
}

/// Where a connection comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// This process. Never refused: a flood from outside must not lock the node out of its own bus.
    Local,
    /// A socket: its other end and ours. Counted against `Limits::clients`.
    Remote(SocketAddr, SocketAddr),
}

/// One connection.
#[derive(Debug)]
pub(super) struct Client {
    /// Of its end and of ours, as CLIENT LIST shows them and CLIENT KILL takes them.
    pub(super) addr: String,
    pub(super) laddr: String,
    remote: bool,
    pub(super) name: Bytes,
    pub(super) library: Bytes,
    pub(super) library_version: Bytes,
    pub(super) protocol: Protocol,
    pub(super) last_command: String,
    channels: BTreeSet<Bytes>,
    patterns: BTreeSet<Bytes>,
    outbox: VecDeque<Bytes>,
    outbox_cost: usize,
    /// Bytes handed over to its socket so far.
    written: u64,
    wake: Arc<Notify>,
    ending: Option<Ending>,
}

impl Client {
    fn new(id: ClientId, origin: Origin) -> Self {
        let (addr, laddr) = match origin {
            Origin::Local => (format!("embedded:{id}"), "embedded:0".into()),
            Origin::Remote(theirs, ours) => (theirs.to_string(), ours.to_string()),
        };
        Self {
            addr,
            laddr,
            remote: origin != Origin::Local,
            name: Bytes::new(),
            library: Bytes::new(),
            library_version: Bytes::new(),
            protocol: Protocol::Resp2,
            last_command: String::new(),
            channels: BTreeSet::new(),
            patterns: BTreeSet::new(),
            outbox: VecDeque::new(),
            outbox_cost: 0,
            written: 0,
            wake: Arc::new(Notify::new()),
            ending: None,
        }
    }

    pub(super) fn subscriptions(&self) -> usize {
        self.channels.len() + self.patterns.len()
    }

    /// What waits to be sent, in bytes, with its overhead.
    pub(super) fn waiting(&self) -> usize {
        self.outbox_cost
    }

    fn of_kind(&mut self, kind: Kind) -> &mut BTreeSet<Bytes> {
        match kind {
            Kind::Channel => &mut self.channels,
            Kind::Pattern => &mut self.patterns,
        }
    }

    /// Queues `bytes`; `false` if that would pass `bound`. A single message that is larger than the bound goes
    /// out to a client that keeps up.
    fn queue(&mut self, bytes: Bytes, bound: usize) -> bool {
        let cost = bytes.len() + MESSAGE_OVERHEAD;
        if !self.outbox.is_empty() && self.outbox_cost + cost > bound {
            return false;
        }
        self.outbox.push_back(bytes);
        self.outbox_cost += cost;
        self.wake.notify_one();
        true
    }
}

/// The broker's state.
#[derive(Debug)]
pub(super) struct Hub {
    pub(super) limits: Limits,
    pub(super) metrics: BrokerMetrics,
    last_id: ClientId,
    clients: BTreeMap<ClientId, Client>,
    channels: BTreeMap<Bytes, BTreeSet<ClientId>>,
    patterns: BTreeMap<Bytes, BTreeSet<ClientId>>,
}

impl Hub {
    pub(super) fn new(limits: Limits, metrics: BrokerMetrics) -> Self {
        Self {
            limits,
            metrics,
            last_id: 0,
            clients: BTreeMap::new(),
            channels: BTreeMap::new(),
            patterns: BTreeMap::new(),
        }
    }

    /// Lets a connection in, or not if the broker is full. What comes back wakes its session.
    pub(super) fn admit(&mut self, origin: Origin) -> Option<(ClientId, Arc<Notify>)> {
        let remote = self.clients.values().filter(|client| client.remote).count();
        if origin != Origin::Local && remote >= self.limits.clients {
            self.metrics.closed(Closed::Refused);
            return None;
        }
        self.last_id += 1;
        let client = Client::new(self.last_id, origin);
        let wake = Arc::clone(&client.wake);
        self.clients.insert(self.last_id, client);
        self.count();
        Some((self.last_id, wake))
    }

    /// Forgets a connection whose session is over.
    pub(super) fn remove(&mut self, id: ClientId) {
        self.end(id, Ending::Now, Closed::Client);
        self.clients.remove(&id);
        self.count();
    }

    /// Ends a connection: its subscriptions at once, the socket by its session. The first reason stands.
    pub(super) fn end(&mut self, id: ClientId, ending: Ending, reason: Closed) {
        let Some(client) = self.clients.get_mut(&id) else {
            return;
        };
        if client.ending.is_none() {
            client.ending = Some(ending);
            client.wake.notify_one();
            self.metrics.closed(reason);
        }
        for kind in [Kind::Channel, Kind::Pattern] {
            for name in self.subscribed(id, kind) {
                self.unsubscribe(id, kind, &name);
            }
        }
    }

    /// A connection that has not ended.
    pub(super) fn client(&mut self, id: ClientId) -> Option<&mut Client> {
        self.clients.get_mut(&id).filter(|client| client.ending.is_none())
    }

    /// All connections that have not ended, oldest first.
    pub(super) fn clients(&self) -> impl Iterator<Item = (ClientId, &Client)> {
        self.clients
            .iter()
            .filter(|(_, client)| client.ending.is_none())
            .map(|(id, client)| (*id, client))
    }

    /// Queues a reply, the last one of a connection that is about to end too. Sessions stop reading requests while
    /// replies pile up, so the bound is not for these.
    pub(super) fn reply(&mut self, id: ClientId, frame: Frame) {
        if let Some(client) = self
            .clients
            .get_mut(&id)
            .filter(|client| client.ending != Some(Ending::Now))
        {
            let bytes = wire::encode(&frame, client.protocol);
            client.queue(bytes, usize::MAX);
        }
    }

    /// Moves queued bytes into `out` until that holds `enough`, and says whether the connection is to end.
    pub(super) fn drain(&mut self, id: ClientId, out: &mut BytesMut, enough: usize) -> Option<Ending> {
        let Some(client) = self.clients.get_mut(&id) else {
            return Some(Ending::Now);
        };
        while out.len() < enough {
            let Some(bytes) = client.outbox.pop_front() else {
                break;
            };
            client.outbox_cost -= bytes.len() + MESSAGE_OVERHEAD;
            client.written += bytes.len() as u64;
            out.extend_from_slice(&bytes);
        }
        client.ending
    }

    /// Adds a subscription; returns how many the client has now.
    pub(super) fn subscribe(&mut self, id: ClientId, kind: Kind, name: &[u8]) -> usize {
        let Some(client) = self.clients.get_mut(&id) else {
            return 0;
        };
        // A copy: the request's bytes share one buffer, and a short name would keep all of it alive.
        let name = Bytes::copy_from_slice(name);
        client.of_kind(kind).insert(name.clone());
        let count = client.subscriptions();
        self.table(kind).entry(name).or_default().insert(id);
        count
    }

    /// Takes a subscription away, if there is one; returns how many the client has left.
    pub(super) fn unsubscribe(&mut self, id: ClientId, kind: Kind, name: &[u8]) -> usize {
        let table = self.table(kind);
        if let Some(subscribers) = table.get_mut(name) {
            subscribers.remove(&id);
            if subscribers.is_empty() {
                table.remove(name);
            }
        }
        let Some(client) = self.clients.get_mut(&id) else {
            return 0;
        };
        client.of_kind(kind).remove(name);
        client.subscriptions()
    }

    /// What the client subscribed to.
    pub(super) fn subscribed(&mut self, id: ClientId, kind: Kind) -> Vec<Bytes> {
        self.clients
            .get_mut(&id)
            .map(|client| client.of_kind(kind).iter().cloned().collect())
            .unwrap_or_default()
    }

    /// How many different patterns there would be with `names`, and of how many bytes together.
    pub(super) fn patterns_with(&self, names: &[Bytes]) -> (usize, usize) {
        let new: BTreeSet<_> = names
            .iter()
            .filter(|name| !self.patterns.contains_key(*name))
            .collect();
        let all = self.patterns.keys().chain(new);
        all.fold((0, 0), |(count, bytes), pattern| {
            (count + 1, bytes + pattern.len())
        })
    }

    /// Distinct patterns of all clients.
    pub(super) fn pattern_count(&self) -> usize {
        self.patterns.len()
    }

    /// Channels with a subscriber.
    pub(super) fn active_channels(&self) -> impl Iterator<Item = &Bytes> {
        self.channels.keys()
    }

    /// Clients that subscribed to exactly this channel; patterns do not count, as in Redis.
    pub(super) fn channel_subscribers(&self, channel: &[u8]) -> usize {
        self.channels.get(channel).map_or(0, BTreeSet::len)
    }

    /// Queues a message for every subscriber; returns how many copies. A subscriber whose queue is full does not
    /// read, and is disconnected.
    pub(super) fn publish(&mut self, channel: &Bytes, payload: &Bytes) -> usize {
        let mut routes = Vec::new();
        if let Some(subscribers) = self.channels.get(channel) {
            let message = ["message".into(), channel.clone(), payload.clone()].map(wire::bulk);
            routes.push((wire::push(message.into()), subscribers));
        }
        for (pattern, subscribers) in &self.patterns {
            if glob::matches(pattern, channel) {
                let message = [
                    "pmessage".into(),
                    pattern.clone(),
                    channel.clone(),
                    payload.clone(),
                ];
                routes.push((wire::push(message.map(wire::bulk).into()), subscribers));
            }
        }
        let mut copies = 0;
        let mut slow = Vec::new();
        for (frame, subscribers) in routes {
            let mut encoded: [Option<Bytes>; 2] = [None, None];
            for id in subscribers {
                let Some(client) = self.clients.get_mut(id) else {
                    continue;
                };
                let bytes = encoded[usize::from(client.protocol == Protocol::Resp3)]
                    .get_or_insert_with(|| wire::encode(&frame, client.protocol))
                    .clone();
                if client.queue(bytes, self.limits.queued_bytes) {
                    copies += 1;
                } else {
                    slow.push(*id);
                }
            }
        }
        self.metrics.published.inc();
        self.metrics.delivered.inc_by(copies as u64);
        for id in slow {
            self.give_up(id);
        }
        self.shed();
        copies
    }

    /// What waits for all who do not read is bounded, too.
    fn shed(&mut self) {
        let waits = |client: &Client| if client.remote { client.outbox_cost } else { 0 };
        let mut left: usize = self.clients.values().map(waits).sum();
        while left > self.limits.queued_bytes_in_all {
            let most = self.clients.iter().max_by_key(|(_, client)| waits(client));
            let Some((id, most)) = most.map(|(id, client)| (*id, waits(client))) else {
                return;
            };
            left -= most;
            self.give_up(id);
        }
    }

    fn give_up(&mut self, id: ClientId) {
        let Some(client) = self.client(id) else { return };
        let lost = client.outbox.len();
        client.outbox.clear();
        client.outbox_cost = 0;
        tracing::warn!(
            client = id, addr = %client.addr, lost,
            "disconnected a client of the embedded broker: it does not read what it subscribed to"
        );
        self.metrics.dropped.inc_by(lost as u64);
        self.end(id, Ending::Now, Closed::SlowReader);
    }

    /// One line of CLIENT LIST. `age` and `idle` are absent: this broker has no clock.
    pub(super) fn describe(id: ClientId, client: &Client) -> String {
        let mut line = String::new();
        let flags = if client.subscriptions() > 0 { "P" } else { "N" };
        let resp = if client.protocol == Protocol::Resp3 { 3 } else { 2 };
        // Writing into a String cannot fail.
        let _ = writeln!(
            line,
            "id={id} addr={} laddr={} name={} flags={flags} db=0 sub={} psub={} ssub=0 multi=-1 oll={} omem={} \
             cmd={} user=default resp={resp} tot-net-out={} lib-name={} lib-ver={}",
            client.addr,
            client.laddr,
            String::from_utf8_lossy(&client.name),
            client.channels.len(),
            client.patterns.len(),
            client.outbox.len(),
            client.waiting(),
            client.last_command,
            client.written,
            String::from_utf8_lossy(&client.library),
            String::from_utf8_lossy(&client.library_version),
        );
        line
    }

    fn table(&mut self, kind: Kind) -> &mut BTreeMap<Bytes, BTreeSet<ClientId>> {
        match kind {
            Kind::Channel => &mut self.channels,
            Kind::Pattern => &mut self.patterns,
        }
    }

    fn count(&self) {
        self.metrics
            .clients
            .set(i64::try_from(self.clients.len()).unwrap_or(i64::MAX));
    }
}
