//! A connection for questions: made when the first one is asked, kept, and made anew when it failed. What it is
//! asked for is bounded in time and in bytes.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::timeout;

use super::Server;
use super::clients::{self, ListedClient};
use super::connection::Connection;
use super::dial::{Dial, Ends};
use super::failure::{Asked, Failure, Loss, judge};
use super::greeting::greet;
use super::resp::Value;

/// Longest answer, in bytes: `CLIENT LIST` of 15,000 clients has about 4 MB.
const MAX_ANSWER: usize = 16 * 1024 * 1024;

/// Which clients to list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    /// Those with a subscription.
    Subscribed,
    /// Every one.
    All,
}

/// Asks one server.
pub(crate) struct Asker {
    server: Server,
    name: String,
    connected: Option<Connected>,
    connects: u64,
}

struct Connected {
    connection: Connection,
    /// How the server calls it; `None` before Redis 6.
    id: Option<i64>,
}

impl fmt::Debug for Asker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Asker")
            .field("server", &self.server)
            .finish_non_exhaustive()
    }
}

impl Asker {
    /// Connects to nothing yet. `purpose` ends the connection's name.
    pub(crate) fn new(server: Server, purpose: &str) -> Self {
        Self {
            name: server.connection(purpose),
            server,
            connected: None,
            connects: 0,
        }
    }

    /// The server, in words and without secrets.
    pub(crate) fn place(&self) -> String {
        self.server.dial.place()
    }

    /// Connections that were made so far.
    pub(crate) fn connects(&self) -> u64 {
        self.connects
    }

    /// Our own connection, as the server lists it (by id, Redis 6.2).
    async fn own(&mut self, within: Duration) -> Result<Option<ListedClient>, Failure> {
        let id = self.connect_within(within).await?.id;
        let Some(id) = id.map(|id| id.to_string()) else {
            return Ok(None);
        };
        let words: &[&[u8]] = &[b"CLIENT", b"LIST", b"ID", id.as_bytes()];
        self.ask("CLIENT|LIST", words, within, |value| {
            Some(clients::parse(value.text()?, |_| true).pop())
        })
        .await
    }

    /// Does the server list our own connection under the address that it has here? Then so it does others', and
    /// whom it does not list it does not know. The server's address as it is seen from here, or why not.
    pub(crate) async fn control(&mut self, within: Duration) -> Result<Result<SocketAddr, String>, Failure> {
        let own = self.own(within).await?;
        let connected = self.connected.as_ref();
        let ends: Option<Ends> = connected.and_then(|connected| connected.connection.ends());
        Ok(match (own, ends) {
            (Some(own), Some(ends)) if own.address == Some(ends.local) => Ok(ends.remote),
            (Some(own), Some(ends)) => Err(format!(
                "it sees this node as {}, which is {} here: with NAT or a proxy between, connections cannot be told by \
                 their addresses",
                own.addr, ends.local
            )),
            (None, Some(_)) => Err("it does not list this node's own connection".to_owned()),
            (_, None) => {
                Err("it is reached by no TCP port, so that connections to it are not observable".to_owned())
            }
        })
    }

    /// The clients whose address is `wanted`.
    pub(crate) async fn clients(
        &mut self,
        which: Which,
        within: Duration,
        wanted: impl Fn(SocketAddr) -> bool,
    ) -> Result<Vec<ListedClient>, Failure> {
        let words: &[&[u8]] = match which {
            Which::Subscribed => &[b"CLIENT", b"LIST", b"TYPE", b"pubsub"],
            Which::All => &[b"CLIENT", b"LIST"],
        };
        self.ask("CLIENT|LIST", words, within, |value| {
            Some(clients::parse(value.text()?, &wanted))
        })
        .await
    }

