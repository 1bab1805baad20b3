//! Whether the bus can work here: a connection of its own gets in, tries everything that the links will do, and
//! gathers every ACL rule that is missing into the one line that adds them all.
//!
//! Nothing is published: a RESP2 connection that is subscribed may not PUBLISH, and servers look at the ACL before
//! they say so (`processCommand` since 6.0). What is refused for its context is permitted by the ACL. (ACL DRYRUN
//! would need a permission of its own that a careful ACL does not give.)

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::{Backend, Settings, ask, heartbeat};
use crate::engine::event::{Link, LinkStatus, Role};
use crate::engine::settings::Settings as Names;
use crate::http_client::{self, Response};
use crate::preflight::{Finding, Look, Part, Subject};
use crate::redis_client::Redis;
use crate::redis_client::connection::Connection;
use crate::redis_client::dial::{Dial, Login};
use crate::redis_client::failure::{Asked, Failure, Loss, judge, printable};
use crate::redis_client::greeting::{self, Greeting, connection_name};
use crate::redis_client::resp::Value;

/// Bound on one write; the whole look is bounded by whoever runs it.
const PATIENCE: Duration = Duration::from_secs(5);

/// The looks at the bus.
pub fn preflight(settings: &Settings) -> Vec<Look> {
    let subject = Subject::node(Part::Bus);
    let settings = settings.clone();
    vec![subject.look(async move {
        match &settings.backend {
            Backend::Embedded { .. } => Finding::OK,
            Backend::Redis(endpoint) => {
                let redis = Redis::new(endpoint.clone());
                try_all(&redis, &settings).await.unwrap_or_else(|failure| {
                    let place = redis.place();
                    match failure.into_status() {
                        LinkStatus::Refused { cure } => Finding::missing(format!("{place} refuses"), cure),
                        LinkStatus::Down { reason } => Finding::unknown(format!("{place}: {reason}")),
                        LinkStatus::Up { .. } => Finding::unknown(place),
                    }
                })
            }
        }
    })]
}

/// The looks at the nodes that are asked for their votes over HTTP.
pub fn of_asked(nodes: &[Arc<str>], names: &Names) -> Vec<Look> {
    let look = |node: &Arc<str>| {
        let subject = Subject::peer(Part::Votes, "", &**node);
        let (node, group) = (Arc::clone(node), Arc::clone(&names.group));
        subject.look(async move { told(&ask::latest(&node, "", PATIENCE).await, &node, &group) })
    };
    nodes.iter().map(look).collect()
}

/// What one answer shows. (Whether it verifies, a running node counts.)
fn told(answer: &Result<Response, http_client::Error>, node: &str, group: &str) -> Finding {
    let cure = "name the public listener of another node in quorum.ask, at an address that it listens on";
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) => return Finding::unknown(format!("{node}: {error}")),
    };
    match (answer.status, &answer.body) {
        (200, Some(body)) => match heartbeat::read(body) {
            Ok(beat) if beat.group.as_deref() == Some(group) => Finding::OK,
            Ok(_) => Finding::missing(format!("{node} answers for another group"), cure),
            Err(_) => Finding::missing(format!("{node} answers with no heartbeat"), cure),
        },
        (503, _) => Finding::unknown(format!(
            "{node} has no heartbeat that its bus brought back of late"
        )),
        (status, _) => Finding::missing(format!("{node} answers with status {status}"), cure),
    }
}

