//! The composition root: binds everything first, then loads the store, then starts what runs. The only place that
//! knows all edges. It decides nothing.

pub mod acl;
pub mod preflight;
mod reload;
mod signing;

use std::fs::{self, DirBuilder};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::{broadcast, mpsc, watch};
use tokio_util::task::AbortOnDropHandle;

use crate::audit::{self, Recorder};
use crate::bus::embedded::{Broker, Limits, Listener};
use crate::bus::{self, Backend, Bus};
use crate::checks;
use crate::checks::parts::parts;
use crate::condemned::CondemnedTable;
use crate::config::Config;
use crate::docker::Docker;
use crate::engine::Engine;
use crate::engine::decision::{Grant, Notice};
use crate::engine::event::{Event, Link, LinkStatus, PeerId, RemedyOutcome};
use crate::engine::outside::Errand;
use crate::engine::settings::Settings;
use crate::engine::snapshot::Snapshot;
use crate::engine::time::{Clock, Time};
use crate::fleet::{self, ERRANDS, Fleet};
use crate::http::{self, AppState, BindError, Bound, Recent, View};
use crate::lease_desk::LeaseDesk;
use crate::leases::{self, Keeper};
use crate::notify;
use crate::owner_table::OwnerTable;
use crate::redis_client::dial::{Dial, Dialing, Stream};
use crate::redis_client::{Endpoint, Redis, Server};
use crate::reload_desk::ReloadDesk;
use crate::remedies::{Executors, Surroundings};
use crate::runtime::clock::{self, MonotonicClock, SleeplessClock};
use crate::runtime::event_loop::{COMMANDS, EVENTS, EventLoop, NOTICES, OnNotice, Outlets, Progress};
use crate::runtime::healing::Healer;
use crate::runtime::heartbeat_file::Beats;
use crate::runtime::maintenance::Calendar;
use crate::runtime::netns;
use crate::runtime::port::Port;
use crate::runtime::sd_notify::{Environment, Notifier};
use crate::runtime::shutdown::{Exit, Life, Stop};
use crate::runtime::supervise::{Policy, Supervisor};
use crate::signing::Verifier;
use crate::sock_diag::Rounds;
use crate::store::{self, OpenError, Store};
use crate::systemd::Systemd;
use crate::task::Task;
use crate::telemetry::logs;
use crate::telemetry::metrics::Metrics;
use reload::{Reloader, Wiring};
use signing::Signing;

/// Turns of a node that has no engine: as often as the event loop's.
const TURN: Duration = Duration::from_millis(250);

/// A node that has no engine has nothing to drain but connections.
const OBSERVER_DEADLINE: Duration = Duration::from_secs(5);

/// The name of the task that tells of the calendar.
const MAINTENANCE: &str = "maintenance";
/// The name of the task that looks at what the configuration needs.
const PREFLIGHT: &str = "preflight";

/// Why a node could not start. Nothing runs then, and every address is free again.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address of the endpoints.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The embedded broker's address; the message names it.
    #[error("{0}")]
    Broker(io::Error),
    /// A directory of the node's was made by somebody else, before it could.
    #[error(
        "{0} belongs to another user and lies where everybody may make directories: remove it, or name another \
         one with $RUNTIME_DIRECTORY and $STATE_DIRECTORY"
    )]
    Squatted(PathBuf),
    /// Another node has the store.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// A fault of ours: two metrics of one name.
    #[error("cannot register the metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// The kernel gave no random bytes.
    #[error("cannot get random bytes for the id of this run: {0}")]
    Random(getrandom::Error),
}

pub use reload::{Load, Refusal, Source};

/// A node that can be started.
#[derive(Debug)]
pub struct App;

