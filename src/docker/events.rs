//! The engine's events about one container, as they happen.

use bollard::errors::Error as Said;
use bollard::models::EventMessage;
use bollard::query_parameters::EventsOptions;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::connect::{self, Driver};
use super::container::since_1970;
use super::{Container, Docker, Error, Selector};

/// Most bytes that are read of one answer with events: some thousand. At its end another one is asked for, from the last
/// event on. (bollard parses a line that does not end anew with each piece of it, so a longer one would cost the square
/// of its length.)
const MAX_STREAM: u64 = 1024 * 1024;

/// The event of an end comes a little after it.
const AFTERMATH: Duration = Duration::from_secs(1);

/// What may change what is known of a container. `exec_…`, of which a health check makes three a run, does not.
const ABOUT: [&str; 12] = [
    "start",
    "die",
    "oom",
    "kill",
    "stop",
    "restart",
    "pause",
    "unpause",
    "health_status",
    "destroy",
    "rename",
    "update",
];

/// Something happened to a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Happening {
    /// Its whole id.
    pub id: String,
    /// What it was.
    pub what: What,
    /// When, in nanoseconds after 1970 by the engine's clock.
    pub at: Option<i64>,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// Somebody asked for this signal; `docker stop` and `docker restart` do so, too.
    Kill(String),
    /// It ended, with this code.
    Die(i64),
    /// Anything else: look at it.
    Other,
}

/// How a life of a container ended, as far as the engine remembers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct End {
    /// Somebody asked for it, by this signal.
    pub asked: Option<String>,
    /// Its exit code; `None`: forgotten.
    pub code: Option<i64>,
}

/// Before an answer that is used up is followed by the next.
const BRAKE: Duration = Duration::from_millis(50);

/// A stream of what happens. Dropping it closes its connection.
pub struct Events {
    docker: Docker,
    options: EventsOptions,
    answer: Answer,
    /// When the last event happened, in nanoseconds after 1970 by the engine's clock.
    last: Option<i64>,
}

/// One answer of the engine's.
struct Answer {
    stream: BoxStream<'static, Result<EventMessage, Said>>,
    /// What came while the beginning was waited for.
    first: Option<EventMessage>,
    driver: Driver,
    /// As much was read of it as may be.
    used_up: Arc<AtomicBool>,
    /// It told something.
    told: bool,
}

impl Docker {
    /// Everything from now on that happens to what `selector` means, and perhaps to others. When this returns, the
    /// engine has begun to tell: a look from then on misses nothing.
    ///
    /// # Errors
    /// If the engine does not begin in time.
    pub async fn events(&self, selector: &Selector) -> Result<Events, Error> {
        let own = match selector {
            Selector::Compose { project: None, .. } => {
                tokio::time::timeout(self.timeout(), self.own_project())
                    .await
                    .ok()
                    .and_then(Result::ok)
                    .flatten()
            }
            _ => None,
        };
        let which = match (selector, selector.labels(own.as_deref())) {
            (Selector::Name(name), _) => ("container".to_owned(), vec![name.clone()]),
            (_, labels) => ("label".to_owned(), labels.unwrap_or_default()),
        };
        let about = ABOUT.iter().map(ToString::to_string).collect();
        let filters = [
            ("type".to_owned(), vec!["container".to_owned()]),
            ("event".to_owned(), about),
            which,
        ];
        self.follow(EventsOptions {
            filters: Some(filters.into()),
            ..EventsOptions::default()
        })
        .await
    }

    /// How this life, which has ended, did so. The engine keeps the last 256 events of everything.
    ///
    /// # Errors
    /// If the engine does not say.
    pub async fn how_it_ended(&self, container: &Container) -> Result<End, Error> {
        let (Some(began), Some(ended)) = (
            since_1970(&container.life.started_at),
            since_1970(&container.finished_at),
        ) else {
            return Ok(End::default());
        };
        let about = ["kill", "die"].map(ToOwned::to_owned);
        let filters = [
            ("container".to_owned(), vec![container.life.id.clone()]),
            ("event".to_owned(), about.into()),
        ];
        let mut events = self
            .follow(EventsOptions {
                since: Some(stamp(began)),
                until: Some(stamp(ended + AFTERMATH)),
                filters: Some(filters.into()),
            })
            .await?;
        let mut end = End::default();
        let reading = async {
            while let Ok(happening) = events.next().await {
                match happening.what {
                    What::Kill(signal) if container.asks_for_the_end(&signal) => end.asked = Some(signal),
                    What::Die(code) => {
                        end.code = Some(code);
                        break;
                    }
                    What::Kill(_) | What::Other => {}
                }
            }
        };
        // What has not come by then was forgotten.
        let _ = tokio::time::timeout(self.timeout(), reading).await;
        Ok(end)
    }

