//! What has to be run, one part a check, an owner or an expectation: each with all that it depends on, so that two
//! configurations can be compared part by part, and what is the same in both goes on running.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::file::LastWords;
use super::notify::{self, Notify};
use super::{
    Files, Owner, Place, Probe, Schedule, Settings, Surroundings, When, container, expectation, owner,
    place_of, unit,
};
use crate::condemned::CondemnedTable;
use crate::docker::{Selector, Sighting};
use crate::engine::event::{CheckId, ExpectationId, PeerId};
use crate::engine::settings::{Decides, Settings as Names};
use crate::engine::time::Time;
use crate::systemd::UnitRef;
use crate::task::Task;

/// Something to be run.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    name: String,
    work: Work,
}

#[derive(Clone, Debug, PartialEq)]
#[allow(clippy::large_enum_variant, reason = "a node has a handful")]
enum Work {
    Process {
        peer: PeerId,
        name: String,
        owner: Owner,
        check: Option<CheckId>,
        schedule: Schedule,
        last_words: Option<LastWords>,
    },
    Container {
        name: String,
        selector: Selector,
        check: CheckId,
        schedule: Schedule,
    },
    Unit {
        name: String,
        unit: UnitRef,
        check: CheckId,
        schedule: Schedule,
    },
    Probe {
        place: Place,
        probe: Box<Probe>,
        schedule: Schedule,
        /// About what decides nothing, nothing may be done.
        decides: bool,
        /// See [`Surroundings`]; only where it is looked at.
        settle: Option<Duration>,
        /// The same.
        scrub: Option<Arc<[String]>>,
    },
    Notify {
        place: Place,
        notify: Notify,
    },
    Expectation {
        id: ExpectationId,
        when: When,
        schedule: Schedule,
    },
    Files,
}

/// Where parts tell others which life of a peer they see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Table {
    /// Processes.
    Owners,
    /// Containers.
    Containers,
    /// Units.
    Units,
}

/// All parts. `names` gives them the names of the configuration: `check:feed/status`, `owner:feed`, `when:car`.
pub fn parts(settings: &Settings, names: &Names, around: &Surroundings) -> Vec<Part> {
    let name_of = |id: PeerId| {
        let peer = names.peers.get(id.0 as usize);
        peer.map_or_else(|| id.0.to_string(), |peer| peer.name.to_string())
    };
    let last_words: BTreeMap<PeerId, LastWords> = settings
        .probes
        .iter()
        .filter_map(|(check, probe, _)| match probe {
            Probe::File(file) => Some((check.peer, LastWords::of(*check, file)?)),
            _ => None,
        })
        .collect();
    let processes = settings.owners.iter().map(|(peer, owner, check, schedule)| {
        let name = name_of(*peer);
        let work = Work::Process {
            peer: *peer,
            name: name.clone(),
            owner: owner.clone(),
            check: *check,
            schedule: *schedule,
            last_words: last_words.get(peer).cloned(),
        };
        Part::new(format!("owner:{name}"), work)
    });
    let containers = settings.containers.iter().map(|(selector, check, schedule)| {
        let name = name_of(check.peer);
        let work = Work::Container {
            name: name.clone(),
            selector: selector.clone(),
            check: *check,
            schedule: *schedule,
        };
        Part::new(format!("owner:{name}"), work)
    });
    let units = settings.units.iter().map(|(unit, check, schedule)| {
        let name = name_of(check.peer);
        let work = Work::Unit {
            name: name.clone(),
            unit: unit.clone(),
            check: *check,
            schedule: *schedule,
        };
        Part::new(format!("owner:{name}"), work)
    });
    let probes = settings.probes.iter().map(|(id, probe, schedule)| {
        let place = place_of(*id, names);
        let check = names.peers.get(id.peer.0 as usize);
        let check = check.and_then(|peer| peer.checks.get(usize::from(id.index)));
        let settles = matches!(probe, Probe::Sockets(_) | Probe::Subscription(_));
        let work = Work::Probe {
            probe: Box::new(probe.clone()),
            schedule: *schedule,
            decides: check.is_none_or(|check| check.decides == Decides::Liveness),
            settle: settles.then_some(around.settle),
            scrub: matches!(probe, Probe::Exec(_)).then(|| Arc::clone(&around.scrub)),
            place: place.clone(),
        };
        Part::new(format!("check:{}/{}", place.peer, place.check), work)
    });
    let notifies = settings.notifies.iter().map(|(id, notify)| {
        let (place, notify) = (place_of(*id, names), notify.clone());
        let name = format!("check:{}/{}", place.peer, place.check);
        Part::new(name, Work::Notify { place, notify })
    });
    let expectations = settings.expectations.iter().map(|(id, when, schedule)| {
        let name = names.expectations.get(usize::from(id.0));
        let name = name.map_or_else(|| id.0.to_string(), ToString::to_string);
        let (id, when, schedule) = (*id, when.clone(), *schedule);
        Part::new(format!("when:{name}"), Work::Expectation { id, when, schedule })
    });
    let watches_files = settings
        .probes
        .iter()
        .any(|(_, probe, _)| matches!(probe, Probe::File(_)));
    let files = watches_files.then(|| Part::new("files".to_owned(), Work::Files));
    processes
        .chain(containers)
        .chain(units)
        .chain(probes)
        .chain(notifies)
        .chain(expectations)
        .chain(files)
        .collect()
}