/// A node that runs. Dropping it ends it at once, as a crash would; [`Running::shutdown`] ends it well.
#[derive(Debug)]
pub struct Running {
    places: Places,
    view: watch::Receiver<Arc<View>>,
    notices: broadcast::Sender<Arc<Notice>>,
    metrics: Metrics,
    stop: Stop,
    reload: Option<ReloadDesk>,
    life: AbortOnDropHandle<Exit>,
}

/// Where a node can be reached: the real ports, where 0 was asked for.
#[derive(Clone, Debug)]
struct Places {
    http: SocketAddr,
    admin: Option<SocketAddr>,
    admin_socket: Option<PathBuf>,
    broker: Option<SocketAddr>,
}

/// What every part of a node is given.
struct Common {
    clock: Arc<MonotonicClock>,
    metrics: Metrics,
    events: mpsc::Sender<Event>,
    notices: broadcast::Sender<Arc<Notice>>,
    view: watch::Sender<Arc<View>>,
    /// The same snapshots, for who needs no view.
    snapshots: watch::Sender<Option<Arc<Snapshot>>>,
    leases: Option<LeaseDesk>,
    reload: Option<ReloadDesk>,
    notifier: Arc<Notifier>,
    /// Our latest heartbeat that came back, as it went out, and until when it may be shown.
    heartbeat: watch::Sender<(Time, Arc<[u8]>)>,
    recent: Arc<Recent>,
    history: Option<PathBuf>,
    alive: Arc<AtomicU64>,
}

impl App {
    /// Starts a node: binds, loads the store, spawns, and says READY. Waits for no Redis. Several nodes may run in
    /// one process, each on a store of its own.
    pub async fn start(config: Config) -> Result<Running, StartError> {
        Self::start_from(config, None).await
    }

