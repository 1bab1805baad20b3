//! Windows of time by the wall clock: when one is open, and when that changes. Pure: it is told the time.
//!
//! Days are counted in the window's own zone, which is a fixed offset: a window of "02:00" does not move with daylight
//! saving, and no database of zones is needed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const DAY: i64 = 86_400;
/// Windows that touch each other are followed so far.
const LONGEST: i64 = 366 * DAY;

/// A day of the week.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Weekday {
    /// Monday.
    Mon,
    /// Tuesday.
    Tue,
    /// Wednesday.
    Wed,
    /// Thursday.
    Thu,
    /// Friday.
    Fri,
    /// Saturday.
    Sat,
    /// Sunday.
    Sun,
}

impl Weekday {
    /// All, from Monday on.
    pub const ALL: [Self; 7] = [
        Self::Mon,
        Self::Tue,
        Self::Wed,
        Self::Thu,
        Self::Fri,
        Self::Sat,
        Self::Sun,
    ];

    /// As written in the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Mon => "mon",
            Self::Tue => "tue",
            Self::Wed => "wed",
            Self::Thu => "thu",
            Self::Fri => "fri",
            Self::Sat => "sat",
            Self::Sun => "sun",
        }
    }

    /// Of the day that begins so many days after 1 January 1970, a Thursday.
    fn of(day: i64) -> Self {
        let index = usize::try_from((day + 3).rem_euclid(7)).unwrap_or_default();
        Self::ALL[index]
    }
}

/// A zone: seconds east of Greenwich.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Zone(i32);

/// A time of day, in seconds; 24:00 is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeOfDay(u32);

/// When a window is open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum When {
    /// Again and again. One whose end is not after its beginning ends on the next day.
    Weekly {
        /// The days on which it begins.
        days: BTreeSet<Weekday>,
        /// Its beginning.
        from: TimeOfDay,
        /// Its end.
        to: TimeOfDay,
        /// By whose clock.
        zone: Zone,
    },
    /// Once, in seconds since 1970.
    Once {
        /// Its beginning.
        from: i64,
        /// Its end; later.
        to: i64,
    },
}

/// A maintenance window: nothing is done to these peers, and everything is judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// Why, as people are told.
    pub reason: Arc<str>,
    /// Whose, by name; empty: all.
    pub peers: Arc<[Arc<str>]>,
    /// When.
    pub when: When,
}

impl Zone {
    /// `UTC`, `+02:00`, `-03:30`.
    pub fn parse(text: &str) -> Option<Self> {
        if text.eq_ignore_ascii_case("utc") {
            return Some(Self(0));
        }
        let (sign, rest) = match text.split_at_checked(1)? {
            ("+", rest) => (1, rest),
            ("-", rest) => (-1, rest),
            _ => return None,
        };
        let seconds = seconds(rest).filter(|seconds| seconds % 60 == 0)?;
        (seconds <= 14 * 3600).then_some(Self(sign * i32::try_from(seconds).ok()?))
    }
}

impl TimeOfDay {
    /// `02:30` or `02:30:15`, up to `24:00`.
    pub fn parse(text: &str) -> Option<Self> {
        seconds(text).filter(|seconds| *seconds <= 24 * 3600).map(Self)
    }

    fn seconds(self) -> i64 {
        i64::from(self.0)
    }
}

/// `hh:mm` or `hh:mm:ss`, exactly.
fn seconds(text: &str) -> Option<u32> {
    let two = |text: &str| -> Option<u32> {
        let exact = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
        exact.then(|| text.parse().ok())?
    };
    let mut parts = text.split(':');
    let (hours, minutes) = (two(parts.next()?)?, two(parts.next()?)?);
    let seconds = parts.next().map_or(Some(0), two)?;
    let exact = parts.next().is_none() && minutes < 60 && seconds < 60;
    exact.then_some(hours * 3600 + minutes * 60 + seconds)
}

/// `2026-12-24 22:00`, or with seconds, in that zone: in seconds since 1970. Exactly so: whoever writes a zone or a fraction
/// of a second into it means something else.
pub fn moment(text: &str, zone: Zone) -> Option<i64> {
    const FORM: &[u8] = b"0000-00-00 00:00:00";
    let is_of_form = |(byte, form): (u8, &u8)| match form {
        b'0' => byte.is_ascii_digit(),
        b' ' => byte == b' ' || byte == b'T',
        mark => byte == *mark,
    };
    if !matches!(text.len(), 16 | 19) || !text.bytes().zip(FORM).all(is_of_form) {
        return None;
    }
    let whole = if text.len() == "2026-12-24 22:00".len() {
        format!("{text}:00")
    } else {
        text.to_owned()
    };
    let at: SystemTime = humantime::parse_rfc3339_weak(&whole).ok()?;
    let since = at.duration_since(UNIX_EPOCH).ok()?;
    Some(i64::try_from(since.as_secs()).ok()? - i64::from(zone.0))
}

