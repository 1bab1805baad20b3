//! What the engine wants done. Edges carry it out; they decide nothing.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::cause::Cause;
use super::event::{Heartbeat, Incarnation, Link, PeerId};
use super::evidence::age;
use super::guards::Refusal;
use super::outside::Errand;
use super::peer::Liveness;
use super::persist::Persisted;
use super::self_trust::BusState;
use super::settings::RemedyKind;
use super::time::Time;

/// One thing to be done in the world.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// Publish this heartbeat now, on the pub link; drop it if that link is down (nothing is queued up).
    Publish(Heartbeat),
    /// Drop this link and make a new connection at once.
    ReplaceLink {
        /// Which.
        link: Link,
        /// Why.
        cause: Cause,
    },
    /// Carry out a remedy. Answered by exactly one [`Event::RemedyEnded`](super::event::Event::RemedyEnded).
    Heal(Grant),
    /// Ask the outside something, or tell it.
    Errand(Errand),
    /// Write this to the store: it differs from what was last handed out.
    Persist(Persisted),
    /// Something that people, logs, metrics and the event stream should know.
    Notice(Notice),
}

/// The permission that passed every guard: for one remedy, on one incarnation, once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Grant {
    /// Fencing token: grows with every grant of this node, also across its restarts, and where the group gives leave
    /// with every one of the group.
    pub token: u64,
    /// Who is healed.
    pub peer: PeerId,
    /// Its name.
    pub name: Arc<str>,
    /// The life that was condemned. The executor acts on no other.
    pub incarnation: Incarnation,
    /// That life's exit was witnessed: the fence is then that nothing newer has appeared.
    pub exited: bool,
    /// Rung of the ladder.
    pub rung: u16,
    /// What the rung does.
    pub kind: RemedyKind,
    /// Why.
    pub cause: Cause,
    /// Which attempt of its episode, from 1.
    pub attempt: u32,
    /// Nothing may be begun after this: the engine has taken it for lost then, and the group may have given leave to
    /// another.
    pub until: Time,
}

/// An entry of the audit: what happened, to whom, when.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Notice {
    /// Its number in this run of the node, from 1.
    pub n: u64,
    /// When.
    pub at: Time,
    /// The peer concerned, if one is.
    pub peer: Option<Arc<str>>,
    /// What.
    #[serde(flatten)]
    pub what: What,
}

