//! Takes what waits for one target to its receiver: one request after the other, signed, retried with backoff under a
//! bound. A receiver that hangs, refuses, vanishes or answers slowly holds up nothing but its own messages.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use serde_json::Value;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::message::Message;
use super::outbox::{Next, Outbox, Parcel};
use super::{Kind, Sender, Target, alert, sign};
use crate::engine::time::{Clock, Time};
use crate::http_client::{self, Request};
use crate::secret::Secret;
use crate::telemetry::logs::printable;
use crate::telemetry::metrics::notify::{Attempt, NotifyMetrics};

/// Wait after the first failure; doubled with each up to [`LONGEST`], half of it jitter.
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);
/// A receiver's `Retry-After` is heeded up to this.
const PATIENCE: Duration = Duration::from_secs(300);
/// While the node ends, what failed is tried again after this.
const HURRY: Duration = Duration::from_millis(500);
/// Bytes of an answer that a test shows.
const SHOWN: usize = 2048;
/// Where an Alertmanager takes alerts.
const ALERTS: &str = "/api/v2/alerts";

/// What a receiver answered to a test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Its status is one of success.
    pub accepted: bool,
    /// Its status, and the beginning of its words.
    pub answer: String,
}

/// Sends one real test message on the whole way: form, secrets, signature, TLS. `wall` is the time since 1970.
///
/// # Errors
/// Why there is no answer.
pub async fn test(target: &Target, sender: &Sender, wall: Duration) -> Result<Told, String> {
    let message = Message::test(format!("{}-test", sender.boot), wall);
    let body = match &target.kind {
        Kind::Json { .. } => body_of(target, &message, sender),
        Kind::Alertmanager { resend } => alert::test(&message, sender, *resend),
    };
    let mut request = request(target, body, Some(&message.id), wall, target.timeout).await?;
    request.body_limit = Some(SHOWN);
    let answer = http_client::send(&request)
        .await
        .map_err(|error| error.to_string())?;
    let said = answer.body.map_or_else(String::new, |body| {
        String::from_utf8_lossy(&body).trim().to_owned()
    });
    Ok(Told {
        accepted: (200..300).contains(&answer.status),
        answer: format!("status {} {}", answer.status, printable(&said))
            .trim_end()
            .to_owned(),
    })
}

/// A target's outbox, and who waits for something to be put into it.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) target: Target,
    outbox: Mutex<Outbox>,
    changed: Notify,
    metrics: NotifyMetrics,
}

impl Shared {
    pub(super) fn new(target: Target, metrics: NotifyMetrics) -> Self {
        metrics.target(&target.name);
        Self {
            outbox: Mutex::new(Outbox::new(&target)),
            changed: Notify::new(),
            target,
            metrics,
        }
    }

    pub(super) fn push(&self, message: Message, now: Time) {
        self.with(|outbox| outbox.push(message, now));
        self.changed.notify_one();
    }

    fn with<T>(&self, act: impl FnOnce(&mut Outbox) -> T) -> T {
        let mut outbox = self.lock();
        let done = act(&mut outbox);
        let tally = outbox.tally();
        let name = &*self.target.name;
        for (outcome, count) in [
            ("sent", tally.sent),
            ("failed", tally.failed),
            ("dropped", tally.dropped),
            ("coalesced", tally.coalesced),
        ] {
            self.metrics.messages(name, outcome, count);
        }
        self.metrics.waiting(name, outbox.len());
        done
    }

    fn lock(&self) -> MutexGuard<'_, Outbox> {
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What came of one attempt.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Accepted,
    /// It will never take this.
    Refused(String),
    /// It may take it later; not before so long, if it says so.
    Later(String, Option<Duration>),
}

/// Takes one target's messages to it.
pub(super) struct Courier {
    pub(super) shared: Arc<Shared>,
    pub(super) sender: Arc<Sender>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) seed: u64,
    /// While the node ends: until when.
    pub(super) ending: watch::Receiver<Option<Time>>,
}

/// When to try again.
#[derive(Debug, Default)]
struct Pace {
    failures: u32,
    not_before: Option<Time>,
    attempts: u64,
}

impl Courier {
    /// Until the node has ended, and what waits was told or given up.
    pub(super) async fn run(mut self, cancel: CancellationToken) -> anyhow::Result<()> {
        let mut pace = Pace::default();
        loop {
            let now = self.clock.now();
            let ending = *self.ending.borrow_and_update();
            if ending.is_some_and(|until| until <= now) {
                break;
            }
            if let Some(until) = pace.wait_until(ending.is_some(), now) {
                self.rest(Some(until), ending).await;
                continue;
            }
            match self.shared.with(|outbox| outbox.next(now)) {
                Next::Send(parcel) => self.send(parcel, &mut pace, ending, now).await,
                Next::At(_) | Next::Idle if ending.is_some() => break,
                Next::At(until) => self.rest(Some(until), None).await,
                Next::Idle => self.rest(None, None).await,
            }
            if cancel.is_cancelled() && self.ending.has_changed().is_err() {
                break; // Nobody is left who could say until when.
            }
        }
        let name = &self.shared.target.name;
        let now = self.clock.now();
        let left = self.shared.with(|outbox| outbox.abandon(now));
        if left > 0 {
            tracing::error!(target_name = %name, "{left} notifications for {name} could not be told before the end");
        }
        Ok(())
    }

