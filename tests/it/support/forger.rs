//! A node's engine in virtual time under a hostile publisher, beside the same engine without one. For the tests, and for
//! the million messages of docs/measurements.md.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use defib::bus::{Intake, NoHeartbeat, heartbeat};
use defib::config::{self, Sources};
use defib::engine::Engine;
use defib::engine::decision::Decision;
use defib::engine::event::{Body, Event, Link, LinkStatus, Role};
use defib::engine::persist::{Persisted, Restored, VERSION};
use defib::engine::settings::Settings;
use defib::engine::time::Time;
use defib::secret::Secret;
use defib::signing::{self, Keyring, Own, ROOM, Signer, Source, Verifier};
use defib::telemetry::metrics::Metrics;

const CHANNEL: &str = "defib:base";
/// The wall clock at the begin, in milliseconds.
const WALL: u64 = 1_770_000_000_000;
/// Forged messages between two genuine rounds of heartbeats.
const A_SECOND: u64 = 100;
/// The two others start again so often, in seconds.
const RESTART_EVERY: u64 = 97;

/// Two remote peers, one of them known by what its node says of it, which would be healed at once if they were dead.
const CONFIGURATION: &str = r#"
    node = "node-a"
    group = "base"
    bus = { url = "redis://127.0.0.1:1", settle = "0s" }
    [peer.b]
    single_observer = true
    checks.heartbeat = { node = "node-b" }
    remedies = [{ do = "exec", command = ["false"] }]
    [peer.app]
    single_observer = true
    checks.app = { type = "heartbeat", node = "node-b", peer = "app" }
    remedies = [{ do = "exec", command = ["false"] }]
    [peer.c]
    checks.heartbeat = { node = "node-c" }
    remedies = [{ do = "log" }]
"#;

/// How the group signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signed {
    /// With a key for each node; the forger has the one of `node-c`.
    Own,
    /// With one for the group, which the forger does not have.
    Shared,
    /// Not at all.
    Not,
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// Messages that the forger published.
    pub(crate) forged: u64,
    /// How many of them the engine was handed.
    pub(crate) believed: u64,
    /// Virtual time.
    pub(crate) seconds: u64,
    /// Seconds in which the two engines decided differently, or knew or kept different things at the end.
    pub(crate) differences: u64,
    /// Remedies that were granted under attack.
    pub(crate) granted: u64,
    /// Genuine messages that were refused.
    pub(crate) lost: u64,
    /// Forged ones by why they were refused; `unreadable` if they were no heartbeats.
    pub(crate) refused: BTreeMap<&'static str, u64>,
}

/// Has `messages` messages forged, told again, and said in others' names. The same for the same seed.
pub(crate) fn attack(messages: u64, seed: u64, signed: Signed) -> Outcome {
    let mut group = Group::new(signed);
    let mut forger = Forger::new(seed, signed);
    let (mut alone, mut attacked) = (Observer::new(signed), Observer::new(signed));
    let mut outcome = Outcome::default();
    while outcome.forged < messages {
        let second = outcome.seconds;
        let now = Duration::from_secs(second);
        let genuine = group.speak(second);
        for observer in [&mut alone, &mut attacked] {
            observer.tick(now);
            for body in &genuine {
                outcome.lost += u64::from(observer.hear(body, now).is_err());
            }
            outcome.lost += observer.echo(now, &mut forger);
        }
        forger.records(genuine);
        for number in 0..A_SECOND.min(messages - outcome.forged) {
            let at = now + Duration::from_secs(1) * u32::try_from(number).unwrap() / 1001;
            let body = forger.forge(&group, millis(at));
            outcome.forged += 1;
            match attacked.hear(&body, at) {
                Ok(()) => outcome.believed += 1,
                Err(why) => *outcome.refused.entry(why).or_default() += 1,
            }
        }
        let (a, b) = (alone.take_decisions(), attacked.take_decisions());
        outcome.granted += b
            .iter()
            .filter(|decision| matches!(decision, Decision::Heal(_)))
            .count() as u64;
        let at = time(now + Duration::from_millis(999));
        let same = a == b
            && alone.engine.snapshot(at) == attacked.engine.snapshot(at)
            && alone.engine.persisted() == attacked.engine.persisted();
        outcome.differences += u64::from(!same);
        outcome.seconds += 1;
    }
    outcome
}

