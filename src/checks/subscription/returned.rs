//! Was the server away? A new connection of ours is no proof of that: `timeout` in redis.conf closes those that are
//! idle, and ours is, between two looks that are further apart. Pure.

use std::time::Duration;

use crate::engine::time::Time;

/// When the server came back, if it was ever away.
#[derive(Clone, Debug, Default)]
pub(super) struct Returned {
    connects: u64,
    id: Option<i64>,
    /// When it last listed its clients.
    listed: Option<Time>,
    at: Option<Time>,
}

/// What a look saw of the server.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    /// Connections that were made to it so far.
    pub(super) connects: u64,
    /// What it calls the one that stands: a server gives greater numbers to later ones.
    pub(super) id: Option<i64>,
    /// How long ago the first of those that it lists connected; `None`: it lists none.
    pub(super) oldest: Option<Duration>,
}

impl Returned {
    pub(super) fn see(&mut self, seen: Seen, now: Time) {
        if self.connects != seen.connects {
            if self.connects > 0 && !self.was_up(seen, now) {
                self.at = Some(now);
            }
            self.connects = seen.connects;
        }
        if seen.oldest.is_some() {
            self.listed = Some(now);
            self.id = seen.id;
        }
    }

    /// It lists a client that was there when it last did so, and numbers ours on from there: it is the same server,
    /// and was up all the time.
    fn was_up(&self, seen: Seen, now: Time) -> bool {
        let stands = |(listed, oldest): (Time, Duration)| oldest >= now.since(listed);
        let goes_on = |(before, now): (i64, i64)| now > before;
        self.listed.zip(seen.oldest).is_some_and(stands) && self.id.zip(seen.id).is_some_and(goes_on)
    }

    /// It came back less than `settle` ago.
    pub(super) fn within(&self, settle: Duration, now: Time) -> bool {
        self.at.is_some_and(|at| now.since(at) < settle)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn seen(connects: u64, id: i64, oldest: u32) -> Seen {
        Seen {
            connects,
            id: Some(id),
            oldest: Some(S * oldest),
        }
    }

    /// Listed at 10 s by the first connection, number 100; then what is seen at 20 s.
    fn then(second: Seen) -> Returned {
        let mut returned = Returned::default();
        returned.see(seen(1, 100, 5), Time::ZERO + 10 * S);
        assert!(
            !returned.within(60 * S, Time::ZERO + 10 * S),
            "the first connection"
        );
        returned.see(second, Time::ZERO + 20 * S);
        returned
    }

    #[test]
    fn a_server_that_lists_who_was_there_before_was_not_away() {
        let now = Time::ZERO + 20 * S;
        assert!(!then(seen(1, 100, 15)).within(60 * S, now), "no new connection");
        assert!(!then(seen(2, 101, 15)).within(60 * S, now));
        assert!(!then(seen(2, 101, 10)).within(60 * S, now));
        // Nobody who is listed was there then; ours counts from the beginning; it lists nobody.
        for second in [
            seen(2, 101, 9),
            seen(2, 3, 15),
            seen(2, 100, 15),
            Seen {
                oldest: None,
                ..seen(2, 101, 0)
            },
            Seen {
                id: None,
                ..seen(2, 101, 15)
            },
        ] {
            let returned = then(second);
            assert!(returned.within(60 * S, now), "{second:?}");
            assert!(returned.within(60 * S, now + 59 * S), "{second:?}");
            assert!(!returned.within(60 * S, now + 60 * S), "{second:?}");
        }
    }

    #[test]
    fn an_outage_is_remembered_over_looks_that_find_nobody() {
        let mut returned = Returned::default();
        returned.see(seen(1, 100, 5), Time::ZERO + 10 * S);
        // Down; then up, with others before us.
        returned.see(
            Seen {
                connects: 1,
                id: None,
                oldest: None,
            },
            Time::ZERO + 12 * S,
        );
        returned.see(seen(2, 200, 3), Time::ZERO + 20 * S);
        assert!(returned.within(60 * S, Time::ZERO + 20 * S));
        // Closed for being idle since: no longer an excuse than before.
        returned.see(seen(3, 201, 8), Time::ZERO + 25 * S);
        assert!(!returned.within(10 * S, Time::ZERO + 30 * S));
    }
}
