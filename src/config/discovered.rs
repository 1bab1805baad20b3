//! Peers made of labels: each label becomes a setting, as if `--set` had given it, so that the same rules hold for it.

use std::collections::BTreeSet;

use super::{Config, Report, Sources, load};
use crate::docker::Container;

/// The configuration of `sources` with a peer for each of these containers, and what was left out, in words. A
/// configured peer of the same name, or of the same container, stays as it is configured.
///
/// # Errors
/// If `sources` alone is wrong.
pub fn with_discovered(sources: &Sources, containers: &[Container]) -> Result<(Config, Vec<String>), Report> {
    let mut config = load(sources)?;
    let mut sources = sources.clone();
    let mut left_out = Vec::new();
    let mut names: BTreeSet<String> = config
        .engine_settings("".into())
        .peers()
        .map(|(_, peer)| peer.name.to_string())
        .collect();
    for container in containers {
        let watched = config
            .checks
            .containers
            .iter()
            .any(|(selector, ..)| selector.matches(container, None));
        if watched {
            continue;
        }
        let alone = container.service().is_some_and(|service| {
            let of_it = containers.iter().filter(|other| other.service() == Some(service));
            of_it.count() == 1
        });
        let made = settings(container, alone).and_then(|(name, settings)| {
            if names.contains(&name) {
                return Err(format!(
                    "there is a peer `{name}` already: give it a label defib.name"
                ));
            }
            let mut more = sources.clone();
            more.set.extend(settings);
            if !more.peers.is_empty() {
                more.peers.push(name.clone());
            }
            match load(&more) {
                Ok(loaded) => Ok((name, more, loaded)),
                Err(report) => Err(report.to_string().replace('\n', " ")),
            }
        });
        match made {
            Ok((name, more, loaded)) => {
                names.insert(name);
                (sources, config) = (more, loaded);
            }
            Err(why) => left_out.push(format!("container {} is not watched: {why}", container.name)),
        }
    }
    Ok((config, left_out))
}

