//! From a verdict to a remedy, or to none: scenarios 10, 13, 15 (grace), 36, 45, 46.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use defib::engine::peer::Liveness;
use rustix::process::Signal;

use super::{config, parts};
use crate::support::application::{Application, IDLE, Site};
use crate::support::node::{Node, get};
use crate::support::redis_server::{RedisServer, there};
use crate::support::until;

/// A peer `app` with this owner, checked each 200 ms by its process and by `checks`, healed by its restart.
fn app(application: &Application, checks: &str, rest: &str) -> String {
    format!(
        r#"
        [peer.app]
        owner = {}
        grace = "1s"
        backoff = {{ initial = "200ms" }}
        checks.process = {{ interval = "200ms", fail_after = "2 of 2" }}
        {checks}
        {rest}
        "#,
        application.owner(),
    )
}

fn by_restart(application: &Application) -> String {
    format!(
        "remedies = [{{ do = \"exec\", command = {}, verify_within = \"5s\" }}]",
        application.restart()
    )
}

#[test]
fn s10_an_ignored_component_restarts_nobody_and_any_other_does() {
    if !there() {
        return;
    }
    let server = RedisServer::start();
    let site = Site::start();
    let body = |healthy: bool, bus: bool, cloud: bool| {
        format!(
            r#"{{"healthy": {healthy}, "components": {{"bus": {{"healthy": {bus}}}, "cloud": {{"healthy": {cloud}}}}}}}"#
        )
    };
    site.set("/health", 200, &body(true, true, true));
    let application = Application::start(&IDLE);
    let checks = format!(
        "checks.http = {{ url = {:?}, json = \"healthy\", equals = true, ignore = [\"cloud\"], \
         interval = \"200ms\", fail_after = \"3 of 3\" }}",
        site.url("/health")
    );
    let node = Node::run(&config(
        &server.url(),
        &app(&application, &checks, &by_restart(&application)),
    ));
    node.is_calm();
    let events = node.events();

    site.set("/health", 200, &body(false, true, false));
    site.is_asked("/health", 10);
    assert_eq!(node.peer("app").liveness, Liveness::Alive);
    assert!(events.all().is_empty(), "{:#?}", events.all());

    site.set("/health", 200, &body(false, false, true));
    let granted = events.of("app", "granted");
    assert_eq!(granted["cause"], "peer_stuck", "{granted}");
    site.set("/health", 200, &body(true, true, true));
    events.of("app", "recovered");
    assert_eq!(application.starts(), 2);
}

