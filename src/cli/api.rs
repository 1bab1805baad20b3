//! Asking a running node: over its public listener, its admin socket, or its admin port.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, CONTENT_TYPE, HOST};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use super::args::{AdminArgs, ConfigArgs, PublicArgs};
use super::exit;
use crate::config::Report;
use crate::http::Settings;
use crate::http_client;
use crate::secret::Secret;

/// An answer is read up to this; a status of some ten thousand peers fits.
const MAX_ANSWER: usize = 32 * 1024 * 1024;
/// Bound on one question.
pub(super) const TIMEOUT: Duration = Duration::from_secs(5);

/// Where a node answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Node {
    /// A listener's base URL, without the trailing slash, and its token if it needs one.
    Url(String, Option<Secret>),
    /// The admin socket.
    Socket(PathBuf),
}

/// What it answered.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(url, _) => f.write_str(url),
            Self::Socket(path) => write!(f, "{}", path.display()),
        }
    }
}

impl Node {
    /// The public listener that the arguments, or else the configuration, name.
    pub(super) fn public(args: &PublicArgs) -> anyhow::Result<Self> {
        Ok(match &args.url {
            Some(url) => Self::Url(url.trim_end_matches('/').to_owned(), None),
            None => Self::Url(base_url(listeners(&args.config)?.listen), None),
        })
    }

    /// The admin listener that the arguments, or else the configuration, name.
    pub(super) fn admin(args: &AdminArgs) -> anyhow::Result<Self> {
        let given = args.token.clone().map(Secret::Inline);
        if let Some(url) = &args.url {
            return Ok(Self::Url(url.trim_end_matches('/').to_owned(), given));
        }
        if let Some(path) = &args.admin_socket {
            return Ok(Self::Socket(path.clone()));
        }
        let configured = listeners(&args.config)?;
        match (configured.admin_socket, configured.admin_listen) {
            (Some(path), _) => Ok(Self::Socket(path)),
            (None, Some((address, token))) => Ok(Self::Url(base_url(address), given.or(Some(token)))),
            (None, None) => bail!(
                "the configuration names no admin listener: set http.admin_socket, or say where it is with \
                 --admin-socket or --url"
            ),
        }
    }

    pub(super) async fn get(&self, path: &str, within: Duration) -> anyhow::Result<Reply> {
        self.ask("GET", path, None, within).await
    }

    /// Any method, with a body.
    pub(super) async fn send(
        &self,
        method: &str,
        path: &str,
        body: &serde_json::Value,
        within: Duration,
    ) -> anyhow::Result<Reply> {
        self.ask(method, path, Some(body.to_string()), within).await
    }

    pub(super) async fn post(&self, path: &str, body: &serde_json::Value) -> anyhow::Result<Reply> {
        self.ask("POST", path, Some(body.to_string()), TIMEOUT).await
    }

    pub(super) async fn post_text(&self, path: &str, text: String) -> anyhow::Result<Reply> {
        self.ask("POST", path, Some(text), TIMEOUT).await
    }

    async fn ask(
        &self,
        method: &str,
        path: &str,
        body: Option<String>,
        within: Duration,
    ) -> anyhow::Result<Reply> {
        let answer = match self {
            Self::Url(url, bearer) => {
                let request = http_client::Request {
                    method: method.to_owned(),
                    url: format!("{url}{path}"),
                    body,
                    bearer: bearer.clone(),
                    headers: Vec::new(),
                    timeout: within,
                    body_limit: Some(MAX_ANSWER),
                };
                let response = http_client::send(&request)
                    .await
                    // Its words already hold those of its source.
                    .map_err(|error| anyhow!("{error}"));
                response.and_then(|response| {
                    let body = response.body.ok_or_else(|| anyhow!("the answer is too long"))?;
                    Ok(Reply {
                        status: response.status,
                        body,
                    })
                })
            }
            Self::Socket(socket) => tokio::time::timeout(within, over_socket(socket, method, path, body))
                .await
                .unwrap_or_else(|_| Err(anyhow!("no answer within {}", humantime::format_duration(within)))),
        };
        answer.with_context(|| format!("no defib answers at {self}; is it running, and is that its address?"))
    }
}

