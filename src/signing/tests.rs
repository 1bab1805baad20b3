//! What verifies and what does not, with keys as OpenSSL writes them.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::telemetry::metrics::Metrics;

const CHANNEL: &str = "defib:base";
/// 2026, in milliseconds.
const NOW: u64 = 1_770_000_000_000;
const MINUTE: u64 = 60_000;

fn keys() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/keys")
}

fn own(node: &str) -> Source {
    Source::Own {
        key: Secret::File(keys().join(format!("{node}.key"))),
        trusted: keys().join("trusted"),
    }
}

fn shared(key: &str) -> Source {
    Source::Shared(Secret::Inline(key.to_owned()))
}

fn settings(source: Source) -> Settings {
    Settings {
        source,
        window: Duration::from_secs(60),
        require: true,
        heard: PathBuf::new(),
    }
}

/// A node of the group `base`.
struct Node {
    name: Arc<str>,
    boot: Arc<str>,
    keyring: Arc<Keyring>,
    signer: Signer,
    verifier: Verifier,
    metrics: Metrics,
}

impl Node {
    fn new(name: &str, boot: &str, source: Source) -> Self {
        Self::with(name, boot, settings(source))
    }

    fn with(name: &str, boot: &str, settings: Settings) -> Self {
        let metrics = Metrics::new().unwrap();
        let (name, boot): (Arc<str>, Arc<str>) = (name.into(), boot.into());
        let keyring = Arc::new(Keyring::new(&settings, name.clone(), metrics.signing.clone()));
        assert_eq!(keyring.read(), Vec::<String>::new());
        let own = Own {
            node: name.clone(),
            group: "base".into(),
            boot: boot.clone(),
        };
        Self {
            signer: Signer::new(keyring.clone(), "base".into()),
            verifier: Verifier::new(
                keyring.clone(),
                own,
                CHANNEL.into(),
                &settings,
                metrics.signing.clone(),
            ),
            name,
            boot,
            keyring,
            metrics,
        }
    }

    fn says(&self, wall_ms: u64) -> Vec<u8> {
        self.says_as(&self.name, wall_ms)
    }

