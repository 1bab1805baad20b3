//! Several nodes that watch the same peers: one restart, pulses one after the other. Scenarios 14, 33, 36, 44.

use std::collections::BTreeSet;
use std::time::Duration;

use defib::engine::guards::GuardName;
use defib::engine::peer::Liveness;
use defib::engine::self_trust::BusState;
use defib::fleet::Slots;
use rustix::process::Signal;

use crate::support::application::{Application, IDLE, Site};
use crate::support::available;
use crate::support::docker::Engine;
use crate::support::netns::{self, Namespace};
use crate::support::node::{Events, Node};
use crate::support::ports::free_port;
use crate::support::redis_server::{RedisServer, there};
use crate::support::until;

fn config(node: &str, url: &str, rest: &str) -> String {
    super::config(url, rest).replace("node = \"a\"", &format!("node = \"{node}\""))
}

fn nodes(names: &[&str], url: &str, rest: &str) -> Vec<Node> {
    let nodes: Vec<Node> = names
        .iter()
        .map(|name| Node::run(&config(name, url, rest)))
        .collect();
    nodes.iter().for_each(Node::is_calm);
    nodes
}

fn app(application: &Application, rest: &str) -> String {
    format!(
        r#"
        [peer.app]
        owner = {}
        grace = "1s"
        backoff = {{ initial = "200ms" }}
        checks.process = {{ interval = "200ms", fail_after = "2 of 2" }}
        remedies = [{{ do = "exec", command = {}, timeout = "1s", verify_within = "2s" }}]
        {rest}
        "#,
        application.owner(),
        application.restart()
    )
}

fn granted(events: &[Events]) -> usize {
    events.iter().map(|events| events.named("granted").len()).sum()
}

#[test]
fn s33_three_nodes_that_see_one_process_die_restart_it_once() {
    if !there() {
        return;
    }
    let server = RedisServer::start();
    let application = Application::start(&IDLE);
    let nodes = nodes(&["a", "b", "c"], &server.url(), &app(&application, ""));
    let events: Vec<Events> = nodes.iter().map(Node::events).collect();
    for round in 1..=3 {
        application.kill();
        for events in &events {
            until("each node saw its recovery", || {
                events.named("recovered").len() >= round
            });
        }
        assert_eq!(granted(&events), round, "one grant among three nodes");
        assert_eq!(application.starts(), round + 1);
        nodes.iter().for_each(Node::is_calm);
    }
    // Three restarts in ten minutes, and not nine: whoever would be next has leave of nobody.
    application.kill();
    for node in &nodes {
        node.sees("the group's budget is used up", |snapshot| {
            let episode = snapshot.peers[0].episode.as_ref();
            let refusal = episode.and_then(|episode| episode.refusal.as_ref());
            // (Whoever did all three says so of its own budget.)
            refusal.is_some_and(|refusal| {
                refusal.why.contains("restarts are used up") && refusal.until.is_some()
            })
        });
        let (_, text) = node.get("/api/v1/explain/app");
        assert!(text.contains("restarts are used up"), "{text}");
    }
    assert_eq!(granted(&events), 3);
    assert_eq!(application.starts(), 4);
}

/// A node and the `feed` beside it, in a network of their own, as in a pod. (It ends in this order.)
struct Pod {
    node: Node,
    feed: Application,
    _network: Namespace,
}

impl Pod {
    fn start(name: &str, server: &RedisServer) -> Self {
        let network = Namespace::new();
        let listener =
            "import socket, time; s = socket.create_server((\"127.0.0.1\", 9080)); time.sleep(1e6)";
        let [ip, netns, exec, of] = network.wrapper();
        let feed = Application::start(&[ip, netns, exec, of, "python3", "-c", listener]);
        let rest = format!(
            r#"
            [peer.feed]
            owner = {{ listens = 9080 }}
            grace = "10s"
            backoff = {{ initial = "200ms" }}
            checks.process = {{ interval = "200ms", fail_after = "2 of 2" }}
            remedies = [{{ do = "exec", command = {}, timeout = "5s", verify_within = "20s" }}]
            "#,
            feed.restart()
        );
        // The one way out of that network is a file.
        let url = format!("unix://{}", server.socket().display());
        let node = Node::run_apart(&network.wrapper(), &config(name, &url, &rest));
        Self {
            node,
            feed,
            _network: network,
        }
    }
}

