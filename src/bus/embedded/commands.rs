//! What each command does and answers, worded as Redis words it: clients compare these texts.

use bytes::Bytes;

use super::hub::{Client, ClientId, Ending, Hub, Kind};
use super::wire::{self, Frame, Protocol};
use crate::telemetry::metrics::broker::Closed;

/// The Redis whose behaviour clients may count on here. They ask, and choose by it what they send.
const REDIS_VERSION: &str = "7.0.0";

/// The replies, or the text of the error that takes their place.
type Replies = Result<Vec<Frame>, String>;
/// Which connections are meant.
type Filter = Box<dyn Fn(ClientId, &Client) -> bool>;

/// Runs one request and queues its replies.
pub(super) fn execute(hub: &mut Hub, id: ClientId, request: &[Bytes]) {
    let Some((name, arguments)) = request.split_first() else {
        return;
    };
    let command = word(name);
    let Some(client) = hub.client(id) else { return };
    client.last_command.clone_from(&command);
    let subscriber = client.protocol == Protocol::Resp2 && client.subscriptions() > 0;
    let replies = if subscriber && !allowed_to_subscribers(&command) {
        Err(format!(
            "ERR Can't execute '{}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in \
             this context",
            shorten(name)
        ))
    } else {
        run(hub, id, &command, name, arguments)
    };
    match replies {
        Ok(frames) => frames.into_iter().for_each(|frame| hub.reply(id, frame)),
        Err(text) => hub.reply(id, wire::error(&text)),
    }
}

fn run(hub: &mut Hub, id: ClientId, command: &str, name: &[u8], arguments: &[Bytes]) -> Replies {
    match (command, arguments) {
        ("ping", []) => one(ping(hub, id, None)),
        ("ping", [text]) => one(ping(hub, id, Some(text))),
        ("publish", [channel, payload]) => publish(hub, channel, payload),
        ("subscribe", [_, ..]) => subscribe(hub, id, Kind::Channel, arguments),
        ("psubscribe", [_, ..]) => subscribe(hub, id, Kind::Pattern, arguments),
        ("unsubscribe", _) => Ok(unsubscribe(hub, id, Kind::Channel, arguments)),
        ("punsubscribe", _) => Ok(unsubscribe(hub, id, Kind::Pattern, arguments)),
        ("pubsub", [sub, rest @ ..]) => pubsub(hub, &word(sub), sub, rest),
        ("client", [sub, rest @ ..]) => client(hub, id, &word(sub), sub, rest),
        ("hello", _) => hello(hub, id, arguments),
        ("auth", [_]) => Err(
            "ERR AUTH <password> called without any password configured for the default user. \
                              Are you sure your configuration is correct?"
                .into(),
        ),
        ("auth", [user, _]) => authenticate(user).and_then(|()| ok()),
        ("role", []) => one(wire::array(vec![
            wire::bulk("master"),
            wire::number(0),
            wire::array(Vec::new()),
        ])),
        ("info", _) => one(wire::text(info(hub))),
        ("command", [sub, ..]) if word(sub) == "docs" => one(wire::map([])),
        ("command", _) => one(wire::array(Vec::new())),
        ("select", [index]) => match &index[..] {
            b"0" => ok(),
            _ => Err("ERR DB index is out of range".into()),
        },
        ("reset", []) => reset(hub, id),
        ("quit", _) => {
            hub.end(id, Ending::Flush, Closed::Client);
            ok()
        }
        (
            "ping" | "publish" | "subscribe" | "psubscribe" | "pubsub" | "client" | "auth" | "role"
            | "select" | "reset",
            _,
        ) => Err(wrong_arity(command)),
        _ => Err(unknown(name, arguments)),
    }
}

fn allowed_to_subscribers(command: &str) -> bool {
    matches!(
        command,
        "subscribe" | "psubscribe" | "unsubscribe" | "punsubscribe" | "ping" | "quit" | "reset"
    )
}

#[allow(
    clippy::unnecessary_wraps,
    reason = "the arm of a match whose other arms can fail"
)]
fn one(frame: Frame) -> Replies {
    Ok(vec![frame])
}

fn ok() -> Replies {
    one(wire::status("OK"))
}

/// A name that commands go by: lower case, and short enough to be quoted.
fn word(bytes: &[u8]) -> String {
    shorten(bytes).to_ascii_lowercase()
}

fn shorten(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(128)]).into_owned()
}

fn wrong_arity(command: &str) -> String {
    format!("ERR wrong number of arguments for '{command}' command")
}