impl Part {
    const fn new(name: String, work: Work) -> Self {
        Self { name, work }
    }

    /// The name of its task.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The check that it reports for.
    pub const fn check(&self) -> Option<CheckId> {
        match &self.work {
            Work::Process { check, .. } => *check,
            Work::Container { check, .. } | Work::Unit { check, .. } => Some(*check),
            Work::Probe { place, .. } | Work::Notify { place, .. } => Some(place.id),
            Work::Expectation { .. } | Work::Files => None,
        }
    }

    /// The expectation that it reports for.
    pub const fn expectation(&self) -> Option<ExpectationId> {
        match &self.work {
            Work::Expectation { id, .. } => Some(*id),
            Work::Process { .. }
            | Work::Container { .. }
            | Work::Unit { .. }
            | Work::Probe { .. }
            | Work::Notify { .. }
            | Work::Files => None,
        }
    }

    /// It looks at the same, in the same way: at other times at most, or under another number. What the one saw holds
    /// for the other.
    pub fn looks_as(&self, other: &Self) -> bool {
        self.name == other.name
            && match (&self.work, &other.work) {
                (Work::Process { owner: one, .. }, Work::Process { owner: other, .. }) => one == other,
                (Work::Container { selector: one, .. }, Work::Container { selector: other, .. }) => {
                    one == other
                }
                (Work::Unit { unit: one, .. }, Work::Unit { unit: other, .. }) => one == other,
                (Work::Probe { probe: one, .. }, Work::Probe { probe: other, .. }) => one == other,
                (Work::Expectation { when: one, .. }, Work::Expectation { when: other, .. }) => one == other,
                (Work::Notify { .. }, Work::Notify { .. }) | (Work::Files, Work::Files) => true,
                (
                    Work::Process { .. }
                    | Work::Container { .. }
                    | Work::Unit { .. }
                    | Work::Probe { .. }
                    | Work::Notify { .. }
                    | Work::Expectation { .. }
                    | Work::Files,
                    _,
                ) => false,
            }
    }

    /// Where it tells others of its peer.
    pub fn tells(&self) -> Vec<(Table, PeerId)> {
        match &self.work {
            Work::Process { peer, .. } => vec![(Table::Owners, *peer)],
            Work::Container { check, .. } => vec![(Table::Containers, check.peer)],
            Work::Unit { check, .. } => vec![(Table::Owners, check.peer), (Table::Units, check.peer)],
            Work::Probe { .. } | Work::Notify { .. } | Work::Expectation { .. } | Work::Files => Vec::new(),
        }
    }

    /// It runs no longer. What it told of its peer's life stays: the fence of a remedy at work stands on it.
    pub fn ended(&self, around: &Surroundings) {
        match &self.work {
            Work::Probe { place, .. } => around.condemned.clear(place.id),
            Work::Notify { place, .. } => around.reporting.metrics.listens_no_longer_to(&place.peer),
            Work::Process { .. }
            | Work::Container { .. }
            | Work::Unit { .. }
            | Work::Expectation { .. }
            | Work::Files => {}
        }
    }

