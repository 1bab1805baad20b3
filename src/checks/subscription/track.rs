//! One connection over time: what was seen of it, and what stands against it. Pure.

use std::fmt;
use std::time::Duration;

use super::judge::{Heard, Listing, Look, Rules};
use crate::condemned::{Client, Connection};
use crate::engine::cause::Cause;
use crate::engine::time::Time;
use crate::redis_client::ListedClient;
use crate::sock_diag::{Socket, SocketId, State, Tcp};

/// How long what is on its way may take: to us and not yet to the peer, and the other way round.
const SETTLE: Duration = Duration::from_secs(2);
/// Messages that we must have got while a connection received nothing.
const MISSED: u64 = 2;
/// Listings of all clients in a row without it that make an orphan: it may have been made right before the first.
const UNLISTED: u8 = 2;
/// Looks at which it received what we did that make a proven subscriber.
const MATCHES: u8 = 3;
/// What TLS and framing may add to a message, in bytes.
const OVERHEAD: u64 = 64;

/// What is known of one connection.
#[derive(Clone, Debug)]
pub(super) struct Track {
    socket: SocketId,
    state: State,
    seen: Tcp,
    unread: u32,
    read: u64,
    /// Since when something waits and nothing was read, and what had arrived then.
    standing: Option<(Time, u64)>,
    /// Longest that its owner took to read on: a slow reader is not a stuck one.
    slowest: Duration,
    /// As Redis lists it now.
    client: Option<ListedClient>,
    was_subscribed: bool,
    /// It stood in the last listing of all clients.
    known: bool,
    /// In so many of them in a row it did not.
    unlisted: u8,
    proof: Proof,
    silence: Silence,
}

/// What happened since it last received something, or had something left to read: whose buffer is full receives
/// nothing either (a window of zero), and that is the reader's doing.
#[derive(Clone, Debug, Default)]
struct Silence {
    /// First look at it.
    since: Option<Time>,
    /// What Redis had written to it, by its own count, at the first listing.
    written: Option<u64>,
    /// First look at which Redis had written to it meanwhile.
    written_since: Option<Time>,
    /// What our own subscription had heard at the first comparison.
    heard: Option<Heard>,
    /// First look at which that had become more.
    missed_since: Option<Time>,
    missed: u64,
    /// Said once, it holds until something is received.
    dark: bool,
}

/// Is it a subscriber of these channels? Only asked where Redis does not say: it sends nothing, and receives what
/// we receive, neither much less nor much more.
#[derive(Clone, Debug, Default)]
struct Proof {
    before: Option<(Heard, Tcp)>,
    matched: u8,
    messages: u64,
    heard: u64,
    received: u64,
    done: bool,
}

/// What stands against a connection. The worst first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Doubt {
    Stuck { lasting: Duration, unread: u32 },
    Dark { silent: Duration, missed: u64 },
    Orphaned,
}

impl Track {
    pub(super) fn new(socket: &Socket, tcp: Tcp) -> Self {
        Self {
            socket: socket.id.clone(),
            state: socket.state,
            seen: tcp,
            unread: 0,
            read: 0,
            standing: None,
            slowest: Duration::ZERO,
            client: None,
            was_subscribed: false,
            known: false,
            unlisted: 0,
            proof: Proof::default(),
            silence: Silence::default(),
        }
    }

    /// After a time in which nobody looked: what was not seen proves nothing.
    pub(super) fn begun_anew(self, at: Time) -> Self {
        let dark = self.silence.dark;
        Self {
            standing: self.standing.map(|(_, arrived)| (at, arrived)),
            unlisted: 0,
            silence: Silence {
                dark,
                ..Silence::default()
            },
            ..self
        }
    }

    pub(super) fn take_in(&mut self, socket: &Socket, tcp: Tcp, look: &Look) {
        if tcp.bytes_received != self.seen.bytes_received || socket.recv_q > 0 {
            self.silence = Silence::default();
        }
        self.silence.since.get_or_insert(look.at);
        (self.state, self.seen) = (socket.state, tcp);
        self.take_reading(socket, look.at);
        match &look.listing {
            Listing::Read {
                clients,
                whole,
                server,
            } => {
                let local = self.socket.local;
                let found = clients.iter().find(|client| client.address == Some(local));
                self.take_listed(found, *whole, self.socket.remote == *server);
                self.take_written(look.at);
            }
            Listing::Unavailable(_) => {
                self.client = None;
                self.proof.take(look.heard, tcp);
            }
        }
        self.silence.take_heard(look.heard, look.at);
    }

