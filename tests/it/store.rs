//! The store on real file systems: what a crash, a full disk, a second node and nonsense on disk do to it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use defib::engine::persist::{Persisted, Restored, VERSION};
use defib::engine::time::Clock;
use defib::runtime::clock::{self, MonotonicClock};
use defib::store::{MAX_BYTES, OpenError, Record, Stamp, Store};
use defib::telemetry::metrics::Metrics;
use tokio::sync::watch;

use crate::support;

fn now() -> Stamp {
    clock::stamp(clock::boot_id())
}

fn record(token: u64) -> Record {
    Record {
        written: now(),
        state: Persisted {
            version: VERSION,
            token,
            ..Persisted::default()
        },
    }
}

fn token_of(restored: &Restored) -> Option<u64> {
    match restored {
        Restored::Found(state, _) => Some(state.token),
        Restored::Missing | Restored::Corrupt => None,
    }
}

fn open(path: &Path) -> (Store, Restored) {
    Store::open(path, &now()).unwrap()
}

fn names_in(dir: &Path) -> Vec<String> {
    let name = |entry: fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
    let mut names: Vec<String> = fs::read_dir(dir).unwrap().flatten().map(name).collect();
    names.sort();
    names
}

#[test]
fn what_was_written_is_found_again_with_its_age() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("not/there/yet/state.json");
    let (mut store, restored) = open(&path);
    assert_eq!(restored, Restored::Missing);
    store.write(&record(7)).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    drop(store);

    let mut later = now();
    later.boottime += Duration::from_secs(90);
    later.wall = Duration::ZERO;
    let (_store, restored) = Store::open(&path, &later).unwrap();
    let Restored::Found(state, age) = restored else {
        panic!("{restored:?}");
    };
    assert_eq!(state.token, 7);
    assert!(age >= Duration::from_secs(90), "{age:?}");
}

#[test]
fn nonsense_counts_as_corrupt_and_is_kept_aside_once() {
    let whole = serde_json::to_string(&record(1)).unwrap();
    let cases: [(&str, Vec<u8>); 8] = [
        ("no JSON", b"hello".to_vec()),
        ("empty", Vec::new()),
        ("truncated", whole.as_bytes()[..whole.len() - 5].to_vec()),
        (
            "another version",
            whole.replace("\"version\":1", "\"version\":9").into_bytes(),
        ),
        (
            "an unknown field",
            whole.replacen('{', "{\"more\":1,", 1).into_bytes(),
        ),
        ("no UTF-8", vec![0xff, 0xfe, 0x00]),
        ("deep", vec![b'['; 100_000]),
        ("too long", vec![b' '; MAX_BYTES + 1]),
    ];
    for (what, bytes) in cases {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        fs::write(&path, &bytes).unwrap();
        let (store, restored) = open(&path);
        assert_eq!(restored, Restored::Corrupt, "{what}");
        drop(store);

        let (mut store, restored) = open(&path);
        assert_eq!(
            restored,
            Restored::Corrupt,
            "{what}: a crash before the first write gives no new budgets"
        );
        store.write(&record(2)).unwrap();
        store.write(&record(3)).unwrap();
        drop(store);
        assert_eq!(token_of(&open(&path).1), Some(3), "{what}");
        assert_eq!(
            fs::read(dir.path().join("state.json.corrupt")).unwrap(),
            bytes,
            "{what}"
        );

        fs::write(&path, b"again").unwrap();
        open(&path).0.write(&record(4)).unwrap();
        assert_eq!(
            fs::read(dir.path().join("state.json.corrupt")).unwrap(),
            b"again",
            "{what}"
        );
        assert_eq!(
            names_in(dir.path()),
            ["state.json", "state.json.corrupt", "state.json.lock"],
            "{what}"
        );
    }
}

