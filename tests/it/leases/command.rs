//! `defib lease KEY -- COMMAND`, with commands that are real processes.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use super::{becomes, look, node, take};
use crate::support::node::{Node, defib};
use crate::support::redis_server::{RedisServer, there};
use crate::support::until;

/// A `defib lease` that runs, and the file into which its command writes.
struct Lease {
    child: Child,
    log: PathBuf,
    _dir: tempfile::TempDir,
}

impl Lease {
    /// Its command is a shell that says its pid first, and then does this.
    fn start(node: &Node, options: &[&str], script: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let socket = node.dir().join("admin.sock");
        let child = Command::new(env!("CARGO_BIN_EXE_defib"))
            .args(["lease", "app:job", "--admin-socket", socket.to_str().unwrap()])
            .args(options)
            .args(["--", "sh", "-c", &format!("echo pid $$; {script}")])
            .env("DEFIB_TOKEN", "secret")
            .stdin(Stdio::null())
            .stdout(std::fs::File::create(&log).unwrap())
            .stderr(std::fs::File::create(dir.path().join("err")).unwrap())
            .spawn()
            .unwrap();
        Self {
            child,
            log,
            _dir: dir,
        }
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    fn says(&self, text: &str) {
        until(&format!("the command says {text}"), || self.said().contains(text));
    }

    fn pid(&self) -> Pid {
        self.says("pid ");
        let said = self.said();
        let pid = said.lines().next().unwrap().trim_start_matches("pid ");
        Pid::from_raw(pid.parse().unwrap()).unwrap()
    }

    fn exit_code(&mut self) -> Option<i32> {
        let mut code = None;
        until("defib lease has ended", || {
            code = self.child.try_wait().unwrap().map(|status| status.code());
            code.is_some()
        });
        code.unwrap()
    }

    fn errors(&self) -> String {
        std::fs::read_to_string(self.log.with_file_name("err")).unwrap()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const IDLE: &str = "while :; do sleep 600 & wait; done";
/// A command that says when it is asked to end, and ends.
const POLITE: &str = "trap 'echo asked; exit 3' TERM; while :; do sleep 600 & wait; done";

fn is_gone(pid: Pid) {
    until("the command is gone", || test_kill_process(pid).is_err());
}

#[test]
fn the_commands_exit_code_is_handed_on_and_the_lease_is_given_back() {
    let node = node("embedded");
    for (script, expected) in [("exit 0", 0), ("exit 7", 7), ("kill -s KILL $$", 137)] {
        let mut lease = Lease::start(&node, &[], script);
        assert_eq!(lease.exit_code(), Some(expected), "{}", lease.errors());
        assert_eq!(look(&node, "app:job").1["state"], "free");
    }
    let mut lease = Lease::start(
        &node,
        &[],
        "echo \"key $DEFIB_LEASE token $DEFIB_FENCING_TOKEN secret ${DEFIB_TOKEN-none}\"",
    );
    assert_eq!(lease.exit_code(), Some(0));
    let said = lease.said();
    assert!(
        said.contains("key app:job token 1") && said.contains("secret none"),
        "{said}"
    );
    let socket = node.dir().join("admin.sock");
    for (command, code) in [("/no/such/program", 127), ("/etc/passwd", 126)] {
        let words = [
            "lease",
            "app:job",
            "--admin-socket",
            socket.to_str().unwrap(),
            "--",
            command,
        ];
        assert_eq!(defib(&words).0, Some(code));
    }
}

#[test]
fn what_somebody_else_has_is_waited_for_or_not_and_nothing_is_started() {
    let node = node("embedded");
    take(&node, "app:job", "theirs", "2s");
    let mut lease = Lease::start(&node, &[], "echo started");
    assert_eq!(lease.exit_code(), Some(69));
    assert!(lease.errors().contains("was not had"), "{}", lease.errors());
    assert_eq!(lease.said(), "");
    let mut lease = Lease::start(&node, &["--wait", "1m"], "echo started");
    assert_eq!(lease.exit_code(), Some(0), "{}", lease.errors());
    lease.says("started");
    // What can never be had is no reason to wait.
    let socket = node.dir().join("admin.sock");
    let words = [
        "lease",
        "other",
        "--wait",
        "1m",
        "--admin-socket",
        socket.to_str().unwrap(),
        "--",
        "true",
    ];
    let (code, said) = defib(&words);
    assert!(code == Some(1) && said.contains("leases.prefixes"), "{said}");
    let (code, said) = defib(&["lease", "app:a", "--admin-socket", "/no/such", "--", "true"]);
    assert!(
        code == Some(69) && said.contains("no defib answers"),
        "{code:?} {said}"
    );
}

#[test]
fn a_lost_lease_ends_the_command() {
    if !there() {
        return;
    }
    let server = RedisServer::start();
    let node = node(&server.url());
    let mut lease = Lease::start(&node, &["--ttl", "3s"], POLITE);
    let pid = lease.pid();
    server.tell("SET app:job theirs PX 60000");
    assert_eq!(lease.exit_code(), Some(76), "{}", lease.errors());
    lease.says("asked");
    is_gone(pid);
    assert!(
        server.tell("GET app:job").contains("theirs"),
        "theirs is not deleted"
    );

    // Who does not listen is killed.
    server.tell("DEL app:job");
    let stubborn = format!("trap '' TERM; {IDLE}");
    let mut lease = Lease::start(&node, &["--ttl", "3s", "--kill-after", "200ms"], &stubborn);
    let pid = lease.pid();
    server.tell("DEL app:job");
    assert_eq!(lease.exit_code(), Some(76), "{}", lease.errors());
    is_gone(pid);
}

/// Time is counted where the command is: a node that dies or hangs leaves nothing running.
#[test]
fn a_node_that_dies_or_hangs_ends_the_command_before_the_lease_ends() {
    if !there() {
        return;
    }
    for signal in [Signal::KILL, Signal::STOP] {
        let server = RedisServer::start();
        let node = node(&server.url());
        let mut lease = Lease::start(&node, &["--ttl", "4s"], POLITE);
        let pid = lease.pid();
        node.signal(signal);
        until("the command is gone, or the lease", || {
            test_kill_process(pid).is_err() || server.tell("EXISTS app:job").starts_with(":0")
        });
        assert!(
            test_kill_process(pid).is_err(),
            "the lease ended first: {}",
            lease.errors()
        );
        assert_eq!(lease.exit_code(), Some(76), "{}", lease.errors());
        lease.says("asked");
    }
}

#[test]
fn signals_reach_the_command_and_its_end_is_the_end() {
    let node = node("embedded");
    let mut lease = Lease::start(&node, &[], POLITE);
    lease.pid();
    // The trap is set a moment after the first word.
    until("the command has heard it", || {
        kill_process(Pid::from_child(&lease.child), Signal::TERM).unwrap();
        lease.said().contains("asked") || lease.child.try_wait().unwrap().is_some()
    });
    let code = lease.exit_code();
    assert!(code == Some(3) || code == Some(143), "{code:?}");
    assert_eq!(look(&node, "app:job").1["state"], "free");
}

/// Nobody is left to renew, so nothing may go on.
#[test]
fn the_command_dies_with_who_holds_its_lease() {
    let node = node("embedded");
    let lease = Lease::start(&node, &["--ttl", "2s"], IDLE);
    let pid = lease.pid();
    kill_process(Pid::from_child(&lease.child), Signal::KILL).unwrap();
    is_gone(pid);
    becomes(&node, "app:job", "free");
}

/// A holder that was stopped itself kills at once, before it asks anybody.
#[test]
fn a_holder_that_was_stopped_for_longer_ends_its_command() {
    let node = node("embedded");
    let mut lease = Lease::start(&node, &["--ttl", "1s"], IDLE);
    let pid = lease.pid();
    let holder = Pid::from_child(&lease.child);
    kill_process(holder, Signal::STOP).unwrap();
    becomes(&node, "app:job", "free");
    kill_process(holder, Signal::CONT).unwrap();
    assert_eq!(lease.exit_code(), Some(76), "{}", lease.errors());
    is_gone(pid);
}

#[test]
fn s24_a_node_that_drains_lets_the_command_end_first() {
    if !there() {
        return;
    }
    let server = RedisServer::start();
    let mut node = node(&server.url());
    let slow = "trap 'sleep 0.2; echo asked; exit 0' TERM; while :; do sleep 600 & wait; done";
    let mut lease = Lease::start(&node, &["--ttl", "1m"], slow);
    let pid = lease.pid();
    becomes(&node, "app:job", "held");
    until("somebody follows", || node.count("defib_http_sse_clients") >= 1);
    node.signal(Signal::TERM);
    until("the lease is given back", || {
        let free = server.tell("EXISTS app:job").starts_with(":0");
        // Looked at afterwards: what was free before must be gone by now.
        let alive = test_kill_process(pid).is_ok();
        assert!(!(free && alive), "it was given back under the command");
        free
    });
    assert_eq!(lease.exit_code(), Some(76), "{}", lease.errors());
    lease.says("asked");
    assert_eq!(node.exit_code(), Some(0));
}
