//! What a node takes up at its start only. A configuration that changes it is refused by a node that runs, as a whole: one
//! that is applied in part is neither the file's nor anybody's.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::Path;

use super::dirs::Dirs;
use super::reader::{Context, Reader};
use super::report::{Origin, Problems};
use super::tree::Table;
use super::{Config, LogSettings, Sources, build, fields};
use crate::engine::settings::Settings;
use crate::{audit, bus, docker, fleet, http, leases, notify, signing, systemd};

/// Tables of which nothing is taken up at the start only.
const TAKEN_UP: [&str; 7] = [
    "peer",
    "when",
    "maintenance",
    "blocker",
    "budget",
    "breaker",
    "capture",
];

/// What is taken up at the start only, of a configuration whose mistakes are elsewhere; the rest is nobody's.
pub(super) fn frame(sources: &Sources, tree: &Table, dirs: &Dirs) -> Option<Config> {
    let mut table = tree.clone();
    table.0.retain(|entry| !TAKEN_UP.contains(&entry.key.as_str()));
    let problems = Problems::of(None);
    let context = Context {
        problems: &problems,
        env: &sources.env,
        secrets: &RefCell::default(),
    };
    let root = Reader::root(&table, &fields::ROOT, context);
    let (base, base_is_good) = build::base(&root, dirs);
    let sources = Sources {
        peers: Vec::new(),
        may_write: false,
        over: None,
        ..sources.clone()
    };
    let config = build::config(&root, &sources, dirs, &base).ok()?;
    (base_is_good.is_ok() && problems.is_empty()).then_some(config)
}

/// Records each such change. Everything of [`Config`] is named here, so that what is added to it is thought of.
pub(super) fn needed(root: &Reader<'_>, new: &Config, old: &Config) {
    let Config {
        node,
        group,
        bus,
        docker,
        systemd,
        http,
        fleet,
        ask,
        leases,
        signing,
        notify,
        dry_run,
        heartbeat_file,
        store,
        audit,
        runtime_dir,
        log: LogSettings { format, level },
        shutdown_deadline,
        engine,
        // Taken up by a reload, or made of what is.
        checks: _,
        remedies: _,
        variables: _,
        own_channels: _,
        data_channels: _,
        maintenance: _,
        warnings: _,
    } = new;
    let bus::Settings {
        backend,
        publish_channel,
        interval,
        connect_timeout,
        node: _,
        channels: _,
    } = bus;
    let docker::Settings {
        host,
        timeout: docker_timeout,
        discover: _,
    } = docker;
    let systemd::Settings {
        system,
        user,
        timeout: systemd_timeout,
    } = systemd;
    let http::Settings {
        listen,
        admin_socket,
        admin_listen,
        max_connections,
        pushes: _,
    } = http;
    let fleet::Settings {
        group: asked,
        blockers: _,
    } = fleet;
    let leases::Settings {
        prefixes,
        max_ttl,
        max,
    } = leases;
    let Settings {
        node: _,
        group: _,
        boot: _,
        dry_run: _,
        interval: _,
        group_channel: _,
        bus_settle: _,
        group_budget: _,
        fleet_asks: _,
        breaker: _,
        quorum: _,
        expectations: _,
        peers: _,
    } = engine;
    let places = Places { root };
    places.top("node", *node == old.node);
    places.top("group", *group == old.group);
    places.of("bus", "url", *backend == old.bus.backend);
    places.of(
        "bus",
        "connect_timeout",
        *connect_timeout == old.bus.connect_timeout,
    );
    places.of(
        "heartbeat",
        "channel",
        *publish_channel == old.bus.publish_channel || *group != old.group,
    );
    places.of("heartbeat", "interval", *interval == old.bus.interval);
    places.of("heartbeat", "file", *heartbeat_file == old.heartbeat_file);
    places.of("docker", "host", *host == old.docker.host);
    places.of("docker", "timeout", *docker_timeout == old.docker.timeout);
    places.of("systemd", "system_bus", *system == old.systemd.system);
    places.of("systemd", "user_bus", *user == old.systemd.user);
    places.of("systemd", "timeout", *systemd_timeout == old.systemd.timeout);
    places.of("http", "listen", *listen == old.http.listen);
    places.of("http", "admin_socket", *admin_socket == old.http.admin_socket);
    places.of("http", "admin_listen", *admin_listen == old.http.admin_listen);
    places.of(
        "http",
        "max_connections",
        *max_connections == old.http.max_connections,
    );
    places.of("leases", "prefixes", *prefixes == old.leases.prefixes);
    places.of("leases", "max_ttl", *max_ttl == old.leases.max_ttl);
    places.of("leases", "max", *max == old.leases.max);
    places.fleet(*asked, old.fleet.group, *backend == old.bus.backend);
    places.of("quorum", "ask", *ask == old.ask);
    places.notify(notify, &old.notify);
    // Each message says whether it is one of a dry run.
    places.top("dry_run", notify.is_empty() || *dry_run == old.dry_run);
    places.signing(signing.as_ref(), old.signing.as_ref());
    places.of("store", "path", *store == old.store);
    places.of(
        "audit",
        "path",
        Kept::of(audit.as_ref(), store) == Kept::of(old.audit.as_ref(), &old.store),
    );
    places.of(
        "audit",
        "max_bytes",
        audit.as_ref().map(|kept| kept.max_bytes) == old.audit.as_ref().map(|kept| kept.max_bytes),
    );
    places.of("log", "format", *format == old.log.format);
    places.of("log", "level", *level == old.log.level);
    places.of(
        "shutdown",
        "deadline",
        *shutdown_deadline == old.shutdown_deadline,
    );
    if *runtime_dir != old.runtime_dir {
        places.wrong(&Origin::Nowhere, "the runtime directory");
    }
}

