//! The checks `tcp` and `exec`, on real sockets and processes.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use defib::checks::exec::Exec;
use defib::checks::tcp::{Expected, Target, Tcp};
use defib::checks::{Probe, Schedule, Settings};
use defib::engine::cause::Cause;
use defib::engine::event::Outcome;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, bind, listen, socket};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::checks::{BOUND, CHECK, Running, SOON};

fn once(within: Duration) -> Schedule {
    Schedule {
        interval: Duration::from_secs(3600),
        timeout: within,
    }
}

fn run(probe: Probe, schedule: Schedule) -> Running {
    Running::start(Settings {
        probes: vec![(CHECK, probe, schedule)],
        ..Settings::default()
    })
}

async fn says(probe: Probe, within: Duration) -> Outcome {
    run(probe, once(within)).outcome().await
}

/// It fails as a stuck peer, in these words.
fn fails(outcome: &Outcome, words: &str) {
    match outcome {
        Outcome::Fail {
            cause: Cause::PeerStuck,
            detail,
        } if detail.contains(words) => {}
        other => panic!("no failure with {words:?}: {other:?}"),
    }
}

fn is_unknown(outcome: &Outcome, words: &str) {
    match outcome {
        Outcome::Unknown { detail } if detail.contains(words) => {}
        other => panic!("not unknown with {words:?}: {other:?}"),
    }
}

fn at(host: &str, port: u16) -> Target {
    Target::Port(host.to_owned(), port)
}

fn connects(to: Target) -> Probe {
    Probe::Tcp(Tcp {
        to,
        send: None,
        expect: None,
    })
}

fn hears(to: Target, send: &str, text: &str, first: bool) -> Probe {
    Probe::Tcp(Tcp {
        to,
        send: (!send.is_empty()).then(|| send.to_owned()),
        expect: Some(Expected {
            text: text.to_owned(),
            first,
        }),
    })
}

/// Takes connections and gives each these bytes after it has sent something; then it waits for the other end.
async fn speaker(greeting: &'static [u8], answer: &'static [u8]) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                stream.write_all(greeting).await.unwrap();
                let mut bytes = [0; 64];
                while let Ok(1..) = stream.read(&mut bytes).await {
                    if stream.write_all(answer).await.is_err() {
                        break;
                    }
                }
            });
        }
    });
    port
}

/// A port where nobody listens: taken, and not listened on, so that nobody else gets it.
fn deaf() -> (std::os::fd::OwnedFd, u16) {
    let taken = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&taken, &std::net::SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    let address: std::net::SocketAddr = rustix::net::getsockname(&taken).unwrap().try_into().unwrap();
    (taken, address.port())
}

#[tokio::test]
async fn who_takes_a_connection_passes_and_who_refuses_it_fails() {
    let port = speaker(b"", b"").await;
    assert_eq!(says(connects(at("127.0.0.1", port)), BOUND).await, Outcome::Pass);
    assert_eq!(says(connects(at("localhost", port)), BOUND).await, Outcome::Pass);
    let (_taken, nobody) = deaf();
    let refused = says(connects(at("127.0.0.1", nobody)), BOUND).await;
    fails(&refused, "Connection refused");
}

#[tokio::test]
async fn whoever_was_there_and_goes_is_seen() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut running = run(connects(at("127.0.0.1", port)), SOON);
    assert_eq!(running.outcome().await, Outcome::Pass);
    drop(listener);
    while running.outcome().await == Outcome::Pass {}
    fails(&running.outcome().await, "refused");
}

#[tokio::test]
async fn what_this_node_cannot_do_is_unknown() {
    let resolved = says(connects(at("nowhere.invalid", 80)), BOUND).await;
    is_unknown(&resolved, "cannot resolve nowhere.invalid");
    // No connection leads to everybody; the kernel says so by itself.
    let routed = says(connects(at("255.255.255.255", 80)), BOUND).await;
    is_unknown(&routed, "cannot connect to 255.255.255.255:80");
}

#[tokio::test]
async fn who_takes_no_more_connections_fails() {
    // A queue of one, which nobody takes from: what comes after it gets no answer.
    let stuck = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&stuck, &std::net::SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    listen(&stuck, 0).unwrap();
    let address: std::net::SocketAddr = rustix::net::getsockname(&stuck).unwrap().try_into().unwrap();
    let _queued = TcpStream::connect(address).await.unwrap();
    let outcome = says(
        connects(at("127.0.0.1", address.port())),
        Duration::from_millis(300),
    )
    .await;
    fails(&outcome, "takes no connection in time");
}

