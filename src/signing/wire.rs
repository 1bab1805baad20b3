//! The signed form of a JSON object: the same object with four more fields at its end,
//!
//! ```text
//! {…,"key":"9f86d081","n":17,"sent_ms":1770000000123,"sig":"<hex>"}
//! ```
//!
//! `sig` covers the channel, the group and every byte before `,"sig":`, as they came: nothing is written again to be
//! verified, and any reader of JSON reads on. `n` numbers the messages of one run, `sent_ms` is the sender's wall clock.

use super::keys::{Key, KeyId};

/// Most bytes that the four fields take.
pub const ROOM: usize = 224;

/// What is signed begins so: a signature made for another purpose is none here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Said on a channel.
    Message,
    /// Written down under a prefix of keys.
    Record,
}

impl Purpose {
    const fn begins(self) -> &'static [u8] {
        match self {
            Self::Message => b"defib bus message 1\0",
            Self::Record => b"defib fleet record 1\0",
        }
    }
}

const KEY: &[u8] = br#","key":""#;
const NUMBER: &[u8] = br#"","n":"#;
const SENT: &[u8] = br#","sent_ms":"#;
const SIG: &[u8] = br#","sig":""#;
const END: &[u8] = br#""}"#;

/// Lengths of a signature: HMAC-SHA256, Ed25519.
const LENGTHS: [usize; 2] = [32, 64];

/// A message's last fields, read and not believed.
#[derive(Debug)]
pub(super) struct Signed<'b> {
    /// Every byte that the signature covers of the message.
    covered: &'b [u8],
    pub(super) key: KeyId,
    pub(super) number: u64,
    pub(super) sent_ms: u64,
    signature: Vec<u8>,
}

impl Signed<'_> {
    pub(super) fn signature(&self) -> &[u8] {
        &self.signature
    }

    /// What was signed, if it was for this place (a channel, a prefix) and this group.
    pub(super) fn message(&self, purpose: Purpose, place: &str, group: &str) -> Vec<u8> {
        message(purpose, place, group, self.covered)
    }
}

/// Adds the four fields to an object that is not empty.
pub(super) fn sign(
    own: &Key,
    purpose: Purpose,
    (place, group): (&str, &str),
    mut body: Vec<u8>,
    number: u64,
    sent_ms: u64,
) -> Vec<u8> {
    body.truncate(body.len().saturating_sub(1)); // its brace
    for part in [
        KEY,
        hex(&own.id().0).as_bytes(),
        NUMBER,
        number.to_string().as_bytes(),
        SENT,
        sent_ms.to_string().as_bytes(),
    ] {
        body.extend_from_slice(part);
    }
    let signature = hex(&own.sign(&message(purpose, place, group, &body)));
    for part in [SIG, signature.as_bytes(), END] {
        body.extend_from_slice(part);
    }
    body
}

/// Reads the four fields. There is one way to write each: what differs in any byte is not read, or not verified.
pub(super) fn read(body: &[u8]) -> Option<Signed<'_>> {
    let rest = body.strip_suffix(END)?;
    let quote = rest.iter().rposition(|byte| *byte == b'"')?;
    let (before, signature) = rest.split_at_checked(quote + 1)?;
    let signature = unhex(signature)?;
    if !LENGTHS.contains(&signature.len()) {
        return None;
    }
    let covered = before.strip_suffix(SIG)?;
    let (rest, sent_ms) = number(covered)?;
    let (rest, number) = number(rest.strip_suffix(SENT)?)?;
    let rest = rest.strip_suffix(NUMBER)?;
    let (rest, id) = rest.split_last_chunk::<8>()?;
    rest.strip_suffix(KEY)?;
    Some(Signed {
        covered,
        key: KeyId(unhex(id)?.try_into().ok()?),
        number,
        sent_ms,
        signature,
    })
}

/// Names are told with their lengths: no two different messages are signed as one.
fn message(purpose: Purpose, place: &str, group: &str, covered: &[u8]) -> Vec<u8> {
    let begins = purpose.begins();
    let mut message = Vec::with_capacity(begins.len() + 16 + place.len() + group.len() + covered.len());
    message.extend_from_slice(begins);
    for name in [place, group] {
        message.extend_from_slice(&(name.len() as u64).to_be_bytes());
        message.extend_from_slice(name.as_bytes());
    }
    message.extend_from_slice(covered);
    message
}

/// The decimal number at the end.
fn number(bytes: &[u8]) -> Option<(&[u8], u64)> {
    let digits = bytes
        .iter()
        .rev()
        .take_while(|byte| byte.is_ascii_digit())
        .count();
    let (rest, digits) = bytes.split_at(bytes.len() - digits);
    if digits.len() > 1 && digits.starts_with(b"0") {
        return None;
    }
    Some((rest, str::from_utf8(digits).ok()?.parse().ok()?))
}

fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from(b"0123456789abcdef"[usize::from(nibble)]);
    bytes
        .iter()
        .flat_map(|byte| [digit(byte >> 4), digit(byte & 0xf)])
        .collect()
}

/// Lower case only.
fn unhex(text: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let pairs = text.chunks_exact(2);
    if !pairs.remainder().is_empty() {
        return None;
    }
    pairs
        .map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?))
        .collect()
}
