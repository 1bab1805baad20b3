//! The links in virtual time, against a server played by the test over a duplex stream.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, duplex};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{Backend, Bus, Command, Settings};
use crate::engine::event::{Ballot, Body, Event, Heartbeat, Link, LinkStatus, Role};
use crate::engine::time::{Clock, Time};
use crate::redis_client::dial::{Dial, Dialing, Stream};
use crate::telemetry::metrics::Metrics;

const SECOND: Duration = Duration::from_secs(1);
const GREETING: &[u8] = b"%2\r\n+role\r\n+master\r\n+mode\r\n+standalone\r\n";

/// Virtual time, and by how much it seems to have jumped.
#[derive(Debug)]
struct TestClock {
    start: tokio::time::Instant,
    jumped_ms: AtomicU64,
}

impl Clock for TestClock {
    #[expect(clippy::disallowed_methods, reason = "the tests' own clock")]
    fn now(&self) -> Time {
        Time::from_origin(
            self.start.elapsed() + Duration::from_millis(self.jumped_ms.load(Ordering::Relaxed)),
        )
    }

    fn wall(&self) -> Duration {
        Duration::ZERO
    }
}

/// Hands out prepared ends; without any, nothing is there. Remembers when it was asked.
#[derive(Debug)]
struct Prepared {
    clock: Arc<TestClock>,
    ends: Mutex<VecDeque<DuplexStream>>,
    asked: Mutex<Vec<Time>>,
    rests: Arc<AtomicU64>,
}

impl Dial for Prepared {
    fn dial(&self) -> Dialing<'_> {
        self.asked.lock().unwrap().push(self.clock.now());
        let end = self.ends.lock().unwrap().pop_front();
        let rests = Arc::clone(&self.rests);
        Box::pin(async move {
            end.map(|end| Box::new(Counted { end, rests }) as Box<dyn Stream>)
                .ok_or_else(|| io::ErrorKind::ConnectionRefused.into())
        })
    }
    fn place(&self) -> String {
        "the test".into()
    }
}

struct World {
    clock: Arc<TestClock>,
    dial: Arc<Prepared>,
    commands: mpsc::Sender<Command>,
    events: mpsc::Receiver<Event>,
    cancel: CancellationToken,
    bus: tokio::task::JoinHandle<anyhow::Result<()>>,
    latest: watch::Receiver<(Time, Arc<[u8]>)>,
}

impl World {
    /// With `ends` connections to be had. Pub and sub ask for theirs in this order.
    #[expect(clippy::disallowed_methods, reason = "the tests' own clock")]
    fn start(ends: usize) -> (Self, Vec<DuplexStream>) {
        let clock = Arc::new(TestClock {
            start: tokio::time::Instant::now(),
            jumped_ms: AtomicU64::new(0),
        });
        let (ours, theirs) = (0..ends).map(|_| duplex(64 * 1024)).unzip();
        let dial = Arc::new(Prepared {
            clock: clock.clone(),
            ends: Mutex::new(ours),
            asked: Mutex::default(),
            rests: Arc::default(),
        });
        let (shown, latest) = watch::channel(Default::default());
        let bus = Bus {
            settings: Settings {
                backend: Backend::Embedded { listen: None },
                node: "n".into(),
                publish_channel: "g".into(),
                channels: vec!["g".into()],
                interval: SECOND,
                connect_timeout: 2 * SECOND,
            },
            dial: dial.clone(),
            listen: watch::channel(Arc::from(vec![Arc::from("g")])).1,
            metrics: Metrics::new().unwrap().bus,
            clock: clock.clone(),
            wall: Arc::new(|| 0.0),
            seal: None,
            latest: shown,
        };
        let (commands, taken) = mpsc::channel(8);
        // More than any test leaves unread: a link waits for the event loop to take its status.
        let (told, events) = mpsc::channel(1024);
        let cancel = CancellationToken::new();
        let bus = tokio::spawn(bus.run(taken, told, cancel.clone()));
        let world = Self {
            clock,
            dial,
            commands,
            events,
            cancel,
            bus,
            latest,
        };
        (world, theirs)
    }

