//! The `file` check and owners found by a heartbeat file: real files of every kind, real processes, the kernel's word
//! for changes. kstlib's own files are in `scenarios/files.rs`.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use defib::checks::file::{Condition, File, Format, Pid, Progress};
use defib::checks::{Owner, Probe, Schedule, Settings};
use defib::engine::cause::Cause;
use defib::engine::event::{Event, Outcome, OwnerSeen, Word};
use defib::engine::time::Clock as _;
use defib::heartbeat_file::{Status, Writer, hostname};
use defib::runtime::clock::MonotonicClock;
use serde_json::{Map, Value, json};

use crate::checks::{CHECK, PEER, Process, Running, SOON};

/// Only what is told at once is seen in time.
const SELDOM: Schedule = Schedule {
    interval: Duration::from_secs(3600),
    timeout: Duration::from_secs(10),
};
const LONG: Duration = Duration::from_secs(3600);

/// A directory of its own with a file to come.
struct Place {
    dir: tempfile::TempDir,
    path: PathBuf,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("heartbeat.json");
        Self { dir, path }
    }

    fn file(&self) -> File {
        File {
            path: self.path.clone(),
            format: Format::Json {
                timestamp: Some("timestamp".into()),
            },
            max_age: LONG,
            progress: None,
            stopped_when: None,
            pid: Pid::Seen,
            any_host: false,
        }
    }

    /// Replaced as a whole.
    fn put(&self, content: impl AsRef<[u8]>) {
        let temporary = self.dir.path().join("new");
        fs::write(&temporary, content).unwrap();
        fs::rename(temporary, &self.path).unwrap();
    }

    fn beat(&self, pid: u32, more: &Value) {
        let mut beat = json!({
            "timestamp": (wall() - Duration::from_secs(1)).as_secs_f64(),
            "pid": pid,
            "hostname": hostname(),
            "metadata": {},
        });
        for (key, value) in more.as_object().unwrap() {
            beat[key] = value.clone();
        }
        self.put(beat.to_string());
    }

    fn watched(file: File, schedule: Schedule) -> Running {
        Running::start(Settings {
            probes: vec![(CHECK, Probe::File(file), schedule)],
            ..Settings::default()
        })
    }
}

fn wall() -> Duration {
    MonotonicClock::start().wall()
}

async fn until(running: &mut Running, what: &str, is_so: impl Fn(&Outcome) -> bool) -> String {
    let mut last = None;
    for _ in 0..500 {
        let outcome = running.outcome().await;
        if is_so(&outcome) {
            return match outcome {
                Outcome::Pass => String::new(),
                Outcome::Fail { detail, .. }
                | Outcome::Doubt { detail, .. }
                | Outcome::Unknown { detail } => detail,
            };
        }
        last = Some(outcome);
    }
    panic!("waited in vain until {what}: {last:?}");
}

fn passes(outcome: &Outcome) -> bool {
    *outcome == Outcome::Pass
}

fn is_unknown(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Unknown { .. })
}

fn fails(cause: Cause) -> impl Fn(&Outcome) -> bool {
    move |outcome| matches!(outcome, Outcome::Fail { cause: is, .. } if *is == cause)
}

#[tokio::test]
async fn s27_content_that_changes_is_life_and_nothing_else() {
    let place = Place::new();
    let file = File {
        max_age: Duration::from_millis(600),
        ..place.file()
    };
    // Its date is never right, but at first sight: from then on it does not matter.
    let dated = |date: &str, n: u32| json!({"timestamp": date, "n": n}).to_string();
    place.beat(1, &json!({"timestamp": wall().as_secs_f64()}));
    let mut running = Place::watched(file, SOON);
    until(&mut running, "it is fresh", passes).await;
    let said = until(&mut running, "it is silent", fails(Cause::PeerSilent)).await;
    assert!(said.contains("it has not changed for "), "{said}");
    let old = dated("2001-01-01T00:00:00Z", 1);
    place.put(&old);
    until(&mut running, "it changed", passes).await;
    // The same once more, in each way there is to write it.
    for way in 0..4 {
        match way {
            0 => place.put(&old),
            1 => fs::write(&place.path, &old).unwrap(),
            2 => {
                fs::remove_file(&place.path).unwrap();
                fs::write(&place.path, &old).unwrap();
            }
            _ => {
                let file = OpenOptions::new().append(true).open(&place.path).unwrap();
                file.set_modified(UNIX_EPOCH + wall()).unwrap();
            }
        }
        until(&mut running, "it is silent", fails(Cause::PeerSilent)).await;
        assert_ne!(running.outcome().await, Outcome::Pass, "{way}");
    }
    place.put(dated("2001-01-01T00:00:00", 2));
    until(&mut running, "it lives again", passes).await;
}

