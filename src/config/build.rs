//! Puts a configuration together: the node's own tables, the peers, and the rules between them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::dirs::Dirs;
use super::host::Host;
use super::layout::{Layout, laid_out};
use super::maintenance;
use super::peers::{Owner, Peer, Surroundings, peer};
use super::questions::Expectations;
use super::reader::{Bad, Read, Reader, all_of};
use super::report::Origin;
use super::schema::time;
use super::signing::Signing;
use super::values::is_name;
use super::{Config, LogFormat, LogSettings, Sources, fields, fleet, rules, suggest};
use crate::engine::event::{CheckId, PeerId};
use crate::engine::settings::{BreakerSettings, GroupBudget, PeerSettings, QuorumSettings, Settings, Source};
use crate::fleet::Group;
use crate::http_client::Target;
use crate::redis_client::{Address, Endpoint};
use crate::{audit, bus, checks, docker, http, leases, remedies, systemd};

/// What stands even if the rest is wrong: `--on-bad-config=observe` needs somewhere to say so.
pub(super) struct Base {
    pub(super) http: http::Settings,
    pub(super) log: LogSettings,
}

/// Peers of one node.
const MAX_PEERS: usize = 4096;

/// The bus as it was read.
pub(super) struct Bus {
    pub(super) backend: bus::Backend,
    settle: Duration,
    connect_timeout: Duration,
}

/// Listeners and logging; defaults where they are wrong.
pub(super) fn base(root: &Reader<'_>, dirs: &Dirs) -> (Base, Read<()>) {
    let (listen, http) = match root.open("http", &[&fields::HTTP]) {
        Ok(reader) => http(&reader, dirs),
        Err(bad) => (Err(bad), Err(bad)),
    };
    let log = root.open("log", &[&fields::LOG]).and_then(|reader| log(&reader));
    let good = http
        .as_ref()
        .map(drop)
        .and(log.as_ref().map(drop))
        .map_err(|bad| *bad);
    let base = Base {
        http: http.unwrap_or_else(|_| http::Settings {
            // A mistake beside it must not take the address away from whoever probes it.
            listen: listen.unwrap_or_else(|_| SocketAddr::from(([127, 0, 0, 1], 7337))),
            admin_socket: Some(dirs.runtime.join("admin.sock")),
            admin_listen: None,
            max_connections: 256,
            pushes: Vec::new(),
        }),
        log: log.unwrap_or(LogSettings {
            format: LogFormat::Auto,
            level: "info".to_owned(),
        }),
    };
    (base, good)
}

