//! What people read: the page and the explanation.

use defib::engine::event::Incarnation;
use defib::engine::guards::{GuardName, Refusal};
use defib::engine::peer::Liveness;
use defib::engine::snapshot::PauseView;
use defib::http;

use super::Served;
use crate::support::snapshots::{at, dead, peer, snapshot, with_healthz};

#[tokio::test]
async fn explain_says_what_is_known_and_what_comes_next() {
    let mut feed = dead(with_healthz(peer("feed")));
    feed.incarnations = 1;
    feed.remedies_granted = 1;
    feed.budget_left = 2;
    let episode = feed.episode.as_mut().unwrap();
    episode.remedies = 1;
    episode.refusal = Some(Refusal {
        guard: GuardName::Backoff,
        why: "the last remedy was 3 s ago".to_owned(),
        until: Some(at(107)),
    });
    let served = Served::start(vec![feed]);
    insta::assert_snapshot!(served.get("/api/v1/explain/feed").await.body, @r"
    feed is dead (peer_stuck) for 40.0 s: stopped by a signal (state T)
      last life     45.0 s ago
      incarnation   proc:b007:4711:99
      other lives   1 seen since the start
      where         on this machine
      answers       /startupz/feed 200, /readyz/feed 503
      next          backoff is asked again in 7.0 s; then healthz

    checks
      heartbeat     dead     (bus, decides liveness) peer_silent: silent for 45 s; last pass 45.0 s ago; judged again in 1.0 s at the latest

    episode 7, opened 42.0 s ago, cause peer_stuck
      condemned by  heartbeat
      phase         condemned, waiting for the guards' permission
      remedies      1 carried out in it
      guard         backoff said no: the last remedy was 3 s ago (could change in 7.0 s)

    remedies
      ladder        healthz
      granted       1 since the start
      budget        2 left now
      healthz       the remedy is not wired: no probe of /healthz/feed has come in the 1 min 40 s since the start
      pulse         /healthz/feed answers 200

    node base-1 of group base-station
      bus           trusted for 1 min 39 s: echoes return
    ");

    let request = b"GET /api/v1/explain/feed HTTP/1.1\r\nHost: x\r\nAccept: application/json\r\nConnection: close\r\n\r\n";
    let json = served.raw(request).await;
    assert!(json.head.contains("content-type: application/json"), "{json:?}");
    let explanation: http::Explanation = serde_json::from_str(&json.body).unwrap();
    assert_eq!(explanation.next, "backoff is asked again in 7.0 s; then healthz");
    assert_eq!(explanation.peer.liveness, Liveness::Dead);
    served.stop().await;
}

#[tokio::test]
async fn hostile_words_reach_nobodys_browser_or_terminal() {
    const HOSTILE: &str = "<script>alert(1)</script>\u{1b}[2Jforged\nline";
    let mut feed = dead(with_healthz(peer("feed")));
    feed.detail = HOSTILE.to_owned();
    feed.incarnation = Some(Incarnation(HOSTILE.into()));
    feed.pause = Some(PauseView {
        reason: HOSTILE.to_owned(),
        by: HOSTILE.to_owned(),
        until: None,
    });
    let mut hostile = snapshot(vec![feed]);
    hostile.trust.detail = HOSTILE.to_owned();
    let served = Served::showing(hostile);
    for path in [
        "/api/v1/explain/feed",
        "/healthz/feed?verbose",
        "/readyz?verbose",
        "/readyz/feed?verbose",
    ] {
        let answer = served.get(path).await;
        assert!(
            answer.head.contains("content-type: text/plain"),
            "{path}: {answer:?}"
        );
        assert!(
            !answer.body.contains('\u{1b}') && !answer.body.contains("forged\nline"),
            "{path}: {answer:?}"
        );
    }
    let status = served.get("/api/v1/status").await;
    assert!(
        status.head.contains("content-type: application/json"),
        "{status:?}"
    );
    assert!(!status.body.contains('\u{1b}'), "{status:?}");
    // The page itself holds no data, runs nothing that is written into it, and sets text only as text.
    let page = served.get("/").await.body;
    assert!(!page.contains("<script>") && !page.contains("onload="), "{page}");
    let script = served.get("/page.js").await.body;
    for sink in [
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
    ] {
        assert!(!script.contains(sink), "{sink}");
    }
    served.stop().await;
}

#[tokio::test]
async fn the_page_knows_every_event() {
    let script = include_str!("../../../src/http/page/page.js");
    let source = include_str!("../../../src/engine/decision.rs");
    let (_, names) = source.split_once("pub const fn name(&self)").unwrap();
    let (names, _) = names.split_once("impl fmt::Display for What").unwrap();
    let names: Vec<&str> = names.split('"').skip(1).step_by(2).collect();
    assert!(names.len() > 20 && names.contains(&"config_refused"), "{names:?}");
    for name in names {
        assert!(script.contains(&format!("\"{name}\"")), "{name}");
    }
}
