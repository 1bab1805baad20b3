//! Which server, which path: a URL taken apart, and shown without what may be secret in it.

use std::fmt;

use hyper::Uri;

/// Longest URL that is taken, in bytes.
const MAX_LEN: usize = 8 * 1024;

/// An `http://` or `https://` URL, taken apart. Its `Display` leaves out the query, where tokens live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// `https`.
    pub tls: bool,
    /// Name or address; an IPv6 address without its brackets.
    pub host: String,
    /// From the URL, else 80 or 443.
    pub port: u16,
    /// Path and query as they go on the wire. At least `/`.
    pub path: String,
}

/// What is wrong with a URL. Says what would be right; never repeats the URL, which may hold a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// Longer than 8 KiB.
    #[error("the URL is longer than {MAX_LEN} bytes")]
    TooLong,
    /// Not a URL at all.
    #[error("not a URL ({0}): write it as http://host:port/path")]
    Malformed(String),
    /// Another scheme, or none.
    #[error("the URL must begin with http:// or https://")]
    Scheme,
    /// No host.
    #[error("the URL names no host: write it as http://host:port/path")]
    Host,
    /// A user or password in it.
    #[error(
        "the URL holds a user or password, which would end up in logs: use `bearer` with an env or file secret"
    )]
    UserInfo,
    /// Not a number of 1 to 65535.
    #[error("the URL's port is not a number from 1 to 65535")]
    Port,
}

impl Target {
    /// Takes a URL apart.
    ///
    /// # Errors
    /// Says what is wrong, without repeating the URL.
    pub fn parse(url: &str) -> Result<Self, UrlError> {
        if url.len() > MAX_LEN {
            return Err(UrlError::TooLong);
        }
        let uri: Uri = url
            .parse()
            .map_err(|error: hyper::http::uri::InvalidUri| UrlError::Malformed(error.to_string()))?;
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(UrlError::Scheme),
        };
        let authority = uri.authority().ok_or(UrlError::Host)?.as_str();
        if authority.contains('@') {
            return Err(UrlError::UserInfo);
        }
        let (host, port) = split_authority(authority)?;
        Ok(Self {
            tls,
            host,
            port: match port {
                Some(port) => port,
                None if tls => 443,
                None => 80,
            },
            path: path_and_query(&uri),
        })
    }

    /// `host` or `host:port` as the `Host` header wants it.
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') {
            format!("[{}]", self.host)
        } else {
            self.host.clone()
        };
        match (self.tls, self.port) {
            (false, 80) | (true, 443) => host,
            (_, port) => format!("{host}:{port}"),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        let path = self.path.split('?').next().unwrap_or("/");
        write!(f, "{scheme}://{}{path}", self.authority())
    }
}

// `http://host?q` has no path and goes out as `/?q`.
fn path_and_query(uri: &Uri) -> String {
    let path = uri.path_and_query().map_or("", |path| path.as_str());
    let root = if path.starts_with('/') { "" } else { "/" };
    format!("{root}{path}")
}

// `http::uri::Authority::port` answers `None` to a port of 99999 and to none alike.
fn split_authority(authority: &str) -> Result<(String, Option<u16>), UrlError> {
    let (host, rest) = match authority.strip_prefix('[') {
        Some(bracketed) => bracketed.split_once(']').ok_or(UrlError::Host)?,
        None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
    };
    if host.is_empty() {
        return Err(UrlError::Host);
    }
    let port = match rest.strip_prefix(':') {
        None if rest.is_empty() => None,
        None => return Err(UrlError::Host),
        Some(port) => match port.parse() {
            Ok(0) | Err(_) => return Err(UrlError::Port),
            Ok(port) => Some(port),
        },
    };
    Ok((host.to_owned(), port))
}

/// A text as one segment of a path, or as a word of a query.
pub fn encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |path, byte| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
            path + char::from(byte).encode_utf8(&mut [0; 4])
        }
        _ => path + &format!("%{byte:02X}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_one_segment() {
        assert_eq!(encoded("feed-1.a_b~"), "feed-1.a_b~");
        assert_eq!(encoded("a/b c?ü&"), "a%2Fb%20c%3F%C3%BC%26");
    }

    #[test]
    fn urls_are_taken_apart() {
        let parse = |url| Target::parse(url).unwrap();
        let target = parse("http://127.0.0.1:8080/health?token=x#frag");
        assert_eq!((target.host.as_str(), target.port), ("127.0.0.1", 8080));
        assert_eq!(target.path, "/health?token=x");
        assert_eq!(target.to_string(), "http://127.0.0.1:8080/health");
        let target = parse("https://[::1]");
        assert_eq!((target.host.as_str(), target.port), ("::1", 443));
        assert_eq!(target.path, "/");
        assert_eq!(target.authority(), "[::1]");
        assert_eq!(parse("http://[::1]:81/").authority(), "[::1]:81");
        assert_eq!(parse("http://localhost?q").path, "/?q");
    }

    #[test]
    fn what_is_wrong_is_said_without_the_secret() {
        let refused = |url: &str| Target::parse(url).unwrap_err();
        assert_eq!(refused("http://user:hunter2@host/"), UrlError::UserInfo);
        assert_eq!(refused("ftp://host/"), UrlError::Scheme);
        assert_eq!(refused("/health"), UrlError::Scheme);
        assert_eq!(refused("host:80"), UrlError::Scheme);
        assert_eq!(refused("http://host:99999/"), UrlError::Port);
        assert_eq!(refused("http://host:0/"), UrlError::Port);
        assert_eq!(
            refused(&format!("http://host/{}", "x".repeat(9000))),
            UrlError::TooLong
        );
        for url in [
            "",
            "http://",
            "http://:80/",
            "http:// hunter2@x/",
            "http://a b/",
            "http://ü/",
        ] {
            let message = refused(url).to_string();
            assert!(!message.contains("hunter2"), "{message}");
        }
    }
}
