//! Reads how a passive check tells that silence is too long, and the rules of that.

use std::time::Duration;

use super::reader::{Read, Reader};
use super::schema::time;
use crate::engine::settings::{Bounds, ChenSettings, DetectorSettings, PhiSettings};

const PHI: [&str; 4] = ["phi", "dead_phi", "min_deviation", "acceptable_pause"];
const CHEN: [&str; 2] = ["margin", "dead_margin"];

/// `interval` is that of our own heartbeats.
pub(super) fn detector(reader: &Reader<'_>, interval: Duration) -> Read<DetectorSettings> {
    let word = reader.text("detector")?;
    let foreign = fits(reader, &word);
    let settings = match word.as_str() {
        "phi" => phi(reader, interval),
        "chen" => chen(reader, interval),
        _ => deadline(reader, interval),
    };
    foreign.and(settings)
}

/// No field of another detector is given.
fn fits(reader: &Reader<'_>, word: &str) -> Read<()> {
    let mut good = Ok(());
    let of = |key: &'static str, theirs: &'static str, words: &'static [&'static str]| (key, theirs, words);
    let fields = PHI
        .map(|key| of(key, "phi", &["phi"]))
        .into_iter()
        .chain(CHEN.map(|key| of(key, "chen", &["chen"])))
        .chain([of("window", "phi\" or \"chen", &["phi", "chen"])]);
    for (key, theirs, words) in fields {
        if reader.is_set(key) && !words.contains(&word) {
            let message = format!("`{key}` is nothing to a detector \"{word}\"");
            let help = format!("it goes with detector = \"{theirs}\"");
            good = Err(reader.wrong(&reader.key_at(key), "detector_field", message, help));
        }
    }
    good
}

fn deadline(reader: &Reader<'_>, interval: Duration) -> Read<DetectorSettings> {
    let (suspect_after, dead_after) = ceilings(reader, interval, |given_suspect, given_dead| {
        let suspect = given_suspect.unwrap_or(Duration::from_secs(2).max(interval * 2));
        (
            suspect,
            given_dead.unwrap_or(Duration::from_secs(5).max(suspect * 5 / 2)),
        )
    })?;
    Ok(DetectorSettings::Deadline {
        suspect_after,
        dead_after,
    })
}

fn phi(reader: &Reader<'_>, interval: Duration) -> Read<DetectorSettings> {
    let default = PhiSettings::at(interval);
    let bounds = bounds(reader, interval);
    let (phi, dead) = (reader.maybe_number("phi"), reader.maybe_number("dead_phi"));
    let (min_deviation, pause) = (
        reader.maybe_time("min_deviation"),
        reader.maybe_time("acceptable_pause"),
    );
    let suspect = phi?.unwrap_or(default.suspect);
    let dead = dead?.unwrap_or(default.dead.max(suspect * 2.0));
    if !(0.5..=300.0).contains(&suspect) {
        let message = format!("`phi` ({suspect}) is out of bounds");
        return Err(reader.wrong(
            &reader.at("phi"),
            "phi",
            message,
            "takes a number from 0.5 to 300; 8 is usual",
        ));
    }
    if dead <= suspect || dead > 600.0 {
        let message = format!("`dead_phi` ({dead}) must be more than `phi` ({suspect}), and at most 600");
        return Err(reader.wrong(&reader.at("dead_phi"), "phi", message, ""));
    }
    Ok(DetectorSettings::Phi(PhiSettings {
        bounds: bounds?,
        suspect,
        dead,
        min_deviation: min_deviation?.unwrap_or(default.min_deviation),
        pause: pause?.unwrap_or(default.pause),
    }))
}

fn chen(reader: &Reader<'_>, interval: Duration) -> Read<DetectorSettings> {
    let default = ChenSettings::at(interval);
    let bounds = bounds(reader, interval);
    let (margin, dead) = (reader.maybe_time("margin"), reader.maybe_time("dead_margin"));
    let margin = margin?.unwrap_or(default.margin);
    let dead_margin = dead?.unwrap_or(default.dead_margin.max(margin * 5 / 2));
    if dead_margin <= margin {
        let message = format!(
            "`dead_margin` ({}) must be more than `margin` ({})",
            time(dead_margin),
            time(margin)
        );
        return Err(reader.wrong(&reader.at("dead_margin"), "margin", message, ""));
    }
    Ok(DetectorSettings::Chen(ChenSettings {
        bounds: bounds?,
        margin,
        dead_margin,
    }))
}

fn bounds(reader: &Reader<'_>, interval: Duration) -> Read<Bounds> {
    let default = Bounds::at(interval);
    let window = reader.maybe_int("window");
    let (suspect_after, dead_after) = ceilings(reader, interval, |given_suspect, given_dead| {
        let suspect = given_suspect.unwrap_or(default.suspect_after);
        (suspect, given_dead.unwrap_or(suspect * 3))
    })?;
    Ok(Bounds {
        suspect_after,
        dead_after,
        window: window?.unwrap_or(default.window),
        ..default
    })
}

/// `suspect_after` and `dead_after`, whatever they mean to the detector.
fn ceilings(
    reader: &Reader<'_>,
    interval: Duration,
    unless_given: impl Fn(Option<Duration>, Option<Duration>) -> (Duration, Duration),
) -> Read<(Duration, Duration)> {
    let (given_suspect, given_dead) = (
        reader.maybe_time("suspect_after"),
        reader.maybe_time("dead_after"),
    );
    let (suspect_after, dead_after) = unless_given(given_suspect?, given_dead?);
    if suspect_after < interval * 2 {
        let message = format!(
            "`suspect_after` ({}) must be at least twice heartbeat.interval ({})",
            time(suspect_after),
            time(interval)
        );
        let help = "the peer is blamed only after two of our own heartbeats came back";
        reader.wrong(&reader.at("suspect_after"), "suspect_after", message, help);
    }
    if dead_after <= suspect_after {
        let message = format!(
            "`dead_after` ({}) must be more than `suspect_after` ({})",
            time(dead_after),
            time(suspect_after)
        );
        let key = if reader.is_set("dead_after") {
            "dead_after"
        } else {
            "suspect_after"
        };
        reader.wrong(&reader.at(key), "dead_after", message, "");
    }
    Ok((suspect_after, dead_after))
}
