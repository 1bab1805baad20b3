//! Units of a real systemd: scenario 43, and what an owner that is a unit promises.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Duration;

use defib::engine::decision::Grant;
use defib::engine::event::{Incarnation, RemedyOutcome};
use defib::engine::peer::Liveness;
use defib::owner_table::OwnerTable;
use defib::remedies::{Remedy, Signal, Surroundings, SystemdAct, UnitAction};
use defib::systemd::{Active, Scope, Settings, Systemd, UnitRef, Whom};
use serde_json::Value;

use crate::remedies::{executors, grant, life, surroundings};
use crate::support::node::Node;
use crate::support::systemd::Machine;
use crate::support::until;

pub(crate) const IDLE: &str = "ExecStart=/bin/sleep 100000";
pub(crate) const RESTART: &str = r#"remedies = [{ do = "systemd", verify_within = "20s" }]"#;

fn config(machine: &Machine, peers: &str) -> String {
    format!(
        "node = \"n\"\n[bus]\nsettle = \"1s\"\n[budget]\nspacing = \"0s\"\n[systemd]\nsystem_bus = \"{}\"\n{peers}",
        machine.bus().display()
    )
}

/// The same as it is written in there.
pub(crate) fn config_inside(machine: &Machine, rest: &str) -> String {
    let outside = machine.bus().display().to_string();
    config(machine, &feed(rest)).replace(&outside, "/run/dbus/system_bus_socket")
}

/// A peer `feed`, which is `feed.service`, and `rest`.
fn feed(rest: &str) -> String {
    format!(
        "[peer.feed]\nowner = {{ unit = \"feed\" }}\ngrace = \"1s\"\nbackoff = {{ initial = \"200ms\" }}\n\
         checks.process = {{ interval = \"200ms\" }}\n{rest}\n"
    )
}

fn node(machine: &Machine, rest: &str) -> Node {
    let node = Node::run(&config(machine, &feed(rest)));
    node.is_calm();
    node
}

/// The same in the namespaces of that systemd.
fn node_inside(machine: &Machine, rest: &str) -> Node {
    let wrapper = machine.wrapper();
    let wrapper: Vec<&str> = wrapper.iter().map(String::as_str).collect();
    let node = Node::run_apart_below(machine.dir(), &wrapper, &config_inside(machine, rest));
    node.is_calm();
    node
}

fn nothing_was_done(node: &Node, events: &[Value]) {
    for notice in events {
        assert!(
            !matches!(notice["event"].as_str(), Some("granted" | "acted" | "would_heal")),
            "{notice:#}"
        );
    }
    assert_eq!(node.peer("feed").remedies_granted, 0);
}

fn is_left_alone(node: &Node, word: &str) {
    node.sees(word, |snapshot| {
        let peer = &snapshot.peers[0];
        peer.liveness == Liveness::Unknown && peer.detail.contains(word) && peer.episode.is_none()
    });
}

#[test]
fn s43_a_unit_that_fails_is_started_again_and_proves_it_by_a_new_invocation() {
    let Some(machine) = Machine::boot() else { return };
    machine.service("feed.service", IDLE);
    let node = node(&machine, RESTART);
    let before = node.peer("feed").incarnation.unwrap();
    assert_eq!(
        &*before.0,
        format!("unit:{}", machine.show("feed", "InvocationID"))
    );
    let events = node.events();

    machine.crash("feed");
    let granted = events.of("feed", "granted");
    assert_eq!(granted["cause"], "peer_exited", "{granted}");
    events.of("feed", "recovered");
    assert_eq!(machine.show("feed", "ActiveState"), "active");
    let after = node.peer("feed").incarnation.unwrap();
    assert_ne!(after, before);
    assert_eq!(
        &*after.0,
        format!("unit:{}", machine.show("feed", "InvocationID"))
    );
    assert_eq!(node.peer("feed").remedies_granted, 1);
}

