//! The node itself: its end, its parts, its own pauses, an operator's: scenarios 24, 25, 26, 31, 35.

use std::process::Command;
use std::time::Duration;

use defib::engine::peer::Liveness;
use defib::engine::self_trust::BusState;
use rustix::process::Signal;

use super::{config, parts};
use crate::support::application::{Application, IDLE};
use crate::support::node::{Node, defib};
use crate::support::redis_server::{RedisServer, there};
use crate::support::{available, until};

fn app(application: &Application, command: &str) -> String {
    format!(
        r#"
        [peer.app]
        owner = {}
        grace = "1s"
        backoff = {{ initial = "200ms" }}
        checks.process = {{ interval = "200ms", fail_after = "2 of 2" }}
        remedies = [{{ do = "exec", command = {command}, timeout = "60s" }}]
        "#,
        application.owner(),
    )
}

/// While it drains, it is held up by a remedy that takes longer than its deadline.
#[test]
fn s24_a_drain_is_to_be_seen_heals_nobody_says_goodbye_and_ends() {
    if !there() {
        return;
    }
    for by_signal in [true, false] {
        let server = RedisServer::start();
        let (slow, late) = (Application::start(&IDLE), Application::start(&IDLE));
        let slow_peer = app(&slow, "[\"sleep\", \"60\"]").replace("peer.app", "peer.slow");
        let peers = format!(
            "[shutdown]\ndeadline = \"4s\"\n[budget]\nspacing = \"0s\"\ndown_percent = 100\n{slow_peer}{}",
            app(&late, &late.restart())
        );
        let text = config(&server.url(), &peers).replacen("[budget]\n        spacing = \"0s\"", "", 1);
        let mut node = Node::run(&text);
        let other = Node::run(
            &config(
                &server.url(),
                "[peer.a]\nchecks.heartbeat = { node = \"a\" }\nremedies = [{ do = \"log\" }]",
            )
            .replace("\"a\"\n", "\"b\"\n"),
        );
        node.is_calm();
        other.is_calm();
        let (events, others) = (node.events(), other.events());
        slow.kill();
        events.of("slow", "granted");

        if by_signal {
            node.signal(Signal::TERM);
        } else {
            let (code, said) = node.admin(&["drain"]);
            assert_eq!(code, Some(0), "{said}");
        }
        until("/readyz says that it drains", || node.code("/readyz") == 503);
        assert!(
            node.get("/readyz?verbose").1.contains("drain"),
            "{}",
            node.get("/readyz?verbose").1
        );
        for path in ["/livez", "/healthz", "/healthz/app", "/readyz/app"] {
            assert_eq!(node.code(path), 200, "{path}");
        }
        late.kill();
        others.of("a", "goodbye");
        assert_eq!(node.exit_code(), Some(0), "{}", node.log());
        assert!(node.log().contains("did not end"), "{}", node.log());
        assert_eq!(late.starts(), 1, "nobody is healed while it drains");
        // It left: its silence is nobody's fault.
        std::thread::sleep(Duration::from_secs(6));
        assert_eq!(other.peer("a").liveness, Liveness::Unknown);
        others.blame_nobody();
    }
}

#[test]
fn s25_s26_the_node_counts_its_own_parts_and_they_survive_an_outage() {
    if !there() {
        return;
    }
    let mut server = RedisServer::start();
    let application = Application::start(&IDLE);
    let node = Node::run(&config(&server.url(), &app(&application, &application.restart())));
    node.is_calm();
    let running = |node: &Node| -> Vec<String> {
        let text = node.get("/metrics").1;
        let mut lines: Vec<_> = text
            .lines()
            .filter(|line| line.starts_with("defib_tasks_running{"))
            .map(str::to_owned)
            .collect();
        lines.sort();
        lines
    };
    let before = running(&node);
    for task in ["bus", "http", "loop", "store", "sd_notify"] {
        let line = format!("defib_tasks_running{{task=\"{task}\"}} 1");
        assert!(before.contains(&line), "{line} is not in {before:#?}");
    }
    let events = node.events();
    server.kill();
    events.bus("broker_unreachable");
    server.restart();
    node.is_calm();
    application.kill();
    events.of("app", "recovered");
    // The remedy's own task has come and gone.
    let mut after = running(&node);
    after.retain(|line| !line.starts_with("defib_tasks_running{task=\"remedy") || !line.ends_with(" 0"));
    assert_eq!(after, before, "every gauge is back at its value");
    let metrics = node.get("/metrics").1;
    let bad = ["error", "panic"].map(|reason| format!("reason=\"{reason}\""));
    for line in metrics
        .lines()
        .filter(|line| line.starts_with("defib_task_exits_total"))
    {
        let failed = bad.iter().any(|reason| line.contains(reason));
        assert!(!failed || line.ends_with(" 0"), "{line}");
    }
    for name in [
        "defib_drain_seconds",
        "defib_fanout_failures_total",
        "defib_fanout_seconds",
        "defib_task_exits_total",
    ] {
        assert!(metrics.contains(&format!("# TYPE {name} ")), "{name} is missing");
    }
    let log = node.log();
    assert!(!log.contains("panicked"), "{log}");
}

