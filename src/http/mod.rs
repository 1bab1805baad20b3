//! The endpoints: probes, metrics, status for people and tools; and the admin listener. Answers come from the
//! cached snapshot; nothing here judges.
//!
//! [`bind`] takes every address before anything else starts; [`Bound::run`] serves until it is cancelled. What is
//! shown is the [`View`] that the runtime last published, so that no answer waits for the engine or for Redis.

mod admin;
mod beat;
mod doubts;
mod events;
pub mod explain;
mod history;
mod leases;
mod listen;
mod long;
mod patience;
mod probes;
mod public;
mod recent;
mod restart;
mod seats;
mod serve;
mod status;
mod view;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Semaphore, broadcast, mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::engine::decision::Notice;
use crate::engine::event::{CheckId, Event};
use crate::engine::time::{Clock, Time};
use crate::lease_desk::LeaseDesk;
use crate::reload_desk::ReloadDesk;
use crate::secret::Secret;
use crate::telemetry::metrics::Metrics;

pub use listen::{BindError, Bound, bind};
pub use recent::Recent;
pub use status::{Explanation, Status};
pub use view::View;

use beat::Beats;
use doubts::Doubts;
use long::Long;

/// Where to listen and how much to bear.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The public listener. Default `127.0.0.1:7337`... as configured.
    pub listen: SocketAddr,
    /// The admin listener's Unix socket (0660).
    pub admin_socket: Option<PathBuf>,
    /// The admin listener's loopback port, on request.
    pub admin_listen: Option<(SocketAddr, Secret)>,
    /// Concurrent connections on each listener. Default 256.
    pub max_connections: usize,
    /// The checks that are beaten over the admin listener.
    pub pushes: Vec<Push>,
}

/// A `push` check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Push {
    /// Which.
    pub check: CheckId,
    /// The peer's name.
    pub peer: Arc<str>,
    /// Its own.
    pub name: Arc<str>,
    /// How long a run may take, once it was started.
    pub run_within: Duration,
}

/// What the runtime lends to the listeners.
#[derive(Clone)]
pub struct AppState {
    /// What is shown: published anew whenever the snapshot changed.
    pub view: watch::Receiver<Arc<View>>,
    /// Every notice, for `/api/v1/events`. Its capacity is how far a client may lag before it loses some.
    pub notices: broadcast::Sender<Arc<Notice>>,
    /// The last of them, for who was cut off and for `explain`.
    pub recent: Arc<Recent>,
    /// Where requests of operators go.
    pub events: mpsc::Sender<Event>,
    /// The node's clock.
    pub clock: Arc<dyn Clock>,
    /// [`Time::as_nanos`] of the event loop's last turn, stored by the loop at least once a second.
    pub loop_turned: Arc<AtomicU64>,
    /// Where the audit is; `None`: there is none.
    pub history: Option<PathBuf>,
    /// To the keeper of the leases; `None`: there are none.
    pub leases: Option<LeaseDesk>,
    /// Where a reload is asked for; `None`: the node has no configuration file to read again.
    pub reload: Option<ReloadDesk>,
    /// Our latest heartbeat that the bus brought back, as it went out, and until when it may be shown.
    pub heartbeat: watch::Receiver<(Time, Arc<[u8]>)>,
    /// Gathered by `/metrics`.
    pub metrics: Metrics,
}

impl fmt::Debug for AppState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AppState")
            .field("view", &self.view)
            .finish_non_exhaustive()
    }
}

/// SSE clients at a time, over all listeners: each holds a connection for as long as it likes.
const MAX_SSE_CLIENTS: usize = 16;
/// Followers of leases, on the admin listeners.
const MAX_LEASE_FOLLOWERS: usize = 64;

/// The state behind every handler.
#[derive(Debug)]
struct Face {
    app: AppState,
    sse_slots: Arc<Semaphore>,
    follower_slots: Arc<Semaphore>,
    history_slots: Arc<Semaphore>,
    /// Numbers of restarts that were asked for.
    requests: AtomicU64,
    cancel: CancellationToken,
    status: Long,
    metrics: Long,
    beats: Beats,
    /// Whom others suspect.
    doubts: Mutex<Doubts>,
}

impl Face {
    fn new(app: AppState, pushes: Vec<Push>, cancel: CancellationToken) -> Arc<Self> {
        Arc::new(Self {
            app,
            beats: Beats::new(pushes),
            doubts: Mutex::default(),
            sse_slots: Arc::new(Semaphore::new(MAX_SSE_CLIENTS)),
            follower_slots: Arc::new(Semaphore::new(MAX_LEASE_FOLLOWERS)),
            history_slots: Arc::new(Semaphore::new(history::READERS)),
            requests: AtomicU64::default(),
            cancel,
            status: Long::default(),
            metrics: Long::default(),
        })
    }

    fn view(&self) -> Arc<View> {
        Arc::clone(&self.app.view.borrow())
    }

    fn now(&self) -> Time {
        self.app.clock.now()
    }

    fn loop_turned(&self) -> Time {
        Time::from_nanos(self.app.loop_turned.load(Ordering::Relaxed))
    }

    /// What is known at this moment, for people and tools.
    fn status(&self, view: &View) -> Status {
        let probes = |name: &str| self.app.metrics.http.healthz_probes(name);
        Status::new(view, self.loop_turned(), self.now(), probes)
    }
}
