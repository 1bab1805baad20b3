//! The executors, on real processes and sockets: the fence, and what each remedy does and refuses.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use defib::checks::{Owner, Schedule};
use defib::condemned::CondemnedTable;
use defib::docker::{Docker, Settings};
use defib::engine::cause::Cause;
use defib::engine::decision::Grant;
use defib::engine::event::{Incarnation, OwnerSeen, PeerId, RemedyOutcome};
use defib::engine::settings::RemedyKind;
use defib::engine::time::Time;
use defib::owner_table::OwnerTable;
use defib::redis_client::{self, Endpoint, Redis};
use defib::remedies::{Executors, Remedy, Signal, Surroundings, Until};
use defib::secret::Secret;
use defib::telemetry::metrics::Metrics;

use crate::checks::{Process, Reply, Running, Server, TestClock, question, status, until};
use crate::support::available;
use crate::support::ports::free_port;

const BOUND: Duration = Duration::from_secs(30);
const HOURLY: Schedule = Schedule {
    interval: Duration::from_secs(3600),
    timeout: Duration::from_secs(10),
};

pub(crate) fn life(text: &str) -> Incarnation {
    Incarnation(text.into())
}

pub(crate) fn grant(incarnation: &Incarnation) -> Grant {
    Grant {
        token: 42,
        peer: PeerId(0),
        name: "feed".into(),
        incarnation: incarnation.clone(),
        exited: false,
        rung: 0,
        kind: RemedyKind::Exec,
        cause: Cause::PeerStuck,
        attempt: 2,
        until: Time::MAX,
    }
}

pub(crate) fn surroundings(owners: OwnerTable) -> Surroundings {
    Surroundings {
        owners,
        latest: Arc::new(|_| Some(life("boot:1"))),
        tell: Arc::new(|_, _| Err("nobody listens")),
        hold_container: |_| Err("out of sight".to_owned()),
        condemned: CondemnedTable::default(),
        docker: Docker::new(Settings::default()),
        systemd: defib::systemd::Systemd::new(defib::systemd::Settings::default()),
        redis: redis_client::Server::new(
            Arc::new(Redis::new(Endpoint::tcp("127.0.0.1".to_owned(), 1))),
            &"n".into(),
        ),
        lock_dir: None,
        scrub: Vec::new(),
        clock: TestClock::shared(),
        metrics: Metrics::new().unwrap().remedies,
    }
}

pub(crate) fn executors(remedy: Remedy, around: Surroundings) -> Executors {
    Executors::new([((PeerId(0), 0), remedy)].into(), around)
}

/// One remedy for a peer without an owner.
async fn heal(remedy: Remedy) -> RemedyOutcome {
    let healing = executors(remedy, surroundings(OwnerTable::default()));
    let grant = grant(&life("boot:1"));
    tokio::time::timeout(BOUND, healing.heal(grant))
        .await
        .expect("not in time")
}

/// At a desk where nobody takes it.
pub(crate) async fn heal_by_notifying() -> RemedyOutcome {
    heal(Remedy::Notify { to: "pager".into() }).await
}

fn shell(script: &str, timeout: Duration) -> Remedy {
    exec(&["sh", "-c", script], timeout)
}

fn exec(argv: &[&str], timeout: Duration) -> Remedy {
    let argv = argv.iter().map(ToString::to_string).collect();
    Remedy::Exec { argv, timeout }
}

fn signal(name: &str, then: Option<(u64, &str)>) -> Remedy {
    let parse = |name| Signal::parse(name).unwrap();
    Remedy::Signal {
        signal: parse(name),
        then: then.map(|(millis, name)| (Duration::from_millis(millis), parse(name))),
    }
}

fn alive(pid: i32) -> bool {
    // A zombie has ended.
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" Z")))
}

async fn pid_in(path: &Path) -> i32 {
    until(|| fs::read_to_string(path).is_ok_and(|text| text.ends_with('\n'))).await;
    fs::read_to_string(path).unwrap().trim().parse().unwrap()
}