    fn take_reading(&mut self, socket: &Socket, at: Time) {
        let read = socket.read_so_far().unwrap_or(0);
        if (read != self.read || socket.recv_q == 0)
            && let Some((since, _)) = self.standing.take()
        {
            self.slowest = self.slowest.max(at.since(since));
        }
        (self.read, self.unread) = (read, socket.recv_q);
        if socket.recv_q > 0 {
            self.standing.get_or_insert((at, self.seen.bytes_received));
        }
    }

    fn take_listed(&mut self, found: Option<&ListedClient>, whole: bool, to_this_server: bool) {
        self.client = found.cloned();
        self.was_subscribed |= self.is_listed_subscriber();
        if whole {
            self.known = found.is_some();
        }
        match found {
            Some(_) => self.unlisted = 0,
            None if whole && (to_this_server || self.was_subscribed) => {
                self.unlisted = self.unlisted.saturating_add(1);
            }
            None => {}
        }
    }

    /// Did Redis write to it after the last that it received? By its own count of bytes, or by `idle`, in whole
    /// seconds, which each write sets back; and what waits for room in the server's socket is on its way, too.
    fn take_written(&mut self, at: Time) {
        let Some(client) = &self.client else { return };
        let written = match (client.written, client.idle) {
            (Some(written), _) => written > *self.silence.written.get_or_insert(written),
            (None, Some(idle)) => idle + SETTLE < self.seen.last_data_recv,
            (None, None) => false,
        };
        if written || client.waiting {
            self.silence.written_since.get_or_insert(at);
        }
    }

    /// What stands against it now.
    pub(super) fn doubt(&mut self, rules: &Rules, look: &Look) -> Option<Doubt> {
        let listed = matches!(look.listing, Listing::Read { .. });
        if let Some(lasting) = self.stuck(rules, listed, look.at) {
            let unread = self.unread;
            return Some(Doubt::Stuck { lasting, unread });
        }
        self.silence.dark |= self.is_dark(rules, listed, look.at);
        if self.silence.dark {
            return Some(Doubt::Dark {
                silent: self.silent(look.at),
                missed: self.silence.missed,
            });
        }
        let orphaned = self.was_subscribed && self.is_orphan() && !look.returning;
        orphaned.then_some(Doubt::Orphaned)
    }

    fn stuck(&self, rules: &Rules, listed: bool, at: Time) -> Option<Duration> {
        let (since, arrived) = self.standing?;
        // Who took long before may take as long again.
        let pace = (self.slowest * 2).min(rules.stuck_after * 8);
        let lasting = at.since(since);
        let growing = !listed && self.seen.bytes_received > arrived;
        let concerned = self.was_subscribed || self.proof.done || growing;
        (concerned && lasting >= rules.stuck_after.max(pace)).then_some(lasting)
    }

    fn is_dark(&self, rules: &Rules, listed: bool, at: Time) -> bool {
        let settled = |since: Option<Time>| since.is_some_and(|since| at.since(since) >= SETTLE);
        let silence = &self.silence;
        let meant = if listed {
            self.is_listed_subscriber() && settled(silence.written_since)
        } else {
            self.proof.done
        };
        meant
            && self.state == State::Established
            && self.silent(at) >= rules.window
            && silence.missed >= MISSED
            && settled(silence.missed_since)
    }

    /// How long it has received nothing and had nothing left to read.
    fn silent(&self, at: Time) -> Duration {
        let seen = self.silence.since.map_or(Duration::ZERO, |since| at.since(since));
        seen.min(self.seen.last_data_recv)
    }

    /// Is our own subscription needed to tell more of it?
    pub(super) fn wants_ear(&self, rules: &Rules, look: &Look) -> bool {
        if self.silence.dark || self.state != State::Established {
            return false;
        }
        match look.listing {
            Listing::Read { .. } => self.is_listed_subscriber() && self.silence.written_since.is_some(),
            Listing::Unavailable(_) if self.proof.done => self.silent(look.at) >= rules.window / 2,
            Listing::Unavailable(_) => true,
        }
    }

