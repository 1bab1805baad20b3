//! The checks that ask others, in words.

use std::time::Duration;

use crate::checks::exec::Exec;
use crate::checks::keys::key::{Condition, MaxAge, RedisKey};
use crate::checks::keys::lock::{RedisLock, Which};
use crate::checks::tcp::Tcp;
use crate::config::schema::time;
use crate::http_client::Expect;
use crate::redis_client::Endpoint;

/// What is sent is not shown: it may hold a password.
pub(super) fn connects(tcp: &Tcp, timeout: Duration) -> String {
    let mut words = vec![format!("{} takes a connection", tcp.to)];
    words.extend(tcp.send.as_ref().map(|sent| format!("and {} bytes", sent.len())));
    if let Some(expect) = &tcp.expect {
        let how = if expect.first { "begins with" } else { "has" };
        words.push(format!("and its answer {how} {:?}", expect.text));
    }
    words.push(format!("within {}, tried", time(timeout)));
    words.join(" ")
}

pub(super) fn runs(exec: &Exec, timeout: Duration) -> String {
    let codes = |codes: &[u8]| {
        let codes: Vec<String> = codes.iter().map(ToString::to_string).collect();
        if codes.is_empty() {
            "none".to_owned()
        } else {
            codes.join(" or ")
        }
    };
    let late = if exec.late_fails { "fails" } else { "is unknown" };
    format!(
        "`{}` ends with status {} ({}: unknown; after {} it is ended, which {late}), run",
        exec.argv.join(" "),
        codes(&exec.pass),
        codes(&exec.unknown),
        time(timeout)
    )
}

pub(super) fn reads(key: &RedisKey) -> String {
    let mut rules = vec!["is there".to_owned()];
    if let Some(min) = key.ttl_min {
        rules.push(format!("lives on for {}", time(min)));
    }
    match &key.age {
        Some(MaxAge {
            field: Some(field),
            max,
        }) => {
            rules.push(format!("has a `{field}` that is no older than {}", time(*max)));
        }
        Some(MaxAge { field: None, max }) => rules.push(format!("is a time no older than {}", time(*max))),
        None => {}
    }
    match &key.value {
        Some(Condition::Json(json)) => {
            rules.push(format!("has a `{}` that {}", json.path, wanted(&json.expect)));
        }
        Some(Condition::Plain(expect)) => rules.push(wanted(expect)),
        None => {}
    }
    format!(
        "the key `{}` of {} {}, read",
        key.key,
        server(key.redis.as_ref()),
        rules.join(", ")
    )
}

pub(super) fn locks(lock: &RedisLock) -> String {
    let server = server(lock.redis.as_ref());
    let which = match &lock.which {
        Which::Key(key) => format!("the lock `{key}` of {server} has a TTL"),
        Which::Pattern(pattern) => {
            format!(
                "the locks `{pattern}` of {server}, {} at most, have a TTL",
                lock.max_keys
            )
        }
    };
    let held = if lock.held { ", is held" } else { "" };
    let suspect = match lock.ttl_min {
        Some(min) => format!("with less than {} left", time(min)),
        None => "that is not extended as usual".to_owned(),
    };
    format!("{which}{held}; one {suspect} is suspect, no more; sampled")
}

fn wanted(expect: &Expect) -> String {
    match expect {
        Expect::Equals(value) => format!("is {value}"),
        Expect::Below(bound) => format!("is below {bound}"),
        Expect::Above(bound) => format!("is above {bound}"),
    }
}

fn server(own: Option<&Endpoint>) -> String {
    match own {
        Some(endpoint) => endpoint.address.to_string(),
        None => "the bus's server".to_owned(),
    }
}
