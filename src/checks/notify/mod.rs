//! The `notify` check: a socket of the peer's own that speaks systemd's sd_notify protocol, so that whatever was made
//! for its watchdog is watched by setting `NOTIFY_SOCKET`. It passes on what the peer says; it does not judge.
//!
//! It must never make the peer wait: a program that notifies blocks while the socket's queue is full. So everything is
//! read at once, and what is too much is read and dropped.

pub(crate) mod datagram;
mod preflight;
mod sender;
mod socket;

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::geteuid;

use super::{Place, Reporting};
use crate::allowance::Allowance;
use crate::engine::cause::Cause;
use crate::engine::event::{Event, Incarnation, Next, Report, Word};
use crate::owner_table::OwnerTable;
use crate::socket_file::PlaceError;
use crate::telemetry::metrics::checks::Datagram;
use datagram::Said;
pub(super) use preflight::preflight;
use sender::{Main, Whose};
use socket::{Credentials, Mailbox, Placed, Received};

/// A socket that cannot be placed is tried again this often, and one that has lost its name is noticed.
const AGAIN: Duration = Duration::from_secs(5);
/// Datagrams that are listened to: so many together, so many a second.
const BURST: u32 = 200;
const A_SECOND: u32 = 100;
/// Datagrams after which others get their turn, however many wait.
const IN_A_ROW: u32 = 64;
/// And for so long, if some of them were in vain: who floods the socket waits, and not this node.
const BRAKE: Duration = Duration::from_millis(2);
/// No program is watched more closely: own pauses below half a second are not noticed.
pub const LEAST_WATCHDOG: Duration = Duration::from_secs(1);

/// How a peer is listened to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notify {
    /// Where.
    pub socket: PathBuf,
    /// The socket's permissions.
    pub mode: u32,
    /// Users that are believed, besides root and this node's own.
    pub users: Vec<u32>,
    /// The longest time between two pings that a program may ask for.
    pub max_watchdog: Duration,
    /// Pings are expected from READY on, also of a program that has never sent one.
    pub required: bool,
    /// It has no owner: which process is meant follows from what is sent.
    pub names_lives: bool,
}

/// The parts of `watchdog` after which a program is suspect, and dead.
pub fn bounds(watchdog: Duration) -> (Duration, Duration) {
    (watchdog * 3 / 4, watchdog)
}

/// The socket as it was placed at the node's start, for the first run of the task.
#[derive(Clone, Default)]
pub(super) struct AtStart(Arc<Mutex<Option<Result<Placed, PlaceError>>>>);

impl AtStart {
    /// So that it is there once the node says that it is ready.
    pub(super) fn place(notify: &Notify) -> Self {
        let placed = socket::place(&notify.socket, notify.mode);
        Self(Arc::new(Mutex::new(Some(placed))))
    }

