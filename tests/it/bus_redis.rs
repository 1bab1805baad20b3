//! The two links against a real redis-server.

use std::fmt::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use defib::bus::{self, Backend, Bus, Command, Settings};
use defib::cli::fault_proxy::{Direction, FaultProxy, Which};
use defib::engine::event::{Ballot, Body, Event, Heartbeat, Link, LinkStatus, Role};
use defib::engine::time::{Clock, Time};
use defib::redis_client::dial::Dial;
use defib::redis_client::{Address, Endpoint, Probed, Redis};
use defib::secret::Secret;
use defib::telemetry::metrics::Metrics;
use futures_util::StreamExt;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::support::redis_server::{self, RedisServer};

/// Upper bound on anything that is awaited: only a hang is a failure.
const PATIENCE: Duration = Duration::from_secs(60);
const CHANNEL: &str = "defib:base";

#[derive(Debug)]
struct TestClock(tokio::time::Instant);

impl TestClock {
    #[allow(clippy::disallowed_methods, reason = "the tests' own clock")]
    fn start() -> Arc<Self> {
        Arc::new(Self(tokio::time::Instant::now()))
    }
}

impl Clock for TestClock {
    #[allow(clippy::disallowed_methods, reason = "the tests' own clock")]
    fn now(&self) -> Time {
        Time::from_origin(self.0.elapsed())
    }

    fn wall(&self) -> Duration {
        Duration::ZERO
    }
}

/// A node's bus, with the test in the event loop's place.
struct Node {
    _listening: watch::Sender<bus::Channels>,
    commands: mpsc::Sender<Command>,
    events: mpsc::Receiver<Event>,
    cancel: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
    metrics: Metrics,
    slot: u64,
    /// As the last events told: pub, sub.
    up: [bool; 2],
}

impl Node {
    fn start(url: &str) -> Self {
        Self::start_at(Endpoint::parse(url).unwrap(), &[CHANNEL], 1024)
    }

    fn start_at(endpoint: Endpoint, channels: &[&str], room: usize) -> Self {
        let metrics = Metrics::new().unwrap();
        let channels: bus::Channels = channels.iter().map(|&channel| channel.into()).collect();
        let (listening, listen) = watch::channel(channels.clone());
        let bus = Bus {
            settings: Settings {
                backend: Backend::Redis(endpoint.clone()),
                node: "base 1".into(),
                publish_channel: CHANNEL.into(),
                channels: channels.to_vec(),
                interval: Duration::from_secs(1),
                connect_timeout: Duration::from_secs(2),
            },
            dial: Arc::new(Redis::new(endpoint)) as Arc<dyn Dial>,
            listen,
            metrics: metrics.bus.clone(),
            clock: TestClock::start(),
            wall: Arc::new(|| 1_770_000_000.25),
            seal: None,
            latest: watch::Sender::default(),
        };
        let (commands, taken) = mpsc::channel(16);
        let (told, events) = mpsc::channel(room);
        let cancel = CancellationToken::new();
        let task = tokio::spawn(bus.run(taken, told, cancel.clone()));
        Self {
            _listening: listening,
            commands,
            events,
            cancel,
            task,
            metrics,
            slot: 0,
            up: [false; 2],
        }
    }

    /// The first event that `wanted` takes; everything else that comes before it goes into `seen`.
    async fn next<T>(
        &mut self,
        bound: Duration,
        seen: &mut Vec<Event>,
        mut wanted: impl FnMut(&Event) -> Option<T>,
    ) -> Option<T> {
        let waiting = async {
            while let Some(event) = self.events.recv().await {
                if let Event::Link { link, status } = &event {
                    self.up[usize::from(*link == Link::Sub)] = matches!(status, LinkStatus::Up { .. });
                }
                if let Some(taken) = wanted(&event) {
                    return Some(taken);
                }
                seen.push(event);
            }
            None
        };
        tokio::time::timeout(bound, waiting).await.ok().flatten()
    }

