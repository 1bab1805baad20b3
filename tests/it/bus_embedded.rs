//! The embedded broker against clients that were not written for it, and against bytes that no client would send.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use defib::bus::embedded::{Broker, Limits, Listener};
use defib::telemetry::metrics::Metrics;
use defib::telemetry::metrics::broker::{BrokerMetrics, Closed};
use tokio_util::sync::CancellationToken;

use crate::support::available;
use crate::support::python::Python;

/// Far beyond what anything here takes on a loaded machine.
const LONG: Duration = Duration::from_secs(60);

/// A broker on a thread and a port of its own, ended with its handle.
struct Server {
    addr: SocketAddr,
    metrics: BrokerMetrics,
    cancel: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start(limits: Limits) -> Self {
        let metrics = Metrics::new().unwrap().broker;
        let broker = Broker::new(limits, metrics.clone());
        let cancel = CancellationToken::new();
        let stop = cancel.clone();
        let (sender, addr) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let listener = Listener::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
                sender.send(listener.local_addr()).unwrap();
                listener.run(broker, stop).await.unwrap();
            });
        });
        Self {
            addr: addr.recv().unwrap(),
            metrics,
            cancel,
            thread: Some(thread),
        }
    }

    fn port(&self) -> String {
        self.addr.port().to_string()
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.addr).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream
    }

    fn serves(&self) {
        let mut stream = self.connect();
        stream.write_all(b"*1\r\n$4\r\nPING\r\n").unwrap();
        let mut reply = [0; 7];
        stream.read_exact(&mut reply).unwrap();
        assert_eq!(&reply, b"+PONG\r\n");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.cancel.cancel();
        let ended = self.thread.take().unwrap().join();
        assert!(
            ended.is_ok() || std::thread::panicking(),
            "the broker's thread panicked"
        );
    }
}

fn redis_py(python: Option<Python>, protocol: &str) {
    let Some(python) = python else { return };
    let server = Server::start(Limits::default());
    python.run("broker_client.py", &[&server.port(), protocol]);
}

#[test]
fn redis_py_newest_resp2() {
    redis_py(Python::newest(), "2");
}

#[test]
fn redis_py_newest_resp3() {
    redis_py(Python::newest(), "3");
}

#[test]
fn redis_py_5_resp2() {
    redis_py(Python::redis5(), "2");
}

#[test]
fn redis_py_5_resp3() {
    redis_py(Python::redis5(), "3");
}

/// `None`, and said so, if there is no redis-cli.
fn redis_cli(server: &Server, arguments: &[&str]) -> Option<Command> {
    let there = Command::new("redis-cli")
        .arg("--version")
        .stdout(Stdio::null())
        .status()
        .is_ok();
    available("redis-cli (package redis-tools)", there).then(|| {
        let mut command = Command::new("redis-cli");
        command
            .args(["-p", &server.port()])
            .args(arguments)
            .stdin(Stdio::null());
        command
    })
}

fn says(mut command: Command) -> String {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

struct KilledAtEnd(Child);

impl Drop for KilledAtEnd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn redis_cli_asks_and_is_answered() {
    let server = Server::start(Limits::default());
    for protocol in ["-2", "-3"] {
        for (request, answer) in [
            (&["PING"][..], "PONG\n"),
            (&["PUBLISH", "c", "x"], "0\n"),
            (&["PUBSUB", "NUMSUB", "c"], "c\n0\n"),
            (&["COMMAND", "DOCS"], "\n"),
            (&["ROLE"], "master\n0\n\n"),
            (
                &["SET", "k", "v"],
                "ERR unknown command 'SET', with args beginning with: 'k' 'v' \n\n",
            ),
        ] {
            let arguments = [&[protocol][..], request].concat();
            let Some(command) = redis_cli(&server, &arguments) else {
                return;
            };
            assert_eq!(says(command), answer, "{arguments:?}");
        }
        let list = says(redis_cli(&server, &[protocol, "CLIENT", "LIST"]).unwrap());
        assert!(list.starts_with("id="), "{list}");
        assert!(says(redis_cli(&server, &[protocol, "INFO"]).unwrap()).contains("redis_mode:standalone"));
    }
}

#[test]
fn redis_cli_subscribes() {
    let server = Server::start(Limits::default());
    for protocol in ["-2", "-3"] {
        let Some(mut command) = redis_cli(&server, &[protocol, "PSUBSCRIBE", "be*"]) else {
            return;
        };
        let mut subscriber = KilledAtEnd(command.stdout(Stdio::piped()).spawn().unwrap());
        let mut lines = BufReader::new(subscriber.0.stdout.take().unwrap()).lines();
        let mut next = || lines.next().unwrap().unwrap();
        while next() != "1" {}
        assert_eq!(
            says(redis_cli(&server, &["PUBLISH", "beats", "one"]).unwrap()),
            "1\n"
        );
        assert_eq!(
            [next(), next(), next(), next()],
            ["pmessage", "be*", "beats", "one"]
        );
    }
}

#[test]
fn garbage_ends_at_most_its_own_connection() {
    let server = Server::start(Limits::default());
    // A fixed generator: the same bytes every time, a failure can be repeated.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for round in 0..100 {
        let mut garbage = Vec::new();
        for _ in 0..500 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            garbage.extend_from_slice(&state.to_be_bytes());
        }
        if round % 2 == 0 {
            garbage[0] = b'*';
        }
        let mut stream = server.connect();
        // The broker may have closed already; what counts is that it serves on.
        let _ = stream.write_all(&garbage);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = stream.read_to_end(&mut Vec::new());
    }
    server.serves();
}

