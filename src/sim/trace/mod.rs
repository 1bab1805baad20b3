//! Recorded heartbeats, and what detectors would have made of them: how long a crash stays unnoticed, how often and
//! for how long the living are suspected (Chen, Toueg, Aguilera 2002: T_D, λ_M, T_M, P_A). Ours are the engine's own.

mod axis;
mod baselines;
mod candidates;
mod format;
mod plot;
mod reception;
mod replay;
mod table;
#[cfg(test)]
mod tests;

pub use candidates::{Candidate, Level, as_shipped, swept};
pub use format::{Line, Malformed, read};
pub use plot::{Curve, plot};
pub use reception::Reception;
pub use replay::{Figures, replay};
pub use table::table;

use std::time::Duration;

use crate::engine::detector::Sent;
use crate::engine::time::Time;

/// One life of one sender, as it was heard or as it spoke.
#[derive(Clone, Debug, PartialEq)]
pub struct Life {
    /// Whose, in words.
    pub name: String,
    /// Between two heartbeats, as planned.
    pub interval: Duration,
    /// In the order of their sending.
    pub beats: Vec<Beat>,
    /// These are emissions: when they arrive is up to a [`Reception`].
    pub emitted: bool,
}

/// One heartbeat.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Beat {
    /// Its number among those of this life.
    pub number: u64,
    /// When it was sent, if that is known; else when it arrived.
    pub sent: Time,
    /// When it arrived; `None`: it was lost.
    pub arrived: Option<Time>,
    /// What it says of its sender's schedule.
    pub schedule: Option<Sent>,
    /// The listener heard all since the one before.
    pub unbroken: bool,
}

/// How many heartbeats of each life are learned from and not counted, unless somebody says: 1,000, which is the largest
/// window of all, or a tenth of the shortest life if that is less.
pub fn warm_up(lives: &[Life]) -> usize {
    let shortest = lives
        .iter()
        .map(|life| life.beats.len())
        .min()
        .unwrap_or_default();
    (shortest / 10).min(1_000)
}

/// No more digits than matter.
fn in_words(interval: Duration) -> String {
    if interval.subsec_micros().is_multiple_of(1_000) {
        format!("{interval:?}")
    } else {
        format!("{interval:.1?}")
    }
}

/// What there is, in a line.
pub fn counted(lives: &[Life]) -> String {
    let beats: usize = lives.iter().map(|life| life.beats.len()).sum();
    let lost = lives
        .iter()
        .flat_map(|life| &life.beats)
        .filter(|beat| beat.arrived.is_none());
    let mut intervals: Vec<Duration> = lives.iter().map(|life| life.interval).collect();
    intervals.sort_unstable();
    intervals.dedup();
    let intervals: Vec<String> = intervals.iter().map(|interval| in_words(*interval)).collect();
    format!(
        "{}, {}, {} of them lost, one every {}",
        match lives.len() {
            1 => "1 life".to_owned(),
            lives => format!("{lives} lives"),
        },
        match beats {
            1 => "1 heartbeat".to_owned(),
            beats => format!("{beats} heartbeats"),
        },
        lost.count(),
        intervals.join(" or ")
    )
}

/// What there is, what the model of the way was, and what is counted, in lines.
pub fn describe(lives: &[Life], reception: &Reception, warm_up: usize) -> String {
    let way = if lives.iter().any(|life| life.emitted) {
        format!(
            "Emissions, received by a model: {}.\nA crash is one right after a heartbeat was sent.\n",
            reception.describe()
        )
    } else {
        "Arrivals, as recorded. A crash is one right after a heartbeat arrived.\n".to_owned()
    };
    format!(
        "{}.\n{way}The first {warm_up} heartbeats of each life are learned from and not counted.\n",
        counted(lives)
    )
}

/// The table of what `candidates` make of `lives`.
pub fn compare(lives: &[Life], candidates: &[Candidate], warm_up: usize) -> String {
    let rows: Vec<(String, Figures)> = candidates
        .iter()
        .map(|candidate| (candidate.name.clone(), replay(candidate, lives, warm_up)))
        .collect();
    table(&rows)
}

/// The curves of the trade-off, by the parameters that [`swept`] names.
pub fn trade_off(lives: &[Life], warm_up: usize) -> Vec<Curve> {
    swept()
        .into_iter()
        .map(|(name, settings)| Curve {
            name: name.to_owned(),
            bold: name.starts_with("ours"),
            points: settings
                .iter()
                .map(|candidate| {
                    let figures = replay(candidate, lives, warm_up);
                    let detection = figures.detection_mean().as_secs_f64() * 1e3;
                    (detection, figures.mistakes_an_hour(), candidate.name.clone())
                })
                .collect(),
        })
        .collect()
}