/// Its name is each one's, and so is its budget: three restarts in ten minutes are not those of the whole deployment.
#[test]
fn six_pods_of_one_deployment_have_a_feed_each_and_each_is_restarted() {
    if !there() || !available("root with ip and nft (network namespaces)", netns::usable()) {
        return;
    }
    let server = RedisServer::start();
    let pods: Vec<Pod> = ["a", "b", "c", "d", "e", "f"]
        .iter()
        .map(|name| Pod::start(name, &server))
        .collect();
    for pod in &pods {
        pod.node.is_calm();
        let events = pod.node.events();
        pod.feed.kill();
        events.of("feed", "recovered");
        assert_eq!(pod.feed.starts(), 2);
    }
    for pod in &pods {
        assert_eq!(pod.feed.starts(), 2, "once, and by its own node");
    }
}

#[test]
fn s33_a_node_that_is_stopped_while_it_asks_or_acts_touches_no_newer_life() {
    if !there() {
        return;
    }
    let server = RedisServer::start();
    let application = Application::start(&IDLE);
    let nodes = nodes(&["a", "b"], &server.url(), &app(&application, ""));
    let events: Vec<Events> = nodes.iter().map(Node::events).collect();
    // The first is stopped from the very death on, wherever it then is; the other heals it, for a new life.
    application.kill();
    nodes[0].signal(Signal::STOP);
    // If it was the first that had leave, the other gets it when that has ended: after its remedy's second, its two for
    // the proof, and ten.
    until("somebody restarted it", || application.runs());
    let life = application.pid();
    nodes[0].signal(Signal::CONT);
    for events in &events {
        until("each node saw its recovery", || {
            !events.named("recovered").is_empty()
        });
    }
    nodes.iter().for_each(Node::is_calm);
    assert_eq!(application.starts(), 2, "once, by whichever");
    assert_eq!(application.pid(), life, "the newer life was not touched");
}

#[test]
fn s33_two_nodes_restart_one_container_once() {
    let Some(engine) = Engine::start() else { return };
    let server = RedisServer::start();
    let container = engine.idle("app", &[]);
    let rest = format!(
        r#"
        [peer.app]
        owner = {{ container = "{}" }}
        grace = "1s"
        backoff = {{ initial = "200ms" }}
        remedies = [{{ do = "docker", verify_within = "20s" }}]
        "#,
        container.0
    );
    let nodes = nodes(&["a", "b"], &server.url(), &rest);
    let events: Vec<Events> = nodes.iter().map(Node::events).collect();
    let before = container.started_at();
    container.crash();
    for events in &events {
        until("each node saw its recovery", || {
            !events.named("recovered").is_empty()
        });
    }
    nodes.iter().for_each(Node::is_calm);
    assert_ne!(container.started_at(), before);
    assert_eq!(granted(&events), 1);
}

#[test]
fn s33_a_second_node_on_the_embedded_bus_of_another_leaves_the_healing_to_it() {
    let application = Application::start(&IDLE);
    let port = free_port();
    let rest = app(&application, "");
    let host =
        config("a", "embedded", &rest).replace("[bus]", &format!("[bus]\nlisten = \"127.0.0.1:{port}\""));
    let host = Node::run(&host);
    host.is_calm();
    let guest = Node::run(&config("b", &format!("redis://127.0.0.1:{port}"), &rest));
    guest.is_calm();
    let events = [host.events(), guest.events()];
    application.kill();
    events.iter().for_each(|events| {
        events.of("app", "recovered");
    });
    assert_eq!(application.starts(), 2);
    assert_eq!(
        (events[0].named("granted").len(), events[1].named("granted").len()),
        (1, 0)
    );
    // The one that only watches says why.
    let (_, verbose) = guest.get("/readyz?verbose");
    assert!(
        verbose.contains("runs no scripts, as the embedded bus of another node"),
        "{verbose}"
    );
}