    fn says_as(&self, node: &str, wall_ms: u64) -> Vec<u8> {
        let body = format!(r#"{{"node":"{node}","boot":"{}","uptime_s":1.5}}"#, self.boot);
        self.signer.sign(CHANNEL, body.into_bytes(), wall_ms).unwrap()
    }

    fn hears(&self, body: &[u8], wall_ms: u64) -> Result<(), Refused> {
        // As a reader of JSON finds them, wherever they stand.
        let read: Option<serde_json::Value> = serde_json::from_slice(body).ok();
        let field = |key: &str| Some(Arc::from(read.as_ref()?.get(key)?.as_str()?));
        let (node, boot): (Option<Arc<str>>, Option<Arc<str>>) = (field("node"), field("boot"));
        let claimed = Claimed {
            node: node.as_ref(),
            boot: boot.as_ref(),
        };
        self.verifier.verify(body, claimed, wall_ms)
    }

    fn refused(&self, refused: Refused) -> u64 {
        self.metrics.signing.refused(refused.as_str()).get()
    }
}

#[test]
fn what_a_node_signs_is_json_and_verifies_at_others_and_at_itself_once() {
    let group = "x".repeat(32);
    for source in [own as fn(&str) -> Source, |_| shared(&"x".repeat(32))] {
        let (a, b) = (
            Node::new("node-a", "a1", source("node-a")),
            Node::new("node-b", "b1", source("node-b")),
        );
        let said = a.says(NOW);
        let value: serde_json::Value = serde_json::from_slice(&said).unwrap();
        assert_eq!(value["node"], "node-a");
        assert_eq!(value["n"], 0);
        assert_eq!(value["sent_ms"], NOW);
        let bare = br#"{"node":"node-a","boot":"a1","uptime_s":1.5}"#.len();
        assert!(
            said.len() <= bare + ROOM,
            "{}: {group}",
            String::from_utf8_lossy(&said)
        );
        for node in [&a, &b] {
            assert_eq!(node.hears(&said, NOW), Ok(()));
            assert_eq!(node.hears(&said, NOW), Err(Refused::Replayed));
            assert_eq!(node.metrics.signing.verified.get(), 1);
            assert_eq!(node.refused(Refused::Replayed), 1);
        }
    }
}

#[test]
fn nobody_speaks_for_another_or_without_a_key() {
    let a = Node::new("node-a", "a1", own("node-a"));
    let b = Node::new("node-b", "b1", own("node-b"));
    let stranger = Node::new("node-c", "c1", own("stranger"));
    let plain = br#"{"node":"node-b","boot":"b1","uptime_s":1.5}"#;
    assert_eq!(a.hears(plain, NOW), Err(Refused::Unsigned));
    assert_eq!(
        a.hears(&b.says_as("node-c", NOW), NOW),
        Err(Refused::WrongIdentity)
    );
    assert_eq!(
        a.hears(&b.says_as("node-a", NOW), NOW),
        Err(Refused::WrongIdentity)
    );
    assert_eq!(a.hears(&stranger.says(NOW), NOW), Err(Refused::UnknownKey));
    let nobody = b
        .signer
        .sign(CHANNEL, br#"{"uptime_s":1.5}"#.to_vec(), NOW)
        .unwrap();
    assert_eq!(a.hears(&nobody, NOW), Err(Refused::WrongIdentity));
    let (ours, theirs) = (
        Node::new("node-a", "a1", shared(&"x".repeat(32))),
        Node::new("node-b", "b1", shared(&"y".repeat(32))),
    );
    assert_eq!(ours.hears(&theirs.says(NOW), NOW), Err(Refused::UnknownKey));
    assert_eq!(a.metrics.signing.verified.get(), 0);
}

#[test]
fn a_message_holds_for_one_channel_and_one_group() {
    let (a, b) = (
        Node::new("node-a", "a1", own("node-a")),
        Node::new("node-b", "b1", own("node-b")),
    );
    let body = || br#"{"node":"node-b","boot":"b1","uptime_s":1.5}"#.to_vec();
    let elsewhere = b.signer.sign("defib:other", body(), NOW).unwrap();
    assert_eq!(a.hears(&elsewhere, NOW), Err(Refused::BadSignature));
    let strangers = Signer::new(b.keyring.clone(), "other".into());
    let of_another = strangers.sign(CHANNEL, body(), NOW).unwrap();
    assert_eq!(a.hears(&of_another, NOW), Err(Refused::BadSignature));
    // `defib:ba` and `se` are not `defib:base` and nothing.
    let shifted = Signer::new(b.keyring.clone(), "ebase".into());
    let shifted = shifted.sign("defib:bas", body(), NOW).unwrap();
    assert_eq!(a.hears(&shifted, NOW), Err(Refused::BadSignature));
}

#[test]
fn an_earlier_run_is_never_a_new_one() {
    let a = Node::new("node-a", "a1", own("node-a"));
    let before = Node::new("node-b", "b1", own("node-b"));
    let recorded: Vec<_> = (0..4).map(|s| before.says(NOW + 1000 * s)).collect();
    for (s, said) in (0..).zip(&recorded) {
        assert_eq!(a.hears(said, NOW + 1000 * s), Ok(()));
    }
    let unheard = before.says(NOW + 4000);
    let after = Node::new("node-b", "b2", own("node-b"));
    assert_eq!(a.hears(&after.says(NOW + 5000), NOW + 5000), Ok(()));
    for said in recorded.iter().chain([&unheard]) {
        assert_eq!(a.hears(said, NOW + 5500), Err(Refused::Replayed));
    }
    assert_eq!(a.hears(&after.says(NOW + 6000), NOW + 6000), Ok(()));
}

#[test]
fn a_node_that_outlives_another_process_of_its_name_is_heard_again_and_no_recording_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("heard.json");
    let a = Node::new("node-a", "a1", own("node-a"));
    let lasting = Node::new("node-b", "b1", own("node-b"));
    let twin = Node::new("node-b", "b2", own("node-b"));
    let recorded = [lasting.says(NOW), lasting.says(NOW + 1000)];
    for said in &recorded {
        assert_eq!(a.hears(said, NOW + 1000), Ok(()));
    }
    let unheard = lasting.says(NOW + 2000);
    let of_twin = twin.says(NOW + 3000);
    assert_eq!(a.hears(&of_twin, NOW + 3000), Ok(()));
    let write = heard::write_soon(path.clone(), a.verifier.memory().all());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(write);
    let again = Node::new("node-a", "a2", own("node-a"));
    again.verifier.restore(&path);
    for node in [&a, &again] {
        for said in recorded.iter().chain([&unheard]) {
            assert_eq!(node.hears(said, NOW + 4000), Err(Refused::Replayed));
        }
    }
    // The twin has ended, and it goes on.
    for s in 5..8 {
        let said = lasting.says(NOW + 1000 * s);
        for node in [&a, &again] {
            assert_eq!(node.hears(&said, NOW + 1000 * s), Ok(()));
            assert_eq!(node.hears(&said, NOW + 1000 * s), Err(Refused::Replayed));
            assert_eq!(node.hears(&of_twin, NOW + 1000 * s), Err(Refused::Replayed));
            assert_eq!(node.hears(&unheard, NOW + 1000 * s), Err(Refused::Replayed));
        }
    }
}

#[test]
fn who_was_never_heard_is_not_heard_from_a_recording() {
    let a = Node::new("node-a", "a1", own("node-a"));
    let b = Node::new("node-b", "b1", own("node-b"));
    let said = b.says(NOW);
    assert_eq!(a.hears(&said, NOW + MINUTE + 1), Err(Refused::Stale));
    assert_eq!(a.hears(&said, NOW - MINUTE - 1), Err(Refused::Stale));
    assert_eq!(a.hears(&said, NOW + MINUTE), Ok(()), "the bound is the window");
}

#[test]
fn s31_a_wall_clock_that_jumps_while_both_run_changes_nothing() {
    let a = Node::new("node-a", "a1", own("node-a"));
    let b = Node::new("node-b", "b1", own("node-b"));
    assert_eq!(a.hears(&b.says(NOW), NOW), Ok(()));
    let hour = 60 * MINUTE;
    // The sender's, either way; then the receiver's, either way; and our own echo.
    for (theirs, ours) in [
        (NOW + hour, NOW),
        (NOW - hour, NOW),
        (NOW, NOW + hour),
        (NOW, NOW - hour),
    ] {
        assert_eq!(a.hears(&b.says(theirs), ours), Ok(()));
        assert_eq!(a.hears(&a.says(ours), ours), Ok(()));
    }
    // And a clock that was an hour ahead shuts nobody out when it is set right.
    assert_eq!(a.hears(&b.says(NOW + hour), NOW), Ok(()));
    let again = Node::new("node-b", "b2", own("node-b"));
    assert_eq!(a.hears(&again.says(NOW), NOW), Ok(()));
}

#[test]
fn a_second_node_of_our_name_does_not_make_us_deaf() {
    let (a, twin) = (
        Node::new("node-a", "a1", own("node-a")),
        Node::new("node-a", "a2", own("node-a")),
    );
    for s in 0..4 {
        let ahead = NOW + 1000 * s + 30_000;
        assert_eq!(
            a.hears(&twin.says(ahead), NOW + 1000 * s),
            Ok(()),
            "it is to be told"
        );
        assert_eq!(a.hears(&a.says(NOW + 1000 * s), NOW + 1000 * s), Ok(()));
    }
}

#[test]
fn what_an_earlier_run_of_ours_heard_is_no_news_to_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("heard.json");
    let b = Node::new("node-b", "b1", own("node-b"));
    let (first, second, third) = (b.says(NOW), b.says(NOW + 1000), b.says(NOW + 2000));
    let a = Node::new("node-a", "a1", own("node-a"));
    a.verifier.restore(&path);
    assert_eq!(a.hears(&first, NOW), Ok(()));
    assert_eq!(a.hears(&second, NOW + 1000), Ok(()));
    let write = heard::write_soon(path.clone(), a.verifier.memory().all());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(write);

