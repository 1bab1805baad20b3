//! What the group keeps of its restarts: a model of the scripts in `src/fleet`, step for step, on the world's clock.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::engine::event::Incarnation;
use crate::engine::outside::{InTheWay, LeaseAnswer, Mark, Reservation, Settlement};
use crate::engine::time::Time;

const DAY: Duration = Duration::from_secs(86_400);
const HOUR: Duration = Duration::from_secs(3_600);

/// Whose it is: the node, its run, and the number of its question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Id {
    pub(super) node: usize,
    pub(super) run: u32,
    pub(super) number: u64,
}

impl Id {
    const fn owner(self) -> (usize, u32) {
        (self.node, self.run)
    }
}

#[derive(Clone, Copy, Debug)]
struct Record {
    until: Time,
    token: u64,
    id: Id,
}

/// Everything that is kept. `Default` is what is left after FLUSHALL.
#[derive(Clone, Debug, Default)]
pub(super) struct Ledger {
    token: u64,
    next: Option<Time>,
    down: BTreeMap<Arc<str>, Record>,
    known: BTreeMap<Arc<str>, Time>,
    budgets: BTreeMap<Arc<str>, BTreeMap<Id, Time>>,
    done: BTreeMap<(Arc<str>, Incarnation, u16), Record>,
    gone: BTreeSet<Id>,
}

impl Ledger {
    pub(super) fn take(&mut self, id: Id, asked: &Reservation, now: Time) -> LeaseAnswer {
        if self.gone.contains(&id) {
            return LeaseAnswer::Unavailable {
                why: "it was given back before it was taken".to_owned(),
                away: false,
            };
        }
        let key = (Arc::clone(&asked.known_as), asked.incarnation.clone(), asked.rung);
        let live = |record: &&Record| now < record.until;
        let mark = self.done.get(&key).filter(live).copied();
        if let Some(mark) = mark.filter(|mark| mark.id == id) {
            return LeaseAnswer::Granted { token: mark.token };
        }
        let slot = self.down.get(&asked.known_as).filter(live);
        if let Some(slot) = slot.filter(|slot| slot.id.owner() != id.owner()) {
            let why = format!("node n{} is healing it", slot.id.node);
            return refused(InTheWay::Healing, why, slot.until, now);
        }
        if let Some(mark) = mark.filter(|mark| mark.id.owner() != id.owner()) {
            let why = format!("node n{} has carried this out on this life already", mark.id.node);
            let after = Some(mark.until.since(now));
            return LeaseAnswer::Done { why, after };
        }
        if let Some(refusal) = self.over_bounds(asked, now) {
            return refusal;
        }
        if asked.only_look {
            return LeaseAnswer::Granted { token: 0 };
        }
        self.token = (self.token + 1).max(now.as_nanos() / 1_000);
        let record = Record {
            until: now + asked.lasting,
            token: self.token,
            id,
        };
        self.known.insert(Arc::clone(&asked.known_as), now + HOUR);
        self.done.insert(key, record);
        self.down.insert(Arc::clone(&asked.known_as), record);
        let budget = self.budgets.entry(Arc::clone(&asked.known_as)).or_default();
        budget.insert(id, now + asked.budget.window);
        self.next = Some(now + asked.group.spacing);
        LeaseAnswer::Granted { token: self.token }
    }

    fn over_bounds(&mut self, asked: &Reservation, now: Time) -> Option<LeaseAnswer> {
        let others = |by, why: &str, until| Some(refused(by, why.to_owned(), until, now));
        let budget = self.budgets.entry(Arc::clone(&asked.known_as)).or_default();
        budget.retain(|_, until| now < *until);
        if budget.len() >= asked.budget.count as usize {
            let first = budget.values().min().copied().unwrap_or(now);
            return others(
                InTheWay::Spent,
                "this peer's restarts are used up in the group",
                first,
            );
        }
        if let Some(next) = self.next.filter(|next| now < *next) {
            let why = "a peer of the group was restarted a moment ago";
            return others(InTheWay::Others, why, next);
        }
        self.down.retain(|_, record| now < record.until);
        self.known.retain(|_, until| now < *until);
        let mut known = self.known.len();
        if !self.known.contains_key(&asked.known_as) {
            known += 1;
        }
        let known = known.max(asked.peers as usize);
        let limit = (known * usize::from(asked.group.down_percent) / 100).max(1);
        let down = self.down.iter().filter(|(name, _)| **name != asked.known_as);
        if down.clone().count() >= limit {
            let first = down.map(|(_, record)| record.until).min().unwrap_or(now);
            let why = "other peers of the group are down by our hand";
            return others(InTheWay::Others, why, first);
        }
        None
    }

    /// True if its mark is kept from now on.
    pub(super) fn settle(&mut self, id: Id, settlement: &Settlement, now: Time) -> bool {
        let asked = &settlement.reservation;
        if settlement.over && self.down.get(&asked.known_as).is_some_and(|slot| slot.id == id) {
            self.down.remove(&asked.known_as);
        }
        let key = (Arc::clone(&asked.known_as), asked.incarnation.clone(), asked.rung);
        let mark = self.done.get_mut(&key).filter(|mark| mark.id == id);
        let kept = match (settlement.mark, mark) {
            (Mark::Keep, Some(mark)) => {
                mark.until = now + DAY;
                true
            }
            (Mark::Clear, Some(_)) => {
                self.done.remove(&key);
                false
            }
            (Mark::Leave | Mark::Keep | Mark::Clear, _) => false,
        };
        if settlement.refund {
            if let Some(budget) = self.budgets.get_mut(&asked.known_as) {
                budget.remove(&id);
            }
            self.gone.insert(id);
        }
        kept
    }

    /// Nobody but tokens survives: they go by the clock.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }
}

fn refused(by: InTheWay, why: String, until: Time, now: Time) -> LeaseAnswer {
    LeaseAnswer::Refused {
        by,
        why,
        after: Some(until.since(now)),
    }
}
