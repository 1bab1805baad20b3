//! What the world tells the engine. Edges build these; the engine alone says what they mean.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::cause::Cause;
use super::outside::{BlockersAnswer, LeaseAnswer, Reservation};
use super::peer::Liveness;
use super::settings::RemedyKind;
use super::time::Time;

/// A configured peer, as an index into [`Settings::peers`](super::settings::Settings::peers). A name keeps it for as long
/// as it is configured, whatever a reload changes beside it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PeerId(pub u32);

/// A configured check: its peer, and its index into [`PeerSettings::checks`](super::settings::PeerSettings::checks).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CheckId {
    /// Whose evidence the check gathers.
    pub peer: PeerId,
    /// Its place in the peer's list of checks.
    pub index: u16,
}

/// A configured expectation, as an index into [`Settings::expectations`](super::settings::Settings::expectations).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ExpectationId(pub u16);

/// One life of a peer. Two lives of the same peer never compare equal; nothing else is promised of the text
/// (`proc:<boot id>:<pid>:<start time>`, `ctr:<container id>:<started at>`, `unit:<InvocationID>`, `boot:<id>`,
/// `life:<boot of the node>:<n>` when only a falling `uptime_s` told them apart).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Incarnation(pub Arc<str>);

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One of the node's two connections to the bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Link {
    /// Carries the node's own heartbeats to the bus.
    Pub,
    /// Carries everybody's messages, the node's own echoes among them, back.
    Sub,
}

impl Link {
    /// Both, in the order in which they are listed everywhere.
    pub const ALL: [Self; 2] = [Self::Pub, Self::Sub];

    /// `pub` or `sub`, as in connection names, labels and messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pub => "pub",
            Self::Sub => "sub",
        }
    }
}

/// What the server on the other end of a link says it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Takes writes; the only role whose silence and messages are evidence.
    Master,
    /// A copy. Messages published to its master do not all pass through our links.
    Replica,
    /// Not told (ACL forbids asking, or a server without roles): taken for a master.
    Unknown,
}

/// The state of one link, as its own connection and in-band PING show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkStatus {
    /// Connected, greeted, (for `sub`) every channel's subscription confirmed.
    Up {
        /// Role in HELLO or ROLE at the time.
        role: Role,
        /// True on a server that is neither cluster nor proxy, where PUBLISH counts receivers truly.
        plain: bool,
    },
    /// No connection, or its PING went unanswered; a new one is being made.
    Down {
        /// What failed, in words, without secrets.
        reason: String,
    },
    /// The server answers and refuses what the node needs: NOPERM, NOAUTH, WRONGPASS, READONLY, OOM.
    Refused {
        /// What to change (the ACL rule that is missing, the variable that holds the password).
        cure: String,
    },
}

/// A heartbeat, free of its encoding. `bus/heartbeat.rs` holds the wire format.
#[derive(Clone, Debug, PartialEq)]
pub struct Heartbeat {
    /// Name of the sending node; `None` for writers that are not defib (data-acquisition sends only `uptime_s`
    /// and `wall_ts`).
    pub node: Option<Arc<str>>,
    /// Group of the sender.
    pub group: Option<Arc<str>>,
    /// Random id of this run of the sender; another id is another incarnation.
    pub boot: Option<Arc<str>>,
    /// Number of the schedule slot this beat belongs to. Skipped beats show as a gap, late ones as an old slot.
    pub slot: Option<u64>,
    /// How late the sender itself was, in milliseconds.
    pub late_ms: Option<u64>,
    /// Seconds since the sender started. Falling back means another incarnation.
    pub uptime_s: Option<f64>,
    /// The sender's planned interval in milliseconds.
    pub interval_ms: Option<u64>,
    /// The sender leaves on purpose: its silence from now on is no failure.
    pub goodbye: bool,
    /// What the sender says of the peers it watches.
    pub peers: Vec<PeerClaim>,
    /// What the sender says of peers that somebody suspects; empty while it has nothing to say of any.
    pub ballot: Ballot,
}

