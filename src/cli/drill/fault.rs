//! The faults: made, and undone by whatever ends the drill.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Signal, pidfd_send_signal};

use crate::bus::Backend;
use crate::cli::api;
use crate::cli::args::{DrillArgs, DrillFault};
use crate::docker::{Container, Docker, Life, State};
use crate::owner_table::LiveOwner;
use crate::redis_client::Address;

/// What will be done, as long as nothing is done yet.
pub(super) enum Plan {
    Stop(LiveOwner),
    Exit(LiveOwner),
    Silence(LiveOwner, Rule),
    /// The processes of a container that are not seen from here.
    StopInside(Inside),
}

/// One life of a container, reached over Docker's API.
pub(super) struct Inside {
    docker: Docker,
    life: Life,
    name: String,
}

/// What the drill is about.
#[derive(Clone, Debug)]
pub(super) enum Target {
    /// A process: the peer itself, or the first one of its container.
    Process(LiveOwner),
    /// A container whose processes are not seen from here, and why.
    Container(Docker, Box<Container>, String),
}

/// Packets of one process's connections to the bus vanish, both ways.
pub(super) struct Rule {
    table: String,
    /// The network namespace, if it is not ours.
    namespace: Option<PathBuf>,
    server: u16,
    /// The process's own ends. A new connection has another, and passes: that is how it heals.
    ports: BTreeSet<u16>,
    /// The kernel forgets the rule after this, whatever becomes of us.
    lasting: Duration,
}

/// A fault that was made. Dropping it undoes it.
pub(super) struct Fault {
    plan: Plan,
    made: bool,
}

/// # Errors
/// Why it cannot be made here.
pub(super) fn plan(args: &DrillArgs, target: &Target) -> Result<Plan, String> {
    let life = match target {
        Target::Process(life) => life,
        Target::Container(docker, container, _) if args.fault == DrillFault::Stop => {
            return Ok(Plan::StopInside(Inside {
                docker: docker.clone(),
                life: container.life.clone(),
                name: container.name.clone(),
            }));
        }
        // What ends by `docker kill` was ended on purpose, and is left alone by the node.
        Target::Container(_, _, hidden) => return Err(format!("{hidden}; from here it can only be stopped")),
    };
    Ok(match args.fault {
        DrillFault::Stop => Plan::Stop(life.clone()),
        DrillFault::Exit => Plan::Exit(life.clone()),
        DrillFault::Silence => Plan::Silence(life.clone(), Rule::of(args, life)?),
    })
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stop(life) => write!(f, "stop process {} (SIGSTOP)", life.pid),
            Self::Exit(life) => write!(f, "end process {} (SIGKILL), which cannot be undone", life.pid),
            Self::Silence(life, rule) => write!(
                f,
                "drop every packet on {} connection(s) of process {} to port {} (nft table {})",
                rule.ports.len(),
                life.pid,
                rule.server,
                rule.table
            ),
            Self::StopInside(inside) => {
                write!(
                    f,
                    "stop the first process of container {} (SIGSTOP, by Docker)",
                    inside.name
                )
            }
        }
    }
}

impl Fault {
    /// # Errors
    /// Why it could not be made. What was begun is undone.
    pub(super) fn make(plan: Plan) -> Result<Self, String> {
        let mut fault = Self { plan, made: true };
        let made = match &fault.plan {
            Plan::Stop(life) => send(life, Signal::STOP),
            Plan::Exit(life) => send(life, Signal::KILL),
            Plan::Silence(_, rule) => rule.nft(&rule.script()),
            Plan::StopInside(inside) => inside.send("SIGSTOP").map(drop),
        };
        // A rule that was refused is not there; what Docker did not answer to may have been done.
        if made.is_err() && !matches!(fault.plan, Plan::StopInside(_)) {
            fault.made = false;
        }
        made.map(|()| fault)
    }