#[tokio::test]
async fn a_signal_goes_to_the_condemned_life_and_no_other() {
    let process = Process::sleep();
    let mut watch = Running::owner(Owner::Pid(process.pid()), HOURLY);
    let incarnation = watch.running().await;
    let healing = executors(signal("TERM", None), surroundings(watch.owners.clone()));

    let other = healing.heal(grant(&life("proc:x:1:1"))).await;
    assert!(matches!(other, RemedyOutcome::Fenced { .. }), "{other:?}");
    let pretended = Grant {
        exited: true,
        ..grant(&incarnation)
    };
    let pretended = healing.heal(pretended).await;
    assert!(
        matches!(&pretended, RemedyOutcome::Fenced { detail } if detail.contains("still runs")),
        "{pretended:?}"
    );
    assert!(alive(process.0.id().cast_signed()));

    let sent = healing.heal(grant(&incarnation)).await;
    let detail = format!("SIGTERM sent to process {}", process.pid());
    assert_eq!(sent, RemedyOutcome::Acted { detail });
    assert_eq!(watch.seen().await, OwnerSeen::Exited(incarnation.clone()));
    let gone = healing.heal(grant(&incarnation)).await;
    assert!(matches!(gone, RemedyOutcome::Fenced { .. }), "{gone:?}");
    let exited = Grant {
        exited: true,
        ..grant(&incarnation)
    };
    let gone = healing.heal(exited).await;
    assert!(
        matches!(&gone, RemedyOutcome::NotActed { detail } if detail.contains("already gone")),
        "{gone:?}"
    );
}

#[tokio::test]
async fn an_exit_that_the_watch_has_not_told_yet_is_seen_by_the_fence() {
    let mut process = Process::sleep();
    let mut watch = Running::owner(Owner::Pid(process.pid()), HOURLY);
    let incarnation = watch.running().await;
    let healing = executors(signal("TERM", None), surroundings(watch.owners.clone()));
    process.0.kill().unwrap();
    process.0.wait().unwrap();
    // No await since: the watch had no chance to run on this thread, and still holds the pidfd.
    let outcome = healing.heal(grant(&incarnation)).await;
    assert!(
        matches!(&outcome, RemedyOutcome::Fenced { detail } if detail.contains("ended meanwhile")),
        "{outcome:?}"
    );
}

#[tokio::test]
async fn s33_a_newer_life_that_the_watch_has_not_seen_yet_is_not_touched() {
    let dir = tempfile::tempdir().unwrap();
    let (pid_file, touched) = (dir.path().join("pid"), dir.path().join("touched"));
    let mut first = Process::sleep();
    fs::write(&pid_file, first.pid().to_string()).unwrap();
    let mut watch = Running::owner(Owner::PidFile(pid_file.clone()), HOURLY);
    let incarnation = watch.running().await;
    let touch = shell(&format!("echo > {}", touched.display()), BOUND);
    let healing = executors(touch, surroundings(watch.owners.clone()));
    first.kill();
    assert_eq!(watch.seen().await, OwnerSeen::Exited(incarnation.clone()));

    let exited = Grant {
        exited: true,
        ..grant(&incarnation)
    };
    let second = Process::sleep();
    fs::write(&pid_file, second.pid().to_string()).unwrap();
    let outcome = healing.heal(exited.clone()).await;
    assert!(
        matches!(&outcome, RemedyOutcome::Fenced { detail } if detail.contains("another life")),
        "{outcome:?}"
    );
    assert!(!touched.exists());
    watch.stop().await;

    // Nobody runs: the remedy may do its work.
    let owners = OwnerTable::default();
    owners.watch(PeerId(0), Arc::new(|| None));
    let touch = shell(&format!("echo > {}", touched.display()), BOUND);
    let outcome = executors(touch, surroundings(owners)).heal(exited).await;
    assert!(matches!(outcome, RemedyOutcome::Acted { .. }), "{outcome:?}");
    assert!(touched.exists());
}

#[tokio::test]
async fn without_an_owner_the_newest_incarnation_known_is_the_fence() {
    let around = Surroundings {
        latest: Arc::new(|PeerId(index)| (index == 0).then(|| life("boot:2"))),
        ..surroundings(OwnerTable::default())
    };
    let rungs = [
        ((PeerId(0), 0), exec(&["true"], BOUND)),
        ((PeerId(1), 0), exec(&["true"], BOUND)),
    ];
    let healing = Executors::new(rungs.into(), around);
    let of = |peer, incarnation, exited| Grant {
        peer: PeerId(peer),
        exited,
        ..grant(&life(incarnation))
    };
    for (grant, wanted) in [
        (of(0, "boot:2", false), "acted"),
        (of(0, "boot:2", true), "acted"),
        (of(0, "boot:1", false), "fenced"),
        (of(0, "boot:1", true), "fenced"),
        (of(1, "boot:1", false), "fenced"),
        (of(1, "boot:1", true), "acted"),
    ] {
        let outcome = healing.heal(grant.clone()).await;
        let is = match outcome {
            RemedyOutcome::Acted { .. } => "acted",
            RemedyOutcome::Fenced { .. } => "fenced",
            RemedyOutcome::NotActed { .. } => "not_acted",
            RemedyOutcome::Failed { .. } => "failed",
        };
        assert_eq!(is, wanted, "{grant:?}: {outcome:?}");
    }
}

