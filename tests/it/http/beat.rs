//! Beats of `push` checks, over real sockets.

use std::sync::Arc;
use std::time::Duration;

use defib::engine::cause::Cause;
use defib::engine::event::{CheckId, Event, Next, PeerId, Report, Word};
use defib::http::{Push, View};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::{LONG, Served, talk};
use crate::support::snapshots::{at, peer, settings, snapshot};

fn check(peer: u32, index: u16) -> CheckId {
    CheckId {
        peer: PeerId(peer),
        index,
    }
}

fn push(check: CheckId, peer: &str, name: &str) -> Push {
    Push {
        check,
        peer: peer.into(),
        name: name.into(),
        run_within: Duration::from_secs(400),
    }
}

/// `job` has one push check, `many` two, and `none` none.
fn served() -> Served {
    let pushes = vec![
        push(check(0, 3), "job", "push"),
        push(check(1, 0), "many", "first"),
        push(check(1, 1), "many", "second"),
    ];
    let snapshot = snapshot(vec![peer("job"), peer("many"), peer("none")]);
    let view = View::starting(&settings(&snapshot)).with_snapshot(Arc::new(snapshot));
    Served::with(view, |settings, directory| {
        settings.admin_socket = Some(directory.join("admin.sock"));
        settings.pushes = pushes;
    })
}

impl Served {
    async fn report(&mut self) -> Report {
        match timeout(LONG, self.events.recv()).await.unwrap().unwrap() {
            Event::Report(report) => report,
            other => panic!("no report: {other:?}"),
        }
    }
}

#[tokio::test]
async fn each_form_says_what_it_does_at_healthchecks() {
    let mut served = served();
    let life = |next| Word::Life { up: true, next };
    let run = Next::Within {
        suspect_after: Duration::from_secs(300),
        dead_after: Duration::from_secs(400),
    };
    let failed = |detail: &str| Word::Failed {
        cause: Cause::PeerStuck,
        detail: detail.to_owned(),
    };
    let leaving = Word::Leaving {
        detail: "it says that it stops: for lunch".to_owned(),
    };
    served.clock.set(at(100));
    for (path, body, word, says) in [
        ("", "", life(Next::AsConfigured), ""),
        ("", " rows: 12\nok ", life(Next::AsConfigured), "rows: 12 ok"),
        ("/0", "", life(Next::AsConfigured), ""),
        ("/start", "", life(run), "started"),
        ("/log", "half way", Word::Note, "half way"),
        (
            "/fail",
            "disk full",
            failed("it says that it failed: disk full"),
            "",
        ),
        ("/3", "", failed("it ended with exit code 3"), ""),
        ("/stop", "for lunch", leaving, ""),
    ] {
        let answer = served.post(&format!("/api/v1/beat/job{path}"), body).await;
        assert_eq!(answer.status, 202, "{path}: {answer:?}");
        let expected = Report {
            check: check(0, 3),
            life: None,
            says: Some(says.into()),
            word,
        };
        assert_eq!(served.report().await, expected, "{path}");
    }
    served.stop().await;
}

#[tokio::test]
async fn a_run_is_measured_from_its_start_to_its_end() {
    let mut served = served();
    for (second, path, body, says) in [
        (100, "/start", "", "started"),
        (142, "", "12 rows", "12 rows (took 42.0 s)"),
        (143, "", "", ""),
    ] {
        served.clock.set(at(second));
        served.post(&format!("/api/v1/beat/job{path}"), body).await;
        assert_eq!(served.report().await.says.as_deref(), Some(says));
    }
    let metrics = served.get("/metrics").await.body;
    assert!(
        metrics.contains("defib_push_run_duration_seconds{check=\"push\",peer=\"job\"} 42"),
        "{metrics}"
    );
    assert!(metrics.contains("defib_push_beats_total{outcome=\"success\",peer=\"job\"} 2"));
    served.stop().await;
}