#[test]
fn s43_what_an_operator_stops_stays_stopped_and_a_deploy_is_a_new_life() {
    let Some(machine) = Machine::boot() else { return };
    machine.service("feed.service", IDLE);
    let node = node(&machine, RESTART);
    let events = node.events();
    let first = node.peer("feed").incarnation.unwrap();

    machine.must(&["stop", "feed"]);
    is_left_alone(&node, "stopped");
    machine.must(&["start", "feed"]);
    node.is_calm();
    assert_ne!(node.peer("feed").incarnation.unwrap(), first);

    // A deploy.
    machine.must(&["restart", "feed"]);
    node.sees("another life", |snapshot| {
        let life = snapshot.peers[0].incarnation.as_ref();
        life.is_some_and(|life| life.0.ends_with(&machine.show("feed", "InvocationID")))
    });
    node.is_calm();

    // Ends with 0, which is its end.
    machine.service(
        "feed.service",
        "ExecStart=/bin/sh -c 'trap \"exit 0\" USR1; while :; do sleep 0.1; done'",
    );
    machine.must(&["restart", "feed"]);
    node.is_calm();
    machine.must(&["kill", "-s", "USR1", "--kill-who=main", "feed"]);
    is_left_alone(&node, "has ended well");
    nothing_was_done(&node, &events.all());
    assert_eq!(machine.show("feed", "ActiveState"), "inactive");
}

#[test]
fn s43_a_stop_that_ends_as_a_failure_is_still_a_stop() {
    let Some(machine) = Machine::boot() else { return };
    // As a Java program does; and one that does not end in time, which systemd kills.
    for (lines, result) in [
        (
            "ExecStart=/bin/sh -c 'trap \"exit 143\" TERM; while :; do sleep 0.1; done'",
            "exit-code",
        ),
        (
            "TimeoutStopSec=300ms\nExecStart=/bin/sh -c 'trap \"\" TERM; while :; do sleep 0.1; done'",
            "timeout",
        ),
    ] {
        machine.service("feed.service", lines);
        let node = node(&machine, RESTART);
        let events = node.events();
        machine.must(&["stop", "feed"]);
        assert_eq!(machine.show("feed", "ActiveState"), "failed");
        assert_eq!(machine.show("feed", "Result"), result);
        is_left_alone(&node, "asked for");
        nothing_was_done(&node, &events.all());
        assert_eq!(machine.show("feed", "ActiveState"), "failed", "{result}");
    }
}

#[test]
fn s43_what_systemd_itself_restarts_is_left_to_it_until_it_gives_up() {
    let Some(machine) = Machine::boot() else { return };
    machine.write_unit(
        "feed.service",
        "[Unit]\nStartLimitIntervalSec=1h\nStartLimitBurst=3\n\
         [Service]\nRestart=on-failure\nRestartSec=500ms\nExecStart=/bin/sleep 100000\n",
    );
    machine.must(&["start", "feed"]);
    let node = node(&machine, RESTART);
    let events = node.events();
    for _ in 0..2 {
        let before = machine.show("feed", "InvocationID");
        machine.crash("feed");
        machine.until("feed", "InvocationID", |now| now != before);
        machine.until("feed", "ActiveState", |now| now == "active");
        node.sees("that life", |snapshot| {
            let life = snapshot.peers[0].incarnation.as_ref();
            life.is_some_and(|life| !life.0.ends_with(&before))
        });
        node.is_calm();
    }
    nothing_was_done(&node, &events.all());

    // The next start is one too many for systemd.
    machine.crash("feed");
    let granted = events.of("feed", "granted");
    assert_eq!(granted["cause"], "peer_exited", "{granted}");
    // It had recovered by itself before.
    machine.until("feed", "ActiveState", |now| now == "active");
    node.is_calm();
    assert_eq!(node.peer("feed").remedies_granted, 1);
}

