//! Whose sockets a check looks at: those of the peer's owner, as it is held or was last seen.

use std::sync::Arc;

use super::Surroundings;
use crate::docker::{Container, Docker, Life, State};
use crate::engine::event::{Incarnation, PeerId};
use crate::engine::time::Clock;
use crate::owner_table::{Holding, OwnerTable};
use crate::sock_diag::Whose;

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
    clock: Arc<dyn Clock>,
    /// The life of a container that shares its network namespace with this node, and with nobody else.
    ours_alone: Option<Life>,
}

impl Ownership {
    pub(super) fn of(peer: PeerId, around: &Surroundings) -> Self {
        Self {
            peer,
            owners: around.owners.clone(),
            docker: around.docker.clone(),
            clock: Arc::clone(&around.reporting.clock),
            ours_alone: None,
        }
    }

    /// # Errors
    /// Why nothing can be said of its sockets: it has an owner, and that does not run, or lives elsewhere.
    pub(super) async fn owned(&mut self) -> Result<Owned, String> {
        let (whose, incarnation) = match self.owners.get(self.peer) {
            Holding::Unwatched => match self.docker.sighting(self.peer) {
                None => (Whose::Namespace, None),
                Some(sighting) if self.clock.now() < sighting.believed_until => {
                    let container = sighting.seen?;
                    self.shares_with_us_alone(&container).await?;
                    (Whose::Namespace, Some(container.life.incarnation()))
                }
                Some(_) => return Err("its container was not looked at for a while".to_owned()),
            },
            Holding::Nothing => return Err("its owner does not run".to_owned()),
            Holding::Live(live) => (Whose::Process(live.pid), Some(live.incarnation)),
            Holding::Listening(listener) => (Whose::Listener(listener.port), Some(listener.incarnation)),
        };
        Ok(Owned { whose, incarnation })
    }

    /// Asked once for each life: Docker settles whose network a container lives in when it starts.
    async fn shares_with_us_alone(&mut self, container: &Container) -> Result<(), String> {
        if container.state != State::Running {
            return Err(format!("its container is {}", container.state.as_str()));
        }
        if self.ours_alone.as_ref() == Some(&container.life) {
            return Ok(());
        }
        let sharers = self.docker.sharers(container).await;
        let sharers = sharers.map_err(|error| error.with_cure())?;
        if !sharers.this_node {
            return Err(format!(
                "{} does not share its network namespace with this node: give the node network_mode: \"service:…\" or \
                 \"container:…\"",
                container.name
            ));
        }
        if let Some((_, other)) = sharers.others.first() {
            return Err(format!(
                "{} shares its network namespace with {other} too, and their sockets cannot be told apart",
                container.name
            ));
        }
        self.ours_alone = Some(container.life.clone());
        Ok(())
    }
}
