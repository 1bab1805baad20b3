//! The preflight: gathers every edge's looks and runs them, for `defib doctor` and behind the start of a node.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use socket2::Type;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::bus::Backend;
use crate::config::Config;
use crate::docker::Docker;
use crate::engine::settings::{RemedyKind, Settings};
use crate::http::View;
use crate::owner_table::OwnerTable;
use crate::preflight::{Finding, Item, Look, Part, Patience, Subject, run, writable_dir};
use crate::redis_client::{Redis, Server};
use crate::socket_file::{self, PlaceError};
use crate::systemd::Systemd;
use crate::telemetry::metrics::Metrics;
use crate::{bus, checks, fleet, leases, notify, remedies, signing, store};

/// Bounds on one preflight: beyond them a dead name server or a hanging mount is `unknown`.
pub const PATIENCE: Patience = Patience {
    each: Duration::from_secs(5),
    all: Duration::from_secs(30),
};

/// While something is missing it is looked at again this often, so that a cure shows without a restart.
const AGAIN: Duration = Duration::from_secs(60);

/// Requests of `/healthz/NAME` so far; `None` where no node runs that could have counted them.
pub type Probes<'p> = Option<&'p (dyn Fn(&str) -> u64 + Send + Sync)>;

/// Looks at everything that this configuration needs. Changes nothing and publishes nothing.
pub async fn preflight(config: &Config, probes: Probes<'_>, patience: Patience) -> Vec<Item> {
    let names = config.engine_settings("".into());
    let found = OwnerTable::default();
    // Beside a node that runs (`defib doctor`), what that one holds is worth a word.
    let mut looks = places(config, probes.is_none());
    let docker = Docker::new(config.docker.clone());
    let systemd = Systemd::new(config.systemd.clone());
    looks.extend(bus::preflight(&config.bus));
    let redis = match &config.bus.backend {
        Backend::Redis(endpoint) => Some(Server::new(
            Arc::new(Redis::new(endpoint.clone())),
            &config.bus.node,
        )),
        Backend::Embedded { .. } => None,
    };
    if let Some(settings) = &config.signing {
        looks.extend(signing::preflight(
            settings,
            &config.node,
            names.watched_nodes().cloned().collect(),
        ));
    }
    looks.extend(leases::preflight(&config.leases, redis.as_ref()));
    looks.extend(fleet::preflight(&config.fleet, &names, redis.as_ref()));
    looks.extend(bus::preflight_of_asked(&config.ask, &names));
    looks.extend(notify::preflight(&config.notify));
    looks.extend(checks::preflight(
        &config.checks,
        &names,
        &found,
        &docker,
        &systemd,
        redis.as_ref(),
    ));
    let mut items = run(looks, patience).await;
    // Only now it is known which processes there are to be touched.
    items.extend(
        run(
            remedies::preflight(
                &config.remedies,
                &names,
                &found,
                &docker,
                &systemd,
                redis.as_ref(),
            ),
            patience,
        )
        .await,
    );
    items.extend(pulses(&names, probes));
    items
}

/// The node's own: looks now and then publishes what it found, until nothing is missing any more.
pub(super) async fn keep_looking(
    config: Arc<Config>,
    view: watch::Sender<Arc<View>>,
    metrics: Metrics,
    cancel: CancellationToken,
) -> anyhow::Result<()> {
    let probes = |peer: &str| metrics.http.healthz_probes(peer);
    let looking = async {
        let mut told: Arc<[Item]> = Arc::default();
        loop {
            let items: Arc<[Item]> = preflight(&config, Some(&probes), PATIENCE).await.into();
            for item in items
                .iter()
                .filter(|item| item.finding.is_missing() && !told.contains(item))
            {
                tracing::warn!("{} cannot work: {}", item.subject, item.finding);
            }
            metrics.preflight.found(&items);
            view.send_modify(|view| *view = Arc::new(view.with_preflight(Arc::clone(&items))));
            if items
                .iter()
                .all(|item| matches!(item.finding, Finding::Ok { .. }))
            {
                return;
            }
            told = items;
            tokio::time::sleep(AGAIN).await;
        }
    };
    cancel.run_until_cancelled(looking).await;
    Ok(())
}

fn places(config: &Config, beside_a_node: bool) -> Vec<Look> {
    let parent = |path: &'_ Path| path.parent().map(Path::to_owned);
    let runtime = config.runtime_dir.clone();
    let mut looks = vec![Subject::node(Part::RuntimeDir).look_blocking(move || writable_dir(&runtime))];
    if let Some(socket) = config.http.admin_socket.clone()
        && let Some(dir) = parent(&socket)
    {
        let subject = Subject::node(Part::AdminSocket);
        looks.push(subject.look_blocking(move || match writable_dir(&dir) {
            Finding::Ok { .. } if beside_a_node => held_socket(&socket),
            found => found,
        }));
    }
    if let Some(dir) = parent(&config.store) {
        let store = config.store.clone();
        let subject = Subject::node(Part::Store);
        looks.push(subject.look_blocking(move || match writable_dir(&dir) {
            Finding::Ok { .. } if beside_a_node && store::is_in_use(&store) => Finding::noted(format!(
                "a running node holds {}: another one needs a `path` of its own in [store]",
                store.display()
            )),
            found => found,
        }));
    }
    if let Some(path) = config.heartbeat_file.clone() {
        let subject = Subject::node(Part::HeartbeatFile);
        looks.push(subject.look_blocking(move || beside(&path)));
    }
    looks
}

fn held_socket(path: &Path) -> Finding {
    let shown = path.display();
    match socket_file::is_free(path, Type::STREAM) {
        Ok(()) => Finding::OK,
        Err(PlaceError::InUse) => Finding::noted(format!(
            "a running node answers at {shown}: another one needs an `admin_socket` of its own in [http]"
        )),
        Err(PlaceError::NotASocket) => Finding::missing(
            format!("{shown} exists and is no socket"),
            "remove it, or name another `admin_socket` in [http]",
        ),
        Err(PlaceError::Io(error)) => Finding::unknown(format!("{shown}: {error}")),
    }
}

/// Whether a file can be written here. (Its directory is not made: a volume that is not mounted must show.)
fn beside(path: &Path) -> Finding {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    let dir = dir.unwrap_or(Path::new("."));
    if dir.is_dir() {
        return writable_dir(dir);
    }
    let shown = dir.display();
    Finding::missing(format!("there is no directory {shown}"), "make it, or mount it")
}

/// `healthz` is carried out by whoever probes: all that can be known is whether somebody does.
fn pulses(names: &Settings, probes: Probes<'_>) -> Vec<Item> {
    let kind = RemedyKind::Healthz;
    let pulsed = names
        .peers
        .iter()
        .filter(|peer| peer.remedies.iter().any(|rung| rung.kind == kind));
    let item = |name: &Arc<str>| Item {
        subject: Subject::peer(Part::Remedy, Arc::clone(name), kind.as_str()),
        finding: match probes.map(|probes| probes(name)) {
            Some(0) => Finding::unknown(format!("no probe of /healthz/{name} has come yet")),
            Some(_) => Finding::OK,
            None => Finding::unknown(format!(
                "whether anybody probes /healthz/{name}, a running node knows: `defib explain {name}`"
            )),
        },
    };
    pulsed.map(|peer| item(&peer.name)).collect()
}
