//! A Redis URL as an [`Endpoint`]. Errors never echo any part of the URL: it may hold a password.

use std::path::PathBuf;

use crate::bus::redis::{Address, Endpoint};
use crate::secret::Secret;

/// Why a URL names no server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// Neither of the three.
    #[error("the URL must begin with redis://, rediss:// or unix://")]
    Scheme,
    /// Nothing where the host should be.
    #[error("the URL names no host")]
    Host,
    /// Not 1 ..= 65535.
    #[error("the port in the URL is not a number from 1 to 65535")]
    Port,
    /// Not a number.
    #[error("the database in the URL is not a number")]
    Db,
    /// A stray `%`, or what it stands for is not UTF-8.
    #[error("a % in the URL is not followed by two hexadecimal digits, or they do not make UTF-8")]
    Escape,
    /// A `@`, `/`, `?` or `#` where none can be.
    #[error("a special character in the URL's user or password must be percent-encoded (@ is %40, / is %2F)")]
    Unescaped,
    /// No path in `unix://`.
    #[error("a unix:// URL needs an absolute path, as in unix:///run/redis.sock")]
    Path,
    /// Something behind a `?` or `#`.
    #[error("the URL has parameters that are not known; only ?db=N of unix:// is")]
    Parameters,
}

/// `redis://[user[:password]@]host[:port][/db]`, `rediss://` likewise, `unix://[user[:password]@]/path[?db=N]`.
pub fn parse(url: &str) -> Result<Endpoint, EndpointError> {
    let (scheme, rest) = url.split_once("://").ok_or(EndpointError::Scheme)?;
    let tls = match scheme.to_ascii_lowercase().as_str() {
        "redis" => false,
        "rediss" => true,
        "unix" => return unix(rest),
        _ => return Err(EndpointError::Scheme),
    };
    let (authority, tail) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    if tail.contains('@') {
        return Err(EndpointError::Unescaped);
    }
    let (user, password, place) = credentials(authority)?;
    let (host, port) = host_and_port(place)?;
    let address = if tls {
        Address::Tls {
            host,
            port,
            server_name: None,
            ca: None,
        }
    } else {
        Address::Tcp { host, port }
    };
    if tail.contains(['?', '#']) {
        return Err(EndpointError::Parameters);
    }
    let db = database(tail.trim_matches('/'))?;
    Ok(Endpoint {
        address,
        user,
        password,
        db,
    })
}

fn unix(rest: &str) -> Result<Endpoint, EndpointError> {
    let (authority, path) = rest.split_at(rest.find('/').ok_or(EndpointError::Path)?);
    let (user, password, place) = credentials(authority)?;
    if !place.is_empty() || (authority.is_empty() && path.len() < 2) {
        return Err(EndpointError::Path);
    }
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let db = match query.strip_prefix("db=") {
        Some(db) => database(db)?,
        None if query.is_empty() => 0,
        None => return Err(EndpointError::Parameters),
    };
    Ok(Endpoint {
        address: Address::Unix(PathBuf::from(decode(path)?)),
        user,
        password,
        db,
    })
}

type Credentials<'a> = (Option<String>, Option<Secret>, &'a str);

fn credentials(authority: &str) -> Result<Credentials<'_>, EndpointError> {
    let Some((who, place)) = authority.rsplit_once('@') else {
        return Ok((None, None, authority));
    };
    if who.contains('@') {
        return Err(EndpointError::Unescaped);
    }
    let (user, password) = who
        .split_once(':')
        .map_or((who, None), |(user, password)| (user, Some(password)));
    let user = decode(user)?;
    let password = password
        .map(decode)
        .transpose()?
        .filter(|password| !password.is_empty());
    Ok((
        Some(user).filter(|user| !user.is_empty()),
        password.map(Secret::Inline),
        place,
    ))
}