/// All of it.
pub(super) fn config(root: &Reader<'_>, sources: &Sources, dirs: &Dirs, base: &Base) -> Read<Config> {
    let group = root.text("group");
    let dry_run = root.bool("dry_run");
    let given = root.maybe_text("node");
    let bus = root.open("bus", &[&fields::BUS]).and_then(|reader| bus(&reader));
    let heartbeat = root
        .open("heartbeat", &[&fields::HEARTBEAT])
        .and_then(|reader| heartbeat(&reader));
    let group_budget = root
        .open("budget", &[&fields::GROUP_BUDGET])
        .and_then(|reader| group_budget(&reader));
    let breaker = root
        .open("breaker", &[&fields::BREAKER])
        .and_then(|reader| breaker(&reader));
    let quorum = root
        .open("quorum", &[&fields::QUORUM])
        .and_then(|reader| quorum(&reader, &heartbeat));
    let store = root
        .open("store", &[&fields::STORE])
        .and_then(|reader| reader.maybe_path("path"));
    let audit = root
        .open("audit", &[&fields::AUDIT])
        .and_then(|reader| audit(&reader));
    let deadline = root
        .open("shutdown", &[&fields::SHUTDOWN])
        .and_then(|reader| reader.time("deadline"));
    let docker = root
        .open("docker", &[&fields::DOCKER])
        .and_then(|reader| docker(&reader));
    let systemd = root
        .open("systemd", &[&fields::SYSTEMD])
        .and_then(|reader| systemd(&reader, &sources.env));
    let leases = root
        .open("leases", &[&fields::LEASES])
        .and_then(|reader| leases(&reader));
    let fleet = root
        .open("fleet", &[&fields::FLEET])
        .and_then(|reader| fleet::read(&reader));
    let blockers = fleet::blockers(root);
    let signing = root
        .open("signing", &[&fields::SIGNING])
        .and_then(|reader| Signing::read(&reader));
    let names: Vec<&str> = root.named("peer").into_iter().map(|(name, ..)| name).collect();
    let discovers = docker
        .as_ref()
        .is_ok_and(|docker| docker.discover != docker::Discover::Off);
    let notify = super::notify::targets(root, &names, discovers);
    let targets: Vec<&str> = root.named("notify").into_iter().map(|(name, ..)| name).collect();
    let captures = root
        .open("capture", &[&fields::CAPTURE])
        .and_then(|reader| captures(&reader, dirs));
    let no_captures = (PathBuf::new(), u64::MAX);
    let layout = Layout::of(sources.over.as_ref());
    let expectations = Expectations::read(root, &layout);
    let interval = heartbeat.as_ref().map_or(Duration::ZERO, |beats| beats.interval);
    let peers = peers(
        root,
        &Surroundings {
            interval,
            expectations: &expectations,
            targets: &targets,
            captures: captures.as_ref().unwrap_or(&no_captures),
            runtime: &dirs.runtime,
        },
    );
    let selected = selected(root, &peers, &sources.peers);
    let maintenance = maintenance::windows(root, discovers);

    let (
        group,
        bus,
        Beats {
            interval,
            channel,
            file,
        },
    ) = (group?, bus?, heartbeat?);
    let group_channel: Arc<str> = channel.unwrap_or_else(|| format!("defib:{group}")).into();
    let (quorum, ask) = quorum?;
    rules::channels(root, &peers, &group_channel);
    rules::listeners(root, &base.http, &bus.backend);
    rules::sockets(root, &peers);
    // A file that is wrong writes nothing.
    let may_write = sources.may_write && root.context.problems.is_empty();
    let node: Arc<str> = given?
        .unwrap_or_else(|| dirs.node(&sources.env, may_write))
        .into();
    let mut peers = served(peers?, &selected?);
    let (fleet, mut blockers) = (fleet?, blockers?);
    let ids = layout.peers(peers.iter().map(|peer| &*peer.settings.name));
    fleet::assign(root, &mut blockers, &ids, &mut peers);
    if let Ok(docker) = &docker {
        fleet::name(&fleet, &mut peers, docker, &Host::here(), &node);
    }
    let asked = fleet::group(
        root,
        &fleet,
        &bus.backend,
        &node,
        group_budget.as_ref().ok().copied(),
    );
    rules::nodes(root, &peers, &node, &bus.backend);
    let mut warnings = rules::warnings(
        root,
        &peers,
        &expectations,
        &base.http,
        &bus.backend,
        dry_run.unwrap_or_default(),
    );
    fleet::warnings(&fleet, asked, &peers, &mut warnings);

    let mut channels = vec![group_channel.clone()];
    for source in peers
        .iter()
        .flat_map(|peer| &peer.heard)
        .map(|heard| &heard.source)
    {
        if let Source::Channels(more) = source {
            channels.extend(more.iter().cloned());
        }
    }
    let mut seen = std::collections::BTreeSet::new();
    channels.retain(|channel| seen.insert(channel.clone()));

    let (own_channels, data_channels) = rules::named_channels(&peers);
    let numbered = Numbered::of(ids, peers, &expectations);
    let store = store?.unwrap_or_else(|| dirs.state.join("state.json"));
    let audit = match audit? {
        (Some(none), _) if none == "none" => None,
        (path, max_bytes) => Some(audit::Settings {
            path: path.map_or_else(|| store.with_extension("audit.jsonl"), PathBuf::from),
            max_bytes,
        }),
    };
    Ok(Config {
        variables: super::variables(sources, &root.context.secrets.borrow()),
        node: node.clone(),
        group: group.clone().into(),
        dry_run: dry_run?,
        bus: bus::Settings {
            backend: bus.backend,
            node: node.clone(),
            publish_channel: group_channel.clone(),
            channels,
            interval,
            connect_timeout: bus.connect_timeout,
        },
        checks: numbered.checks,
        docker: docker?,
        systemd: systemd?,
        remedies: numbered.remedies,
        http: http::Settings {
            pushes: numbered.pushes,
            ..base.http.clone()
        },
        fleet: crate::fleet::Settings {
            group: asked,
            blockers,
        },
        ask,
        leases: captures.and(leases)?,
        signing: signing?.map(|signing| signing.kept_beside(&store)),
        notify: notify?,
        heartbeat_file: file,
        store,
        audit,
        maintenance: maintenance?.into(),
        runtime_dir: dirs.runtime.clone(),
        log: base.log.clone(),
        shutdown_deadline: deadline?,
        own_channels,
        data_channels,
        warnings,
        engine: Settings {
            node,
            group: group.into(),
            boot: "".into(),
            dry_run: dry_run?,
            interval,
            bus_settle: bus.settle,
            group_channel,
            group_budget: group_budget?,
            fleet_asks: asked != Group::Alone,
            breaker: breaker?,
            quorum,
            expectations: numbered.expectations,
            peers: numbered.peers,
        },
    })
}