    /// The first event from now on that `wanted` takes.
    async fn until<T>(&mut self, what: &str, wanted: impl FnMut(&Event) -> Option<T>) -> T {
        let mut seen = Vec::new();
        match self.next(PATIENCE, &mut seen, wanted).await {
            Some(taken) => taken,
            None => panic!("no {what}; seen: {seen:#?}"),
        }
    }

    /// Publishes again and again until `wanted`, which is told the slot, takes an event.
    async fn publish_until<T>(&mut self, what: &str, mut wanted: impl FnMut(u64, &Event) -> Option<T>) -> T {
        let mut seen = Vec::new();
        for _ in 0..PATIENCE.as_secs() {
            let slot = self.publish().await;
            let taken = self.next(Duration::from_secs(1), &mut seen, |event| wanted(slot, event));
            if let Some(taken) = taken.await {
                return taken;
            }
        }
        panic!("no {what}; seen: {seen:#?}");
    }

    async fn until_links(&mut self, what: &str, up: bool) {
        while self.up != [up; 2] {
            self.until(what, |event| matches!(event, Event::Link { .. }).then_some(()))
                .await;
        }
    }

    async fn until_up(&mut self) {
        self.until_links("both links up", true).await;
    }

    async fn until_both_down(&mut self) {
        self.until_links("both links down", false).await;
    }

    async fn until_refused(&mut self) -> (Link, String) {
        self.until("refusal", |event| match event {
            Event::Link {
                link,
                status: LinkStatus::Refused { cure },
            } => Some((*link, cure.clone())),
            _ => None,
        })
        .await
    }

    async fn publish(&mut self) -> u64 {
        self.slot += 1;
        let beat = beat(self.slot);
        self.commands.send(Command::Publish(beat)).await.unwrap();
        self.slot
    }

    /// Publishes and sees the echo. On a loaded machine a link may be lost in between: then once more.
    async fn echo(&mut self) {
        let (mut published, mut echoed) = (None, None);
        self.publish_until("answer and echo", |slot, event| {
            match event {
                Event::Published { slot, receivers } if *receivers > 0 => published = Some(*slot),
                Event::Message { channel, body } if **channel == *CHANNEL => {
                    if let Body::Heartbeat(heartbeat) = body
                        && heartbeat.slot == Some(slot)
                    {
                        assert_eq!(*heartbeat, beat(slot));
                        echoed = Some(slot);
                    }
                }
                _ => {}
            }
            (published == Some(slot) && echoed == Some(slot)).then_some(())
        })
        .await;
    }

    async fn end(self) {
        self.cancel.cancel();
        let ended = tokio::time::timeout(PATIENCE, self.task).await;
        ended.unwrap().unwrap().unwrap();
    }
}

fn beat(slot: u64) -> Heartbeat {
    Heartbeat {
        node: Some("base 1".into()),
        group: Some("base".into()),
        boot: Some("b1".into()),
        slot: Some(slot),
        late_ms: Some(0),
        uptime_s: Some(1.5),
        interval_ms: Some(1000),
        goodbye: false,
        peers: Vec::new(),
        ballot: Ballot::default(),
    }
}

/// The id of the client whose name ends so.
fn client_id(server: &RedisServer, suffix: &str) -> Option<String> {
    let list = server.tell("CLIENT LIST");
    let line = list.lines().find(|line| {
        line.split(' ')
            .any(|field| field.starts_with("name=") && field.ends_with(suffix))
    })?;
    line.strip_prefix("id=")
        .or_else(|| line.split("id=").nth(1))?
        .split(' ')
        .next()
        .map(str::to_owned)
}

async fn observer(server: &RedisServer) -> impl futures_util::Stream<Item = redis::Msg> + use<> {
    let client = redis::Client::open(server.url()).unwrap();
    let mut pubsub = client.get_async_pubsub().await.unwrap();
    pubsub.subscribe(CHANNEL).await.unwrap();
    pubsub.into_on_message()
}