/// Where the audit is kept: none is, beside the store (which has its own say), or there.
#[derive(PartialEq)]
enum Kept<'p> {
    Nowhere,
    BesideTheStore,
    At(&'p Path),
}

impl<'p> Kept<'p> {
    fn of(audit: Option<&'p audit::Settings>, store: &Path) -> Self {
        match audit.map(|audit| audit.path.as_path()) {
            None => Self::Nowhere,
            Some(path) if path == store.with_extension("audit.jsonl") => Self::BesideTheStore,
            Some(path) => Self::At(path),
        }
    }
}

struct Places<'r, 'a> {
    root: &'r Reader<'a>,
}

impl Places<'_, '_> {
    fn top(&self, key: &str, same: bool) {
        if !same {
            self.wrong(&self.root.at(key), &format!("`{key}`"));
        }
    }

    fn of(&self, table: &str, key: &str, same: bool) {
        if !same {
            self.wrong(&self.root.place(table, key), &format!("`{table}.{key}`"));
        }
    }

    /// Whoever asks for leave asks by one way for as long as it runs: one that asked nobody would go on granting itself
    /// leave beside others that ask.
    fn fleet(&self, new: fleet::Group, old: fleet::Group, same_bus: bool) {
        use fleet::Group::{Alone, Redis, Slots};
        match (new, old) {
            (Slots(new), Slots(old)) => {
                self.of("fleet", "size", new.size == old.size);
                self.of("fleet", "turn", new.turn == old.turn);
            }
            (Slots(_), Alone) | (Alone, Slots(_)) => self.of("fleet", "size", false),
            // With another bus it follows from that, which has its own say.
            (Redis, Alone) | (Alone, Redis) => self.of("fleet", "lease", !same_bus),
            (Redis, Slots(_) | Redis) | (Slots(_), Redis) | (Alone, Alone) => {}
        }
    }

    fn notify(&self, new: &[notify::Target], old: &[notify::Target]) {
        let all = new.iter().chain(old).map(|target| &target.name);
        let of = |targets: &[notify::Target], name: &str| {
            targets.iter().find(|target| *target.name == *name).cloned()
        };
        for name in all.collect::<BTreeSet<_>>() {
            self.of("notify", name, of(new, name) == of(old, name));
        }
    }

