//! `defib run`: the node itself, from its configuration to its exit code.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::mpsc;

use super::args::{LogFormatArg, OnBadConfig, RunArgs};
use crate::app::{App, Load, Refusal, Source, StartError};
use crate::config::{self, Config, LogFormat, LogSettings, Over, Report, Sources};
use crate::docker::{Container, Discover, Docker};
use crate::reload_desk::{Ask, ReloadDesk};
use crate::runtime::config_file::ConfigFile;
use crate::runtime::shutdown::{Exit, Signals};
use crate::telemetry::logs::{self, Format, LastWords, LogError};

/// Runs a node until it is told to stop, or cannot go on.
pub fn execute(args: &RunArgs) -> ExitCode {
    let unread = unread(args);
    let read = unread.clone().read();
    let known = read.as_ref().ok().and_then(Sources::text).map(str::to_owned);
    let loaded = read.and_then(|sources| config::load(&sources).map(|config| (sources, config)));
    let log = loaded
        .as_ref()
        .map_or_else(|report| &report.log, |(_, config)| &config.log);
    let _last_words = match start_logging(args, log) {
        Ok(last_words) => last_words,
        Err(error) => {
            super::say_error(&format!("defib: {error}"));
            return code(Exit::Config);
        }
    };
    // Panics belong into the log as everything else does, one line each.
    std::panic::set_hook(Box::new(|panic| tracing::error!("{panic}")));
    raise_descriptor_limit();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!("cannot start the runtime: {error}");
            return code(Exit::Internal);
        }
    };
    let exit = runtime.block_on(async {
        let loaded = match loaded {
            Ok((sources, config)) => discover(&sources, config).await.map(|config| (sources, config)),
            Err(report) => Err(Box::new(report)),
        };
        Box::pin(live(args, loaded, (unread, known))).await
    });
    // A write to a dead disk must not outlast the deadline.
    runtime.shutdown_timeout(Duration::from_millis(100));
    code(exit)
}

/// A node whose configuration is good; or one that waits for a good one, if it is to.
async fn live(
    args: &RunArgs,
    loaded: Result<(Sources, Config), Box<Report>>,
    (unread, known): (Sources, Option<String>),
) -> Exit {
    // Before the start: a signal that comes meanwhile ends the node well, a moment later.
    let mut signals = match Signals::listen() {
        Ok(signals) => signals,
        Err(error) => {
            tracing::error!("cannot listen to signals: {error}");
            return Exit::Internal;
        }
    };
    let good = match loaded {
        Ok(good) => good,
        Err(report) => {
            // As one block for people, not as a log line: it has carets and columns.
            super::say_error(&report.to_string());
            match args.on_bad_config {
                OnBadConfig::Fail => return Exit::Config,
                OnBadConfig::Observe => match observe(&report, (unread, known), &mut signals).await {
                    Ok(mended) => mended,
                    Err(exit) => return exit,
                },
            }
        }
    };
    let (sources, config) = good;
    run(sources, config, &mut signals).await
}

/// Each watched process costs two descriptors; the usual soft limit of 1,024 is a leftover of `select`.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::info!("cannot raise the limit of open files: {error}");
    }
}

/// Everything but the text of the file, which from now on is that file.
fn unread(args: &RunArgs) -> Sources {
    let of = &args.config;
    let mut set = of.set.clone();
    if args.dry_run {
        set.push("dry_run=true".to_owned());
    }
    Sources::unread(of.config.as_deref(), &set, &of.peers, true)
}

/// Adds the containers that ask to be watched. Without Docker the node watches whom it was told to watch.
async fn discover(sources: &Sources, config: Config) -> Result<Config, Box<Report>> {
    if config.docker.discover == Discover::Off {
        return Ok(config);
    }
    match labelled(&config).await {
        Ok(found) => with_discovered(sources, &found),
        Err(error) => {
            tracing::warn!("no container is discovered: {error}");
            Ok(config)
        }
    }
}

async fn labelled(config: &Config) -> Result<Vec<Container>, String> {
    let docker = Docker::new(config.docker.clone());
    let found = docker.labelled(config.docker.discover).await;
    found.map_err(|error| error.with_cure())
}

fn with_discovered(sources: &Sources, found: &[Container]) -> Result<Config, Box<Report>> {
    let (config, left_out) = config::with_discovered(sources, found)?;
    for why in left_out {
        tracing::warn!("{why}");
    }
    tracing::info!("{} containers ask to be watched", found.len());
    Ok(config)
}

/// Where a node that runs reads the same again. `None`, and said: it cannot.
fn source(sources: Sources) -> Option<Source> {
    let watch = match (&sources.file, sources.lasting()) {
        (None, _) => None,
        (Some((_, text)), Some(path)) => Some(ConfigFile::new(path.to_owned(), Some(text))),
        (Some((name, _)), None) => {
            tracing::info!(
                "{} is no regular file: the configuration is not read again while this node runs",
                name.display()
            );
            return None;
        }
    };
    let reader = Again::new(sources);
    let load: Load = Arc::new(move |over| {
        let reader = reader.clone();
        async move {
            let (sources, config) = reader.read(Some(over)).await?;
            if config.docker.discover == Discover::Off {
                return Ok(config);
            }
            // Who was discovered must not be dropped because nobody could be asked.
            let found = labelled(&config).await.map_err(|error| {
                Refusal::for_now(format!(
                    "docker.discover: who asks to be watched cannot be found out: {error}"
                ))
            })?;
            off_the_loop(move || with_discovered(&sources, &found).map_err(of_content)).await
        }
        .boxed()
    });
    Some(Source { load, watch })
}

