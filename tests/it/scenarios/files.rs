//! Heartbeat files as real programs write them, kstlib's above all, and the file that the node itself writes:
//! scenarios 27 to 31 and 43. Files that no program should write are in `tests/it/files.rs`.

use std::path::PathBuf;
use std::time::Duration;

use defib::engine::cause::Cause;
use defib::engine::peer::Liveness;
use defib::heartbeat_file::{self, Beat};
use rustix::process::Signal;

use super::config;
use crate::support::application::Application;
use crate::support::node::{Node, defib};
use crate::support::python::Python;
use crate::support::{available, until};

/// A bot with nothing but kstlib's heartbeat file.
struct Bot {
    _dir: tempfile::TempDir,
    path: PathBuf,
    application: Application,
}

impl Bot {
    fn start(python: &Python) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("heartbeat.json");
        let words = python.words("kstlib_bot.py", &[path.to_str().unwrap()]);
        let application = Application::start(&words);
        until("the bot beats", || path.exists());
        Self {
            _dir: dir,
            path,
            application,
        }
    }

    /// A peer `bot`, known by its file alone.
    fn watched(&self, owner: bool, rest: &str) -> String {
        let path = self.path.display();
        let owner = if owner {
            format!("owner = {{ heartbeat_file = \"{path}\" }}")
        } else {
            String::new()
        };
        config(
            "embedded",
            &format!(
                r#"
                [peer.bot]
                {owner}
                grace = "10s"
                backoff = {{ initial = "200ms" }}
                [peer.bot.checks.file]
                path = "{path}"
                interval = "200ms"
                max_age = "4s"
                progress = {{ field = "metadata.cycles", max_age = "3s" }}
                stopped_when = {{ field = "metadata.status", equals = "stopped" }}
                {rest}
                "#
            ),
        )
    }

    /// Waits for so many more heartbeats.
    fn beats(&self, times: usize) {
        let read = || heartbeat_file::read(&self.path).map(|content| content.bytes).ok();
        for _ in 0..times {
            let before = read();
            until("the bot beats on", || read() != before);
        }
    }

    fn healed(&self) -> String {
        format!(
            "[[peer.bot.remedies]]\ndo = \"exec\"\ncommand = {}\nverify_within = \"30s\"",
            self.application.restart()
        )
    }
}

/// What kstlib itself says.
fn is_alive(python: &Python, path: &std::path::Path, max_age: u64) -> bool {
    let lines = format!(
        "from kstlib.resilience.heartbeat import Heartbeat\nprint(Heartbeat.is_alive('{}', max_age_seconds={max_age}))",
        path.display()
    );
    python.says(&lines).trim() == "True"
}

#[test]
fn s29_a_kstlib_bot_that_is_killed_or_hangs_is_healed_by_its_file_alone() {
    let Some(python) = Python::kstlib() else { return };
    let bot = Bot::start(&python);
    let node = Node::run(&bot.watched(true, &bot.healed()));
    node.is_calm();
    let events = node.events();

    bot.application.kill();
    let granted = events.of("bot", "granted");
    assert_eq!(granted["cause"], "peer_exited", "{granted}");
    events.of("bot", "recovered");
    assert_eq!(bot.application.starts(), 2);

    // Its thread beats on.
    bot.application.signal(Signal::USR1);
    let stuck = events.one("the loop that hangs is seen", |notice| {
        notice["event"] == "granted" && notice["cause"] == "peer_stuck"
    });
    assert_eq!(stuck["peer"], "bot");
    until("it is healed", || events.named("recovered").len() == 2);
    assert_eq!(bot.application.starts(), 3);
    assert!(is_alive(&python, &bot.path, 4));
}

