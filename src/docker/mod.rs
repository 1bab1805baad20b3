//! The Docker engine, as far as defib needs it: find a container, look at it, follow its events, restart, start or
//! kill it. A leaf: it knows no peers' checks and no remedies, and decides nothing.
//!
//! bollard speaks the API; the connections under it are ours (`connect`), because its own have no bound on an
//! answer's size and none on connecting. Every call has a connection of its own, which nothing outlives, and one
//! bound on everything from connecting to the answer's last byte.

mod acts;
mod connect;
mod container;
mod discover;
mod events;
mod logs;
mod own;
mod project;
mod selector;
mod sharing;
mod stats;

use std::io;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bollard::ClientVersion;
use bollard::errors::Error as Said;
use bollard::query_parameters::{
    KillContainerOptions, ListContainersOptions, RestartContainerOptions, StartContainerOptions,
};

pub use acts::{Act, Sighting};
pub use connect::{Host, HostError, Identity};
pub use container::{Container, Health, Life, RestartPolicy, State};
pub use discover::{Discover, ENABLED};
pub use events::{End, Events, Happening, What};
pub use own::own_id;
pub use project::Composed;
pub use selector::{Found, Selector, SelectorError};
pub use sharing::Sharers;

/// Most bytes of one answer. A list of containers takes 1 to 3 KiB for each.
const MAX_ANSWER: u64 = 8 * 1024 * 1024;
/// What Docker may need on top of the stop timeout until it answers: to kill, to tear down and set up the network.
const STOP_SLACK: Duration = Duration::from_secs(30);

/// Where the engine is, and how long it has for an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Default `unix:///var/run/docker.sock`.
    pub host: Host,
    /// Bound on each call that only looks, from connecting to the last byte. Default 5 s.
    pub timeout: Duration,
    /// Where containers are looked for that ask to be watched, once, at the start. Default off.
    pub discover: Discover,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            host: Host::Unix("/var/run/docker.sock".into()),
            timeout: Duration::from_secs(5),
            discover: Discover::Off,
        }
    }
}

/// Why the engine gave no usable answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No connection: certainly nothing was asked.
    #[error("cannot connect to Docker at {host}: {source}")]
    Connect {
        /// Where.
        host: Host,
        /// Why.
        source: io::Error,
    },
    /// It does not answer in time.
    #[error("Docker at {host} has not answered within {within:?}")]
    TimedOut {
        /// Where.
        host: Host,
        /// The bound.
        within: Duration,
    },
    /// It answers no.
    #[error("Docker refuses ({status}): {message}")]
    Refused {
        /// The answer's status.
        status: u16,
        /// In its own words, shortened.
        message: String,
    },
    /// The answer broke off, is too long, or is not what the API promises.
    #[error("Docker's answer cannot be used: {0}")]
    Malformed(String),
}

impl Error {
    /// What to do about it, if that can be told.
    pub fn cure(&self) -> Option<&'static str> {
        match self {
            Self::Connect { host, source } => connect::cure(host, source),
            Self::Refused { status: 403, .. } => Some("let the proxy before Docker's socket permit it"),
            Self::TimedOut { .. } | Self::Refused { .. } | Self::Malformed(_) => None,
        }
    }

    /// In words, with what to do about it.
    pub fn with_cure(&self) -> String {
        match self.cure() {
            Some(cure) => format!("{self}; {cure}"),
            None => self.to_string(),
        }
    }

    /// True if certainly nothing was done.
    pub const fn nothing_done(&self) -> bool {
        matches!(self, Self::Connect { .. })
    }

    /// True if there is no such container.
    pub const fn is_missing(&self) -> bool {
        matches!(self, Self::Refused { status: 404, .. })
    }
}

/// The engine's API. Clones share what is remembered of it.
#[derive(Clone)]
pub struct Docker(Arc<Inner>);

struct Inner {
    settings: Settings,
    /// The API's version that both sides know, once it was asked for.
    version: Mutex<Option<ClientVersion>>,
    own_project: OnceLock<Option<String>>,
    acts: acts::Acts,
}

impl Docker {
    /// Connects to nothing yet.
    pub fn new(settings: Settings) -> Self {
        Self(Arc::new(Inner {
            settings,
            version: Mutex::default(),
            own_project: OnceLock::new(),
            acts: acts::Acts::default(),
        }))
    }

    /// Bound on each call that only looks.
    pub fn timeout(&self) -> Duration {
        self.0.settings.timeout
    }

