//! Keys: read from what the configuration names, found by their id, and used. Ed25519 and HMAC are ring's, which TLS
//! brings anyway.

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use ring::digest::{SHA256, digest};
use ring::hmac::{self, HMAC_SHA256};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{PrivatePkcs8KeyDer, SubjectPublicKeyInfoDer};

use super::wire::{Purpose, Signed};
use super::{Refused, Source};
use crate::secret::Secret;

/// Shortest shared key, in bytes.
const SHORTEST: usize = 32;
/// Keys of one node, or of the group, that may be valid at once: an old one and a new one, and some more.
const MOST_AT_ONCE: usize = 8;
/// Nodes that may be trusted.
const MOST_NODES: usize = 4096;
/// What stands before the 32 bytes of an Ed25519 key in a SubjectPublicKeyInfo (RFC 8410).
const SPKI: &[u8] = &[
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];

/// Which key: the first bytes of a hash. It saves trying all; it proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct KeyId(pub(super) [u8; 4]);

/// One key.
#[derive(Clone)]
pub(super) enum Key {
    Shared(KeyId, hmac::Key),
    /// With it, this node signs.
    Private(KeyId, Arc<Ed25519KeyPair>),
    /// With it, a node is verified.
    Public(KeyId, [u8; 32]),
}

/// Names the key and never shows it.
impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.id())
    }
}

impl Key {
    pub(super) const fn id(&self) -> KeyId {
        match self {
            Self::Shared(id, _) | Self::Private(id, _) | Self::Public(id, _) => *id,
        }
    }

    /// Empty if it cannot sign.
    pub(super) fn sign(&self, message: &[u8]) -> Vec<u8> {
        match self {
            Self::Shared(_, key) => hmac::sign(key, message).as_ref().to_vec(),
            Self::Private(_, key) => key.sign(message).as_ref().to_vec(),
            Self::Public(..) => Vec::new(),
        }
    }

    pub(super) fn verifies(&self, signed: &Signed<'_>, purpose: Purpose, place: &str, group: &str) -> bool {
        let message = signed.message(purpose, place, group);
        match self {
            Self::Shared(_, key) => hmac::verify(key, &message, signed.signature()).is_ok(),
            Self::Public(_, key) => UnparsedPublicKey::new(&ED25519, key)
                .verify(&message, signed.signature())
                .is_ok(),
            Self::Private(..) => false,
        }
    }

    fn shared(secret: &[u8]) -> Self {
        let key = hmac::Key::new(HMAC_SHA256, secret);
        let id = first_four(hmac::sign(&key, b"defib key id").as_ref());
        Self::Shared(id, key)
    }

    fn public(key: [u8; 32]) -> Self {
        Self::Public(first_four(digest(&SHA256, &key).as_ref()), key)
    }
}

fn first_four(bytes: &[u8]) -> KeyId {
    KeyId(bytes.first_chunk().copied().unwrap_or_default())
}

/// A key that is trusted, and whose it is; `None`: everybody's.
#[derive(Clone, Debug)]
struct Trusted {
    node: Option<Arc<str>>,
    key: Key,
}

/// All keys of a node, at one time.
#[derive(Debug, Default)]
pub(super) struct Keys {
    own: Option<Key>,
    trusted: HashMap<KeyId, Vec<Trusted>>,
}

impl Keys {
    /// What this node signs with, if it could be read.
    pub(super) fn own(&self) -> Option<&Key> {
        self.own.as_ref()
    }

    /// How many are trusted.
    pub(super) fn len(&self) -> usize {
        self.trusted.values().map(Vec::len).sum()
    }

    /// Whether a key of that node is trusted.
    pub(super) fn trusts(&self, node: &str) -> bool {
        let of = |trusted: &Trusted| trusted.node.as_ref().is_none_or(|of| **of == *node);
        self.trusted.values().flatten().any(of)
    }

    /// The key of that id, if `node` may use it.
    pub(super) fn find(&self, id: KeyId, node: &str) -> Result<&Key, Refused> {
        let named = self.trusted.get(&id).ok_or(Refused::UnknownKey)?;
        let of = |trusted: &&Trusted| trusted.node.as_ref().is_none_or(|of| **of == *node);
        let found = named.iter().find(of).ok_or(Refused::WrongIdentity)?;
        Ok(&found.key)
    }

    fn trust(&mut self, node: Option<&Arc<str>>, key: Key) {
        let trusted = Trusted {
            node: node.cloned(),
            key,
        };
        self.trusted.entry(trusted.key.id()).or_default().push(trusted);
    }

