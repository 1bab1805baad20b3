//! Follows server-sent events of a node: everything that happens, or what becomes of one lease.

use anyhow::{Context, anyhow, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, AUTHORIZATION, HOST};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::api::{Node, TIMEOUT};
use crate::http_client::Target;
use crate::secret::Secret;

/// Events that may wait to be shown.
const WAITING: usize = 256;
/// Longest line of an event, in bytes.
const MAX_LINE: usize = 256 * 1024;

/// Notices as they come.
pub(super) struct Follower {
    notices: mpsc::Receiver<Value>,
    _reading: AbortOnDropHandle<()>,
}

impl Follower {
    /// Follows from now on: returns once the node has said that it tells.
    pub(super) async fn of(node: &Node, path: &str) -> anyhow::Result<Self> {
        let follow = async {
            match node {
                Node::Url(url, bearer) => {
                    let target = Target::parse(url)?;
                    if target.tls {
                        bail!("events are followed over http:// only");
                    }
                    let stream = TcpStream::connect((target.host.as_str(), target.port)).await?;
                    Self::over(stream, path, bearer.as_ref()).await
                }
                Node::Socket(socket) => Self::over(UnixStream::connect(socket).await?, path, None).await,
            }
        };
        tokio::time::timeout(TIMEOUT, follow)
            .await
            .unwrap_or_else(|_| Err(anyhow!("it does not answer")))
            .with_context(|| format!("cannot follow the events of {node}"))
    }

    async fn over(
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        path: &str,
        bearer: Option<&Secret>,
    ) -> anyhow::Result<Self> {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let driving = AbortOnDropHandle::new(tokio::spawn(async move {
            // How it ends shows in the body.
            let _ = connection.await;
        }));
        let mut request = hyper::Request::get(path)
            .header(HOST, "localhost")
            .header(ACCEPT, "text/event-stream");
        if let Some(bearer) = bearer {
            request = request.header(AUTHORIZATION, format!("Bearer {}", bearer.read().await?));
        }
        let request = request.body(Empty::<Bytes>::new())?;
        let response = sender.send_request(request).await?;
        if !response.status().is_success() {
            bail!("status {}", response.status().as_u16());
        }
        let mut body = response.into_body();
        // Something comes first, once the node tells.
        let first = body.frame().await.ok_or_else(|| anyhow!("it ended at once"))??;
        let mut lines = first.into_data().unwrap_or_default().to_vec();
        let (tell, notices) = mpsc::channel(WAITING);
        let reading = AbortOnDropHandle::new(tokio::spawn(async move {
            let _driving = driving;
            let mut name = String::new();
            loop {
                while let Some(end) = lines.iter().position(|byte| *byte == b'\n') {
                    let line: Vec<u8> = lines.drain(..=end).collect();
                    if let Some(event) = line.strip_prefix(b"event:") {
                        name = String::from_utf8_lossy(event.trim_ascii()).into_owned();
                    }
                    let json = line
                        .strip_prefix(b"data:")
                        .and_then(|json| serde_json::from_slice(json).ok());
                    if let Some(notice) = json
                        && tell.send(named(notice, &name)).await.is_err()
                    {
                        return;
                    }
                }
                match body.frame().await {
                    Some(Ok(frame)) if lines.len() < MAX_LINE => {
                        lines.extend_from_slice(&frame.into_data().unwrap_or_default());
                    }
                    _ => return,
                }
            }
        }));
        Ok(Self {
            notices,
            _reading: reading,
        })
    }

    /// The next notice, or `lagged` with how many were missed; `None` once the node has ended. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<Value> {
        self.notices.recv().await
    }
}

/// That some were missed is no notice: its name stands in the stream alone, and it has no words.
fn named(mut told: Value, name: &str) -> Value {
    if name == "lagged" {
        let missed = told["missed"].as_u64().unwrap_or_default();
        told["event"] = name.into();
        told["text"] = format!("{missed} events were missed: they came faster than they were read").into();
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn that_some_were_missed_has_a_name_and_words() {
        let lagged = named(serde_json::json!({ "missed": 3 }), "lagged");
        assert_eq!(lagged["event"], "lagged");
        assert!(
            lagged["text"]
                .as_str()
                .unwrap()
                .starts_with("3 events were missed")
        );
        let other = serde_json::json!({ "event": "gave_up" });
        assert_eq!(named(other.clone(), "gave_up"), other);
    }
}
