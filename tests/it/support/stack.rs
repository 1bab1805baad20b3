//! Compose projects, and images of this machine's own programs for them, since none can be pulled. Whatever a test made
//! is removed with its handle, or by the next test that makes images.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::docker::docker;
use super::python::Python;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
/// Then the pid of the test, and a number.
const PREFIX: &str = "defib-stack-";
/// What is left out of Python's standard library in an image.
const NOT_NEEDED: [&str; 9] = [
    "site-packages",
    "dist-packages",
    "test",
    "config-*",
    "ensurepip",
    "idlelib",
    "lib2to3",
    "pydoc_data",
    "*tkinter*",
];

/// True if containers can be made and run here.
pub(crate) fn usable() -> bool {
    let docker = output(Command::new("docker").arg("info"));
    let compose = output(Command::new("docker-compose").arg("version"));
    docker.status.success()
        && compose.status.success()
        && ["busybox", "redis-server", "redis-cli"]
            .iter()
            .all(|program| which(program).is_some())
}

/// Waits for what Docker tells of by no event.
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..600 {
        if is_so() {
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("waited in vain until {what}");
}

/// A file or folder of the project.
pub(crate) fn of_project(path: &str) -> PathBuf {
    Path::new(ROOT).join(path)
}

/// Images of this test's own, each imported in one piece: a build by a Dockerfile takes a second a step, and several on a
/// busy machine.
pub(crate) struct Images {
    name: String,
    files: tempfile::TempDir,
}

impl Images {
    /// Makes `root`: busybox, redis-server and redis-cli; with a Python, that, its packages, and deploy/compose/apps.
    pub(crate) fn make(python: Option<&Python>) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        remove_left_behind();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let images = Self {
            name: format!("{PREFIX}{}-{number}", std::process::id()),
            files: tempfile::tempdir().unwrap(),
        };
        let root = images.files.path().join("root");
        fill_root(&root);
        let parts = python.map(Python::parts);
        if let Some(parts) = &parts {
            parts.fill(&root);
        }
        let archive = images.pack(&root);
        if let Some(parts) = &parts {
            parts.append_to(&archive);
        }
        let path = "ENV PATH=/bin:/usr/local/bin PYTHONPATH=/opt/python";
        images.import("root", &archive, &[path, "USER 10001:10001"]);
        images
    }

    /// The image of that tag, once it was made.
    pub(crate) fn tag(&self, tag: &str) -> String {
        format!("{}:{tag}", self.name)
    }

    /// Makes `defib` as the project's Dockerfile does: the binary under test, and what it loads.
    pub(crate) fn make_defib(&self) {
        let root = self.runtime();
        for folder in ["usr/local/bin", "var/lib/defib", "run/defib"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        for folder in ["var/lib/defib", "run/defib"] {
            std::os::unix::fs::chown(root.join(folder), Some(65532), Some(65532)).unwrap();
        }
        fs::copy(env!("CARGO_BIN_EXE_defib"), root.join("usr/local/bin/defib")).unwrap();
        let dockerfile = fs::read_to_string(of_project("Dockerfile"))
            .unwrap()
            .replace("\\\n", "");
        let base = dockerfile
            .split("\n\n")
            .find(|stage| stage.contains(" AS base\n"))
            .unwrap();
        let settings: Vec<&str> = base
            .lines()
            // An import takes no STOPSIGNAL; it is Docker's own default.
            .filter(|line| {
                !["#", "FROM ", "STOPSIGNAL "]
                    .iter()
                    .any(|other| line.starts_with(other))
            })
            .collect();
        self.import("defib", &self.pack(&root), &settings);
    }

    /// Makes `defib` by the project's Dockerfile itself.
    pub(crate) fn build_defib(&self) {
        self.import("runtime", &self.pack(&self.runtime()), &[]);
        let context = self.files.path().join("context");
        fs::create_dir_all(context.join("state")).unwrap();
        fs::copy(env!("CARGO_BIN_EXE_defib"), context.join("defib")).unwrap();
        must(
            Command::new("docker")
                .args([
                    "build",
                    "--quiet",
                    "--target",
                    "prebuilt",
                    "--tag",
                    &self.tag("defib"),
                ])
                .args(["--build-arg", &format!("RUNTIME_IMAGE={}", self.tag("runtime"))])
                .args(["--file", text(&of_project("Dockerfile")), text(&context)]),
        );
    }

    /// What defib loads, in a folder.
    fn runtime(&self) -> PathBuf {
        let root = self.files.path().join("runtime");
        copy_libraries(&root, [Path::new(env!("CARGO_BIN_EXE_defib"))].into_iter());
        root
    }

    fn pack(&self, root: &Path) -> PathBuf {
        let archive = self.files.path().join("archive.tar");
        must(Command::new("tar").args(["-C", text(root), "-cf", text(&archive), "."]));
        archive
    }

    /// Each of `settings` as in a Dockerfile.
    fn import(&self, tag: &str, archive: &Path, settings: &[&str]) {
        let mut command = Command::new("docker");
        command.arg("import");
        for setting in settings {
            command.args(["--change", setting]);
        }
        must(command.args([text(archive), &self.tag(tag)]));
    }
}

impl Drop for Images {
    fn drop(&mut self) {
        remove_images(&self.name);
    }
}

/// A compose project of this test's own, made of a file of this project.
pub(crate) struct Stack {
    images: Images,
    files: Vec<PathBuf>,
    environment: Vec<(&'static str, String)>,
}

impl Stack {
    /// Starts nothing yet. `file` is below the project's root.
    pub(crate) fn new(images: Images, file: &str, environment: Vec<(&'static str, String)>) -> Self {
        Self {
            images,
            files: vec![of_project(file)],
            environment,
        }
    }

    /// Lays another compose file over the first.
    pub(crate) fn overlay(&mut self, content: &str) {
        let file = self.images.files.path().join("overlay.yml");
        fs::write(&file, content).unwrap();
        self.files.push(file);
    }

    fn command(&self) -> Command {
        let mut command = Command::new("docker-compose");
        command
            .args(["--project-name", &self.images.name])
            .envs(self.environment.clone());
        for file in &self.files {
            command.args(["--file", text(file)]);
        }
        command
    }

    /// `docker-compose ARGUMENTS…`, which must succeed; what it says.
    pub(crate) fn compose(&self, arguments: &[&str]) -> String {
        must(self.command().args(arguments))
    }

    /// The id of a service's container.
    pub(crate) fn container(&self, service: &str) -> String {
        let of_project = format!("label=com.docker.compose.project={}", self.images.name);
        let of_service = format!("label=com.docker.compose.service={service}");
        let all = ["ps", "--all", "--quiet", "--no-trunc"];
        docker(&[&all[..], &["--filter", &of_project, "--filter", &of_service]].concat())
    }

    /// What `docker inspect` says of a service's container.
    pub(crate) fn inspect(&self, service: &str, format: &str) -> String {
        docker(&["inspect", "--format", format, &self.container(service)])
    }

    /// Which life of a service's container this is.
    pub(crate) fn life(&self, service: &str) -> String {
        self.inspect(service, "{{.Id}} {{.State.StartedAt}}")
    }

    /// Runs a command in a service's container.
    pub(crate) fn exec(&self, service: &str, command: &[&str]) -> String {
        docker(&[&["exec", &self.container(service)], command].concat())
    }

    /// What it wrote since it was created.
    pub(crate) fn logs(&self, service: &str) -> String {
        let said = output(Command::new("docker").args(["logs", &self.container(service)]));
        String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).into_owned()
    }

    /// The port of this machine that leads to one of a service; it changes with each of the container's lives.
    pub(crate) fn port(&self, service: &str, port: u16) -> Option<u16> {
        let said = output(Command::new("docker").args(["port", &self.container(service), &port.to_string()]));
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        said.trim().rsplit(':').next()?.parse().ok()
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let logs = output(self.command().args(["logs", "--no-color", "--tail", "60"]));
            eprintln!("{}", String::from_utf8_lossy(&logs.stdout));
        }
        remove_project(&self.images.name);
    }
}

/// The answer to `GET path` on a port of this machine: its status and body.
pub(crate) fn get(port: u16, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    )
    .ok()?;
    let mut answer = Vec::new();
    stream.take(4 * 1024 * 1024).read_to_end(&mut answer).ok()?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

/// Ends and removes the containers, volumes and networks of a compose project.
fn remove_project(project: &str) {
    let label = format!("label=com.docker.compose.project={project}");
    for (list, remove) in [
        (&["ps", "--all"][..], &["rm", "--force", "--volumes"][..]),
        (&["volume", "ls"], &["volume", "rm"]),
        (&["network", "ls"], &["network", "rm"]),
    ] {
        let listed = output(
            Command::new("docker")
                .args(list)
                .args(["--quiet", "--filter", &label]),
        );
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        let ids: Vec<&str> = listed.split_whitespace().collect();
        if !ids.is_empty() {
            output(Command::new("docker").args(remove).args(ids));
        }
    }
}

fn remove_images(name: &str) {
    let listed =
        output(Command::new("docker").args(["images", name, "--format", "{{.Repository}}:{{.Tag}}"]));
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let images: Vec<&str> = listed.split_whitespace().collect();
    if !images.is_empty() {
        output(Command::new("docker").args(["rmi", "--force"]).args(images));
    }
}

/// A test that was killed could not remove what it made; the name says whose it was.
fn remove_left_behind() {
    for name in docker(&["images", "--format", "{{.Repository}}"]).lines() {
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            remove_project(name);
            remove_images(name);
        }
    }
}