#[test]
fn hostile_headers_are_refused_before_their_bodies() {
    let server = Server::start(Limits::default());
    for (attack, fault) in [
        ("*1000000\r\n".to_owned(), "invalid multibulk length"),
        (
            "*2\r\n$7\r\nPUBLISH\r\n$536870912\r\n".to_owned(),
            "invalid bulk length",
        ),
        ("*1\r\n".repeat(100), "expected '$'"),
        ("x".repeat(16 * 1024), "too big inline request"),
    ] {
        let mut stream = server.connect();
        stream.write_all(attack.as_bytes()).unwrap();
        let mut reply = vec![0; format!("-ERR Protocol error: {fault}\r\n").len()];
        stream.read_exact(&mut reply).unwrap();
        assert_eq!(
            String::from_utf8(reply).unwrap(),
            format!("-ERR Protocol error: {fault}\r\n")
        );
    }
    assert_eq!(server.metrics.closed_so_far(Closed::ProtocolError), 4);
    server.serves();
}

/// Publishes on `c` until the broker gives a subscriber up, which has to happen; the publisher is never held up.
fn publish_until_one_is_given_up(server: &Server) {
    let body = "x".repeat(64 * 1024);
    let request = format!("*3\r\n$7\r\nPUBLISH\r\n$1\r\nc\r\n${}\r\n{body}\r\n", body.len());
    let mut publisher = server.connect();
    let mut sent = 0;
    while server.metrics.closed_so_far(Closed::SlowReader) == 0 {
        publisher.write_all(request.as_bytes()).unwrap();
        publisher.read_exact(&mut [0; 4]).unwrap();
        sent += 1;
        assert!(sent < 10_000, "the subscriber is never given up");
    }
    assert!(server.metrics.dropped.get() > 0);
    publisher.write_all(b"PUBSUB NUMSUB c\r\n").unwrap();
    let mut reply = [0; 15];
    publisher.read_exact(&mut reply).unwrap();
    assert_eq!(&reply, b"*2\r\n$1\r\nc\r\n:0\r\n");
}

#[test]
fn a_client_that_never_reads_is_given_up_and_the_publisher_goes_on() {
    let server = Server::start(Limits::default());
    let mut stuck = server.connect();
    stuck.write_all(b"SUBSCRIBE c\r\n").unwrap();
    stuck
        .read_exact(&mut [0; "*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n".len()])
        .unwrap();
    publish_until_one_is_given_up(&server);
    // It still finds what the kernel held, then the end.
    let _ = stuck.read_to_end(&mut Vec::new());
}

#[test]
fn a_stopped_redis_py_subscriber_is_given_up_and_the_publisher_goes_on() {
    let Some(python) = Python::newest() else { return };
    let server = Server::start(Limits::default());
    let mut subscriber = python.spawn("subscriber.py", &[&server.port(), "c"]);
    assert_eq!(subscriber.line(), "subscribed");
    server.connect().write_all(b"PUBLISH c one\r\n").unwrap();
    assert_eq!(subscriber.line(), "one");
    let pid = rustix::process::Pid::from_raw(subscriber.pid().try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    publish_until_one_is_given_up(&server);
}

#[test]
fn a_flood_of_connections_leaves_those_inside_alone() {
    let server = Server::start(Limits {
        clients: 20,
        ..Limits::default()
    });
    let mut inside = server.connect();
    inside.write_all(b"PING\r\n").unwrap();
    inside.read_exact(&mut [0; 7]).unwrap();
    let flood: Vec<TcpStream> = (0..200).map(|_| server.connect()).collect();
    let mut polls = 0;
    while server.metrics.closed_so_far(Closed::Refused) < 181 {
        polls += 1;
        assert!(
            polls < 6000,
            "{} of 181 refused",
            server.metrics.closed_so_far(Closed::Refused)
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(server.metrics.clients.get(), 20);
    let mut told = String::new();
    (&flood[199]).read_to_string(&mut told).unwrap();
    assert_eq!(told, "-ERR max number of clients reached\r\n");
    inside.write_all(b"PING\r\n").unwrap();
    inside.read_exact(&mut [0; 7]).unwrap();
}
