//! What a drill shows: lines while it runs, and at its end what was seen after how long.

use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use crate::cli::api::Node;
use crate::cli::args::DrillArgs;
use crate::engine::time::{Clock, Time};
use crate::runtime::clock::MonotonicClock;
use crate::telemetry::logs::printable;

/// How a drill ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// By a remedy, and the peer has proven itself alive.
    Healed,
    /// The node is in a dry run and would have acted.
    WouldHeal,
    /// The peer proved itself alive without a remedy: its own supervisor, or nothing needed healing.
    RecoveredByItself,
    /// The node has no remedy left.
    GaveUp,
    /// Nothing of it within this time.
    TimedOut(Duration),
    /// By this signal.
    Interrupted(&'static str),
    /// The node ended, or its events did.
    NodeLost,
}

impl Outcome {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Healed => "healed",
            Self::WouldHeal => "would_heal",
            Self::RecoveredByItself => "recovered_by_itself",
            Self::GaveUp => "gave_up",
            Self::TimedOut(_) => "timed_out",
            Self::Interrupted(_) => "interrupted",
            Self::NodeLost => "node_lost",
        }
    }
}

/// After the fault, in milliseconds, in the order in which they are due.
#[derive(Default, Serialize)]
#[allow(
    clippy::struct_field_names,
    reason = "the names in the report have their unit"
)]
struct Times {
    suspected_ms: Option<u64>,
    condemned_ms: Option<u64>,
    granted_ms: Option<u64>,
    acted_ms: Option<u64>,
    proven_ms: Option<u64>,
}

#[derive(Serialize)]
struct Line {
    ms: u64,
    who: String,
    text: String,
}

/// Prints as it goes, unless JSON is wanted at the end.
pub(super) struct Timeline {
    clock: MonotonicClock,
    fault_at: Time,
    peer: String,
    node: String,
    fault: &'static str,
    json: bool,
    dry_run: bool,
    lines: Vec<Line>,
    times: Times,
    cause: Option<String>,
    remedies: Vec<String>,
    outcome: Outcome,
    undone: Option<String>,
}

/// Lines that are kept; a node that tells more within a drill is not believed to be helpful.
const MAX_LINES: usize = 1000;

impl Timeline {
    pub(super) fn start(args: &DrillArgs, node: &Node, dry_run: bool) -> Self {
        let clock = MonotonicClock::start();
        let fault_at = clock.now();
        Self {
            clock,
            fault_at,
            peer: args.peer.clone(),
            node: node.to_string(),
            fault: args.fault.as_str(),
            json: args.json,
            dry_run,
            lines: Vec::new(),
            times: Times::default(),
            cause: None,
            remedies: Vec::new(),
            outcome: Outcome::NodeLost,
            undone: None,
        }
    }

    pub(super) fn outcome(&self) -> Outcome {
        self.outcome
    }

    pub(super) fn note(&mut self, text: &str) {
        self.line("note", text);
    }

    /// Times count from here.
    pub(super) fn fault_made(&mut self, what: &str) {
        self.fault_at = self.clock.now();
        self.line("fault", what);
    }

    pub(super) fn proof(&mut self, text: &str) {
        self.line("proof", text);
    }

    pub(super) fn ended(&mut self, outcome: Outcome, undone: Option<Result<String, String>>) {
        self.outcome = outcome;
        if let Some(undone) = undone {
            let text = undone.unwrap_or_else(|error| format!("COULD NOT UNDO: {error}"));
            self.line("undone", &text);
            self.undone = Some(text);
        }
    }

