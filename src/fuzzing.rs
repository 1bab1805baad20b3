//! One function for each parser that reads what others send, for `fuzz/` to throw bytes at: nothing may panic, hang or
//! grow without a bound, and what each function asserts must hold for every input. Not part of a release.
//!
//! Inputs that once broke something stay in `fuzz/regressions/TARGET/`, and examples of what is right in
//! `fuzz/seeds/TARGET/`; the test below goes through all of them.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::BytesMut;
use tokio_util::codec::Decoder as _;

use crate::bus::embedded::wire::Requests;
use crate::bus::{Intake, heartbeat};
use crate::checks::notify::datagram;
use crate::config::{self, Sources};
use crate::exposition::{Page, Selector};
use crate::heartbeat_file::Beat;
use crate::redis_client::{clients, resp};
use crate::secret::Secret;
use crate::signing::{self, Keyring, Own, Signer, Verifier};
use crate::sim::trace::{self, Reception};
use crate::sock_diag::wire;
use crate::systemd::{inbox::Inbox, session};
use crate::telemetry::metrics::Metrics;

/// A target: its name below `fuzz/`, and what reads the bytes.
pub type Target = (&'static str, fn(&[u8]));

/// Every target there is.
pub const TARGETS: &[Target] = &[
    ("heartbeat", heartbeat),
    ("signed", signed),
    ("resp", resp),
    ("broker", broker),
    ("metrics", metrics),
    ("client_list", client_list),
    ("heartbeat_file", heartbeat_file),
    ("notify", notify),
    ("sock_diag", sock_diag),
    ("dbus", dbus),
    ("configuration", configuration),
    ("trace", trace),
];

/// A message on the bus. What is a heartbeat can be written again, within bounds, and read back.
pub fn heartbeat(data: &[u8]) {
    let Ok(read) = heartbeat::read(data) else { return };
    let written = heartbeat::encode(&read, 0.0);
    assert!(written.len() <= heartbeat::MAX_BYTES, "{} bytes", written.len());
    let again = heartbeat::read(&written);
    let same = again.as_ref().is_ok_and(|again| {
        let life = (&again.node, &again.boot, again.slot, again.goodbye);
        life == (&read.node, &read.boot, read.slot, read.goodbye)
    });
    assert!(same, "{read:?} was read back as {again:?}");
}

/// A message on the bus of a group that signs. What nobody signed is refused; what was signed is believed once, whatever
/// it says, and not with a byte changed.
pub fn signed(data: &[u8]) {
    static METRICS: OnceLock<Option<Metrics>> = OnceLock::new();
    let Some(metrics) = METRICS.get_or_init(|| Metrics::new().ok()) else {
        return;
    };
    let settings = signing::Settings {
        source: signing::Source::Shared(Secret::Inline("a key that is known to the test only".to_owned())),
        window: Duration::from_secs(60),
        require: true,
        heard: "".into(),
    };
    let (channel, group): (Arc<str>, Arc<str>) = ("defib:base".into(), "base".into());
    let (node, boot): (Arc<str>, Arc<str>) = ("node-a".into(), "a1".into());
    let keyring = Keyring::new(&settings, Arc::clone(&node), metrics.signing.clone());
    assert_eq!(keyring.read(), Vec::<String>::new());
    let keyring = Arc::new(keyring);
    let own = Own {
        node,
        group: Arc::clone(&group),
        boot,
    };
    let verifier = Verifier::new(
        Arc::clone(&keyring),
        own,
        Arc::clone(&channel),
        &settings,
        metrics.signing.clone(),
    );
    let mut intake = Intake::new(Arc::clone(&channel), Some(Arc::new(verifier)));
    assert!(
        intake.take(&channel, data, 0.0).is_err(),
        "believed, and nobody signed it"
    );
    let Ok(read) = heartbeat::read(data) else { return };
    let body = heartbeat::encode_within(&read, 0.0, heartbeat::MAX_BYTES - signing::ROOM);
    let Some(mut sent) = Signer::new(keyring, group).sign(&channel, body, 0) else {
        unreachable!("there is a key");
    };
    assert!(sent.len() <= heartbeat::MAX_BYTES, "{} bytes", sent.len());
    let place = data.iter().map(|byte| usize::from(*byte)).sum::<usize>() % sent.len();
    sent[place] ^= 1;
    assert!(
        intake.take(&channel, &sent, 0.0).is_err(),
        "byte {place} was changed"
    );
    sent[place] ^= 1;
    let named = read.node.is_some() && read.boot.is_some();
    assert_eq!(intake.take(&channel, &sent, 0.0).is_ok(), named);
    assert!(intake.take(&channel, &sent, 0.0).is_err(), "believed twice");
}

/// What a Redis answers: the same values in whatever pieces it arrives.
pub fn resp(data: &[u8]) {
    let Some((&piece, data)) = data.split_first() else {
        return;
    };
    let decode = |piece: usize| {
        let mut decoder = resp::Decoder::default();
        in_pieces(data, piece, |part, seen| {
            decoder.room().extend_from_slice(part);
            loop {
                match decoder.next() {
                    Ok(Some(value)) => seen.push(format!("{value:?}")),
                    Ok(None) => return Ok(()),
                    Err(malformed) => return Err(format!("{malformed:?}")),
                }
            }
        })
    };
    same(&decode(data.len()), &decode(piece.into()));
}

/// What a client asks of the embedded broker: the same requests in whatever pieces they arrive, none beyond its bounds.
pub fn broker(data: &[u8]) {
    let Some((&piece, data)) = data.split_first() else {
        return;
    };
    let decode = |piece: usize| {
        let (request_bytes, arguments) = (1024, 16);
        let mut requests = Requests {
            request_bytes,
            arguments,
        };
        let mut source = BytesMut::new();
        in_pieces(data, piece, |part, seen| {
            source.extend_from_slice(part);
            loop {
                match requests.decode(&mut source) {
                    Ok(Some(request)) => {
                        assert!(!request.is_empty(), "an empty request");
                        seen.push(format!("{request:?}"));
                    }
                    Ok(None) => return Ok(()),
                    Err(violation) => return Err(violation.to_string()),
                }
            }
        })
    };
    same(&decode(data.len()), &decode(piece.into()));
}

/// A metrics page. The first line says which series are meant.
pub fn metrics(data: &[u8]) {
    let end = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let (selector, page) = data.split_at(end);
    let selector = str::from_utf8(selector).ok().and_then(|text| text.parse().ok());
    let selector: Selector = match selector.map_or_else(|| "up".parse(), Ok) {
        Ok(selector) => selector,
        Err(error) => unreachable!("{error}"),
    };
    let page = page.strip_prefix(b"\n").unwrap_or(page);
    if let Ok(page) = Page::parse(page, &selector) {
        assert!(page.series.len() + page.others <= data.len());
    }
}

/// What `CLIENT LIST` answers: no more clients than lines, no name beyond its bound.
pub fn client_list(data: &[u8]) {
    let lines = data.split(|byte| *byte == b'\n').count();
    let clients = clients::parse(data, |_| true);
    assert!(clients.wanted.len() <= lines);
    assert!(clients.wanted.iter().all(|client| client.name.len() <= 256));
}

/// A heartbeat file: its fields can be asked for, whatever they hold.
pub fn heartbeat_file(data: &[u8]) {
    let Ok(beat) = Beat::parse(data) else { return };
    let pid = beat.pid();
    assert!(!matches!(pid, Ok(Some(0))), "pid 0 is every process of our group");
    let _ = (beat.hostname(), beat.field("metadata.cycles"));
    if let Err(why) = beat.stamp("timestamp") {
        assert!(!why.is_empty());
    }
}

/// A datagram on a notify socket: one line of words for people at most, and no pid that is everybody's.
pub fn notify(data: &[u8]) {
    let Some(said) = datagram::parse(data) else { return };
    assert_ne!(said.main_pid, Some(0));
    if let Some(status) = said.status {
        assert!(
            status.chars().count() <= 256,
            "{} characters",
            status.chars().count()
        );
        assert!(!status.contains('\n'));
    }
}

/// The kernel's answer to a question about sockets.
pub fn sock_diag(data: &[u8]) {
    let Some((sequence, data)) = data.split_first_chunk() else {
        return;
    };
    if let Ok(piece) = wire::read(data, u32::from_le_bytes(*sequence)) {
        assert!(piece.sockets.len() <= data.len());
    }
}

/// A configuration: right, or a report of at least one mistake. What is right can be explained.
pub fn configuration(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let sources = Sources {
        file: Some(("fuzz.toml".into(), text.to_owned())),
        env: BTreeMap::from([("STATE_DIRECTORY".to_owned(), "/nonexistent".to_owned())]),
        set: Vec::new(),
        peers: Vec::new(),
        may_write: false,
        over: None,
    };
    match config::load(&sources) {
        Ok(config) => assert!(!config::explain::explain(&config).is_empty()),
        Err(report) => {
            assert!(report.count() > 0);
            assert!(!report.to_string().is_empty());
        }
    }
}

/// What a message bus sends: the same messages in whatever pieces they arrive, and the same is understood of them.
pub fn dbus(data: &[u8]) {
    let Some((&piece, data)) = data.split_first() else {
        return;
    };
    let decode = |piece: usize| {
        let mut inbox = Inbox::default();
        in_pieces(data, piece, |part, seen| {
            inbox.room().extend_from_slice(part);
            while let Some(message) = inbox.next()? {
                seen.push(format!("{message:?} {}", session::understood(&message)));
            }
            Ok(())
        })
    };
    same(&decode(data.len()), &decode(piece.into()));
}

/// A recorded trace, of either format: whatever is read can be heard by every detector, and none is right more often
/// than always.
pub fn trace(data: &[u8]) {
    let Ok(mut lives) = trace::read(data, "fuzz") else {
        return;
    };
    for life in &mut lives {
        Reception::far().receive(life);
    }
    for candidate in trace::as_shipped() {
        let figures = trace::replay(&candidate, &lives, 0);
        let accuracy = figures.accuracy();
        assert!(
            (-1e-9..=1.0).contains(&accuracy),
            "{}: {accuracy}",
            candidate.name
        );
        assert!(
            figures.detection(0.5) <= figures.detection(1.0),
            "{}",
            candidate.name
        );
    }
}

type Read = (Vec<String>, Result<(), String>);

/// What comes out when `data` arrives in pieces of so many bytes, up to the first error.
fn in_pieces(
    data: &[u8],
    piece: usize,
    mut read: impl FnMut(&[u8], &mut Vec<String>) -> Result<(), String>,
) -> Read {
    let mut seen = Vec::new();
    for part in data.chunks(piece.max(1)) {
        if let Err(error) = read(part, &mut seen) {
            return (seen, Err(error));
        }
    }
    (seen, Ok(()))
}

fn same<T: PartialEq + Debug>(whole: &T, pieces: &T) {
    assert_eq!(whole, pieces, "it matters in which pieces it arrives");
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::*;

    fn inputs(target: &str) -> Vec<PathBuf> {
        let files = |kind: &str| {
            let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("fuzz")
                .join(kind)
                .join(target);
            let entries = fs::read_dir(dir).into_iter().flatten();
            entries.map(|entry| entry.unwrap().path()).collect::<Vec<_>>()
        };
        [files("seeds"), files("regressions")].concat()
    }

    #[test]
    fn every_seed_and_every_input_that_once_broke_something_passes() {
        for (target, read) in TARGETS {
            let inputs = inputs(target);
            assert!(!inputs.is_empty(), "{target} has no seed below fuzz/seeds");
            for input in inputs {
                println!("{target}: {}", input.display());
                read(&fs::read(input).unwrap());
            }
        }
    }

    #[test]
    fn every_target_is_a_program_of_its_own() {
        let manifest = include_str!("../fuzz/Cargo.toml");
        for (target, _) in TARGETS {
            assert!(manifest.contains(&format!("name = \"{target}\"")), "{target}");
        }
        assert_eq!(manifest.matches("[[bin]]").count(), TARGETS.len());
    }
}
