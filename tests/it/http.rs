//! The endpoints, over real sockets: what each answers, what it bears, and who may change something.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use defib::engine::cause::Cause;
use defib::engine::decision::{Notice, What};
use defib::engine::event::{Event, Incarnation, OperatorRequest, PeerId};
use defib::engine::guards::{GuardName, Refusal};
use defib::engine::peer::Liveness;
use defib::engine::self_trust::BusState;
use defib::engine::settings::RemedyKind;
use defib::engine::snapshot::{EpisodePhase, PauseView, PeerView, Snapshot};
use defib::engine::time::{Clock, Time};
use defib::http::{self, AppState, BindError, Settings, View};
use defib::secret::Secret;
use defib::telemetry::metrics::Metrics;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::support::redis_server::{self, RedisServer};
use crate::support::snapshots::{at, dead, peer, pulsing, settings, snapshot, with_healthz};

/// Longer than anything here may take, on a machine that is busy.
const LONG: Duration = Duration::from_secs(60);

/// A clock that stands until it is set.
#[derive(Default)]
struct HandClock(AtomicU64);

impl HandClock {
    fn set(&self, now: Time) {
        self.0.store(now.as_nanos(), Ordering::SeqCst);
    }
}

impl Clock for HandClock {
    fn now(&self) -> Time {
        Time::from_nanos(self.0.load(Ordering::SeqCst))
    }
}

/// The listeners, and everything that a runtime would hold on the other side.
struct Served {
    address: SocketAddr,
    admin: Option<SocketAddr>,
    socket: Option<PathBuf>,
    clock: Arc<HandClock>,
    turned: Arc<AtomicU64>,
    view: watch::Sender<Arc<View>>,
    notices: broadcast::Sender<Arc<Notice>>,
    events: mpsc::Receiver<Event>,
    metrics: Metrics,
    cancel: CancellationToken,
    serving: JoinHandle<anyhow::Result<()>>,
    directory: tempfile::TempDir,
}

impl Served {
    /// Public listener only.
    fn start(peers: Vec<PeerView>) -> Self {
        Self::showing(snapshot(peers))
    }

    fn showing(snapshot: Snapshot) -> Self {
        let view = View::starting(&settings(&snapshot)).with_snapshot(Arc::new(snapshot));
        Self::with(view, |_, _| {})
    }

    /// All listeners.
    fn with_admin(peers: Vec<PeerView>) -> Self {
        let snapshot = snapshot(peers);
        let view = View::starting(&settings(&snapshot)).with_snapshot(Arc::new(snapshot));
        Self::with(view, |settings, directory| {
            settings.admin_socket = Some(directory.join("run/admin.sock"));
            settings.admin_listen = Some((
                SocketAddr::from(([127, 0, 0, 1], 0)),
                Secret::Inline("s3cret".to_owned()),
            ));
        })
    }

    /// It is 100 s after the clock's origin, and the loop has just turned.
    fn with(view: View, change: impl FnOnce(&mut Settings, &Path)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut settings = loopback();
        change(&mut settings, directory.path());
        let bound = http::bind(&settings).unwrap();
        let (address, admin) = (bound.local_addr(), bound.admin_addr());
        let socket = bound.admin_socket().map(Path::to_owned);
        let clock = Arc::new(HandClock::default());
        clock.set(at(100));
        let turned = Arc::new(AtomicU64::new(at(100).as_nanos()));
        let (view, seen) = watch::channel(Arc::new(view));
        let (notices, _) = broadcast::channel(4);
        let (to_engine, events) = mpsc::channel(1);
        let cancel = CancellationToken::new();
        let metrics = Metrics::new().unwrap();
        let state = AppState {
            view: seen,
            notices: notices.clone(),
            events: to_engine,
            clock: Arc::clone(&clock) as Arc<dyn Clock>,
            loop_turned: Arc::clone(&turned),
            metrics: metrics.clone(),
        };
        let serving = tokio::spawn(bound.run(state, cancel.clone()));
        Self {
            address,
            admin,
            socket,
            clock,
            turned,
            view,
            notices,
            events,
            metrics,
            cancel,
            serving,
            directory,
        }
    }

    async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path).await
    }

    async fn ask(&self, method: &str, path: &str) -> Answer {
        let request = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        self.raw(request.as_bytes()).await
    }

    async fn raw(&self, request: &[u8]) -> Answer {
        talk(TcpStream::connect(self.address).await.unwrap(), request).await
    }

    /// A request on the admin socket.
    async fn post(&self, path: &str, body: &str) -> Answer {
        let stream = UnixStream::connect(self.socket.as_ref().unwrap()).await.unwrap();
        talk(stream, posting(path, "", body).as_bytes()).await
    }

    /// A request on the admin port.
    async fn post_tcp(&self, path: &str, headers: &str, body: &str) -> Answer {
        let stream = TcpStream::connect(self.admin.unwrap()).await.unwrap();
        talk(stream, posting(path, headers, body).as_bytes()).await
    }

    async fn operator(&mut self) -> (OperatorRequest, String) {
        match timeout(LONG, self.events.recv()).await.unwrap().unwrap() {
            Event::Operator { request, by } => (request, by),
            other => panic!("not an operator's: {other:?}"),
        }
    }

    async fn stop(self) {
        self.cancel.cancel();
        timeout(LONG, self.serving).await.unwrap().unwrap().unwrap();
    }
}

fn loopback() -> Settings {
    Settings {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        admin_socket: None,
        admin_listen: None,
        max_connections: 256,
    }
}

fn posting(path: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}Content-Length: {length}\r\n\r\n{body}"
    )
}

/// What came back.
#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn error(&self) -> String {
        let body: serde_json::Value = serde_json::from_str(&self.body).unwrap();
        body["error"].as_str().unwrap().to_owned()
    }
}