fn unknown(name: &[u8], arguments: &[Bytes]) -> String {
    let mut quoted = String::new();
    for argument in arguments {
        if quoted.len() >= 128 {
            break;
        }
        quoted = quoted + "'" + &shorten(argument) + "' ";
    }
    format!(
        "ERR unknown command '{}', with args beginning with: {quoted}",
        shorten(name)
    )
}

fn ping(hub: &mut Hub, id: ClientId, payload: Option<&Bytes>) -> Frame {
    let subscriber = hub
        .client(id)
        .is_some_and(|client| client.protocol == Protocol::Resp2 && client.subscriptions() > 0);
    match payload {
        // A RESP2 subscriber can only tell replies from messages by their form.
        payload if subscriber => wire::array(vec![
            wire::bulk("pong"),
            wire::bulk(payload.cloned().unwrap_or_default()),
        ]),
        Some(payload) => wire::bulk(payload.clone()),
        None => wire::status("PONG"),
    }
}

fn publish(hub: &mut Hub, channel: &Bytes, payload: &Bytes) -> Replies {
    bounded_name(hub, "channel", channel)?;
    one(wire::number(hub.publish(channel, payload)))
}

fn subscribe(hub: &mut Hub, id: ClientId, kind: Kind, names: &[Bytes]) -> Replies {
    let what = match kind {
        Kind::Channel => "channel",
        Kind::Pattern => "pattern",
    };
    for name in names {
        bounded_name(hub, what, name)?;
    }
    let had = hub.client(id).map_or(0, |client| client.subscriptions());
    if had + names.len() > hub.limits.subscriptions {
        return Err(format!(
            "ERR this broker allows {} subscriptions per client",
            hub.limits.subscriptions
        ));
    }
    if kind == Kind::Pattern {
        let (count, bytes) = hub.patterns_with(names);
        if count > hub.limits.patterns || bytes > hub.limits.pattern_bytes {
            return Err(format!(
                "ERR this broker allows {} different patterns, of {} bytes together",
                hub.limits.patterns, hub.limits.pattern_bytes
            ));
        }
    }
    let verb = match kind {
        Kind::Channel => "subscribe",
        Kind::Pattern => "psubscribe",
    };
    Ok(names
        .iter()
        .map(|name| confirm(verb, wire::bulk(name.clone()), hub.subscribe(id, kind, name)))
        .collect())
}

fn unsubscribe(hub: &mut Hub, id: ClientId, kind: Kind, names: &[Bytes]) -> Vec<Frame> {
    let verb = match kind {
        Kind::Channel => "unsubscribe",
        Kind::Pattern => "punsubscribe",
    };
    let names = if names.is_empty() {
        hub.subscribed(id, kind)
    } else {
        names.to_vec()
    };
    if names.is_empty() {
        let left = hub.client(id).map_or(0, |client| client.subscriptions());
        return vec![confirm(verb, Frame::Null, left)];
    }
    names
        .iter()
        .map(|name| confirm(verb, wire::bulk(name.clone()), hub.unsubscribe(id, kind, name)))
        .collect()
}

fn confirm(verb: &'static str, name: Frame, subscriptions: usize) -> Frame {
    wire::push(vec![wire::bulk(verb), name, wire::number(subscriptions)])
}

fn bounded_name(hub: &Hub, what: &str, name: &[u8]) -> Result<(), String> {
    if name.len() > hub.limits.name_bytes {
        return Err(format!(
            "ERR this broker allows {} bytes for the name of a {what}",
            hub.limits.name_bytes
        ));
    }
    Ok(())
}

fn pubsub(hub: &Hub, sub: &str, typed: &[u8], arguments: &[Bytes]) -> Replies {
    match (sub, arguments) {
        ("numsub", channels) => {
            let pairs = channels.iter().flat_map(|channel| {
                [
                    wire::bulk(channel.clone()),
                    wire::number(hub.channel_subscribers(channel)),
                ]
            });
            one(wire::array(pairs.collect()))
        }
        ("numpat", []) => one(wire::number(hub.pattern_count())),
        ("channels", [] | [_]) => {
            for pattern in arguments {
                bounded_name(hub, "pattern", pattern)?;
            }
            let wanted = |name: &&Bytes| {
                arguments
                    .iter()
                    .all(|pattern| super::glob::matches(pattern, name))
            };
            one(wire::array(
                hub.active_channels()
                    .filter(wanted)
                    .cloned()
                    .map(wire::bulk)
                    .collect(),
            ))
        }
        ("numpat" | "channels", _) => Err(wrong_arity(&format!("pubsub|{sub}"))),
        _ => Err(unknown_subcommand("PUBSUB", typed)),
    }
}

