//! What the demo prints: a timeline while it runs, a table at its end.

use std::time::Duration;

use crate::engine::decision::{Notice, What};
use crate::engine::time::{Clock, Time};
use crate::runtime::clock::MonotonicClock;

/// Prints notices with the time since the fault.
pub(super) struct Timeline {
    clock: MonotonicClock,
    fault: Time,
}

impl Timeline {
    pub(super) fn start() -> Self {
        let clock = MonotonicClock::start();
        let fault = clock.now();
        Self { clock, fault }
    }

    /// A fault is made now: times count from here.
    pub(super) fn fault(&mut self, number: usize, title: &str, words: &str) {
        println!("\n{number}. {title}");
        self.fault = self.clock.now();
        self.line("fault", words);
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.clock.now().since(self.fault)
    }

    pub(super) fn line(&self, who: &str, words: &str) {
        println!("   {:>+8.3} s  {who:<10}  {words}", self.elapsed().as_secs_f64());
    }

    pub(super) fn show(&self, notice: &Notice) {
        // What only an audit needs is left out.
        if matches!(notice.what, What::EpisodeOpened { .. } | What::Incarnation { .. }) {
            return;
        }
        self.line(notice.peer.as_deref().unwrap_or("node"), &notice.what.to_string());
    }
}

/// One act, as it should be and as it was.
pub(super) struct Outcome {
    pub(super) title: &'static str,
    pub(super) expected: String,
    pub(super) seen: String,
    pub(super) noticed: Option<Duration>,
    pub(super) whole: Option<Duration>,
}

/// Prints the table, two lines an act. True if nothing differs.
pub(super) fn table(outcomes: &[Outcome]) -> bool {
    let width = |of: fn(&Outcome) -> &str| {
        let cells = outcomes.iter().map(|outcome| of(outcome).chars().count());
        cells.max().unwrap_or(0)
    };
    let title = width(|outcome| outcome.title);
    let words = width(|outcome| &outcome.expected).max(width(|outcome| &outcome.seen));
    let secs =
        |time: Option<Duration>| time.map_or_else(|| "-".to_owned(), |t| format!("{:.2} s", t.as_secs_f64()));
    println!();
    println!(
        "{:<title$}  {:<8}  {:<words$}  {:>8}  {:>8}",
        "fault", "", "", "noticed", "whole"
    );
    println!("{}", "-".repeat(title + words + 40));
    for outcome in outcomes {
        let verdict = if outcome.expected == outcome.seen {
            "ok"
        } else {
            "DIFFERS"
        };
        println!("{:<title$}  expected  {}", outcome.title, outcome.expected);
        println!(
            "{:<title$}  seen      {:<words$}  {:>8}  {:>8}  {verdict}",
            "",
            outcome.seen,
            secs(outcome.noticed),
            secs(outcome.whole),
        );
    }
    outcomes.iter().all(|outcome| outcome.expected == outcome.seen)
}