/// What a [`Notice`] tells.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum What {
    /// A peer's liveness changed.
    Liveness {
        /// Before.
        from: Liveness,
        /// Now.
        to: Liveness,
        /// Why, when it is not alive.
        cause: Option<Cause>,
        /// In words.
        detail: String,
    },
    /// The node's trust in its bus changed.
    Bus {
        /// Now.
        state: BusState,
        /// In words; names the cure where there is one.
        detail: String,
    },
    /// The node was not running when it should have been.
    Stalled {
        /// For how long, in milliseconds.
        for_ms: u64,
    },
    /// Another life of the peer appeared.
    Incarnation {
        /// That life.
        incarnation: Incarnation,
    },
    /// The node that speaks for this peer said goodbye.
    Goodbye,
    /// It said that it leaves, and is still there after `leave_within`. Nothing is done about it.
    LeaveOverdue {
        /// Since it said so, in milliseconds.
        for_ms: u64,
    },
    /// An episode began.
    EpisodeOpened {
        /// Its number, unique on this node.
        episode: u64,
        /// What is held to be the cause.
        cause: Cause,
    },
    /// A guard refused (told once for each new answer, not at each asking).
    Refused {
        /// The episode.
        episode: u64,
        /// Who refused, why, and until when.
        refusal: Refusal,
    },
    /// Everything but `dry_run` permitted this remedy.
    WouldHeal {
        /// The episode.
        episode: u64,
        /// What would have been done.
        kind: RemedyKind,
        /// Why.
        cause: Cause,
    },
    /// A remedy was granted.
    Granted {
        /// The episode.
        episode: u64,
        /// Its fencing token.
        token: u64,
        /// What is done.
        kind: RemedyKind,
        /// Why.
        cause: Cause,
        /// Which attempt of the episode, from 1.
        attempt: u32,
    },
    /// A remedy's execution ended. Not yet a success.
    Acted {
        /// The episode.
        episode: u64,
        /// Its fencing token.
        token: u64,
        /// What was done.
        kind: RemedyKind,
        /// `acted`, `fenced`, `not_acted` or `failed`.
        outcome: &'static str,
        /// In words.
        detail: String,
    },
    /// A remedy that restarts nothing was answered with an exit: counted as a restart, and the next rung follows.
    ExitedInstead {
        /// The episode.
        episode: u64,
        /// The remedy's fencing token.
        token: u64,
        /// What was done.
        kind: RemedyKind,
    },
    /// The episode ended: every check that condemned the peer passes again.
    Recovered {
        /// The episode.
        episode: u64,
        /// Remedies that were carried out in it; 0 if the peer recovered by itself.
        remedies: u32,
        /// From its opening, in milliseconds.
        after_ms: u64,
    },
    /// No remedy is left to try. The peer is still watched.
    GaveUp {
        /// The episode.
        episode: u64,
        /// Remedies that were carried out in it.
        remedies: u32,
        /// In words.
        detail: String,
    },
    /// The episode ended without recovery: the peer left, or is no longer judged.
    EpisodeClosed {
        /// The episode.
        episode: u64,
        /// In words.
        detail: String,
    },
    /// Many remote peers fell silent together: all is held.
    MassSilenceTripped {
        /// How many are silent.
        silent: u32,
        /// Of how many.
        of: u32,
    },
    /// Mass silence is over.
    MassSilenceEnded,
    /// Another node of the group has our name.
    DuplicateNode {
        /// The name.
        node: Arc<str>,
    },
    /// Another configuration holds from now on.
    ConfigReloaded {
        /// Who asked.
        by: String,
        /// Who was added, removed and changed, in words.
        detail: String,
    },
    /// Another configuration was refused as a whole; the one of before holds.
    ConfigRefused {
        /// Who asked.
        by: String,
        /// Why, in words: every mistake of it.
        detail: String,
    },
    /// A maintenance window opened, or closed.
    Maintenance {
        /// It opened.
        open: bool,
        /// Why it is there.
        reason: Arc<str>,
        /// Whose it is; empty: all.
        peers: Arc<[Arc<str>]>,
        /// How long it will be open, in milliseconds; 0 if it closed.
        for_ms: u64,
    },
    /// An operator asked for a restart, and this is the answer.
    Restart {
        /// The number of the request.
        number: u64,
        /// Who asked.
        by: String,
        /// By what.
        kind: Option<RemedyKind>,
        /// Why the guards that yield should.
        force: Option<String>,
        /// `granted`, `refused` (by a guard), or `impossible`.
        outcome: &'static str,
        /// The episode in which it is done.
        episode: Option<u64>,
        /// The guard's no.
        refusal: Option<Refusal>,
        /// In words.
        detail: String,
        /// How long its execution and its proof may take together, in milliseconds.
        within_ms: u64,
    },
    /// An operator asked, and it was done.
    Operator {
        /// `pause`, `resume`, `forget` or `drain`.
        request: &'static str,
        /// Who asked.
        by: String,
        /// In words.
        detail: String,
    },
}

