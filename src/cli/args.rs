//! What each command takes. Definitions and help texts only: no behaviour but the parsing of values.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

const AFTER_HELP: &str = "\
Exit codes:
    0  done; for `probe`: it passes
    1  not done; for `probe`: it fails; for `doctor`: something cannot work
    2  usage; for `drill`: refused, nothing was touched
   69  for `lease`: it was not had, and nothing was started
   70  an internal error, or a part of the node that would not stay up
   75  the network namespace is orphaned: start again to join the new one
   76  for `lease`: it was lost, and the command was ended
   78  the configuration is wrong
  130  forced to end by a second signal";

/// Watches the liveness of processes over Redis pub/sub and on this machine, says why one went silent, and heals it
/// with the smallest shock that works.
#[derive(Debug, Parser)]
#[command(name = "defib", version, after_help = AFTER_HELP, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the node until it is told to stop.
    Run(RunArgs),
    /// Check the configuration: one line if it is right, every mistake at once if it is not (exit 78).
    CheckConfig(CheckConfigArgs),
    /// Look at what runs here, and write the configuration to begin with: in a dry run, without secrets.
    Init(InitArgs),
    /// Look whether every configured check and remedy can work here, and say what is missing for it.
    Doctor(DoctorArgs),
    /// Show what a running node knows, as a table.
    Status(StatusArgs),
    /// Say what is known of one peer, which guard said what, and what happens next.
    Explain(ExplainArgs),
    /// Tell what was done and what forbade it, and who asked: the node's audit.
    History(HistoryArgs),
    /// Do nothing for one peer, or for all, but go on judging.
    Pause(PauseArgs),
    /// End a pause early.
    Resume(ResumeArgs),
    /// Restart a peer now by a remedy of its ladder, if every guard permits it.
    Restart(RestartArgs),
    /// Tell the node that a peer left for good.
    Forget(ForgetArgs),
    /// End the node well: no new remedy, a goodbye, then exit 0; at the latest after shutdown.deadline.
    Drain(DrainArgs),
    /// Read the configuration again: apply it as a whole, or say every mistake and keep the old one (exit code 78).
    Reload(ReloadArgs),
    /// Run a command for as long as a lease is held; its exit code is the command's.
    Lease(LeaseArgs),
    /// Be the command of a lease. For `lease`.
    #[command(hide = true)]
    LeaseCommand(LeaseCommandArgs),
    /// Give a sign of life from a script: to a peer's `push` check, or as one heartbeat on the bus.
    Beat(BeatArgs),
    /// Try the notifications: send a test message, and say what the receiver answers.
    Notify(NotifyArgs),
    /// Ask one question and exit 0 or 1, for exec probes and HEALTHCHECK.
    #[command(subcommand)]
    Probe(ProbeCommand),
    /// Break one peer on purpose, and watch the running node notice, explain, heal and prove it.
    Drill(DrillArgs),
    /// Break things on purpose and watch them being healed, in about 35 seconds.
    Demo(DemoArgs),
    /// Write down when heartbeats arrive, for `simulate`.
    Record(super::record::RecordArgs),
    /// Say which crashes each detector would have noticed how soon in a recorded trace, and which of the living it
    /// would have suspected.
    Simulate(super::simulate::SimulateArgs),
    /// Live through simulated worlds. For developers.
    #[command(hide = true)]
    Sim(super::sim::SimArgs),
    /// Print completions for a shell.
    Completions(CompletionsArgs),
}

/// Where the configuration comes from.
#[derive(Clone, Debug, Default, Args)]
pub struct ConfigArgs {
    /// Configuration file [default: the first that is there of $XDG_CONFIG_HOME/defib/defib.toml,
    /// /etc/defib/defib.toml; none is fine].
    #[arg(short, long, value_name = "FILE", env = "DEFIB_CONFIG")]
    pub config: Option<PathBuf>,
    /// Override one key, as in bus.url=redis://localhost; may be repeated; wins over DEFIB__… variables.
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Serve only these peers of the configuration [default: all].
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub peers: Vec<String>,
}

