//! The checks that measure (`metric`, `connections`, `memory`) on real pages, sockets and processes; and the reader of
//! metrics pages beside the reference readers.

use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use defib::checks::connections::Connections;
use defib::checks::memory::{Growth, Memory, Of};
use defib::checks::metric::{Aggregate, Bound, Metric};
use defib::checks::page::Exposed;
use defib::checks::{Owner, Probe, Schedule, Settings};
use defib::engine::cause::Cause;
use defib::engine::event::Outcome;
use defib::exposition::{Labels, MAX_SERIES, Page, Selector};
use defib::secret::Secret;

use crate::checks::{BOUND, CHECK, PEER, Reply, Running, Server, status};
use crate::support::available;
use crate::support::python::Python;

const OFTEN: Schedule = Schedule {
    interval: Duration::from_millis(50),
    timeout: BOUND,
};
const MIB: u64 = 1 << 20;

fn exposed(url: &str, series: &str) -> Exposed {
    Exposed {
        url: url.to_owned(),
        series: series.parse().unwrap(),
        bearer: None,
        body_limit: 1 << 20,
    }
}

fn metric(page: Exposed, bound: Bound) -> Metric {
    Metric {
        page,
        aggregate: Aggregate::Sum,
        rate_over: None,
        bound,
    }
}

fn run(probe: Probe) -> Running {
    run_on(probe, OFTEN)
}

fn run_on(probe: Probe, schedule: Schedule) -> Running {
    Running::start(Settings {
        probes: vec![(CHECK, probe, schedule)],
        ..Settings::default()
    })
}

/// Waits for an outcome that is so, and returns its words.
async fn until(running: &mut Running, what: &str, is_so: impl Fn(&Outcome) -> bool) -> String {
    let mut last = None;
    for _ in 0..1000 {
        let outcome = running.outcome().await;
        if is_so(&outcome) {
            return words(outcome);
        }
        last = Some(outcome);
    }
    panic!("waited in vain until {what}: {last:?}");
}

fn words(outcome: Outcome) -> String {
    match outcome {
        Outcome::Pass => String::new(),
        Outcome::Fail { detail, .. } | Outcome::Doubt { detail, .. } | Outcome::Unknown { detail } => detail,
    }
}

fn passes(outcome: &Outcome) -> bool {
    *outcome == Outcome::Pass
}

fn fails(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Fail { .. })
}