/// A root file system of the host's own programs, and the libraries that they load.
pub(crate) fn fill_root(root: &Path) {
    for folder in [
        "bin",
        "tmp",
        "data",
        "etc",
        "usr/local/bin",
        "usr/local/lib",
        "opt",
    ] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    let programs = ["busybox", "redis-server", "redis-cli"].map(|program| which(program).unwrap());
    for program in &programs {
        fs::copy(program, root.join("bin").join(program.file_name().unwrap())).unwrap();
    }
    for applet in [
        "sh", "cat", "date", "kill", "ls", "pidof", "sleep", "test", "touch", "rm", "true", "false",
    ] {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    copy_libraries(root, programs.iter().map(PathBuf::as_path));
}

/// What is needed of a Python for an image.
struct Parts {
    interpreter: PathBuf,
    library: PathBuf,
    packages: PathBuf,
}

impl Python {
    fn parts(&self) -> Parts {
        let script = "import os, sys, sysconfig as c\n\
            print(os.path.realpath(sys.executable), c.get_path('stdlib'), c.get_path('purelib'))";
        let said = self.says(script);
        let mut paths = said.split_whitespace().map(PathBuf::from);
        let mut next = || paths.next().unwrap();
        Parts {
            interpreter: next(),
            library: next(),
            packages: next(),
        }
    }
}

impl Parts {
    /// The interpreter, where it finds its library, and what both load.
    fn fill(&self, root: &Path) {
        fs::copy(&self.interpreter, root.join("usr/local/bin/python3")).unwrap();
        let modules = fs::read_dir(self.library.join("lib-dynload")).unwrap();
        let modules: Vec<PathBuf> = modules
            .map(|entry| entry.unwrap().path())
            .filter(|path| !text(path).contains("tkinter"))
            .collect();
        let modules = modules.iter().map(PathBuf::as_path);
        copy_libraries(root, modules.chain([&*self.interpreter]));
    }

    /// What needs no change goes straight from the host into the image.
    fn append_to(&self, archive: &Path) {
        let append = |folder: &Path, to: &str, members: &[&str]| {
            must(
                Command::new("tar")
                    .args(["-rf", text(archive), "--transform", &format!("s,^,{to}/,")])
                    .args(NOT_NEEDED.map(|name| format!("--exclude={name}")))
                    .args(["-C", text(folder)])
                    .args(members),
            );
        };
        let (home, version) = (self.library.parent(), self.library.file_name());
        append(
            home.unwrap(),
            "usr/local/lib",
            &[text(Path::new(version.unwrap()))],
        );
        append(&self.packages, "opt/python", &["redis", "websockets"]);
        append(&of_project("deploy/compose"), ".", &["apps"]);
    }
}

fn copy_libraries<'a>(root: &Path, programs: impl Iterator<Item = &'a Path>) {
    // It refuses a static program, and tells of the others.
    let said = output(Command::new("ldd").args(programs));
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let paths = said
        .split_whitespace()
        .filter(|word| word.starts_with('/') && !word.ends_with(':'));
    for library in paths {
        let copy = root.join(library.trim_start_matches('/'));
        if !copy.exists() {
            fs::create_dir_all(copy.parent().unwrap()).unwrap();
            fs::copy(library, &copy).unwrap();
        }
    }
}

fn which(program: &str) -> Option<PathBuf> {
    let folders = std::env::var_os("PATH")?;
    std::env::split_paths(&folders)
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
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
    command.output().unwrap_or_else(|error| Output {
        // A program that is missing has failed; `usable` asks so.
        status: <ExitStatus as std::os::unix::process::ExitStatusExt>::from_raw(127 << 8),
        stdout: Vec::new(),
        stderr: error.to_string().into_bytes(),
    })
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