impl What {
    /// The event's name, as in its JSON form and in metrics.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Liveness { .. } => "liveness",
            Self::Bus { .. } => "bus",
            Self::Stalled { .. } => "stalled",
            Self::Incarnation { .. } => "incarnation",
            Self::Goodbye => "goodbye",
            Self::LeaveOverdue { .. } => "leave_overdue",
            Self::EpisodeOpened { .. } => "episode_opened",
            Self::Refused { .. } => "refused",
            Self::WouldHeal { .. } => "would_heal",
            Self::Granted { .. } => "granted",
            Self::Acted { .. } => "acted",
            Self::ExitedInstead { .. } => "exited_instead",
            Self::Recovered { .. } => "recovered",
            Self::GaveUp { .. } => "gave_up",
            Self::EpisodeClosed { .. } => "episode_closed",
            Self::MassSilenceTripped { .. } => "mass_silence_tripped",
            Self::MassSilenceEnded => "mass_silence_ended",
            Self::DuplicateNode { .. } => "duplicate_node",
            Self::ConfigReloaded { .. } => "config_reloaded",
            Self::ConfigRefused { .. } => "config_refused",
            Self::Maintenance { .. } => "maintenance",
            Self::Restart { .. } => "restart",
            Self::Operator { .. } => "operator",
        }
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Liveness {
                from,
                to,
                cause,
                detail,
            } => {
                write!(f, "{from} -> {to}")?;
                if let Some(cause) = cause {
                    write!(f, " ({cause})")?;
                }
                write!(f, ": {detail}")
            }
            Self::Bus { state, detail } => write!(f, "bus {state}: {detail}"),
            Self::Stalled { for_ms } => write!(f, "this node was stopped or starved for {for_ms} ms"),
            Self::Incarnation { incarnation } => write!(f, "new incarnation {incarnation}"),
            Self::Goodbye => f.write_str("said goodbye"),
            Self::LeaveOverdue { for_ms } => write!(
                f,
                "it said {} ago that it leaves, and is still there: its stop may hang; it is left alone",
                span(*for_ms)
            ),
            Self::EpisodeOpened { episode, cause } => write!(f, "episode {episode} opened: {cause}"),
            Self::Refused { refusal, .. } => write!(f, "held by {refusal}"),
            Self::WouldHeal { kind, cause, .. } => {
                write!(f, "dry run: would do {} for {cause}", kind.as_str())
            }
            Self::Granted {
                kind,
                cause,
                attempt,
                token,
                ..
            } => {
                write!(
                    f,
                    "{} granted for {cause} (attempt {attempt}, token {token})",
                    kind.as_str()
                )
            }
            Self::Acted {
                kind,
                outcome,
                detail,
                ..
            } => {
                write!(f, "{} {}: {detail}", kind.as_str(), outcome.replace('_', " "))
            }
            Self::ExitedInstead { kind, .. } => write!(
                f,
                "it exited after {} instead of recovering: counted as a restart",
                kind.as_str()
            ),
            Self::Recovered {
                remedies: 0,
                after_ms,
                ..
            } => {
                write!(f, "recovered by itself after {}", span(*after_ms))
            }
            Self::Recovered {
                remedies, after_ms, ..
            } => {
                write!(
                    f,
                    "recovered, proven by its own checks, after {} and {}",
                    span(*after_ms),
                    count_of(*remedies)
                )
            }
            Self::GaveUp { remedies, detail, .. } => {
                write!(f, "given up after {}: {detail}", count_of(*remedies))
            }
            Self::EpisodeClosed { detail, .. } => write!(f, "episode closed: {detail}"),
            Self::MassSilenceTripped { silent, of } => {
                write!(
                    f,
                    "{silent} of {of} remote peers fell silent together: all is held"
                )
            }
            Self::MassSilenceEnded => f.write_str("mass silence is over"),
            Self::DuplicateNode { node } => {
                write!(
                    f,
                    "another node of this group is called {node} too: give each its own `node`"
                )
            }
            Self::ConfigReloaded { by, detail } => write!(f, "configuration reloaded by {by}: {detail}"),
            Self::ConfigRefused { by, detail } => write!(
                f,
                "configuration refused, asked by {by}; the one of before holds: {detail}"
            ),
            Self::Maintenance {
                open,
                reason,
                peers,
                for_ms,
            } => {
                let whose = if peers.is_empty() {
                    "all".to_owned()
                } else {
                    peers.join(", ")
                };
                if *open {
                    let lasting = Duration::from_millis(*for_ms);
                    write!(
                        f,
                        "maintenance window opened for {}, of {whose}: {reason}",
                        age(lasting)
                    )
                } else {
                    write!(f, "maintenance window closed, of {whose}: {reason}")
                }
            }
            Self::Restart {
                by,
                kind,
                force,
                outcome,
                refusal,
                detail,
                ..
            } => {
                write!(f, "restart by {by}")?;
                if let Some(why) = force {
                    write!(f, ", forced ({why})")?;
                }
                write!(f, ": {outcome}")?;
                if let Some(kind) = kind {
                    write!(f, ", {}", kind.as_str())?;
                }
                match refusal {
                    Some(refusal) => write!(f, ": {refusal}"),
                    None => write!(f, ": {detail}"),
                }
            }
            Self::Operator { request, by, detail } => write!(f, "{request} by {by}: {detail}"),
        }
    }
}

fn count_of(remedies: u32) -> String {
    match remedies {
        1 => "1 remedy".to_owned(),
        _ => format!("{remedies} remedies"),
    }
}

fn span(ms: u64) -> String {
    if ms < 1000 {
        format!("{ms} ms")
    } else {
        format!("{}.{} s", ms / 1000, ms % 1000 / 100)
    }
}
