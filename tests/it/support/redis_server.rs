//! A real redis-server on a free port, ended with its handle.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::ports::free_port;

/// Is there a redis-server on this machine?
pub(crate) fn there() -> bool {
    super::available(
        "redis-server",
        Command::new("redis-server").arg("--version").output().is_ok(),
    )
}

/// Is there a redis-server with TLS?
pub(crate) fn has_tls() -> bool {
    let linked = which("redis-server").and_then(|path| Command::new("ldd").arg(path).output().ok());
    let has_tls = linked.is_some_and(|linked| String::from_utf8_lossy(&linked.stdout).contains("libssl"));
    super::available("redis-server with TLS", has_tls)
}

/// A redis-server of its own: port, directory, no persistence.
#[derive(Debug)]
pub(crate) struct RedisServer {
    port: u16,
    directory: tempfile::TempDir,
    arguments: Vec<String>,
    child: Option<Child>,
}

impl RedisServer {
    /// Starts one and waits until it answers.
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// The same with more arguments: `&["--requirepass", "x"]`.
    pub(crate) fn start_with(arguments: &[&str]) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), arguments)
    }

    /// The same in a directory that holds what the arguments name (certificates, an ACL file).
    pub(crate) fn start_in(directory: tempfile::TempDir, arguments: &[&str]) -> Self {
        let mut server = Self {
            port: 0,
            directory,
            arguments: arguments.iter().map(|&argument| argument.to_owned()).collect(),
            child: None,
        };
        for _ in 0..20 {
            server.port = free_port();
            if server.spawn() {
                return server;
            }
        }
        panic!("redis-server does not start: {}", server.log());
    }

    /// With TLS as the only way in by TCP, and a certificate for `localhost` by the CA in [`Self::ca`].
    /// `None` if this redis-server has no TLS.
    pub(crate) fn start_tls() -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        make_certificates(directory.path());
        let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
        let arguments = [
            "--tls-port".to_owned(),
            "PORT".to_owned(),
            "--tls-cert-file".to_owned(),
            path("server.crt"),
            "--tls-key-file".to_owned(),
            path("server.key"),
            "--tls-ca-cert-file".to_owned(),
            path("ca.crt"),
            "--tls-auth-clients".to_owned(),
            "no".to_owned(),
        ];
        if !has_tls() {
            return None;
        }
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        Some(Self::start_in(directory, &arguments))
    }

    /// The CA's certificate (PEM) of [`Self::start_tls`].
    pub(crate) fn ca(&self) -> PathBuf {
        self.directory.path().join("ca.crt")
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// `redis://127.0.0.1:PORT`
    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Its port.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Its Unix socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("redis.sock")
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(self.child.as_ref().expect("it runs"))
    }

    /// SIGSTOP.
    pub(crate) fn stop(&self) {
        kill_process(self.pid(), Signal::STOP).unwrap();
    }

    /// SIGCONT.
    pub(crate) fn cont(&self) {
        kill_process(self.pid(), Signal::CONT).unwrap();
    }

    /// SIGKILL; [`Self::restart`] brings it back on the same port.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Starts it again where it was, empty.
    pub(crate) fn restart(&mut self) {
        self.kill();
        for _ in 0..50 {
            if self.spawn() {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("redis-server does not come back: {}", self.log());
    }

    /// What it wrote.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// One inline command over a connection of its own; everything that is answered within a moment.
    pub(crate) fn tell(&self, command: &str) -> String {
        ask(self.address(), command).expect("the server answers")
    }

    /// Every command from now on, as MONITOR tells it.
    pub(crate) fn monitor(&self) -> Monitor {
        let mut stream = TcpStream::connect(self.address()).unwrap();
        stream.write_all(b"MONITOR\r\n").unwrap();
        let mut ok = [0; 5];
        stream.read_exact(&mut ok).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        Monitor(stream)
    }

    /// Starts the process; true once it answers.
    fn spawn(&mut self) -> bool {
        let tls = self.arguments.iter().any(|argument| argument == "--tls-port");
        let port = self.port.to_string();
        let arguments = self.arguments.iter().map(|argument| match argument.as_str() {
            "PORT" => port.clone(),
            other => other.to_owned(),
        });
        let log = std::fs::File::create(self.directory.path().join("log")).unwrap();
        let child = Command::new("redis-server")
            .args(["--port", if tls { "0" } else { &port }])
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .arg("--dir")
            .arg(self.directory.path())
            .arg("--unixsocket")
            .arg(self.socket())
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let pid = child.id();
        self.child = Some(child);
        for _ in 0..300 {
            let ended = self
                .child
                .as_mut()
                .is_none_or(|child| child.try_wait().unwrap().is_some());
            if ended {
                self.child = None;
                return false;
            }
            if self.log().contains("eady to accept connections") && self.is_ours(pid, tls) {
                return true;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.kill();
        false
    }

    /// Somebody else's server may have taken the port in the meantime.
    fn is_ours(&self, pid: u32, tls: bool) -> bool {
        tls || ask(self.address(), "INFO server").is_some_and(|answer| {
            // One that asks for a password does not tell: its own log line must do.
            answer.contains(&format!("process_id:{pid}\r")) || answer.starts_with("-NO")
        })
    }
}

/// What a server was asked.
pub(crate) struct Monitor(TcpStream);

impl Monitor {
    /// All of it so far.
    pub(crate) fn lines(mut self) -> Vec<String> {
        let mut text = Vec::new();
        // Ends with the server's silence.
        let _ = self.0.read_to_end(&mut text);
        String::from_utf8_lossy(&text)
            .lines()
            .map(str::to_owned)
            .collect()
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Sends one inline command and reads what comes until the server is quiet.
pub(crate) fn ask(address: SocketAddr, command: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    stream
        .write_all(format!("{command}\r\nQUIT\r\n").as_bytes())
        .ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    Some(String::from_utf8_lossy(&answer).into_owned())
}

fn which(program: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|directory| directory.join(program))
        .find(|path| path.exists())
}

/// `ca.crt`, `other-ca.crt` (of another CA), `server.crt` and `server.key` (for `localhost`).
pub(crate) fn make_certificates(directory: &Path) {
    let authority = |name: &str| {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        parameters
            .distinguished_name
            .push(rcgen::DnType::CommonName, name);
        let certificate = parameters.self_signed(&key).unwrap();
        (certificate, rcgen::Issuer::new(parameters, key))
    };
    let (ca, issuer) = authority("defib test CA");
    let (other, _) = authority("another CA");
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["localhost".to_owned()])
        .unwrap()
        .signed_by(&key, &issuer)
        .unwrap();
    std::fs::write(directory.join("ca.crt"), ca.pem()).unwrap();
    std::fs::write(directory.join("other-ca.crt"), other.pem()).unwrap();
    std::fs::write(directory.join("server.crt"), certificate.pem()).unwrap();
    std::fs::write(directory.join("server.key"), key.serialize_pem()).unwrap();
}