/// The peer's name, and its settings. Labels say how it is watched, never what is run or which secrets are read:
/// whoever may label a container need not be whoever may configure this node.
fn settings(container: &Container, alone: bool) -> Result<(String, Vec<String>), String> {
    let label = |key: &str| match container.labels.get(key).map(String::as_str) {
        Some(value) if value.contains('$') || value.chars().any(char::is_control) => {
            Err(format!("its label {key} holds a `$` or a control character"))
        }
        value => Ok(value),
    };
    let enabled = label("defib.enable")? == Some("true");
    let name = match (label("defib.name")?, container.service()) {
        (Some(name), _) => name,
        (None, Some((_, service))) if alone => service,
        (None, _) => &container.name,
    };
    let fit = |c: char| {
        if c.is_ascii_alphanumeric() {
            c.to_ascii_lowercase()
        } else {
            '-'
        }
    };
    let name: String = name.chars().take(63).map(fit).collect();
    let mut set = Vec::new();
    let mut add = |key: &str, value: String| set.push(format!("peer.{name}.{key}={value}"));
    match container.service().filter(|_| alone) {
        // By service, so that a container that takes its place is the same peer.
        Some((project, service)) => add("owner.compose", format!("{:?}", format!("{project}/{service}"))),
        None => add("owner.container", format!("{:?}", container.name)),
    }
    if container.health != crate::docker::Health::NotChecked {
        add("checks.docker.fail_after", "\"1 of 1\"".to_owned());
    }
    if let Some(grace) = label("defib.grace")? {
        add("grace", format!("{grace:?}"));
    }
    if let Some(url) = label("defib.http")? {
        add("checks.http.url", format!("{url:?}"));
    }
    let stop = match (label("defib.stop_timeout")?, label("autoheal.stop.timeout")?) {
        (Some(time), _) => format!(", stop_timeout = {time:?}"),
        (None, Some(seconds)) => format!(", stop_timeout = {:?}", format!("{seconds}s")),
        (None, None) => String::new(),
    };
    // docker-autoheal restarts what is unhealthy, and leaves what has ended to others.
    let causes = if enabled { "" } else { ", for = [\"peer_stuck\"]" };
    add("remedies", format!("[{{ do = \"docker\"{stop}{causes} }}]"));
    Ok((name, set))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::docker::Life;
    use crate::docker::{Health, RestartPolicy, State};
    use crate::engine::cause::Cause;

    fn container(name: &str, labels: &[(&str, &str)]) -> Container {
        Container {
            life: Life {
                id: format!("id-{name}"),
                started_at: String::new(),
            },
            name: name.to_owned(),
            finished_at: String::new(),
            state: State::Running,
            pid: None,
            health: Health::Healthy,
            exit_code: 0,
            out_of_memory: false,
            policy: RestartPolicy::No,
            stop_timeout: None,
            stop_signal: None,
            network_of: None,
            labels: labels
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
        }
    }

    fn discovered(config: &str, containers: &[Container]) -> (Config, Vec<String>) {
        let sources = Sources {
            file: Some(("defib.toml".into(), config.to_owned())),
            ..Sources::default()
        };
        with_discovered(&sources, containers).unwrap_or_else(|report| panic!("{report}"))
    }

    #[test]
    fn labels_become_peers() {
        let (project, service) = ("com.docker.compose.project", "com.docker.compose.service");
        let found = [
            container(
                "stack_feed_1",
                &[
                    ("defib.enable", "true"),
                    (project, "stack"),
                    (service, "feed"),
                    ("defib.grace", "30s"),
                ],
            ),
            container(
                "Old.One",
                &[("autoheal", "true"), ("autoheal.stop.timeout", "20")],
            ),
        ];
        let (config, left_out) = discovered("", &found);
        assert_eq!(left_out, [""; 0]);
        let engine = config.engine_settings("b".into());
        let names: Vec<&str> = engine.peers.iter().map(|peer| &*peer.name).collect();
        assert_eq!(names, ["feed", "old-one"]);
        assert_eq!(engine.peers[0].grace.as_secs(), 30);
        let owners: Vec<String> = config
            .checks
            .containers
            .iter()
            .map(|(owner, ..)| owner.to_string())
            .collect();
        assert_eq!(
            owners,
            ["service feed of the compose project stack", "container Old.One"]
        );
        assert!(engine.peers[0].remedies[0].causes.is_empty());
        assert_eq!(
            engine.peers[1].remedies[0].causes,
            [Cause::PeerStuck],
            "as docker-autoheal"
        );
    }

    #[test]
    fn labels_cannot_say_what_is_run_nor_read_secrets_nor_break_the_node() {
        let enabled = ("defib.enable", "true");
        let (config, left_out) = discovered(
            "[peer.taken]\nowner = { container = \"a\" }",
            &[
                container("a", &[enabled]),
                container("b", &[enabled, ("defib.name", "taken")]),
                container("c", &[enabled, ("defib.http", "http://x/${HOME}")]),
                container("d", &[enabled, ("defib.grace", "soon")]),
                container("e", &[enabled, ("defib.stop_timeout", "1s\" }, { do = \"exec")]),
                container(
                    "f",
                    &[
                        enabled,
                        ("defib.remedies", "[{ do = \"exec\", command = [\"sh\"] }]"),
                    ],
                ),
            ],
        );
        assert_eq!(left_out.len(), 4, "{left_out:#?}");
        let names: Vec<_> = config
            .engine_settings("b".into())
            .peers
            .iter()
            .map(|peer| peer.name.to_string())
            .collect();
        assert_eq!(names, ["taken", "f"]);
        let exec = |remedy: &crate::remedies::Remedy| matches!(remedy, crate::remedies::Remedy::Exec { .. });
        assert!(!config.remedies.values().any(exec), "{:?}", config.remedies);
    }
}