    /// The same, for a node that can read its configuration again.
    pub async fn start_from(config: Config, source: Option<Source>) -> Result<Running, StartError> {
        let clock = Arc::new(MonotonicClock::start());
        let boot = random_id()?;
        let settings = config.engine_settings(boot);
        make_runtime_dir(&config.runtime_dir);
        let dirs = [Some(config.runtime_dir.as_path()), config.store.parent()];
        if let Some(squatted) = dirs.into_iter().flatten().find(|dir| squatted(dir)) {
            return Err(StartError::Squatted(squatted.to_owned()));
        }

        let http = http::bind(&config.http)?;
        let listener = bind_broker(&config.bus).await?;
        let places = Places::of(&http, listener.as_ref());
        let now = clock::stamp(clock::boot_id());
        let (store, restored) = Store::open(&config.store, &now)?;

        let (events, inbox) = mpsc::channel(EVENTS);
        let mut common = Common::new(clock, events, View::starting(&settings))?;
        common.metrics.store.opened(store::found(&restored));
        let engine = Engine::new(settings.clone(), &restored, random_seed()?, common.clock.now());

        let signing = Signing::start(&config, &settings, &common.metrics).await;
        let seal = signing.as_ref().map(|signing| signing.seal.clone());

        let mut tasks = Supervisor::new(common.clock.clone(), common.metrics.tasks.clone());
        let cancel = tasks.token();
        let (owners, condemned) = (OwnerTable::default(), CondemnedTable::default());
        let docker = Docker::new(config.docker.clone());
        let scrub = config.variables.clone();
        let systemd = Systemd::new(config.systemd.clone());
        let broker = Broker::new(Limits::default(), common.metrics.broker.clone());
        let redis = server(&config.bus, listener.as_ref(), &broker);
        let keeper = common.keeper(&config, &redis);
        let asked = source.is_some().then(|| {
            let (desk, asked) = ReloadDesk::new();
            common.reload = Some(desk);
            asked
        });
        let (recorder, audit) = common.audit(&config, &settings).unzip();
        let (persist, latest) = watch::channel(None);
        let (writing_down, written_down) = watch::channel(0);
        let (progress, progress_seen) = watch::channel(Progress::default());
        let (port, errands) = (Port::new(), Port::new());
        let (telling, desk) = common.notifications(&config, &settings)?;
        let healing = common.healing(&config, &owners, &condemned, (&docker, &systemd, desk), &redis);
        let (loop_orders, orders) = mpsc::channel(1);
        let (blocking, blockers) = watch::channel(Arc::from(config.fleet.blockers.clone()));
        let (listening, listen) = watch::channel(bus::Channels::from(config.bus.channels.clone()));
        let outlets = Outlets {
            bus: port.clone(),
            errands: errands.clone(),
            healer: reload::healer(&config, &healing),
            persist,
            written_down,
            on_snapshot: common.show_snapshots(),
            notices: common.notices.clone(),
            on_notice: common.tell_notices(recorder),
            progress,
            alive: Arc::clone(&common.alive),
        };
        let event_loop = EventLoop::new(
            engine,
            common.clock.clone(),
            (inbox, orders),
            outlets,
            common.metrics.tasks.clone(),
        );

        // The store and the audit end when the loop has: it has the last word.
        tasks.spawn_once(
            "store",
            store.run(
                latest,
                writing_down,
                common.clock.clone(),
                common.metrics.store.clone(),
            ),
        );
        if let Some(audit) = audit {
            tasks.spawn_once("audit", audit.run());
        }
        if !config.maintenance.is_empty() {
            let calendar = Calendar::new(Arc::clone(&config.maintenance), common.clock.clone());
            // Before anything else is told: a node that starts within a window does nothing.
            for event in calendar.clone().changes() {
                let _ = common.events.try_send(event);
            }
            tasks.spawn(maintenance_task(calendar, common.events.clone()), Policy::Keep);
        }
        tasks.spawn_once("loop", event_loop.run(cancel.clone()));
        tasks.spawn_once("http", http.run(common.http_state(), cancel.clone()));
        if let Some(keeper) = keeper {
            tasks.spawn_once("leases", keeper.run(cancel.clone()));
        }
        if let Some(listener) = listener {
            tasks.spawn_once("broker", listener.run(broker.clone(), cancel.clone()));
        }
        if let Some(path) = config.heartbeat_file.clone() {
            let beats = common.beats(path, &settings, &progress_seen);
            tasks.spawn(beats_task(beats), Policy::Keep);
        }
        tasks.spawn(preflight_task(config.clone(), &common), Policy::Keep);
        tasks.spawn(
            fleet_task(
                (&config.fleet, blockers),
                &settings,
                (&redis, seal.as_ref()),
                errands,
                &common,
            ),
            Policy::Keep,
        );
        if !config.ask.is_empty() {
            let verifier = signing.as_ref().map(|signing| Arc::clone(&signing.of_answers));
            tasks.spawn(
                asking_task(&config, settings.quorum.lifetime, verifier, &common),
                Policy::Restart,
            );
        }
        if let Some(signing) = signing {
            tasks.spawn(signing.task(), Policy::Keep);
        }
        tasks.spawn(
            bus_task(config.bus.clone(), seal, broker, port, listen, &common),
            Policy::Restart,
        );
        let reporting = checks::Reporting {
            events: common.events.clone(),
            clock: common.clock.clone(),
            metrics: common.metrics.checks.clone(),
        };
        let around = checks::Surroundings {
            reporting,
            owners,
            condemned,
            docker,
            systemd,
            redis,
            scrub: scrub.into(),
            settle: settings.bus_settle,
            rounds: Rounds::default(),
            files: checks::Files::default(),
        };
        let parts = parts(&config.checks, &settings, &around);
        for task in telling {
            tasks.spawn(task, Policy::Keep);
        }
        for part in parts.clone() {
            tasks.spawn(part.task(&around), Policy::Keep);
        }
        let deadline = config.shutdown_deadline;
        if let (Some(source), Some(asked)) = (source, asked) {
            let reloader = Reloader::new(
                config,
                Wiring {
                    settings,
                    parts,
                    around,
                    healing,
                    tasks: tasks.orders(),
                    engine: loop_orders,
                    progress: progress_seen.clone(),
                    listening,
                    blocking,
                    view: common.view.clone(),
                    metrics: common.metrics.clone(),
                    notifier: Arc::clone(&common.notifier),
                },
            );
            tasks.spawn_once("reload", reloader.run(source, asked, cancel.clone()));
        }
        let orphaned = netns::Watch::start().orphaned(common.clock.clone());
        Ok(common.live(tasks, places, progress_seen, orphaned.boxed(), deadline))
    }

