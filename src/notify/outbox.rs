//! What waits to be told to one target: bounded, in order, and coalesced while its receiver is slow. Pure: no clock, no I/O.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use super::alert::Board;
use super::message::{Event, Message};
use super::{Kind, Target};
use crate::engine::time::Time;

/// Messages that wait for one receiver; beyond that the oldest are dropped.
pub(super) const MOST: usize = 256;
/// An attempt that takes longer shows a slow receiver: from then on the newest state of an episode replaces older ones.
const SLOW: Duration = Duration::from_secs(1);
/// Attempts for one message.
const ATTEMPTS: u32 = 20;

/// What came of messages since it was last asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) sent: u64,
    pub(super) failed: u64,
    pub(super) dropped: u64,
    pub(super) coalesced: u64,
}

/// What is to be done next.
#[derive(Debug, PartialEq)]
pub(super) enum Next {
    /// This is to be told now.
    Send(Parcel),
    /// Nothing before this.
    At(Time),
    /// Nothing waits.
    Idle,
}

/// What goes out in one request.
#[derive(Debug, PartialEq)]
pub(super) enum Parcel {
    /// One message.
    Message(Box<Entry>),
    /// The states of some alerts, by their number.
    Alerts(Vec<u64>),
}

/// A message that waits, and what was tried already.
#[derive(Debug, PartialEq)]
pub(super) struct Entry {
    pub(super) message: Message,
    tried: u32,
    first: Option<Time>,
}

impl Entry {
    /// It is told only if it lasts until then.
    fn is_held(&self, now: Time) -> bool {
        self.message.not_before.is_some_and(|until| now < until)
    }
}

/// Everything that waits for one target.
#[derive(Debug)]
pub(super) struct Outbox {
    events: BTreeSet<Event>,
    retry_for: Duration,
    waiting: Waiting,
    in_flight: Option<Time>,
    troubled: bool,
    tally: Tally,
}

#[derive(Debug)]
enum Waiting {
    Messages(VecDeque<Entry>),
    Alerts(Board),
}

impl Outbox {
    pub(super) fn new(target: &Target) -> Self {
        Self {
            events: target.events.clone(),
            retry_for: target.retry_for,
            waiting: match target.kind {
                Kind::Json { .. } => Waiting::Messages(VecDeque::new()),
                Kind::Alertmanager { resend } => Waiting::Alerts(Board::new(resend)),
            },
            in_flight: None,
            troubled: false,
            tally: Tally::default(),
        }
    }

    /// One more to be told, if the target is told such.
    pub(super) fn push(&mut self, message: Message, now: Time) {
        let chosen = message.event == Event::Notify || self.events.contains(&message.event);
        let slow = self.is_slow(now);
        // A rung's request that came after its episode had ended: an alert of no episode would fire for ever.
        let of_none = message.about.peer.is_some() && message.about.episode == 0;
        match &mut self.waiting {
            Waiting::Alerts(_) if of_none => {}
            Waiting::Alerts(board) if chosen || message.event.resolves() => {
                board.push(message, &mut self.tally);
            }
            Waiting::Messages(queue) if chosen && !message.again => {
                push(queue, message, slow, now, &mut self.tally);
            }
            Waiting::Alerts(_) | Waiting::Messages(_) => {}
        }
    }

    /// What is next. What is to be sent is then in flight, until [`Self::accepted`], [`Self::refused`] or
    /// [`Self::give_back`].
    pub(super) fn next(&mut self, now: Time) -> Next {
        let next = match &mut self.waiting {
            Waiting::Messages(queue) => take(queue, now),
            Waiting::Alerts(board) => board.next(now),
        };
        if matches!(next, Next::Send(_)) {
            self.in_flight = Some(now);
        }
        next
    }

    /// The receiver took it.
    pub(super) fn accepted(&mut self, parcel: Parcel) {
        (self.in_flight, self.troubled) = (None, false);
        match (&mut self.waiting, parcel) {
            (Waiting::Alerts(board), Parcel::Alerts(numbers)) => board.accepted(&numbers, &mut self.tally),
            _ => self.tally.sent += 1,
        }
    }

    /// The receiver does not want it, now or later.
    pub(super) fn refused(&mut self, parcel: &Parcel) {
        (self.in_flight, self.troubled) = (None, false);
        match (&mut self.waiting, parcel) {
            (Waiting::Alerts(board), Parcel::Alerts(numbers)) => board.refused(numbers, &mut self.tally),
            _ => self.tally.failed += 1,
        }
    }