#[tokio::test]
async fn a_second_signal_follows_only_where_the_first_did_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let ready = dir.path().join("ready");
    for (trap, wanted) in [("trap '' TERM; ", "so SIGKILL too"), ("", "which ended")] {
        let script = format!("{trap}echo $$ > {}; read x", ready.display());
        let mut command = Command::new("sh");
        let command = command.args(["-c", &script]).stdin(Stdio::piped());
        let process = Process(command.spawn().unwrap());
        pid_in(&ready).await;
        let mut watch = Running::owner(Owner::Pid(process.pid()), HOURLY);
        let incarnation = watch.running().await;
        let delay = if trap.is_empty() { 20_000 } else { 100 };
        let healing = executors(
            signal("TERM", Some((delay, "KILL"))),
            surroundings(watch.owners.clone()),
        );
        let outcome = healing.heal(grant(&incarnation)).await;
        assert!(
            matches!(&outcome, RemedyOutcome::Acted { detail } if detail.contains(wanted)),
            "{outcome:?}"
        );
        assert_eq!(watch.seen().await, OwnerSeen::Exited(incarnation));
        fs::remove_file(&ready).unwrap();
    }
}

#[tokio::test]
async fn pid_1_of_a_namespace_is_signalled_only_if_it_handles_the_signal() {
    let unshare = ["--pid", "--fork", "--kill-child", "sh", "-c"];
    let works = Command::new("unshare").args(unshare).arg("true").status();
    if !available(
        "a pid namespace (unshare as root)",
        works.is_ok_and(|status| status.success()),
    ) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let ready = dir.path().join("ready");
    for (trap, wanted) in [
        ("", "does not handle SIGTERM"),
        ("trap 'exit 0' TERM; ", "SIGTERM sent"),
    ] {
        let mark = format!("defib-it-{}-{}", std::process::id(), trap.len());
        // `wait` returns when the trap runs; the child ends with its namespace.
        let script = format!("{trap}sleep 600 & echo 1 > {}; wait # {mark}", ready.display());
        let outer = Process::start("unshare", &[&unshare[..], &[&script]].concat());
        pid_in(&ready).await;
        let children = format!("/proc/{0}/task/{0}/children", outer.pid());
        let init: u32 = fs::read_to_string(children).unwrap().trim().parse().unwrap();
        let mut watch = Running::owner(Owner::Pid(init), HOURLY);
        let incarnation = watch.running().await;
        let healing = executors(signal("TERM", None), surroundings(watch.owners.clone()));
        let outcome = healing.heal(grant(&incarnation)).await;
        let (RemedyOutcome::Acted { detail } | RemedyOutcome::NotActed { detail }) = &outcome else {
            panic!("{outcome:?}");
        };
        assert!(detail.contains(wanted), "{outcome:?}");
        if trap.is_empty() {
            let healing = executors(signal("KILL", None), surroundings(watch.owners.clone()));
            let outcome = healing.heal(grant(&incarnation)).await;
            assert!(matches!(outcome, RemedyOutcome::NotActed { .. }), "{outcome:?}");
            assert!(alive(init.cast_signed()));
        } else {
            assert_eq!(watch.seen().await, OwnerSeen::Exited(incarnation));
        }
        fs::remove_file(&ready).unwrap();
    }
}

#[tokio::test]
async fn a_command_knows_whom_it_heals_and_none_of_our_secrets() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("env");
    let script = shell(&format!("env > {}; cat", path.display()), BOUND);
    // What any test run has in its environment stands for a secret.
    let secret = "CARGO_MANIFEST_DIR";
    assert!(std::env::var_os(secret).is_some());
    let around = Surroundings {
        scrub: vec![secret.to_owned()],
        ..surroundings(OwnerTable::default())
    };
    let rungs = [((PeerId(0), 0), script)];
    let outcome = Executors::new(rungs.into(), around)
        .heal(grant(&life("boot:1")))
        .await;
    let detail = "sh ended with status 0".to_owned();
    assert_eq!(outcome, RemedyOutcome::Acted { detail });
    let env = fs::read_to_string(path).unwrap();
    let mut ours: Vec<_> = env.lines().filter(|line| line.starts_with("DEFIB_")).collect();
    ours.sort_unstable();
    let wanted = [
        "DEFIB_ATTEMPT=2",
        "DEFIB_CAUSE=peer_stuck",
        "DEFIB_FENCING_TOKEN=42",
        "DEFIB_INCARNATION=boot:1",
        "DEFIB_PEER=feed",
    ];
    assert_eq!(ours, wanted);
    assert!(env.contains("PATH=") && env.contains("CARGO_PKG_VERSION="));
    assert!(!env.contains(secret), "{env}");
}

