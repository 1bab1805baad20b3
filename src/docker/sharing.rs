//! Containers that live in another one's network namespace. A restart of its owner makes a new namespace, and leaves
//! them in one that leads nowhere until they are restarted themselves.

use std::collections::{BTreeMap, BTreeSet};

use bollard::models::{ContainerSummary, ContainerSummaryStateEnum as Listed};

use super::selector::SERVICE;
use super::{Container, Docker, Error};

/// `service:condition:restart`, separated by commas.
const DEPENDS_ON: &str = "com.docker.compose.depends_on";

/// Who shares a container's network, in the order in which they are to be restarted after it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sharers {
    /// Ids and names; those that others depend on come first.
    pub others: Vec<(String, String)>,
    /// This node's own container is one of them.
    pub this_node: bool,
}

impl Docker {
    /// Who runs in this container's network.
    ///
    /// # Errors
    /// If the engine does not say.
    pub async fn sharers(&self, of: &Container) -> Result<Sharers, Error> {
        let all = self.with_labels(Vec::new()).await?;
        Ok(sharers(all, of, super::own_id().as_deref()))
    }
}

struct Sharer {
    id: String,
    name: String,
    service: Option<String>,
    needs: BTreeSet<String>,
}

fn sharers(all: Vec<ContainerSummary>, of: &Container, own: Option<&str>) -> Sharers {
    let shares = |container: &ContainerSummary| {
        let mode = container.host_config.as_ref()?.network_mode.as_deref()?;
        let whose = mode.strip_prefix("container:")?;
        Some(!whose.is_empty() && (of.life.id.starts_with(whose) || of.name == whose))
    };
    // Paused ones and those that have ended are left alone: they join the new namespace at their next start.
    let up =
        |container: &ContainerSummary| matches!(container.state, Some(Listed::RUNNING | Listed::RESTARTING));
    let mut sharers: Vec<Sharer> = all
        .into_iter()
        .filter(|container| up(container) && shares(container).unwrap_or_default())
        .filter_map(Sharer::of)
        .collect();
    let this_node = sharers.iter().any(|sharer| Some(&*sharer.id) == own);
    sharers.retain(|sharer| Some(&*sharer.id) != own);
    sharers.sort_by(|a, b| a.name.cmp(&b.name));
    let others = in_order(sharers)
        .into_iter()
        .map(|sharer| (sharer.id, sharer.name));
    Sharers {
        others: others.collect(),
        this_node,
    }
}

/// Each after those that it needs. Who needs each other in a circle (compose forbids it) comes by name.
fn in_order(mut waiting: Vec<Sharer>) -> Vec<Sharer> {
    let mut ordered = Vec::new();
    while !waiting.is_empty() {
        let services: BTreeMap<&str, &Sharer> = waiting
            .iter()
            .filter_map(|sharer| Some((sharer.service.as_deref()?, sharer)))
            .collect();
        let ready = waiting
            .iter()
            .position(|sharer| !sharer.needs.iter().any(|needed| services.contains_key(&**needed)));
        ordered.push(waiting.remove(ready.unwrap_or(0)));
    }
    ordered
}

impl Sharer {
    fn of(container: ContainerSummary) -> Option<Self> {
        let mut labels = container.labels.unwrap_or_default();
        let needs = labels.get(DEPENDS_ON).map(String::as_str).unwrap_or_default();
        let service = |entry: &str| entry.split(':').next().unwrap_or_default().to_owned();
        let names = container.names.unwrap_or_default();
        Some(Self {
            id: container.id?,
            name: names.first()?.trim_start_matches('/').to_owned(),
            needs: needs
                .split(',')
                .map(service)
                .filter(|needed| !needed.is_empty())
                .collect(),
            service: labels.remove(SERVICE),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(name: &str, network: &str, state: &str, depends_on: &str) -> ContainerSummary {
        let json = format!(
            r#"{{"Id": "id-{name}", "Names": ["/{name}"], "State": "{state}",
                "HostConfig": {{"NetworkMode": "{network}"}},
                "Labels": {{"com.docker.compose.service": "{name}", "{DEPENDS_ON}": "{depends_on}"}}}}"#
        );
        serde_json::from_str(&json).unwrap()
    }

    fn app() -> Container {
        let json = r#"{"Id": "abcdef", "Name": "/app", "State": {"Status": "running"}}"#;
        Container::of(serde_json::from_str(json).unwrap()).unwrap()
    }

    fn names(sharers: &Sharers) -> Vec<&str> {
        sharers.others.iter().map(|(_, name)| &**name).collect()
    }

    #[test]
    fn who_shares_the_network_follows_in_the_order_of_its_needs() {
        let all = vec![
            listed(
                "a",
                "container:abcdef",
                "running",
                "c:service_started:true,app:service_healthy:false",
            ),
            listed("b", "container:app", "running", ""),
            listed("c", "container:abcdef", "running", "d:service_started:false"),
            listed(
                "d",
                "container:abc",
                "restarting",
                "elsewhere:service_started:false",
            ),
            listed("stopped", "container:abcdef", "exited", ""),
            listed("frozen", "container:abcdef", "paused", ""),
            listed("stranger", "bridge", "running", ""),
            listed("other", "container:fedcba", "running", ""),
            listed("odd", "container:", "running", ""),
        ];
        let found = sharers(all, &app(), None);
        assert_eq!(names(&found), ["b", "d", "c", "a"]);
        assert!(!found.this_node);
    }

    #[test]
    fn this_node_is_none_of_the_others() {
        let all = vec![
            listed("node", "container:abcdef", "running", ""),
            listed(
                "bridge",
                "container:abcdef",
                "running",
                "node:service_started:false",
            ),
        ];
        let found = sharers(all, &app(), Some("id-node"));
        assert_eq!(names(&found), ["bridge"]);
        assert!(found.this_node);
    }

    #[test]
    fn a_circle_of_needs_ends() {
        let all = vec![
            listed("x", "container:abcdef", "running", "y:service_started:false"),
            listed("y", "container:abcdef", "running", "x:service_started:false"),
            listed("z", "container:abcdef", "running", "z:service_started:false"),
        ];
        assert_eq!(names(&sharers(all, &app(), None)).len(), 3);
    }
}