/// What to do with a configuration that is wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum OnBadConfig {
    /// Report every mistake and exit 78.
    #[default]
    Fail,
    /// Report every mistake, bind, answer 200, judge nothing, and say so.
    Observe,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormatArg {
    /// JSON in Kubernetes, human elsewhere.
    Auto,
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

/// `defib run`
#[derive(Clone, Debug, Default, Args)]
pub struct RunArgs {
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would show it as help")]
    pub config: ConfigArgs,
    /// Decide, record and show everything, and carry out no remedy.
    #[arg(long)]
    pub dry_run: bool,
    /// What to do with a configuration that is wrong.
    #[arg(
        long,
        value_name = "WHAT",
        value_enum,
        default_value_t,
        env = "DEFIB_ON_BAD_CONFIG"
    )]
    pub on_bad_config: OnBadConfig,
    /// How log lines look [default: log.format].
    #[arg(long, value_name = "FORMAT", value_enum, env = "DEFIB_LOG_FORMAT")]
    pub log_format: Option<LogFormatArg>,
    /// What is logged, as in `info` or `warn,defib::bus=debug` [default: log.level].
    #[arg(long, value_name = "FILTER", env = "DEFIB_LOG")]
    pub log: Option<String>,
}

/// `defib check-config`
#[derive(Clone, Debug, Default, Args)]
pub struct CheckConfigArgs {
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would show it as help")]
    pub config: ConfigArgs,
    /// Say in words what is watched, what follows after how long, and what never happens.
    #[arg(long)]
    pub explain: bool,
}

/// `defib init`
#[derive(Clone, Debug, Default, Args)]
pub struct InitArgs {
    /// Where to write; `-` is standard output.
    #[arg(short, long, value_name = "FILE", default_value = "defib.toml")]
    pub output: PathBuf,
    /// Replace the file if it is there.
    #[arg(long)]
    pub force: bool,
    /// A compose file, or what `docker compose config` prints [default: ask Docker what runs].
    #[arg(long, value_name = "FILE")]
    pub compose: Option<PathBuf>,
    /// The running compose project [default: this container's own, or the only one].
    #[arg(long, value_name = "NAME", conflicts_with = "compose")]
    pub project: Option<String>,
    /// The Docker engine [default: unix:///var/run/docker.sock].
    #[arg(long, value_name = "HOST", env = "DOCKER_HOST")]
    pub docker: Option<String>,
    /// Do not ask Docker.
    #[arg(long)]
    pub no_docker: bool,
    /// The Redis to listen to [default: $REDIS_URL, the compose project's, or redis://127.0.0.1:6379].
    #[arg(long, value_name = "URL")]
    pub redis: Option<String>,
    /// How long to listen.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration)]
    pub listen: Duration,
    /// The group's name [default: the compose project's].
    #[arg(long, value_name = "NAME")]
    pub group: Option<String>,
}

/// `defib doctor`
#[derive(Clone, Debug, Default, Args)]
pub struct DoctorArgs {
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would show it as help")]
    pub config: ConfigArgs,
    /// JSON instead of a table.
    #[arg(long)]
    pub json: bool,
    /// Exit 1 also if something could not be told.
    #[arg(long)]
    pub strict: bool,
    /// Look at nothing: print what this node asks of each Redis, as the rule that allows it just that.
    #[arg(long, conflicts_with_all = ["json", "strict"])]
    pub acl: bool,
}

/// `defib notify`
#[derive(Clone, Debug, Default, Args)]
pub struct NotifyArgs {
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would show it as help")]
    pub config: ConfigArgs,
    /// Send a test message to this target of the configuration [default: to all of them].
    #[arg(long, value_name = "NAME", required = true, num_args = 0..=1, default_missing_value = "")]
    pub test: Option<String>,
}

/// How to reach a node's public listener.
#[derive(Clone, Debug, Default, Args)]
pub struct PublicArgs {
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would show it as help")]
    pub config: ConfigArgs,
    /// The node's public listener, as in http://127.0.0.1:7337 [default: http.listen of the configuration].
    #[arg(long, value_name = "URL")]
    pub url: Option<String>,
}

/// How to reach a node's admin listener.
#[derive(Clone, Debug, Default, Args)]
pub struct AdminArgs {
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would show it as help")]
    pub config: ConfigArgs,
    /// The node's admin socket [default: http.admin_socket of the configuration].
    #[arg(long, value_name = "PATH", conflicts_with = "url")]
    pub admin_socket: Option<PathBuf>,
    /// The node's admin port instead, as in http://127.0.0.1:7338; needs a token.
    #[arg(long, value_name = "URL")]
    pub url: Option<String>,
    /// Token of the admin port; better given as DEFIB_TOKEN, where no process list shows it.
    #[arg(long, value_name = "TOKEN", env = "DEFIB_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
}