    /// What was undone, in words; `None` if there is nothing to undo (any more). The second time it does nothing.
    pub(super) fn undo(&mut self) -> Option<Result<String, String>> {
        if !std::mem::take(&mut self.made) {
            return None;
        }
        match &self.plan {
            Plan::Stop(life) if life.exited() => None,
            Plan::Stop(life) => {
                Some(send(life, Signal::CONT).map(|()| format!("SIGCONT to process {}", life.pid)))
            }
            Plan::Exit(_) => None,
            Plan::Silence(_, rule) => {
                let removed = rule.nft(&format!("delete table inet {}\n", rule.table));
                Some(removed.map(|()| format!("nft table {} removed", rule.table)))
            }
            Plan::StopInside(inside) => match inside.send("SIGCONT") {
                Ok(true) => Some(Ok(format!("SIGCONT to the first process of {}", inside.name))),
                Ok(false) => None,
                Err(error) => Some(Err(error)),
            },
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.plan.fmt(f)
    }
}

impl Drop for Fault {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.undo() {
            crate::cli::say_error(&format!("defib drill: could not undo: {error}"));
        }
    }
}

impl Inside {
    /// False: that life is over. Blocking, and on a thread of its own: it has to work in a destructor, too.
    fn send(&self, signal: &'static str) -> Result<bool, String> {
        let (docker, life) = (self.docker.clone(), self.life.clone());
        let asking = std::thread::spawn(move || {
            api::on_one_thread(async {
                let seen = match docker.inspect(&life.id).await {
                    Ok(seen) => seen,
                    Err(error) if error.is_missing() => return Ok(false),
                    Err(error) => return Err(error.with_cure()),
                };
                if seen.life != life || seen.state != State::Running {
                    return Ok(false);
                }
                let sent = docker.kill(&life.id, signal).await;
                sent.map(|()| true).map_err(|error| error.with_cure())
            })
        });
        let asked = asking.join().map_err(|_| "asking Docker failed".to_owned())?;
        asked.unwrap_or_else(|error| Err(error.to_string()))
    }
}

fn send(life: &LiveOwner, signal: Signal) -> Result<(), String> {
    pidfd_send_signal(&*life.pidfd, signal).map_err(|error| {
        format!(
            "cannot signal process {}: {error}; run the drill as its user or root",
            life.pid
        )
    })
}

impl Rule {
    fn of(args: &DrillArgs, life: &LiveOwner) -> Result<Self, String> {
        let config = args.node.config.load(false);
        let config =
            config.map_err(|_| "the configuration, which names the bus, cannot be read".to_owned())?;
        let server = match &config.bus.backend {
            Backend::Redis(endpoint) => match &endpoint.address {
                Address::Tcp { port, .. } | Address::Tls { port, .. } => *port,
                Address::Unix(_) => return Err("packets of a Unix socket cannot be dropped".to_owned()),
            },
            Backend::Embedded { listen: Some(at) } => at.port(),
            Backend::Embedded { listen: None } => {
                return Err("the bus is embedded and takes no connections: nobody can be cut off".to_owned());
            }
        };
        let ports = connections(life.pid, server)
            .map_err(|error| format!("cannot read the sockets of process {}: {error}", life.pid))?;
        if ports.is_empty() {
            return Err(format!("process {} has no connection to port {server}", life.pid));
        }
        let theirs = PathBuf::from(format!("/proc/{}/ns/net", life.pid));
        let same = fs::read_link("/proc/self/ns/net").ok() == fs::read_link(&theirs).ok();
        let rule = Self {
            table: format!("defib_drill_{}", std::process::id()),
            namespace: (!same).then_some(theirs),
            server,
            ports,
            lasting: args.within + Duration::from_secs(10),
        };
        rule.nft("list tables\n").map_err(|error| {
            format!("the packet filter cannot be changed here ({error}): install nft, and run as root with CAP_NET_ADMIN")
        })?;
        Ok(rule)
    }

