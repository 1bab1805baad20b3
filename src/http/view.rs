//! What the listeners show: the last snapshot, and what is known before there is one.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::Push;
use crate::engine::event::PeerId;
use crate::engine::settings::{PeerSettings, RemedyKind, Settings};
use crate::engine::snapshot::{PeerView, Snapshot};
use crate::preflight::Item;

/// What every answer is made from. The runtime publishes a new one when the snapshot changed; names are looked
/// up in an index that is built once a configuration, so an answer costs the same with ten peers and with ten thousand.
#[derive(Clone, Debug)]
pub struct View {
    snapshot: Option<Arc<Snapshot>>,
    config_error: Option<Arc<str>>,
    preflight: Option<Arc<[Item]>>,
    /// `None`: as at the start.
    pushes: Option<Arc<[Push]>>,
    refused: Option<Arc<str>>,
    names: Arc<Names>,
    interval: Duration,
}

/// The configured peers.
#[derive(Debug, Default)]
struct Names {
    /// Of which configuration: [`Snapshot::reloads`].
    reloads: u64,
    all: BTreeMap<PeerId, Arc<str>>,
    ids: HashMap<Arc<str>, PeerId>,
    with_healthz: Vec<PeerId>,
}

impl Names {
    /// Of each peer: its id, its name, and whether it has a `healthz` remedy.
    fn of<'p>(reloads: u64, peers: impl Iterator<Item = (PeerId, &'p Arc<str>, bool)>) -> Self {
        let mut names = Self {
            reloads,
            ..Self::default()
        };
        for (id, name, pulses) in peers {
            names.all.insert(id, Arc::clone(name));
            names.ids.insert(Arc::clone(name), id);
            names.with_healthz.extend(pulses.then_some(id));
        }
        names
    }
}

impl View {
    /// Before the engine's first snapshot.
    pub fn starting(settings: &Settings) -> Self {
        let pulses = |peer: &PeerSettings| peer.remedies.iter().any(|rung| rung.kind == RemedyKind::Healthz);
        let peers = settings.peers();
        let names = Names::of(0, peers.map(|(id, peer)| (id, &peer.name, pulses(peer))));
        Self {
            snapshot: None,
            config_error: None,
            preflight: None,
            pushes: None,
            refused: None,
            names: Arc::new(names),
            interval: settings.interval,
        }
    }

    /// Under `--on-bad-config=observe`: nothing is judged, no endpoint of an application fails, and `error`
    /// (all mistakes, in words) is shown by `/readyz`.
    pub fn misconfigured(error: &str) -> Self {
        Self {
            snapshot: None,
            config_error: Some(error.into()),
            preflight: None,
            pushes: None,
            refused: None,
            names: Arc::default(),
            interval: Duration::ZERO,
        }
    }

    /// Between two heartbeats.
    pub(super) fn interval(&self) -> Duration {
        self.interval
    }

    /// The same at a later moment; other peers, if the configuration is another by then.
    #[must_use]
    pub fn with_snapshot(&self, snapshot: Arc<Snapshot>) -> Self {
        let names = if snapshot.reloads == self.names.reloads {
            Arc::clone(&self.names)
        } else {
            let peers = snapshot.peers.iter();
            let peers = peers.map(|peer| (peer.id, &peer.name, peer.healthz.is_some()));
            Arc::new(Names::of(snapshot.reloads, peers))
        };
        Self {
            snapshot: Some(snapshot),
            names,
            ..self.clone()
        }
    }

    /// The same with what the last preflight found.
    #[must_use]
    pub fn with_preflight(&self, items: Arc<[Item]>) -> Self {
        Self {
            preflight: Some(items),
            ..self.clone()
        }
    }

    /// The same with other `push` checks, as the configuration that was reloaded has them.
    #[must_use]
    pub fn with_pushes(&self, pushes: Arc<[Push]>) -> Self {
        Self {
            pushes: Some(pushes),
            ..self.clone()
        }
    }

    /// The same after a configuration was refused (all mistakes, in words), or taken.
    #[must_use]
    pub fn with_refused(&self, refused: Option<Arc<str>>) -> Self {
        Self {
            refused,
            ..self.clone()
        }
    }

    /// Why the last configuration was refused, if it was. The one of before holds.
    pub fn refused(&self) -> Option<&str> {
        self.refused.as_deref()
    }

    pub(super) fn pushes(&self) -> Option<&[Push]> {
        self.pushes.as_deref()
    }

    /// What the last preflight found; `None` before its first end.
    pub fn preflight(&self) -> Option<&[Item]> {
        self.preflight.as_deref()
    }

    /// The snapshot, once there is one.
    pub fn snapshot(&self) -> Option<&Arc<Snapshot>> {
        self.snapshot.as_ref()
    }

    /// What is wrong with the configuration, if it is.
    pub fn config_error(&self) -> Option<&str> {
        self.config_error.as_deref()
    }

    pub(super) fn id(&self, name: &str) -> Option<PeerId> {
        self.names.ids.get(name).copied()
    }

    pub(super) fn peer(&self, id: PeerId) -> Option<&PeerView> {
        self.snapshot.as_ref()?.peer(id)
    }

    pub(super) fn name(&self, id: PeerId) -> &str {
        self.names.all.get(&id).map_or("?", |name| name)
    }

    /// Peers with a `healthz` remedy.
    pub(super) fn with_healthz(&self) -> &[PeerId] {
        &self.names.with_healthz
    }

    /// The answer to a name that is not configured: the names that are, as far as they fit on a line.
    pub(super) fn nobody(&self, asked: &str) -> String {
        const SHOWN: usize = 20;
        let asked: String = asked.chars().take(64).collect();
        let known = self
            .names
            .all
            .values()
            .take(SHOWN)
            .map(|name| &**name)
            .collect::<Vec<_>>()
            .join(", ");
        let more = match self.names.all.len().saturating_sub(SHOWN) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        if known.is_empty() {
            return format!("no peer named {asked:?}: none is configured");
        }
        format!("no peer named {asked:?}; configured: {known}{more}")
    }
}
