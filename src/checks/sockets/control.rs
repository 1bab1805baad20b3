//! Is it the server? Before a client is blamed for a connection that is not there, or brings nothing, this node tries
//! to connect itself: a server that lets nobody in is not its client's fault, and restarting that would not help.
//!
//! A server that was away between two looks lets everybody in again. That it was not, a connection shows that stood
//! before and stands now, whosever it is, or the server's LISTEN socket where that is on this machine. Where nothing
//! shows it, its clients have the time to come back that they have after a refusal.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;

use crate::engine::time::Time;
use crate::sock_diag::{Cookie, Endpoint, Filter, Socket, State, dump_within};

/// Addresses that are kept of servers configured by their port alone.
const MAX_SEEN: usize = 8;
/// After a success the next try waits so long, and twice as long after each further one. MySQL shuts out a host
/// that has connected a hundred times without a word (`max_connect_errors`): this node must not be the outage.
const FIRST_WAIT: Duration = Duration::from_secs(2);
const LAST_WAIT: Duration = Duration::from_secs(3600);
/// So long a success is believed; from then until the next try the server may be away, and nobody is blamed.
const BELIEVED: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct Control {
    /// The configured addresses.
    known: Vec<SocketAddr>,
    /// Where its clients were connected to when all was well.
    seen: BTreeSet<SocketAddr>,
    wait: Duration,
    /// When it let us in, and when it is tried again.
    good: Option<(Time, Time)>,
    /// When it let nobody in.
    refused: Option<Time>,
    /// So long the clients have for coming back, after it did not.
    settle: Duration,
    /// The connections to it in this network namespace, whosever, when all was last well.
    standing: BTreeSet<Cookie>,
    /// The sockets on which it listened, if it is on this machine, at some time before that.
    listening: BTreeSet<Cookie>,
    /// What is known of the time since all was well, once it is not.
    gap: Option<Gap>,
}

/// Between the last look at which all was well and the first at which it was not.
#[derive(Clone, Copy, Debug)]
enum Gap {
    /// The server was there.
    Stayed,
    /// It may have been away. When that was found.
    Unseen(Time),
}

impl Control {
    pub(super) fn new(to: &[Endpoint], settle: Duration) -> Self {
        Self {
            known: to
                .iter()
                .filter_map(|end| Some(SocketAddr::new(end.ip?, end.port?)))
                .collect(),
            seen: BTreeSet::new(),
            wait: FIRST_WAIT,
            good: None,
            refused: None,
            settle,
            standing: BTreeSet::new(),
            listening: BTreeSet::new(),
            gap: None,
        }
    }

    /// The clients are connected: here are the servers. `standing`: every connection to them, whosever.
    pub(super) async fn well(&mut self, open: &[Socket], standing: BTreeSet<Cookie>, within: Duration) {
        self.wait = FIRST_WAIT;
        (self.good, self.refused, self.gap) = (None, None, None);
        let remotes = open.iter().map(|socket| socket.id.remote);
        self.seen = remotes
            .collect::<BTreeSet<_>>()
            .into_iter()
            .take(MAX_SEEN)
            .collect();
        // Who listens is asked again only where nothing else shows that it is the same server as before.
        if self.standing.is_disjoint(&standing) {
            self.listening = self.listens(within).await;
        }
        self.standing = standing;
    }

    /// The sockets on which the servers listen, as far as they are on this machine.
    async fn listens(&self, within: Duration) -> BTreeSet<Cookie> {
        let servers: Vec<SocketAddr> = self.known.iter().chain(&self.seen).copied().collect();
        let ports: BTreeSet<u16> = servers.iter().map(SocketAddr::port).collect();
        let filter = Filter {
            states: [State::Listen].into(),
            remote: Vec::new(),
            local: ports.into_iter().map(Endpoint::port).collect(),
        };
        // Unread, it shows nothing.
        let listed = dump_within(filter, within).await.unwrap_or_default();
        let is_theirs = |socket: &Socket| {
            let (local, port) = (socket.id.local.ip(), socket.id.local.port());
            servers.iter().any(|server| {
                let here = local == server.ip() || (local.is_unspecified() && server.ip().is_loopback());
                here && port == server.port()
            })
        };
        let theirs = listed.sockets.into_iter().filter(is_theirs);
        theirs.map(|socket| socket.id.cookie).collect()
    }

    /// # Errors
    /// If the server may have been away since all was well, a moment ago.
    async fn stayed(
        &mut self,
        now: Time,
        standing: &BTreeSet<Cookie>,
        within: Duration,
    ) -> Result<(), String> {
        let gap = match self.gap {
            Some(gap) => gap,
            None if self.standing.is_empty() || !self.standing.is_disjoint(standing) => Gap::Stayed,
            None if !self.listens(within).await.is_disjoint(&self.listening) => Gap::Stayed,
            None => Gap::Unseen(now),
        };
        self.gap = Some(gap);
        match gap {
            Gap::Unseen(at) if now.since(at) < self.settle => {
                Err("all connections to the server ended at once, which may be its doing: its clients have time to \
                     come back"
                    .to_owned())
            }
            Gap::Unseen(_) | Gap::Stayed => Ok(()),
        }
    }

