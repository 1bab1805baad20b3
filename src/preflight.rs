//! Can it work here? The words for what a check or a remedy needs of its surroundings, and the running of the looks.
//!
//! Each edge offers the looks for its own types; `app` gathers them for `defib doctor` and for the node's start. A
//! leaf: it knows no edge and no configuration. A look changes nothing, and what it cannot tell is `unknown`: that
//! nothing listens on a port today is no fault of the setup.

use std::fmt;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::{self, StreamExt};
use rustix::fs::{Access, AtFlags, CWD, accessat};
use serde::{Deserialize, Serialize};

/// Looks that run at once: most wait for a server or for a thread that walks through /proc.
const AT_ONCE: usize = 8;

/// What kind of thing is looked at: a label of the metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// The links to the server, and what its ACL permits.
    Bus,
    /// The admin listener's socket.
    AdminSocket,
    /// The directory of sockets and locks.
    RuntimeDir,
    /// The file that survives a restart.
    Store,
    /// The leases of applications.
    Leases,
    /// The group's leave to restart something.
    Fleet,
    /// A `[blocker.NAME]`.
    Blocker,
    /// A node that is asked for its votes over HTTP.
    Votes,
    /// The keys by which heartbeats are signed and verified.
    Signing,
    /// `heartbeat.file`.
    HeartbeatFile,
    /// A `[when.NAME]`.
    Expectation,
    /// How a peer's process is found.
    Owner,
    /// A check of a peer.
    Check,
    /// A remedy of a peer.
    Remedy,
    /// A `[notify.NAME]`.
    Notify,
}

impl Part {
    /// As in JSON and in the metric.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bus => "bus",
            Self::AdminSocket => "admin_socket",
            Self::RuntimeDir => "runtime_dir",
            Self::Store => "store",
            Self::Leases => "leases",
            Self::Fleet => "fleet",
            Self::Blocker => "blocker",
            Self::Votes => "votes",
            Self::Signing => "signing",
            Self::HeartbeatFile => "heartbeat_file",
            Self::Expectation => "expectation",
            Self::Owner => "owner",
            Self::Check => "check",
            Self::Remedy => "remedy",
            Self::Notify => "notify",
        }
    }
}

/// What was looked at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Subject {
    /// What kind of thing.
    pub part: Part,
    /// Whose it is; empty: the node's own.
    pub peer: Arc<str>,
    /// Which of several: a check's or an expectation's name, a remedy's kind; else empty.
    pub name: Arc<str>,
}

impl Subject {
    /// A part of the node's own.
    pub fn node(part: Part) -> Self {
        Self {
            part,
            peer: "".into(),
            name: "".into(),
        }
    }

    /// A part of a peer's.
    pub fn peer(part: Part, peer: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self {
            part,
            peer: peer.into(),
            name: name.into(),
        }
    }

    /// Together with how it is found out.
    pub fn look(self, finding: impl Future<Output = Finding> + Send + 'static) -> Look {
        Look {
            subject: self,
            finding: finding.boxed(),
        }
    }

    /// The same with something that may wait for a disk or for another process's locks.
    pub fn look_blocking(self, finding: impl FnOnce() -> Finding + Send + 'static) -> Look {
        self.look(async move {
            let looked = tokio::task::spawn_blocking(finding).await;
            looked.unwrap_or_else(|error| Finding::unknown(format!("the look broke off: {error}")))
        })
    }
}

/// `store`, `feed owner`, `feed check status`, `expectation car`.
impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.peer.is_empty() {
            write!(f, "{} ", self.peer)?;
        }
        f.write_str(&self.part.as_str().replace('_', " "))?;
        if !self.name.is_empty() {
            write!(f, " {}", self.name)?;
        }
        Ok(())
    }
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "finding", rename_all = "snake_case")]
pub enum Finding {
    /// It can work here.
    Ok {
        /// Worth knowing all the same.
        note: Option<String>,
    },
    /// It cannot: something is missing.
    Missing {
        /// What.
        reason: String,
        /// What to do; where it is a command or a rule, ready to be pasted.
        cure: String,
    },
    /// It could not be told.
    Unknown {
        /// Why.
        reason: String,
    },
}

impl Finding {
    /// It can work, and nothing more is to be said.
    pub const OK: Self = Self::Ok { note: None };

    /// It can work, and this is worth knowing.
    pub fn noted(note: impl Into<String>) -> Self {
        Self::Ok {
            note: Some(note.into()),
        }
    }

    /// It cannot work.
    pub fn missing(reason: impl Into<String>, cure: impl Into<String>) -> Self {
        Self::Missing {
            reason: reason.into(),
            cure: cure.into(),
        }
    }

    /// It could not be told.
    pub fn unknown(reason: impl Into<String>) -> Self {
        Self::Unknown {
            reason: reason.into(),
        }
    }

    /// True if it certainly cannot work.
    pub const fn is_missing(&self) -> bool {
        matches!(self, Self::Missing { .. })
    }
}

/// One line; a cure follows its reason.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ok { note: None } => f.write_str("ok"),
            Self::Ok { note: Some(note) } => write!(f, "ok: {note}"),
            Self::Missing { reason, cure } => write!(f, "{reason}; {cure}"),
            Self::Unknown { reason } => write!(f, "cannot tell: {reason}"),
        }
    }
}