    /// A node under `--on-bad-config=observe`: it answers, judges nothing, and says what is wrong.
    /// To be called within a tokio runtime.
    pub fn observe(http: &http::Settings, mistakes: &str) -> Result<Running, StartError> {
        // Nothing could be asked of it.
        let http = http::Settings {
            admin_socket: None,
            admin_listen: None,
            ..http.clone()
        };
        let http = http::bind(&http)?;
        let places = Places::of(&http, None);
        let (events, _) = mpsc::channel(1);
        let clock = Arc::new(MonotonicClock::start());
        let common = Common::new(clock, events, View::misconfigured(mistakes))?;
        common.metrics.engine.config_valid(false);
        let mut tasks = Supervisor::new(common.clock.clone(), common.metrics.tasks.clone());
        let cancel = tasks.token();
        tasks.spawn_once("http", http.run(common.http_state(), cancel.clone()));
        tasks.spawn_once(
            "loop",
            turn_idly(common.clock.clone(), Arc::clone(&common.alive), cancel),
        );
        let (_, progress) = watch::channel(Progress::default());
        Ok(common.live(
            tasks,
            places,
            progress,
            std::future::pending().boxed(),
            OBSERVER_DEADLINE,
        ))
    }
}

impl Running {
    /// The public listener.
    pub fn http_addr(&self) -> SocketAddr {
        self.places.http
    }

    /// The admin listener's port, if there is one.
    pub fn admin_addr(&self) -> Option<SocketAddr> {
        self.places.admin
    }

    /// The admin listener's socket, if there is one.
    pub fn admin_socket(&self) -> Option<&Path> {
        self.places.admin_socket.as_deref()
    }

    /// The embedded broker's listener, if there is one.
    pub fn broker_addr(&self) -> Option<SocketAddr> {
        self.places.broker
    }

    /// What the endpoints show, as it changes.
    pub fn view(&self) -> watch::Receiver<Arc<View>> {
        self.view.clone()
    }

    /// Every notice from now on.
    pub fn notices(&self) -> broadcast::Receiver<Arc<Notice>> {
        self.notices.subscribe()
    }

    /// Its metrics.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The way to end it, for whoever does not own it.
    pub fn stop(&self) -> Stop {
        self.stop.clone()
    }

    /// Where it is asked to read its configuration again; `None`: it cannot.
    pub fn reload(&self) -> Option<ReloadDesk> {
        self.reload.clone()
    }

    /// Asks it to drain and end. [`Running::wait`] tells when it has.
    pub fn shutdown(&self) {
        self.stop.drain("its owner");
    }

    /// Waits for its end.
    pub async fn wait(&mut self) -> Exit {
        (&mut self.life).await.unwrap_or_else(|error| {
            tracing::error!("the node's supervision broke: {error}");
            Exit::Internal
        })
    }
}

impl Places {
    fn of(http: &Bound, broker: Option<&Listener>) -> Self {
        Self {
            http: http.local_addr(),
            admin: http.admin_addr(),
            admin_socket: http.admin_socket().map(Path::to_owned),
            broker: broker.map(Listener::local_addr),
        }
    }
}