#[tokio::test]
async fn s27_hostile_files_fail_or_are_unknown_and_harm_nothing() {
    let place = Place::new();
    let mut running = Place::watched(place.file(), SOON);
    let fresh = || json!({"timestamp": wall().as_secs_f64(), "pid": 0}).to_string();
    let silent = fails(Cause::PeerSilent);

    let said = until(&mut running, "it is missing", &silent).await;
    assert!(said.contains("it is missing"), "{said}");
    let deep = format!("{{\"timestamp\": 1, \"a\": {}", "[".repeat(50_000));
    let huge = format!("{{\"timestamp\": 1{}}}", "0".repeat(400));
    let contents: [(&[u8], &str); 12] = [
        (b"", "it is empty"),
        (b"{\"timestamp\": \"2026-11-2", "not a whole JSON object"),
        (b"[1]", "not a JSON object"),
        (b"{\"pid\": 1}", "it has no field timestamp"),
        (b"{\"timestamp\": null}", "is not ISO 8601"),
        (b"{\"timestamp\": \"soon\"}", "is not ISO 8601"),
        (b"{\"timestamp\": \"\xff\"}", "not UTF-8"),
        (b"\x7fELF\x02\x01\x01\x00\x00", "not a whole JSON object"),
        (deep.as_bytes(), "recursion limit"),
        (huge.as_bytes(), "out of range"),
        (b"null", "not a JSON object"),
        (b"{} {\"timestamp\": 1}", "not a whole JSON object"),
    ];
    for (content, why) in contents {
        place.put(fresh());
        until(&mut running, "it is whole", passes).await;
        place.put(content);
        let said = until(&mut running, why, &silent).await;
        assert!(said.contains(why), "{said}");
        assert!(said.len() < 512, "{said}");
    }
    // Of two fields of one name the later one counts.
    place.put("{\"timestamp\": null, \"timestamp\": 1}");
    until(&mut running, "the later one counts", passes).await;
    place.put(vec![b' '; 10 << 20]);
    let said = until(&mut running, "it is too long", is_unknown).await;
    assert!(said.contains("longer than 65536 bytes"), "{said}");
}

#[tokio::test]
async fn s27_what_is_in_the_place_of_a_file_is_none() {
    type Make = fn(&Path);
    let place = Place::new();
    let mut running = Place::watched(place.file(), SOON);
    let makers: [(Make, &str); 5] = [
        (|path| fs::create_dir(path).unwrap(), "not a regular file"),
        (|path| symlink(path, path).unwrap(), "a loop"),
        (|path| symlink("/nowhere/at/all", path).unwrap(), "it is missing"),
        (
            |path| {
                let (fifo, mode) = (rustix::fs::FileType::Fifo, 0o600.into());
                rustix::fs::mknodat(rustix::fs::CWD, path, fifo, mode, 0).unwrap();
            },
            "not a regular file",
        ),
        (|path| symlink("/dev/zero", path).unwrap(), "not a regular file"),
    ];
    for (make, why) in makers {
        make(&place.path);
        let said = until(&mut running, why, |outcome| {
            fails(Cause::PeerSilent)(outcome)
                && matches!(outcome, Outcome::Fail { detail, .. } if detail.contains(why))
        })
        .await;
        assert!(said.starts_with(place.path.to_str().unwrap()), "{said}");
        if place.path.is_dir() {
            fs::remove_dir(&place.path).unwrap();
        } else {
            fs::remove_file(&place.path).unwrap();
        }
    }
    // What cannot be read is not dead.
    symlink("/proc/self/mem", &place.path).unwrap();
    let said = until(&mut running, "it cannot be read", is_unknown).await;
    assert!(said.contains("cannot be read"), "{said}");
    // A link that leads somewhere is followed.
    fs::remove_file(&place.path).unwrap();
    let real = place.dir.path().join("real");
    fs::write(&real, json!({"timestamp": wall().as_secs_f64()}).to_string()).unwrap();
    symlink(&real, &place.path).unwrap();
    until(&mut running, "it is there", passes).await;
}