    let a = Node::new("node-a", "a2", own("node-a"));
    a.verifier.restore(&path);
    assert_eq!(a.hears(&second, NOW + 2000), Err(Refused::Replayed));
    // Of the run that was known, and recorded while this node was away:
    assert_eq!(a.hears(&third, NOW + 2000 + MINUTE + 1), Err(Refused::Stale));
    assert_eq!(a.hears(&third, NOW + 2000), Ok(()));
    for broken in [&b"{"[..], b"{\"version\":2,\"nodes\":{}}", &[0xff; 100]] {
        fs::write(&path, broken).unwrap();
        let a = Node::new("node-a", "a3", own("node-a"));
        a.verifier.restore(&path);
        assert_eq!(a.hears(&second, NOW + 2000), Ok(()), "only the window is left");
    }
}

#[test]
fn a_group_that_is_changed_over_believes_what_is_not_signed_and_nothing_that_is_forged() {
    let a = Node::with(
        "node-a",
        "a1",
        Settings {
            require: false,
            ..settings(own("node-a"))
        },
    );
    let plain = br#"{"node":"node-b","boot":"b1","uptime_s":1.5}"#;
    assert_eq!(a.hears(plain, NOW), Ok(()));
    assert_eq!(a.refused(Refused::Unsigned), 1);
    let b = Node::new("node-b", "b1", own("node-b"));
    assert_eq!(
        a.hears(&b.says_as("node-c", NOW), NOW),
        Err(Refused::WrongIdentity)
    );
}

