//! Containers of the real Docker engine, from an image made of the host's busybox. Each test has names of its own.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::{available, until};

/// Where the engine listens.
pub(crate) const SOCKET: &str = "/var/run/docker.sock";
const LABEL: &str = "defib-it";

/// One test's part of the engine. Its containers and its image go with it.
pub(crate) struct Engine {
    name: String,
}

impl Engine {
    /// `None`, and said so, if this machine has none.
    pub(crate) fn start() -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let there = docker_says(&["info"]).is_some() && busybox().is_some() && super::redis_server::there();
        if !available("Docker, busybox and redis-server", there) {
            return None;
        }
        remove_left_behind();
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let engine = Self {
            name: format!("defib-it-{}-{count}", std::process::id()),
        };
        engine.make_image();
        Some(engine)
    }

    fn make_image(&self) {
        let root = tempfile::tempdir().unwrap();
        super::stack::fill_root(&root.path().join("root"));
        let archive = root.path().join("root.tar");
        let tar = Command::new("tar")
            .args([
                "-C",
                root.path().join("root").to_str().unwrap(),
                "-cf",
                archive.to_str().unwrap(),
                ".",
            ])
            .status()
            .unwrap();
        assert!(tar.success());
        docker(&[
            "import",
            "--change",
            "ENV PATH=/bin",
            archive.to_str().unwrap(),
            &self.image(),
        ]);
    }

    fn image(&self) -> String {
        format!("{}:bb", self.name)
    }

    /// The whole name of a container.
    pub(crate) fn called(&self, name: &str) -> String {
        format!("{}-{name}", self.name)
    }

    /// `docker run -d --name … OPTIONS IMAGE sh -c SCRIPT`
    pub(crate) fn run(&self, name: &str, options: &[&str], script: &str) -> Container {
        let label = format!("{LABEL}={}", std::process::id());
        let whole = self.called(name);
        let image = self.image();
        let fixed = [
            "run",
            "-d",
            "--label",
            &label,
            "--stop-timeout",
            "1",
            "--name",
            &whole,
        ];
        docker(&[&fixed, options, &[&image, "sh", "-c", script]].concat());
        Container(whole)
    }

    /// One that does nothing until it is told to end.
    pub(crate) fn idle(&self, name: &str, options: &[&str]) -> Container {
        self.run(name, options, IDLE)
    }
}

/// Ends at once on SIGTERM.
pub(crate) const IDLE: &str = "trap 'exit 0' TERM; while :; do sleep 600 & wait; done";

impl Drop for Engine {
    fn drop(&mut self) {
        remove(&format!("name={}-", self.name));
        docker_says(&["rmi", "--force", &self.image()]);
    }
}

/// A container, by its name: what is asked of it is asked of whichever has that name now.
pub(crate) struct Container(pub(crate) String);

impl Container {
    pub(crate) fn inspect(&self, format: &str) -> String {
        docker(&["inspect", "--format", format, &self.0])
    }

    /// Which life it is.
    pub(crate) fn started_at(&self) -> String {
        self.inspect("{{.State.StartedAt}}")
    }

    pub(crate) fn is_running(&self) -> bool {
        self.inspect("{{.State.Status}}") == "running"
    }

    /// Its first process is killed from outside of Docker, as the kernel or a bug would.
    pub(crate) fn crash(&self) {
        assert!(self.crash_if_it_runs(), "{} does not run", self.0);
    }

    /// The same of one that somebody else may end or start at any time; false if there was nothing to kill.
    pub(crate) fn crash_if_it_runs(&self) -> bool {
        use rustix::process::{Pid, Signal, kill_process};
        // 0 between two lives.
        let pid = Pid::from_raw(self.inspect("{{.State.Pid}}").parse().unwrap());
        pid.is_some_and(|pid| kill_process(pid, Signal::KILL).is_ok())
    }

    pub(crate) fn docker(&self, command: &str) {
        docker(&[command, &self.0]);
    }

    pub(crate) fn exec(&self, words: &[&str]) {
        docker(&[&["exec", &self.0], words].concat());
    }
}

/// What the command says; it must succeed.
pub(crate) fn docker(arguments: &[&str]) -> String {
    docker_says(arguments).unwrap_or_else(|| panic!("docker {arguments:?} failed"))
}