#[test]
fn a_directory_or_a_pipe_in_its_place_is_corrupt_and_holds_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let directory = dir.path().join("directory");
    fs::create_dir(&directory).unwrap();
    let pipe = dir.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for path in [directory, pipe] {
        let (mut store, restored) = open(&path);
        assert_eq!(restored, Restored::Corrupt);
        store.write(&record(5)).unwrap();
        drop(store);
        assert_eq!(token_of(&open(&path).1), Some(5));
    }
}

#[test]
fn a_crash_in_the_middle_of_a_write_leaves_the_old_state() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.json");
    open(&path).0.write(&record(1)).unwrap();
    let temporary = dir.path().join("state.json.tmp");
    fs::write(&temporary, b"{\"written\":{\"boot").unwrap();
    fs::set_permissions(&temporary, fs::Permissions::from_mode(0o644)).unwrap();

    let (mut store, restored) = open(&path);
    assert_eq!(token_of(&restored), Some(1));
    store.write(&record(2)).unwrap();
    assert_eq!(names_in(dir.path()), ["state.json", "state.json.lock"]);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn whoever_reads_meanwhile_sees_a_whole_state() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.json");
    let (mut store, _) = open(&path);
    store.write(&record(0)).unwrap();
    let reader = {
        let path = path.clone();
        std::thread::spawn(move || {
            for _ in 0..300 {
                let bytes = fs::read(&path).unwrap();
                serde_json::from_slice::<Record>(&bytes).unwrap();
            }
        })
    };
    let mut token = 0;
    while !reader.is_finished() {
        token += 1;
        store.write(&record(token)).unwrap();
    }
    reader.join().unwrap();
}

#[test]
fn a_second_node_is_told_who_has_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.json");
    let (first, _) = open(&path);
    let OpenError::InUse { store, .. } = Store::open(&path, &now()).unwrap_err();
    assert_eq!(store, path);
    drop(first);
    open(&path);
}

#[test]
fn a_place_that_cannot_be_written_does_not_keep_the_node_from_starting() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, b"").unwrap();
    let (mut store, restored) = open(&file.join("below/state.json"));
    assert_ne!(token_of(&restored), Some(0));
    store.write(&record(1)).unwrap_err();
}

#[test]
fn as_many_peers_as_a_node_may_have_fit_while_each_is_healed() {
    use defib::engine::cause::Cause;
    use defib::engine::event::Incarnation;
    use defib::engine::persist::{PersistedEpisode, PersistedPeer};
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open(&dir.path().join("state.json"));
    let life = |n: u16| Incarnation(format!("proc:{}:{n}:{}", "8".repeat(36), u32::MAX).into());
    let peer = PersistedPeer {
        restarts: vec![Duration::from_nanos(123_456_789_012); 3],
        backoff: Some(Duration::from_nanos(1)),
        done: (0..32).map(|n| (life(n), 0)).collect(),
        passed: vec!["heartbeat".to_owned(), "process".to_owned()],
        healing: Some(life(0)),
        episode: Some(PersistedEpisode {
            id: u64::MAX,
            age: Duration::from_nanos(1),
            cause: Cause::PeerExited,
            remedies: 3,
            restarts: 0,
            failed: [0, 2].into(),
            gave_up: false,
            at_work: None,
            lease: None,
        }),
        ..PersistedPeer::default()
    };
    let mut full = record(1);
    full.state.peers = (0..4096).map(|n| (format!("{n:063}"), peer.clone())).collect();
    store.write(&full).unwrap();
}

#[test]
fn a_state_that_could_not_be_read_back_is_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.json");
    let (mut store, _) = open(&path);
    store.write(&record(1)).unwrap();
    let mut long = record(2);
    long.state.peers.insert(
        "x".repeat(MAX_BYTES),
        defib::engine::persist::PersistedPeer::default(),
    );
    store.write(&long).unwrap_err();
    drop(store);
    assert_eq!(token_of(&open(&path).1), Some(1));
}

/// Value of a metric without labels, or with exactly `labels` as Prometheus writes them.
fn metric(metrics: &Metrics, name: &str) -> f64 {
    let families = metrics.registry.gather();
    let text = prometheus::TextEncoder::new()
        .encode_to_string(&families)
        .unwrap();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map_or(0.0, |value| value.parse().unwrap())
}