impl Common {
    fn new(clock: Arc<MonotonicClock>, events: mpsc::Sender<Event>, view: View) -> Result<Self, StartError> {
        let (notices, _) = broadcast::channel(NOTICES);
        let (view, _) = watch::channel(Arc::new(view));
        let (snapshots, _) = watch::channel(None);
        Ok(Self {
            clock,
            metrics: Metrics::new()?,
            events,
            notices,
            view,
            snapshots,
            leases: None,
            reload: None,
            notifier: Arc::new(Notifier::open(&Environment::of_process())),
            heartbeat: watch::Sender::default(),
            recent: Arc::default(),
            history: None,
            alive: Arc::default(),
        })
    }

    fn http_state(&self) -> AppState {
        AppState {
            view: self.view.subscribe(),
            notices: self.notices.clone(),
            recent: Arc::clone(&self.recent),
            events: self.events.clone(),
            clock: self.clock.clone(),
            loop_turned: Arc::clone(&self.alive),
            history: self.history.clone(),
            leases: self.leases.clone(),
            reload: self.reload.clone(),
            heartbeat: self.heartbeat.subscribe(),
            metrics: self.metrics.clone(),
        }
    }

    /// Where notices are kept on disk, and what writes them there.
    fn audit(&mut self, config: &Config, settings: &Settings) -> Option<(Recorder, audit::Writer)> {
        let kept = config.audit.as_ref()?;
        self.history = Some(kept.path.clone());
        let (node, boot) = (Arc::clone(&settings.node), Arc::clone(&settings.boot));
        Some(audit::audit(kept, node, boot, self.metrics.audit.clone()))
    }

    /// What the executors share, whatever is configured.
    fn healing(
        &self,
        config: &Config,
        owners: &OwnerTable,
        condemned: &CondemnedTable,
        (docker, systemd, desk): (&Docker, &Systemd, notify::Desk),
        redis: &Server,
    ) -> Surroundings {
        let view = self.view.subscribe();
        let latest = move |peer: PeerId| {
            let view = Arc::clone(&view.borrow());
            view.snapshot()?.peer(peer)?.incarnation.clone()
        };
        Surroundings {
            owners: owners.clone(),
            condemned: condemned.clone(),
            redis: redis.clone(),
            latest: Arc::new(latest),
            hold_container: checks::hold_container,
            tell: Arc::new(move |to, grant| desk.ask(to, grant)),
            docker: docker.clone(),
            systemd: systemd.clone(),
            lock_dir: Some(config.runtime_dir.clone()),
            scrub: Vec::new(),
            clock: self.clock.clone(),
            metrics: self.metrics.remedies.clone(),
        }
    }

    /// Who tells people, and the desk at which a remedy asks for it.
    fn notifications(
        &self,
        config: &Config,
        settings: &Settings,
    ) -> Result<(Vec<Task>, notify::Desk), StartError> {
        let around = notify::Surroundings {
            sender: notify::Sender {
                node: Arc::clone(&settings.node),
                group: Arc::clone(&settings.group),
                boot: Arc::clone(&settings.boot),
                dry_run: settings.dry_run,
            },
            notices: self.notices.subscribe(),
            snapshots: self.snapshots.subscribe(),
            clock: self.clock.clone(),
            seed: random_seed()?,
            deadline: config.shutdown_deadline,
            metrics: self.metrics.notify.clone(),
        };
        Ok(notify::tasks(config.notify.clone(), around))
    }

    /// The keeper of the leases, if there are any; then they can be asked for.
    fn keeper(&mut self, config: &Config, redis: &Server) -> Option<Keeper> {
        if config.leases.prefixes.is_empty() {
            return None;
        }
        let (desk, asked) = LeaseDesk::new();
        self.leases = Some(desk);
        let around = leases::Surroundings {
            redis: matches!(config.bus.backend, Backend::Redis(_)).then(|| redis.clone()),
            clock: Arc::new(SleeplessClock::start()),
            random: || {
                let mut bytes = [0; 16];
                getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
                Ok(bytes)
            },
            snapshots: self.snapshots.subscribe(),
            asked,
            metrics: self.metrics.leases.clone(),
        };
        Some(Keeper::new(config.leases.clone(), around))
    }

