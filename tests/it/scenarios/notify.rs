//! Programs that speak systemd's notify protocol, and whoever else writes to their sockets: scenario 43.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use defib::engine::cause::Cause;
use defib::engine::peer::Liveness;
use rustix::process::Signal;

use super::config;
use crate::support::application::Application;
use crate::support::node::Node;
use crate::support::python::Python;
use crate::support::{available, until};

/// A directory that everybody may enter, and a socket in it.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        Self { dir }
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("deeper/app.sock")
    }

    /// `NOTIFY_SOCKET=…`
    fn variable(&self) -> String {
        format!("NOTIFY_SOCKET={}", self.socket().display())
    }

    fn sends(&self, text: &[u8]) {
        let socket = UnixDatagram::unbound().unwrap();
        socket.send_to(text, self.socket()).unwrap();
    }
}

/// `watchdogged.py`, to be started with its socket; it pings each second.
fn watchdogged(python: &Python, place: &Place) -> Application {
    let mut words = vec![
        "env".to_owned(),
        place.variable(),
        "WATCHDOG_USEC=2000000".to_owned(),
    ];
    words.extend(python.words("watchdogged.py", &[]));
    Application::not_started(&words)
}

/// Its peer, healed by its restart.
fn app(application: &Application, place: &Place, owner: &str) -> String {
    format!(
        r#"
        [peer.app]
        {owner}
        grace = "30s"
        backoff = {{ initial = "200ms" }}
        checks.notify = {{ socket = "{}", watchdog = "8s" }}
        remedies = [{{ do = "exec", command = {}, verify_within = "30s" }}]
        "#,
        place.socket().display(),
        application.restart()
    )
}

fn node(peers: &str) -> Node {
    Node::run(&config("embedded", peers))
}

#[test]
fn s43_what_was_made_for_systemds_watchdog_is_healed_when_it_hangs_and_left_alone_when_it_stops() {
    let Some(python) = Python::newest() else { return };
    let place = Place::new();
    let application = watchdogged(&python, &place);
    let owner = format!("owner = {}", application.owner());
    let node = node(&app(&application, &place, &owner));
    application.start_again();
    node.is_calm();
    until("its status is shown", || {
        node.tool(&["explain", "app"]).1.contains("it says: at work")
    });
    let events = node.events();

    // A thread that hangs, which no look at the process can see.
    application.signal(Signal::USR1);
    let granted = events.of("app", "granted");
    assert_eq!(granted["cause"], "peer_silent", "{granted}");
    events.of("app", "recovered");
    assert_eq!(application.starts(), 2);

    application.signal(Signal::TERM);
    events.of("app", "goodbye");
    until("it has ended", || !application.runs());
    node.sees("it has left", |snapshot| {
        let app = &snapshot.peers[0];
        app.liveness == Liveness::Unknown && app.detail.contains("it leaves on purpose: asked to stop")
    });
    application.start_again();
    node.is_calm();
    assert_eq!(events.named("granted").len(), 1, "{:#?}", events.all());
    assert_eq!(application.starts(), 3);

    application.kill();
    events.one("it is healed again", |notice| {
        notice["event"] == "granted" && notice["cause"] == "peer_exited"
    });
    until("it is started again", || application.starts() == 4);
}

#[test]
fn a_stopped_program_is_stuck_by_its_owner_and_silent_without_one() {
    let Some(python) = Python::newest() else { return };
    for (owned, cause) in [(true, Cause::PeerStuck), (false, Cause::PeerSilent)] {
        let place = Place::new();
        let application = watchdogged(&python, &place);
        let owner = if owned {
            format!(
                "owner = {}\nchecks.process = {{ interval = \"200ms\", fail_after = \"2 of 2\" }}",
                application.owner()
            )
        } else {
            String::new()
        };
        let node = node(&app(&application, &place, &owner));
        application.start_again();
        node.is_calm();
        let life = node.peer("app").incarnation.unwrap().0;
        let pid = application.pid().unwrap().to_string();
        assert!(
            life.starts_with("proc:") && life.split(':').nth(2) == Some(&pid),
            "{life}"
        );
        let events = node.events();

        application.signal(Signal::STOP);
        let granted = events.of("app", "granted");
        assert_eq!(granted["cause"], cause.as_str(), "{granted}");
        events.of("app", "recovered");
        assert_eq!(application.starts(), 2);
        assert_ne!(node.peer("app").incarnation.unwrap().0, life);
    }
}

/// A peer that only speaks.
fn speaker(place: &Place, more: &str) -> String {
    format!(
        "[peer.app]\nchecks.notify = {{ socket = \"{}\", mode = \"0666\"{more} }}",
        place.socket().display()
    )
}

fn dropped(node: &Node, outcome: &str) -> i64 {
    node.count(&format!(
        "defib_notify_datagrams_total{{outcome=\"{outcome}\",peer=\"app\"}}"
    ))
}

/// The real `systemd-notify`, as that user.
fn systemd_notify(place: &Place, uid: u32, words: &[&str]) -> bool {
    Command::new("setpriv")
        .args([
            &format!("--reuid={uid}"),
            "--clear-groups",
            "--",
            "systemd-notify",
        ])
        .args(words)
        .env("NOTIFY_SOCKET", place.socket())
        .stdin(Stdio::null())
        .status()
        .unwrap()
        .success()
}

fn systemd_notify_is_there() -> bool {
    let there = Path::new("/usr/bin/systemd-notify").exists() && rustix::process::geteuid().is_root();
    available("systemd-notify, as root", there)
}

