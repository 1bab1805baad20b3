use super::*;

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::engine::guards::{GuardName, Refusal};
use crate::telemetry::metrics::Metrics;

const DAY: Duration = Duration::from_secs(86_400);

fn notice(n: u64, peer: Option<&str>, what: What) -> Arc<Notice> {
    Arc::new(Notice {
        n,
        at: Time::from_origin(Duration::from_secs(100)),
        peer: peer.map(Arc::from),
        what,
    })
}

fn gave_up(n: u64, peer: &str, detail: &str) -> Arc<Notice> {
    let what = What::GaveUp {
        episode: n,
        remedies: 3,
        detail: detail.to_owned(),
    };
    notice(n, Some(peer), what)
}

fn settings(dir: &Path, max_bytes: u64) -> Settings {
    Settings {
        path: dir.join("state.audit.jsonl"),
        max_bytes,
    }
}

/// Keeps these, as a node that runs and ends.
async fn keep(settings: &Settings, notices: &[(Duration, Arc<Notice>)]) -> Metrics {
    let metrics = Metrics::new().unwrap();
    let (recorder, writer) = audit(settings, "n1".into(), "boot".into(), metrics.audit.clone());
    let writing = tokio::spawn(writer.run());
    for (wall, notice) in notices {
        recorder.take(*wall, notice);
        tokio::task::yield_now().await;
    }
    drop(recorder);
    writing.await.unwrap().unwrap();
    metrics
}

fn asked(limit: usize) -> Asked {
    Asked {
        limit,
        ..Asked::default()
    }
}

fn episodes(page: &Page) -> Vec<u64> {
    let number = |record: &Map<String, Value>| record["episode"].as_u64().unwrap();
    page.records.iter().map(number).collect()
}

fn count(metrics: &Metrics, outcome: &str) -> u64 {
    let families = metrics.registry.gather();
    let family = families
        .iter()
        .find(|family| family.name() == "defib_audit_records_total")
        .unwrap();
    let of = |metric: &&prometheus::proto::Metric| metric.get_label()[0].value() == outcome;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
    let value = family
        .get_metric()
        .iter()
        .find(of)
        .unwrap()
        .get_counter()
        .get_value() as u64;
    value
}

#[tokio::test]
async fn what_acts_or_forbids_is_kept_with_its_date_and_what_is_only_seen_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path(), 1 << 20);
    let refused = What::Refused {
        episode: 7,
        refusal: Refusal {
            guard: GuardName::Backoff,
            why: "the last remedy was a moment ago".to_owned(),
            until: Some(Time::from_origin(Duration::from_secs(160))),
        },
    };
    let seen = What::Stalled { for_ms: 900 };
    let notices = [
        (20_000 * DAY, notice(1, Some("feed"), refused)),
        (20_000 * DAY, notice(2, None, seen)),
    ];
    let metrics = keep(&settings, &notices).await;
    let page = read(&settings.path, &asked(10)).unwrap();
    let [record] = page.records.as_slice() else {
        panic!("{page:?}")
    };
    assert_eq!(record["time"], "2024-10-04T00:00:00.000Z");
    assert_eq!(record["node"], "n1");
    assert_eq!(record["peer"], "feed");
    assert_eq!(record["event"], "refused");
    assert_eq!(record["refusal"]["guard"], "backoff");
    assert_eq!(record["refusal"]["until"], "2024-10-04T00:01:00.000Z");
    assert_eq!(
        record["text"],
        "held by backoff: the last remedy was a moment ago"
    );
    assert!(!record.contains_key("at"), "{record:?}");
    assert_eq!(count(&metrics, "written"), 1);
    let mode = fs::metadata(&settings.path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn a_page_is_the_newest_of_one_peer_and_of_the_node_since_a_moment() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path(), 1 << 20);
    let mut notices: Vec<_> = (1..=9u64)
        .map(|n| {
            let peer = if n % 2 == 0 { "feed" } else { "bot" };
            (Duration::from_secs(n * 60), gave_up(n, peer, "tried"))
        })
        .collect();
    notices.push((Duration::from_secs(600), notice(10, None, What::MassSilenceEnded)));
    keep(&settings, &notices).await;
    let all = read(&settings.path, &asked(100)).unwrap();
    assert_eq!((all.records.len(), all.older, all.skipped), (10, false, 0));
    let last = read(&settings.path, &asked(2)).unwrap();
    assert_eq!((last.records.len(), last.older), (2, true));
    assert_eq!(last.records[1]["event"], "mass_silence_ended");
    let feed = Asked {
        peer: Some("feed".to_owned()),
        since: Some(Duration::from_secs(240)),
        limit: 100,
    };
    let feed = read(&settings.path, &feed).unwrap();
    assert_eq!(feed.records.len(), 4, "4, 6, 8, and what concerns all: {feed:?}");
    assert!(!feed.older);
}

