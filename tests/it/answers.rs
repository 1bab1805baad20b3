//! Asking other nodes for their votes over HTTP, where what answers is no friend.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use defib::bus::Asking;
use defib::engine::event::Event;
use defib::engine::snapshot::{PeerView, Snapshot, VotesView};
use defib::telemetry::metrics::Metrics;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::checks::TestClock;
use crate::support::snapshots::{at, peer, snapshot};

const BOUND: Duration = Duration::from_secs(60);

/// Answers every request with these bytes, and hangs after that if it is to. How many requests came, and the last one.
fn answering(bytes: impl Into<Vec<u8>>, hangs: bool) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, bytes) = (listener.local_addr().unwrap(), bytes.into());
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    // It ends with the test.
    std::thread::spawn(move || {
        let mut held = Vec::new();
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut request = [0; 8192];
            let read = stream.read(&mut request).unwrap_or(0);
            let request = String::from_utf8_lossy(&request[..read]).into_owned();
            assert!(
                request.starts_with("GET /api/v1/heartbeat?node%3Ax="),
                "it says whom it doubts: {request}"
            );
            count.fetch_add(1, Ordering::Relaxed);
            let _ = stream.write_all(&bytes);
            if hangs {
                held.push(stream);
            }
        }
    });
    (address, asked)
}

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn heartbeat(node: &str) -> String {
    format!(
        r#"{{"v":1,"node":"{node}","group":"it","boot":"boot-{node}","slot":7,"interval_ms":1000,"uptime_s":7.0,"late_ms":0}}"#
    )
}

fn suspecting() -> Snapshot {
    suspecting_all(&["node:x"])
}

fn suspecting_all(names: &[&str]) -> Snapshot {
    let votes = VotesView {
        doubts: names.iter().map(|name| ((*name).into(), at(97))).collect(),
        ..VotesView::default()
    };
    snapshot(vec![PeerView {
        votes: Some(votes),
        ..peer("x")
    }])
}

struct Asker {
    events: mpsc::Receiver<Event>,
    snapshots: watch::Sender<Option<Arc<Snapshot>>>,
    metrics: Metrics,
    cancel: CancellationToken,
    task: tokio::task::JoinHandle<anyhow::Result<()>>,
}

impl Asker {
    fn start(nodes: &[SocketAddr], snapshot: Snapshot) -> Self {
        Self::every(Duration::from_millis(200), nodes, snapshot)
    }

    fn every(interval: Duration, nodes: &[SocketAddr], snapshot: Snapshot) -> Self {
        let metrics = Metrics::new().unwrap();
        let (told, events) = mpsc::channel(16);
        let (snapshots, seen) = watch::channel(Some(Arc::new(snapshot)));
        let cancel = CancellationToken::new();
        let asking = Asking {
            nodes: nodes
                .iter()
                .map(|node| format!("http://{node}/").into())
                .collect(),
            interval,
            group_channel: "defib:it".into(),
            verifier: None,
            wall: Arc::new(|| 0.0),
            clock: TestClock::shared(),
            lifetime: BOUND,
            snapshots: seen,
            events: told,
            metrics: metrics.bus.clone(),
        };
        Self {
            task: tokio::spawn(asking.run(cancel.clone())),
            events,
            snapshots,
            metrics,
            cancel,
        }
    }

    fn count(&self, result: &str) -> u64 {
        self.metrics.bus.asked.with_label_values(&[result]).get()
    }

    async fn until(&self, result: &str) {
        let counted = async {
            while self.count(result) == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let come = timeout(BOUND, counted).await;
        assert!(come.is_ok(), "nothing is counted as {result}");
    }

    async fn node(&mut self) -> String {
        let event = timeout(BOUND, self.events.recv()).await.unwrap().unwrap();
        let Event::Answered(beat) = event else {
            panic!("{event:?}")
        };
        beat.node.unwrap().to_string()
    }

    async fn stop(self) {
        self.cancel.cancel();
        timeout(BOUND, self.task).await.unwrap().unwrap().unwrap();
    }
}

#[tokio::test]
async fn what_answers_badly_is_counted_and_costs_the_others_nothing() {
    let (good, _) = answering(ok(&heartbeat("b")), false);
    let elsewhere =
        format!("HTTP/1.1 307 Go\r\nLocation: http://{good}/api/v1/heartbeat\r\nContent-Length: 0\r\n\r\n");
    let endless = [
        b"HTTP/1.1 200 OK\r\nContent-Length: 9999999999\r\n\r\n".to_vec(),
        vec![b'x'; 200_000],
    ]
    .concat();
    for (answer, hangs, result) in [
        (elsewhere.clone().into_bytes(), false, "refused"),
        (
            b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n".to_vec(),
            false,
            "refused",
        ),
        (Vec::new(), true, "failed"),
        (Vec::new(), false, "failed"),
        (b"HTTP/1.1 200 OK\r\nContent-Le".to_vec(), true, "failed"),
        (b"nonsense".to_vec(), false, "failed"),
        (endless, true, "unreadable"),
        (ok("no heartbeat").into_bytes(), false, "unreadable"),
    ] {
        let (bad, asked) = answering(answer.clone(), hangs);
        let mut asker = Asker::start(&[bad, good], suspecting());
        assert_eq!(asker.node().await, "b", "{result}");
        asker.until(result).await;
        assert_eq!(asker.count("ok"), 1, "{result}: the same is told once");
        assert!(asked.load(Ordering::Relaxed) > 0);
        assert!(asker.events.try_recv().is_err(), "{result}");
        asker.stop().await;
    }
}

#[tokio::test]
async fn one_address_does_not_vote_in_several_names() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let names = ["b", "c", "d"].into_iter().cycle();
        for (name, mut stream) in names.zip(listener.incoming().map_while(Result::ok)) {
            let mut request = [0; 8192];
            let _ = stream.read(&mut request);
            let _ = stream.write_all(ok(&heartbeat(name)).as_bytes());
        }
    });
    let mut asker = Asker::start(&[address], suspecting());
    assert_eq!(asker.node().await, "b");
    asker.until("renamed").await;
    while let Ok(event) = asker.events.try_recv() {
        let Event::Answered(beat) = event else {
            panic!("{event:?}")
        };
        assert_eq!(beat.node.as_deref(), Some("b"));
    }
    asker.stop().await;
}

#[tokio::test]
async fn who_suspects_nobody_asks_nobody() {
    let (good, asked) = answering(ok(&heartbeat("b")), false);
    let mut asker = Asker::start(&[good], snapshot(vec![peer("x")]));
    // (Several rounds.)
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(asked.load(Ordering::Relaxed), 0);
    asker.snapshots.send_replace(Some(Arc::new(suspecting())));
    assert_eq!(asker.node().await, "b");
    asker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn whoever_is_missed_now_is_asked_of_at_once_and_not_when_others_have_been() {
    let minute = Duration::from_secs(60);
    // Nothing is there, and says so.
    let nobody = [SocketAddr::from(([127, 0, 0, 1], 1))];
    let asker = Asker::every(16 * minute, &nobody, suspecting());
    tokio::time::sleep(minute / 2).await;
    assert_eq!(asker.count("failed"), 1);
    let both = suspecting_all(&["node:x", "node:y"]);
    asker.snapshots.send_replace(Some(Arc::new(both)));
    tokio::time::sleep(minute / 2).await;
    assert_eq!(asker.count("failed"), 1, "others may be missed together with it");
    tokio::time::sleep(minute).await;
    assert_eq!(asker.count("failed"), 2);
    asker.cancel.cancel();
}
