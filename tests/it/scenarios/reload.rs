//! Another configuration while the node runs: by a signal, by its file in all the ways in which files are replaced, by an
//! operator; applied as a whole or refused as a whole.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{MetadataExt, symlink};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use defib::engine::peer::Liveness;
use rustix::process::Signal;
use serde_json::json;

use super::config;
use crate::support::application::Application;
use crate::support::node::Node;
use crate::support::ports::free_port;
use crate::support::redis_server::{self, RedisServer};
use crate::support::until;

/// A peer that is told of by `POST /api/v1/beat`, and by its own channel.
fn pushed(name: &str) -> String {
    format!("[peer.{name}]\nchecks.push = {{}}\n")
}

fn heard(name: &str, channel: &str) -> String {
    format!("[peer.{name}]\nchecks.heartbeat = {{ channel = \"{channel}\" }}\n")
}

/// One that must not notice anything: it speaks to a socket.
fn keeper(dir: &Path) -> String {
    format!(
        "[peer.keeper]\nchecks.notify = {{ socket = \"{}\", watchdog = \"30s\" }}\n",
        socket(dir).display()
    )
}

fn socket(dir: &Path) -> PathBuf {
    dir.join("keeper.sock")
}

fn says(dir: &Path, text: &str) {
    let from = UnixDatagram::unbound().unwrap();
    from.send_to(text.as_bytes(), socket(dir)).unwrap();
}

fn file(node: &Node) -> PathBuf {
    node.dir().join("defib.toml")
}

/// As editors do it.
fn renamed_over(path: &Path, text: &str) {
    let draft = path.with_extension("draft");
    fs::write(&draft, text).unwrap();
    fs::rename(draft, path).unwrap();
}

fn names(node: &Node) -> Vec<String> {
    let peers = node.snapshot().peers;
    peers.iter().map(|peer| peer.name.to_string()).collect()
}

fn reloads(node: &Node, outcome: &str) -> i64 {
    node.count(&format!("defib_config_reloads_total{{outcome=\"{outcome}\"}}"))
}

#[test]
fn a_signal_a_renaming_and_an_operator_reload_and_who_is_configured_as_before_notices_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let of = |peers: &[String]| config("embedded", &(keeper(dir.path()) + &peers.concat()));
    let node = Node::run(&of(&[pushed("one"), pushed("two")]));
    node.sees("it listens", |_| socket(dir.path()).exists());
    let place = fs::metadata(socket(dir.path())).unwrap().ino();
    says(dir.path(), "READY=1");
    node.sees("the keeper lives", |now| now.peers[0].liveness == Liveness::Alive);
    let events = node.events();

    node.signal(Signal::HUP);
    node.logs("it is the one that holds");
    until("it was counted", || reloads(&node, "unchanged") == 1);

    renamed_over(&file(&node), &of(&[pushed("one"), pushed("three")]));
    let told = events.one("it was reloaded", |notice| notice["event"] == "config_reloaded");
    assert_eq!(told["by"], "its file");
    assert_eq!(told["detail"], "added: three; removed: two");
    assert_eq!(names(&node), ["keeper", "one", "three"]);
    // The endpoints follow at once, and the node said so to its manager.
    assert_eq!(node.request("POST", "/api/v1/beat/three", &json!(null)).0, 202);
    assert_eq!(node.request("POST", "/api/v1/beat/two", &json!(null)).0, 404);
    assert!(node.told("RELOADING=1").contains("MONOTONIC_USEC="));
    node.told("READY=1");

    fs::write(file(&node), of(&[pushed("one"), pushed("three"), pushed("four")])).unwrap();
    let (code, said) = node.admin(&["reload"]);
    assert_eq!(code, Some(0), "{said}");
    until("it is there", || names(&node).len() == 4);
    let (code, said) = node.admin(&["reload"]);
    assert_eq!((code, said.contains("unchanged")), (Some(0), true), "{said}");

    let keeper = node.peer("keeper");
    assert_eq!(keeper.liveness, Liveness::Alive);
    assert_eq!(
        fs::metadata(socket(dir.path())).unwrap().ino(),
        place,
        "the same socket"
    );
    let lived = keeper.last_life;
    says(dir.path(), "WATCHDOG=1");
    node.sees("it is heard", |now| now.peers[0].last_life > lived);
    events.blame_nobody();
    let series = node.get("/metrics").1;
    assert!(
        !series.contains("peer=\"two\"") && !series.contains("two/push"),
        "{series}"
    );
}