    /// Until then, or until there is something new.
    async fn rest(&mut self, until: Option<Time>, ending: Option<Time>) {
        let until = [until, ending].into_iter().flatten().min();
        let now = self.clock.now();
        let sleep = async {
            match until {
                Some(until) => tokio::time::sleep(until.since(now)).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = sleep => {}
            () = self.shared.changed.notified() => {}
            changed = self.ending.changed() => {
                if changed.is_err() {
                    // The teller is gone, and is being started again or ended: both take a moment.
                    tokio::time::sleep(HURRY).await;
                }
            }
        }
    }

    async fn send(&mut self, parcel: Parcel, pace: &mut Pace, ending: Option<Time>, now: Time) {
        let bound = ending.map_or(self.shared.target.timeout, |until| {
            until.since(now).min(self.shared.target.timeout)
        });
        let attempt = self.attempt(&parcel, bound);
        let ended = async {
            let mut ending = self.ending.clone();
            let until = ending
                .wait_for(Option::is_some)
                .await
                .ok()
                .and_then(|until| *until);
            match until {
                Some(until) => tokio::time::sleep(until.since(self.clock.now())).await,
                None => std::future::pending().await,
            }
        };
        let answer = tokio::select! {
            answer = attempt => answer,
            () = ended => Answer::Later("this node ends".to_owned(), None),
        };
        self.take(parcel, answer, pace);
    }

    fn take(&self, parcel: Parcel, answer: Answer, pace: &mut Pace) {
        let now = self.clock.now();
        let name = &*self.shared.target.name;
        let metrics = &self.shared.metrics;
        match answer {
            Answer::Accepted => {
                metrics.attempted(name, Attempt::Accepted);
                if pace.failures > 0 {
                    tracing::info!(
                        "notifications reach {name} again, after {} failures",
                        pace.failures
                    );
                }
                (pace.failures, pace.not_before) = (0, None);
                self.shared.with(|outbox| outbox.accepted(parcel));
            }
            Answer::Refused(why) => {
                metrics.attempted(name, Attempt::Refused);
                tracing::warn!(
                    "{name} refuses a notification: {why}; `defib notify --test {name}` shows its words"
                );
                (pace.failures, pace.not_before) = (0, None);
                self.shared.with(|outbox| outbox.refused(&parcel));
            }
            Answer::Later(why, after) => {
                metrics.attempted(name, Attempt::Later);
                let given_up = self.shared.with(|outbox| outbox.give_back(parcel, now));
                pace.failed(now, after, self.seed);
                if given_up {
                    tracing::error!("a notification for {name} is given up on: {why}");
                } else if pace.failures == 1 {
                    tracing::warn!("{name} takes no notification ({why}); it is tried again");
                }
            }
        }
    }

    async fn attempt(&self, parcel: &Parcel, bound: Duration) -> Answer {
        let wall = self.clock.wall();
        let target = &self.shared.target;
        let (body, id) = match parcel {
            Parcel::Message(entry) => (
                body_of(target, &entry.message, &self.sender),
                Some(entry.message.id.as_str()),
            ),
            Parcel::Alerts(numbers) => {
                let outbox = self.shared.lock();
                let board = outbox.board();
                let body = board.map_or_else(String::new, |board| board.body(numbers, &self.sender, wall));
                (body, None)
            }
        };
        let request = match request(target, body, id, wall, bound).await {
            Ok(request) => request,
            Err(why) => return Answer::Later(why, None),
        };
        match http_client::send(&request).await {
            Ok(answer) => judged(answer.status, answer.retry_after.as_deref(), wall),
            Err(http_client::Error::Url(error)) => Answer::Refused(error.to_string()),
            Err(error) => Answer::Later(error.to_string(), None),
        }
    }
}

impl Pace {
    fn wait_until(&self, ending: bool, now: Time) -> Option<Time> {
        let until = self.not_before.filter(|until| now < *until)?;
        Some(if ending { until.min(now + HURRY) } else { until })
    }