#[tokio::test]
async fn how_a_command_ends_is_told() {
    for (argv, wanted) in [
        (&["true"][..], "Acted { detail: \"true ended with status 0\" }"),
        (
            &["sh", "-c", "echo on; echo dear >&2; exit 3"],
            "Failed { detail: \"sh ended with exit status: 3; it said last: dear\" }",
        ),
        (
            &["sh", "-c", "kill -9 $$"],
            "Failed { detail: \"sh ended with signal: 9 (SIGKILL)\" }",
        ),
        (
            &["/does/not/exist", "hunter2"],
            "NotActed { detail: \"cannot start /does/not/exist: No such file or directory (os error 2)\" }",
        ),
        (&[], "NotActed { detail: \"the command is empty\" }"),
        // No shell: what looks like one is an argument.
        (
            &["echo", "$HOME; exit 1"],
            "Acted { detail: \"echo ended with status 0\" }",
        ),
    ] {
        let outcome = heal(exec(argv, BOUND)).await;
        assert_eq!(format!("{outcome:?}"), wanted);
    }
}

#[tokio::test]
async fn a_command_whose_time_is_up_ends_with_its_whole_group() {
    let dir = tempfile::tempdir().unwrap();
    let (child, grandchild) = (dir.path().join("child"), dir.path().join("grandchild"));
    // Neither ends by SIGTERM.
    let inner = format!(
        "trap '' TERM; echo $$ > {}; while :; do sleep 1; done",
        grandchild.display()
    );
    let script = format!(
        "trap '' TERM; sh -c '{}' & echo $$ > {}; while :; do sleep 1; done",
        inner.replace('\'', "'\\''"),
        child.display()
    );
    let outcome = heal(shell(&script, Duration::from_secs(1))).await;
    assert!(
        matches!(&outcome, RemedyOutcome::Failed { detail } if detail.contains("did not end within 1s")),
        "{outcome:?}"
    );
    let (child, grandchild) = (pid_in(&child).await, pid_in(&grandchild).await);
    until(|| !alive(child) && !alive(grandchild)).await;
}

#[tokio::test]
async fn a_remedy_that_is_dropped_takes_its_group_along() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("grandchild");
    let script = shell(
        &format!("sh -c 'echo $$ > {}; read x < /dev/zero' & wait", path.display()),
        BOUND,
    );
    let healing = executors(script, surroundings(OwnerTable::default()));
    let pid = tokio::select! {
        outcome = healing.heal(grant(&life("boot:1"))) => panic!("{outcome:?}"),
        pid = pid_in(&path) => pid,
    };
    until(|| !alive(pid)).await;
}

#[tokio::test]
async fn a_grandchild_that_keeps_the_pipe_does_not_keep_us() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pid");
    // In its own session, so that not even a time-out would reach it; and our end does not end it.
    let script = format!(
        "setsid sh -c 'echo $$ > {}; exec sleep 600' & exit 0",
        path.display()
    );
    let outcome = heal(shell(&script, BOUND)).await;
    assert!(matches!(outcome, RemedyOutcome::Acted { .. }), "{outcome:?}");
    let pid = pid_in(&path).await;
    assert!(alive(pid), "what left the group lives on");
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(pid).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
}

#[tokio::test]
async fn a_flood_without_a_newline_is_read_counted_and_dropped() {
    let metrics = Metrics::new().unwrap();
    let around = Surroundings {
        metrics: metrics.remedies.clone(),
        ..surroundings(OwnerTable::default())
    };
    let flood = shell("head -c 100000000 /dev/zero; echo; echo end >&2; exit 1", BOUND);
    let before = peak_kib();
    let outcome = executors(flood, around).heal(grant(&life("boot:1"))).await;
    assert!(
        matches!(&outcome, RemedyOutcome::Failed { detail } if detail.ends_with("end")),
        "{outcome:?}"
    );
    assert!(peak_kib() - before < 50_000, "the output was kept");
    let text = prometheus::TextEncoder::new()
        .encode_to_string(&metrics.registry.gather())
        .unwrap();
    assert!(
        text.contains("defib_executor_output_dropped_bytes_total 99998976"),
        "{text}"
    );
}

