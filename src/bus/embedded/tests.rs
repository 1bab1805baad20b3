//! The broker as its clients see it: redis-rs and bare sockets.

use std::time::Duration;

use futures_util::StreamExt;
use redis::aio::{MultiplexedConnection, PubSub};
use redis::{AsyncConnectionConfig, ProtocolVersion, PushInfo, PushKind, RedisConnectionInfo, Value};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{Broker, Limits, Listener};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::metrics::broker::{BrokerMetrics, Closed};

/// Far beyond what anything here takes; in paused time it costs nothing.
const LONG: Duration = Duration::from_secs(60);

fn metrics() -> BrokerMetrics {
    Metrics::new().unwrap().broker
}

fn broker(limits: Limits) -> (Broker, BrokerMetrics) {
    let metrics = metrics();
    (Broker::new(limits, metrics.clone()), metrics)
}

struct Tcp {
    addr: std::net::SocketAddr,
    cancel: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

async fn listen(broker: &Broker) -> Tcp {
    let listener = Listener::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let addr = listener.local_addr();
    let cancel = CancellationToken::new();
    let task = tokio::spawn(listener.run(broker.clone(), cancel.clone()));
    Tcp { addr, cancel, task }
}

fn resp(protocol: ProtocolVersion) -> RedisConnectionInfo {
    RedisConnectionInfo::default().set_protocol(protocol)
}

/// A RESP3 connection as the node's links use it, its pushes in order, and its driver.
async fn link<S>(
    stream: S,
) -> (
    MultiplexedConnection,
    mpsc::UnboundedReceiver<PushInfo>,
    JoinHandle<()>,
)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, pushes) = mpsc::unbounded_channel();
    let config = AsyncConnectionConfig::new().set_push_sender(sender);
    let (connection, driver) =
        MultiplexedConnection::new_with_config(&resp(ProtocolVersion::RESP3), stream, config)
            .await
            .unwrap();
    (connection, pushes, tokio::spawn(driver))
}

async fn ask(connection: &mut MultiplexedConnection, command: &str) -> redis::RedisResult<Value> {
    let mut words = command.split(' ');
    let mut cmd = redis::cmd(words.next().unwrap());
    for word in words {
        cmd.arg(word);
    }
    cmd.query_async(connection).await
}

fn data(value: &Value) -> &str {
    match value {
        Value::BulkString(bytes) => str::from_utf8(bytes).unwrap(),
        other => panic!("not a bulk string: {other:?}"),
    }
}

/// Writes, and reads until the broker's answer is all there.
async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, request: &str, reply: &str) {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut seen = vec![0; reply.len()];
    timeout(LONG, stream.read_exact(&mut seen))
        .await
        .unwrap_or_else(|_| panic!("no answer to {request:?}"))
        .unwrap_or_else(|error| panic!("{error} after {request:?}: {}", seen.escape_ascii()));
    assert_eq!(String::from_utf8_lossy(&seen), reply, "answer to {request:?}");
}

/// What still comes until the broker closes; a reset counts as a close.
async fn until_closed<S: AsyncRead + Unpin>(stream: &mut S) -> String {
    let mut seen = Vec::new();
    let _ = timeout(LONG, stream.read_to_end(&mut seen))
        .await
        .expect("the broker did not close");
    String::from_utf8_lossy(&seen).into_owned()
}

/// Waits until the broker has worked off what was done to it.
async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    timeout(LONG, async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap_or_else(|_| panic!("never: {what}"));
}