/// The public listener's address, and all of `[http]` if nothing in it is wrong.
fn http(reader: &Reader<'_>, dirs: &Dirs) -> (Read<SocketAddr>, Read<http::Settings>) {
    let listen = reader.address("listen");
    (listen, listeners(reader, dirs, listen))
}

fn listeners(reader: &Reader<'_>, dirs: &Dirs, listen: Read<SocketAddr>) -> Read<http::Settings> {
    let (socket, max) = (reader.maybe_text("admin_socket"), reader.int("max_connections"));
    let (admin, token) = (
        reader.maybe_address("admin_listen"),
        reader.maybe_secret("admin_token"),
    );
    let admin_socket = match socket? {
        None => Some(dirs.runtime.join("admin.sock")),
        Some(none) if none == "none" => None,
        Some(path) => Some(PathBuf::from(path)),
    };
    let (admin, token) = (admin?, token?);
    if let Some(address) = admin {
        loopback(reader, "admin_listen", address)?;
    }
    let admin_listen = match (admin, token) {
        (None, None) => None,
        (Some(address), Some(token)) => Some((address, token)),
        (Some(_), None) => {
            let message = "`admin_listen` lets everybody on this machine change something unless there is an `admin_token`";
            return Err(reader.wrong(
                &reader.at("admin_listen"),
                "admin_token",
                message,
                "add admin_token = { file = \"/run/secrets/defib\" }",
            ));
        }
        (None, Some(_)) => {
            let message = "`admin_token` is for `admin_listen`, which is not given";
            return Err(reader.wrong(
                &reader.key_at("admin_token"),
                "admin_token",
                message,
                "add admin_listen = \"127.0.0.1:7338\"",
            ));
        }
    };
    Ok(http::Settings {
        listen: listen?,
        admin_socket,
        admin_listen,
        max_connections: max?,
        pushes: Vec::new(),
    })
}

fn loopback(reader: &Reader<'_>, key: &str, address: SocketAddr) -> Read<()> {
    if address.ip().is_loopback() {
        return Ok(());
    }
    let message = format!("`{key}` must be a loopback address, and {} is none", address.ip());
    Err(reader.wrong(
        &reader.at(key),
        "loopback_only",
        message,
        format!("write \"127.0.0.1:{}\"", address.port()),
    ))
}

fn log(reader: &Reader<'_>) -> Read<LogSettings> {
    let (format, level) = (reader.text("format"), reader.text("level"));
    let format = match format?.as_str() {
        "human" => LogFormat::Human,
        "json" => LogFormat::Json,
        _ => LogFormat::Auto,
    };
    Ok(LogSettings {
        format,
        level: level?,
    })
}

/// The node's own heartbeats as they were read.
struct Beats {
    interval: Duration,
    channel: Option<String>,
    file: Option<PathBuf>,
}

fn heartbeat(reader: &Reader<'_>) -> Read<Beats> {
    let (interval, channel) = (reader.time("interval"), reader.maybe_text("channel"));
    let file = reader.maybe_path("file");
    Ok(Beats {
        interval: interval?,
        channel: channel?,
        file: file?,
    })
}

fn group_budget(reader: &Reader<'_>) -> Read<GroupBudget> {
    let (spacing, down_percent) = (reader.time("spacing"), reader.int("down_percent"));
    Ok(GroupBudget {
        spacing: spacing?,
        down_percent: down_percent?,
    })
}

fn breaker(reader: &Reader<'_>) -> Read<BreakerSettings> {
    let (window, min) = (reader.time("window"), reader.int("min"));
    let (percent, canary_after) = (reader.int("percent"), reader.time("canary_after"));
    Ok(BreakerSettings {
        window: window?,
        min: min?,
        percent: percent?,
        canary_after: canary_after?,
    })
}