fn peak_kib() -> i64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn post(url: String, until: Option<Until>) -> Remedy {
    Remedy::Http {
        url,
        method: "POST".into(),
        body: Some(r#"{"why": "defib"}"#.into()),
        bearer: Some(Secret::Inline("hunter2".into())),
        timeout: Duration::from_secs(2),
        until,
    }
}

#[tokio::test]
async fn a_request_acted_only_if_it_was_accepted() {
    for (reply, wanted) in [
        (status(200, "x"), "Acted"),
        (status(204, ""), "Acted"),
        (status(500, ""), "Failed"),
        (status(403, ""), "Failed"),
        (status(302, ""), "Failed"),
        (Reply::Bytes(String::new()), "Failed"),
        (Reply::Stall(String::new()), "Failed"),
    ] {
        let server = Server::start(reply).await;
        let outcome = heal(post(server.url(), None)).await;
        assert!(format!("{outcome:?}").starts_with(wanted), "{outcome:?}");
        let request = server.requests.lock().unwrap().concat().to_lowercase();
        assert!(request.starts_with("post /health http/1.1\r\n"), "{request}");
        assert!(
            request.contains("content-type: application/json\r\n"),
            "{request}"
        );
        assert!(request.contains("authorization: bearer hunter2\r\n"), "{request}");
    }
    let free = free_port();
    for url in [format!("http://127.0.0.1:{free}/"), "http://u:hunter2@x/".into()] {
        let outcome = heal(post(url, None)).await;
        assert!(format!("{outcome:?}").starts_with("NotActed"), "{outcome:?}");
        assert!(!format!("{outcome:?}").contains("hunter2"));
    }
}

#[tokio::test]
async fn s46_a_drain_is_waited_for_until_it_is_done_or_its_time_is_up() {
    let server = Server::start(status(200, "")).await;
    let gauge = Server::start(status(503, "")).await;
    let drained = |deadline| Until {
        check: question(&gauge.url()),
        deadline,
        interval: Duration::from_millis(20),
    };
    let late = heal(post(server.url(), Some(drained(Duration::from_millis(200))))).await;
    assert!(
        matches!(&late, RemedyOutcome::Acted { detail } if detail.contains("not there within") && detail.contains("status 503")),
        "{late:?}"
    );
    let asked = gauge.requests.lock().unwrap().len();
    let ended = AtomicBool::new(false);
    let healing = async {
        let outcome = heal(post(server.url(), Some(drained(BOUND)))).await;
        ended.store(true, Ordering::SeqCst);
        outcome
    };
    let draining = async {
        until(|| gauge.requests.lock().unwrap().len() > asked + 2).await;
        assert!(!ended.load(Ordering::SeqCst), "the wait ended before the drain");
        gauge.set(status(200, ""));
    };
    let (outcome, ()) = tokio::join!(healing, draining);
    assert!(
        matches!(&outcome, RemedyOutcome::Acted { detail } if detail.contains("was there")),
        "{outcome:?}"
    );
}

#[tokio::test]
async fn one_healer_per_peer_and_machine() {
    let dir = tempfile::tempdir().unwrap();
    let locked = || Surroundings {
        lock_dir: Some(dir.path().to_owned()),
        ..surroundings(OwnerTable::default())
    };
    let started = dir.path().join("started");
    let script = shell(&format!("echo 1 > {}; exec sleep 600", started.display()), BOUND);
    let (one, two) = (
        executors(script, locked()),
        executors(exec(&["true"], BOUND), locked()),
    );
    tokio::select! {
        outcome = one.heal(grant(&life("boot:1"))) => panic!("{outcome:?}"),
        _ = pid_in(&started) => {}
    }
    // Dropped: the lock is free again. And taken for good by another holder:
    let outcome = two.heal(grant(&life("boot:1"))).await;
    assert!(matches!(outcome, RemedyOutcome::Acted { .. }), "{outcome:?}");
    let holder = fs::File::open(dir.path().join("heal-feed.lock")).unwrap();
    rustix::fs::flock(&holder, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let outcome = two.heal(grant(&life("boot:1"))).await;
    assert!(
        matches!(&outcome, RemedyOutcome::Fenced { detail } if detail.contains("another defib")),
        "{outcome:?}"
    );
}

#[tokio::test]
async fn what_has_no_executor_is_not_acted_and_a_log_line_needs_no_fence() {
    let healing = executors(Remedy::Log, surroundings(OwnerTable::default()));
    let outcome = healing.heal(grant(&life("anything"))).await;
    assert!(matches!(outcome, RemedyOutcome::Acted { .. }), "{outcome:?}");
    let pulse = Grant {
        rung: 1,
        kind: RemedyKind::Healthz,
        ..grant(&life("boot:1"))
    };
    let outcome = healing.heal(pulse).await;
    assert!(matches!(outcome, RemedyOutcome::NotActed { .. }), "{outcome:?}");
}
