//! The image and docker-compose.yml, brought up for real. No image can be pulled here, so they are made of what the
//! host has: a root with busybox, redis-server and redis-cli, and upon it the binary under test.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use crate::support::available;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const PREFIX: &str = "defib-it-";
const SERVICES: [&str; 4] = ["redis", "publisher", "subscriber", "node"];

#[test]
fn compose_comes_up_with_local_images_and_the_node_survives_its_namespace() {
    if !available("Docker with docker-compose, redis-server and busybox", usable()) {
        return;
    }
    let stack = Stack::new();
    stack.make_images();
    stack.compose(&["config", "--quiet"]);
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
    let port: u16 = stack
        .compose(&["port", "subscriber", "7337"])
        .rsplit(':')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    until("the node is ready", || get(port, "/readyz") == Some(200));
    until("Docker calls the node healthy", || {
        stack.inspect("node", "{{.State.Health.Status}}") == "healthy"
    });
    until("the publisher is seen", || {
        get(port, "/startupz/publisher") == Some(200)
    });

    // The application ends, Docker restarts it in a new network namespace, and the node must follow (scenario 39).
    stack.exec("subscriber", &["sh", "-c", "kill -9 $(pidof redis-cli)"]);
    until("Docker restarts the subscriber", || {
        stack.inspect("subscriber", "{{.RestartCount}}") != "0"
    });
    until("the node leaves the dead namespace", || {
        stack.inspect("node", "{{.RestartCount}}") != "0"
    });
    let port: u16 = stack
        .compose(&["port", "subscriber", "7337"])
        .rsplit(':')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    until("the node is ready again", || get(port, "/readyz") == Some(200));
}

#[test]
fn every_image_is_a_variable_and_nothing_runs_as_root_in_ours() {
    let compose = fs::read_to_string(Path::new(ROOT).join("docker-compose.yml")).unwrap();
    for line in compose
        .lines()
        .filter(|line| line.trim_start().starts_with("image:"))
    {
        assert!(line.contains("_IMAGE:-"), "not a variable: {line}");
    }
    let dockerfile = fs::read_to_string(Path::new(ROOT).join("Dockerfile")).unwrap();
    assert!(dockerfile.contains("\nUSER 65532:65532\n"));
    for base in dockerfile.lines().filter_map(|line| line.strip_prefix("FROM ")) {
        assert!(
            base.starts_with("${") || base.starts_with("base"),
            "not a build argument: {base}"
        );
    }
}

/// A compose project of this test's own. Everything that it made is removed when it is dropped.
struct Stack {
    project: String,
    files: tempfile::TempDir,
}

impl Stack {
    fn new() -> Self {
        remove_left_behind();
        Self {
            project: format!("{PREFIX}{}", std::process::id()),
            files: tempfile::tempdir().unwrap(),
        }
    }

    /// `…:root`, the host's programs; `…:defib`, the binary under test upon them.
    fn make_images(&self) {
        let root = self.files.path().join("root");
        let defib = Path::new(env!("CARGO_BIN_EXE_defib"));
        fill_root(&root, defib);
        let archive = self.files.path().join("root.tar");
        run("tar", &["-C", text(&root), "-cf", text(&archive), "."]);
        let path = "ENV PATH=/bin:/usr/local/bin";
        run(
            "docker",
            &["import", "--change", path, text(&archive), &self.image("root")],
        );

        let context = self.files.path().join("context");
        fs::create_dir_all(context.join("state")).unwrap();
        fs::copy(defib, context.join("defib")).unwrap();
        let dockerfile = Path::new(ROOT).join("Dockerfile");
        let base = format!("RUNTIME_IMAGE={}", self.image("root"));
        run(
            "docker",
            &[
                "build",
                "--quiet",
                "--target",
                "prebuilt",
                "--build-arg",
                &base,
                "--tag",
                &self.image("defib"),
                "--file",
                text(&dockerfile),
                text(&context),
            ],
        );
    }

    fn image(&self, tag: &str) -> String {
        format!("{}:{tag}", self.project)
    }

    fn compose_command(&self) -> Command {
        let mut command = compose_of(&self.project);
        for service in ["REDIS_IMAGE", "PUBLISHER_IMAGE", "SUBSCRIBER_IMAGE"] {
            command.env(service, self.image("root"));
        }
        command
            .env("DEFIB_IMAGE", self.image("defib"))
            .env("DEFIB_PORT", "");
        command
    }

    fn compose(&self, arguments: &[&str]) -> String {
        must(self.compose_command().args(arguments))
    }

    fn container(&self, service: &str) -> String {
        let of_project = format!("label=com.docker.compose.project={}", self.project);
        let of_service = format!("label=com.docker.compose.service={service}");
        run(
            "docker",
            &[
                "ps",
                "--all",
                "--quiet",
                "--no-trunc",
                "--filter",
                &of_project,
                "--filter",
                &of_service,
            ],
        )
    }