    /// The container of that id, name, or beginning of an id.
    ///
    /// # Errors
    /// If there is none, or the engine does not say. `reference` must hold only what a container's name may.
    pub async fn inspect(&self, reference: &str) -> Result<Container, Error> {
        selector::check_reference(reference).map_err(|wrong| Error::Malformed(wrong.to_string()))?;
        let answer = self
            .call(self.timeout(), async |docker| {
                docker.inspect_container(reference, None).await
            })
            .await?;
        Container::of(answer).map_err(Error::Malformed)
    }

    /// Ids of the containers with all these labels, running or not.
    async fn with_labels(
        &self,
        labels: Vec<String>,
    ) -> Result<Vec<bollard::models::ContainerSummary>, Error> {
        let options = ListContainersOptions {
            all: true,
            filters: (!labels.is_empty()).then(|| [("label".to_owned(), labels)].into()),
            ..ListContainersOptions::default()
        };
        self.call(self.timeout(), async |docker| {
            docker.list_containers(Some(options.clone())).await
        })
        .await
    }

    /// Stops the container, waiting `stop` for its end before it is killed, and starts it again.
    ///
    /// # Errors
    /// If it was not done, or perhaps was.
    pub async fn restart(&self, id: &str, stop: Duration) -> Result<(), Error> {
        let options = RestartContainerOptions {
            t: i32::try_from(stop.as_secs()).ok(),
            ..RestartContainerOptions::default()
        };
        self.call(stop + STOP_SLACK, async |docker| {
            docker.restart_container(id, Some(options.clone())).await
        })
        .await
    }

    /// Starts a container that has ended.
    ///
    /// # Errors
    /// If it was not done, or perhaps was.
    pub async fn start(&self, id: &str) -> Result<(), Error> {
        self.call(STOP_SLACK, async |docker| {
            docker.start_container(id, None::<StartContainerOptions>).await
        })
        .await
    }

    /// Sends a signal to the container's first process.
    ///
    /// # Errors
    /// If it was not done, or perhaps was.
    pub async fn kill(&self, id: &str, signal: &str) -> Result<(), Error> {
        let options = KillContainerOptions {
            signal: signal.to_owned(),
        };
        self.call(STOP_SLACK, async |docker| {
            docker.kill_container(id, Some(options.clone())).await
        })
        .await
    }

    /// One call on a connection of its own.
    async fn call<T>(
        &self,
        within: Duration,
        ask: impl AsyncFnOnce(&bollard::Docker) -> Result<T, Said>,
    ) -> Result<T, Error> {
        let host = &self.0.settings.host;
        let asking = async {
            let mut connection = self.open(MAX_ANSWER).await?;
            let answer = connect::drive(&mut connection.driver, ask(&connection.docker)).await;
            answer.map_err(|said| self.understand(said))
        };
        tokio::time::timeout(within, asking).await.unwrap_or_else(|_| {
            Err(Error::TimedOut {
                host: host.clone(),
                within,
            })
        })
    }

    /// A connection of the version that both sides know.
    async fn open(&self, limit: u64) -> Result<connect::Connection, Error> {
        let host = &self.0.settings.host;
        let failed = |source| Error::Connect {
            host: host.clone(),
            source,
        };
        let known = *self.version();
        let version = match known {
            Some(version) => version,
            None => {
                // bollard asks for it by a path without a version, which every engine takes.
                let newest = bollard::API_DEFAULT_VERSION;
                let asking = connect::open(host, MAX_ANSWER, newest).await.map_err(failed)?;
                let connect::Connection {
                    docker, mut driver, ..
                } = asking;
                let agreed = connect::drive(&mut driver, docker.negotiate_version()).await;
                let version = agreed.map_err(|said| self.understand(said))?.client_version();
                *self.version() = Some(version);
                version
            }
        };
        connect::open(host, limit, &version).await.map_err(failed)
    }

    fn version(&self) -> std::sync::MutexGuard<'_, Option<ClientVersion>> {
        self.0.version.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn understand(&self, said: Said) -> Error {
        match said {
            Said::DockerResponseServerError { status_code, message } => {
                if status_code == 400 {
                    // An engine that was downgraded refuses the version of before.
                    *self.version() = None;
                }
                Error::Refused {
                    status: status_code,
                    message: shown(&message),
                }
            }
            other => Error::Malformed(shown(&with_sources(&other))),
        }
    }
}

impl std::fmt::Debug for Docker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Docker").field(&self.0.settings).finish()
    }
}

fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(below) = source {
        let words = below.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        source = below.source();
    }
    text
}

/// Somebody else's words, fit for a line of a log.
fn shown(text: &str) -> String {
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    text.trim().chars().take(300).map(plain).collect()
}
