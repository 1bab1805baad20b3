//! What an application says of itself, against what there is: scenarios 22 and 23.

use std::net::{SocketAddr, TcpStream};

use defib::engine::peer::Liveness;

use super::{config, parts};
use crate::support::application::{Application, Site};
use crate::support::node::Node;
use crate::support::ports::free_port;
use crate::support::redis_server::RedisServer;
use crate::support::until;

#[test]
fn s22_182_ghosts_of_199_are_exported_and_heal_their_peer() {
    let Some(python) = parts() else { return };
    let server = RedisServer::start();
    let [port, metrics] = [free_port(), free_port()];
    let words = python.words("leaky.py", &[&port.to_string(), &metrics.to_string(), "leak"]);
    let application = Application::start(&words);
    until("it serves", || application.log().contains("ready"));
    let node = Node::run(&config(
        &server.url(),
        &format!(
            r#"
            [peer.app]
            owner = {}
            grace = "1s"
            backoff = {{ initial = "200ms" }}
            checks.ghosts = {{ type = "connections", url = "http://127.0.0.1:{metrics}/metrics", series = "ws_connections",
                               ports = [{port}], interval = "200ms", timeout = "5s", fail_after = "10 of 10" }}
            remedies = [{{ do = "exec", for = ["peer_leaking"], command = {}, verify_within = "30s" }}]
            "#,
            application.owner(),
            application.restart()
        ),
    ));
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let mut clients: Vec<_> = (0..199).map(|_| TcpStream::connect(address).unwrap()).collect();
    node.is_calm();
    let events = node.events();
    let series = r#"defib_peer_ghost_connections{check="ghosts",peer="app"}"#;
    assert!(node.get("/metrics").1.contains(&format!("{series} 0\n")));

    clients.truncate(17);
    until("182 ghosts are exported", || node.count(series) == 182);
    let granted = events.of("app", "granted");
    assert_eq!(granted["cause"], "peer_leaking", "{granted}");
    let why = node.tool(&["explain", "app"]).1;
    assert!(
        why.contains("182 ghost connections, not below 10: ws_connections is 199, the kernel has 17"),
        "{why}"
    );
    // The new process counts from zero, and so does the kernel.
    events.of("app", "recovered");
    assert_eq!(application.starts(), 2);
    until("none is left", || node.count(series) == 0);
}

#[test]
fn s23_a_page_that_is_refused_or_gone_is_unknown_neither_green_nor_dead() {
    let Some(python) = parts() else { return };
    let server = RedisServer::start();
    let site = Site::start();
    site.set("/metrics", 200, "ws_connections 1\n");
    let [port, metrics] = [free_port(), free_port()];
    let words = python.words("leaky.py", &[&port.to_string(), &metrics.to_string()]);
    let application = Application::start(&words);
    until("it serves", || application.log().contains("ready"));
    let check = |kind: &str, url: &str, rest: &str| {
        format!(
            "{{ type = \"{kind}\", url = \"{url}\", series = \"ws_connections\", interval = \"100ms\", \
             fail_after = \"1 of 1\", timeout = \"5s\", {rest} }}"
        )
    };
    let page = site.url("/metrics");
    let vanishing = format!("http://127.0.0.1:{metrics}/metrics");
    let node = Node::run(&config(
        &server.url(),
        &format!(
            r"
            [peer.refused]
            checks.m = {}
            [peer.gone]
            checks.m = {}
            [peer.app]
            owner = {}
            checks.m = {}
            checks.c = {}
            ",
            check("metric", &page, "above = 0"),
            check("metric", &vanishing, "below = 5"),
            application.owner(),
            check("metric", &page, "below = 5"),
            check("connections", &page, &format!("ports = [{port}]")),
        ),
    ));
    // The gauge of the real client is there only once it was used.
    let connection = TcpStream::connect(("127.0.0.1", port)).unwrap();
    node.is_calm();
    let events = node.events();

    site.set("/metrics", 403, "");
    let is_unknown = |peer: &str, check: &str| {
        let verdict = format!("defib_check_verdict{{check=\"{check}\",peer=\"{peer}\",state=\"unknown\"}}");
        until(&format!("{check} of {peer} is unknown"), || {
            node.count(&verdict) == 1
        });
    };
    for (peer, check) in [("refused", "m"), ("app", "m"), ("app", "c")] {
        is_unknown(peer, check);
    }
    assert_eq!(node.peer("refused").liveness, Liveness::Unknown);
    // Its process lives, and says so; what cannot be measured adds nothing, and takes nothing.
    assert_eq!(node.peer("app").liveness, Liveness::Alive);
    application.kill();
    is_unknown("gone", "m");
    assert_eq!(node.peer("gone").liveness, Liveness::Unknown);
    drop(connection);
    let why = node.tool(&["explain", "refused"]).1;
    assert!(
        why.contains("status 403: the metrics page is refused to this node"),
        "{why}"
    );
    for notice in events.all() {
        assert!(
            notice["cause"] != "peer_leaking" && notice["cause"] != "peer_stuck",
            "{notice}"
        );
    }

    site.set("/metrics", 200, "ws_connections 1\n");
    node.sees("it is told again", |snapshot| {
        snapshot
            .peers
            .iter()
            .any(|peer| &*peer.name == "refused" && peer.liveness == Liveness::Alive)
    });
}
