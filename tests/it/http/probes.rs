//! What each endpoint answers, and which of them an outage, a drain or a bad configuration fails.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use defib::engine::event::Event;
use defib::engine::guards::{GuardName, Refusal};
use defib::engine::self_trust::BusState;
use defib::engine::snapshot::EpisodePhase;
use defib::http::View;

use super::{Served, posting};
use crate::support::snapshots::{at, dead, peer, pulsing, settings, snapshot, with_healthz};

#[tokio::test]
async fn every_endpoint_answers_as_the_table_says() {
    let served = Served::start(vec![with_healthz(peer("feed")), dead(peer("recorder"))]);
    for (path, status, says) in [
        ("/livez", 200, "ok\n"),
        ("/livez?verbose", 200, "[+] event loop: turned 0 ms ago"),
        ("/healthz", 200, "ok: feed is alive for 1 min 30 s"),
        ("/healthz/feed", 200, "ok: feed is alive"),
        (
            "/healthz/feed?verbose",
            200,
            "[+] heartbeat: alive: a heartbeat each second",
        ),
        (
            "/healthz/recorder",
            200,
            "recorder has no healthz remedy, so this never fails; it is dead (peer_stuck)",
        ),
        ("/startupz", 200, "ok\n"),
        ("/startupz/feed", 200, "ok: feed is alive"),
        ("/readyz", 200, "ok\n"),
        (
            "/readyz?verbose",
            200,
            "[+] bus: trusted for 1 min 39 s: echoes return",
        ),
        ("/readyz/feed", 200, "ok: feed is alive"),
        (
            "/readyz/recorder",
            503,
            "not ready: recorder is dead (peer_stuck) for 40.0 s",
        ),
        (
            "/readyz/recorder?verbose",
            503,
            "[-] heartbeat: dead: silent for 45 s",
        ),
        ("/metrics", 200, "defib_build_info{version="),
        ("/api/v1/status", 200, "\"node\":\"base-1\""),
        (
            "/api/v1/explain/recorder",
            200,
            "recorder is dead (peer_stuck) for 40.0 s: stopped by a signal",
        ),
        ("/", 200, "<!doctype html>"),
        ("/page.js", 200, "\"use strict\""),
        ("/page.css", 200, "body {"),
        ("/nowhere", 404, "\"error\""),
        ("/api/v1/explain/nobody", 404, "configured: feed, recorder"),
    ] {
        let answer = served.get(path).await;
        assert_eq!(answer.status, status, "{path}: {answer:?}");
        assert!(answer.body.contains(says), "{path}: {answer:?}");
        assert!(
            answer.head.contains("x-content-type-options: nosniff"),
            "{path}: {answer:?}"
        );
        assert!(
            answer
                .head
                .contains("content-security-policy: default-src 'none'"),
            "{path}: {answer:?}"
        );
        let head = served.ask("HEAD", path).await;
        assert_eq!((head.status, head.body.as_str()), (status, ""), "HEAD {path}");
        let posted = served.ask("POST", path).await;
        assert_eq!(
            posted.status,
            if path == "/nowhere" { 404 } else { 405 },
            "POST {path}"
        );
    }
    served.stop().await;
}

#[tokio::test]
async fn nothing_can_be_changed_over_the_public_listener() {
    let served = Served::with_admin(vec![peer("feed")]);
    for path in [
        "/api/v1/pause",
        "/api/v1/resume",
        "/api/v1/forget",
        "/api/v1/drain",
    ] {
        let answer = served
            .raw(posting(path, "Authorization: Bearer s3cret\r\n", "{}").as_bytes())
            .await;
        assert_eq!(answer.status, 404, "{path}");
    }
    served.stop().await;
}

#[tokio::test]
async fn livez_is_about_the_event_loop_alone() {
    let mut lost = snapshot(vec![dead(peer("feed"))]);
    lost.trust.bus = BusState::BrokerUnreachable;
    let served = Served::showing(lost);
    assert_eq!(served.get("/livez").await.status, 200);
    served.clock.set(at(105));
    assert_eq!(served.get("/livez").await.status, 200);
    served.clock.set(at(106));
    let stuck = served.get("/livez").await;
    assert_eq!(
        (stuck.status, stuck.body.as_str()),
        (503, "event loop: turned 6.0 s ago\n")
    );
    served.turned.store(at(106).as_nanos(), Ordering::Relaxed);
    assert_eq!(served.get("/livez").await.status, 200);
    served.stop().await;
}