#[test]
fn s36_a_dry_run_looks_at_the_lease_that_another_node_holds_and_takes_none() {
    if !there() {
        return;
    }
    let server = RedisServer::start();
    let url = server.url();
    // Each node has an `app` of its own; to the group they are one.
    let (theirs, ours) = (Application::start(&IDLE), Application::start(&IDLE));
    let slow = app(&theirs, "")
        .replace(&theirs.restart(), "[\"sleep\", \"60\"]")
        .replace("timeout = \"1s\"", "timeout = \"60s\"");
    let acting = Node::run(&config("acting", &url, &slow));
    let dry = config("dry", &url, &app(&ours, ""));
    let dry = Node::run(&format!("dry_run = true\n{dry}"));
    acting.is_calm();
    dry.is_calm();
    let (acts, events) = (acting.events(), dry.events());
    theirs.kill();
    acts.of("app", "granted");
    let taken = server.tell("KEYS *fleet*");
    ours.kill();
    dry.sees("the lease is in the way", |snapshot| {
        let episode = snapshot.peers[0].episode.as_ref();
        let refusal = episode.and_then(|episode| episode.refusal.as_ref());
        refusal.is_some_and(|refusal| refusal.to_string() == "fleet_lease: node acting is healing it")
    });
    let calls = |call: &str, outcome: &str| {
        dry.count(&format!(
            "defib_fleet_calls_total{{call=\"{call}\",outcome=\"{outcome}\"}}"
        ))
    };
    assert!(calls("look", "no") >= 1);
    assert!(events.named("would_heal").is_empty(), "{:#?}", events.all());

    // As if it had ended.
    server.tell("FLUSHALL");
    events.of("app", "would_heal");
    assert!(taken.contains("fleet"), "{taken}");
    let keys = server.tell("KEYS *fleet*");
    assert!(!keys.contains("fleet"), "{keys}");
    assert_eq!(ours.starts(), 1);
    assert!(calls("look", "yes") >= 1);
    assert_eq!((calls("take", "yes"), calls("take", "no")), (0, 0));
}

#[test]
fn a_redis_that_permits_no_scripts_is_named_and_nothing_is_restarted() {
    if !there() {
        return;
    }
    let server = RedisServer::start();
    server.tell("ACL SETUSER node on >secret +@all -eval ~* &*");
    let url = server.url().replace("redis://", "redis://node:secret@");
    let application = Application::start(&IDLE);
    let node = Node::run(&config(
        "a",
        &url,
        &app(&application, "when_bus_down = \"local\""),
    ));
    node.is_calm();
    application.kill();
    node.sees("the lease is refused", |snapshot| {
        let episode = snapshot.peers[0].episode.as_ref();
        let refusal = episode.and_then(|episode| episode.refusal.as_ref());
        refusal.is_some_and(|refusal| {
            refusal.guard == GuardName::FleetLease
                && refusal.why.contains("ACL SETUSER node +eval")
                && refusal.why.contains(" ~defib:{it}:fleet:*")
        })
    });
    let (_, verbose) = node.get("/readyz?verbose");
    assert!(verbose.contains("may not EVAL"), "{verbose}");
    assert_eq!(application.starts(), 1);
    // Mended while it runs.
    let events = node.events();
    server.tell("ACL SETUSER node +eval");
    events.of("app", "recovered");
    assert_eq!(application.starts(), 2);
}