    fn failed(&mut self, now: Time, after: Option<Duration>, seed: u64) {
        self.failures = self.failures.saturating_add(1);
        self.attempts = self.attempts.wrapping_add(1);
        let doubled = SHORTEST
            .saturating_mul(1 << (self.failures - 1).min(10))
            .min(LONGEST);
        let wait = doubled.mul_f64(0.5 + 0.5 * fraction(seed, self.attempts));
        let asked = after.unwrap_or_default().min(PATIENCE);
        self.not_before = Some(now + wait.max(asked));
    }
}

fn body_of(target: &Target, message: &Message, sender: &Sender) -> String {
    let body: Value = match &target.kind {
        Kind::Json {
            template: Some(template),
            escape,
        } => template.fill(*escape, &|word| message.word(word, sender)),
        Kind::Json { template: None, .. } | Kind::Alertmanager { .. } => message.whole(sender),
    };
    body.to_string()
}

/// # Errors
/// If a secret cannot be read now; in words that hold none.
async fn request(
    target: &Target,
    body: String,
    id: Option<&str>,
    wall: Duration,
    timeout: Duration,
) -> Result<Request, String> {
    let read = |error: crate::secret::SecretError| error.to_string();
    let mut url = target.url.read().await.map_err(read)?;
    if matches!(target.kind, Kind::Alertmanager { .. }) && !url.trim_end_matches('/').ends_with(ALERTS) {
        url = format!("{}{ALERTS}", url.trim_end_matches('/'));
    }
    let mut headers = target.headers.clone();
    if let Some(id) = id {
        headers.push(("X-Defib-Id".to_owned(), Secret::Inline(id.to_owned())));
    }
    if let Some(key) = &target.hmac {
        let key = key.read().await.map_err(read)?;
        headers.push((
            sign::HEADER.to_owned(),
            Secret::Inline(sign::sign(&key, wall, &body)),
        ));
    }
    Ok(Request {
        method: "POST".to_owned(),
        url,
        body: Some(body),
        bearer: target.bearer.clone(),
        headers,
        timeout,
        // The head says whether it was taken; who answers that and then dawdles must not be told twice.
        body_limit: None,
    })
}

fn judged(status: u16, retry_after: Option<&str>, wall: Duration) -> Answer {
    let why = format!("status {status}");
    match status {
        200..=299 => Answer::Accepted,
        408 | 425 | 429 | 500..=599 => Answer::Later(why, retry_after.and_then(|text| how_long(text, wall))),
        300..=399 => Answer::Refused(format!("{why}: redirects are not followed, give the other URL")),
        _ => Answer::Refused(why),
    }
}

/// `Retry-After`: seconds, or a date.
fn how_long(text: &str, wall: Duration) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    let at = date.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    Some(at.saturating_sub(wall))
}

/// A number in 0..1 that depends on nothing but its arguments (SplitMix64's finaliser).
fn fraction(seed: u64, attempt: u64) -> f64 {
    let mut z = seed.wrapping_add(attempt.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^= z >> 31;
    (z >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn what_an_answer_means() {
        let wall = 1_770_000_000 * S;
        let later = |after| Answer::Later(String::new(), after);
        let told = |status, after| match judged(status, after, wall) {
            Answer::Later(_, after) => later(after),
            Answer::Refused(_) => Answer::Refused(String::new()),
            Answer::Accepted => Answer::Accepted,
        };
        for status in [200, 202, 204] {
            assert_eq!(told(status, None), Answer::Accepted);
        }
        for status in [301, 307, 400, 401, 403, 404, 410, 422] {
            assert_eq!(told(status, None), Answer::Refused(String::new()), "{status}");
        }
        assert_eq!(told(500, None), later(None));
        assert_eq!(told(429, Some("7")), later(Some(7 * S)));
        assert_eq!(told(503, Some(" 0 ")), later(Some(Duration::ZERO)));
        // 1770000000 is Mon, 02 Feb 2026 02:40:00 GMT.
        assert_eq!(
            told(503, Some("Mon, 02 Feb 2026 02:41:30 GMT")),
            later(Some(90 * S))
        );
        assert_eq!(
            told(503, Some("Mon, 02 Feb 1976 02:41:30 GMT")),
            later(Some(Duration::ZERO))
        );
        for nonsense in ["soon", "-1", "99999999999999999999999", ""] {
            assert_eq!(told(429, Some(nonsense)), later(None), "{nonsense}");
        }
    }

    #[test]
    fn waits_grow_with_jitter_up_to_a_bound_and_heed_the_receiver_up_to_another() {
        let now = Time::from_origin(1000 * S);
        let (mut pace, mut seen) = (Pace::default(), Vec::new());
        for _ in 0..12 {
            pace.failed(now, None, 42);
            seen.push(pace.not_before.unwrap().since(now));
        }
        for (failures, wait) in (0u32..).zip(&seen) {
            let most = LONGEST.min(S * (1 << failures.min(10)));
            assert!(*wait >= most / 2 && *wait <= most, "{failures}: {wait:?}");
        }
        let mut other = Pace::default();
        other.failed(now, None, 43);
        assert_ne!(
            other.not_before.unwrap().since(now),
            seen[0],
            "nodes do not march in step"
        );
        pace.failed(now, Some(100 * S), 42);
        assert_eq!(pace.not_before, Some(now + 100 * S));
        pace.failed(now, Some(86_400 * S), 42);
        assert_eq!(pace.not_before, Some(now + PATIENCE));
        assert_eq!(
            pace.wait_until(true, now),
            Some(now + HURRY),
            "while the node ends"
        );
        assert_eq!(pace.wait_until(false, now + PATIENCE), None);
    }
}