#[tokio::test]
async fn s08_a_lost_bus_fails_readyz_and_nothing_else() {
    let mut lost = snapshot(vec![with_healthz(peer("feed"))]);
    lost.trust.bus = BusState::BrokerUnreachable;
    lost.trust.detail = "both links are down".to_owned();
    lost.trust.publishing.up = false;
    lost.trust.publishing.detail = Some("connection refused".to_owned());
    let served = Served::showing(lost);
    for path in [
        "/livez",
        "/healthz",
        "/healthz/feed",
        "/startupz",
        "/startupz/feed",
        "/readyz/feed",
    ] {
        assert_eq!(served.get(path).await.status, 200, "{path}");
    }
    let ready = served.get("/readyz").await;
    assert_eq!(
        (ready.status, ready.body.as_str()),
        (503, "not ready: bus, pub link (?verbose says why)\n")
    );
    let why = served.get("/readyz?verbose").await.body;
    assert!(
        why.contains("[-] bus: broker_unreachable for 1 min 39 s: both links are down\n"),
        "{why}"
    );
    assert!(why.contains("[-] pub link: connection refused\n"), "{why}");
    served.stop().await;
}

#[tokio::test]
async fn s24_draining_fails_readyz_and_no_probe_of_an_application() {
    let mut draining = snapshot(vec![with_healthz(peer("feed"))]);
    draining.draining = true;
    let served = Served::showing(draining);
    assert_eq!(
        served.get("/readyz").await.body,
        "not ready: draining (?verbose says why)\n"
    );
    for path in ["/livez", "/healthz", "/healthz/feed", "/readyz/feed"] {
        assert_eq!(served.get(path).await.status, 200, "{path}");
    }
    served.stop().await;
}

#[tokio::test]
async fn s37_under_a_bad_configuration_only_readyz_complains() {
    let served = Served::with(View::misconfigured("defib.toml:3:1: no such key"), |_, _| {});
    served.clock.set(at(1000)); // no loop has turned, and none will
    for path in [
        "/livez",
        "/healthz",
        "/healthz/feed",
        "/startupz",
        "/startupz/feed",
        "/readyz/feed",
    ] {
        assert_eq!(served.get(path).await.status, 200, "{path}");
    }
    let ready = served.get("/readyz?verbose").await;
    assert_eq!(ready.status, 503);
    assert!(ready.body.contains("defib.toml:3:1: no such key"), "{ready:?}");
    assert!(
        served
            .get("/metrics")
            .await
            .body
            .contains("\ndefib_config_valid 0\n")
    );
    assert!(
        served
            .get("/api/v1/status")
            .await
            .body
            .contains("\"config_error\":\"defib.toml:3:1")
    );
    served.stop().await;
}

#[tokio::test]
async fn before_the_first_snapshot_no_application_is_failed_but_its_startup_waits() {
    let seen = snapshot(vec![with_healthz(peer("feed"))]);
    let view = View::starting(&settings(&seen));
    let served = Served::with(view.clone(), |_, _| {});
    for (path, status) in [
        ("/livez", 200),
        ("/healthz", 200),
        ("/healthz/feed", 200),
        ("/readyz/feed", 200),
        ("/startupz", 503),
        ("/startupz/feed", 503),
        ("/readyz", 503),
        ("/api/v1/status", 200),
        ("/api/v1/explain/feed", 503),
        ("/metrics", 200),
    ] {
        assert_eq!(served.get(path).await.status, status, "{path}");
    }
    served
        .view
        .send_replace(Arc::new(view.with_snapshot(Arc::new(seen))));
    assert_eq!(served.get("/startupz/feed").await.status, 200);
    assert_eq!(served.get("/readyz").await.status, 200);
    served.stop().await;
}