/// A node's votes, and whom it hears: what they are worth to somebody whom it does not hear is nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ballot {
    /// Names of nodes that the voter hears. At most [`Ballot::MAX_HEARS`]; others are named the next time.
    pub hears: Vec<Arc<str>>,
    /// At most [`Ballot::MAX_VOTES`] in [`Ballot::MAX_BYTES`]; what does not fit comes the next time.
    pub votes: Vec<Vote>,
    /// So many did not fit. If none: what is not among `votes` is withdrawn.
    pub left_out: u32,
}

impl Ballot {
    /// Most votes in one heartbeat.
    pub const MAX_VOTES: usize = 16;
    /// Most bytes of votes in one heartbeat, as written: the rest of it must fit, too.
    pub const MAX_BYTES: usize = 1536;
    /// Most names of nodes that are heard, in one heartbeat.
    pub const MAX_HEARS: usize = 64;
}

/// A node's word about something that it, or another one, suspects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vote {
    /// What was listened to: `node:NAME`, `channel:NAME`, or `claim:NODE/PEER`. (A peer's name is each
    /// configuration's own.)
    pub about: Arc<str>,
    /// `suspect` or `dead`: silent to the voter, covered by its own echoes, or so says the peer's own node. `alive`:
    /// the voter hears it.
    pub liveness: Liveness,
    /// The life that was judged.
    pub incarnation: Option<Incarnation>,
    /// Since its last sign of life that reached the voter, in milliseconds.
    pub silent_ms: u64,
}

impl Vote {
    /// Bytes that it takes in a heartbeat, at most: its field names, a liveness, a number, a comma, and what it holds.
    pub fn written(&self) -> usize {
        const AROUND: usize = 84;
        let escaped = |text: &str| text.len() + text.matches(['"', '\\']).count();
        let life = self.incarnation.as_ref().map_or("", |life| &*life.0);
        AROUND + escaped(&self.about) + escaped(life)
    }
}

/// One entry of a heartbeat's `peers`: another node's word about a peer of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerClaim {
    /// The peer's name in the sender's configuration.
    pub name: Arc<str>,
    /// The sender's judgement.
    pub liveness: Liveness,
    /// The life that was judged.
    pub incarnation: Option<Incarnation>,
}

/// A message's content, as far as the bus edge could read it.
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    /// A well-formed heartbeat, ours or another writer's.
    Heartbeat(Heartbeat),
    /// Anything else: still life of the connection and, on a peer's own channel, of the peer.
    Opaque,
}

/// What a run of a check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The peer is as it should be.
    Pass,
    /// The peer is not, and the check knows it.
    Fail {
        /// What this failure means (`peer_stuck`, `peer_exited`, …).
        cause: Cause,
        /// In words, for people: "status 503", "stopped by a signal (state T)".
        detail: String,
    },
    /// Not as it should be, and by itself it never condemns, however often it is seen: a lock that was not extended
    /// when it should have been, and still may be. Makes the peer suspect until the next pass.
    Doubt {
        /// What it will mean if it goes on.
        cause: Cause,
        /// In words, for people.
        detail: String,
    },
    /// The measurement itself failed (403, time-out of ours, no permission): says nothing about the peer.
    Unknown {
        /// In words, for people, with the cure where there is one.
        detail: String,
    },
}

/// A check's result, with the times that decide what it may prove.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation {
    /// The check that was run.
    pub check: CheckId,
    /// When the run began: only runs begun after a remedy ended can verify it.
    pub began: Time,
    /// What it found.
    pub outcome: Outcome,
}

