//! Which container is meant, and finding it.

use super::{Container, Docker, Error};
use bollard::models::ContainerSummaryStateEnum as Listed;

pub(super) const PROJECT: &str = "com.docker.compose.project";
pub(super) const SERVICE: &str = "com.docker.compose.service";
/// Docker shows so many letters of an id, and so many are taken for one.
const SHORT_ID: usize = 12;
pub(super) const ONE_OFF: &str = "com.docker.compose.oneoff";

/// Which container is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selector {
    /// By its name, its id, or the beginning of its id.
    Name(String),
    /// The only one with this label.
    Label {
        /// The label's name.
        key: String,
        /// Its value; `None`: any.
        value: Option<String>,
    },
    /// The only one of a compose service.
    Compose {
        /// The project; `None`: the one in which this node runs.
        project: Option<String>,
        /// The service.
        service: String,
    },
}

/// Not a way to name a container.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not {1}")]
pub struct SelectorError(String, &'static str);

/// What a selector leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::large_enum_variant, reason = "short-lived")]
pub enum Found {
    /// This container, and no other.
    One(Container),
    /// None, in words.
    Nothing(String),
    /// More than one, in words.
    Several(String),
}

impl Selector {
    /// By name or id.
    ///
    /// # Errors
    /// If no container can be called so.
    pub fn name(text: &str) -> Result<Self, SelectorError> {
        check_reference(text)?;
        Ok(Self::Name(text.to_owned()))
    }

    /// From `key=value` or `key`.
    ///
    /// # Errors
    /// If the key is empty, or something in it cannot be shown.
    pub fn label(text: &str) -> Result<Self, SelectorError> {
        let (key, value) = match text.split_once('=') {
            Some((key, value)) => (key, Some(value.to_owned())),
            None => (text, None),
        };
        if key.is_empty() || text.chars().any(char::is_control) {
            return Err(SelectorError(text.to_owned(), "a label: write key=value"));
        }
        Ok(Self::Label {
            key: key.to_owned(),
            value,
        })
    }

    /// From `project/service` or `service`.
    ///
    /// # Errors
    /// If one of them cannot be called so.
    pub fn compose(text: &str) -> Result<Self, SelectorError> {
        let (project, service) = match text.split_once('/') {
            Some((project, service)) => (Some(project), service),
            None => (None, text),
        };
        for part in project.into_iter().chain([service]) {
            check_reference(part).map_err(|_| {
                SelectorError(
                    text.to_owned(),
                    "a compose service: write service, or project/service",
                )
            })?;
        }
        Ok(Self::Compose {
            project: project.map(ToOwned::to_owned),
            service: service.to_owned(),
        })
    }

    /// True if this is such a container, as far as its own words tell. `own` is the node's own compose project.
    pub fn matches(&self, container: &Container, own: Option<&str>) -> bool {
        let label = |key: &str| container.labels.get(key).map(String::as_str);
        match self {
            // A short word in hex is somebody's name far sooner than the beginning of an id.
            Self::Name(name) => {
                container.name == *name || (name.len() >= SHORT_ID && container.life.id.starts_with(name))
            }
            Self::Label { key, value } => match value {
                None => label(key).is_some(),
                Some(value) => label(key) == Some(value),
            },
            Self::Compose { project, service } => {
                let project = project.as_deref().or(own);
                label(SERVICE) == Some(service) && project.is_some() && label(PROJECT) == project
            }
        }
    }

    /// The labels that such a container has; `None` if it goes by its name.
    pub(super) fn labels(&self, own: Option<&str>) -> Option<Vec<String>> {
        match self {
            Self::Name(_) => None,
            Self::Label { key, value: None } => Some(vec![key.clone()]),
            Self::Label {
                key,
                value: Some(value),
            } => Some(vec![format!("{key}={value}")]),
            Self::Compose { project, service } => {
                let project = project.as_deref().or(own).unwrap_or_default();
                Some(vec![
                    format!("{PROJECT}={project}"),
                    format!("{SERVICE}={service}"),
                ])
            }
        }
    }
}

impl std::fmt::Display for Selector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Name(name) => write!(f, "container {name}"),
            Self::Label { key, value: None } => write!(f, "container with label {key}"),
            Self::Label {
                key,
                value: Some(value),
            } => write!(f, "container with label {key}={value}"),
            Self::Compose {
                project: None,
                service,
            } => write!(f, "service {service} of this node's compose project"),
            Self::Compose {
                project: Some(project),
                service,
            } => write!(f, "service {service} of the compose project {project}"),
        }
    }
}

/// What a container's name or id may hold: it stands in the path of a request.
pub(super) fn check_reference(text: &str) -> Result<(), SelectorError> {
    let first = text.starts_with(|c: char| c.is_ascii_alphanumeric());
    let rest = text
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'));
    if first && rest && text.len() <= 255 {
        return Ok(());
    }
    let shown = text.chars().take(64).collect();
    Err(SelectorError(
        shown,
        "a name or id of a container: letters, digits, then also _ . -",
    ))
}

