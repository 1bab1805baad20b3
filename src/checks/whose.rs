//! Whose sockets a check looks at: those of the peer's owner, as it is held or was last seen.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Surroundings, contained, listener};
use crate::docker::{Container, Docker, Life};
use crate::engine::event::{Incarnation, PeerId};
use crate::engine::time::Clock;
use crate::owner_table::{Holding, OwnerTable};
use crate::sock_diag::{Whose, cgroup_of, shares_network};
use crate::systemd::{Sighting, Systemd};

/// An owner whose sockets can be looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Owned {
    /// By what they are known.
    pub(super) whose: Whose,
    /// The life that they belong to; `None`: the peer has no owner.
    pub(super) incarnation: Option<Incarnation>,
}

/// The owner of one peer's sockets.
pub(super) struct Ownership {
    peer: PeerId,
    owners: OwnerTable,
    docker: Docker,
    systemd: Systemd,
    clock: Arc<dyn Clock>,
    /// The life of a container that shares its network namespace with this node, and with nobody else.
    ours_alone: Option<Life>,
    /// The life of one whose sockets are told by its processes, as it does not.
    by_process: Option<Life>,
}

impl Ownership {
    pub(super) fn of(peer: PeerId, around: &Surroundings) -> Self {
        Self {
            peer,
            owners: around.owners.clone(),
            docker: around.docker.clone(),
            systemd: around.systemd.clone(),
            clock: Arc::clone(&around.reporting.clock),
            ours_alone: None,
            by_process: None,
        }
    }

    /// # Errors
    /// Why nothing can be said of its sockets: it has an owner, and that does not run, or lives elsewhere.
    pub(super) async fn owned(&mut self) -> Result<Owned, String> {
        if let Some(sighting) = self.systemd.sighting(self.peer) {
            return self.of_unit(sighting).await;
        }
        let (whose, incarnation) = match self.owners.get(self.peer) {
            Holding::Unwatched => match contained::running(&self.docker, self.peer, self.clock.now()) {
                None => (Whose::Namespace, None),
                Some(container) => {
                    let container = container?;
                    let whose = self.of_container(&container).await?;
                    (whose, Some(container.life.incarnation()))
                }
            },
            Holding::Nothing => return Err("its owner does not run".to_owned()),
            Holding::Live(live) => (Whose::Process(live.pid), Some(live.incarnation)),
            Holding::Listening(listener) => (
                Whose::Listener(listener::at(&listener)),
                Some(listener.incarnation),
            ),
        };
        Ok(Owned { whose, incarnation })
    }

    /// Its cgroup tells a container's sockets best: those of `docker exec` are in it, too. Next best is a network that
    /// is this node's and its own alone.
    async fn of_container(&mut self, container: &Arc<Container>) -> Result<Whose, String> {
        let looked_at = Arc::clone(container);
        let sight = tokio::task::spawn_blocking(move || Sight::of(&looked_at));
        let sight = sight
            .await
            .map_err(|error| format!("looking at its processes failed: {error}"))?;
        match sight {
            Sight::Cgroups(ids) => Ok(Whose::Cgroups(ids)),
            Sight::Elsewhere(why) => Err(why),
            // (Docker is not asked again at each look.)
            Sight::Process(pid) if self.by_process.as_ref() == Some(&container.life) => {
                Ok(Whose::Process(pid))
            }
            Sight::Process(pid) => match self.shares_with_us_alone(container).await {
                Ok(()) => Ok(Whose::Namespace),
                Err(_) => {
                    self.by_process = Some(container.life.clone());
                    Ok(Whose::Process(pid))
                }
            },
            Sight::Hidden(why) => {
                let shared = self.shares_with_us_alone(container).await;
                shared.map_err(|other| format!("{other}; nor can they be told by its processes: {why}"))?;
                Ok(Whose::Namespace)
            }
        }
    }

