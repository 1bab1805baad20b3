//! The real binary, as a user runs it; asked over its own endpoints.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use defib::engine::peer::Liveness;
use defib::engine::persist::{Persisted, VERSION};
use defib::engine::self_trust::BusState;
use defib::engine::snapshot::{PeerView, Snapshot};
use defib::http::Status;
use defib::runtime::clock;
use defib::store::{Record, Store};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::until;

/// No test waits longer for anything.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running `defib run`, with everything it writes below a directory of its own. It is killed with its handle.
pub(crate) struct Node {
    child: Child,
    dir: tempfile::TempDir,
    manager: UnixDatagram,
    words: Vec<String>,
    /// Its network is another than the test's: it is asked over the admin socket, which answers the same.
    apart: bool,
}

impl Node {
    /// `WRAPPER… defib run ARGUMENTS… --set SETTING…`
    pub(crate) fn start(wrapper: &[&str], settings: &[&str], arguments: &[&str]) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), wrapper, settings, arguments)
    }

    /// With this file; it listens on a free port, and is up when this returns.
    pub(crate) fn run(config: &str) -> Self {
        Self::run_with(&[], config)
    }

    /// The same as the child of a command.
    pub(crate) fn run_with(wrapper: &[&str], config: &str) -> Self {
        Self::run_in(tempfile::tempdir().unwrap(), wrapper, config)
    }

    fn run_in(dir: tempfile::TempDir, wrapper: &[&str], config: &str) -> Self {
        let file = dir.path().join("defib.toml");
        std::fs::write(&file, config).unwrap();
        seem_experienced(dir.path());
        let file = file.to_str().unwrap().to_owned();
        let node = Self::start_in(
            dir,
            wrapper,
            &["http.listen=\"127.0.0.1:0\""],
            &["--config", &file],
        );
        node.told("READY=1");
        node
    }

    /// The same, in a network namespace (`ip netns exec …`).
    pub(crate) fn run_apart(wrapper: &[&str], config: &str) -> Self {
        let mut node = Self::run_with(wrapper, config);
        node.apart = true;
        node
    }

    /// The same, where only what is below `parent` can be written to.
    pub(crate) fn run_apart_below(parent: &Path, wrapper: &[&str], config: &str) -> Self {
        let mut node = Self::run_in(tempfile::tempdir_in(parent).unwrap(), wrapper, config);
        node.apart = true;
        node
    }

    fn start_in(dir: tempfile::TempDir, wrapper: &[&str], settings: &[&str], arguments: &[&str]) -> Self {
        let manager = UnixDatagram::bind(dir.path().join("notify")).unwrap();
        manager.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut words: Vec<&str> = wrapper.to_vec();
        words.extend([env!("CARGO_BIN_EXE_defib"), "run"]);
        words.extend(arguments);
        for setting in settings {
            words.extend(["--set", setting]);
        }
        let words: Vec<String> = words.into_iter().map(str::to_owned).collect();
        Self {
            child: spawn(dir.path(), &words),
            dir,
            manager,
            words,
            apart: false,
        }
    }

    /// Once it has ended: the same again, on what it left.
    pub(crate) fn start_again(&mut self) {
        self.child = spawn(self.dir.path(), &self.words);
        self.told("READY=1");
    }

    /// Its process id, or that of the command whose child it is.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything it writes is here.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The next message to its service manager that begins so.
    pub(crate) fn told(&self, beginning: &str) -> String {
        let mut bytes = [0; 4096];
        loop {
            let Ok(len) = self.manager.recv(&mut bytes) else {
                panic!("no {beginning} came; the log:\n{}", self.log());
            };
            let text = String::from_utf8_lossy(&bytes[..len]).into_owned();
            if text.starts_with(beginning) {
                return text;
            }
        }
    }

    /// What it logged since its last start.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Waits until the log says so.
    pub(crate) fn logs(&self, text: &str) {
        for _ in 0..3000 {
            if self.log().contains(text) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("the log does not say {text:?}:\n{}", self.log());
    }

    /// The address in the line that announces the node.
    pub(crate) fn http(&self) -> SocketAddr {
        for _ in 0..3000 {
            let log = self.log();
            if let Some((_, rest)) = log.split_once("http://") {
                let end = rest.find(|c: char| !(c.is_ascii_digit() || ".:".contains(c)));
                if let Some(address) = end.and_then(|end| rest[..end].parse().ok()) {
                    return address;
                }
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("no address in the log:\n{}", self.log());
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for its end.
    pub(crate) fn exit_code(&mut self) -> Option<i32> {
        for _ in 0..3000 {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("it does not end; the log:\n{}", self.log());
    }

    /// Status and body of a GET; `None` if nothing answers.
    pub(crate) fn try_get(&self, path: &str) -> Option<(u16, String)> {
        if self.apart {
            ask(
                UnixStream::connect(self.dir.path().join("admin.sock")).ok()?,
                path,
            )
        } else {
            ask(TcpStream::connect(self.http()).ok()?, path)
        }
    }

    /// Status and body of a GET.
    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        self.try_get(path)
            .unwrap_or_else(|| panic!("{path} is not answered; the log:\n{}", self.log()))
    }

    /// The status of a GET.
    pub(crate) fn code(&self, path: &str) -> u16 {
        self.get(path).0
    }

    /// What the engine knows.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let mut snapshot = None;
        until("the engine has run", || {
            let status: Status = serde_json::from_str(&self.get("/api/v1/status").1).unwrap();
            snapshot = status.snapshot;
            snapshot.is_some()
        });
        Arc::unwrap_or_clone(snapshot.unwrap())
    }

    /// What it knows of one peer.
    pub(crate) fn peer(&self, name: &str) -> PeerView {
        let peers = self.snapshot().peers;
        peers.into_iter().find(|peer| &*peer.name == name).unwrap()
    }

    /// Waits until the snapshot is so.
    pub(crate) fn sees(&self, what: &str, mut is_so: impl FnMut(&Snapshot) -> bool) {
        for _ in 0..600 {
            if is_so(&self.snapshot()) {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("waited in vain until {what}; the log:\n{}", self.log());
    }

    /// Waits until the bus is trusted, nothing settles, and every peer is alive without an episode.
    pub(crate) fn is_calm(&self) {
        self.sees("the node is calm", is_calm);
    }

    /// A series of `/metrics`, written as there; 0 if it is not there.
    pub(crate) fn metric(&self, series: &str) -> f64 {
        let text = self.get("/metrics").1;
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.parse().unwrap())
    }

    /// The same, rounded: counters and gauges are whole numbers.
    #[allow(clippy::cast_possible_truncation, reason = "a count")]
    pub(crate) fn count(&self, series: &str) -> i64 {
        self.metric(series).round() as i64
    }

    /// A request on the admin socket, with a body unless it is null: status and answer.
    pub(crate) fn request(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let mut stream = UnixStream::connect(self.dir.path().join("admin.sock")).unwrap();
        stream.bound();
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let length = body.len();
        write!(
            stream,
            "{method} {path} HTTP/1.0\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{body}"
        )
        .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, serde_json::from_str(body).unwrap())
    }

    /// Server-sent events of the admin socket from now on, the first included.
    pub(crate) fn follow(&self, path: &str) -> Events {
        let stream = UnixStream::connect(self.dir.path().join("admin.sock")).unwrap();
        Events::read(stream, path, "data:")
    }

    /// Every event from now on.
    pub(crate) fn events(&self) -> Events {
        Events::follow(self)
    }

    /// `defib ARGUMENTS…` against this node's public listener: exit code and what it said.
    pub(crate) fn tool(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let url = format!("http://{}", self.http());
        defib(&[arguments, &["--url", &url]].concat())
    }

    /// The same against its admin socket.
    pub(crate) fn admin(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let socket = self.dir.path().join("admin.sock");
        defib(&[arguments, &["--admin-socket", socket.to_str().unwrap()]].concat())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the node's log:\n{}", self.log());
        }
    }
}

/// What a node tells on `/api/v1/events`.
pub(crate) struct Events(Arc<Mutex<Vec<Value>>>);

impl Events {
    fn follow(node: &Node) -> Self {
        if node.apart {
            let stream = UnixStream::connect(node.dir.path().join("admin.sock")).unwrap();
            Self::read(stream, "/api/v1/events", ":")
        } else {
            Self::read(TcpStream::connect(node.http()).unwrap(), "/api/v1/events", ":")
        }
    }

    /// `first`: what the first line begins with that comes once the node tells.
    fn read(mut stream: impl Read + Write + Send + 'static, path: &str, first: &str) -> Self {
        write!(stream, "GET {path} HTTP/1.0\r\nHost: x\r\n\r\n").unwrap();
        let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
        let first = lines.find(|line| line.starts_with(first)).unwrap();
        let json = |line: &str| Some(serde_json::from_str(line.strip_prefix("data:")?).unwrap());
        let seen: Arc<Mutex<Vec<Value>>> = Arc::new(Mutex::new(json(&first).into_iter().collect()));
        let told = Arc::clone(&seen);
        // Ends with the node.
        std::thread::spawn(move || {
            for line in lines {
                told.lock().unwrap().extend(json(&line));
            }
        });
        Self(seen)
    }

    fn seen(&self) -> MutexGuard<'_, Vec<Value>> {
        self.0.lock().unwrap()
    }

    /// All so far.
    pub(crate) fn all(&self) -> Vec<Value> {
        self.seen().clone()
    }

    /// Those of this name, of anybody.
    pub(crate) fn named(&self, event: &str) -> Vec<Value> {
        let mut all = self.all();
        all.retain(|notice| notice["event"] == event);
        all
    }

    /// Waits for one like this; it may have come already.
    pub(crate) fn one(&self, what: &str, mut is_it: impl FnMut(&Value) -> bool) -> Value {
        for _ in 0..3000 {
            if let Some(notice) = self.seen().iter().find(|notice| is_it(notice)) {
                return notice.clone();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("no event tells that {what}: {:#?}", self.all());
    }

    /// Waits for an event of this name about this peer.
    pub(crate) fn of(&self, peer: &str, event: &str) -> Value {
        self.one(&format!("{event} of {peer}"), |notice| {
            notice["peer"] == peer && notice["event"] == event
        })
    }

    /// Waits until the bus was told to be in this state.
    pub(crate) fn bus(&self, state: &str) -> Value {
        self.one(&format!("the bus is {state}"), |notice| {
            notice["event"] == "bus" && notice["state"] == state
        })
    }

    /// Nobody was suspected or condemned, and nothing was done or about to be done to anybody.
    pub(crate) fn blame_nobody(&self) {
        for notice in self.all() {
            let blames = matches!(notice["to"].as_str(), Some("suspect" | "dead"));
            let acts = matches!(notice["event"].as_str(), Some("granted" | "would_heal" | "acted"));
            assert!(!blames && !acts, "{notice:#}\nof {:#?}", self.all());
        }
    }
}

/// `defib ARGUMENTS…`: exit code, and stdout followed by stderr.
pub(crate) fn defib(arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_defib"))
        .args(arguments)
        .env("NO_COLOR", "1")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&said).into_owned())
}

