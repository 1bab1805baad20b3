//! Who is compared: detectors with their parameters, scaled to the interval of what they hear.

use std::time::Duration;

use super::baselines::{Akka, Bertier, Cassandra, Fixed, NfdE};
use super::replay::{Arrival, Trusts};
use crate::engine::detector::Detector;
use crate::engine::settings::{ChenSettings, DetectorSettings, PhiSettings};
use crate::engine::time::Time;

/// A detector to be compared.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// As it stands in tables and legends.
    pub name: String,
    kind: Kind,
}

/// Which of our two bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Suspicion.
    Suspect,
    /// Death.
    Dead,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Fixed(Duration),
    /// The rest count in intervals where they have no unit of their own.
    FixedIntervals(f64),
    NfdE {
        margin: f64,
    },
    Bertier {
        phi: f64,
    },
    AkkaShipped,
    Akka {
        pause: f64,
    },
    Cassandra {
        threshold: f64,
    },
    /// One of the engine's, with its defaults at that interval, and so much patience.
    Deadline {
        suspect: f64,
        dead: f64,
        level: Level,
    },
    Phi {
        pause: f64,
        level: Level,
    },
    Chen {
        margin: f64,
        level: Level,
    },
    Configured {
        settings: DetectorSettings,
        level: Level,
    },
}

impl Candidate {
    fn new(name: impl Into<String>, kind: Kind) -> Self {
        Self {
            name: name.into(),
            kind,
        }
    }

    /// The detector of a check of a configuration.
    pub fn configured(name: &str, settings: DetectorSettings, level: Level) -> Self {
        let word = match level {
            Level::Suspect => "suspect",
            Level::Dead => "dead",
        };
        Self::new(format!("{name}, {word}"), Kind::Configured { settings, level })
    }

    /// One that has heard nothing yet.
    pub(super) fn begin(&self, interval: Duration) -> Box<dyn Trusts> {
        let times = |count: f64| interval.mul_f64(count);
        let ours = |settings, level| -> Box<dyn Trusts> {
            Box::new(Ours {
                detector: Detector::new(settings),
                level,
                last: None,
            })
        };
        match self.kind {
            Kind::Fixed(after) => Box::new(Fixed(after)),
            Kind::FixedIntervals(count) => Box::new(Fixed(times(count))),
            Kind::NfdE { margin } => Box::new(NfdE::new(interval, times(margin))),
            Kind::Bertier { phi } => Box::new(Bertier::new(interval, phi)),
            Kind::AkkaShipped => {
                let (min, pause) = (Duration::from_millis(100), Duration::from_secs(3));
                Box::new(Akka::new(interval, 8.0, min, pause))
            }
            Kind::Akka { pause } => Box::new(Akka::new(interval, 8.0, times(0.1), times(pause))),
            Kind::Cassandra { threshold } => Box::new(Cassandra::new(interval, threshold)),
            Kind::Deadline { suspect, dead, level } => {
                let (suspect_after, dead_after) = (times(suspect), times(dead));
                let settings = DetectorSettings::Deadline {
                    suspect_after,
                    dead_after,
                };
                ours(settings, level)
            }
            Kind::Phi { pause, level } => {
                let mut settings = PhiSettings::at(interval);
                settings.pause = times(pause);
                ours(DetectorSettings::Phi(settings), level)
            }
            Kind::Chen { margin, level } => {
                let mut settings = ChenSettings::at(interval);
                settings.margin = times(margin);
                ours(DetectorSettings::Chen(settings), level)
            }
            Kind::Configured { settings, level } => ours(settings, level),
        }
    }
}

/// The engine's own, as `evidence` uses it: told of fresh heartbeats only.
struct Ours {
    detector: Detector,
    level: Level,
    last: Option<(u64, Time)>,
}

