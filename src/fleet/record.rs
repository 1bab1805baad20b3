//! What a node writes down in the group's ledger, in its own words: and whether somebody else's words are to be believed.
//!
//! A record is `UNTIL TOKEN ID STATEMENT`. The statement is JSON; where the group signs, signed by the node that wrote it, for
//! this group's keys. It says from when it holds and for how long, by the server's clock, and of which peer and life: so the
//! same words hold under no other key and for no longer, whoever puts them there. What cannot be verified counts for nothing.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::engine::outside::Reservation;
use crate::signing::{Refused, Signer, Verifier};

/// Bytes of a life's name in a field: it may be anybody's words.
const MAX_LIFE: usize = 256;

/// How this node signs what it writes down, and verifies what others did.
#[derive(Clone, Debug)]
pub struct Seal {
    /// Signs this node's.
    pub signer: Arc<Signer>,
    /// Verifies everybody's.
    pub verifier: Arc<Verifier>,
}

/// Which record, as the scripts answer with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Who is healing it; the field is the peer.
    Down,
    /// Who does, or did, this to it; the field is what is done, and the life.
    Done,
    /// A restart that counts; the field is its id.
    Budget,
    /// The last restart of anybody.
    Next,
}

/// A node's own words.
#[derive(Serialize, Deserialize)]
pub(super) struct Statement {
    node: String,
    boot: String,
    number: u64,
    peer: String,
    incarnation: String,
    does: String,
    /// It was carried out.
    kept: bool,
    /// By the server's clock, in ms; 0 where nobody signs.
    from: u64,
    /// How long it counts as down by our hand; of one that was carried out, how long that is remembered.
    lasting: u64,
    /// How long it counts against the peer's budget.
    window: u64,
    /// How long nobody else is restarted.
    spacing: u64,
}

impl Statement {
    pub(super) fn of(node: &str, asked: &Reservation, kept: Option<Duration>, from: u64) -> Self {
        Self {
            node: node.to_owned(),
            boot: asked.run.to_string(),
            number: asked.number,
            peer: asked.known_as.to_string(),
            incarnation: asked.incarnation.0.to_string(),
            does: asked.does.to_string(),
            kept: kept.is_some(),
            from,
            lasting: millis(kept.unwrap_or(asked.lasting)),
            window: millis(asked.budget.window),
            spacing: millis(asked.group.spacing),
        }
    }

    /// As it is written. `None`: there is no key to sign with.
    pub(super) fn written(&self, seal: Option<&Seal>, place: &str, wall: Duration) -> Option<String> {
        let plain = serde_json::to_vec(self).ok()?;
        let bytes = match seal {
            Some(seal) => seal.signer.sign_record(place, plain, millis(wall))?,
            None => plain,
        };
        String::from_utf8(bytes).ok()
    }
}

/// Whether a record of that kind, found in `field` of what belongs to `peer`, was written by a node of the group, for just
/// this place and time.
pub(super) fn is_believed(
    seal: Option<&Seal>,
    place: &str,
    kind: Kind,
    peer: &str,
    field: &[u8],
    record: &[u8],
) -> bool {
    let Some(seal) = seal else { return true };
    let Some((until, id, words)) = parts(record) else {
        return false;
    };
    let Ok(said) = serde_json::from_slice::<Statement>(words) else {
        return false;
    };
    match seal.verifier.verify_record(place, words, &said.node) {
        Ok(()) => {}
        // A group that is being changed over: what is not signed says of itself where it belongs, as before.
        Err(Refused::Unsigned) if !seal.verifier.requires() => return true,
        Err(_) => return false,
    }
    let lasting = match kind {
        Kind::Down | Kind::Budget | Kind::Next if said.kept => return false,
        Kind::Down | Kind::Done => said.lasting,
        Kind::Budget => said.window,
        Kind::Next => said.spacing,
    };
    let of_whom = match kind {
        Kind::Down => said.peer.as_bytes() == field,
        Kind::Done => said.peer == peer && self::field(&said.does, &said.incarnation).as_bytes() == field,
        Kind::Budget => said.peer == peer && said.id().as_bytes() == field,
        Kind::Next => true,
    };
    of_whom && said.id().as_bytes() == id && until <= said.from.saturating_add(lasting)
}

impl Statement {
    fn id(&self) -> String {
        format!("{}.{}", self.boot, self.number)
    }
}

/// Until when, whose, and its words.
fn parts(record: &[u8]) -> Option<(u64, &[u8], &[u8])> {
    let mut parts = record.splitn(4, |byte| *byte == b' ');
    let until = str::from_utf8(parts.next()?).ok()?.parse().ok()?;
    let (_token, id, words) = (parts.next()?, parts.next()?, parts.next()?);
    Some((until, id, words))
}

/// Who wrote it, in words. Whoever can write the key can write anything there.
pub(super) fn node_of(record: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Said {
        node: String,
    }
    let printable = |name: &str| name.len() <= 63 && name.bytes().all(|byte| byte.is_ascii_graphic());
    let said = parts(record).and_then(|(.., words)| serde_json::from_slice::<Said>(words).ok());
    match said {
        Some(Said { node }) if printable(&node) => format!("node {node}"),
        _ => "another node".to_owned(),
    }
}

/// Where a done-mark stands.
pub(super) fn field(does: &str, incarnation: &str) -> String {
    let life: String = incarnation.chars().take(MAX_LIFE).collect();
    format!("{does} {life}")
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_of_somebody_elses_names_nobody() {
        let named = br#"17 18 b.1 {"node":"node-b","boot":"b"}"#;
        assert_eq!(node_of(named), "node node-b");
        for forged in [
            &b""[..],
            b"17 18 b.1 ",
            b"17 18 b.1 {\"node\":\"\x1b[2J\"}",
            b"\xff\xff\xff",
            br#"17 18 b.1 {"node":7}"#,
        ] {
            assert_eq!(node_of(forged), "another node");
        }
    }
}
