//! How much memory a container holds, by the engine's word: for a node that does not see its processes.

use std::collections::HashMap;

use bollard::models::{ContainerMemoryStats, ContainerStatsResponse};
use bollard::query_parameters::StatsOptions;
use futures_util::StreamExt;

use super::{Docker, Error, Life, State};

impl Docker {
    /// What this life of a container holds of its machine's memory, in bytes, as the kernel counts it for its cgroup:
    /// `anon` + `shmem` (version 1: `total_rss`; what is shared is not told there). Not `usage`, which holds the page cache.
    ///
    /// # Errors
    /// If the engine does not say, or the life is over.
    pub async fn memory(&self, life: &Life) -> Result<u64, Error> {
        let options = StatsOptions {
            stream: false,
            // Without it the engine waits a second for a second sample of the processor's time.
            one_shot: true,
        };
        let told = self
            .call(self.timeout(), async |docker| {
                let mut stats = Box::pin(docker.stats(&life.id, Some(options.clone())));
                stats.next().await.transpose()
            })
            .await?;
        let held = told
            .and_then(|told: ContainerStatsResponse| held(&told.memory_stats?))
            .ok_or_else(|| {
                Error::Malformed("it does not say how much memory the container holds".to_owned())
            })?;
        // The numbers are of whoever ran then.
        let after = self.inspect(&life.id).await?;
        if after.life != *life || after.state != State::Running {
            return Err(Error::Malformed("the container has ended meanwhile".to_owned()));
        }
        Ok(held)
    }
}

fn held(memory: &ContainerMemoryStats) -> Option<u64> {
    let stats: &HashMap<String, u64> = memory.stats.as_ref()?;
    let value = |key: &str| stats.get(key).copied();
    match value("anon") {
        Some(anon) => anon.checked_add(value("shmem").unwrap_or(0)),
        None => value("total_rss")?.checked_add(value("total_shmem").unwrap_or(0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(stats: &str) -> Option<u64> {
        let json = format!(r#"{{"usage": 99999999, "stats": {{{stats}}}}}"#);
        held(&serde_json::from_str(&json).unwrap())
    }

    #[test]
    fn files_are_not_counted_in_either_version() {
        assert_eq!(said(r#""anon": 1000, "file": 90000, "shmem": 24"#), Some(1024));
        assert_eq!(
            said(r#""cache": 90000, "rss": 1, "total_cache": 90000, "total_rss": 1000"#),
            Some(1000)
        );
        // An engine that cannot read its cgroup, as in rootless mode without delegation.
        assert_eq!(said(""), None);
        assert_eq!(held(&ContainerMemoryStats::default()), None);
        assert_eq!(said(r#""anon": 18446744073709551615, "shmem": 1"#), None);
    }
}
