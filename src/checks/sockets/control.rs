//! Is it the server? Before a client is blamed for a connection that is not there, or brings nothing, this node tries
//! to connect itself: a server that lets nobody in is not its client's fault, and restarting that would not help.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;

use crate::engine::time::Time;
use crate::sock_diag::{Endpoint, Socket};

/// Addresses that are kept of servers configured by their port alone.
const MAX_SEEN: usize = 8;
/// After a success the next try waits so long, and twice as long after each further one. MySQL shuts out a host
/// that has connected a hundred times without a word (`max_connect_errors`): this node must not be the outage.
const FIRST_WAIT: Duration = Duration::from_secs(2);
const LAST_WAIT: Duration = Duration::from_secs(3600);
/// So long a success is believed; from then until the next try the server may be away, and nobody is blamed.
const BELIEVED: Duration = Duration::from_secs(60);
/// So long after a refusal the clients have for coming back.
const RETURNING: Duration = Duration::from_secs(60);

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
}

impl Control {
    pub(super) fn new(to: &[Endpoint]) -> Self {
        Self {
            known: to
                .iter()
                .filter_map(|end| Some(SocketAddr::new(end.ip?, end.port?)))
                .collect(),
            seen: BTreeSet::new(),
            wait: FIRST_WAIT,
            good: None,
            refused: None,
        }
    }

    /// The clients are connected: here are the servers.
    pub(super) fn well(&mut self, open: &[Socket]) {
        self.wait = FIRST_WAIT;
        (self.good, self.refused) = (None, None);
        let remotes = open.iter().map(|socket| socket.id.remote);
        self.seen = remotes
            .collect::<BTreeSet<_>>()
            .into_iter()
            .take(MAX_SEEN)
            .collect();
    }

    /// Whether the server lets this node in.
    ///
    /// # Errors
    /// Why that is not so, or not known.
    pub(super) async fn answers(&mut self, now: Time, within: Duration) -> Result<(), String> {
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
        if self.refused.is_some_and(|at| now.since(at) < RETURNING) {
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
    use crate::sock_diag::Endpoint;

    #[tokio::test]
    async fn a_server_that_lets_nobody_in_excuses_its_client_and_one_that_does_is_not_tried_all_the_time() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut control = Control::new(&[address.into()]);
        let within = Duration::from_secs(20);
        let now = Time::ZERO;
        control.answers(now, within).await.unwrap();
        listener.accept().await.unwrap();
        drop(listener);
        // Not asked again: the port is closed by now.
        control.answers(now + FIRST_WAIT / 2, within).await.unwrap();
        let refused = control.answers(now + FIRST_WAIT, within).await.unwrap_err();
        assert!(refused.contains("lets this node in neither"), "{refused}");
        // Back, and its clients are not blamed at once; nor is it believed for ever.
        let _back = tokio::net::TcpListener::bind(address).await.unwrap();
        let back = now + Duration::from_secs(10);
        let early = control.answers(back, within).await.unwrap_err();
        assert!(early.contains("time to come back"), "{early}");
        let later = back + RETURNING;
        control.answers(later, within).await.unwrap();
        let (at, _) = control.good.unwrap();
        control.good = Some((at, at + LAST_WAIT));
        let old = control.answers(at + BELIEVED, within).await.unwrap_err();
        assert!(old.contains("not tried for a while"), "{old}");

        let mut unknown = Control::new(&[Endpoint::port(address.port())]);
        assert!(
            unknown
                .answers(now, within)
                .await
                .unwrap_err()
                .contains("ever seen")
        );
    }
}
