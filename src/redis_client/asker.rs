//! A connection for questions: made when the first one is asked, kept, and made anew when it failed. What it is
//! asked for is bounded in time and in bytes.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::timeout;

use super::Server;
use super::clients::{self, Clients, ListedClient};
use super::connection::Connection;
use super::dial::{Dial, Ends};
use super::failure::{Asked, Failure, Loss, judge};
use super::greeting::{self, greet};
use super::resp::Value;
use crate::engine::event::Role;

/// Longest answer, in bytes: `CLIENT LIST` of 15,000 clients has about 4 MB.
const MAX_ANSWER: usize = 16 * 1024 * 1024;

/// The same where keys are read: a key's value is not read beyond 64 KiB, and a list of names is short.
const MAX_OF_KEYS: usize = 128 * 1024;

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
    /// In the server's database, with short answers.
    of_keys: bool,
    connected: Option<Connected>,
    connects: u64,
}

struct Connected {
    connection: Connection,
    /// How the server calls it; `None` before Redis 6.
    id: Option<i64>,
    greeted: greeting::Greeting,
    /// Where the server is seen from here, once it has listed this connection as it is here.
    seen: Option<SocketAddr>,
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
            of_keys: false,
            connected: None,
            connects: 0,
        }
    }

    /// The same for [reading keys](super::keys), those of the server's database.
    pub(crate) fn of_keys(server: Server, purpose: &str) -> Self {
        Self {
            of_keys: true,
            ..Self::new(server, purpose)
        }
    }

    /// The number of that database.
    pub(super) fn db(&self) -> u32 {
        self.server.dial.db()
    }

    /// What the server is now: it may have become a replica since it was greeted.
    pub(super) async fn role(&mut self, within: Duration) -> Result<Role, Failure> {
        let greeted = self.connect_within(within).await?.greeted;
        if !greeted.resp3() {
            return Ok(greeted.server.role);
        }
        self.ask("HELLO", &[b"HELLO"], within, |value| {
            Some(greeting::Server::told_by(value, greeted.server)?.role)
        })
        .await
    }

    /// The server, in words and without secrets.
    pub(crate) fn place(&self) -> String {
        self.server.dial.place()
    }

    /// Connections that were made so far.
    pub(crate) fn connects(&self) -> u64 {
        self.connects
    }

    /// What the server calls the connection that stands, if one does: it gives greater numbers to later ones.
    pub(crate) fn id(&self) -> Option<i64> {
        self.connected.as_ref()?.id
    }

    /// Our own connection, as the server lists it (by id, Redis 6.2).
    async fn own(&mut self, within: Duration) -> Result<Option<ListedClient>, Failure> {
        for _ in 0..2 {
            let id = self.connect_within(within).await?.id;
            let Some(number) = id.map(|id| id.to_string()) else {
                return Ok(None);
            };
            let words: &[&[u8]] = &[b"CLIENT", b"LIST", b"ID", number.as_bytes()];
            let own = self
                .ask("CLIENT|LIST", words, within, |value| {
                    Some(clients::parse(value.text()?, |_| true).wanted.pop())
                })
                .await?;
            // One that had been closed was made anew for the question, and is called otherwise.
            if own.is_some() || self.id() == id {
                return Ok(own);
            }
        }
        Ok(None)
    }

    /// Does the server list our own connection under the address that it has here? Then so it does others', and
    /// whom it does not list it does not know. The server's address as it is seen from here, or why not.
    ///
    /// Asked once for each connection: while one stands, neither end of it changes its address.
    pub(crate) async fn control(&mut self, within: Duration) -> Result<Result<SocketAddr, String>, Failure> {
        if let Some(seen) = self.connected.as_ref().and_then(|connected| connected.seen) {
            return Ok(Ok(seen));
        }
        let own = self.own(within).await?;
        let Some(connected) = &mut self.connected else {
            return Err(Failure::down(Loss::Connect, "no connection"));
        };
        let ends: Option<Ends> = connected.connection.ends();
        Ok(match (own, ends) {
            (Some(own), Some(ends)) if own.address == Some(ends.local) => {
                connected.seen = Some(ends.remote);
                Ok(ends.remote)
            }
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
    ) -> Result<Clients, Failure> {
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
        let mut taken = None;
        self.ask_all_once(&[(Asked::Other(command), words)], within, &mut |_, value| {
            taken = read(value);
            taken.is_some()
        })
        .await?;
        taken.ok_or_else(|| Failure::down(Loss::Protocol, format!("no answer to {command}")))
    }

    /// Asks several things at once, which the server does one after the other with nobody in between. `take` gets
    /// the number of each and its answer, errors too, and says whether it takes it; it may get them twice, if a
    /// connection that was kept had ended.
    pub(super) async fn ask_all(
        &mut self,
        questions: &[(Asked<'_>, &[&[u8]])],
        within: Duration,
        mut take: impl FnMut(usize, &Value<'_>) -> bool,
    ) -> Result<(), Failure> {
        let kept = self.connected.is_some();
        let first = self.ask_all_once(questions, within, &mut take).await;
        match first {
            Err(Failure::Down {
                loss: Loss::Closed | Loss::Io,
                ..
            }) if kept => self.ask_all_once(questions, within, &mut take).await,
            answered => answered,
        }
    }

    async fn ask_all_once(
        &mut self,
        questions: &[(Asked<'_>, &[&[u8]])],
        within: Duration,
        take: &mut impl FnMut(usize, &Value<'_>) -> bool,
    ) -> Result<(), Failure> {
        let late = |what: &str| Failure::down(Loss::Silent, format!("{what} within {within:?}"));
        self.connect_within(within).await?;
        let Some(mut connected) = self.connected.take() else {
            return Err(late("no connection"));
        };
        let login = self.server.dial.login();
        let (user, limit) = (login.user_name(), self.max_answer());
        let mut at = 0;
        let asking = async {
            let connection = &mut connected.connection;
            for (_, words) in questions {
                connection.queue(words);
            }
            connection.flush().await?;
            let mut failed = None;
            while let Some((asked, _)) = questions.get(at) {
                let judged = connection
                    .await_value(|value| match value {
                        Value::Push(_) => None,
                        value if take(at, value) => Some(Ok(())),
                        value => Some(Err(untaken(value, *asked, user, limit))),
                    })
                    .await?;
                // The other answers are read all the same: they are not the next question's.
                failed = failed.or(judged.err());
                at += 1;
            }
            Ok(failed)
        };
        // Dropped with its connection when it is late or cancelled: the answer to come would be taken for the next
        // question's.
        let answered = timeout(within, asking).await;
        let failed = answered.map_err(|_| {
            let command = questions.get(at).map_or("", |(asked, _)| asked.command());
            late(&format!("no answer to {command}"))
        })??;
        self.connected = Some(connected);
        failed.map_or(Ok(()), Err)
    }

    const fn max_answer(&self) -> usize {
        if self.of_keys { MAX_OF_KEYS } else { MAX_ANSWER }
    }

    async fn connect_within(&mut self, within: Duration) -> Result<&Connected, Failure> {
        if self.connected.is_none() {
            let db = self.of_keys.then(|| self.db());
            let (dial, limit) = (&*self.server.dial, self.max_answer());
            let connecting = timeout(within, connect(dial, &self.name, limit, db, within)).await;
            let connected = connecting
                .map_err(|_| Failure::down(Loss::Silent, format!("no connection within {within:?}")))??;
            self.connects += 1;
            self.connected = Some(connected);
        }
        let gone = || Failure::down(Loss::Connect, "no connection");
        self.connected.as_ref().ok_or_else(gone)
    }
}

/// `db`: whose keys will be read.
async fn connect(
    dial: &dyn Dial,
    name: &str,
    max_answer: usize,
    db: Option<u32>,
    within: Duration,
) -> Result<Connected, Failure> {
    let place = dial.place();
    let io = dial
        .dial()
        .await
        .map_err(|error| Failure::down(Loss::Connect, format!("cannot connect to {place}: {error}")))?;
    let mut connection = Connection::new(io, within).up_to(max_answer);
    let login = dial.login();
    let greeted = greet(&mut connection, &login, name).await?;
    let id = if greeted.resp3() {
        // Without arguments, and exempt from every ACL rule.
        connection.ask(&[b"HELLO"], own_id).await?
    } else {
        None
    };
    if let Some(db) = db.filter(|db| *db != 0) {
        let db = db.to_string();
        let select: &[&[u8]] = &[b"SELECT", db.as_bytes()];
        connection
            .ask(select, |value| match value {
                Value::Error(error) => Err(judge(error, Asked::Other("SELECT"), login.user_name())),
                _ => Ok(()),
            })
            .await??;
    }
    Ok(Connected {
        connection,
        id,
        greeted,
        seen: None,
    })
}

fn untaken(value: &Value<'_>, asked: Asked<'_>, user: &str, limit: usize) -> Failure {
    let command = asked.command();
    match value {
        Value::Error(error) => judge(error, asked, user),
        Value::Oversized(length) => Failure::down(
            Loss::Protocol,
            format!("the answer to {command} has {length} bytes, and {limit} are taken"),
        ),
        _ => Failure::down(
            Loss::Protocol,
            format!("the server answered {command} with something else"),
        ),
    }
}

/// The `id` in the answer to HELLO.
fn own_id(hello: &Value<'_>) -> Option<i64> {
    let Value::Map(items) = hello else { return None };
    items.chunks_exact(2).find_map(|pair| match pair {
        [name, Value::Integer(id)] if name.text() == Some(b"id") => Some(*id),
        _ => None,
    })
}