    /// Ends the connection that has this id *and* this address: a server that was started anew gives ids anew.
    /// False: there is none, or it went when the answer to a first try broke off. A second try hits nobody else: both
    /// must match.
    pub(crate) async fn kill(&mut self, id: u64, addr: &str, within: Duration) -> Result<bool, Failure> {
        let id = id.to_string();
        let words: &[&[u8]] = &[b"CLIENT", b"KILL", b"ID", id.as_bytes(), b"ADDR", addr.as_bytes()];
        self.ask("CLIENT|KILL", words, within, |value| match value {
            Value::Integer(killed) => Some(*killed > 0),
            _ => None,
        })
        .await
    }

    /// Asks `words`, known to ACL rules as `command`; `read` takes what it understands of the answer.
    ///
    /// A connection that was kept may have been closed by the server since (`timeout` in redis.conf): then it is
    /// asked again on a new one.
    pub(crate) async fn ask<T>(
        &mut self,
        command: &'static str,
        words: &[&[u8]],
        within: Duration,
        read: impl Fn(&Value<'_>) -> Option<T>,
    ) -> Result<T, Failure> {
        let kept = self.connected.is_some();
        let first = self.ask_once(command, words, within, &read).await;
        match first {
            Err(Failure::Down {
                loss: Loss::Closed | Loss::Io,
                ..
            }) if kept => self.ask_once(command, words, within, &read).await,
            answered => answered,
        }
    }

    async fn ask_once<T>(
        &mut self,
        command: &'static str,
        words: &[&[u8]],
        within: Duration,
        read: impl Fn(&Value<'_>) -> Option<T>,
    ) -> Result<T, Failure> {
        let late = |what: &str| Failure::down(Loss::Silent, format!("{what} within {within:?}"));
        self.connect_within(within).await?;
        let Some(mut connected) = self.connected.take() else {
            return Err(late("no connection"));
        };
        let login = self.server.dial.login();
        let asking = connected.connection.ask(words, |value| match value {
            Value::Error(error) => Err(judge(error, Asked::Other(command), login.user_name())),
            Value::Oversized(length) => Err(Failure::down(
                Loss::Protocol,
                format!("the answer to {command} has {length} bytes, and {MAX_ANSWER} are taken"),
            )),
            value => read(value).ok_or_else(|| {
                Failure::down(
                    Loss::Protocol,
                    format!("the server answered {command} with something else"),
                )
            }),
        });
        // Dropped with its connection when it is late or cancelled: the answer to come would be taken for the next
        // question's.
        let answer = timeout(within, asking)
            .await
            .map_err(|_| late(&format!("no answer to {command}")))??;
        self.connected = Some(connected);
        answer
    }

    async fn connect_within(&mut self, within: Duration) -> Result<&Connected, Failure> {
        if self.connected.is_none() {
            let connecting = timeout(within, connect(&*self.server.dial, &self.name, within)).await;
            let connected = connecting
                .map_err(|_| Failure::down(Loss::Silent, format!("no connection within {within:?}")))??;
            self.connects += 1;
            self.connected = Some(connected);
        }
        let gone = || Failure::down(Loss::Connect, "no connection");
        self.connected.as_ref().ok_or_else(gone)
    }
}

async fn connect(dial: &dyn Dial, name: &str, within: Duration) -> Result<Connected, Failure> {
    let place = dial.place();
    let io = dial
        .dial()
        .await
        .map_err(|error| Failure::down(Loss::Connect, format!("cannot connect to {place}: {error}")))?;
    let mut connection = Connection::new(io, within).up_to(MAX_ANSWER);
    let greeting = greet(&mut connection, &dial.login(), name).await?;
    let id = if greeting.resp3() {
        // Without arguments, and exempt from every ACL rule.
        connection.ask(&[b"HELLO"], own_id).await?
    } else {
        None
    };
    Ok(Connected { connection, id })
}

/// The `id` in the answer to HELLO.
fn own_id(hello: &Value<'_>) -> Option<i64> {
    let Value::Map(items) = hello else { return None };
    items.chunks_exact(2).find_map(|pair| match pair {
        [name, Value::Integer(id)] if name.text() == Some(b"id") => Some(*id),
        _ => None,
    })
}
