//! What compose runs here, as far as a list tells.

use bollard::models::{ContainerSummary, ContainerSummaryStateEnum as State, PortSummary};

use super::selector::{ONE_OFF, PROJECT, SERVICE};
use super::{Docker, Error};

/// A container that compose made and that is up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Composed {
    /// Its whole id.
    pub id: String,
    /// Its project.
    pub project: String,
    /// Its service.
    pub service: String,
    /// What its image is called.
    pub image: String,
    /// Ports of the host, and its own behind them.
    pub published: Vec<(u16, u16)>,
    /// Id or name of the container whose network it lives in.
    pub network_of: Option<String>,
}

impl Docker {
    /// Everything that compose made and that is up, but for what it runs once.
    ///
    /// # Errors
    /// If the engine does not say.
    pub async fn composed(&self) -> Result<Vec<Composed>, Error> {
        let listed = self.with_labels(vec![SERVICE.to_owned()]).await?;
        Ok(listed.into_iter().filter_map(Composed::of).collect())
    }
}

impl Composed {
    fn of(listed: ContainerSummary) -> Option<Self> {
        let labels = listed.labels.unwrap_or_default();
        let up = matches!(
            listed.state,
            Some(State::RUNNING | State::PAUSED | State::RESTARTING)
        );
        if !up || labels.get(ONE_OFF).is_some_and(|value| value == "True") {
            return None;
        }
        let network = listed.host_config.and_then(|config| config.network_mode);
        Some(Self {
            id: listed.id?,
            project: labels.get(PROJECT)?.clone(),
            service: labels.get(SERVICE)?.clone(),
            image: listed.image.unwrap_or_default(),
            published: listed
                .ports
                .unwrap_or_default()
                .iter()
                .filter_map(published)
                .collect(),
            network_of: network.and_then(|mode| mode.strip_prefix("container:").map(str::to_owned)),
        })
    }
}

fn published(port: &PortSummary) -> Option<(u16, u16)> {
    Some((port.public_port?, port.private_port))
}
