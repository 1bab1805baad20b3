//! Containers of a real Docker engine: scenarios 9, 14, 32, 34, 38, and what an owner that is a container promises.

use defib::engine::cause::Cause;
use defib::engine::peer::Liveness;
use serde_json::Value;

use super::config;
use crate::support::application::Application;
use crate::support::docker::{Acts, Container, Engine, Gate, IDLE, Mode, docker, lives_anew};
use crate::support::node::Node;
use crate::support::ports::free_port;
use crate::support::python::Python;
use crate::support::until;

const RESTART: &str = r#"remedies = [{ do = "docker", verify_within = "20s" }]"#;

/// A peer `app`, which is this container, and `rest`.
fn app(container: &Container, rest: &str) -> String {
    format!(
        "[peer.app]\nowner = {{ container = \"{}\" }}\ngrace = \"1s\"\nbackoff = {{ initial = \"200ms\" }}\n\
         checks.process = {{ interval = \"200ms\" }}\n{rest}\n",
        container.0
    )
}

fn node(peers: &str) -> Node {
    let node = Node::run(&config("embedded", peers));
    node.is_calm();
    node
}

fn nothing_was_done(node: &Node, events: &[Value]) {
    for notice in events {
        assert!(
            !matches!(notice["event"].as_str(), Some("granted" | "acted" | "would_heal")),
            "{notice:#}"
        );
    }
    assert_eq!(node.peer("app").remedies_granted, 0);
}

#[test]
fn a_container_that_crashes_is_started_again_and_proves_it() {
    let Some(engine) = Engine::start() else { return };
    let container = engine.idle("app", &[]);
    let node = node(&app(&container, RESTART));
    let before = node.peer("app").incarnation.unwrap();
    assert!(before.0.starts_with("ctr:"), "{before}");
    assert!(before.0.ends_with(&container.started_at()), "{before}");
    let events = node.events();

    container.crash();
    let granted = events.of("app", "granted");
    assert_eq!(granted["cause"], "peer_exited", "{granted}");
    events.of("app", "recovered");
    assert!(container.is_running());
    assert_ne!(node.peer("app").incarnation.unwrap(), before);
    assert_eq!(node.peer("app").remedies_granted, 1);
}

#[test]
fn s34_what_an_operator_stops_stays_stopped_and_a_deploy_is_a_new_life() {
    let Some(engine) = Engine::start() else { return };
    let container = engine.idle("app", &[]);
    let node = node(&app(&container, RESTART));
    let events = node.events();
    let first = node.peer("app").incarnation.unwrap();

    // Stopped, and left so.
    container.docker("stop");
    node.sees("it was stopped on purpose", |snapshot| {
        snapshot.peers[0].liveness == Liveness::Unknown && snapshot.peers[0].detail.contains("signal 15")
    });
    assert!(node.peer("app").episode.is_none());
    // Started by hand: another life, of which nothing was done.
    container.docker("start");
    node.is_calm();
    assert_ne!(node.peer("app").incarnation.unwrap(), first);

    // Killed by hand, which is no less on purpose; and restarted by hand.
    container.docker("kill");
    node.sees("it was killed on purpose", |snapshot| {
        snapshot.peers[0].detail.contains("signal 9")
    });
    container.docker("restart");
    node.is_calm();

    // A deploy: removed while it runs, and another container of the same name.
    let before = node.peer("app").incarnation.unwrap();
    docker(&["rm", "-f", &container.0]);
    let container = engine.idle("app", &[]);
    node.sees("the new container", |snapshot| {
        let peer = &snapshot.peers[0];
        peer.liveness == Liveness::Alive && peer.incarnation.as_ref() != Some(&before)
    });
    nothing_was_done(&node, &events.all());

    // And that one is watched no less than the one before.
    container.crash();
    events.of("app", "recovered");
    assert_eq!(node.peer("app").remedies_granted, 1);
}

