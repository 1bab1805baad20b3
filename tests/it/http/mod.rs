//! The endpoints, over real sockets: what each answers, what it bears, and who may change something.

mod admin;
mod beat;
mod bind;
mod command_line;
mod events;
mod flood;
mod history;
mod metrics;
mod page;
mod probes;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use defib::engine::decision::{Notice, What};
use defib::engine::event::{Event, OperatorRequest};
use defib::engine::snapshot::{PeerView, Snapshot};
use defib::engine::time::{Clock, Time};
use defib::http::{self, AppState, Recent, Settings, View};
use defib::secret::Secret;
use defib::telemetry::metrics::Metrics;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::support::snapshots::{at, settings, snapshot};

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

    fn wall(&self) -> Duration {
        Duration::ZERO
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
    recent: Arc<Recent>,
    heartbeat: watch::Sender<(Time, Arc<[u8]>)>,
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
        let heartbeat = watch::Sender::default();
        let (to_engine, events) = mpsc::channel(1);
        let cancel = CancellationToken::new();
        let metrics = Metrics::new().unwrap();
        let recent = Arc::new(Recent::default());
        let history = Some(directory.path().join("audit.jsonl"));
        let state = AppState {
            view: seen,
            notices: notices.clone(),
            recent: Arc::clone(&recent),
            events: to_engine,
            clock: Arc::clone(&clock) as Arc<dyn Clock>,
            loop_turned: Arc::clone(&turned),
            history,
            leases: None,
            reload: None,
            heartbeat: heartbeat.subscribe(),
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
            recent,
            heartbeat,
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
        pushes: Vec::new(),
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
        n: 1,
        at: at(100),
        peer: Some(peer.into()),
        what,
    }
}