    /// All that its cgroup made, where the kernel tells; else what its main process and those below it hold.
    async fn of_unit(&self, sighting: Sighting) -> Result<Owned, String> {
        if self.clock.now() > sighting.believed_until {
            return Err("its unit was not looked at for a while".to_owned());
        }
        let unit = sighting.seen?;
        let Holding::Live(live) = self.owners.get(self.peer) else {
            return Err(match unit.main_pid {
                None => "its unit has no main process now".to_owned(),
                Some(pid) => format!(
                    "its main process ({pid} to systemd) is out of sight: run the node in the pid namespace of the host"
                ),
            });
        };
        // A unit that makes cgroups of its own may have thousands.
        let pid = live.pid;
        let cgroups = tokio::task::spawn_blocking(move || cgroup_of(pid)).await;
        let cgroups = cgroups.map_err(|error| format!("looking at its cgroups failed: {error}"))?;
        // They were read by a number, which may by now be another process's.
        if live.exited() {
            return Err("its main process has ended".to_owned());
        }
        Ok(Owned {
            whose: cgroups.map_or(Whose::Process(pid), Whose::Cgroups),
            incarnation: Some(live.incarnation),
        })
    }

    /// Asked once for each life: Docker settles whose network a container lives in when it starts.
    async fn shares_with_us_alone(&mut self, container: &Container) -> Result<(), String> {
        if self.ours_alone.as_ref() == Some(&container.life) {
            return Ok(());
        }
        shares_with_us_alone(&self.docker, container).await?;
        self.ours_alone = Some(container.life.clone());
        Ok(())
    }
}

/// By what a container's sockets are told from others' here, in words.
///
/// # Errors
/// Why they cannot be, with the cure.
pub(super) async fn told_apart(docker: &Docker, container: Container) -> Result<&'static str, String> {
    let looked_at = container.clone();
    let sight = tokio::task::spawn_blocking(move || Sight::of(&looked_at)).await;
    let sight = sight.map_err(|error| format!("looking at its processes failed: {error}"))?;
    match sight {
        Sight::Cgroups(_) => Ok("its sockets are told by its cgroup"),
        Sight::Elsewhere(why) => Err(why),
        sight @ (Sight::Process(_) | Sight::Hidden(_)) => {
            match (shares_with_us_alone(docker, &container).await, sight) {
                (Ok(()), _) => Ok("its sockets are those of the network that it shares with this node alone"),
                (Err(_), Sight::Process(_)) => {
                    Ok("its sockets are told by its first process and those below it")
                }
                (Err(other), Sight::Hidden(why)) => {
                    Err(format!("{other}; nor can they be told by its processes: {why}"))
                }
                (Err(other), _) => Err(other),
            }
        }
    }
}

async fn shares_with_us_alone(docker: &Docker, container: &Container) -> Result<(), String> {
    let sharers = docker.sharers(container).await;
    let sharers = sharers.map_err(|error| error.with_cure())?;
    if !sharers.this_node {
        return Err(format!(
            "{} does not share its network namespace with this node: give the node network_mode: \"service:…\" or \
             \"container:…\"",
            container.name
        ));
    }
    match sharers.others.first() {
        Some((_, other)) => Err(format!(
            "{} shares its network namespace with {other} too, and their sockets cannot be told apart",
            container.name
        )),
        None => Ok(()),
    }
}

/// What this node sees of a container's processes.
enum Sight {
    /// The cgroups that its sockets are made in.
    Cgroups(BTreeSet<u64>),
    /// Its first process; sockets carry no cgroup that would tell them apart.
    Process(u32),
    /// They live in another network than this node. Why that is known, with the cure.
    Elsewhere(String),
    /// Nothing. Why, with the cure.
    Hidden(String),
}

impl Sight {
    /// Blocking: it reads `/proc` and `/sys/fs/cgroup`.
    fn of(container: &Container) -> Self {
        let owner = match contained::first_process(container) {
            Ok(owner) => owner,
            Err(why) => return Self::Hidden(why),
        };
        let sight = match shares_network(owner.pid) {
            Ok(true) => match cgroup_of(owner.pid) {
                Ok(ids) => Self::Cgroups(ids),
                Err(_) => Self::Process(owner.pid),
            },
            Ok(false) => Self::Elsewhere(format!(
                "{} runs in another network namespace than this node, whose sockets are not seen from here: share it \
                 (network_mode: \"service:…\")",
                container.name
            )),
            Err(why) => Self::Hidden(why),
        };
        // All of it was read by a number, which may by now be another process's.
        if owner.exited() {
            return Self::Hidden("its process has ended".to_owned());
        }
        sight
    }
}
