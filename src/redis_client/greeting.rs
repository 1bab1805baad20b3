//! The first words on a connection: get in, agree on RESP3, take a name, learn who is there, subscribe.

use std::sync::Arc;

use super::connection::Connection;
use super::dial::Login;
use super::failure::{Asked, Failure, Loss, judge, printable};
use super::resp::Value;
use crate::engine::event::Role;
use crate::secret::Secret;

/// Longest node name in a connection's name, in bytes.
const MAX_NODE: usize = 128;

/// What a server says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Server {
    pub(crate) role: Role,
    /// Neither cluster nor proxy.
    pub(crate) plain: bool,
}

/// How the server is asked about itself again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Question {
    /// RESP3, and what no ACL can forbid (HELLO is exempt from them).
    Hello,
    Info,
    Role,
    /// Every way is refused.
    None,
}

impl Question {
    pub(crate) const fn words(self) -> Option<&'static [&'static [u8]]> {
        match self {
            Self::Hello => Some(&[b"HELLO"]),
            Self::Info => Some(&[b"INFO"]),
            Self::Role => Some(&[b"ROLE"]),
            Self::None => None,
        }
    }
}

/// What came of the greeting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Greeting {
    pub(crate) server: Server,
    pub(crate) question: Question,
    /// The server took the connection's name.
    pub(crate) named: bool,
}

impl Greeting {
    /// The connection speaks RESP3.
    pub(crate) const fn resp3(self) -> bool {
        matches!(self.question, Question::Hello)
    }
}

/// `defib:<node>:pub`, in the characters that CLIENT SETNAME takes.
pub(crate) fn connection_name(node: &str, purpose: &str) -> String {
    let node: String = node
        .chars()
        .map(|c| if c.is_ascii_graphic() { c } else { '_' })
        .take(MAX_NODE)
        .collect();
    format!("defib:{node}:{purpose}")
}

/// Gets in and learns who is there. The caller bounds its time.
///
/// AUTH goes before HELLO and not within it: a server without HELLO would repeat the password in its error.
pub(crate) async fn greet(
    connection: &mut Connection,
    login: &Login,
    name: &str,
) -> Result<Greeting, Failure> {
    if let Some(secret) = &login.password {
        authenticate(connection, login, secret).await?;
    }
    let hello = connection
        .ask(&[b"HELLO", b"3"], |value| match value {
            Value::Error(error) => Err(error.to_vec()),
            value => Ok(Server::told_by(value, Server::UNKNOWN)),
        })
        .await?;
    let (server, question) = match hello {
        Ok(server) => (server.unwrap_or(Server::UNKNOWN), Question::Hello),
        Err(error) if knows_no_resp3(&error) => ask_in_resp2(connection, login).await?,
        Err(error) => return Err(judge(&error, Asked::Hello, login.user_name())),
    };
    let named = connection
        .ask(&[b"CLIENT", b"SETNAME", name.as_bytes()], |value| {
            !matches!(value, Value::Error(_))
        })
        .await?;
    Ok(Greeting {
        server,
        question,
        named,
    })
}

/// Subscribes to all channels; returns when each one is confirmed.
///
/// One command a channel: the refusal of a SUBSCRIBE with several does not say which one is meant.
pub(crate) async fn subscribe(
    connection: &mut Connection,
    channels: &[Arc<str>],
    login: &Login,
) -> Result<(), Failure> {
    for channel in channels {
        connection.queue(&[b"SUBSCRIBE", channel.as_bytes()]);
    }
    connection.flush().await?;
    for channel in channels {
        connection
            .await_value(|value| match value {
                Value::Error(error) => Some(Err(judge(error, Asked::Subscribe(channel), login.user_name()))),
                Value::Push(items) | Value::List(items) => {
                    (items.first().and_then(Value::text) == Some(b"subscribe")).then_some(Ok(()))
                }
                _ => Some(Err(Failure::down(
                    Loss::Protocol,
                    "the server answered SUBSCRIBE with something else",
                ))),
            })
            .await??;
    }
    Ok(())
}

