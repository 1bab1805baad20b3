//! Figures: medians and spread, never a single lucky run.

use std::fmt::Write as _;
use std::time::Duration;

/// What was measured of one thing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sample(Vec<f64>);

impl Sample {
    pub(crate) fn push(&mut self, value: f64) {
        let place = self.0.partition_point(|before| *before <= value);
        self.0.insert(place, value);
    }

    pub(crate) fn push_seconds(&mut self, took: Duration) {
        self.push(took.as_secs_f64());
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The smallest value that so many percent do not exceed.
    pub(crate) fn percentile(&self, percent: usize) -> f64 {
        let rank = (self.0.len() * percent).div_ceil(100).max(1) - 1;
        self.0.get(rank).copied().unwrap_or(f64::NAN)
    }

    pub(crate) fn median(&self) -> f64 {
        self.percentile(50)
    }

    pub(crate) fn least(&self) -> f64 {
        self.0.first().copied().unwrap_or(f64::NAN)
    }

    pub(crate) fn most(&self) -> f64 {
        self.0.last().copied().unwrap_or(f64::NAN)
    }

    /// `median (least–most)`.
    pub(crate) fn spread(&self, digits: usize) -> String {
        format!(
            "{:.digits$} ({:.digits$}–{:.digits$})",
            self.median(),
            self.least(),
            self.most()
        )
    }

    /// Cells of a table: trials, median, p90, p99, most; in units of `unit` seconds.
    pub(crate) fn row(&self, unit: f64, digits: usize) -> String {
        let mut row = self.len().to_string();
        for value in [
            self.median(),
            self.percentile(90),
            self.percentile(99),
            self.most(),
        ] {
            let _ = write!(row, " | {:.digits$}", value / unit);
        }
        row
    }
}

impl FromIterator<f64> for Sample {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        let mut sample = Self::default();
        values.into_iter().for_each(|value| sample.push(value));
        sample
    }
}

/// Where and when, above every table: figures of a shared machine mean little without it.
pub(crate) fn heading(what: &str) {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split(':').nth(1))
        .unwrap_or("unknown processor")
        .trim()
        .to_owned();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let load = read("/proc/loadavg");
    let load = load.split(' ').next().unwrap_or("?");
    println!("\n## {what}");
    println!("{cores} cores of {model}, load average {load} at the start\n");
}