/// A moment since 1970 as RFC 3339 writes it, in UTC. What no calendar has is shown as the last moment that it has.
pub fn stamp(wall: Duration) -> String {
    let last = Duration::from_secs(253_402_300_799);
    humantime::format_rfc3339_millis(UNIX_EPOCH + wall.min(last)).to_string()
}

impl When {
    /// The end of the window that is open at `at`, if one is.
    fn end_at(&self, at: i64) -> Option<i64> {
        match self {
            Self::Once { from, to } => (*from <= at && at < *to).then_some(*to),
            Self::Weekly { days, from, to, zone } => {
                let offset = i64::from(zone.0);
                let local = at + offset;
                let today = local.div_euclid(DAY);
                let length = length(*from, *to);
                // It may have begun yesterday.
                [today - 1, today].into_iter().find_map(|day| {
                    let begins = day * DAY + from.seconds();
                    let open = days.contains(&Weekday::of(day)) && begins <= local && local < begins + length;
                    open.then_some(begins + length - offset)
                })
            }
        }
    }

    /// The next beginning after `at`, if there is one.
    fn begins_after(&self, at: i64) -> Option<i64> {
        match self {
            Self::Once { from, .. } => (at < *from).then_some(*from),
            Self::Weekly { days, from, zone, .. } => {
                let offset = i64::from(zone.0);
                let today = (at + offset).div_euclid(DAY);
                (today..=today + 7)
                    .filter(|day| days.contains(&Weekday::of(*day)))
                    .map(|day| day * DAY + from.seconds() - offset)
                    .find(|begins| *begins > at)
            }
        }
    }

    /// It lies in the past for good.
    pub fn is_over(&self, wall: Duration) -> bool {
        let at = i64::try_from(wall.as_secs()).unwrap_or(i64::MAX);
        self.end_at(at).is_none() && self.begins_after(at).is_none()
    }
}

fn length(from: TimeOfDay, to: TimeOfDay) -> i64 {
    let length = to.seconds() - from.seconds();
    if length > 0 { length } else { length + DAY }
}

impl Window {
    /// How long it will still be open, if it is at `wall` since 1970. One that ends where it begins again (each day from
    /// 00:00 to 24:00) is one.
    pub fn open_for(&self, wall: Duration) -> Option<Duration> {
        let at = i64::try_from(wall.as_secs()).ok()?;
        let mut end = self.when.end_at(at)?;
        while let Some(later) = self
            .when
            .end_at(end)
            .filter(|later| *later - at <= LONGEST && *later > end)
        {
            end = later;
        }
        let end = Duration::from_secs(u64::try_from(end).ok()?);
        Some(end.saturating_sub(wall))
    }

