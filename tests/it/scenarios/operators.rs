//! What operators see and ask for: the audit, an episode's whole story: scenarios 13, 32, 35, 36.

use std::fs;

use rustix::process::Signal;
use serde_json::Value;

use super::config;
use crate::support::application::{Application, Site};
use crate::support::node::{Node, defib};
use crate::support::until;

const IDLE: [&str; 3] = ["sh", "-c", "while :; do sleep 600 & wait; done"];

/// A peer `app`, judged by its process and by `/health` of `site`, with this ladder.
fn app(application: &Application, site: &Site, rest: &str) -> String {
    format!(
        r#"
        [peer.app]
        owner = {}
        grace = "1s"
        backoff = {{ initial = "200ms" }}
        checks.process = {{ interval = "200ms", fail_after = "2 of 2" }}
        checks.http = {{ url = {:?}, interval = "200ms", fail_after = "2 of 2" }}
        {rest}
        "#,
        application.owner(),
        site.url("/health")
    )
}

fn history(said: &str) -> Vec<Value> {
    said.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}

fn names(records: &[Value]) -> Vec<&str> {
    records
        .iter()
        .filter_map(|record| record["event"].as_str())
        .collect()
}

/// A rung that answers and changes nothing, one that restarts: everything is in the story, on disk as well.
#[test]
fn s32_an_episode_is_told_from_its_beginning_and_kept_across_a_restart_of_the_node() {
    let site = Site::start();
    site.set("/health", 200, "");
    site.set("/drain", 204, "");
    let application = Application::start(&IDLE);
    let ladder = format!(
        "remedies = [\
         {{ do = \"http\", url = {:?}, restarts = false, verify_within = \"1s\" }}, \
         {{ do = \"exec\", command = {}, verify_within = \"20s\" }}]",
        site.url("/drain"),
        application.restart()
    );
    let mut node = Node::run(&config("embedded", &app(&application, &site, &ladder)));
    node.is_calm();
    let events = node.events();
    site.set("/health", 500, "");
    events.one("the drain was answered", |notice| {
        notice["event"] == "acted" && notice["kind"] == "http"
    });
    let second = events.one("the next rung follows", |notice| {
        notice["event"] == "acted" && notice["kind"] == "exec"
    });
    site.set("/health", 200, "");
    events.of("app", "recovered");
    assert_eq!(application.starts(), 2);

    let (code, said) = node.tool(&["explain", "app"]);
    assert_eq!(code, Some(0), "{said}");
    let (_, story) = said.split_once("the last episode").expect("it is told");
    for words in [
        "-> dead (peer_stuck): http: status 500",
        "opened: peer_stuck",
        "http granted for peer_stuck (attempt 1",
        "http acted",
        "held by self_trust: no echo",
        "exec granted for peer_stuck (attempt 2",
        "exec acted",
        "recovered, proven by its own checks",
    ] {
        assert!(story.contains(words), "{words:?} is not in {story}");
    }

    let asked = |node: &Node| {
        let (code, said) = node.tool(&["history", "app", "--since", "1h", "--json"]);
        assert_eq!(code, Some(0), "{said}");
        history(&said)
    };
    until("all is on disk", || {
        names(&asked(&node)).last() == Some(&"recovered")
    });
    let before = asked(&node);
    let told = names(&before);
    let place = |name: &str| {
        told.iter()
            .position(|told| *told == name)
            .unwrap_or_else(|| panic!("{told:?}"))
    };
    assert!(
        place("episode_opened") < place("granted") && place("granted") < place("acted"),
        "{told:?}"
    );
    let granted: Vec<_> = before
        .iter()
        .filter(|record| record["event"] == "granted")
        .collect();
    assert_eq!(granted.len(), 2, "{before:#?}");
    assert_eq!(granted[1]["token"], second["token"]);

    // As people read it; and where no node answers, from its file.
    let (_, said) = node.tool(&["history", "app"]);
    assert!(
        said.contains("granted") && said.contains("exec granted for peer_stuck"),
        "{said}"
    );
    let file = node.dir().join("state.audit.jsonl");
    node.signal(Signal::TERM);
    assert_eq!(node.exit_code(), Some(0), "{}", node.log());
    let (code, said) = defib(&["history", "app", "--json", "--file", file.to_str().unwrap()]);
    assert_eq!(code, Some(0), "{said}");
    let after = history(&said);
    assert_eq!(after.get(..before.len()), Some(before.as_slice()));
    let drained = after
        .iter()
        .find(|record| record["event"] == "operator")
        .expect("who ended it is kept");
    assert_eq!(drained["request"], "drain", "{drained}");

    // Ended in the middle of a record: that one is passed over and said, and the next node writes on.
    let mut torn = fs::read(&file).unwrap();
    torn.truncate(torn.len() - 20);
    fs::write(&file, &torn).unwrap();
    node.start_again();
    node.is_calm();
    let (_, said) = node.tool(&["history"]);
    assert!(said.contains("passed over"), "{said}");
    let again = asked(&node);
    assert_eq!(again.get(..before.len()), Some(before.as_slice()));
}

#[test]
fn s13_what_is_given_up_is_in_the_history_and_a_disk_that_takes_nothing_harms_nobody() {
    let site = Site::start();
    site.set("/health", 200, "");
    let application = Application::start(&IDLE);
    let rest = format!(
        "budget = {{ count = 1, window = \"10m\" }}\n\
         remedies = [{{ do = \"exec\", command = {}, verify_within = \"1s\" }}]",
        application.restart()
    );
    // A directory where the file should be: every write of the audit fails.
    let blocked = tempfile::tempdir().unwrap();
    let path = blocked.path().join("audit");
    fs::create_dir(&path).unwrap();
    let audit = format!("[audit]\npath = {path:?}\n");
    let text = config("embedded", &app(&application, &site, &rest));
    let node = Node::run(&format!("{text}\n{audit}"));
    node.is_calm();
    let events = node.events();
    site.set("/health", 500, "");
    events.of("app", "gave_up");
    assert_eq!(application.starts(), 2, "it was healed all the same");
    until("it is counted", || {
        node.count("defib_audit_records_total{outcome=\"failed\"}") > 0
    });
    assert_eq!(node.count("defib_audit_healthy"), 0);
    node.logs("cannot write the audit");
    let (code, said) = node.tool(&["history"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("cannot read"), "{said}");
    assert_eq!(node.code("/livez"), 200);

    fs::remove_dir(&path).unwrap();
    site.set("/health", 200, "");
    events.of("app", "recovered");
    until("it is written again", || {
        let (_, said) = node.tool(&["history", "app"]);
        said.contains("recovered")
    });
    assert_eq!(node.count("defib_audit_healthy"), 1);
}