    async fn next(&mut self) -> Event {
        self.events.recv().await.unwrap()
    }

    fn asked(&self) -> Vec<Time> {
        self.dial.asked.lock().unwrap().clone()
    }

    async fn end(self) {
        self.cancel.cancel();
        self.bus.await.unwrap().unwrap();
    }
}

/// Reads until `words` arrived.
async fn hear(server: &mut DuplexStream, words: &str) {
    let mut heard = Vec::new();
    while !String::from_utf8_lossy(&heard).contains(words) {
        assert_ne!(
            server.read_buf(&mut heard).await.unwrap(),
            0,
            "closed before {words}"
        );
    }
}

async fn greet(server: &mut DuplexStream, link: Link) {
    hear(server, "HELLO").await;
    server.write_all(GREETING).await.unwrap();
    hear(server, "SETNAME").await;
    server.write_all(b"+OK\r\n").await.unwrap();
    if link == Link::Sub {
        hear(server, "SUBSCRIBE").await;
        server
            .write_all(b">3\r\n+subscribe\r\n+g\r\n:1\r\n")
            .await
            .unwrap();
    }
}

fn up(link: Link) -> Event {
    Event::Link {
        link,
        status: LinkStatus::Up {
            role: Role::Master,
            plain: true,
        },
    }
}

fn beat(slot: u64) -> Command {
    Command::Publish(Heartbeat {
        node: None,
        group: None,
        boot: None,
        slot: Some(slot),
        late_ms: None,
        uptime_s: Some(1.0),
        interval_ms: None,
        goodbye: false,
        peers: Vec::new(),
        ballot: Ballot::default(),
    })
}