impl Docker {
    /// The container that is meant.
    ///
    /// # Errors
    /// If the engine does not say.
    pub async fn find(&self, selector: &Selector) -> Result<Found, Error> {
        let own = match selector {
            Selector::Compose { project: None, .. } => self.own_project().await?,
            _ => None,
        };
        if matches!(selector, Selector::Compose { project: None, .. }) && own.is_none() {
            return Err(Error::Malformed(
                "this node runs in no compose project, so write project/service".to_owned(),
            ));
        }
        let reference = match (selector, selector.labels(own.as_deref())) {
            (Selector::Name(name), _) => name.clone(),
            (_, None) => return Ok(Found::Nothing(format!("there is no {selector}"))),
            (_, Some(labels)) => match self.only_one(labels).await? {
                Ok(id) => id,
                Err(0) => return Ok(Found::Nothing(format!("there is no {selector}"))),
                Err(many) => {
                    let text = format!("{many} containers are each a {selector}: name the one that is meant");
                    return Ok(Found::Several(text));
                }
            },
        };
        match self.inspect(&reference).await {
            // Docker takes any beginning of an id for a name that is not there.
            Ok(container) if selector.matches(&container, own.as_deref()) => Ok(Found::One(container)),
            Ok(_) => Ok(Found::Nothing(format!("there is no {selector}"))),
            Err(error) if error.is_missing() => Ok(Found::Nothing(format!("there is no {selector}"))),
            Err(error) => Err(error),
        }
    }

    /// The container of that id, if it is there and `selector` still means it.
    ///
    /// # Errors
    /// If the engine does not say.
    pub async fn held(&self, selector: &Selector, id: &str) -> Result<Option<Container>, Error> {
        let own = match selector {
            Selector::Compose { project: None, .. } => self.own_project().await?,
            _ => None,
        };
        match self.inspect(id).await {
            Ok(container) => {
                Ok(Some(container).filter(|container| selector.matches(container, own.as_deref())))
            }
            Err(error) if error.is_missing() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The compose project in which this node runs, if it does. Asked for once: it cannot change.
    ///
    /// # Errors
    /// If the engine does not say.
    pub async fn own_project(&self) -> Result<Option<String>, Error> {
        let Some(id) = super::own_id() else {
            return Ok(None);
        };
        // No lock is held while it is asked: a watch asks twice at once, and pauses one asking while it waits for the other.
        if let Some(known) = self.0.own_project.get() {
            return Ok(known.clone());
        }
        let project = match self.inspect(&id).await {
            Ok(container) => container.labels.get(PROJECT).cloned(),
            Err(error) if error.is_missing() => None,
            Err(error) => return Err(error),
        };
        Ok(self.0.own_project.get_or_init(|| project).clone())
    }

    /// The id of the only container with these labels, else how many there are. Among several the only one that is
    /// up: an update makes the new one before it removes the old one.
    async fn only_one(&self, labels: Vec<String>) -> Result<Result<String, usize>, Error> {
        let mut all = self.with_labels(labels).await?;
        all.retain(|container| {
            let one_off = container.labels.as_ref().and_then(|labels| labels.get(ONE_OFF));
            one_off.is_none_or(|value| value != "True")
        });
        let up = |container: &&bollard::models::ContainerSummary| {
            matches!(
                container.state,
                Some(Listed::RUNNING | Listed::PAUSED | Listed::RESTARTING)
            )
        };
        let running: Vec<_> = all.iter().filter(up).collect();
        let only = match (all.as_slice(), running.as_slice()) {
            ([only], _) => only,
            (_, [only]) => only,
            _ => return Ok(Err(all.len())),
        };
        Ok(only.id.clone().ok_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_is_named_in_one_of_three_ways() {
        assert!(Selector::name("daq-telemetry_1.2").is_ok());
        for wrong in ["", "a/b", "../x", "-x", "a b", "a?all=1", "ü", &"a".repeat(256)] {
            assert!(Selector::name(wrong).is_err(), "{wrong}");
        }
        assert_eq!(
            Selector::label("app=feed=x").unwrap().to_string(),
            "container with label app=feed=x"
        );
        assert!(Selector::label("=x").is_err());
        assert!(Selector::label("a\nb").is_err());
        assert_eq!(
            Selector::compose("stack/feed"),
            Ok(Selector::Compose {
                project: Some("stack".to_owned()),
                service: "feed".to_owned()
            })
        );
        for wrong in ["", "/feed", "stack/", "a/b/c"] {
            assert!(Selector::compose(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_container_that_is_not_meant_does_not_match() {
        let json = r#"{"Id": "feed56789abcdef", "Name": "/stack_feed_1", "State": {"Status": "running"}, "Config": {"Labels":
            {"com.docker.compose.project": "stack", "com.docker.compose.service": "feed", "tier": "1"}}}"#;
        let container = Container::of(serde_json::from_str(json).unwrap()).unwrap();
        let is = |selector: Result<Selector, SelectorError>, own| selector.unwrap().matches(&container, own);
        assert!(is(Selector::name("stack_feed_1"), None));
        assert!(is(Selector::name("feed56789abc"), None));
        assert!(
            !is(Selector::name("feed"), None),
            "a name, and another container's"
        );
        assert!(!is(Selector::name("stack_feed"), None));
        assert!(is(Selector::label("tier"), None));
        assert!(is(Selector::label("tier=1"), None));
        assert!(!is(Selector::label("tier=2"), None));
        assert!(is(Selector::compose("stack/feed"), None));
        assert!(is(Selector::compose("feed"), Some("stack")));
        assert!(!is(Selector::compose("feed"), Some("other")));
        assert!(!is(Selector::compose("feed"), None));
    }
}