fn keys() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/keys")
}

fn settings(node: &str, signed: Signed) -> signing::Settings {
    signing::Settings {
        source: match signed {
            Signed::Own | Signed::Not => Source::Own {
                key: Secret::File(keys().join(format!("{node}.key"))),
                trusted: keys().join("trusted"),
            },
            Signed::Shared => Source::Shared(Secret::Inline(format!("{}-{signed:?}", "x".repeat(32)))),
        },
        window: Duration::from_secs(60),
        require: true,
        heard: PathBuf::new(),
    }
}

fn keyring(settings: &signing::Settings, node: &str, metrics: &Metrics) -> Arc<Keyring> {
    let ring = Keyring::new(settings, node.into(), metrics.signing.clone());
    assert_eq!(ring.read(), Vec::<String>::new());
    Arc::new(ring)
}

fn signer(node: &str, signed: Signed, group: &str) -> Signer {
    let metrics = Metrics::new().unwrap();
    Signer::new(keyring(&settings(node, signed), node, &metrics), group.into())
}

fn millis(now: Duration) -> u64 {
    WALL + u64::try_from(now.as_millis()).unwrap()
}

fn time(now: Duration) -> Time {
    Time::from_origin(now)
}

/// What a node says: it lives, and so does its application, unless `rest` says otherwise.
fn body(node: &str, boot: &str, slot: u64, rest: &str) -> Vec<u8> {
    format!(
        r#"{{"v":1,"node":"{node}","group":"base","boot":"{boot}","slot":{slot},"late_ms":0,"uptime_s":{slot}.5,"wall_ts":1770000000.1,"interval_ms":1000{rest}}}"#
    )
    .into_bytes()
}

const ALIVE: &str = r#","peers":[{"name":"app","liveness":"alive","incarnation":"ctr:1:1"}]"#;
const DEAD: &str = r#","peers":[{"name":"app","liveness":"dead","incarnation":"ctr:6:6"}]"#;
const GOODBYE: &str = r#","goodbye":true"#;

