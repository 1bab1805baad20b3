//! The wire format of heartbeats: JSON, at most [`MAX_BYTES`], unknown fields ignored.
//!
//! Everything read here comes from whoever can reach the bus. What is bounded: the size of a body, the length
//! and the characters of names (they end up in logs and on terminals), the number of claims. `wall_ts` is
//! written for others and never read for a judgement.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use serde::de::{self, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

use crate::engine::event::{Ballot, Body, Heartbeat, Incarnation, PeerClaim, Vote};
use crate::engine::peer::Liveness;

/// Largest body in bytes, written or read. A longer one is not parsed.
pub const MAX_BYTES: usize = 4096;
/// Longest name (of a node, a group, a boot, a peer, an incarnation) in bytes.
pub const MAX_NAME_BYTES: usize = 253;
/// Most claims about peers that are read from one heartbeat; what follows is ignored.
pub const MAX_CLAIMS: usize = 128;

/// Bytes of `hears` that are written at most: votes and claims must fit, too.
const HEARS_BYTES: usize = 1024;

/// Version of the format; written as `v`, not asked for.
const VERSION: u32 = 1;
/// Above this (317 years) an uptime is nonsense and taken for not told.
const MAX_UPTIME_S: f64 = 1e10;

/// Why a body is no heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unreadable {
    /// Nothing in it.
    Empty,
    /// More than [`MAX_BYTES`].
    TooBig,
    /// Not UTF-8.
    NotUtf8,
    /// Not JSON, or cut off.
    NotJson,
    /// A field of ours with a value that cannot be: a slot of -1, a name of a kilobyte or with control
    /// characters in it, `peers` that are no list.
    BadField,
    /// JSON, but no object with a usable `uptime_s` or with `wall_ts`.
    NotAHeartbeat,
}

impl Unreadable {
    /// Every reason.
    pub const ALL: [Self; 6] = [
        Self::Empty,
        Self::TooBig,
        Self::NotUtf8,
        Self::NotJson,
        Self::BadField,
        Self::NotAHeartbeat,
    ];

    /// As written in labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::TooBig => "too_big",
            Self::NotUtf8 => "not_utf8",
            Self::NotJson => "not_json",
            Self::BadField => "bad_field",
            Self::NotAHeartbeat => "not_a_heartbeat",
        }
    }
}

/// Writes a heartbeat: at most [`MAX_BYTES`], whatever is in it.
///
/// Claims that do not fit are left out and counted in `peers_left_out`; which ones changes from slot to slot,
/// so that none is left out for ever. Votes and names of nodes that are heard come before them, in the order given, up
/// to bounds of their own. `wall_ts` is the sender's wall clock in seconds, for display.
pub fn encode(heartbeat: &Heartbeat, wall_ts: f64) -> Vec<u8> {
    encode_within(heartbeat, wall_ts, MAX_BYTES)
}

