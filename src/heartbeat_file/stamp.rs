//! Somebody else's word for "now".

use std::time::{Duration, UNIX_EPOCH};

use serde_json::Value;

/// What a timestamp says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stamp {
    /// This moment, since 1970.
    At(Duration),
    /// A date and a time of an unknown zone: it says nothing about an age. (kstlib calls such a file dead.)
    Naive,
}

/// A number from here on counts milliseconds: as seconds it would be after the year 5000.
const MILLISECONDS_FROM: f64 = 1e11;
/// Seconds of the year 9999.
const LAST_SECOND: f64 = 253_402_300_800.0;

impl Stamp {
    /// Reads a timestamp: ISO 8601 as Python's `isoformat()` writes it, with a blank in place of the `T` also, or a
    /// number of seconds or milliseconds since 1970.
    ///
    /// # Errors
    /// In words, if it is neither.
    pub fn parse(value: &Value) -> Result<Self, String> {
        let read = match value {
            Value::String(text) => Self::of_text(text),
            Value::Number(number) => number.as_f64().and_then(Self::of_number),
            _ => None,
        };
        read.ok_or_else(|| {
            let text: String = value.to_string().chars().take(64).collect();
            format!("{text} is not ISO 8601 with an offset, as in 2026-11-22T03:00:00+00:00")
        })
    }

    fn of_number(number: f64) -> Option<Self> {
        let seconds = if number < MILLISECONDS_FROM {
            number
        } else {
            number / 1000.0
        };
        (0.0..LAST_SECOND)
            .contains(&seconds)
            .then(|| Self::At(Duration::from_secs_f64(seconds)))
    }

    fn of_text(text: &str) -> Option<Self> {
        const DATE_AND_TIME: usize = "2026-11-22T03:00:00".len();
        if !text.is_ascii() || text.len() < DATE_AND_TIME {
            return None;
        }
        let zone_at = text[DATE_AND_TIME..].find(['+', '-', 'Z']);
        let (local, zone) = match zone_at {
            Some(at) => text.split_at(DATE_AND_TIME + at),
            None => (text, ""),
        };
        let at = humantime::parse_rfc3339_weak(local).ok()?;
        let at = at.duration_since(UNIX_EPOCH).ok()?;
        match zone {
            "" => Some(Self::Naive),
            "Z" => Some(Self::At(at)),
            _ => {
                let (east, digits) = zone.split_at(1);
                let shift = offset(digits)?;
                // What would lie before 1970 is as long ago as can be said.
                let utc = match east {
                    "+" => at.saturating_sub(shift),
                    _ => at.checked_add(shift)?,
                };
                Some(Self::At(utc))
            }
        }
    }
}

/// `hh`, `hhmm` or `hh:mm`.
fn offset(text: &str) -> Option<Duration> {
    let (hours, minutes) = match text.len() {
        2 => (text, "00"),
        4 => text.split_at(2),
        5 => text.split_once(':')?,
        _ => return None,
    };
    let number = |digits: &str| {
        let two = digits.len() == 2 && digits.bytes().all(|byte| byte.is_ascii_digit());
        two.then(|| digits.parse::<u64>().ok()).flatten()
    };
    let (hours, minutes) = (number(hours)?, number(minutes)?);
    (hours < 24 && minutes < 60).then(|| Duration::from_secs(hours * 3600 + minutes * 60))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn at(text: &str) -> Option<Duration> {
        match Stamp::parse(&text.into()) {
            Ok(Stamp::At(at)) => Some(at),
            _ => None,
        }
    }

    #[test]
    fn s27_offsets_are_honoured() {
        let noon = at("2026-11-22T12:00:00Z").unwrap();
        assert_eq!(noon.as_secs(), 1_795_348_800);
        for same in [
            "2026-11-22T12:00:00+00:00",
            "2026-11-22 12:00:00.000000+00:00",
            "2026-11-22T14:00:00+02:00",
            "2026-11-22T14:00:00+02",
            "2026-11-22T07:30:00-0430",
            "2026-11-22T07:30:00.0-04:30",
        ] {
            assert_eq!(at(same), Some(noon), "{same}");
        }
        assert_eq!(
            at("2026-11-22T12:00:00.123456+00:00"),
            Some(noon + Duration::from_micros(123_456))
        );
        assert_eq!(at("1970-01-01T01:00:00+02:00"), Some(Duration::ZERO));
        assert_eq!(Stamp::parse(&json!("2026-11-22T12:00:00.5")), Ok(Stamp::Naive));
    }

    #[test]
    fn s27_what_is_no_date_is_refused() {
        for wrong in [
            json!(""),
            json!("now"),
            json!("2026-11-22"),
            json!("2026-11-22T03:00:20+2:00"),
            json!("2026-11-22T03:00:20+99:00"),
            json!("2026-11-22T03:00:20+02:60"),
            json!("2026-11-22T03:00:20+0200x"),
            json!("2026-11-22T03:00:20Z+02:00"),
            json!("2026-11-22T03:00:20.5.5Z"),
            json!("2026-13-22T03:00:20+00:00"),
            json!("1969-12-31T23:59:59Z"),
            json!("20€6-11-22T03:00:20+00:00"),
            json!("２026-11-22T03:00:20+00:00"),
            json!(-1),
            json!(1e30),
            json!(true),
            json!(null),
            json!(["2026-11-22T03:00:20Z"]),
        ] {
            let error = Stamp::parse(&wrong).unwrap_err();
            assert!(error.contains("is not ISO 8601"), "{error}");
        }
        let long = Stamp::parse(&"x".repeat(100_000).into()).unwrap_err();
        assert!(long.len() < 200, "{long}");
    }

    #[test]
    fn a_number_counts_seconds_or_milliseconds() {
        let seconds = Stamp::parse(&json!(1_795_348_800));
        assert_eq!(seconds, Ok(Stamp::At(Duration::from_secs(1_795_348_800))));
        assert_eq!(Stamp::parse(&json!(1_795_348_800_000_u64)), seconds);
        assert_eq!(
            Stamp::parse(&json!(1_795_348_800.5)),
            Ok(Stamp::At(Duration::from_millis(1_795_348_800_500)))
        );
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text: String) {
            let _ = Stamp::parse(&text.into());
        }

        #[test]
        fn any_date_with_any_tail_is_survived(tail in "[-+Z:.0-9 é]{0,12}") {
            let _ = Stamp::parse(&format!("2026-11-22T03:00:20{tail}").into());
        }
    }
}
