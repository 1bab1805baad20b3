//! Mass silence: too many remote peers turn suspect together for it to be their own doing.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use super::event::PeerId;
use super::settings::BreakerSettings;
use super::time::Time;

/// The breaker. Counts silent *remote* peers only: what a peer's own process says is never the network's doing.
#[derive(Clone, Debug)]
pub(super) struct Breaker {
    settings: BreakerSettings,
    /// Silent now, and since when.
    silent: BTreeMap<PeerId, Time>,
    /// The same, by time, as long as it lies within the window.
    recent: BTreeSet<(Time, PeerId)>,
    /// Remote peers that have been alive and did not leave.
    expected: BTreeSet<PeerId>,
    tripped: Option<Tripped>,
}

#[derive(Clone, Copy, Debug)]
struct Tripped {
    since: Time,
    /// When the next canary may be healed.
    canary_at: Time,
    canary: Option<PeerId>,
    /// Since when too few are silent for it to be mass silence. It ends a whole window later: a member that
    /// flickers must neither end it nor start the canary's wait anew.
    below_since: Option<Time>,
}

/// What a change did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flip {
    Tripped { silent: u32, of: u32 },
    Ended,
}

impl Breaker {
    pub(super) fn new(settings: BreakerSettings) -> Self {
        Self {
            settings,
            silent: BTreeMap::new(),
            recent: BTreeSet::new(),
            expected: BTreeSet::new(),
            tripped: None,
        }
    }

    /// Other bounds from now on.
    pub(super) fn configure(&mut self, settings: BreakerSettings) {
        self.settings = settings;
    }

    /// It gave proof of life.
    pub(super) fn alive(&mut self, peer: PeerId, now: Time) -> Option<Flip> {
        self.expected.insert(peer);
        self.no_longer_silent(peer);
        self.look(now)
    }

    /// It fell silent, and nothing explains it.
    pub(super) fn silent(&mut self, peer: PeerId, now: Time) -> Option<Flip> {
        self.expected.insert(peer);
        if let Entry::Vacant(place) = self.silent.entry(peer) {
            place.insert(now);
            self.recent.insert((now, peer));
        }
        self.look(now)
    }

    /// Its silence is explained (goodbye, drain, proven exit), or nothing can be said of it now.
    pub(super) fn explained(&mut self, peer: PeerId, now: Time) -> Option<Flip> {
        self.no_longer_silent(peer);
        self.look(now)
    }

    /// It left for good: it is neither silent nor expected. If mass silence rested on it, that is over at once.
    pub(super) fn left(&mut self, peer: PeerId, now: Time) -> Option<Flip> {
        let member = self.silent.contains_key(&peer);
        self.expected.remove(&peer);
        self.no_longer_silent(peer);
        self.canary_over(peer);
        let flip = self.look(now);
        if member && self.tripped.is_some_and(|tripped| tripped.below_since.is_some()) {
            self.tripped = None;
            return Some(Flip::Ended);
        }
        flip
    }

    /// Time passed.
    pub(super) fn tick(&mut self, now: Time) -> Option<Flip> {
        self.tripped.and_then(|_| self.look(now))
    }

    fn no_longer_silent(&mut self, peer: PeerId) {
        if let Some(since) = self.silent.remove(&peer) {
            self.recent.remove(&(since, peer));
        }
    }

    fn look(&mut self, now: Time) -> Option<Flip> {
        let horizon = now - self.settings.window;
        while let Some((since, peer)) = self.recent.first().copied()
            && since < horizon
        {
            self.recent.remove(&(since, peer));
        }
        let Some(mut tripped) = self.tripped else {
            // Who has been silent for longer than a window is no part of what happens now.
            let silent = self.recent.len();
            let of = (self.expected.len() + silent).saturating_sub(self.silent.len());
            if !self.is_mass(silent, of) {
                return None;
            }
            let canary_at = now + self.settings.canary_after;
            self.tripped = Some(Tripped {
                since: now,
                canary_at,
                canary: None,
                below_since: None,
            });
            return Some(Flip::Tripped {
                silent: count(silent),
                of: count(of),
            });
        };
        if self.is_mass(self.silent.len(), self.expected.len()) {
            tripped.below_since = None;
        } else {
            let since = *tripped.below_since.get_or_insert(now);
            if now.since(since) >= self.settings.window {
                self.tripped = None;
                return Some(Flip::Ended);
            }
        }
        self.tripped = Some(tripped);
        None
    }