/// One who is suspect after a second without a beat, and dead after an hour.
fn slow(name: &str) -> String {
    format!("[peer.{name}]\nchecks.push = {{ suspect_after = \"1s\", dead_after = \"1h\" }}\n")
}

#[test]
fn a_suspicion_goes_on_and_an_added_one_is_given_its_grace() {
    let of = |peers: &[String]| config("embedded", &peers.concat());
    let node = Node::run(&of(&[slow("quiet")]));
    assert_eq!(node.request("POST", "/api/v1/beat/quiet", &json!(null)).0, 202);
    node.sees("it is suspect", |now| now.peers[0].liveness == Liveness::Suspect);
    let before = node.peer("quiet");
    let added = "[peer.new]\ngrace = \"1h\"\nchecks.push = { suspect_after = \"1s\", dead_after = \"2s\" }\n";
    renamed_over(&file(&node), &of(&[added.to_owned(), slow("quiet")]));
    until("it was reloaded", || names(&node).len() == 2);
    let after = node.peer("quiet");
    assert_eq!(
        (after.liveness, after.since, after.last_life, after.id),
        (before.liveness, before.since, before.last_life, before.id)
    );
    let new = node.peer("new");
    assert_eq!((new.liveness, new.started), (Liveness::Unknown, false));
    assert_eq!(node.code("/startupz/new"), 503, "its grace");
}

#[test]
fn the_swap_of_a_config_map_is_taken_up() {
    let dir = tempfile::tempdir().unwrap();
    let place = |name: &str| dir.path().join(name);
    let version = |name: &str, text: &str| {
        fs::create_dir(place(name)).unwrap();
        fs::write(place(name).join("defib.toml"), text).unwrap();
    };
    version("..1", &config("embedded", &pushed("one")));
    symlink("..1", place("..data")).unwrap();
    symlink("..data/defib.toml", place("defib.toml")).unwrap();
    let path = place("defib.toml");
    let node = Node::start(
        &[],
        &["http.listen=\"127.0.0.1:0\""],
        &["--config", path.to_str().unwrap()],
    );
    node.told("READY=1");
    for number in 2..5 {
        let name = format!("..{number}");
        version(&name, &config("embedded", &pushed(&format!("peer{number}"))));
        symlink(&name, place("..data_tmp")).unwrap();
        fs::rename(place("..data_tmp"), place("..data")).unwrap();
        fs::remove_dir_all(place(&format!("..{}", number - 1))).unwrap();
        until("it was taken up", || names(&node) == [format!("peer{number}")]);
    }
}

#[test]
fn s37_five_mistakes_are_refused_at_once_and_the_old_configuration_holds() {
    let good = config("embedded", &(pushed("one") + &pushed("two")));
    let node = Node::run(&good);
    let broken = good
        .replace("spacing = \"0s\"", "spacing = \"soon\"")
        .replace("group = \"it\"", "group = \"other\"")
        .replace(
            "[peer.two]",
            "[peer.two]\nlocal = true\ngrace = 3\nowner = { listen = 1 }",
        );
    renamed_over(&file(&node), &broken);
    node.logs("configuration refused, asked by its file");
    assert!(!node.log().contains('\u{fffd}'), "one line: {}", node.log());
    let (code, said) = node.admin(&["reload"]);
    assert_eq!(code, Some(78), "{said}");
    for part in [
        "`group` is taken up at the start only",
        "`spacing`",
        "`local`",
        "`grace`",
        "`listen`",
        "5 mistakes",
        "defib.toml:",
    ] {
        assert!(said.contains(part), "{part} is not in {said}");
    }
    assert_eq!(names(&node), ["one", "two"]);
    let (status, ready) = node.get("/readyz?verbose");
    assert!(ready.contains("the last reload was refused"), "{status} {ready}");
    assert!(!ready.contains("not ready: config"), "{ready}");
    let (code, status) = node.tool(&["status"]);
    assert!(status.contains("the last reload was refused"), "{status}");
    assert_eq!(code, Some(0), "{status}");
    assert_eq!(node.count("defib_config_reload_refused"), 1);
    assert_eq!(node.count("defib_config_valid"), 1);
    assert_eq!(node.code("/healthz/one"), 200);

    renamed_over(&file(&node), &(good + &pushed("three")));
    until("what is right again is taken", || names(&node).len() == 3);
    until("and told", || node.count("defib_config_reload_refused") == 0);
    assert!(!node.get("/readyz?verbose").1.contains("refused"));
}

