//! Notifications, with real receivers: good ones, bad ones, a Python that checks the signature, and Prometheus's own
//! Alertmanager.

mod alertmanager;
mod command_line;
mod config;
mod receiver;

use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use defib::engine::cause::Cause;
use defib::engine::decision::{Notice, What};
use defib::engine::event::RemedyOutcome;
use defib::engine::peer::Liveness;
use defib::engine::settings::RemedyKind;
use defib::engine::snapshot::{EpisodePhase, EpisodeView, Snapshot};
use defib::engine::time::{Clock, Time};
use defib::notify::template::{Escape, Template};
use defib::notify::{Desk, Event, Kind, Sender, Surroundings, Target, tasks};
use defib::runtime::clock::MonotonicClock;
use defib::secret::Secret;
use defib::telemetry::metrics::Metrics;
use tokio::sync::{broadcast, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::checks::{Process, until};
use crate::remedies::{grant, life};
use crate::support::available;
use crate::support::node::Node;
use receiver::{Behaviour, Receiver};

const S: Duration = Duration::from_secs(1);
/// Nothing here takes nearly as long.
const BOUND: Duration = Duration::from_secs(60);

fn target(name: &str, receiver: &Receiver) -> Target {
    Target {
        name: name.into(),
        kind: Kind::Json {
            template: None,
            escape: Escape::Json,
        },
        url: Secret::Inline(receiver.url()),
        headers: vec![("X-Token".to_owned(), Secret::Inline("t0ken".to_owned()))],
        bearer: None,
        hmac: Some(Secret::Inline("key".to_owned())),
        events: Event::ALL.iter().copied().collect(),
        peers: None,
        timeout: 10 * S,
        retry_for: 900 * S,
    }
}

/// The tasks that tell, as a node runs them, and a loop's end of the channel.
struct Telling {
    notices: broadcast::Sender<Arc<Notice>>,
    snapshots: watch::Sender<Option<Arc<Snapshot>>>,
    clock: Arc<dyn Clock>,
    running: JoinSet<anyhow::Result<()>>,
    cancel: CancellationToken,
    metrics: Metrics,
    desk: Desk,
}

impl Telling {
    fn start(targets: Vec<Target>) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(MonotonicClock::start());
        let (notices, heard) = broadcast::channel(16);
        let (snapshots, seen) = watch::channel(None);
        let metrics = Metrics::new().unwrap();
        let around = Surroundings {
            sender: Sender {
                node: "node-a".into(),
                group: "g".into(),
                boot: "b".into(),
                dry_run: false,
            },
            notices: heard,
            snapshots: seen,
            clock: Arc::clone(&clock),
            seed: 7,
            deadline: 10 * S,
            metrics: metrics.notify.clone(),
        };
        let cancel = CancellationToken::new();
        let mut running = JoinSet::new();
        let (tasks, desk) = tasks(targets, around);
        for task in tasks {
            running.spawn((task.start)(cancel.clone()));
        }
        Self {
            notices,
            snapshots,
            clock,
            running,
            cancel,
            metrics,
            desk,
        }
    }

    async fn tell(&self, peer: &str, what: What) {
        let notice = Notice {
            n: 0,
            at: self.clock.now(),
            peer: (!peer.is_empty()).then(|| peer.into()),
            what,
        };
        self.notices.send(Arc::new(notice)).unwrap();
        // As the loop gives the thread away.
        tokio::task::yield_now().await;
    }

    async fn opens(&self, peer: &str, episode: u64) {
        let cause = Cause::PeerStuck;
        self.tell(peer, What::EpisodeOpened { episode, cause }).await;
    }

    async fn recovers(&self, peer: &str, episode: u64) {
        let (remedies, after_ms) = (1, 12_000);
        let what = What::Recovered {
            episode,
            remedies,
            after_ms,
        };
        self.tell(peer, what).await;
    }

    fn count(&self, name: &str, target: &str, label: &str, value: &str) -> u64 {
        let families = self.metrics.registry.gather();
        let family = families.iter().find(|family| family.name() == name).unwrap();
        let is_meant = |metric: &&prometheus::proto::Metric| {
            let has = |name: &str, value: &str| {
                metric
                    .get_label()
                    .iter()
                    .any(|pair| pair.name() == name && pair.value() == value)
            };
            has("target", target) && has(label, value)
        };
        let metric = family.get_metric().iter().find(is_meant).unwrap();
        count(metric)
    }

    fn missed(&self) -> u64 {
        let families = self.metrics.registry.gather();
        let name = "defib_notification_notices_missed_total";
        let family = families.iter().find(|family| family.name() == name).unwrap();
        count(&family.get_metric()[0])
    }

    fn outcome(&self, target: &str, outcome: &str) -> u64 {
        self.count("defib_notifications_total", target, "outcome", outcome)
    }

    fn answers(&self, target: &str, answer: &str) -> u64 {
        self.count("defib_notification_attempts_total", target, "answer", answer)
    }

    /// Ends as a node does, and waits for all tasks.
    async fn end(&mut self) {
        self.cancel.cancel();
        let ended = async { while self.running.join_next().await.is_some() {} };
        tokio::time::timeout(BOUND, ended).await.expect("it does not end");
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
fn count(metric: &prometheus::proto::Metric) -> u64 {
    metric.get_counter().get_value().round() as u64
}

/// The few lines of Python in docs/notifications.md.
fn verifier() -> &'static str {
    let docs = include_str!("../../../docs/notifications.md");
    let (_, rest) = docs.split_once("```python\n").unwrap();
    rest.split_once("```").unwrap().0
}

/// What that Python says of a message.
fn python_says(body: &str, signature: &str, key: &str, now: &str) -> String {
    let mut python = Command::new("python3")
        .args(["-c", &format!("{}\nimport sys\nprint(genuine(sys.stdin.buffer.read(), sys.argv[1], sys.argv[2], float(sys.argv[3])))", verifier())])
        .args([signature, key, now])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    python.stdin.take().unwrap().write_all(body.as_bytes()).unwrap();
    let output = python.wait_with_output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[tokio::test]
async fn each_change_is_told_in_order_and_a_python_verifies_it() {
    if !available("python3", Command::new("python3").arg("-V").output().is_ok()) {
        return;
    }
    let receiver = Receiver::good();
    let telling = Telling::start(vec![target("chat", &receiver)]);
    telling.opens("feed", 1).await;
    let granted = What::Granted {
        episode: 1,
        token: 9,
        kind: RemedyKind::Docker,
        cause: Cause::PeerStuck,
        attempt: 1,
    };
    telling.tell("feed", granted).await;
    telling.recovers("feed", 1).await;
    until(|| receiver.got().len() == 3).await;
    assert_eq!(receiver.took(), ["episode_opened", "granted", "recovered"]);
    let got = receiver.got().remove(1);
    assert_eq!(got.path, "/hook/s3cret");
    assert_eq!(got.headers["content-type"], "application/json");
    assert_eq!(got.headers["x-token"], "t0ken");
    assert_eq!(got.headers["x-defib-id"], got.json()["id"].as_str().unwrap());
    assert_eq!(got.json()["remedy"], "docker");
    let signature = &got.headers["x-defib-signature"];
    let seconds = signature["t=".len()..].split(',').next().unwrap();
    assert_eq!(python_says(&got.body, signature, "key", seconds), "True");
    assert_eq!(
        python_says(&format!("{} ", got.body), signature, "key", seconds),
        "False"
    );
    assert_eq!(python_says(&got.body, signature, "another key", seconds), "False");
    let late = (seconds.parse::<u64>().unwrap() + 301).to_string();
    assert_eq!(
        python_says(&got.body, signature, "key", &late),
        "False",
        "too old"
    );
    assert_eq!(python_says(&got.body, "t=x,v1", "key", seconds), "False");
    until(|| telling.outcome("chat", "sent") == 3).await;
}

#[tokio::test]
async fn a_receiver_that_misbehaves_is_tried_again_and_holds_up_no_other() {
    let later = [
        Behaviour::Answers(500, ""),
        Behaviour::Answers(429, "Retry-After: 1\r\n"),
        Behaviour::Vanishes,
        Behaviour::Hangs,
    ];
    let bad: Vec<Receiver> = later.iter().cloned().map(Receiver::start).collect();
    let good = Receiver::good();
    let mut targets: Vec<Target> = bad
        .iter()
        .enumerate()
        .map(|(index, receiver)| Target {
            // That the one that hangs is given up on is what is tested.
            timeout: if later[index] == Behaviour::Hangs {
                S
            } else {
                10 * S
            },
            ..target(&format!("bad-{index}"), receiver)
        })
        .collect();
    targets.push(target("good", &good));
    let telling = Telling::start(targets);
    telling.opens("feed", 1).await;
    until(|| bad.iter().all(|receiver| !receiver.got().is_empty())).await;
    // While they fail, the newest state replaces the others; the good one is told both.
    telling.recovers("feed", 1).await;
    until(|| good.took().len() == 2).await;
    for (index, receiver) in bad.iter().enumerate() {
        let name = format!("bad-{index}");
        until(|| telling.answers(&name, "later") >= 1).await;
        receiver.behaves(Behaviour::Answers(204, ""));
    }
    until(|| bad.iter().all(|receiver| !receiver.took().is_empty())).await;
    for (index, receiver) in bad.iter().enumerate() {
        let name = format!("bad-{index}");
        until(|| telling.outcome(&name, "sent") == 1).await;
        assert_eq!(receiver.took(), ["recovered"], "{:?}", later[index]);
        assert_eq!(telling.outcome(&name, "coalesced"), 1);
        let last = receiver.got().pop().unwrap();
        assert_eq!(last.json()["skipped"], 1);
    }
    assert_eq!(good.took(), ["episode_opened", "recovered"]);
    assert_eq!(telling.answers("good", "later"), 0);
}

#[tokio::test]
async fn who_does_not_want_a_message_is_not_asked_again_and_who_took_it_is_not_told_twice() {
    let moved = Behaviour::Answers(307, "Location: http://127.0.0.1:1/\r\n");
    for (behaviour, outcome) in [
        (moved, "failed"),
        (Behaviour::Answers(404, ""), "failed"),
        (Behaviour::Dawdles, "sent"),
    ] {
        let receiver = Receiver::start(behaviour.clone());
        let mut chat = target("chat", &receiver);
        // Whoever dawdles is waited for so long, twice.
        chat.timeout = 5 * S;
        let telling = Telling::start(vec![chat]);
        telling.opens("feed", 1).await;
        until(|| telling.outcome("chat", outcome) == 1).await;
        telling.recovers("feed", 1).await;
        until(|| telling.outcome("chat", outcome) == 2).await;
        assert_eq!(receiver.got().len(), 2, "{behaviour:?}");
    }
}

#[tokio::test]
async fn what_waits_at_the_end_goes_out_and_nobody_holds_up_the_end() {
    let (good, hanging) = (Receiver::good(), Receiver::start(Behaviour::Hangs));
    let mut slow = target("hanging", &hanging);
    slow.timeout = 60 * S;
    let mut telling = Telling::start(vec![target("good", &good), slow]);
    telling.opens("feed", 1).await;
    until(|| !hanging.got().is_empty()).await;
    let drain = What::Operator {
        request: "drain",
        by: "a test".to_owned(),
        detail: String::new(),
    };
    telling.tell("", drain).await;
    telling.recovers("feed", 1).await;
    telling.end().await;
    assert_eq!(good.took(), ["episode_opened", "recovered"]);
    let left = telling.outcome("hanging", "dropped") + telling.outcome("hanging", "coalesced");
    assert_eq!((left, telling.outcome("hanging", "sent")), (2, 0));
}

#[tokio::test]
async fn notices_that_are_missed_are_made_up_for_by_the_next_snapshot() {
    let receiver = Receiver::good();
    let telling = Telling::start(vec![target("chat", &receiver)]);
    telling.snapshots.send_replace(Some(Arc::new(snapshot(&telling))));
    telling.opens("feed", 1).await;
    until(|| receiver.got().len() == 1).await;
    // More at once than the channel holds: nobody runs in between. The episode ends among what is lost.
    let noise = || What::Stalled { for_ms: 1 };
    for number in 0..100 {
        let what = if number == 50 {
            What::EpisodeClosed {
                episode: 1,
                detail: "it left".to_owned(),
            }
        } else {
            noise()
        };
        let (at, peer) = (telling.clock.now(), (number == 50).then(|| "feed".into()));
        telling
            .notices
            .send(Arc::new(Notice { n: 0, at, peer, what }))
            .unwrap();
    }
    until(|| telling.missed() > 0).await;
    telling.snapshots.send_replace(Some(Arc::new(snapshot(&telling))));
    until(|| receiver.got().len() > 1).await;
    let closed = receiver.got().remove(1);
    assert_eq!(closed.event(), "episode_closed");
    let text = closed.json()["text"].as_str().unwrap().to_owned();
    assert!(text.contains("no time to tell"), "{text}");
}

#[tokio::test]
async fn a_give_up_that_was_missed_is_told_by_the_first_snapshot_that_is_newer() {
    let receiver = Receiver::good();
    let telling = Telling::start(vec![target("chat", &receiver)]);
    let early = snapshot(&telling);
    telling.snapshots.send_replace(Some(Arc::new(early.clone())));
    telling.opens("feed", 1).await;
    until(|| receiver.got().len() == 1).await;
    let tell = |peer: Option<&str>, what: What| {
        let (at, peer) = (telling.clock.now(), peer.map(Arc::from));
        let notice = Notice { n: 0, at, peer, what };
        telling.notices.send(Arc::new(notice)).unwrap();
    };
    for _ in 0..100 {
        tell(None, What::Stalled { for_ms: 1 });
    }
    until(|| telling.missed() > 0).await;
    // What is heard of the peer now is newer than this snapshot, which therefore says nothing of it.
    let (episode, cause) = (1, Cause::PeerStuck);
    let detail = "in doubt".to_owned();
    let dead = What::Liveness {
        from: Liveness::Suspect,
        to: Liveness::Dead,
        cause: Some(cause),
        detail,
    };
    tell(Some("feed"), dead);
    let given_up = |mut snapshot: Snapshot| {
        let since = snapshot.at;
        snapshot.peers[0].episode = Some(EpisodeView {
            id: episode,
            since,
            cause,
            condemned_by: Vec::new(),
            phase: EpisodePhase::GaveUp { since },
            remedies: 3,
            remedy: None,
            refusal: None,
        });
        Some(Arc::new(snapshot))
    };
    telling.snapshots.send_replace(given_up(early));
    tokio::task::yield_now().await;
    telling.snapshots.send_replace(given_up(snapshot(&telling)));
    until(|| receiver.got().len() > 1).await;
    assert_eq!(receiver.took(), ["episode_opened", "gave_up"]);
}

/// One peer, well.
fn snapshot(telling: &Telling) -> Snapshot {
    use defib::engine::Engine;
    use defib::engine::persist::Restored;
    let text = "[peer.feed]\nowner = { pid = 1 }";
    let config = defib::config::load(&crate::config::sources(text)).unwrap();
    let now = telling.clock.now();
    Engine::new(
        config.engine_settings("b".into()),
        &Restored::Missing,
        1,
        Time::ZERO,
    )
    .snapshot(now)
}

#[tokio::test]
async fn a_rung_tells_its_target_and_no_other() {
    let (chat, pager) = (Receiver::good(), Receiver::good());
    let mut spared = target("pager", &pager);
    spared.events = BTreeSet::new();
    spared.peers = Some(BTreeSet::from(["web".into()]));
    let telling = Telling::start(vec![target("chat", &chat), spared]);
    telling.opens("feed", 1).await;
    until(|| chat.got().len() == 1).await;
    telling
        .desk
        .ask(&"pager".into(), &grant(&life("boot:1")))
        .unwrap();
    until(|| !pager.got().is_empty()).await;
    let told = pager.got().remove(0).json();
    assert_eq!(
        (&told["event"], &told["peer"]),
        (&"notify".into(), &"feed".into())
    );
    assert_eq!(told["cause"], "peer_stuck");
    assert_eq!(told["episode"], 1);
    let failed = crate::remedies::heal_by_notifying().await;
    assert!(matches!(failed, RemedyOutcome::Failed { .. }), "{failed:?}");
    assert_eq!(chat.got().len(), 1);
}

#[tokio::test]
async fn a_form_of_ones_own_is_filled_in_and_calls_nobody() {
    let receiver = Receiver::good();
    let mut slack = target("slack", &receiver);
    let text = |text: &str| Template::text(text).unwrap();
    slack.kind = Kind::Json {
        template: Some(Template::Table(vec![
            ("text".to_owned(), text("*{peer}* {event}: {text}")),
            ("n".to_owned(), text("{episode}")),
        ])),
        escape: Escape::Slack,
    };
    let telling = Telling::start(vec![slack]);
    let what = What::GaveUp {
        episode: 4,
        remedies: 2,
        detail: "\"<!channel>\" & {peer}\n".to_owned(),
    };
    telling.tell("feed", what).await;
    until(|| !receiver.got().is_empty()).await;
    let told = receiver.got().remove(0).json();
    let expected = "*feed* gave_up: given up after 2 remedies: \"&lt;!channel&gt;\" &amp; {peer}\u{fffd}";
    assert_eq!(told, serde_json::json!({ "text": expected, "n": 4 }));
}

#[test]
fn a_node_tells_an_episode_from_its_opening_to_its_end_whatever_the_other_receiver_does() {
    let (receiver, hanging) = (Receiver::good(), Receiver::start(Behaviour::Hangs));
    let mut process = Process::sleep();
    let node = Node::run(&format!(
        r#"
[bus]
settle = "0s"
[notify.hook]
url = "{}"
[notify.hanging]
url = "{}"
timeout = "500ms"
[peer.feed]
owner = {{ pid = {} }}
remedies = [
  {{ do = "notify", to = "hook", verify_within = "1s" }},
  {{ do = "exec", command = ["false"], verify_within = "1s" }},
]
backoff = {{ initial = "100ms", max = "1s" }}
budget = {{ count = 1, window = "1m" }}
"#,
        receiver.url(),
        hanging.url(),
        process.pid()
    ));
    node.is_calm();
    process.kill();
    receiver.one("a give-up", |got| got.event() == "gave_up");
    let (code, said) = node.admin(&["forget", "feed"]);
    assert_eq!(code, Some(0), "{said}");
    receiver.one("the end", |got| got.event() == "episode_closed");
    let mut told = receiver.took();
    told.retain(|event| event != "refused");
    assert_eq!(
        told.first().map(String::as_str),
        Some("episode_opened"),
        "{told:?}"
    );
    assert_eq!(
        told.iter().filter(|event| *event == "notify").count(),
        1,
        "{told:?}"
    );
    assert!(
        told.contains(&"granted".to_owned()) && told.contains(&"acted".to_owned()),
        "{told:?}"
    );
    let gave_up = receiver.one("a give-up", |got| got.event() == "gave_up").json();
    assert_eq!(
        (&gave_up["cause"], &gave_up["severity"]),
        (&"peer_exited".into(), &"critical".into())
    );
    assert!(
        gave_up["evidence"].as_str().unwrap().starts_with("process:"),
        "{gave_up}"
    );
    assert_eq!(node.code("/livez"), 200);
    crate::support::until("the other one is tried again", || {
        node.count(r#"defib_notification_attempts_total{answer="later",target="hanging"}"#) >= 2
    });
    let log = node.log();
    assert!(!log.contains("s3cret"), "{log}");
}
