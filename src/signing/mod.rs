//! Who really said that? Signs what this node sends to its group, and tells what others sent from what was forged,
//! told again, or said in somebody else's name. A leaf: it knows keys and bytes, no bus, no peers and no judgement.
//!
//! What does not verify is refused before anybody looks at what it says. The clock is the caller's.
//!
//! What the order of messages rests on: each node numbers what it sends in one run (its boot), so that a message told
//! again is an old number, however late it comes and whatever any wall clock says. Between runs there is no such
//! number: the first message of a boot must be dated (within `window`) as this node's own wall clock is, and later than
//! what was last heard of the boot before, and be of none of the last few boots. So a wall clock that jumps while both ends
//! run changes nothing, and a recording of an earlier run is never another life.

mod heard;
mod keyring;
mod keys;
mod preflight;
mod replay;
#[cfg(test)]
mod tests;
mod wire;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::secret::Secret;
use crate::telemetry::metrics::signing::SigningMetrics;
pub use keyring::{Keyring, keep};
pub use preflight::preflight;
use replay::Memory;
use wire::Purpose;
pub use wire::ROOM;

/// How a group signs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Which keys.
    pub source: Source,
    /// How far the wall clock of a node that begins to be heard may differ from ours. Default 60 s.
    pub window: Duration,
    /// What is not signed at all is refused, too. False only while a group is being changed over. Default true.
    pub require: bool,
    /// Where it is kept who was heard last, for the next run of this node.
    pub heard: PathBuf,
}

/// Where the keys are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// One for the whole group (HMAC-SHA256): proves that a member sent it, and not which one. One key a line, of 32
    /// bytes at least; the first signs, all verify.
    Shared(Secret),
    /// One for each node (Ed25519): nobody speaks for another.
    Own {
        /// This node's private key: PKCS#8 PEM, as `openssl genpkey -algorithm ed25519` writes it.
        key: Secret,
        /// A directory with the public keys of all nodes, `NAME.pub` each: PEM, as `openssl pkey -pubout` writes it.
        trusted: PathBuf,
    },
}

/// Why a message was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Refused {
    /// It bears no signature, or not where one belongs.
    Unsigned,
    /// Its signature is not that of its key over these bytes, this channel and this group.
    BadSignature,
    /// It names a key that is not trusted.
    UnknownKey,
    /// It is signed with the key of another node than it says it is from.
    WrongIdentity,
    /// It was heard before, or is older than what was.
    Replayed,
    /// The first one of a run, and dated otherwise than our own wall clock.
    Stale,
    /// More names under one shared key, in a short time, than a group has nodes.
    TooMany,
}

impl Refused {
    /// Every reason.
    pub const ALL: [Self; 7] = [
        Self::Unsigned,
        Self::BadSignature,
        Self::UnknownKey,
        Self::WrongIdentity,
        Self::Replayed,
        Self::Stale,
        Self::TooMany,
    ];

    /// As written in labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unsigned => "unsigned",
            Self::BadSignature => "bad_signature",
            Self::UnknownKey => "unknown_key",
            Self::WrongIdentity => "wrong_identity",
            Self::Replayed => "replayed",
            Self::Stale => "stale",
            Self::TooMany => "too_many",
        }
    }

    /// In words, for logs.
    const fn means(self) -> &'static str {
        match self {
            Self::Unsigned => "it is not signed",
            Self::BadSignature => "its signature does not fit",
            Self::UnknownKey => "its key is not trusted here",
            Self::WrongIdentity => "it is signed with the key of another node",
            Self::Replayed => "it was heard before, or is older than what was",
            Self::Stale => {
                "it is the first of its run, and its date differs from our clock by more than signing.window"
            }
            Self::TooMany => "more names than a group has nodes",
        }
    }
}

/// Who a message says that it is from. Not to be believed before it is verified.
#[derive(Clone, Copy, Debug)]
pub struct Claimed<'a> {
    /// The node's name.
    pub node: Option<&'a Arc<str>>,
    /// Its run.
    pub boot: Option<&'a Arc<str>>,
}

/// This node, as its signatures name it.
#[derive(Clone, Debug)]
pub struct Own {
    /// Its name.
    pub node: Arc<str>,
    /// Its group: bound into every signature.
    pub group: Arc<str>,
    /// Its run.
    pub boot: Arc<str>,
}

/// Signs what this node sends. One for the whole node: its numbers are of one row.
#[derive(Debug)]
pub struct Signer {
    keyring: Arc<Keyring>,
    group: Arc<str>,
    sent: AtomicU64,
}

impl Signer {
    /// With whatever key the ring holds at the time.
    pub fn new(keyring: Arc<Keyring>, group: Arc<str>) -> Self {
        Self {
            keyring,
            group,
            sent: AtomicU64::new(0),
        }
    }

    /// Signs a JSON object for that channel: adds the last fields `key`, `n`, `sent_ms` and `sig`, at most [`ROOM`]
    /// bytes. `wall_ms`: now, since 1970. `None`: there is no key to sign with.
    pub fn sign(&self, channel: &str, body: Vec<u8>, wall_ms: u64) -> Option<Vec<u8>> {
        self.sign_for(Purpose::Message, channel, body, wall_ms)
    }

    /// Signs a JSON object that is written down under this prefix of keys: the same form, and none that is believed on a
    /// channel. `None`: there is no key to sign with.
    pub fn sign_record(&self, prefix: &str, body: Vec<u8>, wall_ms: u64) -> Option<Vec<u8>> {
        self.sign_for(Purpose::Record, prefix, body, wall_ms)
    }

