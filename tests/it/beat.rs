//! `defib beat`, as a script runs it: over the admin socket of a real node, and on a real Redis.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::Command;

use defib::engine::peer::Liveness;
use serde_json::Value;

use crate::support::node::{Node, defib};
use crate::support::redis_server::{RedisServer, there};

fn node() -> Node {
    Node::run(
        r#"
        node = "a"
        [bus]
        url = "embedded"
        settle = "1s"
        [peer.job]
        checks.push = { suspect_after = "5m" }
        checks.nightly = { type = "push", decides = "nothing" }
        remedies = [{ do = "log" }]
        "#,
    )
}

#[test]
fn a_script_beats_fails_stops_and_is_seen_to() {
    let node = node();
    let beat = |words: &[&str]| {
        let (code, said) = node.admin(&[&["beat", "job", "--check", "push"], words].concat());
        assert_eq!((code, said.as_str()), (Some(0), ""), "{words:?}");
    };
    let is = |liveness, words: &str| {
        node.sees(words, |snapshot| {
            snapshot.peers[0].liveness == liveness && snapshot.peers[0].detail.contains(words)
        });
    };
    beat(&["--start"]);
    is(Liveness::Alive, "it says: started");
    beat(&["--message", "12 rows"]);
    is(Liveness::Alive, "it says: 12 rows (took ");
    beat(&["--exit-code", "0"]);
    beat(&["--exit-code", "7", "-m", "no space left"]);
    is(Liveness::Dead, "it ended with exit code 7: no space left");
    beat(&[]);
    node.is_calm();
    beat(&["--fail"]);
    is(Liveness::Dead, "it says that it failed");
    beat(&["--log", "-m", "looking into it"]);
    is(Liveness::Dead, "it says: looking into it");
    beat(&["--start"]);
    beat(&["--stop", "-m", "done for today"]);
    is(
        Liveness::Unknown,
        "it leaves on purpose: it says that it stops: done for today",
    );
    beat(&[]);
    is(Liveness::Alive, "last pass");

    let (code, said) = node.admin(&["beat", "job"]);
    assert_eq!(code, Some(1));
    assert!(
        said.contains("several `push` checks") && said.contains("push, nightly"),
        "{said}"
    );
    let (code, said) = node.admin(&["beat", "jop"]);
    assert!(
        code == Some(1) && said.contains("no peer named \"jop\""),
        "{said}"
    );
}

#[test]
fn forms_exclude_each_other_and_nobody_is_meant_without_a_name() {
    for words in [
        &["beat"][..],
        &["beat", "job", "--start", "--fail"],
        &["beat", "job", "--publish"],
        &["beat", "--publish", "--stop"],
        &["beat", "job", "--channel", "x"],
        &["beat", "job", "--exit-code", "256"],
    ] {
        assert_eq!(defib(words).0, Some(2), "{words:?}");
    }
}

#[test]
fn one_heartbeat_is_published_as_its_subscribers_read_it_and_never_on_a_data_channel() {
    if !there() {
        return;
    }
    let server = RedisServer::start();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("defib.toml");
    let config = format!(
        r#"
        bus.url = "{}"
        [peer.writer]
        checks.heartbeat = {{ channel = "telemetry_heartbeat" }}
        checks.traffic = {{ channels = ["can_messages"] }}
        "#,
        server.url()
    );
    std::fs::write(&file, config).unwrap();
    let file = file.to_str().unwrap();

    let mut subscriber = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
    subscriber
        .write_all(b"SUBSCRIBE telemetry_heartbeat\r\n")
        .unwrap();
    let mut lines = BufReader::new(subscriber).lines().map_while(Result::ok);
    lines.find(|line| line == ":1").expect("subscribed");

    // Twice from one script: its own uptime grows, and tells one life.
    let script = format!(
        "{0} beat --publish --config {file} && sleep 0.05 && {0} beat --publish --config {file}",
        env!("CARGO_BIN_EXE_defib")
    );
    assert!(
        Command::new("sh")
            .args(["-c", &script])
            .status()
            .unwrap()
            .success()
    );
    let mut beats = lines.filter(|line| line.starts_with('{')).map(|line| {
        let beat: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(beat.as_object().unwrap().len(), 2, "{beat}");
        assert!(beat["wall_ts"].as_f64().unwrap() > 1.7e9, "{beat}");
        beat["uptime_s"].as_f64().unwrap()
    });
    let (first, second) = (beats.next().unwrap(), beats.next().unwrap());
    assert!(second >= first && second < 600.0, "{first} then {second}");

    for (channel, why) in [
        ("can_messages", "is a channel of data"),
        ("defib:default", "is where nodes publish"),
    ] {
        let (code, said) = defib(&["beat", "--publish", "--config", file, "--channel", channel]);
        assert!(code == Some(1) && said.contains(why), "{said}");
    }
    let (code, said) = defib(&["beat", "--publish", "--set", "bus.url=embedded", "--channel", "x"]);
    assert!(code == Some(1) && said.contains("set bus.listen"), "{said}");
}
