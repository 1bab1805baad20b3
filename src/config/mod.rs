//! Configuration: TOML text, `DEFIB__…` variables and `--set` become one validated [`Config`], or a [`Report`] of
//! every mistake at once. Builds the settings of the edges and of the engine; starts nothing.

mod asks;
mod build;
mod checks;
mod detectors;
mod dirs;
mod discovered;
pub mod document;
pub mod explain;
pub mod fields;
mod files;
mod fleet;
mod host;
mod layout;
mod maintenance;
mod measures;
mod notify;
mod peers;
mod questions;
mod reader;
mod remedy;
mod report;
mod reports;
mod restart;
mod rules;
pub mod schema;
mod signing;
mod suggest;
mod tree;
mod values;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::engine::event::PeerId;
use crate::engine::settings::Settings as EngineSettings;
use crate::{bus, http, regular_file, remedies};
pub use discovered::with_discovered;

/// Where a configuration comes from. Later ones win: file, environment, `--set`.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The file's name, for messages, and its text.
    pub file: Option<(PathBuf, String)>,
    /// The environment. `DEFIB__A__B` sets `a.b`; `${VAR}` reads any.
    pub env: BTreeMap<String, String>,
    /// `a.b=value`, in the order given.
    pub set: Vec<String>,
    /// Serve only these peers; empty: all.
    pub peers: Vec<String>,
    /// Whether the node's id may be written to the state directory if there is none yet.
    pub may_write: bool,
    /// For a node that runs: what it runs by. Names keep their numbers then, and what it cannot take up is a mistake.
    pub over: Option<Over>,
}

/// A node that runs, for which another configuration is read.
#[derive(Clone, Debug)]
pub struct Over {
    /// What it runs by.
    pub config: Arc<Config>,
    /// Numbers of peers that were removed a moment ago: nobody's for now.
    pub resting: BTreeSet<PeerId>,
}

impl Sources {
    /// Reads the file (`None`: the first default place that has one) and the environment of this process.
    pub fn gather(
        file: Option<&Path>,
        set: &[String],
        peers: &[String],
        may_write: bool,
    ) -> Result<Self, Report> {
        Self::unread(file, set, peers, may_write).read()
    }

    /// The same before the file is read. From here on it is known which one it is.
    pub fn unread(file: Option<&Path>, set: &[String], peers: &[String], may_write: bool) -> Self {
        let text =
            |(name, value): (OsString, OsString)| Some((name.into_string().ok()?, value.into_string().ok()?));
        let env: BTreeMap<String, String> = std::env::vars_os().filter_map(text).collect();
        let file = file.map(Path::to_owned).or_else(|| default_file(&env));
        Self {
            file: file.map(|name| (name, String::new())),
            env,
            set: set.to_vec(),
            peers: peers.to_vec(),
            may_write,
            over: None,
        }
    }

