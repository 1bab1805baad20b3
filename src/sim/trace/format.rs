//! The two formats of traces: our own, of arrivals, and PlanetLab's, of emissions. Hostile as every file: bounded, and
//! a line that cannot be read is told by its number.
//!
//! Ours has a line for each arrival, its fields apart by tabs, `-` for what is not known:
//!
//! ```text
//! # defib trace 1
//! # arrival_ns  sender  boot  slot  late_ms  interval_ms  wall_ts
//! 1250000321    node-a  4f2a  17    0        1000         1770000000.125
//! ! the connection was lost
//! ```
//!
//! `arrival_ns` is of the listener's monotonic clock. A line that begins with `!` says that nothing was listened to for
//! a while: the gap across it is nobody's silence. What begins with `#` is for people.

use std::collections::BTreeMap;
use std::fmt;
use std::io::BufRead;
use std::time::Duration;

use super::{Beat, Life};
use crate::engine::detector::Sent;
use crate::engine::time::Time;

/// Heartbeats of one trace.
const MAX_BEATS: usize = 5_000_000;
/// Of a heartbeat.
const MAX_NUMBER: u64 = 1 << 40;
/// The longest interval, in milliseconds: an hour, as the wire format has it.
const MAX_INTERVAL: u64 = 3_600_000;
/// Lives in one trace.
const MAX_LIVES: usize = 10_000;
/// Bytes of one line.
const MAX_LINE: u64 = 4_096;
/// Of a name, as it is written.
const MAX_NAME: usize = 64;

const TITLE: &str = "# defib trace 1";
const PLANETLAB: &str = "numseq,timestamp_start_send,timestamp_end_send";

/// What is wrong with a trace.
#[derive(Debug, thiserror::Error)]
pub enum Malformed {
    /// It could not be read on.
    #[error("line {line}: {error}")]
    Io {
        /// The one that was being read.
        line: usize,
        /// Why.
        error: std::io::Error,
    },
    /// A line says nothing that is understood.
    #[error("line {line}: {why}")]
    Line {
        /// Which.
        line: usize,
        /// Why, and what would be right.
        why: String,
    },
}

/// One arrival, as a line of our format.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Line<'a> {
    /// By the listener's monotonic clock.
    pub arrival: Time,
    /// The sending node, or the channel.
    pub sender: &'a str,
    /// Its life.
    pub boot: Option<&'a str>,
    /// The schedule's slot.
    pub slot: Option<u64>,
    /// How late the sender was.
    pub late_ms: Option<u64>,
    /// Its planned interval.
    pub interval_ms: Option<u64>,
    /// Its wall clock, in seconds.
    pub wall_ts: Option<f64>,
}

impl Line<'_> {
    /// What a file begins with.
    pub const HEAD: &'static str =
        "# defib trace 1\n# arrival_ns\tsender\tboot\tslot\tlate_ms\tinterval_ms\twall_ts\n";
    /// Bytes of the longest line, its end included.
    pub const LONGEST: u64 = 256;
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\t{}\t", self.arrival.as_nanos(), Name(self.sender))?;
        match self.boot {
            Some(boot) => write!(f, "{}", Name(boot))?,
            None => f.write_str("-")?,
        }
        for number in [self.slot, self.late_ms, self.interval_ms] {
            match number {
                Some(number) => write!(f, "\t{number}")?,
                None => f.write_str("\t-")?,
            }
        }
        match self.wall_ts.filter(|at| at.is_finite() && at.abs() < 1e15) {
            Some(at) => write!(f, "\t{at:.3}"),
            None => f.write_str("\t-"),
        }
    }
}

/// A name from outside: no white space, no control characters, and not too long.
struct Name<'a>(&'a str);

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if matches!(self.0, "" | "-") {
            return f.write_str("?");
        }
        let mut room = MAX_NAME;
        for letter in self.0.chars() {
            let letter = if letter.is_whitespace() || letter.is_control() {
                '_'
            } else {
                letter
            };
            if letter.len_utf8() > room {
                break;
            }
            room -= letter.len_utf8();
            write!(f, "{letter}")?;
        }
        Ok(())
    }
}