async fn a_link_publishes_subscribes_and_pings<S>(stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut link, mut pushes, _driver) = link(stream).await;
    link.subscribe("beats").await.unwrap();
    link.psubscribe("be*").await.unwrap();
    assert_eq!(ask(&mut link, "PUBLISH beats one").await.unwrap(), Value::Int(2));
    // The own push came before the reply: nothing has to be awaited.
    let mut seen = Vec::new();
    while let Ok(push) = pushes.try_recv() {
        seen.push((push.kind, push.data.last().cloned().unwrap()));
    }
    let body = || Value::BulkString(b"one".into());
    let expected = [
        (PushKind::Subscribe, Value::Int(1)),
        (PushKind::PSubscribe, Value::Int(2)),
        (PushKind::Message, body()),
        (PushKind::PMessage, body()),
    ];
    assert_eq!(seen, expected);
    assert_eq!(
        ask(&mut link, "PING").await.unwrap(),
        Value::SimpleString("PONG".into())
    );
    assert_eq!(
        ask(&mut link, "CLIENT SETNAME defib:a:sub").await.unwrap(),
        Value::Okay
    );
    assert_eq!(
        data(&ask(&mut link, "CLIENT GETNAME").await.unwrap()),
        "defib:a:sub"
    );
    let Value::Array(role) = ask(&mut link, "ROLE").await.unwrap() else {
        panic!("ROLE is no array")
    };
    assert_eq!(data(&role[0]), "master");
    link.unsubscribe("beats").await.unwrap();
    assert_eq!(ask(&mut link, "PUBLISH beats two").await.unwrap(), Value::Int(1));
}

#[tokio::test(start_paused = true)]
async fn redis_rs_resp3_works_in_process_and_in_paused_time() {
    let (broker, metrics) = broker(Limits::default());
    a_link_publishes_subscribes_and_pings(broker.connect()).await;
    assert_eq!((metrics.published.get(), metrics.delivered.get()), (2, 3));
    eventually("its place is given back", || metrics.clients.get() == 0).await;
    assert_eq!(metrics.closed_so_far(Closed::Client), 1);
}

#[tokio::test]
async fn redis_rs_resp3_works_over_tcp() {
    let (broker, _) = broker(Limits::default());
    let tcp = listen(&broker).await;
    a_link_publishes_subscribes_and_pings(TcpStream::connect(tcp.addr).await.unwrap()).await;
}

async fn a_resp2_subscriber_hears<S>(stream: S, broker: &Broker)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut publisher, _pushes, _driver) = link(broker.connect()).await;
    let mut subscriber = PubSub::new(&resp(ProtocolVersion::RESP2), stream).await.unwrap();
    subscriber.subscribe("beats").await.unwrap();
    subscriber.psubscribe("b?ats").await.unwrap();
    assert_eq!(
        ask(&mut publisher, "PUBLISH beats one").await.unwrap(),
        Value::Int(2)
    );
    let mut messages = subscriber.on_message();
    let message = messages.next().await.unwrap();
    assert_eq!(
        (message.get_channel_name(), message.get_payload_bytes()),
        ("beats", &b"one"[..])
    );
    let message = messages.next().await.unwrap();
    assert_eq!(message.get_pattern::<String>().unwrap(), "b?ats");
}

#[tokio::test(start_paused = true)]
async fn redis_rs_resp2_works_in_process_and_in_paused_time() {
    let (broker, _) = broker(Limits::default());
    a_resp2_subscriber_hears(broker.connect(), &broker).await;
}

#[tokio::test]
async fn redis_rs_resp2_works_over_tcp() {
    let (broker, _) = broker(Limits::default());
    let tcp = listen(&broker).await;
    a_resp2_subscriber_hears(TcpStream::connect(tcp.addr).await.unwrap(), &broker).await;
}

