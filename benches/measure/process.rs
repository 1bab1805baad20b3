//! What a process costs, as the kernel counts it.

use std::time::Duration;

use anyhow::Context;

/// Processor time of all threads of `pid` so far, in the scheduler's nanoseconds (`/proc/PID/stat` counts in
/// hundredths of a second: too coarse for an idle process).
pub(crate) fn cpu(pid: u32) -> anyhow::Result<Duration> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task"))?;
    let mut nanos = 0;
    for task in tasks {
        let text = std::fs::read_to_string(task?.path().join("schedstat"))?;
        let spent: Option<u64> = text.split(' ').next().and_then(|spent| spent.parse().ok());
        nanos += spent.context("schedstat is not as expected")?;
    }
    Ok(Duration::from_nanos(nanos))
}

/// Our own.
pub(crate) fn own_cpu() -> anyhow::Result<Duration> {
    cpu(std::process::id())
}

/// A line of `/proc/PID/status` that is counted in kB, in bytes.
pub(crate) fn memory(pid: u32, line: &str) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kilobytes: Option<u64> = status
        .lines()
        .find_map(|found| found.strip_prefix(line)?.strip_prefix(':'))
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    Ok(kilobytes.with_context(|| format!("no {line} in the status of {pid}"))? * 1024)
}

/// Ends with its handle.
#[derive(Debug)]
pub(crate) struct Ended(pub(crate) std::process::Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
