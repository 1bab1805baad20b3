//! The metrics say what happened, and no label holds what a stranger wrote.

use std::collections::BTreeSet;
use std::path::Path;

use defib::engine::cause::Cause;
use defib::engine::decision::{Notice, What};
use defib::engine::event::Incarnation;
use defib::engine::guards::{GuardName, Refusal};
use defib::engine::peer::Liveness;
use defib::engine::self_trust::BusState;
use defib::engine::settings::RemedyKind;

use super::{Served, notice};
use crate::support::snapshots::{at, peer, pulsing};

/// Everything that the engine can tell, with words that must end up in no label.
fn hostile_notices() -> Vec<Notice> {
    let detail = || "10.1.2.3:6379 refused id 9f8e7d".to_owned();
    let refusal = Refusal {
        guard: GuardName::Budget,
        why: detail(),
        until: None,
    };
    let (kind, cause) = (RemedyKind::Signal, Cause::PeerStuck);
    [
        What::Liveness {
            from: Liveness::Alive,
            to: Liveness::Dead,
            cause: Some(cause),
            detail: detail(),
        },
        What::Liveness {
            from: Liveness::Dead,
            to: Liveness::Alive,
            cause: None,
            detail: detail(),
        },
        What::Bus {
            state: BusState::SelfDeaf,
            detail: detail(),
        },
        What::Stalled { for_ms: 700 },
        What::Incarnation {
            incarnation: Incarnation(detail().into()),
        },
        What::Goodbye,
        What::EpisodeOpened {
            episode: 987_654,
            cause,
        },
        What::Refused {
            episode: 987_654,
            refusal,
        },
        What::WouldHeal {
            episode: 987_654,
            kind,
            cause,
        },
        What::Acted {
            episode: 987_654,
            token: 123_455,
            kind,
            outcome: "dry_run",
            detail: detail(),
        },
        What::Granted {
            episode: 987_654,
            token: 123_456,
            kind,
            cause,
            attempt: 1,
        },
        What::Acted {
            episode: 987_654,
            token: 123_456,
            kind,
            outcome: "failed",
            detail: detail(),
        },
        What::Recovered {
            episode: 987_654,
            remedies: 1,
            after_ms: 1500,
        },
        What::Recovered {
            episode: 987_654,
            remedies: 0,
            after_ms: 1500,
        },
        What::GaveUp {
            episode: 987_654,
            remedies: 1,
            detail: detail(),
        },
        What::EpisodeClosed {
            episode: 987_654,
            detail: detail(),
        },
        What::MassSilenceTripped { silent: 3, of: 4 },
        What::MassSilenceEnded,
        What::DuplicateNode {
            node: "9f8e7d".into(),
        },
        What::Operator {
            request: "pause",
            by: "uid 0 pid 4711".to_owned(),
            detail: detail(),
        },
    ]
    .into_iter()
    .map(|what| notice("feed", what))
    .collect()
}

async fn scrape_of_a_hostile_world() -> String {
    let mut feed = pulsing(peer("feed"), at(200));
    "10.1.2.3:6379 refused id 9f8e7d".clone_into(&mut feed.detail);
    let mut served = Served::with_admin(vec![feed, peer("recorder")]);
    for notice in hostile_notices() {
        served.metrics.engine.observe_notice(&notice);
    }
    for path in [
        "/healthz/9f8e7d",
        "/9f8e7d",
        "/api/v1/9f8e7d",
        "/healthz",
        "/livez",
    ] {
        served.get(path).await;
    }
    served.post("/api/v1/pause", r#"{"reason": "id 9f8e7d"}"#).await;
    served.operator().await;
    served.raw(b"nonsense\r\n\r\n").await;
    let scrape = served.get("/metrics").await.body;
    served.stop().await;
    scrape
}

#[tokio::test]
async fn s26_no_label_holds_an_id_an_address_or_an_error() {
    let scrape = scrape_of_a_hostile_world().await;
    let mut labels = 0;
    for line in scrape.lines().filter(|line| !line.starts_with('#')) {
        let Some((_, rest)) = line.split_once('{') else {
            continue;
        };
        let inside = rest.rsplit_once('}').unwrap().0;
        for label in inside.split(',') {
            let (name, value) = label.split_once('=').unwrap();
            let value = value.trim_matches('"');
            // Words of an enum, or names from the configuration; versions, bounds and statuses are no secrets.
            let word = value
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte == b'_');
            let number = matches!(name, "le" | "version") || (name == "status" && value.len() == 3);
            assert!(word || number || ["feed", "recorder"].contains(&value), "{line}");
            labels += 1;
        }
    }
    assert!(labels > 100, "{scrape}");
    for secret in ["10.1.2.3", "9f8e7d", "987654", "123456", "4711"] {
        assert!(!scrape.contains(secret), "{secret}");
    }
}