impl Reply {
    /// The body of a good answer; of another one, what it says is wrong.
    pub(super) fn good(self) -> anyhow::Result<Vec<u8>> {
        if (200..300).contains(&self.status) {
            return Ok(self.body);
        }
        let said = serde_json::from_slice::<serde_json::Value>(&self.body).ok();
        match said
            .as_ref()
            .and_then(|said| said.get("error"))
            .and_then(|error| error.as_str())
        {
            Some(error) => bail!("{error}"),
            None => bail!("the node answered with status {}", self.status),
        }
    }
}

/// Runs a command's questions to their end and turns a failure into a line on stderr.
pub(super) fn answered(questions: impl Future<Output = anyhow::Result<String>>) -> ExitCode {
    match on_one_thread(questions) {
        Ok(Ok(text)) => {
            print(&text);
            ExitCode::from(exit::OK)
        }
        Ok(Err(error)) | Err(error) => ExitCode::from(told(&error)),
    }
}

/// Tells why a question could not be asked, or was not answered well; the exit code.
pub(super) fn told(error: &anyhow::Error) -> u8 {
    match error.downcast_ref::<Report>() {
        Some(report) => {
            complain(&format!(
                "{report}\ndefib: so it is not known where the node listens: correct the configuration, or say where it is (--help names how)\n"
            ));
            exit::CONFIG
        }
        None => {
            complain(&format!("defib: {error:#}\n"));
            exit::FAILED
        }
    }
}

/// Waits for `future` on a runtime of its own.
pub(super) fn on_one_thread<T>(future: impl Future<Output = T>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    Ok(runtime.context("cannot make the runtime")?.block_on(future))
}

/// To stdout; a reader who went away is no error (`println!` would panic).
pub(super) fn print(text: &str) {
    let _ = std::io::Write::write_all(&mut std::io::stdout().lock(), text.as_bytes());
}

fn complain(text: &str) {
    let _ = std::io::Write::write_all(&mut std::io::stderr().lock(), text.as_bytes());
}

/// Where a configuration listens. One that is otherwise wrong may still say so; what a file that was named does not say
/// is not guessed.
fn listeners(args: &ConfigArgs) -> anyhow::Result<Settings> {
    match args.load(false) {
        Ok(config) => Ok(config.http),
        Err(report) if report.knows_listeners || args.config.is_none() => Ok(report.http),
        Err(report) => Err(report.into()),
    }
}

/// A listener that takes every address is asked over loopback.
fn base_url(listen: SocketAddr) -> String {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    format!("http://{}", SocketAddr::new(ip, listen.port()))
}

async fn over_socket(socket: &Path, method: &str, path: &str, body: Option<String>) -> anyhow::Result<Reply> {
    let stream = UnixStream::connect(socket).await?;
    let request = hyper::Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, "localhost")
        .header(ACCEPT, "*/*")
        .header(CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body.unwrap_or_default())))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let mut connection = pin!(connection);
    let mut exchange = pin!(async {
        let response = sender.send_request(request).await?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
        let body = body.map_err(|error| anyhow!("the answer broke off: {error}"))?;
        Ok(Reply {
            status,
            body: body.to_bytes().into(),
        })
    });
    // The connection has to be driven for the exchange to go on, and may end a moment before it.
    tokio::select! {
        reply = &mut exchange => return reply,
        ended = &mut connection => ended?,
    }
    exchange.await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_means_loopback_to_a_client() {
        assert_eq!(base_url("0.0.0.0:7337".parse().unwrap()), "http://127.0.0.1:7337");
        assert_eq!(base_url("[::]:1".parse().unwrap()), "http://[::1]:1");
        assert_eq!(base_url("10.0.0.1:80".parse().unwrap()), "http://10.0.0.1:80");
    }
}