/// What the owner watch sees of a peer's process, container or unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OwnerSeen {
    /// Found, and it runs. Sent once for each incarnation, and again after each of the others.
    Running(Incarnation),
    /// Its end was seen, and nobody meant it: a witnessed exit.
    Exited(Incarnation),
    /// The same, and its own supervisor is bringing it back (a restart policy of Docker, `Restart=` of systemd, or a
    /// remedy of this node that has not ended): alert only, until it runs or is told as exited.
    Restarting(Incarnation),
    /// It was ended or suspended on purpose: `docker stop`, a pause, an exit that its restart policy calls success.
    /// Nothing of it is expected, judged or healed until it runs again.
    Stopped {
        /// What shows the purpose: "a stop was asked for (signal 15)".
        detail: String,
    },
    /// It cannot be looked at any more. Says nothing about it.
    Unseen {
        /// Why, in words, with the cure.
        detail: String,
    },
    /// Nothing there, and no exit was witnessed (sent once, until something appears).
    Absent {
        /// Why: "no process listens on port 9080", "pid file /run/x.pid: no such file".
        detail: String,
    },
}

/// What a peer says of itself, brought by an edge of this machine (a notify socket, a pushed beat, a file).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The check that heard it.
    pub check: CheckId,
    /// The life that says it, named as the peer's owner watch names lives; `None` if that cannot be told.
    pub life: Option<Incarnation>,
    /// Its own words, for people. They stay until others replace them, or another life begins.
    pub says: Option<Arc<str>>,
    /// What it means.
    pub word: Word,
}

/// What a [`Report`] means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word {
    /// A sign of life.
    Life {
        /// It says that it is up: that ends what it said of leaving. Any other sign of life of one that leaves says
        /// only that it has not left yet.
        up: bool,
        /// How long its silence from now on is no failure.
        next: Next,
    },
    /// It stands written that it is up, nobody knows since when: perhaps since before it said that it leaves. Ends
    /// only what this same check heard of leaving.
    Running,
    /// It says that it has failed: condemned at once, until its next sign of life.
    Failed {
        /// What that means.
        cause: Cause,
        /// In words.
        detail: String,
    },
    /// It leaves on purpose. Nothing of the peer is expected from now on, whatever the check, and an exit that
    /// follows is on purpose too: until it says that it is up, or another life appears.
    Leaving {
        /// In words.
        detail: String,
    },
    /// Only words for people; no life.
    Note,
    /// The edge cannot hear it now: its silence is not known to be silence, until `Hears` or a sign of life.
    Deaf {
        /// Why, in words.
        detail: String,
    },
    /// The edge can hear it (again): its silence counts from now on.
    Hears,
}

/// How long the silence of one that reports itself is no failure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Next {
    /// As it said before, in this life.
    #[default]
    AsBefore,
    /// As the check is configured.
    AsConfigured,
    /// It told its own time. The edge has bounded it by the configuration.
    Within {
        /// Silence of this length is suspicious.
        suspect_after: Duration,
        /// Silence of this length is death; more than `suspect_after`.
        dead_after: Duration,
    },
    /// It promises nothing, unless it has told more in this life: it lives until something else says otherwise.
    Open,
    /// It has shown that it will go on: its silence counts from now on, at the pace that it told in this life, else as
    /// the check is configured.
    Counts,
}

/// How a remedy's execution ended. Success here is only the executor's; the peer's own proof of life decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RemedyOutcome {
    /// The act was carried out.
    Acted {
        /// What was done, in words.
        detail: String,
    },
    /// The fence refused: the incarnation was no longer the one granted, or somebody else is healing it. Nothing
    /// was touched.
    Fenced {
        /// What was found instead.
        detail: String,
    },
    /// It could not be carried out, and nothing was touched (could not spawn, connection refused).
    NotActed {
        /// Why, in words.
        detail: String,
    },
    /// It was begun and went wrong (non-zero exit, time-out): the peer may have been touched.
    Failed {
        /// Why, in words.
        detail: String,
    },
}

/// What an operator asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OperatorRequest {
    /// Do nothing (still judge) for this peer, or for all.
    Pause {
        /// `None`: the whole node.
        peer: Option<PeerId>,
        /// Why, for the audit.
        reason: String,
        /// When it ends by itself; `None`: until resumed.
        lasting: Option<Duration>,
    },
    /// End a pause early.
    Resume {
        /// `None`: the pause of the whole node.
        peer: Option<PeerId>,
    },
    /// The peer left for good: close its episode, count it in no breaker, until it is heard again.
    Forget {
        /// The one that left.
        peer: PeerId,
    },
    /// Stop healing and say goodbye: the node is about to end.
    Drain,
    /// Carry out a remedy that restarts this peer, whatever it is held to be.
    Restart(Restart),
}