#[tokio::test]
async fn the_metrics_say_what_happened() {
    let scrape = scrape_of_a_hostile_world().await;
    for line in [
        "defib_peer_liveness{peer=\"feed\",state=\"dead\"} 1",
        "defib_peer_liveness{peer=\"feed\",state=\"alive\"} 0",
        "defib_peer_liveness{peer=\"recorder\",state=\"alive\"} 1",
        "defib_peer_cause{cause=\"peer_stuck\",peer=\"feed\"} 1",
        "defib_peer_last_life_seconds{peer=\"feed\"} 45",
        "defib_check_verdict{check=\"heartbeat\",peer=\"feed\",state=\"dead\"} 1",
        "defib_bus_state{state=\"trusted\"} 1",
        "defib_link_up{link=\"pub\"} 1",
        "defib_echo_seconds_count 1",
        "defib_guard_refusals_total{guard=\"budget\"} 1",
        "defib_guard_refusals_total{guard=\"paused\"} 0",
        "defib_remedies_total{outcome=\"dry_run\",peer=\"feed\",remedy=\"signal\"} 1",
        "defib_remedies_total{outcome=\"failed\",peer=\"feed\",remedy=\"signal\"} 1",
        "defib_remedies_granted_total{cause=\"peer_stuck\",peer=\"feed\",remedy=\"signal\"} 1",
        "defib_episodes_open 1",
        "defib_episodes_closed_total{how=\"healed\",peer=\"feed\"} 1",
        "defib_healthz_pulsing{peer=\"feed\"} 1",
        "defib_stalls_total 1",
        "defib_stalled_seconds_total 0.7",
        "defib_uptime_seconds 100",
        "defib_http_requests_total{endpoint=\"other\",status=\"404\"} 2",
        "defib_http_requests_total{endpoint=\"pause\",status=\"202\"} 1",
        "defib_http_connections_cut_total{listener=\"public\",reason=\"malformed\"} 1",
        "defib_operator_requests_total{outcome=\"done\",request=\"pause\"} 1",
    ] {
        assert!(
            scrape.lines().any(|found| found == line),
            "{line} is not in\n{scrape}"
        );
    }
}

/// Names of metrics as the sources have them: a vector without a series is in no scrape.
fn names_in_the_sources() -> BTreeSet<String> {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/telemetry/metrics");
    let mut names = BTreeSet::new();
    for file in std::fs::read_dir(sources).unwrap() {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        for (at, _) in text.match_indices("\"defib_") {
            let name: String = text[at + 1..].chars().take_while(|c| *c != '"').collect();
            names.insert(name);
        }
    }
    names
}

/// docs/metrics.md lists exactly what there is; types and labels are held against a scrape as far as it reaches.
#[tokio::test]
async fn the_page_of_metrics_is_true() {
    let page = include_str!("../../../docs/metrics.md");
    let cells = |line: &'static str| -> Vec<&str> {
        line.trim_matches('|')
            .split('|')
            .map(|cell| cell.trim().trim_matches('`'))
            .collect()
    };
    let rows: Vec<Vec<&str>> = page
        .lines()
        .filter(|line| line.starts_with("| `defib_"))
        .map(cells)
        .filter(|row| row.len() == 4)
        .collect();
    let documented: BTreeSet<String> = rows.iter().map(|row| row[0].to_owned()).collect();
    assert_eq!(
        documented.len(),
        rows.len(),
        "a metric stands twice in docs/metrics.md"
    );
    assert_eq!(documented, names_in_the_sources());

    let scrape = scrape_of_a_hostile_world().await;
    for line in scrape.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').unwrap();
        let row = rows.iter().find(|row| row[0] == name).unwrap();
        assert_eq!(row[1], kind, "{name}");
        assert_eq!(kind == "counter", name.ends_with("_total"), "{name}");
        if kind == "histogram" {
            continue; // its series have other names
        }
        let series = scrape
            .lines()
            .find(|line| line.starts_with(&format!("{name}{{")))
            .unwrap_or_default();
        let inside = series.split_once('{').and_then(|(_, rest)| rest.rsplit_once('}'));
        let inside = inside.map_or("", |(inside, _)| inside);
        let labels: BTreeSet<&str> = inside
            .split(',')
            .filter_map(|label| Some(label.split_once('=')?.0))
            .collect();
        let listed = row[2].split(',').map(|label| label.trim().trim_matches('`'));
        let listed: BTreeSet<&str> = listed.filter(|label| !label.is_empty()).collect();
        assert_eq!(listed, labels, "{name}");
    }
}