/// The rule, and who is asked over HTTP.
fn quorum(reader: &Reader<'_>, beats: &Read<Beats>) -> Read<(QuorumSettings, Vec<Arc<str>>)> {
    let ask = addresses(reader, reader.texts("ask"));
    let (k, fast, lifetime) = (
        reader.int("k"),
        reader.bool("fast"),
        reader.maybe_time("lifetime"),
    );
    // An interval that is wrong was told.
    let interval = beats.as_ref().map_or(Duration::ZERO, |beats| beats.interval);
    let lifetime = lifetime?.unwrap_or(interval.saturating_mul(3));
    if lifetime < interval.saturating_mul(2) {
        let message = format!(
            "`lifetime` ({}) must be at least twice `heartbeat.interval` ({})",
            time(lifetime),
            time(interval)
        );
        let help = "votes come with heartbeats: one that is lost must not undo them";
        return Err(reader.wrong(&reader.at("lifetime"), "vote_lifetime", message, help));
    }
    let ask = ask?;
    let settings = QuorumSettings {
        k: k?,
        fast: fast?,
        lifetime,
        asks: !ask.is_empty(),
    };
    Ok((settings, ask))
}

fn addresses(reader: &Reader<'_>, ask: Read<Vec<String>>) -> Read<Vec<Arc<str>>> {
    let mut good = Ok(());
    let ask = ask?;
    for (place, address) in ask.iter().enumerate() {
        let wrong = match Target::parse(address) {
            Ok(target) if target.path == "/" => continue,
            Ok(_) => "a path or a query follows the host".to_owned(),
            Err(error) => error.to_string(),
        };
        let message = format!(
            "`ask` names the addresses of other nodes, and the one at place {} is none: {wrong}",
            place + 1
        );
        good = Err(reader.wrong(
            &reader.at("ask"),
            "vote_address",
            message,
            "as in ask = [\"http://node-b:7337\"]",
        ));
    }
    good.map(|()| ask.into_iter().map(Arc::from).collect())
}

fn bus(reader: &Reader<'_>) -> Read<Bus> {
    let (url, listen) = (reader.text("url"), reader.maybe_address("listen"));
    let (settle, connect_timeout) = (reader.time("settle"), reader.time("connect_timeout"));
    let (user, password) = (reader.maybe_text("user"), reader.maybe_secret("password"));
    let (ca, server_name) = (reader.maybe_path("ca"), reader.maybe_text("server_name"));
    let url = url?;
    let backend = if url == "embedded" {
        let only_redis = reader.first_set(&["user", "password", "ca", "server_name"]);
        if let Some(key) = only_redis {
            let message = format!("`{key}` is for a Redis server, and bus.url is embedded");
            reader.wrong(
                &reader.key_at(key),
                "redis_only",
                message,
                "as in url = \"redis://localhost\"",
            );
        }
        let listen = listen?;
        if let Some(address) = listen {
            loopback(reader, "listen", address)?;
        }
        bus::Backend::Embedded { listen }
    } else {
        let endpoint = Endpoint::parse(&url).map_err(|error| {
            let help = "takes embedded, redis://[user:password@]host[:port][/db], rediss://… or unix:///path";
            reader.wrong(&reader.at("url"), "value", format!("`url`: {error}"), help)
        })?;
        if reader.is_set("listen") {
            let message = "`listen` is for the embedded bus, and bus.url names a Redis server";
            reader.wrong(&reader.key_at("listen"), "embedded_only", message, "remove it");
        }
        let endpoint = credentials(reader, endpoint, user?, password?)?;
        bus::Backend::Redis(certificate(reader, endpoint, ca?, server_name?)?)
    };
    Ok(Bus {
        backend,
        settle: settle?,
        connect_timeout: connect_timeout?,
    })
}

/// Where captures lie, and how much they may be.
fn captures(reader: &Reader<'_>, dirs: &Dirs) -> Read<(PathBuf, u64)> {
    let (dir, most) = (reader.maybe_path("dir"), reader.maybe_size("max_total"));
    let dir = dir?.unwrap_or_else(|| dirs.state.join("captures"));
    Ok((dir, most?.ok_or(Bad)?))
}

fn leases(reader: &Reader<'_>) -> Read<leases::Settings> {
    let (prefixes, max_ttl, max) = (
        reader.texts("prefixes"),
        reader.time("max_ttl"),
        reader.int("max"),
    );
    Ok(leases::Settings {
        prefixes: prefixes?,
        max_ttl: max_ttl?,
        max: max?,
    })
}