    fn script(&self) -> String {
        let Self { table, server, .. } = self;
        let lasting = self.lasting.as_secs();
        let ports: Vec<String> = self
            .ports
            .iter()
            .map(|port| format!("{port} timeout {lasting}s"))
            .collect();
        let ports = ports.join(", ");
        format!(
            "table inet {table} {{\n\
             set own {{ type inet_service; flags timeout; elements = {{ {ports} }}; }}\n\
             chain leave {{ type filter hook output priority 0; tcp dport {server} tcp sport @own drop; }}\n\
             chain arrive {{ type filter hook input priority 0; tcp sport {server} tcp dport @own drop; }}\n\
             }}\n"
        )
    }

    fn nft(&self, script: &str) -> Result<(), String> {
        let mut command = match &self.namespace {
            None => Command::new("nft"),
            Some(namespace) => {
                let mut command = Command::new("nsenter");
                command.arg(format!("--net={}", namespace.display())).arg("nft");
                command
            }
        };
        let child = command
            .args(["-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            // Ctrl-C at the terminal is for us alone.
            .process_group(0)
            .spawn();
        let mut child = child.map_err(|error| format!("cannot run nft: {error}"))?;
        if let Some(mut input) = child.stdin.take() {
            // If it does not read, it says why.
            let _ = input.write_all(script.as_bytes());
        }
        let output = child
            .wait_with_output()
            .map_err(|error| format!("nft: {error}"))?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(said
            .lines()
            .next()
            .unwrap_or("nft failed")
            .chars()
            .take(200)
            .collect())
    }
}

/// The local ports of a process's established connections to `server`.
fn connections(pid: u32, server: u16) -> std::io::Result<BTreeSet<u16>> {
    let mut inodes = BTreeSet::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        let Ok(link) = fs::read_link(entry?.path()) else {
            continue;
        };
        let inode = link
            .to_str()
            .and_then(|link| link.strip_prefix("socket:[")?.strip_suffix(']'));
        inodes.extend(inode.map(str::to_owned));
    }
    let mut ports = BTreeSet::new();
    for table in ["tcp", "tcp6"] {
        let text = fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
        let own = text.lines().filter_map(|line| connection(line, server));
        ports.extend(
            own.filter(|(_, inode)| inodes.contains(inode))
                .map(|(port, _)| port),
        );
    }
    Ok(ports)
}

/// Local port and inode of a line of /proc/net/tcp, if it is an established connection to `server`.
fn connection(line: &str, server: u16) -> Option<(u16, String)> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let port = |field: Option<&&str>| {
        let (_, port) = field?.rsplit_once(':')?;
        u16::from_str_radix(port, 16).ok()
    };
    let established = fields.get(3) == Some(&"01");
    let local = port(fields.get(1))?;
    let ours = established && port(fields.get(2)) == Some(server);
    ours.then_some((local, (*fields.get(9)?).to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_undoes_it_too() {
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let pid = rustix::process::Pid::from_child(&child);
        let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap();
        let life = LiveOwner {
            incarnation: crate::engine::event::Incarnation("test".into()),
            pid: child.id(),
            pidfd: std::sync::Arc::new(pidfd),
        };
        let is = |state: char| {
            let stat = fs::read_to_string(format!("/proc/{}/stat", life.pid)).unwrap();
            stat.rsplit_once(") ").unwrap().1.starts_with(state)
        };
        let drilled = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _fault = Fault::make(Plan::Stop(life.clone())).unwrap();
            while !is('T') {
                std::thread::yield_now();
            }
            panic!("on purpose");
        }));
        assert!(drilled.is_err());
        while is('T') {
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_connection_is_told_from_a_listener_and_from_others() {
        let line = |state: &str, remote: &str| {
            format!(
                "  0: 0100007F:9C40 0100007F:{remote} {state} 00000000:00000000 00:00000000 00000000  0 0 637 1 0"
            )
        };
        assert_eq!(
            connection(&line("01", "18EB"), 6379),
            Some((40_000, "637".to_owned()))
        );
        assert_eq!(connection(&line("0A", "18EB"), 6379), None);
        assert_eq!(connection(&line("01", "18EC"), 6379), None);
        assert_eq!(connection("garbage", 6379), None);
    }
}