    /// Is a listing of all clients needed to tell more of it?
    pub(super) fn wants_listing(&self) -> bool {
        self.was_subscribed && !self.is_listed_subscriber()
    }

    fn is_listed_subscriber(&self) -> bool {
        self.client
            .as_ref()
            .is_some_and(|client| client.subscriptions > 0)
    }

    /// Subscribed now: as Redis lists it, or where it is not asked, as was proven.
    pub(super) fn is_subscriber(&self, listed: bool) -> bool {
        let subscribed = if listed {
            self.is_listed_subscriber()
        } else {
            self.proof.done
        };
        subscribed && self.state == State::Established
    }

    /// Redis listed it when all clients were.
    pub(super) fn is_known(&self) -> bool {
        self.known
    }

    /// ESTABLISHED here, and unknown to Redis.
    pub(super) fn is_orphan(&self) -> bool {
        self.state == State::Established && self.unlisted >= UNLISTED
    }

    /// Redis knows it, and its subscriptions are gone.
    pub(super) fn gave_up_subscribing(&self) -> bool {
        self.was_subscribed
            && self
                .client
                .as_ref()
                .is_some_and(|client| client.subscriptions == 0)
    }

    pub(super) fn condemn(&self, cause: Cause, because: String) -> Connection {
        let client = self.client.as_ref().map(|client| Client {
            id: client.id,
            addr: client.addr.clone(),
            name: client.name.clone(),
        });
        Connection {
            socket: self.socket.clone(),
            client,
            cause,
            because,
        }
    }
}

impl Silence {
    fn take_heard(&mut self, heard: Option<Heard>, at: Time) {
        match (heard, self.heard) {
            (Some(now), Some(before)) if now.subscription == before.subscription => {
                self.missed = now.messages.saturating_sub(before.messages);
                if self.missed > 0 {
                    self.missed_since.get_or_insert(at);
                }
            }
            (now, _) if !self.dark => {
                (self.heard, self.missed, self.missed_since) = (now, 0, None);
            }
            _ => {}
        }
    }
}

impl Proof {
    fn take(&mut self, heard: Option<Heard>, tcp: Tcp) {
        if self.done {
            return;
        }
        let Some(heard) = heard else {
            *self = Self::default();
            return;
        };
        let (was, before) = *self.before.get_or_insert((heard, tcp));
        let sent = tcp.bytes_acked != before.bytes_acked;
        if was.subscription != heard.subscription || sent {
            *self = Self {
                before: Some((heard, tcp)),
                ..Self::default()
            };
            return;
        }
        self.before = Some((heard, tcp));
        let received = tcp.bytes_received.saturating_sub(before.bytes_received);
        let messages = heard.messages.saturating_sub(was.messages);
        self.messages = self.messages.saturating_add(messages);
        self.heard = self.heard.saturating_add(heard.bytes.saturating_sub(was.bytes));
        self.received = self.received.saturating_add(received);
        if messages > 0 && received > 0 {
            self.matched = self.matched.saturating_add(1);
        }
        let least = self.heard / 5 * 4;
        let most = (self.heard / 4 * 5).saturating_add(self.messages.saturating_mul(OVERHEAD));
        self.done = self.matched >= MATCHES && (least..=most).contains(&self.received);
    }
}

impl Doubt {
    pub(super) const fn cause(&self) -> Cause {
        match self {
            Self::Stuck { .. } => Cause::PeerStuck,
            Self::Dark { .. } | Self::Orphaned => Cause::PeerDeaf,
        }
    }
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stuck { lasting, unread } => {
                write!(
                    f,
                    "stuck: {unread} bytes wait, and nothing was read for {} s",
                    lasting.as_secs()
                )
            }
            Self::Dark { silent, missed } => write!(
                f,
                "dark: nothing arrived for {} s, while Redis sent and we received {missed} messages of its channels",
                silent.as_secs()
            ),
            Self::Orphaned => {
                f.write_str("orphaned: the connection is open here, and Redis does not know it")
            }
        }
    }
}

/// Which connection it is, for people.
impl fmt::Display for Track {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.socket)?;
        match &self.client {
            Some(client) if client.name.is_empty() => write!(f, ", client {}", client.id),
            Some(client) => write!(f, ", client {} {:?}", client.id, client.name),
            None => Ok(()),
        }
    }
}
