//! A connection to the manager of one unit: looks at it, follows it, and asks for a job.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::time::Duration;

use super::connection::{BUS, Connection, refusal};
use super::unit::{Of, REST, STAMP, Stamp};
use super::wire::{Call, Kind, Message};
use super::{Error, Invocation, Job, Systemd, Unit, UnitRef};

const SYSTEMD: &str = "org.freedesktop.systemd1";
const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const UNIT: &str = "org.freedesktop.systemd1.Unit";
const SERVICE: &str = "org.freedesktop.systemd1.Service";
const JOB: &str = "org.freedesktop.systemd1.Job";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";

/// Looks at a unit that changes all the time.
const MOST_LOOKS: usize = 5;
/// News of jobs that are remembered until somebody asks.
const MOST_NEWS: usize = 32;

/// A connection to the manager of one unit.
pub struct Session {
    connection: Connection,
    systemd: Systemd,
    /// The unit's object.
    path: String,
    heard: Heard,
    follows: bool,
}

/// What signals told, and nobody has taken note of yet.
#[derive(Default)]
struct Heard {
    /// systemd's own address on the bus. Anybody may send a signal; the bus writes down who did.
    systemd: String,
    unit: String,
    unit_path: String,
    /// Something became of the unit or of the manager.
    changed: bool,
    /// Another systemd is on the bus: it must be asked again to send signals.
    replaced: bool,
    /// Of jobs of the unit, in their order.
    jobs: VecDeque<News>,
}

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobEnd {
    /// It was done.
    Done,
    /// Somebody called it off.
    Canceled,
    /// It took longer than it may.
    TimedOut,
    /// The unit failed.
    Failed,
    /// Another unit that it needs failed.
    Dependency,
    /// There was nothing to do.
    Skipped,
    /// In systemd's word.
    Other(String),
}

/// What became of a unit that is followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// It may be in another state: look.
    Changed,
    /// A job of it began: its object.
    JobBegan(String),
    /// A job of it ended: its object, and how.
    JobEnded(String, JobEnd),
}

/// A job that can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Start it, if it is not up.
    Start,
    /// Stop it and start it again; nothing if it is not up, so that no stop is undone.
    TryRestart,
}

/// Which processes of a unit get a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whom {
    /// The main process.
    Main,
    /// All of its cgroup.
    All,
}

impl Session {
    /// Connects, finds systemd and the unit's object. A unit that systemd cannot find has one, too.
    pub(super) async fn open(systemd: &Systemd, socket: &Path, unit: &UnitRef) -> Result<Self, Error> {
        let mut connection = Connection::open(socket, systemd.timeout()).await?;
        let owner = connection.bus("GetNameOwner", &(SYSTEMD,)).await?;
        let (owner,): (String,) = owner.arguments().ok_or_else(|| malformed("GetNameOwner"))?;
        let mut session = Self {
            connection,
            systemd: systemd.clone(),
            path: String::new(),
            heard: Heard {
                systemd: owner,
                unit: unit.name.clone(),
                ..Heard::default()
            },
            follows: false,
        };
        session.load(&unit.name).await?;
        Ok(session)
    }

    async fn load(&mut self, name: &str) -> Result<(), Error> {
        let found = self.manager("LoadUnit", &(name,)).await?;
        let (path,): (zbus::OwnedObjectPath,) = found.arguments().ok_or_else(|| malformed("LoadUnit"))?;
        self.path = path.to_string();
        self.heard.unit_path.clone_from(&self.path);
        Ok(())
    }