/// Where, or `none`; and how much.
fn audit(reader: &Reader<'_>) -> Read<(Option<String>, u64)> {
    let (path, max_bytes) = (reader.maybe_text("path"), reader.maybe_size("max_bytes"));
    let path = path?;
    if let Some(path) = path
        .as_deref()
        .filter(|path| *path != "none" && !path.starts_with('/'))
    {
        let message = format!("`path`: {path} is relative to wherever the node is started");
        let help = "write it from / on, or \"none\"";
        return Err(reader.wrong(&reader.at("path"), "value", message, help));
    }
    Ok((path, max_bytes?.ok_or(Bad)?))
}

fn docker(reader: &Reader<'_>) -> Read<docker::Settings> {
    let (host, timeout) = (reader.text("host"), reader.time("timeout"));
    let (ca, cert, key) = (
        reader.maybe_path("ca"),
        reader.maybe_path("cert"),
        reader.maybe_path("key"),
    );
    let host = docker::Host::parse(&host?).map_err(|wrong| {
        let help = "as in unix:///var/run/docker.sock or tcp://docker:2376";
        reader.wrong(&reader.at("host"), "value", format!("`host`: {wrong}"), help)
    })?;
    let (ca, cert, key, timeout) = (ca?, cert?, key?, timeout?);
    let identity = match (cert, key) {
        (Some(cert), Some(key)) => Some(docker::Identity { cert, key }),
        (None, None) => None,
        _ => {
            let at = reader.key_at(if reader.is_set("cert") { "cert" } else { "key" });
            return Err(reader.wrong(&at, "tls_only", "`cert` and `key` go together", "give both"));
        }
    };
    let host = match (host, ca) {
        (docker::Host::Tcp { host, port }, Some(ca)) => docker::Host::Tls {
            host,
            port,
            ca,
            identity,
        },
        (host, None) if identity.is_none() => host,
        _ => {
            let key = reader.first_set(&["ca", "cert"]).unwrap_or("ca");
            let message = format!("`{key}` is for TLS, which is tcp:// with a `ca`");
            return Err(reader.wrong(&reader.key_at(key), "tls_only", message, "give host and ca"));
        }
    };
    let discover = match reader.text("discover")?.as_str() {
        "project" => docker::Discover::Project,
        "all" => docker::Discover::All,
        _ => docker::Discover::Off,
    };
    Ok(docker::Settings {
        host,
        timeout,
        discover,
    })
}