    fn sign_for(&self, purpose: Purpose, place: &str, body: Vec<u8>, wall_ms: u64) -> Option<Vec<u8>> {
        let keys = self.keyring.current();
        let own = keys.own()?;
        let number = self.sent.fetch_add(1, Ordering::Relaxed);
        let to = (place, &*self.group);
        Some(wire::sign(own, purpose, to, body, number, wall_ms))
    }
}

/// Verifies what comes on one channel.
#[derive(Debug)]
pub struct Verifier {
    keyring: Arc<Keyring>,
    own: Own,
    channel: Arc<str>,
    require: bool,
    memory: Mutex<Memory>,
    /// What was heard elsewhere of the same numbers: nothing older is believed here.
    beside: Option<Arc<Verifier>>,
    told: Mutex<[Option<u64>; Refused::ALL.len()]>,
    metrics: SigningMetrics,
}

/// One reason is told to people this often.
const TOLD_EVERY_MS: u64 = 60_000;

impl Verifier {
    /// `own` verifies its own messages as others' are: an echo that does not is none.
    pub fn new(
        keyring: Arc<Keyring>,
        own: Own,
        channel: Arc<str>,
        settings: &Settings,
        metrics: SigningMetrics,
    ) -> Self {
        let window = u64::try_from(settings.window.as_millis()).unwrap_or(u64::MAX);
        Self {
            keyring,
            own,
            channel,
            require: settings.require,
            memory: Mutex::new(Memory::new(window)),
            beside: None,
            told: Mutex::default(),
            metrics,
        }
    }

    /// There is room for what is remembered of these, however many others were heard.
    #[must_use]
    pub fn expecting(self, nodes: impl IntoIterator<Item = Arc<str>>) -> Self {
        self.memory().expect(nodes);
        self
    }

    /// Verifies what comes another way, too. That remembers by itself what it has heard, or one way would make replays of
    /// what comes by the other; but what is older than what was heard there is none.
    #[must_use]
    pub fn beside(other: &Arc<Self>) -> Self {
        Self {
            keyring: Arc::clone(&other.keyring),
            own: other.own.clone(),
            channel: Arc::clone(&other.channel),
            require: other.require,
            memory: Mutex::new(other.memory().beside()),
            beside: Some(Arc::clone(other)),
            told: Mutex::default(),
            metrics: other.metrics.clone(),
        }
    }

    /// Whether these bytes are what that node sent, on this channel and to this group, and were not heard before.
    /// Counts and remembers. `wall_ms`: now, since 1970.
    ///
    /// # Errors
    /// If not: then nothing is remembered of it, and nothing that it says may be looked at.
    pub fn verify(&self, body: &[u8], claimed: Claimed<'_>, wall_ms: u64) -> Result<(), Refused> {
        let verified = self.judge(body, claimed, wall_ms);
        match verified {
            Ok(()) => self.metrics.verified.inc(),
            Err(refused) => {
                self.metrics.refused(refused.as_str()).inc();
                self.tell(refused, claimed, wall_ms);
            }
        }
        match verified {
            Err(Refused::Unsigned) if !self.require => Ok(()),
            verified => verified,
        }
    }

    /// The cheap questions come first: a signature takes a hundred times as long as all the others.
    fn judge(&self, body: &[u8], claimed: Claimed<'_>, wall_ms: u64) -> Result<(), Refused> {
        let signed = wire::read(body).ok_or(Refused::Unsigned)?;
        let (Some(node), Some(boot)) = (claimed.node, claimed.boot) else {
            return Err(Refused::WrongIdentity);
        };
        let keys = self.keyring.current();
        let key = keys.find(signed.key, node)?;
        // Our own run is known here, and its numbers are enough: a second node of our name (which is reported) must
        // not make us deaf.
        let ours = *node == self.own.node && *boot == self.own.boot;
        if let Some(other) = &self.beside
            && other
                .memory()
                .is_past(node, boot, signed.number, signed.sent_ms, wall_ms)
        {
            return Err(Refused::Replayed);
        }
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let heard = memory.judge(ours, node, boot, signed.number, signed.sent_ms, wall_ms)?;
        if !key.verifies(&signed, Purpose::Message, &self.channel, &self.own.group) {
            return Err(Refused::BadSignature);
        }
        memory.remember(heard);
        Ok(())
    }

    /// Whether that node wrote these bytes down under this prefix of keys. How long they hold, they say themselves: nothing
    /// is remembered, and nothing counted.
    ///
    /// # Errors
    /// If not.
    pub fn verify_record(&self, prefix: &str, body: &[u8], node: &str) -> Result<(), Refused> {
        let signed = wire::read(body).ok_or(Refused::Unsigned)?;
        let keys = self.keyring.current();
        let key = keys.find(signed.key, node)?;
        if key.verifies(&signed, Purpose::Record, prefix, &self.own.group) {
            Ok(())
        } else {
            Err(Refused::BadSignature)
        }
    }

    /// Nothing is believed that is not signed.
    pub fn requires(&self) -> bool {
        self.require
    }

    fn tell(&self, refused: Refused, claimed: Claimed<'_>, wall_ms: u64) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let last = &mut told[refused as usize];
        if last.is_some_and(|last| wall_ms.abs_diff(last) < TOLD_EVERY_MS) {
            return;
        }
        *last = Some(wall_ms);
        tracing::warn!(
            reason = refused.as_str(),
            claims_to_be = claimed.node.map_or("nobody", |node| node),
            channel = &*self.channel,
            required = self.require,
            "a message does not verify: {} (told once a minute; defib_signing_refused_total counts them)",
            refused.means()
        );
    }

    fn memory(&self) -> std::sync::MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