    fn beats(&self, path: PathBuf, settings: &Settings, progress: &watch::Receiver<Progress>) -> Beats {
        let said = [("node", &settings.node), ("group", &settings.group)];
        Beats {
            path,
            interval: settings.interval,
            metadata: said
                .into_iter()
                .map(|(key, value)| (key.to_owned(), value.to_string().into()))
                .collect(),
            alive: Arc::clone(&self.alive),
            progress: progress.clone(),
            clock: self.clock.clone(),
            metrics: self.metrics.tasks.clone(),
        }
    }

    fn show_snapshots(&self) -> Box<dyn Fn(Arc<Snapshot>) + Send> {
        let (view, snapshots) = (self.view.clone(), self.snapshots.clone());
        let metrics = self.metrics.engine.clone();
        Box::new(move |snapshot| {
            metrics.observe_trust(&snapshot.trust);
            snapshots.send_replace(Some(Arc::clone(&snapshot)));
            view.send_modify(|view| *view = Arc::new(view.with_snapshot(snapshot)));
        })
    }

    fn tell_notices(&self, audit: Option<Recorder>) -> OnNotice {
        let (metrics, recent) = (self.metrics.engine.clone(), Arc::clone(&self.recent));
        let clock = self.clock.clone();
        Box::new(move |notice| {
            logs::log_notice(notice);
            metrics.observe_notice(notice);
            recent.keep(notice);
            if let Some(audit) = &audit {
                audit.take(clock.wall(), notice);
            }
        })
    }

    /// From here on the node is up.
    fn live(
        self,
        mut tasks: Supervisor,
        places: Places,
        progress: watch::Receiver<Progress>,
        orphaned: BoxFuture<'static, String>,
        deadline: Duration,
    ) -> Running {
        let notifier = Arc::clone(&self.notifier);
        let telling = Arc::clone(&notifier).run(
            self.view.subscribe(),
            Arc::clone(&self.alive),
            self.clock.clone(),
            tasks.token(),
        );
        tasks.spawn_once("sd_notify", telling);
        notifier.ready();
        let stop = Stop::new();
        let leases = self.leases;
        let before_goodbye = move |within| {
            let leases = leases.clone();
            async move {
                if let Some(leases) = leases {
                    leases.drain(within).await;
                }
            }
            .boxed()
        };
        let life = Life {
            before_goodbye: Box::new(before_goodbye),
            tasks,
            events: self.events,
            progress,
            stop: stop.clone(),
            orphaned,
            deadline,
            notifier,
            clock: self.clock,
            metrics: self.metrics.tasks.clone(),
        };
        Running {
            places,
            view: self.view.subscribe(),
            notices: self.notices,
            metrics: self.metrics,
            stop,
            reload: self.reload,
            life: AbortOnDropHandle::new(tokio::spawn(life.live())),
        }
    }
}

fn beats_task(beats: Beats) -> Task {
    Task {
        name: "heartbeat_file".to_owned(),
        start: Box::new(move |cancel| Box::pin(beats.clone().run(cancel))),
    }
}

fn maintenance_task(calendar: Calendar, events: mpsc::Sender<Event>) -> Task {
    Task {
        name: MAINTENANCE.to_owned(),
        start: Box::new(move |cancel| Box::pin(calendar.clone().run(events.clone(), cancel))),
    }
}

/// Behind the start, never before it: what is missing harms nobody but itself.
fn preflight_task(config: Config, common: &Common) -> Task {
    looking(Arc::new(config), common.view.clone(), common.metrics.clone())
}

fn looking(config: Arc<Config>, view: watch::Sender<Arc<View>>, metrics: Metrics) -> Task {
    Task {
        name: PREFLIGHT.to_owned(),
        start: Box::new(move |cancel| {
            Box::pin(preflight::keep_looking(
                Arc::clone(&config),
                view.clone(),
                metrics.clone(),
                cancel,
            ))
        }),
    }
}

