//! One bounded HTTP request and what its answer must be: shared by the `http` check, expectations, the `http`
//! remedy's wait and `defib probe http`. A leaf: it knows no peers and no engine.
//!
//! # What an answer means
//!
//! A failure counts against the target only if it is the target's; a failed measurement is `unknown`.
//!
//! | what happened | answer |
//! |---|---|
//! | status expected, body (if one is asked about) as wanted | pass |
//! | connection refused or reset; no answer from the machine | fail: it does not answer |
//! | no connection, TLS handshake, head or body within the time | fail: it does not answer in time |
//! | connection closed early, or what comes back is not HTTP | fail |
//! | another status than expected (404 and 5xx among them) | fail |
//! | JSON field is there and not as wanted | fail |
//! | a component that is not ignored is ill (with `ignore`) | fail |
//! | 503, or an ill overall word, or a condition on that word: and only ignored components are ill | pass |
//! | 401, 403, 407, 429 | unknown: it refuses to tell us |
//! | 3xx | unknown: asked in the wrong place, redirects are not followed |
//! | name not resolved, or not in time; no route; no port, descriptor or permission of ours | unknown |
//! | certificate not trusted, no trusted roots, no TLS at the other end | unknown |
//! | secret or URL cannot be read | unknown |
//! | head or body over its limit | unknown |
//! | JSON is asked about: body is not JSON, field is missing, or no number where one is compared | unknown |
//!
//! A status that is expected by name (`statuses`) passes even if it is in one of the rows above. A body that no
//! condition asks about is not read. What makes a component ill is written in `components.rs`.

mod components;
mod url;
mod wire;

use std::time::Duration;

use serde_json::Value;

use components::Components;
pub use url::{Target, UrlError, encoded};
pub use wire::{Error, Request, Response, Stage, reach, send};

/// What the answer to a [`Question`] means. The texts are for people and hold no secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// As it should be.
    Pass,
    /// It is not, and that is the target's doing.
    Fail(String),
    /// Could not be found out.
    Unknown(String),
}

/// What to ask and what to expect.
#[derive(Clone, Debug, PartialEq)]
pub struct Question {
    /// `http://` or `https://`.
    pub url: String,
    /// Statuses that pass; default 200 ..= 299.
    pub statuses: std::ops::RangeInclusive<u16>,
    /// Path of a field in the JSON body (`a.b.0.c`) that must be as `expect` says.
    pub json: Option<JsonCondition>,
    /// Names of components whose ill health alone does not fail the check. Where the body has an object or an
    /// array of components, only the others are looked at.
    pub ignore: Vec<String>,
    /// Bytes of the body that are read; a longer one is `unknown`. Default 64 KiB.
    pub body_limit: usize,
    /// Sent as `Authorization: Bearer …`.
    pub bearer: Option<crate::secret::Secret>,
}

/// A condition on one field of a JSON body.
#[derive(Clone, Debug, PartialEq)]
pub struct JsonCondition {
    /// Keys and indices, separated by dots.
    pub path: String,
    /// What the value must be.
    pub expect: Expect,
}

/// What a JSON value must be.
#[derive(Clone, Debug, PartialEq)]
pub enum Expect {
    /// Exactly this.
    Equals(serde_json::Value),
    /// A number below this.
    Below(f64),
    /// A number above this.
    Above(f64),
}

/// Asks once. `timeout` bounds everything together, from the name's resolution to the body's last byte.
pub async fn ask(question: &Question, timeout: Duration) -> Answer {
    judge(question, &fetch(question, timeout).await)
}

/// The request alone, for who wants to tell an unreachable target from one that answers badly; [`judge`] has
/// the other half of [`ask`].
///
/// # Errors
/// As [`send`].
pub async fn fetch(question: &Question, timeout: Duration) -> Result<Response, Error> {
    let reads_body = question.json.is_some() || !question.ignore.is_empty();
    let request = Request {
        method: "GET".into(),
        url: question.url.clone(),
        body: None,
        bearer: question.bearer.clone(),
        headers: Vec::new(),
        timeout,
        body_limit: reads_body.then_some(question.body_limit),
    };
    send(&request).await
}

