//! Prometheus's own Alertmanager: what a node tells it, it shows.

use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use rustix::process::Signal;
use serde_json::Value;

use crate::checks::Process;
use crate::support::node::{Node, get};
use crate::support::ports::free_port;
use crate::support::{available, until};

struct Alertmanager {
    child: Child,
    port: u16,
    _dir: tempfile::TempDir,
}

impl Alertmanager {
    /// `None`, and said so, if it is not installed.
    fn start() -> Option<Self> {
        let program = "prometheus-alertmanager";
        let there = Command::new(program).arg("--version").output().is_ok();
        if !available(program, there) {
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("config.yml");
        std::fs::write(
            &config,
            "route: { receiver: nobody }\nreceivers: [{ name: nobody }]\n",
        )
        .unwrap();
        let port = free_port();
        let child = Command::new(program)
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.path={}", dir.path().display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .arg("--cluster.listen-address=")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut alertmanager = Self {
            child,
            port,
            _dir: dir,
        };
        until("Alertmanager answers", || {
            let ended = alertmanager.child.try_wait().unwrap();
            assert!(ended.is_none(), "Alertmanager has ended: {ended:?}");
            TcpStream::connect(("127.0.0.1", port)).is_ok() && alertmanager.get("/-/ready").0 == 200
        });
        Some(alertmanager)
    }

    fn get(&self, path: &str) -> (u16, String) {
        get(([127, 0, 0, 1], self.port).into(), path)
    }

    /// The alerts that it holds to be firing.
    fn firing(&self) -> Vec<Value> {
        let (status, body) = self.get("/api/v2/alerts");
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    /// Alerts that it was told to be over.
    fn told_resolved(&self) -> f64 {
        let (_, page) = self.get("/metrics");
        let of = |line: &&str| {
            line.starts_with("alertmanager_alerts_received_total{") && line.contains("status=\"resolved\"")
        };
        let values = page.lines().filter(of).filter_map(|line| line.rsplit_once(' '));
        values.map(|(_, value)| value.parse::<f64>().unwrap()).sum()
    }

    /// Waits until one of this name fires.
    fn fires(&self, name: &str) -> Value {
        let mut found = None;
        until(&format!("{name} fires"), || {
            found = self
                .firing()
                .into_iter()
                .find(|alert| alert["labels"]["alertname"] == name);
            found.is_some()
        });
        found.unwrap()
    }
}

impl Drop for Alertmanager {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn an_open_episode_fires_is_told_again_after_a_crash_of_the_node_and_is_resolved() {
    let Some(alertmanager) = Alertmanager::start() else {
        return;
    };
    let mut process = Process::sleep();
    let mut node = Node::run(&format!(
        r#"
[bus]
settle = "0s"
[notify.alerts]
type = "alertmanager"
url = "http://127.0.0.1:{}"
resend = "5s"
[peer.feed]
owner = {{ pid = {} }}
"#,
        alertmanager.port,
        process.pid()
    ));
    node.is_calm();
    process.kill();
    let alert = alertmanager.fires("DefibEpisode");
    let labels = &alert["labels"];
    assert_eq!(
        (&labels["peer"], &labels["cause"]),
        (&"feed".into(), &"peer_exited".into())
    );
    assert_eq!(
        (&labels["group"], &labels["severity"]),
        (&"default".into(), &"warning".into())
    );
    let summary = alert["annotations"]["summary"].as_str().unwrap();
    assert!(summary.starts_with("feed (peer_exited) on "), "{alert}");
    until("the episode is written down", || {
        std::fs::read_to_string(node.dir().join("state.json")).is_ok_and(|text| text.contains("peer_exited"))
    });

    // Told again: it would end after 20 s.
    let told = |alert: &Value| alert["endsAt"].as_str().unwrap().to_owned();
    until("it is told again", || {
        told(&alertmanager.fires("DefibEpisode")) > told(&alert)
    });

    node.signal(Signal::KILL);
    node.exit_code();
    let before = told(&alertmanager.fires("DefibEpisode"));
    node.start_again();
    until("the new run tells it", || {
        told(&alertmanager.fires("DefibEpisode")) > before
    });

    assert!(alertmanager.told_resolved() < 0.5, "nothing is over yet");
    let (code, said) = node.admin(&["forget", "feed"]);
    assert_eq!(code, Some(0), "{said}");
    // By itself it would only end 20 s after it was told last.
    until("it is told that it is over", || {
        alertmanager.told_resolved() > 0.5
    });
    until("it is resolved", || alertmanager.firing().is_empty());
}
