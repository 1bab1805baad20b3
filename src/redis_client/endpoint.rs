//! Where a server is and how to get in, as a URL says it.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::secret::Secret;

/// Port of Redis where a URL names none.
const DEFAULT_PORT: u16 = 6379;

/// Where a server is and how to get in.
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    /// Where.
    pub address: Address,
    /// ACL user; `None`: `default`.
    pub user: Option<String>,
    /// Its password. Read anew for each connection, so that a rotated one is picked up.
    pub password: Option<Secret>,
    /// Database of `SELECT`; pub/sub ignores it, so the links do not select it.
    pub db: u32,
}

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// `redis://host:port`
    Tcp {
        /// Name or address.
        host: String,
        /// Default 6379.
        port: u16,
    },
    /// `rediss://host:port`
    Tls {
        /// Name or address.
        host: String,
        /// Default 6379.
        port: u16,
        /// Name in the certificate, if it is not `host`.
        server_name: Option<String>,
        /// PEM file of the CA; `None`: the system's roots.
        ca: Option<PathBuf>,
    },
    /// `unix:///path`
    Unix(PathBuf),
}

/// What is wrong with a URL. Never repeats any of it: a password may stand anywhere in a mistaken one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// Not one of the three.
    #[error("the URL must begin with redis://, rediss:// or unix://")]
    Scheme,
    /// No host between the slashes.
    #[error("the URL names no host; write redis://HOST:PORT")]
    NoHost,
    /// A character that ends the host before the user and password have ended.
    #[error("in a user or password write '/', '?' and '#' as %2F, %3F and %23")]
    Unescaped,
    /// A character that a host cannot have.
    #[error("the host has a character that no host name has; write redis://HOST:PORT")]
    Host,
    /// `::1` without brackets.
    #[error("an IPv6 address stands in brackets: redis://[::1]:6379")]
    Ipv6,
    /// Not 1 ..= 65535.
    #[error("the port must be a number from 1 to 65535")]
    Port,
    /// Not a number.
    #[error("the database, after the '/' or as ?db=N, must be a number")]
    Db,
    /// `%` without two hexadecimal digits, or not UTF-8 when decoded.
    #[error("a '%' must be followed by two hexadecimal digits; write a '%' itself as %25")]
    Percent,
    /// `unix://` without an absolute path.
    #[error("a Unix socket needs an absolute path: unix:///run/redis/redis.sock")]
    UnixPath,
    /// A parameter other than `db`.
    #[error("the only parameter a bus URL knows is ?db=N")]
    Parameter,
}

impl Endpoint {
    /// `redis://host:port`, without a login.
    pub const fn tcp(host: String, port: u16) -> Self {
        Self {
            address: Address::Tcp { host, port },
            user: None,
            password: None,
            db: 0,
        }
    }

    /// Reads `redis://[user[:password]@]host[:port][/db]`, the same with `rediss://`, or
    /// `unix://[user[:password]@]/path[?db=N]`. User, password and path are percent-decoded. A CA file and
    /// another server name for `rediss://` are settings of their own: set them in [`Address::Tls`].
    pub fn parse(url: &str) -> Result<Self, EndpointError> {
        let (scheme, rest) = url.split_once("://").ok_or(EndpointError::Scheme)?;
        let login_breaks_off = |(login, _): (&str, &str)| login.contains(['/', '?', '#']);
        // The path of a Unix socket may well have an '@'.
        if scheme != "unix" && rest.rsplit_once('@').is_some_and(login_breaks_off) {
            return Err(EndpointError::Unescaped);
        }
        let (rest, parameters) = match rest.split_once('?') {
            Some((rest, parameters)) => (rest, Some(parameters)),
            None => (rest, None),
        };
        let (authority, path) = match rest.find('/') {
            Some(slash) => (&rest[..slash], &rest[slash..]),
            None => (rest, ""),
        };
        let (login, place) = match authority.rsplit_once('@') {
            Some((login, place)) => (Some(login), place),
            None => (None, authority),
        };
        let (user, password) = credentials(login)?;
        let parameter = db_parameter(parameters)?;
        let (address, path_db) = match scheme {
            "redis" => {
                let (host, port) = host_and_port(place)?;
                (Address::Tcp { host, port }, db_path(path)?)
            }
            "rediss" => {
                let (host, port) = host_and_port(place)?;
                let address = Address::Tls {
                    host,
                    port,
                    server_name: None,
                    ca: None,
                };
                (address, db_path(path)?)
            }
            "unix" if place.is_empty() && path.len() > 1 => {
                (Address::Unix(PathBuf::from(percent_decoded(path)?)), None)
            }
            "unix" => return Err(EndpointError::UnixPath),
            _ => return Err(EndpointError::Scheme),
        };
        Ok(Self {
            address,
            user,
            password,
            db: parameter.or(path_db).unwrap_or(0),
        })
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;
    fn from_str(url: &str) -> Result<Self, EndpointError> {
        Self::parse(url)
    }
}

/// Without credentials: fit for logs.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, host, port) = match self {
            Self::Tcp { host, port } => ("redis", host, port),
            Self::Tls { host, port, .. } => ("rediss", host, port),
            Self::Unix(path) => return write!(f, "unix://{}", path.display()),
        };
        if host.contains(':') {
            write!(f, "{scheme}://[{host}]:{port}")
        } else {
            write!(f, "{scheme}://{host}:{port}")
        }
    }
}