    /// Reads the file, whatever it is: the end of a pipe is waited for.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn read(self) -> Result<Self, Report> {
        let text = match &self.file {
            Some((name, _)) => std::fs::File::open(name).and_then(read),
            None => return Ok(self),
        };
        self.with(text, "name it with --config or DEFIB_CONFIG")
    }

    /// Reads the file again: that one and no other, and only if it is one that can be read twice. What is not there any
    /// more is a mistake; it would be another thing to have no file.
    ///
    /// # Errors
    /// If it cannot be read, or if there is one now and was none.
    pub fn again(&self) -> Result<Self, Report> {
        let help = "put it back: the configuration of before holds until then";
        match (&self.file, default_file(&self.env)) {
            (Some((name, _)), _) => {
                let text = regular_file::read(name, tree::MAX_BYTES as u64 + 1);
                self.clone().with(text, help)
            }
            (None, None) => Ok(self.clone()),
            (None, Some(found)) => Err(self.unreadable(
                found,
                "needs_restart",
                "was not there when this node started, which is configured without a file",
                "restart the node to apply it",
            )),
        }
    }

    /// What the file holds.
    pub fn text(&self) -> Option<&str> {
        self.file.as_ref().map(|(_, text)| text.as_str())
    }

    /// The file, if it can be read again: what came through a pipe is gone.
    pub fn lasting(&self) -> Option<&Path> {
        let (name, _) = self.file.as_ref()?;
        // What is not there now may come back as one.
        let regular = std::fs::metadata(name).map_or(true, |found| found.is_file());
        regular.then_some(name)
    }

    fn with(self, text: std::io::Result<Vec<u8>>, help: &str) -> Result<Self, Report> {
        let Some((name, _)) = self.file.clone() else {
            return Ok(self);
        };
        let text = text
            .map_err(|error| format!("cannot be read: {error}"))
            .and_then(|bytes| {
                String::from_utf8(bytes).map_err(|error| {
                    format!("is not UTF-8 from byte {} on", error.utf8_error().valid_up_to())
                })
            })
            .map_err(|why| self.unreadable(name.clone(), "unreadable", &why, help))?;
        Ok(Self {
            file: Some((name, text)),
            ..self
        })
    }

    fn unreadable(&self, name: PathBuf, rule: &'static str, why: &str, help: &str) -> Report {
        let problems = report::Problems::of(Some((name, String::new())));
        problems.add(&report::Origin::Nowhere, rule, why, help);
        let unread = Self {
            file: None,
            ..self.clone()
        };
        let tree = tree::gather(&unread, &problems);
        let context = reader::Context {
            problems: &problems,
            env: &self.env,
            secrets: &RefCell::default(),
        };
        let root = reader::Reader::root(&tree, &fields::ROOT, context);
        Report::of(&problems, build::base(&root, &dirs::Dirs::of(&self.env)).0, false)
    }
}