    fn inspect(&self, service: &str, format: &str) -> String {
        run(
            "docker",
            &["inspect", "--format", format, &self.container(service)],
        )
    }

    fn exec(&self, service: &str, command: &[&str]) -> String {
        run("docker", &[&["exec", &self.container(service)], command].concat())
    }

    fn logs(&self, service: &str) -> String {
        run("docker", &["logs", &self.container(service)])
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for service in SERVICES {
                let logs =
                    output(
                        self.compose_command()
                            .args(["logs", "--no-color", "--tail", "40", service]),
                    );
                eprintln!("{}", String::from_utf8_lossy(&logs.stdout));
            }
        }
        remove(&self.project);
    }
}

/// Ends and removes the containers, networks, volumes and images of `project`.
fn remove(project: &str) {
    output(compose_of(project).args(["down", "--volumes", "--remove-orphans", "--timeout", "1"]));
    for tag in ["defib", "root"] {
        output(Command::new("docker").args(["rmi", "--force", &format!("{project}:{tag}")]));
    }
}

/// A test that was killed could not remove its project; the project's name says whose it was.
fn remove_left_behind() {
    let images = run("docker", &["images", "--format", "{{.Repository}}"]);
    for project in images.lines() {
        let owner = project.strip_prefix(PREFIX);
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            remove(project);
        }
    }
}

fn compose_of(project: &str) -> Command {
    let file = Path::new(ROOT).join("docker-compose.yml");
    let mut command = Command::new("docker-compose");
    command.args([
        "--project-name",
        project,
        "--file",
        text(&file),
        "--project-directory",
        ROOT,
    ]);
    command
}

fn usable() -> bool {
    let docker = output(Command::new("docker").arg("info"));
    let compose = output(Command::new("docker-compose").arg("version"));
    docker.status.success()
        && compose.status.success()
        && ["busybox", "redis-server", "redis-cli"]
            .iter()
            .all(|program| which(program).is_some())
}

/// A root file system of the host's own programs, and the libraries that they and `binary` load.
pub(crate) fn fill_root(root: &Path, binary: &Path) {
    for folder in ["bin", "tmp", "data", "etc"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    let busybox = which("busybox").unwrap();
    let redis = ["redis-server", "redis-cli"].map(|program| which(program).unwrap());
    for program in [&busybox].into_iter().chain(&redis) {
        fs::copy(program, root.join("bin").join(program.file_name().unwrap())).unwrap();
    }
    for applet in [
        "sh", "cat", "date", "kill", "ls", "pidof", "sleep", "test", "touch", "rm", "true", "false",
    ] {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    for program in redis.iter().map(PathBuf::as_path).chain([binary]) {
        for library in libraries(program) {
            let copy = root.join(library.strip_prefix("/").unwrap());
            fs::create_dir_all(copy.parent().unwrap()).unwrap();
            fs::copy(&library, &copy).unwrap();
        }
    }
}

/// The paths in what `ldd` says; none for a static program, which it refuses.
fn libraries(program: &Path) -> Vec<PathBuf> {
    let said = output(Command::new("ldd").arg(program));
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    said.split_whitespace()
        .filter(|word| word.starts_with('/'))
        .map(PathBuf::from)
        .collect()
}

fn which(program: &str) -> Option<PathBuf> {
    let folders = std::env::var_os("PATH")?;
    std::env::split_paths(&folders)
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
}

/// The status with which `path` is answered.
fn get(port: u16, path: &str) -> Option<u16> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    )
    .ok()?;
    let mut answer = Vec::new();
    stream.take(64 * 1024).read_to_end(&mut answer).ok()?;
    String::from_utf8_lossy(&answer)
        .split_whitespace()
        .nth(1)?
        .parse()
        .ok()
}

/// Waits for `condition`; Docker tells of none of these by an event.
fn until(what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..300 {
        if condition() {
            return;
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    panic!("waited in vain until {what}");
}

fn run(program: &str, arguments: &[&str]) -> String {
    must(Command::new(program).args(arguments))
}

fn must(command: &mut Command) -> String {
    let output = output(command);
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    assert!(
        output.status.success(),
        "{command:?}: {said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    said
}

fn output(command: &mut Command) -> Output {
    // The classic builder: the engine's own, where the BuildKit client is not installed.
    command.env("DOCKER_BUILDKIT", "0").stdin(Stdio::null());
    match command.output() {
        Ok(output) => output,
        Err(error) => {
            // A program that is missing has failed; `usable` asks so.
            let failed = std::os::unix::process::ExitStatusExt::from_raw(127 << 8);
            Output {
                status: failed,
                stdout: Vec::new(),
                stderr: error.to_string().into_bytes(),
            }
        }
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
