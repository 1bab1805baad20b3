//! The image, docker-compose.yml and the stacks of deploy/compose, brought up for real.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt;

use defib::engine::peer::Liveness;
use defib::engine::snapshot::{PeerView, Snapshot};
use defib::http::Status;

use crate::support::available;
use crate::support::docker::docker;
use crate::support::node::{defib, is_calm};
use crate::support::python::Python;
use crate::support::stack::{Images, Stack, get, of_project, until, usable};

const NEEDED: &str = "Docker with docker-compose, redis-server and busybox";
/// Settling takes a minute by default.
const OVERLAY: &str = "services: { node: { environment: { DEFIB__BUS__SETTLE: 5s } } }";

#[test]
fn compose_comes_up_with_local_images_and_the_node_survives_its_namespace() {
    if !available(NEEDED, usable()) {
        return;
    }
    let images = Images::make(None);
    images.build_defib();
    let environment = vec![
        ("REDIS_IMAGE", images.tag("root")),
        ("PUBLISHER_IMAGE", images.tag("root")),
        ("SUBSCRIBER_IMAGE", images.tag("root")),
        ("DEFIB_IMAGE", images.tag("defib")),
        ("DEFIB_PORT", String::new()),
    ];
    let stack = Stack::new(images, "docker-compose.yml", environment);
    stack.compose(&["up", "-d", "--no-build"]);

    assert_eq!(stack.inspect("redis", "{{.State.Running}}"), "true");
    let subscriber = stack.inspect("subscriber", "{{.Id}}");
    let shared = stack.inspect("node", "{{.HostConfig.NetworkMode}}");
    assert_eq!(
        shared,
        format!("container:{subscriber}"),
        "the node lives in the subscriber's network namespace"
    );
    assert_eq!(stack.inspect("node", "{{.Config.User}}"), "65532:65532");
    assert_eq!(stack.inspect("node", "{{.HostConfig.ReadonlyRootfs}}"), "true");

    // Not by NUMSUB: the node listens to that channel too.
    until("the subscriber hears the publisher", || {
        stack.logs("subscriber").contains("{\"id\": 291")
    });
    let port = stack.port("subscriber", 7337).unwrap();
    let is_200 = |port, path| get(port, path).is_some_and(|(status, _)| status == 200);
    until("the node is ready", || is_200(port, "/readyz"));
    until("Docker calls the node healthy", || {
        stack.inspect("node", "{{.State.Health.Status}}") == "healthy"
    });
    until("the publisher is seen", || is_200(port, "/startupz/publisher"));

    // The application ends, Docker restarts it in a new network namespace, and the node must follow (scenario 39).
    stack.exec("subscriber", &["sh", "-c", "kill -9 $(pidof redis-cli)"]);
    until("Docker restarts the subscriber", || {
        stack.inspect("subscriber", "{{.RestartCount}}") != "0"
    });
    until("the node leaves the dead namespace", || {
        stack.inspect("node", "{{.RestartCount}}") != "0"
    });
    let port = stack.port("subscriber", 7337).unwrap();
    until("the node is ready again", || is_200(port, "/readyz"));
}

#[test]
fn the_telemetry_stack_outlives_its_redis_and_is_healed_through_docker() {
    let Some(watched) = Watched::up("telemetry", "telemetry") else {
        return;
    };
    watched.is_calm();

    // Redis as a whole is restarted: everybody is silent, and nobody is touched (scenario 9).
    let lives = || ["telemetry", "bridge"].map(|service| watched.stack.life(service));
    let before = lives();
    docker(&["restart", "--time", "1", &watched.stack.container("redis")]);
    // And it has seen its return: a look before that would find the calm of before.
    until("the node has seen it", || {
        watched.stack.logs("node").matches("our echoes return").count() > 1
    });
    watched.is_calm();
    assert_eq!(lives(), before);
    assert_eq!(watched.grants(), 0, "a remedy because Redis was away");

    // One of several children is killed: to Docker, Redis and the status page the container is well.
    watched
        .stack
        .exec("telemetry", &["sh", "-c", "kill -9 $(pidof recorder)"]);
    until("the telemetry container is restarted", || {
        watched.stack.life("telemetry") != before[0]
    });
    watched.is_calm();
    assert!(watched.logs("docker granted for peer_deaf"));
    assert_eq!(watched.stack.life("bridge"), before[1]);

    // The bridge hangs.
    watched
        .stack
        .exec("bridge", &["sh", "-c", "kill -STOP $(pidof python3)"]);
    until("the bridge is restarted", || {
        watched.stack.life("bridge") != before[1]
    });
    watched.is_calm();
    assert!(watched.logs("docker granted for peer_stuck"));

    watched.stays_stopped("bridge");
}