#[tokio::test]
async fn a_misspelt_name_fails_no_probe_and_is_told() {
    let served = Served::start(vec![with_healthz(peer("feed")), with_healthz(peer("recorder"))]);
    for name in [
        "fed",
        "Feed",
        "feed/",
        "a/b/c",
        "%FF%FE",
        "%2e%2e",
        "feed%00",
        "%3Cscript%3E",
    ] {
        for endpoint in ["healthz", "startupz", "readyz"] {
            let answer = served.get(&format!("/{endpoint}/{name}")).await;
            assert_eq!(answer.status, 200, "/{endpoint}/{name}: {answer:?}");
            assert!(answer.body.contains("configured: feed, recorder"), "{answer:?}");
        }
    }
    let long = served.get(&format!("/healthz/{}", "x".repeat(4000))).await;
    assert_eq!(long.status, 200);
    assert!(long.body.len() < 200, "{long:?}");
    // A trailing slash is the bare endpoint.
    for endpoint in ["livez", "healthz", "startupz", "readyz"] {
        assert_eq!(
            served.get(&format!("/{endpoint}/")).await.status,
            200,
            "/{endpoint}/"
        );
    }
    let metrics = served.get("/metrics").await.body;
    assert!(
        metrics.contains("defib_probes_unknown_peer_total{endpoint=\"readyz\"} 8"),
        "{metrics}"
    );
    served.stop().await;
}

#[tokio::test]
async fn healthz_is_503_only_while_the_pulse_lasts() {
    let served = Served::start(vec![pulsing(peer("feed"), at(110)), peer("other")]);
    for path in ["/healthz", "/healthz/feed"] {
        let answer = served.get(path).await;
        assert_eq!(answer.status, 503, "{path}");
        assert!(
            answer
                .body
                .starts_with("pulse: feed is dead (peer_stuck) for 40.0 s;"),
            "{answer:?}"
        );
        assert!(answer.body.ends_with("ends in 10.0 s\n"), "{answer:?}");
    }
    assert_eq!(served.get("/healthz/other").await.status, 200);
    // Even if the engine publishes nothing any more.
    served.clock.set(at(110));
    for path in ["/healthz", "/healthz/feed"] {
        assert_eq!(served.get(path).await.status, 200, "{path}");
    }
    served.stop().await;
}

#[tokio::test]
async fn what_is_held_or_given_up_is_200_with_the_truth_in_the_body() {
    let mut given_up = dead(with_healthz(peer("feed")));
    given_up.episode.as_mut().unwrap().phase = EpisodePhase::GaveUp { since: at(90) };
    let mut held = dead(with_healthz(peer("other")));
    held.episode.as_mut().unwrap().refusal = Some(Refusal {
        guard: GuardName::Budget,
        why: "3 restarts in 10 min".to_owned(),
        until: Some(at(200)),
    });
    let served = Served::start(vec![given_up, held]);
    let answer = served.get("/healthz/feed").await;
    assert_eq!(answer.status, 200);
    assert!(
        answer.body.contains("given up, so no restart is asked for"),
        "{answer:?}"
    );
    let answer = served.get("/healthz/other").await;
    assert_eq!(answer.status, 200);
    assert!(
        answer.body.contains("held by budget: 3 restarts in 10 min"),
        "{answer:?}"
    );
    assert!(
        served
            .get("/metrics")
            .await
            .body
            .contains("defib_gave_up{peer=\"feed\"} 1")
    );
    served.stop().await;
}

#[tokio::test]
async fn bare_healthz_of_several_peers_fails_only_when_all_pulse() {
    let one = Served::start(vec![
        pulsing(peer("a"), at(110)),
        with_healthz(peer("b")),
        peer("c"),
    ]);
    let answer = one.get("/healthz?verbose").await;
    assert_eq!(answer.status, 200);
    assert!(
        answer
            .body
            .starts_with("1 of 2 peers with a healthz remedy pulse\n[-] pulse: a is dead"),
        "{answer:?}"
    );
    assert_eq!(one.get("/healthz/a").await.status, 503);
    assert_eq!(one.get("/healthz/b").await.status, 200);
    one.stop().await;

    let all = Served::start(vec![
        pulsing(peer("a"), at(110)),
        pulsing(peer("b"), at(120)),
        peer("c"),
    ]);
    assert_eq!(all.get("/healthz").await.status, 503);
    all.clock.set(at(115));
    assert_eq!(all.get("/healthz").await.status, 200);
    all.stop().await;
}