#[tokio::test]
async fn heartbeats_go_out_and_come_back_over_named_connections() {
    if !redis_server::there() {
        return;
    }
    let server = RedisServer::start();
    let mut node = Node::start(&server.url());
    node.until_up().await;
    for _ in 0..3 {
        node.echo().await;
    }
    let list = server.tell("CLIENT LIST");
    assert!(list.contains("name=defib:base_1:pub "), "{list}");
    assert!(list.contains("name=defib:base_1:sub "), "{list}");
    node.end().await;
    assert_eq!(client_id(&server, ":pub"), None);
}

#[tokio::test]
async fn a_stopped_server_is_noticed_on_both_links_and_found_again() {
    if !redis_server::there() {
        return;
    }
    let server = RedisServer::start();
    let mut node = Node::start(&server.url());
    node.until_up().await;
    server.stop();
    node.until_both_down().await;
    server.cont();
    node.until_up().await;
    node.echo().await;
    node.end().await;
}

#[tokio::test]
async fn s09_a_killed_server_is_found_again_when_it_is_back() {
    if !redis_server::there() {
        return;
    }
    let mut server = RedisServer::start();
    let mut node = Node::start(&server.url());
    node.until_up().await;
    server.kill();
    node.until_both_down().await;
    server.restart();
    node.until_up().await;
    node.echo().await;
    node.end().await;
}

#[tokio::test]
async fn s09_a_killed_client_is_back_at_once() {
    if !redis_server::there() {
        return;
    }
    let server = RedisServer::start();
    let mut node = Node::start(&server.url());
    node.until_up().await;
    for link in Link::ALL {
        node.echo().await;
        let id = client_id(&server, link.as_str()).unwrap();
        server.tell(&format!("CLIENT KILL ID {id}"));
        node.until("the link down", |event| match event {
            Event::Link {
                link: lost,
                status: LinkStatus::Down { reason },
            } => {
                assert_eq!(*lost, link);
                assert!(reason.contains("closed"), "{reason}");
                Some(())
            }
            _ => None,
        })
        .await;
        node.until("the link up", |event| match event {
            Event::Link {
                link: back,
                status: LinkStatus::Up { .. },
            } if *back == link => Some(()),
            _ => None,
        })
        .await;
    }
    node.echo().await;
    node.end().await;
}

#[tokio::test]
async fn s03_a_dark_subscription_is_noticed_while_the_pub_link_stays_up() {
    if !redis_server::there() {
        return;
    }
    let server = RedisServer::start();
    let proxy = FaultProxy::start(server.address()).unwrap();
    let mut node = Node::start(&format!("redis://{}", proxy.address()));
    node.until_up().await;
    node.echo().await;
    proxy.silence(&Which::ending(":sub"), Direction::Both, false);
    let mut statuses = Vec::new();
    node.until("the sub link up again", |event| {
        if let Event::Link { link, status } = event {
            statuses.push((*link, matches!(status, LinkStatus::Up { .. })));
        }
        (statuses.last() == Some(&(Link::Sub, true))).then_some(())
    })
    .await;
    // A role that was read again may be told meanwhile.
    statuses.retain(|status| *status != (Link::Pub, true));
    assert_eq!(statuses, [(Link::Sub, false), (Link::Sub, true)]);
    node.echo().await;
    node.end().await;
}

#[tokio::test]
async fn an_answer_that_does_not_come_back_is_silence_too() {
    if !redis_server::there() {
        return;
    }
    let server = RedisServer::start();
    let proxy = FaultProxy::start(server.address()).unwrap();
    let mut node = Node::start(&format!("redis://{}", proxy.address()));
    node.until_up().await;
    proxy.silence(&Which::ending(":pub"), Direction::ToClient, false);
    let reason = node
        .until("the pub link down", |event| match event {
            Event::Link {
                link: Link::Pub,
                status: LinkStatus::Down { reason },
            } => Some(reason.clone()),
            _ => None,
        })
        .await;
    assert!(reason.contains("no answer to PING"), "{reason}");
    node.until("the pub link up", |event| match event {
        Event::Link {
            link: Link::Pub,
            status: LinkStatus::Up { .. },
        } => Some(()),
        _ => None,
    })
    .await;
    node.end().await;
}

