//! What may block a remedy: an answer over HTTP that must be empty. Whatever else comes, or does not, blocks.

use std::time::Duration;

use serde_json::Value;

use crate::engine::event::PeerId;
use crate::engine::outside::BlockersAnswer;
use crate::http_client::{Request, send};
use crate::secret::Secret;

/// Bytes of an answer that are read. One that is longer is not empty.
const MAX_BODY: usize = 64 * 1024;
/// Bytes of what is in the way that are told.
const SHOWN: usize = 120;

/// One that is asked.
#[derive(Clone, Debug, PartialEq)]
pub struct Blocker {
    /// Its name in the configuration.
    pub name: String,
    /// What is asked.
    pub asks: Asks,
    /// Sent as `Authorization: Bearer …`.
    pub bearer: Option<Secret>,
    /// Bound on the question; less than the engine waits. Default 5 s.
    pub timeout: Duration,
    /// Whose remedies it may block.
    pub peers: Vec<PeerId>,
}

/// What a blocker asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asks {
    /// `GET` this; a body that is empty, or an empty JSON list or object, null or false, is clear.
    Http(String),
    /// Prometheus at this URL; a query without a result is clear.
    Prometheus {
        /// As in `http://prometheus:9090`.
        url: String,
        /// PromQL.
        query: String,
    },
}

/// Why one blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Blocked {
    /// It says so.
    Told(String),
    /// It cannot be asked, or not understood, which blocks as well.
    Unknown(String),
}

impl Blocked {
    fn why(self) -> String {
        match self {
            Self::Told(why) | Self::Unknown(why) => why,
        }
    }

    fn named(self, name: &str) -> Self {
        match self {
            Self::Told(why) => Self::Told(format!("{name}: {why}")),
            Self::Unknown(why) => Self::Unknown(format!("{name}: {why}")),
        }
    }
}

/// Asks those that may block `peer`, all at once. The first in the order of the configuration that is not clear tells why.
pub(super) async fn ask(blockers: &[Blocker], peer: PeerId) -> BlockersAnswer {
    let asked: Vec<_> = blockers
        .iter()
        .filter(|blocker| blocker.peers.contains(&peer))
        .collect();
    if asked.is_empty() {
        // The engine has another configuration than this edge.
        let why = "its blockers are not known here, which blocks: restart this node".to_owned();
        return BlockersAnswer::Blocked { why };
    }
    let answers = futures_util::future::join_all(asked.into_iter().map(Blocker::look)).await;
    match answers.into_iter().flatten().next() {
        None => BlockersAnswer::Clear,
        Some(blocked) => BlockersAnswer::Blocked { why: blocked.why() },
    }
}

impl Blocker {
    /// Why it blocks, if it does.
    pub(super) async fn look(&self) -> Option<Blocked> {
        let request = Request {
            method: "GET".to_owned(),
            url: self.asks.url(),
            body: None,
            bearer: self.bearer.clone(),
            headers: Vec::new(),
            timeout: self.timeout,
            body_limit: Some(MAX_BODY),
        };
        let blocked = match send(&request).await {
            Err(error) => Some(Blocked::Unknown(format!(
                "cannot be asked, which blocks: {error}"
            ))),
            Ok(response) if !(200..=299).contains(&response.status) => Some(Blocked::Unknown(format!(
                "cannot be asked, which blocks: status {}",
                response.status
            ))),
            Ok(response) => match (&self.asks, response.body) {
                (_, None) => Some(Blocked::Told(format!(
                    "its answer has more than {MAX_BODY} bytes"
                ))),
                (Asks::Http(_), Some(body)) => in_the_way(&body).map(Blocked::Told),
                (Asks::Prometheus { .. }, Some(body)) => result_of(&body),
            },
        };
        blocked.map(|blocked| blocked.named(&self.name))
    }
}

