//! The documents say what the code does.

use std::path::{Path, PathBuf};

use defib::config::{Sources, document, load};

use crate::config::sources;

/// Compares a file with what it should hold; with DEFIB_BLESS=1 writes it instead.
fn held(path: &str, expected: &str) {
    let file: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    if std::env::var_os("DEFIB_BLESS").is_some_and(|value| value == "1") {
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, expected).unwrap();
    }
    let found = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        found == expected,
        "{path} is not what src/config/fields.rs says. If that is what you meant, write it anew:\n    \
         DEFIB_BLESS=1 cargo test --test it docs::"
    );
}

#[test]
fn the_configuration_file_is_that_of_the_code() {
    held("config/defib.toml", &document::sample());
}

#[test]
fn the_configuration_reference_is_that_of_the_code() {
    held("docs/configuration.md", &document::reference());
}

/// Each line that shows a default or what must be given, without its `#`.
fn uncommented(examples: bool) -> String {
    document::sample()
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(rest) if rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '[') => rest,
            Some(rest) if examples => rest.strip_prefix("# ").unwrap_or_default(),
            _ => "",
        })
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn the_configuration_file_as_it_is_changes_nothing() {
    assert_eq!(
        load(&sources(&document::sample())).unwrap(),
        load(&sources("")).unwrap()
    );
}

#[test]
fn every_default_that_is_documented_is_that_of_the_code() {
    let minimal = r#"
[blocker.deploys]
http = "http://deployer:8080/running"
[when.car]
http = "http://127.0.0.1:8080/health"
[[maintenance]]
reason = "nightly backup"
from = "02:00"
to = "03:30"
[peer.feed]
owner = { listens = 9080 }
checks.heartbeat = { channel = "telemetry_heartbeat" }
checks.traffic = { channels = ["can_messages"] }
checks.push = {}
checks.notify = {}
checks.process = {}
checks.http = { url = "http://127.0.0.1:9080/health" }
checks.subscription = { channels = ["can_messages"] }
checks.sockets = { to = ["10.0.0.5:5432"] }
checks.metric = { url = "http://127.0.0.1:9080/metrics", series = 'queue_depth{queue="out"}', below = 1000 }
checks.connections = { url = "http://127.0.0.1:9080/metrics", series = "websocket_connections" }
checks.memory = { below = "512MiB" }
checks.tcp = { to = "127.0.0.1:9080" }
checks.exec = { command = ["check_feed", "-c", "5"] }
checks.redis_key = { key = "websocket_bridge:clients" }
checks.redis_lock = { key = "chat:stream:lock" }
remedies = [{ do = "socket_reset" }, { do = "signal" }, { do = "client_kill" }]
[peer.cache]
owner = { container = "cache" }
checks.docker = {}
remedies = [{ do = "docker" }, { do = "capture" }]
[peer.bot]
owner = { unit = "bot.service" }
checks.systemd = {}
remedies = [{ do = "systemd" }]
[peer.trader.checks.file]
path = "/run/bot/heartbeat.json"
progress = { field = "metadata.cycles", max_age = "2m" }
stopped_when = { field = "status", equals = "stopped" }
[peer.web]
owner = { listens = 8080 }
remedies = [{ do = "healthz" }]
[peer.recorder]
owner = { pid_file = "/run/recorder.pid" }
remedies = [{ do = "exec", command = ["systemctl", "restart", "recorder"] }]
[peer.pusher]
owner = { command = "pusher.py" }
remedies = [{ do = "http", url = "http://127.0.0.1:9080/__internal/restart" }]
[peer.sfu]
owner = { command = "sfu" }
remedies = [{ do = "http", url = "http://127.0.0.1:9090/drain", until = { url = "http://127.0.0.1:9090/connections" } }]
[peer.neighbour]
checks.heartbeat = { channel = "neighbour_heartbeat" }
remedies = [{ do = "log" }, { do = "notify", to = "slack" }]
[notify.slack]
url = "http://127.0.0.1:8080/hook"
"#;
    let mut written = load(&sources(&uncommented(false))).unwrap_or_else(|report| panic!("{report}"));
    let implied = load(&sources(minimal)).unwrap_or_else(|report| panic!("{report}"));
    written
        .warnings
        .retain(|warning| !warning.contains("healthz_hold has no effect"));
    assert_eq!(written, implied);
}

#[test]
fn every_example_is_of_the_right_kind() {
    // All at once they contradict each other; but none may be unknown, misspelt or out of bounds.
    let mut all: Sources = sources(&uncommented(true));
    for name in [
        "REDIS_PASSWORD",
        "CAR_TOKEN",
        "FEED_TOKEN",
        "PROMETHEUS_TOKEN",
        "PUSHER_TOKEN",
        "SFU_TOKEN",
        "NOTIFY_TOKEN",
    ] {
        all.env.insert(name.to_owned(), "x".to_owned());
    }
    let report = load(&all).unwrap_err().to_string();
    for rule in [
        "unknown_key",
        "[value]",
        "missing",
        "syntax",
        "not_in_this_version",
    ] {
        assert!(!report.contains(rule), "{report}");
    }
}

#[test]
fn the_readmes_configurations_load() {
    let readme = include_str!("../../README.md");
    let blocks: Vec<_> = readme
        .split("```toml\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
        .collect();
    assert!(blocks.len() >= 2, "{}", blocks.len());
    for block in blocks {
        load(&sources(block)).unwrap_or_else(|report| panic!("{report}\n{block}"));
    }
}
