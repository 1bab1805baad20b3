//! What a file means, in virtual time: ages at their bounds, our own pauses, clocks that are set.

use super::judge::{Judge, Said, Sight};
use super::watched::Moment;
use super::*;
use crate::engine::event::PeerId;
use crate::engine::time::Time;
use crate::heartbeat_file::hostname;

const SECOND: Duration = Duration::from_secs(1);
/// The wall clock when a world begins.
const START: Duration = Duration::from_secs(1_800_000_000);

/// A file, and the judge that looks at it each second.
struct World {
    judge: Judge,
    path: tempfile::NamedTempFile,
    now: Duration,
    /// By how much the wall clock was set.
    set: i64,
}

impl World {
    fn new(change: impl FnOnce(&mut File)) -> Self {
        Self::owned(OwnerTable::default(), change)
    }

    fn owned(owners: OwnerTable, change: impl FnOnce(&mut File)) -> Self {
        let path = tempfile::NamedTempFile::new().unwrap();
        let mut file = File {
            path: path.path().to_owned(),
            format: Format::Json {
                timestamp: Some("timestamp".into()),
            },
            max_age: Duration::from_secs(30),
            progress: None,
            stopped_when: None,
            pid: Pid::Ignored,
            any_host: false,
        };
        change(&mut file);
        Self {
            judge: Judge::new(file, PeerId(0), owners, SECOND),
            path,
            now: Duration::from_secs(100),
            set: 0,
        }
    }

    fn wall(&self) -> Duration {
        (START + self.now).saturating_add_signed(self.set)
    }

    fn put(&self, text: &str) {
        std::fs::write(self.path.path(), text).unwrap();
    }

    /// A heartbeat whose date lies so many milliseconds before now, or after it.
    fn beat(&self, age_ms: i64, more: &str) {
        let at = self.wall().as_secs_f64()
            - Duration::from_millis(age_ms.unsigned_abs()).as_secs_f64() * sign(age_ms);
        let host = hostname();
        self.put(&format!(
            r#"{{"timestamp": {at:.3}, "hostname": "{host}"{more}}}"#
        ));
    }

    fn look(&mut self) -> Outcome {
        self.look_at(Sight::read(self.path.path(), self.judge.is_plain()))
            .outcome
    }

    fn look_at(&mut self, sight: Result<Sight, Unread>) -> Said {
        let at = Moment {
            now: Time::from_origin(self.now),
            wall: self.wall(),
        };
        self.judge.judge(sight, at)
    }

    /// Looks each second, and says what the last look said.
    fn run(&mut self, seconds: u64) -> Outcome {
        let mut last = Outcome::Pass;
        for _ in 0..seconds {
            self.now += SECOND;
            last = self.look();
        }
        last
    }
}

fn sign(number: i64) -> f64 {
    if number < 0 { -1.0 } else { 1.0 }
}

trait Signed {
    fn saturating_add_signed(self, seconds: i64) -> Self;
}

impl Signed for Duration {
    fn saturating_add_signed(self, seconds: i64) -> Self {
        let by = Self::from_secs(seconds.unsigned_abs());
        if seconds < 0 {
            self.saturating_sub(by)
        } else {
            self + by
        }
    }
}

fn failed(outcome: &Outcome, with: Cause, why: &str) {
    match outcome {
        Outcome::Fail { cause, detail } if *cause == with => assert!(detail.contains(why), "{detail}"),
        other => panic!("{other:?} is no {with}"),
    }
}

fn unknown(outcome: &Outcome, why: &str) {
    match outcome {
        Outcome::Unknown { detail } => assert!(detail.contains(why), "{detail}"),
        other => panic!("{other:?} is not unknown"),
    }
}