fn credentials(login: Option<&str>) -> Result<(Option<String>, Option<Secret>), EndpointError> {
    let Some(login) = login else {
        return Ok((None, None));
    };
    let (user, password) = match login.split_once(':') {
        Some((user, password)) => (user, percent_decoded(password)?),
        None => (login, String::new()),
    };
    let user = percent_decoded(user)?;
    Ok((
        (!user.is_empty()).then_some(user),
        (!password.is_empty()).then_some(Secret::Inline(password)),
    ))
}

fn host_and_port(place: &str) -> Result<(String, u16), EndpointError> {
    let (host, port) = if let Some(bracketed) = place.strip_prefix('[') {
        let (host, after) = bracketed.split_once(']').ok_or(EndpointError::Ipv6)?;
        if host.parse::<std::net::Ipv6Addr>().is_err() {
            return Err(EndpointError::Ipv6);
        }
        match after.strip_prefix(':') {
            Some(port) => (host, Some(port)),
            None if after.is_empty() => (host, None),
            None => return Err(EndpointError::Port),
        }
    } else {
        match place.split_once(':') {
            Some((_, rest)) if rest.contains(':') => return Err(EndpointError::Ipv6),
            Some((host, port)) => (host, Some(port)),
            None => (place, None),
        }
    };
    if host.is_empty() {
        return Err(EndpointError::NoHost);
    }
    let fits = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
    if !host.chars().all(fits) {
        return Err(EndpointError::Host);
    }
    let port = match port {
        None => DEFAULT_PORT,
        Some(port) => port
            .parse()
            .ok()
            .filter(|port| *port != 0)
            .ok_or(EndpointError::Port)?,
    };
    Ok((host.to_owned(), port))
}

fn db_path(path: &str) -> Result<Option<u32>, EndpointError> {
    match path.strip_prefix('/').unwrap_or(path) {
        "" => Ok(None),
        db => db.parse().map(Some).map_err(|_| EndpointError::Db),
    }
}

fn db_parameter(parameters: Option<&str>) -> Result<Option<u32>, EndpointError> {
    let mut db = None;
    for parameter in parameters
        .unwrap_or_default()
        .split('&')
        .filter(|p| !p.is_empty())
    {
        let value = parameter.strip_prefix("db=").ok_or(EndpointError::Parameter)?;
        db = Some(value.parse().map_err(|_| EndpointError::Db)?);
    }
    Ok(db)
}