/// The lives in a trace of either format. `name` is for messages and titles.
///
/// # Errors
/// With the number of the first line that cannot be understood.
pub fn read(from: impl BufRead, name: &str) -> Result<Vec<Life>, Malformed> {
    let mut lines = Lines { from, line: 0 };
    let first = lines.next()?.unwrap_or_default();
    let lives = match first.trim_end() {
        PLANETLAB => vec![planetlab(&mut lines, name)?],
        TITLE => ours(&mut lines, name)?,
        _ => {
            return Err(lines.wrong(format!(
                "neither \"{TITLE}\" nor \"{PLANETLAB}\": this is no trace (one that is packed goes through `xz -dc`)"
            )));
        }
    };
    if lives.iter().all(|life| life.beats.len() < 3) {
        return Err(
            lines.wrong("fewer than three heartbeats of any sender: nothing to learn from".to_owned())
        );
    }
    Ok(lives)
}

struct Lines<R> {
    from: R,
    line: usize,
}

impl<R: BufRead> Lines<R> {
    fn next(&mut self) -> Result<Option<String>, Malformed> {
        use std::io::Read;
        self.line += 1;
        let mut text = Vec::new();
        let read = (&mut self.from).take(MAX_LINE).read_until(b'\n', &mut text);
        let line = self.line;
        let read = read.map_err(|error| Malformed::Io { line, error })?;
        if read as u64 == MAX_LINE {
            return Err(self.wrong(format!("more than {MAX_LINE} bytes long")));
        }
        if read == 0 {
            return Ok(None);
        }
        let text = String::from_utf8(text).map_err(|_| self.wrong("not UTF-8".to_owned()))?;
        Ok(Some(text))
    }

    fn wrong(&self, why: String) -> Malformed {
        Malformed::Line { line: self.line, why }
    }
}

fn planetlab<R: BufRead>(lines: &mut Lines<R>, name: &str) -> Result<Life, Malformed> {
    let mut beats: Vec<Beat> = Vec::new();
    while let Some(line) = lines.next()? {
        let mut fields = line.trim_end().split(',').map(str::parse::<u64>);
        let (Some(Ok(number)), Some(Ok(sent)), Some(Ok(_)), None) =
            (fields.next(), fields.next(), fields.next(), fields.next())
        else {
            return Err(lines.wrong("not three numbers: numseq, start and end of sending".to_owned()));
        };
        if number > MAX_NUMBER {
            return Err(lines.wrong(format!("numseq is more than {MAX_NUMBER}")));
        }
        let sent = Time::from_nanos(sent);
        if beats
            .last()
            .is_some_and(|last| last.sent > sent || last.number >= number)
        {
            return Err(lines.wrong("sent before the one above it".to_owned()));
        }
        if beats.len() == MAX_BEATS {
            return Err(lines.wrong(format!("more than {MAX_BEATS} heartbeats")));
        }
        beats.push(Beat {
            number,
            sent,
            arrived: None,
            schedule: None,
            unbroken: true,
        });
    }
    let interval = planned(&beats);
    give_slots(&mut beats, interval);
    Ok(Life {
        name: name.to_owned(),
        interval,
        beats,
        emitted: true,
    })
}

/// The slot and the lateness that our own sender would have told: it keeps to its schedule, skips what it missed, and
/// says how late it is for what would have been next.
fn give_slots(beats: &mut [Beat], interval: Duration) {
    let Some(first) = beats.first().map(|beat| beat.sent) else {
        return;
    };
    let length = interval.as_nanos().max(1);
    let mut due = first;
    for beat in beats {
        let slot = (beat.sent.since(first).as_nanos() + length / 2) / length;
        let slot = u64::try_from(slot).unwrap_or(u64::MAX);
        beat.schedule = Some(Sent {
            slot,
            interval,
            late: beat.sent.since(due),
        });
        let next = u64::try_from(length).unwrap_or(u64::MAX).saturating_mul(slot + 1);
        due = first + Duration::from_nanos(next);
    }
}