fn unknown_subcommand(command: &str, sub: &[u8]) -> String {
    format!("ERR unknown subcommand '{}'. Try {command} HELP.", shorten(sub))
}

fn hello(hub: &mut Hub, id: ClientId, arguments: &[Bytes]) -> Replies {
    let mut protocol = None;
    let mut name = None;
    let mut rest = arguments;
    if let [version, options @ ..] = arguments {
        protocol = Some(match &version[..] {
            b"2" => Protocol::Resp2,
            b"3" => Protocol::Resp3,
            other if parse::<i64>(other).is_none() => {
                return Err("ERR Protocol version is not an integer or out of range".into());
            }
            _ => return Err("NOPROTO unsupported protocol version".into()),
        });
        rest = options;
    }
    loop {
        rest = match rest {
            [] => break,
            [option, user, _, rest @ ..] if option.eq_ignore_ascii_case(b"auth") => {
                authenticate(user)?;
                rest
            }
            [option, wanted, rest @ ..] if option.eq_ignore_ascii_case(b"setname") => {
                name = Some(client_word(hub, "Client names", wanted)?);
                rest
            }
            [option, ..] => return Err(format!("ERR Syntax error in HELLO option '{}'", shorten(option))),
        };
    }
    let Some(client) = hub.client(id) else {
        return Ok(Vec::new());
    };
    client.protocol = protocol.unwrap_or(client.protocol);
    client.name = name.unwrap_or_else(|| client.name.clone());
    let version = if client.protocol == Protocol::Resp3 { 3 } else { 2 };
    one(wire::map([
        ("server", wire::bulk("redis")),
        ("version", wire::bulk(REDIS_VERSION)),
        ("proto", wire::number(version)),
        ("id", wire::number(id)),
        ("mode", wire::bulk("standalone")),
        ("role", wire::bulk("master")),
        ("modules", wire::array(Vec::new())),
    ]))
}

/// As a Redis without a password: the default user may come in with any, and there is no other user.
fn authenticate(user: &[u8]) -> Result<(), String> {
    match user {
        b"default" => Ok(()),
        _ => Err("WRONGPASS invalid username-password pair or user is disabled.".into()),
    }
}

fn reset(hub: &mut Hub, id: ClientId) -> Replies {
    for kind in [Kind::Channel, Kind::Pattern] {
        for name in hub.subscribed(id, kind) {
            hub.unsubscribe(id, kind, &name);
        }
    }
    if let Some(client) = hub.client(id) {
        client.protocol = Protocol::Resp2;
        client.name = Bytes::new();
    }
    one(wire::status("RESET"))
}

fn info(hub: &Hub) -> String {
    format!(
        "# Server\r\nredis_version:{REDIS_VERSION}\r\nredis_mode:standalone\r\ndefib_version:{}\r\n\r\n\
         # Clients\r\nconnected_clients:{}\r\n\r\n\
         # Replication\r\nrole:master\r\nconnected_slaves:0\r\n",
        env!("CARGO_PKG_VERSION"),
        hub.clients().count(),
    )
}

fn client(hub: &mut Hub, id: ClientId, sub: &str, typed: &[u8], arguments: &[Bytes]) -> Replies {
    match (sub, arguments) {
        ("id", []) => one(wire::number(id)),
        ("getname", []) => one(match hub.client(id) {
            Some(client) if !client.name.is_empty() => wire::bulk(client.name.clone()),
            _ => Frame::Null,
        }),
        ("setname", [name]) => {
            let name = client_word(hub, "Client names", name)?;
            hub.client(id).map_or_else(
                || Ok(Vec::new()),
                |client| {
                    client.name = name;
                    ok()
                },
            )
        }
        ("setinfo", [attribute, value]) => set_info(hub, id, attribute, value),
        ("info", []) => one(wire::text(
            hub.client(id)
                .map(|client| Hub::describe(id, client))
                .unwrap_or_default(),
        )),
        ("list", _) => client_list(hub, arguments),
        ("kill", [address]) => client_kill_address(hub, id, address),
        ("kill", [_, _, ..]) => client_kill(hub, id, arguments),
        ("id" | "getname" | "setname" | "setinfo" | "info" | "kill", _) => {
            Err(wrong_arity(&format!("client|{sub}")))
        }
        _ => Err(unknown_subcommand("CLIENT", typed)),
    }
}