/// A node without a store grants each peer one restart in its first ten minutes. This one ran before.
pub(crate) fn seem_experienced(dir: &Path) {
    let now = clock::stamp(clock::boot_id());
    let (mut store, _) = Store::open(&dir.join("state.json"), &now).unwrap();
    let state = Persisted {
        version: VERSION,
        ..Persisted::default()
    };
    store.write(&Record { written: now, state }).unwrap();
}

fn spawn(dir: &Path, words: &[String]) -> Child {
    Command::new(&words[0])
        .args(&words[1..])
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("STATE_DIRECTORY", dir)
        .env("RUNTIME_DIRECTORY", dir)
        .env("NOTIFY_SOCKET", dir.join("notify"))
        .env("NO_COLOR", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(dir.join("log")).unwrap())
        .spawn()
        .unwrap()
}

trait Timed {
    fn bound(&self);
}

impl Timed for TcpStream {
    fn bound(&self) {
        self.set_read_timeout(Some(PATIENCE)).unwrap();
    }
}

impl Timed for UnixStream {
    fn bound(&self) {
        self.set_read_timeout(Some(PATIENCE)).unwrap();
    }
}

fn ask(mut stream: impl Read + Write + Timed, path: &str) -> Option<(u16, String)> {
    stream.bound();
    write!(stream, "GET {path} HTTP/1.0\r\nHost: x\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

/// The bus is trusted, nothing settles, and every peer is alive without an episode.
pub(crate) fn is_calm(snapshot: &Snapshot) -> bool {
    let trust = &snapshot.trust;
    trust.bus == BusState::Trusted
        && trust.settling_until.is_none_or(|until| until <= snapshot.at)
        && snapshot
            .peers
            .iter()
            .all(|peer| peer.liveness == Liveness::Alive && peer.episode.is_none())
}

/// Status and body of a GET of a node's public listener.
pub(crate) fn get(address: SocketAddr, path: &str) -> (u16, String) {
    ask(TcpStream::connect(address).unwrap(), path).unwrap()
}
