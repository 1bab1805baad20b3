//! Logging: human unless in Kubernetes or asked for JSON. `warn` means that somebody may have to look.

use std::borrow::Cow;
use std::io::IsTerminal;
use std::str::FromStr;

use tracing::Level;
use tracing_subscriber::filter::{ParseError, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

pub use super::lines::LastWords;
use super::lines::Lines;
use crate::engine::decision::{Notice, What};
use crate::engine::guards::GuardName;
use crate::engine::peer::Liveness;
use crate::engine::self_trust::BusState;

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// JSON in Kubernetes (`KUBERNETES_SERVICE_HOST` is set), else human.
    #[default]
    Auto,
    /// A line that a person reads.
    Human,
    /// One JSON object a line.
    Json,
}

impl Format {
    /// What `Auto` means here.
    #[must_use]
    pub fn resolved(self, in_kubernetes: bool) -> Self {
        match self {
            Self::Auto if in_kubernetes => Self::Json,
            Self::Auto => Self::Human,
            Self::Human | Self::Json => self,
        }
    }
}

impl FromStr for Format {
    type Err = LogError;
    fn from_str(text: &str) -> Result<Self, LogError> {
        match text {
            "auto" => Ok(Self::Auto),
            "human" => Ok(Self::Human),
            "json" => Ok(Self::Json),
            other => Err(LogError::Format(other.to_owned())),
        }
    }
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// No such format.
    #[error("no log format is called {0:?}: it is auto, human or json")]
    Format(String),
    /// The filter cannot be read.
    #[error(
        "cannot read the log filter {filter:?}: {source}; write a level (info) or target=level pairs (info,defib::bus=debug)"
    )]
    Filter {
        /// As given.
        filter: String,
        /// Why.
        source: ParseError,
    },
    /// No thread could be made to write them.
    #[error("cannot start the thread that writes the log: {0}")]
    Thread(std::io::Error),
    /// Somebody was first.
    #[error("logging is already set up in this process")]
    AlreadySet,
}

/// Sends log lines to stderr, stdout being for what a command prints. `filter` is a level (`info`) or
/// `target=level` pairs (`info,defib::bus=debug`). Once in a process. Whoever logs never waits for stderr.
pub fn init(format: Format, filter: &str) -> Result<LastWords, LogError> {
    let levels = levels(filter).map_err(|source| LogError::Filter {
        filter: filter.to_owned(),
        source,
    })?;
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let (writer, last_words) = Lines::written_to(std::io::stderr()).map_err(LogError::Thread)?;
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(move || writer.clone())
        .with_ansi(colour)
        .with_target(false);
    let in_kubernetes = std::env::var_os("KUBERNETES_SERVICE_HOST").is_some();
    let filtered = tracing_subscriber::registry().with(levels);
    let set = match format.resolved(in_kubernetes) {
        Format::Json => {
            let lines = lines
                .json()
                .flatten_event(true)
                .with_current_span(false)
                .with_target(true);
            filtered.with(lines).try_init()
        }
        Format::Human | Format::Auto => filtered.with(lines).try_init(),
    };
    set.map(|()| last_words).map_err(|_| LogError::AlreadySet)
}

/// What a filter lets through. (tracing's `EnvFilter` could ask for spans and their fields as well: nothing here makes
/// any, and it brings a machine for regular expressions.)
///
/// # Errors
/// What cannot be read.
pub fn levels(filter: &str) -> Result<Targets, ParseError> {
    filter.parse()
}

/// Writes a notice to the log.
pub fn log_notice(notice: &Notice) {
    let event = notice.what.name();
    let peer = notice.peer.as_deref();
    let text = notice.what.to_string();
    let text = printable(&text);
    match level(&notice.what) {
        Level::ERROR => tracing::error!(peer, event, "{text}"),
        Level::WARN => tracing::warn!(peer, event, "{text}"),
        Level::INFO => tracing::info!(peer, event, "{text}"),
        _ => tracing::debug!(peer, event, "{text}"),
    }
}

