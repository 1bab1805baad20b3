//! `defib run`: the node itself, from its configuration to its exit code.

use std::process::ExitCode;
use std::time::Duration;

use super::args::{LogFormatArg, OnBadConfig, RunArgs};
use crate::app::{App, Running, StartError};
use crate::config::{self, Config, LogFormat, LogSettings, Report, Sources};
use crate::docker::{Discover, Docker};
use crate::runtime::shutdown::{Exit, Signals};
use crate::telemetry::logs::{self, Format, LastWords, LogError};

/// Runs a node until it is told to stop, or cannot go on.
pub fn execute(args: &RunArgs) -> ExitCode {
    let loaded = load(args);
    let log = loaded
        .as_ref()
        .map_or_else(|report| &report.log, |config| &config.log);
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
    let loaded = loaded.and_then(|config| runtime.block_on(discover(args, config)));
    let exit = match loaded {
        Ok(config) => runtime.block_on(run(config)),
        Err(report) => bad_config(args, &report, &runtime),
    };
    // A write to a dead disk must not outlast the deadline.
    runtime.shutdown_timeout(Duration::from_millis(100));
    code(exit)
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

fn load(args: &RunArgs) -> Result<Config, Box<Report>> {
    let mut config = config::load(&sources(args)?)?;
    config.dry_run |= args.dry_run;
    Ok(config)
}

fn sources(args: &RunArgs) -> Result<Sources, Report> {
    let of = &args.config;
    Sources::gather(of.config.as_deref(), &of.set, &of.peers, true)
}

/// Adds the containers that ask to be watched. Without Docker the node watches whom it was told to watch.
async fn discover(args: &RunArgs, config: Config) -> Result<Config, Box<Report>> {
    if config.docker.discover == Discover::Off {
        return Ok(config);
    }
    let found = match Docker::new(config.docker.clone())
        .labelled(config.docker.discover)
        .await
    {
        Ok(found) => found,
        Err(error) => {
            tracing::warn!("no container is discovered: {}", error.with_cure());
            return Ok(config);
        }
    };
    let (mut more, left_out) = config::with_discovered(&sources(args)?, &found)?;
    for why in left_out {
        tracing::warn!("{why}");
    }
    tracing::info!("{} containers ask to be watched", found.len());
    more.dry_run |= args.dry_run;
    Ok(more)
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

async fn run(config: Config) -> Exit {
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let node = config.node.clone();
    let dry_run = config.dry_run;
    let started = App::start(config);
    until_the_end(started, |running| {
        let mode = if dry_run {
            ", dry run: no remedy is carried out"
        } else {
            ""
        };
        tracing::info!("node {node} watches, http://{}{mode}", running.http_addr());
    })
    .await
}

fn bad_config(args: &RunArgs, report: &Report, runtime: &tokio::runtime::Runtime) -> Exit {
    // As one block for people, not as a log line: it has carets and columns.
    super::say_error(&report.to_string());
    match args.on_bad_config {
        OnBadConfig::Fail => Exit::Config,
        OnBadConfig::Observe => {
            let mistakes = report.to_string();
            runtime.block_on(until_the_end(async { App::observe(&report.http, &mistakes) }, |running| {
                tracing::error!(
                    "the configuration has {} mistakes: nothing is judged, every probe is answered 200, and \
                     http://{}/readyz says why",
                    report.count(),
                    running.http_addr()
                );
            }))
        }
    }
}

async fn until_the_end(
    started: impl Future<Output = Result<Running, StartError>>,
    announce: impl FnOnce(&Running),
) -> Exit {
    // Before the start: a signal that comes meanwhile ends the node well, a moment later.
    let signals = match Signals::listen() {
        Ok(signals) => signals,
        Err(error) => {
            tracing::error!("cannot listen to signals: {error}");
            return Exit::Internal;
        }
    };
    let mut running = match started.await {
        Ok(running) => running,
        Err(error) => {
            tracing::error!("cannot start: {error}");
            return Exit::Internal;
        }
    };
    announce(&running);
    let stop = running.stop();
    tokio::select! {
        exit = running.wait() => exit,
        () = signals.forward(stop) => Exit::Internal,
    }
}

fn code(exit: Exit) -> ExitCode {
    ExitCode::from(exit.code())
}