#[test]
fn the_realtime_stack_restarts_who_shares_a_network_drains_and_pulses() {
    let Some(watched) = Watched::up("realtime", "realtime") else {
        return;
    };
    watched.is_calm();

    // The application hangs. Whoever lives in its network is restarted after it.
    let lives = || ["app", "cron", "realtime"].map(|service| watched.stack.life(service));
    let before = lives();
    watched
        .stack
        .exec("app", &["sh", "-c", "kill -STOP $(pidof python3)"]);
    until("both are restarted", || {
        let now = lives();
        now[0] != before[0] && now[1] != before[1]
    });
    watched.is_calm();
    assert_eq!(lives()[2], before[2]);

    // Clients leave a quiet room, and the server goes on counting them.
    for _ in 0..12 {
        let port = watched.stack.port("realtime", 3002).unwrap();
        let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        client.write_all(b"GET /stream?quiet HTTP/1.1\r\n\r\n").unwrap();
        client.read_exact(&mut [0; 12]).unwrap();
    }
    until("the realtime server is restarted", || lives()[2] != before[2]);
    watched.is_calm();
    assert!(watched.logs("http granted for peer_leaking"));
    assert!(watched.logs("healthz granted for peer_leaking"));

    watched.stays_stopped("cron");
}

#[test]
fn every_image_is_a_variable_and_nothing_runs_as_root_in_ours() {
    for file in [
        "docker-compose.yml",
        "deploy/compose/telemetry/compose.yml",
        "deploy/compose/realtime/compose.yml",
    ] {
        let compose = fs::read_to_string(of_project(file)).unwrap();
        let images = compose
            .lines()
            .filter(|line| line.trim_start().starts_with("image:"));
        for line in images {
            assert!(line.contains("_IMAGE:-"), "not a variable: {line}");
        }
    }
    let dockerfile = fs::read_to_string(of_project("Dockerfile")).unwrap();
    assert!(dockerfile.contains("\nUSER 65532:65532\n"));
    for base in dockerfile.lines().filter_map(|line| line.strip_prefix("FROM ")) {
        assert!(
            base.starts_with("${") || base.starts_with("base"),
            "not a build argument: {base}"
        );
    }
}

/// One of the stacks below deploy/compose, with a node in the network of one of its services.
struct Watched {
    stack: Stack,
    beside: &'static str,
}

impl Watched {
    fn up(name: &str, beside: &'static str) -> Option<Self> {
        let python = Python::newest()?;
        if !available(NEEDED, usable()) {
            return None;
        }
        let config = of_project(&format!("deploy/compose/{name}/defib.toml"));
        let (code, said) = defib(&["check-config", "--config", config.to_str().unwrap()]);
        assert_eq!(code, Some(0), "{said}");

        let images = Images::make(Some(&python));
        images.make_defib();
        let socket = fs::metadata("/var/run/docker.sock").unwrap();
        let mut environment = vec![
            ("REDIS_IMAGE", images.tag("root")),
            ("APP_IMAGE", images.tag("root")),
            ("DEFIB_IMAGE", images.tag("defib")),
            ("DOCKER_GID", socket.gid().to_string()),
        ];
        let ports = ["DEFIB_PORT", "BRIDGE_PORT", "APP_PORT", "REALTIME_PORT"];
        environment.extend(ports.map(|port| (port, String::new())));
        let file = format!("deploy/compose/{name}/compose.yml");
        let mut stack = Stack::new(images, &file, environment);
        stack.overlay(OVERLAY);
        stack.compose(&["up", "-d", "--no-build"]);
        let format = "{{.Config.User}} {{.HostConfig.ReadonlyRootfs}} {{.HostConfig.Privileged}} \
                      {{.HostConfig.CapDrop}} {{.HostConfig.CapAdd}} {{.HostConfig.GroupAdd}}";
        assert_eq!(
            stack.inspect("node", format),
            format!("65532:65532 true false [ALL] [] [{}]", socket.gid())
        );
        Some(Self { stack, beside })
    }

    fn snapshot(&self) -> Option<Snapshot> {
        let (_, body) = get(self.stack.port(self.beside, 7337)?, "/api/v1/status")?;
        let status: Status = serde_json::from_str(&body).ok()?;
        status.snapshot.map(std::sync::Arc::unwrap_or_clone)
    }

    fn peer(&self, name: &str) -> Option<PeerView> {
        let peers = self.snapshot()?.peers;
        peers.into_iter().find(|peer| &*peer.name == name)
    }

    fn is_calm(&self) {
        until("the node is calm", || {
            self.snapshot().is_some_and(|seen| is_calm(&seen))
        });
    }

    fn logs(&self, text: &str) -> bool {
        self.stack.logs("node").contains(text)
    }

    fn grants(&self) -> usize {
        self.stack.logs("node").matches(" granted for ").count()
    }

    /// An operator stops the container of a peer of that name: nobody starts it again (scenario 34).
    fn stays_stopped(&self, service: &str) {
        let before = self.grants();
        docker(&["stop", &self.stack.container(service)]);
        until("the node takes it for on purpose", || {
            self.peer(service)
                .is_some_and(|peer| peer.liveness == Liveness::Unknown)
        });
        assert_eq!(self.stack.inspect(service, "{{.State.Status}}"), "exited");
        assert_eq!(self.grants(), before);
    }
}