/// Whoever asks the outside for the guards. After a failure what was asked is not answered, which is an answer too.
fn fleet_task(
    (settings, blockers): (&fleet::Settings, watch::Receiver<Arc<[fleet::Blocker]>>),
    names: &Settings,
    (redis, seal): (&Server, Option<&bus::Seal>),
    port: Port<Errand>,
    common: &Common,
) -> Task {
    let settings = settings.clone();
    let around = fleet::Surroundings {
        names: (Arc::clone(&names.node), Arc::clone(&names.group)),
        redis: redis.clone(),
        seal: seal.map(|seal| fleet::Seal {
            signer: Arc::clone(&seal.signer),
            verifier: Arc::clone(&seal.verifier),
        }),
        clock: common.clock.clone(),
        events: common.events.clone(),
        metrics: common.metrics.fleet.clone(),
    };
    Task {
        name: "fleet".to_owned(),
        start: Box::new(move |cancel| {
            let errands = port.connect(ERRANDS);
            Box::pin(Fleet::new(&settings, blockers.clone(), around.clone()).run(errands, cancel))
        }),
    }
}

/// The two links. A start after a failure first tells the engine that both are gone.
fn bus_task(
    settings: bus::Settings,
    seal: Option<bus::Seal>,
    broker: Broker,
    port: Port<bus::Command>,
    listen: watch::Receiver<bus::Channels>,
    common: &Common,
) -> Task {
    let dial: Arc<dyn Dial> = match &settings.backend {
        Backend::Redis(endpoint) => Arc::new(Redis::new(endpoint.clone())),
        Backend::Embedded { .. } => Arc::new(broker),
    };
    let (clock, metrics) = (common.clock.clone(), common.metrics.bus.clone());
    let (events, latest) = (common.events.clone(), common.heartbeat.clone());
    let started = AtomicBool::new(false);
    Task {
        name: "bus".to_owned(),
        start: Box::new(move |cancel| {
            let commands = port.connect(COMMANDS);
            let bus = Bus {
                settings: settings.clone(),
                dial: Arc::clone(&dial),
                listen: listen.clone(),
                metrics: metrics.clone(),
                clock: clock.clone(),
                wall: Arc::new(clock::wall_seconds),
                seal: seal.clone(),
                latest: latest.clone(),
            };
            let events = events.clone();
            let again = started.swap(true, Ordering::Relaxed);
            Box::pin(async move {
                for link in Link::ALL.into_iter().filter(|_| again) {
                    let reason = "the part of defib that keeps it failed and was started again".to_owned();
                    let status = LinkStatus::Down { reason };
                    events.send(Event::Link { link, status }).await?;
                }
                bus.run(commands, events, cancel).await
            })
        }),
    }
}

/// Votes over HTTP.
fn asking_task(
    config: &Config,
    lifetime: Duration,
    verifier: Option<Arc<Verifier>>,
    common: &Common,
) -> Task {
    let asking = bus::Asking {
        nodes: config.ask.clone(),
        interval: config.bus.interval,
        group_channel: Arc::clone(&config.bus.publish_channel),
        verifier,
        wall: Arc::new(clock::wall_seconds),
        clock: common.clock.clone(),
        lifetime,
        snapshots: common.snapshots.subscribe(),
        events: common.events.clone(),
        metrics: common.metrics.bus.clone(),
    };
    Task {
        name: "votes".to_owned(),
        start: Box::new(move |cancel| Box::pin(asking.clone().run(cancel))),
    }
}

