//! `defib init`: what it writes is true, passes its own check, and holds no secret.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::available;
use crate::support::python::Python;
use crate::support::redis_server::{RedisServer, there};

const COMPOSE: &str = r#"
name: base-station
services:
  redis:
    image: redis:7.2-alpine
    command: ["redis-server", "--requirepass", "hunter2"]
  telemetry:
    image: universal-telemetry
    container_name: daq-telemetry
    environment:
      REDIS_URL: redis://:hunter2@redis:6379
    healthcheck:
      test: ["CMD", "curl", "-H", "Authorization: hunter2", "http://localhost:9080/health?key=hunter2"]
  recorder:
    image: recorder
"#;

struct Here(tempfile::TempDir);

impl Here {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn written(&self) -> String {
        std::fs::read_to_string(self.0.path().join("defib.toml")).unwrap()
    }

    /// In this directory, with nothing of the test's environment: exit code, stdout and stderr.
    fn defib(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_defib"))
            .args(arguments)
            .current_dir(self.0.path())
            .env_clear()
            .env("HOME", self.0.path())
            .env("REDIS_PASSWORD", "hunter2")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    }

    fn init(&self, arguments: &[&str]) -> String {
        let (code, _, said) = self.defib(&[&["init"], arguments].concat());
        assert_eq!(code, Some(0), "{said}");
        let written = self.written();
        assert!(!written.contains("hunter2"), "{written}");
        assert!(written.contains("dry_run = true"), "{written}");
        let (code, _, said) = self.defib(&["check-config", "--config", "defib.toml"]);
        assert_eq!(code, Some(0), "{said}\n{written}");
        written
    }
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn what_runs_becomes_a_configuration_that_passes_its_check() {
    if !there() {
        return;
    }
    let Some(python) = Python::newest() else { return };
    let server = RedisServer::start();
    let port = server.port().to_string();
    let mut senders = [
        python.spawn(
            "sender.py",
            &[&port, "telemetry_heartbeat", "0.2", "can_messages"],
        ),
        python.spawn("sender.py", &[&port, "slow.alive", "1.5"]),
        // Whoever can publish can try to write our configuration.
        python.spawn("sender.py", &[&port, "x\"]\ndry_run = false\n#_heartbeat", "0.2"]),
        python.spawn("sender.py", &[&port, "${HOME} \"]' heartbeat", "0.2"]),
    ];
    senders.iter_mut().for_each(|sender| {
        sender.line();
    });
    let mut subscriber = python.spawn("subscriber.py", &[&port, "can_messages"]);
    subscriber.line();
    let here = Here::new();
    let compose = here.file("docker-compose.yml", COMPOSE);
    let written = here.init(&[
        "--redis",
        &server.url(),
        "--compose",
        path(&compose),
        "--listen",
        "5s",
    ]);
    for line in [
        "group = \"base-station\"",
        "[peer.telemetry]",
        "checks.heartbeat = { channel = \"telemetry_heartbeat\" }",
        "checks.http = { url = \"http://telemetry:9080/health\" }",
        "checks.heartbeat = { channel = \"slow.alive\", suspect_after = \"6s\", dead_after = \"12s\" }",
        "owner = { container = \"daq-telemetry\" }",
        "owner = { compose = \"base-station/recorder\" }",
    ] {
        assert!(
            written.lines().any(|found| found == line),
            "no {line} in\n{written}"
        );
    }
    for word in ["\"can_messages\": ", "subscribed to", "1 subscribed"] {
        assert!(written.contains(word), "no {word} in\n{written}");
    }
    assert!(!written.contains("\ndry_run = false"), "{written}");
    assert!(written.contains("$${HOME}"), "{written}");
    assert!(!written.lines().any(|line| line == "[peer.redis]"), "{written}");
}

#[test]
fn nothing_is_overwritten_unasked_and_nothing_needs_to_be_there() {
    let here = Here::new();
    let written = here.init(&["--listen", "100ms", "--no-docker"]);
    assert!(
        written.contains("no Redis was heard") || written.contains("Listened to"),
        "{written}"
    );
    let (code, _, said) = here.defib(&["init"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("--force"), "{said}");
    here.file("defib.toml", "precious");
    assert_eq!(
        here.defib(&["init", "--no-docker", "--redis", "redis://127.0.0.1:1", "--force"])
            .0,
        Some(1)
    );
    assert_eq!(here.written(), "precious", "what fails writes nothing");
    let compose = here.file("compose.yml", COMPOSE);
    here.init(&["--compose", path(&compose), "--force", "--group", "Other Group"]);
    assert!(here.written().contains("group = \"other-group\""));
    assert_eq!(
        std::fs::read_dir(here.0.path()).unwrap().count(),
        2,
        "no draft is left"
    );
    let (code, written, _) = here.defib(&["init", "--no-docker", "-o", "-"]);
    assert_eq!(code, Some(0));
    assert!(written.contains("dry_run = true"));
    let (code, _, said) = here.defib(&["init", "-o", "x.toml", "--compose", "defib.toml"]);
    assert_eq!(code, Some(1), "{said}");
}

/// Containers labelled as compose labels them, of an image made here.
#[test]
fn a_project_that_runs_is_taken_as_it_runs() {
    let docker = |arguments: &[&str]| {
        let output = Command::new("docker")
            .args(arguments)
            .stdin(Stdio::null())
            .output();
        output.is_ok_and(|output| output.status.success())
    };
    if !available(
        "Docker and busybox",
        docker(&["info"]) && Path::new("/bin/busybox").exists(),
    ) {
        return;
    }
    let project = format!("defib-init-{}", std::process::id());
    let here = Here::new();
    let archive = here.0.path().join("image.tar");
    let packed = Command::new("tar")
        .args(["-C", "/", "-cf", path(&archive), "bin/busybox"])
        .status();
    assert!(packed.unwrap().success());
    let image = format!("{project}:busybox");
    assert!(docker(&["import", path(&archive), &image]));
    let container = |service: &str| format!("{project}-{service}-1");
    for service in ["telemetry", "postgres"] {
        let of_project = format!("com.docker.compose.project={project}");
        let of_service = format!("com.docker.compose.service={service}");
        let tagged = format!("{project}/{service}:1");
        assert!(docker(&["tag", &image, &tagged]));
        let name = container(service);
        let labels = ["--label", &of_project, "--label", &of_service, "--name", &name];
        let command = [tagged.as_str(), "/bin/busybox", "sleep", "600"];
        assert!(docker(
            &[
                &["run", "--detach", "--network", "none"],
                &labels[..],
                &command[..]
            ]
            .concat()
        ));
    }
    let written = std::panic::catch_unwind(|| here.init(&["--project", &project, "--listen", "100ms"]));
    let (code, _, said) = here.defib(&["init", "--project", "no-such", "-o", "x.toml"]);
    for service in ["telemetry", "postgres"] {
        docker(&["rm", "--force", &container(service)]);
        docker(&["rmi", "--force", &format!("{project}/{service}:1")]);
    }
    docker(&["rmi", "--force", &image]);
    assert_eq!(code, Some(1), "{said}");
    let written = written.unwrap();
    for line in [
        format!("group = \"{project}\""),
        format!("owner = {{ compose = \"{project}/telemetry\" }}"),
        format!("owner = {{ compose = \"{project}/postgres\" }}"),
    ] {
        assert!(
            written.lines().any(|found| found == line),
            "no {line} in\n{written}"
        );
    }
    let remedies: Vec<&str> = written
        .lines()
        .filter(|line| line.starts_with("remedies"))
        .collect();
    assert!(
        remedies[0].contains("log") && remedies[1].contains("docker"),
        "{written}"
    );
}

/// The user and the place are written, the password's name alone; a server that refuses to tell is written around.
#[test]
fn a_password_is_referred_to_and_never_written() {
    if !there() {
        return;
    }
    let server = RedisServer::start();
    server.tell("ACL SETUSER alice on >hunter2 -@all +subscribe &defib:*");
    let here = Here::new();
    let url = server.url().replace("redis://", "redis://alice:hunter2@");
    let written = here.init(&["--no-docker", "--redis", &url, "--listen", "200ms"]);
    for line in ["user = \"alice\"", "password = { env = \"REDIS_PASSWORD\" }"] {
        assert!(
            written.lines().any(|found| found == line),
            "no {line} in\n{written}"
        );
    }
    assert!(written.contains("PSUBSCRIBE *: NOPERM"), "{written}");
    assert!(
        written.contains(&format!("url = \"{}\"", server.url())),
        "{written}"
    );
    let (code, _, said) = here.defib(&[
        "init",
        "--no-docker",
        "--force",
        "--redis",
        &url.replace("hunter2", "hunter3"),
    ]);
    assert_eq!(code, Some(1));
    assert!(said.contains("WRONGPASS") && !said.contains("hunter3"), "{said}");
}
