//! The http client's answers, the `http` check, expectations and the owner watch, on real sockets and processes.

use std::io::BufRead as _;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use defib::checks::parts::parts;
use defib::checks::{Files, Owner, Probe, Reporting, Schedule, Settings, Surroundings, When};
use defib::condemned::CondemnedTable;
use defib::docker::{self, Docker};
use defib::engine;
use defib::engine::cause::Cause;
use defib::engine::event::{
    CheckId, Event, ExpectationId, Incarnation, Observation, Outcome, OwnerSeen, PeerId, Word,
};
use defib::engine::settings::{BreakerSettings, GroupBudget};
use defib::engine::time::{Clock, Time};
use defib::http_client::{Answer, Expect, JsonCondition, Question, ask};
use defib::owner_table::{Holding, OwnerTable};
use defib::redis_client::{self, Endpoint, Redis};
use defib::runtime::clock;
use defib::secret::Secret;
use defib::sock_diag::Rounds;
use defib::task::Task;
use defib::telemetry::metrics::Metrics;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{Receiver, channel};
use tokio_util::sync::CancellationToken;

use crate::support::available;
use crate::support::ports::{free_port, free_port_of};

/// Generous: the machine may be loaded. Nothing here passes by being slow.
pub(crate) const BOUND: Duration = Duration::from_secs(30);
pub(crate) const SOON: Schedule = Schedule {
    interval: Duration::from_millis(50),
    timeout: Duration::from_secs(10),
};
const NEVER: Schedule = Schedule {
    interval: Duration::from_secs(3600),
    timeout: Duration::from_secs(10),
};
/// How long clients have to come back.
pub(crate) const SETTLE: Duration = Duration::from_secs(2);
pub(crate) const PEER: PeerId = PeerId(0);
pub(crate) const CHECK: CheckId = CheckId { peer: PEER, index: 0 };

pub(crate) struct TestClock(Instant);

impl TestClock {
    #[allow(clippy::disallowed_methods, reason = "the tests' own clock")]
    pub(crate) fn shared() -> Arc<dyn Clock> {
        Arc::new(Self(Instant::now()))
    }
}

impl Clock for TestClock {
    #[allow(clippy::disallowed_methods, reason = "the tests' own clock")]
    fn now(&self) -> Time {
        Time::from_origin(self.0.elapsed())
    }

    fn wall(&self) -> Duration {
        clock::wall_now().duration_since(SystemTime::UNIX_EPOCH).unwrap()
    }
}

/// A child that does not outlive its test.
pub(crate) struct Process(pub(crate) Child);

impl Process {
    pub(crate) fn start(program: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new(program);
        Self(command.args(arguments).stdin(Stdio::null()).spawn().unwrap())
    }

    /// Has this text in its command line, and no child.
    pub(crate) fn marked(mark: &str) -> Self {
        let mut command = Command::new("sh");
        let command = command.args(["-c", &format!("read x # {mark}")]);
        Self(command.stdin(Stdio::piped()).spawn().unwrap())
    }

    pub(crate) fn sleep() -> Self {
        Self::start("sleep", &["600"])
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Not reaped: what is left is a zombie.
    pub(crate) fn kill(&mut self) {
        self.0.kill().unwrap();
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.0), signal).unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a connection gets for its request.
#[derive(Clone)]
pub(crate) enum Reply {
    /// These bytes, then the end.
    Bytes(String),
    /// These bytes, then silence.
    Stall(String),
    /// These bytes, then more and more.
    Endless(String),
}

pub(crate) fn status(status: u16, body: &str) -> Reply {
    let length = body.len();
    Reply::Bytes(format!(
        "HTTP/1.1 {status} X\r\ncontent-length: {length}\r\n\r\n{body}"
    ))
}

/// A server of one answer, which can be changed.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) requests: Arc<Mutex<Vec<String>>>,
    pub(crate) reply: Arc<Mutex<Reply>>,
    most_at_once: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    pub(crate) async fn start(reply: Reply) -> Self {
        Self::start_on("127.0.0.1:0", reply).await
    }