#[test]
fn what_takes_a_restart_is_named_with_its_line_and_nothing_is_applied() {
    let good = config("embedded", &pushed("one"));
    let node = Node::run(&good);
    let other = good
        .replace("node = \"a\"", "node = \"b\"")
        .replace("interval = \"300ms\"", "interval = \"200ms\"")
        + "[store]\npath = \"/tmp/elsewhere.json\"\n"
        + &pushed("two");
    fs::write(file(&node), other).unwrap();
    let (code, said) = node.admin(&["reload"]);
    assert_eq!(code, Some(78), "{said}");
    for part in [
        "`node` is taken up at the start only",
        "`heartbeat.interval`",
        "`store.path`",
        "restart the node to apply it",
        "3 mistakes",
        "defib.toml:2:",
    ] {
        assert!(said.contains(part), "{part} is not in {said}");
    }
    assert_eq!(names(&node), ["one"]);
}

/// The slots of a node's heartbeats as a subscriber hears them.
fn slots(server: &RedisServer, channel: &str) -> Arc<Mutex<Vec<u64>>> {
    let mut stream = TcpStream::connect(server.address()).unwrap();
    write!(stream, "SUBSCRIBE {channel}\r\n").unwrap();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&heard);
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            let Ok(beat) = serde_json::from_str::<serde_json::Value>(&line) else {
                continue;
            };
            told.lock().unwrap().extend(beat["slot"].as_u64());
        }
    });
    heard
}

fn sub_link(server: &RedisServer) -> String {
    let clients = server.tell("CLIENT LIST");
    let line = clients.lines().find(|line| line.contains("name=defib:a:sub"));
    let id = line.and_then(|line| line.split(' ').find(|word| word.starts_with("id=")));
    id.unwrap_or_default().to_owned()
}

fn descriptors(node: &Node) -> usize {
    fs::read_dir(format!("/proc/{}/fd", node.pid())).unwrap().count()
}

#[test]
fn a_hundred_reloads_leak_nothing_and_no_heartbeat_is_missed() {
    if !redis_server::there() {
        return;
    }
    let server = RedisServer::start();
    let dir = tempfile::tempdir().unwrap();
    let of = |round: usize| {
        let peers = [
            keeper(dir.path()),
            heard("stays", "stays:beat"),
            heard("moves", &format!("moves:{}", round % 3)),
            pushed(&format!("comes{}", round % 7)),
        ];
        // A loaded machine leaves out no beat of a second by itself.
        config(&server.url(), &peers.concat()).replace("interval = \"300ms\"", "interval = \"1s\"")
    };
    let node = Node::run(&of(0));
    node.sees("the bus is trusted", |now| now.trust.last_echo.is_some());
    let (link, heard) = (sub_link(&server), slots(&server, "defib:it"));
    until("it is heard", || !heard.lock().unwrap().is_empty());
    let reload = |round: usize| {
        renamed_over(&file(&node), &of(round));
        let (status, answer) = node.request("POST", "/api/v1/reload", &json!(null));
        assert_eq!(status, 200, "{answer}");
    };
    let lines = || {
        node.get("/metrics")
            .1
            .lines()
            .filter(|line| !line.starts_with('#'))
            .count()
    };
    for round in 1..=21 {
        reload(round);
    }
    let (fds, series) = (descriptors(&node), lines());
    for round in 22..=105 {
        reload(round);
    }
    until("all is as it was", || {
        descriptors(&node) <= fds && lines() <= series + 4
    });
    assert_eq!(names(&node).len(), 4);

    // The bus was followed on the connection that there was.
    assert_eq!(sub_link(&server), link);
    let moves = || node.peer("moves").liveness;
    server.tell("PUBLISH moves:1 life");
    server.tell("PUBLISH moves:0 life");
    until("it is heard on its last channel", || moves() == Liveness::Alive);
    let numsub = server.tell("PUBSUB NUMSUB moves:0 moves:1 moves:2 stays:beat");
    let counts: Vec<&str> = numsub
        .lines()
        .filter(|line| line.starts_with(':') || line.parse::<u32>().is_ok())
        .collect();
    assert_eq!(counts.len(), 4, "{numsub}");

    until("there are enough of them", || heard.lock().unwrap().len() > 5);
    let heard = heard.lock().unwrap().clone();
    let gaps: Vec<_> = heard.windows(2).filter(|pair| pair[1] > pair[0] + 1).collect();
    assert!(heard.len() > 5 && gaps.is_empty(), "{gaps:?} of {heard:?}");
}

