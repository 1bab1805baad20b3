//! What the demo is played on: broker, proxy, processes, node.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::sync::broadcast::{self, error::RecvError, error::TryRecvError};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::children::{self, Role};
use super::timeline::Timeline;
use crate::app::{App, Running};
use crate::bus::embedded::{Broker, Limits, Listener};
use crate::cli::fault_proxy::FaultProxy;
use crate::config::{self, Sources};
use crate::engine::decision::Notice;
use crate::engine::peer::Liveness;
use crate::engine::persist::{Persisted, VERSION};
use crate::engine::self_trust::BusState;
use crate::engine::snapshot::Snapshot;
use crate::redis_client::{Address, Endpoint};
use crate::runtime::clock;
use crate::store::{Record, Store};
use crate::telemetry::metrics::Metrics;

/// How long any step may take before the demo says that it did not happen.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// Everything that runs.
pub(super) struct Stage {
    pub(super) dir: PathBuf,
    pub(super) proxy: FaultProxy,
    pub(super) timeline: Timeline,
    node: Running,
    notices: broadcast::Receiver<Arc<Notice>>,
    _broker: Option<AbortOnDropHandle<()>>,
}

impl Stage {
    /// Brings everything up and waits until the node trusts its bus and sees both peers alive.
    pub(super) async fn set(redis: Option<&str>) -> anyhow::Result<Self> {
        let dir = std::env::temp_dir().join(format!("defib-demo-{}", std::process::id()));
        fs::create_dir(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let set = Self::set_in(dir.clone(), redis).await;
        if set.is_err() {
            clear(&dir);
        }
        set
    }

    async fn set_in(dir: PathBuf, redis: Option<&str>) -> anyhow::Result<Self> {
        let (upstream, login, broker) = if let Some(url) = redis {
            let (upstream, login) = upstream(url).await?;
            println!("The bus: the Redis at {upstream}.");
            (upstream, login, None)
        } else {
            let (upstream, task) = embedded().await?;
            println!("The bus: a broker inside this process, at {upstream}.");
            (upstream, String::new(), Some(task))
        };
        let proxy = FaultProxy::start(upstream)?;
        println!(
            "Everybody reaches it through a proxy at {}, which fails on request.",
            proxy.address()
        );
        let url = format!("redis://{login}{}", proxy.address());
        fs::write(dir.join("url"), &url)?;
        fs::write(dir.join("demo.pid"), std::process::id().to_string())?;

        let text = configuration(&dir)?;
        println!(
            "\nThe node's configuration (times are short so that you need not wait; see the defaults in"
        );
        println!("config/defib.toml):\n");
        for line in text.lines() {
            println!("    {line}");
        }
        seem_experienced(&dir)?;
        for role in [Role::Publisher, Role::Subscriber] {
            children::start(&dir, role)?;
        }
        let sources = Sources {
            file: Some((dir.join("defib.toml"), text)),
            env: [("DEMO_BUS".to_owned(), url)].into(),
            ..Sources::default()
        };
        let config = config::load(&sources).map_err(|report| anyhow::anyhow!("{report}"))?;
        let node = App::start(config).await?;
        let notices = node.notices();
        let timeline = Timeline::start();
        let mut stage = Self {
            dir,
            proxy,
            timeline,
            node,
            notices,
            _broker: broker,
        };
        stage.settled().await?;
        Ok(stage)
    }

    /// Where to look, for whoever wants to.
    pub(super) fn invite(&self) {
        let http = self.node.http_addr();
        println!("\nStill running. Look at http://{http}/, /metrics, /readyz?verbose, or");
        println!("    defib status --url http://{http}");
        println!("    defib explain subscriber --url http://{http}");
        println!("Ctrl-C ends it.");
    }

    /// Takes everything down again.
    pub(super) async fn strike(mut self) {
        self.node.shutdown();
        let _ = tokio::time::timeout(PATIENCE, self.node.wait()).await;
        clear(&self.dir);
    }

    /// A fault is made now: times count from here, and what was told before it is no part of its story.
    pub(super) fn fault(&mut self, number: usize, title: &str, words: &str) {
        while !matches!(
            self.notices.try_recv(),
            Err(TryRecvError::Empty | TryRecvError::Closed)
        ) {}
        self.timeline.fault(number, title, words);
    }

    /// The next notice; shown as it comes.
    pub(super) async fn notice(&mut self) -> anyhow::Result<Arc<Notice>> {
        loop {
            match self.notices.recv().await {
                Ok(notice) => {
                    self.timeline.show(&notice);
                    return Ok(notice);
                }
                Err(RecvError::Lagged(missed)) => println!("           ({missed} notices were missed)"),
                Err(RecvError::Closed) => bail!("the node has ended"),
            }
        }
    }

    /// Waits until the bus is trusted, nothing settles and everybody is alive.
    pub(super) async fn settled(&mut self) -> anyhow::Result<()> {
        let mut view = self.node.view();
        let calm = view.wait_for(|view| view.snapshot().is_some_and(|snapshot| is_calm(snapshot)));
        tokio::time::timeout(PATIENCE, calm)
            .await
            .context("the node did not come to trust its bus and its peers in time")??;
        Ok(())
    }
}

fn is_calm(snapshot: &Snapshot) -> bool {
    snapshot.trust.bus == BusState::Trusted
        && snapshot.trust.settling_until.is_none()
        && snapshot
            .peers
            .iter()
            .all(|peer| peer.liveness == Liveness::Alive && peer.episode.is_none())
}

async fn embedded() -> anyhow::Result<(SocketAddr, AbortOnDropHandle<()>)> {
    let listener = Listener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
    let address = listener.local_addr();
    let broker = Broker::new(Limits::default(), Metrics::new()?.broker);
    let task = tokio::spawn(async move {
        if let Err(error) = listener.run(broker, CancellationToken::new()).await {
            eprintln!("defib demo: the broker failed: {error:#}");
        }
    });
    Ok((address, AbortOnDropHandle::new(task)))
}

/// Address and login part of a Redis URL. The proxy speaks plain TCP.
async fn upstream(url: &str) -> anyhow::Result<(SocketAddr, String)> {
    let endpoint = Endpoint::parse(url)?;
    let Address::Tcp { host, port } = &endpoint.address else {
        bail!("the demo's proxy needs a plain redis://host:port (no rediss://, no unix://)");
    };
    let address = tokio::net::lookup_host((host.as_str(), *port))
        .await
        .with_context(|| format!("cannot resolve {host}"))?
        .next()
        .with_context(|| format!("{host} has no address"))?;
    let login = url
        .split_once("://")
        .and_then(|(_, rest)| rest.rsplit_once('@'))
        .map_or_else(String::new, |(login, _)| format!("{login}@"));
    Ok((address, login))
}

fn configuration(dir: &Path) -> anyhow::Result<String> {
    let exe = std::env::current_exe()?;
    let (heartbeats, _) = children::channels(dir);
    let group = dir
        .file_name()
        .map_or_else(|| "demo".into(), |name| name.to_string_lossy());
    let quoted = |path: &Path| format!("{:?}", path.display().to_string());
    let restart = |role: &str| {
        format!(
            "[{}, \"demo\", \"--role\", \"restart-{role}\", \"--dir\", {}]",
            quoted(&exe),
            quoted(dir)
        )
    };
    let (publisher, subscriber) = (restart("publisher"), restart("subscriber"));
    let pid = |role: Role| quoted(&children::pid_file(dir, role));
    Ok(format!(
        r#"node = "demo"
group = "{group}"

[bus]
url = "${{DEMO_BUS}}"
settle = "3s"                       # default 60 s

[heartbeat]
interval = "500ms"                  # default 1 s

[budget]
spacing = "1s"                      # default 10 s

[fleet]
lease = "none"                      # this node is the only one

[http]
listen = "127.0.0.1:0"
admin_socket = {admin}

[store]
path = {store}

[peer.publisher]
owner = {{ pid_file = {pid_publisher} }}
grace = "2s"
checks.heartbeat = {{ channel = "{heartbeats}", suspect_after = "1s", dead_after = "2s" }}
remedies = [{{ do = "exec", command = {publisher}, verify_within = "10s" }}]
backoff = {{ initial = "1s" }}        # default 10 s

[peer.subscriber]                   # no heartbeat, no health endpoint: the kernel's word is enough
owner = {{ pid_file = {pid_subscriber} }}
grace = "2s"
checks.process = {{ interval = "500ms", fail_after = "2 of 2" }}
remedies = [{{ do = "exec", command = {subscriber}, verify_within = "10s" }}]
backoff = {{ initial = "1s" }}
"#,
        admin = quoted(&dir.join("admin.sock")),
        store = quoted(&dir.join("state.json")),
        pid_publisher = pid(Role::Publisher),
        pid_subscriber = pid(Role::Subscriber),
    ))
}

/// A node without a store grants each peer one restart in its first ten minutes. The demo needs two, so it has
/// a store as a node has that ran before.
fn seem_experienced(dir: &Path) -> anyhow::Result<()> {
    let now = clock::stamp(clock::boot_id());
    let (mut store, _) = Store::open(&dir.join("state.json"), &now)?;
    let state = Persisted {
        version: VERSION,
        ..Persisted::default()
    };
    store.write(&Record { written: now, state })?;
    Ok(())
}

fn clear(dir: &Path) {
    for role in [Role::Publisher, Role::Subscriber] {
        if let Some(pid) = children::pid(dir, role) {
            let _ = children::end(pid);
        }
    }
    let _ = fs::remove_dir_all(dir);
}