fn host_and_port(place: &str) -> Result<(String, u16), EndpointError> {
    let (host, port) = if let Some(rest) = place.strip_prefix('[') {
        let (host, port) = rest.split_once(']').ok_or(EndpointError::Host)?;
        host.parse::<std::net::Ipv6Addr>()
            .map_err(|_| EndpointError::Host)?;
        let port = match port.strip_prefix(':') {
            Some(port) => Some(port),
            None if port.is_empty() => None,
            None => return Err(EndpointError::Port),
        };
        (host, port)
    } else {
        place
            .split_once(':')
            .map_or((place, None), |(host, port)| (host, Some(port)))
    };
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
    if host.is_empty() || !host.chars().all(good) {
        return Err(EndpointError::Host);
    }
    let port = match port {
        None => 6379,
        Some(port) => port
            .parse()
            .ok()
            .filter(|port| *port > 0)
            .ok_or(EndpointError::Port)?,
    };
    Ok((host.to_owned(), port))
}

fn database(text: &str) -> Result<u32, EndpointError> {
    if text.is_empty() {
        Ok(0)
    } else {
        text.parse().map_err(|_| EndpointError::Db)
    }
}

fn decode(text: &str) -> Result<String, EndpointError> {
    let mut bytes = text.bytes();
    let mut out = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        out.push(if byte == b'%' {
            let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
            let (high, low) = (digit(bytes.next()), digit(bytes.next()));
            let value = high.zip(low).map(|(high, low)| high * 16 + low);
            value
                .and_then(|value| u8::try_from(value).ok())
                .ok_or(EndpointError::Escape)?
        } else {
            byte
        });
    }
    String::from_utf8(out).map_err(|_| EndpointError::Escape)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_form() {
        let tcp = |host: &str, port| Address::Tcp {
            host: host.to_owned(),
            port,
        };
        let plain = |address| Endpoint {
            address,
            user: None,
            password: None,
            db: 0,
        };
        assert_eq!(parse("redis://localhost"), Ok(plain(tcp("localhost", 6379))));
        assert_eq!(
            parse("redis://localhost:7000/"),
            Ok(plain(tcp("localhost", 7000)))
        );
        assert_eq!(parse("redis://[::1]:7000"), Ok(plain(tcp("::1", 7000))));
        assert_eq!(parse("redis://[::1]"), Ok(plain(tcp("::1", 6379))));
        assert_eq!(
            parse("unix:///run/r%20s.sock"),
            Ok(plain(Address::Unix("/run/r s.sock".into())))
        );
        assert_eq!(
            parse("rediss://u%40x:p%2Fw@r.example:7001/3"),
            Ok(Endpoint {
                address: Address::Tls {
                    host: "r.example".to_owned(),
                    port: 7001,
                    server_name: None,
                    ca: None
                },
                user: Some("u@x".to_owned()),
                password: Some(Secret::Inline("p/w".to_owned())),
                db: 3,
            })
        );
        let only = parse("redis://:pw@h").unwrap();
        assert_eq!(
            (only.user, only.password),
            (None, Some(Secret::Inline("pw".to_owned())))
        );
        assert_eq!(parse("unix:///run/r.sock?db=2").unwrap().db, 2);
    }

    #[test]
    fn says_what_is_wrong_and_never_the_password() {
        for (url, error) in [
            ("localhost:6379", EndpointError::Scheme),
            ("http://localhost", EndpointError::Scheme),
            ("redis://", EndpointError::Host),
            ("redis://hunter2@", EndpointError::Host),
            ("redis://[::1", EndpointError::Host),
            ("redis://[nope]:1", EndpointError::Host),
            ("redis://h:0", EndpointError::Port),
            ("redis://h:65536", EndpointError::Port),
            ("redis://[::1]x", EndpointError::Port),
            ("redis://h/x", EndpointError::Db),
            ("redis://:hunt%zz@h", EndpointError::Escape),
            ("redis://:hunt%ff@h", EndpointError::Escape),
            ("redis://:hun/ter2@h", EndpointError::Unescaped),
            ("redis://:hun@ter2@h", EndpointError::Unescaped),
            ("redis://h?x=1", EndpointError::Parameters),
            ("unix://run", EndpointError::Path),
            ("unix:///", EndpointError::Path),
            ("unix:///run/r?x=1", EndpointError::Parameters),
        ] {
            let found = parse(url).unwrap_err();
            assert_eq!(found, error, "{url}");
            assert!(!found.to_string().contains("hun"), "{found}");
        }
    }
}