    async fn start_on(bind: &str, reply: Reply) -> Self {
        let listener = TcpListener::bind(bind).await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let reply = Arc::new(Mutex::new(reply));
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (seen, answer, most_at_once) = (Arc::clone(&requests), Arc::clone(&reply), Arc::clone(&most));
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (seen, answer) = (Arc::clone(&seen), Arc::clone(&answer));
                let (now, most) = (Arc::clone(&now), Arc::clone(&most));
                connections.spawn(async move {
                    most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    Self::answer(stream, &seen, &answer).await;
                    now.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Self {
            address,
            requests,
            reply,
            most_at_once,
            task,
        }
    }

    async fn answer(mut stream: TcpStream, seen: &Mutex<Vec<String>>, reply: &Mutex<Reply>) {
        let (mut request, mut buffer) = (Vec::new(), [0; 4096]);
        while !String::from_utf8_lossy(&request).contains("\r\n\r\n") {
            match stream.read(&mut buffer).await {
                Ok(read @ 1..) => request.extend_from_slice(&buffer[..read]),
                _ => return,
            }
        }
        seen.lock()
            .unwrap()
            .push(String::from_utf8_lossy(&request).into_owned());
        let reply = reply.lock().unwrap().clone();
        let (Reply::Bytes(head) | Reply::Stall(head) | Reply::Endless(head)) = &reply;
        let _ = stream.write_all(head.as_bytes()).await;
        match reply {
            Reply::Bytes(_) => {}
            // Until the client is tired of it.
            Reply::Stall(_) => while matches!(stream.read(&mut buffer).await, Ok(1..)) {},
            Reply::Endless(_) => while stream.write_all(&[b'x'; 4096]).await.is_ok() {},
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/health", self.address)
    }

    pub(crate) fn set(&self, reply: Reply) {
        *self.reply.lock().unwrap() = reply;
    }

    /// From here on its port refuses.
    pub(crate) async fn stop(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

pub(crate) fn question(url: &str) -> Question {
    Question {
        url: url.to_owned(),
        statuses: 200..=299,
        json: None,
        ignore: Vec::new(),
        body_limit: 64 * 1024,
        bearer: None,
    }
}

#[allow(clippy::unnecessary_wraps, reason = "as a question holds it")]
fn field(path: &str, expect: Expect) -> Option<JsonCondition> {
    let path = path.to_owned();
    Some(JsonCondition { path, expect })
}

#[derive(Debug, PartialEq)]
enum Is {
    Pass,
    Fail,
    Unknown,
}

fn kind(answer: &Answer) -> Is {
    match answer {
        Answer::Pass => Is::Pass,
        Answer::Fail(_) => Is::Fail,
        Answer::Unknown(_) => Is::Unknown,
    }
}

async fn answer_to(
    reply: Reply,
    statuses: RangeInclusive<u16>,
    json: Option<JsonCondition>,
    ignore: &[&str],
) -> Answer {
    let server = Server::start(reply).await;
    let question = Question {
        statuses,
        json,
        ignore: ignore.iter().map(ToString::to_string).collect(),
        ..question(&server.url())
    };
    ask(&question, BOUND).await
}

#[tokio::test]
async fn the_status_is_judged() {
    for (code, is) in [
        (200, Is::Pass),
        (204, Is::Pass),
        (500, Is::Fail),
        (503, Is::Fail),
        (404, Is::Fail),
        (401, Is::Unknown),
        (403, Is::Unknown),
        (407, Is::Unknown),
        (429, Is::Unknown),
        (301, Is::Unknown),
    ] {
        let answer = answer_to(status(code, ""), 200..=299, None, &[]).await;
        assert_eq!(kind(&answer), is, "{code}: {answer:?}");
    }
    let wanted = answer_to(status(403, ""), 400..=499, None, &[]).await;
    assert_eq!(wanted, Answer::Pass);
}

#[tokio::test]
async fn the_json_is_judged() {
    let body = json!({
        "car": {"seen_s_ago": 3, "name": "x"}, "list": [{"ok": true}], "one": 1, "half": 0.5, "none": null,
    });
    for (path, expect, is) in [
        ("car.seen_s_ago", Expect::Below(5.0), Is::Pass),
        ("car.seen_s_ago", Expect::Below(3.0), Is::Fail),
        ("car.seen_s_ago", Expect::Above(2.5), Is::Pass),
        ("car.seen_s_ago", Expect::Above(3.0), Is::Fail),
        ("car.name", Expect::Below(5.0), Is::Unknown),
        ("car.name", Expect::Equals(json!("x")), Is::Pass),
        ("car.name", Expect::Equals(json!("y")), Is::Fail),
        ("list.0.ok", Expect::Equals(json!(true)), Is::Pass),
        ("list.1.ok", Expect::Equals(json!(true)), Is::Unknown),
        ("list.x", Expect::Equals(json!(true)), Is::Unknown),
        ("one", Expect::Equals(json!(1.0)), Is::Pass),
        ("half", Expect::Equals(json!(0.5)), Is::Pass),
        ("one", Expect::Equals(json!(true)), Is::Fail),
        ("none", Expect::Equals(json!(null)), Is::Pass),
        ("none", Expect::Above(0.0), Is::Unknown),
        ("absent", Expect::Equals(json!(null)), Is::Unknown),
        ("", Expect::Equals(json!(null)), Is::Unknown),
    ] {
        let reply = status(200, &body.to_string());
        let answer = answer_to(reply, 200..=299, field(path, expect.clone()), &[]).await;
        assert_eq!(kind(&answer), is, "{path} {expect:?}: {answer:?}");
    }
    for body in ["", "<html>", "{", "\u{0}", &"[".repeat(10_000)] {
        let json = field("a", Expect::Above(0.0));
        let answer = answer_to(status(200, body), 200..=299, json, &[]).await;
        assert_eq!(kind(&answer), Is::Unknown, "{answer:?}");
    }
}

#[tokio::test]
async fn s10_a_body_that_is_ill_only_because_of_an_ignored_component_passes() {
    let only_feed =
        json!({"healthy": false, "components": {"db": {"healthy": true}, "feed": {"healthy": false}}})
            .to_string();
    let also_db = only_feed.replace("true", "false");
    let amber =
        json!({"healthy": false, "components": {"db": {"status": "amber"}, "feed": false}}).to_string();
    let nobody = json!({"healthy": false}).to_string();
    let depth = json!({"healthy": false, "depth": 9, "components": {"feed": false}}).to_string();
    let healthy = || field("healthy", Expect::Equals(json!(true)));
    let shallow = || field("depth", Expect::Below(5.0));
    let deep = || field("depth", Expect::Below(50.0));
    for (code, body, json, ignore, is) in [
        (200, &only_feed, None, "feed", Is::Pass),
        (200, &only_feed, healthy(), "feed", Is::Pass),
        (503, &only_feed, healthy(), "feed", Is::Pass),
        (503, &only_feed, None, "feed", Is::Pass),
        (500, &only_feed, None, "feed", Is::Fail),
        (403, &only_feed, None, "feed", Is::Unknown),
        (200, &only_feed, healthy(), "db", Is::Fail),
        (200, &also_db, healthy(), "feed", Is::Fail),
        (503, &also_db, None, "feed", Is::Fail),
        (200, &amber, None, "feed", Is::Unknown),
        (200, &nobody, None, "feed", Is::Fail),
        (503, &nobody, healthy(), "feed", Is::Fail),
        (503, &depth, shallow(), "feed", Is::Fail),
        (503, &depth, deep(), "feed", Is::Pass),
        (503, &"<html>".to_owned(), None, "feed", Is::Fail),
        (200, &"<html>".to_owned(), None, "feed", Is::Unknown),
    ] {
        let shown = format!("{code} {body} {json:?} without {ignore}");
        let answer = answer_to(status(code, body), 200..=299, json, &[ignore]).await;
        assert_eq!(kind(&answer), is, "{shown}: {answer:?}");
    }
    // Without `ignore` nothing is excused.
    let answer = answer_to(status(200, &only_feed), 200..=299, healthy(), &[]).await;
    assert_eq!(answer, Answer::Fail("healthy is false, not true".into()));
}

#[tokio::test]
async fn what_is_not_an_answer_is_blamed_on_the_right_side() {
    let short = Duration::from_millis(300);
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n".to_owned();
    let chunked = "HTTP/1.1 200 OK\r\n\r\n".to_owned();
    let big_head = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "x".repeat(64 * 1024));
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: y\r\n".repeat(500));
    let json = || field("a", Expect::Above(0.0));
    for (what, reply, json, is, timeout) in [
        ("no head", Reply::Stall(String::new()), None, Is::Fail, short),
        (
            "half a head",
            Reply::Stall("HTTP/1.1 200 OK\r\nx".into()),
            None,
            Is::Fail,
            short,
        ),
        ("half a body", Reply::Stall(head.clone()), json(), Is::Fail, short),
        (
            "a body nobody asks about",
            Reply::Stall(head.clone()),
            None,
            Is::Pass,
            BOUND,
        ),
        ("a body cut off", Reply::Bytes(head), json(), Is::Fail, BOUND),
        (
            "an endless body",
            Reply::Endless(chunked.clone()),
            json(),
            Is::Unknown,
            BOUND,
        ),
        (
            "an endless body nobody asks about",
            Reply::Endless(chunked),
            None,
            Is::Pass,
            BOUND,
        ),
        ("nothing", Reply::Bytes(String::new()), None, Is::Fail, BOUND),
        (
            "garbage",
            Reply::Bytes("SSH-2.0-x\r\n\r\n".into()),
            None,
            Is::Fail,
            BOUND,
        ),
        ("a big head", Reply::Bytes(big_head), None, Is::Unknown, BOUND),
        ("many headers", Reply::Bytes(many), None, Is::Unknown, BOUND),
    ] {
        let server = Server::start(reply).await;
        let question = Question {
            json,
            ..question(&server.url())
        };
        let answer = tokio::time::timeout(BOUND, ask(&question, timeout))
            .await
            .unwrap();
        assert_eq!(kind(&answer), is, "{what}: {answer:?}");
    }
}

#[tokio::test]
async fn who_cannot_be_reached_fails_and_what_we_cannot_ask_is_unknown() {
    let server = Server::start(status(200, "")).await;
    let url = server.url();
    server.stop().await;
    let refused = ask(&question(&url), BOUND).await;
    assert!(
        matches!(&refused, Answer::Fail(why) if why.contains("refused")),
        "{refused:?}"
    );

    for url in [
        "http://name.that.does.not.exist.invalid/",
        "http://user:hunter2@127.0.0.1/",
        "ftp://127.0.0.1/",
        "nonsense",
    ] {
        let answer = ask(&question(url), Duration::from_secs(5)).await;
        assert_eq!(kind(&answer), Is::Unknown, "{url}: {answer:?}");
        assert!(!format!("{answer:?}").contains("hunter2"));
    }
    let server = Server::start(status(200, "")).await;
    let secret = Question {
        bearer: Some(Secret::Env("DEFIB_TEST_NOT_SET".into())),
        ..question(&server.url())
    };
    assert_eq!(kind(&ask(&secret, BOUND).await), Is::Unknown);
    let broken = Question {
        bearer: Some(Secret::Inline("hunter2\nx: y".into())),
        ..question(&server.url())
    };
    let answer = ask(&broken, BOUND).await;
    assert_eq!(kind(&answer), Is::Unknown);
    assert!(!format!("{answer:?}").contains("hunter2"));
    assert!(server.requests.lock().unwrap().is_empty());
}

#[tokio::test]
async fn the_request_is_what_it_should_be() {
    let elsewhere = Server::start(status(200, "")).await;
    let redirect = format!(
        "HTTP/1.1 302 X\r\nlocation: {}\r\ncontent-length: 0\r\n\r\n",
        elsewhere.url()
    );
    let server = Server::start(Reply::Bytes(redirect)).await;
    let secret = Question {
        bearer: Some(Secret::Inline("hunter2".into())),
        ..question(&format!("http://{}/a?b=c#d", server.address))
    };
    let answer = ask(&secret, BOUND).await;
    assert!(
        matches!(&answer, Answer::Unknown(why) if why.contains("redirects")),
        "{answer:?}"
    );
    assert!(
        elsewhere.requests.lock().unwrap().is_empty(),
        "a redirect was followed"
    );
    let request = server.requests.lock().unwrap().concat().to_lowercase();
    assert!(request.starts_with("get /a?b=c http/1.1\r\n"), "{request}");
    assert!(request.contains("authorization: bearer hunter2\r\n"), "{request}");
    assert!(
        request.contains(&format!("host: {}\r\n", server.address)),
        "{request}"
    );
}

#[tokio::test]
async fn an_ipv6_host_works() {
    if !available("IPv6 loopback", std::net::TcpListener::bind("[::1]:0").is_ok()) {
        return;
    }
    let server = Server::start_on("[::1]:0", status(200, "")).await;
    assert_eq!(ask(&question(&server.url()), BOUND).await, Answer::Pass);
    let request = server.requests.lock().unwrap().concat();
    assert!(
        request.contains(&format!("host: {}\r\n", server.address)),
        "{request}"
    );
}

#[tokio::test]
async fn every_address_of_a_name_is_tried() {
    // `localhost` is often ::1 first, where nobody listens.
    let server = Server::start(status(200, "")).await;
    let localhost = format!("http://localhost:{}/", server.address.port());
    assert_eq!(ask(&question(&localhost), BOUND).await, Answer::Pass);
}

/// Tasks of the checks, running, and what they report.
pub(crate) struct Running {
    pub(crate) owners: OwnerTable,
    pub(crate) condemned: CondemnedTable,
    events: Receiver<Event>,
    tasks: Vec<Task>,
    cancel: CancellationToken,
    joined: tokio::task::JoinSet<anyhow::Result<()>>,
    pub(crate) metrics: Metrics,
    names: engine::settings::Settings,
    around: Surroundings,
}

impl Running {
    pub(crate) fn start(settings: Settings) -> Self {
        let redis = redis_client::Server::new(
            Arc::new(Redis::new(Endpoint::tcp("127.0.0.1".to_owned(), 1))),
            &"n".into(),
        );
        Self::start_beside(settings, redis, &[])
    }

    /// On a bus at this server, keeping these variables from commands.
    pub(crate) fn start_beside(settings: Settings, redis: redis_client::Server, scrub: &[&str]) -> Self {
        let (sender, events) = channel(64);
        let metrics = Metrics::new().unwrap();
        let reporting = Reporting {
            events: sender,
            clock: TestClock::shared(),
            metrics: metrics.checks.clone(),
        };
        let (owners, condemned) = (OwnerTable::default(), CondemnedTable::default());
        let names = engine::settings::Settings {
            node: "n".into(),
            group: "g".into(),
            boot: "b".into(),
            dry_run: false,
            interval: Duration::from_secs(1),
            bus_settle: Duration::ZERO,
            group_channel: "c".into(),
            group_budget: GroupBudget::default(),
            fleet_asks: false,
            breaker: BreakerSettings::default(),
            quorum: engine::settings::QuorumSettings::default(),
            expectations: vec!["car".into()],
            peers: Vec::new(),
        };
        let around = Surroundings {
            reporting,
            owners: owners.clone(),
            condemned: condemned.clone(),
            docker: Docker::new(docker::Settings::default()),
            systemd: defib::systemd::Systemd::new(defib::systemd::Settings::default()),
            redis,
            scrub: scrub.iter().map(ToString::to_string).collect(),
            settle: SETTLE,
            rounds: Rounds::default(),
            files: Files::default(),
        };
        let tasks: Vec<_> = parts(&settings, &names, &around)
            .into_iter()
            .map(|part| part.task(&around))
            .collect();
        let mut running = Self {
            owners,
            condemned,
            events,
            tasks,
            cancel: CancellationToken::new(),
            joined: tokio::task::JoinSet::new(),
            metrics,
            names,
            around,
        };
        running.spawn();
        running
    }

    pub(crate) fn owner(owner: Owner, schedule: Schedule) -> Self {
        Self::start(Settings {
            owners: vec![(PEER, owner, Some(CHECK), schedule)],
            ..Settings::default()
        })
    }

    fn spawn(&mut self) {
        for task in &self.tasks {
            self.joined.spawn((task.start)(self.cancel.clone()));
        }
    }

    /// Ends every task as a supervisor does; they could be started again.
    pub(crate) async fn stop(&mut self) {
        self.cancel.cancel();
        while let Some(ended) = tokio::time::timeout(BOUND, self.joined.join_next())
            .await
            .unwrap()
        {
            ended.unwrap().unwrap();
        }
        self.cancel = CancellationToken::new();
    }

    /// Whatever comes next.
    pub(crate) async fn event(&mut self) -> Event {
        self.next().await
    }

    /// What the peer is next reported to say of itself.
    pub(crate) async fn word(&mut self) -> Word {
        loop {
            if let Event::Report(report) = self.next().await {
                assert_eq!(report.check, CHECK);
                return report.word;
            }
        }
    }

    async fn next(&mut self) -> Event {
        let event = tokio::time::timeout(BOUND, self.events.recv()).await;
        event.expect("no event in time").expect("the tasks ended")
    }

    pub(crate) async fn outcome(&mut self) -> Outcome {
        loop {
            if let Event::Observation(Observation { check, outcome, .. }) = self.next().await {
                assert_eq!(check, CHECK);
                return outcome;
            }
        }
    }

    pub(crate) async fn seen(&mut self) -> OwnerSeen {
        loop {
            if let Event::Owner { peer, seen } = self.next().await {
                assert_eq!(peer, PEER);
                return seen;
            }
        }
    }

    pub(crate) async fn running(&mut self) -> Incarnation {
        match self.seen().await {
            OwnerSeen::Running(incarnation) => incarnation,
            other => panic!("{other:?}"),
        }
    }

    /// The life of the process that is held.
    pub(crate) fn held_life(&self) -> Incarnation {
        match self.owners.get(PEER) {
            Holding::Live(live) => live.incarnation,
            other => panic!("{other:?}"),
        }
    }

    fn held(&self) -> Option<u32> {
        match self.owners.get(PEER) {
            Holding::Live(live) => Some(live.pid),
            Holding::Listening(_) | Holding::Nothing | Holding::Unwatched => None,
        }
    }

    /// What was reported up to now, without waiting.
    fn more_seen(&mut self) -> Vec<OwnerSeen> {
        let events = std::iter::from_fn(|| self.events.try_recv().ok());
        events
            .filter_map(|event| match event {
                Event::Owner { seen, .. } => Some(seen),
                _ => None,
            })
            .collect()
    }
}

#[tokio::test]
async fn the_http_check_reports_what_the_answer_says() {
    let server = Server::start(status(200, "")).await;
    let mut running = Running::start(Settings {
        probes: vec![(CHECK, Probe::Http(question(&server.url())), SOON)],
        ..Settings::default()
    });
    assert_eq!(running.outcome().await, Outcome::Pass);
    server.set(status(503, ""));
    let failed = loop {
        match running.outcome().await {
            Outcome::Pass => {}
            other => break other,
        }
    };
    let detail = "status 503".to_owned();
    let cause = Cause::PeerStuck;
    assert_eq!(failed, Outcome::Fail { cause, detail });
    server.set(status(403, ""));
    while !matches!(running.outcome().await, Outcome::Unknown { .. }) {}
    server.stop().await;
    while !matches!(running.outcome().await, Outcome::Fail { detail, .. } if detail.contains("refused")) {}
    assert_eq!(running.tasks[0].name, "check:0/0");
    running.stop().await;
    let text = prometheus::TextEncoder::new()
        .encode_to_string(&running.metrics.registry.gather())
        .unwrap();
    assert!(
        text.contains(r#"defib_check_runs_total{kind="http",outcome="unknown"}"#),
        "{text}"
    );
}

#[tokio::test]
async fn a_run_that_is_still_going_is_never_started_twice_and_ends_with_its_task() {
    let server = Server::start(Reply::Stall(String::new())).await;
    let slow = Schedule {
        interval: Duration::from_millis(20),
        timeout: Duration::from_millis(400),
    };
    let mut running = Running::start(Settings {
        probes: vec![(CHECK, Probe::Http(question(&server.url())), slow)],
        ..Settings::default()
    });
    for _ in 0..3 {
        assert!(matches!(running.outcome().await, Outcome::Fail { .. }));
    }
    assert_eq!(server.most_at_once.load(Ordering::SeqCst), 1);
    // In the middle of a run that would last an hour.
    let hour = Schedule {
        timeout: Duration::from_secs(3600),
        ..slow
    };
    let before = server.requests.lock().unwrap().len();
    let mut stuck = Running::start(Settings {
        probes: vec![(CHECK, Probe::Http(question(&server.url())), hour)],
        ..Settings::default()
    });
    running.stop().await;
    until(|| server.requests.lock().unwrap().len() > before).await;
    stuck.stop().await;
}

#[tokio::test]
async fn an_expectation_is_met_unmet_or_open() {
    let server = Server::start(status(200, r#"{"car": {"seen_s_ago": 1}}"#)).await;
    let question = Question {
        json: field("car.seen_s_ago", Expect::Below(5.0)),
        ..question(&server.url())
    };
    let mut running = Running::start(Settings {
        expectations: vec![(ExpectationId(0), When::Http(question), SOON)],
        ..Settings::default()
    });
    assert_eq!(running.tasks[0].name, "when:car");
    let reaches = async |running: &mut Running, wanted: Option<bool>| loop {
        match running.next().await {
            Event::Expectation { id, met } => {
                assert_eq!(id, ExpectationId(0));
                if met == wanted {
                    return;
                }
            }
            other => panic!("{other:?}"),
        }
    };
    reaches(&mut running, Some(true)).await;
    server.set(status(200, r#"{"car": {"seen_s_ago": 5}}"#));
    reaches(&mut running, Some(false)).await;
    server.set(status(200, r#"{"car": {}}"#));
    reaches(&mut running, None).await;
    server.stop().await;
    reaches(&mut running, Some(false)).await;
    running.stop().await;
}

/// Polls a condition that has no event.
pub(crate) async fn until(mut condition: impl FnMut() -> bool) {
    let polling = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(BOUND, polling).await.expect("not in time");
}

#[tokio::test]
async fn an_exit_is_seen_through_the_pidfd_without_polling() {
    let mut process = Process::sleep();
    // Only the pidfd can tell within the test's time: the next look is an hour away. And what is left is a
    // zombie, as nobody reaps it.
    let mut running = Running::owner(Owner::Pid(process.pid()), NEVER);
    let incarnation = running.running().await;
    let parts: Vec<_> = incarnation.0.split(':').map(str::to_owned).collect();
    assert_eq!(
        (parts[0].as_str(), parts[2].as_str()),
        ("proc", process.pid().to_string().as_str())
    );
    assert_eq!(running.held(), Some(process.pid()));
    process.kill();
    assert_eq!(running.seen().await, OwnerSeen::Exited(incarnation));
    assert_eq!(running.held(), None);
    running.stop().await;
    assert_eq!(running.more_seen(), []);
}

#[tokio::test]
async fn an_exit_while_the_watch_itself_was_restarted_is_still_witnessed() {
    let mut process = Process::sleep();
    let mut running = Running::owner(Owner::Pid(process.pid()), NEVER);
    let incarnation = running.running().await;
    running.stop().await;
    process.0.kill().unwrap();
    process.0.wait().unwrap();
    running.spawn();
    assert_eq!(running.running().await, incarnation);
    assert_eq!(running.seen().await, OwnerSeen::Exited(incarnation));
    running.stop().await;
}

#[tokio::test]
async fn absence_is_told_once_and_is_no_exit() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pid");
    let mut running = Running::owner(Owner::PidFile(path.clone()), SOON);
    let OwnerSeen::Absent { detail } = running.seen().await else {
        panic!("not absent");
    };
    assert!(
        detail.contains("No such file") && detail.contains("pid"),
        "{detail}"
    );
    let process = Process::sleep();
    std::fs::write(&path, format!("{}\n", process.pid())).unwrap();
    // The very next thing is that it runs: the same absence was not told again.
    running.running().await;
    running.stop().await;
}

#[tokio::test]
async fn a_pid_file_is_followed_to_another_life() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pid");
    let name = |process: &Process| {
        // As daemons do it: whole or not at all.
        let new = dir.path().join("new");
        std::fs::write(&new, process.pid().to_string()).unwrap();
        std::fs::rename(new, &path).unwrap();
    };
    let mut first = Process::sleep();
    name(&first);
    let mut running = Running::owner(Owner::PidFile(path.clone()), SOON);
    let one = running.running().await;
    // Replaced while the first still lives: the second is the peer now, and the first one's end nobody's exit.
    let mut second = Process::sleep();
    name(&second);
    let two = running.running().await;
    assert_ne!(one, two);
    assert_eq!(running.held(), Some(second.pid()));
    first.kill();
    // Garbage in the file is no reason to let go of a process that runs.
    std::fs::write(&path, "garbage").unwrap();
    for _ in 0..5 {
        assert_eq!(running.outcome().await, Outcome::Pass);
    }
    assert_eq!(running.held(), Some(second.pid()));
    // An exit, and the file still names the dead one: nothing until it names another.
    std::fs::write(&path, second.pid().to_string()).unwrap();
    second.kill();
    assert_eq!(running.seen().await, OwnerSeen::Exited(two));
    let third = Process::sleep();
    name(&third);
    let three = running.running().await;
    assert_eq!(running.held(), Some(third.pid()));
    assert_ne!(three, one);
    running.stop().await;
}

#[tokio::test]
async fn a_stopped_process_is_stuck_and_a_continued_one_is_not() {
    let process = Process::sleep();
    let mut running = Running::owner(Owner::Pid(process.pid()), SOON);
    assert_eq!(running.outcome().await, Outcome::Pass);
    process.signal(rustix::process::Signal::STOP);
    let stuck = Outcome::Fail {
        cause: Cause::PeerStuck,
        detail: "stopped by a signal (state T)".into(),
    };
    while running.outcome().await != stuck {}
    process.signal(rustix::process::Signal::CONT);
    while running.outcome().await != Outcome::Pass {}
    assert_eq!(running.more_seen(), []);
    running.stop().await;
}

#[tokio::test]
async fn the_one_of_that_command_line_is_found_again_after_its_exit() {
    let mark = format!("defib-it-{}-command", std::process::id());
    let mut first = Process::marked(&mark);
    let mut running = Running::owner(Owner::Command(mark.clone()), NEVER);
    let one = running.running().await;
    assert_eq!(running.held(), Some(first.pid()));
    first.kill();
    assert_eq!(running.seen().await, OwnerSeen::Exited(one));
    // Long before the interval of an hour is over.
    let second = Process::marked(&mark);
    running.running().await;
    assert_eq!(running.held(), Some(second.pid()));
    running.stop().await;
}

#[tokio::test]
async fn two_processes_that_match_are_no_owner() {
    let mark = format!("defib-it-{}-two", std::process::id());
    let first = Process::marked(&mark);
    let second = Process::marked(&mark);
    until(|| {
        [&first, &second].iter().all(|process| {
            std::fs::read_to_string(format!("/proc/{}/cmdline", process.pid()))
                .is_ok_and(|line| line.contains(&mark))
        })
    })
    .await;
    let mut running = Running::owner(Owner::Command(mark), SOON);
    let OwnerSeen::Absent { detail } = running.seen().await else {
        panic!("not absent");
    };
    assert!(detail.contains("2 processes match"), "{detail}");
    drop(second);
    running.running().await;
    assert_eq!(running.held(), Some(first.pid()));
    running.stop().await;
}

/// A pre-fork server: a listener and a worker that holds the same socket, and leaves when its parent has.
const LISTENER: &str = "
import os, socket, sys, time
listener = socket.socket(socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET)
listener.bind((sys.argv[1], int(sys.argv[2])))
listener.listen()
parent = os.getpid()
if os.fork() == 0:
    while os.getppid() == parent: time.sleep(0.05)
    os._exit(0)
time.sleep(600)
";

fn python() -> bool {
    available(
        "python3",
        Command::new("python3")
            .arg("-V")
            .output()
            .is_ok_and(|out| out.status.success()),
    )
}

#[tokio::test]
async fn the_owner_of_a_listening_port_is_found() {
    if !python() {
        return;
    }
    for host in ["127.0.0.1", "::1"] {
        if host == "::1" && !available("IPv6 loopback", std::net::TcpListener::bind("[::1]:0").is_ok()) {
            continue;
        }
        let port = free_port_of(host);
        let mut running = Running::owner(Owner::Listens(port), SOON);
        let detail = format!("no process listens on port {port}");
        assert_eq!(running.seen().await, OwnerSeen::Absent { detail });
        // Two hold the socket: the parent, the older one, is the owner.
        let mut process = Process::start("python3", &["-c", LISTENER, host, &port.to_string()]);
        let incarnation = running.running().await;
        assert_eq!(running.held(), Some(process.pid()), "{host}");
        process.kill();
        assert_eq!(running.seen().await, OwnerSeen::Exited(incarnation));
        running.stop().await;
    }
}

#[tokio::test]
async fn two_that_have_nothing_to_do_with_each_other_on_one_port_are_no_owner() {
    if !python() {
        return;
    }
    let port = free_port();
    let listen = |host: &str| Process::start("python3", &["-c", LISTENER, host, &port.to_string()]);
    let one = listen("127.0.0.1");
    let mut running = Running::owner(Owner::Listens(port), SOON);
    // It may look before anybody listens.
    let found = async |running: &mut Running| loop {
        if let OwnerSeen::Running(life) = running.seen().await {
            return life;
        }
    };
    let incarnation = found(&mut running).await;
    // Whom it holds it keeps; but who comes later cannot tell which is meant.
    let mut two = listen("127.0.0.2");
    let mut later = loop {
        let mut later = Running::owner(Owner::Listens(port), SOON);
        match later.seen().await {
            OwnerSeen::Absent { detail } => {
                assert!(detail.contains("nothing to do with each other"), "{detail}");
                assert!(detail.contains(&one.pid().to_string()), "{detail}");
                break later;
            }
            _ => later.stop().await,
        }
    };
    // Their addresses tell them apart.
    for (host, pid) in [("127.0.0.1", one.pid()), ("127.0.0.2", two.pid())] {
        let at = std::net::SocketAddr::new(host.parse().unwrap(), port);
        let mut meant = Running::owner(Owner::ListensAt(at), SOON);
        found(&mut meant).await;
        assert_eq!(meant.held(), Some(pid), "{at}");
        meant.stop().await;
    }
    two.kill();
    assert_eq!(found(&mut later).await, incarnation);
    assert_eq!(running.held(), Some(one.pid()));
    later.stop().await;
    running.stop().await;
}

#[tokio::test]
async fn a_port_of_our_own_is_no_peer() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut running = Running::owner(Owner::Listens(port), SOON);
    let OwnerSeen::Absent { detail } = running.seen().await else {
        panic!("not absent");
    };
    assert!(detail.contains("this defib itself"), "{detail}");
    running.stop().await;
}

/// Shows the lives of whoever listens on `port`, a line for each, until there have been two.
async fn show_two_lives(port: &str) {
    let mut running = Running::owner(Owner::Listens(port.parse().unwrap()), SOON);
    for _ in 0..2 {
        let OwnerSeen::Running(first) = running.seen().await else {
            panic!("not running");
        };
        let Holding::Listening(listener) = running.owners.get(PEER) else {
            panic!("a process is held");
        };
        assert_eq!(listener.incarnation, first);
        println!("life {first} {}", listener.why);
        let seen = running.seen().await;
        assert_eq!(seen, OwnerSeen::Exited(first));
        println!("exited");
    }
    running.stop().await;
}

#[tokio::test]
async fn whose_process_is_in_another_pid_namespace_is_known_by_its_listen_socket() {
    const INNER: &str = "DEFIB_TEST_PORT_OUT_OF_SIGHT";
    if let Ok(port) = std::env::var(INNER) {
        return show_two_lives(&port).await;
    }
    let unshare = || {
        let mut command = Command::new("unshare");
        command.args(["--pid", "--fork", "--kill-child", "--mount-proc", "--"]);
        command
    };
    let can = unshare().arg("true").output();
    if !available(
        "pid namespaces (unshare as root)",
        can.is_ok_and(|out| out.status.success()),
    ) {
        return;
    }
    // Now this test is whom the inner one cannot see.
    let mut listener = Some(std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    let address = listener.as_ref().unwrap().local_addr().unwrap();
    let name = "checks::whose_process_is_in_another_pid_namespace_is_known_by_its_listen_socket";
    let mut inner = unshare()
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture", name])
        .env(INNER, address.port().to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lives = Vec::new();
    for line in std::io::BufReader::new(inner.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        if let Some(at) = line.find("life ") {
            lives.push(line[at..].to_owned());
            listener = None;
        } else if line.contains("exited") && lives.len() == 1 {
            assert!(listener.is_none());
            listener = Some(std::net::TcpListener::bind(address).unwrap());
        }
    }
    assert!(inner.wait().unwrap().success());
    let [first, second] = lives.as_slice() else {
        panic!("{lives:?}");
    };
    assert!(
        first.contains("listen:") && first.contains("share its pid namespace"),
        "{first}"
    );
    assert!(second.contains("listen:") && first != second, "{first} {second}");
}

#[tokio::test]
async fn without_permission_the_listen_socket_is_held_and_it_is_said_what_is_missing() {
    const INNER: &str = "DEFIB_TEST_PORT_OF_ANOTHER_USER";
    if let Ok(port) = std::env::var(INNER) {
        let mut running = Running::owner(Owner::Listens(port.parse().unwrap()), SOON);
        let OwnerSeen::Running(life) = running.seen().await else {
            panic!("not running");
        };
        assert!(life.0.starts_with("listen:"), "{life}");
        let Holding::Listening(listener) = running.owners.get(PEER) else {
            panic!("a process is held");
        };
        let why = listener.why;
        assert!(why.contains("uid 0") && why.contains("CAP_SYS_PTRACE"), "{why}");
        running.stop().await;
        return;
    }
    // This test again, as nobody, about a port of root's: its own.
    let nobody = |program: &std::ffi::OsStr| {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"])
            .arg(program);
        command
    };
    let us = std::env::current_exe().unwrap();
    let can = nobody(us.as_os_str())
        .arg("--list")
        .output()
        .is_ok_and(|out| out.status.success());
    if !available("a second user (setpriv as root, readable test binary)", can) {
        return;
    }
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let inner = nobody(us.as_os_str())
        .args([
            "--exact",
            "checks::without_permission_the_listen_socket_is_held_and_it_is_said_what_is_missing",
        ])
        .env(INNER, listener.local_addr().unwrap().port().to_string())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&inner.stdout);
    assert!(inner.status.success() && said.contains("1 passed"), "{said}");
}

#[tokio::test]
async fn what_a_part_told_of_a_life_outlasts_it_and_is_no_successors() {
    let child = Process::start("sleep", &["600"]);
    let mut running = Running::owner(Owner::Pid(child.0.id()), SOON);
    let owners = running.owners.clone();
    until(|| matches!(owners.get(PEER), Holding::Live(_))).await;
    running.stop().await;
    let part = |owner: Owner| {
        let settings = Settings {
            owners: vec![(PEER, owner, Some(CHECK), SOON)],
            ..Settings::default()
        };
        parts(&settings, &running.names, &running.around).remove(0)
    };
    let (old, new) = (part(Owner::Pid(child.0.id())), part(Owner::Listens(1)));
    // The fence of a remedy at work finds it, also while nobody watches.
    old.ended(&running.around);
    assert!(matches!(running.owners.get(PEER), Holding::Live(_)));
    // Who looks in another way does not take it for its own, and at no time has the peer no owner: that fence is open.
    assert!(!new.looks_as(&old) && new.tells() == old.tells());
    new.begins_anew(&running.around);
    assert!(matches!(running.owners.get(PEER), Holding::Nothing));
    for (table, peer) in new.tells() {
        table.forget(peer, &running.around);
    }
    assert!(matches!(running.owners.get(PEER), Holding::Unwatched));
}
