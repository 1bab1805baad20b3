//! One look at an application's metrics page, for the checks that read it.
//!
//! Whatever goes wrong is a measurement that failed, a refused connection included: that the application answers is
//! the `http` check's to say.

use std::time::Duration;

use crate::exposition::{Page, Selector};
use crate::http_client::{Error, Request, send};
use crate::secret::Secret;

/// Pages up to this are read on the event loop's thread (some 2 ms); larger ones on one of their own.
const INLINE: usize = 256 * 1024;

/// Series of a metrics page.
#[derive(Clone, Debug, PartialEq)]
pub struct Exposed {
    /// Of the page.
    pub url: String,
    /// Which of its series.
    pub series: Selector,
    /// Sent as `Authorization: Bearer …`.
    pub bearer: Option<Secret>,
    /// Bytes of the page that are read; a longer one is unknown.
    pub body_limit: usize,
}

/// Why a page could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Unread {
    /// A token is missing or is not taken: somebody has to change the setup.
    Refused(String),
    /// Anything else.
    Other(String),
}

impl From<String> for Unread {
    fn from(why: String) -> Self {
        Self::Other(why)
    }
}

impl From<Unread> for String {
    fn from(unread: Unread) -> Self {
        match unread {
            Unread::Refused(why) | Unread::Other(why) => why,
        }
    }
}

impl Exposed {
    /// Reads the page once. It has series that are meant, none of them NaN; or it has none because
    /// [none was used yet](Page::is_unused).
    ///
    /// # Errors
    /// Why nothing is known, in words.
    pub(super) async fn read(&self, within: Duration) -> Result<Page, Unread> {
        let request = Request {
            method: "GET".into(),
            url: self.url.clone(),
            body: None,
            bearer: self.bearer.clone(),
            headers: Vec::new(),
            timeout: within,
            body_limit: Some(self.body_limit),
        };
        let response = send(&request).await.map_err(|error| match error {
            Error::Secret(_) => Unread::Refused(error.to_string()),
            _ => Unread::Other(error.to_string()),
        })?;
        match response.status {
            200..=299 => {}
            status @ (401 | 403 | 407) => {
                let why = format!("status {status}: the metrics page is refused to this node");
                return Err(Unread::Refused(why));
            }
            status => return Err(format!("status {status} instead of a metrics page").into()),
        }
        let limit = self.body_limit;
        let body = response
            .body
            .ok_or_else(|| format!("the metrics page is longer than {limit} bytes (body_limit)"))?;
        Ok(self.select(body).await?)
    }

    async fn select(&self, body: Vec<u8>) -> Result<Page, String> {
        let page = if body.len() <= INLINE {
            Page::parse(&body, &self.series)
        } else {
            let series = self.series.clone();
            let parsing = tokio::task::spawn_blocking(move || Page::parse(&body, &series));
            parsing
                .await
                .map_err(|error| format!("reading the metrics page failed: {error}"))?
        };
        let page = page.map_err(|error| format!("the metrics page cannot be used: {error}"))?;
        if page.series.is_empty() && !page.is_unused() {
            return Err(format!("the metrics page has no series {}", self.series));
        }
        if page.series.iter().any(|series| series.value.is_nan()) {
            return Err(format!("{} is not a number (NaN)", self.series));
        }
        Ok(page)
    }
}