#[test]
fn s27_a_kstlib_bot_is_dead_once_and_armed_again_when_it_beats() {
    let Some(python) = Python::kstlib() else { return };
    let bot = Bot::start(&python);
    let node = Node::run(&bot.watched(false, ""));
    node.is_calm();
    let events = node.events();
    for episode in 1..=2 {
        bot.beats(3);
        // Without an owner it is the number in the file that tells.
        bot.application.kill();
        node.sees("it is dead", |snapshot| {
            snapshot.peers[0].liveness == Liveness::Dead
        });
        let cause = node.peer("bot").cause;
        assert_eq!(cause.map(Cause::as_str), Some("peer_exited"));
        bot.application.start_again();
        node.is_calm();
        assert_eq!(
            events.named("episode_opened").len(),
            episode,
            "{:#?}",
            events.all()
        );
    }
}

#[test]
fn s43_a_bot_that_wrote_that_it_stops_is_left_alone() {
    let Some(python) = Python::kstlib() else { return };
    let bot = Bot::start(&python);
    let node = Node::run(&bot.watched(true, &bot.healed()));
    node.is_calm();
    let events = node.events();

    bot.application.signal(Signal::TERM);
    events.of("bot", "goodbye");
    until("it has ended", || !bot.application.runs());
    let process = || {
        let checks = node.peer("bot").checks;
        let process = checks.into_iter().find(|check| &*check.name == "process");
        process.unwrap().detail
    };
    until("its end is known", || process().contains("status is \"stopped\""));
    assert_eq!(node.peer("bot").liveness, Liveness::Unknown);
    events.blame_nobody();
    assert_eq!(bot.application.starts(), 1);

    // Who starts it again wants it to run. (And is seen to run: a life that nobody saw begin has no end to witness.)
    let stopped = node.peer("bot").incarnation;
    bot.application.start_again();
    until("its new life is known", || {
        node.peer("bot").incarnation != stopped
    });
    node.is_calm();
    bot.application.kill();
    events.of("bot", "recovered");
    assert_eq!(bot.application.starts(), 3);
}

#[test]
fn s31_a_pause_of_the_node_and_the_bot_together_condemns_nobody() {
    let Some(python) = Python::kstlib() else { return };
    let bot = Bot::start(&python);
    let node = Node::run(&bot.watched(false, "[[peer.bot.remedies]]\ndo = \"log\""));
    node.is_calm();
    let events = node.events();
    // As a machine does that sleeps: longer than the bot may be silent, and the node wakes up first.
    node.signal(Signal::STOP);
    bot.application.signal(Signal::STOP);
    std::thread::sleep(Duration::from_secs(6));
    node.signal(Signal::CONT);
    std::thread::sleep(Duration::from_secs(1));
    bot.application.signal(Signal::CONT);
    let cycles = || {
        let content = heartbeat_file::read(&bot.path).unwrap();
        let beat = Beat::parse(&content.bytes).unwrap();
        beat.field("metadata.cycles").unwrap().as_u64().unwrap()
    };
    let before = cycles();
    until("the bot goes on", || cycles() > before);
    node.is_calm();
    events.blame_nobody();
}

#[test]
fn s30_the_probe_says_of_a_bot_what_kstlib_says() {
    let Some(python) = Python::kstlib() else { return };
    let bot = Bot::start(&python);
    let probe = || defib(&["probe", "file", bot.path.to_str().unwrap(), "--max-age", "3s"]);
    assert!(is_alive(&python, &bot.path, 3));
    let (code, said) = probe();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.starts_with("pass: its timestamp "), "{said}");
    bot.application.kill();
    until("kstlib calls it dead", || !is_alive(&python, &bot.path, 3));
    let (code, said) = probe();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("more than 3.0 s"), "{said}");
}