fn percent_decoded(text: &str) -> Result<String, EndpointError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let (digits, after) = rest.split_at_checked(2).ok_or(EndpointError::Percent)?;
        let digit = |byte: u8| {
            char::from(byte)
                .to_digit(16)
                .and_then(|digit| u8::try_from(digit).ok())
        };
        match (digit(digits[0]), digit(digits[1])) {
            (Some(high), Some(low)) => bytes.push(high * 16 + low),
            _ => return Err(EndpointError::Percent),
        }
        rest = after;
    }
    String::from_utf8(bytes).map_err(|_| EndpointError::Percent)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tcp(host: &str, port: u16) -> Address {
        Address::Tcp {
            host: host.into(),
            port,
        }
    }

    #[expect(clippy::unnecessary_wraps, reason = "as the field has it")]
    fn secret(text: &str) -> Option<Secret> {
        Some(Secret::Inline(text.into()))
    }

    #[test]
    fn reads_every_form() {
        let cases = [
            ("redis://localhost", tcp("localhost", 6379), None, None, 0),
            ("redis://h:1/", tcp("h", 1), None, None, 0),
            ("redis://10.0.0.1:7000/3", tcp("10.0.0.1", 7000), None, None, 3),
            ("redis://h?db=4", tcp("h", 6379), None, None, 4),
            ("redis://[::1]", tcp("::1", 6379), None, None, 0),
            ("redis://[fe80::1]:1", tcp("fe80::1", 1), None, None, 0),
            ("redis://:pw@h", tcp("h", 6379), None, secret("pw"), 0),
            ("redis://u@h", tcp("h", 6379), Some("u"), None, 0),
            (
                "redis://u:p%40s:s%2f%25@h",
                tcp("h", 6379),
                Some("u"),
                secret("p@s:s/%"),
                0,
            ),
            ("redis://u:p@ss@h", tcp("h", 6379), Some("u"), secret("p@ss"), 0),
            (
                "unix:///run/a%20b.sock?db=2",
                Address::Unix("/run/a b.sock".into()),
                None,
                None,
                2,
            ),
            (
                "unix:///run/a@b.sock",
                Address::Unix("/run/a@b.sock".into()),
                None,
                None,
                0,
            ),
            (
                "unix://u:p@/run/r.sock",
                Address::Unix("/run/r.sock".into()),
                Some("u"),
                secret("p"),
                0,
            ),
            (
                "rediss://h",
                Address::Tls {
                    host: "h".into(),
                    port: 6379,
                    server_name: None,
                    ca: None,
                },
                None,
                None,
                0,
            ),
        ];
        for (url, address, user, password, db) in cases {
            let endpoint = Endpoint {
                address,
                user: user.map(str::to_owned),
                password,
                db,
            };
            assert_eq!(Endpoint::parse(url), Ok(endpoint), "{url}");
        }
    }

    #[test]
    fn names_the_mistake() {
        for (url, error) in [
            ("localhost:6379", EndpointError::Scheme),
            ("http://h", EndpointError::Scheme),
            ("redis://", EndpointError::NoHost),
            ("redis://:6379", EndpointError::NoHost),
            ("redis://u:p@", EndpointError::NoHost),
            ("redis://a b", EndpointError::Host),
            ("redis://:p/w@h", EndpointError::Unescaped),
            ("redis://:p?w@h", EndpointError::Unescaped),
            ("redis://:p#w@h:1/2", EndpointError::Unescaped),
            ("redis://::1", EndpointError::Ipv6),
            ("redis://[::1", EndpointError::Ipv6),
            ("redis://[h]", EndpointError::Ipv6),
            ("redis://[::1]6379", EndpointError::Port),
            ("redis://h:0", EndpointError::Port),
            ("redis://h:99999", EndpointError::Port),
            ("redis://h/x", EndpointError::Db),
            ("redis://h?db=x", EndpointError::Db),
            ("redis://h?timeout=3", EndpointError::Parameter),
            ("redis://u:%zz@h", EndpointError::Percent),
            ("redis://u:%f@h", EndpointError::Percent),
            ("redis://u:%ff@h", EndpointError::Percent),
            ("unix://run/r.sock", EndpointError::UnixPath),
            ("unix://", EndpointError::UnixPath),
        ] {
            assert_eq!(Endpoint::parse(url), Err(error), "{url}");
        }
    }

    #[test]
    fn a_password_shows_nowhere() {
        let endpoint = Endpoint::parse("rediss://alice:hunter2@h:1/2").unwrap();
        let shown = format!("{endpoint:?} {}", endpoint.address);
        assert!(!shown.contains("hunter2"), "{shown}");
        assert!(shown.contains("rediss://h:1"), "{shown}");
    }

    proptest! {
        #[test]
        fn no_error_repeats_the_url(url in "(redis|rediss|unix|x)(://|:)[ -~]{0,40}hunter2[ -~]{0,40}") {
            if let Err(error) = Endpoint::parse(&url) {
                let shown = format!("{error} {error:?}");
                prop_assert!(!shown.contains("hunter2"));
            }
        }
    }
}
