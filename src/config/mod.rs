//! Configuration: TOML text, `DEFIB__…` variables and `--set` become one validated [`Config`], or a [`Report`] of
//! every mistake at once. Builds the settings of the edges and of the engine; starts nothing.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::engine::settings::Settings as EngineSettings;
use crate::{bus, checks, http, remedies};

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
}

impl Sources {
    /// Reads the file (`None`: the first default place that has one) and the environment of this process.
    pub fn gather(
        file: Option<&Path>,
        set: &[String],
        peers: &[String],
        may_write: bool,
    ) -> Result<Self, Report> {
        let _ = file;
        Ok(Self {
            set: set.to_vec(),
            peers: peers.to_vec(),
            may_write,
            ..Self::default()
        })
    }
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
    pub checks: checks::Settings,
    /// For `remedies`.
    pub remedies: remedies::Settings,
    /// For `http`.
    pub http: http::Settings,
    /// File of the store.
    pub store: PathBuf,
    /// Where sockets and locks go; not created yet.
    pub runtime_dir: PathBuf,
    /// How and what is logged.
    pub log: LogSettings,
    /// How long a shutdown may take before the node ends anyway. Default 10 s.
    pub shutdown_deadline: Duration,
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
    text: String,
    count: usize,
}

impl Report {
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

/// Under construction.
pub fn load(sources: &Sources) -> Result<Config, Report> {
    let _ = (sources, SocketAddr::from(([127, 0, 0, 1], 7337)));
    Err(Report {
        http: http::Settings {
            listen: SocketAddr::from(([127, 0, 0, 1], 7337)),
            admin_socket: None,
            admin_listen: None,
            max_connections: 256,
        },
        log: LogSettings {
            format: LogFormat::Auto,
            level: "info".to_owned(),
        },
        text: "under construction".to_owned(),
        count: 1,
    })
}

/// `204` or `200-299` as a range; `None` if it is neither or out of 100 ..= 599.
pub fn statuses(text: &str) -> Option<std::ops::RangeInclusive<u16>> {
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    let (low, high) = (low.trim().parse().ok()?, high.trim().parse().ok()?);
    (100 <= low && low <= high && high <= 599).then_some(low..=high)
}