#[tokio::test]
async fn a_beat_that_was_not_taken_ends_no_run() {
    let mut served = served();
    served.clock.set(at(100));
    served.post("/api/v1/beat/job/start", "").await;
    served.report().await;
    // The engine is busy: one fits, and the next does not.
    served.post("/api/v1/beat/many?check=first", "").await;
    served.clock.set(at(142));
    let refused = served.post("/api/v1/beat/job", "").await;
    assert_eq!(refused.status, 503, "{refused:?}");
    served.report().await;
    served.post("/api/v1/beat/job", "").await;
    assert_eq!(served.report().await.says.as_deref(), Some("took 42.0 s"));
    served.stop().await;
}

#[tokio::test]
async fn what_names_no_check_is_refused_with_what_would() {
    let mut served = served();
    for (path, status, says) in [
        (
            "nobody",
            404,
            "no peer named \"nobody\"; configured: job, many, none",
        ),
        (
            "none",
            404,
            "peer `none` has no `push` check: add [peer.none.checks.push]",
        ),
        (
            "many",
            400,
            "several `push` checks: say which with ?check=, one of first, second",
        ),
        ("many?check=third", 404, "there are: first, second"),
        ("job/finish", 404, "/start, /fail, /log, /stop, or an exit code"),
        ("job/256", 404, "an exit code from 0 to 255"),
        ("job/", 404, "no such endpoint"),
    ] {
        let answer = served.post(&format!("/api/v1/beat/{path}"), "").await;
        assert_eq!(answer.status, status, "{path}: {answer:?}");
        assert!(answer.error().contains(says), "{path}: {}", answer.error());
    }
    assert_eq!(served.post("/api/v1/beat/job?rid=1", "").await.status, 400);
    assert_eq!(
        served.post("/api/v1/beat/many?check=second", "").await.status,
        202
    );
    assert_eq!(served.report().await.check, check(1, 1));
    served.stop().await;
}

#[tokio::test]
async fn only_a_post_on_the_admin_listener_is_a_beat() {
    let mut served = served();
    assert_eq!(
        served.ask("POST", "/api/v1/beat/job").await.status,
        404,
        "the public one"
    );
    for method in ["GET", "HEAD", "PUT"] {
        let request = format!("{method} /api/v1/beat/job HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let stream = UnixStream::connect(served.socket.as_ref().unwrap())
            .await
            .unwrap();
        assert_eq!(talk(stream, request.as_bytes()).await.status, 405, "{method}");
    }
    assert!(served.events.try_recv().is_err());
    served.stop().await;
}

#[tokio::test]
async fn a_check_takes_so_many_beats_a_second_and_others_are_not_held_up() {
    let mut served = served();
    served.clock.set(at(100));
    let mut taken = 0;
    let refused = loop {
        let answer = served.post("/api/v1/beat/job", "").await;
        if answer.status != 202 {
            break answer;
        }
        served.report().await;
        taken += 1;
        assert!(taken < 100, "never refused");
    };
    assert_eq!((taken, refused.status), (20, 429), "{refused:?}");
    assert!(refused.head.contains("retry-after: 1"), "{refused:?}");
    assert_eq!(served.post("/api/v1/beat/many?check=first", "").await.status, 202);
    served.report().await;
    served.clock.set(at(101));
    assert_eq!(served.post("/api/v1/beat/job", "").await.status, 202);
    assert!(
        served
            .get("/metrics")
            .await
            .body
            .contains("defib_push_beats_total{outcome=\"limited\",peer=\"job\"} 1")
    );
    served.stop().await;
}

#[tokio::test]
async fn a_message_that_is_too_long_is_cut_and_counts_all_the_same() {
    let mut served = served();
    let answer = served.post("/api/v1/beat/job", &"x".repeat(300_000)).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    assert_eq!(served.report().await.says.unwrap().len(), 500);
    assert_eq!(
        served
            .post("/api/v1/beat/job", &"x".repeat(1_100_000))
            .await
            .status,
        413
    );
    served.stop().await;
}
