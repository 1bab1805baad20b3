//! `capture` rungs, with real processes, sockets and containers: what is kept, what bounds it, and that nothing waits for it.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use defib::checks::{Owner, Schedule};
use defib::engine::decision::Grant;
use defib::engine::event::RemedyOutcome;
use defib::engine::settings::RemedyKind;
use defib::owner_table::OwnerTable;
use defib::remedies::{Capture, Remedy, Surroundings};
use serde_json::Value;

use crate::checks::{Process, Running};
use crate::remedies::{executors, grant, life, surroundings};
use crate::support::docker::{Engine, docker};
use crate::support::node::Node;
use crate::support::{available, until};

const S: Duration = Duration::from_secs(1);
const HOURLY: Schedule = Schedule {
    interval: Duration::from_secs(3600),
    timeout: Duration::from_secs(10),
};
const MIB: u64 = 1 << 20;

fn capture(dir: &Path, script: Option<&str>) -> Capture {
    let command = script.map(|script| ["sh", "-c", script].map(str::to_owned).to_vec());
    Capture {
        dir: dir.join("captures"),
        max_total: 4 * MIB,
        max_size: MIB,
        command,
        timeout: 20 * S,
        logs: 200,
        sockets: true,
    }
}

static TOKENS: AtomicU64 = AtomicU64::new(1_000);

/// Of a process that is there, or of nobody.
async fn captured(capture: Capture, process: Option<&Process>) -> RemedyOutcome {
    let (owners, incarnation, _watch) = match process {
        Some(process) => {
            let mut watch = Running::owner(Owner::Pid(process.pid()), HOURLY);
            let incarnation = watch.running().await;
            (watch.owners.clone(), incarnation, Some(watch))
        }
        None => (OwnerTable::default(), life("boot:1"), None),
    };
    let around = Surroundings {
        scrub: vec!["CARGO_MANIFEST_DIR".to_owned()],
        ..surroundings(owners)
    };
    let grant = Grant {
        kind: RemedyKind::Capture,
        token: TOKENS.fetch_add(1, Ordering::Relaxed),
        ..grant(&incarnation)
    };
    executors(Remedy::Capture(capture), around).heal(grant).await
}

fn detail(outcome: &RemedyOutcome) -> &str {
    match outcome {
        RemedyOutcome::Acted { detail }
        | RemedyOutcome::Failed { detail }
        | RemedyOutcome::Fenced { detail }
        | RemedyOutcome::NotActed { detail } => detail,
    }
}

/// The captures there, oldest first.
fn kept(capture: &Capture) -> Vec<PathBuf> {
    let entries = fs::read_dir(&capture.dir).into_iter().flatten();
    let mut all: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    all.sort();
    all
}