/// Sends and reads to the end. A reset after the answer (the rest of the request was not read) is an end too.
async fn talk(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &[u8]) -> Answer {
    let _ = stream.write_all(request).await;
    let mut answer = Vec::new();
    let mut piece = [0; 4096];
    while let Ok(read @ 1..) = timeout(LONG, stream.read(&mut piece)).await.unwrap() {
        answer.extend_from_slice(&piece[..read]);
    }
    let text = String::from_utf8(answer).unwrap();
    let (head, body) = text
        .split_once("\r\n\r\n")
        .unwrap_or_else(|| panic!("no answer: {text:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer {
        status,
        head: head.to_lowercase(),
        body: body.to_owned(),
    }
}

fn notice(peer: &str, what: What) -> Notice {
    Notice {
        at: at(100),
        peer: Some(peer.into()),
        what,
    }
}

#[tokio::test]
async fn every_endpoint_answers_as_the_table_says() {
    let served = Served::start(vec![with_healthz(peer("feed")), dead(peer("recorder"))]);
    for (path, status, says) in [
        ("/livez", 200, "ok\n"),
        ("/livez?verbose", 200, "[+] event loop: turned 0 ms ago"),
        ("/healthz", 200, "ok: feed is alive for 1 min 30 s"),
        ("/healthz/feed", 200, "ok: feed is alive"),
        (
            "/healthz/feed?verbose",
            200,
            "[+] heartbeat: alive: a heartbeat each second",
        ),
        (
            "/healthz/recorder",
            200,
            "recorder has no healthz remedy, so this never fails; it is dead (peer_stuck)",
        ),
        ("/startupz", 200, "ok\n"),
        ("/startupz/feed", 200, "ok: feed is alive"),
        ("/readyz", 200, "ok\n"),
        (
            "/readyz?verbose",
            200,
            "[+] bus: trusted for 1 min 39 s: echoes return",
        ),
        ("/readyz/feed", 200, "ok: feed is alive"),
        (
            "/readyz/recorder",
            503,
            "not ready: recorder is dead (peer_stuck) for 40.0 s",
        ),
        (
            "/readyz/recorder?verbose",
            503,
            "[-] heartbeat: dead: silent for 45 s",
        ),
        ("/metrics", 200, "defib_build_info{version="),
        ("/api/v1/status", 200, "\"node\":\"base-1\""),
        (
            "/api/v1/explain/recorder",
            200,
            "recorder is dead (peer_stuck) for 40.0 s: stopped by a signal",
        ),
        ("/", 200, "<!doctype html>"),
        ("/page.js", 200, "\"use strict\""),
        ("/page.css", 200, "body {"),
        ("/nowhere", 404, "\"error\""),
        ("/api/v1/explain/nobody", 404, "configured: feed, recorder"),
    ] {
        let answer = served.get(path).await;
        assert_eq!(answer.status, status, "{path}: {answer:?}");
        assert!(answer.body.contains(says), "{path}: {answer:?}");
        assert!(
            answer.head.contains("x-content-type-options: nosniff"),
            "{path}: {answer:?}"
        );
        assert!(
            answer
                .head
                .contains("content-security-policy: default-src 'none'"),
            "{path}: {answer:?}"
        );
        let head = served.ask("HEAD", path).await;
        assert_eq!((head.status, head.body.as_str()), (status, ""), "HEAD {path}");
        let posted = served.ask("POST", path).await;
        assert_eq!(
            posted.status,
            if path == "/nowhere" { 404 } else { 405 },
            "POST {path}"
        );
    }
    served.stop().await;
}

#[tokio::test]
async fn nothing_can_be_changed_over_the_public_listener() {
    let served = Served::with_admin(vec![peer("feed")]);
    for path in [
        "/api/v1/pause",
        "/api/v1/resume",
        "/api/v1/forget",
        "/api/v1/drain",
    ] {
        let answer = served
            .raw(posting(path, "Authorization: Bearer s3cret\r\n", "{}").as_bytes())
            .await;
        assert_eq!(answer.status, 404, "{path}");
    }
    served.stop().await;
}

#[tokio::test]
async fn livez_is_about_the_event_loop_alone() {
    let mut lost = snapshot(vec![dead(peer("feed"))]);
    lost.trust.bus = BusState::BrokerUnreachable;
    let served = Served::showing(lost);
    assert_eq!(served.get("/livez").await.status, 200);
    served.clock.set(at(105));
    assert_eq!(served.get("/livez").await.status, 200);
    served.clock.set(at(106));
    let stuck = served.get("/livez").await;
    assert_eq!(
        (stuck.status, stuck.body.as_str()),
        (503, "event loop: turned 6.0 s ago\n")
    );
    served.turned.store(at(106).as_nanos(), Ordering::Relaxed);
    assert_eq!(served.get("/livez").await.status, 200);
    served.stop().await;
}

#[tokio::test]
async fn s08_a_lost_bus_fails_readyz_and_nothing_else() {
    let mut lost = snapshot(vec![with_healthz(peer("feed"))]);
    lost.trust.bus = BusState::BrokerUnreachable;
    lost.trust.detail = "both links are down".to_owned();
    lost.trust.publishing.up = false;
    lost.trust.publishing.detail = Some("connection refused".to_owned());
    let served = Served::showing(lost);
    for path in [
        "/livez",
        "/healthz",
        "/healthz/feed",
        "/startupz",
        "/startupz/feed",
        "/readyz/feed",
    ] {
        assert_eq!(served.get(path).await.status, 200, "{path}");
    }
    let ready = served.get("/readyz").await;
    assert_eq!(
        (ready.status, ready.body.as_str()),
        (503, "not ready: bus, pub link (?verbose says why)\n")
    );
    let why = served.get("/readyz?verbose").await.body;
    assert!(
        why.contains("[-] bus: broker_unreachable for 1 min 39 s: both links are down\n"),
        "{why}"
    );
    assert!(why.contains("[-] pub link: connection refused\n"), "{why}");
    served.stop().await;
}

#[tokio::test]
async fn s24_draining_fails_readyz_and_no_probe_of_an_application() {
    let mut draining = snapshot(vec![with_healthz(peer("feed"))]);
    draining.draining = true;
    let served = Served::showing(draining);
    assert_eq!(
        served.get("/readyz").await.body,
        "not ready: draining (?verbose says why)\n"
    );
    for path in ["/livez", "/healthz", "/healthz/feed", "/readyz/feed"] {
        assert_eq!(served.get(path).await.status, 200, "{path}");
    }
    served.stop().await;
}

#[tokio::test]
async fn s37_under_a_bad_configuration_only_readyz_complains() {
    let served = Served::with(View::misconfigured("defib.toml:3:1: no such key"), |_, _| {});
    served.clock.set(at(1000)); // no loop has turned, and none will
    for path in [
        "/livez",
        "/healthz",
        "/healthz/feed",
        "/startupz",
        "/startupz/feed",
        "/readyz/feed",
    ] {
        assert_eq!(served.get(path).await.status, 200, "{path}");
    }
    let ready = served.get("/readyz?verbose").await;
    assert_eq!(ready.status, 503);
    assert!(ready.body.contains("defib.toml:3:1: no such key"), "{ready:?}");
    assert!(
        served
            .get("/metrics")
            .await
            .body
            .contains("\ndefib_config_valid 0\n")
    );
    assert!(
        served
            .get("/api/v1/status")
            .await
            .body
            .contains("\"config_error\":\"defib.toml:3:1")
    );
    served.stop().await;
}

#[tokio::test]
async fn before_the_first_snapshot_no_application_is_failed_but_its_startup_waits() {
    let seen = snapshot(vec![with_healthz(peer("feed"))]);
    let view = View::starting(&settings(&seen));
    let served = Served::with(view.clone(), |_, _| {});
    for (path, status) in [
        ("/livez", 200),
        ("/healthz", 200),
        ("/healthz/feed", 200),
        ("/readyz/feed", 200),
        ("/startupz", 503),
        ("/startupz/feed", 503),
        ("/readyz", 503),
        ("/api/v1/status", 200),
        ("/api/v1/explain/feed", 503),
        ("/metrics", 200),
    ] {
        assert_eq!(served.get(path).await.status, status, "{path}");
    }
    served
        .view
        .send_replace(Arc::new(view.with_snapshot(Arc::new(seen))));
    assert_eq!(served.get("/startupz/feed").await.status, 200);
    assert_eq!(served.get("/readyz").await.status, 200);
    served.stop().await;
}

#[tokio::test]
async fn a_misspelt_name_fails_no_probe_and_is_told() {
    let served = Served::start(vec![with_healthz(peer("feed")), with_healthz(peer("recorder"))]);
    for name in [
        "fed",
        "Feed",
        "feed/",
        "a/b/c",
        "%FF%FE",
        "%2e%2e",
        "feed%00",
        "%3Cscript%3E",
    ] {
        for endpoint in ["healthz", "startupz", "readyz"] {
            let answer = served.get(&format!("/{endpoint}/{name}")).await;
            assert_eq!(answer.status, 200, "/{endpoint}/{name}: {answer:?}");
            assert!(answer.body.contains("configured: feed, recorder"), "{answer:?}");
        }
    }
    let long = served.get(&format!("/healthz/{}", "x".repeat(4000))).await;
    assert_eq!(long.status, 200);
    assert!(long.body.len() < 200, "{long:?}");
    // A trailing slash is the bare endpoint.
    for endpoint in ["livez", "healthz", "startupz", "readyz"] {
        assert_eq!(
            served.get(&format!("/{endpoint}/")).await.status,
            200,
            "/{endpoint}/"
        );
    }
    let metrics = served.get("/metrics").await.body;
    assert!(
        metrics.contains("defib_probes_unknown_peer_total{endpoint=\"readyz\"} 8"),
        "{metrics}"
    );
    served.stop().await;
}

#[tokio::test]
async fn healthz_is_503_only_while_the_pulse_lasts() {
    let served = Served::start(vec![pulsing(peer("feed"), at(110)), peer("other")]);
    for path in ["/healthz", "/healthz/feed"] {
        let answer = served.get(path).await;
        assert_eq!(answer.status, 503, "{path}");
        assert!(
            answer
                .body
                .starts_with("pulse: feed is dead (peer_stuck) for 40.0 s;"),
            "{answer:?}"
        );
        assert!(answer.body.ends_with("ends in 10.0 s\n"), "{answer:?}");
    }
    assert_eq!(served.get("/healthz/other").await.status, 200);
    // Even if the engine publishes nothing any more.
    served.clock.set(at(110));
    for path in ["/healthz", "/healthz/feed"] {
        assert_eq!(served.get(path).await.status, 200, "{path}");
    }
    served.stop().await;
}

#[tokio::test]
async fn what_is_held_or_given_up_is_200_with_the_truth_in_the_body() {
    let mut given_up = dead(with_healthz(peer("feed")));
    given_up.episode.as_mut().unwrap().phase = EpisodePhase::GaveUp { since: at(90) };
    let mut held = dead(with_healthz(peer("other")));
    held.episode.as_mut().unwrap().refusal = Some(Refusal {
        guard: GuardName::Budget,
        why: "3 restarts in 10 min".to_owned(),
        until: Some(at(200)),
    });
    let served = Served::start(vec![given_up, held]);
    let answer = served.get("/healthz/feed").await;
    assert_eq!(answer.status, 200);
    assert!(
        answer.body.contains("given up, so no restart is asked for"),
        "{answer:?}"
    );
    let answer = served.get("/healthz/other").await;
    assert_eq!(answer.status, 200);
    assert!(
        answer.body.contains("held by budget: 3 restarts in 10 min"),
        "{answer:?}"
    );
    assert!(
        served
            .get("/metrics")
            .await
            .body
            .contains("defib_gave_up{peer=\"feed\"} 1")
    );
    served.stop().await;
}

#[tokio::test]
async fn bare_healthz_of_several_peers_fails_only_when_all_pulse() {
    let one = Served::start(vec![
        pulsing(peer("a"), at(110)),
        with_healthz(peer("b")),
        peer("c"),
    ]);
    let answer = one.get("/healthz?verbose").await;
    assert_eq!(answer.status, 200);
    assert!(
        answer
            .body
            .starts_with("1 of 2 peers with a healthz remedy pulse\n[-] pulse: a is dead"),
        "{answer:?}"
    );
    assert_eq!(one.get("/healthz/a").await.status, 503);
    assert_eq!(one.get("/healthz/b").await.status, 200);
    one.stop().await;

    let all = Served::start(vec![
        pulsing(peer("a"), at(110)),
        pulsing(peer("b"), at(120)),
        peer("c"),
    ]);
    assert_eq!(all.get("/healthz").await.status, 503);
    all.clock.set(at(115));
    assert_eq!(all.get("/healthz").await.status, 200);
    all.stop().await;
}

#[tokio::test]
async fn s45_a_healthz_remedy_that_nobody_probes_is_said_not_to_be_wired() {
    let served = Served::start(vec![with_healthz(peer("feed")), peer("other")]);
    let before = served.get("/api/v1/explain/feed").await.body;
    assert!(
        before.contains("the remedy is not wired: no probe of /healthz/feed has come in the 1 min 40 s"),
        "{before}"
    );
    let metrics = served.get("/metrics").await.body;
    assert!(
        metrics.contains("defib_healthz_wired{peer=\"feed\"} 0"),
        "{metrics}"
    );
    assert!(
        !metrics.contains("defib_healthz_wired{peer=\"other\"}"),
        "{metrics}"
    );

    served.get("/healthz/feed").await;
    served.ask("HEAD", "/healthz").await;
    let after = served.get("/api/v1/explain/feed").await.body;
    assert!(after.contains("wired: 2 probes since the start"), "{after}");
    let metrics = served.get("/metrics").await.body;
    assert!(
        metrics.contains("defib_healthz_wired{peer=\"feed\"} 1"),
        "{metrics}"
    );
    assert!(
        metrics.contains("defib_healthz_probes_total{peer=\"feed\"} 2"),
        "{metrics}"
    );
    assert!(
        served
            .get("/api/v1/status")
            .await
            .body
            .contains("\"healthz_probes\":{\"feed\":2}")
    );
    served.stop().await;
}

#[tokio::test]
async fn explain_says_what_is_known_and_what_comes_next() {
    let mut feed = dead(with_healthz(peer("feed")));
    feed.incarnations = 1;
    feed.remedies_granted = 1;
    feed.budget_left = 2;
    let episode = feed.episode.as_mut().unwrap();
    episode.remedies = 1;
    episode.refusal = Some(Refusal {
        guard: GuardName::Backoff,
        why: "the last remedy was 3 s ago".to_owned(),
        until: Some(at(107)),
    });
    let served = Served::start(vec![feed]);
    insta::assert_snapshot!(served.get("/api/v1/explain/feed").await.body, @r"
    feed is dead (peer_stuck) for 40.0 s: stopped by a signal (state T)
      last life     45.0 s ago
      incarnation   proc:b007:4711:99
      other lives   1 seen since the start
      where         on this machine
      answers       /startupz/feed 200, /readyz/feed 503
      next          backoff is asked again in 7.0 s; then healthz

    checks
      heartbeat     dead     (bus, decides liveness) peer_silent: silent for 45 s; last pass 45.0 s ago; judged again in 1.0 s at the latest

    episode 7, opened 42.0 s ago, cause peer_stuck
      condemned by  heartbeat
      phase         condemned, waiting for the guards' permission
      remedies      1 carried out in it
      guard         backoff said no: the last remedy was 3 s ago (could change in 7.0 s)

    remedies
      ladder        healthz
      granted       1 since the start
      budget        2 left now
      healthz       the remedy is not wired: no probe of /healthz/feed has come in the 1 min 40 s since the start
      pulse         /healthz/feed answers 200

    node base-1 of group base-station
      bus           trusted for 1 min 39 s: echoes return
    ");

    let request = b"GET /api/v1/explain/feed HTTP/1.1\r\nHost: x\r\nAccept: application/json\r\nConnection: close\r\n\r\n";
    let json = served.raw(request).await;
    assert!(json.head.contains("content-type: application/json"), "{json:?}");
    let explanation: http::Explanation = serde_json::from_str(&json.body).unwrap();
    assert_eq!(explanation.next, "backoff is asked again in 7.0 s; then healthz");
    assert_eq!(explanation.peer.liveness, Liveness::Dead);
    served.stop().await;
}

#[tokio::test]
async fn hostile_words_reach_nobodys_browser_or_terminal() {
    const HOSTILE: &str = "<script>alert(1)</script>\u{1b}[2Jforged\nline";
    let mut feed = dead(with_healthz(peer("feed")));
    feed.detail = HOSTILE.to_owned();
    feed.incarnation = Some(Incarnation(HOSTILE.into()));
    feed.pause = Some(PauseView {
        reason: HOSTILE.to_owned(),
        by: HOSTILE.to_owned(),
        until: None,
    });
    let mut hostile = snapshot(vec![feed]);
    hostile.trust.detail = HOSTILE.to_owned();
    let served = Served::showing(hostile);
    for path in [
        "/api/v1/explain/feed",
        "/healthz/feed?verbose",
        "/readyz?verbose",
        "/readyz/feed?verbose",
    ] {
        let answer = served.get(path).await;
        assert!(
            answer.head.contains("content-type: text/plain"),
            "{path}: {answer:?}"
        );
        assert!(
            !answer.body.contains('\u{1b}') && !answer.body.contains("forged\nline"),
            "{path}: {answer:?}"
        );
    }
    let status = served.get("/api/v1/status").await;
    assert!(
        status.head.contains("content-type: application/json"),
        "{status:?}"
    );
    assert!(!status.body.contains('\u{1b}'), "{status:?}");
    // The page itself holds no data, runs nothing that is written into it, and sets text only as text.
    let page = served.get("/").await.body;
    assert!(!page.contains("<script>") && !page.contains("onload="), "{page}");
    let script = served.get("/page.js").await.body;
    for sink in [
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
    ] {
        assert!(!script.contains(sink), "{sink}");
    }
    served.stop().await;
}

#[tokio::test]
async fn the_page_knows_every_event() {
    let script = include_str!("../../src/http/page/page.js");
    for name in [
        "liveness",
        "bus",
        "stalled",
        "incarnation",
        "goodbye",
        "episode_opened",
        "refused",
        "would_heal",
        "granted",
        "acted",
        "recovered",
        "gave_up",
        "episode_closed",
        "mass_silence_tripped",
        "mass_silence_ended",
        "operator",
        "duplicate_node",
    ] {
        assert!(script.contains(&format!("\"{name}\"")), "{name}");
    }
}

// What the listener bears.

#[tokio::test(start_paused = true)]
async fn a_request_that_never_ends_is_cut_off() {
    let served = Served::start(vec![]);
    for beginning in ["", "GET /livez HTTP/1.1\r\nX: "] {
        let mut slow = TcpStream::connect(served.address).await.unwrap();
        slow.write_all(beginning.as_bytes()).await.unwrap();
        let mut rest = Vec::new();
        timeout(LONG, slow.read_to_end(&mut rest)).await.unwrap().unwrap();
        assert!(!String::from_utf8_lossy(&rest).contains("200 OK"));
    }
    served.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_not_kept_for_ever() {
    let served = Served::start(vec![]);
    let mut idle = TcpStream::connect(served.address).await.unwrap();
    idle.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    let mut all = Vec::new();
    timeout(LONG, idle.read_to_end(&mut all)).await.unwrap().unwrap();
    assert!(String::from_utf8_lossy(&all).starts_with("HTTP/1.1 200 OK"));
    served.stop().await;
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let served = Served::start(vec![]);
    let mut large = b"GET /livez HTTP/1.1\r\nHost: x\r\n".to_vec();
    large.extend_from_slice(format!("X: {}\r\n\r\n", "x".repeat(17 * 1024)).as_bytes());
    assert_eq!(served.raw(&large).await.status, 431);
    let fits = format!(
        "GET /livez HTTP/1.1\r\nConnection: close\r\nX: {}\r\n\r\n",
        "x".repeat(15 * 1024)
    );
    assert_eq!(served.raw(fits.as_bytes()).await.status, 200);
    served.stop().await;
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused() {
    let served = Served::with_admin(vec![]);
    let announced = b"GET /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 99999\r\n\r\n";
    assert_eq!(served.raw(announced).await.status, 413);
    let large = format!(r#"{{"reason": "{}"}}"#, "x".repeat(17 * 1024));
    assert_eq!(served.post("/api/v1/pause", &large).await.status, 413);
    let chunk = "x".repeat(0x5000);
    let chunked = format!(
        "POST /api/v1/pause HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n\
         5000\r\n{chunk}\r\n0\r\n\r\n"
    );
    let stream = UnixStream::connect(served.socket.as_ref().unwrap())
        .await
        .unwrap();
    assert_eq!(talk(stream, chunked.as_bytes()).await.status, 413);
    served.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_body_that_never_arrives_is_given_up() {
    let served = Served::with_admin(vec![]);
    let stream = UnixStream::connect(served.socket.as_ref().unwrap())
        .await
        .unwrap();
    let answer = talk(
        stream,
        b"POST /api/v1/pause HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{",
    )
    .await;
    assert_eq!(answer.status, 408, "{answer:?}");
    served.stop().await;
}

#[tokio::test]
async fn what_is_not_http_harms_nobody() {
    let served = Served::start(vec![]);
    for nonsense in [
        &b"\x16\x03\x01\x02\x00\x01"[..],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET\r\n\r\n",
        b"\0\0\0\0\r\n\r\n",
    ] {
        let mut stream = TcpStream::connect(served.address).await.unwrap();
        stream.write_all(nonsense).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        let _ = timeout(LONG, stream.read_to_end(&mut answer)).await.unwrap();
        assert!(
            !String::from_utf8_lossy(&answer).contains(" 200 "),
            "{nonsense:?}"
        );
    }
    assert_eq!(served.get("/livez").await.status, 200);
    served.stop().await;
}

#[tokio::test]
async fn a_flood_of_connections_starves_no_probe() {
    let seen = snapshot(vec![with_healthz(peer("feed"))]);
    let view = View::starting(&settings(&seen)).with_snapshot(Arc::new(seen));
    let served = Served::with(view, |settings, _| settings.max_connections = 2);
    // Each has been answered once, so each is known to hold its place.
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(served.address).await.unwrap();
        stream
            .write_all(b"GET /api/v1/events HTTP/1.1\r\nHost: x\r\n\r\n")
            .await
            .unwrap();
        let mut piece = [0; 4096];
        assert!(timeout(LONG, stream.read(&mut piece)).await.unwrap().unwrap() > 0);
        held.push(stream);
    }
    for (path, status) in [
        ("/livez", 200),
        ("/healthz/feed", 200),
        ("/startupz", 200),
        ("/readyz", 200),
        ("/metrics", 503),
        ("/", 503),
    ] {
        assert_eq!(served.get(path).await.status, status, "{path}");
    }
    // Past the second lane, connections are closed at once.
    let mut more = Vec::new();
    for _ in 0..40 {
        more.push(TcpStream::connect(served.address).await.unwrap());
    }
    let mut last = more.pop().unwrap();
    let mut piece = [0; 1];
    assert!(matches!(
        timeout(LONG, last.read(&mut piece)).await.unwrap(),
        Ok(0) | Err(_)
    ));
    // It ends with the flood.
    drop((held, more));
    timeout(LONG, async {
        while served.get("/metrics").await.status != 200 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    served.stop().await;
}

// The events.

/// Reads until `end` has come.
async fn read_until(stream: &mut TcpStream, seen: &mut String, end: &str) {
    let mut piece = [0; 4096];
    while !seen.contains(end) {
        let read = timeout(LONG, stream.read(&mut piece)).await.unwrap().unwrap();
        assert!(read > 0, "ended before {end:?}: {seen}");
        seen.push_str(std::str::from_utf8(&piece[..read]).unwrap());
    }
}

async fn follow(served: &Served) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    stream
        .write_all(b"GET /api/v1/events HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    let mut seen = String::new();
    read_until(&mut stream, &mut seen, ": following").await;
    (stream, seen)
}

#[tokio::test]
async fn events_arrive_and_a_client_that_lags_is_told_how_many_it_missed() {
    let served = Served::start(vec![peer("feed")]);
    let (mut stream, mut seen) = follow(&served).await;
    served
        .notices
        .send(Arc::new(notice("feed", What::Goodbye)))
        .unwrap();
    read_until(&mut stream, &mut seen, "\n\n").await;
    read_until(&mut stream, &mut seen, "event: goodbye\ndata: ").await;
    read_until(&mut stream, &mut seen, "\"peer\":\"feed\"").await;
    // Ten at once, into a channel that keeps four: this thread is the server's too, so it takes none in between.
    for for_ms in 0..10 {
        served
            .notices
            .send(Arc::new(notice("feed", What::Stalled { for_ms })))
            .unwrap();
    }
    read_until(&mut stream, &mut seen, "\"for_ms\":9").await;
    assert!(seen.contains("event: lagged\ndata: {\"missed\":6}"), "{seen}");
    assert!(
        !seen.contains("\"for_ms\":5") && seen.contains("\"for_ms\":6"),
        "{seen}"
    );
    assert!(
        served
            .get("/metrics")
            .await
            .body
            .contains("defib_http_sse_missed_total 6")
    );
    served.stop().await;
    let mut rest = Vec::new();
    timeout(LONG, stream.read_to_end(&mut rest))
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn only_so_many_may_follow() {
    let served = Served::start(vec![]);
    let mut following = Vec::new();
    for _ in 0..16 {
        following.push(follow(&served).await.0);
    }
    assert_eq!(served.get("/api/v1/events").await.status, 503);
    assert!(
        served
            .get("/metrics")
            .await
            .body
            .contains("defib_http_sse_clients 16")
    );
    drop(following);
    timeout(LONG, async {
        while !served
            .get("/metrics")
            .await
            .body
            .contains("defib_http_sse_clients 0")
        {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    served.stop().await;
}

// Who may change something.

#[tokio::test]
async fn operators_are_known_by_their_credentials() {
    let mut served = Served::with_admin(vec![peer("feed"), peer("recorder")]);
    let me = format!(
        "uid {} pid {}",
        rustix::process::getuid().as_raw(),
        std::process::id()
    );
    let body = r#"{"peer": "recorder", "reason": "maintenance", "for": "10m"}"#;
    let answer = served.post("/api/v1/pause", body).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    let request = OperatorRequest::Pause {
        peer: Some(PeerId(1)),
        reason: "maintenance".to_owned(),
        lasting: Some(Duration::from_secs(600)),
    };
    assert_eq!(served.operator().await, (request, me.clone()));

    for (path, body, request) in [
        (
            "/api/v1/pause",
            r#"{"reason": "all"}"#,
            OperatorRequest::Pause {
                peer: None,
                reason: "all".to_owned(),
                lasting: None,
            },
        ),
        ("/api/v1/resume", "", OperatorRequest::Resume { peer: None }),
        (
            "/api/v1/resume",
            r#"{"peer": "feed"}"#,
            OperatorRequest::Resume {
                peer: Some(PeerId(0)),
            },
        ),
        (
            "/api/v1/forget",
            r#"{"peer": "feed"}"#,
            OperatorRequest::Forget { peer: PeerId(0) },
        ),
        ("/api/v1/drain", "", OperatorRequest::Drain),
    ] {
        let answer = served.post(path, body).await;
        assert_eq!(answer.status, 202, "{path}: {answer:?}");
        assert_eq!(served.operator().await, (request, me.clone()));
    }
    served.stop().await;
}

#[tokio::test]
async fn what_an_operator_gets_wrong_is_told() {
    let served = Served::with_admin(vec![peer("feed")]);
    let long = format!(r#"{{"reason": "{}"}}"#, "x".repeat(501));
    for (path, body, status, says) in [
        ("/api/v1/pause", "", 400, "the request's body is not as expected"),
        ("/api/v1/pause", "{}", 400, "missing field `reason`"),
        (
            "/api/v1/pause",
            r#"{"reason": "x", "fro": "1m"}"#,
            400,
            "unknown field `fro`",
        ),
        ("/api/v1/pause", r#"{"reason": "  "}"#, 400, "`reason` is empty"),
        ("/api/v1/pause", r#"{"reason": "a\u001bb"}"#, 400, "one line"),
        ("/api/v1/pause", &long, 400, "500 characters"),
        (
            "/api/v1/pause",
            r#"{"reason": "x", "for": "soon"}"#,
            400,
            "`for` is no duration such as",
        ),
        (
            "/api/v1/pause",
            r#"{"reason": "x", "for": "0s"}"#,
            400,
            "`for` is zero",
        ),
        (
            "/api/v1/pause",
            r#"{"reason": "x", "for": "9999y"}"#,
            400,
            "longer than a year",
        ),
        (
            "/api/v1/pause",
            r#"{"reason": "x", "peer": "fed"}"#,
            404,
            "no peer named \"fed\"; configured: feed",
        ),
        ("/api/v1/forget", "{}", 400, "missing field `peer`"),
        ("/api/v1/forget", r#"{"peer": "fed"}"#, 404, "configured: feed"),
        ("/api/v1/drain", "[]x", 400, "not as expected"),
    ] {
        let answer = served.post(path, body).await;
        assert_eq!(answer.status, status, "{path} {body}: {answer:?}");
        assert!(answer.error().contains(says), "{path} {body}: {answer:?}");
    }
    assert!(served.events.is_empty());
    let read = UnixStream::connect(served.socket.as_ref().unwrap())
        .await
        .unwrap();
    let read = talk(
        read,
        b"GET /api/v1/pause HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    )
    .await;
    assert_eq!(read.status, 405);
    served.stop().await;
}

#[tokio::test]
async fn the_admin_port_wants_its_token() {
    let mut served = Served::with_admin(vec![]);
    for headers in [
        "",
        "Authorization: Bearer \r\n",
        "Authorization: Bearer s3cre\r\n",
        "Authorization: Bearer s3crets\r\n",
        "Authorization: Basic s3cret\r\n",
        "Authorization: s3cret\r\n",
    ] {
        for path in ["/api/v1/resume", "/api/v1/status", "/nowhere"] {
            let answer = served.post_tcp(path, headers, "").await;
            assert_eq!(answer.status, 401, "{headers}{path}");
            assert!(answer.head.contains("www-authenticate: bearer"), "{answer:?}");
        }
    }
    let answer = served
        .post_tcp("/api/v1/resume", "Authorization: Bearer s3cret\r\n", "")
        .await;
    assert_eq!(answer.status, 202, "{answer:?}");
    let (request, by) = served.operator().await;
    assert_eq!(request, OperatorRequest::Resume { peer: None });
    assert!(by.starts_with("token from 127.0.0.1:"), "{by}");
    served.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_takes_nothing_is_told() {
    let served = Served::with_admin(vec![]);
    assert_eq!(served.post("/api/v1/resume", "").await.status, 202); // the channel holds one
    let answer = served.post("/api/v1/resume", "").await;
    assert_eq!(answer.status, 503);
    assert!(answer.error().contains("try again"), "{answer:?}");
    served.stop().await;
}

#[tokio::test]
async fn under_a_bad_configuration_there_is_nothing_to_change() {
    let served = Served::with(View::misconfigured("no such key"), |settings, directory| {
        settings.admin_socket = Some(directory.join("admin.sock"));
    });
    assert_eq!(
        served.post("/api/v1/pause", r#"{"reason": "x"}"#).await.status,
        409
    );
    served.stop().await;
}

// Taking the addresses.

#[tokio::test]
async fn the_admin_socket_is_for_its_owner_and_group_and_goes_with_the_node() {
    let served = Served::with_admin(vec![]);
    let socket = served.socket.clone().unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&socket), 0o660);
    assert_eq!(mode(socket.parent().unwrap()) & !0o750, 0);
    let names: Vec<_> = std::fs::read_dir(socket.parent().unwrap())
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(names, ["admin.sock"]);
    let kept = served.directory.path().to_owned();
    served.cancel.cancel();
    timeout(LONG, served.serving).await.unwrap().unwrap().unwrap();
    assert!(!socket.exists(), "{}", kept.display());
}

#[test]
fn a_dead_nodes_socket_is_replaced_and_a_living_ones_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("admin.sock");
    let settings = Settings {
        admin_socket: Some(path.clone()),
        ..loopback()
    };

    drop(std::os::unix::net::UnixListener::bind(&path).unwrap()); // leaves its file
    let stale = std::fs::symlink_metadata(&path).unwrap().ino();
    let first = http::bind(&settings).unwrap();
    assert!(
        std::os::unix::net::UnixStream::connect(&path).is_ok(),
        "replaced {stale}"
    );

    let second = http::bind(&settings).unwrap_err();
    assert!(matches!(second, BindError::SocketInUse(_)), "{second}");
    assert!(
        second.to_string().contains("in use by a running process"),
        "{second}"
    );
    assert!(std::os::unix::net::UnixStream::connect(&path).is_ok());
    drop(first);
    assert!(!path.exists());

    std::fs::write(&path, "precious").unwrap();
    let in_the_way = http::bind(&settings).unwrap_err();
    assert!(matches!(in_the_way, BindError::NotASocket(_)), "{in_the_way}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}

#[test]
fn what_cannot_be_bound_is_said_with_its_cure() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap();
    let error = http::bind(&Settings { listen, ..loopback() })
        .unwrap_err()
        .to_string();
    assert!(
        error.contains(&listen.to_string()) && error.contains("choose another address"),
        "{error}"
    );

    let admin = |address: &str, token: Secret| {
        let admin_listen = Some((address.parse().unwrap(), token));
        http::bind(&Settings {
            admin_listen,
            ..loopback()
        })
        .unwrap_err()
    };
    let open = admin("0.0.0.0:0", Secret::Inline("t".to_owned()));
    assert!(matches!(open, BindError::NotLoopback(_)), "{open}");
    assert!(matches!(
        admin("127.0.0.1:0", Secret::Inline(String::new())),
        BindError::EmptyToken
    ));
    let unset = admin(
        "127.0.0.1:0",
        Secret::Env("DEFIB_TEST_NO_SUCH_VARIABLE".to_owned()),
    );
    assert!(
        unset.to_string().contains("DEFIB_TEST_NO_SUCH_VARIABLE"),
        "{unset}"
    );

    let deep = PathBuf::from(format!("/tmp/{}/admin.sock", "x".repeat(200)));
    let error = http::bind(&Settings {
        admin_socket: Some(deep.clone()),
        ..loopback()
    })
    .unwrap_err();
    assert!(error.to_string().contains("admin_socket"), "{error}");
    let _ = std::fs::remove_dir(deep.parent().unwrap());
}

// The metrics.

/// Everything that the engine can tell, with words that must end up in no label.
fn hostile_notices() -> Vec<Notice> {
    let detail = || "10.1.2.3:6379 refused id 9f8e7d".to_owned();
    let refusal = Refusal {
        guard: GuardName::Budget,
        why: detail(),
        until: None,
    };
    let (kind, cause) = (RemedyKind::Signal, Cause::PeerStuck);
    [
        What::Liveness {
            from: Liveness::Alive,
            to: Liveness::Dead,
            cause: Some(cause),
            detail: detail(),
        },
        What::Liveness {
            from: Liveness::Dead,
            to: Liveness::Alive,
            cause: None,
            detail: detail(),
        },
        What::Bus {
            state: BusState::SelfDeaf,
            detail: detail(),
        },
        What::Stalled { for_ms: 700 },
        What::Incarnation {
            incarnation: Incarnation(detail().into()),
        },
        What::Goodbye,
        What::EpisodeOpened {
            episode: 987_654,
            cause,
        },
        What::Refused {
            episode: 987_654,
            refusal,
        },
        What::WouldHeal {
            episode: 987_654,
            kind,
            cause,
        },
        What::Acted {
            episode: 987_654,
            token: 123_455,
            kind,
            outcome: "dry_run",
            detail: detail(),
        },
        What::Granted {
            episode: 987_654,
            token: 123_456,
            kind,
            cause,
            attempt: 1,
        },
        What::Acted {
            episode: 987_654,
            token: 123_456,
            kind,
            outcome: "failed",
            detail: detail(),
        },
        What::Recovered {
            episode: 987_654,
            remedies: 1,
            after_ms: 1500,
        },
        What::Recovered {
            episode: 987_654,
            remedies: 0,
            after_ms: 1500,
        },
        What::GaveUp {
            episode: 987_654,
            remedies: 1,
            detail: detail(),
        },
        What::EpisodeClosed {
            episode: 987_654,
            detail: detail(),
        },
        What::MassSilenceTripped { silent: 3, of: 4 },
        What::MassSilenceEnded,
        What::DuplicateNode {
            node: "9f8e7d".into(),
        },
        What::Operator {
            request: "pause",
            by: "uid 0 pid 4711".to_owned(),
            detail: detail(),
        },
    ]
    .into_iter()
    .map(|what| notice("feed", what))
    .collect()
}

async fn scrape_of_a_hostile_world() -> String {
    let mut feed = pulsing(peer("feed"), at(200));
    "10.1.2.3:6379 refused id 9f8e7d".clone_into(&mut feed.detail);
    let mut served = Served::with_admin(vec![feed, peer("recorder")]);
    for notice in hostile_notices() {
        served.metrics.engine.observe_notice(&notice);
    }
    for path in [
        "/healthz/9f8e7d",
        "/9f8e7d",
        "/api/v1/9f8e7d",
        "/healthz",
        "/livez",
    ] {
        served.get(path).await;
    }
    served.post("/api/v1/pause", r#"{"reason": "id 9f8e7d"}"#).await;
    served.operator().await;
    served.raw(b"nonsense\r\n\r\n").await;
    let scrape = served.get("/metrics").await.body;
    served.stop().await;
    scrape
}

#[tokio::test]
async fn s26_no_label_holds_an_id_an_address_or_an_error() {
    let scrape = scrape_of_a_hostile_world().await;
    let mut labels = 0;
    for line in scrape.lines().filter(|line| !line.starts_with('#')) {
        let Some((_, rest)) = line.split_once('{') else {
            continue;
        };
        let inside = rest.rsplit_once('}').unwrap().0;
        for label in inside.split(',') {
            let (name, value) = label.split_once('=').unwrap();
            let value = value.trim_matches('"');
            // Words of an enum, or names from the configuration; versions, bounds and statuses are no secrets.
            let word = value
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte == b'_');
            let number = matches!(name, "le" | "version") || (name == "status" && value.len() == 3);
            assert!(word || number || ["feed", "recorder"].contains(&value), "{line}");
            labels += 1;
        }
    }
    assert!(labels > 100, "{scrape}");
    for secret in ["10.1.2.3", "9f8e7d", "987654", "123456", "4711"] {
        assert!(!scrape.contains(secret), "{secret}");
    }
}

#[tokio::test]
async fn the_metrics_say_what_happened() {
    let scrape = scrape_of_a_hostile_world().await;
    for line in [
        "defib_peer_liveness{peer=\"feed\",state=\"dead\"} 1",
        "defib_peer_liveness{peer=\"feed\",state=\"alive\"} 0",
        "defib_peer_liveness{peer=\"recorder\",state=\"alive\"} 1",
        "defib_peer_cause{cause=\"peer_stuck\",peer=\"feed\"} 1",
        "defib_peer_last_life_seconds{peer=\"feed\"} 45",
        "defib_check_verdict{check=\"heartbeat\",peer=\"feed\",state=\"dead\"} 1",
        "defib_bus_state{state=\"trusted\"} 1",
        "defib_link_up{link=\"pub\"} 1",
        "defib_echo_seconds_count 1",
        "defib_guard_refusals_total{guard=\"budget\"} 1",
        "defib_guard_refusals_total{guard=\"paused\"} 0",
        "defib_remedies_total{outcome=\"dry_run\",peer=\"feed\",remedy=\"signal\"} 1",
        "defib_remedies_total{outcome=\"failed\",peer=\"feed\",remedy=\"signal\"} 1",
        "defib_remedies_granted_total{cause=\"peer_stuck\",peer=\"feed\",remedy=\"signal\"} 1",
        "defib_episodes_open 1",
        "defib_episodes_closed_total{how=\"healed\",peer=\"feed\"} 1",
        "defib_healthz_pulsing{peer=\"feed\"} 1",
        "defib_stalls_total 1",
        "defib_stalled_seconds_total 0.7",
        "defib_uptime_seconds 100",
        "defib_http_requests_total{endpoint=\"other\",status=\"404\"} 2",
        "defib_http_requests_total{endpoint=\"pause\",status=\"202\"} 1",
        "defib_http_connections_cut_total{listener=\"public\",reason=\"malformed\"} 1",
        "defib_operator_requests_total{request=\"pause\"} 1",
    ] {
        assert!(
            scrape.lines().any(|found| found == line),
            "{line} is not in\n{scrape}"
        );
    }
}

/// Names of metrics as the sources have them: a vector without a series is in no scrape.
fn names_in_the_sources() -> BTreeSet<String> {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/telemetry/metrics");
    let mut names = BTreeSet::new();
    for file in std::fs::read_dir(sources).unwrap() {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        for (at, _) in text.match_indices("\"defib_") {
            let name: String = text[at + 1..].chars().take_while(|c| *c != '"').collect();
            names.insert(name);
        }
    }
    names
}

/// docs/metrics.md lists exactly what there is; types and labels are held against a scrape as far as it reaches.
#[tokio::test]
async fn the_page_of_metrics_is_true() {
    let page = include_str!("../../docs/metrics.md");
    let cells = |line: &'static str| -> Vec<&str> {
        line.trim_matches('|')
            .split('|')
            .map(|cell| cell.trim().trim_matches('`'))
            .collect()
    };
    let rows: Vec<Vec<&str>> = page
        .lines()
        .filter(|line| line.starts_with("| `defib_"))
        .map(cells)
        .filter(|row| row.len() == 4)
        .collect();
    let documented: BTreeSet<String> = rows.iter().map(|row| row[0].to_owned()).collect();
    assert_eq!(
        documented.len(),
        rows.len(),
        "a metric stands twice in docs/metrics.md"
    );
    assert_eq!(documented, names_in_the_sources());

    let scrape = scrape_of_a_hostile_world().await;
    for line in scrape.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').unwrap();
        let row = rows.iter().find(|row| row[0] == name).unwrap();
        assert_eq!(row[1], kind, "{name}");
        assert_eq!(kind == "counter", name.ends_with("_total"), "{name}");
        if kind == "histogram" {
            continue; // its series have other names
        }
        let series = scrape
            .lines()
            .find(|line| line.starts_with(&format!("{name}{{")))
            .unwrap_or_default();
        let inside = series.split_once('{').and_then(|(_, rest)| rest.rsplit_once('}'));
        let inside = inside.map_or("", |(inside, _)| inside);
        let labels: BTreeSet<&str> = inside
            .split(',')
            .filter_map(|label| Some(label.split_once('=')?.0))
            .collect();
        let listed = row[2].split(',').map(|label| label.trim().trim_matches('`'));
        let listed: BTreeSet<&str> = listed.filter(|label| !label.is_empty()).collect();
        assert_eq!(listed, labels, "{name}");
    }
}

// The command line.

async fn defib(args: &[&str]) -> (i32, String, String) {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_defib"));
    command
        .args(args)
        .env_remove("DEFIB_TOKEN")
        .env("NO_COLOR", "1")
        .kill_on_drop(true);
    let output = timeout(LONG, command.output()).await.unwrap().unwrap();
    (
        output.status.code().unwrap(),
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

#[tokio::test]
async fn status_is_a_table_that_a_person_reads() {
    let served = Served::start(vec![with_healthz(peer("feed")), dead(peer("a-longer-name"))]);
    let url = format!("http://{}", served.address);
    let (code, table, _) = defib(&["status", "--url", &url]).await;
    assert_eq!(code, 0);
    insta::assert_snapshot!(table, @r"
    node base-1 of group base-station, up 1 min 40 s, defib 0.1.0
    bus trusted for 1 min 39 s
    feed: its healthz remedy is not wired: no probe of /healthz/feed has come

    PEER           LIVENESS  FOR         CAUSE       CHECKS          NEXT
    feed           alive     1 min 30 s              1 pass          judged again in 1.0 s at the latest
    a-longer-name  dead      40.0 s      peer_stuck  heartbeat dead  nothing: no remedy is configured, somebody has to look
      stopped by a signal (state T)
    ");
    let (code, json, _) = defib(&["status", "--json", "--url", &url]).await;
    assert_eq!(code, 0);
    let status: http::Status = serde_json::from_str(&json).unwrap();
    assert_eq!(status.snapshot.unwrap().peers.len(), 2);
    let (code, text, _) = defib(&["explain", "a-longer-name", "--url", &url]).await;
    assert_eq!(code, 0);
    assert!(text.starts_with("a-longer-name is dead (peer_stuck)"), "{text}");
    let (code, _, error) = defib(&["explain", "nobody", "--url", &url]).await;
    assert_eq!(code, 1);
    assert!(error.contains("configured: feed, a-longer-name"), "{error}");
    served.stop().await;
}

#[tokio::test]
async fn operators_work_from_the_command_line() {
    let mut served = Served::with_admin(vec![peer("feed")]);
    let socket = served.socket.clone().unwrap().display().to_string();
    let admin = format!("http://{}", served.admin.unwrap());
    let (code, said, error) = defib(&[
        "pause",
        "feed",
        "--reason",
        "maintenance",
        "--for",
        "10m",
        "--admin-socket",
        &socket,
    ])
    .await;
    assert_eq!((code, said.as_str()), (0, "feed is paused for 10m\n"), "{error}");
    let (request, by) = served.operator().await;
    assert!(
        matches!(
            request,
            OperatorRequest::Pause {
                peer: Some(PeerId(0)),
                ..
            }
        ),
        "{request:?}"
    );
    assert!(by.contains(" pid "), "{by}");

    let (code, _, error) = defib(&["resume", "--url", &admin]).await;
    assert_eq!(code, 1);
    assert!(error.contains("send the token"), "{error}");
    let (code, said, _) = defib(&["resume", "--url", &admin, "--token", "s3cret"]).await;
    assert_eq!((code, said.as_str()), (0, "the whole node is no longer paused\n"));
    served.operator().await;
    let (code, _, error) = defib(&["forget", "fed", "--admin-socket", &socket]).await;
    assert_eq!(code, 1);
    assert!(error.contains("configured: feed"), "{error}");
    let (code, said, _) = defib(&["drain", "--admin-socket", &socket]).await;
    assert_eq!((code, said.as_str()), (0, "the node says goodbye and ends\n"));
    served.operator().await;
    served.stop().await;
}

#[tokio::test]
async fn probes_answer_in_one_line_and_an_exit_code() {
    let served = Served::start(vec![pulsing(peer("feed"), at(110)), with_healthz(peer("other"))]);
    let url = format!("http://{}", served.address);
    let nobody = {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}", free.local_addr().unwrap())
    };
    let (live, status) = (format!("{url}/livez"), format!("{url}/api/v1/status"));
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("alive");
    std::fs::write(&file, "").unwrap();
    let (file, missing) = (
        file.display().to_string(),
        directory.path().join("missing").display().to_string(),
    );
    // Ten times the default: this machine is busy.
    let patient = "--timeout=20s";
    for (args, code, says) in [
        (
            vec!["healthz", "feed", patient, "--url", &url],
            1,
            "fail: pulse: feed is dead",
        ),
        (
            vec!["healthz", "other", patient, "--url", &url],
            0,
            "pass: other is alive",
        ),
        (vec!["healthz", patient, "--url", &url], 0, "pass: 1 of 2 peers"),
        (
            vec!["healthz", patient, "--url", &nobody],
            0,
            "pass (--unreachable=pass): no defib answers at",
        ),
        (
            vec!["healthz", patient, "--url", &nobody, "--unreachable=fail"],
            1,
            "fail (could not ask)",
        ),
        (vec!["http", &live, patient], 0, "pass"),
        (vec!["http", &live, patient, "--status=204"], 1, "fail"),
        (
            vec![
                "http",
                &status,
                patient,
                "--json=snapshot.node",
                "--equals=base-1",
            ],
            0,
            "pass",
        ),
        (
            vec![
                "http",
                &status,
                patient,
                "--json=snapshot.trust.stalls",
                "--above=0",
            ],
            1,
            "fail",
        ),
        (vec!["http", &nobody, patient], 1, "fail (could not ask)"),
        (
            vec!["http", &nobody, patient, "--unreachable=pass"],
            0,
            "pass (--unreachable=pass)",
        ),
        (vec!["file", &file, "--max-age=1h"], 0, "pass: it was modified"),
        (vec!["file", &missing], 1, "is missing"),
        (vec!["file", "/proc/self"], 1, "fail (could not ask)"),
    ] {
        let args: Vec<_> = ["probe"].into_iter().chain(args).collect();
        let (exit, said, error) = defib(&args).await;
        assert_eq!((exit, error.as_str()), (code, ""), "{args:?}: {said}");
        assert!(said.contains(says), "{args:?}: {said}");
        assert_eq!(said.lines().count(), 1, "{args:?}: {said}");
    }
    served.stop().await;
}

#[tokio::test]
async fn a_redis_is_probed_from_the_command_line() {
    if !redis_server::there() {
        return;
    }
    let server = RedisServer::start();
    let url = server.url();
    let (code, said, _) = defib(&["probe", "redis", &url, "--timeout=20s"]).await;
    assert_eq!((code, said.lines().count()), (0, 1), "{said}");
    assert!(said.starts_with("pass: "), "{said}");
    server.stop();
    for (unreachable, code) in [("fail", 1), ("pass", 0)] {
        let unreachable = format!("--unreachable={unreachable}");
        let (exit, said, _) = defib(&["probe", "redis", &url, "--timeout=500ms", &unreachable]).await;
        assert_eq!((exit, said.lines().count()), (code, 1), "{said}");
    }
    server.cont();
    let (code, said, _) = defib(&["probe", "redis", "http://127.0.0.1:1"]).await;
    assert_eq!(code, 1);
    assert!(said.starts_with("fail: the URL cannot be read"), "{said}");
}
