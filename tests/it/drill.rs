//! `defib drill`: real faults on real processes, healed, proven, and undone in every case.

use std::process::{Child, Command, Stdio};

use defib::engine::peer::Liveness;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::application::{Application, IDLE};
use crate::support::docker::{Container, Engine};
use crate::support::netns::{self, Namespace};
use crate::support::node::Node;
use crate::support::ports::free_port;
use crate::support::python::Python;
use crate::support::redis_server::{RedisServer, there};
use crate::support::{available, until};

/// A peer `app` whose stop is noticed within half a second, with these remedies.
fn config(bus: &str, application: &Application, remedies: &str) -> String {
    format!(
        r#"
        group = "drill"
        [bus]
        url = "{bus}"
        settle = "0s"
        [heartbeat]
        interval = "300ms"
        [budget]
        spacing = "0s"
        [peer.app]
        owner = {}
        grace = "1s"
        checks.process = {{ interval = "200ms", fail_after = "2 of 2" }}
        remedies = [{remedies}]
        "#,
        application.owner(),
    )
}

fn restart(application: &Application) -> String {
    format!(
        "{{ do = \"exec\", command = {}, verify_within = \"20s\" }}",
        application.restart()
    )
}

/// State in /proc/PID/stat; `X` once it is gone.
fn state(pid: Pid) -> char {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let (_, rest) = stat.rsplit_once(") ").unwrap_or(("", "X"));
    rest.chars().next().unwrap()
}