#[test]
fn s27_at_first_sight_its_own_date_decides() {
    let first = |age_ms: i64| {
        let mut world = World::new(|_| {});
        world.beat(age_ms, "");
        world.look()
    };
    assert_eq!(first(0), Outcome::Pass);
    assert_eq!(first(30_000), Outcome::Pass, "an age of max_age is alive");
    failed(
        &first(30_002),
        Cause::PeerSilent,
        "it has not changed for 30.0s, more than 30s",
    );
    unknown(&first(-2), "its date lies in the future");
}

#[test]
fn s27_what_is_left_of_its_age_at_first_sight_counts_on() {
    let mut world = World::new(|_| {});
    world.beat(20_000, "");
    assert_eq!(world.look(), Outcome::Pass);
    assert_eq!(world.run(10), Outcome::Pass);
    failed(&world.run(1), Cause::PeerSilent, "for 31.0s");
}

#[test]
fn s27_from_then_on_life_is_a_change_and_its_date_does_not_matter() {
    let mut world = World::new(|_| {});
    world.beat(0, "");
    assert_eq!(world.look(), Outcome::Pass);
    for age_ms in [3_600_000, -3_600_000] {
        world.beat(age_ms, "");
        assert_eq!(world.run(30), Outcome::Pass);
    }
    // A date without an offset is a date.
    world.put(r#"{"timestamp": "2026-11-22T03:00:00"}"#);
    assert_eq!(world.run(31), Outcome::Pass);
    failed(&world.run(1), Cause::PeerSilent, "it has not changed for 31.0s");
    // Without a date it is no heartbeat, however it changes.
    world.put("{}");
    failed(&world.run(1), Cause::PeerSilent, "it has no field timestamp");
}

#[test]
fn s27_what_has_no_age_at_first_sight_has_max_age_to_change() {
    let undated = |text: &str, change: fn(&mut File)| {
        let mut world = World::new(change);
        world.put(text);
        let first = world.look();
        unknown(&first, "it has not changed yet");
        unknown(&world.run(30), "it has not changed yet");
        failed(&world.run(1), Cause::PeerSilent, "it has not changed for 31.0s");
        world.put(&text.replace('0', "1"));
        assert_eq!(world.run(1), Outcome::Pass);
    };
    undated(r#"{"timestamp": "2090-01-01T00:00:00Z"}"#, |_| {});
    undated(r#"{"timestamp": "2020-01-01T00:00:00"}"#, |_| {});
    undated(r#"{"n": 0}"#, |file| {
        file.format = Format::Json { timestamp: None }
    });
}

#[test]
fn s31_time_in_which_this_node_did_not_run_is_no_age() {
    // Stopped together with the program (a machine that sleeps, a paused stack), it finds the file as it was.
    for pause in [2, 3, 60, 3_600] {
        let mut world = World::new(|file| {
            file.progress = Some(Progress {
                field: "n".into(),
                max_age: Duration::from_secs(30),
            });
        });
        world.beat(0, ", \"n\": 1");
        world.look();
        assert_eq!(world.run(20), Outcome::Pass);
        world.now += Duration::from_secs(pause);
        assert_eq!(world.look(), Outcome::Pass, "{pause}");
        assert_eq!(world.run(7), Outcome::Pass, "{pause}");
        failed(&world.run(10), Cause::PeerSilent, "it has not changed for");
    }
}

#[test]
fn time_in_which_it_could_not_be_read_is_no_age() {
    let mut world = World::new(|_| {});
    world.beat(0, "");
    world.look();
    world.run(20);
    for _ in 0..600 {
        world.now += SECOND;
        let said = world.look_at(Err(Unread::Failed("a dead mount".into())));
        unknown(&said.outcome, "a dead mount");
    }
    assert_eq!(world.run(8), Outcome::Pass);
    failed(&world.run(10), Cause::PeerSilent, "it has not changed for");
}

#[test]
fn s31_a_wall_clock_that_is_set_changes_no_verdict() {
    for set in [3_600, -3_600] {
        let mut world = World::new(|_| {});
        world.beat(0, "");
        world.look();
        assert_eq!(world.run(20), Outcome::Pass);
        world.set = set;
        // A program that waits for a time of day may be silent for once.
        assert_eq!(world.run(10), Outcome::Pass);
        unknown(&world.run(1), "since the wall clock was set");
        unknown(&world.run(18), "since the wall clock was set");
        failed(&world.run(2), Cause::PeerSilent, "it has not changed for");
        world.beat(0, "");
        assert_eq!(world.run(30), Outcome::Pass);
    }
}

#[test]
fn s27_progress_begins_anew_with_another_process_and_after_silence() {
    let mut world = World::new(|file| {
        file.progress = Some(Progress {
            field: "n".into(),
            max_age: Duration::from_secs(60),
        });
    });
    let beats = |world: &mut World, pid: u32, times: u64| {
        let mut last = Outcome::Pass;
        for _ in 0..times {
            world.beat(0, &format!(", \"n\": 7, \"pid\": {pid}"));
            last = world.run(20);
        }
        last
    };
    assert_eq!(beats(&mut world, 1, 3), Outcome::Pass);
    failed(&beats(&mut world, 1, 1), Cause::PeerStuck, "its n is 7 for");
    // The same number, from another process.
    assert_eq!(beats(&mut world, 2, 3), Outcome::Pass);
    failed(&beats(&mut world, 2, 1), Cause::PeerStuck, "its n is 7 for");
    // Silent for an hour, and back.
    failed(&world.run(3_600), Cause::PeerSilent, "it has not changed");
    assert_eq!(beats(&mut world, 2, 3), Outcome::Pass);
}

#[test]
fn s43_last_words_of_another_process_are_not_those_of_the_one_that_runs() {
    let stopped = Condition {
        field: "status".into(),
        equals: "stopped".into(),
    };
    let mut ended = std::process::Command::new("true").spawn().unwrap();
    let gone = ended.id();
    ended.wait().unwrap();
    let owner = std::process::Command::new("sleep").arg("600").spawn().unwrap();
    let owners = OwnerTable::default();
    let mut world = World::owned(owners.clone(), |file| {
        file.stopped_when = Some(stopped);
        file.pid = Pid::Seen;
    });
    world.beat(0, &format!(", \"status\": \"stopped\", \"pid\": {gone}"));
    let read = |world: &World| Sight::read(world.path.path(), false);
    let sight = read(&world);
    assert!(world.look_at(sight).stopped.is_some());
    // Its successor runs, and has not written yet.
    owners.watch(PeerId(0), Arc::new(|| None));
    let live = super::super::process::hold_number(owner.id()).unwrap().unwrap();
    owners.hold(PeerId(0), crate::owner_table::Held::Process(live));
    let sight = read(&world);
    let said = world.look_at(sight);
    assert_eq!(said.stopped, None);
    unknown(&said.outcome, "said by a process before the one that runs");
    let mut owner = owner;
    owner.kill().unwrap();
    owner.wait().unwrap();
}

/// A directory on a dead network mount: asking the kernel to watch it hangs, and the event loop's thread does not.
#[tokio::test]
async fn a_directory_that_hangs_is_waited_for_on_the_thread_that_reads() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let (answer, answered) = std::sync::mpsc::channel::<()>();
    let mut reading = Reading::default();
    let hangs = move || {
        let _ = answered.recv();
    };
    let within = Duration::from_millis(50);
    let said = reading.next(file.path(), true, within, hangs).await;
    assert!(
        matches!(&said, Err(Unread::Failed(why)) if why.contains("has not ended")),
        "{said:?}"
    );
    // The same one is waited for, and no other is begun.
    let again = reading.next(file.path(), true, within, || unreachable!("begun twice"));
    assert!(matches!(again.await, Err(Unread::Failed(_))));
    drop(answer);
    let late = reading.next(file.path(), true, Duration::from_secs(60), || {
        unreachable!("begun twice")
    });
    assert!(late.await.is_ok());
}