#[test]
fn a_remedy_in_flight_ends_though_its_peer_is_removed() {
    let application = Application::start(&["sh", "-c", "sleep 600"]);
    let peers = format!(
        "[peer.app]\nowner = {}\nremedies = [{{ do = \"exec\", command = [\"sleep\", \"3\"] }}]\n",
        application.owner()
    );
    let with = config("embedded", &(peers + &pushed("one")));
    let without = config("embedded", &pushed("one"));
    let node = Node::run(&with);
    node.sees("the bus has settled", |now| {
        now.trust.settling_until.is_none_or(|until| until <= now.at)
            && now.peers[0].liveness == Liveness::Alive
    });
    let events = node.events();
    application.kill();
    events.of("app", "granted");
    renamed_over(&file(&node), &without);
    events.one("it was reloaded", |notice| notice["event"] == "config_reloaded");
    assert_eq!(names(&node), ["one"]);
    let acted = events.of("app", "acted");
    assert_eq!(acted["outcome"], "acted", "{acted:#}");
    until("nothing is left of it", || {
        !node.get("/metrics").1.contains("peer=\"app\"")
    });
    renamed_over(&file(&node), &with);
    until("it is back", || names(&node).len() == 2);
    assert_eq!(node.peer("app").budget_left, 2, "what was done counts");
}

#[test]
fn s37_a_node_that_observes_is_healed_by_a_valid_file_on_the_address_that_it_has() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("defib.toml");
    let port = free_port();
    let http = format!("[http]\nlisten = \"127.0.0.1:{port}\"\n");
    fs::write(&path, format!("{http}[peer.one]\nno = 3\n")).unwrap();
    let mut node = Node::start(
        &[],
        &[],
        &["--config", path.to_str().unwrap(), "--on-bad-config=observe"],
    );
    node.told("READY=1");
    until("it says so", || node.code("/readyz") == 503);
    assert_eq!(node.http().port(), port);
    // Somebody who stays on the line holds up nobody.
    let line = TcpStream::connect(node.http()).unwrap();
    fs::write(&path, "node = \n").unwrap();
    node.logs("the configuration is still wrong");
    renamed_over(&path, &config("embedded", &(http + &pushed("one"))));
    node.logs("node a watches");
    drop(line);
    assert_eq!(node.code("/healthz/one"), 200);
    assert!(!node.log().contains("cannot start"));
    // And it ends well: its signals are those of the node that followed.
    node.signal(Signal::TERM);
    assert_eq!(node.exit_code(), Some(0));
}

#[test]
fn s37_a_node_that_observes_reads_again_when_it_is_told_to() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("defib.toml");
    fs::write(&path, "group = 3\n").unwrap();
    let mut node = Node::start(
        &[],
        &["http.listen=\"127.0.0.1:0\""],
        &["--config", path.to_str().unwrap(), "--on-bad-config=observe"],
    );
    node.told("READY=1");
    until("it says so", || node.code("/readyz") == 503);
    node.signal(Signal::HUP);
    node.logs("the configuration is still wrong");
    node.signal(Signal::TERM);
    assert_eq!(node.exit_code(), Some(0));
}

#[test]
fn what_a_writer_that_ran_out_of_room_leaves_is_no_configuration_without_peers_unless_that_is_meant() {
    let good = config("embedded", &pushed("one"));
    let node = Node::run(&good);
    let (cut, _) = good.split_once("[peer.one]").unwrap();
    fs::write(file(&node), cut).unwrap();
    node.logs("no peer is left of 1");
    assert_eq!(names(&node), ["one"]);
    let (code, said) = node.admin(&["reload"]);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(names(&node), [""; 0]);
}

/// A Docker engine that has no containers.
fn empty_engine(socket: &Path) {
    let listener = UnixListener::bind(socket).unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                if stream.read_exact(&mut byte).is_err() {
                    break;
                }
                request.push(byte[0]);
            }
            let body = if request.starts_with(b"GET /version ") {
                r#"{"ApiVersion": "1.47", "MinAPIVersion": "1.24"}"#
            } else {
                "[]"
            };
            let _ = write!(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
        }
    });
}

#[test]
fn a_changed_file_that_was_refused_for_the_sake_of_docker_is_taken_once_docker_is_back() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("docker.sock");
    let docker = format!(
        "[docker]\nhost = \"unix://{}\"\ndiscover = \"all\"\n",
        socket.display()
    );
    let of = |peers: &[String]| config("embedded", &(docker.clone() + &peers.concat()));
    let node = Node::run(&of(&[pushed("one")]));
    let events = node.events();
    renamed_over(&file(&node), &of(&[pushed("one"), pushed("two")]));
    let refused = events.one("it was refused", |notice| notice["event"] == "config_refused");
    assert!(
        refused["detail"].to_string().contains("docker.discover"),
        "{refused}"
    );
    assert_eq!(names(&node), ["one"]);
    empty_engine(&socket);
    let told = events.one("it was taken", |notice| notice["event"] == "config_reloaded");
    assert_eq!(
        (&told["by"], &told["detail"]),
        (&"its file".into(), &"added: two".into())
    );
    assert_eq!(names(&node), ["one", "two"]);
}