    /// From now on [`Session::news`] tells what becomes of the unit.
    ///
    /// # Errors
    /// If systemd or the bus does not let us.
    pub async fn follow(&mut self) -> Result<(), Error> {
        // Its name without an alias: signals about jobs call it so.
        let unit = self.look(None).await?;
        if !unit.name.is_empty() {
            self.heard.unit = unit.name;
        }
        let by_systemd = format!("type='signal',sender='{SYSTEMD}'");
        let rules = [
            format!("{by_systemd},path='{}',interface='{PROPERTIES}'", self.path),
            format!(
                "{by_systemd},interface='{MANAGER}',member='JobNew',arg2='{}'",
                self.heard.unit
            ),
            format!(
                "{by_systemd},interface='{MANAGER}',member='JobRemoved',arg2='{}'",
                self.heard.unit
            ),
            format!("{by_systemd},interface='{MANAGER}',member='Reloading'"),
            format!("type='signal',sender='{BUS}',member='NameOwnerChanged',arg0='{SYSTEMD}'"),
        ];
        for rule in rules {
            self.connection.bus("AddMatch", &(rule,)).await?;
        }
        self.subscribe().await?;
        self.follows = true;
        Ok(())
    }

    /// Without it systemd sends no signals.
    async fn subscribe(&mut self) -> Result<(), Error> {
        match self.manager("Subscribe", &()).await {
            Err(Error::Refused { name, .. }) if name.ends_with(".AlreadySubscribed") => Ok(()),
            other => other.map(drop),
        }
    }

    /// Waits until something becomes of the unit. Nothing is lost if it is not waited for to the end.
    ///
    /// # Errors
    /// If the connection is lost, or systemd is gone from the bus.
    pub async fn news(&mut self) -> Result<News, Error> {
        loop {
            if let Some(news) = self.heard.jobs.pop_front() {
                return Ok(news);
            }
            if std::mem::take(&mut self.heard.replaced) {
                self.subscribe().await?;
                self.heard.changed = true;
            }
            if std::mem::take(&mut self.heard.changed) {
                return Ok(News::Changed);
            }
            let message = self.connection.message().await?;
            self.heard.take(&message);
        }
    }

    /// The unit as it is now; `last` itself if nothing has changed since.
    ///
    /// # Errors
    /// If systemd does not say.
    pub async fn look(&mut self, last: Option<&Unit>) -> Result<Unit, Error> {
        if let Some(last) = last {
            let stamp = self.properties(&STAMP).await?;
            if Stamp::of(&stamp).map_err(Error::Broken)?.is_of(last) {
                return Ok(last.clone());
            }
        }
        let all: Vec<(Of, &str)> = [&STAMP[..], &REST, &STAMP].concat();
        for _ in 0..MOST_LOOKS {
            let values = self.properties(&all).await?;
            let (before, rest) = values.split_at(STAMP.len());
            let (rest, after) = rest.split_at(REST.len());
            let before = Stamp::of(before).map_err(Error::Broken)?;
            if before != Stamp::of(after).map_err(Error::Broken)? {
                continue;
            }
            let job = match before.job.clone() {
                Some(path) => Some(self.job_at(path).await?),
                None => None,
            };
            let unit = Unit::of(before, job, rest).map_err(Error::Broken)?;
            return Ok(self.systemd.remembering(unit));
        }
        Err(Error::Broken("the unit changes while it is looked at".to_owned()))
    }

    async fn job_at(&mut self, path: String) -> Result<Job, Error> {
        let get = Call {
            destination: SYSTEMD,
            path: &path,
            interface: PROPERTIES,
            member: "Get",
        };
        let heard = &mut self.heard;
        let said = self
            .connection
            .call(&get, &(JOB, "JobType"), &mut |signal| heard.take(signal))
            .await;
        let kind = match said {
            Ok(answer) => answer.value(),
            // It was over before it could be asked.
            Err(Error::Refused { .. }) => None,
            Err(error) => return Err(error),
        };
        let kind = match kind {
            Some(super::wire::Value::Text(kind)) => super::shown(&kind),
            _ => String::new(),
        };
        Ok(Job { path, kind })
    }