#[tokio::test]
async fn a_link_is_replaced_on_command() {
    if !redis_server::there() {
        return;
    }
    let server = RedisServer::start();
    let mut node = Node::start(&server.url());
    node.until_up().await;
    let before = client_id(&server, ":sub").unwrap();
    node.commands.send(Command::Replace(Link::Sub)).await.unwrap();
    node.until("the sub link up", |event| match event {
        Event::Link {
            link: Link::Sub,
            status: LinkStatus::Up { .. },
        } => Some(()),
        _ => None,
    })
    .await;
    assert_ne!(client_id(&server, ":sub").unwrap(), before);
    node.echo().await;
    node.end().await;
}

#[tokio::test]
async fn s40_a_demoted_server_is_told_as_a_replica() {
    if !redis_server::there() {
        return;
    }
    let master = RedisServer::start();
    let server = RedisServer::start();
    let mut node = Node::start(&server.url());
    let role_is = |wanted: Role| {
        move |event: &Event| match event {
            Event::Link {
                status: LinkStatus::Up { role, plain },
                ..
            } if *role == wanted && *plain => Some(()),
            _ => None,
        }
    };
    node.until("a master", role_is(Role::Master)).await;
    server.tell(&format!("REPLICAOF 127.0.0.1 {}", master.port()));
    node.until("a replica", role_is(Role::Replica)).await;
    server.tell("REPLICAOF NO ONE");
    node.until("a master again", role_is(Role::Master)).await;
    node.end().await;
}

#[tokio::test]
async fn a_missing_publish_permission_is_named_and_its_grant_is_noticed() {
    if !redis_server::there() {
        return;
    }
    let server = RedisServer::start();
    server.tell("ACL SETUSER alice on >hunter2 +@all -publish allchannels");
    let mut node = Node::start(&format!("redis://alice:hunter2@{}", server.address()));
    node.until_up().await;
    let (mut failed, mut refused) = (false, None);
    let (link, cure) = node
        .publish_until("a refused publish", |slot, event| {
            match event {
                Event::PublishFailed { slot: s } if *s == slot => failed = true,
                Event::Link {
                    link,
                    status: LinkStatus::Refused { cure },
                } => refused = Some((*link, cure.clone())),
                _ => {}
            }
            refused.clone().filter(|_| failed)
        })
        .await;
    assert_eq!(link, Link::Pub);
    assert!(cure.contains("ACL SETUSER alice +publish &defib:base"), "{cure}");
    server.tell("ACL SETUSER alice +publish");
    node.publish_until("the pub link up", |_, event| match event {
        Event::Link {
            link: Link::Pub,
            status: LinkStatus::Up { .. },
        } => Some(()),
        _ => None,
    })
    .await;
    node.echo().await;
    node.end().await;
}

#[tokio::test]
async fn a_missing_channel_permission_is_named_and_its_grant_is_noticed() {
    if !redis_server::there() {
        return;
    }
    let server = RedisServer::start();
    server.tell("ACL SETUSER alice on >hunter2 +@all resetchannels &defib:base");
    let endpoint = Endpoint::parse(&format!("redis://alice:hunter2@{}", server.address())).unwrap();
    let mut node = Node::start_at(endpoint, &[CHANNEL, "can_messages"], 64);
    let (link, cure) = node.until_refused().await;
    assert_eq!(link, Link::Sub);
    assert!(cure.contains("'can_messages'"), "{cure}");
    assert!(cure.contains("ACL SETUSER alice &can_messages"), "{cure}");
    server.tell("ACL SETUSER alice &can_messages");
    node.until("the sub link up", |event| match event {
        Event::Link {
            link: Link::Sub,
            status: LinkStatus::Up { .. },
        } => Some(()),
        _ => None,
    })
    .await;
    node.echo().await;
    node.end().await;
}

