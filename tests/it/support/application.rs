//! Applications that know nothing of defib: processes that a remedy can start again, and small HTTP servers.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use super::until;

/// What a process runs that does nothing, and takes no Python.
pub(crate) const IDLE: [&str; 3] = ["sh", "-c", "while :; do sleep 600 & wait; done"];

/// A process with a pid file, and the command that starts it (anew). The one that runs ends with this.
pub(crate) struct Application {
    dir: tempfile::TempDir,
}

impl Application {
    /// Runs `words` now. They are run by a shell that kills what ran before, as a supervisor's restart does.
    pub(crate) fn start(words: &[impl AsRef<str>]) -> Self {
        let application = Self::not_started(words);
        application.start_again();
        application
    }

    /// The same, but only a remedy will start it.
    pub(crate) fn not_started(words: &[impl AsRef<str>]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut line = String::new();
        for word in words {
            write!(line, " '{}'", word.as_ref()).unwrap();
        }
        // The path as its last argument tells our process from any other that gets the pid.
        let here = dir.path().display();
        let script = format!(
            "#!/bin/sh\n\
             cd {here} || exit 1\n\
             [ -e pid ] && kill -s KILL -- -$(cat pid) 2>/dev/null\n\
             setsid {line} {here} </dev/null >>log 2>&1 &\n\
             echo $! >pid.new\n\
             mv pid.new pid\n\
             echo started >>starts\n"
        );
        std::fs::write(dir.path().join("start"), script).unwrap();
        Self { dir }
    }

    /// Does what the remedy does.
    pub(crate) fn start_again(&self) {
        let status = Command::new("sh")
            .arg(self.dir.path().join("start"))
            .stdin(Stdio::null())
            .status()
            .unwrap();
        assert!(status.success());
    }

    /// `{ pid_file = "…" }`
    pub(crate) fn owner(&self) -> String {
        format!("{{ pid_file = \"{}\" }}", self.pid_file().display())
    }

    /// `["sh", "…/start"]`
    pub(crate) fn restart(&self) -> String {
        format!("[\"sh\", \"{}/start\"]", self.dir.path().display())
    }

    fn pid_file(&self) -> PathBuf {
        self.dir.path().join("pid")
    }

    /// How often it was started, the first time included.
    pub(crate) fn starts(&self) -> usize {
        let lines = std::fs::read_to_string(self.dir.path().join("starts")).unwrap_or_default();
        lines.lines().count()
    }

    /// What it wrote.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// The process that was started last.
    pub(crate) fn pid(&self) -> Option<Pid> {
        let text = std::fs::read_to_string(self.pid_file()).ok()?;
        Pid::from_raw(text.trim().parse().ok()?)
    }

    /// Whether that one runs.
    pub(crate) fn runs(&self) -> bool {
        self.pid().is_some_and(|pid| self.is_ours(pid))
    }

    /// It runs (a zombie has no arguments), and nobody else got its pid.
    fn is_ours(&self, pid: Pid) -> bool {
        let arguments = std::fs::read(Path::new("/proc").join(pid.to_string()).join("cmdline"));
        let here = self.dir.path().display().to_string();
        arguments.is_ok_and(|bytes| String::from_utf8_lossy(&bytes).contains(&here))
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        assert!(self.runs(), "it does not run: {}", self.log());
        kill_process(self.pid().unwrap(), signal).unwrap();
    }

    /// Ends it and its children, and waits for its end.
    pub(crate) fn kill(&self) {
        assert!(self.runs(), "it does not run: {}", self.log());
        let pid = self.pid().unwrap();
        kill_process_group(pid, Signal::KILL).unwrap();
        until("the killed process is gone", || !self.is_ours(pid));
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        if self.runs() {
            let _ = kill_process_group(self.pid().unwrap(), Signal::KILL);
        }
    }
}

/// An HTTP server with fixed answers that can be changed. It answers one request a connection.
pub(crate) struct Site {
    address: SocketAddr,
    pages: Arc<Mutex<Pages>>,
}

#[derive(Default)]
struct Pages {
    answers: BTreeMap<String, (u16, String)>,
    asked: BTreeMap<String, usize>,
}

impl Site {
    /// On a free port; every path is 404.
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let site = Self {
            address: listener.local_addr().unwrap(),
            pages: Arc::default(),
        };
        let pages = Arc::clone(&site.pages);
        // Ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let _ = answer(stream, &pages);
            }
        });
        site
    }

    /// `http://127.0.0.1:PORT/PATH`
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// From now on this path is answered so.
    pub(crate) fn set(&self, path: &str, status: u16, body: &str) {
        let mut pages = self.pages.lock().unwrap();
        pages.answers.insert(path.to_owned(), (status, body.to_owned()));
    }

    /// How often this path was asked for.
    pub(crate) fn asked(&self, path: &str) -> usize {
        *self.pages.lock().unwrap().asked.get(path).unwrap_or(&0)
    }

    /// Waits until it was asked for so often more.
    pub(crate) fn is_asked(&self, path: &str, times: usize) {
        let before = self.asked(path);
        until(&format!("{path} is asked for"), || {
            self.asked(path) >= before + times
        });
    }
}

fn answer(mut stream: TcpStream, pages: &Mutex<Pages>) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut request = Vec::new();
    let mut bytes = [0; 1024];
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut bytes)? {
            0 => return Ok(()),
            count => request.extend_from_slice(&bytes[..count]),
        }
    }
    let request = String::from_utf8_lossy(&request);
    let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
    let (status, body) = {
        let mut pages = pages.lock().unwrap();
        *pages.asked.entry(path.clone()).or_default() += 1;
        pages.answers.get(&path).cloned().unwrap_or((404, String::new()))
    };
    write!(
        stream,
        "HTTP/1.1 {status} x\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}