    /// Values in the order of the questions; `None` for what this systemd does not know.
    async fn properties(&mut self, asked: &[(Of, &str)]) -> Result<Vec<Option<super::wire::Value>>, Error> {
        let calls: Vec<_> = asked
            .iter()
            .map(|(of, property)| {
                let call = Call {
                    destination: SYSTEMD,
                    path: &self.path,
                    interface: PROPERTIES,
                    member: "Get",
                };
                let interface = match of {
                    Of::Unit => UNIT,
                    Of::Service => SERVICE,
                };
                (call, (interface, *property))
            })
            .collect();
        let heard = &mut self.heard;
        let answers = self
            .connection
            .calls(&calls, &mut |signal| heard.take(signal))
            .await?;
        let mut values = Vec::with_capacity(answers.len());
        for answer in &answers {
            match refusal(answer) {
                Some(Error::Refused { name, .. }) if is_unknown(&name) => values.push(None),
                Some(refused) => return Err(refused),
                None => values.push(answer.value()),
            }
        }
        Ok(values)
    }

    /// Asks for a job and waits for its end, `within` so long. [`Session::follow`] comes first. It is refused if a
    /// job that it would undo is under way.
    ///
    /// # Errors
    /// If it was not done, or perhaps was.
    pub async fn job(&mut self, verb: Verb, within: Duration) -> Result<Option<JobEnd>, Error> {
        debug_assert!(self.follows, "its end could not be heard");
        let member = match verb {
            Verb::Start => "StartUnit",
            Verb::TryRestart => "TryRestartUnit",
        };
        let unit = self.heard.unit.clone();
        // `fail` and not `replace`: somebody's stop that is under way stays one.
        let queued = self.manager(member, &(unit, "fail")).await?;
        let (job,): (zbus::OwnedObjectPath,) = queued.arguments().ok_or_else(|| malformed(member))?;
        let job = job.to_string();
        let ending = async {
            loop {
                while let Some(news) = self.heard.jobs.pop_front() {
                    if let News::JobEnded(ended, end) = news
                        && ended == job
                    {
                        return Ok(end);
                    }
                }
                let message = self.connection.message().await?;
                self.heard.take(&message);
            }
        };
        match tokio::time::timeout(within, ending).await {
            Ok(ended) => ended.map(Some),
            Err(_) => Ok(None),
        }
    }

    /// Sends a signal to processes of the unit.
    ///
    /// # Errors
    /// If it was not done, or perhaps was.
    pub async fn kill(&mut self, whom: Whom, signal: i32) -> Result<(), Error> {
        let whom = match whom {
            Whom::Main => "main",
            Whom::All => "all",
        };
        let unit = self.heard.unit.clone();
        self.manager("KillUnit", &(unit, whom, signal)).await.map(drop)
    }

    /// Has systemd forget the failure of this life and how often the unit was started, so that it may be started again.
    /// This node does not forget it: until then the unit is still seen as failed.
    ///
    /// # Errors
    /// If it was not done, or perhaps was.
    pub async fn reset_failed(&mut self, life: &Invocation) -> Result<(), Error> {
        self.systemd.forgets_failure_of(life);
        let unit = self.heard.unit.clone();
        self.manager("ResetFailedUnit", &(unit,)).await.map(drop)
    }

    /// Whether polkit lets this node's user manage units in general. A rule about one unit may say otherwise: polkit
    /// tells nobody but root what it would say about that.
    ///
    /// # Errors
    /// If polkit is not there, or does not say.
    pub async fn may_manage_units(&mut self) -> Result<bool, Error> {
        let name = zbus::Variant::from(self.connection.unique_name.clone());
        let details: BTreeMap<&str, zbus::Variant<'_>> = [("name", name)].into();
        let nothing: BTreeMap<String, String> = BTreeMap::new();
        let ask = Call {
            destination: "org.freedesktop.PolicyKit1",
            path: "/org/freedesktop/PolicyKit1/Authority",
            interface: "org.freedesktop.PolicyKit1.Authority",
            member: "CheckAuthorization",
        };
        let subject = ("system-bus-name", details);
        let arguments = (
            subject,
            "org.freedesktop.systemd1.manage-units",
            nothing,
            0u32,
            "",
        );
        let answer = self.connection.call(&ask, &arguments, &mut |_| {}).await?;
        let ((may, _, _),): ((bool, bool, BTreeMap<String, String>),) = answer
            .arguments()
            .ok_or_else(|| malformed("CheckAuthorization"))?;
        Ok(may)
    }