#[tokio::test]
async fn it_is_bounded_turns_over_and_goes_on_after_a_restart_of_the_node() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path(), 64 << 10);
    let long = "x".repeat(900);
    for run in 0..4u64 {
        let notices: Vec<_> = (0..50)
            .map(|n| (Duration::ZERO, gave_up(run * 50 + n, "feed", &long)))
            .collect();
        keep(&settings, &notices).await;
    }
    let sizes: Vec<u64> = fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap().len())
        .collect();
    assert_eq!(sizes.len(), 4, "{sizes:?}");
    assert!(sizes.iter().all(|size| *size <= 16 << 10), "{sizes:?}");
    let page = read(&settings.path, &asked(500)).unwrap();
    let kept = episodes(&page);
    assert_eq!(kept.last(), Some(&199));
    assert!(kept.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{kept:?}");
    assert!(kept.len() > 30, "{kept:?}");
    assert_eq!(
        episodes(&read(&settings.path, &asked(20)).unwrap()),
        kept[kept.len() - 20..]
    );
}

#[tokio::test]
async fn a_torn_last_line_is_passed_over_and_said_and_what_follows_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path(), 1 << 20);
    keep(&settings, &[(Duration::ZERO, gave_up(1, "feed", "tried"))]).await;
    let whole = fs::read(&settings.path).unwrap();
    let mut file = fs::OpenOptions::new().append(true).open(&settings.path).unwrap();
    file.write_all(&whole[..whole.len() / 2]).unwrap();
    let torn = read(&settings.path, &asked(10)).unwrap();
    assert_eq!((episodes(&torn), torn.skipped), (vec![1], 1));
    keep(&settings, &[(Duration::ZERO, gave_up(2, "feed", "tried"))]).await;
    let page = read(&settings.path, &asked(10)).unwrap();
    assert_eq!((episodes(&page), page.skipped), (vec![1, 2], 1));
}

#[tokio::test]
async fn a_record_that_is_too_long_is_cut_to_its_words() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path(), 1 << 20);
    let detail = "\u{1f980}".repeat(9000);
    keep(&settings, &[(Duration::ZERO, gave_up(1, "feed", &detail))]).await;
    assert!(fs::metadata(&settings.path).unwrap().len() <= MAX_RECORD as u64);
    let page = read(&settings.path, &asked(10)).unwrap();
    assert_eq!(page.records[0]["cut"], true);
    assert_eq!(page.records[0]["event"], "gave_up");
    assert!(page.records[0]["text"].as_str().unwrap().starts_with("given up"));
}

#[tokio::test]
async fn what_cannot_be_written_is_counted_and_what_comes_later_is_written_again() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path(), 1 << 20);
    fs::create_dir(&settings.path).unwrap();
    let metrics = Metrics::new().unwrap();
    let (recorder, writer) = audit(&settings, "n1".into(), "boot".into(), metrics.audit.clone());
    let writing = tokio::spawn(writer.run());
    recorder.take(Duration::ZERO, &gave_up(1, "feed", "tried"));
    while count(&metrics, "failed") == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    fs::remove_dir(&settings.path).unwrap();
    recorder.take(Duration::ZERO, &gave_up(2, "feed", "tried"));
    drop(recorder);
    writing.await.unwrap().unwrap();
    assert_eq!(episodes(&read(&settings.path, &asked(10)).unwrap()), [2]);
    assert_eq!(count(&metrics, "written"), 1);
}