#[test]
fn s43_who_is_stopped_after_it_failed_is_left_alone_too() {
    let Some(machine) = Machine::boot() else { return };
    machine.service("feed.service", IDLE);
    // There is time to think before the first remedy.
    let node = Node::run(&config(&machine, &feed(RESTART)).replace("settle = \"1s\"", "settle = \"20s\""));
    node.sees("it is alive", |snapshot| {
        snapshot.peers[0].liveness == Liveness::Alive
    });
    let events = node.events();
    machine.crash("feed");
    node.sees("it is dead", |snapshot| {
        snapshot.peers[0].liveness == Liveness::Dead
    });
    assert_eq!(machine.show("feed", "ActiveState"), "failed");
    // Nothing changes for systemd: it has failed before, and has failed now.
    machine.must(&["stop", "feed"]);
    assert_eq!(machine.show("feed", "ActiveState"), "failed");
    is_left_alone(&node, "was stopped since");
    nothing_was_done(&node, &events.all());
}

#[test]
fn a_unit_that_had_failed_before_is_left_alone_until_it_is_started() {
    let Some(machine) = Machine::boot() else { return };
    machine.service("feed.service", IDLE);
    machine.crash("feed");
    machine.until("feed", "ActiveState", |now| now == "failed");
    let node = Node::run(&config(&machine, &feed(RESTART)));
    let events = node.events();
    is_left_alone(&node, "before this node looked");
    nothing_was_done(&node, &events.all());
    machine.must(&["start", "feed"]);
    node.is_calm();
    machine.crash("feed");
    events.of("feed", "recovered");
}

#[test]
fn a_stuck_unit_is_restarted_and_a_systemd_that_starts_anew_is_followed() {
    let Some(machine) = Machine::boot() else { return };
    machine.service("feed.service", IDLE);
    // In its pid namespace: there its main process can be seen to be stopped.
    let node = node_inside(&machine, RESTART);
    let events = node.events();
    machine.must(&["daemon-reexec"]);
    node.is_calm();
    let before = machine.show("feed", "InvocationID");
    machine.must(&["kill", "-s", "STOP", "feed"]);
    let granted = events.of("feed", "granted");
    assert_eq!(granted["cause"], "peer_stuck", "{granted}");
    events.of("feed", "recovered");
    assert_ne!(machine.show("feed", "InvocationID"), before);
    assert_eq!(node.peer("feed").remedies_granted, 1);
}

#[test]
fn a_start_that_hangs_is_a_failure_once_it_lasts_too_long() {
    let Some(machine) = Machine::boot() else { return };
    let hang = machine.dir().join("hang");
    let lines = format!(
        "Type=notify\nNotifyAccess=all\nTimeoutStartSec=infinity\n\
         ExecStart=/bin/sh -c 'test -e {} || systemd-notify --ready; exec sleep 100000'",
        hang.display()
    );
    machine.service("feed.service", &lines);
    let check =
        "checks.systemd = { interval = \"200ms\", settle_within = \"2s\", fail_after = \"1 of 1\" }\n";
    let node = node(&machine, &format!("{check}{RESTART}"));
    let events = node.events();
    std::fs::write(&hang, "").unwrap();
    machine.must(&["restart", "--no-block", "feed"]);
    machine.until("feed", "ActiveState", |now| now == "activating");
    let hangs = machine.show("feed", "InvocationID");
    let granted = events.of("feed", "granted");
    assert_eq!(granted["cause"], "peer_stuck", "{granted}");
    // It hangs again: what was done is no success, and the job that hangs is told.
    machine.until("feed", "InvocationID", |now| now != hangs);
    std::fs::remove_file(&hang).unwrap();
    machine.must(&["kill", "-s", "KILL", "feed"]);
    events.of("feed", "recovered");
    machine.until("feed", "ActiveState", |now| now == "active");
}