fn systemd(reader: &Reader<'_>, env: &BTreeMap<String, String>) -> Read<systemd::Settings> {
    let (system, user, timeout) = (
        reader.path("system_bus"),
        reader.maybe_path("user_bus"),
        reader.time("timeout"),
    );
    let session = || {
        let dir = env.get("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty())?;
        Some(PathBuf::from(dir).join("bus"))
    };
    Ok(systemd::Settings {
        system: system?,
        user: user?.or_else(session),
        timeout: timeout?,
    })
}

fn credentials(
    reader: &Reader<'_>,
    mut endpoint: Endpoint,
    user: Option<String>,
    password: Option<crate::secret::Secret>,
) -> Read<Endpoint> {
    for (key, twice) in [
        ("user", user.is_some() && endpoint.user.is_some()),
        ("password", password.is_some() && endpoint.password.is_some()),
    ] {
        if twice {
            let message = format!("`{key}` is given twice: here and in the URL");
            return Err(reader.wrong(&reader.key_at(key), "given_twice", message, "keep one"));
        }
    }
    endpoint.user = endpoint.user.or(user);
    endpoint.password = endpoint.password.or(password);
    Ok(endpoint)
}

fn certificate(
    reader: &Reader<'_>,
    mut endpoint: Endpoint,
    new_ca: Option<PathBuf>,
    name: Option<String>,
) -> Read<Endpoint> {
    match &mut endpoint.address {
        Address::Tls { server_name, ca, .. } => (*server_name, *ca) = (name, new_ca),
        Address::Tcp { .. } | Address::Unix(_) => {
            if let Some(key) = reader.first_set(&["ca", "server_name"]) {
                let message = format!("`{key}` is for TLS, and bus.url is no rediss:// URL");
                return Err(reader.wrong(
                    &reader.key_at(key),
                    "tls_only",
                    message,
                    "write rediss:// in bus.url",
                ));
            }
        }
    }
    Ok(endpoint)
}

/// Every peer of the file, also those that another node serves: their mistakes are mistakes.
fn peers(root: &Reader<'_>, around: &Surroundings<'_>) -> Read<Vec<Peer>> {
    let place = root.below("peer");
    let mut all = Vec::new();
    for (index, (name, origin, node)) in root.named("peer").into_iter().enumerate() {
        if index == MAX_PEERS {
            return Err(root.wrong(
                origin,
                "too_many",
                format!("a node has at most {MAX_PEERS} peers"),
                "use several nodes",
            ));
        }
        let named = if is_name(name) {
            Ok(())
        } else {
            let help = "a-z, 0-9, then also _ . -; at most 63: it stands in paths and labels";
            Err(root.wrong(origin, "name", format!("`{name}` is not a name for a peer"), help))
        };
        let read = place
            .child(name, origin, node, &[&fields::PEER])
            .and_then(|reader| peer(&reader, name, around));
        all.push(named.and(read));
    }
    all_of(all)
}

/// The names of `--peers`, all of them known.
fn selected(root: &Reader<'_>, peers: &Read<Vec<Peer>>, names: &[String]) -> Read<Vec<String>> {
    let known: Vec<&str> = root.named("peer").into_iter().map(|(name, ..)| name).collect();
    let mut good = peers.as_ref().map(drop).map_err(|bad| *bad);
    for name in names.iter().filter(|name| !known.contains(&name.as_str())) {
        let help = match suggest::closest(name, known.iter().copied()) {
            Some(near) => format!("did you mean {near}?"),
            None if known.is_empty() => "the configuration has no peers".to_owned(),
            None => format!(
                "there are: {}",
                known.iter().take(20).copied().collect::<Vec<_>>().join(", ")
            ),
        };
        good = Err(root.wrong(
            &Origin::Argument("--peers"),
            "unknown_peer",
            format!("there is no peer `{name}`"),
            help,
        ));
    }
    good.map(|()| names.to_vec())
}

fn served(peers: Vec<Peer>, names: &[String]) -> Vec<Peer> {
    let wanted = |peer: &Peer| names.is_empty() || names.iter().any(|name| **name == *peer.settings.name);
    peers.into_iter().filter(wanted).collect()
}

/// What the edges and the engine get, once each peer has its number.
struct Numbered {
    peers: Vec<PeerSettings>,
    expectations: Vec<Arc<str>>,
    checks: checks::Settings,
    pushes: Vec<http::Push>,
    remedies: remedies::Settings,
}

impl Numbered {
    fn of(ids: Vec<PeerId>, all: Vec<Peer>, expectations: &Expectations) -> Self {
        let mut laid = Vec::new();
        let mut out = Self {
            peers: Vec::new(),
            expectations: Vec::new(),
            checks: checks::Settings::default(),
            pushes: Vec::new(),
            remedies: BTreeMap::new(),
        };
        for (id, peer) in ids.into_iter().zip(all) {
            let check = |index| CheckId { peer: id, index };
            match peer.owner.zip(peer.process) {
                Some((Owner::Process(owner), (index, schedule))) => {
                    out.checks.owners.push((id, owner, Some(check(index)), schedule));
                }
                Some((Owner::Unit(unit), (index, schedule))) => {
                    out.checks.units.push((unit, check(index), schedule));
                }
                Some((Owner::Container(selector), (index, schedule))) => {
                    out.checks.containers.push((selector, check(index), schedule));
                }
                None => {}
            }
            let probes = peer
                .probes
                .into_iter()
                .map(|(index, probe, schedule)| (check(index), probe, schedule));
            out.checks.probes.extend(probes);
            let notifies = peer.notifies.into_iter();
            out.checks
                .notifies
                .extend(notifies.map(|(index, notify)| (check(index), notify)));
            let names = &peer.settings;
            out.pushes
                .extend(peer.pushes.into_iter().filter_map(|(index, push)| {
                    Some(http::Push {
                        check: check(index),
                        peer: names.name.clone(),
                        name: names.checks.get(usize::from(index))?.name.clone(),
                        run_within: push.run_within,
                    })
                }));
            let rungs = (0u16..).zip(peer.remedies);
            out.remedies
                .extend(rungs.filter_map(|(rung, remedy)| Some(((id, rung), remedy?))));
            laid.push((id.0 as usize, peer.settings));
        }
        out.peers = laid_out(laid.into_iter(), &PeerSettings::vacant());
        let numbered = || expectations.ids.iter().copied().zip(&expectations.all);
        let names = numbered().map(|(id, (name, ..))| (usize::from(id.0), Arc::from(name.as_str())));
        out.expectations = laid_out(names, &Arc::from(""));
        out.checks.expectations = numbered()
            .map(|(id, (_, when, schedule))| (id, when.clone(), *schedule))
            .collect();
        out
    }
}