#[tokio::test]
async fn s27_a_change_is_told_by_the_kernel() {
    let place = Place::new();
    place.beat(1, &json!({}));
    let mut running = Place::watched(place.file(), SELDOM);
    // The first one comes by itself, the next ones in an hour.
    assert_eq!(running.outcome().await, Outcome::Pass);
    place.put("{");
    assert!(fails(Cause::PeerSilent)(&running.outcome().await));
    place.beat(1, &json!({"n": 1}));
    assert_eq!(running.outcome().await, Outcome::Pass);
    // Others in the same directory are nobody's business.
    fs::write(place.dir.path().join("other"), "x").unwrap();
    fs::write(&place.path, "{").unwrap();
    assert!(fails(Cause::PeerSilent)(&running.outcome().await));
}

#[tokio::test]
async fn s27_a_link_that_is_turned_is_told_by_the_kernel() {
    // As a ConfigMap is replaced.
    let place = Place::new();
    let here = |name: &str| place.dir.path().join(name);
    for (dir, content) in [("a", "{\"timestamp\": 1}"), ("b", "{")] {
        fs::create_dir(here(dir)).unwrap();
        fs::write(here(dir).join("heartbeat.json"), content).unwrap();
    }
    symlink("a", here("..data")).unwrap();
    symlink("..data/heartbeat.json", &place.path).unwrap();
    let mut running = Place::watched(
        File {
            max_age: Duration::from_secs(1 << 40),
            ..place.file()
        },
        SELDOM,
    );
    assert_eq!(running.outcome().await, Outcome::Pass);
    symlink("b", here("..tmp")).unwrap();
    fs::rename(here("..tmp"), here("..data")).unwrap();
    assert!(fails(Cause::PeerSilent)(&running.outcome().await));
}

