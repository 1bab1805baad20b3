//! When to look at which peer again. One armed time a peer; moving it later costs nothing.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::event::PeerId;
use super::time::Time;

/// The peers' alarms.
///
/// Re-arming is lazy: life moves a deadline *later* a million times a second, so the heap keeps the earlier
/// alarm, and whoever is woken by it looks at its real deadline and arms it anew. Alarms that were overtaken by
/// an earlier one are left in the heap and dropped when they surface.
#[derive(Clone, Debug, Default)]
pub(super) struct Timers {
    heap: BinaryHeap<Reverse<(Time, PeerId)>>,
    armed: Vec<Option<Time>>,
}

impl Timers {
    pub(super) fn new(peers: usize) -> Self {
        Self {
            heap: BinaryHeap::with_capacity(peers),
            armed: vec![None; peers],
        }
    }

    /// There are so many peers from now on, not fewer than before.
    pub(super) fn make_room(&mut self, peers: usize) {
        self.armed.resize(peers.max(self.armed.len()), None);
    }

    /// Wakes `peer` at `at` at the latest.
    pub(super) fn arm(&mut self, peer: PeerId, at: Time) {
        let Some(slot) = self.armed.get_mut(peer.0 as usize) else {
            return;
        };
        if at < Time::MAX && slot.is_none_or(|armed| at < armed) {
            *slot = Some(at);
            self.heap.push(Reverse((at, peer)));
        }
    }

    /// The earliest alarm. It may turn out to be one that was overtaken: waking for it does no harm.
    pub(super) fn next(&self) -> Time {
        self.heap.peek().map_or(Time::MAX, |Reverse((at, _))| *at)
    }

    /// Takes the next alarm that is due, if one is.
    pub(super) fn pop_due(&mut self, now: Time) -> Option<PeerId> {
        let (_, peer) = self.due(now)?;
        self.heap.pop();
        *self.armed.get_mut(peer.0 as usize)? = None;
        Some(peer)
    }

    /// Moves the alarms that are due by `by` to where they belong by now, as `next` knows it, up to the first that
    /// stays: nobody need be woken by them.
    pub(super) fn postpone(&mut self, by: Time, next: impl Fn(PeerId) -> Option<Time>) {
        while let Some((at, peer)) = self.due(by)
            && let Some(later) = next(peer).filter(|later| *later > at)
        {
            self.pop_due(at);
            self.arm(peer, later);
        }
    }

    /// The next alarm that is due by `by`; those that were overtaken are dropped.
    fn due(&mut self, by: Time) -> Option<(Time, PeerId)> {
        while let Some(Reverse((at, peer))) = self.heap.peek().copied() {
            if at > by {
                return None;
            }
            if self.armed.get(peer.0 as usize) == Some(&Some(at)) {
                return Some((at, peer));
            }
            self.heap.pop();
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(secs: u64) -> Time {
        Time::from_origin(Duration::from_secs(secs))
    }

    #[test]
    fn only_the_earliest_alarm_of_a_peer_fires() {
        let mut timers = Timers::new(2);
        timers.arm(PeerId(0), at(5));
        timers.arm(PeerId(0), at(3));
        timers.arm(PeerId(0), at(4));
        timers.arm(PeerId(1), at(4));
        assert_eq!(timers.next(), at(3));
        assert_eq!(timers.pop_due(at(2)), None);
        assert_eq!(timers.pop_due(at(9)), Some(PeerId(0)));
        assert_eq!(timers.pop_due(at(9)), Some(PeerId(1)));
        assert_eq!(timers.pop_due(at(9)), None, "the overtaken alarm at 5 is gone");
        assert_eq!(timers.next(), Time::MAX);
    }

    #[test]
    fn an_alarm_is_postponed_to_where_it_belongs_and_never_lost() {
        let mut timers = Timers::new(3);
        timers.arm(PeerId(0), at(2));
        timers.arm(PeerId(1), at(3));
        timers.arm(PeerId(2), at(4));
        timers.postpone(at(5), |peer| Some(at([6, 3, 9][peer.0 as usize])));
        assert_eq!(timers.next(), at(3), "who stays, stays");
        assert_eq!(timers.pop_due(at(3)), Some(PeerId(1)));
        assert_eq!(
            timers.pop_due(at(5)),
            Some(PeerId(2)),
            "behind one that stays: not looked at"
        );
        assert_eq!(timers.pop_due(at(5)), None);
        assert_eq!(timers.pop_due(at(6)), Some(PeerId(0)));
    }

    #[test]
    fn an_alarm_at_the_end_of_time_is_none() {
        let mut timers = Timers::new(1);
        timers.arm(PeerId(0), Time::MAX);
        assert_eq!(timers.next(), Time::MAX);
        assert_eq!(timers.pop_due(Time::MAX), None);
    }
}