/// A restart that an operator asks for. Answered by one [`What::Restart`](super::decision::What::Restart).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restart {
    /// Whom.
    pub peer: PeerId,
    /// By which remedy of its ladder.
    pub rung: Which,
    /// Why the guards that yield shall yield; `None`: they shall not.
    pub force: Option<String>,
    /// By which the answer is known.
    pub number: u64,
}

/// A rung, as an operator names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The first that restarts.
    First,
    /// The one at this place, from 0.
    At(u16),
    /// The first of this kind that restarts.
    Kind(RemedyKind),
}

/// A maintenance window that is open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Why, for people.
    pub reason: Arc<str>,
    /// Whose, by name; empty: all.
    pub peers: Arc<[Arc<str>]>,
    /// How long it will still be open.
    pub lasting: Duration,
}

/// Everything that can happen to the engine.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The loop's timer fired, or nothing else did for a while.
    Tick {
        /// CLOCK_BOOTTIME minus CLOCK_MONOTONIC: only a *change* means that the machine slept.
        suspended: Duration,
    },
    /// A link changed its state, or its role was read again (also when it is still the same: a condemnation by
    /// bus evidence waits for a role read after it). A new connection is always told by a `Down` before its `Up`.
    Link {
        /// Which.
        link: Link,
        /// Its state now.
        status: LinkStatus,
    },
    /// The server took our PUBLISH of this slot.
    Published {
        /// Slot of the heartbeat.
        slot: u64,
        /// Receivers that the server counted.
        receivers: u64,
    },
    /// Our PUBLISH of this slot failed: it proves nothing about receiving.
    PublishFailed {
        /// Slot of the heartbeat.
        slot: u64,
    },
    /// A message arrived on the sub link.
    Message {
        /// Channel it came on.
        channel: Arc<str>,
        /// What could be read of it.
        body: Body,
    },
    /// Another node's latest heartbeat, asked for over HTTP. It votes, and is nobody's life on the bus.
    Answered(Heartbeat),
    /// Another node asks over HTTP what is known of `about`, a channel or a node of which it heard nothing for so long.
    Doubted {
        /// As in a [`Vote`].
        about: Arc<str>,
        /// By its clock.
        silent: Duration,
    },
    /// The sub link had to drop messages: what was not heard in between proves nothing.
    Lost {
        /// How many.
        count: u64,
    },
    /// A check finished a run.
    Observation(Observation),
    /// The peer said something of itself.
    Report(Report),
    /// The owner watch saw a change.
    Owner {
        /// Whose owner.
        peer: PeerId,
        /// What was seen.
        seen: OwnerSeen,
    },
    /// An expectation was evaluated.
    Expectation {
        /// Which.
        id: ExpectationId,
        /// Whether it is met; `None` if that could not be found out.
        met: Option<bool>,
    },
    /// An executor finished (or refused) a granted remedy.
    RemedyEnded {
        /// The fencing token of the grant.
        token: u64,
        /// How it ended.
        outcome: RemedyOutcome,
    },
    /// The blockers of a peer were asked.
    Blockers {
        /// Number of the question.
        number: u64,
        /// Whose.
        peer: PeerId,
        /// What they said.
        answer: BlockersAnswer,
    },
    /// The group was asked for leave.
    Lease {
        /// What was asked.
        reservation: Arc<Reservation>,
        /// What it said.
        answer: LeaseAnswer,
    },
    /// A maintenance window opened (or its end is another than was told), or closed. The engine knows no calendar.
    Maintenance {
        /// Its place in the configuration.
        window: u16,
        /// `None`: it is closed.
        open: Option<Opened>,
    },
    /// An operator asked for something.
    Operator {
        /// What.
        request: OperatorRequest,
        /// Who, as the admin listener knows them ("uid 0 pid 4711", "token").
        by: String,
    },
}