/// A name as it may stand in a line of CLIENT LIST, whose fields end at blanks.
fn client_word(hub: &Hub, what: &str, word: &Bytes) -> Result<Bytes, String> {
    if !word.iter().all(u8::is_ascii_graphic) {
        return Err(format!(
            "ERR {what} cannot contain spaces, newlines or special characters."
        ));
    }
    bounded_name(hub, "client", word)?;
    Ok(Bytes::copy_from_slice(word))
}

fn set_info(hub: &mut Hub, id: ClientId, attribute: &Bytes, value: &Bytes) -> Replies {
    let set: fn(&mut Client, Bytes) = match word(attribute).as_str() {
        "lib-name" => |client, value| client.library = value,
        "lib-ver" => |client, value| client.library_version = value,
        _ => return Err(format!("ERR Unrecognized option '{}'", shorten(attribute))),
    };
    let value = client_word(hub, &word(attribute), value)?;
    if let Some(client) = hub.client(id) {
        set(client, value);
    }
    ok()
}

fn client_list(hub: &Hub, arguments: &[Bytes]) -> Replies {
    let wanted: Filter = match arguments {
        [] => Box::new(|_, _| true),
        [option, ids @ ..] if option.eq_ignore_ascii_case(b"id") && !ids.is_empty() => {
            let ids = ids
                .iter()
                .map(|id| client_id(id))
                .collect::<Result<Vec<_>, _>>()?;
            Box::new(move |id, _| ids.contains(&id))
        }
        [option, kind] if option.eq_ignore_ascii_case(b"type") => match word(kind).as_str() {
            "normal" => Box::new(|_, client| client.subscriptions() == 0),
            "pubsub" => Box::new(|_, client| client.subscriptions() > 0),
            "master" | "replica" | "slave" => Box::new(|_, _| false),
            _ => return Err(format!("ERR Unknown client type '{}'", shorten(kind))),
        },
        _ => return Err("ERR syntax error".into()),
    };
    let listed = hub.clients().filter(|(id, client)| wanted(*id, client));
    one(wire::text(
        listed.map(|(id, client)| Hub::describe(id, client)).collect(),
    ))
}

fn client_id(bytes: &[u8]) -> Result<ClientId, String> {
    match parse::<i64>(bytes) {
        Some(id) if id > 0 => Ok(id.unsigned_abs()),
        _ => Err("ERR client-id should be greater than 0".into()),
    }
}

/// `CLIENT KILL addr:port`, the old form, which may also end the one who asks.
fn client_kill_address(hub: &mut Hub, own: ClientId, address: &[u8]) -> Replies {
    let found = hub
        .clients()
        .find(|(_, client)| client.addr.as_bytes() == address)
        .map(|(id, _)| id);
    kill(hub, own, found.ok_or("ERR No such client")?);
    ok()
}

/// `CLIENT KILL <filter> <value> …`: all filters have to fit.
fn client_kill(hub: &mut Hub, own: ClientId, arguments: &[Bytes]) -> Replies {
    let mut skip_me = true;
    let mut filters: Vec<Filter> = Vec::new();
    for pair in arguments.chunks(2) {
        let [option, value] = pair else {
            return Err("ERR syntax error".into());
        };
        let value = value.clone();
        match word(option).as_str() {
            "id" => {
                let wanted = client_id(&value)?;
                filters.push(Box::new(move |id, _| id == wanted));
            }
            "addr" => filters.push(Box::new(move |_, client| client.addr.as_bytes() == value)),
            "laddr" => filters.push(Box::new(move |_, client| client.laddr.as_bytes() == value)),
            "skipme" => match word(&value).as_str() {
                "yes" => skip_me = true,
                "no" => skip_me = false,
                _ => return Err("ERR syntax error".into()),
            },
            _ => return Err("ERR syntax error".into()),
        }
    }
    let hit = |(id, client): &(ClientId, &Client)| {
        !(skip_me && *id == own) && filters.iter().all(|filter| filter(*id, client))
    };
    let found: Vec<ClientId> = hub.clients().filter(hit).map(|(id, _)| id).collect();
    for id in &found {
        kill(hub, own, *id);
    }
    one(wire::number(found.len()))
}

/// One's own end comes after the reply.
fn kill(hub: &mut Hub, own: ClientId, id: ClientId) {
    hub.end(
        id,
        if id == own { Ending::Flush } else { Ending::Now },
        Closed::Killed,
    );
}

fn parse<T: std::str::FromStr>(digits: &[u8]) -> Option<T> {
    str::from_utf8(digits).ok()?.parse().ok()
}