#[tokio::test]
async fn the_loop_never_waits_for_the_disk_and_what_is_too_much_is_dropped_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let metrics = Metrics::new().unwrap();
    let settings = settings(dir.path(), 1 << 20);
    let (recorder, _never_runs) = audit(&settings, "n1".into(), "boot".into(), metrics.audit.clone());
    for n in 0..WAITING as u64 + 7 {
        recorder.take(Duration::ZERO, &gave_up(n, "feed", "tried"));
    }
    assert_eq!(count(&metrics, "dropped"), 7);
}

/// One record, then that happens to the file, then another one.
async fn written_around(settings: &Settings, act: impl FnOnce(&Path)) {
    let metrics = Metrics::new().unwrap();
    let (recorder, writer) = audit(settings, "n1".into(), "boot".into(), metrics.audit.clone());
    let writing = tokio::spawn(writer.run());
    recorder.take(Duration::ZERO, &gave_up(1, "feed", "tried"));
    while count(&metrics, "written") == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    act(&settings.path);
    recorder.take(Duration::ZERO, &gave_up(2, "feed", "tried"));
    drop(recorder);
    writing.await.unwrap().unwrap();
}

#[tokio::test]
async fn somebody_who_removes_the_file_gets_a_new_one() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path(), 1 << 20);
    written_around(&settings, |path| fs::remove_file(path).unwrap()).await;
    assert_eq!(episodes(&read(&settings.path, &asked(10)).unwrap()), [2]);
}

#[tokio::test]
async fn a_file_that_was_renamed_is_written_no_longer() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path(), 1 << 20);
    let moved = dir.path().join("rotated");
    written_around(&settings, |path| fs::rename(path, &moved).unwrap()).await;
    assert_eq!(episodes(&read(&settings.path, &asked(10)).unwrap()), [2]);
    assert_eq!(episodes(&read(&moved, &asked(10)).unwrap()), [1]);
}

/// As a reader finds it that is overtaken by the writer: what it read under one name stands under the next by then.
#[tokio::test]
async fn a_file_that_is_turned_over_while_it_is_read_is_read_once() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path(), 1 << 20);
    keep(&settings, &[(DAY, gave_up(1, "feed", "tried"))]).await;
    fs::hard_link(&settings.path, file::numbered(&settings.path, 1)).unwrap();
    let page = read(&settings.path, &asked(10)).unwrap();
    assert_eq!((episodes(&page), page.older), (vec![1], false));
}

#[test]
fn what_is_kept_is_known_by_its_name() {
    let seen = [
        What::Stalled { for_ms: 1 },
        What::Goodbye,
        gave_up(1, "feed", "tried").what.clone(),
        What::MassSilenceEnded,
    ];
    for what in seen {
        assert_eq!(keeps(what.name()), is_kept(&what), "{}", what.name());
    }
}

#[test]
fn whatever_stands_in_the_file_is_survived_and_read_in_bounds() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x");
    assert_eq!(read(&path, &asked(10)).unwrap(), Page::default(), "no file");
    let good = r#"{"v":1,"time":"2026-11-27T05:00:00.000Z","event":"gave_up","text":"x","episode":1}"#;
    let mut bytes = vec![b'{'; 100_000];
    bytes.extend_from_slice(b"\n\xff\xfe\n\n[]\n{\"v\":2}\n");
    bytes.extend_from_slice(good.replace("\"v\":1", "\"v\":9").as_bytes());
    bytes.extend_from_slice(b"\n");
    bytes.extend_from_slice(good.as_bytes());
    fs::write(&path, &bytes).unwrap();
    let page = read(&path, &asked(10)).unwrap();
    assert_eq!((episodes(&page), page.skipped), (vec![1], 5));
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(read(&path, &asked(10)).is_err());
}