/// The same in `max` bytes, for what is to be signed.
pub fn encode_within(heartbeat: &Heartbeat, wall_ts: f64, max: usize) -> Vec<u8> {
    let mut wire = Written {
        v: VERSION,
        node: usable(heartbeat.node.as_deref()),
        group: usable(heartbeat.group.as_deref()),
        boot: usable(heartbeat.boot.as_deref()),
        slot: heartbeat.slot,
        late_ms: heartbeat.late_ms,
        uptime_s: heartbeat.uptime_s.filter(|uptime| uptime.is_finite()),
        wall_ts,
        interval_ms: heartbeat.interval_ms,
        goodbye: heartbeat.goodbye,
        hears: fitting(&heartbeat.ballot.hears, HEARS_BYTES, |name| usable(Some(name))),
        votes: fitting(&heartbeat.ballot.votes, Ballot::MAX_BYTES, WrittenVote::of),
        votes_left_out: 0,
        peers: Vec::new(),
        peers_left_out: heartbeat.peers.len(),
    };
    wire.hears.truncate(Ballot::MAX_HEARS);
    wire.votes.truncate(Ballot::MAX_VOTES);
    let votes_left_out = heartbeat.ballot.votes.len() - wire.votes.len();
    wire.votes_left_out =
        (votes_left_out.saturating_add(heartbeat.ballot.left_out as usize)).min(u32::MAX as usize);
    let mut room = max.saturating_sub(to_json(&wire).len() + r#","peers":[]"#.len());
    let count = heartbeat.peers.len();
    let first = match heartbeat.slot {
        Some(slot) if count > 0 && claims_size(&heartbeat.peers) > room => {
            usize::try_from(slot).unwrap_or(0).wrapping_mul(7) % count
        }
        _ => 0,
    };
    for claim in heartbeat.peers.iter().cycle().skip(first).take(count) {
        let size = claim_size(claim);
        if usable(Some(&claim.name)).is_some() && size <= room && wire.peers.len() < MAX_CLAIMS {
            room -= size;
            wire.peers.push(WrittenClaim::from(claim));
        }
    }
    wire.peers_left_out = count - wire.peers.len();
    to_json(&wire)
}

/// What a body is to the engine: a heartbeat, or something else that came over the connection.
pub fn decode(body: &[u8]) -> Body {
    read(body).map_or(Body::Opaque, Body::Heartbeat)
}

/// Reads a heartbeat, or says why the body is none.
pub fn read(body: &[u8]) -> Result<Heartbeat, Unreadable> {
    read_with(body, |name| Arc::from(name))
}

/// The same; `share` makes the names that it holds.
fn read_with(body: &[u8], mut share: impl FnMut(&str) -> Arc<str>) -> Result<Heartbeat, Unreadable> {
    if body.is_empty() {
        return Err(Unreadable::Empty);
    }
    if body.len() > MAX_BYTES {
        return Err(Unreadable::TooBig);
    }
    let text = std::str::from_utf8(body).map_err(|_| Unreadable::NotUtf8)?;
    if !text.trim_start().starts_with('{') {
        // serde would read an array as the fields in order.
        return Err(match serde_json::from_str::<IgnoredAny>(text) {
            Ok(_) => Unreadable::NotAHeartbeat,
            Err(_) => Unreadable::NotJson,
        });
    }
    let read: Read<'_> = serde_json::from_str(text).map_err(|error| match error.classify() {
        serde_json::error::Category::Data => Unreadable::BadField,
        _ => Unreadable::NotJson,
    })?;
    let uptime_s = read
        .uptime_s
        .filter(|uptime| (0.0..=MAX_UPTIME_S).contains(uptime));
    if uptime_s.is_none() && read.wall_ts.is_none() {
        return Err(Unreadable::NotAHeartbeat);
    }
    Ok(Heartbeat {
        node: read.node.map(|name| share(&name.0)),
        group: read.group.map(|name| share(&name.0)),
        boot: read.boot.map(|name| share(&name.0)),
        slot: read.slot,
        late_ms: read.late_ms,
        uptime_s,
        interval_ms: read.interval_ms,
        goodbye: read.goodbye,
        peers: read
            .peers
            .0
            .into_iter()
            .map(|claim| claim.shared(&mut share))
            .collect(),
        ballot: Ballot {
            hears: read.hears.0.into_iter().map(|name| share(&name.0)).collect(),
            votes: read
                .votes
                .0
                .into_iter()
                .filter_map(|vote| vote.shared(&mut share))
                .collect(),
            left_out: read.votes_left_out,
        },
    })
}

/// Reads heartbeats of the same senders again and again: names that were read before are shared, not copied.
#[derive(Debug)]
pub(super) struct Reader {
    /// Each name has one place, by [`place_of`]; who comes there puts out who was there. So nobody on the bus can
    /// make it grow, or cost more than copies do.
    names: Vec<Option<Arc<str>>>,
}

/// Names that a [`Reader`] may remember: a power of two.
const REMEMBERED: usize = 1024;

impl Reader {
    pub(super) fn new() -> Self {
        Self {
            names: vec![None; REMEMBERED],
        }
    }

    /// As [`read`].
    pub(super) fn read(&mut self, body: &[u8]) -> Result<Heartbeat, Unreadable> {
        read_with(body, |name| {
            let remembered = &mut self.names[place_of(name)];
            match remembered {
                Some(known) if **known == *name => Arc::clone(known),
                _ => Arc::clone(remembered.insert(Arc::from(name))),
            }
        })
    }
}