/// `defib status`
#[derive(Clone, Debug, Default, Args)]
pub struct StatusArgs {
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would show it as help")]
    pub node: PublicArgs,
    /// The whole answer of /api/v1/status instead of a table.
    #[arg(long)]
    pub json: bool,
}

/// `defib explain`
#[derive(Clone, Debug, Default, Args)]
pub struct ExplainArgs {
    /// The peer's name.
    pub peer: String,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would show it as help")]
    pub node: PublicArgs,
}

/// `defib history`
#[derive(Clone, Debug, Default, Args)]
pub struct HistoryArgs {
    /// Only of this peer, and of the whole node.
    pub peer: Option<String>,
    /// Only what is younger, as in 2h.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub since: Option<Duration>,
    /// At most so many records: the newest.
    #[arg(long, value_name = "COUNT", default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=500))]
    pub limit: u16,
    /// One JSON object a line.
    #[arg(long)]
    pub json: bool,
    /// Go on with what happens, until interrupted.
    #[arg(short, long, conflicts_with = "file")]
    pub follow: bool,
    /// Read this file instead of asking the node [default, if no node answers: audit.path of the configuration].
    #[arg(long, value_name = "PATH", conflicts_with = "url")]
    pub file: Option<PathBuf>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would show it as help")]
    pub node: PublicArgs,
}

/// `defib pause`
#[derive(Clone, Debug, Default, Args)]
pub struct PauseArgs {
    /// The peer's name [default: the whole node].
    pub peer: Option<String>,
    /// Why; it is kept and shown.
    #[arg(long, value_name = "TEXT")]
    pub reason: String,
    /// Ends by itself after this time, as in 30m [default: until `resume`].
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    pub lasting: Option<Duration>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would show it as help")]
    pub node: AdminArgs,
}

/// `defib resume`
#[derive(Clone, Debug, Default, Args)]
pub struct ResumeArgs {
    /// The peer's name [default: the pause of the whole node].
    pub peer: Option<String>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would show it as help")]
    pub node: AdminArgs,
}

/// `defib restart`
#[derive(Clone, Debug, Default, Args)]
pub struct RestartArgs {
    /// The peer's name.
    pub peer: String,
    /// By the first remedy of this kind, as in docker [default: the first of its ladder that restarts].
    #[arg(long, value_name = "KIND", conflicts_with = "rung")]
    pub remedy: Option<String>,
    /// By the remedy at this place of its ladder, from 0.
    #[arg(long, value_name = "N")]
    pub rung: Option<u16>,
    /// Past the guards that yield: paused, grace, self_trust, bus_settle, mass_silence, quorum, blockers, backoff. Never
    /// past budget, the group's leave, dry_run, or the check that it is still the same life. The reason is kept.
    #[arg(long, value_name = "REASON")]
    pub force: Option<String>,
    /// Wait for its proof of life: exit 0 once another life passes every check, else 1.
    #[arg(long)]
    pub wait: bool,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would show it as help")]
    pub node: AdminArgs,
}

/// `defib forget`
#[derive(Clone, Debug, Default, Args)]
pub struct ForgetArgs {
    /// The peer's name.
    pub peer: String,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would show it as help")]
    pub node: AdminArgs,
}

