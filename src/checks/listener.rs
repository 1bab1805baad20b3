//! A life of which nothing can be seen but its LISTEN socket: no token, no shared pid namespace. The socket's cookie
//! is never given to another one, and a process that starts again opens another one. Blocking.
//!
//! What it cannot tell: a server that closes its port to drain has ended, as far as this can be seen.

use std::fs;
use std::os::unix::fs::MetadataExt;

use super::process::boot;
use crate::engine::event::Incarnation;
use crate::owner_table::Listener;
use crate::sock_diag::{Cookie, Endpoint, Filter, dump};

/// Who listens there in our own network namespace. Of several (one for each family, or with SO_REUSEPORT) the
/// one with the lowest cookie. `why` its process cannot be seen.
pub(super) fn find(end: Endpoint, why: &str) -> Result<Option<Listener>, String> {
    let Some(cookie) = cookies(end)?.into_iter().min() else {
        return Ok(None);
    };
    Ok(Some(Listener {
        incarnation: incarnation(cookie)?,
        ip: end.ip,
        port: end.port.unwrap_or_default(),
        why: why.to_owned(),
    }))
}

/// Whether that very socket still listens.
pub(super) fn listens(listener: &Listener) -> Result<bool, String> {
    let mut same = false;
    for cookie in cookies(at(listener))? {
        same |= incarnation(cookie)? == listener.incarnation;
    }
    Ok(same)
}

/// Where that one listens.
pub(super) fn at(listener: &Listener) -> Endpoint {
    Endpoint {
        ip: listener.ip,
        port: Some(listener.port),
    }
}

fn cookies(end: Endpoint) -> Result<Vec<Cookie>, String> {
    let listed = dump(&Filter::listening_at(end)).map_err(|error| error.to_string())?;
    Ok(listed
        .sockets
        .into_iter()
        .map(|socket| socket.id.cookie)
        .collect())
}

fn incarnation(cookie: Cookie) -> Result<Incarnation, String> {
    let path = "/proc/thread-self/ns/net";
    let namespace = fs::metadata(path).map_err(|error| format!("cannot read {path}: {error}"))?;
    let text = format!("listen:{}:{}:{cookie}", boot()?, namespace.ino());
    Ok(Incarnation(text.into()))
}