/// How loud: `error`, somebody has to look; `warn`, somebody may have to; `info`, the audit.
fn level(what: &What) -> Level {
    match what {
        What::GaveUp { .. } | What::ConfigRefused { .. } => Level::ERROR,
        What::Liveness {
            to: Liveness::Dead, ..
        }
        | What::Stalled { .. }
        | What::Granted { .. }
        | What::WouldHeal { .. }
        | What::MassSilenceTripped { .. }
        | What::DuplicateNode { .. }
        | What::ExitedInstead { .. }
        | What::Acted {
            outcome: "failed" | "not_acted",
            ..
        } => Level::WARN,
        What::Bus { state, .. } => match state {
            BusState::Starting | BusState::Trusted => Level::INFO,
            BusState::BrokerUnreachable
            | BusState::BusRefused
            | BusState::SelfMute
            | BusState::SelfDeaf
            | BusState::WrongBroker => Level::WARN,
        },
        What::LeaveOverdue { .. } => Level::WARN,
        What::Refused { refusal, .. } if refusal.guard == GuardName::Budget => Level::WARN,
        What::Liveness { .. }
        | What::Incarnation { .. }
        | What::Goodbye
        | What::EpisodeOpened { .. }
        | What::Refused { .. }
        | What::Acted { .. }
        | What::Recovered { .. }
        | What::EpisodeClosed { .. }
        | What::MassSilenceEnded
        | What::ConfigReloaded { .. }
        | What::Maintenance { .. }
        | What::Restart { .. }
        | What::Operator { .. } => Level::INFO,
    }
}

/// `text` on one line and without what steers a terminal: incarnations come off the bus, reasons from
/// operators, and neither may forge a log line or paint somebody's screen.
pub fn printable(text: &str) -> Cow<'_, str> {
    if text.chars().any(is_hostile) {
        Cow::Owned(
            text.chars()
                .map(|c| if is_hostile(c) { '\u{fffd}' } else { c })
                .collect(),
        )
    } else {
        Cow::Borrowed(text)
    }
}

/// Control characters, and those that turn the direction of writing.
fn is_hostile(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::guards::Refusal;

    #[test]
    fn auto_is_json_in_kubernetes_only() {
        assert_eq!(Format::Auto.resolved(true), Format::Json);
        assert_eq!(Format::Auto.resolved(false), Format::Human);
        assert_eq!(Format::Human.resolved(true), Format::Human);
        assert_eq!("json".parse::<Format>().unwrap(), Format::Json);
        assert!(
            "xml"
                .parse::<Format>()
                .unwrap_err()
                .to_string()
                .contains("auto, human or json")
        );
    }

    #[test]
    fn warn_means_that_somebody_may_have_to_look() {
        let refused = |guard| What::Refused {
            episode: 1,
            refusal: Refusal {
                guard,
                why: String::new(),
                until: None,
            },
        };
        let gave_up = What::GaveUp {
            episode: 1,
            remedies: 3,
            detail: String::new(),
        };
        assert_eq!(level(&gave_up), Level::ERROR);
        assert_eq!(level(&refused(GuardName::Budget)), Level::WARN);
        assert_eq!(level(&refused(GuardName::Backoff)), Level::INFO);
        assert_eq!(
            level(&What::Bus {
                state: BusState::Trusted,
                detail: String::new()
            }),
            Level::INFO
        );
        assert_eq!(
            level(&What::Bus {
                state: BusState::SelfDeaf,
                detail: String::new()
            }),
            Level::WARN
        );
    }

    #[test]
    fn nothing_forges_a_line() {
        assert_eq!(printable("all good, even ümläuts"), "all good, even ümläuts");
        assert_eq!(
            printable("x\n2026 ERROR forged\x1b[2J"),
            "x\u{fffd}2026 ERROR forged\u{fffd}[2J"
        );
        assert_eq!(printable("a\u{202e}b"), "a\u{fffd}b");
    }
}