fn docker_says(arguments: &[&str]) -> Option<String> {
    let output = Command::new("docker")
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .ok()?;
    if !output.status.success() {
        eprintln!(
            "docker {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        return None;
    }
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn busybox() -> Option<PathBuf> {
    ["/bin/busybox", "/usr/bin/busybox"]
        .into_iter()
        .map(PathBuf::from)
        .find(|path| path.is_file())
}

fn remove(filter: &str) {
    let all = docker_says(&["ps", "-aq", "--filter", filter]).unwrap_or_default();
    let ids: Vec<&str> = all.lines().collect();
    if !ids.is_empty() {
        docker_says(&[&["rm", "-f", "-v"], ids.as_slice()].concat());
    }
}

/// A test that was killed could not remove its containers; their label says whose they were.
fn remove_left_behind() {
    let format = format!("{{{{.Label \"{LABEL}\"}}}}");
    let all = docker_says(&[
        "ps",
        "-a",
        "--filter",
        &format!("label={LABEL}"),
        "--format",
        &format,
    ]);
    for pid in all.unwrap_or_default().lines() {
        if !Path::new("/proc").join(pid).exists() {
            remove(&format!("label={LABEL}={pid}"));
        }
    }
}

/// The engine's socket behind another one, which can be made to fail.
pub(crate) struct Gate {
    pub(crate) socket: PathBuf,
    mode: Arc<AtomicU8>,
    acts: Arc<AtomicU8>,
    open: Arc<Mutex<Vec<UnixStream>>>,
    _dir: tempfile::TempDir,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Mode {
    Pass,
    /// Takes connections and says nothing.
    Hang,
    /// Takes connections and closes them.
    Close,
    /// Answers 500.
    Broken,
}

/// What becomes of a remedy's own requests, while all others pass.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Acts {
    Pass,
    /// The one between a remedy's first look and its last (who shares the network?) waits.
    Wait,
    /// A restart is answered by 500, and not done.
    Broken,
    /// A restart is answered by nothing, and not done.
    Hang,
}

impl Gate {
    pub(crate) fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("docker.sock");
        let gate = Self {
            socket,
            mode: Arc::default(),
            acts: Arc::default(),
            open: Arc::default(),
            _dir: dir,
        };
        gate.listen();
        gate
    }

    /// `unix://…`
    pub(crate) fn host(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// From now on, for connections that stand, too.
    pub(crate) fn set(&self, mode: Mode) {
        self.mode.store(mode as u8, Ordering::SeqCst);
        for stream in self.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }

    /// From now on, for requests that wait, too.
    pub(crate) fn acts(&self, acts: Acts) {
        self.acts.store(acts as u8, Ordering::SeqCst);
    }

    /// The socket is gone.
    pub(crate) fn vanish(&self) {
        std::fs::remove_file(&self.socket).unwrap();
        self.set(Mode::Pass);
    }

    /// The socket is there again.
    pub(crate) fn listen(&self) {
        let listener = UnixListener::bind(&self.socket).unwrap();
        let (mode, open) = (Arc::clone(&self.mode), Arc::clone(&self.open));
        let acts = Arc::clone(&self.acts);
        // Ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let mode = mode.load(Ordering::SeqCst);
                let mut open = open.lock().unwrap();
                if mode == Mode::Close as u8 {
                    continue;
                }
                open.push(stream.try_clone().unwrap());
                if mode == Mode::Broken as u8 {
                    std::thread::spawn(move || answer_500(stream));
                } else if mode == Mode::Pass as u8 {
                    let upstream = UnixStream::connect(SOCKET).unwrap();
                    open.push(upstream.try_clone().unwrap());
                    let acts = Arc::clone(&acts);
                    std::thread::spawn(move || pass(stream, &upstream, &acts));
                }
            }
        });
    }
}

/// Passes a connection on, by what it asks first: defib has one for each request.
fn pass(mut stream: UnixStream, mut upstream: &UnixStream, acts: &AtomicU8) {
    let mut request = [0; 4096];
    let Ok(read) = stream.read(&mut request) else {
        return;
    };
    let text = String::from_utf8_lossy(&request[..read]).into_owned();
    let is = |which: Acts| acts.load(Ordering::SeqCst) == which as u8;
    if text.contains("/containers/json?") && !text.contains("filters=") {
        while is(Acts::Wait) {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    if text.starts_with("POST ") && is(Acts::Hang) {
        return std::mem::forget(stream);
    }
    if text.starts_with("POST ") && is(Acts::Broken) {
        return answer_500_to(&mut stream);
    }
    if upstream.write_all(&request[..read]).is_ok() {
        copy(&stream, upstream);
        copy(upstream, &stream);
    }
}

fn copy(from: &UnixStream, to: &UnixStream) {
    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(std::net::Shutdown::Write);
    });
}

fn answer_500(mut stream: UnixStream) {
    let mut request = [0; 4096];
    while stream.read(&mut request).is_ok_and(|read| read > 0) {
        answer_500_to(&mut stream);
    }
}

fn answer_500_to(stream: &mut UnixStream) {
    let body = r#"{"message":"out of order"}"#;
    let head = "HTTP/1.1 500 Internal Server Error\r\nContent-Type: application/json\r\nContent-Length";
    // Who does not listen any more is told nothing.
    let _ = write!(stream, "{head}: {}\r\n\r\n{body}", body.len());
}

/// Waits until a container has begun another life.
pub(crate) fn lives_anew(container: &Container, before: &str) {
    until("the container lives anew", || {
        std::thread::sleep(Duration::from_millis(50));
        // In one look: between two it may have ended.
        let now = container.inspect("{{.State.Status}} {{.State.StartedAt}}");
        now.strip_prefix("running ")
            .is_some_and(|started| started != before)
    });
}
