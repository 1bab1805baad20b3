//! The audit, as it is asked for over HTTP.

use std::fs;

use super::Served;
use crate::support::snapshots::peer;

const RECORD: &str =
    r#"{"v":1,"time":"1970-01-01T00:00:00.000Z","event":"gave_up","peer":"feed","text":"given up"}"#;

#[tokio::test]
async fn history_is_answered_from_the_audit_and_nonsense_is_refused_in_words() {
    let served = Served::start(vec![peer("feed")]);
    let answer = served.get("/api/v1/history").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.body, r#"{"records":[],"older":false,"skipped":0}"#);
    let file = served.directory.path().join("audit.jsonl");
    fs::write(&file, format!("{RECORD}\n{RECORD}\nhalf").as_bytes()).unwrap();
    let answer = served.get("/api/v1/history?peer=feed&since=2h&limit=1").await;
    let page: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(page["records"].as_array().unwrap().len(), 1, "{page}");
    assert_eq!(
        (&page["older"], &page["skipped"]),
        (&true.into(), &1.into()),
        "{page}"
    );
    let other = served.get("/api/v1/history?peer=gone").await;
    assert!(other.body.contains(r#""records":[]"#), "{other:?}");
    for (query, why) in [
        ("limit=0", "from 1 to 500"),
        ("limit=501", "from 1 to 500"),
        ("limit=x", "limit"),
        ("since=yesterday", "a time with its unit"),
        ("sinse=2h", "unknown field"),
    ] {
        let answer = served.get(&format!("/api/v1/history?{query}")).await;
        assert_eq!(answer.status, 400, "{query}: {answer:?}");
        assert!(answer.error().contains(why), "{query}: {answer:?}");
    }
    let long = "x".repeat(5000);
    assert_eq!(
        served.get(&format!("/api/v1/history?peer={long}")).await.status,
        400
    );
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    let answer = served.get("/api/v1/history").await;
    assert_eq!(answer.status, 503);
    assert!(answer.error().contains("not a regular file"), "{answer:?}");
    served.stop().await;
}