#[tokio::test]
async fn wrong_and_missing_passwords_are_told_apart() {
    if !redis_server::there() {
        return;
    }
    let server = RedisServer::start_with(&["--requirepass", "hunter2"]);
    for (login, word) in [
        ("", "NOAUTH"),
        (":wrong-one@", "WRONGPASS"),
        ("bob:hunter2@", "'bob'"),
    ] {
        let mut node = Node::start(&format!("redis://{login}{}", server.address()));
        let (_, cure) = node.until_refused().await;
        assert!(cure.contains(word), "{cure}");
        assert!(!cure.contains("hunter2") && !cure.contains("wrong-one"), "{cure}");
        node.end().await;
    }
}

#[tokio::test]
async fn a_rotated_password_file_is_read_again() {
    if !redis_server::there() {
        return;
    }
    let server = RedisServer::start();
    server.tell("ACL SETUSER alice on >new +@all allchannels");
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("password");
    let mut endpoint = Endpoint::parse(&format!("redis://alice@{}", server.address())).unwrap();
    endpoint.password = Some(Secret::File(file.clone()));
    let mut node = Node::start_at(endpoint, &[CHANNEL], 64);
    let (_, cure) = node.until_refused().await;
    assert!(cure.contains(file.to_str().unwrap()), "{cure}");
    std::fs::write(&file, "old\n").unwrap();
    node.until("the old password refused", |event| match event {
        Event::Link {
            status: LinkStatus::Refused { cure },
            ..
        } => cure.contains("WRONGPASS").then_some(()),
        _ => None,
    })
    .await;
    std::fs::write(&file, "new\n").unwrap();
    node.until_up().await;
    node.echo().await;
    node.end().await;
}

#[tokio::test]
async fn tls_with_its_own_ca_and_with_a_wrong_one() {
    if !redis_server::there() {
        return;
    }
    let Some(server) = RedisServer::start_tls() else {
        return;
    };
    let endpoint = |host: &str, name: Option<&str>, ca: &str| Endpoint {
        address: Address::Tls {
            host: host.to_owned(),
            port: server.port(),
            server_name: name.map(str::to_owned),
            ca: Some(server.ca().with_file_name(ca)),
        },
        user: None,
        password: None,
        db: 0,
    };
    for (host, name) in [("localhost", None), ("127.0.0.1", Some("localhost"))] {
        let mut node = Node::start_at(endpoint(host, name, "ca.crt"), &[CHANNEL], 64);
        node.until_up().await;
        node.echo().await;
        node.end().await;
    }
    for (wrong, word) in [
        (endpoint("localhost", None, "other-ca.crt"), "UnknownIssuer"),
        (endpoint("127.0.0.1", None, "ca.crt"), "127.0.0.1"),
        (endpoint("localhost", None, "no-such.crt"), "no-such.crt"),
        (endpoint("localhost", None, "server.key"), "server.key"),
    ] {
        let mut node = Node::start_at(wrong, &[CHANNEL], 64);
        let reason = node
            .until("a link down", |event| match event {
                Event::Link {
                    status: LinkStatus::Down { reason },
                    ..
                } => Some(reason.clone()),
                _ => None,
            })
            .await;
        assert!(reason.contains(word), "{reason}");
        node.end().await;
    }
}

#[tokio::test]
async fn a_unix_socket_carries_both_links() {
    if !redis_server::there() {
        return;
    }
    let server = RedisServer::start();
    let mut node = Node::start(&format!("unix://{}", server.socket().display()));
    node.until_up().await;
    node.echo().await;
    node.end().await;
}