/// The genuine nodes b and c.
struct Group {
    signed: Signed,
    nodes: [(&'static str, Signer); 2],
    run: u64,
    slot: u64,
}

impl Group {
    fn new(signed: Signed) -> Self {
        Self {
            signed,
            nodes: ["node-b", "node-c"].map(|node| (node, signer(node, signed, "base"))),
            run: 0,
            slot: 0,
        }
    }

    fn boot(&self, node: &str) -> String {
        format!("{node}-{}", self.run)
    }

    fn speak(&mut self, second: u64) -> Vec<Vec<u8>> {
        self.run = second / RESTART_EVERY;
        self.slot = second % RESTART_EVERY;
        let speak = |(node, signer): &(&'static str, Signer)| {
            let body = body(node, &self.boot(node), self.slot, ALIVE);
            sign(signer, self.signed, body, millis(Duration::from_secs(second)))
        };
        self.nodes.iter().map(speak).collect()
    }
}

fn sign(signer: &Signer, signed: Signed, body: Vec<u8>, wall_ms: u64) -> Vec<u8> {
    match signed {
        Signed::Not => body,
        Signed::Own | Signed::Shared => signer.sign(CHANNEL, body, wall_ms).unwrap(),
    }
}

/// Node a: its engine, and what stands before it.
struct Observer {
    engine: Engine,
    intake: Intake,
    signer: Signer,
    signed: Signed,
    channel: Arc<str>,
    decided: Vec<Decision>,
    published: Vec<(u64, Vec<u8>)>,
}

impl Observer {
    fn new(signed: Signed) -> Self {
        let settings = engine_settings();
        let experienced = Persisted {
            version: VERSION,
            ..Persisted::default()
        };
        let restored = Restored::Found(Box::new(experienced), Duration::ZERO);
        let mut engine = Engine::new(settings, &restored, 1, Time::ZERO);
        for link in Link::ALL {
            let (role, plain) = (Role::Master, true);
            let status = LinkStatus::Up { role, plain };
            engine.handle(Event::Link { link, status }, Time::ZERO);
        }
        let metrics = Metrics::new().unwrap();
        let signing = self::settings("node-a", signed);
        let ring = keyring(&signing, "node-a", &metrics);
        let own = Own {
            node: "node-a".into(),
            group: "base".into(),
            boot: "a1".into(),
        };
        let (channel, counted) = (Arc::from(CHANNEL), metrics.signing.clone());
        let verifier = Verifier::new(Arc::clone(&ring), own, Arc::clone(&channel), &signing, counted);
        let verifier = (signed != Signed::Not).then(|| Arc::new(verifier));
        Self {
            engine,
            intake: Intake::new(Arc::clone(&channel), verifier),
            signer: Signer::new(ring, "base".into()),
            signed,
            channel,
            decided: Vec::new(),
            published: Vec::new(),
        }
    }

    fn tick(&mut self, now: Duration) {
        let links = Link::ALL.map(|link| Event::Link {
            link,
            status: LinkStatus::Up {
                role: Role::Master,
                plain: true,
            },
        });
        // (The loop turns four times a second, and the role is read every other.)
        for quarter in (0..4u64).rev() {
            let at = time(now.saturating_sub(Duration::from_millis(250 * quarter)));
            self.handle(
                Event::Tick {
                    suspended: Duration::ZERO,
                },
                at,
            );
        }
        for link in links {
            self.handle(link, time(now));
        }
    }

    fn handle(&mut self, event: Event, now: Time) {
        self.engine.handle(event, now);
        while let Some(decision) = self.engine.poll_decision() {
            if let Decision::Publish(beat) = &decision {
                let body = heartbeat::encode_within(beat, 1.0, heartbeat::MAX_BYTES - ROOM);
                self.published.push((beat.slot.unwrap(), body));
            }
            self.decided.push(decision);
        }
    }

    fn hear(&mut self, body: &[u8], now: Duration) -> Result<(), &'static str> {
        #[allow(clippy::cast_precision_loss, reason = "a wall clock")]
        let wall = millis(now) as f64 / 1e3;
        let taken = self.intake.take(&self.channel, body, wall);
        let beat = taken.map_err(|why| match why {
            NoHeartbeat::Unreadable(_) => "unreadable",
            NoHeartbeat::Refused(refused) => refused.as_str(),
        })?;
        let (channel, body) = (Arc::clone(&self.channel), Body::Heartbeat(beat));
        self.handle(Event::Message { channel, body }, time(now));
        Ok(())
    }

    /// Its own heartbeats are taken and come back. How many did not.
    fn echo(&mut self, now: Duration, forger: &mut Forger) -> u64 {
        let mut lost = 0;
        for (slot, body) in std::mem::take(&mut self.published) {
            let sent = sign(&self.signer, self.signed, body, millis(now));
            let receivers = 1;
            self.handle(Event::Published { slot, receivers }, time(now));
            lost += u64::from(self.hear(&sent, now).is_err());
            forger.records(vec![sent]);
        }
        lost
    }

    fn take_decisions(&mut self) -> Vec<Decision> {
        std::mem::take(&mut self.decided)
    }
}

fn engine_settings() -> Settings {
    let sources = Sources {
        file: Some(("forged.toml".into(), CONFIGURATION.to_owned())),
        env: BTreeMap::from([("STATE_DIRECTORY".to_owned(), "/nonexistent".to_owned())]),
        ..Sources::default()
    };
    config::load(&sources)
        .unwrap_or_else(|report| panic!("{report}"))
        .engine_settings("a1".into())
}

/// Hears everything, has a trusted key of its own, and says what it likes.
struct Forger {
    random: u64,
    signed: Signed,
    recorded: Vec<Vec<u8>>,
    b: Signer,
    b_in_another_group: Signer,
    c: Signer,
    stranger: Signer,
}

/// Messages that the forger keeps; the older of them are of runs that ended.
const RECORDED: usize = 4096;

impl Forger {
    fn new(seed: u64, signed: Signed) -> Self {
        let keyed = if signed == Signed::Not {
            Signed::Own
        } else {
            signed
        };
        let strange = match keyed {
            Signed::Shared => {
                let settings = signing::Settings {
                    source: Source::Shared(Secret::Inline("y".repeat(32))),
                    ..settings("node-b", keyed)
                };
                let metrics = Metrics::new().unwrap();
                Signer::new(keyring(&settings, "node-b", &metrics), "base".into())
            }
            Signed::Own | Signed::Not => signer("stranger", keyed, "base"),
        };
        Self {
            random: seed,
            signed,
            recorded: Vec::new(),
            b: signer("node-b", keyed, "base"),
            b_in_another_group: signer("node-b", keyed, "other"),
            c: signer("node-c", keyed, "base"),
            stranger: strange,
        }
    }

