//! The runtime: supervision, the loop, the two stages of the end, the service manager, the namespace.

use std::collections::HashSet;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::bail;
use defib::bus;
use defib::engine::Engine;
use defib::engine::decision::Grant;
use defib::engine::event::{Event, ExpectationId, Link, LinkStatus, OperatorRequest, RemedyOutcome, Role};
use defib::engine::persist::Restored;
use defib::engine::settings::{BreakerSettings, GroupBudget, QuorumSettings, Settings};
use defib::engine::snapshot::Snapshot;
use defib::engine::time::{Clock, Time};
use defib::http::View;
use defib::runtime::clock::MonotonicClock;
use defib::runtime::event_loop::{COMMANDS, EVENTS, EventLoop, Outlets, Progress};
use defib::runtime::healing::Healer;
use defib::runtime::netns;
use defib::runtime::port::Port;
use defib::runtime::sd_notify::{Environment, Notifier, STUCK};
use defib::runtime::shutdown::{Exit, Life, Signals, Stop};
use defib::runtime::supervise::{Policy, RESTARTS, Supervisor};
use defib::task::Task;
use defib::telemetry::metrics::Metrics;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::{broadcast, mpsc, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::support;
use crate::support::node::{Node, get};

/// No test waits longer for anything.
const PATIENCE: Duration = Duration::from_secs(30);

fn clock() -> Arc<MonotonicClock> {
    Arc::new(MonotonicClock::start())
}

/// Value of a metric, written as Prometheus writes it; 0 if it is not there.
fn metric(metrics: &Metrics, name: &str) -> f64 {
    let text = prometheus::TextEncoder::new()
        .encode_to_string(&metrics.registry.gather())
        .unwrap();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map_or(0.0, |value| value.parse().unwrap())
}

fn is(metrics: &Metrics, name: &str, value: u32) {
    assert!(
        (metric(metrics, name) - f64::from(value)).abs() < 0.5,
        "{name} is {}",
        metric(metrics, name)
    );
}

fn task<F>(name: &str, run: impl Fn(CancellationToken) -> F + Send + Sync + 'static) -> Task
where
    F: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    Task {
        name: name.to_owned(),
        start: Box::new(move |cancel| Box::pin(run(cancel))),
    }
}

fn supervisor() -> (Supervisor, Metrics) {
    let metrics = Metrics::new().unwrap();
    (Supervisor::new(clock(), metrics.tasks.clone()), metrics)
}

mod supervision {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn s25_a_task_that_crashes_is_restarted_under_a_limit_then_fatal() {
        let (mut tasks, metrics) = supervisor();
        let starts = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&starts);
        let crashing = task("check feed/status", move |_| {
            let nth = counted.fetch_add(1, Ordering::Relaxed);
            async move {
                tokio::time::sleep(Duration::from_millis(10)).await;
                assert!(nth.is_multiple_of(2), "crash number {nth}");
                bail!("error number {nth}")
            }
        });
        tasks.spawn(crashing, Policy::Restart);
        let fatal = timeout(PATIENCE, tasks.watch()).await.unwrap();
        assert_eq!(fatal.task, "check feed/status");
        assert_eq!(fatal.reason, format!("panicked: crash number {RESTARTS}"));
        assert_eq!(starts.load(Ordering::Relaxed), RESTARTS + 1);
        is(
            &metrics,
            "defib_task_exits_total{reason=\"error\",task=\"check feed/status\"}",
            3,
        );
        is(
            &metrics,
            "defib_task_exits_total{reason=\"panic\",task=\"check feed/status\"}",
            3,
        );
        is(
            &metrics,
            "defib_task_restarts_total{task=\"check feed/status\"}",
            5,
        );
        is(&metrics, "defib_tasks_running{task=\"check feed/status\"}", 0);
    }

    #[tokio::test(start_paused = true)]
    async fn s25_failures_that_are_far_apart_are_never_fatal() {
        let (mut tasks, metrics) = supervisor();
        tasks.spawn(
            task("rare", |_| async {
                tokio::time::sleep(Duration::from_secs(15)).await;
                bail!("again")
            }),
            Policy::Restart,
        );
        assert!(timeout(Duration::from_secs(3600), tasks.watch()).await.is_err());
        assert!(metric(&metrics, "defib_task_restarts_total{task=\"rare\"}") > 200.0);
    }

    #[tokio::test(start_paused = true)]
    async fn s25_a_crash_is_seen_at_once() {
        let (mut tasks, _) = supervisor();
        let clock = clock();
        tasks.spawn_once("loop", async { panic!("on purpose") });
        let fatal = tasks.watch().await;
        assert_eq!(fatal.reason, "panicked: on purpose");
        assert_eq!(clock.now(), Time::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn s25_a_task_that_ends_as_planned_ends_nothing_else() {
        let (mut tasks, metrics) = supervisor();
        tasks.spawn_once("short", async { Ok(()) });
        tasks.spawn(task("other short", |_| async { Ok(()) }), Policy::Restart);
        tasks.spawn(
            task("long", |cancel| async move {
                cancel.cancelled().await;
                Ok(())
            }),
            Policy::Fatal,
        );
        assert!(timeout(Duration::from_secs(60), tasks.watch()).await.is_err());
        is(
            &metrics,
            "defib_task_exits_total{reason=\"planned\",task=\"short\"}",
            1,
        );
        is(
            &metrics,
            "defib_task_exits_total{reason=\"planned\",task=\"other short\"}",
            1,
        );
        is(&metrics, "defib_tasks_running{task=\"short\"}", 0);
        is(&metrics, "defib_tasks_running{task=\"long\"}", 1);
        assert!(tasks.stop(PATIENCE).await.is_empty());
        is(
            &metrics,
            "defib_task_exits_total{reason=\"cancelled\",task=\"long\"}",
            1,
        );
        is(&metrics, "defib_tasks_running{task=\"long\"}", 0);
    }

    #[tokio::test(start_paused = true)]
    async fn s25_one_that_crashes_while_it_is_made_is_no_other_matter() {
        let (mut tasks, _) = supervisor();
        let broken = Task {
            name: "broken".to_owned(),
            start: Box::new(|_| panic!("no future at all")),
        };
        tasks.spawn(broken, Policy::Restart);
        let fatal = timeout(PATIENCE, tasks.watch()).await.unwrap();
        assert_eq!(fatal.reason, "panicked: no future at all");
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_kept_is_restarted_without_end_and_never_fatal() {
        let (mut tasks, metrics) = supervisor();
        tasks.spawn(
            task("owner", |_| async { bail!("no descriptors left") }),
            Policy::Keep,
        );
        let fatal = timeout(Duration::from_secs(600), tasks.watch()).await;
        assert!(fatal.is_err(), "{fatal:?}");
        let restarts = metric(&metrics, "defib_task_restarts_total{task=\"owner\"}");
        assert!(
            (100.0..400.0).contains(&restarts),
            "at most one every 2 s: {restarts}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_restart_that_waits_ends_with_the_node() {
        let (mut tasks, metrics) = supervisor();
        tasks.spawn(task("flapping", |_| async { bail!("no") }), Policy::Restart);
        let _ = timeout(Duration::from_millis(1), tasks.watch()).await;
        assert!(tasks.stop(Duration::from_millis(1)).await.is_empty());
        is(&metrics, "defib_tasks_running{task=\"flapping\"}", 0);
    }
}

/// Log lines of this thread, for as long as the guard lives.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    fn capture(&self) -> tracing::subscriber::DefaultGuard {
        let sink = self.clone();
        let lines = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(move || sink.clone())
            .finish();
        tracing::subscriber::set_default(lines)
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn settings() -> Settings {
    Settings {
        node: "a".into(),
        group: "g".into(),
        boot: "0123456789abcdef".into(),
        dry_run: false,
        interval: Duration::from_secs(1),
        bus_settle: Duration::from_secs(60),
        group_channel: "defib:g".into(),
        group_budget: GroupBudget::default(),
        fleet_asks: false,
        breaker: BreakerSettings::default(),
        quorum: QuorumSettings::default(),
        expectations: Vec::new(),
        peers: Vec::new(),
    }
}

/// An executor that never comes back.
struct Never;

impl Healer for Never {
    fn heal(&self, _: Grant) -> BoxFuture<'static, RemedyOutcome> {
        std::future::pending().boxed()
    }
}

/// A loop around a real engine, with a channel where its bus would be.
struct Rig {
    events: mpsc::Sender<Event>,
    commands: mpsc::Receiver<bus::Command>,
    snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
    shown: Arc<AtomicUsize>,
    progress: watch::Receiver<Progress>,
    port: Port<bus::Command>,
    alive: Arc<AtomicU64>,
    clock: Arc<MonotonicClock>,
    metrics: Metrics,
}

impl Rig {
    /// Snapshots that a second full of such events is shown in.
    async fn shown_in_a_second_of(&self, event: impl Fn() -> Event) -> usize {
        let before = self.shown.load(Ordering::Relaxed);
        for _ in 0..1000 {
            self.events.send(event()).await.unwrap();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        self.shown.load(Ordering::Relaxed) - before
    }
}

fn rig() -> (Rig, EventLoop) {
    let clock = clock();
    let metrics = Metrics::new().unwrap();
    let (events, inbox) = mpsc::channel(EVENTS);
    let (show, snapshots) = watch::channel(None);
    let (report, progress) = watch::channel(Progress::default());
    let port = Port::new();
    let alive = Arc::new(AtomicU64::new(0));
    let shown = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&shown);
    let outlets = Outlets {
        bus: port.clone(),
        errands: Port::new(),
        healer: Arc::new(Never),
        persist: watch::channel(None).0,
        written_down: watch::channel(u64::MAX).1,
        on_snapshot: Box::new(move |snapshot| {
            counted.fetch_add(1, Ordering::Relaxed);
            show.send_replace(Some(snapshot));
        }),
        notices: broadcast::channel(16).0,
        on_notice: Box::new(|_| ()),
        progress: report,
        alive: Arc::clone(&alive),
    };
    let engine = Engine::new(settings(), &Restored::Missing, 1, clock.now());
    let event_loop = EventLoop::new(
        engine,
        Arc::clone(&clock),
        (inbox, mpsc::channel(1).1),
        outlets,
        metrics.tasks.clone(),
    );
    let commands = port.connect(COMMANDS);
    let rig = Rig {
        events,
        commands,
        snapshots,
        shown,
        progress,
        port,
        alive,
        clock,
        metrics,
    };
    (rig, event_loop)
}

/// What a bus tells that has just connected to a plain server.
async fn links_up(events: &mpsc::Sender<Event>) {
    for link in Link::ALL {
        let down = LinkStatus::Down {
            reason: "not connected yet".to_owned(),
        };
        let up = LinkStatus::Up {
            role: Role::Master,
            plain: true,
        };
        for status in [down, up] {
            events.send(Event::Link { link, status }).await.unwrap();
        }
    }
}

mod event_loop {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_turns_and_shows_even_if_nothing_happens() {
        let (rig, event_loop) = rig();
        let cancel = CancellationToken::new();
        let task = tokio::spawn(event_loop.run(cancel.clone()));
        for _ in 0..40 {
            tokio::time::sleep(Duration::from_millis(500)).await;
            let turned = Time::from_nanos(rig.alive.load(Ordering::Relaxed));
            assert!(rig.clock.now().since(turned) <= Duration::from_millis(260));
            let snapshot = rig.snapshots.borrow().clone().unwrap();
            assert!(rig.clock.now().since(snapshot.at) <= Duration::from_millis(1010));
        }
        cancel.cancel();
        task.await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_events_is_shown_a_few_times_a_second_at_most() {
        let (rig, event_loop) = rig();
        let task = tokio::spawn(event_loop.run(CancellationToken::new()));
        tokio::time::sleep(Duration::from_secs(5)).await;
        // Both are of no meaning to the engine, and so of no consequence; but what is seen on this machine could be.
        let answer = || Event::RemedyEnded {
            token: 99,
            outcome: outcome(),
        };
        let sight = || Event::Expectation {
            id: ExpectationId(99),
            met: None,
        };
        let shown = rig.shown_in_a_second_of(answer).await;
        assert!((1..3).contains(&shown), "{shown} snapshots in one second");
        let shown = rig.shown_in_a_second_of(sight).await;
        assert!((3..8).contains(&shown), "{shown} snapshots in one second");
        task.abort();
    }

    fn outcome() -> RemedyOutcome {
        RemedyOutcome::Acted {
            detail: String::new(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn heartbeats_go_out_and_none_waits_for_a_bus_that_is_away() {
        let (mut rig, event_loop) = rig();
        let task = tokio::spawn(event_loop.run(CancellationToken::new()));
        links_up(&rig.events).await;
        let bus::Command::Publish(first) = timeout(PATIENCE, rig.commands.recv()).await.unwrap().unwrap()
        else {
            panic!("the engine begins with a heartbeat");
        };
        assert!(!first.goodbye);
        // A minute long nobody reads: the queue fills up, the rest is dropped and counted.
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(rig.commands.len(), COMMANDS);
        assert!(metric(&rig.metrics, "defib_fanout_failures_total{to=\"bus\"}") >= 30.0);
        // The bus is started again: what had waited is gone.
        rig.commands = rig.port.connect(COMMANDS);
        let bus::Command::Publish(next) = timeout(PATIENCE, rig.commands.recv()).await.unwrap().unwrap()
        else {
            panic!("and goes on with heartbeats");
        };
        assert!(next.slot > first.slot.map(|slot| slot + 50), "{first:?} {next:?}");
        task.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn s24_a_drain_is_shown_at_once_and_says_goodbye() {
        let (mut rig, event_loop) = rig();
        let task = tokio::spawn(event_loop.run(CancellationToken::new()));
        links_up(&rig.events).await;
        tokio::time::sleep(Duration::from_millis(3300)).await;
        let asked = rig.clock.now();
        let request = OperatorRequest::Drain;
        rig.events
            .send(Event::Operator {
                request,
                by: "uid 0".to_owned(),
            })
            .await
            .unwrap();
        let draining = |shown: &Option<Arc<Snapshot>>| shown.as_ref().is_some_and(|s| s.draining);
        timeout(PATIENCE, rig.snapshots.wait_for(draining))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(rig.clock.now(), asked);

        let goodbye = loop {
            match timeout(PATIENCE, rig.commands.recv()).await.unwrap().unwrap() {
                bus::Command::Publish(heartbeat) if heartbeat.goodbye => break heartbeat,
                bus::Command::Publish(_) | bus::Command::Replace(_) => {}
            }
        };
        assert!(!rig.progress.borrow().goodbye_said());
        let slot = goodbye.slot.unwrap();
        rig.events
            .send(Event::Published { slot, receivers: 1 })
            .await
            .unwrap();
        timeout(PATIENCE, rig.progress.wait_for(Progress::goodbye_said))
            .await
            .unwrap()
            .unwrap();
        assert!(rig.progress.borrow().healed());
        task.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_nobody_can_reach_says_so() {
        let (rig, event_loop) = rig();
        let task = tokio::spawn(event_loop.run(CancellationToken::new()));
        drop(rig.events);
        timeout(PATIENCE, task).await.unwrap().unwrap().unwrap_err();
    }
}

mod end {
    use super::*;

    fn life(tasks: Supervisor, rig: &Rig, stop: &Stop) -> Life {
        Life {
            tasks,
            events: rig.events.clone(),
            progress: rig.progress.clone(),
            stop: stop.clone(),
            before_goodbye: Box::new(|_| std::future::ready(()).boxed()),
            orphaned: std::future::pending().boxed(),
            deadline: Duration::from_secs(10),
            notifier: Arc::new(Notifier::open(&Environment::default())),
            clock: rig.clock.clone(),
            metrics: rig.metrics.tasks.clone(),
        }
    }

    /// A node of a real loop, and a bus that takes everything.
    fn node() -> (Rig, Supervisor) {
        let (mut rig, event_loop) = rig();
        let mut tasks = Supervisor::new(rig.clock.clone(), rig.metrics.tasks.clone());
        let cancel = tasks.token();
        tasks.spawn_once("loop", event_loop.run(cancel));
        let mut commands = std::mem::replace(&mut rig.commands, mpsc::channel(1).1);
        let events = rig.events.clone();
        let cancel = tasks.token();
        tasks.spawn_once("bus", async move {
            links_up(&events).await;
            while let Some(Some(command)) = cancel.run_until_cancelled(commands.recv()).await {
                if let bus::Command::Publish(heartbeat) = command {
                    let slot = heartbeat.slot.unwrap();
                    events.send(Event::Published { slot, receivers: 1 }).await?;
                }
            }
            Ok(())
        });
        (rig, tasks)
    }

    #[tokio::test(start_paused = true)]
    async fn s24_a_drain_ends_well_and_soon() {
        let (rig, tasks) = node();
        let stop = Stop::new();
        let life = tokio::spawn(life(tasks, &rig, &stop).live());
        tokio::time::sleep(Duration::from_secs(5)).await;
        stop.drain("SIGTERM");
        assert_eq!(timeout(PATIENCE, life).await.unwrap().unwrap(), Exit::Done);
        let took = rig.clock.now().since(Time::from_origin(Duration::from_secs(5)));
        assert!(took < Duration::from_secs(1), "{took:?}");
        is(
            &rig.metrics,
            "defib_task_exits_total{reason=\"cancelled\",task=\"loop\"}",
            1,
        );
    }

    #[tokio::test(start_paused = true)]
    async fn s24_a_task_that_hangs_is_named_and_does_not_outlast_the_deadline() {
        let lines = Lines::default();
        let _guard = lines.capture();
        let (rig, mut tasks) = node();
        tasks.spawn(
            task("http:feed/status", |_| std::future::pending()),
            Policy::Restart,
        );
        let stop = Stop::new();
        let life = tokio::spawn(life(tasks, &rig, &stop).live());
        tokio::time::sleep(Duration::from_secs(5)).await;
        stop.drain("SIGTERM");
        assert_eq!(timeout(PATIENCE, life).await.unwrap().unwrap(), Exit::Done);
        let took = rig.clock.now().since(Time::from_origin(Duration::from_secs(5)));
        assert!(took <= Duration::from_millis(10_100), "{took:?}");
        let text = lines.text();
        assert!(
            text.contains("task http:feed/status did not end within the deadline"),
            "{text}"
        );
        assert!(!text.contains("task loop did not end"), "{text}");
        is(
            &rig.metrics,
            "defib_drain_timeouts_total{task=\"http:feed/status\"}",
            1,
        );
        is(&rig.metrics, "defib_tasks_running{task=\"http:feed/status\"}", 0);
    }

    #[tokio::test(start_paused = true)]
    async fn s24_a_second_request_ends_it_at_once() {
        let (rig, mut tasks) = node();
        tasks.spawn(task("hung", |_| std::future::pending()), Policy::Restart);
        let stop = Stop::new();
        let life = tokio::spawn(life(tasks, &rig, &stop).live());
        tokio::time::sleep(Duration::from_secs(5)).await;
        stop.drain("SIGTERM");
        tokio::time::sleep(Duration::from_secs(1)).await;
        stop.abort();
        assert_eq!(timeout(PATIENCE, life).await.unwrap().unwrap(), Exit::Forced);
        assert_eq!(rig.clock.now(), Time::from_origin(Duration::from_secs(6)));
    }

    #[tokio::test(start_paused = true)]
    async fn s24_an_operator_s_drain_ends_the_node_too() {
        let (rig, tasks) = node();
        let life = tokio::spawn(life(tasks, &rig, &Stop::new()).live());
        tokio::time::sleep(Duration::from_secs(5)).await;
        let request = OperatorRequest::Drain;
        rig.events
            .send(Event::Operator {
                request,
                by: "uid 0".to_owned(),
            })
            .await
            .unwrap();
        assert_eq!(timeout(PATIENCE, life).await.unwrap().unwrap(), Exit::Done);
    }

    #[tokio::test(start_paused = true)]
    async fn s25_a_task_that_failed_for_good_ends_the_node() {
        let (rig, mut tasks) = node();
        tasks.spawn_once("http", async { bail!("no more sockets") });
        let life = life(tasks, &rig, &Stop::new()).live();
        assert_eq!(timeout(PATIENCE, life).await.unwrap(), Exit::Internal);
    }

    #[tokio::test(start_paused = true)]
    async fn s25_a_loop_that_failed_holds_nobody_up() {
        let (rig, event_loop) = rig();
        drop(event_loop);
        let mut tasks = Supervisor::new(rig.clock.clone(), rig.metrics.tasks.clone());
        tasks.spawn_once("loop", async { panic!("on purpose") });
        let life = life(tasks, &rig, &Stop::new()).live();
        assert_eq!(timeout(PATIENCE, life).await.unwrap(), Exit::Internal);
        assert_eq!(rig.clock.now(), Time::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn s39_an_orphaned_namespace_ends_the_node_with_a_code_of_its_own() {
        let (rig, tasks) = node();
        let mut life = life(tasks, &rig, &Stop::new());
        life.orphaned = std::future::ready("eth0".to_owned()).boxed();
        assert_eq!(timeout(PATIENCE, life.live()).await.unwrap(), Exit::Orphaned);
    }

    #[test]
    fn exit_codes_differ() {
        let all = [
            Exit::Done,
            Exit::Internal,
            Exit::Orphaned,
            Exit::Config,
            Exit::Forced,
        ];
        let codes: HashSet<u8> = all.into_iter().map(Exit::code).collect();
        assert_eq!(codes, HashSet::from([0, 70, 75, 78, 130]));
    }

    #[tokio::test]
    async fn signals_are_named_and_a_hang_up_is_ignored() {
        use rustix::process::{Signal, getpid, kill_process};
        let mut signals = Signals::listen().unwrap();
        kill_process(getpid(), Signal::HUP).unwrap();
        kill_process(getpid(), Signal::TERM).unwrap();
        assert_eq!(timeout(PATIENCE, signals.next()).await.unwrap(), "SIGTERM");
        kill_process(getpid(), Signal::INT).unwrap();
        assert_eq!(timeout(PATIENCE, signals.next()).await.unwrap(), "SIGINT");
    }
}

mod service_manager {
    use super::*;

    fn environment(socket: &str, watchdog: &str) -> Environment {
        Environment {
            socket: Some(socket.into()),
            watchdog_usec: Some(watchdog.to_owned()),
            watchdog_pid: Some(std::process::id().to_string()),
        }
    }

    fn next(socket: &UnixDatagram) -> Option<String> {
        let mut bytes = [0; 4096];
        match socket.recv(&mut bytes) {
            Ok(len) => Some(String::from_utf8_lossy(&bytes[..len]).into_owned()),
            Err(_) => None,
        }
    }

    fn all(socket: &UnixDatagram) -> Vec<String> {
        std::iter::from_fn(|| next(socket)).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_told_of_the_start_the_life_and_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        manager.set_nonblocking(true).unwrap();
        let notifier = Arc::new(Notifier::open(&environment(path.to_str().unwrap(), "2000000")));
        notifier.ready();
        assert_eq!(all(&manager), ["READY=1\nSTATUS=watching"]);

        let clock = clock();
        let alive = Arc::new(AtomicU64::new(0));
        let cancel = CancellationToken::new();
        let (_view, view) = watch::channel(Arc::new(View::starting(&settings())));
        let run = Arc::clone(&notifier).run(view, Arc::clone(&alive), clock.clone(), cancel.clone());
        let task = tokio::spawn(run);
        for second in 0..20 {
            alive.store(clock.now().as_nanos(), Ordering::Relaxed);
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert!(
                all(&manager).contains(&"WATCHDOG=1".to_owned()),
                "second {second}"
            );
        }
        // The loop is stuck from here on.
        tokio::time::sleep(STUCK * 2).await;
        all(&manager);
        tokio::time::sleep(Duration::from_secs(20)).await;
        assert_eq!(all(&manager), Vec::<String>::new());

        notifier.stopping("asked by SIGTERM\nREADY=1");
        assert_eq!(all(&manager), ["STOPPING=1\nSTATUS=asked by SIGTERM READY=1"]);
        cancel.cancel();
        task.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn its_socket_may_be_abstract() {
        let name = format!("defib-test-{}", std::process::id());
        let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
        let manager = UnixDatagram::bind_addr(&address).unwrap();
        manager.set_nonblocking(true).unwrap();
        Notifier::open(&environment(&format!("@{name}"), "0")).ready();
        assert_eq!(all(&manager), ["READY=1\nSTATUS=watching"]);
    }

    #[tokio::test(start_paused = true)]
    async fn without_one_nothing_is_done() {
        let notifier = Arc::new(Notifier::open(&Environment::default()));
        notifier.ready();
        let cancel = CancellationToken::new();
        let (_view, view) = watch::channel(Arc::new(View::starting(&settings())));
        let task = tokio::spawn(notifier.run(view, Arc::default(), clock(), cancel.clone()));
        cancel.cancel();
        timeout(PATIENCE, task).await.unwrap().unwrap().unwrap();
    }
}

/// A process in a network namespace of its own, with one interface into ours. Both go with this.
struct Namespace {
    owner: Child,
    interface: String,
}

impl Namespace {
    fn make() -> Option<Self> {
        let owner = Command::new("unshare")
            .args(["--net", "sleep", "600"])
            .spawn()
            .ok()?;
        let interface = format!("dfb{}", owner.id());
        let namespace = Self { owner, interface };
        let ours = std::fs::read_link("/proc/self/ns/net").ok()?;
        for _ in 0..500 {
            let theirs = std::fs::read_link(format!("/proc/{}/ns/net", namespace.owner.id())).ok()?;
            if theirs != ours {
                let pid = namespace.owner.id().to_string();
                let added = ip(&[
                    "link",
                    "add",
                    &namespace.interface,
                    "type",
                    "veth",
                    "peer",
                    "eth0",
                    "netns",
                    &pid,
                ]);
                return added.then_some(namespace);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        None
    }

    /// As Docker does to a sidecar when the container it joined goes.
    fn orphan(&self) {
        assert!(ip(&["link", "del", &self.interface]));
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = ip(&["link", "del", &self.interface]);
        let _ = self.owner.kill();
        let _ = self.owner.wait();
    }
}

fn ip(arguments: &[&str]) -> bool {
    let output = Command::new("ip").args(arguments).output();
    output.is_ok_and(|output| output.status.success())
}

#[tokio::test]
async fn s39_the_loss_of_every_interface_is_seen_in_a_real_namespace() {
    let namespace = Namespace::make();
    if !support::available(
        "a network namespace of one's own (root, iproute2)",
        namespace.is_some(),
    ) {
        return;
    }
    let namespace = namespace.unwrap();
    let devices = PathBuf::from(format!("/proc/{}/net/dev", namespace.owner.id()));
    let watch = netns::Watch::of(&devices);
    let orphaned = tokio::spawn(watch.orphaned(clock()));
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(!orphaned.is_finished());
    namespace.orphan();
    assert_eq!(timeout(PATIENCE, orphaned).await.unwrap().unwrap(), "eth0");
}

#[test]
fn s24_the_binary_starts_says_so_and_ends_well_when_asked() {
    use rustix::process::Signal;
    let mut node = Node::start(&[], &["http.listen=\"127.0.0.1:0\""], &[]);
    node.told("READY=1");
    let address = node.http();
    assert_eq!(get(address, "/livez").0, 200);
    node.signal(Signal::HUP);
    node.signal(Signal::TERM);
    node.told("STOPPING=1");
    assert_eq!(node.exit_code(), Some(0), "{}", node.log());
    assert!(
        Path::new(&node.dir().join("state.json")).exists(),
        "{}",
        node.log()
    );
}

/// A node whose peer has exited and whose remedy takes longer than anybody waits.
fn node_that_heals_for_long() -> Node {
    let dir = tempfile::tempdir().unwrap();
    let mut peer = Command::new("sleep").arg("600").spawn().unwrap();
    let pid_file = dir.path().join("pid");
    std::fs::write(&pid_file, peer.id().to_string()).unwrap();
    let config = dir.path().join("defib.toml");
    let text = format!(
        r#"
        http.listen = "127.0.0.1:0"
        bus.settle = "1s"
        shutdown.deadline = "3s"
        [peer.feed]
        owner = {{ pid_file = "{}" }}
        grace = "1s"
        checks.process = {{}}
        remedies = [{{ do = "exec", command = ["sleep", "600"], timeout = "500s" }}]
        "#,
        pid_file.display()
    );
    std::fs::write(&config, text).unwrap();
    let node = Node::start(&[], &[], &["--config", config.to_str().unwrap()]);
    node.told("READY=1");
    node.logs("unknown -> alive");
    peer.kill().unwrap();
    peer.wait().unwrap();
    node.logs("exec granted");
    node
}

#[test]
fn s24_the_binary_names_what_hangs_and_ends_within_the_deadline() {
    let mut node = node_that_heals_for_long();
    node.signal(rustix::process::Signal::TERM);
    assert_eq!(node.exit_code(), Some(0), "{}", node.log());
    let log = node.log();
    assert!(log.contains("remedy exec for feed did not end"), "{log}");
    let state = std::fs::read_to_string(node.dir().join("state.json")).unwrap();
    assert!(state.contains("\"token\":1"), "the grant was forgotten: {state}");
}

#[test]
fn s24_a_second_signal_ends_the_binary_at_once() {
    let mut node = node_that_heals_for_long();
    node.signal(rustix::process::Signal::TERM);
    node.told("STOPPING=1");
    node.signal(rustix::process::Signal::INT);
    assert_eq!(node.exit_code(), Some(130), "{}", node.log());
}

#[test]
fn s37_the_binary_does_not_start_with_a_bad_configuration() {
    let mut node = Node::start(&[], &["nonsense=1", "bus.url=\"ftp://x\""], &[]);
    assert_eq!(node.exit_code(), Some(78), "{}", node.log());
}

#[test]
fn s37_the_binary_observes_under_a_bad_configuration_if_asked_to() {
    use rustix::process::Signal;
    let settings = ["http.listen=\"127.0.0.1:0\"", "nonsense=1"];
    let mut node = Node::start(&[], &settings, &["--on-bad-config=observe"]);
    node.told("READY=1");
    let address = node.http();
    for path in ["/livez", "/healthz", "/healthz/feed", "/startupz", "/readyz/feed"] {
        assert_eq!(get(address, path).0, 200, "{path}");
    }
    let (status, body) = get(address, "/readyz?verbose");
    assert_eq!(status, 503);
    assert!(body.contains("nonsense"), "{body}");
    assert!(get(address, "/metrics").1.contains("defib_config_valid 0"));
    node.signal(Signal::TERM);
    assert_eq!(node.exit_code(), Some(0), "{}", node.log());
}

#[test]
fn s37_a_log_filter_that_cannot_be_read_does_not_keep_the_binary_from_observing() {
    use rustix::process::Signal;
    let observing = ["--log=defib=loud", "--on-bad-config=observe"];
    let mut node = Node::start(&[], &["http.listen=\"127.0.0.1:0\""], &observing);
    node.told("READY=1");
    assert!(node.log().contains("log filter"), "{}", node.log());
    node.signal(Signal::TERM);
    assert_eq!(node.exit_code(), Some(0), "{}", node.log());
    let mut node = Node::start(&[], &[], &["--log=defib=loud"]);
    assert_eq!(node.exit_code(), Some(78), "{}", node.log());
}

#[test]
fn a_stderr_that_takes_nothing_neither_holds_nor_ends_the_binary() {
    use rustix::process::Signal;
    let disk_full = r#"exec "$0" "$@" 2>/dev/full"#;
    let pipe_full = r#"mkfifo "$RUNTIME_DIRECTORY/full"; exec 2<>"$RUNTIME_DIRECTORY/full";
                       head -c 65536 /dev/zero >&2; exec "$0" "$@""#;
    for stderr in [disk_full, pipe_full] {
        let listen = ["http.listen=\"127.0.0.1:0\""];
        let mut node = Node::start(&["sh", "-c", stderr], &listen, &["--log=trace"]);
        node.told("READY=1");
        node.told("STATUS=0 of 0 peers alive, bus trusted");
        node.signal(Signal::TERM);
        node.told("STOPPING=1");
        assert_eq!(node.exit_code(), Some(0), "{stderr}");
    }
}

#[test]
fn s39_the_binary_leaves_an_orphaned_namespace() {
    let namespace = Namespace::make();
    if !support::available(
        "a network namespace of one's own (root, iproute2)",
        namespace.is_some(),
    ) {
        return;
    }
    let namespace = namespace.unwrap();
    let target = namespace.owner.id().to_string();
    let enter = ["nsenter", "--net", "--target", &target];
    let mut node = Node::start(&enter, &["http.listen=\"127.0.0.1:0\""], &[]);
    node.told("READY=1");
    namespace.orphan();
    assert!(node.told("STOPPING=1").contains("eth0"));
    assert_eq!(node.exit_code(), Some(75), "{}", node.log());
}

mod app {
    use defib::app::{App, StartError};
    use defib::config::{self, Config, Sources};

    use super::*;

    fn config(dir: &Path, set: &[&str]) -> Config {
        let dir = dir.to_str().unwrap();
        let env = [("STATE_DIRECTORY", dir), ("RUNTIME_DIRECTORY", dir)];
        let sources = Sources {
            file: None,
            env: env
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            set: set.iter().map(ToString::to_string).collect(),
            peers: Vec::new(),
            may_write: true,
            over: None,
        };
        config::load(&sources).unwrap()
    }

    const PORTS: [&str; 2] = ["http.listen=\"127.0.0.1:0\"", "bus.listen=\"127.0.0.1:0\""];

    #[tokio::test]
    async fn several_nodes_live_in_one_process() {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let mut first = App::start(config(dirs[0].path(), &PORTS)).await.unwrap();
        let mut second = App::start(config(dirs[1].path(), &PORTS)).await.unwrap();
        assert_ne!(first.http_addr(), second.http_addr());
        assert_ne!(first.broker_addr().unwrap(), second.broker_addr().unwrap());
        assert!(first.admin_socket().is_some_and(Path::exists));

        // Its own heartbeats come back over the bus inside it.
        let mut view = first.view();
        let trusted = |view: &Arc<View>| view.snapshot().is_some_and(|s| s.trust.last_echo.is_some());
        timeout(PATIENCE, view.wait_for(trusted)).await.unwrap().unwrap();

        first.shutdown();
        assert_eq!(timeout(PATIENCE, first.wait()).await.unwrap(), Exit::Done);
        assert!(!second.view().borrow().snapshot().is_some_and(|s| s.draining));
        second.stop().abort();
        assert_eq!(timeout(PATIENCE, second.wait()).await.unwrap(), Exit::Forced);
    }

    #[tokio::test]
    async fn a_node_starts_again_on_what_the_last_one_left() {
        let dir = tempfile::tempdir().unwrap();
        for found in ["missing", "found"] {
            let mut node = App::start(config(dir.path(), &PORTS)).await.unwrap();
            is(
                node.metrics(),
                &format!("defib_store_restored{{found=\"{found}\"}}"),
                1,
            );
            node.shutdown();
            assert_eq!(timeout(PATIENCE, node.wait()).await.unwrap(), Exit::Done);
        }
    }

    #[tokio::test]
    async fn s26_the_end_of_a_node_is_counted_and_its_gauges_are_back_at_0() {
        let dir = tempfile::tempdir().unwrap();
        let mut node = App::start(config(dir.path(), &PORTS)).await.unwrap();
        let mut view = node.view();
        let turns = view.wait_for(|view| view.snapshot().is_some());
        timeout(PATIENCE, turns).await.unwrap().unwrap();
        is(node.metrics(), "defib_tasks_running{task=\"loop\"}", 1);
        node.shutdown();
        assert_eq!(timeout(PATIENCE, node.wait()).await.unwrap(), Exit::Done);
        is(node.metrics(), "defib_drain_seconds_count", 1);
        for task in ["bus", "broker", "http", "loop", "store"] {
            is(
                node.metrics(),
                &format!("defib_tasks_running{{task=\"{task}\"}}"),
                0,
            );
        }
        let ended = "defib_task_exits_total{reason=\"cancelled\",task=\"http\"}";
        is(node.metrics(), ended, 1);
    }

    #[tokio::test]
    async fn what_is_taken_is_named_and_nothing_starts() {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let first = App::start(config(dirs[0].path(), &PORTS)).await.unwrap();
        let taken = first.http_addr().to_string();
        let error = App::start(config(dirs[1].path(), &[&format!("http.listen=\"{taken}\"")]))
            .await
            .unwrap_err();
        assert!(error.to_string().contains(&taken), "{error}");

        let taken = first.broker_addr().unwrap().to_string();
        let settings = [PORTS[0], &format!("bus.listen=\"{taken}\"")];
        let error = App::start(config(dirs[1].path(), &settings)).await.unwrap_err();
        assert!(error.to_string().contains(&taken), "{error}");

        let store = format!("store.path={:?}", dirs[0].path().join("state.json"));
        let error = App::start(config(dirs[1].path(), &[PORTS[0], &store]))
            .await
            .unwrap_err();
        assert!(matches!(error, StartError::Store(_)), "{error}");
    }
}
