//! Who may change something.

use std::time::Duration;

use defib::engine::event::{OperatorRequest, PeerId};
use defib::http::View;
use tokio::net::UnixStream;

use super::{Served, talk};
use crate::support::snapshots::peer;

#[tokio::test]
async fn operators_are_known_by_their_credentials() {
    let mut served = Served::with_admin(vec![peer("feed"), peer("recorder")]);
    let me = format!(
        "uid {} pid {}",
        rustix::process::getuid().as_raw(),
        std::process::id()
    );
    let body = r#"{"peer": "recorder", "reason": "maintenance", "for": "10m"}"#;
    let answer = served.post("/api/v1/pause", body).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    let request = OperatorRequest::Pause {
        peer: Some(PeerId(1)),
        reason: "maintenance".to_owned(),
        lasting: Some(Duration::from_secs(600)),
    };
    assert_eq!(served.operator().await, (request, me.clone()));

    for (path, body, request) in [
        (
            "/api/v1/pause",
            r#"{"reason": "all"}"#,
            OperatorRequest::Pause {
                peer: None,
                reason: "all".to_owned(),
                lasting: None,
            },
        ),
        ("/api/v1/resume", "", OperatorRequest::Resume { peer: None }),
        (
            "/api/v1/resume",
            r#"{"peer": "feed"}"#,
            OperatorRequest::Resume {
                peer: Some(PeerId(0)),
            },
        ),
        (
            "/api/v1/forget",
            r#"{"peer": "feed"}"#,
            OperatorRequest::Forget { peer: PeerId(0) },
        ),
        ("/api/v1/drain", "", OperatorRequest::Drain),
    ] {
        let answer = served.post(path, body).await;
        assert_eq!(answer.status, 202, "{path}: {answer:?}");
        assert_eq!(served.operator().await, (request, me.clone()));
    }
    served.stop().await;
}

#[tokio::test]
async fn what_an_operator_gets_wrong_is_told() {
    let served = Served::with_admin(vec![peer("feed")]);
    let long = format!(r#"{{"reason": "{}"}}"#, "x".repeat(501));
    for (path, body, status, says) in [
        ("/api/v1/pause", "", 400, "the request's body is not as expected"),
        ("/api/v1/pause", "{}", 400, "missing field `reason`"),
        (
            "/api/v1/pause",
            r#"{"reason": "x", "fro": "1m"}"#,
            400,
            "unknown field `fro`",
        ),
        ("/api/v1/pause", r#"{"reason": "  "}"#, 400, "`reason` is empty"),
        ("/api/v1/pause", r#"{"reason": "a\u001bb"}"#, 400, "one line"),
        ("/api/v1/pause", &long, 400, "500 characters"),
        (
            "/api/v1/pause",
            r#"{"reason": "x", "for": "soon"}"#,
            400,
            "`for` is no duration such as",
        ),
        (
            "/api/v1/pause",
            r#"{"reason": "x", "for": "0s"}"#,
            400,
            "`for` is zero",
        ),
        (
            "/api/v1/pause",
            r#"{"reason": "x", "for": "9999y"}"#,
            400,
            "longer than a year",
        ),
        (
            "/api/v1/pause",
            r#"{"reason": "x", "peer": "fed"}"#,
            404,
            "no peer named \"fed\"; configured: feed",
        ),
        ("/api/v1/forget", "{}", 400, "missing field `peer`"),
        ("/api/v1/forget", r#"{"peer": "fed"}"#, 404, "configured: feed"),
        ("/api/v1/drain", "[]x", 400, "not as expected"),
    ] {
        let answer = served.post(path, body).await;
        assert_eq!(answer.status, status, "{path} {body}: {answer:?}");
        assert!(answer.error().contains(says), "{path} {body}: {answer:?}");
    }
    assert!(served.events.is_empty());
    let read = UnixStream::connect(served.socket.as_ref().unwrap())
        .await
        .unwrap();
    let read = talk(
        read,
        b"GET /api/v1/pause HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    )
    .await;
    assert_eq!(read.status, 405);
    served.stop().await;
}

#[tokio::test]
async fn the_admin_port_wants_its_token() {
    let mut served = Served::with_admin(vec![]);
    for headers in [
        "",
        "Authorization: Bearer \r\n",
        "Authorization: Bearer s3cre\r\n",
        "Authorization: Bearer s3crets\r\n",
        "Authorization: Basic s3cret\r\n",
        "Authorization: s3cret\r\n",
    ] {
        for path in ["/api/v1/resume", "/api/v1/status", "/nowhere"] {
            let answer = served.post_tcp(path, headers, "").await;
            assert_eq!(answer.status, 401, "{headers}{path}");
            assert!(answer.head.contains("www-authenticate: bearer"), "{answer:?}");
        }
    }
    let answer = served
        .post_tcp("/api/v1/resume", "Authorization: Bearer s3cret\r\n", "")
        .await;
    assert_eq!(answer.status, 202, "{answer:?}");
    let (request, by) = served.operator().await;
    assert_eq!(request, OperatorRequest::Resume { peer: None });
    assert!(by.starts_with("token from 127.0.0.1:"), "{by}");
    served.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_takes_nothing_is_told() {
    let served = Served::with_admin(vec![]);
    assert_eq!(served.post("/api/v1/resume", "").await.status, 202); // the channel holds one
    let answer = served.post("/api/v1/resume", "").await;
    assert_eq!(answer.status, 503);
    assert!(answer.error().contains("try again"), "{answer:?}");
    served.stop().await;
}

#[tokio::test]
async fn under_a_bad_configuration_there_is_nothing_to_change() {
    let served = Served::with(View::misconfigured("no such key"), |settings, directory| {
        settings.admin_socket = Some(directory.join("admin.sock"));
    });
    assert_eq!(
        served.post("/api/v1/pause", r#"{"reason": "x"}"#).await.status,
        409
    );
    served.stop().await;
}