#[tokio::test(start_paused = true)]
async fn answers_have_redis_forms_in_resp2() {
    let (broker, _) = broker(Limits::default());
    let mut client = broker.connect();
    for (request, reply) in [
        ("PING\r\n", "+PONG\r\n"),
        ("PING hi\r\n", "$2\r\nhi\r\n"),
        (
            "PING a b\r\n",
            "-ERR wrong number of arguments for 'ping' command\r\n",
        ),
        ("HELLO 4\r\n", "-NOPROTO unsupported protocol version\r\n"),
        (
            "HELLO x\r\n",
            "-ERR Protocol version is not an integer or out of range\r\n",
        ),
        ("HELLO 2 WHAT\r\n", "-ERR Syntax error in HELLO option 'WHAT'\r\n"),
        (
            "HELLO 2 AUTH eve x\r\n",
            "-WRONGPASS invalid username-password pair or user is disabled.\r\n",
        ),
        ("AUTH default x\r\n", "+OK\r\n"),
        (
            "GET k v\r\n",
            "-ERR unknown command 'GET', with args beginning with: 'k' 'v' \r\n",
        ),
        (
            "CLIENT WHAT\r\n",
            "-ERR unknown subcommand 'WHAT'. Try CLIENT HELP.\r\n",
        ),
        ("CLIENT GETNAME\r\n", "$-1\r\n"),
        ("CLIENT SETNAME n\r\n", "+OK\r\n"),
        ("CLIENT GETNAME\r\n", "$1\r\nn\r\n"),
        ("CLIENT SETINFO lib-name x\r\n", "+OK\r\n"),
        (
            "CLIENT SETINFO lib-what x\r\n",
            "-ERR Unrecognized option 'lib-what'\r\n",
        ),
        ("CLIENT ID\r\n", ":1\r\n"),
        ("SELECT 0\r\n", "+OK\r\n"),
        ("SELECT 1\r\n", "-ERR DB index is out of range\r\n"),
        ("COMMAND DOCS\r\n", "*0\r\n"),
        ("ROLE\r\n", "*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n"),
        ("PUBLISH c x\r\n", ":0\r\n"),
        ("UNSUBSCRIBE\r\n", "*3\r\n$11\r\nunsubscribe\r\n$-1\r\n:0\r\n"),
        (
            "SUBSCRIBE c d\r\n",
            "*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n*3\r\n$9\r\nsubscribe\r\n$1\r\nd\r\n:2\r\n",
        ),
        ("PSUBSCRIBE *\r\n", "*3\r\n$10\r\npsubscribe\r\n$1\r\n*\r\n:3\r\n"),
        ("PING\r\n", "*2\r\n$4\r\npong\r\n$0\r\n\r\n"),
        ("PING hi\r\n", "*2\r\n$4\r\npong\r\n$2\r\nhi\r\n"),
        (
            "PUBLISH c x\r\n",
            "-ERR Can't execute 'PUBLISH': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed \
             in this context\r\n",
        ),
        (
            "PUNSUBSCRIBE\r\n",
            "*3\r\n$12\r\npunsubscribe\r\n$1\r\n*\r\n:2\r\n",
        ),
        (
            "UNSUBSCRIBE\r\n",
            "*3\r\n$11\r\nunsubscribe\r\n$1\r\nc\r\n:1\r\n*3\r\n$11\r\nunsubscribe\r\n$1\r\nd\r\n:0\r\n",
        ),
        ("PING\r\n", "+PONG\r\n"),
        ("RESET\r\n", "+RESET\r\n"),
        ("CLIENT GETNAME\r\n", "$-1\r\n"),
        ("QUIT\r\n", "+OK\r\n"),
    ] {
        exchange(&mut client, request, reply).await;
    }
    assert_eq!(until_closed(&mut client).await, "");
}

