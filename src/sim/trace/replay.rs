//! Lets a detector hear a life, and says what it would have made of it.

use std::time::Duration;

use super::Life;
use crate::engine::detector::Sent;
use crate::engine::time::Time;

/// A heartbeat as a detector hears it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    pub(super) at: Time,
    /// Its number; higher than that of the one before.
    pub(super) number: u64,
    /// Numbers between it and the one before.
    pub(super) skipped: u64,
    pub(super) schedule: Option<Sent>,
    pub(super) unbroken: bool,
}

/// A detector: told of each arrival, it says until when it trusts from then on.
pub(super) trait Trusts {
    fn until(&mut self, arrival: Arrival) -> Time;
}

/// The quality of a detector's service, over all lives that it heard (Chen, Toueg, Aguilera 2002).
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// From a crash until it is suspected for good, in nanoseconds, one for each heartbeat: it crashes right after
    /// sending that one. (In a trace of arrivals: right after its arrival.) Ascending, once it is finished.
    detections: Vec<u64>,
    /// Times that the living began to be suspected.
    pub mistakes: u64,
    /// For how long they were, together.
    pub mistaken: Duration,
    /// For how long they were watched.
    pub watched: Duration,
}

impl Figures {
    /// T_D, mean.
    pub fn detection_mean(&self) -> Duration {
        let sum: u128 = self.detections.iter().map(|nanos| u128::from(*nanos)).sum();
        let mean = sum / (self.detections.len() as u128).max(1);
        Duration::from_nanos(u64::try_from(mean).unwrap_or(u64::MAX))
    }

    /// T_D that a share of the crashes does not exceed; 1: the longest.
    pub fn detection(&self, share: f64) -> Duration {
        let last = self.detections.len().saturating_sub(1);
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a share of a length"
        )]
        let place = (last as f64 * share.clamp(0.0, 1.0)).ceil() as usize;
        Duration::from_nanos(self.detections.get(place).copied().unwrap_or_default())
    }

    /// λ_M: mistakes an hour.
    pub fn mistakes_an_hour(&self) -> f64 {
        self.mistakes as f64 / self.watched.as_secs_f64().max(f64::MIN_POSITIVE) * 3_600.0
    }

    /// T_M, mean; `None` if there was no mistake.
    pub fn mistake(&self) -> Option<Duration> {
        let count = u32::try_from(self.mistakes).unwrap_or(u32::MAX);
        (count > 0).then(|| self.mistaken / count)
    }

    /// P_A: the probability that who asks at any time while the peer lives is told so.
    pub fn accuracy(&self) -> f64 {
        1.0 - self.mistaken.as_secs_f64() / self.watched.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// Crashes that were looked at.
    pub fn crashes(&self) -> usize {
        self.detections.len()
    }
}

/// What `candidate` makes of all lives. The first `warm_up` heartbeats of each are learned from and not counted.
pub fn replay(candidate: &super::Candidate, lives: &[Life], warm_up: usize) -> Figures {
    let mut figures = Figures::default();
    for life in lives {
        hear(&mut *candidate.begin(life.interval), life, warm_up, &mut figures);
    }
    figures.detections.sort_unstable();
    figures
}

/// What is known of a detector between two arrivals.
struct Watch {
    last: u64,
    since: Time,
    until: Time,
    trusted: bool,
}

fn hear(detector: &mut dyn Trusts, life: &Life, warm_up: usize, figures: &mut Figures) {
    let mut watch: Option<Watch> = None;
    for (place, beat) in life.beats.iter().enumerate() {
        let counts = place >= warm_up;
        if let Some(at) = beat.arrived {
            let skipped = watch
                .as_ref()
                .map_or(0, |watch| beat.number.saturating_sub(watch.last + 1));
            let arrival = Arrival {
                at,
                number: beat.number,
                skipped,
                schedule: beat.schedule,
                unbroken: beat.unbroken && watch.is_some(),
            };
            let trusted = watch
                .as_ref()
                .is_none_or(|watch| silence(watch, at, counts && beat.unbroken, figures));
            let until = detector.until(arrival);
            let trusts = until > at;
            if counts && beat.unbroken && trusted && !trusts && watch.is_some() {
                figures.mistakes += 1;
            }
            watch = Some(Watch {
                last: beat.number,
                since: at,
                until,
                trusted: trusts,
            });
        }
        if let (true, Some(watch)) = (counts, &watch) {
            let detection = watch.until.since(beat.sent).as_nanos();
            figures
                .detections
                .push(u64::try_from(detection).unwrap_or(u64::MAX));
        }
    }
}

/// The time until the next arrival goes by. True if the peer is still trusted at its end.
fn silence(watch: &Watch, at: Time, counts: bool, figures: &mut Figures) -> bool {
    let began = watch.until.max(watch.since);
    let trusted = watch.trusted && began >= at;
    if counts {
        figures.watched += at.since(watch.since);
        figures.mistaken += at.since(began);
        figures.mistakes += u64::from(watch.trusted && began < at);
    }
    trusted
}
