//! systemd, as far as defib needs it: look at a service, follow what becomes of it, restart, start or kill it. A leaf:
//! it knows no peers' checks and no remedies, and decides nothing.
//!
//! It is asked over D-Bus, the machine's manager or that of this user. Every watch and every act has a connection of
//! its own; every call has one bound, and every message one on its length.

mod acts;
mod connection;
pub(crate) mod inbox;
mod name;
pub(crate) mod session;
mod unit;
mod wire;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub use acts::{Act, Sighting};
pub use name::{NameError, Scope, UnitRef};
pub use session::{JobEnd, News, Session, Verb, Whom};
pub use unit::{Active, Invocation, Job, Unit};

/// Where the buses are, and how long they have for an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Socket of the system's bus. Default `/run/dbus/system_bus_socket`.
    pub system: PathBuf,
    /// Socket of this user's bus; `None`: it is not known where that is.
    pub user: Option<PathBuf>,
    /// Bound on connecting and on each call. Default 5 s.
    pub timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            system: "/run/dbus/system_bus_socket".into(),
            user: None,
            timeout: Duration::from_secs(5),
        }
    }
}

/// Why systemd gave no usable answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No connection: certainly nothing was asked.
    #[error("cannot connect to the bus at {}: {source}", socket.display())]
    Connect {
        /// Where.
        socket: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not known where the user's bus is.
    #[error("it is not known where this user's bus is")]
    NoUserBus,
    /// It does not answer in time.
    #[error("the bus at {} has not answered within {within:?} ({what})", socket.display())]
    TimedOut {
        /// Where.
        socket: PathBuf,
        /// What was asked.
        what: String,
        /// The bound.
        within: Duration,
    },
    /// It answers no.
    #[error("refused ({name}): {message}")]
    Refused {
        /// The error's name.
        name: String,
        /// In its own words, shortened.
        message: String,
    },
    /// The connection broke off, or the answer is not what D-Bus promises.
    #[error("the bus cannot be used: {0}")]
    Broken(String),
}

impl Error {
    /// What to do about it, if that can be told.
    pub fn cure(&self) -> Option<String> {
        let uid = rustix::process::geteuid().as_raw();
        match self {
            Self::Connect { socket, source } => Some(match source.kind() {
                io::ErrorKind::NotFound => format!(
                    "in a container, mount {} from the host; on the host, install and start dbus",
                    socket.display()
                ),
                io::ErrorKind::PermissionDenied => {
                    format!("let uid {uid} connect to {}", socket.display())
                }
                io::ErrorKind::ConnectionRefused => "start dbus (systemctl start dbus.socket)".to_owned(),
                _ => return None,
            }),
            Self::NoUserBus => Some(
                "run the node in the user's session (XDG_RUNTIME_DIR says where), or set systemd.user_bus"
                    .to_owned(),
            ),
            Self::Refused { name, .. } if name == "REJECTED" => Some(format!(
                "run the node as a user that the bus knows, not as uid {uid}, and not in a user namespace"
            )),
            Self::Refused { name, .. }
                if name.ends_with(".ServiceUnknown") || name.ends_with(".NameHasNoOwner") =>
            {
                Some("this bus has no systemd: name the one of the machine's systemd".to_owned())
            }
            Self::TimedOut { .. } | Self::Refused { .. } | Self::Broken(_) => None,
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
        matches!(
            self,
            Self::Connect { .. } | Self::NoUserBus | Self::Refused { .. }
        )
    }

    /// True if this node's user may not do that.
    pub fn is_denied(&self) -> bool {
        let denials = [
            "org.freedesktop.DBus.Error.AccessDenied",
            "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired",
            "org.freedesktop.DBus.Error.AuthFailed",
        ];
        matches!(self, Self::Refused { name, .. } if denials.contains(&name.as_str()))
    }

    /// True if another job of the unit is in the way.
    pub fn is_busy(&self) -> bool {
        let busy = "org.freedesktop.systemd1.TransactionIsDestructive";
        matches!(self, Self::Refused { name, .. } if name == busy)
    }

    /// True if there is no such unit.
    pub fn is_missing(&self) -> bool {
        let missing = "org.freedesktop.systemd1.NoSuchUnit";
        matches!(self, Self::Refused { name, .. } if name == missing)
    }
}

/// The managers of the machine and of this user. Clones share what is remembered of units.
#[derive(Clone, Debug)]
pub struct Systemd(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    settings: Settings,
    acts: acts::Acts,
}

impl Systemd {
    /// Connects to nothing yet.
    pub fn new(settings: Settings) -> Self {
        Self(Arc::new(Inner {
            settings,
            acts: acts::Acts::default(),
        }))
    }

    /// Bound on connecting and on each call.
    pub fn timeout(&self) -> Duration {
        self.0.settings.timeout
    }

    /// Connects to the manager of this unit.
    ///
    /// # Errors
    /// If there is no bus, or no systemd on it, or it does not say.
    pub async fn open(&self, unit: &UnitRef) -> Result<Session, Error> {
        Session::open(self, self.socket(unit.scope)?, unit).await
    }

    fn socket(&self, scope: Scope) -> Result<&Path, Error> {
        match scope {
            Scope::System => Ok(&self.0.settings.system),
            Scope::User => self.0.settings.user.as_deref().ok_or(Error::NoUserBus),
        }
    }
}

/// Rules to paste, so that this node's user may act upon this unit and no other.
pub fn polkit_rule(user: &str, unit: &str) -> String {
    // `a\x2db.service` is another name once JavaScript has read it.
    let unit = unit.replace('\\', "\\\\");
    format!(
        "polkit.addRule(function(action, subject) {{ if (action.id == \"org.freedesktop.systemd1.manage-units\" && \
         subject.user == \"{user}\" && action.lookup(\"unit\") == \"{unit}\") return polkit.Result.YES; }});"
    )
}

/// The name of this process's user, or its number: polkit's rules want names.
pub fn own_user() -> String {
    let uid = rustix::process::geteuid().as_raw().to_string();
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, _, of) = (fields.next()?, fields.next()?, fields.next()?);
        (of == uid).then(|| name.to_owned())
    });
    name.unwrap_or(uid)
}

/// Somebody else's words, fit for a line of a log.
fn shown(text: &str) -> String {
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    text.trim().chars().take(300).map(plain).collect()
}