fn read(path: &Path, file: &str) -> String {
    let path = path.join(file);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[tokio::test]
async fn what_can_be_had_of_a_process_is_kept_and_no_secret() {
    let dir = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    // It holds a socket: a copy of ours.
    let script =
        format!("import socket,time\ns=socket.socket()\ns.connect(('127.0.0.1',{port}))\ntime.sleep(600)");
    let process = Process::start("python3", &["-c", &script]);
    let connection = listener.accept().unwrap();
    let script = "cat /proc/$DEFIB_PID/cmdline; echo $DEFIB_PEER $DEFIB_CAUSE $DEFIB_ATTEMPT; env >&2; \
                  printf core > $DEFIB_CAPTURE_DIR/core; chmod 644 $DEFIB_CAPTURE_DIR/core";
    let rung = capture(dir.path(), Some(script));
    let outcome = captured(rung.clone(), Some(&process)).await;
    assert!(matches!(outcome, RemedyOutcome::Acted { .. }), "{outcome:?}");
    let all = kept(&rung);
    let [one] = all.as_slice() else { panic!("{all:?}") };
    assert!(
        detail(&outcome).contains(one.to_str().unwrap()),
        "it says where: {outcome:?}"
    );
    let out = read(one, "command.out");
    assert!(
        out.contains("time.sleep(600)") && out.contains("feed peer_stuck 2"),
        "{out}"
    );
    let environment = read(one, "command.err");
    assert!(environment.contains("DEFIB_CAPTURE_DIR="), "{environment}");
    // Not what the configuration names as a secret, and nothing else that it does not name.
    for line in environment.lines() {
        let name = line.split('=').next().unwrap();
        let harmless = [
            "PATH",
            "HOME",
            "USER",
            "LOGNAME",
            "LANG",
            "LANGUAGE",
            "TZ",
            "TMPDIR",
            "XDG_RUNTIME_DIR",
        ];
        // (Those last are the shell's own.)
        let shell = ["PWD", "SHLVL", "OLDPWD", "_"];
        let known = harmless.contains(&name) || shell.contains(&name) || name.starts_with("LC_");
        assert!(known || name.starts_with("DEFIB_"), "{line}");
    }
    let sockets = read(one, "sockets.txt");
    assert!(sockets.contains(&format!("127.0.0.1:{port}")), "{sockets}");
    assert_eq!(sockets.lines().count(), 2, "its own and no other's:\n{sockets}");
    let about: Value = serde_json::from_str(&read(one, "about.json")).unwrap();
    assert_eq!(
        (&about["peer"], &about["cause"]),
        (&"feed".into(), &"peer_stuck".into())
    );
    assert_eq!(about["kept"], serde_json::json!(["sockets.txt", "command"]));
    for file in fs::read_dir(one).unwrap().map(Result::unwrap) {
        let mode = file.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{:?}", file.path());
    }
    drop(connection);
}

#[tokio::test]
async fn a_command_that_fails_hangs_or_is_not_there_is_told_and_the_rest_is_kept() {
    let process = Process::sleep();
    for (script, told) in [
        ("exit 3", "command: sh ended with exit status: 3"),
        ("sleep 600", "did not end in time"),
        // It does not mind SIGTERM.
        ("trap '' TERM; while :; do sleep 600; done", "did not end in time"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let mut rung = capture(dir.path(), Some(script));
        rung.timeout = 2 * S;
        let outcome = captured(rung.clone(), Some(&process));
        // (For a loaded machine; without the bound the second would take until SIGKILL, and the first 600 s.)
        let outcome = tokio::time::timeout(2 * rung.timeout, outcome).await.unwrap();
        assert!(detail(&outcome).contains(told), "{outcome:?}");
        assert!(
            read(&kept(&rung)[0], "sockets.txt").starts_with("state"),
            "{outcome:?}"
        );
    }
    let dir = tempfile::tempdir().unwrap();
    let mut rung = capture(dir.path(), None);
    rung.command = Some(vec!["/no/such/program".to_owned()]);
    let outcome = captured(rung.clone(), Some(&process)).await;
    assert!(
        detail(&outcome).contains("cannot start /no/such/program"),
        "{outcome:?}"
    );
    rung.command = Some(["echo", "{pid}", "{dir}", "{other}"].map(str::to_owned).to_vec());
    captured(rung.clone(), Some(&process)).await;
    let said = read(&kept(&rung)[1], "command.out");
    assert!(
        said.starts_with(&format!("{} ", process.pid())) && said.ends_with(" {other}\n"),
        "{said}"
    );
    // Of nobody whose process is in sight, there is no number.
    let outcome = captured(rung, None).await;
    assert!(matches!(outcome, RemedyOutcome::Failed { .. }), "{outcome:?}");
    assert!(
        detail(&outcome).contains("no process of the peer is in sight"),
        "{outcome:?}"
    );
}

#[tokio::test]
async fn a_command_that_writes_without_end_is_ended_and_the_bounds_hold() {
    let process = Process::sleep();
    let dir = tempfile::tempdir().unwrap();
    let rung = capture(dir.path(), Some("exec yes > $DEFIB_CAPTURE_DIR/core"));
    for _ in 0..2 {
        let outcome = captured(rung.clone(), Some(&process)).await;
        // By the kernel at its bound, or by us who saw that it is over.
        assert!(detail(&outcome).contains("not kept: command: "), "{outcome:?}");
        let written = kept(&rung).last().unwrap().join("core");
        let size = fs::metadata(&written).map_or(0, |core| core.len());
        assert!(size <= MIB, "{size}");
    }
    let mut small = capture(dir.path(), Some("head -c 900000 /dev/zero"));
    for _ in 0..6 {
        let outcome = captured(small.clone(), Some(&process)).await;
        assert!(matches!(outcome, RemedyOutcome::Acted { .. }), "{outcome:?}");
    }
    let sizes = || -> u64 {
        let files = kept(&rung).into_iter().flat_map(|one| fs::read_dir(one).unwrap());
        files.map(|file| file.unwrap().metadata().unwrap().len()).sum()
    };
    assert!(sizes() <= small.max_total, "{}", sizes());
    small.max_total = small.max_size;
    captured(small.clone(), Some(&process)).await;
    assert_eq!(kept(&small).len(), 1, "the newest stays");
}

#[tokio::test]
async fn a_place_that_cannot_be_written_is_told_and_fails_nothing_else() {
    let process = Process::sleep();
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("captures"), "a file").unwrap();
    let outcome = captured(capture(dir.path(), None), Some(&process)).await;
    assert!(matches!(outcome, RemedyOutcome::Failed { .. }), "{outcome:?}");
    assert!(detail(&outcome).contains("cannot create"), "{outcome:?}");

    // A disk that is full, and one that is read-only.
    let tiny = dir.path().join("tiny");
    fs::create_dir(&tiny).unwrap();
    let mount = |options: &str| {
        let tiny = tiny.to_str().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "none", tiny])
            .status();
        mounted.is_ok_and(|status| status.success())
    };
    if !available("mounting a tmpfs", mount("size=64k,mode=0700")) {
        return;
    }
    let rung = capture(&tiny, Some("head -c 300000 /dev/zero"));
    let half = captured(rung.clone(), Some(&process)).await;
    // (As much as there is room for.)
    let _ = fs::write(tiny.join("others"), vec![b'x'; 200_000]);
    let full = captured(rung.clone(), Some(&process)).await;
    let _ = fs::remove_file(tiny.join("others"));
    let remounted = mount("remount,ro,mode=0700");
    let read_only = captured(rung, Some(&process)).await;
    Command::new("umount").arg(&tiny).status().unwrap();
    // Half of what is free is left to others.
    assert!(detail(&half).contains("sockets.txt kept in"), "{half:?}");
    assert!(detail(&half).contains("not kept: command: "), "{half:?}");
    assert!(matches!(full, RemedyOutcome::Failed { .. }), "{full:?}");
    assert!(
        remounted && matches!(read_only, RemedyOutcome::Failed { .. }),
        "{read_only:?}"
    );
    assert!(
        detail(&read_only).contains("Read-only file system"),
        "{read_only:?}"
    );
}