    /// Whether the server lets this node in, and was there all the time. `standing`: every connection to it, whosever.
    ///
    /// # Errors
    /// Why that is not so, or not known.
    pub(super) async fn answers(
        &mut self,
        now: Time,
        standing: &BTreeSet<Cookie>,
        within: Duration,
    ) -> Result<(), String> {
        // Found out at the first look at which something is wrong, whatever else may be.
        let stayed = self.stayed(now, standing, within / 2).await;
        self.lets_in(now, within / 2).await?;
        stayed
    }

    async fn lets_in(&mut self, now: Time, within: Duration) -> Result<(), String> {
        match self.good {
            Some((at, again)) if now < again => return self.believes(at, now),
            Some(_) | None => self.good = None,
        }
        let all: Vec<SocketAddr> = self.known.iter().chain(&self.seen).copied().collect();
        let Some(last) = all.last() else {
            return Err("no connection was ever seen, so that this node cannot try the server itself".into());
        };
        let mut refused = format!("{last} was not tried");
        for address in &all {
            let each = within / u32::try_from(all.len()).unwrap_or(1).max(1);
            match tokio::time::timeout(each, TcpStream::connect(address)).await {
                Ok(Ok(_)) => {
                    self.good = Some((now, now + self.wait));
                    self.wait = (self.wait * 2).min(LAST_WAIT);
                    return self.believes(now, now);
                }
                Ok(Err(error)) => refused = format!("{address} lets this node in neither: {error}"),
                Err(_) => refused = format!("{address} does not answer this node either"),
            }
        }
        self.refused = Some(now);
        Err(refused)
    }

    fn believes(&self, tried: Time, now: Time) -> Result<(), String> {
        if self.refused.is_some_and(|at| now.since(at) < self.settle) {
            return Err("the server let nobody in a moment ago: its clients have time to come back".into());
        }
        if now.since(tried) >= BELIEVED {
            return Err("the server was not tried for a while, so as not to be shut out by it".into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sock_diag::{Endpoint, dump};

    const SETTLE: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn a_server_that_lets_nobody_in_excuses_its_client_and_one_that_does_is_not_tried_all_the_time() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut control = Control::new(&[address.into()], SETTLE);
        let within = Duration::from_secs(20);
        let now = Time::ZERO;
        control.lets_in(now, within).await.unwrap();
        listener.accept().await.unwrap();
        drop(listener);
        // Not asked again: the port is closed by now.
        control.lets_in(now + FIRST_WAIT / 2, within).await.unwrap();
        let refused = control.lets_in(now + FIRST_WAIT, within).await.unwrap_err();
        assert!(refused.contains("lets this node in neither"), "{refused}");
        // Back, and its clients are not blamed at once; nor is it believed for ever.
        let _back = tokio::net::TcpListener::bind(address).await.unwrap();
        let back = now + Duration::from_secs(10);
        let early = control.lets_in(back, within).await.unwrap_err();
        assert!(early.contains("time to come back"), "{early}");
        let later = back + SETTLE;
        control.lets_in(later, within).await.unwrap();
        let (at, _) = control.good.unwrap();
        control.good = Some((at, at + LAST_WAIT));
        let old = control.lets_in(at + BELIEVED, within).await.unwrap_err();
        assert!(old.contains("not tried for a while"), "{old}");

        let mut unknown = Control::new(&[Endpoint::port(address.port())], SETTLE);
        assert!(
            unknown
                .lets_in(now, within)
                .await
                .unwrap_err()
                .contains("ever seen")
        );
    }

    /// Connections to this address, as a look lists them.
    fn to(address: SocketAddr) -> Vec<Socket> {
        dump(&Filter::established_to(vec![address.into()]))
            .unwrap()
            .sockets
    }

    fn cookies(sockets: &[Socket]) -> BTreeSet<Cookie> {
        sockets.iter().map(|socket| socket.id.cookie).collect()
    }

    #[tokio::test]
    async fn a_server_that_may_have_been_away_between_two_looks_excuses_its_client_for_a_while() {
        let within = Duration::from_secs(20);
        let now = Time::ZERO;
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let clients = [0, 1].map(|_| std::net::TcpStream::connect(address).unwrap());
        let mut control = Control::new(&[address.into()], SETTLE);
        let both = to(address);
        control.well(&both, cookies(&both), within).await;
        let [one, other] = clients;

        // One is left, so that it was there; and nobody is, but it listens as before.
        drop(one);
        let left = cookies(&to(address));
        assert_eq!(left.len(), 1);
        control.stayed(now, &left, within).await.unwrap();
        control.gap = None;
        drop(other);
        control.stayed(now, &BTreeSet::new(), within).await.unwrap();

        // Another one listens there by now.
        control.gap = None;
        drop(listener);
        let again = std::net::TcpListener::bind(address).unwrap();
        let early = control.stayed(now, &BTreeSet::new(), within).await.unwrap_err();
        assert!(early.contains("time to come back"), "{early}");
        let almost = now + SETTLE - Duration::from_millis(1);
        control
            .stayed(almost, &BTreeSet::new(), within)
            .await
            .unwrap_err();
        control
            .stayed(now + SETTLE, &BTreeSet::new(), within)
            .await
            .unwrap();

        // It is back, and with it what is compared the next time.
        let _client = std::net::TcpStream::connect(address).unwrap();
        let open = to(address);
        control.well(&open, cookies(&open), within).await;
        control.stayed(now, &BTreeSet::new(), within).await.unwrap();
        drop(again);
    }
}