    fn is_mass(&self, silent: usize, of: usize) -> bool {
        let share = of * usize::from(self.settings.percent) / 100;
        let bound = share.max(self.settings.min as usize);
        (of >= 2 && silent == of) || silent > bound
    }

    /// May `peer` be healed as far as the breaker is concerned? If not: when that may change.
    pub(super) fn permits(&self, peer: PeerId, now: Time) -> Result<(), Option<Time>> {
        let Some(tripped) = self.tripped else {
            return Ok(());
        };
        if !self.silent.contains_key(&peer) {
            return Ok(());
        }
        match tripped.canary {
            Some(canary) if canary == peer => Ok(()),
            Some(_) => Err(None),
            None if now >= tripped.canary_at => Ok(()),
            None => Err(Some(tripped.canary_at)),
        }
    }

    /// `peer` is being healed. If mass silence holds, it is the canary.
    pub(super) fn healing(&mut self, peer: PeerId) {
        if self.silent.contains_key(&peer)
            && let Some(tripped) = &mut self.tripped
        {
            tripped.canary = Some(peer);
        }
    }

    /// Its episode is over: if it was the canary, the next one need not wait. (Its first sign of life is no proof.)
    pub(super) fn canary_over(&mut self, peer: PeerId) {
        if let Some(tripped) = &mut self.tripped
            && tripped.canary == Some(peer)
        {
            tripped.canary = None;
        }
    }

    /// The remedy did not bring `peer` back. The next canary waits as long as the first one did.
    pub(super) fn healing_failed(&mut self, peer: PeerId, now: Time) {
        if let Some(tripped) = &mut self.tripped
            && tripped.canary == Some(peer)
        {
            tripped.canary = None;
            tripped.canary_at = now + self.settings.canary_after;
        }
    }

    /// Mass silence holds.
    pub(super) fn is_tripped(&self) -> bool {
        self.tripped.is_some()
    }

    /// Since when it holds, who is silent, who is the canary, when there may be one.
    pub(super) fn tripped(&self) -> Option<(Time, Vec<PeerId>, Option<PeerId>, Time)> {
        let tripped = self.tripped?;
        Some((
            tripped.since,
            self.silent.keys().copied().collect(),
            tripped.canary,
            tripped.canary_at,
        ))
    }
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(secs: u64) -> Time {
        Time::from_origin(Duration::from_secs(secs))
    }

    fn breaker(peers: u32) -> Breaker {
        let mut breaker = Breaker::new(BreakerSettings::default());
        for peer in 0..peers {
            assert_eq!(breaker.alive(PeerId(peer), at(0)), None);
        }
        breaker
    }

    #[test]
    fn one_remote_peer_never_trips_it() {
        let mut breaker = breaker(1);
        assert_eq!(breaker.silent(PeerId(0), at(1)), None);
        assert_eq!(breaker.permits(PeerId(0), at(1)), Ok(()));
    }

    #[test]
    fn both_of_two_trip_it_and_a_quiet_window_ends_it() {
        let mut breaker = breaker(2);
        assert_eq!(breaker.silent(PeerId(0), at(1)), None);
        assert_eq!(
            breaker.silent(PeerId(1), at(30)),
            Some(Flip::Tripped { silent: 2, of: 2 })
        );
        assert_eq!(breaker.permits(PeerId(0), at(31)), Err(Some(at(330))));
        assert_eq!(
            breaker.alive(PeerId(0), at(40)),
            None,
            "not at its first sign of life"
        );
        assert_eq!(breaker.tick(at(99)), None);
        assert_eq!(breaker.tick(at(100)), Some(Flip::Ended));
        assert_eq!(breaker.permits(PeerId(1), at(101)), Ok(()));
    }