#[tokio::test]
async fn s27_a_loop_that_hangs_is_told_from_a_program_that_is_silent() {
    let place = Place::new();
    let file = File {
        progress: Some(Progress {
            field: "metadata.cycles".into(),
            max_age: Duration::from_millis(500),
        }),
        ..place.file()
    };
    let mut running = Place::watched(file, SOON);
    let beat = |n: u32, cycles: u32| place.beat(1, &json!({"n": n, "metadata": {"cycles": cycles}}));
    for n in 0..20 {
        beat(n, n);
        until(&mut running, "it goes on", passes).await;
    }
    let mut said = String::new();
    for n in 0..500 {
        beat(n, 20);
        match running.outcome().await {
            Outcome::Pass => {}
            Outcome::Fail {
                cause: Cause::PeerStuck,
                detail,
            } => {
                said = detail;
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(
        said.contains("it goes on, but its metadata.cycles is 20 for "),
        "{said}"
    );
    beat(1, 21);
    until(&mut running, "it goes on again", passes).await;
    // Without the field nothing is known of it.
    place.beat(1, &json!({"n": 2}));
    let said = until(&mut running, "it is not there", is_unknown).await;
    assert!(said.contains("it has no field metadata.cycles"), "{said}");
}

#[tokio::test]
async fn s27_any_file_may_be_watched_and_touched() {
    let place = Place::new();
    let file = File {
        format: Format::Plain,
        max_age: Duration::from_millis(600),
        ..place.file()
    };
    place.put(vec![b'x'; 100_000]);
    let mut running = Place::watched(file, SOON);
    until(&mut running, "it is new", passes).await;
    until(&mut running, "it is old", fails(Cause::PeerSilent)).await;
    let opened = OpenOptions::new().append(true).open(&place.path).unwrap();
    opened.set_modified(UNIX_EPOCH + wall()).unwrap();
    until(&mut running, "it was touched", passes).await;
}

#[tokio::test]
async fn s29_the_end_of_its_process_is_told_at_once() {
    let place = Place::new();
    let mut process = Process::sleep();
    let file = File {
        pid: Pid::Always,
        ..place.file()
    };
    place.beat(process.pid(), &json!({}));
    let mut running = Place::watched(file.clone(), SELDOM);
    assert_eq!(running.outcome().await, Outcome::Pass);
    process.kill();
    // As often as the default of `fail_after` asks for, and not once an hour.
    for _ in 0..3 {
        match running.outcome().await {
            Outcome::Fail { cause, detail } => {
                assert_eq!(cause, Cause::PeerExited);
                assert!(detail.contains("has ended"), "{detail}");
            }
            other => panic!("{other:?}"),
        }
    }
    drop(running);
    // At first sight, too; and the next one lives.
    process.0.wait().unwrap();
    let mut running = Place::watched(file, SOON);
    let said = until(&mut running, "it is gone", fails(Cause::PeerExited)).await;
    assert!(said.contains("there is no process"), "{said}");
    let next = Process::sleep();
    place.beat(next.pid(), &json!({}));
    until(&mut running, "the next one lives", passes).await;
}

#[tokio::test]
async fn s29_a_younger_process_of_its_number_is_another_one() {
    let place = Place::new();
    let process = Process::sleep();
    let written = wall() - Duration::from_secs(20);
    place.beat(process.pid(), &json!({"timestamp": written.as_secs_f64()}));
    let opened = OpenOptions::new().append(true).open(&place.path).unwrap();
    opened.set_modified(UNIX_EPOCH + written).unwrap();
    let watched = |pid| {
        let file = File { pid, ..place.file() };
        Place::watched(file, SOON)
    };
    let said = until(
        &mut watched(Pid::Always),
        "it is another",
        fails(Cause::PeerExited),
    )
    .await;
    assert!(said.contains("it is another one"), "{said}");
    // It may be one of another namespace.
    assert_eq!(watched(Pid::Seen).outcome().await, Outcome::Pass);
    assert_eq!(watched(Pid::Ignored).outcome().await, Outcome::Pass);
    // Nor is it the owner.
    let mut running = Running::owner(Owner::HeartbeatFile(place.path.clone()), SOON);
    match running.seen().await {
        OwnerSeen::Absent { detail } => assert!(detail.contains("it is another one"), "{detail}"),
        other => panic!("{other:?}"),
    }
    place.beat(process.pid(), &json!({"n": 1}));
    running.running().await;
}

#[tokio::test]
async fn s29_a_number_counts_once_it_was_seen_to_run() {
    let place = Place::new();
    let mut running = Place::watched(place.file(), SOON);
    // Of another pid namespace, or long gone: it writes on, so it lives.
    for n in 0..10 {
        place.beat(i32::MAX.cast_unsigned(), &json!({ "n": n }));
        until(&mut running, "it lives", passes).await;
    }
    let mut process = Process::sleep();
    for n in 0..3 {
        place.beat(process.pid(), &json!({ "n": n }));
        until(&mut running, "it lives", passes).await;
        running.outcome().await;
        running.outcome().await;
    }
    process.kill();
    until(&mut running, "it has ended", fails(Cause::PeerExited)).await;
    // Whoever writes after its end is of another namespace, and is not looked up any more.
    place.beat(process.pid(), &json!({"n": "still here"}));
    until(&mut running, "it writes on", passes).await;
    assert_eq!(running.outcome().await, Outcome::Pass);
}

#[tokio::test]
async fn s29_numbers_that_no_process_has_are_refused() {
    let place = Place::new();
    for number in [json!(0), json!(-1), json!(1u64 << 40), json!("1"), json!(1.5)] {
        place.beat(1, &json!({ "pid": number }));
        let watched = |pid| {
            let file = File { pid, ..place.file() };
            Place::watched(file, SOON)
        };
        let outcome = watched(Pid::Always).outcome().await;
        assert!(
            matches!(&outcome, Outcome::Unknown { detail } if detail.contains("not a process number")),
            "{outcome:?}"
        );
        assert_eq!(watched(Pid::Seen).outcome().await, Outcome::Pass);
        let mut running = Running::owner(Owner::HeartbeatFile(place.path.clone()), SOON);
        assert!(matches!(running.seen().await, OwnerSeen::Absent { .. }));
    }
}

#[tokio::test]
async fn s27_a_file_of_another_host_is_refused() {
    let place = Place::new();
    place.beat(i32::MAX.cast_unsigned(), &json!({"hostname": "elsewhere"}));
    let said = until(
        &mut Place::watched(place.file(), SOON),
        "it is refused",
        is_unknown,
    )
    .await;
    assert!(said.contains("host \"elsewhere\""), "{said}");
    let taken = File {
        any_host: true,
        pid: Pid::Always,
        ..place.file()
    };
    assert_eq!(Place::watched(taken, SOON).outcome().await, Outcome::Pass);
    let mut running = Running::owner(Owner::HeartbeatFile(place.path.clone()), SOON);
    match running.seen().await {
        OwnerSeen::Absent { detail } => assert!(detail.contains("elsewhere"), "{detail}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_owner_is_found_by_its_heartbeat_file_and_its_exit_is_seen() {
    let place = Place::new();
    let mut running = Running::owner(Owner::HeartbeatFile(place.path.clone()), SOON);
    assert!(matches!(running.seen().await, OwnerSeen::Absent { .. }));
    let mut first = Process::sleep();
    place.beat(first.pid(), &json!({}));
    let life = running.running().await;
    place.beat(first.pid(), &json!({"n": 1}));
    first.kill();
    assert_eq!(running.seen().await, OwnerSeen::Exited(life.clone()));
    // The file still names it: a zombie first, then nobody.
    first.0.wait().unwrap();
    let second = Process::sleep();
    place.beat(second.pid(), &json!({}));
    let next = running.running().await;
    assert_ne!(next, life);
    // A daemon that replaced itself: the old one's end is nobody's exit.
    let third = Process::sleep();
    place.beat(third.pid(), &json!({}));
    assert_ne!(running.running().await, next);
}

#[tokio::test]
async fn s43_last_words_are_heard_before_the_exit() {
    let place = Place::new();
    let stopped = Condition {
        field: "status".into(),
        equals: "stopped".into(),
    };
    let file = File {
        stopped_when: Some(stopped),
        ..place.file()
    };
    // Writes its last words and ends, faster than anybody looks.
    let script = format!(
        "read x; printf '{{\"timestamp\": 1, \"pid\": %d, \"status\": \"stopped\"}}' $$ >{0}.new; mv {0}.new {0}",
        place.path.display()
    );
    for purpose in [true, false] {
        let mut command = std::process::Command::new("sh");
        let command = command.args(["-c", &script]).stdin(std::process::Stdio::piped());
        let mut bot = Process(command.spawn().unwrap());
        if purpose {
            place.beat(bot.pid(), &json!({"status": "running"}));
        } else {
            // The words of one before it say nothing of this one.
            place.beat(1, &json!({"status": "stopped"}));
        }
        let mut running = Running::start(Settings {
            owners: vec![(PEER, Owner::Pid(bot.pid()), None, SOON)],
            probes: vec![(CHECK, Probe::File(file.clone()), SELDOM)],
            ..Settings::default()
        });
        let life = running.running().await;
        if purpose {
            std::io::Write::write_all(bot.0.stdin.as_mut().unwrap(), b"\n").unwrap();
        } else {
            bot.kill();
        }
        let mut left = false;
        loop {
            match running.event().await {
                Event::Report(report) => {
                    left |=
                        matches!(report.word, Word::Leaving { .. }) && report.life.as_ref() == Some(&life);
                }
                Event::Owner {
                    seen: OwnerSeen::Exited(of),
                    ..
                } => {
                    assert_eq!(of, life);
                    break;
                }
                _ => {}
            }
        }
        assert_eq!(left, purpose);
    }
}

#[tokio::test]
async fn s43_who_says_that_it_stops_is_said_to_leave_and_to_come_back() {
    let place = Place::new();
    let file = File {
        stopped_when: Some(Condition {
            field: "metadata.status".into(),
            equals: "stopped".into(),
        }),
        ..place.file()
    };
    let mut running = Place::watched(file.clone(), SOON);
    let says = |status: &str| place.beat(1, &json!({"metadata": {"status": status}}));
    let up = |word: &Word| matches!(word, Word::Life { up: true, .. });
    until(&mut running, "it is missing", fails(Cause::PeerSilent)).await;
    for _ in 0..2 {
        says("running");
        let word = running.word().await;
        assert!(up(&word), "{word:?}");
        says("stopped");
        match running.word().await {
            Word::Leaving { detail } => assert_eq!(detail, "its metadata.status is \"stopped\""),
            other => panic!("{other:?}"),
        }
        until(&mut running, "it is not judged", is_unknown).await;
    }

    // What it says at first sight may be older than what it said by other ways; and so may each beat of one that drains.
    says("running");
    let mut again = Place::watched(file, SOON);
    assert_eq!(again.word().await, Word::Running);
    says("running");
    until(&mut again, "it goes on", passes).await;
    // Who takes it away and writes it again has begun anew.
    fs::remove_file(&place.path).unwrap();
    until(&mut again, "it is missing", fails(Cause::PeerSilent)).await;
    says("running");
    let word = again.word().await;
    assert!(up(&word), "{word:?}");
}

#[tokio::test]
async fn s28_what_is_written_is_watched() {
    let place = Place::new();
    let writer = Writer::new(place.path.clone());
    let file = File {
        stopped_when: Some(Condition {
            field: "status".into(),
            equals: "stopped".into(),
        }),
        ..place.file()
    };
    let mut running = Place::watched(file, SOON);
    writer.write(wall(), &Map::new(), Status::Running).unwrap();
    until(&mut running, "it lives", passes).await;
    writer.write(wall(), &Map::new(), Status::Stopped).unwrap();
    let said = until(&mut running, "it stopped", is_unknown).await;
    assert!(said.contains("its status is \"stopped\""), "{said}");
}
