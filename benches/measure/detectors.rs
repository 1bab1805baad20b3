//! What detectors make of PlanetLab's senders: how soon a crash is noticed, how often the living are suspected. And what
//! ours cost an engine, in time and in memory.

use std::path::{Path, PathBuf};

use anyhow::Context;
use defib::cli::simulate;
use defib::engine::settings::{ChenSettings, DetectorSettings, PhiSettings};
use defib::sim::trace::{self, Life, Reception};

use crate::available;
use crate::judge::{By, Judge, SECOND};
use crate::process::{memory, own_cpu};
use crate::sample::{Sample, heading};

/// Heartbeats of each peer before memory is read: more than the window holds.
const HEARD: usize = 210;
const PEERS: usize = 10_000;
const BATCH: u32 = 200_000;
const SAMPLES: u32 = 9;

pub(crate) fn measure() -> anyhow::Result<()> {
    heading("Detectors");
    // First: what the traces leave free would hide what an engine takes.
    costs()?;
    qualities()
}

/// The traces, and where they were looked for.
fn traces() -> (PathBuf, Vec<PathBuf>) {
    let shared = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/traces");
    let place = std::env::var_os("DEFIB_TRACES").map_or_else(shared, PathBuf::from);
    let listed = std::fs::read_dir(place.join("planetlab"));
    let mut files: Vec<PathBuf> = listed
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.to_string_lossy().contains(".csv"))
        .collect();
    files.sort();
    (place, files)
}

fn qualities() -> anyhow::Result<()> {
    let (place, files) = traces();
    let what = format!(
        "the recorded traces ({}; DEFIB_TRACES names another place)",
        place.display()
    );
    if !available(&what, !files.is_empty()) {
        return Ok(());
    }
    let emitted = simulate::read(&files)?;
    for (name, title, way) in [
        ("near", "Through a Redis nearby", Reception::default()),
        ("far", "Over the open internet", Reception::far()),
    ] {
        let mut lives = emitted.clone();
        lives.iter_mut().for_each(|life| way.receive(life));
        quality(name, title, &way, &lives)?;
    }
    Ok(())
}

fn quality(name: &str, title: &str, way: &Reception, lives: &[Life]) -> anyhow::Result<()> {
    let warm_up = trace::warm_up(lives);
    println!("### {title}\n\n{}", trace::describe(lives, way, warm_up));
    println!("{}", trace::compare(lives, &trace::as_shipped(), warm_up));
    let picture = trace::plot(title, &trace::counted(lives), &trace::trade_off(lives, warm_up));
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("docs/detectors-{name}.svg"));
    std::fs::write(&file, picture).with_context(|| file.display().to_string())?;
    println!("docs/detectors-{name}.svg written anew.\n");
    Ok(())
}

fn costs() -> anyhow::Result<()> {
    println!(
        "### What they cost\n\nAn engine with {PEERS} peers on channels; thousands of heartbeats for a second of processor, \
         {SAMPLES} samples of {BATCH}, median (least–most); and what it holds in memory after {HEARD} heartbeats of each.\n"
    );
    println!("| detector | thousands/s | bytes a peer, all in all |\n|---|---|---|");
    // None is given back before all are measured: what one leaves free would hide what the next one takes.
    let mut all = Vec::new();
    for (name, settings) in [
        ("deadline", DetectorSettings::default()),
        ("phi", DetectorSettings::Phi(PhiSettings::at(SECOND))),
        ("chen", DetectorSettings::Chen(ChenSettings::at(SECOND))),
    ] {
        let before = memory(std::process::id(), "RssAnon")?;
        let mut judge = Judge::with(By::Channel, PEERS, settings);
        for _ in 0..HEARD * PEERS {
            judge.heartbeat();
        }
        let held = memory(std::process::id(), "RssAnon")?.saturating_sub(before);
        let mut sample = Sample::default();
        for _ in 0..SAMPLES {
            let began = own_cpu()?;
            (0..BATCH).for_each(|_| judge.heartbeat());
            sample.push(f64::from(BATCH) / (own_cpu()? - began).as_secs_f64() / 1e3);
        }
        anyhow::ensure!(
            judge.alive() == PEERS,
            "the measured engine is not in good health"
        );
        println!("| {name} | {} | {} |", sample.spread(0), held / PEERS as u64);
        all.push(judge);
    }
    Ok(())
}