/// One thing that was looked at, and what was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// What.
    #[serde(flatten)]
    pub subject: Subject,
    /// And how it is.
    #[serde(flatten)]
    pub finding: Finding,
}

/// One thing to look at.
pub struct Look {
    subject: Subject,
    finding: BoxFuture<'static, Finding>,
}

impl fmt::Debug for Look {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Look").field(&self.subject).finish()
    }
}

/// Bounds on looking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// For one look.
    pub each: Duration,
    /// For all of them together; what was not looked at by then is `unknown`.
    pub all: Duration,
}

/// Looks at everything, several at once. The answers are in the order of the questions, one for each.
pub async fn run(looks: Vec<Look>, patience: Patience) -> Vec<Item> {
    let subjects: Vec<Subject> = looks.iter().map(|look| look.subject.clone()).collect();
    let mut items = Vec::with_capacity(looks.len());
    let answers = looks.into_iter().map(|look| one(look, patience.each));
    let mut answers = pin!(
        stream::iter(answers)
            .buffered(AT_ONCE)
            .take_until(tokio::time::sleep(patience.all))
    );
    while let Some(item) = answers.next().await {
        items.push(item);
    }
    let left = subjects.into_iter().skip(items.len());
    items.extend(left.map(|subject| Item {
        subject,
        finding: Finding::unknown(format!("all looks together took longer than {:?}", patience.all)),
    }));
    items
}

async fn one(Look { subject, finding }: Look, within: Duration) -> Item {
    let looked = tokio::time::timeout(within, finding).await;
    Item {
        subject,
        finding: looked.unwrap_or_else(|_| Finding::unknown(format!("no answer within {within:?}"))),
    }
}

/// Whether files can be made in `dir`, or it itself where it is not there yet. May block.
pub fn writable_dir(dir: &Path) -> Finding {
    let shown = dir.display();
    let ask = |path: &Path| accessat(CWD, path, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS);
    // The nearest that is there must let the next one be made.
    let there = dir
        .ancestors()
        .find(|above| above.as_os_str().is_empty() || above.exists());
    let Some(there) = there else {
        return Finding::unknown(format!("nothing above {shown} can be seen"));
    };
    let there = if there.as_os_str().is_empty() {
        Path::new(".")
    } else {
        there
    };
    let uid = rustix::process::geteuid().as_raw();
    match ask(there) {
        Ok(()) if there.is_dir() => Finding::OK,
        Ok(()) => Finding::missing(
            format!("{} is not a directory", there.display()),
            format!("remove it, or name another place than {shown}"),
        ),
        Err(rustix::io::Errno::ROFS) => Finding::missing(
            format!("{shown} lies on a read-only file system"),
            format!("mount a volume or a tmpfs at {shown}, or name another place"),
        ),
        Err(error) => Finding::missing(
            format!("uid {uid} may not write in {}: {error}", there.display()),
            format!(
                "chown {uid} {}, or name another place than {shown}",
                there.display()
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Patience = Patience {
        each: Duration::from_millis(50),
        all: Duration::from_millis(500),
    };

    fn look(name: &str, finding: impl Future<Output = Finding> + Send + 'static) -> Look {
        Subject::peer(Part::Check, "feed", name).look(finding)
    }

    #[tokio::test(start_paused = true)]
    async fn answers_keep_their_order_and_each_has_its_bound() {
        let late = async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            Finding::OK
        };
        let looks = vec![
            look("late", late),
            look("never", std::future::pending()),
            look("at once", async { Finding::missing("x", "y") }),
        ];
        let items = run(looks, SHORT).await;
        let told: Vec<String> = items
            .iter()
            .map(|item| format!("{}: {}", item.subject, item.finding))
            .collect();
        assert_eq!(
            told,
            [
                "feed check late: ok",
                "feed check never: cannot tell: no answer within 50ms",
                "feed check at once: x; y",
            ]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn all_together_have_a_bound_too_and_nothing_goes_unanswered() {
        let looks = (0..200)
            .map(|n| look(&n.to_string(), std::future::pending()))
            .collect();
        let items = run(looks, SHORT).await;
        assert_eq!(items.len(), 200);
        assert!(items[199].finding.to_string().contains("all looks together"));
        assert_eq!(&*items[199].subject.name, "199");
    }

    #[test]
    fn a_place_that_can_be_made_is_as_good_as_one_that_is_there() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(writable_dir(dir.path()), Finding::OK);
        assert_eq!(writable_dir(&dir.path().join("a/b/c")), Finding::OK);
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(writable_dir(&file.join("deeper")).is_missing());
    }

    #[test]
    fn json_is_flat() {
        let item = Item {
            subject: Subject::peer(Part::Remedy, "feed", "signal"),
            finding: Finding::missing("no CAP_KILL", "add it"),
        };
        let json = serde_json::to_value(&item).unwrap();
        let expected = serde_json::json!({
            "part": "remedy", "peer": "feed", "name": "signal",
            "finding": "missing", "reason": "no CAP_KILL", "cure": "add it",
        });
        assert_eq!(json, expected);
        assert_eq!(serde_json::from_value::<Item>(json).unwrap(), item);
    }
}
