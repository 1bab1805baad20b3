//! The commands that ask a running node.

use defib::engine::event::{OperatorRequest, PeerId};
use defib::http;
use tokio::time::timeout;

use super::{LONG, Served};
use crate::support::ports::free_port;
use crate::support::redis_server::{self, RedisServer};
use crate::support::snapshots::{at, dead, peer, pulsing, with_healthz};

async fn defib(args: &[&str]) -> (i32, String, String) {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_defib"));
    command
        .args(args)
        .env_remove("DEFIB_TOKEN")
        .env("NO_COLOR", "1")
        .kill_on_drop(true);
    let output = timeout(LONG, command.output()).await.unwrap().unwrap();
    (
        output.status.code().unwrap(),
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

#[tokio::test]
async fn status_is_a_table_that_a_person_reads() {
    let served = Served::start(vec![with_healthz(peer("feed")), dead(peer("a-longer-name"))]);
    let url = format!("http://{}", served.address);
    let (code, table, _) = defib(&["status", "--url", &url]).await;
    assert_eq!(code, 0);
    insta::assert_snapshot!(table, @r"
    node base-1 of group base-station, up 1 min 40 s, defib 0.1.0
    bus trusted for 1 min 39 s
    feed: its healthz remedy is not wired: no probe of /healthz/feed has come

    PEER           LIVENESS  FOR         CAUSE       CHECKS          NEXT
    feed           alive     1 min 30 s              1 pass          judged again in 1.0 s at the latest
    a-longer-name  dead      40.0 s      peer_stuck  heartbeat dead  nothing: no remedy is configured, somebody has to look
      stopped by a signal (state T)
    ");
    let (code, json, _) = defib(&["status", "--json", "--url", &url]).await;
    assert_eq!(code, 0);
    let status: http::Status = serde_json::from_str(&json).unwrap();
    assert_eq!(status.snapshot.unwrap().peers.len(), 2);
    let (code, text, _) = defib(&["explain", "a-longer-name", "--url", &url]).await;
    assert_eq!(code, 0);
    assert!(text.starts_with("a-longer-name is dead (peer_stuck)"), "{text}");
    let (code, _, error) = defib(&["explain", "nobody", "--url", &url]).await;
    assert_eq!(code, 1);
    assert!(error.contains("configured: feed, a-longer-name"), "{error}");
    served.stop().await;
}

#[tokio::test]
async fn what_a_named_configuration_does_not_say_is_not_guessed() {
    let served = Served::start(vec![peer("feed")]);
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let missing = dir.path().join("none.toml").to_str().unwrap().to_owned();
    let broken = file("broken.toml", "[http\nlisten = \"127.0.0.1:1\"\n");
    let nowhere = file("nowhere.toml", "[http]\nlisten = \"here\"\n");
    for config in [&missing, &broken, &nowhere] {
        for command in [
            &["status"][..],
            &["explain", "feed"],
            &["pause", "--reason", "x"],
            &["probe", "healthz"],
            &["drill", "feed", "--yes"],
            &["lease", "app:x", "--", "true"],
        ] {
            let at = command
                .iter()
                .position(|word| *word == "--")
                .unwrap_or(command.len());
            let words = [&command[..at], &["--config", config], &command[at..]].concat();
            let (code, said, error) = defib(&words).await;
            assert_eq!((code, said.as_str()), (78, ""), "{words:?}: {error}");
            assert!(
                error.contains("it is not known where the node listens"),
                "{words:?}: {error}"
            );
        }
        let url = format!("http://{}", served.address);
        let (code, ..) = defib(&["status", "--config", config, "--url", &url]).await;
        assert_eq!(code, 0, "it was told where");
    }
    // Wrong elsewhere, as a node has it that observes: it says where that listens.
    let wrong = file(
        "wrong.toml",
        &format!("[http]\nlisten = \"{}\"\n[bus]\nurll = 1\n", served.address),
    );
    let (code, _, error) = defib(&["status", "--config", &wrong]).await;
    assert_eq!(code, 0, "{error}");
    served.stop().await;
}

#[tokio::test]
async fn operators_work_from_the_command_line() {
    let mut served = Served::with_admin(vec![peer("feed")]);
    let socket = served.socket.clone().unwrap().display().to_string();
    let admin = format!("http://{}", served.admin.unwrap());
    let (code, said, error) = defib(&[
        "pause",
        "feed",
        "--reason",
        "maintenance",
        "--for",
        "10m",
        "--admin-socket",
        &socket,
    ])
    .await;
    assert_eq!((code, said.as_str()), (0, "feed is paused for 10m\n"), "{error}");
    let (request, by) = served.operator().await;
    assert!(
        matches!(
            request,
            OperatorRequest::Pause {
                peer: Some(PeerId(0)),
                ..
            }
        ),
        "{request:?}"
    );
    assert!(by.contains(" pid "), "{by}");

    let (code, _, error) = defib(&["resume", "--url", &admin]).await;
    assert_eq!(code, 1);
    assert!(error.contains("send the token"), "{error}");
    let (code, said, _) = defib(&["resume", "--url", &admin, "--token", "s3cret"]).await;
    assert_eq!((code, said.as_str()), (0, "the whole node is no longer paused\n"));
    served.operator().await;
    let (code, _, error) = defib(&["forget", "fed", "--admin-socket", &socket]).await;
    assert_eq!(code, 1);
    assert!(error.contains("configured: feed"), "{error}");
    let (code, said, _) = defib(&["drain", "--admin-socket", &socket]).await;
    assert_eq!((code, said.as_str()), (0, "the node says goodbye and ends\n"));
    served.operator().await;
    served.stop().await;
}

#[tokio::test]
async fn probes_answer_in_one_line_and_an_exit_code() {
    let served = Served::start(vec![pulsing(peer("feed"), at(110)), with_healthz(peer("other"))]);
    let url = format!("http://{}", served.address);
    let nobody = format!("http://127.0.0.1:{}", free_port());
    let (live, status) = (format!("{url}/livez"), format!("{url}/api/v1/status"));
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("alive");
    std::fs::write(&file, "").unwrap();
    let (file, missing) = (
        file.display().to_string(),
        directory.path().join("missing").display().to_string(),
    );
    // Ten times the default: this machine is busy.
    let patient = "--timeout=20s";
    for (args, code, says) in [
        (
            vec!["healthz", "feed", patient, "--url", &url],
            1,
            "fail: pulse: feed is dead",
        ),
        (
            vec!["healthz", "other", patient, "--url", &url],
            0,
            "pass: other is alive",
        ),
        (vec!["healthz", patient, "--url", &url], 0, "pass: 1 of 2 peers"),
        (
            vec!["healthz", patient, "--url", &nobody],
            0,
            "pass (--unreachable=pass): no defib answers at",
        ),
        (
            vec!["healthz", patient, "--url", &nobody, "--unreachable=fail"],
            1,
            "fail (could not ask)",
        ),
        (vec!["http", &live, patient], 0, "pass"),
        (vec!["http", &live, patient, "--status=204"], 1, "fail"),
        (
            vec![
                "http",
                &status,
                patient,
                "--json=snapshot.node",
                "--equals=base-1",
            ],
            0,
            "pass",
        ),
        (
            vec![
                "http",
                &status,
                patient,
                "--json=snapshot.trust.stalls",
                "--above=0",
            ],
            1,
            "fail",
        ),
        (vec!["http", &nobody, patient], 1, "fail (could not ask)"),
        (
            vec!["http", &nobody, patient, "--unreachable=pass"],
            0,
            "pass (--unreachable=pass)",
        ),
        (vec!["file", &file, "--max-age=1h"], 0, "pass: it was modified"),
        (vec!["file", &missing], 1, "is missing"),
        (vec!["file", "/proc/self"], 1, "it is not a regular file"),
        (vec!["file", "/proc/self/mem"], 1, "fail (could not ask)"),
    ] {
        let args: Vec<_> = ["probe"].into_iter().chain(args).collect();
        let (exit, said, error) = defib(&args).await;
        assert_eq!((exit, error.as_str()), (code, ""), "{args:?}: {said}");
        assert!(said.contains(says), "{args:?}: {said}");
        assert_eq!(said.lines().count(), 1, "{args:?}: {said}");
    }
    served.stop().await;
}

#[tokio::test]
async fn a_redis_is_probed_from_the_command_line() {
    if !redis_server::there() {
        return;
    }
    let server = RedisServer::start();
    let url = server.url();
    let (code, said, _) = defib(&["probe", "redis", &url, "--timeout=20s"]).await;
    assert_eq!((code, said.lines().count()), (0, 1), "{said}");
    assert!(said.starts_with("pass: "), "{said}");
    server.stop();
    for (unreachable, code) in [("fail", 1), ("pass", 0)] {
        let unreachable = format!("--unreachable={unreachable}");
        let (exit, said, _) = defib(&["probe", "redis", &url, "--timeout=500ms", &unreachable]).await;
        assert_eq!((exit, said.lines().count()), (code, 1), "{said}");
    }
    server.cont();
    let (code, said, _) = defib(&["probe", "redis", "http://127.0.0.1:1"]).await;
    assert_eq!(code, 1);
    assert!(said.starts_with("fail: the URL cannot be read"), "{said}");
}