/// By its first and last bytes: names of one kind differ at an end.
fn place_of(name: &str) -> usize {
    let bytes = name.as_bytes();
    let word = match (bytes.first_chunk(), bytes.last_chunk()) {
        (Some(first), Some(last)) => u64::from_le_bytes(*first).rotate_left(5) ^ u64::from_le_bytes(*last),
        _ => bytes.iter().fold(0, |word, byte| word << 8 | u64::from(*byte)),
    };
    let mixed = word.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    usize::try_from(mixed >> (u64::BITS - REMEMBERED.ilog2())).unwrap_or(0)
}

/// A name as it may stand in a heartbeat: bounded, printable, not empty.
fn usable(name: Option<&str>) -> Option<&str> {
    let printable = |name: &str| {
        let plain = |byte| matches!(byte, b' '..=b'~');
        name.bytes().all(plain) || !name.chars().any(char::is_control)
    };
    name.filter(|name| !name.is_empty() && name.len() <= MAX_NAME_BYTES && printable(name))
}

/// What of `all` can be written, and fits into `room` bytes with its commas.
fn fitting<'a, T, W: Serialize>(all: &'a [T], room: usize, write: impl Fn(&'a T) -> Option<W>) -> Vec<W> {
    let mut left = room;
    let fits = |written: &W| {
        let size = to_json(written).len() + 1;
        let fits = size <= left;
        left -= if fits { size } else { 0 };
        fits
    };
    all.iter().filter_map(write).filter(fits).collect()
}

/// Bytes that a claim takes in a list, its comma included.
fn claim_size(claim: &PeerClaim) -> usize {
    to_json(&WrittenClaim::from(claim)).len() + 1
}

fn claims_size(claims: &[PeerClaim]) -> usize {
    claims.iter().map(claim_size).sum()
}

/// Nothing that is written here can fail: no maps with other keys than strings, no I/O.
fn to_json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

#[derive(Serialize)]
struct Written<'a> {
    v: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    boot: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    slot: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    late_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uptime_s: Option<f64>,
    wall_ts: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    interval_ms: Option<u64>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    goodbye: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    hears: Vec<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    votes: Vec<WrittenVote<'a>>,
    #[serde(skip_serializing_if = "is_zero")]
    votes_left_out: usize,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    peers: Vec<WrittenClaim<'a>>,
    #[serde(skip_serializing_if = "is_zero")]
    peers_left_out: usize,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
const fn is_zero(count: &usize) -> bool {
    *count == 0
}

#[derive(Serialize)]
struct WrittenClaim<'a> {
    name: &'a str,
    liveness: Liveness,
    #[serde(skip_serializing_if = "Option::is_none")]
    incarnation: Option<&'a str>,
}

impl<'a> From<&'a PeerClaim> for WrittenClaim<'a> {
    fn from(claim: &'a PeerClaim) -> Self {
        Self {
            name: &claim.name,
            liveness: claim.liveness,
            incarnation: usable(claim.incarnation.as_ref().map(|life| &*life.0)),
        }
    }
}

#[derive(Serialize)]
struct WrittenVote<'a> {
    about: &'a str,
    liveness: Liveness,
    #[serde(skip_serializing_if = "Option::is_none")]
    incarnation: Option<&'a str>,
    silent_ms: u64,
}

impl<'a> WrittenVote<'a> {
    fn of(vote: &'a Vote) -> Option<Self> {
        Some(Self {
            about: usable(Some(&vote.about))?,
            liveness: vote.liveness,
            incarnation: usable(vote.incarnation.as_ref().map(|life| &*life.0)),
            silent_ms: vote.silent_ms,
        })
    }
}