    fn take(&self) -> Option<Result<Placed, PlaceError>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Listens until it is dropped.
///
/// # Errors
/// If the event loop is gone.
pub(super) async fn run(
    notify: Notify,
    place: Place,
    owners: OwnerTable,
    reporting: Reporting,
    at_start: AtStart,
) -> anyhow::Result<Infallible> {
    let mut listener = Listener {
        allowance: Allowance::new(BURST, A_SECOND),
        main: Main::default(),
        warned: Vec::new(),
        notify,
        place,
        owners,
        reporting,
    };
    let mut first = at_start.take();
    let mut deaf = None;
    loop {
        let placed = match first.take() {
            Some(placed) => placed,
            None => socket::place(&listener.notify.socket, listener.notify.mode),
        };
        match placed.and_then(|placed| Ok(placed.opened()?)) {
            Ok(mailbox) => {
                deaf = None;
                listener.report(None, None, Word::Hears).await?;
                listener.listen(mailbox).await?;
            }
            Err(error) => {
                let detail = format!("{}: {error}", listener.notify.socket.display());
                if deaf.as_ref() != Some(&detail) {
                    let (peer, check) = (&listener.place.peer, &listener.place.check);
                    tracing::warn!(peer, check, "cannot listen to its notifications: {detail}");
                    let word = Word::Deaf {
                        detail: detail.clone(),
                    };
                    listener.report(None, None, word).await?;
                    deaf = Some(detail);
                }
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}

struct Listener {
    notify: Notify,
    place: Place,
    owners: OwnerTable,
    reporting: Reporting,
    allowance: Allowance,
    main: Main,
    /// What was warned of already.
    warned: Vec<Datagram>,
}

impl Listener {
    /// Until the socket has lost its name, or cannot be read.
    async fn listen(&mut self, mut mailbox: Mailbox) -> anyhow::Result<()> {
        let mut looks = tokio::time::interval(AGAIN);
        let (mut in_a_row, mut in_vain) = (0, false);
        loop {
            let received = tokio::select! {
                biased;
                _ = looks.tick() => {
                    if mailbox.is_in_place() {
                        continue;
                    }
                    tracing::warn!(
                        peer = self.place.peer,
                        "{} was removed: it is made again",
                        self.notify.socket.display()
                    );
                    return Ok(());
                }
                received = mailbox.receive() => received,
            };
            match received {
                Ok(received) => in_vain |= !self.hear(received).await?,
                Err(error) => {
                    tracing::warn!(peer = self.place.peer, %error, "its notifications cannot be read");
                    tokio::time::sleep(AGAIN).await;
                    return Ok(());
                }
            }
            in_a_row += 1;
            if in_a_row >= IN_A_ROW {
                in_a_row = 0;
                if std::mem::take(&mut in_vain) {
                    tokio::time::sleep(BRAKE).await;
                } else {
                    tokio::task::yield_now().await;
                }
            }
        }
    }

    /// False if it was in vain.
    async fn hear(&mut self, received: Received<'_>) -> anyhow::Result<bool> {
        let (outcome, heard) = self.understand(&received);
        self.reporting.metrics.notified(&self.place.peer, outcome);
        let Some((life, mut said)) = heard else {
            self.warn_of(outcome, received.from);
            return Ok(false);
        };
        let mut says = said.status.take().map(Arc::from);
        for word in self.words(&said, says.as_deref()) {
            self.report(life.clone(), says.take(), word).await?;
        }
        // Only now its descriptors are closed: a sender that waits at a barrier knows that all it said is passed on.
        drop(received);
        Ok(true)
    }

    fn understand(&mut self, received: &Received<'_>) -> (Datagram, Option<(Option<Incarnation>, Said)>) {
        let Some(Credentials { pid, uid }) = received.from else {
            return (Datagram::Anonymous, None);
        };
        let own = geteuid().as_raw();
        if uid != 0 && uid != own && !self.notify.users.contains(&uid) {
            return (Datagram::ForeignUser, None);
        }
        // After that: a stranger uses up nobody's allowance.
        if !self.allowance.takes(self.reporting.clock.now()) {
            return (Datagram::Flood, None);
        }
        if received.cut {
            return (Datagram::Oversize, None);
        }
        let Some(mut said) = datagram::parse(received.bytes) else {
            return (Datagram::Garbage, None);
        };
        let whose = if self.notify.names_lives {
            self.main.whose(pid, uid, &said)
        } else {
            sender::whose(pid, &self.owners.get(self.place.id.peer))
        };
        match whose {
            Whose::Stranger => (Datagram::Stranger, None),
            Whose::Peer => (Datagram::Taken, Some((None, said))),
            Whose::Life(life) => (Datagram::Taken, Some((Some(life), said))),
            Whose::Child(life) => {
                // Every tool of systemd tells its own failure to the socket that it has inherited.
                said.errno = None;
                (Datagram::Taken, Some((Some(life), said)))
            }
        }
    }

    /// What it means, in the order in which it counts.
    fn words(&self, said: &Said, status: Option<&str>) -> Vec<Word> {
        let failed = |detail: String| Word::Failed {
            cause: Cause::PeerStuck,
            detail,
        };
        let mut words = Vec::new();
        if said.trigger {
            words.push(failed(
                "it set off its own watchdog (WATCHDOG=trigger)".to_owned(),
            ));
        }
        if let Some(errno) = said.errno {
            let error = std::io::Error::from_raw_os_error(errno);
            words.push(failed(format!("it reports a failure: {error}")));
        }
        if said.stopping {
            let detail = status.filter(|status| !status.is_empty());
            let detail = detail
                .unwrap_or("it says that it is stopping (STOPPING=1)")
                .to_owned();
            words.push(Word::Leaving { detail });
        }
        if !words.is_empty() {
            return words;
        }
        let lives = said.ready || said.ping || said.reloading || said.watchdog.is_some();
        vec![if lives {
            Word::Life {
                up: said.ready,
                next: self.next(said),
            }
        } else {
            Word::Note
        }]
    }

    fn next(&self, said: &Said) -> Next {
        if let Some(watchdog) = said.watchdog {
            let most = self.notify.max_watchdog.max(LEAST_WATCHDOG);
            let (suspect_after, dead_after) = bounds(watchdog.clamp(LEAST_WATCHDOG, most));
            return Next::Within {
                suspect_after,
                dead_after,
            };
        }
        match (said.ready, said.ping) {
            (true, false) if !self.notify.required => Next::Open,
            (true, _) | (_, true) => Next::Counts,
            (false, false) => Next::AsBefore,
        }
    }

    async fn report(
        &self,
        life: Option<Incarnation>,
        says: Option<Arc<str>>,
        word: Word,
    ) -> anyhow::Result<()> {
        let report = Report {
            check: self.place.id,
            life,
            says,
            word,
        };
        self.reporting.send(Event::Report(report)).await
    }

    /// Once a kind: somebody sends it who should not, or not so, and may do so for ever.
    fn warn_of(&mut self, outcome: Datagram, from: Option<Credentials>) {
        if self.warned.contains(&outcome) {
            return;
        }
        self.warned.push(outcome);
        let (peer, check) = (&self.place.peer, &self.place.check);
        let why = match outcome {
            Datagram::Taken => return,
            Datagram::ForeignUser => {
                "its user is not believed: add it to the check's `users`, if it should be"
            }
            Datagram::Stranger => "its process is neither the peer's owner nor a child of it",
            Datagram::Anonymous => "the kernel does not say who sent it",
            Datagram::Oversize => "it is longer than 4096 bytes",
            Datagram::Garbage => "it is no NAME=VALUE",
            Datagram::Flood => "there are more than a hundred a second",
        };
        let (pid, uid) = from.map_or((0, 0), |from| (from.pid, from.uid));
        tracing::warn!(
            peer,
            check,
            pid,
            uid,
            "a notification is dropped ({}): {why}; more of the kind are only counted",
            outcome.as_str()
        );
    }
}