    /// It begins in the place of one that looked in another way: what that one saw is nobody's now, and its peer is still
    /// one that has an owner.
    pub fn begins_anew(&self, around: &Surroundings) {
        match &self.work {
            Work::Process { peer, .. } => around.owners.release(*peer),
            Work::Container { check, .. } => around.docker.saw(check.peer, container_unseen()),
            Work::Unit { check, .. } => {
                around.owners.release(check.peer);
                around.systemd.saw(check.peer, unit_unseen());
            }
            Work::Probe { .. } | Work::Notify { .. } | Work::Expectation { .. } | Work::Files => {}
        }
    }

    /// Ready to be supervised; it can be started again.
    pub fn task(self, around: &Surroundings) -> Task {
        let around = around.clone();
        match self.work {
            Work::Process {
                peer,
                name,
                owner,
                check,
                schedule,
                last_words,
            } => {
                let (owners, reporting) = (around.owners, around.reporting);
                let watch =
                    owner::Watch::new(peer, name, owner, check, schedule, last_words, owners, reporting);
                task(self.name, move || watch.clone().run())
            }
            Work::Container {
                name,
                selector,
                check,
                schedule,
            } => {
                // Who is a container is known to be one from the beginning: else everybody's sockets would be taken for
                // its own until the first look, for which Docker may let a node wait.
                if around.docker.sighting(check.peer).is_none() {
                    around.docker.saw(check.peer, container_unseen());
                }
                let watch = container::Watch {
                    name,
                    selector,
                    check,
                    schedule,
                    docker: around.docker,
                    reporting: around.reporting,
                };
                task(self.name, move || watch.clone().run())
            }
            Work::Unit {
                name,
                unit,
                check,
                schedule,
            } => {
                if around.systemd.sighting(check.peer).is_none() {
                    around.systemd.saw(check.peer, unit_unseen());
                }
                let watch = unit::Watch {
                    name,
                    unit,
                    check,
                    schedule,
                    systemd: around.systemd,
                    owners: around.owners,
                    reporting: around.reporting,
                };
                task(self.name, move || watch.clone().run())
            }
            Work::Probe {
                place,
                probe,
                schedule,
                decides,
                ..
            } => {
                let mut around = around;
                if !decides {
                    around.condemned = CondemnedTable::default();
                }
                task(self.name, move || {
                    let probe = Probe::clone(&probe);
                    probe.run(place.clone(), schedule, around.clone())
                })
            }
            Work::Notify { place, notify } => {
                let (owners, reporting) = (around.owners, around.reporting);
                reporting.metrics.listens_to(&place.peer);
                let at_start = notify::AtStart::place(&notify);
                task(self.name, move || {
                    notify::run(
                        notify.clone(),
                        place.clone(),
                        owners.clone(),
                        reporting.clone(),
                        at_start.clone(),
                    )
                })
            }
            Work::Expectation { id, when, schedule } => task(self.name, move || {
                expectation::run(id, when.clone(), schedule, around.clone())
            }),
            Work::Files => {
                let Files(directories) = around.files;
                task(self.name, move || directories.clone().hand_on())
            }
        }
    }
}

impl Table {
    /// Nothing of this peer is told there any more.
    pub fn forget(self, peer: PeerId, around: &Surroundings) {
        match self {
            Self::Owners => around.owners.forget(peer),
            Self::Containers => around.docker.forget(peer),
            Self::Units => around.systemd.forget(peer),
        }
    }
}

fn container_unseen() -> Sighting {
    Sighting {
        seen: Err("its container was not looked at yet".to_owned()),
        believed_until: Time::MAX,
    }
}

fn unit_unseen() -> crate::systemd::Sighting {
    crate::systemd::Sighting {
        seen: Err("its unit was not looked at yet".to_owned()),
        since: Time::ZERO,
        believed_until: Time::MAX,
    }
}

/// A task whose work never ends by itself: cancelling drops it where it waits.
fn task<F, W>(name: String, work: F) -> Task
where
    F: Fn() -> W + Send + Sync + 'static,
    W: Future<Output = anyhow::Result<Infallible>> + Send + 'static,
{
    Task {
        name,
        start: Box::new(move |cancel: CancellationToken| {
            let work = work();
            Box::pin(async move {
                match cancel.run_until_cancelled(work).await {
                    None => Ok(()),
                    Some(ended) => ended.map(|never| match never {}),
                }
            })
        }),
    }
}