/// `defib beat`
#[derive(Clone, Debug, Default, Args)]
#[command(group = clap::ArgGroup::new("form").multiple(false))]
pub struct BeatArgs {
    /// The peer whose `push` check is meant. Without a form: it lives, or its run ended well.
    #[arg(required_unless_present = "publish", conflicts_with = "publish")]
    pub peer: Option<String>,
    /// A run begins; it must end within the check's `run_within`.
    #[arg(long, group = "form")]
    pub start: bool,
    /// It failed.
    #[arg(long, group = "form")]
    pub fail: bool,
    /// Only a message, no sign of life.
    #[arg(long, group = "form")]
    pub log: bool,
    /// It leaves on purpose: nothing is expected of it until it beats again.
    #[arg(long, group = "form")]
    pub stop: bool,
    /// The exit code of its run, as in --exit-code $?; 0 is success.
    #[arg(long, value_name = "CODE", group = "form")]
    pub exit_code: Option<u8>,
    /// One line, shown by `explain`; at most 500 characters.
    #[arg(short, long, value_name = "TEXT", conflicts_with = "publish")]
    pub message: Option<String>,
    /// Which of several `push` checks.
    #[arg(long, value_name = "NAME", conflicts_with = "publish")]
    pub check: Option<String>,
    /// Publish one heartbeat on the bus instead: `uptime_s` of the process that runs this command, and `wall_ts`.
    #[arg(long, conflicts_with = "form")]
    pub publish: bool,
    /// On this channel; never one of data [default: the only one of the configuration's `heartbeat` checks].
    #[arg(long, value_name = "CHANNEL", requires = "publish", conflicts_with = "peer")]
    pub channel: Option<String>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would show it as help")]
    pub node: AdminArgs,
}

/// `defib drain`
#[derive(Clone, Debug, Default, Args)]
pub struct DrainArgs {
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would show it as help")]
    pub node: AdminArgs,
}

/// `defib reload`
#[derive(Clone, Debug, Default, Args)]
pub struct ReloadArgs {
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would show it as help")]
    pub node: AdminArgs,
}

/// `defib lease`
#[derive(Clone, Debug, Args)]
pub struct LeaseArgs {
    /// The lease: a key that begins as leases.prefixes of the node permits.
    pub key: String,
    /// How long it lasts after this command or the node has died. Renewed at a third of it.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = duration)]
    pub ttl: Duration,
    /// Held only while this peer of the node lives.
    #[arg(long, value_name = "NAME")]
    pub peer: Option<String>,
    /// How long to wait for it while somebody else has it [default: not at all].
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = duration)]
    pub wait: Duration,
    /// From SIGTERM to SIGKILL when it is lost; a quarter of --ttl at most, so that it comes before the lease's end.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration)]
    pub kill_after: Duration,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would show it as help")]
    pub node: AdminArgs,
    /// The command and its arguments, after `--`.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// `defib lease-command`
#[derive(Clone, Debug, Args)]
pub struct LeaseCommandArgs {
    /// Who started it.
    pub parent: i32,
    /// The command and its arguments.
    #[arg(last = true, required = true)]
    pub command: Vec<OsString>,
}

/// `defib probe …`
#[derive(Clone, Debug, Subcommand)]
pub enum ProbeCommand {
    /// Pass if a URL answers as it should.
    Http(ProbeHttpArgs),
    /// Pass if a heartbeat file is fresh.
    File(ProbeFileArgs),
    /// Pass if a Redis answers PING and is no replica.
    Redis(ProbeRedisArgs),
    /// Pass unless a node pulses this peer: for an application's own exec liveness probe.
    Healthz(ProbeHealthzArgs),
}

/// What a probe says when it could not ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Unreachable {
    /// Exit 0: what cannot be measured is not dead.
    Pass,
    /// Exit 1.
    Fail,
}

/// `defib probe http`
#[derive(Clone, Debug, Args)]
pub struct ProbeHttpArgs {
    /// What to ask: http:// or https://.
    pub url: String,
    /// Statuses that pass: one, or a range.
    #[arg(long, value_name = "STATUS", default_value = "200-299", value_parser = statuses)]
    pub status: std::ops::RangeInclusive<u16>,
    /// Path of a field in the JSON answer, as in a.b.0.c.
    #[arg(long, value_name = "PATH")]
    pub json: Option<String>,
    /// The field must be this (JSON, or else text).
    #[arg(long, value_name = "VALUE", requires = "json", conflicts_with_all = ["below", "above"])]
    pub equals: Option<String>,
    /// The field must be a number below this.
    #[arg(
        long,
        value_name = "NUMBER",
        requires = "json",
        conflicts_with = "above",
        allow_negative_numbers = true
    )]
    pub below: Option<f64>,
    /// The field must be a number above this.
    #[arg(long, value_name = "NUMBER", requires = "json", allow_negative_numbers = true)]
    pub above: Option<f64>,
    /// Bound on the whole.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = duration)]
    pub timeout: Duration,
    /// What to say when nothing answers.
    #[arg(long, value_name = "VERDICT", value_enum, default_value = "fail")]
    pub unreachable: Unreachable,
}