    /// What was trusted of that node before.
    fn keep(&mut self, before: &Self, node: Option<&Arc<str>>) {
        let kept = before.trusted.values().flatten();
        for trusted in kept.filter(|trusted| trusted.node.as_ref() == node) {
            self.trust(node, trusted.key.clone());
        }
    }
}

/// Reads all keys, and says what could not be read. Of that, the keys of `before` stay. Blocks.
pub(super) fn read(source: &Source, node: &Arc<str>, before: &Keys) -> (Keys, Vec<String>) {
    let mut keys = Keys::default();
    let mut faults = Vec::new();
    match source {
        Source::Shared(secret) => match shared(secret) {
            Ok(all) => {
                keys.own = all.first().cloned();
                all.into_iter().for_each(|key| keys.trust(None, key));
            }
            Err(fault) => {
                faults.push(fault);
                keys.own.clone_from(&before.own);
                keys.keep(before, None);
            }
        },
        Source::Own { key, trusted } => {
            match private(key) {
                Ok(own) => keys.own = Some(own),
                Err(fault) => {
                    faults.push(fault);
                    keys.own.clone_from(&before.own);
                }
            }
            read_trusted(trusted, &mut keys, before, &mut faults);
            // Its own echo is verified, also where its public key was not put among the others.
            if let Some(Key::Private(id, own)) = &keys.own
                && keys.find(*id, node).is_err()
                && let Ok(own) = <[u8; 32]>::try_from(own.public_key().as_ref())
            {
                keys.trust(Some(node), Key::public(own));
            }
        }
    }
    (keys, faults)
}

fn shared(secret: &Secret) -> Result<Vec<Key>, String> {
    let text = secret.reveal().map_err(|error| error.to_string())?;
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    if lines.is_empty() || lines.len() > MOST_AT_ONCE {
        return Err(format!(
            "signing.shared ({secret:?}) holds {} keys: one a line, 1 to {MOST_AT_ONCE} of them",
            lines.len()
        ));
    }
    if lines.iter().any(|line| line.len() < SHORTEST) {
        return Err(format!(
            "signing.shared ({secret:?}) holds a key of less than {SHORTEST} bytes: `openssl rand -hex 32` makes one"
        ));
    }
    Ok(lines
        .into_iter()
        .map(|line| Key::shared(line.as_bytes()))
        .collect())
}

fn private(secret: &Secret) -> Result<Key, String> {
    let text = secret.reveal().map_err(|error| error.to_string())?;
    let wrong = || {
        format!(
            "signing.key ({secret:?}) is no Ed25519 key in PKCS#8 PEM: `openssl genpkey -algorithm ed25519` makes one"
        )
    };
    let der = PrivatePkcs8KeyDer::from_pem_slice(text.as_bytes()).map_err(|_| wrong())?;
    // OpenSSL leaves the public key out, so that there is nothing to check it against.
    let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der.secret_pkcs8_der()).map_err(|_| wrong())?;
    let id = first_four(digest(&SHA256, pair.public_key().as_ref()).as_ref());
    Ok(Key::Private(id, Arc::new(pair)))
}

fn read_trusted(dir: &Path, keys: &mut Keys, before: &Keys, faults: &mut Vec<String>) {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) => {
            faults.push(format!(
                "cannot read signing.trusted ({}): {error}",
                dir.display()
            ));
            keys.trusted.clone_from(&before.trusted);
            return;
        }
    };
    let name = |entry: fs::DirEntry| {
        let file = entry.file_name().into_string().ok()?;
        let node = file.strip_suffix(".pub").filter(|node| !node.is_empty())?;
        Some((Arc::from(node), entry.path()))
    };
    for (node, path) in entries.flatten().filter_map(name).take(MOST_NODES) {
        let node: Arc<str> = node;
        match public(&path) {
            Ok(all) => all.into_iter().for_each(|key| keys.trust(Some(&node), key)),
            Err(fault) => {
                faults.push(fault);
                keys.keep(before, Some(&node));
            }
        }
    }
}

fn public(path: &Path) -> Result<Vec<Key>, String> {
    let text = Secret::File(path.to_owned())
        .reveal()
        .map_err(|error| error.to_string())?;
    let wrong = || {
        format!(
            "{} is no Ed25519 public key in PEM: `openssl pkey -in KEY -pubout` writes one",
            path.display()
        )
    };
    let mut keys = Vec::new();
    for key in SubjectPublicKeyInfoDer::pem_slice_iter(text.as_bytes()).take(MOST_AT_ONCE) {
        let key = key.map_err(|_| wrong())?;
        let key = key.as_ref().strip_prefix(SPKI).ok_or_else(wrong)?;
        keys.push(Key::public(key.try_into().map_err(|_| wrong())?));
    }
    if keys.is_empty() { Err(wrong()) } else { Ok(keys) }
}