impl Asks {
    fn url(&self) -> String {
        match self {
            Self::Http(url) => url.clone(),
            Self::Prometheus { url, query } => {
                format!(
                    "{}/api/v1/query?query={}",
                    url.trim_end_matches('/'),
                    encoded(query)
                )
            }
        }
    }
}

/// A query as part of a URL.
fn encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

fn in_the_way(body: &[u8]) -> Option<String> {
    if body.trim_ascii().is_empty() {
        return None;
    }
    match serde_json::from_slice::<Value>(body) {
        Ok(Value::Null | Value::Bool(false)) => None,
        Ok(Value::Array(items)) if items.is_empty() => None,
        Ok(Value::Object(fields)) if fields.is_empty() => None,
        Ok(Value::Array(items)) => Some(format!("its answer is a list of {}", items.len())),
        _ => Some(format!("its answer is not empty: {}", shown(body))),
    }
}

fn result_of(body: &[u8]) -> Option<Blocked> {
    let answer: Value = match serde_json::from_slice(body) {
        Ok(answer) => answer,
        Err(error) => {
            let why = format!("its answer is no JSON, which blocks: {error}");
            return Some(Blocked::Unknown(why));
        }
    };
    let result = answer.pointer("/data/result").and_then(Value::as_array);
    match (answer.get("status").and_then(Value::as_str), result) {
        (Some("success"), Some(series)) if series.is_empty() => None,
        (Some("success"), Some(series)) => {
            let first = series[0]
                .pointer("/metric/alertname")
                .or_else(|| series[0].pointer("/metric/__name__"));
            let name = first.and_then(Value::as_str).map(|name| shown(name.as_bytes()));
            Some(Blocked::Told(match name {
                Some(name) => format!("{} of its series are there, {name} first", series.len()),
                None => format!("{} of its series are there", series.len()),
            }))
        }
        _ => {
            let error = answer.get("error").and_then(Value::as_str).unwrap_or("no result");
            Some(Blocked::Unknown(format!(
                "the query failed, which blocks: {}",
                shown(error.as_bytes())
            )))
        }
    }
}

fn shown(text: &[u8]) -> String {
    text.iter()
        .take(SHOWN)
        .map(|byte| match byte {
            b' '..=b'~' => char::from(*byte),
            _ => '?',
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_empty_is_clear() {
        for clear in ["", " \n", "[]", "{}", "null", "false"] {
            assert_eq!(in_the_way(clear.as_bytes()), None, "{clear}");
        }
        for blocks in ["[1]", "{\"a\":1}", "true", "0", "deploying", "\u{1b}[2J", "\"\""] {
            let why = in_the_way(blocks.as_bytes()).unwrap();
            assert!(why.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{why}");
        }
    }

    #[test]
    fn a_query_must_have_succeeded_and_found_nothing() {
        let none = br#"{"status":"success","data":{"resultType":"vector","result":[]}}"#;
        assert_eq!(result_of(none), None);
        let fires = br#"{"status":"success","data":{"resultType":"vector","result":[{"metric":{"alertname":"Deploy"},"value":[1,"1"]}]}}"#;
        assert_eq!(
            result_of(fires),
            Some(Blocked::Told(
                "1 of its series are there, Deploy first".to_owned()
            ))
        );
        for broken in [
            r#"{"status":"error","error":"parse error"}"#,
            r#"{"status":"success","data":{"resultType":"scalar","result":"1"}}"#,
            r#"{"data":{"result":[]}}"#,
            "[]",
            "no json",
        ] {
            let blocked = result_of(broken.as_bytes());
            assert!(
                matches!(blocked, Some(Blocked::Unknown(_))),
                "{broken}: {blocked:?}"
            );
        }
        let asks = Asks::Prometheus {
            url: "http://prom:9090/".into(),
            query: "ALERTS{alertname=\"Déploy\"} > 0".into(),
        };
        assert_eq!(
            asks.url(),
            "http://prom:9090/api/v1/query?query=ALERTS%7Balertname%3D%22D%C3%A9ploy%22%7D%20%3E%200"
        );
    }
}