#[tokio::test]
async fn a_server_without_resp3_is_spoken_to_in_resp2() {
    if !redis_server::there() {
        return;
    }
    let server = RedisServer::start_with(&["--rename-command", "HELLO", ""]);
    let mut node = Node::start(&server.url());
    let role = node
        .until("a link up", |event| match event {
            Event::Link {
                status: LinkStatus::Up { role, plain },
                ..
            } => Some((*role, *plain)),
            _ => None,
        })
        .await;
    assert_eq!(role, (Role::Master, true));
    node.echo().await;
    let pings = |link: &str| {
        node.metrics
            .bus
            .ping
            .with_label_values(&[link])
            .get_sample_count()
    };
    let answered = || Link::ALL.iter().all(|link| pings(link.as_str()) >= 4);
    tokio::time::timeout(PATIENCE, async {
        while !answered() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("PINGs are answered on both links");
    node.echo().await;
    server.stop();
    node.until_both_down().await;
    server.cont();
    node.until_up().await;
    node.echo().await;
    node.end().await;
}

#[tokio::test]
async fn s05_nothing_is_queued_up_and_burst_after_an_outage() {
    if !redis_server::there() {
        return;
    }
    let mut server = RedisServer::start();
    let mut node = Node::start(&server.url());
    node.until_up().await;
    node.echo().await;
    server.kill();
    node.until_both_down().await;
    for _ in 0..50 {
        let slot = node.publish().await;
        node.until("a failed publish", |event| {
            (*event == Event::PublishFailed { slot }).then_some(())
        })
        .await;
    }
    let outage = node.slot;
    server.restart();
    let mut seen = observer(&server).await;
    node.until_up().await;
    node.echo().await;
    let first = seen.next().await.unwrap().get_payload_bytes().to_vec();
    let first: serde_json::Value = serde_json::from_slice(&first).unwrap();
    assert!(
        first["slot"].as_u64() > Some(outage),
        "an old heartbeat came first: {first}"
    );
    node.end().await;
}

#[tokio::test]
async fn s05_a_stopped_server_gets_no_more_than_what_was_in_flight() {
    if !redis_server::there() {
        return;
    }
    let server = RedisServer::start();
    let mut seen = observer(&server).await;
    let mut node = Node::start(&server.url());
    node.until_up().await;
    node.echo().await;
    server.stop();
    let (mut failed, before, last) = (0, node.slot, node.slot + 30);
    while node.slot < last {
        let slot = node.publish().await;
        if slot % 3 == 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    while failed < 30 {
        node.until("a failed publish", |event| {
            matches!(event, Event::PublishFailed { .. }).then_some(())
        })
        .await;
        failed += 1;
    }
    server.cont();
    node.until_up().await;
    node.echo().await;
    let mut arrived = 0;
    loop {
        let message = tokio::time::timeout(PATIENCE, seen.next())
            .await
            .unwrap()
            .unwrap();
        let body: serde_json::Value = serde_json::from_slice(message.get_payload_bytes()).unwrap();
        let slot = body["slot"].as_u64().unwrap();
        if slot > last {
            break;
        }
        arrived += u32::from(slot > before);
    }
    // What one connection had in flight when it was given up.
    assert!(arrived <= 2, "{arrived} heartbeats");
    node.end().await;
}

#[tokio::test]
async fn s04_bodies_that_are_no_heartbeats_count_as_messages_and_crash_nothing() {
    if !redis_server::there() {
        return;
    }
    let server = RedisServer::start();
    let mut node = Node::start(&server.url());
    node.until_up().await;
    let client = redis::Client::open(server.url()).unwrap();
    let mut other = client.get_multiplexed_async_connection().await.unwrap();
    let bodies: Vec<Vec<u8>> = vec![
        Vec::new(),
        b"{".to_vec(),
        vec![0xff, 0x00, 0xfe],
        b"{\"node\": 3}".to_vec(),
        b"{}".to_vec(),
        vec![b'x'; 5000],
        vec![b'x'; 10 * 1024 * 1024],
        b"{\"uptime_s\": 12.5, \"wall_ts\": 1770000000.1}".to_vec(),
    ];
    let count = bodies.len();
    for body in &bodies {
        let _: i64 = redis::cmd("PUBLISH")
            .arg(CHANNEL)
            .arg(body)
            .query_async(&mut other)
            .await
            .unwrap();
    }
    let mut arrived = Vec::new();
    node.until("every message", |event| {
        if let Event::Message { body, .. } = event {
            arrived.push(body.clone());
        }
        assert!(!matches!(
            event,
            Event::Link {
                status: LinkStatus::Down { .. },
                ..
            }
        ));
        (arrived.len() == count).then_some(())
    })
    .await;
    let Body::Heartbeat(heartbeat) = arrived.pop().unwrap() else {
        panic!("data-acquisition's heartbeat did not count");
    };
    assert_eq!(heartbeat.uptime_s, Some(12.5));
    assert!(arrived.iter().all(|body| *body == Body::Opaque));
    let opaque = |reason: &str| node.metrics.bus.opaque.with_label_values(&[reason]).get();
    assert_eq!(opaque("too_big"), 2);
    assert_eq!(opaque("empty"), 1);
    assert_eq!(opaque("not_json"), 1);
    assert_eq!(opaque("not_utf8"), 1);
    assert_eq!(opaque("bad_field"), 1);
    assert_eq!(opaque("not_a_heartbeat"), 1);
    node.echo().await;
    node.end().await;
}

#[tokio::test]
async fn an_event_loop_without_room_costs_messages_and_no_link() {
    if !redis_server::there() {
        return;
    }
    let server = RedisServer::start();
    let mut node = Node::start_at(Endpoint::parse(&server.url()).unwrap(), &[CHANNEL], 4);
    node.until_up().await;
    let client = redis::Client::open(server.url()).unwrap();
    let mut other = client.get_multiplexed_async_connection().await.unwrap();
    let pings = || {
        let ping = &node.metrics.bus.ping;
        ping.with_label_values(&["sub"]).get_sample_count()
    };
    let before = pings();
    for _ in 0..2000 {
        let _: i64 = redis::cmd("PUBLISH")
            .arg(CHANNEL)
            .arg("x")
            .query_async(&mut other)
            .await
            .unwrap();
    }
    tokio::time::timeout(PATIENCE, async {
        while pings() < before + 3 {
            tokio::time::sleep(Duration::from_millis(20)).await;
            // The event loop goes on, slowly: a link waits until its status is taken, and tells it every 2 s.
            let _ = node.events.try_recv();
        }
    })
    .await
    .expect("PINGs go on");
    assert!(node.metrics.bus.dropped.get() > 1000);
    assert!(client_id(&server, ":sub").is_some());
    node.end().await;
}

#[tokio::test]
async fn the_last_heartbeat_goes_out_before_the_end() {
    if !redis_server::there() {
        return;
    }
    let server = RedisServer::start();
    let mut seen = observer(&server).await;
    for cancelled in [false, true] {
        let mut node = Node::start(&server.url());
        node.until_up().await;
        let goodbye = Heartbeat {
            goodbye: true,
            ..beat(77)
        };
        node.commands.send(Command::Publish(goodbye)).await.unwrap();
        if cancelled {
            node.end().await;
        } else {
            drop(node.commands);
            node.task.await.unwrap().unwrap();
        }
        let message = tokio::time::timeout(PATIENCE, seen.next())
            .await
            .unwrap()
            .unwrap();
        let body: serde_json::Value = serde_json::from_slice(message.get_payload_bytes()).unwrap();
        assert_eq!(body["goodbye"], true);
        assert_eq!(body["wall_ts"], 1_770_000_000.25);
    }
}

#[tokio::test]
async fn ends_in_time_while_nothing_is_there_and_while_the_server_is_stopped() {
    if !redis_server::there() {
        return;
    }
    let node = Node::start("redis://127.0.0.1:1");
    node.end().await;
    let server = RedisServer::start();
    let mut node = Node::start(&server.url());
    node.until_up().await;
    server.stop();
    node.publish().await;
    node.end().await;
    server.cont();
}

#[tokio::test]
async fn an_event_loop_that_is_gone_is_an_error() {
    let mut node = Node::start("redis://127.0.0.1:1");
    node.events.close();
    let ended = tokio::time::timeout(PATIENCE, node.task).await.unwrap().unwrap();
    assert!(ended.is_err());
}

/// Everything that is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_password_is_in_no_log_event_or_debug_output() {
    if !redis_server::there() {
        return;
    }
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    // With only one dispatcher in the process, what another test's thread logs first is taken for unwanted
    // everywhere (tracing-core asks that thread alone); with two, all are asked.
    let _second = tracing::Dispatch::new(tracing_subscriber::registry());
    let mut shown = String::new();
    // Servers that repeat what they do not know, that refuse, and that take it.
    for arguments in [
        &["--rename-command", "HELLO", ""][..],
        &["--rename-command", "AUTH", ""],
        &["--requirepass", "another"],
        &["--requirepass", "hunter2"],
        &[],
    ] {
        let server = RedisServer::start_with(arguments);
        let url = format!("redis://default:hunter2@{}", server.address());
        let endpoint = Endpoint::parse(&url).unwrap();
        let probed = defib::redis_client::probe(&endpoint, PATIENCE).await;
        let mut node = Node::start(&url);
        let status = node
            .until("a status", |event| match event {
                Event::Link { status, .. } => Some(status.clone()),
                _ => None,
            })
            .await;
        let redis = Redis::new(endpoint.clone());
        writeln!(
            shown,
            "{status:?} {endpoint:?} {redis:?} {:?} {probed:?}",
            redis.login()
        )
        .unwrap();
        node.end().await;
    }
    shown += &String::from_utf8_lossy(&log.0.lock().unwrap());
    assert!(shown.contains("bus link up"), "{shown}");
    assert!(!shown.contains("hunter2"), "{shown}");
}

#[tokio::test]
async fn a_probe_says_in_one_line_what_is_there() {
    if !redis_server::there() {
        return;
    }
    let server = RedisServer::start();
    let probe = |url: String| async move {
        let endpoint = Endpoint::parse(&url).unwrap();
        defib::redis_client::probe(&endpoint, Duration::from_secs(2)).await
    };
    let found = probe(server.url()).await;
    assert!(
        matches!(&found, Probed::Serves(line) if line.contains("master")),
        "{found:?}"
    );
    server.tell("REPLICAOF 127.0.0.1 1");
    let replica = probe(server.url()).await;
    assert!(
        matches!(&replica, Probed::Replica(line) if line.contains("is a replica")),
        "{replica:?}"
    );
    let missing = probe("redis://127.0.0.1:1".to_owned()).await;
    assert!(
        matches!(&missing, Probed::Failed(line) if line.contains("127.0.0.1:1")),
        "{missing:?}"
    );
    server.stop();
    let stopped = probe(server.url()).await;
    assert!(
        matches!(&stopped, Probed::Failed(line) if line.contains("no answer within 2s")),
        "{stopped:?}"
    );
    server.cont();
}

#[tokio::test]
async fn a_full_server_is_a_refusal_that_names_its_setting() {
    if !redis_server::there() {
        return;
    }
    let server = RedisServer::start();
    let client = redis::Client::open(server.url()).unwrap();
    let _held = client.get_multiplexed_async_connection().await.unwrap();
    server.tell("CONFIG SET maxclients 1");
    let mut node = Node::start(&server.url());
    let (_, cure) = node.until_refused().await;
    assert!(cure.contains("maxclients"), "{cure}");
    node.end().await;
}