    /// Splitmix64.
    fn below(&mut self, bound: usize) -> usize {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % bound as u64).unwrap()
    }

    fn records(&mut self, bodies: Vec<Vec<u8>>) {
        for body in bodies {
            if self.recorded.len() < RECORDED {
                self.recorded.push(body);
            } else {
                let place = self.below(RECORDED);
                self.recorded[place] = body;
            }
        }
    }

    fn changed(&mut self, mut body: Vec<u8>) -> Vec<u8> {
        let place = self.below(body.len());
        body[place] ^= 1 << self.below(8);
        body
    }

    /// A body that says the worst of somebody.
    fn lie(&mut self, group: &Group) -> Vec<u8> {
        let node = ["node-b", "node-c", "node-a"][self.below(3)];
        let boot = match (self.below(3), node) {
            (0, _) => format!("evil-{}", self.below(4)),
            (_, "node-a") => "a1".to_owned(),
            (_, node) => group.boot(node),
        };
        let slot = group.slot + self.below(3) as u64 * self.below(1000) as u64;
        let rest = [ALIVE, DEAD, GOODBYE, ""][self.below(4)];
        body(node, &boot, slot, rest)
    }

    fn forge(&mut self, group: &Group, wall_ms: u64) -> Vec<u8> {
        let kinds = if self.signed == Signed::Not { 2 } else { 9 };
        match self.below(kinds) {
            0 => self.lie(group),
            1 => self.told_again(),
            2 => {
                let again = self.told_again();
                self.changed(again)
            }
            3 => {
                // New to everybody, and genuine but for one bit.
                let said = body("node-b", &group.boot("node-b"), group.slot + 1, GOODBYE);
                let said = self.b.sign(CHANNEL, said, wall_ms).unwrap();
                self.changed(said)
            }
            4 => {
                let lie = body("node-b", &group.boot("node-b"), group.slot + 1, DEAD);
                let key = if self.signed == Signed::Own {
                    &self.c
                } else {
                    &self.stranger
                };
                key.sign(CHANNEL, lie, wall_ms).unwrap()
            }
            5 => {
                let lie = self.lie(group);
                self.stranger.sign(CHANNEL, lie, wall_ms).unwrap()
            }
            6 => {
                let lie = self.lie(group);
                self.b.sign("defib:elsewhere", lie, wall_ms).unwrap()
            }
            7 => {
                let lie = self.lie(group);
                self.b_in_another_group.sign(CHANNEL, lie, wall_ms).unwrap()
            }
            _ => {
                let lie = self.lie(group);
                let mut said = self.b.sign(CHANNEL, lie, wall_ms).unwrap();
                let len = self.below(said.len());
                said.truncate(len);
                said
            }
        }
    }

    fn told_again(&mut self) -> Vec<u8> {
        let place = self.below(self.recorded.len());
        self.recorded[place].clone()
    }
}