#[tokio::test]
async fn s45_a_healthz_remedy_that_nobody_probes_is_said_not_to_be_wired() {
    let served = Served::start(vec![with_healthz(peer("feed")), peer("other")]);
    let before = served.get("/api/v1/explain/feed").await.body;
    assert!(
        before.contains("the remedy is not wired: no probe of /healthz/feed has come in the 1 min 40 s"),
        "{before}"
    );
    let metrics = served.get("/metrics").await.body;
    assert!(
        metrics.contains("defib_healthz_wired{peer=\"feed\"} 0"),
        "{metrics}"
    );
    assert!(
        !metrics.contains("defib_healthz_wired{peer=\"other\"}"),
        "{metrics}"
    );

    served.get("/healthz/feed").await;
    served.ask("HEAD", "/healthz").await;
    let after = served.get("/api/v1/explain/feed").await.body;
    assert!(after.contains("wired: 2 probes since the start"), "{after}");
    let metrics = served.get("/metrics").await.body;
    assert!(
        metrics.contains("defib_healthz_wired{peer=\"feed\"} 1"),
        "{metrics}"
    );
    assert!(
        metrics.contains("defib_healthz_probes_total{peer=\"feed\"} 2"),
        "{metrics}"
    );
    assert!(
        served
            .get("/api/v1/status")
            .await
            .body
            .contains("\"healthz_probes\":{\"feed\":2}")
    );
    served.stop().await;
}

#[tokio::test]
async fn the_latest_heartbeat_is_answered_byte_for_byte() {
    let served = Served::start(vec![peer("feed")]);
    let early = served.get("/api/v1/heartbeat").await;
    assert_eq!(early.status, 503, "{}", early.body);
    let body = std::sync::Arc::from(&br#"{"v":1,"node":"a","sig":"x"}"#[..]);
    served.heartbeat.send_replace((at(102), body));
    let answer = served.get("/api/v1/heartbeat").await;
    assert_eq!(
        (answer.status, &*answer.body),
        (200, r#"{"v":1,"node":"a","sig":"x"}"#)
    );
    assert!(
        answer.head.contains("content-type: application/json"),
        "{}",
        answer.head
    );
    assert_eq!(served.ask("POST", "/api/v1/heartbeat").await.status, 405);
    served.clock.set(at(102));
    let late = served.get("/api/v1/heartbeat").await;
    assert_eq!(late.status, 503, "the bus is away: {}", late.body);
    served.stop().await;
}

#[tokio::test]
async fn who_asks_for_the_heartbeat_may_say_what_it_doubts_and_is_answered_at_once() {
    let mut served = Served::start(vec![peer("feed")]);
    served
        .heartbeat
        .send_replace((at(1_000), std::sync::Arc::from(&b"{}"[..])));
    let path = "/api/v1/heartbeat?channel%3Aa%2Cb=2300&node%3Ax=7";
    assert_eq!(served.get(path).await.body, "{}");
    let doubted = served.events.try_recv().unwrap();
    let Event::Doubted { about, silent } = &doubted else {
        panic!("{doubted:?}")
    };
    assert_eq!((&**about, *silent), ("channel:a,b", Duration::from_millis(2_300)));
    assert!(
        served.events.try_recv().is_err(),
        "an event loop that has no room for a question does without it"
    );
    for wrong in ["?node:x", "?node:x=soon", "?node:x=-1"] {
        let answer = served.get(&format!("/api/v1/heartbeat{wrong}")).await;
        assert_eq!(answer.status, 400, "{wrong}");
    }
    let long = format!("/api/v1/heartbeat?{}=1", "x".repeat(1_025));
    assert_eq!(served.get(&long).await.status, 200);
    assert!(served.events.try_recv().is_err(), "nothing has such a name");
    let metrics = served.get("/metrics").await.body;
    assert!(metrics.contains("defib_doubts_unheard_total 1\n"), "{metrics}");
    // A large group asks of many, again and again: each is heard, once. (The clock stands still.)
    for round in 0..3 {
        for name in 0..80 {
            let path = format!("/api/v1/heartbeat?node:{name}=7");
            assert_eq!(served.get(&path).await.status, 200);
            assert_eq!(served.events.try_recv().is_ok(), round == 0, "{name}");
        }
    }
    // Who missed it for longer tells more.
    served.get("/api/v1/heartbeat?node:7=9000").await;
    assert!(served.events.try_recv().is_ok());
    // Whoever invents names without end is answered, and not listened to for ever.
    let mut heard = 0;
    for name in 0..400 {
        let path = format!("/api/v1/heartbeat?invented:{name}=7");
        assert_eq!(served.get(&path).await.status, 200);
        heard += usize::from(served.events.try_recv().is_ok());
    }
    assert!((1..256).contains(&heard), "{heard}");
    served.stop().await;
}
