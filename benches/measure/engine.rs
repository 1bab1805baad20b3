//! What one event costs the engine: heartbeats of 10, 1,000 and 100,000 peers that each send one a second, with all
//! that time brings meanwhile (alarms, own heartbeats, echoes).
//!
//! First by processor time, which neighbours on the machine disturb least; then by the clock.

use divan::counter::ItemsCount;

use crate::judge::{By, Judge};
use crate::process::own_cpu;
use crate::sample::{Sample, heading};

/// Heartbeats in one sample: more than peers, so that each sample sees the whole crowd.
const BATCH: u32 = 200_000;
const SAMPLES: u32 = 15;
const CROWDS: [usize; 3] = [10, 1_000, 100_000];

pub(crate) fn measure() -> anyhow::Result<()> {
    heading("Engine: events a second on one core");
    println!(
        "Thousands of heartbeats for a second of processor; {SAMPLES} samples of {BATCH}; median (least–most).\n"
    );
    println!("| peers | on channels | of nodes |\n|---|---|---|");
    for peers in CROWDS {
        let (on_channels, of_nodes) = (rate(By::Channel, peers)?, rate(By::Node, peers)?);
        println!("| {peers} | {} | {} |", on_channels.spread(0), of_nodes.spread(0));
    }
    println!("\nBy the clock:\n");
    divan::Divan::default().run_benches();
    Ok(())
}

fn rate(by: By, peers: usize) -> anyhow::Result<Sample> {
    let mut judge = Judge::new(by, peers);
    let mut sample = Sample::default();
    for _ in 0..SAMPLES {
        let before = own_cpu()?;
        batch(&mut judge);
        let took = own_cpu()? - before;
        sample.push(f64::from(BATCH) / took.as_secs_f64() / 1e3);
    }
    anyhow::ensure!(
        judge.alive() == peers,
        "the measured engine is not in good health"
    );
    Ok(sample)
}

fn batch(judge: &mut Judge) {
    for _ in 0..BATCH {
        judge.heartbeat();
    }
}

#[divan::bench(args = CROWDS, sample_count = SAMPLES, sample_size = 1)]
fn heartbeats_on_channels(bencher: divan::Bencher<'_, '_>, peers: usize) {
    let mut judge = Judge::new(By::Channel, peers);
    bencher
        .counter(ItemsCount::new(BATCH))
        .bench_local(|| batch(&mut judge));
}

#[divan::bench(args = CROWDS, sample_count = SAMPLES, sample_size = 1)]
fn heartbeats_of_nodes(bencher: divan::Bencher<'_, '_>, peers: usize) {
    let mut judge = Judge::new(By::Node, peers);
    bencher
        .counter(ItemsCount::new(BATCH))
        .bench_local(|| batch(&mut judge));
}