    /// It could not be told now. True if it was given up on.
    pub(super) fn give_back(&mut self, parcel: Parcel, now: Time) -> bool {
        (self.in_flight, self.troubled) = (None, true);
        match (&mut self.waiting, parcel) {
            (Waiting::Messages(queue), Parcel::Message(entry)) => {
                give_back(queue, *entry, self.retry_for, now, &mut self.tally)
            }
            (Waiting::Alerts(board), _) => board.give_back(self.retry_for, now, &mut self.tally),
            (Waiting::Messages(_), Parcel::Alerts(_)) => false,
        }
    }

    /// Nothing more will be told; how much of it should have been. (What is held to see whether it lasts has not.)
    pub(super) fn abandon(&mut self, now: Time) -> usize {
        let left = match &mut self.waiting {
            Waiting::Messages(queue) => {
                let left = queue.iter().filter(|entry| !entry.is_held(now)).count();
                queue.clear();
                left
            }
            Waiting::Alerts(board) => board.unsent(),
        };
        self.tally.dropped += left as u64;
        left
    }

    /// How much waits.
    pub(super) fn len(&self) -> usize {
        match &self.waiting {
            Waiting::Messages(queue) => queue.len(),
            Waiting::Alerts(board) => board.unsent(),
        }
    }

    pub(super) fn tally(&mut self) -> Tally {
        std::mem::take(&mut self.tally)
    }

    pub(super) fn board(&self) -> Option<&Board> {
        match &self.waiting {
            Waiting::Alerts(board) => Some(board),
            Waiting::Messages(_) => None,
        }
    }

    fn is_slow(&self, now: Time) -> bool {
        self.troubled || self.in_flight.is_some_and(|since| now.since(since) > SLOW)
    }
}

fn push(queue: &mut VecDeque<Entry>, mut message: Message, slow: bool, now: Time, tally: &mut Tally) {
    // What was held did not last: it is not told, and those that it stood for are still missing.
    queue.retain(|entry| {
        let over = entry.message.about == message.about && entry.is_held(now);
        if over {
            message.skipped = message.skipped.saturating_add(entry.message.skipped);
        }
        !over
    });
    if slow {
        queue.retain(|entry| {
            let older = entry.message.about == message.about;
            if older {
                message.skipped = message.skipped.saturating_add(entry.message.skipped + 1);
                tally.coalesced += 1;
            }
            !older
        });
    }
    queue.push_back(Entry {
        message,
        tried: 0,
        first: None,
    });
    if queue.len() > MOST {
        coalesce(queue, tally);
    }
    if queue.len() > MOST {
        queue.pop_front();
        tally.dropped += 1;
    }
}

fn take(queue: &mut VecDeque<Entry>, now: Time) -> Next {
    let due = |entry: &Entry| !entry.is_held(now);
    if let Some(entry) = queue.iter().position(due).and_then(|at| queue.remove(at)) {
        return Next::Send(Parcel::Message(Box::new(entry)));
    }
    let first = queue.iter().filter_map(|entry| entry.message.not_before).min();
    first.map_or(Next::Idle, Next::At)
}

fn give_back(
    queue: &mut VecDeque<Entry>,
    mut entry: Entry,
    retry_for: Duration,
    now: Time,
    tally: &mut Tally,
) -> bool {
    coalesce(queue, tally);
    let newer = queue
        .iter_mut()
        .find(|newer| newer.message.about == entry.message.about);
    if let Some(newer) = newer {
        newer.message.skipped = newer.message.skipped.saturating_add(entry.message.skipped + 1);
        tally.coalesced += 1;
        return false;
    }
    entry.tried += 1;
    let first = *entry.first.get_or_insert(now);
    if entry.tried >= ATTEMPTS || now.since(first) >= retry_for {
        tally.failed += 1;
        return true;
    }
    queue.push_front(entry);
    false
}

/// Of each episode the newest state is left.
fn coalesce(queue: &mut VecDeque<Entry>, tally: &mut Tally) {
    let mut kept: VecDeque<Entry> = VecDeque::with_capacity(queue.len());
    for mut entry in std::mem::take(queue) {
        let older = kept
            .iter()
            .position(|older| older.message.about == entry.message.about)
            .and_then(|at| kept.remove(at));
        if let Some(older) = older {
            entry.message.skipped = entry.message.skipped.saturating_add(older.message.skipped + 1);
            tally.coalesced += 1;
        }
        kept.push_back(entry);
    }
    *queue = kept;
}