/// `defib probe file`
#[derive(Clone, Debug, Args)]
pub struct ProbeFileArgs {
    /// The heartbeat file: a JSON object with an ISO 8601 `timestamp`; of any other file, when it was modified counts.
    pub path: PathBuf,
    /// Older than this is dead.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub max_age: Duration,
    /// What to say when the file cannot be read (no permission, a failing disk). A missing file fails.
    #[arg(long, value_name = "VERDICT", value_enum, default_value = "fail")]
    pub unreachable: Unreachable,
}

/// `defib probe redis`
#[derive(Clone, Debug, Args)]
pub struct ProbeRedisArgs {
    /// redis://, rediss:// or unix:// [default: bus.url of the configuration].
    pub url: Option<String>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would show it as help")]
    pub config: ConfigArgs,
    /// Bound on the whole.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = duration)]
    pub timeout: Duration,
    /// What to say when nothing answers.
    #[arg(long, value_name = "VERDICT", value_enum, default_value = "fail")]
    pub unreachable: Unreachable,
}

/// `defib probe healthz`
#[derive(Clone, Debug, Args)]
pub struct ProbeHealthzArgs {
    /// The peer's name [default: bare /healthz].
    pub peer: Option<String>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would show it as help")]
    pub node: PublicArgs,
    /// Bound on the whole.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = duration)]
    pub timeout: Duration,
    /// What to say when no node answers: a node that is away harms nobody.
    #[arg(long, value_name = "VERDICT", value_enum, default_value = "pass")]
    pub unreachable: Unreachable,
}

/// What a drill breaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum DrillFault {
    /// SIGSTOP: the process is there and does nothing.
    #[default]
    Stop,
    /// SIGKILL.
    Exit,
    /// Its connections to the bus go dark: every packet of them is dropped (needs nft and CAP_NET_ADMIN).
    Silence,
}

impl DrillFault {
    /// As on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Exit => "exit",
            Self::Silence => "silence",
        }
    }
}

/// `defib drill`
#[derive(Clone, Debug, Default, Args)]
pub struct DrillArgs {
    /// The peer's name.
    pub peer: String,
    /// What is broken; undone in every case, but for an exit, which only the remedy can make good.
    #[arg(long, value_name = "FAULT", value_enum, default_value_t)]
    pub fault: DrillFault,
    /// Yes, really.
    #[arg(long)]
    pub yes: bool,
    /// The end of the drill, healed or not.
    #[arg(long, value_name = "TIME", default_value = "3m", value_parser = duration)]
    pub within: Duration,
    /// JSON at the end instead of a timeline.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would show it as help")]
    pub node: PublicArgs,
}

/// `defib demo`
#[derive(Clone, Debug, Default, Args)]
pub struct DemoArgs {
    /// Run against this Redis instead of the embedded bus.
    #[arg(long, value_name = "URL")]
    pub redis: Option<String>,
    /// Stay up afterwards, with the endpoints to look at.
    #[arg(long)]
    pub keep: bool,
    /// Be one of the demo's own processes instead.
    #[arg(long, hide = true, requires = "dir")]
    pub role: Option<super::demo::children::Role>,
    /// The demo's directory.
    #[arg(long, hide = true)]
    pub dir: Option<PathBuf>,
}

/// `defib completions`
#[derive(Clone, Copy, Debug, Args)]
pub struct CompletionsArgs {
    /// Which shell.
    pub shell: clap_complete::Shell,
}

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|_| "a time with its unit, as in 500ms, 30s or 5m".to_owned())
}

fn statuses(text: &str) -> Result<std::ops::RangeInclusive<u16>, String> {
    crate::config::statuses(text)
        .ok_or_else(|| "a status or a range of them, as in 204 or 200-299".to_owned())
}

impl ConfigArgs {
    /// The configuration that these arguments name, read and validated. `may_write`: the node's id may be made and
    /// kept in the state directory (only `run` may).
    pub fn load(&self, may_write: bool) -> Result<crate::config::Config, crate::config::Report> {
        crate::config::Sources::gather(self.config.as_deref(), &self.set, &self.peers, may_write)
            .and_then(|sources| crate::config::load(&sources))
    }
}