    #[test]
    fn who_is_dead_for_long_is_no_part_of_it() {
        let mut breaker = breaker(3);
        breaker.silent(PeerId(2), at(1));
        breaker.silent(PeerId(0), at(1_000));
        assert_eq!(
            breaker.silent(PeerId(1), at(1_001)),
            Some(Flip::Tripped { silent: 2, of: 2 })
        );
    }

    #[test]
    fn suspicions_a_window_apart_are_not_together() {
        let mut breaker = breaker(2);
        assert_eq!(breaker.silent(PeerId(0), at(1)), None);
        assert_eq!(breaker.silent(PeerId(1), at(62)), None);
    }

    #[test]
    fn three_of_sixty_are_too_many_and_goodbyes_do_not_count() {
        let mut breaker = breaker(60);
        breaker.silent(PeerId(0), at(1));
        breaker.silent(PeerId(1), at(1));
        breaker.explained(PeerId(1), at(1));
        breaker.silent(PeerId(2), at(2));
        assert_eq!(
            breaker.silent(PeerId(3), at(3)),
            None,
            "3 is not more than 5 % of 60"
        );
        assert_eq!(
            breaker.silent(PeerId(4), at(3)),
            Some(Flip::Tripped { silent: 4, of: 60 })
        );
    }

    #[test]
    fn canaries_go_one_by_one_and_a_failed_one_makes_the_next_wait() {
        let mut breaker = breaker(10);
        for peer in 0..10 {
            breaker.silent(PeerId(peer), at(1));
        }
        assert_eq!(breaker.permits(PeerId(3), at(301)), Ok(()));
        breaker.healing(PeerId(3));
        assert_eq!(
            breaker.permits(PeerId(4), at(302)),
            Err(None),
            "one canary at a time"
        );
        assert_eq!(breaker.permits(PeerId(3), at(302)), Ok(()));
        breaker.healing_failed(PeerId(3), at(310));
        assert_eq!(breaker.permits(PeerId(4), at(311)), Err(Some(at(610))));
        assert_eq!(breaker.permits(PeerId(4), at(610)), Ok(()));
        breaker.healing(PeerId(4));
        breaker.alive(PeerId(4), at(620));
        assert_eq!(
            breaker.permits(PeerId(5), at(621)),
            Err(None),
            "one sign of life is no proof"
        );
        breaker.canary_over(PeerId(4));
        assert_eq!(
            breaker.permits(PeerId(5), at(622)),
            Ok(()),
            "the canary was verified"
        );
    }

    #[test]
    fn other_bounds_hold_from_now_on() {
        let mut breaker = breaker(10);
        breaker.configure(BreakerSettings {
            min: 4,
            ..BreakerSettings::default()
        });
        for peer in 0..4 {
            assert_eq!(breaker.silent(PeerId(peer), at(1)), None);
        }
        assert_eq!(
            breaker.silent(PeerId(4), at(1)),
            Some(Flip::Tripped { silent: 5, of: 10 })
        );
    }

    #[test]
    fn forgetting_a_member_that_left_ends_it() {
        let mut breaker = breaker(3);
        for peer in 0..3 {
            breaker.silent(PeerId(peer), at(1));
        }
        assert_eq!(
            breaker.left(PeerId(0), at(2)),
            None,
            "both of the two left are still silent"
        );
        assert_eq!(breaker.left(PeerId(1), at(2)), Some(Flip::Ended));
    }

    #[test]
    fn a_goodbye_of_somebody_else_does_not_end_it() {
        let mut breaker = breaker(4);
        for peer in 0..3 {
            breaker.silent(PeerId(peer), at(1));
        }
        breaker.alive(PeerId(0), at(2));
        assert_eq!(breaker.left(PeerId(3), at(3)), None);
        assert_eq!(breaker.left(PeerId(3), at(4)), None, "and told again");
        assert!(breaker.tripped().is_some());
    }
}