struct Kept {
    latest: watch::Sender<Option<Arc<Record>>>,
    metrics: Metrics,
    task: tokio::task::JoinHandle<anyhow::Result<()>>,
}

fn keep(path: &Path) -> Kept {
    let (store, _) = open(path);
    let (latest, receiver) = watch::channel(None);
    let metrics = Metrics::new().unwrap();
    let clock: Arc<dyn Clock> = Arc::new(MonotonicClock::start());
    let task = tokio::spawn(store.run(receiver, watch::channel(0).0, clock, metrics.store.clone()));
    Kept {
        latest,
        metrics,
        task,
    }
}

#[tokio::test]
async fn the_latest_state_wins_and_is_on_disk_at_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.json");
    let kept = keep(&path);
    for token in 1..=500 {
        kept.latest.send_replace(Some(Arc::new(record(token))));
        tokio::task::yield_now().await;
    }
    drop(kept.latest);
    kept.task.await.unwrap().unwrap();
    assert_eq!(token_of(&open(&path).1), Some(500));
    let writes = metric(&kept.metrics, "defib_store_writes_total{result=\"ok\"}");
    assert!((1.0..100.0).contains(&writes), "{writes} writes");
}

#[tokio::test(start_paused = true)]
async fn a_grant_waits_for_one_write_and_not_for_that_of_the_episode_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(&dir.path().join("state.json"));
    let (latest, receiver) = watch::channel(None);
    let (writing_down, mut written_down) = watch::channel(0);
    let metrics = Metrics::new().unwrap();
    let clock: Arc<dyn Clock> = Arc::new(MonotonicClock::start());
    let task = tokio::spawn(store.run(receiver, writing_down, clock, metrics.store.clone()));
    latest.send_replace(Some(Arc::new(record(0))));
    // The store has seen the episode when it begins to look at what follows it.
    while latest.receiver_count() < 2 {
        tokio::task::yield_now().await;
    }
    latest.send_replace(Some(Arc::new(record(1))));
    written_down.wait_for(|token| *token == 1).await.unwrap();
    assert!(metric(&metrics, "defib_store_writes_total{result=\"ok\"}") < 2.0);
    drop(latest);
    task.await.unwrap().unwrap();
}

/// A file system of a few kilobytes, unmounted when dropped.
struct TinyDisk(PathBuf);

impl TinyDisk {
    fn mount(at: &Path) -> Option<Self> {
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=16k,nr_inodes=16", "tmpfs"])
            .arg(at)
            .output();
        mounted
            .is_ok_and(|output| output.status.success())
            .then(|| Self(at.to_owned()))
    }
}

impl Drop for TinyDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_is_counted_and_forgiven() {
    let dir = tempfile::tempdir().unwrap();
    let disk = TinyDisk::mount(dir.path());
    if !support::available("a tmpfs of one's own (root)", disk.is_some()) {
        return;
    }
    let path = dir.path().join("state.json");
    open(&path).0.write(&record(1)).unwrap();
    let ballast = dir.path().join("ballast");
    // Until nothing fits any more: the write itself says so.
    let _ = fs::write(&ballast, vec![0; 64 * 1024]);

    let kept = keep(&path);
    kept.latest.send_replace(Some(Arc::new(record(2))));
    while metric(&kept.metrics, "defib_store_writes_total{result=\"error\"}") < 2.0 {
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert!(metric(&kept.metrics, "defib_store_healthy") < 0.5);
    assert_eq!(
        serde_json::from_slice::<Record>(&fs::read(&path).unwrap())
            .unwrap()
            .state
            .token,
        1
    );

    fs::remove_file(&ballast).unwrap();
    while metric(&kept.metrics, "defib_store_healthy") < 1.0 {
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    drop(kept.latest);
    kept.task.await.unwrap().unwrap();
    assert_eq!(token_of(&open(&path).1), Some(2));
}
