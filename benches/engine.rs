//! What one event costs the engine: heartbeats of 10, 1,000 and 100,000 peers that each send one a second, with all
//! that time brings meanwhile (alarms, own heartbeats, echoes).
//!
//! `cargo bench --bench engine`. Times vary with the machine and its neighbours; `--bench instructions` counts.

#![allow(missing_docs, reason = "a program")]

mod support;

use divan::counter::ItemsCount;
use support::judge::{By, Judge};

/// Heartbeats in one sample: more than peers, so that each sample sees the whole crowd.
const BATCH: usize = 200_000;

fn main() {
    support::sample::heading("Engine: events a second on one core");
    divan::main();
}

#[divan::bench(args = [10, 1_000, 100_000], sample_count = 15, sample_size = 1)]
fn heartbeats_on_channels(bencher: divan::Bencher<'_, '_>, peers: usize) {
    measure(bencher, By::Channel, peers);
}

#[divan::bench(args = [10, 1_000, 100_000], sample_count = 15, sample_size = 1)]
fn heartbeats_of_nodes(bencher: divan::Bencher<'_, '_>, peers: usize) {
    measure(bencher, By::Node, peers);
}

fn measure(bencher: divan::Bencher<'_, '_>, by: By, peers: usize) {
    let mut judge = Judge::new(by, peers);
    assert_eq!(judge.alive(), peers, "the measured engine is not in good health");
    bencher.counter(ItemsCount::new(BATCH)).bench_local(|| {
        for _ in 0..BATCH {
            judge.heartbeat();
        }
    });
    assert_eq!(judge.alive(), peers, "the measured engine is not in good health");
}