#[test]
fn s43_one_that_stays_up_after_its_work_does_not_crash_when_its_stop_fails() {
    let Some(machine) = Machine::boot() else { return };
    machine.service(
        "feed.service",
        "Type=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\nExecStop=/bin/false",
    );
    let node = node(&machine, RESTART);
    let events = node.events();
    machine.must(&["stop", "feed"]);
    assert_eq!(machine.show("feed", "ActiveState"), "failed");
    is_left_alone(&node, "asked for");
    nothing_was_done(&node, &events.all());
}

/// systemd gave up on it, and this node has it forget that: a start that fails then is no stop.
#[test]
fn what_does_not_start_although_its_failures_were_forgotten_was_not_stopped() {
    let Some(machine) = Machine::boot() else { return };
    let needed = machine.dir().join("needed");
    std::fs::write(&needed, "").unwrap();
    machine.write_unit(
        "needed.service",
        &format!(
            "[Service]\nType=oneshot\nExecStart=/bin/test -e {}\n",
            needed.display()
        ),
    );
    machine.write_unit(
        "feed.service",
        "[Unit]\nStartLimitIntervalSec=1h\nStartLimitBurst=1\nRequires=needed.service\nAfter=needed.service\n\
         [Service]\nExecStart=/bin/sleep 100000\n",
    );
    machine.must(&["start", "feed"]);
    let node = node(&machine, &format!("budget = {{ count = 9 }}\n{RESTART}"));
    let events = node.events();
    std::fs::remove_file(&needed).unwrap();
    machine.crash("feed");
    let acted = events.of("feed", "acted");
    assert_eq!(acted["outcome"], "failed", "{acted}");
    // It is what it was, for this node, and goes on being healed.
    node.sees("it is dead", |snapshot| {
        snapshot.peers[0].liveness == Liveness::Dead
    });
    std::fs::write(&needed, "").unwrap();
    events.of("feed", "recovered");
    assert_eq!(machine.show("feed", "ActiveState"), "active");
}

#[test]
fn an_alias_of_the_owner_is_the_owner() {
    let Some(machine) = Machine::boot() else { return };
    machine.service("feed.service", IDLE);
    std::os::unix::fs::symlink(
        "feed.service",
        machine.run_dir().join("systemd/system/other.service"),
    )
    .unwrap();
    machine.must(&["daemon-reload"]);
    let node = node(
        &machine,
        r#"remedies = [{ do = "systemd", unit = "other", action = "start", verify_within = "20s" }]"#,
    );
    let events = node.events();
    // By its own name it is started only if its failure was seen: an operator's stop is none.
    machine.must(&["stop", "other"]);
    is_left_alone(&node, "stopped");
    machine.must(&["start", "feed"]);
    node.is_calm();
    nothing_was_done(&node, &events.all());
    machine.crash("feed");
    events.of("feed", "recovered");
}