#[derive(Deserialize)]
struct Read<'a> {
    #[serde(default, borrow)]
    node: Option<Name<'a>>,
    #[serde(default, borrow)]
    group: Option<Name<'a>>,
    #[serde(default, borrow)]
    boot: Option<Name<'a>>,
    #[serde(default)]
    slot: Option<u64>,
    #[serde(default)]
    late_ms: Option<u64>,
    #[serde(default)]
    uptime_s: Option<f64>,
    #[serde(default)]
    wall_ts: Option<f64>,
    #[serde(default)]
    interval_ms: Option<u64>,
    #[serde(default)]
    goodbye: bool,
    #[serde(default, borrow)]
    peers: Claims<'a>,
    #[serde(default, borrow)]
    hears: Few<Name<'a>, { Ballot::MAX_HEARS }>,
    #[serde(default, borrow)]
    votes: Few<ReadVote<'a>, { Ballot::MAX_VOTES }>,
    #[serde(default)]
    votes_left_out: u32,
}

/// A bounded, printable name. (Only one with an escape in it is copied.)
struct Name<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Name<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl<'de> Visitor<'de> for Text {
            type Value = Name<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a printable name of 1 to {MAX_NAME_BYTES} bytes")
            }
            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Name<'de>, E> {
                named(Cow::Borrowed(text), &self)
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Name<'de>, E> {
                named(Cow::Owned(text.to_owned()), &self)
            }
        }
        fn named<'a, E: de::Error>(text: Cow<'a, str>, expected: &Text) -> Result<Name<'a>, E> {
            if usable(Some(&text)).is_some() {
                Ok(Name(text))
            } else {
                Err(E::invalid_value(
                    de::Unexpected::Other("another string"),
                    expected,
                ))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

/// The first of a list; what follows is ignored.
struct Few<T, const MOST: usize>(Vec<T>);

impl<T, const MOST: usize> Default for Few<T, MOST> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>, const MOST: usize> Deserialize<'de> for Few<T, MOST> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List<T, const MOST: usize>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>, const MOST: usize> Visitor<'de> for List<T, MOST> {
            type Value = Few<T, MOST>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Few<T, MOST>, A::Error> {
                let mut few = Vec::new();
                while few.len() < MOST {
                    match list.next_element()? {
                        Some(one) => few.push(one),
                        None => return Ok(Few(few)),
                    }
                }
                while list.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Few(few))
            }
        }
        deserializer.deserialize_seq(List(PhantomData))
    }
}

/// A vote. One that lacks something, or has a word for a liveness that this version does not know, is skipped.
#[derive(Deserialize)]
struct ReadVote<'a> {
    #[serde(default, borrow)]
    about: Option<Name<'a>>,
    #[serde(default, borrow)]
    liveness: Option<Name<'a>>,
    #[serde(default, borrow)]
    incarnation: Option<Name<'a>>,
    #[serde(default)]
    silent_ms: Option<u64>,
}

impl ReadVote<'_> {
    fn shared(self, share: &mut impl FnMut(&str) -> Arc<str>) -> Option<Vote> {
        let liveness = liveness_of(&self.liveness?.0).filter(|liveness| *liveness != Liveness::Unknown)?;
        Some(Vote {
            about: share(&self.about?.0),
            liveness,
            incarnation: self.incarnation.map(|life| Incarnation(share(&life.0))),
            silent_ms: self.silent_ms?,
        })
    }
}

/// At most [`MAX_CLAIMS`] claims. Words for a liveness that this version does not know are skipped.
#[derive(Default)]
struct Claims<'a>(Vec<ReadClaim<'a>>);

impl<'de: 'a, 'a> Deserialize<'de> for Claims<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List;
        impl<'de> Visitor<'de> for List {
            type Value = Claims<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of claims")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Claims<'de>, A::Error> {
                let mut claims = Vec::new();
                while claims.len() < MAX_CLAIMS {
                    match list.next_element::<Claim<'_>>()? {
                        Some(Claim(claim)) => claims.extend(claim),
                        None => return Ok(Claims(claims)),
                    }
                }
                while list.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Claims(claims))
            }
        }
        deserializer.deserialize_seq(List)
    }
}

struct ReadClaim<'a> {
    name: Name<'a>,
    liveness: Liveness,
    incarnation: Option<Name<'a>>,
}

impl ReadClaim<'_> {
    fn shared(self, share: &mut impl FnMut(&str) -> Arc<str>) -> PeerClaim {
        PeerClaim {
            name: share(&self.name.0),
            liveness: self.liveness,
            incarnation: self.incarnation.map(|life| Incarnation(share(&life.0))),
        }
    }
}