/// Where a file is looked for when none is named.
fn default_file(env: &BTreeMap<String, String>) -> Option<PathBuf> {
    let given = |name: &str| env.get(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let own = given("XDG_CONFIG_HOME").or_else(|| given("HOME").map(|home| home.join(".config")));
    let places = own
        .map(|dir| dir.join("defib/defib.toml"))
        .into_iter()
        .chain([PathBuf::from("/etc/defib/defib.toml")]);
    places.into_iter().find(|path| path.exists())
}

/// What a file holds, bounded: a path may name anything.
fn read(file: std::fs::File) -> std::io::Result<Vec<u8>> {
    use std::io::Read;
    let mut bytes = Vec::new();
    file.take(tree::MAX_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A configuration that cannot be wrong.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// This node's name.
    pub node: Arc<str>,
    /// The group it belongs to.
    pub group: Arc<str>,
    /// Decide, record and show, but carry out nothing. `run --dry-run` sets it too (before `engine_settings`).
    pub dry_run: bool,
    /// For `bus`.
    pub bus: bus::Settings,
    /// For `checks`.
    pub checks: crate::checks::Settings,
    /// For `docker`.
    pub docker: crate::docker::Settings,
    /// For `systemd`.
    pub systemd: crate::systemd::Settings,
    /// For `remedies`.
    pub remedies: remedies::Settings,
    /// For `http`.
    pub http: http::Settings,
    /// For `fleet`.
    pub fleet: crate::fleet::Settings,
    /// Public listeners of other nodes, which are asked for their votes.
    pub ask: Vec<Arc<str>>,
    /// For `leases`.
    pub leases: crate::leases::Settings,
    /// For `signing`, if this group signs.
    pub signing: Option<crate::signing::Settings>,
    /// For `notify`.
    pub notify: crate::notify::Settings,
    /// Where the node writes that it lives, for whoever watches a file.
    pub heartbeat_file: Option<PathBuf>,
    /// File of the store.
    pub store: PathBuf,
    /// The maintenance windows.
    pub maintenance: Arc<[crate::calendar::Window]>,
    /// For `audit`; `None`: none is kept.
    pub audit: Option<crate::audit::Settings>,
    /// Where sockets and locks go; not created yet.
    pub runtime_dir: PathBuf,
    /// How and what is logged.
    pub log: LogSettings,
    /// How long a shutdown may take before the node ends anyway. Default 10 s.
    pub shutdown_deadline: Duration,
    /// Environment variables that the configuration reads, those that hold its secrets among them: no command gets them.
    pub variables: Vec<String>,
    /// The peers' own heartbeat channels, each once.
    pub own_channels: Vec<Arc<str>>,
    /// Channels of data that checks name: nothing is ever published on one.
    pub data_channels: Vec<Arc<str>>,
    /// What is allowed and probably not meant.
    pub warnings: Vec<String>,
    engine: EngineSettings,
}

impl Config {
    /// The engine's settings for a run with this boot id.
    pub fn engine_settings(&self, boot: Arc<str>) -> EngineSettings {
        EngineSettings {
            boot,
            dry_run: self.dry_run,
            ..self.engine.clone()
        }
    }
}

/// How and what is logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// Default `auto`.
    pub format: LogFormat,
    /// A filter of `tracing-subscriber`. Default `info`.
    pub level: String,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// JSON in Kubernetes, human elsewhere.
    Auto,
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

/// Every mistake of a configuration, in the order of its sources. `Display` is what people read: one block each,
/// and a last line with their number; no trailing newline.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// For `--on-bad-config=observe`: the listeners, as far as they could be read, else the defaults.
    pub http: http::Settings,
    /// The logging, as far as it could be read, else the defaults.
    pub log: LogSettings,
    /// The listeners were read: `http` is where a node with this configuration listens.
    pub knows_listeners: bool,
    text: String,
    count: usize,
}

impl Report {
    fn of(problems: &report::Problems, base: build::Base, knows_listeners: bool) -> Self {
        let (text, count) = problems.render();
        Self {
            http: base.http,
            log: base.log,
            knows_listeners: knows_listeners && !problems.are_of_syntax(),
            text,
            count,
        }
    }

    /// Number of mistakes; at least 1.
    pub fn count(&self) -> usize {
        self.count
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Report {}

/// Reads and validates a configuration; starts nothing. Every mistake is reported, not only the first.
pub fn load(sources: &Sources) -> Result<Config, Report> {
    let problems = report::Problems::of(sources.file.clone());
    let tree = tree::gather(sources, &problems);
    let secrets = RefCell::default();
    let context = reader::Context {
        problems: &problems,
        env: &sources.env,
        secrets: &secrets,
    };
    let root = reader::Reader::root(&tree, &fields::ROOT, context);
    let dirs = dirs::Dirs::of(&sources.env);
    let (base, base_is_good) = build::base(&root, &dirs);
    let config = build::config(&root, sources, &dirs, &base);
    if let Some(over) = &sources.over {
        match &config {
            Ok(config) => restart::needed(&root, config, &over.config),
            // A mistake elsewhere must not hide what another attempt would be refused for.
            Err(_) if problems.are_of_syntax() => {}
            Err(_) => {
                if let Some(frame) = restart::frame(sources, &tree, &dirs) {
                    restart::needed(&root, &frame, &over.config);
                }
            }
        }
    }
    match config {
        Ok(config) if base_is_good.is_ok() && problems.is_empty() => Ok(config),
        _ => Err(Report::of(&problems, base, base_is_good.is_ok())),
    }
}

/// Variables that were read as `secrets`, that set a key, and those that a text refers to. What only looks like a reference
/// does no harm here.
fn variables(sources: &Sources, secrets: &BTreeSet<String>) -> Vec<String> {
    let setting = sources.env.iter().filter(|(name, _)| name.starts_with("DEFIB__"));
    let file = sources.file.iter().flat_map(|(_, text)| text.lines());
    let lines = file
        .filter(|line| !line.trim_start().starts_with('#'))
        .chain(sources.set.iter().map(String::as_str))
        .chain(setting.clone().map(|(_, text)| text.as_str()));
    let referred = lines
        .flat_map(|line| line.split("${").skip(1))
        .filter_map(|rest| rest.split([':', '}']).next());
    let names: BTreeSet<&str> = setting
        .map(|(name, _)| name.as_str())
        .chain(referred)
        .chain(secrets.iter().map(String::as_str))
        .collect();
    names.into_iter().map(str::to_owned).collect()
}

/// `204` or `200-299` as a range; `None` if it is neither or out of 100 ..= 599.
pub fn statuses(text: &str) -> Option<std::ops::RangeInclusive<u16>> {
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    let (low, high) = (low.trim().parse().ok()?, high.trim().parse().ok()?);
    (100 <= low && low <= high && high <= 599).then_some(low..=high)
}
