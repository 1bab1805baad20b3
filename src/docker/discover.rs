//! Containers that ask by their labels to be watched.

use std::collections::BTreeMap;

use super::selector::PROJECT;
use super::{Container, Docker, Error, State};

/// Where containers are looked for that ask to be watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discover {
    /// Nowhere.
    Off,
    /// In the compose project in which this node runs.
    Project,
    /// Everywhere on this engine.
    All,
}

/// The label of defib's own, and that of docker-autoheal.
pub const ENABLED: [&str; 2] = ["defib.enable", "autoheal"];

impl Docker {
    /// The containers that have one of [`ENABLED`] with the value `true`, by name. Never this node's own.
    ///
    /// # Errors
    /// If the engine does not say, or this node runs in no compose project of which it could look at the others.
    pub async fn labelled(&self, discover: Discover) -> Result<Vec<Container>, Error> {
        let project = match discover {
            Discover::Off => return Ok(Vec::new()),
            Discover::All => None,
            Discover::Project => Some(self.own_project().await?.ok_or_else(|| {
                let text = "this node runs in no compose project: set docker.discover = \"all\", or \"off\"";
                Error::Malformed(text.to_owned())
            })?),
        };
        let own = super::own_id();
        let mut found = BTreeMap::new();
        for label in ENABLED {
            let mut labels = vec![format!("{label}=true")];
            labels.extend(project.as_ref().map(|project| format!("{PROJECT}={project}")));
            for id in self
                .with_labels(labels)
                .await?
                .into_iter()
                .filter_map(|listed| listed.id)
            {
                match self.inspect(&id).await {
                    Ok(container) if Some(&container.life.id) == own.as_ref() => {}
                    Ok(container) if container.state == State::Removing => {}
                    Ok(container) => {
                        found.insert(container.name.clone(), container);
                    }
                    Err(error) if error.is_missing() => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(found.into_values().collect())
    }
}

impl Container {
    /// The compose project and service to which it belongs, if it does.
    pub fn service(&self) -> Option<(&str, &str)> {
        let label = |key: &str| self.labels.get(key).map(String::as_str);
        Some((label(PROJECT)?, label(super::selector::SERVICE)?))
    }
}