/// A Redis that hangs. Who exited before that, in the sight of a node that still heard itself, is restarted where that is
/// asked for; who is not asked for, and who exited later, is held.
#[test]
fn s08_while_redis_hangs_local_restarts_who_was_seen_to_exit_before_and_nobody_else() {
    if !there() {
        return;
    }
    let server = RedisServer::start();
    let applications: [Application; 3] = std::array::from_fn(|_| Application::start(&IDLE));
    let [local, hold, later] = &applications;
    let peer = |name: &str, application: &Application, when: &str| {
        app(application, &format!("when_bus_down = \"{when}\""))
            .replace("[peer.app]", &format!("[peer.{name}]"))
            .replace("initial = \"200ms\"", "initial = \"15s\"")
            .replace("verify_within = \"2s\"", "verify_within = \"20s\"")
    };
    let peers = [
        peer("local", local, "local"),
        peer("hold", hold, "hold"),
        peer("later", later, "local"),
    ];
    let text =
        config("a", &server.url(), &peers.concat()).replace("[budget]", "[budget]\ndown_percent = 100");
    let node = Node::run(&text);
    node.is_calm();
    let events = node.events();
    // They are restarted, and die again at once: it is their backoff that holds them then.
    for (name, application) in [("local", local), ("hold", hold)] {
        application.kill();
        events.of(name, "recovered");
    }
    node.is_calm();
    for (name, application) in [("local", local), ("hold", hold)] {
        application.kill();
        events.one("its backoff holds it", |notice| {
            notice["peer"] == name && notice["refusal"]["guard"] == "backoff"
        });
    }
    server.stop();
    node.sees("the bus is gone", |snapshot| {
        snapshot.trust.bus != BusState::Trusted
    });
    later.kill();
    until("it is restarted without the group", || {
        local.starts() == 3 && local.runs()
    });
    let refused = |name: &str| {
        let episode = node.peer(name).episode.unwrap();
        episode.refusal.unwrap().guard
    };
    until("both others are held by the bus", || {
        ["hold", "later"]
            .iter()
            .all(|name| refused(name) == GuardName::SelfTrust)
    });
    assert_eq!((hold.starts(), later.starts()), (2, 1));

    server.cont();
    node.is_calm();
    assert_eq!(applications.each_ref().map(Application::starts), [3, 3, 2]);
}

#[test]
fn blockers_hold_a_restart_until_they_are_clear() {
    if !there() {
        return;
    }
    let server = RedisServer::start();
    let site = Site::start();
    site.set("/running", 200, "[\"feed\"]");
    let application = Application::start(&IDLE);
    let blocker = format!("[blocker.deploys]\nhttp = {:?}\n", site.url("/running"));
    let node = Node::run(&config(
        "a",
        &server.url(),
        &format!("{blocker}{}", app(&application, "")),
    ));
    node.is_calm();
    assert!(
        site.asked("/running") <= 1,
        "by the preflight; and never while nothing is wrong"
    );
    let events = node.events();
    application.kill();
    events.of("app", "refused");
    node.sees("it is blocked", |snapshot| {
        let episode = snapshot.peers[0].episode.as_ref();
        let refusal = episode.and_then(|episode| episode.refusal.as_ref());
        refusal.is_some_and(|refusal| refusal.to_string() == "blockers: deploys: its answer is a list of 1")
    });
    assert_eq!(node.peer("app").liveness, Liveness::Dead);
    site.set("/running", 200, "[]");
    events.of("app", "recovered");
    assert_eq!(application.starts(), 2);
}

/// Pods with a `healthz` remedy, and a page each that says how it is; so many beside each node.
struct Pods {
    each: usize,
    site: Site,
    applications: Vec<Application>,
    nodes: Vec<Node>,
    events: Vec<Events>,
}

impl Pods {
    /// `config` of a node's name and its peers.
    fn start(names: &[String], each: usize, config: impl Fn(&str, &str) -> String) -> Self {
        let site = Site::start();
        let pods = 0..each * names.len();
        let applications: Vec<Application> = pods.clone().map(|_| Application::start(&IDLE)).collect();
        pods.for_each(|pod| site.set(&page(pod), 200, ""));
        let peer = |pod: usize| {
            format!(
                r#"
                [peer.pod-{pod}]
                owner = {}
                grace = "300ms"
                checks.process = {{ interval = "300ms" }}
                checks.http = {{ url = {:?}, interval = "300ms", timeout = "5s", fail_after = "2 of 2" }}
                remedies = [{{ do = "healthz", verify_within = "30s" }}]
                "#,
                applications[pod].owner(),
                site.url(&page(pod))
            )
        };
        let run = |(node, name): (usize, &String)| {
            let peers: Vec<String> = (node * each..(node + 1) * each).map(peer).collect();
            Node::run(&config(name, &peers.concat()))
        };
        let nodes: Vec<Node> = names.iter().enumerate().map(run).collect();
        nodes.iter().for_each(Node::is_calm);
        let events = nodes.iter().map(Node::events).collect();
        Self {
            each,
            site,
            applications,
            nodes,
            events,
        }
    }