    /// How long until it begins, or ends, at the next.
    pub fn changes_in(&self, wall: Duration) -> Option<Duration> {
        let at = i64::try_from(wall.as_secs()).ok()?;
        let begins = self.when.begins_after(at);
        let next = self.when.end_at(at).into_iter().chain(begins).min()?;
        let next = Duration::from_secs(u64::try_from(next).ok()?);
        Some(next.saturating_sub(wall))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Duration {
        let at = humantime::parse_rfc3339(text).unwrap();
        at.duration_since(UNIX_EPOCH).unwrap()
    }

    fn weekly(days: &[Weekday], from: &str, to: &str, zone: &str) -> Window {
        window(When::Weekly {
            days: days.iter().copied().collect(),
            from: TimeOfDay::parse(from).unwrap(),
            to: TimeOfDay::parse(to).unwrap(),
            zone: Zone::parse(zone).unwrap(),
        })
    }

    fn window(when: When) -> Window {
        Window {
            reason: "x".into(),
            peers: Arc::default(),
            when,
        }
    }

    fn minutes_left(window: &Window, text: &str) -> Option<u64> {
        window.open_for(at(text)).map(|left| left.as_secs() / 60)
    }

    #[test]
    fn a_week_knows_its_days() {
        // 27 November 2026 is a Friday.
        let fridays = weekly(&[Weekday::Fri], "05:00", "06:00", "UTC");
        assert_eq!(minutes_left(&fridays, "2026-11-27T05:00:00Z"), Some(60));
        assert_eq!(minutes_left(&fridays, "2026-11-27T05:59:00Z"), Some(1));
        for closed in [
            "2026-11-27T04:59:59Z",
            "2026-11-27T06:00:00Z",
            "2026-11-26T05:30:00Z",
        ] {
            assert_eq!(minutes_left(&fridays, closed), None, "{closed}");
        }
        let in_a_week = fridays.changes_in(at("2026-11-27T06:00:00Z")).unwrap();
        assert_eq!(in_a_week, Duration::from_secs(7 * 86_400 - 3600));
        assert_eq!(
            fridays.changes_in(at("2026-11-27T05:30:00Z")),
            Some(Duration::from_secs(1800))
        );
    }

    #[test]
    fn a_night_belongs_to_the_day_on_which_it_begins() {
        let nights = weekly(&[Weekday::Sun], "22:00", "04:00", "UTC");
        assert_eq!(minutes_left(&nights, "2026-11-29T23:00:00Z"), Some(300));
        assert_eq!(minutes_left(&nights, "2026-11-30T03:59:00Z"), Some(1));
        assert_eq!(minutes_left(&nights, "2026-11-30T23:00:00Z"), None, "Monday's");
        assert_eq!(minutes_left(&nights, "2026-11-29T03:00:00Z"), None, "Saturday's");
    }

    #[test]
    fn days_are_those_of_the_zone() {
        let east = weekly(&[Weekday::Mon], "01:00", "03:00", "+05:30");
        // Monday 01:00 there is Sunday 19:30 here.
        assert_eq!(minutes_left(&east, "2026-11-29T19:30:00Z"), Some(120));
        assert_eq!(minutes_left(&east, "2026-11-29T19:29:59Z"), None);
        let west = weekly(&[Weekday::Sun], "23:00", "24:00", "-03:00");
        assert_eq!(minutes_left(&west, "2026-11-30T02:15:00Z"), Some(45));
    }

    #[test]
    fn windows_that_touch_are_one() {
        let always = weekly(&Weekday::ALL, "00:00", "24:00", "UTC");
        let left = minutes_left(&always, "2026-11-27T05:00:00Z").unwrap();
        assert!(left > 300 * 24 * 60, "{left}");
        let weekend = weekly(&[Weekday::Sat, Weekday::Sun], "00:00", "24:00", "UTC");
        assert_eq!(minutes_left(&weekend, "2026-11-28T00:00:00Z"), Some(48 * 60));
        let whole_day = weekly(&[Weekday::Fri], "06:00", "06:00", "UTC");
        assert_eq!(minutes_left(&whole_day, "2026-11-28T05:59:00Z"), Some(1));
    }

    #[test]
    fn once_is_once() {
        let zone = Zone::parse("+01:00").unwrap();
        let [from, to] = ["2026-12-24 22:00", "2026-12-27 06:00"].map(|text| moment(text, zone).unwrap());
        let once = window(When::Once { from, to });
        assert_eq!(minutes_left(&once, "2026-12-24T21:00:00Z"), Some(56 * 60));
        assert_eq!(minutes_left(&once, "2026-12-24T20:59:59Z"), None);
        assert!(!once.when.is_over(at("2026-11-27T00:00:00Z")));
        assert!(once.when.is_over(at("2026-12-27T05:00:00Z")));
        assert_eq!(once.changes_in(at("2026-12-27T05:00:00Z")), None);
    }

    #[test]
    fn a_moment_that_no_calendar_has_is_shown_as_the_last_that_it_has() {
        assert_eq!(stamp(Duration::ZERO), "1970-01-01T00:00:00.000Z");
        assert_eq!(stamp(Duration::MAX), "9999-12-31T23:59:59.000Z");
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "",
            "2",
            "2:00",
            "02:60",
            "24:01",
            "99:99",
            "+1:00",
            "02:00:60",
            "ab:cd",
            "٠٢:٠٠",
        ] {
            assert_eq!(TimeOfDay::parse(text), None, "{text}");
        }
        for text in ["", "CET", "+1", "+15:00", "01:00", "Europe/Berlin", "+é"] {
            assert_eq!(Zone::parse(text), None, "{text}");
        }
        for text in [
            "2026-13-01 00:00",
            "2026-12-24",
            "24.12.2026 22:00",
            "1960-01-01 00:00",
            "2026-12-24 22:00Z",
            "2026-12-24T22:00:00Z",
            "2026-12-24 22:00:00.5",
            "2026-12-24 22:00:00+01:00",
            "2026-12-24 22:00+01",
            "2026-12-24 22.00",
        ] {
            assert_eq!(moment(text, Zone::default()), None, "{text}");
        }
    }
}