#[test]
fn a_shared_key_remembers_no_more_names_than_a_group_has_nodes() {
    let key = || shared(&"x".repeat(32));
    let (mut a, b) = (Node::new("node-a", "a1", key()), Node::new("node-b", "b1", key()));
    a.verifier = a.verifier.expecting(["expected".into(), "and-later".into()]);
    let flood = b.says_as("n7", NOW);
    assert_eq!(a.hears(&flood, NOW), Ok(()));
    for number in (0..4096).filter(|number| *number != 7) {
        assert_eq!(a.hears(&b.says_as(&format!("n{number}"), NOW), NOW), Ok(()));
    }
    assert_eq!(a.hears(&b.says_as("one-more", NOW), NOW), Err(Refused::TooMany));
    assert_eq!(a.hears(&b.says_as("n8", NOW), NOW), Ok(()));
    assert_eq!(
        a.hears(&b.says_as("expected", NOW), NOW),
        Ok(()),
        "it is waited for"
    );
    // What they said is too old for anybody to say it again: there is room, and what a date can tell is told by it.
    let later = NOW + 2 * MINUTE;
    assert_eq!(
        a.hears(&b.says_as("one-more", later), later),
        Err(Refused::TooMany)
    );
    let later = later + 1;
    assert_eq!(a.hears(&b.says_as("one-more", later), later), Ok(()));
    assert_eq!(
        a.verifier.memory().all().len(),
        2,
        "and with it, the one that is waited for"
    );
    assert_eq!(a.hears(&flood, later), Err(Refused::Stale));
    assert_eq!(
        a.hears(&b.says_as("n7", later), later),
        Ok(()),
        "it is heard anew"
    );
}

/// A clock that was an hour ahead dated them so that an hour later no date tells them from news.
#[test]
fn a_recording_of_an_earlier_run_is_none_of_another_also_after_a_restart_of_whoever_hears_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("heard.json");
    let hour = 60 * MINUTE;
    let runs: Vec<Node> = (0..10)
        .map(|run| Node::new("node-b", &format!("b{run}"), own("node-b")))
        .collect();
    let a = Node::new("node-a", "a1", own("node-a"));
    let mut recorded = Vec::new();
    for (second, run) in (0u64..).zip(&runs) {
        let now = NOW + 1000 * second;
        assert_eq!(a.hears(&run.says(now), now), Ok(()));
        // (Its clock jumps while it runs, which changes nothing.)
        recorded.push(run.says(NOW + hour));
        assert_eq!(a.hears(&run.says(NOW + hour - 1), now), Ok(()));
        if second < 9 {
            // Nobody heard it: no number tells it, either.
            recorded.push(run.says(NOW + hour));
        }
    }
    let ours = a.says(NOW + hour);
    let write = heard::write_soon(path.clone(), {
        assert_eq!(a.hears(&a.says(NOW), NOW), Ok(()));
        a.verifier.memory().all()
    });
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(write);
    let again = Node::new("node-a", "a2", own("node-a"));
    again.verifier.restore(&path);
    for node in [&a, &again] {
        for recording in &recorded[2..] {
            assert_eq!(node.hears(recording, NOW + hour), Err(Refused::Replayed));
        }
    }
    assert_eq!(again.hears(&ours, NOW + hour), Err(Refused::Replayed), "its own");
    let new = Node::new("node-b", "b10", own("node-b"));
    assert_eq!(again.hears(&new.says(NOW + hour), NOW + hour), Ok(()));
}