/// What is measured and done by way of a process, for an owner that is a unit: its cgroup's memory, its sockets among
/// others', a signal to its main process.
#[test]
fn a_units_own_memory_and_sockets_are_seen_and_its_main_process_gets_the_signal() {
    let Some(machine) = Machine::boot() else { return };
    if !crate::support::redis_server::there() {
        return;
    }
    let port = "6390";
    machine.service(
        "redis.service",
        &format!("ExecStart=/usr/bin/redis-server --port {port} --save ''"),
    );
    let redis = |words: &[&str]| machine.run(&[&["redis-cli", "-p", port], words].concat());
    until("Redis is up", || redis(&["ping"]).1 == "PONG");
    let subscribe = format!("ExecStart=/usr/bin/redis-cli -p {port} subscribe data");
    machine.service("feed.service", &subscribe);
    machine.service("other.service", &subscribe);
    let publish = format!(
        "ExecStart=/bin/sh -c 'while :; do redis-cli -p {port} publish data $(head -c 150 /dev/zero | tr \\0 x); sleep 0.2; done'"
    );
    machine.service("publish.service", &publish);
    let checks = "checks.subscription = { channels = [\"data\"], window = \"2s\", stuck_after = \"2s\", interval = \"300ms\", \
                  decides = \"nothing\" }\n\
                  checks.memory = { below = \"300MiB\", interval = \"200ms\", decides = \"nothing\" }\n\
                  remedies = [{ do = \"signal\", signal = \"SIGCONT\", verify_within = \"20s\" }]\n";
    let config = config_inside(&machine, checks);
    let config =
        format!("bus.url = \"redis://127.0.0.1:{port}\"\n{config}").replace("[bus]\nsettle", "bus.settle");
    let wrapper = machine.wrapper();
    let wrapper: Vec<&str> = wrapper.iter().map(String::as_str).collect();
    let node = Node::run_apart_below(machine.dir(), &wrapper, &config);
    let check = |name: &str| {
        let peer = node.peer("feed");
        peer.checks
            .iter()
            .find(|check| &*check.name == name)
            .unwrap()
            .clone()
    };
    node.sees("its own subscriber is seen", |_| {
        check("subscription").verdict == Liveness::Alive && check("memory").verdict == Liveness::Alive
    });
    node.is_calm();
    // The other's is not taken for its own.
    let events = node.events();
    let before = machine.show("feed", "InvocationID");
    machine.must(&["kill", "-s", "STOP", "other"]);
    machine.must(&["kill", "-s", "STOP", "feed"]);
    let granted = events.of("feed", "granted");
    assert_eq!(granted["cause"], "peer_stuck", "{granted}");
    events.of("feed", "recovered");
    assert_eq!(
        machine.show("feed", "InvocationID"),
        before,
        "it goes on, and was not restarted"
    );
    node.sees("its subscriber reads on", |_| {
        check("subscription").verdict == Liveness::Alive
    });
    machine.must(&["stop", "other"]);
    machine.must(&["stop", "feed"]);
    is_left_alone(&node, "stopped");
}

#[test]
fn the_bus_goes_and_comes_back() {
    let Some(machine) = Machine::boot() else { return };
    machine.service("feed.service", IDLE);
    let node = node(&machine, RESTART);
    let events = node.events();
    let life = node.peer("feed").incarnation.unwrap();
    machine.must(&["stop", "dbus.socket", "dbus.service"]);
    node.sees("that nothing can be told", |snapshot| {
        snapshot.peers[0].liveness == Liveness::Unknown
    });
    machine.must(&["start", "dbus.socket"]);
    node.is_calm();
    assert_eq!(node.peer("feed").incarnation.unwrap(), life);
    nothing_was_done(&node, &events.all());
    machine.crash("feed");
    events.of("feed", "recovered");
    until("it runs", || machine.show("feed", "ActiveState") == "active");
}