async fn try_all(redis: &Redis, settings: &Settings) -> Result<Finding, Failure> {
    let io = redis
        .dial()
        .await
        .map_err(|error| Failure::down(Loss::Connect, error.to_string()))?;
    let login = redis.login();
    let mut connection = Connection::new(io, PATIENCE);
    let name = connection_name(&settings.node, Link::Sub.as_str());
    let greeting = greeting::greet(&mut connection, &login, &name).await?;
    if greeting.resp3() {
        // In RESP3 a subscribed connection may do everything, and a PUBLISH would be one.
        connection.ask(&[b"HELLO", b"2"], |_| ()).await?;
    }
    let mut lacks = Lacks::default();
    lacks.learn(Asked::Ping, &ask(&mut connection, &[b"PING"]).await?, &login)?;
    for channel in &settings.channels {
        let answer = ask(&mut connection, &[b"SUBSCRIBE", channel.as_bytes()]).await?;
        lacks.learn(Asked::Subscribe(channel), &answer, &login)?;
        lacks.subscribed |= answer.is_ok();
    }
    if lacks.subscribed {
        let channel = &settings.publish_channel;
        let answer = ask(&mut connection, &[b"PUBLISH", channel.as_bytes(), b""]).await?;
        lacks.learn(Asked::Publish(channel), &answer, &login)?;
    }
    connection.close().await;
    Ok(lacks.told(&redis.place(), &login, greeting))
}

/// One question on a connection that is perhaps subscribed, so that even answers look like messages. What others
/// publish meanwhile is no answer.
async fn ask(connection: &mut Connection, words: &[&[u8]]) -> Result<Result<(), Vec<u8>>, Failure> {
    connection.queue(words);
    connection.flush().await?;
    connection
        .await_value(|value| match value {
            Value::Error(error) => Some(Err(error.to_vec())),
            Value::List(items) | Value::Push(items)
                if items.first().and_then(Value::text) == Some(b"message") =>
            {
                None
            }
            _ => Some(Ok(())),
        })
        .await
}

/// A channel as an ACL rule can name it, and as it can be pasted: no rule takes a blank, but each takes `?` for it.
fn rule(channel: &str) -> String {
    let unfit = |c: char| c.is_ascii_whitespace() || matches!(c, '"' | '\'' | '\\');
    format!("&{}", channel.replace(unfit, "?"))
}

/// What the server would not let us do.
#[derive(Default)]
struct Lacks {
    /// `+subscribe`, as ACL SETUSER takes it.
    commands: BTreeSet<String>,
    /// `&can_messages`.
    channels: BTreeSet<String>,
    subscribed: bool,
}

impl Lacks {
    /// # Errors
    /// If the server refuses for another reason than its ACL.
    fn learn(
        &mut self,
        asked: Asked<'_>,
        answer: &Result<(), Vec<u8>>,
        login: &Login,
    ) -> Result<(), Failure> {
        let Err(error) = answer else { return Ok(()) };
        let text = printable(error);
        if matches!(asked, Asked::Publish(_)) && text.contains("context") {
            return Ok(());
        }
        if !text.starts_with("NOPERM") {
            return Err(judge(error, asked, login.user_name()));
        }
        if !text.contains("channel") {
            self.commands
                .insert(format!("+{}", asked.command().to_lowercase()));
        }
        // A command that is refused hides whether its channel is, too. Since Redis 7 a new user has none.
        self.channels.extend(asked.channel().map(rule));
        Ok(())
    }

    fn told(mut self, place: &str, login: &Login, greeting: Greeting) -> Finding {
        let user = login.user_name();
        if !self.commands.is_empty() || !self.channels.is_empty() {
            if !self.subscribed {
                self.commands.insert("+publish".to_owned());
            }
            let rules: Vec<String> = self.commands.into_iter().chain(self.channels).collect();
            let rules = rules.join(" ");
            return Finding::missing(
                format!("user '{user}' of {place} lacks {rules}"),
                format!("ACL SETUSER {user} {rules}"),
            );
        }
        match greeting.server.role {
            Role::Replica => Finding::missing(
                format!("{place} is a replica: what is published there reaches nobody at its master"),
                "point bus.url at the master",
            ),
            Role::Master | Role::Unknown if greeting.named => Finding::OK,
            Role::Master | Role::Unknown => Finding::noted(format!(
                "the links will have no names in CLIENT LIST; ACL SETUSER {user} +client|setname names them"
            )),
        }
    }
}