    async fn manager<A>(&mut self, member: &str, arguments: &A) -> Result<Message, Error>
    where
        A: serde::Serialize + zbus::wire::DynamicType,
    {
        let call = Call {
            destination: SYSTEMD,
            path: MANAGER_PATH,
            interface: MANAGER,
            member,
        };
        let heard = &mut self.heard;
        self.connection
            .call(&call, arguments, &mut |signal| heard.take(signal))
            .await
    }
}

impl Heard {
    fn take(&mut self, message: &Message) {
        if message.kind != Kind::Signal {
            return;
        }
        let sender = message.sender.as_deref().unwrap_or_default();
        match message.member.as_deref().unwrap_or_default() {
            "NameOwnerChanged" if sender == BUS => {
                if let Some((name, _, owner)) = message.arguments::<(String, String, String)>()
                    && name == SYSTEMD
                {
                    self.changed = true;
                    self.replaced |= !owner.is_empty();
                    self.systemd = owner;
                }
            }
            _ if sender.is_empty() || sender != self.systemd => {}
            "JobNew" => {
                if let Some((_, job, unit)) = message.arguments::<(u32, zbus::OwnedObjectPath, String)>() {
                    self.job(&unit, News::JobBegan(job.to_string()));
                }
            }
            "JobRemoved" => {
                let told = message.arguments::<(u32, zbus::OwnedObjectPath, String, String)>();
                if let Some((_, job, unit, result)) = told {
                    self.job(&unit, News::JobEnded(job.to_string(), JobEnd::of(&result)));
                }
            }
            "PropertiesChanged" => self.changed |= message.path.as_deref() == Some(self.unit_path.as_str()),
            "Reloading" => self.changed = true,
            _ => {}
        }
    }

    /// Whoever does not ask for so long has to look anyway.
    fn job(&mut self, unit: &str, news: News) {
        if unit != self.unit {
            return;
        }
        self.changed = true;
        if self.jobs.len() == MOST_NEWS {
            self.jobs.pop_front();
        }
        self.jobs.push_back(news);
    }
}

impl JobEnd {
    fn of(word: &str) -> Self {
        match word {
            "done" => Self::Done,
            "canceled" => Self::Canceled,
            "timeout" => Self::TimedOut,
            "failed" => Self::Failed,
            "dependency" => Self::Dependency,
            "skipped" => Self::Skipped,
            other => Self::Other(super::shown(other)),
        }
    }
}

/// All that is read of a message by whoever asked for it, or follows a unit: for `fuzzing`.
#[cfg(any(test, fuzzing))]
pub(crate) fn understood(message: &Message) -> String {
    let mut heard = Heard {
        systemd: ":1.1".to_owned(),
        unit: "feed.service".to_owned(),
        unit_path: "/org/freedesktop/systemd1/unit/feed_2eservice".to_owned(),
        ..Heard::default()
    };
    heard.take(message);
    let job = message.arguments::<(zbus::OwnedObjectPath,)>();
    let refused = refusal(message).map(|error| error.with_cure());
    format!(
        "{:?} {job:?} {refused:?} {:?} {}",
        message.value(),
        heard.jobs,
        heard.changed
    )
}

fn is_unknown(name: &str) -> bool {
    ["UnknownProperty", "UnknownInterface", "UnknownMethod"]
        .iter()
        .any(|unknown| name.strip_prefix("org.freedesktop.DBus.Error.") == Some(unknown))
}

fn malformed(member: &str) -> Error {
    Error::Broken(format!(
        "{member} was answered in another way than it is described"
    ))
}
