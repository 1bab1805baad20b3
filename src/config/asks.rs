//! Reads the checks that ask others: `tcp`, `exec`, `redis_key`, `redis_lock`; and which Redis one means.

use std::path::PathBuf;

use super::questions::{condition, expected};
use super::reader::{Bad, Read, Reader};
use crate::checks::Probe;
use crate::checks::exec::Exec;
use crate::checks::keys::key::{Condition, MaxAge, RedisKey};
use crate::checks::keys::lock::{RedisLock, Which};
use crate::checks::tcp::{Expected, Target, Tcp};
use crate::redis_client::Endpoint;

pub(super) fn tcp(reader: &Reader<'_>) -> Read<Probe> {
    let (to, send, expect) = (
        reader.text("to"),
        reader.maybe_text("send"),
        reader.maybe_text("expect"),
    );
    let first = reader.text("expect_at").map(|at| at == "start");
    let to = to.and_then(|text| {
        target(&text).ok_or_else(|| {
            let message = format!("`to`: \"{text}\" is neither a host with a port nor a path");
            let help = "as in \"127.0.0.1:9080\", \"[::1]:9080\", \"feed:9080\" or \"/run/feed.sock\"";
            reader.wrong(&reader.at("to"), "value", message, help)
        })
    });
    let (expect, first) = (expect?, first?);
    if expect.is_none() && first {
        let message = "`expect_at` says where something must stand, but not what";
        return Err(reader.wrong(
            &reader.key_at("expect_at"),
            "tcp_expect",
            message,
            "add expect = \"…\"",
        ));
    }
    Ok(Probe::Tcp(Tcp {
        to: to?,
        send: send?,
        expect: expect.map(|text| Expected { text, first }),
    }))
}

fn target(text: &str) -> Option<Target> {
    let path = text.strip_prefix("unix://").unwrap_or(text);
    if path.starts_with('/') {
        return Some(Target::Unix(PathBuf::from(path)));
    }
    let (host, port) = text.rsplit_once(':')?;
    let port = port.parse().ok().filter(|port| *port > 0)?;
    let host = match host.strip_prefix('[') {
        Some(rest) => {
            let host = rest.strip_suffix(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            host
        }
        None => host,
    };
    let fits =
        |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_') || (text.starts_with('[') && c == ':');
    (!host.is_empty() && host.chars().all(fits)).then(|| Target::Port(host.to_owned(), port))
}

pub(super) fn exec(reader: &Reader<'_>) -> Read<Probe> {
    let (argv, late) = (reader.texts("command"), reader.text("on_timeout"));
    let (pass, unknown) = (reader.maybe_codes("pass"), reader.maybe_codes("unknown"));
    let (pass, unknown) = (
        pass?.unwrap_or_else(|| vec![0]),
        unknown?.unwrap_or_else(|| vec![3]),
    );
    if let Some(both) = pass.iter().find(|code| unknown.contains(code)) {
        let key = reader.first_set(&["unknown", "pass"]).unwrap_or("pass");
        let message = format!("{both} is in `pass` and in `unknown`");
        return Err(reader.wrong(&reader.at(key), "exec_codes", message, "leave it in one of them"));
    }
    Ok(Probe::Exec(Exec {
        argv: argv?,
        pass,
        unknown,
        late_fails: late? == "fail",
    }))
}

pub(super) fn redis_key(reader: &Reader<'_>) -> Read<Probe> {
    key(reader, "key").map(Probe::RedisKey)
}

/// The key of a table whose name is at `name`.
pub(super) fn key(reader: &Reader<'_>, name: &str) -> Read<RedisKey> {
    let (key, redis, ttl_min) = (
        reader.maybe_text(name),
        server(reader),
        reader.maybe_time("ttl_min"),
    );
    let (age, max_age) = (reader.maybe_text("age"), reader.maybe_time("max_age"));
    let value = if reader.is_set("json") {
        condition(reader).map(|condition| condition.map(Condition::Json))
    } else {
        expected(reader).map(|expect| expect.map(Condition::Plain))
    };
    let age = match (age?, max_age?) {
        (None, None) => None,
        (field, Some(max)) => Some(MaxAge { field, max }),
        (Some(_), None) => {
            let message = "`age` says which field is a time, but not how old it may be";
            return Err(reader.wrong(
                &reader.at("age"),
                "redis_key_age",
                message,
                "add max_age = \"30s\"",
            ));
        }
    };
    Ok(RedisKey {
        key: key?.ok_or(Bad)?,
        redis: redis?,
        ttl_min: ttl_min?,
        age,
        value: value?,
    })
}

pub(super) fn redis_lock(reader: &Reader<'_>) -> Read<Probe> {
    let (key, pattern, redis) = (
        reader.maybe_text("key"),
        reader.maybe_text("pattern"),
        server(reader),
    );
    let (held, ttl_min, max_keys) = (
        reader.bool("held"),
        reader.maybe_time("ttl_min"),
        reader.int("max_keys"),
    );
    let which = match (key?, pattern?) {
        (Some(key), None) => Which::Key(key),
        (None, Some(pattern)) => Which::Pattern(pattern),
        (None, None) => {
            return Err(reader.wrong(
                &reader.origin,
                "redis_lock_which",
                "it is not said which locks are meant",
                "as in key = \"chat:stream:lock\" or pattern = \"chat:*:lock\"",
            ));
        }
        (Some(_), Some(_)) => {
            let message = "`key` and `pattern` are given, and exactly one is taken";
            let help = "make two checks of it";
            return Err(reader.wrong(&reader.key_at("pattern"), "redis_lock_which", message, help));
        }
    };
    let held = held?;
    if held && matches!(which, Which::Pattern(_)) {
        let message = "`held` says that a `key` must be held; of a pattern nobody knows how many should be";
        return Err(reader.wrong(
            &reader.key_at("held"),
            "redis_lock_held",
            message,
            "name each such lock by `key`",
        ));
    }
    Ok(Probe::RedisLock(RedisLock {
        which,
        redis: redis?,
        held,
        ttl_min: ttl_min?,
        max_keys: max_keys?,
    }))
}

/// The server in `redis`, with its `password` where that is a field; `None`: the bus's.
pub(super) fn server(reader: &Reader<'_>) -> Read<Option<Endpoint>> {
    let url = reader.maybe_text("redis");
    let password = if reader.knows("password") {
        reader.maybe_secret("password")
    } else {
        Ok(None)
    };
    let (url, password) = (url?, password?);
    let Some(url) = url else {
        return match password {
            None => Ok(None),
            Some(_) => Err(reader.wrong(
                &reader.key_at("password"),
                "password_of_what",
                "`password` is that of `redis`, and there is none",
                "add redis = \"redis://HOST:6379\"; the bus's password belongs into [bus]",
            )),
        };
    };
    let mut endpoint = Endpoint::parse(&url).map_err(|error| {
        let help = "takes redis://[user:password@]host[:port][/db], rediss://… or unix:///path";
        reader.wrong(&reader.at("redis"), "value", format!("`redis`: {error}"), help)
    })?;
    if password.is_some() && endpoint.password.is_some() {
        let message = "the password is in `redis` and in `password`";
        return Err(reader.wrong(
            &reader.key_at("password"),
            "two_passwords",
            message,
            "leave one of them",
        ));
    }
    endpoint.password = endpoint.password.or(password);
    Ok(Some(endpoint))
}