#[test]
fn s10_with_the_car_off_silence_is_not_expected_and_with_the_car_on_it_counts() {
    if !there() {
        return;
    }
    let server = RedisServer::start();
    let site = Site::start();
    let car = |seen_s_ago: u32| {
        site.set(
            "/car",
            200,
            &format!(r#"{{"car": {{"seen_s_ago": {seen_s_ago}}}}}"#),
        );
    };
    let application = Application::start(&IDLE);
    let expectation = format!(
        "[when.car]\nhttp = {:?}\njson = \"car.seen_s_ago\"\nbelow = 5\ninterval = \"200ms\"\n",
        site.url("/car")
    );
    let checks = r#"
        checks.data = { type = "traffic", channels = ["can_messages"], needs = "car", suspect_after = "1s", dead_after = "2s" }
    "#;
    car(600);
    let node = Node::run(&config(
        &server.url(),
        &format!(
            "{expectation}{}",
            app(&application, checks, &by_restart(&application))
        ),
    ));
    let data = |node: &Node| {
        let checks = node.peer("app").checks;
        checks.into_iter().find(|check| &*check.name == "data").unwrap()
    };
    until("the car was seen to be off", || {
        data(&node).detail.contains("not expected")
    });
    let events = node.events();

    // Data, then the car goes off and the data ends with it.
    car(0);
    until("the data flows", || {
        server.tell("PUBLISH can_messages x");
        data(&node).verdict == Liveness::Alive
    });
    car(600);
    until("it is not expected any more", || {
        data(&node).verdict == Liveness::Unknown
    });
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(data(&node).verdict, Liveness::Unknown);
    assert!(events.named("granted").is_empty(), "{:#?}", events.all());

    // The same silence with the car on.
    car(0);
    let granted = events.of("app", "granted");
    assert_eq!(granted["cause"], "peer_silent", "{granted}");
    until("it was restarted", || application.starts() == 2);
}

#[test]
fn s13_a_peer_that_stays_dead_is_given_up_and_everybody_is_told() {
    if !there() {
        return;
    }
    let server = RedisServer::start();
    let site = Site::start();
    site.set("/health", 200, "");
    let application = Application::start(&IDLE);
    let checks = format!(
        "checks.http = {{ url = {:?}, interval = \"200ms\", fail_after = \"2 of 2\" }}",
        site.url("/health")
    );
    let rest = format!(
        "budget = {{ count = 2, window = \"10m\" }}\n\
         remedies = [{{ do = \"exec\", command = {}, verify_within = \"1s\" }}]",
        application.restart()
    );
    let node = Node::run(&config(&server.url(), &app(&application, &checks, &rest)));
    node.is_calm();
    let events = node.events();

    // Each restart makes a new life, and none of them is well.
    site.set("/health", 500, "");
    let gave_up = events.of("app", "gave_up");
    assert_eq!(gave_up["remedies"], 2, "{gave_up}");
    let granted = events.named("granted");
    let attempts: Vec<_> = granted.iter().map(|notice| &notice["attempt"]).collect();
    assert_eq!(attempts, [1, 2]);
    assert_eq!(node.count("defib_gave_up{peer=\"app\"}"), 1);
    assert_eq!(node.count("defib_peer_budget_left{peer=\"app\"}"), 0);
    let (code, said) = node.tool(&["explain", "app"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("given up"), "{said}");
    assert_eq!(node.code("/healthz/app"), 200, "a given-up peer fails no probe");

    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(application.starts(), 3, "nothing is done any more");
    // Still watched: it may recover by itself.
    site.set("/health", 200, "");
    events.of("app", "recovered");
    assert_eq!(node.count("defib_gave_up{peer=\"app\"}"), 0);
}

#[test]
fn s15_a_peer_that_takes_its_time_to_start_is_not_restarted_again() {
    if !there() {
        return;
    }
    let server = RedisServer::start();
    let site = Site::start();
    site.set("/health", 200, "");
    let application = Application::start(&IDLE);
    let checks = format!(
        "checks.http = {{ url = {:?}, interval = \"200ms\", fail_after = \"2 of 2\" }}",
        site.url("/health")
    );
    // Proof is asked for long before its grace ends: what follows must be held by the grace alone.
    let rest = format!(
        "remedies = [{{ do = \"exec\", command = {}, verify_within = \"1s\" }}]",
        application.restart()
    );
    let peer = app(&application, &checks, &rest).replace("grace = \"1s\"", "grace = \"20s\"");
    let node = Node::run(&config(&server.url(), &peer));
    node.is_calm();
    let events = node.events();

    site.set("/health", 503, "starting");
    events.of("app", "acted");
    site.is_asked("/health", 20);
    assert_eq!(application.starts(), 2, "{:#?}", events.all());
    assert_eq!(events.named("granted").len(), 1, "{:#?}", events.all());
    site.set("/health", 200, "");
    events.of("app", "recovered");
    assert_eq!(application.starts(), 2);
}

#[test]
fn s36_a_dry_run_says_all_and_does_nothing() {
    if !there() {
        return;
    }
    let server = RedisServer::start();
    let application = Application::start(&IDLE);
    let peer = app(&application, "", &by_restart(&application));
    let node = Node::run(&format!("dry_run = true\n{}", config(&server.url(), &peer)));
    node.is_calm();
    let events = node.events();

    application.kill();
    let would = events.of("app", "would_heal");
    assert_eq!(
        (&would["kind"], &would["cause"]),
        (&"exec".into(), &"peer_exited".into())
    );
    let acted = events.of("app", "acted");
    assert_eq!(acted["outcome"], "dry_run", "{acted}");
    let (_, said) = node.tool(&["explain", "app"]);
    assert!(said.contains("dry run"), "{said}");
    until("it is counted as such", || {
        node.count("defib_remedies_total{outcome=\"dry_run\",peer=\"app\",remedy=\"exec\"}") == 1
    });
    assert_eq!(node.count("defib_dry_run"), 1);
    assert_eq!(
        node.count("defib_remedies_granted_total{cause=\"peer_exited\",peer=\"app\",remedy=\"exec\"}"),
        0
    );
    assert!(node.log().contains("dry run"), "{}", node.log());
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!((application.starts(), application.runs()), (1, false));
}

#[test]
fn s45_a_pulse_that_no_probe_sees_is_said_not_to_be_wired_and_one_that_is_seen_heals() {
    if !there() {
        return;
    }
    let server = RedisServer::start();
    let application = Application::start(&IDLE);
    let remedies = "healthz_hold = \"20s\"\nremedies = [{ do = \"healthz\", verify_within = \"10s\" }]";
    let node = Node::run(&config(&server.url(), &app(&application, "", remedies)));
    node.is_calm();
    let events = node.events();
    let (_, said) = node.tool(&["explain", "app"]);
    assert!(said.contains("the remedy is not wired"), "{said}");
    assert_eq!(node.count("defib_healthz_wired{peer=\"app\"}"), 0);

    assert_eq!(node.code("/healthz/app"), 200);
    let (_, said) = node.tool(&["explain", "app"]);
    assert!(!said.contains("not wired"), "{said}");
    assert_eq!(node.count("defib_healthz_wired{peer=\"app\"}"), 1);

    application.signal(Signal::STOP);
    let granted = events.of("app", "granted");
    assert_eq!(granted["cause"], "peer_stuck", "{granted}");
    until("the pulse is to be seen", || node.code("/healthz/app") == 503);
    assert_eq!(node.code("/healthz"), 503, "it is that of the only one");
    assert_eq!(node.code("/livez"), 200);
    // What a kubelet does then.
    application.start_again();
    until("the pulse ends with the new life", || {
        node.code("/healthz/app") == 200
    });
    events.of("app", "recovered");
}

#[test]
fn s46_a_drain_waits_for_the_last_connection_and_no_longer_than_its_deadline_and_cuts_none() {
    let Some(python) = parts() else { return };
    let server = RedisServer::start();
    for (leaves, deadline) in [(true, "25s"), (false, "2s")] {
        let application = Application::start(&python.words("drainable.py", &[]));
        let address = drainable(&application);
        let url = |path: &str| format!("\"http://{address}{path}\"");
        let checks = format!(
            "checks.http = {{ url = {}, interval = \"200ms\", fail_after = \"2 of 2\" }}",
            url("/health")
        );
        let remedy = format!(
            "remedies = [{{ do = \"http\", url = {}, verify_within = \"20s\", \
             until = {{ url = {}, json = \"open\", equals = 0, deadline = \"{deadline}\", interval = \"200ms\" }} }}]",
            url("/__internal/drain"),
            url("/connections")
        );
        let node = Node::run(&config(&server.url(), &app(&application, &checks, &remedy)));
        node.is_calm();
        let events = node.events();
        let mut clients: Vec<_> = (0..2).map(|_| stream(address)).collect();

        get(address, "/sick");
        events.of("app", "granted");
        until("it was asked to drain", || {
            get(address, "/connections").1.contains("\"drains\": 1")
        });
        if leaves {
            // One leaves, one stays: it waits for that one.
            clients.pop();
            std::thread::sleep(Duration::from_secs(1));
            assert!(events.named("acted").is_empty(), "{:#?}", events.all());
            assert!(clients.iter_mut().all(is_open), "a live connection was cut");
            clients.pop();
        }
        let acted = events.of("app", "acted");
        assert_eq!(acted["outcome"], "acted", "{acted}");
        assert!(clients.iter_mut().all(is_open), "a live connection was cut");
        assert!(application.runs() && application.starts() == 1, "nothing was cut");
        let state = get(address, "/connections").1;
        assert!(state.contains("\"drains\": 1"), "asked once: {state}");
        get(address, "/well");
        events.of("app", "recovered");
    }
}

/// Where it listens.
fn drainable(application: &Application) -> SocketAddr {
    let mut port = None;
    until("it says its port", || {
        let log = application.log();
        port = log
            .lines()
            .find_map(|line| line.strip_prefix("port ")?.parse().ok());
        port.is_some()
    });
    SocketAddr::from(([127, 0, 0, 1], port.unwrap()))
}

/// A connection that its server holds open.
fn stream(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream.write_all(b"GET /stream HTTP/1.0\r\n\r\n").unwrap();
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        head.extend(byte);
    }
    assert!(String::from_utf8_lossy(&head).contains(" 200 "));
    stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    stream
}

fn is_open(stream: &mut TcpStream) -> bool {
    // Nothing more is sent on it: an answer is its end.
    stream
        .read(&mut [0])
        .is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
}