struct Claim<'a>(Option<ReadClaim<'a>>);

impl<'de: 'a, 'a> Deserialize<'de> for Claim<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Claim<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a claim: an object with name and liveness")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Claim<'de>, A::Error> {
                let (mut name, mut liveness, mut incarnation) = (None, None, None);
                while let Some(key) = map.next_key::<Key>()? {
                    match key {
                        Key::Name => name = Some(map.next_value::<Name<'_>>()?),
                        Key::Liveness => liveness = liveness_of(&map.next_value::<Name<'_>>()?.0),
                        Key::Incarnation => incarnation = map.next_value::<Option<Name<'_>>>()?,
                        Key::Other => {
                            map.next_value::<IgnoredAny>()?;
                        }
                    }
                }
                Ok(Claim(name.zip(liveness).map(|(name, liveness)| ReadClaim {
                    name,
                    liveness,
                    incarnation,
                })))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "snake_case")]
enum Key {
    Name,
    Liveness,
    Incarnation,
    #[serde(other)]
    Other,
}

fn liveness_of(word: &str) -> Option<Liveness> {
    Liveness::ALL
        .into_iter()
        .find(|liveness| liveness.as_str() == word)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn plain() -> Heartbeat {
        Heartbeat {
            node: Some("feed-1".into()),
            group: Some("base".into()),
            boot: Some("b7".into()),
            slot: Some(41),
            late_ms: Some(3),
            uptime_s: Some(41.5),
            interval_ms: Some(1000),
            goodbye: false,
            peers: vec![PeerClaim {
                name: "feed".into(),
                liveness: Liveness::Alive,
                incarnation: Some(Incarnation("proc:x:1:2".into())),
            }],
            ballot: Ballot::default(),
        }
    }

    #[test]
    fn is_written_as_designed() {
        let text = String::from_utf8(encode(&plain(), 1_770_000_000.1)).unwrap();
        assert_eq!(
            text,
            r#"{"v":1,"node":"feed-1","group":"base","boot":"b7","slot":41,"late_ms":3,"uptime_s":41.5,"wall_ts":1770000000.1,"interval_ms":1000,"peers":[{"name":"feed","liveness":"alive","incarnation":"proc:x:1:2"}]}"#
        );
        assert_eq!(read(text.as_bytes()), Ok(plain()));
    }

    #[test]
    fn s04_data_acquisitions_heartbeat_counts() {
        let heartbeat = read(br#"{"uptime_s": 12.5, "wall_ts": 1770000000.1}"#).unwrap();
        assert_eq!(heartbeat.uptime_s, Some(12.5));
        assert_eq!(heartbeat.node, None);
        assert_eq!(heartbeat.slot, None);
        assert!(!heartbeat.goodbye);
    }

    #[test]
    fn s04_what_is_no_heartbeat_is_opaque_and_says_why() {
        let deep = "[".repeat(4000);
        let deep_object = r#"{"a":"#.repeat(800);
        let long_name = format!(r#"{{"uptime_s":1,"node":"{}"}}"#, "x".repeat(254));
        let cases: Vec<(Vec<u8>, Unreadable)> = vec![
            (b"".to_vec(), Unreadable::Empty),
            (vec![b'x'; 10 * 1024 * 1024], Unreadable::TooBig),
            (vec![b' '; MAX_BYTES + 1], Unreadable::TooBig),
            (vec![0xff, 0xfe, 0x00], Unreadable::NotUtf8),
            (
                b"{\"uptime_s\": 1, \"x\": \"\xff\"}".to_vec(),
                Unreadable::NotUtf8,
            ),
            (vec![0; 16], Unreadable::NotJson),
            (b"{".to_vec(), Unreadable::NotJson),
            (b"{\"uptime_s\": 12.5".to_vec(), Unreadable::NotJson),
            (b"{\"uptime_s\": NaN}".to_vec(), Unreadable::NotJson),
            (b"{\"uptime_s\": 1e400}".to_vec(), Unreadable::NotJson),
            (deep.into_bytes(), Unreadable::NotJson),
            (deep_object.into_bytes(), Unreadable::NotJson),
            (b"null".to_vec(), Unreadable::NotAHeartbeat),
            (b"12.5".to_vec(), Unreadable::NotAHeartbeat),
            (b"[1, 2]".to_vec(), Unreadable::NotAHeartbeat),
            (b"{}".to_vec(), Unreadable::NotAHeartbeat),
            (b"{\"node\": \"x\"}".to_vec(), Unreadable::NotAHeartbeat),
            (b"{\"uptime_s\": -1}".to_vec(), Unreadable::NotAHeartbeat),
            (b"{\"uptime_s\": 1e300}".to_vec(), Unreadable::NotAHeartbeat),
            (b"{\"uptime_s\": \"12\"}".to_vec(), Unreadable::BadField),
            (b"{\"uptime_s\": 1, \"slot\": -1}".to_vec(), Unreadable::BadField),
            (
                b"{\"uptime_s\": 1, \"slot\": 1e30}".to_vec(),
                Unreadable::BadField,
            ),
            (
                b"{\"uptime_s\": 1, \"node\": \"\"}".to_vec(),
                Unreadable::BadField,
            ),
            (
                b"{\"uptime_s\": 1, \"node\": \"a\\nb\"}".to_vec(),
                Unreadable::BadField,
            ),
            (b"{\"uptime_s\": 1, \"peers\": 3}".to_vec(), Unreadable::BadField),
            (long_name.into_bytes(), Unreadable::BadField),
        ];
        for (body, reason) in cases {
            let shown = String::from_utf8_lossy(&body[..body.len().min(60)]).into_owned();
            assert_eq!(read(&body), Err(reason), "{shown}");
            assert_eq!(decode(&body), Body::Opaque);
        }
    }

    #[test]
    fn nonsense_beside_a_sound_field_is_left_out() {
        let heartbeat = read(br#"{"uptime_s": -5, "wall_ts": 1.0, "sig": {"x": [1]}, "v": 99}"#).unwrap();
        assert_eq!(heartbeat.uptime_s, None);
        let heartbeat = read(
            br#"{"uptime_s": 5, "peers": [{"name": "a", "liveness": "zombie"}, {"liveness": "dead"},
                {"name": "b", "liveness": "dead", "more": 1}]}"#,
        )
        .unwrap();
        assert_eq!(heartbeat.peers.len(), 1);
        assert_eq!(&*heartbeat.peers[0].name, "b");
    }

    #[test]
    fn peers_that_do_not_fit_are_left_out_in_turn_and_said_so() {
        let mut heartbeat = plain();
        heartbeat.peers = (0..300)
            .map(|i| PeerClaim {
                name: format!("peer-{i}").into(),
                liveness: Liveness::Suspect,
                incarnation: Some(Incarnation("x".repeat(40).into())),
            })
            .collect();
        let mut told = std::collections::BTreeSet::new();
        for slot in 0..60 {
            heartbeat.slot = Some(slot);
            let bytes = encode(&heartbeat, 1.0);
            assert!(bytes.len() <= MAX_BYTES);
            let value: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
            let read = read(&bytes).unwrap();
            assert_eq!(value["peers_left_out"], 300 - read.peers.len());
            assert!(read.peers.len() > 30);
            told.extend(read.peers.into_iter().map(|claim| claim.name));
        }
        assert_eq!(told.len(), 300);
    }

    fn vote(about: &str, liveness: Liveness) -> Vote {
        Vote {
            about: about.into(),
            liveness,
            incarnation: Some(Incarnation("boot:b8".into())),
            silent_ms: 2300,
        }
    }

    #[test]
    fn votes_are_written_as_documented_and_read_again() {
        let mut heartbeat = plain();
        heartbeat.peers = Vec::new();
        heartbeat.ballot = Ballot {
            hears: vec!["node-a".into(), "node-c".into()],
            votes: vec![
                vote("node:node-b", Liveness::Suspect),
                vote("channel:x", Liveness::Alive),
            ],
            left_out: 3,
        };
        let text = String::from_utf8(encode(&heartbeat, 1.0)).unwrap();
        assert!(
            text.ends_with(
                r#""hears":["node-a","node-c"],"votes":[{"about":"node:node-b","liveness":"suspect","incarnation":"boot:b8","silent_ms":2300},{"about":"channel:x","liveness":"alive","incarnation":"boot:b8","silent_ms":2300}],"votes_left_out":3}"#
            ),
            "{text}"
        );
        assert_eq!(read(text.as_bytes()), Ok(heartbeat));
    }

    #[test]
    fn votes_that_lack_something_are_skipped_and_wrong_ones_are_no_heartbeat() {
        let heartbeat = read(
            br#"{"uptime_s": 5, "hears": [], "votes": [{"about": "node:x", "liveness": "zombie", "silent_ms": 1},
                {"about": "node:x", "liveness": "unknown", "silent_ms": 1}, {"liveness": "dead", "silent_ms": 1},
                {"about": "node:x", "liveness": "dead"}, {"about": "node:y", "liveness": "dead", "silent_ms": 1, "more": 2}]}"#,
        )
        .unwrap();
        assert_eq!(heartbeat.ballot.votes.len(), 1);
        assert_eq!(heartbeat.ballot.votes[0].incarnation, None);
        for wrong in [
            r#""hears": 1"#,
            r#""hears": [""]"#,
            r#""hears": ["a\u0007"]"#,
            r#""votes": {}"#,
            r#""votes": [{"about": "x", "liveness": "dead", "silent_ms": -1}]"#,
            r#""votes": [{"about": 7}]"#,
        ] {
            let body = format!(r#"{{"uptime_s": 1, {wrong}}}"#);
            assert_eq!(read(body.as_bytes()), Err(Unreadable::BadField), "{wrong}");
        }
    }

    #[test]
    fn many_votes_and_names_leave_room_for_claims_and_no_more_are_read_than_are_written() {
        let mut heartbeat = plain();
        let names = (0..500).map(|number| Arc::from(format!("node-{number}")));
        heartbeat.ballot = Ballot {
            hears: names.collect(),
            votes: (0..500)
                .map(|number| vote(&format!("node:{number}"), Liveness::Dead))
                .collect(),
            left_out: 1,
        };
        let written = encode(&heartbeat, 1.0);
        assert!(written.len() <= MAX_BYTES);
        let read = read(&written).unwrap();
        assert_eq!(read.peers, heartbeat.peers);
        assert_eq!(read.ballot.hears, heartbeat.ballot.hears[..Ballot::MAX_HEARS]);
        assert_eq!(
            read.ballot.votes,
            heartbeat.ballot.votes[..read.ballot.votes.len()]
        );
        assert!((12..=Ballot::MAX_VOTES).contains(&read.ballot.votes.len()));
        assert_eq!(
            read.ballot.left_out as usize,
            501 - read.ballot.votes.len(),
            "what was left out before, and here"
        );

        let many = vec![r#""x""#; 1_000].join(",");
        let heartbeat = self::read(format!(r#"{{"uptime_s": 1, "hears": [{many}]}}"#).as_bytes()).unwrap();
        assert_eq!(heartbeat.ballot.hears.len(), Ballot::MAX_HEARS);
    }

    proptest! {
        #[test]
        fn a_vote_takes_no_more_bytes_than_the_engine_counts_for_it(ballot in ballot()) {
            for vote in &ballot.votes {
                let written = WrittenVote::of(vote).map_or(0, |written| to_json(&written).len() + 1);
                proptest::prop_assert!(written <= vote.written(), "{vote:?}: {written}");
            }
        }
    }

    fn name() -> impl Strategy<Value = Option<Arc<str>>> {
        proptest::option::of("[^\\p{Cc}]{1,40}".prop_map(Arc::from))
    }

    fn claim() -> impl Strategy<Value = PeerClaim> {
        ("[a-z0-9.-]{1,30}", 0..4usize, name()).prop_map(|(name, liveness, life)| PeerClaim {
            name: name.into(),
            liveness: Liveness::ALL[liveness],
            incarnation: life.map(Incarnation),
        })
    }

    prop_compose! {
        fn ballot()(
            hears in proptest::collection::vec("[a-z0-9.-]{1,12}".prop_map(Arc::from), 0..8),
            votes in proptest::collection::vec(("[a-z:/\"\\\\]{1,20}", 1..4usize, name(), any::<u64>()), 0..5),
            left_out in any::<u32>(),
        ) -> Ballot {
            let votes = votes.into_iter().map(|(about, liveness, life, silent_ms)| Vote {
                about: about.into(),
                liveness: Liveness::ALL[liveness],
                incarnation: life.map(Incarnation),
                silent_ms,
            });
            Ballot { hears, votes: votes.collect(), left_out }
        }
    }

    prop_compose! {
        fn heartbeat()(
            node in name(),
            group in name(),
            boot in name(),
            slot in proptest::option::of(any::<u64>()),
            late_ms in proptest::option::of(any::<u64>()),
            uptime_s in proptest::option::of((0u32..u32::MAX).prop_map(|n| f64::from(n) / 8.0)),
            interval_ms in proptest::option::of(any::<u64>()),
            goodbye in any::<bool>(),
            peers in proptest::collection::vec(claim(), 0..8),
            ballot in ballot(),
        ) -> Heartbeat {
            Heartbeat { node, group, boot, slot, late_ms, uptime_s, interval_ms, goodbye, peers, ballot }
        }
    }

    #[test]
    fn a_reader_shares_the_names_that_it_has_read_before() {
        let body = encode(&plain(), 0.0);
        let mut reader = Reader::new();
        let (first, again) = (reader.read(&body).unwrap(), reader.read(&body).unwrap());
        assert_eq!(first, again);
        assert!(Arc::ptr_eq(&first.node.unwrap(), &again.node.unwrap()));
        assert!(Arc::ptr_eq(&first.peers[0].name, &again.peers[0].name));
    }

    #[test]
    fn a_reader_remembers_no_more_than_it_has_places_and_confuses_nobody() {
        let mut reader = Reader::new();
        for name in (0..4 * REMEMBERED).map(|number| format!("{number}")) {
            let body = format!(r#"{{"uptime_s":1,"node":"{name}","boot":"node-{name}"}}"#);
            let beat = reader.read(body.as_bytes()).unwrap();
            assert_eq!(beat.node.as_deref(), Some(&*name));
            assert_eq!(beat.boot.as_deref(), Some(&*format!("node-{name}")));
        }
        assert_eq!(reader.names.len(), REMEMBERED);
    }

    proptest! {
        #[test]
        fn a_reader_reads_what_read_reads(heartbeats in proptest::collection::vec(heartbeat(), 1..5)) {
            let mut reader = Reader::new();
            for heartbeat in heartbeats {
                let bytes = encode(&heartbeat, 0.0);
                prop_assert_eq!(reader.read(&bytes), read(&bytes));
            }
        }

        #[test]
        fn comes_back_as_it_was_written(heartbeat in heartbeat(), wall_ts in 0.0..4e9f64) {
            let bytes = encode(&heartbeat, wall_ts);
            prop_assert!(bytes.len() <= MAX_BYTES);
            prop_assert_eq!(read(&bytes), Ok(heartbeat));
        }

        #[test]
        fn never_panics_and_never_grows(body in proptest::collection::vec(any::<u8>(), 0..5000)) {
            if let Ok(heartbeat) = read(&body) {
                prop_assert!(encode(&heartbeat, f64::NAN).len() <= MAX_BYTES);
            }
        }

        #[test]
        fn hostile_contents_stay_within_the_bound(
            name in "\\PC{0,300}",
            life in ".{0,300}",
            count in 0usize..60,
        ) {
            let name: Arc<str> = name.into();
            let claim = PeerClaim {
                name: name.clone(),
                liveness: Liveness::Dead,
                incarnation: Some(Incarnation(life.into())),
            };
            let heartbeat = Heartbeat {
                node: Some(name.clone()),
                group: Some(name.clone()),
                boot: Some(name),
                slot: Some(u64::MAX),
                late_ms: Some(u64::MAX),
                uptime_s: Some(f64::MAX),
                interval_ms: Some(u64::MAX),
                goodbye: true,
                peers: vec![claim; count],
                ballot: Ballot::default(),
            };
            prop_assert!(encode(&heartbeat, f64::MAX).len() <= MAX_BYTES);
        }
    }
}
