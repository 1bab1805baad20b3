//! `defib simulate`: which crashes each detector would have noticed how soon in a recorded trace, and which of the
//! living it would have suspected.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;

use super::args::{ConfigArgs, duration};
use super::exit;
use crate::engine::settings::CheckKind;
use crate::sim::trace::{self, Candidate, Level, Life, Reception};

/// `defib simulate`
#[derive(Args, Clone, Debug)]
pub struct SimulateArgs {
    /// A trace: what `defib record` wrote, or PlanetLab emissions (CSV); `.xz` is unpacked by xz; `-` is standard input.
    /// May be repeated.
    #[arg(long, value_name = "FILE", required = true)]
    pub trace: Vec<PathBuf>,
    /// Write the trade-off (detection time against mistakes, parameters swept) into this file, as SVG.
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    /// So many heartbeats of each life are learned from and not counted [default: 1000, or a tenth if that is less].
    #[arg(long, value_name = "COUNT")]
    pub warm_up: Option<usize>,
    /// Emissions: the least that a message takes.
    #[arg(long, value_name = "TIME", default_value = "300us", value_parser = duration)]
    pub delay: Duration,
    /// Emissions: the median of what comes on top, which is lognormal.
    #[arg(long, value_name = "TIME", default_value = "200us", value_parser = duration)]
    pub jitter: Duration,
    /// Emissions: sigma of that.
    #[arg(long, value_name = "NUMBER", default_value_t = 1.0, value_parser = within_three)]
    pub spread: f64,
    /// Emissions: percent of messages that are lost.
    #[arg(long, value_name = "PERCENT", default_value_t = 0.0, value_parser = percent)]
    pub loss: f64,
    /// Emissions: where all that is random comes from.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Compare the detectors of this configuration's checks, too.
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// Heartbeats that are counted at least.
const LEAST: usize = 2;

fn percent(text: &str) -> Result<f64, String> {
    bounded(text, 100.0)
}

fn within_three(text: &str) -> Result<f64, String> {
    bounded(text, 3.0)
}

fn bounded(text: &str, most: f64) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number| (0.0..=most).contains(number));
    number.ok_or_else(|| format!("a number from 0 to {most}"))
}

/// Exit 1: a trace cannot be read, or the picture not be written.
pub fn execute(args: &SimulateArgs) -> ExitCode {
    let mut candidates = trace::as_shipped();
    if args.config.is_some() {
        let sources = ConfigArgs {
            config: args.config.clone(),
            ..ConfigArgs::default()
        };
        match sources.load(false) {
            Ok(config) => candidates.extend(configured(&config)),
            Err(report) => {
                super::say_error(&report.to_string());
                return ExitCode::from(exit::CONFIG);
            }
        }
    }
    match simulate(args, &candidates) {
        Ok(said) => super::say(&said),
        Err(error) => {
            super::say_error(&format!("defib simulate: {error:#}"));
            ExitCode::from(exit::FAILED)
        }
    }
}

fn configured(config: &crate::config::Config) -> Vec<Candidate> {
    let settings = config.engine_settings("".into());
    let mut candidates = Vec::new();
    for peer in &settings.peers {
        for check in &peer.checks {
            if let CheckKind::Passive { detector, .. } = check.kind {
                let name = format!("{}/{}", peer.name, check.name);
                for level in [Level::Suspect, Level::Dead] {
                    candidates.push(Candidate::configured(&name, detector, level));
                }
            }
        }
    }
    candidates
}

fn simulate(args: &SimulateArgs, candidates: &[Candidate]) -> anyhow::Result<String> {
    let reception = Reception {
        delay: args.delay,
        jitter: args.jitter,
        spread: args.spread,
        loss: args.loss / 100.0,
        seed: args.seed,
    };
    let mut lives = read(&args.trace)?;
    for life in &mut lives {
        reception.receive(life);
    }
    let warm_up = args.warm_up.unwrap_or_else(|| trace::warm_up(&lives));
    let longest = lives
        .iter()
        .map(|life| life.beats.len())
        .max()
        .unwrap_or_default();
    anyhow::ensure!(
        longest >= warm_up + LEAST,
        "too short: the longest life has {longest} heartbeats; {} are needed, {warm_up} of them to be learned from",
        warm_up + LEAST
    );
    let mut said = trace::describe(&lives, &reception, warm_up);
    said.push('\n');
    said.push_str(&trace::compare(&lives, candidates, warm_up));
    if let Some(path) = &args.svg {
        let picture = trace::plot(
            "How soon a crash is noticed, and how often the living are suspected",
            &trace::counted(&lives),
            &trace::trade_off(&lives, warm_up),
        );
        std::fs::write(path, picture).with_context(|| path.display().to_string())?;
        let _ = write!(said, "\n{} written", path.display());
    }
    Ok(said.trim_end().to_owned())
}

/// All lives of these files.
///
/// # Errors
/// With the file, and the line of it that cannot be understood.
pub fn read(paths: &[PathBuf]) -> anyhow::Result<Vec<Life>> {
    let mut lives = Vec::new();
    for path in paths {
        let name = path
            .file_name()
            .map_or_else(|| "-".into(), |name| name.to_string_lossy());
        let of_file = if path == Path::new("-") {
            trace::read(std::io::stdin().lock(), "standard input").map_err(anyhow::Error::from)
        } else if path.extension().is_some_and(|extension| extension == "xz") {
            unpacked(path, &name)
        } else {
            File::open(path)
                .map_err(anyhow::Error::from)
                .and_then(|file| Ok(trace::read(BufReader::new(file), &name)?))
        };
        lives.extend(of_file.with_context(|| path.display().to_string())?);
    }
    Ok(lives)
}

fn unpacked(path: &Path, name: &str) -> anyhow::Result<Vec<Life>> {
    let mut xz = Command::new("xz")
        .args(["--decompress", "--stdout", "--"])
        .arg(path)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("xz (of the package xz-utils) cannot be started")?;
    let mut out = BufReader::new(xz.stdout.take().context("no output of xz")?);
    let lives = trace::read(&mut out, name);
    // To its end: xz must not be taken for failed because nobody listens to it any more.
    let rest = out.fill_buf().map_or(0, <[u8]>::len);
    drop(out);
    let status = xz.wait()?;
    anyhow::ensure!(status.success() || rest > 0, "xz ended with {status}");
    Ok(lives?)
}