fn ours<R: BufRead>(lines: &mut Lines<R>, name: &str) -> Result<Vec<Life>, Malformed> {
    let mut lives: BTreeMap<(String, String), (Vec<Beat>, bool)> = BTreeMap::new();
    let mut count = 0;
    while let Some(line) = lines.next()? {
        let Some(line) = line.strip_suffix('\n') else {
            // Whoever wrote it was cut off in the middle of a line.
            break;
        };
        match line.chars().next() {
            None | Some('#') => continue,
            Some('!') => {
                lives.values_mut().for_each(|(_, unbroken)| *unbroken = false);
                continue;
            }
            Some(_) => {}
        }
        let read = arrival(line).map_err(|why| lines.wrong(why))?;
        let key = (read.sender.to_owned(), read.boot.unwrap_or_default().to_owned());
        let full = lives.len() == MAX_LIVES && !lives.contains_key(&key);
        count += 1;
        if full || count > MAX_BEATS {
            let why = format!("more than {MAX_LIVES} lives, or {MAX_BEATS} heartbeats");
            return Err(lines.wrong(why));
        }
        let (beats, unbroken) = lives.entry(key).or_default();
        if beats.last().is_some_and(|last| last.sent > read.arrival) {
            return Err(lines.wrong("arrived before the one above it".to_owned()));
        }
        let schedule = read.slot.zip(read.interval_ms).map(|(slot, interval)| Sent {
            slot,
            interval: Duration::from_millis(interval.clamp(1, MAX_INTERVAL)),
            late: Duration::from_millis(read.late_ms.unwrap_or_default()),
        });
        beats.push(Beat {
            number: beats.len() as u64,
            sent: read.arrival,
            arrived: Some(read.arrival),
            schedule,
            unbroken: std::mem::replace(unbroken, true),
        });
    }
    Ok(lives
        .into_iter()
        .map(|((sender, boot), (beats, _))| Life {
            name: if boot.is_empty() {
                format!("{name}: {sender}")
            } else {
                format!("{name}: {sender} {boot}")
            },
            interval: planned(&beats),
            beats,
            emitted: false,
        })
        .collect())
}

fn arrival(line: &str) -> Result<Line<'_>, String> {
    fn known<T: std::str::FromStr>(field: &str, what: &str) -> Result<Option<T>, String> {
        if field == "-" {
            return Ok(None);
        }
        let number = field.parse().map(Some);
        number.map_err(|_| format!("`{what}` is neither a number nor `-`"))
    }
    let fields: Vec<&str> = line.split('\t').collect();
    let [arrival, sender, boot, slot, late_ms, interval_ms, wall_ts] = fields[..] else {
        return Err(format!(
            "{} fields, apart by tabs, where seven should be",
            fields.len()
        ));
    };
    let arrival = arrival
        .parse()
        .map_err(|_| "`arrival_ns` is no number of nanoseconds".to_owned())?;
    Ok(Line {
        arrival: Time::from_nanos(arrival),
        sender,
        boot: (boot != "-").then_some(boot),
        slot: known(slot, "slot")?,
        late_ms: known(late_ms, "late_ms")?,
        interval_ms: known(interval_ms, "interval_ms")?,
        wall_ts: known(wall_ts, "wall_ts")?,
    })
}

/// What the sender says, else the median of the gaps, to the millisecond.
fn planned(beats: &[Beat]) -> Duration {
    if let Some(told) = beats.iter().find_map(|beat| beat.schedule) {
        return told.interval;
    }
    let mut gaps: Vec<Duration> = beats
        .windows(2)
        .map(|pair| pair[1].sent.since(pair[0].sent))
        .collect();
    gaps.sort_unstable();
    let median = gaps.get(gaps.len() / 2).copied().unwrap_or_default();
    let millis = (median.as_micros() + 500) / 1_000;
    Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX).clamp(1, MAX_INTERVAL))
}