impl Trusts for Ours {
    fn until(&mut self, arrival: Arrival) -> Time {
        // What the engine's `pace` calls late: a slot that is not newer than the last one.
        let slot = arrival.schedule.map(|sent| sent.slot);
        let fresh = match (self.last, slot) {
            (Some((last, _)), Some(slot)) => slot > last,
            _ => true,
        };
        if fresh {
            self.detector
                .arrived(arrival.at, arrival.schedule, arrival.unbroken);
            self.last = Some((slot.unwrap_or_default(), arrival.at));
        }
        let heard = self.last.map_or(arrival.at, |(_, at)| at);
        heard
            + match self.level {
                Level::Suspect => self.detector.suspect_after(),
                Level::Dead => self.detector.dead_after(),
            }
    }
}

/// The rows of the table: each as its authors ship it, and what of that hangs on an interval of 1 s, for this one too.
pub fn as_shipped() -> Vec<Candidate> {
    let seconds = Duration::from_secs;
    let (suspect, dead) = (Level::Suspect, Level::Dead);
    vec![
        Candidate::new("fixed 2 s", Kind::Fixed(seconds(2))),
        Candidate::new("fixed 5 s", Kind::Fixed(seconds(5))),
        Candidate::new("fixed 2 intervals", Kind::FixedIntervals(2.0)),
        Candidate::new("fixed 5 intervals", Kind::FixedIntervals(5.0)),
        Candidate::new("Chen NFD-E, margin 1 interval", Kind::NfdE { margin: 1.0 }),
        Candidate::new("Bertier", Kind::Bertier { phi: 4.0 }),
        Candidate::new("phi as Akka has it (3 s pause)", Kind::AkkaShipped),
        Candidate::new("phi as Akka, pause 3 intervals", Kind::Akka { pause: 3.0 }),
        Candidate::new("phi as Cassandra has it", Kind::Cassandra { threshold: 8.0 }),
        Candidate::new("ours: deadline, suspect", deadline(suspect)),
        Candidate::new("ours: deadline, dead", deadline(dead)),
        Candidate::new("ours: phi, suspect", phi(1.0, suspect)),
        Candidate::new("ours: phi, dead", phi(1.0, dead)),
        Candidate::new("ours: chen, suspect", chen(1.5, suspect)),
        Candidate::new("ours: chen, dead", chen(1.5, dead)),
    ]
}

fn deadline(level: Level) -> Kind {
    Kind::Deadline {
        suspect: 2.0,
        dead: 5.0,
        level,
    }
}

fn phi(pause: f64, level: Level) -> Kind {
    Kind::Phi { pause, level }
}

fn chen(margin: f64, level: Level) -> Kind {
    Kind::Chen { margin, level }
}

/// The curves of the plot: one detector, and the parameter by which it is made more patient.
pub fn swept() -> Vec<(&'static str, Vec<Candidate>)> {
    fn sweep(values: &[f64], kind: impl Fn(f64) -> Kind) -> Vec<Candidate> {
        values
            .iter()
            .map(|value| Candidate::new(value.to_string(), kind(*value)))
            .collect()
    }
    let near = [0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 9.0];
    vec![
        (
            "fixed time",
            sweep(
                &[1.02, 1.05, 1.1, 1.2, 1.5, 2.0, 2.5, 3.0, 5.0, 10.0],
                Kind::FixedIntervals,
            ),
        ),
        (
            "Chen NFD-E, by margin",
            sweep(&near, |margin| Kind::NfdE { margin }),
        ),
        (
            "Bertier, by phi",
            sweep(&[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0], |phi| Kind::Bertier {
                phi,
            }),
        ),
        (
            "phi as Akka, by pause",
            sweep(&[0.0, 0.2, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 9.0], |pause| {
                Kind::Akka { pause }
            }),
        ),
        (
            "phi as Cassandra, by threshold",
            sweep(&[0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0], |threshold| {
                Kind::Cassandra { threshold }
            }),
        ),
        (
            "ours: phi, by pause",
            sweep(&[0.0, 0.2, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 8.0], |pause| {
                phi(pause, Level::Suspect)
            }),
        ),
        (
            "ours: chen, by margin",
            sweep(&near, |margin| chen(margin, Level::Suspect)),
        ),
    ]
}
