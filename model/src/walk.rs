//! The walk: which choices there are in each state, and what is asked of every state.

use std::fmt::{self, Write as _};
use std::hash::{Hash, Hasher};

use stateright::{Model, Property};

use crate::oracle::Broken;
use crate::setting::Kind;
use crate::world::{Choice, Mutation, World};

/// How long a node stands still, in passes: for a moment, and longer than the group holds anything for it.
const LONG: [u8; 2] = [1, 8];

/// What makes the walk finite.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Most faults in one history.
    pub faults: u8,
    /// Length of one history, in passes.
    pub passes: u8,
    /// Only so many of the targets fail, and only so many of the nodes.
    pub targets: usize,
    pub nodes: usize,
}

#[derive(Clone, Debug)]
pub struct Walk {
    kind: Kind,
    bounds: Bounds,
    mutation: Mutation,
}

impl Walk {
    pub fn new(kind: Kind, bounds: Bounds, mutation: Mutation) -> Self {
        Self {
            kind,
            bounds,
            mutation,
        }
    }
}

/// A world and what tells it from others: everything in it, as it is written for debugging.
#[derive(Clone)]
pub struct State {
    pub world: World,
    fingerprint: u64,
}

impl State {
    fn of(world: World) -> Self {
        let mut hash = Fnv(0xcbf2_9ce4_8422_2325);
        let _ = write!(hash, "{world:?}");
        Self {
            world,
            fingerprint: hash.0,
        }
    }
}

/// FNV-1a by words of what is written.
struct Fnv(u64);

impl fmt::Write for Fnv {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for chunk in text.as_bytes().chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.0 = (self.0 ^ u64::from_le_bytes(word)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            self.0 ^= self.0 >> 32;
        }
        Ok(())
    }
}

impl Hash for State {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.fingerprint);
    }
}

impl PartialEq for State {
    fn eq(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.world.oracle)
    }
}

impl Model for Walk {
    type State = State;
    type Action = Choice;

    fn init_states(&self) -> Vec<State> {
        vec![State::of(World::settled(self.kind, self.mutation))]
    }

    fn actions(&self, state: &State, choices: &mut Vec<Choice>) {
        let world = &state.world;
        choices.push(Choice::Pass);
        if world.faults >= self.bounds.faults {
            return;
        }
        for target in 0..self.bounds.targets {
            let (ill, for_good) = world.target(target);
            if !ill {
                choices.extend([
                    Choice::Fails(target),
                    Choice::FailsForGood(target),
                    Choice::KeepsFailing(target),
                ]);
            } else if !for_good {
                choices.push(Choice::Recovers(target));
            }
            choices.push(Choice::RestartedByOthers(target));
        }
        if world.is_redis_up() {
            choices.extend([Choice::RedisAway, Choice::RedisForgets]);
            if !world.grants_anything() {
                choices.push(Choice::RedisGrantsTwice);
            }
        } else {
            choices.extend([true, false].map(|forgets| Choice::RedisBack { forgets }));
        }
        for node in (0..self.bounds.nodes).filter(|node| world.node_is_well(*node)) {
            choices.push(Choice::Loses(node));
            choices.extend(LONG.map(|passes| Choice::Pauses(node, passes)));
            choices.extend(LONG.map(|passes| Choice::PausesAtGrant(node, passes)));
        }
    }

    fn next_state(&self, state: &State, choice: Choice) -> Option<State> {
        let mut world = state.world.clone();
        world.choose(choice);
        Some(State::of(world))
    }

    fn within_boundary(&self, state: &State) -> bool {
        state.world.passes <= self.bounds.passes
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("one act a grant", |_, s: &State| holds(s, Broken::OnceAGrant)),
            Property::always("one act a rung and life", |_, s: &State| {
                holds(s, Broken::OnceARung)
            }),
            Property::always("no healthy life is touched", |_, s: &State| {
                holds(s, Broken::HealthyLife)
            }),
            Property::always("never past the local floor", |_, s: &State| {
                holds(s, Broken::LocalFloor)
            }),
            Property::always("the group's budget", |_, s: &State| holds(s, Broken::GroupBudget)),
            Property::always("nothing in an outage", |_, s: &State| holds(s, Broken::Outage)),
            Property::always("mass silence", |_, s: &State| holds(s, Broken::MassSilence)),
            Property::sometimes("healed", |_, s: &State| s.world.oracle.recovered),
            Property::sometimes("held by the group", |_, s: &State| s.world.oracle.held_by_group),
            Property::sometimes("held by the breaker", |walk: &Self, s: &State| {
                walk.kind == Kind::Local || s.world.oracle.held_by_breaker
            }),
            Property::sometimes("given up", |_, s: &State| s.world.oracle.gave_up),
        ]
    }
}

fn holds(state: &State, broken: Broken) -> bool {
    !state.world.oracle.broken.contains(&broken)
}