#[tokio::test(start_paused = true)]
async fn a_missed_pong_costs_the_connection_after_one_interval() {
    let (mut world, mut servers) = World::start(2);
    greet(&mut servers[0], Link::Pub).await;
    greet(&mut servers[1], Link::Sub).await;
    assert_eq!(world.next().await, up(Link::Pub));
    assert_eq!(world.next().await, up(Link::Sub));
    // The pub link's server answers, the other one does not.
    let answering = async {
        loop {
            hear(&mut servers[0], "PING").await;
            servers[0].write_all(b"+PONG\r\n").await.unwrap();
        }
    };
    let event = tokio::select! {
        () = answering => unreachable!(),
        event = world.next() => event,
    };
    let Event::Link {
        link: Link::Sub,
        status: LinkStatus::Down { reason },
    } = event
    else {
        panic!("{event:?}");
    };
    assert!(reason.contains("PING"), "{reason}");
    let after = world.clock.now();
    assert!(
        (Time::ZERO + SECOND..Time::ZERO + SECOND + SECOND / 20).contains(&after),
        "{after}"
    );
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_pong_that_waits_to_be_read_counts_however_late_it_is() {
    let (mut world, mut servers) = World::start(2);
    greet(&mut servers[0], Link::Pub).await;
    greet(&mut servers[1], Link::Sub).await;
    world.next().await;
    world.next().await;
    for server in &mut servers {
        hear(server, "PING").await;
        server.write_all(b"+PONG\r\n").await.unwrap();
    }
    // As after a pause of our own: deadline and answer are there at once.
    world.clock.jumped_ms.store(60_000, Ordering::Relaxed);
    for server in &mut servers {
        hear(server, "PING").await;
    }
    assert!(world.events.try_recv().is_err());
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_proven_connection_is_replaced_at_once_and_then_with_backoff() {
    let (mut world, mut servers) = World::start(2);
    greet(&mut servers[0], Link::Pub).await;
    greet(&mut servers[1], Link::Sub).await;
    world.next().await;
    world.next().await;
    hear(&mut servers[0], "PING").await;
    servers[0].write_all(b"+PONG\r\n").await.unwrap();
    tokio::task::yield_now().await;
    // The server is gone; the sub link had proven nothing yet.
    drop(servers);
    tokio::time::sleep(60 * SECOND).await;
    let asked = world.asked();
    assert_eq!(asked[2], Time::ZERO, "{asked:?}");
    assert!(asked.len() > 50, "gave up: {asked:?}");
    let last = asked[asked.len() - 1];
    assert!(last > Time::ZERO + 56 * SECOND, "{last}");
    assert!(asked.len() < 140, "{} tries in a minute", asked.len());
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_heartbeat_that_cannot_go_out_fails_at_once() {
    let (mut world, _servers) = World::start(2);
    // Connected, and not greeted yet.
    for slot in 1..4 {
        world.commands.send(beat(slot)).await.unwrap();
        assert_eq!(world.next().await, Event::PublishFailed { slot });
    }
    assert_eq!(world.clock.now(), Time::ZERO);
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_greeting_that_takes_too_long_is_given_up() {
    let (mut world, _servers) = World::start(2);
    let event = world.next().await;
    let Event::Link {
        status: LinkStatus::Down { reason },
        ..
    } = event
    else {
        panic!("{event:?}");
    };
    assert!(reason.contains("no connection to the test within 2s"), "{reason}");
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_in_flight_is_bounded_and_reported() {
    let (mut world, mut servers) = World::start(2);
    greet(&mut servers[0], Link::Pub).await;
    world.next().await;
    for slot in 1..=3 {
        world.commands.send(beat(slot)).await.unwrap();
    }
    assert_eq!(world.next().await, Event::PublishFailed { slot: 3 });
    servers[0].write_all(b"+PONG\r\n:4\r\n").await.unwrap();
    assert_eq!(
        world.next().await,
        Event::Published {
            slot: 1,
            receivers: 4
        }
    );
    drop(servers.remove(0));
    assert_eq!(world.next().await, Event::PublishFailed { slot: 2 });
    assert!(matches!(world.next().await, Event::Link { link: Link::Pub, .. }));
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn loading_is_down_and_a_full_disk_is_a_refusal_that_ends() {
    let (mut world, mut servers) = World::start(2);
    greet(&mut servers[0], Link::Pub).await;
    assert_eq!(world.next().await, up(Link::Pub));
    hear(&mut servers[0], "PING").await;
    servers[0]
        .write_all(b"-MISCONF cannot persist\r\n")
        .await
        .unwrap();
    let event = world.next().await;
    let Event::Link {
        status: LinkStatus::Refused { cure },
        ..
    } = event
    else {
        panic!("{event:?}");
    };
    assert!(cure.contains("disk"), "{cure}");
    hear(&mut servers[0], "PING").await;
    servers[0].write_all(b"+PONG\r\n").await.unwrap();
    assert_eq!(world.next().await, up(Link::Pub));
    hear(&mut servers[0], "PING").await;
    servers[0].write_all(b"-LOADING wait\r\n").await.unwrap();
    let event = loop {
        if let Event::Link {
            link: Link::Pub,
            status,
        } = world.next().await
        {
            break status;
        }
    };
    assert!(
        matches!(&event, LinkStatus::Down { reason } if reason.contains("LOADING")),
        "{event:?}"
    );
    world.end().await;
}

/// An end that counts how often it was let rest.
struct Counted {
    end: DuplexStream,
    rests: Arc<AtomicU64>,
}

impl Stream for Counted {
    fn rest(&mut self) {
        self.rests.fetch_add(1, Ordering::Relaxed);
    }
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.end).poll_read(context, into)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.end).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.end).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.end).poll_shutdown(context)
    }
}

#[tokio::test(start_paused = true)]
async fn the_sub_link_rests_between_others_heartbeats_and_never_while_its_own_is_awaited() {
    let (mut world, mut servers) = World::start(2);
    greet(&mut servers[0], Link::Pub).await;
    greet(&mut servers[1], Link::Sub).await;
    world.next().await;
    world.next().await;
    for server in &mut servers {
        hear(server, "PING").await;
        server.write_all(b"+PONG\r\n").await.unwrap();
    }
    let dial = Arc::clone(&world.dial);
    let rests = || dial.rests.load(Ordering::Relaxed);
    let tenth = SECOND / 10;

    // A steady stream of others': each rest takes what came in it.
    for _ in 0..4 {
        servers[1].write_all(&others(512)).await.unwrap();
        tokio::time::sleep(tenth).await;
    }
    let rested = rests();
    assert!((1..=4).contains(&rested), "{rested}");
    world.commands.send(beat(7)).await.unwrap();
    hear(&mut servers[0], "PUBLISH").await;
    let asked = world.clock.now();
    // Others' are read at once now, and so is our own, behind which it may rest again.
    for _ in 0..4 {
        servers[1].write_all(&others(512)).await.unwrap();
        tokio::time::sleep(tenth / 10).await;
    }
    assert_eq!(rests(), rested);
    servers[1]
        .write_all(&message(br#"{"node":"n","slot":7,"uptime_s":1}"#))
        .await
        .unwrap();
    loop {
        if let Event::Message {
            body: Body::Heartbeat(own),
            ..
        } = world.next().await
            && own.slot == Some(7)
        {
            break;
        }
    }
    assert!(world.clock.now().since(asked) < tenth, "{}", world.clock.now());
    tokio::task::yield_now().await;
    assert_eq!(rests(), rested + 1);
    world.end().await;
}

/// With the bus away there is no vote: nothing that was said before that is shown.
#[tokio::test(start_paused = true)]
async fn only_what_came_back_is_shown_for_two_intervals_and_not_once_a_link_is_lost() {
    let (mut world, mut servers) = World::start(2);
    greet(&mut servers[0], Link::Pub).await;
    greet(&mut servers[1], Link::Sub).await;
    assert_eq!(world.next().await, up(Link::Pub));
    assert_eq!(world.next().await, up(Link::Sub));
    let shown = |world: &World| world.latest.borrow().clone();
    let out = world.clock.now();
    world.commands.send(beat(7)).await.unwrap();
    let mut wire = Vec::new();
    while !wire.ends_with(b"}\r\n") {
        assert_ne!(servers[0].read_buf(&mut wire).await.unwrap(), 0);
    }
    let at = wire.iter().position(|byte| *byte == b'{').unwrap();
    let body = &wire[at..wire.len() - 2];
    // Somebody else's, and only then our own.
    servers[1].write_all(&others(9)).await.unwrap();
    assert!(matches!(world.next().await, Event::Message { .. }));
    assert_eq!(shown(&world).1.len(), 0, "it has not come back yet");
    servers[1].write_all(&message(body)).await.unwrap();
    assert!(matches!(world.next().await, Event::Message { .. }));
    assert_eq!(shown(&world), (out + 2 * SECOND, Arc::from(body)));
    // The pub link's server is gone.
    drop(servers.remove(0));
    while !shown(&world).1.is_empty() {
        world.latest.changed().await.unwrap();
    }
    world.end().await;
}

/// A message of somebody else's, about so long.
fn others(length: usize) -> Vec<u8> {
    message(
        format!(
            r#"{{"node":"other","slot":7,"uptime_s":1,"pad":"{}"}}"#,
            "x".repeat(length)
        )
        .as_bytes(),
    )
}

fn message(body: &[u8]) -> Vec<u8> {
    let mut wire = format!(">3\r\n+message\r\n+g\r\n${}\r\n", body.len()).into_bytes();
    wire.extend_from_slice(body);
    wire.extend_from_slice(b"\r\n");
    wire
}