#[tokio::test]
async fn what_is_said_is_compared() {
    let port = speaker(b"220 mail ready\r\n", b"+PONG\r\n").await;
    let to = || at("127.0.0.1", port);
    for (send, text, first, passes) in [
        ("", "220 ", true, true),
        ("", "ready", false, true),
        ("PING\r\n", "+PONG", false, true),
        ("", "220 mail ready\r\n", true, true),
    ] {
        let outcome = says(hears(to(), send, text, first), BOUND).await;
        assert_eq!(outcome == Outcome::Pass, passes, "{send:?} {text:?}: {outcome:?}");
    }
    let other = says(hears(to(), "", "ready", true), BOUND).await;
    fails(&other, "says something else: \"220 mail ready\u{fffd}\u{fffd}\"");
    // It could still come, and does not.
    let waited = says(hears(to(), "", "+PONG", false), Duration::from_millis(300)).await;
    fails(&waited, "is silent: \"220 mail");
}

#[tokio::test]
async fn silence_an_early_end_and_a_flood_are_bounded() {
    let silent = speaker(b"", b"").await;
    let outcome = says(
        hears(at("127.0.0.1", silent), "", "x", false),
        Duration::from_millis(300),
    )
    .await;
    fails(&outcome, "is silent");

    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"by").await.unwrap();
        drop(stream);
        let (mut stream, _) = listener.accept().await.unwrap();
        while stream.write_all(&[b'y'; 4096]).await.is_ok() {}
    });
    let outcome = says(hears(at("127.0.0.1", port), "", "bye", true), BOUND).await;
    fails(&outcome, "closed the connection: \"by\"");
    let flooded = says(hears(at("127.0.0.1", port), "", "x", false), BOUND).await;
    fails(&flooded, "says something else: \"yyyy");
}

#[tokio::test]
async fn a_unix_socket_is_connected_to_as_well() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("feed.sock");
    let to = |path: &Path| connects(Target::Unix(path.to_owned()));
    fails(&says(to(&path), BOUND).await, "No such file");
    is_unknown(
        &says(to(Path::new("/no/such/dir/feed.sock")), BOUND).await,
        "No such file",
    );
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    assert_eq!(says(to(&path), BOUND).await, Outcome::Pass);
    drop(listener);
    fails(&says(to(&path), BOUND).await, "refused");

    let full = dir.path().join("full.sock");
    let stuck = socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
    bind(&stuck, &SocketAddrUnix::new(&full).unwrap()).unwrap();
    listen(&stuck, 0).unwrap();
    let _queued = std::os::unix::net::UnixStream::connect(&full).unwrap();
    let outcome = says(to(&full), Duration::from_millis(500)).await;
    assert!(matches!(outcome, Outcome::Fail { .. }), "{outcome:?}");
}

fn exec(argv: &[&str]) -> Exec {
    Exec {
        argv: argv.iter().map(ToString::to_string).collect(),
        pass: vec![0],
        unknown: vec![3],
        late_fails: false,
    }
}

fn shell(script: &str) -> Exec {
    exec(&["sh", "-c", script])
}

#[tokio::test]
async fn an_exit_code_is_read_as_nagios_means_it() {
    let says = |exec: Exec| says(Probe::Exec(exec), BOUND);
    assert_eq!(says(exec(&["true"])).await, Outcome::Pass);
    for code in [1, 2, 4, 125, 128, 255] {
        let script = format!("echo fine; echo 'CRITICAL: {code} ticks late'; exit {code}");
        fails(
            &says(shell(&script)).await,
            &format!("CRITICAL: {code} ticks late"),
        );
    }
    for (script, words) in [
        (
            "echo 'UNKNOWN: no data' >&2; exit 3",
            "status 3: UNKNOWN: no data",
        ),
        ("exit 126", "status 126"),
        ("no-such-program-here", "status 127"),
        ("kill -9 $$", "died of signal 9"),
        ("kill -SEGV $$", "died of signal 11"),
    ] {
        is_unknown(&says(shell(script)).await, words);
    }
    for (argv, words) in [
        (
            &["/no/such/plugin", "hunter2"][..],
            "cannot start /no/such/plugin: No such file",
        ),
        (&["/etc/passwd"], "cannot start /etc/passwd: Permission denied"),
        (&["/tmp"], "cannot start /tmp"),
    ] {
        let outcome = says(exec(argv)).await;
        is_unknown(&outcome, words);
        assert!(!format!("{outcome:?}").contains("hunter2"));
    }
    // No shell: what looks like one is an argument.
    assert_eq!(says(exec(&["echo", "$HOME; exit 1"])).await, Outcome::Pass);
    let warning = Exec {
        pass: vec![0, 1],
        unknown: vec![9],
        ..shell("exit 1")
    };
    assert_eq!(says(warning.clone()).await, Outcome::Pass);
    let argv = shell("exit 3").argv;
    fails(
        &says(Exec {
            argv,
            ..warning.clone()
        })
        .await,
        "status 3",
    );
    let argv = shell("exit 9").argv;
    is_unknown(&says(Exec { argv, ..warning }).await, "status 9");
}