#[test]
fn s34_an_operators_restart_of_a_container_that_is_well_is_another_life_and_no_stop() {
    let Some(engine) = Engine::start() else { return };
    let container = engine.idle("app", &[]);
    let node = node(&app(&container, RESTART));
    let first = node.peer("app").incarnation.unwrap();
    let (code, said) = node.admin(&["restart", "app", "--wait"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("recovered"), "{said}");
    assert!(container.is_running());
    assert_ne!(node.peer("app").incarnation.unwrap(), first);
    // What an operator stopped is there no more: there is nothing that could be restarted, unless he says so.
    container.docker("stop");
    node.sees("it was stopped on purpose", |snapshot| {
        snapshot.peers[0].liveness == Liveness::Unknown
    });
    let (code, said) = node.admin(&["restart", "app"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(!container.is_running());
}

#[test]
fn s34_an_exit_with_0_and_a_pause_are_on_purpose() {
    let Some(engine) = Engine::start() else { return };
    let container = engine.run("app", &[], "while ! test -e /tmp/end; do sleep 0.1; done");
    let node = node(&app(&container, RESTART));
    let events = node.events();
    let life = node.peer("app").incarnation.unwrap();

    container.docker("pause");
    node.sees("it is paused", |snapshot| {
        snapshot.peers[0].liveness == Liveness::Unknown && snapshot.peers[0].detail.contains("paused")
    });
    container.docker("unpause");
    node.is_calm();
    assert_eq!(
        node.peer("app").incarnation.unwrap(),
        life,
        "the same life goes on"
    );

    container.exec(&["touch", "/tmp/end"]);
    node.sees("it has done its work", |snapshot| {
        snapshot.peers[0].liveness == Liveness::Unknown && snapshot.peers[0].detail.contains("exited with 0")
    });
    nothing_was_done(&node, &events.all());
}

#[test]
fn s34_an_end_that_nobody_saw_is_on_purpose() {
    let Some(engine) = Engine::start() else { return };
    let container = engine.run("app", &[], "exit 3");
    until("it has ended", || {
        container.inspect("{{.State.Status}}") == "exited"
    });
    let node = Node::run(&config("embedded", &app(&container, RESTART)));
    let events = node.events();
    node.sees("it was gone before", |snapshot| {
        snapshot.peers[0].liveness == Liveness::Unknown && snapshot.peers[0].detail.contains("not seen")
    });
    nothing_was_done(&node, &events.all());
}

#[test]
fn what_docker_itself_restarts_is_left_to_it_until_it_gives_up() {
    let Some(engine) = Engine::start() else { return };
    let container = engine.idle("app", &["--restart", "on-failure:1"]);
    let node = node(&app(&container, RESTART));
    let events = node.events();
    let before = container.started_at();
    container.crash();
    lives_anew(&container, &before);
    node.is_calm();
    nothing_was_done(&node, &events.all());

    // The second time is one too many for Docker.
    container.crash();
    let granted = events.of("app", "granted");
    assert_eq!(granted["cause"], "peer_exited", "{granted}");
    events.of("app", "recovered");
}

#[test]
fn an_unhealthy_container_is_restarted_and_a_starting_one_is_not() {
    let Some(engine) = Engine::start() else { return };
    let options = [
        "--health-cmd",
        "test -e /tmp/ok",
        "--health-interval",
        "300ms",
        "--health-retries",
        "2",
        "--health-start-period",
        "60s",
    ];
    let container = engine.run("app", &options, &format!("touch /tmp/ok; {IDLE}"));
    let checks = r#"checks.docker = { interval = "200ms", fail_after = "1 of 1" }"#;
    let node = Node::run(&config(
        "embedded",
        &app(&container, &format!("{checks}\n{RESTART}")),
    ));
    node.sees("it is healthy", |snapshot| {
        let docker = snapshot.peers[0]
            .checks
            .iter()
            .find(|check| &*check.name == "docker");
        docker.is_some_and(|check| check.verdict == Liveness::Alive)
    });
    let events = node.events();
    let before = container.started_at();
    container.exec(&["rm", "/tmp/ok"]);
    let granted = events.of("app", "granted");
    assert_eq!(granted["cause"], "peer_stuck", "{granted}");
    events.of("app", "recovered");
    assert_ne!(container.started_at(), before);
    assert_eq!(node.peer("app").remedies_granted, 1);
}

#[test]
fn who_lives_in_its_network_is_restarted_after_it_and_nobody_else() {
    let Some(engine) = Engine::start() else { return };
    let container = engine.idle("app", &[]);
    let shares = format!("container:{}", container.0);
    let needs = "com.docker.compose.depends_on=first:service_started:false";
    let second = engine.idle(
        "a-second",
        &[
            "--network",
            &shares,
            "--label",
            needs,
            "--label",
            "com.docker.compose.service=second",
        ],
    );
    let first = engine.idle(
        "b-first",
        &[
            "--network",
            &shares,
            "--label",
            "com.docker.compose.service=first",
        ],
    );
    let frozen = engine.idle("frozen", &["--network", &shares]);
    frozen.docker("pause");
    let stranger = engine.idle("stranger", &[]);
    let node = node(&app(&container, RESTART));
    let events = node.events();
    let before = [&first, &second, &frozen, &stranger].map(Container::started_at);

    container.crash();
    let acted = events.of("app", "acted");
    assert_eq!(acted["outcome"], "acted", "{acted}");
    let [first_at, second_at, frozen_at, stranger_at] =
        [&first, &second, &frozen, &stranger].map(Container::started_at);
    assert!(
        before[0] < first_at && before[1] < second_at,
        "{before:?} {acted}"
    );
    assert!(first_at < second_at, "in the order of what they need: {acted}");
    assert_eq!((&before[2], &before[3]), (&frozen_at, &stranger_at));
    let namespace = |of: &Container| {
        let pid = of.inspect("{{.State.Pid}}");
        std::fs::read_link(format!("/proc/{pid}/ns/net")).unwrap()
    };
    assert_eq!(namespace(&container), namespace(&first));
    events.of("app", "recovered");
}

#[test]
fn s32_a_restart_that_docker_calls_done_is_no_success_while_the_peer_is_silent() {
    let Some(engine) = Engine::start() else { return };
    let container = engine.run(
        "app",
        &[
            "--health-cmd",
            "test -e /tmp/ok",
            "--health-interval",
            "200ms",
            "--health-retries",
            "1",
        ],
        // Healthy once, in its first life.
        &format!("test -e /tmp/lived || touch /tmp/ok /tmp/lived; {IDLE}"),
    );
    let file = tempfile::NamedTempFile::new().unwrap();
    let checks = r#"checks.docker = { interval = "200ms", fail_after = "1 of 1" }"#;
    let ladder = format!(
        "remedies = [{{ do = \"docker\", verify_within = \"3s\" }},\n\
         {{ do = \"exec\", command = [\"sh\", \"-c\", \"echo acted >{}\"], verify_within = \"60s\" }}]",
        file.path().display()
    );
    let node = Node::run(&config(
        "embedded",
        &app(&container, &format!("{checks}\n{ladder}")),
    ));
    node.sees("it is healthy", |snapshot| {
        let docker = snapshot.peers[0]
            .checks
            .iter()
            .find(|check| &*check.name == "docker");
        docker.is_some_and(|check| check.verdict == Liveness::Alive)
    });
    let events = node.events();
    container.exec(&["rm", "/tmp/ok"]);
    let acted = events.one("Docker restarted it", |notice| {
        notice["event"] == "acted" && notice["kind"] == "docker"
    });
    assert_eq!(acted["outcome"], "acted", "{acted}");
    assert!(container.is_running(), "the restart itself worked");
    events.one("the next rung is taken", |notice| {
        notice["event"] == "acted" && notice["kind"] == "exec"
    });
    assert_eq!(std::fs::read_to_string(file.path()).unwrap(), "acted\n");
    assert!(events.named("recovered").is_empty(), "{:#?}", events.all());
}

#[test]
fn s38_a_socket_that_fails_in_any_way_is_unknown_and_told_and_comes_back() {
    let Some(engine) = Engine::start() else { return };
    let gate = Gate::start();
    let container = engine.idle("app", &[]);
    let docker_table = format!("[docker]\nhost = \"{}\"\ntimeout = \"500ms\"\n", gate.host());
    let node = node(&format!("{docker_table}{}", app(&container, RESTART)));
    let events = node.events();

    let blind = |words: &str| {
        node.sees(words, |snapshot| {
            snapshot.peers[0].liveness == Liveness::Unknown && snapshot.peers[0].detail.contains(words)
        });
        let (status, body) = node.get("/readyz?verbose");
        assert_eq!(status, 200, "{body}");
        assert!(body.contains(words), "{body}");
        assert_eq!(node.code("/livez"), 200);
        assert_eq!(node.code("/healthz/app"), 200);
    };
    gate.set(Mode::Hang);
    blind("has not answered within 500ms");
    gate.set(Mode::Pass);
    node.is_calm();
    gate.set(Mode::Broken);
    blind("out of order");
    gate.set(Mode::Pass);
    node.is_calm();
    gate.set(Mode::Close);
    blind("Docker");
    gate.set(Mode::Pass);
    node.is_calm();
    gate.vanish();
    blind("mount the socket");
    // What ends meanwhile, nobody saw: it is left alone.
    gate.listen();
    node.is_calm();
    nothing_was_done(&node, &events.all());

    // The events are followed again.
    until("its exit is seen again", || {
        let app = node.peer("app");
        if app.remedies_granted > 0 {
            return true;
        }
        if app.detail.contains("not seen") {
            container.docker("start");
            node.is_calm();
        } else {
            // Unless it is down already, and being judged.
            container.crash_if_it_runs();
        }
        false
    });
    events.of("app", "recovered");
}

/// A container with a health check that fails once `/tmp/ok` is gone, seen and healed through a gate.
fn ill_behind(gate: &Gate, engine: &Engine, script: &str, rest: &str) -> (Container, Node) {
    let health = ["--health-cmd", "test -e /tmp/ok", "--health-interval", "200ms"];
    let container = engine.run(
        "app",
        &[&health[..], &["--health-retries", "1"]].concat(),
        &format!("touch /tmp/ok; {script}"),
    );
    let table = format!("[docker]\nhost = \"{}\"\ntimeout = \"2s\"\n", gate.host());
    let checks = "checks.docker = { interval = \"200ms\", fail_after = \"1 of 1\" }\n";
    let peers = format!("{table}{}", app(&container, &format!("{checks}{rest}")));
    let node = Node::run(&config("embedded", &peers));
    node.sees("it is healthy", |snapshot| {
        let mut checks = snapshot.peers[0].checks.iter();
        checks.any(|check| &*check.name == "docker" && check.verdict == Liveness::Alive)
    });
    (container, node)
}

#[test]
fn s33_a_container_that_was_replaced_between_the_decision_and_the_act_is_not_touched() {
    let Some(engine) = Engine::start() else { return };
    let gate = Gate::start();
    let (container, node) = ill_behind(&gate, &engine, IDLE, RESTART);
    let events = node.events();
    gate.acts(Acts::Wait);
    container.exec(&["rm", "/tmp/ok"]);
    events.of("app", "granted");
    // It was decided, and a deploy comes first.
    docker(&["rm", "-f", &container.0]);
    let replaced = engine.idle("app", &[]);
    let life = replaced.started_at();
    gate.acts(Acts::Pass);
    let acted = events.of("app", "acted");
    assert_eq!(acted["outcome"], "fenced", "{acted}");
    node.sees("the new one is alive", |snapshot| {
        let peer = &snapshot.peers[0];
        let known = peer.incarnation.as_ref();
        peer.liveness == Liveness::Alive && known.is_some_and(|known| known.0.ends_with(&life))
    });
    assert!(replaced.is_running());
    assert_eq!(replaced.started_at(), life, "nobody restarted it");
}

#[test]
fn s38_a_restart_that_docker_breaks_off_harms_nobody_and_is_tried_again() {
    let Some(engine) = Engine::start() else { return };
    let gate = Gate::start();
    let rest = "remedies = [{ do = \"docker\", verify_within = \"1s\" }]";
    let (container, node) = ill_behind(&gate, &engine, IDLE, rest);
    let events = node.events();
    let life = container.started_at();
    gate.acts(Acts::Broken);
    container.exec(&["rm", "/tmp/ok"]);
    let acted = events.of("app", "acted");
    assert_eq!(acted["outcome"], "failed", "{acted}");
    assert!(acted["detail"].as_str().unwrap().contains("(500)"), "{acted}");
    for path in ["/livez", "/healthz/app", "/readyz/app", "/readyz"] {
        assert_eq!(node.code(path), 200, "{path}");
    }
    assert_eq!(container.started_at(), life);
    gate.acts(Acts::Pass);
    let again = events.one("the same rung does it", |notice| {
        notice["event"] == "acted" && notice["outcome"] == "acted"
    });
    assert_eq!(again["kind"], "docker", "{again}");
    assert_ne!(container.started_at(), life);
    events.of("app", "recovered");
}

#[test]
fn s38_a_restart_that_hangs_holds_nobody_up() {
    let Some(engine) = Engine::start() else { return };
    let gate = Gate::start();
    let (container, node) = ill_behind(&gate, &engine, IDLE, RESTART);
    let events = node.events();
    let life = container.started_at();
    gate.acts(Acts::Hang);
    container.exec(&["rm", "/tmp/ok"]);
    events.of("app", "granted");
    // The node goes on: its checks, its probes, and what it says of it.
    let runs = "defib_check_runs_total{kind=\"docker\",outcome=\"fail\"}";
    let before = node.count(runs);
    until("the health check is still looked at", || {
        node.count(runs) > before + 3
    });
    for path in ["/livez", "/healthz/app", "/readyz/app", "/readyz"] {
        assert_eq!(node.code(path), 200, "{path}");
    }
    assert_eq!(node.tool(&["explain", "app"]).0, Some(0));
    assert_eq!(container.started_at(), life);
    assert!(events.named("acted").is_empty(), "{:#?}", events.all());
}

#[test]
fn s38_a_stop_may_take_longer_than_any_other_answer() {
    let Some(engine) = Engine::start() else { return };
    let gate = Gate::start();
    // Deaf to SIGTERM: Docker kills it after 4 s; `docker.timeout` is 2 s.
    let deaf = "trap '' TERM; while :; do sleep 1; done";
    let rest = "remedies = [{ do = \"docker\", stop_timeout = \"4s\", verify_within = \"20s\" }]";
    let (container, node) = ill_behind(&gate, &engine, deaf, rest);
    let events = node.events();
    let life = container.started_at();
    container.exec(&["rm", "/tmp/ok"]);
    let acted = events.of("app", "acted");
    assert_eq!(acted["outcome"], "acted", "{acted}");
    assert_ne!(container.started_at(), life);
    events.of("app", "recovered");
    assert_eq!(node.peer("app").remedies_granted, 1);
}

/// Ten exits that were witnessed are no silence, which would be held; they are serialised by the group's budget.
#[test]
fn s14_ten_containers_that_crash_at_once_are_restarted_one_after_the_other() {
    let Some(engine) = Engine::start() else { return };
    let containers: Vec<Container> = (0..10)
        .map(|index| engine.idle(&format!("c{index}"), &[]))
        .collect();
    let mut peers = String::from("[budget]\nspacing = \"1s\"\n");
    for (index, container) in containers.iter().enumerate() {
        let of = container.0.as_str();
        let peer = format!(
            "[peer.p{index}]\nowner = {{ container = {of:?} }}\nchecks.process = {{ interval = \"500ms\" }}\n"
        );
        peers.extend([peer.as_str(), RESTART, "\n"]);
    }
    let config = config("embedded", &peers).replace("[budget]\n        spacing = \"0s\"", "");
    let node = Node::run(&config);
    node.is_calm();
    let events = node.events();
    for container in &containers {
        container.crash();
    }
    node.sees("all are dead, or were healed", |_| {
        let dead = |notice: &Value| notice["event"] == "liveness" && notice["to"] == "dead";
        events.all().iter().filter(|notice| dead(notice)).count() >= 10
    });
    until("all are healed", || {
        std::thread::sleep(std::time::Duration::from_millis(100));
        events.named("recovered").len() == 10
    });
    // Never two at once: each has proven itself before the next is granted, and nobody is restarted twice.
    let mut down: Option<Value> = None;
    let mut restarted = std::collections::BTreeSet::new();
    for notice in events.all() {
        match notice["event"].as_str() {
            Some("granted") => {
                assert!(down.is_none(), "{down:?} is down, and {notice:#}");
                assert!(restarted.insert(notice["peer"].to_string()), "{notice:#}");
                down = Some(notice["peer"].clone());
            }
            Some("recovered") => assert_eq!(down.take().as_ref(), Some(&notice["peer"])),
            _ => {}
        }
    }
    assert_eq!(restarted.len(), 10);
    let refused = events
        .named("refused")
        .into_iter()
        .filter(|notice| notice["refusal"]["guard"] == "budget");
    assert!(refused.count() >= 9, "{:#?}", events.all());
    assert!(containers.iter().all(Container::is_running));
}

#[test]
fn containers_that_ask_for_it_by_a_label_are_watched_and_no_others() {
    let Some(engine) = Engine::start() else { return };
    let mine = format!("defib.name={}", engine.called("mine"));
    let asking = engine.idle("app", &["--label", "defib.enable=true", "--label", &mine]);
    let silent = engine.idle("silent", &["--label", "defib.enable=false"]);
    // Other tests' containers carry no such label.
    let node = Node::run(&config("embedded", "[docker]\ndiscover = \"all\"\n"));
    node.is_calm();
    let peers = node.snapshot().peers;
    let names: Vec<&str> = peers.iter().map(|peer| &*peer.name).collect();
    assert_eq!(names, [engine.called("mine")]);
    let events = node.events();
    asking.crash();
    silent.crash();
    events.of(&engine.called("mine"), "recovered");
    assert!(asking.is_running());
    assert!(!silent.is_running());
}

#[test]
fn s09_a_redis_that_docker_restarts_and_kills_restarts_nobody() {
    let Some(engine) = Engine::start() else { return };
    let port = free_port();
    let server = format!("exec redis-server --port {port} --bind 127.0.0.1 --save '' --protected-mode no");
    let redis = engine.run("redis", &["--network", "host"], &server);
    // Its client dies with its connection, as many do; then Docker restarts it.
    let beat = format!("while redis-cli -p {port} publish app_heartbeat x; do sleep 0.3; done; exit 1");
    let beating = engine.run("app", &["--network", "host", "--restart", "always"], &beat);
    let peer = app(
        &beating,
        &format!("checks.heartbeat = {{ channel = \"app_heartbeat\" }}\n{RESTART}"),
    );
    let node = Node::run(&config(&format!("redis://127.0.0.1:{port}"), &peer));
    node.is_calm();
    let events = node.events();
    for command in ["restart", "kill"] {
        redis.docker(command);
        if command == "kill" {
            node.sees("the bus is gone", |snapshot| {
                snapshot.trust.bus != defib::engine::self_trust::BusState::Trusted
            });
            redis.docker("start");
        }
        node.is_calm();
    }
    nothing_was_done(&node, &events.all());
}

/// Unmodified clients of a Redis that Docker restarts and kills: each subscribes again, or exits, which is said.
/// (redis-py 5's `listen` raises; the others come back by themselves.) Nothing is done to either.
#[test]
fn s09_all_clients_of_a_redis_that_docker_restarts_come_back_or_are_said_to_have_exited() {
    let Some(engine) = Engine::start() else { return };
    let (Some(newest), Some(redis5)) = (Python::newest(), Python::redis5()) else {
        return;
    };
    let port = free_port().to_string();
    let server = format!("exec redis-server --port {port} --bind 127.0.0.1 --save '' --protected-mode no");
    let redis = engine.run("redis", &["--network", "host"], &server);
    until("Redis listens", || {
        std::net::TcpStream::connect(format!("127.0.0.1:{port}")).is_ok()
    });
    let clients = [
        ("loop8", &newest, "loop"),
        ("listen8", &newest, "listen"),
        ("asyncio8", &newest, "asyncio"),
        ("loop5", &redis5, "loop"),
        ("listen5", &redis5, "listen"),
    ]
    .map(|(name, python, mode)| {
        let words = python.words("subscribers.py", &[mode, "127.0.0.1", &port, "can_messages"]);
        (name, Application::start(&words))
    });
    let subscribed = |client: &Application| client.log().matches("subscribed").count();
    let mut peers = String::new();
    for (name, client) in &clients {
        until("it is subscribed", || subscribed(client) > 0);
        let peer = format!(
            "[peer.{name}]\nowner = {}\ngrace = \"1s\"\n\
             checks.subscription = {{ channels = [\"can_messages\"], window = \"5s\", interval = \"500ms\" }}\n\
             remedies = [{{ do = \"exec\", command = {} }}]\n",
            client.owner(),
            client.restart()
        );
        peers.push_str(&peer);
    }
    // Longer than any of them takes to come back, as it has to be.
    let config =
        config(&format!("redis://127.0.0.1:{port}"), &peers).replace("settle = \"1s\"", "settle = \"12s\"");
    let node = Node::run(&config);
    node.is_calm();
    let events = node.events();
    for command in ["restart", "kill"] {
        let before = clients.each_ref().map(|(_, client)| subscribed(client));
        redis.docker(command);
        if command == "kill" {
            redis.docker("start");
        }
        for ((name, client), before) in clients.iter().zip(before) {
            until(&format!("{name} is back, or has exited"), || {
                std::thread::sleep(std::time::Duration::from_millis(50));
                subscribed(client) > before || !client.runs()
            });
        }
        node.sees("each is alive, or said to have exited", |snapshot| {
            snapshot.peers.iter().all(|peer| {
                let (_, client) = clients.iter().find(|(name, _)| **name == *peer.name).unwrap();
                if client.runs() {
                    peer.liveness == Liveness::Alive
                } else {
                    peer.liveness == Liveness::Dead && peer.cause == Some(Cause::PeerExited)
                }
            })
        });
        let acts = |notice: &Value| matches!(notice["event"].as_str(), Some("granted" | "acted"));
        assert!(!events.all().iter().any(acts), "{:#?}", events.all());
    }
    let exited: Vec<&str> = clients
        .iter()
        .filter(|(_, client)| !client.runs())
        .map(|(name, _)| *name)
        .collect();
    assert!(
        exited.iter().all(|name| *name == "listen5"),
        "{exited:?} exited, and only redis-py 5's listen does"
    );
    assert!(clients.iter().all(|(_, client)| client.starts() == 1));
}