#[tokio::test]
async fn s43_a_remedy_meets_the_condemned_life_only_and_undoes_no_stop() {
    let Some(machine) = Machine::boot() else { return };
    // Its stop takes a while.
    let stubborn = "TimeoutStopSec=4s\nExecStart=/bin/sh -c 'trap \"\" TERM; while :; do sleep 0.1; done'";
    machine.service("feed.service", stubborn);
    let now = || life(&format!("unit:{}", machine.show("feed", "InvocationID")));
    let heal = async |condemned: &Incarnation, exited: bool, action: UnitAction| {
        let act = SystemdAct {
            target: UnitRef::new("feed", Scope::System).unwrap(),
            is_owner: true,
            action,
            timeout: Duration::from_secs(30),
        };
        let latest = condemned.clone();
        let around = Surroundings {
            latest: Arc::new(move |_| Some(latest.clone())),
            systemd: systemd(&machine),
            ..surroundings(OwnerTable::default())
        };
        let grant = Grant {
            exited,
            ..grant(condemned)
        };
        executors(Remedy::Systemd(act), around).heal(grant).await
    };
    let fenced = |outcome: RemedyOutcome, word: &str| {
        assert!(
            matches!(&outcome, RemedyOutcome::Fenced { detail } if detail.contains(word)),
            "{word}: {outcome:?}"
        );
    };

    // It was replaced between the decision and the act.
    let condemned = now();
    machine.must(&["kill", "-s", "KILL", "feed"]);
    machine.must(&["start", "feed"]);
    let second = now();
    assert_ne!(second, condemned);
    fenced(heal(&condemned, false, UnitAction::Restart).await, "another life");
    fenced(heal(&condemned, true, UnitAction::Restart).await, "another life");
    fenced(
        heal(&second, true, UnitAction::Start).await,
        "has not failed any more",
    );
    let started = heal(&second, false, UnitAction::Start).await;
    assert!(matches!(started, RemedyOutcome::NotActed { .. }), "{started:?}");
    assert_eq!(now(), second, "nothing was touched");

    // An operator's stop is under way, and then done.
    machine.must(&["stop", "--no-block", "feed"]);
    machine.until("feed", "ActiveState", |now| now == "deactivating");
    fenced(
        heal(&second, false, UnitAction::Restart).await,
        "is being stopped",
    );
    machine.until("feed", "ActiveState", |now| now == "failed");
    fenced(
        heal(&second, false, UnitAction::Restart).await,
        "has failed meanwhile",
    );
    machine.must(&["reset-failed", "feed"]);
    fenced(heal(&second, false, UnitAction::Restart).await, "is inactive");
    assert_eq!(machine.show("feed", "ActiveState"), "inactive");

    // And the one that is meant.
    machine.service("feed.service", IDLE);
    let third = now();
    let restarted = heal(&third, false, UnitAction::Restart).await;
    assert!(matches!(restarted, RemedyOutcome::Acted { .. }), "{restarted:?}");
    let fourth = now();
    assert_ne!(fourth, third);
    let killed = heal(&fourth, false, UnitAction::Kill(Signal(9), Whom::All)).await;
    assert!(matches!(killed, RemedyOutcome::Acted { .. }), "{killed:?}");
    machine.until("feed", "ActiveState", |now| now == "failed");
    let started = heal(&fourth, true, UnitAction::Start).await;
    assert!(matches!(started, RemedyOutcome::Acted { .. }), "{started:?}");

    // It does not start any more: systemd's word is told.
    machine.write_unit("feed.service", "[Service]\nType=oneshot\nExecStart=/bin/false\n");
    machine.crash("feed");
    machine.until("feed", "ActiveState", |now| now == "failed");
    let outcome = heal(&now(), true, UnitAction::Start).await;
    assert!(
        matches!(&outcome, RemedyOutcome::Failed { detail } if detail.contains("did not start")),
        "{outcome:?}"
    );
}

fn systemd(machine: &Machine) -> Systemd {
    Systemd::new(Settings {
        system: machine.bus(),
        ..Settings::default()
    })
}

#[tokio::test]
async fn a_unit_is_seen_as_it_is() {
    let Some(machine) = Machine::boot() else { return };
    machine.write_unit(
        "slow.service",
        "[Service]\nType=notify\nTimeoutStartSec=7s\nTimeoutStopSec=infinity\nExecStart=/bin/sleep 100000\n",
    );
    machine.must(&["start", "--no-block", "slow"]);
    machine.until("slow", "ActiveState", |now| now == "activating");
    let look = async |name: &str| {
        let unit = UnitRef::new(name, Scope::System).unwrap();
        systemd(&machine)
            .open(&unit)
            .await
            .unwrap()
            .look(None)
            .await
            .unwrap()
    };
    let slow = look("slow").await;
    assert_eq!(slow.active, Active::Activating);
    assert_eq!(
        (slow.load.as_str(), slow.name.as_str()),
        ("loaded", "slow.service")
    );
    assert_eq!(slow.start_timeout, Some(Duration::from_secs(7)));
    assert_eq!(slow.stop_timeout, None);
    assert_eq!(slow.job.unwrap().kind, "start");
    assert!(slow.main_pid.is_some() && slow.control_group == "/system.slice/slow.service");
    let none = look("no-such").await;
    assert_eq!((none.active, none.load.as_str()), (Active::Inactive, "not-found"));
    assert_eq!(none.invocation, None);
    // A bus without systemd, and none at all.
    let nowhere = Systemd::new(Settings {
        system: machine.dir().join("no-such-bus"),
        ..Settings::default()
    });
    let unit = UnitRef::new("slow", Scope::System).unwrap();
    let error = nowhere.open(&unit).await.err().unwrap();
    assert!(error.with_cure().contains("start dbus"), "{}", error.with_cure());
    let user = UnitRef::new("slow", Scope::User).unwrap();
    let error = nowhere.open(&user).await.err().unwrap();
    assert!(
        error.with_cure().contains("XDG_RUNTIME_DIR"),
        "{}",
        error.with_cure()
    );
}