    async fn follow(&self, options: EventsOptions) -> Result<Events, Error> {
        Ok(Events {
            docker: self.clone(),
            answer: self.ask_for_events(options.clone()).await?,
            options,
            last: None,
        })
    }

    async fn ask_for_events(&self, options: EventsOptions) -> Result<Answer, Error> {
        let opening = async {
            let connect::Connection {
                docker,
                mut driver,
                answered,
                used_up,
            } = self.open(MAX_STREAM).await?;
            let mut stream = docker.events(Some(options)).boxed();
            let beginning = async {
                tokio::select! {
                    biased;
                    first = stream.next() => first.transpose(),
                    () = answered.notified() => Ok(None),
                }
            };
            let first = connect::drive(&mut driver, beginning)
                .await
                .map_err(|refused| self.understand(refused))?;
            Ok(Answer {
                stream,
                first,
                driver,
                used_up,
                told: false,
            })
        };
        let within = self.timeout();
        tokio::time::timeout(within, opening).await.unwrap_or_else(|_| {
            Err(Error::TimedOut {
                host: self.0.settings.host.clone(),
                within,
            })
        })
    }
}

impl Events {
    /// The next; an error ends it. One that happened right before a new answer was asked for may be told twice.
    /// Cancel-safe.
    pub async fn next(&mut self) -> Result<Happening, Error> {
        loop {
            let next = match self.answer.first.take() {
                Some(first) => Some(Ok(first)),
                None => connect::drive(&mut self.answer.driver, self.answer.stream.next()).await,
            };
            match next {
                Some(Ok(message)) => {
                    self.answer.told = true;
                    self.last = message.time_nano.or(self.last);
                    if let Some(happening) = happening(message) {
                        return Ok(happening);
                    }
                }
                // Of one that told nothing there is nothing to go on from.
                _ if self.answer.told && self.answer.used_up.load(Ordering::Relaxed) => self.go_on().await?,
                Some(Err(said)) => return Err(self.docker.understand(said)),
                None => return Err(Error::Malformed("it ended its stream of events".to_owned())),
            }
        }
    }

    /// Asks for what has happened since the last event. That was a moment ago, so that the engine, which remembers 256
    /// events of everything, has it all: after a real gap nothing is asked for that is past.
    async fn go_on(&mut self) -> Result<(), Error> {
        // One that fills each answer at once would otherwise be asked without an end.
        tokio::time::sleep(BRAKE).await;
        let nanos = self.last.and_then(|nanos| u64::try_from(nanos).ok());
        let options = EventsOptions {
            since: nanos.map(|nanos| stamp(Duration::from_nanos(nanos))),
            ..self.options.clone()
        };
        self.answer = self.docker.ask_for_events(options).await?;
        Ok(())
    }
}

/// A time as the engine takes it.
fn stamp(at: Duration) -> String {
    format!("{}.{:09}", at.as_secs(), at.subsec_nanos())
}

fn happening(message: EventMessage) -> Option<Happening> {
    let actor = message.actor?;
    let attribute = |key: &str| actor.attributes.as_ref()?.get(key);
    let what = match message.action?.as_str() {
        "kill" => What::Kill(attribute("signal").cloned().unwrap_or_default()),
        "die" => What::Die(
            attribute("exitCode")
                .and_then(|code| code.parse().ok())
                .unwrap_or(-1),
        ),
        _ => What::Other,
    };
    Some(Happening {
        id: actor.id?,
        what,
        at: message.time_nano,
    })
}