    fn signing(&self, new: Option<&signing::Settings>, old: Option<&signing::Settings>) {
        let parts = |of: &signing::Settings| {
            let signing::Settings {
                source,
                window,
                require,
                // Follows from the store.
                heard: _,
            } = of.clone();
            (source, window, require)
        };
        match (new.map(parts), old.map(parts)) {
            (None, None) => {}
            (Some(new), Some(old)) => {
                let key = if matches!(new.0, signing::Source::Shared(_)) {
                    "shared"
                } else {
                    "key"
                };
                self.of("signing", key, new.0 == old.0);
                self.of("signing", "window", new.1 == old.1);
                self.of("signing", "require", new.2 == old.2);
            }
            (Some(_), None) | (None, Some(_)) => self.top("signing", false),
        }
    }

    fn wrong(&self, origin: &Origin, what: &str) {
        let message =
            format!("{what} is taken up at the start only, and is another than this node started with");
        let help = "restart the node to apply it, or set it back to apply the rest";
        self.root.wrong(origin, "needs_restart", message, help);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::sync::Arc;

    use super::super::{Over, load};
    use super::*;

    fn sources(text: &str) -> Sources {
        Sources {
            file: Some(("defib.toml".into(), format!("node = \"a\"\n{text}"))),
            env: BTreeMap::from([("HOME".to_owned(), "/home/test".to_owned())]),
            ..Sources::default()
        }
    }

    /// What a node that runs by the one text says of the other.
    fn refusal(old: &str, new: &str) -> String {
        let config = load(&sources(old)).unwrap_or_else(|report| panic!("{report}"));
        let over = Over {
            config: Arc::new(config),
            resting: BTreeSet::new(),
        };
        let sources = Sources {
            over: Some(over),
            ..sources(new)
        };
        load(&sources).map_or_else(|report| report.to_string(), |_| String::new())
    }

    #[test]
    fn who_is_asked_for_leave_is_not_changed_while_a_node_runs() {
        let redis = "[bus]\nurl = \"redis://r\"\n";
        let alone = format!("{redis}[fleet]\nlease = \"none\"\n");
        for (old, new) in [(redis, alone.as_str()), (&alone, redis)] {
            let said = refusal(old, new);
            assert!(
                said.contains("`fleet.lease` is taken up at the start only"),
                "{said}"
            );
            assert!(said.contains("restart the node to apply it"), "{said}");
        }
        let slots = |size: u8| format!("[bus]\nurl = \"embedded\"\n[fleet]\nsize = {size}\n");
        for (old, new) in [
            (slots(2), slots(3)),
            (slots(2), "[bus]\nurl = \"embedded\"\n".to_owned()),
        ] {
            let said = refusal(&old, &new);
            assert!(
                said.contains("`fleet.size` is taken up at the start only"),
                "{said}"
            );
        }
        // Another bus is the reason then, and is named alone.
        let said = refusal(redis, "[bus]\nurl = \"embedded\"\n");
        assert!(said.contains("`bus.url`") && !said.contains("fleet"), "{said}");
    }

    #[test]
    fn what_takes_a_restart_is_told_beside_every_other_mistake() {
        let good = "[http]\nlisten = \"127.0.0.1:7000\"\n[peer.one.checks.push]\n";
        let said = refusal(
            good,
            "[http]\nlisten = \"127.0.0.1:7001\"\n[peer.one.checks.push]\nno = 1\n[budget]\nspacing = \"soon\"\n",
        );
        for part in ["`http.listen` is taken up", "`no`", "`spacing`", "3 mistakes"] {
            assert!(said.contains(part), "{part} is not in {said}");
        }
        let asks = "quorum = { k = 3, ask = [\"http://node-b:7337\"] }\n";
        let said = refusal("quorum = { k = 2 }\n", asks);
        assert!(
            said.contains("`quorum.ask` is taken up at the start only"),
            "{said}"
        );
        assert_eq!(refusal(asks, &asks.replace("k = 3", "k = 2")), "");
        // What could not be read may have said anything.
        let said = refusal(good, "[http]\nlisten = \n[peer.one.checks.push]\n");
        assert!(!said.contains("is taken up"), "{said}");
        assert_eq!(refusal(good, &format!("{good}suspect_after = \"5s\"\n")), "");
    }
}