/// What an answer, or its absence, means: the table above.
pub fn judge(question: &Question, answer: &Result<Response, Error>) -> Answer {
    let response = match answer {
        Ok(response) => response,
        Err(error) if error.blames_target() => return Answer::Fail(error.to_string()),
        Err(error) => return Answer::Unknown(error.to_string()),
    };
    let expected = question.statuses.contains(&response.status);
    let excusable = response.status == 503 && !question.ignore.is_empty();
    if !expected && !excusable {
        return unexpected_status(response.status);
    }
    if question.json.is_none() && question.ignore.is_empty() {
        return Answer::Pass;
    }
    let Some(body) = &response.body else {
        let limit = question.body_limit;
        return Answer::Unknown(format!("the body is longer than {limit} bytes (body_limit)"));
    };
    match serde_json::from_slice(body) {
        Ok(body) => judge_body(question, &body, expected, response.status),
        Err(_) if !expected => unexpected_status(response.status),
        Err(error) => Answer::Unknown(format!("the body is not JSON: {error}")),
    }
}

fn unexpected_status(status: u16) -> Answer {
    match status {
        401 | 403 | 407 | 429 => Answer::Unknown(format!("status {status}: it refuses to answer this node")),
        300..=399 => Answer::Unknown(format!(
            "status {status}: redirects are not followed, ask the other address"
        )),
        _ => Answer::Fail(format!("status {status}")),
    }
}

fn judge_body(question: &Question, body: &Value, expected: bool, status: u16) -> Answer {
    let condition = question.json.as_ref().map_or(Answer::Pass, |c| c.judge(body));
    if question.ignore.is_empty() {
        return condition;
    }
    let components = components::look(body, &question.ignore);
    if let Components::Ill(name) = &components {
        return Answer::Fail(format!("component {name} is ill"));
    }
    let word_asked = question
        .json
        .as_ref()
        .is_some_and(JsonCondition::asks_for_overall_word);
    let word_refused = word_asked && matches!(condition, Answer::Fail(_));
    let complaint = if !expected {
        format!("status {status}")
    } else if word_refused || components::overall(body) == Some(false) {
        "its overall word says it is ill".to_owned()
    } else {
        return condition;
    };
    match components {
        Components::OnlyIgnored(_) if word_refused => Answer::Pass,
        Components::OnlyIgnored(_) => condition,
        Components::Unreadable(name) => Answer::Unknown(format!(
            "{complaint}, an ignored component is ill, and whether {name} is well cannot be read"
        )),
        Components::NoneIll | Components::Ill(_) => {
            Answer::Fail(format!("{complaint}, and no ignored component explains it"))
        }
    }
}

impl JsonCondition {
    /// What the condition says of this body.
    pub(crate) fn judge(&self, body: &Value) -> Answer {
        match lookup(body, &self.path) {
            Some(value) => self.expect.judge(&self.path, value),
            None => Answer::Unknown(format!("the body has no field {}", self.path)),
        }
    }

    fn asks_for_overall_word(&self) -> bool {
        matches!(self.expect, Expect::Equals(_)) && components::WORDS.contains(&self.path.as_str())
    }
}

impl Expect {
    /// Whether this value, which is called `what`, is as expected.
    pub(crate) fn judge(&self, what: &str, value: &Value) -> Answer {
        let (met, wanted) = match self {
            Self::Equals(wanted) => (Some(same(value, wanted)), format!("{wanted}")),
            Self::Below(bound) => (
                value.as_f64().map(|v| v < *bound),
                format!("a number below {bound}"),
            ),
            Self::Above(bound) => (
                value.as_f64().map(|v| v > *bound),
                format!("a number above {bound}"),
            ),
        };
        let is = shown(value);
        match met {
            Some(true) => Answer::Pass,
            Some(false) => Answer::Fail(format!("{what} is {is}, not {wanted}")),
            None => Answer::Unknown(format!("{what} is {is}, not a number")),
        }
    }
}

/// The field at this path of a JSON value: keys and indices, separated by dots.
pub fn lookup<'v>(body: &'v Value, path: &str) -> Option<&'v Value> {
    path.split('.').try_fold(body, |value, step| match value {
        Value::Array(items) => items.get(step.parse::<usize>().ok()?),
        _ => value.get(step),
    })
}

/// Whether a JSON value is the one that is wanted: 1 in the configuration and 1.0 in the body are one number; two
/// whole numbers are compared exactly.
pub fn same(value: &Value, wanted: &Value) -> bool {
    let whole = !value.is_f64() && !wanted.is_f64();
    match (value.as_f64(), wanted.as_f64()) {
        (Some(a), Some(b)) if !whole => a.total_cmp(&b).is_eq(),
        _ => value == wanted,
    }
}

fn shown(value: &Value) -> String {
    let text = match value {
        Value::Object(_) => "an object".to_owned(),
        Value::Array(_) => "an array".to_owned(),
        scalar => scalar.to_string(),
    };
    match text.char_indices().nth(64) {
        Some((cut, _)) => format!("{}…", &text[..cut]),
        None => text,
    }
}