#[test]
fn only_users_that_are_believed_are_heard() {
    if !systemd_notify_is_there() {
        return;
    }
    let place = Place::new();
    let node = node(&speaker(&place, ", users = [65533]"));
    // It waits for its barrier: all that it said was taken when it ends.
    systemd_notify(&place, 65534, &["--ready", "--status=forged"]);
    until("the stranger was counted", || dropped(&node, "foreign_user") > 0);
    assert_eq!(node.peer("app").liveness, Liveness::Unknown);
    assert!(!node.peer("app").ever_alive);

    assert!(systemd_notify(&place, 65533, &["--ready", "--status=serving"]));
    node.sees("the believed one is heard", |snapshot| {
        snapshot.peers[0].liveness == Liveness::Alive && snapshot.peers[0].detail.contains("serving")
    });
    assert!(
        systemd_notify(&place, 0, &["STOPPING=1"]),
        "root is always believed"
    );
    node.sees("it leaves", |snapshot| {
        snapshot.peers[0].liveness == Liveness::Unknown
    });
}

#[test]
fn a_sender_in_another_pid_namespace_is_believed_by_its_user() {
    let can = Command::new("unshare")
        .args(["--pid", "--fork", "true"])
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !available("a pid namespace (unshare --pid, as root)", can) {
        return;
    }
    let place = Place::new();
    let wrapper = ["unshare", "--pid", "--fork", "--kill-child"];
    let node = Node::run_with(&wrapper, &config("embedded", &speaker(&place, "")));
    place.sends(b"READY=1\nSTATUS=from outside");
    node.sees("it is heard", |snapshot| {
        let app = &snapshot.peers[0];
        app.liveness == Liveness::Alive && app.detail.contains("from outside") && app.incarnation.is_none()
    });
    assert_eq!(dropped(&node, "taken"), 1);
}

#[test]
fn garbage_and_floods_are_counted_and_harm_nobody() {
    let place = Place::new();
    let node = node(&speaker(&place, ""));
    for garbage in [&b""[..], b"hello", b"READY=1\0\0", &[0xff; 64]] {
        place.sends(garbage);
    }
    place.sends(&[b"READY=1\n".as_slice(), &[b'x'; 5_000]].concat());
    until("the garbage was counted", || {
        dropped(&node, "garbage") == 4 && dropped(&node, "oversize") == 1
    });
    assert_eq!(node.peer("app").liveness, Liveness::Unknown);

    let flood = UnixDatagram::unbound().unwrap();
    for _ in 0..20_000 {
        flood.send_to(b"WATCHDOG=1", place.socket()).unwrap();
    }
    until("the flood was counted", || dropped(&node, "flood") > 10_000);
    assert_eq!(node.code("/livez"), 200);
    node.sees("what was not too much was heard", |snapshot| {
        snapshot.peers[0].liveness == Liveness::Alive
    });
    until("all was read", || {
        dropped(&node, "flood") + dropped(&node, "taken") == 20_000
    });
}

#[test]
fn a_child_speaks_for_its_owner_and_a_stranger_does_not() {
    if !systemd_notify_is_there() {
        return;
    }
    let place = Place::new();
    // systemd-notify, run by a shell, says that its parent sends: as root it may.
    let script = format!(
        "{} systemd-notify --ready; while :; do sleep 600 & wait; done",
        place.variable()
    );
    let application = Application::not_started(&["sh", "-c", &script]);
    let peers = format!("{}\nowner = {}", speaker(&place, ""), application.owner());
    let node = node(&peers);
    application.start_again();
    // Before its owner is known, a stranger cannot be told from a new life.
    node.sees("the owner is known, and heard", |snapshot| {
        snapshot.peers[0].incarnation.is_some() && snapshot.peers[0].checks[0].verdict == Liveness::Alive
    });
    place.sends(b"STOPPING=1");
    until("the stranger was counted", || dropped(&node, "stranger") == 1);
    assert_eq!(node.peer("app").liveness, Liveness::Alive);
}

#[test]
fn the_socket_is_there_before_the_node_is_ready_comes_back_and_goes_with_it() {
    let place = Place::new();
    fs::create_dir(place.socket().parent().unwrap()).unwrap();
    // Left behind by a node that was killed.
    drop(UnixDatagram::bind(place.socket()).unwrap());
    let mut node = node(&speaker(&place, ""));
    place.sends(b"READY=1");
    node.is_calm();
    fs::remove_file(place.socket()).unwrap();
    until("it is made again", || place.socket().exists());
    place.sends(b"STATUS=found again");
    node.sees("it is heard there", |snapshot| {
        snapshot.peers[0].detail.contains("found again")
    });
    node.signal(Signal::TERM);
    assert_eq!(node.exit_code(), Some(0));
    assert!(!place.socket().exists());
}

#[test]
fn a_socket_that_cannot_be_made_makes_the_peer_unknown_and_is_tried_again() {
    let place = Place::new();
    fs::create_dir(place.socket().parent().unwrap()).unwrap();
    fs::write(place.socket(), "somebody's").unwrap();
    let node = node(&speaker(&place, ""));
    node.sees("it says why", |snapshot| {
        snapshot.peers[0].detail.contains("exists and is not a socket")
    });
    let (code, doctor) = node.tool(&["explain", "app"]);
    assert!(code == Some(0) && doctor.contains("is not a socket"), "{doctor}");
    fs::remove_file(place.socket()).unwrap();
    until("it is made", || place.socket().exists());
    place.sends(b"READY=1");
    node.is_calm();
}