#[test]
fn keys_follow_their_files_and_stay_where_those_cannot_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let (key, trusted) = (dir.path().join("node.key"), dir.path().join("trusted"));
    let copy = |from: &str, to: &Path| fs::copy(keys().join(from), to).map(drop).unwrap();
    fs::create_dir(&trusted).unwrap();
    copy("node-b.key", &key);
    copy("trusted/node-b.pub", &trusted.join("node-b.pub"));
    fs::write(trusted.join("README"), "no key").unwrap();
    let source = Source::Own {
        key: Secret::File(key.clone()),
        trusted: trusted.clone(),
    };
    let metrics = Metrics::new().unwrap();
    let ring = Keyring::new(&settings(source), "node-b".into(), metrics.signing.clone());
    assert_eq!(ring.read(), Vec::<String>::new());
    assert_eq!(ring.read_if_changed(), None);
    let first = ring.current().own().unwrap().id();
    assert_eq!(ring.current().len(), 1);

    // A broken private key, and a broken public one: what was there stays, and the rest follows.
    fs::write(&key, "-----BEGIN PRIVATE KEY-----\n").unwrap();
    fs::write(trusted.join("node-b.pub"), "nonsense").unwrap();
    copy("trusted/node-c.pub", &trusted.join("node-c.pub"));
    let faults = ring.read_if_changed().unwrap();
    assert_eq!(faults.len(), 2, "{faults:?}");
    assert!(faults[0].contains("openssl genpkey"), "{faults:?}");
    assert!(faults[1].contains("node-b.pub"), "{faults:?}");
    assert!(!faults.concat().contains("nonsense"), "{faults:?}");
    assert_eq!(ring.current().own().unwrap().id(), first);
    assert!(ring.current().trusts("node-b") && ring.current().trusts("node-c"));

    // Another key, and two public ones for the time of the change.
    copy("node-a.key", &key);
    let both = ["trusted/node-b.pub", "trusted/node-a.pub"].map(|file| fs::read(keys().join(file)).unwrap());
    fs::write(trusted.join("node-b.pub"), both.concat()).unwrap();
    assert_eq!(ring.read_if_changed(), Some(Vec::new()));
    assert_ne!(ring.current().own().unwrap().id(), first);
    assert!(
        ring.current().find(first, "node-b").is_ok(),
        "the old one still verifies"
    );
    assert_eq!(ring.current().len(), 3);

    // Trust that is withdrawn ends at once.
    fs::remove_file(trusted.join("node-c.pub")).unwrap();
    assert_eq!(ring.read_if_changed(), Some(Vec::new()));
    assert!(!ring.current().trusts("node-c"));
    fs::remove_dir_all(&trusted).unwrap();
    assert_eq!(ring.read_if_changed().map(|faults| faults.len()), Some(1));
    assert!(
        ring.current().trusts("node-b"),
        "a volume that went away withdraws nothing"
    );
}