/// The bus's server as applications reach it, which is where their connections are looked for.
fn server(bus: &bus::Settings, listener: Option<&Listener>, broker: &Broker) -> Server {
    let dial: Arc<dyn Dial> = match (&bus.backend, listener) {
        (Backend::Redis(endpoint), _) => Arc::new(Redis::new(endpoint.clone())),
        (Backend::Embedded { .. }, Some(listener)) => {
            let address = listener.local_addr();
            Arc::new(Redis::new(Endpoint::tcp(
                address.ip().to_string(),
                address.port(),
            )))
        }
        (Backend::Embedded { .. }, None) => Arc::new(broker.clone()),
    };
    Server::new(dial, &bus.node)
}

impl Dial for Broker {
    fn dial(&self) -> Dialing<'_> {
        let stream: Box<dyn Stream> = Box::new(self.connect());
        Box::pin(std::future::ready(Ok(stream)))
    }

    fn place(&self) -> String {
        "the embedded bus".to_owned()
    }
}

/// The executors, as the loop wants them.
struct Executing(Arc<Executors>);

impl Healer for Executing {
    fn heal(&self, grant: Grant) -> BoxFuture<'static, RemedyOutcome> {
        let executors = Arc::clone(&self.0);
        async move { executors.heal(grant).await }.boxed()
    }
}

async fn bind_broker(settings: &bus::Settings) -> Result<Option<Listener>, StartError> {
    match &settings.backend {
        Backend::Embedded {
            listen: Some(address),
        } => Listener::bind(*address)
            .await
            .map(Some)
            .map_err(StartError::Broker),
        Backend::Embedded { listen: None } | Backend::Redis(_) => Ok(None),
    }
}

/// Keeps `/livez` true to its word in a node that has no engine.
async fn turn_idly(
    clock: Arc<MonotonicClock>,
    alive: Arc<AtomicU64>,
    cancel: tokio_util::sync::CancellationToken,
) -> anyhow::Result<()> {
    let mut turns = tokio::time::interval(TURN);
    while cancel.run_until_cancelled(turns.tick()).await.is_some() {
        alive.store(clock.now().as_nanos(), Ordering::Relaxed);
    }
    Ok(())
}

/// If it cannot be made, whatever needs it says so with its own name.
fn make_runtime_dir(path: &Path) {
    if let Err(error) = DirBuilder::new().recursive(true).mode(0o750).create(path) {
        tracing::debug!("cannot create {}: {error}", path.display());
    }
}

/// In a directory like /tmp whoever comes first makes a name, and what lies in a stranger's directory is the
/// stranger's to replace: our sockets, our locks, our store.
fn squatted(dir: &Path) -> bool {
    let (Ok(found), Some(Ok(above))) = (fs::symlink_metadata(dir), dir.parent().map(fs::metadata)) else {
        return false;
    };
    let sticky = above.mode() & 0o1000 != 0;
    let ours = [0, rustix::process::geteuid().as_raw()].contains(&found.uid());
    sticky && !ours
}

fn random_id() -> Result<Arc<str>, StartError> {
    Ok(format!("{:016x}", random_seed()?).into())
}

fn random_seed() -> Result<u64, StartError> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(StartError::Random)?;
    Ok(u64::from_ne_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    use super::*;

    #[test]
    fn a_strangers_directory_is_not_used_where_everybody_may_make_one() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let tmp = tempfile::tempdir().unwrap();
        let [ours, theirs, link] = ["ours", "theirs", "link"].map(|name| tmp.path().join(name));
        fs::create_dir(&ours).unwrap();
        fs::create_dir(&theirs).unwrap();
        chown(&theirs, Some(12345), None).unwrap();
        symlink(&ours, &link).unwrap();
        std::os::unix::fs::lchown(&link, Some(12345), None).unwrap();
        assert!(!squatted(&theirs), "nobody else could have made it");
        fs::set_permissions(tmp.path(), fs::Permissions::from_mode(0o1777)).unwrap();
        assert!(squatted(&theirs));
        assert!(squatted(&link));
        assert!(!squatted(&ours));
        assert!(!squatted(&tmp.path().join("missing")));
    }
}
