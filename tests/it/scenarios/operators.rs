//! What operators see and ask for: the audit, an episode's whole story: scenarios 13, 32, 35, 36.

use std::fs;
use std::time::Duration;

use defib::engine::peer::Liveness;
use rustix::process::Signal;
use serde_json::Value;

use super::config;
use crate::support::application::{Application, IDLE, Site};
use crate::support::node::{Node, defib};
use crate::support::until;

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

/// Everything is well, and an operator wants it restarted.
#[test]
fn s35_a_restart_is_refused_in_words_forced_with_a_reason_and_proven_by_another_life() {
    let site = Site::start();
    site.set("/health", 200, "");
    let application = Application::start(&IDLE);
    let rest = format!(
        "remedies = [{{ do = \"log\" }}, {{ do = \"exec\", command = {}, verify_within = \"20s\" }}]",
        application.restart()
    );
    let node = Node::run(&config("embedded", &app(&application, &site, &rest)));
    node.is_calm();

    let (code, said) = node.admin(&["pause", "app", "--reason", "a deploy", "--for", "1h"]);
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = node.admin(&["restart", "app", "--wait"]);
    assert_eq!(code, Some(1), "{said}");
    for words in [
        "refused by paused",
        "a deploy",
        "could change in 59 min",
        "--force REASON passes it",
    ] {
        assert!(said.contains(words), "{words:?} is not in {said}");
    }
    assert_eq!(application.starts(), 1);
    let (code, said) = node.admin(&["restart", "app", "--rung", "0"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("those that restart it are 1 (exec)"), "{said}");
    let (code, said) = node.admin(&["restart", "nobody"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("configured: app"), "{said}");
    let (code, said) = node.admin(&["restart", "app", "--force", " "]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("`force` is empty"), "{said}");

    let why = "it serves old data";
    let (code, said) = node.admin(&["restart", "app", "--wait", "--force", why]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("exec was granted for app"), "{said}");
    assert!(said.contains("recovered, proven by its own checks"), "{said}");
    assert_eq!(application.starts(), 2);
    node.sees("the episode is over", |snapshot| {
        snapshot.peers[0].episode.is_none()
    });
    assert!(
        node.peer("app").pause.is_some(),
        "the pause holds for everything else"
    );
    assert_eq!(node.peer("app").budget_left, 2);

    let outcome = |outcome: &str| {
        node.count(&format!(
            "defib_operator_requests_total{{outcome=\"{outcome}\",request=\"restart\"}}"
        ))
    };
    assert_eq!(
        (outcome("granted"), outcome("refused"), outcome("impossible")),
        (1, 1, 1)
    );
    let me = format!("uid {} pid ", rustix::process::getuid().as_raw());
    until("who asked, and why, is on disk", || {
        let (_, said) = node.tool(&["history", "app", "--json"]);
        let all = history(&said);
        let restarts: Vec<_> = all.iter().filter(|record| record["event"] == "restart").collect();
        restarts.len() == 3
            && restarts
                .iter()
                .all(|record| record["by"].as_str().unwrap().starts_with(&me))
            && restarts[0]["refusal"]["guard"] == "paused"
            && restarts[0]["refusal"]["until"].is_string()
            && restarts[2]["force"] == why
            && restarts[2]["outcome"] == "granted"
    });
}

#[test]
fn s32_a_restart_that_changes_nothing_is_no_success() {
    let site = Site::start();
    site.set("/health", 200, "");
    let application = Application::start(&IDLE);
    let rest = "remedies = [{ do = \"exec\", command = [\"true\"], verify_within = \"2s\" }]";
    let node = Node::run(&config("embedded", &app(&application, &site, rest)));
    node.is_calm();
    let (code, said) = node.admin(&["restart", "app", "--wait"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("exec acted") && said.contains("it was not restarted"),
        "{said}"
    );
    assert_eq!(application.starts(), 1);
    node.sees("the episode is over", |snapshot| {
        snapshot.peers[0].episode.is_none()
    });
}

#[test]
fn s35_a_maintenance_window_is_a_pause_that_ends_by_the_calendar_and_survives_a_restart() {
    let site = Site::start();
    site.set("/health", 200, "");
    let application = Application::start(&IDLE);
    let rest = format!(
        "remedies = [{{ do = \"exec\", command = {}, verify_within = \"20s\" }}]",
        application.restart()
    );
    let at = |seconds: u64| {
        let at = std::time::UNIX_EPOCH + defib::runtime::clock::stamp(None).wall;
        let text =
            humantime::format_rfc3339_seconds(at + Duration::from_secs(seconds) - Duration::from_secs(60));
        text.to_string().replace('T', " ").replace('Z', "")
    };
    // Open for a minute, and for so many seconds from now on.
    let window = |seconds: u64| {
        format!(
            "[[maintenance]]\nreason = \"moving the rack\"\nfrom = \"{}\"\nto = \"{}\"\npeers = [\"app\"]\n",
            at(0),
            at(60 + seconds)
        )
    };
    let peers = app(&application, &site, &rest);
    let text = |seconds: u64| config("embedded", &format!("{}{peers}", window(seconds)));
    let mut node = Node::run(&text(3600));
    node.sees("it is paused, and lives", |snapshot| {
        let peer = &snapshot.peers[0];
        peer.pause
            .as_ref()
            .is_some_and(|pause| pause.reason == "moving the rack" && pause.until.is_some())
            && peer.liveness == Liveness::Alive
    });
    assert_eq!(node.count("defib_paused{peer=\"app\",scope=\"peer\"}"), 1);
    application.kill();
    node.sees("it is judged all the same", |snapshot| {
        let episode = snapshot.peers[0].episode.as_ref();
        episode.is_some_and(|episode| {
            episode
                .refusal
                .as_ref()
                .is_some_and(|no| no.why.contains("moving the rack"))
        })
    });
    let (_, said) = node.tool(&["explain", "app"]);
    assert!(
        said.contains("paused by a maintenance window (moving the rack), ends in"),
        "{said}"
    );
    assert!(
        said.contains("paused said no: a maintenance window is open: moving the rack (could change in"),
        "{said}"
    );
    let (code, said) = node.admin(&["restart", "app"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("moving the rack"), "{said}");

    node.signal(Signal::TERM);
    assert_eq!(node.exit_code(), Some(0));
    // The day is too long for a test: it is to end soon.
    fs::write(node.dir().join("defib.toml"), text(30)).unwrap();
    node.start_again();
    assert_eq!(application.starts(), 1, "{}", node.log());
    // Its end is by the clock on the wall.
    let mut looks = 0;
    while node.peer("app").pause.is_some() {
        looks += 1;
        assert!(looks < 2000, "it does not end: {}", node.log());
        std::thread::sleep(Duration::from_millis(50));
    }
    node.logs("maintenance window closed, of app: moving the rack");
}

/// An episode in which something was done already: the restart's own grant is not its second attempt.
#[test]
fn s35_a_restart_of_who_was_given_up_is_waited_for() {
    let site = Site::start();
    site.set("/health", 200, "");
    site.set("/drain", 204, "");
    let application = Application::start(&IDLE);
    let ladder = format!(
        "remedies = [\
         {{ do = \"http\", url = {:?}, restarts = false, verify_within = \"1s\" }}, \
         {{ do = \"exec\", for = [\"peer_leaking\"], command = {}, verify_within = \"20s\" }}]",
        site.url("/drain"),
        application.restart()
    );
    let node = Node::run(&config("embedded", &app(&application, &site, &ladder)));
    node.is_calm();
    let events = node.events();
    site.set("/health", 500, "");
    events.of("app", "gave_up");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            until("it is restarted", || application.starts() == 2);
            site.set("/health", 200, "");
        });
        let (code, said) = node.admin(&["restart", "app", "--wait", "--force", "it must serve again"]);
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains("recovered, proven by its own checks"), "{said}");
    });
    let granted = events.named("granted");
    assert_eq!(
        (granted.len(), &granted[1]["attempt"]),
        (2, &2.into()),
        "{granted:#?}"
    );
}