/// A drill in the background, as from a terminal.
fn begin(node: &Node, arguments: &[&str]) -> Child {
    let url = format!("http://{}", node.http());
    Command::new(env!("CARGO_BIN_EXE_defib"))
        .args(["drill", "app", "--yes", "--json", "--url", &url])
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn end(drill: Child) -> (Option<i32>, Value) {
    let output = drill.wait_with_output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let report = serde_json::from_str(&said).unwrap_or_else(|_| panic!("{said}"));
    (output.status.code(), report)
}

#[test]
fn a_stopped_process_is_healed_and_proven_on_both_buses() {
    if !there() {
        return;
    }
    let server = RedisServer::start();
    for bus in ["embedded", &server.url()] {
        let application = Application::start(&IDLE);
        let node = Node::run(&config(bus, &application, &restart(&application)));
        node.is_calm();
        let (code, said) = node.tool(&["drill", "app", "--yes"]);
        assert_eq!(code, Some(0), "{said}");
        for word in ["SIGSTOP", "peer_stuck", "exec granted", "is gone", "healed: app"] {
            assert!(said.contains(word), "no {word} in {said}");
        }
        assert_eq!(application.starts(), 2);
        assert_eq!(state(application.pid().unwrap()), 'S');
    }
}

#[test]
fn an_exit_is_healed_and_proven_with_its_times() {
    let application = Application::start(&IDLE);
    let node = Node::run(&config("embedded", &application, &restart(&application)));
    node.is_calm();
    let (code, report) = end(begin(&node, &["--fault", "exit"]));
    assert_eq!(code, Some(0), "{report:#}");
    assert_eq!(report["outcome"], "healed");
    assert_eq!(report["cause"], "peer_exited");
    assert_eq!(report["remedies"], serde_json::json!(["exec"]));
    assert_eq!(report["undone"], Value::Null);
    let times = ["condemned_ms", "granted_ms", "acted_ms", "proven_ms"];
    let times: Vec<u64> = times.iter().map(|key| report[key].as_u64().unwrap()).collect();
    assert!(times.is_sorted(), "{report:#}");
    assert_eq!(application.starts(), 2);
}

/// Whatever ends it, the process runs again.
#[test]
fn a_drill_that_is_ended_early_undoes_its_fault() {
    let application = Application::start(&IDLE);
    // It takes a minute to notice: nothing of this is the node's doing.
    let slow = config("embedded", &application, &restart(&application)).replace(
        "interval = \"200ms\", fail_after = \"2 of 2\"",
        "interval = \"1s\", fail_after = \"60 of 60\"",
    );
    let node = Node::run(&slow);
    node.is_calm();
    let pid = application.pid().unwrap();
    for (signal, name) in [
        (Signal::INT, "SIGINT"),
        (Signal::TERM, "SIGTERM"),
        (Signal::HUP, "SIGHUP"),
    ] {
        let drill = begin(&node, &[]);
        until("the process is stopped", || state(pid) == 'T');
        kill_process(Pid::from_child(&drill), signal).unwrap();
        let (code, report) = end(drill);
        assert_eq!(code, Some(1), "{report:#}");
        assert_eq!(report["outcome"], "interrupted", "{name}");
        assert_eq!(report["undone"], format!("SIGCONT to process {pid}"));
        assert_ne!(state(pid), 'T', "{name}");
        node.is_calm();
    }
    let (code, report) = end(begin(&node, &["--within", "300ms"]));
    assert_eq!((code, &report["outcome"]), (Some(1), &Value::from("timed_out")));
    assert_ne!(state(pid), 'T');
    node.is_calm();
    // The node may even die of it.
    let drill = begin(&node, &[]);
    until("the process is stopped", || state(pid) == 'T');
    drop(node);
    let (code, report) = end(drill);
    assert_eq!((code, &report["outcome"]), (Some(1), &Value::from("node_lost")));
    assert_ne!(state(pid), 'T');
    assert_eq!(application.starts(), 1);
}

#[test]
fn in_a_dry_run_it_ends_with_what_would_have_been_done() {
    let application = Application::start(&IDLE);
    let node = Node::run(&format!(
        "dry_run = true\n{}",
        config("embedded", &application, &restart(&application))
    ));
    node.is_calm();
    let (code, said) = node.tool(&["drill", "app", "--yes", "--fault", "exit"]);
    assert_eq!(code, Some(2), "{said}");
    let (code, said) = node.tool(&["drill", "app", "--yes"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("would have been healed"), "{said}");
    assert!(said.contains("SIGCONT"), "{said}");
    assert_eq!(application.starts(), 1);
    node.is_calm();
}

#[test]
fn where_the_guards_would_refuse_nothing_is_broken() {
    let application = Application::start(&IDLE);
    let rest = format!(
        "{}\n[peer.quiet]\nowner = {}\nremedies = [{{ do = \"log\" }}]\n\
         [peer.gone]\nowner = {{ command = \"no such process\" }}\nremedies = [{{ do = \"signal\" }}]\n",
        config("embedded", &application, &restart(&application)),
        application.owner()
    );
    let node = Node::run(&rest);
    node.sees("app is alive and nothing settles", |snapshot| {
        snapshot.peers[0].liveness == Liveness::Alive
            && snapshot.trust.bus == defib::engine::self_trust::BusState::Trusted
            && snapshot
                .trust
                .settling_until
                .is_none_or(|until| until <= snapshot.at)
    });
    let refused = |arguments: &[&str], why: &str| {
        let (code, said) = node.tool(&[&["drill"], arguments].concat());
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains(why), "no {why:?} in {said}");
    };
    refused(&["app"], "add --yes");
    refused(&["nobody", "--yes"], "there are app, quiet, gone");
    refused(&["gone", "--yes"], "alive");
    refused(&["quiet", "--yes"], "no remedy that acts");
    refused(&["app", "--yes", "--fault", "silence"], "nobody can be cut off");
    assert_eq!(node.admin(&["pause", "app", "--reason", "a deploy"]).0, Some(0));
    refused(&["app", "--yes"], "a deploy");
    assert_eq!(node.admin(&["resume", "app"]).0, Some(0));
    assert_eq!(node.admin(&["pause", "--reason", "all of it"]).0, Some(0));
    refused(&["app", "--yes"], "all of it");
    assert_eq!(application.starts(), 1);
    assert_eq!(state(application.pid().unwrap()), 'S');

    let settling = config("embedded", &application, &restart(&application))
        .replace("settle = \"0s\"", "settle = \"1h\"");
    let node = Node::run(&settling);
    node.sees("app is alive", |snapshot| {
        snapshot.peers[0].liveness == Liveness::Alive
    });
    until("it settles", || {
        let (code, said) = node.tool(&["drill", "app", "--yes"]);
        assert_eq!(code, Some(2), "{said}");
        said.contains("settles")
    });
}

/// A publisher that waits for its answers for ever goes dark, and only a restart gets it a new connection.
#[test]
fn a_silence_in_a_namespace_is_healed_and_its_rule_is_gone() {
    if !available("root with ip and nft (network namespaces)", netns::usable()) {
        return;
    }
    let Some(python) = Python::newest() else { return };
    let namespace = Namespace::new();
    let publisher = "import redis, time\n\
                     client = redis.Redis(port=7379, socket_timeout=None, socket_connect_timeout=None)\n\
                     while True:\n    \
                     client.publish(\"feed_heartbeat\", \"x\")\n    \
                     time.sleep(0.2)\n";
    let python = python.words("", &[])[0].clone();
    let words: Vec<&str> = namespace
        .wrapper()
        .into_iter()
        .chain([python.as_str(), "-c", publisher])
        .collect();
    let application = Application::not_started(&words);
    let feed = format!(
        "checks.heartbeat = {{ channel = \"feed_heartbeat\", suspect_after = \"1s\", dead_after = \"2s\" }}\n{}",
        "grace = \"5s\""
    );
    let config = config("embedded", &application, &restart(&application))
        .replace("settle = \"0s\"", "settle = \"0s\"\nlisten = \"127.0.0.1:7379\"")
        .replace("grace = \"1s\"", &feed);
    let node = Node::run_apart(&namespace.wrapper(), &config);
    application.start_again();
    node.sees("its heartbeats are heard", |snapshot| {
        snapshot.peers[0]
            .checks
            .iter()
            .all(|check| check.verdict == Liveness::Alive)
    });
    node.is_calm();
    let drill = |arguments: &[&str]| {
        let (url, file) = (format!("http://{}", node.http()), node.dir().join("defib.toml"));
        namespace
            .command(env!("CARGO_BIN_EXE_defib"))
            .args([
                "drill", "app", "--yes", "--fault", "silence", "--json", "--url", &url, "--config",
            ])
            .arg(file)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let tables = || {
        let output = namespace
            .command("nft")
            .args(["list", "tables"])
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };

    let interrupted = drill(&[]);
    until("the rule is there", || tables().contains("defib_drill"));
    kill_process(Pid::from_child(&interrupted), Signal::INT).unwrap();
    let (code, report) = end(interrupted);
    assert_eq!(
        (code, &report["outcome"]),
        (Some(1), &Value::from("interrupted")),
        "{report:#}"
    );
    assert_eq!(tables(), "");
    node.is_calm();
    let starts = application.starts();

    let (code, report) = end(drill(&["--within", "60s"]));
    assert_eq!(code, Some(0), "{report:#}\n{}", node.log());
    assert_eq!(report["cause"], "peer_silent");
    assert!(
        report["undone"].as_str().unwrap().contains("removed"),
        "{report:#}"
    );
    assert_eq!(tables(), "");
    assert_eq!(application.starts(), starts + 1);
}

/// A web server in a container on the host's network, and what a node is told of it.
fn contained(engine: &Engine, dry_run: bool) -> (Container, Node) {
    let port = free_port();
    let serve = format!("echo fine >/tmp/index.html; exec busybox httpd -f -p 127.0.0.1:{port} -h /tmp");
    let container = engine.run("app", &["--network", "host"], &serve);
    let node = Node::run(&format!(
        r#"
        group = "drill"
        dry_run = {dry_run}
        [bus]
        settle = "0s"
        [heartbeat]
        interval = "300ms"
        [peer.app]
        owner = {{ container = "{}" }}
        grace = "1s"
        checks.http = {{ url = "http://127.0.0.1:{port}/", interval = "200ms", timeout = "500ms", fail_after = "2 of 2" }}
        remedies = [{{ do = "docker", verify_within = "20s" }}]
        "#,
        container.0
    ));
    node.is_calm();
    (container, node)
}

#[test]
fn a_container_is_drilled_by_its_first_process_and_healed() {
    let Some(engine) = Engine::start() else { return };
    let (container, node) = contained(&engine, false);
    let before = container.started_at();
    let (code, said) = node.tool(&["drill", "app"]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("this will stop process"), "{said}");
    for fault in ["stop", "exit"] {
        let (code, report) = end(begin(&node, &["--fault", fault]));
        assert_eq!(code, Some(0), "{report:#}");
        assert_eq!(report["remedies"], serde_json::json!(["docker"]), "{fault}");
        node.is_calm();
    }
    assert!(container.is_running());
    assert_ne!(container.started_at(), before);
}

#[test]
fn a_container_out_of_sight_is_stopped_by_docker_and_goes_on() {
    let Some(engine) = Engine::start() else { return };
    let wrapper = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"];
    let may = Command::new(wrapper[0]).args(&wrapper[1..]).arg("true").status();
    let may = may.is_ok_and(|status| status.success());
    if !available("a pid namespace of its own (unshare, root)", may) {
        return;
    }
    let (container, node) = contained(&engine, true);
    let before = container.started_at();
    let url = format!("http://{}", node.http());
    let drill = |arguments: &[&str]| {
        let mut command = Command::new(wrapper[0]);
        let command = command.args(&wrapper[1..]).arg(env!("CARGO_BIN_EXE_defib"));
        let command = command
            .args(["drill", "app", "--json", "--url", &url])
            .args(arguments);
        end(command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap())
    };
    for (arguments, word) in [
        (vec![], "add --yes"),
        (vec!["--yes", "--fault", "silence"], "can only be stopped"),
    ] {
        let (code, report) = drill(&arguments);
        assert_eq!(code, Some(2), "{report:#}");
        assert!(report["reason"].as_str().unwrap().contains(word), "{report:#}");
    }
    let (code, report) = drill(&["--yes"]);
    assert_eq!(
        (code, &report["outcome"]),
        (Some(0), &Value::from("would_heal")),
        "{report:#}"
    );
    assert_eq!(report["cause"], "peer_stuck");
    assert_eq!(
        report["undone"],
        format!("SIGCONT to the first process of {}", container.0)
    );
    node.is_calm();
    assert_eq!(container.started_at(), before, "the same life goes on");
}