async fn unknown(page: Exposed) -> String {
    match run(Probe::Metric(metric(page, Bound::Below(5.0))))
        .outcome()
        .await
    {
        Outcome::Unknown { detail } => detail,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_metric_is_held_against_its_bound() {
    let page = "# TYPE depth gauge\ndepth{queue=\"in\"} 3\ndepth{queue=\"out\"} 4\n";
    let server = Server::start(status(200, page)).await;
    for (series, aggregate, bound, expected) in [
        ("depth", Aggregate::Sum, Bound::Below(8.0), None),
        (
            "depth",
            Aggregate::Sum,
            Bound::Below(7.0),
            Some("depth is 7, not below 7"),
        ),
        ("depth", Aggregate::Max, Bound::Below(5.0), None),
        (
            "depth",
            Aggregate::Min,
            Bound::Above(3.0),
            Some("depth is 3, not above 3"),
        ),
        ("depth{queue=\"in\"}", Aggregate::Sum, Bound::Above(2.5), None),
        (
            "depth{queue!=\"in\"}",
            Aggregate::Sum,
            Bound::Above(4.0),
            Some("depth{queue!=\"in\"} is 4, not above 4"),
        ),
    ] {
        let page = exposed(&server.url(), series);
        let metric = Metric {
            aggregate,
            ..metric(page, bound)
        };
        let expected = match expected {
            None => Outcome::Pass,
            Some(detail) => Outcome::Fail {
                cause: Cause::PeerStuck,
                detail: detail.to_owned(),
            },
        };
        assert_eq!(run(Probe::Metric(metric)).outcome().await, expected);
    }
}

#[tokio::test]
async fn s23_whatever_keeps_a_page_from_being_read_is_unknown_with_its_reason() {
    let server = Server::start(status(403, "")).await;
    let page = || exposed(&server.url(), "a");
    let long = format!("# {}\na 1\n", "x".repeat(2 << 20));
    let many: Vec<String> = (0..=MAX_SERIES).map(|n| format!("a{{b=\"{n}\"}} 1\n")).collect();
    for (reply, reason) in [
        (
            status(403, ""),
            "status 403: the metrics page is refused to this node",
        ),
        (status(401, ""), "status 401"),
        (status(404, "a 1\n"), "status 404 instead of a metrics page"),
        (status(500, "a 1\n"), "status 500 instead"),
        (status(302, ""), "status 302 instead"),
        (status(200, ""), "has no series a"),
        (status(200, "b 1\n"), "has no series a"),
        (status(200, "a NaN\n"), "a is not a number"),
        (status(200, "<html></html>\n"), "line 1 is neither"),
        (status(200, "a 1"), "ends in the middle of a line"),
        (status(200, &long), "longer than 1048576 bytes (body_limit)"),
        (status(200, &many.concat()), "series match: add labels"),
        (
            Reply::Bytes("HTTP/1.1 200 OK\r\ncontent-length: 90\r\n\r\na 1\n".into()),
            "reading the body",
        ),
        (Reply::Bytes("SSH-2.0\r\n\r\n".into()), "not an HTTP response"),
        (Reply::Bytes(String::new()), "connection closed"),
        (
            Reply::Endless("HTTP/1.1 200 OK\r\n\r\na 1\n".into()),
            "(body_limit)",
        ),
    ] {
        server.set(reply);
        let said = unknown(page()).await;
        assert!(said.contains(reason), "{said:?} does not say {reason:?}");
    }
    for reply in [String::new(), "HTTP/1.1 200 OK\r\n\r\na 1\n".into()] {
        server.set(Reply::Stall(reply));
        let impatient = Schedule {
            timeout: Duration::from_millis(100),
            ..OFTEN
        };
        let metric = metric(page(), Bound::Below(5.0));
        let outcome = run_on(Probe::Metric(metric), impatient).outcome().await;
        assert!(
            matches!(&outcome, Outcome::Unknown { detail } if detail.contains("100ms")),
            "{outcome:?}"
        );
    }
    let url = server.url();
    server.stop().await;
    let said = unknown(exposed(&url, "a")).await;
    assert!(said.contains("refused"), "{said}");
}

#[tokio::test]
async fn a_page_is_asked_for_with_its_token() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    std::fs::write(&file, "sesame\n").unwrap();
    let server = Server::start(status(200, "a 1\n")).await;
    let page = Exposed {
        bearer: Some(Secret::File(file.clone())),
        ..exposed(&server.url(), "a")
    };
    let mut running = run(Probe::Metric(metric(page, Bound::Below(5.0))));
    assert_eq!(running.outcome().await, Outcome::Pass);
    let request = server.requests.lock().unwrap()[0].to_lowercase();
    assert!(request.contains("authorization: bearer sesame\r\n"), "{request}");
    std::fs::remove_file(&file).unwrap();
    let said = until(&mut running, "the token is missed", |outcome| !passes(outcome)).await;
    assert!(said.contains("token") && !said.contains("sesame"), "{said}");
}

#[tokio::test]
async fn a_counters_rate_is_judged_through_its_restart() {
    let count = |n: u32| status(200, &format!("# TYPE a counter\na_total {n}\n# EOF\n"));
    let server = Server::start(count(5_000_000)).await;
    let rate = |bound| {
        run(Probe::Metric(Metric {
            rate_over: Some(Duration::from_secs(1)),
            ..metric(exposed(&server.url(), "a_total"), bound)
        }))
    };
    let mut standing = rate(Bound::Above(0.0));
    let first = words(standing.outcome().await);
    assert_eq!(first, "a rate needs a second look");
    // It stood still for a second: until that is over, nothing is known.
    let said = until(&mut standing, "it stands still", |outcome| {
        assert!(!passes(outcome));
        fails(outcome)
    })
    .await;
    assert_eq!(said, "a_total grows a second by 0, not above 0");
    let mut slow = rate(Bound::Below(100.0));
    until(&mut slow, "it is slow enough", passes).await;
    // A new process counts from zero: 50 is no fall, and no leap.
    server.set(count(50));
    until(&mut standing, "the new process counts", passes).await;
    for _ in 0..20 {
        assert_eq!(slow.outcome().await, Outcome::Pass);
    }
    server.set(count(100_000));
    until(&mut slow, "it is too fast", fails).await;
    server.set(status(200, "# TYPE a_total gauge\na_total 5\n"));
    let said = until(&mut slow, "it is a gauge", |outcome| {
        matches!(outcome, Outcome::Unknown { .. })
    })
    .await;
    assert_eq!(said, "a_total is no counter: leave rate_over out");
}

/// What is written to it, it holds: `tail` keeps a line until it has its end.
struct Hoarder {
    process: Child,
    stdin: ChildStdin,
}

impl Hoarder {
    fn start() -> Self {
        let mut command = Command::new("tail");
        let mut process = command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let stdin = process.stdin.take().unwrap();
        Self { process, stdin }
    }

    fn take(&mut self, mib: usize) {
        for _ in 0..mib {
            self.stdin.write_all(&vec![b'x'; 1 << 20]).unwrap();
        }
    }

    fn measured(&self, memory: Memory, schedule: Schedule) -> Running {
        Running::start(Settings {
            owners: vec![(PEER, Owner::Pid(self.process.id()), None, schedule)],
            probes: vec![(CHECK, Probe::Memory(memory), schedule)],
            ..Settings::default()
        })
    }
}

impl Drop for Hoarder {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn below(of: Of, bytes: u64) -> Memory {
    Memory {
        of,
        below: Some(bytes),
        growth: None,
    }
}

#[tokio::test]
async fn the_memory_of_a_process_is_held_against_its_bound() {
    let mut hoarder = Hoarder::start();
    let mut running = hoarder.measured(below(Of::Process, 40 * MIB), OFTEN);
    until(&mut running, "it is small", passes).await;
    hoarder.take(60);
    let said = until(&mut running, "it is large", fails).await;
    assert!(
        said.starts_with("it holds ") && said.ends_with("MiB, not below 40.0MiB"),
        "{said}"
    );
    hoarder.process.kill().unwrap();
    hoarder.process.wait().unwrap();
    let said = until(&mut running, "it is gone", |outcome| {
        matches!(outcome, Outcome::Unknown { .. })
    })
    .await;
    assert!(said.contains("has ended") || said.contains("not found"), "{said}");
    // Without an owner there is nothing to measure.
    let outcome = run(Probe::Memory(below(Of::Process, MIB))).outcome().await;
    assert!(matches!(outcome, Outcome::Unknown { .. }), "{outcome:?}");
}

#[tokio::test]
async fn steady_growth_is_a_leak_and_what_has_grown_is_none() {
    let mut hoarder = Hoarder::start();
    let memory = Memory {
        of: Of::Process,
        below: None,
        growth: Some(Growth {
            below: 8 * MIB,
            over: Duration::from_secs(2),
        }),
    };
    let mut running = hoarder.measured(memory, OFTEN);
    until(&mut running, "it stands still", passes).await;
    let mut said = String::new();
    for _ in 0..400 {
        hoarder.take(2);
        let outcome = running.outcome().await;
        if fails(&outcome) {
            said = words(outcome);
            break;
        }
    }
    assert!(
        said.starts_with("it grows by ") && said.ends_with("MiB in 2s, not below 8.0MiB"),
        "{said}"
    );
    until(&mut running, "it has grown, and grows no more", passes).await;
}

/// A cgroup of this test's own, which accounts for memory.
struct Cgroup(PathBuf);

impl Cgroup {
    fn make() -> Option<Self> {
        let name = format!("defib-test-{}", std::process::id());
        let made = ["/sys/fs/cgroup/memory", "/sys/fs/cgroup"]
            .iter()
            .find_map(|root| {
                let path = PathBuf::from(root).join(&name);
                std::fs::create_dir(&path).ok()?;
                let made = Self(path);
                made.0.join("memory.stat").exists().then_some(made)
            });
        let there = available(
            "a cgroup that counts memory, and the right to make one",
            made.is_some(),
        );
        made.filter(|_| there)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}

#[tokio::test]
async fn the_memory_of_a_cgroup_counts_everybody_in_it_and_no_files() {
    let Some(cgroup) = Cgroup::make() else { return };
    // The shell is the owner, and its child holds the memory. What it reads is a file, and counts for nobody.
    let mut command = Command::new("sh");
    let line = format!(
        "echo $$ >{}/cgroup.procs && tail & cat /usr/lib/*/*.so* >/dev/null; wait",
        cgroup.0.display()
    );
    let line = line.replace("tail &", "{ tail <&3 & } 3<&0;");
    let mut process = command
        .args(["-c", &line])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let stdin = process.stdin.take().unwrap();
    let mut hoarder = Hoarder { process, stdin };
    let mut running = hoarder.measured(below(Of::Cgroup, 40 * MIB), OFTEN);
    let mut alone = hoarder.measured(below(Of::Process, 40 * MIB), OFTEN);
    until(&mut running, "it is small", passes).await;
    hoarder.take(60);
    let said = until(&mut running, "it is large", fails).await;
    assert!(said.ends_with("MiB, not below 40.0MiB"), "{said}");
    assert_eq!(until(&mut alone, "the shell itself is small", passes).await, "");
    let members = std::fs::read_to_string(cgroup.0.join("cgroup.procs")).unwrap();
    drop(hoarder);
    for pid in members
        .lines()
        .filter_map(|pid| pid.parse().ok())
        .filter_map(rustix::process::Pid::from_raw)
    {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
    crate::support::until("the cgroup is empty", || {
        std::fs::read_to_string(cgroup.0.join("cgroup.procs")).is_ok_and(|pids| pids.is_empty())
    });
}

/// A listener with this many connections: (their clients', the application's).
fn connected(bind: &str, many: usize) -> (TcpListener, Vec<TcpStream>, Vec<TcpStream>) {
    let listener = TcpListener::bind(bind).unwrap();
    let address = listener.local_addr().unwrap();
    let (clients, held) = (0..many)
        .map(|_| (TcpStream::connect(address).unwrap(), listener.accept().unwrap().0))
        .unzip();
    (listener, clients, held)
}

fn compared(server: &Server, port: u16) -> Running {
    run(Probe::Connections(Connections {
        page: exposed(&server.url(), "open"),
        ports: vec![port],
        below: 3,
    }))
}

fn ghosts(running: &Running) -> Option<String> {
    let text = prometheus::TextEncoder::new()
        .encode_to_string(&running.metrics.registry.gather())
        .unwrap();
    let line = text
        .lines()
        .find(|line| line.starts_with("defib_peer_ghost_connections{"));
    line.map(|line| line.rsplit(' ').next().unwrap().to_owned())
}

#[tokio::test]
async fn connections_that_only_the_application_counts_are_ghosts() {
    for bind in ["127.0.0.1:0", "[::1]:0", "[::]:0"] {
        let (listener, mut clients, mut held) = connected(bind, 10);
        let port = listener.local_addr().unwrap().port();
        // Two workers count 6 each; two too many are life.
        let server = Server::start(status(200, "open{w=\"1\"} 6\nopen{w=\"2\"} 6\n")).await;
        let mut running = compared(&server, port);
        assert_eq!(running.outcome().await, Outcome::Pass, "{bind}");
        assert_eq!(ghosts(&running).as_deref(), Some("2"));
        // A client leaves, and the application does not look: CLOSE_WAIT. Another's end is complete: TIME_WAIT.
        drop(clients.pop());
        held.remove(0);
        drop(clients.remove(0));
        let said = until(&mut running, "there are ghosts", fails).await;
        assert!(
            said.starts_with("4 ghost connections, not below 3: open is 12, the kernel has 8"),
            "{said}"
        );
        assert!(said.contains("CLOSE_WAIT"), "{said}");
        assert_eq!(ghosts(&running).as_deref(), Some("4"));
        // It counts fewer than there are: what waits to be accepted, say.
        server.set(status(200, "open 1\n"));
        until(&mut running, "it counts few", passes).await;
        assert_eq!(ghosts(&running).as_deref(), Some("0"));
        // Unknown is no number.
        server.set(status(403, ""));
        until(&mut running, "the page is refused", |outcome| {
            matches!(outcome, Outcome::Unknown { .. })
        })
        .await;
        assert_eq!(ghosts(&running), None);
        server.set(status(200, "open -1\n"));
        let said = until(&mut running, "it is nonsense", |o| {
            words(o.clone()).contains("no number")
        })
        .await;
        assert_eq!(said, "open is -1, which is no number of connections");
        // Nobody listens any more: that everything it counts is gone proves nothing about what it counts.
        server.set(status(200, "open 12\n"));
        drop(listener);
        let said = until(&mut running, "nobody listens", |o| {
            words(o.clone()).contains("listens")
        })
        .await;
        assert!(
            said.starts_with(&format!("nobody listens on port {port} here")),
            "{said}"
        );
    }
}

/// A sample as the reference reads it: its name, labels and value.
type Reference = (String, Labels, String);

/// Our reader beside those of prometheus_client, which is where the formats come from.
#[test]
fn pages_are_read_as_the_reference_reads_them() {
    let Some(python) = Python::newest() else { return };
    let pages = [
        ("plain", "# HELP a b\n# TYPE a gauge\na{x=\"1\"} 3\n"),
        ("untyped", "a{x=\"1\"} 3\nb 4\n"),
        ("timestamps", "a 3 1395066363000\nb{x=\"y\"} 4 -5\n"),
        ("comments", "# a comment\n\n#\n#TYPE a\na 3\n"),
        ("java", "a{x=\"1\",} 3\n"),
        ("empty", "a{} 3\n"),
        ("braces", "a{x=\"/u/{id}\",y=\"a,b=c\"} 3\n"),
        ("escapes", "a{x=\"q\\\"n\\nb\\\\\"} 3\n"),
        (
            "blanks",
            "  a{x=\"1\"} 3\na {x=\"2\"}\t3\na{ x=\"3\" }   3  \na{x=\"4\" , y=\"2\"} 3\n",
        ),
        ("numbers", "a +Inf\nb -Inf\nc 1e9\nd .5\ne 5.\nf -0\n"),
        ("lone", "# HELP b c\n# TYPE b counter\n# TYPE a gauge\na 3\n"),
        ("utf8", "a{x=\"☃\"} 3\n"),
        ("bad-value", "a three\n"),
        ("bad-open", "a{x=\"1\n"),
        ("bad-html", "<html></html>\n"),
        (
            "counter.om",
            "# TYPE a counter\na_total{x=\"1\"} 3.0 1520879607.789 # {t=\"1\"} 0.6\na_created{x=\"1\"} 1.5e9 1520879607.789\n# EOF\n",
        ),
        (
            "histogram.om",
            "# TYPE h histogram\nh_bucket{le=\"1.0\"} 1\nh_bucket{le=\"+Inf\"} 1\nh_count 1\nh_sum 1.0\n# EOF\n",
        ),
        (
            "info.om",
            "# TYPE i info\ni_info{v=\"1\"} 1\n# TYPE g gauge\n# UNIT g_seconds seconds\ng 1\n# EOF\n",
        ),
        ("bad-more.om", "# TYPE a gauge\na 1\n# EOF\nb 1\n"),
    ];
    let dir = tempfile::tempdir().unwrap();
    for (name, page) in pages {
        std::fs::write(dir.path().join(name), page).unwrap();
    }
    let mut script = python.spawn("exposition.py", &[dir.path().to_str().unwrap()]);
    let mut compared = 0;
    for _ in pages {
        let (name, reference): (String, Option<Vec<Reference>>) =
            serde_json::from_str(&script.line()).unwrap();
        let page = pages.iter().find(|(known, _)| *known == name).unwrap().1;
        let any: Selector = "a".parse().unwrap();
        let ours = Page::parse(page.as_bytes(), &any);
        let Some(reference) = reference else {
            // `info.om` breaks a rule of families (`g_seconds` is another one), which no reading of values needs.
            assert!(
                ours.is_err() || name == "info.om",
                "{name}: the reference refuses it, we read {ours:?}"
            );
            continue;
        };
        assert!(ours.is_ok(), "{name}: {ours:?}");
        for (metric, labels, value) in reference {
            let wanted: Selector = metric.parse().unwrap();
            let page = Page::parse(page.as_bytes(), &wanted).unwrap();
            let ours = page.series.iter().find(|series| series.labels == labels);
            let value: f64 = value.parse().unwrap();
            assert_eq!(
                ours.map(|series| series.value),
                Some(value),
                "{name}: {metric} {labels:?}"
            );
            compared += 1;
        }
    }
    assert!(compared > 20, "{compared}");
}