    /// Takes in what the node told; `Some` if that ends the drill.
    pub(super) fn take(&mut self, notice: &Value) -> Option<Outcome> {
        let text = |key: &str| notice[key].as_str().unwrap_or_default().to_owned();
        let (peer, event) = (text("peer"), text("event"));
        if !peer.is_empty() && peer != self.peer {
            return None;
        }
        let who = if peer.is_empty() { "node" } else { &peer };
        self.line(who, &text("text"));
        if peer.is_empty() {
            return None;
        }
        let now = Some(self.elapsed());
        match event.as_str() {
            "liveness" if notice["to"] == "suspect" => {
                self.times.suspected_ms = self.times.suspected_ms.or(now);
            }
            "liveness" if notice["to"] == "dead" => {
                self.times.condemned_ms = self.times.condemned_ms.or(now);
                self.cause = Some(text("cause"));
            }
            "granted" => {
                self.times.granted_ms = self.times.granted_ms.or(now);
                self.remedies.push(text("kind"));
            }
            "acted" => self.times.acted_ms = self.times.acted_ms.or(now),
            "would_heal" if self.dry_run => {
                self.remedies.push(text("kind"));
                return Some(Outcome::WouldHeal);
            }
            "recovered" => {
                self.times.proven_ms = now;
                let by_remedy = notice["remedies"].as_u64().is_some_and(|count| count > 0);
                return Some(if by_remedy {
                    Outcome::Healed
                } else {
                    Outcome::RecoveredByItself
                });
            }
            "gave_up" => return Some(Outcome::GaveUp),
            _ => {}
        }
        None
    }

    /// What is printed at the end.
    pub(super) fn report(&self) -> String {
        if self.json {
            let report = Report {
                peer: &self.peer,
                node: &self.node,
                fault: self.fault,
                outcome: self.outcome.as_str(),
                cause: self.cause.as_deref(),
                remedies: &self.remedies,
                times: &self.times,
                undone: self.undone.as_deref(),
                timeline: &self.lines,
            };
            return serde_json::to_string_pretty(&report).unwrap_or_default() + "\n";
        }
        let mut text = String::from("\n");
        let Times {
            suspected_ms,
            condemned_ms,
            granted_ms,
            acted_ms,
            proven_ms,
        } = self.times;
        for (what, ms) in [
            ("suspected", suspected_ms),
            ("condemned", condemned_ms),
            ("granted", granted_ms),
            ("acted", acted_ms),
            ("proven", proven_ms),
        ] {
            let after = ms.map_or_else(|| "-".to_owned(), |ms| format!("{:.3} s", seconds(ms)));
            // Writing to a String cannot fail.
            let _ = writeln!(text, "  {what:<10} {after:>10}");
        }
        let cause = self.cause.as_deref().unwrap_or("none");
        let remedies = if self.remedies.is_empty() {
            "none".to_owned()
        } else {
            self.remedies.join(", ")
        };
        let _ = writeln!(
            text,
            "  cause {}, remedies: {}",
            printable(cause),
            printable(&remedies)
        );
        let _ = writeln!(text, "{}", self.verdict());
        text
    }

    fn verdict(&self) -> String {
        let peer = &self.peer;
        match self.outcome {
            Outcome::Healed => format!("healed: {peer} has proven itself alive"),
            Outcome::WouldHeal => "would have been healed: the node is in a dry run".to_owned(),
            Outcome::RecoveredByItself => {
                format!("not healed: {peer} is alive again without a remedy of this node")
            }
            Outcome::GaveUp => "not healed: the node gave up (`defib explain` says why)".to_owned(),
            Outcome::TimedOut(after) => {
                format!(
                    "not healed within {}: `defib explain {peer}`",
                    humantime::format_duration(after)
                )
            }
            Outcome::Interrupted(signal) => format!("not healed: interrupted by {signal}"),
            Outcome::NodeLost => "not healed: the node's events ended".to_owned(),
        }
    }

    fn line(&mut self, who: &str, text: &str) {
        let ms = self.elapsed();
        let text = printable(text).to_string();
        if !self.json {
            crate::cli::say(&format!("{:>+9.3} s  {who:<10}  {text}", seconds(ms)));
        }
        if self.lines.len() < MAX_LINES {
            self.lines.push(Line {
                ms,
                who: who.to_owned(),
                text,
            });
        }
    }

    fn elapsed(&self) -> u64 {
        let elapsed = self.clock.now().since(self.fault_at).as_millis();
        u64::try_from(elapsed).unwrap_or(u64::MAX)
    }
}

fn seconds(ms: u64) -> f64 {
    Duration::from_millis(ms).as_secs_f64()
}

#[derive(Serialize)]
struct Report<'t> {
    peer: &'t str,
    node: &'t str,
    fault: &'static str,
    outcome: &'static str,
    cause: Option<&'t str>,
    remedies: &'t [String],
    #[serde(flatten)]
    times: &'t Times,
    undone: Option<&'t str>,
    timeline: &'t [Line],
}
