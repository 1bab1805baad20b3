//! The group's store as the nodes reach it: it answers, answers late, answers and is not heard, is away with the broker,
//! and forgets. And what must hold of the group while it remembers.

use std::sync::Arc;
use std::time::Duration;

use super::ledger::Id;
use super::node::Arrival;
use super::world::{Happening, MS, S, World};
use crate::engine::event::{Event, Incarnation};
use crate::engine::outside::{Errand, LeaseAnswer, Mark, Reservation, Settlement};
use crate::engine::time::Time;

/// How long an edge waits for the store.
const CALL: Duration = Duration::from_secs(2);
/// What could not be settled is tried again for so long.
const RETRIED: Duration = Duration::from_secs(600);

/// A request on its way to the store.
#[derive(Clone, Debug)]
pub(super) struct Request {
    node: usize,
    run: u32,
    what: Asked,
    /// Somebody still listens for the answer.
    heard: bool,
    since: Time,
}

#[derive(Clone, Debug)]
enum Asked {
    Reserve(Arc<Reservation>),
    Settle(Settlement),
}

/// Leave that was given, as the world knows it.
#[derive(Clone, Debug)]
pub(super) struct Given {
    id: Id,
    token: u64,
    name: Arc<str>,
    life: Incarnation,
    rung: u16,
    /// Of the store: until then it is at most held.
    until: Time,
    counts_until: Time,
    granted: bool,
    kept: bool,
    over: bool,
    refunded: bool,
}

impl World {
    pub(super) fn run_errand(&mut self, node: usize, errand: Errand) {
        let (run, since) = (self.nodes[node].run, self.now);
        let request = |what, heard| Request {
            node,
            run,
            what,
            heard,
            since,
        };
        match errand {
            Errand::AskBlockers { .. } => {}
            Errand::Settle(settlement) => {
                let within = self.rng.millis(1, 20);
                self.after(
                    within,
                    Happening::AtStore(request(Asked::Settle(settlement), false)),
                );
            }
            Errand::Reserve(reservation) => {
                let asked = Asked::Reserve(Arc::clone(&reservation));
                let (arrives, heard) = match self.rng.below(20) {
                    _ if self.calm => (Some(5 * MS), true),
                    // Lost on the way there, on the way back, and late.
                    0 => (None, false),
                    1 => (Some(5 * MS), false),
                    2 => (Some(self.rng.millis(2_000, 15_000)), false),
                    _ => (Some(self.rng.millis(1, 20)), true),
                };
                if let Some(after) = arrives {
                    self.after(after, Happening::AtStore(request(asked, heard)));
                }
                if !heard {
                    self.no_answer(node, reservation);
                }
            }
        }
    }

    fn no_answer(&mut self, node: usize, reservation: Arc<Reservation>) {
        let answer = LeaseAnswer::Unavailable {
            why: "no answer within 2000 ms".to_owned(),
            away: true,
        };
        self.deliver_to(node, CALL, Arrival::of(Event::Lease { reservation, answer }));
    }

    pub(super) fn at_store(&mut self, request: Request) {
        let Request { node, run, .. } = request;
        let lives = self.nodes[node].run == run && self.nodes[node].engine.is_some();
        match request.what.clone() {
            // What was sent arrives, whatever has become of its sender.
            Asked::Reserve(reservation) => {
                if !self.broker.is_well() {
                    if request.heard {
                        self.no_answer(node, reservation);
                    }
                    return;
                }
                let id = Id {
                    node,
                    run,
                    number: reservation.number,
                };
                let answer = self.ledger.take(id, &reservation, self.now);
                if let LeaseAnswer::Granted { token } = answer {
                    self.given(id, token, &reservation);
                }
                if request.heard {
                    let within = self.rng.millis(1, 20);
                    self.deliver_to(node, within, Arrival::of(Event::Lease { reservation, answer }));
                }
            }
            Asked::Settle(_) if !self.broker.is_well() => {
                if lives && self.now.since(request.since) < RETRIED {
                    self.after(S, Happening::AtStore(request));
                }
            }
            Asked::Settle(settlement) => {
                // (Which may be of an earlier run.)
                let of = settlement.reservation.run.rsplit('-').next();
                let id = Id {
                    node,
                    run: of.and_then(|of| of.parse().ok()).unwrap_or(run),
                    number: settlement.reservation.number,
                };
                let kept = self.ledger.settle(id, &settlement, self.now);
                for given in self.oracle.given.iter_mut().filter(|given| given.id == id) {
                    given.kept |= kept;
                    given.kept &= settlement.mark != Mark::Clear;
                    given.over |= settlement.over;
                    given.refunded |= settlement.refund;
                }
            }
        }
    }