async fn authenticate(connection: &mut Connection, login: &Login, secret: &Secret) -> Result<(), Failure> {
    let password = secret
        .read()
        .await
        .map_err(|error| Failure::refused(format!("no password for the bus: {error}")))?;
    let words: &[&[u8]] = match &login.user {
        Some(user) => &[b"AUTH", user.as_bytes(), password.as_bytes()],
        None => &[b"AUTH", password.as_bytes()],
    };
    connection
        .ask(words, |value| match value {
            Value::Error(error) => Err(judge(error, Asked::Auth, login.user_name())),
            _ => Ok(()),
        })
        .await?
}

/// Redis before 6, a renamed HELLO, and proxies.
fn knows_no_resp3(error: &[u8]) -> bool {
    let text = printable(error);
    text.starts_with("NOPROTO") || text.contains("unknown command")
}

async fn ask_in_resp2(connection: &mut Connection, login: &Login) -> Result<(Server, Question), Failure> {
    for question in [Question::Info, Question::Role] {
        let Some(words) = question.words() else { continue };
        let told = connection
            .ask(words, |value| match value {
                Value::Error(error) if error.starts_with(b"NOAUTH") => {
                    Err(judge(error, Asked::Ping, login.user_name()))
                }
                value => Ok(Server::told_by(value, Server::UNKNOWN)),
            })
            .await??;
        if let Some(server) = told {
            return Ok((server, question));
        }
    }
    Ok((Server::UNKNOWN, Question::None))
}

impl Server {
    const UNKNOWN: Self = Self {
        role: Role::Unknown,
        plain: false,
    };

    /// Reads the answer to HELLO, INFO or ROLE; `None` if it tells nothing. ROLE says nothing about the mode:
    /// that stays as it was.
    pub(crate) fn told_by(answer: &Value<'_>, before: Self) -> Option<Self> {
        match answer {
            Value::Map(items) => {
                let field = |name: &[u8]| {
                    items
                        .chunks_exact(2)
                        .find(|pair| pair[0].text() == Some(name))
                        .and_then(|pair| pair[1].text())
                };
                Some(Self {
                    role: role_of(field(b"role")),
                    plain: field(b"mode") == Some(b"standalone"),
                })
            }
            Value::Bulk(info) => {
                let field = |name: &[u8]| {
                    info.split(|byte| *byte == b'\n')
                        .find_map(|line| line.strip_prefix(name))
                        .map(<[u8]>::trim_ascii)
                };
                Some(Self {
                    role: role_of(field(b"role:")),
                    plain: field(b"redis_mode:") == Some(b"standalone"),
                })
            }
            Value::List(items) => Some(Self {
                role: role_of(items.first()?.text()),
                plain: before.plain,
            }),
            _ => None,
        }
    }
}

fn role_of(word: Option<&[u8]>) -> Role {
    match word {
        Some(b"master" | b"primary") => Role::Master,
        Some(b"slave" | b"replica") => Role::Replica,
        _ => Role::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_setname_takes() {
        assert_eq!(connection_name("base-1", "pub"), "defib:base-1:pub");
        assert_eq!(connection_name("a b\nü", "sub"), "defib:a_b__:sub");
        assert!(connection_name(&"x".repeat(4096), "sub").len() < 150);
    }

    #[test]
    fn reads_what_servers_say_of_themselves() {
        let hello = Value::Map(vec![
            Value::Bulk(b"proto"),
            Value::Integer(3),
            Value::Bulk(b"mode"),
            Value::Bulk(b"standalone"),
            Value::Bulk(b"role"),
            Value::Bulk(b"replica"),
        ]);
        let replica = Server {
            role: Role::Replica,
            plain: true,
        };
        assert_eq!(Server::told_by(&hello, Server::UNKNOWN), Some(replica));
        let info = Value::Bulk(b"# Server\r\nredis_mode:cluster\r\n# Replication\r\nrole:master\r\n");
        let cluster = Server {
            role: Role::Master,
            plain: false,
        };
        assert_eq!(Server::told_by(&info, Server::UNKNOWN), Some(cluster));
        let role = Value::List(vec![Value::Bulk(b"slave"), Value::Null]);
        assert_eq!(Server::told_by(&role, replica), Some(replica));
        assert_eq!(Server::told_by(&Value::Error(b"NOPERM"), replica), None);
    }
}