#[tokio::test]
async fn what_cannot_be_closed_to_others_costs_none_of_the_rest() {
    let process = Process::sleep();
    let dir = tempfile::tempdir().unwrap();
    // As root nothing but another file system says no.
    let script = "cd $DEFIB_CAPTURE_DIR; mkdir sealed; mount -t tmpfs -o ro none sealed || touch no_mount; \
                  head -c 700000 /dev/zero > one; head -c 800000 /dev/zero > two";
    let rung = capture(dir.path(), Some(script));
    let outcome = captured(rung.clone(), Some(&process)).await;
    let one = kept(&rung)[0].clone();
    let mounted = !one.join("no_mount").exists();
    Command::new("umount").arg(one.join("sealed")).status().unwrap();
    if !available("mounting a tmpfs", mounted) {
        return;
    }
    assert!(matches!(outcome, RemedyOutcome::Acted { .. }), "{outcome:?}");
    assert!(
        detail(&outcome).contains("sealed: it stays as it is: "),
        "{outcome:?}"
    );
    assert!(detail(&outcome).contains("two: too large"), "{outcome:?}");
    assert!(
        !one.file_name().unwrap().to_str().unwrap().starts_with('.'),
        "{one:?}"
    );
    assert!(one.join("one").exists() && !one.join("two").exists());
    let mode = fs::metadata(one.join("one")).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
}

#[test]
fn of_a_container_the_last_lines_are_kept_before_it_is_restarted() {
    let Some(engine) = Engine::start() else { return };
    let script = "i=0; while [ $i -lt 300 ]; do i=$((i+1)); echo line $i; done; exec sleep 600";
    let container = engine.run("talker", &[], script);
    // Docker takes the two streams up apart: what is said on one may overtake the other.
    until("its lines are in its log", || {
        docker(&["logs", &container.0]).contains("line 300")
    });
    container.exec(&["sh", "-c", "echo last words >/proc/1/fd/2"]);
    let node = Node::run(&format!(
        r#"
[bus]
settle = "0s"
[peer.talker]
owner = {{ container = "{0}" }}
remedies = [
  {{ do = "capture", logs = 20 }},
  {{ do = "docker", verify_within = "20s" }},
]
"#,
        container.0
    ));
    node.is_calm();
    let events = node.events();
    container.crash();
    let acted = events.one("evidence was kept", |notice| {
        notice["event"] == "acted" && notice["kind"] == "capture"
    });
    assert_eq!(acted["outcome"], "acted", "{acted}");
    let path = node.dir().join("captures");
    let one = fs::read_dir(&path).unwrap().next().unwrap().unwrap().path();
    let log = read(&one, "log.txt");
    assert!(log.contains("last words") && log.contains("line 300"), "{log}");
    assert!(!log.contains("line 200"), "twenty lines are kept:\n{log}");
    events.one("it was restarted", |notice| {
        notice["event"] == "granted" && notice["kind"] == "docker"
    });
    events.of("talker", "recovered");
    let (code, said) = node.tool(&["explain", "talker"]);
    assert_eq!(code, Some(0));
    assert!(said.contains(one.to_str().unwrap()), "{said}");
}