/// Every user has 128 inotify instances, and others may have taken them all.
#[test]
fn s27_where_the_kernel_tells_no_changes_a_file_is_looked_at_all_the_same() {
    let wrapper = [
        "unshare",
        "--user",
        "--map-root-user",
        "sh",
        "-c",
        "echo 0 >/proc/sys/user/max_inotify_instances && exec \"$@\"",
        "sh",
    ];
    let mut tried = std::process::Command::new(wrapper[0]);
    let tried = tried.args(&wrapper[1..]).arg("true").status();
    let usable = tried.is_ok_and(|status| status.success());
    if !available("user namespaces (unshare --user)", usable) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("alive");
    let peer = format!(
        "[peer.bot]\ngrace = \"1s\"\nchecks.file = {{ path = {path:?}, format = \"plain\", interval = \"200ms\", max_age = \"5s\" }}\n"
    );
    let mut number = 0;
    let mut beats = || {
        number += 1;
        std::fs::write(&path, number.to_string()).unwrap();
    };
    beats();
    let node = Node::run_with(&wrapper, &config("embedded", &peer));
    let inotify = |link: std::fs::DirEntry| {
        std::fs::read_link(link.path()).is_ok_and(|of| of.to_string_lossy().contains("inotify"))
    };
    node.sees("it lives", |snapshot| {
        beats();
        snapshot.peers[0].liveness == Liveness::Alive
    });
    let open = std::fs::read_dir(format!("/proc/{}/fd", node.pid())).unwrap();
    assert!(!open.flatten().any(inotify), "the kernel has one left for it");
    node.sees("it is silent", |snapshot| {
        snapshot.peers[0].liveness == Liveness::Dead
    });
    node.sees("it lives again", |snapshot| {
        beats();
        snapshot.peers[0].liveness == Liveness::Alive
    });
}

#[test]
fn s28_kstlib_takes_the_nodes_own_file_for_a_living_one() {
    let Some(python) = Python::kstlib() else { return };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("node.json");
    let shown = path.to_str().unwrap();
    let text = config("embedded", "").replace("[heartbeat]", &format!("[heartbeat]\nfile = \"{shown}\""));
    let mut node = Node::run(&text);
    // (The node beats each 300 ms; a busy machine may keep it from that for a while.)
    let mut watchdog = python.spawn("kstlib_watchdog.py", &[shown, "10"]);
    assert_eq!(watchdog.line(), "alive");
    assert!(is_alive(&python, &path, 10));
    let (code, said) = defib(&["probe", "file", shown, "--max-age", "10s"]);
    assert_eq!(code, Some(0), "{said}");

    // It fires when the node is killed, not before.
    node.signal(Signal::KILL);
    assert_eq!(watchdog.line(), "timeout");
    assert!(!is_alive(&python, &path, 10));
    node.exit_code();

    // It is on again with the next one, and a good end is said.
    node.start_again();
    until("it lives again", || is_alive(&python, &path, 10));
    let status = || {
        let content = heartbeat_file::read(&path).unwrap();
        let beat = Beat::parse(&content.bytes).unwrap();
        beat.field("status").unwrap().as_str().unwrap().to_owned()
    };
    assert_eq!(status(), "running");
    node.signal(Signal::TERM);
    assert_eq!(node.exit_code(), Some(0));
    assert_eq!(status(), "stopped");
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

#[test]
fn s28_a_file_that_cannot_be_written_is_told_once_and_harms_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("not/there/node.json");
    let text = config("embedded", "").replace(
        "[heartbeat]",
        &format!("[heartbeat]\nfile = \"{}\"", missing.display()),
    );
    let mut node = Node::run(&text);
    let failures = || node.count("defib_fanout_failures_total{to=\"file\"}");
    until("it is tried again and again", || failures() >= 5);
    assert_eq!(
        node.log().matches("cannot be written").count(),
        1,
        "{}",
        node.log()
    );
    assert_eq!(node.code("/livez"), 200);
    std::fs::create_dir_all(missing.parent().unwrap()).unwrap();
    node.logs("is written again");
    assert!(missing.exists());
    node.signal(Signal::TERM);
    assert_eq!(node.exit_code(), Some(0));
}