/// Answers a connection with these bytes, then perhaps with more and more of the same.
fn bus(greeting: &'static [u8], then: &'static [u8], forever: bool) -> (Systemd, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("bus");
    let listener = UnixListener::bind(&socket).unwrap();
    // Ends with the test's process.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.write_all(greeting);
            let mut read = [0; 4096];
            let mut seen = Vec::new();
            while !then.is_empty()
                && !seen.ends_with(b"BEGIN\r\n")
                && !seen.windows(7).any(|w| w == b"BEGIN\r\n")
            {
                match stream.read(&mut read) {
                    Ok(0) | Err(_) => break,
                    Ok(count) => seen.extend(&read[..count]),
                }
            }
            let _ = stream.write_all(then);
            if then.is_empty() && !forever {
                continue;
            }
            while forever && stream.write_all(&[b'x'; 4096]).is_ok() {}
            std::thread::spawn(move || {
                let _open = stream;
                std::thread::sleep(Duration::from_secs(60));
            });
        }
    });
    let systemd = Systemd::new(Settings {
        system: socket,
        user: None,
        timeout: Duration::from_millis(500),
    });
    (systemd, dir)
}

#[tokio::test]
async fn s38_a_bus_that_misbehaves_costs_bounded_time_and_memory_and_is_told() {
    const OK: &[u8] = b"DATA\r\nOK 0123456789abcdef0123456789abcdef\r\n";
    let unit = UnitRef::new("feed", Scope::System).unwrap();
    for (greeting, then, forever, word) in [
        (&b""[..], &b""[..], false, "cannot be used"),
        (b"REJECTED EXTERNAL\r\n", b"x", false, "does not let uid"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", b"x", false, "greeted by"),
        (b"", b"", true, "without an end"),
        (OK, b" ", false, "has not answered within 500ms"),
        (OK, b"HTTP/1.1 200 OK\r\n\r\n", true, "begins with byte 72"),
        // A header that claims more than may be.
        (
            OK,
            b"l\x02\x00\x01\x00\x00\x00\x00\x01\x00\x00\x00\xff\xff\x00\x00",
            true,
            "a header of",
        ),
        (
            OK,
            b"l\x02\x00\x01\xff\xff\xff\xff\x01\x00\x00\x00\x00\x00\x00\x00",
            true,
            "claims",
        ),
        // A body of 1 MiB that is skipped as it comes, and then no message.
        (
            OK,
            b"l\x04\x01\x01\x00\x00\x10\x00\x01\x00\x00\x00\x00\x00\x00\x00",
            true,
            "cannot be used",
        ),
        (
            OK,
            b"l\x02\x00\x01\x00\x00\x00\x00\x01\x00\x00\x00\x08\x00\x00\x00garbage!",
            true,
            "cannot be read",
        ),
    ] {
        let (systemd, _dir) = bus(greeting, then, forever);
        let opening = tokio::time::timeout(Duration::from_secs(20), systemd.open(&unit));
        let error = opening.await.expect("in time").err().unwrap();
        assert!(error.with_cure().contains(word), "{word}: {}", error.with_cure());
    }
}