/// 60 s of the scenario are shortened to 8 s, well beyond `dead_after`; engine::tests::s31 has all of them. The
/// wall clock's jump is tested there too: what the node judges by never reads it.
#[test]
fn s31_own_pauses_change_no_verdict_and_the_node_judges_on() {
    let Some(python) = parts() else { return };
    let server = RedisServer::start();
    let port = server.port().to_string();
    let sender = python.spawn("sender.py", &[&port, "telemetry_heartbeat", "0.3"]);
    let application = Application::start(&IDLE);
    let feed = r#"
        [peer.feed]
        single_observer = true
        checks.heartbeat = { channel = "telemetry_heartbeat", suspect_after = "2s", dead_after = "4s" }
        remedies = [{ do = "exec", command = ["false"] }]
    "#;
    let node = Node::run(&config(
        &server.url(),
        &format!("{feed}{}", app(&application, &application.restart())),
    ));
    node.is_calm();
    let events = node.events();
    for pause in [200, 3000, 8000] {
        let stalls = node.snapshot().trust.stalls;
        node.signal(Signal::STOP);
        std::thread::sleep(Duration::from_millis(pause));
        node.signal(Signal::CONT);
        if pause > 1000 {
            node.sees("it noticed its own pause", |snapshot| {
                snapshot.trust.stalls > stalls
            });
        }
        node.is_calm();
        until("it is ready again", || node.code("/readyz") == 200);
    }
    events.blame_nobody();
    drop(sender);
    events.one("it judges on", |notice| {
        notice["peer"] == "feed" && notice["to"] == "dead"
    });
}

#[test]
fn s31_a_time_namespace_changes_nothing() {
    // The offset is that of the child.
    let enter = [
        "unshare",
        "--fork",
        "--kill-child",
        "--time",
        "--boottime",
        "1000000",
        "--monotonic",
        "5000",
    ];
    let shown = Command::new(enter[0])
        .args(&enter[1..])
        .args(["cat", "/proc/uptime"])
        .output();
    // A machine that has been up for eleven days is not one of tests.
    let usable = shown.is_ok_and(|output| output.stdout.iter().position(|byte| *byte == b'.') >= Some(7));
    if !available("time namespaces (root, unshare --time)", usable) || !there() {
        return;
    }
    let server = RedisServer::start();
    let application = Application::start(&IDLE);
    let node = Node::run_with(
        &enter,
        &config(&server.url(), &app(&application, &application.restart())),
    );
    node.is_calm();
    assert_eq!(node.snapshot().trust.bus, BusState::Trusted);
    assert_eq!(node.snapshot().trust.stalls, 0);
    let events = node.events();
    application.kill();
    events.of("app", "recovered");
    assert_eq!(application.starts(), 2);
}

#[test]
fn s35_a_pause_survives_a_restart_of_the_node_judges_on_and_expires_by_itself() {
    if !there() {
        return;
    }
    let server = RedisServer::start();
    let application = Application::start(&IDLE);
    let mut node = Node::run(&config(&server.url(), &app(&application, &application.restart())));
    node.is_calm();
    let (code, said) = node.admin(&["pause", "app", "--reason", "a deploy", "--for", "12s"]);
    assert_eq!(code, Some(0), "{said}");
    application.signal(Signal::STOP);
    node.sees("it is still judged", |snapshot| {
        snapshot.peers[0].liveness == Liveness::Dead
    });
    let (_, said) = node.tool(&["explain", "app"]);
    assert!(said.contains("paused") && said.contains("a deploy"), "{said}");
    assert_eq!(node.count("defib_paused{peer=\"app\",scope=\"peer\"}"), 1);

    node.signal(Signal::TERM);
    assert_eq!(node.exit_code(), Some(0), "{}", node.log());
    node.start_again();
    let events = node.events();
    let pause = node.peer("app").pause.expect("the pause is kept");
    assert_eq!(pause.reason, "a deploy");
    assert!(pause.until.is_some(), "{pause:?}");
    node.sees("it is judged again", |snapshot| {
        snapshot.peers[0].liveness == Liveness::Dead
    });
    assert!(node.peer("app").pause.is_some(), "{}", node.log());
    assert_eq!(application.starts(), 1, "nothing is done to what is paused");

    // It was stuck before, and is still: once the pause is over, it is healed.
    let granted = events.of("app", "granted");
    assert_eq!(granted["cause"], "peer_stuck", "{granted}");
    assert!(node.peer("app").pause.is_none());
    events.of("app", "recovered");
    assert_eq!(application.starts(), 2);
}

#[test]
fn s35_an_operator_who_resumes_ends_a_pause() {
    let application = Application::start(&IDLE);
    let node = Node::run(&config("embedded", &app(&application, &application.restart())));
    node.is_calm();
    let (code, said) = node.admin(&["pause", "--reason", "maintenance"]);
    assert_eq!(code, Some(0), "{said}");
    node.sees("the node is paused", |snapshot| snapshot.pause.is_some());
    assert_eq!(node.count("defib_paused{peer=\"\",scope=\"node\"}"), 1);
    let (code, said) = node.admin(&["resume"]);
    assert_eq!(code, Some(0), "{said}");
    node.sees("it is not any more", |snapshot| snapshot.pause.is_none());
    // Whoever names a peer that is not there is told, and nothing is paused.
    let socket = node.dir().join("admin.sock");
    let (code, said) = defib(&[
        "pause",
        "nobody",
        "--reason",
        "x",
        "--admin-socket",
        socket.to_str().unwrap(),
    ]);
    assert_ne!(code, Some(0), "{said}");
    assert!(said.contains("app"), "it names who is there: {said}");
}