async fn pid_in(path: &Path) -> i32 {
    for _ in 0..3000 {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        if let Some(pid) = text.strip_suffix('\n').and_then(|pid| pid.parse().ok()) {
            return pid;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("nothing in {}", path.display());
}

/// It is gone, or a zombie that nobody has reaped yet.
async fn ends(pid: i32) {
    let stat = PathBuf::from(format!("/proc/{pid}/stat"));
    for _ in 0..3000 {
        let stat = std::fs::read_to_string(&stat).unwrap_or_default();
        if stat.is_empty() || stat.contains(") Z ") {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{pid} lives on");
}

#[tokio::test]
async fn a_command_whose_time_is_up_ends_with_its_group_and_none_is_started_beside_it() {
    let dir = tempfile::tempdir().unwrap();
    let (starts, grandchild) = (dir.path().join("starts"), dir.path().join("grandchild"));
    let script = format!(
        "echo x >> {}; sh -c 'echo $$ > {}; exec sleep 600' & echo waiting; wait",
        starts.display(),
        grandchild.display()
    );
    let schedule = Schedule {
        interval: Duration::from_millis(50),
        timeout: Duration::from_secs(2),
    };
    let mut running = run(Probe::Exec(shell(&script)), schedule);
    let first = pid_in(&grandchild).await;
    assert_eq!(std::fs::read_to_string(&starts).unwrap(), "x\n", "one at a time");
    is_unknown(
        &running.outcome().await,
        "did not end within 2s: its process group was ended: waiting",
    );
    ends(first).await;
    // A check that is stopped takes along what it runs.
    std::fs::remove_file(&grandchild).unwrap();
    let second = pid_in(&grandchild).await;
    running.stop().await;
    ends(second).await;

    let late = Exec {
        late_fails: true,
        ..exec(&["sleep", "600"])
    };
    let outcome = says(Probe::Exec(late), Duration::from_millis(200)).await;
    fails(&outcome, "sleep did not end within 200ms");
}

#[tokio::test]
async fn a_command_knows_whom_it_looks_at_and_none_of_our_secrets() {
    // What any test run has in its environment stands for a secret, and for something that is none.
    let (secret, kept) = ("CARGO_MANIFEST_DIR", "CARGO_PKG_VERSION");
    assert!(std::env::var_os(secret).is_some() && std::env::var_os(kept).is_some());
    let script =
        "env | grep ^DEFIB_ | sort | tr '\\n' ' '; echo $CARGO_MANIFEST_DIR $CARGO_PKG_VERSION; exit 1";
    let settings = Settings {
        probes: vec![(CHECK, Probe::Exec(shell(script)), SOON)],
        ..Settings::default()
    };
    let mut running = Running::start_beside(settings, crate::keys::nowhere(), &[secret]);
    let outcome = running.outcome().await;
    // The checks of these tests have numbers for names.
    let version = env!("CARGO_PKG_VERSION");
    fails(
        &outcome,
        &format!("status 1: DEFIB_CHECK=0 DEFIB_PEER=0 {version}"),
    );

    // The owner's process, once it is held.
    let process = crate::checks::Process::sleep();
    let settings = Settings {
        owners: vec![(
            crate::checks::PEER,
            defib::checks::Owner::Pid(process.pid()),
            None,
            SOON,
        )],
        probes: vec![(CHECK, Probe::Exec(shell("echo pid $DEFIB_PID; exit 1")), SOON)],
        ..Settings::default()
    };
    let mut running = Running::start(settings);
    let wanted = format!("pid {}", process.pid());
    loop {
        match running.outcome().await {
            Outcome::Fail { detail, .. } if detail.ends_with(&wanted) => break,
            Outcome::Fail { detail, .. } => assert!(detail.ends_with("pid"), "{detail}"),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_flood_of_output_is_read_and_forgotten() {
    let script = "head -c 100000000 /dev/zero | tr '\\0' x; printf '\\033[2Jlast\\n' >&2; exit 1";
    let outcome = says(Probe::Exec(shell(script)), BOUND).await;
    fails(&outcome, "status 1: \u{fffd}[2Jlast");
}