    fn probe(&self, pod: usize) -> u16 {
        self.nodes[pod / self.each].code(&format!("/healthz/pod-{pod}"))
    }

    /// All are ill at once. Each pod's kubelet restarts it once it sees 503; that cures it. Never are more than so many
    /// pulsed together.
    fn lose_what_all_of_them_need(&self, together: usize) {
        let all = 0..self.applications.len();
        all.clone().for_each(|pod| self.site.set(&page(pod), 503, ""));
        let mut cured = BTreeSet::new();
        until("each was pulsed", || {
            let down: Vec<usize> = all.clone().filter(|pod| self.probe(*pod) == 503).collect();
            assert!(down.len() <= together, "together: {down:?}");
            for pod in down {
                // The pulse ends with the new life. (Were it well before, it would end as one that recovered by itself.)
                self.applications[pod].start_again();
                until("its pulse ended", || self.probe(pod) == 200);
                self.site.set(&page(pod), 200, "");
                // The next may have to wait for its proof.
                self.events[pod / self.each].of(&format!("pod-{pod}"), "recovered");
                assert!(cured.insert(pod), "{pod} again");
            }
            cured.len() == all.len()
        });
        self.nodes.iter().for_each(Node::is_calm);
        assert_eq!(granted(&self.events), all.len(), "each once");
    }
}

fn page(pod: usize) -> String {
    format!("/health/{pod}")
}

#[test]
fn s44_peers_that_lose_the_same_dependency_are_pulsed_one_after_the_other() {
    if !there() {
        return;
    }
    let server = RedisServer::start();
    let names = ["a", "b", "c"].map(str::to_owned);
    let pods = Pods::start(&names, 4, |name, peers| config(name, &server.url(), peers));
    pods.lose_what_all_of_them_need(1);
}

/// Nobody is asked there: whose turn it is, is told by the clock.
#[test]
fn s44_without_a_bus_each_node_pulses_in_its_own_turn_of_the_clock() {
    const TURN: Duration = Duration::from_secs(4);
    let place = |name: &String| Slots::of(name, 3, TURN).place;
    // A hash of its name gives a place to each; these three have three.
    let names: Vec<String> = (0..3)
        .map(|wanted| {
            let mut names = (0..).map(|n| format!("web-{n}-x"));
            names.find(|name| place(name) == wanted).unwrap()
        })
        .collect();
    let pods = Pods::start(&names, 1, |name, peers| {
        let fleet = "[fleet]\nsize = 3\nturn = \"4s\"\n[budget]";
        config(name, "embedded", peers).replace("[budget]", fleet)
    });
    pods.lose_what_all_of_them_need(1);
    for (number, node) in pods.nodes.iter().enumerate() {
        let mut at = None;
        until("its grant is on disk", || {
            let (_, said) = node.tool(&["history", "--json"]);
            let mut records = said.lines().map(|line| serde_json::from_str(line).unwrap());
            at = records.find(|record: &serde_json::Value| record["event"] == "granted");
            at.is_some()
        });
        let at = humantime::parse_rfc3339(at.unwrap()["time"].as_str().unwrap()).unwrap();
        let at = at.duration_since(std::time::UNIX_EPOCH).unwrap();
        // (A grant in the turn's second half was given in the first, by a machine that was busy.)
        assert_eq!(
            at.as_millis() / TURN.as_millis() % 3,
            number as u128,
            "{at:?} is not the turn of {}",
            names[number]
        );
    }
}