    fn given(&mut self, id: Id, token: u64, asked: &Reservation) {
        if token == 0 || self.oracle.given.iter().any(|given| given.token == token) {
            return;
        }
        self.oracle.given.push(Given {
            id,
            token,
            name: Arc::clone(&asked.name),
            life: asked.incarnation.clone(),
            rung: asked.rung,
            until: self.now + asked.lasting,
            counts_until: self.now + asked.budget.window,
            granted: false,
            kept: false,
            over: false,
            refunded: false,
        });
    }

    pub(super) fn forget_store(&mut self) {
        if !self.calm {
            self.tell("the store forgets everything");
            *self.faults.entry("store_forgets").or_default() += 1;
            self.ledger.forget();
            self.oracle.given.clear();
            self.oracle.forgot = Some(self.now);
        }
        let next = self.rng.millis(60_000, 600_000);
        self.after(next, Happening::Forget);
    }

    /// `fleet_unasked`, `fleet_two_healers`, `fleet_repeated`, `fleet_budget`: a grant of what restarts has leave, of which
    /// there is one at a time for a peer, one for a rung of a life, and as many as its budget in all.
    pub(super) fn check_leave(&mut self, node: usize, peer: usize, token: u64) {
        let settings = &self.nodes[node].settings;
        if !settings.fleet_asks || settings.dry_run {
            return;
        }
        let (budget, now) = (settings.peers[peer].budget, self.now);
        let mine = self.oracle.given.iter().position(|given| given.token == token);
        let Some(mine) = mine else {
            // The store forgot between its word and the grant.
            if self.oracle.forgot.is_none_or(|at| now.since(at) > 3 * S) {
                let detail = format!("token {token} was given by nobody");
                self.violate(node, "fleet_unasked", detail);
            }
            return;
        };
        let twice = std::mem::replace(&mut self.oracle.given[mine].granted, true);
        let mine = self.oracle.given[mine].clone();
        let of_peer = || {
            let others = self.oracle.given.iter();
            others.filter(|given| given.name == mine.name && given.id != mine.id && given.granted)
        };
        let elsewhere = |given: &&Given| (given.id.node, given.id.run) != (mine.id.node, mine.id.run);
        let healing = of_peer()
            .filter(elsewhere)
            .find(|given| !given.over && now < given.until);
        let same = |given: &&Given| given.life == mine.life && given.rung == mine.rung;
        let repeated = of_peer().filter(elsewhere).filter(same).find(|given| given.kept);
        let spent = of_peer().filter(|given| !given.refunded && now < given.counts_until);
        let (healing, repeated) = (healing.cloned(), repeated.cloned());
        let spent = spent.count();
        if twice {
            self.violate(node, "fleet_unasked", format!("leave {token} was used twice"));
        }
        if let Some(other) = healing {
            let detail = format!("{}: n{} heals it until {}", mine.name, other.id.node, other.until);
            self.violate(node, "fleet_two_healers", detail);
        }
        if let Some(other) = repeated {
            let detail = format!(
                "{}: n{} did this to {} before",
                mine.name, other.id.node, mine.life
            );
            self.violate(node, "fleet_repeated", detail);
        }
        if spent >= budget.count as usize {
            let detail = format!("{}: {spent} restarts of {} in the group", mine.name, budget.count);
            self.violate(node, "fleet_budget", detail);
        }
    }
}