#[test]
fn a_file_that_is_gone_for_a_moment_is_no_configuration_without_peers() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("defib/defib.toml");
    fs::create_dir(home.path().join("defib")).unwrap();
    fs::write(&path, config("embedded", &pushed("one"))).unwrap();
    let place = format!("XDG_CONFIG_HOME={}", home.path().display());
    let node = Node::start(&["env", &place], &["http.listen=\"127.0.0.1:0\""], &[]);
    node.told("READY=1");
    assert_eq!(names(&node), ["one"]);
    let away = path.with_extension("away");
    fs::rename(&path, &away).unwrap();
    let (code, said) = node.admin(&["reload"]);
    assert_eq!(code, Some(78), "{said}");
    assert!(said.contains("cannot be read: No such file"), "{said}");
    assert_eq!(names(&node), ["one"]);

    // Nor does something else in its place hold anybody up, or count for it.
    let fifo = Command::new("mkfifo").arg(&path).status().unwrap();
    assert!(fifo.success());
    let (code, said) = node.admin(&["reload"]);
    assert_eq!(code, Some(78), "{said}");
    assert!(said.contains("it is no regular file"), "{said}");
    assert_eq!(names(&node), ["one"]);

    fs::rename(&away, &path).unwrap();
    let (code, said) = node.admin(&["reload"]);
    assert_eq!((code, said.contains("unchanged")), (Some(0), true), "{said}");
    assert_eq!(node.count("defib_config_reload_refused"), 0);
}

#[test]
fn what_came_through_a_pipe_is_not_read_again_and_says_so() {
    let text = config("embedded", &pushed("one"));
    let script = format!("exec \"$@\" --config <(printf %s '{text}')");
    let node = Node::start(
        &["bash", "-c", &script, "bash"],
        &["http.listen=\"127.0.0.1:0\""],
        &[],
    );
    node.told("READY=1");
    node.logs("is no regular file: the configuration is not read again while this node runs");
    node.signal(Signal::HUP);
    node.logs("SIGHUP: ignored");
    let (code, said) = node.admin(&["reload"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("restart it"), "{said}");
    assert_eq!(names(&node), ["one"]);
}

#[test]
fn who_is_configured_without_a_file_is_told_of_one_that_came_later() {
    let home = tempfile::tempdir().unwrap();
    fs::create_dir(home.path().join("defib")).unwrap();
    let place = format!("XDG_CONFIG_HOME={}", home.path().display());
    let node = Node::start(
        &["env", &place],
        &[
            "http.listen=\"127.0.0.1:0\"",
            "bus.url=embedded",
            "peer.one.checks.push.dead_after=1h",
        ],
        &[],
    );
    node.told("READY=1");
    let (code, said) = node.admin(&["reload"]);
    assert_eq!((code, said.contains("unchanged")), (Some(0), true), "{said}");
    fs::write(home.path().join("defib/defib.toml"), config("embedded", "")).unwrap();
    let (code, said) = node.admin(&["reload"]);
    assert_eq!(code, Some(78), "{said}");
    assert!(said.contains("was not there when this node started"), "{said}");
    assert_eq!(names(&node), ["one"]);
}

#[test]
fn where_the_kernel_has_no_inotify_left_the_file_is_looked_at_all_the_same() {
    let none = "echo 0 > /proc/sys/user/max_inotify_instances";
    let alone = ["unshare", "--user", "--map-root-user", "sh", "-c"];
    let here = Command::new(alone[0]).args(&alone[1..]).arg(none).status();
    if !here.is_ok_and(|status| status.success()) {
        eprintln!("skipped: no user namespaces here");
        return;
    }
    let script = format!("{none} && exec \"$@\"");
    let wrapper = [&alone[..], &[script.as_str(), "sh"]].concat();
    let node = Node::run_with(&wrapper, &config("embedded", &pushed("one")));
    node.logs("no inotify");
    renamed_over(&file(&node), &config("embedded", &pushed("two")));
    until("it was taken up", || names(&node) == ["two"]);
}