#[tokio::test(start_paused = true)]
async fn pubsub_counts_and_the_list_tell_who_is_there() {
    let (broker, _) = broker(Limits::default());
    let (mut one, _one_pushes, _one_driver) = link(broker.connect()).await;
    let mut two = broker.connect();
    exchange(&mut two, "CLIENT SETNAME two\r\n", "+OK\r\n").await;
    exchange(
        &mut two,
        "SUBSCRIBE a\r\n",
        "*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n",
    )
    .await;
    one.psubscribe("a*").await.unwrap();
    let pair = |name: &str, count| [Value::BulkString(name.into()), Value::Int(count)];
    let numsub = ask(&mut one, "PUBSUB NUMSUB a b").await.unwrap();
    assert_eq!(
        numsub,
        Value::Array([pair("a", 1), pair("b", 0)].concat()),
        "patterns do not count"
    );
    assert_eq!(ask(&mut one, "PUBSUB NUMPAT").await.unwrap(), Value::Int(1));
    let channels = ask(&mut one, "PUBSUB CHANNELS [a-c]").await.unwrap();
    assert_eq!(channels, Value::Array(vec![Value::BulkString("a".into())]));
    let list: String = redis::cmd("CLIENT")
        .arg("LIST")
        .arg("ID")
        .arg(2)
        .query_async(&mut one)
        .await
        .unwrap();
    assert_eq!(
        list,
        "id=2 addr=embedded:2 laddr=embedded:0 name=two flags=P db=0 sub=1 psub=0 ssub=0 multi=-1 oll=0 omem=0 \
         cmd=subscribe user=default resp=2 tot-net-out=35 lib-name= lib-ver=\n"
    );
    let list: String = redis::cmd("CLIENT")
        .arg("LIST")
        .arg("TYPE")
        .arg("pubsub")
        .query_async(&mut one)
        .await
        .unwrap();
    assert_eq!(list.lines().count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_killed_client_is_gone_at_once() {
    let (broker, metrics) = broker(Limits::default());
    let (mut one, _pushes, _driver) = link(broker.connect()).await;
    for (number, kill) in [
        (2, "CLIENT KILL ID 2"),
        (3, "CLIENT KILL ADDR embedded:3 SKIPME yes"),
        (4, "CLIENT KILL embedded:4"),
    ] {
        let mut victim = broker.connect();
        exchange(
            &mut victim,
            "SUBSCRIBE a\r\n",
            "*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n",
        )
        .await;
        let expected = if number == 4 { Value::Okay } else { Value::Int(1) };
        assert_eq!(ask(&mut one, kill).await.unwrap(), expected);
        assert_eq!(
            ask(&mut one, "PUBLISH a x").await.unwrap(),
            Value::Int(0),
            "not counted while it closes"
        );
        assert_eq!(until_closed(&mut victim).await, "");
    }
    assert_eq!(metrics.closed_so_far(Closed::Killed), 3);
    assert_eq!(ask(&mut one, "CLIENT KILL ID 99").await.unwrap(), Value::Int(0));
    assert!(
        ask(&mut one, "CLIENT KILL 1.2.3.4:5")
            .await
            .unwrap_err()
            .to_string()
            .contains("No such client")
    );
    assert!(ask(&mut one, "CLIENT KILL ID 0").await.is_err());
    assert_eq!(
        ask(&mut one, "CLIENT KILL LADDR embedded:0").await.unwrap(),
        Value::Int(0),
        "itself it spares"
    );
    let mut itself = broker.connect();
    exchange(&mut itself, "CLIENT KILL ID 5 SKIPME no\r\n", ":1\r\n").await;
    assert_eq!(until_closed(&mut itself).await, "");
}

#[tokio::test(start_paused = true)]
async fn who_does_not_read_is_disconnected_and_nobody_else() {
    let (broker, metrics) = broker(Limits {
        queued_bytes: 10_000,
        ..Limits::default()
    });
    let (mut publisher, _pushes, _driver) = link(broker.connect()).await;
    let (mut reader, mut pushes, _reader_driver) = link(broker.connect()).await;
    reader.subscribe("c").await.unwrap();
    let mut stuck = broker.connect();
    exchange(
        &mut stuck,
        "SUBSCRIBE c\r\n",
        "*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n",
    )
    .await;
    let body = "x".repeat(1000);
    let mut sent = 0;
    while metrics.closed_so_far(Closed::SlowReader) == 0 {
        let _: i64 = redis::cmd("PUBLISH")
            .arg("c")
            .arg(&body)
            .query_async(&mut publisher)
            .await
            .unwrap();
        sent += 1;
        assert!(sent < 1000, "the stuck client is never given up");
    }
    assert!(
        metrics.dropped.get() >= 9,
        "what waited is counted: {}",
        metrics.dropped.get()
    );
    assert_eq!(
        ask(&mut publisher, "PUBSUB NUMSUB c").await.unwrap(),
        Value::Array(vec![Value::BulkString("c".into()), Value::Int(1)])
    );
    let mut heard = 0;
    while heard < sent {
        let push = timeout(LONG, pushes.recv()).await.unwrap().unwrap();
        heard += usize::from(push.kind == PushKind::Message);
    }
}

#[tokio::test(start_paused = true)]
async fn a_pipelined_burst_reaches_a_subscriber_that_reads() {
    let (broker, metrics) = broker(Limits {
        queued_bytes: 64 * 1024,
        ..Limits::default()
    });
    let (mut subscriber, mut pushes, _driver) = link(broker.connect()).await;
    subscriber.subscribe("c").await.unwrap();
    let mut publisher = broker.connect();
    let (mut replies, mut requests) = tokio::io::split(&mut publisher);
    let burst = "PUBLISH c xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\r\n".repeat(10_000);
    let mut seen = vec![0; 4 * 10_000];
    let (wrote, read) = tokio::join!(
        requests.write_all(burst.as_bytes()),
        replies.read_exact(&mut seen)
    );
    wrote.and(read.map(drop)).unwrap();
    assert_eq!(seen, b":1\r\n".repeat(10_000));
    assert_eq!(metrics.closed_so_far(Closed::SlowReader), 0);
    let mut heard = 0;
    while heard < 10_000 {
        heard += usize::from(pushes.recv().await.unwrap().kind == PushKind::Message);
    }
}

#[tokio::test]
async fn large_messages_in_a_row_reach_a_subscriber_that_reads() {
    let (broker, metrics) = broker(Limits::default());
    let tcp = listen(&broker).await;
    let (mut subscriber, mut pushes, _driver) = link(TcpStream::connect(tcp.addr).await.unwrap()).await;
    subscriber.subscribe("c").await.unwrap();
    let mut publisher = TcpStream::connect(tcp.addr).await.unwrap();
    // Small enough for several to wait in the socket, large enough for a few to fill the subscriber's queue.
    let body = "x".repeat(64 * 1024);
    let request = format!("*3\r\n$7\r\nPUBLISH\r\n$1\r\nc\r\n${}\r\n{body}\r\n", body.len());
    let (mut replies, mut requests) = publisher.split();
    let mut seen = vec![0; 4 * 200];
    let burst = request.repeat(200);
    let (wrote, read) = tokio::join!(
        requests.write_all(burst.as_bytes()),
        replies.read_exact(&mut seen)
    );
    wrote.and(read.map(drop)).unwrap();
    assert_eq!(metrics.closed_so_far(Closed::SlowReader), 0);
    let mut heard = 0;
    while heard < 200 {
        heard += usize::from(pushes.recv().await.unwrap().kind == PushKind::Message);
    }
}

#[tokio::test(start_paused = true)]
async fn who_does_not_read_replies_is_not_read_from() {
    let (broker, metrics) = broker(Limits::default());
    let mut client = broker.connect();
    let requests = "PING\r\n".repeat(1_000_000);
    let written = timeout(LONG, client.write_all(requests.as_bytes())).await;
    assert!(
        written.is_err(),
        "the broker read a million requests whose replies nobody took"
    );
    assert_eq!(metrics.clients.get(), 1, "that is no reason to disconnect");
    let waiting: usize = broker
        .hub
        .lock()
        .clients()
        .map(|(_, client)| client.waiting())
        .sum();
    assert!(waiting < 64 * 1024, "{waiting} bytes of replies are kept");
}

#[tokio::test(start_paused = true)]
async fn bounds_answer_with_an_error_and_keep_the_connection() {
    let limits = Limits {
        subscriptions: 2,
        patterns: 2,
        pattern_bytes: 6,
        name_bytes: 8,
        ..Limits::default()
    };
    let (broker, _) = broker(limits);
    let mut client = broker.connect();
    for (request, reply) in [
        (
            "SUBSCRIBE a b c\r\n",
            "-ERR this broker allows 2 subscriptions per client\r\n",
        ),
        (
            "SUBSCRIBE a23456789\r\n",
            "-ERR this broker allows 8 bytes for the name of a channel\r\n",
        ),
        (
            "PUBLISH a23456789 x\r\n",
            "-ERR this broker allows 8 bytes for the name of a channel\r\n",
        ),
        (
            "CLIENT SETNAME a23456789\r\n",
            "-ERR this broker allows 8 bytes for the name of a client\r\n",
        ),
        (
            "PUBSUB CHANNELS a23456789\r\n",
            "-ERR this broker allows 8 bytes for the name of a pattern\r\n",
        ),
        (
            "PSUBSCRIBE abc abcd\r\n",
            "-ERR this broker allows 2 different patterns, of 6 bytes together\r\n",
        ),
        (
            "PSUBSCRIBE a b\r\n",
            "*3\r\n$10\r\npsubscribe\r\n$1\r\na\r\n:1\r\n*3\r\n$10\r\npsubscribe\r\n$1\r\nb\r\n:2\r\n",
        ),
        (
            "PUNSUBSCRIBE b\r\n",
            "*3\r\n$12\r\npunsubscribe\r\n$1\r\nb\r\n:1\r\n",
        ),
        ("PSUBSCRIBE a\r\n", "*3\r\n$10\r\npsubscribe\r\n$1\r\na\r\n:1\r\n"),
        ("PSUBSCRIBE a\r\n", "*3\r\n$10\r\npsubscribe\r\n$1\r\na\r\n:1\r\n"),
    ] {
        exchange(&mut client, request, reply).await;
    }
    let mut binary = broker.connect();
    let forged = "*3\r\n$6\r\nCLIENT\r\n$7\r\nSETNAME\r\n$3\r\na\nb\r\n";
    let refusal = "-ERR Client names cannot contain spaces, newlines or special characters.\r\n";
    exchange(&mut binary, forged, refusal).await;
}

#[tokio::test]
async fn what_waits_for_all_is_bounded_and_who_makes_most_wait_goes_first() {
    let (broker, metrics) = broker(Limits {
        queued_bytes_in_all: 1024 * 1024,
        ..Limits::default()
    });
    let tcp = listen(&broker).await;
    let mut stuck = Vec::new();
    for place in 0..8 {
        let mut client = TcpStream::connect(tcp.addr).await.unwrap();
        let reply = format!("*3\r\n$9\r\nsubscribe\r\n$2\r\nc{place}\r\n:1\r\n");
        exchange(&mut client, &format!("SUBSCRIBE c{place}\r\n"), &reply).await;
        stuck.push(client);
    }
    let (mut publisher, _pushes, _driver) = link(broker.connect()).await;
    let body = "x".repeat(100_000);
    for sent in 0.. {
        if metrics.closed_so_far(Closed::SlowReader) > 0 {
            break;
        }
        assert!(
            sent < 100_000,
            "none of eight, for each of whom less than its bound waits, is given up"
        );
        let _: i64 = redis::cmd("PUBLISH")
            .arg(format!("c{}", sent % 8))
            .arg(&body)
            .query_async(&mut publisher)
            .await
            .unwrap();
    }
    let lost = metrics.dropped.get();
    assert!(lost < 10, "{lost} messages are more than its share");
}

#[tokio::test(start_paused = true)]
async fn what_is_no_request_ends_its_connection_only() {
    let (broker, metrics) = broker(Limits::default());
    let mut other = broker.connect();
    let nested = "*1\r\n".repeat(10_000);
    let attacks = [
        (
            "*1000000\r\n",
            "-ERR Protocol error: invalid multibulk length\r\n",
        ),
        (
            "*1\r\n$1000000000\r\n",
            "-ERR Protocol error: invalid bulk length\r\n",
        ),
        (&nested, "-ERR Protocol error: expected '$'\r\n"),
        (
            "POST / HTTP/1.1\r\nHost: x\r\n\r\nPUBLISH c x\r\n",
            "-ERR Protocol error: this is not an HTTP server\r\n",
        ),
    ];
    for (attack, reply) in attacks {
        let mut client = broker.connect();
        client.write_all(attack.as_bytes()).await.unwrap();
        assert_eq!(until_closed(&mut client).await, reply);
    }
    assert_eq!(metrics.closed_so_far(Closed::ProtocolError), 4);
    assert_eq!(metrics.published.get(), 0, "nothing behind the fault was run");
    exchange(&mut other, "PING\r\n", "+PONG\r\n").await;
}

#[tokio::test(start_paused = true)]
async fn silence_is_no_reason_to_be_disconnected() {
    let (broker, _) = broker(Limits::default());
    let mut quiet = broker.connect();
    exchange(
        &mut quiet,
        "SUBSCRIBE c\r\n",
        "*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n",
    )
    .await;
    tokio::time::sleep(Duration::from_secs(7 * 24 * 3600)).await;
    exchange(&mut quiet, "PING\r\n", "*2\r\n$4\r\npong\r\n$0\r\n\r\n").await;
}

#[tokio::test(start_paused = true)]
async fn a_half_closed_client_gets_its_replies() {
    let (broker, _) = broker(Limits::default());
    let mut client = broker.connect();
    client.write_all(b"PING\r\nPING\r\nPIN").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(until_closed(&mut client).await, "+PONG\r\n+PONG\r\n");
}

#[tokio::test(start_paused = true)]
async fn in_process_connections_end_with_the_last_broker() {
    let (broker, metrics) = broker(Limits::default());
    let mut client = broker.connect();
    let clone = broker.clone();
    drop(broker);
    exchange(&mut client, "PING\r\n", "+PONG\r\n").await;
    drop(clone);
    assert_eq!(until_closed(&mut client).await, "");
    assert_eq!(metrics.clients.get(), 0);
}

#[test]
fn a_connection_outside_of_a_runtime_is_at_its_end() {
    let (broker, metrics) = broker(Limits::default());
    let mut client = broker.connect();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    assert_eq!(runtime.block_on(until_closed(&mut client)), "");
    assert_eq!(metrics.clients.get(), 0);
}

#[tokio::test]
async fn a_full_broker_refuses_sockets_but_never_its_own_node() {
    let (broker, metrics) = broker(Limits {
        clients: 2,
        ..Limits::default()
    });
    let tcp = listen(&broker).await;
    let mut inside = [broker.connect(), broker.connect(), broker.connect()];
    let mut first = TcpStream::connect(tcp.addr).await.unwrap();
    let mut second = TcpStream::connect(tcp.addr).await.unwrap();
    exchange(&mut first, "PING\r\n", "+PONG\r\n").await;
    exchange(&mut second, "PING\r\n", "+PONG\r\n").await;
    for _ in 0..50 {
        let mut third = TcpStream::connect(tcp.addr).await.unwrap();
        assert_eq!(
            until_closed(&mut third).await,
            "-ERR max number of clients reached\r\n"
        );
    }
    assert_eq!(metrics.closed_so_far(Closed::Refused), 50);
    exchange(&mut inside[0], "PING\r\n", "+PONG\r\n").await;
    drop(first);
    eventually("a place is free again", || metrics.clients.get() == 4).await;
    exchange(
        &mut TcpStream::connect(tcp.addr).await.unwrap(),
        "PING\r\n",
        "+PONG\r\n",
    )
    .await;
}

#[tokio::test]
async fn cancelled_the_listener_says_its_last_words_and_frees_the_port() {
    let (broker, metrics) = broker(Limits::default());
    let tcp = listen(&broker).await;
    let mut client = TcpStream::connect(tcp.addr).await.unwrap();
    exchange(
        &mut client,
        "SUBSCRIBE c\r\n",
        "*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n",
    )
    .await;
    let mut inside = broker.connect();
    exchange(&mut inside, "PUBLISH c goodbye\r\n", ":1\r\n").await;
    tcp.cancel.cancel();
    timeout(LONG, tcp.task).await.unwrap().unwrap().unwrap();
    let expected = "*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$7\r\ngoodbye\r\n";
    assert_eq!(until_closed(&mut client).await, expected);
    assert_eq!(metrics.closed_so_far(Closed::Shutdown), 1);
    exchange(&mut inside, "PING\r\n", "+PONG\r\n").await;
    Listener::bind(tcp.addr).await.expect("the port is free");
}

#[tokio::test]
async fn only_loopback_is_bound() {
    for addr in ["0.0.0.0:0", "[::]:0", "10.0.0.1:0", "[::ffff:10.0.0.1]:0"] {
        let error = Listener::bind(addr.parse().unwrap()).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
        assert!(error.to_string().contains("one machine"), "{error}");
    }
    let taken = Listener::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let error = Listener::bind(taken.local_addr()).await.unwrap_err();
    assert!(
        error.to_string().contains(&taken.local_addr().to_string()),
        "{error}"
    );
}

#[test]
fn a_lock_that_a_panic_poisoned_still_serves() {
    let (broker, _) = broker(Limits::default());
    let hub = broker.hub.clone();
    let panicked = std::thread::spawn(move || {
        let _guard = hub.lock();
        panic!("on purpose, with the lock held");
    });
    assert!(panicked.join().is_err());
    assert_eq!(broker.hub.lock().clients().count(), 0);
}
