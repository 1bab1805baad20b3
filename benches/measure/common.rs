//! What the measurements share: nodes, a clock, waiting.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use defib::app::{App, Running};
use defib::config::{self, Config, Sources};
use defib::engine::self_trust::BusState;
use defib::runtime::clock;

/// A clock that goes on in every process of this machine: since its start.
pub(crate) fn now() -> Duration {
    clock::boottime()
}

/// Waits for `done` at most so long.
pub(crate) async fn until(
    what: &str,
    within: Duration,
    mut done: impl FnMut() -> bool,
) -> anyhow::Result<()> {
    let end = now() + within;
    while !done() {
        anyhow::ensure!(now() < end, "{what}: not within {within:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Ok(())
}

/// A node's configuration as text, with directories of its own.
pub(crate) fn configuration(dir: &Path, text: &str) -> anyhow::Result<Config> {
    let path = dir.display().to_string();
    let env: BTreeMap<String, String> = ["STATE_DIRECTORY", "RUNTIME_DIRECTORY"]
        .into_iter()
        .map(|name| (name.to_owned(), path.clone()))
        .collect();
    let sources = Sources {
        file: Some((PathBuf::from("measured.toml"), text.to_owned())),
        env,
        ..Sources::default()
    };
    config::load(&sources).map_err(|report| anyhow::anyhow!("{report}"))
}

/// Starts a node in this process.
pub(crate) async fn start_node(dir: &Path, text: &str) -> anyhow::Result<Running> {
    Ok(App::start(configuration(dir, text)?).await?)
}

/// Waits until the node trusts its bus.
pub(crate) async fn trusted(node: &Running) -> anyhow::Result<()> {
    let mut view = node.view();
    let trusts = view.wait_for(|view| {
        view.snapshot()
            .is_some_and(|snapshot| snapshot.trust.bus == BusState::Trusted)
    });
    tokio::time::timeout(Duration::from_secs(30), trusts)
        .await
        .context("the node does not come to trust its bus")??;
    Ok(())
}

/// Runs `main` on the runtime that a node has.
pub(crate) fn run(main: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(main)
}

/// The number that was given as `NAME=…` in the environment, or the default.
pub(crate) fn number(name: &str, default: usize) -> usize {
    std::env::var(name)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(default)
}