/// Reads the same sources again.
#[derive(Clone)]
struct Again {
    sources: Arc<Sources>,
    /// A reading that does not come back from a dead mount is not joined by others.
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl Again {
    fn new(sources: Sources) -> Self {
        Self {
            sources: Arc::new(sources),
            turn: Arc::default(),
        }
    }

    async fn read(&self, over: Option<Over>) -> Result<(Sources, Config), Refusal> {
        let Ok(turn) = Arc::clone(&self.turn).try_lock_owned() else {
            let why = "the file was being read before, and that has not ended: is what it lies on away?";
            return Err(Refusal::for_now(why.to_owned()));
        };
        let unread = Arc::clone(&self.sources);
        off_the_loop(move || {
            let _turn = turn;
            let read = unread.again();
            let read = read.map_err(|report| Refusal::for_now(report.to_string()))?;
            let sources = Sources { over, ..read };
            let config = config::load(&sources).map_err(|report| of_content(Box::new(report)))?;
            Ok((sources, config))
        })
        .await
    }
}

/// On another thread: a dead mount, or a file with thousands of peers, must not hold the event loop's.
async fn off_the_loop<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| {
        Err(Refusal::for_now(format!(
            "reading the configuration failed: {error}"
        )))
    })
}

fn of_content(report: Box<Report>) -> Refusal {
    Refusal::of_content(report.to_string())
}

fn start_logging(args: &RunArgs, log: &LogSettings) -> Result<LastWords, LogError> {
    let format = match (args.log_format, log.format) {
        (Some(LogFormatArg::Auto), _) | (None, LogFormat::Auto) => Format::Auto,
        (Some(LogFormatArg::Human), _) | (None, LogFormat::Human) => Format::Human,
        (Some(LogFormatArg::Json), _) | (None, LogFormat::Json) => Format::Json,
    };
    match logs::init(format, args.log.as_deref().unwrap_or(&log.level)) {
        Err(error @ LogError::Filter { .. }) if matches!(args.on_bad_config, OnBadConfig::Observe) => {
            // A word too many in DEFIB_LOG must not fail the probes of an application.
            super::say_error(&format!("defib: {error}; logging at info"));
            logs::init(format, "info")
        }
        set => set,
    }
}

async fn run(sources: Sources, config: Config, signals: &mut Signals) -> Exit {
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let mode = if config.dry_run {
        ", dry run: no remedy is carried out"
    } else {
        ""
    };
    let node = Arc::clone(&config.node);
    let mut running = match App::start_from(config, source(sources)).await {
        Ok(running) => running,
        Err(error) => return cannot_start(&error),
    };
    tracing::info!("node {node} watches, http://{}{mode}", running.http_addr());
    signals.reload_at(running.reload());
    let stop = running.stop();
    tokio::select! {
        exit = running.wait() => exit,
        () = signals.forward(stop) => Exit::Internal,
    }
}

fn cannot_start(error: &StartError) -> Exit {
    tracing::error!("cannot start: {error}");
    Exit::Internal
}

/// Only answers, and judges nothing, until there is a good configuration. An error: it was told to end before.
async fn observe(
    report: &Report,
    (unread, known): (Sources, Option<String>),
    signals: &mut Signals,
) -> Result<(Sources, Config), Exit> {
    let mut running =
        App::observe(&report.http, &report.to_string()).map_err(|error| cannot_start(&error))?;
    tracing::error!(
        "the configuration has {} mistakes: nothing is judged, every probe is answered 200, and http://{}/readyz \
         says why; a valid one is taken up when it comes",
        report.count(),
        running.http_addr()
    );
    let (desk, asked) = ReloadDesk::new();
    signals.reload_at(Some(desk));
    let stop = running.stop();
    let good = async {
        let good = mended(unread, known.as_deref(), asked).await;
        // Who was told to end meanwhile ends.
        if stop.make_way() {
            good
        } else {
            std::future::pending().await
        }
    };
    let good = tokio::select! {
        exit = running.wait() => return Err(exit),
        () = signals.forward(stop.clone()) => return Err(Exit::Internal),
        good = good => good,
    };
    signals.reload_at(None);
    // Only then its addresses are free for the node that follows.
    running.wait().await;
    Ok(good)
}

/// Resolves once what is read is good: when the file changes, and whenever SIGHUP asks.
async fn mended(unread: Sources, known: Option<&str>, mut asked: mpsc::Receiver<Ask>) -> (Sources, Config) {
    let mut file = unread
        .lasting()
        .map(|path| ConfigFile::new(path.to_owned(), known));
    let reader = Again::new(unread);
    loop {
        let changed = async {
            match &mut file {
                Some(file) => file.changed().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = changed => {}
            Some(_) = asked.recv() => {}
        }
        let good = match reader.read(None).await {
            Ok((sources, config)) => discover(&sources, config)
                .await
                .map(|config| (sources, config))
                .map_err(of_content),
            Err(refusal) => Err(refusal),
        };
        match good {
            Ok(good) => return good,
            Err(Refusal { why, .. }) => tracing::error!("the configuration is still wrong:\n{why}"),
        }
    }
}

fn code(exit: Exit) -> ExitCode {
    ExitCode::from(exit.code())
}