#[test]
fn what_is_no_key_is_refused_with_the_cure() {
    let dir = tempfile::tempdir().unwrap();
    let file = |text: &str| {
        let path = dir.path().join("key");
        fs::write(&path, text).unwrap();
        Secret::File(path)
    };
    let fault = |source: Source| {
        let (keys, faults) = keys::read(&source, &"node-a".into(), &keys::Keys::default());
        assert!(keys.own().is_none());
        faults.concat()
    };
    for (text, says) in [
        ("", "holds 0 keys"),
        ("short", "less than 32 bytes"),
        (
            &format!("{}\n{}", "x".repeat(32), "short"),
            "openssl rand -hex 32",
        ),
        (&format!("{}\n", "x".repeat(32)).repeat(9), "holds 9 keys"),
    ] {
        let told = fault(Source::Shared(file(text)));
        assert!(told.contains(says), "{text:?}: {told}");
    }
    let public = fs::read_to_string(keys().join("trusted/node-a.pub")).unwrap();
    for text in ["", "x", &public, &"\0".repeat(1000)] {
        let told = fault(Source::Own {
            key: file(text),
            trusted: keys().join("trusted"),
        });
        assert!(told.contains("no Ed25519 key in PKCS#8 PEM"), "{text:?}: {told}");
    }
}

proptest! {
    #[test]
    fn any_byte_that_differs_is_refused(place in 0usize..400, flip in 1u8..=255, ed25519 in any::<bool>()) {
        let key = |node: &str| if ed25519 { own(node) } else { shared(&"x".repeat(32)) };
        let (a, b) = (Node::new("node-a", "a1", key("node-a")), Node::new("node-b", "b1", key("node-b")));
        let mut said = b.says(NOW);
        let place = place % said.len();
        said[place] ^= flip;
        prop_assert!(a.hears(&said, NOW).is_err());
        said[place] ^= flip;
        prop_assert_eq!(a.hears(&said, NOW), Ok(()), "what was refused is remembered by nobody");
    }

    #[test]
    fn any_byte_more_or_less_is_refused(place in 0usize..400, byte in any::<u8>(), cut in any::<bool>()) {
        let (a, b) = (Node::new("node-a", "a1", own("node-a")), Node::new("node-b", "b1", own("node-b")));
        let mut said = b.says(NOW);
        let place = place % said.len();
        if cut { said.remove(place); } else { said.insert(place, byte); }
        prop_assert!(a.hears(&said, NOW).is_err());
    }

    #[test]
    fn nothing_panics(body in proptest::collection::vec(any::<u8>(), 0..600)) {
        let a = Node::new("node-a", "a1", own("node-a"));
        prop_assert!(a.hears(&body, NOW).is_err());
    }
}

#[test]
fn what_comes_another_way_is_no_replay_there_and_none_that_is_older() {
    let a = Node::new("node-a", "a1", own("node-a"));
    let b = Node::new("node-b", "b1", own("node-b"));
    let bus = Arc::new(b.verifier);
    let other = Verifier::beside(&bus);
    let hears = |verifier: &Verifier, body: &[u8], boot: &str| {
        let (node, boot): (Arc<str>, Arc<str>) = ("node-a".into(), boot.into());
        let claimed = Claimed {
            node: Some(&node),
            boot: Some(&boot),
        };
        verifier.verify(body, claimed, NOW)
    };
    let said: Vec<Vec<u8>> = (0..4).map(|_| a.says(NOW)).collect();
    assert_eq!(hears(&bus, &said[0], "a1"), Ok(()));
    assert_eq!(hears(&bus, &said[1], "a1"), Ok(()));
    assert_eq!(
        hears(&other, &said[0], "a1"),
        Err(Refused::Replayed),
        "the bus has brought a later one"
    );
    assert_eq!(hears(&other, &said[1], "a1"), Ok(()), "the very same");
    assert_eq!(hears(&other, &said[1], "a1"), Err(Refused::Replayed), "twice");
    assert_eq!(hears(&other, &said[3], "a1"), Ok(()));
    assert_eq!(
        hears(&bus, &said[2], "a1"),
        Ok(()),
        "nothing is lost on the bus for it"
    );
    // A run that the bus knows to be over.
    let earlier = Node::new("node-a", "a0", own("node-a"));
    let recorded = earlier.says(NOW - 1);
    assert_eq!(hears(&other, &recorded, "a0"), Err(Refused::Replayed));
    let next = Node::new("node-a", "a2", own("node-a"));
    assert_eq!(hears(&other, &next.says(NOW + 1), "a2"), Ok(()));
}
