//! Metrics of `notify`.

use prometheus::{IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry};

const OUTCOMES: [&str; 4] = ["sent", "failed", "dropped", "coalesced"];

/// Metrics of `notify`.
#[derive(Clone, Debug)]
pub struct NotifyMetrics {
    messages: IntCounterVec,
    attempts: IntCounterVec,
    waiting: IntGaugeVec,
    missed: IntCounter,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// The receiver took it.
    Accepted,
    /// It does not want it, now or later.
    Refused,
    /// It could not be told now.
    Later,
}

impl Attempt {
    const ALL: [Self; 3] = [Self::Accepted, Self::Refused, Self::Later];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Refused => "refused",
            Self::Later => "later",
        }
    }
}

impl NotifyMetrics {
    pub(super) fn register(registry: &Registry) -> prometheus::Result<Self> {
        let new = Self {
            messages: IntCounterVec::new(
                Opts::new(
                    "defib_notifications_total",
                    "Notifications, by target and outcome; `coalesced` ones were replaced by a newer state of their episode.",
                ),
                &["target", "outcome"],
            )?,
            attempts: IntCounterVec::new(
                Opts::new(
                    "defib_notification_attempts_total",
                    "Requests to a target, by its answer: `accepted`, `refused`, or `later`, which is tried again.",
                ),
                &["target", "answer"],
            )?,
            waiting: IntGaugeVec::new(
                Opts::new(
                    "defib_notifications_waiting",
                    "Notifications that wait for the target.",
                ),
                &["target"],
            )?,
            missed: IntCounter::new(
                "defib_notification_notices_missed_total",
                "Notices that came faster than they could be told; open episodes are then read from the next snapshot.",
            )?,
        };
        registry.register(Box::new(new.messages.clone()))?;
        registry.register(Box::new(new.attempts.clone()))?;
        registry.register(Box::new(new.waiting.clone()))?;
        registry.register(Box::new(new.missed.clone()))?;
        Ok(new)
    }

    /// There is this target: its series begin at 0.
    pub fn target(&self, name: &str) {
        for outcome in OUTCOMES {
            self.messages.with_label_values(&[name, outcome]);
        }
        for answer in Attempt::ALL {
            self.attempts.with_label_values(&[name, answer.as_str()]);
        }
        self.waiting(name, 0);
    }

    /// So many messages ended so: `sent`, `failed`, `dropped` or `coalesced`.
    pub fn messages(&self, target: &str, outcome: &str, count: u64) {
        if count > 0 {
            self.messages.with_label_values(&[target, outcome]).inc_by(count);
        }
    }

    /// One request was made.
    pub fn attempted(&self, target: &str, answer: Attempt) {
        self.attempts.with_label_values(&[target, answer.as_str()]).inc();
    }

    /// So many wait.
    pub fn waiting(&self, target: &str, count: usize) {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        self.waiting.with_label_values(&[target]).set(count);
    }

    /// So many notices were missed.
    pub fn missed(&self, count: u64) {
        self.missed.inc_by(count);
    }
}
